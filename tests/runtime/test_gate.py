"""The gate: one read, both answers, nothing about the key in what it leaves behind."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from marketplace_constructs.runtime.agreements.gate_entries import GateEntry
from marketplace_constructs.runtime.gate import answer, handler
from marketplace_constructs.runtime.memory import MemoryGateEntries

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
KEY = "a-key-value-of-more-than-20-characters"
ARN = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/GET/v1/samples/concert/nouns"


def entries(*, is_open: bool = True, until: datetime | None = None) -> MemoryGateEntries:
    known = MemoryGateEntries()
    known.put(
        GateEntry(
            key_sha256=hashlib.sha256(KEY.encode()).hexdigest(),
            agreement="agmt-one",
            is_open=is_open,
            facts_seen=3,
            open_until=until,
        )
    )
    return known


def ask(known: MemoryGateEntries, header: str = "x-api-key", value: str | None = KEY) -> tuple[str, dict[str, object]]:
    event = {
        "methodArn": ARN,
        "httpMethod": "GET",
        "headers": {header: value},
        "requestContext": {"resourcePath": "/v1/samples/{id}/nouns"},
    }
    reply = answer(event, entries=known, clock=lambda: NOW)
    policy = reply["policyDocument"]
    assert isinstance(policy, dict)
    (statement,) = policy["Statement"]
    # The answer is cached for the route, so it must hold for the route's other paths, and for no other method.
    assert statement["Resource"] == "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod/GET/*"
    assert isinstance(reply["context"], dict)
    return str(statement["Effect"]), reply["context"]


@pytest.mark.parametrize("header", ["x-api-key", "X-API-Key", "X-Api-Key"])
def test_a_key_that_is_open_is_let_in_under_its_agreement(header: str) -> None:
    assert ask(entries(), header) == ("Allow", {"agreement": "agmt-one"})


def test_a_key_that_is_shut_is_refused() -> None:
    assert ask(entries(is_open=False))[0] == "Deny"


@pytest.mark.parametrize("value", ["", None, "another-key-value-of-20-characters", KEY + " ", KEY.upper()])
def test_an_unknown_key_is_refused(value: str | None) -> None:
    assert ask(entries(), value=value) == ("Deny", {})


def test_a_rotated_key_is_refused_from_its_last_moment_on() -> None:
    assert ask(entries(until=NOW + timedelta(seconds=1)))[0] == "Allow"
    assert ask(entries(until=NOW))[0] == "Deny"


def test_a_refusal_is_logged_without_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    ask(entries(is_open=False))
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["agreement"] == "agmt-one"
    assert KEY not in line
    assert hashlib.sha256(KEY.encode()).hexdigest() not in line


def test_the_entry_point_answers_without_an_api_key_header() -> None:
    reply = handler({"methodArn": ARN, "headers": None}, None, entries=entries, clock=lambda: NOW)
    assert reply["principalId"] == "unknown"
