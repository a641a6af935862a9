"""CloudTrail's event history, as far as it is of usage that was metered."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from marketplace_constructs.rehearsal.marketplace.models import ApiError, AwsDocument

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.marketplace.market import Caller

EVENT_SOURCE: Final = "metering-marketplace.amazonaws.com"
NOTED: Final = frozenset({"BatchMeterUsage"})
"""Source: AWS Marketplace API reference, Logging AWS Marketplace Metering API calls with CloudTrail, which has the
members of an event and how it spells them (read 2026-11-28)."""
_KEPT: Final = timedelta(days=90)
_KEPT_EVENTS: Final = 10_000
_PER_SECOND: Final = 2
_ACCOUNT: Final = "customerAWSAccountID"
"""So the same page; AWS's own scripts read ``customerAWSAccountId`` [UNCONF]."""


@dataclass(frozen=True, kw_only=True)
class TrailEvent:
    """One call, as CloudTrail notes it down.

    Args:
        id: CloudTrail's own.
        at: When the call was made, to the second.
        name: Of the operation.
        caller: Whose call it was.
        document: The event itself.
    """

    id: str
    at: datetime
    name: str
    caller: Caller
    document: Mapping[str, object]

    def is_of(self, product_code: str) -> bool:
        """Whether it names a product."""
        asked = self.document["requestParameters"]
        return isinstance(asked, dict) and asked.get("productCode") == product_code

    def attribute(self, name: str) -> str:
        """What it is looked up by."""
        known = {
            "EventId": self.id,
            "EventName": self.name,
            "EventSource": EVENT_SOURCE,
            "ReadOnly": "false",
            "Username": self.caller.name,
            "AccessKeyId": self.caller.access_key_id,
        }
        return known.get(name, "")

    def to_answer(self) -> AwsDocument:
        """As LookupEvents lists it; the event is a JSON text in it."""
        return {
            "EventId": self.id,
            "EventName": self.name,
            "ReadOnly": "false",
            "AccessKeyId": self.caller.access_key_id,
            "EventTime": self.at,
            "EventSource": EVENT_SOURCE,
            "Username": self.caller.name,
            "Resources": [],
            "CloudTrailEvent": json.dumps(self.document),
        }


class EventHistory:
    """What CloudTrail knows; everything in the account and the Region of the caller.

    Args:
        monotonic: Seconds that pass, for how often it may be asked.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic: Final = monotonic
        self._events: deque[TrailEvent] = deque(maxlen=_KEPT_EVENTS)
        self._asked: dict[tuple[str, str], deque[float]] = {}
        self._lock = threading.Lock()

    @property
    def events(self) -> tuple[TrailEvent, ...]:
        """All, the oldest first, whether or not they are shown yet."""
        return tuple(self._events)

    def note(
        self,
        operation: str,
        request: AwsDocument,
        outcome: AwsDocument | ApiError,
        *,
        caller: Caller,
        at: datetime,
    ) -> None:
        """Note a call down, if it is one that CloudTrail knows."""
        if operation not in NOTED:
            return
        event_id = str(uuid.uuid4())
        failed = {"errorCode": outcome.code, "errorMessage": outcome.message} if isinstance(outcome, ApiError) else {}
        document = {
            "eventVersion": "1.05",
            "userIdentity": caller.user_identity(),
            "eventTime": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            "eventSource": EVENT_SOURCE,
            "eventName": operation,
            "awsRegion": caller.region,
            "sourceIPAddress": caller.invoked_by or "192.0.2.1",
            "userAgent": caller.invoked_by or "Boto3",
            **failed,
            "requestParameters": _shown(request),
            "responseElements": None if failed else _shown(outcome),
            "requestID": str(uuid.uuid4()),
            "eventID": event_id,
            "readOnly": False,
            "eventType": "AwsApiCall",
            "recipientAccountId": caller.account_id,
        }
        event = TrailEvent(id=event_id, at=at.replace(microsecond=0), name=operation, caller=caller, document=document)
        self._events.append(event)

    def look_up(self, request: AwsDocument, caller: Caller, *, now: datetime, delay: timedelta) -> list[TrailEvent]:
        """The events that LookupEvents finds, the latest first.

        Source: CloudTrail API reference, LookupEvents (botocore 1.44.5, read 2026-11-28): management events of the
        last 90 days, the latest first; one attribute; two calls a second for account and Region.

        Raises:
            ApiError: It is asked wrongly, or too often.
        """
        self._take_turn(caller)
        attributes = request.get("LookupAttributes", [])
        if len(attributes) > 1:
            raise ApiError("InvalidLookupAttributesException", "one attribute at most")
        since, until = request.get("StartTime", now - _KEPT), request.get("EndTime", now)
        if since > until:
            raise ApiError("InvalidTimeRangeException", "the start is after the end")
        found = [
            event
            for event in self._events
            if (event.caller.account_id, event.caller.region) == (caller.account_id, caller.region)
            and max(since, now - _KEPT) <= event.at <= until
            and event.at + delay <= now
            and all(event.attribute(one["AttributeKey"]) == one["AttributeValue"] for one in attributes)
        ]
        return sorted(found, key=lambda event: event.at, reverse=True)

    def _take_turn(self, caller: Caller) -> None:
        with self._lock:
            asked = self._asked.setdefault((caller.account_id, caller.region), deque())
            now = self._monotonic()
            while asked and asked[0] <= now - 1:
                asked.popleft()
            if len(asked) >= _PER_SECOND:
                raise ApiError("ThrottlingException", "Rate exceeded")
            asked.append(now)


def _shown(value: Any) -> Any:
    """A request or an answer as an event has it: other names, and times as text."""
    match value:
        case dict():
            return dict(_members(value))
        case list():
            return [_shown(item) for item in value]
        case datetime():
            at = value.astimezone(UTC)
            return f"{at:%b} {at.day}, {at.year} {at.hour % 12 or 12}:{at:%M:%S %p}"
    return value


def _members(document: AwsDocument) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        yield _ACCOUNT if name == "CustomerAWSAccountId" else f"{name[0].lower()}{name[1:]}", _shown(value)
