"""What is known of buyers' agreements, and the hourly function that makes access match it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as cloudwatch_actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as events_targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.domain.metrics import METRICS_NAMESPACE, metrics_dimensions
from marketplace_constructs.domain.product import Product
from marketplace_constructs.infrastructure.acknowledgements import acknowledge_wildcards
from marketplace_constructs.infrastructure.dead_letters import DeadLetters
from marketplace_constructs.infrastructure.function import role_of, runtime_function
from marketplace_constructs.infrastructure.seller import Seller
from marketplace_constructs.infrastructure.table import sale_table, table_name
from marketplace_constructs.infrastructure.tokens import hours, minutes, seconds_of, stack_of
from marketplace_constructs.infrastructure.usage_plan import control_plane_arn, usage_plan_arn
from marketplace_constructs.runtime.settings import (
    AgreementsSettings,
    ReconciliationSettings,
)

if TYPE_CHECKING:
    from marketplace_constructs.infrastructure.plans import Plans

_HOURS_A_DAY: Final = 24
_ATTENTION: Final = ("AgreementNeedsAttention", "Faults", "MalformedEvent", "ProductCodeDrift", "UnknownEvent")
"""Counts of the functions that nobody may overlook: each names itself in the log."""


class Agreements(Construct):
    """The table of facts about agreements, the buyers' contacts, and the reconciliation.

    Defines the tables of facts and of contacts (both retained, restorable to any second of the last 35 days),
    and a function that runs every hour and after every update of the stack, with dead letters and an alarm, and an
    alarm on what needs somebody to decide. Facts are only ever added.

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change replaces the tables.
        product: What is sold.
        usage_plan: The plan that buyers' keys are put into; of several, the default.
        plans: The plans, where documents describe them. Left out, there is the one.
        keys_table: The table that the gate reads, partition key ``key_sha256``; ``Gate`` defines it.
        seller: Whom the buyers' mails come from.
        observe_every: How often AWS itself is asked for the state of each agreement, 1 h to 24 h in whole
            hours; events may be lost.
        alarm_topic: Told when reconciliation fails or somebody has to decide. Left out, alarms only show
            their state.
        removal_policy: What becomes of tables and log when they leave the stack.

    Raises:
        MarketplaceConstructsError: MP-AGREEMENT-01, MP-SELLER-01 to MP-SELLER-05, together.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        product: Product,
        usage_plan: apigateway.IUsagePlan,
        plans: Plans | None = None,
        keys_table: dynamodb.ITable,
        seller: Seller,
        observe_every: cdk.Duration | None = None,
        alarm_topic: sns.ITopic | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        observe_every = hours(24) if observe_every is None else observe_every
        refuse([*seller.problems(), *agreements_problems(observe_every)])
        super().__init__(scope, construct_id)
        self.product = product
        self.usage_plan = usage_plan
        self.plans = plans
        self.keys_table = keys_table
        self.facts_table = sale_table(
            self, "Facts", partition_key="buyer", sort_key="fact", removal_policy=removal_policy
        )
        self.contacts_table = sale_table(self, "Contacts", partition_key="agreement", removal_policy=removal_policy)
        self.settings = AgreementsSettings(
            product_code=product.product_code,
            agreement_kind=product.agreement_kind,
            pricing_model=product.pricing_model,
            metering=product.metering,
            metering_region=product.metering_region,
            facts_table=table_name(self.facts_table),
            keys_table=table_name(keys_table),
            usage_plan_id=usage_plan.usage_plan_id,
            # It ends where a longer one cannot go on: keys that begin so and have no fact are removed.
            key_prefix=f"{cdk.Names.unique_resource_name(self, max_length=64, separator='-')}/",
            plans_table="" if plans is None else table_name(plans.table),
        )
        self._reconcile(seller, observe_every, alarm_topic, removal_policy)

        self.attention_alarm = self._attention_alarm(alarm_topic)

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody list and show agreements: their facts, not their contacts."""
        return self.facts_table.grant(grantee, "dynamodb:Query", "dynamodb:Scan")

    def grant_record(self, grantee: iam.IGrantable) -> None:
        """Let a function add facts, those about entitlements too where the pricing model has contracts."""
        self.facts_table.grant(grantee, "dynamodb:PutItem")
        if self.product.pricing_model.has_contract:
            # The Marketplace actions know no resources.
            _allow(grantee, ["aws-marketplace:GetEntitlements"], "*")

    def grant_settle(self, function: lambda_.Function) -> None:
        """Let a function make access match the facts: the keys that there are, and the gate's answers."""
        self.facts_table.grant(function, "dynamodb:Query")
        self.keys_table.grant(function, "dynamodb:GetItem", "dynamodb:PutItem")
        if self.plans is not None:
            self.plans.grant_read(function)
        keys, members = self._api_keys_arn(), self._members_arns()
        for actions, resources in (
            (("GET",), [keys]),
            (("DELETE", "GET", "PATCH"), [f"{keys}/*"]),
            (("POST",), members),
            (("DELETE", "GET"), [f"{each}/*" for each in members]),
        ):
            _allow(function, [f"apigateway:{action}" for action in actions], *resources)
        role = role_of(function)
        why = "the ids of buyers' keys are made at run time"
        acknowledge_wildcards(
            role,
            {
                f"{keys}/*": f"{why}; the function knows its own by their name",
                **{f"{each}/*": f"{why}; bounded by the one usage plan" for each in members},
            },
        )

    def grant_make_keys(self, grantee: iam.IGrantable) -> None:
        """Let a function make keys."""
        _allow(grantee, ["apigateway:POST"], self._api_keys_arn())

    def grant_keep_contacts(self, grantee: iam.IGrantable) -> None:
        """Let a function add and read the contact of one agreement, but not list them."""
        self.contacts_table.grant(grantee, "dynamodb:GetItem", "dynamodb:PutItem")

    def grant_confirm(self, grantee: iam.IGrantable, seller: Seller) -> None:
        """Let a function send confirmations and note that they are sent; nothing where there is no sender."""
        if seller.sender is not None:
            self.contacts_table.grant(grantee, "dynamodb:UpdateItem")
            seller.grant_send(self, grantee)

    def metric_reconciliation_errors(
        self, *, period: cdk.Duration | None = None, statistic: str = "Sum"
    ) -> cloudwatch.Metric:
        """Runs of the reconciliation that failed."""
        return self.reconciliation.metric_errors(period=period, statistic=statistic)

    def _api_keys_arn(self) -> str:
        return f"{control_plane_arn(self)}/apikeys"

    def _usage_plan_arns(self) -> list[str]:
        if self.plans is None:
            return [usage_plan_arn(self, self.settings.usage_plan_id)]
        return [plan.usage_plan_arn for plan in self.plans.usage_plans.values()]

    def _members_arns(self) -> list[str]:
        return [f"{plan}/keys" for plan in self._usage_plan_arns()]

    def _attention_alarm(self, alarm_topic: sns.ITopic | None) -> cloudwatch.Alarm:
        """Goes off where something happened that nobody decided beforehand; it has revoked nothing."""
        counts = {
            f"m{number}": cloudwatch.Metric(
                namespace=METRICS_NAMESPACE,
                metric_name=name,
                dimensions_map=metrics_dimensions(self.settings.sale),
                period=minutes(5),
                statistic="Sum",
            )
            for number, name in enumerate(_ATTENTION)
        }
        alarm = cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({name}, 0)" for name in counts), using_metrics=counts
        ).create_alarm(
            self,
            "Attention",
            alarm_description="an agreement or notice of an unknown kind, a page that failed, or a product code that "
            "had drifted: read the functions' logs, sellable agreements show, and decide",
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            evaluation_periods=1,
            threshold=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        )
        if alarm_topic is not None:
            alarm.add_alarm_action(cloudwatch_actions.SnsAction(alarm_topic))
        return alarm

    def _reconcile(
        self,
        seller: Seller,
        observe_every: cdk.Duration,
        alarm_topic: sns.ITopic | None,
        removal_policy: cdk.RemovalPolicy,
    ) -> None:
        self.dead_letters = DeadLetters(
            self,
            "DeadLetters",
            alarm_description="access was not reconciled with the agreements: read the function's log",
            alarm_topic=alarm_topic,
        )
        self.reconciliation = runtime_function(
            self,
            "Reconciliation",
            handler="marketplace_constructs.runtime.agreements.reconciliation.handler",
            description="Makes access match the agreements, every hour",
            timeout=minutes(15),
            memory_size=512,
            bounded_by="its schedule, one run an hour",
            settings=ReconciliationSettings(
                **asdict(self.settings),
                contacts_table=table_name(self.contacts_table),
                sender=seller.sender or "",
                seller_name=seller.seller_name,
                support_contact=seller.support_contact,
                observe_every_hours=int(seconds_of(observe_every) or 0) // 3_600,
            ),
            dead_letter_queue=self.dead_letters.queue,
            removal_policy=removal_policy,
        )
        self.grant_settle(self.reconciliation)
        self.facts_table.grant(self.reconciliation, "dynamodb:Scan")
        _allow(self.reconciliation, ["apigateway:GET"], *self._members_arns())
        # It sends the confirmations that are still owed.
        self.contacts_table.grant(self.reconciliation, "dynamodb:Scan")
        self.grant_confirm(self.reconciliation, seller)
        # Native metering: a lost product code is put back. Pipeline: one that somebody set is taken off.
        _allow(self.reconciliation, ["apigateway:GET", "apigateway:PATCH"], *self._usage_plan_arns())
        # What AWS says when it is asked becomes a fact; about a legacy subscription there is nothing to ask. So does
        # the plan that documents give to an agreement from before there were any.
        if not self.product.is_legacy or self.product.pricing_model.has_contract or self.plans is not None:
            self.grant_record(self.reconciliation)
        if not self.product.is_legacy:
            _allow(self.reconciliation, ["aws-marketplace:DescribeAgreement"], "*")
        events.Rule(
            self,
            "Hourly",
            description="Starts the reconciliation of access with the agreements",
            # Plans change on whole hours; a minute later the clocks of all agree that it has begun.
            schedule=events.Schedule.rate(hours(1)) if self.plans is None else events.Schedule.cron(minute="1"),
            targets=[events_targets.LambdaFunction(self.reconciliation, dead_letter_queue=self.dead_letters.queue)],
        )
        events.Rule(
            self,
            "Updated",
            description="Starts the reconciliation when an update of the stack is over",
            # An update may bring plans, or another usage plan. The gate shuts out whoever has no plan yet, and a key
            # can join a new usage plan only when the former is gone, which is the last thing that an update does.
            # Source: EventBridge events reference, AWS CloudFormation events, delivered durably (read 2026-11-22).
            event_pattern=events.EventPattern(
                source=["aws.cloudformation"],
                detail_type=["CloudFormation Stack Status Change"],
                detail={
                    "stack-id": [stack_of(self).stack_id],
                    "status-details": {"status": ["UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]},
                },
            ),
            targets=[events_targets.LambdaFunction(self.reconciliation, dead_letter_queue=self.dead_letters.queue)],
        )


def agreements_problems(observe_every: cdk.Duration) -> Iterator[Problem]:
    """All that is wrong with the props of Agreements itself."""
    period = seconds_of(observe_every)
    if period is None or not 3_600 <= period <= _HOURS_A_DAY * 3_600 or period % 3_600:
        yield Problem(
            "MP-AGREEMENT-01",
            f"observe_every, got {'a token' if period is None else f'{period / 3_600:g} h'}; expected 1 to 24 whole "
            "hours, known at synthesis; leave it out for once a day",
        )


def _allow(grantee: iam.IGrantable, actions: list[str], *resources: str) -> None:
    iam.Grant.add_to_principal(grantee=grantee, actions=actions, resource_arns=list(resources))
