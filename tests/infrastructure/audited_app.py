"""Runs app.py with every rule pack, and with a stack that every auditor has to object to.

Only their objections to that stack prove that they looked at the others. The documents declare a usage event besides,
so that the auditors see what takes it in.
"""

from __future__ import annotations

import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
from cdk_nag import HIPAASecurityChecks, NIST80053R5Checks, PCIDSS321Checks

from marketplace_constructs import Monetization

ROOT = Path(__file__).parents[2]
synthesize = cdk.App.synth


def audited(app: cdk.App, **options: Any) -> Any:
    canary = cdk.Stack(app, "Canary")
    s3.CfnBucket(canary, "Bucket").add_property_override("AccessControl", "Everybody")
    cdk.Validations.of(app).add_plugins(HIPAASecurityChecks(app), NIST80053R5Checks(app), PCIDSS321Checks(app))
    return synthesize(app, **options)


read_pool = Monetization.from_directory


def with_usage_event(directory: Path, **options: Any) -> Monetization:
    with tempfile.TemporaryDirectory() as scratch:
        pool = shutil.copytree(directory, Path(scratch, "monetization"))
        with (pool / "product.yaml").open("a") as product:
            product.write("Events:\n  corpus.storage: {}\n")
        return read_pool(pool, **options)


sys.path.insert(0, str(ROOT))
cdk.App.synth = audited
Monetization.from_directory = with_usage_event
runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
