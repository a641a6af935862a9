from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import jsii
import pytest
from aws_cdk import assertions
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct
from templates import STATEFUL, MakeApp, Template, backend, environment, methods, small_api
from written_pools import NATIVE, limit, plan, policy, price_list, product, write_pool

from marketplace_constructs import (
    AgreementKind,
    Dimension,
    Gate,
    MarketplaceConstructsError,
    Metering,
    Monetization,
    Period,
    PricingModel,
    Product,
    Quota,
    SellableApi,
    Throttle,
)
from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.runtime.settings import GateSettings, OnboardingSettings, PlansSettings

HEALTH_IS_FREE = {
    "Sid": "HealthIsFree",
    "Effect": "Exempt",
    "Action": "GET",
    "Resource": "/v1/health",
    "Dimension": "*",
}
SEVERAL = (
    policy(
        "items",
        HEALTH_IS_FREE,
        limit("Pace", "GET", "/v1/items", 3, 4),
        limit("HealthPace", "GET", "/v1/health", 1, 1),
        {**limit("Everything", "*", "/**", 30, 31), "Condition": {"StringEquals": {"plan:Segment": "partner"}}},
        {**limit("BetaOnly", "*", "/**", 0.5, 2), "Condition": {"StringEquals": {"api:Stage": "beta"}}},
    ),
    policy(
        "reader",
        HEALTH_IS_FREE,
        limit("Refused", "GET", "/v1/more", 1, 1),
        {"Sid": "NoMore", "Effect": "Deny", "Action": "*", "Resource": "/v1/more"},
    ),
    plan("retail", Quota={"Limit": 5, "Period": "DAY"}),
    plan("retail", 2, Throttle={"RateLimit": 11, "BurstLimit": 21}, EffectiveFrom="2027-01-01T00:00:00Z"),
    plan(
        "partner",
        Segment="partner",
        Throttle={"RateLimit": 50, "BurstLimit": 29},
        AssignTo={"Offers": ["offer-example2", "offer-example1"]},
    ),
    plan("reader", Policies=["reader@1"], AssignTo={"Accounts": ["123456789012"]}),
    plan("internal", Segment="internal", Channel="Internal"),
)


def sell(stack: cdk.Stack, api: apigateway.IRestApi, pool: Path, **options: Any) -> SellableApi:
    monetization = Monetization.from_directory(pool, product_code="items123")
    return SellableApi(
        stack, "Sale", **{"api": api, "monetization": monetization, "support_contact": "help@example.com", **options}
    )


def usage_plans(template: Template) -> dict[str, dict[str, Any]]:
    plans = template.of_type("AWS::ApiGateway::UsagePlan").values()
    return {found["Properties"]["UsagePlanName"]: found["Properties"] for found in plans}


def tables(template: Template) -> dict[str, PlanTable]:
    versions = template.only("Custom::MarketplacePlans")["Properties"]["Plans"]
    return {
        version["Plan"]: PlanTable.from_text(gzip.decompress(base64.b64decode(version["Table"])).decode())
        for version in versions
    }


def warnings(stack: cdk.Stack) -> list[str]:
    found = assertions.Annotations.from_stack(stack).find_warning("*", assertions.Match.any_value())
    return [str(message.entry.data) for message in found]


@pytest.fixture(scope="module")
def several(make_app: MakeApp, tmp_path_factory: pytest.TempPathFactory) -> tuple[Template, SellableApi]:
    """Five plans in three segments, with routes that are added after the sale."""
    stack = cdk.Stack(make_app(), "Several", env=cdk.Environment(account="111122223333", region="us-east-1"))
    api = apigateway.RestApi(stack, "Api", cloud_watch_role=False)
    sale = sell(stack, api, write_pool(tmp_path_factory.mktemp("pool"), *SEVERAL), free_routes=["GET /v1/health"])
    for path in ("/v1/items", "/v1/more", "/v1/health", "/v1/any-of-them"):
        api.root.resource_for_path(path).add_method("ANY" if "any" in path else "GET", backend())
    return Template(stack), sale


def test_each_plan_document_is_a_usage_plan_with_its_limits(several: tuple[Template, SellableApi]) -> None:
    template, sale = several
    found = usage_plans(template)
    assert {name: (p["Throttle"]["RateLimit"], p["Throttle"]["BurstLimit"]) for name, p in found.items()} == {
        "items-api internal@1": (10, 20),
        "items-api partner@1": (30, 29),
        "items-api reader@1": (10, 20),
        "items-api retail@1": (10, 20),
        "items-api retail@2": (11, 21),
    }
    assert {name: p.get("Quota") for name, p in found.items() if "retail" in name} == {
        "items-api retail@1": {"Limit": 5, "Period": "DAY"},
        "items-api retail@2": None,
    }
    assert sale.plans is not None
    assert list(sale.plans.usage_plans) == ["internal@1", "partner@1", "reader@1", "retail@1", "retail@2"]
    assert sale.usage_plan is sale.plans.usage_plans["retail@2"]


def test_limits_of_routes_are_method_throttles_where_a_key_can_come_also_of_routes_that_were_added_afterwards(
    several: tuple[Template, SellableApi],
) -> None:
    found = usage_plans(several[0])
    throttles = {name: p["ApiStages"][0].get("Throttle") for name, p in found.items()}
    pace = {"/v1/items/GET": {"RateLimit": 3, "BurstLimit": 4}}
    assert throttles.pop("items-api reader@1") is None
    assert throttles == dict.fromkeys(throttles, pace)


def test_the_gate_knows_which_routes_each_plan_allows(several: tuple[Template, SellableApi]) -> None:
    found = tables(several[0])
    routes = {("GET", "/v1/items"), ("GET", "/v1/more"), ("GET", "/v1/health")}
    any_of_them = {
        (method, "/v1/any-of-them") for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
    }
    assert found["retail@1"].allowed == routes | any_of_them
    assert found["reader@1"].allowed == (routes | any_of_them) - {("GET", "/v1/more")}
    assert {name: (table.segment, table.channel) for name, table in found.items()} == {
        "internal@1": ("internal", "Internal"),
        "partner@1": ("partner", "Marketplace"),
        "reader@1": ("retail", "Marketplace"),
        "retail@1": ("retail", "Marketplace"),
        "retail@2": ("retail", "Marketplace"),
    }


def test_what_is_deployed_of_each_plan_is_recorded(several: tuple[Template, SellableApi]) -> None:
    template, sale = several
    assert sale.plans is not None
    versions = template.only("Custom::MarketplacePlans")["Properties"]["Plans"]
    assert {v["Plan"]: (v["AssignTo"], v["EffectiveFrom"]) for v in versions} == {
        "internal@1": ('"Default"', ""),
        "partner@1": ('{"Offers": ["offer-example2", "offer-example1"]}', ""),
        "reader@1": ('{"Accounts": ["123456789012"]}', ""),
        "retail@1": ('"Default"', ""),
        "retail@2": ('"Default"', "2027-01-01T00:00:00Z"),
    }
    for version in versions:
        logical_id = template.logical_id(sale.plans.usage_plans[version["Plan"]].usage_plan)
        assert version["UsagePlanId"] == f"${{{logical_id}}}"


def test_the_same_documents_give_the_same_tables(make_app: MakeApp, tmp_path: Path) -> None:
    def packed(*, is_sale_first: bool) -> list[str]:
        stack = cdk.Stack(make_app(), "S")
        api = apigateway.RestApi(stack, "Api", cloud_watch_role=False)
        if not is_sale_first:
            api.root.resource_for_path("/v1/items").add_method("GET", backend())
        sell(stack, api, pool)
        if is_sale_first:
            api.root.resource_for_path("/v1/items").add_method("GET", backend())
        return [v["Table"] for v in Template(stack).only("Custom::MarketplacePlans")["Properties"]["Plans"]]

    pool = write_pool(tmp_path)
    [table] = packed(is_sale_first=True)
    assert [table] == packed(is_sale_first=False)
    assert base64.b64decode(table)[4:8] == bytes(4), "it holds the time at which it was made"


def test_a_route_that_comes_last_of_all_is_in_the_tables(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    sell(stack, api, write_pool(tmp_path, policy("items", limit("Pace", "*", "/v1/late", 3, 4))))

    @jsii.implements(cdk.IAspect)
    class AddRoute:
        def visit(self, node: IConstruct) -> None:
            if node is last and not [method for method in api.methods if method.resource.path == "/v1/late"]:
                api.root.resource_for_path("/v1/late").add_method("GET", backend())

    last = Construct(stack, "VisitedAfterTheSale")
    cdk.Aspects.of(last).add(AddRoute(), priority=cdk.AspectPriority.MUTATING)
    template = Template(stack)
    [found] = tables(template).values()
    assert ("GET", "/v1/late") in found.allowed
    [usage_plan] = usage_plans(template).values()
    assert set(usage_plan["ApiStages"][0]["Throttle"]) == {"/v1/late/GET"}


def test_a_change_of_documents_or_routes_replaces_nothing_that_buyers_depend_on(
    make_app: MakeApp, tmp_path: Path
) -> None:
    def stateful(pool: Path, *routes: str) -> dict[str, str]:
        stack = cdk.Stack(make_app(), "S")
        api = small_api(stack)
        sell(stack, api, pool)
        for route in routes:
            api.root.resource_for_path(route).add_method("GET", backend())
        found = Template(stack).resources.items()
        return {name: resource["Type"] for name, resource in found if resource["Type"] in STATEFUL}

    before = stateful(write_pool(tmp_path / "before"))
    changed = (
        policy("items", limit("Pace", "*", "/v1/items", 3, 4)),
        plan("a-first-one", AssignTo={"Offers": ["offer-example1"]}),
        plan("retail", Quota={"Limit": 5, "Period": "DAY"}, Throttle={"RateLimit": 1, "BurstLimit": 1}),
        plan("retail", 2),
    )
    after = stateful(write_pool(tmp_path / "after", *changed), "/v1/more")
    assert before.items() <= after.items()
    assert sorted(after[name] for name in set(after) - set(before)) == ["AWS::ApiGateway::UsagePlan"] * 2


def test_functions_find_the_tables_and_may_do_no_more_than_they_need(several: tuple[Template, SellableApi]) -> None:
    template, sale = several
    assert sale.plans is not None
    table = template.logical_id(sale.plans.table)
    bucket = template.logical_id(sale.plans.tables_bucket)
    record = PlansSettings.from_environment(environment(template.only("AWS::Lambda::Function", "PlansFunction")))
    assert record == PlansSettings(plans_table=f"${{{table}}}", tables_bucket=f"${{{bucket}}}")
    gate = GateSettings.from_environment(environment(template.only("AWS::Lambda::Function", "GateFunction")))
    assert gate.plans_table == f"${{{table}}}"
    page = OnboardingSettings.from_environment(environment(template.only("AWS::Lambda::Function", "OnboardingFunc")))
    assert page.plans_table == f"${{{table}}}"
    assert page.usage_plan_id == f"${{{template.logical_id(sale.usage_plan.usage_plan)}}}"

    recording = template.actions("PlansFunctionRole")
    assert recording[f"${{{table}.Arn}}"] == {"dynamodb:PutItem", "dynamodb:Scan"}
    assert recording[f"${{{bucket}.Arn}}/plan-tables/*"] == {"s3:PutObject"}
    assert template.actions("GateFunctionRole")[f"${{{table}.Arn}}"] == {"dynamodb:Query"}
    for role in ("OnboardingFunctionRole", "SubscriptionEventsFunctionRole", "ReconciliationRole"):
        assert template.actions(role)[f"${{{table}.Arn}}"] == {"dynamodb:Scan"}


def test_keys_may_be_moved_between_the_plans_of_the_sale_and_no_others(several: tuple[Template, SellableApi]) -> None:
    template, sale = several
    assert sale.plans is not None
    plans = [template.logical_id(plan.usage_plan) for plan in sale.plans.usage_plans.values()]
    arn = "arn:${AWS::Partition}:apigateway:us-east-1::/usageplans/"
    for role in ("OnboardingFunctionRole", "SubscriptionEventsFunctionRole", "ReconciliationRole"):
        allowed = template.actions(role)
        in_plans = {resource: actions for resource, actions in allowed.items() if "/usageplans/" in resource}
        expected = {f"{arn}${{{plan}}}/keys": {"apigateway:POST"} for plan in plans}
        expected |= {f"{arn}${{{plan}}}/keys/*": {"apigateway:DELETE", "apigateway:GET"} for plan in plans}
        if role == "ReconciliationRole":
            expected = {
                name: actions | ({"apigateway:GET"} if name.endswith("/keys") else set())
                for name, actions in expected.items()
            }
            expected |= {f"{arn}${{{plan}}}": {"apigateway:GET", "apigateway:PATCH"} for plan in plans}
        assert {k.replace("arn:aws:", "arn:${AWS::Partition}:"): v for k, v in in_plans.items()} == expected


def test_access_is_reconciled_when_an_hour_has_begun(several: tuple[Template, SellableApi]) -> None:
    rule = several[0].only("AWS::Events::Rule", "Hourly")["Properties"]
    assert rule["ScheduleExpression"] == "cron(1 * * * ? *)"


@pytest.mark.parametrize("has_documents", [True, False])
def test_a_reconciliation_records_plans_even_where_it_has_nothing_to_ask_of_aws(
    make_app: MakeApp,
    tmp_path: Path,
    has_documents: bool,  # noqa: FBT001
) -> None:
    stack = cdk.Stack(make_app(), "S")
    pool = write_pool(tmp_path, product(**NATIVE), policy(dimension="apigateway"), price_list(apigateway="0.001"))
    sold: dict[str, Any] = {} if has_documents else {"monetization": None, "product": Product.legacy("items123")}
    sale = sell(stack, small_api(stack), pool, **sold)
    template = Template(stack)
    facts = template.actions("ReconciliationRole")[f"${{{template.logical_id(sale.agreements.facts_table)}.Arn}}"]
    assert facts - {"dynamodb:Query", "dynamodb:Scan"} == ({"dynamodb:PutItem"} if has_documents else set())


def test_tables_are_kept_private_encrypted_and_for_good(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    sell(stack, small_api(stack), write_pool(tmp_path), removal_policy=cdk.RemovalPolicy.DESTROY)
    template = Template(stack)
    bucket = template.only("AWS::S3::Bucket", "PlansTables")
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    bucket_policy = template.only("AWS::S3::BucketPolicy", "PlansTables")
    [statement] = bucket_policy["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert bucket_policy["DeletionPolicy"] == "Retain"
    table = template.only("AWS::DynamoDB::Table", "PlansTable")
    assert table["DeletionPolicy"] == "Delete"
    assert table["Properties"]["KeySchema"] == [
        {"AttributeName": "plan", "KeyType": "HASH"},
        {"AttributeName": "holds_from", "KeyType": "RANGE"},
    ]


def test_the_ready_curl_line_calls_a_route_of_the_default_plan(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    api.root.resource_for_path("/v1").add_method("GET", backend())
    deny = {"Sid": "NotThis", "Effect": "Deny", "Action": "GET", "Resource": "/v1"}
    sell(stack, api, write_pool(tmp_path, policy("items", deny)))
    page = environment(Template(stack).only("AWS::Lambda::Function", "OnboardingFunction"))
    assert page["EXAMPLE_ROUTE"] == "GET /v1/items"


def test_methods_are_guarded_whatever_plans_allow(several: tuple[Template, SellableApi]) -> None:
    template, sale = several
    found = dict(methods(template, sale.api))
    assert {route for route, method in found.items() if "AuthorizerId" not in method} == {"GET /v1/health"}


def test_native_metering_bills_the_plans_of_marketplace_alone(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    pool = write_pool(
        tmp_path,
        product(**NATIVE),
        policy(dimension="apigateway"),
        price_list(apigateway="0.001"),
        plan("retail"),
        plan("gold", AssignTo={"Offers": ["offer-example1"]}),
        plan("internal", Segment="internal", Channel="Internal"),
    )
    sale = sell(stack, small_api(stack), pool)
    template = Template(stack)
    assert sale.plans is not None
    billed = {
        r["Properties"]["UsagePlanId"]["Ref"] for r in template.of_type("Custom::MarketplaceProductCode").values()
    }
    assert billed == {template.logical_id(sale.plans.usage_plans[name].usage_plan) for name in ("gold@1", "retail@1")}
    assert sale.metering_role is not None


def test_pipeline_metering_puts_no_product_code_on_any_plan(several: tuple[Template, SellableApi]) -> None:
    assert not several[0].of_type("Custom::MarketplaceProductCode")


def test_conditions_see_the_name_of_the_stage(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack, deploy_options=apigateway.StageOptions(stage_name="beta"))
    sell(stack, api, write_pool(tmp_path, *SEVERAL))
    found = usage_plans(Template(stack))
    assert {name: p["Throttle"]["RateLimit"] for name, p in found.items()} == dict.fromkeys(found, 0.5) | {
        "items-api reader@1": 10
    }


def test_fails_when_the_documents_have_errors_on_the_stage_that_is_sold(make_app: MakeApp, tmp_path: Path) -> None:
    beta = {"Condition": {"StringEquals": {"api:Stage": "beta"}}}
    meter = {"Effect": "Meter", "Action": "*", "Resource": "/**", "Dimension": "calls"}
    tie = [{"Sid": sid, **meter, **beta, "Quantity": {"Metric": "requests"}} for sid in ("One", "Other")]
    pool = write_pool(tmp_path, policy("items", *tie))

    def synthesize(stage: str) -> None:
        stack = cdk.Stack(make_app(), "S")
        sell(stack, small_api(stack, deploy_options=apigateway.StageOptions(stage_name=stage)), pool)
        Template(stack)

    synthesize("prod")
    with pytest.raises(RuntimeError, match=r"MON105.*One"):
        synthesize("beta")


def test_what_a_plan_allows_on_the_stage_is_in_its_table(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack, deploy_options=apigateway.StageOptions(stage_name="beta"))
    deny = {"Sid": "NotOnBeta", "Effect": "Deny", "Action": "*", "Resource": "/v1/more"}
    api.root.resource_for_path("/v1/more").add_method("GET", backend())
    condition = {"Condition": {"StringEquals": {"api:Stage": "beta"}}}
    sell(stack, api, write_pool(tmp_path, policy("items", {**deny, **condition})))
    [found] = tables(Template(stack)).values()
    assert found.allowed == {("GET", "/v1/items")}


def test_an_api_of_an_openapi_document_is_sold_by_plans(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    gate = Gate(stack, "Gate", free_routes=["GET /v1/health"])
    document = {
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
    api = apigateway.SpecRestApi(
        stack, "Api", api_definition=apigateway.ApiDefinition.from_inline(gate.guard(document))
    )
    pool = write_pool(tmp_path, policy("items", HEALTH_IS_FREE, limit("Pace", "GET", "/v1/items", 3, 4)))
    sell(stack, api, pool, gate=gate)
    template = Template(stack)
    [found] = tables(template).values()
    assert found.allowed == {("GET", "/v1/health"), ("GET", "/v1/items")}
    [usage_plan] = usage_plans(template).values()
    assert set(usage_plan["ApiStages"][0]["Throttle"]) == {"/v1/items/GET"}
    guard = GateSettings.from_environment(environment(template.only("AWS::Lambda::Function", "GateFunction")))
    assert guard.plans_table.startswith("${SalePlansTable")


def test_limits_on_any_method_stand_where_the_api_declares_any(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    api.root.resource_for_path("/v1/any").add_method("ANY", backend())
    sell(stack, api, write_pool(tmp_path, policy("items", limit("Pace", "*", "/v1/any", 3, 4))))
    [found] = usage_plans(Template(stack)).values()
    assert found["ApiStages"][0]["Throttle"] == {"/v1/any/ANY": {"RateLimit": 3, "BurstLimit": 4}}


def test_the_linter_sees_the_apis_own_routes_and_its_warnings_can_be_acknowledged(
    make_app: MakeApp, tmp_path: Path
) -> None:
    def warned(*, acknowledge: bool) -> list[str]:
        stack = cdk.Stack(make_app(), "S")
        api = apigateway.RestApi(stack, "Api", cloud_watch_role=False)
        sale = sell(stack, api, pool)
        assert sale.plans is not None
        if acknowledge:
            cdk.Validations.of(sale.plans).acknowledge(
                cdk.Acknowledgment(id="Annotation::marketplace-constructs:MON112", reason="the route comes later")
            )
        api.root.resource_for_path("/v1/items").add_method("GET", backend())
        return [text for text in warnings(stack) if "MON112" in text]

    pool = write_pool(tmp_path, policy("items", limit("Pace", "GET", "/v1/nowhere", 3, 4)))
    [found] = warned(acknowledge=False)
    assert "policies/items@1.json:" in found
    assert "(Pace)" in found
    assert warned(acknowledge=True) == []


def test_the_linter_sees_what_the_api_says_of_a_method(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    for path, name in (("/v1/safe", "Idempotency-Key"), ("/v1/risky", "X-Other")):
        parameters = {f"method.request.header.{name}": True}
        api.root.resource_for_path(path).add_method("POST", backend(), request_parameters=parameters)
    sell(stack, api, write_pool(tmp_path))
    [found] = [text for text in warnings(stack) if "MON208" in text]
    assert "POST /v1/risky" in found
    assert "/v1/safe" not in found


def test_somebody_may_be_let_read_what_lines_are_judged_by(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    sale = sell(stack, small_api(stack), write_pool(tmp_path))
    assert sale.plans is not None
    role = iam.Role(stack, "Judge", assumed_by=iam.AccountRootPrincipal())
    sale.plans.grant_read_tables(role)
    template = Template(stack)
    bucket = template.logical_id(sale.plans.tables_bucket)
    assert template.actions("Judge") == {f"${{{bucket}.Arn}}/plan-tables/*": {"s3:GetObject"}}


def test_documents_are_compiled_without_a_network(tmp_path: Path) -> None:
    code = (
        "import socket, aws_cdk as cdk\n"
        "from aws_cdk import aws_apigateway as apigateway\n"
        "from marketplace_constructs import Monetization, SellableApi\n"
        "def refuse(*arguments): raise AssertionError(arguments)\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "stack = cdk.Stack(cdk.App(), 'S')\n"
        "api = apigateway.RestApi(stack, 'Api', cloud_watch_role=False)\n"
        "api.root.add_method('GET', apigateway.HttpIntegration('https://backend.example.com'))\n"
        f"documents = Monetization.from_directory({str(write_pool(tmp_path))!r}, product_code='abc')\n"
        "SellableApi(stack, 'Sale', api=api, monetization=documents, support_contact='help@example.com')\n"
        "stack.node.root.synth()\n"
        "print('synthesized')\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.endswith("synthesized\n"), run.stderr


def test_fails_when_a_free_route_is_metered(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    meter = {
        "Sid": "Items",
        "Effect": "Meter",
        "Action": "GET",
        "Resource": "/v1/items",
        "Dimension": "calls",
        "Quantity": {"Metric": "requests"},
    }
    sell(stack, small_api(stack), write_pool(tmp_path, policy("items", meter)), free_routes=["GET /v1/items"])
    with pytest.raises(RuntimeError, match=r"MON123.*GET /v1/items"):
        Template(stack)


def test_fails_when_the_routes_contradict_the_documents_all_together(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    api.root.resource_for_path("/v1/any").add_method("ANY", backend())
    for number in range(21):
        api.root.resource_for_path(f"/v1/many/{number}").add_method("GET", backend())
    apigateway.CfnMethod(
        stack, "Bare", http_method="GET", resource_id=api.root.resource_id, rest_api_id=api.rest_api_id
    )
    pool = write_pool(
        tmp_path,
        policy("items", limit("One", "GET", "/v1/any", 3, 4), limit("Many", "*", "/v1/many/**", 3, 4)),
    )
    sell(stack, api, pool)
    with pytest.raises(RuntimeError) as error:
        Template(stack)
    text = str(error.value)
    assert "MP-MONETIZATION-06: method S/Bare" in text
    assert "MP-MONETIZATION-07: Limits of plan retail@1 on ANY /v1/any" in text
    assert "MP-MONETIZATION-08: Limits of plan retail@1, got 21 limited methods" in text


def test_fails_when_the_tables_are_larger_than_cloudformation_hands_over(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketplace_constructs.infrastructure.plans._MAX_TABLES_CHARACTERS", 100)
    stack = cdk.Stack(make_app(), "S")
    sell(stack, small_api(stack), write_pool(tmp_path))
    with pytest.raises(RuntimeError, match=r"MP-MONETIZATION-09: tables of 1 plans, got \d+ characters"):
        Template(stack)


def test_fails_when_product_and_monetization_are_given_together_or_not_at_all(
    make_app: MakeApp, tmp_path: Path
) -> None:
    stack = cdk.Stack(make_app(), "S")
    api = small_api(stack)
    with pytest.raises(MarketplaceConstructsError) as error:
        sell(stack, api, write_pool(tmp_path), product=Product.legacy("legacy123"))
    assert error.value.codes == ("MP-SALE-12",)
    with pytest.raises(MarketplaceConstructsError, match="got neither"):
        SellableApi(stack, "Sale", api=api, support_contact="help@example.com")
    assert stack.node.try_find_child("Sale") is None


def test_fails_when_limits_are_given_beside_the_documents(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    limits = {
        "throttle": Throttle(rate_limit=1, burst_limit=1),
        "quota": Quota(limit=1, period=Period.DAY),
        "method_throttles": {"GET /v1/items": Throttle(rate_limit=1, burst_limit=1)},
        "usage_plan_name": "gold",
        "support_contact": "nobody",
    }
    with pytest.raises(MarketplaceConstructsError) as error:
        sell(stack, small_api(stack), write_pool(tmp_path), **limits)
    assert error.value.codes == ("MP-SALE-13", "MP-SELLER-02")
    assert "throttle, quota, method_throttles, usage_plan_name" in str(error.value)


def test_fails_when_the_name_of_the_stage_is_not_known(make_app: MakeApp, tmp_path: Path) -> None:
    stack = cdk.Stack(make_app(), "S")
    name = cdk.CfnParameter(stack, "Name").value_as_string
    api = small_api(stack, deploy_options=apigateway.StageOptions(stage_name=name))
    with pytest.raises(MarketplaceConstructsError, match="MP-SALE-14"):
        sell(stack, api, write_pool(tmp_path))


def test_documents_say_what_the_listing_says(tmp_path: Path) -> None:
    listing = {
        "ProductId": "prod-example",
        "PricingModel": "ContractWithConsumption",
        "MeteringRegion": "eu-west-1",
        "Dimensions": {
            "calls": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"},
            "seats": {"Category": "Users", "Unit": "UserHrs", "Type": "Entitled"},
        },
    }
    found = Monetization.from_directory(write_pool(tmp_path, product(**listing)), product_code="items123")
    assert found.plans == ("retail@1",)
    assert found.product_id == "prod-example"
    assert found.product.product_code == "items123"
    assert found.product.agreement_kind is AgreementKind.CONCURRENT
    assert found.product.pricing_model is PricingModel.CONTRACT_WITH_CONSUMPTION
    assert found.product.metering is Metering.PIPELINE
    assert found.product.metering_region == "eu-west-1"
    assert [d.key for d in found.product.dimensions] == ["calls", "seats"]
    assert found.product.dimensions[0] == Dimension.requests("calls")
    assert (found.product.dimensions[1].unit, found.product.dimensions[1].is_usage) == ("UserHrs", False)


def test_the_product_code_stands_in_the_document_or_in_the_app(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, product(ProductCode="items123"))
    assert Monetization.from_directory(pool).product.product_code == "items123"
    assert Monetization.from_directory(str(pool), product_code="items123").product.product_code == "items123"


def test_what_could_be_built_before_a_plans_date_came_can_be_built_after_it(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, plan("retail", EffectiveFrom="2020-01-01T00:00:00Z"))
    assert Monetization.from_directory(pool, product_code="items123").plans == ("retail@1",)


def test_fails_when_document_and_app_disagree(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, product(ProductCode="items123", ProductId="prod-one"))
    with pytest.raises(MarketplaceConstructsError) as error:
        Monetization.from_directory(pool, product_code="other456", product_id="prod-two")
    assert error.value.codes == ("MP-MONETIZATION-03", "MP-MONETIZATION-04")
    assert "'other456' here and 'items123' in product.json:" in str(error.value)


def test_fails_when_nobody_says_the_product_code_or_there_is_no_default_plan(tmp_path: Path) -> None:
    pool = write_pool(tmp_path, plan("internal", Segment="internal", Channel="Internal"))
    with pytest.raises(MarketplaceConstructsError) as error:
        Monetization.from_directory(pool)
    assert {"MP-MONETIZATION-02", "MP-MONETIZATION-05"} <= set(error.value.codes)


def test_fails_when_there_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LINT-01.*nowhere"):
        Monetization.from_directory(tmp_path / "nowhere")


def test_fails_when_documents_have_errors_all_together_with_their_places(tmp_path: Path) -> None:
    pool = write_pool(
        tmp_path,
        policy("items", {"Sid": "Wrong", "Effect": "Allow", "Action": "*", "Resource": "items"}),
        plan("retail", Segment="wholesale"),
        plan("odd", Quota={"Limit": 1, "Period": "YEAR"}, AssignTo={"Offers": ["offer-example1"]}),
    )
    with pytest.raises(MarketplaceConstructsError) as error:
        Monetization.from_directory(pool)
    assert {"MON108", "MON120", "MON137", "MP-MONETIZATION-02"} <= set(error.value.codes)
    [mon108] = [problem for problem in error.value.problems if problem.code == "MON108"]
    lines = (pool / "policies/items@1.json").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if '"Resource": "items"' in text)
    assert str(mon108).startswith(f"MON108: policies/items@1.json:{line}:")
    assert "(Wrong)" in str(mon108)


def test_fails_with_the_next_step_when_the_extra_is_not_installed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['pydantic'] = None\n"
        "from marketplace_constructs import MarketplaceConstructsError, Monetization\n"
        "try:\n"
        f"    Monetization.from_directory({str(tmp_path)!r})\n"
        "except MarketplaceConstructsError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.startswith("MP-MONETIZATION-01: monetization documents, got no module pydantic"), run.stderr
    assert "pip install 'marketplace-constructs[policy]'" in run.stdout


def test_a_sale_without_documents_loads_nothing_that_reads_them() -> None:
    code = (
        "import sys, json, aws_cdk as cdk\n"
        "from aws_cdk import aws_apigateway as apigateway\n"
        "from marketplace_constructs import Product, SellableApi\n"
        "stack = cdk.Stack(cdk.App(), 'S')\n"
        "api = apigateway.RestApi(stack, 'Api', cloud_watch_role=False)\n"
        "api.root.add_method('GET', apigateway.HttpIntegration('https://backend.example.com'))\n"
        "SellableApi(stack, 'Sale', api=api, product=Product.legacy('abc'), support_contact='help@example.com')\n"
        "stack.node.root.synth()\n"
        "names = {'pydantic', 'yaml', 'marketplace_constructs.infrastructure.plans'} & set(sys.modules)\n"
        "print(json.dumps(sorted(names)))\n"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert json.loads(run.stdout.splitlines()[-1]) == [], run.stderr
