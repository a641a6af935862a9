"""Many buyers under the example's plans are billed what a person reads in the example's documents."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from permission_plays import metered_call

from marketplace_constructs.rehearsal.bill import Plans
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.journey import JourneyEnded, Promises
from marketplace_constructs.rehearsal.metering_scenario import Size, play_metering
from marketplace_constructs.rehearsal.stage import SaleKind, Stage

pytestmark = pytest.mark.rehearsal

CONTRACTS = Path(__file__).parent / "every_permission"


def meaning(plan: str, call: Call) -> dict[str, Fraction]:
    """What monetization/ says, in other words."""
    name = plan.partition("@")[0]
    if name in {"internal", "trial"} or call.integration_status is None or call.status >= 400:
        return {}
    if (call.http_method, call.resource_path) == ("POST", "/v1/nouns"):
        tenths = -(-(call.integration_ms or 0) // 100)
        return {
            "calls": Fraction({"retail": 2, "partner": 1}[name]),
            **({"compute_sec": Fraction(tenths, 10)} if tenths else {}),
        }
    is_free = call.resource_path in {"/v1/samples", "/v1/samples/{id}"} and name != "basic"
    return {} if is_free else {"calls": Fraction(1)}


def test_bills_what_the_documents_mean(stage: Stage) -> None:
    tables = Plans(stage, stage.sale(SaleKind.METERED_BY_PLANS))

    def counts(plan: str, call: Call) -> dict[str, Fraction]:
        found = {dimension: quantity for dimension, quantity in tables.counts(plan, call).items() if quantity}
        assert found == meaning(plan, call), (plan, call)
        return found

    promises = Promises()
    try:
        play_metering(stage, promises, Size(buyers=10, calls=200), counts)
    except JourneyEnded:
        pytest.fail(f"{promises.steps[-1].promise}: {promises.steps[-1].broken}")


def test_what_is_used_beyond_a_contract_is_billed() -> None:
    # The entitlements that an event has read carry another spelling of the licence.
    with Stage(CONTRACTS) as stage:
        sale = stage.sale(SaleKind.CONCURRENT)
        promises = Promises()
        try:
            metered_call(stage, sale, promises)
        except JourneyEnded:
            pytest.fail(f"{promises.steps[-1].promise}: {promises.steps[-1].broken}")
        assert stage.market.accepted_records
