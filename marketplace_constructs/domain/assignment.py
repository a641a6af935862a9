"""Which plan an agreement gets by what the documents say: AssignTo."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from marketplace_constructs.domain.agreements import Agreement
from marketplace_constructs.domain.plan_versions import PlanVersion
from marketplace_constructs.domain.product import AgreementKind

MARKETPLACE: Final = "Marketplace"
"""The channel of what is sold through AWS Marketplace; consumers of the others have no agreements."""


def assigned_plan(agreement: Agreement, held: Iterable[PlanVersion], *, now: datetime) -> str | None:
    """The plan that the documents give an agreement: by its offer, else an entitlement, else its account, else Default.

    Of several versions of a plan the highest alone is given to anybody. Where two plans say the same, which the linter
    refuses within one pool, the one that was deployed last is meant. An assignment is for good, so nothing is meant of
    a concurrent agreement whose offer AWS has not told yet, where a plan is for some offers.

    Args:
        agreement: With its offer, its entitlements and its account.
        held: What holds now.
        now: Decides which entitlements have expired.

    Returns:
        ``id@version``; None where no plan is meant.
    """
    newest: dict[str, PlanVersion] = {}
    for version in held:
        if version.channel != MARKETPLACE or not version.assign_to:
            continue
        name, number = _parts(version)
        if name not in newest or number > _parts(newest[name])[1]:
            newest[name] = version
    # Every event of a concurrent agreement names the offer; a legacy customer's do only where there was a subscription.
    is_offer_unknown = agreement.offer_id is None and agreement.kind is AgreementKind.CONCURRENT
    if is_offer_unknown and any("Offers" in json.loads(version.assign_to) for version in newest.values()):
        return None
    ranked = sorted(newest.values(), key=lambda version: (version.holds_from, version.plan), reverse=True)
    found = [(_rank(version, agreement, now), version) for version in ranked]
    best = min((rank for rank, _ in found if rank is not None), default=None)
    return next((version.plan for rank, version in found if rank == best), None) if best is not None else None


def _parts(version: PlanVersion) -> tuple[str, int]:
    name, _, number = version.plan.rpartition("@")
    return name, int(number)


def _rank(version: PlanVersion, agreement: Agreement, now: datetime) -> int | None:
    """How directly the plan means the agreement, the most direct first; None where it does not."""
    meant = json.loads(version.assign_to)
    if meant == "Default":
        return 3
    rights = {right.dimension for right in agreement.entitlements if right.expires_at is None or right.expires_at > now}
    named = (
        agreement.offer_id in (meant.get("Offers") or ()),
        meant.get("Entitlement") in rights,
        agreement.account_id in (meant.get("Accounts") or ()),
    )
    return next((rank for rank, is_named in enumerate(named) if is_named), None)
