"""The docs say what is so: their code runs, every code and command stands in them, no link leads nowhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from seeded_bugs import BUGS

from marketplace_constructs.cli import run
from marketplace_constructs.policy.documents import (
    DEPLOY_KEYS,
    METRICS,
    UNITS,
    Effect,
    LineCondition,
    parse_document,
)
from marketplace_constructs.policy.source import read_source

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
CODE = re.compile(r"MP-[A-Z]+-\d\d")
STACK = """
import aws_cdk as cdk
from aws_cdk import aws_lambda as lambda_
app = cdk.App()
stack = cdk.Stack(app, "Readme")
search = lambda_.Function(
    stack, "Search", runtime=lambda_.Runtime.PYTHON_3_13, handler="index.handler",
    code=lambda_.Code.from_inline("def handler(event, context): return {}"),
)
"""
API = """
from aws_cdk import aws_apigateway as apigateway
api = apigateway.LambdaRestApi(stack, "Api", handler=search)
"""


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def sources() -> str:
    return "\n".join(path.read_text() for path in (ROOT / "marketplace_constructs").rglob("*.py"))


@pytest.mark.parametrize(
    ("page", "number"),
    [(page.relative_to(ROOT).as_posix(), number) for page in PAGES for number in range(len(blocks(page)))],
)
def test_the_code_in_the_docs_synthesizes(page: str, number: int, tmp_path: Path) -> None:
    block = blocks(ROOT / page)[number]
    given = "" if "stack =" in block or "SellableApi" not in block else STACK
    given += "" if not given or "api =" in block else API
    ending = "" if "app.synth()" in block or "SellableApi" not in block else "\ncdk.App.of(stack).synth()\n"
    (tmp_path / "monetization").symlink_to(ROOT / "monetization")
    script = tmp_path / "block.py"
    script.write_text(f"{given}{block}{ending}")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


def test_every_code_that_can_be_raised_is_explained_and_no_other() -> None:
    documented = re.findall(r"^\| `(MP-[A-Z]+-\d\d)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    # Ranges in docstrings name only their ends, which exist too.
    assert set(documented) == set(CODE.findall(sources()))


@pytest.mark.parametrize("page", ["errors.md", "command-line.md", "monetization-rules.md", "monetization-reference.md"])
def test_a_page_that_is_made_from_the_source_says_what_the_source_says(page: str) -> None:
    made = subprocess.run(
        [sys.executable, "-c", f"import generate; print(generate.PAGES[{page!r}](), end='')"],
        capture_output=True,
        text=True,
        cwd=ROOT / "docs",
        check=True,
    ).stdout
    assert (ROOT / "docs" / page).read_text() == made, "run: python docs/generate.py"


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_no_link_leads_nowhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_make_target_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_every_metric_and_alarm_name_in_the_docs_is_emitted() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    for name in re.findall(r"`((?:ProductCodeD|AgreementNeeds|Unknown|Malformed|Buyers|Orphaned)[A-Za-z]+)`", text):
        assert f'"{name}"' in sources(), name


def test_the_seeded_bugs_in_the_docs_are_those_that_there_are() -> None:
    page = (ROOT / "docs/metering-faults.md").read_text()
    rates = {name: int(caught) for name, caught in re.findall(r"^\| `([a-z-]+)` \|.*\| (\d+) \|$", page, re.MULTILINE)}
    assert list(rates) == list(BUGS)
    assert min(rates.values()) > 0


def documents(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_documents_on_the_languages_page_are_ones() -> None:
    found = [read_source("page.yaml", text) for text in documents("docs/monetization-policies.md")]
    whole = [parse_document(source) for source in found if "Kind" in source.data]
    assert [one.faults for one in whole] == [()] * 4
    # What stands there alone is a part of the first document.
    (tests,) = (source for source in found if "Tests" in source.data)
    policy = found[0].data | tests.data
    source = replace(found[0], data=policy)
    assert parse_document(source).faults == ()


def test_the_pool_on_the_languages_page_is_clean_and_bills_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = {"Product": "", "Policy": "policies", "Plan": "plans", "PriceList": "prices"}
    for text in documents("docs/monetization-policies.md"):
        kind = read_source("page.yaml", text).data.get("Kind")
        if kind is not None:
            (tmp_path / folders[kind]).mkdir(exist_ok=True)
            (tmp_path / folders[kind] / ("product.yaml" if kind == "Product" else "page.yaml")).write_text(text)
    page = (ROOT / "docs/monetization-policies.md").read_text()
    (command,) = re.findall(r"^sellable simulate monetization (.*)$", page, re.MULTILINE)
    (answer,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert run(["lint", str(tmp_path), "--routes", str(ROOT / "stacks/nouns_api/openapi.json")]) == 0
    capsys.readouterr()
    assert run(["simulate", str(tmp_path), *shlex.split(command)]) == 0
    assert capsys.readouterr().out == answer


def test_every_member_key_metric_and_unit_of_the_language_stands_on_its_page() -> None:
    page = (ROOT / "docs/monetization-policies.md").read_text()
    operators = [field.alias for field in LineCondition.model_fields.values()]
    words = [*Effect, *DEPLOY_KEYS, *METRICS, *(unit for units in UNITS.values() for unit in units), *operators]
    assert [word for word in words if not re.search(rf"(?<!\w){re.escape(str(word))}(?!\w)", page)] == []
