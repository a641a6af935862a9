"""BatchMeterUsage: which usage AWS accepts, which it refuses, and what it would bill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from marketplace_constructs.rehearsal.marketplace.agreements import Agreement, Buyer, Listing, license_id
from marketplace_constructs.rehearsal.marketplace.models import ApiError, AwsDocument
from marketplace_constructs.rehearsal.marketplace.settings import IdenticalResend

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.marketplace.market import Caller, Marketplace


class Meter(StrEnum):
    """By which of its two identities usage was metered. AWS keeps, and bills, the two apart.

    Source: API reference, BatchMeterUsage (read 2026-11-21).
    """

    LICENSE = "LicenseArn"
    PRODUCT = "ProductCode"


class ViolationRule(StrEnum):
    """What AWS accepts without a word, and what still bills wrongly or loses usage."""

    DOUBLE_BILLING = "double-billing"
    """One customer was metered by ProductCode and by LicenseArn within one hour. Source: API reference,
    BatchMeterUsage: "will result in duplicate billing"."""
    PRODUCT_CODE_WITH_LICENSE = "product-code-with-license"
    """A request named both identities. Source: the same."""
    PRODUCT_CODE_ON_CONCURRENT = "product-code-on-concurrent"
    """A product with Concurrent Agreements was metered by ProductCode, which names no agreement.
    Source: the same."""
    TWO_REGIONS = "two-regions"
    """One record was accepted in two Regions; AWS de-duplicates per Region. Source: AWS's metering skill."""
    CHANGED_QUANTITY = "changed-quantity"
    """A record's hour had another quantity already, which stays. Source: API reference, UsageRecordResult."""
    CHANGED_TIMESTAMP = "changed-timestamp"
    """A record's hour was taken by a record of another time: either one is lost, or a resend was stamped
    anew. Source: AWS's metering skill."""


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """A part of a record's quantity, with the tags that a buyer sees."""

    quantity: Decimal
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class AcceptedRecord:
    """What AWS will bill.

    Args:
        meter: By which identity.
        agreement_id: To which agreement its time belongs.
        quantity: Compared by value: 17 and 17.00 are the same.
    """

    metering_record_id: str
    accepted_at: datetime
    region: str
    meter: Meter
    product_code: str
    account_id: str
    agreement_id: str
    license_arn: str
    dimension: str
    timestamp: datetime
    quantity: Decimal
    allocations: tuple[Allocation, ...] = ()

    @property
    def hour(self) -> datetime:
        """The hour it is billed in, in UTC."""
        return self.timestamp.replace(minute=0, second=0, microsecond=0)


@dataclass(frozen=True, kw_only=True)
class Violation:
    """Something that AWS does not refuse, and that must not happen.

    Args:
        metering_record_id: The accepted record that it is about; None where none was accepted.
        what: In one sentence.
    """

    rule: ViolationRule
    at: datetime
    what: str
    metering_record_id: str | None = None


class MeteringBook:
    """The records that were accepted, first write wins."""

    def __init__(self) -> None:
        self.accepted: list[AcceptedRecord] = []
        self.violations: list[Violation] = []
        self._first: dict[tuple[object, ...], AcceptedRecord] = {}
        self._meters: dict[tuple[str, str, datetime], set[Meter]] = {}
        self._regions: dict[tuple[object, ...], set[str]] = {}

    def find(self, record: _Checked, region: str) -> AcceptedRecord | None:
        """What was accepted first in this record's place."""
        return self._first.get((region, *record.place))

    def accept(self, record: AcceptedRecord, place: tuple[object, ...]) -> None:
        """Write it down, and say so where AWS now bills twice."""
        self.accepted.append(record)
        self._first[record.region, *place] = record
        hour = f"{record.hour:%Y-%m-%dT%HZ}"
        meters = self._meters.setdefault((record.product_code, record.account_id, record.hour), set())
        if meters == {Meter.LICENSE, Meter.PRODUCT} - {record.meter}:
            self.report(
                ViolationRule.DOUBLE_BILLING,
                record.accepted_at,
                f"customer {record.account_id} is metered by ProductCode and by LicenseArn in {hour}",
                record.metering_record_id,
            )
        meters.add(record.meter)
        regions = self._regions.setdefault(place, set())
        if regions - {record.region}:
            self.report(
                ViolationRule.TWO_REGIONS,
                record.accepted_at,
                f"dimension {record.dimension} of {hour} is metered in {record.region} besides "
                f"{', '.join(sorted(regions))}",
                record.metering_record_id,
            )
        regions.add(record.region)

    def report(self, rule: ViolationRule, at: datetime, what: str, metering_record_id: str | None = None) -> None:
        """Note what must not happen."""
        self.violations.append(Violation(rule=rule, at=at, what=what, metering_record_id=metering_record_id))


@dataclass(frozen=True)
class _Identity:
    meter: Meter
    listing: Listing
    buyer: Buyer | None
    agreements: Sequence[Agreement]
    name: str


@dataclass(frozen=True)
class _Checked:
    """A usage record that breaks no rule for the whole batch."""

    source: AwsDocument
    identity: _Identity
    quantity: Decimal
    allocations: tuple[Allocation, ...]
    agreement: Agreement | None

    @property
    def timestamp(self) -> datetime:
        timestamp: datetime = self.source["Timestamp"]
        return timestamp

    @property
    def place(self) -> tuple[object, ...]:
        """One record per identity, dimension and hour. Source: AWS's metering skill."""
        buyer = self.identity.buyer
        hour = self.timestamp.replace(minute=0, second=0, microsecond=0)
        return (
            self.identity.meter,
            self.identity.name,
            buyer.account_id if buyer else None,
            self.source["Dimension"],
            hour,
        )


def batch_meter_usage(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """Accept up to 25 usage records of one product.

    A record that breaks a rule fails the whole batch, and nothing of it is accepted; else each record has a
    result of its own. AWS does not say in which order it looks at its rules; here: identity, dimension,
    quantity, allocations, time.

    Source: API reference, BatchMeterUsage, UsageRecord and UsageRecordResult (read 2026-11-21).
    """
    now = market.clock.now()
    product_code = request.get("ProductCode") or None
    checked = [_check(market, caller, product_code, record, now) for record in request["UsageRecords"]]
    if len({record.identity.listing.code for record in checked}) > 1:
        # Source: AWS's metering skill: licences of two products in a call fail all of it.
        raise ApiError("InvalidLicenseException", "each request is for only one product")
    if product_code and any(record.source.get("LicenseArn") for record in checked):
        market.book.report(
            ViolationRule.PRODUCT_CODE_WITH_LICENSE,
            now,
            f"a request names ProductCode {product_code} and LicenseArn",
        )
    return {"Results": [_result(market, caller, record, now) for record in checked], "UnprocessedRecords": []}


def _check(
    market: Marketplace, caller: Caller, product_code: str | None, record: AwsDocument, now: datetime
) -> _Checked:
    identity = (
        _licensed(market, product_code, record)
        if record.get("LicenseArn")
        else _by_product(market, product_code, record)
    )
    if identity.listing.seller_account != caller.account_id:
        raise ApiError("InvalidProductCodeException", "the product was not published by the account that calls")
    # Source: API reference, InvalidUsageDimensionException; what a contract sells is not metered.
    if record["Dimension"] not in {d.key for d in identity.listing.product.dimensions if d.is_usage}:
        raise ApiError("InvalidUsageDimensionException", f"dimension {record['Dimension']} is not metered")
    quantity, allocations = _quantity(record), tuple(_allocations(record))
    _check_allocations(record, quantity, allocations)
    _check_window(market, record["Timestamp"], now)
    return _Checked(record, identity, quantity, allocations, _agreement(identity, record["Timestamp"], now))


def _licensed(market: Marketplace, product_code: str | None, record: AwsDocument) -> _Identity:
    """LicenseArn with CustomerAWSAccountId.

    Source: API reference, BatchMeterUsage: products since 2026-06-01; InvalidLicenseException: "valid,
    matches the customer".
    """
    arn, account_id = record["LicenseArn"], record.get("CustomerAWSAccountId")
    if record.get("CustomerIdentifier") or not account_id:
        raise ApiError("InvalidCustomerIdentifierException", "a licence is metered with CustomerAWSAccountId")
    agreements = market.agreements_of_license(license_id(arn))
    exact = market.settings.exact_license_arn
    if not agreements or (exact and agreements[0].license_arn != arn):
        raise ApiError("InvalidLicenseException", "the licence is not known")
    first = agreements[0]
    if first.buyer.account_id != account_id:
        raise ApiError("InvalidLicenseException", "the licence does not match the customer")
    if product_code and product_code != first.listing.code:
        raise ApiError("InvalidProductCodeException", "the product code does not match the licence")
    return _Identity(Meter.LICENSE, first.listing, first.buyer, agreements, first.license_id)


def _by_product(market: Marketplace, product_code: str | None, record: AwsDocument) -> _Identity:
    """ProductCode with CustomerIdentifier, or with CustomerAWSAccountId, never both.

    Source: API reference, BatchMeterUsage: CustomerIdentifier is not for products since 2026-06-01;
    GetEntitlements: the two are mutually exclusive; InvalidProductCodeException and
    InvalidCustomerIdentifierException.
    """
    identifier, account_id = record.get("CustomerIdentifier"), record.get("CustomerAWSAccountId")
    listing = market.listings.get(product_code or "")
    if listing is None:
        raise ApiError("InvalidProductCodeException", "expected LicenseArn, or the ProductCode of a product")
    if bool(identifier) == bool(account_id):
        raise ApiError(
            "InvalidCustomerIdentifierException",
            "expected one of CustomerIdentifier and CustomerAWSAccountId",
        )
    if identifier and not listing.product.is_legacy:
        raise ApiError("InvalidCustomerIdentifierException", "CustomerIdentifier is not supported for new products")
    buyer = next(
        (b for b in market.buyers.values() if identifier == b.customer_identifier or account_id == b.account_id),
        None,
    )
    if buyer is None and market.settings.unknown_customer_fails_batch:
        raise ApiError("InvalidCustomerIdentifierException", "the customer does not exist")
    agreements = market.agreements_of_customer(listing, buyer) if buyer else ()
    return _Identity(Meter.PRODUCT, listing, buyer, agreements, listing.code)


def _quantity(record: AwsDocument) -> Decimal:
    """Source: API reference, UsageRecord: one of the two, zero where there is neither."""
    if "Quantity" in record and "QuantityAsDecimal" in record:
        raise ApiError("ValidationException", "expected one of Quantity and QuantityAsDecimal")
    return Decimal(str(record.get("QuantityAsDecimal", record.get("Quantity", 0))))


def _allocations(record: AwsDocument) -> Iterator[Allocation]:
    """Source: API reference, UsageAllocation: exactly one kind of quantity, of the record's own kind."""
    whole, exact = "AllocatedUsageQuantity", "AllocatedUsageQuantityAsDecimal"
    right = exact if "QuantityAsDecimal" in record else whole
    for allocation in record.get("UsageAllocations", ()):
        if [kind for kind in (whole, exact) if kind in allocation] != [right]:
            raise ApiError("InvalidUsageAllocationsException", f"expected each allocation with {right} alone")
        yield Allocation(
            quantity=Decimal(allocation[right]),
            tags=tuple(sorted((tag["Key"], tag["Value"]) for tag in allocation.get("Tags", ()))),
        )


def _check_allocations(record: AwsDocument, quantity: Decimal, allocations: Sequence[Allocation]) -> None:
    """Source: API reference, UsageRecord: the sum is the quantity; seller guide, vendor-metered tagging."""
    if not record.get("UsageAllocations"):
        return
    if sum((allocation.quantity for allocation in allocations), Decimal(0)) != quantity:
        raise ApiError("InvalidUsageAllocationsException", "the allocations do not add up to the quantity")
    if len({allocation.tags for allocation in allocations}) != len(allocations):
        raise ApiError("InvalidUsageAllocationsException", "two allocations have the same tags")
    if any(len(dict(allocation.tags)) != len(allocation.tags) for allocation in allocations):
        raise ApiError("InvalidTagException", "an allocation has two tags of one key")


def _check_window(market: Marketplace, timestamp: datetime, now: datetime) -> None:
    """Less than 24 hours old, of this month or within its grace, and not in the future.

    Source: API reference, BatchMeterUsage: "24 hours or more after an event"; "until 06:00 UTC on the first
    day of the next month".
    """
    settings = market.settings
    month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    if timestamp <= now - settings.metering_window:
        raise ApiError("TimestampOutOfBoundsException", "the usage is too old")
    if timestamp < month and now >= month + settings.month_end_grace:
        raise ApiError("TimestampOutOfBoundsException", "the usage is of a month that is closed")
    if timestamp > now + settings.future_tolerance:
        raise ApiError("TimestampOutOfBoundsException", "the usage is in the future")


_OUTSIDE: Final = {Meter.LICENSE: "InvalidLicenseException", Meter.PRODUCT: "TimestampOutOfBoundsException"}


def _agreement(identity: _Identity, timestamp: datetime, now: datetime) -> Agreement | None:
    """The agreement that a record's time belongs to; None where the customer has none that accepts usage now.

    Source: API reference, UsageRecordResult, CustomerNotSubscribed; InvalidLicenseException: "usage is
    within the license activation period"; UsageRecord: "not before the start of the software usage".
    """
    if not any(agreement.accepts_usage_at(now) for agreement in identity.agreements):
        return None
    covering = [agreement for agreement in identity.agreements if agreement.covers(timestamp)]
    if not covering:
        raise ApiError(_OUTSIDE[identity.meter], "the usage is outside the life of the agreement")
    return max(covering, key=lambda agreement: agreement.starts_at)


def _result(market: Marketplace, caller: Caller, record: _Checked, now: datetime) -> AwsDocument:
    book = market.book
    if record.agreement is None:
        return {"UsageRecord": record.source, "Status": "CustomerNotSubscribed"}
    dimension, hour = record.source["Dimension"], f"{record.timestamp:%Y-%m-%dT%HZ}"
    if first := book.find(record, caller.region):
        if first.timestamp != record.timestamp:
            book.report(
                ViolationRule.CHANGED_TIMESTAMP,
                now,
                f"dimension {dimension} of {hour} was metered for {first.timestamp:%H:%M:%SZ}, "
                f"and comes again for {record.timestamp:%H:%M:%SZ}",
                first.metering_record_id,
            )
        if first.quantity != record.quantity:
            book.report(
                ViolationRule.CHANGED_QUANTITY,
                now,
                f"dimension {dimension} of {hour} is billed as {first.quantity}, and comes again as {record.quantity}",
                first.metering_record_id,
            )
            return {"UsageRecord": record.source, "Status": "DuplicateRecord"}
        if market.settings.identical_resend is IdenticalResend.DUPLICATE_RECORD:
            return {"UsageRecord": record.source, "Status": "DuplicateRecord"}
        return _success(record, first.metering_record_id)
    identity = record.identity
    accepted = AcceptedRecord(
        metering_record_id=market.ids.uuid(),
        accepted_at=now,
        region=caller.region,
        meter=identity.meter,
        product_code=identity.listing.code,
        account_id=record.agreement.buyer.account_id,
        agreement_id=record.agreement.id,
        license_arn=record.agreement.license_arn,
        dimension=dimension,
        timestamp=record.timestamp,
        quantity=record.quantity,
        allocations=record.allocations,
    )
    book.accept(accepted, record.place)
    if identity.meter is Meter.PRODUCT and not identity.listing.product.is_legacy:
        book.report(
            ViolationRule.PRODUCT_CODE_ON_CONCURRENT,
            now,
            f"usage of {identity.listing.code} is metered by ProductCode, which names no agreement",
            accepted.metering_record_id,
        )
    return _success(record, accepted.metering_record_id)


def _success(record: _Checked, metering_record_id: str) -> AwsDocument:
    return {"UsageRecord": record.source, "MeteringRecordId": metering_record_id, "Status": "Success"}
