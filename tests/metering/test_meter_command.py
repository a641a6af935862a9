"""``sellable meter`` on a copy of a ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from simulation import World

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.runtime.metering.ledger import Ledger
from marketplace_constructs.runtime.metering.objects import DirectoryObjects

DOUBTS = 3  # a seed in which something stays in doubt


@pytest.fixture(scope="module")
def world() -> World:
    world = World(DOUBTS)
    world.live()
    return world


@pytest.fixture
def directory(world: World, tmp_path: Path) -> Path:
    objects = DirectoryObjects(tmp_path / "ledger")
    for key in world.objects.keys(""):
        assert objects.put_new(key, world.objects.get(key) or b"")
    assert objects.keys("manifests/") == world.objects.keys("manifests/")
    return tmp_path / "ledger"


def run(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(sellable, ["meter", "--ledger", str(directory), *words], standalone_mode=False)


def doubtful(directory: Path) -> list[str]:
    return sorted(Ledger(DirectoryObjects(directory), run="test").load().in_doubt)


def test_what_is_in_doubt_is_a_finding(directory: Path) -> None:
    result = run(directory, "show", "--format", "json")
    assert result.return_value == 1
    assert any(row["what"] == "in-doubt" for row in json.loads(result.output)["usage"])
    assert "in-doubt" in run(directory, "show").output


def test_a_record_is_shown_with_its_attempts(directory: Path) -> None:
    record = doubtful(directory)[0]
    shown = json.loads(run(directory, "record", record, "--format", "json").output)
    assert shown["outcome"] == "in-doubt"
    assert shown["attempts"]


def test_a_release_is_said_before_it_is_done(directory: Path) -> None:
    record = doubtful(directory)[0]
    assert "do it with --yes" in run(directory, "release", record, "--as", "lost").output
    assert record in doubtful(directory)
    run(directory, "release", record, "--as", "lost", "--yes")
    assert record not in doubtful(directory)
    assert json.loads(run(directory, "record", record, "--format", "json").output)["outcome"] == "lost"
    error = run(directory, "release", record, "--as", "lost", "--yes").exception
    assert "MP-CLI-41" in str(error)


def test_a_snapshot_that_says_something_else_is_a_finding(directory: Path) -> None:
    assert run(directory, "replay").return_value == 0
    states = sorted((directory / "states").glob("*"))
    assert states
    document = json.loads(states[0].read_text())
    states[0].write_text(json.dumps({**document, "records": []}))
    result = run(directory, "replay")
    assert result.return_value == 1
    assert states[0].name in result.output


def test_fails_when_there_is_no_ledger(tmp_path: Path) -> None:
    assert "MP-CLI-44" in str(run(tmp_path, "show").exception)
