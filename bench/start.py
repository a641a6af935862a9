"""One cold start, in a process of its own; started by cold_start.py.

``start.py CODE ENDPOINT list|record HANDLER|start HANDLER|bare CALLS``: the names of the handlers; the clients and
calls that a handler makes; the seconds that its import and its first call take; the same for bare boto3.
"""

# ruff: noqa: PLC0415 - what is imported when is what is measured

from time import perf_counter, process_time

BEGUN, CPU_BEGUN = perf_counter(), process_time()

import sys  # noqa: E402

_, CODE, ENDPOINT, MODE, *REST = sys.argv
sys.path.insert(0, CODE)

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

PACKAGE = "marketplace_constructs.runtime"
TOPIC = "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-abc123"
MESSAGE = {
    "Type": "Notification",
    "MessageId": "1",
    "TopicArn": TOPIC,
    "Message": json.dumps(
        {"action": "subscribe-success", "customer-identifier": "ifAPIcustomer", "product-code": "abc123"}
    ),
    "Timestamp": "2026-11-21T10:00:00.000Z",
}
EVENTS: dict[str, dict[str, Any]] = {
    "gate": {
        "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/prod/GET/v1/nouns",
        "httpMethod": "GET",
        "headers": {"x-api-key": "k" * 40},
        "requestContext": {"resourcePath": "/v1/nouns"},
    },
    "onboarding.handler": {
        "path": "/register",
        "httpMethod": "POST",
        "headers": {"content-type": "application/x-www-form-urlencoded"},
        "multiValueHeaders": {"content-type": ["application/x-www-form-urlencoded"]},
        "queryStringParameters": None,
        "requestContext": {"path": "/prod/register", "stage": "prod", "requestId": "1"},
        "body": "x-amzn-marketplace-token=token",
        "isBase64Encoded": False,
    },
    "subscription_events": {
        "Records": [{"messageId": "1", "eventSource": "aws:sqs", "body": json.dumps(MESSAGE), "attributes": {}}]
    },
    "agreements.reconciliation": {},
    "usage_plan": {
        "RequestType": "Create",
        "ResponseURL": f"{ENDPOINT}/answer",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "ProductCode",
        "ResourceProperties": {"UsagePlanId": "plan", "ProductCode": ""},
    },
    "onboarding.signing_secret": {"Step": "setSecret", "SecretId": "secret", "ClientRequestToken": "version"},
}
os.environ |= {
    "AWS_ACCESS_KEY_ID": "111122223333",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AGREEMENT_KIND": "Legacy" if REST == ["subscription_events"] else "Concurrent",
    "API_URL": "https://api.example.com/prod",
    "CONTACTS_TABLE": "contacts",
    "EXAMPLE_ROUTE": "GET /v1/samples",
    "FACTS_TABLE": "facts",
    "KEYS_TABLE": "keys",
    "KEY_PREFIX": "Sale/",
    "LOGO_URL": "",
    "METERING": "Pipeline",
    "METERING_REGION": "us-east-1",
    "OBSERVE_EVERY_HOURS": "24",
    "PLANS_TABLE": "",
    "PRICING_MODEL": "Subscription",
    "PRODUCT_CODE": "abc123",
    "SELLER_NAME": "Example Corp.",
    "SENDER": "",
    "SIGNING_SECRET": "secret",
    "SUPPORT_CONTACT": "help@example.com",
    "USAGE_PLAN_ID": "plan",
}


def call(name: str) -> tuple[float, float]:
    """Import a handler and call it once; when each was done."""
    handler = importlib.import_module(f"{PACKAGE}.{name}").handler
    imported = perf_counter()
    context = SimpleNamespace(aws_request_id="request-1", get_remaining_time_in_millis=lambda: 60_000)
    handler(EVENTS[name], context)
    return imported, perf_counter()


def record(name: str) -> dict[str, list[list[object]]]:
    """The clients that a handler makes, and the calls."""
    from botocore.client import BaseClient
    from botocore.session import Session

    clients: list[list[object]] = []
    calls: list[list[object]] = []
    sessions: Any = Session
    clients_of_all: Any = BaseClient
    create_client, make_call = sessions.create_client, clients_of_all._make_api_call  # noqa: SLF001

    def create(session: Any, service: str, region_name: str | None = None, **more: Any) -> Any:
        clients.append([service, region_name])
        return create_client(session, service, region_name=region_name, **more)

    def make(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        calls.append([client.meta.service_model.service_name, operation, parameters])
        return make_call(client, operation, parameters)

    sessions.create_client, clients_of_all._make_api_call = create, make  # noqa: SLF001
    call(name)
    return {"clients": clients, "calls": calls}


def bare(path: str) -> tuple[float, float]:
    """The same clients and calls with nothing else; when the import was done, and all of it."""
    import boto3
    from botocore import xform_name
    from botocore.config import Config

    imported = perf_counter()
    recorded = json.loads(Path(path).read_text())
    config = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "max_attempts": 4})
    clients = {service: boto3.client(service, region, config=config) for service, region in recorded["clients"]}
    for service, operation, parameters in recorded["calls"]:
        getattr(clients[service], xform_name(operation))(**parameters)
    return imported, perf_counter()


if MODE == "list":
    print(json.dumps(list(EVENTS)))
elif MODE == "record":
    print(json.dumps(record(REST[0])))
else:
    IMPORTED, CALLED = (call if MODE == "start" else bare)(REST[0])
    print(json.dumps({"import": IMPORTED - BEGUN, "total": CALLED - BEGUN, "cpu": process_time() - CPU_BEGUN}))
