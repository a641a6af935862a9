"""What the onboarding page, the events and the operator may do with agreements."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.domain.agreements import (
    OBSERVATION_LAG,
    Agreement,
    Fact,
    FactKind,
    Key,
    license_id,
)
from marketplace_constructs.domain.product import ProductTerms
from marketplace_constructs.domain.subscription_events import Reading
from marketplace_constructs.runtime.agreements.access import Access, AccessUnsettledError
from marketplace_constructs.runtime.agreements.api_keys import ApiKeys
from marketplace_constructs.runtime.agreements.facts import FactStore
from marketplace_constructs.runtime.agreements.marketplace import Marketplace, TokenRefused
from marketplace_constructs.runtime.aws import error_code, is_transient
from marketplace_constructs.runtime.clock import Clock

MAX_OVERLAP: Final = timedelta(hours=24)
"""How long a rotated key may go on working."""

__all__ = ["MAX_OVERLAP", "AgreementsService", "KeyRefused", "Registration", "TokenRefused", "TryAgain"]


class TryAgain(Exception):
    """AWS did not answer in time or asked us to slow down; nothing is lost, and the step may be repeated."""


class KeyRefused(Exception):
    """The agreement does not grant access, so it gets no key."""


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A buyer who came with a registration token.

    Args:
        buyer: ``CustomerAWSAccountId`` (concurrent) or ``CustomerIdentifier`` (legacy).
        reference: Finds the agreement again: its id, or its licence's while AWS has named none; empty for a legacy
            customer, who has one agreement at a time.
        is_fresh: This very token was never redeemed before.
    """

    buyer: str
    reference: str
    is_fresh: bool


class AgreementsService:
    """Facts in, access out."""

    def __init__(
        self,
        *,
        product: ProductTerms,
        key_prefix: str,
        facts: FactStore,
        api_keys: ApiKeys,
        marketplace: Marketplace,
        access: Access,
        clock: Clock,
        new_key_value: Callable[[], str] = lambda: secrets.token_urlsafe(30),
    ) -> None:
        self._product: Final = product
        self._key_prefix: Final = key_prefix
        self._facts: Final = facts
        self._api_keys: Final = api_keys
        self._marketplace: Final = marketplace
        self._access: Final = access
        self._clock: Final = clock
        self._new_key_value: Final = new_key_value

    def register(self, token: str) -> Registration:
        """Resolve a registration token and record that its buyer came.

        Raises:
            TokenRefused: Missing, invalid, expired, or another product's.
            TryAgain: AWS could not answer.
        """
        if not token:
            raise TokenRefused("missing")
        try:
            customer = self._marketplace.resolve_customer(token)
            if customer.product_code != self._product.product_code:
                raise TokenRefused("foreign")
            legacy = self._product.is_legacy
            buyer = customer.customer_identifier if legacy else customer.customer_aws_account_id
            # What AWS may say of a licence means nothing to a legacy product.
            agreement_id, license_arn = (None, None) if legacy else (customer.agreement_id, customer.license_arn)
            if not buyer or not (legacy or license_arn or agreement_id):
                # An answer of the other kind of agreement: the stack and the listing do not agree.
                raise TokenRefused("foreign")
            self.read_entitlements(buyer, agreement_id, license_arn)
            is_fresh = self._facts.add(
                Fact(
                    id=f"registered#{hashlib.sha256(token.encode()).hexdigest()}",
                    kind=FactKind.REGISTERED,
                    buyer=buyer,
                    at=self._clock(),
                    agreement_id=agreement_id,
                    license_arn=license_arn,
                    product_code=customer.product_code,
                    account_id=customer.customer_aws_account_id if legacy else None,
                )
            )
        except (ClientError, BotoCoreError) as error:
            raise _try_again(error) from error
        # The buyer is registered from here on, whatever happens; the reconciliation opens what this cannot.
        with contextlib.suppress(ClientError, BotoCoreError, AccessUnsettledError):
            self._access.make_match(buyer)
        reference = agreement_id or (license_id(license_arn) if license_arn else "")
        return Registration(buyer=buyer, reference=reference, is_fresh=is_fresh)

    def read_entitlements(self, buyer: str, agreement_id: str | None, license_arn: str | None) -> None:
        """Record what the buyer is entitled to, where the pricing model has contracts.

        A failed call records nothing, so that the last good answer stays.
        """
        if not self._product.pricing_model.has_contract or not (self._product.is_legacy or license_arn):
            return
        entitlements = self._marketplace.entitlements(
            product_code=self._product.product_code, buyer=buyer, license_arn=license_arn
        )
        known = [
            fact
            for fact in self._facts.of_buyer(buyer)
            if fact.kind is FactKind.ENTITLED and fact.agreement_id == agreement_id
        ]
        if known and max(known, key=lambda fact: fact.at).entitlements == entitlements:
            return
        now = self._clock()
        self._facts.add(
            Fact(
                id=f"{FactKind.ENTITLED}#{agreement_id or ''}#{now.isoformat()}",
                kind=FactKind.ENTITLED,
                buyer=buyer,
                at=now,
                agreement_id=agreement_id,
                license_arn=license_arn,
                product_code=self._product.product_code,
                entitlements=entitlements,
            )
        )

    def record(self, reading: Reading) -> tuple[Agreement, ...]:
        """Record what AWS told and make access match; the buyer's agreements as they stand then.

        Access is made to match even for a fact that was there before: the run that recorded it may have died.
        """
        fact = reading.fact
        self._facts.add(fact)
        if reading.changes_entitlements:
            self.read_entitlements(fact.buyer, fact.agreement_id, fact.license_arn)
        return self._access.make_match(fact.buyer)

    def observe(self, agreement: Agreement) -> None:
        """Ask AWS itself how an agreement stands, since events may be lost, and record what is news."""
        self.read_entitlements(
            agreement.buyer, None if self._product.is_legacy else agreement.id, agreement.license_arn
        )
        if self._product.is_legacy or agreement.id == license_id(agreement.license_arn or ""):
            return
        described = self._marketplace.describe_agreement(agreement.id)
        facts = [fact for fact in self._facts.of_buyer(agreement.buyer) if fact.agreement_id == agreement.id]
        observed = max((f for f in facts if f.kind is FactKind.OBSERVED), key=lambda fact: fact.at, default=None)
        ended_at = max((f.at for f in facts if f.kind in {FactKind.ENDED, FactKind.DEPROVISIONED}), default=None)
        # An end is only taken back by what is observed well after it, so the same answer may be news again.
        is_stale = observed is None or (ended_at is not None and observed.at <= ended_at + OBSERVATION_LAG)
        if described is None:
            return
        known = (observed.status, observed.initial_agreement_id) if observed else None
        if known == (described.status, described.initial_agreement_id) and not is_stale:
            return
        now = self._clock()
        self._facts.add(
            Fact(
                id=f"{FactKind.OBSERVED}#{agreement.id}#{now.isoformat()}",
                kind=FactKind.OBSERVED,
                buyer=agreement.buyer,
                at=now,
                agreement_id=agreement.id,
                status=described.status,
                initial_agreement_id=described.initial_agreement_id,
            )
        )

    def agreements(self, buyer: str) -> tuple[Agreement, ...]:
        """The buyer's agreements as they stand."""
        return self._access.agreements(self._facts.of_buyer(buyer), self._clock())

    def agreement(self, buyer: str, reference: str) -> Agreement | None:
        """One agreement, read anew, or the one that continues it.

        Raises:
            TryAgain: AWS could not answer.
        """
        try:
            found = {agreement.id: agreement for agreement in self.agreements(buyer)}
        except (ClientError, BotoCoreError) as error:
            raise _try_again(error) from error
        if self._product.is_legacy and not reference:
            return next(reversed(found.values()), None)
        current = found.get(reference) or next(
            (a for a in found.values() if a.license_arn and license_id(a.license_arn) == reference), None
        )
        while current is not None and not current.keys and current.successor in found:
            if current.grants_access:
                break
            current = found[str(current.successor)]
        return current

    def issue_key(self, buyer: str, reference: str) -> str | None:
        """Make the agreement's first key; its value, which is told here once and kept nowhere.

        Returns:
            None where the agreement has a key already, or grants no access.

        Raises:
            TryAgain: No key was made; the step may be repeated.
        """
        agreement = self.agreement(buyer, reference)
        now = self._clock()
        if agreement is None or not agreement.grants_access or agreement.live_keys(now):
            return None
        made = self._make_key(agreement)
        return made[1] if made else None

    def rotate_key(self, buyer: str, reference: str, overlap: timedelta) -> str:
        """Make a new key, and let the last one work for a while longer.

        Args:
            buyer: As registered.
            reference: As registered.
            overlap: 0..24 h. Keys before the last one stop at once, so that there are never more than two.

        Raises:
            KeyRefused: The agreement grants no access.
            TryAgain: No key was made and none was retired; the step may be repeated.
        """
        agreement = self.agreement(buyer, reference)
        if agreement is None or not agreement.grants_access:
            raise KeyRefused
        now = self._clock()
        before = agreement.live_keys(now)
        made, value = self._make_key(agreement) or (None, "")
        if made is None:
            raise TryAgain
        try:
            for key in before:
                until = now + min(max(overlap, timedelta()), MAX_OVERLAP) if key is before[-1] else now
                self._facts.add(self._key_fact(FactKind.KEY_RETIRED, agreement, key, takes_effect_at=until))
        except (ClientError, BotoCoreError) as error:
            # A buyer who is shown a new key relies on the old one's end.
            self._abandon(agreement, made)
            raise _try_again(error) from error
        # From here on the facts say it all; what is left to do is the reconciliation's where this fails.
        with contextlib.suppress(ClientError, BotoCoreError, AccessUnsettledError):
            self._access.make_match(buyer)
        return value

    def _make_key(self, agreement: Agreement) -> tuple[Key, str] | None:
        """Promise a key, make it, let it in. The promise is put if absent, so two at once make one key."""
        number = max((key.number for key in agreement.keys), default=0) + 1
        value = self._new_key_value()
        key = Key(
            number=number,
            name=f"{self._key_prefix}{agreement.id}/{number}",
            sha256=hashlib.sha256(value.encode()).hexdigest(),
            issued_at=self._clock(),
        )
        try:
            if not self._facts.add(self._key_fact(FactKind.KEY_ISSUED, agreement, key)):
                return None
            api_key_id = self._api_keys.create(
                name=key.name, value=value, customer_id=self._access.customer_id(agreement)
            )
            self._facts.add(self._key_fact(FactKind.KEY_CREATED, agreement, key, api_key_id=api_key_id))
            self._access.admit(agreement.buyer, replace(key, api_key_id=api_key_id))
        except (ClientError, BotoCoreError, AccessUnsettledError) as error:
            # Whether the key came to be is not known; nobody has seen it, so it must not stay.
            self._abandon(agreement, key)
            raise _try_again(error) from error
        return key, value

    def _abandon(self, agreement: Agreement, key: Key) -> None:
        with contextlib.suppress(ClientError, BotoCoreError):
            self._facts.add(self._key_fact(FactKind.KEY_ABANDONED, agreement, key))

    def _key_fact(self, kind: FactKind, agreement: Agreement, key: Key, **more: datetime | str) -> Fact:
        # Two promises at once must collide, so a promise is known by its number; all else by the key itself.
        identity = f"{kind}#{agreement.id}#{key.number}"
        if kind is not FactKind.KEY_ISSUED:
            identity += f"#{key.sha256[:16]}"
        if kind is FactKind.KEY_RETIRED:
            identity += f"#{more['takes_effect_at']}"
        return Fact(
            id=identity,
            kind=kind,
            buyer=agreement.buyer,
            at=self._clock(),
            agreement_id=agreement.id,
            product_code=self._product.product_code,
            key_number=key.number,
            key_name=key.name,
            key_sha256=key.sha256,
            **more,  # type: ignore[arg-type]  # members of Fact, given by the callers above
        )


def _try_again(error: Exception) -> Exception:
    """What a buyer's page makes of an error: try again where that can help, else the error itself."""
    if isinstance(error, AccessUnsettledError) or is_transient(error):
        return TryAgain(error_code(error))
    return error
