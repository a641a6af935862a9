"""The Tests of policies: a request, and what it must come to with the policy alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from math import floor
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.plan_table import Cell, LineState
from marketplace_constructs.policy.documents import Policy, PolicyTest, PolicyTestRequest
from marketplace_constructs.policy.evaluation import Expansion, TooIntertwinedError, attach_policy, expand_attached
from marketplace_constructs.policy.patterns import Pattern, Route
from marketplace_constructs.policy.pool import Entry
from marketplace_constructs.policy.rules.base import Context, Found, Rule

MAX_TESTS: Final = 1_000
"""Of one policy."""
_NINE: Final = 10**9


def _failed(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        tests = entry.document.tests
        if len(tests) > MAX_TESTS:
            details = f"Tests, got {len(tests):,}; expected at most {MAX_TESTS:,}"
            yield Found(document=entry.source.document, path=("Tests",), details=details)
            continue
        for segment in dict.fromkeys(test.segment for test in tests):
            numbered = [(number, test) for number, test in enumerate(tests) if test.segment == segment]
            yield from _of_segment(context, entry, segment, numbered)


def _of_segment(
    context: Context, entry: Entry[Policy], segment: str | None, tests: list[tuple[int, PolicyTest]]
) -> Iterator[Found]:
    document = entry.source.document
    deploy = {"plan:Segment": segment or "", "plan:Id": "", "api:Stage": context.stage}
    attached = attach_policy(entry.document, document=document, parameters={}, deploy=deploy)
    routes = {}
    for number, test in tests:
        try:
            Pattern.parse(test.request.resource)
        except ValueError as error:
            details = f"Resource, got {error}"
            yield Found(document=document, path=("Tests", number, "Request", "Resource"), details=details)
        else:
            routes[number] = Route(path=test.request.resource, method=test.request.method)
    try:
        # Routes do not know of each other, so all tests are worked out at once.
        expansion = expand_attached(attached, routes.values(), plan=entry.document.reference)
    except TooIntertwinedError as error:
        details = f"test on {error.route}, got conditions too intertwined; expected fewer"
        yield Found(document=document, path=("Tests",), details=details)
        return
    for number, test in tests:
        if number in routes:
            name = f"test {test.name!r}" if test.name else f"test {number + 1}"
            for member, expected, got in _differences(expansion, test, routes[number], context.now):
                yield Found(
                    document=document,
                    path=("Tests", number, "Expect", *member),
                    details=f"{name}, {' '.join(member)}, got {got}; expected {expected}",
                )


def _differences(
    expansion: Expansion, test: PolicyTest, route: Route, now: datetime
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What is expected and what is got, where they differ, with the member that says so."""
    is_allowed = (route.method, route.path) in expansion.table.allowed
    access = "Allowed" if is_allowed else "Refused"
    if test.expect.access not in {None, access}:
        yield ("Access",), str(test.expect.access), access
    cells = {
        cell.dimension: cell
        for cell in expansion.table.cells
        if is_allowed and (cell.method, cell.path) == (route.method, route.path) and _holds(cell, test.request, now)
    }
    for dimension, expected in test.expect.quantities.items():
        exact = _quantity(cells[dimension], test.request) if dimension in cells else Fraction(0)
        floored = Fraction(floor(exact * _NINE), _NINE)
        if Fraction(expected) not in {exact, floored}:
            yield ("Quantities", dimension), f"{expected:f}", _shown(floored)
    for dimension, sid in test.expect.sids.items():
        got = cells[dimension].sid if dimension in cells else ""
        if got != sid:
            yield ("Sids", dimension), sid, got or "none"


def _holds(cell: Cell, request: PolicyTestRequest, now: datetime) -> bool:
    time_ms = int((request.time or now).timestamp() * 1000)
    return all(
        start <= value < end
        for value, (start, end) in (
            (request.status, cell.status),
            (request.response_bytes, cell.response_bytes),
            (request.integration_ms, cell.integration_ms),
            (time_ms, cell.time_ms),
        )
    )


def _quantity(cell: Cell, request: PolicyTestRequest) -> Fraction:
    if cell.state is not LineState.BILLABLE:
        return Fraction(0)
    base = {
        "requests": 1,
        "response.bytes": request.response_bytes,
        "integration.ms": request.integration_ms,
        "response.ms": request.response_ms,
    }[cell.metric]
    rounded = -(-base // cell.round_up) * cell.round_up
    return Fraction(rounded) * Fraction(cell.multiply) / cell.base_units


def _shown(quantity: Fraction) -> str:
    whole, rest = divmod(int(quantity * _NINE), _NINE)
    return f"{whole}.{rest:09}".rstrip("0").rstrip(".")


RULES = (
    Rule(
        code="MON142",
        finding_type=FindingType.ERROR,
        title="A policy's test fails",
        why="The test says what was meant; the policy does something else.",
        bad="""
            Kind: Policy
            Tests:
              - Request: {Method: GET, Resource: "/v1/images/{id}"}
                Expect: {Quantities: {calls: 2}}
            """,
        good="""
            Kind: Policy
            Tests:
              - Request: {Method: GET, Resource: "/v1/images/{id}"}
                Expect: {Quantities: {calls: 1}}
            """,
        resolution="correct the statement, or what the test expects; sellable simulate tells why a statement wins",
        check=_failed,
    ),
)
