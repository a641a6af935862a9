"""The API operations that a seller calls, with AWS's rules: AWS Marketplace's, and CloudTrail's look into metering."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar

from botocore.utils import parse_timestamp

from marketplace_constructs.rehearsal.marketplace.agreements import (
    Agreement,
    AgreementStatus,
    EntitlementValue,
)
from marketplace_constructs.rehearsal.marketplace.faults import Fault, FaultKind
from marketplace_constructs.rehearsal.marketplace.metering import batch_meter_usage
from marketplace_constructs.rehearsal.marketplace.models import (
    ApiError,
    AwsDocument,
    BrokenConstraint,
    Service,
    broken_constraints,
    service_of,
)

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.marketplace.market import Caller, Marketplace

_T = TypeVar("_T")


def invoke(
    market: Marketplace, caller: Caller, operation: str, request: AwsDocument, fault: Fault | None = None
) -> AwsDocument:
    """Run an operation as AWS would: Region, model, rules, and an answer that fits its model.

    Raises:
        ApiError: What the operation answers instead.
    """
    service = service_of(operation)
    model = service.operation(operation)
    run = OPERATIONS.get(operation)
    if run is None:
        raise ApiError("UnknownOperationException", f"the stand-in does not play {operation}", 404)
    if fault is not None:
        _fail(service, operation, fault)
    _check_region(service, caller)
    for broken in broken_constraints(request, model.input_shape):
        raise ApiError(_constraint_error(service, broken), str(broken))
    answer = run(market, caller, request) if fault is None else _partly(run, market, caller, request, fault)
    for broken in broken_constraints(answer, model.output_shape):
        raise AssertionError(f"{operation} answers what its model forbids: {broken}")
    return answer


def resolve_customer(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """Who holds a registration token; it can be asked again until the token expires.

    Source: API reference, ResolveCustomer (read 2026-11-21): InvalidTokenException, ExpiredTokenException;
    products since 2026-06-01 have no CustomerIdentifier; only the account that published the product may
    ask.
    """
    issued = market.issued_token(request["RegistrationToken"])
    if issued is None:
        raise ApiError("InvalidTokenException", "the registration token is invalid")
    agreement, expires_at = issued
    if agreement.listing.seller_account != caller.account_id:
        # Source: the same page asks for the publishing account; it does not name the error [UNCONF].
        raise ApiError("AccessDeniedException", "the product was not published by the account that calls", 400)
    if market.clock.now() >= expires_at:
        raise ApiError("ExpiredTokenException", "the registration token has expired")
    answer: AwsDocument = {
        "ProductCode": agreement.listing.code,
        "CustomerAWSAccountId": agreement.buyer.account_id,
    }
    if agreement.is_legacy:
        answer["CustomerIdentifier"] = agreement.buyer.customer_identifier
    if not agreement.is_legacy or market.settings.license_arn_for_legacy:
        answer["LicenseArn"] = agreement.license_arn
    if market.settings.agreement_id_in_resolve_customer:
        answer["Metadata"] = {"AgreementId": agreement.id}
    return answer


def get_entitlements(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """What buyers of one product have bought in contracts.

    Source: API reference, GetEntitlements (read 2026-11-21): a filter's values are united, its keys
    intersected; CUSTOMER_IDENTIFIER and CUSTOMER_AWS_ACCOUNT_ID exclude each other; a page may be empty and
    still have a
    next.
    """
    listing = market.listings.get(request["ProductCode"])
    if listing is None or listing.seller_account != caller.account_id:
        raise ApiError("InvalidParameterException", "the product code is not one of yours")
    wanted = request.get("Filter", {})
    if {"CUSTOMER_IDENTIFIER", "CUSTOMER_AWS_ACCOUNT_ID"} <= set(wanted):
        raise ApiError("InvalidParameterException", "expected one of CUSTOMER_IDENTIFIER and CUSTOMER_AWS_ACCOUNT_ID")
    if "CUSTOMER_IDENTIFIER" in wanted and not listing.product.is_legacy:
        raise ApiError("InvalidParameterException", "CUSTOMER_IDENTIFIER is not supported for new products")
    now = market.clock.now()
    found = []
    for agreement in market.agreements.values():
        over = agreement.ended_at or agreement.ends_at
        if agreement.listing is not listing or agreement.activated_at is None:
            continue
        if over is not None and over <= now and not market.settings.expired_entitlements_listed:
            continue
        for dimension, value in agreement.entitlements.items():
            marks = {
                "CUSTOMER_IDENTIFIER": agreement.buyer.customer_identifier,
                "CUSTOMER_AWS_ACCOUNT_ID": agreement.buyer.account_id,
                "LICENSE_ARN": agreement.license_arn,
                "DIMENSION": dimension,
            }
            if all(marks[name] in values for name, values in wanted.items()):
                found.append(_entitlement(agreement, dimension, value, over))
    start = _page_start(request.get("NextToken"), "InvalidParameterException")
    if market.settings.empty_entitlement_page and found and "NextToken" not in request:
        return {"Entitlements": [], "NextToken": _page_token(0)}
    page, next_token = _page(found, start, request.get("MaxResults", 25))
    return {"Entitlements": page} | ({"NextToken": next_token} if next_token else {})


def describe_agreement(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """One agreement. Source: API reference, DescribeAgreement (botocore 1.44.5)."""
    agreement = _visible(market, caller, request["agreementId"])
    answer = _summary(agreement) | {
        # The worth of a pay-as-you-go agreement is not known beforehand.
        "estimatedCharges": {"currencyCode": "USD", "agreementValue": "0"},
    }
    if agreement.trial_ends_at:
        answer["freeTrialSummary"] = {"trialEndTime": agreement.trial_ends_at}
    if behavior := _end_behavior(agreement):
        answer["endTimeBehavior"] = {"type": behavior[0]} | ({"reasonCode": behavior[1]} if behavior[1] else {})
    return answer


def search_agreements(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """The agreements that the caller proposed or accepted.

    Source: API reference, SearchAgreements (botocore 1.44.5): AgreementType and PartyType are required;
    sorted by EndTime, ascending, unless asked otherwise. Agreements without end come last [UNCONF].
    """
    if request.get("catalog") != "AWSMarketplace":
        raise ApiError("ValidationException", "catalog must be AWSMarketplace (INVALID_CATALOG)")
    wanted = {filter_.get("name"): filter_.get("values", [""])[0] for filter_ in request.get("filters", ())}
    if wanted.pop("AgreementType", None) != "PurchaseAgreement":
        raise ApiError(
            "ValidationException", "expected the filter AgreementType of PurchaseAgreement (INVALID_FILTERS)"
        )
    party = wanted.pop("PartyType", None)
    if party not in {"Proposer", "Acceptor"}:
        raise ApiError("ValidationException", "expected the filter PartyType (MISSING_PARTY_TYPE)")
    if unknown := wanted.keys() - _SEARCH_FILTERS.keys():
        raise ApiError("ValidationException", f"filters, got {sorted(map(str, unknown))} (INVALID_FILTER_NAME)")
    found = [
        agreement
        for agreement in market.agreements.values()
        if caller.account_id == (agreement.proposer_account if party == "Proposer" else agreement.buyer.account_id)
        and all(_SEARCH_FILTERS[str(name)](agreement, value) for name, value in wanted.items())
    ]
    sort = request.get("sort", {})
    key = _TIMES.get(sort.get("sortBy", "EndTime"))
    if key is None:
        raise ApiError("ValidationException", "sortBy must be EndTime, StartTime or LastUpdateTime (INVALID_SORT_BY)")
    found.sort(
        key=lambda agreement: (key(agreement) is None, key(agreement) or agreement.starts_at),
        reverse=sort.get("sortOrder") == "DESCENDING",
    )
    start = _page_start(request.get("nextToken"), "ValidationException")
    page, next_token = _page(found, start, request.get("maxResults", 50))
    summaries = [_view(agreement) for agreement in page]
    return {"agreementViewSummaries": summaries} | ({"nextToken": next_token} if next_token else {})


def get_agreement_terms(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """What the buyer agreed to pay. Source: API reference, GetAgreementTerms (botocore 1.44.5)."""
    agreement = _visible(market, caller, request["agreementId"])
    listing = agreement.listing
    usage = [d.key for d in listing.product.dimensions if d.is_usage]
    terms: list[AwsDocument] = []

    def rates(keys: Sequence[str]) -> list[AwsDocument]:
        return [{"dimensionKey": key, "price": str(listing.prices.get(key, 0))} for key in keys]

    if usage:
        terms.append(
            {
                "usageBasedPricingTerm": {
                    "type": "UsageBasedPricingTerm",
                    "id": f"term-{agreement.offer_id}-usage",
                    "currencyCode": "USD",
                    "rateCards": [{"rateCard": rates(usage)}],
                }
            }
        )
    if agreement.entitlements:
        terms.append(
            {
                "configurableUpfrontPricingTerm": {
                    "type": "ConfigurableUpfrontPricingTerm",
                    "id": f"term-{agreement.offer_id}-upfront",
                    "currencyCode": "USD",
                    "rateCards": [{"rateCard": rates(list(agreement.entitlements))}],
                }
            }
        )
    return {"acceptedTerms": terms}


def get_agreement_entitlements(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """An agreement's licence, and whether it is granted.

    Source: API reference, GetAgreementEntitlements (botocore 1.44.5); a registrationToken is for acceptors
    only. AWS lists no values for an entitlement's type [UNCONF].
    """
    agreement = _visible(market, caller, request["agreementId"])
    is_seller = caller.account_id != agreement.buyer.account_id
    if is_seller and not market.settings.seller_may_read_agreement_entitlements:
        raise ApiError("AccessDeniedException", "only the acceptor may read these")
    if agreement.deprovisioned_at or agreement.status is not AgreementStatus.ACTIVE:
        status, reason = "DEPROVISIONED", "AGREEMENT_INACTIVE"
    elif agreement.activated_at is None:
        status, reason = "SCHEDULED", "FUTURE_START_DATE"
    else:
        status, reason = "PROVISIONED", "AGREEMENT_ACTIVE"
    entitlement = {
        "resource": {"id": agreement.listing.product_id, "type": "SaaSProduct"},
        "type": "License",
        "status": status,
        "statusReasonCode": reason,
        "licenseArn": agreement.license_arn,
    }
    return {"agreementEntitlements": [entitlement]}


def lookup_events(market: Marketplace, caller: Caller, request: AwsDocument) -> AwsDocument:
    """What CloudTrail's event history has of metering, by pages of at most 50 events."""
    found = market.trail.look_up(request, caller, now=market.clock.now(), delay=market.settings.trail_delay)
    start = _page_start(request.get("NextToken"), "InvalidNextTokenException")
    page, next_token = _page(found, start, request.get("MaxResults", 50))
    return {"Events": [event.to_answer() for event in page]} | ({"NextToken": next_token} if next_token else {})


OPERATIONS: Final[Mapping[str, Callable[[Marketplace, Caller, AwsDocument], AwsDocument]]] = {
    "ResolveCustomer": resolve_customer,
    "BatchMeterUsage": batch_meter_usage,
    "GetEntitlements": get_entitlements,
    "DescribeAgreement": describe_agreement,
    "SearchAgreements": search_agreements,
    "GetAgreementTerms": get_agreement_terms,
    "GetAgreementEntitlements": get_agreement_entitlements,
    "LookupEvents": lookup_events,
}
"""What the stand-in plays; any other operation is UnknownOperationException."""

_TIMES: Final[Mapping[str, Callable[[Agreement], datetime | None]]] = {
    "EndTime": lambda agreement: agreement.ends_at,
    "StartTime": lambda agreement: agreement.starts_at,
    "LastUpdateTime": lambda agreement: agreement.updated_at,
}


def _before_and_after() -> dict[str, Callable[[Agreement, str], bool]]:
    def before(read: Callable[[Agreement], datetime | None]) -> Callable[[Agreement, str], bool]:
        return lambda agreement, value: (at := read(agreement)) is not None and at < parse_timestamp(value)

    def after(read: Callable[[Agreement], datetime | None]) -> Callable[[Agreement, str], bool]:
        return lambda agreement, value: (at := read(agreement)) is not None and at > parse_timestamp(value)

    return {f"Before{name}": before(read) for name, read in _TIMES.items()} | {
        f"After{name}": after(read) for name, read in _TIMES.items()
    }


_SEARCH_FILTERS: Final[Mapping[str, Callable[[Agreement, str], bool]]] = {
    "ResourceIdentifier": lambda agreement, value: agreement.listing.product_id == value,
    "ResourceType": lambda _, value: value == "SaaSProduct",
    "AcceptorAccountId": lambda agreement, value: agreement.buyer.account_id == value,
    "OfferId": lambda agreement, value: agreement.offer_id == value,
    "Status": lambda agreement, value: agreement.status == value,
    "InitialAgreementId": lambda agreement, value: agreement.initial_id == value,
    "LicenseArn": lambda agreement, value: agreement.license_arn == value,
    **_before_and_after(),
}


def _fail(service: Service, operation: str, fault: Fault) -> None:
    match fault.kind:
        case FaultKind.THROTTLING:
            raise ApiError("ThrottlingException", "the calls to the API are throttled")
        case FaultKind.SERVER_ERROR:
            raise ApiError(service.internal_error(operation), "an internal error has occurred")
        case FaultKind.ERROR:
            raise ApiError(fault.error or "InternalFailure", "this was asked for")


def _partly(
    run: Callable[[Marketplace, Caller, AwsDocument], AwsDocument],
    market: Marketplace,
    caller: Caller,
    request: AwsDocument,
    fault: Fault,
) -> AwsDocument:
    """Source: API reference, BatchMeterUsage: UnprocessedRecords are records that are to be sent again."""
    records = request.get("UsageRecords", [])
    kept = 0 if fault.records is None else max(0, len(records) - fault.records)
    match fault.kind:
        case FaultKind.UNPROCESSED:
            answer = run(market, caller, {**request, "UsageRecords": records[:kept]})
            return {**answer, "UnprocessedRecords": records[kept:]}
        case FaultKind.OMITTED:
            answer = run(market, caller, request)
            return {**answer, "Results": answer["Results"][:kept]}
    return run(market, caller, request)


def _check_region(service: Service, caller: Caller) -> None:
    """Source: API reference, BatchMeterUsage, DisabledApiException; the Regions are botocore's endpoints."""
    if caller.region in service.regions:
        return
    if service.name == "meteringmarketplace":
        raise ApiError("DisabledApiException", f"the API is disabled in {caller.region}")
    raise ApiError("UnknownEndpoint", f"{service.name} has no endpoint in {caller.region}; there is one in us-east-1")


def _constraint_error(service: Service, broken: BrokenConstraint) -> str:
    """Which error a broken constraint is.

    Source: API reference: InvalidTagException for more than five tags; ValidationException is the agreement
    service's own, InvalidParameterException the entitlement service's.
    """
    if "Tags" in broken.path.split("."):
        return "InvalidTagException"
    if service.name == "cloudtrail":
        return "InvalidMaxResultsException" if broken.path == "MaxResults" else "InvalidLookupAttributesException"
    return "InvalidParameterException" if service.name == "marketplace-entitlement" else "ValidationException"


def _visible(market: Marketplace, caller: Caller, agreement_id: str) -> Agreement:
    """Source: API reference, GetAgreementTerms: for its proposer and its acceptor."""
    agreement = market.agreements.get(agreement_id)
    if agreement is None:
        raise ApiError("ResourceNotFoundException", "the agreement does not exist")
    parties = {agreement.proposer_account, agreement.buyer.account_id}
    if market.settings.manufacturer_may_read_partner_agreements:
        parties.add(agreement.listing.seller_account)
    if caller.account_id not in parties:
        raise ApiError("AccessDeniedException", "you are not a party of the agreement")
    return agreement


def _summary(agreement: Agreement) -> AwsDocument:
    times = {
        "acceptanceTime": agreement.accepted_at,
        "startTime": agreement.starts_at,
        "endTime": agreement.ends_at,
    }
    return {
        "agreementId": agreement.id,
        "acceptor": {"accountId": agreement.buyer.account_id},
        "proposer": {"accountId": agreement.proposer_account},
        "agreementType": "PurchaseAgreement",
        "proposalSummary": {
            "resources": [{"id": agreement.listing.product_id, "type": "SaaSProduct"}],
            "offerId": agreement.offer_id,
        },
        "status": agreement.status,
        "initialAgreementId": agreement.initial_id,
    } | {name: at for name, at in times.items() if at is not None}


def _view(agreement: Agreement) -> AwsDocument:
    view = _summary(agreement) | {
        "lastUpdateTime": agreement.updated_at,
        "entitlements": [{"licenseArn": agreement.license_arn}],
    }
    if agreement.trial_ends_at:
        view["freeTrialEndTime"] = agreement.trial_ends_at
    if behavior := _end_behavior(agreement):
        view["endTimeBehaviorType"] = behavior[0]
        if behavior[1]:
            view["endTimeBehaviorReasonCode"] = behavior[1]
    return view


def _end_behavior(agreement: Agreement) -> tuple[str, str | None] | None:
    """Source: API reference, DescribeAgreement: only for active agreements that have an end."""
    if agreement.ends_at is None or agreement.status is not AgreementStatus.ACTIVE:
        return None
    return ("RENEW", None) if agreement.auto_renew else ("EXPIRE", "ACCEPTOR_RENEW_OPTED_OUT")


def _entitlement(agreement: Agreement, dimension: str, value: EntitlementValue, over: datetime | None) -> AwsDocument:
    kind = {bool: "BooleanValue", int: "IntegerValue", float: "DoubleValue", str: "StringValue"}[type(value)]
    entitlement: AwsDocument = {
        "ProductCode": agreement.listing.code,
        "Dimension": dimension,
        "CustomerAWSAccountId": agreement.buyer.account_id,
        "Value": {kind: value},
        "LicenseArn": agreement.license_arn,
    }
    if agreement.is_legacy:
        entitlement["CustomerIdentifier"] = agreement.buyer.customer_identifier
    if over is not None:
        entitlement["ExpirationDate"] = over
    return entitlement


def _page(items: Sequence[_T], start: int, size: int) -> tuple[Sequence[_T], str | None]:
    end = start + size
    return items[start:end], _page_token(end) if end < len(items) else None


def _page_token(start: int) -> str:
    return base64.urlsafe_b64encode(f"page:{start}".encode()).decode()


def _page_start(token: str | None, error: str) -> int:
    if token is None:
        return 0
    try:
        name, _, start = base64.urlsafe_b64decode(token).decode().partition(":")
        if name == "page":
            return int(start)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise ApiError(error, "the next token is not one that was given out")
