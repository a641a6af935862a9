"""``sellable agreements assign``: the operator sees what changes first, and cannot assign what is not there."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from marketplace_constructs.cli import agreements
from marketplace_constructs.cli.agreements import _Sale, assign
from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.plan_table import Cell, LineState, PlanTable, RouteAccess
from marketplace_constructs.domain.plan_versions import HOUR, PlanVersion, hour_of, next_hour
from marketplace_constructs.domain.product import AgreementKind, Metering, PricingModel
from marketplace_constructs.runtime.memory import MemoryFacts
from marketplace_constructs.runtime.settings import ReconciliationSettings

SETTINGS = ReconciliationSettings(
    product_code="abc123",
    agreement_kind=AgreementKind.CONCURRENT,
    pricing_model=PricingModel.SUBSCRIPTION,
    metering=Metering.PIPELINE,
    metering_region="us-east-1",
    facts_table="facts",
    keys_table="keys",
    usage_plan_id="",
    key_prefix="Sale/",
    plans_table="plans",
    contacts_table="contacts",
    sender="",
    seller_name="",
    support_contact="",
    observe_every_hours=24,
)


def table(plan: str, *allowed: str) -> PlanTable:
    return PlanTable(
        plan=plan,
        product="nouns",
        segment="retail",
        channel="Marketplace",
        routes=tuple(
            RouteAccess(method=method, path="/v1/nouns", is_allowed=method in allowed) for method in ("GET", "POST")
        ),
        cells=(Cell(method="GET", path="/v1/nouns", dimension="calls", state=LineState.BILLABLE, metric="requests"),),
    )


TABLES = {"reader@1": table("reader@1", "GET"), "writer@1": table("writer@1", "GET", "POST")}


class LocalSale(_Sale):
    """A deployed sale whose tables are at hand."""

    def __init__(self, settings: ReconciliationSettings = SETTINGS, *, failure: str = "") -> None:
        super().__init__("Sale", None)
        self.settings = settings
        self.failure = failure
        self.reconciled: list[str] = []
        start = datetime.now(UTC) - timedelta(days=30)
        self.store = MemoryFacts()
        for number, (kind, members) in enumerate(
            [
                (FactKind.REGISTERED, {"product_code": "abc123"}),
                (FactKind.ACTIVATED, {"license_arn": "l-1"}),
                (FactKind.ASSIGNED, {"plan": "reader@1", "takes_effect_at": hour_of(start)}),
            ]
        ):
            fact = Fact(id=str(number), kind=kind, buyer="111122223333", at=start, agreement_id="agmt-one")
            self.store.add(replace(fact, **members))  # type: ignore[arg-type]

    @cached_property
    def _function(self) -> tuple[str, ReconciliationSettings]:
        return "function", self.settings

    @cached_property
    def facts(self) -> MemoryFacts:  # type: ignore[override]
        return self.store

    @cached_property
    def versions(self) -> tuple[PlanVersion, ...]:
        since = hour_of(datetime.now(UTC)) - 10 * HOUR
        held = [
            PlanVersion(
                plan=plan, holds_from=since, digest=plan, usage_plan_id=f"plan-of-{plan}", assign_to='"Default"'
            )
            for plan in TABLES
        ]
        later = replace(held[0], plan="later@1", holds_from=since + 100 * HOUR)
        return (*held, later, replace(held[0], plan="gone@1", assign_to=""))

    def _limits(self, usage_plan_id: str) -> dict[str, str]:
        return {"throttle": "10/s, burst 20", "quota": usage_plan_id}

    def stage(self, version: PlanVersion) -> str:
        assert version.plan == "writer@1"
        return "live"

    def _table(self, version: PlanVersion) -> PlanTable:
        return TABLES[version.digest]

    def reconcile(self, buyer: str) -> str:
        self.reconciled.append(buyer)
        return self.failure

    @property
    def assigned(self) -> list[tuple[str | None, datetime | None]]:
        facts = self.store.of_buyer("111122223333")
        return [(f.plan, f.takes_effect_at) for f in facts if f.kind is FactKind.ASSIGNED][1:]


def run(sale: LocalSale, *arguments: str, says: str | None = None) -> Result:
    return CliRunner().invoke(assign, arguments, obj=sale, input=says, standalone_mode=False)


def test_it_shows_what_changes_and_asks_and_then_records_the_move_for_the_next_hour() -> None:
    sale = LocalSale()
    possible = {next_hour(datetime.now(UTC))}
    done = run(sale, "agmt-one", "writer@1", says="y\n")
    possible.add(next_hour(datetime.now(UTC)))
    assert done.return_value == 0
    ((_, hour),) = sale.assigned
    assert hour in possible
    assert done.stdout.splitlines() == [
        f"agmt-one: reader@1 -> writer@1, from {hour:%Y-%m-%dT%H:%MZ}",
        "  opened on POST /v1/nouns: refused -> allowed",
        "  quota: plan-of-reader@1 -> plan-of-writer@1",
        "assigned",
    ]
    assert sale.assigned == [("writer@1", hour)]
    assert sale.reconciled == ["111122223333"]


@pytest.mark.parametrize("says", ["n\n", "\n"])
def test_nothing_is_recorded_unless_the_answer_is_yes(says: str) -> None:
    sale = LocalSale()
    done = run(sale, "agmt-one", "writer@1", says=says)
    assert done.return_value == 1
    assert "nothing was assigned" in done.stdout
    assert (sale.assigned, sale.reconciled) == ([], [])


def test_json_is_one_document_and_an_hour_can_be_named() -> None:
    sale = LocalSale()
    hour = hour_of(datetime.now(UTC)) + 48 * HOUR
    done = run(sale, "agmt-one", "writer@1", "--from", f"{hour:%Y-%m-%dT%H:%M:%SZ}", "--yes", "--format", "json")
    document = json.loads(done.stdout)
    assert (document["schema_version"], document["old"], document["new"]) == (1, "reader@1", "writer@1")
    assert document["assigned"] is True
    assert {change["kind"] for change in document["changes"]} == {"access", "limit"}
    assert sale.assigned == [("writer@1", hour)]
    again = run(sale, "agmt-one", "reader@1", "--yes")
    assert f"from {hour:%Y-%m-%dT%H:%MZ} it has writer@1" in again.stdout


def test_fails_when_the_hour_is_settled_already_by_the_time_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sale = LocalSale()
    soon = iter([hour_of(datetime.now(UTC)) + HOUR, hour_of(datetime.now(UTC)) + 2 * HOUR])
    monkeypatch.setattr(agreements, "next_hour", lambda _: next(soon))
    done = run(sale, "agmt-one", "writer@1", says="y\n")
    assert isinstance(done.exception, MarketplaceConstructsError)
    assert done.exception.codes == ("MP-CLI-17",)
    assert (sale.assigned, sale.reconciled) == ([], [])


def test_fails_when_the_hour_is_too_near_for_the_gate_to_hear_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sale = LocalSale()
    # Four minutes before the hour, the one after it is the next that can be had.
    near = hour_of(datetime.now(UTC)) + HOUR
    monkeypatch.setattr(agreements, "next_hour", lambda _: near + HOUR)
    done = run(sale, "agmt-one", "writer@1", "--from", f"{near:%Y-%m-%dT%H:%MZ}", "--yes")
    assert "expected a whole hour to come" in str(done.exception)
    assert sale.assigned == []


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00Z", "2999-01-01T00:30:00Z", "tomorrow", ""])
def test_fails_when_the_hour_is_over_or_not_whole(text: str) -> None:
    sale = LocalSale()
    done = run(sale, "agmt-one", "writer@1", "--from", text, "--yes")
    assert "expected a whole hour to come" in str(done.exception)
    assert sale.assigned == []


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "says"),
    [
        (["agmt-one", "unheard-of@1"], SETTINGS, "MP-CLI-15", "reader@1, writer@1"),
        (["agmt-one", "later@1"], SETTINGS, "MP-CLI-15", "reader@1, writer@1"),
        (["agmt-one", "gone@1"], SETTINGS, "MP-CLI-15", "reader@1, writer@1"),
        (["agmt-two", "writer@1"], SETTINGS, "MP-CLI-12", "agmt-two"),
        (["agmt-one", "writer@1"], replace(SETTINGS, plans_table=""), "MP-CLI-14", "without documents"),
    ],
)
def test_fails_when_there_is_no_such_plan_or_agreement(
    arguments: list[str], settings: ReconciliationSettings, code: str, says: str
) -> None:
    sale = LocalSale(settings)
    done = run(sale, *arguments, "--yes")
    assert isinstance(done.exception, MarketplaceConstructsError)
    assert done.exception.codes == (code,)
    assert says in str(done.exception)
    assert sale.assigned == []


def test_fails_when_the_gate_could_not_be_told_and_says_how_to_repair_it() -> None:
    sale = LocalSale(failure="ThrottlingException")
    done = run(sale, "agmt-one", "writer@1", "--yes")
    assert "MP-CLI-13" in str(done.exception)
    assert "sellable agreements repair 111122223333" in str(done.exception)
    assert len(sale.assigned) == 1


def documents(directory: Path, *, multiply: object = 2) -> list[str]:
    """A pool of the two plans, and its routes, as options; on the stage ``live`` writing counts more."""
    head = {"Version": "2026-11-21"}
    every = {"Action": "*", "Resource": "/**"}
    meter = {"Effect": "Meter", "Action": "*", "Resource": "/**", "Dimension": "calls"}
    dear = {"Metric": "requests", "Multiply": multiply}
    live = {"StringEquals": {"api:Stage": "live"}}
    plan = {**head, "Kind": "Plan", "PlanVersion": 1, "Segment": "retail", "Product": "nouns", "PriceList": "prices"}
    sold = {"Sid": "Sold", "Effect": "Allow", **every}
    counted = {"Sid": "Calls", **meter, "Quantity": {"Metric": "requests"}}
    policy = {**head, "Kind": "Policy", "PolicyVersion": 1}
    calls = {"Category": "Requests", "Unit": "Requests", "Type": "ExternallyMetered"}
    texts: dict[str, object] = {
        "product.json": {
            **head,
            "Kind": "Product",
            "Id": "nouns",
            "Segments": {"retail": {}},
            "Marketplace": {
                "Agreements": "Concurrent",
                "PricingModel": "Subscription",
                "Metering": "Pipeline",
                "Dimensions": {"calls": calls},
            },
        },
        "policies/read.json": {**policy, "Id": "read", "Statement": [sold, counted]},
        "policies/write.json": {
            **policy,
            "Id": "write",
            "Statement": [sold, counted, {"Sid": "Dear", **meter, "Quantity": dear, "Condition": live}],
        },
        "plans/reader.json": {
            **plan, "Id": "reader", "Channel": "Marketplace", "AssignTo": "Default", "Policies": ["read@1"],
        },
        "plans/writer.json": {
            **plan,
            "Id": "writer",
            "Channel": "Marketplace",
            "AssignTo": {"Offers": ["offer-one"]},
            "Policies": ["write@1"],
        },
        "prices/prices.json": {
            **head,
            "Kind": "PriceList",
            "Id": "prices",
            "Currency": "USD",
            "EffectiveFrom": "2026-10-01T00:00:00Z",
            "Prices": {"calls": "0.001"},
        },
        "openapi.json": {"openapi": "3.0.3", "info": {}, "paths": {"/v1/nouns": {"get": {}, "post": {}}}},
    }  # fmt: skip
    for name, document in texts.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return ["--pool", str(directory), "--routes", str(directory / "openapi.json")]


def test_documents_are_compared_on_the_stage_that_is_sold(tmp_path: Path) -> None:
    done = run(LocalSale(), "agmt-one", "writer@1", *documents(tmp_path), "--yes", "--format", "json")
    (change,) = [one for one in json.loads(done.stdout)["changes"] if one["kind"] == "count"]
    assert (change["direction"], change["old_usd"], change["new_usd"]) == ("dearer", "0.001", "0.002")


def test_fails_when_the_documents_that_are_compared_have_errors(tmp_path: Path) -> None:
    sale = LocalSale()
    done = run(sale, "agmt-one", "writer@1", *documents(tmp_path, multiply="${param.Nobody}"), "--yes")
    assert isinstance(done.exception, MarketplaceConstructsError)
    assert done.exception.codes == ("MP-CLI-40",)
    assert "MON109" in str(done.exception)
    assert sale.assigned == []


def test_help_needs_no_stack_and_everything_else_does() -> None:
    run = CliRunner().invoke
    assert run(agreements.command, ["assign", "--help"]).exit_code == 0
    refused = run(agreements.command, ["list"])
    assert refused.exit_code == 2
    assert "--stack" in refused.output
