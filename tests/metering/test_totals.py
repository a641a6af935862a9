"""What an hour comes to: judged by DuckDB and line by line, the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from duckdb import DuckDBPyConnection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.metering import Series
from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable, RouteAccess
from marketplace_constructs.domain.plan_versions import PlanVersion
from marketplace_constructs.engine import parts
from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.runtime.memory import MemoryPlanTables, MemoryPlanVersions
from marketplace_constructs.runtime.metering.buyers import FOREVER, Life
from marketplace_constructs.runtime.metering.log_files import MemoryLogFiles
from marketplace_constructs.runtime.metering.totals import (
    DuckDbUsageLog,
    HourUsage,
    MemoryUsageLog,
    PlanTimeline,
    UsageLog,
    tag_value,
)

HOUR = timedelta(hours=1)
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
CALLS = Series(agreement="agmt-1", dimension="calls")
GB = Series(agreement="agmt-1", dimension="gb")
LIVES = [Life(agreement="agmt-1", owner="agmt-1", starts_at=AT - HOUR, ends_at=FOREVER)]


def cell(path: str, dimension: str = "calls", *, state: LineState = LineState.BILLABLE, **changed: object) -> Cell:
    metric = {"metric": "requests"} if state is LineState.BILLABLE else {}
    return Cell(method="GET", path=path, dimension=dimension, state=state, **{**metric, **changed})  # type: ignore[arg-type]


def table(plan: str = "retail@1", *, weight: str = "1", channel: str = "Marketplace") -> PlanTable:
    return PlanTable(
        plan=plan,
        product="nouns",
        segment="all",
        channel=channel,
        routes=(
            RouteAccess(method="GET", path="/free", is_allowed=True),
            RouteAccess(method="GET", path="/hidden", is_allowed=False),
            RouteAccess(method="GET", path="/nouns/{id}", is_allowed=True),
        ),
        cells=(
            cell("/nouns/{id}", state=LineState.FAILED, status=(400, 2**62)),
            cell("/nouns/{id}", multiply=Decimal(weight), status=(0, 400)),
            cell("/nouns/{id}", "gb", metric="response.bytes", round_up=1_000, base_units=10**9),
        ),
    )


TABLES = {"retail@1": table()}


def line(request_id: str, at: datetime = AT, **changed: str) -> dict[str, str]:
    members = dict.fromkeys(FIELDS, "-")
    return {
        **members,
        "requestTimeEpoch": str(int(at.timestamp() * 1000)),
        "extendedRequestId": request_id,
        "httpMethod": "GET",
        "resourcePath": "/nouns/{id}",
        "status": "200",
        "responseLength": "1500",
        "agreement": "agmt-1",
        "plan": "retail@1",
        **changed,
    }


def text(*lines: dict[str, str]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


@pytest.fixture
def files() -> MemoryLogFiles:
    return MemoryLogFiles()


@pytest.fixture(params=["memory", "duckdb"])
def log(
    request: pytest.FixtureRequest, files: MemoryLogFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> UsageLog:
    monkeypatch.setattr(parts, "PART_BYTES", 600)
    if request.param == "memory":
        return MemoryUsageLog(files, files.content)
    return DuckDbUsageLog(files, threads=1, directory=tmp_path)


def read(log: UsageLog, hour: datetime = AT, **changed: object) -> HourUsage:
    given = {"now": AT + 2 * HOUR, "lives": LIVES, "tables": TABLES, **changed}
    return log.read(hour, **given)  # type: ignore[arg-type]


def add(files: MemoryLogFiles, content: bytes, *, arrived: datetime = AT, at: datetime | None = None) -> str:
    name = f"{len(files._contents):04}"
    files.add(arrived, name, content, modified_at=at or arrived)
    return f"{arrived:%Y/%m/%d/%H}/{name}"


def test_an_hours_calls_count_by_dimension_and_path(log: UsageLog, files: MemoryLogFiles) -> None:
    add(
        files, text(line("a", AT + timedelta(minutes=7)), line("b", AT + timedelta(minutes=9)), line("c", status="404"))
    )
    found = read(log)
    assert found.usage[CALLS].quantity == 2
    assert found.usage[CALLS].by_path == {"/nouns/:id": 2}
    assert found.usage[GB].quantity == Fraction(6_000, 10**9)
    assert found.usage[CALLS].earliest == AT
    assert found.closed.lines == {"calls billable": 2, "calls failed": 1, "gb billable": 3}


def test_doubled_late_and_reordered_lines_count_once(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, gzip.compress(text(line("b"), line("a"))), arrived=AT + HOUR)
    add(files, text(line("a"), line("a")))
    add(files, text(line("c"), line("b")), arrived=AT + 2 * HOUR)
    add(files, text(line("other hour", AT + HOUR)), arrived=AT + HOUR)
    assert read(log).usage[CALLS].quantity == 3
    assert read(log, now=AT + HOUR).usage[CALLS].quantity == 2  # the last file has not arrived yet
    assert read(log, AT + HOUR).usage[CALLS].quantity == 1


@pytest.mark.parametrize("since", [None, AT])
def test_of_a_day_of_files_only_the_lines_of_the_hour_lie_on_disk(
    files: MemoryLogFiles, tmp_path: Path, since: datetime | None
) -> None:
    for number in range(26):
        arrived = AT + number * HOUR
        add(files, text(*(line(f"{number}-{n}", arrived) for n in range(9)), line(f"late-{number}")), arrived=arrived)
    kept = []

    class Watching:
        def unjudged(self, connection: DuckDBPyConnection, tables: object) -> None:
            del tables
            kept.append(connection.execute(f"SELECT COUNT(*) FROM '{tmp_path}/meter-*/typed/*.parquet'").fetchall())

        def lines(self, *_: object) -> None:
            pass

    found = read(DuckDbUsageLog(files, directory=tmp_path, watch=Watching()), now=AT + 26 * HOUR, since=since)

    assert found.usage[CALLS].quantity == 9 + 26
    assert kept == [[(9 + 26,)]]


def test_lines_that_come_before_any_buyer_are_counted(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(line("a"), line("b", agreement="-")))
    found = read(log, lives=[])
    assert found.closed.lines == {"outside": 1, "unattributed": 1}
    assert found.closed.unjudged == {Series(agreement="agmt-1", dimension="call:outside"): 1}
    assert found.usage == {}


def test_a_client_cannot_hide_calls_behind_a_request_id_of_its_own(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(line("a", requestId="same"), line("b", requestId="same")))
    assert read(log).usage[CALLS].quantity == 2


def test_what_cannot_be_read_is_kept_apart_once(log: UsageLog, files: MemoryLogFiles) -> None:
    broken = [
        b'{"a": \n',
        b"[1]\n",
        text(line("-")),
        text(line("t", requestTimeEpoch="-")),
        text(line("n", status="2e2")),
    ]
    name = add(files, b"".join([text(line("a")), *broken]))
    found = read(log, since=AT)
    assert found.usage[CALLS].quantity == 1
    assert found.closed.quarantined == 5
    assert len(files.quarantined[name].splitlines()) == 5
    assert read(log, since=AT).closed.quarantined == 0


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_line_that_was_cut_off_is_kept_apart_though_it_is_all_there_is(
    log: UsageLog, files: MemoryLogFiles, compress: Callable[[bytes], bytes]
) -> None:
    name = add(files, compress(b"{"))
    assert read(log, since=AT).closed.quarantined == 1
    assert files.quarantined[name] == b"{\n"


def test_a_damaged_file_is_named_and_nothing_is_counted_without_it(files: MemoryLogFiles, tmp_path: Path) -> None:
    add(files, gzip.compress(text(line("a"))))
    damaged = add(files, gzip.compress(text(line("b"), line("c")))[:-9])
    with pytest.raises(MarketplaceConstructsError, match=rf"MP-METER-02: log file {damaged}, got .*; expected a whole"):
        read(DuckDbUsageLog(files, directory=tmp_path))


def test_files_that_came_since_tell_of_other_hours(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(line("old", AT - 3 * HOUR)), arrived=AT - 3 * HOUR)
    add(files, text(line("late", AT - 2 * HOUR)), arrived=AT - HOUR, at=AT + HOUR)
    add(files, text(line("a"), line("b", AT - HOUR)))
    assert read(log, since=AT).also == {AT - HOUR, AT - 2 * HOUR}
    assert read(log).also == set()


def test_a_line_outside_its_agreements_life_is_not_billed_and_counted_apart(
    log: UsageLog, files: MemoryLogFiles
) -> None:
    half = AT + timedelta(minutes=30)
    add(files, text(line("before"), line("at", half), line("last", AT + timedelta(minutes=44, seconds=59))))
    add(
        files,
        text(
            line("end", AT + timedelta(minutes=45)), line("denied", AT + HOUR / 1.1, errorResponseType="ACCESS_DENIED")
        ),
    )
    add(files, text(line("stranger", agreement="agmt-9"), line("nobody", agreement="-")))
    lives = [Life(agreement="agmt-1", owner="agmt-1", starts_at=half, ends_at=AT + timedelta(minutes=45))]
    found = read(log, lives=lives)
    assert found.usage[CALLS].quantity == 2
    assert found.usage[CALLS].earliest == half
    assert {name: n for name, n in found.closed.lines.items() if " " not in name} == {
        "outside": 3,
        "refused": 1,
        "unattributed": 1,
    }


def test_after_a_renewal_a_line_counts_for_the_agreement_of_its_time(log: UsageLog, files: MemoryLogFiles) -> None:
    half = AT + timedelta(minutes=30)
    lives = [
        Life(agreement=named, owner=owner, starts_at=starts_at, ends_at=ends_at)
        for named in ("agmt-1", "agmt-2")
        for owner, starts_at, ends_at in (("agmt-1", AT, half), ("agmt-2", half, FOREVER))
    ]
    add(files, text(line("a"), line("b", half), line("c", half, agreement="agmt-2"), line("d", agreement="agmt-2")))
    usage = read(log, lives=lives).usage
    assert usage[CALLS].quantity == 2
    assert usage[Series(agreement="agmt-2", dimension="calls")].quantity == 2


def test_each_line_is_judged_by_its_own_plans_version(log: UsageLog, files: MemoryLogFiles) -> None:
    tables = {
        "retail@1": table(),
        "retail@2": table("retail@2", weight="2.5"),
        "house@1": table("house@1", channel="Internal"),
    }
    add(
        files,
        text(
            line("a"),
            line("b", plan="retail@2"),
            line("c", plan="house@1"),
            line("d", plan="gone@1"),
            line("e", plan="-"),
        ),
    )
    found = read(log, tables=tables)
    assert found.usage[CALLS].quantity == Fraction(7, 2)
    assert found.closed.lines["unmatched"] == 1
    assert found.closed.lines["skipped"] == 1
    assert found.closed.unjudged == {Series(agreement="agmt-1", dimension="call:unmatched"): 1}


def test_a_move_counts_from_its_hour_on_whatever_a_kept_answer_of_the_gate_says(
    log: UsageLog, files: MemoryLogFiles
) -> None:
    tables = {"retail@1": table(), "retail@2": table("retail@2", weight="2.5")}
    lives = [
        Life(agreement="agmt-1", owner="agmt-1", starts_at=AT - HOUR, ends_at=AT, plan="retail@1"),
        Life(agreement="agmt-1", owner="agmt-1", starts_at=AT, ends_at=FOREVER, plan="retail@2"),
    ]
    add(files, text(line("kept", plan="retail@1"), line("new", plan="retail@2")))
    assert read(log, tables=tables, lives=lives).usage[CALLS].quantity == 5


def test_routes_that_no_table_knows_are_told(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(line("a", resourcePath="/new"), line("b", resourcePath="/hidden"), line("c", resourcePath="/free")))
    found = read(log)
    assert found.closed.lines == {"unmatched": 1, "refused": 1, "unmetered": 1}
    assert not found.usage


def test_calls_that_were_served_and_no_table_judges_are_told_by_agreement(log: UsageLog, files: MemoryLogFiles) -> None:
    lives = [replace(LIVES[0], ends_at=AT + timedelta(minutes=30)), replace(LIVES[0], agreement="agmt-0")]
    after = AT + timedelta(minutes=40)
    tables = TABLES | {"house@1": table("house@1", channel="Internal")}
    add(
        files,
        text(
            line("a", resourcePath="/new"),
            line("b", resourcePath="/new", status="500", agreement="agmt-0"),
            line("c", plan="gone@1"),
            line("refused", resourcePath="/new", errorResponseType="THROTTLED"),
            line("nobody", resourcePath="/new", agreement="-"),
            line("only reported", resourcePath="/new", plan="house@1"),
            line("late", after),
            line("late, unknown plan", after, plan="gone@1", status="404"),
            line("late, only reported", after, plan="house@1"),
            line("late, refused", after, errorResponseType="ACCESS_DENIED"),
            line("never heard of", agreement="agmt-9"),
        ),
    )
    assert read(log, tables=tables, lives=lives).closed.unjudged == {
        Series(agreement="agmt-1", dimension="call:unmatched"): 3,
        Series(agreement="agmt-1", dimension="call:outside"): 2,
        Series(agreement="agmt-9", dimension="call:outside"): 1,
    }


def test_an_hour_without_files_comes_to_nothing(log: UsageLog) -> None:
    assert not read(log, since=AT).usage


odd = st.sampled_from(["-", "", "0", "7", "007", "1e3", "-1", "x", "12345678901234567890", "999999999999999999"])
lines = st.builds(
    line,
    st.sampled_from(["a", "b", "c", "-", ""]),
    st.integers(-90, 90).map(lambda minutes: AT + timedelta(minutes=minutes)),
    status=st.one_of(odd, st.sampled_from(["200", "404"])),
    responseLength=st.one_of(odd, st.integers(0, 10**12).map(str)),
    integrationLatency=odd,
    resourcePath=st.sampled_from(["/nouns/{id}", "/hidden", "/free", "/new", "-"]),
    errorResponseType=st.sampled_from(["-", "THROTTLED", "INTEGRATION_FAILURE"]),
    agreement=st.sampled_from(["agmt-1", "agmt-2", "-"]),
    plan=st.sampled_from(["retail@1", "retail@2", "-"]),
)


changed_tables = st.sampled_from(
    [
        TABLES,
        {"retail@1": table(weight="0.3333"), "retail@2": table("retail@2", weight="2.5")},
        {"retail@1": replace(table(), routes=table().routes[:2], cells=())},
        {"retail@1": replace(table(), cells=(cell("/nouns/{id}"), cell("/free", "gb", multiply=Decimal("2.5"))))},
        {
            "retail@1": replace(
                table(),
                routes=(*table().routes, RouteAccess(method="GET", path="/new", is_allowed=True)),
                cells=(cell("/new", "gb", metric="response.bytes", round_up=1_000, base_units=7_000),),
            )
        },
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(-1, 1), st.lists(st.one_of(lines, st.just({"a": "b"})), max_size=6)), max_size=4),
    changed_tables,
)
def test_whatever_the_log_and_the_plans_say_both_come_to_the_same(
    arrivals: list[tuple[int, list[dict[str, str]]]], tables: dict[str, PlanTable]
) -> None:
    def told(make: Callable[[MemoryLogFiles], UsageLog]) -> object:
        files = MemoryLogFiles()
        for arrived, content in arrivals:
            add(files, text(*content), arrived=AT + arrived * HOUR)
        found = read(make(files), since=AT - HOUR, tables=tables)
        return found, files.quarantined

    assert told(lambda files: MemoryUsageLog(files, files.content)) == told(
        lambda files: DuckDbUsageLog(files, threads=1)
    )


def test_an_allocations_tag_holds_what_aws_takes() -> None:
    assert tag_value("/v1/{id}/{proxy+}") == "/v1/:id/:proxy+"
    assert tag_value("/ü{x}") == "/_:x"
    assert len(tag_value("/" + "x" * 400)) == 256


def test_the_timeline_gives_each_hour_the_table_that_held() -> None:
    versions, tables = MemoryPlanVersions(), MemoryPlanTables()
    for number, weight in enumerate(["1", "2"]):
        digest = tables.put(table(weight=weight).to_text())
        versions.add(PlanVersion(plan="retail@1", holds_from=AT + number * HOUR, digest=digest, usage_plan_id="u"))
    timeline = PlanTimeline(versions, tables)
    assert not timeline.at(AT)  # nothing is known before it is asked for
    timeline.refresh()
    assert not timeline.at(AT - HOUR)
    assert timeline.at(AT) == {"retail@1": table()}
    assert timeline.at(AT + 3 * HOUR) == {"retail@1": table(weight="2")}
    tables._texts.clear()
    empty = PlanTimeline(versions, tables)
    empty.refresh()
    with pytest.raises(MarketplaceConstructsError, match="MP-METER-01"):
        empty.at(AT)
