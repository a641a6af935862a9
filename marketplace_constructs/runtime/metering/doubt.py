"""What CloudTrail shows of usage records that AWS may or may not hold."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Protocol

from marketplace_constructs.domain.agreements import license_id
from marketplace_constructs.domain.metering import Record, Status

EVENT_NAME: Final = "BatchMeterUsage"
EVENT_SOURCE: Final = "metering-marketplace.amazonaws.com"
"""Source: AWS Marketplace seller guide, logging metering calls with CloudTrail (read 2026-11-21)."""
_MOST_EVENTS: Final = 2000
_PAGE_SECONDS: Final = 0.5
_SKEW: Final = timedelta(minutes=5)
"""How far the clocks of a call and of CloudTrail may differ: AWS refuses what was signed longer ago, or later.

Source: IAM user guide, Signature Version 4 for API requests: within five minutes (read 2026-11-28).
"""
LOOKED_FOR: Final = (_SKEW, timedelta(hours=1))
"""How long after it was noted an attempt is looked for, first and then.

A process may stand still before it calls; but a seller with many agreements makes more calls in an hour than can be
read back.
"""
_IN_WORDS: Final = re.compile(r"([A-Z][a-z]{2} \d{1,2}, \d{4}),?\s+(\d{1,2}:\d\d:\d\d)\s+([AP]M)")


class Trail(Protocol):
    """The event history of the account in the metering Region."""

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """Every BatchMeterUsage call of the time, as CloudTrail's JSON."""
        ...


class CloudTrail:
    """Event history over LookupEvents; calls are shown a quarter of an hour later.

    Source: botocore 1.44.5, cloudtrail 2013-11-01, LookupEvents: 50 a page, 2 pages a second, of 90 days
    (read 2026-11-22).

    Args:
        client: Of the Region.
        most: How many events of a time are read, the last ones; None for all.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self, client: Any, *, most: int | None = _MOST_EVENTS, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client: Final = client
        self._most: Final = most
        self._sleep: Final = sleep

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """Every BatchMeterUsage call of the time."""
        pages = self._client.get_paginator("lookup_events").paginate(
            LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": EVENT_NAME}],
            StartTime=since,
            EndTime=until,
            PaginationConfig={"MaxItems": self._most},
        )
        for page in pages:
            for event in page["Events"]:
                yield json.loads(event["CloudTrailEvent"])
            self._sleep(_PAGE_SECONDS)


def windows(sent: Iterable[datetime], now: datetime, *, later: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """When CloudTrail may have noted calls of these moments, the latest first; what overlaps is one window.

    Args:
        sent: When the attempts were noted.
        now: The present moment.
        later: How long after that a call may have been made.
    """
    latest: tuple[datetime, datetime] | None = None
    for moment in sorted(sent, reverse=True):
        since, until = moment - _SKEW, min(moment + later, now)
        if latest is not None and until >= latest[0]:
            latest = since, latest[1]
            continue
        if latest is not None:
            yield latest
        latest = since, until
    if latest is not None:
        yield latest


def shown_accepted(
    records: Iterable[Record], trail: Trail, *, product_code: str, since: datetime, until: datetime
) -> dict[str, str]:
    """The records of which a call shows that AWS accepted exactly them, with AWS's proof.

    Anything else settles nothing: CloudTrail may be late, and the same hour with another quantity is somebody else's.

    Args:
        records: Those in doubt.
        trail: Where the calls are shown.
        product_code: Theirs. A customer of two legacy products has one identifier, and both may meter one dimension.
        since: The first moment that is looked at.
        until: The last one.
    """
    wanted = {_identity(record): record.id for record in records}
    if not wanted:
        return {}
    return {
        wanted[shown.identity]: shown.metering_record_id
        for shown in accepted(trail, product_code=product_code, since=since, until=until)
        if shown.identity in wanted
    }


_Identity = tuple[str, str, str, int, Decimal]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A usage record that AWS accepted, as CloudTrail shows it.

    Args:
        customer: The customer identifier; the account where there is none.
        license: The licence's ``l-…``; empty for legacy products.
        product_code: As it was sent; None where none was.
    """

    customer: str
    license: str
    dimension: str
    timestamp: datetime
    quantity: Decimal
    metering_record_id: str
    product_code: str | None

    @property
    def identity(self) -> _Identity:
        """What it is known by; records are stamped to the second."""
        return (
            self.customer,
            self.license,
            self.dimension,
            int(self.timestamp.timestamp()),
            self.quantity.normalize(),
        )


def accepted(trail: Trail, *, product_code: str, since: datetime, until: datetime) -> Iterator[Shown]:
    """The records that AWS accepted, of one product as far as the calls say so; one may come more than once."""
    for event in trail.events(since, until):
        code = (event.get("requestParameters") or {}).get("productCode")
        if event.get("eventSource") != EVENT_SOURCE or event.get("errorCode") or code not in {None, product_code}:
            continue
        for result in (event.get("responseElements") or {}).get("results") or ():
            if result.get("status") == Status.SUCCESS and result.get("meteringRecordId"):
                shown = _shown(result.get("usageRecord") or {}, str(result["meteringRecordId"]), code)
                if shown is not None:
                    yield shown


def _identity(record: Record) -> _Identity:
    buyer = record.buyer
    return (
        buyer.customer_identifier or buyer.customer_aws_account_id,
        license_id(buyer.license_arn),
        record.series.dimension,
        int(record.timestamp.timestamp()),
        record.quantity.normalize(),
    )


def _shown(usage: Mapping[str, Any], metering_record_id: str, product_code: str | None) -> Shown | None:
    """A usage record of an event; None where it cannot be read.

    The API reference's example of an event has ``customerAWSAccountID``, and AWS's scripts that read events have
    ``customerAWSAccountId`` (both read 2026-11-28): letters of either case are the same here.
    """
    said = {name.lower(): value for name, value in usage.items()}
    try:
        return Shown(
            customer=str(said.get("customeridentifier") or said.get("customerawsaccountid") or ""),
            license=license_id(str(said.get("licensearn") or "")),
            dimension=str(said["dimension"]),
            timestamp=_moment(said["timestamp"]),
            quantity=Decimal(str(said.get("quantityasdecimal", said.get("quantity", 0)))),
            metering_record_id=metering_record_id,
            product_code=product_code,
        )
    except (KeyError, ValueError, InvalidOperation):
        return None


def _moment(shown: object) -> datetime:
    """CloudTrail writes times in several ways.

    ``Apr 19, 2018 4:32:50 PM`` stands in the API reference's example (read 2026-11-28). Java writes the same with a
    second comma and a narrow space since its version 9 and 20; these, ISO 8601 and seconds since 1970 are [UNCONF].
    """
    text = str(shown)
    if text.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(text), UTC)
    if in_words := _IN_WORDS.fullmatch(text):
        return datetime.strptime(" ".join(in_words.groups()), "%b %d, %Y %I:%M:%S %p").replace(tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
