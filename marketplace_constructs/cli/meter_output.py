"""What ``sellable meter`` prints: 80 columns for a person, JSON with exact quantities for a program."""

from __future__ import annotations

import json
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import click

from marketplace_constructs.domain.metering import CALL, EVENT, UNPLANNED, Manifest, Outcome, Record, hour_of
from marketplace_constructs.domain.plan_table import LineState

if TYPE_CHECKING:
    from marketplace_constructs.runtime.metering.explain import BilledBy, Charge, Counted, Explanation, JudgedLine
    from marketplace_constructs.runtime.metering.history import History
    from marketplace_constructs.runtime.metering.ledger import Attempt
    from marketplace_constructs.runtime.metering.native import Compared
    from marketplace_constructs.runtime.metering.replay import Difference, Replayed
    from marketplace_constructs.runtime.metering.totals import HourUsage

_SCHEMA_VERSION: Final = 1
_WIDTH: Final = 80
_DIGITS: Final = 12
"""Behind the point, where an exact quantity has no end."""
_SHOWN: Final = 50
"""Records and differences that are listed; JSON has all."""
_UNJUDGED: Final = "unjudged"
"""What became of what no table judges, while its hour may still be worked out again."""


def is_of(moment: datetime, month: str | None) -> bool:
    """Whether a moment lies in a month, ``YYYY-MM``; any does where none is given."""
    return month is None or f"{moment:%Y-%m}" == month


def usage_rows(history: History, agreement: str | None, month: str | None) -> list[dict[str, str]]:
    """Quantities by agreement, dimension and what became of them."""
    sums: defaultdict[tuple[str, str, str], Fraction] = defaultdict(Fraction)
    for record in history.records.values():
        fate = history.fate(record.id)
        what = f"{fate.outcome} ({fate.reason})" if fate.reason else fate.outcome.value
        if is_of(record.timestamp, month):
            sums[record.series.agreement, record.series.dimension, what] += Fraction(record.quantity)
    for loss in history.losses:
        if is_of(loss.hour, month):
            sums[loss.series.agreement, loss.series.dimension, f"{Outcome.LOST} ({loss.reason})"] += loss.quantity
    for hour in history.closed:
        for series, quantity in history.unjudged(hour).items() if is_of(hour, month) else ():
            sums[series.agreement, series.dimension, _UNJUDGED] += quantity
    return [
        {"agreement": a, "dimension": d, "what": what, "quantity": str(quantity)}
        for (a, d, what), quantity in sorted(sums.items())
        if agreement in {None, a}
    ]


def totals(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same without agreements."""
    sums: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for row in rows:
        sums[row["dimension"], row["what"]] += Fraction(row["quantity"])
    return [{"dimension": d, "what": what, "quantity": str(quantity)} for (d, what), quantity in sorted(sums.items())]


def record_to_json(history: History, record: Record) -> dict[str, Any]:
    """A record, how it came about, and what became of it."""
    fate, sealing = history.fate(record.id), history.sealings[record.id]
    return {
        "record": record.id,
        "agreement": record.series.agreement,
        "dimension": record.series.dimension,
        "timestamp": record.timestamp.isoformat(),
        "quantity": f"{record.quantity:f}",
        "hours": [{"hour": one.hour.isoformat(), "quantity": str(one.quantity)} for one in record.sources],
        "outcome": fate.outcome.value,
        "reason": fate.reason.value if fate.reason else None,
        "metering_record_id": fate.metering_record_id,
        "sealed_at": sealing.at.isoformat(),
        "carried_in": str(sealing.carried_in),
        "carried_out": str(sealing.carried_out),
    }


def answer(attempt: Attempt) -> str:
    """What AWS said; ``none`` where that is not known."""
    return attempt.answer.status.value if attempt.answer else "none"


# A person reads these


def print_usage(
    rows: Sequence[Mapping[str, str]], carried: Sequence[Mapping[str, str]], unsettled: Sequence[Mapping[str, Any]]
) -> None:
    """What was metered, what is carried, and which records AWS has not accepted."""
    if not rows:
        click.echo("nothing was metered")
    before = None
    for row in rows:
        if row["agreement"] != before:
            click.echo(row["agreement"])
            before = row["agreement"]
        _print_sum(row)
    if len({row["agreement"] for row in rows}) > 1:
        click.echo("in all")
        for row in totals(rows):
            _print_sum(row)
    if carried:
        click.echo("carried to the next record, less than AWS can be told of")
    for row in carried[:_SHOWN]:
        click.echo(f"  {row['agreement']}")
        click.echo(aligned(f"    {row['dimension']}", decimal(Fraction(row["quantity"]))))
    _print_more(len(carried))
    if unsettled:
        click.echo("records that AWS has not accepted")
    for one in unsettled[:_SHOWN]:
        click.echo(f"  {one['record']}, {_outcome(one)}, {one['dimension']} of {_stamp(one['timestamp'])}")
        click.echo(aligned(f"    {one['agreement']}", decimal(Fraction(one["quantity"]))))
    _print_more(len(unsettled))


def _print_sum(row: Mapping[str, str]) -> None:
    click.echo(aligned(f"  {row['dimension']:<22} {row['what']}", decimal(Fraction(row["quantity"]))))


def print_record(found: Mapping[str, Any]) -> None:
    """One record, as ``record_to_json`` gives it, with its buyer, allocations and attempts."""
    click.echo(f"record {found['record']}, {_outcome(found)}")
    for name in ("agreement", "dimension", "customer", "license_arn", "metering_record_id"):
        if found[name]:
            click.echo(f"  {name.replace('_', ' ').replace('arn', 'ARN')}: {found[name]}")
    click.echo(f"  timestamp: {_stamp(found['timestamp'])}, sealed {_stamp(found['sealed_at'])}")
    click.echo(aligned("  carried in", decimal(Fraction(found["carried_in"]))))
    for one in found["hours"]:
        click.echo(aligned(f"  usage of {_stamp(one['hour'])}", decimal(Fraction(one["quantity"]))))
    click.echo(aligned("  carried out", decimal(-Fraction(found["carried_out"]))))
    click.echo(aligned("  quantity", decimal(Fraction(found["quantity"]))))
    for one in found["allocations"][:_SHOWN]:
        click.echo(aligned(f"    {one['path']}", decimal(Fraction(one["quantity"]))))
    _print_more(len(found["allocations"]))
    for one in found["attempts"]:
        click.echo(f"  sent {_stamp(one['at'])}, answer: {one['answer']}")
    if not found["attempts"]:
        click.echo("  never sent")


def print_explanation(explanation: Explanation) -> None:
    """From the lines to what AWS was told, with each sum."""
    series = explanation.series
    click.echo(f"{series.agreement} {series.dimension}, hour {time(explanation.hour)}")
    billed = [charge for charge in explanation.charges if charge.counted.is_billed]
    click.echo("the log" if explanation.charges else "the log has no lines of it")
    for charge in billed:
        _print_charge(charge)
    if billed:
        lines = number_of(sum(charge.lines for charge in billed), "line")
        click.echo(aligned(f"  {lines}", decimal(explanation.from_lines)))
    for charge in explanation.charges:
        counted = charge.counted
        if not counted.is_billed:
            told = f", {decimal(counted.quantity)} in all" if _is_told(counted) else ""
            why = f"{_why_not(counted)}{_because(counted)}{_by(counted)}"
            _say(f"  not billed: {number_of(charge.lines, 'line')}, {_place(counted)}{told}, {why}")
    has_any = explanation.billed_by or explanation.losses or explanation.unjudged
    click.echo("the ledger" if has_any else "the ledger has nothing of it")
    for one in explanation.billed_by:
        _print_billed_by(one, explanation.hour)
    for loss in explanation.losses:
        click.echo(aligned(f"  lost ({loss.reason})", decimal(loss.quantity)))
    if explanation.unjudged:
        click.echo(aligned("  not lost yet, while the hour may be worked out again", decimal(explanation.unjudged)))
    _print_sums(explanation)


def _print_sums(explanation: Explanation) -> None:
    sums = (
        f"{decimal(explanation.usage)} from the log, {decimal(explanation.billed)} in records, "
        f"{decimal(explanation.lost)} lost"
        + (f", {decimal(explanation.unjudged)} unjudged" if explanation.unjudged else "")
    )
    if explanation.wrong:
        _say(f"it does not add up: {sums}")
        for what in explanation.wrong:
            _say(f"  {what}")
    elif explanation.unbilled:
        _say(f"the hour is not closed yet: {sums}")
    else:
        _say(f"it adds up: {sums}")


def _print_charge(charge: Charge) -> None:
    counted = charge.counted
    click.echo(aligned(f"  {_place(counted)}, {number_of(charge.lines, 'line')}", decimal(counted.quantity)))
    _say(f"    {counted.plan}{_by(counted)}: {_how(counted)}")


def _print_billed_by(one: BilledBy, hour: datetime) -> None:
    record, fate = one.record, one.fate
    click.echo(f"  record {record.id}, timestamp {time(record.timestamp)}, sealed {time(one.sealing.at)}")
    if one.sealing.carried_in:
        click.echo(aligned("    carried in", decimal(one.sealing.carried_in)))
    if not record.sources:
        click.echo(aligned("    an hour without usage", "0"))
    for source in record.sources:
        name = "this hour" if source.hour == hour else f"usage of {time(source.hour)}"
        click.echo(aligned(f"    {name}", decimal(source.quantity)))
    if one.sealing.carried_out:
        click.echo(aligned("    carried out", decimal(-one.sealing.carried_out)))
    click.echo(aligned("    quantity", decimal(Fraction(record.quantity))))
    proof = f", metering record id {fate.metering_record_id}" if fate.metering_record_id else ""
    reason = f" ({fate.reason})" if fate.reason else ""
    _say(f"    {fate.outcome}{reason}{proof}")


def print_line(line: JudgedLine) -> None:
    """One line of the log, or one event."""
    counted = line.counted
    status = "event" if line.status is None else str(line.status)
    quantity = decimal(counted.quantity) if counted.is_billed else _why_not(counted)
    if _is_told(counted):
        quantity = f"{quantity}, {decimal(counted.quantity)}"
    click.echo(f"{time(line.at, milliseconds=True)} {status} {_place(counted)}")
    click.echo(aligned(f"  {line.id}{_by(counted)}", quantity))


def print_replay(
    history: History, replayed: Sequence[Replayed] | None, different: Sequence[Replayed], gone: Sequence[datetime]
) -> None:
    """What came of working the hours out again."""
    wrong = number_of(len(history.snapshots), "wrong snapshot")
    click.echo(f"{number_of(history.sequence, 'manifest')}, an unbroken chain; {wrong}")
    for key in history.snapshots:
        click.echo(f"{key} says something else than the chain; delete it")
    if replayed is None:
        click.echo("hours were not compared with the log, since none was named")
        return
    equal = len(replayed) - len(different) - len(gone)
    hours = number_of(len(replayed), "closed hour")
    click.echo(f"{hours}: {equal:,} equal, {len(different):,} different, {len(gone):,} without log")
    shown = [(one, difference) for one in different for difference in one.differences]
    for one, difference in shown[:_SHOWN]:
        series = difference.series
        click.echo(f"{time(one.hour)} {f'{series.agreement} {series.dimension}' if series else difference.state}")
        click.echo(aligned("  the log shows", decimal(difference.log)))
        click.echo(aligned("  the ledger holds", decimal(difference.ledger)))
        click.echo(aligned(f"  {_why_different(one, difference)}", decimal(difference.log - difference.ledger)))
    _print_more(len(shown))
    if gone:
        _say(
            f"not checked, since the log keeps no files of them: {time(gone[0])} to {time(gone[-1])}, "
            f"{number_of(len(gone), 'hour')}; name a copy with --log"
        )


def print_compared(found: Mapping[str, Any]) -> None:
    """Log and reports of each customer, as ``compared_to_json`` gives them."""
    for one in found["customers"]:
        click.echo(one["customer"])
        for path, quantity in one["paths"].items():
            click.echo(aligned(f"    {path}", decimal(Fraction(quantity))))
        click.echo(aligned("  the log counts", decimal(Fraction(one["log"]))))
        click.echo(aligned("  API Gateway reported", decimal(Fraction(one["reported"]))))
        for hour in one["differences"]:
            log, reported = Fraction(hour["log"]), Fraction(hour["reported"])
            click.echo(
                aligned(
                    f"  {_stamp(hour['hour'])}: {decimal(log)}, reported {decimal(reported)}", decimal(reported - log)
                )
            )
    if not found["customers"]:
        click.echo("nothing was counted or reported")
    lines = ", ".join(f"{state} {number:,}" for state, number in found["lines"].items()) or "no lines"
    _say(f"{number_of(found['hours'], 'closed hour')}: {lines}")
    different = sum(one["log"] != one["reported"] for one in found["customers"])
    _say(f"{number_of(len(found['customers']), 'customer')}, {different:,} of them different")
    if found["gone"]:
        hours = number_of(len(found["gone"]), "hour")
        _say(f"not compared, since the log keeps no files of them: {hours}; name a copy with --log")


def _why_different(replayed: Replayed, difference: Difference) -> str:
    if difference.series and difference.series.dimension.startswith((CALL, EVENT)):
        return "judged otherwise now: lines or facts that came late, or changed"
    if difference.log < difference.ledger:
        return "billed, and not in the log any more"
    return "waits for a free hour" if replayed.is_waiting else "not billed: lines or facts that came late"


def print_done(done: Mapping[str, Any]) -> None:
    """What a run did, or would do, as ``done_to_json`` gives it."""
    has_run = done["done"]
    if not done["due"] and not done["closed"]:
        click.echo("no hour is due")
    for one in done["closed"]:
        verb = "worked out again" if one["again"] else "closed" if has_run else "would be closed"
        counted = ", ".join(f"{state} {number:,}" for state, number in one["lines"].items()) or "no lines"
        _say(f"{_stamp(one['hour'])} {verb}: {counted}")
        if one["quarantined"]:
            click.echo(f"  {number_of(one['quarantined'], 'line')} cannot be read")
    for hour in done["held"]:
        _say(f"{_stamp(hour)} {'is' if has_run else 'would be'} held: see the runbook Lines unmatched")
    _print_records(done["records"], "sealed" if has_run else "would be sealed")
    for one in done["losses"]:
        click.echo(f"{one['agreement']} {one['dimension']} of {_stamp(one['hour'])}")
        verb = "lost" if has_run else "would be lost"
        click.echo(aligned(f"  {verb} ({one['reason']})", decimal(Fraction(one["quantity"]))))
    for one in done["settlements"]:
        reason = f" ({one['reason']})" if one["reason"] else ""
        click.echo(f"{one['record']}: {'' if has_run else 'would be '}{one['outcome']}{reason}")
    if not has_run:
        click.echo("nothing was written or sent; do it with --yes")


def _print_records(records: Sequence[Mapping[str, Any]], verb: str) -> None:
    before = None
    for one in records:
        if one["agreement"] != before:
            click.echo(f"{one['agreement']}, {verb}")
            before = one["agreement"]
        late = [_stamp(hour["hour"]) for hour in one["hours"] if hour["hour"][:13] != one["timestamp"][:13]]
        click.echo(aligned(f"  {one['dimension']} of {_stamp(one['timestamp'])}", decimal(Fraction(one["quantity"]))))
        if late:
            _say(f"    with late usage of {', '.join(late)}")


def print_resent(found: Sequence[Mapping[str, Any]], *, yes: bool) -> None:
    """Open records, and what becomes of each."""
    words = {
        "sent": "would be sent",
        "waits": "AWS refused it within the hour; name it, and it does not wait",
        "too-late": "AWS takes it no more",
    }
    if not found:
        click.echo("no record is open")
    for one in found:
        click.echo(f"{one['record']}: {words.get(one['what'], one['what'])}")
        click.echo(aligned(f"  {one['agreement']}", decimal(Fraction(one["quantity"]))))
        click.echo(f"  {one['dimension']} of {_stamp(one['timestamp'])}")
        if one["last_attempt_at"]:
            click.echo(f"  sent last {_stamp(one['last_attempt_at'])}, answer: {one['last_answer']}")
    if found and not yes:
        click.echo("nothing was sent; do it with --yes")


def _print_more(number: int) -> None:
    if number > _SHOWN:
        click.echo(f"  and {number - _SHOWN:,} more; see them with --format json")


def _place(counted: Counted) -> str:
    return f"{counted.method} {counted.path}".strip()


def number_of(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _how(counted: Counted) -> str:
    """What is counted, in words."""
    words = [counted.metric]
    if counted.round_up > 1:
        words.append(
            f"each counts {counted.round_up:,}"
            if counted.metric == "requests"
            else f"each rounded up to {counted.round_up:,}"
        )
    if counted.multiply != 1:
        words.append(f"times {counted.multiply:f}")
    if counted.base_units != 1:
        words.append(f"in units of {counted.base_units:,}")
    return ", ".join(words)


def _by(counted: Counted) -> str:
    return f", by {counted.policy}/{counted.sid}" if counted.sid else ""


def _why_not(counted: Counted) -> str:
    is_billable = counted.state == LineState.BILLABLE
    return f"only reported, by the channel of {counted.plan}" if is_billable else counted.state


def _is_told(counted: Counted) -> bool:
    """Whether the quantity is what usage events told that no table judges."""
    return counted.path.startswith(EVENT) and not counted.is_billed and counted.quantity > 0


def _because(counted: Counted) -> str:
    """Why no table judges it."""
    if counted.state == UNPLANNED:
        return f": {counted.plan} has no table of that hour" if counted.plan else ": no plan was assigned then"
    return {
        LineState.OUTSIDE.value: ": its agreement had not begun, or was over",
        LineState.UNATTRIBUTED.value: ": nobody knows its agreement",
    }.get(counted.state, "")


def _outcome(found: Mapping[str, Any]) -> str:
    return f"{found['outcome']} ({found['reason']})" if found["reason"] else str(found["outcome"])


def decimal(quantity: Fraction) -> str:
    """A quantity that a person reads: whole where it has an end, else its first digits."""
    scale = 10**_DIGITS
    scaled = quantity * scale
    text = f"{Decimal(int(scaled)).scaleb(-_DIGITS):,f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    text = "0" if text in {"-0", ""} else text
    return text if scaled.denominator == 1 else f"{text}..."


def aligned(text: str, number: str) -> str:
    """A text with a number at the right edge; on a line of its own where there is no room."""
    room = _WIDTH - len(number) - 1
    return f"{text:<{room}} {number}" if len(text) <= room else f"{text}\n{number:>{_WIDTH}}"


def _say(text: str) -> None:
    lead = text[: len(text) - len(text.lstrip())]
    click.echo(
        textwrap.fill(
            text.lstrip(),
            _WIDTH,
            initial_indent=lead,
            subsequent_indent=f"{lead}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def time(moment: datetime, *, milliseconds: bool = False) -> str:
    """A moment, UTC, no more exact than it has to be."""
    shown = moment.astimezone(UTC)
    if milliseconds:
        return f"{shown:%Y-%m-%dT%H:%M:%S}.{shown.microsecond // 1000:03}Z"
    return f"{shown:%Y-%m-%dT%H:%MZ}" if hour_of(shown) == shown else f"{shown:%Y-%m-%dT%H:%M:%SZ}"


def _stamp(text: str) -> str:
    return time(datetime.fromisoformat(text))


# A program reads these


def explanation_to_json(explanation: Explanation) -> dict[str, Any]:
    """An explanation, exact."""
    return {
        "agreement": explanation.series.agreement,
        "dimension": explanation.series.dimension,
        "hour": explanation.hour.isoformat(),
        "closed": explanation.is_closed,
        "waiting": explanation.is_waiting,
        "charges": [{**_counted_to_json(charge.counted), "lines": charge.lines} for charge in explanation.charges],
        "records": [
            {
                "record": one.record.id,
                "timestamp": one.record.timestamp.isoformat(),
                "quantity": f"{one.record.quantity:f}",
                "of_hour": str(one.of_hour),
                "hours": [{"hour": s.hour.isoformat(), "quantity": str(s.quantity)} for s in one.record.sources],
                "sealed_at": one.sealing.at.isoformat(),
                "carried_in": str(one.sealing.carried_in),
                "carried_out": str(one.sealing.carried_out),
                "outcome": one.fate.outcome.value,
                "reason": one.fate.reason.value if one.fate.reason else None,
                "metering_record_id": one.fate.metering_record_id,
            }
            for one in explanation.billed_by
        ],
        "losses": [{"reason": loss.reason.value, "quantity": str(loss.quantity)} for loss in explanation.losses],
        "usage": str(explanation.usage),
        "from_lines": str(explanation.from_lines),
        "billed": str(explanation.billed),
        "lost": str(explanation.lost),
        "unjudged": str(explanation.unjudged),
        "unbilled": str(explanation.unbilled),
        "wrong": list(explanation.wrong),
    }


def _counted_to_json(counted: Counted) -> dict[str, Any]:
    return {
        "plan": counted.plan,
        "policy": counted.policy,
        "sid": counted.sid,
        "method": counted.method,
        "path": counted.path,
        "state": counted.state,
        "metric": counted.metric,
        "round_up": counted.round_up,
        "multiply": f"{counted.multiply:f}",
        "base_units": counted.base_units,
        "billed": counted.is_billed,
        "quantity": str(counted.quantity),
    }


def _line_to_json(line: JudgedLine) -> dict[str, Any]:
    return {
        "time": time(line.at, milliseconds=True),
        "id": line.id,
        "status": line.status,
        "value": None if line.value is None else str(line.value),
        **_counted_to_json(line.counted),
    }


def compared_to_json(
    hours: Sequence[HourUsage], customers: Sequence[Compared], gone: Sequence[datetime]
) -> dict[str, Any]:
    """The log beside what was reported, exact."""
    lines: Counter[str] = Counter()
    for one in hours:
        lines.update(one.closed.lines)
    return {
        "hours": len(hours),
        "gone": [hour.isoformat() for hour in gone],
        "lines": dict(sorted(lines.items())),
        "customers": [
            {
                "customer": one.customer,
                "log": str(one.log),
                "reported": str(one.native),
                "paths": {path: str(quantity) for path, quantity in sorted(one.by_path.items())},
                "differences": [
                    {
                        "hour": hour.isoformat(),
                        "log": str(one.counted.get(hour, 0)),
                        "reported": str(one.reported.get(hour, 0)),
                    }
                    for hour in one.different_hours
                ],
            }
            for one in customers
        ],
    }


def difference_to_json(replayed: Replayed, difference: Difference) -> dict[str, Any]:
    """Where log and ledger differ, exact."""
    series = difference.series
    return {
        "hour": replayed.hour.isoformat(),
        "agreement": series.agreement if series else None,
        "dimension": series.dimension if series else None,
        "state": difference.state,
        "log": str(difference.log),
        "ledger": str(difference.ledger),
        "waiting": replayed.is_waiting,
    }


def done_to_json(
    manifests: Sequence[Manifest], *, due: Sequence[datetime], held: Sequence[datetime], has_run: bool
) -> dict[str, Any]:
    """What some manifests say, and which hours they leave."""
    return {
        "done": has_run,
        "due": [hour.isoformat() for hour in due],
        "held": [hour.isoformat() for hour in held],
        "closed": [
            {
                "hour": one.hour.isoformat(),
                "lines": dict(sorted(one.lines.items())),
                "quarantined": one.quarantined,
                "again": one.hour not in due,
            }
            for manifest in manifests
            for one in manifest.closed
        ],
        "records": [
            {
                # Its number is known once it is sealed.
                "record": record.id if has_run else None,
                "agreement": record.series.agreement,
                "dimension": record.series.dimension,
                "timestamp": record.timestamp.isoformat(),
                "quantity": f"{record.quantity:f}",
                "hours": [{"hour": one.hour.isoformat(), "quantity": str(one.quantity)} for one in record.sources],
            }
            for manifest in manifests
            for record in manifest.records
        ],
        "losses": [
            {
                "agreement": loss.series.agreement,
                "dimension": loss.series.dimension,
                "hour": loss.hour.isoformat(),
                "quantity": str(loss.quantity),
                "reason": loss.reason.value,
            }
            for manifest in manifests
            for loss in manifest.losses
        ],
        "settlements": [
            {"record": one.record, "outcome": one.outcome.value, "reason": one.reason.value if one.reason else None}
            for manifest in manifests
            for one in manifest.settlements
        ],
    }


def print_json(**members: Any) -> None:
    """One document."""
    click.echo(json.dumps({"schema_version": _SCHEMA_VERSION, **members}, indent=1))


def stream_json(members: Mapping[str, Any], lines: Iterator[JudgedLine] | None) -> None:
    """One document, whose lines are written as they are read."""
    text = json.dumps({"schema_version": _SCHEMA_VERSION, **members}, indent=1)
    if lines is None:
        click.echo(text)
        return
    click.echo(f'{text.removesuffix(chr(10) + "}")},\n "lines": [', nl=False)
    for number, line in enumerate(lines):
        click.echo(f"{',' if number else ''}\n  {json.dumps(_line_to_json(line))}", nl=False)
    click.echo("\n ]\n}")
