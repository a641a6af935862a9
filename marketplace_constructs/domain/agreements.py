"""Agreements: what is known of a buyer's purchases, and what follows from it.

Everything that happens to an agreement is a fact. Facts are only ever added; the state of an agreement is computed
from the set of its buyer's facts, so that duplicates, reordering and events that come before the registration need
no special case. This module is that computation and nothing else: no clock, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from marketplace_constructs.domain.plan_versions import Assignment, plan_at
from marketplace_constructs.domain.product import AgreementKind, PricingModel, ProductTerms

OBSERVATION_LAG: Final = timedelta(hours=1)
"""How much later than an end AWS must be observed to say otherwise before that end is taken back. How soon
DescribeAgreement reflects an end is not documented [UNCONF]."""

ACTIVATION_LAG: Final = timedelta(days=1)
"""How long a legacy buyer who registered may wait before somebody is to look; nobody can be asked about it."""

ENDING_STATUSES: Final = frozenset({"CANCELLED", "EXPIRED", "TERMINATED"})
"""An agreement that ends so takes the access with it."""
SUCCEEDED_STATUSES: Final = frozenset({"RENEWED", "REPLACED", "SUPERSEDED"})
"""An agreement that ends so has a successor, or will have: the access stays.

Source of both: botocore 1.44.5, marketplace-agreement 2020-03-01, AgreementStatus; seller guide, SaaS EventBridge
integration: renewals and replacements surface as Purchase Agreement Created (read 2026-11-21)."""

_LICENSE_ID: Final = re.compile(r"(?:^|[:/])(l(?:ic)?-[0-9A-Za-z]+)$")


def license_id(license_arn: str) -> str:
    """The part of a licence ARN that identifies it: ``l-…``.

    AWS's own pages spell the same licence in three ways, one of them without ``arn:``; compared is this part.
    An ARN of another shape is compared whole.

    Source: seller guide, SaaS code examples and EventBridge integration (read 2026-11-21).
    """
    match = _LICENSE_ID.search(license_arn)
    return match[1] if match else license_arn


class FactKind(StrEnum):
    """What can be known of an agreement."""

    REGISTERED = "registered"
    """The buyer's registration token was resolved."""
    AGREED = "agreed"
    """Purchase Agreement Created."""
    ACTIVATED = "activated"
    """License Updated; ``subscribe-success``."""
    FAILED = "failed"
    """``subscribe-fail``."""
    ENDING = "ending"
    """``unsubscribe-pending``."""
    ENDED = "ended"
    """Purchase Agreement Ended, with its status."""
    DEPROVISIONED = "deprovisioned"
    """License Deprovisioned; ``unsubscribe-success``."""
    ENTITLED = "entitled"
    """What GetEntitlements said."""
    OBSERVED = "observed"
    """What DescribeAgreement said."""
    KEY_ISSUED = "key-issued"
    """An API key was promised to the agreement; it is made after this fact."""
    KEY_CREATED = "key-created"
    """API Gateway gave the key its id."""
    KEY_ABANDONED = "key-abandoned"
    """The promised key was never shown to anybody."""
    KEY_RETIRED = "key-retired"
    """The key stops working at a time."""
    ASSIGNED = "assigned"
    """The agreement has a plan from a whole hour on."""
    NOTED = "noted"
    """An event that changes nothing, or one that is not known; kept so that nothing is lost."""


@dataclass(frozen=True, kw_only=True)
class Entitlement:
    """One contract right.

    Args:
        dimension: The entitled dimension.
        value: As text, in the dimension's unit.
        expires_at: None means that it does not expire.
    """

    dimension: str
    value: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that happened, never changed once recorded.

    Args:
        id: The same for the same happening, however often it is told: detail type and ``requestId`` of an event,
            the message id of a notification, the digest of a token.
        buyer: ``CustomerAWSAccountId`` (concurrent) or ``CustomerIdentifier`` (legacy).
        at: When it happened, by AWS's clock where AWS told it, UTC.
        agreement_id: ``agmt-…``; None for legacy agreements, which have none, and where AWS did not say.
        license_arn: As AWS spelled it.
        status: Of an end or an observation.
        initial_agreement_id: The first agreement of the chain of renewals, as AWS was observed to name it; the
            agreement itself where it continues none.
        key_number: 1 is the agreement's first key.
        key_sha256: Digest of the key's value; the value itself is kept nowhere.
        takes_effect_at: When a retired key stops working; the whole hour from which an assigned plan is in force.
        plan: ``id@version``.
        account_id: ``CustomerAWSAccountId`` of a legacy buyer, where ResolveCustomer named it.
        note: Why the fact is kept, for people.
    """

    id: str
    kind: FactKind
    buyer: str
    at: datetime
    agreement_id: str | None = None
    license_arn: str | None = None
    product_code: str | None = None
    status: str | None = None
    intent: str | None = None
    previous_agreement_id: str | None = None
    initial_agreement_id: str | None = None
    offer_id: str | None = None
    entitlements: tuple[Entitlement, ...] = ()
    key_number: int | None = None
    key_name: str | None = None
    key_sha256: str | None = None
    api_key_id: str | None = None
    takes_effect_at: datetime | None = None
    plan: str | None = None
    account_id: str | None = None
    note: str | None = None


def documents_assignment(agreement_id: str) -> str:
    """Id of the fact that the documents gave an agreement its plan: it has one at most, however many record it."""
    return f"{FactKind.ASSIGNED}#{agreement_id}"


class State(StrEnum):
    """The life of an agreement."""

    PENDING = "pending"
    """AWS knows of it; neither registered nor activated."""
    REGISTERED = "registered"
    """The buyer came; AWS has not activated it yet."""
    ACTIVE = "active"
    ENDING = "ending"
    """No access any more; its last usage is still accepted."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Key:
    """One API key of an agreement; its value is known to the buyer alone.

    Args:
        number: 1 is the first.
        retire_at: When it stops working; None until it is rotated.
        is_abandoned: It was never shown to anybody and must not exist.
    """

    number: int
    name: str
    sha256: str
    issued_at: datetime
    api_key_id: str | None = None
    retire_at: datetime | None = None
    is_abandoned: bool = False

    def is_live(self, now: datetime) -> bool:
        """Whether the key itself still counts; access is the agreement's to grant."""
        return not self.is_abandoned and (self.retire_at is None or now < self.retire_at)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """One agreement as it stands, computed from facts.

    Args:
        id: ``agmt-…``; ``CustomerIdentifier/1`` for a legacy customer's first subscription; the licence's id
            where AWS has named no agreement yet.
        is_registered: Itself, or an agreement that it continues.
        grants_access: Whether its keys open the API now.
        keys: Every key of the chain of renewals that it heads; empty for an agreement that was continued by another.
        cause: Why it ends or ended, in AWS's word.
        root: The first agreement of the chain of renewals that it belongs to; itself where it continues none.
        predecessor: The agreement that it continues.
        successor: The agreement that continues it.
        offer_id: The offer that the buyer accepted, as far as AWS told.
        account_id: The buyer's AWS account; None for a legacy buyer whose account AWS did not name.
        assignments: Of the chain of renewals up to it, earliest first, one an hour.
        alarms: What a person should look at.
    """

    id: str
    kind: AgreementKind
    buyer: str
    state: State
    root: str
    product_code: str | None = None
    license_arn: str | None = None
    is_registered: bool = False
    grants_access: bool = False
    registered_at: datetime | None = None
    activated_at: datetime | None = None
    ended_at: datetime | None = None
    cause: str | None = None
    predecessor: str | None = None
    successor: str | None = None
    offer_id: str | None = None
    account_id: str | None = None
    entitlements: tuple[Entitlement, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    keys: tuple[Key, ...] = ()
    alarms: tuple[str, ...] = ()

    def plan_at(self, when: datetime) -> str | None:
        """The plan in force at a moment, as ``id@version``."""
        return plan_at(self.assignments, when)

    def live_keys(self, now: datetime) -> tuple[Key, ...]:
        """The keys that count, oldest first: one, or two while the buyer rotates."""
        return tuple(key for key in self.keys if key.is_live(now))


def agreements_of(
    facts: Iterable[Fact], *, product: ProductTerms, now: datetime, plans: Collection[str] | None = None
) -> tuple[Agreement, ...]:
    """The agreements of one buyer for one product, oldest first, whatever order the facts come in.

    Args:
        facts: All facts of one buyer; doubles count once. Facts of an agreement that no licence, registration or
            notification has tied to a product are inert: AWS tells of the seller's other products too.
        product: The product that is sold. Facts were checked against its code when they were recorded; a code that
            is wrong now shuts nobody out.
        now: Decides what has expired, and which plan is in force.
        plans: The plans that hold now; without one of them an agreement grants no access. None where the product is
            sold without documents.
    """
    distinct = sorted({fact.id: fact for fact in facts}.values(), key=lambda fact: (fact.at, fact.kind, fact.id))
    histories = _legacy_histories(distinct) if product.is_legacy else _concurrent_histories(distinct)
    _link(histories)
    return tuple(
        _settle(history, histories, product=product, now=now, plans=plans)
        for history in histories.values()
        if _is_ours(history, histories)
    )


@dataclass
class _History:
    """The facts of one agreement, sorted out."""

    id: str
    kind: AgreementKind
    buyer: str
    facts: list[Fact] = field(default_factory=list)
    predecessor: str | None = None
    successor: str | None = None
    alarms: list[str] = field(default_factory=list)

    def first(self, *kinds: FactKind) -> Fact | None:
        return next((fact for fact in self.facts if fact.kind in kinds), None)

    def last(self, *kinds: FactKind) -> Fact | None:
        return next((fact for fact in reversed(self.facts) if fact.kind in kinds), None)

    @property
    def names_our_product(self) -> bool:
        return any(fact.product_code for fact in self.facts)

    @property
    def named_predecessor(self) -> str | None:
        return next((fact.previous_agreement_id for fact in self.facts if fact.previous_agreement_id), None)

    @property
    def activation(self) -> Fact | None:
        """What activated it: the event, or AWS observed to hold it active where that event was lost."""
        return self.first(FactKind.ACTIVATED) or next(
            (fact for fact in self.facts if fact.kind is FactKind.OBSERVED and fact.status == "ACTIVE"), None
        )

    @property
    def is_activated(self) -> bool:
        return self.activation is not None

    @property
    def metered_arn(self) -> str | None:
        """The licence as ResolveCustomer spells it; None where nobody registered with it.

        What was read of entitlements has the spelling of whatever had them read, an event's too.
        """
        return next((f.license_arn for f in self.facts if f.license_arn and f.kind is FactKind.REGISTERED), None)

    @property
    def license_ids(self) -> set[str]:
        return {license_id(fact.license_arn) for fact in self.facts if fact.license_arn}


def _concurrent_histories(facts: Sequence[Fact]) -> dict[str, _History]:
    """By agreement id. A fact that names only a licence joins the agreement that holds that licence."""
    holders: dict[str, str] = {}
    for fact in facts:
        if fact.agreement_id and fact.license_arn:
            holders.setdefault(license_id(fact.license_arn), fact.agreement_id)
    histories: dict[str, _History] = {}
    for fact in facts:
        identity = fact.agreement_id
        if identity is None and fact.license_arn:
            identity = holders.get(license_id(fact.license_arn), license_id(fact.license_arn))
        if identity is None:
            continue
        history = histories.setdefault(identity, _History(identity, AgreementKind.CONCURRENT, fact.buyer))
        history.facts.append(fact)
    return histories


def _legacy_histories(facts: Sequence[Fact]) -> dict[str, _History]:
    """One per subscription: a customer who subscribes after the end begins a new one and registers anew."""
    histories: dict[str, _History] = {}
    current: _History | None = None
    for fact in facts:
        if current is None or (current.first(FactKind.DEPROVISIONED) and _begins(fact)):
            identity = f"{fact.buyer}/{len(histories) + 1}"
            current = histories[identity] = _History(identity, AgreementKind.LEGACY, fact.buyer)
        # A key and an assignment say themselves which subscription they belong to.
        named = histories.get(fact.agreement_id or "") if fact.key_number or fact.plan else None
        (named or current).facts.append(fact)
    return histories


def _begins(fact: Fact) -> bool:
    """Whether a fact that comes after an end begins a new subscription."""
    return fact.kind in {FactKind.REGISTERED, FactKind.ACTIVATED, FactKind.FAILED} or (
        fact.kind is FactKind.ENTITLED and _is_entitled(fact, fact.at)
    )


def _is_entitled(fact: Fact, now: datetime) -> bool:
    return any(right.expires_at is None or right.expires_at > now for right in fact.entitlements)


def _link(histories: Mapping[str, _History]) -> None:
    """Make chains: who continues whom. What AWS names goes before what has to be guessed."""
    for history in histories.values():
        _join(histories, history, history.named_predecessor)
    for history in histories.values():
        if history.predecessor is None:
            _join(histories, history, _observed_predecessor(history, histories))
    for history in histories.values():
        if history.predecessor is None:
            _join(histories, history, _replaced(history, histories) or _former_holder(history, histories))


def _join(histories: Mapping[str, _History], history: _History, previous: str | None) -> None:
    """Let an agreement continue another, unless that is continued already or a circle would close."""
    if previous is None or previous == history.id or previous not in histories:
        return
    if histories[previous].successor is not None:
        history.alarms.append(f"continues {previous}, as {histories[previous].successor} does")
    elif not _leads_to(histories, previous, history.id):
        history.predecessor, histories[previous].successor = previous, history.id


def _is_ours(history: _History, histories: Mapping[str, _History]) -> bool:
    """Whether the agreement is for our product: itself, or as AWS named it the continuation of one that is.

    What it was only guessed to continue proves nothing: AWS tells of the seller's other products too.
    """
    while not history.names_our_product:
        if history.predecessor is None or history.predecessor != history.named_predecessor:
            return False
        history = histories[history.predecessor]
    return True


def _observed_predecessor(history: _History, histories: Mapping[str, _History]) -> str | None:
    """The last agreement of the chain that AWS was observed to count it to, where the event that named it was lost."""
    observed = history.last(FactKind.OBSERVED)
    initial = observed.initial_agreement_id if observed else None
    if initial is None or initial == history.id or initial not in histories:
        return None
    return [histories[initial], *_descendants(histories[initial], histories)][-1].id


def _replaced(history: _History, histories: Mapping[str, _History]) -> str | None:
    """The one agreement that ended as REPLACED and that nobody continues, for a replacement that names none."""
    agreed = history.last(FactKind.AGREED)
    if agreed is None or agreed.intent != "REPLACE" or agreed.previous_agreement_id:
        return None
    ended = [
        other
        for other in histories.values()
        if other is not history
        and _is_ours(other, histories)
        and other.successor is None
        and (end := other.last(FactKind.ENDED)) is not None
        and end.status == "REPLACED"
    ]
    if len(ended) == 1:
        return ended[0].id
    history.alarms.append(f"replaces an agreement that is not named; {len(ended)} could be meant")
    return None


def _former_holder(history: _History, histories: Mapping[str, _History]) -> str | None:
    """The agreement that held the same licence before: a renewal may go on with it."""
    start = _starts_at(history)
    former = [
        other
        for other in histories.values()
        if other is not history
        and other.license_ids & history.license_ids
        and (_starts_at(other), other.id) < (start, history.id)
    ]
    return max(former, key=lambda other: (_starts_at(other), other.id)).id if former else None


def _starts_at(history: _History) -> datetime:
    first = history.first(FactKind.AGREED, FactKind.ACTIVATED) or history.facts[0]
    return first.at


def _leads_to(histories: Mapping[str, _History], start: str, target: str) -> bool:
    """Whether following predecessors from ``start`` meets ``target``: such a link would close a circle."""
    current: str | None = start
    while current is not None:
        if current == target:
            return True
        current = histories[current].predecessor
    return False


def _chain(history: _History, histories: Mapping[str, _History]) -> list[_History]:
    """The agreement and all that it continues, newest first."""
    chain = [history]
    while chain[-1].predecessor is not None:
        chain.append(histories[chain[-1].predecessor])
    return chain


def _descendants(history: _History, histories: Mapping[str, _History]) -> list[_History]:
    """All that continue the agreement, oldest first."""
    descendants: list[_History] = []
    while history.successor is not None:
        history = histories[history.successor]
        descendants.append(history)
    return descendants


def _settle(
    history: _History,
    histories: Mapping[str, _History],
    *,
    product: ProductTerms,
    now: datetime,
    plans: Collection[str] | None,
) -> Agreement:
    """The state of one agreement."""
    chain = _chain(history, histories)
    descendants = _descendants(history, histories)
    succeeded = any(_is_ours(other, histories) and other.is_activated for other in descendants)
    # The keys of a chain belong to its newest licensed agreement alone, or to its first while none is licensed.
    holds_keys = not succeeded and (history.is_activated or history.predecessor is None)
    activation = _activation(history, product)
    registration = history.first(FactKind.REGISTERED)
    entitled = history.last(FactKind.ENTITLED)
    end = _end(history)
    is_registered = any(member.first(FactKind.REGISTERED) for member in chain)
    is_entitled = entitled is not None and _is_entitled(entitled, now)
    if succeeded:
        state, cause = State.ENDED, end[2] if end else "SUPERSEDED"
    elif end is not None:
        state, cause = end[0], end[2]
    elif activation is not None:
        state, cause = State.ACTIVE, None
        if product.pricing_model.has_contract and not is_entitled:
            state, end = _waiting(registration), _expiry(entitled)
            if end is not None:
                state, _, cause = end
    else:
        state, cause = _waiting(registration), None
    assignments = _assignments(chain)
    plan = plan_at(assignments, now)
    offer_id = next((fact.offer_id for fact in reversed(history.facts) if fact.offer_id), None)
    is_granted = state is State.ACTIVE and is_registered
    lacks_plan = is_granted and plans is not None and plan not in plans
    is_offer_known = history.kind is AgreementKind.LEGACY or offer_id is not None
    plan_alarms = [_plan_alarm(plan, is_offer_known=is_offer_known)] if lacks_plan else []
    return Agreement(
        id=history.id,
        kind=history.kind,
        buyer=history.buyer,
        state=state,
        root=chain[-1].id,
        product_code=product.product_code,
        license_arn=_license_arn(chain),
        is_registered=is_registered,
        grants_access=is_granted and not lacks_plan,
        registered_at=registration.at if registration else None,
        activated_at=activation.at if activation else None,
        ended_at=end[1] if end else None,
        cause=cause,
        predecessor=history.predecessor,
        successor=history.successor,
        offer_id=offer_id,
        account_id=_account_id(history),
        entitlements=entitled.entitlements if entitled else (),
        assignments=assignments,
        keys=_keys(chain) if holds_keys else (),
        alarms=(*history.alarms, *_status_alarms(history), *_silence_alarms(history, activation, now), *plan_alarms),
    )


def _license_arn(chain: Sequence[_History]) -> str | None:
    """The licence of the first of a chain as AWS meters it.

    Nobody registers again after a renewal, so only an event names its licence, and BatchMeterUsage may not take an
    event's spelling [UNCONF]: then all but its ``l-…`` is spelled as the licence of the agreement before it was.
    """
    own = chain[0].metered_arn
    told = next((fact.license_arn for fact in chain[0].facts if fact.license_arn), None)
    if own is not None or told is None:
        return own
    for before in chain[1:]:
        arn = before.metered_arn
        if arn is not None and arn.endswith(license_id(arn)):
            return arn.removesuffix(license_id(arn)) + license_id(told)
    return f"arn:{told}" if told.startswith("aws") else told


def _waiting(registration: Fact | None) -> State:
    return State.REGISTERED if registration else State.PENDING


def _activation(history: _History, product: ProductTerms) -> Fact | None:
    if product.is_legacy and product.pricing_model is PricingModel.CONTRACT:
        return next((f for f in history.facts if f.kind is FactKind.ENTITLED and f.entitlements), None)
    failed, activated = history.last(FactKind.FAILED), history.last(FactKind.ACTIVATED)
    if failed is not None and (activated is None or activated.at < failed.at):
        return None
    return history.activation


def _end(history: _History) -> tuple[State, datetime, str] | None:
    """State, time and cause of the end, if it has come and AWS has not been observed to say otherwise."""
    observed = history.last(FactKind.OBSERVED)
    if history.kind is AgreementKind.LEGACY:
        last = history.last(FactKind.DEPROVISIONED) or history.last(FactKind.ENDING, FactKind.ACTIVATED)
        if last is None or last.kind is FactKind.ACTIVATED:
            return None
        state = State.ENDED if last.kind is FactKind.DEPROVISIONED else State.ENDING
        return state, last.at, "CANCELLED"

    def stands(fact: Fact | None) -> bool:
        return fact is not None and not (
            observed is not None and observed.status == "ACTIVE" and observed.at > fact.at + OBSERVATION_LAG
        )

    ends = [fact for fact in history.facts if fact.kind in {FactKind.ENDED, FactKind.OBSERVED}]
    ended = next((fact for fact in ends if fact.status in ENDING_STATUSES and stands(fact)), None)
    deprovisioned = history.first(FactKind.DEPROVISIONED)
    latest = history.last(FactKind.DEPROVISIONED)
    if deprovisioned is not None and stands(latest):
        cause = next((f.status for f in ends if f.status in ENDING_STATUSES | SUCCEEDED_STATUSES), None)
        return State.ENDED, deprovisioned.at, cause or "DEPROVISIONED"
    if ended is not None:
        # The last usage is accepted no longer by then, whether or not License Deprovisioned came.
        is_over = any(fact.status in ENDING_STATUSES and fact.at > ended.at + OBSERVATION_LAG for fact in ends)
        return State.ENDED if is_over else State.ENDING, ended.at, str(ended.status)
    return None


def _expiry(entitled: Fact | None) -> tuple[State, datetime, str] | None:
    """State, time and cause of a contract's end by its term, or by GetEntitlements having nothing left of it."""
    if entitled is None:
        return None
    terms = [right.expires_at for right in entitled.entitlements if right.expires_at is not None]
    return State.ENDED, max(terms, default=entitled.at), "EXPIRED"


def _status_alarms(history: _History) -> list[str]:
    known = ENDING_STATUSES | SUCCEEDED_STATUSES
    return [
        f"ended with the status {fact.status}, which revokes nothing"
        for fact in history.facts
        if fact.kind is FactKind.ENDED and fact.status not in known
    ]


def _silence_alarms(history: _History, activation: Fact | None, now: datetime) -> list[str]:
    registration = history.first(FactKind.REGISTERED)
    if history.kind is AgreementKind.CONCURRENT or registration is None or activation is not None:
        return []
    if history.last(FactKind.FAILED, FactKind.DEPROVISIONED) or now < registration.at + ACTIVATION_LAG:
        return []
    return ["registered over a day ago, and no notification has said whether it subscribed: it has no access"]


def _plan_alarm(plan: str | None, *, is_offer_known: bool) -> str:
    told = "" if is_offer_known else ", as far as can be told without its offer, which AWS has not named"
    what = f"its plan {plan} is not deployed" if plan else "no plan is assigned to it, and no document's AssignTo does"
    return f"{what}{'' if plan else told}: it grants no access"


def _account_id(history: _History) -> str | None:
    if history.kind is AgreementKind.CONCURRENT:
        return history.buyer
    return next((fact.account_id for fact in reversed(history.facts) if fact.account_id), None)


def _assignments(chain: Sequence[_History]) -> tuple[Assignment, ...]:
    """Of the chain, by hour; for one hour the last word counts.

    What the documents gave to an agreement before it was known to continue another counts only where nothing that was
    said of that other holds.
    """
    by_hour: dict[datetime, Fact] = {}
    for member in reversed(chain):
        inherited = list(by_hour)
        for fact in member.facts:
            hour = fact.takes_effect_at
            if fact.kind is not FactKind.ASSIGNED or hour is None or not fact.plan:
                continue
            if fact.id == documents_assignment(member.id) and any(earlier <= hour for earlier in inherited):
                continue
            by_hour[hour] = max(fact, by_hour.get(hour, fact), key=lambda one: (one.at, one.id))
    return tuple(
        Assignment(plan=fact.plan, takes_effect_at=hour) for hour, fact in sorted(by_hour.items()) if fact.plan
    )


def _keys(chain: Sequence[_History]) -> tuple[Key, ...]:
    """Every key of the chain, in the order in which they were issued."""
    facts = [fact for member in chain for fact in member.facts if fact.key_sha256]
    keys = {
        fact.key_sha256: Key(
            number=fact.key_number or 0, name=fact.key_name or "", sha256=fact.key_sha256, issued_at=fact.at
        )
        for fact in facts
        if fact.kind is FactKind.KEY_ISSUED and fact.key_sha256
    }
    for fact in facts:
        key = keys.get(fact.key_sha256 or "")
        if key is None:
            continue
        if fact.kind is FactKind.KEY_CREATED:
            key = replace(key, api_key_id=fact.api_key_id)
        elif fact.kind is FactKind.KEY_ABANDONED:
            key = replace(key, is_abandoned=True)
        elif fact.kind is FactKind.KEY_RETIRED and fact.takes_effect_at is not None:
            retire_at = fact.takes_effect_at if key.retire_at is None else min(key.retire_at, fact.takes_effect_at)
            key = replace(key, retire_at=retire_at)
        keys[key.sha256] = key
    return tuple(sorted(keys.values(), key=lambda key: (key.issued_at, key.number)))
