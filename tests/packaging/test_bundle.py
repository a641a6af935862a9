"""The Lambda bundle: complete, the same bytes whoever builds it, and free of what must never run in Lambda."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from marketplace_constructs import bundles

HANDLERS = (
    "marketplace_constructs.runtime.agreements.reconciliation",
    "marketplace_constructs.runtime.gate",
    "marketplace_constructs.runtime.onboarding.handler",
    "marketplace_constructs.runtime.onboarding.signing_secret",
    "marketplace_constructs.runtime.subscription_events",
    "marketplace_constructs.runtime.usage_plan",
)
LAMBDA_ZIP_LIMIT = 250 * 1024 * 1024  # unzipped, layers included: Lambda developer guide, quotas (read 2026-11-21)


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.bundle_path("functions")


@pytest.mark.parametrize("module", HANDLERS)
def test_each_handler_starts_from_the_bundle_alone(bundle: Path, module: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys, importlib, boto3;"
        f"module = importlib.import_module({module!r}); assert callable(module.handler);"
        "[boto3.client(service, 'us-east-1') for service in "
        f"{bundles._SERVICES!r}];"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "assert not loaded & {'aws_cdk', 'jsii', 'constructs', 'click'}, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
        env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"},
    )
    assert done.returncode == 0, done.stderr


def test_the_bundle_is_the_same_bytes_each_time(bundle: Path, tmp_path: Path) -> None:
    bundles.build("functions", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_the_bundle_is_bound_to_no_processor_and_small(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        entries = archive.infolist()
    assert not [entry.filename for entry in entries if entry.filename.endswith((".so", ".pyd"))]
    assert not [entry.filename for entry in entries if "__pycache__" in entry.filename]
    assert sum(entry.file_size for entry in entries) < LAMBDA_ZIP_LIMIT / 10


def test_a_bundle_that_cannot_be_built_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MARKETPLACE_CONSTRUCTS_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(bundles.BundleError, match="pip install"):
        bundles.bundle_path("functions")
