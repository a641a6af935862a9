"""What a move from one plan's table to another's changes: access and counts, without prices, which no table holds."""

from __future__ import annotations

from collections.abc import Iterator

from marketplace_constructs.domain.plan_table import EVERY, NO_LIMIT, Cell, EventMeter, Interval, LineState, PlanTable
from marketplace_constructs.policy.charges import AXES, Count, why_not_counted
from marketplace_constructs.policy.comparison import Change, ChangeKind

_NOT_COUNTED = "not counted"


def moved(old: PlanTable | None, new: PlanTable) -> tuple[Change, ...]:
    """What changes for an agreement that moves.

    Args:
        old: None where it had no plan.
        new: The table of the plan that it moves to.
    """
    return (*_access(old, new), *_counts(old, new), *_events(old, new), *_terms(old, new))


def _access(old: PlanTable | None, new: PlanTable) -> Iterator[Change]:
    was = old.allowed if old else frozenset()
    for subject, routes in (("opened", new.allowed - was), ("closed", was - new.allowed)):
        if routes:
            names = tuple(sorted(f"{method} {path}" for method, path in routes))
            before, after = ("refused", "allowed") if subject == "opened" else ("allowed", "refused")
            yield Change(kind=ChangeKind.ACCESS, subject=subject, routes=names, old=before, new=after)


def _counts(old: PlanTable | None, new: PlanTable) -> Iterator[Change]:
    was, now = _words(old), _words(new)
    changes: dict[tuple[str, str, str], list[str]] = {}
    for route, dimension in sorted({*was, *now}):
        before, after = (words.get((route, dimension), _NOT_COUNTED) for words in (was, now))
        if before != after:
            changes.setdefault((dimension, before, after), []).append(route)
    for (dimension, before, after), routes in changes.items():
        yield Change(kind=ChangeKind.COUNT, dimension=dimension, routes=tuple(routes), old=before, new=after)


def _words(table: PlanTable | None) -> dict[tuple[str, str], str]:
    """What each open route counts for each dimension."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in table.cells if table else ():
        if table and (cell.method, cell.path) in table.allowed:
            cells.setdefault((f"{cell.method} {cell.path}", cell.dimension), []).append(cell)
    return {place: "; ".join(_word(cell) for cell in several) for place, several in cells.items()}


def _word(cell: Cell) -> str:
    what = str(Count.of(cell)) if cell.state is LineState.BILLABLE else why_not_counted(cell)
    box = (cell.status, cell.response_bytes, cell.integration_ms, cell.time_ms)
    where = [f"{axis} {_range(interval)}" for axis, interval in zip(AXES, box, strict=True) if interval != EVERY]
    return f"{what} ({', '.join(where)})" if where else what


def _range(interval: Interval) -> str:
    first, end = interval
    return f"from {first}" if end == NO_LIMIT else str(first) if end == first + 1 else f"{first}..{end - 1}"


def _events(old: PlanTable | None, new: PlanTable) -> Iterator[Change]:
    was, now = (_meters(table) for table in (old, new))
    for event, dimension in sorted({*was, *now}):
        before, after = (words.get((event, dimension), _NOT_COUNTED) for words in (was, now))
        if before != after:
            yield Change(kind=ChangeKind.EVENT, subject=event, dimension=dimension, old=before, new=after)


def _meters(table: PlanTable | None) -> dict[tuple[str, str], str]:
    def word(meter: EventMeter) -> str:
        return str(Count("event", meter.round_up, meter.multiply))

    return {(meter.event, meter.dimension): word(meter) for meter in (table.events if table else ())}


def _terms(old: PlanTable | None, new: PlanTable) -> Iterator[Change]:
    for subject in ("segment", "channel"):
        before, after = (getattr(table, subject) if table else "none" for table in (old, new))
        if before != after:
            yield Change(kind=ChangeKind.TERMS, subject=subject, old=before, new=after)
