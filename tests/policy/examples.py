"""The six examples of the language's specification as pools, and an images API to sell with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

VERSION: Final = "2026-11-21"
Documents = dict[str, dict[str, Any]]

IMAGES_ROUTES: Final = tuple(
    Route(path=path, method=method)
    for path, methods in {
        "/v1/health": ("GET",),
        "/v1/images": ("GET", "POST"),
        "/v1/images/{id}": ("GET", "DELETE"),
        "/v1/images/{id}/original": ("GET",),
        "/v1/images/{id}/render": ("POST",),
        "/v1/other": ("GET",),
    }.items()
    for method in methods
)
NOUNS_ROUTES: Final = (Route(path="/v1/nouns/search", method="GET"), Route(path="/v1/nouns", method="POST"))


def _metered(category: str, unit: str, kind: str = "ExternallyMetered") -> dict[str, str]:
    return {"Category": category, "Unit": unit, "Type": kind}


def _statement(sid: str, effect: str, action: Any, resource: Any, **more: Any) -> dict[str, Any]:
    return {"Sid": sid, "Effect": effect, "Action": action, "Resource": resource} | more


def _meter(sid: str, action: Any, resource: Any, dimension: str, metric: str, **quantity: Any) -> dict[str, Any]:
    condition = quantity.pop("Condition", None)
    statement = _statement(sid, "Meter", action, resource, Dimension=dimension, Quantity={"Metric": metric} | quantity)
    return statement | ({"Condition": condition} if condition else {})


def _policy(policy_id: str, version: int, description: str, *statements: Any, **more: Any) -> dict[str, Any]:
    head = {"Version": VERSION, "Kind": "Policy", "Id": policy_id, "PolicyVersion": version}
    return head | {"Description": description} | more | {"Statement": list(statements)}


def _plan(plan_id: str, version: int, segment: str, policy: str, prices: str, **more: Any) -> dict[str, Any]:
    head = {"Version": VERSION, "Kind": "Plan", "Id": plan_id, "PlanVersion": version, "Segment": segment}
    rest = {"Product": "image-api", "Channel": "Marketplace", "Policies": [policy], "PriceList": prices}
    return head | rest | more


def _prices(list_id: str, start: str, **prices: str) -> dict[str, Any]:
    head = {"Version": VERSION, "Kind": "PriceList", "Id": list_id, "Currency": "USD", "EffectiveFrom": start}
    return head | {"Prices": prices, "Costs": {"gateway.request": "0.0000035"}}


_RENDER: Final = "/v1/images/{id}/render"
_IMAGES: Final[Documents] = {
    "product.json": {
        "Version": VERSION,
        "Kind": "Product",
        "Id": "image-api",
        "Segments": {"retail": {}, "partner": {}, "internal": {}, "third-party": {"Guardrails": ["no-delete@1"]}},
        "Marketplace": {
            "Agreements": "Concurrent",
            "PricingModel": "ContractWithConsumption",
            "Metering": "Pipeline",
            "Dimensions": {
                "calls": _metered("Requests", "Requests"),
                "egress_gb": _metered("Data", "GB"),
                "compute_sec": _metered("Units", "Units"),
                "storage_gb_hours": _metered("Units", "Units"),
                "calls_overage": _metered("Requests", "Requests"),
                "calls_committed": _metered("Requests", "Requests", "Entitled"),
            },
        },
        "Events": {"image.storage.gb_hours": {"Unit": "GB-hours"}},
    },
    "policies/consumption.json": _policy(
        "image-consumption",
        3,
        "Images by the call, the byte, the second and the stored hour.",
        _statement("Sold", "Allow", "*", ["/v1/images/**", "/v1/health"]),
        _statement("HealthIsFree", "Exempt", "GET", "/v1/health", Dimension="*"),
        _meter("AnyCall", "*", "/v1/images/**", "calls", "requests"),
        _meter("RenderIsFiveCalls", "POST", _RENDER, "calls", "requests", Multiply="${param.RenderWeight}"),
        _meter("BytesOut", "GET", "/v1/images/**", "egress_gb", "response.bytes", Unit="GB"),
        _meter("ComputeTime", "POST", _RENDER, "compute_sec", "integration.ms", RoundUpPerRequest=100, Unit="s"),
        {
            "Sid": "Stored",
            "Effect": "Meter",
            "Dimension": "storage_gb_hours",
            "Quantity": {"Metric": "event:image.storage.gb_hours"},
        },
        _statement("RenderPace", "Limit", "POST", _RENDER, Throttle={"RateLimit": 5, "BurstLimit": 10}),
        Parameters={"RenderWeight": {"Type": "Integer", "Default": 5, "Min": 1, "Max": 20}},
    ),
    "policies/partner.json": _policy(
        "partner-committed-calls",
        1,
        "Committed calls; a miss counts half.",
        _statement("Sold", "Allow", "*", "/v1/images/**"),
        _meter("Calls", "*", "/v1/images/**", "calls", "requests"),
        _meter(
            "MissesHalf",
            "GET",
            "/v1/images/{id}",
            "calls",
            "requests",
            Multiply=0.5,
            Condition={"NumericEquals": {"response:Status": [404]}},
        ),
    ),
    "policies/trial.json": _policy(
        "image-trial",
        1,
        "Look, do not render.",
        _statement("Sold", "Allow", "*", "/v1/images/**"),
        _statement("NoRender", "Deny", "POST", _RENDER),
        _meter("CountCalls", "*", "/v1/images/**", "calls", "requests"),
    ),
    "policies/basic.json": _policy(
        "image-basic-tier",
        1,
        "Read only.",
        _statement("Reads", "Allow", "GET", "/v1/images/**"),
        _meter("ReadsCount", "GET", "/v1/images/**", "calls", "requests"),
    ),
    "policies/guardrail.json": _policy(
        "no-delete", 1, "Nobody deletes.", _statement("NoDelete", "Deny", "DELETE", "/**")
    ),
    "plans/retail.json": _plan(
        "image-retail",
        2,
        "retail",
        "image-consumption@3",
        "image-2026q4",
        AssignTo="Default",
        Throttle={"RateLimit": 20, "BurstLimit": 40},
    ),
    "plans/partner.json": _plan(
        "image-partner-gold",
        1,
        "partner",
        "partner-committed-calls@1",
        "image-2026q4-partner",
        AssignTo={"Entitlement": "calls_committed"},
        Allowances=[
            {
                "Dimension": "calls",
                "Included": "entitlement:calls_committed",
                "Period": "Month",
                "Anchor": "Agreement",
                "Then": {"ReportAs": "calls_overage"},
            }
        ],
        Throttle={"RateLimit": 100, "BurstLimit": 200},
    ),
    "plans/internal.json": _plan(
        "image-internal",
        1,
        "internal",
        "image-consumption@3",
        "zero",
        Channel="Internal",
        AssignTo="Default",
        Throttle={"RateLimit": 50, "BurstLimit": 100},
        ShadowPriceList="image-2026q4",
    ),
    "plans/trial.json": _plan(
        "image-trial",
        1,
        "third-party",
        "image-trial@1",
        "image-2026q4",
        AssignTo={"Offers": ["offer-trial1"]},
        Allowances=[
            {"Dimension": "calls", "Included": 1000, "Period": "Term", "Anchor": "Agreement", "Then": {"Deny": True}}
        ],
        Trial={"Source": "Own", "Days": 30, "Then": "image-retail@2"},
        Quota={"Limit": 1000, "Period": "MONTH"},
    ),
    "plans/basic.json": _plan(
        "image-basic", 1, "retail", "image-basic-tier@1", "image-2026q4", AssignTo={"Accounts": ["111122223333"]}
    ),
    "prices/q4.json": _prices(
        "image-2026q4",
        "2026-10-01T00:00:00Z",
        calls="0.001",
        egress_gb="0.09",
        compute_sec="0.0002",
        storage_gb_hours="0.0001",
    ),
    "prices/partner.json": _prices("image-2026q4-partner", "2026-10-01T00:00:00Z", calls="0", calls_overage="0.002"),
    "prices/zero.json": _prices(
        "zero", "2026-10-01T00:00:00Z", calls="0", egress_gb="0", compute_sec="0", storage_gb_hours="0"
    ),
}
_NOUNS: Final[Documents] = {
    "product.json": {
        "Version": VERSION,
        "Kind": "Product",
        "Id": "nouns-api",
        "Segments": {"retail": {}},
        "Marketplace": {
            "Agreements": "Legacy",
            "PricingModel": "Subscription",
            "Metering": "Native",
            "Dimensions": {"apigateway": _metered("Requests", "Requests")},
        },
    },
    "policies/retail.json": _policy(
        "retail-pay-per-call",
        1,
        "Every call is one unit.",
        _statement("Sold", "Allow", "*", "/**"),
        _meter("EveryCall", "*", "/**", "apigateway", "requests"),
        _statement("SearchIsSlow", "Limit", "GET", "/v1/nouns/search", Throttle={"RateLimit": 2, "BurstLimit": 4}),
    ),
    "plans/retail.json": _plan(
        "nouns-retail",
        1,
        "retail",
        "retail-pay-per-call@1",
        "nouns-2026",
        Product="nouns-api",
        AssignTo="Default",
        Throttle={"RateLimit": 10, "BurstLimit": 20},
        Quota={"Limit": 500000, "Period": "MONTH"},
    ),
    "prices/nouns.json": _prices("nouns-2026", "2026-10-01T00:00:00Z", apigateway="0.0005"),
}


def images() -> Documents:
    """Examples 2 to 6: one product, five plans."""
    return deepcopy(_IMAGES)


def nouns() -> Documents:
    """Example 1: native metering of a legacy product."""
    return deepcopy(_NOUNS)


def read(documents: Mapping[str, Mapping[str, Any]]) -> Pool:
    return Pool.of({name: json.dumps(document) for name, document in documents.items()})
