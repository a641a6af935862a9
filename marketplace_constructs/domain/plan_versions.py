"""Which table of a plan holds from which hour on, and which plan an agreement has from which hour on.

Both only ever grow by later hours, so that an hour that is over is judged alike for ever. Standard library only, and
little of it: the gate imports this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

HOUR: Final = timedelta(hours=1)
LEAD: Final = timedelta(minutes=5)
"""How long before an hour begins what holds in it is settled: caches that last a minute have seen it by then."""

EVERY_CALL: Final = "every-call@1"
"""The one plan of a product that is sold without documents."""


@dataclass(frozen=True, kw_only=True)
class PlanVersion:
    """What holds for one plan from an hour on.

    Args:
        plan: ``id@version``.
        holds_from: A whole hour, UTC.
        number: 1, or more where earlier deployments spoke of the same hour before it began: the largest holds.
        digest: Names the plan's table.
        usage_plan_id: The usage plan that the keys of the plan's agreements are in.
        segment: The consumers it is for.
        channel: ``Marketplace`` is metered; ``Direct`` and ``Internal`` are reported only.
        assign_to: The plan's AssignTo as JSON text; empty for a plan that is in the stack no more.
        routes: What may be called, as ``METHOD /path``.
    """

    plan: str
    holds_from: datetime
    number: int = 1
    digest: str
    usage_plan_id: str
    segment: str = ""
    channel: str = ""
    assign_to: str = ""
    routes: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """An agreement has a plan from a whole hour on.

    Args:
        plan: ``id@version``.
        takes_effect_at: A whole hour, UTC.
    """

    plan: str
    takes_effect_at: datetime


def hour_of(moment: datetime) -> datetime:
    """When the hour of a moment began, UTC."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def plan_at(assignments: Iterable[Assignment], when: datetime) -> str | None:
    """The plan that is in force.

    Args:
        assignments: At most one an hour.
        when: Any moment.
    """
    begun = [assignment for assignment in assignments if assignment.takes_effect_at <= when]
    return max(begun, key=lambda assignment: assignment.takes_effect_at).plan if begun else None


def from_now_on(assignments: Iterable[Assignment], now: datetime) -> tuple[Assignment, ...]:
    """The assignment in force, and those to come, earliest first."""
    ordered = sorted(assignments, key=lambda assignment: assignment.takes_effect_at)
    begun = [assignment.takes_effect_at for assignment in ordered if assignment.takes_effect_at <= now]
    return tuple(assignment for assignment in ordered if not begun or assignment.takes_effect_at >= begun[-1])


def next_hour(now: datetime) -> datetime:
    """The next whole hour that is at least LEAD away."""
    return hour_of(now + LEAD - timedelta(microseconds=1)) + HOUR


def holding(versions: Iterable[PlanVersion], at: datetime) -> dict[str, PlanVersion]:
    """What holds for each plan at a moment, by ``id@version``; a plan of which nothing holds yet is not in it."""
    begun = (version for version in versions if version.holds_from <= at)
    return {version.plan: version for version in sorted(begun, key=_order)}


def deployed(versions: Iterable[PlanVersion], at: datetime) -> dict[str, PlanVersion]:
    """What holds at a moment of the plans that are in the stack, each with the usage plan that it has there.

    What a plan allows and counts waits for its hour. A usage plan does not: the one that was replaced is gone, and with
    a plan that left the stack its usage plan left too.
    """
    known = list(versions)
    last = {version.plan: version for version in sorted(known, key=_order)}
    return {
        plan: replace(version, usage_plan_id=last[plan].usage_plan_id)
        for plan, version in holding(known, at).items()
        if last[plan].assign_to
    }


def due_versions(
    known: Iterable[PlanVersion], deployed: Iterable[tuple[PlanVersion, datetime | None]], *, now: datetime
) -> tuple[PlanVersion, ...]:
    """What a deployment adds to what holds, so that it holds what was deployed; nothing where that is so already.

    The first version of a plan holds from the hour that has begun: nothing can have been billed under it. A later one
    waits for the next whole hour that is at least LEAD away, or for the hour that its document names. Until then what
    holds goes on, and all that earlier deployments meant to hold is withdrawn: what is deployed last says all that is
    to come. Where nothing of a plan has held yet, what was announced first is not withdrawn: it would count nothing.

    Args:
        known: All versions of all plans of the stack.
        deployed: What is to hold of each plan, with the hour from which at the earliest, where its document says so.
            Hour and number of these are of no account.
        now: The present moment.

    Returns:
        Versions with hours and numbers of their own; also a last one for each plan that is deployed no more.
    """
    versions: dict[str, list[PlanVersion]] = {}
    for version in sorted(known, key=_order):
        versions.setdefault(version.plan, []).append(version)
    wanted: dict[str, tuple[PlanVersion | None, datetime | None]] = dict.fromkeys(versions, (None, None))
    wanted |= {version.plan: (version, earliest) for version, earliest in deployed}
    return tuple(
        due
        for plan, (version, earliest) in sorted(wanted.items())
        for due in _due(versions.get(plan, []), version, earliest, now)
    )


def _due(
    known: Sequence[PlanVersion], wanted: PlanVersion | None, earliest: datetime | None, now: datetime
) -> Iterator[PlanVersion]:
    """What one plan lacks so that what is wanted holds from its hour on, and until then what holds already.

    Args:
        known: The plan's versions, in their order.
        wanted: None where the plan is in the stack no more: it goes on as it was.
        earliest: The hour that its document names.
        now: The present moment.
    """
    settled = next_hour(now) if known else hour_of(now)
    last = {version.holds_from: version for version in known}
    so_far = next(iter(holding(known, settled - HOUR).values()), None)
    if wanted is None:
        hour = settled if so_far else min(last)
        wanted = replace(so_far or last[hour], assign_to="")
    else:
        hour = max(settled, earliest or settled)
    holds = so_far
    for at in sorted({hour, *(at for at in last if at >= settled)}):
        before = last.get(at, holds)
        holds = wanted if at >= hour else so_far or last[at]
        if before is None or _says(before) != _says(holds):
            yield replace(holds, holds_from=at, number=last[at].number + 1 if at in last else 1)


def _order(version: PlanVersion) -> tuple[datetime, int]:
    return version.holds_from, version.number


def _says(version: PlanVersion) -> tuple[str, str, str]:
    return version.digest, version.usage_plan_id, version.assign_to
