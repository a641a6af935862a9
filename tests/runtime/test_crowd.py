"""Two hundred buyers at once, within API Gateway's quotas: nobody is lost, and each sees an honest page meanwhile."""

from __future__ import annotations

import heapq
import random
from typing import Any

from botocore.exceptions import ClientError
from onboarding_world import PLAN, Browser, HandSetClock, World

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.runtime.memory import MemoryApiKeys

BUYERS = 200
CONTROL_PLANE = (10, 40)  # calls a second, burst: API Gateway developer guide, quotas (read 2026-11-21)
CREATE_OR_DELETE = (5, 5)  # calls a second; AWS names no burst


class Quota:
    """A token bucket on a clock that is set by hand."""

    def __init__(self, clock: HandSetClock, rate: float, burst: float) -> None:
        self._clock, self._rate, self._burst = clock, rate, burst
        self._tokens, self._at = burst, clock()

    def refill(self) -> bool:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + self._rate * (now - self._at).total_seconds())
        self._at = now
        return self._tokens >= 1

    def take(self) -> None:
        self._tokens -= 1


class QuotaApiKeys:
    """API Gateway's control plane, which throttles."""

    def __init__(self, keys: MemoryApiKeys, clock: HandSetClock) -> None:
        self._keys = keys
        self._all = Quota(clock, *CONTROL_PLANE)
        self._own = {name: Quota(clock, *CREATE_OR_DELETE) for name in ("create", "delete")}
        self.throttled = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._keys, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            quotas = [self._all, *([self._own[name]] if name in self._own else [])]
            ready = [quota.refill() for quota in quotas]
            if not all(ready):
                self.throttled += 1
                raise ClientError({"Error": {"Code": "TooManyRequestsException"}}, name)
            for quota in quotas:
                quota.take()
            return real(*args, **kwargs)

        return call


def test_a_crowd_gets_its_keys_within_the_quotas() -> None:
    chance = random.Random(20261121)  # the same crowd each time
    world = World()
    quota = QuotaApiKeys(world.api_keys, world.clock)
    browsers: list[Browser] = []
    for number in range(BUYERS):
        buyer, agreement = f"{number:012}", f"agmt-buyer{number:03}"
        world.happens(FactKind.ACTIVATED, buyer=buyer, agreement=agreement)
        browser = world.browser()
        browser.register(world.token(buyer=buyer, agreement=agreement))
        browser.give_contact()
        browsers.append(browser)
    for user in (world.access, world.agreements):
        user._api_keys = quota  # type: ignore[assignment]
    # Each clicks at a moment of their own, and again after the time that the page asks for, give or take.
    start = world.clock()
    queue = [(chance.uniform(0, 10), number) for number in range(BUYERS)]
    heapq.heapify(queue)
    keys: dict[int, str] = {}
    clicks = 0
    while queue:
        at, number = heapq.heappop(queue)
        world.clock.advance(seconds=at - (world.clock() - start).total_seconds())
        reply = browsers[number].take_key()
        clicks += 1
        if reply.status == 200:
            keys[number] = reply.key
            continue
        assert reply.status == 503
        assert "Nothing is lost" in reply.body
        wait = float(reply.header("Retry-After"))
        heapq.heappush(queue, (at + wait * chance.uniform(1, 2), number))
        assert clicks < 10 * BUYERS
    seconds = (world.clock() - start).total_seconds()
    assert quota.throttled > 0
    assert len(set(keys.values())) == BUYERS
    assert all(world.api_keys.opens(PLAN, key) for key in keys.values())
    # Five keys a second make forty seconds at best.
    assert seconds < 3 * 60
