"""Sealing and settling: no unit is billed twice, none disappears, and every record is one that AWS takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_constructs.domain.metering import (
    KEPT,
    MAX_ALLOCATIONS,
    OTHER,
    Buyer,
    ClosedHour,
    LedgerState,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Sealed,
    Series,
    Settlement,
    Status,
    Usage,
    allocations,
    batches,
    floored,
    hour_of,
    outcome,
    seal,
)
from marketplace_constructs.domain.metering_rules import MAX_QUANTITY, MAX_WHOLE_QUANTITY, MeteringRules

HOUR = timedelta(hours=1)
START = datetime(2026, 11, 30, 12, tzinfo=UTC)
SERIES = Series(agreement="agmt-1", dimension="calls")
RULES = MeteringRules()


class Ledger:
    """A ledger of one agreement, and the log as it stands."""

    def __init__(self, *, started_at: datetime = START, rules: MeteringRules = RULES) -> None:
        self.state = LedgerState()
        self.rules = rules
        self.started_at = started_at
        self.ended_at: datetime | None = None
        self.usage: dict[datetime, Usage] = {}
        self.records: list[Record] = []
        self.lost = Fraction(0)

    def call(self, at: datetime, quantity: Fraction = Fraction(1), path: str = "/v1/nouns") -> None:
        hour = hour_of(at)
        known = self.usage.get(hour, Usage(quantity=Fraction(0), earliest=at))
        by_path = {**known.by_path, path: known.by_path.get(path, Fraction(0)) + quantity}
        self.usage[hour] = Usage(quantity=known.quantity + quantity, earliest=min(at, known.earliest), by_path=by_path)

    def seal(self, now: datetime, closed: Sequence[datetime] = ()) -> Sealed:
        seen = {h: u for h, u in self.usage.items() if h + HOUR <= now or self.ended_at is not None}
        sealed = seal(
            self.state,
            {SERIES: seen} if seen else {},
            {SERIES.agreement: Buyer(customer_identifier="c", started_at=self.started_at, ended_at=self.ended_at)},
            dimensions=[SERIES.dimension],
            closed=list(closed),
            now=now,
            rules=self.rules,
            record_id_prefix=f"{self.state.sequence + 1}/",
        )
        self.state.apply(
            Manifest(
                sequence=self.state.sequence + 1,
                previous="",
                written_at=now,
                records=sealed.records,
                losses=sealed.losses,
            )
        )
        self.records += sealed.records
        self.lost += sum((loss.quantity for loss in sealed.losses), Fraction(0))
        waiting = sealed.waiting.get(SERIES, Fraction(0))
        remainder = self.state.series[SERIES].remainder if SERIES in self.state.series else Fraction(0)
        billed = sum((Fraction(record.quantity) for record in self.records), Fraction(0))
        assert sum((u.quantity for u in seen.values()), Fraction(0)) == billed + remainder + self.lost + waiting
        assert remainder >= 0
        assert len({record.slot for record in self.records}) == len(self.records)
        for record in sealed.records:
            assert self.started_at <= record.timestamp <= now
            assert self.ended_at is None or record.timestamp < self.ended_at
            assert self.rules.is_taken(record.timestamp, now)
            assert all((s.hour.year, s.hour.month) == (record.slot.year, record.slot.month) for s in record.sources)
            assert sum((a.quantity for a in record.allocations), Decimal(0)) in {record.quantity, Decimal(0)}
        return sealed


def test_an_hours_calls_are_one_record_at_the_time_of_the_first() -> None:
    ledger = Ledger()
    ledger.call(START + timedelta(minutes=7))
    ledger.call(START + timedelta(minutes=40))
    (record,) = ledger.seal(START + HOUR, [START]).records
    assert (record.quantity, record.timestamp) == (2, START + timedelta(minutes=7))
    assert not ledger.seal(START + HOUR, [START]).records


def test_an_hour_without_calls_is_told_where_aws_wants_it() -> None:
    assert [r.quantity for r in Ledger().seal(START + HOUR, [START]).records] == [0]
    assert not Ledger(rules=MeteringRules(sends_zero=False)).seal(START + HOUR, [START]).records


def test_a_record_never_precedes_its_agreement() -> None:
    ledger = Ledger(started_at=START + timedelta(minutes=37))
    (record,) = ledger.seal(START + HOUR, [START]).records
    assert record.timestamp == START + timedelta(minutes=37)


def test_late_usage_takes_the_next_free_hour_together_with_that_hours_own() -> None:
    ledger = Ledger()
    ledger.call(START)
    ledger.seal(START + HOUR, [START])
    ledger.call(START + timedelta(minutes=50))
    ledger.call(START + HOUR)
    (record,) = ledger.seal(START + 2 * HOUR, [START + HOUR]).records
    assert record.quantity == 2
    assert [source.hour for source in record.sources] == [START, START + HOUR]


def test_late_usage_waits_while_no_hour_is_free_yet() -> None:
    ledger = Ledger()
    ledger.call(START)
    ledger.seal(START + HOUR, [START])
    ledger.call(START + timedelta(minutes=50))
    sealed = ledger.seal(START + HOUR + timedelta(minutes=10))
    assert not sealed.records
    assert sealed.waiting == {SERIES: 1}


def test_a_months_usage_is_never_billed_in_the_next() -> None:
    last = datetime(2026, 11, 30, 23, tzinfo=UTC)
    ledger = Ledger()
    ledger.call(last)
    ledger.seal(last + HOUR, [last])
    ledger.call(last + timedelta(minutes=59))
    sealed = ledger.seal(last + 2 * HOUR, [last + HOUR])
    assert [(loss.reason, loss.quantity) for loss in sealed.losses] == [(LossReason.MONTH_END, 1)]


def test_the_last_months_hours_are_given_up_before_six_on_the_first() -> None:
    last = datetime(2026, 11, 30, 23, tzinfo=UTC)
    ledger = Ledger()
    ledger.call(last)
    assert not ledger.seal(datetime(2026, 12, 1, 5, 50, tzinfo=UTC), [last]).records
    assert ledger.lost == 1


def test_a_fraction_is_carried_to_the_next_record() -> None:
    ledger = Ledger(rules=MeteringRules(decimals=0))
    for hour in range(3):
        ledger.call(START + hour * HOUR, Fraction(1, 3))
    quantities = [ledger.seal(START + (h + 1) * HOUR, [START + h * HOUR]).records[0].quantity for h in range(3)]
    assert quantities == [0, 0, 1]


def test_an_agreement_that_ends_is_flushed_at_once_and_once_more() -> None:
    ledger = Ledger()
    ledger.call(START + timedelta(minutes=50))
    ledger.call(START + HOUR + timedelta(minutes=3))
    ledger.ended_at = START + HOUR + timedelta(minutes=5)
    (first,) = ledger.seal(ledger.ended_at + timedelta(minutes=1)).records
    assert (first.slot, first.quantity) == (START, 2)
    ledger.call(START + HOUR + timedelta(minutes=4))
    (final,) = ledger.seal(ledger.ended_at + timedelta(minutes=45)).records
    assert (final.slot, final.quantity) == (START + HOUR, 1)


def test_the_only_hour_left_is_kept_for_the_final_flush() -> None:
    ledger = Ledger()
    ledger.seal(START + HOUR, [START])
    ledger.call(START + HOUR + timedelta(minutes=3))
    ledger.ended_at = START + HOUR + timedelta(minutes=5)
    assert ledger.seal(ledger.ended_at).waiting == {SERIES: 1}
    (final,) = ledger.seal(ledger.ended_at + timedelta(minutes=45)).records
    assert final.quantity == 1


def test_what_comes_after_the_final_window_is_lost_with_its_reason() -> None:
    ledger = Ledger()
    ledger.ended_at = START + timedelta(minutes=5)
    ledger.call(START)
    ledger.seal(ledger.ended_at + HOUR)
    assert ledger.lost == 1


def test_a_fraction_at_the_end_is_lost_with_its_reason() -> None:
    ledger = Ledger(rules=MeteringRules(decimals=0))
    ledger.call(START, Fraction(5, 2))
    ledger.ended_at = START + timedelta(minutes=5)
    sealed = ledger.seal(ledger.ended_at + timedelta(minutes=45))
    assert [record.quantity for record in sealed.records] == [2]
    assert [(loss.reason, loss.quantity) for loss in sealed.losses] == [(LossReason.REMAINDER, Fraction(1, 2))]
    assert not ledger.seal(ledger.ended_at + timedelta(minutes=46)).losses


def test_no_record_holds_more_than_aws_can_be_told() -> None:
    ledger = Ledger()
    ledger.call(START, Fraction(MAX_QUANTITY) + 5)
    sealed = ledger.seal(START + HOUR, [START])
    assert sealed.records[0].quantity == MAX_QUANTITY
    assert [(loss.reason, loss.quantity) for loss in sealed.losses] == [(LossReason.TOO_MUCH, 5)]


def test_usage_that_the_log_no_longer_shows_is_told_and_not_taken_back() -> None:
    ledger = Ledger()
    ledger.call(START)
    ledger.seal(START + HOUR, [START])
    sealed = seal(
        ledger.state,
        {SERIES: {START: Usage(quantity=Fraction(0), earliest=START)}},
        {SERIES.agreement: Buyer(customer_identifier="c", started_at=START)},
        dimensions=["calls"],
        closed=[],
        now=START + HOUR,
        rules=RULES,
        record_id_prefix="x/",
    )
    assert sealed.excess == {SERIES: 1}
    assert not sealed.records


steps = st.lists(
    st.tuples(
        st.integers(0, 20),  # minutes that pass
        st.lists(st.tuples(st.integers(0, 400), st.fractions(0, 3, max_denominator=3_600_000)), max_size=4),
    ),
    min_size=1,
    max_size=60,
)


@given(
    steps=steps,
    decimals=st.sampled_from([0, 6]),
    zero=st.booleans(),
    start=st.integers(-600, 0),
    lives_for=st.one_of(st.none(), st.integers(1, 700)),
)
def test_whatever_comes_whenever_every_unit_is_in_one_place(
    *,
    steps: list[tuple[int, list[tuple[int, Fraction]]]],
    decimals: int,
    zero: bool,
    start: int,
    lives_for: int | None,
) -> None:
    month_end = datetime(2026, 12, 1, tzinfo=UTC)
    now = month_end + timedelta(minutes=start)
    ledger = Ledger(started_at=now, rules=MeteringRules(decimals=decimals, sends_zero=zero))
    end = None if lives_for is None else now + timedelta(minutes=lives_for)
    closed = hour_of(now)
    for minutes, calls in steps:
        now += timedelta(minutes=minutes)
        if end is not None and now >= end:
            ledger.ended_at = end
        for ago, quantity in calls:
            at = now - timedelta(minutes=ago)
            if ledger.started_at <= at and (end is None or at < end) and quantity > 0:
                ledger.call(at, quantity)
        due = []
        while closed + HOUR + timedelta(minutes=10) <= now:
            due.append(closed)
            closed += HOUR
        ledger.seal(now, due)  # asserts conservation, one record an hour, and that AWS takes it


def test_a_manifest_out_of_turn_is_refused() -> None:
    state = LedgerState()
    with pytest.raises(ValueError, match="expected the next one"):
        state.apply(Manifest(sequence=2, previous="", written_at=START))


def test_a_record_leaves_the_open_ones_when_its_fate_is_known() -> None:
    ledger = Ledger()
    ledger.call(START)
    (record,) = ledger.seal(START + HOUR, [START]).records

    def settle(how: Outcome) -> None:
        settlement = Settlement(record=record.id, outcome=how)
        sequence = ledger.state.sequence + 1
        ledger.state.apply(Manifest(sequence=sequence, previous="", written_at=START, settlements=(settlement,)))

    settle(Outcome.IN_DOUBT)
    assert ledger.state.in_doubt == {record.id}
    settle(Outcome.ACCEPTED)
    assert not ledger.state.records
    assert not ledger.state.in_doubt


@pytest.mark.parametrize(
    ("answers", "is_over", "expected"),
    [
        ([], False, (Outcome.OPEN, None)),
        ([], True, (Outcome.LOST, LossReason.OUT_OF_WINDOW)),
        ([Status.SUCCESS], False, (Outcome.ACCEPTED, None)),
        ([None, Status.SUCCESS], True, (Outcome.ACCEPTED, None)),
        ([Status.SUCCESS, Status.DUPLICATE_RECORD], False, (Outcome.ACCEPTED, None)),
        ([Status.UNPROCESSED], False, (Outcome.OPEN, None)),
        ([Status.UNPROCESSED], True, (Outcome.LOST, LossReason.OUT_OF_WINDOW)),
        ([None], False, (Outcome.OPEN, None)),
        ([None], True, (Outcome.IN_DOUBT, None)),
        ([Status.UNKNOWN], True, (Outcome.IN_DOUBT, None)),
        ([Status.DUPLICATE_RECORD], False, (Outcome.IN_DOUBT, None)),
        ([Status.CUSTOMER_NOT_SUBSCRIBED], False, (Outcome.LOST, LossReason.NOT_SUBSCRIBED)),
        ([Status.UNPROCESSED, Status.CUSTOMER_NOT_SUBSCRIBED], False, (Outcome.LOST, LossReason.NOT_SUBSCRIBED)),
        ([None, Status.CUSTOMER_NOT_SUBSCRIBED], False, (Outcome.IN_DOUBT, None)),
        ([Status.UNKNOWN, Status.REFUSED], False, (Outcome.OPEN, None)),
        ([Status.UNKNOWN, Status.REFUSED], True, (Outcome.IN_DOUBT, None)),
        ([Status.REFUSED], False, (Outcome.OPEN, None)),
        ([Status.REFUSED], True, (Outcome.LOST, LossReason.REFUSED)),
    ],
)
def test_what_became_of_a_record(
    *, answers: list[Status | None], is_over: bool, expected: tuple[Outcome, LossReason | None]
) -> None:
    assert outcome(answers, is_over=is_over) == expected


def test_no_order_of_answers_turns_doubt_into_a_loss() -> None:
    for answers in product([None, Status.UNKNOWN, Status.UNPROCESSED, Status.CUSTOMER_NOT_SUBSCRIBED], repeat=3):
        found, _ = outcome(answers, is_over=True)
        is_unclear = None in answers or Status.UNKNOWN in answers
        assert (found is Outcome.IN_DOUBT) == is_unclear


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.fractions(0, 50, max_denominator=7)),
    st.sampled_from([0, 6]),
)
def test_allocations_sum_to_the_record(by_path: dict[str, Fraction], decimals: int) -> None:
    quantity = floored(sum(by_path.values(), Fraction(0)), decimals)
    found = allocations(by_path, quantity, decimals)
    assert sum((part.quantity for part in found), Decimal(0)) == quantity
    assert all(part.quantity > 0 for part in found)


def test_paths_beyond_the_limit_are_other() -> None:
    found = allocations({f"/v1/{i}": Fraction(1) for i in range(3_000)}, Decimal(3_000), 0)
    assert len(found) == MAX_ALLOCATIONS
    assert found[-1].path == OTHER
    assert sum(part.quantity for part in found) == 3_000


def test_requests_hold_at_most_25_records_and_less_than_1_mb() -> None:
    buyer = Buyer(customer_identifier="c", started_at=START)
    records = [Record(id=str(i), series=SERIES, buyer=buyer, timestamp=START, quantity=Decimal(1)) for i in range(60)]
    sizes = {record.id: 100 for record in records}
    assert [len(batch) for batch in batches(records, sizes)] == [25, 25, 10]
    assert [len(batch) for batch in batches(records, sizes, max_bytes=300)] == [2] * 30


def test_a_whole_quantity_has_a_limit_of_its_own() -> None:
    ledger = Ledger(rules=MeteringRules(decimals=0))
    ledger.call(START, Fraction(MAX_WHOLE_QUANTITY) + 5)
    sealed = ledger.seal(START + HOUR, [START])
    assert sealed.records[0].quantity == MAX_WHOLE_QUANTITY
    assert [(loss.reason, loss.quantity) for loss in sealed.losses] == [(LossReason.TOO_MUCH, 5)]


def test_a_timestamp_is_a_whole_second() -> None:
    ledger = Ledger()
    ledger.call(START + timedelta(seconds=7.9))
    assert ledger.seal(START + HOUR, [START]).records[0].timestamp == START + timedelta(seconds=7)


def test_the_hour_of_a_renewal_belongs_to_the_agreement_before() -> None:
    buyer = Buyer(customer_identifier="c", started_at=START + timedelta(minutes=30), slots_from=START + HOUR)
    usage = {SERIES: {START: Usage(quantity=Fraction(3), earliest=START + timedelta(minutes=40))}}
    given = {"dimensions": ["calls"], "rules": RULES, "record_id_prefix": "1/"}
    waits = seal(LedgerState(), usage, {"agmt-1": buyer}, closed=[START], now=START + HOUR, **given)  # type: ignore[arg-type]
    assert not waits.records
    assert waits.waiting == {SERIES: 3}
    later = START + 2 * HOUR
    (record,) = seal(LedgerState(), usage, {"agmt-1": buyer}, closed=[START + HOUR], now=later, **given).records  # type: ignore[arg-type]
    assert (record.slot, record.quantity) == (START + HOUR, 3)


def _settled(*outcomes: Outcome, reason: LossReason | None = None) -> LedgerState:
    buyer = Buyer(customer_identifier="c", started_at=START)
    record = Record(id="1/0", series=SERIES, buyer=buyer, timestamp=START, quantity=Decimal(1))
    state = LedgerState()
    state.apply(Manifest(sequence=1, previous="", written_at=START, records=(record,)))
    for found in outcomes:
        settlement = Settlement(record="1/0", outcome=found, reason=reason if found is Outcome.LOST else None)
        sequence = state.sequence + 1
        state.apply(Manifest(sequence=sequence, previous="", written_at=START, settlements=(settlement,)))
    return state


def test_a_loss_is_kept_in_mind_while_a_late_answer_may_still_correct_it() -> None:
    lost = _settled(Outcome.LOST, reason=LossReason.NOT_SUBSCRIBED)
    assert lost.stands("1/0") == (Outcome.LOST, LossReason.NOT_SUBSCRIBED)
    assert not lost.open
    assert not _settled(Outcome.LOST, Outcome.ACCEPTED, reason=LossReason.NOT_SUBSCRIBED).records
    closed = (ClosedHour(hour=START + KEPT + HOUR),)
    lost.apply(Manifest(sequence=3, previous="", written_at=START, closed=closed))
    assert not lost.records
    assert not lost.lost


def test_what_a_person_released_is_over() -> None:
    assert not _settled(Outcome.IN_DOUBT, Outcome.LOST, reason=LossReason.RELEASED).records


def test_a_state_goes_back_no_further_than_hours_are_worked_out_again() -> None:
    ledger = Ledger()
    ledger.call(START)
    ledger.seal(START + HOUR, [START])
    for sequence, hour in ((2, START), (3, START + KEPT), (4, START + KEPT + HOUR)):
        closed = (ClosedHour(hour=hour),)
        ledger.state.apply(Manifest(sequence=sequence, previous="", written_at=START, closed=closed))
        assert (SERIES in ledger.state.series) == (sequence < 4)
    assert sorted(ledger.state.closed) == [START + KEPT, START + KEPT + HOUR]
