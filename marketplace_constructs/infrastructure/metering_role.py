"""The role with which API Gateway itself reports usage to AWS Marketplace."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_iam as iam
from constructs import Construct

from marketplace_constructs.domain.errors import Problem
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.tokens import (
    resources_of_type,
    service,
    stack_of,
    unknown_to_none,
    validate_at_synthesis,
)

ROLE_NAME: Final = "ApiGatewayMarketplaceMeteringRole"
"""API Gateway finds the role by this name alone; nothing references its ARN.

Source: API Gateway developer guide, Sell API Gateway APIs through AWS Marketplace (read 2026-11-21)."""


class MeteringRole(iam.Role):
    """The account's ``ApiGatewayMarketplaceMeteringRole``, for products that API Gateway meters itself.

    An account has one role of this name, whatever the Region, so that only one stack of an account may define
    it. Its removal ends the metering of every native product of the account.

    Args:
        scope: Where it is defined.
        construct_id: Its id.

    Raises:
        RuntimeError: At synthesis, MP-ROLE-01, where the app defines it twice in an account.

    Source: API Gateway developer guide, Sell API Gateway APIs through AWS Marketplace: name, trust and the
        two
    actions (read 2026-11-21).
    """

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(
            scope,
            construct_id,
            assumed_by=service("apigateway.amazonaws.com"),
            description="Lets API Gateway report the usage of APIs that are sold on AWS Marketplace",
            inline_policies={
                "Metering": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            # Neither action knows resources.
                            actions=["aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer"],
                            resources=["*"],
                        )
                    ]
                )
            },
            role_name=ROLE_NAME,
        )
        acknowledge(
            self,
            {
                Finding.ROLE_ANY_RESOURCE: "AWS prescribes this policy, and its two actions know no resources",
                Finding.ROLE_INLINE_POLICY: "the policy is this role's alone, and goes with it",
            },
        )
        validate_at_synthesis(self, self._problems)

    @staticmethod
    def from_account(scope: Construct, construct_id: str) -> iam.IRole:
        """The role that another stack, or somebody by hand, has defined in the account.

        Args:
            scope: Where the reference is defined.
            construct_id: Its id.
        """
        return iam.Role.from_role_name(scope, construct_id, ROLE_NAME)

    def _problems(self) -> list[Problem]:
        mine = unknown_to_none(stack_of(self).account)
        others = [
            node.node.path
            for node in resources_of_type(self.node.root, "AWS::IAM::Role")
            if isinstance(node, iam.CfnRole)
            and node.role_name == ROLE_NAME
            and node.node.path != f"{self.node.path}/Resource"
            # Stacks without an account are deployed to whichever the caller is signed in to: the same one.
            and unknown_to_none(stack_of(node).account) == mine
        ]
        if not others:
            return []
        return [
            Problem(
                "MP-ROLE-01",
                f"{ROLE_NAME} of {self.node.path}, got another in the same account, {', '.join(others)}; "
                "expected one per account; define MeteringRole once, in a stack of its own, and give the "
                "others "
                'metering_role=MeteringRole.from_account(scope, "MeteringRole"), or give stacks of different '
                "accounts their env",
            )
        ]
