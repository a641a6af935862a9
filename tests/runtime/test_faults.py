"""Each AWS call of each handler fails once, in every way, before and after its effect: access is right all the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from sale import BUYER, CREATED, DEPROVISIONED, ENDED, LICENSED, PLAN, PREFIX, Sale, event

from marketplace_constructs.runtime.agreements.access import AccessUnsettledError
from marketplace_constructs.runtime.agreements.service import TryAgain


class Crash(BaseException):
    """The function's process is gone, mid-way."""


def aws_error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Call")  # type: ignore[typeddict-item]


FAULTS: dict[str, Callable[[], BaseException]] = {
    "throttled": lambda: aws_error("TooManyRequestsException", 429),
    "failed": lambda: aws_error("InternalServerError", 500),
    "timed out": lambda: ReadTimeoutError(endpoint_url="https://example.com"),
    "crashed": Crash,
}


@dataclass
class Trap:
    """Counts the calls to the ports, and makes one of them fail."""

    fails_at: int
    fault: Callable[[], BaseException]
    after: bool
    calls: int = 0
    is_armed: bool = False

    @property
    def has_sprung(self) -> bool:
        return self.calls > self.fails_at

    def call(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.is_armed:
            return real(*args, **kwargs)
        number, self.calls = self.calls, self.calls + 1
        if number == self.fails_at and not self.after:
            raise self.fault()
        result = real(*args, **kwargs)
        if number == self.fails_at:
            raise self.fault()
        return result


class Trapped:
    """A port whose calls go through a trap."""

    def __init__(self, port: object, trap: Trap) -> None:
        self._port = port
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        return (lambda *args, **kwargs: self._trap.call(real, *args, **kwargs)) if callable(real) else real


def trapped(trap: Trap) -> Sale:
    """A sale each of whose ports goes through the trap."""
    sale = Sale()
    for user in (sale.access, sale.service):
        for name in ("facts", "entries", "api_keys", "marketplace"):
            port = f"_{name}"
            if hasattr(user, port):
                setattr(user, port, Trapped(getattr(user, port), trap))
    return sale


def until_done(trap: Trap, step: Callable[[], object]) -> object:
    """Do a step as AWS and buyers do: again after a failure, which the queue or the buyer's next click brings."""
    for _ in range(5):
        trap.is_armed = not trap.has_sprung
        try:
            return step()
        except (ClientError, ReadTimeoutError, TryAgain, AccessUnsettledError, Crash):
            continue
        finally:
            trap.is_armed = False
    raise AssertionError("a step that failed once never came through")


def faults(step: Callable[[Trap], None]) -> Iterator[str]:
    """Run a step with a fault at each of its calls in turn, until none is left to fail."""
    for name, fault in FAULTS.items():
        for after in (False, True):
            for number in itertools.count():
                trap = Trap(fails_at=number, fault=fault, after=after)
                step(trap)
                if not trap.has_sprung:
                    break
                yield f"{name} {'after' if after else 'before'} call {number}"


def nothing_is_orphaned(sale: Sale) -> None:
    """Every API key has its fact, and no more than two of an agreement are open."""
    promised = {fact.key_name for fact in sale.facts.of_buyer(BUYER) if fact.key_name}
    for key in sale.api_keys.named(PREFIX):
        assert key.name in promised
    members = sale.api_keys.members(PLAN)
    assert len([key for key in sale.api_keys.named(PREFIX) if key.enabled and key.id in members]) <= 1


def get_key(sale: Sale, trap: Trap) -> str:
    """As a buyer gets one: the first key, or another where the first was never seen."""
    registration = until_done(trap, lambda: sale.service.register("token"))
    assert registration is not None
    value = until_done(trap, lambda: sale.service.issue_key(BUYER, "agmt-one"))
    if value is None:
        # Only a crash leaves a key behind that nobody has seen and nobody could take back.
        assert trap.fault is Crash
        value = until_done(trap, lambda: sale.service.rotate_key(BUYER, "agmt-one", timedelta()))
    return str(value)


def test_a_sale_survives_each_fault_of_each_call() -> None:
    def sell(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        for message in (event(CREATED), event(LICENSED)):
            until_done(trap, lambda message=message: sale.tell(message))  # type: ignore[misc]
        key = get_key(sale, trap)
        sale.reconcile()
        assert sale.opens(key)
        nothing_is_orphaned(sale)

    assert len(list(faults(sell))) > 100


def test_an_end_survives_each_fault_of_each_call() -> None:
    def end(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        sale.tell(event(CREATED), event(LICENSED))
        key = get_key(sale, Trap(0, Crash, after=False, calls=1))
        sale.wait(minutes=1)
        for message in (event(ENDED, at=sale.now, status="CANCELLED"), event(DEPROVISIONED, at=sale.now)):
            until_done(trap, lambda message=message: sale.tell(message))  # type: ignore[misc]
            # The queue's next delivery settles it; nobody waits for the reconciliation.
            assert not sale.opens(key)
        sale.reconcile()
        assert not sale.opens(key)
        assert sale.gate(key) == "Deny"
        assert not sale.api_keys.opens(PLAN, key)
        nothing_is_orphaned(sale)

    assert len(list(faults(end))) > 50


def test_a_rotation_survives_each_fault_of_each_call() -> None:
    def rotate(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        sale.tell(event(CREATED), event(LICENSED))
        old = get_key(sale, Trap(0, Crash, after=False, calls=1))
        new = until_done(trap, lambda: sale.service.rotate_key(BUYER, "agmt-one", timedelta()))
        sale.reconcile()
        assert sale.opens(str(new))
        assert not sale.opens(old)
        nothing_is_orphaned(sale)

    assert len(list(faults(rotate))) > 50


def test_a_rotation_that_could_not_end_the_old_key_shows_no_new_one() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    old = sale.issue(registration)
    real = sale.facts.add

    def refusing(fact: Any) -> bool:
        if fact.kind == "key-retired":
            raise aws_error("ThrottlingException", 400)
        return real(fact)

    sale.facts.add = refusing  # type: ignore[method-assign]
    with pytest.raises(TryAgain):
        sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    sale.reconcile()
    assert sale.opens(old)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


def test_an_end_that_comes_while_a_grant_is_under_way_has_the_last_word() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    key = sale.issue(registration)
    api_key = next(sale.api_keys.named(PREFIX))
    sale.api_keys.set_enabled(api_key.id, enabled=False)
    sale.api_keys.leave(PLAN, api_key.id)
    real = sale.api_keys.join
    late = iter([event(ENDED, at=sale.now + timedelta(minutes=1), status="CANCELLED")])

    def interrupted(usage_plan_id: str, api_key_id: str) -> None:
        for message in late:
            sale.tell(message)
        real(usage_plan_id, api_key_id)

    sale.api_keys.join = interrupted  # type: ignore[method-assign]
    sale.access.make_match(BUYER)
    assert not sale.api_keys.opens(PLAN, key)
    assert sale.gate(key) == "Deny"


def test_a_key_whose_maker_died_is_removed_once_it_is_replaced() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    real = sale.facts.add

    def dying(fact: Any) -> bool:
        if fact.kind == "key-created":
            raise Crash
        return real(fact)

    sale.facts.add = dying  # type: ignore[method-assign]
    with pytest.raises(Crash):
        sale.service.issue_key(registration.buyer, registration.reference)
    sale.facts.add = real  # type: ignore[method-assign]
    sale.reconcile()
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    sale.reconcile()
    assert sale.opens(new)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
def test_a_refusal_of_aws_is_not_taken_for_a_passing_fault(code: str) -> None:
    trap = Trap(fails_at=0, fault=lambda: aws_error(code, 400), after=False, is_armed=True)
    sale = trapped(trap)
    sale.token("token")
    with pytest.raises(ClientError):
        sale.service.register("token")


def test_two_registrations_at_once_make_one_key() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    second: list[str | None] = []
    real = sale.facts.add

    def interleaved(fact: Any) -> bool:
        # The other one comes between the look and the promise.
        if fact.kind == "key-issued" and not second:
            second.append(None)
            second[0] = sale.service.issue_key(registration.buyer, registration.reference)
        return real(fact)

    sale.facts.add = interleaved  # type: ignore[method-assign]
    first = sale.service.issue_key(registration.buyer, registration.reference)
    assert [first, second[0]].count(None) == 1
    assert len(list(sale.api_keys.named(PREFIX))) == 1
