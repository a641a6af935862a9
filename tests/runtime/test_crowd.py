"""Two hundred buyers at once, within API Gateway's quotas: nobody is lost, and each sees an honest page meanwhile."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from botocore.exceptions import ClientError
from onboarding_world import PLAN, TOKEN_FIELD, HandSetClock, World

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.runtime.agreements.access import Access, AccessUnsettledError
from marketplace_constructs.runtime.agreements.reconciliation import SnapshotApiKeys, reconcile
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


class Crowd:
    """Buyers who come, wait and click, the queue that tells of them, and the hourly run: all at once, on one quota.

    Each step answers in how many seconds it is due again, or None where it is done.
    """

    def __init__(self) -> None:
        self.chance = random.Random(20261121)  # the same crowd each time
        self.world = World()
        self.quota = QuotaApiKeys(self.world.api_keys, self.world.clock)
        for user in (self.world.access, self.world.agreements):
            user._api_keys = self.quota  # type: ignore[assignment]
        self.browsers = [self.world.browser() for _ in range(BUYERS)]
        self.keys: dict[int, str] = {}
        self.waited: set[int] = set()
        self.told: set[int] = set()
        self.redelivered = 0
        self.last_key_at = self.world.clock()
        self.runs: list[bool] = []
        self._due: list[tuple[float, int, Callable[[], float | None]]] = []
        self._order = itertools.count()

    def plan(self, at: float, step: Callable[[], float | None]) -> None:
        heapq.heappush(self._due, (at, next(self._order), step))

    def play(self) -> None:
        """Until nothing is due any more."""
        begun = self.world.clock()
        for played in itertools.count():
            if not self._due:
                return
            assert played < 20 * BUYERS
            at, _, step = heapq.heappop(self._due)
            self.world.clock.advance(seconds=at - (self.world.clock() - begun).total_seconds())
            again = step()
            if again is not None:
                self.plan(at + again, step)

    @staticmethod
    def who(number: int) -> dict[str, str]:
        return {"buyer": f"{number:012}", "agreement": f"agmt-buyer{number:03}"}

    def arrive(self, number: int) -> None:
        browser = self.browsers[number]
        browser.post("/register", {TOKEN_FIELD: self.world.token(**self.who(number))})
        assert browser.give_contact().status == 200

    def tell(self, number: int) -> float | None:
        """The queue's delivery of the activation; what fails comes again."""
        try:
            if number not in self.told:
                self.told.add(number)
                self.world.happens(FactKind.ACTIVATED, **self.who(number))
            self.world.access.make_match(self.who(number)["buyer"])
        except (ClientError, AccessUnsettledError):
            self.redelivered += 1
            return 360
        return None

    def click(self, number: int) -> float | None:
        """What the page offers, and again after the time that it names, give or take."""
        browser = self.browsers[number]
        page = browser.get("/agreement")
        if page.forms != ["key"]:
            assert "Waiting for AWS" in page.body
            self.waited.add(number)
            return 15 * self.chance.uniform(1, 2)
        reply = browser.post("/key", {"form_token": page.hidden("form_token")})
        if reply.status == 200:
            self.keys[number], self.last_key_at = reply.key, self.world.clock()
            return None
        assert reply.status == 503
        assert "Nothing is lost" in reply.body
        return float(reply.header("Retry-After")) * self.chance.uniform(1, 2)

    def run_hourly(self) -> float | None:
        """The reconciliation; one that fails is tried again, as Lambda does."""
        world = self.world
        try:
            snapshot = SnapshotApiKeys(self.quota, prefix="sale/")  # type: ignore[arg-type]
            outcome = reconcile(
                facts=world.facts,
                service=world.agreements,
                access=Access(
                    product=world.settings.terms,
                    usage_plan_id=PLAN,
                    facts=world.facts,
                    entries=world.entries,
                    api_keys=snapshot,
                    clock=world.clock,
                ),
                api_keys=snapshot,
                key_prefix="sale/",
                clock=world.clock,
                observes_all=True,
            )
        except ClientError:
            self.runs.append(False)
            return 60
        self.runs.append(not outcome.failed)
        return 60 if outcome.failed else None


def test_a_crowd_gets_its_keys_within_the_quotas() -> None:
    crowd = Crowd()
    for number in range(BUYERS):
        comes_at = crowd.chance.uniform(0, 10)
        crowd.plan(comes_at, partial(crowd.arrive, number))
        # AWS tells twice, the second time perhaps of one who has a key.
        for at in (0, 20):
            crowd.plan(at + crowd.chance.uniform(0, 20), partial(crowd.tell, number))
        crowd.plan(comes_at + 1, partial(crowd.click, number))
    # The hour begins in the midst of it, and somebody has the run made again.
    for at in (5, 15, 30):
        crowd.plan(at, crowd.run_hourly)
    begun = crowd.world.clock()
    crowd.play()
    assert crowd.quota.throttled > 0
    assert crowd.redelivered > 0
    assert crowd.waited
    assert len(set(crowd.keys.values())) == BUYERS
    assert all(crowd.world.api_keys.opens(PLAN, key) for key in crowd.keys.values())
    assert crowd.runs.count(True) == 3
    # Five keys a second make forty seconds at best.
    assert (crowd.last_key_at - begun).total_seconds() < 3 * 60
    # No key was made that nobody got: the next hour finds nothing to do.
    crowd.world.clock.advance(hours=1)
    assert crowd.run_hourly() is None
    assert len(list(crowd.world.api_keys.named(""))) == BUYERS
