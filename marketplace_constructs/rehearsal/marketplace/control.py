"""The control API: how a rehearsal, a test in any language or a curious reader drives the stand-in.

Every call takes and answers JSON. One list of calls routes them and documents them (``to_markdown``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.product import Product
from marketplace_constructs.rehearsal.marketplace.agreements import Agreement, Buyer, Listing
from marketplace_constructs.rehearsal.marketplace.delivery import DeliveryFault
from marketplace_constructs.rehearsal.marketplace.market import Marketplace
from marketplace_constructs.rehearsal.marketplace.notifications import (
    EventBridgeEvent,
    Notification,
)

# What a caller sends is JSON; each call reads the members that its line in the list names.
Body = Mapping[str, Any]
Answer = dict[str, object]
_Run = Callable[[Marketplace, Body, Mapping[str, str]], Answer]


@dataclass(frozen=True)
class ControlCall:
    """One call of the control API.

    Args:
        body: The members it reads, in words; optional ones have a question mark.
        does: In a sentence.
    """

    method: str
    path: str
    body: str
    does: str
    run: _Run

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the path, with its variables by name."""
        return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", self.path))


CALLS: Final[list[ControlCall]] = []
"""Every call, in the order in which a reader needs them."""


def run(market: Marketplace, method: str, path: str, body: Body) -> Answer | None:
    """Run a call; None where there is none of this method and path.

    Raises:
        MarketplaceConstructsError: The call is refused.
    """
    if not isinstance(body, dict):
        raise _refusal("MP-REHEARSAL-11", "control body, got no object; expected a JSON object; send {…}")
    for call in CALLS:
        if call.method == method and (match := call.pattern.fullmatch(path)):
            known = set(re.findall(r"\w+(?=\??(?:,|$))", call.body))
            if unknown := body.keys() - known:
                raise _refusal(
                    "MP-REHEARSAL-12",
                    f"{method} {call.path}, got {', '.join(sorted(unknown))}; "
                    f"expected {call.body or 'no member'}; correct the name",
                )
            return call.run(market, body, match.groupdict())
    return None


def problem(what: str) -> Answer:
    """A refusal as JSON."""
    return {"error": what}


def nothing(path: str) -> Answer:
    """That a path is not one of the API's."""
    return problem(f"no control call at {path}; GET /control lists them")


def to_markdown() -> str:
    """The control API as a table, for the docs."""
    rows = (f"| `{call.method} {call.path}` | {call.body or 'nothing'} | {call.does} |" for call in CALLS)
    return "\n".join(("| call | body | what it does |", "|---|---|---|", *rows)) + "\n"


def _call(method: str, path: str, body: str = "") -> Callable[[_Run], _Run]:
    def register(function: _Run) -> _Run:
        CALLS.append(ControlCall(method, f"/control{path}", body, str(function.__doc__), function))
        return function

    return register


@_call("GET", "")
def _list_calls(_: Marketplace, __: Body, ___: Mapping[str, str]) -> Answer:
    """This list."""
    shown = ("method", "path", "body", "does")
    return {"calls": [{name: getattr(call, name) for name in shown} for call in CALLS]}


@_call("GET", "/products")
def _list_products(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The products on sale."""
    return {"products": [_listing(listing) for listing in market.listings.values()]}


@_call("GET", "/buyers")
def _list_buyers(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The accounts that buy."""
    return {"buyers": [_plain(buyer) for buyer in market.buyers.values()]}


@_call("POST", "/buyers", "account_id?")
def _add_buyer(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """A new buyer, with the account id given or one of AWS's examples."""
    return {"buyer": _plain(market.add_buyer(body.get("account_id")))}


@_call("POST", "/buyers/{account_id}/suspend")
def _suspend(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """AWS suspends the account: its usage is no longer accepted."""
    buyer = _buyer(market, path["account_id"])
    market.suspend(buyer)
    return {"buyer": _plain(buyer)}


@_call("GET", "/agreements")
def _list_agreements(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """All agreements, whatever became of them."""
    return {"agreements": [_agreement(agreement) for agreement in market.agreements.values()]}


@_call(
    "POST",
    "/agreements",
    "account_id, product_code, entitlements?, term_seconds?, starts_in_seconds?, free_trial_seconds?, "
    "reseller_account?, auto_renew?, payment_fails?",
)
def _subscribe(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """The buyer accepts an offer; the seller is told."""
    listing = market.listings.get(_required(body, "product_code"))
    if listing is None:
        raise _refusal(
            "MP-REHEARSAL-13",
            f"product code, got {body['product_code']!r}; expected one of {', '.join(market.listings)}; correct it",
        )
    agreement = market.subscribe(
        _buyer(market, _required(body, "account_id")),
        listing,
        entitlements=body.get("entitlements"),
        term=_seconds(body, "term_seconds"),
        starts_in=_seconds(body, "starts_in_seconds") or timedelta(0),
        free_trial=_seconds(body, "free_trial_seconds"),
        reseller_account=body.get("reseller_account"),
        auto_renew=body.get("auto_renew", False),
        payment_fails=body.get("payment_fails", False),
    )
    return {"agreement": _agreement(agreement)}


@_call("POST", "/agreements/{agreement_id}/form")
def _form(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """The fields that the buyer's browser posts to the fulfilment URL, with a fresh registration token."""
    agreement = _found(market, path)
    return {"action": agreement.listing.fulfillment_url, "fields": market.registration_form(agreement)}


@_call("POST", "/agreements/{agreement_id}/cancel")
def _cancel(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """The buyer ends it."""
    agreement = _found(market, path)
    market.cancel(agreement)
    return {"agreement": _agreement(agreement)}


@_call("POST", "/agreements/{agreement_id}/expire")
def _expire(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """Its term is over."""
    agreement = _found(market, path)
    market.expire(agreement)
    return {"agreement": _agreement(agreement)}


@_call("POST", "/agreements/{agreement_id}/terminate")
def _terminate(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """AWS ends it."""
    agreement = _found(market, path)
    market.terminate(agreement)
    return {"agreement": _agreement(agreement)}


@_call("POST", "/agreements/{agreement_id}/renew", "same_license?, term_seconds?, entitlements?")
def _renew(market: Marketplace, body: Body, path: Mapping[str, str]) -> Answer:
    """A new agreement goes on in its place, with the same licence unless told otherwise; answers it."""
    renewed = market.renew(
        _found(market, path),
        same_license=body.get("same_license", True),
        term=_seconds(body, "term_seconds"),
        entitlements=body.get("entitlements"),
    )
    return {"agreement": _agreement(renewed)}


@_call("POST", "/agreements/{agreement_id}/replace", "same_license?, term_seconds?, entitlements?")
def _replace(market: Marketplace, body: Body, path: Mapping[str, str]) -> Answer:
    """Another offer takes its place, with a new licence unless told otherwise; answers it."""
    replacement = market.replace(
        _found(market, path),
        same_license=body.get("same_license", False),
        term=_seconds(body, "term_seconds"),
        entitlements=body.get("entitlements"),
    )
    return {"agreement": _agreement(replacement)}


@_call("POST", "/agreements/{agreement_id}/amend", "entitlements?, term_seconds?, auto_renew?")
def _amend(market: Marketplace, body: Body, path: Mapping[str, str]) -> Answer:
    """Other terms, the same agreement."""
    agreement = _found(market, path)
    market.amend(
        agreement,
        entitlements=body.get("entitlements"),
        term=_seconds(body, "term_seconds"),
        auto_renew=body.get("auto_renew"),
    )
    return {"agreement": _agreement(agreement)}


@_call("GET", "/clock")
def _read_clock(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The stand-in's time."""
    return {"now": _plain(market.clock.now())}


@_call("POST", "/clock", "advance_seconds?, set?")
def _move_clock(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """Move on by so many seconds, or to a time with its zone; what falls due happens."""
    if "set" in body:
        market.clock.set(datetime.fromisoformat(body["set"]).astimezone(UTC))
    market.clock.advance(_seconds(body, "advance_seconds") or timedelta(0))
    return {"now": _plain(market.clock.now())}


@_call("GET", "/settings")
def _read_settings(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """How the stand-in behaves where AWS's documents leave a choice; durations in seconds."""
    return {"settings": _plain(market.settings)}


@_call("PATCH", "/settings", "settings")
def _change_settings(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """Change some of them."""
    market.settings = market.settings.changed(_required(body, "settings"))
    return {"settings": _plain(market.settings)}


@_call("GET", "/events")
def _list_events(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """Everything that the seller was to be told, and the ids of what is held, delayed, lost or failed."""
    events = market.events
    kept = {"held": events.held, "delayed": events.delayed, "lost": events.lost, "failed": events.failed}
    return {
        "events": [_notification(notification) for notification in events.history],
        **{name: [notification.id for notification in ones] for name, ones in kept.items()},
    }


@_call("POST", "/events/faults", "fault, name?, times?, seconds?")
def _disturb_events(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """The next `times` notifications (of one detail type or action) `lose`, `duplicate`, `hold`, `delay`."""
    events, name, times = market.events, body.get("name"), body.get("times")
    match _required(body, "fault"):
        case DeliveryFault.LOSE:
            events.lose(name, times=times or 1)
        case DeliveryFault.DUPLICATE:
            events.duplicate(name, times=times or 1)
        case DeliveryFault.HOLD:
            events.hold(name, times=times)
        case DeliveryFault.DELAY:
            events.delay(_seconds(body, "seconds") or timedelta(0), name, times=times or 1)
        case other:
            raise _refusal(
                "MP-REHEARSAL-14",
                f"event fault, got {other!r}; expected {' or '.join(DeliveryFault)}; correct it",
            )
    return {}


@_call("POST", "/events/release", "reverse?")
def _release(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """Stop holding, and deliver what was held, in its order or the last first."""
    return {"released": market.events.release(reverse=body.get("reverse", False))}


@_call("POST", "/events/{event_id}/redeliver")
def _redeliver(market: Marketplace, _: Body, path: Mapping[str, str]) -> Answer:
    """Deliver one once more, with the same id."""
    market.events.redeliver(path["event_id"])
    return {}


@_call("GET", "/faults")
def _list_faults(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The trouble that waits for calls of the API."""
    return {"faults": [_plain(fault) for fault in market.faults.pending]}


@_call("POST", "/faults", "operation, kind, times?, error?, seconds?, records?")
def _add_fault(market: Marketplace, body: Body, _: Mapping[str, str]) -> Answer:
    """The next `times` calls of an operation go wrong, in one of the ways that FaultKind lists."""
    _required(body, "kind")
    return {
        "fault": _plain(
            market.faults.add(_required(body, "operation"), **{k: v for k, v in body.items() if k != "operation"})
        )
    }


@_call("DELETE", "/faults")
def _clear_faults(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """Forget them."""
    market.faults.clear()
    return {}


@_call("GET", "/records")
def _list_records(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The usage records that would be billed."""
    return {"records": [_plain(record) for record in market.accepted_records]}


@_call("GET", "/violations")
def _list_violations(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """What AWS would not have refused, and what bills wrongly or loses usage."""
    return {"violations": [_plain(violation) for violation in market.violations]}


@_call("GET", "/calls")
def _list_calls_made(market: Marketplace, _: Body, __: Mapping[str, str]) -> Answer:
    """The calls of the API with their outcomes, without tokens."""
    return {"calls": [_plain(call) for call in market.calls]}


def _listing(listing: Listing) -> Answer:
    product: Product = listing.product
    return {
        "product_code": listing.code,
        "product_id": listing.product_id,
        "title": listing.title,
        "agreement_kind": product.agreement_kind,
        "pricing_model": product.pricing_model,
        "dimensions": {dimension.key: dimension.type for dimension in product.dimensions},
        "fulfillment_url": listing.fulfillment_url,
    }


def _agreement(agreement: Agreement) -> Answer:
    own = {name: _plain(value) for name, value in vars(agreement).items() if name not in {"listing", "buyer"}}
    return {
        **own,
        "product_code": agreement.listing.code,
        "account_id": agreement.buyer.account_id,
        "customer_identifier": agreement.buyer.customer_identifier if agreement.is_legacy else None,
    }


def _notification(notification: Notification) -> Answer:
    if isinstance(notification, EventBridgeEvent):
        return {"id": notification.id, "name": notification.name, "envelope": notification.envelope}
    return {"id": notification.id, "name": notification.name, **_mapping(notification)}


def _mapping(value: object) -> Answer:
    plain = _plain(value)
    assert isinstance(plain, dict)
    return plain


def _plain(value: object) -> object:
    """As JSON has it: times in ISO 8601, durations in seconds, exact numbers as text."""
    match value:
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            return value.total_seconds()
        case Decimal():
            return str(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
    return _plain(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value


def _found(market: Marketplace, path: Mapping[str, str]) -> Agreement:
    agreement = market.agreements.get(path["agreement_id"])
    if agreement is None:
        raise _refusal(
            "MP-REHEARSAL-15",
            f"agreement, got {path['agreement_id']!r}; expected one that exists; GET /control/agreements lists them",
        )
    return agreement


def _buyer(market: Marketplace, account_id: str) -> Buyer:
    buyer = market.buyers.get(account_id)
    if buyer is None:
        raise _refusal(
            "MP-REHEARSAL-16",
            f"buyer, got {account_id!r}; expected one that exists; POST /control/buyers makes one",
        )
    return buyer


def _required(body: Body, name: str) -> Any:
    if name not in body:
        raise _refusal("MP-REHEARSAL-17", f"{name}, got nothing; expected a value; add it to the body")
    return body[name]


def _seconds(body: Body, name: str) -> timedelta | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _refusal("MP-REHEARSAL-18", f"{name}, got {value!r}; expected a number of seconds; correct it")
    return timedelta(seconds=value)


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))
