from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk import assertions
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_certificatemanager as certificatemanager
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_ses as ses
from aws_cdk import aws_sns as sns
from templates import MakeApp, Template, backend, environment, methods, small_api

from marketplace_constructs import (
    Dimension,
    Gate,
    MarketplaceConstructsError,
    MeteringRole,
    Period,
    Product,
    Quota,
    SellableApi,
    Throttle,
)
from marketplace_constructs.runtime.settings import OnboardingSettings, ReconciliationSettings

LEGACY = Product.legacy("legacy123")
CONCURRENT = Product.concurrent("concurrent123", dimensions=[Dimension.requests("calls")])
CERTIFICATE = "arn:aws:acm:us-east-1:111122223333:certificate/11112222-3333-4444-5555-666677778888"
TOPIC = "arn:aws:sns:us-east-1:111122223333:woken"


def sell(stack: cdk.Stack, api: apigateway.IRestApi, construct_id: str = "Sale", **options: Any) -> SellableApi:
    required = {"product": LEGACY, "support_contact": "help@example.com"}
    return SellableApi(stack, construct_id, api=api, **{**required, **options})


def is_guarded(method: dict[str, Any]) -> bool:
    return bool(
        method.get("ApiKeyRequired") is True
        and method["AuthorizationType"] == "CUSTOM"
        and "Authorizer" in method["AuthorizerId"]["Ref"]
    )


def warnings(stack: cdk.Stack) -> str:
    found = assertions.Annotations.from_stack(stack).find_warning("*", assertions.Match.any_value())
    return "\n".join(str(message.entry.data) for message in found)


@pytest.fixture(scope="module")
def shortest(make_app: MakeApp) -> tuple[Template, SellableApi]:
    """What design calls the app that a team writes: a proxy API and three props."""
    stack = cdk.Stack(make_app(), "Shortest")
    search = lambda_.Function(
        stack,
        "Search",
        code=lambda_.Code.from_inline("def handler(event, context): pass"),
        handler="index.handler",
        runtime=lambda_.Runtime.PYTHON_3_13,
    )
    api = apigateway.LambdaRestApi(stack, "Api", handler=search)
    sale = SellableApi(stack, "Sale", api=api, product=LEGACY, support_contact="help@example.com")
    return Template(stack), sale


@pytest.fixture(scope="module")
def full(make_app: MakeApp) -> tuple[Template, SellableApi]:
    """Every prop, with values of their own."""
    stack = cdk.Stack(make_app(), "Full")
    api = small_api(stack)
    api.root.resource_for_path("/v1/health").add_method("GET", backend())
    assert api.latest_deployment is not None
    beta = apigateway.Stage(stack, "Beta", deployment=api.latest_deployment, stage_name="beta")
    sale = sell(
        stack,
        api,
        seller_name="Example Corp.",
        logo_url="https://example.com/logo.png",
        sender="noreply@mail.example.com",
        sender_identity=ses.EmailIdentity.from_email_identity_name(stack, "Domain", "mail.example.com"),
        throttle=Throttle(rate_limit=31, burst_limit=32),
        quota=Quota(limit=33, period=Period.DAY),
        method_throttles={"GET /v1/items": Throttle(rate_limit=34, burst_limit=35)},
        usage_plan_name="plan of nouns",
        free_routes=["GET /v1/health"],
        gate_cache_ttl=cdk.Duration.seconds(36),
        deployment=api.latest_deployment,
        stage=beta,
        api_url="https://nouns.example.com",
        example_route="GET /v1/items",
        onboarding_throttle=Throttle(rate_limit=37, burst_limit=38),
        firewall_rate=39,
        domain_name="buy.example.com",
        certificate=certificatemanager.Certificate.from_certificate_arn(stack, "Certificate", CERTIFICATE),
        metering_role=MeteringRole.from_account(stack, "MeteringRole"),
        observe_every=cdk.Duration.hours(4),
        alarm_topic=sns.Topic.from_topic_arn(stack, "Topic", TOPIC),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    return Template(stack), sale


def test_three_props_sell_a_proxy_api(shortest: tuple[Template, SellableApi]) -> None:
    template, sale = shortest
    found = dict(methods(template, sale.api))
    assert set(found) == {"ANY /", "ANY /{proxy+}"}
    assert all(map(is_guarded, found.values()))
    assert sale.product is LEGACY
    assert template.only("Custom::MarketplaceProductCode")["Properties"]["ProductCode"] == "legacy123"
    assert (
        template.only("AWS::IAM::Role", "MeteringRole")["Properties"]["RoleName"] == "ApiGatewayMarketplaceMeteringRole"
    )
    assert isinstance(sale.metering_role, MeteringRole)


def test_left_out_props_have_their_documented_defaults(shortest: tuple[Template, SellableApi]) -> None:
    template, sale = shortest
    settings = OnboardingSettings.from_environment(
        environment(template.only("AWS::Lambda::Function", "OnboardingFunction"))
    )
    api, stage = template.logical_id(sale.api), template.logical_id(sale.stage)
    assert settings.seller_name == "Api"
    assert settings.sender == ""
    assert settings.example_route == "GET /"
    assert settings.api_url == (f"https://${{{api}}}.execute-api.${{AWS::Region}}.${{AWS::URLSuffix}}/${{{stage}}}")
    assert template.only("AWS::ApiGateway::Authorizer")["Properties"]["AuthorizerResultTtlInSeconds"] == 60
    assert "Throttle" not in template.only("AWS::ApiGateway::UsagePlan")["Properties"]
    tables = template.of_type("AWS::DynamoDB::Table").values()
    assert {table["DeletionPolicy"] for table in tables} == {"Retain"}


def test_the_ready_curl_line_calls_a_route_that_is_sold_and_complete(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = apigateway.RestApi(stack, "Api")
    sell(stack, api, free_routes=["GET /up"])
    for path in ("/up", "/v1/{id}", "/v1/items", "/v1/items/latest"):
        api.root.resource_for_path(path).add_method("GET", backend())
    api.root.resource_for_path("/v1").add_method("POST", backend())
    page = environment(Template(stack).only("AWS::Lambda::Function", "OnboardingFunction"))
    assert page["EXAMPLE_ROUTE"] == "GET /v1/items"


def test_nothing_of_the_account_or_the_callers_stack_is_touched(
    shortest: tuple[Template, SellableApi],
) -> None:
    template, _ = shortest
    outside = {
        resource["Type"]
        for name, resource in template.resources.items()
        if not name.startswith(("Sale", "Api", "Search"))
    }
    assert outside == set()
    assert not [name for name in template.of_type("AWS::Lambda::Function") if "LogRetention" in name]


def test_every_prop_reaches_its_resource(full: tuple[Template, SellableApi]) -> None:
    template, sale = full
    plan = template.only("AWS::ApiGateway::UsagePlan")["Properties"]
    assert plan["UsagePlanName"] == "plan of nouns"
    assert plan["Throttle"] == {"RateLimit": 31, "BurstLimit": 32}
    assert plan["Quota"] == {"Limit": 33, "Period": "DAY"}
    assert plan["ApiStages"][0]["Throttle"] == {"/v1/items/GET": {"RateLimit": 34, "BurstLimit": 35}}
    assert plan["ApiStages"][0]["Stage"].startswith("${Beta")
    assert template.only("AWS::ApiGateway::Authorizer")["Properties"]["AuthorizerResultTtlInSeconds"] == 36
    assert not is_guarded(dict(methods(template, sale.api))["GET /v1/health"])
    [page] = template.only("AWS::ApiGateway::Stage", "Onboarding")["Properties"]["MethodSettings"]
    assert (page["ThrottlingRateLimit"], page["ThrottlingBurstLimit"]) == (37, 38)
    [rule] = template.only("AWS::WAFv2::WebACL")["Properties"]["Rules"]
    assert rule["Statement"]["RateBasedStatement"]["Limit"] == 39
    assert template.only("AWS::ApiGateway::DomainName")["Properties"]["RegionalCertificateArn"] == CERTIFICATE
    assert sale.fulfillment_url == "https://buy.example.com/register"
    assert not [name for name in template.of_type("AWS::IAM::Role") if name.startswith("SaleMeteringRole")]
    alarms = template.of_type("AWS::CloudWatch::Alarm").values()
    assert [alarm["Properties"]["AlarmActions"] for alarm in alarms] == [[TOPIC]] * 3
    for type_ in ("AWS::DynamoDB::Table", "AWS::Logs::LogGroup"):
        removable = {n: r["DeletionPolicy"] for n, r in template.of_type(type_).items()}
        assert set(removable.values()) == {"Delete"}, removable


def test_every_prop_reaches_its_function(full: tuple[Template, SellableApi]) -> None:
    template, _ = full
    page = OnboardingSettings.from_environment(
        environment(template.only("AWS::Lambda::Function", "OnboardingFunction"))
    )
    assert page.seller_name == "Example Corp."
    assert page.support_contact == "help@example.com"
    assert page.logo_url == "https://example.com/logo.png"
    assert page.sender == "noreply@mail.example.com"
    assert page.api_url == "https://nouns.example.com"
    assert page.example_route == "GET /v1/items"
    settings = ReconciliationSettings.from_environment(
        environment(template.only("AWS::Lambda::Function", "Reconciliation"))
    )
    assert settings.observe_every_hours == 4
    senders = {
        r
        for role in ("OnboardingFunctionRole", "ReconciliationRole")
        for r, a in template.actions(role).items()
        if "ses:SendEmail" in a
    }
    assert senders == {"arn:${AWS::Partition}:ses:${AWS::Region}:${AWS::AccountId}:identity/mail.example.com"}


def test_a_concurrent_product_has_no_product_code_and_no_role(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S", env=cdk.Environment(account="111122223333", region="us-east-1"))
    sale = sell(stack, small_api(stack), product=CONCURRENT)
    template = Template(stack)
    assert not template.of_type("Custom::MarketplaceProductCode")
    assert not [name for name in template.of_type("AWS::IAM::Role") if "MeteringRole" in name]
    assert sale.metering_role is None
    assert sale.meter is not None


def test_no_buyer_sets_off_an_update_of_the_usage_plan(full: tuple[Template, SellableApi]) -> None:
    # UpdateUsagePlan may be called once in 20 seconds per account (API Gateway developer guide, quotas; read
    # 2026-11-21), and buyers come as they like.
    template, sale = full
    plan = f"/usageplans/${{{template.logical_id(sale.usage_plan.usage_plan)}}}"
    functions = {
        name: template.actions(resource["Properties"]["Role"]["Fn::GetAtt"][0])
        for name, resource in template.of_type("AWS::Lambda::Function").items()
    }
    able = {
        name
        for name, allowed in functions.items()
        for resource, actions in allowed.items()
        if "apigateway:PATCH" in actions and fnmatch(plan, f"*{resource.rpartition('::')[2]}")
    }
    assert {"Reconciliation" in name or "ProductCodeFunction" in name for name in able} == {True}
    assert len(able) == 2


def test_a_native_product_is_not_warned_of(shortest: tuple[Template, SellableApi]) -> None:
    assert "MP-SALE-20" not in warnings(cdk.Stack.of(shortest[1]))


def test_methods_added_afterwards_and_deep_down_are_guarded_and_preflights_are_not(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = apigateway.RestApi(
        stack,
        "Api",
        default_cors_preflight_options=apigateway.CorsOptions(allow_origins=["https://www.example.com"]),
    )
    sell(stack, api, free_routes=["GET /v1/health"])
    for path in ("/v1/health", "/v1/books/{book}/pages/{page}"):
        api.root.resource_for_path(path).add_method("GET", backend())
    found = dict(methods(Template(stack), api))
    assert not is_guarded(found.pop("GET /v1/health"))
    assert is_guarded(found.pop("GET /v1/books/{book}/pages/{page}"))
    assert found
    assert not any(map(is_guarded, found.values()))
    assert all(route.startswith("OPTIONS ") for route in found)


def test_an_api_that_does_not_deploy_itself_is_sold_with_its_deployment(make_app: MakeApp) -> None:
    def deployment_id(**options: Any) -> str:
        stack = cdk.Stack(make_app(), "S")
        api = small_api(stack, deploy=False)
        deployment = apigateway.Deployment(stack, "Deployment", api=api)
        stage = apigateway.Stage(stack, "Live", deployment=deployment, stage_name="live")
        sell(stack, api, deployment=deployment, stage=stage, **options)
        template = Template(stack)
        assert is_guarded(dict(methods(template, api))["GET /v1/items"])
        assert template.only("AWS::ApiGateway::UsagePlan")["Properties"]["ApiStages"][0]["Stage"].startswith("${Live")
        [found] = [n for n in template.of_type("AWS::ApiGateway::Deployment") if n.startswith("Deployment")]
        return found

    assert deployment_id() != deployment_id(gate_cache_ttl=cdk.Duration.seconds(1))


def test_a_stage_assigned_to_the_api_needs_no_stage_prop(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack, deploy=False)
    deployment = apigateway.Deployment(stack, "Deployment", api=api)
    api.deployment_stage = apigateway.Stage(stack, "Live", deployment=deployment, stage_name="live")
    assert sell(stack, api, deployment=deployment).stage is api.deployment_stage


DOCUMENT = {
    "openapi": "3.0.3",
    "info": {"title": "Items", "version": "1"},
    "paths": {
        path: {
            "get": {
                "x-amazon-apigateway-integration": {
                    "type": "http_proxy",
                    "httpMethod": "GET",
                    "uri": "https://backend.example.com",
                }
            }
        }
        for path in ("/v1/health", "/v1/items")
    },
}


def test_an_openapi_document_is_guarded_and_sold(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    gate = Gate(stack, "Gate", free_routes=["GET /v1/health"])
    api = apigateway.SpecRestApi(
        stack, "Api", api_definition=apigateway.ApiDefinition.from_inline(gate.guard(DOCUMENT))
    )
    sale = sell(stack, api, gate=gate, method_throttles={"GET /v1/items": Throttle(rate_limit=1, burst_limit=1)})
    template = Template(stack)
    [body] = [
        r["Properties"]["Body"]
        for r in template.of_type("AWS::ApiGateway::RestApi").values()
        if "Body" in r["Properties"]
    ]
    assert "security" in body["paths"]["/v1/items"]["get"]
    assert "security" not in body["paths"]["/v1/health"]["get"]
    keys = template.logical_id(gate.keys_table)
    page = environment(template.only("AWS::Lambda::Function", "OnboardingFunction"))
    assert page["KEYS_TABLE"] == f"${{{keys}}}"
    assert sale.gate is gate


def test_two_products_of_one_stack_share_the_role_and_nothing_else(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    first_api, second_api = small_api(stack, "First"), small_api(stack, "Second")
    first = sell(stack, first_api, "FirstSale")
    second = sell(
        stack, second_api, "SecondSale", product=Product.legacy("other456"), metering_role=first.metering_role
    )
    template = Template(stack)
    for api, sale in ((first_api, "FirstSale"), (second_api, "SecondSale")):
        [method] = dict(methods(template, api)).values()
        assert method["AuthorizerId"]["Ref"].startswith(sale)
    codes = {r["Properties"]["ProductCode"] for r in template.of_type("Custom::MarketplaceProductCode").values()}
    assert codes == {"legacy123", "other456"}
    assert first.agreements.settings.key_prefix != second.agreements.settings.key_prefix
    watched = {
        tuple(
            sorted(
                (dimension["Name"], dimension["Value"]) for dimension in metric["MetricStat"]["Metric"]["Dimensions"]
            )
        )
        for name, alarm in template.of_type("AWS::CloudWatch::Alarm").items()
        if "Attention" in name
        for metric in alarm["Properties"]["Metrics"]
        if "MetricStat" in metric
    }
    assert watched == {
        (("sale", sale.agreements.settings.sale), ("service", "sellable-api")) for sale in (first, second)
    }
    assert len(watched) == 2
    roles = template.of_type("AWS::IAM::Role").values()
    assert sum(role["Properties"].get("RoleName") is not None for role in roles) == 1


def test_fails_when_two_native_products_of_one_app_both_define_the_role(make_app: MakeApp) -> None:
    app = make_app()
    for name in ("First", "Second"):
        stack = cdk.Stack(app, name)
        sell(stack, small_api(stack))
    with pytest.raises(RuntimeError, match=r"MP-ROLE-01.*metering_role=MeteringRole\.from_account"):
        app.synth()


def codes_of(stack: cdk.Stack, api: apigateway.IRestApi, **options: Any) -> tuple[str, ...]:
    with pytest.raises(MarketplaceConstructsError) as error:
        sell(stack, api, **options)
    assert all(str(problem).count("expected") == 1 and "; " in str(problem) for problem in error.value.problems)
    return error.value.codes


def test_fails_when_the_api_is_imported(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    assert codes_of(stack, apigateway.RestApi.from_rest_api_id(stack, "Api", "abc123")) == ("MP-SALE-01",)


def test_fails_when_the_api_is_of_another_stack(make_app: MakeApp) -> None:
    app = make_app()
    api = small_api(cdk.Stack(app, "Other"))
    assert codes_of(cdk.Stack(app, "S"), api) == ("MP-SALE-02",)


def test_fails_when_the_stack_is_nested(make_app: MakeApp) -> None:
    stack = cdk.NestedStack(cdk.Stack(make_app(), "Parent"), "Nested")
    assert codes_of(stack, small_api(stack)) == ("MP-SALE-03",)


def test_fails_when_an_api_that_does_not_deploy_itself_has_no_deployment_and_no_stage(
    make_app: MakeApp,
) -> None:
    stack = cdk.Stack(make_app(), "S")
    assert codes_of(stack, small_api(stack, deploy=False)) == ("MP-SALE-04", "MP-SALE-05")


def test_fails_when_deployment_and_stage_are_of_another_api(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    other = small_api(stack, "Other")
    codes = codes_of(stack, small_api(stack), deployment=other.latest_deployment, stage=other.deployment_stage)
    assert codes == ("MP-SALE-04", "MP-SALE-05")


def test_fails_when_a_metering_role_is_given_without_native_metering(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    role = MeteringRole.from_account(stack, "Role")
    assert codes_of(stack, small_api(stack), product=CONCURRENT, metering_role=role) == ("MP-SALE-06",)


def test_fails_when_the_metering_role_has_another_name(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    role = iam.Role.from_role_name(stack, "Role", "ApiGatewayMeteringRole")
    assert codes_of(stack, small_api(stack), metering_role=role) == ("MP-SALE-07",)


def test_fails_when_a_gate_and_its_props_are_both_given(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    gate = Gate(stack, "Gate")
    codes = codes_of(stack, small_api(stack), gate=gate, gate_cache_ttl=cdk.Duration.seconds(0))
    assert codes == ("MP-SALE-08",)


def test_fails_when_a_document_has_no_gate(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    definition = apigateway.ApiDefinition.from_inline(DOCUMENT)
    assert codes_of(stack, apigateway.SpecRestApi(stack, "Api", api_definition=definition)) == ("MP-SALE-09",)


def test_fails_when_a_document_lies_in_s3(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    bucket = cdk.aws_s3.Bucket.from_bucket_name(stack, "Bucket", "documents")
    definition = apigateway.ApiDefinition.from_bucket(bucket, "openapi.json")
    assert codes_of(stack, apigateway.SpecRestApi(stack, "Api", api_definition=definition)) == ("MP-SALE-10",)


def test_fails_when_the_gate_is_of_another_stack(make_app: MakeApp) -> None:
    app = make_app()
    stack = cdk.Stack(app, "S")
    assert codes_of(stack, small_api(stack), gate=Gate(cdk.Stack(app, "Other"), "Gate")) == ("MP-SALE-11",)


def test_fails_when_a_method_has_an_authorizer_of_its_own(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    api.root.add_method("GET", backend(), authorization_type=apigateway.AuthorizationType.IAM)
    sell(stack, api)
    with pytest.raises(RuntimeError, match=r"MP-GATE-03: route GET /,"):
        Template(stack)


def test_all_contradictions_that_show_at_once_are_reported_together(make_app: MakeApp) -> None:
    app = make_app()
    stack = cdk.Stack(app, "S")
    codes = codes_of(
        stack,
        small_api(cdk.Stack(app, "Other"), deploy=False),
        product=CONCURRENT,
        support_contact="nobody",
        logo_url="http://example.com",
        throttle=Throttle(rate_limit=0, burst_limit=1),
        quota=Quota(limit=0, period=Period.DAY),
        free_routes=["/v1"],
        gate_cache_ttl=cdk.Duration.hours(2),
        onboarding_throttle=Throttle(rate_limit=1, burst_limit=0),
        domain_name="buy.example.com",
        metering_role=MeteringRole.from_account(stack, "Role"),
        observe_every=cdk.Duration.days(2),
    )
    assert codes == (
        "MP-SALE-02",
        "MP-SALE-04",
        "MP-SALE-05",
        "MP-SALE-06",
        "MP-SELLER-02",
        "MP-SELLER-03",
        "MP-PLAN-01",
        "MP-PLAN-03",
        "MP-PLAN-05",
        "MP-GATE-01",
        "MP-AGREEMENT-01",
        "MP-PLAN-02",
        "MP-ONBOARDING-02",
    )
    assert stack.node.try_find_child("Sale") is None


def test_metrics_are_of_the_sold_stage_under_their_official_names(
    shortest: tuple[Template, SellableApi],
) -> None:
    _, sale = shortest
    metrics = [
        sale.metric_count(),
        sale.metric_client_error(),
        sale.metric_server_error(),
        sale.metric_latency(),
    ]
    assert [metric.metric_name for metric in metrics] == ["Count", "4XXError", "5XXError", "Latency"]
    assert {metric.namespace for metric in metrics} == {"AWS/ApiGateway"}
    assert all({"ApiName", "Stage"} <= set(metric.dimensions or {}) for metric in metrics)


def test_an_operator_may_be_shown_agreements(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    sale = sell(stack, small_api(stack))
    sale.grant_read_agreements(iam.Role(stack, "Operator", assumed_by=iam.AccountRootPrincipal()))
    [actions] = Template(stack).actions("Operator").values()
    assert actions == {"dynamodb:Query", "dynamodb:Scan"}
