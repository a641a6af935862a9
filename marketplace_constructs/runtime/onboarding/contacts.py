"""Contact addresses: the only personal data that this library keeps, in one table and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LONGEST_EMAIL: Final = 254
"""Characters. Source: RFC 5321 section 4.5.3.1.3 (a path of 256 octets, less its angle brackets)."""

# Printable ASCII without what separates or quotes addresses: SES takes no other local part, and neither a
# line break nor a second recipient hides in it.
# Source: Amazon SES API v2 reference, Destination (read 2026-11-21).
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}"
)


def parse_email(text: str) -> str | None:
    """The address in what somebody typed, without surrounding blanks; None where it is not one.

    Every provider and plus-addresses are accepted: whether the address works is for the mail to find out.
    """
    email = text.strip(" \t")
    return email if len(email) <= LONGEST_EMAIL and _EMAIL.fullmatch(email) else None


def contact_key(buyer: str, root: str) -> str:
    """What the contact of an agreement is kept under: its chain's, since nobody registers a renewal again.

    Args:
        buyer: The agreement's.
        root: The agreement's root, the first of its chain.
    """
    return f"{buyer}#{root}"


class Confirmation(StrEnum):
    """Whether the confirmation mail went out."""

    OWED = "owed"
    SENT = "sent"


@dataclass(frozen=True, kw_only=True)
class Contact:
    """Where the seller reaches the buyer of one agreement.

    Args:
        agreement: What ``contact_key`` returns.
        email: The address; kept out of the representation, so that no log shows it by accident.
        created_at: When it was first given; never changes.
    """

    agreement: str
    email: str = field(repr=False)
    created_at: datetime
    confirmation: Confirmation = Confirmation.OWED


class Contacts(Protocol):
    """Where contact addresses are kept."""

    def add(self, contact: Contact) -> bool:
        """Keep a contact unless its agreement has one already; whether it was kept."""
        ...

    def get(self, agreement: str) -> Contact | None:
        """The contact of an agreement: what was added before is seen."""
        ...

    def owed(self) -> Iterator[Contact]:
        """Every contact whose confirmation mail has not gone out."""
        ...

    def mark_sent(self, agreement: str) -> None:
        """Note that the confirmation mail went out; nothing where the contact was deleted meanwhile."""
        ...

    def delete(self, agreement: str) -> bool:
        """Forget the contact of an agreement; whether there was one."""
        ...


class DynamoDbContacts:
    """Contacts in DynamoDB: partition key ``agreement``."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client: Final = client
        self._table: Final = table

    def add(self, contact: Contact) -> bool:
        """Keep a contact unless its agreement has one already."""
        try:
            self._client.put_item(
                TableName=self._table,
                Item={
                    "agreement": {"S": contact.agreement},
                    "email": {"S": contact.email},
                    "created_at": {"S": contact.created_at.astimezone(UTC).isoformat()},
                    "confirmation": {"S": contact.confirmation.value},
                },
                ConditionExpression="attribute_not_exists(agreement)",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def get(self, agreement: str) -> Contact | None:
        """The contact of an agreement."""
        answer = self._client.get_item(TableName=self._table, Key={"agreement": {"S": agreement}}, ConsistentRead=True)
        return _read(answer["Item"]) if answer.get("Item") else None

    def owed(self) -> Iterator[Contact]:
        """Every contact whose confirmation is owed: a scan, since an account has 10,000 keys at most."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._table,
            FilterExpression="confirmation = :owed",
            ExpressionAttributeValues={":owed": {"S": Confirmation.OWED.value}},
        )
        for page in pages:
            yield from map(_read, page["Items"])

    def mark_sent(self, agreement: str) -> None:
        """Note that the confirmation mail went out."""
        try:
            self._client.update_item(
                TableName=self._table,
                Key={"agreement": {"S": agreement}},
                UpdateExpression="SET confirmation = :sent",
                ConditionExpression="attribute_exists(agreement)",
                ExpressionAttributeValues={":sent": {"S": Confirmation.SENT.value}},
            )
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise

    def delete(self, agreement: str) -> bool:
        """Forget the contact of an agreement."""
        answer = self._client.delete_item(
            TableName=self._table, Key={"agreement": {"S": agreement}}, ReturnValues="ALL_OLD"
        )
        return bool(answer.get("Attributes"))


def _read(item: Mapping[str, Mapping[str, Any]]) -> Contact:
    return Contact(
        agreement=str(item["agreement"]["S"]),
        email=str(item["email"]["S"]),
        created_at=datetime.fromisoformat(str(item["created_at"]["S"])),
        confirmation=Confirmation(item["confirmation"]["S"]),
    )
