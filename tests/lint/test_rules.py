"""Each rule fires where it should and nowhere else, and says the same thing everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from lint.overlay import HERE, NOW, SOUND, Overlay

from marketplace_constructs.policy.lint import lint
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.routes import read_routes
from marketplace_constructs.policy.rules import CATALOGUE, CheckedBy, Rule

SPECIFIED = [
    *[
        101,
        102,
        103,
        104,
        105,
        106,
        107,
        108,
        109,
        110,
        111,
        113,
        114,
        115,
        116,
        118,
        119,
        120,
        122,
        123,
        125,
        126,
        127,
    ],
    *[130, 131, 132, 133, 134, 135, 136, 137, 140],
    *[201, 202, 204, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 217, 218, 219, 220, 221],
    *[112, 301, 302, 303, 304, 305, 306, 307, 308],
]
ADDED = [141, 142, 143]
CHECKED = [rule for rule in CATALOGUE.values() if rule.check is not None or rule.checked_by is CheckedBy.READER]
BAD = sorted((HERE / "bad").glob("*.yaml"))
GOOD = sorted(path for path in (HERE / "good").iterdir() if path.is_dir())


def test_every_code_of_the_language_has_a_rule_and_no_other() -> None:
    assert sorted(CATALOGUE) == sorted(f"MON{number}" for number in [*SPECIFIED, *ADDED])


def test_what_the_linter_leaves_to_others_is_named_as_theirs() -> None:
    left = {code: rule.checked_by for code, rule in CATALOGUE.items() if rule not in CHECKED}
    assert left == {
        "MON127": CheckedBy.NOBODY,
        "MON205": CheckedBy.DOCTOR,
        "MON213": CheckedBy.DIFF,
        "MON218": CheckedBy.DIFF,
    }


def test_every_rule_that_the_linter_checks_has_a_bad_fixture() -> None:
    assert {path.stem[:6] for path in BAD} == {rule.code for rule in CHECKED}


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_pool_gives_exactly_what_its_lines_say(path: Path) -> None:
    overlay = Overlay.of(path.read_text())
    found = sorted((f.issue_code, f.document, f.locations[0].line) for f in overlay.lint().findings)
    assert found == overlay.expected()
    assert path.stem[:6] in {code for code, _, _ in found}


@pytest.mark.parametrize("rule", CHECKED, ids=lambda rule: rule.code)
def test_a_rule_finds_its_bad_example_and_not_its_good_one(rule: Rule) -> None:
    bad, good = Overlay.of(rule.bad), Overlay.of(rule.good)
    if rule.code == "MON122":  # its examples differ in what they need of the log
        bad.log_fields = good.log_fields = bad.log_fields - {"responseLength"}
    assert rule.code in {finding.issue_code for finding in bad.lint().findings}
    mended = {finding.issue_code: finding for finding in good.lint().findings}
    assert rule.code not in mended
    assert "MON101" not in mended, mended["MON101"]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_good_pool_has_no_error(path: Path) -> None:
    routes = read_routes(next(path.glob("openapi.*")))
    report = lint(Pool.load(path), routes=routes, now=NOW)
    assert [finding for finding in report.findings if finding.finding_type == "ERROR"] == []
    assert set(report.not_checked) == {"MON205", "MON213", "MON218"}


def test_a_sound_pool_is_silent() -> None:
    report = lint(Pool.load(SOUND), routes=read_routes(SOUND / "openapi.yaml"), now=NOW)
    assert report.findings == ()
    assert report.tests_run == 1


@pytest.mark.parametrize("name", ["native", "images"])
def test_yaml_and_json_lint_alike(name: str) -> None:
    reports = []
    for form in ("yaml", "json"):
        path = HERE / "good" / f"{name}-{form}"
        report = lint(Pool.load(path), routes=read_routes(path / f"openapi.{form}"), now=NOW)
        reports.append([(f.issue_code, f.document.partition(".")[0], f.finding_details) for f in report.findings])
    assert sorted(reports[0]) == sorted(reports[1])


def test_a_rule_says_all_that_its_page_needs() -> None:
    for rule in CATALOGUE.values():
        assert rule.title, rule.code
        assert rule.why.endswith("."), rule.code
        assert rule.resolution, rule.code
        assert not rule.resolution.endswith("."), rule.code
        for example in (rule.bad, rule.good) if rule.checked_by is not CheckedBy.NOBODY else ():
            assert list(yaml.safe_load_all(example)), rule.code
