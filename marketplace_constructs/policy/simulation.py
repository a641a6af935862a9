"""What one call, or a whole log, would be billed under a plan, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Final

from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable
from marketplace_constructs.policy.access_logs import AccessLog, Progress, Usage, log_of
from marketplace_constructs.policy.conditions import Region, condition_region, names_status
from marketplace_constructs.policy.documents import DEPLOY_KEYS, Access, Exempt, LineCondition, Meter, PriceList
from marketplace_constructs.policy.evaluation import Attached, Expansion, Match
from marketplace_constructs.policy.patterns import RouteTree
from marketplace_constructs.queries.usage import SKIPPED, UNPARSABLE, quantity_of

DECIMALS: Final = 9
"""Quantities are shown floored at as many decimals; the sum before it is exact."""
_NOT_ACCEPTED: Final = frozenset({SKIPPED, UNPARSABLE, LineState.REFUSED.value, LineState.UNATTRIBUTED.value})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a dimension's usage costs by the price list in force at its time.

    Args:
        quantity: Exact.
        amount: Exact, in the list's currency; None where no list in force has a price.
    """

    dimension: str
    quantity: Fraction
    amount: Fraction | None


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a log comes to under one plan.

    Args:
        plan: ``id@version``.
        skipped: Lines of another plan, or of none.
        duplicates: Lines that repeat another's ``extendedRequestId``; not in the totals.
        unparsable: Lines that cannot be read; not in the totals.
        totals: Sorted by dimension, policy, sid and state; keys as asked for.
        estimates: Sorted by dimension; those with a billable line.
    """

    plan: str
    skipped: int
    duplicates: int
    unparsable: int
    totals: tuple[Usage, ...]
    estimates: tuple[Estimate, ...]

    @property
    def native_calls(self) -> tuple[int, int]:
        """What API Gateway's own metering bills: from the successful to all accepted calls.

        Source: AWS does not say which statuses it counts (API Gateway developer guide, selling through Marketplace;
        read 2026-11-21).
        """
        billable = sum(total.lines for total in self.totals if total.state == LineState.BILLABLE)
        return billable, sum(total.lines for total in self.totals if total.state not in _NOT_ACCEPTED)


@dataclass(frozen=True, kw_only=True)
class JudgedLine:
    """What one line counts for one dimension.

    Args:
        line: Its index, from 0.
    """

    line: int
    dimension: str | None
    state: str
    policy: str | None
    sid: str | None
    quantity: Fraction


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call, as the access log would show it; times in milliseconds, absent numbers 0.

    Args:
        path: The route's template.
        time: UTC.
    """

    method: str
    path: str
    time: datetime
    status: int = 200
    response_bytes: int = 0
    integration_ms: int = 0
    response_ms: int = 0

    @property
    def time_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.time.timestamp()) * 1000 + self.time.microsecond // 1000

    @property
    def point(self) -> tuple[int, int, int, int]:
        """Its values on the axes of a Region."""
        return self.status, self.response_bytes, self.integration_ms, self.time_ms


@dataclass(frozen=True, kw_only=True)
class Loser:
    """A statement that does not decide, and why."""

    policy: str
    sid: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a call counts for one dimension.

    Args:
        state: Billable, exempt, failed, unmetered or refused.
        policy: Of the deciding statement; None where there is none.
        quantity: Exact.
        amount: As in Estimate.
    """

    dimension: str
    state: LineState
    policy: str | None
    sid: str | None
    quantity: Fraction
    amount: Fraction | None
    losers: tuple[Loser, ...]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of one call.

    Args:
        plan: ``id@version``.
        is_known: The table has the route.
        is_allowed: It may be called.
        policy: Of the statement that allows or denies it; None where none speaks of it.
        losers: Statements that do not decide on access.
        verdicts: Sorted by dimension.
    """

    plan: str
    request: Request
    is_known: bool
    is_allowed: bool
    policy: str | None
    sid: str | None
    losers: tuple[Loser, ...]
    verdicts: tuple[Verdict, ...]


def simulate_log(
    table: PlanTable,
    files: Iterable[str | Path],
    *,
    price_lists: Sequence[PriceList] = (),
    by: Sequence[str] = (),
    progress: Progress | None = None,
) -> Simulation:
    """What a log comes to under a plan; in bounded memory, whatever its size.

    Args:
        table: The plan, worked out.
        files: As for ``AccessLog``.
        price_lists: Of the plan's price list, all that there are.
        by: What to tell totals apart by: ``agreement``, ``hour``.
        progress: Is told how far the reading is.

    Raises:
        MarketplaceConstructsError: MP-SIM-01: a file is not there, or cannot be read.
    """
    with AccessLog(files, tables=[table], keeps_agreements="agreement" in by, progress=progress) as log:
        return simulate(log, table, price_lists=price_lists, by=by)


def simulate(
    log: AccessLog, table: PlanTable, *, price_lists: Sequence[PriceList] = (), by: Sequence[str] = ()
) -> Simulation:
    """What a log that is open comes to under a plan; see ``simulate_log``."""
    # Only where prices change does it matter when something was used.
    by_hour = len(price_lists) > 1 and "hour" not in by
    keys = (*by, "hour") if by_hour else tuple(by)
    usages = [usage for usage in log.usage(table, keys) if usage.state != UNPARSABLE]
    return Simulation(
        plan=table.plan,
        skipped=sum(usage.lines for usage in usages if usage.state == SKIPPED),
        duplicates=log.duplicates,
        unparsable=log.unparsable,
        totals=_sorted(_merged([usage for usage in usages if usage.state != SKIPPED], len(by))),
        estimates=_estimates(usages, keys, price_lists),
    )


def simulate_lines(table: PlanTable, lines: Iterable[Mapping[str, object]]) -> tuple[JudgedLine, ...]:
    """What each of a few lines counts, by the very text that bills whole logs.

    Args:
        table: The plan, worked out.
        lines: Members as in the access log. Of lines with one ``extendedRequestId`` only one is judged.

    Returns:
        Sorted by line and dimension; one for each dimension with a Meter on the line's route, else one.
    """
    with log_of(lines) as log:
        return judged_lines(log, table)


def judged_lines(log: AccessLog, table: PlanTable) -> tuple[JudgedLine, ...]:
    """What each line of a log that ``log_of`` has made counts under a table."""
    judged = [
        JudgedLine(
            line=int(usage.keys[0]),
            dimension=usage.dimension,
            state=usage.state,
            policy=usage.policy,
            sid=usage.sid,
            quantity=usage.quantity,
        )
        for usage in log.usage(table, ("line",))
    ]
    return tuple(sorted(judged, key=lambda one: (one.line, one.dimension or "")))


def simulate_request(expansion: Expansion, request: Request, *, price_lists: Sequence[PriceList] = ()) -> Decision:
    """What becomes of one call, which statement decides for each dimension, and why the others do not.

    Args:
        expansion: The plan, worked out on routes among which the request's is.
        request: The call.
        price_lists: Of the plan's price list, all that there are.
    """
    table = expansion.table
    access = next((r for r in table.routes if (r.method, r.path) == (request.method, request.path)), None)
    matches = {id(match.attached): match for match in expansion.on(request.method, request.path)}
    is_allowed = access is not None and access.is_allowed
    losers = []
    for one in expansion.attached:
        statement = one.statement
        if not isinstance(statement, Access) or (access and (access.policy, access.sid) == _name(one)):
            continue
        reason = _no_match(one, request, matches)
        if reason is None:
            is_beaten = statement.effect == "Allow" and not is_allowed and access is not None
            reason = f"denied by {access.sid}" if is_beaten and access else "another statement says the same"
        losers.append(Loser(policy=one.policy, sid=statement.sid, reason=reason))
    meters = {
        s.statement.dimension for s in expansion.attached if isinstance(s.statement, Meter) and s.statement.action
    }
    return Decision(
        plan=table.plan,
        request=request,
        is_known=access is not None,
        is_allowed=is_allowed,
        policy=(access.policy or None) if access else None,
        sid=(access.sid or None) if access else None,
        losers=tuple(losers),
        verdicts=tuple(
            _verdict(expansion, request, dimension, matches, is_allowed=is_allowed, price_lists=price_lists)
            for dimension in sorted(meters)
        ),
    )


def price_in_force(price_lists: Iterable[PriceList], dimension: str, at: datetime) -> Decimal | None:
    """The price of a unit at a time; None where no list is in force, or it names none."""
    lists = sorted((one for one in price_lists if one.effective_from <= at), key=lambda one: one.effective_from)
    return lists[-1].prices.get(dimension) if lists else None


def decimal_text(number: Fraction) -> str:
    """A number of 0 or more as a plain decimal, floored at nine decimals: ``5``, ``0.3``."""
    scaled = number.numerator * 10**DECIMALS // number.denominator
    whole, rest = divmod(scaled, 10**DECIMALS)
    return f"{whole}.{rest:0{DECIMALS}}".rstrip("0").rstrip(".")


def _merged(usages: Iterable[Usage], width: int) -> list[Usage]:
    """The usages, told apart by their first keys only."""
    sums: dict[tuple[object, ...], Usage] = {}
    for usage in usages:
        keys = usage.keys[:width]
        name = (keys, usage.dimension, usage.state, usage.policy, usage.sid)
        before = sums.get(name)
        sums[name] = Usage(
            keys=keys,
            dimension=usage.dimension,
            state=usage.state,
            policy=usage.policy,
            sid=usage.sid,
            lines=usage.lines + (before.lines if before else 0),
            quantity=usage.quantity + (before.quantity if before else 0),
        )
    return list(sums.values())


def _sorted(usages: Iterable[Usage]) -> tuple[Usage, ...]:
    return tuple(
        sorted(
            usages,
            key=lambda u: (u.dimension or "", u.policy or "", u.sid or "", u.state, [str(key) for key in u.keys]),
        )
    )


def _estimates(usages: Iterable[Usage], keys: Sequence[str], price_lists: Sequence[PriceList]) -> tuple[Estimate, ...]:
    quantities: defaultdict[str, Fraction] = defaultdict(Fraction)
    amounts: defaultdict[str, Fraction] = defaultdict(Fraction)
    unpriced = set()
    for usage in usages:
        if usage.state != LineState.BILLABLE or usage.dimension is None:
            continue
        at = datetime.max.replace(tzinfo=UTC)
        if "hour" in keys:
            at = datetime.fromtimestamp(int(usage.keys[keys.index("hour")]) // 1000, tz=UTC)
        price = price_in_force(price_lists, usage.dimension, at)
        quantities[usage.dimension] += usage.quantity
        if price is None:
            unpriced.add(usage.dimension)
        else:
            amounts[usage.dimension] += usage.quantity * Fraction(price)
    return tuple(
        Estimate(dimension=name, quantity=quantity, amount=None if name in unpriced else amounts[name])
        for name, quantity in sorted(quantities.items())
    )


def _verdict(
    expansion: Expansion,
    request: Request,
    dimension: str,
    matches: Mapping[int, Match],
    *,
    is_allowed: bool,
    price_lists: Sequence[PriceList],
) -> Verdict:
    cell = next((c for c in expansion.table.cells if c.dimension == dimension and _holds(c, request)), None)
    state = cell.state if cell else LineState.UNMETERED
    decides = cell is not None and cell.state != LineState.FAILED
    winner = next(
        (m for m in matches.values() if cell and decides and _name(m.attached) == (cell.policy, cell.sid)), None
    )
    quantity = Fraction(0)
    if cell is not None and cell.state == LineState.BILLABLE and is_allowed:
        base = -(-_base(cell, request) // cell.round_up) * cell.round_up
        quantity = quantity_of(base, multiply=cell.multiply, base_units=cell.base_units)
    price = price_in_force(price_lists, dimension, request.time)
    losers = [
        Loser(policy=one.policy, sid=one.statement.sid, reason=_reason(one, request, matches, winner))
        for one in expansion.attached
        if _speaks_of(one, dimension) and (winner is None or one is not winner.attached)
    ]
    return Verdict(
        dimension=dimension,
        state=state if is_allowed else LineState.REFUSED,
        policy=winner.attached.policy if winner else None,
        sid=winner.attached.statement.sid if winner else None,
        quantity=quantity,
        amount=None if price is None else quantity * Fraction(price),
        losers=tuple(losers),
    )


def _holds(cell: Cell, request: Request) -> bool:
    intervals = (cell.status, cell.response_bytes, cell.integration_ms, cell.time_ms)
    return (cell.method, cell.path) == (request.method, request.path) and all(
        start <= value < end for value, (start, end) in zip(request.point, intervals, strict=True)
    )


def _base(cell: Cell, request: Request) -> int:
    return {
        "requests": 1,
        "response.bytes": request.response_bytes,
        "integration.ms": request.integration_ms,
        "response.ms": request.response_ms,
    }[cell.metric]


def _speaks_of(one: Attached, dimension: str) -> bool:
    statement = one.statement
    if isinstance(statement, Meter):
        return statement.dimension == dimension and statement.action is not None
    return isinstance(statement, Exempt) and ("*" in statement.dimension or dimension in statement.dimension)


def _name(one: Attached) -> tuple[str, str]:
    return one.policy, one.statement.sid


def _no_match(one: Attached, request: Request, matches: Mapping[int, Match]) -> str | None:
    """Why a statement does not match the route; None where it does."""
    statement = one.statement
    if id(one) in matches:
        return None
    if not one.is_active:
        equals = (statement.condition.string_equals if statement.condition else None) or {}
        return f"deploy condition {' and '.join(key for key in equals if key in DEPLOY_KEYS)}"
    tree = RouteTree([request.path])
    if any(any(tree.matches(pattern)) for pattern in statement.resource or ()):
        return f"does not name {request.method}"
    return "does not match this route"


def _reason(one: Attached, request: Request, matches: Mapping[int, Match], winner: Match | None) -> str:
    """Why a Meter or Exempt does not decide."""
    unmatched = _no_match(one, request, matches)
    if unmatched is not None:
        return unmatched
    match = matches[id(one)]
    if not _lies_in(request.point, match.region):
        return _failed(one, request)
    if winner is None:
        return "the route is refused"
    if isinstance(winner.attached.statement, Exempt) and isinstance(one.statement, Meter):
        return f"exempt by {winner.attached.statement.sid}"
    return _outranked(match, winner)


def _outranked(match: Match, winner: Match) -> str:
    """By which part of its rank a statement loses against another of its kind."""
    if match.rank[0] != winner.rank[0]:
        return "less specific pattern"
    if isinstance(match.attached.statement, Exempt):
        return f"{winner.attached.statement.sid} comes first by name"
    return "method not named" if match.rank[1] != winner.rank[1] else "fewer condition keys"


def _failed(one: Attached, request: Request) -> str:
    """Which part of a statement's condition does not hold."""
    condition = one.statement.condition
    values = {
        "response:Status": str(request.status),
        "response:StatusClass": str(request.status // 100),
        "response:Bytes": str(request.response_bytes),
        "integration:LatencyMs": str(request.integration_ms),
        "request:Time": f"{request.time:%Y-%m-%dT%H:%M:%SZ}",
    }
    failing: dict[str, str] = {}
    for operator, keys in condition or ():
        for key in keys or {}:
            if key in values:
                alone = LineCondition.model_construct(_fields_set=None, **{operator: {key: keys[key]}})
                if not _lies_in(request.point, condition_region(alone)):
                    failing[key] = values[key]
    if not failing and isinstance(one.statement, Meter):
        is_implicit = not isinstance(condition, LineCondition) or not names_status(condition)
        if is_implicit and request.status // 100 != 2:
            failing["response:StatusClass"] = values["response:StatusClass"]
    if not failing:
        return "server errors are not billed by this policy"
    return f"condition does not hold: {' and '.join(f'{key} = {value}' for key, value in failing.items())}"


def _lies_in(point: Sequence[int], region: Region) -> bool:
    return all(any(start <= value < end for start, end in ranges) for value, ranges in zip(point, region, strict=True))
