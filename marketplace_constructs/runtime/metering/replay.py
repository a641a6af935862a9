"""Closed hours worked out anew from the log, and held against what the ledger says of them. Nothing is written."""

# ruff: noqa: S608 - made of names of temporary files only

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Final

from marketplace_constructs.domain.metering import ClosedHour, Series
from marketplace_constructs.engine.parts import unpacked
from marketplace_constructs.queries.log_lines import json_source, typed_lines
from marketplace_constructs.runtime.metering.buyers import Life
from marketplace_constructs.runtime.metering.history import History
from marketplace_constructs.runtime.metering.log_files import LogFile, LogFiles, names_damaged
from marketplace_constructs.runtime.metering.totals import HourUsage, PlanTimeline, UsageLog

_HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Verdict(StrEnum):
    """What comes of an hour that is worked out again."""

    EQUAL = "equal"
    DIFFERENT = "different"
    GONE = "gone"
    """The log has no files of the hour any more: it cannot be checked."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where log and ledger differ.

    Args:
        series: None in a ledger of a natively metered product, which holds counts of lines alone.
        state: The lines' state there; else empty.
        log: What the log shows, exact.
        ledger: What records and losses hold of it, exact; there, how many lines were counted.
    """

    series: Series | None
    state: str = ""
    log: Fraction
    ledger: Fraction


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One hour.

    Args:
        is_waiting: Usage of the hour waits for a slot.
    """

    hour: datetime
    verdict: Verdict
    differences: tuple[Difference, ...] = ()
    is_waiting: bool = False


class Sorted:
    """Looks into each file of a log once, so that an hour's reading opens only those that tell of it.

    The meter need not: it reads an hour when few files have come since. Long after, each hour has 27 hours of them.

    Args:
        files: The log.
    """

    def __init__(self, files: LogFiles) -> None:
        import duckdb  # noqa: PLC0415  # only the meter's bundle has it

        self._files: Final = files
        self._connection: Final = duckdb.connect(
            config={"memory_limit": "256MB", "autoinstall_known_extensions": False, "autoload_known_extensions": False}
        )
        self._arrived: dict[datetime, list[tuple[LogFile, frozenset[datetime]]]] = {}

    def of(self, hour: datetime) -> LogFiles:
        """The files that tell of an hour, later than any that was asked for before."""
        self._arrived = {arrived: files for arrived, files in self._arrived.items() if arrived >= hour}
        return _FilesOf(hour, self)

    def arrived_in(self, arrived: datetime) -> list[tuple[LogFile, frozenset[datetime]]]:
        """The files of an hour of arrival, with the hours they tell of."""
        if arrived not in self._arrived:
            self._arrived[arrived] = [(file, self._hours(file)) for file in self._files.arrived_in(arrived)]
        return self._arrived[arrived]

    def fetch(self, name: str, path: Path) -> None:
        """Write a file's content to a path."""
        self._files.fetch(name, path)

    def _hours(self, file: LogFile) -> frozenset[datetime]:
        with tempfile.TemporaryDirectory(prefix="meter-") as directory:
            path = Path(directory, "file")
            self._files.fetch(file.name, path)
            parts = Path(directory, "parts")
            parts.mkdir()
            with names_damaged([file.name]):
                return frozenset(
                    _EPOCH + timedelta(milliseconds=hour_ms)
                    for part in unpacked([path], parts)
                    for (hour_ms,) in self._connection.execute(
                        "SELECT DISTINCT request_time_ms - request_time_ms % 3600000 "
                        f"FROM ({typed_lines(json_source([str(part.path)]))}) WHERE extended_request_id IS NOT NULL"
                    ).fetchall()
                )


class _FilesOf:
    """A log as if it held nothing but the files that tell of one hour."""

    def __init__(self, hour: datetime, files: Sorted) -> None:
        self._hour: Final = hour
        self._files: Final = files

    def arrived_in(self, hour: datetime) -> Iterator[LogFile]:
        return (file for file, hours in self._files.arrived_in(hour) if self._hour in hours)

    def fetch(self, name: str, path: Path) -> None:
        self._files.fetch(name, path)

    def quarantine(self, name: str, content: bytes) -> bool:
        raise NotImplementedError("a replay writes nothing")


def replay(
    history: History,
    hours: Sequence[datetime],
    *,
    log: Callable[[datetime], UsageLog],
    has_files: Callable[[datetime], bool],
    lives: Sequence[Life],
    plans: PlanTimeline,
    now: datetime,
    is_native: bool,
) -> Iterator[Replayed]:
    """Work hours out anew.

    Args:
        history: The ledger.
        hours: Closed ones, the earliest first.
        log: How an hour is read.
        has_files: Whether anything is left of what arrived in an hour.
        lives: Whose usage a line is.
        plans: Which tables hold.
        now: The present moment.
        is_native: The ledger holds no usage, only counts of lines.
    """
    accounted = history.accounted()
    for hour in hours:
        found = log(hour).read(hour, now=now, lives=lives, tables=plans.at(hour))
        closed = history.closed[hour]
        if is_gone(closed, found, has_files):
            yield Replayed(hour=hour, verdict=Verdict.GONE)
            continue
        differences = (
            tuple(_counts(closed, found))
            if is_native
            else tuple(_usage(found, {**accounted.get(hour, {}), **history.unjudged(hour)}, closed))
        )
        yield Replayed(
            hour=hour,
            verdict=Verdict.DIFFERENT if differences else Verdict.EQUAL,
            differences=differences,
            is_waiting=hour in history.again,
        )


def is_gone(closed: ClosedHour | None, found: HourUsage, has_files: Callable[[datetime], bool]) -> bool:
    """Whether the log of an hour was deleted: it shows fewer lines than were counted, and no file of its arrival."""
    if closed is None or sum(found.closed.lines.values()) >= sum(closed.lines.values()):
        return False
    return not (has_files(closed.hour) or has_files(closed.hour + _HOUR))


def _counts(closed: ClosedHour, found: HourUsage) -> Iterator[Difference]:
    for state in sorted({*closed.lines, *found.closed.lines}):
        log, ledger = found.closed.lines.get(state, 0), closed.lines.get(state, 0)
        if log != ledger:
            yield Difference(series=None, state=state, log=Fraction(log), ledger=Fraction(ledger))


def _usage(found: HourUsage, ledger: Mapping[Series, Fraction], closed: ClosedHour) -> Iterator[Difference]:
    log = {series: usage.quantity for series, usage in found.usage.items()}
    if closed.unjudged is not None:
        log |= found.closed.unjudged or {}
    for series in sorted({*ledger, *log}):
        if (shows := log.get(series, Fraction(0))) != (holds := ledger.get(series, Fraction(0))):
            yield Difference(series=series, log=shows, ledger=holds)
