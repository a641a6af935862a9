"""Conditions as sets: each key has whole-number values, so a condition is a set of them per key.

Two conditions are then disjoint exactly if their sets are, on one key at least, and what is left for the next statement
in rank is a difference of sets. A key that a condition does not name admits every value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from marketplace_constructs.domain.plan_table import EVERY, NO_LIMIT, Interval
from marketplace_constructs.policy.documents import LineCondition

Ranges = tuple[Interval, ...]
"""Sorted intervals that do not touch."""
Region = tuple[Ranges, Ranges, Ranges, Ranges]
"""The sets of status, response bytes, integration latency and time, in this order."""

EVERYWHERE: Final[Region] = ((EVERY,), (EVERY,), (EVERY,), (EVERY,))
_STATUS, _BYTES, _LATENCY, _TIME = range(4)
_AXES: Final = {
    "response:Status": _STATUS,
    "response:StatusClass": _STATUS,
    "response:Bytes": _BYTES,
    "integration:LatencyMs": _LATENCY,
    "request:Time": _TIME,
}
SUCCESS: Final[Ranges] = ((200, 300),)
"""What a Meter without a status key means by itself."""
SERVER_ERRORS: Final[Ranges] = ((429, 430), (500, 600))
"""Billed only where the policy says so."""


def meter_region(condition: LineCondition | None, *, bills_server_errors: bool) -> Region:
    """The lines that a Meter counts."""
    region = list(condition_region(condition))
    if not names_status(condition):
        region[_STATUS] = _both(region[_STATUS], SUCCESS)
    if not bills_server_errors:
        region[_STATUS] = _both(region[_STATUS], _others(SERVER_ERRORS))
    return (region[0], region[1], region[2], region[3])


def condition_region(condition: LineCondition | None) -> Region:
    """The lines for which a condition holds, its deploy keys left aside."""
    region = list(EVERYWHERE)
    for operator, keys in () if condition is None else condition:
        for key, values in (keys or {}).items():
            if key in _AXES:
                axis = _AXES[key]
                region[axis] = _both(region[axis], _union(_admitted(operator, value) for value in values))
    return (region[0], region[1], region[2], region[3])


def names_status(condition: LineCondition | None) -> bool:
    """Whether a condition says itself which statuses it means."""
    return any(key.startswith("response:Status") for key in condition_keys(condition))


def condition_keys(condition: object) -> frozenset[str]:
    """The distinct keys of a condition."""
    return frozenset(key for _, keys in condition or () for key in keys or {})  # type: ignore[attr-defined]


def is_empty(region: Region) -> bool:
    """Whether no line can lie in it."""
    return not all(region)


def intersection(one: Region, other: Region) -> Region:
    """The lines that lie in both."""
    return (_both(one[0], other[0]), _both(one[1], other[1]), _both(one[2], other[2]), _both(one[3], other[3]))


def difference(region: Region, taken: Region) -> Iterator[Region]:
    """What is left of a region, in pieces that do not overlap."""
    rest = list(region)
    for axis in range(4):
        outside = _both(rest[axis], _others(taken[axis]))
        if outside and all(rest):
            piece = [*rest]
            piece[axis] = outside
            yield (piece[0], piece[1], piece[2], piece[3])
        rest[axis] = _both(rest[axis], taken[axis])


def boxes(region: Region) -> Iterator[tuple[Interval, Interval, Interval, Interval]]:
    """The region as one interval per key, as often as it takes."""
    for status in region[0]:
        for size in region[1]:
            for latency in region[2]:
                for time in region[3]:
                    yield status, size, latency, time


def _admitted(operator: str, value: str | Decimal | datetime) -> Ranges:
    """The values of a key that one operator admits for one value."""
    if isinstance(value, str):  # of response:StatusClass
        return ((int(value) * 100, int(value) * 100 + 100),)
    number = Decimal(int(value.timestamp()) * 1000) if isinstance(value, datetime) else value
    up, down = math.ceil(number), math.floor(number)
    admitted = {
        "numeric_equals": (up, down + 1),
        "numeric_less_than": (0, up),
        "numeric_less_than_equals": (0, down + 1),
        "numeric_greater_than": (down + 1, NO_LIMIT),
        "numeric_greater_than_equals": (up, NO_LIMIT),
        "date_greater_than_equals": (up, NO_LIMIT),
        "date_less_than": (0, up),
    }[operator]
    start, end = max(admitted[0], 0), min(admitted[1], NO_LIMIT)
    return ((start, end),) if start < end else ()


def _union(several: Iterable[Ranges]) -> Ranges:
    merged: list[Interval] = []
    for start, end in sorted(interval for ranges in several for interval in ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _both(one: Sequence[Interval], other: Sequence[Interval]) -> Ranges:
    if other in (one, (EVERY,)):
        return tuple(one)
    if one == (EVERY,):
        return tuple(other)
    found = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            found.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def _others(ranges: Ranges) -> Ranges:
    found = []
    start = 0
    for low, high in ranges:
        if start < low:
            found.append((start, low))
        start = high
    if start < NO_LIMIT:
        found.append((start, NO_LIMIT))
    return tuple(found)
