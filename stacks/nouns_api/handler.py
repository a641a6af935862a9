"""The proper-noun search as a Lambda function behind an API Gateway REST API (Lambda proxy integration).

Handler name: `handler.handler`, with this folder as the function's code. It needs the standard library only,
keeps no state and calls nothing. Every route is in ROUTES; openapi.json describes the same routes to buyers.

Source of the event's and the answer's shape: API Gateway developer guide, "Lambda proxy integrations in API
Gateway", input format and output format.
"""

import base64
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypedDict

# In Lambda this folder is the root of the code; in the repository it is a package.
if TYPE_CHECKING or __package__:
    from stacks.nouns_api.proper_nouns import Noun, find_nouns
    from stacks.nouns_api.sample_texts import SAMPLES
else:
    from proper_nouns import Noun, find_nouns
    from sample_texts import SAMPLES

MAX_TEXT_BYTES: Final = 100_000
"""The longest text that is searched, in bytes of UTF-8, inclusive."""

_MAX_ECHO: Final = 60

Payload = dict[str, object]


class ProxyEvent(TypedDict, total=False):
    """What API Gateway passes of a request, as far as it is read here."""

    httpMethod: str
    resource: str
    path: str
    pathParameters: dict[str, str] | None
    queryStringParameters: dict[str, str] | None
    headers: dict[str, str] | None
    body: str | None
    isBase64Encoded: bool
    requestContext: dict[str, object]


class ProxyAnswer(TypedDict):
    """What API Gateway makes the HTTP response of."""

    statusCode: int
    headers: dict[str, str]
    body: str
    isBase64Encoded: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a known route: header names in lower case, the body not decoded yet."""

    path_parameters: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: str
    is_base64: bool


class RequestError(Exception):
    """A request that is answered with a 4xx status, a code to branch on and a message to read."""

    def __init__(self, status: HTTPStatus, code: str, message: str, **headers: str) -> None:
        """Make the error; `headers` go into the answer."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def health(_request: Request) -> Payload:
    """Say that the function runs."""
    return {"status": "ok"}


def nouns_of_text(request: Request) -> Payload:
    """Find the proper nouns of the text in the JSON body."""
    return _nouns_payload(find_nouns(_checked_text(_json_field(request, "text"))))


def search_nouns(request: Request) -> Payload:
    """Find those proper nouns of `text` in which a word begins with `q`, whatever the case."""
    query = " ".join(_query_parameter(request, "q").casefold().split())
    nouns = find_nouns(_checked_text(_query_parameter(request, "text")))
    return _nouns_payload(noun for noun in nouns if f" {query}" in f" {noun.text.casefold()}")


def list_samples(_request: Request) -> Payload:
    """List the texts that are shipped with the API."""
    samples = SAMPLES.values()
    return {"samples": [{"id": s.sample_id, "title": s.title, "characters": len(s.text)} for s in samples]}


def get_sample(request: Request) -> Payload:
    """Give one of the shipped texts."""
    sample_id = request.path_parameters["id"]
    sample = SAMPLES.get(sample_id)
    if sample is None:
        raise RequestError(
            HTTPStatus.NOT_FOUND,
            "unknown_sample",
            f"no such sample, got {_echo(sample_id)}; expected one of {', '.join(SAMPLES)}; "
            "call GET /v1/samples for the list",
        )
    return {"id": sample.sample_id, "title": sample.title, "text": sample.text}


def nouns_of_sample(request: Request) -> Payload:
    """Find the proper nouns of one of the shipped texts."""
    return _nouns_payload(find_nouns(str(get_sample(request)["text"])))


Route = Callable[[Request], Payload]

ROUTES: Final[Mapping[str, Mapping[str, Route]]] = MappingProxyType(
    {
        "/v1/health": {"GET": health},
        "/v1/nouns": {"POST": nouns_of_text},
        "/v1/nouns/search": {"GET": search_nouns},
        "/v1/samples": {"GET": list_samples},
        "/v1/samples/{id}": {"GET": get_sample},
        "/v1/samples/{id}/nouns": {"GET": nouns_of_sample},
    }
)
_PATTERNS: Final = {path: re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)) for path in ROUTES}


def handler(event: ProxyEvent, _context: object) -> ProxyAnswer:
    """Answer one request and write one line about it to standard output.

    The line is JSON with request id, method, route, status, error code, noun counts and milliseconds. It has
    neither the text nor anything else that the caller wrote.
    """
    started = time.perf_counter()
    method = event.get("httpMethod", "")
    line: dict[str, object] = {"request_id": event.get("requestContext", {}).get("requestId")}
    headers: dict[str, str] = {}
    status = HTTPStatus.OK
    try:
        path, parameters = _match(_requested_path(event))
        line |= {"route": path, "method": method if method in ROUTES[path] else None}
        payload = _route(path, method)(_request(event, parameters))
        line |= {key: payload[key] for key in ("noun_count", "occurrence_count") if key in payload}
    except RequestError as error:
        status, headers = error.status, error.headers
        payload = {"code": error.code, "message": error.message}
        line["code"] = error.code
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller must not see a trace
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        payload = {
            "code": "internal_error",
            "message": "the request failed through no fault of yours; try again, and if it fails again "
            "give support the x-amzn-RequestId header of this answer",
        }
        # Type and place only: the exception's own words may quote the text.
        line |= {"code": "internal_error", "error": type(error).__name__, "at": _place(error)}
    line |= {"status": status.value, "duration_ms": round((time.perf_counter() - started) * 1000, 1)}
    sys.stdout.write(json.dumps(line) + "\n")
    return {
        "statusCode": status.value,
        "headers": {
            "Content-Type": "application/json",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **headers,
        },
        # ASCII only, so that a lone surrogate quoted from the request cannot break the answer's encoding.
        "body": json.dumps(payload, separators=(",", ":")),
        "isBase64Encoded": False,
    }


def _requested_path(event: ProxyEvent) -> str:
    """Rebuild the path from the matched resource, which a custom domain's base path is no part of."""
    path = event.get("resource", "")
    for name, value in (event.get("pathParameters") or {}).items():
        path = path.replace(f"{{{name}+}}", value).replace(f"{{{name}}}", value)
    return event.get("path", "") if not path or "{" in path else path


def _match(path: str) -> tuple[str, Mapping[str, str]]:
    for template, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(path):
            return template, match.groupdict()
    raise RequestError(
        HTTPStatus.NOT_FOUND,
        "unknown_route",
        f"no such route, got {_echo(path)}; expected one of {', '.join(ROUTES)}; check the path's spelling",
    )


def _route(path: str, method: str) -> Route:
    route = ROUTES[path].get(method)
    if route is None:
        allowed = ", ".join(ROUTES[path])
        raise RequestError(
            HTTPStatus.METHOD_NOT_ALLOWED,
            "method_not_allowed",
            f"{path} does not take this method, got {_echo(method)}; expected {allowed}; use {allowed}",
            Allow=allowed,
        )
    return route


def _request(event: ProxyEvent, path_parameters: Mapping[str, str]) -> Request:
    return Request(
        path_parameters=path_parameters,
        query=event.get("queryStringParameters") or {},
        headers={name.lower(): value for name, value in (event.get("headers") or {}).items()},
        body=event.get("body") or "",
        is_base64=event.get("isBase64Encoded", False),
    )


def _json_field(request: Request, name: str) -> str:
    """Read a string field of the JSON object in the body."""
    example = f'send {{"{name}": "…"}}'
    content_type = request.headers.get("content-type", "")
    media_type, *options = (part.strip().lower() for part in content_type.split(";"))
    charsets = {option.partition("=")[2].strip('" ') for option in options if option.startswith("charset=")}
    if media_type != "application/json" or charsets - {"utf-8"}:
        raise RequestError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "wrong_content_type",
            f"the body is not declared as JSON in UTF-8, got {_echo(content_type) or 'no content type'}; "
            f"expected application/json; set the header Content-Type: application/json and {example}",
        )
    try:
        body = base64.b64decode(request.body, validate=True).decode() if request.is_base64 else request.body
        document: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        got = "bytes that cannot be read"
        if isinstance(error, json.JSONDecodeError):
            got = f"an error at line {error.lineno} column {error.colno}"
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "bad_json",
            f"the body is not valid JSON, got {got}; expected a JSON object in UTF-8; {example}",
        ) from None
    if not isinstance(document, dict):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "bad_json",
            f"the body is not a JSON object, got {_json_type(document)}; expected an object; {example}",
        )
    if name not in document:
        fields = "other fields only" if document else "an object without fields"
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "missing_field",
            f"the field {name} is missing, got {fields}; expected a string; {example}",
        )
    value = document[name]
    if not isinstance(value, str):
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "wrong_type",
            f"the field {name} is not a string, got {_json_type(value)}; expected a string; {example}",
        )
    return value


def _query_parameter(request: Request, name: str) -> str:
    value = request.query.get(name)
    if value is None or not value.strip():
        raise RequestError(
            HTTPStatus.BAD_REQUEST,
            "missing_parameter",
            f"the query parameter {name} is {'missing' if value is None else 'blank'}, "
            f"got {'none' if value is None else 'white space'}; expected text; "
            "call /v1/nouns/search?q=york&text=… with both percent-encoded",
        )
    return value


def _checked_text(text: str) -> str:
    # A lone surrogate, which JSON can spell, has no UTF-8 form; it counts as the three bytes it would take.
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_TEXT_BYTES:
        raise RequestError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "text_too_large",
            f"the text is too large, got {size} bytes of UTF-8; expected at most {MAX_TEXT_BYTES}; "
            "split it between paragraphs and send the parts one by one",
        )
    return text


def _nouns_payload(nouns: Iterable[Noun]) -> Payload:
    found = list(nouns)
    return {
        "noun_count": len(found),
        "occurrence_count": sum(noun.count for noun in found),
        "nouns": [
            {
                "noun": noun.text,
                "count": noun.count,
                "confident": noun.confident,
                "occurrences": [place._asdict() for place in noun.occurrences],
            }
            for noun in found
        ],
    }


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _echo(value: str) -> str:
    return value if len(value) <= _MAX_ECHO else f"{value[:_MAX_ECHO]}…"


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "unknown"
