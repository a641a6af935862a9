"""Included units and trials are in the language; nothing evaluates them yet, so no stack sells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from written_pools import plan, product, write_pool

from marketplace_constructs import MarketplaceConstructsError, Monetization

DIMENSIONS = {
    "calls": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"},
    "calls_overage": {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"},
    "calls_committed": {"Category": "Requests", "Unit": "Requests", "Type": "Entitled"},
}
ALLOWANCE = {
    "Dimension": "calls",
    "Included": "entitlement:calls_committed",
    "Period": "Month",
    "Anchor": "Agreement",
    "Then": {"ReportAs": "calls_overage"},
}
TRIAL = {"Source": "Own", "Days": 30, "Then": "retail@1"}


@pytest.mark.parametrize("channel", ["Marketplace", "Direct"])
@pytest.mark.parametrize(
    ("members", "names"),
    [
        ({"Allowances": [ALLOWANCE]}, "Allowances"),
        ({"Allowances": [{**ALLOWANCE, "Included": 5, "Then": {"Deny": True}}]}, "Allowances"),
        ({"Trial": TRIAL}, "Trial"),
        ({"Allowances": [ALLOWANCE], "Trial": TRIAL}, "Allowances and Trial"),
    ],
)
def test_fails_when_a_plan_includes_units_that_would_be_billed(
    members: dict[str, Any], names: str, channel: str, tmp_path: Path
) -> None:
    special = plan("special", Channel=channel, AssignTo={"Offers": ["offer-example1"]}, **members)
    contract = product(PricingModel="ContractWithConsumption", Dimensions=DIMENSIONS)
    pool = write_pool(tmp_path, contract, plan(), special)
    with pytest.raises(MarketplaceConstructsError, match=rf"special@1\.json:\d+:\d+.* got {names};") as error:
        Monetization.from_directory(pool, product_code="items123")
    assert "MP-MONETIZATION-10" in error.value.codes


def test_a_contract_without_included_units_is_sold(tmp_path: Path) -> None:
    contract = product(PricingModel="ContractWithConsumption", Dimensions=DIMENSIONS)
    monetization = Monetization.from_directory(write_pool(tmp_path, contract), product_code="items123")
    assert monetization.plans == ("retail@1",)
