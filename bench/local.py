"""A sale on the local AWS for the benchmarks of the handlers: tables, usage plan, secret, and Marketplace beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from botocore.httpsession import URLLib3Session

from marketplace_constructs.domain.product import Dimension, Product
from marketplace_constructs.rehearsal.emulator import ACCOUNT, REGION, LocalAws
from marketplace_constructs.rehearsal.marketplace import (
    Listing,
    Marketplace,
    MarketplaceServer,
    Notification,
    SettableClock,
)

PRODUCT = Product.concurrent("abc123", dimensions=[Dimension.requests("calls")])
TABLES = {"facts": ("buyer", "fact"), "keys": ("key_sha256",), "contacts": ("agreement",)}


class LocalSale:
    """One stack's resources.

    Attributes:
        told: What Marketplace has told since it was looked at last.
    """

    def __init__(self, aws: LocalAws, market: Marketplace, listing: Listing, told: list[Notification]) -> None:
        self.aws, self.market, self.listing, self.told = aws, market, listing, told


@contextmanager
def local_sale() -> Iterator[LocalSale]:
    """Set it all up, and let this process's handlers work on it."""
    told: list[Notification] = []
    market = Marketplace(SettableClock(), publish=told.append, seller_account=ACCOUNT)
    with MarketplaceServer(market) as server, LocalAws(environment=server.environment) as aws:
        database = aws.client("dynamodb")
        for table, names in TABLES.items():
            database.create_table(
                TableName=table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
                KeySchema=[
                    {"AttributeName": name, "KeyType": kind}
                    for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        secret = aws.client("secretsmanager").create_secret(Name="sessions", SecretString="x" * 64)
        plan = aws.client("apigateway").create_usage_plan(name="plan")
        os.environ |= server.environment | {
            "AWS_ACCESS_KEY_ID": ACCOUNT,
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": aws.url,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AGREEMENT_KIND": PRODUCT.agreement_kind.value,
            "API_URL": "https://api.example.com/prod",
            "CONTACTS_TABLE": "contacts",
            "EXAMPLE_ROUTE": "GET /v1/samples",
            "FACTS_TABLE": "facts",
            "KEYS_TABLE": "keys",
            "KEY_PREFIX": "Sale/",
            "LOGO_URL": "",
            "METERING": PRODUCT.metering.value,
            "METERING_REGION": REGION,
            "PRICING_MODEL": PRODUCT.pricing_model.value,
            "PRODUCT_CODE": PRODUCT.product_code,
            "SELLER_NAME": "Example Corp.",
            "SENDER": "",
            "SIGNING_SECRET": secret["ARN"],
            "SUPPORT_CONTACT": "help@example.com",
            "USAGE_PLAN_ID": plan["id"],
        }
        yield LocalSale(aws, market, market.add_product(PRODUCT), told)


class AwsTime:
    """How long this process has waited for answers of AWS, and for how many."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0
        sessions: Any = URLLib3Session
        send = sessions.send

        def timed(session: Any, request: Any) -> Any:
            begun = perf_counter()
            try:
                return send(session, request)
            finally:
                self.seconds += perf_counter() - begun
                self.calls += 1

        sessions.send = timed
