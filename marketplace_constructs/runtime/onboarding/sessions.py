"""Sessions: a signed cookie that names the buyer's agreement, and the proof that a form is ours."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

from itsdangerous import BadSignature, SignatureExpired, Signer, TimestampSigner, URLSafeTimedSerializer

from marketplace_constructs.runtime.onboarding.signing_secret import SigningSecret, in_signing_order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from marketplace_constructs.runtime.clock import Clock

COOKIE: Final = "__Host-session"
"""The prefix makes browsers refuse the cookie unless it is Secure, and for this host alone and all of it."""
LIFETIME: Final = timedelta(hours=1)
_LONGEST_COOKIE: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Session:
    """Who is here.

    Args:
        id: Random; ties our forms to this session.
        buyer: As ``Registration.buyer``.
        reference: As ``Registration.reference``.
        is_fresh: Opened by the first redemption of a token. Only such a session gets or rotates a key; one
            that was opened by a token seen before shows the status.
    """

    id: str
    buyer: str
    reference: str
    is_fresh: bool


class SessionRefused(Exception):
    """There is no session to go by."""

    def __init__(self, reason: Literal["missing", "invalid", "expired"]) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Sessions:
    """Opens and reads sessions. What is signed is neither token nor key nor address."""

    def __init__(self, secret: SigningSecret, clock: Clock) -> None:
        self._secret: Final = secret
        self._clock: Final = clock

    def prepare(self) -> None:
        """Have at hand what signs, so that ``open`` asks AWS nothing any more."""
        self._secret.keys()

    def open(self, *, buyer: str, reference: str, is_fresh: bool) -> str:
        """The cookie's value for a new session."""
        return self._serializer().dumps([secrets.token_urlsafe(16), buyer, reference, is_fresh])

    def read(self, cookie_headers: Iterable[str]) -> Session:
        """The session of a request.

        Args:
            cookie_headers: The values of its ``Cookie`` headers.

        Raises:
            SessionRefused: Missing, forged or over an hour old.
        """
        pairs = (pair.strip().partition("=") for header in cookie_headers for pair in header.split(";"))
        value = next((value for name, _, value in pairs if name == COOKIE), "")
        if not value:
            raise SessionRefused("missing")
        if len(value) > _LONGEST_COOKIE or not value.isascii():
            raise SessionRefused("invalid")
        try:
            session_id, buyer, reference, is_fresh = self._serializer().loads(
                value, max_age=int(LIFETIME.total_seconds())
            )
        except SignatureExpired:
            raise SessionRefused("expired") from None
        except BadSignature:
            raise SessionRefused("invalid") from None
        return Session(id=session_id, buyer=buyer, reference=reference, is_fresh=is_fresh)

    def form_token(self, session: Session) -> str:
        """What our own forms carry, so that no other site can post in the buyer's name."""
        return self._form_signer().get_signature(session.id).decode("ascii")

    def is_own_form(self, session: Session, form_token: str) -> bool:
        """Whether a form was made for this very session; compared in constant time."""
        return self._form_signer().verify_signature(session.id, form_token)

    def _serializer(self) -> URLSafeTimedSerializer:
        clock = self._clock

        class ClockedSigner(TimestampSigner):
            def get_timestamp(self) -> int:
                return int(clock().timestamp())

        return URLSafeTimedSerializer(
            self._keys(),
            salt="marketplace-constructs.onboarding.session",
            signer=ClockedSigner,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def _form_signer(self) -> Signer:
        return Signer(
            self._keys(),
            salt="marketplace-constructs.onboarding.form",
            key_derivation="hmac",
            digest_method=hashlib.sha256,
        )

    def _keys(self) -> list[str]:
        return in_signing_order(self._secret.keys(), self._clock())
