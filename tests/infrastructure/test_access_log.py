from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from templates import ROOT, MakeApp, Template, show, small_api
from written_pools import product, write_pool

from marketplace_constructs import AccessLog, MarketplaceConstructsError, Monetization, SellableApi
from marketplace_constructs.infrastructure import access_log
from marketplace_constructs.queries.access_log import FIELDS, FORMAT

TOPIC = "arn:aws:sns:us-east-1:111122223333:woken"
SOLD = {**product(), "Events": {"storage": {"Unit": "GB-hours"}, "exports": {}}}


@pytest.fixture(scope="module")
def logged(make_app: MakeApp) -> tuple[Template, AccessLog]:
    """Every prop, with values of their own."""
    stack = cdk.Stack(make_app(), "Logged")
    api = small_api(stack)
    log = AccessLog(
        stack,
        "AccessLog",
        stage=api.deployment_stage,
        retention=cdk.Duration.days(41),
        buffering=cdk.Duration.seconds(222),
        alarm_topic=sns.Topic.from_topic_arn(stack, "Topic", TOPIC),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    log.grant_read(iam.Role(stack, "Reader", assumed_by=iam.AccountRootPrincipal()))
    log.grant_quarantine(iam.Role(stack, "Sorter", assumed_by=iam.AccountRootPrincipal()))
    return Template(stack), log


def destination(template: Template, part: str = "") -> dict[str, Any]:
    stream = template.only("AWS::KinesisFirehose::DeliveryStream", part)
    found: dict[str, Any] = stream["Properties"]["ExtendedS3DestinationConfiguration"]
    return found


def test_the_stage_writes_each_call_as_one_line_of_the_format_that_bills(logged: tuple[Template, AccessLog]) -> None:
    template, _ = logged
    [stream] = template.of_type("AWS::KinesisFirehose::DeliveryStream")
    setting = template.only("AWS::ApiGateway::Stage")["Properties"]["AccessLogSetting"]
    assert setting["DestinationArn"] == f"${{{stream}.Arn}}"
    # API Gateway ends no line: without its own end, Firehose would write a file of one line.
    assert setting["Format"] == f"{FORMAT}\n"
    assert json.loads(setting["Format"]) == dict(FIELDS)


def test_lines_come_into_hours_of_one_bucket_compressed(logged: tuple[Template, AccessLog]) -> None:
    template, log = logged
    stream = template.only("AWS::KinesisFirehose::DeliveryStream")["Properties"]
    # API Gateway writes to no other names.
    assert stream["DeliveryStreamName"].startswith("amazon-apigateway-")
    assert len(stream["DeliveryStreamName"]) <= 64
    assert stream["DeliveryStreamEncryptionConfigurationInput"] == {"KeyType": "AWS_OWNED_CMK"}
    found = destination(template)
    assert found["BucketARN"] == f"${{{template.logical_id(log.bucket)}.Arn}}"
    assert found["CompressionFormat"] == "GZIP"
    # Firehose adds YYYY/MM/DD/HH/ of UTC to a prefix without expressions.
    assert (found["Prefix"], found["ErrorOutputPrefix"]) == ("access-log/", "errors/access-log/")
    assert log.prefix == "access-log/"
    assert found["BufferingHints"]["IntervalInSeconds"] == 222
    assert found["CloudWatchLoggingOptions"]["Enabled"] is True
    assert "ProcessingConfiguration" not in found


def test_lines_are_private_kept_as_long_as_said_and_survive_the_stack(logged: tuple[Template, AccessLog]) -> None:
    bucket = logged[0].only("AWS::S3::Bucket")
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")
    properties = bucket["Properties"]
    [rule] = properties["LifecycleConfiguration"]["Rules"]
    assert (rule["ExpirationInDays"], rule["Status"]) == (41, "Enabled")
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert "BucketEncryption" in properties
    [statement] = logged[0].only("AWS::S3::BucketPolicy")["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_firehose_may_write_its_own_folders_and_nothing_else(logged: tuple[Template, AccessLog]) -> None:
    template, log = logged
    bucket = f"${{{template.logical_id(log.bucket)}.Arn}}"
    [errors] = template.of_type("AWS::Logs::LogGroup")
    files = {"s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"}
    assert template.actions("StreamRole") == {
        bucket: {"s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"},
        f"{bucket}/access-log/*": files,
        f"{bucket}/errors/access-log/*": files,
        f"${{{errors}.Arn}}": {"logs:PutLogEvents"},
    }


def test_readers_read_and_the_meter_puts_aside(logged: tuple[Template, AccessLog]) -> None:
    template, log = logged
    bucket = f"${{{template.logical_id(log.bucket)}.Arn}}"
    assert template.actions("Reader") == {bucket: {"s3:ListBucket"}, f"{bucket}/access-log/*": {"s3:GetObject"}}
    assert template.actions("Sorter") == {f"{bucket}/quarantine/*": {"s3:PutObject"}}


def test_an_alarm_goes_off_before_lines_are_lost_and_where_they_are(logged: tuple[Template, AccessLog]) -> None:
    template, _ = logged
    alarms = {
        name.removeprefix("AccessLog")[:-8]: show(alarm)["Properties"]
        for name, alarm in template.of_type("AWS::CloudWatch::Alarm").items()
    }
    assert set(alarms) == {"Throttled", "NearLimit", "Late", "Silent", "Incomplete"}
    assert all(alarm["AlarmActions"] == alarm["OKActions"] == [TOPIC] for alarm in alarms.values())
    throttled, late = alarms["Throttled"], alarms["Late"]
    assert (throttled["MetricName"], throttled["Statistic"], throttled["Threshold"]) == ("ThrottledRecords", "Sum", 1)
    assert (late["MetricName"], late["Threshold"]) == ("DeliveryToS3.DataFreshness", 600)
    near = {m["Id"]: m for m in alarms["NearLimit"]["Metrics"]}
    assert {m["MetricStat"]["Metric"]["MetricName"] for m in near.values() if "MetricStat" in m} == {
        "BytesPerSecondLimit",
        "IncomingBytes",
        "IncomingRecords",
        "RecordsPerSecondLimit",
    }
    assert alarms["NearLimit"]["Threshold"] == 80


def test_calls_that_the_gateway_counts_and_the_log_does_not_have_are_alarming(
    logged: tuple[Template, AccessLog],
) -> None:
    alarm = logged[0].only("AWS::CloudWatch::Alarm", "Silent")["Properties"]
    metrics = {m["Id"]: m for m in alarm["Metrics"]}
    [(expression, _)] = [(m["Expression"], m) for m in metrics.values() if "Expression" in m]
    assert expression == "IF(FILL(calls, 0) > 0 AND FILL(lines, 0) == 0, 1, 0)"
    calls, lines = (metrics[name]["MetricStat"] for name in ("calls", "lines"))
    assert (calls["Metric"]["Namespace"], calls["Metric"]["MetricName"]) == ("AWS/ApiGateway", "Count")
    assert {d["Name"] for d in calls["Metric"]["Dimensions"]} == {"ApiName", "Stage"}
    assert (lines["Metric"]["Namespace"], lines["Metric"]["MetricName"]) == ("AWS/Firehose", "IncomingRecords")
    assert calls["Period"] == lines["Period"] == 900
    assert calls["Stat"] == lines["Stat"] == "Sum"


def test_calls_that_were_served_and_have_no_line_are_alarming_though_others_have_one(
    logged: tuple[Template, AccessLog],
) -> None:
    alarm = logged[0].only("AWS::CloudWatch::Alarm", "Incomplete")["Properties"]
    named = {m["Id"]: m["MetricStat"] for m in alarm["Metrics"] if "MetricStat" in m}
    assert {name: m["Metric"]["MetricName"] for name, m in named.items()} == {
        "calls": "Count",
        "refused": "4XXError",
        "failed": "5XXError",
        "lines": "IncomingRecords",
    }
    assert {(m["Period"], m["Stat"]) for m in named.values()} == {(3600, "Sum")}
    [expression] = [m["Expression"] for m in alarm["Metrics"] if "Expression" in m]
    python = re.sub(r"FILL\((\w+), 0\)", r"\1", expression).replace("IF(", "").replace(", 1, 0)", "")

    def alarms(**counted: int) -> bool:
        return bool(eval(python, {}, {"refused": 0, "failed": 0, **counted}))  # of our own template

    assert alarms(calls=1_000, lines=900)
    assert not alarms(calls=1_000, lines=970)
    assert not alarms(calls=1_000, refused=500, lines=600)
    assert not alarms(calls=8, lines=0)


def test_left_out_props_have_their_documented_defaults(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    AccessLog(stack, "AccessLog", stage=small_api(stack).deployment_stage)
    template = Template(stack)
    assert destination(template)["BufferingHints"]["IntervalInSeconds"] == 60
    [rule] = template.only("AWS::S3::Bucket")["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["ExpirationInDays"] == 400


def written(stack: cdk.Stack, format_: str, **destination_options: Any) -> apigateway.RestApi:
    """An API whose access log goes to a stream of the seller's own."""
    bucket = s3.Bucket(stack, "Own")
    stream = firehose.CfnDeliveryStream(
        stack,
        "OwnStream",
        delivery_stream_name="amazon-apigateway-own",
        extended_s3_destination_configuration=firehose.CfnDeliveryStream.ExtendedS3DestinationConfigurationProperty(
            bucket_arn=bucket.bucket_arn,
            role_arn="arn:aws:iam::111122223333:role/firehose",
            **{"prefix": "calls/", **destination_options},
        ),
    )
    return small_api(
        stack,
        deploy_options=apigateway.StageOptions(
            access_log_destination=apigateway.FirehoseLogDestination(stream),
            access_log_format=apigateway.AccessLogFormat.custom(format_),
        ),
    )


def test_a_stage_that_writes_the_same_lines_keeps_its_own_stream_and_bucket(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    log = AccessLog(stack, "AccessLog", stage=written(stack, f"{FORMAT}\n").deployment_stage)
    log.grant_read(iam.Role(stack, "Reader", assumed_by=iam.AccountRootPrincipal()))
    template = Template(stack)
    [own] = template.of_type("AWS::S3::Bucket")
    assert list(template.of_type("AWS::KinesisFirehose::DeliveryStream")) == ["OwnStream"]
    setting = template.only("AWS::ApiGateway::Stage")["Properties"]["AccessLogSetting"]
    assert setting["DestinationArn"] == "${OwnStream.Arn}"
    assert log.prefix == "calls/"
    assert template.actions("Reader") == {
        f"${{{own}.Arn}}": {"s3:ListBucket"},
        f"${{{own}.Arn}}/calls/*": {"s3:GetObject"},
    }
    late = template.only("AWS::CloudWatch::Alarm", "Late")["Properties"]
    assert late["Dimensions"] == [{"Name": "DeliveryStreamName", "Value": "${OwnStream}"}]


@pytest.mark.parametrize(
    ("format_", "options", "why"),
    [
        (FORMAT, {}, "another format"),
        ('{"id":"$context.requestId"}\n', {}, "another format"),
        (f"{FORMAT}\n", {"prefix": "y=!{timestamp:yyyy}/"}, "whose files the meter cannot read"),
        (f"{FORMAT}\n", {"compression_format": "ZIP"}, "whose files the meter cannot read"),
        (f"{FORMAT}\n", {"custom_time_zone": "Asia/Tokyo"}, "whose files the meter cannot read"),
    ],
)
def test_fails_when_the_stage_has_an_access_log_that_cannot_bill(
    make_app: MakeApp, format_: str, options: dict[str, Any], why: str
) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = written(stack, format_, **options)
    with pytest.raises(
        MarketplaceConstructsError, match=f"MP-LOG-01.*{why}.*remove the stage's access_log_destination"
    ):
        AccessLog(stack, "AccessLog", stage=api.deployment_stage)


def test_fails_when_the_stage_writes_to_cloudwatch(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    resource = api.deployment_stage.node.default_child
    assert isinstance(resource, apigateway.CfnStage)
    resource.access_log_setting = apigateway.CfnStage.AccessLogSettingProperty(
        destination_arn="arn:aws:logs:us-east-1:111122223333:log-group:own", format=f"{FORMAT}\n"
    )
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LOG-01.*other than a Firehose stream"):
        AccessLog(stack, "AccessLog", stage=api.deployment_stage)


@pytest.mark.parametrize(
    ("options", "code", "got"),
    [
        ({"retention": cdk.Duration.days(34)}, "MP-LOG-02", "34 days"),
        ({"retention": cdk.Duration.hours(1000)}, "MP-LOG-02", "41.6667 days"),
        ({"buffering": cdk.Duration.seconds(59)}, "MP-LOG-03", "59 s"),
        ({"buffering": cdk.Duration.seconds(301)}, "MP-LOG-03", "301 s"),
    ],
)
def test_fails_when_a_duration_is_out_of_its_range(
    make_app: MakeApp, options: dict[str, Any], code: str, got: str
) -> None:
    stack = cdk.Stack(make_app(), "S")
    with pytest.raises(MarketplaceConstructsError, match=f"{code}.*got {got}"):
        AccessLog(stack, "AccessLog", stage=small_api(stack).deployment_stage, **options)


def test_fails_when_the_format_outgrows_api_gateway(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(access_log.LINE.encode()) <= 3072
    monkeypatch.setattr(access_log, "LINE", "x" * 3073)
    stack = cdk.Stack(make_app(), "S")
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LOG-04.*got 3,073 bytes"):
        AccessLog(stack, "AccessLog", stage=small_api(stack).deployment_stage)


@pytest.fixture(scope="module")
def with_events(make_app: MakeApp, tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, SellableApi]:
    stack = cdk.Stack(make_app(), "Events", env=cdk.Environment(account="111122223333", region="us-east-1"))
    pool = write_pool(tmp_path_factory.mktemp("pool"), SOLD)
    sale = SellableApi(
        stack,
        "Sale",
        api=small_api(stack),
        monetization=Monetization.from_directory(pool, product_code="items123"),
        support_contact="help@example.com",
    )
    assert sale.access_log is not None
    assert sale.access_log.usage_events is not None
    sale.access_log.usage_events.grant_put_usage_events(
        iam.Role(stack, "Backend", assumed_by=iam.AccountRootPrincipal())
    )
    return Template(stack), sale


def test_declared_usage_events_are_taken_in_and_no_others(with_events: tuple[Template, SellableApi]) -> None:
    template, _ = with_events
    rule = template.only("AWS::Events::Rule", "UsageEvents")["Properties"]
    assert rule["EventPattern"] == {
        "detail-type": ["exports", "storage"],
        "detail": {
            "specversion": ["1.0"],
            "id": [{"exists": True}],
            "source": [{"exists": True}],
            "type": ["exports", "storage"],
        },
    }
    [bus] = template.of_type("AWS::Events::EventBus")
    assert rule["EventBusName"] == f"${{{bus}}}"
    found = destination(template, "UsageEvents")
    lines = destination(template, "SaleAccessLogStream")
    assert found["Prefix"] == "usage-events/"
    assert found["BucketARN"] == lines["BucketARN"]
    # EventBridge ends no line.
    [processor] = found["ProcessingConfiguration"]["Processors"]
    assert processor["Type"] == "AppendDelimiterToRecord"


def test_a_backend_may_put_usage_events_and_nothing_else(with_events: tuple[Template, SellableApi]) -> None:
    template, _ = with_events
    [bus] = template.of_type("AWS::Events::EventBus")
    assert template.actions("Backend") == {f"${{{bus}.Arn}}": {"events:PutEvents"}}


def test_usage_events_that_cannot_be_delivered_are_kept_and_alarming(
    with_events: tuple[Template, SellableApi],
) -> None:
    template, sale = with_events
    [target] = template.only("AWS::Events::Rule", "UsageEvents")["Properties"]["Targets"]
    [queue] = [name for name in template.of_type("AWS::SQS::Queue") if "UsageEvents" in name]
    assert target["DeadLetterConfig"] == {"Arn": f"${{{queue}.Arn}}"}
    stream = template.only("AWS::KinesisFirehose::DeliveryStream", "UsageEvents")
    assert template.actions("UsageEventsRuleRole") == {target["Arn"]: {"firehose:PutRecord", "firehose:PutRecordBatch"}}
    assert stream["Properties"]["DeliveryStreamType"] == "DirectPut"
    assert sale.access_log is not None
    assert len(sale.access_log.alarms) == 9


def test_the_meter_reads_usage_events_and_puts_aside_what_it_cannot_read(
    with_events: tuple[Template, SellableApi],
) -> None:
    template, _ = with_events
    environment = template.only("AWS::Lambda::Function", "MeterFunction")["Properties"]["Environment"]["Variables"]
    assert (environment["EVENTS_PREFIX"], environment["USAGE_EVENTS"]) == ("usage-events/", "exports,storage")
    bucket = destination(template, "UsageEvents")["BucketARN"]
    granted = template.actions("MeterFunction")
    assert granted[f"{bucket}/usage-events/*"] == {"s3:GetObject"}
    assert granted[f"{bucket}/quarantine/*"] == {"s3:PutObject"}


def test_without_declared_events_there_is_no_bus(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    SellableApi(
        stack,
        "Sale",
        api=small_api(stack),
        monetization=Monetization.from_directory(write_pool(tmp_path), product_code="items123"),
        support_contact="help@example.com",
    )
    template = Template(stack)
    assert not template.of_type("AWS::Events::EventBus")
    assert len(template.of_type("AWS::KinesisFirehose::DeliveryStream")) == 1


def test_each_alarm_names_a_runbook_that_exists(
    logged: tuple[Template, AccessLog], with_events: tuple[Template, SellableApi]
) -> None:
    headings = [line[3:] for line in (ROOT / "docs/metering-runbooks.md").read_text().splitlines() if line[:3] == "## "]
    sections = {heading.lower().replace(" ", "-") for heading in headings}
    described = [
        alarm["Properties"]["AlarmDescription"]
        for template in (logged[0], with_events[0])
        for name, alarm in template.of_type("AWS::CloudWatch::Alarm").items()
        if name.startswith(("AccessLog", "SaleAccessLog", "SaleMeter"))
    ]
    assert len(described) > 15
    for text in described:
        page, _, section = text.partition(": ")[2].rpartition("#")
        assert (page, section in sections) == ("docs/metering-runbooks.md", True), text
