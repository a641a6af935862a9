"""What the example app leaves out and roles get actions for: contracts, a sender of mails, a report-only meter."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_

from marketplace_constructs import (
    Category,
    Dimension,
    DimensionType,
    PricingModel,
    Product,
    SellableApi,
)

SEATS = Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)

app = cdk.App()
for name, product in (
    (
        "LegacyContract",
        Product.legacy(
            "examplelegacycontract",
            pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
            dimensions=[Dimension.requests("apigateway"), SEATS],
        ),
    ),
    (
        "ConcurrentContract",
        Product.concurrent(
            "exampleconcurrentcontract",
            pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
            dimensions=[Dimension.requests("calls"), SEATS],
        ),
    ),
):
    stack = cdk.Stack(app, name)
    echo = lambda_.Function(
        stack,
        "Echo",
        code=lambda_.Code.from_inline("def handler(event, context):\n    return {'statusCode': 200, 'body': 'here'}\n"),
        handler="index.handler",
        runtime=lambda_.Runtime.PYTHON_3_13,
    )
    api = apigateway.LambdaRestApi(stack, "Api", handler=echo, proxy=False)
    api.root.add_method("GET")
    api.root.add_resource("echo").add_method("GET")
    SellableApi(
        stack,
        "Sale",
        api=api,
        product=product,
        support_contact="help@example.com",
        sender="orders@example.com",
        example_route="GET /",
        report_usage=product.is_native,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
app.synth()
