"""The CDK's own command line, as a pipeline uses it: without credentials, without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from templates import cdk_command


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assembly")
    done = cdk_command("synth", "--app", f"{sys.executable} app.py", "--quiet", "--output", str(output))
    assert done.returncode == 0, done.stderr
    return output


def test_synth_needs_no_credentials(assembly: Path) -> None:
    assert {path.name for path in assembly.glob("*.template.json")} == {
        "LegacySale.template.json",
        "ConcurrentSale.template.json",
    }


@pytest.mark.parametrize("stack", ["LegacySale", "ConcurrentSale"])
def test_diff_needs_no_credentials_and_sees_what_changed(assembly: Path, stack: str, tmp_path: Path) -> None:
    template = json.loads((assembly / f"{stack}.template.json").read_text())
    same = tmp_path / "same.json"
    same.write_text(json.dumps(template))
    done = cdk_command("diff", stack, "--app", str(assembly), "--template", str(same))
    assert done.returncode == 0, done.stderr
    assert "Number of stacks with differences: 0" in done.stderr + done.stdout
    plan = next(r for r in template["Resources"].values() if r["Type"] == "AWS::ApiGateway::UsagePlan")
    plan["Properties"]["Throttle"]["RateLimit"] += 1
    same.write_text(json.dumps(template))
    done = cdk_command("diff", stack, "--app", str(assembly), "--template", str(same))
    assert "RateLimit" in done.stderr + done.stdout
