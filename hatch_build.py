"""Puts the Lambda bundles into the wheel, so that whoever installs it needs no network to synthesize."""

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BundleHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's class is generic only for itself
    """Builds each bundle into the package's folder while a wheel is made, and takes it away afterwards."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the bundles; an editable install builds them at first use instead."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from marketplace_constructs import bundles  # noqa: PLC0415  # only now is it on the path

        for bundle in bundles.BUNDLES:
            path = Path(self.directory) / "bundles" / f"{bundle}.zip"
            bundles.build(bundle, path)
            build_data["force_include"][str(path)] = f"marketplace_constructs/bundles/{bundle}.zip"
