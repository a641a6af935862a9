"""A plan, worked out against the routes of the API: who may call what, and what each line of the log counts.

Policies are expanded into such a table when a stack is synthesized; the gate, the meter, the simulation and the reports
read nothing else. A table never changes: it is named by the digest of its content, and holds from an hour on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Self

SCHEMA_VERSION: Final = 1
NO_LIMIT: Final = 2**62
"""Above every status, byte count, latency and time."""

Interval = tuple[int, int]
"""From, up to but not including."""
EVERY: Final[Interval] = (0, NO_LIMIT)


class LineState(StrEnum):
    """What becomes of a line of the access log, for one dimension or as a whole."""

    BILLABLE = "billable"
    EXEMPT = "exempt"
    FAILED = "failed"
    """A Meter is on the route, but none of its conditions holds."""
    UNMETERED = "unmetered"
    """No Meter is on the route."""
    REFUSED = "refused"
    """The gateway refused it before the integration, or its plan does not allow the route."""
    UNATTRIBUTED = "unattributed"
    """Its key belongs to no agreement."""
    UNMATCHED = "unmatched"
    """The table does not know its route."""
    OUTSIDE = "outside"
    """It names an agreement which had not begun, or was over."""
    INCLUDED = "included"
    OVERAGE = "overage"
    TRIAL = "trial"
    LATE = "late"


@dataclass(frozen=True, kw_only=True)
class RouteAccess:
    """Whether a route may be called, and which statement says so.

    Args:
        method: One of API Gateway's; never ``ANY``.
        path: The template, as ``resourcePath`` in the log.
        is_allowed: False also where no statement speaks of the route.
        policy: ``id@version``; empty where no statement speaks of it.
        sid: The statement.
    """

    method: str
    path: str
    is_allowed: bool
    policy: str = ""
    sid: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What the lines of one route count for one dimension, while their values lie in the intervals.

    Cells of one route and dimension never overlap and leave nothing out, so each line meets exactly one of them.

    Args:
        state: Billable, exempt or failed.
        policy: ``id@version`` of the deciding statement; empty for failed.
        sid: The deciding statement; empty for failed.
        metric: What is counted; empty unless billable.
        round_up: Each line's base value is rounded up to a multiple of it; 1 leaves it.
        multiply: Weight of the rounded value, > 0, at most 4 decimals.
        base_units: Base units in one unit of the quantity, >= 1.
        status: HTTP status.
        response_bytes: ``responseLength``.
        integration_ms: ``integrationLatency``.
        time_ms: Milliseconds since 1970, UTC.
    """

    method: str
    path: str
    dimension: str
    state: LineState
    policy: str = ""
    sid: str = ""
    metric: str = ""
    round_up: int = 1
    multiply: Decimal = Decimal(1)
    base_units: int = 1
    status: Interval = EVERY
    response_bytes: Interval = EVERY
    integration_ms: Interval = EVERY
    time_ms: Interval = EVERY


@dataclass(frozen=True, kw_only=True)
class EventMeter:
    """What one usage event of the seller's backend counts for one dimension.

    Args:
        round_up: Each event's value is rounded up to a multiple of it; 0 leaves it, since a value need not be whole.
        multiply: Weight of the rounded value, > 0, at most 4 decimals.
    """

    event: str
    dimension: str
    policy: str
    sid: str
    round_up: int = 0
    multiply: Decimal = Decimal(1)


@dataclass(frozen=True, kw_only=True)
class PlanTable:
    """One plan's table.

    Args:
        plan: ``id@version``.
        product: The product document's id.
        segment: The consumers it is for.
        channel: ``Marketplace`` is metered; ``Direct`` and ``Internal`` are reported only.
        routes: Every route of the API but CORS preflights, sorted by path and method.
        cells: Sorted by path, method, dimension and intervals.
        events: Sorted by event and dimension.
    """

    plan: str
    product: str
    segment: str
    channel: str
    routes: tuple[RouteAccess, ...]
    cells: tuple[Cell, ...]
    events: tuple[EventMeter, ...] = ()

    @cached_property
    def allowed(self) -> frozenset[tuple[str, str]]:
        """The routes that may be called, as (method, path)."""
        return frozenset((route.method, route.path) for route in self.routes if route.is_allowed)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the table's text, hexadecimal: its name wherever it is kept."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()

    def to_text(self) -> str:
        """The table as canonical JSON: the same table always gives the same text."""
        return json.dumps(self._to_json(), sort_keys=True, separators=(",", ":"))

    def _to_json(self) -> dict[str, object]:
        return {
            "schema_version": SCHEMA_VERSION,
            "plan": self.plan,
            "product": self.product,
            "segment": self.segment,
            "channel": self.channel,
            "routes": [[r.method, r.path, r.is_allowed, r.policy, r.sid] for r in self.routes],
            "cells": [
                [
                    c.method, c.path, c.dimension, c.state.value, c.policy, c.sid, c.metric,
                    c.round_up, str(c.multiply.normalize()), c.base_units,
                    *c.status, *c.response_bytes, *c.integration_ms, *c.time_ms,
                ]
                for c in self.cells
            ],
            "events": [
                [e.event, e.dimension, e.policy, e.sid, e.round_up, str(e.multiply.normalize())] for e in self.events
            ],
        }  # fmt: skip

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what ``to_text`` wrote.

        Raises:
            ValueError: It is not a table of a schema that this version reads.
        """
        data: Mapping[str, Any] = json.loads(text)
        if data.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"plan table, got schema_version {data.get('schema_version')}; expected {SCHEMA_VERSION}")
        return cls(
            plan=data["plan"],
            product=data["product"],
            segment=data["segment"],
            channel=data["channel"],
            routes=tuple(
                RouteAccess(method=m, path=p, is_allowed=a, policy=policy, sid=sid)
                for m, p, a, policy, sid in data["routes"]
            ),
            cells=tuple(
                Cell(
                    method=c[0],
                    path=c[1],
                    dimension=c[2],
                    state=LineState(c[3]),
                    policy=c[4],
                    sid=c[5],
                    metric=c[6],
                    round_up=c[7],
                    multiply=Decimal(c[8]),
                    base_units=c[9],
                    status=(c[10], c[11]),
                    response_bytes=(c[12], c[13]),
                    integration_ms=(c[14], c[15]),
                    time_ms=(c[16], c[17]),
                )
                for c in data["cells"]
            ),
            events=tuple(
                EventMeter(event=e[0], dimension=e[1], policy=e[2], sid=e[3], round_up=e[4], multiply=Decimal(e[5]))
                for e in data["events"]
            ),
        )
