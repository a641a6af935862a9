"""Usage that does not come as gzip lines of calls: usage events, and calls held in Parquet.

Events are an hour of gzip files as Firehose delivers them, of five thousand agreements and two kinds, one in ten
thousand delivered twice; the meter's reading stands beside two parallel zcat of the same files in the same run. Then
the hours before it have as many, in which the meter looks for first copies.

The meter itself reads no Parquet: Firehose delivers lines, and what the meter keeps while it works is gone with the
hour. Whoever keeps an hour's lines as Parquet, as for reports over months, judges them by the same text
(``queries.usage``): that is measured here over the lines as the meter types them, each once, beside DuckDB decoding the
same columns alone, in the same memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import process_time
from typing import Any

from figures import Run, in_turn, median, median_ratio, run, show
from metering import AGREEMENTS, HOUR, MAX_MB, START, agreement
from simulation import FILES, PLAN, log_lines, table, with_floor

MEMORY = "256MB"
PAIRS = 3
HELD = "held"
BEFORE = 32
"""Hours before one of which files are looked at: six for clocks that are wrong, and 26 for first copies."""


def generate_events(directory: Path, events: int, hours: int) -> None:
    """The files of the hour and of those before it; one file's events at a time lie uncompressed on disk."""
    for number in range(hours + 1):
        generate_hour(directory, events, START - number * HOUR)


def generate_hour(directory: Path, events: int, begins: datetime) -> None:
    import duckdb  # noqa: PLC0415 - the process that measures imports the standard library alone

    arrived = directory / f"{begins:%Y/%m/%d/%H}"
    arrived.mkdir(parents=True)
    came = (begins + HOUR / 2).timestamp()
    first_us = int(begins.timestamp()) * 1_000_000
    connection = duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False})
    each = events // FILES
    for number in range(FILES):
        plain = arrived / f"events-{number:02}.json"
        connection.execute(
            f"""COPY (
              SELECT '0' AS version, uuid() AS id, 'storage' AS "detail-type", '/disks' AS source,
                '111122223333' AS account, told_at AS time, 'us-east-1' AS region, [] AS resources,
                {{'specversion': '1.0', 'id': concat('{begins:%d%H}-', i), 'source': concat('/disks/', h % 100),
                  'type': CASE WHEN h % 5 = 0 THEN 'seats' ELSE 'storage' END,
                  'subject': 'agmt-' || substr(md5(CAST(h // 16 % {AGREEMENTS} AS VARCHAR)), 1, 20), 'time': told_at,
                  'data': {{'value': concat(h // 64 % 1000, '.', h // 64000 % 1000000)}}}} AS detail
              FROM (SELECT *, hash(i) AS h,
                strftime(make_timestamp(CAST({first_us} + i * 3600000000 // {events} AS BIGINT)),
                  '%Y-%m-%dT%H:%M:%S.%gZ') AS told_at
                FROM (SELECT CASE WHEN i % 10000 = 9999 THEN i - 1 ELSE i END AS i
                  FROM range({number * each}, {(number + 1) * each}) AS numbers(i)))
            ) TO '{plain}' (FORMAT json)"""
        )
        subprocess.run(["gzip", "-1", str(plain)], check=True)
        os.utime(f"{plain}.gz", (came, came))


def read_events(directory: str) -> dict[str, object]:
    """The hour's events, read and judged."""
    from marketplace_constructs.domain.plan_table import EventMeter, PlanTable  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.buyers import FOREVER, Life  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.log_files import DirectoryLogFiles  # noqa: PLC0415
    from marketplace_constructs.runtime.metering.usage_events import DuckDbUsageEvents  # noqa: PLC0415

    plan_table = PlanTable(
        plan=PLAN, product="images", segment="retail", channel="Marketplace", routes=(), cells=(),
        events=(
            EventMeter(event="storage", dimension="storage", policy="p@1", sid="Stored", multiply=Decimal("0.25")),
            EventMeter(event="seats", dimension="seats", policy="p@1", sid="Seats", round_up=5),
        ),
    )  # fmt: skip
    log = DuckDbUsageEvents(
        DirectoryLogFiles(Path(directory)), declared=["storage", "seats"], memory=MEMORY, directory=Path(directory)
    )
    lives = [
        Life(agreement=name, owner=name, starts_at=START, ends_at=FOREVER, plan=PLAN)
        for name in map(agreement, range(AGREEMENTS))
    ]
    begun = process_time()
    found = log.read(START, now=START + timedelta(minutes=75), lives=lives, tables={PLAN: plan_table}, since=START)
    return {
        "events": sum(found.closed.lines.values()),
        "quarantined": found.closed.quarantined,
        "cpu_seconds": process_time() - begun,
    }


def type_lines(directory: Path, lines: int) -> None:
    """The lines of ``metering.hour`` as Parquet, typed as the meter types them, each once."""
    import duckdb  # noqa: PLC0415

    from marketplace_constructs.queries.log_lines import typed_lines  # noqa: PLC0415
    from marketplace_constructs.queries.usage import LINES  # noqa: PLC0415

    held, each = directory / HELD, lines // FILES
    held.mkdir()
    connection = duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(directory)})
    for number in range(FILES):
        # The second copy of a line comes right after the first, and so in the same file.
        text = typed_lines(f"({log_lines(lines, number * each, (number + 1) * each, hours=1)})")
        connection.execute(
            f"COPY (SELECT {', '.join(LINES)} FROM ({text}) "
            "QUALIFY row_number() OVER (PARTITION BY extended_request_id) = 1) "
            f"TO '{held}/{number}.parquet' (FORMAT parquet)"
        )


def over_parquet(directory: str, way: str) -> dict[str, object]:
    """The lines judged, or their columns decoded alone."""
    from marketplace_constructs.domain.plan_table import PlanTable  # noqa: PLC0415
    from marketplace_constructs.engine.database import load, opened_database  # noqa: PLC0415
    from marketplace_constructs.queries import usage  # noqa: PLC0415

    place, plan_table = Path(directory), table()
    assert isinstance(plan_table, PlanTable)
    with opened_database(place, memory=MEMORY, threads=2) as connection:
        connection.execute(f"CREATE VIEW lines AS FROM read_parquet('{place}/{HELD}/*.parquet')")
        load(connection, place, "routes", usage.ROUTES, usage.route_rows(plan_table))
        load(connection, place, "cells", usage.CELLS, usage.cell_rows(plan_table))
        begun = process_time()
        if way == "judge":
            rows = connection.execute(usage.usage_query(), [PLAN.partition("@")[0]]).fetchall()
            lines = sum(row[-2] for row in rows if row[2] in {"calls", None})
        else:
            # The least of each value that still has to be looked at.
            read = ", ".join(
                f"MAX(length({n}))" if kind == "varchar" else f"MAX({n})" for n, kind in usage.LINES.items()
            )
            lines = connection.execute(f"SELECT COUNT(*), {read} FROM lines").fetchall()[0][0]
    return {"lines": int(lines), "cpu_seconds": process_time() - begun}


def hour_of_events(directory: str, events: int) -> tuple[Run, dict[str, Any]]:
    reading = run([sys.executable, __file__, "--read-events", directory])
    found = json.loads(reading.output.splitlines()[-1])
    if found["quarantined"] or not events * 0.999 < found["events"] <= events:
        sys.exit(f"got {found}; expected {events} events less those delivered twice")
    return reading, found


def show_events(events: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-inputs-") as name:
        run([sys.executable, __file__, "--generate-events", name, "--events", str(events)])
        events = events // FILES * FILES
        files = sorted(Path(name).rglob("*.gz"))
        (reading, _), floor = with_floor(files, lambda: hour_of_events(name, events))
    show(
        f"meter, an hour of {events:,} usage events, gzip",
        events / reading.seconds,
        "events/s",
        **floor.beside(events, reading),
    )
    show(f"meter, an hour of {events:,} usage events, peak memory", reading.peak_mb, "MB", aim=MAX_MB)


def show_hours_before(events: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-inputs-") as name:
        run([sys.executable, __file__, "--generate-events", name, "--events", str(events), "--before", str(BEFORE)])
        events = events // FILES * FILES
        reading, found = hour_of_events(name, events)
    show(
        f"meter, an hour of {events:,} usage events after {BEFORE} like it",
        found["cpu_seconds"],
        "s of CPU",
        peak_mb=reading.peak_mb,
    )


def show_parquet(lines: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-inputs-") as name:
        run([sys.executable, __file__, "--type", name, "--lines", str(lines)])
        decoding, judging = in_turn(
            lambda: run([sys.executable, __file__, "--over-parquet", name, "--way", "decode"]),
            lambda: run([sys.executable, __file__, "--over-parquet", name, "--way", "judge"]),
            PAIRS,
        )
    found = [json.loads(one.output.splitlines()[-1]) for one in (*decoding, *judging)]
    if len({one["lines"] for one in found}) != 1:
        sys.exit(f"got {[one['lines'] for one in found]} lines; expected the same of each")
    floors, seconds = ([one["cpu_seconds"] for one in half] for half in (found[:PAIRS], found[PAIRS:]))
    name = f"judging an hour of {found[0]['lines']:,} lines held in Parquet"
    show(
        name,
        found[0]["lines"] / median(seconds),
        "lines/s of CPU",
        ratio=median_ratio(floors, seconds),
        of=f"decoding the same columns alone, {found[0]['lines'] / median(floors):,.0f} lines/s of CPU",
    )
    show(f"{name}, peak memory", max(one.peak_mb for one in judging), "MB", aim=MAX_MB)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--hourly-events", type=int, default=100_000, help="in an hour and in those before it")
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--lines", type=int, nargs="*", default=[400_000, 10_000_000], help="50000000 too")
    parser.add_argument("--generate-events", metavar="DIRECTORY", type=Path)
    parser.add_argument("--read-events", metavar="DIRECTORY")
    parser.add_argument("--type", metavar="DIRECTORY", type=Path)
    parser.add_argument("--over-parquet", metavar="DIRECTORY")
    parser.add_argument("--way", choices=["decode", "judge"])
    arguments = parser.parse_args()
    if arguments.generate_events:
        generate_events(arguments.generate_events, arguments.events, arguments.before)
    elif arguments.read_events:
        print(json.dumps(read_events(arguments.read_events)))
    elif arguments.type:
        type_lines(arguments.type, *arguments.lines)
    elif arguments.over_parquet:
        print(json.dumps(over_parquet(arguments.over_parquet, arguments.way)))
    else:
        show_events(arguments.events)
        show_hours_before(arguments.hourly_events)
        for lines in arguments.lines:
            show_parquet(lines)


if __name__ == "__main__":
    main()
