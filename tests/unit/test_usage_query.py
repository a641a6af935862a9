"""The texts in ``queries`` keep to what means the same on DuckDB and Athena, but for what an engine has for itself."""

from __future__ import annotations

import ast
from decimal import Decimal
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from marketplace_constructs import queries
from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.queries.log_lines import json_source, typed_lines
from marketplace_constructs.queries.usage import KEYS, LINES, MEMBERS, first_lines, quantity_of, usage_query
from marketplace_constructs.queries.usage_events import event_usage_query, first_events

CORE = {
    # relations and their parts
    *("Select", "From", "Join", "Where", "Group", "With", "CTE", "Subquery", "Table", "TableAlias", "Alias"),
    *("Column", "Identifier", "Placeholder", "Parameter", "Ordered", "Order", "Window", "WindowSpec"),
    # values
    *("Literal", "Null", "Boolean", "DataType", "DataTypeParam", "Cast", "TryCast", "Star", "Tuple", "Paren"),
    # operators
    *(
        "And",
        "Or",
        "Not",
        "EQ",
        "NEQ",
        "LT",
        "LTE",
        "GT",
        "GTE",
        "Between",
        "Is",
        "In",
        "Add",
        "Sub",
        "Mod",
        "Mul",
        "Case",
        "If",
    ),
    # functions
    *("Count", "Sum", "Min", "RowNumber", "Coalesce", "Nullif", "SplitPart", "Union", "Filter", "JSONExtractScalar"),
}
OF_DUCKDB = {
    "HASH": "tells lines apart in bounded memory; which of them are equal is decided by their ids",
    "READ_JSON": "how files become rows is the engine's own; on Athena a table's SerDe does it",
}
"""Functions that the texts may call though Athena knows them not, each with its reason."""
TEXTS_OF = {
    usage_query: [usage_query(by) for size in range(3) for by in combinations(KEYS, size)],
    first_lines: [first_lines("received"), first_lines("received", also=["line"])],
    typed_lines: [typed_lines("received")],
    json_source: [f"SELECT agreement FROM {json_source(['a', 'b'])}"],
    first_events: [first_events("received")],
    event_usage_query: [event_usage_query(), event_usage_query(("source", "event_id", "event", "time_ms"))],
}
TEXTS = [text for texts in TEXTS_OF.values() for text in texts]


def strangers(text: str) -> set[str]:
    def is_excused(node: exp.Expression) -> bool:
        return isinstance(node, exp.Anonymous) and node.name.upper() in OF_DUCKDB

    # What stands within an engine's own function is its own as well.
    nodes = sqlglot.parse_one(text, read="duckdb").walk(prune=is_excused)
    return {type(node).__name__ for node in nodes if not is_excused(node)} - CORE


def test_every_text_is_looked_at() -> None:
    found = {
        function.name
        for path in Path(queries.__file__).parent.glob("*.py")
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        and any(
            isinstance(node, ast.Constant) and ("SELECT" in str(node.value) or "read_json" in str(node.value))
            for node in ast.walk(function)
        )
    }
    assert found == {function.__name__ for function in TEXTS_OF}


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_but_the_common_core_is_used(text: str) -> None:
    assert strangers(text) == set()
    groups = sqlglot.parse_one(text, read="duckdb").find_all(exp.Group)
    assert all(group.expressions and not group.args.get("all") for group in groups)


@pytest.mark.parametrize("text", TEXTS)
def test_athena_reads_the_same(text: str) -> None:
    ours = sqlglot.parse_one(text, read="duckdb")
    athena = sqlglot.parse_one(text, read="athena")
    assert ours.sql("duckdb", normalize_functions="upper") == athena.sql("duckdb", normalize_functions="upper")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT median(a) FROM lines GROUP BY ALL",
        "SELECT a / 2 FROM lines",
        "SELECT regexp_full_match(a, 'x') FROM lines",
        "SELECT epoch_ms(a) FROM lines",
        "SELECT a::DOUBLE, md5(b) FROM lines",
        "SELECT a FROM read_parquet('a')",
        "SELECT hash(a), xxhash64(a) FROM lines",
    ],
)
def test_what_differs_between_the_engines_is_noticed(text: str) -> None:
    assert strangers(text)


def test_no_text_names_a_type_of_binary_numbers() -> None:
    kinds = {
        kind.this.value
        for text in TEXTS
        for kind in sqlglot.parse_one(text, read="duckdb").find_all(exp.DataType)
        if isinstance(kind.this, exp.DataType.Type)
    }
    assert kinds == {"DECIMAL", "BIGINT", "TEXT"}


def test_each_column_of_a_line_comes_from_a_member_of_the_access_log() -> None:
    assert set(MEMBERS) == set(LINES)
    assert set(MEMBERS.values()) <= set(FIELDS)


def test_a_quantity_is_exact() -> None:
    assert quantity_of(10, multiply=Decimal("0.1"), base_units=3) == Fraction(1, 3)
