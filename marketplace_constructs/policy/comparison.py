"""One plan against another: what changes in access, counts, prices, limits and terms, and which way it moves a bill."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import cached_property
from typing import Final

from marketplace_constructs.domain.plan_table import EVERY, NO_LIMIT, EventMeter, Interval, LineState
from marketplace_constructs.policy.charges import (
    AXES,
    NO_PLAN,
    NO_ROUTE,
    NOT_COUNTED,
    REFUSED,
    TIME,
    Box,
    Content,
    Count,
    Direction,
    Price,
    Shape,
    intersections,
    merged,
    overlap,
    rounded,
    verdict,
    why_not_counted,
    worst,
)
from marketplace_constructs.policy.documents import Allowance, Meter, Plan
from marketplace_constructs.policy.evaluation import Expansion, Throttled
from marketplace_constructs.policy.pool import Entry, Pool

REFERENCE_CALL: Final[Mapping[str, int]] = {
    "status": 200,
    "response.bytes": 1_000_000,
    "integration.ms": 1_000,
    "response.ms": 1_000,
}
"""The one call that routes are compared by: success, 1 MB, one second, after the last date that either pool names."""


class ChangeKind(StrEnum):
    """What changes."""

    ACCESS = "access"
    COUNT = "count"
    EVENT = "event"
    PRICE = "price"
    LIMIT = "limit"
    TERMS = "terms"
    """A member of the plan, or of the product."""
    PLAN = "plan"
    """The plan as a whole goes."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that changes, wherever it changes alike.

    Args:
        kind: What changes.
        subject: The member or event that changes; empty where kind, dimension and routes say it all.
        dimension: Empty where it is about none.
        routes: ``POST /v1/images/{id}/render``, sorted; empty where it is about none.
        lines: The boxes of lines that it is about; empty where it is about all of them.
        old: In words.
        new: In words.
        old_usd: What one ``per`` cost; None where it has no price, or none that compares.
        new_usd: What one ``per`` costs.
        per: ``request``, ``GB``, ``s`` ….
        direction: Which way it moves a bill.
        is_allowed: Named by ``allow``, so that it is no finding.
    """

    kind: ChangeKind
    old: str
    new: str
    direction: Direction = Direction.SAME
    subject: str = ""
    dimension: str = ""
    routes: tuple[str, ...] = ()
    lines: tuple[Box, ...] = ()
    old_usd: Decimal | None = None
    new_usd: Decimal | None = None
    per: str = ""
    is_allowed: bool = False

    @property
    def is_finding(self) -> bool:
        """Whether it is a new or higher charge that nobody allowed."""
        return self.direction.is_increase and not self.is_allowed

    def to_json(self) -> dict[str, object]:
        """The change as the command line prints it; intervals are half open, null is no bound."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "dimension": self.dimension,
            "routes": list(self.routes),
            "lines": [_box_to_json(box) for box in self.lines],
            "old": self.old,
            "new": self.new,
            "old_usd": _plain(self.old_usd),
            "new_usd": _plain(self.new_usd),
            "per": self.per,
            "direction": self.direction.value,
            "allowed": self.is_allowed,
        }


def _box_to_json(box: Box) -> dict[str, object]:
    return {
        axis: [interval[0], None if interval[1] == NO_LIMIT else interval[1]]
        for axis, interval in zip(AXES, box, strict=True)
        if interval != EVERY
    }


@dataclass(frozen=True, kw_only=True)
class CallPrice:
    """What one REFERENCE_CALL costs on some routes, over all dimensions; None where a price is missing."""

    routes: tuple[str, ...]
    old_usd: Decimal | None
    new_usd: Decimal | None

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {"routes": list(self.routes), "old_usd": _plain(self.old_usd), "new_usd": _plain(self.new_usd)}


@dataclass(frozen=True, kw_only=True)
class LogCharge:
    """What one agreement's lines of a log come to for one dimension.

    Args:
        agreement: As the log names it.
        dimension: Of the product.
        old_quantity: In the dimension's unit.
        new_quantity: In the dimension's unit.
        old_usd: Estimated at the price list's last price; None where there is none.
        new_usd: The same under the new plan.
    """

    agreement: str
    dimension: str
    old_quantity: Fraction
    new_quantity: Fraction
    old_usd: Decimal | None
    new_usd: Decimal | None

    @property
    def difference_usd(self) -> Decimal | None:
        """Above 0 where it is dearer; None where it is not known."""
        return None if self.old_usd is None or self.new_usd is None else self.new_usd - self.old_usd

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {
            "agreement": self.agreement,
            "dimension": self.dimension,
            "old_quantity": _plain(rounded(self.old_quantity)),
            "new_quantity": _plain(rounded(self.new_quantity)),
            "old_usd": _plain(self.old_usd),
            "new_usd": _plain(self.new_usd),
            "difference_usd": _plain(self.difference_usd),
        }


@dataclass(frozen=True, kw_only=True)
class LogEffect:
    """What the lines of a log that belong to a plan come to under two versions of it.

    Args:
        charges: Those that change, what is not known and then the largest increase first.
        old_usd: Of all of the plan's lines; None where a price is missing.
        new_usd: The same under the new plan.
    """

    charges: tuple[LogCharge, ...]
    old_usd: Decimal | None
    new_usd: Decimal | None

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {
            "old_usd": _plain(self.old_usd),
            "new_usd": _plain(self.new_usd),
            "agreements": [charge.to_json() for charge in self.charges],
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One plan against another, or the product against itself.

    Args:
        old: ``id@version``; None where there was none.
        new: ``id@version``; None where there is none any more.
        agreements: ``pinned``, ``new``, both where the same version is compared with itself; ``moved`` where nothing
            but a move of an agreement leads from one to the other.
        targets: Which new agreements, such as ``Default (Marketplace)``.
        segment: The consumers it is for.
        changes: The worst first.
        calls: Routes on which one reference call costs something else.
        log: What a log comes to under both; None where none was given.
    """

    old: str | None
    new: str | None
    agreements: tuple[str, ...]
    targets: tuple[str, ...] = ()
    segment: str = ""
    changes: tuple[Change, ...] = ()
    calls: tuple[CallPrice, ...] = ()
    log: LogEffect | None = None

    @property
    def direction(self) -> Direction:
        """The worst of its changes."""
        return worst(change.direction for change in self.changes)

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {
            "old": self.old,
            "new": self.new,
            "agreements": list(self.agreements),
            "targets": list(self.targets),
            "segment": self.segment,
            "direction": self.direction.value,
            "changes": [change.to_json() for change in self.changes],
            "reference_calls": [call.to_json() for call in self.calls],
            "log": self.log and self.log.to_json(),
        }


class Sold:
    """A plan in its pool, worked out."""

    def __init__(self, pool: Pool, entry: Entry[Plan], expansion: Expansion) -> None:
        self.pool = pool
        self.entry = entry
        self.plan = entry.document
        self.reference = self.plan.reference
        self.expansion = expansion
        self.lists = [one.document for one in pool.price_lists.get(self.plan.price_list, ())]
        self.allowances = {allowance.dimension: allowance for allowance in self.plan.allowances}

    @cached_property
    def access(self) -> dict[str, str]:
        """By route, ``allowed`` or ``refused``."""
        return {
            f"{route.method} {route.path}": "allowed" if route.is_allowed else "refused"
            for route in self.expansion.table.routes
        }

    @cached_property
    def shapes(self) -> dict[str, dict[str, Shape]]:
        """By route and dimension, what each of the boxes counts."""
        boxes: dict[str, dict[str, list[tuple[Box, Content]]]] = {}
        for cell in self.expansion.table.cells:
            content: Content = (
                (Count.of(cell), "") if cell.state is LineState.BILLABLE else (None, why_not_counted(cell))
            )
            box = (cell.status, cell.response_bytes, cell.integration_ms, cell.time_ms)
            on_route = boxes.setdefault(f"{cell.method} {cell.path}", {})
            on_route.setdefault(cell.dimension, []).append((box, content))
        return {
            route: {dimension: tuple(several) for dimension, several in on_route.items()}
            for route, on_route in boxes.items()
        }

    def shape(self, route: str, dimension: str) -> Shape:
        """What the lines of a route count for a dimension."""
        access = self.access.get(route)
        if access != "allowed":
            return REFUSED if access else NO_ROUTE
        return self.shapes.get(route, {}).get(dimension, NOT_COUNTED)

    @cached_property
    def events(self) -> dict[tuple[str, str], EventMeter]:
        """By event and dimension."""
        return {(meter.event, meter.dimension): meter for meter in self.expansion.table.events}

    @cached_property
    def metered(self) -> frozenset[str]:
        """The dimensions that its Meters name, whatever the routes."""
        meters = (one.statement for one in self.expansion.attached if one.is_active)
        return frozenset(meter.dimension for meter in meters if isinstance(meter, Meter))

    def raw_price(self, dimension: str, at_ms: int) -> Decimal | None:
        """The price list's price at a time."""
        price = None
        for one in self.lists:
            if milliseconds(one.effective_from) <= at_ms:
                price = one.prices.get(dimension)
        return price

    def price(self, dimension: str, at_ms: int) -> Price:
        """What a unit costs, and a unit beyond what the contract includes."""
        price = self.raw_price(dimension, at_ms)
        allowance = self.allowances.get(dimension)
        if allowance is None:
            return price, price
        report_as = allowance.then.report_as
        beyond = self.raw_price(report_as, at_ms) if report_as else Decimal(0)
        return (Decimal(0) if price is None else price), beyond


@dataclass(frozen=True)
class Pair:
    """Two plans to compare, and for whom."""

    old: Sold | None
    new: Sold | None
    agreements: tuple[str, ...]
    targets: tuple[str, ...] = ()

    @cached_property
    def periods(self) -> list[tuple[Interval, int]]:
        """The times between two dates of the price lists, each with a moment to look prices up at.

        Before the first date of both nothing has a price; the first prices are taken there.
        """
        dates = sorted(
            {milliseconds(one.effective_from) for sold in (self.old, self.new) if sold for one in sold.lists}
        )
        starts = [0, *dates[1:]]
        moments = dates or [0]
        return [
            ((start, end), moment)
            for start, end, moment in zip(starts, [*starts[1:], NO_LIMIT], moments, strict=True)
            if start < end
        ]

    @property
    def is_same_list(self) -> bool:
        """Whether a price that both miss is the same price."""
        return bool(self.old and self.new and self.old.plan.price_list == self.new.plan.price_list)

    def verdict(self, old: Count | None, new: Count | None, dimension: str, at_ms: int) -> Direction:
        """Which way a count moves the bill at a time."""
        no_price: Price = (None, None)
        was = self.old.price(dimension, at_ms) if self.old else no_price
        now = self.new.price(dimension, at_ms) if self.new else no_price
        return worst(verdict(old, new, p, q, is_same_unknown=self.is_same_list) for p, q in zip(was, now, strict=True))


def targets_of(plan: Plan) -> list[tuple[str, str]]:
    """Which agreements a plan is for, each kind with its name."""
    assign_to = plan.assign_to
    if isinstance(assign_to, str):
        return [("Default", plan.channel.value)]
    if assign_to.entitlement is not None:
        return [("Entitlement", assign_to.entitlement)]
    if assign_to.offers is not None:
        return [("Offer", offer) for offer in assign_to.offers]
    return [("Account", account) for account in assign_to.accounts or ()]


def compared(pair: Pair, *, has_routes: bool) -> Comparison:
    """Compare two plans.

    Args:
        pair: At least one of them is there.
        has_routes: False where the plans were worked out against no routes, because none are known.
    """
    old, new = pair.old, pair.new
    changes: list[Change] = []
    calls: tuple[CallPrice, ...] = ()
    if new is None:
        # What becomes of agreements on a version that is gone is not decided by the documents.
        direction = Direction.POSSIBLY_DEARER if "pinned" in pair.agreements else Direction.SAME
        changes.append(Change(kind=ChangeKind.PLAN, old=old.reference if old else "", new="none", direction=direction))
    else:
        counts, unchanged, changed = _counts(pair)
        events, unchanged_events, changed_events = _events(pair)
        changes += [*_access(old, new), *counts, *events]
        changes += _prices(pair, unchanged, unchanged_events, changed | changed_events, has_routes=has_routes)
        changes += [*_limits(old, new), *_terms(pair)]
        calls = _calls(pair)
    sold = new or old
    changes.sort(key=lambda change: list(Direction).index(change.direction))
    return Comparison(
        old=old.reference if old else None,
        new=new.reference if new else None,
        agreements=pair.agreements,
        targets=pair.targets,
        segment=sold.plan.segment if sold else "",
        changes=tuple(changes),
        calls=calls,
    )


def _routes(pair: Pair) -> list[str]:
    return sorted(
        {route for sold in (pair.old, pair.new) if sold for route in sold.access}, key=lambda r: r.split(" ")[::-1]
    )


def _dimensions(pair: Pair, route: str) -> list[str]:
    return sorted({name for sold in (pair.old, pair.new) if sold for name in sold.shapes.get(route, ())})


def _access(old: Sold | None, new: Sold) -> list[Change]:
    found: dict[tuple[str, str], list[str]] = {}
    was = old.access if old else {}
    for route in sorted({*was, *new.access}, key=lambda r: r.split(" ")[::-1]):
        key = (was.get(route, "no such route" if old else "no plan"), new.access.get(route, "no such route"))
        if key[0] != key[1]:
            found.setdefault(key, []).append(route)
    return [
        Change(kind=ChangeKind.ACCESS, old=before, new=after, routes=tuple(routes))
        for (before, after), routes in found.items()
    ]


def _counts(pair: Pair) -> tuple[list[Change], dict[str, list[str]], set[str]]:
    """What lines count otherwise; by dimension the routes that still count alike; the dimensions that do not."""
    known: dict[tuple[str, Shape, Shape], tuple[tuple[Change, ...], bool]] = {}
    grouped: dict[Change, list[str]] = {}
    unchanged: dict[str, list[str]] = {}
    changed: set[str] = set()
    for route in _routes(pair):
        for dimension in _dimensions(pair, route):
            was = pair.old.shape(route, dimension) if pair.old else NO_PLAN
            now = pair.new.shape(route, dimension) if pair.new else NO_PLAN
            key = (dimension, was, now)
            if key not in known:
                known[key] = _overlaid(pair, dimension, was, now)
            changes, is_alike_somewhere = known[key]
            for change in changes:
                grouped.setdefault(change, []).append(route)
                changed.add(dimension)
            if is_alike_somewhere:
                unchanged.setdefault(dimension, []).append(route)
    return [replace(change, routes=tuple(routes)) for change, routes in grouped.items()], unchanged, changed


def _overlaid(pair: Pair, dimension: str, was: Shape, now: Shape) -> tuple[tuple[Change, ...], bool]:
    """Lay the boxes of one route and dimension over each other; also whether some lines still count alike."""
    found: dict[Change, list[Box]] = {}
    is_alike_somewhere = False
    for box, (old, why_not), (new, why_not_now) in intersections(was, now):
        if old == new:
            is_alike_somewhere = is_alike_somewhere or old is not None
            continue
        for period, moment in pair.periods:
            time = overlap(box[TIME], period)
            if time:
                change = _count_change(pair, dimension, old, new, moment)
                change = replace(change, old=change.old or why_not, new=change.new or why_not_now)
                found.setdefault(change, []).append((box[0], box[1], box[2], time))
    return _with_lines(found), is_alike_somewhere


def _with_lines(found: Mapping[Change, Iterable[Box]]) -> tuple[Change, ...]:
    changes = [replace(change, lines=merged(boxes)) for change, boxes in found.items()]
    return tuple(sorted(changes, key=lambda change: change.lines))


def _count_change(
    pair: Pair, dimension: str, old: Count | None, new: Count | None, moment: int, *, event: str = ""
) -> Change:
    shown = new or old
    assert shown is not None
    return Change(
        kind=ChangeKind.EVENT if event else ChangeKind.COUNT,
        subject=event,
        dimension=dimension,
        old=str(old or ""),
        new=str(new or ""),
        direction=pair.verdict(old, new, dimension, moment),
        old_usd=_usd_per(pair.old, old, shown, dimension, moment),
        new_usd=_usd_per(pair.new, new, shown, dimension, moment),
        per=shown.per if not (old and new) or old.round_up == new.round_up else f"{shown.per}, before rounding",
    )


def _usd_per(sold: Sold | None, count: Count | None, shown: Count, dimension: str, moment: int) -> Decimal | None:
    """The price of as many base units as the shown count has in its unit."""
    if count is None:
        return Decimal(0)
    base, beyond = sold.price(dimension, moment) if sold else (None, None)
    price = base or beyond
    if price is None or count.metric != shown.metric:
        return None
    return rounded(count.rate * shown.base_units * Fraction(price))


def _events(pair: Pair) -> tuple[list[Change], set[str], set[str]]:
    """What events count otherwise; the dimensions that events still feed alike; those that they do not."""
    changes: list[Change] = []
    unchanged: set[str] = set()
    changed: set[str] = set()
    was = pair.old.events if pair.old else {}
    now = pair.new.events if pair.new else {}
    for event, dimension in sorted({*was, *now}):
        old, new = (
            Count("event", meter.round_up, meter.multiply.normalize()) if meter else None
            for meter in (was.get((event, dimension)), now.get((event, dimension)))
        )
        if old == new:
            unchanged.add(dimension)
            continue
        changed.add(dimension)
        found: dict[Change, list[Box]] = {}
        for period, moment in pair.periods:
            change = _count_change(pair, dimension, old, new, moment, event=event)
            change = replace(change, old=change.old or "not counted", new=change.new or "not counted")
            found.setdefault(change, []).append((EVERY, EVERY, EVERY, period))
        changes += _with_lines(found)
    return changes, unchanged, changed


def _prices(
    pair: Pair,
    routes: Mapping[str, Sequence[str]],
    by_event: Collection[str],
    changed: Collection[str],
    *,
    has_routes: bool,
) -> list[Change]:
    """Prices that differ, and whether that moves a bill.

    Where all that counts for a dimension changes as well, the changes of counts tell what it comes to.
    """
    old, new = pair.old, pair.new
    if old is None or new is None:
        return []
    charged = {*routes, *by_event}
    charged |= {a.then.report_as for sold in (old, new) for a in sold.plan.allowances if a.then.report_as}
    product = new.pool.product
    if product:
        dimensions = product.document.marketplace.dimensions
        charged |= {name for name, dimension in dimensions.items() if dimension.type == "Entitled"}
    if not has_routes:
        charged |= new.metered - set(changed)
    changes: list[Change] = []
    names = sorted(charged | {name for sold in (old, new) for one in sold.lists for name in one.prices})
    for name in names:
        found: dict[Change, list[Box]] = {}
        for period, moment in pair.periods:
            was, now = old.raw_price(name, moment), new.raw_price(name, moment)
            unit = Count("unit", 1, Decimal(1))
            direction = Direction.SAME
            if name in charged:
                direction = verdict(unit, unit, was, now, is_same_unknown=pair.is_same_list)
            if was == now and not direction.is_increase:
                continue
            change = Change(
                kind=ChangeKind.PRICE,
                dimension=name,
                routes=tuple(routes.get(name, ())),
                old=_money(was),
                new=_money(now),
                old_usd=was,
                new_usd=now,
                per="unit",
                direction=direction,
            )
            found.setdefault(change, []).append((EVERY, EVERY, EVERY, period))
        changes += _with_lines(found)
    return changes


def _limits(old: Sold | None, new: Sold) -> list[Change]:
    if old is None:
        return []
    changes = []

    def add(subject: str, was: str, now: str, routes: tuple[str, ...] = ()) -> None:
        if was != now:
            changes.append(Change(kind=ChangeKind.LIMIT, subject=subject, old=was, new=now, routes=routes))

    add("Throttle", _pace(old.expansion.throttle), _pace(new.expansion.throttle))
    was, now = old.expansion.method_throttles, new.expansion.method_throttles
    for route in sorted({*was, *now}):
        add("Throttle", _pace(was.get(route)), _pace(now.get(route)), (str(route),))
    quotas = [
        f"{sold.plan.quota.limit:,} per {sold.plan.quota.period}" if sold.plan.quota else "none" for sold in (old, new)
    ]
    add("Quota", quotas[0], quotas[1])
    return changes


def _terms(pair: Pair) -> list[Change]:
    """Members of the plan that no table shows."""
    old, new = pair.old, pair.new
    if old is None or new is None:
        return []
    changes = []
    is_same = old.reference == new.reference

    def add(subject: str, was: object, now: object, direction: Direction = Direction.SAME, dimension: str = "") -> None:
        if was != now:
            change = Change(
                kind=ChangeKind.TERMS,
                subject=subject,
                dimension=dimension,
                old=word(was),
                new=word(now),
                direction=direction,
            )
            changes.append(change)

    one, other = old.plan, new.plan
    add("Segment", one.segment, other.segment)
    if "Internal" in {one.channel, other.channel}:
        channel = Direction.CHEAPER if other.channel == "Internal" else Direction.DEARER
    else:
        channel = Direction.POSSIBLY_DEARER
    add("Channel", one.channel.value, other.channel.value, channel)
    add("PriceList", one.price_list, other.price_list)
    add("ShadowPriceList", one.shadow_price_list, other.shadow_price_list)
    if is_same:
        add("AssignTo", _assigned(one), _assigned(other))
    # What holds before a version does is not in these documents.
    start = Direction.POSSIBLY_DEARER if is_same else Direction.SAME
    add("EffectiveFrom", one.effective_from, other.effective_from, start)
    for dimension in sorted({*old.allowances, *new.allowances}):
        was, now = old.allowances.get(dimension), new.allowances.get(dimension)
        add("Allowances", _included(was), _included(now), _allowance(pair, was, now), dimension)
    trials = [f"{t.days} days, {t.source}, then {t.then}" if t else None for t in (one.trial, other.trial)]
    is_longer = bool(
        one.trial
        and other.trial
        and other.trial.days > one.trial.days
        and (other.trial.source, other.trial.then) == (one.trial.source, one.trial.then)
    )
    trial = Direction.CHEAPER if is_longer else Direction.DEARER if other.trial is None else Direction.POSSIBLY_DEARER
    add("Trial", trials[0], trials[1], trial)
    return changes


def _allowance(pair: Pair, was: Allowance | None, now: Allowance | None) -> Direction:
    """What contracts include; no price of a unit tells how many are included."""
    if now is None:
        return Direction.DEARER
    unit = Count("unit", 1, Decimal(1))
    beyond = worst(pair.verdict(unit, unit, now.dimension, moment) for _, moment in pair.periods)
    if beyond.is_increase:
        return Direction.POSSIBLY_DEARER
    if was is None or was == now:
        return Direction.CHEAPER if was is None else Direction.SAME
    if (was.period, was.anchor) != (now.period, now.anchor):
        return Direction.POSSIBLY_DEARER
    if isinstance(was.included, Decimal) and isinstance(now.included, Decimal):
        return Direction.DEARER if now.included < was.included else Direction.CHEAPER
    return Direction.CHEAPER if was.included == now.included else Direction.POSSIBLY_DEARER


def _calls(pair: Pair) -> tuple[CallPrice, ...]:
    """What one reference call costs on each route, where that changes."""
    found: dict[tuple[Decimal | None, Decimal | None], list[str]] = {}
    for route in _routes(pair):
        dimensions = _dimensions(pair, route)
        was, now = (_call_usd(sold, route, dimensions, pair.periods[-1][1]) for sold in (pair.old, pair.new))
        if was != now:
            found.setdefault((was, now), []).append(route)
    return tuple(
        CallPrice(routes=tuple(routes), old_usd=was, new_usd=now)
        for (was, now), routes in sorted(found.items(), key=lambda item: item[1])
    )


def _call_usd(sold: Sold | None, route: str, dimensions: Iterable[str], moment: int) -> Decimal | None:
    usd = Fraction(0)
    point = (REFERENCE_CALL["status"], REFERENCE_CALL["response.bytes"], REFERENCE_CALL["integration.ms"], NO_LIMIT - 1)
    for dimension in dimensions if sold else ():
        assert sold is not None
        for box, (count, _) in sold.shape(route, dimension):
            if count and all(start <= value < end for value, (start, end) in zip(point, box, strict=True)):
                base, beyond = sold.price(dimension, moment)
                price = base or beyond
                if price is None:
                    return None
                usd += count.quantity(REFERENCE_CALL.get(count.metric, 1)) * Fraction(price)
    return rounded(usd)


def _pace(throttle: Throttled | None) -> str:
    return f"{throttle.rate_limit.normalize():f}/s, burst {throttle.burst_limit}" if throttle else "none"


def _assigned(plan: Plan) -> str:
    return ", ".join(f"{kind} ({name})" for kind, name in targets_of(plan))


def _included(allowance: Allowance | None) -> str | None:
    if allowance is None:
        return None
    then = f"report as {allowance.then.report_as}" if allowance.then.report_as else "deny"
    included = allowance.included
    number = f"{included.normalize():f}" if isinstance(included, Decimal) else included
    return f"{number} per {allowance.period} ({allowance.anchor}), then {then}"


def word(value: object) -> str:
    """A member's value as it is shown."""
    if isinstance(value, datetime):
        return time_text(milliseconds(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


def _money(price: Decimal | None) -> str:
    return "no price" if price is None else f"{price.normalize():f} USD"


def _plain(value: Decimal | None) -> str | None:
    return None if value is None else f"{value.normalize():f}"


def milliseconds(moment: datetime) -> int:
    """Since 1970, UTC."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def time_text(milliseconds: int) -> str:
    """As documents write a time."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
