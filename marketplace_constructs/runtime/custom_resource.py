"""How a custom resource answers CloudFormation."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from typing import Any


def respond(event: Mapping[str, Any], failure: str | None, *, physical_id: str) -> None:
    """Answer CloudFormation at the address that it gave.

    Source: CloudFormation user guide, custom resource request and response objects (read 2026-11-21).

    Args:
        event: The request.
        failure: Why it failed, or None.
        physical_id: Names the resource; another one than before makes CloudFormation delete the former.
    """
    answer = {
        "Status": "FAILED" if failure else "SUCCESS",
        "Reason": failure or "done",
        "PhysicalResourceId": physical_id,
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    request = urllib.request.Request(  # noqa: S310  # the address is CloudFormation's
        event["ResponseURL"], data=json.dumps(answer).encode(), method="PUT", headers={"content-type": ""}
    )
    urllib.request.urlopen(request, timeout=30).close()  # noqa: S310
