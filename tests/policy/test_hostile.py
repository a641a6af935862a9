"""Documents that somebody wrote to hurt: whole pools with one of them, each in a process that may use only so much."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from language_campaign import PRICES
from pools import ALLOW_ALL, meter, plan, policy, product

from marketplace_constructs.policy.documents import parse_document
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.source import MAX_CHARACTERS, read_source

CPU_SECONDS = 20
MEMORY_BYTES = 1_000_000_000
LINT = f"""
import json, resource, sys
from datetime import UTC, datetime
from pathlib import Path
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
from marketplace_constructs.policy.lint import lint, load_pool
from marketplace_constructs.policy.patterns import Route
routes = [Route(path=path, method=method) for path in ("/a", "/a/{{id}}", "/b/{{proxy+}}") for method in ("GET", "ANY")]
report = lint(load_pool(Path(sys.argv[1])), now=datetime(2026, 11, 21, tzinfo=UTC), routes=routes)
print(json.dumps([finding.to_json() for finding in report.findings]))
"""
"""A program of its own, so that what it may use is bounded and what it takes down is only itself."""

POLICY = "policies/images.json"


def findings(directory: Path, hostile: dict[str, str | bytes]) -> list[dict[str, Any]]:
    """What the linter says of a good pool in which some files are others."""
    files: dict[str, str | bytes] = {
        "product.json": json.dumps(product()),
        POLICY: json.dumps(policy([ALLOW_ALL, meter()])),
        "plans/retail.json": json.dumps(plan()),
        "prices/prices.json": json.dumps(PRICES),
        **hostile,
    }
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    ran = subprocess.run([sys.executable, "-c", LINT, str(directory)], capture_output=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr.decode()[-2_000:]
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


def of(document: str, found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Code and details of the errors in a document, each of which says where, and in few words what."""
    errors = [one for one in found if one["document"] == document and one["findingType"] == "ERROR"]
    for one in errors:
        assert one["locations"][0]["line"] >= 1
        assert one["locations"][0]["column"] >= 1
        assert len(one["findingDetails"]) < 500
        assert one["resolution"]
    return [(one["issueCode"], one["findingDetails"]) for one in errors]


def with_condition(condition: dict[str, Any], count: int = 1) -> str:
    given = {"Condition": condition} if condition else {}
    return json.dumps(policy([ALLOW_ALL, *(meter(f"Count{index}", **given) for index in range(count))]))


LAUGHS = "\n".join(["a0: &a0 [ha]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)])
MANY = 900_000


@pytest.mark.parametrize(
    ("name", "text", "code", "details"),
    [
        ("deep.json", "[" * 200_000, "MON101", "deep"),
        ("deep.json", '{"a":' * 100_000 + "1" + "}" * 100_000, "MON101", "deep"),
        ("deep.yaml", "[" * 200_000, "MON101", "deep"),
        ("deep.yaml", "{a: " * 100_000, "MON101", "deep"),
        ("deep.yaml", "- " * 200_000 + "a", "MON101", "deep"),
        ("deep.yaml", "\n".join(f"{' ' * depth}a:" for depth in range(1_200)), "MON101", "deep"),
        ("hidden.json", json.dumps(policy([ALLOW_ALL]))[:-1] + ',"x-a":' + "[" * 50 + "]" * 50 + "}", "MON101", "deep"),
        ("large.json", json.dumps(policy([ALLOW_ALL] * 100_000)), "MON101", "characters"),
        ("large.yaml", "- a\n" * 2_500_000, "MON101", "characters"),
        ("large.yaml", "\N{GRINNING FACE}" * 1_100_000, "MON101", "characters"),
        ("large.yaml", b"\xff" * 10_000_000, "MON101", "UTF-8"),
        ("laughs.yaml", LAUGHS, "MON101", "anchor"),
        ("laughs.yaml", "a: &a {b: 1}\nc:\n  <<: *a\n", "MON101", "anchor"),
        ("itself.yaml", "a: &a [*a]\n", "MON101", "anchor"),
        ("entity.yaml", '<!DOCTYPE x [<!ENTITY a "ha">]><x>&a;</x>', "MON101", "expected"),
        ("pickle.yaml", "!!python/object/apply:os.system ['true']", "MON101", "tag"),
        ("directive.yaml", "%YAML 1.1\n---\nKind: Policy\n", "MON101", "expected"),
        ("members.yaml", "".join(f"m{n}: 1\n" for n in range(MANY // 10)), "MON101", "expected"),
        ("twice.json", "{" + ",".join(['"Kind":"Policy"'] * (MANY // 16)) + "}", "MON101", "twice"),
        ("null.yaml", "\x00", "MON101", "printable"),
        ("list.json", "[" + "1," * (MANY // 2) + "1]", "MON101", "members"),
        ("wide.json", json.dumps(policy([{**ALLOW_ALL, "Sid": "S"}] * 2_001)), "MON101", "2,000"),
        ("wrong.json", json.dumps(policy([{"Effect": "Allow"}] * 2_000)), "MON103", "Sid"),
        ("wide.json", json.dumps(policy([ALLOW_ALL | {"Resource": ["//"] * 100_000}])), "MON108", "empty segment"),
        ("key.json", json.dumps({"k" * MANY: 1}), "MON101", "expected"),
    ],
)
def test_fails_when_a_document_is_a_bomb(tmp_path: Path, name: str, text: str | bytes, code: str, details: str) -> None:
    found = findings(tmp_path, {f"policies/{name}": text})
    errors = of(f"policies/{name}", found)
    assert errors
    assert len(errors) <= 1_500
    assert any(got == code and details in said for got, said in errors), errors[:5]


@pytest.mark.parametrize(
    "pattern",
    [
        "/.*", "/a/[0-9]+", "/a{1,99999}", "/^(([a-z])+.)+[A-Z]([a-z])+$", "/a|b", "/\\d+", "/**/**",
        "/***", "/a*", "/*a", "/{}", "/{a", "/{a}{b}", "/{a+}/b", "/{{a}}", "/?", "/a?b", "/%00/\x00", "/../../a b",
        "/" + "*/" * 250 + "**/", "/" + "a" * 512, "/" + "{a}" * 100_000,
    ],
)  # fmt: skip
def test_fails_when_a_pattern_wants_to_be_an_expression(pattern: str) -> None:
    source = read_source("p.json", json.dumps(policy([ALLOW_ALL | {"Resource": pattern}])))
    (fault,) = parse_document(source).faults
    assert fault.code == "MON108"
    assert len(fault.details) < 500
    assert source.location(fault.path).path == "Statement[0].Resource"


LOOK_ALIKES = [
    "im\N{CYRILLIC SMALL LETTER A}ges",
    "\N{LATIN SMALL LIGATURE FI}les",
    "images\N{ZERO WIDTH SPACE}",
    "images\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}b",
    "images\N{FULLWIDTH DIGIT ONE}",
    "images\N{ARABIC-INDIC DIGIT ONE}",
    "ima\N{LATIN SMALL LETTER DOTLESS I}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "images\n",
    "images ",
    "a" * 65,
]


@pytest.mark.parametrize("name", LOOK_ALIKES)
@pytest.mark.parametrize(
    "place",
    [
        lambda name: policy([ALLOW_ALL], Id=name),
        lambda name: policy([ALLOW_ALL | {"Sid": name}]),
        lambda name: policy([meter()], Parameters={name: {"Type": "Integer", "Default": 1}}),
        lambda name: policy([meter(multiply=f"${{param.{name}}}")]),
        lambda name: policy(
            [{k: v for k, v in meter(metric=f"event:{name}").items() if k not in {"Action", "Resource"}}]
        ),
        lambda name: plan(Segment=name),
        lambda name: plan(Product=name),
        lambda name: plan(Policies=[f"{name}@1"]),
        lambda name: plan(Policies=[f"images@1{name[-1]}"]) if len(name) < 60 else plan(Id=name),
        lambda name: plan(Parameters={name: {}}),
        lambda name: plan(PriceList=name),
        lambda name: product(Segments={name: {}}),
        lambda name: product(Events={name: {}}),
        lambda name: policy([ALLOW_ALL]) | {f"Statement{name[-1]}": []},
        lambda name: policy([meter(Condition={"NumericEquals": {f"response:Status{name[-1]}": 1}})]),
        lambda name: policy([meter(Condition={f"NumericEquals{name[-1]}": {"response:Status": 1}})]),
    ],
)
def test_fails_when_a_name_only_looks_like_one(name: str, place: Callable[[str], dict[str, Any]]) -> None:
    source = read_source("d.json", json.dumps(place(name)))
    parsed = parse_document(source)
    assert parsed.document is None
    assert all(source.location(fault.path).line >= 1 for fault in parsed.faults)


@pytest.mark.parametrize("digits", ["\N{ARABIC-INDIC DIGIT ONE}", "\N{FULLWIDTH DIGIT ONE}", "\N{SUPERSCRIPT ONE}"])
@pytest.mark.parametrize(
    "place",
    [
        lambda digit: PRICES | {"Prices": {"calls": digit}},
        lambda digit: PRICES | {"Prices": {"calls": f"0.{digit}"}},
        lambda digit: PRICES | {"EffectiveFrom": f"2026-1{digit}-01T00:00:00Z"},
        lambda digit: plan(Policies=[f"images@{digit}"]),
        lambda digit: plan(AssignTo={"Accounts": [f"11112222333{digit}"]}),
        lambda digit: policy([meter(Condition={"StringEquals": {"response:StatusClass": digit}})]),
    ],
)
def test_fails_when_a_digit_only_looks_like_one(digits: str, place: Callable[[str], dict[str, Any]]) -> None:
    assert parse_document(read_source("d.json", json.dumps(place(digits)))).document is None


@pytest.mark.parametrize(
    "number",
    [
        "1e308", "1E308", "-1e-308", "1e999999999", "NaN", "Infinity", "-Infinity", "9" * 5_000, "0." + "1" * 5_000,
        "0x10", "0o7", "1_000", "01", "+1", ".5", "5.", "1:30", ".inf", "-.inf", ".nan", "true", "null", "-1", "0",
        "10000.0001", "0.00001", "[1]", "{}", '"1"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_fails_when_a_weight_is_no_number_that_can_be_billed(number: str, suffix: str) -> None:
    text = json.dumps(policy([meter(multiply="HERE")])).replace('"HERE"', f" {number} ")
    source = read_source(f"p.{suffix}", text)
    parsed = parse_document(source)
    assert parsed.document is None
    assert all(len(fault.details) < 500 for fault in parsed.faults)
    assert all(source.location(fault.path).line == 1 for fault in parsed.faults)


@pytest.mark.parametrize(
    "text",
    [
        with_condition({op: {key: [n * 7 for n in range(400)] for key in ("response:Bytes", "integration:LatencyMs")}})
        for op in ("NumericEquals",)
    ]
    + [
        with_condition({"NumericEquals": {"response:Bytes": list(range(0, 200_000, 2))}}),
        with_condition(
            {
                "NumericEquals": {
                    "response:Status": list(range(0, 600, 2)),
                    "response:Bytes": list(range(0, 40_000, 2)),
                    "integration:LatencyMs": list(range(0, 40_000, 2)),
                }
            }
        ),
        json.dumps(
            policy(
                [
                    ALLOW_ALL,
                    *(
                        meter(
                            f"Count{n}",
                            Condition={
                                "NumericGreaterThan": {"response:Bytes": n, "integration:LatencyMs": 3_000 - n},
                                "NumericLessThan": {"response:Bytes": n + 900, "integration:LatencyMs": 4_000 - n},
                            },
                        )
                        for n in range(0, 1_900, 2)
                    ),
                ]
            )
        ),
        with_condition({}, 1_900),
    ],
    ids=["a square", "many values", "a cube", "overlapping boxes", "all tie"],
)
def test_fails_when_conditions_cut_a_route_into_more_pieces_than_anybody_needs(tmp_path: Path, text: str) -> None:
    found = findings(tmp_path, {POLICY: text})
    errors = of(POLICY, found) + of("plans/retail.json", found)
    assert {code for code, _ in errors} <= {"MON105", "MON141"}
    assert errors


ANYTHING = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
suffixes = st.sampled_from(["json", "yaml"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["/**", "GET", "calls", "images@1"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
GOOD = [
    product(),
    policy(
        [
            ALLOW_ALL,
            meter(multiply=0.5, Condition={"NumericEquals": {"response:Status": [404]}}),
            ALLOW_ALL | {"Effect": "Exempt", "Sid": "Free", "Dimension": ["calls"]},
            ALLOW_ALL | {"Effect": "Limit", "Sid": "Slow", "Throttle": {"RateLimit": 1, "BurstLimit": 1}},
        ],
        Parameters={"Weight": {"Type": "Integer", "Default": 1}},
    ),
    plan(Throttle={"RateLimit": 1, "BurstLimit": 2}, Quota={"Limit": 5, "Period": "DAY"}, Parameters={"images": {}}),
    PRICES,
]


def assert_told(name: str, text: str) -> None:
    """Reading never raises, and either there is a document or every fault says where."""
    source = read_source(name, text)
    parsed = parse_document(source)
    assert (parsed.document is None) == bool(parsed.faults)
    last = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 2
    for fault in parsed.faults:
        place = source.location(fault.path)
        assert 1 <= place.line <= last
        assert place.column >= 1
        assert fault.code.startswith("MON1")
        assert 0 < len(fault.details) < 500
        json.dumps(place.path)


def places(part: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [path, *(found for name, value in inner for found in places(value, (*path, name)))]


def replaced(part: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = dict(part) if isinstance(part, dict) else list(part)
    changed[path[0]] = replaced(changed[path[0]], path[1:], value)
    return changed


@ANYTHING
@given(text=st.text() | st.text(alphabet="{}[]:,-&*!|>'\"%@`#?~ \n\tabK01.e"), suffix=suffixes)
@example(text='{"Kind": "\\ud83d"}', suffix="json")
@example(text="Kind: \ud83d", suffix="yaml")
@example(text='"\\ud83d\\ude00"', suffix="json")
@example(text="\ufeff{}", suffix="json")
def test_any_text_is_read_or_told_what_is_wrong_where(text: str, suffix: str) -> None:
    assert_told(f"d.{suffix}", text)


@ANYTHING
@given(data=st.data(), value=json_values, suffix=suffixes)
def test_any_value_in_any_place_is_read_or_told_what_is_wrong_where(
    data: st.DataObject, value: Any, suffix: str
) -> None:
    document = data.draw(st.sampled_from(GOOD))
    path = data.draw(st.sampled_from(places(document)))
    assert_told(f"d.{suffix}", json.dumps(replaced(document, path, value)))


@ANYTHING
@given(data=st.data(), inserted=st.text(max_size=4) | st.sampled_from(["&a ", "*a", "!!x ", "\n", "  - ", "? "]))
def test_any_slip_of_the_pen_is_read_or_told_what_is_wrong_where(data: st.DataObject, inserted: str) -> None:
    text = json.dumps(data.draw(st.sampled_from(GOOD)), indent=1)
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
    assert_told(data.draw(st.sampled_from(["d.json", "d.yaml"])), text[:start] + inserted + text[min(end, start + 5) :])


@ANYTHING
@given(value=st.dictionaries(st.text(max_size=10), json_values, max_size=4))
@example(value={"\x85": ["\u2028", "\u2029 \\u2028", "\t\N{GRINNING FACE}"]})
def test_json_is_read_as_json_or_refused(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        source = read_source("d.json", text)
        assert source.faults or source.data == json.loads(text, parse_float=Decimal)


@ANYTHING
@given(content=st.binary(max_size=200))
def test_any_file_in_a_pool_is_read_or_told_what_is_wrong_where(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("pool")
    (directory / "policies").mkdir()
    (directory / "product.json").write_text(json.dumps(product()))
    (directory / "policies" / "images.yaml").write_bytes(content)
    found = Pool.load(directory)
    assert [fault.document for fault in found.faults][:1] == ["policies/images.yaml"]


def test_the_largest_document_that_is_read_is_read_in_time(tmp_path: Path) -> None:
    statements = [meter(f"Count{n}", resource=f"/a/{n}/**") for n in range(1_999)]
    text = json.dumps(policy([ALLOW_ALL, *statements], Description=""))
    text = text.replace('"Description": ""', f'"Description": "{"a" * (MAX_CHARACTERS - len(text))}"')
    assert len(text) == MAX_CHARACTERS
    assert not of(POLICY, findings(tmp_path, {POLICY: text}))
