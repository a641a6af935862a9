"""Who gets in, and who no longer does: the production service over in-memory ports."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

import boto3
import pytest
from botocore.stub import Stubber
from hypothesis import given, settings
from hypothesis import strategies as st
from protected import Weakness
from sale import (
    BUYER,
    CONCURRENT,
    CONTRACT,
    CREATED,
    CUSTOMER,
    DEPROVISIONED,
    ENDED,
    LEGACY,
    LICENSED,
    PLAN,
    PREFIX,
    START,
    Sale,
    event,
    notification,
)

from marketplace_constructs.domain.agreements import Entitlement, license_id
from marketplace_constructs.domain.product import Dimension, Product
from marketplace_constructs.domain.subscription_events import MalformedEvent
from marketplace_constructs.runtime.agreements.marketplace import (
    AwsMarketplace,
    DescribedAgreement,
    ResolvedCustomer,
    TokenRefused,
)
from marketplace_constructs.runtime.agreements.service import KeyRefused


@pytest.fixture
def sale() -> Sale:
    return Sale()


@pytest.fixture
def legacy() -> Sale:
    return Sale(product=LEGACY)


def sold(sale: Sale) -> str:
    """A concurrent agreement, from landing page to working key."""
    registration = sale.register()
    sale.tell(event(CREATED, intent="NEW", status="ACTIVE"), event(LICENSED))
    return sale.issue(registration)


@pytest.mark.protects(Weakness.REQUEST_GOES_ON_AFTER_REFUSAL)
def test_a_buyer_who_registers_and_is_activated_gets_one_working_key(sale: Sale) -> None:
    key = sold(sale)
    assert sale.opens(key)
    assert sale.service.issue_key(BUYER, "agmt-one") is None


@pytest.mark.protects(Weakness.REGISTRATION_FORGETS_EVENTS)
def test_events_before_the_registration_activate_it(sale: Sale) -> None:
    sale.tell(event(LICENSED), event(CREATED, intent="NEW"))
    assert sale.opens(sale.issue(sale.register()))


@pytest.mark.protects(Weakness.ACCESS_BEFORE_ACTIVATION)
def test_no_key_works_before_activation(sale: Sale) -> None:
    registration = sale.register()
    assert sale.states() == {"agmt-one": "registered"}
    assert sale.service.issue_key(registration.buyer, registration.reference) is None
    with pytest.raises(KeyRefused):
        sale.service.rotate_key(registration.buyer, registration.reference, timedelta())


def test_no_key_without_registration(sale: Sale) -> None:
    sale.tell(event(CREATED), event(LICENSED))
    assert sale.states() == {"agmt-one": "active"}
    assert sale.service.issue_key(BUYER, "agmt-one") is None


@pytest.mark.parametrize("status", ["CANCELLED", "EXPIRED", "TERMINATED"])
def test_an_ended_agreement_shuts_its_key_out_of_both_locks(sale: Sale, status: str) -> None:
    key = sold(sale)
    sale.wait(minutes=5)
    sale.tell(event(ENDED, at=sale.now, status=status))
    assert sale.gate(key) == "Deny"
    assert not sale.api_keys.opens(PLAN, key)
    assert sale.states() == {"agmt-one": "ending"}
    sale.tell(event(DEPROVISIONED, at=sale.now))
    assert sale.states() == {"agmt-one": "ended"}


@pytest.mark.protects(Weakness.END_REACHES_TOO_FAR)
@pytest.mark.parametrize("status", ["RENEWED", "REPLACED", "SUPERSEDED"])
def test_a_continued_agreement_keeps_the_key_without_registering_again(sale: Sale, status: str) -> None:
    key = sold(sale)
    sale.wait(days=30)
    sale.tell(event(ENDED, at=sale.now, status=status))
    assert sale.opens(key)
    sale.tell(event(CREATED, "agmt-two", at=sale.now, intent="RENEW", previousAgreementId="agmt-one"))
    assert sale.opens(key)
    sale.tell(event(LICENSED, "agmt-two", at=sale.now))
    assert sale.opens(key)
    assert sale.states() == {"agmt-one": "ended", "agmt-two": "active"}
    sale.tell(event(DEPROVISIONED, at=sale.now))
    assert sale.opens(key)
    sale.wait(days=1)
    sale.tell(event(ENDED, "agmt-two", at=sale.now, status="CANCELLED"))
    assert not sale.opens(key)


def test_a_renewal_under_the_same_license_continues_it(sale: Sale) -> None:
    key = sold(sale)
    sale.wait(days=30)
    same = "arn:aws:license-manager::123456789012:license/l-one"
    sale.tell(event(LICENSED, "agmt-two", at=sale.now, license_arn=same), event(DEPROVISIONED, at=sale.now))
    assert sale.opens(key)


def test_a_replacement_that_names_nobody_continues_the_one_that_was_replaced(sale: Sale) -> None:
    key = sold(sale)
    sale.wait(days=1)
    sale.tell(
        event(ENDED, at=sale.now, status="REPLACED"),
        event(CREATED, "agmt-two", at=sale.now, intent="REPLACE"),
        event(LICENSED, "agmt-two", at=sale.now),
        event(DEPROVISIONED, at=sale.now),
    )
    assert sale.opens(key)


def test_a_replacement_that_could_continue_two_continues_neither(sale: Sale) -> None:
    keys = [sold(sale)]
    registration = sale.register("token-two", "agmt-two")
    sale.tell(event(LICENSED, "agmt-two"))
    keys.append(sale.issue(registration))
    sale.wait(days=1)
    sale.tell(
        event(ENDED, at=sale.now, status="REPLACED"),
        event(ENDED, "agmt-two", at=sale.now, status="REPLACED"),
        event(CREATED, "agmt-six", at=sale.now, intent="REPLACE"),
        event(LICENSED, "agmt-six", at=sale.now),
    )
    found = {agreement.id: agreement for agreement in sale.service.agreements(BUYER)}
    assert found["agmt-six"].predecessor is None
    assert "2 could be meant" in found["agmt-six"].alarms[0]
    assert not found["agmt-six"].grants_access
    assert [sale.opens(key) for key in keys] == [True, True]


def test_a_named_predecessor_goes_before_a_guess_by_license(sale: Sale) -> None:
    # Everything within one second, and the renewal's id sorts before that of what it renews.
    same = "aws:license-manager:us-east-1:123456789012:l-same"
    sale.tell(
        event(CREATED, "agmt-old", intent="NEW"),
        event(LICENSED, "agmt-old", license_arn=same),
        event(CREATED, "agmt-new", intent="RENEW", previousAgreementId="agmt-old"),
        event(LICENSED, "agmt-new", license_arn=same),
        event(ENDED, "agmt-old", status="RENEWED"),
    )
    assert {agreement.root for agreement in sale.service.agreements(BUYER)} == {"agmt-old"}
    assert sale.states() == {"agmt-new": "active", "agmt-old": "ended"}


def test_agreements_that_name_each_other_as_predecessor_make_no_circle(sale: Sale) -> None:
    sale.tell(
        event(CREATED, intent="RENEW", previousAgreementId="agmt-two"),
        event(CREATED, "agmt-two", intent="RENEW", previousAgreementId="agmt-one"),
        event(LICENSED),
        event(LICENSED, "agmt-two"),
    )
    assert len(sale.service.agreements(BUYER)) == 2


def test_a_renewal_has_the_root_of_its_chain(sale: Sale) -> None:
    sold(sale)
    sale.tell(
        event(CREATED, "agmt-two", at=sale.now, intent="RENEW", previousAgreementId="agmt-one"),
        event(LICENSED, "agmt-two", at=sale.now),
    )
    assert {agreement.root for agreement in sale.service.agreements(BUYER)} == {"agmt-one"}


def test_an_unknown_end_status_revokes_nothing_and_is_pointed_out(sale: Sale) -> None:
    key = sold(sale)
    sale.tell(event(ENDED, at=sale.now, status="ROLLED_BACK"))
    assert sale.opens(key)
    assert "ROLLED_BACK" in sale.service.agreements(BUYER)[0].alarms[0]


@pytest.mark.protects(Weakness.END_REACHES_TOO_FAR, Weakness.ONE_KEY_PER_ACCOUNT)
def test_two_agreements_of_one_buyer_stay_apart(sale: Sale) -> None:
    first = sold(sale)
    second_registration = sale.register("token-two", "agmt-two")
    sale.tell(event(LICENSED, "agmt-two"))
    second = sale.issue(second_registration)
    assert first != second
    sale.tell(event(ENDED, status="CANCELLED", at=sale.now + timedelta(minutes=1)))
    assert not sale.opens(first)
    assert sale.opens(second)


def test_another_product_and_another_catalog_change_nothing(sale: Sale) -> None:
    key = sold(sale)
    before = sale.facts.of_buyer(BUYER)
    sale.tell(
        event(DEPROVISIONED, product_code="other", request_id="1"),
        event(ENDED, status="CANCELLED", catalog="Elsewhere", request_id="2"),
    )
    assert sale.facts.of_buyer(BUYER) == before
    assert sale.opens(key)


@pytest.mark.protects(Weakness.CHEAPER_TOKEN)
def test_a_token_of_another_product_is_refused(sale: Sale) -> None:
    token = sale.token("token", product_code="other")
    with pytest.raises(TokenRefused, match="foreign"):
        sale.service.register(token)
    assert sale.facts.of_buyer(BUYER) == ()


@pytest.mark.parametrize("suffix", ["Proposer", "Manufacturer"])
def test_partner_offers_end_agreements_too(sale: Sale, suffix: str) -> None:
    key = sold(sale)
    sale.tell(event(f"Purchase Agreement Ended - {suffix}", at=sale.now, status="CANCELLED"))
    assert not sale.opens(key)


@pytest.mark.protects(Weakness.OLD_TOKEN_REVIVES)
def test_a_token_posted_again_after_the_end_grants_nothing(sale: Sale) -> None:
    key = sold(sale)
    sale.wait(minutes=1)
    sale.tell(event(ENDED, at=sale.now, status="CANCELLED"), event(DEPROVISIONED, at=sale.now))
    registration = sale.service.register("token")
    assert not registration.is_fresh
    assert sale.service.issue_key(registration.buyer, registration.reference) is None
    assert not sale.opens(key)


def test_only_the_first_redemption_of_a_token_is_fresh(sale: Sale) -> None:
    assert sale.register().is_fresh
    sale.wait(seconds=1)
    assert not sale.service.register("token").is_fresh


def test_rotation_keeps_the_old_key_for_as_long_as_chosen(sale: Sale) -> None:
    old = sold(sale)
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=3))
    sale.wait(hours=2, minutes=59)
    assert sale.opens(old)
    assert sale.opens(new)
    sale.wait(minutes=2)
    assert sale.gate(old) == "Deny"
    assert sale.opens(new)
    sale.reconcile()
    assert not sale.api_keys.opens(PLAN, old)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


def test_rotation_without_overlap_ends_the_old_key_at_once(sale: Sale) -> None:
    old = sold(sale)
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    assert not sale.opens(old)
    assert sale.opens(new)


def test_rotating_twice_leaves_two_keys_at_most(sale: Sale) -> None:
    first = sold(sale)
    second = sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=24))
    third = sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=24))
    assert [sale.opens(key) for key in (first, second, third)] == [False, True, True]


def test_a_leaked_key_can_be_ended_before_its_overlap_is_over(sale: Sale) -> None:
    old = sold(sale)
    sale.service.rotate_key(BUYER, "agmt-one", timedelta(hours=24))
    sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    assert not sale.opens(old)


def test_overlap_is_held_within_a_day(sale: Sale) -> None:
    old = sold(sale)
    sale.service.rotate_key(BUYER, "agmt-one", timedelta(days=30))
    sale.wait(hours=24)
    assert not sale.opens(old)


def test_a_license_known_by_no_agreement_is_joined_when_the_event_names_it(sale: Sale) -> None:
    token = sale.token("token", agreement_id=None)
    registration = sale.service.register(token)
    assert registration.reference == "l-one"
    sale.tell(event(LICENSED))
    assert sale.opens(sale.issue(registration))


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:license-manager::123456789012:license:l-0123456789abcdef",
        "arn:aws:license-manager::123456789012:license/l-0123456789abcdef",
        "aws:license-manager:us-east-1:123456789012:l-0123456789abcdef",
    ],
)
def test_the_spellings_of_a_license_are_one(arn: str) -> None:
    assert license_id(arn) == "l-0123456789abcdef"


def test_a_license_is_metered_as_resolve_customer_spells_it(sale: Sale) -> None:
    sale.tell(event(LICENSED))
    assert sale.service.agreements(BUYER)[0].license_arn == "arn:aws:license-manager:us-east-1:123456789012:l-one"
    sale.register()
    assert sale.service.agreements(BUYER)[0].license_arn == "arn:aws:license-manager::123456789012:license:l-one"


def test_a_wrong_product_code_in_the_configuration_shuts_nobody_out(sale: Sale) -> None:
    key = sold(sale)
    wrong = Sale(
        product=Product.concurrent("typo", dimensions=[Dimension.requests("calls")]),
        facts=sale.facts,
        entries=sale.entries,
        api_keys=sale.api_keys,
    )
    wrong.reconcile()
    assert sale.opens(key)


# legacy agreements


@pytest.mark.protects(Weakness.NOTIFICATION_MISREAD)
def test_a_legacy_buyer_is_let_in_and_shut_out_by_notifications(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-success"))
    key = legacy.issue(registration)
    assert legacy.opens(key)
    assert next(legacy.api_keys.named(PREFIX)).customer_id == CUSTOMER
    legacy.wait(minutes=1)
    legacy.tell(notification("unsubscribe-pending", at=legacy.now))
    assert not legacy.opens(key)
    assert legacy.states(CUSTOMER) == {f"{CUSTOMER}/1": "ending"}
    legacy.tell(notification("unsubscribe-success", at=legacy.now + timedelta(minutes=1)))
    assert legacy.states(CUSTOMER) == {f"{CUSTOMER}/1": "ended"}


def test_a_legacy_buyer_of_whom_nothing_is_told_is_pointed_out_after_a_day(legacy: Sale) -> None:
    def alarms() -> tuple[str, ...]:
        return legacy.service.agreements(CUSTOMER)[0].alarms

    registration = legacy.register()
    legacy.wait(hours=23, minutes=59)
    assert alarms() == ()
    legacy.wait(minutes=1)
    assert "no notification" in alarms()[0]
    legacy.tell(notification("subscribe-success", at=legacy.now))
    assert alarms() == ()
    assert legacy.opens(legacy.issue(registration))


def test_a_legacy_buyer_whose_subscription_failed_is_not_waited_for(legacy: Sale) -> None:
    legacy.register()
    legacy.tell(notification("subscribe-fail"))
    legacy.wait(days=2)
    assert legacy.service.agreements(CUSTOMER)[0].alarms == ()


def test_what_aws_says_of_a_license_means_nothing_to_a_legacy_product(legacy: Sale) -> None:
    legacy.marketplace.customers["token"] = ResolvedCustomer(
        product_code="abc123",
        customer_identifier=CUSTOMER,
        customer_aws_account_id=BUYER,
        license_arn="arn:aws:license-manager::123456789012:license:l-one",
        agreement_id="agmt-one",
    )
    registration = legacy.service.register("token")
    legacy.tell(notification("subscribe-success"))
    assert registration.buyer == CUSTOMER
    assert legacy.opens(legacy.issue(registration))


@pytest.mark.protects(Weakness.ACCESS_BEFORE_ACTIVATION)
def test_a_failed_subscription_grants_nothing(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-fail"))
    assert legacy.service.issue_key(CUSTOMER, registration.reference) is None


def test_a_failure_after_a_success_takes_the_access(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-success"))
    key = legacy.issue(registration)
    legacy.tell(notification("subscribe-fail", at=START + timedelta(minutes=1)))
    assert not legacy.opens(key)


def test_subscribing_again_instead_of_the_end_lets_the_same_key_in(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-success"))
    key = legacy.issue(registration)
    legacy.tell(notification("unsubscribe-pending", at=START + timedelta(minutes=1)))
    legacy.tell(notification("subscribe-success", at=START + timedelta(minutes=2)))
    assert legacy.opens(key)


def test_subscribing_after_the_end_is_a_new_agreement_that_registers_anew(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-success"))
    old = legacy.issue(registration)
    legacy.tell(
        notification("unsubscribe-pending", at=START + timedelta(minutes=1)),
        notification("unsubscribe-success", at=START + timedelta(minutes=2)),
        notification("subscribe-success", at=START + timedelta(minutes=3)),
    )
    assert not legacy.opens(old)
    assert legacy.service.issue_key(CUSTOMER, "") is None
    legacy.wait(minutes=4)
    new = legacy.issue(legacy.register("another token"))
    assert legacy.opens(new)
    assert not legacy.opens(old)


@pytest.mark.protects(Weakness.PREFIX_OF_ANOTHER_ID)
def test_customers_whose_ids_begin_alike_stay_apart() -> None:
    sale = Sale(product=LEGACY)
    for customer in ("abc", "abcd"):
        sale.marketplace.customers[customer] = ResolvedCustomer(product_code="abc123", customer_identifier=customer)
        sale.tell(notification("subscribe-success", customer=customer, message_id=customer))
    keys = {customer: sale.issue(sale.service.register(customer)) for customer in ("abcd", "abc")}
    sale.wait(minutes=1)
    sale.tell(notification("unsubscribe-pending", customer="abc", at=sale.now))
    assert not sale.opens(keys["abc"])
    assert sale.opens(keys["abcd"])


@pytest.mark.protects(Weakness.FORGED_NOTIFICATION)
def test_a_notification_of_another_topic_is_refused(legacy: Sale) -> None:
    forged = "arn:aws:sns:us-east-1:123456789012:aws-mp-subscription-notification-abc123"
    with pytest.raises(MalformedEvent, match="TopicArn"):
        legacy.tell(notification("unsubscribe-success", topic=forged))
    assert legacy.facts.of_buyer(CUSTOMER) == ()


@pytest.mark.parametrize("body", ["", "[]", "null", '{"source": "aws.agreement-marketplace"}', '{"source": "other"}'])
def test_an_unreadable_message_is_refused_and_not_dropped(sale: Sale, body: str) -> None:
    with pytest.raises(MalformedEvent):
        sale.tell(body)


@pytest.mark.protects(Weakness.UNKNOWN_MESSAGE_IS_DROPPED)
def test_an_unknown_kind_of_event_is_recorded_and_changes_nothing(sale: Sale, legacy: Sale) -> None:
    key = sold(sale)
    sale.tell(event("Purchase Agreement Frozen - Proposer"))
    assert sale.opens(key)
    assert "Purchase Agreement Frozen - Proposer" in {fact.note for fact in sale.facts.of_buyer(BUYER)}
    legacy.tell(notification("subscribe-perhaps"))
    assert [fact.note for fact in legacy.facts.of_buyer(CUSTOMER)] == ["subscribe-perhaps"]


# contracts


@pytest.mark.protects(Weakness.FIRST_ENTITLEMENT_ONLY)
def test_a_contract_grants_while_any_entitlement_has_not_expired() -> None:
    sale = Sale(product=CONTRACT)
    arn = "arn:aws:license-manager::123456789012:license:l-one"
    rights = (
        Entitlement(dimension="seats", value="5", expires_at=START - timedelta(days=1)),
        Entitlement(dimension="seats", value="5", expires_at=START + timedelta(days=1)),
    )
    sale.marketplace.rights[BUYER, arn] = rights
    sale.marketplace.rights[BUYER, "aws:license-manager:us-east-1:123456789012:l-one"] = rights
    key = sold(sale)
    assert sale.opens(key)
    sale.wait(days=2)
    sale.reconcile()
    assert not sale.opens(key)
    assert sale.states() == {"agmt-one": "ended"}


@pytest.mark.parametrize("prolonged", [True, False])
def test_an_expired_contract_whose_prolongation_nobody_told_of_is_asked_about_for_a_week(*, prolonged: bool) -> None:
    sale = Sale(product=CONTRACT)
    arn = "arn:aws:license-manager::123456789012:license:l-one"
    sale.marketplace.rights[BUYER, arn] = (Entitlement(dimension="seats", expires_at=START + timedelta(days=1)),)
    registration = sale.register()
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.reconcile()
    key = sale.issue(registration)
    sale.wait(days=2)
    sale.reconcile()
    assert not sale.opens(key)
    assert sale.service.agreements(BUYER)[0].ended_at == START + timedelta(days=1)
    sale.wait(days=5 if prolonged else 7)
    sale.marketplace.rights[BUYER, arn] = (Entitlement(dimension="seats", expires_at=START + timedelta(days=90)),)
    sale.reconcile()
    assert sale.opens(key) == prolonged


@pytest.mark.protects(Weakness.GRANT_HIDES_EXPIRY)
def test_an_expired_contract_gets_no_key_at_registration() -> None:
    sale = Sale(product=CONTRACT)
    expired = (Entitlement(dimension="seats", value="5", expires_at=START - timedelta(days=1)),)
    sale.marketplace.rights[BUYER, "arn:aws:license-manager::123456789012:license:l-one"] = expired
    sale.tell(event(LICENSED))
    assert sale.service.issue_key(BUYER, sale.register().reference) is None


# lost events and drift


def test_a_lost_activation_is_found_by_asking_aws(sale: Sale) -> None:
    registration = sale.register()
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.reconcile(observes_all=False)
    assert sale.opens(sale.issue(registration))


def test_a_lost_end_is_found_by_asking_aws(sale: Sale) -> None:
    key = sold(sale)
    sale.marketplace.statuses["agmt-one"] = "CANCELLED"
    sale.wait(days=1)
    sale.reconcile()
    assert not sale.opens(key)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"startTime": START}, DescribedAgreement(status="ACTIVE", initial_agreement_id="agmt-one")),
        ({"startTime": START + timedelta(seconds=1)}, None),
        ("ResourceNotFoundException", None),
        ("AccessDeniedException", None),
    ],
)
def test_an_agreement_is_described_once_it_has_begun(
    answer: dict[str, datetime] | str, expected: DescribedAgreement | None
) -> None:
    client = boto3.client("marketplace-agreement", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    asked = {"agreementId": "agmt-two"}
    with Stubber(client) as stub:
        if isinstance(answer, str):
            stub.add_client_error("describe_agreement", answer, expected_params=asked)
        else:
            told = {"agreementId": "agmt-two", "status": "ACTIVE", "initialAgreementId": "agmt-one", **answer}
            stub.add_response("describe_agreement", told, asked)
        described = AwsMarketplace(
            metering=lambda: None,  # type: ignore[arg-type, return-value]
            entitlement=lambda: None,  # type: ignore[arg-type, return-value]
            agreement=lambda: client,
            clock=lambda: START,
        ).describe_agreement("agmt-two")
    assert described == expected


def test_an_end_is_taken_back_only_when_aws_says_so_later(sale: Sale) -> None:
    key = sold(sale)
    sale.tell(event(ENDED, at=sale.now, status="CANCELLED"), event(DEPROVISIONED, at=sale.now))
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.wait(minutes=59)
    sale.reconcile()
    assert not sale.opens(key)
    sale.wait(minutes=2)
    sale.reconcile()
    assert sale.opens(key)


def test_drift_of_keys_is_repaired(sale: Sale) -> None:
    key = sold(sale)
    api_key = next(sale.api_keys.named(PREFIX))
    sale.api_keys.set_enabled(api_key.id, enabled=False)
    sale.api_keys.leave(PLAN, api_key.id)
    sale.reconcile()
    assert sale.opens(key)


def test_a_lost_customer_id_is_put_back_because_native_metering_rests_on_it(legacy: Sale) -> None:
    registration = legacy.register()
    legacy.tell(notification("subscribe-success"))
    legacy.issue(registration)
    legacy.api_keys.set_customer_id(next(legacy.api_keys.named(PREFIX)).id, "")
    legacy.reconcile()
    assert next(legacy.api_keys.named(PREFIX)).customer_id == CUSTOMER


def test_a_key_that_nobody_was_promised_is_removed(sale: Sale) -> None:
    sold(sale)
    sale.api_keys.create(name=f"{PREFIX}agmt-one/7", value="x" * 20, customer_id="")
    sale.api_keys.create(name="somebody else's", value="y" * 20, customer_id="")
    assert sale.reconcile().orphans == 1
    assert [key.name for key in sale.api_keys.named("")] == [f"{PREFIX}agmt-one/1", "somebody else's"]


# order


STORY = (
    event(CREATED, at=START, intent="NEW", status="ACTIVE"),
    event(LICENSED, at=START + timedelta(minutes=1)),
    event(CREATED, "agmt-two", at=START + timedelta(days=30), intent="RENEW", previousAgreementId="agmt-one"),
    event(ENDED, at=START + timedelta(days=30), status="RENEWED"),
    event(LICENSED, "agmt-two", at=START + timedelta(days=30, minutes=1)),
    event(DEPROVISIONED, at=START + timedelta(days=30, minutes=2)),
    event(LICENSED, "agmt-six", at=START + timedelta(days=31)),
    event(ENDED, "agmt-six", at=START + timedelta(days=32), status="CANCELLED"),
    event(DEPROVISIONED, "agmt-six", at=START + timedelta(days=32)),
)


@pytest.mark.protects(Weakness.LATE_EVENT_REVIVES)
@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(len(STORY))),
    doubled=st.sets(st.integers(0, len(STORY) - 1)),
    when=st.integers(0, 9),
)
def test_every_order_of_events_ends_the_same(order: list[int], doubled: set[int], when: int) -> None:
    in_order, shuffled = Sale(), Sale()
    in_order.register()
    in_order.tell(*STORY)
    told = [STORY[index] for index in order] + [STORY[index] for index in doubled]
    for number, message in enumerate(told):
        if number == when:
            shuffled.register()
        shuffled.tell(message)
    if when >= len(told):
        shuffled.register()
    assert shuffled.states() == in_order.states() == {"agmt-one": "ended", "agmt-two": "active", "agmt-six": "ended"}
    key = shuffled.service.issue_key(BUYER, "agmt-one")
    assert key is not None
    assert shuffled.opens(key)


LEGACY_STORY = tuple(
    notification(action, at=START + timedelta(minutes=minute))
    for minute, action in enumerate(
        (
            "subscribe-success",
            "unsubscribe-pending",
            "subscribe-success",
            "unsubscribe-pending",
            "unsubscribe-success",
        ),
        1,
    )
)


@pytest.mark.parametrize("order", list(itertools.permutations(range(len(LEGACY_STORY)))))
def test_every_order_of_notifications_ends_the_same(order: tuple[int, ...]) -> None:
    sale = Sale(product=LEGACY)
    sale.register()
    sale.tell(*(LEGACY_STORY[index] for index in order))
    assert sale.states(CUSTOMER) == {f"{CUSTOMER}/1": "ended"}
    assert sale.service.issue_key(CUSTOMER, "") is None


def test_a_stale_run_has_not_the_last_word(sale: Sale) -> None:
    key = sold(sale)
    digest = sale.service.agreements(BUYER)[0].keys[0].sha256
    stale = sale.entries.get(digest)
    sale.tell(event(ENDED, at=sale.now, status="CANCELLED"))
    assert stale is not None
    assert not sale.entries.put(stale)
    assert not sale.opens(key)


def test_concurrent_and_legacy_products_are_told_by_different_messages(sale: Sale, legacy: Sale) -> None:
    with pytest.raises(MalformedEvent):
        sale.tell(notification("subscribe-success"))
    with pytest.raises(MalformedEvent):
        legacy.tell(event(LICENSED))
    assert CONCURRENT.is_legacy is False
