from __future__ import annotations

import aws_cdk as cdk
import pytest
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from templates import MakeApp, Template, small_api

from marketplace_constructs import (
    Dimension,
    MarketplaceConstructsError,
    MarketplaceUsagePlan,
    Period,
    Product,
    Quota,
    Throttle,
)

LEGACY = Product.legacy("legacy123")
CONCURRENT = Product.concurrent("concurrent123", dimensions=[Dimension.requests("calls")])


@pytest.fixture(scope="module")
def plans(make_app: MakeApp) -> tuple[Template, list[MarketplaceUsagePlan]]:
    """Three plans in one stack: native with every prop, native on a stage of its own, and pipeline."""
    stack = cdk.Stack(make_app(), "Plans")
    api = small_api(stack)
    assert api.latest_deployment is not None
    beta = apigateway.Stage(stack, "Beta", deployment=api.latest_deployment, stage_name="beta")
    first = MarketplaceUsagePlan(
        stack,
        "First",
        api=api,
        product=LEGACY,
        throttle=Throttle(rate_limit=11.5, burst_limit=12),
        quota=Quota(limit=13, period=Period.WEEK),
        method_throttles={"GET /v1/items": Throttle(rate_limit=14, burst_limit=15)},
        usage_plan_name="first plan",
    )
    second = MarketplaceUsagePlan(stack, "Second", api=api, stage=beta, product=Product.legacy("other456"))
    third = MarketplaceUsagePlan(stack, "Third", api=api, product=CONCURRENT)
    return Template(stack), [first, second, third]


def test_every_limit_reaches_the_plan(plans: tuple[Template, list[MarketplaceUsagePlan]]) -> None:
    plan = plans[0].only("AWS::ApiGateway::UsagePlan", "First")["Properties"]
    assert plan["UsagePlanName"] == "first plan"
    assert plan["Throttle"] == {"RateLimit": 11.5, "BurstLimit": 12}
    assert plan["Quota"] == {"Limit": 13, "Period": "WEEK"}
    [stage] = plan["ApiStages"]
    assert stage["ApiId"].startswith("${Api")
    assert stage["Stage"].startswith("${ApiDeploymentStageprod")
    assert stage["Throttle"] == {"/v1/items/GET": {"RateLimit": 14, "BurstLimit": 15}}


def test_a_plan_without_limits_has_none_and_keeps_its_api_and_stage(
    plans: tuple[Template, list[MarketplaceUsagePlan]],
) -> None:
    plan = plans[0].only("AWS::ApiGateway::UsagePlan", "Second")["Properties"]
    assert "Throttle" not in plan
    assert "Quota" not in plan
    assert plan["ApiStages"][0]["Stage"].startswith("${Beta")
    assert plan["ApiStages"][0]["ApiId"].startswith("${Api")


def test_native_metering_sets_the_product_code_and_the_pipeline_never_does(
    plans: tuple[Template, list[MarketplaceUsagePlan]],
) -> None:
    template, (first, *_) = plans
    codes = template.of_type("Custom::MarketplaceProductCode")
    assert sorted(name.split("ProductCode")[0] for name in codes) == ["First", "Second"]
    code = template.only("Custom::MarketplaceProductCode", "First")["Properties"]
    assert code["ProductCode"] == "legacy123"
    assert code["UsagePlanId"] == f"${{{template.logical_id(first.usage_plan)}}}"
    function = template.only("AWS::Lambda::Function", "First")["Properties"]
    assert function["Handler"] == "marketplace_constructs.runtime.usage_plan.handler"
    assert function["Timeout"] == 900


def test_the_product_code_function_may_touch_its_own_plan_and_see_its_own_stack_only(
    plans: tuple[Template, list[MarketplaceUsagePlan]],
) -> None:
    template, (first, *_) = plans
    plan_id = template.logical_id(first.usage_plan)
    plan = f"arn:${{AWS::Partition}}:apigateway:${{AWS::Region}}::/usageplans/${{{plan_id}}}"
    actions = template.actions("FirstProductCodeFunctionRole")
    assert actions.pop(plan) == {"apigateway:GET", "apigateway:PATCH"}
    assert actions.pop("${AWS::StackId}") == {"cloudformation:DescribeStacks"}
    assert actions.pop("*") == {"xray:PutTelemetryRecords", "xray:PutTraceSegments"}
    [logs] = actions.values()
    assert logs == {"logs:CreateLogStream", "logs:PutLogEvents"}


def test_plans_of_one_stack_wait_for_each_other(plans: tuple[Template, list[MarketplaceUsagePlan]]) -> None:
    template, _ = plans
    [second_code] = [name for name in template.of_type("Custom::MarketplaceProductCode") if "Second" in name]
    [first_code] = [name for name in template.of_type("Custom::MarketplaceProductCode") if "First" in name]
    assert first_code in template.only("AWS::ApiGateway::UsagePlan", "Second")["DependsOn"]
    assert second_code in template.only("AWS::ApiGateway::UsagePlan", "Third")["DependsOn"]


def test_the_function_outlives_the_product_code_it_has_to_clear(
    plans: tuple[Template, list[MarketplaceUsagePlan]],
) -> None:
    [code] = [r for n, r in plans[0].of_type("Custom::MarketplaceProductCode").items() if "First" in n]
    [function] = [n for n in plans[0].of_type("AWS::Lambda::Function") if "First" in n]
    [policy] = [n for n in plans[0].of_type("AWS::IAM::Policy") if "First" in n]
    assert code["Properties"]["ServiceToken"] == {"Fn::GetAtt": [function, "Arn"]}
    assert policy in plans[0].resources[function]["DependsOn"]


def test_grants_reach_the_plan_only(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "Granted")
    plan = MarketplaceUsagePlan(stack, "Plan", api=small_api(stack), product=CONCURRENT)
    role = iam.Role(stack, "Doctor", assumed_by=iam.AccountRootPrincipal())
    plan.grant_read(role)
    template = Template(stack)
    [(resource, actions)] = template.actions("Doctor").items()
    assert resource.endswith(f"::/usageplans/${{{template.logical_id(plan.usage_plan)}}}")
    assert actions == {"apigateway:GET"}


def test_a_plan_of_elsewhere_is_known_by_its_id(make_app: MakeApp) -> None:
    plan = MarketplaceUsagePlan.from_usage_plan_id(cdk.Stack(make_app(), "S"), "Plan", "abc123")
    assert plan.usage_plan_id == "abc123"


def test_fails_when_limits_are_out_of_range_all_together_and_leaves_no_half_made_plan(
    make_app: MakeApp,
) -> None:
    stack = cdk.Stack(make_app(), "S")
    with pytest.raises(MarketplaceConstructsError) as error:
        MarketplaceUsagePlan(
            stack,
            "Plan",
            api=small_api(stack),
            product=CONCURRENT,
            throttle=Throttle(rate_limit=-5, burst_limit=0),
            quota=Quota(limit=0, period=Period.DAY),
            method_throttles={"/v1/items": Throttle(rate_limit=1, burst_limit=1)},
        )
    assert error.value.codes == ("MP-PLAN-01", "MP-PLAN-02", "MP-PLAN-03", "MP-PLAN-05")
    assert stack.node.try_find_child("Plan") is None


def test_fails_when_a_limit_is_only_known_at_deployment(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    parameter = cdk.CfnParameter(stack, "Limit", type="Number").value_as_number
    with pytest.raises(MarketplaceConstructsError, match=r"MP-PLAN-01.*known at synthesis"):
        MarketplaceUsagePlan(
            stack,
            "Plan",
            api=small_api(stack),
            product=CONCURRENT,
            throttle=Throttle(rate_limit=parameter, burst_limit=5),
        )


def test_fails_when_a_method_throttle_names_no_route_of_the_api(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    MarketplaceUsagePlan(
        stack,
        "Plan",
        api=small_api(stack),
        product=CONCURRENT,
        method_throttles={"GET /v1/itmes": Throttle(rate_limit=1, burst_limit=1)},
    )
    with pytest.raises(RuntimeError, match=r"MP-PLAN-07.*GET /v1/itmes.*GET /v1/items"):
        Template(stack)
