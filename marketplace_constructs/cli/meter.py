"""``sellable meter``: what was metered and why, whether the log still says so, and what is to be done now.

Whatever could move money is only shown, unless --yes is given. Hours are then closed and records sent by the deployed
function and never from here: its role alone may report usage, its settings and its version of the code are what the
ledger's other manifests rest on, and the operator needs no more than to start it.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from marketplace_constructs.cli import meter_output as shown
from marketplace_constructs.cli.group import common_options
from marketplace_constructs.cli.metered import MeteredSale, Places
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.metering import (
    EVENT,
    EVENT_OUTSIDE,
    UNJUDGED,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Series,
    Settlement,
    hour_of,
)

if TYPE_CHECKING:
    from marketplace_constructs.runtime.metering.history import History
    from marketplace_constructs.runtime.metering.objects import Objects
    from marketplace_constructs.runtime.metering.replay import Replayed
    from marketplace_constructs.runtime.metering.totals import HourUsage

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _hour_options(function: _Command) -> _Command:
    """``--from`` and ``--to``."""
    since = click.option(
        "--from", "since", callback=_to_hour, metavar="HOUR", help="From this hour on. Left out, from the first."
    )
    until = click.option("--to", "until", callback=_to_hour, metavar="HOUR", help="Up to this hour, without it.")
    return since(until(function))


def _to_hour(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A whole hour, UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is not None:
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment is None or hour_of(moment) != moment:
        raise click.BadParameter(
            f"got {value!r}; expected a whole hour, UTC, such as 2026-12-01T10:00Z", ctx=ctx, param=param
        )
    return hour_of(moment)


def _to_month(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A month, as ``YYYY-MM``."""
    if value is not None and not re.fullmatch(r"[0-9]{4}-(0[1-9]|1[0-2])", value):
        raise click.BadParameter(f"got {value!r}; expected a month, such as 2026-12", ctx=ctx, param=param)
    return value


_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group("meter")
@click.option("--stack", metavar="NAME", help="The stack with the meter: everything is read where it has it.")
@click.option("--product-code", metavar="CODE", help="Which one, where the stack has several.")
@click.option("--ledger", metavar="WHERE", help="s3://BUCKET/ledger/PRODUCT_CODE/REGION/, or a directory.")
@click.option("--log", metavar="WHERE", help="s3://BUCKET/access-log/, or a directory that has YYYY/MM/DD/HH/.")
@click.option("--events", metavar="WHERE", help="The same of usage events.")
@click.option("--facts", type=_FILE, metavar="FILE", help="The table of facts: aws dynamodb scan.")
@click.option("--plans", type=_FILE, metavar="FILE", help="The table of plan versions: aws dynamodb scan.")
@click.option(
    "--tables",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Plan tables: aws s3 sync of s3://BUCKET/plan-tables/.",
)
@click.option(
    "--settings",
    type=_FILE,
    metavar="FILE",
    help="The function's configuration, in place of --stack: aws lambda get-function-configuration.",
)
@click.pass_context
def command(ctx: click.Context, /, **places: Any) -> None:
    """What was metered, and why: the ledger of one product.

    With --stack alone, everything is read where the stack has it; each other
    option puts a copy in its place. show, record and release need the ledger
    alone. Account and Region are those of the AWS configuration.

    Changes nothing but by close, resend and release, and that only with --yes.
    """
    ctx.obj = MeteredSale(Places(**places))


@command.command("show")
@click.option("--agreement", metavar="ID", help="Of one agreement alone.")
@click.option("--month", callback=_to_month, metavar="YYYY-MM", help="Of the month that AWS bills it in.")
@common_options
@click.pass_obj
def show(sale: MeteredSale, *, agreement: str | None, month: str | None, output: str) -> int:
    """Show what became of the usage: billed, open, lost, in doubt.

    Lists the records that AWS has not accepted. Exits with 1 where something is
    in doubt.
    """
    rows = shown.usage_rows(sale.history, agreement, month)
    unsettled = [
        shown.record_to_json(sale.history, record)
        for record in sale.history.records.values()
        if sale.history.fate(record.id).outcome is not Outcome.ACCEPTED
        and agreement in {None, record.series.agreement}
        and shown.is_of(record.timestamp, month)
    ]
    carried = [
        {"agreement": series.agreement, "dimension": series.dimension, "quantity": str(quantity)}
        for series, quantity in sorted(sale.history.remainders.items())
        if quantity and agreement in {None, series.agreement}
    ]
    if output == "json":
        shown.print_json(usage=rows, totals=shown.totals(rows), carried=carried, records=unsettled)
    else:
        shown.print_usage(rows, carried, unsettled)
    return int(any(row["what"] == Outcome.IN_DOUBT for row in rows))


@command.command("record")
@click.argument("record_id", metavar="RECORD")
@common_options
@click.pass_obj
def show_record(sale: MeteredSale, *, record_id: str, output: str) -> int:
    """Show one record: what it bills, and every attempt to send it.

    Exits with 1 where it is in doubt.
    """
    record = _record(sale.history, record_id)
    attempts = sale.ledger.attempts_of([record])[record.id]
    found = {
        **shown.record_to_json(sale.history, record),
        "customer": record.buyer.customer_identifier or record.buyer.customer_aws_account_id,
        "license_arn": record.buyer.license_arn,
        "allocations": [{"path": one.path, "quantity": f"{one.quantity:f}"} for one in record.allocations],
        "attempts": [{"at": attempt.at.isoformat(), "answer": shown.answer(attempt)} for attempt in attempts],
    }
    if output == "json":
        shown.print_json(**found)
    else:
        shown.print_record(found)
    return int(found["outcome"] == Outcome.IN_DOUBT)


@command.command("explain")
@click.argument("agreement", metavar="AGREEMENT")
@click.argument("dimension", metavar="DIMENSION")
@click.argument("hour", callback=_to_hour, metavar="HOUR")
@click.option("--lines", is_flag=True, help="List every line and event, the earliest first.")
@common_options
@click.pass_obj
def explain(sale: MeteredSale, *, agreement: str, dimension: str, hour: datetime, lines: bool, output: str) -> int:
    """Trace an hour's usage from its calls to what AWS was told.

    HOUR is when it begins, UTC, such as 2026-12-01T10:00Z. DIMENSION may also be
    what show lists as unjudged or lost: call:unmatched or call:outside, calls
    that no table judges; event:NAME or event:NAME/outside, usage events without
    a plan or outside their agreement. AGREEMENT is then as there. The hour is
    read anew, by the query that bills. Shows which statement counts which calls
    on which path, which records bill them, and what became of those. Exits with
    1 where it does not add up exactly, with 3 where the log is there no more.
    """
    from marketplace_constructs.runtime.metering.explain import Witness, explained
    from marketplace_constructs.runtime.metering.replay import is_gone

    if sale.settings.terms.is_native:
        raise _refusal(
            "MP-CLI-48",
            f"product {sale.settings.product_code}, got one whose usage API Gateway itself reports; expected one that "
            "the pipeline meters; compare its log with what API Gateway reported by sellable meter compare",
        )
    series, now = Series(agreement=agreement, dimension=dimension), sale.now()
    history, who = sale.history, sale.register(now)
    is_metered = agreement in who.buyers and dimension in sale.settings.dimensions.split(",")
    events = [f"{EVENT}{name}" for name in filter(None, sale.settings.usage_events.split(","))]
    unjudged = [*UNJUDGED, *events, *(f"{event}{EVENT_OUTSIDE}" for event in events)]
    is_lost = series in history.unjudged(hour) or any(history.losses_of(series, hour))
    if not (is_metered or dimension in unjudged or is_lost or any(history.records_of(series))):
        raise _refusal(
            "MP-CLI-49",
            f"usage, got agreement {agreement!r} and dimension {dimension!r}; expected a metered agreement, and one "
            f"of {sale.settings.dimensions}, or one of {', '.join(unjudged)}; look at sellable meter show",
        )
    with tempfile.TemporaryDirectory(prefix="explain-") as directory:
        witness = Witness(series, Path(directory))
        found = sale.usage_log(sale.log_files, witness=witness).read(
            hour, now=now, lives=who.lives, tables=sale.plans.at(hour)
        )
        if is_gone(history.closed.get(hour), found, sale.has_files):
            raise _refusal(
                "MP-CLI-50",
                f"log of {hour:%Y-%m-%dT%H:%MZ}, got fewer lines than the ledger counted, and no files of that hour; "
                "expected the log, which the bucket keeps no longer than its lifecycle says; name a copy with --log",
            )
        explanation = explained(history, found, witness, series)
        if output == "json":
            shown.stream_json(shown.explanation_to_json(explanation), witness.judged() if lines else None)
        else:
            shown.print_explanation(explanation)
            for line in witness.judged() if lines else ():
                shown.print_line(line)
    return int(bool(explanation.wrong))


@command.command("replay")
@_hour_options
@common_options
@click.pass_obj
def replay(sale: MeteredSale, *, since: datetime | None, until: datetime | None, output: str) -> int:
    """Work every closed hour out anew, and compare it with the ledger.

    Also follows the chain from its first manifest, and compares the meter's
    shortcuts with it; with --ledger alone, that is all. Exits with 1 where
    anything differs, with 3 where the log of an hour is there no more.
    """
    from marketplace_constructs.runtime.metering.replay import Verdict

    history = sale.history
    replayed = list(_replayed(sale, since, until)) if sale.has_log else None
    different = [one for one in replayed or () if one.verdict is Verdict.DIFFERENT]
    gone = [one.hour for one in replayed or () if one.verdict is Verdict.GONE]
    if output == "json":
        shown.print_json(
            manifests=history.sequence,
            wrong=history.snapshots,
            hours=None if replayed is None else len(replayed),
            gone=[hour.isoformat() for hour in gone],
            differences=[
                shown.difference_to_json(one, difference) for one in different for difference in one.differences
            ],
        )
    else:
        shown.print_replay(history, replayed, different, gone)
    if history.snapshots or different:
        return 1
    return 3 if gone else 0


@command.command("compare")
@_hour_options
@common_options
@click.pass_obj
def compare(sale: MeteredSale, *, since: datetime | None, until: datetime | None, output: str) -> int:
    """Compare the log with what API Gateway itself reported.

    For native products with report_usage. Works each closed hour out anew, and
    sets what it counts for each customer and path beside what CloudTrail shows
    that AWS Marketplace accepted for the product, of the last 90 days, in the
    metering Region and in that of the AWS configuration. An hour that was
    reported within the last quarter of an hour may not be shown yet. Exits with
    1 where a customer's sums differ, with 3 where the log of an hour is there no
    more. API Gateway does not say what it counts besides calls that succeed, nor
    when it reports: counts of lines, and hours that differ, are shown for that.
    """
    from marketplace_constructs.domain.product import NATIVE_DIMENSION
    from marketplace_constructs.runtime.metering import native
    from marketplace_constructs.runtime.metering.replay import Sorted, is_gone

    settings, history, now = sale.settings, sale.history, sale.now()
    if not settings.terms.is_native:
        raise _refusal(
            "MP-CLI-54",
            f"product {settings.product_code}, got one that the pipeline meters; expected one whose usage API Gateway "
            "itself reports; look at sellable meter show, and compare with the log by sellable meter replay",
        )
    files, who = Sorted(sale.log_files), sale.register(now)
    gone: list[datetime] = []
    read: list[HourUsage] = []
    for hour in _closed(sale, since, until):
        found = sale.usage_log(files.of(hour)).read(hour, now=now, lives=who.lives, tables=sale.plans.at(hour))
        if is_gone(history.closed[hour], found, sale.has_files):
            gone.append(hour)
        else:
            read.append(found)
    hours = [one.closed.hour for one in read]
    customers = native.compare(
        read,
        (
            record
            for trail in sale.trails
            for record in native.reported(
                trail, hours, product_code=settings.product_code, dimension=NATIVE_DIMENSION, now=now
            )
        ),
        customers={agreement: buyer.customer_identifier for agreement, buyer in who.buyers.items()},
        dimension=NATIVE_DIMENSION,
    )
    compared = shown.compared_to_json(read, customers, gone)
    if output == "json":
        shown.print_json(**compared)
    else:
        shown.print_compared(compared)
    if any(one.is_different for one in customers):
        return 1
    return 3 if gone else 0


@command.command("close")
@click.option("--hour", callback=_to_hour, metavar="HOUR", help="Whether this one is closed in the end.")
@click.option("--yes", is_flag=True, help="Do it; else only say what would be done.")
@common_options
@click.pass_obj
def close(sale: MeteredSale, *, hour: datetime | None, yes: bool, output: str) -> int:
    """Close the hours that are over, as the meter does by itself.

    Without --yes, the meter runs here over the ledger and the log, writes
    nothing and sends nothing: it shows what it would seal, hold back and lose.
    With --yes, the deployed function is started, which closes all that is due,
    the oldest first. Exits with 1 where an hour is held or usage is lost.
    """
    before = sale.ledger.load().sequence
    meter, overlay = _dry_meter(sale)
    due = meter.due()
    if hour is not None and hour not in due:
        raise _refusal(
            "MP-CLI-51",
            f"hour {hour:%Y-%m-%dT%H:%MZ}, got one that is not due; expected one of "
            f"{', '.join(f'{one:%Y-%m-%dT%H:%MZ}' for one in due) or 'none, since nothing is'}; an hour is due "
            f"{sale.settings.watermark_minutes} minutes after its end, unless it is closed",
        )
    if yes:
        sale.run_meter({})
    else:
        with _quiet():
            meter.run()
    manifests = _manifests(sale.objects if yes else overlay, after=before)
    closed = {one.hour for manifest in manifests for one in manifest.closed}
    done = shown.done_to_json(manifests, due=due, held=[one for one in due if one not in closed], has_run=yes)
    if output == "json":
        shown.print_json(**done)
    else:
        shown.print_done(done)
    is_lost = any(one["reason"] != LossReason.REMAINDER for one in done["losses"]) or any(
        one["outcome"] == Outcome.LOST for one in done["settlements"]
    )
    return int(bool(done["held"]) or is_lost)


@command.command("resend")
@click.argument("record_ids", nargs=-1, metavar="[RECORD]...")
@click.option("--yes", is_flag=True, help="Do it; else only say what would be done.")
@common_options
@click.pass_obj
def resend(sale: MeteredSale, *, record_ids: tuple[str, ...], yes: bool, output: str) -> int:
    """Send open records again, each exactly as it was sealed.

    With --yes, the deployed function is started, which sends every record that
    is open; a RECORD that AWS refused a short time ago waits no longer. Never
    one that is in doubt, nor one that AWS takes no more. Exits with 1 where a
    record stays unsent.
    """
    from marketplace_constructs.runtime.metering.meter import is_resting, rules_of
    from marketplace_constructs.runtime.metering.send import usage_record

    if sale.settings.terms.is_native:
        raise _refusal(
            "MP-CLI-48",
            f"product {sale.settings.product_code}, got one whose usage API Gateway itself reports; expected one that "
            "the pipeline meters; nothing is ever sent for this one",
        )
    for record_id in record_ids:
        fate = sale.history.fate(_record(sale.history, record_id).id)
        if fate.outcome is not Outcome.OPEN:
            raise _refusal(
                "MP-CLI-52",
                f"record {record_id}, got one that is {fate.outcome}; expected an open one; leave it, or decide what "
                "became of one in doubt with sellable meter release",
            )
    rules, now = rules_of(sale.settings), sale.now()
    records = [one for one in sale.ledger.load().open if not record_ids or one.id in record_ids]
    attempts = sale.ledger.attempts_of(records)
    if yes:
        sale.run_meter({"resend": list(record_ids)})
        sale = MeteredSale(sale.places)
    found = []
    for record in records:
        if yes:
            what = sale.history.fate(record.id).outcome.value
        elif not rules.is_taken(record.timestamp, now):
            what = "too-late"
        elif record.id not in record_ids and is_resting(attempts[record.id], now):
            what = "waits"
        else:
            what = "sent"
        last = attempts[record.id][-1] if attempts[record.id] else None
        found.append(
            {
                **shown.record_to_json(sale.history, record),
                "what": what,
                "last_attempt_at": last.at.isoformat() if last else None,
                "last_answer": shown.answer(last) if last else None,
                "request": json.loads(json.dumps(usage_record(record, rules), default=str)),
            }
        )
    if output == "json":
        shown.print_json(done=yes, records=found)
    else:
        shown.print_resent(found, yes=yes)
    return int(any(one["what"] not in {"sent", "accepted"} for one in found))


@command.command("release")
@click.argument("record_id", metavar="RECORD")
@click.option(
    "--as",
    "outcome",
    required=True,
    type=click.Choice(["accepted", "lost"]),
    help="AWS bills it, or nobody does.",
)
@click.option("--yes", is_flag=True, help="Do it; else only say what would be done.")
@common_options
@click.pass_obj
def release(sale: MeteredSale, *, record_id: str, outcome: str, yes: bool, output: str) -> int:
    """Decide what became of a record in doubt.

    Look at the bill of that hour first: a record that is released as lost is
    never billed, one released as accepted is never sent again.
    """
    state = sale.ledger.load()
    if record_id not in state.in_doubt:
        raise _refusal(
            "MP-CLI-41",
            f"record {record_id}, got one that is not in doubt; expected one of "
            f"{', '.join(sorted(state.in_doubt)) or 'none, since nothing is'}; look at sellable meter show",
        )
    record = state.records[record_id]
    settlement = Settlement(
        record=record_id,
        outcome=Outcome(outcome),
        reason=LossReason.RELEASED if outcome == Outcome.LOST else None,
    )
    manifest = Manifest(
        sequence=state.sequence + 1,
        previous=sale.ledger.head,
        written_at=sale.now(),
        settlements=(settlement,),
    )
    if yes and not sale.ledger.append(manifest):
        raise _refusal(
            "MP-CLI-42", f"record {record_id}, got another writer at the same time; expected to be first; do it again"
        )
    if output == "json":
        shown.print_json(
            record=record_id,
            outcome=outcome,
            done=yes,
            agreement=record.series.agreement,
            dimension=record.series.dimension,
            timestamp=record.timestamp.isoformat(),
            quantity=f"{record.quantity:f}",
        )
    else:
        click.echo(f"{record.series.agreement} {record.series.dimension} of {shown.time(record.timestamp)}")
        click.echo(shown.aligned("  quantity", shown.decimal(Fraction(record.quantity))))
        click.echo(f"{record_id}: {outcome}" if yes else f"{record_id} would be {outcome}; do it with --yes")
    return 0


def _record(history: History, record_id: str) -> Record:
    if record_id not in history.records:
        raise _refusal("MP-CLI-43", f"record, got {record_id!r}; expected the id of one; look at sellable meter show")
    return history.records[record_id]


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))


def _closed(sale: MeteredSale, since: datetime | None, until: datetime | None) -> list[datetime]:
    """The hours that were closed, the earliest first."""
    return [
        hour
        for hour in sorted(sale.history.closed)
        if (since is None or hour >= since) and (until is None or hour < until)
    ]


def _replayed(sale: MeteredSale, since: datetime | None, until: datetime | None) -> Iterator[Replayed]:
    from rich.console import Console
    from rich.progress import Progress

    from marketplace_constructs.runtime.metering.replay import Sorted, replay

    history, now, hours = sale.history, sale.now(), _closed(sale, since, until)
    files = Sorted(sale.log_files)
    done = replay(
        history,
        hours,
        log=lambda hour: sale.usage_log(files.of(hour)),
        has_files=sale.has_files,
        lives=sale.register(now).lives,
        plans=sale.plans,
        now=now,
        is_native=sale.settings.terms.is_native,
    )
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        yield from bar.track(done, total=len(hours), description="hours")


@contextmanager
def _quiet() -> Iterator[None]:
    """The meter would tell, on standard output, what is shown here."""
    import logging

    from marketplace_constructs.runtime.observability import logger

    level = logger.log_level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _dry_meter(sale: MeteredSale) -> tuple[Any, Objects]:
    """The production meter, which writes into memory and sends nothing."""
    import uuid

    from marketplace_constructs.runtime.metering.dry_run import NothingSent, OverlaidObjects, UnchangedFiles
    from marketplace_constructs.runtime.metering.ledger import Ledger
    from marketplace_constructs.runtime.metering.meter import Meter, Ports, options_of

    objects = OverlaidObjects(sale.objects)
    has_events = bool(sale.settings.usage_events)
    ports = Ports(
        facts=sale.buyers,
        plans=sale.plans,
        log=sale.usage_log(UnchangedFiles(sale.log_files), UnchangedFiles(sale.event_files) if has_events else None),
        ledger=Ledger(objects, run=f"dry-{uuid.uuid4().hex}"),
        metering=NothingSent(),
        count=lambda _, __: None,
        gauge=lambda _, __: None,
    )
    meter = Meter(
        options_of(sale.settings, is_after_native=sale.is_after_native), ports, clock=sale.now, sleep=lambda _: None
    )
    return meter, objects.written


def _manifests(objects: Objects, *, after: int) -> list[Manifest]:
    from marketplace_constructs.runtime.metering.codec import from_bytes, manifest_from_json

    keys = objects.keys("manifests/", after=f"manifests/{after:012}.json")
    return [manifest_from_json(from_bytes(objects.get(key) or b"{}")) for key in keys]
