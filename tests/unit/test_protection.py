"""No weakness of tests/protected.py is without a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from protected import Weakness

TESTS = Path(__file__).parents[1]


def marked(source: str) -> Iterator[str]:
    """Names of the weaknesses that the tests of a module protect against."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
            continue
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.protects":
                yield from (ast.unparse(argument).removeprefix("Weakness.") for argument in decorator.args)


def test_every_weakness_has_a_test_that_protects_against_it() -> None:
    found = {name for path in sorted(TESTS.rglob("test_*.py")) for name in marked(path.read_text())}
    assert found == {weakness.name for weakness in Weakness}


def test_a_mark_counts_on_a_test_only() -> None:
    helper = "@pytest.mark.protects(Weakness.SECRETS_IN_LOGS)\ndef helper(): pass\n"
    assert list(marked(helper)) == []
    assert list(marked(helper.replace("helper", "test_it"))) == ["SECRETS_IN_LOGS"]


def test_each_weakness_is_told_in_one_sentence_of_its_own() -> None:
    assert len(Weakness) == len({str(weakness) for weakness in Weakness}) == 45
