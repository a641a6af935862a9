"""The ledger's objects in memory and in S3 do the same, and so does the ledger over them."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.metering import (
    Allocation,
    Buyer,
    ClosedHour,
    Loss,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Series,
    Settlement,
    Source,
    Status,
)
from marketplace_constructs.domain.plan_table import Cell, EventMeter, LineState, PlanTable, RouteAccess
from marketplace_constructs.domain.product import Dimension, Product
from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.runtime.metering import meter
from marketplace_constructs.runtime.metering.buyers import Life
from marketplace_constructs.runtime.metering.codec import from_bytes, state_to_json, to_bytes
from marketplace_constructs.runtime.metering.dry_run import OverlaidObjects
from marketplace_constructs.runtime.metering.ledger import SNAPSHOT_EVERY, Answer, Claim, Ledger
from marketplace_constructs.runtime.metering.log_files import DirectoryLogFiles, LogFiles, MemoryLogFiles, S3LogFiles
from marketplace_constructs.runtime.metering.objects import DirectoryObjects, MemoryObjects, Objects, S3Objects
from marketplace_constructs.runtime.settings import MeterSettings

pytestmark = pytest.mark.rehearsal

AT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
RECORD = Record(
    id="1/0",
    series=Series(agreement="agmt-one", dimension="calls"),
    buyer=Buyer(
        customer_aws_account_id="123456789012",
        license_arn="arn:aws:license-manager::123456789012:license:l-one",
        started_at=AT,
        ended_at=AT + HOUR,
    ),
    timestamp=AT + timedelta(minutes=7),
    quantity=Decimal("1.500000"),
    sources=(Source(hour=AT, quantity=Fraction(4_500_001, 3_000_000)),),
    allocations=(Allocation(path="/v1/nouns", quantity=Decimal("1.500000")),),
)
FULL = Manifest(
    sequence=1,
    previous="",
    written_at=AT + HOUR,
    closed=(ClosedHour(hour=AT, lines={"calls billable": 3}, quarantined=1),),
    records=(RECORD,),
    losses=(Loss(series=RECORD.series, hour=AT, quantity=Fraction(1, 3), reason=LossReason.MONTH_END),),
    read_at=AT + HOUR,
    again=(AT,),
)


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with LocalAws() as local:
        yield local


@pytest.fixture(params=["memory", "directory", "overlaid", "s3"])
def objects(request: pytest.FixtureRequest, aws: LocalAws, tmp_path: Path) -> Objects:
    if request.param == "memory":
        return MemoryObjects()
    if request.param == "directory":
        return DirectoryObjects(tmp_path)
    if request.param == "overlaid":
        return OverlaidObjects(MemoryObjects())
    client = aws.client("s3")
    bucket = f"b{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    return S3Objects(client, bucket, "ledger/abc123/us-east-1/")


def test_an_object_is_put_once_and_never_changed(objects: Objects) -> None:
    assert objects.get("a/1") is None
    assert objects.put_new("a/1", b"one")
    assert objects.put_new("a/1", b"one")  # the SDK's own retry of a write whose answer was lost
    assert not objects.put_new("a/1", b"two")
    assert objects.get("a/1") == b"one"


def test_objects_are_listed_by_prefix_in_order(objects: Objects) -> None:
    for key in ("b/1", "a/2", "a/3", "a/1"):
        objects.put_new(key, b"x")
    assert objects.keys("a/") == ["a/1", "a/2", "a/3"]
    assert objects.keys("a/", after="a/1") == ["a/2", "a/3"]
    assert objects.keys("c/") == []


def test_everything_that_a_manifest_says_comes_back(objects: Objects) -> None:
    writer = Ledger(objects, run="one")
    writer.load()
    assert writer.append(FULL)
    settled = Manifest(
        sequence=2,
        previous=writer.head,
        written_at=AT + HOUR,
        settlements=(Settlement(record="1/0", outcome=Outcome.LOST, reason=LossReason.NOT_SUBSCRIBED),),
    )
    assert writer.append(settled)
    reader = Ledger(objects, run="two")
    state = reader.load()
    assert reader.head == writer.head
    assert state_to_json(state) == state_to_json(writer.load())
    assert state.records == {"1/0": replace(RECORD, buyer=RECORD.buyer)}
    assert state.lost == {"1/0": LossReason.NOT_SUBSCRIBED}
    series = state.series[RECORD.series]
    assert series.accounted == {AT: Fraction(4_500_001, 3_000_000) + Fraction(1, 3)}
    assert series.remainder == Fraction(1, 3_000_000)


def test_what_lies_over_a_store_is_seen_and_the_store_stays_as_it_was() -> None:
    below = MemoryObjects()
    writer = Ledger(below, run="one")
    writer.load()
    writer.append(FULL)
    above = OverlaidObjects(below)
    ledger = Ledger(above, run="two")
    ledger.load()
    assert not above.put_new("manifests/000000000001.json", b"another")
    assert ledger.append(
        Manifest(sequence=2, previous=ledger.head, written_at=AT, closed=(ClosedHour(hour=AT + HOUR),))
    )
    assert above.keys("manifests/") == ["manifests/000000000001.json", "manifests/000000000002.json"]
    assert Ledger(above, run="three").load().sequence == 2
    assert below.keys("") == ["manifests/000000000001.json"]


def test_who_comes_second_reads_what_the_first_wrote(objects: Objects) -> None:
    first, second = Ledger(objects, run="one"), Ledger(objects, run="two")
    first.load()
    second.load()
    assert first.append(FULL)
    assert not second.append(FULL)
    assert second.load().sequence == 1
    assert second.head == first.head


def test_fails_when_a_link_of_the_chain_was_exchanged(objects: Objects) -> None:
    ledger = Ledger(objects, run="one")
    ledger.load()
    ledger.append(FULL)
    objects.put_new("manifests/000000000002.json", objects.get("manifests/000000000001.json") or b"")
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LEDGER-03: .* manifest 1 after 1"):
        Ledger(objects, run="two").load()


def test_fails_when_the_schema_is_a_later_one() -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LEDGER-01: .* schema_version 2"):
        from_bytes(to_bytes({"a": 1}).replace(b'"schema_version":1', b'"schema_version":2'))


def _chain(objects: Objects, links: int) -> Ledger:
    ledger = Ledger(objects, run="one")
    ledger.load()
    for sequence in range(1, links + 1):
        closed = (ClosedHour(hour=AT + sequence * HOUR),)
        assert ledger.append(Manifest(sequence=sequence, previous=ledger.head, written_at=AT, closed=closed))
    return ledger


def test_a_snapshot_says_what_the_chain_says() -> None:
    objects = MemoryObjects()
    ledger = _chain(objects, SNAPSHOT_EVERY + 3)
    (key,) = objects.keys("states/")
    read: list[str] = []

    class Reads(MemoryObjects):
        def get(self, key: str) -> bytes | None:
            read.append(key)
            return objects.get(key)

        def keys(self, prefix: str, *, after: str = "") -> list[str]:
            return objects.keys(prefix, after=after)

    assert state_to_json(Ledger(Reads(), run="two").load()) == state_to_json(ledger.load())
    assert len(read) == 5  # the snapshot, its manifest, and the three after it
    objects._keys.remove(key)
    assert state_to_json(Ledger(objects, run="two").load()) == state_to_json(ledger.load())


def test_a_snapshot_of_another_chain_is_not_believed() -> None:
    objects = MemoryObjects()
    ledger = _chain(objects, SNAPSHOT_EVERY)
    (key,) = objects.keys("states/")
    objects._objects[key] = objects._objects[key].replace(ledger.head.encode(), b"0" * 64)
    objects._objects[key] = objects._objects[key].replace(b'"remainder":"0/1"', b'"remainder":"7/1"')
    assert state_to_json(Ledger(objects, run="two").load()) == state_to_json(ledger.load())


def test_each_attempt_and_its_answer_is_known_to_every_process(objects: Objects) -> None:
    one, two = Ledger(objects, run="one"), Ledger(objects, run="two")
    other = replace(RECORD, id="1/1")
    name = one.put_attempt([RECORD, other], AT)
    two.put_attempt([RECORD], AT + HOUR)
    success = Answer(status=Status.SUCCESS, metering_record_id="abc")
    one.put_answer(name, {"1/0": success, "1/1": Answer(status=Status.UNPROCESSED)}, at=AT)
    found = two.attempts_of([RECORD, other])
    assert [attempt.answer for attempt in found["1/0"]] == [success, None]
    assert [attempt.answer for attempt in found["1/1"]] == [Answer(status=Status.UNPROCESSED)]
    assert one.attempts_of([replace(RECORD, id="2/0")]) == {"2/0": []}


def test_fails_when_another_stack_has_the_ledger(objects: Objects) -> None:
    begins = Claim(first_hour=AT, billed_from=AT + HOUR)

    def claim(**changed: str) -> Claim:
        said = {"stack": "one", "kind": "Concurrent", "joins": "", **changed}
        return Ledger(objects, run="r").claim(begins=begins, now=AT + HOUR, **said)  # type: ignore[arg-type]

    assert claim() == begins
    assert claim() == begins
    with pytest.raises(MarketplaceConstructsError, match=r"MP-LEDGER-02: .* got one of the stack 'one'"):
        claim(stack="two")
    with pytest.raises(MarketplaceConstructsError, match="for Concurrent agreements"):
        claim(kind="Legacy")
    assert claim(stack="two", joins="one") == begins


Deliver = Callable[[datetime, str, bytes], None]


@pytest.fixture(params=["memory", "directory", "s3"])
def log(request: pytest.FixtureRequest, aws: LocalAws, tmp_path: Path) -> tuple[LogFiles, Deliver]:
    if request.param == "memory":
        files = MemoryLogFiles()
        return files, lambda hour, name, content: files.add(hour, name, content, modified_at=datetime.now(UTC))
    if request.param == "directory":

        def write(hour: datetime, name: str, content: bytes) -> None:
            path = tmp_path / f"{hour:%Y/%m/%d/%H}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        return DirectoryLogFiles(tmp_path), write
    client = aws.client("s3")
    bucket = f"b{uuid.uuid4().hex}"
    client.create_bucket(Bucket=bucket)

    def deliver(hour: datetime, name: str, content: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"access/{hour:%Y/%m/%d/%H}/{name}", Body=content)

    return S3LogFiles(client, bucket, "access/"), deliver


def test_files_are_found_by_the_hour_in_which_they_arrived(log: tuple[LogFiles, Deliver], tmp_path: Path) -> None:
    files, deliver = log
    for hour, name in ((AT, "b"), (AT, "a"), (AT + HOUR, "c")):
        deliver(hour, name, name.encode() * 3)
    found = list(files.arrived_in(AT))
    assert [file.name.rpartition("/")[2] for file in found] == ["a", "b"]
    assert all(file.size == 3 and abs(datetime.now(UTC) - file.modified_at) < HOUR for file in found)
    files.fetch(found[1].name, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"bbb"
    assert not list(files.arrived_in(AT - HOUR))


def test_lines_that_cannot_be_read_are_kept_once(log: tuple[LogFiles, Deliver]) -> None:
    files, _ = log
    assert files.quarantine("2026/11/21/10/a", b"x\n")
    assert not files.quarantine("2026/11/21/10/a", b"x\n")
    assert files.quarantine("2026/11/21/10/b", b"x\n")


def test_the_meter_reads_usage_events_beside_lines(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, bucket = aws.client("s3"), f"b{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    monkeypatch.setattr(meter, "client", lambda _: s3)
    terms = Product.concurrent("abc123", dimensions=[Dimension.requests("calls")])
    settings = MeterSettings(
        product_code="abc123",
        agreement_kind=terms.agreement_kind,
        pricing_model=terms.pricing_model,
        metering=terms.metering,
        metering_region="us-east-1",
        dimensions="calls",
        sale="Sale",
        stack="Sale",
        joins="",
        facts_table="facts",
        plans_table="plans",
        tables_bucket="tables",
        ledger_bucket="ledger",
        log_bucket=bucket,
        log_prefix="access-log/",
        events_prefix="usage-events/",
        usage_events="seats,storage",
    )
    table = PlanTable(
        plan="retail@1",
        product="nouns",
        segment="all",
        channel="Marketplace",
        routes=(RouteAccess(method="GET", path="/a", is_allowed=True),),
        cells=(Cell(method="GET", path="/a", dimension="calls", state=LineState.BILLABLE, metric="requests"),),
        events=(EventMeter(event="seats", dimension="calls", policy="p@1", sid="Seats"),),
    )
    said = {"requestTimeEpoch": str(int(AT.timestamp() * 1000)), "httpMethod": "GET", "resourcePath": "/a"}
    line = dict.fromkeys(FIELDS, "-") | said | {"extendedRequestId": "x", "status": "200", "agreement": "agmt-1"}
    event = {
        "specversion": "1.0", "id": "1", "source": "/seats", "type": "seats", "subject": "agmt-1",
        "time": "2026-11-21T10:59:59Z", "data": {"value": "2.5"},
    }  # fmt: skip
    unreadable = json.dumps({"detail": event | {"data": {"value": 2.5}}}).encode()
    for name, lines in {
        "access-log/2026/11/21/10/a": [json.dumps(line).encode()],
        "usage-events/2026/11/21/10/b": [json.dumps({"detail": event}).encode(), unreadable],
    }.items():
        s3.put_object(Bucket=bucket, Key=name, Body=gzip.compress(b"\n".join(lines)))
    lives = [Life(agreement="agmt-1", owner="agmt-1", starts_at=AT, ends_at=AT + HOUR, plan="retail@1")]
    now = max(AT, datetime.now(UTC)) + HOUR
    found = meter.usage_log(settings).read(AT, now=now, lives=lives, tables={"retail@1": table}, since=AT)
    usage = found.usage[Series(agreement="agmt-1", dimension="calls")]
    assert usage.by_path == {"/a": 1, "event:seats": Fraction("2.5")}
    assert found.closed == ClosedHour(hour=AT, lines={"calls billable": 2}, quarantined=1, unjudged={})
    put_aside = s3.get_object(Bucket=bucket, Key="quarantine/usage-events/2026/11/21/10/b")["Body"].read()
    assert put_aside == unreadable + b"\n"
