"""What API Gateway's own meter reported, beside what the log counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from marketplace_constructs.domain.metering import ClosedHour, Series, Usage
from marketplace_constructs.runtime.metering.native import compare, reported
from marketplace_constructs.runtime.metering.totals import HourUsage

HOUR = timedelta(hours=1)
FIRST = datetime(2026, 11, 21, 10, tzinfo=UTC)
NOW = FIRST + 40 * HOUR


def event(
    proof: str,
    hours: int = 0,
    quantity: int = 3,
    *,
    dimension: str = "apigateway",
    status: str = "Success",
    **said: Any,
) -> dict[str, Any]:
    at = FIRST + hours * HOUR + timedelta(minutes=59)
    usage = {
        "customerIdentifier": "customer",
        "dimension": dimension,
        "timestamp": f"{at:%b %d, %Y %I:%M:%S %p}",
        "quantity": quantity,
    }
    return {
        "eventSource": "metering-marketplace.amazonaws.com",
        "requestParameters": {"productCode": "abc123"},
        "responseElements": {"results": [{"usageRecord": usage, "status": status, "meteringRecordId": proof}]},
        **said,
    }


class Shown:
    def __init__(self, *events: Mapping[str, Any]) -> None:
        self._events = events
        self.asked: list[tuple[datetime, datetime]] = []

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        self.asked.append((since, until))
        return iter(self._events)


def found(*events: Mapping[str, Any], hours: int = 2) -> list[str]:
    closed = [FIRST + number * HOUR for number in range(hours)]
    shown = reported(Shown(*events), closed, product_code="abc123", dimension="apigateway", now=NOW)
    return [one.metering_record_id for one in shown]


def test_a_record_is_reported_once_however_often_it_was_sent() -> None:
    assert found(event("a"), event("b", hours=1), event("a")) == ["a", "b"]


def test_what_is_of_something_else_is_not_reported() -> None:
    others = [
        event("refused", status="DuplicateRecord"),
        event("failed", errorCode="ThrottlingException"),
        event("dimension", dimension="calls"),
        event("product", requestParameters={"productCode": "other"}),
        event("nobody", requestParameters={}),
        event("hour", hours=2),
    ]
    assert found(*others) == []


def test_cloudtrail_is_asked_until_aws_takes_no_more_of_the_last_hour() -> None:
    trail = Shown()
    assert not list(reported(trail, [FIRST, FIRST + HOUR], product_code="abc123", dimension="apigateway", now=NOW))
    assert not list(reported(trail, [], product_code="abc123", dimension="apigateway", now=NOW))
    assert trail.asked == [(FIRST, FIRST + 26 * HOUR)]


def test_agreements_of_one_customer_are_compared_together_and_hours_that_moved_are_no_difference() -> None:
    def hour(number: int, **calls: int) -> HourUsage:
        at = FIRST + number * HOUR
        usage = {
            Series(agreement=agreement, dimension="apigateway"): Usage(
                quantity=Fraction(quantity), earliest=at, by_path={"/v1": Fraction(quantity)}
            )
            for agreement, quantity in calls.items()
        }
        return HourUsage(closed=ClosedHour(hour=at), usage=usage)

    trail = Shown(event("a", quantity=2), event("b", hours=1, quantity=4))
    hours = [hour(0, former=3), hour(1, present=3, other=1)]
    records = reported(
        trail, [one.closed.hour for one in hours], product_code="abc123", dimension="apigateway", now=NOW
    )
    customers = {"former": "customer", "present": "customer", "other": "stranger"}
    ours, theirs = compare(hours, records, customers=customers, dimension="apigateway")

    assert (ours.customer, ours.log, ours.native, ours.by_path) == ("customer", 6, 6, {"/v1": 6})
    assert (ours.is_different, ours.different_hours) == (False, [FIRST, FIRST + HOUR])
    assert (theirs.customer, theirs.is_different, theirs.different_hours) == ("stranger", True, [FIRST + HOUR])
