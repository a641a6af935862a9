"""A REST API, sold on AWS Marketplace: everything around it in one construct."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.domain.metering_rules import MeteringRules
from marketplace_constructs.domain.product import Category, Product
from marketplace_constructs.domain.usage_plan import Quota, Throttle, limits_problems
from marketplace_constructs.infrastructure.access_log import AccessLog, access_log_problems
from marketplace_constructs.infrastructure.agreements import Agreements, agreements_problems
from marketplace_constructs.infrastructure.gate import Gate, gate_problems
from marketplace_constructs.infrastructure.metering import DEFAULT_LINES_PER_HOUR, Meter, meter_problems
from marketplace_constructs.infrastructure.metering_role import ROLE_NAME, MeteringRole
from marketplace_constructs.infrastructure.onboarding import (
    DEFAULT_FIREWALL_RATE,
    DEFAULT_THROTTLE,
    Onboarding,
    onboarding_problems,
)
from marketplace_constructs.infrastructure.routes import cfn_rest_api, routes_of
from marketplace_constructs.infrastructure.seller import Seller
from marketplace_constructs.infrastructure.subscription_events import SubscriptionEvents
from marketplace_constructs.infrastructure.tokens import hours, identity, is_token, seconds, stack_of
from marketplace_constructs.infrastructure.usage_plan import MarketplaceUsagePlan

if TYPE_CHECKING:
    from aws_cdk import aws_certificatemanager as certificatemanager
    from aws_cdk import aws_s3 as s3
    from aws_cdk import aws_ses as ses

    from marketplace_constructs.infrastructure.monetization import Monetization
    from marketplace_constructs.infrastructure.plans import Plans


class SellableApi(Construct):
    """Sells a REST API of the same stack to buyers who subscribe on AWS Marketplace.

    Defines ``gate``, ``usage_plan``, ``plans`` (with documents or pipeline metering), ``metering_role`` (native
    metering), ``access_log`` and ``meter`` (pipeline metering, or ``report_usage``), ``agreements``,
    ``subscription_events`` and ``onboarding``; each can be used by itself. The API's methods get the key and
    the gate, also those that are added later. Tables, log and ledger are retained when this is removed; the usage plan,
    and with it every buyer's way in, is not. May attach the warnings MP-SALE-20 (usage is not billed), MP-ONBOARDING-04
    (no mail), MP-ONBOARDING-05 (no access log), MP-EVENTS-01 and MP-EVENTS-02 (events do not arrive in this Region).

    Args:
        scope: Where it is defined, in the stack of the API.
        construct_id: Its id; a change replaces the tables, the usage plan and the fulfillment URL.
        api: The API to sell, defined in the same stack. One that is defined by an OpenAPI document needs
            ``gate``.
        product: What the listing says, where every call counts one and every buyer has the same limits. Either this or
            ``monetization``; to go from one to the other replaces the usage plan, and the next reconciliation puts
            every key into the new one.
        monetization: The documents that say what counts for whom, ``Monetization.from_directory("monetization")``.
            Limits stand in its plans, and none are given here. Keep a plan's document for as long as a buyer has it:
            its usage plan goes with it.
        support_contact: An email address or an https address, where buyers reach the seller.
        seller_name: On pages and mails. Left out, the API's name.
        logo_url: An https address of an image. Left out, pages have no logo.
        sender: The address that mails come from. Left out, no mail is sent, and synthesis warns.
        sender_identity: The verified SES identity that covers the sender. Left out, that of the address
            itself.
        throttle: How fast each key may call. Left out, the account's own limits apply.
        quota: How many calls each key has in a period. Left out, keys are not limited.
        method_throttles: Limits of single routes, such as ``{"GET /v1/search": Throttle(...)}``, at most 20.
        usage_plan_name: Shown in the console. Left out, CloudFormation makes up a name.
        free_routes: Routes that anybody may call without a key, such as ``GET /v1/health``.
        gate_cache_ttl: How long API Gateway keeps the gate's answers, 0 s to 1 h. Left out, 60 s.
        gate: A gate that was made before, for an API that is defined by an OpenAPI document; it brings its
            own free routes and cache time.
        deployment: The API's deployment, where it was made with ``deploy=False``.
        stage: The stage that buyers call. Left out, ``api.deployment_stage``.
        api_url: Where buyers call the API, without a trailing slash. Left out, the stage's own address.
        example_route: The route that the ready curl line calls, such as ``GET /v1/nouns``. Left out, the
            shortest GET route that is sold and has no variables, else ``GET /``.
        onboarding_throttle: Calls per second to the onboarding page in all. Left out, 20 with bursts of 40.
        firewall_rate: Calls to the onboarding page per five minutes from one address.
        domain_name: The seller's own domain for the onboarding page.
        certificate: The domain's certificate, of the same Region.
        onboarding_access_log: Whether the onboarding page has an access log. True where the account's API Gateway
            settings name a role for logs. Left out, if the stack defines that role, as an API with
            ``cloud_watch_role=True`` does; else synthesis warns.
        metering_role: The account's metering role, ``MeteringRole.from_account(...)`` or that of another
            SellableApi. Left out, native metering defines it here.
        report_usage: Under native metering, whether to keep an access log and work out usage from it as well, for
            reports; nothing is sent, and API Gateway goes on to meter. Pipeline metering always does.
        expected_lines_per_hour: Calls in the busiest hour, 1 to 60,000,000, by which the meter is sized. Left out,
            400,000.
        metering_rules: How AWS wants to be told of usage, where that is not documented. Left out, the safe choice of
            each.
        access_log_retention: How long lines of the access log are kept, 35 days or more. Left out, 400 days.
        meter_concurrency: 1 reserves the meter its one run at a time. None reserves nothing, as an account needs that
            may run only 10 functions at once.
        ledger_bucket: The product's ledger, where there is one already, as when the stack was deleted and comes back.
            Left out, it is made here.
        ledger_retention: How long nobody may change the ledger, 365 days or more. Left out, 400 days.
        joins_ledger_of: The name of the stack that began ``ledger_bucket``, where this one is another.
        observe_every: How often AWS itself is asked for the state of each agreement, 1 h to 24 h in whole
            hours. Left out, once a day.
        alarm_topic: Told of dead letters. Left out, alarms only show their state.
        removal_policy: What becomes of tables and logs when they leave the stack.

    Raises:
        MarketplaceConstructsError: All contradictions that show at once, together: MP-SALE-01 to MP-SALE-14,
            MP-SALE-17, MP-SELLER, MP-PLAN, MP-GATE, MP-ONBOARDING, MP-AGREEMENT, MP-LOG, MP-METER.
        RuntimeError: At synthesis, those that show when the app is complete: MP-GATE, MP-ROLE-01, MP-PLAN-07,
            MP-SALE-15, MP-SALE-16, MP-METER-15, MP-MONETIZATION, and the errors of the documents.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        api: apigateway.IRestApi,
        product: Product | None = None,
        monetization: Monetization | None = None,
        support_contact: str,
        seller_name: str | None = None,
        logo_url: str | None = None,
        sender: str | None = None,
        sender_identity: ses.IEmailIdentity | None = None,
        throttle: Throttle | None = None,
        quota: Quota | None = None,
        method_throttles: Mapping[str, Throttle] | None = None,
        usage_plan_name: str | None = None,
        free_routes: Sequence[str] = (),
        gate_cache_ttl: cdk.Duration | None = None,
        gate: Gate | None = None,
        deployment: apigateway.Deployment | None = None,
        stage: apigateway.Stage | None = None,
        api_url: str | None = None,
        example_route: str | None = None,
        onboarding_throttle: Throttle | None = None,
        firewall_rate: int = DEFAULT_FIREWALL_RATE,
        domain_name: str | None = None,
        certificate: certificatemanager.ICertificate | None = None,
        onboarding_access_log: bool | None = None,
        metering_role: iam.IRole | None = None,
        report_usage: bool = False,
        expected_lines_per_hour: int = DEFAULT_LINES_PER_HOUR,
        metering_rules: MeteringRules | None = None,
        access_log_retention: cdk.Duration | None = None,
        meter_concurrency: int | None = 1,
        ledger_bucket: s3.IBucket | None = None,
        ledger_retention: cdk.Duration | None = None,
        joins_ledger_of: str = "",
        observe_every: cdk.Duration | None = None,
        alarm_topic: sns.ITopic | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        resource = cfn_rest_api(api)
        seller = Seller(
            seller_name=_api_name(resource) if seller_name is None else seller_name,
            support_contact=support_contact,
            logo_url=logo_url,
            sender=sender,
            sender_identity=sender_identity,
        )
        deployment = getattr(api, "latest_deployment", None) if deployment is None else deployment
        stage = _stage_of(api) if stage is None else stage
        refuse(
            [
                *_api_problems(scope, api, gate, deployment, stage),
                *_gate_choice_problems(scope, gate, free_routes, gate_cache_ttl),
                *_sold_problems(product, monetization, stage),
                *_plan_problems(
                    monetization,
                    throttle=throttle,
                    quota=quota,
                    method_throttles=method_throttles,
                    usage_plan_name=usage_plan_name,
                ),
                *_role_problems(product if monetization is None else monetization.product, metering_role),
                *_metering_problems(
                    product if monetization is None else monetization.product,
                    stage,
                    has_documents=monetization is not None,
                    report_usage=report_usage,
                    retention=access_log_retention,
                ),
                *meter_problems(
                    expected_lines_per_hour,
                    ledger_retention,
                    has_ledger=ledger_bucket is not None,
                    joins=joins_ledger_of,
                ),
                *seller.problems(),
                *limits_problems(throttle, quota, method_throttles or {}),
                *gate_problems(free_routes, gate_cache_ttl or seconds(60)),
                *agreements_problems(observe_every or hours(24)),
                *onboarding_problems(
                    example_route=example_route or "GET /",
                    throttle=onboarding_throttle or DEFAULT_THROTTLE,
                    firewall_rate=firewall_rate,
                    domain_name=domain_name,
                    certificate=certificate,
                ),
            ]
        )
        product = product if monetization is None else monetization.product
        assert stage is not None
        assert product is not None
        super().__init__(scope, construct_id)
        self.api = api
        self.stage = stage
        self.product = product
        self.api_url = stage.url_for_path().rstrip("/") if api_url is None else api_url
        """Where buyers call the API, without a trailing slash."""
        self.gate = (
            Gate(
                self,
                "Gate",
                free_routes=free_routes,
                cache_ttl=gate_cache_ttl,
                removal_policy=removal_policy,
            )
            if gate is None
            else gate
        )
        self.gate.guard_api(api, deployment=deployment)
        self.plans: Plans | None = None if monetization is None else self._plans(monetization, removal_policy)
        """The plans that documents describe; without documents, under pipeline metering, the one of every call."""
        self.usage_plan = (
            MarketplaceUsagePlan(
                self,
                "UsagePlan",
                api=api,
                stage=stage,
                product=product,
                throttle=throttle,
                quota=quota,
                method_throttles=method_throttles,
                usage_plan_name=usage_plan_name,
                removal_policy=removal_policy,
            )
            if self.plans is None
            else self.plans.default
        )
        """The usage plan that buyers' keys are put into; of several, the default."""
        is_metered = _is_metered(product, has_documents=monetization is not None, report_usage=report_usage)
        if is_metered and self.plans is None:
            self.plans = self._every_call(removal_policy)
        self.metering_role = metering_role
        if product.is_native and metering_role is None:
            self.metering_role = MeteringRole(self, "MeteringRole")
        self.agreements = Agreements(
            self,
            "Agreements",
            product=product,
            usage_plan=self.usage_plan.usage_plan,
            plans=self.plans,
            keys_table=self.gate.keys_table,
            seller=seller,
            observe_every=observe_every,
            alarm_topic=alarm_topic,
            removal_policy=removal_policy,
        )
        self.subscription_events = SubscriptionEvents(
            self,
            "SubscriptionEvents",
            agreements=self.agreements,
            alarm_topic=alarm_topic,
            removal_policy=removal_policy,
        )
        self.onboarding = Onboarding(
            self,
            "Onboarding",
            agreements=self.agreements,
            seller=seller,
            api_url=self.api_url,
            example_route=cdk.Lazy.uncached_string(_ExampleRoute(api, self.gate, self.plans))
            if example_route is None
            else example_route,
            throttle=onboarding_throttle,
            firewall_rate=firewall_rate,
            domain_name=domain_name,
            certificate=certificate,
            access_log=onboarding_access_log,
            removal_policy=removal_policy,
        )
        self.fulfillment_url = self.onboarding.fulfillment_url
        """The address that the listing names."""
        self.access_log: AccessLog | None = None
        """The lines that the bill rests on; None under native metering alone."""
        self.meter: Meter | None = None
        """What tells AWS Marketplace what was used; under native metering it only works it out."""
        if is_metered:
            assert self.plans is not None
            self.access_log = AccessLog(
                self,
                "AccessLog",
                stage=stage,
                retention=access_log_retention,
                alarm_topic=alarm_topic,
                removal_policy=removal_policy,
            )
            self._take_in_usage_events(monetization)
            self.meter = Meter(
                self,
                "Meter",
                agreements=self.agreements,
                plans=self.plans,
                access_log=self.access_log,
                expected_lines_per_hour=expected_lines_per_hour,
                rules=metering_rules,
                reserved_concurrency=meter_concurrency,
                ledger_bucket=ledger_bucket,
                ledger_retention=ledger_retention,
                joins=joins_ledger_of,
                alarm_topic=alarm_topic,
                removal_policy=removal_policy,
            )
        elif not product.is_native and product.pricing_model.has_usage:
            cdk.Validations.of(self).add_warning(
                "marketplace-constructs:MP-SALE-20",
                f"MP-SALE-20: usage of product {product.product_code} is not billed: got {_usage_dimensions(product)} "
                "and no documents that say what counts; expected one dimension of the category Requests, which every "
                "call counts in, or monetization=; give SellableApi the documents, or call BatchMeterUsage yourself "
                "and acknowledge this",
            )

    def _plans(self, monetization: Monetization, removal_policy: cdk.RemovalPolicy) -> Plans:
        # Whoever sells without documents does not pay for what reads them.
        from marketplace_constructs.infrastructure.plans import DocumentedPlans  # noqa: PLC0415

        plans = DocumentedPlans(
            self,
            "Plans",
            monetization=monetization,
            api=self.api,
            stage=self.stage,
            free_routes=self.gate.free_routes,
            removal_policy=removal_policy,
        )
        self.gate.decide_by(plans.table)
        return plans

    def _every_call(self, removal_policy: cdk.RemovalPolicy) -> Plans:
        from marketplace_constructs.infrastructure.plans import EveryCall  # noqa: PLC0415  # as above

        plans = EveryCall(
            self,
            "Plans",
            product=self.product,
            usage_plan=self.usage_plan,
            api=self.api,
            free_routes=self.gate.free_routes,
            removal_policy=removal_policy,
        )
        self.gate.decide_by(plans.table)
        return plans

    def _take_in_usage_events(self, monetization: Monetization | None) -> None:
        """Open a bus where documents declare usage events."""
        document = None if monetization is None else monetization.pool.product
        names = [] if document is None else sorted(document.document.events)
        if not names:
            return
        assert self.access_log is not None
        self.access_log.add_usage_events(names)

    def grant_read_agreements(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody list and show agreements: their facts, not their contacts."""
        return self.agreements.grant_read(grantee)

    def metric_count(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Calls to the sold API (Count)."""
        return self.stage.metric_count(period=period, statistic=statistic)

    def metric_client_error(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Answers of 400 to 499 (4XXError), also those of the gate and of the limits."""
        return self.stage.metric_client_error(period=period, statistic=statistic)

    def metric_server_error(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Answers of 500 to 599 (5XXError)."""
        return self.stage.metric_server_error(period=period, statistic=statistic)

    def metric_latency(self, *, period: cdk.Duration | None = None, statistic: str = "p99") -> cloudwatch.Metric:
        """From a call's arrival to its answer, the gate included, in milliseconds (Latency)."""
        return self.stage.metric_latency(period=period, statistic=statistic)


@jsii.implements(cdk.IStringProducer)
class _ExampleRoute:
    """A route to try the key on, chosen when the API is complete."""

    def __init__(self, api: apigateway.IRestApi, gate: Gate, plans: Plans | None) -> None:
        self._api = api
        self._gate = gate
        self._plans = plans

    def produce(self, _context: cdk.IResolveContext) -> str:
        routes = routes_of(self._api) if self._plans is None else self._plans.allowed_routes()
        sold = routes - set(self._gate.free_routes)
        fit = [route for route in sold if route.startswith("GET ") and "{" not in route]
        return min(fit, key=lambda route: (len(route), route), default="GET /")


def _stage_of(api: apigateway.IRestApi) -> apigateway.Stage | None:
    """The API's own stage; None with ``deploy=False``, where CDK raises until one is assigned."""
    if cfn_rest_api(api) is None:
        return None
    try:
        return api.deployment_stage
    except (RuntimeError, TypeError):
        return None


def _api_name(resource: apigateway.CfnRestApi | None) -> str:
    name = None if resource is None else resource.name
    return "API" if name is None else name


def _api_problems(
    scope: Construct,
    api: apigateway.IRestApi,
    gate: Gate | None,
    deployment: apigateway.Deployment | None,
    stage: apigateway.Stage | None,
) -> Iterator[Problem]:
    stack = stack_of(scope)
    resource = cfn_rest_api(api)
    if stack.nested:
        yield Problem(
            "MP-SALE-03",
            f"stack of SellableApi, got the nested stack {stack.node.path}; expected a stack of its own, "
            "since the template of a nested one would go round in a circle; define API and SellableApi in "
            "the parent stack",
        )
    if resource is None:
        yield Problem(
            "MP-SALE-01",
            f"api {api.node.path}, got an imported API; expected one that is defined in the stack of "
            "SellableApi, since an imported one has no methods to guard; define it there with RestApi, or "
            "with SpecRestApi from gate.guard(document)",
        )
        return
    if stack_of(api) is not stack:
        yield Problem(
            "MP-SALE-02",
            f"api {api.node.path}, got an API of stack {stack_of(api).node.path}; expected one of "
            f"{stack.node.path}, since two stacks would depend on each other; define SellableApi in the "
            "API's stack",
        )
    if deployment is None or identity(deployment.api) != identity(api):
        yield Problem(
            "MP-SALE-04",
            f"deployment of {api.node.path}, got {'none' if deployment is None else 'one of another API'}; "
            "expected the API's, whose id has to change with the gate; give deployment= the Deployment that "
            "you make with deploy=False",
        )
    if stage is None or identity(stage.rest_api) != identity(api):
        yield Problem(
            "MP-SALE-05",
            f"stage of {api.node.path}, got {'none' if stage is None else 'one of another API'}; expected "
            "the one that buyers call; give stage=, or set api.deployment_stage",
        )
    if resource.body_s3_location is not None:
        yield Problem(
            "MP-SALE-10",
            f"api {api.node.path}, got an OpenAPI document that lies in S3; expected one inside the "
            "template, which the gate can guard; use ApiDefinition.from_inline(gate.guard(document))",
        )
    elif resource.body is not None and gate is None:
        yield Problem(
            "MP-SALE-09",
            f"api {api.node.path}, got an OpenAPI document and no gate; expected the gate that guarded it; "
            "make Gate first, the API of ApiDefinition.from_inline(gate.guard(document)), and give gate=",
        )


def _gate_choice_problems(
    scope: Construct, gate: Gate | None, free_routes: Sequence[str], cache_ttl: cdk.Duration | None
) -> Iterator[Problem]:
    if gate is None:
        return
    if free_routes or cache_ttl is not None:
        yield Problem(
            "MP-SALE-08",
            "free_routes or gate_cache_ttl, got them together with gate; expected one or the other; give "
            "them to the Gate",
        )
    if stack_of(gate) is not stack_of(scope):
        yield Problem(
            "MP-SALE-11",
            f"gate {gate.node.path}, got one of stack {stack_of(gate).node.path}; expected one of the "
            "stack of SellableApi; define it there",
        )


def _sold_problems(
    product: Product | None, monetization: Monetization | None, stage: apigateway.Stage | None
) -> Iterator[Problem]:
    if (product is None) == (monetization is None):
        yield Problem(
            "MP-SALE-12",
            f"product or monetization, got {'neither' if product is None else 'both'}; expected one of them; give "
            "product= to sell every call for the same, or monetization= to sell by documents",
        )
    resource = None if stage is None or monetization is None else stage.node.default_child
    if isinstance(resource, apigateway.CfnStage) and is_token(resource.stage_name):
        yield Problem(
            "MP-SALE-14",
            f"name of stage {resource.node.path}, got a token; expected it to be known at synthesis, since conditions "
            "of policies may name it; give the stage a stage_name of plain text",
        )


def _plan_problems(monetization: Monetization | None, **limits: object) -> Iterator[Problem]:
    given = [name for name, value in limits.items() if value is not None]
    if monetization is not None and given:
        yield Problem(
            "MP-SALE-13",
            f"monetization, got it together with {', '.join(given)}; expected the limits in the plans; write Throttle, "
            "Quota and Limit into the documents, and remove them here",
        )


def _usage_dimensions(product: Product) -> str:
    keys = [dimension.key for dimension in product.dimensions if dimension.is_usage]
    return f"the usage dimensions {', '.join(keys)}" if keys else "no usage dimension"


def _is_metered(product: Product, *, has_documents: bool, report_usage: bool) -> bool:
    """Whether there is a log, and something that says what each line of it counts."""
    usage = [dimension for dimension in product.dimensions if dimension.is_usage]
    is_known = has_documents or [dimension.category for dimension in usage] == [Category.REQUESTS]
    return product.pricing_model.has_usage and is_known and (report_usage or not product.is_native)


def _metering_problems(
    product: Product | None,
    stage: apigateway.Stage | None,
    *,
    has_documents: bool,
    report_usage: bool,
    retention: cdk.Duration | None,
) -> Iterator[Problem]:
    if product is None or stage is None:
        return
    if report_usage and not product.is_native:
        yield Problem(
            "MP-SALE-17",
            f"report_usage, got it for product {product.product_code} with pipeline metering; expected it with native "
            "metering only, since the pipeline reports what it bills; remove it",
        )
    if _is_metered(product, has_documents=has_documents, report_usage=report_usage):
        yield from access_log_problems(stage, retention)


def _role_problems(product: Product | None, metering_role: iam.IRole | None) -> Iterator[Problem]:
    if product is None or metering_role is None:
        return
    if not product.is_native:
        yield Problem(
            "MP-SALE-06",
            f"metering_role, got one for product {product.product_code} with pipeline metering; expected it "
            "with native metering only, since AWS bills two meters twice; remove it",
        )
    name = metering_role.role_name
    if not isinstance(metering_role, MeteringRole) and not is_token(name) and name != ROLE_NAME:
        yield Problem(
            "MP-SALE-07",
            f"metering_role, got the role {name}; expected {ROLE_NAME}, by which API Gateway finds it; use "
            "MeteringRole.from_account(...)",
        )
