"""What AWS Marketplace tells a seller, delivered to the deployed stacks the way AWS delivers it.

Notifications go to whatever the stack subscribed to the product's SNS topics. Agreement events are shown to
the rules that were deployed: EventBridge says whether a rule's own pattern matches, and only then does the
envelope go to the rule's queues. No pattern is widened for it, because the emulator, like AWS, lets nobody
send events of ``aws.*``. A queue whose policy does not admit the topic or rule gets nothing, as on AWS.

Usage events of the seller's own backends go the same way from their bus to a Firehose stream, which the emulator's
EventBridge does not know as a target.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.rehearsal.marketplace import EventBridgeEvent, Notification, SnsMessage


class EventDelivery:
    """Brings notifications to whoever was deployed to hear them.

    Args:
        aws: Where the stacks are deployed.
        to_stream: Takes a record that a Firehose stream of this name gets.

    Attributes:
        unheard: Notifications that reached no queue, oldest first; AWS would not complain about them either.
    """

    def __init__(self, aws: LocalAws, *, to_stream: Callable[[str, bytes], None]) -> None:
        self._aws: Final = aws
        self._to_stream: Final = to_stream
        self.unheard: list[Notification] = []

    def publish(self, notification: Notification) -> None:
        """Deliver one notification to every queue that was deployed to get it."""
        match notification:
            case SnsMessage():
                reached = self._publish_message(notification)
            case EventBridgeEvent():
                reached = self.put_event(notification.envelope)
        if not reached:
            self.unheard.append(notification)

    def _publish_message(self, message: SnsMessage) -> int:
        owner = message.topic_arn.split(":")[4]
        sns = self._aws.client("sns", account=owner)
        reached = 0
        try:
            pages = list(sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=message.topic_arn))
        except sns.exceptions.NotFoundException:
            return 0
        for subscription in (found for page in pages for found in page["Subscriptions"]):
            if subscription["Protocol"] != "sqs":
                continue
            arn = subscription["SubscriptionArn"]
            attributes = sns.get_subscription_attributes(SubscriptionArn=arn)["Attributes"]
            raw = attributes.get("RawMessageDelivery") == "true"
            body = message.message if raw else json.dumps(_sns_envelope(message))
            reached += self._send(subscription["Endpoint"], body, service="sns.amazonaws.com", source=message.topic_arn)
        return reached

    def put_event(self, envelope: Mapping[str, object], *, bus: str = "default") -> int:
        """Show an event to the rules of a bus; how many targets it reached."""
        events = self._aws.client("events")
        text = json.dumps(envelope)
        reached = 0
        pages = events.get_paginator("list_rules").paginate(EventBusName=bus)
        for rule in (rule for page in pages for rule in page["Rules"]):
            pattern = rule.get("EventPattern")
            if rule["State"] != "ENABLED" or not pattern:
                continue
            if not events.test_event_pattern(EventPattern=pattern, Event=text)["Result"]:
                continue
            for target in events.list_targets_by_rule(Rule=rule["Name"], EventBusName=bus)["Targets"]:
                match target["Arn"].split(":")[2]:
                    case "sqs":
                        reached += self._send(target["Arn"], text, service="events.amazonaws.com", source=rule["Arn"])
                    case "firehose":
                        reached += self._put_record(target, text)
        return reached

    def _put_record(self, target: Mapping[str, Any], text: str) -> int:
        """Give a stream a record, where the target's role may."""
        answer = self._aws.client("iam").simulate_principal_policy(
            PolicySourceArn=target["RoleArn"], ActionNames=["firehose:PutRecord"], ResourceArns=[target["Arn"]]
        )
        if any(result["EvalDecision"] != "allowed" for result in answer["EvaluationResults"]):
            return 0
        self._to_stream(target["Arn"].rpartition("/")[2], text.encode())
        return 1

    def _send(self, queue_arn: str, body: str, *, service: str, source: str) -> int:
        sqs = self._aws.client("sqs")
        url = sqs.get_queue_url(QueueName=queue_arn.rsplit(":", 1)[-1])["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"]).get("Attributes", {})
        if not admits(json.loads(attributes.get("Policy") or "{}"), service=service, source=source):
            return 0
        sqs.send_message(QueueUrl=url, MessageBody=body)
        return 1


def admits(policy: Mapping[str, Any], *, service: str, source: str) -> bool:
    """Whether a queue's policy lets an AWS service send to it on behalf of a topic or rule.

    A condition on anything but the source and its account counts as not fulfilled; denials are those for
    calls without TLS, which no service makes.
    """
    return any(
        statement["Effect"] == "Allow"
        and service in _listed(statement.get("Principal", {}), "Service")
        and {"sqs:sendmessage", "sqs:*"} & {action.lower() for action in _listed(statement, "Action")}
        and all(
            _holds(key, _listed(keys, key), source) for keys in statement.get("Condition", {}).values() for key in keys
        )
        for statement in policy.get("Statement", [])
    )


def _holds(key: str, values: list[str], source: str) -> bool:
    match key.lower():
        case "aws:sourcearn":
            return any(fnmatchcase(source, value) for value in values)
        case "aws:sourceaccount":
            return source.split(":")[4] in values
    return False


def _listed(holder: object, name: str) -> list[str]:
    value = holder.get(name, []) if isinstance(holder, Mapping) else []
    return value if isinstance(value, list) else [str(value)]


def _sns_envelope(message: SnsMessage) -> dict[str, str]:
    """A notification as SQS gets it.

    Source: Amazon SNS developer guide, HTTP/HTTPS and Amazon SQS notification JSON format (read 2026-11-21).
    """
    return {
        "Type": "Notification",
        "MessageId": message.message_id,
        "TopicArn": message.topic_arn,
        "Message": message.message,
        "Timestamp": _sns_time(message.published_at),
        "SignatureVersion": "1",
    }


def _sns_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
