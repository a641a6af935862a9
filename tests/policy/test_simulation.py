"""What a call and a log would be billed: states, copies, absent values, exact sums, and why a statement loses."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from examples import IMAGES_ROUTES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.plan_table import EVERY, NO_LIMIT, Cell, LineState, PlanTable, RouteAccess
from marketplace_constructs.engine import parts
from marketplace_constructs.policy.access_logs import AccessLog
from marketplace_constructs.policy.documents import PriceList
from marketplace_constructs.policy.simulation import (
    Simulation,
    decimal_text,
    price_in_force,
    simulate_lines,
    simulate_log,
)

Line = dict[str, Any]
NOON = 1_796_126_400_000
"""2026-12-01T12:00:00Z."""


def cell(path: str, dimension: str, state: LineState = LineState.BILLABLE, **more: Any) -> Cell:
    named = {} if state is LineState.FAILED else {"policy": "rules@1", "sid": "Counts"}
    metric = {"metric": "requests"} if state is LineState.BILLABLE else {}
    return Cell(**{"method": "GET", "path": path, "dimension": dimension, "state": state, **named, **metric, **more})


TABLE = PlanTable(
    plan="retail@2",
    product="image-api",
    segment="retail",
    channel="Marketplace",
    routes=(
        RouteAccess(method="GET", path="/free", is_allowed=True),
        RouteAccess(method="GET", path="/sold", is_allowed=True),
        RouteAccess(method="GET", path="/shut", is_allowed=False),
        RouteAccess(method="GET", path="/given", is_allowed=True),
    ),
    cells=(
        cell("/sold", "calls", status=(200, 300)),
        cell("/sold", "calls", LineState.FAILED, status=(0, 200)),
        cell("/sold", "calls", LineState.FAILED, status=(300, NO_LIMIT)),
        cell("/sold", "gb", metric="response.bytes", round_up=1000, multiply=Decimal("0.3"), base_units=10**9),
        cell("/shut", "calls"),
        cell("/given", "calls", LineState.EXEMPT),
    ),
)


def line(number: int, **more: Any) -> Line:
    return {
        "requestTimeEpoch": str(NOON + number),
        "extendedRequestId": f"id-{number}=",
        "httpMethod": "GET",
        "resourcePath": "/sold",
        "status": "200",
        "errorResponseType": "-",
        "responseLength": "1001",
        "responseLatency": "7",
        "integrationLatency": "5",
        "agreement": "agmt-one",
        "plan": "retail@2",
    } | more


def written(path: Path, lines: Iterable[Mapping[str, Any] | bytes], *, is_gzip: bool = False) -> Path:
    content = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if is_gzip else content)
    return path


def totals(simulation: Simulation) -> dict[tuple[str | None, str, str | None], tuple[int, str]]:
    return {(t.dimension, t.state, t.sid): (t.lines, decimal_text(t.quantity)) for t in simulation.totals}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {("calls", "billable"), ("gb", "billable")}),
        ({"status": "404"}, {("calls", "failed"), ("gb", "billable")}),
        ({"resourcePath": "/given"}, {("calls", "exempt")}),
        ({"resourcePath": "/free"}, {(None, "unmetered")}),
        ({"resourcePath": "/shut"}, {(None, "refused")}),
        ({"resourcePath": "/unknown"}, {(None, "unmatched")}),
        ({"httpMethod": "POST"}, {(None, "unmatched")}),
        ({"agreement": "-"}, {(None, "unattributed")}),
        ({"errorResponseType": "THROTTLED"}, {(None, "refused")}),
        ({"errorResponseType": "INTEGRATION_TIMEOUT", "status": "504"}, {("calls", "failed"), ("gb", "billable")}),
        ({"plan": "retail@1"}, {("calls", "billable"), ("gb", "billable")}),
        ({"plan": "retail-two@2"}, {(None, "skipped")}),
        ({"plan": "-"}, {(None, "skipped")}),
        # The first that holds: skipped, refused by the gateway, unattributed, unmatched, refused by the plan.
        ({"plan": "other@1", "errorResponseType": "THROTTLED"}, {(None, "skipped")}),
        ({"agreement": "", "errorResponseType": "THROTTLED"}, {(None, "refused")}),
        ({"agreement": None, "resourcePath": "/unknown"}, {(None, "unattributed")}),
        ({"status": "2e2"}, {(None, "unparsable")}),
        ({"status": "-1"}, {(None, "unparsable")}),
        ({"responseLength": "1.5"}, {(None, "unparsable")}),
        ({"responseLength": "9" * 19}, {(None, "unparsable")}),
        ({"extendedRequestId": "-"}, {(None, "unparsable")}),
        ({"status": 200, "responseLength": 5}, {("calls", "billable"), ("gb", "billable")}),
    ],
)
def test_a_line_comes_to_a_state_for_each_dimension(
    more: Line, expected: set[tuple[str | None, str]], tmp_path: Path
) -> None:
    one = line(1, **more)
    assert {(judged.dimension, judged.state) for judged in simulate_lines(TABLE, [one])} == expected
    whole = simulate_log(TABLE, [written(tmp_path / "log", [one])])
    found = {(total.dimension, total.state) for total in whole.totals}
    found |= {(None, "skipped")} if whole.skipped else set()
    found |= {(None, "unparsable")} if whole.unparsable else set()
    assert found == expected


@pytest.mark.parametrize("absent", ["-", "", None, ...])
def test_an_absent_number_is_zero(absent: object) -> None:
    one = line(1, responseLength=absent, integrationLatency=absent)
    if absent is ...:
        del one["responseLength"], one["integrationLatency"]
    (calls, size) = simulate_lines(TABLE, [one])
    assert (calls.state, calls.quantity) == ("billable", 1)
    assert (size.state, size.quantity) == ("billable", 0)


def test_a_line_that_comes_twice_counts_once(tmp_path: Path) -> None:
    first = written(tmp_path / "first.gz", [line(1), line(2), line(1)], is_gzip=True)
    late = written(tmp_path / "late", [line(2), line(3, agreement="agmt-two")])
    simulation = simulate_log(TABLE, [first, late])
    assert simulation.duplicates == 2
    assert totals(simulation)["calls", "billable", "Counts"] == (3, "3")


def test_a_log_given_twice_comes_to_the_same(tmp_path: Path) -> None:
    lines = [line(number) for number in range(50)]
    once = written(tmp_path / "once", lines)
    again = written(tmp_path / "again", reversed(lines))
    simulation = simulate_log(TABLE, [once, again])
    assert (simulation.duplicates, totals(simulation)) == (50, totals(simulate_log(TABLE, [once])))


def test_copies_that_differ_count_as_the_earliest_whatever_the_order() -> None:
    copies = [line(1, requestTimeEpoch=str(NOON + 5), resourcePath="/given"), line(1)]
    assert {one.state for one in simulate_lines(TABLE, copies)} == {"billable"}
    assert {one.state for one in simulate_lines(TABLE, copies[::-1])} == {"billable"}


@pytest.mark.parametrize(
    "broken",
    [b"hello", b'{"status":"2', b'{"status":-}', b"42", b"[1]", b"null", b"{}", b'{"a":"\xff"}', b'{"a":1}{"b":2}'],
)
def test_a_line_that_cannot_be_read_is_counted_apart(broken: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "log", [line(1), broken, b"", line(2)])
    simulation = simulate_log(TABLE, [path])
    assert simulation.unparsable == 1
    assert totals(simulation)["calls", "billable", "Counts"] == (2, "2")


def test_gzip_is_told_by_content_and_folders_tell_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "plan=other@1" / "agreement=-"
    written(folder / "plain.gz", [line(1)])
    written(folder / "deep" / "odd [1]*'.json", [line(2)], is_gzip=True)
    written(folder / ".hidden", [line(3)])
    for names in ([tmp_path], [f"{tmp_path}/**/*"], [folder / "plain.gz", folder / "deep" / "odd [1]*'.json"]):
        simulation = simulate_log(TABLE, names)
        assert (simulation.skipped, totals(simulation)["calls", "billable", "Counts"]) == (0, (2, "2"))


def test_a_file_is_read_for_itself_alone_whatever_its_name(tmp_path: Path) -> None:
    for number, name in enumerate(("a[1]*.json", "a1.json", "a1x.json", "b?.json", "bb.json")):
        written(tmp_path / name, [line(number)])
    simulation = simulate_log(TABLE, [tmp_path / "a[1]*.json", tmp_path / "b?.json"])
    assert totals(simulation)["calls", "billable", "Counts"] == (2, "2")


def test_fails_when_a_file_is_missing_or_cut_off(tmp_path: Path) -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-SIM-01: log, got .*missing"):
        simulate_log(TABLE, [tmp_path / "missing"])
    path = written(tmp_path / "cut", [line(number) for number in range(999)], is_gzip=True)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(MarketplaceConstructsError, match="MP-SIM-01"):
        simulate_log(TABLE, [path])


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    path = written(tmp_path / "log", [line(1), line(1)])
    simulate_log(TABLE, [path])
    path.write_bytes(b"\x1f\x8bno gzip")
    with pytest.raises(MarketplaceConstructsError):
        simulate_log(TABLE, [path])
    assert list(temporary.iterdir()) == []


def test_one_reading_serves_several_plans_and_keys(tmp_path: Path) -> None:
    other = PlanTable(**{**TABLE.__dict__, "plan": "other@1", "routes": TABLE.routes[:1], "cells": ()})
    path = written(tmp_path / "log", [line(1), line(2, plan="other@1"), line(3, agreement="agmt-two")])
    with AccessLog([path], tables=[TABLE, other]) as log:
        found = {(u.keys, u.state): u.lines for u in log.usage(TABLE, ["agreement", "hour"]) if u.dimension != "gb"}
        states = {u.state: u.lines for u in log.usage(other)}
    assert found == {
        (("agmt-one", NOON), "billable"): 1,
        (("agmt-one", NOON), "skipped"): 1,
        (("agmt-two", NOON), "billable"): 1,
    }
    assert states == {"skipped": 2, "unmatched": 1}


def test_progress_comes_part_by_part_and_ends_with_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 600)
    told: list[float] = []
    logs = [written(tmp_path / f"log{number}", [line(number)] * 3) for number in range(1, 5)]
    simulate_log(TABLE, logs, progress=told.append)
    assert told == sorted(told)
    assert len(set(told)) >= 4
    assert told[-1] == 1
    assert all(0 < part <= 1 for part in told)


def price_list(start: str, **prices: str) -> PriceList:
    return PriceList.model_validate(
        {
            "Version": "2026-11-21",
            "Kind": "PriceList",
            "Id": "prices",
            "Currency": "USD",
            "EffectiveFrom": start,
            "Prices": prices,
        }
    )


def test_a_price_is_the_one_in_force_in_the_hour(tmp_path: Path) -> None:
    lists = [price_list("2026-12-01T13:00:00Z", calls="0.5"), price_list("2026-10-01T00:00:00Z", calls="0.1")]
    path = written(tmp_path / "log", [line(1), line(2), line(3, requestTimeEpoch=str(NOON + 3_600_000))])
    simulation = simulate_log(TABLE, [path], price_lists=lists)
    assert [(e.dimension, e.amount) for e in simulation.estimates] == [("calls", Fraction(7, 10)), ("gb", None)]
    assert totals(simulation)["calls", "billable", "Counts"] == (3, "3")
    assert price_in_force(lists, "calls", datetime(2026, 9, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Fraction(5), "5"),
        (Fraction(3, 10), "0.3"),
        (Fraction(0), "0"),
        (Fraction(2, 3), "0.666666666"),
        (Fraction(10**30), "1" + "0" * 30),
        (Fraction(1, 10**10), "0"),
        (Fraction(100), "100"),
    ],
)
def test_a_quantity_is_shown_floored_at_nine_decimals(number: Fraction, text: str) -> None:
    assert decimal_text(number) == text


sizes = st.integers(0, 10**18 - 1)
metered = st.fixed_dictionaries(
    {
        "round_up": st.integers(1, 10**12),
        "multiply": st.decimals("0.0001", 10_000, places=4),
        "base_units": st.sampled_from([1, 1000, 1024**3, 3_600_000]),
        "metric": st.sampled_from(["requests", "response.bytes", "integration.ms", "response.ms"]),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(meter=metered, calls=st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=20))
def test_sums_are_exact(meter: dict[str, Any], calls: list[tuple[int, int, int]], tmp_path: Path) -> None:
    table = PlanTable(**{**TABLE.__dict__, "cells": (cell("/sold", "calls", status=EVERY, **meter),)})
    members = {"response.bytes": 0, "integration.ms": 1, "response.ms": 2}
    expected: defaultdict[int, Fraction] = defaultdict(Fraction)
    lines = []
    for number, values in enumerate(calls):
        base = values[members[meter["metric"]]] if meter["metric"] in members else 1
        rounded = (base + meter["round_up"] - 1) // meter["round_up"] * meter["round_up"]
        expected[number] = Fraction(rounded) * Fraction(meter["multiply"]) / meter["base_units"]
        size, backend, whole = map(str, values)
        lines.append(line(number, responseLength=size, integrationLatency=backend, responseLatency=whole))
    assert {one.line: one.quantity for one in simulate_lines(table, lines)} == expected
    (total,) = simulate_log(table, [written(tmp_path / "log", lines)]).totals
    assert total.quantity == sum(expected.values())


def test_the_example_routes_are_read_from_a_log(tmp_path: Path) -> None:
    lines = [line(n, httpMethod=route.method, resourcePath=route.path) for n, route in enumerate(IMAGES_ROUTES)]
    with AccessLog([written(tmp_path / "log", lines)]) as log:
        assert log.routes(at_most=100) == tuple((route.method, route.path) for route in sorted(IMAGES_ROUTES))
        with pytest.raises(MarketplaceConstructsError, match="MP-SIM-01"):
            log.routes(at_most=3)
