"""The limits of a usage plan, in API Gateway's words and ranges."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from marketplace_constructs.domain.errors import Problem

METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
MAX_METHOD_THROTTLES: Final = 20
"""Method throttles per stage in a plan, raisable.

Source: API Gateway developer guide, quotas for running a REST API (read 2026-11-21)."""

_ROUTE: Final = re.compile(rf"({'|'.join(METHODS)}|ANY) (/\S*)")


def is_number(value: object) -> bool:
    """Whether it is a real number and not a bool (which Python counts as one)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class Throttle:
    """How fast calls may come.

    Args:
        rate_limit: Steady calls per second, > 0, at most 10,000,000.
        burst_limit: Size of the token bucket, an integer >= 1.
    """

    rate_limit: float
    burst_limit: int

    def problems(self, name: str) -> Iterator[Problem]:
        """What is out of range; ``name`` is what the caller calls this throttle."""
        if not is_number(self.rate_limit) or not 0 < self.rate_limit <= 10_000_000:
            yield Problem(
                "MP-PLAN-01",
                f"{name}.rate_limit, got {self.rate_limit!r}; expected a number above 0 and at most 10,000,000 "
                "calls per second, known at synthesis; leave the throttle out for the account's own limit",
            )
        if (
            not isinstance(self.burst_limit, int)
            or not is_number(self.burst_limit)
            or not 1 <= self.burst_limit < 2**31
        ):
            yield Problem(
                "MP-PLAN-02",
                f"{name}.burst_limit, got {self.burst_limit!r}; expected an integer of 1 to 2,147,483,647 calls, "
                "known at synthesis; leave the throttle out for the account's own limit",
            )


class Period(StrEnum):
    """Source: API Gateway API reference, QuotaSettings (read 2026-11-21)."""

    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """How many calls fit into a period. AWS counts best-effort: it is no means of access control.

    Args:
        limit: Calls per period, an integer >= 1.
        period: Day, week or month.
    """

    limit: int
    period: Period

    def problems(self, name: str) -> Iterator[Problem]:
        """What is out of range; ``name`` is what the caller calls this quota."""
        if not isinstance(self.limit, int) or not is_number(self.limit) or not 1 <= self.limit < 2**31:
            yield Problem(
                "MP-PLAN-03",
                f"{name}.limit, got {self.limit!r}; expected an integer of 1 to 2,147,483,647 calls per period, "
                "known at synthesis; leave the quota out for an unlimited plan",
            )
        if not isinstance(self.period, Period):
            yield Problem(
                "MP-PLAN-04",
                f"{name}.period, got {self.period!r}; expected one of {', '.join(Period)}; use Period.<NAME>",
            )


def route_problem(route: object, name: str) -> Problem | None:
    """What is wrong with a route such as ``GET /v1/nouns/{id}``; None where nothing is."""
    if isinstance(route, str) and _ROUTE.fullmatch(route):
        return None
    return Problem(
        "MP-PLAN-05",
        f"{name}, got {route!r}; expected a method, a space and a resource path, such as 'GET /v1/health'; "
        "write the path as the API declares it, with {names} for its variables",
    )


def limits_problems(
    throttle: Throttle | None, quota: Quota | None, method_throttles: Mapping[str, Throttle]
) -> Iterator[Problem]:
    """All that is wrong with the limits of one plan."""
    if throttle is not None:
        yield from throttle.problems("throttle")
    if quota is not None:
        yield from quota.problems("quota")
    for route, limit in method_throttles.items():
        problem = route_problem(route, "method_throttles route")
        if problem is not None:
            yield problem
        yield from limit.problems(f"method_throttles[{route!r}]")
    if len(method_throttles) > MAX_METHOD_THROTTLES:
        yield Problem(
            "MP-PLAN-06",
            f"method_throttles, got {len(method_throttles)}; expected at most {MAX_METHOD_THROTTLES} per stage; "
            "combine routes, or ask AWS to raise the quota and split the plan",
        )
