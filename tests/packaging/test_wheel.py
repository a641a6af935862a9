"""The wheel: whole, with the bundles in it, and a synthesis from it alone needs no network."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

from marketplace_constructs.bundles import BUNDLES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    subprocess.run([find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(target), str(ROOT)], check=True)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_carries_bundles_types_and_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"marketplace_constructs/bundles/{bundle}.zip" for bundle in BUNDLES} <= names
    assert "marketplace_constructs/py.typed" in names
    assert "marketplace_constructs/rehearsal/emulator.txt" in names
    assert not [name for name in names if name.startswith(("tests/", "stacks/", "docs/"))]
    assert not [name for name in names if "__pycache__" in name or name.endswith(".in")]


def test_the_wheels_bundle_is_used_and_never_built(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from marketplace_constructs import bundles; print(*map(bundles.bundle_path, bundles.BUNDLES))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        env={"MARKETPLACE_CONSTRUCTS_CACHE": str(tmp_path / "no cache")},
    )
    assert done.stdout.split() == [str(tmp_path / f"marketplace_constructs/bundles/{b}.zip") for b in BUNDLES]
    assert not (tmp_path / "no cache").exists()
