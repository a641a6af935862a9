"""An hour may begin while access is being made to match: the key is where the new hour wants it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from planned_sale import HOUR, PlannedSale, sold, two_plans
from sale import BUYER, CREATED, LICENSED, START, event

NEXT = START + HOUR


def moved_soon() -> tuple[PlannedSale, str]:
    sale = two_plans()
    key = sold(sale)
    sale.assign("writer@1", NEXT)
    sale.now = NEXT - timedelta(seconds=1)
    return sale, key


def turning(sale: PlannedSale, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call during which the hour begins."""

    def slow(*arguments: Any) -> Any:
        sale.now = max(sale.now, NEXT + timedelta(seconds=1))
        return call(*arguments)

    return slow


def test_a_run_in_which_the_hour_begins_ends_with_the_new_hours_plan() -> None:
    sale, key = moved_soon()
    sale.api_keys.is_member = turning(sale, sale.api_keys.is_member)  # type: ignore[method-assign]
    sale.access.make_match(BUYER)
    assert sale.api_keys.plans_of(key) == ["plan-of-writer@1"]


def test_a_key_that_is_made_while_the_hour_begins_is_in_the_new_hours_plan() -> None:
    sale, _ = moved_soon()
    sale.api_keys.join = turning(sale, sale.api_keys.join)  # type: ignore[method-assign]
    key = sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    assert sale.api_keys.plans_of(key) == ["plan-of-writer@1"]


def test_a_first_key_that_is_made_while_the_hour_begins_is_in_the_new_hours_plan() -> None:
    sale = two_plans()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    sale.assign("writer@1", NEXT)
    sale.now = NEXT - timedelta(seconds=1)
    sale.api_keys.join = turning(sale, sale.api_keys.join)  # type: ignore[method-assign]
    assert sale.api_keys.plans_of(sale.issue(registration)) == ["plan-of-writer@1"]
