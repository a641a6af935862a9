"""The tables that a sale cannot do without."""

from __future__ import annotations

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.tokens import asked_once


@asked_once
def table_name(table: dynamodb.ITable) -> str:
    """The name of a table, a token."""
    return table.table_name


def sale_table(
    scope: Construct,
    construct_id: str,
    *,
    partition_key: str,
    sort_key: str | None = None,
    removal_policy: cdk.RemovalPolicy,
) -> dynamodb.Table:
    """A table that is encrypted, restorable to any second of the last 35 days, and protected where it is retained.

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change replaces the table.
        partition_key: Name of the text that items are found by.
        sort_key: Name of the text that items of one partition are ordered by. Left out, there is one item.
        removal_policy: What becomes of it when it leaves the stack.
    """
    string = dynamodb.AttributeType.STRING
    table = dynamodb.Table(
        scope,
        construct_id,
        billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
        deletion_protection=removal_policy is cdk.RemovalPolicy.RETAIN,
        encryption=dynamodb.TableEncryption.AWS_MANAGED,
        partition_key=dynamodb.Attribute(name=partition_key, type=string),
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        removal_policy=removal_policy,
        sort_key=None if sort_key is None else dynamodb.Attribute(name=sort_key, type=string),
    )
    acknowledge(
        table,
        {
            Finding.CUSTOMER_KEY_OF_TABLE: "encrypted with the account's KMS key for DynamoDB; a customer key that "
            "somebody disables would shut every buyer out",
            Finding.TABLE_BACKUP_PLAN: "restorable to any second of the last 35 days and protected from deletion; "
            "a longer backup would keep what its owner has had deleted",
        },
    )
    return table
