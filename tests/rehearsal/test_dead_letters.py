"""What a handler cannot handle ends in the dead-letter queue, where the deployed alarm sees it, and is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from permission_plays import EVENTS, FACTS_TABLE
from permissions import grants_of, taken_away

from marketplace_constructs.rehearsal.journey import wait_until
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, open_to, register

pytestmark = pytest.mark.rehearsal


@contextmanager
def redelivered_at_once(stage: Stage, queue: str) -> Iterator[None]:
    """The queue waits no six minutes before it delivers a message again."""
    sqs, name = stage.aws.client("sqs"), "VisibilityTimeout"
    before = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"][name]
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={name: "0"})
    try:
        yield
    finally:
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={name: before})


def alarmed(stage: Stage, sale: Sale, queue: str) -> bool:
    """Whether the deployed alarm on a queue goes off by what SQS reports of it now."""
    [alarm] = (
        resource["Properties"]
        for resource in sale.stack.template["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
        and resource["Properties"].get("Namespace") == "AWS/SQS"
        and [sale.stack.physical_ids[d["Value"]["Fn::GetAtt"][0]] for d in resource["Properties"]["Dimensions"]]
        == [queue]
    )
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    # What CloudWatch calls so is this attribute of the queue.
    name = "ApproximateNumberOfMessages"
    found = stage.aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
    return int(found["Attributes"][name]) >= alarm["Threshold"]


def test_a_notification_that_cannot_be_recorded_ends_under_the_alarm_and_counts_once_it_is_moved_back(
    stage: Stage,
) -> None:
    sale = stage.sale(SaleKind.CONCURRENT)
    sqs = stage.aws.client("sqs")
    queue, dead = (sale.stack.outputs[name] for name in ("QueueUrl", "DeadLetterQueueUrl"))
    recording = next(
        grant
        for grant in grants_of(sale.stack.name, sale.stack.template)
        if (grant.role, grant.name) == (EVENTS, f"dynamodb:PutItem {FACTS_TABLE}")
    )
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    sqs.purge_queue(QueueUrl=dead)
    assert not alarmed(stage, sale, dead)
    with taken_away(stage, sale, recording), redelivered_at_once(stage, queue):
        told = len(stage.market.events.history)
        buyer.subscribe()
        expected = len(stage.market.events.history) - told
        wait_until(lambda: alarmed(stage, sale, dead) or None, "the alarm goes off", seconds=60)
        letters: list[str] = []

        def arrived() -> bool | None:
            found = sqs.receive_message(QueueUrl=dead, MaxNumberOfMessages=10, VisibilityTimeout=60).get("Messages", [])
            letters.extend(message["Body"] for message in found)
            return len(letters) == expected or None

        wait_until(arrived, "every notification is there", seconds=60)

    for letter in letters:
        sqs.send_message(QueueUrl=queue, MessageBody=letter)
    register(buyer)
    open_to(buyer)
