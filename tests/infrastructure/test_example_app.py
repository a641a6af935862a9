"""The deployable example, as ``python app.py`` and ``cdk synth`` give it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from templates import STATEFUL

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "logical_ids.json"


def synthesize(directory: Path, **environment: str) -> tuple[Path, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CDK_", "AWS_"))}
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={**inherited, **environment, "CDK_OUTDIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return directory, run.stderr


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    return synthesize(tmp_path_factory.mktemp("cdk.out"))


def template(directory: Path, stack: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / f"{stack}.template.json").read_text())
    return found


@pytest.mark.parametrize("stack", ["LegacySale", "ConcurrentSale"])
def test_replacing_what_buyers_depend_on_needs_a_major_version(assembly: tuple[Path, str], stack: str) -> None:
    resources = template(assembly[0], stack)["Resources"]
    found = {name: r["Type"] for name, r in resources.items() if r["Type"] in STATEFUL}
    assert dict(sorted(found.items())) == json.loads(GOLDEN.read_text())[stack]


@pytest.mark.parametrize("stack", ["LegacySale", "ConcurrentSale"])
def test_an_operator_finds_everything_in_the_outputs(assembly: tuple[Path, str], stack: str) -> None:
    outputs = template(assembly[0], stack)["Outputs"]
    assert {
        "ApiUrl",
        "ContactsTable",
        "DeadLetterQueueUrl",
        "FactsTable",
        "FulfillmentUrl",
        "GateFunction",
        "KeysTable",
        "OnboardingFunction",
        "QueueUrl",
        "ReconciliationDeadLetterQueueUrl",
        "ReconciliationFunction",
        "SubscriptionEventsFunction",
        "UsagePlanId",
    } <= set(outputs)


def test_log_ledger_and_meter_are_found_in_the_outputs_where_there_are_any(assembly: tuple[Path, str]) -> None:
    of_metering = {"AccessLogBucket", "LedgerBucket", "MeterDeadLetterQueueUrl", "MeterFunction"}
    assert of_metering <= set(template(assembly[0], "ConcurrentSale")["Outputs"])
    assert not of_metering & set(template(assembly[0], "LegacySale")["Outputs"])


def test_plans_are_found_in_the_outputs_where_there_are_several(assembly: tuple[Path, str]) -> None:
    of_plans = {"PlansTable", "PlanTablesBucket", "UsagePlanIds"}
    found = template(assembly[0], "ConcurrentSale")
    assert of_plans <= set(found["Outputs"])
    assert not of_plans & set(template(assembly[0], "LegacySale")["Outputs"])
    joined = found["Outputs"]["UsagePlanIds"]["Value"]["Fn::Join"][1]
    ids = json.loads("".join(part if isinstance(part, str) else part["Ref"] for part in joined))
    plans = {n for n, r in found["Resources"].items() if r["Type"] == "AWS::ApiGateway::UsagePlan"}
    assert set(ids) == {path.stem for path in (ROOT / "monetization/plans").iterdir()}
    assert set(ids.values()) == plans


def test_health_is_free_and_the_rest_of_the_document_is_sold(assembly: tuple[Path, str]) -> None:
    document = json.loads((ROOT / "stacks/nouns_api/openapi.json").read_text())
    declared = sum(len(item) for item in document["paths"].values())
    resources = template(assembly[0], "LegacySale")["Resources"]
    sold = [
        r["Properties"]
        for name, r in resources.items()
        if r["Type"] == "AWS::ApiGateway::Method" and name.startswith("Api")
    ]
    assert len(sold) == declared
    assert sum("AuthorizerId" not in method for method in sold) == 1


def test_the_stacks_of_two_kinds_differ_in_metering(assembly: tuple[Path, str]) -> None:
    types = {
        stack: {r["Type"] for r in template(assembly[0], stack)["Resources"].values()}
        for stack in ("LegacySale", "ConcurrentSale")
    }
    assert types["LegacySale"] - types["ConcurrentSale"] == {
        "AWS::SNS::Subscription",
        "Custom::MarketplaceProductCode",
    }
    assert types["ConcurrentSale"] - types["LegacySale"] == {
        "AWS::KinesisFirehose::DeliveryStream",
        "AWS::Logs::LogStream",
        "AWS::S3::Bucket",
        "AWS::S3::BucketPolicy",
        "Custom::MarketplacePlans",
    }


def test_functions_are_of_the_example_and_of_the_bundle_alone(assembly: tuple[Path, str]) -> None:
    resources = template(assembly[0], "LegacySale")["Resources"]
    keys = {r["Properties"]["Code"]["S3Key"] for r in resources.values() if r["Type"] == "AWS::Lambda::Function"}
    assert len(keys) == 2


def test_outside_us_east_1_the_app_relays_events_home(tmp_path: Path) -> None:
    directory, _ = synthesize(tmp_path, CDK_DEFAULT_ACCOUNT="111122223333", CDK_DEFAULT_REGION="eu-west-1")
    target = template(directory, "SubscriptionRelay")["Resources"]
    [rule] = [r for r in target.values() if r["Type"] == "AWS::Events::Rule"]
    bus = "arn:aws:events:eu-west-1:111122223333:event-bus/default"
    assert rule["Properties"]["Targets"][0]["Arn"] == bus
