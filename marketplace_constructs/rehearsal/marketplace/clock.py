"""A clock that follows real time from wherever it was last set."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem


def real_time() -> datetime:
    """The machine's time, in UTC."""
    return datetime.now(UTC)


class SettableClock:
    """Time in UTC: the source plus an offset that a rehearsal moves.

    Args:
        source: What time really is. A test gives a constant and so gets a clock that only moves when told.
    """

    def __init__(self, source: Callable[[], datetime] = real_time) -> None:
        self._source = source
        self._offset = timedelta(0)
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    def now(self) -> datetime:
        """The rehearsal's time, timezone-aware, in UTC."""
        with self._lock:
            return self._source().astimezone(UTC) + self._offset

    def advance(self, by: timedelta) -> datetime:
        """Move on by ``by``; what falls due on the way happens before this returns.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-01, ``by`` is negative.
        """
        if by < timedelta(0):
            raise MarketplaceConstructsError(
                Problem(
                    "MP-REHEARSAL-01",
                    f"advance the clock, got {by}; expected zero or more; use set() to go back in time",
                )
            )
        return self._move(by)

    def set(self, to: datetime) -> datetime:
        """Make it ``to``, earlier or later than now; time goes on from there.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-02, ``to`` has no time zone.
        """
        if to.tzinfo is None:
            raise MarketplaceConstructsError(
                Problem(
                    "MP-REHEARSAL-02",
                    f"set the clock, got {to.isoformat()}; expected a time with its zone; append Z",
                )
            )
        return self._move(to - self.now())

    def on_move(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each move, in the thread that moved the clock."""
        self._listeners.append(listener)

    def _move(self, by: timedelta) -> datetime:
        with self._lock:
            self._offset += by
        for listener in self._listeners:
            listener()
        return self.now()
