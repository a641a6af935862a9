"""Journeys: what a sale promises, step by step, and whether it was kept.

A scenario is a function that makes a journey's promises in their order. The first one that is broken ends it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from marketplace_constructs.rehearsal.errors import BrokenPromise

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.stage import SaleKind, Stage

SCHEMA_VERSION: Final = 1
_PATIENCE: Final[ContextVar[float]] = ContextVar("patience", default=30)
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A promise, and what became of it.

    Args:
        promise: A sentence without its full stop.
        seconds: How long it took.
        broken: What was seen instead; empty where it was kept.
        note: What else is worth knowing; may be empty.
    """

    promise: str
    seconds: float
    broken: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Journey:
    """One scenario as it went."""

    scenario: str
    title: str
    steps: tuple[Step, ...]

    @property
    def is_kept(self) -> bool:
        """Whether every promise was kept."""
        return not any(step.broken for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long it took in all."""
        return sum(step.seconds for step in self.steps)

    def to_json(self) -> dict[str, object]:
        """For ``--format json``."""
        return {
            "scenario": self.scenario,
            "title": self.title,
            "kept": self.is_kept,
            "seconds": round(self.seconds, 3),
            "steps": [
                {
                    "promise": step.promise,
                    "kept": not step.broken,
                    "seconds": round(step.seconds, 3),
                    **({"broken": step.broken} if step.broken else {}),
                    **({"note": step.note} if step.note else {}),
                }
                for step in self.steps
            ],
        }


class JourneyEnded(Exception):
    """A promise was broken, so nothing that follows would mean anything."""


@dataclass
class Promises:
    """Where a scenario makes its promises.

    Attributes:
        steps: Those made so far.
        explain: Says what else is known to be wrong when a promise is broken; set by the scenario.
    """

    on_step: Callable[[Step], None] = lambda _: None
    steps: list[Step] = field(default_factory=list)
    explain: Callable[[], list[str]] = list

    @contextmanager
    def promise(self, sentence: str) -> Iterator[list[str]]:
        """Make a promise; what is done inside keeps it, or raises BrokenPromise; the list takes notes.

        Raises:
            JourneyEnded: It was broken.
        """
        notes: list[str] = []
        begun = time.monotonic()
        broken = ""
        try:
            yield notes
        except BrokenPromise as error:
            broken = "; ".join([str(error), *self.explain()])
        step = Step(promise=sentence, seconds=time.monotonic() - begun, broken=broken, note="; ".join(notes))
        self.steps.append(step)
        self.on_step(step)
        if broken:
            raise JourneyEnded


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A way a sale can go.

    Args:
        name: As ``--scenario`` takes it.
        title: In a few words.
        play: Makes the promises.
        needs: The kind of sale that it is about; None where any will do.
        is_default: Whether it is played when no scenario is named.
    """

    name: str
    title: str
    play: Callable[[Stage, Promises], None]
    needs: SaleKind | None = None
    is_default: bool = False

    def run(self, stage: Stage, on_step: Callable[[Step], None] = lambda _: None) -> Journey:
        """Play it."""
        promises = Promises(on_step)
        with suppress(JourneyEnded):
            self.play(stage, promises)
        return Journey(scenario=self.name, title=self.title, steps=tuple(promises.steps))


def require(kept: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as an assertion
    """Break the promise unless it is kept.

    Raises:
        BrokenPromise: With what was seen instead.
    """
    if not kept:
        raise BrokenPromise(otherwise)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Wait no longer than so many seconds for anything, where a broken promise is what is expected."""
    token = _PATIENCE.set(seconds)
    try:
        yield
    finally:
        _PATIENCE.reset(token)


def wait_until(look: Callable[[], _T | None], what: str, *, seconds: float | None = None) -> _T:
    """Look again and again until there is something to see.

    Args:
        look: Returns None while there is nothing.
        what: Is waited for.
        seconds: How long at most; left out, 30.

    Raises:
        BrokenPromise: There was nothing within that time.
    """
    limit = _PATIENCE.get()
    seconds = limit if seconds is None else min(seconds, limit)
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if seen is not None and seen is not False:
            return seen
        if time.monotonic() > until:
            raise BrokenPromise(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
