"""What an hour's usage events come to: judged by DuckDB and one by one, the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketplace_constructs.domain.metering import ClosedHour, Series, Usage
from marketplace_constructs.domain.plan_table import EventMeter, PlanTable
from marketplace_constructs.queries.usage_events import Event, read_event
from marketplace_constructs.runtime.metering.buyers import FOREVER, Life
from marketplace_constructs.runtime.metering.log_files import MemoryLogFiles
from marketplace_constructs.runtime.metering.totals import HourUsage, UsageLog
from marketplace_constructs.runtime.metering.usage_events import DuckDbUsageEvents, LinesAndEvents, MemoryUsageEvents

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
UNMATCHED = Series(agreement="agmt-1", dimension="call:unmatched")
STORED = Series(agreement="agmt-1", dimension="stored")
SEATS = Series(agreement="agmt-1", dimension="seats")
LIVES = [Life(agreement="agmt-1", owner="agmt-1", starts_at=AT - HOUR, ends_at=FOREVER, plan="retail@1")]
DECLARED = ("storage", "seats", "noted")


def table(plan: str = "retail@1", *, weight: str = "1", channel: str = "Marketplace") -> PlanTable:
    meters = (
        EventMeter(event="seats", dimension="seats", policy="p@1", sid="Seats", round_up=10, multiply=Decimal("0.5")),
        EventMeter(event="seats", dimension="stored", policy="p@1", sid="SeatsToo"),
        EventMeter(event="storage", dimension="stored", policy="p@1", sid="Stored", multiply=Decimal(weight)),
    )
    return PlanTable(plan=plan, product="nouns", segment="all", channel=channel, routes=(), cells=(), events=meters)


TABLES = {"retail@1": table()}


def event(event_id: str = "1", at: datetime | str = AT, *, value: Any = "1", name: str = "storage", **said: Any) -> Any:
    """An event as EventBridge writes it."""
    detail = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/storage",
        "type": name,
        "time": at if isinstance(at, str) else at.isoformat(),
        "subject": "agmt-1",
        "data": {"value": value},
        **said,
    }
    return {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": name,
        "source": "seller.storage",
        "account": "111122223333",
        "time": "2026-11-21T10:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": {member: value for member, value in detail.items() if value is not None},
    }


def text(*events: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in events)


@pytest.fixture
def files() -> MemoryLogFiles:
    return MemoryLogFiles()


@pytest.fixture(params=["memory", "duckdb"])
def log(request: pytest.FixtureRequest, files: MemoryLogFiles, tmp_path: Path) -> UsageLog:
    if request.param == "memory":
        return MemoryUsageEvents(files, files.content, declared=DECLARED)
    return DuckDbUsageEvents(files, declared=DECLARED, threads=1, directory=tmp_path)


def read(log: UsageLog, hour: datetime = AT, **changed: Any) -> HourUsage:
    return log.read(hour, **{"now": AT + 2 * HOUR, "lives": LIVES, "tables": TABLES, **changed})


def add(files: MemoryLogFiles, content: bytes, *, arrived: datetime = AT, at: datetime | None = None) -> str:
    name = f"{len(files._contents):04}"
    files.add(arrived, name, content, modified_at=at or arrived)
    return f"{arrived:%Y/%m/%d/%H}/{name}"


def test_an_hours_events_count_exactly_by_dimension_and_event(log: UsageLog, files: MemoryLogFiles) -> None:
    third = "0.333333333333"
    add(
        files,
        text(event("1", AT + timedelta(minutes=9), value="0.1"), event("2", value="0.2"), event("3", value=third)),
    )
    add(files, text(event("4", AT + timedelta(minutes=3), name="seats", value="10.000000000001")))
    found = read(log)
    seats = Fraction("10.000000000001")
    assert found.usage[STORED] == Usage(
        quantity=Fraction("0.633333333333") + seats,
        earliest=AT,
        by_path={"event:storage": Fraction("0.633333333333"), "event:seats": seats},
    )
    assert found.usage[SEATS].quantity == 10  # up to 20, half of it
    assert found.usage[SEATS].earliest == AT + timedelta(minutes=3)
    assert found.closed.lines == {"stored billable": 4, "seats billable": 1}


def test_the_largest_values_add_up_exactly(log: UsageLog, files: MemoryLogFiles) -> None:
    largest = "999999999999999.999999999999"
    add(files, text(*(event(str(number), value=largest) for number in range(20))))
    assert read(log).usage[STORED].quantity == 20 * Fraction(largest)


def test_events_are_told_apart_by_source_and_id(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, gzip.compress(text(event("1"), event("2"))), arrived=AT + HOUR)
    add(files, text(event("1"), event("1")))
    add(files, text(event("2", source="/elsewhere"), event("2")), arrived=AT + 2 * HOUR)
    later = AT + 2 * HOUR + 2 * MINUTE
    assert read(log, now=later).usage[STORED].quantity == 3
    # What came a moment ago may not be all that came up to then.
    assert read(log, now=later - timedelta(seconds=1)).usage[STORED].quantity == 2


def test_of_copies_the_first_that_came_counts_whatever_the_others_tell(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(event("1", AT + HOUR, value="7"), event("2", value="9"), event("2", value="10.5")))
    earlier = event("1", AT + timedelta(minutes=59), value="8")
    add(files, text(earlier, event("2", value="1", subject="agmt-2"), event("3")), arrived=AT + 3 * HOUR)
    lives = [*LIVES, replace(LIVES[0], agreement="agmt-2", owner="agmt-2")]
    told = {hour: read(log, AT + hour * HOUR, now=AT + 4 * HOUR, lives=lives).usage for hour in range(2)}
    assert {hour: {s.agreement: u.quantity for s, u in usage.items()} for hour, usage in told.items()} == {
        0: {"agmt-1": 10},
        1: {"agmt-1": 7},
    }


@pytest.mark.parametrize("came_first", [True, False])
@pytest.mark.parametrize("hours", [-25, -7, -1, 1, 5, 7, 25])
def test_a_copy_that_tells_another_hour_counts_nothing(
    log: UsageLog, files: MemoryLogFiles, hours: int, *, came_first: bool
) -> None:
    told = [AT + hours * HOUR, AT]
    first, second = told if came_first else reversed(told)
    # By the folder of its first line a file may have come before another, and yet be there later.
    arrived = max(told)
    for at, there_at in ((first, arrived), (second, arrived + MINUTE)):
        add(files, text(event("1", at)), arrived=max(at, arrived - 26 * HOUR), at=there_at)
    lives = [replace(LIVES[0], starts_at=AT - 40 * HOUR)]
    found = {at: bool(read(log, at, now=arrived + 2 * HOUR, lives=lives).usage) for at in told}
    assert found == {first: True, second: False}


def test_the_first_copy_is_known_though_it_told_of_another_agreement_hours_ago(
    log: UsageLog, files: MemoryLogFiles
) -> None:
    add(files, text(event("1", AT - 25 * HOUR, subject="agmt-9", value="3"), event("2")), arrived=AT - 25 * HOUR)
    add(files, text(event("1"), event("2"), event("3", "no time")))
    add(files, text(event("3")), at=AT + MINUTE)
    found = read(log, since=AT)
    # What is put aside, such as the second one when it was told a day ahead, makes nothing a copy.
    assert (found.usage[STORED].quantity, found.closed.quarantined) == (2, 1)


@pytest.mark.parametrize(
    "written",
    [
        lambda first: json.dumps(first).encode(),
        lambda first: json.dumps(first, ensure_ascii=False).encode(),
        lambda first: json.dumps(first, ensure_ascii=False, separators=(" , ", " : ")).encode(),
        lambda first: json.dumps(first, ensure_ascii=False).replace('"id"', r'"\u0069d"').encode(),
        lambda first: json.dumps(first, ensure_ascii=False).encode("utf-8-sig"),
        lambda first: json.dumps(first, ensure_ascii=False).encode("utf-16"),
    ],
    ids=["escapes", "as it is", "spaces", "an escaped member", "a byte order mark", "UTF-16"],
)
def test_the_first_copy_is_known_however_it_is_written(
    log: UsageLog, files: MemoryLogFiles, written: Callable[[Any], bytes]
) -> None:
    long_ago = AT - 25 * HOUR
    others = [text(event(str(number), long_ago)) for number in range(700)]  # more than is looked at in one go
    first = written(event("disk-ü", long_ago, subject="agmt-9")) + b"\n"
    # Of UTF-16 no newline follows that is one by itself.
    add(files, b"".join([*others, *others, first] if b"\0" in first else [*others, first, *others]), arrived=long_ago)
    add(files, text(event("disk-ü"), event("disk-u", value="2")))
    assert read(log).usage[STORED].quantity == 2


UNREADABLE: dict[str, Any] = {
    "no object": [1],
    "no detail": {"id": "1"},
    "no CloudEvent": {"detail": "x"},
    "no subject": event(subject=None),
    "an empty subject": event(subject=""),
    "a subject that is no text": event(subject=7),
    "no id": event(id=None),
    "no source": event(source=None),
    "another version": event(specversion="0.3"),
    "no data": event(data=None),
    "data as text": event(data="1"),
    "a number": event(value=1.5),
    "a float's digits": event(value="1e3"),
    "a sign": event(value="-1"),
    "no number": event(value="NaN"),
    "zeros in front": event(value="007"),
    "no digit behind the point": event(value="1."),
    "too many digits": event(value="1" + "0" * 15),
    "too many decimals": event(value="0." + "0" * 12 + "1"),
    "other digits": event(value="\u0661"),
    "no time": event(time=None),
    "a time that is no text": event(time=1_795_255_200),
    "a time without an offset": event(at="2026-11-21T10:00:00"),
    "a date": event(at="2026-11-21"),
    "a week's date": event(at="2026-W47-6T10:00:00Z"),
    "a time that is none": event(at="2026-11-31T10:00:00Z"),
    "a time before 1970": event(at="1969-12-31T23:59:59Z"),
    "an unknown type": event(name="exports"),
    "half a character": event(subject="\ud800"),
    "a control character": event(subject="agmt-1\n"),
    "a time too long ago": event(at=AT - 26 * HOUR - timedelta(seconds=1)),
    "a time too far ahead": event(at=AT + 7 * HOUR),
}


def test_what_cannot_be_read_is_kept_apart_once(log: UsageLog, files: MemoryLogFiles) -> None:
    broken = [b'{"detail": \n', b"\xff\n", *(text(one) for one in UNREADABLE.values())]
    name = add(files, b"".join([text(event("a")), *broken, b"\n"]))
    found = read(log, since=AT)
    assert found.usage[STORED].quantity == 1
    assert found.closed == ClosedHour(hour=AT, lines={"stored billable": 1}, quarantined=len(broken), unjudged={})
    assert files.quarantined[name] == b"".join(broken)
    again = read(log, since=AT)
    assert (again.closed.quarantined, again.usage) == (0, found.usage)


@pytest.mark.parametrize("said", UNREADABLE)
def test_each_of_these_is_unreadable_by_itself(said: str, files: MemoryLogFiles) -> None:
    add(files, text(UNREADABLE[said]))
    log = MemoryUsageEvents(files, files.content, declared=DECLARED)
    assert read(log, since=AT).closed.quarantined == 1


@pytest.mark.parametrize(
    ("time", "milliseconds"),
    [
        ("2026-11-21T10:00:00Z", 0),
        ("2026-11-21t10:00:00z", 0),
        ("2026-11-21T11:30:00.0019999+01:30", 1),
        ("2026-11-21T09:59:59.999-00:00", -1),
    ],
)
def test_a_time_is_read_as_rfc_3339_says(time: str, milliseconds: int) -> None:
    found = read_event(text(event(at=time, value="12.5")))
    assert found == Event(
        "/storage", "1", int(AT.timestamp()) * 1000 + milliseconds, "storage", "agmt-1", 12, 500_000_000_000
    )


def test_files_that_came_since_tell_of_other_hours(log: UsageLog, files: MemoryLogFiles) -> None:
    add(files, text(event("old", AT - 3 * HOUR)), arrived=AT - 3 * HOUR)
    add(files, text(event("late", AT - 2 * HOUR)), arrived=AT - HOUR, at=AT + HOUR)
    add(files, text(event("1"), event("2", AT - HOUR)))
    assert read(log, since=AT).also == {AT - HOUR, AT - 2 * HOUR}
    assert read(log).also == set()


def test_every_event_that_is_not_put_aside_is_found_when_its_hour_is_read(log: UsageLog, files: MemoryLogFiles) -> None:
    for number, hours in enumerate([-26, -1, 0, 6]):
        add(files, text(event(str(number), AT + hours * HOUR)), arrived=AT)
    lives = [replace(LIVES[0], starts_at=AT - 40 * HOUR)]
    found = [read(log, AT + hours * HOUR, now=AT + 8 * HOUR, lives=lives) for hours in (-26, -1, 0, 6)]
    assert [one.usage[STORED].quantity for one in found] == [1, 1, 1, 1]


def test_an_event_counts_for_whoever_its_agreement_is_at_its_time(log: UsageLog, files: MemoryLogFiles) -> None:
    half = AT + timedelta(minutes=30)
    lives = [
        Life(agreement=named, owner=owner, starts_at=starts_at, ends_at=ends_at, plan="retail@1")
        for named in ("agmt-1", "agmt-2")
        for owner, starts_at, ends_at in (("agmt-1", AT, half), ("agmt-2", half, AT + timedelta(minutes=45)))
    ]
    add(
        files,
        text(
            event("1"),
            event("2", half - timedelta(milliseconds=1)),
            event("3", half),
            event("4", AT + timedelta(minutes=45)),
            event("5", subject="agmt-9"),
        ),
    )
    found = read(log, lives=lives)
    assert found.usage[STORED].quantity == 2
    assert found.usage[replace(STORED, agreement="agmt-2")].quantity == 1
    assert found.closed.lines == {"stored billable": 3, "outside": 1, "unattributed": 1}
    assert found.closed.unjudged == {
        Series(agreement=named, dimension="event:storage/outside"): 1 for named in ("agmt-1", "agmt-9")
    }


def test_what_is_outside_its_agreement_stands_as_it_was_told_unless_its_plan_is_never_billed(
    log: UsageLog, files: MemoryLogFiles
) -> None:
    before = {"starts_at": AT - HOUR, "ends_at": AT}
    lives = [
        Life(agreement="agmt-1", owner="agmt-1", plan="retail@1", **before),
        Life(agreement="agmt-2", owner="agmt-2", plan="house@1", **before),
        Life(agreement="agmt-3", owner="agmt-3", plan="gone@1", **before),
        Life(agreement="agmt-4", owner="agmt-4", plan="house@1", **before),
        Life(agreement="agmt-4", owner="agmt-5", plan="retail@1", starts_at=AT + HOUR, ends_at=FOREVER),
    ]
    add(files, text(*(event(f"of {n}", value="2.5", subject=f"agmt-{n}") for n in range(1, 6))))
    add(files, text(event("more", value="0.5"), event("nothing", value="0"), event("seats", name="seats", value="3")))
    tables = {"retail@1": table(), "house@1": table("house@1", channel="Internal")}
    found = read(log, lives=lives, tables=tables)
    assert not found.usage
    assert found.closed.lines == {"outside": 7, "unattributed": 1}
    # A value is not rounded up, since no plan says so.
    assert found.closed.unjudged == {
        Series(agreement="agmt-1", dimension="event:storage/outside"): 3,
        Series(agreement="agmt-1", dimension="event:seats/outside"): 3,
        **{Series(agreement=f"agmt-{n}", dimension="event:storage/outside"): Fraction(5, 2) for n in (3, 4, 5)},
    }


def test_of_subjects_that_nobody_knows_only_some_are_named(log: UsageLog, files: MemoryLogFiles) -> None:
    subjects = [f"agmt-{number:03}" for number in range(102)]
    people = ["jane@example.com", "Jane Doe", "-", "a" * 129]
    add(files, text(*(event(subject, subject=subject) for subject in [*reversed(subjects), *people])))
    found = read(log)
    assert found.closed.lines == {"unattributed": 106}
    assert {series.agreement: quantity for series, quantity in (found.closed.unjudged or {}).items()} == {
        **dict.fromkeys(subjects[:100], 1),
        "-": 6,
    }


def test_an_event_is_judged_by_the_plan_of_its_time(log: UsageLog, files: MemoryLogFiles) -> None:
    half = AT + timedelta(minutes=30)
    lives = [
        Life(agreement="agmt-1", owner="agmt-1", starts_at=AT, ends_at=half, plan="retail@1"),
        Life(agreement="agmt-1", owner="agmt-1", starts_at=half, ends_at=FOREVER, plan="retail@2"),
        Life(agreement="agmt-2", owner="agmt-2", starts_at=AT, ends_at=FOREVER, plan="gone@1"),
        Life(agreement="agmt-3", owner="agmt-3", starts_at=AT, ends_at=FOREVER),
        Life(agreement="agmt-4", owner="agmt-4", starts_at=AT, ends_at=FOREVER, plan="house@1"),
    ]
    tables = {
        "retail@1": table(),
        "retail@2": table("retail@2", weight="2.5"),
        "house@1": table("house@1", channel="Internal"),
    }
    add(files, text(event("1"), event("2", half), *(event(f"of {n}", subject=f"agmt-{n}") for n in (2, 3, 4))))
    add(files, text(event("5", name="noted"), event("6", value="0")))
    found = read(log, lives=lives, tables=tables)
    assert found.usage == {
        STORED: Usage(quantity=Fraction("3.5"), earliest=AT, by_path={"event:storage": Fraction("3.5")}),
    }
    # What they count, nobody knows; so they stand as they were told.
    assert found.closed.unjudged == {Series(agreement=f"agmt-{n}", dimension="event:storage"): 1 for n in (2, 3)}
    assert found.closed.lines == {"stored billable": 4, "unplanned": 2, "unmetered": 1}


def test_what_a_plan_counted_then_is_known_though_the_product_declares_it_no_more(
    files: MemoryLogFiles, tmp_path: Path
) -> None:
    add(files, text(event("1")))
    for log in (
        MemoryUsageEvents(files, files.content, declared=()),
        DuckDbUsageEvents(files, declared=(), directory=tmp_path),
    ):
        assert read(log, since=AT).usage[STORED].quantity == 1
    assert not files.quarantined


def test_an_hour_without_files_comes_to_nothing(log: UsageLog) -> None:
    assert read(log, since=AT) == HourUsage(closed=ClosedHour(hour=AT, unjudged={}), usage={})


def test_lines_and_events_of_one_dimension_add_up() -> None:
    class Told:
        def __init__(self, path: str, minutes: int) -> None:
            self._path, self._minutes = path, minutes

        def read(self, hour: datetime, **_: Any) -> HourUsage:
            usage = Usage(
                quantity=Fraction(2),
                earliest=AT + self._minutes * timedelta(minutes=1),
                by_path={self._path: Fraction(2)},
            )
            closed = ClosedHour(
                hour=hour,
                lines={"stored billable": 2, self._path: 1},
                quarantined=1,
                unjudged=None if self._path.startswith("event:") else {UNMATCHED: Fraction(self._minutes)},
            )
            return HourUsage(closed=closed, usage={STORED: usage}, also=frozenset({AT - self._minutes * HOUR}))

    assert read(LinesAndEvents(Told("/a", 9), Told("event:storage", 3), Told("/a", 5))) == HourUsage(
        closed=ClosedHour(
            hour=AT,
            lines={"stored billable": 6, "/a": 2, "event:storage": 1},
            quarantined=3,
            unjudged={UNMATCHED: 14},
        ),
        usage={
            STORED: Usage(
                quantity=Fraction(6),
                earliest=AT + timedelta(minutes=3),
                by_path={"/a": Fraction(4), "event:storage": Fraction(2)},
            )
        },
        also=frozenset(AT - hours * HOUR for hours in (9, 3, 5)),
    )


events = st.builds(
    event,
    st.sampled_from(["1", "2", "3", "\u00e4", ""]),
    st.one_of(
        st.integers(-90, 90).map(lambda minutes: AT + timedelta(minutes=minutes)),
        st.sampled_from(
            [AT - timedelta(microseconds=1), AT + HOUR, "2026-11-21T10:00:00", AT - 30 * HOUR, AT + 9 * HOUR]
        ),
    ),
    value=st.one_of(
        st.sampled_from(["0", "1", "1.50", "-1", "1e3", "0.1234567890123", 3, "999999999999999.999999999999"]),
        st.decimals(0, 50, places=3).map(str),
    ),
    name=st.sampled_from(["storage", "seats", "noted", "exports"]),
    source=st.sampled_from(["/storage", '/else,"where"']),
    subject=st.sampled_from(["agmt-1", "agmt-2", "agmt-3", "agmt-9"]),
)
lives = st.lists(
    st.builds(
        lambda agreement, since, minutes, plan: Life(
            agreement=agreement,
            owner=agreement,
            starts_at=AT + since * timedelta(minutes=1),
            ends_at=AT + (since + minutes) * timedelta(minutes=1),
            plan=plan,
        ),
        st.sampled_from(["agmt-1", "agmt-2", "agmt-3"]),
        st.integers(-90, 60),
        st.integers(1, 200),
        st.sampled_from(["retail@1", "retail@2", "gone@1", ""]),
    ),
    max_size=3,
    unique_by=lambda life: life.agreement,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(-7, 1), st.lists(events, max_size=6)), max_size=4), lives)
def test_whatever_the_log_holds_both_say_the_same(arrivals: list[tuple[int, list[Any]]], whose: list[Life]) -> None:
    tables = {"retail@1": table(), "retail@2": table("retail@2", weight="0.3333")}

    def told(make: Callable[[MemoryLogFiles], UsageLog]) -> object:
        files = MemoryLogFiles()
        for arrived, content in arrivals:
            add(files, text(*content), arrived=AT + arrived * HOUR)
        return read(make(files), since=AT - HOUR, lives=whose, tables=tables), files.quarantined

    assert told(lambda files: MemoryUsageEvents(files, files.content, declared=DECLARED)) == told(
        lambda files: DuckDbUsageEvents(files, declared=DECLARED, threads=1)
    )
