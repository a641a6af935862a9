"""Where it is kept who did what: registrations, keys, rotations, refusals."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_logs as logs
from constructs import Construct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge


def security_log(scope: Construct, construct_id: str, *, removal_policy: cdk.RemovalPolicy) -> logs.LogGroup:
    """A log group that keeps its events for 400 days, and that nobody deletes by accident.

    CloudWatch Logs changes no event that it has taken, and encrypts all of them. Where the log is retained,
    neither it nor a stream of it can be deleted before somebody switches the protection off, which CloudTrail
    records.

    Sources: AWS Marketplace seller guide, SaaS product guidelines: audit logs of security events are kept for at
    least a year, protected from changes; CloudWatch Logs user guide, Protecting log groups from deletion, and
    Encrypt log data (read 2026-11-21).

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change begins a new log.
        removal_policy: What becomes of it when it leaves the stack; protected where it is retained.
    """
    log_group = logs.LogGroup(
        scope,
        construct_id,
        deletion_protection_enabled=removal_policy is cdk.RemovalPolicy.RETAIN,
        removal_policy=removal_policy,
        # A year of 365 days would be too short for one with a 29 February in it.
        retention=logs.RetentionDays.THIRTEEN_MONTHS,
    )
    acknowledge(
        log_group,
        {
            Finding.CUSTOMER_KEY_OF_LOG: "encrypted with CloudWatch Logs' own key; the loss of a customer key would be "
            "the loss of the log, which holds no token, key or address"
        },
    )
    return log_group
