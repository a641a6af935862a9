"""Answers of the gate that API Gateway keeps: none outlives its time, and none is given for another call.

A model of API Gateway's cache stands before the production gate, with the identity sources and the time to live that
the synthesized template names. Every answer must be what was true at a moment within the documented time before it.

Source of the model: API Gateway developer guide, Lambda authorizers: the identity sources make the cache's key, a
missing one is answered 401 without the function, a failing function is answered 500, and a kept policy is evaluated
against each call's own method ARN.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aws_cdk as cdk
import pytest
from botocore.exceptions import ClientError
from faults import FAULTS, Trap, Trapped
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from planned_sale import PlannedSale, sold
from pools import ALLOW_ALL, expansion
from sale import LEGACY, Sale, notification
from templates import MakeApp, Template, small_api

from marketplace_constructs import Gate
from marketplace_constructs.policy.routes import read_routes
from marketplace_constructs.runtime.agreements.gate_entries import GateEntries
from marketplace_constructs.runtime.agreements.marketplace import ResolvedCustomer
from marketplace_constructs.runtime.gate import RecentPlans, answer

API = "arn:aws:execute-api:us-east-1:123456789012:a1b2c3d4e5/prod"
DOCUMENTED = timedelta(seconds=60)
"""What the gate's docstring and docs/security.md promise."""

PATHS = {
    ("GET", "/v1/samples"): ["/v1/samples"],
    ("POST", "/v1/samples"): ["/v1/samples"],
    ("GET", "/v1/samples/{id}"): ["/v1/samples/letter", "/v1/samples/concert"],
    ("GET", "/v1/samples/{id}/nouns"): ["/v1/samples/letter/nouns"],
    ("GET", "/{proxy+}"): ["/anything", "/v1/samples/letter/else"],
}
UNSOLD = {("POST", "/v1/samples"), ("GET", "/v1/samples/{id}/nouns")}
"""A method beside a sold one, and a child below one."""

Gateway = Callable[[Mapping[str, object]], dict[str, Any]]


@dataclass
class Cache:
    """API Gateway's cache of one authorizer's answers.

    Args:
        gate: The authorizer's function.
        identity_sources: As the template names them.
        ttl: How long an answer is kept.
        clock: The present moment.
    """

    gate: Gateway
    identity_sources: tuple[str, ...]
    ttl: timedelta
    clock: Callable[[], datetime]
    kept: dict[tuple[str, ...], tuple[datetime, dict[str, Any]]] = field(default_factory=dict)

    def status(self, method: str, resource_path: str, path: str, key: str) -> int:
        """What a call is answered: 200 where the gate lets it through."""
        event: dict[str, Any] = {
            "type": "REQUEST",
            "methodArn": f"{API}/{method}{path}",
            "httpMethod": method,
            "path": path,
            "headers": {"x-api-key": key},
            "requestContext": {"httpMethod": method, "resourcePath": resource_path},
        }
        identity = tuple(self._value(source, event) for source in self.identity_sources)
        if not all(identity):
            return 401
        if identity not in self.kept or self.kept[identity][0] <= self.clock():
            try:
                answered = self.gate(event)
            except ClientError:
                return 500
            self.kept[identity] = (self.clock() + self.ttl, answered)
        return 200 if is_allowed(self.kept[identity][1]["policyDocument"], str(event["methodArn"])) else 403

    @staticmethod
    def _value(source: str, event: Mapping[str, Any]) -> str:
        kind, _, name = source.rpartition(".")
        members = {"method.request.header": event["headers"], "context": event["requestContext"]}
        return str(members[kind].get(name, ""))


def is_allowed(policy: Mapping[str, Any], arn: str) -> bool:
    """IAM's verdict: a refusal wins, what is not named is refused, and ``*`` crosses ``/``."""
    effects = {
        statement["Effect"]
        for statement in policy["Statement"]
        if statement["Action"] == "execute-api:Invoke" and fnmatch.fnmatchcase(arn, statement["Resource"])
    }
    return effects == {"Allow"}


@dataclass
class Purchase:
    """One subscription of a customer and what it opens; both in the order of time."""

    customer: str
    begins: list[tuple[datetime, bool]] = field(default_factory=list)
    """From when on it grants access, or grants none."""
    keys: dict[str, tuple[datetime, datetime | None]] = field(default_factory=dict)
    """Each key with the time from which it counts, and the time from which it does not."""

    def opens(self, key: str, at: datetime) -> bool:
        issued_at, retires_at = self.keys[key]
        grants = next((granted for since, granted in reversed(self.begins) if since <= at), False)
        return grants and issued_at <= at and (retires_at is None or at < retires_at)

    @property
    def is_over(self) -> bool:
        return not self.begins[-1][1]


class Calls(RuleBasedStateMachine):
    """Buyers come, pause, go on, rotate and leave, while anybody calls anything."""

    identity_sources: tuple[str, ...]
    ttl: timedelta

    def __init__(self) -> None:
        super().__init__()
        self.sale = Sale(product=LEGACY)
        self.entries: GateEntries = self.sale.entries
        self.cache = Cache(self.gate, self.identity_sources, self.ttl, lambda: self.sale.now)
        self.purchases: list[Purchase] = []
        self.numbers = itertools.count(1)

    def gate(self, event: Mapping[str, object]) -> dict[str, Any]:
        """The production gate; a route that is not sold is shut for everybody."""
        reply: dict[str, Any] = answer(event, entries=self.entries, clock=lambda: self.sale.now)
        context: Any = event["requestContext"]
        if (context["httpMethod"], context["resourcePath"]) in UNSOLD:
            reply["policyDocument"]["Statement"][0]["Effect"] = "Deny"
        return reply

    @initialize()
    def begin(self) -> None:
        self.subscribe()

    @precondition(lambda self: len(self.purchases) < 4)
    @rule()
    def subscribe(self) -> None:
        customer = f"customer{next(self.numbers)}"
        token = f"token of {customer}"
        self.sale.marketplace.customers[token] = ResolvedCustomer(
            product_code=LEGACY.product_code, customer_identifier=customer
        )
        purchase = Purchase(customer)
        self.purchases.append(purchase)
        registration = self.sale.service.register(token)
        self.tell(purchase, "subscribe-success", grants=True)
        key = self.sale.service.issue_key(registration.buyer, registration.reference)
        assert key is not None
        purchase.keys[key] = (self.sale.now, None)

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        purchase = data.draw(st.sampled_from(self.purchases))
        self.tell(purchase, "unsubscribe-pending", grants=False)

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        purchase = data.draw(st.sampled_from(self.purchases))
        self.tell(purchase, "subscribe-success", grants=True)

    @rule(data=st.data(), overlap=st.sampled_from([0, 1, 30, 90, 3600]))
    def rotate(self, data: st.DataObject, overlap: int) -> None:
        purchase = data.draw(st.sampled_from(self.purchases))
        if purchase.is_over:
            return
        self.sale.wait(milliseconds=1)
        now = self.sale.now
        live = [key for key in purchase.keys if purchase.opens(key, now)]
        new = self.sale.service.rotate_key(purchase.customer, "", timedelta(seconds=overlap))
        for key in live:
            issued_at, retires_at = purchase.keys[key]
            until = now + timedelta(seconds=overlap if key == live[-1] else 0)
            purchase.keys[key] = (issued_at, min(until, retires_at or until))
        purchase.keys[new] = (now, None)

    @rule()
    def reconcile(self) -> None:
        self.sale.reconcile()

    @rule(seconds=st.sampled_from([0, 1, 29, 59, 60, 61, 3600]), routes=st.permutations(sorted(PATHS)))
    def wait_and_call_everything(self, seconds: int, routes: list[tuple[str, str]]) -> None:
        self.sale.wait(seconds=seconds)
        for purchase in self.purchases:
            for key in purchase.keys:
                for route in routes:
                    for path in PATHS[route]:
                        self.check(purchase, key, route, path)

    @rule(data=st.data(), seconds=st.sampled_from([0, 61]), route=st.sampled_from(sorted(PATHS)))
    def wait_and_call_one_thing(self, data: st.DataObject, seconds: int, route: tuple[str, str]) -> None:
        self.sale.wait(seconds=seconds)
        purchase = data.draw(st.sampled_from(self.purchases))
        key = data.draw(st.sampled_from(list(purchase.keys)))
        self.check(purchase, key, route, data.draw(st.sampled_from(PATHS[route])))

    @rule(
        key=st.sampled_from(["", "nobody's key", "key-value-00000000000000000001x"]), route=st.sampled_from(list(PATHS))
    )
    def call_without_a_key(self, key: str, route: tuple[str, str]) -> None:
        assert self.cache.status(*route, PATHS[route][0], key) == (403 if key else 401)

    def tell(self, purchase: Purchase, action: str, *, grants: bool) -> None:
        self.sale.wait(milliseconds=1)
        message_id = f"{action} {next(self.numbers)}"
        self.sale.tell(notification(action, at=self.sale.now, message_id=message_id, customer=purchase.customer))
        purchase.begins.append((self.sale.now, grants))

    def check(self, purchase: Purchase, key: str, route: tuple[str, str], path: str) -> None:
        served = self.cache.status(*route, path, key) == 200
        if route in UNSOLD:
            assert not served
            return
        now = self.sale.now
        changes = [since for since, _ in purchase.begins] + [
            at for times in purchase.keys.values() for at in times if at
        ]
        # Just after the moment at which the oldest kept answer was given: changes lie milliseconds apart.
        oldest = now - DOCUMENTED + timedelta(microseconds=1)
        moments = [oldest, *(at for at in changes if oldest < at <= now), now]
        assert served in {purchase.opens(key, at) for at in moments}


@pytest.fixture(scope="module")
def deployed(make_app: MakeApp) -> type[Calls]:
    """The cache as a deployment with the default props has it."""
    stack = cdk.Stack(make_app(), "Sale")
    Gate(stack, "Gate").guard_api(small_api(stack))
    authorizer = Template(stack).only("AWS::ApiGateway::Authorizer")["Properties"]

    class Deployed(Calls):
        identity_sources = tuple(authorizer["IdentitySource"].split(","))
        ttl = timedelta(seconds=authorizer["AuthorizerResultTtlInSeconds"])

    return Deployed


def test_no_kept_answer_outlives_its_time_or_opens_another_call(deployed: type[Calls]) -> None:
    few = settings(max_examples=100, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(deployed, settings=few)  # type: ignore[no-untyped-call]


def end_of_overlap(calls: Calls, purchase: Purchase) -> None:
    calls.sale.service.rotate_key(purchase.customer, "", timedelta(seconds=30))
    calls.sale.wait(seconds=30)


REVOCATIONS: dict[str, Callable[[Calls, Purchase], object]] = {
    "pending": lambda calls, purchase: calls.tell(purchase, "unsubscribe-pending", grants=False),
    "end": lambda calls, purchase: calls.tell(purchase, "unsubscribe-success", grants=False),
    "rotation": lambda calls, purchase: calls.sale.service.rotate_key(purchase.customer, "", timedelta()),
    "end of overlap": end_of_overlap,
}


@pytest.mark.parametrize("way", REVOCATIONS)
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_a_revoked_key_is_refused_within_the_documented_time(deployed: type[Calls], way: str, *, is_warm: bool) -> None:
    calls = deployed()
    calls.begin()
    [purchase] = calls.purchases
    [key] = purchase.keys
    if is_warm:
        assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == 200
    REVOCATIONS[way](calls, purchase)
    if is_warm:
        calls.sale.wait(seconds=DOCUMENTED.total_seconds(), milliseconds=-1)
        calls.cache.status("GET", "/v1/samples", "/v1/samples", key)
        calls.sale.wait(milliseconds=1)
    for method, resource_path in PATHS:
        assert calls.cache.status(method, resource_path, PATHS[method, resource_path][0], key) == 403


@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_a_key_that_is_let_in_again_is_served_within_the_documented_time(
    deployed: type[Calls], *, is_warm: bool
) -> None:
    calls = deployed()
    calls.begin()
    [purchase] = calls.purchases
    [key] = purchase.keys
    calls.tell(purchase, "unsubscribe-pending", grants=False)
    if is_warm:
        assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == 403
    calls.tell(purchase, "subscribe-success", grants=True)
    if is_warm:
        calls.sale.wait(seconds=DOCUMENTED.total_seconds())
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == 200


@pytest.mark.parametrize("shut", sorted(UNSOLD))
@pytest.mark.parametrize("opened", sorted(PATHS.keys() - UNSOLD))
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_a_kept_answer_for_one_route_opens_no_other(
    deployed: type[Calls], opened: tuple[str, str], shut: tuple[str, str], *, is_warm: bool
) -> None:
    calls = deployed()
    calls.begin()
    [key] = calls.purchases[0].keys
    if is_warm:
        assert calls.cache.status(*opened, PATHS[opened][0], key) == 200
    assert calls.cache.status(*shut, PATHS[shut][0], key) == 403
    assert calls.cache.status(*opened, PATHS[opened][-1], key) == 200


EXAMPLE = [
    f"{route.method} {route.path}"
    for route in read_routes(Path(__file__).parents[2] / "stacks" / "nouns_api" / "openapi.json")
]


def is_below(child: str, parent: str) -> bool:
    """Whether a route is another method on the parent's path, or lies anywhere below it."""
    (_, below), (_, above) = child.split(" "), parent.split(" ")
    return child != parent and (below == above or below.startswith(f"{above}/"))


PAIRS = [(parent, child) for parent, child in itertools.permutations(EXAMPLE, 2) if is_below(child, parent)]


def test_the_example_has_pairs_of_a_route_and_one_below_it() -> None:
    assert ("GET /v1/samples/{id}", "GET /v1/samples/{id}/nouns") in PAIRS
    assert len(PAIRS) >= 4


@pytest.mark.parametrize(("parent", "child"), PAIRS)
@pytest.mark.parametrize("sells", ["the parent alone", "all but the child"])
@pytest.mark.parametrize("is_warm", [True, False], ids=["warm", "cold"])
def test_a_sold_route_of_the_example_opens_no_unsold_one_below_it(
    deployed: type[Calls], parent: str, child: str, sells: str, *, is_warm: bool
) -> None:
    def named(route: str, **members: str) -> dict[str, object]:
        action, resource = route.split(" ")
        return ALLOW_ALL | {"Action": action, "Resource": resource, **members}

    written = [named(parent)] if sells == "the parent alone" else [ALLOW_ALL, named(child, Sid="Not", Effect="Deny")]
    allowed = {f"{method} {path}" for method, path in expansion(written, EXAMPLE).table.allowed}
    assert parent in allowed
    sale = PlannedSale().hold("example@1", *allowed, assign_to="Default")
    key = sold(sale)
    recent = RecentPlans(sale.versions)
    cache = Cache(
        lambda event: answer(event, entries=sale.entries, plans=recent, clock=lambda: sale.now),
        deployed.identity_sources,
        deployed.ttl,
        lambda: sale.now,
    )

    def status(route: str) -> int:
        method, path = route.split(" ")
        return cache.status(method, path, path.replace("{id}", "letter"), key)

    if is_warm:
        assert status(parent) == 200
    assert status(child) == 403
    assert status(parent) == 200
    assert status(child) == 403


@pytest.mark.parametrize(("key", "status"), [("", 401), ("nobody's key", 403)])
def test_a_kept_answer_for_one_key_opens_for_no_other(deployed: type[Calls], key: str, status: int) -> None:
    calls = deployed()
    calls.begin()
    [good] = calls.purchases[0].keys
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", good) == 200
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == status
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", good) == 200


@pytest.mark.parametrize("is_open", [True, False])
def test_a_read_that_failed_is_not_kept_as_an_answer(deployed: type[Calls], *, is_open: bool) -> None:
    calls = deployed()
    calls.begin()
    [purchase] = calls.purchases
    [key] = purchase.keys
    if not is_open:
        calls.tell(purchase, "unsubscribe-pending", grants=False)
    calls.entries = Trapped(calls.sale.entries, Trap(0, FAULTS["throttled"], after=False, is_armed=True))  # type: ignore[assignment]
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == 500
    assert calls.cache.status("GET", "/v1/samples", "/v1/samples", key) == (200 if is_open else 403)
