"""The gate where the product is sold by documents: a route opens under the plan that allows it, and under no other."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from faults import aws_error

from marketplace_constructs.domain.plan_versions import Assignment, PlanVersion
from marketplace_constructs.runtime import gate
from marketplace_constructs.runtime.agreements.gate_entries import GateEntry
from marketplace_constructs.runtime.gate import RecentPlans, answer, handler
from marketplace_constructs.runtime.memory import MemoryGateEntries, MemoryPlanVersions

NOON = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEY = "a-key-value-of-more-than-20-characters"
READ, WRITE = "GET /v1/nouns/{id}", "POST /v1/nouns/{id}"


class CountedVersions(MemoryPlanVersions):
    """Counts the questions, and fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0
        self.fails = False

    def holding(self, plan: str, at: datetime) -> PlanVersion | None:
        self.questions += 1
        if self.fails:
            raise aws_error("InternalServerError", 500)
        return super().holding(plan, at)


class World:
    """One key of one agreement, before a gate that has been running for a while or not at all."""

    def __init__(self, *assignments: tuple[str, datetime], is_open: bool = True) -> None:
        self.now = NOON
        self.versions = CountedVersions()
        self.recent = RecentPlans(self.versions)
        self.entries = MemoryGateEntries()
        self.entries.put(
            GateEntry(
                key_sha256=hashlib.sha256(KEY.encode()).hexdigest(),
                agreement="agmt-one",
                is_open=is_open,
                facts_seen=3,
                assignments=tuple(Assignment(plan=plan, takes_effect_at=at) for plan, at in assignments),
            )
        )

    def hold(self, plan: str, *routes: str, since: datetime = NOON, number: int = 1) -> World:
        self.versions.add(
            PlanVersion(
                plan=plan,
                holds_from=since,
                number=number,
                digest="d",
                usage_plan_id="p",
                routes=frozenset(routes),
            )
        )
        return self

    def restart(self) -> None:
        """A new instance of the function knows nothing."""
        self.recent = RecentPlans(self.versions)

    def ask(self, route: str, *, resource_path: str | None = None) -> tuple[str, dict[str, object]]:
        method, path = route.split(" ")
        event = {
            "methodArn": f"arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/{method}/v1/nouns/7",
            "httpMethod": method,
            "headers": {"X-Api-Key": KEY},
            "requestContext": {"resourcePath": resource_path or path},
        }
        reply = answer(event, entries=self.entries, plans=self.recent, clock=lambda: self.now)
        (statement,) = reply["policyDocument"]["Statement"]  # type: ignore[index]
        assert statement["Resource"].endswith(f"/prod/{method}/*")
        return statement["Effect"], reply["context"]  # type: ignore[return-value]

    def effects(self, *routes: str) -> list[str]:
        return [self.ask(route)[0] for route in routes]


def test_a_route_is_refused_under_one_plan_and_served_under_another() -> None:
    for plan, expected in (("reader@1", ["Allow", "Deny"]), ("writer@1", ["Allow", "Allow"])):
        world = World((plan, NOON)).hold("reader@1", READ).hold("writer@1", READ, WRITE)
        assert world.effects(READ, WRITE) == expected  # cold
        assert world.effects(READ, WRITE) == expected  # warm
        assert world.ask(WRITE)[1] == {"agreement": "agmt-one", "plan": plan}


def test_a_warm_answer_takes_no_question_about_the_plan_for_a_minute() -> None:
    world = World(("reader@1", NOON)).hold("reader@1", READ)
    for seconds, questions in ((0, 1), (59, 1), (60, 2), (119, 2), (120, 3)):
        world.now = NOON + timedelta(seconds=seconds)
        assert world.effects(READ, WRITE) == ["Allow", "Deny"]
        assert world.versions.questions == questions


def test_only_the_route_itself_is_open_whatever_its_path_looks_like() -> None:
    world = World(("reader@1", NOON)).hold("reader@1", READ)
    for other in ("GET /v1/nouns", "GET /v1/nouns/{id}/original", "GET /v1/nouns/7", "HEAD /v1/nouns/{id}"):
        assert world.ask(other)[0] == "Deny"
    assert world.ask(READ, resource_path="/v1/nouns/{id}/")[0] == "Deny"


def test_a_request_that_does_not_say_its_route_is_refused() -> None:
    world = World(("reader@1", NOON)).hold("reader@1", READ)
    event = {
        "methodArn": "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/GET/v1/nouns/7",
        "headers": {"x-api-key": KEY},
    }
    reply = answer(event, entries=world.entries, plans=world.recent, clock=lambda: NOON)
    assert reply["policyDocument"]["Statement"][0]["Effect"] == "Deny"  # type: ignore[index]


def test_an_agreement_changes_plans_at_its_hour_and_not_before() -> None:
    world = World(("reader@1", NOON), ("writer@1", NOON + HOUR)).hold("reader@1", READ).hold("writer@1", READ, WRITE)
    for moment, effect, plan in (
        (NOON + HOUR - timedelta(microseconds=1), "Deny", "reader@1"),
        (NOON + HOUR, "Allow", "writer@1"),
    ):
        world.now = moment
        assert world.ask(WRITE) == (effect, {"agreement": "agmt-one", "plan": plan})


def test_a_changed_plan_is_seen_at_its_hour_even_by_who_asked_a_moment_before() -> None:
    world = World(("reader@1", NOON)).hold("reader@1", READ).hold("reader@1", WRITE, since=NOON + HOUR)
    world.now = NOON + HOUR - timedelta(seconds=1)
    assert world.effects(READ, WRITE) == ["Allow", "Deny"]
    world.now = NOON + HOUR
    assert world.effects(READ, WRITE) == ["Deny", "Allow"]


@pytest.mark.parametrize("assignments", [[], [("reader@1", NOON + HOUR)], [("unheard-of@1", NOON)]])
def test_a_key_without_a_plan_that_holds_is_refused(
    assignments: list[tuple[str, datetime]], capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(*assignments).hold("reader@1", READ)
    assert world.ask(READ)[0] == "Deny"
    assert json.loads(capsys.readouterr().out)["reason"] == "no plan"


def test_a_plan_that_was_first_deployed_a_moment_ago_is_found_within_a_minute() -> None:
    world = World(("reader@1", NOON))
    assert world.ask(READ)[0] == "Deny"
    world.hold("reader@1", READ)
    world.now += timedelta(seconds=60)
    assert world.ask(READ)[0] == "Allow"


def test_nobody_is_let_in_while_the_plans_cannot_be_read() -> None:
    world = World(("reader@1", NOON)).hold("reader@1", READ)
    world.versions.fails = True
    # API Gateway keeps no answer where there is none, and asks again for the next call.
    with pytest.raises(ClientError):
        world.ask(READ)
    world.versions.fails = False
    assert world.ask(READ)[0] == "Allow"
    world.versions.fails = True
    world.now += timedelta(seconds=60)
    with pytest.raises(ClientError):
        world.ask(READ)


def test_a_key_that_is_shut_is_refused_without_a_question_about_its_plan() -> None:
    world = World(("reader@1", NOON), is_open=False).hold("reader@1", READ)
    assert world.ask(READ)[0] == "Deny"
    assert world.versions.questions == 0


def test_a_refused_route_is_logged_with_its_plan_and_without_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    World(("reader@1", NOON)).hold("reader@1", READ).ask(WRITE)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "level": "INFO",
        "message": "refused",
        "reason": "not in plan",
        "agreement": "agmt-one",
        "plan": "reader@1",
        "method": "POST",
        "resource_path": "/v1/nouns/{id}",
    }
    assert KEY not in line


@pytest.mark.parametrize(("table", "effect"), [("", "Allow"), ("plans-table", "Deny")])
def test_the_entry_point_asks_for_plans_where_its_settings_name_a_table(
    table: str, effect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for port in (gate._settings, gate._plans):
        port.cache_clear()
    monkeypatch.setenv("KEYS_TABLE", "keys-table")
    monkeypatch.setenv("PLANS_TABLE", table)
    monkeypatch.setattr(gate, "client", lambda service: service)
    monkeypatch.setattr(gate, "DynamoDbPlanVersions", lambda *_: MemoryPlanVersions())
    event = {"methodArn": "arn/prod/GET/v1", "httpMethod": "GET", "headers": {"x-api-key": KEY}}
    reply = handler(event, None, entries=lambda: World(("reader@1", NOON)).entries, clock=lambda: NOON)
    assert reply["policyDocument"]["Statement"][0]["Effect"] == effect  # type: ignore[index]
    for port in (gate._settings, gate._plans):
        port.cache_clear()
