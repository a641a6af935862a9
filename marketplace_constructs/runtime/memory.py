"""The runtime's ports in memory: for tests, and for whoever wants to try the rules without AWS.

Each passes the same contract test as its AWS adapter.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from marketplace_constructs.domain.agreements import Entitlement, Fact
from marketplace_constructs.domain.plan_versions import PlanVersion, holding
from marketplace_constructs.runtime.agreements.api_keys import ApiKey
from marketplace_constructs.runtime.agreements.gate_entries import GateEntry
from marketplace_constructs.runtime.agreements.marketplace import DescribedAgreement, ResolvedCustomer, TokenRefused


class MemoryFacts:
    """Facts in a dictionary."""

    def __init__(self) -> None:
        self._facts: dict[tuple[str, str], Fact] = {}
        self._lock = threading.Lock()

    def add(self, fact: Fact) -> bool:
        """Record a fact unless another with its id is there already."""
        with self._lock:
            return self._facts.setdefault((fact.buyer, fact.id), fact) == fact

    def of_buyer(self, buyer: str) -> tuple[Fact, ...]:
        """All facts of one buyer."""
        with self._lock:
            return tuple(fact for (owner, _), fact in sorted(self._facts.items()) if owner == buyer)

    def buyers(self) -> Iterator[tuple[str, tuple[Fact, ...]]]:
        """Every buyer with all of their facts."""
        with self._lock:
            buyers = sorted({owner for owner, _ in self._facts})
        return ((buyer, self.of_buyer(buyer)) for buyer in buyers)


class MemoryGateEntries:
    """The gate's answers in a dictionary."""

    def __init__(self) -> None:
        self._entries: dict[str, GateEntry] = {}

    def put(self, entry: GateEntry) -> bool:
        """Replace the key's answer unless that rests on more facts."""
        present = self._entries.get(entry.key_sha256)
        if present is not None and present.facts_seen > entry.facts_seen:
            return False
        self._entries[entry.key_sha256] = entry
        return True

    def get(self, key_sha256: str) -> GateEntry | None:
        """The key's answer."""
        return self._entries.get(key_sha256)


class MemoryApiKeys:
    """API keys and plan memberships in dictionaries; values are kept, as API Gateway keeps them."""

    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}
        self._values: dict[str, str] = {}
        self._members: set[tuple[str, str]] = set()
        self._ids = (f"key{number:07}" for number in itertools.count(1))

    def create(self, *, name: str, value: str, customer_id: str) -> str:
        """Make an enabled key."""
        api_key_id = next(self._ids)
        self._keys[api_key_id] = ApiKey(id=api_key_id, name=name, enabled=True, customer_id=customer_id)
        self._values[api_key_id] = value
        return api_key_id

    def get(self, api_key_id: str) -> ApiKey | None:
        """The key of an id."""
        return self._keys.get(api_key_id)

    def named(self, prefix: str) -> Iterator[ApiKey]:
        """Every key whose name begins so."""
        return (key for key in list(self._keys.values()) if key.name.startswith(prefix))

    def set_enabled(self, api_key_id: str, *, enabled: bool) -> None:
        """Let a key in, or shut it out."""
        if enabled or api_key_id in self._keys:
            self._keys[api_key_id] = replace(self._keys[api_key_id], enabled=enabled)

    def set_customer_id(self, api_key_id: str, customer_id: str) -> None:
        """Say whose calls the key's calls are."""
        self._keys[api_key_id] = replace(self._keys[api_key_id], customer_id=customer_id)

    def delete(self, api_key_id: str) -> None:
        """Remove a key for good."""
        self._keys.pop(api_key_id, None)
        self._members = {(plan, key) for plan, key in self._members if key != api_key_id}

    def members(self, usage_plan_id: str) -> frozenset[str]:
        """Ids of the keys in a plan."""
        return frozenset(key for plan, key in self._members if plan == usage_plan_id)

    def is_member(self, usage_plan_id: str, api_key_id: str) -> bool:
        """Whether a key is in a plan."""
        return (usage_plan_id, api_key_id) in self._members

    def join(self, usage_plan_id: str, api_key_id: str) -> None:
        """Put a key into a plan."""
        self._members.add((usage_plan_id, api_key_id))

    def leave(self, usage_plan_id: str, api_key_id: str) -> None:
        """Take a key out of a plan."""
        self._members.discard((usage_plan_id, api_key_id))

    def opens(self, usage_plan_id: str, value: str) -> bool:
        """Whether API Gateway would take a call with this key on a stage of this plan."""
        return any(
            key.enabled and self._values[key.id] == value and self.is_member(usage_plan_id, key.id)
            for key in self._keys.values()
        )


class MemoryPlanVersions:
    """Plan versions in a dictionary."""

    def __init__(self) -> None:
        self._versions: dict[tuple[str, datetime, int], PlanVersion] = {}

    def versions(self) -> tuple[PlanVersion, ...]:
        """Every version."""
        return tuple(self._versions.values())

    def holding(self, plan: str, at: datetime) -> PlanVersion | None:
        """What holds for a plan at a moment."""
        return holding(self._versions.values(), at).get(plan)

    def add(self, version: PlanVersion) -> bool:
        """Record a version unless the plan has one of its hour and number."""
        identity = (version.plan, version.holds_from, version.number)
        return identity not in self._versions and self._versions.setdefault(identity, version) is version


class MemoryPlanTables:
    """Plan tables in a dictionary."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, text: str) -> str:
        """Keep a table; its digest."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._texts[digest] = text
        return digest

    def get(self, digest: str) -> str | None:
        """The table's text."""
        return self._texts.get(digest)


class MemoryMarketplace:
    """AWS Marketplace's answers, as they were set."""

    def __init__(self) -> None:
        self.customers: dict[str, ResolvedCustomer] = {}
        self.expired: set[str] = set()
        self.rights: dict[tuple[str, str | None], tuple[Entitlement, ...]] = {}
        self.statuses: dict[str, str] = {}
        self.initial: dict[str, str] = {}

    def resolve_customer(self, token: str) -> ResolvedCustomer:
        """Whose token it is."""
        if token in self.expired:
            raise TokenRefused("expired")
        if token not in self.customers:
            raise TokenRefused("invalid")
        return self.customers[token]

    def entitlements(self, *, product_code: str, buyer: str, license_arn: str | None) -> tuple[Entitlement, ...]:
        """What a buyer is entitled to."""
        del product_code
        return self.rights.get((buyer, license_arn), ())

    def describe_agreement(self, agreement_id: str) -> DescribedAgreement | None:
        """An agreement whose status is known."""
        if agreement_id not in self.statuses:
            return None
        return DescribedAgreement(
            status=self.statuses[agreement_id], initial_agreement_id=self.initial.get(agreement_id, agreement_id)
        )
