"""``sellable meter`` on copies of ledgers and logs."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from click.testing import CliRunner, Result
from copies import Copy
from simulation import Process, World, manifests
from test_meter import HOUR, MINUTE, START, Calm

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.cli.metered import MeteredSale
from marketplace_constructs.domain.metering import LossReason, Outcome, hour_of
from marketplace_constructs.domain.product import Product
from marketplace_constructs.runtime.metering.ledger import Ledger
from marketplace_constructs.runtime.metering.meter import Meter, Ports
from marketplace_constructs.runtime.metering.objects import DirectoryObjects
from marketplace_constructs.runtime.metering.totals import PlanTimeline

DOUBTS = 3  # a seed in which something stays in doubt


@pytest.fixture(scope="module")
def world() -> World:
    world = World(DOUBTS)
    world.live()
    return world


@pytest.fixture
def directory(world: World, tmp_path: Path) -> Path:
    objects = DirectoryObjects(tmp_path / "ledger")
    for key in world.objects.keys(""):
        assert objects.put_new(key, world.objects.get(key) or b"")
    assert objects.keys("manifests/") == world.objects.keys("manifests/")
    return tmp_path / "ledger"


def run(directory: Path, *words: str) -> Result:
    return CliRunner().invoke(sellable, ["meter", "--ledger", str(directory), *words], standalone_mode=False)


def doubtful(directory: Path) -> list[str]:
    return sorted(Ledger(DirectoryObjects(directory), run="test").load().in_doubt)


def test_what_is_in_doubt_is_a_finding(directory: Path) -> None:
    result = run(directory, "show", "--format", "json")
    assert result.return_value == 1
    assert any(row["what"] == "in-doubt" for row in json.loads(result.output)["usage"])
    assert "in-doubt" in run(directory, "show").output


def test_a_record_is_shown_with_its_attempts(directory: Path) -> None:
    record = doubtful(directory)[0]
    shown = json.loads(run(directory, "record", record, "--format", "json").output)
    assert shown["outcome"] == "in-doubt"
    assert shown["attempts"]


def test_a_release_is_said_before_it_is_done(directory: Path) -> None:
    record = doubtful(directory)[0]
    assert "do it with --yes" in run(directory, "release", record, "--as", "lost").output
    assert record in doubtful(directory)
    run(directory, "release", record, "--as", "lost", "--yes")
    assert record not in doubtful(directory)
    assert json.loads(run(directory, "record", record, "--format", "json").output)["outcome"] == "lost"
    error = run(directory, "release", record, "--as", "lost", "--yes").exception
    assert "MP-CLI-41" in str(error)


def test_a_snapshot_that_says_something_else_is_a_finding(directory: Path) -> None:
    assert run(directory, "replay").return_value == 0
    states = sorted((directory / "states").glob("*"))
    assert states
    document = json.loads(states[0].read_text())
    states[0].write_text(json.dumps({**document, "records": []}))
    result = run(directory, "replay")
    assert result.return_value == 1
    assert states[0].name in result.output


def test_fails_when_there_is_no_ledger(tmp_path: Path) -> None:
    assert "MP-CLI-44" in str(run(tmp_path, "show").exception)


@pytest.fixture(scope="module")
def kept(world: World, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of everything, which no test changes."""
    return Copy(world, tmp_path_factory.mktemp("kept"))


def test_the_log_of_a_sale_in_which_everything_went_wrong_still_says_what_was_billed(kept: Copy) -> None:
    before = kept.files()
    found = kept.json("replay")
    assert (found["hours"], found["differences"], found["gone"]) == (len(hours_of(kept)), [], [])
    assert found["hours"] > 20
    assert kept.files() == before
    text = kept.run("replay").stdout
    assert f"{found['hours']} closed hours: {found['hours']} equal, 0 different, 0 without log" in text


def hours_of(copy: Copy) -> set[str]:
    documents = [json.loads(path.read_text()) for path in (copy.directory / "ledger" / "manifests").iterdir()]
    return {one["hour"] for document in documents for one in document["closed"]}


def test_every_record_of_that_sale_is_explained(world: World, kept: Copy) -> None:
    records = [record for manifest in manifests(world) for record in manifest.records if len(record.sources) > 1]
    assert records
    for record in records[:4]:
        for source in record.sources:
            found = kept.json(
                "explain", record.series.agreement, record.series.dimension, source.hour.isoformat(timespec="minutes")
            )
            assert found["wrong"] == []
            assert found["usage"] == found["from_lines"]
            (shown,) = [one for one in found["records"] if one["record"] == record.id]
            assert Fraction(shown["of_hour"]) == source.quantity
            left = Fraction(shown["carried_in"]) - Fraction(shown["carried_out"])
            assert sum(Fraction(one["quantity"]) for one in shown["hours"]) + left == record.quantity


def test_the_totals_are_what_the_records_sum_to(kept: Copy, world: World) -> None:
    found = kept.json("show")
    accepted = sum(Decimal(one.quantity) for one in world.market.accepted_records if one.metering_record_id not in
                   world.foreign)  # fmt: skip
    told = sum(Fraction(one["quantity"]) for one in found["totals"] if one["what"] == "accepted")
    doubtful = sum(Fraction(one["quantity"]) for one in found["totals"] if one["what"] == "in-doubt")
    assert told <= accepted <= told + doubtful
    assert {one["record"] for one in found["records"] if one["outcome"] == "in-doubt"}
    months = [kept.json("show", "--month", month)["totals"] for month in ("2026-11", "2026-12")]
    assert sum(Fraction(one["quantity"]) for of_month in months for one in of_month) == sum(
        Fraction(one["quantity"]) for one in found["totals"]
    )
    assert "expected a month" in str(kept.run("show", "--month", "2026-13").exception)


class Late(Calm):
    """Two hours that are closed, one that is due, and one that goes on."""

    def __init__(self, at: datetime = START) -> None:
        super().__init__(at=at)
        self.go(4 * MINUTE)
        for _ in range(2):
            self.use(3)
            self.go(71 * MINUTE)
            self.clock.set(hour_of(self.clock.now()) + 4 * MINUTE)
        self.use(5)
        self.clock.advance(75 * MINUTE)
        self.use(2, ago=2 * HOUR + 20 * MINUTE)  # of an hour that is closed
        self._deliver()


@pytest.fixture
def late() -> Late:
    return Late()


def test_a_person_reads_it_in_80_columns(kept: Copy, late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    record = doubtful(kept.directory / "ledger")[0]
    for result in (
        kept.run("show"),
        kept.run("record", record),
        kept.run("release", record, "--as", "lost"),
        copy.run("show"),
        copy.run("record", "1/0"),
        copy.run("replay"),
        copy.run("close"),
        copy.run("resend"),
    ):
        assert result.exception is None
        assert result.stdout
        # Nothing is cut: what is wider is one word.
        wide = [line for line in result.stdout.splitlines() if len(line) > 80]
        assert [line for line in wide if "arn:aws:license-manager" not in line] == []
        assert "\x1b" not in result.output


def test_without_a_log_only_the_chain_is_followed(kept: Copy) -> None:
    alone = ("settings", "log", "events", "facts", "plans", "tables")
    result = kept.run("replay", leave_out=alone)
    assert result.return_value == 0
    assert "hours were not compared with the log, since none was named" in result.stdout
    assert json.loads(kept.run("replay", "--format", "json", leave_out=alone).stdout)["hours"] is None


def test_a_replay_names_what_the_log_shows_beyond_the_bill_and_what_it_lacks(late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    (difference,) = [one for one in copy.json("replay")["differences"] if one["dimension"] == "calls"]
    assert (difference["hour"][:13], difference["log"], difference["ledger"]) == ("2026-11-20T10", "5", "3")
    result = copy.run("replay")
    assert result.return_value == 1
    assert "not billed: lines or facts that came late" in result.stdout
    (copy.directory / "log/2026/11/20/11").rename(copy.directory / "elsewhere")
    (copy.directory / "log/2026/11/20/11").mkdir()
    found = copy.json("replay", "--from", "2026-11-20T11:00Z", "--to", "2026-11-20T12:00Z")
    assert [(one["log"], one["ledger"]) for one in found["differences"] if one["dimension"] == "calls"] == [("0", "3")]
    assert "billed, and not in the log any more" in copy.run("replay").stdout


def test_what_the_log_keeps_no_longer_is_not_said_to_be_right(late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    for name in ("10", "11", "12", "13"):
        for path in (copy.directory / "log/2026/11/20" / name).glob("*"):
            path.unlink()
    result = copy.run("replay")
    assert result.return_value == 3
    assert "2 closed hours: 0 equal, 0 different, 2 without log" in result.stdout
    assert "2026-11-20T10:00Z to 2026-11-20T11:00Z" in result.stdout.replace("\n  ", " ")
    assert copy.json("replay")["gone"] == ["2026-11-20T10:00:00+00:00", "2026-11-20T11:00:00+00:00"]


def test_a_table_that_says_something_else_makes_a_difference(late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    for path in (copy.directory / "tables").iterdir():
        path.write_text(path.read_text().replace('"requests",1,"1"', '"requests",1,"3"'))
    found = copy.json("replay", "--from", "2026-11-20T11:00Z")
    assert [(one["log"], one["ledger"]) for one in found["differences"]] == [("9", "3")]


def natively_metered() -> Calm:
    """A sale that API Gateway itself reports, with an hour of three calls closed."""
    world = Calm()
    world.product = Product.legacy("abc123")
    world.options = replace(world.options, product=world.product)
    world._main = Process(world, timedelta(0))
    world.use(3)
    world.go(76 * MINUTE)
    return world


def test_a_natively_metered_products_counts_are_compared(tmp_path: Path) -> None:
    world = natively_metered()
    copy = Copy(world, tmp_path)
    assert copy.json("replay")["differences"] == []
    said = copy.run("replay").stdout.splitlines()
    assert said == [
        "1 manifest, an unbroken chain; 0 wrong snapshots",
        "1 closed hour: 1 equal, 0 different, 0 without log",
    ]
    world.use(1, ago=HOUR)
    copy.write_log("log", world.files)
    found = copy.json("replay")["differences"]
    assert [(one["agreement"], one["log"], one["ledger"]) for one in found] == [(None, "4", "3")]
    assert f"2026-11-20T10:00Z {found[0]['state']}" in copy.run("replay").stdout
    assert "MP-CLI-48" in str(copy.run("resend").exception)


def test_only_what_api_gateway_reports_is_compared_with_that(kept: Copy) -> None:
    assert "MP-CLI-54" in str(kept.run("compare").exception)


def test_a_log_that_is_gone_is_not_compared_with_what_api_gateway_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = natively_metered()
    copy = Copy(world, tmp_path)
    monkeypatch.setattr(MeteredSale, "trails", [world])
    result = copy.run("compare")
    assert result.return_value == 0
    assert "1 closed hour: outside 3" in result.stdout
    assert (copy.json("compare")["hours"], copy.json("compare")["gone"]) == (1, [])
    for path in (copy.directory / "log").rglob("*"):
        if path.is_file():
            path.unlink()
    result = copy.run("compare")
    assert result.return_value == 3
    assert "the log keeps no files of them: 1 hour; name a copy" in result.stdout


# What is to be done now


def test_what_would_be_closed_is_what_the_meter_then_does(late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    before = copy.files()
    said = copy.json("close")
    assert copy.files() == before
    assert not said["done"]
    sequence = len(manifests(late))
    late._main.meter.run()
    done = manifests(late)[sequence:]
    records = [record for manifest in done for record in manifest.records]
    assert [(one["agreement"], one["dimension"], one["timestamp"], one["quantity"]) for one in said["records"]] == [
        (one.series.agreement, one.series.dimension, one.timestamp.isoformat(), f"{one.quantity:f}")
        for one in records
    ]  # fmt: skip
    assert said["due"] == ["2026-11-20T12:00:00+00:00"]
    assert [(one["hour"][:13], one["again"]) for one in said["closed"]] == [
        ("2026-11-20T12", False),
        ("2026-11-20T10", True),
    ]
    assert said["held"] == said["losses"] == said["settlements"] == []
    text = Copy(late, tmp_path / "after").run("close").stdout
    assert "no hour is due" in text


def test_usage_that_would_be_lost_is_a_finding(tmp_path: Path) -> None:
    copy = Copy(Late(at=datetime(2026, 11, 30, 20, tzinfo=UTC)), tmp_path)
    copy.now = datetime(2026, 12, 1, 6, 20, tzinfo=UTC)  # AWS takes nothing of November any more
    assert {one["reason"] for one in copy.json("close")["losses"]} == {LossReason.MONTH_END}
    result = copy.run("close")
    assert result.return_value == 1
    assert "would be lost (month-end)" in result.stdout


def test_what_is_lost_with_an_agreement_is_carried_no_more_and_unreadable_lines_stay_where_they_are(
    tmp_path: Path,
) -> None:
    world = Calm(decimals=0)
    world.go(4 * MINUTE)
    world.use(1)  # a tenth of the smallest quantity of data
    world.go(71 * MINUTE)
    assert Copy(world, tmp_path / "before").json("show")["carried"] == [
        {"agreement": world.life.id, "dimension": "data", "quantity": "1/10"}
    ]
    world.cancel(world.life)
    world._tell()
    for _ in range(16):
        world.clock.advance(5 * MINUTE)
        world._tell()
        world._main.meter.run()
    world.files.add(
        hour_of(world.clock.now()), "broken", b'{"extendedRequestId": "x"}\n', modified_at=world.clock.now()
    )
    copy = Copy(world, tmp_path / "after")
    assert copy.json("show")["carried"] == []
    before = copy.files()
    copy.now += HOUR
    assert [one["quarantined"] for one in copy.json("close")["closed"] if not one["again"]] == [1]
    assert copy.files() == before


def test_an_hour_that_is_held_is_a_finding(late: Late, tmp_path: Path) -> None:
    now = late.clock.now()
    line = late._line(late.life.id, now - HOUR, "/v1/unknown", 200, 0)
    late.files.add(hour_of(now), "unknown", line, modified_at=now)
    copy = Copy(late, tmp_path)
    assert copy.json("close")["held"] == ["2026-11-20T12:00:00+00:00"]
    result = copy.run("close")
    assert result.return_value == 1
    assert "2026-11-20T12:00Z would be held" in result.stdout


def test_fails_when_the_hour_is_not_due(late: Late, tmp_path: Path) -> None:
    copy = Copy(late, tmp_path)
    assert copy.run("close", "--hour", "2026-11-20T12:00Z").return_value == 0
    for hour in ("2026-11-20T11:00Z", "2026-11-20T13:00Z"):
        assert f"MP-CLI-51: hour {hour}, got one that is not due; expected one of 2026-11-20T12:00Z" in str(
            copy.run("close", "--hour", hour).exception
        )


class Deployed:
    """The deployed function over a copy: the production meter, with the world's AWS Marketplace."""

    def __init__(self, world: Calm, copy: Copy) -> None:
        self.world, self.copy = world, copy
        self.events: list[Mapping[str, Any]] = []

    def run(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)
        world = self.world
        ports = Ports(
            facts=world.facts.buyers,
            plans=PlanTimeline(world.versions, world.tables),
            log=world.log,
            ledger=Ledger(DirectoryObjects(self.copy.directory / "ledger"), run=f"run{len(self.events)}"),
            metering=self,
            count=lambda _, __: None,
            gauge=lambda _, __: None,
        )
        Meter(
            world.options,
            ports,
            clock=lambda: self.copy.now,
            at_once=event.get("resend", ()),
            sleep=lambda _: None,
        ).run()

    def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
        return self.world.call(request, self.world.market.faults.take("BatchMeterUsage"))


@pytest.fixture
def deployed(late: Late, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployed:
    function = Deployed(late, Copy(late, tmp_path))
    monkeypatch.setattr(MeteredSale, "run_meter", lambda _, event: function.run(event))
    return function


def test_with_yes_the_deployed_function_closes_what_was_said(deployed: Deployed) -> None:
    copy = deployed.copy
    said = copy.json("close")
    done = copy.json("close", "--yes")
    assert deployed.events == [{}]
    assert [{**record, "record": None} for record in done["records"]] == said["records"]
    assert done["closed"] == said["closed"]
    assert {one["outcome"] for one in done["settlements"]} == {Outcome.ACCEPTED}
    assert len(deployed.world.market.accepted_records) == 6
    assert "no hour is due" in copy.run("close").stdout


def refuse_once(deployed: Deployed) -> list[str]:
    """Close an hour whose records AWS refuses by themselves; their ids."""
    world, copy = deployed.world, deployed.copy
    original = world.call

    def call(_: Any, __: Any) -> Any:
        raise ClientError(
            {"Error": {"Code": "InvalidUsageDimensionException"}, "ResponseMetadata": {"HTTPStatusCode": 400}},
            "BatchMeterUsage",
        )

    world.call = call  # type: ignore[method-assign]
    copy.run("close", "--yes")
    world.call = original  # type: ignore[method-assign]
    return [one["record"] for one in copy.json("show")["records"]]


def test_what_aws_refused_is_sent_again_as_it_was_and_at_once_where_it_is_named(deployed: Deployed) -> None:
    copy, world = deployed.copy, deployed.world
    first, second = refuse_once(deployed)
    before = copy.files()
    said = copy.json("resend", first)["records"]
    assert copy.files() == before
    assert [(one["record"], one["what"], one["last_answer"]) for one in said] == [(first, "sent", "Refused")]
    everything = copy.json("resend")["records"]
    assert [(one["record"], one["what"]) for one in everything] == [(first, "waits"), (second, "waits")]
    assert copy.run("resend").return_value == 1
    accepted = len(world.market.accepted_records)
    done = copy.json("resend", first, "--yes")
    assert deployed.events[-1] == {"resend": [first]}
    assert [(one["record"], one["what"]) for one in done["records"]] == [(first, "accepted")]
    (taken,) = world.market.accepted_records[accepted:]
    assert (taken.timestamp.isoformat(), f"{taken.quantity:f}") == (said[0]["timestamp"], "7")
    (sent,) = world.market.calls[-1].request["UsageRecords"]
    assert {name: sent[name] for name in ("Dimension", "QuantityAsDecimal")} == {
        name: said[0]["request"][name] for name in ("Dimension", "QuantityAsDecimal")
    }


def test_what_aws_takes_no_more_is_not_sent(deployed: Deployed) -> None:
    refuse_once(deployed)
    deployed.copy.now += 25 * HOUR
    said = deployed.copy.json("resend")["records"]
    assert {one["what"] for one in said} == {"too-late"}
    assert "AWS takes it no more" in deployed.copy.run("resend").stdout


def test_fails_when_a_record_that_is_not_open_is_to_be_sent(deployed: Deployed, kept: Copy) -> None:
    (doubt, *_) = doubtful(kept.directory / "ledger")
    said = str(kept.run("resend", doubt).exception)
    assert f"MP-CLI-52: record {doubt}, got one that is in-doubt" in said
    assert "sellable meter release" in said
    assert "got one that is accepted" in str(deployed.copy.run("resend", "1/0").exception)
    assert "MP-CLI-43" in str(deployed.copy.run("resend", "9/9").exception)


def answering(**answer: Any) -> Any:
    client = boto3.client("lambda", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    stubber = Stubber(client)
    expected = {"FunctionName": "Sale-Meter", "Payload": b"{}"}
    if "error" in answer:
        stubber.add_client_error("invoke", answer["error"], expected_params=expected)
    else:
        payload = json.dumps(answer["said"]).encode()
        body = StreamingBody(io.BytesIO(payload), len(payload))
        stubber.add_response("invoke", {"StatusCode": 200, "Payload": body, **answer["more"]}, expected)
    stubber.activate()
    return client


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "TooManyRequestsException"}, "got TooManyRequestsException"),
        ({"said": {"errorMessage": "MP-LEDGER-02: x"}, "more": {"FunctionError": "Unhandled"}}, "got MP-LEDGER-02: x"),
        ({"said": None, "more": {}}, ""),
    ],
)
def test_a_run_that_fails_is_said_with_what_it_said(
    late: Late, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], said: str
) -> None:
    copy = Copy(late, tmp_path)
    client = answering(**answer)
    monkeypatch.setattr(boto3, "client", lambda *_, **__: client)
    result = copy.run("close", "--yes")
    assert ("MP-CLI-45: run of the meter" in str(result.exception)) == bool(said)
    assert said in str(result.exception)
