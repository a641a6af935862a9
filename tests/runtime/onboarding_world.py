"""Onboarding over the in-memory ports, a clock that is set by hand, and a browser without a screen."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.parse import urlencode, urljoin, urlsplit

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.product import AgreementKind, Metering, PricingModel
from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.marketplace import ResolvedCustomer
from marketplace_constructs.runtime.agreements.service import AgreementsService
from marketplace_constructs.runtime.memory import (
    MemoryApiKeys,
    MemoryFacts,
    MemoryGateEntries,
    MemoryMarketplace,
)
from marketplace_constructs.runtime.onboarding.handler import Dependencies, Handler, create_app
from marketplace_constructs.runtime.onboarding.memory import MemoryContacts, MemoryMail, MemorySigningSecret
from marketplace_constructs.runtime.settings import OnboardingSettings

TOKEN_FIELD = "x-amzn-marketplace-token"
BUYER = "111122223333"
AGREEMENT = "agmt-0example0one"
LICENSE = "arn:aws:license-manager::123456789012:license:l-0123456789abcdef0123456789abcdef"
EMAIL = "buyer+sale@example.com"
PLAN = "plan01"


class HandSetClock:
    """Goes on only when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **by: float) -> None:
        self.now += timedelta(**by)


@dataclass
class Reply:
    """What the handler answered."""

    status: int
    headers: dict[str, list[str]]
    body: str
    path: str

    def header(self, name: str) -> str:
        return ", ".join(v for k, values in self.headers.items() if k.lower() == name.lower() for v in values)

    @property
    def title(self) -> str:
        return html.unescape(re.search("<h1>(.*?)</h1>", self.body, re.DOTALL)[1])

    @property
    def key(self) -> str:
        return html.unescape(re.search('class="secret"[^>]*><code>(.*?)</code>', self.body)[1])

    def hidden(self, name: str) -> str:
        return html.unescape(re.search(f'name="{name}" value="([^"]*)"', self.body)[1])

    @property
    def forms(self) -> list[str]:
        return re.findall('<form method="post" action="([^"]*)"', self.body)


class World:
    """One seller's onboarding, and what AWS would do around it."""

    def __init__(self, kind: AgreementKind = AgreementKind.CONCURRENT, *, sender: str = "sales@example.com") -> None:
        self.kind = kind
        self.clock = HandSetClock()
        self.facts, self.entries = MemoryFacts(), MemoryGateEntries()
        self.api_keys, self.marketplace = MemoryApiKeys(), MemoryMarketplace()
        self.contacts, self.mail = MemoryContacts(), MemoryMail()
        self.secret = MemorySigningSecret(self.clock)
        is_legacy = kind is AgreementKind.LEGACY
        self.settings = OnboardingSettings(
            product_code="abc123",
            agreement_kind=kind,
            pricing_model=PricingModel.SUBSCRIPTION,
            metering=Metering.NATIVE if is_legacy else Metering.PIPELINE,
            metering_region="us-east-1",
            facts_table="facts",
            keys_table="keys",
            usage_plan_id=PLAN,
            key_prefix="sale/",
            contacts_table="contacts",
            signing_secret="arn:aws:secretsmanager:us-east-1:123456789012:secret:sessions",
            seller_name="Example & Nouns",
            logo_url="https://logos.example.com/nouns.svg",
            support_contact="help@example.com",
            api_url="https://api.example.com/prod",
            example_route="GET /v1/health",
            sender=sender,
        )
        self.access = Access(
            product=self.settings.terms,
            usage_plan_id=PLAN,
            facts=self.facts,
            entries=self.entries,
            api_keys=self.api_keys,
            clock=self.clock,
        )
        self.agreements = AgreementsService(
            product=self.settings.terms,
            key_prefix="sale/",
            facts=self.facts,
            api_keys=self.api_keys,
            marketplace=self.marketplace,
            access=self.access,
            clock=self.clock,
        )
        self.app = self.make_app()
        self._tokens = 0

    def make_app(self, **instead: object) -> Handler:
        """A further instance of the function, over the same stores."""
        ports = {
            "settings": self.settings,
            "agreements": self.agreements,
            "contacts": self.contacts,
            "mail": self.mail,
            "secret": self.secret,
            "clock": self.clock,
        }
        return create_app(Dependencies(**{**ports, **instead}))

    def browser(self, **options: object) -> Browser:
        return Browser(self, **options)

    def token(self, *, buyer: str = BUYER, agreement: str = AGREEMENT, product_code: str = "abc123") -> str:
        """A registration token, as AWS Marketplace makes one at each "Set up your account"."""
        self._tokens += 1
        token = f"tokEN{self._tokens:04}" + "x" * 200
        if self.kind is AgreementKind.LEGACY:
            customer = ResolvedCustomer(product_code=product_code, customer_identifier=buyer)
        else:
            customer = ResolvedCustomer(
                product_code=product_code,
                customer_aws_account_id=buyer,
                license_arn=LICENSE.replace("01234", agreement[-3:] + "34"),
                agreement_id=agreement,
            )
        self.marketplace.customers[token] = customer
        return token

    def happens(self, kind: FactKind, *, buyer: str = BUYER, agreement: str = AGREEMENT, **more: object) -> None:
        """An event arrives from AWS."""
        is_legacy = self.kind is AgreementKind.LEGACY
        self.facts.add(
            Fact(
                id=f"{kind}#{agreement}#{self.clock().isoformat()}",
                kind=kind,
                buyer=buyer,
                at=self.clock(),
                agreement_id=None if is_legacy else agreement,
                license_arn=None if is_legacy else LICENSE.replace("01234", agreement[-3:] + "34"),
                product_code="abc123",
                **more,
            )
        )
        self.access.make_match(buyer)

    def arrive(self, **options: object) -> Browser:
        """A buyer who has registered, given an address, and sees the agreement's page."""
        browser = self.browser(**options)
        browser.register(self.token())
        browser.give_contact()
        return browser


@dataclass
class Browser:
    """Keeps cookies, follows redirects, fills in the forms that it is shown."""

    world: World
    stage: str = "/prod"
    app: object = None
    cookies: dict[str, str] = field(default_factory=dict)
    page: Reply | None = None
    history: list[Reply] = field(default_factory=list)

    def request(
        self,
        method: str,
        path: str,
        body: str | bytes | None = None,
        content_type: str | None = "application/x-www-form-urlencoded",
        *,
        encoded: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send one request, in the shape that API Gateway gives to a proxy function."""
        path, _, query = path.partition("?")
        sent = {"Host": "example.com", **(headers or {})}
        if method == "POST" and content_type:
            sent["Content-Type"] = content_type
        if self.cookies and "Cookie" not in sent:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if encoded:
            body = base64.b64encode(body if isinstance(body, bytes) else (body or "").encode()).decode()
        parameters = dict(pair.split("=") for pair in query.split("&")) if query else None
        event = {
            "resource": "/{proxy+}",
            "path": path,
            "httpMethod": method,
            "headers": sent,
            "multiValueHeaders": {name: [value] for name, value in sent.items()},
            "queryStringParameters": parameters,
            "multiValueQueryStringParameters": parameters and {k: [v] for k, v in parameters.items()},
            "pathParameters": {"proxy": path.strip("/")},
            "stageVariables": None,
            "requestContext": {
                "path": self.stage + path,
                "stage": "prod",
                "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
                "httpMethod": method,
                "identity": {"sourceIp": "192.0.2.1"},
            },
            "body": body,
            "isBase64Encoded": encoded,
        }
        answer = (self.app or self.world.app)(event, SimpleNamespace(aws_request_id="request-1"))
        reply = Reply(answer["statusCode"], answer["multiValueHeaders"], answer["body"], path)
        for cookie in reply.headers.get("Set-Cookie", []):
            name, _, value = cookie.split(";")[0].partition("=")
            self.cookies[name] = value
        self.page = reply
        self.history.append(reply)
        return reply

    def get(self, path: str) -> Reply:
        return self.request("GET", path)

    def post(self, path: str, fields: dict[str, str] | list[tuple[str, str]], **options: object) -> Reply:
        """Post a form, and go where the answer leads."""
        reply = self.request("POST", path, urlencode(fields), **options)
        if reply.status == 303:
            target = urlsplit(urljoin(f"https://example.com{self.stage}{path}", reply.header("Location")))
            assert target.path.startswith(self.stage)
            return self.get(target.path.removeprefix(self.stage))
        return reply

    def register(self, token: str) -> Reply:
        # No two requests come at the same moment.
        self.world.clock.advance(seconds=1)
        return self.post("/register", {TOKEN_FIELD: token})

    def give_contact(self, email: str = EMAIL) -> Reply:
        return self.post("/contact", {"form_token": self.page.hidden("form_token"), "email": email})

    def take_key(self) -> Reply:
        return self.post("/key", {"form_token": self.get("/agreement").hidden("form_token")})

    def rotate(self, overlap: str = "24") -> Reply:
        page = self.get("/agreement")
        form = {name: page.hidden(name) for name in ("form_token", "replaces")}
        return self.post("/rotation", {**form, "overlap": overlap})
