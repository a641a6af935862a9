"""The sold API's handler: its answers, its errors, its log line, and its OpenAPI document."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stacks.nouns_api import handler as api
from stacks.nouns_api.sample_texts import SAMPLES

ASSET = Path(api.__file__).parent
Json = dict[str, object]
JSON_UTF8 = {"content-type": "application/json; charset=UTF-8"}


def _at(document: object, *keys: str) -> Json:
    for key in keys:
        document = cast("Json", document).get(key, {})
    return cast("Json", document)


def _call(event: api.ProxyEvent) -> tuple[int, Json]:
    answer = api.handler(event, None)
    return answer["statusCode"], json.loads(answer["body"])


def _post(body: str | None, headers: Mapping[str, str] = JSON_UTF8, *, is_base64: bool = False) -> tuple[int, Json]:
    return _call(
        {
            "httpMethod": "POST",
            "path": "/v1/nouns",
            "headers": dict(headers),
            "body": body,
            "isBase64Encoded": is_base64,
        }
    )


def test_answers_nouns_with_offsets_and_counts() -> None:
    status, body = _post(json.dumps({"text": "in Paris, then in New York, then in Paris"}))
    assert status == 200
    assert body == {
        "noun_count": 2,
        "occurrence_count": 3,
        "nouns": [
            {
                "noun": "Paris",
                "count": 2,
                "confident": True,
                "occurrences": [{"start": 3, "end": 8}, {"start": 36, "end": 41}],
            },
            {"noun": "New York", "count": 1, "confident": True, "occurrences": [{"start": 18, "end": 26}]},
        ],
    }


def test_a_base64_body_is_decoded() -> None:
    body = base64.b64encode('{"text": "in Zürich"}'.encode()).decode()
    assert _at(_post(body, is_base64=True)[1])["noun_count"] == 1


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "got"),
    [
        ('{"text": ', JSON_UTF8, 400, "bad_json", "line 1 column 10"),
        (None, JSON_UTF8, 400, "bad_json", "line 1 column 1"),
        ("[" * 100_000, JSON_UTF8, 400, "bad_json", "cannot be read"),
        ('{"text": ' + "1" * 5000 + "}", JSON_UTF8, 400, "bad_json", "cannot be read"),
        ('"text"', JSON_UTF8, 400, "bad_json", "a string"),
        ("{}", JSON_UTF8, 400, "missing_field", "without fields"),
        ('{"text": null}', JSON_UTF8, 400, "wrong_type", "null"),
        ('{"text": true}', JSON_UTF8, 400, "wrong_type", "a boolean"),
        (json.dumps({"text": "é" * 50_001}), JSON_UTF8, 413, "text_too_large", "100002 bytes"),
        ("{}", {"Content-Type": "text/plain"}, 415, "wrong_content_type", "text/plain"),
        ("{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "wrong_content_type", "latin-1"),
        ("{}", {}, 415, "wrong_content_type", "no content type"),
    ],
)
def test_fails_when_the_body_cannot_be_searched(
    body: str | None, headers: dict[str, str], status: int, code: str, got: str
) -> None:
    answered, error = _post(body, headers)
    assert (answered, error["code"]) == (status, code)
    what, _, remedy = str(error["message"]).partition("; expected ")
    assert got in what.partition(", got ")[2]
    assert "; " in remedy


def test_fails_when_a_base64_body_is_not_utf8() -> None:
    status, error = _post(base64.b64encode(b'{"text": "\xff"}').decode(), is_base64=True)
    assert (status, error["code"]) == (400, "bad_json")


def test_a_text_of_exactly_the_limit_is_searched() -> None:
    assert _post(json.dumps({"text": "é" * 50_000}))[0] == 200


def test_the_largest_answer_fits_into_a_lambda_response() -> None:
    """Lambda answers at most 6 MB synchronously. Source: AWS Lambda quotas, invocation payload."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = ",".join(f"A{x}{y}{z}" for x in letters for y in letters for z in letters)[: api.MAX_TEXT_BYTES]
    answer = api.handler(
        {"httpMethod": "POST", "path": "/v1/nouns", "headers": JSON_UTF8, "body": json.dumps({"text": text})},
        None,
    )
    assert _at(json.loads(answer["body"]))["noun_count"] == 17_576
    assert len(json.dumps(answer)) < 6_000_000


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nouns/", "/v2/health", "/v1/samples//nouns", "/v1/nouns\n"])
def test_fails_when_the_route_is_unknown(path: str) -> None:
    status, error = _call({"httpMethod": "GET", "path": path})
    assert (status, error["code"]) == (404, "unknown_route")
    assert "/v1/nouns/search" in str(error["message"])


def test_fails_when_the_method_is_not_taken() -> None:
    answer = api.handler({"httpMethod": "GET", "path": "/v1/nouns"}, None)
    assert (answer["statusCode"], answer["headers"]["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("resource", "parameters"),
    [("/{proxy+}", {"proxy": "v1/samples/harbour"}), ("/v1/samples/{id}", {"id": "harbour"})],
)
def test_the_base_path_of_a_custom_domain_is_no_part_of_the_route(resource: str, parameters: dict[str, str]) -> None:
    status, body = _call(
        {
            "httpMethod": "GET",
            "path": "/sold/v1/samples/harbour",
            "resource": resource,
            "pathParameters": parameters,
        }
    )
    assert (status, body["id"]) == (200, "harbour")


def test_the_offsets_of_a_sample_refer_to_its_text() -> None:
    for sample_id in SAMPLES:
        sample = _call({"httpMethod": "GET", "path": f"/v1/samples/{sample_id}"})[1]
        found = _call({"httpMethod": "GET", "path": f"/v1/samples/{sample_id}/nouns"})[1]
        nouns = cast("list[Json]", found["nouns"])
        assert nouns
        for noun in nouns:
            for place in cast("list[dict[str, int]]", noun["occurrences"]):
                assert " ".join(str(sample["text"])[place["start"] : place["end"]].split()) == noun["noun"]


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
@example("\ud800", "\udfff")
def test_any_text_and_query_is_answered_without_a_server_error(text: str, query: str) -> None:
    assert _post(json.dumps({"text": text}))[0] == 200
    event: api.ProxyEvent = {
        "httpMethod": "GET",
        "path": "/v1/nouns/search",
        "queryStringParameters": {"q": query, "text": text},
    }
    assert _call(event)[0] in {200, 400}
    assert api.handler({"httpMethod": query, "path": f"/v1/samples/{text}"}, None)["body"].isascii()


def test_one_log_line_without_anything_that_the_caller_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    api.handler(
        {
            "httpMethod": "POST",
            "path": "/v1/nouns",
            "headers": {**JSON_UTF8, "x-api-key": "Hush"},
            "body": '{"text": "in Hush"}',
            "requestContext": {"requestId": "request-1"},
        },
        None,
    )
    api.handler({"httpMethod": "Hush", "path": "/v1/nouns"}, None)
    api.handler({"httpMethod": "GET", "path": "/v1/Hush"}, None)
    api.handler({"httpMethod": "GET", "path": "/v1/samples/Hush"}, None)
    api.handler({"httpMethod": "POST", "path": "/v1/nouns", "headers": {"content-type": "Hush"}}, None)
    written = capsys.readouterr().out
    assert "Hush" not in written
    found, *refused = [json.loads(line) for line in written.splitlines()]
    assert found.pop("duration_ms") >= 0
    assert found == {
        "request_id": "request-1",
        "route": "/v1/nouns",
        "method": "POST",
        "noun_count": 1,
        "occurrence_count": 1,
        "status": 200,
    }
    assert [line["code"] for line in refused] == [
        "method_not_allowed",
        "unknown_route",
        "unknown_sample",
        "wrong_content_type",
    ]


def test_an_internal_error_shows_the_caller_no_trace_and_the_log_no_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: api.Request) -> dict[str, object]:
        raise LookupError(request.body)

    monkeypatch.setattr(api, "ROUTES", {"/v1/nouns": {"POST": fail}})
    answer = api.handler({"httpMethod": "POST", "path": "/v1/nouns", "body": "Hush"}, None)
    assert answer["statusCode"] == 500
    assert set(json.loads(answer["body"])) == {"code", "message"}
    assert "Hush" not in answer["body"]
    assert "LookupError" not in answer["body"]
    line = json.loads(capsys.readouterr().out)
    assert (line["code"], line["error"]) == ("internal_error", "LookupError")
    assert line["at"].startswith("test_nouns_api.py:")
    assert "Hush" not in json.dumps(line)


def test_the_asset_answers_with_nothing_but_the_standard_library() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ASSET)!r}); sys.dont_write_bytecode = True; import handler; "
        "assert handler.handler({'httpMethod': 'GET', 'path': '/v1/health'}, None)['statusCode'] == 200"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=30, capture_output=True)


DOCUMENT: Json = json.loads((ASSET / "openapi.json").read_text(encoding="utf-8"))
# Requests that an example cannot hold: no JSON, another content type, 100 kB.
_UNWRITTEN: dict[str, api.ProxyEvent] = {
    "bad_json": {"body": '{"text": ', "headers": JSON_UTF8},
    "wrong_content_type": {
        "body": "text=Ada",
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    },
    "text_too_large": {
        "body": json.dumps({"text": "a" * 100_001}),
        "headers": JSON_UTF8,
        "queryStringParameters": {"q": "a", "text": "a" * 100_001},
    },
}
_NOT_OURS = {"403", "429", "500"}


def _operations() -> Iterator[tuple[str, str, Json]]:
    for path, item in _at(DOCUMENT, "paths").items():
        for method, operation in cast("dict[str, Json]", item).items():
            yield path, method.upper(), operation


def _examples() -> Iterator[object]:
    for path, method, operation in _operations():
        for status, response in _at(operation, "responses").items():
            media = _at(response, "content", "application/json")
            for name in _at(media, "examples"):
                yield pytest.param(path, method, operation, status, name, id=f"{method} {path} {status} {name}")


def _event(path: str, method: str, operation: Json, name: str) -> api.ProxyEvent:
    query: dict[str, str] = {}
    for parameter in cast("list[Json]", operation.get("parameters", [])):
        example = _at(parameter, "examples", name)
        if not example:
            continue
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", str(example["value"]))
        else:
            query[str(parameter["name"])] = str(example["value"])
    event: api.ProxyEvent = {"httpMethod": method, "path": path, "queryStringParameters": query}
    body = _at(operation, "requestBody", "content", "application/json", "examples", name)
    if body:
        event |= {"body": json.dumps(body["value"]), "headers": JSON_UTF8}
    return event | _UNWRITTEN.get(name, {})


def _mismatches(value: object, schema: Json, at: str = "$") -> list[str]:
    """Check a value against what this document uses of OpenAPI's schemas, and against undescribed fields."""
    if "$ref" in schema:
        return _mismatches(value, _at(DOCUMENT, *str(schema["$ref"]).removeprefix("#/").split("/")), at)
    expected = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}[str(schema["type"])]
    if type(value) is not expected:
        return [f"{at}: {type(value).__name__} is not {schema['type']}"]
    if isinstance(value, dict):
        properties = cast("dict[str, Json]", schema["properties"])
        found = [f"{at}.{key}: undescribed" for key in value.keys() - properties.keys()]
        found += [f"{at}.{key}: missing" for key in set(cast("list[str]", schema["required"])) - value.keys()]
        return found + [m for k in value.keys() & properties for m in _mismatches(value[k], properties[k], f"{at}.{k}")]
    if isinstance(value, list):
        return [m for i, item in enumerate(value) for m in _mismatches(item, _at(schema, "items"), f"{at}[{i}]")]
    is_listed = value in cast("list[object]", schema.get("enum", [value]))
    is_in_range = not isinstance(value, int) or value >= cast("int", schema.get("minimum", value))
    return [] if is_listed and is_in_range else [f"{at}: {value} is outside what the schema allows"]


def test_the_document_and_the_routing_table_have_the_same_routes() -> None:
    described = {(path, method) for path, method, _ in _operations()}
    assert described == {(path, method) for path, methods in api.ROUTES.items() for method in methods}


def test_every_operation_but_health_asks_for_the_api_key() -> None:
    open_to_all = [path for path, _, operation in _operations() if operation["security"] != [{"ApiKey": []}]]
    assert open_to_all == ["/v1/health"]


@pytest.mark.parametrize(("path", "method", "operation", "status", "name"), list(_examples()))
def test_the_examples_of_the_document_answer_as_stated(
    path: str, method: str, operation: Json, status: str, name: str
) -> None:
    media = _at(operation, "responses", status, "content", "application/json")
    stated = _at(media, "examples", name)["value"]
    assert _mismatches(stated, _at(media, "schema")) == []
    if status not in _NOT_OURS:
        assert _call(_event(path, method, operation, name)) == (int(status), stated)


def test_every_request_example_has_its_answer() -> None:
    for path, method, operation in _operations():
        asked = set(_at(operation, "requestBody", "content", "application/json", "examples"))
        for parameter in cast("list[Json]", operation.get("parameters", [])):
            asked |= set(_at(parameter, "examples"))
        answered = {
            name
            for response in _at(operation, "responses").values()
            for name in _at(response, "content", "application/json", "examples")
        }
        assert asked <= answered, f"{method} {path}"


def test_the_document_lists_every_error_code_of_the_handler() -> None:
    """The codes are read from the source, so that a new one cannot be forgotten in the document."""
    source = (ASSET / "handler.py").read_text(encoding="utf-8")
    codes = cast("list[str]", _at(DOCUMENT, "components", "schemas", "Error", "properties", "code")["enum"])
    assert [code for code in codes if f'"{code}"' not in source] == []
    raised = {
        line.strip().strip('",')
        for before, line in pairwise(source.splitlines())
        if before.strip().startswith("HTTPStatus.")
    }
    assert raised | {"internal_error"} == set(codes)
