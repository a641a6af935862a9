# ruff: noqa: T201
"""The fault campaign: many seeds of the simulator, and the seeded bugs that it must catch.

``python tests/metering/campaign.py --seeds 10000 --first 0``; the last line counts.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from seeded_bugs import BUGS, catches  # noqa: E402
from simulation import run_seed  # noqa: E402

SEEDS_PER_BUG = 50


def catch_rate(name_and_seeds: tuple[str, int, int]) -> tuple[str, int]:
    """How many of so many seeds notice a bug."""
    name, first, seeds = name_and_seeds
    return name, sum(catches(name, seed) for seed in range(first, first + seeds))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--bug-seeds", type=int, default=SEEDS_PER_BUG)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    started, failures = time.monotonic(), 0
    with ProcessPoolExecutor(given.jobs) as pool:
        for done, (seed, problem) in enumerate(
            pool.map(partial(run_seed, duckdb_every=100), range(given.first, given.first + given.seeds), chunksize=4), 1
        ):
            if problem:
                failures += 1
                print(f"seed {seed}: {problem}", flush=True)
            if done % 500 == 0:
                print(
                    f"{done} seeds, {failures} failures, {time.monotonic() - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
        caught = 0
        for name, seeds in pool.map(catch_rate, [(name, given.first, given.bug_seeds) for name in BUGS]):
            caught += bool(seeds)
            print(f"bug {name}: caught by {seeds} of {given.bug_seeds} seeds", flush=True)
    print(f"{given.seeds} seeds, {failures} failures, {caught} of {len(BUGS)} seeded bugs caught")
    return 1 if failures or caught < len(BUGS) else 0


if __name__ == "__main__":
    raise SystemExit(main())
