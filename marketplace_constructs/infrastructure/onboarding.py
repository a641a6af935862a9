"""The page behind the fulfillment URL, where a buyer comes from AWS Marketplace, registers and gets a key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from aws_cdk import aws_wafv2 as wafv2
from constructs import Construct, IConstruct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.domain.usage_plan import Throttle, is_number, route_problem
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.agreements import Agreements
from marketplace_constructs.infrastructure.function import runtime_function
from marketplace_constructs.infrastructure.security_log import security_log
from marketplace_constructs.infrastructure.seller import Seller
from marketplace_constructs.infrastructure.table import table_name
from marketplace_constructs.infrastructure.tokens import (
    is_token,
    minutes,
    node_of,
    resources_of_type,
    seconds,
    stack_of,
)
from marketplace_constructs.runtime.settings import OnboardingSettings

if TYPE_CHECKING:
    from aws_cdk import aws_certificatemanager as certificatemanager

ROUTES: Final = (
    "GET /",
    "POST /register",
    "GET /agreement",
    "POST /contact",
    "POST /key",
    "POST /rotation",
)
DEFAULT_THROTTLE: Final = Throttle(rate_limit=20, burst_limit=40)
DEFAULT_FIREWALL_RATE: Final = 300
_FIREWALL_RATES: Final = range(10, 2_000_000_001)
"""Calls per five minutes. Source: botocore 1.44.5, wafv2 2019-07-29, RateLimit (read 2026-11-21)."""
ACCESS_LOG_FIELDS: Final = {
    "request_id": "$context.requestId",
    # A client can choose the other.
    "extended_request_id": "$context.extendedRequestId",
    "time": "$context.requestTimeEpoch",
    "method": "$context.httpMethod",
    "route": "$context.resourcePath",
    "status": "$context.status",
    "refused_as": "$context.error.responseType",
    "firewall": "$context.wafResponseCode",
    "function_request_id": "$context.integration.requestId",
    "function_status": "$context.integration.status",
    "latency_ms": "$context.responseLatency",
}
"""What the access log says of a call: nothing that the caller wrote, and not who it was.

Source: API Gateway developer guide, Variables for access logging (read 2026-11-21)."""
_ROTATE: Final = ("DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage")
"""What a rotation calls. Source: Secrets Manager user guide, Rotation function execution role (read 2026-11-21)."""
_SIGN_IN: Final = (
    "buyers sign in with a registration token, which the function has AWS resolve; bounded by the throttle"
)


class Onboarding(Construct):
    """An API apart from the one that is sold, whose ``/register`` is the listing's fulfillment URL.

    Defines the REST API, its function, the secret that signs sessions (a new one every 30 days), and a
    firewall with one rule, the rate of calls per address. AWS's managed rule groups are left out: they
    inspect bodies, and nothing says that a registration token, which is opaque, never looks like an attack to
    them; a buyer whose first POST is refused has paid and gets nothing. No rule looks at countries, since
    buyers may come from any. There is an access log beside the function's own, kept for 400 days, of what was
    called and answered; and no data trace, because bodies hold registration tokens.

    API Gateway writes access logs with a role of the account's settings, ``AWS::ApiGateway::Account``, which no
    construct of this library defines, and refuses the deployment of an access log where there is none.

    Args:
        scope: Where it is defined.
        construct_id: Its id; a change gives the page another address, which the listing has to learn.
        agreements: Where facts and contacts go.
        seller: What pages and mails show.
        api_url: Where the sold API answers, without a trailing slash.
        example_route: The route that the ready curl line calls, such as ``GET /v1/nouns``.
        throttle: Calls per second to the page in all. Left out, 20 with bursts of 40.
        firewall_rate: Calls per five minutes from one address, 10 to 2,000,000,000.
        domain_name: The seller's own domain for the page. The API's own address goes on answering, because
            the listing learns of a new address only after AWS's review.
        certificate: The domain's certificate, of the same Region.
        access_log: Whether there is an access log. AWS Marketplace asks for logs of security events: without this
            one, the function's says what it decided, and nothing says what throttle and firewall refused. True where
            the account's settings name a role. Left out, there is one if the stack defines
            ``AWS::ApiGateway::Account``, as a RestApi with ``cloud_watch_role=True`` does; else synthesis warns.
        removal_policy: What becomes of the logs when they leave the stack.

    Raises:
        MarketplaceConstructsError: MP-ONBOARDING-01 to MP-ONBOARDING-03, MP-PLAN-01, -02, -05, MP-SELLER-01
            to -05, together.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        agreements: Agreements,
        seller: Seller,
        api_url: str,
        example_route: str,
        throttle: Throttle | None = None,
        firewall_rate: int = DEFAULT_FIREWALL_RATE,
        domain_name: str | None = None,
        certificate: certificatemanager.ICertificate | None = None,
        access_log: bool | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        throttle = DEFAULT_THROTTLE if throttle is None else throttle
        refuse(
            [
                *seller.problems(),
                *onboarding_problems(
                    example_route=example_route,
                    throttle=throttle,
                    firewall_rate=firewall_rate,
                    domain_name=domain_name,
                    certificate=certificate,
                ),
            ]
        )
        super().__init__(scope, construct_id)
        self.signing_secret = self._signing_secret(removal_policy)
        self.function = runtime_function(
            self,
            "Function",
            handler="marketplace_constructs.runtime.onboarding.handler.handler",
            description="The page where buyers from AWS Marketplace register and get their key",
            # API Gateway waits for 29 s.
            timeout=seconds(28),
            memory_size=1024,
            bounded_by="the page's throttle",
            when_it_fails="API Gateway waits for the answer, and shows the buyer a page where there is none",
            settings=OnboardingSettings(
                **asdict(agreements.settings),
                contacts_table=table_name(agreements.contacts_table),
                signing_secret=self._signing_secret_arn,
                seller_name=seller.seller_name,
                logo_url=seller.logo_url or "",
                support_contact=seller.support_contact,
                api_url=api_url,
                example_route=example_route,
                sender=seller.sender or "",
            ),
            removal_policy=removal_policy,
        )
        self._grant(agreements, seller)
        self.api = self._api(throttle)
        if access_log is not False:
            self.access_log = security_log(self, "AccessLog", removal_policy=removal_policy)
            stage = node_of(self._stage).default_child
            assert stage is not None
            # The stage alone: an Aspect is called for everything below its construct.
            cdk.Aspects.of(stage).add(
                _AccessLog(self, is_role_sure=access_log is True), priority=cdk.AspectPriority.MUTATING
            )
        self._firewall(firewall_rate)
        self.fulfillment_url = self.api.url_for_path("/register")
        """The address that the listing names."""
        if domain_name is not None and certificate is not None:
            self.domain = apigateway.DomainName(
                self,
                "Domain",
                certificate=certificate,
                domain_name=domain_name,
                endpoint_type=apigateway.EndpointType.REGIONAL,
                mapping=self.api,
                security_policy=apigateway.SecurityPolicy.TLS_1_2,
            )
            self.fulfillment_url = f"https://{domain_name}/register"
        self.fulfillment_url_output = cdk.CfnOutput(
            self,
            "FulfillmentUrl",
            description="Enter it as the fulfillment URL of the listing",
            value=self.fulfillment_url,
        )
        if seller.sender is None:
            cdk.Validations.of(self).add_warning(
                "marketplace-constructs:MP-ONBOARDING-04",
                "MP-ONBOARDING-04: no sender, so that buyers get no confirmation by mail, which AWS "
                "Marketplace's SaaS product guidelines ask for; give sender= an address that SES has "
                "verified",
            )

    def metric_count(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Calls to the page (Count)."""
        return self._stage.metric_count(period=period, statistic=statistic)

    def metric_client_error(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Answers of 400 to 499 (4XXError)."""
        return self._stage.metric_client_error(period=period, statistic=statistic)

    def metric_server_error(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Answers of 500 to 599 (5XXError); each is a buyer who was turned away."""
        return self._stage.metric_server_error(period=period, statistic=statistic)

    def _signing_secret(self, removal_policy: cdk.RemovalPolicy) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            "SigningSecret",
            description="Signs the sessions of the onboarding page",
            generate_secret_string=secretsmanager.SecretStringGenerator(exclude_punctuation=True, password_length=64),
        )
        secret.deny_account_root_delete()
        self._signing_secret_arn = secret.secret_arn
        acknowledge(
            secret,
            {
                Finding.CUSTOMER_KEY_OF_SECRET: "encrypted with the account's KMS key for Secrets Manager; it signs "
                "sessions of minutes, and there is a new one every 30 days"
            },
        )
        self._rotate(secret, removal_policy)
        return secret

    def _rotate(self, secret: secretsmanager.Secret, removal_policy: cdk.RemovalPolicy) -> None:
        """Have a new version made every 30 days.

        CDK's own schedule would let the function ask for random passwords, and let Secrets Manager call it on behalf
        of any account.
        """
        rotation = runtime_function(
            self,
            "SigningSecretFunction",
            handler="marketplace_constructs.runtime.onboarding.signing_secret.handler",
            description="Makes a new secret for the sessions of the onboarding page",
            timeout=minutes(1),
            bounded_by="its schedule, every 30 days",
            when_it_fails="the secret in use stays, and Secrets Manager tries again",
            removal_policy=removal_policy,
        )
        iam.Grant.add_to_principal(
            grantee=rotation,
            actions=[f"secretsmanager:{action}" for action in _ROTATE],
            resource_arns=[self._signing_secret_arn],
        )
        function_arn = rotation.function_arn
        permission = lambda_.CfnPermission(
            rotation,
            "Rotation",
            action="lambda:InvokeFunction",
            function_name=function_arn,
            principal="secretsmanager.amazonaws.com",
            source_account=stack_of(self).account,
        )
        schedule = secretsmanager.CfnRotationSchedule(
            secret,
            "Rotation",
            rotation_lambda_arn=function_arn,
            rotation_rules=secretsmanager.CfnRotationSchedule.RotationRulesProperty(
                schedule_expression="rate(30 days)"
            ),
            secret_id=self._signing_secret_arn,
        )
        # The first rotation begins when the schedule is made.
        schedule.node.add_dependency(permission)

    def _grant(self, agreements: Agreements, seller: Seller) -> None:
        agreements.grant_record(self.function)
        agreements.grant_settle(self.function)
        agreements.grant_make_keys(self.function)
        agreements.grant_keep_contacts(self.function)
        agreements.grant_confirm(self.function, seller)
        for actions, resource in (
            (["secretsmanager:GetSecretValue"], self._signing_secret_arn),
            # It knows no resources.
            (["aws-marketplace:ResolveCustomer"], "*"),
        ):
            iam.Grant.add_to_principal(grantee=self.function, actions=actions, resource_arns=[resource])

    def _api(self, throttle: Throttle) -> apigateway.RestApi:
        api = apigateway.RestApi(
            self,
            "Api",
            # The role is the account's, not this construct's.
            cloud_watch_role=False,
            deploy_options=apigateway.StageOptions(
                data_trace_enabled=False,
                logging_level=apigateway.MethodLoggingLevel.OFF,
                throttling_burst_limit=throttle.burst_limit,
                throttling_rate_limit=throttle.rate_limit,
                tracing_enabled=True,
            ),
            description="Where buyers from AWS Marketplace register",
            endpoint_types=[apigateway.EndpointType.REGIONAL],
        )
        integration = apigateway.LambdaIntegration(self.function, allow_test_invoke=False)
        # CDK's own output would show a second address beside the fulfillment URL.
        api.node.try_remove_child("Endpoint")
        acknowledge(api, {Finding.API_REQUEST_VALIDATION: "the function answers a malformed form with a page to read"})
        root = api.root
        for route in ROUTES:
            method, path = route.split(" ")
            resource = root.resource_for_path(path)
            acknowledge(
                resource.add_method(method, integration),
                {Finding.API_AUTHORIZATION: _SIGN_IN, Finding.API_USER_POOL: _SIGN_IN},
            )
        self._stage = api.deployment_stage
        acknowledge(
            self._stage,
            {
                Finding.API_CACHE: "every page is made for one buyer",
                Finding.API_CLIENT_CERTIFICATE: "the only backend is a function, which IAM lets this API alone call",
                Finding.API_EXECUTION_LOG: "it could hold bodies, and bodies hold registration tokens",
            },
        )
        return api

    def _firewall(self, rate: int) -> None:
        visibility = {"cloud_watch_metrics_enabled": True, "sampled_requests_enabled": False}
        acl = wafv2.CfnWebACL(
            self,
            "Firewall",
            default_action=wafv2.CfnWebACL.DefaultActionProperty(allow={}),
            description="Limits calls per address",
            rules=[
                wafv2.CfnWebACL.RuleProperty(
                    action=wafv2.CfnWebACL.RuleActionProperty(block={}),
                    name="rate-per-address",
                    priority=0,
                    statement=wafv2.CfnWebACL.StatementProperty(
                        rate_based_statement=wafv2.CfnWebACL.RateBasedStatementProperty(
                            aggregate_key_type="IP", limit=rate
                        )
                    ),
                    visibility_config=wafv2.CfnWebACL.VisibilityConfigProperty(
                        metric_name="rate-per-address", **visibility
                    ),
                )
            ],
            scope="REGIONAL",
            visibility_config=wafv2.CfnWebACL.VisibilityConfigProperty(metric_name="onboarding", **visibility),
        )
        acknowledge(
            acl,
            {
                Finding.FIREWALL_LOG: "it would hold every visitor's address and cookies; the access log says which "
                "calls the firewall refused",
                Finding.FIREWALL_LOG4J: "no Java is behind it, and the rule inspects bodies, which hold tokens",
            },
        )
        wafv2.CfnWebACLAssociation(
            self,
            "FirewallAssociation",
            resource_arn=self._stage.stage_arn,
            web_acl_arn=acl.attr_arn,
        )


@jsii.implements(cdk.IAspect)
class _AccessLog:
    """Gives the page its access log when it is known whether the stack defines the role to write it with."""

    def __init__(self, onboarding: Onboarding, *, is_role_sure: bool) -> None:
        self._onboarding = onboarding
        self._is_role_sure = is_role_sure

    def visit(self, node: IConstruct) -> None:
        if not isinstance(node, apigateway.CfnStage):
            return
        stack = stack_of(node)
        accounts = resources_of_type(stack, "AWS::ApiGateway::Account")
        if not accounts and not self._is_role_sure:
            cdk.Validations.of(self._onboarding).add_warning(
                "marketplace-constructs:MP-ONBOARDING-05",
                f"MP-ONBOARDING-05: access log of {self._onboarding.node.path}, got no AWS::ApiGateway::Account in the "
                "stack, so that there is none; expected one, since AWS Marketplace asks for logs of security events; "
                "make an API of the stack with cloud_watch_role=True, or, where the account's API Gateway settings "
                "name a role for logs, say that the page has an access log",
            )
            return
        node.access_log_setting = apigateway.CfnStage.AccessLogSettingProperty(
            destination_arn=stack.format_arn(
                service="logs",
                resource="log-group",
                resource_name=self._onboarding.access_log.log_group_name,
                arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
            ),
            format=json.dumps(ACCESS_LOG_FIELDS),
        )
        node.node.add_dependency(*accounts)


def onboarding_problems(
    *,
    example_route: str,
    throttle: Throttle,
    firewall_rate: int,
    domain_name: str | None,
    certificate: certificatemanager.ICertificate | None,
) -> Iterator[Problem]:
    """All that is wrong with the page's own props."""
    problem = None if is_token(example_route) else route_problem(example_route, "example_route")
    if problem is not None:
        yield problem
    yield from throttle.problems("onboarding throttle")
    if not is_number(firewall_rate) or firewall_rate not in _FIREWALL_RATES:
        yield Problem(
            "MP-ONBOARDING-01",
            f"firewall_rate, got {firewall_rate!r}; expected 10 to 2,000,000,000 calls per five minutes and "
            f"address, known at synthesis; leave it out for {DEFAULT_FIREWALL_RATE}",
        )
    if domain_name is not None and certificate is None:
        yield Problem(
            "MP-ONBOARDING-02",
            f"domain_name, got {domain_name!r} without a certificate; expected both; give the domain's certificate",
        )
    if domain_name is None and certificate is not None:
        yield Problem(
            "MP-ONBOARDING-03",
            "certificate, got one without a domain_name; expected both; give the domain's name",
        )
