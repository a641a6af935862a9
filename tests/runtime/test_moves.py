"""Plans of agreements: given by the documents, moved by an operator at a whole hour, with the same key throughout."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest
from faults import Crash, Trap, Trapped, aws_error, faults, until_done
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_sale import HOUR, READ, WRITE, PlannedSale, sold, two_plans
from sale import BUYER, CONTRACT, CREATED, CUSTOMER, ENDED, LEGACY, LICENSED, PREFIX, START, Sale, event, notification

from marketplace_constructs.domain.agreements import Entitlement
from marketplace_constructs.domain.product import AgreementKind, Metering, PricingModel
from marketplace_constructs.runtime.agreements.marketplace import ResolvedCustomer
from marketplace_constructs.runtime.agreements.reconciliation import SnapshotApiKeys, product_codes, reconcile
from marketplace_constructs.runtime.agreements.service import KeyRefused
from marketplace_constructs.runtime.plan_versions import HeldPlans
from marketplace_constructs.runtime.settings import AgreementsSettings

NEXT = START + HOUR


def hourly(sale: PlannedSale) -> None:
    """The reconciliation as the function runs it."""
    keys = SnapshotApiKeys(sale.api_keys, prefix=PREFIX)
    outcome = reconcile(
        facts=sale.facts,
        service=sale.service,
        access=sale.access_over(keys),
        api_keys=keys,
        key_prefix=PREFIX,
        clock=lambda: sale.now,
        observes_all=False,
    )
    assert outcome.failed == 0


def test_an_agreement_gets_the_plan_of_the_documents_before_its_first_call() -> None:
    sale = two_plans()
    sale.wait(minutes=40)
    key = sold(sale)
    assert sale.assigned() == [("reader@1", START)]
    assert sale.api_keys.plans_of(key) == ["plan-of-reader@1"]
    assert [sale.gate(key, route) for route in (READ, WRITE)] == ["Allow", "Deny"]


def test_an_assignment_is_by_what_was_deployed_a_moment_ago() -> None:
    sale = two_plans()
    sale.register()
    sale.tell(event(CREATED))
    sale.hold("special@1", READ, assign_to={"Accounts": [BUYER]})
    sale.wait(seconds=1)
    sale.tell(event(LICENSED))
    assert sale.assigned() == [("special@1", START)]
    assert sale.opens(sale.issue(sale.register()))


def test_an_activation_that_is_told_late_has_its_plan_from_the_hour_of_the_activation() -> None:
    sale = two_plans()
    sale.wait(hours=3)
    sale.register()
    sale.tell(event(LICENSED, at=START + timedelta(minutes=59)))
    assert sale.assigned() == [("reader@1", START)]


def test_nobody_is_assigned_before_both_registration_and_activation() -> None:
    sale = two_plans()
    sale.tell(event(CREATED), event(LICENSED))
    assert sale.assigned() == []
    assert not any(agreement.alarms for agreement in sale.service.agreements(BUYER))


@pytest.mark.parametrize(
    ("assign_to", "plan"),
    [
        ({"Offers": ["offer-example"]}, "special@1"),
        ({"Offers": ["offer-other"]}, "reader@1"),
        ({"Accounts": [BUYER]}, "special@1"),
    ],
)
def test_the_documents_may_mean_an_offer_or_an_account(assign_to: dict[str, list[str]], plan: str) -> None:
    sale = two_plans().hold("special@1", READ, assign_to=assign_to)
    sold(sale)
    assert sale.plan() == plan


def test_the_documents_may_mean_a_contract_right() -> None:
    sale = two_plans(product=CONTRACT).hold("gold@1", READ, assign_to={"Entitlement": "seats"})
    for arn in (
        "arn:aws:license-manager::123456789012:license:l-one",
        "aws:license-manager:us-east-1:123456789012:l-one",
    ):
        sale.marketplace.rights[BUYER, arn] = (Entitlement(dimension="seats", value="5"),)
    sold(sale)
    assert sale.plan() == "gold@1"


def test_the_documents_may_mean_the_account_of_a_legacy_buyer() -> None:
    sale = two_plans(product=LEGACY)
    sale.marketplace.customers["token"] = ResolvedCustomer(
        product_code="abc123", customer_identifier=CUSTOMER, customer_aws_account_id="444455556666"
    )
    sale.tell(notification("subscribe-success"))
    sale.service.register("token")
    (agreement,) = sale.service.agreements(CUSTOMER)
    assert agreement.plan_at(sale.now) == "writer@1"


def test_an_agreement_that_no_document_means_gets_no_access_and_is_pointed_out() -> None:
    sale = PlannedSale().hold("private@1", READ, assign_to={"Offers": ["offer-other"]})
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    assert sale.service.issue_key(BUYER, registration.reference) is None
    with pytest.raises(KeyRefused):
        sale.service.rotate_key(BUYER, registration.reference, timedelta())
    (agreement,) = sale.access.make_match(BUYER)
    assert "no plan is assigned" in agreement.alarms[0]
    # A person decides, and the buyer gets in.
    sale.assign("private@1", START)
    assert sale.opens(sale.issue(registration))


def test_an_agreement_stays_on_its_version_until_it_is_moved() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.hold("reader@2", READ, WRITE, assign_to="Default")
    sale.wait(hours=2)
    hourly(sale)
    assert sale.plan() == "reader@1"
    assert sale.gate(key, WRITE) == "Deny"
    other = sale.register("token-two", "agmt-two")
    sale.tell(event(LICENSED, "agmt-two", at=sale.now))
    sale.issue(other)
    assert sale.plan("agmt-two") == "reader@2"


def test_a_move_takes_effect_at_its_hour_with_the_same_key() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.assign("writer@1", NEXT)
    sale.api_keys.calls.clear()
    sale.now = NEXT - timedelta(seconds=1)
    assert sale.gate(key, WRITE) == "Deny"
    sale.now = NEXT
    # The gate needs nobody's help at the hour: it was told before.
    assert sale.gate(key, WRITE) == "Allow"
    assert sale.opens(key)
    sale.wait(minutes=1)
    hourly(sale)
    assert sale.api_keys.calls == [("leave", "plan-of-reader@1"), ("join", "plan-of-writer@1")]
    assert sale.opens(key)
    sale.api_keys.calls.clear()
    sale.wait(hours=1)
    hourly(sale)
    assert sale.api_keys.calls == []


def test_both_keys_of_a_rotation_move() -> None:
    sale = two_plans()
    old = sold(sale)
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=24))
    sale.assign("writer@1", NEXT)
    sale.wait(hours=1, minutes=1)
    hourly(sale)
    assert [sale.api_keys.plans_of(key) for key in (old, new)] == [["plan-of-writer@1"]] * 2
    assert sale.opens(old)
    assert sale.opens(new)


def test_a_key_that_is_made_after_a_move_is_put_into_the_new_plan_at_once() -> None:
    sale = two_plans()
    sold(sale)
    sale.assign("writer@1", NEXT)
    sale.wait(hours=1)
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=1))
    assert sale.api_keys.plans_of(new) == ["plan-of-writer@1"]
    assert sale.opens(new)


def test_a_renewal_keeps_plan_and_key_and_what_was_to_come() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.assign("writer@1", START + 48 * HOUR)
    sale.wait(days=1)
    sale.tell(
        event(CREATED, "agmt-two", at=sale.now, intent="RENEW", previousAgreementId="agmt-one"),
        event(ENDED, at=sale.now, status="RENEWED"),
        event(LICENSED, "agmt-two", at=sale.now),
    )
    assert sale.plan("agmt-two") == "reader@1"
    assert sale.opens(key)
    sale.wait(days=1)
    hourly(sale)
    assert sale.plan("agmt-two") == "writer@1"
    assert sale.api_keys.plans_of(key) == ["plan-of-writer@1"]


def test_a_changed_usage_plan_of_the_same_plan_takes_the_keys_along() -> None:
    sale = two_plans()
    key = sold(sale)
    # The usage plan that was replaced is gone at once, whenever the table that was deployed with it holds.
    sale.hold("reader@1", READ, WRITE, assign_to="Default", since=NEXT + HOUR, usage_plan_id="plan-made-anew")
    api_key = next(sale.api_keys.named(PREFIX)).id
    sale.api_keys.leave("plan-of-reader@1", api_key)
    sale.wait(hours=1, minutes=1)
    hourly(sale)
    assert sale.gate(key, WRITE) == "Deny"
    assert sale.api_keys.plans_of(key) == ["plan-made-anew"]
    assert sale.opens(key)


def test_buyers_from_before_there_were_documents_get_the_default_and_keep_their_key() -> None:
    before = Sale(usage_plan_id="plan-without-documents")
    registration = before.register()
    before.tell(event(CREATED), event(LICENSED))
    key = before.issue(registration)
    sale = two_plans(usage_plan_id="plan-without-documents", facts=before.facts, entries=before.entries)
    sale.api_keys.__dict__.update(before.api_keys.__dict__)
    sale.wait(days=9)
    switched: list[bool] = []
    sale.api_keys.set_enabled = lambda _, *, enabled: switched.append(enabled)  # type: ignore[method-assign]
    hourly(sale)
    assert sale.assigned() == [("reader@1", START)]
    assert sale.api_keys.plans_of(key) == ["plan-of-reader@1"]
    assert sale.opens(key)
    assert switched == []  # it was never shut out


def test_an_end_takes_the_key_out_of_whatever_plan_it_is_in() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.assign("writer@1", NEXT)
    sale.wait(hours=1)
    sale.tell(event(ENDED, at=sale.now, status="CANCELLED"))
    assert sale.api_keys.plans_of(key) == []
    assert sale.gate(key) == "Deny"


def test_a_key_that_somebody_put_into_another_of_our_plans_is_put_back() -> None:
    sale = two_plans()
    key = sold(sale)
    api_key = next(sale.api_keys.named(PREFIX)).id
    sale.api_keys.leave("plan-of-reader@1", api_key)
    hourly(sale)
    assert sale.opens(key)
    sale.api_keys.leave("plan-of-reader@1", api_key)
    sale.api_keys.join("plan-of-writer@1", api_key)
    hourly(sale)
    assert sale.api_keys.plans_of(key) == ["plan-of-reader@1"]


def test_whoever_has_a_plan_that_left_the_stack_is_pointed_out_and_gets_in_by_another() -> None:
    sale = two_plans()
    key = sold(sale)
    api_key = next(sale.api_keys.named(PREFIX)).id
    sale.hold("reader@1", READ, since=NEXT)  # no AssignTo: it left the stack, and its usage plan with it
    sale.hold("standard@1", READ, assign_to="Default", since=START)
    sale.api_keys.leave("plan-of-reader@1", api_key)
    real = sale.api_keys.is_member

    def is_member(usage_plan_id: str, api_key_id: str) -> bool:
        # No function is allowed to ask about a usage plan that is not its stack's.
        assert usage_plan_id != "plan-of-reader@1"
        return real(usage_plan_id, api_key_id)

    sale.api_keys.is_member = is_member  # type: ignore[method-assign]
    sale.wait(minutes=1)
    (agreement,) = sale.access.make_match(BUYER)
    assert agreement.alarms == ("its plan reader@1 is not deployed: it grants no access",)
    assert sale.gate(key) == "Deny"
    other = sale.register("token-two", "agmt-two")
    sale.tell(event(LICENSED, "agmt-two", at=sale.now))
    sale.issue(other)
    assert sale.plan("agmt-two") == "standard@1"
    sale.assign("standard@1", NEXT)
    sale.wait(hours=1)
    sale.access.make_match(BUYER)
    assert sale.opens(key)


def test_two_who_assign_at_once_make_one_assignment() -> None:
    sale = two_plans()
    sale.register()
    real = sale.facts.add

    def interleaved(fact: Any) -> bool:
        if fact.kind == "assigned":
            sale.facts.add = real  # type: ignore[method-assign]
            sale.wait(seconds=1)
            sale.hold("reader@2", READ, assign_to="Default")
            two = sale.access_over(sale.api_keys)
            two.make_match(BUYER)
        return real(fact)

    sale.facts.add = interleaved  # type: ignore[method-assign]
    sale.tell(event(CREATED), event(LICENSED))
    assert sale.assigned() == [("reader@2", START)]
    assert sale.opens(sale.issue(sale.register()))


def test_an_assignment_by_another_clock_that_goes_ahead_is_no_reason_to_settle_nothing() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.now = START - timedelta(minutes=1)
    sale.access.make_match(BUYER)
    (entry,) = [sale.entries.get(key.sha256) for key in sale.service.agreements(BUYER)[0].keys]
    assert entry is not None
    assert not entry.is_open
    assert len(sale.assigned()) == 1
    sale.now = START
    sale.access.make_match(BUYER)
    assert sale.opens(key)


def test_a_move_survives_each_fault_of_each_call() -> None:
    def move(trap: Trap) -> None:
        sale = two_plans()
        key = sold(sale)
        sale.assign("writer@1", NEXT)
        sale.wait(hours=1, minutes=1)
        real = sale.api_keys
        for name in ("_facts", "_entries", "_api_keys"):
            setattr(sale.access, name, Trapped(getattr(sale.access, name), trap))
        until_done(trap, lambda: sale.access.make_match(BUYER))
        assert real.plans_of(key) == ["plan-of-writer@1"]
        assert sale.opens(key)
        assert [call for call, _ in real.calls].count("leave") <= 2

    assert len(list(faults(move))) > 40


def test_a_crash_between_leave_and_join_is_repaired_by_the_next_run() -> None:
    sale = two_plans()
    key = sold(sale)
    sale.assign("writer@1", NEXT)
    sale.wait(hours=1, minutes=1)
    real = sale.api_keys.join

    def dies(*_: str) -> None:
        raise Crash

    sale.api_keys.join = dies  # type: ignore[method-assign]
    with pytest.raises(Crash):
        hourly(sale)
    assert sale.api_keys.plans_of(key) == []
    sale.api_keys.join = real  # type: ignore[method-assign]
    hourly(sale)
    assert sale.api_keys.plans_of(key) == ["plan-of-writer@1"]
    assert sale.opens(key)


def test_a_usage_plan_that_is_gone_fails_its_buyers_alone() -> None:
    sale = two_plans()
    sold(sale)
    sale.assign("writer@1", NEXT)
    sale.wait(hours=1, minutes=1)

    def refuses(*_: str) -> None:
        raise aws_error("NotFoundException", 404)

    sale.api_keys.join = refuses  # type: ignore[method-assign]
    assert sale.reconcile(observes_all=False).failed == 1


def settings_of(metering: Metering) -> AgreementsSettings:
    return AgreementsSettings(
        product_code="abc123",
        agreement_kind=AgreementKind.LEGACY,
        pricing_model=PricingModel.SUBSCRIPTION,
        metering=metering,
        metering_region="us-east-1",
        facts_table="facts",
        keys_table="keys",
        usage_plan_id="plan12345",
        key_prefix=PREFIX,
    )


def test_the_product_code_is_on_each_plan_that_is_sold_and_on_no_other() -> None:
    sale = two_plans().hold("internal@1", READ, assign_to="Default", channel="Internal").hold("gone@1", READ)
    held = HeldPlans(sale.versions)
    sold_by, internal = ("plan-of-reader@1", "plan-of-writer@1"), "plan-of-internal@1"
    native, pipeline = settings_of(Metering.NATIVE), settings_of(Metering.PIPELINE)
    assert product_codes(native, held, START) == {**dict.fromkeys(sold_by, "abc123"), internal: ""}
    assert product_codes(pipeline, held, START) == dict.fromkeys((*sold_by, internal), "")
    assert product_codes(native, None, START) == {"plan12345": "abc123"}
    assert product_codes(pipeline, None, START) == {"plan12345": ""}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["reader@1", "writer@1", "other@1"]), st.integers(1, 5)), max_size=6))
def test_at_every_hour_the_key_is_where_the_last_word_for_it_says(moves: list[tuple[str, int]]) -> None:
    sale = two_plans().hold("other@1", READ, assign_to={"Accounts": ["444455556666"]})
    key = sold(sale)
    expected = {0: "reader@1"}
    for minute, (plan, hours) in enumerate(moves):
        sale.now = START + timedelta(minutes=minute)
        sale.assign(plan, START + hours * HOUR, settles=minute % 2 == 0)
        expected[hours] = plan
    if moves:
        sale.access.make_match(BUYER)
    for hour in itertools.takewhile(lambda hour: hour < 7, itertools.count()):
        plan = expected[max(begun for begun in expected if begun <= hour)]
        sale.now = START + hour * HOUR + timedelta(seconds=1 if hour else 30 * 60)
        assert sale.plan() == plan
        assert sale.gate(key, WRITE) == ("Allow" if plan == "writer@1" else "Deny")
        sale.wait(minutes=1)
        hourly(sale)
        assert sale.api_keys.plans_of(key) == [f"plan-of-{plan}"]
        assert sale.opens(key)


def test_buyers_keep_access_when_a_sale_comes_to_have_documents_and_when_it_has_none_again() -> None:
    sale = PlannedSale().hold("every-call@1", READ, assign_to="Default")
    key = sold(sale)
    sale.wait(hours=5, minutes=20)
    # A deployment: the one plan leaves the stack, and its usage plan with it.
    sale.hold("every-call@1", READ, since=START + 6 * HOUR)
    sale.hold("reader@1", READ, assign_to="Default", since=START + 5 * HOUR)
    api_key = next(sale.api_keys.named(PREFIX)).id
    sale.api_keys.leave("plan-of-every-call@1", api_key)
    hourly(sale)
    assert (sale.plan(), sale.opens(key)) == ("reader@1", True)
    sale.wait(hours=3)
    sale.hold("reader@1", READ, since=START + 9 * HOUR)
    sale.hold("every-call@1", READ, assign_to="Default", since=START + 8 * HOUR)
    sale.api_keys.leave("plan-of-reader@1", api_key)
    hourly(sale)
    assert (sale.plan(), sale.opens(key)) == ("every-call@1", True)
    assert sale.assigned() == [
        ("every-call@1", START),
        ("reader@1", START + 5 * HOUR),
        ("every-call@1", START + 8 * HOUR),
    ]
