"""Who may import whom, proven by running without the dependency: no linter sees what an eager import drags in."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import marketplace_constructs
from marketplace_constructs import domain, runtime


def modules(package: object) -> list[str]:
    path, name = package.__path__, package.__name__  # type: ignore[attr-defined]
    return sorted(found.name for found in pkgutil.walk_packages(path, f"{name}."))


def importing(blocked: list[str], names: list[str]) -> subprocess.CompletedProcess[str]:
    code = (
        "import importlib, sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules if sys.modules[name]}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_runtime_needs_no_cdk() -> None:
    done = importing(["aws_cdk", "jsii", "constructs", "click", "uv", "pytest"], modules(runtime))
    assert done.returncode == 0, done.stderr


def test_the_domain_needs_the_standard_library_alone() -> None:
    done = importing(["aws_cdk", "jsii", "constructs", "boto3", "botocore", "aws_lambda_powertools"], modules(domain))
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.strip("[]\n").replace("'", "").split(", "))
    third_party = loaded - set(sys.stdlib_module_names) - {"marketplace_constructs"}
    assert not {name for name in third_party if not name.startswith("_")}


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = importing(["aws_cdk", "jsii", "constructs", "boto3", "botocore"], ["marketplace_constructs"])
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_sorted_and_all_there() -> None:
    names = marketplace_constructs.__all__
    assert list(names) == sorted(names)
    for name in names:
        assert getattr(marketplace_constructs, name) is not None
    assert set(names) <= set(dir(marketplace_constructs))


def test_fails_when_a_name_is_not_public() -> None:
    with pytest.raises(AttributeError):
        _ = marketplace_constructs.whatever  # type: ignore[attr-defined]


def test_the_constructs_need_no_aws_sdk() -> None:
    done = importing(
        ["boto3", "botocore", "aws_lambda_powertools", "click"],
        ["marketplace_constructs.infrastructure.sellable_api", "marketplace_constructs.infrastructure.relay"],
    )
    assert done.returncode == 0, done.stderr
