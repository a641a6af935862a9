"""The usage plan that buyers' keys are put into, and the product code that makes API Gateway meter it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.domain.product import Product
from marketplace_constructs.domain.usage_plan import Quota, Throttle, limits_problems
from marketplace_constructs.infrastructure.function import runtime_function
from marketplace_constructs.infrastructure.routes import api_id, routes_of, stage_name
from marketplace_constructs.infrastructure.tokens import (
    asked_once,
    identity,
    minutes,
    node_of,
    stack_of,
    validate_at_synthesis,
)

_LAST_PLANS: Final[dict[str, MarketplaceUsagePlan]] = {}
"""The plan that was defined last, by the identity of its stack."""
RESOURCE_TYPE: Final = "Custom::MarketplaceProductCode"


class MarketplaceUsagePlan(Construct):
    """A usage plan on one stage of an API, with its limits; under native metering with the product code too.

    Defines the usage plan and, under native metering, a function and the custom resource
    ``Custom::MarketplaceProductCode``: CloudFormation itself cannot set a product code. Removing it removes
    the plan, and with it every buyer's way in.

    UpdateUsagePlan takes one call per 20 s and account, so that the plans of one stack wait for each other.
    Sources: API Gateway developer guide, quotas; CloudFormation registry schema AWS::ApiGateway::UsagePlan of
    2026-10-20, which has no product code (read 2026-11-21).

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change replaces the plan, and every key would have to be put into the new one.
        api: The API that is sold, defined in the same stack.
        stage: The stage that buyers call. Left out, the API's own deployment stage.
        product: What is sold. Under pipeline metering the plan carries no product code: AWS would bill twice.
        throttle: How fast each key may call. Left out, the account's own limits apply.
        quota: How many calls each key has in a period. Left out, keys are not limited.
        method_throttles: Limits of single routes, such as ``{"GET /v1/search": Throttle(...)}``, at most 20.
        usage_plan_name: Shown in the console. Left out, CloudFormation makes up a name.
        is_billed: Whether AWS Marketplace bills the calls under this plan. Where it does not, as for the seller's own
            consumers, the plan carries no product code under native metering either.
        removal_policy: What becomes of the function's log when it leaves the stack.

    Raises:
        MarketplaceConstructsError: MP-PLAN-01 to MP-PLAN-06, together.
        RuntimeError: At synthesis, MP-PLAN-07, where a method throttle's route is not the API's.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        api: apigateway.IRestApi,
        stage: apigateway.Stage | None = None,
        product: Product,
        throttle: Throttle | None = None,
        quota: Quota | None = None,
        method_throttles: Mapping[str, Throttle] | None = None,
        usage_plan_name: str | None = None,
        is_billed: bool = True,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        method_throttles = dict(method_throttles or {})
        refuse(limits_problems(throttle, quota, method_throttles))
        stage = api.deployment_stage if stage is None else stage
        super().__init__(scope, construct_id)
        earlier = self._earlier_plan()
        self.product = product
        self._api_id, self._stage_name = api_id(api), stage_name(stage)
        self.usage_plan = apigateway.UsagePlan(
            self,
            "Plan",
            # Without a stage, CDK emits neither API nor stage.
            api_stages=[apigateway.UsagePlanPerApiStage(api=api, stage=stage)],
            name=usage_plan_name,
            quota=None
            if quota is None
            else apigateway.QuotaSettings(limit=quota.limit, period=apigateway.Period[quota.period.name]),
            throttle=None
            if throttle is None
            else apigateway.ThrottleSettings(rate_limit=throttle.rate_limit, burst_limit=throttle.burst_limit),
        )
        self.usage_plan_id: str = self.usage_plan.usage_plan_id
        self.usage_plan_arn: str = usage_plan_arn(self, self.usage_plan_id)
        if method_throttles:
            self.limit_methods(_throttles(method_throttles))
            validate_at_synthesis(self, lambda: list(_route_problems(api, method_throttles)))
        if earlier is not None:
            node_of(self.usage_plan).add_dependency(earlier)
        if product.is_native and is_billed:
            self._set_product_code(product.product_code, removal_policy)

    @staticmethod
    def from_usage_plan_id(scope: Construct, construct_id: str, usage_plan_id: str) -> apigateway.IUsagePlan:
        """A usage plan that is defined elsewhere.

        Args:
            scope: Where the reference is defined.
            construct_id: Its id.
            usage_plan_id: Id of the plan, not its name.
        """
        return apigateway.UsagePlan.from_usage_plan_id(scope, construct_id, usage_plan_id)

    def limit_methods(
        self, throttles: Mapping[str, apigateway.CfnUsagePlan.ThrottleSettingsProperty] | cdk.IResolvable
    ) -> None:
        """Limit single methods.

        Args:
            throttles: By path and method, such as ``/v1/search/GET``; lazy where they are known only when the app is
                complete.
        """
        # CDK wants the methods themselves, which may be added later or stand in an OpenAPI document.
        resource = node_of(self.usage_plan).default_child
        assert isinstance(resource, apigateway.CfnUsagePlan)
        resource.api_stages = [
            apigateway.CfnUsagePlan.ApiStageProperty(api_id=self._api_id, stage=self._stage_name, throttle=throttles)
        ]

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody see the plan, its product code and its limits."""
        return self._grant(grantee, "apigateway:GET")

    def grant_set_product_code(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody read the plan and set its product code."""
        return self._grant(grantee, "apigateway:GET", "apigateway:PATCH")

    def _grant(self, grantee: iam.IGrantable, *actions: str) -> iam.Grant:
        return iam.Grant.add_to_principal(grantee=grantee, actions=list(actions), resource_arns=[self.usage_plan_arn])

    def _set_product_code(self, product_code: str, removal_policy: cdk.RemovalPolicy) -> None:
        stack = stack_of(self)
        function = runtime_function(
            self,
            "ProductCodeFunction",
            handler="marketplace_constructs.runtime.usage_plan.handler",
            description="Sets the AWS Marketplace product code of a usage plan",
            timeout=minutes(15),
            bounded_by="the stack's own operations, one at a time",
            when_it_fails="CloudFormation waits for the answer, and fails the operation where there is none",
            removal_policy=removal_policy,
        )
        self.grant_set_product_code(function)
        # A rollback must never be blocked, so the function has to know one when it happens.
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["cloudformation:DescribeStacks"], resources=[stack.stack_id])
        )
        cdk.CustomResource(
            self,
            "ProductCode",
            resource_type=RESOURCE_TYPE,
            service_token=function.function_arn,
            properties={"UsagePlanId": self.usage_plan_id, "ProductCode": product_code},
        )

    def _earlier_plan(self) -> MarketplaceUsagePlan | None:
        """The one of the stack that was defined last."""
        stack = identity(stack_of(self))
        earlier = _LAST_PLANS.get(stack)
        _LAST_PLANS[stack] = self
        return earlier


def control_plane_arn(scope: Construct) -> str:
    """What ARNs of API Gateway's control plane in the stack's Region begin with; they have no account."""
    return _control_plane_arn(stack_of(scope))


@asked_once
def _control_plane_arn(stack: cdk.Stack) -> str:
    return f"arn:{stack.partition}:apigateway:{stack.region}::"


def usage_plan_arn(scope: Construct, usage_plan_id: str) -> str:
    """ARN of a usage plan of the stack's Region."""
    return f"{control_plane_arn(scope)}/usageplans/{usage_plan_id}"


def throttle_key(route: str) -> str:
    """How a usage plan names a route such as ``GET /v1/x``."""
    method, path = route.split(" ")
    return f"{path}/{method}"


def _throttles(
    method_throttles: Mapping[str, Throttle],
) -> dict[str, apigateway.CfnUsagePlan.ThrottleSettingsProperty]:
    return {
        throttle_key(route): apigateway.CfnUsagePlan.ThrottleSettingsProperty(
            rate_limit=limit.rate_limit, burst_limit=limit.burst_limit
        )
        for route, limit in method_throttles.items()
    }


def _route_problems(api: apigateway.IRestApi, method_throttles: Mapping[str, Throttle]) -> Iterator[Problem]:
    routes = routes_of(api)
    for route in method_throttles:
        if route not in routes:
            yield Problem(
                "MP-PLAN-07",
                f"method_throttles route, got {route!r}; expected one of the API's routes, "
                f"{', '.join(sorted(routes))}; write method and path as the API declares them",
            )
