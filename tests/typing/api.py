"""Never run: type-checked only. The public interface types as promised, and refuses what it must."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam

from marketplace_constructs import (
    AuditFinding,
    Dimension,
    Gate,
    MarketplaceUsagePlan,
    MeteringRole,
    Monetization,
    Period,
    PricingModel,
    Product,
    Quota,
    SellableApi,
    SubscriptionRelayStack,
    Throttle,
    acknowledge,
)

app = cdk.App()
stack = cdk.Stack(app, "Stack")
api = apigateway.RestApi(stack, "Api")
acknowledge(api, {AuditFinding.API_REQUEST_VALIDATION: "the function validates"})
product: Product = Product.legacy("abc123", pricing_model=PricingModel.SUBSCRIPTION)
concurrent: Product = Product.concurrent("abc123", dimensions=[Dimension.requests("calls")])
sale = SellableApi(
    stack,
    "Sale",
    api=api,
    product=product,
    support_contact="help@example.com",
    throttle=Throttle(rate_limit=10, burst_limit=20),
    method_throttles={"GET /v1": Throttle(rate_limit=1, burst_limit=1)},
    quota=Quota(limit=1, period=Period.DAY),
    free_routes=("GET /v1/health",),
    gate_cache_ttl=cdk.Duration.seconds(5),
    metering_role=MeteringRole.from_account(stack, "Role"),
)
url: str = sale.fulfillment_url
plan: MarketplaceUsagePlan = sale.usage_plan
gate: Gate = sale.gate
metric: cloudwatch.Metric = sale.metric_count(period=cdk.Duration.minutes(1))
grant: iam.Grant = sale.grant_read_agreements(iam.Role(stack, "R", assumed_by=iam.AccountRootPrincipal()))
guarded: dict[str, object] = gate.guard({"openapi": "3.0.3"})
SubscriptionRelayStack(app, "Relay", home=stack)

monetization: Monetization = Monetization.from_directory("monetization", product_code="abc123")
plans: tuple[str, ...] = monetization.plans
SellableApi(stack, "Documents", api=api, monetization=monetization, support_contact="help@example.com")
SellableApi(stack, "Neither", api=api, monetization="monetization", support_contact="x")  # type: ignore[arg-type]

SellableApi(stack, "A", api=api, product="abc123", support_contact="x")  # type: ignore[arg-type]  # a Product
SellableApi(stack, "B", api=api, product=product)  # type: ignore[call-arg]  # a support contact is needed
SellableApi(stack, "C", api, product, "x")  # type: ignore[call-arg, arg-type]  # keyword-only
Throttle(10, 20)  # type: ignore[call-arg]  # keyword-only
Product.concurrent("abc123")  # type: ignore[call-arg]  # nothing but the seller knows the dimensions
