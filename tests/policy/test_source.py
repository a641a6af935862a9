from __future__ import annotations

from decimal import Decimal

import pytest

from marketplace_constructs.policy.source import MAX_CHARACTERS, read_source


def details(text: str, document: str = "p.yaml") -> list[str]:
    return [fault.details for fault in read_source(document, text).faults]


def test_yaml_and_json_of_the_same_content_read_alike() -> None:
    yaml = read_source("p.yaml", 'Name: "a"\nList:\n  - 1\n  - 0.50\n  - true\n  - null\n')
    json = read_source("p.json", '{"Name": "a",\n\t"List": [1, 0.50, true, null]}')
    assert yaml.data == json.data == {"Name": "a", "List": [1, Decimal("0.50"), True, None]}
    assert not yaml.faults
    assert not json.faults


def test_every_part_knows_where_it_stands() -> None:
    source = read_source("p.yaml", "A: 1\nStatement:\n  - Sid: one\n    Quantity: {Metric: requests}\n")
    place = source.location(("Statement", 0, "Quantity", "Metric"))
    assert (place.path, place.line, place.column) == ("Statement[0].Quantity.Metric", 4, 16)


def test_a_missing_member_is_placed_in_its_parent() -> None:
    source = read_source("p.yaml", "A: 1\nStatement:\n  - Sid: one\n")
    place = source.location(("Statement", 0, "Effect"))
    assert (place.path, place.line, place.column) == ("Statement[0].Effect", 3, 5)


@pytest.mark.parametrize(
    "word", ["yes", "on", "Off", "1_000", "0x1F", "2026-10-01", "1:30", ".inf", ".nan", "~", "010"]
)
def test_fails_when_a_bare_word_means_something_else_to_some_reader(word: str) -> None:
    assert f"got the bare word {word!r}; expected quotes" in details(f"Id: {word}")[0]
    assert not details(f'Id: "{word}"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A: &x [1]\nB: *x", "anchor"),
        ("A: *x", "anchor"),
        ("A: !!python/object:os.system x", "tag"),
        ("A: 1\n---\nB: 2", "second document"),
        ("? [a]\n: 1", "member name"),
        ("A: [", "valid YAML"),
        ("A: \x00", "printable"),
        ("", "empty"),
        ("A: 1e308", "exponent"),
        ("A: " + "9" * 25, "digits"),
        ("- " * 40 + "a", "deep"),
        ("[" * 100_000, "deep"),
        ("x" * (MAX_CHARACTERS + 1), "characters"),
    ],
)
def test_fails_when_yaml_is_more_than_plain_data(text: str, expected: str) -> None:
    assert expected in "; ".join(details(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"A": NaN}', "got NaN"),
        ('{"A": Infinity}', "got Infinity"),
        ('{"A": 1e3}', "exponent"),
        ("{A: 1}", "valid JSON"),
        ('{"A": 1,}', "valid JSON"),
        ("[" * 100_000, "deep"),
    ],
)
def test_fails_when_json_is_none(text: str, expected: str) -> None:
    assert expected in "; ".join(details(text, "p.json"))


def test_a_doubled_member_is_told_where_it_stands_again() -> None:
    source = read_source("p.json", '{"A": 1,\n "A": 2}')
    assert [(fault.code, source.location(fault.path).line) for fault in source.faults] == [("MON101", 2)]


def test_json_may_write_a_character_by_its_two_halves() -> None:
    source = read_source("p.json", r'{"A": "\ud83d\ude00 \\ud83d \/"}')
    assert source.data == {"A": "\N{GRINNING FACE} \\ud83d /"}


def test_a_bomb_of_aliases_is_refused_before_anything_is_built() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "anchor" in details("\n".join(lines))[0]
