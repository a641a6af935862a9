"""What lines of the log cost under a plan, one row at a time and in fractions: the measure of what a diff may claim."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable
from marketplace_constructs.policy.evaluation import expand
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

MIDNIGHT: Final = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
YEAR: Final = 365 * 86_400_000


class Line(NamedTuple):
    route: str
    status: int
    response_bytes: int
    integration_ms: int
    response_ms: int
    time_ms: int


class Event(NamedTuple):
    name: str
    value: Fraction
    time_ms: int


Item = Line | Event
Cost = dict[str, tuple[Fraction, Fraction | None, Fraction | None]]
"""By dimension: the quantity, what it costs, and what it costs beyond what a contract includes."""


def random_items(routes: Sequence[Route], events: Sequence[str], *, seed: int, count: int) -> list[Item]:
    """Lines with the values at which conditions like to turn, and some between."""
    chance = random.Random(seed)
    statuses = (200, 200, 200, 201, 299, 302, 400, 403, 404, 429, 499, 500, 503)
    items: list[Item] = []
    for _ in range(count):
        route = chance.choice(routes)
        time = MIDNIGHT + chance.randrange(YEAR)
        items.append(
            Line(
                f"{route.method} {route.path}",
                chance.choice(statuses),
                chance.choice((0, 1, 999, 1000, 1001, chance.randrange(10**7))),
                chance.choice((0, 1, 99, 100, 101, chance.randrange(30_000))),
                chance.choice((1, 100, chance.randrange(30_000))),
                time,
            )
        )
        if events and chance.random() < 0.1:
            items.append(Event(chance.choice(events), Fraction(chance.randrange(1, 10**6), 1000), time))
    return items


class Bill:
    """One plan's costs."""

    def __init__(self, pool: Pool, reference: str, routes: Sequence[Route]) -> None:
        self.plan = pool.plans[reference].document
        self.lists = pool.price_lists.get(self.plan.price_list, ())
        self.table: PlanTable = expand(pool, self.plan, routes).table
        self.cells: dict[str, list[Cell]] = {}
        for cell in self.table.cells:
            self.cells.setdefault(f"{cell.method} {cell.path}", []).append(cell)
        self.allowed = {f"{method} {path}" for method, path in self.table.allowed}

    def price(self, dimension: str, time_ms: int) -> Fraction | None:
        in_force: Mapping[str, Decimal] = {}
        for entry in self.lists:
            if entry.document.effective_from.timestamp() * 1000 <= time_ms:
                in_force = entry.document.prices
        return Fraction(in_force[dimension]) if dimension in in_force else None

    def beyond(self, dimension: str, time_ms: int) -> Fraction | None:
        for allowance in self.plan.allowances:
            if allowance.dimension == dimension:
                then = allowance.then.report_as
                return self.price(then, time_ms) if then else Fraction(0)
        return self.price(dimension, time_ms)

    def cost(self, item: Item) -> Cost:
        found: Cost = {}
        for dimension, quantity in self._quantities(item):
            prices = (self.price(dimension, item.time_ms), self.beyond(dimension, item.time_ms))
            usd = [None if price is None else quantity * price for price in prices]
            found[dimension] = (quantity, usd[0], usd[1])
        return found

    def _quantities(self, item: Item) -> Iterator[tuple[str, Fraction]]:
        if isinstance(item, Event):
            for meter in self.table.events:
                if meter.event == item.name:
                    value = _up(item.value, meter.round_up) if meter.round_up else item.value
                    yield meter.dimension, value * Fraction(meter.multiply)
            return
        for cell in self.cells.get(item.route, ()) if item.route in self.allowed else ():
            if cell.state is LineState.BILLABLE and _is_in(cell, item):
                base = {
                    "requests": 1,
                    "response.bytes": item.response_bytes,
                    "integration.ms": item.integration_ms,
                    "response.ms": item.response_ms,
                }[cell.metric]
                yield cell.dimension, _up(Fraction(base), cell.round_up) * Fraction(cell.multiply) / cell.base_units


def _is_in(cell: Cell, line: Line) -> bool:
    values = (
        (line.status, cell.status),
        (line.response_bytes, cell.response_bytes),
        (line.integration_ms, cell.integration_ms),
        (line.time_ms, cell.time_ms),
    )
    return all(start <= value < end for value, (start, end) in values)


def _up(value: Fraction, step: int) -> Fraction:
    return Fraction(-(-value // step) * step)
