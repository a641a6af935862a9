"""The meter from the log to the bill: one agreement, one thing that goes wrong at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from botocore.exceptions import ClientError
from protected import Weakness
from simulation import PLAN, STORED, Crash, Life, Process, Troubles, World, check, manifests

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.metering import Loss, LossReason, Outcome, Series, hour_of
from marketplace_constructs.domain.metering_rules import RUNS_EVERY, MeteringRules
from marketplace_constructs.domain.product import Metering, Product
from marketplace_constructs.rehearsal.marketplace import FaultKind, IdenticalResend
from marketplace_constructs.runtime.metering import codec
from marketplace_constructs.runtime.metering.ledger import Ledger
from marketplace_constructs.runtime.metering.meter import Meter, _settings, rules_of
from marketplace_constructs.runtime.observability import gauge, metrics
from marketplace_constructs.runtime.settings import MeterSettings

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
START = datetime(2026, 11, 20, 10, tzinfo=UTC)


class Calm(World):
    """A world in which nothing happens by itself."""

    def __init__(self, *, at: datetime = START, **rules: Any) -> None:
        super().__init__(0, is_calm=True)
        self.clock.set(at)
        self.versions._versions.clear()
        self.terms.clear()
        self.set_weight(self.weight, hour_of(at))
        self.options = replace(self.options, rules=MeteringRules(**{"sends_zero": False, **rules}))
        self.lives.clear()
        self.subscribe(self.market.add_buyer())
        self.life = self.lives[0]
        self._main = Process(self, timedelta(0))
        self.calls = 0

    weight = Decimal(1)

    def use(
        self, calls: int, *, ago: timedelta = timedelta(0), life: Life | None = None, delivered: bool = True
    ) -> None:
        """Calls at one moment, of 1,000 bytes each, in a file of their own."""
        life = life or self.life
        at = self.clock.now() - ago
        lines = []
        for _ in range(calls):
            self._count(life.id, "calls", hour_of(at), Fraction(1))
            self._count(life.id, "data", hour_of(at), Fraction(1, 10))
            lines.append(self._line(life.id, at, "/v1/nouns", 200, 1_000))
        self._pending_files.append((self.clock.now(), hour_of(self.clock.now()), b"\n".join(lines)))
        if delivered:
            self._deliver()

    def subscribe_without_plan(self) -> Life:
        """Another agreement, which has no plan."""
        self.troubles = Troubles(planless=1)
        self.subscribe(self.market.add_buyer())
        self.troubles = Troubles()
        return self.lives[-1]

    def store(self, agreement: str, at: datetime, event: str, *, value: str) -> None:
        """A usage event of something that is stored, on its way."""
        told = {
            "specversion": "1.0", "id": event, "source": "/disks", "type": STORED, "subject": agreement,
            "time": at.isoformat(), "data": {"value": value},
        }  # fmt: skip
        now = self.clock.now()
        self._pending_events.append((now, hour_of(now), json.dumps({"detail": told}).encode() + b"\n"))

    def go(self, by: timedelta) -> None:
        """Let time pass, then meter."""
        self.clock.advance(by)
        self._deliver()
        self._main.meter.run()

    def billed(self, dimension: str = "calls") -> list[tuple[int, int]]:
        """Hour and quantity of each accepted record."""
        return [
            (one.hour.hour, int(one.quantity)) for one in self.market.accepted_records if one.dimension == dimension
        ]

    def outcomes(self) -> dict[str, tuple[Outcome, LossReason | None]]:
        return {s.record: (s.outcome, s.reason) for m in manifests(self) for s in m.settlements}


@pytest.fixture
def world() -> Iterator[Calm]:
    world = Calm()
    world.go(4 * MINUTE)
    yield world
    world.go(27 * HOUR)
    world.go(MINUTE)
    check(world)


@pytest.mark.protects(Weakness.RAW_ROWS_SENT)
@pytest.mark.protects(Weakness.TIME_OF_SENDING)
def test_an_hours_calls_are_one_record_of_that_hour(world: Calm) -> None:
    world.use(2)
    world.clock.advance(5 * MINUTE)
    world.use(1)
    world.go(66 * MINUTE)
    assert world.billed() == [(10, 3)]
    assert world.market.accepted_records[0].timestamp == START + 4 * MINUTE
    assert world.market.accepted_records[0].accepted_at == START + 75 * MINUTE


@pytest.mark.protects(Weakness.RUNNING_TOTAL_BILLED)
def test_each_hour_is_billed_by_itself_and_late_calls_with_the_next(world: Calm) -> None:
    world.use(2)
    world.go(71 * MINUTE)
    world.use(5, ago=40 * MINUTE)  # of the hour that is closed
    world.use(1)
    world.go(HOUR)
    assert world.billed() == [(10, 2), (11, 6)]


@pytest.mark.protects(Weakness.FAILED_CALL_DROPS_USAGE)
@pytest.mark.parametrize("kind", [FaultKind.THROTTLING, FaultKind.SERVER_ERROR])
def test_what_fails_is_sent_again_as_it_was(world: Calm, kind: FaultKind) -> None:
    world.use(2)
    world.market.faults.add("BatchMeterUsage", kind, times=4)
    original = world.call

    def call(request: Any, fault: Any) -> Any:
        return original(request, fault or world.market.faults.take("BatchMeterUsage"))

    world.call = call  # type: ignore[method-assign]
    for minutes in (71, 5, 5, 5, 5, 5, 5, 5, 20):
        world.go(minutes * MINUTE)
    assert world.billed() == [(10, 2)]
    sent = {repr(call.request["UsageRecords"]) for call in world.market.calls}
    assert len(sent) <= 2  # the whole batch, and it again


@pytest.mark.protects(Weakness.BOOKKEEPING_BILLS_AGAIN)
@pytest.mark.parametrize("resend", list(IdenticalResend))
@pytest.mark.parametrize("steps", range(1, 10))
def test_a_death_after_any_step_bills_once(world: Calm, steps: int, resend: IdenticalResend) -> None:
    world.market.settings = replace(world.market.settings, identical_resend=resend)
    world.use(3)
    left = [steps]

    def step(_: Process, *, crash: bool = True) -> None:
        left[0] -= crash
        if crash and left[0] == 0:
            raise Crash

    world.step = step  # type: ignore[method-assign]
    world.clock.advance(71 * MINUTE)
    with pytest.raises(Crash):
        world._main.meter.run()
    world._main = Process(world, timedelta(0))
    # It had stood still before it called.
    world.trail[:] = [(at + 40 * MINUTE, event) for at, event in world.trail]
    world.go(MINUTE)
    assert world.billed() == [(10, 3)]
    world.go(2 * HOUR)  # CloudTrail shows what is in doubt
    assert {outcome for outcome, _ in world.outcomes().values()} == {Outcome.ACCEPTED}


def let_hundreds_call(world: Calm) -> None:
    """Three hundred more buyers, everybody's one call, and the time at which its hour is closed."""
    for _ in range(300):
        world.subscribe(world.market.add_buyer())
    world.clock.advance(4 * MINUTE)
    for life in world.lives:
        world.use(1, life=life, delivered=False)
    world._deliver()
    world.clock.advance(71 * MINUTE)


@pytest.mark.protects(Weakness.PENDING_NOT_PAGED)
def test_thousands_of_records_and_two_processes_at_once_bill_each_once() -> None:
    world = Calm()
    world.market.settings = replace(world.market.settings, identical_resend=IdenticalResend.DUPLICATE_RECORD)
    let_hundreds_call(world)
    twin, overtaken = Process(world, timedelta(0)), [40]

    def step(process: Process, *, crash: bool = True) -> None:
        del crash
        overtaken[0] -= 1
        if overtaken[0] == 0 and process is world._main:
            twin.meter.run()

    world.step = step  # type: ignore[method-assign]
    world._main.meter.run()
    assert sorted(world.billed()) == [(10, 1)] * 301
    assert not world.market.violations


@pytest.mark.protects(Weakness.FAILURE_FOR_EVER)
def test_what_aws_never_takes_is_given_up_alone(world: Calm) -> None:
    world.subscribe(world.market.add_buyer())
    bad = world.lives[1]
    bad.is_poisoned = True
    world._pending_facts.clear()
    for kind in ("REGISTERED", "ACTIVATED"):
        world._fact(FactKind[kind], bad, bad.starts_at)
    world.go(4 * MINUTE)
    world.use(2)
    world.use(3, life=bad)
    world.go(71 * MINUTE)
    assert world.billed() == [(10, 2)]
    calls = len(world.market.calls)
    world.go(10 * MINUTE)
    assert len(world.market.calls) == calls  # it rests
    world.go(24 * HOUR)
    assert (Outcome.LOST, LossReason.REFUSED) in world.outcomes().values()
    assert world.counted["UsageLost"]


@pytest.mark.protects(Weakness.NO_FINAL_FLUSH)
def test_a_cancellation_is_flushed_within_the_hour_and_others_are_untouched(world: Calm) -> None:
    world.subscribe(world.market.add_buyer())
    other = world.lives[1]
    world.go(4 * MINUTE)
    world.go(57 * MINUTE - timedelta(seconds=1))  # five past eleven; ten is not closed
    world.use(2, ago=10 * MINUTE)
    world.use(3)
    world.use(4, life=other)
    world.clock.advance(MINUTE)
    world.cancel(world.life)
    ended_at = world.clock.now()
    for _ in range(12):
        world.go(5 * MINUTE)
    ours = [one for one in world.market.accepted_records if one.agreement_id == world.life.id]
    assert sum(one.quantity for one in ours if one.dimension == "calls") == 5
    assert all(one.accepted_at < ended_at + HOUR for one in ours)
    assert not [
        one for one in world.market.accepted_records if one.agreement_id == other.id and one.hour == START + HOUR
    ]


@pytest.mark.protects(Weakness.NO_FINAL_FLUSH)
@pytest.mark.parametrize("phase", range(5))
@pytest.mark.parametrize("fails", [False, True], ids=["", "one run fails"])
def test_the_last_hour_is_billed_whenever_the_meter_happens_to_run(phase: int, fails: bool) -> None:  # noqa: FBT001
    world = Calm()
    world.go(4 * MINUTE)
    world.clock.advance(phase * MINUTE)
    world.use(3)
    world.clock.advance(MINUTE)
    world.cancel(world.life)  # the hour in which it began is the only one it has
    ended_at = world.clock.now()
    world.clock.set(START + 10 * MINUTE)
    for run in range(14):
        world.clock.advance(RUNS_EVERY)
        is_first_chance = world.clock.now() - RUNS_EVERY < ended_at + world.options.rules.final_flush
        world._deliver()
        if not (fails and is_first_chance and world.clock.now() >= ended_at + world.options.rules.final_flush):
            world._main.meter.run()
        assert run < 13 or world.billed() == [(10, 3)]
    assert all(one.accepted_at < ended_at + HOUR for one in world.market.accepted_records)


def test_a_snapshot_is_the_state_as_text_and_back(world: Calm) -> None:
    world.use(2)
    world.go(71 * MINUTE)
    state = Ledger(world.objects, run="reader").load()
    sent = [record for manifest in manifests(world) for record in manifest.records]
    assert len(sent) == len(state.series) == 2
    state.records = {record.id: record for record in sent}
    state.in_doubt, state.lost = {sent[0].id}, {sent[1].id: LossReason.REFUSED}
    state.series[sent[0].series].remainder = Fraction(1, 3)
    state.again = frozenset({START})
    snapshot = codec.state_to_bytes(state, digest="0" * 64)
    assert snapshot == codec.to_bytes({**codec.state_to_json(state), "digest": "0" * 64})
    assert codec.state_from_bytes(snapshot) == (state, "0" * 64)


@pytest.mark.parametrize(("call_takes", "readings"), [(timedelta(0), 1), (2 * MINUTE, 2)])
def test_a_run_reads_the_facts_once_unless_it_takes_its_time(
    call_takes: timedelta, readings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Calm()
    world.go(4 * MINUTE)
    world.use(2)
    world.go(71 * MINUTE)
    world.use(3)
    read, call, buyers = [], world.call, world.facts.buyers

    def slow(request: Any, fault: Any) -> Any:
        world.clock.advance(call_takes)
        return call(request, fault)

    def counted() -> Any:
        read.append(world.clock.now())
        return buyers()

    monkeypatch.setattr(world, "call", slow)
    monkeypatch.setattr(world.facts, "buyers", counted)
    world._main = Process(world, timedelta(0))
    world.go(2 * HOUR)  # two hours are closed, and the first is sent before the second
    assert world.billed() == [(10, 2), (11, 3)]
    assert len(read) == readings


@pytest.mark.protects(Weakness.MONTH_END_IGNORED)
def test_a_months_last_usage_is_told_before_six_on_the_first_or_known_to_be_lost() -> None:
    world = Calm(at=datetime(2026, 11, 30, 22, tzinfo=UTC))
    world.go(4 * MINUTE)
    world.use(2)
    world.go(71 * MINUTE)
    world.use(1, ago=20 * MINUTE)  # late, with an hour of the month to come
    world.use(5, ago=2 * MINUTE)
    world.go(65 * MINUTE)
    world.use(7, ago=90 * MINUTE)  # too late: November is full
    world.go(HOUR)
    assert world.billed() == [(22, 2), (23, 6)]
    world.go(27 * HOUR)
    lost = [(one.reason, one.quantity) for m in manifests(world) for one in m.losses if one.series.dimension == "calls"]
    assert lost == [(LossReason.MONTH_END, 7)]
    check(world)


@pytest.mark.protects(Weakness.FAILURE_WITHOUT_ALARM)
def test_each_failure_is_counted_where_an_alarm_watches(world: Calm) -> None:
    unmatched = world._line(world.life.id, world.clock.now(), "/new", 200, 0)
    world.unknown[START] += 1
    world._pending_files.append((world.clock.now(), START, unmatched))
    world._count(world.life.id, "call:unmatched", START, Fraction(1))
    world.go(71 * MINUTE)
    assert world.counted["LinesUnmatched"] == 1
    assert not any(m.closed and START in {c.hour for c in m.closed} for m in manifests(world))  # held
    world.go(19 * HOUR)
    assert any(START in {c.hour for c in m.closed} for m in manifests(world))  # while AWS still takes it
    world.set_weight(world.weight, hour_of(world.clock.now()))
    world._meter_from_elsewhere()
    world.use(3)
    world.use(1, ago=HOUR)
    world.use(1, ago=2 * HOUR)
    world.go(HOUR)
    world.go(HOUR)
    assert world.counted["DuplicateFromElsewhere"] == 1


def test_a_call_on_an_unknown_route_is_told_though_its_hour_was_closed(world: Calm) -> None:
    world.use(2)
    world.go(71 * MINUTE)
    unmatched = world._line(world.life.id, START + 30 * MINUTE, "/new", 200, 0)
    world.unknown[START] += 1
    world._count(world.life.id, "call:unmatched", START, Fraction(1))
    world._pending_files.append((world.clock.now(), START + HOUR, unmatched))
    world.go(HOUR)
    assert world.counted["LinesUnmatched"] == 1
    world.use(1, ago=2 * HOUR)
    world.go(HOUR)
    assert world.counted["LinesUnmatched"] == 1


def test_usage_that_the_log_shows_no_more_is_told_and_not_taken_back(world: Calm) -> None:
    world.subscribe(world.market.add_buyer())
    world.use(2)
    world.go(71 * MINUTE)
    world.files._files.clear()
    world.use(1, ago=HOUR, life=world.lives[1])
    world.go(HOUR)
    assert world.counted["UsageExcess"] == len(["calls", "data"])
    assert world.billed() == [(10, 2), (10, 1)]


@pytest.mark.parametrize("plan_comes", ["in time", "at the last", "never"])
def test_an_event_of_an_agreement_without_a_plan_holds_nobodys_hour(world: Calm, plan_comes: str) -> None:
    def tell(event: str) -> None:
        world.store(planless.id, at, event, value="3")
        world._count(planless.id, f"event:{STORED}" if plan_comes == "never" else "data", START, Fraction(3))

    planless = world.subscribe_without_plan()
    world.go(4 * MINUTE)
    at = world.clock.now()
    tell("1")
    world.use(2)
    world.go(71 * MINUTE)
    assert world.billed() == [(10, 2)]
    assert world.counted["LinesUnmatched"] == 1
    if plan_comes == "at the last":
        # Nobody looks for it any more, but another event of its hour comes.
        world.go(20 * HOUR)
        tell("2")
    if plan_comes != "never":
        world._fact(FactKind.ASSIGNED, planless, world.clock.now(), plan=PLAN, takes_effect_at=START)
        world.clock.advance(4 * MINUTE)
        world._tell()
    for _ in range(4):
        world.go(HOUR)
        world.go(18 * HOUR)
    losses = [(one.series, one.reason) for manifest in manifests(world) for one in manifest.losses]
    ours = [one.quantity for one in world.market.accepted_records if one.agreement_id == planless.id and one.quantity]
    if plan_comes == "never":
        series = Series(agreement=planless.id, dimension=f"event:{STORED}")
        assert (ours, losses) == ([], [(series, LossReason.NO_PLAN)])
        assert world.counted["UsageLost"] == 1
    else:
        assert (sum(ours), losses) == (6 if plan_comes == "at the last" else 3, [])


def test_calls_that_no_table_judges_are_lost_once_their_hour_is_worked_out_no_more(world: Calm) -> None:
    now, series = world.clock.now(), Series(agreement=world.life.id, dimension="call:unmatched")
    world.use(2)
    for number, line in enumerate([world._line(world.life.id, now, "/v2/nouns", status, 0) for status in (200, 500)]):
        world.files.add(START, f"strange{number}", line, modified_at=now)
    world._count(series.agreement, series.dimension, START, Fraction(2))
    world.unknown[START] += 2
    world.go(71 * MINUTE)
    assert world.billed() == []  # held
    world.go(20 * HOUR)
    world.go(MINUTE)
    assert world.billed() == [(10, 2)]
    world.go(27 * HOUR)
    told = [one.unjudged for manifest in manifests(world) for one in manifest.closed if one.hour == START]
    assert told == [{series: 2}]
    assert not any(manifest.losses for manifest in manifests(world))
    world.go(2 * HOUR)
    losses = [loss for manifest in manifests(world) for loss in manifest.losses]
    assert losses == [Loss(series=series, hour=START, quantity=Fraction(2), reason=LossReason.NO_ROUTE)]
    assert world.counted["UsageLost"] == 1


@pytest.mark.parametrize("file_comes", [True, False])
def test_a_call_that_turns_out_to_be_billable_is_billed_and_not_lost(world: Calm, *, file_comes: bool) -> None:
    world.renew(world.life)
    successor, told = world.lives[1], list(world._pending_facts)
    world._pending_facts = [one for one in told if one[1].status == "RENEWED"]
    world.clock.advance(MINUTE)
    now = world.clock.now()
    world.files.add(START, "a", world._line(world.life.id, now, "/v1/nouns", 200, 1_000), modified_at=now)
    world._count(successor.id, "calls", START, Fraction(1))
    world._count(successor.id, "data", START, Fraction(1, 10))
    world.go(71 * MINUTE)
    (closed,) = [one for manifest in manifests(world) for one in manifest.closed]
    assert closed.unjudged == {Series(agreement=world.life.id, dimension="call:outside"): 1}
    # AWS tells late what continues the agreement; or a file that comes late lets the hour be worked out again, too.
    world._pending_facts = told
    world.clock.advance(4 * MINUTE)
    if file_comes:
        world.use(1, ago=HOUR, life=successor)
    world.go(HOUR)
    assert sum(quantity for _, quantity in world.billed()) == 1 + file_comes
    world.go(23 * HOUR)
    world.go(23 * HOUR)
    world.go(5 * HOUR)
    assert not any(manifest.losses for manifest in manifests(world))


def test_a_call_before_the_agreement_is_a_loss_that_wakes_nobody(world: Calm) -> None:
    world.clock.advance(9 * MINUTE)
    world.subscribe(world.market.add_buyer())
    coming = world.lives[1]
    line = world._line(coming.id, coming.starts_at - MINUTE, "/v1/nouns", 200, 0)
    world.files.add(START, "a", line, modified_at=world.clock.now())
    world._count(coming.id, "call:outside", START, Fraction(1))
    for _ in range(4):
        world.go(20 * HOUR)
    assert [loss.reason for manifest in manifests(world) for loss in manifest.losses] == [LossReason.OUTSIDE_AGREEMENT]
    assert not world.counted["UsageLost"]


def test_an_event_outside_its_agreement_is_a_loss_that_wakes_nobody(world: Calm) -> None:
    world.cancel(world.life)
    world.clock.advance(MINUTE)
    named = [world.life.id, "agmt-unknown"]
    for agreement in named:
        world.store(agreement, world.clock.now(), "of " + agreement, value="2.5")
        world._count(agreement, f"event:{STORED}/outside", START, Fraction(5, 2))
    world._deliver()
    world.go(71 * MINUTE)
    assert world.counted["LinesUnattributed"] == world.counted["LinesOutsideAgreement"] == 1
    for _ in range(4):
        world.go(20 * HOUR)
    losses = [loss for manifest in manifests(world) for loss in manifest.losses]
    assert {(loss.series, loss.reason, loss.quantity) for loss in losses} == {
        (Series(agreement=agreement, dimension=f"event:{STORED}/outside"), LossReason.OUTSIDE_AGREEMENT, Fraction(5, 2))
        for agreement in named
    }
    assert not world.counted["UsageLost"]


def test_an_event_of_an_agreement_that_aws_tells_late_is_billed_and_not_lost(world: Calm) -> None:
    world.subscribe(world.market.add_buyer())
    coming, told_late = world.lives[1], [one for one in world._pending_facts if one[1].agreement_id != world.life.id]
    world._pending_facts = []
    world.clock.advance(HOUR)
    at = world.clock.now()
    world.store(coming.id, at, "1", value="3")
    world._deliver()
    world._count(coming.id, "data", hour_of(at), Fraction(3))
    world.go(71 * MINUTE)
    (closed,) = [one for manifest in manifests(world) for one in manifest.closed if one.unjudged]
    assert closed.unjudged == {Series(agreement=coming.id, dimension=f"event:{STORED}/outside"): 3}
    assert not any(manifest.again for manifest in manifests(world))
    world._pending_facts = told_late
    world.go(HOUR)
    assert world.billed("data") == [(11, 3)]
    for _ in range(3):
        world.go(20 * HOUR)
    assert not any(manifest.losses for manifest in manifests(world))


def test_the_hour_in_which_an_agreement_began_is_worked_out_again_when_aws_tells_late_of_it(world: Calm) -> None:
    world.subscribe(world.market.add_buyer())
    coming, told_late = world.lives[1], [one for one in world._pending_facts if one[1].agreement_id != world.life.id]
    world._pending_facts = []
    world.clock.advance(9 * MINUTE)
    now = world.clock.now()
    world.use(2, life=coming)
    world.store(coming.id, now, "1", value="3")
    world._count(coming.id, "data", START, Fraction(3))
    # The gate let in a call before the beginning, whoever that was.
    early = world._line(coming.id, coming.starts_at - MINUTE, "/v1/nouns", 200, 0)
    world.files.add(START, "early", early, modified_at=now)
    world._count(coming.id, "call:outside", START, Fraction(1))
    world.go(3 * MINUTE)
    world.go(70 * MINUTE)
    assert world.billed() == []
    world._pending_facts = told_late
    for _ in range(3):
        world.go(HOUR)
    assert sum(quantity for _, quantity in world.billed()) == 2
    closed = [one.unjudged for manifest in manifests(world) for one in manifest.closed if one.hour == START]
    # Once, though the early call is still outside.
    outside = {Series(agreement=coming.id, dimension="call:outside"): 1}
    assert [dict(one or {}) == outside for one in closed] == [False, True]


def test_where_sending_is_denied_each_run_asks_once_and_the_hours_wait_sealed(world: Calm) -> None:
    original, asked, is_denied = world.call, [0], [True]

    def call(request: Any, fault: Any) -> Any:
        asked[0] += 1
        if is_denied[0]:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "BatchMeterUsage")
        return original(request, fault)

    world.call = call  # type: ignore[method-assign]
    for _ in range(3):
        world.use(2)
        world.clock.advance(HOUR)
    for runs in (1, 2):
        world.go(12 * MINUTE)
        assert (asked[0], world.counted["SendingDenied"]) == (runs, runs)
    assert len({hour.hour for m in manifests(world) for hour in m.closed}) == 3
    is_denied[0] = False
    world.go(5 * MINUTE)
    assert world.billed() == [(10, 2), (11, 2), (12, 2)]
    assert world.counted["SendingDenied"] == 2


@pytest.mark.parametrize("steps", range(8))
def test_a_run_that_has_no_more_time_leaves_the_rest_to_the_next_one(world: Calm, steps: int) -> None:
    world.use(2)
    world.go(72 * MINUTE)
    world.use(1, ago=HOUR)  # late, of the hour that is closed
    for calls in (3, 4):
        world.use(calls)
        world.clock.advance(HOUR)
    world._deliver()
    left = [steps]

    def has_time() -> bool:
        left[0] -= 1
        return left[0] >= 0

    ports = world._main.meter._ports
    Meter(world.options, ports, clock=world.clock.now, sleep=lambda _: None, has_time=has_time).run()
    closed = len({hour.hour for m in manifests(world) for hour in m.closed})
    assert (closed == 1) == (steps < 1)
    assert (closed == 3) == (steps >= 4)
    world.go(5 * MINUTE)
    world.go(HOUR)
    assert sum(quantity for _, quantity in world.billed()) == 10
    sent = [repr(record) for call in world.market.calls for record in call.request["UsageRecords"]]
    assert len(sent) == len(set(sent))


def test_a_run_sends_until_the_next_one_begins_and_that_goes_on() -> None:
    world = Calm()
    let_hundreds_call(world)
    seconds, original = [0.0], world.call

    def call(request: Any, fault: Any) -> Any:
        seconds[0] += 40
        return original(request, fault)

    world.call = call  # type: ignore[method-assign]
    ports = world._main.meter._ports
    meters = [
        Meter(world.options, ports, clock=world.clock.now, sleep=lambda _: None, monotonic=lambda: seconds[0])
        for _ in range(4)
    ]
    sent = []
    for meter in meters:
        meter.run()
        sent.append(len(world.market.calls))
    assert sent == [7, 14, 21, 25]
    assert sorted(world.billed()) == [(10, 1)] * 301
    assert seconds[0] <= 4 * RUNS_EVERY.total_seconds()


def test_a_natively_metered_product_is_reported_and_nothing_is_sent() -> None:
    world = Calm()
    world.options = replace(world.options, product=Product.legacy("abc123"))
    world.product = world.options.product
    assert world.product.metering is Metering.NATIVE
    world._main = Process(world, timedelta(0))
    world.use(2)
    strange = world._line(world.life.id, START + MINUTE, "/v2/nouns", 200, 0)
    world.files.add(START, "strange", strange, modified_at=START)
    world.go(76 * MINUTE)
    for _ in range(3):
        world.go(20 * HOUR)
    manifest, *_ = manifests(world)
    assert manifest.closed[0].lines == {"outside": 3}
    assert all(one.unjudged is None for manifest in manifests(world) for one in manifest.closed)
    assert [closed.hour for closed in manifest.closed] == [START]
    assert not any(manifest.records or manifest.losses for manifest in manifests(world))
    assert not world.market.calls


@pytest.mark.parametrize("sends_zero", [True, False])
def test_where_api_gateway_metered_before_two_whole_hours_are_a_recorded_loss(sends_zero: bool) -> None:  # noqa: FBT001
    world = Calm(sends_zero=sends_zero)
    world.options = replace(world.options, is_after_native=True)
    world._main = Process(world, timedelta(0))
    for _ in range(10):
        world.use(1)
        world.go(HOUR)
    world.use(4, ago=7 * HOUR + 50 * MINUTE)  # late, of twelve
    world.go(HOUR)
    assert min(hour for hour, _ in world.billed()) == 14
    lost = [loss for manifest in manifests(world) for loss in manifest.losses if loss.series.dimension == "calls"]
    assert {loss.reason for loss in lost} == {LossReason.BETWEEN_METERS}
    # The meter first runs at eleven, in the hour of the move; twelve and thirteen lie between.
    assert [(loss.hour.hour, loss.quantity) for loss in lost] == [(11, 1), (12, 1), (13, 1), (12, 4)]
    assert world.counted["UsageLost"] == 2 * len(lost)


def test_a_ledger_that_says_nothing_of_it_bills_from_its_first_hour(world: Calm) -> None:
    claim = {"stack": "Sale", "kind": "Concurrent", "first_hour": codec.instant(START - HOUR)}
    world.objects.put_new("claim.json", codec.to_bytes(claim))
    world.use(1)
    world.go(2 * HOUR)
    assert world.billed() == [(10, 1)]


def test_fails_when_another_stack_meters_the_product(world: Calm) -> None:
    world.options = replace(world.options, stack="Other")
    with pytest.raises(MarketplaceConstructsError, match="MP-LEDGER-02"):
        Process(world, timedelta(0)).meter.run()


def test_the_settings_say_how_aws_wants_to_be_told() -> None:
    terms = Product.concurrent("abc123", dimensions=Product.legacy("abc123").dimensions)
    settings = MeterSettings(
        product_code="abc123",
        agreement_kind=terms.agreement_kind,
        pricing_model=terms.pricing_model,
        metering=terms.metering,
        metering_region="us-east-1",
        dimensions="calls,data",
        sale="Sale-Agreements",
        stack="Sale",
        joins="",
        facts_table="facts",
        plans_table="plans",
        tables_bucket="tables",
        ledger_bucket="ledger",
        log_bucket="log",
        log_prefix="access/",
        decimals=0,
    )
    read = MeterSettings.from_environment(settings.to_environment())
    assert read == settings
    assert rules_of(read) == MeteringRules(decimals=0)


def test_the_meters_metrics_name_its_sale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {field.name.upper(): "1" for field in fields(MeterSettings)}
    environment |= {"AGREEMENT_KIND": "Concurrent", "PRICING_MODEL": "Subscription", "METERING": "Pipeline"}
    for name, value in {**environment, "SALE": "First-Agreements"}.items():
        monkeypatch.setenv(name, value)
    _settings.__wrapped__()
    gauge("RecordsInDoubt", 2)
    metrics.flush_metrics()
    told = json.loads(capsys.readouterr().out)
    assert told["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service", "sale"]]
    assert (told["service"], told["sale"]) == ("sellable-api", "First-Agreements")


def test_a_twin_that_wakes_up_late_corrects_a_loss(world: Calm) -> None:
    """One process is told CustomerNotSubscribed, another one, overtaken before that, is heard."""
    world.use(3)
    buyer = world.life.agreement.buyer
    twin = Process(world, timedelta(0))
    world.clock.advance(71 * MINUTE)
    world._deliver()
    is_asleep = [True]
    original = world.call

    def call(request: Any, fault: Any) -> Any:
        if is_asleep[0]:
            is_asleep[0] = False
            buyer.suspended = True
            twin.meter.run()
            assert {outcome for outcome, _ in world.outcomes().values()} == {Outcome.IN_DOUBT}
            buyer.suspended = False
        return original(request, fault)

    world.call = call  # type: ignore[method-assign]
    world._main.meter.run()
    assert world.billed() == [(10, 3)]
    assert {outcome for outcome, _ in world.outcomes().values()} == {Outcome.ACCEPTED}
    assert not Ledger(world.objects, run="x").load().records
