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
    "AwsSolutions-IAM5[Resource::arn:aws:apigateway:us-east-1::/usageplans/<PlanDAF4E53A>/keys/*]",
    "AwsSolutions-L1",
)

app = cdk.App(context=json.loads((ROOT / "cdk.json").read_text())["context"])
env = cdk.Environment(account=os.environ["CDK_DEFAULT_ACCOUNT"], region=os.environ["CDK_DEFAULT_REGION"])
HandwrittenStack(app, "LegacySale", is_legacy=True, env=env)
HandwrittenStack(app, "ConcurrentSale", is_legacy=False, env=env)
cdk.Tags.of(app).add("application", "proper-noun-search")
cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
cdk.Validations.of(app).acknowledge(*(cdk.Acknowledgment(id=rule, reason="see the example app") for rule in FINDINGS))
app.synth()
