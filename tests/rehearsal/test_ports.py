"""Each port's in-memory double and its AWS adapter do the same: the adapter is tried on the local AWS."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marketplace_constructs.domain.agreements import Entitlement, Fact, FactKind
from marketplace_constructs.domain.plan_versions import Assignment, PlanVersion
from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.runtime.agreements.api_keys import ApiGatewayKeys, ApiKeys
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts, FactStore, from_item, to_item
from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries, GateEntries, GateEntry
from marketplace_constructs.runtime.agreements.reconciliation import SnapshotApiKeys
from marketplace_constructs.runtime.memory import (
    MemoryApiKeys,
    MemoryFacts,
    MemoryGateEntries,
    MemoryPlanTables,
    MemoryPlanVersions,
)
from marketplace_constructs.runtime.plan_tables import PlanTables, S3PlanTables
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions, PlanVersions

pytestmark = pytest.mark.rehearsal

AT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
FACT = Fact(id="License Updated#1", kind=FactKind.ACTIVATED, buyer="111122223333", at=AT, agreement_id="agmt-one")
FULL = Fact(
    id="full",
    kind=FactKind.ENTITLED,
    buyer="111122223333",
    at=AT + timedelta(microseconds=1),
    agreement_id="agmt-one",
    license_arn="arn:aws:license-manager::123456789012:license:l-one",
    product_code="abc123",
    status="ACTIVE",
    intent="NEW",
    previous_agreement_id="agmt-zero",
    offer_id="offer-example",
    entitlements=(Entitlement(dimension="seats", value="5", expires_at=AT), Entitlement(dimension="sites")),
    key_number=2,
    key_name="Sale/agmt-one/2",
    key_sha256="0" * 64,
    api_key_id="abcde12345",
    takes_effect_at=AT + timedelta(hours=1),
    plan="retail@1",
    account_id="444455556666",
    note="for people",
)


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    with LocalAws() as local:
        yield local


def table(aws: LocalAws, *keys: str) -> str:
    name = f"t{uuid.uuid4().hex}"
    aws.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)],
    )
    return name


@pytest.fixture(params=["memory", "dynamodb"])
def facts(request: pytest.FixtureRequest, aws: LocalAws) -> FactStore:
    if request.param == "memory":
        return MemoryFacts()
    return DynamoDbFacts(aws.client("dynamodb"), table(aws, "buyer", "fact"))


def test_a_fact_is_put_once_and_never_changed(facts: FactStore) -> None:
    assert facts.add(FACT)
    assert not facts.add(replace(FACT, at=AT + timedelta(days=1)))
    assert facts.add(FACT)  # the SDK's own retry of a write whose answer was lost
    assert facts.of_buyer(FACT.buyer) == (FACT,)


def test_every_member_of_a_fact_comes_back(facts: FactStore) -> None:
    facts.add(FULL)
    assert facts.of_buyer(FULL.buyer) == (FULL,)


def test_a_buyers_facts_are_that_buyers_alone(facts: FactStore) -> None:
    other = replace(FACT, buyer="444455556666")
    many = [replace(FACT, id=f"fact {number:03}", note="x" * 30_000) for number in range(60)]
    for fact in [other, *many]:
        facts.add(fact)
    assert set(facts.of_buyer(FACT.buyer)) == set(many)  # more than one page of 1 MB
    assert {buyer: len(known) for buyer, known in facts.buyers()} == {FACT.buyer: 60, "444455556666": 1}


def test_a_fact_of_a_later_version_can_be_read() -> None:
    assert from_item({**to_item(FULL), "unheard_of": "x"}) == FULL


@pytest.fixture(params=["memory", "dynamodb"])
def entries(request: pytest.FixtureRequest, aws: LocalAws) -> GateEntries:
    if request.param == "memory":
        return MemoryGateEntries()
    return DynamoDbGateEntries(aws.client("dynamodb"), table(aws, "key_sha256"))


def test_an_answer_that_rests_on_fewer_facts_replaces_none(entries: GateEntries) -> None:
    newer = GateEntry(key_sha256="a" * 64, agreement="agmt-one", is_open=False, facts_seen=5)
    older = GateEntry(key_sha256="a" * 64, agreement="agmt-one", is_open=True, facts_seen=4, open_until=AT)
    assert entries.get(newer.key_sha256) is None
    assert entries.put(older)
    assert entries.get(older.key_sha256) == older
    assert entries.put(newer)
    assert not entries.put(older)
    assert entries.get(newer.key_sha256) == newer
    removed = replace(newer, open_until=AT, is_removed=True)
    assert entries.put(removed)
    assert entries.get(newer.key_sha256) == removed


def test_an_answer_comes_back_with_its_plans(entries: GateEntries) -> None:
    assignments = tuple(
        Assignment(plan=f"retail@{number}", takes_effect_at=AT + timedelta(hours=number)) for number in (1, 2)
    )
    entry = GateEntry(key_sha256="b" * 64, agreement="agmt-one", is_open=True, facts_seen=1, assignments=assignments)
    assert entries.put(entry)
    assert entries.get(entry.key_sha256) == entry


def test_an_answer_from_before_there_were_plans_can_be_read(aws: LocalAws) -> None:
    name = table(aws, "key_sha256")
    item = {"key_sha256": {"S": "c"}, "agreement": {"S": "a"}, "is_open": {"BOOL": True}, "facts_seen": {"N": "1"}}
    aws.client("dynamodb").put_item(TableName=name, Item=item)
    found = DynamoDbGateEntries(aws.client("dynamodb"), name).get("c")
    assert found == GateEntry(key_sha256="c", agreement="a", is_open=True, facts_seen=1)


VERSION = PlanVersion(
    plan="retail@1",
    holds_from=AT,
    digest="d" * 64,
    usage_plan_id="plan12345",
    segment="retail",
    channel="Marketplace",
    assign_to='{"Offers":["offer-example"]}',
    routes=frozenset({"GET /v1/nouns", "POST /v1/nouns/{id}"}),
)


@pytest.fixture(params=["memory", "dynamodb"])
def versions(request: pytest.FixtureRequest, aws: LocalAws) -> PlanVersions:
    if request.param == "memory":
        return MemoryPlanVersions()
    return DynamoDbPlanVersions(aws.client("dynamodb"), table(aws, "plan", "holds_from"))


def test_a_plan_version_is_put_once_and_never_changed(versions: PlanVersions) -> None:
    assert versions.add(VERSION)
    assert not versions.add(replace(VERSION, digest="other", routes=frozenset()))
    assert versions.versions() == (VERSION,)
    assert versions.holding("retail@1", AT) == VERSION


def test_the_last_word_for_the_latest_hour_holds(versions: PlanVersions) -> None:
    second = replace(VERSION, number=2, digest="second")
    tenth = replace(VERSION, number=10, digest="tenth")
    later = replace(VERSION, holds_from=AT + timedelta(hours=2), digest="later")
    other = replace(VERSION, plan="retail@10", holds_from=AT + timedelta(hours=1), routes=frozenset(), assign_to="")
    for version in (later, tenth, other, VERSION, second):
        assert versions.add(version)
    assert set(versions.versions()) == {VERSION, second, tenth, later, other}
    moments = {
        AT - timedelta(microseconds=1): None,
        AT: tenth,
        AT + timedelta(hours=1, minutes=59, seconds=59): tenth,
        AT + timedelta(hours=2): later,
        AT + timedelta(days=9): later,
    }
    assert {at: versions.holding("retail@1", at) for at in moments} == moments
    assert versions.holding("retail@10", AT + timedelta(hours=1)) == other
    assert versions.holding("retail", AT + timedelta(days=9)) is None


def test_the_hundredth_and_the_thousandth_word_for_an_hour_hold(versions: PlanVersions) -> None:
    for number in (1, 2, 10, 98, 99, 100, 101, 999, 1000):
        version = replace(VERSION, number=number, digest=f"{number}")
        assert versions.add(version)
        assert versions.holding("retail@1", AT) == version
    assert {version.number for version in versions.versions()} == {1, 2, 10, 98, 99, 100, 101, 999, 1000}


def test_a_hundredth_word_for_an_hour_that_was_written_as_it_once_was_holds(aws: LocalAws) -> None:
    name = table(aws, "plan", "holds_from")
    client = aws.client("dynamodb")
    versions = DynamoDbPlanVersions(client, name)
    for number in (1, 2, 99):
        assert versions.add(replace(VERSION, number=number, digest=f"{number}"))
    [last] = [item for item in client.scan(TableName=name)["Items"] if item["holds_from"]["S"].endswith("#99")]
    hour = last["holds_from"]["S"].removesuffix("#99")
    client.put_item(TableName=name, Item={**last, "holds_from": {"S": f"{hour}#100"}, "digest": {"S": "100"}})
    assert versions.holding("retail@1", AT) == replace(VERSION, number=100, digest="100")
    assert versions.add(replace(VERSION, number=101, digest="101"))
    assert versions.holding("retail@1", AT) == replace(VERSION, number=101, digest="101")


@pytest.fixture(params=["memory", "s3"])
def tables(request: pytest.FixtureRequest, aws: LocalAws) -> PlanTables:
    if request.param == "memory":
        return MemoryPlanTables()
    bucket = f"b{uuid.uuid4().hex}"
    aws.client("s3").create_bucket(Bucket=bucket)
    return S3PlanTables(aws.client("s3"), bucket)


def test_a_plan_table_is_kept_under_the_digest_of_its_text(tables: PlanTables) -> None:
    digest = tables.put('{"plan": "retail@1", "sold by": "Café"}')
    assert tables.put('{"plan": "retail@1", "sold by": "Café"}') == digest
    assert tables.put("{}") != digest
    assert tables.get(digest) == '{"plan": "retail@1", "sold by": "Café"}'
    assert tables.get("0" * 64) is None


@pytest.fixture(params=["memory", "api gateway", "snapshot"])
def api_keys(request: pytest.FixtureRequest, aws: LocalAws) -> ApiKeys:
    if request.param == "memory":
        return MemoryApiKeys()
    real = ApiGatewayKeys(aws.client("apigateway"))
    return real if request.param == "api gateway" else SnapshotApiKeys(real, prefix="Sale/")


@pytest.fixture
def plan(aws: LocalAws) -> str:
    return str(aws.client("apigateway").create_usage_plan(name="plan")["id"])


def test_a_key_is_made_changed_and_removed(api_keys: ApiKeys) -> None:
    key_id = api_keys.create(name="Sale/agmt-one/1", value=uuid.uuid4().hex, customer_id="")
    found = api_keys.get(key_id)
    assert found is not None
    assert (found.name, found.enabled, found.customer_id) == ("Sale/agmt-one/1", True, "")
    api_keys.set_enabled(key_id, enabled=False)
    api_keys.set_customer_id(key_id, "customer")
    found = api_keys.get(key_id)
    assert found is not None
    assert (found.enabled, found.customer_id) == (False, "customer")
    api_keys.delete(key_id)
    api_keys.delete(key_id)
    assert api_keys.get(key_id) is None


def test_shutting_out_a_key_that_is_gone_is_no_error(api_keys: ApiKeys) -> None:
    api_keys.set_enabled("gone", enabled=False)


def test_a_key_joins_and_leaves_a_plan_however_often(api_keys: ApiKeys, plan: str) -> None:
    key_id = api_keys.create(name="Sale/agmt-one/1", value=uuid.uuid4().hex, customer_id="")
    assert not api_keys.is_member(plan, key_id)
    api_keys.join(plan, key_id)
    api_keys.join(plan, key_id)
    assert api_keys.is_member(plan, key_id)
    assert key_id in api_keys.members(plan)
    api_keys.leave(plan, key_id)
    api_keys.leave(plan, key_id)
    assert not api_keys.is_member(plan, key_id)


def test_keys_are_found_by_the_beginning_of_their_name(aws: LocalAws) -> None:
    real = ApiGatewayKeys(aws.client("apigateway"))
    prefix = f"{uuid.uuid4().hex}/"
    made = {real.create(name=f"{prefix}{n}", value=uuid.uuid4().hex, customer_id="c") for n in range(30)}
    real.create(name=f"x{prefix}", value=uuid.uuid4().hex, customer_id="c")
    assert {key.id for key in real.named(prefix)} == made
