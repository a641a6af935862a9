"""How notifications leave: once, twice, late, in another order, or never."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.rehearsal.marketplace.clock import SettableClock
from marketplace_constructs.rehearsal.marketplace.notifications import Notification


class DeliveryFault(StrEnum):
    """What can happen to a notification.

    Source: delivery of ``aws.agreement-marketplace`` is not documented; its sibling sources are best
    effort, so may rarely be lost, and EventBridge and SNS deliver at least once, in no promised order
    (EventBridge reference, event delivery level; read 2026-11-21).
    """

    LOSE = "lose"
    DUPLICATE = "duplicate"
    HOLD = "hold"
    DELAY = "delay"


@dataclass
class _Rule:
    fault: DeliveryFault
    name: str | None
    times: int | None
    by: timedelta = timedelta(0)


class Delivery:
    """Hands notifications to ``publish``, with the faults that were asked for.

    ``publish`` runs in the thread that caused the notification, without any lock held, so it may call back.
    What it raises reaches the caller, and the notification is in ``failed``.
    """

    def __init__(self, publish: Callable[[Notification], None], clock: SettableClock) -> None:
        self._publish = publish
        self._clock = clock
        self._lock = threading.RLock()
        self._rules: list[_Rule] = []
        self._outbox: deque[Notification] = deque()
        self._delayed: list[tuple[datetime, Notification]] = []
        self._history: list[Notification] = []
        self._held: list[Notification] = []
        self._lost: list[Notification] = []
        self._failed: list[Notification] = []

    @property
    def history(self) -> tuple[Notification, ...]:
        """Everything that Marketplace ever had to say, in its true order, delivered or not."""
        return tuple(self._history)

    @property
    def held(self) -> tuple[Notification, ...]:
        """What waits for ``release``."""
        return tuple(self._held)

    @property
    def delayed(self) -> tuple[Notification, ...]:
        """What waits for its time."""
        return tuple(notification for _, notification in self._delayed)

    @property
    def lost(self) -> tuple[Notification, ...]:
        """What will never be delivered, unless by ``redeliver``."""
        return tuple(self._lost)

    @property
    def failed(self) -> tuple[Notification, ...]:
        """What ``publish`` raised on."""
        return tuple(self._failed)

    def lose(self, name: str | None = None, *, times: int = 1) -> None:
        """Never deliver the next ``times`` notifications of this detail type or action (None: any)."""
        self._add(_Rule(DeliveryFault.LOSE, name, times))

    def duplicate(self, name: str | None = None, *, times: int = 1) -> None:
        """Deliver each of the next ``times`` twice, with the same id."""
        self._add(_Rule(DeliveryFault.DUPLICATE, name, times))

    def hold(self, name: str | None = None, *, times: int | None = None) -> None:
        """Keep the next ``times`` back (None: all) until ``release``."""
        self._add(_Rule(DeliveryFault.HOLD, name, times))

    def delay(self, by: timedelta, name: str | None = None, *, times: int = 1) -> None:
        """Deliver each of the next ``times`` only after ``by`` on the rehearsal's clock."""
        self._add(_Rule(DeliveryFault.DELAY, name, times, by))

    def release(self, *, reverse: bool = False) -> int:
        """Stop holding and deliver what was held, in its own order or the last first; how many there were."""
        with self._lock:
            self._rules = [rule for rule in self._rules if rule.fault is not DeliveryFault.HOLD]
            released, self._held = self._held, []
            self._outbox.extend(reversed(released) if reverse else released)
        self.flush()
        return len(released)

    def redeliver(self, notification_id: str) -> None:
        """Deliver once more, as at-least-once delivery may.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-04, nothing of this id was ever said.
        """
        for notification in self.history:
            if notification.id == notification_id:
                self._outbox.append(notification)
                self.flush()
                return
        raise MarketplaceConstructsError(
            Problem(
                "MP-REHEARSAL-04",
                f"redeliver, got id {notification_id!r}; expected one that was sent; list them with events",
            )
        )

    def send(self, notification: Notification) -> None:
        """Take a notification on; ``flush`` delivers it, if no fault keeps it back."""
        with self._lock:
            self._history.append(notification)
            rule = self._next_rule(notification.name)
            match rule and rule.fault:
                case DeliveryFault.LOSE:
                    self._lost.append(notification)
                case DeliveryFault.HOLD:
                    self._held.append(notification)
                case DeliveryFault.DELAY:
                    assert rule is not None
                    self._delayed.append((self._clock.now() + rule.by, notification))
                case DeliveryFault.DUPLICATE:
                    self._outbox.extend((notification, notification))
                case _:
                    self._outbox.append(notification)

    def flush(self) -> None:
        """Deliver everything that is due now. Call it without holding a lock."""
        with self._lock:
            now = self._clock.now()
            self._outbox.extend(n for due, n in sorted(self._delayed, key=lambda item: item[0]) if due <= now)
            self._delayed = [item for item in self._delayed if item[0] > now]
        while True:
            try:
                notification = self._outbox.popleft()
            except IndexError:
                return
            try:
                self._publish(notification)
            except BaseException:
                self._failed.append(notification)
                raise

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def _next_rule(self, name: str) -> _Rule | None:
        rule = next((rule for rule in self._rules if rule.name in {None, name}), None)
        if rule is not None and rule.times is not None:
            rule.times -= 1
            if rule.times <= 0:
                self._rules.remove(rule)
        return rule
