"""What an hour's usage events come to: worked out anew and whole, like the calls of the access log."""

# ruff: noqa: S608 - names of this module only

from __future__ import annotations

import csv
import gzip
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marketplace_constructs.domain.metering import ClosedHour, Series, Usage, hour_of
from marketplace_constructs.domain.plan_table import EventMeter, LineState, PlanTable
from marketplace_constructs.engine.database import opened_database
from marketplace_constructs.engine.parts import lines
from marketplace_constructs.queries.usage import to_json_lines
from marketplace_constructs.queries.usage_events import (
    EVENT_LIVES,
    EVENTS,
    METERS,
    PLANS,
    Event,
    event_meters,
    event_quantity,
    event_usage_query,
    meter_rows,
    read_event,
)
from marketplace_constructs.runtime.metering.buyers import Life
from marketplace_constructs.runtime.metering.log_files import LogFile, LogFiles, names_damaged
from marketplace_constructs.runtime.metering.totals import (
    ARRIVES_WITHIN,
    MARKETPLACE,
    OUTSIDE,
    SETTLING,
    HourUsage,
    UsageLog,
    life_at,
    ms_of,
    put_aside,
    tag_value,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

COPIES_WITHIN: Final = timedelta(hours=6)
"""How long after an event a copy of it that tells another time is still known for one; and how far ahead of its arrival
an event's time may be. As long as Lambda tries an asynchronous call again, at most. Source: Lambda developer guide,
Configuring error handling for asynchronous invocation (read 2026-11-28)."""
_HOUR: Final = timedelta(hours=1)
_HOUR_MS: Final = 3_600_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class LinesAndEvents:
    """Logs of which each tells usage of its own, judged together.

    Args:
        logs: Each UsageLog in turn is asked for everything.
    """

    def __init__(self, *logs: UsageLog) -> None:
        self._logs: Final = logs

    def read(
        self,
        hour: datetime,
        *,
        now: datetime,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        since: datetime | None = None,
    ) -> HourUsage:
        """Everything that has arrived of an hour."""
        found = [log.read(hour, now=now, lives=lives, tables=tables, since=since) for log in self._logs]
        lines, usage = Counter[str](), dict[Series, Usage]()
        for one in found:
            lines.update(one.closed.lines)
            for series, more in one.usage.items():
                _add(usage, series, more)
        closed = ClosedHour(hour=hour, lines=dict(lines), quarantined=sum(one.closed.quarantined for one in found))
        return HourUsage(closed=closed, usage=usage, also=frozenset[datetime]().union(*(one.also for one in found)))


def _add(usage: dict[Series, Usage], series: Series, more: Usage) -> None:
    known = usage.get(series)
    if known is None:
        usage[series] = more
        return
    by_path = dict(known.by_path)
    for path, quantity in more.by_path.items():
        by_path[path] = by_path.get(path, Fraction(0)) + quantity
    usage[series] = Usage(
        quantity=known.quantity + more.quantity, earliest=min(known.earliest, more.earliest), by_path=by_path
    )


@dataclass(frozen=True, kw_only=True)
class _Arrival:
    """A file that may tell of an hour, or that came since the log was looked through last.

    Args:
        arrived: The hour in which it arrived.
        is_counted: It may tell of the hour.
        is_new: It came since.
    """

    file: LogFile
    arrived: datetime
    is_counted: bool
    is_new: bool

    def holds(self, event: Event | None, names: Collection[str]) -> bool:
        """Whether it is an event that is found when its hour is read, and that the product knows."""
        if event is None or event.event not in names:
            return False
        return self.arrived - ARRIVES_WITHIN <= _hour(event) <= self.arrived + COPIES_WITHIN


def _arrivals(files: LogFiles, hour: datetime, now: datetime, since: datetime | None) -> Iterator[_Arrival]:
    last = hour_of(now)
    counted = range(_number(hour - COPIES_WITHIN), _number(min(last, hour + ARRIVES_WITHIN)) + 1)
    recent = range(0) if since is None else range(_number(hour_of(since - ARRIVES_WITHIN)), _number(last) + 1)
    for number in sorted({*counted, *recent}):
        arrived = _EPOCH + number * _HOUR
        for file in files.arrived_in(arrived):
            is_new = since is not None and number in recent and file.modified_at > since - SETTLING
            if is_new or number in counted:
                yield _Arrival(file=file, arrived=arrived, is_counted=number in counted, is_new=is_new)


def _names(declared: Collection[str], tables: Mapping[str, PlanTable]) -> frozenset[str]:
    """The events that the product declares, or that a plan still counted in the hour."""
    return frozenset(declared) | {meter.event for table in tables.values() for meter in table.events}


class MemoryUsageEvents:
    """Usage events judged one by one: for tests, where files are few and small.

    Args:
        declared: The names of the product's usage events.
    """

    def __init__(self, files: LogFiles, content: Callable[[str], bytes], *, declared: Collection[str]) -> None:
        self._files: Final = files
        self._content: Final = content
        self._declared: Final = declared
        self._parsed: dict[str, list[tuple[bytes, Event | None]]] = {}

    def read(
        self,
        hour: datetime,
        *,
        now: datetime,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        since: datetime | None = None,
    ) -> HourUsage:
        """Everything that has arrived of an hour."""
        names, first, also, quarantined = (
            _names(self._declared, tables),
            dict[tuple[str, str], Event](),
            set[datetime](),
            0,
        )
        for arrival in _arrivals(self._files, hour, now, since):
            unreadable = []
            for line, event in self._parse(arrival.file.name):
                if event is None or not arrival.holds(event, names):
                    unreadable.append(line)
                    continue
                if arrival.is_new:
                    also.add(_hour(event))
                if arrival.is_counted:
                    key = event[:2]
                    first[key] = min(event, first.get(key, event))
            if arrival.is_new:
                quarantined += put_aside(self._files, arrival.file.name, unreadable)
        begin, judged = ms_of(hour), _Judged(tables)
        by_agreement: dict[str, list[Life]] = {}
        for life in lives:
            by_agreement.setdefault(life.agreement, []).append(life)
        for event in first.values():
            if begin <= event.time_ms < begin + _HOUR_MS:
                judged.judge(event, by_agreement.get(event.agreement, ()))
        return judged.found(hour, also, quarantined)

    def _parse(self, name: str) -> list[tuple[bytes, Event | None]]:
        if name not in self._parsed:
            content = self._content(name)
            plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            self._parsed[name] = [(line, read_event(line)) for line in plain.split(b"\n") if line.strip()]
        return self._parsed[name]


class _Judged:
    """What events come to, as they add up."""

    def __init__(self, tables: Mapping[str, PlanTable]) -> None:
        self._tables = tables
        self.lines = Counter[str]()
        self._usage: dict[Series, Usage] = {}

    def judge(self, event: Event, lives: Sequence[Life]) -> None:
        """Take one event in, as the SQL text would."""
        life = life_at(lives, event.time_ms)
        if life is None:
            self.lines[OUTSIDE if lives else LineState.UNATTRIBUTED.value] += 1
            return
        table = self._tables.get(life.plan)
        if table is None:
            self.lines[LineState.UNMATCHED.value] += 1
            return
        meters = [meter for meter in table.events if meter.event == event.event]
        for meter in meters:
            whole, fraction = event.whole, event.fraction
            if meter.round_up:
                whole, fraction = -(-(whole + bool(fraction)) // meter.round_up) * meter.round_up, 0
            quantity = event_quantity(whole, fraction, multiply=meter.multiply)
            self.count(life.owner, life.plan, meter, quantity, events=1, first_ms=event.time_ms)
        if not meters:
            self.lines[LineState.UNMETERED.value] += 1

    def count(
        self, owner: str, plan: str, meter: EventMeter, quantity: Fraction, *, events: int, first_ms: int
    ) -> None:
        """Take a quantity in."""
        self.lines[f"{meter.dimension} {LineState.BILLABLE}"] += events
        if quantity and self._tables[plan].channel == MARKETPLACE:
            earliest = _EPOCH + timedelta(milliseconds=first_ms)
            more = Usage(quantity=quantity, earliest=earliest, by_path={tag_value(f"event:{meter.event}"): quantity})
            _add(self._usage, Series(agreement=owner, dimension=meter.dimension), more)

    def found(self, hour: datetime, also: Iterable[datetime], quarantined: int) -> HourUsage:
        """The hour."""
        closed = ClosedHour(hour=hour, lines=dict(self.lines), quarantined=quarantined)
        return HourUsage(closed=closed, usage=self._usage, also=frozenset(also) - {hour})


EventWatch = Callable[["DuckDBPyConnection", Mapping[str, PlanTable], int, int], None]
"""Is shown the events once they are judged, while the relations of ``event_usage_query`` are there, with the tables and
the hour's milliseconds, half-open."""


class DuckDbUsageEvents:
    """Usage events judged by DuckDB, in bounded memory; lines are read one by one, so that one reader decides of them.

    Args:
        files: The events.
        declared: The names of the product's usage events.
        memory: What DuckDB may hold, such as ``256MB``.
        threads: How many it may use.
        directory: Where files lie meanwhile; None for the system's own.
        watch: Who wants to know more of the events than what they come to; None for nobody.
    """

    def __init__(
        self,
        files: LogFiles,
        *,
        declared: Collection[str],
        memory: str = "256MB",
        threads: int = 2,
        directory: Path | None = None,
        watch: EventWatch | None = None,
    ) -> None:
        self._files: Final = files
        self._declared: Final = declared
        self._memory: Final = memory
        self._threads: Final = threads
        self._directory: Final = directory
        self._watch: Final = watch

    def read(
        self,
        hour: datetime,
        *,
        now: datetime,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        since: datetime | None = None,
    ) -> HourUsage:
        """Everything that has arrived of an hour."""
        names, also, quarantined = _names(self._declared, tables), set[datetime](), 0
        judged, end_ms, has_any = _Judged(tables), ms_of(hour) + _HOUR_MS, False
        with tempfile.TemporaryDirectory(prefix="events-", dir=self._directory) as name:
            directory = Path(name)
            with gzip.open(directory / "events.csv.gz", "wt", 1, encoding="utf-8", newline="") as rows:
                write = csv.writer(rows, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerow
                for arrival in _arrivals(self._files, hour, now, since):
                    unreadable = []
                    for line in self._lines(arrival.file.name, directory):
                        event = read_event(line)
                        if event is None or not arrival.holds(event, names):
                            if arrival.is_new:
                                unreadable.append(line)
                            continue
                        if arrival.is_new:
                            also.add(_hour(event))
                        # A copy that tells a later hour changes nothing about this one.
                        if arrival.is_counted and event.time_ms < end_ms:
                            has_any = True
                            write(event)
                    quarantined += put_aside(self._files, arrival.file.name, unreadable)
            if has_any:
                self._judge(directory, end_ms, lives, tables, judged)
        return judged.found(hour, also, quarantined)

    def _lines(self, name: str, directory: Path) -> Iterator[bytes]:
        path = directory / "fetched"
        self._files.fetch(name, path)
        with names_damaged([name]):
            yield from lines(path)

    def _judge(
        self,
        directory: Path,
        end_ms: int,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        judged: _Judged,
    ) -> None:
        meters = event_meters(tables)
        relations: dict[str, tuple[Mapping[str, str], Iterable[Mapping[str, object]]]] = {
            "lives": (EVENT_LIVES, _life_rows(lives)),
            "plans": (PLANS, [{"plan": plan} for plan in tables]),
            "meters": (METERS, meter_rows(meters)),
        }
        for name, (_, held) in relations.items():
            (directory / f"{name}.json").write_text(to_json_lines(held), encoding="utf-8")
        with opened_database(directory, memory=self._memory, threads=self._threads) as connection:
            connection.execute(
                f"CREATE VIEW received AS FROM read_csv('{directory}/events.csv.gz', {_columns(EVENTS)}, "
                "header=false, auto_detect=false, delim=',', quote='\"', escape='\"')"
            )
            # Of hours before, only what may be the first copy of an event of this one.
            connection.execute(
                "CREATE TABLE events AS FROM received SEMI JOIN "
                f"(SELECT source, event_id FROM received WHERE time_ms >= {end_ms - _HOUR_MS}) USING (source, event_id)"
            )
            for name, (schema, _) in relations.items():
                connection.execute(
                    f"CREATE TABLE {name} AS SELECT * FROM "
                    f"read_json('{directory}/{name}.json', {_columns(schema)}, format='newline_delimited')"
                )
            cursor = connection.execute(event_usage_query(), [end_ms - _HOUR_MS, end_ms])
            while rows := cursor.fetchmany(10_000):
                for owner, state, number, events, first_ms, whole, fraction in rows:
                    if number is None:
                        judged.lines[state] += events
                        continue
                    plan, meter = meters[number]
                    quantity = event_quantity(int(whole), int(fraction), multiply=meter.multiply)
                    judged.count(owner, plan, meter, quantity, events=events, first_ms=first_ms)
            if self._watch is not None:
                self._watch(connection, tables, end_ms - _HOUR_MS, end_ms)


def _columns(schema: Mapping[str, str]) -> str:
    columns = ", ".join(f"'{column}': '{kind}'" for column, kind in schema.items())
    return f"columns={{{columns}}}"


def _life_rows(lives: Iterable[Life]) -> Iterator[dict[str, object]]:
    for life in lives:
        values = (
            life.agreement,
            life.owner,
            life.plan or None,
            ms_of(life.starts_at),
            ms_of(life.ends_at),
        )
        yield dict(zip(EVENT_LIVES, values, strict=True))


def _hour(event: Event) -> datetime:
    return _EPOCH + timedelta(milliseconds=event.time_ms - event.time_ms % _HOUR_MS)


def _number(hour: datetime) -> int:
    return (hour - _EPOCH) // _HOUR
