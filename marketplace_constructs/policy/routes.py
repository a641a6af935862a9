"""The routes of an API, read from an OpenAPI document or a synthesized CloudFormation template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.usage_plan import METHODS
from marketplace_constructs.policy.patterns import ANY, Pattern, Route, Trait

MAX_BYTES: Final = 10_000_000
"""Of a file with routes; a template has at most 1 MB, an OpenAPI document for import 6 MB.

Source: CloudFormation user guide, quotas; API Gateway developer guide, quotas (read 2026-11-21)."""
MAX_ROUTES: Final = 10_000
_MAX_DEPTH: Final = 200
_ANY: Final = "x-amazon-apigateway-any-method"
_INTEGRATION: Final = "x-amazon-apigateway-integration"
_COMPRESSION: Final = "x-amazon-apigateway-minimum-compression-size"
_KEY_HEADER: Final = "x-api-key"
_EVENT: Final = "integration.request.header.x-amz-invocation-type"


def read_routes(path: Path, *, api: str | None = None) -> tuple[Route, ...]:
    """Read the routes of an API.

    Args:
        path: OpenAPI 3.0 or 3.1 or Swagger 2, or a synthesized CloudFormation template; JSON or YAML.
        api: The logical id of the RestApi, where a template has several.

    Raises:
        MarketplaceConstructsError: MP-ROUTES-01 to MP-ROUTES-05.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _refusal("MP-ROUTES-01", f"{path}, got {size:,} bytes; expected at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = f"{path}, got {type(error).__name__}; expected a file in UTF-8; name the OpenAPI file or the template"
        raise _refusal("MP-ROUTES-01", what) from None
    return routes_of(_data(text, path), name=str(path), api=api)


def routes_of(data: object, *, name: str = "routes", api: str | None = None) -> tuple[Route, ...]:
    """The routes of a document that has been read; see ``read_routes``."""
    if isinstance(data, dict) and ("openapi" in data or "swagger" in data):
        found = list(_openapi_routes(data))
    elif isinstance(data, dict) and isinstance(data.get("Resources"), dict):
        found = list(_template_routes(data["Resources"], name, api))
    else:
        what = f"{name}, got neither an OpenAPI document nor a template; expected the member openapi, swagger or "
        raise _refusal("MP-ROUTES-02", f"{what}Resources; run cdk synth and name the template in cdk.out")
    if len(found) > MAX_ROUTES:
        raise _refusal("MP-ROUTES-05", f"{name}, got {len(found):,} routes; expected at most {MAX_ROUTES:,}")
    if not found:
        raise _refusal("MP-ROUTES-05", f"{name}, got no route; expected at least one; name the API that is sold")
    return tuple(sorted(found))


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))


def _data(text: str, path: Path) -> object:
    try:
        if path.suffix == ".json" or text.lstrip()[:1] == "{":
            return json.loads(text)
        return _safe_yaml(text)
    except RecursionError:
        raise _refusal("MP-ROUTES-03", f"{path}, got members too deep; expected fewer") from None
    except (ValueError, yaml.YAMLError) as error:
        place = getattr(error, "problem_mark", None)
        line = getattr(error, "lineno", None) or (place.line + 1 if place else 1)
        what = f"{path}, got {type(error).__name__} in line {line}; expected valid JSON or YAML; mend it there"
        raise _refusal("MP-ROUTES-03", what) from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OpenAPI and templates write it: dates and CloudFormation's short functions are text."""


def _text(_: Any, node: Any) -> object:
    return node.value if isinstance(node, yaml.ScalarNode) else None


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)
_Loader.add_multi_constructor("!", lambda loader, _, node: _text(loader, node))


def _safe_yaml(text: str) -> object:
    """Data of YAML, looked at before anything is built of it: few characters make any size or depth."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        problem = "alias" if isinstance(event, yaml.AliasEvent) else None
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if problem or depth > _MAX_DEPTH:
            error = yaml.YAMLError(problem or "depth")
            error.problem_mark = event.start_mark  # type: ignore[attr-defined]
            raise error
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from the safe loader


def _members(data: object, *names: str) -> Mapping[Any, Any]:
    """The members below some names; none where there are none."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _items(data: object) -> list[Any]:
    return data if isinstance(data, list) else []


def _openapi_routes(document: Mapping[Any, Any]) -> Iterator[Route]:
    schemes = {**_members(document, "securityDefinitions"), **_members(document, "components", "securitySchemes")}
    keys = {name for name, scheme in schemes.items() if _is_key(scheme)}
    is_compressed = document.get(_COMPRESSION) is not None
    for path, item in _members(document, "paths").items():
        if not str(path).startswith("/"):
            continue
        for name, operation in item.items() if isinstance(item, dict) else ():
            method = ANY if name == _ANY else str(name).upper()
            if method not in {*METHODS, ANY} or (method == ANY and name != _ANY) or not isinstance(operation, dict):
                continue
            security = operation.get("security", document.get("security"))
            integration = _members(operation, _INTEGRATION)
            parameters = [*_items(item.get("parameters")), *_items(operation.get("parameters"))]
            yield _route(
                str(path),  # API Gateway leaves Swagger's basePath out, unless it is told otherwise
                method,
                integration=str(integration.get("type", "")).lower(),
                # Where the document knows no key, SellableApi or somebody else adds it.
                requires_key=None if not keys else any(keys & set(one) for one in _items(security) if one),
                headers=(_header(_resolved(document, parameter)) for parameter in parameters),
                statuses=_members(operation, "responses"),
                traits=_traits(integration, is_compressed=is_compressed),
            )


def _route(
    path: str,
    method: str,
    *,
    integration: str,
    requires_key: bool | None,
    headers: Any,
    statuses: Any,
    traits: tuple[Trait, ...],
) -> Route:
    path = path if path == "/" else path.rstrip("/")
    try:
        Pattern.parse(path)
    except ValueError as error:
        raise _refusal(
            "MP-ROUTES-04", f"route {path[:80]!r}, got {error}; expected a route that API Gateway has"
        ) from None
    return Route(
        path=path,
        method=method,
        is_preflight=method == "OPTIONS" and integration == "mock",
        integration=integration,
        requires_key=requires_key,
        header_parameters=tuple(sorted({name for name in headers if name})),
        statuses=tuple(str(status).upper() if status != "default" else "default" for status in statuses),
        traits=traits,
    )


def _is_key(scheme: object) -> bool:
    return (
        isinstance(scheme, dict)
        and scheme.get("type") == "apiKey"
        and scheme.get("in") == "header"
        and str(scheme.get("name", "")).lower() == _KEY_HEADER
    )


def _header(parameter: object) -> str:
    is_header = isinstance(parameter, dict) and parameter.get("in") == "header"
    return str(parameter.get("name", "")).lower() if is_header else ""  # type: ignore[attr-defined]


def _resolved(document: Mapping[Any, Any], part: object) -> object:
    """What a reference within the document stands for."""
    reference = part.get("$ref") if isinstance(part, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return part
    target: object = document
    for name in reference[2:].split("/"):
        target = target.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
    return target


def _traits(integration: Mapping[Any, Any], *, is_compressed: bool, is_cached: bool = False) -> tuple[Trait, ...]:
    spelled = {name[:1].lower() + name[1:]: value for name, value in integration.items() if isinstance(name, str)}
    found = []
    request = {str(name).lower(): value for name, value in _members(spelled, "requestParameters").items()}
    if str(request.get(_EVENT, "")).strip("'").lower() == "event":
        found.append(Trait.ASYNCHRONOUS)
    if is_cached:
        found.append(Trait.CACHED)
    if is_compressed:
        found.append(Trait.COMPRESSED)
    if str(spelled.get("responseTransferMode", "")).upper() == "STREAM":
        found.append(Trait.STREAMED)
    return tuple(found)


def _template_routes(resources: Mapping[str, Any], name: str, wanted: str | None) -> Iterator[Route]:
    apis = [logical_id for logical_id, r in resources.items() if _type(r) == "AWS::ApiGateway::RestApi"]
    if wanted is None and len(apis) != 1:
        known = f"the APIs {', '.join(sorted(apis))}" if apis else "no AWS::ApiGateway::RestApi"
        what = f"{name}, got {known}; expected one; "
        raise _refusal("MP-ROUTES-04", what + ("say which with --api" if apis else "name the stack that has the API"))
    api = apis[0] if wanted is None else wanted
    if api not in apis:
        known = ", ".join(sorted(apis)) or "none"
        raise _refusal("MP-ROUTES-04", f"API, got {api!r}; expected one of {known}; name its logical id in {name}")
    properties = _members(resources[api], "Properties")
    body = properties.get("Body")
    is_compressed = properties.get("MinimumCompressionSize") is not None
    if isinstance(body, dict):
        if is_compressed:
            body = {_COMPRESSION: 0, **body}
        yield from _openapi_routes(body)
    elif body is not None or properties.get("BodyS3Location") is not None:
        what = f"API {api!r}, got a body that stands outside the template; expected it inline; name the OpenAPI file"
        raise _refusal("MP-ROUTES-04", what)
    for method in resources.values():
        if _type(method) == "AWS::ApiGateway::Method":
            own = _members(method, "Properties")
            if _reference(own.get("RestApiId")) == api:
                yield _template_route(resources, own, is_compressed=is_compressed, stages=_stages(resources, api))


def _template_route(
    resources: Mapping[str, Any],
    properties: Mapping[Any, Any],
    *,
    is_compressed: bool,
    stages: list[Mapping[Any, Any]],
) -> Route:
    path = _path(resources, properties.get("ResourceId"))
    method = str(properties.get("HttpMethod"))
    if method not in {*METHODS, ANY}:
        raise _refusal("MP-ROUTES-04", f"method of {path}, got {method[:40]!r}; expected one of {', '.join(METHODS)}")
    integration = _members(properties, "Integration")
    parameters = [str(name) for name in _members(properties, "RequestParameters")]
    responses = [one.get("StatusCode") for one in _items(properties.get("MethodResponses")) if isinstance(one, dict)]
    return _route(
        path,
        method,
        integration=str(integration.get("Type", "")).lower(),
        requires_key=_is_true(properties.get("ApiKeyRequired")),
        headers=[name.removeprefix(_HEADER).lower() for name in parameters if name.startswith(_HEADER)],
        statuses=[status for status in responses if isinstance(status, str | int)],
        traits=_traits(integration, is_compressed=is_compressed, is_cached=_is_cached(stages, path, method)),
    )


_HEADER: Final = "method.request.header."


def _type(resource: object) -> str:
    return str(resource.get("Type", "")) if isinstance(resource, dict) else ""


def _is_true(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _reference(value: object) -> str:
    """The logical id that a Ref or GetAtt names."""
    if not isinstance(value, dict):
        return ""
    target = value.get("Ref", value.get("Fn::GetAtt"))
    return str(target[0]) if isinstance(target, list) and target else str(target or "").partition(".")[0]


def _path(resources: Mapping[str, Any], resource_id: object) -> str:
    """The template path of a resource, from its parents."""
    parts: list[str] = []
    while True:
        logical_id = _reference(resource_id)
        resource = resources.get(logical_id)
        if _type(resource) != "AWS::ApiGateway::Resource":
            break
        parts.append(str(_members(resource, "Properties").get("PathPart", "")))
        resource_id = _members(resource, "Properties").get("ParentId")
        if len(parts) > _MAX_DEPTH:
            raise _refusal(
                "MP-ROUTES-04", f"resource {logical_id!r}, got more than {_MAX_DEPTH} parents; expected less"
            )
    if _type(resource) != "AWS::ApiGateway::RestApi":
        what = f"resource of a method, got {json.dumps(resource_id)[:80]}; expected one that this template defines"
        raise _refusal("MP-ROUTES-04", what)
    return "/" + "/".join(reversed(parts))


def _stages(resources: Mapping[str, Any], api: str) -> list[Mapping[Any, Any]]:
    own = [_members(one, "Properties") for one in resources.values() if _type(one) == "AWS::ApiGateway::Stage"]
    return [stage for stage in own if _reference(stage.get("RestApiId")) == api]


def _is_cached(stages: list[Mapping[Any, Any]], path: str, method: str) -> bool:
    """Whether a stage caches the answers of a method; by default only those of GET."""
    for stage in stages:
        if not _is_true(stage.get("CacheClusterEnabled")):
            continue
        for setting in _items(stage.get("MethodSettings")):
            given = str(_members(setting).get("ResourcePath", "")).replace("~1", "/")
            on_path = given in {"/*", path, f"/{path}"}
            on_method = _members(setting).get("HttpMethod") in ({"*", method} if method in {"GET", ANY} else {method})
            if on_path and on_method and _is_true(_members(setting).get("CachingEnabled")):
                return True
    return False
