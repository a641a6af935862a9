"""A sale by documents: several plans, each with a usage plan of its own on the one stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from botocore.exceptions import ClientError
from sale import BUYER, CREATED, LICENSED, START, Sale, event

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.plan_versions import PlanVersion
from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.api_keys import ApiKeys
from marketplace_constructs.runtime.gate import RecentPlans, answer
from marketplace_constructs.runtime.memory import MemoryApiKeys, MemoryPlanVersions
from marketplace_constructs.runtime.plan_versions import HeldPlans

READ, WRITE = "GET /v1/nouns", "POST /v1/nouns"
HOUR = timedelta(hours=1)


class OneStageApiKeys(MemoryApiKeys):
    """API Gateway's keys where all usage plans are on one stage: a key is in one of them at most.

    Source: API Gateway developer guide, usage plans (read 2026-11-21).
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def join(self, usage_plan_id: str, api_key_id: str) -> None:
        if any(key == api_key_id and plan != usage_plan_id for plan, key in self._members):
            raise ClientError({"Error": {"Code": "ConflictException"}}, "CreateUsagePlanKey")
        self.calls.append(("join", usage_plan_id))
        super().join(usage_plan_id, api_key_id)

    def leave(self, usage_plan_id: str, api_key_id: str) -> None:
        self.calls.append(("leave", usage_plan_id))
        super().leave(usage_plan_id, api_key_id)

    def plans_of(self, value: str) -> list[str]:
        """The usage plans that the key of a value is in."""
        return [plan for plan, key in self._members if self._values[key] == value]


@dataclass
class PlannedSale(Sale):
    """One stack's runtime with plans."""

    usage_plan_id: str = ""
    api_keys: OneStageApiKeys = field(default_factory=OneStageApiKeys)
    versions: MemoryPlanVersions = field(default_factory=MemoryPlanVersions)

    def hold(
        self,
        plan: str,
        *routes: str,
        assign_to: object = None,
        since: datetime = START - HOUR,
        usage_plan_id: str | None = None,
        channel: str = "Marketplace",
    ) -> PlannedSale:
        """Deploy a plan."""
        self.versions.add(
            PlanVersion(
                plan=plan,
                holds_from=since,
                digest=f"digest of {plan}",
                usage_plan_id=usage_plan_id or f"plan-of-{plan}",
                channel=channel,
                assign_to=json.dumps(assign_to) if assign_to else "",
                routes=frozenset(routes),
            )
        )
        return self

    def assign(self, plan: str, hour: datetime, agreement: str = "agmt-one", *, settles: bool = True) -> None:
        """An operator moves an agreement."""
        self.facts.add(
            Fact(
                id=f"assigned#{agreement}#{hour.isoformat()}#{self.now.isoformat()}",
                kind=FactKind.ASSIGNED,
                buyer=BUYER,
                at=self.now,
                agreement_id=agreement,
                plan=plan,
                takes_effect_at=hour,
            )
        )
        if settles:
            self.access.make_match(BUYER)

    def access_over(self, api_keys: ApiKeys) -> Access:
        return Access(
            product=self.product,
            usage_plan_id=self.usage_plan_id,
            facts=self.facts,
            entries=self.entries,
            api_keys=api_keys,
            clock=lambda: self.now,
            plans=HeldPlans(self.versions),
        )

    def gate(self, value: str, route: str = READ) -> str:
        """What a gate that has just started says to a call of a route with this key."""
        method, path = route.split(" ")
        request = {
            "methodArn": f"arn:aws:execute-api:us-east-1:123456789012:api/prod/{method}{path}",
            "httpMethod": method,
            "headers": {"X-Api-Key": value},
            "requestContext": {"resourcePath": path},
        }
        plans = RecentPlans(self.versions)
        reply = answer(request, entries=self.entries, plans=plans, clock=lambda: self.now)
        return str(reply["policyDocument"]["Statement"][0]["Effect"])  # type: ignore[index]

    def opens(self, value: str) -> bool:
        """Whether a call with this key reaches the API: both locks open, and one usage plan holds the key."""
        plans = self.api_keys.plans_of(value)
        return self.gate(value) == "Allow" and len(plans) == 1 and self.api_keys.opens(plans[0], value)

    def plan(self, agreement: str = "agmt-one") -> str | None:
        """The plan in force of an agreement."""
        (found,) = [a for a in self.service.agreements(BUYER) if a.id == agreement]
        return found.plan_at(self.now)

    def assigned(self) -> list[tuple[str | None, datetime | None]]:
        """Every assignment that was recorded."""
        facts = [fact for fact in self.facts.of_buyer(BUYER) if fact.kind is FactKind.ASSIGNED]
        return [(fact.plan, fact.takes_effect_at) for fact in facts]


def two_plans(**members: object) -> PlannedSale:
    """A default plan that reads, and one that writes and is given to nobody."""
    sale = PlannedSale(**members)  # type: ignore[arg-type]
    sale.hold("reader@1", READ, assign_to="Default")
    return sale.hold("writer@1", READ, WRITE, assign_to={"Accounts": ["444455556666"]})


def sold(sale: PlannedSale) -> str:
    """A concurrent agreement, from landing page to key."""
    registration = sale.register()
    sale.tell(event(CREATED, intent="NEW", status="ACTIVE"), event(LICENSED))
    return sale.issue(registration)
