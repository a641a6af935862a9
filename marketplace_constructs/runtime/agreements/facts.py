"""The table of facts: put if absent, never changed, all of one buyer's under one key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.domain.agreements import Entitlement, Fact, FactKind
from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class FactStore(Protocol):
    """Where facts are kept."""

    def add(self, fact: Fact) -> bool:
        """Record a fact unless another with its id is there already.

        Returns:
            Whether the store holds this very fact: an SDK that repeats a write whose answer was lost is not told
            that it came too late.
        """
        ...

    def of_buyer(self, buyer: str) -> tuple[Fact, ...]:
        """All facts of one buyer, strongly consistent: what was added before is seen."""
        ...

    def buyers(self) -> Iterator[tuple[str, tuple[Fact, ...]]]:
        """Every buyer with all of their facts."""
        ...


class DynamoDbFacts:
    """Facts in DynamoDB: partition key ``buyer``, sort key ``fact`` (the fact's id)."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client: Final = client
        self._table: Final = table

    def add(self, fact: Fact) -> bool:
        """Record a fact unless another with its id is there already."""
        item = {name: {"S": value} for name, value in to_item(fact).items()}
        try:
            self._client.put_item(
                TableName=self._table,
                Item=item,
                ConditionExpression="attribute_not_exists(fact)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return error.response.get("Item") == item
            raise
        return True

    def of_buyer(self, buyer: str) -> tuple[Fact, ...]:
        """All facts of one buyer."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            ConsistentRead=True,
            KeyConditionExpression="buyer = :buyer",
            ExpressionAttributeValues={":buyer": {"S": buyer}},
        )
        return tuple(fact_from_item(item) for page in pages for item in page["Items"])

    def buyers(self) -> Iterator[tuple[str, tuple[Fact, ...]]]:
        """Every buyer. A scan keeps the items of one partition together and in order."""
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
        collected: list[Fact] = []
        for fact in (fact_from_item(item) for page in pages for item in page["Items"]):
            if collected and collected[0].buyer != fact.buyer:
                yield collected[0].buyer, tuple(collected)
                collected = []
            collected.append(fact)
        if collected:
            yield collected[0].buyer, tuple(collected)


def to_item(fact: Fact) -> dict[str, str]:
    """A fact as text attributes; absent ones are left out. The format is public and only ever grows."""
    item: dict[str, str] = {}
    for member in fields(fact):
        value = getattr(fact, member.name)
        if value is None or value == ():
            continue
        name = "fact" if member.name == "id" else member.name
        if isinstance(value, datetime):
            item[name] = value.astimezone(UTC).isoformat()
        elif isinstance(value, tuple):
            item[name] = "\n".join(
                f"{right.dimension}\t{right.value}\t{right.expires_at.isoformat() if right.expires_at else ''}"
                for right in value
            )
        else:
            item[name] = str(value)
    return item


def from_item(item: Mapping[str, str]) -> Fact:
    """The fact that ``to_item`` wrote; attributes of a later version are ignored."""
    values: dict[str, object] = {}
    for member in fields(Fact):
        text = item.get("fact" if member.name == "id" else member.name)
        if text is None:
            continue
        if member.name in {"at", "takes_effect_at"}:
            values[member.name] = datetime.fromisoformat(text)
        elif member.name == "kind":
            values[member.name] = FactKind(text)
        elif member.name == "key_number":
            values[member.name] = int(text)
        elif member.name == "entitlements":
            values[member.name] = tuple(_entitlement(line) for line in text.split("\n"))
        else:
            values[member.name] = text
    return Fact(**values)  # type: ignore[arg-type]  # the loop above gives each member its type


def _entitlement(line: str) -> Entitlement:
    dimension, value, expires_at = line.split("\t")
    return Entitlement(
        dimension=dimension,
        value=value,
        expires_at=datetime.fromisoformat(expires_at) if expires_at else None,
    )


def fact_from_item(item: Mapping[str, Mapping[str, object]]) -> Fact:
    """The fact of an item as DynamoDB writes it."""
    return from_item({name: str(value["S"]) for name, value in item.items() if "S" in value})
