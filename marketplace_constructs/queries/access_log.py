"""The access log of the API that is sold: one JSON line per call, and what each member of it is.

Every member is written in quotes, since API Gateway writes ``-`` for what has no value and an unquoted one breaks the
line. Nothing here names a buyer's person, a key's value, a header, a query or the path that was called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "requestTimeEpoch": "$context.requestTimeEpoch",
        "extendedRequestId": "$context.extendedRequestId",
        "requestId": "$context.requestId",
        "apiId": "$context.apiId",
        "stage": "$context.stage",
        "httpMethod": "$context.httpMethod",
        "resourcePath": "$context.resourcePath",
        "status": "$context.status",
        "errorResponseType": "$context.error.responseType",
        "responseLength": "$context.responseLength",
        "responseLatency": "$context.responseLatency",
        "integrationLatency": "$context.integrationLatency",
        "integrationStatus": "$context.integration.status",
        "apiKeyId": "$context.identity.apiKeyId",
        "agreement": "$context.authorizer.agreement",
        "plan": "$context.authorizer.plan",
    }
)
"""Each member of a line, and API Gateway's variable for it.

``extendedRequestId`` tells lines apart, since a client can choose ``requestId``, which a format must hold all the same.
``requestTimeEpoch`` is in milliseconds, UTC; ``responseLength`` in bytes, without headers; latencies in milliseconds.
``agreement`` and ``plan`` (``id@version``) are what the gate puts there.

Source: API Gateway developer guide, access-log variables; botocore 1.44.5, apigateway 2015-07-09, AccessLogSettings
(read 2026-11-21)."""

REQUIRED: Final = ("requestTimeEpoch", "extendedRequestId", "httpMethod", "resourcePath", "status", "agreement", "plan")
"""What a line must hold to be judged at all; absent numbers count as 0."""

ABSENT: Final = "-"
"""What API Gateway writes for a variable without a value."""

FORMAT: Final = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(variable)}" for name, variable in FIELDS.items()) + "}"
"""The stage's access-log format. API Gateway takes at most 3 KB.

Source: API Gateway quotas (read 2026-11-21)."""

REFUSED_BY_GATEWAY: Final = frozenset(
    {
        "ACCESS_DENIED",
        "API_CONFIGURATION_ERROR",
        "AUTHORIZER_CONFIGURATION_ERROR",
        "AUTHORIZER_FAILURE",
        "BAD_REQUEST_BODY",
        "BAD_REQUEST_PARAMETERS",
        "EXPIRED_TOKEN",
        "INVALID_API_KEY",
        "INVALID_SIGNATURE",
        "MISSING_AUTHENTICATION_TOKEN",
        "QUOTA_EXCEEDED",
        "REQUEST_TOO_LARGE",
        "RESOURCE_NOT_FOUND",
        "THROTTLED",
        "UNAUTHORIZED",
        "UNSUPPORTED_MEDIA_TYPE",
        "WAF_FILTERED",
    }
)
"""Values of ``errorResponseType`` of calls that never reached the integration. ``INTEGRATION_FAILURE`` and
``INTEGRATION_TIMEOUT`` did reach it.

Source: API Gateway developer guide, gateway response types (read 2026-11-21)."""
