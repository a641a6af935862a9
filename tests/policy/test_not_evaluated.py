"""What no figure takes into account is said beside the figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples import IMAGES_ROUTES, Documents, images, read

from marketplace_constructs.cli import run
from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.policy.diff import diff


def stored(directory: Path, documents: Documents) -> str:
    for name, document in documents.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))
    return str(directory)


@pytest.mark.parametrize(
    ("plan", "members"),
    [
        ("image-partner-gold", ["Allowances"]),
        ("image-trial", ["Allowances", "Trial"]),
        ("image-retail", []),
    ],
)
def test_an_estimate_says_that_included_units_are_left_out(
    plan: str, members: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = stored(tmp_path, images())
    assert run(["simulate", pool, "--plan", plan, "--request", "GET /v1/images", "--format", "json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["not_evaluated"] == members
    assert (f"note: {' and '.join(members)} of {plan}@" in err) is bool(members)


def test_what_a_log_comes_to_under_two_pools_is_told_with_what_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = stored(tmp_path / "pool", images())
    paths: dict[str, object] = {"/v1/images": {"get": {}}}
    routes = tmp_path / "openapi.json"
    routes.write_text(json.dumps({"openapi": "3.0.3", "info": {"title": "images", "version": "1"}, "paths": paths}))
    log = tmp_path / "log.json"
    log.write_text("")
    command = ["diff", pool, pool, "--routes", str(routes)]
    assert run(command) == 0
    assert capsys.readouterr().err == ""
    assert run([*command, "--log", str(log)]) == 0
    assert "note: Allowances and Trial of image-partner-gold@1, image-trial@1" in capsys.readouterr().err


def test_fails_when_a_weight_that_nobody_sets_would_be_compared_as_one() -> None:
    new = images()
    new["policies/consumption.json"]["Statement"][3]["Quantity"]["Multiply"] = "${param.Nobody}"
    with pytest.raises(MarketplaceConstructsError, match=r"MP-DIFF-01: new pool.*MON109.*RenderIsFiveCalls"):
        diff(read(images()), read(new), old_routes=IMAGES_ROUTES, new_routes=IMAGES_ROUTES)
