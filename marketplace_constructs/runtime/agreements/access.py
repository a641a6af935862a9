"""Making access match the facts: the one place that opens and shuts.

Every event, every registration and the hourly reconciliation end here. It reads all facts of a buyer, computes what
ought to be so, and changes what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from marketplace_constructs.domain.agreements import (
    Agreement,
    Fact,
    FactKind,
    Key,
    State,
    agreements_of,
    documents_assignment,
)
from marketplace_constructs.domain.assignment import assigned_plan
from marketplace_constructs.domain.plan_versions import EVERY_CALL, Assignment, PlanVersion, from_now_on, hour_of
from marketplace_constructs.domain.product import ProductTerms
from marketplace_constructs.runtime.agreements.api_keys import ApiKey, ApiKeys
from marketplace_constructs.runtime.agreements.facts import FactStore
from marketplace_constructs.runtime.agreements.gate_entries import GateEntries, GateEntry
from marketplace_constructs.runtime.clock import Clock
from marketplace_constructs.runtime.plan_versions import HeldPlans

_ROUNDS: Final = 5
MAY_COME_TO_BE: Final = timedelta(minutes=30)
"""How long after its promise a key may be missing now and be there later.

Who makes it is ended after 28 s, in the middle of the SDK's tries if need be, of which each waits 13 s at most. Who
looks for it may look at what was so when its run began, 15 min ago: no function lives longer. What is left is for
clocks that differ. Source: Lambda developer guide, quotas: function timeout (read 2026-11-21)."""


class AccessUnsettledError(Exception):
    """New facts of the buyer kept coming; whoever called is to try again."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What ought to be so for one key.

    Args:
        usage_plan_id: The one plan that it is in while it is open; empty where its agreement has none.
        assignments: What the gate is to know of the agreement's plans; empty where the product is sold without
            documents.
    """

    key: Key
    agreement: Agreement
    is_open: bool
    usage_plan_id: str
    assignments: tuple[Assignment, ...] = ()


class Access:
    """Makes the keys of a buyer do what the buyer's facts say.

    Args:
        usage_plan_id: The plan that keys are put into where the product is sold without documents. With documents,
            whatever is in it is taken out; empty where there is none.
        plans: What holds of the documents' plans; None where the product is sold without documents.
    """

    def __init__(
        self,
        *,
        product: ProductTerms,
        usage_plan_id: str,
        facts: FactStore,
        entries: GateEntries,
        api_keys: ApiKeys,
        clock: Clock,
        plans: HeldPlans | None = None,
    ) -> None:
        self._product: Final = product
        self._usage_plan_id: Final = usage_plan_id
        self._facts: Final = facts
        self._entries: Final = entries
        self._api_keys: Final = api_keys
        self._clock: Final = clock
        self._plans: Final = plans

    def agreements(self, facts: tuple[Fact, ...], now: datetime) -> tuple[Agreement, ...]:
        """The agreements of one buyer as they stand."""
        named = {fact.plan for fact in facts if fact.plan}
        plans = None if self._plans is None else self._plans.at(now, named=named)
        return agreements_of(facts, product=self._product, now=now, plans=plans)

    def make_match(self, buyer: str) -> tuple[Agreement, ...]:
        """Make access match; the buyer's agreements as they stand then.

        May be repeated and may run twice at once: a run that finds new facts after it has acted, or in which an hour
        has begun, starts over, so that the last word is always spoken by a run that saw every fact.

        Raises:
            AccessUnsettledError: Facts kept coming for five rounds.
        """
        facts = self._facts.of_buyer(buyer)
        for _ in range(_ROUNDS):
            now = self._clock()
            agreements = self.agreements(facts, now)
            # Nothing is settled before each agreement has its plan: it would be shut out for a moment.
            if not self._assign(agreements, facts, now):
                for wanted in self.wanted(agreements, now):
                    self._settle(wanted, facts)
            again = self._facts.of_buyer(buyer)
            # What was right for the hour before would undo what another run has done for this one.
            if len(again) == len(facts) and hour_of(self._clock()) == hour_of(now):
                return agreements
            facts = again
        raise AccessUnsettledError

    def _assign(self, agreements: tuple[Agreement, ...], facts: tuple[Fact, ...], now: datetime) -> bool:
        """Give each agreement that was let in without a plan the one that the documents say; whether any got one.

        It has it from the beginning of the hour in which it was activated: no call comes before its plan.
        """
        if self._plans is None:
            return False
        if not any(self._unassigned(agreements, facts, self._plans.at(now), now)):
            return False
        # An assignment is for good: what was deployed a moment ago counts.
        due = list(self._unassigned(agreements, facts, self._plans.anew(now), now))
        for fact in due:
            self._facts.add(fact)
        return bool(due)

    def _unassigned(
        self,
        agreements: tuple[Agreement, ...],
        facts: tuple[Fact, ...],
        held: Mapping[str, PlanVersion],
        now: datetime,
    ) -> Iterator[Fact]:
        """The assignments that are due by what holds of the plans."""
        known = {fact.id for fact in facts}
        for agreement in agreements:
            # Two at once make one fact.
            identity, since = documents_assignment(agreement.id), agreement.activated_at or now
            former = agreement.plan_at(now)
            is_let_in = agreement.state is State.ACTIVE and agreement.is_registered
            if former is not None and former not in held and EVERY_CALL in {former, *held}:
                # The sale came to have documents, or has none any more: nobody's plan is there to stay on.
                identity, since = f"{identity}#{hour_of(now).isoformat()}", now
            elif former is not None:
                continue
            plan = assigned_plan(agreement, held.values(), now=now) if is_let_in and identity not in known else None
            if plan is None:
                continue
            yield Fact(
                id=identity,
                kind=FactKind.ASSIGNED,
                buyer=agreement.buyer,
                at=now,
                agreement_id=agreement.id,
                plan=plan,
                takes_effect_at=hour_of(min(since, now)),
                note="by the documents",
            )

    def wanted(self, agreements: tuple[Agreement, ...], now: datetime) -> Iterator[Wanted]:
        """What ought to be so for each key of these agreements."""
        for agreement in agreements:
            usage_plan_id, assignments = self._usage_plan_id, from_now_on(agreement.assignments, now)
            if self._plans is not None:
                version = self._plans.at(now).get(agreement.plan_at(now) or "")
                usage_plan_id = version.usage_plan_id if version else ""
            for key in agreement.keys:
                yield Wanted(
                    key=key,
                    agreement=agreement,
                    is_open=agreement.grants_access and key.is_live(now),
                    usage_plan_id=usage_plan_id,
                    assignments=() if self._plans is None else assignments,
                )

    def admit(self, buyer: str, key: Key) -> None:
        """Let a key in that was made a moment ago, in one call of API Gateway's control plane.

        Two hundred buyers at once want no more than this. Should the facts say otherwise by now, they win.

        Args:
            buyer: Whose it is.
            key: As it was promised, with its API key's id.
        """
        assert key.api_key_id is not None
        facts = self._facts.of_buyer(buyer)
        now = self._clock()
        agreements = self.agreements(facts, now)
        wanted = next((w for w in self.wanted(agreements, now) if w.key.sha256 == key.sha256), None)
        if wanted is not None and wanted.is_open:
            self._api_keys.join(wanted.usage_plan_id, key.api_key_id)
            self._put(self._entry(wanted, facts))
            if len(self._facts.of_buyer(buyer)) == len(facts) and hour_of(self._clock()) == hour_of(now):
                return
        self.make_match(buyer)

    def _settle(self, wanted: Wanted, facts: tuple[Fact, ...]) -> None:
        key, entry = wanted.key, self._entry(wanted, facts)
        if wanted.is_open:
            self._let_in(wanted)
            self._put(entry)
            return
        known = self._entries.get(key.sha256)
        if known is not None and known.is_removed:
            return
        # The gate first: it answers within its cache time, however slow API Gateway is to forget a key.
        self._put(entry)
        now = self._clock()
        if key.is_live(now):
            self._shut_out(key)
        elif self._remove(key, now):
            self._put(replace(entry, is_removed=True))

    @staticmethod
    def _entry(wanted: Wanted, facts: tuple[Fact, ...]) -> GateEntry:
        return GateEntry(
            key_sha256=wanted.key.sha256,
            agreement=wanted.agreement.id,
            is_open=wanted.is_open,
            facts_seen=len(facts),
            open_until=wanted.key.retire_at,
            assignments=wanted.assignments,
        )

    def _put(self, entry: GateEntry) -> None:
        if self._entries.get(entry.key_sha256) != entry:
            self._entries.put(entry)

    def _found(self, key: Key) -> ApiKey | None:
        """The API key; looked for by name where its maker died before it could tell the id."""
        if key.api_key_id is not None:
            return self._api_keys.get(key.api_key_id)
        return next((found for found in self._api_keys.named(key.name) if found.name == key.name), None)

    def _remove(self, key: Key, now: datetime) -> bool:
        """Delete a key that nobody can use again: an account holds 10,000 at most. Whether it is gone for good."""
        if key.api_key_id is not None:
            self._api_keys.delete(key.api_key_id)
            return True
        if key.is_abandoned:
            # Its maker does not know whether it came to be: the reconciliation removes what bears its name.
            return False
        found = self._found(key)
        if found is not None:
            self._api_keys.delete(found.id)
        return now >= key.issued_at + MAY_COME_TO_BE

    def _let_in(self, wanted: Wanted) -> None:
        found = self._found(wanted.key)
        if found is None:
            return
        customer_id = self.customer_id(wanted.agreement)
        if found.customer_id != customer_id:
            self._api_keys.set_customer_id(found.id, customer_id)
        if not self._api_keys.is_member(wanted.usage_plan_id, found.id):
            # API Gateway allows a key in one plan of a stage. A move leaves it in none for as long as two calls take,
            # and where the second fails, until the next run.
            for former in self._memberships(found.id):
                self._api_keys.leave(former, found.id)
            self._api_keys.join(wanted.usage_plan_id, found.id)
        if not found.enabled:
            self._api_keys.set_enabled(found.id, enabled=True)

    def _shut_out(self, key: Key) -> None:
        found = self._found(key)
        if found is None:
            return
        if found.enabled:
            self._api_keys.set_enabled(found.id, enabled=False)
        for former in self._memberships(found.id):
            self._api_keys.leave(former, found.id)

    def _memberships(self, api_key_id: str) -> list[str]:
        """Those of our usage plans that a key is in."""
        ours = {self._usage_plan_id} if self._usage_plan_id else set()
        if self._plans is not None:
            ours |= {version.usage_plan_id for version in self._plans.at(self._clock()).values()}
        return [plan for plan in sorted(ours) if self._api_keys.is_member(plan, api_key_id)]

    def customer_id(self, agreement: Agreement) -> str:
        """What the agreement's keys carry as customer id: the customer identifier under native metering, else nothing.

        With a product code on the plan, a customer id makes API Gateway report the key's calls.
        """
        return agreement.buyer if self._product.is_native else ""
