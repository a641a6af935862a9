from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_certificatemanager as certificatemanager
from templates import CONTRACT, SELLER, MakeApp, Template, define, environment, methods

from marketplace_constructs import MarketplaceConstructsError, Onboarding, Seller, Throttle
from marketplace_constructs.runtime.agreements.access import MAY_COME_TO_BE
from marketplace_constructs.runtime.aws import CONFIG
from marketplace_constructs.runtime.settings import OnboardingSettings

CERTIFICATE = "arn:aws:acm:us-east-1:111122223333:certificate/11112222-3333-4444-5555-666677778888"
FULL_SELLER = Seller(
    seller_name="Example Ltd.",
    support_contact="https://example.com/help",
    logo_url="https://example.com/logo.png",
    sender="noreply@example.com",
)


def onboarding_of(stack: cdk.Stack, **options: Any) -> Onboarding:
    agreements = define(stack, product=options.pop("product", CONTRACT))
    required = {"seller": SELLER, "api_url": "https://api.example.com/prod", "example_route": "GET /v1/items"}
    return Onboarding(stack, "Onboarding", agreements=agreements, **{**required, **options})


@pytest.fixture(scope="module")
def plain(make_app: MakeApp) -> tuple[Template, Onboarding]:
    stack = cdk.Stack(make_app(), "Plain")
    onboarding = onboarding_of(stack)
    return Template(stack), onboarding


@pytest.fixture(scope="module")
def full(make_app: MakeApp) -> tuple[Template, Onboarding]:
    """Every prop, with values of their own."""
    stack = cdk.Stack(make_app(), "Full")
    onboarding = onboarding_of(
        stack,
        seller=FULL_SELLER,
        api_url="https://nouns.example.com",
        example_route="GET /v1/samples",
        throttle=Throttle(rate_limit=21, burst_limit=22),
        firewall_rate=23,
        domain_name="buy.example.com",
        certificate=certificatemanager.Certificate.from_certificate_arn(stack, "Certificate", CERTIFICATE),
        access_log=True,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    return Template(stack), onboarding


def is_warned(onboarding: Onboarding, code: str) -> bool:
    found = assertions.Annotations.from_stack(cdk.Stack.of(onboarding)).find_warning(
        "*", assertions.Match.string_like_regexp(code)
    )
    return bool(found)


def test_the_page_is_an_api_of_its_own_with_its_routes_and_no_others(
    plain: tuple[Template, Onboarding],
) -> None:
    template, onboarding = plain
    found = dict(methods(template, onboarding.api))
    assert sorted(found) == [
        "GET /",
        "GET /agreement",
        "POST /contact",
        "POST /key",
        "POST /register",
        "POST /rotation",
    ]
    assert {method["AuthorizationType"] for method in found.values()} == {"NONE"}
    assert not any(method.get("ApiKeyRequired") for method in found.values())


def test_nothing_writes_down_what_buyers_send(plain: tuple[Template, Onboarding]) -> None:
    [settings] = plain[0].only("AWS::ApiGateway::Stage")["Properties"]["MethodSettings"]
    assert settings["DataTraceEnabled"] is False
    assert settings["LoggingLevel"] == "OFF"
    assert not plain[0].of_type("AWS::ApiGateway::Account")


def test_the_access_log_tells_what_was_answered_and_nothing_that_a_caller_wrote(
    full: tuple[Template, Onboarding],
) -> None:
    template, onboarding = full
    setting = template.only("AWS::ApiGateway::Stage")["Properties"]["AccessLogSetting"]
    assert setting["DestinationArn"].endswith(f":log-group:${{{template.logical_id(onboarding.access_log)}}}")
    variables = set(json.loads(setting["Format"]).values())
    # Whose address, agent, query, header, key or path it was is the caller's own text, or the caller.
    assert variables == {
        "$context.error.responseType",
        "$context.extendedRequestId",
        "$context.httpMethod",
        "$context.integration.requestId",
        "$context.integration.status",
        "$context.requestId",
        "$context.requestTimeEpoch",
        "$context.resourcePath",
        "$context.responseLatency",
        "$context.status",
        "$context.wafResponseCode",
    }


def test_the_access_log_waits_for_the_role_that_the_stack_defines(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "WithRole")
    onboarding = onboarding_of(stack)
    apigateway.RestApi(stack, "Later", cloud_watch_role=True).root.add_method("GET")
    template = Template(stack)
    [account] = template.of_type("AWS::ApiGateway::Account")
    stage = template.resources[template.logical_id(onboarding.api.deployment_stage)]
    assert account in stage["DependsOn"]
    assert "AccessLogSetting" in stage["Properties"]


def test_an_account_without_the_role_is_warned_of_instead_of_failing_to_deploy(
    plain: tuple[Template, Onboarding], full: tuple[Template, Onboarding]
) -> None:
    assert "AccessLogSetting" not in plain[0].only("AWS::ApiGateway::Stage")["Properties"]
    assert is_warned(plain[1], "MP-ONBOARDING-05")
    assert not is_warned(full[1], "MP-ONBOARDING-05")


def test_logs_are_kept_for_more_than_a_year_and_protected(
    plain: tuple[Template, Onboarding], full: tuple[Template, Onboarding]
) -> None:
    kept = plain[0].of_type("AWS::Logs::LogGroup")
    assert len(kept) == 4
    for log in kept.values():
        assert log["Properties"]["RetentionInDays"] > 366
        assert log["Properties"]["DeletionProtectionEnabled"] is True
        assert {log["DeletionPolicy"], log["UpdateReplacePolicy"]} == {"Retain"}
    # What is to be deleted with its stack must not refuse to be.
    assert [
        (log["Properties"]["DeletionProtectionEnabled"], log["DeletionPolicy"])
        for name, log in full[0].of_type("AWS::Logs::LogGroup").items()
        if name.startswith("Onboarding")
    ] == [(False, "Delete")] * 3


def test_only_secrets_manager_of_this_account_may_renew_the_signing_secret(plain: tuple[Template, Onboarding]) -> None:
    permission = plain[0].only("AWS::Lambda::Permission", "SigningSecretFunction")["Properties"]
    assert permission["Principal"] == "secretsmanager.amazonaws.com"
    assert permission["SourceAccount"] == "${AWS::AccountId}"
    # The first rotation begins with the schedule.
    [name] = [name for name in plain[0].of_type("AWS::Lambda::Permission") if "SigningSecretFunction" in name]
    assert name in plain[0].only("AWS::SecretsManager::RotationSchedule")["DependsOn"]


@pytest.mark.parametrize(("which", "rate", "burst"), [("plain", 20, 40), ("full", 21, 22)])
def test_the_page_has_a_throttle_of_its_own(request: pytest.FixtureRequest, which: str, rate: int, burst: int) -> None:
    [settings] = request.getfixturevalue(which)[0].only("AWS::ApiGateway::Stage")["Properties"]["MethodSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (rate, burst)
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")


@pytest.mark.parametrize(("which", "rate"), [("plain", 300), ("full", 23)])
def test_the_firewall_counts_calls_per_address_and_looks_at_nothing_else(
    request: pytest.FixtureRequest, which: str, rate: int
) -> None:
    acl = request.getfixturevalue(which)[0].only("AWS::WAFv2::WebACL")["Properties"]
    assert acl["Scope"] == "REGIONAL"
    assert acl["DefaultAction"] == {"Allow": {}}
    [rule] = acl["Rules"]
    assert rule["Statement"] == {"RateBasedStatement": {"AggregateKeyType": "IP", "Limit": rate}}
    assert rule["Action"] == {"Block": {}}


def test_the_firewall_stands_before_the_page(plain: tuple[Template, Onboarding]) -> None:
    template, onboarding = plain
    association = template.only("AWS::WAFv2::WebACLAssociation")["Properties"]
    stage = template.logical_id(onboarding.api.deployment_stage)
    api = template.logical_id(onboarding.api)
    assert association["ResourceArn"].endswith(
        f":apigateway:${{AWS::Region}}::/restapis/${{{api}}}/stages/${{{stage}}}"
    )
    [acl] = template.of_type("AWS::WAFv2::WebACL")
    assert association["WebACLArn"] == f"${{{acl}.Arn}}"


def test_the_secret_is_made_here_and_renewed_every_30_days_by_its_own_function(
    plain: tuple[Template, Onboarding],
) -> None:
    template, _ = plain
    secret = template.only("AWS::SecretsManager::Secret")["Properties"]
    assert secret["GenerateSecretString"] == {"ExcludePunctuation": True, "PasswordLength": 64}
    schedule = template.only("AWS::SecretsManager::RotationSchedule")["Properties"]
    assert schedule["RotationRules"] == {"ScheduleExpression": "rate(30 days)"}
    [name] = [name for name in template.of_type("AWS::Lambda::Function") if "SigningSecretFunction" in name]
    assert schedule["RotationLambdaARN"] == f"${{{name}.Arn}}"
    [secret_id] = template.of_type("AWS::SecretsManager::Secret")
    assert schedule["SecretId"] == f"${{{secret_id}}}"
    function = template.only("AWS::Lambda::Function", "SigningSecretFunction")["Properties"]
    assert function["Handler"] == "marketplace_constructs.runtime.onboarding.signing_secret.handler"


def test_nobody_may_delete_the_secret_by_accident(plain: tuple[Template, Onboarding]) -> None:
    policy = plain[0].only("AWS::SecretsManager::ResourcePolicy")["Properties"]["ResourcePolicy"]
    [statement] = policy["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "secretsmanager:DeleteSecret")


def test_the_page_may_read_the_secret_and_only_its_function_may_change_it(
    plain: tuple[Template, Onboarding],
) -> None:
    template, onboarding = plain
    secret = f"${{{template.logical_id(onboarding.signing_secret)}}}"
    assert template.actions("OnboardingFunctionRole")[secret] == {"secretsmanager:GetSecretValue"}
    actions = template.actions("SigningSecretFunctionRole")
    assert actions.pop(secret) == {
        "secretsmanager:DescribeSecret",
        "secretsmanager:GetSecretValue",
        "secretsmanager:PutSecretValue",
        "secretsmanager:UpdateSecretVersionStage",
    }
    assert not [action for action in set().union(*actions.values()) if not action.startswith(("logs:", "xray:"))]


def test_the_page_may_resolve_customers_keep_contacts_and_change_access(
    plain: tuple[Template, Onboarding],
) -> None:
    actions = plain[0].actions("OnboardingFunctionRole")
    assert actions["*"] - {"xray:PutTelemetryRecords", "xray:PutTraceSegments"} == {
        "aws-marketplace:GetEntitlements",
        "aws-marketplace:ResolveCustomer",
    }
    [contacts] = [allowed for resource, allowed in actions.items() if "Contacts" in resource]
    assert contacts == {"dynamodb:GetItem", "dynamodb:PutItem"}
    [facts] = [allowed for resource, allowed in actions.items() if "Facts" in resource]
    assert facts == {"dynamodb:PutItem", "dynamodb:Query"}
    assert [allowed for resource, allowed in actions.items() if resource.endswith("/apikeys")] == [
        {"apigateway:GET", "apigateway:POST"}
    ]
    assert [allowed for resource, allowed in actions.items() if resource.endswith("/plan123/keys")] == [
        {"apigateway:POST"}
    ]
    assert "ses:SendEmail" not in set().union(*actions.values())


def test_mail_may_be_sent_as_the_sender_only(full: tuple[Template, Onboarding]) -> None:
    [resource] = [r for r, a in full[0].actions("OnboardingFunctionRole").items() if "ses:SendEmail" in a]
    assert resource == "arn:${AWS::Partition}:ses:${AWS::Region}:${AWS::AccountId}:identity/noreply@example.com"


def test_with_a_sender_the_page_may_note_what_it_sent(full: tuple[Template, Onboarding]) -> None:
    [contacts] = [a for resource, a in full[0].actions("OnboardingFunctionRole").items() if "Contacts" in resource]
    assert contacts == {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"}


def test_a_missing_key_is_looked_for_while_somebody_may_still_make_it(plain: tuple[Template, Onboarding]) -> None:
    makes, looks = (
        timedelta(seconds=plain[0].only("AWS::Lambda::Function", part)["Properties"]["Timeout"])
        for part in ("OnboardingFunction", "Reconciliation")
    )
    last_try = timedelta(seconds=sum(vars(CONFIG)[name] for name in ("connect_timeout", "read_timeout")))
    assert makes + last_try + looks < MAY_COME_TO_BE


def test_the_function_reads_back_what_the_construct_was_told(full: tuple[Template, Onboarding]) -> None:
    template, onboarding = full
    function = template.only("AWS::Lambda::Function", "OnboardingFunction")
    assert function["Properties"]["Handler"] == "marketplace_constructs.runtime.onboarding.handler.handler"
    assert function["Properties"]["Timeout"] < 29
    settings = OnboardingSettings.from_environment(environment(function))
    assert settings.signing_secret == f"${{{template.logical_id(onboarding.signing_secret)}}}"
    assert settings.product_code == "contract123"
    assert settings.contacts_table.startswith("${AgreementsContacts")
    assert settings.seller_name == "Example Ltd."
    assert settings.logo_url == "https://example.com/logo.png"
    assert settings.support_contact == "https://example.com/help"
    assert settings.api_url == "https://nouns.example.com"
    assert settings.example_route == "GET /v1/samples"
    assert settings.sender == "noreply@example.com"


def test_the_fulfillment_url_is_told_and_nothing_beside_it(plain: tuple[Template, Onboarding]) -> None:
    template, _ = plain
    [(name, output)] = template.raw["Outputs"].items()
    assert "FulfillmentUrl" in name
    assert str(output["Value"]["Fn::Join"][1][-1]).endswith("/register")


def test_a_domain_of_the_sellers_own_is_the_fulfillment_url_and_the_other_goes_on(
    full: tuple[Template, Onboarding],
) -> None:
    template, onboarding = full
    assert onboarding.fulfillment_url == "https://buy.example.com/register"
    domain = template.only("AWS::ApiGateway::DomainName")["Properties"]
    assert domain["DomainName"] == "buy.example.com"
    assert domain["RegionalCertificateArn"] == CERTIFICATE
    assert domain["SecurityPolicy"] == "TLS_1_2"
    assert "DisableExecuteApiEndpoint" not in template.only("AWS::ApiGateway::RestApi")["Properties"]
    assert template.only("AWS::ApiGateway::BasePathMapping")


def test_the_removal_policy_reaches_the_logs(
    full: tuple[Template, Onboarding], plain: tuple[Template, Onboarding]
) -> None:
    for part in ("OnboardingFunction", "SigningSecretFunction"):
        assert full[0].only("AWS::Logs::LogGroup", part)["DeletionPolicy"] == "Delete"
        assert plain[0].only("AWS::Logs::LogGroup", part)["DeletionPolicy"] == "Retain"


def test_missing_mail_is_warned_of_and_can_be_acknowledged(
    plain: tuple[Template, Onboarding], full: tuple[Template, Onboarding]
) -> None:
    assert is_warned(plain[1], "MP-ONBOARDING-04")
    assert not is_warned(full[1], "MP-ONBOARDING-04")


def test_metrics_are_of_the_pages_stage(plain: tuple[Template, Onboarding]) -> None:
    _, onboarding = plain
    names = [
        metric().metric_name
        for metric in (
            onboarding.metric_count,
            onboarding.metric_client_error,
            onboarding.metric_server_error,
        )
    ]
    assert names == ["Count", "4XXError", "5XXError"]


def test_fails_when_props_contradict_each_other_all_together(make_app: MakeApp) -> None:
    with pytest.raises(MarketplaceConstructsError) as error:
        onboarding_of(
            cdk.Stack(make_app(), "S"),
            example_route="v1/items",
            throttle=Throttle(rate_limit=0, burst_limit=1),
            firewall_rate=9,
            domain_name="buy.example.com",
            seller=Seller(seller_name="Example", support_contact="nobody"),
        )
    assert error.value.codes == (
        "MP-SELLER-02",
        "MP-PLAN-05",
        "MP-PLAN-01",
        "MP-ONBOARDING-01",
        "MP-ONBOARDING-02",
    )


def test_fails_when_a_certificate_has_no_domain(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    certificate = certificatemanager.Certificate.from_certificate_arn(stack, "Certificate", CERTIFICATE)
    with pytest.raises(MarketplaceConstructsError, match="MP-ONBOARDING-03"):
        onboarding_of(stack, certificate=certificate)
