"""``sellable openapi``: what one plan sells, as a document for its buyers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marketplace_constructs.cli.group import common_options
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.finding import FindingType

if TYPE_CHECKING:
    from marketplace_constructs.policy.documents import Plan
    from marketplace_constructs.policy.pool import Pool


@click.command("openapi")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option("--plan", "name", required=True, metavar="ID", help="A plan, or one version of it: retail@2.")
@click.option(
    "--routes",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The API: OpenAPI, whose descriptions are kept, or a synthesized template.",
)
@click.option("--api", metavar="ID", help="Which API, where a template has several.")
@click.option("--stage", default="prod", show_default=True, metavar="NAME", help="For the key api:Stage.")
@click.option("--free-route", "free_routes", multiple=True, metavar="ROUTE", help="Needs no key: 'GET /v1/health'.")
@common_options
def command(
    *, directory: Path, name: str, routes: Path, api: str | None, stage: str, free_routes: tuple[str, ...], output: str
) -> int:
    """Write what one plan sells as an OpenAPI document.

    Routes that the plan refuses are left out. x-monetization says of each other
    what a call counts, by which statement, and what a unit costs.
    """
    from marketplace_constructs.policy.evaluation import expand
    from marketplace_constructs.policy.lint import lint, load_pool
    from marketplace_constructs.policy.openapi_export import openapi_of_plan
    from marketplace_constructs.policy.routes import read_routes

    pool, now = load_pool(directory), datetime.now(UTC)
    known = read_routes(routes, api=api)
    findings = lint(pool, routes=known, stage=stage, now=now).findings
    errors = [finding for finding in findings if finding.finding_type is FindingType.ERROR]
    if errors:
        codes = ", ".join(sorted({found.issue_code for found in errors}))
        raise MarketplaceConstructsError(
            Problem(
                "MP-CLI-40",
                f"documents of {directory}, got the errors {codes}; expected none; see them with sellable lint",
            )
        )
    plan = _plan(pool, name)
    for route in free_routes:
        if route not in map(str, known):
            raise click.BadParameter(
                f"{route!r} is no route of {routes}; expected one, such as 'GET /v1/health'", param_hint="--free-route"
            )
    document = openapi_of_plan(
        pool,
        plan,
        expand(pool, plan, known, stage=stage),
        at=now,
        document=_document(routes),
        free_routes=free_routes,
    )
    if output == "json":
        document = {"schema_version": 1, "plan": plan.reference, "document": document}
    click.echo(json.dumps(document, indent=None if output == "json" else 2, default=str))
    return 0


def _plan(pool: Pool, name: str) -> Plan:
    plans = [entry.document for entry in pool.plans.values() if name in {entry.document.id, entry.document.reference}]
    if not plans:
        names = ", ".join(sorted(pool.plans))
        raise click.BadParameter(f"got {name!r}; expected one of {names}, or its id alone", param_hint="--plan")
    return max(plans, key=lambda plan: plan.plan_version)


def _document(file: Path) -> dict[str, Any] | None:
    """The file's content where it is an OpenAPI document."""
    import yaml

    text = file.read_text(encoding="utf-8")
    content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    return content if isinstance(content, dict) and "openapi" in content else None
