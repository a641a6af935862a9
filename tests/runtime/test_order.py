"""Whatever order, number and delay events come in: the same state and the same access as in order."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
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
    LICENSED,
    PREFIX,
    START,
    Sale,
    event,
    notification,
)

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


@pytest.mark.parametrize("lost", range(4))
def test_one_lost_event_is_made_up_for_by_asking_aws(lost: int) -> None:
    story = [
        event(CREATED, intent="NEW"),
        event(LICENSED, at=START + timedelta(minutes=1)),
        event(ENDED, at=START + timedelta(days=2), status="CANCELLED"),
        event(DEPROVISIONED, at=START + timedelta(days=2, minutes=1)),
    ]
    sale = Sale()
    registration = sale.register()
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.tell(*(message for number, message in enumerate(story[:2]) if number != lost))
    sale.wait(hours=1)
    sale.reconcile(observes_all=False)
    key = sale.issue(registration)
    assert sale.opens(key)
    sale.wait(days=2)
    sale.marketplace.statuses["agmt-one"] = "CANCELLED"
    sale.tell(*(message for number, message in enumerate(story) if number != lost and number >= 2))
    sale.reconcile()
    assert not sale.opens(key)
