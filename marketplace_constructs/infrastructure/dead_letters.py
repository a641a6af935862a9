"""Where messages and calls end that could not be handled, and the alarm that says so."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.tokens import days, minutes

QUEUE_KEY: Final = (
    "encrypted with SQS's own key; AWS's topics and event bus could not use a key of the account without a policy on "
    "it, and a message that cannot be sent is lost"
)
"""Why queues have no key of the account."""


class DeadLetters(Construct):
    """A queue that keeps what failed for 14 days, the longest that SQS can, and an alarm.

    Args:
        scope: Where it is defined.
        construct_id: Its id.
        alarm_description: What has happened and what to do, for whoever is woken.
        alarm_topic: Told when the alarm goes off and when it is over. Left out, the alarm only shows its
            state.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        alarm_description: str,
        alarm_topic: sns.ITopic | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            retention_period=days(14),
        )
        acknowledge(self.queue, {Finding.CUSTOMER_KEY_OF_QUEUE: QUEUE_KEY})
        self.alarm = self.queue.metric_approximate_number_of_messages_visible(
            period=minutes(5), statistic="Maximum"
        ).create_alarm(
            self,
            "Alarm",
            alarm_description=alarm_description,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        if alarm_topic is not None:
            action = cloudwatch_actions.SnsAction(alarm_topic)
            self.alarm.add_alarm_action(action)
            self.alarm.add_ok_action(action)
