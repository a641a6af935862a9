"""The scenario of the meter: many buyers under several plans, and a bill that is right to the last unit."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

from marketplace_constructs.domain.plan_versions import HOUR, hour_of, next_hour
from marketplace_constructs.rehearsal.bill import (
    SOLD_THROUGH,
    Bill,
    Plans,
    accepted,
    counted,
    differences,
    due,
    plain,
    totals,
)
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.journey import Promises, require
from marketplace_constructs.rehearsal.plan_scenarios import answers_kept, assign
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, register, sold_route, wait_until_drained
from marketplace_constructs.runtime.metering.ledger import ledger_prefix

_CALLERS: Final = 6
_WRONG_KEY: Final = "x" * 40
_SEED: Final = 5
_UNREADABLE: Final = b'{"requestTimeEpoch":"17","extendedRequestId":\n'
_MOMENT: Final = timedelta(seconds=30)
_NEEDED: Final = timedelta(hours=8)
"""Of a month: usage that comes late is never billed in the next one."""

Counts = Callable[[str, Call], Mapping[str, Fraction]]
"""What a call counts under a plan (``id@version``), by dimension; nothing where it is not sold through Marketplace."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is played.

    Args:
        buyers: At least two for each plan.
        calls: In all, about.
    """

    buyers: int
    calls: int


@dataclass(kw_only=True)
class _Customer:
    """A buyer, the plan, and the agreements, each from when on."""

    visitor: Visitor
    plan: str
    channel: str
    agreements: list[tuple[datetime, str]] = field(default_factory=list)
    ended: dict[str, datetime] = field(default_factory=dict)

    def agreement_at(self, at: datetime) -> str:
        return next(agreement for since, agreement in reversed(self.agreements) if since <= at)


def metering(stage: Stage, promises: Promises) -> None:
    """Ten buyers and some hundred calls."""
    play_metering(stage, promises, Size(buyers=10, calls=300))


def metering_large(stage: Stage, promises: Promises) -> None:
    """Thirty buyers and three thousand calls."""
    play_metering(stage, promises, Size(buyers=30, calls=3000))


def play_metering(stage: Stage, promises: Promises, size: Size, counts: Counts | None = None) -> None:
    """Make the promises.

    Args:
        stage: Where.
        promises: Made here.
        size: How much is played.
        counts: What calls count; left out, what the deployed tables of the plans say.

    Raises:
        CouldNotRehearse: MP-REHEARSE-30, the app names no calls.
    """
    sale = stage.sale(SaleKind.METERED_BY_PLANS)
    if not stage.example_calls:
        raise CouldNotRehearse(
            "MP-REHEARSE-30",
            "the calls of many buyers, got no rehearsal.json beside app.py; expected calls, some of which succeed; "
            "write it, as docs/rehearsal.md shows",
        )
    _reach_quiet_hour(stage)
    with answers_kept(stage, sale, seconds=1):
        _Play(stage, promises, sale, size, counts).run()


def _reach_quiet_hour(stage: Stage) -> None:
    """Two minutes into an hour, with enough of its month to come."""
    now = stage.clock.now()
    month = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    hour = hour_of(now) + HOUR
    stage.clock.advance((hour if hour + _NEEDED < month else month + 7 * HOUR) + timedelta(minutes=2) - now)


class _Play:
    def __init__(self, stage: Stage, promises: Promises, sale: Sale, size: Size, counts: Counts | None) -> None:
        assert sale.pipeline is not None
        self._stage, self._promises, self._sale, self._size = stage, promises, sale, size
        self._settings = sale.pipeline.settings
        self._plans = Plans(stage, sale)
        self._counts = self._plans.counts if counts is None else counts
        self._random = random.Random(_SEED)  # noqa: S311  # nothing secret
        self._customers: list[_Customer] = []
        self._late: set[str] = set()
        self._violations = len(stage.market.violations)
        self._begun = time.monotonic()

    def run(self) -> None:
        stage, promises = self._stage, self._promises
        with promises.promise(f"{self._size.buyers} buyers come, and each has a key and a plan") as notes:
            self._bring_buyers()
            plans = Counter(customer.plan for customer in self._customers)
            notes.append(", ".join(f"{number} under {plan}" for plan, number in sorted(plans.items())))
        # Those of the plan that the documents give go on by themselves; a private offer's would need another one.
        sold = sorted(
            (c for c in self._customers if c.channel == SOLD_THROUGH),
            key=lambda c: bool(self._offers(c.plan)),
        )
        renewed, replaced, leaver = sold[0], sold[1], sold[-1]
        first = hour_of(stage.clock.now())
        second = first + HOUR
        with promises.promise(f"they call from {first:%H:%M} on; one file of the log comes twice") as notes:
            self._until(first + timedelta(minutes=5))
            stage.access_logs.duplicate()
            self._call(0.6, notes)
        with promises.promise("some lines are late, and one can be read by nobody") as notes:
            self._until(first + timedelta(minutes=20))
            before = len(stage.gateway.calls)
            with stage.access_logs.put_aside() as bring:
                self._call(0.1, notes)
            self._late = {call.extended_request_id for call in stage.gateway.calls[before:]}
            stage.access_logs.write(self._sale.api_id, _UNREADABLE)
        with promises.promise("two agreements are renewed, one with another licence; both keys go on working") as notes:
            self._until(first + timedelta(minutes=40))
            self._renew(renewed, same_license=True)
            self._renew(replaced, same_license=False)
            self._until(first + timedelta(minutes=45))
            self._call(0.15, notes)
        with promises.promise(f"one cancels at {second + timedelta(minutes=5):%H:%M}, and is shut out") as notes:
            self._until(second + timedelta(minutes=2))
            self._call(0.15, notes)
            self._until(second + timedelta(minutes=5))
            self._cancel(leaver)
        with promises.promise("within minutes all that was used up to then is billed, and nobody else's") as notes:
            self._until(second + timedelta(minutes=12))
            ((_, ended),) = leaver.agreements
            self._require_total([ended], without_late=True)
            others = self._agreements() - {ended, *renewed.ended, *replaced.ended}
            require(not accepted(stage, others), "usage of others is billed already")
            notes.extend(f"{plain(q)} {d}" for (_, d), q in sorted(totals(accepted(stage, [ended]), [ended]).items()))
        with promises.promise("the late lines come when their hour is closed") as notes:
            self._until(second + timedelta(minutes=17))
            bring()
            notes.append(f"{len(self._late)} lines")
        self._judge(first)

    def _judge(self, first: datetime) -> None:
        """Hold what was accepted against what is due."""
        stage, promises, second = self._stage, self._promises, first + HOUR
        with promises.promise("every agreement is billed what its calls count, for each dimension and hour") as notes:
            self._until(second + HOUR + timedelta(minutes=self._settings.watermark_minutes + 2))
            self._require_bill(second)
            notes.extend(self._figures())
        with promises.promise("what is not sold through AWS Marketplace is counted, and not sent"):
            own = [customer for customer in self._customers if customer.channel != SOLD_THROUGH]
            require(not accepted(stage, {a for c in own for _, a in c.agreements}), "some of it is billed")
            require(
                not own
                or any(counted(call, self._plans.table_of(c.plan, call.at)) for c in own for call in c.visitor.calls),
                "none of it counts anything",
            )
        with promises.promise("the ledger can be read, and says the same") as notes:
            notes.append(self._require_ledger(first))
        with promises.promise("nothing is billed twice, and no rule of AWS is broken"):
            wrong = [violation.what for violation in stage.market.violations[self._violations :]]
            require(not wrong, "; ".join(wrong))

    def _until(self, moment: datetime) -> None:
        self._stage.let_pass(self._sale, moment)

    def _offers(self, plan: str) -> list[str]:
        said = json.loads(self._plans.version_of(plan, self._stage.clock.now()).assign_to)
        return list(said.get("Offers", ())) if isinstance(said, dict) else []

    def _bring_buyers(self) -> None:
        stage, sale = self._stage, self._sale
        deployed = self._plans.deployed(stage.clock.now())
        hour = next_hour(stage.clock.now())
        moved = []
        for number in range(self._size.buyers):
            version = deployed[sorted(deployed)[number % len(deployed)]]
            offers = self._offers(version.plan)
            visitor = Visitor(stage, sale, stage.market.add_buyer())
            agreement = visitor.subscribe(offer_id=offers[0] if offers else None)
            customer = _Customer(visitor=visitor, plan=version.plan, channel=version.channel)
            customer.agreements.append((agreement.starts_at, agreement.id))
            register(visitor)
            if self._plans.plan_of(visitor, agreement.id, stage.clock.now()) != version.plan:
                assign(visitor, agreement.id, version.plan, hour)
                moved.append(customer)
            self._customers.append(customer)
        self._until(hour + timedelta(minutes=1))
        for customer in moved:
            stage.reconcile(sale, customer.visitor.identity)
        for customer in self._customers:
            plan = self._plans.plan_of(customer.visitor, customer.agreements[0][1], stage.clock.now())
            require(plan == customer.plan, f"a buyer has {plan} instead of {customer.plan}")

    def _call(self, share: float, notes: list[str]) -> None:
        """Everybody calls; some without a key, or with a wrong one."""
        number = int(self._size.calls * share)
        calling: list[tuple[Visitor, Any, str]] = []
        for index in range(number):
            visitor = self._customers[index % len(self._customers)].visitor
            key = {0: "", 1: _WRONG_KEY}.get(self._random.randrange(25), visitor.key)
            calling.append((visitor, self._random.choice(self._stage.example_calls), key))
        before = len(self._stage.gateway.calls)
        with ThreadPoolExecutor(_CALLERS) as pool:
            list(pool.map(lambda one: one[0].make(one[1], one[2]), calling))
        notes.append(_kinds(self._stage.gateway.calls[before:]))

    def _renew(self, customer: _Customer, *, same_license: bool) -> None:
        stage, visitor = self._stage, customer.visitor
        assert visitor.agreement is not None
        old = visitor.agreement.id
        stage.clock.advance(_MOMENT)
        visitor.agreement = stage.market.renew(visitor.agreement, same_license=same_license)
        wait_until_drained(stage, self._sale)
        customer.ended[old] = visitor.agreement.starts_at
        customer.agreements.append((visitor.agreement.starts_at, visitor.agreement.id))
        stage.clock.advance(_MOMENT)

    def _cancel(self, customer: _Customer) -> None:
        stage, visitor = self._stage, customer.visitor
        assert visitor.agreement is not None
        stage.market.cancel(visitor.agreement)
        customer.ended[visitor.agreement.id] = visitor.agreement.ended_at or stage.clock.now()
        wait_until_drained(stage, self._sale)
        visitor.call_until_refused(sold_route(stage, self._sale), visitor.key)

    def _agreements(self) -> set[str]:
        return {agreement for customer in self._customers for _, agreement in customer.agreements}

    def _owed(self, late_in: datetime | None) -> Bill:
        """The bill, without late calls, or with them in the hour that is closed when they have come."""
        counts = []
        for customer in self._customers:
            for call in customer.visitor.calls:
                hour = hour_of(call.at)
                agreement = customer.agreement_at(call.at)
                is_late = call.extended_request_id in self._late
                if is_late and late_in is None:
                    continue
                if late_in is not None and (is_late or self._hour_is_taken(customer, agreement, hour)):
                    hour = late_in
                counts.append((agreement, hour, self._counts(customer.plan, call)))
        return due(counts, decimals=self._settings.decimals)

    def _hour_is_taken(self, customer: _Customer, agreement: str, hour: datetime) -> bool:
        """Whether the agreement before was billed in this hour under the same licence: AWS takes one record."""
        agreements = self._stage.market.agreements
        return any(
            hour_of(at) == hour
            and ended != agreement
            and agreements[ended].license_id == agreements[agreement].license_id
            for ended, at in customer.ended.items()
        )

    def _require_total(
        self, agreements: Sequence[str], *, without_late: bool = False, late_in: datetime | None = None
    ) -> None:
        """Agreements that ended are billed all that they used, whatever the hour, while AWS takes it."""
        owed = totals(self._owed(None if without_late else late_in), agreements)
        got = totals(accepted(self._stage, agreements), agreements)
        require(bool(owed), "they owe nothing, which shows nothing")
        require(owed == got, f"{_said(owed)} are due and {_said(got)} are billed")
        ends = {a: at for customer in self._customers for a, at in customer.ended.items()}
        late = [
            record.agreement_id
            for record in self._stage.market.accepted_records
            if record.agreement_id in agreements and record.accepted_at > ends[record.agreement_id] + HOUR
        ]
        require(not late, f"usage of {', '.join(late)} came when AWS takes it no more")

    def _require_bill(self, late_in: datetime) -> None:
        ended = {agreement for customer in self._customers for agreement in customer.ended}
        self._require_total(sorted(ended), late_in=late_in)
        owed = {place: q for place, q in self._owed(late_in).items() if place[0] not in ended}
        billed = accepted(self._stage, self._agreements() - ended)
        require(owed == billed, "; ".join(differences(owed, billed)))

    def _figures(self) -> list[str]:
        calls = [call for customer in self._customers for call in customer.visitor.calls]
        billed = accepted(self._stage, self._agreements())
        sums: dict[str, Decimal] = {}
        for (_, dimension, _), quantity in billed.items():
            sums[dimension] = sums.get(dimension, Decimal(0)) + quantity
        return [
            f"{len(calls)} calls of {len(self._customers)} buyers in {time.monotonic() - self._begun:.0f} s",
            f"{len(billed)} records of {', '.join(f'{plain(q)} {d}' for d, q in sorted(sums.items()))}",
        ]

    def _require_ledger(self, first: datetime) -> str:
        """Read the ledger as anybody can, with nothing but S3 and JSON."""
        settings, s3 = self._settings, self._stage.aws.client("s3")
        prefix = f"{ledger_prefix(settings.product_code, settings.metering_region)}manifests/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=settings.ledger_bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        texts = [s3.get_object(Bucket=settings.ledger_bucket, Key=key)["Body"].read() for key in sorted(keys)]
        manifests = [json.loads(text) for text in texts]
        require([m["sequence"] for m in manifests] == list(range(1, len(manifests) + 1)), "a manifest is missing")
        for text, (_, following) in zip(texts, pairwise(manifests), strict=False):
            require(hashlib.sha256(text).hexdigest() == following["previous"], "the chain is broken")
        ours = self._agreements()
        records = {r["id"]: r for m in manifests for r in m.get("records", ()) if r["agreement"] in ours}
        fates = {
            s["record"]: s["outcome"] for m in manifests for s in m.get("settlements", ()) if s["record"] in records
        }
        require(fates.keys() == records.keys(), f"of {len(records.keys() - fates.keys())} records nothing is known")
        require(set(fates.values()) == {"accepted"}, f"records are {', '.join(sorted(set(fates.values())))}")
        sealed: dict[tuple[str, str], Decimal] = {}
        for record in records.values():
            if quantity := Decimal(record["quantity"]):
                place = record["agreement"], record["dimension"]
                sealed[place] = sealed.get(place, Decimal(0)) + quantity
        billed = totals(accepted(self._stage, ours), ours)
        require(sealed == billed, f"{_said(sealed)} are sealed and {_said(billed)} are billed")
        losses = [loss for m in manifests for loss in m.get("losses", ()) if loss["agreement"] in ours]
        require(not losses, f"{len(losses)} losses stand in it")
        since = f"{first:%Y-%m-%dT%H:%M:%SZ}"
        closed = {c["hour"]: c for m in manifests for c in m.get("closed", ()) if c["hour"] >= since}
        unread = sum(hour["quarantined"] for hour in closed.values())
        require(unread == 1, f"{unread} lines are in quarantine")
        return f"{len(manifests)} manifests, {len(records)} records, {len(closed)} hours"


def _kinds(calls: Sequence[Call]) -> str:
    """How calls went, in a few words."""
    throttled = sum(call.status == 429 for call in calls)
    refused = sum(call.integration_status is None for call in calls) - throttled
    failed = sum((call.integration_status or 0) >= 400 for call in calls)
    return f"{len(calls)} calls: {refused} refused, {throttled} throttled, {failed} failed"


def _said(sums: Mapping[tuple[str, str], Decimal]) -> str:
    return ", ".join(
        f"{plain(quantity)} {dimension} of {agreement}" for (agreement, dimension), quantity in sorted(sums.items())
    )
