"""The stand-in over HTTP: the AWS protocols at ``/``, the control API at ``/control``."""

from __future__ import annotations

import json
import re
import sys
import threading
import uuid
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.rehearsal.marketplace import control
from marketplace_constructs.rehearsal.marketplace.faults import FaultKind
from marketplace_constructs.rehearsal.marketplace.market import Caller, Marketplace
from marketplace_constructs.rehearsal.marketplace.models import (
    CBOR_PROTOCOL,
    JSON_PROTOCOL,
    SERVICE_NAMES,
    ApiError,
    Service,
    service,
    service_by_target,
)

Authorize = Callable[[str, str], bool]
"""Whether an access key id may do an action, such as ``aws-marketplace:ResolveCustomer``."""

_CONTENT_TYPES: Final = {JSON_PROTOCOL: "application/x-amz-json-{}", CBOR_PROTOCOL: "application/cbor"}
_CREDENTIAL: Final = re.compile(r"AWS4-HMAC-SHA256 .*?Credential=([^/,\s]+)/\d{8}/([a-z0-9-]+)/([a-z-]+)/")
_RPC_PATH: Final = re.compile(r"/service/(\w+)/operation/(\w+)")
_BATCH_BYTES: Final = 1024 * 1024
_BODY_BYTES: Final = 4 * 1024 * 1024
_IDLE_SECONDS: Final = 30
_TICK_SECONDS: Final = 0.1
_POLL_SECONDS: Final = 0.02


class MarketplaceServer:
    """Serves a Marketplace on 127.0.0.1, on a port that the system chooses, until ``stop``.

    A context manager. A caller's account is the access key id of its signature where that is twelve digits,
    else what ``accounts`` says, else the seller's. Signatures are not verified.

    Args:
        marketplace: What is served.
        accounts: The account of each access key id.
        authorize: Asked for each signed call; left out, everything is allowed.
        role_of: The ARN of the role that an access key id is of; left out, each is of a user.
    """

    def __init__(
        self,
        marketplace: Marketplace,
        *,
        accounts: dict[str, str] | None = None,
        authorize: Authorize | None = None,
        role_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self.marketplace = marketplace
        self.accounts = dict(accounts or {})
        self.authorize = authorize
        self.role_of = role_of
        self.stopping = threading.Event()
        self._errors: list[Exception] = []
        self._http = _Http(("127.0.0.1", 0), _handler_of(self))
        self._threads = [
            threading.Thread(
                target=self._http.serve_forever, args=(_POLL_SECONDS,), name="marketplace-http", daemon=True
            ),
            threading.Thread(target=self._tick, name="marketplace-clock", daemon=True),
        ]

    @property
    def url(self) -> str:
        """The endpoint of every service that is played."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def control_url(self) -> str:
        """Where the control API begins."""
        return f"{self.url}/control"

    @property
    def errors(self) -> tuple[Exception, ...]:
        """What went wrong while nobody waited, such as what ``publish`` raised on a delayed notification."""
        return tuple(self._errors)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that send a process's AWS SDK here.

        Source: AWS SDKs and Tools reference guide, service-specific endpoints (read 2026-11-21).
        """
        return {service(name).endpoint_variable: self.url for name in SERVICE_NAMES}

    def start(self) -> Self:
        """Serve, in threads of its own."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop serving, and cut off calls that still wait."""
        self.stopping.set()
        if self._threads[0].is_alive():
            self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tick(self) -> None:
        while not self.stopping.wait(_TICK_SECONDS):
            try:
                self.marketplace.tick()
            except Exception as error:  # noqa: BLE001  # whatever it is, the clock must go on
                self._errors.append(error)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that hangs up is its own affair.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # passed on as it came


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    server_version = "MarketplaceStandIn"
    owner: MarketplaceServer

    def do_GET(self) -> None:
        self._serve(b"")

    def do_DELETE(self) -> None:
        self._serve(self._body())

    def do_PATCH(self) -> None:
        self._serve(self._body())

    def do_POST(self) -> None:
        self._serve(self._body())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name that is overridden
        """Say nothing: the call log has it, without tokens."""

    def _body(self) -> bytes | None:
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length) if length <= _BODY_BYTES else None

    def _serve(self, body: bytes | None) -> None:
        path = self.path.partition("?")[0]
        if body is None:
            self.close_connection = True
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"", "text/plain")
        elif path == "/control" or path.startswith("/control/"):
            self._serve_control(path, body)
        else:
            self._serve_aws(path, body)

    def _serve_control(self, path: str, body: bytes) -> None:
        # A page in a browser on this machine must not drive the stand-in through another host name.
        if self.headers.get("Host", "").partition(":")[0] not in {"127.0.0.1", "localhost"}:
            status, answer = HTTPStatus.FORBIDDEN, control.problem("expected the host 127.0.0.1")
        else:
            try:
                found = control.run(self.owner.marketplace, self.command, path, json.loads(body or b"{}"))
                status, answer = (
                    (HTTPStatus.OK, found) if found is not None else (HTTPStatus.NOT_FOUND, control.nothing(path))
                )
            except (MarketplaceConstructsError, ValueError, TypeError, KeyError) as error:
                status, answer = HTTPStatus.BAD_REQUEST, control.problem(str(error))
        self._answer(status, json.dumps(answer, indent=1).encode(), "application/json")

    def _serve_aws(self, path: str, body: bytes) -> None:
        protocol = CBOR_PROTOCOL if self.headers.get("smithy-protocol") == "rpc-v2-cbor" else JSON_PROTOCOL
        target: Service | None = None
        operation = ""
        try:
            match = _RPC_PATH.fullmatch(path)
            prefix, _, name = self.headers.get("X-Amz-Target", "").rpartition(".")
            target = service_by_target(match[1] if match else prefix)
            operation = target.operation(match[2] if match else name).name
            answer = self._call(target, operation, protocol, body)
        except ApiError as error:
            speaker = target or service(SERVICE_NAMES[0])
            status = speaker.status(operation, error) if operation else error.status or HTTPStatus.BAD_REQUEST
            self._answer(status, speaker.encode_error(protocol, error), self._content_type(speaker, protocol))
        except _Unanswered:
            self.close_connection = True
        else:
            self._answer(
                HTTPStatus.OK,
                target.encode(operation, protocol, answer),
                self._content_type(target, protocol),
            )

    def _call(self, target: Service, operation: str, protocol: str, body: bytes) -> dict[str, object]:
        market = self.owner.marketplace
        caller = self._caller(target, operation)
        request = target.decode(operation, protocol, body)
        fault = market.faults.take(operation)
        if fault and fault.kind in {FaultKind.TIMEOUT, FaultKind.LOST_CALL}:
            market.log_call(operation, request, caller, fault.kind)
            self.owner.stopping.wait(fault.seconds if fault.kind is FaultKind.TIMEOUT else 0)
            raise _Unanswered
        if operation == "BatchMeterUsage" and len(body) >= _BATCH_BYTES:
            # Source: API reference, BatchMeterUsage: "each request must be less than 1 MB in size".
            raise ApiError("ValidationException", "the request must be less than 1 MB in size")
        answer = market.call(operation, request, caller=caller, fault=fault)
        if fault and fault.kind is FaultKind.LOST_REPLY:
            market.log_call(operation, request, caller, fault.kind)
            raise _Unanswered
        return answer

    def _caller(self, target: Service, operation: str) -> Caller:
        credential = _CREDENTIAL.match(self.headers.get("Authorization", ""))
        signing_name = target.model.signing_name
        if credential is None or credential[3] != signing_name:
            raise ApiError("MissingAuthenticationTokenException", "the request is not signed", 403)
        key, region = credential[1], credential[2]
        owner = self.owner
        if owner.authorize is not None and not owner.authorize(key, f"{signing_name}:{operation}"):
            raise ApiError("AccessDeniedException", f"not authorized to perform {signing_name}:{operation}", 400)
        is_account = key.isdecimal() and len(key) == 12  # an account id
        account = key if is_account else owner.accounts.get(key, owner.marketplace.seller_account)
        return Caller(account_id=account, region=region, access_key_id=key, role_arn=owner.role_of(key))

    def _content_type(self, target: Service, protocol: str) -> str:
        return _CONTENT_TYPES[protocol].format(target.model.metadata["jsonVersion"])

    def _answer(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        if content_type == "application/cbor":
            self.send_header("smithy-protocol", "rpc-v2-cbor")
        self.end_headers()
        self.wfile.write(body)


class _Unanswered(Exception):
    """The connection is to be closed without an answer."""


def _handler_of(server: MarketplaceServer) -> type[_Handler]:
    return type("Handler", (_Handler,), {"owner": server})
