"""A log judged by a plan: lines per second and peak memory, beside two parallel zcat, Polars, pandas and a plain loop.

Each reads the same gzip files in a process of its own and must come to the same counts. pandas and the loop read the
first file only: their rate stands for the whole. The log: 5,000 agreements, 24 hours, four routes, five per cent
missed, two throttled, one line in ten thousand delivered twice.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from figures import Run, run, show

PLAN = "image-retail@2"
FILES = 8
MAX_MB = 512
IMAGES, IMAGE, RENDER = "/v1/images", "/v1/images/{id}", "/v1/images/{id}/render"
FOUR_ROUTES = f"CASE WHEN h % 3 = 0 THEN '{RENDER}' WHEN h % 7 = 1 THEN '{IMAGES}' ELSE '{IMAGE}' END"
"""SQL for a line's path."""
MEMBERS = (
    "requestTimeEpoch", "extendedRequestId", "httpMethod", "resourcePath", "status", "errorResponseType",
    "responseLength", "responseLatency", "integrationLatency", "agreement", "plan",
)  # fmt: skip
_T = TypeVar("_T")
Answer = dict[str, int]
"""``lines``: distinct ones; ``calls``, ``bytes``, ``ms``: billable calls, bytes and rounded milliseconds."""


def log_lines(lines: int, first: int, end: int, *, hours: int = 24, path: str = FOUR_ROUTES) -> str:
    """SQL for lines ``first`` up to ``end`` of a log of so many, with a column of text for each member."""
    return f"""
      SELECT CAST(1796083200000 + i * {hours * 3_600_000} // {lines} AS VARCHAR) AS "requestTimeEpoch",
        to_base64(unhex(substr(md5(CAST(i AS VARCHAR)), 1, 22))) AS "extendedRequestId",
        uuid() AS "requestId", 'a1b2c3d4e5' AS "apiId", 'prod' AS stage,
        CASE WHEN h % 3 = 0 THEN 'POST' ELSE 'GET' END AS "httpMethod",
        {path} AS "resourcePath",
        CASE WHEN h // 64 % 100 < 92 THEN '200' WHEN h // 64 % 100 < 97 THEN '404'
          WHEN h // 64 % 100 < 99 THEN '429' ELSE '500' END AS status,
        CASE WHEN h // 64 % 100 BETWEEN 97 AND 98 THEN 'THROTTLED' ELSE '-' END AS "errorResponseType",
        CAST(h // 8 % 200000 AS VARCHAR) AS "responseLength",
        CAST(h % 900 + 20 AS VARCHAR) AS "responseLatency",
        CASE WHEN h // 64 % 100 BETWEEN 97 AND 98 THEN '-' ELSE CAST(h % 900 + 10 AS VARCHAR) END
          AS "integrationLatency",
        CASE WHEN h // 64 % 100 BETWEEN 97 AND 98 THEN '-' WHEN h // 64 % 100 < 92 THEN '200' ELSE '404' END
          AS "integrationStatus",
        substr(md5(CAST(h // 16 % 5000 AS VARCHAR)), 1, 10) AS "apiKeyId",
        'agmt-' || substr(md5(CAST(h // 16 % 5000 AS VARCHAR)), 1, 20) AS agreement,
        '{PLAN}' AS plan
      FROM (SELECT i, hash(i) AS h FROM (
        SELECT CASE WHEN i % 10000 = 9999 THEN i - 1 ELSE i END AS i
        FROM range({first}, {end}) AS numbers(i)))
    """


def generate(directory: Path, lines: int, files: int, *, hours: int = 24, path: str = FOUR_ROUTES) -> None:
    """Write the log; one file's lines at a time lie uncompressed on disk."""
    import duckdb  # noqa: PLC0415 - the process that measures imports the standard library alone

    connection = duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False})
    each = lines // files
    for number in range(files):
        plain = directory / f"log-{number:02}.json"
        text = log_lines(lines, number * each, (number + 1) * each, hours=hours, path=path)
        connection.execute(f"COPY ({text}) TO '{plain}' (FORMAT json)")
        subprocess.run(["gzip", "-1", str(plain)], check=True)


@dataclass(frozen=True)
class Floor:
    """Two parallel ``zcat | wc`` of some files: seconds of two runs on the average, since the other work of a shared
    machine meets them and what runs between them alike; and one run each that counts words too, or ends of lines only.
    """

    seconds: float
    words: Run
    ends: Run

    def beside(self, lines: int, done: Run, *, aim: str = "") -> dict[str, Any]:
        """How a reading of the same lines stands to it, as ``show`` takes it."""
        return {
            "ratio": self.seconds / done.seconds,
            "of": f"two parallel zcat | wc, {lines / self.seconds:,.0f} lines/s{aim and f'; aim: {aim}'}",
            "cpu_seconds": done.cpu_seconds,
            "cpu_ratio": self.words.cpu_seconds / done.cpu_seconds,
            "cpu_ratio_of_wc_l": self.ends.cpu_seconds / done.cpu_seconds,
        }


def with_floor(files: list[Path], read: Callable[[], _T]) -> tuple[_T, Floor]:
    """Read files, and let them be unpacked before and after it."""
    before = unpacked(files)
    done = read()
    after = unpacked(files)
    return done, Floor((before.seconds + after.seconds) / 2, before, unpacked(files, "wc -l"))


def table() -> object:
    """Calls, five for rendering; bytes of what is fetched; milliseconds of rendering, by the hundred."""
    from marketplace_constructs.policy.documents import Policy  # noqa: PLC0415
    from marketplace_constructs.policy.evaluation import attach_policy, expand_attached  # noqa: PLC0415
    from marketplace_constructs.policy.patterns import Route  # noqa: PLC0415

    def meter(sid: str, action: str, resource: str, dimension: str, **quantity: object) -> dict[str, object]:
        head = {"Sid": sid, "Effect": "Meter", "Action": action, "Resource": resource, "Dimension": dimension}
        return {**head, "Quantity": quantity}

    policy = Policy.model_validate(
        {
            "Version": "2026-11-21",
            "Kind": "Policy",
            "Id": "consumption",
            "PolicyVersion": 1,
            "Statement": [
                {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/v1/images/**"},
                meter("AnyCall", "*", "/v1/images/**", "calls", Metric="requests"),
                meter("RenderIsFiveCalls", "POST", RENDER, "calls", Metric="requests", Multiply=5),
                meter("BytesOut", "GET", "/v1/images/**", "egress", Metric="response.bytes"),
                meter("ComputeTime", "POST", RENDER, "compute", Metric="integration.ms", RoundUpPerRequest=100),
            ],
        }
    )
    attached = attach_policy(policy, document="bench", parameters={}, deploy={})
    routes = [Route(path=path, method=method) for path, method in ((IMAGES, "GET"), (IMAGE, "GET"), (RENDER, "POST"))]
    return expand_attached(attached, routes, plan=PLAN).table


def simulated(files: list[str]) -> Answer:
    from marketplace_constructs.domain.plan_table import PlanTable  # noqa: PLC0415
    from marketplace_constructs.policy.simulation import simulate_log  # noqa: PLC0415

    plan_table = table()
    assert isinstance(plan_table, PlanTable)
    totals = simulate_log(plan_table, files).totals
    quantities = {t.sid: t.quantity for t in totals if t.state == "billable"}
    calls = quantities["AnyCall"] + quantities["RenderIsFiveCalls"]
    lines = sum(total.lines for total in totals if total.dimension in {None, "calls"})
    return {
        "lines": lines,
        "calls": int(calls),
        "bytes": int(quantities["BytesOut"]),
        "ms": int(quantities["ComputeTime"]),
    }


def looped(files: list[str]) -> Answer:
    seen: set[str] = set()
    answer = {"lines": 0, "calls": 0, "bytes": 0, "ms": 0}
    for name in files:
        with gzip.open(name, "rb") as file:
            for text in file:
                line = json.loads(text)
                if line["extendedRequestId"] in seen:
                    continue
                seen.add(line["extendedRequestId"])
                answer["lines"] += 1
                if line["status"][0] != "2" or line["errorResponseType"] == "THROTTLED":
                    continue
                if line["httpMethod"] == "POST":
                    answer["calls"] += 5
                    answer["ms"] += -(-int(line["integrationLatency"]) // 100) * 100
                else:
                    answer["calls"] += 1
                    answer["bytes"] += int(line["responseLength"])
    return answer


def with_pandas(files: list[str]) -> Answer:
    import pandas as pd  # noqa: PLC0415

    parts = [pd.read_json(name, lines=True, dtype=str, compression="gzip")[list(MEMBERS)] for name in files]
    log = pd.concat(parts).drop_duplicates("extendedRequestId")
    billable = log[log.status.str.startswith("2") & (log.errorResponseType != "THROTTLED")]
    rendered = billable.httpMethod == "POST"
    ms = billable.integrationLatency[rendered].astype(int)
    return {
        "lines": len(log),
        "calls": int(rendered.sum() * 5 + (~rendered).sum()),
        "bytes": int(billable.responseLength[~rendered].astype(int).sum()),
        "ms": int((-(-ms // 100) * 100).sum()),
    }


def with_polars(files: list[str]) -> Answer:
    import polars as pl  # noqa: PLC0415

    log = pl.scan_ndjson(files, schema=dict.fromkeys(MEMBERS, pl.String)).unique("extendedRequestId", keep="any")
    is_billable = pl.col("status").str.starts_with("2") & (pl.col("errorResponseType") != "THROTTLED")
    rendered = is_billable & (pl.col("httpMethod") == "POST")
    fetched = is_billable & (pl.col("httpMethod") != "POST")
    ms = pl.col("integrationLatency").cast(pl.Int64, strict=False)
    found = log.select(
        pl.len().alias("lines"),
        (rendered.cast(pl.Int64) * 5 + fetched.cast(pl.Int64)).sum().alias("calls"),
        pl.col("responseLength").cast(pl.Int64).filter(fetched).sum().alias("bytes"),
        ((ms.filter(rendered) + 99) // 100 * 100).sum().alias("ms"),
    ).collect(engine="streaming")
    return {name: int(value) for name, value in found.row(0, named=True).items()}


WAYS: dict[str, Callable[[list[str]], Answer]] = {
    "simulate": simulated,
    "polars": with_polars,
    "pandas": with_pandas,
    "loop": looped,
}


def measured(way: str, files: list[Path]) -> tuple[Run, Answer]:
    done = run([sys.executable, __file__, "--way", way, *map(str, files)])
    return done, json.loads(done.output.splitlines()[-1])


def unpacked(files: list[Path], count: str = "wc") -> Run:
    """Two ``zcat | wc``, each on half of the files; ``wc -l`` looks for the ends of lines only."""
    halves = [" ".join(map(str, half)) for half in (files[::2], files[1::2])]
    return run(["sh", "-c", " & ".join(f"zcat {half} | {count}" for half in halves) + " & wait"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=2_000_000, help="the aim is stated for 10,000,000")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(WAYS[arguments.way](arguments.files)))
        return
    with tempfile.TemporaryDirectory(prefix="bench-simulation-") as directory:
        made = run([sys.executable, "-c", _GENERATE, directory, str(arguments.lines), str(FILES)])
        files = sorted(Path(directory).iterdir())
        lines = arguments.lines // FILES * FILES
        show("log, generated", lines, "lines", seconds=made.seconds, gzip_mb=sum(f.stat().st_size for f in files) / 1e6)
        (simulation, expected), floor = with_floor(files, lambda: measured("simulate", files))
        show("two parallel zcat | wc", lines / floor.seconds, "lines/s", wc_l=lines / floor.ends.seconds)
        show(
            "simulate, gzip log",
            lines / simulation.seconds,
            "lines/s",
            **floor.beside(lines, simulation, aim="at least 1"),
        )
        show("simulate, peak memory", simulation.peak_mb, "MB", aim=MAX_MB)
        _, expected_of_first = measured("simulate", files[:1])
        for way in ("polars", "pandas", "loop"):
            whole = way == "polars"
            done, answer = measured(way, files if whole else files[:1])
            wanted = expected if whole else expected_of_first
            if answer != wanted:
                sys.exit(f"{way} came to {answer}; expected {wanted}")
            count = lines if whole else lines // FILES
            show(
                f"{way}, {'gzip log' if whole else f'one file of {FILES}'}",
                count / done.seconds,
                "lines/s",
                ratio=count / done.seconds * simulation.seconds / lines,
                of="simulate",
                peak_mb=done.peak_mb,
            )


_GENERATE = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path; from simulation import generate
generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
"""

if __name__ == "__main__":
    main()
