"""The queue's handler: one bad message does not take its neighbours along, and none is dropped in silence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from protected import Weakness
from sale import BUYER, CREATED, LICENSED, Sale, event

from marketplace_constructs.runtime import subscription_events


@pytest.fixture
def sale(monkeypatch: pytest.MonkeyPatch) -> Sale:
    sale = Sale()
    monkeypatch.setattr(
        subscription_events,
        "_dependencies",
        lambda: SimpleNamespace(product=sale.product, service=sale.service),
    )
    return sale


def deliver(*bodies: str) -> list[str]:
    """Deliver a batch; ids of the messages that failed."""
    batch = {
        "Records": [
            {
                "messageId": f"m{number}",
                "body": body,
                "eventSource": "aws:sqs",
                "attributes": {},
                "receiptHandle": "r",
            }
            for number, body in enumerate(bodies)
        ]
    }
    answer = subscription_events.handler(batch, None)  # type: ignore[arg-type]
    return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]


@pytest.mark.protects(Weakness.POISON_BLOCKS_ALL, Weakness.UNKNOWN_MESSAGE_IS_DROPPED)
def test_one_poison_message_in_ten_fails_alone(sale: Sale) -> None:
    good = [event(CREATED, f"agmt-{number}") for number in range(9)]
    assert deliver(*good[:4], "{not json", *good[4:]) == ["m4"]
    assert len(sale.facts.of_buyer(BUYER)) == 9


def test_a_batch_of_poison_fails_message_by_message(sale: Sale) -> None:
    assert deliver("1", "2") == ["m0", "m1"]
    assert sale.facts.of_buyer(BUYER) == ()


@pytest.mark.protects(Weakness.LATE_EVENT_REVIVES)
def test_a_message_delivered_twice_counts_once(sale: Sale) -> None:
    assert deliver(event(LICENSED), event(LICENSED)) == []
    assert len(sale.facts.of_buyer(BUYER)) == 1


@pytest.mark.protects(Weakness.UNKNOWN_MESSAGE_IS_DROPPED)
@pytest.mark.parametrize(
    ("bodies", "metric"),
    [(["{"], "MalformedEvent"), ([event("Purchase Agreement Frozen - Proposer")], "UnknownEvent")],
)
def test_what_a_person_should_see_is_counted(
    sale: Sale, bodies: list[str], metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(*bodies)
    assert f'"{metric}":[1.0]' in capsys.readouterr().out
    assert sale.states() == {}
