"""Section by section, what the language promises; the random tests beside it look for what nobody thought of."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pools import ALLOW_ALL, expansion, meter, plan, policy, pool, product, route

from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable
from marketplace_constructs.policy.evaluation import Expansion, Throttled, TooIntertwinedError, expand


def cell(
    found: Expansion,
    on: str = "GET /a",
    *,
    status: int = 200,
    size: int = 0,
    ms: int = 0,
    at: int = 0,
    dimension: str = "calls",
) -> Cell | None:
    cells = [
        c
        for c in found.table.cells
        if f"{c.method} {c.path}" == on
        and c.dimension == dimension
        and c.status[0] <= status < c.status[1]
        and c.response_bytes[0] <= size < c.response_bytes[1]
        and c.integration_ms[0] <= ms < c.integration_ms[1]
        and c.time_ms[0] <= at < c.time_ms[1]
    ]
    assert len(cells) <= 1
    return cells[0] if cells else None


def sid(found: Expansion, on: str = "GET /a", **line: Any) -> str | None:
    at = cell(found, on, **line)
    return at.sid or at.state if at else None


def is_allowed(found: Expansion, on: str) -> bool:
    return tuple(on.split()) in found.table.allowed


def test_no_allow_means_no_access() -> None:
    found = expansion([meter()], ["GET /a"])
    assert not is_allowed(found, "GET /a")


def test_deny_beats_a_more_specific_allow() -> None:
    found = expansion([ALLOW_ALL | {"Resource": "/a"}, ALLOW_ALL | {"Sid": "No", "Effect": "Deny"}], ["GET /a"])
    assert not is_allowed(found, "GET /a")
    assert found.table.routes[0].sid == "No"


def test_a_child_of_an_allowed_route_stays_shut() -> None:
    found = expansion(
        [ALLOW_ALL | {"Resource": "/v1/images/{id}"}], ["GET /v1/images/{id}", "GET /v1/images/{id}/original"]
    )
    assert is_allowed(found, "GET /v1/images/{id}")
    assert not is_allowed(found, "GET /v1/images/{id}/original")


def test_a_browsers_preflight_is_neither_guarded_nor_metered() -> None:
    made = pool(policy([ALLOW_ALL, meter()]), plan())
    found = expand(made, made.plans["retail@1"].document, [route("OPTIONS /a", is_preflight=True), route("GET /a")])
    assert [r.method for r in found.table.routes] == ["GET"]


def test_guardrails_hold_on_every_plan_of_the_segment() -> None:
    made = pool(
        policy([ALLOW_ALL]),
        policy([ALLOW_ALL | {"Sid": "NoBulk", "Effect": "Deny", "Resource": "/bulk"}], Id="no-bulk"),
        plan(),
        product(Segments={"retail": {"Guardrails": ["no-bulk@1"]}}),
    )
    product_fault = [fault for fault in made.faults if fault.document == "product.json"]
    assert not product_fault
    found = expand(made, made.plans["retail@1"].document, [route("GET /a"), route("POST /bulk")])
    assert is_allowed(found, "GET /a")
    assert not is_allowed(found, "POST /bulk")


def test_a_meter_without_a_status_means_success() -> None:
    found = expansion([ALLOW_ALL, meter()], ["GET /a"])
    assert [sid(found, status=status) for status in (199, 200, 299, 300, 404, 429, 500)] == [
        "failed", "Count", "Count", "failed", "failed", "failed", "failed",
    ]  # fmt: skip


def test_an_explicit_status_replaces_success() -> None:
    found = expansion([ALLOW_ALL, meter(Condition={"NumericEquals": {"response:Status": [404, 410]}})], ["GET /a"])
    assert [sid(found, status=status) for status in (200, 404, 405, 410)] == ["failed", "Count", "failed", "Count"]


@pytest.mark.parametrize("status", [429, 500, 599])
def test_server_errors_and_throttles_bill_only_where_the_policy_says_so(status: int) -> None:
    condition = {"NumericGreaterThanEquals": {"response:Status": 400}}
    statements = [ALLOW_ALL, meter(Condition=condition)]
    assert sid(expansion(statements, ["GET /a"]), status=status) == "failed"
    made = pool(policy(statements, BillServerErrors=True), plan())
    found = expand(made, made.plans["retail@1"].document, [route("GET /a")])
    assert sid(found, status=status) == "Count"


def test_a_condition_that_fails_leaves_the_line_to_the_next_in_rank() -> None:
    found = expansion(
        [
            ALLOW_ALL,
            meter("All"),
            meter("Misses", resource="/a", multiply=0.5, Condition={"NumericEquals": {"response:Status": 404}}),
        ],
        ["GET /a"],
    )
    assert sid(found, status=200) == "All"
    assert sid(found, status=404) == "Misses"
    at = cell(found, status=404)
    assert at is not None
    assert at.multiply == Decimal("0.5")


def test_the_more_specific_pattern_wins_before_the_named_method() -> None:
    found = expansion(
        [ALLOW_ALL, meter("Pattern", action="*", resource="/a"), meter("Method", action="GET", resource="/**")],
        ["GET /a"],
    )
    assert sid(found) == "Pattern"


def test_a_named_method_wins_before_conditions() -> None:
    slow = {"NumericGreaterThan": {"integration:LatencyMs": 10}}
    found = expansion([ALLOW_ALL, meter("Method", action="GET"), meter("Slow", Condition=slow)], ["GET /a"])
    assert sid(found, ms=20) == "Method"


def test_more_condition_keys_win() -> None:
    one = {"NumericGreaterThan": {"integration:LatencyMs": 10}}
    two = one | {"NumericLessThan": {"response:Bytes": 5}}
    found = expansion([ALLOW_ALL, meter("One", Condition=one), meter("Two", Condition=two)], ["GET /a"])
    assert sid(found, ms=20, size=1) == "Two"
    assert sid(found, ms=20, size=5) == "One"
    assert sid(found, ms=10, size=1) == "failed"


def test_exempt_wins_whatever_the_status_and_only_where_something_meters() -> None:
    free = {"Sid": "Free", "Effect": "Exempt", "Action": "*", "Resource": "/**", "Dimension": "*"}
    found = expansion([ALLOW_ALL, meter(resource="/a"), free], ["GET /a", "GET /b"])
    assert [sid(found, status=status) for status in (200, 404, 500)] == ["Free"] * 3
    assert cell(found, "GET /b") is None


def test_an_exempt_names_its_dimension() -> None:
    free = {"Sid": "Free", "Effect": "Exempt", "Action": "*", "Resource": "/a", "Dimension": "calls"}
    seconds = meter("Time", dimension="compute_sec", metric="integration.ms", unit="s")
    found = expansion([ALLOW_ALL, meter(), seconds, free], ["GET /a"])
    assert sid(found) == "Free"
    assert sid(found, dimension="compute_sec") == "Time"


def test_the_most_specific_exempt_is_named() -> None:
    def free(name: str, resource: str) -> dict[str, Any]:
        return {"Sid": name, "Effect": "Exempt", "Action": "*", "Resource": resource, "Dimension": "*"}

    found = expansion([ALLOW_ALL, meter(), free("Wide", "/**"), free("Z", "/a"), free("B", "/a")], ["GET /a"])
    assert sid(found) == "B"


def test_a_tie_is_told_with_its_route() -> None:
    found = expansion([ALLOW_ALL, meter("One"), meter("Two")], ["GET /a", "GET /b"])
    assert [(tie.one.statement.sid, tie.other.statement.sid, str(tie.route)) for tie in found.ties] == [
        ("One", "Two", "GET /a")
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"NumericEquals": {"response:Status": 404}}, {"StringEquals": {"response:StatusClass": ["2", "3"]}}),
        ({"NumericLessThan": {"response:Bytes": 10}}, {"NumericGreaterThanEquals": {"response:Bytes": 10}}),
        ({"NumericLessThan": {"response:Bytes": 9.5}}, {"NumericGreaterThan": {"response:Bytes": 9.5}}),
        (
            {"DateLessThan": {"request:Time": "2026-12-01T00:00:00Z"}},
            {"DateGreaterThanEquals": {"request:Time": "2026-12-01T00:00:00Z"}},
        ),
    ],
)
def test_conditions_that_no_line_can_meet_together_are_no_tie(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not expansion([ALLOW_ALL, meter("One", Condition=one), meter("Two", Condition=other)], ["GET /a"]).ties


def test_conditions_that_one_line_can_meet_are_a_tie() -> None:
    one = {"NumericLessThanEquals": {"response:Bytes": 10}}
    other = {"NumericGreaterThanEquals": {"response:Bytes": 10}}
    assert expansion([ALLOW_ALL, meter("One", Condition=one), meter("Two", Condition=other)], ["GET /a"]).ties


def test_a_tie_below_the_winner_is_one_too() -> None:
    winner = meter("Winner", resource="/a", Condition={"NumericEquals": {"response:Status": 200}})
    assert expansion([ALLOW_ALL, winner, meter("One"), meter("Two")], ["GET /a"]).ties


def test_two_meters_of_one_event_and_dimension_tie() -> None:
    def stored(name: str) -> dict[str, Any]:
        quantity = {"Metric": "event:image.storage"}
        return {"Sid": name, "Effect": "Meter", "Dimension": "calls", "Quantity": quantity}

    found = expansion([ALLOW_ALL, stored("One"), stored("Two")], ["GET /a"])
    assert [(tie.route, tie.dimension) for tie in found.ties] == [(None, "calls")]


def test_a_deploy_condition_is_decided_first() -> None:
    partners = {"StringEquals": {"plan:Segment": "partner"}}
    statements = [ALLOW_ALL, meter("All"), meter("Partners", multiply=0.5, Condition=partners)]
    assert sid(expansion(statements, ["GET /a"])) == "All"
    made = pool(policy(statements), plan(Segment="partner"), product(Segments={"partner": {}}))
    assert sid(expand(made, made.plans["retail@1"].document, [route("GET /a")])) == "Partners"


def test_a_parameter_is_the_plans() -> None:
    parameters = {"Weight": {"Type": "Integer", "Default": 5}}
    statements = [ALLOW_ALL, meter(multiply="${param.Weight}")]
    made = pool(
        policy(statements, Parameters=parameters),
        plan(),
        plan(Id="other", Parameters={"images": {"Weight": 3}}),
    )
    weights = []
    for reference in ("retail@1", "other@1"):
        at = cell(expand(made, made.plans[reference].document, [route("GET /a")]))
        assert at is not None
        weights.append(at.multiply)
    assert weights == [5, 3]


def test_the_order_of_statements_and_policies_changes_nothing() -> None:
    statements = [ALLOW_ALL, meter("A"), meter("B", resource="/a"), meter("C", action="GET", resource="/a")]
    one = expansion(statements, ["GET /a", "POST /a", "GET /b"])
    other = expansion(statements[::-1], ["GET /b", "GET /a", "POST /a"])
    assert one.table == other.table
    assert one.table.digest == other.table.digest


def test_the_smallest_limits_hold() -> None:
    def limit(name: str, resource: str, rate: float, burst: int) -> dict[str, Any]:
        throttle = {"RateLimit": rate, "BurstLimit": burst}
        return {"Sid": name, "Effect": "Limit", "Action": "*", "Resource": resource, "Throttle": throttle}

    found = expansion(
        [ALLOW_ALL, limit("All", "/**", 20, 10), limit("A", "/a", 5, 50), limit("B", "/*", 7, 6)],
        ["GET /a"],
        Throttle={"RateLimit": 10, "BurstLimit": 40},
    )
    assert found.throttle == Throttled(rate_limit=Decimal(10), burst_limit=10)
    assert found.method_throttles == {route("GET /a"): Throttled(rate_limit=Decimal(5), burst_limit=6)}


def test_conditions_without_end_are_refused_within_bounds() -> None:
    odd = {"NumericEquals": {"response:Status": list(range(201, 299, 2))}}
    statements = [
        meter(
            f"S{i}",
            Condition=odd
            | {
                "NumericGreaterThan": {"response:Bytes": 10 * i},
                "NumericLessThan": {"integration:LatencyMs": 10 * i + 5},
            },
        )
        for i in range(100)
    ]
    with pytest.raises(TooIntertwinedError):
        expansion([ALLOW_ALL, *statements], ["GET /a"])


def test_a_table_is_the_same_after_it_was_written_and_read() -> None:
    seconds = meter("Time", dimension="compute_sec", metric="integration.ms", unit="s", round_up=100, multiply=0.25)
    table = expansion([ALLOW_ALL, meter(), seconds], ["GET /a"]).table
    assert PlanTable.from_text(table.to_text()) == table
    assert {c.state for c in table.cells} == {LineState.BILLABLE, LineState.FAILED}


def test_fails_when_a_table_is_of_another_schema() -> None:
    with pytest.raises(ValueError, match="schema_version"):
        PlanTable.from_text('{"schema_version": 2}')
