"""The group of commands, and what all of them have in common."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

_COMMANDS: Final = {
    "agreements": "agreements",
    "diff": "diff",
    "lint": "lint",
    "meter": "meter",
    "openapi": "openapi",
    "rehearse": "rehearse",
    "schema": "schema",
    "simulate": "simulate",
}
_Function = TypeVar("_Function", bound=Callable[..., Any])


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"marketplace_constructs.cli.{_COMMANDS[cmd_name]}").command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="marketplace-constructs", message="%(version)s")
def sellable() -> None:
    """Sell a REST API on API Gateway through AWS Marketplace.

    Every command exits with 0 where all is well, 1 with findings, 2 when it was
    called wrongly, and 3 when it could not check.
    """


def common_options(function: _Function) -> _Function:
    """``--format`` and ``--debug``."""
    function = click.option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="For people, or one JSON document with a schema_version.",
    )(function)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of what goes wrong.")(
        function
    )
