"""The example under every auditor: nothing is unacknowledged, and what is acknowledged stands where it belongs.

Whatever an auditor finds is an error here, also what it calls a warning.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from marketplace_constructs.bundles import cache_directory

HERE = Path(__file__).parent
STACKS = {"ConcurrentSale", "LegacySale", "SubscriptionRelay"}
CHECKOV = cache_directory() / "audit/bin/checkov"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("CDK_", "AWS_"))}
    return subprocess.run(
        list(map(str, command)),
        cwd=HERE.parents[1],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("audited")
    done = run(
        sys.executable,
        HERE / "audited_app.py",
        CDK_OUTDIR=str(directory),
        CDK_DEFAULT_ACCOUNT="111122223333",
        CDK_DEFAULT_REGION="eu-west-1",
        SENDER="sales@example.com",
    )
    assert "ValidationFailed" in done.stderr, done.stderr
    assert {path.name.partition(".")[0] for path in directory.glob("*.template.json")} == STACKS | {"Canary"}
    return directory


def templates(assembly: Path) -> dict[str, dict[str, Any]]:
    return {stack: json.loads((assembly / f"{stack}.template.json").read_text())["Resources"] for stack in STACKS}


@pytest.fixture(scope="module")
def report(assembly: Path) -> dict[str, set[tuple[str, str]]]:
    """Of each auditor that ran in the synthesis, rule and path of each finding."""
    plugins = json.loads((assembly / "validation-report.json").read_text())["pluginReports"]
    return {
        plugin["pluginName"]: {
            (violation["ruleName"], construct["constructPath"])
            for violation in plugin["violations"]
            for construct in violation["violatingConstructs"]
        }
        for plugin in plugins
    }


@pytest.mark.parametrize(
    "auditor", ["AwsSolutions", "HIPAA.Security", "NIST.800.53.R5", "PCI.DSS.321", "CloudFormation Validate"]
)
def test_synthesis_finds_nothing_unacknowledged(report: dict[str, set[tuple[str, str]]], auditor: str) -> None:
    assert auditor in report, "could not check: it did not object to the canary"
    assert {path.partition("/")[0] for _, path in report[auditor]} == {"Canary"}, report[auditor]


def test_what_takes_usage_events_in_is_audited_too(assembly: Path) -> None:
    types = [resource["Type"] for resource in templates(assembly)["ConcurrentSale"].values()]
    assert types.count("AWS::KinesisFirehose::DeliveryStream") == 2
    assert "AWS::Events::EventBus" in types


def test_constructs_warn_of_nothing(report: dict[str, set[tuple[str, str]]]) -> None:
    assert report.get("Construct Annotations", set()) == set()


def test_cfn_lint_finds_neither_errors_nor_warnings(assembly: Path) -> None:
    done = run(
        Path(sys.executable).with_name("cfn-lint"),
        "--format=json",
        "--ignore-checks=I",
        "--",
        *sorted(assembly.glob("*.template.json")),
    )
    found = [(Path(match["Filename"]).name, match["Rule"]["Id"], match["Message"]) for match in json.loads(done.stdout)]
    assert "Canary.template.json" in {name for name, *_ in found}, "could not check: it did not object to the canary"
    assert [match for match in found if match[0] != "Canary.template.json"] == []


@pytest.fixture(scope="module")
def checkov(assembly: Path) -> dict[str, set[tuple[str, str, str]]]:
    """Stack, logical id and rule of what failed and what was skipped."""
    if not CHECKOV.exists():
        pytest.skip(f"could not check: no checkov in {CHECKOV.parents[1]}; run: make audit")
    done = run(
        CHECKOV,
        "--framework=cloudformation",
        "--output=json",
        "--compact",
        "--skip-download",
        f"--directory={assembly}",
    )
    document = json.loads(done.stdout)
    assert document["summary"]["parsing_errors"] == 0
    return {
        outcome: {
            (
                Path(check["file_path"]).name.partition(".")[0],
                check["resource"].rpartition(".")[2],
                check["check_id"],
            )
            for check in document["results"][f"{outcome}_checks"]
        }
        for outcome in ("failed", "skipped")
    }


def test_checkov_finds_nothing_unacknowledged(checkov: dict[str, set[tuple[str, str, str]]]) -> None:
    assert "Canary" in {stack for stack, *_ in checkov["failed"]}, "could not check: it did not object to the canary"
    assert {found for found in checkov["failed"] if found[0] != "Canary"} == set()


def test_no_skip_in_a_template_outlives_its_finding(
    assembly: Path, checkov: dict[str, set[tuple[str, str, str]]]
) -> None:
    assert checkov["skipped"] == {
        (stack, name, skip["id"])
        for stack, resources in templates(assembly).items()
        for name, resource in resources.items()
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", [])
    }


def reasons(assembly: Path) -> Iterator[tuple[str, str]]:
    """Where each finding was acknowledged, and why."""
    for stack, resources in templates(assembly).items():
        for path, entries in tree_metadata(assembly, stack).items():
            for entry in entries:
                if entry["type"] == "aws:cdk:acknowledged-rules":
                    yield from ((f"{path} {rule}", reason) for rule, reason in entry["data"].items())
        for name, resource in resources.items():
            metadata = resource.get("Metadata", {})
            for skip in metadata.get("checkov", {}).get("skip", []):
                yield f"{name} {skip['id']}", skip["comment"]
            lint = metadata.get("cfn-lint", {"config": {"ignore_checks": []}})
            for rule in lint["config"]["ignore_checks"]:
                yield f"{name} {rule}", lint["reasons"][rule]


def tree_metadata(assembly: Path, stack: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, Any] = json.loads((assembly / f"{stack}.metadata.json").read_text())
    return found.get("metadata", found)


def test_each_acknowledgement_says_why(assembly: Path) -> None:
    found = list(reasons(assembly))
    assert len(found) > len(STACKS) * 10
    assert [where for where, reason in found if len(reason.split()) < 4] == []


def test_each_acknowledgement_stands_on_one_resource(assembly: Path) -> None:
    for stack in STACKS:
        metadata = tree_metadata(assembly, stack)
        resources = {
            path for path, entries in metadata.items() if any(e["type"] == "aws:cdk:logicalId" for e in entries)
        }
        for path, entries in metadata.items():
            rules = [rule for e in entries if e["type"] == "aws:cdk:acknowledged-rules" for rule in e["data"]]
            # What a construct itself warns of is about the construct.
            if any(not rule.startswith("Annotation::") for rule in rules):
                assert {path, f"{path}/Resource"} & resources, f"{path} is no resource"
