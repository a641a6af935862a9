"""Making access match the facts: the one place that opens and shuts.

Every event, every registration and the hourly reconciliation end here. It reads all facts of a buyer, computes what
ought to be so, and changes what is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from marketplace_constructs.domain.agreements import Agreement, Fact, Key, agreements_of
from marketplace_constructs.domain.product import ProductTerms
from marketplace_constructs.runtime.agreements.api_keys import ApiKeys
from marketplace_constructs.runtime.agreements.facts import FactStore
from marketplace_constructs.runtime.agreements.gate_entries import GateEntries, GateEntry
from marketplace_constructs.runtime.clock import Clock

_ROUNDS: Final = 5


class AccessUnsettledError(Exception):
    """New facts of the buyer kept coming; whoever called is to try again."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What ought to be so for one key."""

    key: Key
    agreement: Agreement
    is_open: bool


class Access:
    """Makes the keys of a buyer do what the buyer's facts say."""

    def __init__(
        self,
        *,
        product: ProductTerms,
        usage_plan_id: str,
        facts: FactStore,
        entries: GateEntries,
        api_keys: ApiKeys,
        clock: Clock,
    ) -> None:
        self._product: Final = product
        self._usage_plan_id: Final = usage_plan_id
        self._facts: Final = facts
        self._entries: Final = entries
        self._api_keys: Final = api_keys
        self._clock: Final = clock

    def make_match(self, buyer: str) -> tuple[Agreement, ...]:
        """Make access match; the buyer's agreements as they stand then.

        May be repeated and may run twice at once: a run that finds new facts after it has acted starts over, so
        that the last word is always spoken by a run that saw every fact.

        Raises:
            AccessUnsettledError: Facts kept coming for five rounds.
        """
        facts = self._facts.of_buyer(buyer)
        for _ in range(_ROUNDS):
            agreements = agreements_of(facts, product=self._product, now=self._clock())
            for wanted in self.wanted(agreements, self._clock()):
                self._settle(wanted, facts)
            again = self._facts.of_buyer(buyer)
            if len(again) == len(facts):
                return agreements
            facts = again
        raise AccessUnsettledError

    @staticmethod
    def wanted(agreements: tuple[Agreement, ...], now: datetime) -> Iterator[Wanted]:
        """What ought to be so for each key of these agreements."""
        for agreement in agreements:
            for key in agreement.keys:
                yield Wanted(key=key, agreement=agreement, is_open=agreement.grants_access and key.is_live(now))

    def _settle(self, wanted: Wanted, facts: tuple[Fact, ...]) -> None:
        key = wanted.key
        entry = GateEntry(
            key_sha256=key.sha256,
            agreement=wanted.agreement.id,
            is_open=wanted.is_open,
            facts_seen=len(facts),
            open_until=key.retire_at,
        )
        if not wanted.is_open:
            # The gate first: it answers within its cache time, however slow API Gateway is to forget a key.
            self._put(entry)
        api_key_id = key.api_key_id or next((k.id for k in self._api_keys.named(key.name) if k.name == key.name), None)
        if api_key_id is not None:
            self._settle_api_key(api_key_id, wanted)
        if wanted.is_open:
            self._put(entry)

    def _put(self, entry: GateEntry) -> None:
        if self._entries.get(entry.key_sha256) != entry:
            self._entries.put(entry)

    def _settle_api_key(self, api_key_id: str, wanted: Wanted) -> None:
        found = self._api_keys.get(api_key_id)
        if found is None:
            return
        if wanted.is_open:
            customer_id = self.customer_id(wanted.agreement)
            if found.customer_id != customer_id:
                self._api_keys.set_customer_id(api_key_id, customer_id)
            if not self._api_keys.is_member(self._usage_plan_id, api_key_id):
                self._api_keys.join(self._usage_plan_id, api_key_id)
            if not found.enabled:
                self._api_keys.set_enabled(api_key_id, enabled=True)
            return
        if found.enabled:
            self._api_keys.set_enabled(api_key_id, enabled=False)
        if self._api_keys.is_member(self._usage_plan_id, api_key_id):
            self._api_keys.leave(self._usage_plan_id, api_key_id)
        if not wanted.key.is_live(self._clock()):
            # Nobody can use it again, and an account holds 10,000 keys at most.
            self._api_keys.delete(api_key_id)

    def customer_id(self, agreement: Agreement) -> str:
        """What the agreement's keys carry as customer id: the customer identifier under native metering, else nothing.

        With a product code on the plan, a customer id makes API Gateway report the key's calls.
        """
        return agreement.buyer if self._product.is_native else ""
