"""All benchmarks, one after the other: ``python bench/run.py``; each is a command of its own as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("gate", "load", "cold_start", "synthesis", "simulation", "metering", "inputs", "side_by_side", "lint")


def main() -> None:
    for name in BENCHMARKS:
        subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], check=True)


if __name__ == "__main__":
    main()
