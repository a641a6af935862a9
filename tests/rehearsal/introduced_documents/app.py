"""One product that is sold by the call, or, where there is a pool beside this file, by its documents."""

from __future__ import annotations

from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_lambda as lambda_

from marketplace_constructs import Dimension, Monetization, Product, SellableApi

CODE = "exampleintroduced"
POOL = Path(__file__).parent / "monetization"

app = cdk.App()
stack = cdk.Stack(app, "Introduced")
echo = lambda_.Function(
    stack,
    "Echo",
    code=lambda_.Code.from_inline("def handler(event, context):\n    return {'statusCode': 200, 'body': 'here'}\n"),
    handler="index.handler",
    runtime=lambda_.Runtime.PYTHON_3_13,
)
api = apigateway.LambdaRestApi(stack, "Api", handler=echo, proxy=False)
api.root.add_method("GET")
SellableApi(
    stack,
    "Sale",
    api=api,
    product=None if POOL.exists() else Product.concurrent(CODE, dimensions=[Dimension.requests("calls")]),
    monetization=Monetization.from_directory(POOL, product_code=CODE) if POOL.exists() else None,
    support_contact="help@example.com",
    example_route="GET /",
    # The gate answers each call itself.
    gate_cache_ttl=cdk.Duration.seconds(0),
    removal_policy=cdk.RemovalPolicy.DESTROY,
)
app.synth()
