"""The Lambda bundles: what the functions' code consists of, byte for byte the same whoever builds it.

The wheel carries them, so that a synthesis needs no network. A checkout builds them at first use and keeps them by
their content. Knows nothing of the CDK.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

Bundle = Literal["functions"]

PYTHON: Final = "3.13"
"""The Lambda runtime that the bundles are made for."""

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = _HERE.parent
_SOURCES: Final = ("domain", "runtime")
_SERVICES: Final = (
    "apigateway",
    "cloudformation",
    "dynamodb",
    "marketplace-agreement",
    "marketplace-entitlement",
    "meteringmarketplace",
    "s3",
    "secretsmanager",
    "sesv2",
    "sts",
)
"""The service models that the functions use; botocore carries some 400 more, 30 MB of them."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class BundleError(Exception):
    """A bundle cannot be built here; the text says what to install."""


def cache_directory() -> Path:
    """Where built things are kept: ``$MARKETPLACE_CONSTRUCTS_CACHE``, else the user's cache directory."""
    own = os.environ.get("MARKETPLACE_CONSTRUCTS_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "marketplace-constructs"


def bundle_path(bundle: Bundle) -> Path:
    """The zip file of a bundle: the wheel's own, or one built from this checkout.

    Raises:
        BundleError: It has to be built, and uv is missing or failed.
    """
    packaged = _HERE / f"{bundle}.zip"
    if packaged.exists():
        return packaged
    own = _own_files()
    built = cache_directory() / "bundles" / f"{bundle}-{_digest(bundle, own)}.zip"
    if not built.exists():
        _write(bundle, own, built)
    return built


def build(bundle: Bundle, target: Path) -> None:
    """Build a bundle.

    Args:
        bundle: Which.
        target: The zip file to write; it appears whole or not at all.

    Raises:
        BundleError: uv is missing or failed.
    """
    _write(bundle, _own_files(), target)


def _write(bundle: Bundle, own: Mapping[str, bytes], target: Path) -> None:
    contents = {name: path.read_bytes() for name, path in _library_files(_libraries(bundle))}
    contents.update(own)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, suffix=".partial")
    os.close(handle)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    Path(partial).chmod(0o644)
    Path(partial).replace(target)


def _digest(bundle: Bundle, own: Mapping[str, bytes]) -> str:
    """What the bundle is made of, as 16 hexadecimal digits."""
    digest = hashlib.sha256(_lock(bundle).read_bytes() + Path(__file__).read_bytes())
    for name, content in sorted(own.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _lock(bundle: Bundle) -> Path:
    return _HERE / f"{bundle}.txt"


def _own_files() -> dict[str, bytes]:
    """This package's own part of the bundle, read at one moment."""
    paths = [_PACKAGE / "__init__.py", _PACKAGE / "_version.py"]
    for source in _SOURCES:
        paths += [path for path in (_PACKAGE / source).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {f"marketplace_constructs/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes() for path in paths}


def _library_files(libraries: Path) -> Iterator[tuple[str, Path]]:
    """The libraries less what never runs.

    That is: compiled speed-ups, which would tie the bundle to one processor (their Python counterparts take over),
    models of services that are not used, and records of the installation.
    """
    for path in libraries.rglob("*"):
        parts = path.relative_to(libraries).parts
        if not path.is_file() or path.suffix in {".so", ".pyc", ".pyi"} or parts[0] == "bin":
            continue
        if parts[0].endswith(".dist-info") and path.name not in {
            "METADATA",
            "LICENSE",
            "LICENSE.txt",
            "NOTICE",
        }:
            continue
        if parts[:2] == ("botocore", "data") and len(parts) > 3 and parts[2] not in _SERVICES:
            continue
        if parts[:2] in {("boto3", "data"), ("boto3", "examples")}:
            continue
        yield "/".join(parts), path


def _libraries(bundle: Bundle) -> Path:
    """The locked libraries, installed once per lock."""
    lock = _lock(bundle)
    target = cache_directory() / "libraries" / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if target.exists():
        return target
    try:
        from uv import find_uv_bin  # noqa: PLC0415  # whoever installed the wheel builds nothing and needs no uv
    except ImportError:
        raise BundleError("uv is not installed; run: pip install 'marketplace-constructs[rehearsal]'") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = tempfile.mkdtemp(dir=target.parent)
    command = [
        *(find_uv_bin(), "pip", "install", "--quiet", "--system-certs"),
        *("--target", partial, "--require-hashes"),
        *("--python-platform", "aarch64-manylinux2014", "--python-version", PYTHON),
        *("--python", sys.executable, "--only-binary", ":all:", "--requirement", str(lock)),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own arguments
    if done.returncode:
        shutil.rmtree(partial)
        raise BundleError(f"installing the libraries of {bundle} failed: {done.stderr.strip()}")
    Path(partial).rename(target)
    return target
