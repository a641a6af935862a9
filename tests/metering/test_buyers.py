"""Whose usage a line is, and under which identity it is metered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.metering import Buyer
from marketplace_constructs.domain.product import Dimension, Metering, Product
from marketplace_constructs.runtime.metering.buyers import FOREVER, Life, Register, register

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)
DIMENSIONS = [Dimension.requests("calls")]
CONCURRENT = Product.concurrent("abc123", dimensions=DIMENSIONS)
LEGACY = Product.legacy("abc123", metering=Metering.PIPELINE, dimensions=DIMENSIONS)
ACCOUNT = "123456789012"
ARN = "arn:aws:license-manager::111122223333:license:l-0a"


class History:
    """Facts of one buyer as they are told."""

    def __init__(self, product: Product = CONCURRENT) -> None:
        self.product = product
        self.facts: list[Fact] = []

    def tell(self, kind: FactKind, at: datetime, agreement: str = "agmt-1", arn: str = ARN, **said: Any) -> None:
        named = {} if self.product.is_legacy else {"agreement_id": agreement, "license_arn": arn}
        buyer = "customer" if self.product.is_legacy else ACCOUNT
        number = str(len(self.facts))
        self.facts.append(Fact(id=number, kind=kind, buyer=buyer, at=at, product_code="abc123", **named, **said))

    def register(self) -> Register:
        return register([("buyer", self.facts)], product=self.product, now=AT + 9 * HOUR)


def test_a_live_agreement_is_metered_from_its_activation_on() -> None:
    history = History()
    history.tell(FactKind.ACTIVATED, AT + timedelta(seconds=1.5))
    found = history.register()
    began = AT + timedelta(seconds=2)  # AWS is told whole seconds, none before the beginning
    assert found.buyers == {"agmt-1": Buyer(customer_aws_account_id=ACCOUNT, license_arn=ARN, started_at=began)}
    (life,) = found.lives
    assert life == Life(agreement="agmt-1", owner="agmt-1", starts_at=AT + timedelta(seconds=1.5), ends_at=FOREVER)


def test_a_life_is_cut_where_another_plan_takes_effect() -> None:
    history = History()
    history.tell(FactKind.ACTIVATED, AT + HOUR / 2)
    for number, plan in enumerate(("retail@1", "retail@2")):
        history.tell(FactKind.ASSIGNED, AT + HOUR, plan=plan, takes_effect_at=AT + 3 * number * HOUR)
    assert [(life.starts_at, life.ends_at, life.plan) for life in history.register().lives] == [
        (AT + HOUR / 2, AT + 3 * HOUR, "retail@1"),
        (AT + 3 * HOUR, FOREVER, "retail@2"),
    ]


def test_one_that_was_never_activated_is_not_metered() -> None:
    history = History()
    history.tell(FactKind.REGISTERED, AT)
    assert not history.register().buyers


@pytest.mark.parametrize("order", [(FactKind.ENDED, FactKind.DEPROVISIONED), (FactKind.DEPROVISIONED, FactKind.ENDED)])
def test_of_the_two_ends_the_first_one_counts(order: tuple[FactKind, FactKind]) -> None:
    history = History()
    history.tell(FactKind.ACTIVATED, AT)
    history.tell(order[0], AT + HOUR, **({"status": "CANCELLED"} if order[0] is FactKind.ENDED else {}))
    history.tell(order[1], AT + 2 * HOUR, **({"status": "CANCELLED"} if order[1] is FactKind.ENDED else {}))
    assert history.register().buyers["agmt-1"].ended_at == AT + HOUR


def test_an_end_that_aws_took_back_is_none() -> None:
    history = History()
    history.tell(FactKind.ACTIVATED, AT)
    history.tell(FactKind.ENDED, AT + HOUR, status="CANCELLED")
    history.tell(FactKind.OBSERVED, AT + 4 * HOUR, status="ACTIVE")
    assert history.register().buyers["agmt-1"].ended_at is None


def test_a_legacy_subscription_ends_when_its_end_is_pending() -> None:
    history = History(LEGACY)
    history.tell(FactKind.ACTIVATED, AT)
    history.tell(FactKind.ENDING, AT + HOUR)
    history.tell(FactKind.DEPROVISIONED, AT + 2 * HOUR)
    history.tell(FactKind.ACTIVATED, AT + 3 * HOUR)
    buyers = history.register().buyers
    assert buyers["customer/1"].ended_at == AT + HOUR
    assert (buyers["customer/2"].started_at, buyers["customer/2"].ended_at) == (AT + 3 * HOUR, None)


def renewed(at: datetime, arn: str) -> Register:
    history = History()
    history.tell(FactKind.ACTIVATED, AT)
    history.tell(FactKind.AGREED, at, "agmt-2", arn, previous_agreement_id="agmt-1", intent="RENEW")
    history.tell(FactKind.ACTIVATED, at + MINUTE, "agmt-2", arn)
    history.tell(FactKind.ENDED, at, status="RENEWED")
    return history.register()


def test_after_a_renewal_each_line_belongs_to_the_agreement_of_its_time_whichever_it_names() -> None:
    found = renewed(AT + HOUR / 2, ARN)
    for named in ("agmt-1", "agmt-2"):
        lives = [(life.owner, life.starts_at, life.ends_at) for life in found.lives if life.agreement == named]
        assert lives == [("agmt-1", AT, AT + HOUR / 2), ("agmt-2", AT + HOUR / 2, FOREVER)]
    # Its first record is not older than AWS takes it.
    assert found.buyers["agmt-2"].started_at == AT + HOUR / 2 + MINUTE


def test_the_hour_of_a_renewal_is_the_old_agreements_where_both_have_one_licence() -> None:
    assert renewed(AT + HOUR / 2, ARN).buyers["agmt-2"].slots_from == AT + HOUR
    assert renewed(AT + HOUR, ARN).buyers["agmt-2"].slots_from == AT + HOUR
    assert renewed(AT + HOUR / 2, f"{ARN}b").buyers["agmt-2"].slots_from is None


@pytest.mark.parametrize("number", ["l-0a", "l-0b"])
def test_a_renewed_licence_that_only_an_event_names_is_spelled_as_the_one_before(number: str) -> None:
    told = f"aws:license-manager:us-east-1:111122223333:{number}"
    history = History()
    history.tell(FactKind.REGISTERED, AT)
    history.tell(FactKind.ACTIVATED, AT, arn="aws:license-manager:us-east-1:111122223333:l-0a")
    history.tell(FactKind.AGREED, AT + HOUR, "agmt-2", told, previous_agreement_id="agmt-1", intent="RENEW")
    history.tell(FactKind.ACTIVATED, AT + HOUR, "agmt-2", told)
    history.tell(FactKind.ENDED, AT + HOUR, status="RENEWED")

    buyers = history.register().buyers

    assert buyers["agmt-1"].license_arn == ARN
    assert buyers["agmt-2"].license_arn == ARN.replace("l-0a", number)


def test_a_licence_whose_entitlements_an_event_had_read_is_spelled_as_at_registration() -> None:
    told = "aws:license-manager:us-east-1:111122223333:l-0a"
    history = History()
    history.tell(FactKind.ACTIVATED, AT, arn=told)
    history.tell(FactKind.ENTITLED, AT, arn=told)
    history.tell(FactKind.REGISTERED, AT + HOUR)

    assert history.register().buyers["agmt-1"].license_arn == ARN


@pytest.mark.parametrize("number", ["l-0a", "l-0b"])
@pytest.mark.parametrize("order", list(permutations([FactKind.ACTIVATED, FactKind.ENTITLED, FactKind.OBSERVED])))
def test_no_order_of_what_events_spell_makes_another_licence(order: tuple[FactKind, ...], number: str) -> None:
    told = f"aws:license-manager:us-east-1:111122223333:{number}"
    history = History()
    for minute, kind in enumerate(order):
        history.tell(kind, AT + minute * MINUTE, arn="aws:license-manager:us-east-1:111122223333:l-0a")
    history.tell(FactKind.REGISTERED, AT + HOUR)
    history.tell(FactKind.AGREED, AT + 2 * HOUR, "agmt-2", told, previous_agreement_id="agmt-1", intent="RENEW")
    for minute, kind in enumerate(order):
        history.tell(kind, AT + 2 * HOUR + minute * MINUTE, "agmt-2", told)

    metered = {agreement: buyer.license_arn for agreement, buyer in history.register().buyers.items()}

    assert metered == {"agmt-1": ARN, "agmt-2": ARN.replace("l-0a", number)}


def test_an_agreement_without_a_licence_is_told_of_and_not_metered() -> None:
    history = History()
    facts = [
        Fact(id="1", kind=FactKind.REGISTERED, buyer=ACCOUNT, at=AT, agreement_id="agmt-1", product_code="abc123"),
        Fact(id="2", kind=FactKind.OBSERVED, buyer=ACCOUNT, at=AT, agreement_id="agmt-1", status="ACTIVE"),
    ]
    history.facts = facts
    found = history.register()
    assert (found.buyers, found.nameless) == ({}, ("agmt-1",))
