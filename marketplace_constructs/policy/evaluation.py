"""What a plan means on the routes of an API: the statements in force, and the table that they expand to.

The order of statements, policies and attachments never matters. Where it could, because two Meters of one dimension
are equal in rank and not disjoint, that is a tie: an error, never a choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from marketplace_constructs.domain.plan_table import Cell, EventMeter, LineState, PlanTable, RouteAccess
from marketplace_constructs.policy.conditions import (
    EVERYWHERE,
    Region,
    boxes,
    condition_keys,
    condition_region,
    difference,
    intersection,
    is_empty,
    meter_region,
)
from marketplace_constructs.policy.documents import DEPLOY_KEYS, Access, Exempt, Limit, Meter, Plan, Policy
from marketplace_constructs.policy.patterns import Route, RouteTree, Specificity, expanded
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.source import Path

MAX_PIECES: Final = 4_096
"""Into how many regions the conditions on one route may cut one dimension: bounds what a hostile pool can ask for."""

MAX_COMPARISONS: Final = 1_000_000
"""Of Meters of equal rank with each other, on all routes together: a few seconds' work."""

Rank = tuple[Specificity, bool, int]
"""Specificity of the pattern, method named, number of distinct condition keys: the largest wins."""


class TooIntertwinedError(Exception):
    """The conditions on one route cut a dimension into too many regions, or are too many to compare."""

    def __init__(self, route: Route, dimension: str) -> None:
        super().__init__(f"{route}: {dimension}")
        self.route = route
        self.dimension = dimension


@dataclass(frozen=True, kw_only=True, eq=False)
class Attached:
    """A statement in force on a plan.

    Args:
        statement: As written.
        policy: ``id@version``.
        document: The file that it stands in.
        path: Where in it.
        multiply: The weight, its parameter resolved; 1 but for a Meter.
        bills_server_errors: The policy says so.
        is_active: Its deploy condition holds under this plan; otherwise it matches nothing.
        is_guardrail: The segment attaches it, not the plan.
    """

    statement: Access | Meter | Exempt | Limit
    policy: str
    document: str
    path: Path
    multiply: Decimal = Decimal(1)
    bills_server_errors: bool = False
    is_active: bool = True
    is_guardrail: bool = False

    @property
    def region(self) -> Region:
        """The lines for which its condition holds, whatever the route."""
        if isinstance(self.statement, Meter):
            return meter_region(self.statement.condition, bills_server_errors=self.bills_server_errors)
        return condition_region(self.statement.condition) if isinstance(self.statement, Exempt) else EVERYWHERE


@dataclass(frozen=True, kw_only=True, eq=False)
class Match:
    """A statement on a route that it matches, through its most specific pattern."""

    attached: Attached
    rank: Rank
    region: Region


@dataclass(frozen=True, kw_only=True)
class Tie:
    """Two Meters between which nothing decides, on some route (or event) and dimension."""

    one: Attached
    other: Attached
    route: Route | None
    dimension: str


@dataclass(frozen=True, kw_only=True)
class Throttled:
    """The smallest limits that hold; None where no Limit speaks of it."""

    rate_limit: Decimal
    burst_limit: int


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """A plan worked out against routes.

    Args:
        plan: ``id@version``.
        table: What runs. Of ties, the statement that comes first by Sid and policy stands in it; use no table that
            has ties.
        attached: Every statement of the plan, active or not.
        matches: By route, the statements that match it, the highest rank first.
        routes: Expanded, without CORS preflights.
        ties: Each pair once per dimension, with the first route on which it shows.
        throttle: The Limits on every method of ``/**``, and the plan's own throttle.
        method_throttles: The other Limits, by route; never looser than ``throttle``.
    """

    plan: str
    table: PlanTable
    attached: tuple[Attached, ...]
    matches: Mapping[Route, tuple[Match, ...]]
    routes: tuple[Route, ...]
    ties: tuple[Tie, ...]
    throttle: Throttled | None
    method_throttles: Mapping[Route, Throttled]

    def on(self, method: str, path: str) -> tuple[Match, ...]:
        """The statements that match one route; none where it is not in the table."""
        return self.matches.get(Route(path=path, method=method), ())


def attach(pool: Pool, plan: Plan, *, stage: str = "prod") -> tuple[Attached, ...]:
    """The statements of a plan: of its policies and of its segment's guardrails.

    Args:
        pool: Where the policies are; one that is missing adds nothing, which a rule finds.
        plan: The plan.
        stage: The stage's name, for ``api:Stage``.
    """
    deploy = {"plan:Segment": plan.segment, "plan:Id": plan.id, "api:Stage": stage}
    attached: dict[str, None] = dict.fromkeys((*plan.policies, *pool.guardrails(plan)))
    guardrails = set(pool.guardrails(plan))
    result: list[Attached] = []
    for reference in attached:
        entry = pool.policies.get(reference)
        if entry is not None:
            result += attach_policy(
                entry.document,
                document=entry.source.document,
                parameters=plan.parameters.get(entry.document.id, {}),
                deploy=deploy,
                is_guardrail=reference in guardrails,
            )
    return tuple(result)


def attach_policy(
    policy: Policy,
    *,
    document: str,
    parameters: Mapping[str, Decimal],
    deploy: Mapping[str, str],
    is_guardrail: bool = False,
) -> tuple[Attached, ...]:
    """The statements of one policy, with parameters set and deploy conditions decided.

    Args:
        policy: The policy.
        document: The file that it stands in.
        parameters: What the plan sets; the rest has the policy's defaults.
        deploy: The value of each deploy key.
        is_guardrail: The segment attaches it.
    """
    values = {name: parameter.default for name, parameter in policy.parameters.items()} | dict(parameters)
    result = []
    for index, statement in enumerate(policy.statement):
        multiply = statement.quantity.multiply if isinstance(statement, Meter) else Decimal(1)
        result.append(
            Attached(
                statement=statement,
                policy=policy.reference,
                document=document,
                path=("Statement", index),
                multiply=values.get(multiply, Decimal(1)) if isinstance(multiply, str) else multiply,
                bills_server_errors=policy.bill_server_errors,
                is_active=_holds_at_deployment(statement, deploy),
                is_guardrail=is_guardrail,
            )
        )
    return tuple(result)


def expand(pool: Pool, plan: Plan, routes: Iterable[Route], *, stage: str = "prod") -> Expansion:
    """Work a plan out against routes.

    Args:
        pool: The documents.
        plan: One of its plans.
        routes: As the API declares them; ``ANY`` stands for every method not declared on its path.
        stage: The stage's name.

    Raises:
        TooIntertwinedError: The conditions on a route are too many.
    """
    limits = plan.throttle
    own = None if limits is None else Throttled(rate_limit=limits.rate_limit, burst_limit=limits.burst_limit)
    return expand_attached(
        attach(pool, plan, stage=stage),
        routes,
        plan=plan.reference,
        product=plan.product,
        segment=plan.segment,
        channel=plan.channel.value,
        throttle=own,
    )


def expand_attached(
    attached: Sequence[Attached],
    routes: Iterable[Route],
    *,
    plan: str,
    product: str = "",
    segment: str = "",
    channel: str = "",
    throttle: Throttled | None = None,
) -> Expansion:
    """Work statements out against routes; see ``expand``."""
    sold = tuple(route for route in expanded(routes) if not route.is_preflight)
    matches = _matches(attached, sold)
    ties: dict[tuple[int, int, str], Tie] = {}
    accesses: list[RouteAccess] = []
    cells: list[Cell] = []
    # Routes that the same statements match in the same ranks have the same cells.
    known: dict[tuple[tuple[int, Rank], ...], tuple[tuple[Cell, ...], tuple[Tie, ...]]] = {}
    comparisons = _Comparisons()
    for route in sold:
        on_route = matches[route]
        accesses.append(_access(route, on_route))
        signature = tuple((id(match.attached), match.rank) for match in on_route)
        if signature not in known:
            # With so many ties, one more tells nothing.
            known[signature] = _cells(route, on_route, comparisons if len(ties) < MAX_PIECES else None)
        shape, found = known[signature]
        cells += [_moved(cell, route) for cell in shape]
        for tie in found:
            ties.setdefault((id(tie.one), id(tie.other), tie.dimension), tie)
    events, event_ties = _events(attached)
    plan_wide, by_route = _throttles(matches, throttle, attached)
    return Expansion(
        plan=plan,
        table=PlanTable(
            plan=plan,
            product=product,
            segment=segment,
            channel=channel,
            routes=tuple(accesses),
            cells=tuple(cells),
            events=events,
        ),
        attached=tuple(attached),
        matches=matches,
        routes=sold,
        ties=(*ties.values(), *event_ties),
        throttle=plan_wide,
        method_throttles=by_route,
    )


def _holds_at_deployment(statement: Access | Meter | Exempt | Limit, deploy: Mapping[str, str]) -> bool:
    equals = statement.condition.string_equals if statement.condition else None
    return all(deploy[key] in values for key, values in (equals or {}).items() if key in DEPLOY_KEYS)


def _matches(attached: Sequence[Attached], routes: Sequence[Route]) -> dict[Route, tuple[Match, ...]]:
    tree = RouteTree(route.path for route in routes)
    on_path: dict[str, list[Route]] = {}
    for route in routes:
        on_path.setdefault(route.path, []).append(route)
    found: dict[Route, list[Match]] = {route: [] for route in routes}
    for one in attached:
        actions = one.statement.action
        if not one.is_active or actions is None:
            continue
        region = one.region
        keys = len(condition_keys(one.statement.condition))
        shared: dict[Rank, Match] = {}
        for path, specificity in _best(one, tree).items():
            for route in on_path[path]:
                is_named = route.method in actions
                if is_named or "*" in actions:
                    rank = (specificity, is_named, keys)
                    found[route].append(shared.setdefault(rank, Match(attached=one, rank=rank, region=region)))
    # Sorted by name first, so that nothing depends on the order of the documents.
    for on_route in found.values():
        on_route.sort(key=_name)
        on_route.sort(key=lambda match: match.rank, reverse=True)
    return {route: tuple(on_route) for route, on_route in found.items()}


def _best(attached: Attached, tree: RouteTree) -> dict[str, Specificity]:
    """The paths that a statement matches, each with its most specific pattern's specificity."""
    best: dict[str, Specificity] = {}
    for pattern in attached.statement.resource or ():
        specificity = pattern.specificity
        for path in tree.matches(pattern):
            if specificity > best.get(path, ()):
                best[path] = specificity
    return best


def _name(match: Match) -> tuple[str, str]:
    return match.attached.statement.sid, match.attached.policy


def _access(route: Route, matches: Iterable[Match]) -> RouteAccess:
    deciding: Match | None = None
    for match in matches:
        statement = match.attached.statement
        if isinstance(statement, Access):
            if statement.effect == "Deny":
                deciding = match
                break
            deciding = deciding or match
    if deciding is None:
        return RouteAccess(method=route.method, path=route.path, is_allowed=False)
    return RouteAccess(
        method=route.method,
        path=route.path,
        is_allowed=getattr(deciding.attached.statement, "effect", "") == "Allow",
        policy=deciding.attached.policy,
        sid=deciding.attached.statement.sid,
    )


class _Comparisons:
    """Counts what is compared, over all routes."""

    def __init__(self) -> None:
        self.left = MAX_COMPARISONS

    def count(self, route: Route, dimension: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise TooIntertwinedError(route, dimension)


def _cells(
    route: Route, matches: Sequence[Match], comparisons: _Comparisons | None
) -> tuple[tuple[Cell, ...], tuple[Tie, ...]]:
    meters: dict[str, list[Match]] = {}
    for match in matches:
        if isinstance(match.attached.statement, Meter):
            meters.setdefault(match.attached.statement.dimension, []).append(match)
    cells: list[Cell] = []
    ties: list[Tie] = []
    for dimension, candidates in sorted(meters.items()):
        if comparisons is not None:
            ties += _ties(route, dimension, candidates, comparisons)
        # Among Exempts only the pattern decides which of them is named.
        exempts = sorted((match for match in matches if _exempts(match.attached, dimension)), key=_name)
        exempts.sort(key=lambda match: match.rank[0], reverse=True)
        cells += _dimension_cells(route, dimension, [*exempts, *candidates])
    return tuple(cells), tuple(ties)


def _exempts(attached: Attached, dimension: str) -> bool:
    statement = attached.statement
    return isinstance(statement, Exempt) and ("*" in statement.dimension or dimension in statement.dimension)


def _ties(route: Route, dimension: str, candidates: Sequence[Match], comparisons: _Comparisons) -> list[Tie]:
    ties = []
    for index, one in enumerate(candidates):
        for other in candidates[index + 1 :]:
            if other.rank != one.rank:
                break
            comparisons.count(route, dimension)
            if not is_empty(intersection(one.region, other.region)):
                ties.append(Tie(one=one.attached, other=other.attached, route=route, dimension=dimension))
                if len(ties) > MAX_PIECES:
                    return ties
    return ties


def _dimension_cells(route: Route, dimension: str, candidates: Sequence[Match]) -> list[Cell]:
    """Give each candidate, in order, what is left of its region; what nobody takes is failed."""
    cells: list[Cell] = []
    rest: list[Region] = [EVERYWHERE]
    for match in candidates:
        left: list[Region] = []
        for region in rest:
            taken = intersection(region, match.region)
            if is_empty(taken):
                left.append(region)
                continue
            cells += _boxed(route, dimension, match.attached, taken, room=MAX_PIECES - len(cells))
            left += difference(region, match.region)
        rest = left
        if len(rest) > MAX_PIECES:
            raise TooIntertwinedError(route, dimension)
        if not rest:
            break
    for region in rest:
        cells += _boxed(route, dimension, None, region, room=MAX_PIECES - len(cells))
    return sorted(cells, key=lambda cell: (cell.status, cell.response_bytes, cell.integration_ms, cell.time_ms))


def _boxed(route: Route, dimension: str, attached: Attached | None, region: Region, *, room: int) -> Iterable[Cell]:
    # Counted first: a few thousand values of each key make more boxes than any memory holds.
    if math.prod(map(len, region)) > room:
        raise TooIntertwinedError(route, dimension)
    statement = attached.statement if attached else None
    for status, size, latency, time in boxes(region):
        if attached is None or statement is None:
            yield Cell(
                method=route.method,
                path=route.path,
                dimension=dimension,
                state=LineState.FAILED,
                status=status,
                response_bytes=size,
                integration_ms=latency,
                time_ms=time,
            )
            continue
        quantity = statement.quantity if isinstance(statement, Meter) else None
        yield Cell(
            method=route.method,
            path=route.path,
            dimension=dimension,
            state=LineState.BILLABLE if quantity else LineState.EXEMPT,
            policy=attached.policy,
            sid=statement.sid,
            metric=quantity.metric if quantity else "",
            round_up=(quantity.round_up_per_request or 1) if quantity else 1,
            multiply=attached.multiply,
            base_units=quantity.base_units if quantity else 1,
            status=status,
            response_bytes=size,
            integration_ms=latency,
            time_ms=time,
        )


def _moved(cell: Cell, route: Route) -> Cell:
    """The same cell on another route."""
    if cell.method == route.method and cell.path == route.path:
        return cell
    return Cell(**{**cell.__dict__, "method": route.method, "path": route.path})


def _events(attached: Sequence[Attached]) -> tuple[tuple[EventMeter, ...], tuple[Tie, ...]]:
    meters: dict[tuple[str, str], list[Attached]] = {}
    for one in sorted(attached, key=lambda a: (a.statement.sid, a.policy)):
        statement = one.statement
        if isinstance(statement, Meter) and statement.quantity.event:
            meters.setdefault((statement.quantity.event, statement.dimension), []).append(one)
    events = []
    ties = []
    for (event, dimension), several in sorted(meters.items()):
        first = several[0]
        assert isinstance(first.statement, Meter)
        events.append(
            EventMeter(
                event=event,
                dimension=dimension,
                policy=first.policy,
                sid=first.statement.sid,
                round_up=first.statement.quantity.round_up_per_request or 0,
                multiply=first.multiply,
            )
        )
        ties += [Tie(one=first, other=other, route=None, dimension=dimension) for other in several[1:]]
    return tuple(events), tuple(ties)


def is_plan_wide(limit: Limit) -> bool:
    """Whether a Limit holds for the whole API: every method of ``/**``."""
    return "*" in limit.action and any(str(pattern) == "/**" for pattern in limit.resource)


def _throttles(
    matches: Mapping[Route, Sequence[Match]], own: Throttled | None, attached: Sequence[Attached]
) -> tuple[Throttled | None, dict[Route, Throttled]]:
    plan_wide = own
    for one in attached:
        if one.is_active and isinstance(one.statement, Limit) and is_plan_wide(one.statement):
            plan_wide = _tighter(plan_wide, one.statement)
    by_route: dict[Route, Throttled] = {}
    for route, on_route in matches.items():
        limit: Throttled | None = None
        for match in on_route:
            statement = match.attached.statement
            if isinstance(statement, Limit) and not is_plan_wide(statement):
                limit = _tighter(limit or plan_wide, statement)
        if limit is not None:
            by_route[route] = limit
    return plan_wide, by_route


def _tighter(throttle: Throttled | None, limit: Limit) -> Throttled:
    rate, burst = limit.throttle.rate_limit, limit.throttle.burst_limit
    if throttle is None:
        return Throttled(rate_limit=rate, burst_limit=burst)
    return Throttled(rate_limit=min(rate, throttle.rate_limit), burst_limit=min(burst, throttle.burst_limit))
