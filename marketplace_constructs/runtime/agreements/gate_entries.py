"""What the gate knows of a key: one item per key, found by the digest of its value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.domain.plan_versions import Assignment, plan_at
from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef


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
        assignments: The agreement's plans from the one in force on; empty where the product is sold without documents.
        is_removed: The API key behind it is gone for good, so that nobody need look again.
    """

    key_sha256: str
    agreement: str
    is_open: bool
    facts_seen: int
    open_until: datetime | None = None
    assignments: tuple[Assignment, ...] = ()
    is_removed: bool = False

    def opens(self, now: datetime) -> bool:
        """Whether the key opens the API now."""
        return self.is_open and (self.open_until is None or now < self.open_until)

    def plan_at(self, now: datetime) -> str | None:
        """The plan in force, as ``id@version``."""
        return plan_at(self.assignments, now)


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
                    "assignments": {"L": [_assignment_item(assignment) for assignment in entry.assignments]},
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
            assignments=tuple(
                Assignment(
                    plan=member["M"]["plan"]["S"],
                    takes_effect_at=datetime.fromisoformat(member["M"]["takes_effect_at"]["S"]),
                )
                for member in item.get("assignments", {}).get("L", [])
            ),
            is_removed=item.get("is_removed", {}).get("BOOL", False),
        )


def _assignment_item(assignment: Assignment) -> AttributeValueTypeDef:
    takes_effect_at = assignment.takes_effect_at.astimezone(UTC).isoformat()
    return {"M": {"plan": {"S": assignment.plan}, "takes_effect_at": {"S": takes_effect_at}}}
