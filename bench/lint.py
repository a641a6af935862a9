"""How long the linter takes for a large pool: 1,000 statements against 1,000 routes, from start to exit.

Most statements name one route, as people write them; some hold for whole trees. What of the time is for imports,
reading and the table alone is measured in a process of its own; ``processor`` is the processor's time.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import median, run, show

STATEMENTS, ROUTES, RUNS = 1_000, 1_000, 5
VERSION = "2026-11-21"
PARTS = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
begun = perf_counter()
from marketplace_constructs.policy.evaluation import expand
from marketplace_constructs.policy.lint import lint
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.routes import read_routes
imported = perf_counter()
pool = Pool.load(Path(sys.argv[1]))
routes = read_routes(Path(sys.argv[2]))
read = perf_counter()
expansion = expand(pool, next(iter(pool.plans.values())).document, routes)
expanded = perf_counter()
report = lint(pool, routes=routes, now=datetime.now(UTC))
print(json.dumps({"import": imported - begun, "read": read - imported, "expand": expanded - read,
                  "lint": perf_counter() - expanded, "cells": len(expansion.table.cells),
                  "findings": len(report.findings)}))
"""


def documents() -> dict[str, dict[str, Any]]:
    """A pool of STATEMENTS statements, and an API of ROUTES routes."""
    tree: dict[str, Any] = {"Effect": "Meter", "Action": "*", "Quantity": {"Metric": "requests"}}
    statements: list[dict[str, Any]] = [
        {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/**"},
        {**tree, "Sid": "Calls", "Resource": "/**", "Dimension": "calls"},
        {**tree, "Sid": "Reads", "Resource": "/v1/**", "Dimension": "calls", "Action": "GET"},
    ]
    for number in range(STATEMENTS - len(statements)):
        group, item = divmod(number, 10)
        path = f"/v1/group{group}/{{id}}/item{item}"
        kinds: list[dict[str, Any]] = [
            {**tree, "Dimension": "calls", "Quantity": {"Metric": "requests", "Multiply": 2 + number % 50}},
            {
                **tree,
                "Dimension": "egress_gb",
                "Action": "GET",
                "Quantity": {"Metric": "response.bytes", "Unit": "GB", "Multiply": 1 + number % 50},
                "Condition": {"NumericLessThan": {"response:Bytes": 1_000_000 + number}},
            },
            {
                "Effect": "Exempt",
                "Action": "GET",
                "Dimension": "*",
                "Condition": {"NumericEquals": {"response:Status": 304}},
            },
            {"Effect": "Limit", "Action": "*", "Throttle": {"RateLimit": 1 + number % 9, "BurstLimit": 10}},
        ]
        statements.append({"Sid": f"S{number}", "Resource": path, **kinds[number % 4]})
    operation = {"responses": {"200": {"description": "Answer"}}}
    usage = {"Type": "ExternallyMetered"}
    return {
        "product.json": {
            "Version": VERSION, "Kind": "Product", "Id": "image-api", "Segments": {"retail": {}},
            "Marketplace": {
                "Agreements": "Concurrent", "PricingModel": "Subscription", "Metering": "Pipeline",
                "Dimensions": {
                    "calls": {**usage, "Category": "Requests", "Unit": "Requests"},
                    "egress_gb": {**usage, "Category": "Data", "Unit": "GB"},
                },
            },
        },
        "policies/images.json": {
            "Version": VERSION, "Kind": "Policy", "Id": "images", "PolicyVersion": 1, "Description": "All.",
            "Statement": statements,
        },
        "plans/retail.json": {
            "Version": VERSION, "Kind": "Plan", "Id": "retail", "PlanVersion": 1, "Description": "All.",
            "Segment": "retail", "Product": "image-api", "Channel": "Marketplace", "AssignTo": "Default",
            "Policies": ["images@1"], "Throttle": {"RateLimit": 20, "BurstLimit": 40}, "PriceList": "list",
        },
        "prices/list.json": {
            "Version": VERSION, "Kind": "PriceList", "Id": "list", "Currency": "USD",
            "EffectiveFrom": "2026-10-01T00:00:00Z", "Prices": {"calls": "0.001", "egress_gb": "0.09"},
        },
        "openapi.json": {
            "openapi": "3.0.3", "info": {"title": "Images", "version": "1"},
            "paths": {
                f"/v1/group{number // 10}/{{id}}/item{number % 10}": {"get" if number % 2 else "put": operation}
                for number in range(ROUTES)
            },
        },
    }  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        pool = Path(directory)
        for name, document in documents().items():
            (pool / name).parent.mkdir(exist_ok=True)
            (pool / name).write_text(json.dumps(document))
        routes = str(pool / "openapi.json")
        command = [str(Path(sys.executable).with_name("sellable")), "lint", directory, "--routes", routes]
        runs = [run([*command, "--format", "json"]) for _ in range(RUNS)]
        parts = [json.loads(run([sys.executable, "-c", PARTS, directory, routes]).output) for _ in range(RUNS)]
    name = f"lint {STATEMENTS:,} statements x {ROUTES:,} routes"
    show(
        f"{name}, from start to exit",
        median([one.seconds for one in runs]),
        "s",
        aim=1.0,
        processor=median([one.cpu_seconds for one in runs]),
        **{part: median([one[part] for one in parts]) for part in parts[0]},
    )
    show(f"{name}, peak memory", median([one.peak_mb for one in runs]), "MB", aim=300.0)


if __name__ == "__main__":
    main()
