"""Cases in which other systems let the wrong buyer in, or shut the right one out, that no other test here is about."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from faults import aws_error
from onboarding_world import TOKEN_FIELD, World
from protected import Weakness
from sale import (
    BUYER,
    CONTRACT,
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

from marketplace_constructs.domain.agreements import Entitlement
from marketplace_constructs.domain.product import Dimension, Product
from marketplace_constructs.domain.subscription_events import MalformedEvent
from marketplace_constructs.runtime import subscription_events
from marketplace_constructs.runtime.agreements.marketplace import AwsMarketplace
from marketplace_constructs.runtime.memory import MemoryFacts

LICENSE = "arn:aws:license-manager::123456789012:license:l-one"


def sold(sale: Sale) -> str:
    registration = sale.register()
    sale.tell(notification("subscribe-success") if sale.product.is_legacy else event(LICENSED))
    return sale.issue(registration)


def two_products() -> tuple[Sale, Sale]:
    """Two products of one seller in one account, each with its plan, and the same buyer's tokens for both."""
    cheap = Sale(
        product=Product.concurrent("cheap", dimensions=[Dimension.requests("calls")]),
        usage_plan_id="cheap-plan",
        key_prefix="Cheap/",
    )
    dear = Sale(
        product=Product.concurrent("dear", dimensions=[Dimension.requests("calls")]),
        usage_plan_id="dear-plan",
        key_prefix="Dear/",
        api_keys=cheap.api_keys,
    )
    return cheap, dear


@pytest.mark.protects(Weakness.REGISTRATION_FORGETS_EVENTS)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("product", [LEGACY, Sale().product], ids=["legacy", "concurrent"])
def test_a_registration_after_the_activation_ends_with_one_key(product: Product, times: int) -> None:
    sale = Sale(product=product)
    sale.tell(notification("subscribe-success") if product.is_legacy else event(LICENSED))
    for number in range(times):
        registration = sale.register(f"token {number}")
    key = sale.issue(registration)
    assert sale.opens(key)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


@pytest.mark.protects(Weakness.END_REACHES_TOO_FAR, Weakness.ONE_KEY_PER_ACCOUNT)
def test_what_happens_to_one_product_leaves_the_buyers_other_product_alone() -> None:
    cheap, dear = two_products()
    keys = {}
    for sale, agreement in ((cheap, "agmt-cheap"), (dear, "agmt-dear")):
        registration = sale.register(agreement, agreement)
        for told in (cheap, dear):
            told.tell(event(LICENSED, agreement, product_code=sale.product.product_code))
        keys[agreement] = sale.issue(registration)
    # Both stacks hear of every agreement of the seller, and an end names no product.
    for sale in (cheap, dear):
        sale.wait(minutes=1)
        sale.tell(event(ENDED, "agmt-cheap", at=sale.now, status="CANCELLED"))
        sale.reconcile()
    assert not cheap.opens(keys["agmt-cheap"])
    assert dear.opens(keys["agmt-dear"])
    assert dear.states() == {"agmt-dear": "active"}


@pytest.mark.protects(Weakness.PLAN_CHOSEN_BY_CUSTOMER, Weakness.CHEAPER_TOKEN)
def test_the_product_chooses_the_usage_plan_and_no_buyer_does() -> None:
    cheap, dear = two_products()
    registration = cheap.register("token", "agmt-one")
    for sale in (cheap, dear):
        sale.tell(event(LICENSED, product_code="cheap"))
    key = cheap.issue(registration)
    dear.marketplace.customers = cheap.marketplace.customers
    with pytest.raises(Exception, match="foreign"):
        dear.service.register("token")
    assert dear.service.issue_key(BUYER, "agmt-one") is None
    assert cheap.api_keys.opens("cheap-plan", key)
    assert not cheap.api_keys.members("dear-plan")


@pytest.mark.protects(Weakness.NOTIFICATION_MISREAD)
@pytest.mark.parametrize(
    ("action", "pending", "active"),
    [
        ("subscribe-success", "active", "active"),
        ("subscribe-fail", "registered", "registered"),
        ("unsubscribe-pending", "ending", "ending"),
        ("unsubscribe-success", "ended", "ended"),
        ("entitlement-updated", "registered", "active"),
    ],
)
def test_each_notification_of_aws_has_its_own_effect(action: str, pending: str, active: str) -> None:
    new, served = Sale(product=LEGACY), Sale(product=LEGACY)
    new.register()
    key = sold(served)
    for sale, state in ((new, pending), (served, active)):
        sale.wait(minutes=1)
        sale.tell(notification(action, at=sale.now))
        assert sale.states(CUSTOMER) == {f"{CUSTOMER}/1": state}
    assert served.opens(key) == (active == "active")
    assert served.gate(key) == ("Allow" if active == "active" else "Deny")


@pytest.mark.protects(Weakness.ACCESS_BEFORE_ACTIVATION)
def test_a_subscription_that_fails_after_the_registration_leaves_no_key_behind() -> None:
    sale = Sale(product=LEGACY)
    registration = sale.register()
    assert sale.service.issue_key(registration.buyer, registration.reference) is None
    sale.tell(notification("subscribe-fail"))
    sale.reconcile()
    assert sale.service.issue_key(registration.buyer, registration.reference) is None
    assert not list(sale.api_keys.named(""))


@pytest.mark.protects(Weakness.REQUEST_GOES_ON_AFTER_REFUSAL, Weakness.MISSING_FIELD_IS_A_FAULT)
@pytest.mark.parametrize("fields", [{}, {TOKEN_FIELD: ""}, {"token": "x"}])
def test_a_request_without_a_token_ends_there_and_says_what_is_missing(fields: dict[str, str]) -> None:
    world = World()
    asked: list[str] = []
    world.marketplace.resolve_customer = asked.append  # type: ignore[assignment, method-assign]
    reply = world.browser().post("/register", fields)
    assert reply.status == 400
    assert reply.title == "Something is missing"
    assert "AWS Marketplace did not send us what tells who you are" in reply.body
    assert reply.header("Location") == ""
    assert asked == []


@pytest.mark.protects(Weakness.PREFIX_OF_ANOTHER_ID)
def test_a_key_whose_name_begins_like_anothers_is_not_taken_for_it() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    real = sale.api_keys.create

    def dying(**_: Any) -> str:
        raise KeyboardInterrupt

    # The first key was promised and never made, so from now on it is looked for by its name.
    sale.api_keys.create = dying  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sale.service.issue_key(registration.buyer, registration.reference)
    sale.api_keys.create = real  # type: ignore[method-assign]
    for _ in range(11):
        sale.wait(minutes=1)
        key = sale.service.rotate_key(BUYER, "agmt-one", timedelta())
        assert sale.opens(key)
    sale.reconcile()
    assert sale.opens(key)
    assert [found.name for found in sale.api_keys.named("")] == [f"{PREFIX}agmt-one/12"]


ODD = [0, -1, 1.5, 1e400, float("nan"), 10**400, True, None, [], {}, ["x"], "", "\x00", "\ud800", "x" * 5000]


def in_the_queue(*bodies: str) -> dict[str, Any]:
    return {
        "Records": [
            {"messageId": f"m{n}", "body": body, "eventSource": "aws:sqs", "attributes": {}, "receiptHandle": "r"}
            for n, body in enumerate(bodies)
        ]
    }


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Sale:
    """A sale behind the queue's handler."""
    sale = Sale()
    ports = SimpleNamespace(product=sale.product, service=sale.service)
    monkeypatch.setattr(subscription_events, "_dependencies", lambda: ports)
    return sale


def deliver(*bodies: str) -> list[str]:
    answer = subscription_events.handler(in_the_queue(*bodies), None)  # type: ignore[arg-type]
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


@pytest.mark.protects(Weakness.POISON_BLOCKS_ALL)
@pytest.mark.parametrize("value", ODD, ids=repr)
@pytest.mark.parametrize("member", ["requestId", "agreement", "product", "license", "acceptor", "catalog", "offer"])
def test_no_odd_value_keeps_another_buyers_message_back(handled: Sale, member: str, value: object) -> None:
    odd = json.loads(event(LICENSED, "agmt-odd"))
    odd["detail"][member] = value
    inside = json.loads(event(LICENSED, "agmt-inside"))
    if isinstance(inside["detail"][member], dict):
        inside["detail"][member] = dict.fromkeys(inside["detail"][member], value)
    failed = deliver(event(LICENSED), json.dumps(odd), json.dumps(inside), event(LICENSED, "agmt-two"))
    assert not {"m0", "m3"} & set(failed)
    assert {"agmt-one", "agmt-two"} <= set(handled.states())


@pytest.mark.protects(Weakness.FAILED_ENTRY_IS_LOST)
def test_a_message_that_could_not_be_recorded_comes_again_and_then_counts(handled: Sale) -> None:
    refused = ["agmt-two"]
    real = handled.facts.add

    def add(fact: Any) -> bool:
        if fact.agreement_id in refused:
            raise aws_error("ProvisionedThroughputExceededException", 400)
        return real(fact)

    handled.facts.add = add  # type: ignore[method-assign]
    bodies = [event(LICENSED, f"agmt-{number}") for number in ("one", "two", "six")]
    assert deliver(*bodies) == ["m1"]
    assert set(handled.states()) == {"agmt-one", "agmt-six"}
    refused.clear()
    assert deliver(bodies[1]) == []
    assert set(handled.states()) == {"agmt-one", "agmt-two", "agmt-six"}


@pytest.mark.protects(Weakness.FIRST_ENTITLEMENT_ONLY)
def test_entitlements_of_every_page_count_also_after_an_empty_one() -> None:
    expired, valid = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    client = boto3.client("marketplace-entitlement", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    asked = {"ProductCode": "abc123", "Filter": {"CUSTOMER_AWS_ACCOUNT_ID": [BUYER]}}
    right = {"ProductCode": "abc123", "Dimension": "seats", "LicenseArn": LICENSE, "Value": {"IntegerValue": 5}}
    with Stubber(client) as stub:
        stub.add_response(
            "get_entitlements", {"Entitlements": [{**right, "ExpirationDate": expired}], "NextToken": "1"}, asked
        )
        stub.add_response("get_entitlements", {"Entitlements": [], "NextToken": "2"}, {**asked, "NextToken": "1"})
        stub.add_response(
            "get_entitlements", {"Entitlements": [{**right, "ExpirationDate": valid}]}, {**asked, "NextToken": "2"}
        )
        found = AwsMarketplace(
            metering=lambda: None,  # type: ignore[arg-type, return-value]
            entitlement=lambda: client,
            agreement=lambda: None,  # type: ignore[arg-type, return-value]
            clock=lambda: START,
        ).entitlements(product_code="abc123", buyer=BUYER, license_arn=LICENSE)
    assert [entitlement.expires_at for entitlement in found] == [expired, valid]


def contract(until: datetime = START + timedelta(days=30)) -> tuple[Sale, str]:
    """A contract in force, and its key."""
    sale = Sale(product=CONTRACT)
    for arn in (LICENSE, "aws:license-manager:us-east-1:123456789012:l-one"):
        sale.marketplace.rights[BUYER, arn] = (Entitlement(dimension="seats", value="5", expires_at=until),)
    return sale, sold(sale)


@pytest.mark.protects(Weakness.FAILED_CALL_IS_AN_ANSWER)
def test_a_failed_call_leaves_the_last_good_answer_and_the_message_comes_again() -> None:
    sale, key = contract()
    before = sale.service.agreements(BUYER)[0].entitlements
    real = sale.marketplace.entitlements

    def failing(**_: Any) -> tuple[Entitlement, ...]:
        raise aws_error("InternalServiceErrorException", 500)

    sale.marketplace.entitlements = failing  # type: ignore[method-assign]
    again = event(LICENSED, at=START + timedelta(minutes=1), request_id="again")
    with pytest.raises(ClientError):
        sale.tell(again)
    assert sale.opens(key)
    assert sale.service.agreements(BUYER)[0].entitlements == before
    sale.marketplace.entitlements = real  # type: ignore[method-assign]
    sale.tell(again)
    assert sale.opens(key)


@pytest.mark.protects(Weakness.FAILED_CALL_IS_AN_ANSWER)
def test_the_withdrawal_of_a_licence_stands_against_entitlements_that_are_still_listed() -> None:
    sale, key = contract()
    sale.wait(minutes=1)
    sale.tell(event(DEPROVISIONED, at=sale.now))
    sale.tell(event(LICENSED, at=START, request_id="late"))
    sale.reconcile()
    assert not sale.opens(key)
    assert sale.states() == {"agmt-one": "ended"}


@pytest.mark.protects(Weakness.GRANT_HIDES_EXPIRY)
@pytest.mark.parametrize("registers_first", [True, False])
def test_an_agreement_that_is_granted_and_expired_at_once_has_expired(*, registers_first: bool) -> None:
    sale = Sale(product=CONTRACT)
    for arn in (LICENSE, "aws:license-manager:us-east-1:123456789012:l-one"):
        sale.marketplace.rights[BUYER, arn] = (Entitlement(dimension="seats", expires_at=START),)
    for step in (1, 2) if registers_first else (2, 1):
        if step == 1:
            sale.register()
        else:
            sale.tell(event(CREATED), event(LICENSED))
    assert sale.states() == {"agmt-one": "ended"}
    assert sale.service.issue_key(BUYER, "agmt-one") is None
    assert not list(sale.api_keys.named(""))


@pytest.mark.protects(Weakness.FIRST_TIME_IS_NOT_KEPT)
def test_when_a_buyer_first_came_stays_however_often_they_come() -> None:
    sale = Sale()
    for number in range(3):
        sale.register(f"token {number}")
        sale.service.register(f"token {number}")
        sale.wait(days=1)
    assert sale.service.agreements(BUYER)[0].registered_at == START


@pytest.mark.protects(Weakness.LATE_EVENT_REVIVES)
def test_an_end_that_comes_before_its_beginning_stands() -> None:
    sale = Sale()
    sale.wait(days=1)
    sale.tell(event(DEPROVISIONED, at=sale.now), event(ENDED, at=sale.now, status="CANCELLED"))
    sale.tell(event(LICENSED), event(CREATED, intent="NEW", status="ACTIVE"))
    registration = sale.register()
    assert sale.states() == {"agmt-one": "ended"}
    assert sale.service.issue_key(registration.buyer, registration.reference) is None


@pytest.mark.protects(Weakness.LATE_EVENT_REVIVES)
def test_one_event_in_two_deliveries_at_once_counts_once() -> None:
    facts = MemoryFacts()
    sale = Sale(facts=facts)
    registration = sale.register()
    together = threading.Barrier(2)

    class Together(MemoryFacts):
        """Lets the second delivery look before the first has written."""

        def add(self, fact: Any) -> bool:
            together.wait(timeout=10)
            return facts.add(fact)

        def of_buyer(self, buyer: str) -> Any:
            return facts.of_buyer(buyer)

    sale.service._facts = Together()  # type: ignore[misc]
    deliveries = [threading.Thread(target=sale.tell, args=[event(LICENSED)]) for _ in range(2)]
    for delivery in deliveries:
        delivery.start()
    for delivery in deliveries:
        delivery.join()
    sale.service._facts = facts  # type: ignore[misc]
    assert len([fact for fact in facts.of_buyer(BUYER) if fact.kind == "activated"]) == 1
    assert sale.opens(sale.issue(registration))


@pytest.mark.protects(Weakness.STATE_IS_LOST)
def test_a_new_instance_of_the_function_knows_everything_and_a_pending_end_is_not_the_end() -> None:
    first = Sale(product=LEGACY)
    key = sold(first)

    def instance() -> Sale:
        return Sale(product=LEGACY, facts=first.facts, entries=first.entries, api_keys=first.api_keys)

    assert instance().opens(key)
    instance().tell(notification("unsubscribe-pending", at=START + timedelta(minutes=1)))
    # The hour of the end is still metered: the key stays, with the customer whom its last calls are billed to.
    assert instance().states(CUSTOMER) == {f"{CUSTOMER}/1": "ending"}
    assert [found.customer_id for found in first.api_keys.named(PREFIX)] == [CUSTOMER]
    assert not instance().opens(key)
    instance().tell(notification("unsubscribe-success", at=START + timedelta(minutes=61)))
    assert instance().states(CUSTOMER) == {f"{CUSTOMER}/1": "ended"}


@pytest.mark.protects(Weakness.FORGED_NOTIFICATION)
@pytest.mark.parametrize(
    "topic",
    [
        "arn:aws:sns:us-east-1:123456789012:aws-mp-subscription-notification-abc123",
        "arn:aws:sns:eu-west-1:287250355862:aws-mp-subscription-notification-abc123",
        "arn:aws:sqs:us-east-1:287250355862:aws-mp-subscription-notification-abc123",
        "aws-mp-subscription-notification-abc123",
    ],
)
def test_only_the_products_own_topic_ends_a_subscription(topic: str) -> None:
    sale = Sale(product=LEGACY)
    key = sold(sale)
    with pytest.raises(MalformedEvent, match="TopicArn"):
        sale.tell(notification("unsubscribe-success", topic=topic))
    # Another product's topic of AWS itself tells nothing about ours.
    other = "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-other"
    sale.tell(notification("unsubscribe-success", topic=other, at=START + timedelta(minutes=1)))
    assert sale.opens(key)
