"""``sellable schema``: the JSON Schema of a document, for editors."""

from __future__ import annotations

import json
from typing import Final

import click

from marketplace_constructs.cli.group import common_options

_KINDS: Final = ("Product", "Policy", "Plan", "PriceList")


@click.command("schema")
@click.argument("kind", type=click.Choice(_KINDS, case_sensitive=False))
@common_options
def command(*, kind: str, output: str) -> int:
    """Print the JSON Schema of a kind of document.

    Editors complete and check documents with it; what only the linter can
    see, they do not.
    """
    from marketplace_constructs.policy.schema import schema_of

    schema = schema_of(kind)
    # A schema is JSON either way; with --format json it stands in a member.
    content = {"schema_version": 1, "schema": schema} if output == "json" else schema
    click.echo(json.dumps(content, indent=2))
    return 0
