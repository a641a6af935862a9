"""What is metered beyond the example: contracts, reports, usage events, and an operator's commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from permission_plays import metered_call
from written_pools import Document, policy, price_list, product, write_pool

from marketplace_constructs.cli import run
from marketplace_constructs.cli.metered import MeteredSale
from marketplace_constructs.domain.plan_versions import HOUR, next_hour
from marketplace_constructs.rehearsal.bill import accepted
from marketplace_constructs.rehearsal.journey import JourneyEnded, Promises
from marketplace_constructs.rehearsal.scenarios import SCENARIOS
from marketplace_constructs.rehearsal.stage import SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, register, sold_route

pytestmark = pytest.mark.rehearsal

CONTRACTS = Path(__file__).parent / "every_permission"
USERS = {"Category": "Users", "Unit": "Users", "Type": "ExternallyMetered"}
ALLOWED = {"Sid": "Sold", "Effect": "Allow", "Action": "*", "Resource": "/**"}
DOCUMENTED = Path(__file__).parent / "introduced_documents" / "app.py"


@pytest.fixture(scope="module")
def contracts() -> Iterator[Stage]:
    """Contracts with consumption: one that API Gateway meters, and one that the pipeline does."""
    with Stage(CONTRACTS) as built:
        yield built


def test_what_is_used_beyond_a_contract_is_billed(contracts: Stage) -> None:
    # The entitlements that an event has read carry another spelling of the licence.
    promises = Promises()
    try:
        metered_call(contracts, contracts.sale(SaleKind.CONCURRENT), promises)
    except JourneyEnded:
        pytest.fail(f"{promises.steps[-1].promise}: {promises.steps[-1].broken}")
    assert contracts.market.accepted_records


def test_a_meter_that_only_reports_counts_what_api_gateway_bills(
    contracts: Stage,
    operate: Callable[[Stage], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    played = SCENARIOS["report-only"].run(contracts)
    assert played.is_kept, [f"{step.promise}: {step.broken}" for step in played.steps if step.broken]

    operate(contracts)
    monkeypatch.setattr(MeteredSale, "now", staticmethod(contracts.clock.now))
    command = ["meter", "--stack", "LegacyContract", "compare"]
    assert run([*command, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["log"], one["differences"]) for one in found["customers"]] == [
        (one["reported"], []) for one in found["customers"]
    ]
    assert all(set(one["paths"]) == {"/", "/echo"} for one in found["customers"])

    sale, buyer = contracts.sale(SaleKind.REPORTED), contracts.visitors[-1]
    with contracts.access_logs.put_aside():
        buyer.call(sold_route(contracts, sale), buyer.key)
    sale.meter.report()
    contracts.clock.advance(timedelta(minutes=80))
    contracts.run_meter(sale)
    assert run(command) == 1
    said = capsys.readouterr().out
    assert "2 customers, 1 of them different" in said
    assert any(line.split()[1:] == ["0,", "reported", "1", "1"] for line in said.splitlines())
    assert all(len(line) <= 80 for line in said.splitlines())


def test_a_sale_without_documents_has_no_plans_to_move_between(contracts: Stage) -> None:
    assert all(sale.settings.plans_table for sale in contracts.sales)
    assert not contracts.sales_of(SaleKind.PLANNED)


def test_usage_that_a_backend_tells_on_the_bus_is_on_the_bill(tmp_path: Path) -> None:
    meter: Document = {
        "Sid": "Exporters",
        "Effect": "Meter",
        "Dimension": "exporters",
        "Quantity": {"Metric": "event:exporters", "Multiply": 5},
    }
    write_pool(
        tmp_path / "monetization",
        {**product(Dimensions={"exporters": USERS}), "Events": {"exporters": {}}},
        {**policy("items"), "Statement": [ALLOWED, meter]},
        price_list(exporters="0.1"),
    )
    shutil.copy(DOCUMENTED, tmp_path)
    with Stage(tmp_path) as stage:
        (sale,) = stage.sales
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        agreement = buyer.subscribe()
        register(buyer)
        hour = next_hour(stage.clock.now())
        stage.let_pass(sale, hour + timedelta(minutes=10))

        def tell(event_id: str, value: str, **changed: object) -> bool:
            event: dict[str, object] = {
                "specversion": "1.0",
                "id": event_id,
                "source": "/exports",
                "type": "exporters",
                "time": f"{stage.clock.now():%Y-%m-%dT%H:%M:%SZ}",
                "subject": agreement.id,
                "data": {"value": value},
            }
            return stage.put_usage_event(sale, event | changed)

        assert tell("first", "2")
        assert tell("first", "2")
        assert tell("second", "0.5")
        assert tell("nobody's", "7", subject="agmt-unknown")
        assert tell("unreadable", "1e3")
        assert not tell("undeclared", "1", type="imports")
        stage.let_pass(sale, hour + HOUR + timedelta(minutes=22))

        assert accepted(stage, [agreement.id]) == {(agreement.id, "exporters", hour): Decimal("12.5")}
