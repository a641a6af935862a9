"""What CloudTrail shows of usage records that AWS may or may not hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Protocol

from marketplace_constructs.domain.agreements import license_id
from marketplace_constructs.domain.metering import Record, Status

EVENT_NAME: Final = "BatchMeterUsage"
EVENT_SOURCE: Final = "metering-marketplace.amazonaws.com"
"""Source: AWS Marketplace seller guide, logging metering calls with CloudTrail (read 2026-11-21)."""
_MAX_PAGES: Final = 40


class Trail(Protocol):
    """The event history of the account in the metering Region."""

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """Every BatchMeterUsage call of the time, as CloudTrail's JSON."""
        ...


class CloudTrail:
    """Event history over LookupEvents, the last 2,000 events of the time; they are shown a quarter of an hour later.

    Source: botocore 1.44.5, cloudtrail 2013-11-01, LookupEvents: 50 a page, 2 pages a second, of 90 days
    (read 2026-11-22).
    """

    def __init__(self, client: Any) -> None:
        self._client: Final = client

    def events(self, since: datetime, until: datetime) -> Iterator[Mapping[str, Any]]:
        """Every BatchMeterUsage call of the time."""
        pages = self._client.get_paginator("lookup_events").paginate(
            LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": EVENT_NAME}],
            StartTime=since,
            EndTime=until,
            PaginationConfig={"MaxItems": 50 * _MAX_PAGES},
        )
        for page in pages:
            for event in page["Events"]:
                yield json.loads(event["CloudTrailEvent"])


def shown_accepted(records: Iterable[Record], trail: Trail, *, since: datetime, until: datetime) -> dict[str, str]:
    """The records of which a call shows that AWS accepted exactly them, with AWS's proof.

    Anything else settles nothing: CloudTrail may be late, and the same hour with another quantity is somebody else's.

    Args:
        records: Those in doubt.
        trail: Where the calls are shown.
        since: When the first of them may have been sent.
        until: The present moment.
    """
    wanted = {_identity(record): record.id for record in records}
    found: dict[str, str] = {}
    if not wanted:
        return found
    for event in trail.events(since, until):
        if event.get("eventSource") != EVENT_SOURCE or event.get("errorCode"):
            continue
        for result in (event.get("responseElements") or {}).get("results") or ():
            shown = _shown(result.get("usageRecord") or {})
            record = wanted.get(shown) if shown else None
            if record is not None and result.get("status") == Status.SUCCESS and result.get("meteringRecordId"):
                found[record] = str(result["meteringRecordId"])
    return found


_Identity = tuple[str, str, str, int, Decimal]


def _identity(record: Record) -> _Identity:
    buyer = record.buyer
    return (
        buyer.customer_identifier or buyer.customer_aws_account_id,
        license_id(buyer.license_arn),
        record.series.dimension,
        int(record.timestamp.timestamp()),
        record.quantity.normalize(),
    )


def _shown(usage: Mapping[str, Any]) -> _Identity | None:
    """A usage record of an event; None where it cannot be read."""
    try:
        return (
            str(usage.get("customerIdentifier") or usage.get("customerAWSAccountId") or ""),
            license_id(str(usage.get("licenseArn") or "")),
            str(usage["dimension"]),
            int(_moment(usage["timestamp"]).timestamp()),
            Decimal(str(usage.get("quantityAsDecimal", usage.get("quantity", 0)))).normalize(),
        )
    except (KeyError, ValueError, InvalidOperation):
        return None


def _moment(shown: object) -> datetime:
    """CloudTrail writes times in several ways [UNCONF]: ISO 8601, seconds since 1970, ``Nov 21, 2026, 10:00:00 AM``."""
    text = str(shown)
    if text.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(text), UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.strptime(text.replace("\u202f", " "), "%b %d, %Y, %I:%M:%S %p").replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
