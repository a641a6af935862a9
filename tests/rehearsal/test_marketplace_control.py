"""The control API over HTTP: everything that a rehearsal does from outside."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from marketplace_constructs.domain.product import Category, Dimension, DimensionType, PricingModel, Product
from marketplace_constructs.rehearsal.marketplace import (
    Caller,
    Marketplace,
    MarketplaceServer,
    SettableClock,
    control,
)

pytestmark = pytest.mark.enable_socket

START = datetime(2026, 11, 21, 10, 37, 12, tzinfo=UTC)


class Remote:
    """Knows nothing but the control URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, method: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode() if method != "GET" else None,
            headers or {},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            return {"status": refused.code, **json.load(refused)}


@pytest.fixture
def market() -> Marketplace:
    market = Marketplace(SettableClock(lambda: START))
    market.add_product(Product.legacy("old123"))
    market.add_product(
        Product.concurrent(
            "new456",
            pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
            dimensions=[
                Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED),
                Dimension.requests("calls"),
            ],
        )
    )
    return market


@pytest.fixture
def remote(market: Marketplace) -> Iterator[Remote]:
    with MarketplaceServer(market) as server:
        yield Remote(server.control_url)


def subscribe(remote: Remote, product_code: str = "new456", **terms: Any) -> Any:
    account_id = remote("POST", "/buyers")["buyer"]["account_id"]
    return remote("POST", "/agreements", account_id=account_id, product_code=product_code, **terms)["agreement"]


def test_every_call_is_listed_and_documented(remote: Remote) -> None:
    listed = remote("GET", "")["calls"]
    table = control.to_markdown()
    assert len(listed) == len(control.CALLS) == len(table.splitlines()) - 2
    for call in listed:
        assert f"| `{call['method']} {call['path']}` |" in table
        assert call["does"].endswith(".")


def test_a_sale_from_outside(remote: Remote, market: Marketplace) -> None:
    agreement = subscribe(remote, entitlements={"seats": 4}, term_seconds=86400, reseller_account="999988887777")
    assert agreement["entitlements"] == {"seats": 4}
    assert agreement["ends_at"] == "2026-11-22T10:37:12Z"
    form = remote("POST", f"/agreements/{agreement['id']}/form")
    assert form["action"] == "https://example.com/register"
    resolved = market.call("ResolveCustomer", {"RegistrationToken": form["fields"]["x-amzn-marketplace-token"]})
    assert resolved["LicenseArn"] == agreement["license_arn"]
    renewed = remote("POST", f"/agreements/{agreement['id']}/renew", same_license=False)["agreement"]
    assert renewed["previous_id"] == agreement["id"]
    assert renewed["license_arn"] != agreement["license_arn"]
    remote("POST", f"/agreements/{renewed['id']}/amend", entitlements={"seats": 5})
    replaced = remote("POST", f"/agreements/{renewed['id']}/replace", term_seconds=3600)["agreement"]
    assert replaced["entitlements"] == {"seats": 5}
    assert remote("POST", f"/agreements/{replaced['id']}/cancel")["agreement"]["status"] == "CANCELLED"
    statuses = [found["status"] for found in remote("GET", "/agreements")["agreements"]]
    assert statuses == ["RENEWED", "REPLACED", "CANCELLED"]


@pytest.mark.parametrize(("act", "status"), [("expire", "EXPIRED"), ("terminate", "TERMINATED")])
def test_other_endings_from_outside(remote: Remote, act: str, status: str) -> None:
    agreement = subscribe(remote)
    assert remote("POST", f"/agreements/{agreement['id']}/{act}")["agreement"]["status"] == status


def test_the_clock_is_moved_from_outside(remote: Remote, market: Marketplace) -> None:
    subscribe(remote, "old123", starts_in_seconds=60)
    assert remote("POST", "/clock", advance_seconds=60)["now"] == "2026-11-21T10:38:12Z"
    assert market.events.history[-1].name == "subscribe-success"
    assert remote("POST", "/clock", set="2027-01-01T01:00:00+01:00")["now"] == "2027-01-01T00:00:00Z"
    assert remote("GET", "/clock")["now"] == "2027-01-01T00:00:00Z"


def test_delivery_is_disturbed_from_outside(remote: Remote) -> None:
    remote("POST", "/events/faults", fault="lose", name="License Updated - Manufacturer")
    remote("POST", "/events/faults", fault="delay", name="subscribe-success", seconds=5)
    subscribe(remote)
    subscribe(remote, "old123")
    remote("POST", "/events/faults", fault="duplicate")
    remote("POST", "/events/faults", fault="hold", times=1)
    subscribe(remote)
    subscribe(remote)
    events = remote("GET", "/events")
    by_id = {event["id"]: event["name"] for event in events["events"]}
    assert [by_id[event] for event in events["lost"]] == ["License Updated - Manufacturer"]
    assert [by_id[event] for event in events["delayed"]] == ["subscribe-success"]
    assert [by_id[event] for event in events["held"]] == ["License Updated - Manufacturer"]
    assert remote("POST", "/events/release", reverse=True) == {"released": 1}
    assert remote("POST", f"/events/{events['lost'][0]}/redeliver") == {}
    envelope = events["events"][0]["envelope"]
    assert envelope["detail"]["agreement"]["intent"] == "NEW"
    assert json.loads(events["events"][2]["message"])["product-code"] == "old123"


def test_faults_settings_and_books_are_reached_from_outside(remote: Remote, market: Marketplace) -> None:
    remote("POST", "/faults", operation="ResolveCustomer", kind="timeout", times=2, seconds=1)
    (fault,) = remote("GET", "/faults")["faults"]
    assert (fault["operation"], fault["kind"], fault["times"], fault["seconds"]) == (
        "ResolveCustomer",
        "timeout",
        2,
        1,
    )
    remote("DELETE", "/faults")
    assert remote("GET", "/faults") == {"faults": []}
    changed = remote("PATCH", "/settings", settings={"token_life": 60, "identical_resend": "DuplicateRecord"})
    assert changed["settings"]["token_life"] == 60
    assert remote("GET", "/settings") == changed
    agreement = subscribe(remote)
    record = {
        "Timestamp": START,
        "CustomerAWSAccountId": agreement["account_id"],
        "LicenseArn": agreement["license_arn"],
        "Dimension": "calls",
    }
    for quantity in ("1.5", "2"):
        market.call("BatchMeterUsage", {"UsageRecords": [{**record, "QuantityAsDecimal": quantity}]}, caller=Caller())
    assert [(r["dimension"], r["quantity"]) for r in remote("GET", "/records")["records"]] == [("calls", "1.5")]
    assert [v["rule"] for v in remote("GET", "/violations")["violations"]] == ["changed-quantity"]
    assert [c["operation"] for c in remote("GET", "/calls")["calls"]] == ["BatchMeterUsage"] * 2
    remote("POST", f"/buyers/{agreement['account_id']}/suspend")
    assert remote("GET", "/buyers")["buyers"][0]["suspended"] is True
    assert [p["product_code"] for p in remote("GET", "/products")["products"]] == ["old123", "new456"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "what"),
    [
        ("GET", "/nothing", {}, 404, "GET /control lists them"),
        ("POST", "/agreements/agmt-none/cancel", {}, 400, "MP-REHEARSAL-15"),
        ("POST", "/agreements", {"product_code": "new456"}, 400, "MP-REHEARSAL-17: account_id"),
        ("POST", "/agreements", {"product_code": "x", "account_id": "1"}, 400, "MP-REHEARSAL-13"),
        ("POST", "/agreements", {"product_code": "old123", "account_id": "1"}, 400, "MP-REHEARSAL-16"),
        ("POST", "/buyers", {"account": "1"}, 400, "MP-REHEARSAL-12"),
        ("POST", "/buyers", {"account_id": "1"}, 400, "MP-REHEARSAL-07"),
        ("POST", "/clock", {"advance_seconds": "x"}, 400, "MP-REHEARSAL-18"),
        ("POST", "/clock", {"advance_seconds": -1}, 400, "MP-REHEARSAL-01"),
        ("POST", "/events/faults", {"fault": "eat"}, 400, "MP-REHEARSAL-14"),
        ("POST", "/events/none/redeliver", {}, 400, "MP-REHEARSAL-04"),
        ("POST", "/faults", {"operation": "ResolveCustomer", "kind": "rain"}, 400, "MP-REHEARSAL-05"),
        ("POST", "/faults", {"operation": "ResolveCustomer", "kind": "error"}, 400, "MP-REHEARSAL-05"),
        ("PATCH", "/settings", {"settings": {"colour": 1}}, 400, "MP-REHEARSAL-03"),
        ("PATCH", "/settings", {"settings": {"token_life": "long"}}, 400, "MP-REHEARSAL-03"),
        (
            "PATCH",
            "/settings",
            {"settings": {"identical_resend": "Maybe"}},
            400,
            "Success or DuplicateRecord",
        ),
        ("PATCH", "/settings", {"settings": {"exact_license_arn": 1}}, 400, "true or false"),
    ],
)
def test_fails_when_a_call_is_wrong(
    remote: Remote, *, method: str, path: str, body: dict[str, Any], status: int, what: str
) -> None:
    answer = remote(method, path, **body)
    assert answer["status"] == status
    assert what in answer["error"]


def test_fails_when_a_browser_comes_by_another_name(remote: Remote) -> None:
    assert remote("POST", "/buyers", headers={"Host": "rebound.example.com"})["status"] == 403
    assert remote("GET", "/buyers") == {"buyers": []}
