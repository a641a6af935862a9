"""What an hour of the access log comes to: worked out anew and whole, whenever it is asked for."""

# ruff: noqa: S608 - names of this module and quoted texts only

from __future__ import annotations

import gzip
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.metering import CALL, ClosedHour, Series, Usage, hour_of
from marketplace_constructs.domain.plan_table import LineState, PlanTable
from marketplace_constructs.domain.plan_versions import PlanVersion, holding
from marketplace_constructs.engine.database import keep_first_lines, load, opened_database
from marketplace_constructs.engine.parts import lines, unpacked
from marketplace_constructs.queries.access_log import REFUSED_BY_GATEWAY
from marketplace_constructs.queries.log_lines import Line, json_source, quoted, read_line, typed_lines
from marketplace_constructs.queries.usage import (
    CELLS,
    LINES,
    ROUTES,
    SKIPPED,
    cell_rows,
    quantity_of,
    route_rows,
    usage_query,
)
from marketplace_constructs.runtime.metering.buyers import FOREVER, Life, by_agreement
from marketplace_constructs.runtime.metering.log_files import LogFile, LogFiles, names_damaged
from marketplace_constructs.runtime.plan_tables import PlanTables
from marketplace_constructs.runtime.plan_versions import PlanVersions

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ARRIVES_WITHIN: Final = timedelta(hours=26)
"""How late a line may come and still count. Source: Firehose developer guide: it retries for up to 24 h
(read 2026-11-22)."""
SETTLING: Final = timedelta(minutes=15)
"""How far a listing looks back before the one before it, since clocks differ."""
MARKETPLACE: Final = "Marketplace"
_HOUR: Final = timedelta(hours=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TAG: Final = 256
_NO_TAG: Final = re.compile(r"[^a-zA-Z0-9+ \-=._:/@]")


@dataclass(frozen=True, kw_only=True)
class HourUsage:
    """One hour.

    Args:
        closed: What was counted.
        usage: By series; only what is billed.
        also: Hours of which files tell that came since the log was looked through last.
    """

    closed: ClosedHour
    usage: Mapping[Series, Usage]
    also: frozenset[datetime] = frozenset()


class UsageLog(Protocol):
    """The log, judged."""

    def read(
        self,
        hour: datetime,
        *,
        now: datetime,
        lives: Sequence[Life],
        tables: Mapping[str, PlanTable],
        since: datetime | None = None,
    ) -> HourUsage:
        """Everything that has arrived of an hour.

        Args:
            hour: Its beginning, UTC.
            now: Bounds the arrivals.
            lives: Whose usage a line is.
            tables: What holds in the hour, by ``id@version``.
            since: When the log was looked through last. Files that came since are looked at for other hours, and for
                lines that cannot be read, which are quarantined. None: not now.
        """
        ...


class PlanTimeline:
    """Which tables hold in which hour; each table is read once."""

    def __init__(self, versions: PlanVersions, tables: PlanTables) -> None:
        self._versions: Final = versions
        self._tables: Final = tables
        self._all: Sequence[PlanVersion] = ()
        self._read: dict[str, PlanTable] = {}

    def refresh(self) -> None:
        """Read the versions anew. What holds of an hour is settled before the hour begins."""
        self._all = self._versions.versions()

    @property
    def starts_at(self) -> datetime | None:
        """When the first plan began to hold; None where there is none."""
        return min((version.holds_from for version in self._all), default=None)

    def at(self, hour: datetime) -> dict[str, PlanTable]:
        """By ``id@version``.

        Raises:
            MarketplaceConstructsError: MP-METER-01: a table is not where the deployment put it.
        """
        return {plan: self._table(version) for plan, version in holding(self._all, hour).items()}

    def _table(self, version: PlanVersion) -> PlanTable:
        if version.digest not in self._read:
            text = self._tables.get(version.digest)
            if text is None:
                raise MarketplaceConstructsError(
                    Problem(
                        "MP-METER-01",
                        f"plan {version.plan}, got no table {version.digest}; expected it where the deployment put it; "
                        "deploy the stack again",
                    )
                )
            self._read[version.digest] = PlanTable.from_text(text)
        return self._read[version.digest]


@cache
def tag_value(path: str) -> str:
    """A route's path as AWS takes it in an allocation's tag: ``/v1/{id}`` is ``/v1/:id``.

    Source: AWS Marketplace seller guide, vendor-metered tagging; API reference, Tag (read 2026-11-21).
    """
    return _NO_TAG.sub("_", re.sub(r"{([^}]*)}", r":\1", path))[:_MAX_TAG] or "_"


class _Sums:
    """Usage as it adds up."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        self.unjudged: Counter[Series] = Counter()
        self._quantities: dict[tuple[str, str], dict[str, Fraction]] = {}
        self.earliest: dict[str, int] = {}

    def add(self, agreement: str, dimension: str, path: str, quantity: Fraction) -> None:
        by_path = self._quantities.setdefault((agreement, dimension), {})
        tag = tag_value(path)
        by_path[tag] = by_path[tag] + quantity if tag in by_path else quantity

    def leave(self, agreement: str, state: str, table: PlanTable | None, *, calls: int = 1) -> None:
        """Note calls that were served and that no table judges, unless their plan's are never billed."""
        if table is None or table.channel == MARKETPLACE:
            self.unjudged[Series(agreement=agreement, dimension=f"{CALL}{state}")] += calls

    def closed(self, hour: datetime, quarantined: int) -> ClosedHour:
        unjudged = {series: Fraction(calls) for series, calls in self.unjudged.items()}
        return ClosedHour(hour=hour, lines=dict(self.lines), quarantined=quarantined, unjudged=unjudged)

    def usage(self) -> dict[Series, Usage]:
        return {
            Series(agreement=agreement, dimension=dimension): Usage(
                quantity=reduce(add, by_path.values()),
                earliest=_EPOCH + timedelta(milliseconds=self.earliest[agreement]),
                by_path=by_path,
            )
            for (agreement, dimension), by_path in self._quantities.items()
        }


def _hours(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += _HOUR


def _files_of(files: LogFiles, hour: datetime, now: datetime, since: datetime | None) -> tuple[list[LogFile], set[str]]:
    """The files that may tell of an hour, with those that came since; and the names of the latter."""
    last = hour_of(now)
    found = {file.name: file for h in _hours(hour, min(last, hour + ARRIVES_WITHIN)) for file in files.arrived_in(h)}
    if since is None:
        return list(found.values()), set()
    recent = [
        file
        for h in _hours(hour_of(since - ARRIVES_WITHIN), last)
        for file in files.arrived_in(h)
        if file.modified_at > since - SETTLING
    ]
    found |= {file.name: file for file in recent}
    return list(found.values()), {file.name for file in recent}


def _quarantine(files: LogFiles, name: str, lines: Iterable[bytes]) -> int:
    """Keep the lines of a file that cannot be read; how many, where they were not kept before."""
    return put_aside(files, name, [line for line in lines if read_line(line) is None])


def put_aside(files: LogFiles, name: str, lines: Sequence[bytes]) -> int:
    """Keep lines of a file in quarantine; how many, where they were not kept before."""
    return len(lines) if lines and files.quarantine(name, b"".join(line + b"\n" for line in lines)) else 0


def _lines(content: bytes) -> list[bytes]:
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    return [line for line in plain.split(b"\n") if line.strip()]


class MemoryUsageLog:
    """The log judged line by line: for tests, where files are few and small."""

    def __init__(self, files: LogFiles, content: Callable[[str], bytes]) -> None:
        self._files: Final = files
        self._content: Final = content
        self._parsed: dict[str, tuple[list[Line], bool]] = {}

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
        files, new = _files_of(self._files, hour, now, since)
        first_ms, lines, also, quarantined = ms_of(hour), dict[str, Line](), set[datetime](), 0
        for file in files:
            parsed, has_unreadable = self._parse(file.name)
            for line in parsed:
                time = _number(line, "request_time_ms")
                if file.name in new:
                    also.add(hour_of(_EPOCH + timedelta(milliseconds=time)))
                if first_ms <= time < first_ms + 3_600_000:
                    identity = str(line["extended_request_id"])
                    known = lines.get(identity, line)
                    lines[identity] = min(known, line, key=_order)
            if has_unreadable and file.name in new:
                quarantined += _quarantine(self._files, file.name, _lines(self._content(file.name)))
        sums, of_agreement = _Sums(), by_agreement(lives)
        for line in lines.values():
            _judge(line, of_agreement, tables, sums)
        closed = sums.closed(hour, quarantined)
        return HourUsage(closed=closed, usage=sums.usage(), also=frozenset(also - {hour}))

    def _parse(self, name: str) -> tuple[list[Line], bool]:
        if name not in self._parsed:
            read = [read_line(text) for text in _lines(self._content(name))]
            self._parsed[name] = [line for line in read if line is not None], None in read
        return self._parsed[name]


def ms_of(moment: datetime) -> int:
    """Since 1970, UTC; of FOREVER more than any moment has."""
    return 2**62 if moment >= FOREVER else (moment - _EPOCH) // timedelta(milliseconds=1)


def life_at(lives: Iterable[Life], time_ms: int) -> Life | None:
    """The life of an agreement that a moment lies in; None where it lies in none."""
    return next((one for one in lives if ms_of(one.starts_at) <= time_ms < ms_of(one.ends_at)), None)


def _number(line: Line, name: str) -> int:
    return int(line[name] or 0)


def _order(line: Line) -> tuple[int, str]:
    return _number(line, "request_time_ms"), repr([line[name] for name in LINES])


def _judge(line: Line, lives: Mapping[str, Sequence[Life]], tables: Mapping[str, PlanTable], sums: _Sums) -> None:
    time, named, plan = _number(line, "request_time_ms"), line["agreement"], line["plan"]
    is_refused = line["error_type"] in REFUSED_BY_GATEWAY
    life = life_at(lives.get(str(named), ()), time)
    owner = life.owner if life else None
    plan = (life and life.plan) or plan
    table = tables.get(str(plan))
    route = (
        next((r for r in table.routes if (r.method, r.path) == (line["method"], line["path"])), None) if table else None
    )
    state = (
        SKIPPED if plan is None
        else LineState.REFUSED.value if is_refused
        else LineState.UNATTRIBUTED.value if named is None
        else LineState.OUTSIDE.value if owner is None
        else LineState.UNMATCHED.value if route is None
        else LineState.REFUSED.value if not route.is_allowed
        else ""
    )  # fmt: skip
    if owner is not None:
        sums.earliest[owner] = min(time, sums.earliest.get(owner, time))
    if state or table is None or owner is None:
        sums.lines[state] += 1
        if state in {LineState.OUTSIDE, LineState.UNMATCHED}:
            sums.leave(owner or str(named), state, table)
        return
    values = ("status", "response_bytes", "integration_ms", "request_time_ms")
    cells = [
        cell
        for cell in table.cells
        if (cell.method, cell.path) == (line["method"], line["path"])
        and all(
            low <= _number(line, name) < high
            for name, (low, high) in zip(
                values, (cell.status, cell.response_bytes, cell.integration_ms, cell.time_ms), strict=True
            )
        )
    ]
    for cell in cells:
        sums.lines[f"{cell.dimension} {cell.state}"] += 1
        if cell.state is LineState.BILLABLE and table.channel == MARKETPLACE:
            members = {
                "response.bytes": "response_bytes",
                "integration.ms": "integration_ms",
                "response.ms": "response_ms",
            }
            base = 1 if cell.metric == "requests" else _number(line, members[cell.metric])
            base = -(-base // cell.round_up) * cell.round_up
            quantity = quantity_of(base, multiply=cell.multiply, base_units=cell.base_units)
            if quantity:
                sums.add(owner, cell.dimension, cell.path, quantity)
    if not cells:
        sums.lines[LineState.UNMETERED.value] += 1


class Watch(Protocol):
    """Is shown what the lines come to."""

    def unjudged(self, connection: DuckDBPyConnection, tables: Mapping[str, PlanTable]) -> None:
        """Look at the calls outside their agreement and of unknown plans, in ``unjudged``."""

    def lines(self, connection: DuckDBPyConnection, plan: str, table: PlanTable) -> None:
        """Look at a plan once its lines are judged; ``lines``, ``routes`` and ``cells`` are there by these names."""


class DuckDbUsageLog:
    """The log judged by the text that simulation and reports judge by, in bounded memory.

    Args:
        files: The log.
        memory: What DuckDB may hold, such as ``256MB``.
        threads: How many it may use.
        directory: Where; None for the system's own.
        watch: Who wants to know more of the lines than what they come to; None for nobody.
    """

    def __init__(
        self,
        files: LogFiles,
        *,
        memory: str = "256MB",
        threads: int = 2,
        directory: Path | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._files: Final = files
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
        files, new = _files_of(self._files, hour, now, since)
        with tempfile.TemporaryDirectory(prefix="meter-", dir=self._directory) as name:
            directory = Path(name)
            with opened_database(directory, memory=self._memory, threads=self._threads) as connection:
                reading = _Reading(connection, directory, self._files, hour, self._watch)
                for is_new in (True, False):
                    reading.take([file.name for file in files if (file.name in new) is is_new], is_new=is_new)
                return reading.judge(lives, tables)


_COLUMNS: Final = ", ".join(LINES)


class _Reading:
    """One hour in one database."""

    def __init__(
        self, connection: DuckDBPyConnection, directory: Path, files: LogFiles, hour: datetime, watch: Watch | None
    ) -> None:
        self._connection = connection
        self._directory = directory
        self._files = files
        self._hour = hour
        self._first_ms = ms_of(hour)
        self._watch = watch
        self._also: set[datetime] = set()
        self._quarantined = 0
        self._parts = 0
        for name in ("typed", "first"):
            (directory / name).mkdir()

    def take(self, names: Sequence[str], *, is_new: bool) -> None:
        """Keep the hour's lines of some files in typed columns: of a day of files no more than that lies on disk.

        Args:
            names: The files.
            is_new: Whether they came since the log was looked through last.
        """
        if not names:
            return
        with tempfile.TemporaryDirectory(prefix="parts-", dir=self._directory) as directory, names_damaged(names):
            for part in unpacked(self._fetched(names), Path(directory)):
                self._parts += 1
                target = self._directory / "typed" / f"{self._parts}.parquet"
                text = typed_lines(json_source([str(part.path)]))
                if is_new:
                    seen = self._directory / f"seen-{self._parts}.parquet"
                    self._write(text, seen)
                    if self._look_through(seen, [names[number] for number in sorted(part.files)]) == {self._first_ms}:
                        seen.rename(target)
                        continue
                    text = f"SELECT * FROM read_parquet('{seen}')"
                of_hour = f"request_time_ms >= {self._first_ms} AND request_time_ms < {self._first_ms + 3_600_000}"
                # By its time alone: DuckDB works out anew what else a condition asks for.
                self._write(f"SELECT * FROM ({text}) WHERE {of_hour}", target)
                if is_new:
                    seen.unlink()

    def _write(self, query: str, path: Path) -> None:
        self._run(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)")

    def _fetched(self, names: Iterable[str]) -> Iterator[Path]:
        path = self._directory / "fetched"
        for name in names:
            self._files.fetch(name, path)
            yield path

    def _look_through(self, typed: Path, names: Iterable[str]) -> set[int | None]:
        """Note the hours that lines tell of, which this gives, and put those aside that cannot be read (None)."""
        hours = {
            hour_ms
            for (hour_ms,) in self._run(
                "SELECT DISTINCT CASE WHEN id_hash IS NOT NULL THEN request_time_ms - request_time_ms % 3600000 END "
                f"FROM read_parquet('{typed}')"
            )
        }
        for hour_ms in hours:
            if hour_ms is not None:
                self._also.add(_EPOCH + timedelta(milliseconds=hour_ms))
                continue
            path = self._directory / "looked-through"
            for name in names:
                self._files.fetch(name, path)
                self._quarantined += _quarantine(self._files, name, lines(path))
        return hours

    def judge(self, lives: Sequence[Life], tables: Mapping[str, PlanTable]) -> HourUsage:
        """What the hour's lines come to."""
        sums = _Sums()
        if self._parts:
            self._distinct()
            self._attribute(lives)
            self._look_over(tables, sums)
            if self._watch is not None:
                self._watch.unjudged(self._connection, tables)
            for plan, table in tables.items():
                self._judge_plan(plan, table, sums)
        closed = sums.closed(self._hour, self._quarantined)
        return HourUsage(closed=closed, usage=sums.usage(), also=frozenset(self._also - {self._hour}))

    def _distinct(self) -> None:
        """Each line of the hour once."""
        self._run(
            f"CREATE VIEW hour_lines AS SELECT * FROM read_parquet('{self._directory}/typed/*.parquet') "
            "WHERE id_hash IS NOT NULL"
        )
        keep_first_lines(self._connection, self._directory / "first", "distinct_lines", of="hour_lines")

    def _attribute(self, lives: Sequence[Life]) -> None:
        rows = [
            {
                "named": life.agreement,
                "owner": life.owner,
                "life_plan": life.plan or None,
                "life_from": ms_of(life.starts_at),
                "life_to": ms_of(life.ends_at),
            }
            for life in lives
            if life.starts_at < self._hour + _HOUR and life.ends_at > self._hour
        ]
        texts = dict.fromkeys(("named", "owner", "life_plan"), "varchar")
        load(self._connection, self._directory, "lives", texts | {"life_from": "bigint", "life_to": "bigint"}, rows)
        self._enumerate("lives", "owner")
        columns = ", ".join(f"l.{name}" for name in LINES if name not in {"agreement", "plan"})
        refused = ", ".join(f"'{name}'" for name in sorted(REFUSED_BY_GATEWAY))
        self._run(
            f"CREATE VIEW attributed AS SELECT {columns}, v.owner AS agreement, l.agreement AS named, "
            f"coalesce(v.life_plan, l.plan) AS plan, "
            f"coalesce(l.error_type IN ({refused}), false) AS is_refused FROM distinct_lines AS l LEFT JOIN lives AS v "
            "ON v.named = l.agreement AND l.request_time_ms >= v.life_from AND l.request_time_ms < v.life_to"
        )

    def _look_over(self, tables: Mapping[str, PlanTable], sums: _Sums) -> None:
        """When each agreement called first; and the lines that no table judges."""
        known = ", ".join(f"'{quoted(plan)}'" for plan in tables) or "''"
        self._run(
            f"CREATE VIEW unjudged AS SELECT *, CASE WHEN agreement IS NULL THEN '{LineState.OUTSIDE}' "
            f"ELSE '{LineState.UNMATCHED}' END AS state FROM attributed WHERE plan IS NOT NULL AND NOT is_refused "
            f"AND named IS NOT NULL AND (agreement IS NULL OR plan NOT IN ({known}))"
        )
        rows = self._run(
            "SELECT agreement, CASE WHEN plan IS NULL THEN 'skipped' WHEN is_refused THEN 'refused' "
            "WHEN named IS NULL THEN 'unattributed' WHEN agreement IS NULL THEN 'outside' ELSE 'unmatched' END,"
            f" plan IS NULL OR plan NOT IN ({known}) OR (named IS NOT NULL AND agreement IS NULL AND NOT is_refused), "
            "COUNT(*), MIN(request_time_ms) FROM attributed GROUP BY ALL"
        )
        for agreement, state, is_strange, count, earliest in rows:
            if agreement is not None:
                sums.earliest[agreement] = min(earliest, sums.earliest.get(agreement, earliest))
            if is_strange:
                sums.lines[state] += count
                if state == LineState.UNMATCHED:
                    sums.leave(agreement, state, None, calls=count)
        if sums.lines[LineState.OUTSIDE]:
            for named, plan, count in self._run(
                f"SELECT named, plan, COUNT(*) FROM unjudged WHERE state = '{LineState.OUTSIDE}' GROUP BY ALL"
            ):
                sums.leave(named, LineState.OUTSIDE, tables.get(plan), calls=count)

    def _judge_plan(self, plan: str, table: PlanTable, sums: _Sums) -> None:
        load(self._connection, self._directory, "routes", ROUTES, route_rows(table))
        load(self._connection, self._directory, "cells", CELLS, cell_rows(table))
        for column in ("method", "path"):
            self._enumerate("routes", column)
        # A text that the table does not know has no number.
        self._show_lines(plan, {name: f"try_cast({name} AS known_{name})" for name in ("method", "path")})
        # DuckDB makes Python's whole numbers in a fraction of the time that its decimals take.
        cursor = self._connection.execute(
            "SELECT agreement, path, dimension, state, multiply, base_units, CAST(line_count AS BIGINT), "
            f"CAST(base_sum AS HUGEINT) FROM ({usage_query(('agreement', 'path'))})",
            [plan.partition("@")[0]],
        )
        while rows := cursor.fetchmany(10_000):
            for agreement, path, dimension, state, multiply, base_units, line_count, base_sum in rows:
                sums.lines[f"{dimension} {state}" if dimension else state] += line_count
                if state == LineState.UNMATCHED:
                    sums.leave(agreement, state, table, calls=line_count)
                if state == LineState.BILLABLE and table.channel == MARKETPLACE:
                    quantity = quantity_of(base_sum, multiply=Decimal(multiply), base_units=base_units)
                    if quantity:
                        sums.add(agreement, dimension, path, quantity)
        if self._watch is not None:
            self._show_lines(plan, {})
            self._watch.lines(self._connection, plan, table)

    def _show_lines(self, plan: str, columns: Mapping[str, str]) -> None:
        """Let ``lines`` be those that the plan's table judges, some columns in other words."""
        selected = ", ".join(f"{columns.get(name, name)} AS {name}" for name in LINES)
        self._run(
            f"CREATE OR REPLACE VIEW lines AS SELECT {selected} FROM attributed WHERE plan = '{quoted(plan)}' "
            "AND (named IS NULL OR agreement IS NOT NULL OR is_refused)"
        )

    def _enumerate(self, table: str, column: str) -> None:
        """Let a column's texts be numbers underneath, which are joined and grouped in half the time."""
        self._run(
            f"DROP TYPE IF EXISTS known_{column}; "
            f"CREATE TYPE known_{column} AS ENUM (SELECT {column} FROM {table} UNION SELECT ''); "
            f"ALTER TABLE {table} ALTER {column} TYPE known_{column}"
        )

    def _run(self, text: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(text).fetchall()
