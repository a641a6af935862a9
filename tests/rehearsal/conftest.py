"""One local AWS with both stacks in it, for every test that needs one."""

from __future__ import annotations

import os
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


@pytest.fixture
def operate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stage], None]:
    """Lets an operator's AWS configuration lead to a stage."""

    def lead_to(stage: Stage) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        configuration = {
            "AWS_ENDPOINT_URL": stage.aws.url,
            "AWS_ACCESS_KEY_ID": "111122223333",
            "AWS_SECRET_ACCESS_KEY": "rehearsal",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
        }
        for name, value in (configuration | stage.server.environment).items():
            monkeypatch.setenv(name, value)

    return lead_to


@pytest.fixture(scope="session")
def journey(stage: Stage) -> Callable[[str], Journey]:
    """How a scenario goes; it is played once, whoever asks."""
    return cache(lambda name: SCENARIOS[name].run(stage))
