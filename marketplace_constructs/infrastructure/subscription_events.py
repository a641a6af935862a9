"""What AWS Marketplace says of buyers' agreements: from its topics or events, over a queue, to a function."""

from __future__ import annotations

from typing import Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as events_targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct, IConstruct

from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.agreements import Agreements
from marketplace_constructs.infrastructure.dead_letters import QUEUE_KEY, DeadLetters
from marketplace_constructs.infrastructure.function import runtime_function
from marketplace_constructs.infrastructure.relay import has_relay
from marketplace_constructs.infrastructure.tokens import days, is_token, seconds, service, stack_of

MARKETPLACE_REGION: Final = "us-east-1"
"""Where AWS Marketplace's topics and agreement events are.

Source: AWS Marketplace seller guide, SaaS notifications and EventBridge integration (read 2026-11-21)."""

_TOPIC_OWNER: Final = "287250355862"
"""AWS's account that owns the topics.

Source: aws-samples/aws-marketplace-serverless-saas-integration, the one account that it allows
(read 2026-11-21)."""

_FUNCTION_TIMEOUT: Final = seconds(60)
_VISIBILITY_TIMEOUT: Final = seconds(360)
"""Six times the function's time, so that no message is handled twice at once.

Source: Lambda developer guide, Using Lambda with Amazon SQS (read 2026-11-21)."""
_READ_QUEUE: Final = ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage")
"""What Lambda does to the queue with the function's role; CDK's own event source would allow two actions more.

Source: SQS developer guide, Configuring a queue to trigger a Lambda function: execution role (read 2026-11-21)."""


class SubscriptionEvents(Construct):
    """Records every notification about the product's agreements as a fact, and makes access match.

    Defines a queue, its dead letters with an alarm, and a function that answers for each message by itself.
    Legacy
    products: subscriptions to AWS's topics, for entitlements too where the pricing model has contracts.
        Concurrent
    products: one rule on the default event bus. Outside us-east-1 that rule hears nothing without a
    ``SubscriptionRelayStack``; synthesis warns where the app has none.

    Args:
        scope: Where it is defined.
        construct_id: Its id; messages that are in the queue are lost when it changes.
        agreements: Where facts go.
        alarm_topic: Told of dead letters. Left out, the alarm only shows its state.
        removal_policy: What becomes of the log when it leaves the stack.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        agreements: Agreements,
        alarm_topic: sns.ITopic | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, construct_id)
        self.dead_letters = DeadLetters(
            self,
            "DeadLetters",
            alarm_description="AWS Marketplace's notifications could not be handled: read the log, then "
            "move the messages back from the dead-letter queue",
            alarm_topic=alarm_topic,
        )
        self.queue = sqs.Queue(
            self,
            "Queue",
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=5, queue=self.dead_letters.queue),
            # AWS's topics and the event bus cannot use a key of ours without a policy on it.
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=True,
            # Shorter than the dead letters', whose clock starts when a message is first sent.
            retention_period=days(4),
            visibility_timeout=_VISIBILITY_TIMEOUT,
        )
        acknowledge(self.queue, {Finding.CUSTOMER_KEY_OF_QUEUE: QUEUE_KEY})
        self.function = runtime_function(
            self,
            "Function",
            handler="marketplace_constructs.runtime.subscription_events.handler",
            description="Records AWS Marketplace's notifications and makes access match",
            timeout=_FUNCTION_TIMEOUT,
            memory_size=512,
            bounded_by="the queue that it reads, in batches of 10",
            when_it_fails="the queue that it reads has dead letters and an alarm",
            settings=agreements.settings,
            removal_policy=removal_policy,
        )
        agreements.grant_record(self.function)
        agreements.grant_settle(self.function)
        self.queue.grant(self.function, *_READ_QUEUE)
        self.function.add_event_source_mapping(
            "Queue", batch_size=10, event_source_arn=self.queue.queue_arn, report_batch_item_failures=True
        )
        if agreements.product.is_legacy:
            self._subscribe_to_topics(agreements)
        else:
            self._listen_to_bus()

    def metric_age_of_oldest_message(
        self, *, period: cdk.Duration | None = None, statistic: str = "Maximum"
    ) -> cloudwatch.Metric:
        """How long the oldest notification has waited, in seconds."""
        return self.queue.metric_approximate_age_of_oldest_message(period=period, statistic=statistic)

    def metric_dead_letters(
        self, *, period: cdk.Duration | None = None, statistic: str = "Maximum"
    ) -> cloudwatch.Metric:
        """How many notifications could not be handled."""
        return self.dead_letters.queue.metric_approximate_number_of_messages_visible(period=period, statistic=statistic)

    def _subscribe_to_topics(self, agreements: Agreements) -> None:
        stack = stack_of(self)
        product = agreements.product
        names = {"Subscription": "subscription"}
        if product.pricing_model.has_contract:
            names["Entitlement"] = "entitlement"
        topic_arns = {
            construct_id: f"arn:{stack.partition}:sns:{MARKETPLACE_REGION}:{_TOPIC_OWNER}:"
            f"aws-mp-{name}-notification-{product.product_code}"
            for construct_id, name in names.items()
        }
        may_send = self.queue.add_to_resource_policy(
            iam.PolicyStatement(
                actions=["sqs:SendMessage"],
                conditions={"ArnEquals": {"aws:SourceArn": list(topic_arns.values())}},
                principals=[service("sns.amazonaws.com")],
                resources=[self.queue.queue_arn],
            )
        )
        for construct_id, topic_arn in topic_arns.items():
            subscription = sns.CfnSubscription(
                self,
                construct_id,
                endpoint=self.queue.queue_arn,
                protocol="sqs",
                # Raw delivery would drop the time at which AWS sent the message, which orders the facts.
                raw_message_delivery=False,
                region=None if stack.region == MARKETPLACE_REGION else MARKETPLACE_REGION,
                topic_arn=topic_arn,
            )
            if may_send.policy_dependable is not None:
                subscription.node.add_dependency(may_send.policy_dependable)

    def _listen_to_bus(self) -> None:
        events.Rule(
            self,
            "Agreements",
            description="AWS Marketplace's agreement events of every kind",
            # No narrower: a kind that AWS adds is to be recorded and alarmed, not missed.
            event_pattern=events.EventPattern(source=["aws.agreement-marketplace"]),
            targets=[events_targets.SqsQueue(self.queue, dead_letter_queue=self.dead_letters.queue)],
        )
        if stack_of(self).region != MARKETPLACE_REGION:
            queue = self.queue.node.default_child
            assert queue is not None
            # The queue alone: an Aspect is called for everything below its construct.
            cdk.Aspects.of(queue).add(_WarnWithoutRelay(self), priority=cdk.AspectPriority.READONLY)


@jsii.implements(cdk.IAspect)
class _WarnWithoutRelay:
    """Looks for the relay when the app is complete, since it is defined after the stack that it serves."""

    def __init__(self, subscription_events: SubscriptionEvents) -> None:
        self._subscription_events = subscription_events

    def visit(self, _queue: IConstruct) -> None:
        node = self._subscription_events
        home = stack_of(node)
        if is_token(home.region):
            cdk.Validations.of(node).add_warning(
                "marketplace-constructs:MP-EVENTS-01",
                f"MP-EVENTS-01: the Region of {home.node.path} is not known at synthesis, and AWS "
                "Marketplace sends agreement events in us-east-1 only; deploy it there, or give the stack "
                "its env and the app a SubscriptionRelayStack",
            )
        elif not has_relay(home):
            cdk.Validations.of(node).add_warning(
                "marketplace-constructs:MP-EVENTS-02",
                f"MP-EVENTS-02: no SubscriptionRelayStack for {home.node.path}, got Region {home.region}; "
                "expected one, since AWS Marketplace sends agreement events in us-east-1 only; add "
                'SubscriptionRelayStack(app, "Relay", home=stack), or acknowledge that another app relays',
            )
