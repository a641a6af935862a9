"""``sellable meter explain``: from the bill to the very calls, on copies of ledgers that the meter wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from copies import Copy
from simulation import SEATS
from test_meter import HOUR, MINUTE, START, Calm

from marketplace_constructs.domain.metering import ClosedHour, LossReason, Outcome, Series, Usage, hour_of
from marketplace_constructs.domain.product import Metering, Product
from marketplace_constructs.runtime.metering.explain import Witness, explained
from marketplace_constructs.runtime.metering.history import History
from marketplace_constructs.runtime.metering.objects import DirectoryObjects
from marketplace_constructs.runtime.metering.totals import HourUsage


def event(world: Calm, value: str, at: datetime, *, subject: str = "") -> None:
    """A usage event, of the world's agreement where nobody else is named, delivered at once."""
    world._calls += 1
    detail = {
        "specversion": "1.0", "id": f"e{world._calls}", "source": "/seats", "type": SEATS, "time": at.isoformat(),
        "subject": subject or world.life.id, "data": {"value": value},
    }  # fmt: skip
    hour = hour_of(world.clock.now())
    world.event_files.add(
        hour, f"{world._calls}", json.dumps({"detail": detail}).encode() + b"\n", modified_at=world.clock.now()
    )


class Story(Calm):
    """An hour of calls that weigh 2.5 and of refused ones, some of which come late; and what is left over."""

    weight = Decimal("2.5")

    def __init__(self) -> None:
        super().__init__(decimals=0)
        self.go(4 * MINUTE)
        self.use(3)
        now = self.clock.now()
        lines = [
            self._line(self.life.id, now, "/v1/nouns/{id}", 200, 1_000),
            self._line(self.life.id, now, "/v1/nouns/{id}", 404, 1_000),
        ]
        self.files.add(hour_of(now), "mixed", b"\n".join(lines), modified_at=now)
        self.go(71 * MINUTE)
        self.use(2, ago=40 * MINUTE)
        self.use(1)
        self.go(HOUR)
        self.use(1)
        self.go(5 * MINUTE)


@pytest.fixture(scope="module")
def story() -> Story:
    return Story()


@pytest.fixture
def copy(story: Story, tmp_path: Path) -> Copy:
    return Copy(story, tmp_path)


@pytest.fixture
def agreement(story: Story) -> str:
    return story.life.id


SEAT = f"event:{SEATS}"
TEN = "2026-11-20T10:00Z"
ELEVEN = "2026-11-20T11:00Z"


def test_an_hour_is_traced_from_its_lines_over_statements_to_what_aws_holds(
    copy: Copy, agreement: str, story: Story
) -> None:
    found = copy.json("explain", agreement, "calls", TEN, "--lines")
    billed = {(one["path"], one["sid"]): one for one in found["charges"] if one["billed"]}
    assert {place: (one["lines"], Fraction(one["quantity"])) for place, one in billed.items()} == {
        ("/v1/nouns", "Calls"): (5, Fraction("12.5")),
        ("/v1/nouns/{id}", "Calls"): (1, Fraction("2.5")),
    }
    assert {one["policy"] for one in billed.values()} == {"p@1"}
    assert [(one["state"], one["lines"]) for one in found["charges"] if not one["billed"]] == [("failed", 1)]
    assert [(Fraction(one["of_hour"]), one["quantity"]) for one in found["records"]] == [(10, "10"), (5, "7")]
    second = found["records"][1]
    assert {hour["hour"]: hour["quantity"] for hour in second["hours"]} == {
        "2026-11-20T10:00:00+00:00": "5",
        "2026-11-20T11:00:00+00:00": "5/2",
    }
    assert (second["carried_in"], second["carried_out"]) == ("0", "1/2")
    proofs = {one.metering_record_id for one in story.market.accepted_records if one.dimension == "calls"}
    assert {one["metering_record_id"] for one in found["records"]} == proofs
    assert {one["outcome"] for one in found["records"]} == {Outcome.ACCEPTED}
    assert found["usage"] == found["from_lines"] == found["billed"] == "15"
    assert (found["lost"], found["unbilled"], found["wrong"]) == ("0", "0", [])
    lines = found["lines"]
    assert len(lines) == len({one["id"] for one in lines}) == 7
    assert sum(Fraction(one["quantity"]) for one in lines) == 15
    assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
    assert {(one["status"], one["method"], one["path"], one["sid"], one["quantity"]) for one in lines} == {
        (200, "GET", "/v1/nouns", "Calls", "5/2"),
        (200, "GET", "/v1/nouns/{id}", "Calls", "5/2"),
        (404, "GET", "/v1/nouns/{id}", "", "0"),
    }


def test_what_is_left_over_goes_into_the_next_hours_record(copy: Copy, agreement: str) -> None:
    (record,) = copy.json("explain", agreement, "calls", "2026-11-20T11:00Z")["records"]
    assert record["carried_out"] == "1/2"
    later = copy.json("explain", agreement, "calls", "2026-11-20T12:00Z")
    assert not later["closed"]
    assert (later["usage"], later["unbilled"], later["wrong"]) == ("5/2", "5/2", [])


def test_a_person_reads_it_in_80_columns(copy: Copy, agreement: str) -> None:
    result = copy.run("explain", agreement, "calls", TEN, "--lines")
    assert result.return_value == 0
    text = result.stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    for said in (
        "retail@1, by p@1/Calls: requests, times 2.5",
        "not billed: 1 line, GET /v1/nouns/{id}, failed",
        "accepted, metering record id ",
        "it adds up: 15 from the log, 15 in records, 0 lost",
        "200 GET /v1/nouns/{id}",
    ):
        assert said in text
    assert "the hour is not closed yet" in copy.run("explain", agreement, "calls", "2026-11-20T12:00Z").stdout


def a_file_is_gone(copy: Copy) -> None:
    (copy.directory / "log" / "2026/11/20/10" / "mixed").unlink()


def a_call_comes_later(copy: Copy) -> None:
    path = next(path for path in (copy.directory / "log" / "2026/11/20/10").iterdir() if path.name != "mixed")
    content = path.read_bytes()
    path.with_name("late").write_bytes(content.replace(b"call", b"late").splitlines()[0])


def a_table_changed(copy: Copy) -> None:
    for path in (copy.directory / "tables").iterdir():
        path.write_text(path.read_text().replace('"2.5"', '"2.4"'))


@pytest.mark.parametrize(
    ("fault", "log", "said"),
    [
        (a_file_is_gone, "25/2", "the log shows less than was billed"),
        (a_call_comes_later, "35/2", "the log shows more than is billed"),
        (a_table_changed, "72/5", "the log shows less than was billed"),
    ],
)
def test_what_does_not_add_up_is_a_finding(
    copy: Copy, agreement: str, fault: Callable[[Copy], None], log: str, said: str
) -> None:
    fault(copy)
    found = copy.json("explain", agreement, "calls", TEN)
    assert found["usage"] == log
    assert found["billed"] == "15"
    assert said in found["wrong"][0]
    result = copy.run("explain", agreement, "calls", TEN)
    assert result.return_value == 1
    assert "it does not add up" in result.stdout


def test_a_record_that_bills_more_than_it_should_is_a_finding(copy: Copy, agreement: str) -> None:
    # Whoever can write the bucket can make the chain anew; the sums still tell.
    manifests = sorted((copy.directory / "ledger" / "manifests").iterdir())
    for path in manifests[1:]:
        path.unlink()
    document = json.loads(manifests[0].read_text())
    document["records"][0] |= {"quantity": "11", "allocations": []}
    manifests[0].write_text(json.dumps(document))
    found = copy.json("explain", agreement, "calls", TEN)
    assert "record 1/0: it bills more than its hours and what was left over" in found["wrong"]


def test_usage_events_are_traced_as_calls_are(tmp_path: Path) -> None:
    world = Calm()
    world.go(4 * MINUTE)
    world.use(2)
    for value in ("7.5", "3"):
        event(world, value, world.clock.now())
    world.go(71 * MINUTE)
    found = Copy(world, tmp_path).json("explain", world.life.id, "calls", TEN, "--lines")
    assert [
        (one["status"], one["policy"], one["sid"], one["metric"], one["round_up"], one["value"], one["quantity"])
        for one in found["lines"]
        if one["path"] == f"event:{SEATS}"
    ] == [(None, "p@1", "Seats", "event", 5, "10", "10"), (None, "p@1", "Seats", "event", 5, "5", "5")]
    assert found["usage"] == found["from_lines"] == found["billed"] == "17"
    assert found["wrong"] == []


def test_what_is_lost_is_named_with_its_reason(tmp_path: Path) -> None:
    world = Calm(at=datetime(2026, 11, 30, 23, tzinfo=UTC))
    world.go(4 * MINUTE)
    world.use(2)
    world.go(3 * HOUR)
    world.use(4, ago=3 * HOUR)  # of a month that is over
    world.go(HOUR)
    found = Copy(world, tmp_path).json("explain", world.life.id, "calls", "2026-11-30T23:00Z")
    assert [(one["reason"], one["quantity"]) for one in found["losses"]] == [(LossReason.MONTH_END, "4")]
    assert (found["billed"], found["lost"], found["wrong"]) == ("2", "4", [])


def test_calls_of_a_plan_that_is_only_reported_are_shown_and_not_billed(copy: Copy, agreement: str) -> None:
    for path in (copy.directory / "tables").iterdir():
        path.write_text(path.read_text().replace('"Marketplace"', '"Internal"'))
    found = copy.json("explain", agreement, "calls", "2026-11-20T12:00Z")
    assert {(one["state"], one["billed"]) for one in found["charges"]} == {("billable", False)}
    assert found["usage"] == "0"


def refused(copy: Copy, *words: str, leave_out: tuple[str, ...] = ()) -> str:
    return str(copy.run(*words, leave_out=leave_out).exception)


def test_fails_when_the_log_is_there_no_more(copy: Copy, agreement: str) -> None:
    for hour in ("10", "11"):
        for path in (copy.directory / "log" / "2026/11/20" / hour).iterdir():
            path.unlink()
    assert "MP-CLI-50: log of 2026-11-20T10:00Z" in refused(copy, "explain", agreement, "calls", TEN)


def test_fails_when_nobody_knows_the_agreement_or_the_dimension(copy: Copy, agreement: str) -> None:
    assert "MP-CLI-49: usage, got agreement 'agmt-none'" in refused(copy, "explain", "agmt-none", "calls", TEN)
    assert "expected a metered agreement, and one of calls,data" in refused(copy, "explain", agreement, "none", TEN)


def test_fails_when_api_gateway_itself_reports_the_usage(story: Story, tmp_path: Path, agreement: str) -> None:
    copy = Copy(story, tmp_path, terms=Product.legacy("abc123", metering=Metering.NATIVE))
    assert "MP-CLI-48: product abc123" in refused(copy, "explain", agreement, "calls", TEN)


@pytest.mark.parametrize("hour", ["2026-11-20T10:30Z", "yesterday", "2026-11-20T10:00+00:30"])
def test_fails_when_the_hour_is_none(copy: Copy, agreement: str, hour: str) -> None:
    assert "expected a whole hour, UTC" in refused(copy, "explain", agreement, "calls", hour)


def test_fails_when_a_copy_is_not_what_it_should_be(copy: Copy, agreement: str) -> None:
    words = ("explain", agreement, "calls", TEN)
    assert "--stack" in refused(copy, *words, leave_out=("settings",))
    (copy.directory / "settings.json").write_text("{}")
    assert "MP-CLI-47: settings in " in refused(copy, *words)
    copy.configure()
    assert "MP-CLI-46: log, got " in refused(copy, "--log", str(copy.directory), *words)
    (copy.directory / "facts.json").write_text("[")
    assert "aws dynamodb scan prints" in refused(copy, *words)


def test_lines_that_come_to_something_else_than_the_reading_are_a_finding(story: Story, tmp_path: Path) -> None:
    series = Series(agreement=story.life.id, dimension="calls")
    objects = DirectoryObjects(tmp_path)
    for key in story.objects.keys("manifests/"):
        objects.put_new(key, story.objects.get(key) or b"")
    history, witness = History.read(objects), Witness(series, tmp_path)
    for by_path, said in (
        ({}, "the lines, one by one"),
        ({"/a": Fraction(15), "/b": Fraction(-15)}, "by path: /a, /b"),
    ):
        usage = Usage(quantity=sum(by_path.values(), Fraction(len(by_path) == 0)), earliest=START, by_path=by_path)
        found = explained(history, HourUsage(closed=ClosedHour(hour=START), usage={series: usage}), witness, series)
        assert any(said in wrong for wrong in found.wrong)


def test_allocations_that_do_not_sum_to_their_record_are_a_finding(copy: Copy, agreement: str) -> None:
    manifests = sorted((copy.directory / "ledger" / "manifests").iterdir())
    for path in manifests[1:]:
        path.unlink()
    document = json.loads(manifests[0].read_text())
    document["records"][0]["allocations"][0]["quantity"] = "1"
    manifests[0].write_text(json.dumps(document))
    found = copy.json("explain", agreement, "calls", TEN)
    assert "record 1/0: its allocations do not sum to it" in found["wrong"]


def test_a_record_that_only_took_the_hours_slot_is_shown_and_lines_come_in_the_order_of_their_time(
    tmp_path: Path,
) -> None:
    world = Calm()
    world.go(4 * MINUTE)
    world.use(1)
    world.go(71 * MINUTE)
    world.use(1, ago=30 * MINUTE)
    world.use(1, ago=35 * MINUTE)  # told later, and before it
    world.go(HOUR)
    copy = Copy(world, tmp_path)
    lines = copy.json("explain", world.life.id, "calls", TEN, "--lines")["lines"]
    assert [one["time"] for one in lines] == sorted(one["time"] for one in lines)
    assert [one["id"] for one in lines] != sorted(one["id"] for one in lines)
    (record,) = copy.json("explain", world.life.id, "calls", ELEVEN)["records"]
    assert record["of_hour"] == "0"
    assert record["quantity"] == "2.000000"


@pytest.mark.parametrize(("after", "is_lost"), [(3 * HOUR, False), (50 * HOUR, True)])
def test_calls_that_no_table_judges_are_shown_traced_and_replayed(
    tmp_path: Path,
    after: timedelta,
    is_lost: bool,  # noqa: FBT001
) -> None:
    world = Calm()
    world.go(4 * MINUTE)
    world.use(1, ago=MINUTE)
    now, named = world.clock.now(), world.life.id
    lines = [
        world._line(named, now + MINUTE, "/v1/nouns", 404, 0),
        world._line(named, now + MINUTE, "/v1/texts", 200, 0, plan="gone@1"),
        world._line(named, now - MINUTE, "/v2/nouns", 200, 0),
        world._line(named, now - MINUTE, "/v1/nouns", 200, 0),
    ]
    world.files.add(START, "strange", b"\n".join(lines), modified_at=now)
    world.cancel(world.life)
    world.go(71 * MINUTE)
    world.go(20 * HOUR)
    world.go(after)
    copy = Copy(world, tmp_path)
    shown = {(one["dimension"], one["what"]): one["quantity"] for one in copy.json("show")["usage"]}
    person = copy.run("explain", named, "call:outside", TEN).output
    for dimension, reason, places in (
        ("call:outside", "outside-agreement", [(404, "/v1/nouns"), (200, "/v1/texts")]),
        ("call:unmatched", "no-route", [(200, "/v2/nouns")]),
    ):
        calls = str(len(places))
        assert shown[dimension, f"lost ({reason})" if is_lost else "unjudged"] == calls
        found = copy.json("explain", named, dimension, TEN, "--lines")
        assert [(one["status"], one["path"]) for one in found["lines"]] == places
        assert (found["usage"], found["from_lines"], found["unbilled"], found["wrong"]) == (calls, calls, "0", [])
        assert (found["lost"], found["unjudged"]) == ((calls, "0") if is_lost else ("0", calls))
        assert found["losses"] == ([{"reason": reason, "quantity": calls}] if is_lost else [])
    # They are no usage of another dimension.
    billed = copy.json("explain", named, "calls", TEN)
    assert (billed["usage"], billed["from_lines"], billed["wrong"]) == ("2", "2", [])
    assert ("unmatched", 1, "0") in [(one["state"], one["lines"], one["quantity"]) for one in billed["charges"]]
    assert "not billed: 1 line, GET /v1/nouns, outside" in person
    assert ("lost (outside-agreement)" if is_lost else "not lost yet") in person
    assert copy.json("replay")["differences"] == []
    (copy.directory / "log" / "2026/11/20/10" / "strange").unlink()
    differences = copy.json("replay")["differences"]
    assert [(one["log"], one["ledger"]) for one in differences if one["dimension"] == "call:outside"] == [("0", "2")]
    assert "judged otherwise now" in copy.run("replay").stdout


def test_usage_events_that_no_plan_judges_are_shown_and_replayed(tmp_path: Path) -> None:
    world = Calm()
    planless, told_at = world.subscribe_without_plan(), world.clock.now() + 4 * MINUTE
    world.go(4 * MINUTE)
    event = world._event(planless.id, told_at, life=planless)
    world._pending_events.append((told_at, START, event + b"\n"))
    world.use(1)
    world.go(71 * MINUTE)
    copy = Copy(world, tmp_path)
    (one,) = [one for one in copy.json("show")["usage"] if one["agreement"] == planless.id]
    assert one["dimension"].startswith("event:")
    assert one["what"] == "unjudged"
    assert copy.json("replay")["differences"] == []
    for file in (copy.directory / "events" / "2026/11/20/10").iterdir():
        file.unlink()
    (difference,) = copy.json("replay")["differences"]
    assert (difference["dimension"], difference["log"]) == (one["dimension"], "0")
    assert "judged otherwise now" in copy.run("replay").stdout


@pytest.mark.parametrize(("after", "is_lost"), [(3 * HOUR, False), (50 * HOUR, True)])
def test_usage_events_that_are_not_billed_are_traced_with_the_reason(
    tmp_path: Path,
    after: timedelta,
    is_lost: bool,  # noqa: FBT001
) -> None:
    world = Calm()
    planless, named = world.subscribe_without_plan().id, world.life.id
    world.go(4 * MINUTE)
    now = world.clock.now()
    event(world, "1", now - MINUTE)
    # Calls that count nothing are no usage events.
    strange = world._line(named, now - MINUTE, "/v2/nouns", 200, 0)
    world.files.add(START, "strange", strange, modified_at=now)
    world.cancel(world.life)
    said = [(planless, "2.5"), (planless, "5"), (planless, "0"), (named, "4"), (named, "3.5")]
    strangers = ["agmt-none", "jane@example.com", "the one with the blue door"]
    for subject, value in [*said, *((stranger, "7") for stranger in strangers)]:
        event(world, value, now + MINUTE, subject=subject)
    world.go(71 * MINUTE)
    world.go(20 * HOUR)
    world.go(after)
    copy = Copy(world, tmp_path)
    shown = {(one["agreement"], one["dimension"], one["what"]): one["quantity"] for one in copy.json("show")["usage"]}
    for agreement, dimension, reason, quantity, values, words in (
        (planless, SEAT, "no-plan", "15/2", ["0", "5/2", "5"], "unplanned: no plan was assigned then"),
        (named, f"{SEAT}/outside", "outside-agreement", "15/2", ["7/2", "4"],
         "outside: its agreement had not begun, or was over"),
        ("agmt-none", f"{SEAT}/outside", "outside-agreement", "7", ["7"], "unattributed: nobody knows its agreement"),
        ("-", f"{SEAT}/outside", "outside-agreement", "14", ["7", "7"], "unattributed: nobody knows its agreement"),
    ):  # fmt: skip
        assert shown[agreement, dimension, f"lost ({reason})" if is_lost else "unjudged"] == quantity
        found = copy.json("explain", agreement, dimension, TEN, "--lines")
        assert sorted(one["quantity"] for one in found["lines"]) == sorted(values)
        assert {one["path"] for one in found["lines"]} == {SEAT}
        assert not any(one["billed"] for one in [*found["lines"], *found["charges"]])
        assert (found["usage"], found["from_lines"], found["unbilled"], found["wrong"]) == (quantity, quantity, "0", [])
        assert (found["lost"], found["unjudged"]) == ((quantity, "0") if is_lost else ("0", quantity))
        assert found["losses"] == ([{"reason": reason, "quantity": quantity}] if is_lost else [])
        result = copy.run("explain", agreement, dimension, TEN, "--lines")
        assert result.return_value == 0
        assert max(map(len, result.stdout.splitlines())) <= 80
        text = " ".join(result.stdout.split())
        assert words in text
        assert (f"lost ({reason})" if is_lost else "not lost yet") in text
        assert "example.com" not in text
    # What no plan counts is not what a plan counts.
    assert copy.json("explain", named, "calls", TEN)["usage"] == "5"
    assert copy.json("explain", named, SEAT, TEN)["charges"] == []
    assert "MP-CLI-49" in refused(copy, "explain", named, "event:gone", TEN)


def test_usage_events_of_a_plan_that_is_never_billed_are_no_loss(tmp_path: Path) -> None:
    world = Calm()
    world.go(4 * MINUTE)
    world.cancel(world.life)
    event(world, "4", world.clock.now() + MINUTE)
    world.go(71 * MINUTE)
    copy = Copy(world, tmp_path)
    for path in (copy.directory / "tables").iterdir():
        path.write_text(path.read_text().replace('"Marketplace"', '"Internal"'))
    found = copy.json("explain", world.life.id, f"{SEAT}/outside", TEN)
    assert [(one["state"], one["lines"], one["quantity"]) for one in found["charges"]] == [("outside", 1, "0")]
    assert (found["usage"], found["from_lines"], found["unjudged"]) == ("0", "0", "4")
