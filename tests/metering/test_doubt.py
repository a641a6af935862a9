"""What CloudTrail shows settles a doubt only where it shows exactly our record, accepted."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from marketplace_constructs.domain.metering import Buyer, Record, Series
from marketplace_constructs.runtime.metering.doubt import CloudTrail, shown_accepted, windows

AT = datetime(2026, 11, 21, 10, 7, tzinfo=UTC)
ARN = "arn:aws:license-manager::111122223333:license:l-0a"
RECORD = Record(
    id="1/0",
    series=Series(agreement="agmt-1", dimension="calls"),
    buyer=Buyer(customer_aws_account_id="123456789012", license_arn=ARN, started_at=AT),
    timestamp=AT,
    quantity=Decimal("3.500000"),
)
USAGE = {
    "customerAWSAccountId": "123456789012",
    "licenseArn": ARN,
    "dimension": "calls",
    "timestamp": "Nov 21, 2026 10:07:00 AM",
    "quantityAsDecimal": "3.5",
}


def event(usage: Mapping[str, Any], status: str = "Success", **said: Any) -> dict[str, Any]:
    result = {"usageRecord": usage, "status": status, "meteringRecordId": "proof"}
    source = "metering-marketplace.amazonaws.com"
    return {"eventSource": source, "responseElements": {"results": [result]}, **said}


class Shown:
    def __init__(self, *events: Mapping[str, Any]) -> None:
        self._events = events

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        assert since < until
        return iter(self._events)


def found(*events: Mapping[str, Any], record: Record = RECORD) -> dict[str, str]:
    return shown_accepted([record], Shown(*events), product_code="code123", since=AT, until=AT + timedelta(hours=1))


@pytest.mark.parametrize(
    "time",
    [
        "Nov 21, 2026 10:07:00 AM",
        "Nov 21, 2026, 10:07:00 AM",
        "Nov 21, 2026, 10:07:00\u202fAM",
        "2026-11-21T10:07:00Z",
        AT.timestamp(),
        "1795255620",
    ],
)
def test_our_very_record_with_success_settles_it(time: object) -> None:
    assert AT.timestamp() == 1795255620
    assert found(event({**USAGE, "timestamp": time})) == {"1/0": "proof"}


@pytest.mark.parametrize(
    "shown",
    [
        event(USAGE, "DuplicateRecord"),
        event(USAGE, "CustomerNotSubscribed"),
        event({**USAGE, "quantityAsDecimal": "3.6"}),
        event({**USAGE, "timestamp": "Nov 21, 2026, 10:07:01 AM"}),
        event({**USAGE, "dimension": "data"}),
        event({**USAGE, "customerAWSAccountId": "444455556666"}),
        event({**USAGE, "licenseArn": f"{ARN}b"}),
        event({**USAGE, "timestamp": "yesterday"}),
        event({"dimension": "calls"}),
        event(USAGE, errorCode="ThrottlingException"),
        event(USAGE, eventSource="example.com"),
        event(USAGE, requestParameters={"productCode": "other456"}),
        {"eventSource": "metering-marketplace.amazonaws.com", "responseElements": None},
    ],
)
def test_anything_else_settles_nothing(shown: Mapping[str, Any]) -> None:
    assert found(shown) == {}


def test_a_legacy_record_is_known_by_its_customer() -> None:
    legacy = Record(
        id="1/1", series=RECORD.series, buyer=Buyer(customer_identifier="customer", started_at=AT), timestamp=AT,
        quantity=Decimal(3),
    )  # fmt: skip
    usage = {"customerIdentifier": "customer", "dimension": "calls", "timestamp": "2026-11-21T10:07:00Z", "quantity": 3}
    ours = {"productCode": "code123"}
    assert found(event(usage, requestParameters=ours), record=legacy) == {"1/1": "proof"}


def test_an_account_may_be_spelled_as_in_the_api_reference() -> None:
    usage = {**USAGE, "customerAWSAccountID": USAGE["customerAWSAccountId"]}
    del usage["customerAWSAccountId"]
    assert found(event(usage)) == {"1/0": "proof"}


def test_the_event_history_is_read_page_by_page() -> None:
    client = boto3.client(
        "cloudtrail", region_name="us-east-1", aws_access_key_id="example", aws_secret_access_key="example"
    )
    asked = {
        "LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": "BatchMeterUsage"}],
        "StartTime": AT,
        "EndTime": AT + timedelta(hours=1),
    }
    with Stubber(client) as stub:
        for number, token in enumerate([{}, {"NextToken": "next"}]):
            answer = {
                "Events": [{"CloudTrailEvent": json.dumps({"n": number})}],
                **({} if token else {"NextToken": "next"}),
            }
            stub.add_response("lookup_events", answer, {**asked, **token})
        slept: list[float] = []
        trail = CloudTrail(client, sleep=slept.append)
        assert list(trail.events(AT, AT + timedelta(hours=1))) == [{"n": 0}, {"n": 1}]
        assert slept == [0.5, 0.5]


def test_a_moment_is_looked_for_around_itself_and_moments_that_are_near_together() -> None:
    minute = timedelta(minutes=1)
    sent = [AT, AT - 3 * timedelta(hours=1), AT - 9 * minute, AT - 20 * minute]
    assert list(windows(sent, AT + minute, later=5 * minute)) == [
        (AT - 14 * minute, AT + minute),
        (AT - 25 * minute, AT - 15 * minute),
        (AT - 185 * minute, AT - 175 * minute),
    ]
    assert list(windows([AT, AT - 50 * minute], AT + minute, later=60 * minute)) == [(AT - 55 * minute, AT + minute)]
    assert list(windows([], AT, later=minute)) == []
