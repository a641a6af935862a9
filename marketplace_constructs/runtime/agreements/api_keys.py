"""API Gateway's API keys and their membership in the usage plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import ClientError

from marketplace_constructs.runtime.aws import error_code

if TYPE_CHECKING:
    from mypy_boto3_apigateway import APIGatewayClient


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """An API key as API Gateway holds it, without its value.

    Args:
        customer_id: Native metering reports the key's calls under it; empty otherwise.
    """

    id: str
    name: str
    enabled: bool
    customer_id: str = ""


class ApiKeys(Protocol):
    """The account's API keys. Every method may be repeated: what is so already is left so."""

    def create(self, *, name: str, value: str, customer_id: str) -> str:
        """Make an enabled key of that value, 20..128 characters; its id."""
        ...

    def get(self, api_key_id: str) -> ApiKey | None:
        """The key of an id; None where there is none."""
        ...

    def named(self, prefix: str) -> Iterator[ApiKey]:
        """Every key whose name begins so."""
        ...

    def set_enabled(self, api_key_id: str, *, enabled: bool) -> None:
        """Let a key in, or shut it out. A key that is gone counts as shut out."""
        ...

    def set_customer_id(self, api_key_id: str, customer_id: str) -> None:
        """Say whose calls the key's calls are."""
        ...

    def delete(self, api_key_id: str) -> None:
        """Remove a key for good."""
        ...

    def members(self, usage_plan_id: str) -> frozenset[str]:
        """Ids of the keys in a plan."""
        ...

    def is_member(self, usage_plan_id: str, api_key_id: str) -> bool:
        """Whether a key is in a plan."""
        ...

    def join(self, usage_plan_id: str, api_key_id: str) -> None:
        """Put a key into a plan."""
        ...

    def leave(self, usage_plan_id: str, api_key_id: str) -> None:
        """Take a key out of a plan."""
        ...


class ApiGatewayKeys:
    """The port over API Gateway's control plane, which takes ten calls a second in all, and five CreateApiKey.

    Source: API Gateway developer guide, quotas (read 2026-11-21).
    """

    def __init__(self, client: APIGatewayClient) -> None:
        self._client: Final = client

    def create(self, *, name: str, value: str, customer_id: str) -> str:
        """Make an enabled key."""
        if customer_id:
            return self._client.create_api_key(name=name, value=value, enabled=True, customerId=customer_id)["id"]
        return self._client.create_api_key(name=name, value=value, enabled=True)["id"]

    def get(self, api_key_id: str) -> ApiKey | None:
        """The key of an id."""
        try:
            key = self._client.get_api_key(apiKey=api_key_id, includeValue=False)
        except ClientError as error:
            if error_code(error) == "NotFoundException":
                return None
            raise
        return _read(key)

    def named(self, prefix: str) -> Iterator[ApiKey]:
        """Every key whose name begins so."""
        pages = self._client.get_paginator("get_api_keys").paginate(
            nameQuery=prefix, includeValues=False, PaginationConfig={"PageSize": 500}
        )
        # nameQuery's matching is not specified further, so the prefix is checked here too.
        return (_read(key) for page in pages for key in page["items"] if key.get("name", "").startswith(prefix))

    def set_enabled(self, api_key_id: str, *, enabled: bool) -> None:
        """Let a key in, or shut it out."""
        try:
            self._patch(api_key_id, "/enabled", "true" if enabled else "false")
        except ClientError as error:
            if enabled or error_code(error) != "NotFoundException":
                raise

    def set_customer_id(self, api_key_id: str, customer_id: str) -> None:
        """Say whose calls the key's calls are."""
        self._patch(api_key_id, "/customerId", customer_id)

    def delete(self, api_key_id: str) -> None:
        """Remove a key for good."""
        try:
            self._client.delete_api_key(apiKey=api_key_id)
        except ClientError as error:
            if error_code(error) != "NotFoundException":
                raise

    def members(self, usage_plan_id: str) -> frozenset[str]:
        """Ids of the keys in a plan; a plan that is gone has none."""
        pages = self._client.get_paginator("get_usage_plan_keys").paginate(
            usagePlanId=usage_plan_id, PaginationConfig={"PageSize": 500}
        )
        try:
            return frozenset(key["id"] for page in pages for key in page["items"])
        except ClientError as error:
            if error_code(error) == "NotFoundException":
                return frozenset()
            raise

    def is_member(self, usage_plan_id: str, api_key_id: str) -> bool:
        """Whether a key is in a plan."""
        try:
            self._client.get_usage_plan_key(usagePlanId=usage_plan_id, keyId=api_key_id)
        except ClientError as error:
            if error_code(error) == "NotFoundException":
                return False
            raise
        return True

    def join(self, usage_plan_id: str, api_key_id: str) -> None:
        """Put a key into a plan."""
        try:
            self._client.create_usage_plan_key(usagePlanId=usage_plan_id, keyId=api_key_id, keyType="API_KEY")
        except ClientError as error:
            if error_code(error) != "ConflictException" or not self.is_member(usage_plan_id, api_key_id):
                raise

    def leave(self, usage_plan_id: str, api_key_id: str) -> None:
        """Take a key out of a plan."""
        try:
            self._client.delete_usage_plan_key(usagePlanId=usage_plan_id, keyId=api_key_id)
        except ClientError as error:
            if error_code(error) != "NotFoundException":
                raise

    def _patch(self, api_key_id: str, path: str, value: str) -> None:
        self._client.update_api_key(
            apiKey=api_key_id, patchOperations=[{"op": "replace", "path": path, "value": value}]
        )


def _read(key: object) -> ApiKey:
    assert isinstance(key, dict)
    return ApiKey(
        id=key["id"],
        name=key.get("name", ""),
        enabled=key.get("enabled", False),
        customer_id=key.get("customerId", ""),
    )
