"""What the gate knows of a key: one item per key, found by the digest of its value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


@dataclass(frozen=True, kw_only=True)
class GateEntry:
    """Whether a key opens the API.

    Args:
        key_sha256: Hexadecimal digest of the key's value.
        agreement: Id of the agreement that the key belongs to.
        is_open: False shuts the key out.
        facts_seen: How many facts of the buyer this answer rests on. Facts are only added, so an answer that rests
            on fewer is older and never replaces a newer one.
        open_until: A rotated key works until then.
        is_removed: The API key behind it is gone for good, so that nobody need look again.
    """

    key_sha256: str
    agreement: str
    is_open: bool
    facts_seen: int
    open_until: datetime | None = None
    is_removed: bool = False

    def opens(self, now: datetime) -> bool:
        """Whether the key opens the API now."""
        return self.is_open and (self.open_until is None or now < self.open_until)


class GateEntries(Protocol):
    """Where the gate's answers are kept."""

    def put(self, entry: GateEntry) -> bool:
        """Replace the key's answer unless that rests on more facts; whether it was replaced."""
        ...

    def get(self, key_sha256: str) -> GateEntry | None:
        """The key's answer; None for a key that was never ours."""
        ...


class DynamoDbGateEntries:
    """Answers in DynamoDB: partition key ``key_sha256``."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client: Final = client
        self._table: Final = table

    def put(self, entry: GateEntry) -> bool:
        """Replace the key's answer unless that rests on more facts."""
        until = {"open_until": {"S": entry.open_until.astimezone(UTC).isoformat()}} if entry.open_until else {}
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    "key_sha256": {"S": entry.key_sha256},
                    "agreement": {"S": entry.agreement},
                    "is_open": {"BOOL": entry.is_open},
                    "facts_seen": {"N": str(entry.facts_seen)},
                    "is_removed": {"BOOL": entry.is_removed},
                    **until,
                },
                ConditionExpression="attribute_not_exists(key_sha256) OR facts_seen <= :seen",
                ExpressionAttributeValues={":seen": {"N": str(entry.facts_seen)}},
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def get(self, key_sha256: str) -> GateEntry | None:
        """The key's answer, strongly consistent: a revocation is seen at once."""
        item = self._client.get_item(
            TableName=self._table, Key={"key_sha256": {"S": key_sha256}}, ConsistentRead=True
        ).get("Item")
        if item is None:
            return None
        until = item.get("open_until", {}).get("S")
        return GateEntry(
            key_sha256=key_sha256,
            agreement=item["agreement"]["S"],
            is_open=item["is_open"]["BOOL"],
            facts_seen=int(item["facts_seen"]["N"]),
            open_until=datetime.fromisoformat(until) if until else None,
            is_removed=item.get("is_removed", {}).get("BOOL", False),
        )
