"""What the package offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import marketplace_constructs


def test_every_public_name_is_there_and_sorted() -> None:
    assert marketplace_constructs.__all__ == sorted(marketplace_constructs.__all__)
    assert dir(marketplace_constructs) == marketplace_constructs.__all__
    for name in marketplace_constructs.__all__:
        value = getattr(marketplace_constructs, name)
        assert name == getattr(value, "__name__", "__version__")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, marketplace_constructs; marketplace_constructs.Product; marketplace_constructs.Monetization;"
        "print(sorted({'aws_cdk', 'jsii', 'constructs', 'boto3', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_fails_when_a_name_is_not_public() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Plans'"):
        marketplace_constructs.Plans  # noqa: B018  # reading it is the test
