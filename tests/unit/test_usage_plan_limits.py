"""Limits that API Gateway would refuse, or silently drop, are refused before it sees them."""

from __future__ import annotations

import pytest

from marketplace_constructs.domain.usage_plan import Period, Quota, Throttle, limits_problems

GOOD = Throttle(rate_limit=10, burst_limit=20)
TOKEN = -1.8881545897087626e289  # how a number token looks to Python


def codes(throttle: Throttle | None = None, quota: Quota | None = None, **routes: Throttle) -> list[str]:
    return [problem.code for problem in limits_problems(throttle, quota, routes)]


def test_limits_in_range_pass() -> None:
    assert codes(GOOD, Quota(limit=1, period=Period.DAY), **{"GET /v1/nouns/{id}": GOOD}) == []
    assert codes(Throttle(rate_limit=0.5, burst_limit=1)) == []


@pytest.mark.parametrize("rate", [0, -5, 10_000_001, TOKEN, True, "10", None])
def test_fails_when_the_rate_is_out_of_range(rate: float) -> None:
    assert codes(Throttle(rate_limit=rate, burst_limit=1)) == ["MP-PLAN-01"]


@pytest.mark.parametrize("burst", [0, -1, 1.5, 2**31, TOKEN, True])
def test_fails_when_the_burst_is_out_of_range(burst: int) -> None:
    assert codes(Throttle(rate_limit=1, burst_limit=burst)) == ["MP-PLAN-02"]


@pytest.mark.parametrize("limit", [0, -1, 1.5, 2**31, TOKEN, True])
def test_fails_when_the_quota_is_out_of_range(limit: int) -> None:
    assert codes(quota=Quota(limit=limit, period=Period.MONTH)) == ["MP-PLAN-03"]


def test_fails_when_the_period_is_none_of_awss() -> None:
    assert codes(quota=Quota(limit=1, period="YEAR")) == ["MP-PLAN-04"]  # type: ignore[arg-type]


@pytest.mark.parametrize("route", ["/v1/nouns", "GET v1", "get /v1", "GET  /v1", "GET /a b", "FETCH /v1"])
def test_fails_when_a_route_is_not_method_and_path(route: str) -> None:
    assert codes(**{route: GOOD}) == ["MP-PLAN-05"]


def test_fails_when_there_are_more_method_throttles_than_a_stage_takes() -> None:
    assert codes(**{f"GET /v1/{number}": GOOD for number in range(20)}) == []
    assert codes(**{f"GET /v1/{number}": GOOD for number in range(21)}) == ["MP-PLAN-06"]
