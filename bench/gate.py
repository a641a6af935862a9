"""The gate's own work per call, and how many reads it makes: over memory, over a stubbed wire, over the local AWS."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from figures import median, own_peak_mb, show
from local import local_sale

from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries, GateEntry
from marketplace_constructs.runtime.aws import CONFIG
from marketplace_constructs.runtime.gate import handler
from marketplace_constructs.runtime.memory import MemoryGateEntries

KEY = "k" * 40
ENTRY = GateEntry(
    key_sha256=hashlib.sha256(KEY.encode()).hexdigest(),
    agreement="agmt-0example0one",
    is_open=True,
    facts_seen=5,
    open_until=datetime(2099, 1, 1, tzinfo=UTC),
)
EVENT = {
    "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/prod/GET/v1/nouns",
    "httpMethod": "GET",
    "headers": {"X-Api-Key": KEY},
    "requestContext": {"resourcePath": "/v1/nouns"},
}


class CountingEntries(MemoryGateEntries):
    reads = 0

    def get(self, key_sha256: str) -> GateEntry | None:
        self.reads += 1
        return super().get(key_sha256)


class Wire:
    """Answers DynamoDB's reads inside the process: boto3 signs, sends and parses as it does in Lambda."""

    def __init__(self) -> None:
        self.reads = 0
        self.client = boto3.client(
            "dynamodb", "us-east-1", config=CONFIG, aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.client.meta.events.register("before-send", self.answer)
        item = {
            "key_sha256": {"S": ENTRY.key_sha256},
            "agreement": {"S": ENTRY.agreement},
            "is_open": {"BOOL": True},
            "facts_seen": {"N": "5"},
            "open_until": {"S": "2099-01-01T00:00:00+00:00"},
        }
        self.body = json.dumps({"Item": item}).encode()

    def answer(self, request: Any, **_: object) -> Any:
        self.reads += 1
        return AWSResponse(request.url, 200, HTTPHeaders(), _Raw(self.body))


class _Raw(io.BytesIO):
    def stream(self, *_: object, **__: object) -> list[bytes]:
        return [self.read()]


def call(entries: Any) -> None:
    answer: Any = handler(EVENT, None, entries=lambda: entries, plans=lambda: None)
    assert answer["policyDocument"]["Statement"][0]["Effect"] == "Allow"


def milliseconds(work: Callable[[], object], calls: int) -> list[float]:
    """How long each call took; the first few, which warm up, are not among them."""
    for _ in range(20):
        work()
    taken = []
    for _ in range(calls):
        begun = perf_counter()
        work()
        taken.append((perf_counter() - begun) * 1000)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    calls = parser.parse_args().calls
    memory = CountingEntries()
    memory.put(ENTRY)
    own = milliseconds(partial(call, memory), calls)
    show("gate, per call over memory", median(own), "ms", aim=2, limit="nothing of boto3 in it")
    wire = Wire()
    stubbed = milliseconds(partial(call, DynamoDbGateEntries(wire.client, "keys")), calls)
    show(
        "gate, per call over a stubbed wire",
        median(stubbed),
        "ms",
        aim=2,
        limit="what boto3 does with a request and its answer is in it; the network is not",
        slowest_in_100=sorted(stubbed)[len(stubbed) * 99 // 100],
    )
    reads = {memory.reads / (calls + 20), wire.reads / (calls + 20)}
    show("reads of the gate per call", max(reads), "reads", aim=1, limit="exactly one", fewest=min(reads))
    with local_sale() as sale:
        client = sale.aws.client("dynamodb")
        entries = DynamoDbGateEntries(client, "keys")
        entries.put(ENTRY)
        key = {"key_sha256": {"S": ENTRY.key_sha256}}
        local, bare = [], []
        for _ in range(5):
            local += milliseconds(partial(call, entries), calls // 10)
            bare += milliseconds(partial(client.get_item, TableName="keys", Key=key, ConsistentRead=True), calls // 10)
    show(
        "gate, per call over the local AWS",
        median(local),
        "ms",
        ratio=median(local) / median(bare),
        of=f"boto3's bare GetItem of the same item, {median(bare):.3f} ms",
    )
    show("peak memory of the gate's benchmark", own_peak_mb(), "MB")


if __name__ == "__main__":
    main()
