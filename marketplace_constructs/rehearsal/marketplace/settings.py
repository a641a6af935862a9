"""What AWS leaves open, or says in two ways: each as a setting of the stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from enum import StrEnum

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem


class IdenticalResend(StrEnum):
    """What a usage record that is sent again, unchanged, answers.

    Source: BatchMeterUsage in the API reference says "idempotent", AWS's metering skill DuplicateRecord
    (both read 2026-11-21).
    """

    SUCCESS = "Success"
    """The metering record id of the first time."""
    DUPLICATE_RECORD = "DuplicateRecord"


class Deprovisioning(StrEnum):
    """What ``License Deprovisioned`` means for an ended agreement's last usage records.

    Source: AWS's metering skill says that it opens the last hour; an older copy of the seller guide, Managing
    SaaS subscription events with Amazon EventBridge, that it closes it (both read 2026-11-21) [UNCONF].
    """

    OPENS_FINAL_WINDOW = "OpensFinalWindow"
    CLOSES_FINAL_WINDOW = "ClosesFinalWindow"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this Marketplace behaves where AWS's documents leave a choice.

    Args:
        token_life: How long a registration token can be resolved. Source: the seller guide of 2023 says four
            hours, and about one hour in another paragraph [UNCONF].
        agreement_id_in_resolve_customer: Whether ``Metadata.AgreementId`` is answered.
            Source: botocore 1.44.5.
        license_arn_for_legacy: Whether ResolveCustomer answers a licence for legacy products too [UNCONF].
        undocumented_form_fields: Whether a buyer's form carries the fields that others have seen and that AWS
            does not document: agreement id, product id, fulfilment URL.
        metering_window: Usage this old or older is refused. Source: API reference, BatchMeterUsage, 24 hours.
        month_end_grace: How long after a month's end its usage is still accepted.
            Source: the same, until 06:00 UTC on the first.
        final_window: How long after its end an agreement still accepts usage. Source: seller guide, SaaS
            notifications, and Managing SaaS subscription events with Amazon EventBridge: one hour.
        future_tolerance: How far ahead of AWS's clock a usage record may be [UNCONF].
        identical_resend: See IdenticalResend.
        unknown_customer_fails_batch: An unknown customer identifier or account is
            InvalidCustomerIdentifierException for the whole call; False: CustomerNotSubscribed for its
            record. Source: API reference, where BatchMeterUsage says the one, UsageRecordResult the other.
        deprovisioning: See Deprovisioning.
        event_license_without_arn: License events spell the licence ``aws:license-manager:…``, as AWS's
            samples do. Source: seller guide, Amazon EventBridge events [UNCONF].
        exact_license_arn: BatchMeterUsage takes only the ARN that ResolveCustomer and GetEntitlements answer,
            False: any ARN with the same ``l-…`` [UNCONF].
        replacement_names_previous: Whether a REPLACE agreement names its predecessor in the event [UNCONF].
        expired_entitlements_listed: Whether GetEntitlements still lists what has expired [UNCONF].
        empty_entitlement_page: GetEntitlements first answers an empty page that has a NextToken. Source: API
            reference, GetEntitlements: that may happen.
        seller_may_read_agreement_entitlements: Whether GetAgreementEntitlements is for sellers [UNCONF].
        manufacturer_may_read_partner_agreements: Whether the agreement API shows a manufacturer what a
            channel partner sold. Source: API reference, GetAgreementTerms: for proposer and acceptor.
        trail_delay: How long after a call CloudTrail shows it. Source: CloudTrail user guide, Working with CloudTrail
            event history: within about 15 minutes, on average.
        sns_account: The account that owns the SNS topics. Source: aws-samples,
            aws-marketplace-serverless-saas-integration.
    """

    token_life: timedelta = timedelta(hours=4)
    agreement_id_in_resolve_customer: bool = True
    license_arn_for_legacy: bool = True
    undocumented_form_fields: bool = True
    metering_window: timedelta = timedelta(hours=24)
    month_end_grace: timedelta = timedelta(hours=6)
    final_window: timedelta = timedelta(hours=1)
    future_tolerance: timedelta = timedelta(0)
    identical_resend: IdenticalResend = IdenticalResend.SUCCESS
    unknown_customer_fails_batch: bool = True
    deprovisioning: Deprovisioning = Deprovisioning.OPENS_FINAL_WINDOW
    event_license_without_arn: bool = True
    exact_license_arn: bool = True
    replacement_names_previous: bool = False
    expired_entitlements_listed: bool = True
    empty_entitlement_page: bool = False
    seller_may_read_agreement_entitlements: bool = True
    manufacturer_may_read_partner_agreements: bool = False
    trail_delay: timedelta = timedelta(minutes=15)
    sns_account: str = "287250355862"

    def changed(self, values: Mapping[str, object]) -> Settings:
        """These settings with some of them replaced by JSON values; durations are seconds.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-03, an unknown name or a value of the wrong kind.
        """
        known = {field.name for field in fields(self)}
        changes: dict[str, object] = {}
        for name, value in values.items():
            if name not in known:
                raise MarketplaceConstructsError(
                    Problem(
                        "MP-REHEARSAL-03",
                        f"setting, got {name!r}; expected one of {', '.join(sorted(known))}; correct its name",
                    )
                )
            changes[name] = _converted(name, getattr(self, name), value)
        return replace(self, **changes)  # type: ignore[arg-type]  # each converted to its field's own type


def _converted(name: str, current: object, value: object) -> object:
    match current, value:
        case timedelta(), bool():
            pass
        case timedelta(), int() | float():
            return timedelta(seconds=value)
        case StrEnum(), str() if value in list(type(current)):
            return type(current)(value)
        case bool(), bool():
            return value
        case str(), str() if not isinstance(current, StrEnum):
            return value
    if isinstance(current, StrEnum):
        expected = " or ".join(type(current))
    else:
        expected = {timedelta: "seconds", bool: "true or false"}.get(type(current), "text")
    raise MarketplaceConstructsError(
        Problem("MP-REHEARSAL-03", f"setting {name}, got {value!r}; expected {expected}; correct its value")
    )
