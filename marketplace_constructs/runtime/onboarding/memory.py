"""The ports of onboarding kept in memory: for tests and for a look at the pages without an account."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from marketplace_constructs.runtime.onboarding.contacts import Confirmation, Contact
from marketplace_constructs.runtime.onboarding.mail import MailFailed
from marketplace_constructs.runtime.onboarding.signing_secret import SigningKey

if TYPE_CHECKING:
    from marketplace_constructs.runtime.clock import Clock


class MemoryContacts:
    """Contacts in a dictionary."""

    def __init__(self) -> None:
        self._contacts: dict[str, Contact] = {}

    def add(self, contact: Contact) -> bool:
        """Keep a contact unless its agreement has one already."""
        return self._contacts.setdefault(contact.agreement, contact) is contact

    def get(self, agreement: str) -> Contact | None:
        """The contact of an agreement."""
        return self._contacts.get(agreement)

    def owed(self) -> Iterator[Contact]:
        """Every contact whose confirmation is owed."""
        return iter([c for c in self._contacts.values() if c.confirmation is Confirmation.OWED])

    def mark_sent(self, agreement: str) -> None:
        """Note that the confirmation mail went out."""
        if agreement in self._contacts:
            self._contacts[agreement] = replace(self._contacts[agreement], confirmation=Confirmation.SENT)

    def delete(self, agreement: str) -> bool:
        """Forget the contact of an agreement."""
        return self._contacts.pop(agreement, None) is not None


class MemoryMail:
    """Remembers whom it wrote to; fails while ``is_down``, sends nothing without ``has_sender``."""

    def __init__(self, *, has_sender: bool = True) -> None:
        self.recipients: list[str] = []
        self.has_sender = has_sender
        self.is_down = False

    def confirm(self, email: str) -> bool:
        """Remember the address."""
        if not self.has_sender:
            return False
        if self.is_down:
            raise MailFailed("ServiceUnavailable")
        self.recipients.append(email)
        return True


class MemorySigningSecret:
    """A secret with the three stages of Secrets Manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._current = self._make()
        self._previous: SigningKey | None = None
        self._pending: SigningKey | None = None

    def keys(self) -> tuple[SigningKey, ...]:
        """The versions that verify."""
        return tuple(key for key in (self._current, self._previous, self._pending) if key is not None)

    def begin_rotation(self) -> None:
        """Make a pending version."""
        self._pending = replace(self._make(), is_pending=True)

    def finish_rotation(self) -> None:
        """The pending version becomes the current one, and that one the previous."""
        if self._pending is not None:
            self._current, self._previous = replace(self._pending, is_pending=False), self._current
            self._pending = None

    def _make(self) -> SigningKey:
        return SigningKey(version=secrets.token_hex(16), value=secrets.token_urlsafe(48), created_at=self._clock())
