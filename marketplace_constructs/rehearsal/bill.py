"""The bill as it must be: worked out in plain Python from the calls that were made.

Nothing of the way that usage takes is used: no log, query, file or ledger, and not what the gate said of a call. Who
called is known from the key that was shown to the buyer, what a call counts from the table of the buyer's plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable
from marketplace_constructs.domain.plan_versions import EVERY_CALL, Assignment, PlanVersion, deployed, hour_of, plan_at
from marketplace_constructs.rehearsal.errors import BrokenPromise
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.stage import Sale, Stage
from marketplace_constructs.rehearsal.visit import Visitor
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions

SOLD_THROUGH: Final = "Marketplace"
"""The channel whose usage is sent; that of others is only reported."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Place = tuple[str, str, datetime]
"""Agreement, dimension and hour: AWS bills one record for each."""
Bill = Mapping[Place, Decimal]
"""Quantities above zero."""


def counted(call: Call, table: PlanTable) -> dict[str, Fraction]:
    """What one call counts under a plan, by dimension; nothing where it never reached the code that is sold."""
    if call.integration_status is None:
        return {}
    found: dict[str, Fraction] = {}
    for cell in table.cells:
        if cell.state is LineState.BILLABLE and (cell.method, cell.path) == (call.http_method, call.resource_path):
            if not _holds(cell, call):
                continue
            steps = -(-_base(cell, call) // cell.round_up) * cell.round_up
            quantity = steps * Fraction(cell.multiply) / cell.base_units
            found[cell.dimension] = found.get(cell.dimension, Fraction(0)) + quantity
    return found


def due(counts: Iterable[tuple[str, datetime, Mapping[str, Fraction]]], *, decimals: int) -> Bill:
    """What is to be billed.

    Args:
        counts: Of each call: its agreement, the hour that it is billed in, and what it counts by dimension.
        decimals: Of a quantity; what is less is handed to the next hour.
    """
    exact: dict[Place, Fraction] = {}
    for agreement, hour, quantities in counts:
        for dimension, quantity in quantities.items():
            place = agreement, dimension, hour
            exact[place] = exact.get(place, Fraction(0)) + quantity
    owed: dict[Place, Decimal] = {}
    rest: dict[tuple[str, str], Fraction] = {}
    for (agreement, dimension, hour), quantity in sorted(exact.items()):
        carried = quantity + rest.get((agreement, dimension), Fraction(0))
        told = carried * 10**decimals // 1
        rest[agreement, dimension] = carried - Fraction(told, 10**decimals)
        if told:
            owed[agreement, dimension, hour] = Decimal(told).scaleb(-decimals)
    return owed


def totals(bill: Bill, agreements: Iterable[str]) -> dict[tuple[str, str], Decimal]:
    """What some agreements come to, whatever the hour, by agreement and dimension."""
    wanted, found = set(agreements), dict[tuple[str, str], Decimal]()
    for (agreement, dimension, _), quantity in bill.items():
        if agreement in wanted:
            found[agreement, dimension] = found.get((agreement, dimension), Decimal(0)) + quantity
    return found


def accepted(stage: Stage, agreements: Iterable[str]) -> Bill:
    """What AWS Marketplace would bill these agreements."""
    wanted, found = set(agreements), dict[Place, Decimal]()
    for record in stage.market.accepted_records:
        if record.agreement_id in wanted and record.quantity:
            place = record.agreement_id, record.dimension, record.hour
            found[place] = found.get(place, Decimal(0)) + record.quantity
    return found


def differences(owed: Bill, got: Bill) -> list[str]:
    """Where two bills differ."""
    return [
        f"{agreement}, {dimension}, {hour:%d %H:%M}: {plain(owed.get(place))} are due and {plain(got.get(place))} are "
        "billed"
        for place in sorted(owed.keys() | got.keys())
        if owed.get(place) != got.get(place)
        for agreement, dimension, hour in [place]
    ]


def plain(quantity: Decimal | None) -> str:
    """A quantity as people write it; none is 0."""
    return format((quantity or Decimal(0)).normalize(), "f")


class Plans:
    """Which table an agreement is judged by in an hour: as deployed, and as assigned.

    Args:
        stage: Where.
        sale: Of what.
    """

    def __init__(self, stage: Stage, sale: Sale) -> None:
        assert sale.pipeline is not None
        self._stage: Final = stage
        self._settings: Final = sale.pipeline.settings
        dynamodb = stage.aws.client("dynamodb")
        self._versions: Final = DynamoDbPlanVersions(dynamodb, self._settings.plans_table)
        self._facts: Final = DynamoDbFacts(dynamodb, self._settings.facts_table)
        self._tables: dict[str, PlanTable] = {}
        self._held: dict[tuple[str, datetime], PlanVersion] = {}

    def plan_of(self, buyer: Visitor, agreement: str, at: datetime) -> str:
        """The plan of a buyer's agreement at a moment, as ``id@version``."""
        assigned = [
            Assignment(plan=fact.plan, takes_effect_at=hour_of(fact.takes_effect_at or fact.at))
            for fact in self._facts.of_buyer(buyer.identity)
            if fact.kind is FactKind.ASSIGNED and fact.agreement_id == agreement and fact.plan
        ]
        return plan_at(assigned, at) or EVERY_CALL

    def deployed(self, at: datetime) -> dict[str, PlanVersion]:
        """Every plan that is in the stack, with what holds of it."""
        return deployed(self._versions.versions(), at)

    def version_of(self, plan: str, at: datetime) -> PlanVersion:
        """What holds of a plan.

        Raises:
            BrokenPromise: Nothing does.
        """
        place = plan, hour_of(at)
        if place not in self._held:
            version = self._versions.holding(plan, at)
            if version is None:
                raise BrokenPromise(f"nothing holds of {plan} at {at:%H:%M}")
            self._held[place] = version
        return self._held[place]

    def table_of(self, plan: str, at: datetime) -> PlanTable:
        """The table of a plan.

        Raises:
            BrokenPromise: It is not the one that was deployed.
        """
        digest = self.version_of(plan, at).digest
        if digest not in self._tables:
            key = f"plan-tables/{digest}.json"
            stored = self._stage.aws.client("s3").get_object(Bucket=self._settings.tables_bucket, Key=key)
            text: bytes = stored["Body"].read()
            if hashlib.sha256(text).hexdigest() != digest:
                raise BrokenPromise(f"the table of {digest} is another")
            self._tables[digest] = PlanTable.from_text(text.decode())
        return self._tables[digest]

    def counts(self, plan: str, call: Call) -> dict[str, Fraction]:
        """What a call counts that is sold through AWS Marketplace; nothing otherwise."""
        table = self.table_of(plan, call.at)
        return counted(call, table) if table.channel == SOLD_THROUGH else {}


def _holds(cell: Cell, call: Call) -> bool:
    values = (
        (cell.status, call.status),
        (cell.response_bytes, call.response_bytes),
        (cell.integration_ms, call.integration_ms or 0),
        (cell.time_ms, (call.at - _EPOCH) // timedelta(milliseconds=1)),
    )
    return all(low <= value < high for (low, high), value in values)


def _base(cell: Cell, call: Call) -> int:
    of = {
        "requests": 1,
        "response.bytes": call.response_bytes,
        "response.ms": call.response_ms,
        "integration.ms": call.integration_ms or 0,
    }
    return of[cell.metric]
