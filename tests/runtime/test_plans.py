"""The function that records what a deployment brings: tables under their digest, versions from a whole hour on."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from faults import Crash, Trap, Trapped, aws_error, faults

from marketplace_constructs.domain.plan_table import PlanTable, RouteAccess
from marketplace_constructs.domain.plan_versions import PlanVersion, holding
from marketplace_constructs.runtime import plans
from marketplace_constructs.runtime.memory import MemoryPlanTables, MemoryPlanVersions
from marketplace_constructs.runtime.plan_tables import S3PlanTables
from marketplace_constructs.runtime.plans import handle

NOW = datetime(2026, 12, 1, 12, 10, tzinfo=UTC)
HOUR = NOW.replace(minute=0)


def table(*allowed: str, plan: str = "retail@1") -> PlanTable:
    routes = [("GET", "/v1/nouns"), ("POST", "/v1/nouns")]
    return PlanTable(
        plan=plan,
        product="nouns-api",
        segment="retail",
        channel="Marketplace",
        routes=tuple(RouteAccess(method=m, path=p, is_allowed=f"{m} {p}" in allowed) for m, p in routes),
        cells=(),
    )


READS = table("GET /v1/nouns")
WRITES = table("GET /v1/nouns", "POST /v1/nouns")


def request(kind: str, *tables: PlanTable, effective_from: str = "") -> dict[str, Any]:
    return {
        "RequestType": kind,
        "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/Sale/1",
        "RequestId": "one",
        "LogicalResourceId": "Plans",
        "ResponseURL": "https://cloudformation.example.com/answer",
        "ResourceProperties": {
            "ServiceToken": "arn:aws:lambda:us-east-1:123456789012:function:plans",
            "Plans": [
                {
                    "Plan": one.plan,
                    "UsagePlanId": f"usage-plan-of-{one.plan}",
                    "AssignTo": '"Default"',
                    "EffectiveFrom": effective_from,
                    "Table": base64.b64encode(gzip.compress(one.to_text().encode())).decode(),
                }
                for one in tables
            ],
        },
    }


class Stack:
    """The table and the bucket of one stack."""

    def __init__(self) -> None:
        self.versions = MemoryPlanVersions()
        self.tables = MemoryPlanTables()
        self.now = NOW

    def run(self, event: Mapping[str, Any]) -> str | None:
        return handle(event, versions=self.versions, tables=self.tables, clock=lambda: self.now)

    def digests(self, hours: int, plan: str = "retail@1") -> list[str | None]:
        """What holds in each of so many hours, from the first deployment's on."""
        held = [holding(self.versions.versions(), HOUR + timedelta(hours=number)).get(plan) for number in range(hours)]
        return [version.digest if version else None for version in held]


def test_the_first_deployment_holds_at_once_with_all_that_the_gate_and_the_meter_need() -> None:
    stack = Stack()
    assert stack.run(request("Create", READS)) is None
    assert stack.versions.versions() == (
        PlanVersion(
            plan="retail@1",
            holds_from=HOUR,
            digest=READS.digest,
            usage_plan_id="usage-plan-of-retail@1",
            segment="retail",
            channel="Marketplace",
            assign_to='"Default"',
            routes=frozenset({"GET /v1/nouns"}),
        ),
    )
    text = stack.tables.get(READS.digest)
    assert text is not None
    assert PlanTable.from_text(text) == READS


def test_a_change_and_its_rollback_take_whole_hours() -> None:
    stack = Stack()
    stack.run(request("Create", READS))
    stack.now += timedelta(hours=1)
    assert stack.run(request("Update", WRITES)) is None
    stack.now += timedelta(hours=2)
    assert stack.run(request("Update", READS)) is None
    r, w = READS.digest, WRITES.digest
    assert stack.digests(6) == [r, r, w, w, r, r]


def test_a_request_that_is_delivered_again_adds_nothing() -> None:
    stack = Stack()
    for kind in ("Create", "Create", "Update"):
        stack.run(request(kind, READS))
        stack.now += timedelta(minutes=70)
    assert len(stack.versions.versions()) == 1


def test_a_plan_waits_for_the_hour_that_its_document_names() -> None:
    stack = Stack()
    stack.run(request("Create", READS, effective_from="2026-12-01T14:00:00Z"))
    assert stack.digests(3) == [None, None, READS.digest]


def test_a_deletion_leaves_everything() -> None:
    stack = Stack()
    stack.run(request("Create", READS))
    before = stack.versions.versions()
    assert stack.run(request("Delete", READS)) is None
    assert stack.run({"RequestType": "Delete", "ResourceProperties": {}}) is None
    assert stack.versions.versions() == before


def test_another_version_that_comes_meanwhile_is_taken_into_account() -> None:
    stack = Stack()
    stack.run(request("Create", READS))
    real = stack.versions.add

    def overtaken(version: PlanVersion) -> bool:
        stack.versions.add = real  # type: ignore[method-assign]
        stack.run(request("Update", WRITES))
        stack.run(request("Update", READS))
        return real(version)

    stack.versions.add = overtaken  # type: ignore[method-assign]
    assert stack.run(request("Update", WRITES)) is None
    assert stack.digests(3) == [READS.digest, WRITES.digest, WRITES.digest]


def test_each_fault_of_each_call_fails_the_deployment_and_the_next_one_records_it() -> None:
    def deploy(trap: Trap) -> None:
        stack = Stack()
        stack.run(request("Create", READS, table(plan="gold@1")))
        trap.is_armed = True
        ports = {"versions": Trapped(stack.versions, trap), "tables": Trapped(stack.tables, trap)}
        event = request("Update", WRITES, table("GET /v1/nouns", plan="gold@1"))
        try:
            failure = handle(event, clock=lambda: stack.now, **ports)  # type: ignore[arg-type]
            assert not trap.has_sprung or "MP-PLAN-22" in str(failure)
        except Crash:
            pass
        trap.is_armed = False
        assert stack.run(event) is None
        assert stack.digests(3) == [READS.digest, WRITES.digest, WRITES.digest]
        assert len(stack.versions.versions()) == 4

    assert len(list(faults(deploy))) > 20


class Bucket:
    """The one call of S3 that the tables make, with what it answers in turn."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.objects: dict[str, bytes] = {}

    def put_object(self, *, Key: str, Body: bytes, IfNoneMatch: str, **_: str) -> None:  # noqa: N803
        assert IfNoneMatch == "*"
        answer = self.answers.pop(0)
        if answer:
            raise aws_error(answer, 412)
        self.objects[Key] = Body


@pytest.mark.parametrize("answers", [[None], ["PreconditionFailed"], ["ConditionalRequestConflict", None]])
def test_a_table_that_is_there_already_or_being_written_is_no_error(answers: list[str | None]) -> None:
    bucket = Bucket(*answers)
    assert S3PlanTables(bucket, "tables").put(READS.to_text()) == READS.digest  # type: ignore[arg-type]
    assert not bucket.answers
    assert set(bucket.objects) <= {f"plan-tables/{READS.digest}.json"}


def test_fails_when_a_table_cannot_be_kept() -> None:
    for answers in (["AccessDenied"], ["ConditionalRequestConflict"] * 3):
        stack = Stack()
        stack.tables = S3PlanTables(Bucket(*answers), "tables")  # type: ignore[arg-type,assignment]
        failure = stack.run(request("Create", READS))
        assert failure is not None
        assert answers[0] in failure
        assert stack.versions.versions() == ()


@pytest.mark.parametrize("breaks", [False, True])
def test_cloudformation_is_answered_whatever_happens(breaks: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    answers: list[dict[str, str]] = []

    def open_(request: Any, timeout: int) -> object:
        assert timeout
        answers.append(json.loads(request.data))
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr("urllib.request.urlopen", open_)
    monkeypatch.setenv("PLANS_TABLE", "plans-table")
    monkeypatch.setenv("TABLES_BUCKET", "tables-bucket")
    monkeypatch.setattr(plans, "client", lambda service: service)
    versions, tables = MemoryPlanVersions(), MemoryPlanTables()
    monkeypatch.setattr(plans, "DynamoDbPlanVersions", lambda *_: versions)
    monkeypatch.setattr(plans, "S3PlanTables", lambda *_: tables)
    event = request("Create", READS)
    if breaks:
        event["ResourceProperties"]["Plans"][0]["Table"] = "no table"
    plans.handler(event, None)  # type: ignore[arg-type]
    (answer,) = answers
    assert answer["PhysicalResourceId"] == "plans-table"
    assert answer["Status"] == ("FAILED" if breaks else "SUCCESS")
    assert ("MP-PLAN-23" in answer["Reason"]) is breaks
    assert len(versions.versions()) == (0 if breaks else 1)
