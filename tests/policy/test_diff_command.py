from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from examples import IMAGES_ROUTES, Documents, images

from marketplace_constructs.cli import run
from marketplace_constructs.queries.access_log import FIELDS

Diff = Callable[..., int]
BYTES_OUT = 4
RETAIL = "image-retail@2"


@pytest.fixture
def pools(tmp_path: Path) -> Diff:
    """Runs ``sellable diff`` on the examples and a changed copy of them."""

    def sellable_diff(
        *options: str, old: Documents | None = None, new: Documents | None = None, routes: bool = True
    ) -> int:
        _write(tmp_path / "old", old or images())
        _write(tmp_path / "new", new or images())
        paths: dict[str, dict[str, Any]] = {}
        for route in IMAGES_ROUTES:
            paths.setdefault(route.path, {})[route.method.lower()] = {"responses": {}}
        openapi = tmp_path / "openapi.json"
        openapi.write_text(json.dumps({"openapi": "3.0.1", "paths": paths}))
        given = ("--routes", str(openapi)) if routes else ()
        return run(["diff", str(tmp_path / "old"), str(tmp_path / "new"), *given, *options])

    return sellable_diff


def _write(directory: Path, documents: Mapping[str, Any]) -> None:
    for name, document in documents.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))


def dearer() -> Documents:
    new = images()
    new["policies/consumption.json"]["Statement"][BYTES_OUT]["Quantity"]["Multiply"] = 2
    return new


def test_nothing_changed(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools() == 0
    assert capsys.readouterr().out == "no new or higher charge\n"


def test_a_plan_that_is_removed_leaves_its_agreements_without_one_and_fails_until_that_is_wanted(
    pools: Diff, capsys: pytest.CaptureFixture[str]
) -> None:
    old = images()
    accounts = {"Accounts": ["123456789012"]}
    old["plans/large.json"] = images()["plans/retail.json"] | {"Id": "large", "AssignTo": accounts}
    assert pools(old=old) == 1
    out = capsys.readouterr().out
    assert out.startswith("removed: Plan large@2\n")
    assert "large@2 -> no plan, retail: pinned agreements\n" in out
    assert pools("--allow", "large@2", old=old) == 0


def test_a_charge_is_told_in_lines_that_fit(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools(new=dearer()) == 1
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert (
        """\
image-retail@2, retail: pinned and new agreements, Default
  (Marketplace)
  dearer: egress_gb on GET /v1/images, GET /v1/images/{id},
    GET /v1/images/{id}/original
      status 2xx
      1 per GB of response.bytes -> 2 per GB of
        response.bytes
      +0.09 USD per GB
"""
        in out
    )
    assert out.endswith("1 new or higher charge\n")


def test_an_allowed_charge_passes(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools("--allow", "image-retail:egress_gb", new=dearer()) == 0
    assert "no new or higher charge (1 allowed)" in capsys.readouterr().out


def test_fails_when_what_is_allowed_is_unknown(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools("--allow", "image-retial@2", new=dearer()) == 2
    assert "image-retial@2" in capsys.readouterr().err


def test_without_routes_nothing_passes(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools(routes=False, new=dearer()) == 3
    out = capsys.readouterr().out
    assert "could not check" in out
    assert "changed: Policy image-consumption@3" in out
    assert "no new or higher charge" not in out


def test_fails_when_a_pool_has_errors(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    new = images()
    new["plans/retail.json"]["Segments"] = "retail"
    assert pools(new=new) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "MP-DIFF-01: new pool, got MON101 in plans/retail.json" in captured.err


def test_fails_when_routes_are_given_twice(pools: Diff, tmp_path: Path) -> None:
    assert pools("--new-routes", str(tmp_path / "openapi.json")) == 2


def test_json(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    assert pools("--format", "json", new=dearer()) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["schema_version"], report["new_charges"], report["not_checked"]) == (1, True, [])
    [retail] = [one for one in report["comparisons"] if one["new"] == "image-retail@2"]
    assert retail["changes"] == [
        {
            "kind": "count",
            "subject": "",
            "dimension": "egress_gb",
            "routes": ["GET /v1/images", "GET /v1/images/{id}", "GET /v1/images/{id}/original"],
            "lines": [{"status": [200, 300]}],
            "old": "1 per GB of response.bytes",
            "new": "2 per GB of response.bytes",
            "old_usd": "0.09",
            "new_usd": "0.18",
            "per": "GB",
            "direction": "dearer",
            "allowed": False,
        }
    ]
    assert retail["reference_calls"] == [
        {"routes": retail["changes"][0]["routes"], "old_usd": "0.00109", "new_usd": "0.00118"}
    ]


def test_markdown_puts_the_table_first_and_obeys_no_document(pools: Diff, capsys: pytest.CaptureFixture[str]) -> None:
    new = dearer()
    new["product.json"]["Description"] = "`</details>` | <img src=x>\n# \x1b[31m"
    assert pools("--format", "markdown", new=new) == 1
    out = capsys.readouterr().out
    assert out.startswith("**1 new or higher charge**\n\n| plan | agreements |")
    assert out.index("| `image-retail@2` |") < out.index("<details>")
    assert out.count("<details>") == out.count("\n</details>")
    assert "none -> '</details>' ¦ <img src=x>?# ?[31m`" in out


def test_a_log_shows_whose_bill_changes(pools: Diff, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(number: int, agreement: str, size: int, **more: str) -> str:
        given = {
            "extendedRequestId": f"call-{number}",
            "requestTimeEpoch": "1795996800000",
            "httpMethod": "GET",
            "resourcePath": "/v1/images/{id}",
            "status": "200",
            "responseLength": str(size),
            "agreement": agreement,
            "plan": "image-retail@2",
        }
        return json.dumps(dict.fromkeys(FIELDS, "-") | given | more)

    log = tmp_path / "access.log"
    lines = [
        line(1, "agmt-one", 10**9),
        line(2, "agmt-two", 3 * 10**9),
        line(2, "agmt-two", 3 * 10**9),
        line(3, "agmt-two", 10**9, status="404"),
        line(4, "agmt-three", 10**9, plan="image-basic@1"),
        line(5, "agmt-one", 10**9, httpMethod="POST", resourcePath="/v1/images"),
    ]
    log.write_text("\n".join(lines))
    new = dearer()
    new["plans/basic.json"]["AssignTo"] = {"Accounts": ["123456789012"]}
    assert pools("--log", str(log), "--format", "json", new=new) == 1
    out, err = capsys.readouterr()
    assert "note: usage events image.storage.gb_hours left out of what a log costs\n" in err
    report = json.loads(out)
    # The lines of one plan say nothing about another.
    fallen = [one["log"] for one in report["comparisons"] if (one["old"], one["new"]) == ("image-basic@1", RETAIL)]
    assert fallen == [None]
    [effect] = [one["log"] for one in report["comparisons"] if one["old"] == one["new"] == RETAIL]
    assert effect == {
        "old_usd": "0.363",
        "new_usd": "0.723",
        "agreements": [
            {
                "agreement": name,
                "dimension": "egress_gb",
                "old_quantity": old,
                "new_quantity": new,
                "old_usd": old_usd,
                "new_usd": new_usd,
                "difference_usd": difference,
            }
            for name, old, new, old_usd, new_usd, difference in [
                ("agmt-two", "3", "6", "0.27", "0.54", "0.27"),
                ("agmt-one", "1", "2", "0.09", "0.18", "0.09"),
            ]
        ],
    }
    assert pools("--log", str(log), new=dearer()) == 1
    out = capsys.readouterr().out
    assert "the log's lines: 0.363 USD -> 0.723 USD" in out
    assert "agmt-two, egress_gb: 3 -> 6, +0.27 USD" in out
