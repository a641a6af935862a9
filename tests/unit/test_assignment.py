"""Which plan an agreement gets by what the documents say, and what an assignment means for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marketplace_constructs.domain.agreements import (
    Agreement,
    Entitlement,
    Fact,
    FactKind,
    State,
    agreements_of,
    documents_assignment,
)
from marketplace_constructs.domain.assignment import assigned_plan
from marketplace_constructs.domain.plan_versions import Assignment, PlanVersion
from marketplace_constructs.domain.product import AgreementKind, Dimension, Product

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
BUYER = "111122223333"
CONCURRENT = Product.concurrent("abc123", dimensions=[Dimension.requests("calls")])
LEGACY = Product.legacy("abc123")


def held(plan: str, assign_to: object, **members: str | datetime) -> PlanVersion:
    version = PlanVersion(
        plan=plan,
        holds_from=NOW,
        digest="d",
        usage_plan_id="p",
        channel="Marketplace",
        assign_to=json.dumps(assign_to) if assign_to else "",
    )
    return replace(version, **members)  # type: ignore[arg-type]


DEFAULT = held("retail@1", "Default")
BY_OFFER = held("private@1", {"Offers": ["offer-other", "offer-one"]})
BY_RIGHT = held("gold@1", {"Entitlement": "calls_committed"})
BY_ACCOUNT = held("friend@1", {"Accounts": ["444455556666", BUYER]})


def agreement(*, offer: str | None = None, rights: Sequence[Entitlement] = (), account: str | None = None) -> Agreement:
    return Agreement(
        id="agmt-one",
        kind=AgreementKind.CONCURRENT,
        buyer=BUYER,
        state=State.ACTIVE,
        root="agmt-one",
        offer_id=offer,
        account_id=account,
        entitlements=tuple(rights),
    )


RIGHT = Entitlement(dimension="calls_committed", value="5", expires_at=NOW + timedelta(days=1))


@pytest.mark.parametrize(("has_offer", "has_right", "has_account"), list(itertools.product([False, True], repeat=3)))
def test_the_offer_goes_before_an_entitlement_before_the_account_before_the_default(
    *, has_offer: bool, has_right: bool, has_account: bool
) -> None:
    buyer = agreement(
        offer="offer-one" if has_offer else "offer-public",
        rights=[RIGHT] if has_right else [],
        account=BUYER if has_account else "777788889999",
    )
    expected = "private@1" if has_offer else "gold@1" if has_right else "friend@1" if has_account else "retail@1"
    for order in itertools.permutations([DEFAULT, BY_OFFER, BY_RIGHT, BY_ACCOUNT]):
        assert assigned_plan(buyer, order, now=NOW) == expected


def test_nobody_is_meant_where_no_document_means_the_agreement() -> None:
    assert assigned_plan(agreement(), [BY_OFFER, BY_RIGHT, BY_ACCOUNT], now=NOW) is None
    assert assigned_plan(agreement(), [], now=NOW) is None


def test_an_entitlement_that_has_expired_means_nobody() -> None:
    buyer = agreement(rights=[replace(RIGHT, expires_at=NOW)])
    assert assigned_plan(buyer, [DEFAULT, BY_RIGHT], now=NOW) == "retail@1"
    assert assigned_plan(agreement(rights=[replace(RIGHT, expires_at=None)]), [DEFAULT, BY_RIGHT], now=NOW) == "gold@1"


@pytest.mark.parametrize("channel", ["Internal", "Direct", ""])
def test_a_plan_of_another_channel_is_given_to_no_agreement(channel: str) -> None:
    assert assigned_plan(agreement(), [replace(DEFAULT, channel=channel)], now=NOW) is None


def test_the_highest_version_of_a_plan_is_given() -> None:
    versions = [replace(DEFAULT, plan=f"retail@{number}") for number in (2, 10, 9)]
    assert assigned_plan(agreement(), versions, now=NOW) == "retail@10"
    # What the highest says is what holds: it is not the default any more.
    versions.append(held("retail@11", {"Offers": ["offer-one"]}))
    assert assigned_plan(agreement(), versions, now=NOW) is None
    assert assigned_plan(agreement(offer="offer-one"), versions, now=NOW) == "retail@11"


def test_a_plan_that_is_in_the_stack_no_more_is_given_to_nobody() -> None:
    assert assigned_plan(agreement(), [held("retail@2", None), DEFAULT], now=NOW) == "retail@1"
    assert assigned_plan(agreement(), [held("retail@1", None)], now=NOW) is None


def test_of_two_defaults_the_one_that_was_deployed_last_is_meant() -> None:
    later = held("standard@1", "Default", holds_from=NOW + timedelta(hours=1))
    for order in ([DEFAULT, later], [later, DEFAULT]):
        assert assigned_plan(agreement(), order, now=NOW + timedelta(hours=2)) == "standard@1"


def test_nobody_is_meant_while_it_is_not_known_whether_an_offer_is() -> None:
    unknown = agreement(account=BUYER, rights=[RIGHT])
    assert assigned_plan(unknown, [DEFAULT, BY_RIGHT, BY_ACCOUNT], now=NOW) == "gold@1"
    assert assigned_plan(unknown, [DEFAULT, BY_RIGHT, BY_ACCOUNT, BY_OFFER], now=NOW) is None
    assert assigned_plan(replace(unknown, offer_id="offer-one"), [DEFAULT, BY_OFFER], now=NOW) == "private@1"
    # Not every legacy customer's offer is ever told.
    legacy = replace(unknown, kind=AgreementKind.LEGACY)
    assert assigned_plan(legacy, [DEFAULT, BY_OFFER], now=NOW) == "retail@1"


# what follows from assignments


def fact(kind: FactKind, number: int = 0, **members: object) -> Fact:
    values: dict[str, object] = {
        "id": f"{kind}#{number}#{members.get('agreement_id', 'agmt-one')}",
        "buyer": BUYER,
        "at": NOW,
        "agreement_id": "agmt-one",
        "product_code": None if kind is FactKind.ASSIGNED else "abc123",
        **members,
    }
    return Fact(kind=kind, **values)  # type: ignore[arg-type]


SOLD = (
    fact(FactKind.REGISTERED, license_arn="l-1"),
    fact(FactKind.ACTIVATED, license_arn="l-1", offer_id="offer-one"),
)


def assigned(
    plan: str, hours: int, *, said_at: datetime = NOW, number: int = 0, agreement_id: str = "agmt-one"
) -> Fact:
    return fact(
        FactKind.ASSIGNED,
        number,
        plan=plan,
        takes_effect_at=NOW + timedelta(hours=hours),
        at=said_at,
        agreement_id=agreement_id,
    )


def one(*facts: Fact, plans: Sequence[str] | None = None) -> Agreement:
    (found,) = agreements_of([*SOLD, *facts], product=CONCURRENT, now=NOW, plans=plans)
    return found


def test_an_agreement_has_its_offer_its_account_and_its_assignments_in_order() -> None:
    found = one(assigned("gold@1", 2, number=1), assigned("retail@1", 0))
    assert (found.offer_id, found.account_id) == ("offer-one", BUYER)
    assert found.assignments == (
        Assignment(plan="retail@1", takes_effect_at=NOW),
        Assignment(plan="gold@1", takes_effect_at=NOW + timedelta(hours=2)),
    )
    hours = [found.plan_at(NOW + timedelta(hours=hour)) for hour in (-1, 0, 1, 2, 3)]
    assert hours == [None, "retail@1", "retail@1", "gold@1", "gold@1"]


def test_the_last_word_for_an_hour_counts_whatever_order_it_is_read_in() -> None:
    words = [
        assigned(plan, 1, said_at=NOW + timedelta(minutes=minute), number=minute)
        for minute, plan in enumerate(("retail@1", "gold@1", "retail@2"))
    ]
    for order in itertools.permutations(words):
        assert [assignment.plan for assignment in one(*order).assignments] == ["retail@2"]


def test_the_last_word_for_an_hour_counts_whichever_agreement_of_the_chain_it_was_said_of() -> None:
    renewal = (
        fact(FactKind.AGREED, agreement_id="agmt-two", previous_agreement_id="agmt-one"),
        fact(FactKind.ACTIVATED, agreement_id="agmt-two", license_arn="l-2"),
    )
    for order in (("agmt-one", "agmt-two"), ("agmt-two", "agmt-one")):
        words = [
            assigned(plan, 1, said_at=NOW + timedelta(minutes=minute), agreement_id=order[minute])
            for minute, plan in enumerate(("retail@1", "gold@1"))
        ]
        _, new = agreements_of([*SOLD, *renewal, *words], product=CONCURRENT, now=NOW)
        assert [assignment.plan for assignment in new.assignments] == ["gold@1"]


def test_a_renewal_that_got_a_plan_before_it_was_known_as_one_goes_on_with_the_plan_of_what_it_renews() -> None:
    renewal = (
        fact(FactKind.AGREED, agreement_id="agmt-two", at=NOW, previous_agreement_id="agmt-one"),
        fact(FactKind.ACTIVATED, agreement_id="agmt-two", at=NOW, license_arn="l-2"),
        fact(FactKind.REGISTERED, agreement_id="agmt-two", license_arn="l-2"),
        replace(assigned("retail@1", 1, agreement_id="agmt-two"), id=documents_assignment("agmt-two")),
        assigned("gold@1", -5, number=1),
        assigned("retail@2", 2, agreement_id="agmt-two", number=2),
    )
    _, new = agreements_of([*SOLD, *renewal], product=CONCURRENT, now=NOW)
    assert [new.plan_at(NOW + timedelta(hours=hour)) for hour in (0, 1, 2)] == ["gold@1", "gold@1", "retail@2"]
    # Nothing else speaks for the hour: what the documents gave to the renewal counts.
    _, new = agreements_of([*SOLD, *renewal[:4]], product=CONCURRENT, now=NOW)
    assert new.plan_at(NOW + timedelta(hours=1)) == "retail@1"


def test_a_renewal_goes_on_with_the_plan_of_what_it_renews() -> None:
    renewal = (
        fact(FactKind.AGREED, agreement_id="agmt-two", at=NOW, previous_agreement_id="agmt-one", offer_id="offer-two"),
        fact(FactKind.ACTIVATED, agreement_id="agmt-two", at=NOW, license_arn="l-2"),
        assigned("retail@1", -1),
        assigned("gold@1", 1, agreement_id="agmt-two"),
    )
    old, new = agreements_of([*SOLD, *renewal], product=CONCURRENT, now=NOW, plans=["retail@1"])
    assert (new.id, new.grants_access, new.offer_id) == ("agmt-two", True, "offer-two")
    assert [new.plan_at(NOW), new.plan_at(NOW + timedelta(hours=1))] == ["retail@1", "gold@1"]
    assert old.plan_at(NOW + timedelta(hours=1)) == "retail@1"


@pytest.mark.parametrize(
    ("facts", "plans", "grants", "alarm"),
    [
        ([], None, True, None),
        ([], ["retail@1"], False, "no plan is assigned"),
        ([assigned("retail@1", 0)], ["retail@1"], True, None),
        ([assigned("retail@1", 0)], ["gold@1"], False, "its plan retail@1 is not deployed"),
        ([assigned("retail@1", 1)], ["retail@1"], False, "no plan is assigned"),
    ],
)
def test_an_agreement_without_a_plan_that_holds_grants_nothing_and_is_pointed_out(
    *, facts: list[Fact], plans: list[str] | None, grants: bool, alarm: str | None
) -> None:
    found = one(*facts, plans=plans)
    assert found.grants_access is grants
    assert found.state is State.ACTIVE
    assert alarm is None or alarm in found.alarms[0]
    assert bool(found.alarms) is (alarm is not None)


def test_a_legacy_buyer_has_the_account_that_aws_named_and_each_subscription_its_own_plan() -> None:
    minutes = (NOW + timedelta(minutes=minute) for minute in itertools.count())
    story = [
        fact(FactKind.REGISTERED, 1, agreement_id=None, at=next(minutes), account_id="444455556666"),
        fact(FactKind.ACTIVATED, 1, agreement_id=None, at=next(minutes)),
        fact(FactKind.DEPROVISIONED, 1, agreement_id=None, at=next(minutes)),
        fact(FactKind.REGISTERED, 2, agreement_id=None, at=next(minutes)),
        fact(FactKind.ACTIVATED, 2, agreement_id=None, at=next(minutes)),
        assigned("gold@1", 1, said_at=next(minutes), agreement_id=f"{BUYER}/1"),
        assigned("retail@1", 1, said_at=next(minutes), agreement_id=f"{BUYER}/2", number=2),
    ]
    first, second = agreements_of(story, product=LEGACY, now=NOW)
    assert (first.account_id, second.account_id) == ("444455556666", None)
    assert [a.plan for a in first.assignments] == ["gold@1"]
    assert [a.plan for a in second.assignments] == ["retail@1"]
