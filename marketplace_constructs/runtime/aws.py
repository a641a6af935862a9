"""How the runtime talks to AWS: one configuration, and one answer to what each error means."""

from __future__ import annotations

import gc
import logging
from functools import cache
from typing import Any, Final

# What boto3 is made of, and the models of AWS's services, are many small objects that stay. To look through them for
# garbage takes a tenth of each cold start (python bench/cold_start.py) where Python does it as often as by itself.
gc.set_threshold(100_000)

import boto3  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.exceptions import BotoCoreError, ClientError  # noqa: E402

# At DEBUG, which a function's logging configuration can set, these write whole requests, tokens and keys included.
for _library in ("boto3", "botocore", "urllib3", "aws_lambda_powertools"):
    logging.getLogger(_library).setLevel(logging.WARNING)

CONFIG: Final = Config(
    connect_timeout=3,
    read_timeout=10,
    retries={"mode": "standard", "max_attempts": 4},
    user_agent_extra="marketplace-constructs",
)
"""Short enough that a buyer's page answers within API Gateway's 29 s."""


@cache
def client(service: str, region: str | None = None) -> Any:  # boto3 types clients by the literal name
    """A boto3 client, made at first use, once per function instance."""
    return boto3.client(service, region_name=region, config=CONFIG)  # type: ignore[call-overload]


_TRANSIENT: Final = frozenset(
    {
        "InternalFailure",
        "InternalServerError",
        "InternalServerErrorException",
        "InternalServiceErrorException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestTimeout",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


def error_code(error: BaseException) -> str:
    """AWS's code of an error, or the exception's own name; never its text, which may repeat the request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "Unknown"))
    return type(error).__name__


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: throttling, a fault of AWS, a time-out, a broken connection."""
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return error_code(error) in _TRANSIENT or int(status) >= 500
    return isinstance(error, BotoCoreError)
