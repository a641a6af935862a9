"""What AWS Marketplace tells of agreements, read into facts.

Two tellers: EventBridge events (concurrent agreements) and SNS notifications (legacy ones). Their bodies are trusted
as far as the queue's policy goes, which pins the rule and the topics; every member is still checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.product import ProductTerms

EVENT_SOURCE: Final = "aws.agreement-marketplace"
"""On the seller account's default bus in us-east-1.

Source: seller guide, SaaS EventBridge integration (read 2026-11-21)."""

TOPIC_OWNER: Final = "287250355862"
"""The account that owns the SNS topics of every legacy product.

Source: aws-samples, aws-marketplace-serverless-saas-integration, template.yaml (read 2026-11-21)."""

_EVENTS: Final = {
    "Purchase Agreement Created": FactKind.AGREED,
    "Purchase Agreement Ended": FactKind.ENDED,
    "License Updated": FactKind.ACTIVATED,
    "License Deprovisioned": FactKind.DEPROVISIONED,
}
_WITHOUT_EFFECT: Final = frozenset(
    {
        "Purchase Agreement Amended",
        "Purchase Agreement Advisory Issued",
        "Purchase Agreement Advisory Resolved",
        "Purchase Agreement Ending",
        "Purchase Agreement Renewal Terms Finalized",
        "Purchase Agreement Renewal Upcoming",
        "Purchase Agreement Billing Adjustment Completed",
        "Purchase Agreement Billing Adjustment Failed",
    }
)
_NOTIFICATIONS: Final = {
    "subscribe-success": FactKind.ACTIVATED,
    "subscribe-fail": FactKind.FAILED,
    "unsubscribe-pending": FactKind.ENDING,
    "unsubscribe-success": FactKind.DEPROVISIONED,
}


class MalformedEvent(Exception):
    """A message that cannot be read; it belongs into the dead-letter queue. The text names members, never values."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a message says.

    Args:
        fact: To be recorded.
        changes_entitlements: GetEntitlements is to be asked, as the message itself does not say what changed.
        is_unknown: Nobody taught us this kind of message: a person should look.
    """

    fact: Fact
    changes_entitlements: bool = False
    is_unknown: bool = False


def topic_names(product: ProductTerms) -> tuple[str, ...]:
    """Names of the SNS topics of a legacy product; the second only where its pricing has contracts.

    Source: seller guide, SaaS notifications (read 2026-11-21).
    """
    kinds = ("subscription", "entitlement") if product.pricing_model.has_contract else ("subscription",)
    return tuple(f"aws-mp-{kind}-notification-{product.product_code}" for kind in kinds)


def read_message(message: Mapping[str, object], *, product: ProductTerms) -> Reading | None:
    """Read one message of the queue: an EventBridge event or an SNS notification.

    Returns:
        None for another product's or another catalog's event, which changes nothing here.

    Raises:
        MalformedEvent: A member is missing, of the wrong type, or not from where it must be.
    """
    return _read_notification(message, product) if product.is_legacy else _read_event(message, product)


def _read_event(event: Mapping[str, object], product: ProductTerms) -> Reading | None:
    if event.get("source") != EVENT_SOURCE:
        raise MalformedEvent(f"source: expected {EVENT_SOURCE}")
    detail_type = _text(event, "detail-type")
    detail = _members(event, "detail")
    if detail.get("catalog", "AWSMarketplace") != "AWSMarketplace":
        return None
    subject = detail_type.removesuffix(" - Proposer").removesuffix(" - Manufacturer")
    kind = _EVENTS.get(subject, FactKind.NOTED)
    product_code = _optional(_members(detail, "product", {}), "code")
    if product_code is not None and product_code != product.product_code:
        return None
    if kind in {FactKind.ACTIVATED, FactKind.DEPROVISIONED} and product_code is None:
        raise MalformedEvent(f"{subject}: detail.product.code is missing")
    agreement = _members(detail, "agreement", None if kind is not FactKind.NOTED else {})
    is_unknown = kind is FactKind.NOTED and subject not in _WITHOUT_EFFECT and "Cancellation Request" not in subject
    acceptor = _members(detail, "acceptor", None if kind is not FactKind.NOTED else {})
    fact = Fact(
        id=f"{detail_type}#{_optional(detail, 'requestId') or _text(event, 'id')}",
        kind=kind,
        buyer=_text(acceptor, "accountId")
        if kind is not FactKind.NOTED
        else _optional(acceptor, "accountId") or "unknown",
        at=_time(event, "time"),
        agreement_id=_text(agreement, "id") if kind is not FactKind.NOTED else _optional(agreement, "id"),
        license_arn=_optional(_members(detail, "license", {}), "arn"),
        product_code=product_code,
        status=_optional(agreement, "status") if kind is FactKind.ENDED else None,
        intent=_optional(agreement, "intent"),
        previous_agreement_id=_optional(agreement, "previousAgreementId"),
        offer_id=_optional(_members(detail, "offer", {}), "id"),
        note=detail_type if kind is FactKind.NOTED else None,
    )
    if kind is FactKind.ACTIVATED and fact.license_arn is None:
        raise MalformedEvent("License Updated: detail.license.arn is missing")
    return Reading(fact=fact, changes_entitlements=kind is FactKind.ACTIVATED, is_unknown=is_unknown)


def _read_notification(envelope: Mapping[str, object], product: ProductTerms) -> Reading | None:
    topic = _text(envelope, "TopicArn").split(":")
    expected = topic_names(product)
    if topic[2:5] != ["sns", "us-east-1", TOPIC_OWNER] or not topic[-1].startswith("aws-mp-"):
        raise MalformedEvent("TopicArn: expected a topic of AWS Marketplace")
    if topic[-1] not in expected:
        return None
    message = envelope.get("Message")
    if not isinstance(message, Mapping):
        raise MalformedEvent("Message: expected an object")
    if _text(message, "product-code") != product.product_code:
        return None
    action = _text(message, "action")
    entitlement = action == "entitlement-updated"
    kind = _NOTIFICATIONS.get(action, FactKind.NOTED)
    fact = Fact(
        id=f"{action}#{_text(envelope, 'MessageId')}",
        kind=kind,
        buyer=_text(message, "customer-identifier"),
        at=_time(envelope, "Timestamp"),
        product_code=product.product_code,
        offer_id=_optional(message, "offer-identifier"),
        note=action if kind is FactKind.NOTED else None,
    )
    return Reading(fact=fact, changes_entitlements=entitlement, is_unknown=kind is FactKind.NOTED and not entitlement)


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedEvent(f"{name}: expected text")
    return value


def _optional(members: Mapping[str, object], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) and value else None


def _members(
    members: Mapping[str, object], name: str, default: Mapping[str, object] | None = None
) -> Mapping[str, object]:
    value = members.get(name)
    if isinstance(value, Mapping):
        return value
    if value is None and default is not None:
        return default
    raise MalformedEvent(f"{name}: expected an object")


def _time(members: Mapping[str, object], name: str) -> datetime:
    try:
        time = datetime.fromisoformat(_text(members, name))
    except ValueError:
        raise MalformedEvent(f"{name}: expected an ISO 8601 time") from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
