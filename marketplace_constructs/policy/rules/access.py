"""Rules of keys, limits and what the access log carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.plan_table import LineState
from marketplace_constructs.policy.conditions import condition_keys
from marketplace_constructs.policy.documents import Exempt, Limit, Limits, Meter
from marketplace_constructs.policy.rules.base import CheckedBy, Context, Found, Rule, routes_text
from marketplace_constructs.policy.source import Path
from marketplace_constructs.queries import access_log

ACCOUNT_RATE: Final = 10_000
ACCOUNT_BURST: Final = 5_000
"""Of an account and Region, unless raised; no plan gets more.

Source: API Gateway developer guide, account-level quotas (read 2026-11-21)."""

_FIELDS: Final = {
    "response.bytes": "responseLength",
    "integration.ms": "integrationLatency",
    "response.ms": "responseLatency",
    "request:Time": "requestTimeEpoch",
    "response:Status": "status",
    "response:StatusClass": "status",
    "response:Bytes": "responseLength",
    "integration:LatencyMs": "integrationLatency",
}
"""The member of a line that a metric or a condition key is read from."""


def _log_fields(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        for index, statement in enumerate(entry.document.statement):
            if not isinstance(statement, Meter | Exempt) or statement.action is None:
                continue
            named = [*sorted(condition_keys(statement.condition))]
            if isinstance(statement, Meter):
                named.append(statement.quantity.metric)
            needed = dict.fromkeys((*access_log.REQUIRED, *(_FIELDS[name] for name in named if name in _FIELDS)))
            absent = [name for name in needed if name not in context.log_fields]
            if absent:
                details = f"access-log format, got no {', '.join(absent)}; expected what the statement is judged by"
                path: Path = ("Statement", index)
                yield Found(document=entry.source.document, path=path, details=details, sid=statement.sid)


def _without_key(context: Context) -> Iterator[Found]:
    opened = {
        key for view in context.plans if view.expansion for key in view.expansion.table.allowed
    }  # by any plan: what one allows, another can be meant to keep from its buyers
    for view in context.plans:
        if view.expansion is None:
            continue
        keyless = {key: route for key, route in view.routes.items() if route.requires_key is False}
        if not keyless:
            continue
        allowed = view.expansion.table.allowed
        billed = {
            (cell.method, cell.path) for cell in view.expansion.table.cells if cell.state is LineState.BILLABLE
        } & allowed
        for what, keys in (("metered", billed), ("refused to this plan alone", opened - allowed)):
            routes = [route for key, route in keyless.items() if key in keys]
            if routes:
                details = f"{routes_text(routes)}, got no required key on what is {what}; expected the key"
                yield Found(document=view.document, path=("Policies",), details=details)


def _unlimited(context: Context) -> Iterator[Found]:
    for view in context.plans:
        if view.plan.quota is None and not list(view.limits):
            details = "plan, got neither Throttle nor Quota; expected one of them at least"
            yield Found(document=view.document, path=("Throttle",), details=details)


def _limits(context: Context) -> Iterator[Found]:
    for entry in context.pool.plans.values():
        if entry.document.throttle is not None:
            for details in _limit_problems(entry.document.throttle):
                yield Found(document=entry.source.document, path=("Throttle",), details=details)
    for policy in context.pool.policies.values():
        for index, statement in enumerate(policy.document.statement):
            if isinstance(statement, Limit):
                path: Path = ("Statement", index, "Throttle")
                for details in _limit_problems(statement.throttle):
                    yield Found(document=policy.source.document, path=path, details=details, sid=statement.sid)


def _limit_problems(limits: Limits) -> Iterator[str]:
    rate, burst = limits.rate_limit, limits.burst_limit
    if rate > ACCOUNT_RATE:
        yield f"RateLimit, got {rate:,f}; expected at most the account's own {ACCOUNT_RATE:,} calls/s"
    if burst > ACCOUNT_BURST:
        yield f"BurstLimit, got {burst:,}; expected at most the account's own {ACCOUNT_BURST:,} calls"
    if burst < rate:
        yield f"BurstLimit, got {burst:,} below the RateLimit {rate:,f}; expected as much at least"


RULES = (
    Rule(
        code="MON122",
        finding_type=FindingType.ERROR,
        title="The log format lacks a member that a statement needs",
        why="An absent number counts as 0, so a Meter of what is not logged bills nothing.",
        bad="""
            - Sid: Bytes
              Effect: Meter
              Action: GET
              Resource: /v1/images/{id}
              Dimension: egress_gb
              Quantity: {Metric: response.bytes, Unit: GB}
            """,
        good="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            """,
        resolution="add the member to the stage's access-log format; the format of SellableApi has all of them",
        check=_log_fields,
    ),
    Rule(
        code="MON123",
        finding_type=FindingType.ERROR,
        title="A method of a sold route does not require the key",
        why="A call without key belongs to nobody: it is served and never billed, also to those whose plan refuses "
        "the route.",
        bad="""
            openapi: 3.0.3
            components:
              securitySchemes:
                key: {type: apiKey, in: header, name: x-api-key}
            paths:
              /v1/images/{id}:
                get: {security: []}
            """,
        good="""
            openapi: 3.0.3
            components:
              securitySchemes:
                key: {type: apiKey, in: header, name: x-api-key}
            paths:
              /v1/images/{id}:
                get: {security: [{key: []}]}
            """,
        resolution="require the API key on the method, or exempt the route and allow it to every plan",
        check=_without_key,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON212",
        finding_type=FindingType.SECURITY_WARNING,
        title="A plan without Throttle and Quota",
        why="One buyer can then use up the account's whole capacity, and run up costs before anybody looks.",
        bad="""
            Kind: Plan
            Throttle: null
            """,
        good="""
            Kind: Plan
            Throttle: {RateLimit: 20, BurstLimit: 40}
            """,
        resolution="add a Throttle, a Quota, or both",
        check=_unlimited,
    ),
    Rule(
        code="MON301",
        finding_type=FindingType.WARNING,
        title="A limit above the account's own, or a burst below the rate",
        why="A limit that cannot be reached limits nothing; with a smaller burst than rate, the rate is never reached.",
        bad="""
            Kind: Plan
            Throttle: {RateLimit: 20, BurstLimit: 10}
            """,
        good="""
            Kind: Plan
            Throttle: {RateLimit: 20, BurstLimit: 40}
            """,
        resolution="write what the account can serve, and a burst of one or two seconds' calls",
        check=_limits,
    ),
)
