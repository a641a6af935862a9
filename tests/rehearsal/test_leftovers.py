"""What a full rehearsal leaves behind holds no registration token, no key and no address: everything is searched."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any
from urllib.parse import quote

import pytest
from permission_plays import API_KEYS, CONTACTS_TABLE, KEYS_TABLE, ONBOARDING
from permissions import grants_of, play_for, taken_away

from marketplace_constructs.domain.metrics import METRICS_NAMESPACE
from marketplace_constructs.rehearsal.browser import Answer
from marketplace_constructs.rehearsal.journey import Journey, patience
from marketplace_constructs.rehearsal.scenarios import SCENARIOS
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import CONTACT, TOKEN_FIELD, log_messages

pytestmark = pytest.mark.rehearsal

FAILS_WITH_A_SECRET_AT_HAND = {
    (ONBOARDING, "aws-marketplace:ResolveCustomer *"),
    (ONBOARDING, f"dynamodb:PutItem {CONTACTS_TABLE}"),
    (ONBOARDING, f"apigateway:POST {API_KEYS}"),
    ("GateFunction", f"dynamodb:GetItem {KEYS_TABLE}"),
}


@pytest.fixture(scope="module")
def journeys(stage: Stage, journey: Callable[[str], Journey]) -> list[Journey]:
    """Every scenario, and then exceptions where a token, an address or a key is an argument."""
    # Thousands of calls would leave nothing behind that hundreds do not.
    played = [
        journey(name) for name, one in SCENARIOS.items() if name != "metering-large" and stage.sales_of(one.needs)
    ]
    sale = stage.sale(SaleKind.NATIVE)
    for grant in grants_of(sale.stack.name, sale.stack.template):
        if (grant.role, grant.name) in FAILS_WITH_A_SECRET_AT_HAND:
            play = play_for(grant, sale.settings)
            assert play is not None
            with taken_away(stage, sale, grant), patience(1):
                assert play.breaks(stage, sale)
    stage.visitors[-1].come_from_marketplace({TOKEN_FIELD: f"{stage.visitors[-1].tokens[0]}x"})
    # Nobody can read it, so that it stays.
    for queue in ("QueueUrl", "DeadLetterQueueUrl"):
        stage.aws.client("sqs").send_message(QueueUrl=sale.stack.outputs[queue], MessageBody="no notification")
    return played


def secrets_of(stage: Stage) -> dict[str, str]:
    """Every secret that was about, in each form in which it could stand somewhere, and what it is."""
    keys = {key for visitor in stage.visitors for key in visitor.keys}
    pages = stage.aws.client("apigateway").get_paginator("get_api_keys").paginate(includeValues=True)
    keys |= {key["value"] for page in pages for key in page["items"]}
    found = {form: "a key" for key in keys for form in (*forms(key), key[:20])}
    for token in [*stage.market._tokens, *(token for visitor in stage.visitors for token in visitor.tokens)]:
        found |= dict.fromkeys((*forms(token), token[:20]), "a token")
    return found | dict.fromkeys(forms(CONTACT), "an address")


def forms(secret: str) -> Iterable[str]:
    return {secret, quote(secret, safe=""), escape(secret), base64.b64encode(secret.encode()).decode()}


Texts = Iterator[tuple[str, str]]
"""Place, and a text that stands there."""


def left_behind(stage: Stage, journeys: Iterable[Journey] = ()) -> Texts:
    """Everything that the rehearsal, its local AWS and its Marketplace keep."""
    yield from logged(stage)
    yield from queued(stage)
    yield from stored(stage)
    yield from filed(stage)
    yield from described(stage)
    yield from recorded(stage)
    for journey in journeys:
        yield f"journey {journey.scenario}", json.dumps(journey.to_json())


def logged(stage: Stage) -> Texts:
    """Logs of all functions, metrics among them, and what the local AWS wrote itself."""
    logs = stage.aws.client("logs")
    for group in (
        group for page in logs.get_paginator("describe_log_groups").paginate() for group in page["logGroups"]
    ):
        name = group["logGroupName"]
        yield f"log {name}", "\n".join(log_messages(logs, name))
    yield "log of the local AWS", stage.aws.log.read_text(errors="replace")


def queued(stage: Stage) -> Texts:
    """Messages of all queues, dead letters too."""
    sqs = stage.aws.client("sqs")
    for url in sqs.list_queues().get("QueueUrls", ()):
        while messages := sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=5, MessageAttributeNames=["All"]
        ).get("Messages"):
            yield f"queue {url}", json.dumps(messages)


def stored(stage: Stage) -> Texts:
    """Items of all tables, without the one attribute that an address belongs into."""
    tables = stage.aws.client("dynamodb")
    contacts = {sale.settings.contacts_table for sale in stage.sales}
    for table in tables.list_tables()["TableNames"]:
        for page in tables.get_paginator("scan").paginate(TableName=table):
            for item in page["Items"]:
                kept = {name: value for name, value in item.items() if table not in contacts or name != "email"}
                yield f"table {table}", json.dumps(kept, default=str)


def filed(stage: Stage) -> Texts:
    """Objects of all buckets: the access log and what cannot be read of it, the ledger, tables of plans; no code."""
    s3 = stage.aws.client("s3")
    for bucket in (one["Name"] for one in s3.list_buckets()["Buckets"]):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for key in (one["Key"] for one in page.get("Contents", ()) if not one["Key"].endswith(".zip")):
                content = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
                plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
                yield f"bucket {bucket}", f"{key}\n{plain.decode(errors='replace')}"


def described(stage: Stage) -> Texts:
    """What AWS tells of keys, metrics, functions and stacks."""
    for service, operation, member in (
        ("apigateway", "get_api_keys", "items"),
        ("cloudwatch", "list_metrics", "Metrics"),
        ("lambda", "list_functions", "Functions"),
        ("cloudformation", "describe_stacks", "Stacks"),
    ):
        for page in stage.aws.client(service).get_paginator(operation).paginate():
            # The local AWS shows keys' values to whoever did not ask for them.
            shown = [{name: value for name, value in one.items() if name != "value"} for one in page[member]]
            yield f"{service} {operation}", json.dumps(shown, default=str)


def recorded(stage: Stage) -> Texts:
    """Addresses that were called, and what the gateway and AWS Marketplace noted."""
    yield "address of a call", "\n".join(answer.url for visitor in stage.visitors for answer in visitor.browser.seen)
    yield "access records", "\n".join(map(repr, stage.gateway.calls))
    yield "calls of AWS Marketplace", "\n".join(map(repr, stage.market.calls))
    yield "notifications", "\n".join(map(repr, [*stage.market.events.history, *stage.events.unheard]))
    yield "exceptions", "\n".join(map(repr, stage.server.errors))


def search(secrets: dict[str, str], texts: Iterable[tuple[str, str]]) -> set[str]:
    """What was found where; never the secret itself."""
    return {f"{kind} in {place}" for place, text in texts for secret, kind in secrets.items() if secret in text}


def test_no_token_key_or_address_is_left_behind(stage: Stage, journeys: list[Journey]) -> None:
    secrets = secrets_of(stage)

    texts = list(left_behind(stage, journeys))

    assert {"a key", "a token", "an address"} == set(secrets.values())
    assert search(secrets, texts) == set()
    # It was looked where there is something to see.
    searched = "\n".join(text for _, text in texts)
    for trace in (
        "AccessDenied",
        "key issued",
        "CloudWatchMetrics",
        "no notification",
        "key-created",
        "/register",
        "requestTimeEpoch",
        '"records":',
    ):
        assert trace in searched, trace


def test_each_sales_alarms_watch_the_metrics_of_its_own_functions(stage: Stage, journeys: list[Journey]) -> None:
    del journeys
    told = {}
    for sale in stage.sales:
        groups = sale.stack.of_type("AWS::Logs::LogGroup").values()
        lines = (line for name in groups for line in lines_of(stage, name) if '"CloudWatchMetrics"' in line)
        told[sale.settings.sale] = {
            tuple((name, metrics[name]) for name in names)
            for metrics in map(json.loads, lines)
            for names in metrics["_aws"]["CloudWatchMetrics"][0]["Dimensions"]
        }
        alarms = [r for r in sale.stack.template["Resources"].values() if r["Type"] == "AWS::CloudWatch::Alarm"]
        watched = [metric for alarm in alarms for metric in metrics_of(alarm["Properties"])]
        own = [m["Dimensions"] for m in watched if m["Namespace"] == METRICS_NAMESPACE]
        assert {tuple(sorted((d["Name"], d["Value"]) for d in one)) for one in own} == {
            tuple(sorted(dimensions)) for dimensions in told[sale.settings.sale]
        }
    assert len({frozenset(each) for each in told.values()}) == len(stage.sales)


def lines_of(stage: Stage, group: str) -> Iterator[str]:
    messages = log_messages(stage.aws.client("logs"), group)
    return (line for message in messages for line in message.splitlines())


def metrics_of(alarm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "MetricName" in alarm:
        yield alarm
    yield from (query["MetricStat"]["Metric"] for query in alarm.get("Metrics", ()) if "MetricStat" in query)


def test_the_address_is_kept_in_the_table_of_contacts_and_of_a_key_only_its_digest(
    stage: Stage, journeys: list[Journey]
) -> None:
    del journeys
    tables = stage.aws.client("dynamodb")
    for sale in stage.sales:
        contacts = tables.scan(TableName=sale.settings.contacts_table)["Items"]
        entries = {e["key_sha256"]["S"] for e in tables.scan(TableName=sale.settings.keys_table)["Items"]}
        shown = {key for visitor in stage.visitors if visitor.sale is sale for key in visitor.keys}

        assert {item["email"]["S"] for item in contacts} == {CONTACT}
        assert shown
        assert {hashlib.sha256(key.encode()).hexdigest() for key in shown} <= entries


Undo = Callable[[], object]


def in_a_log(stage: Stage, sale: Sale, secret: str) -> Undo:
    logs, group = stage.aws.client("logs"), next(iter(sale.stack.of_type("AWS::Logs::LogGroup").values()))
    place = {"logGroupName": group, "logStreamName": "planted"}
    logs.create_log_stream(**place)
    logs.put_log_events(**place, logEvents=[{"timestamp": int(time.time() * 1000), "message": f"got {secret}"}])
    return lambda: logs.delete_log_stream(**place)


def in_the_log_of_the_local_aws(stage: Stage, _: Sale, secret: str) -> Undo:
    before = stage.aws.log.read_text(errors="replace")
    stage.aws.log.write_text(f"{before}\nGET /register?x-amzn-marketplace-token={quote(secret, safe='')}\n")
    return lambda: stage.aws.log.write_text(before)


def in_a_dead_letter(stage: Stage, sale: Sale, secret: str) -> Undo:
    sqs, url = stage.aws.client("sqs"), sale.stack.outputs["ReconciliationDeadLetterQueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"event": {"body": f"email={quote(secret)}"}}))
    return lambda: sqs.purge_queue(QueueUrl=url)


def in_a_fact(stage: Stage, sale: Sale, secret: str) -> Undo:
    return planted_item(stage, sale.settings.facts_table, {"buyer": "planted", "fact": f"registered#{secret}"})


def among_the_digests(stage: Stage, sale: Sale, secret: str) -> Undo:
    return planted_item(stage, sale.settings.keys_table, {"key_sha256": secret})


def beside_the_address_of_a_contact(stage: Stage, sale: Sale, secret: str) -> Undo:
    return planted_item(stage, sale.settings.contacts_table, {"agreement": secret}, email=CONTACT)


def planted_item(stage: Stage, table: str, key: dict[str, str], **more: str) -> Undo:
    tables = stage.aws.client("dynamodb")
    place = {name: {"S": value} for name, value in key.items()}
    tables.put_item(TableName=table, Item={**place, **{name: {"S": value} for name, value in more.items()}})
    return lambda: tables.delete_item(TableName=table, Key=place)


def in_the_access_log(stage: Stage, sale: Sale, secret: str) -> Undo:
    assert sale.pipeline is not None
    place = {"Bucket": sale.pipeline.settings.log_bucket, "Key": "access-log/2026/01/01/00/planted"}
    stage.aws.client("s3").put_object(**place, Body=gzip.compress(f"GET /items?x-api-key={secret}".encode()))
    return lambda: stage.aws.client("s3").delete_object(**place)


def in_an_address(stage: Stage, _: Sale, secret: str) -> Undo:
    seen = stage.visitors[-1].browser.seen
    seen.append(Answer(url=f"https://example.com/agreement?session={secret}", status=200, headers={}, body=""))
    return seen.pop


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("a token", in_a_log),
        ("a token", in_the_log_of_the_local_aws),
        ("an address", in_a_dead_letter),
        ("a token", in_a_fact),
        ("a key", among_the_digests),
        ("an address", beside_the_address_of_a_contact),
        ("a key", in_the_access_log),
        ("a key", in_an_address),
    ],
)
def test_fails_when_a_secret_is_left(
    stage: Stage, journeys: list[Journey], kind: str, plant: Callable[[Stage, Sale, str], Undo]
) -> None:
    buyer = next(visitor for visitor in stage.visitors if visitor.key)
    secret = {"a key": buyer.key, "a token": buyer.tokens[0], "an address": CONTACT}[kind]
    undo = plant(stage, stage.sale(SaleKind.PIPELINE), secret)
    try:
        found = search(secrets_of(stage), left_behind(stage, journeys))
    finally:
        undo()

    assert len(found) == 1
    assert secret not in found.pop()
