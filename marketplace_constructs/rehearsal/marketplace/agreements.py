"""Who sells what to whom: listings, buyers and their agreements, as AWS Marketplace keeps them."""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from marketplace_constructs.domain.product import Product

EntitlementValue = int | float | bool | str


class AgreementStatus(StrEnum):
    """Source: API reference, DescribeAgreement; botocore 1.44.5, marketplace-agreement 2020-03-01."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    RENEWED = "RENEWED"
    REPLACED = "REPLACED"
    ROLLED_BACK = "ROLLED_BACK"
    SUPERSEDED = "SUPERSEDED"
    TERMINATED = "TERMINATED"


class Intent(StrEnum):
    """Why an agreement came to be. Source: seller guide, Amazon EventBridge events (read 2026-11-21)."""

    NEW = "NEW"
    RENEW = "RENEW"
    REPLACE = "REPLACE"
    AMEND = "AMEND"


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A product as Marketplace shows it to buyers.

    Args:
        product: What its seller integrates.
        product_id: ``prod-…``; not the product code.
        title: Shown to buyers.
        seller_account: The account that published it; only this one may call the APIs for it.
        fulfillment_url: Where a buyer's browser posts the registration form.
        prices: USD per unit, by dimension; a dimension that is left out is free.
    """

    product: Product
    product_id: str
    title: str
    seller_account: str
    fulfillment_url: str
    prices: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def code(self) -> str:
        """The product code."""
        return self.product.product_code


@dataclass(eq=False, kw_only=True)
class Buyer:
    """An AWS account that buys.

    Args:
        account_id: Twelve digits.
        customer_identifier: What legacy products know the account as.
        suspended: AWS has suspended the account: its usage is not accepted.
    """

    account_id: str
    customer_identifier: str
    suspended: bool = False


@dataclass(eq=False, kw_only=True)
class Agreement:
    """One purchase. It changes only through the Marketplace that made it; all times are whole seconds.

    Args:
        ends_at: When its term is over; None for pay as you go.
        license_arn: As ResolveCustomer spells it; a renewal may go on with the same.
        entitlements: What the buyer bought, by dimension.
        proposer_account: The seller, or the channel partner who resells.
        resale_authorization_id: Only where a channel partner resells.
        activated_at: When the seller was told to grant access; None before.
        ended_at: When it stopped being ACTIVE.
        closes_at: From then on its usage is CustomerNotSubscribed; None while that is not known.
        deprovisioned_at: When its licence was withdrawn, or its unsubscription done.
    """

    id: str
    listing: Listing
    buyer: Buyer
    offer_id: str
    license_arn: str
    intent: Intent
    previous_id: str | None
    initial_id: str
    accepted_at: datetime
    starts_at: datetime
    ends_at: datetime | None
    entitlements: dict[str, EntitlementValue]
    proposer_account: str
    resale_authorization_id: str | None
    auto_renew: bool
    trial_ends_at: datetime | None
    updated_at: datetime
    status: AgreementStatus = AgreementStatus.ACTIVE
    activated_at: datetime | None = None
    ended_at: datetime | None = None
    closes_at: datetime | None = None
    deprovisioned_at: datetime | None = None

    @property
    def is_legacy(self) -> bool:
        """Whether its product is of the legacy kind."""
        return self.listing.product.is_legacy

    @property
    def license_id(self) -> str:
        """The ``l-…`` part of the licence ARN, which every spelling of it has."""
        return license_id(self.license_arn)

    def accepts_usage_at(self, moment: datetime) -> bool:
        """Whether a call at ``moment`` may still send usage for it."""
        return (
            self.activated_at is not None
            and not self.buyer.suspended
            and (self.closes_at is None or moment < self.closes_at)
        )

    def covers(self, moment: datetime) -> bool:
        """Whether usage of ``moment`` can belong to it."""
        return (
            self.activated_at is not None
            and self.starts_at <= moment
            and (self.closes_at is None or moment <= self.closes_at)
        )


def license_id(arn: str) -> str:
    """The ``l-…`` part of a licence ARN, in whichever way it is spelt."""
    return arn.rpartition(":")[2]


class Ids:
    """AWS-like identifiers, the same ones again for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # repeatable, and guards nothing

    def _text(self, length: int, alphabet: str = string.ascii_lowercase + string.digits) -> str:
        return "".join(self._random.choices(alphabet, k=length))

    def uuid(self) -> str:
        """A version 4 UUID."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def named(self, prefix: str) -> str:
        """Such as ``agmt-…``, ``offer-…`` or ``prod-…``."""
        return f"{prefix}-{self._text(25 if prefix == 'agmt' else 13)}"

    def license_arn(self, account_id: str) -> str:
        """Source: seller guide, code examples for SaaS product integration (read 2026-11-21)."""
        return f"arn:aws:license-manager::{account_id}:license:l-{self._text(32, '0123456789abcdef')}"

    def customer_identifier(self) -> str:
        """Eleven letters and digits."""
        return self._text(11, string.ascii_letters + string.digits)

    def account_id(self) -> str:
        """Twelve digits."""
        return self._text(12, string.digits)

    def registration_token(self) -> str:
        """Base64, so that it has the characters which a form must encode."""
        return base64.b64encode(self._random.randbytes(148)).decode()
