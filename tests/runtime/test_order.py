"""Whatever order, number and delay events come in: the same state and the same access as in order."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from sale import (
    BUYER,
    CREATED,
    CUSTOMER,
    DEPROVISIONED,
    ENDED,
    LEGACY,
    LEGACY_CONTRACT,
    LICENSED,
    PREFIX,
    START,
    Sale,
    event,
    notification,
)

from marketplace_constructs.domain.agreements import Entitlement
from marketplace_constructs.runtime.agreements.reconciliation import is_observation_hour
from marketplace_constructs.runtime.agreements.service import KeyRefused

Told = tuple[datetime, str]


@dataclass
class History:
    """A buyer's purchases as AWS would tell of them, in order."""

    told: list[Told]
    tokens: dict[str, str]
    """Registration token of each agreement that the buyer comes with."""
    states: dict[str, str]
    """What it all comes to."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """One to three chains of agreements, each renewed or replaced up to twice, ended or not."""
    names = itertools.count(1)
    told: list[Told] = []
    tokens: dict[str, str] = {}
    states: dict[str, str] = {}
    for _ in range(draw(st.integers(1, 3))):
        at = START + timedelta(days=draw(st.integers(0, 5)), minutes=draw(st.integers(0, 600)))
        agreement = f"agmt-{next(names)}"
        tokens[f"token of {agreement}"] = agreement
        told += [
            (at, event(CREATED, agreement, at=at, intent="NEW", status="ACTIVE")),
            (at, event(LICENSED, agreement, at=at + timedelta(seconds=1))),
        ]
        for _ in range(draw(st.integers(0, 2))):
            at += timedelta(days=draw(st.integers(1, 30)))
            states[agreement] = "ended"
            renewed, agreement = agreement, f"agmt-{next(names)}"
            told += [
                (at, event(CREATED, agreement, at=at, intent="RENEW", previousAgreementId=renewed)),
                (at, event(ENDED, renewed, at=at, status=draw(st.sampled_from(["RENEWED", "REPLACED", "SUPERSEDED"])))),
                (at, event(LICENSED, agreement, at=at + timedelta(seconds=1))),
            ]
            if draw(st.booleans()):
                told.append((at, event(DEPROVISIONED, renewed, at=at + timedelta(seconds=2))))
        states[agreement] = "active"
        if draw(st.booleans()):
            states[agreement] = "ended"
            at += timedelta(days=draw(st.integers(1, 30)))
            status = draw(st.sampled_from(["CANCELLED", "EXPIRED", "TERMINATED"]))
            told += [
                (at, event(ENDED, agreement, at=at, status=status)),
                (at, event(DEPROVISIONED, agreement, at=at + timedelta(seconds=1))),
            ]
    return History(told=told, tokens=tokens, states=states)


@settings(max_examples=150, deadline=None)
@given(history=histories(), random=st.randoms(use_true_random=False))
def test_any_order_comes_to_what_happened(history: History, random: object) -> None:
    sale = Sale()
    steps: list[tuple[str, str]] = [("tell", message) for _, message in history.told]
    steps += random.sample(steps, k=len(steps) // 3)  # type: ignore[attr-defined]  # told twice
    steps += [("register", token) for token in history.tokens]
    random.shuffle(steps)  # type: ignore[attr-defined]
    for step, what in steps:
        if step == "tell":
            sale.tell(what)
        else:
            sale.register(what, history.tokens[what])
    assert sale.states() == history.states
    for agreement in sale.service.agreements(BUYER):
        assert agreement.grants_access == (history.states[agreement.id] == "active")
    for agreement_id in history.tokens.values():
        value = sale.service.issue_key(BUYER, agreement_id)
        assert (value is not None) == sale.service.agreement(BUYER, agreement_id).grants_access  # type: ignore[union-attr]
        assert value is None or sale.opens(value)


class Selling(RuleBasedStateMachine):
    """A concurrent sale in which everything happens at any time; both locks always say what the facts say."""

    pending = Bundle("pending")
    told = Bundle("told")

    def __init__(self) -> None:
        super().__init__()
        self.sale = Sale()
        self.keys: dict[str, str] = {}

    @initialize()
    def begin(self) -> None:
        self.names = itertools.count(1)
        self.current = "agmt-0"
        self.sale.tell(event(LICENSED, self.current, at=self.sale.now))
        self.register(0)
        self.take_key()

    @rule(target=pending)
    def subscribe(self) -> str:
        self.current = f"agmt-{next(self.names)}"
        return event(LICENSED, self.current, at=self.sale.now)

    @rule(target=pending)
    def renew(self) -> str:
        before, self.current = self.current, f"agmt-{next(self.names)}"
        return event(CREATED, self.current, at=self.sale.now, intent="RENEW", previousAgreementId=before)

    @rule(target=pending)
    def license(self) -> str:
        return event(LICENSED, self.current, at=self.sale.now)

    @rule(target=pending, status=st.sampled_from(["CANCELLED", "RENEWED", "EXPIRED", "ROLLED_BACK"]))
    def end(self, status: str) -> str:
        return event(ENDED, self.current, at=self.sale.now, status=status, request_id=f"{self.current}/{status}")

    @rule(target=pending)
    def deprovision(self) -> str:
        return event(DEPROVISIONED, self.current, at=self.sale.now)

    @rule(target=told, message=consumes(pending))
    def deliver(self, message: str) -> str:
        self.sale.tell(message)
        return message

    @rule(message=told)
    def deliver_again(self, message: str) -> None:
        self.sale.tell(message)

    @rule(number=st.integers(0, 3))
    def register(self, number: int) -> None:
        self.sale.register(f"token {self.current} {number}", self.current)

    @rule()
    def take_key(self) -> None:
        value = self.sale.service.issue_key(BUYER, self.current)
        if value is not None:
            self.keys[value] = self.current

    @rule(hours=st.integers(0, 24))
    def rotate(self, hours: int) -> None:
        try:
            value = self.sale.service.rotate_key(BUYER, self.current, timedelta(hours=hours))
        except KeyRefused:
            return
        self.keys[value] = self.current

    @rule(minutes=st.integers(1, 2000))
    def wait(self, minutes: int) -> None:
        self.sale.wait(minutes=minutes)

    @rule()
    def reconcile(self) -> None:
        self.sale.reconcile(observes_all=False)

    @invariant()
    def both_locks_say_what_the_facts_say(self) -> None:
        open_digests = {
            key.sha256
            for agreement in self.sale.service.agreements(BUYER)
            for key in agreement.live_keys(self.sale.now)
            if agreement.grants_access
        }
        for value in self.keys:
            digest = self.digest(value)
            assert (self.sale.gate(value) == "Allow") == (digest in open_digests)
            if digest in open_digests:
                assert self.sale.opens(value)

    @invariant()
    def no_agreement_has_more_than_two_keys(self) -> None:
        # A renewal that got a key of its own before AWS told what it renews brings that key into the chain.
        for agreement in self.sale.service.agreements(BUYER):
            live = [key.name.rpartition("/")[0] for key in agreement.live_keys(self.sale.now)]
            assert all(live.count(made_for) <= 2 for made_for in live)

    def teardown(self) -> None:
        self.sale.reconcile(observes_all=False)
        promised = {fact.key_name for fact in self.sale.facts.of_buyer(BUYER)}
        for key in self.sale.api_keys.named(PREFIX):
            assert key.name in promised
        for value in self.keys:
            if self.sale.gate(value) == "Deny":
                assert not self.sale.api_keys.opens("plan12345", value)

    @staticmethod
    def digest(value: str) -> str:
        return hashlib.sha256(value.encode()).hexdigest()


Selling.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSelling = Selling.TestCase


ACTIONS = ("subscribe-success", "unsubscribe-pending", "unsubscribe-success", "subscribe-fail")


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=7), data=st.data())
def test_any_order_of_notifications_comes_to_what_happened(actions: list[str], data: st.DataObject) -> None:
    messages = [notification(action, at=START + timedelta(minutes=minute)) for minute, action in enumerate(actions, 1)]
    order = data.draw(st.permutations(messages))
    sale = Sale(product=LEGACY)
    sale.register()
    sale.tell(*order, *order[:2])
    # Read in order, it is simple: the registration lasts until the end, and only the last word counts.
    is_registered, was_over = True, False
    for action in actions:
        is_registered = is_registered and not (was_over and action.startswith("subscribe-"))
        was_over = action == "unsubscribe-success" or (was_over and action == "unsubscribe-pending")
    is_in = is_registered and actions[-1] == "subscribe-success"
    key = sale.service.issue_key(CUSTOMER, "")
    assert (key is not None) == is_in
    assert key is None or sale.opens(key)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_cancel_and_resubscribe_within_a_minute_ends_active(order: tuple[int, ...]) -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED, intent="NEW"), event(LICENSED))
    old = sale.issue(registration)
    sale.wait(days=1)
    told = [
        event(ENDED, at=sale.now, status="CANCELLED"),
        event(DEPROVISIONED, at=sale.now + timedelta(seconds=10)),
        event(CREATED, "agmt-two", at=sale.now + timedelta(seconds=40), intent="NEW"),
        event(LICENSED, "agmt-two", at=sale.now + timedelta(seconds=50)),
    ]
    sale.tell(*(told[number] for number in order))
    sale.wait(minutes=1)
    new = sale.issue(sale.register("token two", "agmt-two"))
    sale.reconcile()
    assert sale.states() == {"agmt-one": "ended", "agmt-two": "active"}
    assert (sale.opens(old), sale.opens(new)) == (False, True)


@pytest.mark.parametrize("cancelled", [("unsubscribe-pending",), ("unsubscribe-pending", "unsubscribe-success")])
@pytest.mark.parametrize("is_late", [False, True])
def test_legacy_cancel_and_resubscribe_within_a_minute_ends_active(
    cancelled: tuple[str, ...], *, is_late: bool
) -> None:
    sale = Sale(product=LEGACY)
    sale.register()
    sale.tell(notification("subscribe-success"))
    old = sale.service.issue_key(CUSTOMER, "")
    assert old is not None
    sale.wait(days=1)
    actions = (*cancelled, "subscribe-success")
    told = [notification(action, at=sale.now + timedelta(seconds=20 * n)) for n, action in enumerate(actions)]
    sale.tell(*(reversed(told) if is_late else told))
    sale.wait(minutes=1)
    sale.register("token two")
    sale.reconcile()
    assert list(sale.states(CUSTOMER).values())[-1] == "active"
    # Before the end it is one subscription, whose key goes on; after it, it is a new one, with a key of its own.
    has_ended = "unsubscribe-success" in cancelled
    new = sale.service.issue_key(CUSTOMER, "")
    assert (new is not None) == has_ended
    assert sale.opens(old) != has_ended
    assert new is None or sale.opens(new)


# lost events


@dataclass(frozen=True)
class Chapter:
    """What AWS tells of one happening, and what it answers from then on to whoever asks."""

    told: tuple[str, ...]
    statuses: dict[str, str]
    initial: dict[str, str] = field(default_factory=dict)


def chapters(succession: str, final: str, *, keeps_license: bool) -> list[Chapter]:
    """A purchase that is continued twice and then ends; a happening each third day.

    Args:
        succession: ``RENEWED``, ``REPLACED``, or ``unnamed``: a replacement that names no agreement before it.
        final: Status of the end.
        keeps_license: The agreements of the chain have one licence.
    """
    at = START
    license_arn = "aws:license-manager:us-east-1:123456789012:l-one" if keeps_license else None
    told = [
        event(CREATED, "agmt-one", at=at, intent="NEW"),
        event(LICENSED, "agmt-one", at=at, license_arn=license_arn),
    ]
    story = [Chapter(tuple(told), {"agmt-one": "ACTIVE"})]
    status = "RENEWED" if succession == "RENEWED" else "REPLACED"
    for before, agreement in itertools.pairwise(["agmt-one", "agmt-two", "agmt-three"]):
        at += timedelta(days=3)
        named = {} if succession == "unnamed" else {"previousAgreementId": before}
        intent = "RENEW" if succession == "RENEWED" else "REPLACE"
        told = [
            event(CREATED, agreement, at=at, intent=intent, **named),
            event(ENDED, before, at=at, status=status),
            event(LICENSED, agreement, at=at, license_arn=license_arn),
            event(DEPROVISIONED, before, at=at + timedelta(seconds=1), license_arn=license_arn),
        ]
        story.append(Chapter(tuple(told), {before: status, agreement: "ACTIVE"}, {agreement: "agmt-one"}))
    at += timedelta(days=3)
    told = [
        event(ENDED, "agmt-three", at=at, status=final),
        event(DEPROVISIONED, "agmt-three", at=at, license_arn=license_arn),
    ]
    return [*story, Chapter(tuple(told), {"agmt-three": final})]


@dataclass(frozen=True)
class Standing:
    """What a loss must not change."""

    states: dict[str, str]
    roots: dict[str, str]
    granting: list[str]
    opens: bool
    licenses: dict[str, str]
    """As far as they are known."""


def lived_through(story: list[Chapter], lost: str | None = None) -> list[Standing]:
    """How it stands after each chapter, once the next midnight's run is over: the one that asks AWS of everything."""
    sale = Sale()
    registration = sale.register()
    key = None
    stood = []
    for chapter in story:
        sale.marketplace.statuses |= chapter.statuses
        sale.marketplace.initial |= chapter.initial
        sale.tell(*(message for message in chapter.told if message is not lost))
        begun = sale.now
        sale.wait(hours=1)
        hourly_run(sale)
        # Whoever waits for the first key waits no longer than that, whatever was lost.
        key = key or sale.issue(registration)
        sale.now = (begun + timedelta(days=1)).replace(hour=0)
        hourly_run(sale)
        agreements = sale.service.agreements(BUYER)
        stood.append(
            Standing(
                states=sale.states(),
                roots={agreement.id: agreement.root for agreement in agreements},
                granting=[agreement.id for agreement in agreements if agreement.grants_access],
                opens=sale.opens(key),
                licenses={agreement.id: agreement.license_arn for agreement in agreements if agreement.license_arn},
            )
        )
        sale.now = begun + timedelta(days=3)
    return stood


def hourly_run(sale: Sale) -> None:
    sale.reconcile(observes_all=is_observation_hour(lambda: sale.now, 24))


STORIES = [
    (succession, final, keeps_license)
    for succession, final in (("RENEWED", "CANCELLED"), ("REPLACED", "EXPIRED"), ("unnamed", "TERMINATED"))
    for keeps_license in (False, True)
]


@pytest.mark.parametrize(("succession", "final", "keeps_license"), STORIES)
def test_any_one_lost_event_is_made_up_for_within_a_day(succession: str, final: str, *, keeps_license: bool) -> None:
    story = chapters(succession, final, keeps_license=keeps_license)
    complete = lived_through(story)
    assert [each.granting for each in complete] == [["agmt-one"], ["agmt-two"], ["agmt-three"], []]
    assert [each.opens for each in complete] == [True, True, True, False]
    for number, chapter in enumerate(story):
        for lost in chapter.told:
            happening = json.loads(lost)
            names_license = happening["detail-type"] == LICENSED and number > 0
            if names_license and succession == "unnamed":
                continue  # the next test's
            expected = list(complete)
            if names_license:
                # Nobody but this event told the licence, and none is made up: the meter has an alarm for that.
                known = {**expected[number].licenses}
                del known[happening["detail"]["agreement"]["id"]]
                expected[number] = replace(expected[number], licenses=known)
            assert lived_through(story, lost) == expected, lost


@pytest.mark.parametrize("keeps_license", [False, True])
def test_a_replacement_of_which_nothing_tells_whose_it_is_waits_for_its_buyer(*, keeps_license: bool) -> None:
    purchase, replacement, *_ = chapters("unnamed", "CANCELLED", keeps_license=keeps_license)
    sale = Sale()
    registration = sale.register()
    sale.tell(*purchase.told)
    key = sale.issue(registration)
    sale.wait(days=3)
    sale.marketplace.statuses |= replacement.statuses
    sale.tell(*(message for message in replacement.told if json.loads(message)["detail-type"] != LICENSED))
    sale.reconcile()
    assert not sale.opens(key)
    sale.register("token of the replacement", "agmt-two")
    sale.reconcile(observes_all=False)
    assert sale.states() == {"agmt-one": "ended", "agmt-two": "active"}
    assert sale.opens(key)


# Of a legacy subscription AWS answers nobody who asks: what is lost shuts out sooner or later, and lets nobody in.
NOTIFIED = ("subscribe-success", "unsubscribe-pending", "unsubscribe-success")


@pytest.mark.parametrize(
    ("lost", "states", "opens"),
    [
        (None, ["active", "ending", "ended"], [True, False, False]),
        ("subscribe-success", ["registered", "ending", "ended"], [False, False, False]),
        ("unsubscribe-pending", ["active", "active", "ended"], [True, True, False]),
        ("unsubscribe-success", ["active", "ending", "ending"], [True, False, False]),
    ],
)
def test_a_lost_notification_of_a_legacy_product_lets_nobody_in(
    lost: str | None, states: list[str], opens: list[bool]
) -> None:
    sale = Sale(product=LEGACY)
    sale.register()
    key = None
    stood, opened = [], []
    for action in NOTIFIED:
        sale.wait(days=1)
        if action != lost:
            sale.tell(notification(action, at=sale.now))
        sale.wait(hours=1)
        sale.reconcile()
        key = key or sale.service.issue_key(CUSTOMER, "")
        stood += sale.states(CUSTOMER).values()
        opened.append(key is not None and sale.opens(key))
    assert (stood, opened) == (states, opens)


def test_what_a_lost_notification_of_a_legacy_contract_told_is_read_from_its_entitlements() -> None:
    sale = Sale(product=LEGACY_CONTRACT)
    sale.register()
    sale.reconcile()
    assert sale.service.issue_key(CUSTOMER, "") is None
    until = START + timedelta(days=30)
    sale.marketplace.rights[CUSTOMER, None] = (Entitlement(dimension="seats", value="5", expires_at=until),)
    sale.wait(hours=1)
    sale.reconcile(observes_all=False)
    key = sale.service.issue_key(CUSTOMER, "")
    assert key is not None
    assert sale.opens(key)
    sale.marketplace.rights[CUSTOMER, None] = ()
    sale.wait(days=1)
    sale.reconcile()
    assert not sale.opens(key)
    assert list(sale.states(CUSTOMER).values()) == ["ended"]
