"""Where plan versions are kept: added, never changed. The gate imports this, so it is little."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.domain.plan_versions import PlanVersion, deployed, hour_of
from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

FRESH_FOR: Final = timedelta(seconds=60)
"""How long what was read is relied on, and never beyond its hour.

What holds in an hour is settled before it begins; only a plan's first version comes within one."""


_LAST_OF_TWO_DIGITS: Final = 99


class PlanVersions(Protocol):
    """All versions of all plans of one SellableApi."""

    def versions(self) -> tuple[PlanVersion, ...]:
        """Every version that there ever was or is to be."""
        ...

    def holding(self, plan: str, at: datetime) -> PlanVersion | None:
        """What holds for a plan, ``id@version``, at a moment; None while nothing does."""
        ...

    def add(self, version: PlanVersion) -> bool:
        """Record a version unless the plan has one of its hour and number; whether it was recorded now."""
        ...


class DynamoDbPlanVersions:
    """Versions in DynamoDB: partition key ``plan``, sort key ``holds_from``.

    The sort key is the hour, such as ``2026-12-01T00:00:00Z``; a second deployment for the same hour appends ``#02``, a
    hundredth ``#:100``: a colon, which sorts after every digit, for each digit more than two.
    """

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client: Final = client
        self._table: Final = table

    def versions(self) -> tuple[PlanVersion, ...]:
        """Every version."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
        return tuple(version_from_item(item) for page in pages for item in page["Items"])

    def holding(self, plan: str, at: datetime) -> PlanVersion | None:
        """What holds for a plan: one item is read."""
        items = self._client.query(
            TableName=self._table,
            ConsistentRead=True,
            KeyConditionExpression="#plan = :plan AND holds_from <= :last",
            ExpressionAttributeNames={"#plan": "plan"},
            # Every number of the hour sorts before the tilde.
            ExpressionAttributeValues={":plan": {"S": plan}, ":last": {"S": f"{_hour_text(hour_of(at))}~"}},
            ScanIndexForward=False,
            Limit=1,
        )["Items"]
        if not items:
            return None
        version = version_from_item(items[0])
        return self._beyond(version) if version.number == _LAST_OF_TWO_DIGITS else version

    def add(self, version: PlanVersion) -> bool:
        """Record a version unless it is there."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item=version_to_item(version),
                ConditionExpression="attribute_not_exists(holds_from)",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def _beyond(self, version: PlanVersion) -> PlanVersion:
        """The last of an hour in which numbers of three digits may stand as they were once written, such as ``#100``.

        Those sort among the numbers of two digits.
        """
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            ConsistentRead=True,
            KeyConditionExpression="#plan = :plan AND begins_with(holds_from, :hour)",
            ExpressionAttributeNames={"#plan": "plan"},
            ExpressionAttributeValues={":plan": {"S": version.plan}, ":hour": {"S": _hour_text(version.holds_from)}},
        )
        return max((version_from_item(item) for page in pages for item in page["Items"]), key=lambda one: one.number)


class HeldPlans:
    """What holds of the plans in the stack, without a question to the table for each buyer."""

    def __init__(self, versions: PlanVersions) -> None:
        self._versions: Final = versions
        self._known: tuple[PlanVersion, ...] = ()
        self._read_at: datetime | None = None

    def at(self, now: datetime, *, named: Collection[str] = ()) -> dict[str, PlanVersion]:
        """By ``id@version``.

        Args:
            now: The present moment.
            named: Plans that somebody knows of. One that is new here is asked for, lest whoever has it be shut out.
        """
        if not {version.plan for version in self._known}.issuperset(named):
            self._read_at = None
        if not is_fresh(self._read_at, now):
            self._known, self._read_at = self._versions.versions(), now
        return deployed(self._known, now)

    def anew(self, now: datetime) -> dict[str, PlanVersion]:
        """As ``at``, but read now: for what is decided once and for good."""
        self._read_at = None
        return self.at(now)


def is_fresh(read_at: datetime | None, now: datetime) -> bool:
    """Whether what was read then still holds."""
    return read_at is not None and now < read_at + FRESH_FOR and hour_of(now) == hour_of(read_at)


def _hour_text(hour: datetime) -> str:
    return f"{hour.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _sort_key(version: PlanVersion) -> str:
    digits = f"{version.number:02}"
    suffix = f"#{':' * (len(digits) - 2)}{digits}" if version.number > 1 else ""
    return f"{_hour_text(version.holds_from)}{suffix}"


def version_to_item(version: PlanVersion) -> dict[str, Any]:
    """A version as an item of the table; the format is public and only ever grows."""
    return {
        "plan": {"S": version.plan},
        "holds_from": {"S": _sort_key(version)},
        "digest": {"S": version.digest},
        "usage_plan_id": {"S": version.usage_plan_id},
        "segment": {"S": version.segment},
        "channel": {"S": version.channel},
        "assign_to": {"S": version.assign_to},
        "routes": {"L": [{"S": route} for route in sorted(version.routes)]},
    }


def version_from_item(item: Mapping[str, Any]) -> PlanVersion:
    """The version that ``version_to_item`` wrote."""
    hour, _, number = item["holds_from"]["S"].partition("#")
    return PlanVersion(
        plan=item["plan"]["S"],
        holds_from=datetime.fromisoformat(hour),
        number=int(number.lstrip(":") or 1),
        digest=item["digest"]["S"],
        usage_plan_id=item["usage_plan_id"]["S"],
        segment=item["segment"]["S"],
        channel=item["channel"]["S"],
        assign_to=item["assign_to"]["S"],
        routes=frozenset(route["S"] for route in item["routes"]["L"]),
    )
