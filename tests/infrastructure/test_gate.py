from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from templates import MakeApp, Template, backend, environment, methods, small_api

from marketplace_constructs import Gate, MarketplaceConstructsError
from marketplace_constructs.runtime.settings import GateSettings

DefineApi = Callable[[cdk.Stack], apigateway.IRestApi]
OPEN = {"ApiKeyRequired": None, "AuthorizationType": "NONE", "AuthorizerId": None}


def guard_of(method: dict[str, Any]) -> dict[str, Any]:
    return {key: method.get(key) for key in OPEN}


@pytest.fixture(scope="module")
def guarded(make_app: MakeApp) -> tuple[Template, apigateway.RestApi, Gate]:
    """An API of many shapes: CORS, a free route, nested resources, a proxy; methods come after the gate."""
    stack = cdk.Stack(make_app(), "Guarded")
    api = apigateway.RestApi(
        stack,
        "Api",
        cloud_watch_role=False,
        default_cors_preflight_options=apigateway.CorsOptions(allow_origins=["https://www.example.com"]),
    )
    gate = Gate(
        stack,
        "Gate",
        free_routes=["GET /v1/health"],
        cache_ttl=cdk.Duration.seconds(17),
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    gate.guard_api(api)
    for path in ("/v1/health", "/v1/items", "/v1/items/{id}/parts/{part}"):
        api.root.resource_for_path(path).add_method("GET", backend())
    api.root.resource_for_path("/v1/health").add_method("POST", backend())
    api.root.resource_for_path("/proxy").add_proxy(default_integration=backend())
    return Template(stack), api, gate


def test_every_method_but_preflights_and_free_routes_gets_key_and_gate(
    guarded: tuple[Template, apigateway.RestApi, Gate],
) -> None:
    template, api, _ = guarded
    [authorizer] = template.of_type("AWS::ApiGateway::Authorizer")
    shut = {"ApiKeyRequired": True, "AuthorizationType": "CUSTOM", "AuthorizerId": {"Ref": authorizer}}
    found = {route: guard_of(method) for route, method in methods(template, api)}
    preflights = {route for route in found if route.startswith("OPTIONS ")}
    assert len(preflights) >= 8
    assert {json.dumps(found.pop(route)) for route in preflights} == {json.dumps({**OPEN, "ApiKeyRequired": False})}
    assert found.pop("GET /v1/health") == OPEN
    assert found == dict.fromkeys(
        ["POST /v1/health", "GET /v1/items", "GET /v1/items/{id}/parts/{part}", "ANY /proxy/{proxy+}"], shut
    )


def test_a_preflight_made_by_hand_stays_open(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    api.root.add_method("OPTIONS", apigateway.MockIntegration())
    Gate(stack, "Gate").guard_api(api)
    assert guard_of(dict(methods(Template(stack), api))["OPTIONS /"]) == OPEN


def test_an_answer_is_cached_for_one_key_method_and_resource_only(
    guarded: tuple[Template, apigateway.RestApi, Gate],
) -> None:
    authorizer = guarded[0].only("AWS::ApiGateway::Authorizer")["Properties"]
    assert authorizer["Type"] == "REQUEST"
    assert authorizer["IdentitySource"].split(",") == [
        "method.request.header.x-api-key",
        "context.httpMethod",
        "context.resourcePath",
    ]
    assert authorizer["AuthorizerResultTtlInSeconds"] == 17
    [function] = guarded[0].of_type("AWS::Lambda::Function")
    assert authorizer["AuthorizerUri"].endswith(f":lambda:path/2015-03-31/functions/${{{function}.Arn}}/invocations")


def test_only_api_gateway_for_this_authorizer_may_call_the_gate(
    guarded: tuple[Template, apigateway.RestApi, Gate],
) -> None:
    template, api, _ = guarded
    [authorizer] = template.of_type("AWS::ApiGateway::Authorizer")
    permission = template.only("AWS::Lambda::Permission")["Properties"]
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert permission["SourceArn"] == (
        f"arn:${{AWS::Partition}}:execute-api:${{AWS::Region}}:${{AWS::AccountId}}:${{{template.logical_id(api)}}}"
        f"/authorizers/${{{authorizer}}}"
    )


def test_the_gate_reads_one_item_of_one_table_and_knows_no_usage_plan(
    guarded: tuple[Template, apigateway.RestApi, Gate],
) -> None:
    template, _, gate = guarded
    table = template.logical_id(gate.keys_table)
    function = template.only("AWS::Lambda::Function")
    assert function["Properties"]["Handler"] == "marketplace_constructs.runtime.gate.handler"
    settings = GateSettings.from_environment(environment(function))
    assert settings == GateSettings(keys_table=f"${{{table}}}")
    assert template.actions("GateFunctionRole")[f"${{{table}.Arn}}"] == {"dynamodb:GetItem"}
    assert len(template.actions("GateFunctionRole")) == 3


def test_the_removal_policy_reaches_table_and_log(guarded: tuple[Template, apigateway.RestApi, Gate]) -> None:
    template = guarded[0]
    for type_ in ("AWS::DynamoDB::Table", "AWS::Logs::LogGroup"):
        assert template.only(type_)["DeletionPolicy"] == "Delete"
    assert template.only("AWS::DynamoDB::Table")["Properties"]["DeletionProtectionEnabled"] is False


def test_the_table_is_retained_restorable_and_protected_by_default(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    Gate(stack, "Gate").guard_api(small_api(stack))
    table = Template(stack).only("AWS::DynamoDB::Table")
    assert table["DeletionPolicy"] == "Retain"
    assert table["Properties"]["DeletionProtectionEnabled"] is True
    assert table["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["Properties"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["Properties"]["KeySchema"] == [{"AttributeName": "key_sha256", "KeyType": "HASH"}]


def deployment_id(make_app: MakeApp, **options: Any) -> str:
    stack = cdk.Stack(make_app(), "S")
    Gate(stack, "Gate", **options).guard_api(small_api(stack))
    [found] = Template(stack).of_type("AWS::ApiGateway::Deployment")
    return found


def test_what_the_gate_changes_is_deployed(make_app: MakeApp) -> None:
    plain = deployment_id(make_app)
    assert deployment_id(make_app) == plain
    changed = {
        plain,
        deployment_id(make_app, cache_ttl=cdk.Duration.seconds(61)),
        deployment_id(make_app, free_routes=["GET /v1/items"]),
    }
    assert len(changed) == 3


def test_a_property_set_on_the_authorizer_afterwards_is_deployed_too(make_app: MakeApp) -> None:
    def made(ttl: int | None) -> str:
        stack = cdk.Stack(make_app(), "S")
        gate = Gate(stack, "Gate")
        gate.guard_api(small_api(stack))
        if ttl is not None:
            authorizer = gate.node.find_child("Authorizer")
            assert isinstance(authorizer, apigateway.CfnAuthorizer)
            authorizer.authorizer_result_ttl_in_seconds = ttl
        [found] = Template(stack).of_type("AWS::ApiGateway::Deployment")
        return found

    assert made(None) != made(5)


def test_a_cache_time_of_zero_stays_zero(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    Gate(stack, "Gate", cache_ttl=cdk.Duration.seconds(0)).guard_api(small_api(stack))
    authorizer = Template(stack).only("AWS::ApiGateway::Authorizer")
    assert authorizer["Properties"]["AuthorizerResultTtlInSeconds"] == 0


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"cache_ttl": cdk.Duration.seconds(3601)}, ("MP-GATE-01",)),
        ({"cache_ttl": cdk.Duration.seconds(3600), "free_routes": ["/v1"]}, ("MP-PLAN-05",)),
        ({"cache_ttl": cdk.Duration.hours(2), "free_routes": ["get /v1"]}, ("MP-PLAN-05", "MP-GATE-01")),
    ],
)
def test_fails_when_a_prop_of_the_gate_is_out_of_range(
    make_app: MakeApp, options: dict[str, Any], codes: tuple[str, ...]
) -> None:
    with pytest.raises(MarketplaceConstructsError) as error:
        Gate(cdk.Stack(make_app(), "S"), "Gate", **options)
    assert error.value.codes == codes


def test_fails_when_the_api_does_not_deploy_itself_and_no_deployment_is_given(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack, deploy=False)
    with pytest.raises(MarketplaceConstructsError, match="MP-GATE-08"):
        Gate(stack, "Gate").guard_api(api)


def refused(make_app: MakeApp, text: str, **gate_options: Any) -> Callable[[DefineApi], None]:
    """A function to hand an API-making function to; its stack must be refused with a text."""

    def check(define: DefineApi) -> None:
        stack = cdk.Stack(make_app(), "S")
        Gate(stack, "Gate", **gate_options).guard_api(define(stack))
        with pytest.raises(RuntimeError, match=text):
            Template(stack)

    return check


def with_method(stack: cdk.Stack, **options: Any) -> apigateway.RestApi:
    api = small_api(stack)
    api.root.resource_for_path("/v1/other").add_method("GET", backend(), **options)
    return api


def test_fails_when_a_method_refuses_the_key(make_app: MakeApp) -> None:
    check = refused(make_app, r"MP-GATE-02: route GET /v1/other, got api_key_required=False")
    check(lambda stack: with_method(stack, api_key_required=False))


def test_fails_when_a_real_options_method_refuses_the_key(make_app: MakeApp) -> None:
    def define(stack: cdk.Stack) -> apigateway.RestApi:
        api = small_api(stack)
        api.root.add_method("OPTIONS", backend(), api_key_required=False)
        return api

    refused(make_app, "MP-GATE-02: route OPTIONS /,")(define)


def test_fails_when_a_method_has_an_authorizer_of_its_own(make_app: MakeApp) -> None:
    check = refused(make_app, r"MP-GATE-03: route GET /v1/other, got an authorizer of its own, AWS_IAM")
    check(lambda stack: with_method(stack, authorization_type=apigateway.AuthorizationType.IAM))


def test_fails_when_a_free_route_is_no_route(make_app: MakeApp) -> None:
    check = refused(make_app, r"MP-GATE-04: free route, got 'GET /health'.*GET /v1/items", free_routes=["GET /health"])
    check(small_api)


def test_fails_when_the_key_is_not_read_from_the_header(make_app: MakeApp) -> None:
    check = refused(make_app, "MP-GATE-05: API key source, got AUTHORIZER; expected HEADER")
    check(lambda stack: small_api(stack, api_key_source_type=apigateway.ApiKeySourceType.AUTHORIZER))


def test_fails_when_a_method_stands_where_the_gate_does_not_reach(make_app: MakeApp) -> None:
    def define(stack: cdk.Stack) -> apigateway.RestApi:
        api = small_api(stack)
        apigateway.Method(stack, "Elsewhere", http_method="PUT", resource=api.root, integration=backend())
        return api

    refused(make_app, "MP-GATE-06: method S/Elsewhere/Resource")(define)


def test_all_that_contradicts_the_gate_is_reported_together(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    Gate(stack, "Gate", free_routes=["GET /nowhere"]).guard_api(with_method(stack, api_key_required=False))
    with pytest.raises(RuntimeError, match=r"(?s)MP-GATE-04.*MP-GATE-02"):
        Template(stack)


DOCUMENT = {
    "openapi": "3.0.3",
    "info": {"title": "Items", "version": "1"},
    "paths": {
        "/v1/health": {"get": {"security": []}},
        "/v1/items": {
            "parameters": [],
            "get": {
                "x-amazon-apigateway-integration": {
                    "type": "http_proxy",
                    "httpMethod": "GET",
                    "uri": "https://b.example.com",
                }
            },
            "options": {"x-amazon-apigateway-integration": {"type": "mock"}},
            "x-amazon-apigateway-any-method": {"security": [{"ApiKey": []}]},
        },
    },
    "components": {"securitySchemes": {"ApiKey": {"type": "apiKey", "name": "x-api-key", "in": "header"}}},
}


@pytest.fixture
def gate(make_app: MakeApp) -> Gate:
    return Gate(cdk.Stack(make_app(), "S"), "Gate", free_routes=["GET /v1/health"], cache_ttl=cdk.Duration.seconds(9))


def test_a_document_gets_key_and_gate_on_every_operation_but_preflights_and_free_routes(gate: Gate) -> None:
    before = json.dumps(DOCUMENT)
    guarded = cdk.Stack.of(gate).resolve(gate.guard(DOCUMENT))
    assert json.dumps(DOCUMENT) == before
    both: list[dict[str, list[str]]] = [{"marketplace_key": [], "marketplace_gate": []}]
    items = guarded["paths"]["/v1/items"]
    assert items["get"]["security"] == both
    assert items["x-amazon-apigateway-any-method"]["security"] == both
    assert "security" not in items["options"]
    assert guarded["paths"]["/v1/health"]["get"]["security"] == []
    authorizer = guarded["components"]["securitySchemes"]["marketplace_gate"]["x-amazon-apigateway-authorizer"]
    assert authorizer["type"] == "request"
    assert authorizer["authorizerResultTtlInSeconds"] == 9
    assert authorizer["identitySource"].split(", ") == [
        "method.request.header.x-api-key",
        "context.httpMethod",
        "context.resourcePath",
    ]


def test_guarding_a_document_twice_changes_nothing_more(gate: Gate) -> None:
    once = gate.guard(DOCUMENT)
    assert gate.guard(once) == once == gate.guard(DOCUMENT)


def test_a_swagger_document_is_guarded_in_its_own_words(gate: Gate) -> None:
    document = {"swagger": "2.0", "paths": {"/v1/health": {"get": {}}, "/v1/items": {"get": {}}}}
    guarded: dict[str, Any] = gate.guard(document)
    assert set(guarded["securityDefinitions"]) == {"marketplace_key", "marketplace_gate"}
    assert "components" not in guarded


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"paths": {"/v1/health": {"get": {}}, "/v1/items": {"get": {"security": []}}}}, "MP-GATE-02"),
        (
            {
                "paths": {"/v1/health": {"get": {}}, "/v1/items": {"get": {"security": [{"Other": []}]}}},
                "components": {"securitySchemes": {"Other": {"type": "oauth2"}}},
            },
            "MP-GATE-03",
        ),
        (
            {
                "paths": {"/v1/health": {"get": {}}, "/v1/items": {"get": {}}},
                "security": [{"Other": []}],
                "components": {"securitySchemes": {"Other": {"type": "oauth2"}}},
            },
            "MP-GATE-03",
        ),
        ({"paths": {"/v1/items": {"get": {}}}}, "MP-GATE-04"),
        ({"x-amazon-apigateway-api-key-source": "AUTHORIZER"}, "MP-GATE-05"),
    ],
)
def test_fails_when_a_document_contradicts_the_gate(gate: Gate, change: dict[str, Any], code: str) -> None:
    with pytest.raises(MarketplaceConstructsError) as error:
        gate.guard({**DOCUMENT, **change})
    assert error.value.codes == (code,)


def test_an_api_of_a_guarded_document_is_accepted_and_may_call_the_gate(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    gate = Gate(stack, "Gate", free_routes=["GET /v1/health"])
    api = apigateway.SpecRestApi(
        stack, "Api", api_definition=apigateway.ApiDefinition.from_inline(gate.guard(DOCUMENT))
    )
    gate.guard_api(api)
    template = Template(stack)
    assert not template.of_type("AWS::ApiGateway::Authorizer")
    permission = template.only("AWS::Lambda::Permission")["Properties"]
    assert permission["SourceArn"].endswith(f":${{{template.logical_id(api)}}}/authorizers/*")


@pytest.mark.parametrize("forget", ["everything", "one operation"])
def test_fails_when_an_api_was_made_of_a_document_without_the_gate(make_app: MakeApp, forget: str) -> None:
    stack = cdk.Stack(make_app(), "S")
    gate = Gate(stack, "Gate", free_routes=["GET /v1/health"])
    document: dict[str, Any] = DOCUMENT
    if forget == "one operation":
        document = cast("dict[str, Any]", gate.guard(DOCUMENT))
        del document["paths"]["/v1/items"]["get"]["security"]
    api = apigateway.SpecRestApi(stack, "Api", api_definition=apigateway.ApiDefinition.from_inline(document))
    gate.guard_api(api)
    with pytest.raises(RuntimeError, match=r"MP-GATE-07.*gate\.guard\(document\)"):
        Template(stack)
