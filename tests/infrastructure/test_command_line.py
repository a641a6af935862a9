"""The CDK's own command line, as a pipeline uses it: without credentials, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from marketplace_constructs.bundles import cache_directory

ROOT = Path(__file__).parents[2]
CDK = cache_directory() / "cdk/node_modules/aws-cdk/bin/cdk"


def cdk(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert CDK.exists(), "run: make setup"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/none",
        "AWS_SHARED_CREDENTIALS_FILE": "/none",
    }
    return subprocess.run(
        [os.environ["JSII_NODE"], str(CDK), "--no-notices", "--no-color", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("assembly")
    done = cdk("synth", "--app", f"{sys.executable} app.py", "--quiet", "--output", str(output))
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
    done = cdk("diff", stack, "--app", str(assembly), "--template", str(same))
    assert done.returncode == 0, done.stderr
    assert "Number of stacks with differences: 0" in done.stderr + done.stdout
    (plan,) = (r for r in template["Resources"].values() if r["Type"] == "AWS::ApiGateway::UsagePlan")
    plan["Properties"]["Throttle"]["RateLimit"] = 1
    same.write_text(json.dumps(template))
    done = cdk("diff", stack, "--app", str(assembly), "--template", str(same))
    assert "RateLimit" in done.stderr + done.stdout
