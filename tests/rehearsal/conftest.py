"""One local AWS with both stacks in it, for every test that needs one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from marketplace_constructs.rehearsal.journey import Journey
from marketplace_constructs.rehearsal.scenarios import SCENARIOS
from marketplace_constructs.rehearsal.stage import Stage

APP = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """The example app, deployed. Tests leave behind buyers and agreements, and nothing else."""
    with Stage(APP) as built:
        yield built


@pytest.fixture(scope="session")
def journey(stage: Stage) -> Callable[[str], Journey]:
    """How a scenario goes; it is played once, whoever asks."""
    return cache(lambda name: SCENARIOS[name].run(stage))
