"""API Gateway's access log and the Firehose streams of a sale: played here, because the local AWS writes no log.

A stage's line is rendered from the format that is deployed, and its records go where the deployed stream says: to its
bucket, under its prefix, compressed as it is set, where its role may put them. A file lies under the UTC hour in which
its first record arrived, and holds what arrived while Firehose collects. Time is the rehearsal's.

Firehose delivers each record at least once and sometimes late: a rehearsal may have a file delivered twice
(``duplicate``) or later (``put_aside``), and may write what no reader can read (``write``).

Sources: API Gateway developer guide, Variables for access logging; Amazon Data Firehose developer guide, Amazon S3
object names, and data delivery: at least once, retried for up to 24 hours (read 2026-11-28).
"""

from __future__ import annotations

import gzip
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from marketplace_constructs.queries.access_log import ABSENT
from marketplace_constructs.rehearsal.deployment import DeployedStack
from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.runtime.clock import Clock

STREAM_NAME_PREFIX: Final = "amazon-apigateway-"
"""Source: API Gateway developer guide, Logging API calls to Amazon Data Firehose: it writes to no other streams (read
2026-11-22)."""
_STREAM_TYPE: Final = "AWS::KinesisFirehose::DeliveryStream"
_VARIABLE: Final = re.compile(r"\$context((?:\.[A-Za-z]\w*)+)")
_OF_AUTHORIZER: Final = "authorizer."
_TICK_SECONDS: Final = 1.0

VARIABLES: Final[Mapping[str, Callable[[Call], object]]] = MappingProxyType(
    {
        "apiId": lambda call: call.api_id,
        "error.responseType": lambda call: call.error_type,
        "extendedRequestId": lambda call: call.extended_request_id,
        "httpMethod": lambda call: call.http_method,
        "identity.apiKeyId": lambda call: call.api_key_id,
        "integration.latency": lambda call: call.integration_ms,
        "integration.status": lambda call: call.integration_status,
        "integrationLatency": lambda call: call.integration_ms,
        "requestId": lambda call: call.request_id,
        "requestTime": lambda call: f"{call.at.astimezone(UTC):%d/%b/%Y:%H:%M:%S} +0000",
        "requestTimeEpoch": lambda call: (call.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
        "resourcePath": lambda call: call.resource_path,
        "responseLatency": lambda call: call.response_ms,
        "responseLength": lambda call: call.response_bytes,
        "stage": lambda call: call.stage,
        "status": lambda call: call.status,
    }
)
"""What is known of a call, by the names that follow ``$context.``; besides these, whatever the authorizer said."""


def rendered(line_format: str, call: Call) -> str:
    """A line of the log."""

    def value_of(found: re.Match[str]) -> str:
        name = found[1].removeprefix(".")
        if name.startswith(_OF_AUTHORIZER):
            value: object = call.authorizer.get(name.removeprefix(_OF_AUTHORIZER))
        else:
            value = VARIABLES[name](call)
        return ABSENT if value is None or value == "" else str(value)

    return _VARIABLE.sub(value_of, line_format)


def unknown_variables(line_format: str) -> list[str]:
    """The variables of a format that are not known here."""
    names = {found[1].removeprefix(".") for found in _VARIABLE.finditer(line_format)}
    return sorted(name for name in names - VARIABLES.keys() if not name.startswith(_OF_AUTHORIZER))


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """A file that Firehose is to put.

    Args:
        stem: How its key in the bucket begins.
        ending: How it ends.
        content: As it is stored.
    """

    stem: str
    ending: str
    content: bytes

    def new_key(self) -> str:
        """A key that no file has."""
        return f"{self.stem}-{uuid.uuid4()}{self.ending}"


@dataclass
class _Stream:
    """A deployed stream, and what it holds."""

    name: str
    bucket: str
    prefix: str
    is_compressed: bool
    interval: timedelta
    role_arn: str
    ends_records: bool
    since: datetime | None = None
    records: list[bytes] = field(default_factory=list)
    waiting: list[LogFile] = field(default_factory=list)

    def close(self) -> None:
        """Make a file of what was collected."""
        if self.since is None:
            return
        content, since = b"".join(self.records), self.since
        self.waiting.append(
            LogFile(
                stem=f"{self.prefix}{since:%Y/%m/%d/%H}/{self.name}-1-{since:%Y-%m-%d-%H-%M-%S}",
                ending=".gz" if self.is_compressed else "",
                content=gzip.compress(content) if self.is_compressed else content,
            )
        )
        self.since, self.records = None, []


class AccessLogs:
    """The access logs of the stages that are sold; a context manager.

    Args:
        aws: Where the stacks are deployed.
        clock: When records arrive.

    Attributes:
        delivered: The key of every file that was put, oldest first.
    """

    def __init__(self, aws: LocalAws, *, clock: Clock) -> None:
        self._aws: Final = aws
        self._clock: Final = clock
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._logs: dict[tuple[str, str], tuple[str, _Stream]] = {}
        self._streams: dict[str, _Stream] = {}
        self._is_late = False
        self._twice = 0
        self.delivered: list[str] = []
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def add(self, stack: DeployedStack, api_id: str) -> bool:
        """Write the log of each stage of an API that has one, as the stack has deployed it.

        Returns:
            Whether any has, whose destination is a Firehose stream of the stack.

        Raises:
            CouldNotRehearse: MP-REHEARSE-26, a format has a variable that is not known here; MP-REHEARSE-27, API
                Gateway would not write to the stream.
        """
        streams = stack.of_type(_STREAM_TYPE)
        found = False
        for logical_id, resource in stack.template["Resources"].items():
            properties = resource.get("Properties", {})
            if (
                resource["Type"] != "AWS::ApiGateway::Stage"
                or stack.physical_ids.get(properties["RestApiId"].get("Ref")) != api_id
            ):
                continue
            setting = properties.get("AccessLogSetting", {})
            destination = setting.get("DestinationArn")
            stream = (
                destination["Fn::GetAtt"][0] if isinstance(destination, dict) and "Fn::GetAtt" in destination else ""
            )
            if stream not in streams:
                continue
            if unknown := unknown_variables(setting["Format"]):
                raise CouldNotRehearse(
                    "MP-REHEARSE-26",
                    f"the access-log format of {logical_id} in {stack.name}, got the variables {', '.join(unknown)}; "
                    f"expected ones that are played here: {', '.join(sorted(VARIABLES))} and authorizer.…; take them "
                    "out of the format",
                )
            with self._lock:
                self._logs[api_id, properties["StageName"]] = setting["Format"], self._stream(streams[stream])
            found = True
        return found

    def see(self, call: Call) -> None:
        """Write the line of a call, where its stage has a log."""
        with self._lock:
            log = self._logs.get((call.api_id, call.stage))
            if log is not None:
                line_format, stream = log
                self._arrive(stream, rendered(line_format, call).encode(), call.answered_at)

    def write(self, api_id: str, record: bytes) -> None:
        """Let something arrive that no call has made."""
        with self._lock:
            for (logged, _), (_, stream) in self._logs.items():
                if logged == api_id:
                    self._arrive(stream, record, self._clock())

    def record(self, stream: str, record: bytes) -> None:
        """Let a record arrive that somebody else has put, such as a rule of EventBridge."""
        with self._lock:
            found = self._described(stream)
            self._arrive(found, record + b"\n" if found.ends_records else record, self._clock())

    def duplicate(self, *, times: int = 1) -> None:
        """Put each of the next files twice, under two names."""
        self._twice += times

    @contextmanager
    def put_aside(self) -> Iterator[Callable[[], None]]:
        """What arrives meanwhile comes late: it is put when the function that this gives is called.

        Its files are named by the time of its arrival all the same.
        """
        late: list[tuple[_Stream, LogFile]] = []

        def put() -> None:
            with self._lock:
                for stream, file in late:
                    stream.waiting.append(file)
                late.clear()
                self._put_all()

        with self._lock:
            self.deliver()
            self._is_late = True
        try:
            yield put
        finally:
            with self._lock:
                for stream in self._streams.values():
                    stream.close()
                    late += [(stream, file) for file in stream.waiting]
                    stream.waiting.clear()
                self._is_late = False

    def tick(self) -> None:
        """Put what Firehose has collected long enough."""
        now = self._clock()
        with self._lock:
            for stream in self._streams.values():
                if stream.since is not None and stream.since + stream.interval <= now:
                    stream.close()
            self._put_all()

    def deliver(self) -> None:
        """Put everything that has arrived, as if Firehose had collected it long enough."""
        with self._lock:
            for stream in self._streams.values():
                stream.close()
            self._put_all()

    def _stream(self, name: str) -> _Stream:
        if not name.startswith(STREAM_NAME_PREFIX):
            raise CouldNotRehearse(
                "MP-REHEARSE-27",
                f"the stream of an access log, got the name {name}; expected {STREAM_NAME_PREFIX}…, since API Gateway "
                "writes to no other; name it so",
            )
        return self._described(name)

    def _described(self, name: str) -> _Stream:
        described: dict[str, Any] = self._aws.client("firehose").describe_delivery_stream(DeliveryStreamName=name)
        (destination,) = described["DeliveryStreamDescription"]["Destinations"]
        settings = destination["ExtendedS3DestinationDescription"]
        stream = _Stream(
            name=name,
            bucket=settings["BucketARN"].rpartition(":")[2],
            prefix=settings.get("Prefix", ""),
            is_compressed=settings["CompressionFormat"] == "GZIP",
            interval=timedelta(seconds=settings["BufferingHints"]["IntervalInSeconds"]),
            role_arn=settings["RoleARN"],
            ends_records=any(
                processor["Type"] == "AppendDelimiterToRecord"
                for processor in settings.get("ProcessingConfiguration", {}).get("Processors", ())
            ),
        )
        # A stack that is updated goes on with what has arrived.
        return self._streams.setdefault(name, stream)

    def _arrive(self, stream: _Stream, record: bytes, at: datetime) -> None:
        if stream.since is not None and stream.since + stream.interval <= at:
            stream.close()
        stream.since = stream.since or at
        stream.records.append(record)

    def _put_all(self) -> None:
        if self._is_late:
            return
        for stream in self._streams.values():
            while stream.waiting and self._may_put(stream, stream.waiting[0]):
                file = stream.waiting.pop(0)
                self._put(stream, file)
                if self._twice:
                    self._twice -= 1
                    self._put(stream, file)

    def _may_put(self, stream: _Stream, file: LogFile) -> bool:
        """Whether the stream's role lets Firehose put a file; where not, it tries again later."""
        answer = self._aws.client("iam").simulate_principal_policy(
            PolicySourceArn=stream.role_arn,
            ActionNames=["s3:PutObject"],
            ResourceArns=[f"arn:aws:s3:::{stream.bucket}/{file.new_key()}"],
        )
        return all(result["EvalDecision"] == "allowed" for result in answer["EvaluationResults"])

    def _put(self, stream: _Stream, file: LogFile) -> None:
        key = file.new_key()
        self._aws.client("s3").put_object(Bucket=stream.bucket, Key=key, Body=file.content)
        self.delivered.append(key)

    def _go_on(self) -> None:
        while not self._stopping.wait(_TICK_SECONDS):
            self.tick()
