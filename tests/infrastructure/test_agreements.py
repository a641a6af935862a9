from __future__ import annotations

from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_iam as iam
from aws_cdk import aws_ses as ses
from aws_cdk import aws_sns as sns
from templates import CONTRACT, MakeApp, Template, define, environment

from marketplace_constructs import (
    AgreementKind,
    Agreements,
    Category,
    Dimension,
    DimensionType,
    MarketplaceConstructsError,
    Metering,
    PricingModel,
    Product,
    Seller,
)
from marketplace_constructs.runtime.settings import ReconciliationSettings

PLAN = "arn:${AWS::Partition}:apigateway:${AWS::Region}::/usageplans/plan123"
KEYS = "arn:${AWS::Partition}:apigateway:${AWS::Region}::/apikeys"
CONCURRENT = Product.concurrent("concurrent123", dimensions=[Dimension.requests("calls")])
LEGACY_CONTRACT = Product.legacy(
    "contract456",
    pricing_model=PricingModel.CONTRACT,
    metering=Metering.PIPELINE,
    dimensions=[Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)],
)


@pytest.fixture(scope="module")
def legacy(make_app: MakeApp) -> tuple[Template, Agreements]:
    stack = cdk.Stack(make_app(), "Legacy")
    agreements = define(stack)
    return Template(stack), agreements


@pytest.fixture(scope="module")
def contract(make_app: MakeApp) -> tuple[Template, Agreements]:
    """Every prop, with values of their own."""
    stack = cdk.Stack(make_app(), "Contract")
    agreements = define(
        stack,
        product=CONTRACT,
        seller=Seller(
            seller_name="Example Ltd.",
            support_contact="https://example.com/help",
            sender="noreply@example.com",
            sender_identity=ses.EmailIdentity.from_email_identity_name(stack, "Domain", "example.com"),
        ),
        observe_every=cdk.Duration.hours(6),
        alarm_topic=sns.Topic.from_topic_arn(stack, "Topic", "arn:aws:sns:us-east-1:111122223333:woken"),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    return Template(stack), agreements


@pytest.mark.parametrize(
    ("part", "keys"),
    [("Facts", [("buyer", "HASH"), ("fact", "RANGE")]), ("Contacts", [("agreement", "HASH")])],
)
def test_tables_are_retained_restorable_protected_and_paid_by_use(
    legacy: tuple[Template, Agreements], part: str, keys: list[tuple[str, str]]
) -> None:
    table = legacy[0].only("AWS::DynamoDB::Table", part)
    assert table["DeletionPolicy"] == table["UpdateReplacePolicy"] == "Retain"
    properties = table["Properties"]
    assert properties["DeletionProtectionEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert [(k["AttributeName"], k["KeyType"]) for k in properties["KeySchema"]] == keys


def test_the_removal_policy_reaches_tables_and_log(contract: tuple[Template, Agreements]) -> None:
    for type_, parts in (("AWS::DynamoDB::Table", ("Facts", "Contacts")), ("AWS::Logs::LogGroup", ("",))):
        for part in parts:
            assert contract[0].only(type_, part)["DeletionPolicy"] == "Delete"


def test_reconciliation_runs_every_hour_for_as_long_as_a_function_can(
    legacy: tuple[Template, Agreements],
) -> None:
    template, _ = legacy
    rule = template.only("AWS::Events::Rule", "Hourly")["Properties"]
    assert rule["ScheduleExpression"] == "rate(1 hour)"
    function = template.only("AWS::Lambda::Function")["Properties"]
    assert function["Timeout"] == 900
    assert function["Handler"] == "marketplace_constructs.runtime.agreements.reconciliation.handler"
    assert function["Runtime"] == "python3.13"
    [dead_letters] = template.of_type("AWS::SQS::Queue")
    assert function["DeadLetterConfig"] == {"TargetArn": f"${{{dead_letters}.Arn}}"}
    assert rule["Targets"][0]["DeadLetterConfig"] == {"Arn": f"${{{dead_letters}.Arn}}"}


def test_reconciliation_runs_when_an_update_of_its_own_stack_is_over(legacy: tuple[Template, Agreements]) -> None:
    template, _ = legacy
    rule = template.only("AWS::Events::Rule", "Updated")["Properties"]
    assert rule["EventPattern"] == {
        "source": ["aws.cloudformation"],
        "detail-type": ["CloudFormation Stack Status Change"],
        "detail": {
            "stack-id": ["${AWS::StackId}"],
            # Not while what was replaced is still being removed: a key can be in one usage plan only.
            "status-details": {"status": ["UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE"]},
        },
    }
    [function], [dead_letters] = template.of_type("AWS::Lambda::Function"), template.of_type("AWS::SQS::Queue")
    [target] = rule["Targets"]
    assert (target["Arn"], target["DeadLetterConfig"]) == (
        f"${{{function}.Arn}}",
        {"Arn": f"${{{dead_letters}.Arn}}"},
    )
    permitted = [p["Properties"]["SourceArn"] for p in template.of_type("AWS::Lambda::Permission").values()]
    assert permitted == [{"Fn::GetAtt": [name, "Arn"]} for name in template.of_type("AWS::Events::Rule")]


def test_the_log_is_kept_for_a_year_and_the_calls_are_traced(legacy: tuple[Template, Agreements]) -> None:
    log = legacy[0].only("AWS::Logs::LogGroup")
    assert log["Properties"]["RetentionInDays"] > 366
    assert log["DeletionPolicy"] == "Retain"
    function = legacy[0].only("AWS::Lambda::Function")["Properties"]
    assert function["TracingConfig"] == {"Mode": "Active"}
    [name] = legacy[0].of_type("AWS::Logs::LogGroup")
    assert function["LoggingConfig"] == {"LogGroup": f"${{{name}}}"}


def test_a_legacy_reconciliation_may_do_what_it_does_and_nothing_else(
    legacy: tuple[Template, Agreements],
) -> None:
    template, agreements = legacy
    actions = template.actions("ReconciliationRole")
    facts, contacts = (
        template.logical_id(agreements.facts_table),
        template.logical_id(agreements.contacts_table),
    )
    [log], [queue] = template.of_type("AWS::Logs::LogGroup"), template.of_type("AWS::SQS::Queue")
    assert actions == {
        f"${{{log}.Arn}}": {"logs:CreateLogStream", "logs:PutLogEvents"},
        "*": {"xray:PutTelemetryRecords", "xray:PutTraceSegments"},
        f"${{{queue}.Arn}}": {"sqs:SendMessage"},
        f"${{{facts}.Arn}}": {"dynamodb:Query", "dynamodb:Scan"},
        f"${{{contacts}.Arn}}": {"dynamodb:Scan"},
        "arn:aws:dynamodb:us-east-1:111122223333:table/keys": {"dynamodb:GetItem", "dynamodb:PutItem"},
        KEYS: {"apigateway:GET"},
        f"{KEYS}/*": {"apigateway:DELETE", "apigateway:GET", "apigateway:PATCH"},
        PLAN: {"apigateway:GET", "apigateway:PATCH"},
        f"{PLAN}/keys": {"apigateway:GET", "apigateway:POST"},
        f"{PLAN}/keys/*": {"apigateway:DELETE", "apigateway:GET"},
    }


@pytest.mark.parametrize(
    ("product", "marketplace"),
    [
        (LEGACY_CONTRACT, {"aws-marketplace:GetEntitlements"}),
        (CONCURRENT, {"aws-marketplace:DescribeAgreement"}),
        (CONTRACT, {"aws-marketplace:DescribeAgreement", "aws-marketplace:GetEntitlements"}),
    ],
    ids=["legacy contract", "concurrent subscription", "concurrent contract"],
)
def test_a_reconciliation_that_can_ask_aws_may_record_the_answer(
    make_app: MakeApp, product: Product, marketplace: set[str]
) -> None:
    stack = cdk.Stack(make_app(), "S")
    agreements = define(stack, product=product)
    template = Template(stack)
    actions = template.actions("ReconciliationRole")
    assert {action for action in actions["*"] if action.startswith("aws-marketplace:")} == marketplace
    assert "dynamodb:PutItem" in actions[f"${{{template.logical_id(agreements.facts_table)}.Arn}}"]


def test_with_a_sender_the_reconciliation_may_note_what_it_sent(contract: tuple[Template, Agreements]) -> None:
    template, agreements = contract
    contacts = f"${{{template.logical_id(agreements.contacts_table)}.Arn}}"
    assert template.actions("ReconciliationRole")[contacts] == {"dynamodb:Scan", "dynamodb:UpdateItem"}


def test_mail_may_be_sent_as_the_given_identity_only(contract: tuple[Template, Agreements]) -> None:
    [resource] = [r for r, a in contract[0].actions("ReconciliationRole").items() if "ses:SendEmail" in a]
    assert resource == "arn:${AWS::Partition}:ses:${AWS::Region}:${AWS::AccountId}:identity/example.com"


def test_the_function_reads_back_what_the_construct_was_told(contract: tuple[Template, Agreements]) -> None:
    template, agreements = contract
    settings = ReconciliationSettings.from_environment(environment(template.only("AWS::Lambda::Function")))
    assert settings == ReconciliationSettings(
        product_code="contract123",
        agreement_kind=AgreementKind.CONCURRENT,
        pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
        metering=Metering.PIPELINE,
        metering_region="eu-west-1",
        facts_table=f"${{{template.logical_id(agreements.facts_table)}}}",
        keys_table="keys",
        usage_plan_id="plan123",
        key_prefix=agreements.settings.key_prefix,
        contacts_table=f"${{{template.logical_id(agreements.contacts_table)}}}",
        sender="noreply@example.com",
        seller_name="Example Ltd.",
        support_contact="https://example.com/help",
        observe_every_hours=6,
    )


def test_aws_is_asked_once_a_day_unless_said_otherwise(legacy: tuple[Template, Agreements]) -> None:
    variables = environment(legacy[0].only("AWS::Lambda::Function"))
    assert ReconciliationSettings.from_environment(variables).observe_every_hours == 24


def test_no_key_prefix_is_the_beginning_of_another(
    legacy: tuple[Template, Agreements], contract: tuple[Template, Agreements]
) -> None:
    prefixes = [agreements.settings.key_prefix for _, agreements in (legacy, contract)]
    assert prefixes[0] != prefixes[1]
    assert all(prefix.count("/") == 1 and prefix.endswith("/") for prefix in prefixes)


def test_dead_letters_are_kept_for_14_days_and_alarm(legacy: tuple[Template, Agreements]) -> None:
    template, _ = legacy
    queue = template.only("AWS::SQS::Queue")["Properties"]
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert queue["SqsManagedSseEnabled"] is True
    alarm = template.only("AWS::CloudWatch::Alarm", "DeadLetters")["Properties"]
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert alarm["Threshold"] == 1
    assert "AlarmActions" not in alarm


def test_what_nobody_decided_beforehand_alarms(legacy: tuple[Template, Agreements]) -> None:
    alarm = legacy[0].only("AWS::CloudWatch::Alarm", "Attention")["Properties"]
    watched = {m["MetricStat"]["Metric"]["MetricName"] for m in alarm["Metrics"] if "MetricStat" in m}
    assert watched == {"AgreementNeedsAttention", "Faults", "MalformedEvent", "ProductCodeDrift", "UnknownEvent"}


def test_every_alarm_tells_the_topic(contract: tuple[Template, Agreements]) -> None:
    for alarm in contract[0].of_type("AWS::CloudWatch::Alarm").values():
        assert alarm["Properties"]["AlarmActions"] == ["arn:aws:sns:us-east-1:111122223333:woken"]


def test_an_operator_may_be_shown_facts_but_no_contacts(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    agreements = define(stack)
    agreements.grant_read(iam.Role(stack, "Operator", assumed_by=iam.AccountRootPrincipal()))
    template = Template(stack)
    facts = template.logical_id(agreements.facts_table)
    assert template.actions("Operator") == {f"${{{facts}.Arn}}": {"dynamodb:Query", "dynamodb:Scan"}}


@pytest.mark.parametrize("observe_every", [cdk.Duration.minutes(30), cdk.Duration.minutes(90), cdk.Duration.hours(25)])
def test_fails_when_aws_is_to_be_asked_at_an_odd_pace(make_app: MakeApp, observe_every: cdk.Duration) -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-AGREEMENT-01.*1 to 24 whole hours"):
        define(cdk.Stack(make_app(), "S"), observe_every=observe_every)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"seller_name": " "}, "MP-SELLER-01"),
        ({"support_contact": "http://example.com"}, "MP-SELLER-02"),
        ({"support_contact": "call us"}, "MP-SELLER-02"),
        ({"logo_url": "http://example.com/logo.png"}, "MP-SELLER-03"),
        ({"logo_url": 'https://example.com/"onerror='}, "MP-SELLER-03"),
        ({"sender": "noreply"}, "MP-SELLER-04"),
    ],
)
def test_fails_when_the_seller_cannot_be_shown(make_app: MakeApp, change: dict[str, Any], code: str) -> None:
    required: dict[str, Any] = {"seller_name": "Example", "support_contact": "help@example.com"}
    seller = Seller(**{**required, **change})
    with pytest.raises(MarketplaceConstructsError) as error:
        define(cdk.Stack(make_app(), "S"), seller=seller)
    assert error.value.codes == (code,)


def test_fails_when_an_identity_has_no_sender(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    identity = ses.EmailIdentity.from_email_identity_name(stack, "Domain", "example.com")
    seller = Seller(seller_name="Example", support_contact="help@example.com", sender_identity=identity)
    with pytest.raises(MarketplaceConstructsError, match="MP-SELLER-05"):
        define(stack, seller=seller)
