"""A Firehose stream into hour folders of a bucket, and what is watched about it."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesisfirehose as firehose
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge, acknowledge_wildcards
from marketplace_constructs.infrastructure.alarms import runbook_alarm
from marketplace_constructs.infrastructure.tokens import asked_once, minutes, seconds_of, service

MAX_NAME: Final = 64
"""Characters of a stream's name. Source: botocore 1.44.5, firehose 2015-08-04, DeliveryStreamName (read 2026-11-22)."""
ERRORS_PREFIX: Final = "errors/"
_BUFFER_MB: Final = 64
_LATE_SECONDS: Final = 600
_NEAR_LIMIT_PERCENT: Final = 80


def delivery_stream(
    scope: Construct,
    *,
    name: str,
    bucket: s3.IBucket,
    prefix: str,
    errors: logs.ILogGroup,
    buffering: cdk.Duration,
    ends_lines: bool = False,
) -> firehose.CfnDeliveryStream:
    """A stream that collects records and writes them under ``<prefix>YYYY/MM/DD/HH/``, compressed with gzip.

    Args:
        scope: Of the stream, its role and its log stream alone.
        name: Its physical name.
        bucket: Where files go.
        prefix: How their names begin.
        errors: Where Firehose says what it could not deliver.
        buffering: How long records are collected, where they are not 64 MB before.
        ends_lines: Whether Firehose puts a line's end after each record.

    Source: Firehose developer guide, Grant Firehose access to an Amazon S3 destination (read 2026-11-22).
    """
    log_stream = logs.LogStream(scope, "ErrorStream", log_group=errors, removal_policy=cdk.RemovalPolicy.DESTROY)
    objects = [bucket.arn_for_objects(f"{each}*") for each in (prefix, f"{ERRORS_PREFIX}{prefix}")]
    role = iam.Role(
        scope,
        "StreamRole",
        assumed_by=service("firehose.amazonaws.com"),
        # Firehose looks at once whether it may; a policy of its own would come too late.
        inline_policies={
            "Deliver": iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        actions=["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
                        resources=[bucket.bucket_arn],
                    ),
                    iam.PolicyStatement(
                        actions=["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"], resources=objects
                    ),
                    iam.PolicyStatement(actions=["logs:PutLogEvents"], resources=[errors.log_group_arn]),
                ]
            )
        },
    )
    acknowledge(role, {Finding.ROLE_INLINE_POLICY: "the policy is this role's alone, and goes with it"})
    why = "the names of files are Firehose's own; bounded by the stream's prefixes"
    acknowledge_wildcards(role, dict.fromkeys(objects, why) | {errors.log_group_arn: "the log group's own streams"})
    properties = firehose.CfnDeliveryStream
    return firehose.CfnDeliveryStream(
        scope,
        "Stream",
        delivery_stream_encryption_configuration_input=properties.DeliveryStreamEncryptionConfigurationInputProperty(
            key_type="AWS_OWNED_CMK"
        ),
        delivery_stream_name=name,
        delivery_stream_type="DirectPut",
        extended_s3_destination_configuration=properties.ExtendedS3DestinationConfigurationProperty(
            bucket_arn=bucket.bucket_arn,
            buffering_hints=properties.BufferingHintsProperty(
                interval_in_seconds=seconds_of(buffering), size_in_m_bs=_BUFFER_MB
            ),
            cloud_watch_logging_options=properties.CloudWatchLoggingOptionsProperty(
                enabled=True, log_group_name=errors.log_group_name, log_stream_name=log_stream.log_stream_name
            ),
            compression_format="GZIP",
            error_output_prefix=f"{ERRORS_PREFIX}{prefix}",
            prefix=prefix,
            # EventBridge ends no line either.
            processing_configuration=properties.ProcessingConfigurationProperty(
                enabled=True,
                processors=[
                    properties.ProcessorProperty(
                        type="AppendDelimiterToRecord",
                        parameters=[
                            properties.ProcessorParameterProperty(parameter_name="Delimiter", parameter_value="\\n")
                        ],
                    )
                ],
            )
            if ends_lines
            else None,
            role_arn=role.role_arn,
        ),
    )


def stream_metric(
    stream: firehose.CfnDeliveryStream, name: str, statistic: str, period: cdk.Duration | None = None
) -> cloudwatch.Metric:
    """A metric of a stream.

    Source: Firehose developer guide, Monitoring with CloudWatch metrics (read 2026-11-22).
    """
    return cloudwatch.Metric(
        namespace="AWS/Firehose",
        metric_name=name,
        dimensions_map={"DeliveryStreamName": _ref(stream)},
        period=minutes(5) if period is None else period,
        statistic=statistic,
    )


@asked_once
def _ref(stream: firehose.CfnDeliveryStream) -> str:
    return stream.ref


def stream_alarms(
    scope: Construct, stream: firehose.CfnDeliveryStream, alarm_topic: sns.ITopic | None
) -> list[cloudwatch.Alarm]:
    """What tells that a stream loses records, is about to, or keeps them back."""
    shares = cloudwatch.MathExpression(
        expression="100 * MAX([bytes / PERIOD(bytes) / byte_limit, records / PERIOD(records) / record_limit])",
        using_metrics={
            "bytes": stream_metric(stream, "IncomingBytes", "Sum"),
            "byte_limit": stream_metric(stream, "BytesPerSecondLimit", "Minimum"),
            "records": stream_metric(stream, "IncomingRecords", "Sum"),
            "record_limit": stream_metric(stream, "RecordsPerSecondLimit", "Minimum"),
        },
        period=minutes(5),
    )
    return [
        runbook_alarm(
            scope,
            "Throttled",
            stream_metric(stream, "ThrottledRecords", "Sum"),
            what="Firehose refuses lines; those that its sender does not send again cannot be billed",
            runbook="firehose-near-its-limit",
            alarm_topic=alarm_topic,
        ),
        runbook_alarm(
            scope,
            "NearLimit",
            shares,
            what=f"Firehose takes {_NEAR_LIMIT_PERCENT} % of what it may",
            runbook="firehose-near-its-limit",
            threshold=_NEAR_LIMIT_PERCENT,
            evaluation_periods=3,
            alarm_topic=alarm_topic,
        ),
        runbook_alarm(
            scope,
            "Late",
            stream_metric(stream, "DeliveryToS3.DataFreshness", "Maximum"),
            what="lines wait in Firehose and come to S3 late",
            runbook="lines-delivered-late",
            threshold=_LATE_SECONDS,
            evaluation_periods=2,
            alarm_topic=alarm_topic,
        ),
    ]
