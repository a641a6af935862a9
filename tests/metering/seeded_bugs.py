"""Bugs that meters have been seen with, put into the production code on purpose: the simulator must notice each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from unittest.mock import patch

from simulation import run_seed

from marketplace_constructs.domain import metering, plan_versions
from marketplace_constructs.domain.metering import LedgerState, LossReason, Manifest, Outcome, Settlement, Status
from marketplace_constructs.domain.plan_table import LineState
from marketplace_constructs.domain.plan_versions import PlanVersion, next_hour
from marketplace_constructs.queries.usage_events import Event
from marketplace_constructs.runtime import plans
from marketplace_constructs.runtime.metering import buyers, meter, send, totals, usage_events
from marketplace_constructs.runtime.metering.ledger import Answer
from marketplace_constructs.runtime.metering.objects import MemoryObjects
from marketplace_constructs.runtime.metering.send import Sender

Bug = Callable[[ExitStack], None]
BUGS: Final[dict[str, Bug]] = {}
"""By name, each a function that puts it in until the stack is left."""


def _bug(function: Bug) -> Bug:
    BUGS[function.__name__.replace("_", "-")] = function
    return function


def planted(name: str) -> AbstractContextManager[None]:
    """The production code with one bug."""

    class Planted(ExitStack):
        def __enter__(self) -> None:  # type: ignore[override]
            super().__enter__()
            BUGS[name](self)

    return Planted()  # type: ignore[return-value]


def _sends(stack: ExitStack, change: Callable[[Sender, Any, bool], Any]) -> None:
    original, seen = Sender._call, set[str]()

    def call(self: Sender, batch: Sequence[Any]) -> Any:
        changed = [change(self, record, record.id in seen) for record in batch]
        seen.update(record.id for record in batch)
        return original(self, changed)

    stack.enter_context(patch.object(Sender, "_call", call))


@_bug
def changed_quantity_on_resend(stack: ExitStack) -> None:
    def change(_: Sender, record: Any, is_again: bool) -> Any:  # noqa: FBT001
        return replace(record, quantity=record.quantity + 1, allocations=()) if is_again else record

    _sends(stack, change)


@_bug
def timestamp_of_sending(stack: ExitStack) -> None:
    def change(sender: Sender, record: Any, is_again: bool) -> Any:  # noqa: FBT001
        del is_again
        return replace(record, timestamp=sender._clock().replace(microsecond=0))

    _sends(stack, change)


@_bug
def unprocessed_records_ignored(stack: ExitStack) -> None:
    original = send._answers

    def answers(requests: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Answer]:
        done = Answer(status=Status.SUCCESS, metering_record_id="done")
        found = original(requests, response)
        return {r: done if a.status is Status.UNPROCESSED else a for r, a in found.items()}

    stack.enter_context(patch.object(send, "_answers", answers))


@_bug
def no_answer_is_success(stack: ExitStack) -> None:
    original = send._answers

    def answers(requests: Mapping[str, Any], response: Mapping[str, Any]) -> dict[str, Answer]:
        done = Answer(status=Status.SUCCESS, metering_record_id="done")
        return {r: done if a.status is Status.UNKNOWN else a for r, a in original(requests, response).items()}

    stack.enter_context(patch.object(send, "_answers", answers))


@_bug
def lost_reply_is_a_refusal(stack: ExitStack) -> None:
    def status_of(error: BaseException, *, alone: bool) -> Status:
        del error, alone
        return Status.UNPROCESSED

    stack.enter_context(patch.object(send, "_status_of", status_of))


@_bug
def remainder_not_carried(stack: ExitStack) -> None:
    stack.enter_context(patch.object(metering._SeriesSealing, "_carry", lambda _: None))


@_bug
def remainder_lost(stack: ExitStack) -> None:
    original = LedgerState.apply

    def apply(self: LedgerState, manifest: Manifest) -> None:
        original(self, manifest)
        for series in self.series.values():
            series.remainder = Fraction(0)

    stack.enter_context(patch.object(LedgerState, "apply", apply))


@_bug
def folded_twice(stack: ExitStack) -> None:
    original = LedgerState.apply

    def apply(self: LedgerState, manifest: Manifest) -> None:
        original(self, manifest)
        for record in manifest.records:
            for source in record.sources:
                self.series[record.series].accounted[source.hour] += source.quantity

    stack.enter_context(patch.object(LedgerState, "apply", apply))


@_bug
def blind_overwrite(stack: ExitStack) -> None:
    original = MemoryObjects.put_new

    def put_new(self: MemoryObjects, key: str, content: bytes) -> bool:
        original(self, key, content)
        self._objects[key] = content
        return True

    stack.enter_context(patch.object(MemoryObjects, "put_new", put_new))


def _outcome(
    stack: ExitStack, found: Callable[[list[Status | None]], tuple[Outcome, LossReason | None] | None]
) -> None:
    original = metering.outcome

    def outcome(statuses: Any, *, is_over: bool) -> tuple[Outcome, LossReason | None]:
        answers = list(statuses)
        return found(answers) or original(answers, is_over=is_over)

    stack.enter_context(patch.object(meter, "outcome", outcome))


@_bug
def refusal_after_silence_is_a_loss(stack: ExitStack) -> None:
    original = metering.outcome

    def outcome(statuses: Any, *, is_over: bool) -> tuple[Outcome, LossReason | None]:
        return original([s for s in statuses if s not in {None, Status.UNKNOWN}], is_over=is_over)

    stack.enter_context(patch.object(meter, "outcome", outcome))


@_bug
def duplicate_is_a_loss(stack: ExitStack) -> None:
    _outcome(
        stack,
        lambda answers: (
            (Outcome.LOST, LossReason.REFUSED)
            if Status.DUPLICATE_RECORD in answers and Status.SUCCESS not in answers
            else None
        ),
    )


@_bug
def duplicate_is_a_success(stack: ExitStack) -> None:
    _outcome(stack, lambda answers: (Outcome.ACCEPTED, None) if Status.DUPLICATE_RECORD in answers else None)


@_bug
def duplicate_is_billed_again(stack: ExitStack) -> None:
    duplicate_is_a_loss(stack)
    original = LedgerState._settle

    def settle(self: LedgerState, settlement: Settlement) -> None:
        record = self.records.get(settlement.record)
        if record is not None and settlement.reason is LossReason.REFUSED:
            for source in record.sources:
                self.series[record.series].accounted[source.hour] -= source.quantity
            self.again |= {source.hour for source in record.sources}
        original(self, settlement)

    stack.enter_context(patch.object(LedgerState, "_settle", settle))


@_bug
def late_usage_dropped(stack: ExitStack) -> None:
    original = totals.MemoryUsageLog.read

    def read(self: Any, hour: datetime, **given: Any) -> Any:
        return replace(original(self, hour, **given), also=frozenset())

    stack.enter_context(patch.object(totals.MemoryUsageLog, "read", read))


@_bug
def doubled_lines_counted(stack: ExitStack) -> None:
    original = totals.read_line
    number = iter(range(10**9))

    def read_line(text: bytes) -> Any:
        line = original(text)
        return line and {**line, "extended_request_id": f"{line['extended_request_id']}/{next(number)}"}

    stack.enter_context(patch.object(totals, "read_line", read_line))


@_bug
def slot_used_again(stack: ExitStack) -> None:
    original = metering._SeriesSealing._is_free

    def is_free(self: Any, slot: datetime) -> bool:
        with patch.object(self._state, "slots", set()):
            return original(self, slot)

    stack.enter_context(patch.object(metering._SeriesSealing, "_is_free", is_free))


@_bug
def month_end_crossed(stack: ExitStack) -> None:
    def slot_for(self: Any, hour: datetime) -> datetime | None:
        end = self._buyer.ended_at
        if end is not None:
            return self._final_slot(hour, end)  # type: ignore[no-any-return]
        while hour <= metering.hour_of(self._now) - timedelta(hours=1):
            if self._is_free(hour):
                return hour
            hour += timedelta(hours=1)
        return None

    stack.enter_context(patch.object(metering._SeriesSealing, "_slot_for", slot_for))


@_bug
def renewal_takes_the_hour_of_the_old_licence(stack: ExitStack) -> None:
    stack.enter_context(patch.object(buyers, "_with_slots", dict))


@_bug
def calls_after_the_end_billed(stack: ExitStack) -> None:
    original = totals.MemoryUsageLog.read

    def read(self: Any, hour: datetime, *, lives: Any, **given: Any) -> Any:
        last = {life.agreement: life for life in lives if life.agreement == life.owner}
        return original(self, hour, lives=[replace(one, ends_at=buyers.FOREVER) for one in last.values()], **given)

    stack.enter_context(patch.object(totals.MemoryUsageLog, "read", read))


@_bug
def judged_by_the_policy_of_today(stack: ExitStack) -> None:
    original = totals.PlanTimeline.at

    def at(self: Any, hour: datetime) -> Any:
        return original(self, hour + timedelta(hours=2))

    stack.enter_context(patch.object(totals.PlanTimeline, "at", at))


@_bug
def judged_by_the_version_before_the_change(stack: ExitStack) -> None:
    original = totals.PlanTimeline.at

    def at(self: Any, hour: datetime) -> Any:
        return original(self, hour) | original(self, hour - timedelta(hours=1))

    stack.enter_context(patch.object(totals.PlanTimeline, "at", at))


@_bug
def rollback_forgotten(stack: ExitStack) -> None:
    original = plans.due_versions

    def due_versions(known: Sequence[PlanVersion], deployed: Any, *, now: datetime) -> Any:
        said = {(version.plan, version.digest) for version in known}
        return tuple(v for v in original(known, deployed, now=now) if (v.plan, v.digest) not in said)

    stack.enter_context(patch.object(plans, "due_versions", due_versions))


@_bug
def first_of_two_deployments_holds(stack: ExitStack) -> None:
    original = totals.holding

    def holding(versions: Any, at: datetime) -> Any:
        return original([version for version in versions if version.number == 1], at)

    stack.enter_context(patch.object(totals, "holding", holding))


@_bug
def hour_that_a_document_names_ignored(stack: ExitStack) -> None:
    original = plans._deployed

    def deployed(*given: Any) -> Any:
        return original(*given)[0], None

    stack.enter_context(patch.object(plans, "_deployed", deployed))


@_bug
def withdrawn_announcement_holds(stack: ExitStack) -> None:
    original = plans.due_versions

    def due_versions(known: Sequence[PlanVersion], deployed: Any, *, now: datetime) -> Any:
        due = original(known, deployed, now=now)
        return tuple(one for one in due if one.number == 1 or one.holds_from == next_hour(now))

    stack.enter_context(patch.object(plans, "due_versions", due_versions))


@_bug
def retired_plan_forgotten(stack: ExitStack) -> None:
    original = totals.holding

    def holding(versions: Any, at: datetime) -> Any:
        return {plan: version for plan, version in original(versions, at).items() if version.assign_to}

    stack.enter_context(patch.object(totals, "holding", holding))


@_bug
def refused_route_billed(stack: ExitStack) -> None:
    original = totals.PlanTimeline._table

    def table(self: Any, version: PlanVersion) -> Any:
        found = original(self, version)
        return replace(found, routes=tuple(replace(route, is_allowed=True) for route in found.routes))

    stack.enter_context(patch.object(totals.PlanTimeline, "_table", table))


@_bug
def deployment_holds_from_the_hour_that_has_begun(stack: ExitStack) -> None:
    stack.enter_context(patch.object(plan_versions, "next_hour", plan_versions.hour_of))


@_bug
def late_lines_judged_by_the_policy_of_today(stack: ExitStack) -> None:
    original = meter.Meter._read

    def read(self: Any, hour: datetime, who: Any, now: datetime, *, since: datetime | None = None) -> Any:
        if since is not None:
            return original(self, hour, who, now, since=since)
        tables = self._ports.plans.at(now)
        with patch.object(totals.PlanTimeline, "at", lambda *_: tables):
            return original(self, hour, who, now)

    stack.enter_context(patch.object(meter.Meter, "_read", read))


@_bug
def hour_with_unknown_routes_not_held(stack: ExitStack) -> None:
    stack.enter_context(patch.object(meter.Meter, "_held_until", lambda _, hour: hour))


@_bug
def plan_of_a_kept_answer_believed(stack: ExitStack) -> None:
    def planned(starts_at: datetime, ends_at: datetime, _: Any) -> Any:
        yield starts_at, ends_at, ""

    stack.enter_context(patch.object(buyers, "_planned", planned))


@_bug
def waiting_usage_forgotten(stack: ExitStack) -> None:
    original = meter.Meter._next

    def forget(self: Any, state: Any, now: datetime, **said: Any) -> Any:
        return original(self, state, now, **({**said, "again": ()} if "again" in said else said))

    stack.enter_context(patch.object(meter.Meter, "_next", forget))


@_bug
def usage_without_a_plan_forgotten(stack: ExitStack) -> None:
    _events_left(stack, lambda state: state == metering.UNPLANNED)


@_bug
def usage_outside_an_agreement_forgotten(stack: ExitStack) -> None:
    _events_left(stack, lambda state: state != metering.UNPLANNED)


def _events_left(stack: ExitStack, is_forgotten: Callable[[str], bool]) -> None:
    original = usage_events._Judged.leave

    def leave(self: Any, agreement: str, state: str, *given: Any, **counted: Any) -> None:
        if not is_forgotten(state):
            original(self, agreement, state, *given, **counted)

    stack.enter_context(patch.object(usage_events._Judged, "leave", leave))


@_bug
def unmatched_lines_forgotten(stack: ExitStack) -> None:
    original = totals._Sums.leave

    def leave(self: Any, agreement: str, state: str, *given: Any, **counted: Any) -> None:
        if state != LineState.UNMATCHED:
            original(self, agreement, state, *given, **counted)

    stack.enter_context(patch.object(totals._Sums, "leave", leave))


@_bug
def calls_never_given_up(stack: ExitStack) -> None:
    stack.enter_context(patch.object(meter, "given_up", lambda *_, **__: ()))


def _events(stack: ExitStack, change: Callable[[Event], Event]) -> None:
    original = usage_events.read_event

    def read_event(text: bytes) -> Event | None:
        event = original(text)
        return event and change(event)

    stack.enter_context(patch.object(usage_events, "read_event", read_event))


@_bug
def events_known_by_id_alone(stack: ExitStack) -> None:
    _events(stack, lambda event: event._replace(source=""))


@_bug
def copy_with_another_time_counted(stack: ExitStack) -> None:
    _events(stack, lambda event: event._replace(event_id=f"{event.event_id}/{event.time_ms}"))


@_bug
def last_copy_of_an_event_counts(stack: ExitStack) -> None:
    original = usage_events._arrivals
    stack.enter_context(patch.object(usage_events, "_arrivals", lambda *given: original(*given)[::-1]))


@_bug
def first_copy_of_an_event_forgotten(stack: ExitStack) -> None:
    stack.enter_context(patch.object(usage_events, "COPIES_WITHIN", timedelta(0)))


@_bug
def event_rounded_to_float(stack: ExitStack) -> None:
    original = usage_events.event_quantity

    def event_quantity(whole_sum: int, fraction_sum: int, *, multiply: Decimal) -> Fraction:
        return Fraction(float(original(whole_sum, fraction_sum, multiply=multiply)))

    stack.enter_context(patch.object(usage_events, "event_quantity", event_quantity))


def catches(bug: str, seed: int) -> bool:
    """Whether a seed notices a bug."""
    with planted(bug):
        return bool(run_seed(seed, duckdb_every=None)[1])
