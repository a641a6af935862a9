"""Copies of a sale on this machine, as an operator makes them with the AWS CLI."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from simulation import SEATS, STORED, World

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.cli.metered import MeteredSale
from marketplace_constructs.domain.product import ProductTerms
from marketplace_constructs.runtime.agreements.facts import to_item
from marketplace_constructs.runtime.metering.log_files import MemoryLogFiles
from marketplace_constructs.runtime.metering.objects import DirectoryObjects
from marketplace_constructs.runtime.plan_tables import DirectoryPlanTables
from marketplace_constructs.runtime.plan_versions import version_to_item
from marketplace_constructs.runtime.settings import MeterSettings


class Copy:
    """Everything of a world, in a directory.

    Args:
        world: Is read once.
        directory: An empty one.
        terms: How the product is sold, where it is another way than the world's.
    """

    def __init__(self, world: World, directory: Path, *, terms: ProductTerms | None = None) -> None:
        self.directory = directory
        self.now: datetime = world.clock.now()
        ledger = DirectoryObjects(directory / "ledger")
        for key in world.objects.keys(""):
            assert ledger.put_new(key, world.objects.get(key) or b"")
        self.write_log("log", world.files)
        self.write_log("events", world.event_files)
        facts = [fact for _, facts in world.facts.buyers() for fact in facts]
        self._write("facts.json", Items=[{n: {"S": v} for n, v in to_item(fact).items()} for fact in facts])
        self._write("plans.json", Items=[version_to_item(version) for version in world.versions.versions()])
        for version in world.versions.versions():
            DirectoryPlanTables(directory / "tables").put(world.tables.get(version.digest) or "")
        terms, rules = terms or world.product, world.options.rules
        self.settings = MeterSettings(
            product_code=terms.product_code,
            agreement_kind=terms.agreement_kind,
            pricing_model=terms.pricing_model,
            metering=terms.metering,
            metering_region=terms.metering_region,
            dimensions=",".join(world.options.dimensions),
            stack=world.options.stack,
            sale="Sale",
            joins="",
            facts_table="facts",
            plans_table="plans",
            tables_bucket="tables",
            ledger_bucket="ledger",
            log_bucket="log",
            log_prefix="access-log/",
            usage_events=f"{SEATS},{STORED}",
            decimals=rules.decimals,
            sends_zero=int(rules.sends_zero),
        )
        self.configure()

    def configure(self, **changed: Any) -> None:
        """Write the function's configuration."""
        variables = self.settings.to_environment() | {name.upper(): str(value) for name, value in changed.items()}
        self._write("settings.json", FunctionName="Sale-Meter", Environment={"Variables": variables})

    def write_log(self, name: str, files: MemoryLogFiles) -> None:
        """Write a log as ``aws s3 sync`` does."""
        # A product that declares events has some hour of them.
        (self.directory / name / f"{self.now:%Y/%m/%d/%H}").mkdir(parents=True, exist_ok=True)
        for of_hour in files._files.values():
            for file in of_hour:
                path = self.directory / name / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files.content(file.name))
                os.utime(path, (file.modified_at.timestamp(),) * 2)

    def options(self, *left_out: str) -> list[str]:
        """The group's options."""
        names = {
            "settings": "settings.json", "ledger": "ledger", "log": "log", "events": "events", "facts": "facts.json",
            "plans": "plans.json", "tables": "tables",
        }  # fmt: skip
        return [
            word for option, name in names.items() if option not in left_out
            for word in (f"--{option}", str(self.directory / name))
        ]  # fmt: skip

    def run(self, *words: str, leave_out: tuple[str, ...] = ()) -> Result:
        """The command on this copy, at its time, with standard output alone in ``output``."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MeteredSale, "now", staticmethod(lambda: self.now))
            return CliRunner().invoke(sellable, ["meter", *self.options(*leave_out), *words], standalone_mode=False)

    def json(self, *words: str) -> Any:
        """What it prints for a program."""
        result = self.run(*words, "--format", "json")
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    def files(self) -> dict[str, bytes]:
        """Everything in the directory, by name."""
        paths = (path for path in self.directory.rglob("*") if path.is_file())
        return {path.relative_to(self.directory).as_posix(): path.read_bytes() for path in paths}

    def _write(self, name: str, **members: Any) -> None:
        (self.directory / name).write_text(json.dumps(members))
