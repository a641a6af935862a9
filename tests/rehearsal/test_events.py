"""A queue gets an event only where its policy lets the topic or rule send."""

from __future__ import annotations

from typing import Any

import pytest

from marketplace_constructs.rehearsal.events import admits

TOPIC = "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-abc123"
CONDITION = {"ArnEquals": {"aws:SourceArn": TOPIC}}


def policy(**changes: object) -> dict[str, Any]:
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Condition": CONDITION,
    }
    return {"Statement": [{**allowed, **changes}]}


def admitted(document: dict[str, Any]) -> bool:
    return admits(document, service="sns.amazonaws.com", source=TOPIC)


def test_admits_the_source_that_the_policy_pins() -> None:
    assert admitted(policy())
    assert admitted(policy(Condition={"ArnLike": {"aws:SourceArn": TOPIC.replace("abc123", "*")}}))
    assert admitted(policy(Condition={"StringEquals": {"aws:SourceAccount": "287250355862"}}))


@pytest.mark.parametrize(
    "changes",
    [
        {"Effect": "Deny"},
        {"Principal": {"Service": "events.amazonaws.com"}},
        {"Principal": {"AWS": "*"}},
        {"Action": "sqs:ReceiveMessage"},
        {"Condition": {"ArnEquals": {"aws:SourceArn": TOPIC + "4"}}},
        {"Condition": {**CONDITION, "StringEquals": {"aws:PrincipalOrgID": "o-1"}}},
    ],
)
def test_refuses_any_other(changes: dict[str, object]) -> None:
    assert not admitted(policy(**changes))


def test_refuses_everything_where_there_is_no_policy() -> None:
    assert not admitted({})
