"""The gate in front of the API that is sold: a request authorizer on every route, besides the key."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import aws_cdk as cdk
import jsii
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct, IConstruct

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem, refuse
from marketplace_constructs.domain.usage_plan import route_problem
from marketplace_constructs.infrastructure.function import runtime_function
from marketplace_constructs.infrastructure.routes import (
    Operation,
    api_id,
    cfn_rest_api,
    document_of,
    is_preflight,
    is_preflight_operation,
    methods_below,
    methods_of,
    operations_of,
    properties_of,
    route_of,
)
from marketplace_constructs.infrastructure.table import sale_table, table_name
from marketplace_constructs.infrastructure.tokens import (
    is_token,
    seconds,
    seconds_of,
    service,
    stack_of,
    validate_at_synthesis,
)
from marketplace_constructs.runtime.settings import GateSettings

_IDENTITY_SOURCES: Final = ("method.request.header.x-api-key", "context.httpMethod", "context.resourcePath")
"""What a cached answer holds for. Without method and resource path, one route's answer would open
another."""

_MAX_TTL_SECONDS: Final = 3600
"""Source: botocore 1.44.5, apigateway 2015-07-09, CreateAuthorizer, authorizerResultTtlInSeconds (read
2026-11-21)."""

_KEY_SCHEME: Final = "marketplace_key"
_GATE_SCHEME: Final = "marketplace_gate"
_AUTHORIZER: Final = "x-amazon-apigateway-authorizer"
_KEY_SOURCE: Final = "x-amazon-apigateway-api-key-source"


class Gate(Construct):
    """Answers who may call which route: requires a key, and looks it up by its digest.

    Defines the function, the table of keys that it reads (digests only; retained, restorable to any second of
    the last 35 days) and, for the API that it guards, the authorizer. It names no usage plan: that would
    close a circle.

    An API that is defined by constructs is handed to ``guard_api``; one defined by an OpenAPI document gets
    the document from ``guard`` first::

        gate = Gate(stack, "Gate", free_routes=["GET /v1/health"])
        api = apigateway.SpecRestApi(
            stack, "Api", api_definition=apigateway.ApiDefinition.from_inline(gate.guard(document))
        )
        SellableApi(stack, "Sale", api=api, gate=gate, ...)

    Args:
        scope: Where it is defined, in the stack of the API.
        construct_id: Its id; a change replaces the table of keys.
        free_routes: Routes that anybody may call without a key, such as ``GET /v1/health``.
        cache_ttl: How long API Gateway keeps an answer, 0 s to 1 h. A key that is shut out may go on for as
            long.
        removal_policy: What becomes of the table and the log when they leave the stack.

    Raises:
        MarketplaceConstructsError: MP-GATE-01, MP-PLAN-05, together.
        RuntimeError: At synthesis, MP-GATE-02 to MP-GATE-06, where the API's methods cannot be guarded.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        free_routes: Sequence[str] = (),
        cache_ttl: cdk.Duration | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        cache_ttl = seconds(60) if cache_ttl is None else cache_ttl
        refuse(gate_problems(free_routes, cache_ttl))
        super().__init__(scope, construct_id)
        self.free_routes = tuple(sorted(set(free_routes)))
        self._ttl_seconds = int(seconds_of(cache_ttl) or 0)
        self.keys_table = sale_table(self, "Keys", partition_key="key_sha256", removal_policy=removal_policy)
        self.function = runtime_function(
            self,
            "Function",
            handler="marketplace_constructs.runtime.gate.handler",
            description="Answers which key may call which route of the API that is sold",
            # API Gateway waits for an authorizer for as long as for an integration; a buyer should not.
            timeout=seconds(10),
            memory_size=512,
            bounded_by="the sold API's throttle, and answers that API Gateway keeps",
            when_it_fails="API Gateway waits for the answer, and shuts the caller out where there is none",
            settings=GateSettings(keys_table=table_name(self.keys_table)),
            removal_policy=removal_policy,
        )
        self.keys_table.grant(self.function, "dynamodb:GetItem")

    def decide_by(self, plans_table: dynamodb.ITable) -> None:
        """Answer by the plan of the key's agreement, whose routes stand in a table.

        Args:
            plans_table: Of ``SellableApi.plans``; partition key ``plan``, sort key ``holds_from``.
        """
        self.function.add_environment("PLANS_TABLE", table_name(plans_table))
        plans_table.grant(self.function, "dynamodb:Query")

    def guard_api(self, api: apigateway.IRestApi, *, deployment: apigateway.Deployment | None = None) -> None:
        """Put this gate before every method of an API, also later ones, but CORS preflights and free routes.

        Args:
            api: Defined in the same stack, either by constructs or by a document from ``guard``.
            deployment: The API's deployment. Left out, the one that the API makes itself.

        Raises:
            MarketplaceConstructsError: MP-GATE-08, where the API has no deployment.
        """
        if document_of(api) is None:
            deployment = getattr(api, "latest_deployment", None) if deployment is None else deployment
            authorizer_id = self._guard_methods(api, deployment).ref
        else:
            validate_at_synthesis(self, lambda: list(self._document_problems(api)))
            authorizer_id = "*"
        self.function.add_permission(
            "ApiGateway",
            principal=service("apigateway.amazonaws.com"),
            source_arn=stack_of(self).format_arn(
                service="execute-api",
                resource=api_id(api),
                resource_name=f"authorizers/{authorizer_id}",
            ),
        )

    def guard(self, document: Mapping[str, object]) -> dict[str, object]:
        """An OpenAPI document whose every operation, but CORS preflights and free routes, has key and gate.

        The same document always gives the same result, and a guarded document is left as it is.

        Args:
            document: OpenAPI 3.0 or Swagger 2.0, as plain dicts and lists.

        Returns:
            A new document with deploy-time values; for ``ApiDefinition.from_inline``.

        Raises:
            MarketplaceConstructsError: MP-GATE-02 to MP-GATE-05, together.
        """
        refuse(self._operation_problems(document))
        guarded = copy.deepcopy(dict(document))
        for route, operation in operations_of(guarded):
            if not self._is_open(route, operation):
                operation["security"] = [{_KEY_SCHEME: [], _GATE_SCHEME: []}]
        _schemes(guarded).update(
            {
                _KEY_SCHEME: {"type": "apiKey", "name": "x-api-key", "in": "header"},
                _GATE_SCHEME: {
                    "type": "apiKey",
                    "name": "x-api-key",
                    "in": "header",
                    "x-amazon-apigateway-authtype": "custom",
                    _AUTHORIZER: {
                        "type": "request",
                        "identitySource": ", ".join(_IDENTITY_SOURCES),
                        "authorizerUri": self._authorizer_uri(),
                        "authorizerResultTtlInSeconds": self._ttl_seconds,
                    },
                },
            }
        )
        return guarded

    def metric_duration(self, *, period: cdk.Duration | None = None, statistic: str = "p99") -> cloudwatch.Metric:
        """How long the gate's function takes, in milliseconds; answers from the cache are not in it."""
        return self.function.metric_duration(period=period, statistic=statistic)

    def metric_errors(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Calls of the gate's function that failed; each shut a buyer out."""
        return self.function.metric_errors(period=period, statistic=statistic)

    def _guard_methods(
        self, api: apigateway.IRestApi, deployment: apigateway.Deployment | None
    ) -> apigateway.CfnAuthorizer:
        if deployment is None:
            raise MarketplaceConstructsError(
                Problem(
                    "MP-GATE-08",
                    f"deployment of {api.node.path}, got none; expected the one that deploys the gate; "
                    "give deployment= the one that you make with deploy=False",
                )
            )
        authorizer = apigateway.CfnAuthorizer(
            self,
            "Authorizer",
            authorizer_result_ttl_in_seconds=self._ttl_seconds,
            authorizer_uri=self._authorizer_uri(),
            identity_source=",".join(_IDENTITY_SOURCES),
            name=cdk.Names.unique_resource_name(self, max_length=128),
            rest_api_id=api_id(api),
            type="REQUEST",
        )
        authorizer_id = authorizer.ref
        # On the API's resource alone: an Aspect is called for everything below its construct, across processes.
        cdk.Aspects.of(cfn_rest_api(api) or api).add(
            _Guard(api, authorizer_id, self.free_routes), priority=cdk.AspectPriority.MUTATING
        )
        # A changed authorizer is not served before the next deployment; CDK looks at methods only.
        deployment.add_to_logical_id(
            {
                "authorizer": cdk.Lazy.any(_AuthorizerProperties(authorizer)),
                "free_routes": list(self.free_routes),
            }
        )
        validate_at_synthesis(self, lambda: list(self._method_problems(api, authorizer_id)))
        return authorizer

    def _authorizer_uri(self) -> str:
        stack = stack_of(self)
        return (
            f"arn:{stack.partition}:apigateway:{stack.region}:lambda:path/2015-03-31/functions/"
            f"{self.function.function_arn}/invocations"
        )

    def _is_open(self, route: str, operation: Operation) -> bool:
        return route in self.free_routes or is_preflight_operation(route, operation)

    def _method_problems(self, api: apigateway.IRestApi, authorizer_id: str) -> Iterator[Problem]:
        """What the Aspect left as it was because it contradicts the gate, or missed; what it can, it guards now."""
        methods = methods_of(api)
        yield from self._free_route_problems({route for route, _ in methods if route is not None})
        for route, method in methods:
            if route in self.free_routes:
                continue
            properties = properties_of(method)
            if is_preflight(method, properties):
                continue
            own_id, kind = properties.get("authorizerId"), properties.get("authorizationType")
            if properties.get("apiKeyRequired") is False:
                yield _open_problem(route or method.node.path, "api_key_required=False")
            elif own_id is None and kind in {None, "NONE"}:
                if method.node.path.startswith(f"{api.node.path}/"):
                    # Another Aspect added it after the gate's had come by.
                    _put_before(method, authorizer_id)
                    continue
                yield Problem(
                    "MP-GATE-06",
                    f"method {method.node.path}, got it defined outside the API's own tree; expected it "
                    "inside, where the gate reaches it; define it with add_method on a resource of the "
                    "API",
                )
            elif own_id != authorizer_id:
                yield _authorizer_problem(route or method.node.path, str(kind))
        resource = cfn_rest_api(api)
        key_source = None if resource is None else resource.api_key_source_type
        if key_source not in {None, "HEADER"}:
            yield _key_source_problem(key_source)

    def _document_problems(self, api: apigateway.IRestApi) -> Iterator[Problem]:
        document = document_of(api)
        if document is None:
            return
        problems = list(self._operation_problems(document))
        yield from problems
        if problems or stack_of(self).resolve(self.guard(document)) != document:
            yield Problem(
                "MP-GATE-07",
                f"OpenAPI document of {api.node.path}, got it without the gate; expected the document that "
                "gate.guard(document) returns; make the API of "
                "ApiDefinition.from_inline(gate.guard(document)), with the gate that SellableApi is given",
            )

    def _operation_problems(self, document: Mapping[str, object]) -> Iterator[Problem]:
        operations = list(operations_of(document))
        yield from self._free_route_problems({route for route, _ in operations})
        foreign = {
            name
            for name, scheme in _schemes(copy.deepcopy(dict(document))).items()
            if name != _GATE_SCHEME and not _is_plain_key(scheme)
        }
        for route, operation in operations:
            if self._is_open(route, operation):
                continue
            security = operation.get("security", document.get("security"))
            if operation.get("security") == []:
                yield _open_problem(route, "security: []")
            for name in sorted(
                {n for requirement in security for n in requirement} & foreign if isinstance(security, list) else ()
            ):
                yield _authorizer_problem(route, name)
        if document.get(_KEY_SOURCE, "HEADER") != "HEADER":
            yield _key_source_problem(document[_KEY_SOURCE])

    def _free_route_problems(self, routes: set[str]) -> Iterator[Problem]:
        for route in self.free_routes:
            if route not in routes:
                yield Problem(
                    "MP-GATE-04",
                    f"free route, got {route!r}; expected one of the API's routes, "
                    f"{', '.join(sorted(routes))}; declare it as a method of its own, since a route inside "
                    "a proxy cannot be free, or remove it",
                )


@jsii.implements(cdk.IAspect)
class _Guard:
    """Gives the methods of an API the key and the authorizer, also those that were added after the gate.

    It changes no explicit choice; validation reports those that contradict the gate.
    """

    def __init__(self, api: apigateway.IRestApi, authorizer_id: str, free_routes: tuple[str, ...]) -> None:
        self._api = api
        self._authorizer_id = authorizer_id
        self._free_routes = free_routes

    def visit(self, _api: IConstruct) -> None:
        for method in methods_below(self._api):
            route, properties = route_of(method), properties_of(method)
            if is_preflight(method, properties) or route in self._free_routes:
                continue
            if (
                properties.get("apiKeyRequired") is not False
                and properties.get("authorizerId") is None
                and properties.get("authorizationType") in {None, "NONE"}
            ):
                _put_before(method, self._authorizer_id)


def _put_before(method: apigateway.CfnMethod, authorizer_id: str) -> None:
    method.api_key_required = True
    method.authorization_type = "CUSTOM"
    method.authorizer_id = authorizer_id


@jsii.implements(cdk.IStableAnyProducer)
class _AuthorizerProperties:
    """The authorizer's properties as they are when the app is complete."""

    def __init__(self, authorizer: apigateway.CfnAuthorizer) -> None:
        self._authorizer = authorizer

    def produce(self) -> dict[str, object]:
        return {
            "identity_source": self._authorizer.identity_source,
            "ttl": self._authorizer.authorizer_result_ttl_in_seconds,
            "type": self._authorizer.type,
            "uri": self._authorizer.authorizer_uri,
        }


def gate_problems(free_routes: Sequence[str], cache_ttl: cdk.Duration) -> Iterator[Problem]:
    """All that is wrong with the gate's own props."""
    for route in free_routes:
        problem = route_problem(route, "free_routes")
        if problem is not None:
            yield problem
    ttl = seconds_of(cache_ttl)
    if ttl is None or not 0 <= ttl <= _MAX_TTL_SECONDS:
        got = "a token" if ttl is None else f"{ttl:g} s"
        yield Problem(
            "MP-GATE-01",
            f"cache_ttl of the gate, got {got}; expected 0 to {_MAX_TTL_SECONDS} s, known at synthesis; "
            "leave it out for 60 s",
        )


def _open_problem(route: str, got: str) -> Problem:
    return Problem(
        "MP-GATE-02",
        f"route {route}, got {got}; expected every route of a sold API to require the key; name it in "
        "free_routes if anybody may call it, or remove that setting",
    )


def _authorizer_problem(route: str, got: str) -> Problem:
    return Problem(
        "MP-GATE-03",
        f"route {route}, got an authorizer of its own, {got}; expected the gate's, since a method has but "
        "one; remove it, or name the route in free_routes to sell nothing there",
    )


def _key_source_problem(got: object) -> Problem:
    return Problem(
        "MP-GATE-05",
        f"API key source, got {'a token' if is_token(got) else got}; expected HEADER, where buyers put their "
        "key; remove api_key_source_type",
    )


def _schemes(document: dict[str, object]) -> dict[str, object]:
    """The document's security schemes, made where there are none."""
    if "swagger" in document:
        return cast("dict[str, object]", document.setdefault("securityDefinitions", {}))
    components = cast("dict[str, object]", document.setdefault("components", {}))
    return cast("dict[str, object]", components.setdefault("securitySchemes", {}))


def _is_plain_key(scheme: object) -> bool:
    """Whether a scheme only says that the key is needed, which it is."""
    return (
        isinstance(scheme, dict)
        and scheme.get("type") == "apiKey"
        and str(scheme.get("name", "")).lower() == "x-api-key"
        and _AUTHORIZER not in scheme
    )
