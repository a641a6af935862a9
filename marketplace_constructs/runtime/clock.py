"""The one place in the runtime that asks what time it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment, timezone-aware, in UTC."""


def utc_now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)
