"""The gate: one read, both answers, nothing about the key in what it leaves behind."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("value", ["", None, "another-key-value-of-20-characters", "\ud800", KEY + " ", KEY.upper()])
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
    event = {"methodArn": ARN, "headers": None}
    reply = handler(event, None, entries=entries, plans=lambda: None, clock=lambda: NOW)
    assert reply["principalId"] == "unknown"


class OneRead(MemoryGateEntries):
    """Counts what the gate reads."""

    reads = 0

    def get(self, key_sha256: str) -> GateEntry | None:
        self.reads += 1
        return super().get(key_sha256)


@settings(max_examples=50, deadline=None)
@given(
    issued=st.dictionaries(st.text(min_size=1, max_size=128), st.booleans(), max_size=50),
    tried=st.lists(st.text(max_size=10_000), max_size=20),
)
def test_only_an_issued_open_key_opens_and_each_answer_takes_one_read(
    issued: dict[str, bool], tried: list[str]
) -> None:
    known = OneRead()
    for number, (value, is_open) in enumerate(issued.items()):
        digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
        known.put(GateEntry(key_sha256=digest, agreement=f"agmt-{number}", is_open=is_open, facts_seen=1))
    for value in [*issued, *tried, *(value[::-1] for value in issued), *(value + "\x00" for value in issued)]:
        known.reads = 0
        effect, context = ask(known, value=value)
        assert (effect == "Allow") == issued.get(value, False)
        assert known.reads <= 1
        if effect == "Allow":
            assert context == {"agreement": f"agmt-{list(issued).index(value)}"}


def test_one_of_very_many_keys_is_found_as_the_only_one_is() -> None:
    known = entries()
    for number in range(20_000):
        digest = hashlib.sha256(f"another key {number}".encode()).hexdigest()
        known.put(GateEntry(key_sha256=digest, agreement=f"agmt-{number}", is_open=number % 2 == 0, facts_seen=1))
    assert ask(known) == ("Allow", {"agreement": "agmt-one"})
    assert ask(known, value="another key 7")[0] == "Deny"
    assert ask(known, value="another key 8") == ("Allow", {"agreement": "agmt-8"})
