"""``sellable diff``: whose bill changes when the documents do."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from marketplace_constructs.domain.plan_table import Interval
    from marketplace_constructs.policy.charges import Box
    from marketplace_constructs.policy.comparison import Change, Comparison
    from marketplace_constructs.policy.diff import Difference
    from marketplace_constructs.policy.patterns import Route

_WIDTH: Final = 60
_ROUTES_SHOWN: Final = 4
_BOXES_SHOWN: Final = 8
_AGREEMENTS_SHOWN: Final = 20
_DIRECTORY: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("diff")
@click.argument("old", type=_DIRECTORY, metavar="OLD")
@click.argument("new", type=_DIRECTORY, metavar="NEW")
@click.option("--routes", type=_FILE, metavar="FILE", help="Routes of the API: OpenAPI, or a synthesized template.")
@click.option("--old-routes", type=_FILE, metavar="FILE", help="Routes as they are, where they change too.")
@click.option("--new-routes", type=_FILE, metavar="FILE", help="Routes as they shall be.")
@click.option("--api", metavar="ID", help="Which API, where a template has several.")
@click.option(
    "--log",
    "logs",
    multiple=True,
    metavar="FILE",
    help="Access log, plain or gzip: what it comes to under both, per agreement.",
)
@click.option("--stage", default="prod", show_default=True, metavar="NAME", help="For the key api:Stage.")
@click.option(
    "--allow",
    multiple=True,
    metavar="PLAN@V|PLAN:DIMENSION",
    help="An increase that is wanted: of a plan, or of one dimension of it; "
    "the product's id for what changes in product.yaml.",
)
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "markdown"]),
    default="text",
    show_default=True,
    help="For people, for programs (with a schema_version), or for a pull request.",
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of what goes wrong.")
def command(
    *,
    old: Path,
    new: Path,
    routes: Path | None,
    old_routes: Path | None,
    new_routes: Path | None,
    api: str | None,
    logs: tuple[str, ...],
    stage: str,
    allow: tuple[str, ...],
    output: str,
) -> int:
    """Check that no charge is new or higher.

    Compares two pools, plan by plan and route by route: what changes in
    access, in what is counted, in prices, limits and assignment, and for whom.
    Pinned agreements stay on their version of a plan; new ones get the newest.
    "One call" is one of 1 MB and one second, answered with 200.

    Exits with 1 where a charge is new or higher, or could be, and is not
    allowed; with 3 where the routes are not given or a pool has errors.
    """
    from marketplace_constructs.policy.diff import allowable, diff
    from marketplace_constructs.policy.lint import load_pool

    if routes and (old_routes or new_routes):
        raise click.UsageError("--routes stands for both; give either it, or --old-routes and --new-routes")
    before, after = load_pool(old), load_pool(new)
    left_out = {name for pool in (before, after) for name, plan in pool.plans.items() if plan.document.not_evaluated}
    if logs and left_out:
        click.echo(
            f"note: Allowances and Trial of {', '.join(sorted(left_out))} left out of what a log costs", err=True
        )
    events = {name for pool in (before, after) if pool.product for name in pool.product.document.events}
    if logs and events:
        click.echo(f"note: usage events {', '.join(sorted(events))} left out of what a log costs", err=True)
    difference = diff(
        before,
        after,
        old_routes=_read_routes(old_routes or routes, api),
        new_routes=_read_routes(new_routes or routes, api),
        stage=stage,
        allow=allow,
        log=logs,
        progress=_progress if logs and sys.stderr.isatty() else None,
    )
    for name in allow:
        if name not in allowable(before, after):
            raise click.BadParameter(
                f"{name!r} is in neither pool; name a plan (retail@2), a plan's dimension (retail:calls) "
                "or the product's id",
                param_hint="--allow",
            )
    if output == "json":
        click.echo(json.dumps(difference.to_json()))
    else:
        lines = _markdown(difference) if output == "markdown" else _text(difference)
        click.echo("\n".join(lines))
    if difference.not_checked:
        return 3
    return 1 if difference.has_charges else 0


def _read_routes(file: Path | None, api: str | None) -> tuple[Route, ...] | None:
    if file is None:
        return None
    from marketplace_constructs.policy.routes import read_routes

    return tuple(read_routes(file, api=api))


def _progress(read: float) -> None:
    click.echo(f"\rlog read: {read:4.0%}", err=True, nl=read >= 1)


def _text(difference: Difference) -> Iterator[str]:
    for document in difference.documents:
        yield from _wrapped(f"{document.change}: {document.name}")
    for comparison in difference.comparisons:
        yield ""
        yield from comparison_text(comparison)
    for finding in difference.findings:
        yield ""
        yield from _wrapped(f"{finding.issue_code} {finding.finding_details}; {finding.resolution}")
    if difference.documents or difference.comparisons or difference.findings:
        yield ""
    for what in difference.not_checked:
        yield from _wrapped(f"could not check {what}")
    yield from _wrapped(_verdict(difference))


def comparison_text(comparison: Comparison) -> Iterator[str]:
    """Lines that tell a person what changes from one plan to another."""
    yield from _wrapped(_heading(comparison))
    for change in comparison.changes:
        yield from _wrapped(_title(change), indent=2)
        for detail in _details(change):
            yield from _wrapped(detail, indent=6)
    for line in (*_calls(comparison), *_log(comparison)):
        yield from _wrapped(line, indent=2)


def _calls(comparison: Comparison) -> Iterator[str]:
    for call in comparison.calls:
        yield f"one call of {_shown(_routes(call.routes))}: {_usd(call.old_usd)} -> {_usd(call.new_usd)}"


def _markdown(difference: Difference) -> Iterator[str]:
    yield f"**{_verdict(difference)}**"
    for what in difference.not_checked:
        yield f"\n⚠️ could not check {what}"
    if difference.comparisons:
        yield "\n| plan | agreements | new or higher | possibly | lower | other |"
        yield "|---|---|--:|--:|--:|--:|"
    for comparison in difference.comparisons:
        counts = [
            sum(change.direction == direction for change in comparison.changes)
            for direction in ("dearer", "possibly dearer", "cheaper", "same")
        ]
        yield f"| {_code(_versions(comparison))} | {_code(_whom(comparison))} | {' | '.join(map(str, counts))} |"
    for comparison in difference.comparisons:
        yield from _markdown_details(comparison)
    if difference.findings:
        yield "\n<details><summary>findings</summary>\n"
        for finding in difference.findings:
            yield f"- **{finding.issue_code}** {_code(finding.finding_details)}"
        yield "\n</details>"
    if difference.documents:
        yield "\n<details><summary>documents</summary>\n"
        for document in difference.documents:
            yield f"- {document.change}: {_code(document.name)}"
        yield "\n</details>"


def _markdown_details(comparison: Comparison) -> Iterator[str]:
    yield f"\n<details><summary>{_html(_heading(comparison))}</summary>\n"
    for change in comparison.changes:
        yield f"- {_code(_title(change))}"
        for detail in _details(change):
            yield f"  - {_code(detail)}"
    for line in (*_calls(comparison), *_log(comparison)):
        yield f"- {_code(line)}"
    yield "\n</details>"


def _log(comparison: Comparison) -> Iterator[str]:
    if comparison.log is None:
        return
    yield f"the log's lines: {_usd(comparison.log.old_usd)} -> {_usd(comparison.log.new_usd)}"
    for charge in comparison.log.charges[:_AGREEMENTS_SHOWN]:
        change = "price not known" if charge.difference_usd is None else f"{charge.difference_usd.normalize():+f} USD"
        amounts = f"{float(charge.old_quantity):,.6g} -> {float(charge.new_quantity):,.6g}"
        yield _shown(f"{charge.agreement}, {charge.dimension}: {amounts}, {change}")
    more = len(comparison.log.charges) - _AGREEMENTS_SHOWN
    if more > 0:
        yield f"and {more} more, see --format json"


def _verdict(difference: Difference) -> str:
    changes = [change for comparison in difference.comparisons for change in comparison.changes]
    found = sum(change.is_finding for change in changes)
    allowed = sum(change.is_allowed for change in changes)
    told = f" ({allowed} allowed)" if allowed else ""
    if found:
        return f"{found} new or higher charge{'s' if found > 1 else ''}{told}"
    return "no answer" if difference.not_checked else f"no new or higher charge{told}"


def _heading(comparison: Comparison) -> str:
    segment = f", {comparison.segment}" if comparison.segment else ""
    return f"{_versions(comparison)}{segment}: {_whom(comparison)}"


def _versions(comparison: Comparison) -> str:
    if comparison.old == comparison.new:
        return _shown(comparison.new or "none")
    return f"{comparison.old or 'no plan'} -> {comparison.new or 'no plan'}"


def _whom(comparison: Comparison) -> str:
    text = f"{' and '.join(comparison.agreements)} agreements"
    return f"{text}, {', '.join(comparison.targets)}" if comparison.targets else text


def _title(change: Change) -> str:
    direction = "" if change.direction == "same" else f"{change.direction}: "
    allowed = "allowed, " if change.is_allowed else ""
    named = {
        "count": change.dimension,
        "event": f"{change.dimension} by event {change.subject}",
        "price": f"price of {change.dimension}",
        "terms": f"{change.subject} {change.dimension}".rstrip(),
    }
    what = named.get(change.kind.value) or change.subject or change.kind.value
    where = f" on {_routes(change.routes)}" if change.routes else ""
    return _shown(f"{allowed}{direction}{what}{where}")


def _details(change: Change) -> Iterator[str]:
    boxes = [_box(box) for box in change.lines[:_BOXES_SHOWN]]
    if boxes:
        more = len(change.lines) - len(boxes)
        yield f"{'; '.join(boxes)}{f'; and {more} more ranges' if more else ''}"
    yield _shown(f"{change.old} -> {change.new}")
    if change.kind in {"count", "event"}:
        if change.old_usd is None or change.new_usd is None:
            yield "price not known, or not to compare"
        else:
            change_usd = change.new_usd - change.old_usd
            yield f"{change_usd.normalize():+f} USD per {change.per}"


def _routes(routes: tuple[str, ...]) -> str:
    shown = ", ".join(routes[:_ROUTES_SHOWN])
    return f"{shown} and {len(routes) - _ROUTES_SHOWN} more" if len(routes) > _ROUTES_SHOWN else shown


def _box(box: Box) -> str:
    """The lines in words; nothing where it is all of them."""
    status, size, latency, time = box
    parts = [
        _status(status),
        _range("response of", size, " bytes"),
        _range("backend time of", latency, " ms"),
        _period(time),
    ]
    return ", ".join(part for part in parts if part)


def _status(interval: Interval) -> str:
    start, end = interval
    if start % 100 == 0 and end == start + 100:
        return f"status {start // 100}xx"
    return f"status {start}" if end == start + 1 else _range("status", interval, "")


def _period(interval: Interval) -> str:
    from marketplace_constructs.domain.plan_table import NO_LIMIT

    start, end = interval
    parts = [f"from {_time(start)}" if start else "", f"before {_time(end)}" if end != NO_LIMIT else ""]
    return " and ".join(part for part in parts if part)


def _range(what: str, interval: Interval, unit: str) -> str:
    from marketplace_constructs.domain.plan_table import EVERY, NO_LIMIT

    start, end = interval
    if interval == EVERY:
        return ""
    if end == NO_LIMIT:
        return f"{what} {start:,}{unit} or more"
    return f"{what} less than {end:,}{unit}" if start == 0 else f"{what} {start:,} to {end - 1:,}{unit}"


def _time(milliseconds: int) -> str:
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"{milliseconds:,} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _usd(amount: object) -> str:
    return "unknown" if amount is None else f"{amount:f} USD"


def _wrapped(text: str, indent: int = 0) -> Iterable[str]:
    return textwrap.wrap(
        text,
        width=_WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shown(text: str) -> str:
    """Text of a document, without what a terminal or a page would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)[:2000]


def _code(text: str) -> str:
    return f"`{_shown(text).replace('`', chr(39)).replace('|', '¦')}`"


def _html(text: str) -> str:
    return _shown(text).replace("&", "&amp;").replace("<", "&lt;")
