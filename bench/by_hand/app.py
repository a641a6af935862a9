"""The example app as it would be without this library: see sale.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks
from sale import HandwrittenStack

ROOT = Path(__file__).parents[2]
AWS_POLICY = "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role"
FINDINGS = (
    "AwsSolutions-APIG1",
    "AwsSolutions-APIG2",
    "AwsSolutions-APIG3",
    "AwsSolutions-APIG4",
    "AwsSolutions-APIG6",
    "AwsSolutions-COG4",
    f"{AWS_POLICY}/AWSLambdaBasicExecutionRole]",
    f"{AWS_POLICY}/AmazonAPIGatewayPushToCloudWatchLogs]",
    "AwsSolutions-IAM5[Resource::*]",
    "AwsSolutions-IAM5[Resource::arn:aws:apigateway:us-east-1::/apikeys/*]",
    *(
        f"AwsSolutions-IAM5[Resource::arn:aws:apigateway:us-east-1::/usageplans/<{plan}>/keys/*]"
        for plan in (
            "PlanDAF4E53A",
            "basic1A11807AC",
            "internal19AE8912A",
            "partner12728E716",
            "retail12164FE8B",
            "trial14A5A7681",
        )
    ),
    "AwsSolutions-IAM5[Resource::<AccessLogD598EBE9.Arn>/access-log/*]",
    "AwsSolutions-IAM5[Resource::<AccessLogD598EBE9.Arn>/errors/access-log/*]",
    "AwsSolutions-IAM5[Resource::<AccessLogD598EBE9.Arn>/quarantine/*]",
    "AwsSolutions-IAM5[Resource::<LedgerB7379752.Arn>/ledger/*]",
    "AwsSolutions-IAM5[Resource::<PlanTables0D2F3988.Arn>/plan-tables/*]",
    "AwsSolutions-L1",
    "AwsSolutions-S1",
)

app = cdk.App(context=json.loads((ROOT / "cdk.json").read_text())["context"])
env = cdk.Environment(account=os.environ["CDK_DEFAULT_ACCOUNT"], region=os.environ["CDK_DEFAULT_REGION"])
acknowledges = "BY_HAND_ACKNOWLEDGES" in os.environ
HandwrittenStack(app, "LegacySale", is_legacy=True, acknowledges=acknowledges, env=env)
HandwrittenStack(app, "ConcurrentSale", is_legacy=False, acknowledges=acknowledges, env=env)
cdk.Tags.of(app).add("application", "proper-noun-search")
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
if not acknowledges:
    cdk.Validations.of(app).acknowledge(
        *(cdk.Acknowledgment(id=rule, reason="see the example app") for rule in FINDINGS)
    )
app.synth()
