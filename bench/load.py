"""Registrations, keys and events per second: the real handlers, one after the other, over the local AWS.

Beside each figure stands its floor: the time in which the local AWS answered the calls. On AWS another limit comes
first, CreateApiKey, of which an account has five per second.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import io
import json
import re
from collections.abc import Callable
from functools import partial
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

from figures import own_peak_mb, show
from local import AwsTime, LocalSale, local_sale

from marketplace_constructs.rehearsal.marketplace import EventBridgeEvent

CREATE_API_KEY_PER_SECOND = 5
"""Source: API Gateway developer guide, quotas (read 2026-11-21)."""
BATCH = 10
CONTEXT: Any = SimpleNamespace(aws_request_id="request-1")


class Visitor:
    """A buyer's browser, as far as API Gateway shows it to the function."""

    def __init__(self, handler: Callable[[dict[str, Any], Any], dict[str, Any]], sale: LocalSale) -> None:
        self._handler = handler
        self._cookie = ""
        self._agreement = sale.market.subscribe(sale.market.add_buyer(), sale.listing)
        self._form = sale.market.registration_form(self._agreement)

    def register(self) -> None:
        answer = self.ask("POST", "/register", self._form)
        assert answer["statusCode"] == 303, answer["statusCode"]
        self._cookie = answer["multiValueHeaders"]["Set-Cookie"][0].partition(";")[0]

    def give_contact(self) -> None:
        answer = self.ask("POST", "/contact", {"form_token": self.form_token(), "email": "buyer@example.com"})
        assert answer["statusCode"] == 303, answer["statusCode"]

    def take_key(self) -> None:
        answer = self.ask("POST", "/key", {"form_token": self.form_token()})
        assert answer["statusCode"] == 200, answer["statusCode"]

    def form_token(self) -> str:
        page = self.ask("GET", "/agreement")["body"]
        found = re.search(r'name="form_token" value="([^"]*)"', page)
        assert found is not None
        return html.unescape(found[1])

    def ask(self, method: str, path: str, form: dict[str, str] | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/x-www-form-urlencoded", "cookie": self._cookie}
        return self._handler(
            {
                "path": path,
                "httpMethod": method,
                "headers": headers,
                "multiValueHeaders": {name: [value] for name, value in headers.items()},
                "queryStringParameters": None,
                "requestContext": {"path": f"/prod{path}", "stage": "prod", "requestId": "1"},
                "body": urlencode(form or {}),
                "isBase64Encoded": False,
            },
            CONTEXT,
        )


def measure(name: str, work: list[Callable[[], object]], count: int, aws: AwsTime, limit: str) -> None:
    """Do it all and show how much of it was done per second."""
    waited, calls, begun = aws.seconds, aws.calls, perf_counter()
    # The functions' logs and metrics, which Lambda would take.
    with contextlib.redirect_stdout(io.StringIO()):
        for step in work:
            step()
    seconds, waited = perf_counter() - begun, aws.seconds - waited
    show(
        f"{name} per second",
        count / seconds,
        "1/s",
        ratio=seconds / waited,
        of=f"the time in which the local AWS answered the calls, {1000 * waited / count:.1f} ms each",
        limit=limit,
        own_ms=1000 * (seconds - waited) / count,
        aws_calls=(aws.calls - calls) / count,
        count=count,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buyers", type=int, default=50)
    buyers = parser.parse_args().buyers
    aws = AwsTime()
    with local_sale() as sale:
        # Their log goes to where standard output leads when they are imported.
        with contextlib.redirect_stdout(io.StringIO()):
            from marketplace_constructs.runtime.onboarding.handler import handler as onboarding  # noqa: PLC0415
            from marketplace_constructs.runtime.subscription_events import (  # noqa: PLC0415
                handler as subscription_events,
            )

        def deliver(bodies: list[str]) -> None:
            records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
            answer = subscription_events({"Records": records}, CONTEXT)
            assert answer == {"batchItemFailures": []}

        def events() -> list[str]:
            bodies = [json.dumps(event.envelope) for event in sale.told if isinstance(event, EventBridgeEvent)]
            sale.told.clear()
            return bodies

        # The first call of each makes its clients.
        with contextlib.redirect_stdout(io.StringIO()):
            Visitor(onboarding, sale).register()
            deliver(events())
        visitors = [Visitor(onboarding, sale) for _ in range(buyers)]
        limit = f"on AWS an account gets {CREATE_API_KEY_PER_SECOND} new keys/s, and a buyer needs one"
        measure("registrations", [visitor.register for visitor in visitors], buyers, aws, limit)
        bodies = events()
        batches = [bodies[at : at + BATCH] for at in range(0, len(bodies), BATCH)]
        measure("agreement events", [partial(deliver, batch) for batch in batches], len(bodies), aws, limit)
        measure("contacts", [visitor.give_contact for visitor in visitors], buyers, aws, limit)
        measure("keys", [visitor.take_key for visitor in visitors], buyers, aws, limit)
    show("peak memory of the load, handlers and Marketplace stand-in", own_peak_mb(), "MB")


if __name__ == "__main__":
    main()
