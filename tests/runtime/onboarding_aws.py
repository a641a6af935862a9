"""Small doubles of the AWS services that onboarding calls, at the wire: boto3 is real and validates."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import boto3
from botocore.awsrequest import AWSResponse


class Wire:
    """Answers a client's requests instead of the network.

    A subclass has a method per operation that takes the request's members and returns the answer's, or raises
    ``Refused``. ``faults`` are answered first, one per call.
    """

    service = ""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []
        self.faults: list[tuple[int, str]] = []
        self.client = boto3.client(
            self.service,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
        )
        self.client.meta.events.register("before-send", self._answer)

    def _answer(self, request: object, **_: object) -> AWSResponse:
        operation = self._operation(request)
        parameters = json.loads(request.body)
        self.calls.append((operation, parameters))
        status, answer = 200, {}
        try:
            self._meet_fault()
            answer = getattr(self, operation)(parameters) or {}
        except Refused as refused:
            status, answer = (
                refused.status,
                {"__type": refused.code, "message": "text with a@example.com in it"},
            )
        return AWSResponse(
            request.url, status, {"x-amzn-errortype": answer.get("__type", "")}, _Raw(json.dumps(answer))
        )

    def _meet_fault(self) -> None:
        if self.faults:
            raise Refused(*self.faults.pop(0))

    def _operation(self, request: object) -> str:
        target = request.headers["X-Amz-Target"]
        return (target if isinstance(target, str) else target.decode()).partition(".")[2]


class _Raw(io.BytesIO):
    def __init__(self, text: str) -> None:
        super().__init__(text.encode())

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.read()


class Refused(Exception):
    """The service says no."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class ContactsTable(Wire):
    """DynamoDB, as far as the contacts need it; a page of a scan holds two items."""

    service = "dynamodb"

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[str, dict] = {}

    def PutItem(self, asked: dict) -> None:  # noqa: N802
        self._check(asked["Item"]["agreement"]["S"], asked["ConditionExpression"])
        self.items[asked["Item"]["agreement"]["S"]] = asked["Item"]

    def GetItem(self, asked: dict) -> dict:  # noqa: N802
        item = self.items.get(asked["Key"]["agreement"]["S"])
        return {"Item": item} if item else {}

    def UpdateItem(self, asked: dict) -> None:  # noqa: N802
        key = asked["Key"]["agreement"]["S"]
        self._check(key, asked["ConditionExpression"])
        name, _, placeholder = asked["UpdateExpression"].removeprefix("SET ").partition(" = ")
        self.items[key][name] = asked["ExpressionAttributeValues"][placeholder]

    def DeleteItem(self, asked: dict) -> dict:  # noqa: N802
        old = self.items.pop(asked["Key"]["agreement"]["S"], None)
        return {"Attributes": old} if old else {}

    def Scan(self, asked: dict) -> dict:  # noqa: N802
        keys = sorted(self.items)
        start = asked.get("ExclusiveStartKey", {}).get("agreement", {}).get("S", "")
        page = [key for key in keys if key > start][:2]
        name, _, placeholder = asked["FilterExpression"].partition(" = ")
        wanted = asked["ExpressionAttributeValues"][placeholder]
        answer = {"Items": [self.items[key] for key in page if self.items[key].get(name) == wanted]}
        return answer | ({"LastEvaluatedKey": {"agreement": {"S": page[-1]}}} if page and page[-1] != keys[-1] else {})

    def _check(self, key: str, condition: str) -> None:
        holds = {
            "attribute_not_exists(agreement)": key not in self.items,
            "attribute_exists(agreement)": key in self.items,
        }
        if not holds[condition]:
            raise Refused(400, "ConditionalCheckFailedException")


class SecretStore(Wire):
    """Secrets Manager with one secret, its versions and their staging labels."""

    service = "secretsmanager"

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._clock = clock
        self.values: dict[str, tuple[str, datetime]] = {"v" * 36: ("0" * 64, clock())}
        self.stages: dict[str, set[str]] = {"v" * 36: {"AWSCURRENT"}}

    def DescribeSecret(self, _: dict) -> dict:  # noqa: N802
        return {"VersionIdsToStages": {version: sorted(labels) for version, labels in self.stages.items()}}

    def GetSecretValue(self, asked: dict) -> dict:  # noqa: N802
        stage = asked["VersionStage"]
        version = next((v for v, labels in self.stages.items() if stage in labels), None)
        if version not in self.values or asked.get("VersionId", version) != version:
            raise Refused(400, "ResourceNotFoundException")
        value, created_at = self.values[version]
        return {"VersionId": version, "SecretString": value, "CreatedDate": created_at.timestamp()}

    def PutSecretValue(self, asked: dict) -> None:  # noqa: N802
        version = asked["ClientRequestToken"]
        if version in self.values and self.values[version][0] != asked["SecretString"]:
            raise Refused(400, "ResourceExistsException")
        self.values[version] = (asked["SecretString"], self._clock())
        for label in asked["VersionStages"]:
            self._move(label, version)

    def UpdateSecretVersionStage(self, asked: dict) -> None:  # noqa: N802
        if asked["RemoveFromVersionId"] not in {v for v, s in self.stages.items() if asked["VersionStage"] in s}:
            raise Refused(400, "InvalidParameterException")
        self._move("AWSPREVIOUS", asked["RemoveFromVersionId"])
        self._move(asked["VersionStage"], asked["MoveToVersionId"])

    def begin(self, version: str) -> None:
        """What RotateSecret does before it calls the function: an empty pending version."""
        self._move("AWSPENDING", version)

    def _move(self, label: str, version: str) -> None:
        for labels in self.stages.values():
            labels.discard(label)
        self.stages.setdefault(version, set()).add(label)


class PostOffice(Wire):
    """SES: keeps what it was given."""

    service = "sesv2"

    def __init__(self) -> None:
        super().__init__()
        self.mails: list[dict] = []

    def _operation(self, request: object) -> str:
        assert request.url.endswith("/v2/email/outbound-emails")
        return "SendEmail"

    def SendEmail(self, asked: dict) -> dict:  # noqa: N802
        self.mails.append(asked)
        return {"MessageId": "1"}
