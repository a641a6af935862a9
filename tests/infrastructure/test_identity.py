"""What buyers' keys and the listing point at stays the same resource, whatever a seller changes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
import written_pools as written
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_certificatemanager as certificatemanager
from aws_cdk import aws_sns as sns
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from templates import CONTRACT, LEGACY, STATEFUL, MakeApp, Resource, backend, cdk_command, small_api
from written_pools import Document

from marketplace_constructs import MeteringRole, Monetization, Period, Product, Quota, SellableApi, Throttle

KEPT = (*STATEFUL, "AWS::Events::EventBus", "AWS::KinesisFirehose::DeliveryStream")
"""Backends put usage events on the bus by its name; lines that a stream still holds go with it."""

Change = Callable[[cdk.Stack, apigateway.RestApi, dict[str, Any]], None]


def limits(_stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
    options |= {
        "throttle": Throttle(rate_limit=5, burst_limit=6),
        "quota": Quota(limit=7, period=Period.DAY),
        "method_throttles": {"GET /v1/items": Throttle(rate_limit=1, burst_limit=2)},
        "usage_plan_name": "gold",
        "onboarding_throttle": Throttle(rate_limit=3, burst_limit=4),
        "firewall_rate": 1000,
    }


def no_limits(_stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
    del options["throttle"], options["quota"]


def routes(_stack: cdk.Stack, api: apigateway.RestApi, options: dict[str, Any]) -> None:
    api.root.resource_for_path("/v1/more").add_method("POST", backend())
    api.root.resource_for_path("/v1/health").add_method("GET", backend())
    options |= {"free_routes": ["GET /v1/health"], "gate_cache_ttl": cdk.Duration.seconds(0)}


def seller(stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
    certificate = "arn:aws:acm:us-east-1:111122223333:certificate/11112222-3333-4444-5555-666677778888"
    options |= {
        "seller_name": "Example Ltd.",
        "support_contact": "https://example.com/help",
        "logo_url": "https://example.com/logo.png",
        "sender": "noreply@example.com",
        "domain_name": "buy.example.com",
        "certificate": certificatemanager.Certificate.from_certificate_arn(stack, "Certificate", certificate),
        "api_url": "https://api.example.com",
        "example_route": "GET /v1/items",
    }


def operation(stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
    options |= {
        "alarm_topic": sns.Topic.from_topic_arn(stack, "Told", "arn:aws:sns:us-east-1:111122223333:told"),
        "observe_every": cdk.Duration.hours(6),
        "onboarding_access_log": True,
    }


def sold_by(pool: Path) -> Change:
    """Sold by documents instead of props."""

    def change(_stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
        del options["product"], options["throttle"], options["quota"]
        options["monetization"] = Monetization.from_directory(pool, product_code="items123")

    return change


def second_sale(stack: cdk.Stack, _api: apigateway.RestApi, options: dict[str, Any]) -> None:
    product: Product = options["product"]
    shared = {"metering_role": MeteringRole.from_account(stack, "Shared")} if product.is_native else {}
    # A pipeline product has one meter. Defined before the first, as a seller may sort them.
    product = product if product.is_native else replace(product, product_code="another456")
    options_of_its_own = {"api": small_api(stack, "AnotherApi"), "product": product, "support_contact": "x@example.com"}
    SellableApi(stack, "Another", **options_of_its_own, **shared)


CHANGES: tuple[Change, ...] = (limits, no_limits, routes, seller, operation, second_sale)


def synthesize(make_app: MakeApp, product: Product, *changes: Change, construct_id: str = "Sale") -> Path:
    """The assembly of a stack that sells one API."""
    stack = cdk.Stack(make_app(), "Sold")
    api = small_api(stack)
    options: dict[str, Any] = {
        "api": api,
        "product": product,
        "support_contact": "help@example.com",
        "throttle": Throttle(rate_limit=10, burst_limit=20),
        "quota": Quota(limit=1000, period=Period.MONTH),
    }
    for change in changes:
        change(stack, api, options)
    SellableApi(stack, construct_id, **options)
    root = stack.node.root
    assert isinstance(root, cdk.App)
    return Path(root.synth().directory)


def resources_of(assembly: Path) -> dict[str, Resource]:
    resources: dict[str, Resource] = json.loads((assembly / "Sold.template.json").read_text())["Resources"]
    return resources


def stateful(assembly: Path) -> dict[str, Resource]:
    return {name: resource for name, resource in resources_of(assembly).items() if resource["Type"] in KEPT}


def fixed(resource: Resource) -> dict[str, Any]:
    """The properties whose change has CloudFormation make another resource."""
    if resource["Type"].startswith("Custom::"):
        return {"ServiceToken": resource["Properties"]["ServiceToken"]}
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", resource["Type"]).schema
    paths = {
        path.split("/")[2]
        for kind in ("createOnlyProperties", "conditionalCreateOnlyProperties")
        for path in schema.get(kind, [])
    }
    return {name: value for name, value in resource.get("Properties", {}).items() if name in paths}


@pytest.fixture(scope="module", params=[LEGACY, CONTRACT], ids=["legacy", "concurrent"])
def product(request: pytest.FixtureRequest) -> Product:
    found: Product = request.param
    return found


@pytest.fixture(scope="module")
def before(make_app: MakeApp, product: Product) -> Path:
    return synthesize(make_app, product)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_replaces_nothing_that_buyers_depend_on(
    make_app: MakeApp, product: Product, before: Path, change: Change
) -> None:
    after = stateful(synthesize(make_app, product, change))
    kept = stateful(before)
    assert {resource["Type"] for resource in kept.values()} >= {
        "AWS::ApiGateway::RestApi",
        "AWS::ApiGateway::Stage",
        "AWS::ApiGateway::UsagePlan",
        "AWS::DynamoDB::Table",
    }
    nothing_is_replaced(kept, after)


def nothing_is_replaced(kept: dict[str, Resource], after: dict[str, Resource]) -> None:
    for name, resource in kept.items():
        assert name in after, f"{name} is replaced"
        assert after[name]["Type"] == resource["Type"]
        assert fixed(after[name]) == fixed(resource)


def test_create_only_properties_are_known() -> None:
    properties = {"KeySchema": [], "TableName": "t", "BillingMode": "PAY_PER_REQUEST"}
    assert set(fixed({"Type": "AWS::DynamoDB::Table", "Properties": properties})) >= {"TableName", "KeySchema"}
    stage = {"Type": "AWS::ApiGateway::Stage", "Properties": {"StageName": "s", "RestApiId": "a", "DeploymentId": "d"}}
    assert set(fixed(stage)) == {"StageName", "RestApiId"}


def replaced(before: Path, after: Path) -> set[str]:
    """Logical ids of stateful resources that ``cdk diff`` would replace or remove."""
    done = cdk_command("diff", "Sold", "--app", str(after), "--template", str(before / "Sold.template.json"))
    said = (done.stdout + done.stderr).splitlines()
    assert any("[+]" in line or "[~]" in line for line in said), "could not check: there is no difference"
    names = stateful(before)
    found: set[str] = set()
    name = ""
    for line in said:
        if line.startswith("["):
            # A resource's own line; what changes in it follows, indented.
            name = next((word for word in line.split() if word in names), "")
        if name and any(word in line for word in ("replace", "destroy", "orphan")):
            found.add(name)
    return found


def test_diff_announces_no_replacement_whatever_changes(make_app: MakeApp, product: Product, before: Path) -> None:
    after = synthesize(make_app, product, limits, routes, seller, operation, second_sale)
    assert replaced(before, after) == set()


def test_diff_announces_the_replacement_of_everything_when_the_id_changes(
    make_app: MakeApp, product: Product, before: Path
) -> None:
    after = synthesize(make_app, product, construct_id="Renamed")
    assert replaced(before, after) == {name for name in stateful(before) if name.startswith("Sale")}


# documents

WITH_EVENTS: Document = {**written.product(), "Events": {"storage": {"Unit": "GB-hours"}}}
OF_PARTNERS: Document = written.plan("partner", Segment="partner", AssignTo={"Offers": ["offer-example"]})
ANOTHER_POLICY: Document = {**written.policy(), "PolicyVersion": 2, "Description": "Every call counts one, as before."}
NEXT_PLAN: Document = written.plan(version=2, Policies=["items@2"], EffectiveFrom="2027-01-01T00:00:00Z")
MORE_EVENTS: Document = {**WITH_EVENTS, "Events": {**WITH_EVENTS["Events"], "exports": {}}}

DOCUMENT_CHANGES: dict[str, tuple[Document, ...]] = {
    "a plan is added": (WITH_EVENTS, OF_PARTNERS, written.plan()),
    "a policy version is added": (WITH_EVENTS, written.policy(), ANOTHER_POLICY),
    "a plan version follows it": (WITH_EVENTS, written.policy(), ANOTHER_POLICY, written.plan(), NEXT_PLAN),
    "a kind of usage event is added": (MORE_EVENTS,),
    "prices change": (WITH_EVENTS, written.price_list(calls="0.002")),
}


@pytest.fixture(scope="module")
def documented(make_app: MakeApp, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pool = written.write_pool(tmp_path_factory.mktemp("pool"), WITH_EVENTS)
    return synthesize(make_app, CONTRACT, sold_by(pool))


@pytest.mark.parametrize("documents", DOCUMENT_CHANGES.values(), ids=DOCUMENT_CHANGES)
def test_a_change_of_documents_replaces_nothing_that_buyers_depend_on(
    make_app: MakeApp, documented: Path, documents: tuple[Document, ...], tmp_path: Path
) -> None:
    kept = stateful(documented)
    assert {resource["Type"] for resource in kept.values()} >= {
        "AWS::ApiGateway::UsagePlan",
        "AWS::Events::EventBus",
        "AWS::KinesisFirehose::DeliveryStream",
        "AWS::S3::Bucket",
        "Custom::MarketplacePlans",
    }
    after = stateful(synthesize(make_app, CONTRACT, sold_by(written.write_pool(tmp_path, *documents))))
    nothing_is_replaced(kept, after)


def test_diff_announces_no_replacement_whatever_changes_in_the_documents(
    make_app: MakeApp, documented: Path, tmp_path: Path
) -> None:
    changed = (MORE_EVENTS, OF_PARTNERS, written.policy(), ANOTHER_POLICY, written.plan(), NEXT_PLAN)
    after = synthesize(make_app, CONTRACT, sold_by(written.write_pool(tmp_path, *changed)))
    assert replaced(documented, after) == set()


MOVED = """
from marketplace_constructs import Monetization
from marketplace_constructs import SellableApi as Sellable

class Sold(Sellable):
    pass
"""


def test_a_stack_whose_module_and_documents_moved_is_the_same_stack(
    make_app: MakeApp, documented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "platform" / "products"
    folder.mkdir(parents=True)
    (folder / "moved.py").write_text(MOVED)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    moved = importlib.import_module("moved")
    monkeypatch.setitem(globals(), "SellableApi", moved.Sold)
    pool = written.write_pool(folder / "monetization", WITH_EVENTS)

    after = synthesize(make_app, CONTRACT, sold_by(pool.relative_to(folder)))

    assert resources_of(after) == resources_of(documented)
