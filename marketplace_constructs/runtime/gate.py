"""The gate: who may call the sold API.

A request authorizer. The API key identifies the caller; the gate says whether the key's agreement grants access, and
puts the agreement into the request's context, where the access log finds it. It reads one item per answer.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries, GateEntries, GateEntry
from marketplace_constructs.runtime.aws import client
from marketplace_constructs.runtime.clock import Clock, utc_now
from marketplace_constructs.runtime.settings import GateSettings

HEADER: Final = "x-api-key"


def answer(event: Mapping[str, object], *, entries: GateEntries, clock: Clock) -> dict[str, object]:
    """Answer one authorizer request.

    The policy covers the method on every path, because a cached answer is given for other paths of the same route,
    which a narrower one would refuse. It opens no other route: the cache is keyed by key, method and resource path.
    """
    headers = event.get("headers")
    value = next(
        (str(v) for name, v in headers.items() if str(name).lower() == HEADER and v)
        if isinstance(headers, Mapping)
        else iter(()),
        "",
    )
    entry = entries.get(hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()) if value else None
    is_open = entry is not None and entry.opens(clock())
    api_arn, stage, method, *_ = str(event["methodArn"]).split("/")
    if not is_open:
        _log(entry, event)
    return {
        "principalId": entry.agreement if entry else "unknown",
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Action": "execute-api:Invoke",
                    "Effect": "Allow" if is_open else "Deny",
                    "Resource": f"{api_arn}/{stage}/{method}/*",
                }
            ],
        },
        "context": {"agreement": entry.agreement} if entry else {},
    }


def _log(entry: GateEntry | None, event: Mapping[str, object]) -> None:
    """One line per refusal, in JSON. Written by hand, since a logging library would double the cold start."""
    context = event.get("requestContext")
    route = context.get("resourcePath") if isinstance(context, Mapping) else None
    line = {
        "level": "INFO",
        "message": "refused",
        "reason": "shut" if entry else "unknown key",
        "agreement": entry.agreement if entry else None,
        "method": event.get("httpMethod"),
        "resource_path": route,
    }
    sys.stdout.write(json.dumps(line) + "\n")


@cache
def _entries() -> GateEntries:
    settings = GateSettings.from_environment()
    return DynamoDbGateEntries(client("dynamodb"), settings.keys_table)


def handler(
    event: Mapping[str, object],
    context: object,
    *,
    entries: Callable[[], GateEntries] = _entries,
    clock: Clock = utc_now,
) -> dict[str, object]:
    """Entry point of the function."""
    del context
    return answer(event, entries=entries(), clock=clock)
