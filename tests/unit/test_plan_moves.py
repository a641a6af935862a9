"""What an operator is shown before an agreement moves to another plan."""

from __future__ import annotations

from decimal import Decimal

from marketplace_constructs.domain.plan_table import NO_LIMIT, Cell, EventMeter, LineState, PlanTable, RouteAccess
from marketplace_constructs.policy.moves import moved

ROUTES = ("GET /v1/nouns", "POST /v1/nouns")


def cell(route: str = ROUTES[0], **members: object) -> Cell:
    method, path = route.split(" ")
    values = {"dimension": "calls", "state": LineState.BILLABLE, "metric": "requests", **members}
    return Cell(method=method, path=path, **values)  # type: ignore[arg-type]


def table(*cells: Cell, allowed: tuple[str, ...] = ROUTES, **members: object) -> PlanTable:
    values = {"plan": "retail@1", "product": "nouns", "segment": "retail", "channel": "Marketplace", **members}
    return PlanTable(
        routes=tuple(
            RouteAccess(method=route.split(" ")[0], path=route.split(" ")[1], is_allowed=route in allowed)
            for route in ROUTES
        ),
        cells=cells,
        **values,  # type: ignore[arg-type]
    )


def shown(old: PlanTable | None, new: PlanTable) -> list[tuple[str, str, str, tuple[str, ...], str, str]]:
    changes = moved(old, new)
    return [(str(c.kind), c.subject, c.dimension, c.routes, c.old, c.new) for c in changes]


def test_the_same_table_changes_nothing() -> None:
    one = table(cell(), cell(ROUTES[1]), events=(EventMeter(event="e", dimension="d", policy="p@1", sid="S"),))
    assert moved(one, one) == ()
    # Who decided is no difference to the buyer.
    assert moved(one, table(cell(sid="Other", policy="other@2"), cell(ROUTES[1]), events=one.events)) == ()


def test_routes_that_open_and_close_are_named() -> None:
    reads, writes = table(allowed=ROUTES[:1]), table(allowed=ROUTES[1:])
    assert shown(reads, writes) == [
        ("access", "opened", "", ROUTES[1:], "refused", "allowed"),
        ("access", "closed", "", ROUTES[:1], "allowed", "refused"),
    ]


def test_what_counts_is_compared_per_dimension_with_the_routes_on_which_it_changes_alike() -> None:
    old = table(cell(), cell(ROUTES[1]), cell(dimension="gb", metric="response.bytes", base_units=10**9))
    new = table(cell(multiply=Decimal(5)), cell(ROUTES[1], multiply=Decimal("5.0")))
    assert shown(old, new) == [
        ("count", "", "calls", ROUTES, "1 per request", "5 per request"),
        ("count", "", "gb", ROUTES[:1], "1 per GB of response.bytes", "not counted"),
    ]


def test_a_route_that_closes_counts_no_more() -> None:
    counts = [cell(route) for route in ROUTES]
    assert shown(table(*counts), table(*counts, allowed=ROUTES[:1]))[1:] == [
        ("count", "", "calls", ROUTES[1:], "1 per request", "not counted")
    ]


def test_the_lines_to_which_a_count_is_limited_are_told() -> None:
    new = table(
        cell(state=LineState.FAILED, status=(0, 200)),
        cell(status=(200, 300)),
        cell(state=LineState.EXEMPT, status=(300, 301)),
        cell(status=(301, NO_LIMIT), response_bytes=(5, NO_LIMIT)),
    )
    ((_, _, _, _, before, after),) = shown(table(), new)
    assert before == "not counted"
    assert after == (
        "not counted (status 0..199); 1 per request (status 200..299); exempt (status 300); "
        "1 per request (status from 301, response_bytes from 5)"
    )


def test_events_segment_and_channel_are_compared() -> None:
    event = EventMeter(event="stored", dimension="gb", policy="p@1", sid="S", multiply=Decimal("0.5"))
    assert shown(table(), table(events=(event,), channel="Internal")) == [
        ("event", "stored", "gb", (), "not counted", "0.5 per unit"),
        ("terms", "channel", "", (), "Marketplace", "Internal"),
    ]


def test_an_agreement_without_a_plan_gets_everything_anew() -> None:
    kinds = [line[0] for line in shown(None, table(cell()))]
    assert kinds == ["access", "count", "terms", "terms"]
