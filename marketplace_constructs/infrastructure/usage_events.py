"""Usage that no call shows, as the seller's own backends tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.alarms import RUNBOOKS
from marketplace_constructs.infrastructure.dead_letters import DeadLetters
from marketplace_constructs.infrastructure.delivery_stream import MAX_NAME, delivery_stream, stream_alarms
from marketplace_constructs.infrastructure.tokens import service

EVENTS_PREFIX: Final = "usage-events/"


class UsageEvents(Construct):
    """An event bus for usage that no call shows, such as storage, told by the seller's own backends.

    Defines the bus, a rule on it, a Firehose stream into ``usage-events/YYYY/MM/DD/HH/`` of the log's bucket, and dead
    letters with an alarm. An event's ``detail`` is a CloudEvent of version 1.0, and its ``detail-type`` the event's
    name: ``id``, unlike any other of its ``source``, since events are de-duplicated by the two; ``type``, the name once
    more; ``time``, of RFC 3339, when it was used; ``subject``, the agreement; ``data.value``, a decimal number as text,
    0 or more, of at most 15 digits, and 12 behind the point. What lacks ``id``, ``source`` or a name that is declared
    is not taken in; what cannot be read otherwise, or came more than 26 hours late or 6 early, is put aside, alarmed.

    Sources: CloudEvents 1.0; EventBridge user guide, targets (read 2026-11-22).

    Args:
        scope: Where it is defined; ``AccessLog.add_usage_events`` makes it.
        construct_id: Its id; a change gives the bus another name.
        names: The events that are taken in.
        bucket: Where they go.
        errors: Where Firehose says what it could not deliver.
        buffering: How long Firehose collects events.
        alarm_topic: Told of what the alarms see. Left out, they only show their state.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        names: Sequence[str],
        bucket: s3.IBucket,
        errors: logs.ILogGroup,
        buffering: cdk.Duration,
        alarm_topic: sns.ITopic | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.names = tuple(names)
        self.bus = events.EventBus(
            self,
            "Bus",
            description="Usage that the seller's backends tell",
            event_bus_name=cdk.Names.unique_resource_name(self, max_length=128, separator="-"),
        )
        self.stream = delivery_stream(
            self,
            name=cdk.Names.unique_resource_name(self, max_length=MAX_NAME, separator="-"),
            bucket=bucket,
            prefix=EVENTS_PREFIX,
            errors=errors,
            buffering=buffering,
            ends_lines=True,
        )
        self.dead_letters = DeadLetters(
            self,
            "DeadLetters",
            alarm_description="usage events did not reach the log and are not billed: "
            f"{RUNBOOKS}#usage-events-not-delivered",
            alarm_topic=alarm_topic,
        )
        acknowledge(
            self.dead_letters.queue,
            {
                Finding.QUEUE_WITHOUT_DEAD_LETTERS: "it is where a rule's dead letters go, which the auditor does not "
                "look for; bounded by its alarm"
            },
        )
        role = iam.Role(
            self,
            "RuleRole",
            assumed_by=service("events.amazonaws.com"),
            inline_policies={
                "Deliver": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["firehose:PutRecord", "firehose:PutRecordBatch"], resources=[self.stream.attr_arn]
                        )
                    ]
                )
            },
        )
        acknowledge(role, {Finding.ROLE_INLINE_POLICY: "the policy is this role's alone, and goes with it"})
        rule = events.CfnRule(
            self,
            "Rule",
            description="Usage events to the log",
            event_bus_name=self.bus.event_bus_name,
            event_pattern={
                "detail-type": list(self.names),
                "detail": {
                    "specversion": ["1.0"],
                    "id": [{"exists": True}],
                    "source": [{"exists": True}],
                    "type": list(self.names),
                },
            },
            targets=[
                events.CfnRule.TargetProperty(
                    id="Log",
                    arn=self.stream.attr_arn,
                    role_arn=role.role_arn,
                    dead_letter_config=events.CfnRule.DeadLetterConfigProperty(arn=self.dead_letters.queue.queue_arn),
                )
            ],
        )
        self.dead_letters.queue.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[service("events.amazonaws.com")],
                actions=["sqs:SendMessage"],
                resources=[self.dead_letters.queue.queue_arn],
                conditions={"ArnEquals": {"aws:SourceArn": rule.attr_arn}},
            )
        )
        self.alarms = (self.dead_letters.alarm, *stream_alarms(self, self.stream, alarm_topic))
        """Each names its runbook."""

    def grant_put_usage_events(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let a backend tell usage."""
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["events:PutEvents"], resource_arns=[self.bus.event_bus_arn]
        )
