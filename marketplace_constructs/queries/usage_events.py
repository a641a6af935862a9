"""What usage events count under the agreements' plans: how one is read, and the SQL text that judges them.

A usage event stands in the log as EventBridge writes it: an envelope, whose ``detail`` is a CloudEvent of version 1.0.
Its value is kept as two whole numbers, what stands before the point and what behind it, so that the text keeps to what
means the same on DuckDB and on Athena, and no sum is ever rounded. Weights come afterwards (``event_quantity``).

Four relations must be there under the names ``events``, ``lives``, ``plans`` and ``meters``, with the columns below.
"""

# ruff: noqa: S608 - made of this module's own constants

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from marketplace_constructs.domain.plan_table import EventMeter, PlanTable

DIGITS: Final = 15
"""Digits of a value before the point, at most: rounded up to whatever multiple a policy says, it fits a bigint."""
DECIMALS: Final = 12
"""Digits of a value behind the point, at most."""

EVENTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "source": "varchar",
        "event_id": "varchar",
        "time_ms": "bigint",
        "event": "varchar",
        "agreement": "varchar",
        "whole": "bigint",
        "fraction": "bigint",
        "place": "bigint",
    }
)
"""Columns of ``events``. ``time_ms`` is in milliseconds, UTC, rounded down; ``fraction`` in units of 10^-12; ``place``
says which of two copies came first, and no two have the same."""

EVENT_LIVES: Final[Mapping[str, str]] = MappingProxyType(
    {"named": "varchar", "owner": "varchar", "plan": "varchar", "life_from": "bigint", "life_to": "bigint"}
)
"""Columns of ``lives``: whose usage an event of an agreement is, in which half-open interval, and under which plan."""

PLANS: Final[Mapping[str, str]] = MappingProxyType({"plan": "varchar"})
"""Columns of ``plans``: those of which a table holds, by ``id@version``."""

METERS: Final[Mapping[str, str]] = MappingProxyType(
    {"meter": "bigint", "plan": "varchar", "event": "varchar", "round_up": "bigint"}
)
"""Columns of ``meters``: the Meters of events, numbered; ``round_up`` is 0 where a value counts as it is."""

_VALUE: Final = re.compile(rf"(0|[1-9][0-9]{{0,{DIGITS - 1}}})(?:\.([0-9]{{1,{DECIMALS}}}))?")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# What a CloudEvent's text may not hold. Source: CloudEvents 1.0.2, Type System, String (read 2026-11-28).
_TEXT: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"]*)"')


class Event(NamedTuple):
    """One usage event, by the columns of ``EVENTS`` but the last. Its source and id tell it from all others."""

    source: str
    event_id: str
    time_ms: int
    event: str
    agreement: str
    whole: int
    fraction: int


def read_event(text: bytes) -> Event | None:
    """One line's event; None where it cannot be read.

    That is so unless it is a JSON object whose ``detail`` has the ``specversion`` 1.0, a ``source``, an ``id``, a
    ``type``, a ``time`` of RFC 3339 from 1970 on, a ``subject``, and as ``data.value`` a text of at most 15 digits, and
    12 behind the point: no sign, no exponent, no zeros in front. A JSON number is refused, since whoever wrote it may
    have rounded it.

    Args:
        text: The line.

    Sources: CloudEvents 1.0.2, Context Attributes; EventBridge user guide, event structure (read 2026-11-28).
    """
    try:
        said: Any = json.loads(text)["detail"]
        value = _VALUE.fullmatch(said["data"]["value"])
        names = [said[name] for name in ("source", "id", "type", "subject")]
        if value is None or said["specversion"] != "1.0" or not (all(names) and _TEXT.fullmatch("".join(names))):
            return None
        source, event_id, event, agreement = names
        time_ms = _milliseconds(said["time"])
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    if time_ms is None:
        return None
    whole, fraction = value.groups(default="")
    return Event(source, event_id, time_ms, event, agreement, int(whole), int(fraction.ljust(DECIMALS, "0")))


def may_hold(text: bytes, ids: AbstractSet[int]) -> bool:
    """Whether lines may tell of an event with one of some ids: known in a tenth of the time that reading them takes.

    Args:
        text: Lines. An id stands in them as it is, unless they hold escapes, or zeros as UTF-16 and UTF-32 do.
        ids: By ``id_key``.
    """
    return b"\\" in text or b"\0" in text or not ids.isdisjoint(map(hash, _ID.findall(text)))


def id_key(event: Event) -> int:
    """What stands for an event's id where many are to be known, since the id may be long."""
    return hash(event.event_id.encode())


def _milliseconds(text: str) -> int | None:
    if not _TIME.fullmatch(text):
        return None
    time_ms = (datetime.fromisoformat(text.upper()) - _EPOCH) // timedelta(milliseconds=1)
    return time_ms if time_ms >= 0 else None


def first_events(relation: str) -> str:
    """The text that keeps one of several copies with one source and id: that which came first, whatever each tells.

    Args:
        relation: Holds the columns of EVENTS.
    """
    columns = ", ".join(EVENTS)
    return f"""
SELECT {columns}
FROM (
  SELECT {columns}, ROW_NUMBER() OVER (PARTITION BY source, event_id ORDER BY place) AS copy
  FROM {relation}
) AS numbered
WHERE copy = 1
"""


def event_usage_query(by: Sequence[str] = ()) -> str:
    """The text that judges ``events``, each once; its two parameters (``?``) are the hour's milliseconds, half-open.

    Args:
        by: Names out of EVENTS by which usage is told apart besides.

    Returns:
        A query with the columns ``by``; ``agreement``, whose usage it is, or which the event names where it is
        nobody's; ``state``; ``meter``, the number of one; how many events; the milliseconds of the first; the sums of
        ``whole`` and ``fraction``. A state is ``billable``, or
        one without a meter: ``unmetered`` (no Meter of the plan counts the event), ``unplanned`` (its agreement has no
        plan then, or one without a table), ``outside`` (its agreement had not begun, or was over), ``unattributed``
        (there is no such agreement).
    """
    of_events = "".join(f"e.{name} AS by_{name}, " for name in by)
    of_placed = "".join(f"p.by_{name}, " for name in by)
    keys = "".join(f"by_{name}, " for name in by)
    names = "".join(f"by_{name} AS {name}, " for name in by)
    return f"""
WITH placed AS (
  SELECT {of_events}e.time_ms, e.event, e.agreement, e.whole, e.fraction, v.owner, k.named, p.plan,
    CASE WHEN e.fraction > 0 THEN e.whole + 1 ELSE e.whole END AS rounded
  FROM ({first_events("events")}) AS e
  LEFT JOIN lives AS v ON v.named = e.agreement AND e.time_ms >= v.life_from AND e.time_ms < v.life_to
  LEFT JOIN (SELECT named FROM lives GROUP BY named) AS k ON k.named = e.agreement
  LEFT JOIN plans AS p ON p.plan = v.plan
  WHERE e.time_ms >= ? AND e.time_ms < ?
), judged AS (
  SELECT {of_placed}COALESCE(p.owner, p.agreement) AS agreement, p.time_ms, m.meter,
    CASE
      WHEN p.owner IS NULL AND p.named IS NULL THEN 'unattributed'
      WHEN p.owner IS NULL THEN 'outside'
      WHEN p.plan IS NULL THEN 'unplanned'
      WHEN m.meter IS NULL THEN 'unmetered'
      ELSE 'billable'
    END AS state,
    CASE
      WHEN m.round_up > 0 THEN p.rounded + (m.round_up - p.rounded % m.round_up) % m.round_up
      ELSE p.whole
    END AS whole,
    CASE WHEN m.round_up > 0 THEN 0 ELSE p.fraction END AS fraction
  FROM placed AS p
  LEFT JOIN meters AS m ON m.plan = p.plan AND m.event = p.event
)
SELECT {names}agreement, state, meter, COUNT(*) AS event_count, MIN(time_ms) AS first_ms,
  SUM(CAST(whole AS DECIMAL(38, 0))) AS whole_sum, SUM(CAST(fraction AS DECIMAL(38, 0))) AS fraction_sum
FROM judged
GROUP BY {keys}agreement, state, meter
"""


def event_meters(tables: Mapping[str, PlanTable]) -> list[tuple[str, EventMeter]]:
    """The Meters of events of each table, with the plan's ``id@version``; a Meter's number is its place."""
    return [(plan, meter) for plan, table in tables.items() for meter in table.events]


def meter_rows(meters: Sequence[tuple[str, EventMeter]]) -> Iterable[dict[str, object]]:
    """The rows of ``meters``."""
    for number, (plan, meter) in enumerate(meters):
        yield dict(zip(METERS, (number, plan, meter.event, meter.round_up), strict=True))


def event_quantity(whole_sum: int, fraction_sum: int, *, multiply: Decimal) -> Fraction:
    """The exact quantity of a sum of values, each already rounded up as its Meter says."""
    return (whole_sum + Fraction(fraction_sum, 10**DECIMALS)) * Fraction(multiply)
