"""The product against the second reading of its rules, on random pools and logs.

``python tests/policy/language_campaign.py --policies 10000 --lines 200`` judges the lines of that many accepted
policies twice, accepted being those that the linter finds no error in. What it refuses for its size alone is judged as
well. Each pool comes from a seed of its own, so that any of them can be made again: ``--first SEED --policies 1``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, Final

from independent import Evaluator, Judgement
from pools import VERSION, pool
from random_pools import PLAN, STAGE, World, random_log, random_world, shapes, shuffled

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.policy.access_logs import AccessLog
from marketplace_constructs.policy.evaluation import Expansion, expand
from marketplace_constructs.policy.lint import lint
from marketplace_constructs.policy.patterns import Route

Lines = Sequence[Mapping[str, str]]
Judged = dict[str, list[Judgement]]
Judge = Callable[[PlanTable, Lines], Judged]

WORLDLY: Final = frozenset({"MON105", "MON126"})
"""The worlds are made of what is right, but for ties and for weights that a record could not hold."""
ENOUGH: Final = 5
"""Worlds that differ, each of which is made small and told: then somebody has to look."""
PRICES: Final = {
    "Version": VERSION,
    "Kind": "PriceList",
    "Id": "prices",
    "Currency": "USD",
    "EffectiveFrom": "2026-10-01T00:00:00Z",
    "Prices": {"calls": "0.001", "egress_gb": "0.09", "compute_sec": "0.01"},
}


def expansion_of(world: World) -> Expansion:
    made = pool(*world.documents)
    assert not made.faults, made.faults
    routes = [Route(method=r.method, path=r.path, is_preflight=r.is_preflight) for r in world.routes]
    return expand(made, made.plans[PLAN].document, routes, stage=STAGE)


@contextmanager
def files_of(lines: Lines) -> Iterator[list[Path]]:
    """The lines as a log's file, numbered."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "log.json")
        path.write_text("".join(f"{json.dumps({**line, 'line': n})}\n" for n, line in enumerate(lines)))
        yield [path]


def judged_by_product(table: PlanTable, lines: Lines) -> Judged:
    """What the product's SQL makes of a log, line by line, by ``extendedRequestId``."""
    with files_of(lines) as files, AccessLog(files, tables=[table], keeps_lines=True) as log:
        usage = log.usage(table, by=("line",))
        assert log.unparsable == 0
        assert log.duplicates == len(lines) - len({line["extendedRequestId"] for line in lines})
    judged: Judged = {}
    for one in usage:
        assert one.lines == 1, one
        (index,) = one.keys
        judgement = Judgement(one.dimension or "", one.state, one.policy or "", one.sid or "", one.quantity)
        judged.setdefault(lines[int(index)]["extendedRequestId"], []).append(judgement)
    return {name: [one for one in sorted(found) if one.state != "skipped"] for name, found in judged.items()}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one world.

    Args:
        found: Where the two readings differ.
        judged: What its lines come to; None where a tie refuses it.
        errors: The linter's, by code.
    """

    found: Sequence[str] = ()
    judged: Judged | None = None
    errors: frozenset[str] = frozenset()


def errors_of(world: World) -> frozenset[str]:
    """Codes of the errors that the linter finds in a world."""
    routes = [Route(method=r.method, path=r.path, is_preflight=r.is_preflight, requires_key=True) for r in world.routes]
    report = lint(pool(*world.documents, PRICES), now=datetime(2026, 11, 21, tzinfo=UTC), routes=routes, stage=STAGE)
    return frozenset(one.issue_code for one in report.findings if one.finding_type is FindingType.ERROR)


def compared(world: World, lines: Lines, random: Random, judge: Judge = judged_by_product) -> Outcome:
    """Judge one world's lines twice."""
    evaluator = world.evaluator()
    tie, errors = evaluator.tie(), errors_of(world)
    expansion = expansion_of(world)
    if bool(tie) != bool(expansion.ties) or bool(tie) != ("MON105" in errors):
        return Outcome(found=[f"tie: independent {tie}, product {expansion.ties}, linter {sorted(errors)}"])
    if unexpected := errors - WORLDLY:
        return Outcome(found=[f"the linter refuses it for {sorted(unexpected)}"], errors=errors)
    if tie:
        return Outcome(errors=errors)
    found = [] if is_order_kept(world, expansion, random) else ["another order gives another table"]
    found += [*different_limits(evaluator, expansion), *different_events(evaluator, expansion)]
    expected = evaluator.judge_all(lines)
    got = judge(PlanTable.from_text(expansion.table.to_text()), lines)
    by_id = {line["extendedRequestId"]: line for line in lines}
    found += [
        f"{by_id[name]}: independent {expected[name]}, product {got.get(name)}"
        for name in by_id
        if got.get(name, []) != expected[name]
    ]
    return Outcome(found=found, judged=expected, errors=errors)


def is_order_kept(world: World, expansion: Expansion, random: Random) -> bool:
    return expansion_of(shuffled(random, world)).table.digest == expansion.table.digest


def different_limits(evaluator: Evaluator, expansion: Expansion) -> Iterator[str]:
    for route in expansion.routes:
        limits = expansion.method_throttles.get(route, expansion.throttle)
        got = limits and (Fraction(limits.rate_limit), Fraction(limits.burst_limit))
        if got != (expected := evaluator.throttle(route.method, route.path)):
            yield f"throttle of {route}: independent {expected}, product {got}"


def different_events(evaluator: Evaluator, expansion: Expansion) -> Iterator[str]:
    got = sorted((e.event, e.dimension, e.policy, e.sid, Fraction(e.multiply)) for e in expansion.table.events)
    if got != (expected := evaluator.events()):
        yield f"events: independent {expected}, product {got}"


def smallest(world: World, lines: Lines, judge: Judge = judged_by_product) -> tuple[World, Lines]:
    """What is left of a world and its lines when all is taken away without which the two still differ."""

    def differ(candidate: World, kept: Lines) -> bool:
        try:
            outcome = compared(candidate, kept, Random(0), judge)
            return bool(outcome.found) and outcome.errors <= WORLDLY
        except (AssertionError, KeyError):
            return False

    kept: Lines = next(([line] for line in lines if differ(world, [line])), lines)
    while smaller := next((one for one in _smaller(world) if differ(one, kept)), None):
        world = smaller
    return world, kept


def _smaller(world: World) -> Iterator[World]:
    for index in range(len(world.routes)):
        yield World(documents=world.documents, routes=world.routes[:index] + world.routes[index + 1 :])
    for index, document in enumerate(world.documents):
        for less in _less(document):
            yield World(documents=(*world.documents[:index], less, *world.documents[index + 1 :]), routes=world.routes)


def _less(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    statements = document.get("Statement", [])
    for index, statement in enumerate(statements):
        for less in (None, *({k: v for k, v in statement.items() if k != name} for name in ("Condition",))):
            rest = [*statements[:index], *([less] if less else []), *statements[index + 1 :]]
            if rest and rest != statements:
                yield {**document, "Statement": rest}


def run(
    seeds: Iterable[int],
    *,
    policies: int,
    lines: int,
    report: Callable[[str], None],
    progress: Callable[[str], None] = lambda _: None,
) -> Counter[str]:
    """Judge pools from these seeds until enough are accepted; all that happened is counted.

    Args:
        seeds: Of one pool each.
        policies: How many accepted ones are enough.
        lines: Of each one's log.
        report: Is told each world that differs.
        progress: Is told now and then how far it is.
    """
    counts: Counter[str] = Counter()
    for seed in seeds:
        if counts["accepted"] >= policies or counts["worlds that differ"] >= ENOUGH:
            break
        random = Random(seed)
        world = random_world(random)
        log = random_log(random, world, lines)
        outcome = compared(world, log, random)
        counts.update({"pools": 1, "disagreements": len(outcome.found)})
        counts.update(f"refused: {code}" for code in outcome.errors)
        if outcome.found:
            counts["worlds that differ"] += 1
            small, kept = smallest(world, log)
            report(f"seed {seed}: {len(outcome.found)} disagreements, the first: {outcome.found[0]}")
            report(f"  smallest: {json.dumps(small.documents)} on {small.routes} with {list(kept)[:1]}")
        if outcome.judged is None:
            continue
        counts.update({"lines": len(log), "accepted": not outcome.errors})
        counts["statements"] += sum(len(document.get("Statement", ())) for document in world.documents)
        counts.update(f"shape: {shape}" for shape in shapes(world))
        counts.update(f"state: {one.state}" for line in outcome.judged.values() for one in line)
        counts["state: skipped"] += sum(not line for line in outcome.judged.values())
        counts["doubles"] += len(log) - len(outcome.judged)
        if counts["lines"] % (500 * lines) == 0:
            progress(f"seed {seed}: policies {counts['accepted']:,}, disagreements {counts['disagreements']:,}")
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=10_000, help="accepted ones")
    parser.add_argument("--lines", type=int, default=200, help="of each one's log")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    last = given.first + 20 * given.policies
    counts = run(
        range(given.first, last),
        policies=given.policies,
        lines=given.lines,
        report=print,
        progress=lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201
    )
    for name in sorted(counts):
        if name not in {"accepted", "lines", "disagreements"}:
            print(f"{name}: {counts[name]:,}")  # noqa: T201
    print(f"seeds {given.first} to {given.first + counts['pools'] - 1}, {time.monotonic() - started:.0f} s")  # noqa: T201
    print(  # noqa: T201
        f"policies {counts['accepted']:,}, lines {counts['lines']:,}, disagreements {counts['disagreements']:,}"
    )
    return 1 if counts["disagreements"] or counts["accepted"] < given.policies else 0


if __name__ == "__main__":
    sys.exit(main())
