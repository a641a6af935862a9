"""A sale in which everything goes wrong: the production meter against the Marketplace stand-in, in memory.

A world lives through one or two days, often over the end of a month. Buyers call, subscribe, renew, cancel and are
moved to other plans; backends tell usage events of them; policies change and are rolled back; files of both come late,
doubled and out of order; the meter's processes die before and after every step that lasts, overtake each other and
disagree about the time; AWS throttles, loses replies and leaves records out. Then the world calms down until nothing
can happen any more, and ``check`` looks at it from outside.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.metering import (
    CALL,
    KEPT,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Series,
    hour_of,
)
from marketplace_constructs.domain.metering_rules import RUNS_EVERY, MeteringRules
from marketplace_constructs.domain.plan_table import Cell, EventMeter, LineState, PlanTable, RouteAccess
from marketplace_constructs.domain.plan_versions import PlanVersion, next_hour
from marketplace_constructs.domain.product import Category, Dimension, Metering, Product
from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.rehearsal.marketplace import (
    AcceptedRecord,
    Agreement,
    ApiError,
    Buyer,
    FaultKind,
    IdenticalResend,
    Marketplace,
    SettableClock,
    Settings,
    ViolationRule,
)
from marketplace_constructs.rehearsal.marketplace.faults import Fault
from marketplace_constructs.runtime import plans
from marketplace_constructs.runtime.memory import MemoryFacts, MemoryPlanTables, MemoryPlanVersions
from marketplace_constructs.runtime.metering import codec
from marketplace_constructs.runtime.metering.doubt import EVENT_SOURCE
from marketplace_constructs.runtime.metering.ledger import Ledger
from marketplace_constructs.runtime.metering.log_files import MemoryLogFiles
from marketplace_constructs.runtime.metering.meter import Meter, MeterOptions, Ports
from marketplace_constructs.runtime.metering.objects import MemoryObjects
from marketplace_constructs.runtime.metering.totals import DuckDbUsageLog, MemoryUsageLog, PlanTimeline
from marketplace_constructs.runtime.metering.usage_events import DuckDbUsageEvents, LinesAndEvents, MemoryUsageEvents

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
PLAN: Final = "retail@1"
PARTNER: Final = "partner@1"
PLANS: Final = (PLAN, PARTNER)
TEXTS: Final = "/v1/texts"
SEARCH: Final = "/v1/search"
PATHS: Final = ("/v1/nouns", "/v1/nouns/{id}", TEXTS)
DIMENSIONS: Final = ("calls", "data")
STORED: Final = "storage"
SEATS: Final = "seats"
SEATS_ROUNDED_TO: Final = 5
_LATE: Final = 26 * HOUR
_TRAIL_LAG: Final = 15 * MINUTE


class Crash(BaseException):
    """A process dies here and now; nothing of the code may catch it."""


@dataclass(frozen=True, kw_only=True)
class Troubles:
    """How likely what goes wrong is, each at its own point, 0 to 1."""

    crash: float = 0.0
    storage: float = 0.0
    twin: float = 0.0
    call: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    retold: float = 0.0
    garbage: float = 0.0
    foreign: float = 0.0
    outage: float = 0.0
    cut_off: float = 0.0
    poison: float = 0.0
    planless: float = 0.0
    strange: float = 0.0
    skew_minutes: int = 0


def troubles_of(rng: random.Random) -> Troubles:
    """Some seeds are calm, most are not."""
    if rng.random() < 0.1:
        return Troubles()

    def some(most: float) -> float:
        return rng.choice([0.0, most / 4, most])

    return Troubles(
        crash=some(0.02),
        storage=some(0.01),
        twin=some(0.03),
        call=some(0.4),
        late=some(0.2),
        doubled=some(0.3),
        retold=some(0.2),
        garbage=some(0.05),
        foreign=some(0.05),
        outage=rng.choice([0.0, 0.0, 1.0]),
        cut_off=some(0.02),
        poison=some(0.1),
        planless=some(0.1),
        strange=some(0.004),
        skew_minutes=rng.choice([0, 0, 4]),
    )


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the documents of a plan say.

    Args:
        weight: Of a call that is counted, and of storage.
        data_unit: Bytes in one unit of data.
        counts_failed: Whether failed calls are counted too.
        texts_as_data: Whether calls of texts are counted in ``data``, by weight, instead of their bytes.
        seats_as_data: Whether seats are counted in ``data``.
        refuses_texts: Whether texts may not be called; what is let in all the same costs nothing.
        paths: The routes of the API.
    """

    weight: Decimal = Decimal(1)
    data_unit: int = 10_000
    counts_failed: bool = False
    texts_as_data: bool = False
    seats_as_data: bool = False
    refuses_texts: bool = False
    paths: tuple[str, ...] = PATHS

    def of_plan(self, plan: str) -> Terms:
        """Partners pay one more for everything that is weighed."""
        return self if plan == PLAN else replace(self, weight=self.weight + 1)

    def refuses(self, path: str) -> bool:
        """Whether a route may not be called."""
        return path == TEXTS and self.refuses_texts

    def call(self, path: str, status: int, size: int) -> dict[str, Fraction]:
        """What a call comes to, by dimension."""
        if self.refuses(path):
            return {}
        calls = Fraction(self.weight) if status < 400 or self.counts_failed else Fraction(0)
        if path == TEXTS and self.texts_as_data:
            return {"data": calls}
        return {"calls": calls, "data": Fraction(math.ceil(size / 1_000) * 1_000, self.data_unit)}

    def event(self, name: str, value: Decimal) -> tuple[str, Fraction]:
        """What a usage event comes to."""
        if name == STORED:
            return "data", Fraction(value) * Fraction(self.weight)
        seats = math.ceil(value / SEATS_ROUNDED_TO) * SEATS_ROUNDED_TO
        return "data" if self.seats_as_data else "calls", Fraction(seats)

    def table(self, plan: str) -> PlanTable:
        """The table that synthesis makes of them: bytes are counted by the begun thousand, seats by the begun five."""
        routes = [("GET", path) for path in self.paths]
        cells = []
        for method, path in routes:
            as_data = path == TEXTS and self.texts_as_data
            counted = Cell(
                method=method, path=path, dimension="data" if as_data else "calls", state=LineState.BILLABLE,
                policy="p@1", sid="Calls", metric="requests", multiply=self.weight,
            )  # fmt: skip
            if self.counts_failed:
                cells.append(counted)
            else:
                failed = Cell(
                    method=method, path=path, dimension=counted.dimension, state=LineState.FAILED, status=(400, 2**62)
                )
                cells += [replace(counted, status=(0, 400)), failed]
            if not as_data:
                cells.append(
                    Cell(method=method, path=path, dimension="data", state=LineState.BILLABLE, policy="p@1", sid="Data",
                         metric="response.bytes", round_up=1_000, base_units=self.data_unit)
                )  # fmt: skip
        seats = EventMeter(
            event=SEATS, dimension="data" if self.seats_as_data else "calls", policy="p@1", sid="Seats",
            round_up=SEATS_ROUNDED_TO,
        )  # fmt: skip
        stored = EventMeter(event=STORED, dimension="data", policy="p@1", sid="Stored", multiply=self.weight)
        return PlanTable(
            plan=plan,
            product="nouns",
            segment="all",
            channel="Marketplace",
            routes=tuple(
                RouteAccess(method=method, path=path, is_allowed=not self.refuses(path)) for method, path in routes
            ),
            cells=tuple(cells),
            events=(seats, stored),
        )

    def changed(self, rng: random.Random) -> Terms:
        """Other documents."""
        return rng.choice(
            [
                replace(self, weight=rng.choice([Decimal(1), Decimal("2.5"), Decimal("0.3333")])),
                replace(self, data_unit=rng.choice([1_000, 10_000, 7_000])),
                replace(self, counts_failed=not self.counts_failed),
                replace(self, texts_as_data=not self.texts_as_data),
                replace(self, seats_as_data=not self.seats_as_data),
                replace(self, refuses_texts=not self.refuses_texts),
                replace(self, paths=PATHS if SEARCH in self.paths else (*PATHS, SEARCH)),
                replace(self, paths=PATHS if SEARCH in self.paths else (*PATHS, SEARCH)),
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Other documents on their way.

    Args:
        begins_at: When the API itself changes.
        recorded_at: When the plans' versions are recorded.
        called_from: When a route that it adds is called first.
        plans: Those that have a document.
        effective_from: The hour that the documents name.
    """

    terms: Terms
    begins_at: datetime
    recorded_at: datetime
    called_from: datetime
    plans: tuple[str, ...] = PLANS
    effective_from: datetime | None = None


@dataclass
class Life:
    """An agreement, as whoever watches from outside knows it."""

    id: str
    agreement: Agreement
    starts_at: datetime
    named: str
    ends_at: datetime | None = None
    is_poisoned: bool = False
    has_plan: bool = True
    is_over: bool = False
    moves: dict[datetime, str] = field(default_factory=dict)

    def plan_at(self, at: datetime) -> str:
        """The plan that was assigned last before a moment."""
        return self.moves[max(moved)] if (moved := [hour for hour in self.moves if hour <= at]) else PLAN


class FaultyObjects(MemoryObjects):
    """The ledger's bucket as one process reaches it."""

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process

    def put_new(self, key: str, content: bytes) -> bool:
        self._world.step(self._process)
        done = self._world.objects.put_new(key, content)
        self._world.step(self._process)
        return done

    def get(self, key: str) -> bytes | None:
        self._world.step(self._process, crash=False)
        return self._world.objects.get(key)

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        return self._world.objects.keys(prefix, after=after)


class FaultyClient:
    """BatchMeterUsage as one process reaches it."""

    def __init__(self, world: World, process: Process) -> None:
        self._world, self._process = world, process

    def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
        world, rng = self._world, self._world.fault_rng
        world.step(self._process)
        fault: Fault | None = None
        kind = rng.choice(list(FaultKind)) if rng.random() < world.troubles.call else None
        if world.is_cut_off:
            kind = rng.choice([FaultKind.LOST_CALL, FaultKind.LOST_REPLY])
        if kind is FaultKind.ERROR:
            fault = Fault(operation="BatchMeterUsage", kind=kind, error="InvalidTagException")
        elif kind is not None:
            fault = Fault(operation="BatchMeterUsage", kind=kind, records=rng.randint(0, len(request["UsageRecords"])))
        if kind in {FaultKind.TIMEOUT, FaultKind.LOST_CALL}:
            raise ReadTimeoutError(endpoint_url="https://metering.example.com")
        if kind is FaultKind.OMITTED and rng.random() < 0.5:
            # Left out of the answer, and not taken either.
            taken = rng.randint(0, len(request["UsageRecords"]) - 1)
            request = {**request, "UsageRecords": request["UsageRecords"][:taken]}
            return world.call(request, None) if taken else {"Results": [], "UnprocessedRecords": []}
        answer = world.call(request, fault)
        if rng.random() < 3 * world.troubles.crash:
            raise Crash
        if kind is FaultKind.LOST_REPLY:
            raise ReadTimeoutError(endpoint_url="https://metering.example.com")
        return answer


@dataclass
class Process:
    """One process of the meter."""

    world: World
    skew: timedelta
    depth: int = 0
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        world = self.world
        world.processes += 1
        ports = Ports(
            facts=world.facts.buyers,
            plans=PlanTimeline(world.versions, world.tables),
            log=world.log,
            ledger=Ledger(FaultyObjects(world, self), run=f"run{world.processes}"),
            metering=FaultyClient(world, self),
            trail=world,
            count=self._count,
            gauge=lambda _, __: None,
        )
        self.meter = Meter(
            world.options,
            ports,
            clock=lambda: world.clock.now() + self.skew,
            sleep=lambda _: None,
            monotonic=lambda: 0.0,
        )
        world.ahead = max(world.ahead, self.skew)

    def _count(self, name: str, number: int) -> None:
        # A clock that is behind does not believe yet what one that was ahead has seen.
        if name != "UsageExcess" or self.skew == self.world.ahead:
            self.world.counted.update({name: number})


class World:
    """One seed.

    Args:
        seed: Decides everything.
        uses_duckdb: Judge with DuckDB, which is slower.
        is_calm: Nothing goes wrong by itself, and agreements are concurrent.

    Attributes:
        fault_rng: Decides what goes wrong in a process; the seed's own, unless something is to happen to two meters.
    """

    buyers = (1, 4)
    """How many there are at first."""

    def __init__(self, seed: int, *, uses_duckdb: bool = False, is_calm: bool = False) -> None:
        self.rng = self.fault_rng = rng = random.Random(seed)
        self.troubles = Troubles() if is_calm else troubles_of(rng)
        is_legacy = not is_calm and rng.random() < 0.3
        kinds = [Dimension.requests("calls"), Dimension(key="data", category=Category.DATA)]
        self.product = (
            Product.legacy("abc123", metering=Metering.PIPELINE, dimensions=kinds)
            if is_legacy
            else Product.concurrent("abc123", dimensions=kinds)
        )
        # Near the end of a month more often than not.
        self.start = datetime(2026, 11, 30, tzinfo=UTC) + timedelta(minutes=rng.randint(-2_000, 1_300))
        self.end = self.start + timedelta(hours=rng.randint(12, 26))
        base = self.start
        self.clock = SettableClock(lambda: base)
        settings = Settings(
            identical_resend=rng.choice(list(IdenticalResend)), unknown_customer_fails_batch=rng.random() < 0.5
        )
        self.market = Marketplace(self.clock, seed=seed, settings=settings)
        self.listing = self.market.add_product(self.product)
        self.objects = MemoryObjects()
        self.files, self.event_files = MemoryLogFiles(), MemoryLogFiles()
        self.facts = MemoryFacts()
        self.versions, self.tables = MemoryPlanVersions(), MemoryPlanTables()
        self.terms: dict[str, dict[datetime, Terms]] = {}
        self._in_stack = PLANS
        self.unknown: Counter[datetime] = Counter()
        self._deployments: list[Deployment] = []
        self._deployed: list[Terms] = [Terms()]
        self._recorded: list[Deployment] = []
        self._served: tuple[str, ...] = PATHS
        self.set_weight(Decimal(1), hour_of(self.start) - HOUR)
        declared = (SEATS, STORED)
        self.log = (
            LinesAndEvents(
                DuckDbUsageLog(self.files, threads=1),
                DuckDbUsageEvents(self.event_files, declared=declared, threads=1),
            )
            if uses_duckdb
            else LinesAndEvents(
                MemoryUsageLog(self.files, self.files.content),
                MemoryUsageEvents(self.event_files, self.event_files.content, declared=declared),
            )
        )
        decimals = rng.choice([0, 6])
        self.options = MeterOptions(
            product=self.product,
            dimensions=DIMENSIONS,
            stack="Sale",
            rules=MeteringRules(decimals=decimals, sends_zero=rng.random() < 0.4),
        )
        self.lives: list[Life] = []
        self.truth: dict[Series, dict[datetime, Fraction]] = {}
        self.counted: Counter[str] = Counter()
        self.ahead = timedelta.min
        self.trail: list[tuple[datetime, dict[str, Any]]] = []
        self.foreign: set[str] = set()
        self.garbage = 0
        self.processes = 0
        self.is_over = False
        self.troubles_seen = False
        self._pending_facts: list[tuple[datetime, Fact]] = []
        self._pending_files: list[tuple[datetime, datetime, bytes]] = []
        self._pending_events: list[tuple[datetime, datetime, bytes]] = []
        self._calls = 0
        self._told = Counter[str]()
        self._final: set[tuple[str, str]] = set()
        self._file_number = 0
        self._delivered_at = self.start
        self._fact_number = 0
        self._cut_off_until = datetime.min.replace(tzinfo=UTC)
        self._outage_at = self.start + rng.random() * (self.end - self.start)
        self._main = self._process()

    # What the world is made of

    def set_weight(self, weight: Decimal, hour: datetime) -> None:
        """From an hour on, calls weigh so much; whoever does this is no deployment, and may speak of any hour."""
        for plan in PLANS:
            terms = Terms(weight=weight).of_plan(plan)
            digest = self.tables.put(terms.table(plan).to_text())
            version = PlanVersion(plan=plan, holds_from=hour, digest=digest, usage_plan_id=plan, assign_to='"Default"')
            if self.versions.add(version):
                self.terms.setdefault(plan, {})[hour] = terms

    def record(self, deployment: Deployment) -> None:
        """What the stack's custom resource does of a deployment.

        It holds from the next hour that is five minutes off, or from the later one that it names; until then what holds
        goes on, whatever was announced before. A plan without a document goes on as it was.
        """
        terms, effective_from = deployment.terms, deployment.effective_from
        properties = [
            {
                "Plan": plan,
                "Table": base64.b64encode(
                    gzip.compress(terms.of_plan(plan).table(plan).to_text().encode(), 1)
                ).decode(),
                "UsagePlanId": plan,
                "AssignTo": '"Default"',
                "EffectiveFrom": f"{effective_from:%Y-%m-%dT%H:%M:%SZ}" if effective_from else "",
            }
            for plan in deployment.plans
        ]
        event = {"RequestType": "Update", "ResourceProperties": {"Plans": properties}}
        assert plans.handle(event, versions=self.versions, tables=self.tables, clock=self.clock.now) is None
        self._in_stack = deployment.plans
        hour = EPOCH + math.ceil((self.clock.now() + 5 * MINUTE - EPOCH) / HOUR) * HOUR
        for plan, held in self.terms.items():
            self.terms[plan] = {at: one for at, one in held.items() if at < hour}
            if plan in deployment.plans:
                self.terms[plan][max(hour, effective_from or hour)] = terms.of_plan(plan)

    def terms_at(self, hour: datetime, plan: str = PLAN) -> Terms:
        held = self.terms[plan]
        return held[max(begun for begun in held if begun <= hour)]

    def alive(self) -> list[Life]:
        return [life for life in self.lives if life.ends_at is None]

    def _fact(self, kind: FactKind, life: Life, at: datetime, **said: Any) -> None:
        self._fact_number += 1
        agreement = life.agreement
        if self.product.is_legacy:
            fact = Fact(
                id=f"{self._fact_number}", kind=kind, buyer=agreement.buyer.customer_identifier, at=at,
                product_code=self.product.product_code, **said,
            )  # fmt: skip
        else:
            arn = agreement.license_arn
            fact = Fact(
                id=f"{self._fact_number}", kind=kind, buyer=agreement.buyer.account_id, at=at,
                agreement_id=agreement.id, product_code=self.product.product_code,
                license_arn=f"{arn[:-4]}beef" if life.is_poisoned else arn, **said,
            )  # fmt: skip
        # An end that is told late is billed late; so it comes within minutes.
        told_at = self.clock.now() + timedelta(seconds=self.rng.randint(0, 180))
        self._pending_facts.append((told_at, fact))

    def subscribe(self, buyer: Buyer) -> None:
        agreement = self.market.subscribe(buyer, self.listing)
        now = agreement.activated_at or self.clock.now()
        earlier = sum(life.agreement.buyer is buyer for life in self.lives)
        name = f"{buyer.customer_identifier}/{earlier + 1}" if self.product.is_legacy else agreement.id
        poisoned = not self.product.is_legacy and self.rng.random() < self.troubles.poison
        life = Life(id=name, agreement=agreement, starts_at=now, named=name, is_poisoned=poisoned)
        self.lives.append(life)
        self._fact(FactKind.REGISTERED, life, now)
        self._fact(FactKind.ACTIVATED, life, now)
        life.has_plan = self.rng.random() >= self.troubles.planless
        if life.has_plan:
            self._fact(FactKind.ASSIGNED, life, now, plan=PLAN, takes_effect_at=hour_of(now))

    def cancel(self, life: Life) -> None:
        end = self.rng.choice([self.market.cancel, self.market.expire, self.market.terminate])
        end(life.agreement)
        life.ends_at, life.is_over = life.agreement.ended_at, True
        assert life.ends_at is not None
        if self.product.is_legacy:
            self._fact(FactKind.ENDING, life, life.ends_at)
        else:
            self._fact(FactKind.ENDED, life, life.ends_at, status=str(life.agreement.status))
            if self.rng.random() < 0.5:
                self._fact(FactKind.DEPROVISIONED, life, life.ends_at)

    def renew(self, life: Life) -> None:
        successor = self.market.renew(life.agreement, same_license=self.rng.random() < 0.7)
        now = successor.activated_at
        assert now is not None
        life.ends_at = now
        following = Life(
            id=successor.id, agreement=successor, starts_at=now, named=life.named, is_poisoned=life.is_poisoned,
            has_plan=life.has_plan, moves=dict(life.moves),
        )  # fmt: skip
        self.lives.append(following)
        self._fact(FactKind.AGREED, following, now, intent="RENEW", previous_agreement_id=life.id)
        self._fact(FactKind.ACTIVATED, following, now)
        self._fact(FactKind.REGISTERED, following, now)
        self._fact(FactKind.ENDED, life, now, status="RENEWED")

    def move(self, life: Life) -> None:
        """Assign the other plan, from one of the next hours on."""
        if not life.has_plan:
            return
        hour = next_hour(self.clock.now()) + self.rng.randint(0, 2) * HOUR
        plan = PARTNER if life.plan_at(hour) == PLAN else PLAN
        if plan not in self._in_stack:
            return
        life.moves[hour] = plan
        self._fact(FactKind.ASSIGNED, life, self.clock.now(), plan=plan, takes_effect_at=hour)

    @property
    def is_cut_off(self) -> bool:
        """Whether no reply of AWS gets through."""
        return not self.is_over and self.clock.now() < self._cut_off_until

    # What happens

    def live(self) -> None:
        """From the first buyer until nothing can happen any more."""
        buyers = [self.market.add_buyer() for _ in range(self.rng.randint(*self.buyers))]
        self.clock.advance(timedelta(seconds=self.rng.randint(1, 50)))
        for buyer in buyers:
            self.subscribe(buyer)
        while self.clock.now() < self.end:
            self._tick(buyers)
        self.troubles = Troubles()
        self.is_over = True
        self._main = self._process()
        # In the last hours each run matters, since ended agreements are flushed in them.
        for step in [RUNS_EVERY] * 15 + [HOUR] * 4 + [4 * HOUR] * 6:
            self.clock.advance(step)
            self._deliver(everything=step > HOUR)
            self._run(self._main)
        if self.rng.random() < 0.2:
            # Sometimes, since it takes time, until no hour is worked out again in which anybody made calls.
            for _ in range(3):
                self.clock.advance(8 * HOUR)
                self._run(self._main)
        for _ in range(2):
            self._run(self._main)

    def _tick(self, buyers: list[Buyer]) -> None:
        rng, before = self.rng, self.clock.now()
        is_ending = any(life.ends_at and before < life.ends_at + 70 * MINUTE for life in self.lives)
        # A run may come a minute late, as schedules do. Between the hours more of them would only take time.
        wait = RUNS_EVERY if is_ending else rng.choice([5, 10, 20, 30]) * MINUTE
        self.clock.advance(wait + timedelta(seconds=rng.randint(0, 59)))
        self._call_api(before, self.clock.now())
        self._tell_usage(before, self.clock.now())
        self._change(buyers)
        self._deliver()
        if rng.random() < self.troubles.cut_off:
            self._cut_off_until = self.clock.now() + rng.choice([HOUR, 2 * HOUR, 9 * HOUR])
        if rng.random() < self.troubles.foreign:
            self._meter_from_elsewhere()
        if self.troubles.outage and self._outage_at <= self.clock.now() < self._outage_at + 9 * HOUR:
            return
        self._run(self._main)

    def _change(self, buyers: list[Buyer]) -> None:
        rng, now = self.rng, self.clock.now()
        alive = self.alive()
        if alive and rng.random() < 0.03:
            self.cancel(rng.choice(alive))
        if (alive := self.alive()) and not self.product.is_legacy and rng.random() < 0.02:
            self.renew(rng.choice(alive))
        if rng.random() < 0.02:
            buyer = rng.choice(buyers)
            of_buyer = [life for life in self.lives if life.agreement.buyer is buyer]
            over = all(life.ends_at and life.ends_at + 2 * HOUR < now for life in of_buyer)
            if (over or not self.product.is_legacy) and not buyer.suspended:
                self.subscribe(buyer)
        if not self._deployments and rng.random() < 0.03:
            self._plan_deployments(now)
        self._deploy(now)
        if (alive := self.alive()) and rng.random() < 0.03:
            self.move(rng.choice(alive))
        if rng.random() < 0.01:
            self.market.suspend(rng.choice(buyers))
        for life in self.lives:  # a legacy subscription is over an hour after its end
            agreement = life.agreement
            if self.product.is_legacy and agreement.deprovisioned_at and life.named:
                self._fact(FactKind.DEPROVISIONED, life, agreement.deprovisioned_at)
                life.named = ""

    def _plan_deployments(self, now: datetime) -> None:
        """A change of the documents, which others may follow, or a rollback to any that held before."""
        rng, at = self.rng, now
        for _ in range(rng.choice([1, 2, 2, 3])):
            is_rollback = len(self._deployed) > 1 and rng.random() < 0.5
            terms = rng.choice(self._deployed[:-1]) if is_rollback else self._deployed[-1].changed(rng)
            recorded_at = at + rng.choice([0, 0, 0, 20, 90]) * MINUTE
            effective_from = hour_of(recorded_at) + rng.randint(1, 8) * HOUR if rng.random() < 0.4 else None
            called_from = rng.choice([at, recorded_at + 2 * HOUR])
            self._deployed.append(terms)
            self._deployments.append(
                Deployment(
                    terms=terms,
                    begins_at=at,
                    recorded_at=recorded_at,
                    called_from=effective_from or called_from,
                    plans=(PLAN,) if rng.random() < 0.2 else PLANS,
                    effective_from=effective_from,
                )
            )
            # Within the hour, or hours later.
            at = recorded_at + rng.choice([5, 15, 30, 240]) * MINUTE

    def _deploy(self, now: datetime) -> None:
        for one in self._deployments:
            if one.begins_at <= now:
                self._served = one.terms.paths if one.called_from <= now else PATHS
        for one in [one for one in self._deployments if one.recorded_at <= now and one not in self._recorded]:
            self._recorded.append(one)
            self.record(one)
        if all(one in self._recorded and one.called_from <= now for one in self._deployments):
            self._deployments, self._recorded = [], []

    def _call_api(self, since: datetime, until: datetime) -> None:
        rng = self.rng
        lines = []
        for life in self.lives:
            if life.ends_at is not None:
                continue
            for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
                at = since + rng.random() * (until - since)
                at = at.replace(microsecond=at.microsecond // 1000 * 1000)
                if at >= life.starts_at:
                    lines.append(self._call(life, at))
        # The gate may let some in after the end, which nobody is billed for.
        for life in self.lives:
            if life.ends_at == since and life.is_over and rng.random() < 0.5:
                self._count(life.id, f"{CALL}outside", hour_of(since + MINUTE / 2), Fraction(1))
                lines.append(self._line(life.id, since + MINUTE / 2, "/v1/nouns", 200, 7_000))
        if rng.random() < self.troubles.garbage:
            lines.append(b'{"extendedRequestId": "x", "requestTimeEpoch": 12')
            self.garbage += 1
        self._log_lines(lines, until, self._pending_files)

    def _tell_usage(self, since: datetime, until: datetime) -> None:
        """Backends tell usage, mostly of whoever lives."""
        rng = self.rng
        lines = []
        for life in self.lives:
            at = since + rng.random() * (until - since)
            if life.ends_at is None and at >= life.starts_at and rng.random() < 0.3:
                lines.append(self._event(self._named(life, at), at, life=life))
            elif life.ends_at == since and life.is_over and rng.random() < 0.5:
                lines.append(self._event(life.id, since))
            elif life.starts_at >= since and life.named == life.id and rng.random() < 0.3:
                # A backend's clock may be slow. Before the first hour of the ledger nothing counts.
                early = life.starts_at - rng.choice([1, 200]) * MINUTE
                lines.append(self._event(life.id, max(early, hour_of(self.start) - HOUR)))
        if rng.random() < self.troubles.garbage:
            lines.append(self._event("agmt-unknown", until))
        if rng.random() < self.troubles.garbage:
            wrong = [{"data": {"value": 1.5}}, {"time": (until - 30 * HOUR).isoformat()}, {"type": "gone"}]
            lines.append(self._event(self.lives[0].id, until, **rng.choice(wrong)))
            self.garbage += 1
        self._log_lines(lines, until, self._pending_events)

    def _event(self, named: str, at: datetime, *, life: Life | None = None, **wrong: Any) -> bytes:
        """One event, and maybe a copy that tells a later time, which counts nothing."""
        rng = self.rng
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        name, source = rng.choice([STORED, STORED, SEATS]), rng.choice(["/disks", "/desks"])
        value = Decimal(rng.choice([1, 7, rng.randint(0, 10**6)])).scaleb(-rng.randint(0, 5))
        self._told[source] += 1
        if wrong:
            pass
        elif life is None:
            self._count(named, f"event:{name}/outside", hour_of(at), Fraction(value))
        elif not life.has_plan:
            self._count(life.id, f"event:{name}", hour_of(at), Fraction(value))
        else:
            dimension, quantity = self.terms_at(hour_of(at), life.plan_at(at)).event(name, value)
            self._count(life.id, dimension, hour_of(at), quantity)
        detail = {
            "specversion": "1.0", "id": str(self._told[source]), "source": source, "type": name, "subject": named,
            "time": at.isoformat(), "data": {"value": f"{value:f}"},
        }  # fmt: skip
        if wrong:
            self._final.add((source, str(self._told[source])))
            # Ends otherwise than a whole line: no file with it comes twice.
            return json.dumps({"detail": detail | wrong}).encode() + b" "
        copies = [detail]
        if rng.random() < self.troubles.doubled:
            copies.append(detail | {"time": (at + rng.randint(1, 90) * MINUTE).isoformat()})
        return b"\n".join(json.dumps({"detail": copy}).encode() for copy in copies)

    def _named(self, life: Life, at: datetime) -> str:
        """Some minutes after a renewal the new agreement is named."""
        return life.id if at > life.starts_at + 3 * MINUTE and not self.product.is_legacy else life.named

    def _log_lines(self, lines: list[bytes], until: datetime, pending: list[tuple[datetime, datetime, bytes]]) -> None:
        rng = self.rng
        rng.shuffle(lines)
        files = [b"\n".join(lines)] if lines else []
        if len(lines) > 2 and rng.random() < 0.5:
            files = [b"\n".join(lines[:2]), b"\n".join(lines[2:])]
        for content in files:
            is_whole = all(line.endswith(b"}") for line in content.split(b"\n"))
            copies = 2 if is_whole and rng.random() < self.troubles.doubled else 1
            for _ in range(copies):
                arrived = until + timedelta(seconds=rng.randint(0, 60))
                delay = timedelta(seconds=rng.randint(10, 360))
                if rng.random() < self.troubles.late:
                    late = timedelta(minutes=rng.choice([20, 60, 200, 1_200]) * rng.random())
                    arrived, delay = (arrived + late, delay) if rng.random() < 0.5 else (arrived, delay + late)
                pending.append((arrived + delay, hour_of(arrived), content + b"\n"))

    def _call(self, life: Life, at: datetime) -> bytes:
        rng = self.rng
        status = rng.choice([200, 200, 200, 204, 404, 500])
        size = rng.choice([0, rng.randint(1, 50_000), 30_000])
        path = rng.choice(self._served)
        hour = hour_of(at)
        if rng.random() < self.troubles.strange:
            self.unknown[hour] += 1
            self._count(life.id, f"{CALL}unmatched", hour, Fraction(1))
            # Where no plan was assigned, it is that of the line.
            path, plan = (path, "gone@1") if not life.has_plan else ("/v2/nouns", PLAN)
            return self._line(self._named(life, at), at, path, status, size, plan=plan)
        terms = self.terms_at(hour, life.plan_at(at))
        if life.plan_at(at) not in self._in_stack and rng.random() < 0.9:
            return self._line(self._named(life, at), at, path, 403, 0, error="INVALID_API_KEY")
        if terms.refuses(path) and rng.random() < 0.5:
            return self._line(self._named(life, at), at, path, 403, 0, error="ACCESS_DENIED")
        if path not in terms.paths:
            self.unknown[hour] += 1
            self._count(life.id, f"{CALL}unmatched", hour, Fraction(1))
        else:
            for dimension, quantity in terms.call(path, status, size).items():
                self._count(life.id, dimension, hour, quantity)
        # An answer of the gate that API Gateway keeps may name the plan of some minutes ago.
        return self._line(
            self._named(life, at), at, path, status, size, plan=life.plan_at(at - rng.choice([0, 5]) * MINUTE)
        )

    def _count(self, agreement: str, dimension: str, hour: datetime, quantity: Fraction) -> None:
        hours = self.truth.setdefault(Series(agreement=agreement, dimension=dimension), {})
        hours[hour] = hours.get(hour, Fraction(0)) + quantity

    def _line(
        self, named: str, at: datetime, path: str, status: int, size: int, *, plan: str = PLAN, error: str = "-"
    ) -> bytes:
        self._calls += 1
        members = dict.fromkeys(FIELDS, "-") | {
            "requestTimeEpoch": str(round(at.timestamp() * 1000)),
            "extendedRequestId": f"call{self._calls}",
            "httpMethod": "GET",
            "resourcePath": path,
            "status": str(status),
            "responseLength": str(size),
            "agreement": named,
            "plan": plan,
            "errorResponseType": error,
        }
        return json.dumps(members).encode()

    def _tell(self) -> None:
        """Facts reach the table whether or not a process of the meter is asleep."""
        for told_at, fact in list(self._pending_facts):
            if told_at <= self.clock.now():
                self.facts.add(fact)
                self._pending_facts.remove((told_at, fact))

    def _deliver(self, *, everything: bool = False) -> None:
        now = self.clock.now()
        self._tell()
        for waiting, files in ((self._pending_files, self.files), (self._pending_events, self.event_files)):
            self.rng.shuffle(waiting)
            for pending in list(waiting):
                delivered_at, hour, content = pending
                if delivered_at <= now or everything:
                    self._file_number += 1
                    files.add(
                        min(hour, hour_of(now)),
                        f"{self._file_number:05}",
                        content,
                        # What is delivered later came later.
                        modified_at=max(self._delivered_at, now - timedelta(seconds=self.rng.randint(0, 120))),
                    )
                    waiting.remove(pending)
                    if waiting is self._pending_events:
                        self._retell(content.rstrip().split(b"\n"), hour)
        self._delivered_at = now

    def _retell(self, lines: list[bytes], hour: datetime) -> None:
        """A backend tells again what is in the log already, with another time, value and agreement: all in vain."""
        rng, now = self.rng, self.clock.now()
        if rng.random() >= self.troubles.retold:
            return
        told: dict[str, Any] = json.loads(rng.choice(lines))["detail"]
        arrives = now + timedelta(minutes=rng.choice([0, 30, 300, 1_200]) * rng.random())
        # Once, as long as the first copy is known, and while files still come at their time.
        if (told["source"], told["id"]) in self._final or arrives > min(hour + 25 * HOUR, self.end + 5 * HOUR):
            return
        self._final.add((told["source"], told["id"]))
        at = hour_of(arrives) + timedelta(minutes=rng.choice([rng.randint(-1_500, 300), rng.randint(-90, 90)]))
        subject = rng.choice([told["subject"], rng.choice(self.lives).id])
        copy = told | {"time": at.isoformat(), "subject": subject, "data": {"value": str(rng.randint(0, 10**6))}}
        self._pending_events.append((arrives, hour_of(arrives), json.dumps({"detail": copy}).encode() + b"\n"))

    def _meter_from_elsewhere(self) -> None:
        if not (alive := self.alive()):
            return
        life = self.rng.choice(alive)
        hour = hour_of(self.clock.now()) - self.rng.randint(0, 2) * HOUR
        at = max(hour, life.starts_at) + timedelta(seconds=self.rng.randint(0, 200))
        identity = (
            {"CustomerIdentifier": life.agreement.buyer.customer_identifier}
            if self.product.is_legacy
            else {"CustomerAWSAccountId": life.agreement.buyer.account_id, "LicenseArn": life.agreement.license_arn}
        )
        record = {**identity, "Timestamp": at, "Dimension": "calls", "Quantity": self.rng.randint(10**6, 10**7)}
        product = {"ProductCode": self.product.product_code} if self.product.is_legacy else {}
        before = len(self.market.accepted_records)
        try:
            self.call({"UsageRecords": [record], **product}, None)
        except ClientError:
            return
        self.foreign |= {one.metering_record_id for one in self.market.accepted_records[before:]}

    # What the processes meet

    def _process(self) -> Process:
        minutes = self.troubles.skew_minutes
        return Process(self, timedelta(minutes=self.fault_rng.uniform(-minutes, minutes)))

    def _run(self, process: Process) -> None:
        try:
            process.meter.run()
        except Crash:
            if process is self._main:
                self._main = self._process()
        except (ClientError, ReadTimeoutError):
            pass
        else:
            if not self.is_over and self.fault_rng.random() < 0.2 and process is self._main:
                self._main = self._process()

    def step(self, process: Process, *, crash: bool = True) -> None:
        """A point at which a process may die, be overtaken or meet an error of the storage."""
        rng, troubles = self.fault_rng, self.troubles
        if crash and rng.random() < troubles.crash:
            raise Crash
        if rng.random() < troubles.storage:
            raise ClientError({"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}, "PutObject")
        if process.depth == 0 and rng.random() < troubles.twin:
            self.clock.advance(timedelta(minutes=rng.choice([0, 0.5, 1, 10, 40])))
            # Firehose does not wait for a process that stands still; without end, one would outlast its 24 hours.
            self._deliver()
            twin = self._process()
            twin.depth = 1
            self._run(twin)

    def call(self, request: Mapping[str, Any], fault: Fault | None) -> Mapping[str, Any]:
        """BatchMeterUsage, as CloudTrail notes it down."""
        try:
            answer = self.market.call("BatchMeterUsage", dict(request), fault=fault)
        except ApiError as error:
            status = error.status or (500 if error.code.startswith("Internal") else 400)
            self.trail.append((self.clock.now(), {"eventSource": EVENT_SOURCE, "errorCode": error.code}))
            raise ClientError(
                {"Error": {"Code": error.code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "BatchMeterUsage"
            ) from None
        results = [
            {
                "usageRecord": {
                    f"{name[0].lower()}{name[1:]}": value.isoformat() if name == "Timestamp" else value
                    for name, value in result["UsageRecord"].items()
                },
                **{f"{name[0].lower()}{name[1:]}": value for name, value in result.items() if name != "UsageRecord"},
            }
            for result in answer["Results"]
        ]
        self.trail.append((self.clock.now(), {"eventSource": EVENT_SOURCE, "responseElements": {"results": results}}))
        return answer

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """CloudTrail's port."""
        return (event for at, event in self.trail if since <= at <= until and at + _TRAIL_LAG <= self.clock.now())


# What may be said of it from outside


def manifests(world: World) -> list[Manifest]:
    """The chain, read by hand."""
    keys = world.objects.keys("manifests/")
    return [codec.manifest_from_json(codec.from_bytes(world.objects.get(key) or b"")) for key in keys]


def check(world: World) -> None:
    """Every billable unit is billed once, or in the loss ledger, or in doubt; and never two of them."""
    chain = manifests(world)
    records = {record.id: record for manifest in chain for record in manifest.records}
    losses = [loss for manifest in chain for loss in manifest.losses]
    closed = {one.hour: one for manifest in chain for one in manifest.closed}
    unjudged = {
        (series, hour): Fraction(calls)
        for hour, one in closed.items()
        if hour >= max(closed) - KEPT
        for series, calls in (one.unjudged or {}).items()
    }
    fates = {one.record: one for manifest in chain for one in manifest.settlements}
    _check_conservation(world, records, losses, unjudged)
    _check_records(world, records)
    _check_fates(world, records, fates)
    _check_aws(world, records)
    _check_unknown(world, chain)
    quarantined = [*world.files.quarantined.values(), *world.event_files.quarantined.values()]
    assert sum(len(content.splitlines()) for content in quarantined) == world.garbage


def _check_conservation(
    world: World, records: Mapping[str, Record], losses: list[Any], unjudged: Mapping[tuple[Series, datetime], Fraction]
) -> None:
    held = dict(unjudged)
    rounded: dict[Series, Fraction] = {}
    for record in records.values():
        for source in record.sources:
            key = record.series, source.hour
            held[key] = held.get(key, Fraction(0)) + source.quantity
            rounded[record.series] = rounded.get(record.series, Fraction(0)) + source.quantity
        rounded[record.series] = rounded.get(record.series, Fraction(0)) - Fraction(record.quantity)
    for loss in losses:
        assert loss.quantity > 0
        if loss.reason is LossReason.REMAINDER:
            rounded[loss.series] -= loss.quantity
        else:
            held[loss.series, loss.hour] = held.get((loss.series, loss.hour), Fraction(0)) + loss.quantity
    truth = {(s, h): quantity for s, hours in world.truth.items() for h, quantity in hours.items() if quantity}
    held = {key: quantity for key, quantity in held.items() if quantity}
    wrong = {
        key: (truth.get(key), held.get(key)) for key in truth.keys() | held.keys() if truth.get(key) != held.get(key)
    }
    assert not wrong, f"usage and ledger differ: {wrong}"
    ended = {life.id for life in world.lives if life.ends_at is not None}
    for series, remainder in rounded.items():
        assert 0 <= remainder < Fraction(1, 10**world.options.rules.decimals), f"remainder {series} {remainder}"
        assert not remainder or series.agreement not in ended, f"remainder after the end: {series} {remainder}"


def _check_records(world: World, records: Mapping[str, Record]) -> None:
    slots: set[tuple[str, str, str, datetime]] = set()
    lives = {life.id: life for life in world.lives}
    for record in records.values():
        life = lives[record.series.agreement]
        buyer = record.buyer
        place = (buyer.customer_identifier, buyer.license_arn, record.series.dimension, record.slot)
        assert place not in slots, f"two records in one hour: {place}"
        slots.add(place)
        assert record.timestamp >= life.starts_at, "before the agreement began"
        assert life.ends_at is None or record.timestamp < life.ends_at, "after the agreement ended"
        assert all((s.hour.year, s.hour.month) == (record.slot.year, record.slot.month) for s in record.sources), (
            "across the end of a month"
        )
        assert sum((one.quantity for one in record.allocations), Decimal(0)) in {record.quantity, Decimal(0)}
        assert not record.allocations or len({one.path for one in record.allocations}) == len(record.allocations)


def _check_unknown(world: World, chain: list[Manifest]) -> None:
    """Calls of a route that the hour's table does not know are told, and their hour waits."""
    told: dict[datetime, int] = {}
    for manifest in chain:
        for closed in manifest.closed:
            lines = closed.lines.get(LineState.UNMATCHED, 0)
            if lines and closed.hour not in told and manifest.read_at is not None:
                held_until = world.options.rules.deadline(closed.hour) - 4 * HOUR
                assert manifest.read_at >= held_until, f"not held: {closed.hour}"
            told[closed.hour] = lines
    assert {hour: lines for hour, lines in told.items() if lines} == world.unknown, "lines of unknown routes"


_Key = tuple[str, str, datetime, Decimal]


def _check_fates(world: World, records: Mapping[str, Record], fates: Mapping[str, Any]) -> None:
    held = Counter(_accepted_key(world, one) for one in world.market.accepted_records)
    ours = Counter(
        _accepted_key(world, one)
        for one in world.market.accepted_records
        if one.metering_record_id not in world.foreign
    )
    known = Counter(_record_key(record) for record in records.values())
    shown = {key for _, event in world.trail for key in _shown_keys(event)}
    assert not ours - known, f"AWS holds what the ledger does not know: {ours - known}"
    life_of = {life.id: life for life in world.lives}
    for record in records.values():
        fate, key = fates.get(record.id), _record_key(record)
        if fate is None and world.clock.now() < record.timestamp + 25 * HOUR:
            # AWS refuses it, and may still be brought to take it.
            assert life_of[record.series.agreement].is_poisoned, f"not sent: {record}"
            continue
        assert fate is not None, f"nobody knows what became of {record}"
        if fate.outcome is Outcome.ACCEPTED:
            assert held[key], f"said to be accepted, and AWS does not hold it: {record}"
            assert fate.metering_record_id
        else:
            # A reply that left a record out leaves it in doubt, and CloudTrail shows no more than the reply.
            is_hidden = fate.outcome is Outcome.IN_DOUBT and key not in shown
            assert not ours[key] or is_hidden, f"{fate.outcome}, and AWS holds it: {record}"


def _shown_keys(event: Mapping[str, Any]) -> Iterator[_Key]:
    for result in event.get("responseElements", {}).get("results", ()):
        usage = result["usageRecord"]
        if result["status"] == "Success":
            at = datetime.fromisoformat(usage["timestamp"])
            quantity = Decimal(str(usage.get("quantityAsDecimal", usage.get("quantity"))))
            identity = usage.get("customerIdentifier") or usage["licenseArn"]
            yield identity, usage["dimension"], at, quantity.normalize()


def _check_aws(world: World, records: Mapping[str, Record]) -> None:
    seconds = {ViolationRule.CHANGED_QUANTITY, ViolationRule.CHANGED_TIMESTAMP}
    wrong = [
        violation
        for violation in world.market.violations
        if violation.rule not in seconds or violation.metering_record_id not in world.foreign
    ]
    # Who meters from elsewhere comes second as well.
    if world.troubles_seen:
        wrong = [violation for violation in wrong if violation.rule not in seconds]
    assert not wrong, wrong
    by_agreement = {(r.series.agreement, r.series.dimension, r.timestamp) for r in records.values()}
    if not world.product.is_legacy:
        for one in world.market.accepted_records:
            if one.metering_record_id not in world.foreign:
                assert (one.agreement_id, one.dimension, one.timestamp) in by_agreement, "billed to another agreement"


def _accepted_key(world: World, one: AcceptedRecord) -> _Key:
    identity = world.market.buyers[one.account_id].customer_identifier if world.product.is_legacy else one.license_arn
    return identity, one.dimension, one.timestamp, one.quantity.normalize()


def _record_key(record: Record) -> _Key:
    buyer = record.buyer
    return (
        buyer.customer_identifier or buyer.license_arn,
        record.series.dimension,
        record.timestamp,
        record.quantity.normalize(),
    )


def simulate(seed: int, *, uses_duckdb: bool = False) -> World:
    """Live through one seed, and check it.

    Raises:
        AssertionError: A unit is in two places, or in none; or the meter says that the log shows less than was billed.
    """
    world = World(seed, uses_duckdb=uses_duckdb)
    world.troubles_seen = world.troubles.foreign > 0
    world.live()
    check(world)
    assert not world.counted["UsageExcess"]
    return world


def run_seed(seed: int, *, duckdb_every: int | None = 20) -> tuple[int, str]:
    """A seed and what is wrong with it: nothing, mostly. One of so many is judged by DuckDB, in 25 times the time."""
    logging.disable(logging.CRITICAL)
    try:
        simulate(seed, uses_duckdb=duckdb_every is not None and (seed + 1) % duckdb_every == 0)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a failure of this seed
        return seed, f"{type(error).__name__}: {error}"[:2_000]
    finally:
        logging.disable(logging.NOTSET)
    return seed, ""
