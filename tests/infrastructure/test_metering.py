from __future__ import annotations

import base64
import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from templates import MakeApp, Template, as_list, backend, environment, show, small_api
from written_pools import NATIVE, plan, policy, price_list, product, write_pool

from marketplace_constructs import (
    Category,
    Dimension,
    DimensionType,
    MarketplaceConstructsError,
    Metering,
    MeteringRules,
    Monetization,
    PricingModel,
    Product,
    SellableApi,
    Throttle,
)
from marketplace_constructs.bundles import LAMBDA, bundle_path, this_machine
from marketplace_constructs.domain.metering_rules import RUNS_EVERY
from marketplace_constructs.domain.plan_table import NO_LIMIT, LineState, PlanTable
from marketplace_constructs.infrastructure.metering import MeterSize
from marketplace_constructs.runtime.settings import AgreementsSettings, GateSettings, MeterSettings

CONCURRENT = Product.concurrent("concurrent123", dimensions=[Dimension.requests("calls")], metering_region="eu-west-1")
LEGACY = Product.legacy("legacy123")
TOPIC = "arn:aws:sns:us-east-1:111122223333:woken"
OF_EACH_RUN = {"HourNotClosed", "LinesQuarantined", "LinesUnmatched", "LinesUnattributed", "DeadLetters"}
OF_SENDING = {
    "AgreementWithoutLicense",
    "DuplicateFromElsewhere",
    "RecordsInDoubt",
    "SendingDenied",
    "UsageExcess",
    "UsageLost",
    "UsageRecordNotSent",
}


def sell(stack: cdk.Stack, api: apigateway.IRestApi | None = None, **options: Any) -> SellableApi:
    required = {"product": CONCURRENT, "support_contact": "help@example.com"}
    return SellableApi(stack, "Sale", api=small_api(stack) if api is None else api, **{**required, **options})


def stack_of(make_app: MakeApp, name: str = "S") -> cdk.Stack:
    return cdk.Stack(make_app(), name, env=cdk.Environment(account="111122223333", region="us-east-1"))


def warnings(stack: cdk.Stack) -> str:
    found = assertions.Annotations.from_stack(stack).find_warning("*", assertions.Match.any_value())
    return "\n".join(str(message.entry.data) for message in found)


def settings_of(template: Template) -> MeterSettings:
    return MeterSettings.from_environment(environment(template.only("AWS::Lambda::Function", "MeterFunction")))


def alarms_of(template: Template) -> dict[str, dict[str, Any]]:
    found = template.of_type("AWS::CloudWatch::Alarm")
    return {
        name.removeprefix("SaleMeter")[:-8].removesuffix("Alarm"): show(alarm)["Properties"]
        for name, alarm in found.items()
        if name.startswith("SaleMeter")
    }


@pytest.fixture(scope="module")
def full(make_app: MakeApp) -> tuple[Template, SellableApi]:
    """Every prop of metering, with values of their own, and a product without documents."""
    stack = stack_of(make_app, "Full")
    api = small_api(stack)
    sale = sell(
        stack,
        api,
        free_routes=["GET /v1/health"],
        throttle=Throttle(rate_limit=31, burst_limit=32),
        expected_lines_per_hour=10_000_000,
        metering_rules=MeteringRules(
            decimals=3,
            sends_zero=False,
            window=timedelta(hours=23),
            month_end_hours=5,
            final_window=timedelta(minutes=52),
            final_flush=timedelta(minutes=31),
        ),
        access_log_retention=cdk.Duration.days(411),
        ledger_retention=cdk.Duration.days(555),
        meter_concurrency=2,
        alarm_topic=sns.Topic.from_topic_arn(stack, "Topic", TOPIC),
    )
    # After the sale, as an API may grow.
    api.root.resource_for_path("/v1/health").add_method("GET", backend())
    api.root.resource_for_path("/v1/any").add_method("ANY", backend())
    api.root.resource_for_path("/v1/items").add_cors_preflight(allow_origins=["https://example.com"])
    return Template(stack), sale


def test_a_concurrent_product_is_metered_without_further_ado(full: tuple[Template, SellableApi]) -> None:
    template, sale = full
    assert sale.meter is not None
    assert sale.access_log is not None
    assert "MP-SALE-20" not in warnings(cdk.Stack.of(sale))
    rule = template.only("AWS::Events::Rule", "MeterSchedule")["Properties"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(5 minutes)", "ENABLED")
    [queue] = [name for name in template.of_type("AWS::SQS::Queue") if "Meter" in name]
    assert rule["Targets"][0]["DeadLetterConfig"] == {"Arn": f"${{{queue}.Arn}}"}


def test_the_meter_is_told_where_everything_lies_and_how_aws_wants_to_be_told(
    full: tuple[Template, SellableApi],
) -> None:
    template, sale = full
    assert sale.plans is not None
    assert sale.access_log is not None
    assert sale.meter is not None
    found = settings_of(template)

    def ref(construct: Any) -> str:
        return f"${{{template.logical_id(construct)}}}"

    assert found == MeterSettings(
        product_code="concurrent123",
        agreement_kind=CONCURRENT.agreement_kind,
        pricing_model=PricingModel.SUBSCRIPTION,
        metering=Metering.PIPELINE,
        metering_region="eu-west-1",
        dimensions="calls",
        sale=sale.agreements.settings.sale,
        stack="Full",
        joins="",
        facts_table=ref(sale.agreements.facts_table),
        plans_table=ref(sale.plans.table),
        tables_bucket=ref(sale.plans.tables_bucket),
        ledger_bucket=ref(sale.meter.ledger_bucket),
        log_bucket=ref(sale.access_log.bucket),
        log_prefix="access-log/",
        watermark_minutes=15,
        decimals=3,
        sends_zero=0,
        window_hours=23,
        month_end_hours=5,
        final_window_minutes=52,
        final_flush_minutes=31,
        duckdb_memory_mb=656,
        reserve_seconds=110,
    )


def test_the_function_is_as_large_as_its_hours(full: tuple[Template, SellableApi]) -> None:
    function = full[0].only("AWS::Lambda::Function", "MeterFunction")["Properties"]
    assert function["MemorySize"] == 1344
    assert function["EphemeralStorage"] == {"Size": 2112}
    assert function["Timeout"] == 900
    assert function["ReservedConcurrentExecutions"] == 2
    assert function["Handler"] == "marketplace_constructs.runtime.metering.meter.handler"


def test_no_hour_makes_a_function_that_lambda_does_not_have() -> None:
    small, large = MeterSize.of(1), MeterSize.of(60_000_000)
    assert (small.memory_mb, small.storage_mb, small.duckdb_mb) == (1024, 1024, 256)
    assert large.memory_mb <= 10_240
    assert large.storage_mb <= 10_240
    assert large.duckdb_mb < large.memory_mb - 512
    assert large.reserve_seconds < 900 // 2
    # A default account's 36 million calls an hour get the two cores that half a minute's work was measured on.
    assert MeterSize.of(36_000_000).memory_mb > 2_500


def test_the_ledger_cannot_be_changed_lost_or_made_twice(full: tuple[Template, SellableApi]) -> None:
    bucket = full[0].only("AWS::S3::Bucket", "MeterLedger")
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    properties = bucket["Properties"]
    assert properties["ObjectLockEnabled"] is True
    assert properties["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == {"Days": 555, "Mode": "GOVERNANCE"}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert "LifecycleConfiguration" not in properties
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    # S3's names are the world's: a second stack of the product cannot have one.
    assert properties["BucketName"].startswith("metering-ledger-111122223333-eu-west-1-")
    assert len(properties["BucketName"]) <= 63


def test_the_ledgers_name_is_the_products_and_the_metering_regions(make_app: MakeApp) -> None:
    def name(sold: Product, stack_name: str = "S") -> str:
        stack = stack_of(make_app, stack_name)
        sell(stack, product=sold)
        return str(Template(stack).only("AWS::S3::Bucket", "MeterLedger")["Properties"]["BucketName"])

    other = Product.concurrent("other", dimensions=[Dimension.requests("calls")], metering_region="eu-west-1")
    assert name(CONCURRENT) == name(CONCURRENT, "Another")
    assert name(CONCURRENT) != name(other)


def test_the_meter_may_do_what_it_does_and_nothing_else(full: tuple[Template, SellableApi]) -> None:
    template, sale = full
    assert sale.plans is not None
    assert sale.access_log is not None
    assert sale.meter is not None

    def arn(construct: Any) -> str:
        return f"${{{template.logical_id(construct)}.Arn}}"

    log, ledger = arn(sale.access_log.bucket), arn(sale.meter.ledger_bucket)
    actions = template.actions("MeterFunctionRole")
    assert actions.pop("*") == {
        "aws-marketplace:BatchMeterUsage",
        "cloudtrail:LookupEvents",
        "xray:PutTelemetryRecords",
        "xray:PutTraceSegments",
    }
    assert {
        resource: a for resource, a in actions.items() if "Logs" not in resource and "DeadLetters" not in resource
    } == {
        arn(sale.agreements.facts_table): {"dynamodb:Scan"},
        arn(sale.plans.table): {"dynamodb:Scan"},
        f"{arn(sale.plans.tables_bucket)}/plan-tables/*": {"s3:GetObject"},
        log: {"s3:ListBucket"},
        f"{log}/access-log/*": {"s3:GetObject"},
        f"{log}/quarantine/*": {"s3:PutObject"},
        ledger: {"s3:ListBucket"},
        # No deletion, no retention, no versions.
        f"{ledger}/ledger/*": {"s3:GetObject", "s3:PutObject"},
    }


def test_usage_is_reported_in_the_metering_region_alone(full: tuple[Template, SellableApi]) -> None:
    policies = full[0].of_type("AWS::IAM::Policy")
    [policy] = [policy for name, policy in policies.items() if "MeterFunctionRole" in name]
    conditional = {
        action: statement["Condition"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "Condition" in statement
        for action in as_list(statement["Action"])
    }
    region = {"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}
    assert conditional == {"aws-marketplace:BatchMeterUsage": region, "cloudtrail:LookupEvents": region}


def test_each_thing_that_a_person_must_look_at_is_alarming(full: tuple[Template, SellableApi]) -> None:
    alarms = alarms_of(full[0])
    assert set(alarms) == OF_EACH_RUN | OF_SENDING
    assert {tuple(alarm["AlarmActions"]) for alarm in alarms.values()} == {(TOPIC,)}
    seen = {
        name: (alarm["MetricName"], alarm["Statistic"], alarm["Threshold"], alarm["TreatMissingData"])
        for name, alarm in alarms.items()
        if name != "DeadLetters"
    }
    quiet = "notBreaching"
    assert seen == {
        "AgreementWithoutLicense": ("AgreementWithoutLicense", "Maximum", 1, quiet),
        "DuplicateFromElsewhere": ("DuplicateFromElsewhere", "Sum", 1, quiet),
        # A meter that does not run tells nothing.
        "HourNotClosed": ("HourNotClosedFor", "Maximum", 3600, "breaching"),
        "LinesQuarantined": ("LinesQuarantined", "Sum", 1, quiet),
        "LinesUnmatched": ("LinesUnmatched", "Sum", 1, quiet),
        "LinesUnattributed": ("LinesUnattributed", "Sum", 1, quiet),
        "RecordsInDoubt": ("RecordsInDoubt", "Maximum", 1, quiet),
        "SendingDenied": ("SendingDenied", "Sum", 1, quiet),
        "UsageExcess": ("UsageExcess", "Sum", 1, quiet),
        "UsageLost": ("UsageLost", "Sum", 1, quiet),
        "UsageRecordNotSent": ("OldestUnsentRecordAge", "Maximum", 10_800, quiet),
    }


def test_alarms_go_off_while_there_is_time_to_act(full: tuple[Template, SellableApi]) -> None:
    alarms = {
        name: timedelta(seconds=alarm["Period"] * alarm["EvaluationPeriods"])
        for name, alarm in alarms_of(full[0]).items()
    }
    [function] = [f for name, f in full[0].of_type("AWS::Lambda::Function").items() if "MeterFunction" in name]
    longest = timedelta(seconds=function["Properties"]["Timeout"])
    # Silence means something once a run of the greatest length is over, and a second one that had to wait for it began.
    assert longest + RUNS_EVERY < alarms["HourNotClosed"] <= MeteringRules().last_flush - longest - RUNS_EVERY
    happened = {"LinesQuarantined", "LinesUnmatched", "LinesUnattributed", "SendingDenied", "UsageLost", "UsageExcess"}
    assert {alarms[name] for name in happened} == {RUNS_EVERY}
    assert alarms.keys() - happened - {"HourNotClosed", "DeadLetters", "DuplicateFromElsewhere"} == {
        name for name, lasting in alarms.items() if timedelta(minutes=30) <= lasting <= timedelta(hours=1)
    }


def test_every_alarm_watches_a_metric_that_the_meter_tells(full: tuple[Template, SellableApi]) -> None:
    source = "".join(path.read_text() for path in Path("marketplace_constructs/runtime/metering").glob("*.py"))
    for alarm in alarms_of(full[0]).values():
        if alarm["Namespace"] == "MarketplaceConstructs":
            assert f'"{alarm["MetricName"]}"' in source, alarm["MetricName"]


def table_of(template: Template) -> PlanTable:
    [version] = template.only("Custom::MarketplacePlans")["Properties"]["Plans"]
    assert (version["Plan"], version["AssignTo"], version["EffectiveFrom"]) == ("every-call@1", '"Default"', "")
    return PlanTable.from_text(gzip.decompress(base64.b64decode(version["Table"])).decode())


def test_without_documents_each_call_that_succeeds_counts_one_on_every_route_that_is_not_free(
    full: tuple[Template, SellableApi],
) -> None:
    template, sale = full
    table = table_of(template)
    sold = {("GET", "/v1/items")} | {
        (method, "/v1/any") for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
    }
    assert table.allowed == sold
    assert {(cell.method, cell.path) for cell in table.cells} == sold
    billable = [cell for cell in table.cells if cell.state is LineState.BILLABLE]
    assert {(c.dimension, c.metric, c.multiply, c.base_units, c.round_up, c.status) for c in billable} == {
        ("calls", "requests", 1, 1, 1, (200, 300))
    }
    failed = {cell.status for cell in table.cells if cell.state is LineState.FAILED}
    assert failed == {(0, 200), (300, NO_LIMIT)}
    assert len(table.cells) == 3 * len(sold)
    assert (table.channel, table.product) == ("Marketplace", "concurrent123")
    [usage_plan] = template.of_type("AWS::ApiGateway::UsagePlan")
    [version] = template.only("Custom::MarketplacePlans")["Properties"]["Plans"]
    # The usage plan stays where it was, with its limits: every buyer's key is in it.
    assert version["UsagePlanId"] == f"${{{usage_plan}}}"
    assert usage_plan == "SaleUsagePlan630D2428"
    assert template.only("AWS::ApiGateway::UsagePlan")["Properties"]["Throttle"] == {"RateLimit": 31, "BurstLimit": 32}
    assert sale.plans is not None
    assert sale.plans.allowed_routes() == {f"{method} {path}" for method, path in sold}


def test_the_gate_and_the_functions_that_open_it_know_of_the_one_plan(full: tuple[Template, SellableApi]) -> None:
    template, sale = full
    assert sale.plans is not None
    table = f"${{{template.logical_id(sale.plans.table)}}}"
    gate = environment(template.only("AWS::Lambda::Function", "GateFunction"))
    assert GateSettings.from_environment(gate).plans_table == table
    for name in ("Reconciliation", "OnboardingFunction", "SubscriptionEventsFunction"):
        found = AgreementsSettings.from_environment(environment(template.only("AWS::Lambda::Function", name)))
        assert found.plans_table == table


def test_documents_are_metered_by_their_own_tables(make_app: MakeApp, tmp_path: Path) -> None:
    stack = stack_of(make_app)
    monetization = Monetization.from_directory(write_pool(tmp_path), product_code="items123")
    sale = sell(stack, product=None, monetization=monetization)
    template = Template(stack)
    assert sale.plans is not None
    assert settings_of(template).plans_table == f"${{{template.logical_id(sale.plans.table)}}}"
    [version] = template.only("Custom::MarketplacePlans")["Properties"]["Plans"]
    assert version["Plan"] == "retail@1"


def test_a_legacy_product_with_a_pipeline_is_metered_too(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    sell(stack, product=Product.legacy("legacy123", metering=Metering.PIPELINE))
    template = Template(stack)
    assert settings_of(template).metering is Metering.PIPELINE
    assert table_of(template).cells[0].dimension == "apigateway"
    assert "aws-marketplace:BatchMeterUsage" in template.actions("MeterFunctionRole")["*"]


def test_native_metering_keeps_no_log_unless_it_is_asked_to(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    sale = sell(stack, product=LEGACY)
    template = Template(stack)
    assert (sale.meter, sale.access_log, sale.plans) == (None, None, None)
    assert not template.of_type("AWS::KinesisFirehose::DeliveryStream")
    assert not template.of_type("AWS::S3::Bucket")
    stages = template.of_type("AWS::ApiGateway::Stage").values()
    assert [stage for stage in stages if "AccessLogSetting" in stage["Properties"]] == []


def test_native_metering_with_reports_works_usage_out_and_may_send_nothing(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    sell(stack, product=LEGACY, report_usage=True)
    template = Template(stack)
    assert settings_of(template).metering is Metering.NATIVE
    assert template.actions("MeterFunctionRole")["*"] == {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
    assert set(alarms_of(template)) == OF_EACH_RUN
    assert template.of_type("Custom::MarketplaceProductCode")


def test_native_documents_with_reports_are_worked_out_too(make_app: MakeApp, tmp_path: Path) -> None:
    stack = stack_of(make_app)
    documents = (product(**NATIVE), policy(dimension="apigateway"), plan(), price_list(apigateway="0.001"))
    pool = write_pool(tmp_path, *documents)
    monetization = Monetization.from_directory(pool, product_code="items123")
    assert sell(stack, product=None, monetization=monetization, report_usage=True).meter is not None


def test_a_ledger_that_there_is_already_is_gone_on_with(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    sell(
        stack,
        ledger_bucket=s3.Bucket.from_bucket_name(stack, "Former", "metering-ledger-former"),
        joins_ledger_of="FormerStack",
        meter_concurrency=None,
    )
    template = Template(stack)
    assert not [name for name in template.of_type("AWS::S3::Bucket") if "Ledger" in name]
    found = settings_of(template)
    assert (found.ledger_bucket, found.joins, found.stack) == ("metering-ledger-former", "FormerStack", "S")
    allowed = template.actions("MeterFunctionRole")
    [ledger] = [resource for resource in allowed if resource.endswith(":s3:::metering-ledger-former/ledger/*")]
    assert allowed[ledger] == {"s3:GetObject", "s3:PutObject"}
    assert "ReservedConcurrentExecutions" not in template.only("AWS::Lambda::Function", "MeterFunction")["Properties"]


SEVERAL = Product.concurrent("several123", dimensions=[Dimension.requests("calls"), Dimension.requests("searches")])
GIGABYTES = Product.concurrent("data123", dimensions=[Dimension(key="data", category=Category.DATA)])
SEATS = Product.concurrent(
    "seats123",
    dimensions=[Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)],
    pricing_model=PricingModel.CONTRACT,
)


@pytest.mark.parametrize(
    ("sold", "got"), [(SEVERAL, "the usage dimensions calls, searches"), (GIGABYTES, "the usage dimensions data")]
)
def test_usage_that_nothing_says_how_to_count_is_not_said_to_be_billed(
    make_app: MakeApp, sold: Product, got: str
) -> None:
    stack = stack_of(make_app)
    assert sell(stack, product=sold).meter is None
    Template(stack)
    assert f"MP-SALE-20: usage of product {sold.product_code} is not billed: got {got}" in warnings(stack)


def test_a_contract_alone_has_nothing_to_meter_and_no_warning(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    assert sell(stack, product=SEATS).meter is None
    Template(stack)
    assert "MP-SALE-20" not in warnings(stack)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"expected_lines_per_hour": 0}, "MP-METER-10.*got 0"),
        ({"expected_lines_per_hour": 60_000_001}, "MP-METER-10.*got 60000001"),
        ({"expected_lines_per_hour": True}, "MP-METER-10.*got True"),
        ({"ledger_retention": cdk.Duration.days(364)}, "MP-METER-11.*got 364 days"),
        ({"joins_ledger_of": "Former"}, "MP-METER-12.*'Former'"),
        ({"metering_rules": MeteringRules(decimals=7)}, "MP-METER-14.*got 7 decimals"),
        ({"metering_rules": MeteringRules(final_flush=timedelta(minutes=41))}, "MP-METER-14.*0:41:00.*after 0:40:00"),
        ({"access_log_retention": cdk.Duration.days(1)}, "MP-LOG-02.*got 1 days"),
        ({"report_usage": True}, "MP-SALE-17.*concurrent123"),
    ],
)
def test_fails_when_a_prop_of_metering_contradicts(make_app: MakeApp, options: dict[str, Any], code: str) -> None:
    with pytest.raises(MarketplaceConstructsError, match=code):
        sell(stack_of(make_app), **options)


def test_fails_when_a_route_cannot_be_known(make_app: MakeApp) -> None:
    stack = stack_of(make_app)
    api = small_api(stack)
    sell(stack, api)
    apigateway.CfnMethod(
        api.root, "Bare", http_method="GET", resource_id=api.rest_api_root_resource_id, rest_api_id=api.rest_api_id
    )
    with pytest.raises(RuntimeError, match=r"MP-SALE-15.*Bare.*add_method"):
        cdk.App.of(stack).synth()  # type: ignore[union-attr]


def test_fails_when_a_product_has_two_meters(make_app: MakeApp) -> None:
    app = make_app()
    for name in ("First", "Second"):
        stack = cdk.Stack(app, name)
        sell(stack)
    with pytest.raises(RuntimeError, match=r"MP-METER-15.*concurrent123.*one API"):
        app.synth()


def test_a_rehearsal_gets_the_bundle_that_runs_here(make_app: MakeApp) -> None:
    def asset(context: dict[str, str]) -> str:
        app = make_app()
        for key, value in context.items():
            app.node.set_context(key, value)
        stack = cdk.Stack(app, "S")
        sell(stack)
        return str(Template(stack).only("AWS::Lambda::Function", "MeterFunction")["Properties"]["Code"]["S3Key"])

    assert bundle_path("meter") == bundle_path("meter", LAMBDA) != bundle_path("meter", this_machine())
    assert asset({}) != asset({"marketplace-constructs:bundles": "this-machine"})
