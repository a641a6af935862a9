"""A sale in memory: the production service over the in-memory ports, and AWS's messages in their documented shapes."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from marketplace_constructs.domain.product import Category, Dimension, DimensionType, Metering, PricingModel, Product
from marketplace_constructs.domain.subscription_events import TOPIC_OWNER
from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.api_keys import ApiKeys
from marketplace_constructs.runtime.agreements.marketplace import ResolvedCustomer
from marketplace_constructs.runtime.agreements.reconciliation import Outcome, reconcile
from marketplace_constructs.runtime.agreements.service import AgreementsService, Registration
from marketplace_constructs.runtime.gate import answer
from marketplace_constructs.runtime.memory import (
    MemoryApiKeys,
    MemoryFacts,
    MemoryGateEntries,
    MemoryMarketplace,
)
from marketplace_constructs.runtime.subscription_events import record_message

START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
BUYER = "111122223333"
CUSTOMER = "ifAPIcustomer"
PLAN = "plan12345"
PREFIX = "Sale/"
LEGACY = Product.legacy("abc123")
CONCURRENT = Product.concurrent("abc123", dimensions=[Dimension.requests("calls")])
CONTRACT = Product.concurrent(
    "abc123",
    pricing_model=PricingModel.CONTRACT,
    dimensions=[Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)],
)
LEGACY_CONTRACT = Product.legacy(
    "abc123",
    pricing_model=PricingModel.CONTRACT,
    metering=Metering.PIPELINE,
    dimensions=[Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)],
)


def event(
    detail_type: str,
    agreement: str = "agmt-one",
    *,
    at: datetime = START,
    request_id: str | None = None,
    license_arn: str | None = None,
    product_code: str | None = None,
    buyer: str = BUYER,
    catalog: str = "AWSMarketplace",
    **agreement_members: str,
) -> str:
    """An EventBridge event as it lies in the queue."""
    detail: dict[str, object] = {
        "requestId": request_id or f"{detail_type}/{agreement}",
        "catalog": catalog,
        "agreement": {"id": agreement, **agreement_members},
        "acceptor": {"accountId": buyer},
        "proposer": {"accountId": "123456789012"},
        "offer": {"id": "offer-example"},
    }
    if detail_type.startswith("License"):
        detail["product"] = {"code": product_code or CONCURRENT.product_code, "id": "prod-example"}
        detail["license"] = {"arn": license_arn or f"aws:license-manager:us-east-1:123456789012:l-{agreement[5:]}"}
    return json.dumps(
        {
            "id": "envelope",
            "detail-type": detail_type,
            "source": "aws.agreement-marketplace",
            "region": "us-east-1",
            "time": at.isoformat().replace("+00:00", "Z"),
            "resources": [f"arn:aws:aws-marketplace::aws:agreement:{agreement}"],
            "detail": detail,
        }
    )


def notification(
    action: str,
    *,
    at: datetime = START,
    message_id: str | None = None,
    customer: str = CUSTOMER,
    product_code: str = LEGACY.product_code,
    topic: str | None = None,
) -> str:
    """An SNS notification as it lies in the queue."""
    topic = topic or f"arn:aws:sns:us-east-1:{TOPIC_OWNER}:aws-mp-subscription-notification-{product_code}"
    message = {"action": action, "customer-identifier": customer, "product-code": product_code}
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": message_id or f"{action}@{at.isoformat()}",
            "TopicArn": topic,
            "Message": json.dumps(message),
            "Timestamp": at.isoformat().replace("+00:00", "Z"),
        }
    )


@dataclass
class Sale:
    """One stack's runtime over in-memory ports."""

    product: Product = CONCURRENT
    usage_plan_id: str = PLAN
    key_prefix: str = PREFIX
    now: datetime = START
    facts: MemoryFacts = field(default_factory=MemoryFacts)
    entries: MemoryGateEntries = field(default_factory=MemoryGateEntries)
    api_keys: MemoryApiKeys = field(default_factory=MemoryApiKeys)
    marketplace: MemoryMarketplace = field(default_factory=MemoryMarketplace)

    def __post_init__(self) -> None:
        values = (f"key-value-{number:020}" for number in itertools.count(1))
        self.access = self.access_over(self.api_keys)
        self.service = AgreementsService(
            product=self.product,
            key_prefix=self.key_prefix,
            facts=self.facts,
            api_keys=self.api_keys,
            marketplace=self.marketplace,
            access=self.access,
            clock=lambda: self.now,
            new_key_value=lambda: next(values),
        )

    def access_over(self, api_keys: ApiKeys) -> Access:
        """Access over other keys than one call at a time reaches."""
        return Access(
            product=self.product,
            usage_plan_id=self.usage_plan_id,
            facts=self.facts,
            entries=self.entries,
            api_keys=api_keys,
            clock=lambda: self.now,
        )

    def wait(self, **duration: float) -> None:
        """Let time pass."""
        self.now += timedelta(**duration)

    def tell(self, *messages: str) -> None:
        """Deliver messages as the queue does."""
        for message in messages:
            record_message(message, terms=self.product, service=self.service)

    def token(self, token: str, agreement: str = "agmt-one", *, buyer: str = BUYER, **members: str | None) -> str:
        """Let AWS know a registration token."""
        if self.product.is_legacy:
            customer = ResolvedCustomer(product_code=self.product.product_code, customer_identifier=CUSTOMER)
        else:
            known: dict[str, str | None] = {
                "product_code": self.product.product_code,
                "license_arn": f"arn:aws:license-manager::123456789012:license:l-{agreement[5:]}",
                "agreement_id": agreement,
                **members,
            }
            customer = ResolvedCustomer(customer_aws_account_id=buyer, **known)  # type: ignore[arg-type]
        self.marketplace.customers[token] = customer
        return token

    def register(self, token: str = "token", agreement: str = "agmt-one") -> Registration:
        """A buyer comes from Marketplace."""
        return self.service.register(self.token(token, agreement))

    def issue(self, registration: Registration) -> str:
        """The buyer asks for the key, and gets it."""
        value = self.service.issue_key(registration.buyer, registration.reference)
        assert value is not None
        return value

    def gate(self, value: str) -> str:
        """What the gate says to a call with this key."""
        event = {
            "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/prod/GET/v1/nouns",
            "headers": {"X-Api-Key": value},
        }
        policy = answer(event, entries=self.entries, clock=lambda: self.now)["policyDocument"]
        return str(policy["Statement"][0]["Effect"])  # type: ignore[index]

    def opens(self, value: str) -> bool:
        """Whether a call with this key reaches the API: both locks open."""
        return self.gate(value) == "Allow" and self.api_keys.opens(self.usage_plan_id, value)

    def reconcile(self, *, observes_all: bool = True) -> Outcome:
        """The hourly run."""
        return reconcile(
            facts=self.facts,
            service=self.service,
            access=self.access,
            api_keys=self.api_keys,
            key_prefix=self.key_prefix,
            clock=lambda: self.now,
            observes_all=observes_all,
        )

    def states(self, buyer: str = BUYER) -> dict[str, str]:
        """State of each of a buyer's agreements."""
        return {agreement.id: str(agreement.state) for agreement in self.service.agreements(buyer)}


CREATED = "Purchase Agreement Created - Proposer"
ENDED = "Purchase Agreement Ended - Proposer"
LICENSED = "License Updated - Manufacturer"
DEPROVISIONED = "License Deprovisioned - Manufacturer"
