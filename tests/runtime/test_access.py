"""Keys that nobody can use again are gone for good, also those whose making somebody overtook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sale import BUYER, CREATED, LICENSED, PLAN, PREFIX, Sale, event

from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.api_keys import ApiKey
from marketplace_constructs.runtime.agreements.reconciliation import SnapshotApiKeys, reconcile
from marketplace_constructs.runtime.memory import MemoryApiKeys


class Killed(BaseException):
    """The function's time is over."""


def activated(api_keys: MemoryApiKeys | None = None) -> Sale:
    sale = Sale(api_keys=api_keys or MemoryApiKeys())
    sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    return sale


def names(sale: Sale) -> list[str]:
    return sorted(key.name for key in sale.api_keys.named(PREFIX))


def overtaken(sale: Sale, *, then: Callable[[Callable[[], str]], str]) -> str:
    """Begin to make a first key, and have the buyer replace it before it is there; the new key's value.

    Args:
        then: What becomes of the first key's CreateApiKey after that.
    """
    real = sale.api_keys.create
    replaced_by: list[str] = []

    def create(**members: Any) -> str:
        sale.api_keys.create = real  # type: ignore[method-assign]
        replaced_by.append(sale.service.rotate_key(BUYER, "agmt-one", timedelta()))
        return then(lambda: real(**members))

    sale.api_keys.create = create  # type: ignore[method-assign]
    with contextlib.suppress(Killed):
        sale.service.issue_key(BUYER, "agmt-one")
    return replaced_by[0]


def test_an_overtaken_maker_that_comes_through_leaves_no_key() -> None:
    sale = activated()
    new = overtaken(sale, then=lambda create: create())
    assert len(sale.api_keys.members(PLAN)) == 1
    assert names(sale) == [f"{PREFIX}agmt-one/2"]
    assert sale.opens(new)


@pytest.mark.parametrize("minutes", [1, 59])
def test_an_overtaken_maker_that_dies_leaves_no_key_longer_than_until_the_next_run(minutes: int) -> None:
    sale = activated()

    def dies(create: Callable[[], str]) -> str:
        create()
        raise Killed

    new = overtaken(sale, then=dies)
    assert names(sale) == [f"{PREFIX}agmt-one/1", f"{PREFIX}agmt-one/2"]
    sale.wait(minutes=minutes)
    sale.reconcile()
    assert names(sale) == [f"{PREFIX}agmt-one/2"]
    assert sale.opens(new)


def test_a_key_that_comes_to_be_after_a_run_is_removed_by_the_next() -> None:
    sale = activated()
    late: list[Callable[[], str]] = []

    def dies(create: Callable[[], str]) -> str:
        late.append(create)
        raise Killed

    overtaken(sale, then=dies)
    sale.wait(seconds=30)
    # A run looks at the keys when it begins, and comes to this buyer at the end of a function's longest time.
    seen = SnapshotApiKeys(sale.api_keys, prefix=PREFIX)
    late[0]()
    sale.wait(minutes=15)
    reconcile(
        facts=sale.facts,
        service=sale.service,
        access=Access(
            product=sale.product,
            usage_plan_id=PLAN,
            facts=sale.facts,
            entries=sale.entries,
            api_keys=seen,
            clock=lambda: sale.now,
        ),
        api_keys=seen,
        key_prefix=PREFIX,
        clock=lambda: sale.now,
        observes_all=False,
    )
    assert names(sale) == [f"{PREFIX}agmt-one/1", f"{PREFIX}agmt-one/2"]
    sale.wait(minutes=45)
    sale.reconcile()
    assert names(sale) == [f"{PREFIX}agmt-one/2"]


class NotedApiKeys(MemoryApiKeys):
    """Notes who was looked for and deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    def get(self, api_key_id: str) -> ApiKey | None:
        self.calls.append(("get", api_key_id))
        return super().get(api_key_id)

    def named(self, prefix: str) -> Iterator[ApiKey]:
        self.calls.append(("named", prefix))
        return super().named(prefix)

    def delete(self, api_key_id: str) -> None:
        self.calls.append(("delete", api_key_id))
        super().delete(api_key_id)


def test_a_replaced_key_is_deleted_without_a_question() -> None:
    keys = NotedApiKeys()
    sale = activated(keys)
    assert sale.service.issue_key(BUYER, "agmt-one")
    (old,) = keys.members(PLAN)
    keys.calls.clear()
    sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    assert [call for call in keys.calls if old in call] == [("delete", old)]


def test_a_replaced_key_that_somebody_deleted_by_hand_counts_as_removed() -> None:
    keys = NotedApiKeys()
    sale = activated(keys)
    assert sale.service.issue_key(BUYER, "agmt-one")
    (old,) = keys.members(PLAN)
    keys.delete(old)
    sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    keys.calls.clear()
    sale.access.make_match(BUYER)
    assert ("delete", old) not in keys.calls


def test_a_replaced_key_that_never_came_to_be_is_not_looked_for_for_ever() -> None:
    keys = NotedApiKeys()
    sale = activated(keys)

    def dies(_: Callable[[], str]) -> str:
        raise Killed

    overtaken(sale, then=dies)
    missing = ("named", f"{PREFIX}agmt-one/1")
    for waits, is_looked_for in ((0, True), (60, True), (1, False)):
        sale.wait(minutes=waits)
        keys.calls.clear()
        sale.access.make_match(BUYER)
        assert (missing in keys.calls) is is_looked_for
