from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from schemathesis.specs.openapi.definitions import OPENAPI_30_VALIDATOR

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.policy.evaluation import expand
from marketplace_constructs.policy.openapi_export import openapi_of_plan
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.routes import routes_of

ROOT = Path(__file__).parents[2]
NOUNS = ROOT / "stacks/nouns_api/openapi.json"
NOW = datetime(2026, 12, 1, tzinfo=UTC)

POLICY = """
Version: "2026-11-21"
Kind: Policy
Id: items
PolicyVersion: 1
Statement:
  - {Sid: Sold, Effect: Allow, Action: "*", Resource: "/v1/**"}
  - {Sid: Secret, Effect: Deny, Action: "*", Resource: "/v1/secret"}
  - {Sid: Calls, Effect: Meter, Action: "*", Resource: "/v1/**", Dimension: calls, Quantity: {Metric: requests}}
  - Sid: Seconds
    Effect: Meter
    Action: POST
    Resource: /v1/items/{id}
    Dimension: seconds
    Quantity: {Metric: integration.ms, RoundUpPerRequest: 100, Unit: s, Multiply: 2.5}
    Condition: {NumericEquals: {"response:Status": [200, 201]}}
  - Sid: SmallOnes
    Effect: Exempt
    Action: POST
    Resource: /v1/items/{id}
    Dimension: calls
    Condition: {NumericLessThan: {"response:Bytes": 10}, DateLessThan: {"request:Time": "2027-01-01T00:00:00Z"}}
"""
PLAN = """
Version: "2026-11-21"
Kind: Plan
Id: retail
PlanVersion: 3
Segment: retail
Product: items-api
Channel: Marketplace
AssignTo: Default
Policies: ["items@1"]
Throttle: {RateLimit: 2.5, BurstLimit: 5}
Quota: {Limit: 7, Period: WEEK}
PriceList: prices
"""
PRICES = """
Version: "2026-11-21"
Kind: PriceList
Id: prices
Currency: USD
EffectiveFrom: "{}"
Prices: {{calls: "{}", seconds: "0.25"}}
"""
POOL = Pool.of(
    {
        "policies/items.yaml": POLICY,
        "plans/retail.yaml": PLAN,
        "prices/old.yaml": PRICES.format("2026-10-01T00:00:00Z", "0.0010"),
        "prices/new.yaml": PRICES.format("2026-12-01T00:00:00Z", "0.002"),
        "prices/later.yaml": PRICES.format("2027-01-01T00:00:00Z", "0.003"),
    }
)
BACKEND = {"type": "aws_proxy", "uri": "arn:aws:apigateway:us-east-1:lambda:path/functions/internal/invocations"}
DOCUMENT: dict[str, Any] = {
    "openapi": "3.0.1",
    "info": {"title": "Items", "version": "5"},
    "servers": [{"url": "https://items.example.com"}],
    "security": [{"marketplace_gate": []}],
    "x-amazon-apigateway-api-key-source": "HEADER",
    "paths": {
        "/v1/items/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Id"}],
            "get": {"operationId": "read", "summary": "Reads.", "x-amazon-apigateway-integration": BACKEND},
            "post": {
                "operationId": "change",
                "security": [{"marketplace_gate": []}],
                "responses": {"200": {"description": "Changed."}},
                "x-amazon-apigateway-integration": BACKEND,
            },
            "options": {
                "responses": {"200": {"description": "CORS"}},
                "x-amazon-apigateway-integration": {"type": "mock"},
            },
        },
        "/v1/secret": {"get": {"responses": {"200": {"description": "Secret."}}}},
        "/v1/files/{path+}": {
            "x-amazon-apigateway-any-method": {
                "operationId": "files",
                "parameters": [{"name": "path+", "in": "path", "required": True, "schema": {"type": "string"}}],
            }
        },
        "/health": {"get": {"responses": {"200": {"description": "Up."}}}},
    },
    "components": {
        "parameters": {"Id": {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}},
        "securitySchemes": {
            "marketplace_gate": {
                "type": "apiKey",
                "name": "x-api-key",
                "in": "header",
                "x-amazon-apigateway-authorizer": {"authorizerUri": "arn:aws:lambda:internal"},
            }
        },
    },
}


def exported(document: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    plan = POOL.plans["retail@3"].document
    found = openapi_of_plan(
        POOL, plan, expand(POOL, plan, routes_of(DOCUMENT)), **{"at": NOW, "document": document, **options}
    )
    assert [str(error) for error in OPENAPI_30_VALIDATOR.iter_errors(found)] == []
    return found


def test_refused_routes_and_preflights_are_left_out() -> None:
    before = json.dumps(DOCUMENT)
    paths = exported(DOCUMENT)["paths"]
    assert json.dumps(DOCUMENT) == before
    assert {path: sorted(item) for path, item in paths.items()} == {
        "/v1/files/{path}": ["delete", "get", "head", "options", "patch", "post", "put"],
        "/v1/items/{id}": ["get", "parameters", "post"],
    }


def test_descriptions_are_kept_and_what_concerns_the_gateway_alone_is_not() -> None:
    found = exported(DOCUMENT)
    assert found["info"] == DOCUMENT["info"]
    assert found["servers"] == DOCUMENT["servers"]
    items = found["paths"]["/v1/items/{id}"]
    assert (items["get"]["operationId"], items["get"]["summary"]) == ("read", "Reads.")
    assert items["parameters"] == [DOCUMENT["components"]["parameters"]["Id"]]
    assert "parameters" not in items["get"]
    text = json.dumps(found)
    assert "x-amazon-apigateway" not in text
    assert "internal" not in text
    assert found["components"]["securitySchemes"] == {"key": {"type": "apiKey", "name": "x-api-key", "in": "header"}}
    assert items["get"]["security"] == items["post"]["security"] == [{"key": []}]
    assert "security" not in found


def test_each_operation_says_what_a_call_counts_and_what_a_unit_costs() -> None:
    items = exported(DOCUMENT)["paths"]["/v1/items/{id}"]
    calls = {
        "dimension": "calls",
        "policy": "items@1",
        "sid": "Calls",
        "state": "billable",
        "metric": "requests",
        "weight": "1",
        "price": "0.002",
        "currency": "USD",
    }
    assert items["get"]["x-monetization"] == [calls]
    small = {
        "dimension": "calls",
        "policy": "items@1",
        "sid": "SmallOnes",
        "state": "exempt",
        "condition": {
            "NumericLessThan": {"response:Bytes": [10]},
            "DateLessThan": {"request:Time": ["2027-01-01T00:00:00Z"]},
        },
    }
    seconds = {
        "dimension": "seconds",
        "policy": "items@1",
        "sid": "Seconds",
        "state": "billable",
        "condition": {"NumericEquals": {"response:Status": [200, 201]}},
        "metric": "integration.ms",
        "weight": "2.5",
        "roundUpPerRequest": 100,
        "unit": "s",
        "price": "0.25",
        "currency": "USD",
    }
    assert sorted(items["post"]["x-monetization"], key=lambda term: term["sid"]) == [calls, seconds, small]


def test_the_document_says_which_plan_it_is_of() -> None:
    assert exported(DOCUMENT)["x-monetization"] == {
        "plan": "retail@3",
        "segment": "retail",
        "channel": "Marketplace",
        "priceList": "prices",
        "currency": "USD",
        "throttle": {"rateLimit": 2.5, "burstLimit": 5},
        "quota": {"limit": 7, "period": "WEEK"},
    }


@pytest.mark.parametrize(("at", "price"), [((2026, 9), "0.001"), ((2026, 11), "0.001"), ((2027, 2), "0.003")])
def test_prices_are_those_of_the_moment(at: tuple[int, int], price: str) -> None:
    found = exported(at=datetime(*at, 1, tzinfo=UTC))["paths"]["/v1/items/{id}"]["get"]
    assert found["x-monetization"][0]["price"] == price


def test_a_route_of_any_method_becomes_operations_without_an_id_in_common() -> None:
    files = exported(DOCUMENT)["paths"]["/v1/files/{path}"]
    assert not [operation for operation in files.values() if "operationId" in operation]
    for operation in files.values():
        [parameter] = operation["parameters"]
        assert (parameter["name"], parameter["in"], parameter["required"]) == ("path", "path", True)


def test_free_routes_need_no_key_and_cost_nothing() -> None:
    health = exported(DOCUMENT, free_routes=["GET /health"])["paths"]["/health"]["get"]
    assert health["security"] == []
    assert health["x-monetization"] == []


@pytest.mark.parametrize("document", [None, {"swagger": "2.0", "paths": {}}])
def test_routes_alone_make_a_document_too(document: dict[str, Any] | None) -> None:
    found = exported(document)
    assert found["openapi"] == "3.0.3"
    assert found["info"] == {"title": "items-api", "version": "retail@3"}
    get = found["paths"]["/v1/items/{id}"]["get"]
    assert get["parameters"] == [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]


def run(*arguments: str | Path) -> tuple[int, Any]:
    done = CliRunner().invoke(sellable, ["openapi", *map(str, arguments)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value), json.loads(done.stdout)


@pytest.mark.parametrize("plan", sorted(path.stem for path in (ROOT / "monetization/plans").iterdir()))
def test_each_plan_of_the_example_is_exported(plan: str) -> None:
    code, found = run(ROOT / "monetization", "--plan", plan, "--routes", NOUNS, "--free-route", "GET /v1/health")
    assert code == 0
    assert [str(error) for error in OPENAPI_30_VALIDATOR.iter_errors(found)] == []
    assert found["x-monetization"]["plan"] == plan
    routes = {f"{method.upper()} {path}" for path, item in found["paths"].items() for method in item}
    assert ("POST /v1/nouns" in routes) == (plan.partition("@")[0] in {"internal", "partner", "retail"})
    assert "GET /v1/health" in routes


def test_a_program_gets_the_document_with_a_schema_version() -> None:
    _, found = run(ROOT / "monetization", "--plan", "retail", "--routes", NOUNS, "--format", "json")
    assert (found["schema_version"], found["plan"]) == (1, "retail@1")
    assert found["document"]["openapi"] == "3.0.3"


def test_an_id_alone_means_its_newest_version(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "monetization", tmp_path, dirs_exist_ok=True)
    (tmp_path / "published.json").unlink(missing_ok=True)
    text = (tmp_path / "plans/retail@1.yaml").read_text()
    (tmp_path / "plans/retail@2.yaml").write_text(text.replace("PlanVersion: 1", "PlanVersion: 2"))
    _, found = run(tmp_path, "--plan", "retail", "--routes", NOUNS, "--format", "json")
    assert found["plan"] == "retail@2"


def test_fails_when_the_plan_is_not_in_the_pool() -> None:
    done = CliRunner().invoke(
        sellable, ["openapi", str(ROOT / "monetization"), "--plan", "gold", "--routes", str(NOUNS)]
    )
    assert done.exit_code == 2
    assert "retail@1" in done.stderr


def test_fails_when_the_documents_have_errors(tmp_path: Path) -> None:
    (tmp_path / "product.yaml").write_text("Kind: Nothing\n")
    done = CliRunner().invoke(sellable, ["openapi", str(tmp_path), "--plan", "x", "--routes", str(NOUNS)])
    assert "MP-CLI-40" in str(done.exception)
    assert "MON101" in str(done.exception)
