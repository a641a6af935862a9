"""The Lambda bundles: complete, the same bytes whoever builds them, and free of what must never run in Lambda."""

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
    "marketplace_constructs.runtime.plans",
    "marketplace_constructs.runtime.subscription_events",
    "marketplace_constructs.runtime.usage_plan",
)
METER = "marketplace_constructs.runtime.metering.meter"
LAMBDA_ZIP_LIMIT = 250 * 1024 * 1024  # unzipped, layers included: Lambda developer guide, quotas (read 2026-11-21)


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.bundle_path("functions")


@pytest.fixture(scope="module")
def meter() -> Path:
    """The meter's bundle for Lambda's processor."""
    return bundles.bundle_path("meter")


def start(bundle: Path, directory: Path, module: str, services: tuple[str, ...], more: str = "") -> None:
    """Unpack a bundle, and start a handler with nothing else on the path."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(directory)
    code = (
        "import sys, importlib, boto3;"
        f"module = importlib.import_module({module!r}); assert callable(module.handler);"
        f"[boto3.client(service, 'us-east-1') for service in {services!r}];"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        f"assert not loaded & {{'aws_cdk', 'jsii', 'constructs', 'click', 'pydantic', 'yaml'}}, loaded;{more}"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(directory)!r}); {code}"],
        capture_output=True,
        text=True,
        check=False,
        env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", HANDLERS)
def test_each_handler_starts_from_the_bundle_alone(bundle: Path, module: str, tmp_path: Path) -> None:
    start(bundle, tmp_path, module, bundles._SERVICES["functions"])


def test_the_meter_starts_and_counts_from_its_bundle_alone(tmp_path: Path) -> None:
    counts = "import duckdb; assert duckdb.sql('SELECT 6 * 7').fetchall() == [(42,)]"
    bundle = bundles.bundle_path("meter", bundles.this_machine())
    start(bundle, tmp_path, METER, bundles._SERVICES["meter"], counts)


def test_the_meters_bundle_is_lambdas_and_fits(meter: Path) -> None:
    with zipfile.ZipFile(meter) as archive:
        entries = archive.infolist()
        compiled = {e.filename: archive.read(e)[:20] for e in entries if e.filename.endswith(".so")}
    assert [name for name in compiled if "duckdb" in name]
    # The machine of an ELF file stands in its bytes 18 and 19: 183 is 64-bit Arm.
    assert {content[:4] + content[18:20] for content in compiled.values()} == {b"\x7fELF\xb7\x00"}
    assert sum(entry.file_size for entry in entries) < LAMBDA_ZIP_LIMIT / 2


def test_only_the_meter_carries_duckdb(bundle: Path, meter: Path) -> None:
    def names(path: Path) -> set[str]:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())

    assert not [name for name in names(bundle) if "duckdb" in name]
    assert not [name for name in names(meter) if name.startswith(("itsdangerous/", "jinja2/"))]
    own = {name for name in names(meter) if name.startswith("marketplace_constructs/")}
    assert own == {name for name in names(bundle) if name.startswith("marketplace_constructs/")}


def test_the_meters_bundle_is_the_same_bytes_each_time(meter: Path, tmp_path: Path) -> None:
    bundles.build("meter", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == meter.read_bytes()


def test_another_python_or_processor_has_another_bundle(meter: Path) -> None:
    assert bundles.bundle_path("meter", bundles.this_machine()) != meter
    assert bundles.bundle_path("functions", bundles.this_machine()) == bundles.bundle_path("functions")


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
