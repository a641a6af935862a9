"""The address under which buyers reach the deployed APIs, and the record of what they called.

An API that AWS would serve at ``https://ID.execute-api.us-east-1.amazonaws.com/prod/`` answers here at
``http://ID.execute-api.localhost:PORT/prod/``, on loopback. Paths, cookies and redirections are the same as
there.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from marketplace_constructs.rehearsal.emulator import REGION
from marketplace_constructs.runtime.clock import Clock

_AWS_HOST: Final = f"execute-api.{REGION}.amazonaws.com"
_LOCAL_HOST: Final = re.compile(r"([a-z0-9]+)\.execute-api\.localhost(?::\d+)?")
_HOP_BY_HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"})
_MOCK: Final = b"Mock response - "
"""What the emulator says, with status 200, for a function that it has no code for or cannot run."""
_MAX_BODY: Final = 10 * 1024 * 1024
"""API Gateway's payload limit. Source: API Gateway developer guide, quotas (read 2026-11-21)."""
_SECONDS: Final = 29
"""API Gateway's integration timeout. Source: as above."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call, as an access log would have it.

    Args:
        at: When it came.
        answered_at: When it was answered, and its line written.
        api_key_id: Id, never the value; None where the method requires no key or the call brought no good
            one.
        brought_key: Whether the header x-api-key was there at all.
        authorizer: What the gate said about it.
        gate_asked: Whether the gate was asked, and its answer kept; else API Gateway had one, or keeps none.
        request_id: Known to the caller.
        extended_request_id: Unique.
        error_type: Of the answer that API Gateway gave itself; empty where the integration did.
        response_bytes: Of the body.
        response_ms: From arrival to answer.
        integration_ms: Of it, in the integration; None where that was not reached.
        integration_status: What the integration answered; None where it did not.
    """

    at: datetime
    answered_at: datetime
    api_id: str
    stage: str
    http_method: str
    resource_path: str
    status: int
    api_key_id: str | None
    brought_key: bool
    authorizer: Mapping[str, str] = field(default_factory=dict)
    gate_asked: bool = False
    request_id: str = ""
    extended_request_id: str = ""
    error_type: str = ""
    response_bytes: int = 0
    response_ms: int = 0
    integration_ms: int | None = None
    integration_status: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether it got past the gate, the key and the throttle, to the code that is sold."""
        return self.status not in {401, 403, 429}


class Gateway:
    """The front of the local AWS; a context manager.

    Args:
        port: The emulator's port on loopback.
        clock: When calls are recorded as having come.

    Attributes:
        listeners: Each is told of every call, before its answer goes back to the caller.
    """

    def __init__(self, port: int, *, clock: Clock) -> None:
        self._emulator_port: Final = port
        self._clock: Final = clock
        self._calls: list[Call] = []
        self.listeners: list[Callable[[Call], None]] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self._server.server_address[1])

    @property
    def calls(self) -> list[Call]:
        """Every call so far, oldest first."""
        with self._lock:
            return list(self._calls)

    def url(self, aws_url: str) -> str:
        """Where an address of a deployed API answers on this machine."""
        parts = urlsplit(aws_url)
        api_id = parts.netloc.split(".", 1)[0]
        return parts._replace(scheme="http", netloc=f"{api_id}.execute-api.localhost:{self.port}").geturl()

    def forward(
        self, api_id: str, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass one call on to the emulator, and its answer back."""
        stage, _, rest = target.lstrip("/").partition("/")
        aws_origin = f"https://{api_id}.{_AWS_HOST}"
        local_origin = f"http://{api_id}.execute-api.localhost:{self.port}"
        given = {name.lower(): value.replace(local_origin, aws_origin) for name, value in headers}
        given = {n: v for n, v in given.items() if n not in _HOP_BY_HOP and not n.startswith("x-forwarded-")}
        given |= {
            "host": f"{api_id}.{_AWS_HOST}",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        }
        at = self._clock()
        connection = http.client.HTTPConnection("127.0.0.1", self._emulator_port, timeout=_SECONDS)
        try:
            connection.request(method, f"/restapis/{api_id}/{stage}/_user_request_/{rest}", body or None, given)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return 504, [("content-type", "application/json")], b'{"message":"Endpoint request timed out"}'
        finally:
            connection.close()
        if content.startswith(_MOCK):
            return 502, [("content-type", "application/json")], b'{"message":"the local AWS cannot run this function"}'
        returned: list[tuple[str, str]] = []
        for name, value in answer.getheaders():
            if name.lower() == "x-rehearsal-access":
                access = json.loads(value)
                # As API Gateway names it.
                returned.append(("x-amz-apigw-id", access["extendedRequestId"]))
                self._record(access, at, brought_key="x-api-key" in given)
            elif name.lower() == "location":
                returned.append((name, value.replace(aws_origin, local_origin)))
            elif name.lower() not in _HOP_BY_HOP | {"content-length"}:
                returned.append((name, value))
        return answer.status, returned, content

    def _record(self, access: Mapping[str, object], at: datetime, *, brought_key: bool) -> None:
        authorizer = access["authorizer"]
        key = access.get("apiKeyId")
        call = Call(
            at=at,
            answered_at=self._clock(),
            api_id=str(access["apiId"]),
            stage=str(access["stage"]),
            http_method=str(access["httpMethod"]),
            resource_path=str(access["resourcePath"]),
            status=int(str(access["status"])),
            api_key_id=str(key) if key else None,
            brought_key=brought_key,
            authorizer=authorizer if isinstance(authorizer, dict) else {},
            gate_asked=access["gateAsked"] is True,
            request_id=str(access.get("requestId", "")),
            extended_request_id=str(access["extendedRequestId"]),
            error_type=str(access.get("errorResponseType", "")),
            response_bytes=int(str(access["responseLength"])),
            response_ms=int(str(access["responseLatency"])),
            integration_ms=_whole(access.get("integrationLatency")),
            integration_status=_whole(access.get("integrationStatus")),
        )
        with self._lock:
            self._calls.append(call)
        for listener in self.listeners:
            listener(call)


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))


def _handler(gateway: Gateway) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _SECONDS

        def answer(self) -> None:
            host = _LOCAL_HOST.fullmatch(self.headers.get("host", ""))
            length = int(self.headers.get("content-length") or 0)
            reply: tuple[int, list[tuple[str, str]], bytes]
            if host is None:
                reply = (
                    404,
                    [],
                    b"no API of that name; expected http://ID.execute-api.localhost:PORT/STAGE/\n",
                )
                self.close_connection = True
            elif length > _MAX_BODY:
                reply = 413, [], b'{"message":"Request Too Long"}'
                self.close_connection = True
            else:
                body = self.rfile.read(length)
                reply = gateway.forward(host[1], self.command, self.path, self.headers.items(), body)
            status, headers, content = reply
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing: what is worth knowing is recorded as a call."""

    return Handler
