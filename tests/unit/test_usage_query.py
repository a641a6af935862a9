"""The text that judges log lines keeps to what means the same on DuckDB and on Athena."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import combinations

import pytest
import sqlglot
from sqlglot import exp

from marketplace_constructs.queries.access_log import FIELDS
from marketplace_constructs.queries.usage import KEYS, LINES, MEMBERS, first_lines, quantity_of, usage_query

CORE = {
    # relations and their parts
    *("Select", "From", "Join", "Where", "Group", "With", "CTE", "Subquery", "Table", "TableAlias", "Alias"),
    *("Column", "Identifier", "Placeholder", "Parameter", "Ordered", "Order", "Window", "WindowSpec"),
    # values
    *("Literal", "Null", "Boolean", "DataType", "DataTypeParam", "Cast", "TryCast", "Star", "Tuple", "Paren"),
    # operators
    *("And", "Or", "Not", "EQ", "NEQ", "LT", "LTE", "GT", "GTE", "Is", "In", "Add", "Sub", "Mod", "Mul", "Case", "If"),
    # functions
    *("Count", "Sum", "RowNumber", "Coalesce", "SplitPart", "Union", "Filter", "JSONExtractScalar"),
}
TEXTS = [
    *(usage_query(by) for size in range(3) for by in combinations(KEYS, size)),
    first_lines("received"),
    first_lines("received", also=["line"]),
]


def strangers(text: str) -> set[str]:
    return {type(node).__name__ for node in sqlglot.parse_one(text, read="duckdb").walk()} - CORE


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
    assert kinds == {"DECIMAL"}


def test_each_column_of_a_line_comes_from_a_member_of_the_access_log() -> None:
    assert set(MEMBERS) == set(LINES)
    assert set(MEMBERS.values()) <= set(FIELDS)


def test_a_quantity_is_exact() -> None:
    assert quantity_of(10, multiply=Decimal("0.1"), base_units=3) == Fraction(1, 3)
