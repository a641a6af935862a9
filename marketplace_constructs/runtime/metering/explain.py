"""One hour of one series explained: from the very lines, over the statements that count them, to what AWS was told."""

# ruff: noqa: S608 - names of this module and quoted texts only

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from marketplace_constructs.domain.metering import (
    CALL,
    EVENT,
    EVENT_OUTSIDE,
    NOBODY,
    UNPLANNED,
    Loss,
    Record,
    Series,
    Settlement,
    is_outside,
)
from marketplace_constructs.domain.plan_table import LineState, PlanTable
from marketplace_constructs.queries.log_lines import quoted
from marketplace_constructs.queries.usage import LINES, quantity_of, usage_query
from marketplace_constructs.queries.usage_events import event_meters, event_quantity, event_usage_query
from marketplace_constructs.runtime.metering.history import History, Sealing
from marketplace_constructs.runtime.metering.totals import MARKETPLACE, HourUsage, tag_value
from marketplace_constructs.runtime.metering.usage_events import may_be_billed, named_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

EVENT_METRIC: Final = "event"
"""Of what usage events count; the path is then ``event:NAME``."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STATEMENT: Final = (
    "plan", "is_sold", "state", "policy", "sid", "method", "path", "metric", "round_up", "multiply", "base_units"
)  # fmt: skip
_COLUMNS: Final = ", ".join(_STATEMENT)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """By what something counts, or why it does not.

    Args:
        plan: ``id@version``; empty where a usage event has none.
        state: One of ``LineState``, or ``unplanned``.
        policy: ``id@version`` of the deciding statement; empty where none decides.
        sid: The deciding statement.
        method: Empty for usage events.
        path: The route's, or ``event:NAME``.
        metric: What is counted; empty unless billable, or a call or usage event that no table judges.
        round_up: Each value is rounded up to a multiple of it; 0 and 1 leave it.
        multiply: Weight.
        base_units: Base units in one unit of the quantity.
        is_billed: It is billable, and the plan's channel is AWS Marketplace.
        quantity: Exact, in the dimension's unit; 0 unless it is billed. Of what no table judges, the number of calls,
            or what the usage events told; 0 where their plan is never billed.
    """

    plan: str
    state: str
    policy: str
    sid: str
    method: str
    path: str
    metric: str
    round_up: int
    multiply: Decimal
    base_units: int
    is_billed: bool
    quantity: Fraction


@dataclass(frozen=True, kw_only=True)
class Charge:
    """Lines of one route that count alike.

    Args:
        lines: How many, distinct.
    """

    counted: Counted
    lines: int


@dataclass(frozen=True, kw_only=True)
class JudgedLine:
    """One line of the access log, or one usage event.

    Args:
        id: ``extendedRequestId``, or the event's source and id with a space between.
        status: None for an event.
        value: Its base value, already rounded up, exact; None unless it is billable.
    """

    at: datetime
    id: str
    status: int | None
    value: Fraction | None
    counted: Counted


class Witness:
    """Keeps, on disk, how the production query judges each line and event of one series.

    Args:
        series: Which.
        directory: An empty one; what is kept there is as large as the lines of the agreement.
    """

    def __init__(self, series: Series, directory: Path) -> None:
        self._series: Final = series
        self._directory: Final = directory
        self._parts = 0

    def lines(self, connection: DuckDBPyConnection, plan: str, table: PlanTable) -> None:
        """Look at the lines of a plan; ``DuckDbUsageLog`` calls it."""
        if self._series.dimension.startswith(EVENT):
            return
        columns = ", ".join(LINES)
        connection.execute("CREATE SCHEMA IF NOT EXISTS explained")
        connection.execute(
            f"CREATE OR REPLACE TABLE explained.lines AS SELECT {columns}, row_number() OVER () AS line FROM lines "
            f"WHERE agreement = {_quoted(self._series.agreement)}"
        )
        connection.execute("SET search_path = 'explained,main'")
        try:
            connection.execute(
                f"CREATE OR REPLACE TABLE explained.judged AS {usage_query(('line',))}", [plan.partition("@")[0]]
            )
        finally:
            connection.execute("RESET search_path")
        if self._is_unjudged:
            if table.channel == MARKETPLACE:
                self._keep_calls(
                    connection,
                    "FROM explained.lines JOIN explained.judged USING (line) "
                    f"WHERE state = {_quoted(self._series.dimension.removeprefix(CALL))}",
                )
            return
        self._keep(
            connection,
            "SELECT l.request_time_ms AS time_ms, l.extended_request_id AS id, l.status, j.base_sum AS value, "
            f"CAST(0 AS BIGINT) AS fraction, {_quoted(plan)} AS plan, {table.channel == MARKETPLACE} AS is_sold, "
            "j.state, j.policy, j.sid, l.method, l.path, j.metric, j.round_up, j.multiply, j.base_units "
            "FROM explained.judged AS j JOIN explained.lines AS l ON l.line = j.line "
            f"WHERE j.dimension IS NULL OR j.dimension = {_quoted(self._series.dimension)}",
        )

    def unjudged(self, connection: DuckDBPyConnection, tables: Mapping[str, PlanTable]) -> None:
        """Look at the calls outside their agreement and of unknown plans; ``DuckDbUsageLog`` calls it."""
        if self._is_unjudged:
            unsold = ", ".join(_quoted(plan) for plan, one in tables.items() if one.channel != MARKETPLACE) or "''"
            self._keep_calls(
                connection,
                f"FROM unjudged WHERE coalesce(agreement, named) = {_quoted(self._series.agreement)} "
                f"AND '{CALL}' || state = {_quoted(self._series.dimension)} AND plan NOT IN ({unsold})",
            )

    @property
    def _is_unjudged(self) -> bool:
        return self._series.dimension.startswith(CALL)

    def _keep_calls(self, connection: DuckDBPyConnection, source: str) -> None:
        """Keep calls that no table judges, each as one."""
        self._keep(
            connection,
            "SELECT request_time_ms AS time_ms, extended_request_id AS id, status, CAST(1 AS BIGINT) AS value, "
            "CAST(0 AS BIGINT) AS fraction, plan, true AS is_sold, "
            f"{_quoted(self._series.dimension.removeprefix(CALL))} AS state, CAST(NULL AS VARCHAR) AS policy, "
            f"CAST(NULL AS VARCHAR) AS sid, method, path, 'requests' AS metric, CAST(1 AS BIGINT) AS round_up, "
            f"'1' AS multiply, CAST(1 AS BIGINT) AS base_units {source}",
        )

    def events(
        self, connection: DuckDBPyConnection, tables: Mapping[str, PlanTable], begin_ms: int, end_ms: int
    ) -> None:
        """Look at usage events; ``DuckDbUsageEvents`` calls it."""
        if self._series.dimension.startswith(EVENT):
            self._unjudged_events(connection, tables, begin_ms, end_ms)
            return
        ours = [
            (number, plan, tables[plan].channel == MARKETPLACE, one.policy, one.sid, one.round_up, str(one.multiply))
            for number, (plan, one) in enumerate(event_meters(tables))
            if one.dimension == self._series.dimension
        ]
        if not ours:
            return
        connection.execute(
            "CREATE TABLE explained_meters (meter BIGINT, plan VARCHAR, is_sold BOOLEAN, policy VARCHAR, sid VARCHAR, "
            "round_up BIGINT, multiply VARCHAR)"
        )
        connection.executemany("INSERT INTO explained_meters VALUES (?, ?, ?, ?, ?, ?, ?)", ours)
        self._judge_events(connection, begin_ms, end_ms)
        self._keep(
            connection,
            "SELECT e.time_ms, e.source || ' ' || e.event_id AS id, CAST(NULL AS BIGINT) AS status, "
            "e.whole_sum AS value, CAST(e.fraction_sum AS BIGINT) AS fraction, m.plan, m.is_sold, e.state, "
            f"m.policy, m.sid, '' AS method, '{EVENT}' || e.event AS path, '{EVENT_METRIC}' AS metric, m.round_up, "
            "m.multiply, CAST(1 AS BIGINT) AS base_units "
            "FROM explained_events AS e JOIN explained_meters AS m USING (meter) "
            f"WHERE e.agreement = {_quoted(self._series.agreement)}",
        )

    def _unjudged_events(
        self, connection: DuckDBPyConnection, tables: Mapping[str, PlanTable], begin_ms: int, end_ms: int
    ) -> None:
        """Keep events that no table judges, each as it was told."""
        self._judge_events(connection, begin_ms, end_ms)
        series, name = self._series, self._series.dimension.removeprefix(EVENT).removesuffix(EVENT_OUTSIDE)
        strangers = _column(
            connection,
            f"SELECT DISTINCT agreement FROM explained_events WHERE state = '{LineState.UNATTRIBUTED}' "
            "AND (whole_sum > 0 OR fraction_sum > 0)",
        )
        unnamed = set(strangers) - named_of(strangers)
        ours = unnamed if series.agreement == NOBODY else {series.agreement} - unnamed
        states, is_sold = [UNPLANNED], True
        if is_outside(series):
            plans = _column(connection, f"SELECT DISTINCT plan FROM lives WHERE named = {_quoted(series.agreement)}")
            states = [LineState.OUTSIDE.value, LineState.UNATTRIBUTED.value]
            is_sold = may_be_billed(plans, tables)
        self._keep(
            connection,
            "SELECT e.time_ms, e.source || ' ' || e.event_id AS id, CAST(NULL AS BIGINT) AS status, "
            f"e.whole_sum AS value, CAST(e.fraction_sum AS BIGINT) AS fraction, v.plan, {is_sold} AS is_sold, e.state, "
            "CAST(NULL AS VARCHAR) AS policy, CAST(NULL AS VARCHAR) AS sid, '' AS method, "
            f"'{EVENT}' || e.event AS path, '{EVENT_METRIC}' AS metric, CAST(0 AS BIGINT) AS round_up, "
            "'1' AS multiply, CAST(1 AS BIGINT) AS base_units FROM explained_events AS e LEFT JOIN lives AS v "
            "ON v.named = e.agreement AND v.owner = e.agreement AND e.time_ms >= v.life_from AND e.time_ms < v.life_to "
            f"WHERE e.event = {_quoted(name)} AND e.state IN ({_listed(states)}) AND e.agreement IN ({_listed(ours)})",
        )

    @staticmethod
    def _judge_events(connection: DuckDBPyConnection, begin_ms: int, end_ms: int) -> None:
        """Let ``explained_events`` be each event of the hour by itself, judged as it is for the bill."""
        query = event_usage_query(("source", "event_id", "event", "time_ms"))
        connection.execute(f"CREATE TABLE explained_events AS {query}", [begin_ms, end_ms])

    def charges(self) -> tuple[Charge, ...]:
        """What they come to by statement and route, the billed ones first, then by plan, path and statement."""
        rows = self._rows(
            f"SELECT {_COLUMNS}, COUNT(*), SUM(value), SUM(CAST(fraction AS DECIMAL(38, 0))) FROM kept GROUP BY ALL"
        )
        found = [Charge(counted=_counted(row[: len(_STATEMENT)], row[-2], row[-1]), lines=int(row[-3])) for row in rows]
        return tuple(sorted(found, key=lambda one: (not one.counted.is_billed, one.counted.plan, *_place(one.counted))))

    def judged(self) -> Iterator[JudgedLine]:
        """Each line and event, the earliest first; read as it is asked for."""
        for row in self._rows(
            f"SELECT {_COLUMNS}, value, fraction, time_ms, id, status FROM kept ORDER BY time_ms, id, path, policy, sid"
        ):
            value, fraction, time_ms, identity, status = row[len(_STATEMENT) :]
            counted = _counted(row[: len(_STATEMENT)], value, fraction)
            yield JudgedLine(
                at=_EPOCH + timedelta(milliseconds=time_ms),
                id=identity,
                status=status,
                value=event_quantity(int(value), int(fraction), multiply=Decimal(1)) if counted.metric else None,
                counted=counted,
            )

    def _keep(self, connection: DuckDBPyConnection, query: str) -> None:
        self._parts += 1
        connection.execute(f"COPY ({query}) TO '{self._directory}/{self._parts}.parquet' (FORMAT parquet)")

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        import duckdb  # noqa: PLC0415  # only the meter's bundle has it

        if not self._parts:
            return
        connection = duckdb.connect(config={"memory_limit": "256MB", "temp_directory": f"{self._directory}/spilled"})
        try:
            connection.execute(f"CREATE VIEW kept AS SELECT * FROM read_parquet('{self._directory}/*.parquet')")
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(10_000):
                yield from rows
        finally:
            connection.close()


@dataclass(frozen=True, kw_only=True)
class BilledBy:
    """A record that bills usage of the hour, or that took its slot.

    Args:
        of_hour: How much of the hour's usage it bills, exact.
        wrong: What does not add up in it; empty where all does.
    """

    record: Record
    sealing: Sealing
    fate: Settlement
    of_hour: Fraction
    wrong: str


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What one hour of one series comes to, and where each part of it is.

    Args:
        usage: Worked out anew by the meter's own reading, exact.
        charges: The same by statement and route, out of the very lines.
        billed_by: The oldest first.
        losses: Usage of the hour that is not billed.
        unjudged: What of it no table judges, and is lost once the hour is worked out no more.
        is_closed: Whether the hour was taken in; before that, nothing need be billed.
        is_waiting: Whether usage of the hour waits for a slot.
        by_path: The allocations' tags of which reading and lines say something else; empty as it should be.
    """

    series: Series
    hour: datetime
    usage: Fraction
    charges: tuple[Charge, ...]
    billed_by: tuple[BilledBy, ...]
    losses: tuple[Loss, ...]
    unjudged: Fraction
    is_closed: bool
    is_waiting: bool
    by_path: tuple[str, ...]

    @property
    def from_lines(self) -> Fraction:
        """What the lines count, one by one."""
        return sum((charge.counted.quantity for charge in self.charges), Fraction(0))

    @property
    def billed(self) -> Fraction:
        """What records bill of the hour."""
        return sum((one.of_hour for one in self.billed_by), Fraction(0))

    @property
    def lost(self) -> Fraction:
        """What is in the loss ledger."""
        return sum((loss.quantity for loss in self.losses), Fraction(0))

    @property
    def unbilled(self) -> Fraction:
        """What the log shows beyond records and losses; below 0 where it shows less."""
        return self.usage - self.billed - self.lost - self.unjudged

    @property
    def wrong(self) -> tuple[str, ...]:
        """What does not add up; empty as it should be."""
        found = [f"record {one.record.id}: {one.wrong}" for one in self.billed_by if one.wrong]
        if self.from_lines != self.usage:
            found.append("the lines, one by one, come to something else than the meter's reading of the hour")
        elif self.by_path:
            found.append(f"lines and reading differ by path: {', '.join(self.by_path)}")
        if self.unbilled < 0:
            found.append("the log shows less than was billed: look for files or tables that are gone or changed")
        elif self.unbilled and self.is_closed:
            found.append(
                "the log shows more than is billed: it waits for a free hour"
                if self.is_waiting
                else "the log shows more than is billed: lines that came late, or facts"
            )
        return tuple(found)


def explained(history: History, found: HourUsage, witness: Witness, series: Series) -> Explanation:
    """Put together what the ledger and the log say of an hour.

    Args:
        history: The ledger.
        found: The hour, read with the witness watching.
        witness: Of the same series.
        series: Which.
    """
    hour, usage = found.closed.hour, found.usage.get(series)
    unjudged = (found.closed.unjudged or {}).get(series, Fraction(0))
    charges = witness.charges()
    by_path: dict[str, Fraction] = {}
    for charge in charges:
        if charge.counted.is_billed and charge.counted.quantity:
            tag = tag_value(charge.counted.path)
            by_path[tag] = by_path.get(tag, Fraction(0)) + charge.counted.quantity
    told = dict(usage.by_path) if usage else {}
    return Explanation(
        series=series,
        hour=hour,
        usage=usage.quantity if usage else unjudged,
        charges=charges,
        billed_by=tuple(_billed_by(history, series, hour)),
        losses=tuple(history.losses_of(series, hour)),
        unjudged=history.unjudged(hour).get(series, Fraction(0)),
        is_closed=hour in history.closed,
        is_waiting=hour in history.again,
        by_path=tuple(sorted(tag for tag in {*told, *by_path} if told.get(tag) != by_path.get(tag))),
    )


def _billed_by(history: History, series: Series, hour: datetime) -> Iterator[BilledBy]:
    for record in history.records_of(series):
        of_hour = sum((source.quantity for source in record.sources if source.hour == hour), Fraction(0))
        if of_hour or record.slot == hour:
            sealing = history.sealings[record.id]
            yield BilledBy(
                record=record,
                sealing=sealing,
                fate=history.fate(record.id),
                of_hour=of_hour,
                wrong=_wrong(record, sealing),
            )


def _wrong(record: Record, sealing: Sealing) -> str:
    if sealing.carried_in < 0 or sealing.carried_out < 0:
        return "it bills more than its hours and what was left over"
    allocated = sum((one.quantity for one in record.allocations), Decimal(0))
    return "its allocations do not sum to it" if record.allocations and allocated != record.quantity else ""


def _counted(statement: Sequence[Any], value: Any, fraction: Any) -> Counted:
    plan, is_sold, state, policy, sid, method, path, metric, round_up, multiply, base_units = statement
    is_billed = bool(is_sold) and state == LineState.BILLABLE
    weight, quantity = Decimal(multiply or 1), Fraction(0)
    if is_sold and metric == EVENT_METRIC:
        quantity = event_quantity(int(value), int(fraction), multiply=weight)
    elif is_sold and metric:
        quantity = quantity_of(int(value), multiply=weight, base_units=int(base_units))
    return Counted(
        plan=plan or "",
        state=state,
        policy=policy or "",
        sid=sid or "",
        method=method or "",
        path=path or "",
        metric=metric or "",
        round_up=int(round_up or 0),
        multiply=weight,
        base_units=int(base_units or 1),
        is_billed=is_billed,
        quantity=quantity,
    )


def _place(counted: Counted) -> tuple[str, str, str, str, str]:
    return counted.path, counted.method, counted.policy, counted.sid, counted.state


def _column(connection: DuckDBPyConnection, query: str) -> list[Any]:
    return [value for (value,) in connection.execute(query).fetchall()]


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(map(_quoted, sorted(texts))) or "NULL"


def _quoted(text: str) -> str:
    return f"'{quoted(text)}'"
