"""What the product code function works with: API Gateway's usage plan, and a function's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from botocore.exceptions import ClientError


class ApiGateway:
    """The two calls of API Gateway that the custom resource makes, with its throttling."""

    def __init__(self, product_code: str | None = None, *, throttled: int = 0, error: str | None = None) -> None:
        self.plan = {"id": "plan12345", **({"productCode": product_code} if product_code else {})}
        self.throttled = throttled
        self.error = error
        self.updates = 0

    def get_usage_plan(self, *, usagePlanId: str) -> Mapping[str, str]:  # noqa: N803
        if usagePlanId != self.plan["id"]:
            raise ClientError({"Error": {"Code": "NotFoundException"}}, "GetUsagePlan")
        return self.plan

    def update_usage_plan(self, *, usagePlanId: str, patchOperations: Sequence[Mapping[str, str]]) -> None:  # noqa: N803
        assert usagePlanId == self.plan["id"]
        self.updates += 1
        if self.throttled:
            self.throttled -= 1
            raise ClientError({"Error": {"Code": "TooManyRequestsException"}}, "UpdateUsagePlan")
        if self.error:
            raise ClientError({"Error": {"Code": self.error}}, "UpdateUsagePlan")
        (operation,) = patchOperations
        assert operation["path"] == "/productCode"
        if operation["op"] == "remove":
            self.plan.pop("productCode", None)
        else:
            self.plan["productCode"] = operation["value"]


class Waiting:
    """A function's time, which passes only by sleeping."""

    def __init__(self, seconds: float = 900) -> None:
        self.left = seconds
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.left -= seconds
