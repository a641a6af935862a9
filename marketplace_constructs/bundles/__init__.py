"""The Lambda bundles: what the functions' code consists of, byte for byte the same whoever builds it.

There are two: ``functions``, which is bound to no processor, and ``meter``, which has DuckDB besides and therefore is a
function of processor and Python version. The wheel carries those for Lambda, so that a synthesis needs no network. A
checkout builds them at first use and keeps them by their content. Knows nothing of the CDK.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

Bundle = Literal["functions", "meter"]
BUNDLES: Final[tuple[Bundle, ...]] = get_args(Bundle)

PYTHON: Final = "3.13"
"""The Lambda runtime that the bundles are made for."""


@dataclass(frozen=True)
class Target:
    """Where compiled libraries are to run.

    Args:
        platform: As uv names it; empty for this machine's own.
        python: Major and minor version.
    """

    platform: str
    python: str

    @property
    def name(self) -> str:
        """In names of files: other targets have other bytes."""
        return f"{self.platform or platform.machine()}-{self.python}"


LAMBDA: Final = Target("aarch64-manylinux_2_28", PYTHON)
"""Source: AWS Lambda developer guide, Python 3.13 runtime: Amazon Linux 2023, glibc 2.34 (read 2026-11-22)."""


CONTEXT: Final = "marketplace-constructs:bundles"
"""Key of an app's context; with the value ``this-machine`` it is synthesized with bundles for this machine."""


def this_machine() -> Target:
    """What a rehearsal runs on."""
    return Target("", f"{sys.version_info.major}.{sys.version_info.minor}")


_HERE: Final = Path(__file__).parent
_PACKAGE: Final = _HERE.parent
_SOURCES: Final = ("domain", "engine", "queries", "runtime")
_SERVICES: Final[Mapping[Bundle, tuple[str, ...]]] = {
    "functions": (
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
    ),
    "meter": ("cloudtrail", "dynamodb", "meteringmarketplace", "s3", "sts"),
}
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


def bundle_path(bundle: Bundle, target: Target = LAMBDA) -> Path:
    """The zip file of a bundle: the wheel's own, or one built from this checkout.

    Args:
        bundle: Which.
        target: Where it is to run. ``functions`` runs anywhere.

    Raises:
        BundleError: It has to be built, and uv is missing or failed.
    """
    packaged = _HERE / f"{bundle}.zip"
    target = _target(bundle, target)
    if target == LAMBDA and packaged.exists():
        return packaged
    own = _own_files()
    built = cache_directory() / "bundles" / f"{bundle}-{_digest(bundle, target, own)}.zip"
    if not built.exists():
        _write(bundle, target, own, built)
    return built


def build(bundle: Bundle, path: Path, target: Target = LAMBDA) -> None:
    """Build a bundle.

    Args:
        bundle: Which.
        path: The zip file to write; it appears whole or not at all.
        target: Where it is to run.

    Raises:
        BundleError: uv is missing or failed.
    """
    _write(bundle, _target(bundle, target), _own_files(), path)


def _target(bundle: Bundle, target: Target) -> Target:
    return target if bundle == "meter" else LAMBDA


def _write(bundle: Bundle, target: Target, own: Mapping[str, bytes], path: Path) -> None:
    contents = {name: file.read_bytes() for name, file in _library_files(bundle, _libraries(bundle, target))}
    contents.update(own)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)
    Path(partial).chmod(0o644)
    Path(partial).replace(path)


def _digest(bundle: Bundle, target: Target, own: Mapping[str, bytes]) -> str:
    """What the bundle is made of, as 16 hexadecimal digits."""
    digest = hashlib.sha256(_lock(bundle).read_bytes() + Path(__file__).read_bytes() + target.name.encode())
    for name, content in sorted(own.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _lock(bundle: Bundle) -> Path:
    return _HERE / f"{bundle}.txt"


@cache
def _own_files() -> Mapping[str, bytes]:
    """This package's own part of every bundle, read at one moment."""
    paths = [_PACKAGE / "__init__.py", _PACKAGE / "_version.py"]
    for source in _SOURCES:
        paths += [path for path in (_PACKAGE / source).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {f"marketplace_constructs/{path.relative_to(_PACKAGE).as_posix()}": path.read_bytes() for path in paths}


def _library_files(bundle: Bundle, libraries: Path) -> Iterator[tuple[str, Path]]:
    """The libraries less what never runs.

    That is: models of services that are not used, and records of the installation; and but for the meter's DuckDB
    compiled code, which would tie the bundle to one processor (Python counterparts take over).
    """
    unused = {".pyc", ".pyi"} if bundle == "meter" else {".so", ".pyc", ".pyi"}
    for path in libraries.rglob("*"):
        parts = path.relative_to(libraries).parts
        if not path.is_file() or path.suffix in unused or parts[0] == "bin":
            continue
        if parts[0].endswith(".dist-info") and path.name not in {
            "METADATA",
            "LICENSE",
            "LICENSE.txt",
            "NOTICE",
        }:
            continue
        if parts[:2] == ("botocore", "data") and len(parts) > 3 and parts[2] not in _SERVICES[bundle]:
            continue
        if parts[:2] in {("boto3", "data"), ("boto3", "examples")}:
            continue
        yield "/".join(parts), path


def _libraries(bundle: Bundle, target: Target) -> Path:
    """The locked libraries, installed once per lock and target."""
    lock = _lock(bundle)
    made_of = lock.read_bytes() + target.name.encode()
    installed = cache_directory() / "libraries" / hashlib.sha256(made_of).hexdigest()[:16]
    if installed.exists():
        return installed
    try:
        from uv import find_uv_bin  # noqa: PLC0415  # whoever installed the wheel builds nothing and needs no uv
    except ImportError:
        raise BundleError("uv is not installed; run: pip install 'marketplace-constructs[rehearsal]'") from None
    installed.parent.mkdir(parents=True, exist_ok=True)
    partial = tempfile.mkdtemp(dir=installed.parent)
    command = [
        *(find_uv_bin(), "pip", "install", "--quiet", "--system-certs"),
        *("--target", partial, "--require-hashes"),
        *(("--python-platform", target.platform) if target.platform else ()),
        *("--python-version", target.python),
        *("--python", sys.executable, "--only-binary", ":all:", "--requirement", str(lock)),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # our own arguments
    if done.returncode:
        shutil.rmtree(partial)
        raise BundleError(f"installing the libraries of {bundle} failed: {done.stderr.strip()}")
    Path(partial).rename(installed)
    return installed
