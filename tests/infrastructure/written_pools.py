"""Monetization documents for the tests of this folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Document = dict[str, Any]


def product(**marketplace: Any) -> Document:
    """A concurrent product with three segments; members of Marketplace may be given."""
    return {
        "Version": "2026-11-21",
        "Kind": "Product",
        "Id": "items-api",
        "Segments": {"retail": {}, "partner": {}, "internal": {}},
        "Marketplace": {
            "Agreements": "Concurrent",
            "PricingModel": "Subscription",
            "Metering": "Pipeline",
            "Dimensions": {"calls": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"}},
            **marketplace,
        },
    }


NATIVE: Document = {
    "Agreements": "Legacy",
    "Metering": "Native",
    "Dimensions": {"apigateway": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"}},
}


def policy(id_: str = "items", *statements: Document, dimension: str = "calls") -> Document:
    """Everything may be called and counts one; further statements may be given."""
    return {
        "Version": "2026-11-21",
        "Kind": "Policy",
        "Id": id_,
        "PolicyVersion": 1,
        "Description": "Every call counts one.",
        "Statement": [
            {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/**"},
            {
                "Sid": "EveryCall",
                "Effect": "Meter",
                "Action": "*",
                "Resource": "/**",
                "Dimension": dimension,
                "Quantity": {"Metric": "requests"},
            },
            *statements,
        ],
    }


def plan(id_: str = "retail", version: int = 1, **members: Any) -> Document:
    """The default plan of a segment; any member may be given."""
    return {
        "Version": "2026-11-21",
        "Kind": "Plan",
        "Id": id_,
        "PlanVersion": version,
        "Description": "Sold.",
        "Segment": "retail",
        "Product": "items-api",
        "Channel": "Marketplace",
        "AssignTo": "Default",
        "Policies": ["items@1"],
        "Throttle": {"RateLimit": 10, "BurstLimit": 20},
        "PriceList": "prices",
        **members,
    }


def limit(sid: str, action: str, resource: str, rate: float, burst: int) -> Document:
    """A Limit."""
    return {
        "Sid": sid,
        "Effect": "Limit",
        "Action": action,
        "Resource": resource,
        "Throttle": {"RateLimit": rate, "BurstLimit": burst},
    }


def price_list(**prices: str) -> Document:
    """Prices of the dimensions; 0.001 for ``calls`` where none are given."""
    return {
        "Version": "2026-11-21",
        "Kind": "PriceList",
        "Id": "prices",
        "Currency": "USD",
        "EffectiveFrom": "2026-10-01T00:00:00Z",
        "Prices": prices or {"calls": "0.001"},
    }


def write_pool(directory: Path, *documents: Document) -> Path:
    """Put documents where a pool has them; product, policy, plan and prices of the defaults unless given."""
    given = {document["Kind"] for document in documents}
    defaults = (product(), policy(), plan(), price_list())
    for document in (*documents, *(default for default in defaults if default["Kind"] not in given)):
        folder = {"Policy": "policies", "Plan": "plans", "PriceList": "prices"}.get(document["Kind"])
        version = document.get("PolicyVersion", document.get("PlanVersion", 1))
        path = directory / (f"{folder}/{document['Id']}@{version}.json" if folder else "product.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1))
    return directory
