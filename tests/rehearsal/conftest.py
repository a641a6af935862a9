"""One local AWS with both stacks in it, for every test that needs one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
from documents_in_words import meaning

from marketplace_constructs.rehearsal.bill import Plans
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.journey import Journey, Promises
from marketplace_constructs.rehearsal.metering_scenario import Size, play_metering
from marketplace_constructs.rehearsal.scenarios import SCENARIOS
from marketplace_constructs.rehearsal.stage import SaleKind, Stage

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


def metering(stage: Stage, promises: Promises) -> None:
    """The scenario with fewer calls, which count what a person reads in the documents."""
    tables = Plans(stage, stage.sale(SaleKind.METERED_BY_PLANS))

    def counts(plan: str, call: Call) -> dict[str, Fraction]:
        found = {dimension: quantity for dimension, quantity in tables.counts(plan, call).items() if quantity}
        assert found == meaning(plan, call), (plan, call)
        return found

    play_metering(stage, promises, Size(buyers=10, calls=200), counts)


@pytest.fixture(scope="session")
def journey(stage: Stage) -> Callable[[str], Journey]:
    """How a scenario goes; it is played once, whoever asks."""
    scenarios = SCENARIOS | {"metering": replace(SCENARIOS["metering"], play=metering)}
    return cache(lambda name: scenarios[name].run(stage))
