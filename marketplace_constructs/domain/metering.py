"""Metering: from exact usage per hour to records that AWS Marketplace bills once, and what became of each.

A ledger is a chain of manifests; its state is nothing but their fold. What an hour's calls come to is always worked out
anew and whole, and only the difference to what the ledger already holds is sealed. So doubled, late and reordered log
files need no memory of their own. A sealed record never changes. This module decides; it has no clock and no I/O.

For each agreement and dimension, at any time and exactly::

    usage of the hours taken in = records (accepted, open, in doubt, lost) + remainder + losses

Calls and usage events that no table judges have no dimension; they are a loss once their hour is worked out no more
(``given_up``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from marketplace_constructs.domain.metering_rules import MeteringRules
from marketplace_constructs.domain.plan_table import LineState

MAX_BATCH: Final = 25
"""Source: AWS Marketplace API reference, BatchMeterUsage, UsageRecords (read 2026-11-21)."""
MAX_ALLOCATIONS: Final = 2_500
"""Source: AWS Marketplace API reference, UsageRecord, UsageAllocations (read 2026-11-21)."""
KEPT: Final = timedelta(hours=48)
"""How long before the last closed hour a ledger's state goes back: no hour before is ever worked out again."""
EVENT: Final = "event:"
"""With an event's name, what stands instead of a dimension where its agreement has no plan that says what it counts."""
UNPLANNED: Final = "unplanned"
"""State of such an event."""
EVENT_OUTSIDE: Final = f"/{LineState.OUTSIDE}"
"""Behind an event's name, where it is of no agreement that lived then; no event's name has a slash."""
NOBODY: Final = "-"
"""What stands instead of agreements that nobody knows, where an hour's events name too many, or maybe a person."""
CALL: Final = "call:"
"""With the state of a call that was served and no table judges, what stands instead of a dimension; no key of one has a
colon."""
OTHER: Final = "other"
"""The path of an allocation that stands for all that have none of their own."""

_HOUR: Final = timedelta(hours=1)


class LossReason(StrEnum):
    """Why usage cannot be billed."""

    OUT_OF_WINDOW = "out-of-window"
    """AWS takes nothing that old any more."""
    MONTH_END = "month-end"
    """It came too late for its month; a month's usage is never billed in the next."""
    AGREEMENT_ENDED = "agreement-ended"
    """No hour is left in the life of its agreement, or the time to report the last ones is over."""
    REMAINDER = "remainder"
    """Less than AWS can be told of, when the agreement ended."""
    NOT_SUBSCRIBED = "not-subscribed"
    """AWS refused it each time: CustomerNotSubscribed."""
    REFUSED = "refused"
    """AWS refused it by itself, with an error of the request, until it took nothing that old any more."""
    TOO_MUCH = "too-much"
    """More than one record can hold, and no other hour is free."""
    NO_PLAN = "no-plan"
    """Its agreement had no plan, so that nobody knew what it counted."""
    NO_ROUTE = "no-route"
    """Calls on a route that no table of their plan knew, or under a plan that nobody recorded."""
    OUTSIDE_AGREEMENT = "outside-agreement"
    """Calls and usage events from before their agreement began or after it was over, or of one whose licence AWS did
    not tell; and usage events of one that nobody knows."""
    BETWEEN_METERS = "between-meters"
    """It was used after API Gateway's own meter was switched off, and before this one could bill."""
    RELEASED = "released"
    """A person decided that it is not billed."""


class Outcome(StrEnum):
    """What became of a sealed record."""

    OPEN = "open"
    ACCEPTED = "accepted"
    IN_DOUBT = "in-doubt"
    """AWS may hold it, or another quantity in its place. Never billed again by itself."""
    LOST = "lost"


class Status(StrEnum):
    """What AWS answered for one record. The first three are BatchMeterUsage's own.

    Source: AWS Marketplace API reference, UsageRecordResult (read 2026-11-21).
    """

    SUCCESS = "Success"
    CUSTOMER_NOT_SUBSCRIBED = "CustomerNotSubscribed"
    DUPLICATE_RECORD = "DuplicateRecord"
    UNPROCESSED = "Unprocessed"
    """It came back in UnprocessedRecords, or the whole request was throttled: nothing was recorded."""
    REFUSED = "Refused"
    """The whole request was refused because of this record, which was alone in it."""
    UNKNOWN = "Unknown"
    """No answer, or one from which nothing follows: it may have been recorded."""


@dataclass(frozen=True, kw_only=True, order=True)
class Series:
    """What AWS tells apart, hour by hour: one dimension of one agreement."""

    agreement: str
    dimension: str


@dataclass(frozen=True, kw_only=True)
class Buyer:
    """Under which identity an agreement is metered, and between which instants.

    Args:
        customer_aws_account_id: With ``license_arn``, of a concurrent agreement; empty for a legacy one.
        license_arn: As ResolveCustomer or GetEntitlements spells it.
        customer_identifier: Of a legacy agreement, metered with the product code; empty for a concurrent one.
        started_at: Nothing before counts. A whole second, as AWS is told no smaller ones.
        ended_at: Nothing from then on counts; None while it lives.
        slots_from: The first hour that is its own, where another agreement was metered under the same identity before:
            AWS bills one record an hour for both. None where there was none.
    """

    customer_aws_account_id: str = ""
    license_arn: str = ""
    customer_identifier: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    slots_from: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one hour's calls come to for one series, worked out anew from the log.

    Args:
        quantity: In the dimension's unit, exact, >= 0.
        earliest: When the first of these calls came.
        by_path: The same quantity by resource path.
    """

    quantity: Fraction
    earliest: datetime
    by_path: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A part of a record: usage of one hour."""

    hour: datetime
    quantity: Fraction


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A part of a record's quantity that the buyer sees by itself."""

    path: str
    quantity: Decimal


@dataclass(frozen=True, kw_only=True)
class Record:
    """One usage record, sealed: what is sent, however often it is sent.

    Args:
        id: Unique in the ledger.
        series: Agreement and dimension.
        buyer: The identity it is sent under.
        timestamp: Inside its slot and the agreement's life.
        quantity: At most ten digits before the point and six after it.
        sources: The hours that it bills, oldest first; none for an hour without usage.
        allocations: They sum to the quantity; none where it has no paths.
    """

    id: str
    series: Series
    buyer: Buyer
    timestamp: datetime
    quantity: Decimal
    sources: tuple[Source, ...] = ()
    allocations: tuple[Allocation, ...] = ()

    @property
    def slot(self) -> datetime:
        """The hour that it takes: AWS bills one record for each."""
        return hour_of(self.timestamp)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Usage that is not billed.

    Args:
        hour: The hour of the usage; for a remainder, the hour of the end.
        quantity: Exact, > 0.
    """

    series: Series
    hour: datetime
    quantity: Fraction
    reason: LossReason


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """What became of a record, once it is known.

    Args:
        outcome: Accepted, in doubt or lost.
        metering_record_id: AWS's proof of an accepted one.
        reason: Of a lost one.
    """

    record: str
    outcome: Outcome
    metering_record_id: str = ""
    reason: LossReason | None = None


@dataclass(frozen=True, kw_only=True)
class ClosedHour:
    """An hour of the log that was read whole.

    Args:
        lines: Distinct lines by their state.
        quarantined: Lines that cannot be read; they count nothing until they are mended.
        unjudged: What was served to a named agreement and no table judges: calls, whatever the answer was, and usage
            events without a plan or outside their agreement, as they were told. It is lost once the hour is worked out
            no more.
            None where a version closed it that did not tell.
    """

    hour: datetime
    lines: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0
    unjudged: Mapping[Series, Fraction] | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One link of the ledger's chain.

    Args:
        sequence: From 1, without a gap.
        previous: SHA-256 of the link before; empty for the first.
        written_at: For people; nothing is decided by it.
        read_at: When the log's files were listed that its closed hours rest on; None where it closes none. Whatever
            files came later are looked through by the next one that closes any.
        again: With ``read_at``: closed hours that are to be worked out again all the same, because some of their
            usage found no slot yet.
    """

    sequence: int
    previous: str
    written_at: datetime
    closed: tuple[ClosedHour, ...] = ()
    records: tuple[Record, ...] = ()
    losses: tuple[Loss, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    read_at: datetime | None = None
    again: tuple[datetime, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it would say nothing."""
        return not (self.closed or self.records or self.losses or self.settlements)


@dataclass
class SeriesState:
    """Where one series stands.

    Args:
        remainder: Usage taken in and not yet in a record: less than the smallest quantity, 0 or more.
        accounted: What records and losses hold of each hour.
        slots: Hours that a record was sealed in.
    """

    remainder: Fraction = Fraction(0)
    accounted: dict[datetime, Fraction] = field(default_factory=dict)
    slots: set[datetime] = field(default_factory=set)


@dataclass
class LedgerState:
    """The fold of a chain of manifests.

    Args:
        sequence: Of the last manifest; 0 for an empty ledger.
        records: Those that are open, in doubt, or lost for so short a time that an attempt of another process may still
            show otherwise; all others are in the chain alone.
        in_doubt: Ids of those in doubt.
        lost: Ids of those lost, and why.
        closed: The hours that may be worked out again.
        read_at: Of the last manifest that closed an hour.
        again: The same.
    """

    sequence: int = 0
    series: dict[Series, SeriesState] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    lost: dict[str, LossReason | None] = field(default_factory=dict)
    closed: dict[datetime, ClosedHour] = field(default_factory=dict)
    read_at: datetime | None = None
    again: frozenset[datetime] = frozenset()

    @property
    def open(self) -> tuple[Record, ...]:
        """The records that are to be sent, or whose answer is not known, the oldest first."""
        found = [r for r in self.records.values() if r.id not in self.in_doubt and r.id not in self.lost]
        return tuple(sorted(found, key=lambda record: (record.timestamp, record.id)))

    def stands(self, record: str) -> tuple[Outcome, LossReason | None]:
        """What the ledger says of one of its records."""
        if record in self.in_doubt:
            return Outcome.IN_DOUBT, None
        return (Outcome.LOST, self.lost[record]) if record in self.lost else (Outcome.OPEN, None)

    def apply(self, manifest: Manifest) -> None:
        """Take the next manifest in.

        Raises:
            ValueError: It is not the next one.
        """
        if manifest.sequence != self.sequence + 1:
            raise ValueError(f"manifest, got {manifest.sequence} after {self.sequence}; expected the next one")
        self.sequence = manifest.sequence
        self.closed.update({closed.hour: closed for closed in manifest.closed})
        for record in manifest.records:
            state = self.series.setdefault(record.series, SeriesState())
            for source in record.sources:
                state.accounted[source.hour] = state.accounted.get(source.hour, Fraction(0)) + source.quantity
                state.remainder += source.quantity
            state.remainder -= Fraction(record.quantity)
            state.slots.add(record.slot)
            self.records[record.id] = record
        for loss in manifest.losses:
            state = self.series.setdefault(loss.series, SeriesState())
            if loss.reason is LossReason.REMAINDER:
                state.remainder -= loss.quantity
            else:
                state.accounted[loss.hour] = state.accounted.get(loss.hour, Fraction(0)) + loss.quantity
        for settlement in manifest.settlements:
            self._settle(settlement)
        if manifest.read_at is not None:
            self.read_at, self.again = manifest.read_at, frozenset(manifest.again)
        if manifest.closed:
            self._forget_before(max(self.closed) - KEPT)

    def _settle(self, settlement: Settlement) -> None:
        if settlement.record not in self.records:
            return
        self.in_doubt.discard(settlement.record)
        self.lost.pop(settlement.record, None)
        if settlement.outcome is Outcome.IN_DOUBT:
            self.in_doubt.add(settlement.record)
        elif settlement.outcome is Outcome.LOST and settlement.reason is not LossReason.RELEASED:
            self.lost[settlement.record] = settlement.reason
        else:
            self.records.pop(settlement.record, None)

    def _forget_before(self, hour: datetime) -> None:
        """Drop what no longer decides anything: hours whose usage is not worked out any more."""
        for series, state in list(self.series.items()):
            state.accounted = {h: quantity for h, quantity in state.accounted.items() if h >= hour}
            state.slots = {slot for slot in state.slots if slot >= hour}
            if not (state.accounted or state.slots or state.remainder):
                del self.series[series]
        self.closed = {h: closed for h, closed in self.closed.items() if h >= hour}
        for record in [r for r in self.lost if self.records[r].timestamp < hour]:
            del self.lost[record], self.records[record]


UNJUDGED: Final = MappingProxyType(
    {
        f"{CALL}{LineState.UNMATCHED}": LossReason.NO_ROUTE,
        f"{CALL}{LineState.OUTSIDE}": LossReason.OUTSIDE_AGREEMENT,
    }
)
"""What stands instead of a dimension for calls that no table judges, and why they are lost in the end."""


def is_outside(series: Series) -> bool:
    """Whether it stands for calls or usage events of no agreement that lived then."""
    return _why_unjudged(series) is LossReason.OUTSIDE_AGREEMENT


def _why_unjudged(series: Series) -> LossReason:
    is_event_outside = series.dimension.startswith(EVENT) and series.dimension.endswith(EVENT_OUTSIDE)
    return LossReason.OUTSIDE_AGREEMENT if is_event_outside else UNJUDGED.get(series.dimension, LossReason.NO_PLAN)


def given_up(
    state: LedgerState, closed: Iterable[ClosedHour], *, billed_from: datetime | None = None
) -> tuple[Loss, ...]:
    """What no table judged, of hours that are worked out no more: late lines, tables or facts change nothing.

    Until then it may still turn out to be billable; so nothing is ever both billed and lost.

    Args:
        state: The ledger.
        closed: The hours that the next manifest takes in.
        billed_from: As for ``seal``.
    """
    hours = state.closed | {one.hour: one for one in closed}
    kept = max(hours) - KEPT
    return tuple(
        Loss(
            series=series,
            hour=hour,
            quantity=quantity,
            reason=(
                LossReason.BETWEEN_METERS if billed_from is not None and hour < billed_from else _why_unjudged(series)
            ),
        )
        for hour, one in sorted(hours.items())
        if hour < kept
        for series, quantity in sorted((one.unjudged or {}).items())
    )


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What a run of sealing decided.

    Args:
        waiting: Usage that has no slot yet and will have one within the hour; worked out anew then.
        excess: Usage that the ledger holds and the log no longer shows: alarmed, never taken back.
    """

    records: tuple[Record, ...]
    losses: tuple[Loss, ...]
    waiting: Mapping[Series, Fraction]
    excess: Mapping[Series, Fraction]


def hour_of(instant: datetime) -> datetime:
    """The UTC hour that an instant lies in, by its beginning."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def seal(
    state: LedgerState,
    usage: Mapping[Series, Mapping[datetime, Usage]],
    buyers: Mapping[str, Buyer],
    *,
    dimensions: Sequence[str],
    closed: Sequence[datetime],
    now: datetime,
    rules: MeteringRules,
    record_id_prefix: str,
    billed_from: datetime | None = None,
) -> Sealed:
    """Seal what the ledger does not hold yet.

    Args:
        state: The ledger.
        usage: By series and hour, whole and exact. Hours that are still going on are given only for agreements
            that have ended.
        buyers: Every agreement that has usage or lives.
        dimensions: The usage dimensions of the product, for hours without usage.
        closed: The hours that are closed by this run.
        now: Decides what AWS still takes.
        rules: How AWS wants to be told.
        record_id_prefix: Makes the records' ids unique in the ledger.
        billed_from: Usage of hours before is lost, and none of them takes a record. None: there are none.
    """
    records: list[Record] = []
    losses: list[Loss] = []
    waiting: dict[Series, Fraction] = {}
    excess: dict[Series, Fraction] = {}
    live = {
        Series(agreement=a, dimension=d) for a, buyer in buyers.items() if _overlaps(buyer, closed) for d in dimensions
    }
    for series in sorted({*usage, *live, *(s for s in state.series if s.agreement in buyers)}):
        one = _SeriesSealing(
            series,
            state.series.get(series, SeriesState()),
            usage.get(series, {}),
            buyers[series.agreement],
            closed=closed if series in live else (),
            now=now,
            rules=rules,
            billed_from=billed_from,
        )
        one.run()
        for draft in one.drafts:
            records.append(draft.to_record(f"{record_id_prefix}{len(records)}", rules))
        losses += one.losses
        if one.waiting:
            waiting[series] = one.waiting
        if one.excess:
            excess[series] = one.excess
    return Sealed(records=tuple(records), losses=tuple(losses), waiting=waiting, excess=excess)


def _overlaps(buyer: Buyer, hours: Iterable[datetime]) -> bool:
    return any(hour + _HOUR > buyer.started_at and (buyer.ended_at is None or hour < buyer.ended_at) for hour in hours)


@dataclass
class _Draft:
    """A record in the making: a slot and the usage that goes into it."""

    series: Series
    buyer: Buyer
    slot: datetime
    carried: Fraction
    sources: list[Source] = field(default_factory=list)
    earliest: datetime | None = None
    by_path: dict[str, Fraction] = field(default_factory=dict)

    @property
    def exact(self) -> Fraction:
        return self.carried + sum((source.quantity for source in self.sources), Fraction(0))

    def timestamp(self) -> datetime:
        start = max(self.slot, self.buyer.started_at)
        if self.earliest is None or hour_of(self.earliest) != self.slot:
            return start
        return max(start, self.earliest.replace(microsecond=0))

    def to_record(self, record_id: str, rules: MeteringRules) -> Record:
        quantity = floored(self.exact, rules.decimals)
        return Record(
            id=record_id,
            series=self.series,
            buyer=self.buyer,
            timestamp=self.timestamp(),
            quantity=quantity,
            sources=tuple(sorted(self.sources, key=lambda source: source.hour)),
            allocations=allocations(self.by_path, quantity, rules.decimals),
        )


class _SeriesSealing:
    """Finds each hour's usage a slot, or says why there is none."""

    def __init__(
        self,
        series: Series,
        state: SeriesState,
        usage: Mapping[datetime, Usage],
        buyer: Buyer,
        *,
        closed: Sequence[datetime],
        now: datetime,
        rules: MeteringRules,
        billed_from: datetime | None,
    ) -> None:
        self._series, self._state, self._usage, self._buyer = series, state, usage, buyer
        self._closed, self._now, self._rules, self._billed_from = closed, now, rules, billed_from
        self._remainder = state.remainder
        self._drafts: dict[datetime, _Draft] = {}
        self.losses: list[Loss] = []
        self.waiting = Fraction(0)
        self.excess = Fraction(0)

    @property
    def drafts(self) -> list[_Draft]:
        return [draft for _, draft in sorted(self._drafts.items())]

    def run(self) -> None:
        for hour, usage in sorted(self._usage.items()):
            delta = usage.quantity - self._state.accounted.get(hour, Fraction(0))
            if delta < 0:
                self.excess -= delta
            elif delta > 0:
                self._place(hour, usage, delta)
        if self._rules.sends_zero and self._buyer.ended_at is None:
            for hour in self._closed:
                if self._is_free(hour) and hour not in self._drafts:
                    self._drafts[hour] = self._draft(hour)
        self._carry()
        self._end()

    def _place(self, hour: datetime, usage: Usage, delta: Fraction) -> None:
        if self._is_between_meters(hour):
            self._lose(hour, delta, LossReason.BETWEEN_METERS)
            return
        slot = self._slot_for(hour)
        if slot is not None:
            draft = self._drafts.setdefault(slot, self._draft(slot))
            draft.sources.append(Source(hour=hour, quantity=delta))
            if hour == slot:
                draft.earliest = usage.earliest
            share = delta / usage.quantity
            for path, quantity in usage.by_path.items():
                draft.by_path[path] = draft.by_path.get(path, Fraction(0)) + quantity * share
        elif self._may_wait(hour):
            self.waiting += delta
        else:
            self._lose(hour, delta, self._why_lost(hour))

    def _lose(self, hour: datetime, quantity: Fraction, reason: LossReason) -> None:
        self.losses.append(Loss(series=self._series, hour=hour, quantity=quantity, reason=reason))

    def _is_between_meters(self, hour: datetime) -> bool:
        return self._billed_from is not None and hour < self._billed_from

    def _slot_for(self, hour: datetime) -> datetime | None:
        """The hour itself, or the next free one of the same month that is over."""
        end = self._buyer.ended_at
        if end is not None:
            return self._final_slot(hour, end)
        slot = hour
        last = hour_of(self._now) - _HOUR
        while slot <= last and (slot.year, slot.month) == (hour.year, hour.month):
            if self._is_free(slot):
                return slot
            slot += _HOUR
        return None

    def _final_slot(self, hour: datetime, end: datetime) -> datetime | None:
        """Of an agreement that ended: the earliest free slot at once, the last one kept for the final flush."""
        if self._now >= end + self._rules.last_flush:
            return None
        last = hour_of(end - timedelta(microseconds=1))
        slot = max(hour_of(self._buyer.started_at), hour_of(self._now - self._rules.window))
        free = []
        while slot <= last:
            if self._is_free(slot) and (slot.year, slot.month) == (hour.year, hour.month):
                free.append(slot)
            slot += _HOUR
        is_final = self._now >= end + self._rules.final_flush
        if is_final:
            return free[-1] if free else None
        return free[0] if len(free) > 1 else None

    def _is_free(self, slot: datetime) -> bool:
        buyer = self._buyer
        if slot in self._state.slots or slot + _HOUR <= buyer.started_at or self._is_between_meters(slot):
            return False
        if buyer.slots_from is not None and slot < buyer.slots_from:
            return False
        if buyer.ended_at is not None and max(slot, buyer.started_at) >= buyer.ended_at:
            return False
        return slot <= self._now and self._rules.is_taken(max(slot, buyer.started_at), self._now)

    def _may_wait(self, hour: datetime) -> bool:
        """Whether a slot will be there within the hour."""
        end = self._buyer.ended_at
        if end is not None:
            return self._now < end + self._rules.final_flush
        coming = hour_of(self._now)
        return (coming.year, coming.month) == (hour.year, hour.month)

    def _why_lost(self, hour: datetime) -> LossReason:
        if self._buyer.ended_at is not None:
            return LossReason.AGREEMENT_ENDED
        now = hour_of(self._now)
        return LossReason.OUT_OF_WINDOW if (now.year, now.month) == (hour.year, hour.month) else LossReason.MONTH_END

    def _draft(self, slot: datetime) -> _Draft:
        return _Draft(series=self._series, buyer=self._buyer, slot=slot, carried=Fraction(0))

    def _carry(self) -> None:
        """Hand the remainder from record to record, oldest first; keep each within what one can hold."""
        for draft in self.drafts:
            draft.carried = self._remainder
            too_much = draft.exact - Fraction(self._rules.max_quantity)
            if too_much > 0:
                self._take_from(draft, too_much)
            self._remainder = draft.exact - Fraction(floored(draft.exact, self._rules.decimals))

    def _take_from(self, draft: _Draft, too_much: Fraction) -> None:
        for index, source in reversed(list(enumerate(draft.sources))):
            part = min(too_much, source.quantity)
            draft.sources[index] = Source(hour=source.hour, quantity=source.quantity - part)
            self._lose(source.hour, part, LossReason.TOO_MUCH)
            too_much -= part
            if too_much <= 0:
                return

    def _end(self) -> None:
        """When the last record of an agreement is sealed or impossible, its remainder is lost."""
        end = self._buyer.ended_at
        if end is None or self._now < end + self._rules.final_flush or self._remainder <= 0 or self.waiting:
            return
        self._lose(hour_of(end), self._remainder, LossReason.REMAINDER)


def floored(exact: Fraction, decimals: int) -> Decimal:
    """The largest quantity of so many decimals that is not above the exact one."""
    scale = 10**decimals
    return Decimal(exact.numerator * scale // exact.denominator).scaleb(-decimals)


def allocations(by_path: Mapping[str, Fraction], quantity: Decimal, decimals: int) -> tuple[Allocation, ...]:
    """A quantity by path, the largest first; what is rounded off or has no place of its own is ``other``.

    Args:
        by_path: Exact; a path's variables are written ``:id``, since AWS takes no braces.
        quantity: The record's.
        decimals: As the quantity has.

    Returns:
        At most 2,500 that sum to the quantity exactly; none for a quantity of 0 or without paths.
    """
    if not by_path or quantity <= 0:
        return ()
    parts: list[Allocation] = []
    rest = quantity
    for path, exact in sorted(by_path.items(), key=lambda item: (-item[1], item[0])):
        part = min(floored(exact, decimals), rest)
        if len(parts) == MAX_ALLOCATIONS - 1:
            break
        if part > 0:
            parts.append(Allocation(path=path, quantity=part))
            rest -= part
    if rest > 0:
        parts.append(Allocation(path=OTHER, quantity=rest))
    return tuple(parts)


def outcome(statuses: Iterable[Status | None], *, is_over: bool) -> tuple[Outcome, LossReason | None]:
    """What became of a record, from every attempt to send it.

    Args:
        statuses: The answer to each attempt, oldest first; None where there was none.
        is_over: AWS certainly takes it no more, and no attempt is under way.
    """
    answers = list(statuses)
    if Status.SUCCESS in answers:
        return Outcome.ACCEPTED, None
    is_unclear = any(answer in {None, Status.UNKNOWN} for answer in answers)
    if Status.DUPLICATE_RECORD in answers:
        return Outcome.IN_DOUBT, None
    is_unsubscribed = Status.CUSTOMER_NOT_SUBSCRIBED in answers
    if not is_unsubscribed and not is_over:
        # A refused request may be mended while AWS still takes it, such as a dimension that is missing in the listing.
        return Outcome.OPEN, None
    if is_unclear:
        # An earlier attempt may have been honoured, though a later one was refused.
        return Outcome.IN_DOUBT, None
    if is_unsubscribed:
        return Outcome.LOST, LossReason.NOT_SUBSCRIBED
    return Outcome.LOST, LossReason.REFUSED if Status.REFUSED in answers else LossReason.OUT_OF_WINDOW


def batches(
    records: Sequence[Record], size_of: Mapping[str, int], *, max_bytes: int = 1_000_000
) -> Iterator[tuple[Record, ...]]:
    """Records as requests: at most 25 and less than 1 MB each, in the order given.

    Args:
        records: Open ones.
        size_of: Bytes of each record as it is sent, by its id.
        max_bytes: Of one request. Source: BatchMeterUsage: less than 1 MB (read 2026-11-21).
    """
    batch: list[Record] = []
    size = 0
    for record in records:
        if batch and (len(batch) == MAX_BATCH or size + size_of[record.id] >= max_bytes):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(record)
        size += size_of[record.id]
    if batch:
        yield tuple(batch)
