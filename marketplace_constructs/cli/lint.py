"""``sellable lint``: what is wrong, or doubtful, in the documents of a pool."""

from __future__ import annotations

import json
import shutil
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from marketplace_constructs.cli.group import common_options
from marketplace_constructs.domain.finding import Finding, FindingType

if TYPE_CHECKING:
    from marketplace_constructs.policy.lint import LintReport
    from marketplace_constructs.policy.rules import Rule

_SCHEMA_VERSION: Final = 1
_COLOURS: Final = {
    FindingType.ERROR: "red",
    FindingType.SECURITY_WARNING: "magenta",
    FindingType.REVENUE_WARNING: "yellow",
}


@click.command("lint")
@click.argument("directory", metavar="DIR", required=False, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--routes",
    "routes_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The API: an OpenAPI file, or a synthesized template.",
)
@click.option("--api", metavar="ID", help="The RestApi's logical id, where a template has several.")
@click.option("--stage", default="prod", show_default=True, help="The stage's name, for the key api:Stage.")
@click.option(
    "--fail-on",
    type=click.Choice([kind.value for kind in FindingType], case_sensitive=False),
    default=FindingType.ERROR.value,
    show_default=True,
    help="Exit with 1 from this type of finding on; security and revenue weigh the same.",
)
@click.option(
    "--publish", "is_publishing", is_flag=True, help="Without errors, record the versions: they may not change again."
)
@click.option("--explain", metavar="CODE", help="Tell all about a rule, such as MON105.")
@common_options
def command(
    *,
    directory: str | None,
    routes_file: str | None,
    api: str | None,
    stage: str,
    fail_on: str,
    is_publishing: bool,
    explain: str | None,
    output: str,
) -> int:
    """Find what is wrong in product, policies, plans and prices.

    DIR holds product.yaml, policies/, plans/ and prices/. Without --routes,
    the rules that need the API's routes are not checked, and named.
    """
    from marketplace_constructs.policy.lint import lint, load_pool, publish
    from marketplace_constructs.policy.routes import read_routes
    from marketplace_constructs.policy.rules import CATALOGUE

    if explain is not None:
        rule = CATALOGUE.get(explain.upper())
        if rule is None:
            raise click.BadParameter(f"{explain!r} is no rule; expected MON101 to {max(CATALOGUE)}", param_hint="CODE")
        click.echo(json.dumps(_rule_to_json(rule)) if output == "json" else _explained(rule))
        return 0
    if directory is None:
        raise click.UsageError("Missing argument 'DIR'.")
    if api is not None and routes_file is None:
        raise click.UsageError("--api says which API of --routes FILE.")
    if is_publishing and routes_file is None:
        raise click.UsageError("--publish needs --routes FILE: without routes, nothing tells whether statements tie.")
    pool = load_pool(Path(directory))
    routes = None if routes_file is None else read_routes(Path(routes_file), api=api)
    report = lint(pool, routes=routes, stage=stage, now=datetime.now(UTC))
    published = publish(pool, Path(directory)) if is_publishing and not report.has_errors else ()
    if output == "json":
        click.echo(json.dumps(_to_json(report, published)))
    else:
        _show(report)
        for name in published:
            click.echo(f"published: {name}")
        if is_publishing and report.has_errors:
            click.echo("published: nothing, because of the errors")
    return int(report.reaches(FindingType(fail_on)))


def _to_json(report: LintReport, published: tuple[str, ...]) -> dict[str, object]:
    return {
        "schema_version": _SCHEMA_VERSION,
        "findings": [finding.to_json() for finding in report.findings],
        "not_checked": [{"issueCode": code, "reason": reason} for code, reason in report.not_checked.items()],
        "tests_run": report.tests_run,
        "published": list(published),
    }


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, 40), 100)


def _show(report: LintReport) -> None:
    for finding in report.findings:
        _show_finding(finding)
    counts = {kind: sum(finding.finding_type is kind for finding in report.findings) for kind in FindingType}
    said = ", ".join(f"{count} {kind.value}" for kind, count in counts.items() if count) or "no findings"
    click.echo(_wrapped(f"{said}; {report.tests_run} tests run", ""))
    reasons: dict[str, list[str]] = {}
    for code, reason in report.not_checked.items():
        reasons.setdefault(reason, []).append(code)
    for reason, codes in reasons.items():
        click.echo(_wrapped(f"not checked, {reason}: {', '.join(codes)}", "  "))


def _show_finding(finding: Finding) -> None:
    first, *others = finding.locations
    head = f"{finding.document}:{first.line}:{first.column} {finding.issue_code} {finding.finding_type.value}"
    about = f" {finding.sid}:" if finding.sid else ""
    also = f" (see line {', '.join(str(other.line) for other in others)})" if others else ""
    lines = _wrapped(_printable(f"{head}{about} {finding.finding_details}{also}"), "  ")
    kind = finding.finding_type
    click.echo(lines.replace(kind.value, click.style(kind.value, fg=_COLOURS.get(kind, "cyan")), 1))
    click.echo(_wrapped(f"  help: {finding.resolution}", "    "))


def _printable(text: str) -> str:
    """A document, and its name, may hold what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _explained(rule: Rule) -> str:
    parts = [
        f"{rule.code} {rule.finding_type.value}: {rule.title}",
        _wrapped(rule.why, ""),
        *(
            f"{name}:\n\n{textwrap.indent(text, '    ').rstrip()}"
            for name, text in (("Bad", rule.bad), ("Good", rule.good))
            if text.strip()
        ),
        _wrapped(f"What to do: {rule.resolution}.", ""),
    ]
    return "\n\n".join(parts)


def _rule_to_json(rule: Rule) -> dict[str, object]:
    return {
        "schema_version": _SCHEMA_VERSION,
        "issueCode": rule.code,
        "findingType": rule.finding_type.value,
        "title": rule.title,
        "why": rule.why,
        "bad": rule.bad,
        "good": rule.good,
        "resolution": rule.resolution,
        "checkedBy": rule.checked_by.value,
    }
