"""What a change of the documents does to bills: check no new charge, in the spirit of check no new access.

Two plans are compared by their tables, never by their texts: the boxes of both are laid over each other, and in each
box what a line counted is compared with what it counts now, at the prices of the day. Only what is shown to be no
dearer passes; what cannot be decided could be dearer, and is told as such.

Pinned agreements stay on their plan's version, so they meet what changes under the same ``id@version``: an edited
document, a guardrail, the next date of a price list, a new route. New agreements get the newest version that is
assigned to them, so they meet the difference between what the old pool assigns and what the new one does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path as File
from typing import Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.finding import Finding
from marketplace_constructs.domain.plan_table import NO_LIMIT, LineState
from marketplace_constructs.policy.charges import Direction, rounded
from marketplace_constructs.policy.comparison import (
    Change,
    ChangeKind,
    Comparison,
    LogCharge,
    LogEffect,
    Pair,
    Sold,
    compared,
    milliseconds,
    targets_of,
    time_text,
    word,
)
from marketplace_constructs.policy.documents import Access, Meter
from marketplace_constructs.policy.evaluation import Expansion, Match, TooIntertwinedError, expand
from marketplace_constructs.policy.patterns import Route, Segment
from marketplace_constructs.policy.pool import Pool, content_digest, publication_name
from marketplace_constructs.policy.rules import CATALOGUE
from marketplace_constructs.policy.source import Path, Source

SCHEMA_VERSION: Final = 1
_PROBLEMS_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class DocumentChange:
    """A document that was added, removed or changed."""

    name: str
    change: str
    is_published: bool

    def to_json(self) -> dict[str, object]:
        """As the command line prints it."""
        return {"document": self.name, "change": self.change, "published": self.is_published}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that changes from one pool to another.

    Args:
        documents: By name.
        comparisons: Those in which something changes.
        findings: MON119, MON213 and MON218.
        not_checked: What could not be checked, in sentences; never to be shown as passed.
    """

    documents: tuple[DocumentChange, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    findings: tuple[Finding, ...] = ()
    not_checked: tuple[str, ...] = ()

    @property
    def has_charges(self) -> bool:
        """Whether any charge is new or higher, or could be, and is not allowed."""
        return any(change.is_finding for comparison in self.comparisons for change in comparison.changes)

    def to_json(self) -> dict[str, object]:
        """The difference as the command line prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "new_charges": self.has_charges,
            "not_checked": list(self.not_checked),
            "documents": [document.to_json() for document in self.documents],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "findings": [finding.to_json() for finding in self.findings],
        }


def diff(
    old: Pool,
    new: Pool,
    *,
    old_routes: Iterable[Route] | None,
    new_routes: Iterable[Route] | None,
    stage: str = "prod",
    allow: Collection[str] = (),
    log: Collection[str | File] = (),
    progress: Callable[[float], None] | None = None,
) -> Difference:
    """Compare two pools.

    Args:
        old: What is in force.
        new: What is proposed.
        old_routes: Of the API as it is; None where they are not known.
        new_routes: Of the API as it shall be.
        stage: The stage's name, for ``api:Stage``.
        allow: Increases that are wanted: ``PLAN@V``, ``PLAN:DIMENSION``, or the product's id.
        log: Files of the access log; what they come to under both pools is told per agreement.
        progress: Is told how much of the log was read, from 0 to 1.

    Raises:
        MarketplaceConstructsError: A pool cannot be worked out, MP-DIFF-01, or a log not be read, MP-SIM-01.
    """
    has_routes = old_routes is not None and new_routes is not None
    before = _Side("old", old, tuple(old_routes or ()) if has_routes else (), stage)
    after = _Side("new", new, tuple(new_routes or ()) if has_routes else (), stage)
    problems = [*before.problems, *after.problems]
    if problems:
        raise MarketplaceConstructsError(*problems[:_PROBLEMS_SHOWN])
    documents = _documents(old, new)
    comparisons = [_product(before, after)]
    findings = _edited(old, new, documents)
    pairs = [(pair, compared(pair, has_routes=has_routes)) for pair in _pairs(before, after)]
    if log and has_routes:
        pairs = _with_log(pairs, log, progress)
    for pair, comparison in pairs:
        comparisons.append(comparison)
        if pair.old and pair.new and pair.old.reference != pair.new.reference and comparison.direction.is_increase:
            findings.append(_dearer_move(pair, comparison))
    if has_routes:
        findings += _caught(before, after)
    return Difference(
        documents=documents,
        comparisons=tuple(_allowed(one, allow) for one in comparisons if one.changes or one.old != one.new),
        findings=tuple(sorted(findings, key=lambda f: (f.issue_code, f.document, f.sid or "", f.finding_details))),
        not_checked=()
        if has_routes
        else ("access and counts of every route: the route files are missing; give them with --routes",),
    )


def move(pool: Pool, *, old: str, new: str, routes: Iterable[Route], stage: str = "prod") -> Comparison:
    """What an agreement meets that is moved from one plan to another.

    Args:
        pool: Holds both.
        old: ``id@version``.
        new: ``id@version``.
        routes: Of the API.
        stage: The stage's name.

    Raises:
        MarketplaceConstructsError: MP-DIFF-01 the pool cannot be worked out; MP-DIFF-02 it has no such plan.
    """
    side = _Side("the", pool, tuple(routes), stage)
    if side.problems:
        raise MarketplaceConstructsError(*side.problems[:_PROBLEMS_SHOWN])
    for reference in (old, new):
        if reference not in side.plans:
            known = ", ".join(side.plans)
            raise MarketplaceConstructsError(
                Problem("MP-DIFF-02", f"plan, got {reference!r}; expected one of {known}; name one of them")
            )
    return compared(Pair(side.plans[old], side.plans[new], ("moved",)), has_routes=True)


class _Side:
    """One of the two pools with its routes."""

    def __init__(self, label: str, pool: Pool, routes: tuple[Route, ...], stage: str) -> None:
        self.label = label
        self.pool = pool
        self.routes = routes
        self.problems: list[Problem] = []
        self.plans: dict[str, Sold] = {}
        for fault in pool.faults:
            self._refuse(f"{fault.code} in {fault.document}: {fault.details}")
        for reference, entry in [] if self.problems else sorted(pool.plans.items()):
            plan = entry.document
            for policy in (*plan.policies, *pool.guardrails(plan)):
                if policy not in pool.policies:
                    self._refuse(f"{reference} with the policy {policy}, which is not in the pool")
            try:
                expansion = expand(pool, plan, routes, stage=stage)
            except TooIntertwinedError as error:
                self._refuse(f"{reference} with conditions that cut {error} into too many pieces")
                continue
            self._look_at(reference, expansion)
            self.plans[reference] = Sold(pool, entry, expansion)
        for (kind, name), plans in self._assigned.items():
            if len(plans) > 1:
                self._refuse(f"MON140, {kind} ({name}) of {' and '.join(sold.reference for sold in plans)}")

    def _look_at(self, reference: str, expansion: Expansion) -> None:
        """What would be compared as if it said something."""
        for one in expansion.attached:
            weight = one.statement.quantity.multiply if isinstance(one.statement, Meter) else None
            if isinstance(weight, str) and weight not in self.pool.policies[one.policy].document.parameters:
                self._refuse(f"{reference} with MON109, no parameter {weight!r} for {one.statement.sid}")
        for tie in expansion.ties:
            sids = f"{tie.one.statement.sid} and {tie.other.statement.sid}"
            where = tie.route or "an event"
            self._refuse(f"{reference} with MON105, a tie of {sids} on {where} for {tie.dimension}")

    def _refuse(self, what: str) -> None:
        self.problems.append(
            Problem("MP-DIFF-01", f"{self.label} pool, got {what}; expected no errors; run sellable lint on it")
        )

    @cached_property
    def newest(self) -> dict[str, Sold]:
        """By plan id, the version that is assigned."""
        found: dict[str, Sold] = {}
        for sold in sorted(self.plans.values(), key=lambda sold: sold.plan.plan_version):
            found[sold.plan.id] = sold
        return found

    @cached_property
    def _assigned(self) -> dict[tuple[str, str], list[Sold]]:
        found: dict[tuple[str, str], list[Sold]] = {}
        for sold in self.newest.values():
            for target in dict.fromkeys(targets_of(sold.plan)):
                found.setdefault(target, []).append(sold)
        return found

    @cached_property
    def targets(self) -> dict[tuple[str, str], Sold]:
        """Which agreements get which plan."""
        return {target: plans[0] for target, plans in self._assigned.items()}

    def assigned(self, target: tuple[str, str], channel: str) -> Sold | None:
        """The plan of some agreements: their own, or else the default one."""
        if target in self.targets or target[0] == "Default":
            return self.targets.get(target)
        return self.targets.get(("Default", channel)) or self.targets.get(("Default", "Marketplace"))


def _pairs(before: _Side, after: _Side) -> Iterator[Pair]:
    """What is to be compared: each version that agreements are pinned to, and what new agreements get."""
    fresh: dict[tuple[str | None, str | None], list[str]] = {}
    for target in sorted({*before.targets, *after.targets}):
        known = after.targets.get(target) or before.targets[target]
        channel = known.plan.channel.value
        was, now = before.assigned(target, channel), after.assigned(target, channel)
        key = (was.reference if was else None, now.reference if now else None)
        fresh.setdefault(key, []).append(f"{target[0]} ({target[1]})")
    for plan_id in sorted({*before.newest} & {*after.newest}):
        fresh.setdefault((before.newest[plan_id].reference, after.newest[plan_id].reference), [])
    for reference in sorted(before.plans):
        targets = fresh.pop((reference, reference), None)
        yield Pair(
            before.plans[reference],
            after.plans.get(reference),
            ("pinned", "new") if targets else ("pinned",),
            tuple(targets or ()),
        )
    for (was_reference, now_reference), targets in sorted(fresh.items(), key=str):
        yield Pair(
            before.plans.get(was_reference or ""),
            after.plans.get(now_reference or ""),
            ("new",) if targets else ("moved",),
            tuple(targets),
        )


def _with_log(
    pairs: list[tuple[Pair, Comparison]], files: Collection[str | File], progress: Callable[[float], None] | None
) -> list[tuple[Pair, Comparison]]:
    """Judge the log by both tables of each pair of versions of one plan.

    A line's plan is known by its id: every agreement of the plan counts, whatever version it is pinned to.
    """
    from marketplace_constructs.policy.access_logs import AccessLog  # noqa: PLC0415 - it takes DuckDB

    affected = [
        (pair.old, pair.new)
        for pair, comparison in pairs
        if comparison.changes and pair.old and pair.new and pair.old.plan.id == pair.new.plan.id
    ]
    sold = {id(one): one for both in affected for one in both}
    if not sold:
        return pairs
    costs: dict[int, _Costs] = {}
    with AccessLog(files, tables=[one.expansion.table for one in sold.values()], progress=progress) as log:
        for key, one in sold.items():
            costs[key] = {}
            for usage in log.usage(one.expansion.table, by=("agreement",)):
                if usage.state == LineState.BILLABLE and usage.dimension is not None:
                    name = (str(usage.keys[0]), usage.dimension)
                    price, _ = one.price(usage.dimension, NO_LIMIT)
                    quantity, usd = costs[key].get(name, (Fraction(0), Fraction(0)))
                    more = None if usd is None or price is None else usd + usage.quantity * Fraction(price)
                    costs[key][name] = (quantity + usage.quantity, more)
    return [
        (pair, replace(comparison, log=_effect(costs[id(pair.old)], costs[id(pair.new)])))
        if (pair.old, pair.new) in affected
        else (pair, comparison)
        for pair, comparison in pairs
    ]


_Costs = dict[tuple[str, str], tuple[Fraction, Fraction | None]]
"""Quantity and price by agreement and dimension."""


def _effect(was: _Costs, now: _Costs) -> LogEffect:
    nothing = (Fraction(0), Fraction(0))
    charges = []
    for agreement, dimension in {*was, *now}:
        old, new = was.get((agreement, dimension), nothing), now.get((agreement, dimension), nothing)
        if old != new:
            charges.append(
                LogCharge(
                    agreement=agreement,
                    dimension=dimension,
                    old_quantity=old[0],
                    new_quantity=new[0],
                    old_usd=_usd(old[1]),
                    new_usd=_usd(new[1]),
                )
            )
    charges.sort(key=lambda c: (c.difference_usd is not None, -(c.difference_usd or 0), c.agreement, c.dimension))
    totals = [_total(usd for _, usd in costs.values()) for costs in (was, now)]
    return LogEffect(charges=tuple(charges), old_usd=totals[0], new_usd=totals[1])


def _total(amounts: Iterable[Fraction | None]) -> Decimal | None:
    known = list(amounts)
    return _usd(None if None in known else sum((a for a in known if a is not None), Fraction(0)))


def _usd(amount: Fraction | None) -> Decimal | None:
    return None if amount is None else rounded(amount)


def _product(before: _Side, after: _Side) -> Comparison:
    one, other = before.pool.product, after.pool.product
    assert one is not None
    assert other is not None
    was, now = dict(_leaves(one.source.data)), dict(_leaves(other.source.data))
    added = set(other.document.marketplace.dimensions) - set(one.document.marketplace.dimensions)
    changes = []
    for path in [*was, *(path for path in now if path not in was)]:
        if was.get(path) != now.get(path):
            is_sale = path[0] == "Marketplace" and not (path[1:2] == ("Dimensions",) and path[2:3] and path[2] in added)
            change = Change(
                kind=ChangeKind.TERMS,
                subject=".".join(map(str, path)),
                old=word(was.get(path)),
                new=word(now.get(path)),
                # How the listing meters and what its dimensions are is beyond what the tables show.
                direction=Direction.POSSIBLY_DEARER if is_sale else Direction.SAME,
            )
            changes.append(change)
    changes.sort(key=lambda change: list(Direction).index(change.direction))
    return Comparison(
        old=one.document.id,
        new=one.document.id if one.document.id == other.document.id else other.document.id,
        agreements=("pinned", "new"),
        changes=tuple(changes),
    )


def _leaves(data: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    if isinstance(data, dict) and data:
        for name, value in data.items():
            if not name.startswith("x-"):
                yield from _leaves(value, (*path, name))
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            yield from _leaves(value, (*path, index))
    else:
        yield path, data


def _documents(old: Pool, new: Pool) -> tuple[DocumentChange, ...]:
    was, now = _named(old), _named(new)
    return tuple(
        DocumentChange(
            name=name,
            change="added" if name not in was else "removed" if name not in now else "changed",
            is_published=name in old.published,
        )
        for name in sorted({*was, *now})
        if name not in was or name not in now or content_digest(was[name]) != content_digest(now[name])
    )


def _named(pool: Pool) -> dict[str, Source]:
    named = {publication_name(entry.document): entry.source for entry in pool.entries()}
    for entries in pool.price_lists.values():
        for entry in entries:
            named[f"PriceList {entry.document.id} from {time_text(milliseconds(entry.document.effective_from))}"] = (
                entry.source
            )
    if pool.product:
        named[f"Product {pool.product.document.id}"] = pool.product.source
    return named


def _edited(old: Pool, new: Pool, documents: Iterable[DocumentChange]) -> list[Finding]:
    was, now = _named(old), _named(new)
    return [
        _finding(
            "MON119",
            now.get(document.name) or was[document.name],
            f"{document.name}, which is published, got {document.change}; "
            "expected it to stay, since agreements may be on it",
        )
        for document in documents
        if document.is_published and document.change != "added"
    ]


def _finding(code: str, source: Source, details: str, *, path: Path = (), sid: str | None = None) -> Finding:
    rule = CATALOGUE[code]
    return Finding(
        finding_type=rule.finding_type,
        issue_code=code,
        document=source.document,
        sid=sid,
        locations=(source.location(path),),
        finding_details=details,
        resolution=rule.resolution,
    )


def _dearer_move(pair: Pair, comparison: Comparison) -> Finding:
    assert pair.old is not None
    assert pair.new is not None
    dearer = [change for change in comparison.changes if change.direction.is_increase]
    where = ", ".join(dict.fromkeys(change.dimension or change.subject or change.kind.value for change in dearer))
    return _finding(
        "MON213",
        pair.new.entry.source,
        f"move from {pair.old.reference} to {pair.new.reference}, got {comparison.direction} for {where}; "
        "expected no higher charge",
    )


def _caught(before: _Side, after: _Side) -> list[Finding]:
    """MON218: statements that reach a new route by a wildcard."""
    known = {str(route) for sold in before.plans.values() for route in sold.expansion.routes}
    found: dict[tuple[str, str], tuple[Match, list[str]]] = {}
    for sold in after.newest.values():
        for route, matches in sold.expansion.matches.items():
            for match in matches if str(route) not in known else ():
                statement = match.attached.statement
                is_wild = not match.rank[1] or {Segment.REST, Segment.ONE} & {*match.rank[0]}
                opens = isinstance(statement, Access) and statement.effect == "Allow"
                if is_wild and (opens or isinstance(statement, Meter)):
                    _, routes = found.setdefault((match.attached.policy, statement.sid), (match, []))
                    if str(route) not in routes:
                        routes.append(str(route))
    return [
        _finding(
            "MON218",
            after.pool.sources[match.attached.document],
            f"{policy}/{sid}, got the new route {', '.join(routes)} "
            f"{'metered' if isinstance(match.attached.statement, Meter) else 'allowed'} by a wildcard; "
            "expected a statement that names it",
            path=(*match.attached.path, "Resource"),
            sid=sid,
        )
        for (policy, sid), (match, routes) in found.items()
    ]


def _allowed(comparison: Comparison, allow: Collection[str]) -> Comparison:
    sold = comparison.new or comparison.old or ""
    plan_id = sold.partition("@")[0]
    return replace(
        comparison,
        changes=tuple(
            replace(
                change,
                is_allowed=change.direction.is_increase
                and (sold in allow or bool(change.dimension and f"{plan_id}:{change.dimension}" in allow)),
            )
            for change in comparison.changes
        ),
    )


def allowable(old: Pool, new: Pool) -> frozenset[str]:
    """What ``allow`` may name: ``PLAN@V``, ``PLAN:DIMENSION`` and the product's id, of either pool."""
    names: set[str] = set()
    for pool in (old, new):
        dimensions = pool.product.document.marketplace.dimensions if pool.product else {}
        names |= {pool.product.document.id} if pool.product else set()
        names |= set(pool.plans)
        names |= {f"{entry.document.id}:{dimension}" for entry in pool.plans.values() for dimension in dimensions}
    return frozenset(names)
