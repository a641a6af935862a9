"""What a rule is, what it is given, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from textwrap import dedent

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.plan_table import Cell, LineState
from marketplace_constructs.policy.documents import (
    Channel,
    Limit,
    Limits,
    Meter,
    Parameter,
    Plan,
    Policy,
    PriceList,
    ProductDocument,
)
from marketplace_constructs.policy.evaluation import (
    Attached,
    Expansion,
    Match,
    TooIntertwinedError,
    attach,
    expand,
    is_plan_wide,
)
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Entry, Pool
from marketplace_constructs.policy.source import Path


class CheckedBy(StrEnum):
    """Where a rule is looked at."""

    READER = "reader"
    """While a document is read: one document alone shows it."""
    DOCUMENTS = "documents"
    """By the linter, from the documents."""
    ROUTES = "routes"
    """By the linter, from the documents and the routes of the API."""
    BOTH = "both"
    """By the linter: a part of it needs the routes."""
    DIFF = "diff"
    """By ``sellable diff``, from two states of the pool."""
    DOCTOR = "doctor"
    """By ``sellable doctor``, from the live account."""
    NOBODY = "nobody"
    """No document can break it in this version of the language; its code is kept."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One place where a rule is broken.

    Args:
        document: The file.
        path: Where in it.
        details: Lower case, without full stop: what was got, what is expected.
        sid: The statement that it is about.
        also: Further places in the same document.
    """

    document: str
    path: Path
    details: str
    sid: str | None = None
    also: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the linter, with all that is ever said about it.

    Args:
        code: Stable and public, such as ``MON105``.
        finding_type: How much it weighs.
        title: What it forbids, in a few words.
        why: What would go wrong.
        bad: Members of documents that break it, in YAML; what is left out is as in any sound pool. A list is a
            policy's statements; ``---`` stands between documents.
        good: The same, mended.
        resolution: The next step.
        check: Finds where it is broken; None where the reader, the diff or the doctor does.
        checked_by: Where it is looked at.
    """

    code: str
    finding_type: FindingType
    title: str
    why: str
    bad: str
    good: str
    resolution: str
    check: Callable[[Context], Iterable[Found]] | None
    checked_by: CheckedBy = CheckedBy.DOCUMENTS

    def __post_init__(self) -> None:
        for name in ("bad", "good"):
            lines = dedent(getattr(self, name)).splitlines()
            object.__setattr__(self, name, "\n".join(line for line in lines if line.strip()) + "\n")


@dataclass(frozen=True, kw_only=True)
class PlanView:
    """A plan that can be worked out: every policy that it names is there.

    Args:
        entry: The plan and its text.
        attached: Its statements, active or not.
        expansion: None without routes, or where its conditions are too intertwined.
        too_intertwined: Why there is no expansion.
    """

    entry: Entry[Plan]
    attached: tuple[Attached, ...]
    expansion: Expansion | None = None
    too_intertwined: TooIntertwinedError | None = None

    @property
    def plan(self) -> Plan:
        """The document."""
        return self.entry.document

    @property
    def document(self) -> str:
        """The file."""
        return self.entry.source.document

    @property
    def is_sent(self) -> bool:
        """Whether its usage is sent to Marketplace."""
        return self.plan.channel is Channel.MARKETPLACE

    @property
    def is_sold(self) -> bool:
        """Whether anybody outside the company pays for it."""
        return self.plan.channel is not Channel.INTERNAL

    @cached_property
    def meters(self) -> tuple[tuple[Attached, Meter], ...]:
        """The Meters that are in force."""
        return tuple(
            (one, one.statement) for one in self.attached if one.is_active and isinstance(one.statement, Meter)
        )

    @property
    def limits(self) -> Iterator[Limits]:
        """What holds the whole plan back: its own throttle and the Limits on every method of ``/**``."""
        if self.plan.throttle is not None:
            yield self.plan.throttle
        for one in self.attached:
            if one.is_active and isinstance(one.statement, Limit) and is_plan_wide(one.statement):
                yield one.statement.throttle

    @cached_property
    def named(self) -> Mapping[tuple[str, str], Attached]:
        """Each statement by policy and Sid."""
        return {(one.policy, one.statement.sid): one for one in self.attached}

    @cached_property
    def billable(self) -> Mapping[tuple[str, str], tuple[Cell, ...]]:
        """The cells that each Meter bills, on routes that may be called, by policy and Sid."""
        found: dict[tuple[str, str], list[Cell]] = {}
        if self.expansion is not None:
            allowed = self.expansion.table.allowed
            for cell in self.expansion.table.cells:
                if cell.state is LineState.BILLABLE and (cell.method, cell.path) in allowed:
                    found.setdefault((cell.policy, cell.sid), []).append(cell)
        return {name: tuple(cells) for name, cells in found.items()}

    @cached_property
    def exempting(self) -> Mapping[tuple[str, str, str], frozenset[tuple[str, str]]]:
        """The Exempts, by policy and Sid, that take any line of a dimension on a route, by dimension, method, path."""
        found: dict[tuple[str, str, str], set[tuple[str, str]]] = {}
        for cell in () if self.expansion is None else self.expansion.table.cells:
            if cell.state is LineState.EXEMPT:
                found.setdefault((cell.dimension, cell.method, cell.path), set()).add((cell.policy, cell.sid))
        return {key: frozenset(names) for key, names in found.items()}

    @cached_property
    def routes(self) -> Mapping[tuple[str, str], Route]:
        """The routes by method and path."""
        return {} if self.expansion is None else {(r.method, r.path): r for r in self.expansion.routes}

    def billed_routes(self) -> Iterator[tuple[Attached, Meter, Route]]:
        """Each Meter with each route on which it bills anything."""
        for name, cells in self.billable.items():
            one = self.named[name]
            assert isinstance(one.statement, Meter)
            for key in dict.fromkeys((cell.method, cell.path) for cell in cells):
                yield one, one.statement, self.routes[key]

    @cached_property
    def shapes(self) -> tuple[tuple[tuple[Match, ...], tuple[Route, ...]], ...]:
        """The routes that the same statements match in the same ranks, together."""
        groups: dict[tuple[int, ...], tuple[tuple[Match, ...], list[Route]]] = {}
        if self.expansion is not None:
            for route, matches in self.expansion.matches.items():
                # A match is one object on all routes that it has the same rank on.
                groups.setdefault(tuple(map(id, matches)), (matches, []))[1].append(route)
        return tuple((matches, tuple(routes)) for matches, routes in groups.values())


@dataclass(frozen=True, kw_only=True)
class Context:
    """All that a rule may look at.

    Args:
        pool: The documents that can be read.
        product: The product.
        routes: As the API declares them; None where they are not known.
        stage: The stage's name, for ``api:Stage``.
        now: Aware, UTC.
        log_fields: The members of a line of the access log.
    """

    pool: Pool
    product: ProductDocument
    routes: tuple[Route, ...] | None
    stage: str
    now: datetime
    log_fields: frozenset[str]
    plans: tuple[PlanView, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plans", tuple(self._views()))

    def _views(self) -> Iterator[PlanView]:
        for entry in self.pool.plans.values():
            plan = entry.document
            if not all(name in self.pool.policies for name in (*plan.policies, *self.pool.guardrails(plan))):
                continue
            attached = attach(self.pool, plan, stage=self.stage)
            try:
                expansion = None if self.routes is None else expand(self.pool, plan, self.routes, stage=self.stage)
            except TooIntertwinedError as error:
                yield PlanView(entry=entry, attached=attached, too_intertwined=error)
            else:
                yield PlanView(
                    entry=entry,
                    attached=attached if expansion is None else expansion.attached,
                    expansion=expansion,
                )

    @property
    def product_file(self) -> str:
        """The product's file."""
        assert self.pool.product is not None
        return self.pool.product.source.document

    @cached_property
    def unreadable(self) -> frozenset[str]:
        """The folders in which a document cannot be read, such as ``policies``: what is missing may be in there."""
        return frozenset(fault.document.partition("/")[0] for fault in self.pool.faults)

    @cached_property
    def newest_plans(self) -> tuple[Entry[Plan], ...]:
        """The newest version of each plan, by id."""
        newest: dict[str, Entry[Plan]] = {}
        for entry in self.pool.plans.values():
            known = newest.get(entry.document.id)
            if known is None or known.document.plan_version < entry.document.plan_version:
                newest[entry.document.id] = entry
        return tuple(newest[name] for name in sorted(newest))

    def price_lists(self, name: str) -> tuple[Entry[PriceList], ...]:
        """The price lists of one id that hold now or later."""
        entries = self.pool.price_lists.get(name, ())
        past = [entry for entry in entries if entry.document.effective_from <= self.now]
        return (*past[-1:], *entries[len(past) :])

    def parameters(self, policy: Policy) -> Iterator[tuple[Entry[Plan], Mapping[str, Decimal]]]:
        """What each plan that attaches a policy sets for it."""
        for entry in self.pool.plans.values():
            if policy.reference in {*entry.document.policies, *self.pool.guardrails(entry.document)}:
                yield entry, entry.document.parameters.get(policy.id, {})


def in_statement(one: Attached, details: str, *members: str | int) -> Found:
    """A finding about a statement, or about one of its members."""
    return Found(document=one.document, path=(*one.path, *members), details=details, sid=one.statement.sid)


def by_statement(found: Iterable[tuple[Attached, Route]]) -> Iterator[tuple[Attached, str]]:
    """Each statement once, whatever plans attach it, with its routes in words."""
    routes: dict[tuple[str, Path], tuple[Attached, dict[Route, None]]] = {}
    for one, route in found:
        routes.setdefault((one.document, one.path), (one, {}))[1][route] = None
    for one, several in routes.values():
        yield one, routes_text(several)


def routes_text(routes: Iterable[Route]) -> str:
    """Up to three routes by name, and how many more there are."""
    names = [str(route) for route in sorted(set(routes))]
    rest = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def in_bounds(parameter: Parameter, value: Decimal) -> bool:
    """Whether a parameter admits a value."""
    return (
        (parameter.type != "Integer" or value == value.to_integral_value())
        and (parameter.min is None or value >= parameter.min)
        and (parameter.max is None or value <= parameter.max)
    )
