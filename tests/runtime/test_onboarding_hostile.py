"""Onboarding under hostile input: a clear page with the right status, and nothing stored or told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onboarding_world import AGREEMENT, BUYER, EMAIL, TOKEN_FIELD, Browser, Reply, World
from protected import Weakness

from marketplace_constructs.domain.agreements import FactKind, State
from marketplace_constructs.runtime.onboarding.contacts import contact_key
from marketplace_constructs.runtime.onboarding.sessions import COOKIE

FORM = "application/x-www-form-urlencoded"
PATHS = ["/", "/register", "/agreement", "/contact", "/key", "/rotation"]
MARKUP = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


def assert_nothing_stored(world: World) -> None:
    assert world.facts.of_buyer(BUYER) == ()
    assert list(world.contacts.owed()) == []
    assert not list(world.api_keys.named(""))


def assert_is_a_page(reply: Reply) -> None:
    assert reply.header("Content-Type") == "text/html; charset=utf-8"
    assert reply.title
    assert "help@example.com" in reply.body
    assert "What to do now" in reply.body


@pytest.mark.protects(Weakness.REQUEST_GOES_ON_AFTER_REFUSAL, Weakness.TOKEN_BECOMES_MARKUP)
@pytest.mark.parametrize(
    ("fields", "status", "title"),
    [
        ({}, 400, "Something is missing"),
        ({TOKEN_FIELD: ""}, 400, "Something is missing"),
        ({TOKEN_FIELD: "   "}, 400, "Something is missing"),
        ([(TOKEN_FIELD, "one"), (TOKEN_FIELD, "two")], 400, "Something is missing"),
        ({TOKEN_FIELD: "unknown"}, 400, "AWS Marketplace does not recognise this registration"),
        ({TOKEN_FIELD: MARKUP}, 400, "AWS Marketplace does not recognise this registration"),
        ({TOKEN_FIELD: "a\r\nSet-Cookie: x=y"}, 400, "AWS Marketplace does not recognise this registration"),
        ({TOKEN_FIELD: "\x00\ud7ff"}, 400, "AWS Marketplace does not recognise this registration"),
        ({TOKEN_FIELD: "x" * 100_000}, 413, "This is too large"),
        ({"filler": "x" * 1_000_000}, 413, "This is too large"),
        ([(f"f{number}", "x") for number in range(101)], 400, "This form cannot be read"),
    ],
    ids=[
        "none",
        "empty",
        "blank",
        "two",
        "unknown",
        "markup",
        "header",
        "control",
        "100 KB",
        "1 MB",
        "fields",
    ],
)
def test_fails_when_the_token_is_not_one(fields: object, status: int, title: str) -> None:
    world = World()
    reply = world.browser().post("/register", fields)
    assert (reply.status, reply.title) == (status, title)
    assert_is_a_page(reply)
    assert reply.header("Set-Cookie") == ""
    assert "alert(1)" not in reply.body
    assert_nothing_stored(world)


def test_fails_when_the_token_has_expired() -> None:
    world = World()
    token = world.token()
    world.marketplace.expired.add(token)
    reply = world.browser().register(token)
    assert (reply.status, reply.title) == (400, "This registration has expired")
    assert_nothing_stored(world)


@pytest.mark.protects(Weakness.CHEAPER_TOKEN)
def test_fails_when_the_token_is_another_products() -> None:
    world = World()
    reply = world.browser().register(world.token(product_code="cheaper"))
    assert reply.status == 403
    assert "another product" in reply.title
    assert_nothing_stored(world)


@pytest.mark.protects(Weakness.OLD_TOKEN_REVIVES)
def test_old_token_posted_after_the_end_grants_nothing() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    token = world.token()
    browser = world.browser()
    browser.register(token)
    world.clock.advance(minutes=5)
    world.happens(FactKind.DEPROVISIONED)
    page = world.browser().register(token)
    assert "has ended" in page.body
    assert page.forms == []


@pytest.mark.protects(Weakness.REQUEST_IS_STORED)
def test_further_fields_change_nothing_and_are_kept_nowhere() -> None:
    world = World()
    fields = {
        TOKEN_FIELD: world.token(),
        "x-amzn-marketplace-offer-type": "free-trial",
        "x-amzn-marketplace-agreement-id": "agmt-0example0two",
        "x-amzn-marketplace-product-id": "prod-forged",
        "status": "active",
        "successfully_subscribed": "true",
        "email": "forged@example.com",
        "amount": "17",
    }
    page = world.browser().post("/register", fields)
    assert page.status == 200
    assert page.forms == ["contact"]
    assert world.agreements.agreement(BUYER, AGREEMENT).state is State.REGISTERED
    kept = repr([*world.facts.of_buyer(BUYER), *world.contacts.owed()])
    assert not [value for value in list(fields.values())[1:-1] if value in kept.replace("registered", "")]


def test_registration_is_never_blocked_by_origin() -> None:
    world = World()
    for origin in ("https://aws.amazon.com", "https://elsewhere.example", "null"):
        headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Referer": f"{origin}/x"}
        assert world.browser().post("/register", {TOKEN_FIELD: world.token()}, headers=headers).status == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
@pytest.mark.parametrize("path", PATHS)
def test_fails_when_the_method_is_another(method: str, path: str) -> None:
    reply = World().browser().request(method, path)
    assert reply.status == 405
    assert reply.header("Allow") in {"GET", "POST"}
    assert_is_a_page(reply)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/register"), ("GET", "/key"), ("POST", "/agreement"), ("POST", "/")]
)
def test_fails_when_get_and_post_are_swapped(method: str, path: str) -> None:
    assert World().browser().request(method, path).status == 405


@pytest.mark.parametrize(
    "path", ["/nothing", "/agreement/", "//agreement", "/agreement/x", "/register%0d%0a", "//", f"/{MARKUP}"]
)
def test_fails_when_the_path_is_unknown(path: str) -> None:
    reply = World().browser().request("GET", path)
    assert reply.status == 404
    assert_is_a_page(reply)
    assert "alert(1)" not in reply.body


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "multipart/form-data; boundary=x", "text/plain", MARKUP]
)
@pytest.mark.parametrize("path", ["/register", "/contact", "/key", "/rotation"])
def test_fails_when_the_content_type_is_another(path: str, content_type: str | None) -> None:
    world = World()
    reply = world.browser().post(path, {TOKEN_FIELD: world.token()}, content_type=content_type)
    assert reply.status == 415
    assert_nothing_stored(world)


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded; charset=UTF-8", "Application/X-WWW-Form-Urlencoded"]
)
def test_content_type_may_be_spelled_as_the_standard_allows(content_type: str) -> None:
    world = World()
    assert world.browser().post("/register", {TOKEN_FIELD: world.token()}, content_type=content_type).status == 200


def test_base64_encoded_body_is_understood() -> None:
    world = World()
    assert world.browser().post("/register", {TOKEN_FIELD: world.token()}, encoded=True).status == 200


@pytest.mark.parametrize("encoded", [True, False])
def test_body_limit_is_64_kib_either_way(*, encoded: bool) -> None:
    world = World()
    padding = 64 * 1024 - len(urlencode({TOKEN_FIELD: world.token(), "padding": ""}))
    for extra, status in ((0, 200), (1, 413)):
        fields = {TOKEN_FIELD: world.token(), "padding": "x" * (padding + extra)}
        assert world.browser().post("/register", fields, encoded=encoded).status == status


def test_fails_when_a_base64_body_is_damaged() -> None:
    world = World()
    event = {
        "path": "/register",
        "httpMethod": "POST",
        "headers": {"content-type": "application/x-www-form-urlencoded"},
        "body": "%%%",
        "isBase64Encoded": True,
    }
    assert world.app(event, SimpleNamespace())["statusCode"] == 400


@pytest.mark.parametrize(
    "cookie",
    ["", "forged", "a.b.c", "eyJhIjoxfQ.aaaa.bbbb", "\u2603", "x" * 5000, f"{MARKUP}", "\ud800"],
    ids=["none", "word", "dots", "shape", "snowman", "long", "markup", "surrogate"],
)
def test_fails_when_the_session_is_forged(cookie: str) -> None:
    reply = World().browser(cookies={COOKIE: cookie} if cookie else {}).get("/agreement")
    assert reply.status == 403
    assert_is_a_page(reply)


def test_fails_when_a_session_is_changed_or_signed_by_somebody_else() -> None:
    world, other = World(), World()
    other.secret = type(world.secret)(world.clock)
    browser = world.arrive()
    value = browser.cookies[COOKIE]
    assert browser.get("/agreement").status == 200
    assert world.browser(cookies={COOKIE: "A" + value[1:]}).get("/agreement").status == 403
    assert world.browser(cookies={COOKIE: other.arrive().cookies[COOKIE]}).get("/agreement").status == 403


def test_session_ends_after_an_hour() -> None:
    world = World()
    browser = world.arrive()
    world.clock.advance(hours=1)
    assert browser.get("/agreement").status == 200
    world.clock.advance(seconds=1)
    page = browser.get("/agreement")
    assert page.status == 403
    assert "a visit lasts an hour" in page.body


def test_replayed_session_and_form_show_no_key_again() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    form = {"form_token": browser.page.hidden("form_token")}
    key = browser.take_key().key
    thief = world.browser(cookies=dict(browser.cookies))
    assert thief.post("/key", form).status == 409
    assert key not in thief.get("/agreement").body


@pytest.mark.parametrize("path", ["/contact", "/key", "/rotation"])
@pytest.mark.parametrize("form_token", [None, "", "wrong", "\u2603", "of another session", "twice"])
def test_fails_when_a_form_is_not_of_this_session(path: str, form_token: str | None) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.browser()
    own = browser.register(world.token()).hidden("form_token")
    fields = [("email", EMAIL), ("overlap", "0"), ("replaces", "1")]
    if form_token == "of another session":
        form_token = world.browser().register(world.token(agreement="agmt-0example0two")).hidden("form_token")
    if form_token == "twice":
        fields += [("form_token", own), ("form_token", "x")]
    elif form_token is not None:
        fields.append(("form_token", form_token))
    reply = browser.post(path, fields)
    assert reply.status == 403
    assert_is_a_page(reply)
    assert world.contacts.get(contact_key(BUYER, AGREEMENT)) is None
    assert not list(world.api_keys.named(""))


def test_rotation_of_the_secret_throws_nobody_out() -> None:
    world = World()
    world.clock.advance(hours=1)
    browser = world.browser()
    form_token = browser.register(world.token()).hidden("form_token")
    world.secret.begin_rotation()
    assert browser.get("/agreement").status == 200
    world.clock.advance(minutes=1)
    world.secret.finish_rotation()
    assert browser.get("/agreement").status == 200
    late = world.browser()
    late.register(world.token())
    world.clock.advance(minutes=10)
    assert late.get("/agreement").status == 200
    assert browser.post("/contact", {"form_token": form_token, "email": EMAIL}).status == 200
    # Two rotations on, the first secret is worth nothing, whatever the time.
    for _ in range(2):
        world.secret.begin_rotation()
        world.secret.finish_rotation()
    assert browser.get("/agreement").status == 403


def test_every_answer_carries_strict_headers() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    browser.take_key()
    browser.rotate()
    browser.get("/")
    browser.get("/nothing")
    browser.post("/register", {})
    browser.request("POST", "/register", f"{TOKEN_FIELD}={world.token()}")
    for reply in browser.history:
        policy = reply.header("Content-Security-Policy")
        for directive in (
            "default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
            "img-src https://logos.example.com;",
        ):  # fmt: skip
            assert directive in policy
        assert "unsafe" not in policy
        assert reply.header("Cache-Control") == "no-store"
        assert reply.header("Referrer-Policy") == "no-referrer"
        assert reply.header("X-Content-Type-Options") == "nosniff"
        assert reply.header("Strict-Transport-Security") == "max-age=31536000"
        assert "<script" not in reply.body
        assert " style=" not in reply.body


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """Everything that is given to any logger, with all its extra values and exceptions."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(
        f"{record.getMessage()} {json.dumps(record.__dict__, default=repr)} {record.exc_info!r}"
    )
    loggers = [logging.getLogger(), logging.getLogger("onboarding")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


def live_through_everything(world: World) -> list[Browser]:
    """Every kind of answer once: one buyer who gets a key, another with whom all goes wrong."""
    world.happens(FactKind.ACTIVATED)
    happy = world.arrive()
    happy.take_key()
    happy.rotate()
    happy.rotate("99")
    happy.take_key()
    happy.post("/contact", {"form_token": "x", "email": EMAIL})
    world.mail.is_down = True
    other = world.browser()
    other.register(world.token(agreement="agmt-0example0two"))
    other.give_contact()
    other.request("POST", "/register", f"{TOKEN_FIELD}={world.token()}", "text/plain")
    other.request("GET", f"/{world.token()}?token={world.token()}")
    other.register(world.token(product_code="other"))
    world.marketplace.expired.add(expired := world.token())
    other.register(expired)
    other.register(world.token())
    other.register(next(reversed(world.marketplace.customers)))
    other.app = world.make_app(agreements=Broken())
    other.register(world.token())
    other.app = None
    world.clock.advance(hours=2)
    other.get("/agreement")
    return [happy, other]


@pytest.mark.protects(Weakness.SECRETS_IN_LOGS)
def test_logs_metrics_and_redirects_tell_no_token_key_address_or_cookie(
    log_lines: list[str],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What somebody may switch on who looks for a fault.
    monkeypatch.setenv("POWERTOOLS_DEV", "true")
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "false")
    monkeypatch.setenv("POWERTOOLS_LOGGER_LOG_EVENT", "true")
    caplog.set_level(logging.DEBUG)
    world = World()
    browsers = live_through_everything(world)
    replies = [reply for browser in browsers for reply in browser.history]
    captured = capfd.readouterr()
    said = "\n".join([captured.out, captured.err, *log_lines, *(reply.header("Location") for reply in replies)])
    shown = "".join(reply.body for reply in replies)
    keys = [reply.key for reply in replies if 'class="secret"' in reply.body]
    secrets = [*world.marketplace.customers, EMAIL, *(browser.cookies[COOKIE] for browser in browsers)]
    assert len(keys) == 2
    assert {reply.status for reply in replies} >= {200, 303, 400, 403, 404, 409, 415, 422, 500}
    assert '"is_fresh": true' in said
    assert "KeysRotated" in captured.out
    assert "ValueError" in said
    assert not [secret for secret in [*secrets, *keys] if secret in said]
    assert not [secret for secret in secrets if secret in shown]


class Broken:
    """A service with a defect, whose error repeats what it was given."""

    def register(self, token: str) -> None:
        raise ValueError(token)


TEXT = st.text(max_size=200) | st.sampled_from([MARKUP, "", EMAIL, "\r\nSet-Cookie: a=b", "1", "24"])
NAMES = st.sampled_from([TOKEN_FIELD, "form_token", "email", "overlap", "replaces", "status"]) | st.text(max_size=20)
HEADERS = st.dictionaries(st.sampled_from(["cookie", "Content-Type", "Origin", "X"]), TEXT, max_size=4)


@pytest.mark.protects(Weakness.TOKEN_BECOMES_MARKUP, Weakness.MISSING_FIELD_IS_A_FAULT)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    method=st.sampled_from(["GET", "POST", "POST", "POST", "HEAD", "PUT"]),
    path=st.sampled_from(PATHS) | TEXT.map("/{}".format),
    fields=st.lists(st.tuples(NAMES, TEXT), max_size=8),
    raw=st.none() | TEXT,
    headers=st.none() | HEADERS,
    query=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    encoded=st.booleans(),
    with_session=st.booleans(),
)
def test_no_input_breaks_a_page_or_comes_back_as_markup(
    *,
    method: str,
    path: str,
    fields: list[tuple[str, str]],
    raw: str | None,
    headers: dict[str, str] | None,
    query: dict[str, str] | None,
    encoded: bool,
    with_session: bool,
) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    sent = dict(headers or {})
    if with_session:
        browser = world.browser()
        page = browser.register(world.token())
        sent |= {"Cookie": f"{COOKIE}={browser.cookies[COOKIE]}", "content-type": FORM}
        fields = [*fields, ("form_token", page.hidden("form_token"))]
    body = raw if raw is not None else urlencode([(n, v) for n, v in fields], errors="replace")
    event = {
        "path": path,
        "httpMethod": method,
        "headers": sent or {"content-type": FORM},
        "multiValueHeaders": None,
        "queryStringParameters": query,
        "requestContext": {"path": path},
        "body": body,
        "isBase64Encoded": encoded,
    }
    answer = world.app(event, SimpleNamespace())
    assert answer["statusCode"] < 500
    assert "<script" not in answer["body"]
    assert "<img src=x" not in answer["body"]
    assert all("\n" not in v and "\r" not in v for values in answer["multiValueHeaders"].values() for v in values)
