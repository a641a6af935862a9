"""The commands lint, schema and openapi, as they are called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from lint.overlay import HERE, SOUND, Overlay

from marketplace_constructs.cli import run
from marketplace_constructs.policy.documents import KINDS
from marketplace_constructs.policy.rules import CATALOGUE
from marketplace_constructs.policy.schema import schema_of

ROUTES = ["--routes", str(SOUND / "openapi.yaml")]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOUND, tmp_path / "pool"))


def change(pool: Path, file: str, old: str, new: str) -> None:
    text = (pool / file).read_text()
    assert old in text
    (pool / file).write_text(text.replace(old, new))


def as_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["schema_version"] == 1
    return content


def test_a_sound_pool_passes_and_what_is_not_checked_is_named(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", str(pool), *ROUTES, "--format", "json"]) == 0
    content = as_json(capsys)
    assert content["findings"] == []
    assert [one["issueCode"] for one in content["not_checked"]] == ["MON205", "MON213", "MON218"]
    assert run(["lint", str(pool), "--format", "json"]) == 0
    unchecked = {one["issueCode"]: one["reason"] for one in as_json(capsys)["not_checked"]}
    assert unchecked["MON112"] == "without --routes"


def test_a_finding_has_exactly_the_members_that_pipelines_read(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(pool, "policies/images.yaml", "Dimension: egress_gb", "Dimension: egress")
    assert run(["lint", str(pool), *ROUTES, "--format", "json"]) == 1
    finding = next(one for one in as_json(capsys)["findings"] if one["issueCode"] == "MON110")
    details, resolution = finding.pop("findingDetails"), finding.pop("resolution")
    assert finding == {
        "findingType": "ERROR",
        "issueCode": "MON110",
        "document": "policies/images.yaml",
        "sid": "Bytes",
        "locations": [{"path": "Statement[2].Dimension", "line": 21, "column": 5}],
    }
    assert "'egress'" in details
    assert resolution


def test_text_says_where_what_and_what_to_do_without_colour(
    pool: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    change(pool, "plans/retail.yaml", "Segment: retail", "Segment: retial")
    assert run(["lint", str(pool), *ROUTES]) == 1
    output = capsys.readouterr().out
    assert "plans/retail.yaml:6:1 MON120 ERROR" in output
    assert f"help: {CATALOGUE['MON120'].resolution[:30]}" in output
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 60


def test_what_a_document_says_moves_no_cursor(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(pool, "plans/retail.yaml", "Segment: retail", "Segment: retial")
    (pool / "plans/retail.yaml").rename(pool / "plans/\x1b[2J.yaml")
    assert run(["lint", str(pool), *ROUTES]) == 1
    output = capsys.readouterr().out
    assert "\ufffd[2J.yaml:6:1 MON120" in output
    assert "\x1b" not in output


def test_fails_when_a_pool_with_errors_is_to_be_published(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(pool, "plans/retail.yaml", "Segment: retail", "Segment: retial")
    assert run(["lint", str(pool), *ROUTES, "--publish"]) == 1
    assert "published: nothing" in capsys.readouterr().out
    assert not (pool / "published.json").exists()


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [("ERROR", 0), ("SECURITY_WARNING", 1), ("REVENUE_WARNING", 1), ("WARNING", 1), ("SUGGESTION", 1), ("warning", 1)],
)
def test_exits_with_1_from_the_type_that_was_asked_for(pool: Path, fail_on: str, code: int) -> None:
    change(pool, "prices/list.yaml", ', egress_gb: "0.09"', "")  # a revenue warning
    assert run(["lint", str(pool), *ROUTES, "--fail-on", fail_on]) == code


def test_publishing_records_versions_that_may_not_change_again(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", str(pool), *ROUTES, "--publish", "--format", "json"]) == 0
    assert as_json(capsys)["published"] == ["Plan retail@1", "Policy images@1"]
    record = (pool / "published.json").read_text()
    assert run(["lint", str(pool), *ROUTES, "--publish"]) == 0
    assert (pool / "published.json").read_text() == record
    assert sorted(path.name for path in pool.iterdir()) == [
        "openapi.yaml", "plans", "policies", "prices", "product.yaml", "published.json",
    ]  # fmt: skip
    change(pool, "plans/retail.yaml", "RateLimit: 20", "RateLimit: 30")
    assert run(["lint", str(pool), *ROUTES, "--publish"]) == 1
    assert "MON119" in capsys.readouterr().out
    assert (pool / "published.json").read_text() == record


def test_a_version_that_left_the_pool_stays_recorded(pool: Path) -> None:
    (pool / "published.json").write_text('{"documents": {"Plan gone@1": "sha256:0"}}')
    assert run(["lint", str(pool), *ROUTES, "--publish"]) == 0
    assert list(json.loads((pool / "published.json").read_text())["documents"]) == [
        "Plan gone@1", "Plan retail@1", "Policy images@1",
    ]  # fmt: skip


def test_a_rule_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lint", "--explain", "mon105"]) == 0
    output = capsys.readouterr().out
    assert CATALOGUE["MON105"].title in output
    assert "Sid: AlsoCalls" in output


def test_fails_when_it_is_called_wrongly(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--explain", "MON999"], [str(pool / "absent")], [str(pool), "--api", "Api"]):
        assert run(["lint", *arguments]) == 2, arguments
    assert run(["schema", "Invoice"]) == 2
    capsys.readouterr()


def test_fails_when_it_cannot_check(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pool / "published.json").write_text("[]")
    assert run(["lint", str(pool)]) == 3
    (pool / "published.json").unlink()
    (pool / "api.json").write_text("{}")
    assert run(["lint", str(pool), "--routes", str(pool / "api.json")]) == 3
    assert "MP-ROUTES-02" in capsys.readouterr().err


def test_fails_when_a_free_route_is_none_of_the_api(pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["openapi", str(pool), "--plan", "retail", *ROUTES, "--free-route", "GET /v1/helth"]) == 2
    assert "'GET /v1/helth' is no route of" in capsys.readouterr().err


def as_data(text: str) -> Any:
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


@pytest.mark.parametrize("path", sorted((HERE / "good").rglob("*.*")), ids=lambda p: str(p.relative_to(HERE / "good")))
def test_every_good_document_fits_its_schema(path: Path) -> None:
    document = as_data(path.read_text())
    if "Kind" in document:
        jsonschema_rs.validate(schema_of(document["Kind"]), document)
        jsonschema_rs.validate(schema_of(document["Kind"]), {**document, "x-note": 1})


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_schema_says_what_each_member_is_and_takes_what_the_reader_takes(kind: str) -> None:
    schema = schema_of(kind)
    made = [one for one in (schema, *schema.get("$defs", {}).values()) if "properties" in one]
    assert [name for one in made for name, member in one["properties"].items() if not member.get("description")] == []
    assert [one["title"] for one in made if not one["description"]] == []
    assert not {"ge", "le", "null"} & set(re.findall(r"\w+", str([one["properties"] for one in made])))


@pytest.mark.parametrize("version", [0, 2**31])
def test_fails_when_a_number_of_a_schema_is_out_of_its_range(version: int) -> None:
    document = as_data((HERE / "good/images-json/plans/image-retail.json").read_text())
    assert jsonschema_rs.is_valid(schema_of("Plan"), document)
    assert not jsonschema_rs.is_valid(schema_of("Plan"), document | {"PlanVersion": version})
    assert not jsonschema_rs.is_valid(schema_of("Plan"), document | {"Throttle": None})


@pytest.mark.parametrize("name", ["MON101", "MON102", "MON103-missing", "MON104", "MON107", "MON137"])
def test_fails_when_a_document_does_not_fit_its_schema(name: str) -> None:
    wrong = 0
    for text in Overlay.of((HERE / "bad" / f"{name}.yaml").read_text()).texts.values():
        document = as_data(text)
        wrong += not jsonschema_rs.is_valid(schema_of(document["Kind"]), document)
    assert wrong


def test_the_schema_is_told_by_a_kind_of_any_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "pricelist"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == schema_of("PriceList")
    jsonschema_rs.meta.validate(schema)
    assert "$id" not in schema


def test_other_commands_do_not_load_the_rules() -> None:
    script = "import sys; from marketplace_constructs.cli import run; run(['--help']); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
