"""Two ways to sell the proper-noun search: to legacy agreements, and to Concurrent Agreements.

Only this file reads the environment. Which of the two is yours: a product that was created since 2026-06-01
has Concurrent Agreements. The one is sold by the call, and the other by the documents in monetization/; each may
be sold either way.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from marketplace_constructs import Monetization, Product, SubscriptionRelayStack
from stacks.sellable_api_stack import SellableApiStack

# The command line hands over cdk.json's context by itself; python app.py alone must give the same templates.
app = cdk.App(context=json.loads((Path(__file__).parent / "cdk.json").read_text())["context"])
context = app.node.get_all_context()


def setting(name: str, default: str | None = None) -> str | None:
    """A value of the command line (``--context name=value``), of cdk.json or of the environment."""
    value = context.get(name)
    return str(value) if value is not None else os.environ.get(name.upper()) or default


region = setting("cdk_default_region")
env = cdk.Environment(account=setting("cdk_default_account"), region=region)
support_contact = setting("support_contact") or "help@example.com"
sender = setting("sender")
removal_policy = cdk.RemovalPolicy[setting("removal_policy") or "RETAIN"]

SellableApiStack(
    app,
    "LegacySale",
    product=Product.legacy(setting("legacy_product_code") or "examplelegacycode"),
    support_contact=support_contact,
    sender=sender,
    alarm_topic=setting("alarm_topic"),
    removal_policy=removal_policy,
    env=env,
)
concurrent = SellableApiStack(
    app,
    "ConcurrentSale",
    monetization=Monetization.from_directory(
        Path(__file__).parent / "monetization",
        product_code=setting("concurrent_product_code") or "exampleconcurrentcode",
    ),
    support_contact=support_contact,
    sender=sender,
    alarm_topic=setting("alarm_topic"),
    removal_policy=removal_policy,
    env=env,
)
if region not in {None, "us-east-1"}:
    SubscriptionRelayStack(app, "SubscriptionRelay", home=concurrent)
cdk.Tags.of(app).add("application", "proper-noun-search")
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
app.synth()
