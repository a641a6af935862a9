"""AWS Marketplace in memory: agreements live, time passes, the seller is told, usage is taken down."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.product import Product
from marketplace_constructs.rehearsal.marketplace.agreements import (
    Agreement,
    AgreementStatus,
    Buyer,
    EntitlementValue,
    Ids,
    Intent,
    Listing,
)
from marketplace_constructs.rehearsal.marketplace.clock import SettableClock
from marketplace_constructs.rehearsal.marketplace.delivery import Delivery
from marketplace_constructs.rehearsal.marketplace.faults import Fault, Faults
from marketplace_constructs.rehearsal.marketplace.metering import AcceptedRecord, MeteringBook, Violation
from marketplace_constructs.rehearsal.marketplace.models import ApiError, AwsDocument
from marketplace_constructs.rehearsal.marketplace.notifications import (
    REGION,
    AgreementChange,
    LicenseChange,
    Notification,
    SubscriptionAction,
    agreement_event,
    entitlement_message,
    license_event,
    subscription_message,
)
from marketplace_constructs.rehearsal.marketplace.operations import invoke
from marketplace_constructs.rehearsal.marketplace.settings import Deprovisioning, Settings
from marketplace_constructs.rehearsal.marketplace.trail import EventHistory

SELLER_ACCOUNT: Final = "111122223333"
"""AWS's example account."""
_EXAMPLE_BUYERS: Final = ("123456789012", "444455556666", "777788889999")
_CONTRACT_TERM: Final = timedelta(days=365)
_CALLS_KEPT: Final = 10_000
_USER: Final = "seller"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls the API, as the signature of the request says.

    Args:
        account_id: The account.
        region: Of the endpoint.
        access_key_id: Signed it; empty where nothing did.
        role_arn: The role that was taken on; empty for a user of the account.
        invoked_by: The AWS service that calls in the role; empty for none.
    """

    account_id: str = SELLER_ACCOUNT
    region: str = REGION
    access_key_id: str = ""
    role_arn: str = ""
    invoked_by: str = ""

    @property
    def name(self) -> str:
        """Of the role, or of the user."""
        return self.role_arn.rpartition("/")[2] or _USER

    def user_identity(self) -> AwsDocument:
        """Who CloudTrail says that it was.

        Source: CloudTrail user guide, userIdentity element (read 2026-11-28). That API Gateway's own meter is shown as
        ``invokedBy`` is [UNCONF].
        """
        common: AwsDocument = {"accountId": self.account_id, "accessKeyId": self.access_key_id}
        if not self.role_arn:
            return {
                "type": "IAMUser",
                "arn": f"arn:aws:iam::{self.account_id}:user/{_USER}",
                **common,
                "userName": _USER,
            }
        return {
            "type": "AssumedRole",
            "arn": f"arn:aws:sts::{self.account_id}:assumed-role/{self.name}/rehearsal",
            **common,
            "sessionContext": {
                "sessionIssuer": {
                    "type": "Role",
                    "arn": self.role_arn,
                    "accountId": self.account_id,
                    "userName": self.name,
                },
            },
            **({"invokedBy": self.invoked_by} if self.invoked_by else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Call:
    """A line of the call log.

    Args:
        request: What was asked, without any registration token.
        outcome: ``OK``, the error's code, or the fault that cut the connection.
    """

    at: datetime
    operation: str
    account_id: str
    region: str
    request: Mapping[str, object]
    outcome: str


class Marketplace:
    """AWS Marketplace as one seller meets it.

    Every method may be called from any thread. What it has to tell goes to ``publish`` before the method
    returns, unless ``events`` was asked to do otherwise.

    Args:
        clock: Its time; moving it makes happen what falls due.
        publish: Delivers a notification.
        seed: Equal seeds give equal ids.
        seller_account: Publishes what ``add_product`` lists, unless that says otherwise.
        settings: Where AWS's documents leave a choice; may be replaced at any time.
    """

    def __init__(
        self,
        clock: SettableClock,
        *,
        publish: Callable[[Notification], None] = lambda _: None,
        seed: int = 0,
        seller_account: str = SELLER_ACCOUNT,
        settings: Settings | None = None,
    ) -> None:
        self.clock = clock
        self.settings = settings or Settings()
        self.seller_account = seller_account
        self.ids = Ids(seed)
        self.events = Delivery(publish, clock)
        self.faults = Faults()
        self.book = MeteringBook()
        self.trail = EventHistory()
        self.listings: dict[str, Listing] = {}
        self.buyers: dict[str, Buyer] = {}
        self.agreements: dict[str, Agreement] = {}
        self._calls: deque[Call] = deque(maxlen=_CALLS_KEPT)
        self._tokens: dict[str, tuple[Agreement, datetime]] = {}
        self._by_license: dict[str, list[Agreement]] = {}
        self._by_customer: dict[tuple[str, str], list[Agreement]] = {}
        self._due: list[tuple[datetime, int, Callable[[datetime], None]]] = []
        self._order = itertools.count()
        self._lock = threading.RLock()
        clock.on_move(self.tick)

    @property
    def accepted_records(self) -> tuple[AcceptedRecord, ...]:
        """What would be billed, in the order in which it was accepted."""
        return tuple(self.book.accepted)

    @property
    def violations(self) -> tuple[Violation, ...]:
        """What AWS would not have refused, and what bills wrongly or loses usage."""
        return tuple(self.book.violations)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The last calls of the API, oldest first, without any token."""
        return tuple(self._calls)

    def add_product(
        self,
        product: Product,
        *,
        title: str = "Example API",
        fulfillment_url: str = "https://example.com/register",
        prices: Mapping[str, Decimal] | None = None,
        seller_account: str | None = None,
    ) -> Listing:
        """Publish a product.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-06, its product code is taken.
        """
        with self._changing():
            if product.product_code in self.listings:
                raise _refusal(
                    "MP-REHEARSAL-06",
                    f"add product, got product code {product.product_code!r} again; expected a new one; choose another",
                )
            listing = Listing(
                product=product,
                product_id=self.ids.named("prod"),
                title=title,
                seller_account=seller_account or self.seller_account,
                fulfillment_url=fulfillment_url,
                prices=prices or {},
            )
            self.listings[listing.code] = listing
            return listing

    def add_buyer(self, account_id: str | None = None) -> Buyer:
        """An account that can buy; without an id one of AWS's example accounts, then any other.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-07, not twelve digits, or known already.
        """
        with self._changing():
            if account_id is None:
                free = [example for example in _EXAMPLE_BUYERS if example not in self.buyers]
                account_id = free[0] if free else self.ids.account_id()
            if not (account_id.isdecimal() and len(account_id) == 12) or account_id in self.buyers:
                raise _refusal(
                    "MP-REHEARSAL-07",
                    f"add buyer, got {account_id!r}; expected twelve digits, once; choose another",
                )
            buyer = Buyer(account_id=account_id, customer_identifier=self.ids.customer_identifier())
            self.buyers[account_id] = buyer
            return buyer

    def subscribe(
        self,
        buyer: Buyer,
        listing: Listing,
        *,
        entitlements: Mapping[str, EntitlementValue] | None = None,
        term: timedelta | None = None,
        starts_in: timedelta = timedelta(0),
        free_trial: timedelta | None = None,
        reseller_account: str | None = None,
        auto_renew: bool = False,
        payment_fails: bool = False,
        offer_id: str | None = None,
    ) -> Agreement:
        """A buyer accepts an offer.

        A legacy buyer who comes back within the final window is told of by ``subscribe-success`` in place of
        ``unsubscribe-success``. Source: seller guide, SaaS notifications.

        Args:
            buyer: Who.
            listing: What.
            entitlements: What of each contract dimension; left out, one of each that the product has.
            term: How long it runs; left out, a year for contracts, and no end otherwise.
            starts_in: A future-dated agreement is activated only then.
            free_trial: How long the trial is, 7 to 90 days on AWS; not checked here.
            reseller_account: The channel partner who proposes instead of the seller.
            auto_renew: Whether it renews at its end, rather than expire.
            payment_fails: The agreement is rolled back and never activated.
            offer_id: Of a private offer; left out, one that is nobody else's.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-08, a legacy product that this buyer has;
                MP-REHEARSAL-09, entitlements that the product does not sell.
        """
        with self._changing() as now:
            if listing.product.is_legacy:
                for other in self.agreements_of_customer(listing, buyer):
                    if other.status is AgreementStatus.ACTIVE:
                        raise _refusal(
                            "MP-REHEARSAL-08",
                            f"subscribe, got a buyer who has {listing.code} already; expected one agreement "
                            "per account for a legacy product; cancel it first",
                        )
            has_contract = listing.product.pricing_model.has_contract
            length = term or (_CONTRACT_TERM if has_contract else None)
            starts_at = now + starts_in
            agreement = self._accept(
                buyer,
                listing,
                at=now,
                intent=Intent.NEW,
                previous=None,
                starts_at=starts_at,
                ends_at=starts_at + length if length else None,
                entitlements=_entitlements(listing, entitlements),
                reseller_account=reseller_account,
                auto_renew=auto_renew,
                trial_ends_at=starts_at + free_trial if free_trial else None,
                offer_id=offer_id,
            )
            if payment_fails:
                self._roll_back(agreement, now)
            else:
                self._at(agreement.starts_at, now, lambda at: self._activate(agreement, at))
            return agreement

    def registration_form(self, agreement: Agreement) -> dict[str, str]:
        """The fields that the buyer's browser posts to the fulfilment URL, with a fresh registration token.

        Source: seller guide, SaaS free trials, and the integration checklist of 2023; agreement id, product
        id and fulfilment URL are seen in the wild and documented nowhere.
        """
        with self._changing() as now:
            token = self.ids.registration_token()
            self._tokens[token] = (agreement, now + self.settings.token_life)
            form = {"x-amzn-marketplace-token": token}
            if agreement.trial_ends_at and now < agreement.trial_ends_at:
                form["x-amzn-marketplace-offer-type"] = "free-trial"
            if self.settings.undocumented_form_fields:
                form["x-amzn-marketplace-agreement-id"] = agreement.id
                form["x-amzn-marketplace-product-id"] = agreement.listing.product_id
                form["x-amzn-marketplace-fulfillment-url"] = agreement.listing.fulfillment_url
            return form

    def cancel(self, agreement: Agreement) -> None:
        """The buyer ends it."""
        self._finish(agreement, AgreementStatus.CANCELLED)

    def expire(self, agreement: Agreement) -> None:
        """Its term is over, now."""
        self._finish(agreement, AgreementStatus.EXPIRED)

    def terminate(self, agreement: Agreement) -> None:
        """AWS ends it, such as for a payment that failed."""
        self._finish(agreement, AgreementStatus.TERMINATED)

    def renew(
        self,
        agreement: Agreement,
        *,
        same_license: bool = True,
        term: timedelta | None = None,
        entitlements: Mapping[str, EntitlementValue] | None = None,
    ) -> Agreement:
        """A new agreement goes on where this one ends, now, as RENEWED; left out, on the same terms."""
        with self._changing() as now:
            return self._succeed(
                agreement,
                AgreementStatus.RENEWED,
                now,
                same_license=same_license,
                term=term,
                entitlements=entitlements,
            )

    def replace(
        self,
        agreement: Agreement,
        *,
        same_license: bool = False,
        term: timedelta | None = None,
        entitlements: Mapping[str, EntitlementValue] | None = None,
    ) -> Agreement:
        """A new agreement of another offer takes this one's place, now; this one ends as REPLACED."""
        with self._changing() as now:
            return self._succeed(
                agreement,
                AgreementStatus.REPLACED,
                now,
                same_license=same_license,
                term=term,
                entitlements=entitlements,
            )

    def amend(
        self,
        agreement: Agreement,
        *,
        entitlements: Mapping[str, EntitlementValue] | None = None,
        term: timedelta | None = None,
        auto_renew: bool | None = None,
    ) -> None:
        """Other terms for the same agreement and licence; ``term`` counts from its start."""
        with self._changing() as now:
            self._refuse_ended(agreement, "amend")
            if entitlements is not None:
                agreement.entitlements = _entitlements(agreement.listing, entitlements)
            if auto_renew is not None:
                agreement.auto_renew = auto_renew
            if term is not None:
                agreement.ends_at = agreement.starts_at + term
                self._at(agreement.ends_at, now, lambda at: self._reach_end(agreement, at))
            agreement.updated_at = now
            if not agreement.is_legacy:
                self._tell_agreement(AgreementChange.AMENDED, agreement, now)
            if entitlements is not None:
                self._tell_entitlements(agreement, now)

    def suspend(self, buyer: Buyer) -> None:
        """AWS suspends the account: its usage is CustomerNotSubscribed.

        Source: API reference, UsageRecordResult.
        """
        with self._changing():
            buyer.suspended = True

    def issued_token(self, token: str) -> tuple[Agreement, datetime] | None:
        """Whose registration token it is, and when it expires; None for one that was never given out."""
        return self._tokens.get(token)

    def agreements_of_license(self, license_id: str) -> Sequence[Agreement]:
        """Those that had this licence, the first one first."""
        return self._by_license.get(license_id, ())

    def agreements_of_customer(self, listing: Listing, buyer: Buyer) -> Sequence[Agreement]:
        """Those of one buyer for one product, the first one first."""
        return self._by_customer.get((listing.code, buyer.account_id), ())

    def call(
        self,
        operation: str,
        request: AwsDocument,
        *,
        caller: Caller | None = None,
        fault: Fault | None = None,
    ) -> AwsDocument:
        """Call an operation without HTTP, by default as the seller in us-east-1.

        Raises:
            ApiError: What AWS answers instead.
        """
        caller = caller or Caller(account_id=self.seller_account)
        # Without delivering: what somebody's delivery raises is no answer to this caller.
        with self._lock:
            self._run_due()
            try:
                answer = invoke(self, caller, operation, request, fault)
            except ApiError as error:
                self.log_call(operation, request, caller, error.code)
                self.trail.note(operation, request, error, caller=caller, at=self.clock.now())
                raise
            self.log_call(operation, request, caller, "OK")
            self.trail.note(operation, request, answer, caller=caller, at=self.clock.now())
            return answer

    def log_call(self, operation: str, request: AwsDocument, caller: Caller, outcome: str) -> None:
        """Add to the call log, without the registration token."""
        shown = {name: value for name, value in request.items() if name != "RegistrationToken"}
        self._calls.append(
            Call(
                at=self.clock.now(),
                operation=operation,
                account_id=caller.account_id,
                region=caller.region,
                request=shown,
                outcome=outcome,
            )
        )

    def tick(self) -> None:
        """Let happen what has fallen due: starts, ends, withdrawn licences, delayed notifications."""
        with self._changing():
            pass

    @contextmanager
    def _changing(self) -> Iterator[datetime]:
        # Notifications leave after the lock is given back: who gets them may call the API at once.
        with self._lock:
            yield self._run_due()
        self.events.flush()

    def _run_due(self) -> datetime:
        now = self.clock.now().replace(microsecond=0)
        while self._due and self._due[0][0] <= now:
            at, _, happen = heapq.heappop(self._due)
            happen(at)
        return now

    def _at(self, at: datetime, now: datetime, happen: Callable[[datetime], None]) -> None:
        if at <= now:
            happen(at)
        else:
            heapq.heappush(self._due, (at, next(self._order), happen))

    def _accept(
        self,
        buyer: Buyer,
        listing: Listing,
        *,
        at: datetime,
        intent: Intent,
        previous: Agreement | None,
        starts_at: datetime,
        ends_at: datetime | None,
        entitlements: dict[str, EntitlementValue],
        reseller_account: str | None,
        auto_renew: bool,
        trial_ends_at: datetime | None = None,
        license_arn: str | None = None,
        offer_id: str | None = None,
    ) -> Agreement:
        agreement_id = self.ids.named("agmt")
        agreement = Agreement(
            id=agreement_id,
            listing=listing,
            buyer=buyer,
            offer_id=offer_id or self.ids.named("offer"),
            license_arn=license_arn or self.ids.license_arn(listing.seller_account),
            intent=intent,
            previous_id=previous.id if previous else None,
            initial_id=previous.initial_id if previous else agreement_id,
            accepted_at=at,
            starts_at=starts_at,
            ends_at=ends_at,
            entitlements=entitlements,
            proposer_account=reseller_account or listing.seller_account,
            resale_authorization_id=self.ids.named("resaleauthz") if reseller_account else None,
            auto_renew=auto_renew,
            trial_ends_at=trial_ends_at,
            updated_at=at,
        )
        self.agreements[agreement.id] = agreement
        self._by_license.setdefault(agreement.license_id, []).append(agreement)
        self._by_customer.setdefault((listing.code, buyer.account_id), []).append(agreement)
        if not agreement.is_legacy:
            self._tell_agreement(AgreementChange.CREATED, agreement, at)
        return agreement

    def _activate(self, agreement: Agreement, at: datetime) -> None:
        if agreement.status is not AgreementStatus.ACTIVE:
            return
        agreement.activated_at = at
        if agreement.is_legacy:
            self._tell_subscription(SubscriptionAction.SUBSCRIBE_SUCCESS, agreement, at)
            for earlier in self.agreements_of_customer(agreement.listing, agreement.buyer):
                if earlier.ended_at and earlier.deprovisioned_at is None:
                    # Told of by this subscribe-success, in place of its unsubscribe-success.
                    earlier.deprovisioned_at = at
        if not agreement.is_legacy or agreement.entitlements:
            self._tell_entitlements(agreement, at)
        if agreement.ends_at:
            self._at(agreement.ends_at, at, lambda end: self._reach_end(agreement, end))

    def _roll_back(self, agreement: Agreement, at: datetime) -> None:
        agreement.status, agreement.ended_at, agreement.closes_at = AgreementStatus.ROLLED_BACK, at, at
        agreement.deprovisioned_at = at
        if agreement.is_legacy:
            self._tell_subscription(SubscriptionAction.SUBSCRIBE_FAIL, agreement, at)
        else:
            self._tell_agreement(AgreementChange.ENDED, agreement, at)

    def _reach_end(self, agreement: Agreement, at: datetime) -> None:
        if agreement.status is not AgreementStatus.ACTIVE or agreement.ends_at != at:
            return
        if agreement.auto_renew:
            self._succeed(agreement, AgreementStatus.RENEWED, at, same_license=True, term=None, entitlements=None)
        else:
            self._end(agreement, AgreementStatus.EXPIRED, at)

    def _finish(self, agreement: Agreement, status: AgreementStatus) -> None:
        with self._changing() as now:
            self._refuse_ended(agreement, "end")
            self._end(agreement, status, now)

    def _succeed(
        self,
        agreement: Agreement,
        status: AgreementStatus,
        at: datetime,
        *,
        same_license: bool,
        term: timedelta | None,
        entitlements: Mapping[str, EntitlementValue] | None,
    ) -> Agreement:
        self._refuse_ended(agreement, "succeed")
        length = term or (agreement.ends_at - agreement.starts_at if agreement.ends_at else None)
        successor = self._accept(
            agreement.buyer,
            agreement.listing,
            at=at,
            intent=Intent.RENEW if status is AgreementStatus.RENEWED else Intent.REPLACE,
            previous=agreement,
            starts_at=at,
            ends_at=at + length if length else None,
            entitlements=(
                dict(agreement.entitlements) if entitlements is None else _entitlements(agreement.listing, entitlements)
            ),
            reseller_account=agreement.proposer_account if agreement.resale_authorization_id else None,
            auto_renew=agreement.auto_renew,
            license_arn=agreement.license_arn if same_license else None,
        )
        self._activate(successor, at)
        self._end(agreement, status, at, successor=successor)
        return successor

    def _end(
        self,
        agreement: Agreement,
        status: AgreementStatus,
        at: datetime,
        *,
        successor: Agreement | None = None,
    ) -> None:
        closes_at = at + self.settings.final_window
        agreement.status, agreement.ended_at, agreement.updated_at = status, at, at
        agreement.closes_at = closes_at
        if agreement.is_legacy:
            # The successor's subscribe-success has said all that there is to say.
            if successor is None:
                if agreement.entitlements:
                    self._tell_entitlements(agreement, at)
                self._tell_subscription(SubscriptionAction.UNSUBSCRIBE_PENDING, agreement, at)
                self._at(closes_at, at, lambda end: self._withdraw(agreement, end))
            return
        self._tell_agreement(AgreementChange.ENDED, agreement, at)
        if successor is None or successor.license_id != agreement.license_id:
            opens = self.settings.deprovisioning is Deprovisioning.OPENS_FINAL_WINDOW
            self._at(at if opens else closes_at, at, lambda end: self._withdraw(agreement, end))

    def _withdraw(self, agreement: Agreement, at: datetime) -> None:
        if agreement.deprovisioned_at is not None:
            return
        agreement.deprovisioned_at = at
        if agreement.is_legacy:
            self._tell_subscription(SubscriptionAction.UNSUBSCRIBE_SUCCESS, agreement, at)
        else:
            self._tell_license(LicenseChange.DEPROVISIONED, agreement, at)

    def _tell_agreement(self, change: AgreementChange, agreement: Agreement, at: datetime) -> None:
        named = agreement.intent is Intent.RENEW or self.settings.replacement_names_previous
        self.events.send(
            agreement_event(
                change,
                agreement,
                event_id=self.ids.uuid(),
                request_id=self.ids.uuid(),
                at=at,
                names_previous=change is AgreementChange.CREATED and agreement.previous_id is not None and named,
            )
        )

    def _tell_license(self, change: LicenseChange, agreement: Agreement, at: datetime) -> None:
        self.events.send(
            license_event(
                change,
                agreement,
                event_id=self.ids.uuid(),
                request_id=self.ids.uuid(),
                at=at,
                without_arn=self.settings.event_license_without_arn,
            )
        )

    def _tell_entitlements(self, agreement: Agreement, at: datetime) -> None:
        if agreement.is_legacy:
            self.events.send(
                entitlement_message(agreement, sns_account=self.settings.sns_account, message_id=self.ids.uuid(), at=at)
            )
        else:
            self._tell_license(LicenseChange.UPDATED, agreement, at)

    def _tell_subscription(self, action: SubscriptionAction, agreement: Agreement, at: datetime) -> None:
        self.events.send(
            subscription_message(
                action, agreement, sns_account=self.settings.sns_account, message_id=self.ids.uuid(), at=at
            )
        )

    def _refuse_ended(self, agreement: Agreement, what: str) -> None:
        if agreement.status is not AgreementStatus.ACTIVE:
            raise _refusal(
                "MP-REHEARSAL-10",
                f"{what} agreement, got one that is {agreement.status}; expected ACTIVE; subscribe anew",
            )


def _entitlements(listing: Listing, wanted: Mapping[str, EntitlementValue] | None) -> dict[str, EntitlementValue]:
    sold = [dimension.key for dimension in listing.product.dimensions if not dimension.is_usage]
    if wanted is None:
        return dict.fromkeys(sold, 1)
    if unknown := wanted.keys() - set(sold):
        raise _refusal(
            "MP-REHEARSAL-09",
            f"entitlements of {listing.code}, got {', '.join(sorted(unknown))}; expected of "
            f"{', '.join(sold) or 'nothing, since it has no contract'}; use the product's dimensions",
        )
    return dict(wanted)


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))
