from __future__ import annotations

import json
from pathlib import Path

import pytest
from pools import ALLOW_ALL, plan, policy, product

from marketplace_constructs.policy.pool import Pool


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    files = {"product.json": product(), "policies/a.json": policy([ALLOW_ALL]), "plans/b.json": plan()}
    for name, document in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return tmp_path


def test_a_directory_is_read_whole(directory: Path) -> None:
    (directory / "policies" / "README.md").write_text("no document")
    (directory / "openapi.yaml").write_text("openapi: 3.0.3\n")
    pool = Pool.load(directory)
    assert not pool.faults
    assert (list(pool.policies), list(pool.plans)) == (["images@1"], ["retail@1"])


def test_fails_when_a_document_lies_where_nothing_reads_it(directory: Path) -> None:
    (directory / "plans").rename(directory / "plan")
    (directory / "more.yaml").write_text(json.dumps(policy([ALLOW_ALL], Id="more")))
    faults = [(fault.document, fault.details) for fault in Pool.load(directory).faults]
    assert faults == [
        ("more.yaml", "Kind, got Policy in more.yaml; expected it in policies/"),
        ("plan/b.json", "Kind, got Plan in plan/b.json; expected it in plans/"),
    ]


def test_fails_when_two_documents_have_one_id_and_version(directory: Path) -> None:
    (directory / "plans" / "c.json").write_text(json.dumps(plan()))
    assert [fault.document for fault in Pool.load(directory).faults] == ["plans/c.json"]


def test_fails_when_there_is_no_product(directory: Path) -> None:
    (directory / "product.json").unlink()
    assert [fault.document for fault in Pool.load(directory).faults] == ["product.yaml"]
