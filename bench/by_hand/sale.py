"""What SellableApiStack consists of, written by hand with the CDK's own constructs, one resource after another.

It defines the same kinds of resources, equally many of each, with the same properties: what a team would have to write,
and what synthesis would cost them. What this library works out from documents is written down here as it came out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import acknowledged
import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct, IConstruct

_NOUNS_API: Final = Path(__file__).parents[2] / "stacks" / "nouns_api"
_RUNTIME: Final = "marketplace_constructs.runtime"
_ROUTES: Final = ("GET /", "POST /register", "GET /agreement", "POST /contact", "POST /key", "POST /rotation")
_STRING: Final = dynamodb.AttributeType.STRING
_PLANS: Final = {
    "basic@1": (5, 10, 10_000, None),
    "internal@1": (50, 100, None, 2),
    "partner@1": (50, 100, None, 2),
    "retail@1": (10, 20, 100_000, 2),
    "trial@1": (1, 2, 1_000, None),
}
"""Calls a second, and at once; calls a month; searches a second."""
_WATCHED: Final = {
    "HourNotClosedFor": ("Maximum", 3600, 5, 5),
    "LinesQuarantined": ("Sum", 1, 5, 1),
    "LinesUnmatched": ("Sum", 1, 5, 1),
    "LinesUnattributed": ("Sum", 1, 5, 1),
    "OldestUnsentRecordAge": ("Maximum", 10_800, 15, 2),
    "SendingDenied": ("Sum", 1, 5, 1),
    "UsageLost": ("Sum", 1, 5, 1),
    "RecordsInDoubt": ("Maximum", 1, 15, 4),
    "DuplicateFromElsewhere": ("Sum", 1, 5, 1),
    "UsageExcess": ("Sum", 1, 5, 1),
    "AgreementWithoutLicense": ("Maximum", 1, 15, 4),
}
"""Statistic, threshold, minutes of a period, and periods of each metric of the meter."""
_OF_KEYS: Final = "arn:aws:apigateway:us-east-1::/apikeys/*"
_OF_USAGE_PLANS: Final = tuple(
    f"arn:aws:apigateway:us-east-1::/usageplans/<{plan}>/keys/*"
    for plan in ("basic1A11807AC", "internal19AE8912A", "partner12728E716", "retail12164FE8B", "trial14A5A7681")
)
_OF_USAGE_PLAN: Final = "arn:aws:apigateway:us-east-1::/usageplans/<PlanDAF4E53A>/keys/*"
_OF_PLANS: Final = ("<PlanTables0D2F3988.Arn>/plan-tables/*",)
_OF_STREAM: Final = (
    "<AccessLogD598EBE9.Arn>/access-log/*",
    "<AccessLogD598EBE9.Arn>/errors/access-log/*",
    "<DeliveryErrors.Arn>",
)
_OF_METER: Final = (
    "<LedgerB7379752.Arn>/ledger/*",
    "<AccessLogD598EBE9.Arn>/quarantine/*",
    "<PlanTables0D2F3988.Arn>/plan-tables/*",
    "<AccessLogD598EBE9.Arn>/access-log/*",
)
"""Resources with a wildcard that policies name, as cdk-nag writes them."""


class HandwrittenStack(cdk.Stack):
    """The proper-noun search and all that sells it, legacy or concurrent.

    Args:
        scope: The app.
        construct_id: Its id.
        is_legacy: Whether agreements are legacy, and API Gateway meters.
        acknowledges: Whether auditors' findings are acknowledged on each child; else whoever makes it does so at once.
        env: Account and Region.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, is_legacy: bool, acknowledges: bool, env: cdk.Environment
    ) -> None:
        super().__init__(scope, construct_id, env=env, description="Proper-noun search, sold on AWS Marketplace")
        self._acknowledges = acknowledges
        api, authorized = self._sold_api(is_legacy=is_legacy)
        plans = [self._one_plan(api)] if is_legacy else self._documented_plans(api, authorized[-1])
        plan = plans[0]
        plan_arns = [f"arn:{self.partition}:apigateway:{self.region}::/usageplans/{p.usage_plan_id}" for p in plans]
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
            "PLANS_TABLE": "",
        }
        if not is_legacy:
            table, tables = self._plan_versions(plans, settings)
            table.grant(gate, "dynamodb:Query")
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
                description="AWS Marketplace's agreement events of every kind",
                event_pattern=events.EventPattern(source=["aws.agreement-marketplace"]),
                targets=[targets.SqsQueue(queue, dead_letter_queue=dead_letters)],
            )
        reconciliation = self._reconciliation(settings, plan_arns, is_legacy=is_legacy)
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
            self._may_change_access(function, facts, keys, plan_arns)
            if not is_legacy:
                table.grant(function, "dynamodb:Scan")
        self._onboarding_api(page)
        self._alarm_on_attention()
        if is_legacy:
            self._metering(plan, plan_arns[0])
        else:
            log, stream = self._access_log(api)
            self._meter(settings, facts, table, tables, log)
            self._alarm_on_access_log(api, stream)
            self._outputs(
                {
                    "AccessLogBucket": log.bucket_name,
                    "PlanTablesBucket": tables.bucket_name,
                    "PlansTable": table.table_name,
                    "UsagePlanIds": self.to_json_string(
                        {name: plan.usage_plan_id for name, plan in zip(_PLANS, plans, strict=True)}
                    ),
                }
            )
        self._outputs(
            {
                "ApiUrl": api.url,
                "ContactsTable": contacts.table_name,
                "DeadLetterQueueUrl": dead_letters.queue_url,
                "FactsTable": facts.table_name,
                "GateFunction": gate.function_name,
                "KeysTable": keys.table_name,
                "OnboardingFunction": page.function_name,
                "QueueUrl": queue.queue_url,
                "ReconciliationFunction": reconciliation.function_name,
                "SubscriptionEventsFunction": subscriptions.function_name,
                "UsagePlanId": plan.usage_plan_id,
            }
        )

    def _acknowledge(self, construct: IConstruct, *kinds: str, wildcards: tuple[str, ...] = ()) -> None:
        if self._acknowledges:
            acknowledged.acknowledge(construct, *kinds, wildcards=wildcards)

    def _acknowledge_wildcards(self, function: lambda_.Function, *resources: str) -> None:
        if self._acknowledges:
            assert function.role is not None
            acknowledged.acknowledge(function.role, wildcards=resources)

    def _outputs(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            cdk.CfnOutput(self, name, value=value)

    def _one_plan(self, api: apigateway.RestApi) -> apigateway.UsagePlan:
        return apigateway.UsagePlan(
            self,
            "Plan",
            api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=api.deployment_stage)],
            quota=apigateway.QuotaSettings(limit=100_000, period=apigateway.Period.MONTH),
            throttle=apigateway.ThrottleSettings(rate_limit=10, burst_limit=20),
        )

    def _documented_plans(self, api: apigateway.RestApi, search: apigateway.Method) -> list[apigateway.UsagePlan]:
        plans: list[apigateway.UsagePlan] = []
        for name, (rate, burst, quota, searches) in _PLANS.items():
            limits = (
                None
                if searches is None
                else [
                    apigateway.ThrottlingPerMethod(
                        method=search,
                        throttle=apigateway.ThrottleSettings(rate_limit=searches, burst_limit=2 * searches),
                    )
                ]
            )
            plan = apigateway.UsagePlan(
                self,
                name,
                api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=api.deployment_stage, throttle=limits)],
                name=f"nouns-api {name}",
                quota=None if quota is None else apigateway.QuotaSettings(limit=quota, period=apigateway.Period.MONTH),
                throttle=apigateway.ThrottleSettings(rate_limit=rate, burst_limit=burst),
            )
            if plans:
                # API Gateway takes one change of a stage's plans at a time.
                plan.node.add_dependency(plans[-1])
            plans.append(plan)
        return plans

    def _plan_versions(
        self, plans: list[apigateway.UsagePlan], settings: dict[str, str]
    ) -> tuple[dynamodb.Table, s3.Bucket]:
        table = self._table("Plans", "plan", "holds_from")
        settings["PLANS_TABLE"] = table.table_name
        tables = self._bucket("PlanTables")
        function = self._function(
            "PlansFunction",
            "plans",
            seconds=300,
            environment={"PLANS_TABLE": table.table_name, "TABLES_BUCKET": tables.bucket_name},
        )
        table.grant(function, "dynamodb:PutItem", "dynamodb:Scan")
        self._allow(function, ["s3:PutObject"], tables.arn_for_objects("plan-tables/*"))
        self._acknowledge_wildcards(function, *_OF_PLANS)
        cdk.CustomResource(
            self,
            "PlanVersions",
            resource_type="Custom::MarketplacePlans",
            service_token=function.function_arn,
            properties={
                "Plans": [
                    {
                        "Plan": name,
                        "UsagePlanId": plan.usage_plan_id,
                        "AssignTo": '"Default"',
                        "EffectiveFrom": "",
                        "Table": "H4sI",
                    }
                    for name, plan in zip(_PLANS, plans, strict=True)
                ]
            },
        )
        return table, tables

    def _bucket(
        self, construct_id: str, *, retention: cdk.Duration | None = None, name: str | None = None
    ) -> s3.Bucket:
        is_ledger = name is not None
        bucket = s3.Bucket(
            self,
            construct_id,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            bucket_name=name,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            lifecycle_rules=None
            if retention is None
            else [
                s3.LifecycleRule(
                    id="Retention",
                    abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                    expiration=retention,
                    noncurrent_version_expiration=cdk.Duration.days(35),
                )
            ],
            object_lock_default_retention=s3.ObjectLockRetention.governance(cdk.Duration.days(400))
            if is_ledger
            else None,
            object_lock_enabled=True if is_ledger else None,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            removal_policy=cdk.RemovalPolicy.RETAIN,
            versioned=True,
        )
        self._acknowledge(bucket, "bucket")
        return bucket

    def _access_log(self, api: apigateway.RestApi) -> tuple[s3.Bucket, firehose.CfnDeliveryStream]:
        bucket = self._bucket("AccessLog", retention=cdk.Duration.days(400))
        errors = self._log_group("DeliveryErrors")
        log_stream = logs.LogStream(self, "ErrorStream", log_group=errors)
        role = iam.Role(
            self,
            "StreamRole",
            assumed_by=iam.ServicePrincipal("firehose.amazonaws.com"),
            inline_policies={
                "Deliver": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                            resources=[bucket.bucket_arn],
                        ),
                        iam.PolicyStatement(
                            actions=["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
                            resources=[bucket.arn_for_objects(f"{p}access-log/*") for p in ("", "errors/")],
                        ),
                        iam.PolicyStatement(actions=["logs:PutLogEvents"], resources=[errors.log_group_arn]),
                    ]
                )
            },
        )
        self._acknowledge(role, "role", wildcards=_OF_STREAM)
        properties = firehose.CfnDeliveryStream
        stream = firehose.CfnDeliveryStream(
            self,
            "Stream",
            delivery_stream_encryption_configuration_input=(
                properties.DeliveryStreamEncryptionConfigurationInputProperty(key_type="AWS_OWNED_CMK")
            ),
            delivery_stream_name="amazon-apigateway-by-hand",
            delivery_stream_type="DirectPut",
            extended_s3_destination_configuration=properties.ExtendedS3DestinationConfigurationProperty(
                bucket_arn=bucket.bucket_arn,
                buffering_hints=properties.BufferingHintsProperty(interval_in_seconds=60, size_in_m_bs=64),
                cloud_watch_logging_options=properties.CloudWatchLoggingOptionsProperty(
                    enabled=True, log_group_name=errors.log_group_name, log_stream_name=log_stream.log_stream_name
                ),
                compression_format="GZIP",
                error_output_prefix="errors/access-log/",
                prefix="access-log/",
                role_arn=role.role_arn,
            ),
        )
        stage = api.deployment_stage.node.default_child
        assert isinstance(stage, apigateway.CfnStage)
        stage.access_log_setting = apigateway.CfnStage.AccessLogSettingProperty(
            destination_arn=stream.attr_arn, format='{"id":"$context.extendedRequestId"}\n'
        )
        return bucket, stream

    def _alarm_on_access_log(self, api: apigateway.RestApi, stream: firehose.CfnDeliveryStream) -> None:
        def metric(name: str, statistic: str, period: cdk.Duration | None = None) -> cloudwatch.Metric:
            return cloudwatch.Metric(
                namespace="AWS/Firehose",
                metric_name=name,
                dimensions_map={"DeliveryStreamName": stream.ref},
                period=period or cdk.Duration.minutes(5),
                statistic=statistic,
            )

        stage, quarter, hour = api.deployment_stage, cdk.Duration.minutes(15), cdk.Duration.hours(1)
        self._alarm("Throttled", metric("ThrottledRecords", "Sum"))
        self._alarm("Late", metric("DeliveryToS3.DataFreshness", "Maximum"), threshold=600, periods=2)
        self._alarm(
            "NearLimit",
            cloudwatch.MathExpression(
                expression="100 * MAX([bytes / PERIOD(bytes) / byte_limit, records / PERIOD(records) / record_limit])",
                using_metrics={
                    "bytes": metric("IncomingBytes", "Sum"),
                    "byte_limit": metric("BytesPerSecondLimit", "Minimum"),
                    "records": metric("IncomingRecords", "Sum"),
                    "record_limit": metric("RecordsPerSecondLimit", "Minimum"),
                },
            ),
            threshold=80,
            periods=3,
        )
        self._alarm(
            "Silent",
            cloudwatch.MathExpression(
                expression="IF(FILL(calls, 0) > 0 AND FILL(lines, 0) == 0, 1, 0)",
                using_metrics={
                    "calls": stage.metric_count(period=quarter, statistic="Sum"),
                    "lines": metric("IncomingRecords", "Sum", quarter),
                },
                period=quarter,
            ),
            periods=2,
        )
        self._alarm(
            "Incomplete",
            cloudwatch.MathExpression(
                expression="IF(FILL(calls, 0) - FILL(refused, 0) - FILL(failed, 0) > 1.05 * FILL(lines, 0) + 10, 1, 0)",
                using_metrics={
                    "calls": stage.metric_count(period=hour, statistic="Sum"),
                    "refused": stage.metric_client_error(period=hour, statistic="Sum"),
                    "failed": stage.metric_server_error(period=hour, statistic="Sum"),
                    "lines": metric("IncomingRecords", "Sum", hour),
                },
                period=hour,
            ),
            periods=2,
        )

    def _meter(
        self,
        settings: Mapping[str, str],
        facts: dynamodb.Table,
        plans: dynamodb.Table,
        tables: s3.Bucket,
        log: s3.Bucket,
    ) -> None:
        ledger = self._bucket("Ledger", name=f"metering-ledger-{self.account}-{self.region}-by-hand")
        dead_letters = self._dead_letters("MeterDeadLetters")
        function = self._function(
            "Meter",
            "metering.meter",
            bundle="METER_BUNDLE",
            dead_letter_queue=dead_letters,
            memory_size=1024,
            storage=cdk.Size.mebibytes(512),
            concurrency=1,
            seconds=900,
            environment={
                **settings,
                "DIMENSIONS": "calls",
                "SALE": "by-hand",
                "STACK": self.stack_name,
                "JOINS": "",
                "TABLES_BUCKET": tables.bucket_name,
                "LEDGER_BUCKET": ledger.bucket_name,
                "LOG_BUCKET": log.bucket_name,
                "LOG_PREFIX": "access-log/",
                "WATERMARK_MINUTES": "15",
                "DECIMALS": "6",
                "SENDS_ZERO": "1",
                "WINDOW_HOURS": "24",
                "MONTH_END_HOURS": "6",
                "FINAL_WINDOW_MINUTES": "60",
                "FINAL_FLUSH_MINUTES": "40",
                "CALLS_PER_SECOND": "10",
                "DUCKDB_MEMORY_MB": "512",
                "RESERVE_SECONDS": "60",
            },
        )
        self._outputs(
            {
                "LedgerBucket": ledger.bucket_name,
                "MeterDeadLetterQueueUrl": dead_letters.queue_url,
                "MeterFunction": function.function_name,
            }
        )
        for table in (facts, plans):
            table.grant(function, "dynamodb:Scan")
        for actions, resources in {
            ("s3:ListBucket",): [log.bucket_arn, ledger.bucket_arn],
            ("s3:GetObject",): [
                tables.arn_for_objects("plan-tables/*"),
                log.arn_for_objects("access-log/*"),
                ledger.arn_for_objects("ledger/*"),
            ],
            ("s3:PutObject",): [log.arn_for_objects("quarantine/*"), ledger.arn_for_objects("ledger/*")],
        }.items():
            function.add_to_role_policy(iam.PolicyStatement(actions=list(actions), resources=resources))
        function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["aws-marketplace:BatchMeterUsage", "cloudtrail:LookupEvents"],
                resources=["*"],
                conditions={"StringEquals": {"aws:RequestedRegion": self.region}},
            )
        )
        self._acknowledge_wildcards(function, *_OF_METER)
        events.Rule(
            self,
            "MeterSchedule",
            description="Starts the meter",
            schedule=events.Schedule.rate(cdk.Duration.minutes(5)),
            targets=[targets.LambdaFunction(function, dead_letter_queue=dead_letters)],
        )
        for name, (statistic, threshold, minutes, periods) in _WATCHED.items():
            metric = cloudwatch.Metric(
                namespace="MarketplaceConstructs",
                metric_name=name,
                dimensions_map={"service": "sellable-api", "sale": "by-hand"},
                period=cdk.Duration.minutes(minutes),
                statistic=statistic,
            )
            self._alarm(name, metric, threshold=threshold, periods=periods)

    def _alarm(
        self,
        construct_id: str,
        metric: cloudwatch.Metric | cloudwatch.MathExpression,
        *,
        threshold: int = 1,
        periods: int = 1,
    ) -> None:
        alarm = metric.create_alarm(
            self,
            construct_id,
            alarm_description="see the runbook",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=periods,
            threshold=threshold,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        self._acknowledge(alarm, "alarm")

    def _sold_api(self, *, is_legacy: bool) -> tuple[apigateway.RestApi, list[apigateway.Method]]:
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
                self._acknowledge(method, "method")
                if path != "/v1/health":
                    authorized.append(method)
                else:
                    self._acknowledge(method, "open method")
        self._acknowledge(api, "api")
        if self._acknowledges:
            of_log = ["stage without access log"] if is_legacy else []
            self._acknowledge(api.deployment_stage, "stage", "stage without firewall", *of_log)
            self._acknowledge(api.node.find_child("CloudWatchRole"), "role for API logs")
            self._acknowledge(search.log_group, "log group")
        self._acknowledge(
            search,
            "function",
            "function without reserve",
            "function without dead letters",
            "function with AWS's policy",
        )
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
        table = dynamodb.Table(
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
        self._acknowledge(table, "table")
        return table

    def _log_group(self, construct_id: str) -> logs.LogGroup:
        log_group = logs.LogGroup(
            self,
            construct_id,
            deletion_protection_enabled=True,
            removal_policy=cdk.RemovalPolicy.RETAIN,
            retention=logs.RetentionDays.THIRTEEN_MONTHS,
        )
        self._acknowledge(log_group, "log group")
        return log_group

    def _function(
        self,
        construct_id: str,
        module: str,
        *,
        seconds: int,
        memory_size: int = 256,
        environment: Mapping[str, str] | None = None,
        dead_letter_queue: sqs.IQueue | None = None,
        bundle: str = "BUNDLE",
        storage: cdk.Size | None = None,
        concurrency: int | None = None,
    ) -> lambda_.Function:
        log_group = self._log_group(f"{construct_id}Log")
        role = iam.Role(self, f"{construct_id}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(role)
        self._acknowledge(role, "role for any resource", "role")
        function = lambda_.Function(
            self,
            construct_id,
            architecture=lambda_.Architecture.ARM_64,
            code=lambda_.Code.from_asset(os.environ[bundle]),
            dead_letter_queue=dead_letter_queue,
            description=f"{construct_id} of the sale",
            environment=environment,
            ephemeral_storage_size=storage,
            handler=f"{_RUNTIME}.{module}.handler",
            log_group=log_group,
            memory_size=memory_size,
            reserved_concurrent_executions=concurrency,
            role=role,
            runtime=lambda_.Runtime.PYTHON_3_13,
            timeout=cdk.Duration.seconds(seconds),
            tracing=lambda_.Tracing.ACTIVE,
        )
        self._acknowledge(
            function,
            "function",
            *(["function with settings"] if environment is not None else []),
            *(["function without reserve"] if concurrency is None else []),
            *(["function without dead letters"] if dead_letter_queue is None else []),
        )
        return function

    def _allow(self, function: lambda_.Function, actions: list[str], *resources: str) -> None:
        function.add_to_role_policy(iam.PolicyStatement(actions=actions, resources=list(resources)))

    def _may_change_access(
        self, function: lambda_.Function, facts: dynamodb.Table, keys: dynamodb.Table, plan_arns: list[str]
    ) -> None:
        facts.grant(function, "dynamodb:PutItem", "dynamodb:Query")
        keys.grant(function, "dynamodb:GetItem", "dynamodb:PutItem")
        api_keys = f"arn:{self.partition}:apigateway:{self.region}::/apikeys"
        for actions, resources in (
            (("GET", "POST"), [api_keys]),
            (("DELETE", "GET", "PATCH"), [f"{api_keys}/*"]),
            (("GET", "POST"), [f"{plan}/keys" for plan in plan_arns]),
            (("DELETE", "GET"), [f"{plan}/keys/*" for plan in plan_arns]),
        ):
            self._allow(function, [f"apigateway:{action}" for action in actions], *resources)
        of_plans = _OF_USAGE_PLANS if len(plan_arns) > 1 else (_OF_USAGE_PLAN,)
        self._acknowledge_wildcards(function, _OF_KEYS, *of_plans)

    def _dead_letters(self, construct_id: str) -> sqs.Queue:
        queue = sqs.Queue(
            self,
            construct_id,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=cdk.Duration.days(14),
        )
        alarm = queue.metric_approximate_number_of_messages_visible(
            period=cdk.Duration.minutes(5), statistic="Maximum"
        ).create_alarm(
            self,
            f"{construct_id}Alarm",
            alarm_description="something failed to its last try: read the log",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        self._acknowledge(queue, "queue")
        self._acknowledge(alarm, "alarm")
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
        self._acknowledge(queue, "queue")
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
            self,
            "Subscription",
            endpoint=queue.queue_arn,
            protocol="sqs",
            raw_message_delivery=False,
            topic_arn=topic_arn,
        )

    def _reconciliation(
        self, settings: Mapping[str, str], plan_arns: list[str], *, is_legacy: bool
    ) -> lambda_.Function:
        dead_letters = self._dead_letters("ReconciliationDeadLetters")
        self._outputs({"ReconciliationDeadLetterQueueUrl": dead_letters.queue_url})
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
        self._allow(function, ["apigateway:GET", "apigateway:PATCH"], *plan_arns)
        if not is_legacy:
            self._allow(function, ["aws-marketplace:DescribeAgreement"], "*")
        events.Rule(
            self,
            "Updated",
            description="Starts the reconciliation when an update of the stack is over",
            event_pattern=events.EventPattern(
                source=["aws.cloudformation"],
                detail_type=["CloudFormation Stack Status Change"],
                detail={
                    "stack-id": [self.stack_id],
                    "status-details": {"status": ["UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]},
                },
            ),
            targets=[targets.LambdaFunction(function, dead_letter_queue=dead_letters)],
        )
        events.Rule(
            self,
            "Hourly",
            description="Starts the reconciliation of access with the agreements",
            schedule=events.Schedule.rate(cdk.Duration.hours(1)),
            targets=[targets.LambdaFunction(function, dead_letter_queue=dead_letters)],
        )
        return function

    def _signing_secret(self) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            "SigningSecret",
            description="Signs the sessions of the onboarding page",
            generate_secret_string=secretsmanager.SecretStringGenerator(exclude_punctuation=True, password_length=64),
        )
        rotation = self._function("SigningSecretRotation", "onboarding.signing_secret", seconds=60)
        rotation.add_permission(
            "SecretsManager",
            principal=iam.ServicePrincipal("secretsmanager.amazonaws.com"),
            source_account=self.account,
        )
        secret.deny_account_root_delete()
        self._acknowledge(secret, "secret")
        secretsmanager.CfnRotationSchedule(
            self,
            "Schedule",
            rotation_lambda_arn=rotation.function_arn,
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(automatically_after_days=30),
            secret_id=secret.secret_arn,
        )
        return secret

    def _onboarding_api(self, function: lambda_.Function) -> None:
        access_log = self._log_group("OnboardingAccessLog")
        api = apigateway.RestApi(
            self,
            "OnboardingApi",
            description="The page where buyers from AWS Marketplace register and get their key",
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
            self._acknowledge(api.root.resource_for_path(path).add_method(method, integration), "open method", "method")
        self._acknowledge(api, "api")
        if self._acknowledges:
            self._acknowledge(api.deployment_stage, "stage")
        visibility = wafv2.CfnWebACL.VisibilityConfigProperty(
            cloud_watch_metrics_enabled=True, metric_name="onboarding", sampled_requests_enabled=False
        )
        firewall = wafv2.CfnWebACL(
            self,
            "Firewall",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            description="Bounds calls from one address",
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
        self._acknowledge(firewall, "firewall")
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
                dimensions_map={"service": "sellable-api", "sale": "by-hand"},
                period=cdk.Duration.minutes(5),
                statistic="Sum",
            )
            for number, name in enumerate(
                ("AgreementNeedsAttention", "Faults", "MalformedEvent", "ProductCodeDrift", "UnknownEvent")
            )
        }
        alarm = cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({name}, 0)" for name in counts), using_metrics=counts
        ).create_alarm(
            self,
            "Attention",
            alarm_description="an agreement or notice of an unknown kind: read the functions' logs and decide",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        self._acknowledge(alarm, "alarm")

    def _metering(self, plan: apigateway.UsagePlan, plan_arn: str) -> None:
        role = iam.Role(
            self,
            "MeteringRole",
            assumed_by=iam.ServicePrincipal("apigateway.amazonaws.com"),
            description="Lets API Gateway report usage to AWS Marketplace",
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
        self._acknowledge(role, "role for any resource", "role")
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
