"""Hostile documents: a clear finding, in bounded time and memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lint.overlay import NOW, SOUND, Overlay
from pools import ALLOW_ALL, meter, plan, policy, pool

from marketplace_constructs.policy.lint import LintReport, lint
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

ROUTES = [Route(method="GET", path=f"/r{number}/{{id}}") for number in range(1_000)]
SECONDS = 60
"""Of the processor; an order of magnitude above what each takes on a quiet machine."""


def codes(report: LintReport) -> set[str]:
    return {finding.issue_code for finding in report.findings}


def bounded(statements: list[dict[str, Any]], **members: Any) -> LintReport:
    made = pool(policy(statements, **members), plan())
    begun = time.process_time()
    report = lint(made, routes=ROUTES, now=NOW)
    assert time.process_time() - begun < SECONDS
    assert len(report.findings) < 2_000
    return report


def test_two_thousand_tying_meters_on_a_thousand_routes() -> None:
    report = bounded([ALLOW_ALL, *(meter(f"M{number}") for number in range(1_999))])
    ties = [finding for finding in report.findings if finding.issue_code == "MON105"]
    assert len(ties) == 101
    assert "more than 100" in ties[0].finding_details + ties[-1].finding_details


def test_two_thousand_meters_whose_conditions_exclude_each_other() -> None:
    conditions = ({"NumericEquals": {"response:Bytes": number}} for number in range(1_999))
    several = [meter(f"M{number}", Condition=condition) for number, condition in enumerate(conditions)]
    assert "MON141" in codes(bounded([ALLOW_ALL, *several]))


def test_conditions_of_thousands_of_values_on_several_keys() -> None:
    keys = ("response:Bytes", "integration:LatencyMs")
    condition = {"NumericEquals": {key: list(range(0, 4_000, 2)) for key in keys}}
    assert "MON141" in codes(bounded([ALLOW_ALL, meter(Condition=condition)]))


def test_a_thousand_exempts_over_a_thousand_meters() -> None:
    exempts = [
        {"Sid": f"E{n}", "Effect": "Exempt", "Action": "*", "Resource": "/**", "Dimension": "*"} for n in range(999)
    ]
    report = bounded([ALLOW_ALL, *exempts, *(meter(f"M{n}", resource=f"/r{n}/*") for n in range(999))])
    assert "MON206" in codes(report)


def test_more_tests_than_anybody_writes_are_not_run() -> None:
    request = {"Request": {"Method": "GET", "Resource": "/r"}, "Expect": {"Quantities": {"calls": 1}}}
    report = bounded([ALLOW_ALL, meter()], Tests=[request] * 5_000)
    assert [f.issue_code for f in report.findings if f.issue_code == "MON142"] == ["MON142"]


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 400_000,
        "{a: " * 200_000,
        "- " * 400_000,
        BILLION,
        "x" * 10_000_000,
        "Version: 1e308\n",
        "Kind: Plan\nPlanVersion: 1e308\n",
        "Kind: Plan\nThrottle: {RateLimit: .nan, BurstLimit: .inf}\n",
        "Kind: Plan\nQuota: {Limit: 99999999999999999999999999999999999, Period: MONTH}\n",
        "Kind: Plan\nId: r\u0435tail\n",  # a Cyrillic letter that looks like e
        "Kind: Plan\nPolicies: [\u0131mages@1]\n",
        "Kind: Plan\nId: (a+)+$\n",
        "\x00\x01",
        "",
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_hostile_document_is_a_finding(text: str, form: str) -> None:
    texts: dict[str, str | None] = dict(Overlay.of("").texts)
    texts[f"plans/hostile.{form}"] = text
    begun = time.process_time()
    report = lint(Pool.of(texts), now=NOW)
    assert time.process_time() - begun < SECONDS
    found = [finding for finding in report.findings if finding.document == f"plans/hostile.{form}"]
    assert found
    assert {finding.issue_code for finding in found} <= {"MON101", "MON102"}
    assert all(len(finding.finding_details) < 500 for finding in found)


def test_a_pool_of_hostile_files_fits_into_little_memory(tmp_path: Path) -> None:
    for name in ("product.yaml", "plans/retail.yaml", "policies/images.yaml", "prices/list.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((SOUND / name).read_text())
    (tmp_path / "plans/deep.yaml").write_text("[" * 900_000)
    (tmp_path / "plans/large.yaml").write_text("a: b\n" * 4_000_000)
    (tmp_path / "plans/laughs.yaml").write_text(BILLION)
    script = f"from marketplace_constructs.cli import run; import sys; sys.exit(run(['lint', {str(tmp_path)!r}]))"
    limit = 1_000_000_000
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.count("MON101 ERROR") == 3
    assert "Traceback" not in done.stderr
