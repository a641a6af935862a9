"""The relay of agreement events from us-east-1 to the Region where the product is sold."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as events_targets
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.tokens import is_token, resources_of_type, stack_of, unknown_to_none

_HOME: Final = "marketplace-constructs:relay-home"
_REGION: Final = "us-east-1"


class SubscriptionRelayStack(cdk.Stack):
    """Forwards AWS Marketplace's agreement events from us-east-1 to the default event bus of another Region.

    Defines a rule, a role and its policy, and refers to no other stack. One per home Region and account is
    enough: a second forwards every event twice, which does no harm.

    Args:
        scope: The app, or the stage of ``home``.
        construct_id: Its id.
        home: The stack that sells a product with Concurrent Agreements, outside us-east-1.

    Raises:
        MarketplaceConstructsError: MP-RELAY-01, where the home Region is us-east-1 or not known at synthesis.

    Sources: AWS Marketplace seller guide, EventBridge integration: events are sent in us-east-1; EventBridge
        user
    guide, cross-Region event buses (read 2026-11-21).
    """

    def __init__(self, scope: Construct, construct_id: str, *, home: cdk.Stack) -> None:
        if is_token(home.region) or home.region == _REGION:
            got = "a token" if is_token(home.region) else home.region
            refuse(
                [
                    Problem(
                        "MP-RELAY-01",
                        f"Region of {home.node.path}, got {got}; expected one other than {_REGION}, known at "
                        "synthesis; give the stack its env, or leave the relay out in us-east-1",
                    )
                ]
            )
        super().__init__(
            scope,
            construct_id,
            description=f"Forwards AWS Marketplace's agreement events to {home.region}",
            env=cdk.Environment(account=unknown_to_none(home.account), region=_REGION),
        )
        self.node.add_metadata(_HOME, home.node.path)
        bus = events.EventBus.from_event_bus_arn(
            self,
            "Home",
            f"arn:{self.partition}:events:{home.region}:{self.account}:event-bus/default",
        )
        rule = events.Rule(
            self,
            "Agreements",
            description="AWS Marketplace's agreement events of every kind",
            event_pattern=events.EventPattern(source=["aws.agreement-marketplace"]),
            targets=[events_targets.EventBus(bus)],
        )
        # CDK makes the target's role below the rule.
        acknowledge(rule, {Finding.ROLE_INLINE_POLICY: "the policy is the rule's role's alone, and goes with it"})


def has_relay(home: cdk.Stack) -> bool:
    """Whether the app has a relay for a stack."""
    stacks = {stack_of(rule) for rule in resources_of_type(home.node.root, "AWS::Events::Rule")}
    return any(
        entry.type == _HOME and entry.data == home.node.path
        for stack in stacks
        if isinstance(stack, SubscriptionRelayStack)
        for entry in stack.node.metadata
    )
