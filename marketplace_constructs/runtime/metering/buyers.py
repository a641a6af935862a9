"""Whose usage a line of the log is, and under which identity it is metered: from the facts of the agreements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Final

from marketplace_constructs.domain.agreements import (
    ENDING_STATUSES,
    OBSERVATION_LAG,
    SUCCEEDED_STATUSES,
    Agreement,
    Fact,
    FactKind,
    agreements_of,
    license_id,
)
from marketplace_constructs.domain.metering import Buyer, hour_of
from marketplace_constructs.domain.plan_versions import Assignment, plan_at
from marketplace_constructs.domain.product import AgreementKind, ProductTerms

_HOUR: Final = timedelta(hours=1)
FOREVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Life:
    """Lines that name an agreement, within a half-open interval, are usage of an agreement of its chain.

    A key stays with its buyer when an agreement is renewed; so a line may still name the one before.

    Args:
        agreement: As the line names it.
        owner: Whose usage it is.
        starts_at: The first instant.
        ends_at: The first instant after it.
        plan: ``id@version`` in force meanwhile; empty where none was assigned. It goes before what the line says, since
            an answer of the gate that API Gateway keeps may be older than a move.
    """

    agreement: str
    owner: str
    starts_at: datetime
    ends_at: datetime
    plan: str = ""


def by_agreement(lives: Iterable[Life]) -> Mapping[str, Sequence[Life]]:
    """Lives by the agreement that a line names."""
    found: dict[str, list[Life]] = {}
    for life in lives:
        found.setdefault(life.agreement, []).append(life)
    return found


@dataclass(frozen=True, kw_only=True)
class Register:
    """Everybody who is or was metered.

    Args:
        buyers: By agreement.
        lives: Those of one agreement never overlap.
        nameless: Agreements that are active, and whose licence AWS has not told.
    """

    buyers: Mapping[str, Buyer]
    lives: tuple[Life, ...]
    nameless: tuple[str, ...] = ()

    def covers(self, agreement: str, hour: datetime) -> bool:
        """Whether each line of an hour that names an agreement is somebody's usage."""
        covered = hour
        for life in sorted(self._by_agreement.get(agreement, ()), key=lambda life: life.starts_at):
            if life.starts_at <= covered:
                covered = max(covered, life.ends_at)
        return covered >= hour + _HOUR

    def began_in(self, agreement: str, hour: datetime) -> str | None:
        """Whose usage the first lines are that name an agreement; None where it did not begin within an hour."""
        first = min(self._by_agreement.get(agreement, ()), key=lambda life: life.starts_at, default=None)
        return first.owner if first is not None and hour <= first.starts_at < hour + _HOUR else None

    @cached_property
    def _by_agreement(self) -> Mapping[str, Sequence[Life]]:
        return by_agreement(self.lives)

    def ended(self, *, since: datetime) -> dict[str, Buyer]:
        """The agreements that ended, at some time or later."""
        return {a: b for a, b in self.buyers.items() if b.ended_at is not None and b.ended_at >= since}


def register(facts_by_buyer: Iterable[tuple[str, Sequence[Fact]]], *, product: ProductTerms, now: datetime) -> Register:
    """Who is metered, and when.

    An agreement's metering ends with it, or when the agreement that continues it begins, whichever comes first.
    """
    buyers: dict[str, Buyer] = {}
    lives: list[Life] = []
    nameless: list[str] = []
    for _, facts in facts_by_buyer:
        agreements = {a.id: a for a in agreements_of(facts, product=product, now=now) if a.activated_at is not None}
        for agreement in agreements.values():
            if agreement.predecessor in agreements:
                continue
            chain = [agreement]
            while (successor := agreements.get(chain[-1].successor or "")) is not None and successor not in chain:
                chain.append(successor)
            intervals = _intervals(chain, facts)
            for member, (starts_at, ends_at) in zip(chain, intervals, strict=True):
                if starts_at >= (ends_at or FOREVER):
                    continue
                if not product.is_legacy and not member.license_arn:
                    nameless.append(member.id)
                    continue
                buyers[member.id] = _buyer(member, ends_at)
                lives += [
                    Life(agreement=named.id, owner=member.id, starts_at=since, ends_at=until, plan=plan)
                    for named in chain
                    for since, until, plan in _planned(starts_at, ends_at or FOREVER, member.assignments)
                ]
    return Register(buyers=_with_slots(buyers), lives=tuple(lives), nameless=tuple(nameless))


def _planned(
    starts_at: datetime, ends_at: datetime, assignments: Sequence[Assignment]
) -> Iterator[tuple[datetime, datetime, str]]:
    """An interval, cut where another plan takes effect."""
    moves = sorted({a.takes_effect_at for a in assignments if starts_at < a.takes_effect_at < ends_at})
    for since, until in pairwise([starts_at, *moves, ends_at]):
        yield since, until, plan_at(assignments, since) or ""


def _intervals(chain: Sequence[Agreement], facts: Sequence[Fact]) -> list[tuple[datetime, datetime | None]]:
    """From when to when each agreement of a chain is metered, without a gap where one continues another."""
    intervals: list[tuple[datetime, datetime | None]] = []
    for index, member in enumerate(chain):
        assert member.activated_at is not None, "only activated ones are metered"
        before = intervals[-1][1] if intervals else None
        following = chain[index + 1].activated_at if index + 1 < len(chain) else None
        ends = [*_told_ends(member, facts), *(at for at in (member.ended_at, following) if at is not None)]
        intervals.append((before or member.activated_at, min(ends, default=None)))
    return intervals


def _told_ends(agreement: Agreement, facts: Sequence[Fact]) -> list[datetime]:
    """When AWS said that it ends: of the two events that do, the first one counts, whichever it is."""
    if agreement.kind is AgreementKind.CONCURRENT:
        active = [fact.at for fact in facts if fact.kind is FactKind.OBSERVED and fact.status == "ACTIVE"]
        return [
            fact.at
            for fact in facts
            if fact.kind is FactKind.ENDED
            and fact.agreement_id == agreement.id
            and (fact.status in SUCCEEDED_STATUSES or (agreement.ended_at and fact.status in ENDING_STATUSES))
            and not any(at > fact.at + OBSERVATION_LAG for at in active)
        ]
    if agreement.ended_at is None:
        return []
    begun = [fact.at for fact in facts if fact.kind is FactKind.ACTIVATED and fact.at <= agreement.ended_at]
    return [
        fact.at
        for fact in facts
        if fact.kind is FactKind.ENDING and max(begun, default=fact.at) <= fact.at <= agreement.ended_at
    ]


def _buyer(agreement: Agreement, ends_at: datetime | None) -> Buyer:
    assert agreement.activated_at is not None, "only activated ones are metered"
    starts_at = datetime.fromtimestamp(math.ceil(agreement.activated_at.timestamp()), UTC)
    if agreement.license_arn and agreement.account_id and agreement.kind is AgreementKind.CONCURRENT:
        return Buyer(
            customer_aws_account_id=agreement.account_id,
            license_arn=agreement.license_arn,
            started_at=starts_at,
            ended_at=ends_at,
        )
    return Buyer(customer_identifier=agreement.buyer, started_at=starts_at, ended_at=ends_at)


def _with_slots(buyers: Mapping[str, Buyer]) -> dict[str, Buyer]:
    """Give the hour in which one agreement follows another under the same identity to the earlier one."""
    free_from: dict[tuple[str, str], datetime] = {}
    result: dict[str, Buyer] = {}
    for agreement, buyer in sorted(buyers.items(), key=lambda item: (item[1].started_at, item[0])):
        identity = (buyer.customer_identifier or buyer.customer_aws_account_id, license_id(buyer.license_arn))
        result[agreement] = replace(buyer, slots_from=free_from.get(identity))
        if buyer.ended_at is not None:
            free_from[identity] = hour_of(buyer.ended_at - timedelta(microseconds=1)) + _HOUR
    return result
