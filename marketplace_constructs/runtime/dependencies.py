"""The real adapters, wired from a function's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.api_keys import ApiGatewayKeys, ApiKeys
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts
from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries
from marketplace_constructs.runtime.agreements.marketplace import AwsMarketplace
from marketplace_constructs.runtime.agreements.service import AgreementsService
from marketplace_constructs.runtime.aws import client
from marketplace_constructs.runtime.clock import Clock, utc_now
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions, HeldPlans
from marketplace_constructs.runtime.settings import AgreementsSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ENTITLEMENT_REGION = "us-east-1"
"""The one Region of the entitlement service. Source: botocore 1.44.5, endpoints (read 2026-11-21)."""
AGREEMENT_REGION = "us-east-1"
"""The Region of the agreement service. Source: botocore 1.44.5, endpoints (read 2026-11-21)."""


class Dependencies:
    """Everything that changes access, over AWS."""

    def __init__(
        self, settings: AgreementsSettings, *, clock: Clock = utc_now, client: Callable[..., Any] = client
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.product = settings.terms
        self.facts = DynamoDbFacts(client("dynamodb"), settings.facts_table)
        self.entries = DynamoDbGateEntries(client("dynamodb"), settings.keys_table)
        self.api_keys = ApiGatewayKeys(client("apigateway"))
        self.marketplace = AwsMarketplace(
            metering=lambda: client("meteringmarketplace", settings.metering_region),
            entitlement=lambda: client("marketplace-entitlement", ENTITLEMENT_REGION),
            agreement=lambda: client("marketplace-agreement", AGREEMENT_REGION),
            clock=clock,
        )
        self.plans = (
            HeldPlans(DynamoDbPlanVersions(client("dynamodb"), settings.plans_table)) if settings.plans_table else None
        )
        self.access = self.access_over(self.api_keys)
        self.service = AgreementsService(
            product=self.product,
            key_prefix=settings.key_prefix,
            facts=self.facts,
            api_keys=self.api_keys,
            marketplace=self.marketplace,
            access=self.access,
            clock=clock,
        )

    def access_over(self, api_keys: ApiKeys) -> Access:
        """Access over other keys than one call at a time reaches."""
        return Access(
            product=self.product,
            usage_plan_id=self.settings.usage_plan_id,
            facts=self.facts,
            entries=self.entries,
            api_keys=api_keys,
            clock=self.clock,
            plans=self.plans,
        )
