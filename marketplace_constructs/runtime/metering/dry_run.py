"""The meter without effect: the production code over a ledger and a log that it can read and not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from marketplace_constructs.runtime.metering.log_files import LogFile, LogFiles
from marketplace_constructs.runtime.metering.objects import MemoryObjects, Objects


class OverlaidObjects:
    """Objects that are read from a store, and written to memory.

    Args:
        objects: Never written to.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects: Final = objects
        self.written: Final = MemoryObjects()

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object unless there is one of this name, in either."""
        there = self._objects.get(key)
        return self.written.put_new(key, content) if there is None else there == content

    def get(self, key: str) -> bytes | None:
        """An object's content."""
        content = self.written.get(key)
        return self._objects.get(key) if content is None else content

    def keys(self, prefix: str, *, after: str = "") -> list[str]:
        """The names that begin so."""
        return sorted({*self._objects.keys(prefix, after=after), *self.written.keys(prefix, after=after)})


class UnchangedFiles:
    """A log in which nothing is quarantined; what would be is counted.

    Args:
        files: Never written to.
    """

    def __init__(self, files: LogFiles) -> None:
        self._files: Final = files

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        """The files of an hour."""
        return self._files.arrived_in(hour)

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        self._files.fetch(name, path)

    def quarantine(self, name: str, content: bytes) -> bool:
        """Keep nothing, and say that it was."""
        del name, content
        return True


class NothingSent:
    """BatchMeterUsage that takes nothing and leaves every record as it was."""

    def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
        """Say of every record that it was not processed."""
        return {"Results": [], "UnprocessedRecords": request["UsageRecords"]}
