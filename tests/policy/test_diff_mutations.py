"""A good pool, changed in every place: nothing changes a bill in silence, and no charge rises unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from fractions import Fraction
from typing import Any, Final

import pytest
from bills import Bill, Item, Line, random_items
from examples import IMAGES_ROUTES, NOUNS_ROUTES, Documents, images, nouns, read

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.policy.comparison import Change, Comparison
from marketplace_constructs.policy.diff import Difference, diff
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

ALTERNATIVES: Final[dict[str, tuple[Any, ...]]] = {
    "Effect": ("Allow", "Deny", "Meter", "Exempt", "Limit"),
    "Action": ("*", "GET", "POST", ["GET", "DELETE"]),
    "Resource": ("/**", "/v1/**", "/v1/images", "/v1/images/{id}", "/v1/images/*", "/v1/images/{id}/render"),
    "Dimension": ("calls", "egress_gb", "compute_sec", "calls_overage", "*"),
    "Metric": ("requests", "response.bytes", "integration.ms", "response.ms"),
    "Unit": ("KB", "GB", "GiB", "s", "min"),
    "Multiply": (1, 2, 0.5),
    "RoundUpPerRequest": (1, 50, 100, 1000, 150),
    "Channel": ("Marketplace", "Direct", "Internal"),
    "Segment": ("retail", "partner", "internal", "third-party"),
    "PriceList": ("image-2026q4", "image-2026q4-partner", "zero", "missing"),
    "AssignTo": ("Default", {"Accounts": ["123456789012"]}, {"Offers": ["offer-other1"]}),
    "Period": ("Day", "Month", "Term", "DAY", "MONTH"),
    "Then": ({"Deny": True}, {"ReportAs": "calls_overage"}, {"ReportAs": "egress_gb"}),
    "EffectiveFrom": ("2026-01-01T00:00:00Z", "2027-03-01T00:00:00Z"),
    "Condition": (
        {"StringEquals": {"response:StatusClass": ["4"]}},
        {"StringEquals": {"plan:Segment": ["retail"]}},
        {"NumericLessThan": {"response:Bytes": 1000}},
        {"NumericGreaterThanEquals": {"integration:LatencyMs": 100}},
        {"DateGreaterThanEquals": {"request:Time": "2027-03-01T00:00:00Z"}},
    ),
}
ADDED: Final = {
    "Statement": ("Condition", "Multiply"),
    "Quantity": ("Multiply", "RoundUpPerRequest", "Unit"),
}


def mutants(documents: Documents) -> Iterator[tuple[str, Documents]]:
    """The pool with one thing changed, and what it is."""
    for name in documents:
        rest = {other: document for other, document in documents.items() if other != name}
        yield f"{name} removed", rest
        for label, document in _parts(documents[name], ()):
            yield f"{name} {label}", documents | {name: document}
        if name.startswith("policies/"):
            yield f"{name} bills errors", documents | {name: documents[name] | {"BillServerErrors": True}}
        if name.startswith("prices/"):
            later = deepcopy(documents[name]) | {"EffectiveFrom": "2027-03-01T00:00:00Z"}
            for dimension in documents[name]["Prices"]:
                prices = later["Prices"] | {dimension: "0.5"}
                yield f"{name} {dimension} later", documents | {"prices/later.json": later | {"Prices": prices}}


def _parts(document: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Any]]:
    """The document with one part of it changed, at every depth."""
    part = document
    for step in path:
        part = part[step]
    last = str(next((step for step in reversed(path) if isinstance(step, str)), ""))
    where = ".".join(map(str, path))
    changes = _members(last, part) if isinstance(part, dict) else _items(part) if isinstance(part, list) else ()
    for what, value in changes:
        yield f"{where} {what}", _with(document, path, value)
    for value in _others(last, part):
        if value != part:
            yield f"{where} = {value}", _with(document, path, value)
    if isinstance(part, dict | list):
        for step in part if isinstance(part, dict) else range(len(part)):
            yield from _parts(document, (*path, step))


def _with(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    changed = deepcopy(document)
    at = changed
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return changed


def _members(name: str, part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for member in part:
        yield f"without {member}", {other: value for other, value in part.items() if other != member}
    for member in ADDED.get(name, ()):
        for value in ALTERNATIVES[member] if member not in part else ():
            yield f"with {member} {value}", part | {member: value}


def _items(part: list[Any]) -> Iterator[tuple[str, Any]]:
    for index, item in enumerate(part):
        yield f"without {index}", part[:index] + part[index + 1 :]
        yield f"with {index} doubled", [*part, item]
        if isinstance(item, dict) and "Sid" in item:
            yield f"with {index} doubled by another name", [*part, item | {"Sid": f"{item['Sid']}Again"}]
        if index:
            yield f"with {index} swapped", [*part[: index - 1], item, part[index - 1], *part[index + 1 :]]


def _others(name: str, value: Any) -> Iterator[Any]:
    yield from ALTERNATIVES.get(name, ())
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value * 2, value + 1, value / 2, 0)
    elif isinstance(value, str):
        yield value + "x"
        if value.replace(".", "").isdigit():
            yield from (f"{float(value) * 2:.10f}", f"{float(value) / 2:.10f}", "0")


POOLS: Final[dict[str, tuple[Callable[[], Documents], tuple[Route, ...], tuple[str, ...]]]] = {
    "images": (images, IMAGES_ROUTES, ("image.storage.gb_hours",)),
    "nouns": (nouns, NOUNS_ROUTES, ()),
}
SHARES: Final = 8


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("name", POOLS)
def test_no_mutation_changes_a_bill_in_silence(name: str, share: int) -> None:
    make, routes, events = POOLS[name]
    good = make()
    old = read(good)
    items = random_items(routes, events, seed=share, count=150)
    costs = _Costs(old, routes, items)
    told = changed = 0
    for index, (label, documents) in enumerate(mutants(good)):
        if index % SHARES != share:
            continue
        new = read(documents)
        try:
            difference = diff(old, new, old_routes=routes, new_routes=routes)
        except MarketplaceConstructsError:
            told += 1
            continue
        changed += _check(label, difference, costs, _Costs(new, routes, items))
    assert told
    assert changed or name == "nouns"


class _Costs:
    """The bills of a pool's plans, each when it is asked for."""

    def __init__(self, pool: Pool, routes: Sequence[Route], items: Sequence[Item]) -> None:
        self.pool, self.routes, self.items = pool, routes, items
        self._known: dict[str, list[Any]] = {}

    def of(self, reference: str | None) -> list[Any]:
        if reference is None:
            return [{} for _ in self.items]
        if reference not in self._known:
            bill = Bill(self.pool, reference, self.routes)
            self._known[reference] = [bill.cost(item) for item in self.items]
        return self._known[reference]


def _check(label: str, difference: Difference, old: _Costs, new: _Costs) -> int:
    """Whether each bill that changed is told of; how many changed."""
    shown = {(one.old, one.new): one for one in difference.comparisons}
    pairs = {(reference, reference) for reference in old.pool.plans} | {
        (was, now) for target in _targets(old.pool) | _targets(new.pool) for was, now in [_moved(target, old, new)]
    }
    changed = 0
    for was, now in pairs:
        if now not in new.pool.plans and now is not None:
            gone = [one for one in difference.comparisons if (one.old, one.new) == (was, None)]
            assert any(one.direction.is_increase for one in gone), f"{label}: {was} is gone"
            continue
        comparison = shown.get((was, now))
        for item, before, after in zip(old.items, old.of(was), new.of(now), strict=True):
            for dimension in {*before, *after}:
                one = before.get(dimension, (Fraction(0),) * 3)
                other = after.get(dimension, (Fraction(0),) * 3)
                if one != other:
                    changed += 1
                    told = comparison and _told(comparison, item, dimension)
                    what = f"{label}: {item} {dimension} {one} -> {other}"
                    assert told, what
                    rises = (is_dearer(one[index], other[index]) for index in (1, 2))
                    if other[0] and any(rises):
                        assert any(change.direction.is_increase for change in told), what
    return changed


def is_dearer(was: Fraction | None, now: Fraction | None) -> bool:
    return was is None or now is None or now > was


def _told(comparison: Comparison, item: Item, dimension: str) -> list[Change]:
    """The changes that speak of a line and a dimension."""
    route = item.route if isinstance(item, Line) else ""
    return [
        change
        for change in comparison.changes
        if change.kind == "plan"
        or (change.dimension == dimension and (route in change.routes or not change.routes))
        # Its price is that of the units beyond what is included.
        or (dimension == "calls" and change.dimension == "calls_overage" and change.kind == "price")
    ]


def _targets(pool: Pool) -> set[str]:
    return {plan_id.partition("@")[0] for plan_id in pool.plans}


def _moved(plan_id: str, old: _Costs, new: _Costs) -> tuple[str | None, str | None]:
    """The newest versions of one plan; the same where one pool has none, since nobody moves there by id."""
    newest = [
        max(
            (r for r in costs.pool.plans if r.partition("@")[0] == plan_id),
            key=lambda r: int(r.partition("@")[2]),
            default=None,
        )
        for costs in (old, new)
    ]
    if newest[0] and newest[1]:
        return newest[0], newest[1]
    reference = next(iter(old.pool.plans))
    return reference, reference
