"""The gate: who may call the sold API.

A request authorizer. The API key identifies the caller; the gate says whether the key's agreement grants access, and
whether its plan allows the route, and puts both into the request's context, where the access log finds them. It reads
one item per answer, and once a minute what holds of a plan.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cache
from typing import Final

from marketplace_constructs.domain.plan_versions import PlanVersion
from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries, GateEntries
from marketplace_constructs.runtime.aws import client
from marketplace_constructs.runtime.clock import Clock, utc_now
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions, PlanVersions, is_fresh
from marketplace_constructs.runtime.settings import GateSettings

HEADER: Final = "x-api-key"


class RecentPlans:
    """What holds of each plan, read once a minute and anew in each hour."""

    def __init__(self, versions: PlanVersions) -> None:
        self._versions: Final = versions
        self._read: dict[str, tuple[datetime, PlanVersion | None]] = {}

    def holding(self, plan: str, now: datetime) -> PlanVersion | None:
        """What holds now; None where nothing does.

        Raises:
            Exception: Whatever AWS answered; API Gateway then shuts the caller out, and asks again.
        """
        read_at, version = self._read.get(plan, (None, None))
        if not is_fresh(read_at, now):
            version = self._versions.holding(plan, now)
            self._read[plan] = now, version
        return version


def answer(
    event: Mapping[str, object], *, entries: GateEntries, clock: Clock, plans: RecentPlans | None = None
) -> dict[str, object]:
    """Answer one authorizer request.

    The policy covers the method on every path, because a cached answer is given for other paths of the same route,
    which a narrower one would refuse. It opens no other route: the cache is keyed by key, method and resource path.

    Args:
        event: The request.
        entries: What is known of the keys.
        clock: The present moment.
        plans: What the plans allow. None where the product is sold without documents: every guarded route is open.
    """
    headers = event.get("headers")
    value = next(
        (str(v) for name, v in headers.items() if str(name).lower() == HEADER and v)
        if isinstance(headers, Mapping)
        else iter(()),
        "",
    )
    now = clock()
    entry = entries.get(hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()) if value else None
    refusal = "unknown key" if entry is None else "" if entry.opens(now) else "shut"
    context: dict[str, object] = {"agreement": entry.agreement} if entry else {}
    if entry is not None and not refusal and plans is not None:
        plan = entry.plan_at(now)
        version = plans.holding(plan, now) if plan else None
        if plan:
            context["plan"] = plan
        if version is None:
            refusal = "no plan"
        elif f"{event.get('httpMethod')} {_resource_path(event)}" not in version.routes:
            refusal = "not in plan"
    api_arn, stage, method, *_ = str(event["methodArn"]).split("/")
    if refusal:
        _log(refusal, context, event)
    return {
        "principalId": entry.agreement if entry else "unknown",
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Action": "execute-api:Invoke",
                    "Effect": "Deny" if refusal else "Allow",
                    "Resource": f"{api_arn}/{stage}/{method}/*",
                }
            ],
        },
        "context": context,
    }


def _resource_path(event: Mapping[str, object]) -> object:
    """The route's template, as the access log and the plan's table have it."""
    context = event.get("requestContext")
    return context.get("resourcePath") if isinstance(context, Mapping) else None


def _log(reason: str, context: Mapping[str, object], event: Mapping[str, object]) -> None:
    """One line per refusal, in JSON. Written by hand, since a logging library would double the cold start."""
    line = {
        "level": "INFO",
        "message": "refused",
        "reason": reason,
        "agreement": context.get("agreement"),
        "plan": context.get("plan"),
        "method": event.get("httpMethod"),
        "resource_path": _resource_path(event),
    }
    sys.stdout.write(json.dumps(line) + "\n")


@cache
def _settings() -> GateSettings:
    return GateSettings.from_environment()


@cache
def _entries() -> GateEntries:
    return DynamoDbGateEntries(client("dynamodb"), _settings().keys_table)


@cache
def _plans() -> RecentPlans | None:
    table = _settings().plans_table
    return RecentPlans(DynamoDbPlanVersions(client("dynamodb"), table)) if table else None


def handler(
    event: Mapping[str, object],
    context: object,
    *,
    entries: Callable[[], GateEntries] = _entries,
    plans: Callable[[], RecentPlans | None] = _plans,
    clock: Clock = utc_now,
) -> dict[str, object]:
    """Entry point of the function."""
    del context
    return answer(event, entries=entries(), plans=plans(), clock=clock)
