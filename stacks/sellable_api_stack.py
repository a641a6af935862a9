"""The example: a proper-noun search, sold on AWS Marketplace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from marketplace_constructs import Period, Product, Quota, SellableApi, Throttle

_NOUNS_API: Final = Path(__file__).parent / "nouns_api"

_AS_IT_SHOULD_BE: Final = {
    "Api": {
        "AwsSolutions-APIG1": "the example keeps no access log: native metering needs none",
        "AwsSolutions-APIG2": "the function validates, and answers with what it got and what it expects",
        "AwsSolutions-APIG3": "keys, limits and the gate bound what a firewall would",
        "AwsSolutions-APIG6": "an execution log could hold the texts that buyers send",
        "AwsSolutions-APIG4": "only the free route has no authorizer, which synthesis proves",
        "AwsSolutions-COG4": "buyers come with a key from AWS Marketplace, which the gate looks up",
    },
    "Search": {
        (
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole]"
        ): "AWS's own policy for a function that writes its log and calls nothing",
        "AwsSolutions-L1": "the runtime that the rest of the stack has",
    },
}
"""Findings of cdk-nag that are as they should be, with their reasons."""


class SellableApiStack(cdk.Stack):
    """The proper-noun search and everything that sells it.

    Args:
        scope: The app.
        construct_id: Its id.
        product: What the listing says.
        support_contact: An email address or an https address.
        sender: The address that mails come from. Left out, no mail is sent.
        metering_role: Given where another stack of the account defines it.
        removal_policy: What becomes of tables and logs when they leave the stack.
        env: Account and Region; agreement events need us-east-1, or a SubscriptionRelayStack.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        product: Product,
        support_contact: str,
        sender: str | None = None,
        metering_role: iam.IRole | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
        env: cdk.Environment | None = None,
    ) -> None:
        super().__init__(
            scope,
            construct_id,
            description=f"Proper-noun search, sold on AWS Marketplace ({product.agreement_kind} agreements)",
            env=env,
        )
        search = lambda_.Function(
            self,
            "Search",
            code=lambda_.Code.from_asset(str(_NOUNS_API), exclude=["**/__pycache__", "*.json", "*.md"]),
            handler="handler.handler",
            runtime=lambda_.Runtime.PYTHON_3_13,
            timeout=cdk.Duration.seconds(10),
        )
        api = apigateway.RestApi(self, "Api", rest_api_name="Proper-noun search", cloud_watch_role=False)
        integration = apigateway.LambdaIntegration(search)
        for path, operations in json.loads((_NOUNS_API / "openapi.json").read_text())["paths"].items():
            for method in operations:
                api.root.resource_for_path(path).add_method(method.upper(), integration)
        self.sale = SellableApi(
            self,
            "Sale",
            api=api,
            product=product,
            support_contact=support_contact,
            seller_name="Example Corp.",
            sender=sender,
            free_routes=["GET /v1/health"],
            example_route="GET /v1/samples",
            throttle=Throttle(rate_limit=10, burst_limit=20),
            quota=Quota(limit=100_000, period=Period.MONTH),
            metering_role=metering_role,
            removal_policy=removal_policy,
        )
        self.sale.onboarding.fulfillment_url_output.override_logical_id("FulfillmentUrl")
        for child, reasons in _AS_IT_SHOULD_BE.items():
            for rule, reason in reasons.items():
                cdk.Validations.of(self.node.find_child(child)).acknowledge(cdk.Acknowledgment(id=rule, reason=reason))
        for name, value in self._outputs().items():
            cdk.CfnOutput(self, name, value=value)

    def _outputs(self) -> dict[str, str]:
        """What an operator, or a rehearsal, looks for first."""
        sale = self.sale
        return {
            "ApiUrl": sale.api_url,
            "ContactsTable": sale.agreements.contacts_table.table_name,
            "DeadLetterQueueUrl": sale.subscription_events.dead_letters.queue.queue_url,
            "FactsTable": sale.agreements.facts_table.table_name,
            "GateFunction": sale.gate.function.function_name,
            "KeysTable": sale.gate.keys_table.table_name,
            "OnboardingFunction": sale.onboarding.function.function_name,
            "QueueUrl": sale.subscription_events.queue.queue_url,
            "ReconciliationDeadLetterQueueUrl": sale.agreements.dead_letters.queue.queue_url,
            "ReconciliationFunction": sale.agreements.reconciliation.function_name,
            "SubscriptionEventsFunction": sale.subscription_events.function.function_name,
            "UsagePlanId": sale.usage_plan.usage_plan_id,
        }
