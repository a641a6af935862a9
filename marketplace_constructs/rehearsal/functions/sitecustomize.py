"""Let the functions follow the rehearsal's clock.

Python loads this by itself in every function of the local AWS. ``REHEARSAL_CLOCK`` names a file with how
many seconds the rehearsal is ahead of real time. Nothing but the one clock of the runtime is changed, at the
moment when it is imported.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

_CLOCK = "marketplace_constructs.runtime.clock"


def _rehearsal_now() -> datetime:
    ahead = float(Path(os.environ["REHEARSAL_CLOCK"]).read_text() or 0)
    return datetime.now(UTC) + timedelta(seconds=ahead)


class _ClockFinder:
    @staticmethod
    def find_spec(
        name: str, path: list[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _CLOCK:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None:
            return None
        run = spec.loader.exec_module

        def run_and_replace(module: ModuleType) -> None:
            run(module)
            module.utc_now = _rehearsal_now

        spec.loader.exec_module = run_and_replace
        return spec


if os.environ.get("REHEARSAL_CLOCK"):
    sys.meta_path.insert(0, _ClockFinder)
