"""What the bill rests on: a line of each call to the API that is sold, and the usage events of its backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.alarms import runbook_alarm
from marketplace_constructs.infrastructure.delivery_stream import (
    MAX_NAME,
    delivery_stream,
    stream_alarms,
    stream_metric,
)
from marketplace_constructs.infrastructure.security_log import security_log
from marketplace_constructs.infrastructure.tokens import (
    asked_once,
    days,
    hours,
    minutes,
    node_of,
    resources_of_type,
    seconds,
    seconds_of,
    stack_of,
)
from marketplace_constructs.infrastructure.usage_events import EVENTS_PREFIX, UsageEvents
from marketplace_constructs.queries.access_log import FORMAT

LINE: Final = f"{FORMAT}\n"
"""The stage's format. API Gateway ends no line by itself, and Firehose puts record after record."""
MAX_FORMAT_BYTES: Final = 3 * 1024
"""Source: API Gateway quotas, access log format (read 2026-11-21)."""
LOG_PREFIX: Final = "access-log/"
QUARANTINE_PREFIX: Final = "quarantine/"
NAME_PREFIX: Final = "amazon-apigateway-"
"""API Gateway writes to no other streams. Source: API Gateway developer guide, Logging API calls to Amazon Data
Firehose (read 2026-11-22)."""
_DEFAULT_RETENTION_DAYS: Final = 400
_MIN_RETENTION_DAYS: Final = 35
_MAX_RETENTION_DAYS: Final = 36_500
_BUFFERING: Final = range(60, 301)
"""Seconds. Firehose takes up to 900, and an hour is closed 15 minutes after its end."""


class AccessLog(Construct):
    """The access log of the API that is sold: one JSON line per call, from API Gateway through Firehose into S3.

    Defines the Firehose stream ``amazon-apigateway-…``, its role and log group, the bucket, and four alarms; and sets
    the stage's access log, which needs no role of the account's settings. Lines lie under
    ``access-log/YYYY/MM/DD/HH/`` by the UTC hour in which they arrived, compressed with gzip, encrypted, and are
    deleted when the retention is over. The bucket is retained whatever happens to the stack.

    A line says which key called which route under which agreement and plan, when, how long it took and what came back;
    it holds no key's value, address, header, query or path as it was called. API Gateway writes none for some calls
    that it refuses itself (413, too many 429, wrong domains, its own 500), which nobody is billed for.

    A stage that has an access log already keeps it where it is this format and goes to a Firehose stream of the same
    stack whose files can be read; then ``bucket`` is the one that it writes to, with its own retention. Any other is
    refused.

    Costs: Firehose by volume, about 0.4 KB a line in steps of 5 KB per record (0.15 USD per million lines at 0.029 USD
    per GB [UNCONF: from memory]); S3 by what is kept, 55 bytes a line; a PUT per minute. Firehose takes 1 MiB/s outside
    three Regions before it throttles, about 1,000 calls a second; ask AWS for more before that.

    Sources: Firehose developer guide, object names, quotas; API Gateway developer guide, access logging (read
    2026-11-22).

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change begins a new log.
        stage: The stage that buyers call.
        retention: How long lines are kept, 35 days to 36,500 days. Left out, 400 days. What is not billed within a day
            is lost; longer serves whoever asks about a bill.
        buffering: How long Firehose collects lines, 60 s to 300 s. Left out, 60 s.
        alarm_topic: Told of what the alarms see. Left out, they only show their state.
        removal_policy: What becomes of the log of delivery errors when it leaves the stack.

    Raises:
        MarketplaceConstructsError: MP-LOG-01 to MP-LOG-04, together.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: apigateway.Stage,
        retention: cdk.Duration | None = None,
        buffering: cdk.Duration | None = None,
        alarm_topic: sns.ITopic | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        buffering = seconds(_BUFFERING.start) if buffering is None else buffering
        refuse([*access_log_problems(stage, retention), *_buffering_problems(buffering), *_format_problems(LINE)])
        super().__init__(scope, construct_id)
        self.stage = stage
        self._alarm_topic = alarm_topic
        self._buffering = buffering
        existing = _destination_of(stage)
        files = {} if existing is None else _files_of(existing) or {}
        self.bucket: s3.IBucket = (
            self._bucket(_or_default(retention))
            if existing is None
            else s3.Bucket.from_bucket_arn(self, "Bucket", cdk.Token.as_string(files["bucketArn"]))
        )
        self.prefix: str = LOG_PREFIX if existing is None else files.get("prefix", "")
        """What stands before ``YYYY/MM/DD/HH/``."""
        self._errors = security_log(self, "DeliveryErrors", removal_policy=removal_policy)
        if existing is None:
            name = NAME_PREFIX + cdk.Names.unique_resource_name(
                self, max_length=MAX_NAME - len(NAME_PREFIX), separator="-"
            )
            self.stream = delivery_stream(
                self, name=name, bucket=self.bucket, prefix=LOG_PREFIX, errors=self._errors, buffering=buffering
            )
            resource = _stage_resource(stage)
            resource.access_log_setting = apigateway.CfnStage.AccessLogSettingProperty(
                destination_arn=self.stream.attr_arn, format=LINE
            )
        else:
            self.stream = existing
        self.usage_events: UsageEvents | None = None
        """The bus for usage events; None where no document declares any."""
        self.alarms = (
            *stream_alarms(self, self.stream, alarm_topic),
            self._silence_alarm(),
            self._gap_alarm(),
        )
        """Each names its runbook."""

    def add_usage_events(self, names: Sequence[str]) -> UsageEvents:
        """Take in usage events of the seller's own backends, into the same bucket.

        Args:
            names: What the product's document declares under Events, sorted.
        """
        self.usage_events = UsageEvents(
            self,
            "UsageEvents",
            names=names,
            bucket=self.bucket,
            errors=self._errors,
            buffering=self._buffering,
            alarm_topic=self._alarm_topic,
        )
        self.alarms = (*self.alarms, *self.usage_events.alarms)
        return self.usage_events

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody list and read the lines and the usage events."""
        listed = iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.bucket.bucket_arn]
        )
        return listed.combine(
            iam.Grant.add_to_principal(grantee=grantee, actions=["s3:GetObject"], resource_arns=self.readable_arns())
        )

    def grant_quarantine(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody put lines aside that cannot be read."""
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:PutObject"], resource_arns=[self.quarantine_arn()]
        )

    def readable_arns(self) -> list[str]:
        """What ``grant_read`` is about: lines, and usage events where there are any."""
        prefixes = [self.prefix] if self.usage_events is None else [self.prefix, EVENTS_PREFIX]
        return [self.bucket.arn_for_objects(f"{prefix}*") for prefix in prefixes]

    def quarantine_arn(self) -> str:
        """What ``grant_quarantine`` is about."""
        return self.bucket.arn_for_objects(f"{QUARANTINE_PREFIX}*")

    def metric_incoming_records(
        self, *, period: cdk.Duration | None = None, statistic: str = "Sum"
    ) -> cloudwatch.Metric:
        """Lines that Firehose took (IncomingRecords)."""
        return stream_metric(self.stream, "IncomingRecords", statistic, period)

    def metric_data_freshness(
        self, *, period: cdk.Duration | None = None, statistic: str = "Maximum"
    ) -> cloudwatch.Metric:
        """Age of the oldest line that is not in S3 yet, in seconds (DeliveryToS3.DataFreshness)."""
        return stream_metric(self.stream, "DeliveryToS3.DataFreshness", statistic, period)

    def _bucket(self, retention: cdk.Duration) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Bucket",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            lifecycle_rules=[
                s3.LifecycleRule(
                    id="Retention",
                    abort_incomplete_multipart_upload_after=days(7),
                    expiration=retention,
                    noncurrent_version_expiration=days(_MIN_RETENTION_DAYS),
                )
            ],
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            # CloudFormation could not remove it while it holds anything, and bills rest on what it holds.
            removal_policy=cdk.RemovalPolicy.RETAIN,
            versioned=True,
        )
        policy = bucket.policy
        assert policy is not None
        # What is kept is kept under TLS.
        policy.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
        acknowledge(
            bucket,
            {
                Finding.BUCKET_ACCESS_LOG: "Firehose and the meter alone may use it, and CloudTrail's data events say "
                "who did where an account has them",
                Finding.BUCKET_REPLICATION: "what it holds is billed within hours; versions keep what somebody deletes",
                Finding.CUSTOMER_KEY_OF_BUCKET: "encrypted with S3's own keys; a customer key that somebody disables "
                "would lose lines, and with them revenue",
            },
        )
        return bucket

    def _silence_alarm(self) -> cloudwatch.Alarm:
        period = minutes(15)
        return runbook_alarm(
            self,
            "Silent",
            cloudwatch.MathExpression(
                expression="IF(FILL(calls, 0) > 0 AND FILL(lines, 0) == 0, 1, 0)",
                using_metrics={
                    "calls": self.stage.metric_count(period=period, statistic="Sum"),
                    "lines": self.metric_incoming_records(period=period),
                },
                period=period,
            ),
            what="API Gateway counts calls, and its access log has no line of them; they cannot be billed",
            runbook="calls-without-lines",
            # A call of one period's last second has its line in the next.
            evaluation_periods=2,
            alarm_topic=self._alarm_topic,
        )

    def _gap_alarm(self) -> cloudwatch.Alarm:
        period = hours(1)
        return runbook_alarm(
            self,
            "Incomplete",
            cloudwatch.MathExpression(
                # Lines of refused calls stand on one side alone, so that what has no line, such as many 429, never
                # alarms; a twentieth and ten calls are the lines that an hour hands to the next.
                expression="IF(FILL(calls, 0) - FILL(refused, 0) - FILL(failed, 0) > 1.05 * FILL(lines, 0) + 10, 1, 0)",
                using_metrics={
                    "calls": self.stage.metric_count(period=period, statistic="Sum"),
                    "refused": self.stage.metric_client_error(period=period, statistic="Sum"),
                    "failed": self.stage.metric_server_error(period=period, statistic="Sum"),
                    "lines": self.metric_incoming_records(period=period),
                },
                period=period,
            ),
            what="API Gateway served more calls than its access log has lines; the rest cannot be billed",
            runbook="calls-without-lines",
            evaluation_periods=2,
            alarm_topic=self._alarm_topic,
        )


def access_log_problems(stage: apigateway.Stage, retention: cdk.Duration | None) -> Iterator[Problem]:
    """All that is wrong with the stage's own access log, and with how long lines are kept."""
    resource = _stage_resource(stage)
    setting = _setting_of(resource)
    if setting is not None:
        found = _destination_of(stage)
        files = None if found is None else _files_of(found)
        if setting.get("format") != LINE or files is None:
            why = (
                "another format"
                if setting.get("format") != LINE
                else "a destination other than a Firehose stream of the stack"
                if found is None
                else f"the stream {found.node.path}, whose files the meter cannot read"
            )
            yield Problem(
                "MP-LOG-01",
                f"access log of stage {resource.node.path}, got {why}; expected none, or the format of "
                "marketplace_constructs.queries.access_log and a line's end, to a Firehose stream of the stack that "
                "writes plain JSON lines into S3 by Firehose's own hours, since a stage has one access log and the "
                "bill rests on it; remove the stage's access_log_destination and access_log_format, and read "
                "AccessLog.bucket instead",
            )
    retention = _or_default(retention)
    kept = seconds_of(retention)
    kept_days = None if kept is None else kept / 86_400
    if kept_days is None or not _MIN_RETENTION_DAYS <= kept_days <= _MAX_RETENTION_DAYS or kept_days % 1:
        yield Problem(
            "MP-LOG-02",
            f"retention of the access log, got {'a token' if kept_days is None else f'{kept_days:g} days'}; expected "
            f"{_MIN_RETENTION_DAYS} to {_MAX_RETENTION_DAYS:,} whole days, known at synthesis, so that a month's bill "
            f"can be explained; leave it out for {_DEFAULT_RETENTION_DAYS}",
        )


def _or_default(retention: cdk.Duration | None) -> cdk.Duration:
    return days(_DEFAULT_RETENTION_DAYS) if retention is None else retention


def _buffering_problems(buffering: cdk.Duration) -> Iterator[Problem]:
    waits = seconds_of(buffering)
    if waits is None or waits not in _BUFFERING:
        yield Problem(
            "MP-LOG-03",
            f"buffering of the access log, got {'a token' if waits is None else f'{waits:g} s'}; expected "
            f"{_BUFFERING.start} to {_BUFFERING[-1]} s, known at synthesis, since an hour is closed a quarter of an "
            "hour after its end; leave it out for 60 s",
        )


def _format_problems(line: str) -> Iterator[Problem]:
    size = len(line.encode())
    if size > MAX_FORMAT_BYTES:
        yield Problem(
            "MP-LOG-04",
            f"access-log format, got {size:,} bytes; expected at most {MAX_FORMAT_BYTES:,}, as API Gateway takes; "
            "remove members from marketplace_constructs.queries.access_log",
        )


@asked_once
def _stage_resource(stage: apigateway.Stage) -> apigateway.CfnStage:
    resource = node_of(stage).default_child
    assert isinstance(resource, apigateway.CfnStage)
    return resource


def _setting_of(resource: apigateway.CfnStage) -> Mapping[str, Any] | None:
    if resource.access_log_setting is None:
        return None
    setting = stack_of(resource).resolve(resource.access_log_setting)
    return setting if isinstance(setting, dict) else {}


def _destination_of(stage: apigateway.Stage) -> firehose.CfnDeliveryStream | None:
    """The Firehose stream of the stack that the stage's access log goes to."""
    resource = _stage_resource(stage)
    setting = _setting_of(resource)
    if setting is None:
        return None
    stack = stack_of(resource)
    for found in resources_of_type(stack, "AWS::KinesisFirehose::DeliveryStream"):
        assert isinstance(found, firehose.CfnDeliveryStream)
        if stack.resolve(found.attr_arn) == setting.get("destinationArn"):
            return found
    return None


def _files_of(stream: firehose.CfnDeliveryStream) -> Mapping[str, Any] | None:
    """Where a stream puts its files; None where they are not JSON lines by Firehose's own hours."""
    settings = stack_of(stream).resolve(stream.extended_s3_destination_configuration)
    if not isinstance(settings, dict):
        return None
    prefix = settings.get("prefix", "")
    changes = [settings.get(name) for name in ("dataFormatConversionConfiguration", "dynamicPartitioningConfiguration")]
    is_plain = (
        isinstance(prefix, str)
        and "!{" not in prefix
        and settings.get("compressionFormat", "UNCOMPRESSED") in {"GZIP", "UNCOMPRESSED"}
        and not any(change for change in changes)
        and not (settings.get("processingConfiguration") or {}).get("enabled")
        and settings.get("customTimeZone", "UTC") == "UTC"
    )
    return settings if is_plain else None
