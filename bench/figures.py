"""What every benchmark shares: how a process is measured, and the one line that a figure is.

A figure is a JSON object: name, value and unit; ratio and what it is the ratio to (``of``); the aim and whether it is
met, where there is one; the limit or floor beside it. The process that measures imports the standard library alone:
Linux counts what a parent holds when it starts a child towards the child's peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_RSS_PER_MB: Final = 1024 * 1024 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """One process from its start to its end.

    Args:
        cpu_seconds: Of all processes of its tree; the machine's other work disturbs it less.
        peak_mb: Of the largest process of its tree.
    """

    seconds: float
    cpu_seconds: float
    peak_mb: float
    output: str


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Run:
    """Run a command to its end; whatever it says on standard error is shown only if it fails."""
    # Sources that are compiled at each start would be part of every figure.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begun = perf_counter()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**inherited, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}:\n{output}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / _RSS_PER_MB, output)


def own_peak_mb() -> float:
    """The peak memory of this very process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_PER_MB


def in_turn(first: Callable[[], Run], second: Callable[[], Run], pairs: int) -> tuple[list[Run], list[Run]]:
    """Run two things A B A B, so that whatever else the machine does meets both alike."""
    runs = [(first(), second()) for _ in range(pairs)]
    return [a for a, _ in runs], [b for _, b in runs]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def median_ratio(values: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios of the pairs."""
    return median([a / b for a, b in zip(values, to, strict=True)])


def show(
    name: str,
    value: float,
    unit: str,
    *,
    ratio: float | None = None,
    of: str | None = None,
    aim: float | None = None,
    limit: str | None = None,
    **more: float,
) -> None:
    """Print a figure.

    Args:
        name: What was measured.
        value: The median.
        unit: Its unit.
        ratio: What the value is, as a multiple of something.
        of: What that something is, with its own value.
        aim: The ratio, or without one the value, is to be at most this.
        limit: What bounds it from elsewhere, in words.
        more: What it consists of.
    """
    figure: dict[str, object] = {"name": name, "value": round(value, 3), "unit": unit}
    if ratio is not None:
        figure |= {"ratio": round(ratio, 3), "of": of}
    if aim is not None:
        figure |= {"aim": aim, "met": (value if ratio is None else ratio) <= aim}
    if limit is not None:
        figure["limit"] = limit
    print(json.dumps({**figure, **{key: round(part, 3) for key, part in more.items()}}), flush=True)
