"""How a rehearsal ends early."""

from __future__ import annotations

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem


class CouldNotRehearse(MarketplaceConstructsError):
    """Something the rehearsal stands on is missing or silent: nothing was found out about the sale."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(Problem(code, what))


class BrokenPromise(AssertionError):
    """The sale did not do what it promises. The text says what was seen instead, never a key or a token."""
