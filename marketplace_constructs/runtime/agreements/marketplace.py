"""AWS Marketplace's own answers: who a buyer is, what they are entitled to, how an agreement stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.domain.agreements import Entitlement, license_id
from marketplace_constructs.runtime.aws import error_code
from marketplace_constructs.runtime.clock import Clock

if TYPE_CHECKING:
    from mypy_boto3_marketplace_agreement import AgreementServiceClient
    from mypy_boto3_marketplace_entitlement import MarketplaceEntitlementServiceClient
    from mypy_boto3_meteringmarketplace import MarketplaceMeteringClient

Refusal = Literal["missing", "invalid", "expired", "foreign"]


class TokenRefused(Exception):
    """A registration token that opens nothing; the token itself is in no text.

    Args:
        reason: ``missing``, ``invalid``, ``expired``, or ``foreign``: it belongs to another product.
    """

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Final = reason


@dataclass(frozen=True, kw_only=True)
class ResolvedCustomer:
    """What ResolveCustomer answers. New products have no customer identifier, and an older endpoint no agreement id."""

    product_code: str
    customer_identifier: str | None = None
    customer_aws_account_id: str | None = None
    license_arn: str | None = None
    agreement_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class DescribedAgreement:
    """What DescribeAgreement answers.

    Args:
        status: AWS's word.
        initial_agreement_id: The first of the chain of renewals and replacements; itself where it continues none.
    """

    status: str
    initial_agreement_id: str | None = None


class Marketplace(Protocol):
    """What AWS Marketplace is asked."""

    def resolve_customer(self, token: str) -> ResolvedCustomer:
        """Whose token it is.

        Raises:
            TokenRefused: Invalid or expired.
        """
        ...

    def entitlements(self, *, product_code: str, buyer: str, license_arn: str | None) -> tuple[Entitlement, ...]:
        """What a buyer is entitled to: of one licence, or as a legacy customer where that is None."""
        ...

    def describe_agreement(self, agreement_id: str) -> DescribedAgreement | None:
        """An agreement that has begun; None where AWS knows none or does not let us see it."""
        ...


class AwsMarketplace:
    """The port over the three services, whose clients are made when first used."""

    def __init__(
        self,
        *,
        metering: Callable[[], MarketplaceMeteringClient],
        entitlement: Callable[[], MarketplaceEntitlementServiceClient],
        agreement: Callable[[], AgreementServiceClient],
        clock: Clock,
    ) -> None:
        self._clock: Final = clock
        self._metering: Final = metering
        self._entitlement: Final = entitlement
        self._agreement: Final = agreement

    def resolve_customer(self, token: str) -> ResolvedCustomer:
        """Whose token it is."""
        try:
            answer = self._metering().resolve_customer(RegistrationToken=token)
        except ClientError as error:
            match error_code(error):
                case "InvalidTokenException" | "ValidationException" | "SerializationException":
                    raise TokenRefused("invalid") from None
                case "ExpiredTokenException":
                    raise TokenRefused("expired") from None
            raise
        return ResolvedCustomer(
            product_code=answer.get("ProductCode", ""),
            customer_identifier=answer.get("CustomerIdentifier") or None,
            customer_aws_account_id=answer.get("CustomerAWSAccountId") or None,
            license_arn=answer.get("LicenseArn") or None,
            agreement_id=answer.get("Metadata", {}).get("AgreementId") or None,
        )

    def entitlements(self, *, product_code: str, buyer: str, license_arn: str | None) -> tuple[Entitlement, ...]:
        """All pages of GetEntitlements; an empty page may still be followed by another.

        A licence is filtered here, on the part that identifies it, because AWS spells its ARN in several ways.
        """
        paginator = self._entitlement().get_paginator("get_entitlements")
        if license_arn is None:
            pages = paginator.paginate(ProductCode=product_code, Filter={"CUSTOMER_IDENTIFIER": [buyer]})
        else:
            pages = paginator.paginate(ProductCode=product_code, Filter={"CUSTOMER_AWS_ACCOUNT_ID": [buyer]})
        return tuple(
            Entitlement(
                dimension=right["Dimension"],
                value=str(next(iter(right.get("Value", {}).values()), "")),
                expires_at=right.get("ExpirationDate"),
            )
            for page in pages
            for right in page.get("Entitlements", [])
            if license_arn is None or license_id(right.get("LicenseArn", "")) == license_id(license_arn)
        )

    def describe_agreement(self, agreement_id: str) -> DescribedAgreement | None:
        """What DescribeAgreement gives; nothing counts of a future-dated agreement until it starts.

        Source: botocore 1.44.5, marketplace-agreement 2020-03-01, DescribeAgreement (read 2026-11-28).
        """
        try:
            answer = self._agreement().describe_agreement(agreementId=agreement_id)
        except ClientError as error:
            if error_code(error) in {"ResourceNotFoundException", "AccessDeniedException"}:
                return None
            raise
        starts_at = answer.get("startTime")
        status = answer.get("status")
        if not status or (starts_at is not None and starts_at > self._clock()):
            return None
        return DescribedAgreement(status=status, initial_agreement_id=answer.get("initialAgreementId"))
