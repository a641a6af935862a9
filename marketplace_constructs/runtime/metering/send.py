"""Sending sealed records to AWS Marketplace: each as it was sealed, however often, until it is known what became of it.

Before each call the ledger is told what is about to be sent, and after it what was answered; a process that dies in
between leaves an attempt without an answer behind, which counts as one that may have been honoured.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Protocol, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    TokenRetrievalError,
)

from marketplace_constructs.domain.metering import Record, Status, batches
from marketplace_constructs.domain.metering_rules import MeteringRules
from marketplace_constructs.runtime.aws import CONFIG, error_code
from marketplace_constructs.runtime.clock import Clock
from marketplace_constructs.runtime.metering.ledger import Answer, Ledger
from marketplace_constructs.runtime.observability import logger

TAG: Final = "path"
"""The key of the one tag of each allocation; the buyer sees it as ``aws:marketplace:isv:path``."""
NO_RETRIES: Final = CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
"""A retry that is not seen is an attempt too."""
TRIES: Final = 3
"""How often a record is sent in one run."""
_PATIENCE: Final = 6
"""Calls in a row that may fail, other than by one record's fault, before the rest is left to the next run."""
_REFUSALS: Final = frozenset(
    {
        "InvalidCustomerIdentifierException",
        "InvalidLicenseException",
        "InvalidTagException",
        "InvalidUsageAllocationsException",
        "InvalidUsageDimensionException",
        "TimestampOutOfBoundsException",
        "ValidationException",
    }
)
"""Errors of a request for which one record is enough. Others, such as a wrong product code or a missing permission, are
nothing that a record could do about.

Source: AWS Marketplace API reference, BatchMeterUsage, Errors (read 2026-11-21)."""
_DENIALS: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "DisabledApiException",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)
"""What every call of a run would be answered, whatever it sends: it is about the sender."""
_THROTTLES: Final = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException"})
_NEVER_SENT: Final = (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    TokenRetrievalError,
)


class MeteringClient(Protocol):
    """As much of boto3's ``meteringmarketplace`` as is called."""

    def batch_meter_usage(self, **request: Any) -> Mapping[str, Any]:
        """Send at most 25 records of one product."""
        ...


def metering_client(region: str) -> MeteringClient:
    """A client that calls once when it is told to."""
    client: Any = boto3.client("meteringmarketplace", region_name=region, config=NO_RETRIES)
    return cast("MeteringClient", client)


def usage_record(record: Record, rules: MeteringRules) -> dict[str, Any]:
    """A record as BatchMeterUsage takes it.

    Source: AWS Marketplace API reference, UsageRecord, UsageAllocation: a quantity is whole or decimal, never both,
    and its allocations are of the same kind (read 2026-11-21).
    """
    buyer = record.buyer
    identity = (
        {"CustomerIdentifier": buyer.customer_identifier}
        if buyer.customer_identifier
        else {"CustomerAWSAccountId": buyer.customer_aws_account_id, "LicenseArn": buyer.license_arn}
    )
    name, allocated = (
        ("QuantityAsDecimal", "AllocatedUsageQuantityAsDecimal")
        if rules.decimals
        else ("Quantity", "AllocatedUsageQuantity")
    )
    request: dict[str, Any] = {
        **identity,
        "Timestamp": record.timestamp,
        "Dimension": record.series.dimension,
        name: _number(record.quantity, rules),
    }
    if record.allocations:
        request["UsageAllocations"] = [
            {allocated: _number(one.quantity, rules), "Tags": [{"Key": TAG, "Value": one.path}]}
            for one in record.allocations
        ]
    return request


def _number(quantity: Decimal, rules: MeteringRules) -> str | int:
    if not rules.decimals:
        return int(quantity)
    text = f"{quantity:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Sender:
    """Sends records of one product.

    Args:
        client: Without retries of its own.
        ledger: Is told of every attempt.
        product_code: Sent for legacy agreements only: with a licence, AWS would bill twice.
        rules: How AWS wants to be told.
        clock: The present moment.
        has_time: Whether there is time for one more call.
        calls_per_second: Source: AWS Marketplace developer guide, metering quotas: 10 for account and Region
            (read 2026-11-21).
        sleep: Waits for so many seconds.
        monotonic: Seconds that pass.
    """

    def __init__(
        self,
        client: MeteringClient,
        ledger: Ledger,
        *,
        product_code: str,
        rules: MeteringRules,
        clock: Clock,
        has_time: Callable[[], bool] = lambda: True,
        calls_per_second: int = 10,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client: Final = client
        self._ledger: Final = ledger
        self._product_code: Final = product_code
        self._rules: Final = rules
        self._clock: Final = clock
        self._has_time: Final = has_time
        self._interval: Final = 1 / calls_per_second
        self._sleep: Final = sleep
        self._monotonic: Final = monotonic
        self._next_call = 0.0
        self._failures = 0
        self._is_one_of_them_wrong = False
        self.is_denied = False
        """Whether AWS lets nothing be sent. It is asked no more then until somebody says otherwise."""

    def send(self, records: Sequence[Record]) -> bool:
        """Send what AWS still takes; whether all of it was sent as often as it is worth now."""
        queue = deque(self._batches(records))
        tries: dict[str, int] = {}
        self._failures = 0
        while queue:
            now = self._clock()
            batch = [record for record in queue.popleft() if self._rules.is_taken(record.timestamp, now)]
            if not batch:
                continue
            if self.is_denied or not self._has_time() or self._failures >= _PATIENCE:
                return False
            self._pace()
            answers = self._call(batch)
            again = [record for record in batch if answers[record.id].status is Status.UNPROCESSED]
            if len(again) == len(batch) > 1 and self._is_one_of_them_wrong:
                middle = len(batch) // 2
                queue.extendleft([tuple(batch[middle:]), tuple(batch[:middle])])
                continue
            for record in again:
                tries[record.id] = tries.get(record.id, 0) + 1
            if retried := tuple(record for record in again if tries[record.id] < TRIES):
                queue.append(retried)
        return True

    def _batches(self, records: Sequence[Record]) -> Iterator[tuple[Record, ...]]:
        """Requests of records of one manifest, one kind of identity and one product."""
        groups: dict[tuple[str, bool], list[Record]] = {}
        for record in records:
            group = record.id.partition("/")[0], bool(record.buyer.customer_identifier)
            groups.setdefault(group, []).append(record)
        for members in groups.values():
            sizes = {r.id: len(json.dumps(usage_record(r, self._rules), default=str)) + 2 for r in members}
            # The request's own members, and what another encoding of it may need besides, fit into the rest.
            yield from batches(members, sizes, max_bytes=950_000)

    def _pace(self) -> None:
        """Wait for this process's share of the quota; longer, each time twice as long, while calls fail."""
        wait = self._next_call - self._monotonic()
        if self._failures:
            wait = max(wait, self._interval * 2**self._failures)
        if wait > 0:
            self._sleep(wait)
        self._next_call = self._monotonic() + self._interval

    def _call(self, batch: Sequence[Record]) -> dict[str, Answer]:
        requests = {record.id: usage_record(record, self._rules) for record in batch}
        product = {"ProductCode": self._product_code} if batch[0].buyer.customer_identifier else {}
        name = self._ledger.put_attempt(batch, self._clock())
        error = ""
        try:
            response = self._client.batch_meter_usage(UsageRecords=list(requests.values()), **product)
        except (ClientError, BotoCoreError) as failure:
            error = error_code(failure)
            status = _status_of(failure, alone=len(batch) == 1)
            answers = {record.id: Answer(status=status) for record in batch}
            logger.warning("usage records not taken", extra={"error": error, "records": len(batch)})
        else:
            answers = _answers(requests, response)
        self._is_one_of_them_wrong, self.is_denied = error in _REFUSALS, error in _DENIALS
        self._failures = self._failures + 1 if error and not self._is_one_of_them_wrong else 0
        self._ledger.put_answer(name, answers, at=self._clock(), error=error)
        return answers


def _status_of(error: BaseException, *, alone: bool) -> Status:
    """What a request that failed as a whole says of its records."""
    if isinstance(error, _NEVER_SENT):
        return Status.UNPROCESSED
    if not isinstance(error, ClientError):
        return Status.UNKNOWN
    http_status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    if http_status >= 500 and error_code(error) not in _THROTTLES:
        return Status.UNKNOWN
    return Status.REFUSED if alone and error_code(error) in _REFUSALS else Status.UNPROCESSED


def _answers(requests: Mapping[str, Mapping[str, Any]], response: Mapping[str, Any]) -> dict[str, Answer]:
    """What AWS said of each record; nothing at all leaves it unknown."""
    answers = {record: Answer(status=Status.UNKNOWN) for record in requests}
    ids = {_place(request): record for record, request in requests.items()}
    for unprocessed in response.get("UnprocessedRecords", ()):
        record = ids.get(_place(unprocessed))
        if record is not None:
            answers[record] = Answer(status=Status.UNPROCESSED)
    for result in response.get("Results", ()):
        record = ids.get(_place(result.get("UsageRecord", {})))
        if record is not None:
            answers[record] = _answer(result)
    return answers


def _answer(result: Mapping[str, Any]) -> Answer:
    said, proof = result.get("Status"), str(result.get("MeteringRecordId") or "")
    if said == Status.SUCCESS and proof:
        return Answer(status=Status.SUCCESS, metering_record_id=proof)
    if said in {Status.CUSTOMER_NOT_SUBSCRIBED, Status.DUPLICATE_RECORD}:
        return Answer(status=Status(said))
    return Answer(status=Status.UNKNOWN)


def _place(request: Mapping[str, Any]) -> tuple[object, ...]:
    """What tells the records of a request apart. AWS does not promise to keep their order."""
    timestamp = request.get("Timestamp")
    return (
        request.get("CustomerIdentifier") or request.get("CustomerAWSAccountId"),
        request.get("LicenseArn"),
        request.get("Dimension"),
        int(timestamp.timestamp()) if timestamp is not None else None,
    )
