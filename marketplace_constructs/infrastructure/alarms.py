"""Alarms on metering, each with a runbook that its description names."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_sns as sns
from constructs import Construct

RUNBOOKS: Final = "docs/metering-runbooks.md"


def runbook_alarm(
    scope: Construct,
    construct_id: str,
    metric: cloudwatch.Metric | cloudwatch.MathExpression,
    *,
    what: str,
    runbook: str,
    threshold: float = 1,
    evaluation_periods: int = 1,
    is_silence_alarming: bool = False,
    alarm_topic: sns.ITopic | None = None,
) -> cloudwatch.Alarm:
    """An alarm that goes off at a threshold and says where it stands what to do.

    Args:
        scope: Where it is defined.
        construct_id: Its id.
        metric: What is watched, over its own period.
        what: What has happened, for whoever is woken.
        runbook: The section of the runbooks, as its link has it.
        threshold: It goes off at this value and above.
        evaluation_periods: In so many periods one after another.
        is_silence_alarming: Whether no data is as bad as too much.
        alarm_topic: Told when it goes off and when it is over. Left out, the alarm only shows its state.
    """
    missing = cloudwatch.TreatMissingData
    alarm = metric.create_alarm(
        scope,
        construct_id,
        alarm_description=f"{what}: {RUNBOOKS}#{runbook}",
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        evaluation_periods=evaluation_periods,
        threshold=threshold,
        treat_missing_data=missing.BREACHING if is_silence_alarming else missing.NOT_BREACHING,
    )
    if alarm_topic is not None:
        action = cloudwatch_actions.SnsAction(alarm_topic)
        alarm.add_alarm_action(action)
        alarm.add_ok_action(action)
    return alarm
