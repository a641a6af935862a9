"""What routes an API has: methods of the constructs, and operations of an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from aws_cdk import aws_apigateway as apigateway
from constructs import IConstruct

from marketplace_constructs.domain.usage_plan import METHODS
from marketplace_constructs.infrastructure.tokens import asked_once, identity, node_of, resources_of_type, stack_of
from marketplace_constructs.policy.patterns import ANY, Route, expanded

Operation = dict[str, object]

_ANY: Final = "x-amazon-apigateway-any-method"
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_COMPRESSION: Final = "x-amazon-apigateway-minimum-compression-size"
_HEADER: Final = "method.request.header."


@asked_once
def cfn_rest_api(api: apigateway.IRestApi) -> apigateway.CfnRestApi | None:
    """The resource behind an API; None for an imported one."""
    resource = node_of(api).default_child
    return resource if isinstance(resource, apigateway.CfnRestApi) else None


@asked_once
def api_id(api: apigateway.IRestApi) -> str:
    """The id of an API, a token."""
    return api.rest_api_id


def document_of(api: apigateway.IRestApi) -> dict[str, object] | None:
    """The OpenAPI document that an API is defined by, resolved; None where it is defined by constructs."""
    resource = cfn_rest_api(api)
    if resource is None or resource.body is None:
        return None
    document = stack_of(api).resolve(resource.body)
    return document if isinstance(document, dict) else None


def methods_of(api: apigateway.IRestApi) -> list[tuple[str | None, apigateway.CfnMethod]]:
    """Each method of an API with its route, such as ``GET /v1/x``; a bare CfnMethod's is not known."""
    stack = stack_of(api)
    methods = methods_below(stack)
    # What add_method defined in the API's own tree is its own; of others alone it has to be asked.
    own = {identity(method) for method in methods_below(api) if route_of(method) is not None}
    others = [method for method in methods if identity(method) not in own]
    if others:
        own_id, *ids = stack.resolve([api_id(api), *map(_id_of_its_api, others)])
        own.update(identity(method) for method, id_ in zip(others, ids, strict=True) if id_ == own_id)
    return [(route_of(method), method) for method in methods if identity(method) in own]


def methods_below(scope: IConstruct) -> list[apigateway.CfnMethod]:
    """The methods in a tree."""
    found = resources_of_type(scope, "AWS::ApiGateway::Method")
    return [method for method in found if isinstance(method, apigateway.CfnMethod)]


@asked_once
def stage_name(stage: apigateway.Stage) -> str:
    """The name of a stage, a token."""
    return stage.stage_name


@asked_once
def route_of(method: apigateway.CfnMethod) -> str | None:
    """The route of a method that was defined by ``add_method``; None for a bare CfnMethod."""
    owner = node_of(method).scope
    return _route(owner) if isinstance(owner, apigateway.Method) else None


def properties_of(method: apigateway.CfnMethod) -> Mapping[str, Any]:
    """A method's properties as they are now, by CloudFormation's names with a small first letter; read in one call."""
    return method._cfn_properties  # noqa: SLF001 - protected, for whoever looks at what will be synthesized


def is_preflight(method: apigateway.CfnMethod, properties: Mapping[str, Any]) -> bool:
    """Whether a browser's CORS preflight is answered by it: OPTIONS with a mock integration.

    Args:
        method: The method.
        properties: As ``properties_of`` read them.
    """
    if properties.get("httpMethod") != "OPTIONS":
        return False
    integration = stack_of(method).resolve(properties.get("integration"))
    return isinstance(integration, dict) and integration.get("type") == "MOCK"


def operations_of(document: Mapping[str, object]) -> Iterator[tuple[str, Operation]]:
    """Each operation of an OpenAPI document with its route, such as ``GET /v1/x``."""
    paths = document.get("paths")
    for path, item in paths.items() if isinstance(paths, dict) else ():
        for name, operation in item.items() if isinstance(item, dict) else ():
            method = "ANY" if name == _ANY else name.upper()
            if isinstance(operation, dict) and (method in METHODS or name == _ANY):
                yield f"{method} {path}", operation


def is_preflight_operation(route: str, operation: Mapping[str, object]) -> bool:
    """Whether a browser's CORS preflight is answered by it: OPTIONS with a mock integration."""
    integration = operation.get(_INTEGRATION)
    return (
        route.startswith("OPTIONS ")
        and isinstance(integration, dict)
        and str(integration.get("type", "")).upper() == "MOCK"
    )


def routes_of(api: apigateway.IRestApi) -> frozenset[str]:
    """The routes of an API, as far as they are known at synthesis."""
    document = document_of(api)
    if document is not None:
        return frozenset(route for route, _ in operations_of(document))
    return frozenset(map(_route, getattr(api, "methods", ())))


def policy_routes(api: apigateway.IRestApi, free_routes: Iterable[str] = ()) -> tuple[Route, ...]:
    """The routes of an API as policies see them, CORS preflights included, sorted.

    Args:
        api: Whose methods are known at synthesis; those of a bare CfnMethod are left out.
        free_routes: Routes that need no key.
    """
    from marketplace_constructs.policy.routes import routes_of as read  # noqa: PLC0415  # needs an extra

    document = document_of(api)
    document = _described(api) if document is None else document
    if not any(operations_of(document)):
        return ()
    free = frozenset(free_routes)
    return tuple(
        replace(route, requires_key=not route.is_preflight and str(route) not in free)
        for route in read(document, name=api.node.path)
    )


def guarded_routes(api: apigateway.IRestApi, free_routes: Iterable[str] = ()) -> tuple[Route, ...]:
    """The routes that the gate guards, each ``ANY`` written out, sorted by path and method.

    Args:
        api: Whose methods are known at synthesis; those of a bare CfnMethod are left out.
        free_routes: Routes that need no key.
    """
    document = document_of(api)
    known = (
        [
            route
            for route, method in methods_of(api)
            if route is not None and not is_preflight(method, properties_of(method))
        ]
        if document is None
        else [route for route, operation in operations_of(document) if not is_preflight_operation(route, operation)]
    )
    sold = (route.split(" ", 1) for route in set(known) - set(free_routes))
    return expanded(Route(path=path, method=method) for method, path in sold)


def unknown_routes(api: apigateway.IRestApi) -> list[str]:
    """The paths in the construct tree of methods whose route is not known."""
    return [] if document_of(api) is not None else [m.node.path for route, m in methods_of(api) if route is None]


def declared_routes(routes: Iterable[Route]) -> dict[Route, str]:
    """The routes with each ``ANY`` written out, without preflights, each with the route as it is declared."""
    declared = {(route.path, route.method) for route in routes}
    return {
        route: str(route) if (route.path, route.method) in declared else f"{ANY} {route.path}"
        for route in expanded(routes)
        if not route.is_preflight
    }


def _described(api: apigateway.IRestApi) -> dict[str, object]:
    """The methods of an API that is defined by constructs, as an OpenAPI document of them would say it."""
    known = [(route, method) for route, method in methods_of(api) if route is not None]
    # Resolved together, since each question goes to another process.
    resolved = stack_of(api).resolve(
        [
            {
                "integration": properties.get("integration"),
                "parameters": properties.get("requestParameters"),
                "responses": properties.get("methodResponses"),
            }
            for properties in (properties_of(method) for _, method in known)
        ]
    )
    paths: dict[str, dict[str, object]] = {}
    for (route, _), details in zip(known, resolved, strict=True):
        name, path = route.split(" ", 1)
        headers = [key for key in details.get("parameters", {}) if key.startswith(_HEADER)]
        paths.setdefault(path, {})[_ANY if name == ANY else name.lower()] = {
            _INTEGRATION: details.get("integration", {}),
            "parameters": [{"in": "header", "name": key.removeprefix(_HEADER)} for key in headers],
            "responses": {str(response["statusCode"]): {} for response in details.get("responses", ())},
        }
    resource = cfn_rest_api(api)
    is_compressed = resource is not None and resource.minimum_compression_size is not None
    return {"openapi": "3.0.3", "paths": paths, **({_COMPRESSION: 0} if is_compressed else {})}


@asked_once
def _id_of_its_api(method: apigateway.CfnMethod) -> str:
    return method.rest_api_id


@asked_once
def _route(method: apigateway.Method) -> str:
    return f"{method.http_method} {method.resource.path}"
