"""What a plan is given by may be told late, or out of order: nobody gets another one for that."""

from __future__ import annotations

from datetime import timedelta

from planned_sale import HOUR, READ, WRITE, PlannedSale, two_plans
from sale import BUYER, CREATED, LICENSED, START, event


def test_a_buyer_whose_offer_is_told_late_waits_for_its_plan_rather_than_get_another() -> None:
    sale = two_plans().hold("special@1", READ, assign_to={"Offers": ["offer-example"]})
    registration = sale.register()
    # Both events are late; AWS itself, when asked, says that the agreement stands, and not by which offer.
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.reconcile()
    (agreement,) = sale.service.agreements(BUYER)
    assert sale.assigned() == []
    assert sale.service.issue_key(BUYER, registration.reference) is None
    assert "without its offer" in agreement.alarms[0]
    sale.tell(event(LICENSED))
    assert sale.plan() == "special@1"
    assert sale.opens(sale.issue(registration))


def test_a_buyer_whose_offer_is_never_told_gets_in_by_an_operators_word() -> None:
    sale = two_plans().hold("special@1", READ, assign_to={"Offers": ["offer-example"]})
    registration = sale.register()
    sale.marketplace.statuses["agmt-one"] = "ACTIVE"
    sale.reconcile()
    sale.assign("reader@1", START + HOUR)
    sale.now = START + HOUR
    sale.reconcile()
    assert sale.opens(sale.issue(registration))


def replaced(*, tells_late: bool) -> PlannedSale:
    """An agreement that an operator moved is replaced by another, whose buyer comes again."""
    sale = two_plans()
    sale.register()
    sale.tell(event(CREATED, intent="NEW"), event(LICENSED))
    sale.assign("writer@1", START + HOUR)
    sale.wait(hours=3, minutes=20)
    told = event(CREATED, "agmt-two", at=sale.now, intent="REPLACE", previousAgreementId="agmt-one")
    sale.tell(*([] if tells_late else [told]), event(LICENSED, "agmt-two", at=sale.now))
    sale.register("token-two", "agmt-two")
    sale.wait(minutes=1)
    sale.tell(*([told] if tells_late else []))
    return sale


def test_a_replacement_keeps_the_plan_whatever_comes_first() -> None:
    for sale in (replaced(tells_late=False), replaced(tells_late=True)):
        assert sale.plan("agmt-two") == "writer@1"
        sale.wait(hours=2)
        sale.reconcile()
        value = sale.service.issue_key(BUYER, "agmt-two")
        assert value is not None
        assert sale.gate(value, WRITE) == "Allow"
        sale.assign("reader@1", START + timedelta(hours=8), "agmt-two")
        sale.now = START + timedelta(hours=8)
        assert sale.plan("agmt-two") == "reader@1"
