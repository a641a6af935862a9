"""The scenario of records in doubt: each is billed once, or a person is asked."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from marketplace_constructs.domain.metering import LossReason, Manifest, Outcome, Record, Settlement
from marketplace_constructs.domain.plan_versions import next_hour
from marketplace_constructs.rehearsal.bill import accepted, plain, totals
from marketplace_constructs.rehearsal.journey import Promises, require
from marketplace_constructs.rehearsal.marketplace import FaultKind, IdenticalResend
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, log_messages, open_to, register
from marketplace_constructs.runtime.metering.history import History
from marketplace_constructs.runtime.metering.ledger import Ledger, ledger_prefix
from marketplace_constructs.runtime.metering.meter import rules_of
from marketplace_constructs.runtime.metering.objects import S3Objects
from marketplace_constructs.runtime.metering.send import usage_record

_EVERY_CALL: Final = 1000
_METRIC: Final = "RecordsInDoubt"


def doubt(stage: Stage, promises: Promises) -> None:
    """Three buyers whose records are in doubt, and who is billed what in the end."""
    sale = stage.sale(SaleKind.METERED)
    # What is due already is no part of it, nor are the buyers who call no more.
    stage.run_meter(sale)
    with stage.functions_told(sale, "SENDS_ZERO", "0"):
        _play(stage, promises, sale)


def _play(stage: Stage, promises: Promises, sale: Sale) -> None:
    assert sale.pipeline is not None
    rules = rules_of(sale.pipeline.settings)
    with promises.promise("three buyers call; AWS Marketplace leaves every record unprocessed, and all stay open"):
        buyers = [_buyer(stage, sale) for _ in range(3)]
        with faulty(stage, FaultKind.UNPROCESSED):
            _close_hour(stage, sale)
        records = honoured, twin, ours = [_record_of(stage, sale, buyer) for buyer in buyers]
        _require_fates(stage, sale, records, Outcome.OPEN)
    with promises.promise("somebody else sends one of them as it is, and another one with a quantity of their own"):
        theirs = replace(ours, quantity=ours.quantity + 1)
        request = {"UsageRecords": [usage_record(replace(one, allocations=()), rules) for one in (twin, theirs)]}
        answer = stage.market.call("BatchMeterUsage", request)
        require(all(one["Status"] == "Success" for one in answer["Results"]), f"it is told {answer['Results']}")
    with promises.promise(
        "the meter's own answers are lost, and then all are duplicates: in doubt, and not sent again"
    ):
        with doubtful(stage):
            with faulty(stage, FaultKind.LOST_REPLY):
                stage.run_meter(sale)
            _require_fates(stage, sale, records, Outcome.OPEN)
            stage.run_meter(sale)
        _require_fates(stage, sale, records, Outcome.IN_DOUBT)
    with promises.promise("an alarm goes off") as notes:
        notes.append(_require_alarmed(stage, sale, at_least=3))
    with promises.promise("an hour later CloudTrail has settled those of which it shows the very record, accepted"):
        _close_hour(stage, sale)
        _require_fates(stage, sale, [honoured, twin], Outcome.ACCEPTED)
        history = ledger_of(stage, sale)
        held = {record.metering_record_id: record for record in stage.market.accepted_records}
        for record in (honoured, twin):
            proof = held.get(history.fate(record.id).metering_record_id)
            require(
                proof is not None and (proof.timestamp, proof.quantity) == (record.timestamp, record.quantity),
                f"what proves record {record.id} is {proof}",
            )
    with promises.promise("the one with another quantity stays in doubt, and its alarm on"):
        _require_fates(stage, sale, [ours], Outcome.IN_DOUBT)
        _require_alarmed(stage, sale, at_least=1)
    with promises.promise(
        "when somebody has released it as lost the alarm is off, and nobody is billed twice"
    ) as notes:
        _release_as_lost(stage, sale, ours)
        stage.run_meter(sale)
        _require_fates(stage, sale, [ours], Outcome.LOST)
        require(_told(stage, sale)[0] == 0, "the alarm stays on")
        due = {(one.series.agreement, one.series.dimension): one.quantity for one in (honoured, twin, theirs)}
        agreements = {agreement for agreement, _ in due}
        billed = totals(accepted(stage, agreements), agreements)
        require({place: billed.get(place) for place in due} == due, f"{due} are due and {billed} are billed")
        notes += [f"{plain(quantity)} {dimension} to {agreement}" for (agreement, dimension), quantity in due.items()]


@contextmanager
def faulty(stage: Stage, kind: FaultKind) -> Iterator[None]:
    """Nothing that is sent meanwhile is answered as it should be."""
    stage.market.faults.add("BatchMeterUsage", kind, times=_EVERY_CALL)
    try:
        yield
    finally:
        stage.market.faults.clear()


@contextmanager
def doubtful(stage: Stage) -> Iterator[None]:
    """A record that is sent again is called a duplicate, as AWS's metering skill says, so that nobody can know."""
    before = stage.market.settings
    stage.market.settings = replace(before, identical_resend=IdenticalResend.DUPLICATE_RECORD)
    try:
        yield
    finally:
        stage.market.settings = before


def _close_hour(stage: Stage, sale: Sale) -> None:
    """Run the meter when the present hour is over for it."""
    assert sale.pipeline is not None
    now = stage.clock.now()
    stage.clock.advance(next_hour(now) + timedelta(minutes=sale.pipeline.settings.watermark_minutes + 1) - now)
    stage.run_meter(sale)


def ledger_of(stage: Stage, sale: Sale) -> History:
    """All that a sale's ledger says."""
    return History.read(ledger_objects(stage, sale))


def ledger_objects(stage: Stage, sale: Sale) -> S3Objects:
    """The objects of a sale's ledger."""
    assert sale.pipeline is not None
    settings = sale.pipeline.settings
    prefix = ledger_prefix(settings.product_code, settings.metering_region)
    native = "native/" if sale.terms.is_native else ""
    return S3Objects(stage.aws.client("s3"), settings.ledger_bucket, f"{prefix}{native}")


def _buyer(stage: Stage, sale: Sale) -> Visitor:
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buyer.subscribe()
    register(buyer)
    open_to(buyer)
    for call in stage.example_calls:
        buyer.make(call, buyer.key)
    return buyer


def _record_of(stage: Stage, sale: Sale, buyer: Visitor) -> Record:
    """The one record that bills a buyer's calls."""
    assert buyer.agreement is not None
    found = [
        record
        for record in ledger_of(stage, sale).records.values()
        if record.series.agreement == buyer.agreement.id and record.quantity
    ]
    require(bool(found), "the calls count nothing, which shows nothing")
    return found[0]


def _require_fates(stage: Stage, sale: Sale, records: Iterable[Record], outcome: Outcome) -> None:
    history = ledger_of(stage, sale)
    found = {record.id: history.fate(record.id).outcome for record in records}
    require(set(found.values()) == {outcome}, f"records are {found}")


def _require_alarmed(stage: Stage, sale: Sale, *, at_least: int) -> str:
    """The last run of the meter told a number that the deployed alarm goes off at."""
    number, dimensions = _told(stage, sale)
    require(number >= at_least, f"the meter tells of {number:g} records in doubt")
    pages = stage.aws.client("cloudwatch").get_paginator("describe_alarms").paginate()
    thresholds = [
        alarm["Threshold"]
        for page in pages
        for alarm in page["MetricAlarms"]
        if alarm.get("MetricName") == _METRIC
        and {one["Name"]: one["Value"] for one in alarm["Dimensions"]} == dimensions
    ]
    require(thresholds != [] and number >= thresholds[0], f"of the alarms on it, {thresholds}, none goes off")
    return f"{number:g} records, {', '.join(f'{name} {value}' for name, value in sorted(dimensions.items()))}"


def _told(stage: Stage, sale: Sale) -> tuple[float, Mapping[str, str]]:
    """What the meter said last of the records in doubt, as CloudWatch makes a metric of it."""
    assert sale.pipeline is not None
    found = stage.aws.client("lambda").get_function_configuration(FunctionName=sale.pipeline.function)
    last: dict[str, Any] = {}
    for message in log_messages(stage.aws.client("logs"), found["LoggingConfig"]["LogGroup"]):
        if f'"{_METRIC}"' in message:
            last = json.loads(message)
    require(bool(last), "the meter tells of no records in doubt")
    (metrics,) = last["_aws"]["CloudWatchMetrics"]
    return max(last[_METRIC]), {name: str(last[name]) for name in metrics["Dimensions"][0]}


def _release_as_lost(stage: Stage, sale: Sale, record: Record) -> None:
    """As ``sellable meter release`` does."""
    ledger = Ledger(ledger_objects(stage, sale), run=uuid.uuid4().hex)
    state = ledger.load()
    released = Settlement(record=record.id, outcome=Outcome.LOST, reason=LossReason.RELEASED)
    manifest = Manifest(
        sequence=state.sequence + 1, previous=ledger.head, written_at=stage.clock.now(), settlements=(released,)
    )
    require(ledger.append(manifest), "somebody else wrote the ledger at the same time")
