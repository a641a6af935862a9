"""The function behind the fulfilment URL.

AWS Marketplace makes the buyer's browser post a registration token here. The token is resolved at once and
forgotten; what remains is a session of an hour, in which the buyer leaves an address, sees the agreement's
status, and gets or rotates the API key.

All addresses in redirects, links and forms are relative, so that the pages work below a stage's path as well
as on a domain of the seller's own.
"""

from __future__ import annotations

import binascii
import shlex
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from marketplace_constructs.runtime.agreements.service import KeyRefused, TokenRefused, TryAgain
from marketplace_constructs.runtime.aws import client, error_code, is_transient
from marketplace_constructs.runtime.dependencies import Dependencies as AwsDependencies
from marketplace_constructs.runtime.observability import count, logger, metrics, tell_of
from marketplace_constructs.runtime.onboarding.contacts import (
    Contact,
    Contacts,
    DynamoDbContacts,
    contact_key,
    parse_email,
)
from marketplace_constructs.runtime.onboarding.mail import Mail, MailFailed, SesMail, confirm
from marketplace_constructs.runtime.onboarding.pages import WAITS_SECONDS, Pages, Seller, status_of
from marketplace_constructs.runtime.onboarding.sessions import (
    COOKIE,
    LIFETIME,
    Session,
    SessionRefused,
    Sessions,
)
from marketplace_constructs.runtime.onboarding.signing_secret import (
    SecretsManagerSigningSecret,
    SigningSecret,
)
from marketplace_constructs.runtime.settings import OnboardingSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from marketplace_constructs.domain.agreements import Agreement
    from marketplace_constructs.runtime.agreements.service import AgreementsService
    from marketplace_constructs.runtime.clock import Clock

TOKEN_FIELD: Final = "x-amzn-marketplace-token"  # noqa: S105 - the name of a field
"""Source: AWS Marketplace seller guide, SaaS free trials: what the browser posts (read 2026-11-21)."""

LARGEST_BODY: Final = 64 * 1024
"""Bytes. A token has a few hundred; AWS gives no limit."""
_MOST_FIELDS: Final = 100
_OVERLAP_HOURS: Final = frozenset(map(str, range(25)))
_METHODS: Final = {
    "/": "GET",
    "/register": "POST",
    "/agreement": "GET",
    "/contact": "POST",
    "/key": "POST",
    "/rotation": "POST",
}

Fields = Mapping[str, list[str]]
Answer = dict[str, Any]
"""What a Lambda proxy integration takes."""
Handler = Callable[[dict[str, Any], "LambdaContext"], Answer]


@dataclass(frozen=True, kw_only=True)
class Dependencies:
    """What the pages work on."""

    settings: OnboardingSettings
    agreements: AgreementsService
    contacts: Contacts
    mail: Mail
    secret: SigningSecret
    clock: Clock


@dataclass(kw_only=True, eq=False)
class Problem(Exception):
    """Ends a request with a page that says what is wrong and what to do.

    Args:
        next_step: A sentence; None tells the way back through AWS Marketplace.
        retry: The form that repeats the step: a path and hidden fields.
        to_agreement: Offer the way to the agreement's page.
        decision: What is logged, with the values beside it: no text that came with the request.
    """

    status: HTTPStatus
    title: str
    sentence: str
    decision: str
    next_step: str | None = None
    retry: Mapping[str, object] | None = None
    to_agreement: bool = False
    headers: Mapping[str, str] | None = None


def handler(event: dict[str, Any], context: LambdaContext) -> Answer:
    """Answer one request of a REST API's Lambda proxy integration."""
    return _app()(event, context)


@cache
def _app() -> Handler:
    settings = OnboardingSettings.from_environment()
    tell_of(settings.sale)
    aws = AwsDependencies(settings)
    return create_app(
        Dependencies(
            settings=settings,
            agreements=aws.service,
            contacts=DynamoDbContacts(client("dynamodb"), settings.contacts_table),
            mail=SesMail(
                client("sesv2"),
                sender=settings.sender,
                seller_name=settings.seller_name,
                support_contact=settings.support_contact,
            ),
            secret=SecretsManagerSigningSecret(client("secretsmanager"), settings.signing_secret, aws.clock),
            clock=aws.clock,
        )
    )


def create_app(dependencies: Dependencies) -> Handler:
    """The whole of onboarding over given ports."""
    onboarding = _Onboarding(dependencies)

    def handle(event: dict[str, Any], context: LambdaContext) -> Answer:
        logger.append_keys(request_id=_request_id(event, context))
        try:
            return onboarding.answer(event, context)
        finally:
            if metrics.metric_set:
                metrics.flush_metrics()

    return handle


class _Onboarding:
    """The routes. Each either returns its page or raises what ``failed`` makes a page of.

    A function instance answers one request at a time, which is kept here meanwhile.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        settings = dependencies.settings
        self._event: Mapping[str, Any] = {}
        self._context: LambdaContext | None = None
        self._settings: Final = settings
        self._agreements: Final = dependencies.agreements
        self._contacts: Final = dependencies.contacts
        self._mail: Final = dependencies.mail
        self._clock: Final = dependencies.clock
        self._sessions: Final = Sessions(dependencies.secret, dependencies.clock)
        self._pages: Final = Pages(
            Seller(
                name=settings.seller_name,
                logo_url=settings.logo_url,
                support_contact=settings.support_contact,
            )
        )

    def answer(self, event: Mapping[str, Any], context: LambdaContext) -> Answer:
        """Answer one request. Its path must be exact: below ``/agreement/`` relative links would go astray."""
        self._event, self._context = event, context
        path = event["path"]
        try:
            if event["httpMethod"].upper() == _METHODS.get(path):
                route: Callable[[], Answer] = getattr(self, path.strip("/") or "home")
                return route()
        except Exception as error:  # noqa: BLE001 - a buyer is shown a page whatever happens
            return self.failed(error)
        return self.failed(self._not_found(path))

    def home(self) -> Answer:
        """Say what this is, to whoever comes by hand."""
        return self._page(HTTPStatus.OK, "home")

    def register(self) -> Answer:
        """Redeem a registration token and open a session."""
        # Every field but the token is accepted and looked at by nobody. Neither is Origin: which one AWS
        # Marketplace's form has is not documented [UNCONF].
        tokens = self._fields().get(TOKEN_FIELD, [])
        token = tokens[0] if len(set(tokens)) == 1 else ""
        # Before the token is spent: only its first redemption opens a session that gets a key.
        self._sessions.prepare()
        registration = self._agreements.register(token.strip())
        cookie = self._sessions.open(
            buyer=registration.buyer, reference=registration.reference, is_fresh=registration.is_fresh
        )
        count("Registrations")
        logger.info(
            "registered",
            buyer=registration.buyer,
            reference=registration.reference,
            is_fresh=registration.is_fresh,
        )
        return self._see_agreement(
            # SameSite=Strict would not be sent on the redirect that ends a post from another site.
            f"{COOKIE}={cookie}; Path=/; Max-Age={int(LIFETIME.total_seconds())}; HttpOnly; Secure; SameSite=Lax"
        )

    def agreement(self) -> Answer:
        """Show where the buyer stands and what is next."""
        session = self._session()
        return self._agreement_page(session, self._agreement(session))

    def contact(self) -> Answer:
        """Keep the contact address, the first one given, and confirm it by mail."""
        session, fields = self._own_form()
        agreement = self._agreement(session)
        key = contact_key(agreement.buyer, agreement.root)
        if status_of(agreement).tone == "over" or self._contacts.get(key) is not None:
            return self._see_agreement()
        typed = _only(fields, "email")
        email = parse_email(typed)
        if email is None:
            logger.info("contact refused", buyer=session.buyer, reference=session.reference)
            return self._agreement_page(
                session,
                agreement,
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
                problem="Enter an email address, such as name@example.com",
                problem_field="email",
                typed=typed[:254],
            )
        contact = Contact(agreement=key, email=email, created_at=self._clock())
        if self._contacts.add(contact):
            logger.info("contact kept", buyer=session.buyer, reference=session.reference)
            self._confirm(contact)
        return self._see_agreement()

    def key(self) -> Answer:
        """Make the first key and show it, this once."""
        session, _ = self._own_form()
        agreement = self._agreement(session)
        if self._contacts.get(contact_key(agreement.buyer, agreement.root)) is None:
            return self._see_agreement()
        try:
            value = self._agreements.issue_key(session.buyer, session.reference)
        except TryAgain:
            raise self._busy("key", session) from None
        if value is None:
            raise Problem(
                status=HTTPStatus.CONFLICT,
                title="There is no key to show",
                sentence="Either your subscription is not active, or its key was shown before. "
                "We keep no copy of a key, but you can replace it.",
                next_step="See how your subscription stands.",
                to_agreement=True,
                decision="key refused",
            )
        count("KeysIssued")
        logger.info("key issued", buyer=session.buyer, reference=session.reference)
        return self._key_page(value, overlap=None)

    def rotation(self) -> Answer:
        """Replace the key; the old one goes on for as long as chosen."""
        session, fields = self._own_form()
        agreement = self._agreement(session)
        hours = _only(fields, "overlap")
        if hours not in _OVERLAP_HOURS:
            return self._agreement_page(
                session,
                agreement,
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
                problem="Choose how long the key you have should go on working, from 0 to 24 hours",
                problem_field="overlap",
            )
        replaced = Problem(
            status=HTTPStatus.CONFLICT,
            title="This key is not replaced",
            sentence="Either your subscription is not active, or the key was replaced in the meantime.",
            next_step="See how your subscription stands.",
            to_agreement=True,
            decision="rotation refused",
        )
        # A form that is sent twice must not replace the key that its first sending showed.
        live_keys = agreement.live_keys(self._clock())
        if not live_keys or _only(fields, "replaces") != str(live_keys[-1].number):
            raise replaced
        overlap = timedelta(hours=int(hours))
        try:
            value = self._agreements.rotate_key(session.buyer, session.reference, overlap)
        except KeyRefused:
            raise replaced from None
        except TryAgain:
            raise self._busy("rotation", session, overlap=hours, replaces=str(live_keys[-1].number)) from None
        count("KeysRotated")
        logger.info("key rotated", buyer=session.buyer, reference=session.reference, overlap_hours=int(hours))
        return self._key_page(value, overlap=overlap)

    @staticmethod
    def _not_found(path: str) -> Problem:
        """A path or method that is not ours."""
        allowed = _METHODS.get(path)
        if allowed:
            return Problem(
                status=HTTPStatus.METHOD_NOT_ALLOWED,
                title="This page cannot be opened that way",
                sentence="It is part of setting up an account, and comes at its own step.",
                headers={"Allow": allowed},
                decision="method refused",
            )
        return Problem(
            status=HTTPStatus.NOT_FOUND,
            title="There is no such page",
            sentence="The address may be mistyped.",
            decision="path refused",
        )

    def failed(self, error: Exception) -> Answer:
        """The page for anything that ends a request early. Only names and codes are logged, never a text."""
        problem = _problem(error)
        _count_problem(problem)
        detail = {} if isinstance(error, Problem) else {"error": error_code(error), **_reason(error)}
        log = logger.error if problem.status is HTTPStatus.INTERNAL_SERVER_ERROR else logger.info
        log(problem.decision, extra={"status": int(problem.status), **detail, **_where(error, problem)})
        return self._page(
            problem.status,
            "problem",
            headers=problem.headers,
            title=problem.title,
            sentence=problem.sentence,
            next_step=problem.next_step,
            retry=problem.retry,
            to_agreement=problem.to_agreement,
            request_id=_request_id(self._event, self._context)
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            else None,
        )

    def _session(self) -> Session:
        return self._sessions.read(_header(self._event, "cookie"))

    def _own_form(self) -> tuple[Session, Fields]:
        """The fields of a form that this session was given, and that may change something."""
        fields = self._fields()
        session = self._session()
        if not self._sessions.is_own_form(session, _only(fields, "form_token")):
            raise Problem(
                status=HTTPStatus.FORBIDDEN,
                title="This form does not belong to your visit",
                sentence="Nothing was changed. You may have come in once more in the meantime.",
                next_step="Open your subscription again and repeat the step there.",
                to_agreement=True,
                decision="form refused",
            )
        if not session.is_fresh:
            raise Problem(
                status=HTTPStatus.FORBIDDEN,
                title="This visit shows the status only",
                sentence="You came with a link that was used before. Nothing was changed.",
                decision="stale session refused",
            )
        return session, fields

    def _fields(self) -> Fields:
        """The fields of a posted form."""
        event = self._event
        content_type = next(iter(_header(event, "content-type")), "").partition(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            raise Problem(
                status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                title="This was not sent by a form",
                sentence="This address takes what a browser sends from a form, and nothing else.",
                decision="content type refused",
            )
        body: str = event.get("body") or ""
        try:
            # Length first: what is too large is not decoded. Base64 makes four characters of three bytes.
            is_encoded = bool(event.get("isBase64Encoded"))
            too_large = len(body) > LARGEST_BODY * (4 / 3 if is_encoded else 1) + 4
            raw = b"" if too_large else b64decode(body) if is_encoded else body.encode(errors="replace")
            if too_large or len(raw) > LARGEST_BODY:
                raise Problem(
                    status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    title="This is too large",
                    sentence="More was sent than any of our forms holds.",
                    decision="body refused",
                )
            return parse_qs(raw.decode(errors="replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        except (ValueError, binascii.Error):
            raise Problem(
                status=HTTPStatus.BAD_REQUEST,
                title="This form cannot be read",
                sentence="It arrived damaged.",
                decision="body refused",
            ) from None

    def _agreement(self, session: Session) -> Agreement:
        """The session's agreement as it stands now."""
        agreement = self._agreements.agreement(session.buyer, session.reference)
        if agreement is None:
            raise Problem(
                status=HTTPStatus.NOT_FOUND,
                title="We do not know this subscription",
                sentence="It may have been made with another AWS account.",
                decision="agreement unknown",
            )
        return agreement

    def _confirm(self, contact: Contact) -> None:
        """Send the confirmation mail. One that fails stays owed, and the reconciliation sends it."""
        try:
            if confirm(contact, self._contacts, self._mail):
                count("ConfirmationsSent")
        except Exception as error:  # noqa: BLE001 - the address is kept; the buyer goes on whatever the mail does
            count("ConfirmationsFailed")
            code = str(error) if isinstance(error, MailFailed) else error_code(error)
            logger.warning("confirmation owed", error=code)

    def _agreement_page(
        self,
        session: Session,
        agreement: Agreement,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        problem: str = "",
        problem_field: str = "",
        typed: str = "",
    ) -> Answer:
        live_keys = agreement.live_keys(self._clock())
        has_contact = self._contacts.get(contact_key(agreement.buyer, agreement.root)) is not None
        wants = _wants(agreement, is_fresh=session.is_fresh, has_contact=has_contact, has_key=bool(live_keys))
        looks_again = (self._event.get("queryStringParameters") or {}).get("refresh") != "off"
        logger.info(
            "status shown",
            status=int(status),
            buyer=session.buyer,
            agreement=agreement.id,
            state=agreement.state.value,
            wants=wants,
            live_keys=len(live_keys),
        )
        return self._page(
            status,
            "agreement",
            agreement=agreement,
            status=status_of(agreement),
            steps=_steps(has_contact=has_contact, is_active=agreement.grants_access, has_key=bool(live_keys)),
            live_keys=live_keys,
            wants=wants,
            refresh_seconds=WAITS_SECONDS if wants == "patience" and looks_again else None,
            form_token=self._sessions.form_token(session),
            problem=problem,
            problem_field=problem_field,
            typed=typed,
            api_url=self._settings.api_url,
        )

    def _key_page(self, value: str, *, overlap: timedelta | None) -> Answer:
        method, _, path = self._settings.example_route.partition(" ")
        call = ["curl", *(["-X", method] if method != "GET" else []), "-H", f"x-api-key: {value}"]
        now = self._clock()
        return self._page(
            HTTPStatus.OK,
            "key",
            key=value,
            curl=shlex.join([*call, self._settings.api_url + path]),
            now=now,
            retired_at=None if overlap is None else now + overlap,
        )

    def _busy(self, path: str, session: Session, **fields: str) -> Problem:
        fields["form_token"] = self._sessions.form_token(session)
        return _busy(next_step="Wait a few seconds, then:", retry={"path": path, "fields": fields})

    def _see_agreement(self, cookie: str | None = None) -> Answer:
        opened = {} if cookie is None else {"Set-Cookie": cookie}
        return self._answer(HTTPStatus.SEE_OTHER, {"Location": "agreement", **opened}, "")

    def _page(
        self,
        status_code: HTTPStatus,
        template: str,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        **values: object,
    ) -> Answer:
        return self._answer(status_code, headers or {}, self._pages.render(template, **values))

    def _answer(self, status: HTTPStatus, headers: Mapping[str, str], body: str) -> Answer:
        all_headers = {"Content-Type": "text/html; charset=utf-8", **self._pages.headers, **headers}
        return {
            "statusCode": int(status),
            "multiValueHeaders": {name: [value] for name, value in all_headers.items()},
            "body": body,
            "isBase64Encoded": False,
        }


def _wants(agreement: Agreement, *, is_fresh: bool, has_contact: bool, has_key: bool) -> str:
    """What the agreement's page asks of the buyer: one thing at a time."""
    if status_of(agreement).tone == "over":
        return "nothing"
    if is_fresh and not has_contact:
        return "contact"
    if not agreement.grants_access:
        return "patience"
    if not is_fresh:
        return "return"
    return "rotation" if has_key else "key"


def _steps(*, has_contact: bool, is_active: bool, has_key: bool) -> list[dict[str, str]]:
    """The way to a key, with one step that is current, if any is left."""
    done = {
        "Subscribe in AWS Marketplace": True,
        "Say where we can reach you": has_contact,
        "AWS Marketplace activates your subscription": is_active,
        "Get your API key": has_key,
    }
    current = next((title for title, is_done in done.items() if not is_done), None)
    return [
        {"title": title, "state": "done" if is_done else "current" if title == current else "next"}
        for title, is_done in done.items()
    ]


_TOKEN_PROBLEMS: Final = {
    "missing": Problem(
        status=HTTPStatus.BAD_REQUEST,
        title="Something is missing",
        sentence="AWS Marketplace did not send us what tells who you are.",
        decision="registration refused",
    ),
    "invalid": Problem(
        status=HTTPStatus.BAD_REQUEST,
        title="AWS Marketplace does not recognise this registration",
        sentence="The link that brought you here is not valid.",
        decision="registration refused",
    ),
    "expired": Problem(
        status=HTTPStatus.BAD_REQUEST,
        title="This registration has expired",
        sentence="The link that brought you here works for a short while only. Nothing is lost.",
        decision="registration refused",
    ),
    "foreign": Problem(
        status=HTTPStatus.FORBIDDEN,
        title="This registration belongs to another product",
        sentence="Nothing was changed, here or there.",
        decision="registration refused",
    ),
}

_SESSION_PROBLEMS: Final = {
    "missing": "We cannot tell whose subscription to show. Your browser must accept our cookie.",
    "invalid": "Your visit cannot be continued.",
    "expired": "For your safety a visit lasts an hour. Nothing is lost.",
}


def _problem(error: Exception) -> Problem:
    """The page for an error."""
    match error:
        case Problem():
            return error
        case TokenRefused():
            return _TOKEN_PROBLEMS[error.reason]
        case SessionRefused():
            return Problem(
                status=HTTPStatus.FORBIDDEN,
                title="Please come in through AWS Marketplace",
                sentence=_SESSION_PROBLEMS[error.reason],
                decision="session refused",
            )
    if isinstance(error, TryAgain) or is_transient(error):
        return _busy(
            next_step="Wait a few seconds, then load this page again. "
            "If your browser asks whether to send the form again, let it."
        )
    return Problem(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        title="Something went wrong on our side",
        sentence="We have been told. Your subscription is not affected.",
        next_step="Try again in some minutes: in the AWS console, open AWS Marketplace, choose Manage "
        "subscriptions, choose this product, then Set up your account.",
        decision="fault",
    )


def _busy(*, next_step: str, retry: Mapping[str, object] | None = None) -> Problem:
    return Problem(
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        title="One moment, please",
        sentence="AWS is busy and could not answer in time. Nothing is lost.",
        next_step=next_step,
        retry=retry,
        headers={"Retry-After": "10"},
        decision="try again",
    )


def _reason(error: Exception) -> dict[str, str]:
    return {"reason": error.reason} if isinstance(error, TokenRefused | SessionRefused) else {}


def _where(error: Exception, problem: Problem) -> dict[str, str]:
    """Where a fault arose; its text may repeat what was sent, so it stays unsaid."""
    trace = error.__traceback__
    if problem.status is not HTTPStatus.INTERNAL_SERVER_ERROR or trace is None:
        return {}
    while trace.tb_next is not None:
        trace = trace.tb_next
    return {"at": f"{trace.tb_frame.f_globals.get('__name__', '')}:{trace.tb_lineno}"}


def _count_problem(problem: Problem) -> None:
    match problem:
        case Problem(status=HTTPStatus.INTERNAL_SERVER_ERROR):
            count("Faults")
        case Problem(status=HTTPStatus.SERVICE_UNAVAILABLE):
            count("TriedAgain")
        case Problem(decision="registration refused"):
            count("RegistrationsRefused")


def _only(fields: Fields, name: str) -> str:
    """The value of a field that was sent once; empty otherwise."""
    values = fields.get(name, [])
    return values[0] if len(values) == 1 else ""


def _header(event: Mapping[str, Any], name: str) -> list[str]:
    """The values of a header, in whatever case and however often it was sent."""
    many = event.get("multiValueHeaders") or {k: [v] for k, v in (event.get("headers") or {}).items()}
    return [str(value) for key, values in many.items() if key.lower() == name for value in values or ()]


def _request_id(event: Mapping[str, Any], context: LambdaContext | None) -> str:
    """What a buyer can name to the seller, and the log can be searched for."""
    own = getattr(context, "aws_request_id", None)
    return str(own or (event.get("requestContext") or {}).get("requestId", ""))
