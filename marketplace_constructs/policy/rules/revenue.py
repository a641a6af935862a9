"""Rules of what is billed on a route, or not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.plan_table import Interval
from marketplace_constructs.domain.product import PricingModel
from marketplace_constructs.policy.conditions import condition_region, intersection, is_empty, meter_region
from marketplace_constructs.policy.documents import Exempt, Meter
from marketplace_constructs.policy.evaluation import Attached
from marketplace_constructs.policy.patterns import Route, Trait
from marketplace_constructs.policy.rules.base import CheckedBy, Context, Found, Rule, by_statement, in_statement

_ERRORS: Final = ((400, 600),)


def _unmetered(context: Context) -> Iterator[Found]:
    if not context.product.marketplace.pricing_model.has_usage:
        return
    if context.product.marketplace.pricing_model is PricingModel.FREE:
        return
    free: list[tuple[Attached, Route]] = []
    for view in context.plans:
        if view.expansion is None or not view.is_sold:
            continue
        allowing = {(access.method, access.path): access for access in view.expansion.table.routes if access.is_allowed}
        for matches, routes in view.shapes:
            if any(isinstance(match.attached.statement, Meter | Exempt) for match in matches):
                continue
            for route in routes:
                access = allowing.get((route.method, route.path))
                # A route without key is free by itself: nobody could be billed.
                if access is not None and route.requires_key is not False:
                    free.append((view.named[access.policy, access.sid], route))
    for one, routes_ in by_statement(free):
        yield in_statement(one, f"Allow, got {routes_} neither metered nor exempt; expected one of both")


def _bills_errors(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        for index, statement in enumerate(entry.document.statement):
            if not isinstance(statement, Meter) or statement.condition is None:
                continue
            region = meter_region(statement.condition, bills_server_errors=entry.document.bill_server_errors)
            everywhere = condition_region(None)
            if not is_empty(intersection(region, (_ERRORS, *everywhere[1:]))):
                yield Found(
                    document=entry.source.document,
                    path=("Statement", index, "Condition"),
                    details="Meter, got responses of 4xx or 5xx billed; expected successes only",
                    sid=statement.sid,
                )


def _on_routes(details: str, holds: Callable[[Meter, Route], bool]) -> Callable[[Context], Iterator[Found]]:
    """A rule of Meters on single routes; ``{}`` in the details are the routes."""

    def check(context: Context) -> Iterator[Found]:
        found = (
            (one, route) for view in context.plans for one, meter, route in view.billed_routes() if holds(meter, route)
        )
        for one, routes in by_statement(found):
            yield in_statement(one, details.format(routes))

    return check


def _is_repeatable(route: Route) -> bool:
    return any("idempotency" in name for name in route.header_parameters)


def _waits_for_nothing(route: Route) -> bool:
    return route.integration == "mock" or bool({Trait.CACHED, Trait.ASYNCHRONOUS} & set(route.traits))


def _never_succeeds(context: Context) -> Iterator[Found]:
    found = []
    for view in context.plans:
        for name, cells in view.billable.items():
            for cell in cells:
                route = view.routes[cell.method, cell.path]
                successes = _successes(route)
                if successes and all(start >= 300 and end <= 400 for start, end in successes):
                    found.append((name, cell, route, successes, view))
    billed = {
        (view.plan.reference, route)
        for _, cell, route, successes, view in found
        if any(cell.status[0] < end and start < cell.status[1] for start, end in successes)
    }
    never = [
        (view.named[name], route) for name, _, route, _, view in found if (view.plan.reference, route) not in billed
    ]
    for one, routes in by_statement(never):
        details = f"Meter, got {routes}, whose success is only ever 3xx; expected a condition that counts it"
        yield in_statement(one, details)


def _successes(route: Route) -> list[Interval]:
    """The statuses below 400 that a route declares; none where it declares any status by default."""
    if "default" in route.statuses:
        return []
    found: list[Interval] = []
    for status in route.statuses:
        if re.fullmatch("[1-3]XX", status):
            found.append((int(status[0]) * 100, int(status[0]) * 100 + 100))
        elif re.fullmatch("[1-3][0-9]{2}", status):
            found.append((int(status), int(status) + 1))
    return found


_SOLD = """
- Sid: Sold
  Effect: Allow
  Action: "*"
  Resource: /v1/images/**
"""
_CALLS = """
- Sid: Calls
  Effect: Meter
  Action: "*"
  Resource: /v1/images/**
  Dimension: calls
  Quantity: {Metric: requests}
"""
_READS = """
- Sid: Reads
  Effect: Meter
  Action: GET
  Resource: /v1/images/{id}
  Dimension: calls
  Quantity: {Metric: requests}
"""


def _routes(path: str, method: str, operation: str = "") -> str:
    return f"""
---
openapi: 3.0.3
paths:
  {path}:
    {method}:
      security: [{{key: []}}]
{operation}
components:
  securitySchemes:
    key: {{type: apiKey, in: header, name: x-api-key}}
"""


_IDEMPOTENT = "      parameters: [{name: Idempotency-Key, in: header}]"
_BYTES = """
- Sid: Bytes
  Effect: Meter
  Action: GET
  Resource: /v1/images/{id}
  Dimension: egress_gb
  Quantity: {Metric: response.bytes, Unit: GB}
"""
_SECONDS = """
Kind: Product
Marketplace:
  Agreements: Concurrent
  PricingModel: Subscription
  Metering: Pipeline
  Dimensions:
    compute_sec: {Category: Units, Unit: Units, Type: ExternallyMetered}
---
- Sid: Sold
  Effect: Allow
  Action: "*"
  Resource: /v1/images/**
- Sid: Seconds
  Effect: Meter
  Action: GET
  Resource: /v1/images/{id}
  Dimension: compute_sec
  Quantity: {Metric: integration.ms, Unit: s}
"""

RULES = (
    Rule(
        code="MON202",
        finding_type=FindingType.REVENUE_WARNING,
        title="Allowed, not metered, not exempt",
        why="Whoever has the key calls it for nothing, and nobody has said that this is meant.",
        bad=_SOLD + _READS,
        good=_SOLD + _CALLS,
        resolution="meter the route, or exempt it",
        check=_unmetered,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON207",
        finding_type=FindingType.REVENUE_WARNING,
        title="Bills 4xx or 5xx",
        why="Buyers contest bills for calls that failed, and the more so where the seller's own servers did.",
        bad=_SOLD + _CALLS + '  Condition: {NumericEquals: {"response:Status": [200, 404]}}\n',
        good=_SOLD + _CALLS,
        resolution="leave the status out (2xx is meant), or say in the listing that such calls count",
        check=_bills_errors,
    ),
    Rule(
        code="MON208",
        finding_type=FindingType.REVENUE_WARNING,
        title="POST metered without a documented idempotency key",
        why="A client that hears no answer sends the call again; without a key that makes both one, both are billed.",
        bad=_SOLD + _CALLS + _routes("/v1/images", "post"),
        good=_SOLD + _CALLS + _routes("/v1/images", "post", _IDEMPOTENT),
        resolution="take an Idempotency-Key header, and declare it in the API",
        check=_on_routes(
            "Meter, got {} without an idempotency key; expected a header that makes a repeated call one",
            lambda _, route: route.method == "POST" and not _is_repeatable(route),
        ),
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON209",
        finding_type=FindingType.REVENUE_WARNING,
        title="integration.ms on a cached, mock or asynchronous route",
        why="There the backend's time as the gateway sees it is nothing, or not the time that the work takes.",
        bad=_SECONDS + _routes("/v1/images/{id}", "get", "      x-amazon-apigateway-integration: {type: mock}"),
        good=_SECONDS + _routes("/v1/images/{id}", "get", "      x-amazon-apigateway-integration: {type: aws_proxy}"),
        resolution="count requests there, or an event that the backend sends",
        check=_on_routes(
            "Meter of integration.ms, got {}, where it is not the time of the work; expected another metric",
            lambda meter, route: meter.quantity.metric == "integration.ms" and _waits_for_nothing(route),
        ),
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON210",
        finding_type=FindingType.REVENUE_WARNING,
        title="A greedy {proxy+} is metered as one",
        why="All paths below it are one route: none has a price of its own, and the report by path shows one line.",
        bad=_SOLD + _CALLS + _routes('"/v1/images/{proxy+}"', "get"),
        good=_SOLD + _CALLS + _routes('"/v1/images/{id}"', "get"),
        resolution="declare the API's routes one by one",
        check=_on_routes(
            "Meter, got {}, which stands for many paths; expected routes declared one by one",
            lambda _, route: route.path.endswith("+}"),
        ),
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON214",
        finding_type=FindingType.REVENUE_WARNING,
        title="Bytes of compressed or streamed responses",
        why="How many bytes a compressed response has, the caller chooses with Accept-Encoding; and a stream that "
        "breaks off was sent in part.",
        bad=_SOLD
        + _CALLS
        + _BYTES
        + _routes("/v1/images/{id}", "get")
        + "x-amazon-apigateway-minimum-compression-size: 0\n",
        good=_SOLD + _CALLS + _BYTES + _routes("/v1/images/{id}", "get"),
        resolution="count requests or an event, or turn compression off",
        check=_on_routes(
            "Meter of response.bytes, got {} compressed or streamed; expected another metric",
            lambda meter, route: (
                meter.quantity.metric == "response.bytes"
                and bool({Trait.COMPRESSED, Trait.STREAMED} & set(route.traits))
            ),
        ),
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON215",
        finding_type=FindingType.REVENUE_WARNING,
        title="HEAD metered",
        why="Caches and monitors send HEAD by themselves, and it returns nothing that a buyer would pay for.",
        bad=_SOLD + _CALLS + _routes("/v1/images", "head"),
        good=_SOLD + _CALLS + _routes("/v1/images", "get"),
        resolution="exempt HEAD, or name the methods that count",
        check=_on_routes("Meter, got {}; expected HEAD exempt", lambda _, route: route.method == "HEAD"),
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON220",
        finding_type=FindingType.REVENUE_WARNING,
        title="Success is only ever 3xx, and never billed",
        why="A Meter without a status means 2xx. A route that answers with redirects alone is then free.",
        bad=_SOLD + _CALLS + _routes("/v1/images/{id}", "get", '      responses: {"302": {}, "404": {}}'),
        good=_SOLD
        + _CALLS
        + '  Condition: {StringEquals: {"response:StatusClass": ["2", "3"]}}\n'
        + _routes("/v1/images/{id}", "get", '      responses: {"302": {}, "404": {}}'),
        resolution='add the condition response:StatusClass ["2", "3"]',
        check=_never_succeeds,
        checked_by=CheckedBy.ROUTES,
    ),
)
