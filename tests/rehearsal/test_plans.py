"""Documents that come to a product that is sold already."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from written_pools import write_pool

from marketplace_constructs.rehearsal.journey import wait_until
from marketplace_constructs.rehearsal.stage import Stage
from marketplace_constructs.rehearsal.visit import Visitor, is_served, open_to, register

pytestmark = pytest.mark.rehearsal

APP = Path(__file__).parent / "introduced_documents" / "app.py"


def test_nobody_stays_shut_out_where_documents_come(tmp_path: Path) -> None:
    for name in ("without", "with"):
        (tmp_path / name).mkdir()
        shutil.copy(APP, tmp_path / name)
    write_pool(tmp_path / "with" / "monetization")
    with Stage(tmp_path / "without") as stage:
        (sale,) = stage.sales
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        buyer.subscribe()
        register(buyer)
        route = open_to(buyer)

        stage.update(sale, tmp_path / "with")

        # Nobody reconciles here but what the update itself has started.
        def is_served_under_the_plan() -> bool | None:
            # Until the update reaches the gate, calls are served as they were before.
            served = is_served(buyer.call(route, buyer.key))
            return (served and stage.gateway.calls[-1].authorizer["plan"] == "retail@1") or None

        wait_until(is_served_under_the_plan, f"{route} is served under retail@1")
