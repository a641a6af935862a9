"""The onboarding API under a fuzzer that its OpenAPI description drives, over loopback.

schemathesis makes requests that keep to the description and requests that break it, for visitors at each stage of a
sale. Whatever comes, the answer is one that the description has, with the headers that it demands.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onboarding_server import OnboardingServer
from onboarding_world import EMAIL, TOKEN_FIELD, Browser, World
from schemathesis import Case, GenerationMode, openapi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    status_code_conformance,
)

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.runtime.onboarding import handler as onboarding

DESCRIPTION = Path(__file__).parents[2] / "docs" / "onboarding-openapi.json"
SCHEMA = openapi.from_path(DESCRIPTION)
ANSWERS = sorted(
    (method.upper(), path, int(status))
    for path, operations in json.loads(DESCRIPTION.read_text())["paths"].items()
    for method, operation in operations.items()
    for status in operation["responses"]
)
ROUTES = sorted({(method, path) for method, path, _ in ANSWERS})
NEGATIVE = GenerationMode.NEGATIVE
NOT_DESCRIBED = {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.INTERNAL_SERVER_ERROR}
"""The introduction of the description says why."""

MARKUP = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>"
HOSTILE = ("a\r\nSet-Cookie: x=y", "../../etc/passwd", "\x00", "x" * 5000, "{{7*7}}", "{% raise %}", "' OR 1=1")
STAGES = ("stranger", "registered", "waiting", "active", "holder", "stale", "ended", "unknown")


@dataclass
class Visit:
    """A visitor at one stage of a sale, in a world of their own."""

    world: World
    browser: Browser
    form_token: str = ""

    @classmethod
    def at(cls, stage: str, *, is_busy: bool = False) -> Visit:
        world = World()
        browser = world.browser()
        if stage in {"active", "holder", "ended"}:
            world.happens(FactKind.ACTIVATED)
        visit = cls(world, browser)
        if stage != "stranger":
            visit.form_token = browser.register(world.token()).hidden("form_token")
        if stage in {"waiting", "active", "holder", "ended"}:
            browser.give_contact()
        if stage in {"holder", "ended"}:
            browser.take_key()
        if stage == "stale":
            browser.register(next(iter(world.marketplace.customers)))
        if stage == "ended":
            world.clock.advance(minutes=5)
            world.happens(FactKind.DEPROVISIONED)
        if stage == "unknown":
            world.facts._facts.clear()
        if is_busy:
            world.facts.add = world.facts.of_buyer = world.marketplace.resolve_customer = throttled
        return visit

    def stored(self) -> tuple[object, ...]:
        """All that a request could leave behind."""
        world = self.world
        return (
            dict(world.facts._facts),
            dict(world.entries._entries),
            dict(world.contacts._contacts),
            dict(world.api_keys._keys),
            set(world.api_keys._members),
            list(world.mail.recipients),
        )

    def token(self, kind: str) -> str:
        """A registration token."""
        token = self.world.token(product_code="cheaper" if kind == "foreign" else "abc123")
        if kind == "expired":
            self.world.marketplace.expired.add(token)
        return token


def throttled(*_: object, **__: object) -> None:
    raise ClientError({"Error": {"Code": "ThrottlingException"}}, "Any")


ROTATION = {"overlap": "1", "replaces": "1"}
WAYS = {
    200: ("holder", {}),
    400: ("holder", {f"field{number}": "" for number in range(101)}),
    403: ("stranger", {}),
    404: ("unknown", {}),
    409: ("holder", {}),
    413: ("holder", {"filler": "x" * onboarding.LARGEST_BODY}),
    415: ("holder", {}),
    503: ("holder", {TOKEN_FIELD: "any", **ROTATION}),
    ("/contact", 303): ("registered", {"email": EMAIL}),
    ("/contact", 422): ("registered", {"email": "nobody"}),
    ("/key", 200): ("active", {}),
    ("/key", 303): ("registered", {}),
    ("/register", 303): ("stranger", {TOKEN_FIELD: "valid"}),
    ("/register", 403): ("stranger", {TOKEN_FIELD: "foreign"}),
    ("/rotation", 200): ("holder", ROTATION),
    ("/rotation", 409): ("waiting", ROTATION),
    ("/rotation", 422): ("holder", {**ROTATION, "overlap": "25"}),
}
"""A visitor and a form that get a status: on a path of its own, or on any."""


@pytest.mark.parametrize(("method", "path", "status"), ANSWERS)
def test_each_described_answer_is_given(method: str, path: str, status: int) -> None:
    stage, fields = WAYS.get((path, status)) or WAYS[status]
    visit = Visit.at(stage, is_busy=status == 503)
    if fields.get(TOKEN_FIELD) in {"valid", "foreign"}:
        fields = {TOKEN_FIELD: visit.token(fields[TOKEN_FIELD])}
    body = urlencode({"form_token": visit.form_token, **fields}) if method == "POST" else None
    content_type = "application/json" if status == 415 else "application/x-www-form-urlencoded"
    assert visit.browser.request(method, path, body, content_type).status == status


def test_description_has_the_handlers_routes_and_statuses() -> None:
    assert {path: method for method, path in ROUTES} == onboarding._METHODS
    named = {
        HTTPStatus[node.attr]
        for node in ast.walk(ast.parse(inspect.getsource(onboarding)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "HTTPStatus"
    }
    assert named - NOT_DESCRIBED == {status for _, _, status in ANSWERS}


@pytest.fixture(scope="module")
def server() -> Iterator[OnboardingServer]:
    """Serves whichever world is put into it."""
    server = OnboardingServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    # The home page takes nothing, so that no request to it breaks the description.
    [(*route, mode) for route in ROUTES for mode in GenerationMode if (*route, mode) != ("GET", "/", NEGATIVE)],
)
def test_no_request_gets_an_answer_that_is_not_described(
    server: OnboardingServer, method: str, path: str, mode: GenerationMode
) -> None:
    needs_session = bool(SCHEMA.raw_schema["paths"][path][method.lower()].get("security"))
    # Half of the visits are those in which the step succeeds, since all else is refused at the door.
    usual = {"/register": "stranger", "/contact": "registered", "/key": "active"}.get(path, "holder")
    fields = st.sampled_from({"/contact": ["email"], "/rotation": ["overlap", "replaces"]}.get(path, [TOKEN_FIELD]))

    # Without the phases that look for the smallest failing request, which take minutes; schemathesis prints it as curl.
    @settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(
        case=SCHEMA[path][method].as_strategy(mode),
        stage=st.just(usual) | st.sampled_from(STAGES),
        is_busy=st.sampled_from([False, False, False, True]),
        is_own_form=st.sampled_from([True, True, False]),
        token=st.sampled_from([None, "valid", "expired", "foreign"]),
        spoiled=st.dictionaries(fields, st.just(MARKUP) | st.sampled_from(HOSTILE), max_size=2),
    )
    def fuzz(
        *, case: Case, stage: str, is_busy: bool, is_own_form: bool, token: str | None, spoiled: dict[str, str]
    ) -> None:
        visit = Visit.at(stage, is_busy=is_busy)
        server.world = visit.world
        case.cookies = visit.browser.cookies or case.cookies
        if isinstance(case.body, dict):
            given_token = {TOKEN_FIELD: visit.token(token)} if token else {}
            case.body |= given_token | spoiled | ({"form_token": visit.form_token} if is_own_form else {})
        elif spoiled:
            case.query = {**(case.query or {}), **spoiled}
        before = visit.stored()
        response = case.call(base_url=server.url, allow_redirects=False)
        if 400 <= response.status_code < 500 or method == "GET":
            assert visit.stored() == before
        assert response.status_code < 500 or (response.status_code == 503 and is_busy)
        assert not [text for text in texts([case.body, case.query, case.cookies]) if text in response.text]
        if needs_session and stage == "stranger":
            assert response.status_code >= 400
        case.validate_response(
            response, checks=[content_type_conformance, response_headers_conformance, status_code_conformance]
        )

    fuzz()


def texts(sent: object) -> Iterator[str]:
    """What was sent that would be markup if it came back as it is."""
    if isinstance(sent, dict):
        sent = [*sent, *sent.values()]
    if isinstance(sent, list):
        for part in sent:
            yield from texts(part)
    elif isinstance(sent, str) and len(sent) > 3 and re.search("[<>\"']", sent):
        yield sent
