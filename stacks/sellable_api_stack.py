"""The example: a proper-noun search, sold on AWS Marketplace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs import (
    AuditFinding,
    Monetization,
    Period,
    Product,
    Quota,
    SellableApi,
    Throttle,
    acknowledge,
)

_NOUNS_API: Final = Path(__file__).parent / "nouns_api"

_AS_IT_SHOULD_BE: Final = {
    "Api": {
        AuditFinding.API_REQUEST_VALIDATION: "the function validates, and answers with what it got and what it expects",
    },
    "Api/CloudWatchRole": {
        AuditFinding.ROLE_WITH_POLICY_FOR_API_LOGS: "AWS's own policy for the one purpose that the role has",
    },
    "Api/Default/v1/health/GET": {
        AuditFinding.API_AUTHORIZATION: "the one free route; it tells nothing but that the function runs",
    },
    "Api/DeploymentStage.prod": {
        AuditFinding.API_ACCESS_LOG: "the example keeps no access log of its buyers: native metering needs none",
        AuditFinding.API_CACHE: "texts differ from call to call, and a cache costs by the hour",
        AuditFinding.API_CLIENT_CERTIFICATE: "the only backend is a function, which IAM lets this API alone call",
        AuditFinding.API_EXECUTION_LOG: "it could hold the texts that buyers send",
        AuditFinding.API_FIREWALL: "keys, limits and the gate bound what a firewall would",
    },
    "Search": {
        AuditFinding.FUNCTION_CONCURRENCY: "bounded by the usage plan's throttle and the gate",
        AuditFinding.FUNCTION_DEAD_LETTERS: "API Gateway waits for each answer",
        AuditFinding.FUNCTION_IN_NETWORK: "it calls nothing; bounded by its role, which may but write its log",
        AuditFinding.FUNCTION_REDUNDANT_DEPENDENCY: "the CDK writes it",
        AuditFinding.FUNCTION_RUNTIME: "the runtime that the rest of the stack has",
        AuditFinding.ROLE_WITH_POLICY_FOR_FUNCTION_LOGS: "AWS's own policy for a function that calls nothing",
    },
    "Search/LogGroup": {
        AuditFinding.CUSTOMER_KEY_OF_LOG: "encrypted with CloudWatch Logs' own key; it counts nouns and holds no text",
    },
}
"""Auditors' findings that are as they should be, each on its child, with the reason."""


class SellableApiStack(cdk.Stack):
    """The proper-noun search and everything that sells it.

    Args:
        scope: The app.
        construct_id: Its id.
        product: What the listing says, where every call counts one; 10 calls a second and 100,000 a month for each key.
        monetization: Instead of it, the documents that say what counts for whom.
        support_contact: An email address or an https address.
        sender: The address that mails come from. Left out, no mail is sent.
        alarm_topic: ARN of a topic that is told of what cannot be handled or has to be decided. Left out, alarms
            only show their state.
        metering_role: Given where another stack of the account defines it.
        removal_policy: What becomes of tables and logs when they leave the stack.
        env: Account and Region; agreement events need us-east-1, or a SubscriptionRelayStack.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        product: Product | None = None,
        monetization: Monetization | None = None,
        support_contact: str,
        sender: str | None = None,
        alarm_topic: str | None = None,
        metering_role: iam.IRole | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
        env: cdk.Environment | None = None,
    ) -> None:
        sold = product if monetization is None else monetization.product
        kind = "no" if sold is None else sold.agreement_kind
        super().__init__(
            scope,
            construct_id,
            description=f"Proper-noun search, sold on AWS Marketplace ({kind} agreements)",
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
        api = apigateway.RestApi(
            self,
            "Api",
            rest_api_name="Proper-noun search",
            # The onboarding page's access log needs it, and no construct may set it: it is the account's.
            cloud_watch_role=True,
            deploy_options=apigateway.StageOptions(tracing_enabled=True),
        )
        integration, root = apigateway.LambdaIntegration(search), api.root
        methods: dict[str, apigateway.Method] = {}
        for path, operations in json.loads((_NOUNS_API / "openapi.json").read_text())["paths"].items():
            for name in map(str.upper, operations):
                methods[f"{name} {path}"] = root.resource_for_path(path).add_method(name, integration)
        for method in methods.values():
            acknowledge(
                method,
                {AuditFinding.API_USER_POOL: "buyers come with a key of AWS Marketplace, which the gate looks up"},
            )
        self.sale = SellableApi(
            self,
            "Sale",
            api=api,
            product=product,
            monetization=monetization,
            support_contact=support_contact,
            seller_name="Example Corp.",
            sender=sender,
            free_routes=["GET /v1/health"],
            example_route="GET /v1/samples",
            throttle=None if product is None else Throttle(rate_limit=10, burst_limit=20),
            quota=None if product is None else Quota(limit=100_000, period=Period.MONTH),
            alarm_topic=None if alarm_topic is None else sns.Topic.from_topic_arn(self, "AlarmTopic", alarm_topic),
            metering_role=metering_role,
            removal_policy=removal_policy,
        )
        self.sale.onboarding.fulfillment_url_output.override_logical_id("FulfillmentUrl")
        is_logged = self.sale.access_log is not None
        resources = {
            "Api": api,
            "Api/CloudWatchRole": api.node.find_child("CloudWatchRole"),
            "Api/Default/v1/health/GET": methods["GET /v1/health"],
            "Api/DeploymentStage.prod": api.deployment_stage,
            "Search": search,
            "Search/LogGroup": search.log_group,
        }
        for path, reasons in _AS_IT_SHOULD_BE.items():
            as_it_is = {f: why for f, why in reasons.items() if not (is_logged and f is AuditFinding.API_ACCESS_LOG)}
            acknowledge(resources[path], as_it_is)
        if self.sale.plans is not None:
            cdk.Validations.of(self.sale.plans).acknowledge(
                cdk.Acknowledgment(
                    id="Annotation::marketplace-constructs:MON208",
                    reason="a search changes nothing: whoever asks twice is answered twice, and pays for both",
                )
            )
        if alarm_topic is None:
            for alarm in (
                self.sale.agreements.attention_alarm,
                self.sale.agreements.dead_letters.alarm,
                self.sale.subscription_events.dead_letters.alarm,
                *(() if self.sale.access_log is None else self.sale.access_log.alarms),
                *(() if self.sale.meter is None else self.sale.meter.alarms),
            ):
                acknowledge(
                    alarm,
                    {AuditFinding.ALARM_ACTION: "it shows its state until the setting alarm_topic names a topic"},
                )
        for name, value in self._outputs().items():
            cdk.CfnOutput(self, name, value=value)

    def _outputs(self) -> dict[str, str]:
        """What an operator, or a rehearsal, looks for first."""
        sale = self.sale
        plans = sale.plans
        of_plans = (
            {}
            if plans is None
            else {
                "PlansTable": plans.table.table_name,
                "PlanTablesBucket": plans.tables_bucket.bucket_name,
                "UsagePlanIds": self.to_json_string(
                    {name: plan.usage_plan_id for name, plan in plans.usage_plans.items()}
                ),
            }
        )
        of_metering = (
            {}
            if sale.access_log is None or sale.meter is None
            else {
                "AccessLogBucket": sale.access_log.bucket.bucket_name,
                "LedgerBucket": sale.meter.ledger_bucket.bucket_name,
                "MeterDeadLetterQueueUrl": sale.meter.dead_letters.queue.queue_url,
                "MeterFunction": sale.meter.function.function_name,
            }
        )
        return {
            **of_plans,
            **of_metering,
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
