"""A buyer's visits: to AWS Marketplace, to the onboarding page, and to the API that was bought."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from marketplace_constructs.rehearsal.browser import Answer, Browser, Curl, Form, Page
from marketplace_constructs.rehearsal.example_calls import ExampleCall
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.journey import require, wait_until
from marketplace_constructs.rehearsal.marketplace import Agreement, Buyer
from marketplace_constructs.rehearsal.stage import Route, Sale, Stage

TOKEN_FIELD: Final = "x-amzn-marketplace-token"  # noqa: S105  # the field's name
_REFUSALS: Final = frozenset({401, 403})
_THROTTLED: Final = 429
_SERVER_ERRORS: Final = range(500, 600)
CONTACT: Final = "buyer@example.com"
_CALLERS: Final = 4
_MOST_LOG_EVENTS: Final = 10_000
"""Of one answer. Source: CloudWatch Logs API reference, FilterLogEvents (read 2026-11-28)."""


@dataclass
class Visitor:
    """One buyer of one sale, with a browser and, once it was shown, a key.

    Args:
        stage: Where it all happens.
        sale: What is bought.
        buyer: Who buys.

    Attributes:
        key: The newest key's value, shown once; never printed.
        keys: All that were shown, oldest first; never printed.
        served: How many calls of this buyer reached the code that is sold.
        tokens: Registration tokens that were used, oldest first; never printed.
        violations_before: How many rules of AWS had been broken when they came.
    """

    stage: Stage
    sale: Sale
    buyer: Buyer
    agreement: Agreement | None = None
    served: int = 0
    keys: list[str] = field(default_factory=list, repr=False)
    tokens: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.browser = Browser(self.stage.gateway.port)
        self._lock = threading.Lock()
        self._made: list[str] = []
        self.violations_before = len(self.stage.market.violations)
        self.stage.visitors.append(self)

    @property
    def key(self) -> str:
        """The newest key's value; empty before there is one."""
        return self.keys[-1] if self.keys else ""

    @property
    def identity(self) -> str:
        """How the seller knows the buyer."""
        return self.buyer.customer_identifier if self.sale.terms.is_legacy else self.buyer.account_id

    def subscribe(self, *, offer_id: str | None = None) -> Agreement:
        """Accept an offer on AWS Marketplace: the public one, or a private one."""
        self.agreement = self.stage.market.subscribe(self.buyer, self.sale.listing, offer_id=offer_id)
        return self.agreement

    def come_from_marketplace(self, form: Mapping[str, str] | None = None) -> Page:
        """Press "Set up your account": post the form with a fresh token, or the one that is given."""
        assert self.agreement is not None
        form = form or self.stage.market.registration_form(self.agreement)
        self.tokens.append(form[TOKEN_FIELD])
        return self.browser.post(self.stage.gateway.url(self.sale.fulfillment_url), form, cross_site=True)

    def see_status(self) -> Page:
        """Look at the agreement's page again."""
        return self.browser.get(self.stage.gateway.url(self.sale.fulfillment_url).replace("/register", "/agreement"))

    def give_contact(self, page: Page) -> Page:
        """Fill in the email address that the page asks for."""
        form = page.form_asking_for("email")
        require(form is not None, f"the page asks for no email address: {said(page)}")
        assert form is not None
        emails = [control.name for control in form.fields.values() if control.kind == "email"]
        require(
            [c.name for c in form.fields.values() if c.required] == emails,
            "the email address is not the one required field",
        )
        return self.browser.submit(page, form, {emails[0]: CONTACT})

    def take_key(self) -> Page:
        """Wait until the page offers the key, and have it shown."""

        def offer() -> tuple[Page, Form] | None:
            page = self.see_status()
            form = page.form_with_only_hidden_fields()
            return (page, form) if form else None

        page, form = wait_until(offer, "the page offers the key once the agreement is active")
        shown = self.browser.submit(page, form)
        self.keys.append(key_on(shown))
        return shown

    def rotate_key(self, page: Page, *, overlap_hours: int) -> str:
        """Replace the key; its new value."""
        form = page.form_asking_for("radio")
        require(form is not None, f"the page offers no new key: {said(page)}")
        assert form is not None
        choice = next(control for control in form.fields.values() if control.kind == "radio")
        require(
            str(overlap_hours) in choice.options,
            f"an overlap of {overlap_hours} h is not among {', '.join(choice.options)}",
        )
        old = self.key
        self.keys.append(key_on(self.browser.submit(page, form, {choice.name: str(overlap_hours)})))
        require(self.key != old, "the new key is the old one")
        return old

    def call(self, route: Route, key: str = "") -> Answer:
        """Call a route as it stands, with an empty body where it takes one; what was served is counted."""
        body = "{}" if route.method in {"POST", "PUT", "PATCH"} else ""
        return self.make(ExampleCall(method=route.method, path=route.path, body=body), key)

    def make(self, call: ExampleCall, key: str = "") -> Answer:
        """Make a call to the sold API; what was served is counted."""
        headers = {"x-api-key": key} if key else {}
        if call.body:
            headers["content-type"] = "application/json"
        url = self.stage.gateway.url(self.sale.settings.api_url) + call.path
        answer = self.browser.request(call.method, url, headers, call.body)
        self._count(answer, key)
        return answer

    def follow(self, curl: Curl) -> Answer:
        """Run the curl line that the page gave."""
        answer = self.browser.request(curl.method, self.stage.gateway.url(curl.url), curl.headers, curl.body)
        self._count(answer, curl.headers.get("x-api-key", ""))
        return answer

    def call_until_refused(self, route: Route, key: str) -> Answer:
        """Call until the gate or the key says no, as they do within their cache time."""

        def refused() -> Answer | None:
            answer = self.call(route, key)
            return answer if answer.status in _REFUSALS else None

        return wait_until(refused, f"{route} is refused")

    def burst(self, route: Route, calls: int) -> list[Answer]:
        """Call many times at once."""
        with ThreadPoolExecutor(_CALLERS) as pool:
            return list(pool.map(lambda _: self.call(route, self.key), range(calls)))

    @property
    def calls(self) -> list[Call]:
        """Every call that was made with a key of this buyer's, oldest first, as API Gateway saw it."""
        with self._lock:
            made = set(self._made)
        return [call for call in self.stage.gateway.calls if call.extended_request_id in made]

    def _count(self, answer: Answer, key: str) -> None:
        if key not in self.keys:
            return
        with self._lock:
            self._made.append(answer.headers.get("x-amz-apigw-id", ""))
            self.served += is_served(answer)


def sold_route(stage: Stage, sale: Sale) -> Route:
    """A route to buy a call of: the example route where it has its price, else the plainest one that has."""
    priced = [route for route in stage.routes(sale.api_id) if not route.is_open]
    require(bool(priced), "no route of the API is behind the gate")
    example = [route for route in priced if str(route) == sale.settings.example_route]
    plain = sorted(priced, key=lambda route: ("{" in route.path, route.method != "GET", len(route.path)))
    return (example or plain)[0]


def register(buyer: Visitor) -> None:
    """From the fulfilment URL to the key."""
    page = buyer.come_from_marketplace()
    if page.form_asking_for("email") is not None:
        buyer.give_contact(page)
    buyer.take_key()


def open_to(buyer: Visitor) -> Route:
    """A sold route, which the buyer's key opens.

    Raises:
        BrokenPromise: It does not, or whatever decides about it fails.
    """
    route = sold_route(buyer.stage, buyer.sale)

    def works() -> bool | None:
        answer = buyer.call(route, buyer.key)
        return (is_served(answer) and answer.status not in _SERVER_ERRORS) or None

    wait_until(works, f"{route} is served")
    return route


def wait_until_drained(stage: Stage, sale: Sale) -> None:
    """Wait until the sale's queues are empty, and nothing is being handled.

    Raises:
        BrokenPromise: They do not become empty.
    """
    sqs = stage.aws.client("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

    def is_drained() -> bool | None:
        for url in sale.stack.of_type("AWS::SQS::Queue").values():
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            if any(int(attributes[name]) for name in names):
                return None
        return True

    wait_until(is_drained, "every event is handled")


def is_served(answer: Answer) -> bool:
    """Whether a call got past the gate, the key and the throttle."""
    return answer.status not in _REFUSALS and answer.status != _THROTTLED


def is_throttled(answer: Answer) -> bool:
    """Whether API Gateway said: too many requests."""
    return answer.status == _THROTTLED


def is_refused(answer: Answer) -> bool:
    """Whether the caller was told to stay out."""
    return answer.status in _REFUSALS


def key_on(page: Page) -> str:
    """The key that a page shows, once as itself and once in a curl line.

    Raises:
        BrokenPromise: It shows none.
    """
    curl = page.curl_line()
    require(curl is not None, f"the page shows no key with a curl line: {said(page)}")
    assert curl is not None
    key = curl.headers.get("x-api-key", "")
    require(bool(key) and key in page.codes, "the key in the curl line is not the one that the page shows")
    return key


def said(page: Page) -> str:
    """What a page says, short; key pages excepted, whose text nobody may see."""
    return f"{page.status}: {page.text[:160]}" if page.curl_line() is None else f"{page.status}: a page with a key"


def log_messages(logs: Any, group: str) -> Iterator[str]:
    """Every message of a log group, the oldest first; the local AWS gives no token for what is beyond the first."""
    begin = 0
    while True:
        events = logs.filter_log_events(logGroupName=group, startTime=begin, limit=_MOST_LOG_EVENTS)["events"]
        yield from (event["message"] for event in events)
        if len(events) < _MOST_LOG_EVENTS:
            return
        begin = max(events[-1]["timestamp"], begin + 1)
