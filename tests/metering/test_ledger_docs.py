"""docs/ledger.md tells anybody how to read the ledger: what it says is true of a ledger that was written."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
import sqlglot
from conftest import ROOT
from simulation import World, manifests

from marketplace_constructs.domain.metering import Outcome

LOSES = 5  # a seed in which something is lost
TEXT = (ROOT / "docs" / "ledger.md").read_text()


def queries(engine: str) -> list[str]:
    return re.findall(rf"```sql {engine}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def world() -> World:
    world = World(LOSES)
    world.live()
    return world


def run(world: World, directory: Path, query: str) -> list[tuple[object, ...]]:
    for key in world.objects.keys(""):
        path = directory / "ledger" / "abc123" / "us-east-1" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.objects.get(key) or b"")
    before = Path.cwd()
    os.chdir(directory)
    try:
        return duckdb.sql(query).fetchall()
    finally:
        os.chdir(before)


def test_the_first_query_sums_what_was_sealed(world: World, tmp_path: Path) -> None:
    chain = manifests(world)
    fates = {one.record: one.outcome for manifest in chain for one in manifest.settlements}
    expected: dict[tuple[str, str, str], Decimal] = {}
    for record in (record for manifest in chain for record in manifest.records):
        key = record.series.agreement, record.series.dimension, fates.get(record.id, Outcome.OPEN).value
        expected[key] = expected.get(key, Decimal(0)) + record.quantity
    assert {row[:3]: row[3] for row in run(world, tmp_path, queries("duckdb")[0])} == expected
    assert expected


def test_the_second_query_sums_what_was_lost(world: World, tmp_path: Path) -> None:
    expected: dict[tuple[str, str, str], float] = {}
    for loss in (loss for manifest in manifests(world) for loss in manifest.losses):
        key = loss.series.agreement, loss.series.dimension, loss.reason.value
        expected[key] = expected.get(key, 0.0) + float(loss.quantity)
    assert {row[:3]: row[3] for row in run(world, tmp_path, queries("duckdb")[1])} == pytest.approx(expected)
    assert expected


def test_the_queries_for_athena_are_sql_of_athena() -> None:
    assert len(queries("athena")) == 2
    for query in queries("athena"):
        sqlglot.parse_one(query, dialect="athena")


def test_every_member_of_a_manifest_is_described(world: World) -> None:
    from marketplace_constructs.runtime.metering.codec import from_bytes  # noqa: PLC0415

    document = from_bytes(world.objects.get("manifests/000000000001.json") or b"")
    assert all(f"`{member}`" in TEXT for member in document)
