"""Closing an hour of the access log, and taking its records from seal to answer; and how both grow.

An hour of gzip files, as Firehose delivers them, is judged by the production reading in a process of its own, beside
two parallel zcat of the same files in the same run; and as the second hour of a process, since Lambda keeps one for the
next run. The zcat processes' own start counts in both, which is a few milliseconds. Five thousand agreements call four
routes; one line in ten thousand is delivered twice. Growth is in CPU time of the second hour, which a machine's other
work disturbs less, and as a ratio to the first point: with lines per line, with agreements per record, with statements
as it is, since the lines are the same: they call a thousand paths, which 10, 100 and 1,000 statements meter alike.

Then agreements of ten dimensions each are sealed, sent and settled by the production meter over a ledger in memory and
a Marketplace that answers at once: what it does itself, without the network. Each run reads the ledger first; how long
that takes at most, just before a snapshot of it, is measured after 55 such hours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from figures import Run, own_peak_mb, run, show
from simulation import FILES, PLAN, table, with_floor

START = datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
AGREEMENTS = 5_000
MAX_MB = 512
PLAN_FILE = "plan.json"
LONGEST = 55
"""Hours after which most is to be read: a snapshot of two days, and nearly all manifests before the next one."""
QUOTA = 250
"""Records a second: 10 calls of 25 for account and Region.

Source: AWS Marketplace developer guide, metering quotas (read 2026-11-21)."""


def agreement(number: int) -> str:
    """As ``simulation.generate`` names them."""
    return f"agmt-{hashlib.md5(str(number).encode()).hexdigest()[:20]}"  # names, no secrets


def spread_table(statements: int) -> object:
    """A plan that counts each call of the thousand paths once, by 10, 100 or 1,000 statements."""
    from marketplace_constructs.policy.documents import Policy  # noqa: PLC0415
    from marketplace_constructs.policy.evaluation import attach_policy, expand_attached  # noqa: PLC0415
    from marketplace_constructs.policy.patterns import Route  # noqa: PLC0415

    levels = len(str(statements)) - 1
    metered = [
        "".join(f"/{name}{digit}" for name, digit in zip("abc", digits, strict=False)) + ("/**" if levels < 3 else "")
        for digits in product(range(10), repeat=levels)
    ]
    policy = Policy.model_validate(
        {
            "Version": "2026-11-21", "Kind": "Policy", "Id": "spread", "PolicyVersion": 1,
            "Statement": [
                {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/**"},
                *(
                    {"Sid": f"Calls{number}", "Effect": "Meter", "Action": "*", "Resource": path, "Dimension": "calls",
                     "Quantity": {"Metric": "requests"}}
                    for number, path in enumerate(metered)
                ),
            ],
        }
    )  # fmt: skip
    routes = [
        Route(path=f"/a{a}/b{b}/c{c}", method=method)
        for a, b, c in product(range(10), repeat=3)
        for method in ("GET", "POST")
    ]
    attached = attach_policy(policy, document="bench", parameters={}, deploy={})
    return expand_attached(attached, routes, plan=PLAN).table


def write_plan(directory: Path, statements: int) -> None:
    """The plan as a deployment puts it; that of ``simulation.table`` where no statements are asked for."""
    from marketplace_constructs.domain.plan_table import PlanTable  # noqa: PLC0415

    plan_table = spread_table(statements) if statements else table()
    assert isinstance(plan_table, PlanTable)
    (directory / PLAN_FILE).write_text(replace(plan_table, channel="Marketplace").to_text())


def close(directory: Path, readings: int) -> dict[str, object]:
    """The hour, read and judged, and what the last reading of it took."""
    from marketplace_constructs.domain.plan_table import PlanTable  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.buyers import FOREVER, Life  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.log_files import DirectoryLogFiles  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.totals import DuckDbUsageLog  # noqa: PLC0415

    plan_table = PlanTable.from_text((directory / PLAN_FILE).read_text())
    log = DuckDbUsageLog(DirectoryLogFiles(directory), directory=directory)
    lives = [
        Life(agreement=name, owner=name, starts_at=START, ends_at=FOREVER) for name in map(agreement, range(AGREEMENTS))
    ]
    for _ in range(readings):
        begun, cpu_begun = perf_counter(), process_time()
        found = log.read(START, now=START + timedelta(minutes=75), lives=lives, tables={PLAN: plan_table}, since=START)
        seconds, cpu_seconds = perf_counter() - begun, process_time() - cpu_begun
    calls = sum((u.quantity for series, u in found.usage.items() if series.dimension == "calls"), Fraction(0))
    states = {
        state: count for state, count in found.closed.lines.items() if state.startswith("calls ") or " " not in state
    }
    return {
        "lines": sum(states.values()),
        "calls": str(calls),
        "cells": len(plan_table.cells),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def settle(agreements: int, dimensions: int, hours: int) -> dict[str, object]:
    """Hours of usage, one after the other, from seal to answer; then another run's reading of their ledger."""
    from marketplace_constructs.domain.agreements import Fact, FactKind  # noqa: PLC0415
    from marketplace_constructs.domain.metering import ClosedHour, Series, Usage  # noqa: PLC0415
    from marketplace_constructs.domain.product import Dimension, Product  # noqa: PLC0415
    from marketplace_constructs.runtime.memory import MemoryPlanTables, MemoryPlanVersions  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.ledger import Ledger  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.meter import Meter, MeterOptions, Ports  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.objects import MemoryObjects  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.totals import HourUsage, PlanTimeline  # noqa: PLC0415
    from marketplace_constructs.runtime.observability import logger  # noqa: PLC0415

    logger.setLevel("CRITICAL")
    keys = [f"d{number}" for number in range(dimensions)]
    sold = Product.concurrent("bench", dimensions=[Dimension.requests(key) for key in keys])

    readings = 0

    def facts() -> Iterator[tuple[str, tuple[Fact, ...]]]:
        nonlocal readings
        readings += 1
        for number in range(agreements):
            buyer, name = f"{number:012}", agreement(number)
            yield buyer, tuple(
                Fact(
                    id=f"{name}{kind}", kind=kind, buyer=buyer, at=START, agreement_id=name, product_code="bench",
                    license_arn=f"arn:aws:license-manager::{buyer}:license:l-{number:032x}",
                )
                for kind in (FactKind.REGISTERED, FactKind.ACTIVATED)
            )  # fmt: skip

    class Log:
        def read(self, hour: datetime, **_: object) -> HourUsage:
            usage = {
                Series(agreement=agreement(number), dimension=key): Usage(
                    quantity=Fraction(number + 1, 3), earliest=hour, by_path={"/v1/images": Fraction(number + 1, 3)}
                )
                for number in range(agreements)
                for key in keys
            }
            return HourUsage(closed=ClosedHour(hour=hour), usage=usage if hour < START + hours * HOUR else {})

    class Client:
        calls = 0

        def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
            self.calls += 1
            results = [
                {"UsageRecord": record, "MeteringRecordId": f"{self.calls}-{number}", "Status": "Success"}
                for number, record in enumerate(request["UsageRecords"])
            ]
            return {"Results": results, "UnprocessedRecords": []}

    now, client, objects = START, Client(), MemoryObjects()
    ports = Ports(
        facts=facts,
        plans=PlanTimeline(MemoryPlanVersions(), MemoryPlanTables()),
        log=Log(),
        ledger=Ledger(objects, run="bench"),
        metering=client,
        count=lambda *_: None,
        gauge=lambda *_: None,
    )
    options = MeterOptions(product=sold, dimensions=keys, stack="Bench")
    meter = Meter(options, ports, clock=lambda: now, sleep=lambda _: None, monotonic=lambda: 0.0)
    meter.run()
    readings, begun = 0, process_time()
    for number in range(hours):
        now = START + number * HOUR + timedelta(minutes=76)
        meter.run()
    seconds = process_time() - begun
    peak_mb, begun = own_peak_mb(), process_time()
    Ledger(objects, run="next").load()
    largest = max(len(objects.get(key) or b"") for key in objects.keys("manifests/"))
    return {
        "records": agreements * dimensions * hours,
        "calls": client.calls,
        "cpu_seconds": seconds,
        "mb": peak_mb,
        "manifest_mb": largest / 1e6,
        "readings": readings / hours,
        "loading_cpu_seconds": process_time() - begun,
    }


def hour(directory: Path, lines: int, *, is_spread: bool = False) -> list[Path]:
    """An hour's files under the folder in which they arrived; its files."""
    run([sys.executable, "-c", _GENERATE, str(directory), str(lines), str(FILES), *([_SPREAD] if is_spread else [])])
    arrived = directory / f"{START:%Y/%m/%d/%H}"
    arrived.mkdir(parents=True)
    came = (START + timedelta(minutes=30)).timestamp()
    for file in sorted(directory.glob("*.gz")):
        shutil.move(file, arrived)
        os.utime(arrived / file.name, (came, came))
    return sorted(arrived.iterdir())


def closed(directory: str, lines: int, *, statements: int = 0, readings: int = 1) -> tuple[Run, dict[str, Any]]:
    run([sys.executable, __file__, "--write-plan", directory, "--statements", str(statements)])
    closing = run([sys.executable, __file__, "--close", directory, "--readings", str(readings)])
    found = json.loads(closing.output.splitlines()[-1])
    if not lines * 0.999 < found["lines"] <= lines:
        sys.exit(f"got {found['lines']} lines; expected {lines} less those delivered twice")
    return closing, found


def closed_cold_and_warm(directory: str, lines: int) -> tuple[Run, Run]:
    """A whole process that closes an hour; and the second hour of one."""
    cold, _ = closed(directory, lines)
    warm, found = closed(directory, lines, readings=2)
    return cold, replace(warm, seconds=found["seconds"], cpu_seconds=found["cpu_seconds"])


def show_hours(counts: list[int]) -> None:
    first: float | None = None
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="bench-metering-") as name:
            files = hour(Path(name), count)
            lines = count // FILES * FILES
            (cold, warm), floor = with_floor(files, lambda: closed_cold_and_warm(name, lines))  # noqa: B023 - called at once
        for closing, process in ((cold, "a whole process"), (warm, "second hour of a process")):
            show(
                f"meter, an hour of {lines:,} lines, gzip, {process}",
                lines / closing.seconds,
                "lines/s",
                **floor.beside(lines, closing, aim="at least 0.9"),
            )
        show(f"meter, an hour of {lines:,} lines, peak memory", cold.peak_mb, "MB", aim=MAX_MB)
        per_million = warm.cpu_seconds / lines * 1e6
        first = first or per_million
        show(
            f"meter, an hour of {lines:,} lines, growth",
            per_million,
            "s of CPU a million lines",
            ratio=per_million / first,
            of=f"{counts[0]:,} lines",
        )


def show_statements(counts: list[int], lines: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-metering-") as name:
        hour(Path(name), lines, is_spread=True)
        first: tuple[float, str] | None = None
        for statements in counts:
            closing, found = closed(name, lines // FILES * FILES, statements=statements)
            first = first or (found["cpu_seconds"], found["calls"])
            if found["calls"] != first[1]:
                sys.exit(f"{statements} statements count {found['calls']} calls; expected {first[1]}")
            show(
                f"meter, an hour of {lines:,} lines of 1,000 paths, {statements:,} statements",
                found["cpu_seconds"],
                "s of CPU",
                ratio=found["cpu_seconds"] / first[0],
                of=f"{counts[0]} statements",
                cells=found["cells"],
                peak_mb=closing.peak_mb,
            )


def show_records(counts: list[int], dimensions: int) -> None:
    first: float | None = None
    for agreements in counts:
        done = run([sys.executable, __file__, "--settle", f"{agreements},{dimensions},1"])
        found = json.loads(done.output.splitlines()[-1])
        rate = found["records"] / found["cpu_seconds"]
        first = first or rate
        name = f"meter, {agreements:,} agreements of {dimensions} dimensions"
        show(
            f"{name}, seal to answer",
            rate,
            "records/s of CPU",
            ratio=rate / QUOTA,
            of=f"what AWS takes, {QUOTA} records/s",
            calls=found["calls"],
            peak_mb=found["mb"],
            manifest_mb=found["manifest_mb"],
            readings_of_all_facts=found["readings"],
        )
        show(
            f"{name}, growth",
            1000 * found["cpu_seconds"] / found["records"],
            "ms of CPU a record",
            ratio=first / rate,
            of=f"{counts[0]:,} agreements",
        )


def show_ledgers(counts: list[int], dimensions: int) -> None:
    first: float | None = None
    for agreements in counts:
        done = run([sys.executable, __file__, "--settle", f"{agreements},{dimensions},{LONGEST}"])
        found = json.loads(done.output.splitlines()[-1])
        per_thousand = found["loading_cpu_seconds"] / (agreements * dimensions) * 1000
        first = first or per_thousand
        show(
            f"meter, a run's reading of the ledger after {LONGEST} hours, {agreements:,} agreements of {dimensions}"
            " dimensions",
            found["loading_cpu_seconds"],
            "s of CPU",
            ratio=per_thousand / first,
            of=f"{counts[0]:,} agreements, by agreement",
            peak_mb=found["mb"],
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="*", default=[400_000, 4_000_000], help="10000000 and 50000000 too")
    parser.add_argument("--agreements", type=int, nargs="*", default=[100, 1_000, 10_000], help="of 10 dimensions")
    parser.add_argument("--ledgers", type=int, nargs="*", default=[100, 300], help="agreements of 10 dimensions")
    parser.add_argument("--statements", type=int, nargs="*", default=[10, 100, 1_000])
    parser.add_argument("--write-plan", metavar="DIRECTORY", type=Path)
    parser.add_argument("--close", metavar="DIRECTORY", type=Path)
    parser.add_argument("--readings", type=int, default=1)
    parser.add_argument("--settle", metavar="AGREEMENTS,DIMENSIONS,HOURS")
    arguments = parser.parse_args()
    if arguments.write_plan:
        write_plan(arguments.write_plan, *arguments.statements)
    elif arguments.close:
        print(json.dumps(close(arguments.close, arguments.readings)))
    elif arguments.settle:
        print(json.dumps(settle(*map(int, arguments.settle.split(",")))))
    else:
        show_hours(arguments.lines)
        if arguments.statements:
            show_statements(arguments.statements, 400_000)
        show_records(arguments.agreements, 10)
        show_ledgers(arguments.ledgers, 10)


_GENERATE = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path; from simulation import FOUR_ROUTES, generate
generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), hours=1, path=(*sys.argv[4:], FOUR_ROUTES)[0])
"""
_SPREAD = "concat('/a', h // 7 % 10, '/b', h // 70 % 10, '/c', h // 700 % 10)"

if __name__ == "__main__":
    main()
