"""What the stand-in tells a seller while agreements live and end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.product import Category, Dimension, DimensionType, PricingModel, Product
from marketplace_constructs.rehearsal.marketplace import (
    AgreementStatus,
    Buyer,
    Deprovisioning,
    EventBridgeEvent,
    Listing,
    Marketplace,
    Notification,
    SettableClock,
    Settings,
    SnsMessage,
)

START = datetime(2026, 11, 21, 10, 37, 12, 345678, tzinfo=UTC)
HOUR = timedelta(hours=1)
SEATS = Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)
CREATED, ENDED = "Purchase Agreement Created - Proposer", "Purchase Agreement Ended - Proposer"
UPDATED, DEPROVISIONED = "License Updated - Manufacturer", "License Deprovisioned - Manufacturer"


class World:
    """A Marketplace whose clock stands still, with one product of each kind and one buyer."""

    def __init__(self, **settings: Any) -> None:
        self.told: list[Notification] = []
        self.clock = SettableClock(lambda: START)
        self.market = Marketplace(self.clock, publish=self.told.append, settings=Settings(**settings))
        self.legacy = self.market.add_product(Product.legacy("old123"))
        self.concurrent = self.market.add_product(
            Product.concurrent("new456", dimensions=[Dimension.requests("calls")])
        )
        self.contract = self.market.add_product(
            Product.concurrent("con789", dimensions=[SEATS], pricing_model=PricingModel.CONTRACT)
        )
        self.legacy_contract = self.market.add_product(
            Product.legacy(
                "old789",
                dimensions=[SEATS, Dimension.requests("apigateway")],
                pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
            )
        )
        self.buyer: Buyer = self.market.add_buyer()

    def names(self) -> list[str]:
        """What was told since the last time, by name."""
        names = [notification.name for notification in self.told]
        self.told.clear()
        return names


@pytest.fixture
def world() -> World:
    return World()


def detail(notification: Notification) -> Any:
    assert isinstance(notification, EventBridgeEvent)
    return notification.envelope["detail"]


def message(notification: Notification) -> Any:
    assert isinstance(notification, SnsMessage)
    return json.loads(notification.message)


def test_subscribing_tells_of_the_agreement_and_then_of_its_licence(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    created, updated = world.told
    assert isinstance(created, EventBridgeEvent)
    assert isinstance(updated, EventBridgeEvent)
    parties = {
        "acceptor": {"accountId": "123456789012"},
        "proposer": {"accountId": "111122223333"},
        "offer": {"id": agreement.offer_id},
    }
    assert created.envelope == {
        "version": "0",
        "id": created.id,
        "detail-type": CREATED,
        "source": "aws.agreement-marketplace",
        "account": "111122223333",
        "time": "2026-11-21T10:37:12Z",
        "region": "us-east-1",
        "resources": [f"arn:aws:aws-marketplace::aws:agreement:{agreement.id}"],
        "detail": {
            "requestId": detail(created)["requestId"],
            "catalog": "AWSMarketplace",
            "agreement": {
                "id": agreement.id,
                "intent": "NEW",
                "status": "ACTIVE",
                "acceptanceTime": "2026-11-21T10:37:12Z",
                "startTime": "2026-11-21T10:37:12Z",
                "endTime": None,
            },
            "resaleAuthorization": None,
            **parties,
        },
    }
    assert detail(updated) == {
        "requestId": detail(updated)["requestId"],
        "catalog": "AWSMarketplace",
        "agreement": {"id": agreement.id},
        "product": {"code": "new456", "id": world.concurrent.product_id},
        "license": {"arn": f"aws:license-manager:us-east-1:111122223333:{agreement.license_id}"},
        **parties,
    }
    assert len({created.id, updated.id, detail(created)["requestId"], detail(updated)["requestId"]}) == 4


def test_license_events_can_spell_the_licence_as_resolve_customer_does() -> None:
    world = World(event_license_without_arn=False)
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    assert detail(world.told[1])["license"]["arn"] == agreement.license_arn


def test_a_partner_offer_sends_only_the_manufacturer_events(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent, reseller_account="999988887777")
    first = detail(world.told[0])
    assert first["proposer"] == {"accountId": "999988887777"}
    assert first["resaleAuthorization"] == {"id": agreement.resale_authorization_id}
    world.market.cancel(agreement)
    assert world.names() == [
        "Purchase Agreement Created - Manufacturer",
        UPDATED,
        "Purchase Agreement Ended - Manufacturer",
        DEPROVISIONED,
    ]


def test_cancelling_ends_the_agreement_and_withdraws_its_licence_at_once(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    world.told.clear()
    world.market.cancel(agreement)
    ended = world.told[0]
    assert detail(ended)["agreement"] == {"id": agreement.id, "status": "CANCELLED"}
    assert "product" not in detail(ended)
    assert world.names() == [ENDED, DEPROVISIONED]


def test_the_licence_can_be_withdrawn_only_at_the_end_of_the_final_window() -> None:
    world = World(deprovisioning=Deprovisioning.CLOSES_FINAL_WINDOW, final_window=timedelta(minutes=30))
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    world.names()
    world.market.cancel(agreement)
    world.clock.advance(timedelta(minutes=29))
    assert world.names() == [ENDED]
    world.clock.advance(timedelta(minutes=1))
    assert world.names() == [DEPROVISIONED]


@pytest.mark.parametrize(
    ("end", "status"),
    [(Marketplace.expire, AgreementStatus.EXPIRED), (Marketplace.terminate, AgreementStatus.TERMINATED)],
)
def test_other_endings_name_their_status(
    world: World, end: Callable[[Marketplace, Any], None], status: AgreementStatus
) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    end(world.market, agreement)
    assert agreement.status is status
    assert detail(world.told[2])["agreement"]["status"] == status


def test_a_renewal_names_its_predecessor_and_may_keep_the_licence(world: World) -> None:
    old = world.market.subscribe(world.buyer, world.contract, term=timedelta(days=30))
    world.told.clear()
    new = world.market.renew(old)
    created = detail(world.told[0])
    assert created["agreement"]["intent"] == "RENEW"
    assert created["agreement"]["previousAgreementId"] == old.id
    assert created["product"] == {"id": world.contract.product_id, "title": "Example API"}
    assert detail(world.told[2])["agreement"] == {"id": old.id, "status": "RENEWED"}
    assert new.license_arn == old.license_arn
    assert new.ends_at == new.starts_at + timedelta(days=30)
    assert world.names() == [CREATED, UPDATED, ENDED]


def test_a_renewal_with_a_new_licence_withdraws_the_old_one(world: World) -> None:
    old = world.market.subscribe(world.buyer, world.concurrent)
    new = world.market.renew(old, same_license=False)
    withdrawn = detail(world.told[-1])
    assert withdrawn["agreement"] == {"id": old.id}
    assert withdrawn["license"]["arn"].endswith(old.license_id)
    assert new.license_id != old.license_id


@pytest.mark.parametrize("names_previous", [False, True])
def test_a_replacement_names_its_predecessor_only_if_set(*, names_previous: bool) -> None:
    world = World(replacement_names_previous=names_previous)
    old = world.market.subscribe(world.buyer, world.concurrent)
    world.told.clear()
    world.market.replace(old)
    created = detail(world.told[0])["agreement"]
    assert created["intent"] == "REPLACE"
    assert ("previousAgreementId" in created) is names_previous
    assert detail(world.told[2])["agreement"]["status"] == "REPLACED"
    assert world.names() == [CREATED, UPDATED, ENDED, DEPROVISIONED]


def test_a_contract_ends_with_its_term(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.contract, term=timedelta(days=30))
    world.clock.advance(timedelta(days=29))
    assert agreement.status == "ACTIVE"
    world.clock.advance(timedelta(days=2))
    assert agreement.status == "EXPIRED"
    assert agreement.ended_at == agreement.ends_at


def test_a_contract_renews_itself_at_the_end_of_each_term(world: World) -> None:
    first = world.market.subscribe(world.buyer, world.contract, term=timedelta(days=30), auto_renew=True)
    world.clock.advance(timedelta(days=61))
    chain = list(world.market.agreements.values())
    assert [agreement.status for agreement in chain] == ["RENEWED", "RENEWED", "ACTIVE"]
    assert {agreement.initial_id for agreement in chain} == {first.id}
    assert chain[2].starts_at == first.starts_at + timedelta(days=60)


def test_an_amendment_keeps_the_agreement_and_tells_of_new_entitlements(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.contract)
    world.told.clear()
    world.market.amend(agreement, entitlements={"seats": 20}, term=timedelta(days=10))
    assert detail(world.told[0])["agreement"]["intent"] == "AMEND"
    assert agreement.entitlements == {"seats": 20}
    assert world.names() == ["Purchase Agreement Amended - Proposer", UPDATED]
    world.market.amend(agreement, term=timedelta(days=20))
    world.clock.advance(timedelta(days=19))
    assert agreement.status == "ACTIVE"
    world.clock.advance(timedelta(days=1))
    assert agreement.status == "EXPIRED"


def test_a_future_dated_agreement_is_activated_when_it_starts(world: World) -> None:
    world.market.subscribe(world.buyer, world.concurrent, starts_in=timedelta(days=3))
    world.market.subscribe(world.buyer, world.legacy, starts_in=timedelta(days=3))
    assert world.names() == [CREATED]
    world.clock.advance(timedelta(days=3))
    assert world.names() == [UPDATED, "subscribe-success"]


def test_a_failed_payment_never_activates(world: World) -> None:
    concurrent = world.market.subscribe(world.buyer, world.concurrent, payment_fails=True)
    legacy = world.market.subscribe(world.buyer, world.legacy, payment_fails=True)
    assert concurrent.activated_at is None
    assert legacy.activated_at is None
    assert detail(world.told[1])["agreement"]["status"] == "ROLLED_BACK"
    assert world.names() == [CREATED, ENDED, "subscribe-fail"]


def test_one_buyer_may_hold_several_concurrent_agreements(world: World) -> None:
    agreements = [world.market.subscribe(world.buyer, world.concurrent) for _ in range(3)]
    assert len({agreement.license_arn for agreement in agreements}) == 3
    assert {agreement.status for agreement in agreements} == {AgreementStatus.ACTIVE}


def test_legacy_messages_have_the_documented_bodies(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.legacy, free_trial=timedelta(days=14))
    sent = world.told[0]
    assert isinstance(sent, SnsMessage)
    assert sent.topic_arn == "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-old123"
    assert sent.published_at == START.replace(microsecond=0)
    assert message(sent) == {
        "action": "subscribe-success",
        "customer-identifier": world.buyer.customer_identifier,
        "product-code": "old123",
        "offer-identifier": agreement.offer_id,
        "isFreeTrialTermPresent": "true",
    }
    world.market.cancel(agreement)
    assert "offer-identifier" not in message(world.told[1])


def test_a_legacy_cancellation_is_pending_for_an_hour_and_then_done(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.legacy)
    world.market.cancel(agreement)
    world.clock.advance(timedelta(minutes=59))
    assert world.names() == ["subscribe-success", "unsubscribe-pending"]
    world.clock.advance(timedelta(minutes=1))
    assert world.names() == ["unsubscribe-success"]


def test_a_quick_new_subscription_takes_the_place_of_the_unsubscription(world: World) -> None:
    world.market.cancel(world.market.subscribe(world.buyer, world.legacy))
    world.clock.advance(timedelta(minutes=10))
    world.market.subscribe(world.buyer, world.legacy)
    world.clock.advance(timedelta(hours=5))
    assert world.names() == ["subscribe-success", "unsubscribe-pending", "subscribe-success"]


def test_a_new_subscription_that_fails_leaves_the_unsubscription_as_it_was(world: World) -> None:
    world.market.cancel(world.market.subscribe(world.buyer, world.legacy))
    world.market.subscribe(world.buyer, world.legacy, payment_fails=True)
    world.clock.advance(HOUR)
    assert world.names()[2:] == ["subscribe-fail", "unsubscribe-success"]


def test_a_legacy_contract_tells_of_entitlements_on_a_topic_of_their_own(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.legacy_contract, entitlements={"seats": 3})
    sent = world.told[1]
    assert isinstance(sent, SnsMessage)
    assert sent.topic_arn == "arn:aws:sns:us-east-1:287250355862:aws-mp-entitlement-notification-old789"
    assert message(sent) == {
        "action": "entitlement-updated",
        "customer-identifier": world.buyer.customer_identifier,
        "product-code": "old789",
    }
    world.names()
    world.market.renew(agreement, entitlements={"seats": 4})
    assert world.names() == ["subscribe-success", "entitlement-updated"]
    world.clock.advance(timedelta(days=366))
    assert world.names() == ["entitlement-updated", "unsubscribe-pending", "unsubscribe-success"]


def test_the_registration_form_is_what_a_browser_posts(world: World) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent, free_trial=timedelta(days=7))
    form = world.market.registration_form(agreement)
    assert form["x-amzn-marketplace-offer-type"] == "free-trial"
    assert form["x-amzn-marketplace-agreement-id"] == agreement.id
    assert world.market.registration_form(agreement)["x-amzn-marketplace-token"] != form["x-amzn-marketplace-token"]
    world.market.settings = replace(world.market.settings, undocumented_form_fields=False)
    world.clock.advance(timedelta(days=7))
    assert list(world.market.registration_form(agreement)) == ["x-amzn-marketplace-token"]


def test_equal_seeds_give_equal_ids() -> None:
    one, two, other = (Marketplace(SettableClock(), seed=seed) for seed in (1, 1, 2))
    product = Product.legacy("old123")

    def ids(market: Marketplace) -> tuple[str, ...]:
        listing: Listing = market.add_product(product)
        agreement = market.subscribe(market.add_buyer(), listing)
        token = market.registration_form(agreement)["x-amzn-marketplace-token"]
        return (listing.product_id, agreement.id, agreement.license_arn, token)

    first = ids(one)
    assert first == ids(two)
    assert not set(first) & set(ids(other))


def test_fails_when_a_legacy_buyer_subscribes_twice(world: World) -> None:
    world.market.subscribe(world.buyer, world.legacy)
    with pytest.raises(MarketplaceConstructsError, match="MP-REHEARSAL-08"):
        world.market.subscribe(world.buyer, world.legacy)


@pytest.mark.parametrize("act", [Marketplace.cancel, Marketplace.renew, Marketplace.replace, Marketplace.amend])
def test_fails_when_an_ended_agreement_is_to_change(world: World, act: Callable[..., object]) -> None:
    agreement = world.market.subscribe(world.buyer, world.concurrent)
    world.market.cancel(agreement)
    with pytest.raises(MarketplaceConstructsError, match=r"MP-REHEARSAL-10: .*CANCELLED"):
        act(world.market, agreement)


def test_fails_when_entitlements_are_not_on_sale(world: World) -> None:
    with pytest.raises(MarketplaceConstructsError, match=r"MP-REHEARSAL-09: .*desks"):
        world.market.subscribe(world.buyer, world.contract, entitlements={"desks": 1})


class TestDelivery:
    """At least once, in any order, or never."""

    def test_the_next_of_a_name_is_lost(self, world: World) -> None:
        world.market.events.lose(UPDATED)
        world.market.subscribe(world.buyer, world.concurrent)
        world.market.subscribe(world.buyer, world.concurrent)
        assert world.names() == [CREATED, CREATED, UPDATED]
        lost = world.market.events.lost[0]
        world.market.events.redeliver(lost.id)
        assert world.told == [lost]

    def test_a_duplicate_has_the_same_id(self, world: World) -> None:
        world.market.events.duplicate(CREATED)
        world.market.subscribe(world.buyer, world.concurrent)
        assert world.told[0] is world.told[1]
        assert world.names() == [CREATED, CREATED, UPDATED]

    def test_what_is_held_comes_in_another_order(self, world: World) -> None:
        world.market.events.hold()
        world.market.cancel(world.market.subscribe(world.buyer, world.concurrent))
        assert world.told == []
        assert world.market.events.release(reverse=True) == 4
        assert world.names() == [DEPROVISIONED, ENDED, UPDATED, CREATED]
        world.market.subscribe(world.buyer, world.concurrent)
        assert world.names() == [CREATED, UPDATED]

    def test_a_delayed_notification_waits_for_its_time(self, world: World) -> None:
        world.market.events.delay(timedelta(minutes=5), CREATED)
        world.market.subscribe(world.buyer, world.concurrent)
        assert world.names() == [UPDATED]
        world.clock.advance(timedelta(minutes=4))
        assert world.names() == []
        world.clock.advance(timedelta(minutes=1))
        assert world.names() == [CREATED]

    def test_who_is_told_may_use_the_marketplace_at_once(self) -> None:
        forms: list[dict[str, str]] = []

        def register() -> None:
            forms.append(market.registration_form(next(iter(market.agreements.values()))))

        def publish(_: Notification) -> None:
            function = threading.Thread(target=register)
            function.start()
            function.join(timeout=5)
            assert not function.is_alive()

        market = Marketplace(SettableClock(lambda: START), publish=publish)
        market.subscribe(market.add_buyer(), market.add_product(Product.legacy("old123")))
        assert len(forms) == 1

    def test_what_cannot_be_delivered_reaches_the_caller_and_is_kept(self) -> None:
        def publish(_: Notification) -> None:
            raise OSError("no bus")

        market = Marketplace(SettableClock(lambda: START), publish=publish)
        listing = market.add_product(Product.legacy("old123"))
        with pytest.raises(OSError, match="no bus"):
            market.subscribe(market.add_buyer(), listing)
        assert [notification.name for notification in market.events.failed] == ["subscribe-success"]


class TestClock:
    """Real time, moved."""

    def test_it_follows_its_source_from_where_it_was_set(self) -> None:
        real = [START]
        clock = SettableClock(lambda: real[0])
        assert clock.set(datetime(2027, 1, 1, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)
        real[0] += timedelta(seconds=30)
        assert clock.now() == datetime(2027, 1, 1, 0, 0, 30, tzinfo=UTC)
        clock.set(START)
        assert clock.now() == START

    def test_fails_when_advanced_backwards(self) -> None:
        with pytest.raises(MarketplaceConstructsError, match="MP-REHEARSAL-01"):
            SettableClock().advance(-HOUR)

    def test_fails_when_set_without_a_zone(self) -> None:
        with pytest.raises(MarketplaceConstructsError, match="MP-REHEARSAL-02"):
            SettableClock().set(datetime(2027, 1, 1))  # noqa: DTZ001  # the very mistake
