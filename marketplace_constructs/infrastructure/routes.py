"""What routes an API has: methods of the constructs, and operations of an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway

from marketplace_constructs.domain.usage_plan import METHODS

Operation = dict[str, object]

_ANY: Final = "x-amazon-apigateway-any-method"
_INTEGRATION: Final = "x-amazon-apigateway-integration"


def cfn_rest_api(api: apigateway.IRestApi) -> apigateway.CfnRestApi | None:
    """The resource behind an API; None for an imported one."""
    resource = api.node.default_child
    return resource if isinstance(resource, apigateway.CfnRestApi) else None


def document_of(api: apigateway.IRestApi) -> dict[str, object] | None:
    """The OpenAPI document that an API is defined by, resolved; None where it is defined by constructs."""
    resource = cfn_rest_api(api)
    if resource is None or resource.body is None:
        return None
    document = cdk.Stack.of(api).resolve(resource.body)
    return document if isinstance(document, dict) else None


def methods_of(api: apigateway.IRestApi) -> Iterator[tuple[str | None, apigateway.CfnMethod]]:
    """Each method of an API with its route, such as ``GET /v1/x``; a bare CfnMethod's is not known."""
    stack = cdk.Stack.of(api)
    own_id = stack.resolve(api.rest_api_id)
    for method in stack.node.find_all():
        if not isinstance(method, apigateway.CfnMethod) or stack.resolve(method.rest_api_id) != own_id:
            continue
        yield route_of(method), method


def route_of(method: apigateway.CfnMethod) -> str | None:
    """The route of a method that was defined by ``add_method``; None for a bare CfnMethod."""
    owner = method.node.scope
    return f"{owner.http_method} {owner.resource.path}" if isinstance(owner, apigateway.Method) else None


def is_preflight(method: apigateway.CfnMethod) -> bool:
    """Whether a browser's CORS preflight is answered by it: OPTIONS with a mock integration."""
    if method.http_method != "OPTIONS":
        return False
    integration = cdk.Stack.of(method).resolve(method.integration)
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
    return frozenset(route for route, _ in methods_of(api) if route is not None)
