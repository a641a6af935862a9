"""What a buyer meets between AWS Marketplace and the key, in every state of the agreement."""

from __future__ import annotations

import pytest
from faults import Trap, Trapped, faults, until_shown
from onboarding_world import AGREEMENT, BUYER, EMAIL, PLAN, TOKEN_FIELD, World
from protected import Weakness

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.domain.product import AgreementKind
from marketplace_constructs.runtime.agreements.service import KeyRefused, TryAgain
from marketplace_constructs.runtime.onboarding.contacts import contact_key
from marketplace_constructs.runtime.onboarding.sessions import COOKIE, Sessions

KINDS = pytest.mark.parametrize("kind", list(AgreementKind))
STAGES = pytest.mark.parametrize("stage", ["/prod", ""], ids=["stage", "domain"])


@KINDS
@STAGES
def test_buyer_gets_one_key_once_and_it_opens_the_api(kind: AgreementKind, stage: str) -> None:
    world = World(kind)
    browser = world.browser(stage=stage)
    page = browser.register(world.token())
    assert "Waiting for AWS" in page.body
    assert page.forms == ["contact"]
    page = browser.give_contact()
    assert page.forms == []
    world.happens(FactKind.ACTIVATED)
    page = browser.get("/agreement")
    assert "Your subscription is active" in page.body
    assert page.forms == ["key"]
    page = browser.take_key()
    assert page.status == 200
    assert world.api_keys.opens(PLAN, page.key)
    assert f"curl -H &#39;x-api-key: {page.key}&#39; https://api.example.com/prod/v1/health" in page.body
    later = browser.get("/agreement")
    assert page.key not in later.body
    assert later.forms == ["rotation"]
    assert "Example &amp; Nouns" in later.body
    assert "help@example.com" in later.body


@pytest.mark.protects(Weakness.REGISTRATION_FORGETS_EVENTS)
def test_activation_before_the_registration_is_no_obstacle() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.browser()
    browser.register(world.token())
    assert browser.give_contact().forms == ["key"]


@pytest.mark.protects(Weakness.SECRETS_IN_LOGS)
def test_registration_answers_with_a_redirect_and_a_host_cookie_that_holds_no_token() -> None:
    world = World()
    token = world.token()
    reply = world.browser().request("POST", "/register", f"{TOKEN_FIELD}={token}")
    assert reply.status == 303
    assert reply.header("Location") == "agreement"
    cookie = reply.header("Set-Cookie")
    assert cookie.startswith("__Host-session=")
    attributes = {part.strip() for part in cookie.split(";")[1:]}
    assert attributes == {"Path=/", "Max-Age=3600", "HttpOnly", "Secure", "SameSite=Lax"}
    assert token not in cookie


def test_waiting_page_looks_again_by_itself_until_the_buyer_stops_it() -> None:
    browser = World().arrive()
    assert '<meta http-equiv="refresh" content="15">' in browser.get("/agreement").body
    assert "http-equiv" not in browser.get("/agreement?refresh=off").body


def test_page_with_a_form_never_reloads_under_the_buyer() -> None:
    world = World()
    browser = world.browser()
    assert "http-equiv" not in browser.register(world.token()).body
    browser.give_contact()
    world.happens(FactKind.ACTIVATED)
    assert "http-equiv" not in browser.get("/agreement").body


def test_key_is_refused_until_there_is_a_contact_address() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.browser()
    browser.register(world.token())
    assert browser.take_key().forms == ["contact"]
    assert not list(world.api_keys.named(""))


def test_second_request_for_the_key_shows_none_and_makes_none() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    form = {"form_token": browser.page.hidden("form_token")}
    key = browser.post("/key", form).key
    again = browser.post("/key", form)
    assert again.status == 409
    assert key not in again.body
    assert len(list(world.api_keys.named(""))) == 1


@pytest.mark.parametrize(("overlap", "still_open"), [("0", False), ("1", True), ("7", True), ("24", True)])
def test_rotation_keeps_the_old_key_for_as_long_as_chosen(overlap: str, *, still_open: bool) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    old = browser.take_key().key
    page = browser.rotate(overlap)
    assert page.status == 200
    assert page.key != old
    assert world.api_keys.opens(PLAN, page.key)
    assert world.api_keys.opens(PLAN, old) is still_open
    assert ("Your old key works until" in page.body) is still_open


@pytest.mark.parametrize("overlap", ["", "25", "-1", "1.5", "\u0661", "24 ", "1e1"])
def test_fails_when_overlap_is_not_0_to_24_hours(overlap: str) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    browser.take_key()
    page = browser.rotate(overlap)
    assert page.status == 422
    assert page.forms == ["rotation"]
    assert 'href="#overlap"' in page.body
    assert len(list(world.api_keys.named(""))) == 1


def test_rotation_form_that_is_sent_twice_rotates_once() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    browser.take_key()
    page = browser.get("/agreement")
    form = {name: page.hidden(name) for name in ("form_token", "replaces")} | {"overlap": "0"}
    new = browser.post("/rotation", form).key
    assert browser.post("/rotation", form).status == 409
    assert world.api_keys.opens(PLAN, new)


def test_buyer_who_comes_back_with_a_fresh_token_may_rotate() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    old = world.arrive().take_key().key
    world.clock.advance(days=30)
    browser = world.browser()
    page = browser.register(world.token())
    assert page.forms == ["rotation"]
    assert old not in page.body
    assert world.api_keys.opens(PLAN, browser.rotate("0").key)
    assert not world.api_keys.opens(PLAN, old)


def test_token_seen_before_shows_the_status_and_nothing_else() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    token = world.token()
    first = world.browser()
    first.register(token)
    first.give_contact()
    first.take_key()
    second = world.browser()
    page = second.register(token)
    assert "Your subscription is active" in page.body
    assert page.forms == []
    assert EMAIL not in page.body


@pytest.mark.parametrize("path", ["/key", "/rotation", "/contact"])
def test_fails_when_a_session_of_an_old_token_asks_for_more_than_the_status(path: str) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    token = world.token()
    world.browser().register(token)
    browser = world.browser()
    browser.register(token)
    # No page gives such a session a form token, so it is made here.
    sessions = Sessions(world.secret, world.clock)
    form_token = sessions.form_token(sessions.read([f"{COOKIE}={browser.cookies[COOKIE]}"]))
    reply = browser.post(path, {"form_token": form_token, "email": EMAIL, "overlap": "0", "replaces": "1"})
    assert reply.status == 403
    assert not list(world.api_keys.named(""))
    assert world.contacts.get(contact_key(BUYER, AGREEMENT)) is None


@KINDS
def test_ended_agreement_shows_that_and_grants_nothing(kind: AgreementKind) -> None:
    world = World(kind)
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    form = {"form_token": browser.page.hidden("form_token"), "overlap": "24", "replaces": "1"}
    key = browser.take_key().key
    world.clock.advance(minutes=5)
    world.happens(FactKind.DEPROVISIONED)
    page = browser.get("/agreement")
    assert "Your subscription has ended" in page.body
    assert page.forms == []
    assert browser.post("/key", form).status == 409
    assert browser.post("/rotation", form).status == 409
    assert not world.api_keys.opens(PLAN, key)


def test_fresh_token_after_the_end_grants_nothing_and_keeps_no_address() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    world.clock.advance(minutes=5)
    world.happens(FactKind.DEPROVISIONED)
    browser = world.browser()
    page = browser.register(world.token())
    assert "Your subscription has ended" in page.body
    assert page.forms == []
    assert list(world.contacts.owed()) == []


def test_address_posted_after_the_end_is_not_kept() -> None:
    world = World()
    browser = world.browser()
    form_token = browser.register(world.token()).hidden("form_token")
    world.clock.advance(minutes=5)
    world.happens(FactKind.DEPROVISIONED)
    page = browser.post("/contact", {"form_token": form_token, "email": EMAIL})
    assert "Your subscription has ended" in page.body
    assert list(world.contacts.owed()) == []
    assert world.mail.recipients == []


def test_ending_subscription_is_shown_as_such() -> None:
    world = World(AgreementKind.LEGACY)
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    world.clock.advance(minutes=5)
    world.happens(FactKind.ENDING)
    page = browser.get("/agreement")
    assert "Your subscription is ending" in page.body
    assert page.forms == []


def test_two_agreements_of_one_buyer_have_keys_of_their_own() -> None:
    world = World()
    keys = []
    for agreement in (AGREEMENT, "agmt-0example0two"):
        world.happens(FactKind.ACTIVATED, agreement=agreement)
        browser = world.browser()
        browser.register(world.token(agreement=agreement))
        browser.give_contact()
        keys.append(browser.take_key().key)
    assert all(world.api_keys.opens(PLAN, key) for key in keys)
    assert len(set(keys)) == 2


def test_contact_address_is_kept_once_confirmed_once_and_never_shown() -> None:
    world = World()
    browser = world.arrive()
    contact = world.contacts.get(contact_key(BUYER, AGREEMENT))
    assert contact.email == EMAIL
    assert contact.created_at == world.clock()
    assert world.mail.recipients == [EMAIL]
    world.happens(FactKind.ACTIVATED)
    world.clock.advance(minutes=10)
    form_token = browser.get("/agreement").hidden("form_token")
    page = browser.post("/contact", {"form_token": form_token, "email": "other@example.com"})
    assert page.status == 200
    assert world.contacts.get(contact_key(BUYER, AGREEMENT)).email == EMAIL
    assert world.mail.recipients == [EMAIL]
    assert all(EMAIL not in reply.body for reply in browser.history)


def test_registration_is_repeatable_without_asking_twice() -> None:
    world = World()
    world.arrive()
    browser = world.browser()
    assert browser.register(world.token()).forms == []
    assert world.mail.recipients == [EMAIL]


@pytest.mark.protects(Weakness.FIRST_TIME_IS_NOT_KEPT)
def test_failing_mail_fails_no_page_and_stays_owed() -> None:
    world = World()
    world.mail.is_down = True
    browser = world.browser()
    browser.register(world.token())
    assert browser.give_contact().status == 200
    assert [contact.email for contact in world.contacts.owed()] == [EMAIL]


@pytest.mark.protects(Weakness.MISSING_FIELD_IS_A_FAULT)
@pytest.mark.parametrize(
    "email",
    [
        "",
        "buyer",
        "a@b@example.com",
        "a b@example.com",
        "a@example.com\nBcc: x@example.com",
        "a@example.com\r\n",
        "a@localhost",
        "<a@example.com>",
        "a@example.com,b@example.com",
        "\u00e4@example.com",
        "a\x00@example.com",
        "a@-example.com",
        f"{'a' * 64}@{'b.' * 100}example.com",
    ],
)
def test_fails_when_the_contact_address_is_not_one(email: str) -> None:
    world = World()
    browser = world.browser()
    browser.register(world.token())
    page = browser.give_contact(email)
    assert page.status == 422
    assert page.title == "Your subscription"
    assert 'href="#email"' in page.body
    assert 'aria-invalid="true"' in page.body
    assert world.contacts.get(contact_key(BUYER, AGREEMENT)) is None
    assert world.mail.recipients == []


def test_what_was_typed_stands_in_the_form_again_and_cannot_break_out_of_it() -> None:
    world = World()
    browser = world.browser()
    browser.register(world.token())
    assert 'value="&#34;&gt;&lt;b&gt;me" aria' in browser.give_contact('"><b>me').body


@pytest.mark.parametrize(
    "email", ["a@gmail.com", "first.last+tag@mail.example.co.uk", "  a@example.com  ", "o'x@example.com"]
)
def test_ordinary_addresses_are_accepted(email: str) -> None:
    world = World()
    browser = world.browser()
    browser.register(world.token())
    assert browser.give_contact(email).status == 200
    assert world.mail.recipients == [email.strip()]


def test_home_says_what_this_is_and_where_to_start() -> None:
    page = World().browser().get("/")
    assert page.status == 200
    assert "Set up your account" in page.body
    assert 'href="https://aws.amazon.com/marketplace"' in page.body


class Failing:
    """The real service, one of whose calls meets a fault."""

    def __init__(self, service: object, call: str, error: Exception) -> None:
        self._service, self._call, self._error = service, call, error

    def __getattr__(self, name: str) -> object:
        if name == self._call:
            return self._fail
        return getattr(self._service, name)

    def _fail(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/register", "register"),
        ("/agreement", "agreement"),
        ("/key", "issue_key"),
        ("/rotation", "rotate_key"),
    ],
)
def test_busy_aws_is_an_honest_page_and_the_step_may_be_repeated(path: str, call: str) -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    form_token = browser.page.hidden("form_token")
    if path == "/rotation":
        browser.take_key()
    browser.app = world.make_app(agreements=Failing(world.agreements, call, TryAgain()))
    fields = {TOKEN_FIELD: world.token(), "form_token": form_token, "overlap": "0", "replaces": "1"}
    page = browser.get(path) if path == "/agreement" else browser.post(path, fields)
    assert page.status == 503
    assert page.header("Retry-After") == "10"
    assert "Nothing is lost" in page.body
    browser.app = None
    assert page.forms == ([path.strip("/")] if path in {"/key", "/rotation"} else [])
    if page.forms:
        hidden = {n: page.hidden(n) for n in ("form_token", "overlap", "replaces") if f'name="{n}"' in page.body}
        assert browser.post(f"/{page.forms[0]}", hidden).key
    elif path == "/register":
        assert browser.post(path, fields).status == 200


def test_rotation_that_access_forbids_is_a_page() -> None:
    world = World()
    world.happens(FactKind.ACTIVATED)
    browser = world.arrive()
    browser.take_key()
    browser.app = world.make_app(agreements=Failing(world.agreements, "rotate_key", KeyRefused()))
    assert browser.rotate().status == 409


def test_fault_is_a_page_with_a_number_and_without_a_trace() -> None:
    world = World()
    browser = world.browser(app=world.make_app(agreements=Failing(world.agreements, "register", KeyError("s3cret"))))
    page = browser.register(world.token())
    assert page.status == 500
    assert "request-1" in page.body
    assert "s3cret" not in page.body
    assert "Traceback" not in page.body


def test_a_visit_survives_each_fault_of_each_call_of_the_pages_own() -> None:
    def visit(trap: Trap) -> None:
        world = World()
        world.happens(FactKind.ACTIVATED)
        browser = world.browser(
            app=world.make_app(contacts=Trapped(world.contacts, trap), secret=Trapped(world.secret, trap))
        )

        form = {"form_token": until_shown(trap, lambda: browser.register(world.token())).hidden("form_token")}
        until_shown(trap, lambda: browser.post("/contact", {**form, "email": EMAIL}))
        form = {"form_token": until_shown(trap, lambda: browser.get("/agreement")).hidden("form_token")}
        key = until_shown(trap, lambda: browser.post("/key", form)).key
        assert world.api_keys.opens(PLAN, key)
        assert len(list(world.api_keys.named(""))) == 1
        contact = world.contacts.get(contact_key(BUYER, AGREEMENT))
        assert contact is not None
        assert contact.email == EMAIL

    assert len(list(faults(visit))) > 20
