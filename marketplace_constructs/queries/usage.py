"""What lines of the access log count under a plan: one SQL text for meter, simulation and reports.

It keeps to what means the same on DuckDB and on Athena, and computes whole numbers only: how many lines, and the sum of
their base values, each rounded up as its Meter says. Weights, units and flooring come afterwards, in rational
arithmetic (``quantity_of``).

Three relations must be there under the names ``lines``, ``routes`` and ``cells``, with the columns below. How the files
of a log become ``lines`` is the engine's own business: absent texts (missing, empty or ``-``) are NULL, absent
numbers are 0, and a line that cannot be read has NULL as its ``extended_request_id``. ``lines`` holds each line once:
``first_lines`` sees to that where it is not yet so.
"""

# ruff: noqa: S608 - made of this module's own constants

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Final

from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.queries.access_log import REFUSED_BY_GATEWAY

LINES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "extended_request_id": "varchar",
        "request_time_ms": "bigint",
        "method": "varchar",
        "path": "varchar",
        "status": "bigint",
        "error_type": "varchar",
        "response_bytes": "bigint",
        "response_ms": "bigint",
        "integration_ms": "bigint",
        "agreement": "varchar",
        "plan": "varchar",
    }
)
"""Columns of ``lines``; ``line``, a bigint of the caller's own, may stand beside them."""

MEMBERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "extended_request_id": "extendedRequestId",
        "request_time_ms": "requestTimeEpoch",
        "method": "httpMethod",
        "path": "resourcePath",
        "status": "status",
        "error_type": "errorResponseType",
        "response_bytes": "responseLength",
        "response_ms": "responseLatency",
        "integration_ms": "integrationLatency",
        "agreement": "agreement",
        "plan": "plan",
    }
)
"""The member of a log line from which each column comes."""

ROUTES: Final[Mapping[str, str]] = MappingProxyType(
    {"route": "bigint", "method": "varchar", "path": "varchar", "is_allowed": "boolean"}
)
"""Columns of ``routes``: the routes of a table, numbered."""

CELLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cell": "bigint",
        "route": "bigint",
        "dimension": "varchar",
        "state": "varchar",
        "policy": "varchar",
        "sid": "varchar",
        "metric": "varchar",
        "round_up": "bigint",
        "multiply": "varchar",
        "base_units": "bigint",
        "status_from": "bigint",
        "status_to": "bigint",
        "bytes_from": "bigint",
        "bytes_to": "bigint",
        "integration_from": "bigint",
        "integration_to": "bigint",
        "time_from": "bigint",
        "time_to": "bigint",
    }
)
"""Columns of ``cells``: the cells of a table, numbered, each with the number of its route."""

KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "agreement": "l.agreement",
        "hour": "l.request_time_ms - l.request_time_ms % 3600000",
        "path": "l.path",
        "line": "l.line",
    }
)
"""What usage can be told apart by: the agreement, the hour's first millisecond (UTC), the route's path, the line."""

COUNTED: Final = (
    "dimension",
    "state",
    "policy",
    "sid",
    "metric",
    "round_up",
    "multiply",
    "base_units",
)
"""What ``usage_query`` gives after the keys; then come ``line_count`` and ``base_sum``."""

SKIPPED: Final = "skipped"
"""State of a line of another plan, or of none."""
UNPARSABLE: Final = "unparsable"
"""State of a line that cannot be read."""

MAX_DIGITS: Final = 18
"""A number of a line has at most as many: any such number, and a sum of two, fits into a bigint."""


def usage_query(by: Sequence[str] = ("agreement", "hour")) -> str:
    """The text that judges ``lines``; its one parameter (``?``) is the plan's id, without version.

    Args:
        by: Names out of KEYS.

    Returns:
        A query with the columns ``by``, COUNTED, ``line_count`` and ``base_sum`` (a whole number, 0 unless billable).
        Of states that belong to no dimension, the columns of the cell are NULL.
    """
    keys = "".join(f"{KEYS[name]} AS {name}, " for name in by)
    names = "".join(f"{name}, " for name in by)
    of_placed = "".join(f"p.{name}, " for name in by)
    of_counted = "".join(f"n.{name}, " for name in by)
    cell_columns = ", ".join(f"c.{name}" for name in COUNTED if name != "state")
    refused = ", ".join(f"'{name}'" for name in sorted(REFUSED_BY_GATEWAY))
    return f"""
WITH placed AS (
  SELECT {keys}l.status, l.response_bytes, l.response_ms, l.integration_ms, l.request_time_ms, r.route,
    CASE
      WHEN l.extended_request_id IS NULL THEN '{UNPARSABLE}'
      WHEN l.plan IS NULL OR split_part(l.plan, '@', 1) <> ? THEN '{SKIPPED}'
      WHEN l.error_type IN ({refused}) THEN 'refused'
      WHEN l.agreement IS NULL THEN 'unattributed'
      WHEN r.route IS NULL THEN 'unmatched'
      WHEN NOT r.is_allowed THEN 'refused'
    END AS state
  FROM lines AS l
  LEFT JOIN routes AS r ON r.method = l.method AND r.path = l.path
), counted AS (
  SELECT {of_placed}p.state, c.cell, COUNT(*) AS line_count,
    SUM(CAST(
      CASE c.metric
        WHEN 'requests' THEN c.round_up
        WHEN 'response.bytes' THEN p.response_bytes + (c.round_up - p.response_bytes % c.round_up) % c.round_up
        WHEN 'integration.ms' THEN p.integration_ms + (c.round_up - p.integration_ms % c.round_up) % c.round_up
        WHEN 'response.ms' THEN p.response_ms + (c.round_up - p.response_ms % c.round_up) % c.round_up
        ELSE 0
      END AS DECIMAL(38, 0)
    )) AS base_sum
  FROM placed AS p
  LEFT JOIN cells AS c ON p.state IS NULL AND c.route = p.route
    AND p.status >= c.status_from AND p.status < c.status_to
    AND p.response_bytes >= c.bytes_from AND p.response_bytes < c.bytes_to
    AND p.integration_ms >= c.integration_from AND p.integration_ms < c.integration_to
    AND p.request_time_ms >= c.time_from AND p.request_time_ms < c.time_to
  GROUP BY {of_placed}p.state, c.cell
), named AS (
  SELECT {of_counted}COALESCE(n.state, c.state, 'unmetered') AS state, {cell_columns}, n.line_count, n.base_sum
  FROM counted AS n
  LEFT JOIN cells AS c ON c.cell = n.cell
)
SELECT {names}{", ".join(COUNTED)}, SUM(line_count) AS line_count, SUM(base_sum) AS base_sum
FROM named
GROUP BY {names}{", ".join(COUNTED)}
"""


def first_lines(relation: str, *, also: Sequence[str] = ()) -> str:
    """The text that keeps one of several lines with one ``extended_request_id``, unreadable ones left out.

    Deliveries repeat a line as it is; of copies that differ, which only a fault can make, the earliest stays, then
    the smallest, so that the order of files never matters.

    Args:
        relation: Holds the columns of LINES.
        also: Further columns of it.
    """
    columns = ", ".join((*LINES, *also))
    order = ", ".join(["request_time_ms", *(name for name in LINES if name != "request_time_ms"), *also])
    return f"""
SELECT {columns}
FROM (
  SELECT {columns}, ROW_NUMBER() OVER (PARTITION BY extended_request_id ORDER BY {order}) AS copy
  FROM {relation}
  WHERE extended_request_id IS NOT NULL
) AS numbered
WHERE copy = 1
"""


def route_rows(table: PlanTable) -> list[dict[str, object]]:
    """The rows of ``routes``."""
    return [
        {"route": number, "method": route.method, "path": route.path, "is_allowed": route.is_allowed}
        for number, route in enumerate(table.routes)
    ]


def cell_rows(table: PlanTable) -> list[dict[str, object]]:
    """The rows of ``cells``."""
    numbers = {(route.method, route.path): number for number, route in enumerate(table.routes)}
    return [
        dict(
            zip(
                CELLS,
                (
                    number, numbers[cell.method, cell.path], cell.dimension, cell.state.value, cell.policy, cell.sid,
                    cell.metric, cell.round_up, str(cell.multiply), cell.base_units,
                    *cell.status, *cell.response_bytes, *cell.integration_ms, *cell.time_ms,
                ),
                strict=True,
            )
        )
        for number, cell in enumerate(table.cells)
    ]  # fmt: skip


def quantity_of(base_sum: int, *, multiply: Decimal, base_units: int) -> Fraction:
    """The exact quantity of a sum of base values, in units of the dimension."""
    numerator, denominator = _weight(multiply, base_units)
    # Python does not look for common divisors of a whole number.
    return Fraction(base_sum * numerator) if denominator == 1 else Fraction(base_sum * numerator, denominator)


@cache
def _weight(multiply: Decimal, base_units: int) -> tuple[int, int]:
    """Of one base unit. There are few; each would be reduced to its lowest terms anew for every agreement."""
    return (Fraction(multiply) / base_units).as_integer_ratio()


def to_json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as text that both engines read: one JSON object per line."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)
