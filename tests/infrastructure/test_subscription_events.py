from __future__ import annotations

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from aws_cdk import aws_sns as sns
from templates import CONTRACT, LEGACY, MakeApp, Template, define, environment

from marketplace_constructs import (
    Category,
    Dimension,
    DimensionType,
    MarketplaceConstructsError,
    Metering,
    PricingModel,
    Product,
    SubscriptionEvents,
    SubscriptionRelayStack,
)
from marketplace_constructs.runtime.settings import AgreementsSettings

LEGACY_CONTRACT = Product.legacy(
    "contract456",
    pricing_model=PricingModel.CONTRACT,
    metering=Metering.PIPELINE,
    dimensions=[Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)],
)
ACCOUNT = "111122223333"
TOPICS = "arn:${AWS::Partition}:sns:us-east-1:287250355862:aws-mp"


def stack_in(app: cdk.App, region: str | None, name: str = "S") -> cdk.Stack:
    return cdk.Stack(app, name, env=cdk.Environment(account=ACCOUNT, region=region) if region else None)


def events_of(stack: cdk.Stack, product: Product, **options: Any) -> SubscriptionEvents:
    return SubscriptionEvents(stack, "Events", agreements=define(stack, product=product), **options)


@pytest.fixture(scope="module")
def legacy(make_app: MakeApp) -> Template:
    stack = stack_in(make_app(), None)
    events_of(
        stack,
        LEGACY,
        alarm_topic=sns.Topic.from_topic_arn(stack, "Topic", "arn:aws:sns:us-east-1:111122223333:woken"),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    return Template(stack)


@pytest.fixture(scope="module")
def concurrent(make_app: MakeApp) -> Template:
    stack = stack_in(make_app(), "us-east-1")
    events_of(stack, CONTRACT)
    return Template(stack)


def may_send(template: Template, part: str = "EventsQueue") -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = template.only("AWS::SQS::QueuePolicy", part)["Properties"]["PolicyDocument"][
        "Statement"
    ]
    assert statements[0]["Effect"] == "Deny"
    assert statements[0]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    return statements[1:]


def test_a_legacy_product_hears_its_subscription_topic_with_the_time_of_each_message(
    legacy: Template,
) -> None:
    subscription = legacy.only("AWS::SNS::Subscription")["Properties"]
    assert subscription["TopicArn"] == f"{TOPICS}-subscription-notification-legacy123"
    assert subscription["Protocol"] == "sqs"
    assert subscription["RawMessageDelivery"] is False
    assert subscription["Region"] == "us-east-1"
    assert not legacy.of_type("AWS::Events::Rule").keys() & {"EventsAgreements"}


def test_a_legacy_contract_hears_of_entitlements_too(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), "eu-west-1")
    events_of(stack, LEGACY_CONTRACT)
    template = Template(stack)
    topics = [
        f"arn:aws:sns:us-east-1:287250355862:aws-mp-{name}-notification-contract456"
        for name in ("subscription", "entitlement")
    ]
    found = [r["Properties"] for r in template.of_type("AWS::SNS::Subscription").values()]
    assert sorted(p["TopicArn"] for p in found) == sorted(topics)
    assert {p["Region"] for p in found} == {"us-east-1"}
    assert may_send(template)[0]["Condition"] == {"ArnEquals": {"aws:SourceArn": topics}}
    assert "aws-marketplace:GetEntitlements" in template.actions("EventsFunctionRole")["*"]


def test_a_stack_in_us_east_1_needs_no_region_for_its_subscription(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), "us-east-1")
    events_of(stack, LEGACY)
    assert "Region" not in Template(stack).only("AWS::SNS::Subscription")["Properties"]


def test_only_the_topic_may_send_to_the_queue(legacy: Template) -> None:
    [statement] = may_send(legacy)
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": [f"{TOPICS}-subscription-notification-legacy123"]}}


def test_the_subscription_waits_for_the_policy_that_lets_it_send(legacy: Template) -> None:
    [policy] = [name for name in legacy.of_type("AWS::SQS::QueuePolicy") if "EventsQueue" in name]
    assert policy in legacy.only("AWS::SNS::Subscription")["DependsOn"]


def test_a_concurrent_product_hears_every_kind_of_agreement_event(concurrent: Template) -> None:
    rule = concurrent.only("AWS::Events::Rule", "EventsAgreements")["Properties"]
    assert rule["EventPattern"] == {"source": ["aws.agreement-marketplace"]}
    assert "EventBusName" not in rule
    [queue] = [name for name in concurrent.of_type("AWS::SQS::Queue") if "EventsQueue" in name]
    [dead] = [name for name in concurrent.of_type("AWS::SQS::Queue") if "EventsDeadLetters" in name]
    assert rule["Targets"][0]["Arn"] == f"${{{queue}.Arn}}"
    assert rule["Targets"][0]["DeadLetterConfig"] == {"Arn": f"${{{dead}.Arn}}"}
    assert not concurrent.of_type("AWS::SNS::Subscription")


def test_only_the_rule_may_send_to_the_queue(concurrent: Template) -> None:
    [statement] = may_send(concurrent)
    [rule] = [name for name in concurrent.of_type("AWS::Events::Rule") if "EventsAgreements" in name]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": f"${{{rule}.Arn}}"}}


def test_each_message_is_answered_for_by_itself_and_never_handled_twice_at_once(legacy: Template) -> None:
    source = legacy.only("AWS::Lambda::EventSourceMapping")["Properties"]
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert source["BatchSize"] == 10
    [name] = [name for name in legacy.of_type("AWS::SQS::Queue") if "EventsQueue" in name]
    assert source["EventSourceArn"] == f"${{{name}.Arn}}"
    [name] = [name for name in legacy.of_type("AWS::Lambda::Function") if "EventsFunction" in name]
    assert source["FunctionName"] == f"${{{name}}}"
    queue = legacy.only("AWS::SQS::Queue", "EventsQueue")["Properties"]
    function = legacy.only("AWS::Lambda::Function", "EventsFunction")["Properties"]
    assert queue["VisibilityTimeout"] >= 6 * function["Timeout"]
    assert queue["SqsManagedSseEnabled"] is True
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 5


def test_dead_letters_outlive_the_queue_and_alarm_the_topic(legacy: Template) -> None:
    queue = legacy.only("AWS::SQS::Queue", "EventsQueue")["Properties"]
    dead = legacy.only("AWS::SQS::Queue", "EventsDeadLetters")["Properties"]
    assert dead["MessageRetentionPeriod"] == 14 * 24 * 3600 > queue["MessageRetentionPeriod"]
    alarm = legacy.only("AWS::CloudWatch::Alarm", "Events")["Properties"]
    assert alarm["AlarmActions"] == ["arn:aws:sns:us-east-1:111122223333:woken"]
    assert legacy.only("AWS::Logs::LogGroup", "EventsFunction")["DeletionPolicy"] == "Delete"


def test_an_alarm_tells_nobody_unless_a_topic_is_given(concurrent: Template) -> None:
    assert "AlarmActions" not in concurrent.only("AWS::CloudWatch::Alarm", "Events")["Properties"]


def test_the_function_may_change_access_and_read_its_queue_and_nothing_else(concurrent: Template) -> None:
    [queue] = [name for name in concurrent.of_type("AWS::SQS::Queue") if "EventsQueue" in name]
    [log] = [name for name in concurrent.of_type("AWS::Logs::LogGroup") if "EventsFunction" in name]
    [facts] = [name for name in concurrent.of_type("AWS::DynamoDB::Table") if "Facts" in name]
    gateway = "arn:aws:apigateway:us-east-1::"
    assert concurrent.actions("EventsFunctionRole") == {
        f"${{{log}.Arn}}": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "*": {"xray:PutTelemetryRecords", "xray:PutTraceSegments", "aws-marketplace:GetEntitlements"},
        # Configuring a queue to trigger a Lambda function, of the SQS developer guide, asks for these three.
        f"${{{queue}.Arn}}": {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"},
        f"${{{facts}.Arn}}": {"dynamodb:PutItem", "dynamodb:Query"},
        "arn:aws:dynamodb:us-east-1:111122223333:table/keys": {"dynamodb:GetItem", "dynamodb:PutItem"},
        f"{gateway}/apikeys": {"apigateway:GET"},
        f"{gateway}/apikeys/*": {"apigateway:DELETE", "apigateway:GET", "apigateway:PATCH"},
        f"{gateway}/usageplans/plan123/keys": {"apigateway:POST"},
        f"{gateway}/usageplans/plan123/keys/*": {"apigateway:DELETE", "apigateway:GET"},
    }


def test_the_function_reads_back_what_the_construct_was_told(legacy: Template) -> None:
    function = legacy.only("AWS::Lambda::Function", "EventsFunction")
    assert function["Properties"]["Handler"] == "marketplace_constructs.runtime.subscription_events.handler"
    settings = AgreementsSettings.from_environment(environment(function))
    assert settings.product_code == "legacy123"
    assert settings.usage_plan_id == "plan123"
    assert settings.metering is Metering.NATIVE


def test_metrics_are_of_the_queues(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), None)
    events = events_of(stack, LEGACY)
    assert events.metric_age_of_oldest_message().metric_name == "ApproximateAgeOfOldestMessage"
    dead = events.metric_dead_letters(period=cdk.Duration.minutes(7))
    assert dead.metric_name == "ApproximateNumberOfMessagesVisible"
    assert dead.period.to_minutes() == 7


def warnings(stack: cdk.Stack) -> str:
    found = assertions.Annotations.from_stack(stack).find_warning("*", assertions.Match.any_value())
    return "\n".join(str(message.entry.data) for message in found)


def test_outside_us_east_1_a_missing_relay_is_warned_of(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), "eu-west-1")
    events_of(stack, CONTRACT)
    assert "MP-EVENTS-02" in warnings(stack)
    assert 'SubscriptionRelayStack(app, "Relay", home=stack)' in warnings(stack)


def test_a_relay_for_another_stack_does_not_silence_the_warning(make_app: MakeApp) -> None:
    app = make_app()
    stack, other = stack_in(app, "eu-west-1"), stack_in(app, "eu-west-1", "Other")
    events_of(stack, CONTRACT)
    events_of(other, CONTRACT)
    SubscriptionRelayStack(app, "Relay", home=other)
    assert "MP-EVENTS-02" in warnings(stack)
    assert "MP-EVENTS" not in warnings(other)


def test_where_the_region_is_not_known_the_relay_is_spoken_of(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), None)
    events_of(stack, CONTRACT)
    assert "MP-EVENTS-01" in warnings(stack)


@pytest.mark.parametrize(("region", "product"), [("us-east-1", CONTRACT), ("eu-west-1", LEGACY), (None, LEGACY)])
def test_nothing_is_warned_of_where_events_arrive(make_app: MakeApp, region: str | None, product: Product) -> None:
    stack = stack_in(make_app(), region)
    events_of(stack, product)
    assert "MP-EVENTS" not in warnings(stack)


def test_the_warning_can_be_acknowledged(make_app: MakeApp) -> None:
    stack = stack_in(make_app(), "eu-west-1")
    events = events_of(stack, CONTRACT)
    cdk.Validations.of(events).acknowledge(
        cdk.Acknowledgment(id="Annotation::marketplace-constructs:MP-EVENTS-02", reason="another app relays")
    )
    assert "MP-EVENTS-02" not in warnings(stack)


def test_the_relay_is_a_rule_a_role_and_a_policy_in_us_east_1(make_app: MakeApp) -> None:
    app = make_app()
    home = stack_in(app, "eu-west-1")
    events_of(home, CONTRACT)
    relay = SubscriptionRelayStack(app, "Relay", home=home)
    assert (relay.region, relay.account) == ("us-east-1", ACCOUNT)
    template = Template(relay)
    types = sorted(resource["Type"] for resource in template.resources.values())
    assert types == ["AWS::Events::Rule", "AWS::IAM::Policy", "AWS::IAM::Role"]
    rule = template.only("AWS::Events::Rule")["Properties"]
    assert rule["EventPattern"] == {"source": ["aws.agreement-marketplace"]}
    bus = f"arn:aws:events:eu-west-1:{ACCOUNT}:event-bus/default"
    assert rule["Targets"][0]["Arn"] == bus
    assert template.actions("Role") == {bus: {"events:PutEvents"}}
    assert not relay.dependencies
    assert not home.dependencies


@pytest.mark.parametrize("region", ["us-east-1", None])
def test_fails_when_a_relay_has_nowhere_to_go(make_app: MakeApp, region: str | None) -> None:
    app = make_app()
    with pytest.raises(MarketplaceConstructsError, match="MP-RELAY-01"):
        SubscriptionRelayStack(app, "Relay", home=stack_in(app, region))
