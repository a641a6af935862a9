"""The Marketplace product code on a usage plan, which CloudFormation cannot set.

A custom resource whose physical id is the usage plan's. It reads before it writes, because UpdateUsagePlan may be
called once in 20 seconds per account, CloudFormation's own calls included.

Source: API Gateway developer guide, quotas; CloudFormation registry schema of AWS::ApiGateway::UsagePlan, which has
no product code (both read 2026-11-21).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.runtime.aws import client, error_code, is_transient
from marketplace_constructs.runtime.custom_resource import respond
from marketplace_constructs.runtime.observability import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_apigateway import APIGatewayClient

UPDATE_SECONDS: Final = 20
"""UpdateUsagePlan: one call in so many seconds per account, not raisable."""
_RESERVE_SECONDS: Final = 45
"""Kept to answer CloudFormation, which otherwise waits for an hour."""


def read_product_code(api_gateway: APIGatewayClient, usage_plan_id: str) -> str:
    """The product code on the plan; empty where there is none."""
    return api_gateway.get_usage_plan(usagePlanId=usage_plan_id).get("productCode", "")


def write_product_code(api_gateway: APIGatewayClient, usage_plan_id: str, product_code: str) -> None:
    """Set the product code; an empty one clears it.

    Clearing takes the operation ``remove`` without a value. Source: the Terraform AWS provider, usage_plan.go, as
    AWS's table of patch operations does not list the path [UNCONF].
    """
    path = "/productCode"
    api_gateway.update_usage_plan(
        usagePlanId=usage_plan_id,
        patchOperations=[
            {"op": "replace", "path": path, "value": product_code} if product_code else {"op": "remove", "path": path}
        ],
    )


def settle_product_code(
    api_gateway: APIGatewayClient,
    usage_plan_id: str,
    product_code: str,
    *,
    seconds_left: Callable[[], float],
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Make the plan carry the product code; whether it had to be changed.

    Waits out AWS's throttling while there is time.

    Raises:
        ClientError: AWS refused, or throttled until the time was up.
    """
    while True:
        try:
            if read_product_code(api_gateway, usage_plan_id) == product_code:
                return False
            write_product_code(api_gateway, usage_plan_id, product_code)
        except (ClientError, BotoCoreError) as error:
            pause = UPDATE_SECONDS * random.uniform(1, 1.5)  # noqa: S311  # jitter, so that several plans do not meet
            if not is_transient(error) or seconds_left() < pause + _RESERVE_SECONDS:
                raise
            logger.info("throttled", extra={"usage_plan": usage_plan_id, "error": error_code(error)})
            sleep(pause)
        else:
            return True


def handle(
    event: Mapping[str, Any],
    *,
    api_gateway: APIGatewayClient,
    is_rolling_back: Callable[[str], bool],
    seconds_left: Callable[[], float],
    sleep: Callable[[float], None] = time.sleep,
) -> str | None:
    """Carry out one request of CloudFormation.

    Returns:
        Why it failed, or None. A deletion and a rollback never fail: the one must not keep a stack from going, the
        other must not leave it stuck, and the reconciliation repairs within the hour what they could not.
    """
    properties = event["ResourceProperties"]
    usage_plan_id = properties["UsagePlanId"]
    is_deletion = event["RequestType"] == "Delete"
    try:
        changed = settle_product_code(
            api_gateway,
            usage_plan_id,
            "" if is_deletion else properties["ProductCode"],
            seconds_left=seconds_left,
            sleep=sleep,
        )
    except (ClientError, BotoCoreError) as error:
        code = error_code(error)
        logger.error("product code not settled", extra={"usage_plan": usage_plan_id, "error": code})
        if is_deletion or is_rolling_back(event["StackId"]):
            return None
        return (
            f"MP-PLAN-20: product code of usage plan {usage_plan_id}, got {code} from API Gateway; expected it to be "
            "set, because without it nobody is billed; deploy again, one stack at a time"
        )
    logger.info("product code settled", extra={"usage_plan": usage_plan_id, "changed": changed})
    return None


def _is_rolling_back(stack_id: str) -> bool:
    try:
        stacks = client("cloudformation").describe_stacks(StackName=stack_id)["Stacks"]
    except (ClientError, BotoCoreError) as error:
        logger.warning("stack status unknown", extra={"error": error_code(error)})
        return False
    return any("ROLLBACK" in stack["StackStatus"] for stack in stacks)


def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """Entry point of the function. It answers whatever happens, since CloudFormation would wait for an hour."""
    try:
        failure = handle(
            event,
            api_gateway=client("apigateway"),
            is_rolling_back=_is_rolling_back,
            seconds_left=lambda: context.get_remaining_time_in_millis() / 1000,
        )
    except Exception as error:  # noqa: BLE001  # see above
        logger.exception("unexpected")
        failure = f"MP-PLAN-21: the product code function failed with {error_code(error)}; see its log"
    respond(event, failure, physical_id=event["ResourceProperties"]["UsagePlanId"])
