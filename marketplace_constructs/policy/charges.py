"""What lines count and cost, and whether they cost more than they did.

Decided exactly, in whole numbers and fractions: boxes of lines are laid over each other, and in each box one
count at one price is compared with another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction
from typing import Final

from marketplace_constructs.domain.plan_table import EVERY, Cell, Interval, LineState
from marketplace_constructs.policy.documents import METRICS, UNITS

Box = tuple[Interval, Interval, Interval, Interval]
"""Lines with these values of status, response bytes, integration latency and time."""
AXES: Final = ("status", "response_bytes", "integration_ms", "time_ms")
EVERYWHERE: Final[Box] = (EVERY, EVERY, EVERY, EVERY)
STATUS, TIME = 0, 3


class Direction(StrEnum):
    """Which way a change moves a bill; the first is the worst."""

    DEARER = "dearer"
    POSSIBLY_DEARER = "possibly dearer"
    """It cannot be shown that it is not: a price is missing, or two metrics cannot be compared."""
    CHEAPER = "cheaper"
    SAME = "same"

    @property
    def is_increase(self) -> bool:
        """Whether a charge is new or higher, or could be."""
        return self in {Direction.DEARER, Direction.POSSIBLY_DEARER}


def worst(directions: Iterable[Direction]) -> Direction:
    """The worst of several; the same where there is none."""
    found = set(directions)
    return next((direction for direction in Direction if direction in found), Direction.SAME)


@dataclass(frozen=True)
class Count:
    """What lines count; for ``requests`` the rounding is part of the weight, since each line's base value is 1.

    An event's value need not be whole: there, a step of 0 rounds nothing.
    """

    metric: str
    round_up: int
    multiply: Decimal
    base_units: int = 1

    @classmethod
    def of(cls, cell: Cell) -> Count:
        """What a billable cell counts."""
        if cell.metric == "requests":
            return cls("requests", 1, cell.multiply * cell.round_up)
        return cls(cell.metric, cell.round_up, cell.multiply.normalize(), cell.base_units)

    @property
    def rate(self) -> Fraction:
        """Units of the dimension per base unit."""
        return Fraction(self.multiply) / self.base_units

    @property
    def per(self) -> str:
        """The unit that its price is told for."""
        base = METRICS.get(self.metric, "")
        if not base:
            return "request" if self.metric == "requests" else "unit"
        names = {value: name for name, value in UNITS[base].items()}
        return names.get(self.base_units, "byte" if base == "bytes" else base)

    def quantity(self, base_value: int) -> Fraction:
        """Units of the dimension that one line counts."""
        step = self.round_up
        return Fraction(-(-base_value // step) * step if step else base_value) * self.rate

    def __str__(self) -> str:
        text = f"{self.multiply.normalize():f} per {self.per}"
        if self.metric not in {"requests", "event"}:
            text += f" of {self.metric}"
        return (
            text
            if self.round_up == (0 if self.metric == "event" else 1)
            else f"{text}, each up to a multiple of {self.round_up:,}"
        )


Price = tuple[Decimal | None, Decimal | None]
"""Of a unit, and of a unit beyond what a contract includes; None where it is not known."""
Content = tuple[Count | None, str]
"""What the lines of a box count, and in words why they count nothing."""
Shape = tuple[tuple[Box, Content], ...]
NOT_COUNTED: Final[Shape] = ((EVERYWHERE, (None, "not counted")),)
REFUSED: Final[Shape] = ((EVERYWHERE, (None, "refused")),)
NO_ROUTE: Final[Shape] = ((EVERYWHERE, (None, "no such route")),)
NO_PLAN: Final[Shape] = ((EVERYWHERE, (None, "no plan")),)


def verdict(
    old: Count | None, new: Count | None, was: Decimal | None, now: Decimal | None, *, is_same_unknown: bool
) -> Direction:
    """Whether lines cost more than they did, whatever their base values are.

    A step of rounding never raises a line exactly if it divides the old step; so two rules of one metric compare where
    step and rate move the same way.
    """
    if new is None or now == 0:
        return Direction.SAME if old is None or was == 0 else Direction.CHEAPER
    if old is None or was == 0:
        return Direction.POSSIBLY_DEARER if now is None else Direction.DEARER
    if old.metric != new.metric or (was is None) != (now is None) or (was is None and not is_same_unknown):
        return Direction.POSSIBLY_DEARER
    before, after = old.rate * Fraction(was or 1), new.rate * Fraction(now or 1)
    if before == after and old.round_up == new.round_up:
        return Direction.SAME
    if after <= before and _divides(new.round_up, old.round_up):
        return Direction.CHEAPER
    is_surely = now is not None and after >= before and _divides(old.round_up, new.round_up)
    return Direction.DEARER if is_surely else Direction.POSSIBLY_DEARER


def _divides(step: int, other: int) -> bool:
    """Whether rounding up by a step never gives more than by another; 0 rounds nothing."""
    return step == 0 or (other != 0 and other % step == 0)


def intersections(was: Shape, now: Shape) -> Iterator[tuple[Box, Content, Content]]:
    """The boxes of two shapes laid over each other; both are sorted by status."""
    for one, before in was:
        for other, after in now:
            if other[STATUS][0] >= one[STATUS][1]:
                break
            box = [overlap(a, b) for a, b in zip(one, other, strict=True)]
            status, size, latency, time = box
            if status and size and latency and time:
                yield (status, size, latency, time), before, after


def overlap(one: Interval, other: Interval) -> Interval | None:
    """What lies in both."""
    start, end = max(one[0], other[0]), min(one[1], other[1])
    return (start, end) if start < end else None


def merged(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """The same lines in fewer boxes, where boxes touch; none for all lines."""
    found = list(boxes)
    is_done = False
    while not is_done:
        is_done = True
        for axis in range(len(AXES)):
            found.sort(key=lambda box: (box[:axis], box[axis + 1 :], box[axis]))
            kept: list[Box] = []
            for box in found:
                last = kept[-1] if kept else None
                rest = (box[:axis], box[axis + 1 :])
                if last and (last[:axis], last[axis + 1 :]) == rest and last[axis][1] == box[axis][0]:
                    joined = [*last]
                    joined[axis] = (last[axis][0], box[axis][1])
                    kept[-1] = (joined[0], joined[1], joined[2], joined[3])
                    is_done = False
                else:
                    kept.append(box)
            found = kept
    return () if found == [EVERYWHERE] else tuple(sorted(found))


def why_not_counted(cell: Cell) -> str:
    """In words, of a cell that is not billable."""
    return "exempt" if cell.state is LineState.EXEMPT else "not counted"


def rounded(value: Fraction) -> Decimal:
    """For people: twelve digits; what decides is exact."""
    with localcontext(prec=12):
        return Decimal(value.numerator) / value.denominator
