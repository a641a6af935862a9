"""What Marketplace tells a seller, in the shapes that AWS documents.

Source: seller guide, Amazon EventBridge events, and Managing SaaS subscription events with Amazon
EventBridge; seller guide, SaaS notifications (SNS) (all read 2026-11-21).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from marketplace_constructs.rehearsal.marketplace.agreements import Agreement, Intent

SOURCE: Final = "aws.agreement-marketplace"
"""Where agreement events come from. Events of ``aws.*`` cannot be put on a bus by anybody but AWS."""
REGION: Final = "us-east-1"
"""The only Region whose default event bus gets them, and where the SNS topics are."""


@dataclass(frozen=True)
class EventBridgeEvent:
    """An event for the default event bus of the seller's account in us-east-1.

    Args:
        envelope: All of it, as a rule's pattern sees it and its target gets it.
    """

    envelope: Mapping[str, object]

    @property
    def id(self) -> str:
        """The event's id."""
        return str(self.envelope["id"])

    @property
    def name(self) -> str:
        """The detail type."""
        return str(self.envelope["detail-type"])


@dataclass(frozen=True)
class SnsMessage:
    """A message that AWS Marketplace publishes to a topic of its own.

    Args:
        topic_arn: The topic of this product.
        message: The message itself, JSON text.
        message_id: The same for every delivery of this message.
        published_at: In UTC; SNS passes it on as ``Timestamp``.
    """

    topic_arn: str
    message: str
    message_id: str
    published_at: datetime

    @property
    def id(self) -> str:
        """The message id."""
        return self.message_id

    @property
    def name(self) -> str:
        """The action."""
        return str(json.loads(self.message)["action"])


Notification = EventBridgeEvent | SnsMessage


class AgreementChange(StrEnum):
    """The agreement pair of detail types: each is followed by the seller's role."""

    CREATED = "Purchase Agreement Created"
    AMENDED = "Purchase Agreement Amended"
    ENDED = "Purchase Agreement Ended"


class LicenseChange(StrEnum):
    """Detail types that only a manufacturer gets."""

    UPDATED = "License Updated - Manufacturer"
    DEPROVISIONED = "License Deprovisioned - Manufacturer"


class SubscriptionAction(StrEnum):
    """Actions on the subscription topic."""

    SUBSCRIBE_SUCCESS = "subscribe-success"
    SUBSCRIBE_FAIL = "subscribe-fail"
    UNSUBSCRIBE_PENDING = "unsubscribe-pending"
    UNSUBSCRIBE_SUCCESS = "unsubscribe-success"


def agreement_event(
    change: AgreementChange,
    agreement: Agreement,
    *,
    event_id: str,
    request_id: str,
    at: datetime,
    names_previous: bool,
) -> EventBridgeEvent:
    """An event of the agreement pair.

    Of the pair a direct offer sends only ``- Proposer``, since its seller is both; for what a channel partner
    sells, the manufacturer gets only ``- Manufacturer``. It names no product code and no licence.

    Source: seller guide, Managing SaaS subscription events with Amazon EventBridge.
    """
    role = "Manufacturer" if agreement.resale_authorization_id else "Proposer"
    about: dict[str, object] = {"id": agreement.id}
    detail: dict[str, object] = {"requestId": request_id, "catalog": "AWSMarketplace", "agreement": about}
    if change is AgreementChange.ENDED:
        about["status"] = agreement.status
    else:
        about |= {
            "intent": Intent.AMEND if change is AgreementChange.AMENDED else agreement.intent,
            "status": agreement.status,
            "acceptanceTime": to_event_time(agreement.accepted_at),
            "startTime": to_event_time(agreement.starts_at),
            "endTime": to_event_time(agreement.ends_at),
        }
        if names_previous:
            about["previousAgreementId"] = agreement.previous_id
            detail["product"] = {"id": agreement.listing.product_id, "title": agreement.listing.title}
    detail |= {
        "resaleAuthorization": agreement.resale_authorization_id and {"id": agreement.resale_authorization_id},
        **_parties(agreement),
    }
    return _event(f"{change} - {role}", agreement, detail, event_id=event_id, at=at)


def license_event(
    change: LicenseChange,
    agreement: Agreement,
    *,
    event_id: str,
    request_id: str,
    at: datetime,
    without_arn: bool,
) -> EventBridgeEvent:
    """A licence was granted, changed or withdrawn: the only events that name product code and licence."""
    arn = agreement.license_arn
    if without_arn:
        account_id = arn.split(":")[4]
        arn = f"aws:license-manager:{REGION}:{account_id}:{agreement.license_id}"
    detail = {
        "requestId": request_id,
        "catalog": "AWSMarketplace",
        "agreement": {"id": agreement.id},
        "product": {"code": agreement.listing.code, "id": agreement.listing.product_id},
        "license": {"arn": arn},
        **_parties(agreement),
    }
    return _event(change, agreement, detail, event_id=event_id, at=at)


def subscription_message(
    action: SubscriptionAction, agreement: Agreement, *, sns_account: str, message_id: str, at: datetime
) -> SnsMessage:
    """A message of the subscription topic; the offer stands only in ``subscribe-…``, the flag is text."""
    body = {"action": str(action), **_customer(agreement)}
    if action in {SubscriptionAction.SUBSCRIBE_SUCCESS, SubscriptionAction.SUBSCRIBE_FAIL}:
        body["offer-identifier"] = agreement.offer_id
    body["isFreeTrialTermPresent"] = "true" if agreement.trial_ends_at else "false"
    topic = topic_arn("subscription", agreement.listing.code, sns_account)
    return SnsMessage(topic, json.dumps(body), message_id, at)


def entitlement_message(agreement: Agreement, *, sns_account: str, message_id: str, at: datetime) -> SnsMessage:
    """A message of the entitlement topic: the same text whether bought, changed, renewed or expired."""
    body = {"action": "entitlement-updated", **_customer(agreement)}
    topic = topic_arn("entitlement", agreement.listing.code, sns_account)
    return SnsMessage(topic, json.dumps(body), message_id, at)


def topic_arn(kind: str, product_code: str, sns_account: str) -> str:
    """The ``subscription`` or ``entitlement`` topic of a product."""
    return f"arn:aws:sns:{REGION}:{sns_account}:aws-mp-{kind}-notification-{product_code}"


def to_event_time(moment: datetime | None) -> str | None:
    """Whole seconds in UTC, as events write them; None for an agreement without end."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None


def _parties(agreement: Agreement) -> dict[str, object]:
    return {
        "acceptor": {"accountId": agreement.buyer.account_id},
        "proposer": {"accountId": agreement.proposer_account},
        "offer": {"id": agreement.offer_id},
    }


def _customer(agreement: Agreement) -> dict[str, str]:
    return {
        "customer-identifier": agreement.buyer.customer_identifier,
        "product-code": agreement.listing.code,
    }


def _event(
    detail_type: str, agreement: Agreement, detail: Mapping[str, object], *, event_id: str, at: datetime
) -> EventBridgeEvent:
    # Through JSON, so that nobody downstream sees anything but plain text and numbers.
    envelope = {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": SOURCE,
        "account": agreement.listing.seller_account,
        "time": to_event_time(at),
        "region": REGION,
        "resources": [f"arn:aws:aws-marketplace::aws:agreement:{agreement.id}"],
        "detail": detail,
    }
    return EventBridgeEvent(json.loads(json.dumps(envelope)))
