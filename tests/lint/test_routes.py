"""The routes of an API, from whatever file describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.policy.patterns import Route, Trait
from marketplace_constructs.policy.routes import MAX_BYTES, read_routes

KEY = {"type": "apiKey", "in": "header", "name": "x-api-key"}
OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "components": {
        "securitySchemes": {"key": KEY, "other": {**KEY, "name": "authorization"}},
        "parameters": {"again": {"name": "Idempotency-Key", "in": "header"}},
    },
    "security": [{"key": []}],
    "paths": {
        "/v1/images": {
            "parameters": [{"name": "X-Trace", "in": "header"}, {"name": "page", "in": "query"}],
            "summary": "not a method",
            "get": {"responses": {"200": {}, "3xx": {}, "default": {}}},
            "post": {"parameters": [{"$ref": "#/components/parameters/again"}], "security": []},
            "put": {"security": [{"other": []}]},
            "options": {"x-amazon-apigateway-integration": {"type": "MOCK"}},
        },
        "/v1/images/{proxy+}": {"x-amazon-apigateway-any-method": {}},
    },
}


def template(**more: Any) -> dict[str, Any]:
    def resource(parent: Any, part: str) -> dict[str, Any]:
        properties = {"ParentId": parent, "PathPart": part, "RestApiId": {"Ref": "Api"}}
        return {"Type": "AWS::ApiGateway::Resource", "Properties": properties}

    def method(on: Any, verb: str, **properties: Any) -> dict[str, Any]:
        base = {"ResourceId": on, "HttpMethod": verb, "RestApiId": {"Ref": "Api"}}
        return {"Type": "AWS::ApiGateway::Method", "Properties": base | properties}

    return {
        "Resources": {
            "Api": {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Name": "Images"}},
            "V1": resource({"Fn::GetAtt": ["Api", "RootResourceId"]}, "v1"),
            "Images": resource({"Ref": "V1"}, "images"),
            "Image": resource({"Ref": "Images"}, "{id}"),
            "Root": method({"Fn::GetAtt": ["Api", "RootResourceId"]}, "GET"),
            "Get": method(
                {"Ref": "Image"},
                "GET",
                ApiKeyRequired=True,
                RequestParameters={"method.request.header.Idempotency-Key": False, "method.request.path.id": True},
                MethodResponses=[{"StatusCode": "200"}],
                Integration={
                    "Type": "AWS",
                    "RequestParameters": {"integration.request.header.X-Amz-Invocation-Type": "'Event'"},
                    "ResponseTransferMode": "STREAM",
                },
            ),
            "Cors": method({"Ref": "Image"}, "OPTIONS", Integration={"Type": "MOCK"}),
            "Stage": {
                "Type": "AWS::ApiGateway::Stage",
                "Properties": {
                    "RestApiId": {"Ref": "Api"},
                    "CacheClusterEnabled": True,
                    "MethodSettings": [{"ResourcePath": "/*", "HttpMethod": "*", "CachingEnabled": True}],
                },
            },
            **more,
        }
    }


def written(path: Path, data: object, form: str = "json") -> Path:
    file = path / f"api.{form}"
    file.write_text(json.dumps(data) if form == "json" else yaml.safe_dump(data))
    return file


def shown(routes: tuple[Route, ...]) -> dict[str, Route]:
    return {str(route): route for route in routes}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_an_openapi_document_tells_keys_headers_statuses_and_preflights(tmp_path: Path, form: str) -> None:
    routes = shown(read_routes(written(tmp_path, OPENAPI, form)))
    assert list(routes) == [
        "GET /v1/images", "OPTIONS /v1/images", "POST /v1/images", "PUT /v1/images", "ANY /v1/images/{proxy+}",
    ]  # fmt: skip
    assert [route.requires_key for route in routes.values()] == [True, True, False, False, True]
    assert routes["POST /v1/images"].header_parameters == ("idempotency-key", "x-trace")
    assert routes["GET /v1/images"].statuses == ("200", "3XX", "default")
    assert [name for name, route in routes.items() if route.is_preflight] == ["OPTIONS /v1/images"]


def test_swagger_is_read_like_openapi_and_its_base_path_left_out(tmp_path: Path) -> None:
    swagger = {
        "swagger": "2.0",
        "basePath": "/prod",
        "securityDefinitions": {"key": KEY},
        "paths": {"/v1/images/": {"get": {"security": [{"key": []}]}}},
    }
    (route,) = read_routes(written(tmp_path, swagger))
    assert (str(route), route.requires_key) == ("GET /v1/images", True)


def test_a_document_without_a_key_does_not_tell_who_requires_one(tmp_path: Path) -> None:
    (route,) = read_routes(written(tmp_path, {"openapi": "3.0.3", "paths": {"/": {"get": {}}}}))
    assert route.requires_key is None


def test_a_template_tells_routes_keys_caches_and_streams(tmp_path: Path) -> None:
    routes = shown(read_routes(written(tmp_path, template())))
    assert list(routes) == ["GET /", "GET /v1/images/{id}", "OPTIONS /v1/images/{id}"]
    assert [route.requires_key for route in routes.values()] == [False, True, False]
    get = routes["GET /v1/images/{id}"]
    assert (get.header_parameters, get.statuses, get.integration) == (("idempotency-key",), ("200",), "aws")
    assert set(get.traits) == {Trait.ASYNCHRONOUS, Trait.CACHED, Trait.STREAMED}
    assert routes["OPTIONS /v1/images/{id}"].traits == ()
    assert routes["OPTIONS /v1/images/{id}"].is_preflight


def test_the_body_of_a_template_is_an_openapi_document(tmp_path: Path) -> None:
    api = {"Type": "AWS::ApiGateway::RestApi", "Properties": {"Body": OPENAPI, "MinimumCompressionSize": 0}}
    routes = shown(read_routes(written(tmp_path, {"Resources": {"Api": api}})))
    assert routes["GET /v1/images"].traits == (Trait.COMPRESSED,)


def test_of_several_apis_one_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, template(Other={"Type": "AWS::ApiGateway::RestApi"}))
    assert len(read_routes(path, api="Api")) == 3
    for named, code in ((None, "Api, Other"), ("Nothing", "Api, Other")):
        with pytest.raises(MarketplaceConstructsError, match=rf"MP-ROUTES-04.*{code}"):
            read_routes(path, api=named)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[]", "MP-ROUTES-02"),
        ("{", "MP-ROUTES-03"),
        ("a: [", "MP-ROUTES-03"),
        ("a: &x [1]\nb: *x", "MP-ROUTES-03"),
        ("[" * 100_000, "MP-ROUTES-03"),
        ('{"Resources":' + '{"a":' * 100_000, "MP-ROUTES-03"),
        ('{"Resources": {}}', "MP-ROUTES-04"),
        ("openapi: 3.0.3\npaths: {}", "MP-ROUTES-05"),
        ("openapi: 3.0.3\npaths: []", "MP-ROUTES-05"),
        ("openapi: 3.0.3\npaths: {/a//b: {get: {}}}", "MP-ROUTES-04"),
        (" " * (MAX_BYTES + 1), "MP-ROUTES-01"),
    ],
)
def test_fails_when_a_file_is_no_api(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "api.yaml"
    path.write_text(text)
    with pytest.raises(MarketplaceConstructsError, match=code):
        read_routes(path)


def test_fails_when_a_method_hangs_on_no_resource_of_the_template(tmp_path: Path) -> None:
    circle = {"Type": "AWS::ApiGateway::Resource", "Properties": {"ParentId": {"Ref": "V1"}, "PathPart": "v1"}}
    for broken in ({"V1": circle}, {"Image": {"Type": "AWS::SNS::Topic"}}):
        with pytest.raises(MarketplaceConstructsError, match="MP-ROUTES-04"):
            read_routes(written(tmp_path, template(**broken)))


def test_fails_when_the_file_is_missing_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.json", "missing.json"):
        with pytest.raises(MarketplaceConstructsError, match="MP-ROUTES-01"):
            read_routes(tmp_path / name)


def test_an_options_method_with_a_backend_is_sold_like_any_other(tmp_path: Path) -> None:
    options = {"options": {"x-amazon-apigateway-integration": {"type": "aws_proxy"}}}
    (route,) = read_routes(written(tmp_path, {"openapi": "3.0.3", "paths": {"/v1/images": options}}))
    assert not route.is_preflight


def test_a_stage_without_a_cache_caches_nothing(tmp_path: Path) -> None:
    made = template()
    made["Resources"]["Stage"]["Properties"]["CacheClusterEnabled"] = False
    routes = shown(read_routes(written(tmp_path, made)))
    assert Trait.CACHED not in routes["GET /v1/images/{id}"].traits
