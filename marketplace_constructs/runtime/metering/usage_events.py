"""What an hour's usage events come to: worked out anew and whole, like the calls of the access log."""

# ruff: noqa: S608 - names of this module only

from __future__ import annotations

import csv
import gzip
import re
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marketplace_constructs.domain.metering import (
    EVENT,
    EVENT_OUTSIDE,
    NOBODY,
    UNPLANNED,
    ClosedHour,
    Series,
    Usage,
    hour_of,
)
from marketplace_constructs.domain.plan_table import EventMeter, LineState, PlanTable
from marketplace_constructs.engine.database import columns_of, load, opened_database
from marketplace_constructs.engine.parts import blocks, lines_of
from marketplace_constructs.queries.usage_events import (
    EVENT_LIVES,
    EVENTS,
    METERS,
    PLANS,
    Event,
    event_meters,
    event_quantity,
    event_usage_query,
    id_key,
    may_hold,
    meter_rows,
    read_event,
)
from marketplace_constructs.runtime.metering.buyers import Life, by_agreement
from marketplace_constructs.runtime.metering.log_files import LogFile, LogFiles, names_damaged
from marketplace_constructs.runtime.metering.totals import (
    ARRIVES_WITHIN,
    MARKETPLACE,
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

AHEAD_BY: Final = timedelta(hours=6)
"""How far ahead of its arrival an event's time may be: clocks and time zones are wrong by less."""
COPIES_WITHIN: Final = ARRIVES_WITHIN
"""How long after its first copy arrived an event is known, whatever time another copy tells."""
_STANDS_AFTER: Final = timedelta(minutes=2)
"""When a file's place in the order of arrival is final, since whatever is listed later has a later time."""
_FETCHES: Final = 8
"""Files that are fetched at once: an hour may have more than a thousand, and each costs a round trip."""
_UNJUDGED: Final = frozenset({UNPLANNED, LineState.OUTSIDE.value, LineState.UNATTRIBUTED.value})
_NAMED: Final = 100
"""Agreements that nobody knows, and that an hour of the ledger names: a backend may name whom it likes."""
_AGREEMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9/_.:-]{0,127}")
"""What may be an agreement; no address of a person."""
_LINE_BITS: Final = 32
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
        lines, unjudged, usage = Counter[str](), dict[Series, Fraction](), dict[Series, Usage]()
        for one in found:
            lines.update(one.closed.lines)
            for series, quantity in (one.closed.unjudged or {}).items():
                unjudged[series] = unjudged.get(series, Fraction(0)) + quantity
            for series, more in one.usage.items():
                _add(usage, series, more)
        closed = ClosedHour(
            hour=hour,
            lines=dict(lines),
            quarantined=sum(one.closed.quarantined for one in found),
            unjudged=unjudged,
        )
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
    """A file that may tell of an hour, or of its events before, or that came since the log was looked through last.

    Args:
        arrived: The hour in which it arrived.
        tells: It may tell of the hour.
        stands: Copies in it are known for copies: its place among those that came before will not change.
        is_new: It came since.
    """

    file: LogFile
    arrived: datetime
    tells: bool
    stands: bool
    is_new: bool

    def holds(self, event: Event | None, names: Collection[str]) -> bool:
        """Whether it is an event that is found when its hour is read, and that the product knows."""
        if event is None or event.event not in names:
            return False
        return event.time_ms in self._takes

    @cached_property
    def _takes(self) -> range:
        return range(ms_of(self.arrived - ARRIVES_WITHIN), ms_of(self.arrived + AHEAD_BY) + _HOUR_MS)


def _arrivals(files: LogFiles, hour: datetime, now: datetime, since: datetime | None) -> list[_Arrival]:
    """In the order in which they came, which is the same whenever it is asked for."""
    last = hour_of(now)
    telling = range(_number(hour - AHEAD_BY), _number(min(last, hour + ARRIVES_WITHIN)) + 1)
    standing = range(telling.start - COPIES_WITHIN // _HOUR, telling.stop)
    recent = range(0) if since is None else range(_number(hour_of(since - ARRIVES_WITHIN)), _number(last) + 1)
    found = []
    for number in sorted({*standing, *recent}):
        arrived = _EPOCH + number * _HOUR
        for file in files.arrived_in(arrived):
            is_new = since is not None and number in recent and file.modified_at > since - SETTLING
            stands = number in standing and file.modified_at <= now - _STANDS_AFTER
            if is_new or stands:
                tells = stands and number in telling
                found.append(_Arrival(file=file, arrived=arrived, tells=tells, stands=stands, is_new=is_new))
    return sorted(found, key=lambda one: (one.file.modified_at, one.file.name))


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
                if arrival.stands:
                    first.setdefault(event[:2], event)
            if arrival.is_new:
                quarantined += put_aside(self._files, arrival.file.name, unreadable)
        begin, judged = ms_of(hour), _Judged(tables, lives)
        for event in first.values():
            if begin <= event.time_ms < begin + _HOUR_MS:
                judged.judge(event)
        return judged.found(hour, also, quarantined)

    def _parse(self, name: str) -> list[tuple[bytes, Event | None]]:
        if name not in self._parsed:
            content = self._content(name)
            plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            self._parsed[name] = [(line, read_event(line)) for line in plain.split(b"\n") if line.strip()]
        return self._parsed[name]


def may_be_billed(plans: Collection[str | None], tables: Mapping[str, PlanTable]) -> bool:
    """Whether usage outside an agreement is a loss: any plan that the agreement ever had is billed, or not known."""
    known = [tables.get(plan or "") for plan in plans]
    return not known or any(table is None or table.channel == MARKETPLACE for table in known)


def named_of(unknown: Iterable[str]) -> set[str]:
    """Of an hour's agreements that nobody knows, those that the ledger names."""
    return set(sorted(filter(_AGREEMENT.fullmatch, unknown))[:_NAMED])


class _Judged:
    """What events come to, as they add up."""

    def __init__(self, tables: Mapping[str, PlanTable], lives: Sequence[Life]) -> None:
        self._tables = tables
        self._lives = by_agreement(lives)
        self.lines = Counter[str]()
        self._usage: dict[Series, Usage] = {}
        self._unjudged: dict[Series, Fraction] = {}

    def judge(self, event: Event) -> None:
        """Take one event in, as the SQL text would."""
        lives = self._lives.get(event.agreement, ())
        life = life_at(lives, event.time_ms)
        table = self._tables.get(life.plan) if life else None
        if life is None or table is None:
            state = UNPLANNED if life else LineState.OUTSIDE if lives else LineState.UNATTRIBUTED
            quantity = event_quantity(event.whole, event.fraction, multiply=Decimal(1))
            self.leave(life.owner if life else event.agreement, state, event.event, quantity, events=1)
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
        if self._tables[plan].channel == MARKETPLACE:
            self._use(Series(agreement=owner, dimension=meter.dimension), meter.event, quantity, first_ms)

    def leave(self, agreement: str, state: str, event: str, quantity: Fraction, *, events: int) -> None:
        """Note what no table judges, as it was told, unless its plan's usage is never billed."""
        self.lines[state] += events
        is_unplanned = state == UNPLANNED
        lives = self._lives.get(agreement, ())
        if quantity and (is_unplanned or may_be_billed([life.plan for life in lives], self._tables)):
            dimension = f"{EVENT}{event}" if is_unplanned else f"{EVENT}{event}{EVENT_OUTSIDE}"
            series = Series(agreement=agreement, dimension=dimension)
            self._unjudged[series] = self._unjudged.get(series, Fraction(0)) + quantity

    def _named(self) -> dict[Series, Fraction]:
        """What no table judges, of those that nobody knows some by name and the rest together."""
        unknown = {series.agreement for series in self._unjudged} - self._lives.keys()
        unnamed = unknown - named_of(unknown)
        found: dict[Series, Fraction] = {}
        for series, quantity in self._unjudged.items():
            shown = replace(series, agreement=NOBODY) if series.agreement in unnamed else series
            found[shown] = found.get(shown, Fraction(0)) + quantity
        return found

    def _use(self, series: Series, event: str, quantity: Fraction, first_ms: int) -> None:
        if quantity:
            earliest = _EPOCH + timedelta(milliseconds=first_ms)
            more = Usage(quantity=quantity, earliest=earliest, by_path={tag_value(f"{EVENT}{event}"): quantity})
            _add(self._usage, series, more)

    def found(self, hour: datetime, also: Iterable[datetime], quarantined: int) -> HourUsage:
        """The hour."""
        closed = ClosedHour(hour=hour, lines=dict(self.lines), quarantined=quarantined, unjudged=self._named())
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
        begin, judged, sought = ms_of(hour), _Judged(tables, lives), set[int]()
        arrivals = list(enumerate(_arrivals(self._files, hour, now, since)))
        with tempfile.TemporaryDirectory(prefix="events-", dir=self._directory) as name:
            directory = Path(name)
            with gzip.open(directory / "events.csv.gz", "wt", 1, encoding="utf-8", newline="") as rows:
                writer = csv.writer(rows, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
                looked_at = [one for one in arrivals if one[1].tells or one[1].is_new]
                for arrival, content in self._fetched(looked_at, directory):
                    unreadable = list[bytes]()
                    for place, event in _held(arrival, content, names, unreadable):
                        if arrival.is_new:
                            also.add(_hour(event))
                        if arrival.tells:
                            writer.writerow((*event, place))
                            if begin <= event.time_ms < begin + _HOUR_MS:
                                sought.add(id_key(event))
                    quarantined += put_aside(self._files, arrival.file.name, unreadable)
                # What cannot tell of the hour may still hold the first copy of an event of it.
                before = [one for one in arrivals if sought and one[1].stands and not one[1].tells]
                for arrival, content in self._fetched(before, directory, sought):
                    writer.writerows(
                        (*copy, place)
                        for place, line in content
                        if (copy := read_event(line)) and arrival.holds(copy, names)
                    )
            if sought:
                self._judge(directory, begin, lives, tables, judged)
        return judged.found(hour, also, quarantined)

    def _fetched(
        self, arrivals: Iterable[tuple[int, _Arrival]], directory: Path, sought: AbstractSet[int] | None = None
    ) -> Iterator[tuple[_Arrival, Iterator[tuple[int, bytes]]]]:
        """Each file and its lines, with their places, while the next files are on their way.

        Args:
            arrivals: The files, numbered in the order in which they came.
            directory: Where they lie meanwhile.
            sought: Ids by ``id_key``: only lines that may hold one of them are given. None for all.
        """
        coming = deque[tuple[_Arrival, int, Path, Future[None]]]()
        with ThreadPoolExecutor(_FETCHES) as pool:
            for number, arrival in arrivals:
                path = directory / f"fetched{number}"
                fetched = pool.submit(self._files.fetch, arrival.file.name, path)
                coming.append((arrival, number << _LINE_BITS, path, fetched))
                if len(coming) == _FETCHES:
                    yield _opened(*coming.popleft(), sought)
            while coming:
                yield _opened(*coming.popleft(), sought)

    def _judge(
        self,
        directory: Path,
        begin_ms: int,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        judged: _Judged,
    ) -> None:
        meters, end_ms = event_meters(tables), begin_ms + _HOUR_MS
        with opened_database(directory, memory=self._memory, threads=self._threads) as connection:
            connection.execute(
                f"CREATE VIEW received AS FROM read_csv('{directory}/events.csv.gz', {columns_of(EVENTS)}, "
                "header=false, auto_detect=false, delim=',', quote='\"', escape='\"')"
            )
            # Of other hours, only what may be the first copy of an event of this one.
            connection.execute(
                "CREATE TABLE events AS FROM received SEMI JOIN (SELECT source, event_id FROM received "
                f"WHERE time_ms >= {begin_ms} AND time_ms < {end_ms}) USING (source, event_id)"
            )
            load(connection, directory, "lives", EVENT_LIVES, _life_rows(lives))
            load(connection, directory, "plans", PLANS, [{"plan": plan} for plan in tables])
            load(connection, directory, "meters", METERS, meter_rows(meters))
            cursor = connection.execute(event_usage_query(("event",)), [begin_ms, end_ms])
            while rows := cursor.fetchmany(10_000):
                for event, owner, state, number, events, first_ms, whole, fraction in rows:
                    if state in _UNJUDGED:
                        quantity = event_quantity(int(whole), int(fraction), multiply=Decimal(1))
                        judged.leave(owner, state, event, quantity, events=events)
                        continue
                    if number is None:
                        judged.lines[state] += events
                        continue
                    plan, meter = meters[number]
                    quantity = event_quantity(int(whole), int(fraction), multiply=meter.multiply)
                    judged.count(owner, plan, meter, quantity, events=events, first_ms=first_ms)
            if self._watch is not None:
                self._watch(connection, tables, begin_ms, end_ms)


def _held(
    arrival: _Arrival, content: Iterable[tuple[int, bytes]], names: Collection[str], unreadable: list[bytes]
) -> Iterator[tuple[int, Event]]:
    """Places and events; other lines of a new file go into the list."""
    for place, line in content:
        event = read_event(line)
        if event is not None and arrival.holds(event, names):
            yield place, event
        elif arrival.is_new:
            unreadable.append(line)


def _opened(
    arrival: _Arrival, place: int, path: Path, fetched: Future[None], sought: AbstractSet[int] | None
) -> tuple[_Arrival, Iterator[tuple[int, bytes]]]:
    fetched.result()
    return arrival, enumerate(_lines(arrival.file.name, path, sought), place)


def _lines(name: str, path: Path, sought: AbstractSet[int] | None) -> Iterator[bytes]:
    """A file's lines, or those that may hold what is sought; it is gone afterwards."""
    with names_damaged([name]):
        for block in blocks(path):
            if sought is None:
                yield from lines_of(block)
            elif may_hold(block, sought):
                yield from (line for line in lines_of(block) if may_hold(line, sought))
    path.unlink()


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
