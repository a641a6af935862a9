"""The product code on the usage plan: without it nobody is billed, with a stale one the wrong listing is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from usage_plan_aws import ApiGateway, Waiting

from marketplace_constructs.runtime.usage_plan import handle

STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/Sale/1"


def request(kind: str, product_code: str = "abc123", plan: str = "plan12345") -> dict[str, object]:
    return {
        "RequestType": kind,
        "StackId": STACK,
        "ResourceProperties": {"UsagePlanId": plan, "ProductCode": product_code},
    }


def run(
    api: ApiGateway,
    event: Mapping[str, object],
    waiting: Waiting | None = None,
    *,
    rolling_back: bool = False,
) -> str | None:
    waiting = waiting or Waiting()
    return handle(
        event,
        api_gateway=api,  # type: ignore[arg-type]
        is_rolling_back=lambda stack: stack == STACK and rolling_back,
        seconds_left=lambda: waiting.left,
        sleep=waiting.sleep,
    )


@pytest.mark.parametrize("kind", ["Create", "Update"])
def test_the_code_is_set(kind: str) -> None:
    api = ApiGateway("old")
    assert run(api, request(kind)) is None
    assert api.plan["productCode"] == "abc123"


def test_an_equal_code_costs_no_update() -> None:
    api = ApiGateway("abc123")
    assert run(api, request("Update")) is None
    assert api.updates == 0


def test_throttling_is_waited_out() -> None:
    api, waiting = ApiGateway(throttled=3), Waiting()
    assert run(api, request("Create"), waiting) is None
    assert api.plan["productCode"] == "abc123"
    assert len(waiting.slept) == 3
    assert all(seconds >= 20 for seconds in waiting.slept)


def test_a_code_that_cannot_be_set_fails_the_deployment_in_time() -> None:
    api, waiting = ApiGateway(throttled=1000), Waiting(120)
    failure = run(api, request("Create"), waiting)
    assert failure is not None
    assert "MP-PLAN-20" in failure
    assert "TooManyRequestsException" in failure
    assert waiting.left >= 20


def test_a_rollback_is_never_blocked() -> None:
    assert run(ApiGateway(error="BadRequestException"), request("Update"), rolling_back=True) is None
    assert run(ApiGateway(error="BadRequestException"), request("Update"), rolling_back=False) is not None


def test_deleting_clears_the_code() -> None:
    api = ApiGateway("abc123")
    assert run(api, request("Delete")) is None
    assert "productCode" not in api.plan


@pytest.mark.parametrize("api", [ApiGateway(), ApiGateway("abc123", error="BadRequestException")])
def test_deleting_never_fails(api: ApiGateway) -> None:
    assert run(api, request("Delete", plan="gone")) is None
    assert run(api, request("Delete")) is None
