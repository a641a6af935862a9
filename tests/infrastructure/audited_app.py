"""Runs app.py with every rule pack, and with a stack that every auditor has to object to.

Only their objections to that stack prove that they looked at the others.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
from cdk_nag import HIPAASecurityChecks, NIST80053R5Checks, PCIDSS321Checks

ROOT = Path(__file__).parents[2]
synthesize = cdk.App.synth


def audited(app: cdk.App, **options: Any) -> Any:
    canary = cdk.Stack(app, "Canary")
    s3.CfnBucket(canary, "Bucket").add_property_override("AccessControl", "Everybody")
    cdk.Validations.of(app).add_plugins(HIPAASecurityChecks(app), NIST80053R5Checks(app), PCIDSS321Checks(app))
    return synthesize(app, **options)


sys.path.insert(0, str(ROOT))
cdk.App.synth = audited
runpy.run_path(str(ROOT / "app.py"), run_name="__main__")
