"""Sending: what goes over the wire, and what each answer, or none, is taken for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from protected import Weakness

from marketplace_constructs.domain.metering import Allocation, Buyer, Record, Series, Status
from marketplace_constructs.domain.metering_rules import MeteringRules
from marketplace_constructs.domain.product import Dimension, Metering, Product
from marketplace_constructs.rehearsal.marketplace import Marketplace, MarketplaceServer, SettableClock
from marketplace_constructs.runtime.metering.ledger import Answer, Ledger
from marketplace_constructs.runtime.metering.objects import MemoryObjects
from marketplace_constructs.runtime.metering.send import NO_RETRIES, Sender, usage_record

AT = datetime(2026, 11, 21, 10, 7, tzinfo=UTC)
NOW = AT + timedelta(hours=1)
RULES = MeteringRules()
BUYER = Buyer(
    customer_aws_account_id="123456789012",
    license_arn="arn:aws:license-manager::111122223333:license:l-0123456789abcdef",
    started_at=AT,
)
RECORD = Record(
    id="1/0",
    series=Series(agreement="agmt-1", dimension="calls"),
    buyer=BUYER,
    timestamp=AT,
    quantity=Decimal("1.500000"),
    allocations=(Allocation(path="/v1/nouns", quantity=Decimal("1.500000")),),
)


def records(count: int) -> list[Record]:
    return [
        replace(RECORD, id=f"1/{n}", buyer=replace(BUYER, customer_aws_account_id=f"{n:012}"), allocations=())
        for n in range(count)
    ]


class Aws:
    """Answers as it is told to, and keeps what was asked."""

    def __init__(self, *answers: Callable[[Mapping[str, Any]], Mapping[str, Any]] | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Mapping[str, Any]] = []

    def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else success
        if isinstance(answer, Exception):
            raise answer
        return answer(request)


def success(request: Mapping[str, Any]) -> Mapping[str, Any]:
    results = [
        {"UsageRecord": one, "Status": "Success", "MeteringRecordId": f"id-{one.get('CustomerAWSAccountId')}"}
        for one in request["UsageRecords"]
    ]
    return {"Results": results[::-1], "UnprocessedRecords": []}


def error(code: str, status: int = 400) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "BatchMeterUsage")


def sent(aws: Aws, batch: list[Record], **changed: Any) -> dict[str, list[Answer | None]]:
    ledger = Ledger(MemoryObjects(), run="one")
    given = {"product_code": "abc123", "rules": RULES, "clock": lambda: NOW, "sleep": lambda _: None, **changed}
    Sender(aws, ledger, **given).send(batch)
    return {r: [attempt.answer for attempt in attempts] for r, attempts in ledger.attempts_of(batch).items()}


def statuses(aws: Aws, batch: list[Record]) -> dict[str, list[Status | None]]:
    return {r: [answer.status if answer else None for answer in found] for r, found in sent(aws, batch).items()}


@pytest.fixture
def market() -> Iterator[MarketplaceServer]:
    base = AT
    with MarketplaceServer(Marketplace(SettableClock(lambda: base))) as server:
        yield server


@pytest.mark.parametrize("is_legacy", [True, False])
@pytest.mark.parametrize("decimals", [0, 6])
def test_aws_takes_what_is_sent_in_either_identity(
    market: MarketplaceServer, *, is_legacy: bool, decimals: int
) -> None:
    dimensions = [Dimension.requests("calls")]
    product = (
        Product.legacy("abc123", metering=Metering.PIPELINE, dimensions=dimensions)
        if is_legacy
        else Product.concurrent("abc123", dimensions=dimensions)
    )
    marketplace = market.marketplace
    agreement = marketplace.subscribe(marketplace.add_buyer(), marketplace.add_product(product))
    buyer = (
        Buyer(customer_identifier=agreement.buyer.customer_identifier, started_at=AT)
        if is_legacy
        else replace(BUYER, customer_aws_account_id=agreement.buyer.account_id, license_arn=agreement.license_arn)
    )
    quantity = Decimal("3.000000") if decimals else Decimal(3)
    record = replace(
        RECORD, buyer=buyer, quantity=quantity, allocations=(Allocation(path="/v1/:id", quantity=quantity),)
    )
    marketplace.clock.advance(timedelta(hours=1))
    client = boto3.client(
        "meteringmarketplace",
        region_name="us-east-1",
        endpoint_url=market.url,
        aws_access_key_id="111122223333",
        aws_secret_access_key="example",
        config=NO_RETRIES,
    )
    answers = sent(client, [record], rules=MeteringRules(decimals=decimals))  # type: ignore[arg-type]
    (accepted,) = marketplace.accepted_records
    assert answers == {"1/0": [Answer(status=Status.SUCCESS, metering_record_id=accepted.metering_record_id)]}
    assert (accepted.quantity, accepted.timestamp, accepted.agreement_id) == (3, AT, agreement.id)
    assert [dict(one.tags) for one in accepted.allocations] == [{"path": "/v1/:id"}]
    assert not marketplace.violations


def test_a_licence_is_metered_without_the_product_code() -> None:
    aws = Aws()
    sent(aws, [RECORD])
    assert "ProductCode" not in aws.requests[0]
    sent(aws, [replace(RECORD, buyer=Buyer(customer_identifier="customer", started_at=AT))])
    assert aws.requests[1]["ProductCode"] == "abc123"


@pytest.mark.parametrize(
    ("quantity", "decimals", "expected"), [("1.500000", 6, "1.5"), ("0.000000", 6, "0"), ("7", 0, 7)]
)
def test_a_quantity_is_whole_or_decimal(quantity: str, decimals: int, expected: object) -> None:
    request = usage_record(
        replace(RECORD, quantity=Decimal(quantity), allocations=()), MeteringRules(decimals=decimals)
    )
    assert request["QuantityAsDecimal" if decimals else "Quantity"] == expected
    assert "UsageAllocations" not in request


@pytest.mark.protects(Weakness.BATCH_NOT_SPLIT)
def test_sixty_records_go_in_three_requests() -> None:
    aws = Aws()
    found = statuses(aws, records(60))
    assert [len(request["UsageRecords"]) for request in aws.requests] == [25, 25, 10]
    assert set(map(tuple, found.values())) == {(Status.SUCCESS,)}


@pytest.mark.protects(Weakness.BATCH_NOT_SPLIT)
def test_a_request_stays_below_a_megabyte() -> None:
    many = tuple(Allocation(path=f"/{n:0255}", quantity=Decimal(1)) for n in range(2_499))
    aws = Aws()
    sent(aws, [replace(one, quantity=Decimal(2_499), allocations=many) for one in records(3)])
    assert [len(request["UsageRecords"]) for request in aws.requests] == [1, 1, 1]


@pytest.mark.protects(Weakness.UNPROCESSED_IS_DONE)
@pytest.mark.protects(Weakness.UNPROCESSED_MISREAD)
def test_unprocessed_records_are_sent_again_unchanged_and_alone() -> None:
    def half(request: Mapping[str, Any]) -> Mapping[str, Any]:
        taken = success({"UsageRecords": request["UsageRecords"][:1]})
        return {**taken, "UnprocessedRecords": request["UsageRecords"][1:]}

    aws = Aws(half)
    found = statuses(aws, records(3))
    assert found == {
        "1/0": [Status.SUCCESS],
        "1/1": [Status.UNPROCESSED, Status.SUCCESS],
        "1/2": [Status.UNPROCESSED, Status.SUCCESS],
    }
    assert aws.requests[1]["UsageRecords"] == aws.requests[0]["UsageRecords"][1:]


@pytest.mark.protects(Weakness.UNPROCESSED_IS_DONE)
def test_a_record_that_no_answer_names_may_have_been_taken() -> None:
    assert statuses(Aws(lambda _: {"Results": [], "UnprocessedRecords": []}), [RECORD]) == {"1/0": [Status.UNKNOWN]}


@pytest.mark.protects(Weakness.ANYTHING_IS_SUCCESS)
@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"Status": "CustomerNotSubscribed"}, Status.CUSTOMER_NOT_SUBSCRIBED),
        ({"Status": "DuplicateRecord"}, Status.DUPLICATE_RECORD),
        ({"Status": "Success"}, Status.UNKNOWN),
        ({"Status": "Anything"}, Status.UNKNOWN),
        ({"MeteringRecordId": "id"}, Status.UNKNOWN),
    ],
)
def test_nothing_but_success_with_its_proof_is_success(result: Mapping[str, str], expected: Status) -> None:
    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"Results": [{"UsageRecord": request["UsageRecords"][0], **result}]}

    assert statuses(Aws(answer), [RECORD]) == {"1/0": [expected]}


@pytest.mark.protects(Weakness.ONE_FAILS_ALL)
def test_one_bad_record_fails_alone() -> None:
    class Picky(Aws):
        def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
            self.requests.append(request)
            if any(one["CustomerAWSAccountId"] == f"{17:012}" for one in request["UsageRecords"]):
                raise error("InvalidLicenseException")
            return success(request)

    aws = Picky()
    found = statuses(aws, records(25))
    assert found["1/17"][-1] is Status.REFUSED
    assert all(answers[-1] is Status.SUCCESS for record, answers in found.items() if record != "1/17")
    assert len(aws.requests) <= 11


@pytest.mark.protects(Weakness.FAILED_CALL_DROPS_USAGE)
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (error("ThrottlingException"), Status.UNPROCESSED),
        (error("InvalidProductCodeException"), Status.UNPROCESSED),
        (EndpointConnectionError(endpoint_url="https://example.com"), Status.UNPROCESSED),
    ],
)
def test_what_was_certainly_not_recorded_is_sent_again(failure: Exception, expected: Status) -> None:
    assert statuses(Aws(failure), [RECORD]) == {"1/0": [expected, Status.SUCCESS]}


@pytest.mark.parametrize(
    "failure", [error("InternalServiceErrorException", 500), ReadTimeoutError(endpoint_url="https://example.com")]
)
def test_what_may_have_been_recorded_is_not_known(failure: Exception) -> None:
    assert statuses(Aws(failure), [RECORD]) == {"1/0": [Status.UNKNOWN]}


def test_calls_that_go_on_failing_are_left_to_the_next_run_after_longer_and_longer_pauses() -> None:
    pauses: list[float] = []
    aws = Aws(*[error("ThrottlingException")] * 50)
    sent(aws, records(400), sleep=pauses.append, monotonic=lambda: 0.0)
    assert len(aws.requests) == 6
    assert pauses[-5:] == [0.2, 0.4, 0.8, 1.6, 3.2]


@pytest.mark.parametrize("code", ["AccessDeniedException", "DisabledApiException"])
def test_after_a_denial_nothing_more_is_asked_and_everything_is_left_as_it_is(code: str) -> None:
    aws, pauses = Aws(error(code)), list[float]()
    ledger = Ledger(MemoryObjects(), run="one")
    sender = Sender(aws, ledger, product_code="abc123", rules=RULES, clock=lambda: NOW, sleep=pauses.append)
    batch = records(60)
    assert not sender.send(batch)
    assert not sender.send(batch)
    assert (len(aws.requests), pauses) == (1, [])
    answers = {one.answer.status for attempts in ledger.attempts_of(batch).values() for one in attempts if one.answer}
    assert answers == {Status.UNPROCESSED}


def test_no_more_than_ten_calls_a_second() -> None:
    now, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    sent(Aws(), records(75), sleep=sleep, monotonic=lambda: now[0])
    assert pauses == pytest.approx([0.1, 0.1])


def test_what_is_too_old_is_not_sent() -> None:
    aws = Aws()
    sent(aws, [RECORD], clock=lambda: AT + timedelta(hours=23, minutes=50))
    assert not aws.requests


def test_an_attempt_is_known_before_the_call() -> None:
    objects = MemoryObjects()
    ledger = Ledger(objects, run="one")

    def die(_: Mapping[str, Any]) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    sender = Sender(Aws(die), ledger, product_code="abc123", rules=RULES, clock=lambda: NOW)
    with pytest.raises(KeyboardInterrupt):
        sender.send([RECORD])
    (attempt,) = Ledger(objects, run="two").attempts_of([RECORD])["1/0"]
    assert attempt.answer is None


def test_the_client_makes_no_attempts_of_its_own(market: MarketplaceServer) -> None:
    from marketplace_constructs.rehearsal.marketplace import FaultKind  # noqa: PLC0415

    market.marketplace.faults.add("BatchMeterUsage", FaultKind.LOST_CALL, times=5)
    client = boto3.client(
        "meteringmarketplace",
        region_name="us-east-1",
        endpoint_url=market.url,
        aws_access_key_id="111122223333",
        aws_secret_access_key="example",
        config=NO_RETRIES,
    )
    assert sent(client, [RECORD]) == {"1/0": [Answer(status=Status.UNKNOWN)]}  # type: ignore[arg-type]
    assert market.marketplace.faults.pending[0].times == 4
