"""Plans: a usage plan of each, and the record of which table of a plan held when."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct, IConstruct

from marketplace_constructs.domain.errors import Problem
from marketplace_constructs.domain.finding import Finding, FindingType
from marketplace_constructs.domain.plan_table import NO_LIMIT, Cell, Interval, LineState, PlanTable, RouteAccess
from marketplace_constructs.domain.plan_versions import EVERY_CALL
from marketplace_constructs.domain.product import Product
from marketplace_constructs.domain.usage_plan import MAX_METHOD_THROTTLES, Period, Quota, Throttle
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Audit
from marketplace_constructs.infrastructure.acknowledgements import acknowledge, acknowledge_wildcards
from marketplace_constructs.infrastructure.function import role_of, runtime_function
from marketplace_constructs.infrastructure.monetization import Monetization, checked_at, error_problems, finding_text
from marketplace_constructs.infrastructure.routes import declared_routes, guarded_routes, policy_routes, unknown_routes
from marketplace_constructs.infrastructure.table import sale_table, table_name
from marketplace_constructs.infrastructure.tokens import asked_once, minutes, validate_at_synthesis
from marketplace_constructs.infrastructure.usage_plan import MarketplaceUsagePlan, throttle_key
from marketplace_constructs.runtime.settings import PlansSettings

if TYPE_CHECKING:
    from marketplace_constructs.policy.documents import AssignTo, Plan
    from marketplace_constructs.policy.evaluation import Expansion, Throttled
    from marketplace_constructs.policy.patterns import Route

RESOURCE_TYPE: Final = "Custom::MarketplacePlans"
TABLES_PREFIX: Final = "plan-tables/"
_SID: Final = "EveryCall"
_MAX_TABLES_CHARACTERS: Final = 100_000
"""Of all tables together: CloudFormation hands the function what it deployed last besides, in one asynchronous call,
which may hold 256 KB. Source: AWS Lambda developer guide, quotas (read 2026-11-21)."""


class Plans(Construct):
    """The plans that a product is sold by, and the record of which table of a plan held when.

    Defines the table in which the gate and the functions that change access look up which version of a plan holds
    (retained, restorable to any second of the last 35 days); the bucket that keeps each version's table for as long as
    a bill may be asked about (retained whatever ``removal_policy`` says); and the custom resource
    ``Custom::MarketplacePlans``, which records what is deployed.

    Args:
        scope: Where it is defined, in the stack of the API.
        construct_id: Its id; a change replaces everything.
        removal_policy: What becomes of the table and the logs when they leave the stack.
    """

    usage_plans: Mapping[str, MarketplaceUsagePlan]
    """Each plan's usage plan, by ``id@version``."""
    default: MarketplaceUsagePlan
    """What a buyer's key is put into whom no other plan is assigned to."""

    def __init__(self, scope: Construct, construct_id: str, *, removal_policy: cdk.RemovalPolicy) -> None:
        super().__init__(scope, construct_id)
        self._removal_policy = removal_policy
        self.table = sale_table(
            self, "Table", partition_key="plan", sort_key="holds_from", removal_policy=removal_policy
        )
        self.tables_bucket = self._bucket()

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody look up which version of a plan holds."""
        return self.table.grant(grantee, "dynamodb:Scan")

    def grant_read_tables(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody read the plans' tables, by which lines of the log are judged."""
        return iam.Grant.add_to_principal(grantee=grantee, actions=["s3:GetObject"], resource_arns=[self.tables_arn()])

    def tables_arn(self) -> str:
        """What ``grant_read_tables`` is about."""
        return _tables_arn(self.tables_bucket)

    def allowed_routes(self) -> frozenset[str]:
        """The routes that the default plan allows, such as ``GET /v1/x``, as far as they are known by now."""
        raise NotImplementedError

    def _bucket(self) -> s3.Bucket:
        bucket = s3.Bucket(
            self,
            "Tables",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            # CloudFormation could not remove it while it holds anything, and bills rest on what it holds.
            removal_policy=cdk.RemovalPolicy.RETAIN,
            versioned=True,
        )
        policy = bucket.policy
        assert policy is not None
        # What is kept is kept under TLS.
        policy.apply_removal_policy(cdk.RemovalPolicy.RETAIN)
        acknowledge(
            bucket,
            {
                Audit.BUCKET_ACCESS_LOG: "it holds price rules and no buyer's data; each object is named by the digest "
                "of what it holds, and is written once",
                Audit.BUCKET_REPLICATION: "each table can be made again from the documents of its deployment, and "
                "shows by its name that it is the same",
                Audit.CUSTOMER_KEY_OF_BUCKET: "encrypted with S3's own keys; a customer key that somebody disables "
                "would hold up every bill",
            },
        )
        return bucket

    def _record(self, plans: Callable[[], list[dict[str, str]]]) -> cdk.CustomResource:
        """Have the deployment record plans.

        Args:
            plans: As ``runtime.plans`` takes them, when the app is complete.
        """
        function = runtime_function(
            self,
            "Function",
            handler="marketplace_constructs.runtime.plans.handler",
            description="Records which table of a plan holds from when on",
            timeout=minutes(5),
            bounded_by="the stack's own operations, one at a time",
            when_it_fails="CloudFormation waits for the answer, and fails the operation where there is none",
            settings=PlansSettings(plans_table=table_name(self.table), tables_bucket=self.tables_bucket.bucket_name),
            removal_policy=self._removal_policy,
        )
        self.table.grant(function, "dynamodb:PutItem", "dynamodb:Scan")
        iam.Grant.add_to_principal(grantee=function, actions=["s3:PutObject"], resource_arns=[self.tables_arn()])
        role = role_of(function)
        acknowledge_wildcards(
            role, {self.tables_arn(): "tables are named by their digest; it may write them, once each, and no more"}
        )
        return cdk.CustomResource(
            self,
            "Versions",
            resource_type=RESOURCE_TYPE,
            service_token=function.function_arn,
            # One token for all of them: each is asked for whenever something is resolved, across processes.
            properties={"Plans": cdk.Lazy.uncached_any(_WhenComplete(plans))},
        )


class DocumentedPlans(Plans):
    """Plans that documents describe.

    Defines a usage plan of each plan document besides, named ``id@version``.

    When the app is complete, the linter sees the documents against the API's own routes. Its errors refuse the
    synthesis, its warnings are attached to this, as ``marketplace-constructs:MON202``.

    Args:
        scope: Where it is defined, in the stack of the API.
        construct_id: Its id; a change replaces everything, and every key would have to be put into a new plan.
        monetization: The documents.
        api: The API that is sold, defined in the same stack.
        stage: The stage that buyers call, whose name is known at synthesis.
        free_routes: Routes that anybody may call without a key.
        removal_policy: What becomes of the table and the logs when they leave the stack.

    Raises:
        RuntimeError: At synthesis, MP-MONETIZATION-06 to MP-MONETIZATION-09, and the linter's errors.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        monetization: Monetization,
        api: apigateway.IRestApi,
        stage: apigateway.Stage,
        free_routes: Sequence[str] = (),
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, construct_id, removal_policy=removal_policy)
        self.monetization = monetization
        self._compiled = _Compiled(monetization, api, stage, tuple(free_routes))
        self.usage_plans = {plan.reference: self._usage_plan(plan, api, stage) for plan in monetization.plan_documents}
        self.default = self.usage_plans[monetization.default_plan.reference]
        resource = self._record(
            lambda: [
                {
                    "Plan": plan.reference,
                    "UsagePlanId": self.usage_plans[plan.reference].usage_plan_id,
                    "AssignTo": _assign_to(plan.assign_to),
                    "EffectiveFrom": _effective_from(plan),
                    "Table": self._compiled.table(plan),
                }
                for plan in monetization.plan_documents
            ]
        )
        leaf = resource.node.default_child
        assert leaf is not None
        # The resource alone: an Aspect is called for everything below its construct.
        cdk.Aspects.of(leaf).add(_WarnWhenComplete(self, self._compiled), priority=cdk.AspectPriority.READONLY)
        validate_at_synthesis(self, lambda: list(self._compiled.problems()))

    def allowed_routes(self) -> frozenset[str]:
        """The routes that the default plan allows, such as ``GET /v1/x``, as far as they are known by now."""
        expansion = self._compiled.expansions().get(self.monetization.default_plan.reference)
        allowed = () if expansion is None else expansion.table.allowed
        return frozenset(f"{method} {path}" for method, path in allowed)

    def _usage_plan(self, plan: Plan, api: apigateway.IRestApi, stage: apigateway.Stage) -> MarketplaceUsagePlan:
        usage_plan = MarketplaceUsagePlan(
            self,
            plan.reference,
            api=api,
            stage=stage,
            product=self.monetization.product,
            throttle=self._compiled.throttle(plan),
            quota=None if plan.quota is None else Quota(limit=plan.quota.limit, period=Period[plan.quota.period.name]),
            usage_plan_name=f"{plan.product} {plan.reference}",
            is_billed=plan.channel.value == "Marketplace",
            removal_policy=self._removal_policy,
        )
        usage_plan.limit_methods(
            cdk.Lazy.uncached_any(_WhenComplete(lambda: _method_limits(self._compiled.method_throttles(plan)[0])))
        )
        return usage_plan


class EveryCall(Plans):
    """The one plan of a product that is sold without documents: each call that succeeds counts one.

    On every route that is not free, as a Meter without conditions counts.

    Args:
        scope: Where it is defined, in the stack of the API.
        construct_id: Its id; a change replaces everything.
        product: What is sold, with one usage dimension, of the category Requests.
        usage_plan: The plan that buyers' keys are put into.
        api: The API that is sold, defined in the same stack.
        free_routes: Routes that anybody may call without a key.
        removal_policy: What becomes of the table and the logs when they leave the stack.

    Raises:
        RuntimeError: At synthesis, MP-SALE-15 and MP-SALE-16.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        product: Product,
        usage_plan: MarketplaceUsagePlan,
        api: apigateway.IRestApi,
        free_routes: Sequence[str] = (),
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        super().__init__(scope, construct_id, removal_policy=removal_policy)
        self._product = product
        self._api = api
        self._free_routes = frozenset(free_routes)
        self.usage_plans = {EVERY_CALL: usage_plan}
        self.default = usage_plan
        self._record(
            lambda: [
                {
                    "Plan": EVERY_CALL,
                    "UsagePlanId": usage_plan.usage_plan_id,
                    "AssignTo": json.dumps("Default"),
                    "EffectiveFrom": "",
                    "Table": _packed(self.plan_table()),
                }
            ]
        )
        validate_at_synthesis(self, lambda: list(self._problems()))

    def allowed_routes(self) -> frozenset[str]:
        """Every route of the API, such as ``GET /v1/x``, as far as they are known by now."""
        return frozenset(f"{method} {path}" for method, path in self.plan_table().allowed)

    def plan_table(self) -> PlanTable:
        """The table, as far as the API's routes are known by now."""
        [dimension] = (dimension.key for dimension in self._product.dimensions if dimension.is_usage)
        routes = guarded_routes(self._api, self._free_routes)
        return PlanTable(
            plan=EVERY_CALL,
            product=self._product.product_code,
            segment="buyers",
            channel="Marketplace",
            routes=tuple(
                RouteAccess(method=route.method, path=route.path, is_allowed=True, policy=EVERY_CALL, sid=_SID)
                for route in routes
            ),
            cells=tuple(cell for route in routes for cell in _successes(route, dimension)),
        )

    def _problems(self) -> Iterator[Problem]:
        for method in unknown_routes(self._api):
            yield Problem(
                "MP-SALE-15",
                f"method {method}, got a CfnMethod, whose path is not known; expected every route to be known, since "
                "what is not cannot be billed; define it with add_method on a resource of the API",
            )
        size = len(_packed(self.plan_table()))
        if size > _MAX_TABLES_CHARACTERS:
            yield Problem(
                "MP-SALE-16",
                f"table of the API's routes, got {size:,} characters, compressed; expected at most "
                f"{_MAX_TABLES_CHARACTERS:,}, as CloudFormation hands it over; sell fewer routes by one API",
            )


class _Compiled:
    """The documents against the routes of the API, which may grow until the app is complete."""

    def __init__(
        self,
        monetization: Monetization,
        api: apigateway.IRestApi,
        stage: apigateway.Stage,
        free_routes: tuple[str, ...],
    ) -> None:
        self._monetization = monetization
        self._api = api
        resource = stage.node.default_child
        assert isinstance(resource, apigateway.CfnStage)
        self._stage_name = resource.stage_name or stage.stage_name
        self._free_routes = free_routes
        self._routes: tuple[Route, ...] | None = None
        self._findings: tuple[Finding, ...] = ()
        self._expansions: Mapping[str, Expansion] = {}

    def throttle(self, plan: Plan) -> Throttle | None:
        """How fast each key of a plan may call: its own throttle and the Limits on everything."""
        from marketplace_constructs.policy.evaluation import expand  # noqa: PLC0415  # needs an extra

        # Limits on everything hold whatever the routes.
        return _throttle(expand(self._monetization.pool, plan, (), stage=self._stage_name).throttle)

    def check(self) -> tuple[Finding, ...]:
        """What the linter says now that the app is complete, or nearly so."""
        from marketplace_constructs.policy.lint import lint  # noqa: PLC0415

        routes = policy_routes(self._api, self._free_routes)
        if routes != self._routes:
            pool = self._monetization.pool
            self._findings = lint(pool, routes=routes, stage=self._stage_name, now=checked_at(pool)).findings
            self._expansions = self._expand(routes)
            self._routes = routes
        return self._findings

    def expansions(self) -> Mapping[str, Expansion]:
        """Each plan worked out, by ``id@version``; one that the linter refuses is left out."""
        if self._routes is not None:
            return self._expansions
        # Somebody resolves a part of an app that is not complete.
        return self._expand(policy_routes(self._api, self._free_routes))

    def method_throttles(self, plan: Plan) -> tuple[dict[str, Throttle], list[str]]:
        """The limits of single methods by declared route, and the routes ``ANY`` whose methods have different ones."""
        expansion = self.expansions().get(plan.reference)
        if expansion is None:
            return {}, []
        # Without a key there is no usage plan, and a refused call does not come so far.
        reached: dict[str, list[Throttled | None]] = {}
        for route, declared in declared_routes(self._declared()).items():
            if declared not in self._free_routes and (route.method, route.path) in expansion.table.allowed:
                reached.setdefault(declared, []).append(expansion.method_throttles.get(route))
        limited = {declared: limits for declared, limits in reached.items() if any(limits)}
        throttles = {declared: _throttle(limits[0]) for declared, limits in limited.items() if len(set(limits)) == 1}
        return (
            {declared: throttle for declared, throttle in throttles.items() if throttle is not None},
            [declared for declared, limits in limited.items() if len(set(limits)) > 1],
        )

    def table(self, plan: Plan) -> str:
        """A plan's table in the characters that a property of a template may have; empty where it is refused."""
        expansion = self.expansions().get(plan.reference)
        if expansion is None:
            return ""
        return _packed(expansion.table)

    def problems(self) -> Iterator[Problem]:
        """All that refuses the synthesis."""
        yield from error_problems(self.check())
        for method in unknown_routes(self._api):
            yield Problem(
                "MP-MONETIZATION-06",
                f"method {method}, got a CfnMethod, whose path is not known; expected every route to be known to its "
                "plans; define it with add_method on a resource of the API",
            )
        plans = self._monetization.plan_documents
        for plan in plans:
            throttles, apart = self.method_throttles(plan)
            for route in apart:
                yield Problem(
                    "MP-MONETIZATION-07",
                    f"Limits of plan {plan.reference} on {route}, got different ones for methods that the API declares "
                    "as ANY; expected one for all, since a usage plan knows methods as they are declared; declare the "
                    "limited method by itself",
                )
            if len(throttles) > MAX_METHOD_THROTTLES:
                yield Problem(
                    "MP-MONETIZATION-08",
                    f"Limits of plan {plan.reference}, got {len(throttles)} limited methods; expected at most "
                    f"{MAX_METHOD_THROTTLES} per stage; limit fewer, or everything with Action * and Resource /**",
                )
        size = sum(len(self.table(plan)) for plan in plans)
        if size > _MAX_TABLES_CHARACTERS:
            yield Problem(
                "MP-MONETIZATION-09",
                f"tables of {len(plans)} plans, got {size:,} characters, compressed; expected at most "
                f"{_MAX_TABLES_CHARACTERS:,}, as CloudFormation hands them over; sell fewer routes or plans by one API",
            )

    def _expand(self, routes: Iterable[Route]) -> dict[str, Expansion]:
        from marketplace_constructs.policy.evaluation import TooIntertwinedError, expand  # noqa: PLC0415

        found = {}
        for plan in self._monetization.plan_documents:
            try:
                found[plan.reference] = expand(self._monetization.pool, plan, routes, stage=self._stage_name)
            except TooIntertwinedError:
                continue
        return found

    def _declared(self) -> tuple[Route, ...]:
        return policy_routes(self._api, self._free_routes) if self._routes is None else self._routes


@jsii.implements(cdk.IAnyProducer)
class _WhenComplete:
    """What depends on the API's routes, as they are when the app is complete."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell = tell

    def produce(self, context: cdk.IResolveContext) -> object:
        del context
        return self._tell()


def _method_limits(throttles: Mapping[str, Throttle]) -> dict[str, object] | None:
    """A plan's limits of single methods, as CloudFormation has them."""
    return {
        throttle_key(route): {"rateLimit": throttle.rate_limit, "burstLimit": throttle.burst_limit}
        for route, throttle in sorted(throttles.items())
    } or None


def _successes(route: Route, dimension: str) -> Iterator[Cell]:
    """One call for an answer of 200 to 299, none for any other."""

    def cell(state: LineState, status: Interval, sid: str = "") -> Cell:
        return Cell(
            method=route.method,
            path=route.path,
            dimension=dimension,
            state=state,
            policy=EVERY_CALL if sid else "",
            sid=sid,
            metric="requests" if sid else "",
            status=status,
        )

    yield cell(LineState.FAILED, (0, 200))
    yield cell(LineState.BILLABLE, (200, 300), _SID)
    yield cell(LineState.FAILED, (300, NO_LIMIT))


@jsii.implements(cdk.IAspect)
class _WarnWhenComplete:
    """Attaches what the linter warns of when the app is complete."""

    def __init__(self, plans: Plans, compiled: _Compiled) -> None:
        self._plans = plans
        self._compiled = compiled

    def visit(self, node: IConstruct) -> None:
        del node
        for finding in self._compiled.check():
            if finding.finding_type not in {FindingType.ERROR, FindingType.SUGGESTION}:
                cdk.Validations.of(self._plans).add_warning(
                    f"marketplace-constructs:{finding.issue_code}", f"{finding.issue_code}: {finding_text(finding)}"
                )


@asked_once
def _tables_arn(bucket: s3.Bucket) -> str:
    return bucket.arn_for_objects(f"{TABLES_PREFIX}*")


def _packed(table: PlanTable) -> str:
    """A table in the characters that a property of a template may have."""
    return base64.b64encode(gzip.compress(table.to_text().encode(), mtime=0)).decode()


def _throttle(throttled: Throttled | None) -> Throttle | None:
    if throttled is None:
        return None
    rate = throttled.rate_limit
    return Throttle(rate_limit=int(rate) if rate == int(rate) else float(rate), burst_limit=throttled.burst_limit)


def _assign_to(assign_to: AssignTo | str) -> str:
    """Whom a plan is for, in the document's own words."""
    said = assign_to if isinstance(assign_to, str) else assign_to.model_dump(by_alias=True, exclude_none=True)
    return json.dumps(said, sort_keys=True)


def _effective_from(plan: Plan) -> str:
    return "" if plan.effective_from is None else plan.effective_from.strftime("%Y-%m-%dT%H:%M:%SZ")
