"""What holds of each plan from which hour on: a custom resource that records what a deployment brings.

Each plan's table becomes an object named by its digest, and each change a version that holds from a whole hour on.
Nothing is overwritten, so that a rollback is one more version and the hours that are over keep theirs.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.domain.plan_versions import PlanVersion, due_versions
from marketplace_constructs.runtime.aws import client, error_code
from marketplace_constructs.runtime.clock import Clock, utc_now
from marketplace_constructs.runtime.custom_resource import respond
from marketplace_constructs.runtime.observability import logger
from marketplace_constructs.runtime.plan_tables import PlanTables, S3PlanTables
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions, PlanVersions
from marketplace_constructs.runtime.settings import PlansSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_ROUNDS: Final = 5


def handle(event: Mapping[str, Any], *, versions: PlanVersions, tables: PlanTables, clock: Clock) -> str | None:
    """Carry out one request of CloudFormation.

    Returns:
        Why it failed, or None. A deletion changes nothing: what was billed must remain explicable. A rollback may fail,
        since plans that it leaves undone would bill by what was withdrawn.
    """
    if event["RequestType"] == "Delete":
        return None
    try:
        deployed = [_deployed(properties, tables) for properties in event["ResourceProperties"]["Plans"]]
        for _ in range(_ROUNDS):
            due = due_versions(versions.versions(), deployed, now=clock())
            if all(versions.add(version) for version in due):
                break
        else:
            return (
                f"MP-PLAN-22: plan versions, got others while they were recorded, {_ROUNDS} times; expected one "
                "deployment at a time; deploy again"
            )
    except (ClientError, BotoCoreError) as error:
        logger.error("plan versions not recorded", extra={"error": error_code(error)})
        return (
            f"MP-PLAN-22: plan versions, got {error_code(error)} from AWS; expected them to be recorded, because "
            "calls are let in and billed by them; deploy again"
        )
    for version in due:
        logger.info(
            "plan version recorded",
            extra={"plan": version.plan, "holds_from": version.holds_from.isoformat(), "digest": version.digest},
        )
    return None


def _deployed(properties: Mapping[str, str], tables: PlanTables) -> tuple[PlanVersion, datetime | None]:
    """One plan of the request, its table kept, and the hour from which it is to hold at the earliest."""
    text = gzip.decompress(base64.b64decode(properties["Table"])).decode()
    table = PlanTable.from_text(text)
    effective_from = properties.get("EffectiveFrom")
    earliest = datetime.fromisoformat(effective_from).astimezone(UTC) if effective_from else None
    version = PlanVersion(
        plan=properties["Plan"],
        holds_from=datetime.min.replace(tzinfo=UTC),
        digest=tables.put(text),
        usage_plan_id=properties["UsagePlanId"],
        segment=table.segment,
        channel=table.channel,
        assign_to=properties["AssignTo"],
        routes=frozenset(f"{method} {path}" for method, path in table.allowed),
    )
    return version, earliest


@cache
def _settings() -> PlansSettings:
    return PlansSettings.from_environment()


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Entry point of the function. It answers whatever happens, since CloudFormation would wait for an hour."""
    del context
    physical_id = event.get("PhysicalResourceId", "plans")
    try:
        settings = _settings()
        physical_id = settings.plans_table
        failure = handle(
            event,
            versions=DynamoDbPlanVersions(client("dynamodb"), settings.plans_table),
            tables=S3PlanTables(client("s3"), settings.tables_bucket),
            clock=utc_now,
        )
    except Exception as error:  # noqa: BLE001  # see above
        logger.exception("unexpected")
        failure = f"MP-PLAN-23: the plans function failed with {error_code(error)}; see its log"
    respond(event, failure, physical_id=physical_id)
