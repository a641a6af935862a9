"""The product and a second reading of its rules, line by line; ``campaign.py`` does the same ten thousand times."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random

import pytest
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from independent import Declared, Judgement, can_order_matter, floored
from language_campaign import Judged, Lines, compared, errors_of, expansion_of, files_of, run
from pools import ALLOW_ALL, meter, plan, policy, product
from random_pools import (
    BYTE_UNITS,
    EVENTS,
    NUMBERS,
    NUMERIC,
    PLAN,
    START,
    TIME_UNITS,
    World,
    random_condition,
    random_log,
    random_world,
    shapes,
)

from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.policy.access_logs import Usage, log_of
from marketplace_constructs.policy.simulation import (
    Request,
    decimal_text,
    simulate_lines,
    simulate_log,
    simulate_request,
)

LINES = 200
"""Of each log."""
DEPLOY = ("plan:Segment", "plan:Id", "api:Stage")
any_random = st.randoms(use_true_random=False)
any_seed = st.integers(0, 2**32 - 1)


def bounded(examples: int) -> settings:
    """So many worlds; each takes as long as its log does, so time tells nothing about one of them."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def test_every_line_comes_to_what_the_rules_say_in_whatever_order() -> None:
    said: list[str] = []
    counts = run(range(1, 2_000), policies=200, lines=LINES, report=said.append)
    assert not said
    assert counts["accepted"] == 200


def judged_by_simulation(table: PlanTable, lines: Lines) -> Judged:
    """What a simulation of these lines says: their log is read as for tables that are not known yet."""
    judged: Judged = {}
    for one in simulate_lines(table, lines):
        of_line = judged.setdefault(lines[one.line]["extendedRequestId"], [])
        if one.state != "skipped":
            of_line.append(Judgement(one.dimension or "", one.state, one.policy or "", one.sid or "", one.quantity))
    return judged


@bounded(40)
@given(random=any_random, seed=any_seed)
def test_a_simulation_of_single_lines_says_the_same(random: Random, seed: int) -> None:
    world = random_world(random)
    outcome = compared(world, random_log(Random(seed), world, LINES), Random(seed), judged_by_simulation)
    note("\n".join(outcome.found[:5]))
    assert not outcome.found


@bounded(60)
@given(random=any_random, seed=any_seed)
def test_a_simulation_of_one_request_says_the_same(random: Random, seed: int) -> None:
    world = random_world(random)
    evaluator = world.evaluator()
    assume(not evaluator.tie())
    expansion = expansion_of(world)
    for line in random_log(Random(seed), world, 30):
        expected = {one.dimension: one for one in evaluator.judge(line)}
        if expected.keys() & {""} or not expected:
            continue
        number = {name: int(line[name].replace("-", "0")) for name in line if name in REQUEST.values()}
        request = Request(
            method=line["httpMethod"],
            path=line["resourcePath"],
            time=datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(line["requestTimeEpoch"])),
            **{argument: number[name] for argument, name in REQUEST.items()},
        )
        decision = simulate_request(expansion, request)
        assert decision.is_allowed
        for verdict in decision.verdicts:
            one = expected.get(verdict.dimension, Judgement(verdict.dimension, "unmetered"))
            said = (verdict.state, verdict.policy or "", verdict.sid or "", verdict.quantity)
            assert said == one[1:]


REQUEST = {
    "status": "status",
    "response_bytes": "responseLength",
    "integration_ms": "integrationLatency",
    "response_ms": "responseLatency",
}
"""A request's numbers, and the log line's."""


def two_meters(random: Random) -> World:
    """Two Meters of equal patterns on one route: only their conditions can keep them apart."""
    policies = [
        policy(
            [ALLOW_ALL, meter(f"Meter{name}", resource="/a", **random_condition(random, 0.95))],
            Id=name,
            BillServerErrors=random.random() < 0.5,
        )
        for name in ("one", "other")
    ]
    attached = plan(Policies=["one@1", "other@1"])
    return World(documents=(product(), attached, *policies), routes=(Declared("GET", "/a"),))


@bounded(300)
@given(random=any_random, seed=any_seed)
def test_a_pool_is_refused_exactly_where_order_could_decide(random: Random, seed: int) -> None:
    world = two_meters(random)
    is_tie = can_order_matter(world.documents, PLAN, world.routes)
    assert bool(expansion_of(world).ties) == is_tie
    assert ("MON105" in errors_of(world)) == is_tie
    # Where it could not, no line meets two winners: the second reading would not judge such a line.
    if not is_tie:
        world.evaluator().judge_all(random_log(Random(seed), world, LINES))


IMPLICIT = {"StringEquals": {"plan:Id": "retail"}}
"""As many keys as the others have, and only success."""


@pytest.mark.parametrize(
    ("one", "other", "is_tie"),
    [
        (IMPLICIT, IMPLICIT, True),
        (IMPLICIT, {"StringEquals": {"response:StatusClass": ["4"]}}, False),
        (IMPLICIT, {"NumericGreaterThan": {"response:Status": 298}}, True),
        ({"NumericEquals": {"response:Status": 404}}, {"StringEquals": {"response:StatusClass": "4"}}, True),
        ({"NumericEquals": {"response:Status": 404}}, {"StringEquals": {"response:StatusClass": "2"}}, False),
        ({"NumericEquals": {"response:Status": 500}}, {"StringEquals": {"response:StatusClass": "5"}}, False),
        ({"NumericEquals": {"response:Status": 429}}, {"NumericEquals": {"response:Status": 429}}, False),
        ({"NumericLessThan": {"response:Bytes": 10}}, {"NumericGreaterThanEquals": {"response:Bytes": 10}}, False),
        ({"NumericLessThanEquals": {"response:Bytes": 10}}, {"NumericGreaterThanEquals": {"response:Bytes": 10}}, True),
        ({"NumericLessThan": {"response:Bytes": 10.5}}, {"NumericGreaterThan": {"response:Bytes": 9.5}}, True),
        ({"NumericLessThan": {"response:Bytes": 10.5}}, {"NumericGreaterThan": {"response:Bytes": 10}}, False),
        ({"NumericEquals": {"response:Bytes": [1, 2]}}, {"NumericEquals": {"response:Bytes": [2, 3]}}, True),
        ({"NumericLessThan": {"response:Bytes": 5}}, {"NumericLessThan": {"integration:LatencyMs": 5}}, True),
        (
            {"DateLessThan": {"request:Time": "2026-12-01T00:00:00Z"}},
            {"DateGreaterThanEquals": {"request:Time": "2026-12-01T00:00:00Z"}},
            False,
        ),
    ],
)
def test_equal_rank_is_a_tie_unless_one_key_keeps_the_two_apart(
    one: dict[str, object], other: dict[str, object], *, is_tie: bool
) -> None:
    statements = [ALLOW_ALL, meter("One", Condition=one), meter("Other", Condition=other)]
    world = World(documents=(product(), plan(), policy(statements)), routes=(Declared("GET", "/a"),))
    assert can_order_matter(world.documents, PLAN, world.routes) == is_tie
    assert bool(expansion_of(world).ties) == is_tie


@bounded(20)
@given(random=any_random, seed=any_seed)
def test_nothing_is_lost_or_rounded_on_the_way_to_a_sum(random: Random, seed: int) -> None:
    world = random_world(random)
    assume(not world.evaluator().tie())
    table = expansion_of(world).table
    log = random_log(Random(seed), world, LINES)
    expected: dict[tuple[str | int, ...], Fraction] = defaultdict(Fraction)
    once = {line["extendedRequestId"]: line for line in log}
    judged = world.evaluator().judge_all(log)
    for name, judgements in judged.items():
        hour = int(once[name]["requestTimeEpoch"]) // 3_600_000 * 3_600_000
        for one in judgements:
            if one.state == "billable":
                expected[once[name]["agreement"], hour, one.dimension, one.policy, one.sid] += one.quantity
    with files_of(log) as files:
        parts = simulate_log(table, files, by=("agreement", "hour")).totals
        whole = simulate_log(table, files)
    assert whole.skipped == sum(not judgements for judgements in judged.values())
    assert whole.duplicates == len(log) - len(judged)
    billed = [one for one in parts if one.state == "billable"]
    assert {(*one.keys, *named(one)): one.quantity for one in billed} == expected
    for total in whole.totals:
        same = [part for part in parts if named(part) == named(total) and part.state == total.state]
        assert sum(part.quantity for part in same) == total.quantity
        assert sum(part.lines for part in same) == total.lines
        # What is cut off once is less than what cutting off each part would lose.
        shown = Fraction(decimal_text(total.quantity))
        assert shown == floored(total.quantity) <= total.quantity < shown + Fraction(1, 10**9)
        assert sum(floored(part.quantity) for part in same) <= shown


def named(usage: Usage) -> tuple[str, str, str]:
    return usage.dimension or "", usage.policy or "", usage.sid or ""


def line(number: int, **members: str) -> dict[str, str]:
    """A call that succeeded."""
    return {
        "extendedRequestId": f"request-{number}=",
        "requestTimeEpoch": str(int(START.timestamp()) * 1_000),
        "httpMethod": "GET",
        "resourcePath": "/a",
        "status": "200",
        "errorResponseType": "-",
        "responseLength": "-",
        "responseLatency": "-",
        "integrationLatency": "-",
        "agreement": "agr-a",
        "plan": PLAN,
    } | members


def test_quantities_are_exact_where_binary_numbers_are_not() -> None:
    meters = [
        meter("Tenth", multiply=0.1),
        meter("Third", dimension="compute_sec", metric="integration.ms", unit="min", multiply=0.0001),
        meter("Large", dimension="egress_gb", metric="response.bytes", unit="TiB", round_up=7, multiply=9999.9999),
    ]
    world = World(documents=(product(), plan(), policy([ALLOW_ALL, *meters])), routes=(Declared("GET", "/a"),))
    size = 999_999_999_999_999_999
    log = [line(number, integrationLatency="1", responseLength=str(size)) for number in range(3)]
    with log_of(log) as kept:
        usage = {one.dimension: one.quantity for one in kept.usage(expansion_of(world).table)}
    assert usage == {
        "calls": Fraction(3, 10),
        "compute_sec": Fraction(3, 10_000 * 60_000),
        "egress_gb": 3 * (size + -size % 7) * Fraction(99_999_999, 10_000) / 2**40,
    }
    assert decimal_text(usage["compute_sec"]) == "0.000000005"
    judged = world.evaluator().judge_all(log)
    assert {one.dimension for one in judged["request-0="]} == usage.keys()
    for dimension, quantity in usage.items():
        each = [one.quantity for found in judged.values() for one in found if one.dimension == dimension]
        assert sum(each) == quantity


def test_the_worlds_have_everything_that_the_language_can_say() -> None:
    seen: Counter[str] = Counter()
    accepted = 0
    for seed in range(300):
        random = Random(seed)
        world = random_world(random)
        if world.evaluator().tie():
            continue
        accepted += 1
        seen.update(shapes(world))
        log = random_log(random, world, 50)
        judged = world.evaluator().judge_all(log)
        seen["double"] += len(log) > len(judged)
        seen.update({one.state for found in judged.values() for one in found})
        seen["skipped"] += [] in judged.values()
        seen.update({f"absent {name}" for entry in log for name in entry if entry[name] == "-"})
        seen.update({f"class {entry['status'][0]}" for entry in log if len(entry["status"]) == 3})
    wanted = {
        *("Allow", "Deny", "Limit", "Meter", "Exempt *", "Exempt one", "Exempt list", "guardrail"),
        *(f"pattern {kind}" for kind in ("literal", "{name}", "*", "**", "{proxy+}")),
        *("patterns 2", "methods 2", "values 2", "route ANY", "route preflight", "plan Parameters", "plan Throttle"),
        *(f"{effect} StringEquals {key}" for effect in ("Allow", "Deny", "Meter", "Exempt", "Limit") for key in DEPLOY),
        *(f"{effect} {by} {key}" for effect in ("Meter", "Exempt") for by in NUMERIC for key in NUMBERS),
        *(f"{effect} StringEquals response:StatusClass" for effect in ("Meter", "Exempt")),
        *(
            f"{effect} Date{by} request:Time"
            for effect in ("Meter", "Exempt")
            for by in ("GreaterThanEquals", "LessThan")
        ),
        *(f"Metric {metric}" for metric in ("requests", "response.bytes", "integration.ms", "response.ms")),
        *(f"Metric event:{name}" for name in EVENTS),
        *(f"Unit {unit}" for unit in (*BYTE_UNITS, *TIME_UNITS)),
        *(f"Multiply {decimals}" for decimals in (*range(5), "parameter")),
        *("RoundUpPerRequest", "BillServerErrors True", "BillServerErrors False", "double", "skipped"),
        *("billable", "exempt", "failed", "unmetered", "refused", "unattributed", "unmatched"),
        *("absent status", "absent responseLength", "absent responseLatency", "absent integrationLatency"),
        *(f"class {digit}" for digit in "12345"),
    }
    assert not {name for name in wanted if not seen[name]}
    assert accepted > 200
