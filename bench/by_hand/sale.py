"""What SellableApiStack consists of, written by hand with the CDK's own constructs, one resource after another.

It defines the same kinds of resources, equally many of each, with the properties that they need: what a team would
have to write, and what synthesis would cost them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct

_NOUNS_API: Final = Path(__file__).parents[2] / "stacks" / "nouns_api"
_RUNTIME: Final = "marketplace_constructs.runtime"
_ROUTES: Final = ("GET /", "POST /register", "GET /agreement", "POST /contact", "POST /key", "POST /rotation")
_STRING: Final = dynamodb.AttributeType.STRING


class HandwrittenStack(cdk.Stack):
    """The proper-noun search and all that sells it, legacy or concurrent."""

    def __init__(self, scope: Construct, construct_id: str, *, is_legacy: bool, env: cdk.Environment) -> None:
        super().__init__(scope, construct_id, env=env)
        api, authorized = self._sold_api()
        plan = apigateway.UsagePlan(
            self,
            "Plan",
            api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=api.deployment_stage)],
            quota=apigateway.QuotaSettings(limit=100_000, period=apigateway.Period.MONTH),
            throttle=apigateway.ThrottleSettings(rate_limit=10, burst_limit=20),
        )
        plan_arn = f"arn:{self.partition}:apigateway:{self.region}::/usageplans/{plan.usage_plan_id}"
        keys = self._table("Keys", "key_sha256")
        facts = self._table("Facts", "buyer", "fact")
        contacts = self._table("Contacts", "agreement")
        gate = self._function("Gate", "gate", memory_size=512, seconds=10, environment={"KEYS_TABLE": keys.table_name})
        keys.grant(gate, "dynamodb:GetItem")
        self._guard(api, authorized, gate)
        settings = {
            "PRODUCT_CODE": "examplecode",
            "AGREEMENT_KIND": "Legacy" if is_legacy else "Concurrent",
            "PRICING_MODEL": "Subscription",
            "METERING": "Native" if is_legacy else "Pipeline",
            "METERING_REGION": "us-east-1",
            "FACTS_TABLE": facts.table_name,
            "KEYS_TABLE": keys.table_name,
            "USAGE_PLAN_ID": plan.usage_plan_id,
            "KEY_PREFIX": f"{construct_id}/",
        }
        queue, dead_letters = self._queue_with_dead_letters("Events")
        subscriptions = self._function(
            "SubscriptionEvents", "subscription_events", memory_size=512, seconds=60, environment=settings
        )
        subscriptions.add_event_source(
            event_sources.SqsEventSource(queue, batch_size=10, report_batch_item_failures=True)
        )
        if is_legacy:
            self._subscribe(queue)
        else:
            events.Rule(
                self,
                "Agreements",
                event_pattern=events.EventPattern(source=["aws.agreement-marketplace"]),
                targets=[targets.SqsQueue(queue, dead_letter_queue=dead_letters)],
            )
        reconciliation = self._reconciliation(settings, plan_arn, is_legacy=is_legacy)
        facts.grant(reconciliation, "dynamodb:Scan")
        contacts.grant(reconciliation, "dynamodb:Scan", "dynamodb:UpdateItem")
        secret = self._signing_secret()
        page = self._function(
            "Onboarding",
            "onboarding.handler",
            memory_size=1024,
            seconds=28,
            environment={
                **settings,
                "CONTACTS_TABLE": contacts.table_name,
                "SIGNING_SECRET": secret.secret_arn,
                "SELLER_NAME": "Example Corp.",
                "LOGO_URL": "",
                "SUPPORT_CONTACT": "help@example.com",
                "API_URL": api.url.rstrip("/"),
                "EXAMPLE_ROUTE": "GET /v1/samples",
                "SENDER": "",
            },
        )
        contacts.grant(page, "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem")
        self._allow(page, ["secretsmanager:GetSecretValue"], secret.secret_arn)
        self._allow(page, ["aws-marketplace:ResolveCustomer"], "*")
        for function in (page, subscriptions, reconciliation):
            self._may_change_access(function, facts, keys, plan_arn)
        self._onboarding_api(page)
        self._alarm_on_attention()
        if is_legacy:
            self._metering(plan, plan_arn)
        for name, value in {"ApiUrl": api.url, "FactsTable": facts.table_name, "QueueUrl": queue.queue_url}.items():
            cdk.CfnOutput(self, name, value=value)

    def _sold_api(self) -> tuple[apigateway.RestApi, list[apigateway.Method]]:
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
            cloud_watch_role=True,
            deploy_options=apigateway.StageOptions(tracing_enabled=True),
        )
        integration = apigateway.LambdaIntegration(search)
        authorized = []
        for path, operations in json.loads((_NOUNS_API / "openapi.json").read_text())["paths"].items():
            for name in operations:
                method = api.root.resource_for_path(path).add_method(name.upper(), integration)
                if path != "/v1/health":
                    authorized.append(method)
        return api, authorized

    def _guard(self, api: apigateway.RestApi, methods: list[apigateway.Method], gate: lambda_.Function) -> None:
        authorizer = apigateway.CfnAuthorizer(
            self,
            "Authorizer",
            authorizer_result_ttl_in_seconds=60,
            authorizer_uri=f"arn:{self.partition}:apigateway:{self.region}:lambda:path/2015-03-31/functions/"
            f"{gate.function_arn}/invocations",
            identity_source="method.request.header.x-api-key,context.httpMethod,context.resourcePath",
            name="Gate",
            rest_api_id=api.rest_api_id,
            type="REQUEST",
        )
        for method in methods:
            resource = method.node.default_child
            assert isinstance(resource, apigateway.CfnMethod)
            resource.api_key_required = True
            resource.authorization_type = "CUSTOM"
            resource.authorizer_id = authorizer.ref
        gate.add_permission(
            "ApiGateway",
            principal=iam.ServicePrincipal("apigateway.amazonaws.com"),
            source_arn=self.format_arn(
                service="execute-api", resource=api.rest_api_id, resource_name=f"authorizers/{authorizer.ref}"
            ),
        )

    def _table(self, construct_id: str, partition_key: str, sort_key: str | None = None) -> dynamodb.Table:
        return dynamodb.Table(
            self,
            construct_id,
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            deletion_protection=True,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            partition_key=dynamodb.Attribute(name=partition_key, type=_STRING),
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=cdk.RemovalPolicy.RETAIN,
            sort_key=None if sort_key is None else dynamodb.Attribute(name=sort_key, type=_STRING),
        )

    def _log_group(self, construct_id: str) -> logs.LogGroup:
        return logs.LogGroup(
            self,
            construct_id,
            deletion_protection_enabled=True,
            removal_policy=cdk.RemovalPolicy.RETAIN,
            retention=logs.RetentionDays.THIRTEEN_MONTHS,
        )

    def _function(
        self,
        construct_id: str,
        module: str,
        *,
        seconds: int,
        memory_size: int = 256,
        environment: Mapping[str, str] | None = None,
        dead_letter_queue: sqs.IQueue | None = None,
    ) -> lambda_.Function:
        log_group = self._log_group(f"{construct_id}Log")
        role = iam.Role(self, f"{construct_id}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(role)
        return lambda_.Function(
            self,
            construct_id,
            architecture=lambda_.Architecture.ARM_64,
            code=lambda_.Code.from_asset(os.environ["BUNDLE"]),
            dead_letter_queue=dead_letter_queue,
            environment=environment,
            handler=f"{_RUNTIME}.{module}.handler",
            log_group=log_group,
            memory_size=memory_size,
            role=role,
            runtime=lambda_.Runtime.PYTHON_3_13,
            timeout=cdk.Duration.seconds(seconds),
            tracing=lambda_.Tracing.ACTIVE,
        )

    def _allow(self, function: lambda_.Function, actions: list[str], resource: str) -> None:
        function.add_to_role_policy(iam.PolicyStatement(actions=actions, resources=[resource]))

    def _may_change_access(
        self, function: lambda_.Function, facts: dynamodb.Table, keys: dynamodb.Table, plan_arn: str
    ) -> None:
        facts.grant(function, "dynamodb:PutItem", "dynamodb:Query")
        keys.grant(function, "dynamodb:GetItem", "dynamodb:PutItem")
        api_keys = f"arn:{self.partition}:apigateway:{self.region}::/apikeys"
        for actions, resource in (
            (("GET", "POST"), api_keys),
            (("DELETE", "GET", "PATCH"), f"{api_keys}/*"),
            (("GET", "POST"), f"{plan_arn}/keys"),
            (("DELETE", "GET"), f"{plan_arn}/keys/*"),
        ):
            self._allow(function, [f"apigateway:{action}" for action in actions], resource)

    def _dead_letters(self, construct_id: str) -> sqs.Queue:
        queue = sqs.Queue(
            self,
            construct_id,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        queue.metric_approximate_number_of_messages_visible(
            period=cdk.Duration.minutes(5), statistic="Maximum"
        ).create_alarm(
            self,
            f"{construct_id}Alarm",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        return queue

    def _queue_with_dead_letters(self, construct_id: str) -> tuple[sqs.Queue, sqs.Queue]:
        dead_letters = self._dead_letters(f"{construct_id}DeadLetters")
        queue = sqs.Queue(
            self,
            construct_id,
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=5, queue=dead_letters),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(4),
            visibility_timeout=cdk.Duration.seconds(360),
        )
        return queue, dead_letters

    def _subscribe(self, queue: sqs.Queue) -> None:
        topic_arn = f"arn:{self.partition}:sns:us-east-1:287250355862:aws-mp-subscription-notification-examplecode"
        queue.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["sqs:SendMessage"],
                conditions={"ArnEquals": {"aws:SourceArn": topic_arn}},
                principals=[iam.ServicePrincipal("sns.amazonaws.com")],
                resources=[queue.queue_arn],
            )
        )
        sns.CfnSubscription(
            self, "Subscription", endpoint=queue.queue_arn, protocol="sqs", region="us-east-1", topic_arn=topic_arn
        )

    def _reconciliation(self, settings: Mapping[str, str], plan_arn: str, *, is_legacy: bool) -> lambda_.Function:
        dead_letters = self._dead_letters("ReconciliationDeadLetters")
        function = self._function(
            "Reconciliation",
            "agreements.reconciliation",
            memory_size=512,
            seconds=900,
            dead_letter_queue=dead_letters,
            environment={
                **settings,
                "CONTACTS_TABLE": "contacts",
                "SENDER": "",
                "SELLER_NAME": "Example Corp.",
                "SUPPORT_CONTACT": "help@example.com",
                "OBSERVE_EVERY_HOURS": "24",
            },
        )
        self._allow(function, ["apigateway:GET", "apigateway:PATCH"], plan_arn)
        if not is_legacy:
            self._allow(function, ["aws-marketplace:DescribeAgreement"], "*")
        events.Rule(
            self,
            "Hourly",
            schedule=events.Schedule.rate(cdk.Duration.hours(1)),
            targets=[targets.LambdaFunction(function, dead_letter_queue=dead_letters)],
        )
        return function

    def _signing_secret(self) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            "SigningSecret",
            generate_secret_string=secretsmanager.SecretStringGenerator(exclude_punctuation=True, password_length=64),
        )
        rotation = self._function("SigningSecretRotation", "onboarding.signing_secret", seconds=60)
        secret.add_rotation_schedule("Schedule", automatically_after=cdk.Duration.days(30), rotation_lambda=rotation)
        return secret

    def _onboarding_api(self, function: lambda_.Function) -> None:
        access_log = self._log_group("OnboardingAccessLog")
        api = apigateway.RestApi(
            self,
            "OnboardingApi",
            cloud_watch_role=False,
            deploy_options=apigateway.StageOptions(
                access_log_destination=apigateway.LogGroupLogDestination(access_log),
                access_log_format=apigateway.AccessLogFormat.json_with_standard_fields(
                    caller=False,
                    http_method=True,
                    ip=False,
                    protocol=False,
                    request_time=True,
                    resource_path=True,
                    response_length=True,
                    status=True,
                    user=False,
                ),
                throttling_burst_limit=40,
                throttling_rate_limit=20,
                tracing_enabled=True,
            ),
            endpoint_types=[apigateway.EndpointType.REGIONAL],
        )
        integration = apigateway.LambdaIntegration(function, allow_test_invoke=False)
        for route in _ROUTES:
            method, path = route.split(" ")
            api.root.resource_for_path(path).add_method(method, integration)
        visibility = wafv2.CfnWebACL.VisibilityConfigProperty(
            cloud_watch_metrics_enabled=True, metric_name="onboarding", sampled_requests_enabled=False
        )
        firewall = wafv2.CfnWebACL(
            self,
            "Firewall",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            rules=[
                wafv2.CfnWebACL.RuleProperty(
                    action=wafv2.CfnWebACL.RuleActionProperty(block={}),
                    name="rate-per-address",
                    priority=0,
                    statement=wafv2.CfnWebACL.StatementProperty(
                        rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                            aggregate_key_type="IP", limit=300
                        )
                    ),
                    visibility_config=visibility,
                )
            ],
            scope="REGIONAL",
            visibility_config=visibility,
        )
        wafv2.CfnWebACLAssociation(
            self,
            "FirewallAssociation",
            resource_arn=api.deployment_stage.stage_arn,
            web_acl_arn=firewall.attr_arn,
        )

    def _alarm_on_attention(self) -> None:
        counts = {
            f"m{number}": cloudwatch.Metric(
                namespace="MarketplaceConstructs",
                metric_name=name,
                dimensions_map={"service": "sellable-api"},
                period=cdk.Duration.minutes(5),
                statistic="Sum",
            )
            for number, name in enumerate(
                ("AgreementNeedsAttention", "Faults", "MalformedEvent", "ProductCodeDrift", "UnknownEvent")
            )
        }
        cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({name}, 0)" for name in counts), using_metrics=counts
        ).create_alarm(
            self,
            "Attention",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )

    def _metering(self, plan: apigateway.UsagePlan, plan_arn: str) -> None:
        iam.Role(
            self,
            "MeteringRole",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            inline_policies={
                "Metering": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer"],
                            resources=["*"],
                        )
                    ]
                )
            },
            role_name="ApiGatewayMarketplaceMeteringRole",
        )
        function = self._function("ProductCodeFunction", "usage_plan", seconds=900)
        self._allow(function, ["apigateway:GET", "apigateway:PATCH"], plan_arn)
        self._allow(function, ["cloudformation:DescribeStacks"], self.stack_id)
        cdk.CustomResource(
            self,
            "ProductCode",
            resource_type="Custom::MarketplaceProductCode",
            service_token=function.function_arn,
            properties={"UsagePlanId": plan.usage_plan_id, "ProductCode": "examplecode"},
        )
