"""Small pools, written as the documents are, for tests that are about one thing in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from marketplace_constructs.policy.evaluation import Expansion, expand
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

VERSION: Final = "2026-11-21"
Statements = Sequence[Mapping[str, Any]]

ALLOW_ALL: Final = {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/**"}


def meter(
    sid: str = "Count", *, action: Any = "*", resource: Any = "/**", dimension: str = "calls", **more: Any
) -> dict[str, Any]:
    """A Meter; ``metric``, ``multiply``, ``round_up`` and ``unit`` go into its Quantity."""
    names = {"metric": "Metric", "multiply": "Multiply", "round_up": "RoundUpPerRequest", "unit": "Unit"}
    quantity = {"Metric": "requests"} | {names[name]: more.pop(name) for name in list(more) if name in names}
    base = {"Sid": sid, "Effect": "Meter", "Action": action, "Resource": resource, "Dimension": dimension}
    return base | {"Quantity": quantity} | more


def product(**more: Any) -> dict[str, Any]:
    return {
        "Version": VERSION,
        "Kind": "Product",
        "Id": "image-api",
        "Segments": {"retail": {}},
        "Marketplace": {
            "Agreements": "Concurrent",
            "PricingModel": "Subscription",
            "Metering": "Pipeline",
            "Dimensions": {
                "calls": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"},
                "egress_gb": {"Category": "Data", "Unit": "GB", "Type": "ExternallyMetered"},
                "compute_sec": {"Category": "Units", "Unit": "Units", "Type": "ExternallyMetered"},
            },
        },
        "Events": {"image.storage": {"Unit": "GB-hours"}},
    } | more


def policy(statements: Statements, **more: Any) -> dict[str, Any]:
    return {
        "Version": VERSION,
        "Kind": "Policy",
        "Id": "images",
        "PolicyVersion": 1,
        "Statement": list(statements),
    } | more


def plan(**more: Any) -> dict[str, Any]:
    return {
        "Version": VERSION,
        "Kind": "Plan",
        "Id": "retail",
        "PlanVersion": 1,
        "Segment": "retail",
        "Product": "image-api",
        "Channel": "Marketplace",
        "AssignTo": "Default",
        "Policies": ["images@1"],
        "PriceList": "prices",
    } | more


def pool(*documents: Mapping[str, Any]) -> Pool:
    """A pool of documents; product and price list are added where they are missing."""
    folders = {"Product": "product", "Policy": "policies/{0}", "Plan": "plans/{0}", "PriceList": "prices/{0}"}
    texts: dict[str, str | None] = {"product.json": json.dumps(product())}
    for index, document in enumerate(documents):
        texts[f"{folders[document['Kind']].format(index)}.json"] = json.dumps(document)
    return Pool.of(texts)


def expansion(statements: Statements, routes: Sequence[str], **plan_members: Any) -> Expansion:
    """One policy of these statements on one plan, worked out against routes such as ``GET /v1/images``."""
    made = pool(policy(statements), plan(**plan_members))
    assert not made.faults, made.faults
    return expand(made, made.plans["retail@1"].document, [route(text) for text in routes])


def route(text: str, **more: Any) -> Route:
    method, _, path = text.partition(" ")
    return Route(method=method, path=path, **more)
