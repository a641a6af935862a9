"""Each AWS call of each handler fails once, in every way, before and after its effect: access is right all the same."""

from __future__ import annotations

import json
import urllib.request
from datetime import datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from faults import FAULTS, Crash, Trap, Trapped, aws_error, faults, until_done, until_shown
from onboarding_aws import ContactsTable, PostOffice, SecretStore
from onboarding_world import EMAIL, Browser, HandSetClock, Reply, World
from onboarding_world import PLAN as ONBOARDED
from sale import BUYER, CONTRACT, CREATED, DEPROVISIONED, ENDED, LICENSED, PLAN, PREFIX, START, Sale, event
from usage_plan_aws import ApiGateway, Waiting

from marketplace_constructs.domain.agreements import Entitlement, FactKind
from marketplace_constructs.runtime import gate, usage_plan
from marketplace_constructs.runtime.agreements import reconciliation
from marketplace_constructs.runtime.agreements.access import Access
from marketplace_constructs.runtime.agreements.api_keys import ApiKeys
from marketplace_constructs.runtime.agreements.gate_entries import DynamoDbGateEntries
from marketplace_constructs.runtime.agreements.marketplace import DescribedAgreement
from marketplace_constructs.runtime.agreements.service import TryAgain
from marketplace_constructs.runtime.onboarding.contacts import Contact, DynamoDbContacts
from marketplace_constructs.runtime.onboarding.mail import SesMail, send_owed
from marketplace_constructs.runtime.onboarding.signing_secret import RotationEvent, SecretsManagerSigningSecret
from marketplace_constructs.runtime.onboarding.signing_secret import rotate as rotate_secret
from marketplace_constructs.runtime.settings import ReconciliationSettings
from marketplace_constructs.runtime.usage_plan import handle as settle


def trapped(trap: Trap, sale: Sale | None = None) -> Sale:
    """A sale each of whose ports goes through the trap."""
    sale = Sale() if sale is None else sale
    trap_ports(sale.access, trap)
    trap_ports(sale.service, trap)
    return sale


def trap_ports(user: object, trap: Trap, *ports: str) -> None:
    for name in ports or ("_facts", "_entries", "_api_keys", "_marketplace"):
        if hasattr(user, name):
            setattr(user, name, Trapped(getattr(user, name), trap))


def nothing_is_orphaned(sale: Sale) -> None:
    """Every API key has its fact, and no more than two of an agreement are open."""
    promised = {fact.key_name for fact in sale.facts.of_buyer(BUYER) if fact.key_name}
    for key in sale.api_keys.named(PREFIX):
        assert key.name in promised
    members = sale.api_keys.members(PLAN)
    assert len([key for key in sale.api_keys.named(PREFIX) if key.enabled and key.id in members]) <= 1


def get_key(sale: Sale, trap: Trap) -> str:
    """As a buyer gets one: the first key, or another where the first was never seen."""
    registration = until_done(trap, lambda: sale.service.register("token"))
    assert registration is not None
    value = until_done(trap, lambda: sale.service.issue_key(BUYER, "agmt-one"))
    if value is None:
        # Only a crash leaves a key behind that nobody has seen and nobody could take back.
        assert trap.fault is Crash
        value = until_done(trap, lambda: sale.service.rotate_key(BUYER, "agmt-one", timedelta()))
    return str(value)


def test_a_sale_survives_each_fault_of_each_call() -> None:
    def sell(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        for message in (event(CREATED), event(LICENSED)):
            until_done(trap, lambda message=message: sale.tell(message))  # type: ignore[misc]
        key = get_key(sale, trap)
        sale.reconcile()
        assert sale.opens(key)
        nothing_is_orphaned(sale)

    assert len(list(faults(sell))) > 100


def test_an_end_survives_each_fault_of_each_call() -> None:
    def end(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        sale.tell(event(CREATED), event(LICENSED))
        key = get_key(sale, Trap(0, Crash, after=False, calls=1))
        sale.wait(minutes=1)
        for message in (event(ENDED, at=sale.now, status="CANCELLED"), event(DEPROVISIONED, at=sale.now)):
            until_done(trap, lambda message=message: sale.tell(message))  # type: ignore[misc]
            # The queue's next delivery settles it; nobody waits for the reconciliation.
            assert not sale.opens(key)
        sale.reconcile()
        assert not sale.opens(key)
        assert sale.gate(key) == "Deny"
        assert not sale.api_keys.opens(PLAN, key)
        nothing_is_orphaned(sale)

    assert len(list(faults(end))) > 50


def test_a_rotation_survives_each_fault_of_each_call() -> None:
    def rotate(trap: Trap) -> None:
        sale = trapped(trap)
        sale.token("token")
        sale.tell(event(CREATED), event(LICENSED))
        old = get_key(sale, Trap(0, Crash, after=False, calls=1))
        new = until_done(trap, lambda: sale.service.rotate_key(BUYER, "agmt-one", timedelta()))
        sale.reconcile()
        assert sale.opens(str(new))
        assert not sale.opens(old)
        nothing_is_orphaned(sale)

    assert len(list(faults(rotate))) > 50


def test_a_rotation_that_could_not_end_the_old_key_shows_no_new_one() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    old = sale.issue(registration)
    real = sale.facts.add

    def refusing(fact: Any) -> bool:
        if fact.kind == "key-retired":
            raise aws_error("ThrottlingException", 400)
        return real(fact)

    sale.facts.add = refusing  # type: ignore[method-assign]
    with pytest.raises(TryAgain):
        sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    sale.reconcile()
    assert sale.opens(old)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


def test_an_end_that_comes_while_a_grant_is_under_way_has_the_last_word() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    key = sale.issue(registration)
    api_key = next(sale.api_keys.named(PREFIX))
    sale.api_keys.set_enabled(api_key.id, enabled=False)
    sale.api_keys.leave(PLAN, api_key.id)
    real = sale.api_keys.join
    late = iter([event(ENDED, at=sale.now + timedelta(minutes=1), status="CANCELLED")])

    def interrupted(usage_plan_id: str, api_key_id: str) -> None:
        for message in late:
            sale.tell(message)
        real(usage_plan_id, api_key_id)

    sale.api_keys.join = interrupted  # type: ignore[method-assign]
    sale.access.make_match(BUYER)
    assert not sale.api_keys.opens(PLAN, key)
    assert sale.gate(key) == "Deny"


def test_a_key_whose_maker_died_is_removed_once_it_is_replaced() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    real = sale.facts.add

    def dying(fact: Any) -> bool:
        if fact.kind == "key-created":
            raise Crash
        return real(fact)

    sale.facts.add = dying  # type: ignore[method-assign]
    with pytest.raises(Crash):
        sale.service.issue_key(registration.buyer, registration.reference)
    sale.facts.add = real  # type: ignore[method-assign]
    sale.reconcile()
    new = sale.service.rotate_key(BUYER, "agmt-one", timedelta())
    sale.reconcile()
    assert sale.opens(new)
    assert len(list(sale.api_keys.named(PREFIX))) == 1


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
def test_a_refusal_of_aws_is_not_taken_for_a_passing_fault(code: str) -> None:
    trap = Trap(fails_at=0, fault=lambda: aws_error(code, 400), after=False, is_armed=True)
    sale = trapped(trap)
    sale.token("token")
    with pytest.raises(ClientError):
        sale.service.register("token")


def test_two_registrations_at_once_make_one_key() -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    second: list[str | None] = []
    real = sale.facts.add

    def interleaved(fact: Any) -> bool:
        # The other one comes between the look and the promise.
        if fact.kind == "key-issued" and not second:
            second.append(None)
            second[0] = sale.service.issue_key(registration.buyer, registration.reference)
        return real(fact)

    sale.facts.add = interleaved  # type: ignore[method-assign]
    first = sale.service.issue_key(registration.buyer, registration.reference)
    assert [first, second[0]].count(None) == 1
    assert len(list(sale.api_keys.named(PREFIX))) == 1


# the reconciliation


SOON = timedelta(days=2)
DIMENSION = "seats"


class Hourly:
    """A stack in which everything has drifted that the reconciliation puts right, and the function that does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.contacts, self.post = ContactsTable(), PostOffice()

    def drift(self, trap: Trap) -> None:
        """Begin anew."""
        self.sale = sale = Sale(product=CONTRACT)
        trapped(trap, sale)
        self.plan = ApiGateway("abc123")
        self.contacts.items.clear()
        self.post.mails.clear()
        self.keys = {name: self.sell(name) for name in ("lostend", "drifted", "rotated", "expired", "late")}
        self.keys["rotated, new"] = sale.service.rotate_key(BUYER, "agmt-rotated", timedelta(hours=1))
        self.entitle("lostactivation", START + 10 * SOON)
        sale.register("token of lostactivation", "agmt-lostactivation")
        sale.api_keys.create(name=f"{PREFIX}agmt-drifted/7", value="x" * 20, customer_id="")
        drifted = next(key for key in sale.api_keys.named(f"{PREFIX}agmt-drifted/1"))
        sale.api_keys.set_enabled(drifted.id, enabled=False)
        sale.api_keys.leave(PLAN, drifted.id)
        DynamoDbContacts(self.contacts.client, "contacts").add(
            Contact(agreement=f"{BUYER}#agmt-drifted", email="buyer@example.com", created_at=sale.now)
        )
        for name in ("lostactivation", "drifted", "rotated", "expired", "late"):
            sale.marketplace.statuses[f"agmt-{name}"] = "ACTIVE"
        sale.marketplace.statuses["agmt-lostend"] = "TERMINATED"
        self.entitle("late", START + 10 * SOON)
        sale.wait(days=3)
        self.connect(trap)

    def sell(self, name: str) -> str:
        is_short = name in {"expired", "late"}
        self.entitle(name, START + (SOON if is_short else 10 * SOON))
        registration = self.sale.register(f"token of {name}", f"agmt-{name}")
        self.sale.tell(event(LICENSED, f"agmt-{name}"))
        return self.sale.issue(registration)

    def entitle(self, name: str, until: datetime) -> None:
        right = Entitlement(dimension=DIMENSION, value="5", expires_at=until)
        for arn in (
            f"arn:aws:license-manager::123456789012:license:l-{name}",
            f"aws:license-manager:us-east-1:123456789012:l-{name}",
        ):
            self.sale.marketplace.rights[BUYER, arn] = (right,)

    def connect(self, trap: Trap) -> None:
        sale = self.sale

        def access_over(api_keys: ApiKeys) -> Access:
            access = sale.access_over(api_keys)
            # The keys come through the snapshot, which is over a trap already.
            trap_ports(access, trap, "_facts", "_entries")
            return access

        clients = {"apigateway": self.plan, "dynamodb": self.contacts.client, "sesv2": self.post.client}
        self.monkeypatch.setattr(reconciliation, "client", lambda service: Trapped(clients[service], trap))
        self.monkeypatch.setattr(
            reconciliation,
            "_dependencies",
            lambda: SimpleNamespace(
                settings=SETTINGS,
                facts=Trapped(sale.facts, trap),
                service=sale.service,
                api_keys=Trapped(sale.api_keys, trap),
                access_over=access_over,
                clock=lambda: sale.now,
                plans=None,
            ),
        )

    def run(self) -> None:
        """One hour's run of the function."""
        self.sale.wait(hours=1)
        reconciliation.handler({}, SimpleNamespace(get_remaining_time_in_millis=lambda: 30_000))  # type: ignore[arg-type]

    def all_is_right(self) -> None:
        sale = self.sale
        assert {name: sale.opens(key) for name, key in self.keys.items()} == {
            "lostend": False,
            "drifted": True,
            "rotated": False,
            "rotated, new": True,
            "expired": False,
            "late": True,
        }
        assert not sale.api_keys.opens(PLAN, self.keys["lostend"])
        assert not sale.api_keys.opens(PLAN, self.keys["expired"])
        assert sale.opens(str(sale.service.issue_key(BUYER, "agmt-lostactivation")))
        names = [key.name for key in sale.api_keys.named("")]
        assert f"{PREFIX}agmt-rotated/1" not in names
        assert f"{PREFIX}agmt-drifted/7" not in names
        assert len(names) == len(set(names)) == 6
        assert "productCode" not in self.plan.plan
        assert {mail["Destination"]["ToAddresses"][0] for mail in self.post.mails} == {"buyer@example.com"}


SETTINGS = ReconciliationSettings(
    product_code=CONTRACT.product_code,
    agreement_kind=CONTRACT.agreement_kind,
    pricing_model=CONTRACT.pricing_model,
    metering=CONTRACT.metering,
    metering_region="us-east-1",
    facts_table="facts",
    keys_table="keys",
    usage_plan_id=PLAN,
    key_prefix=PREFIX,
    contacts_table="contacts",
    sender="sales@example.com",
    seller_name="Example Corp.",
    support_contact="help@example.com",
    observe_every_hours=1,
)


@pytest.fixture
def hourly(monkeypatch: pytest.MonkeyPatch) -> Hourly:
    return Hourly(monkeypatch)


@pytest.mark.filterwarnings("ignore:No application metrics")
def test_the_reconciliation_survives_each_fault_of_each_call(hourly: Hourly) -> None:
    def reconcile(trap: Trap) -> None:
        hourly.drift(trap)
        until_done(trap, hourly.run)
        # A mail that could not be sent fails no run; it is owed an hour longer.
        hourly.run()
        hourly.all_is_right()

    assert len(list(faults(reconcile))) > 100


@pytest.mark.filterwarnings("ignore:No application metrics")
def test_what_is_known_of_a_buyer_counts_while_aws_cannot_be_asked(hourly: Hourly) -> None:
    hourly.drift(Trap(0, Crash, after=False, calls=1))
    marketplace = hourly.sale.marketplace
    real = marketplace.describe_agreement

    def refusing(agreement_id: str) -> DescribedAgreement | None:
        if agreement_id == "agmt-drifted":
            raise aws_error("ValidationException", 400)
        return real(agreement_id)

    marketplace.describe_agreement = refusing  # type: ignore[method-assign]
    with pytest.raises(reconciliation.ReconciliationError, match="1 of 1"):
        hourly.run()
    # Whoever is to be shut out is, and whoever is to be let in is; the run fails all the same, so that somebody looks.
    hourly.all_is_right()


@pytest.mark.filterwarnings("ignore:No application metrics")
@pytest.mark.parametrize("undone", ["a key", "the product code"])
def test_a_run_that_left_something_undone_fails_so_that_an_alarm_tells(hourly: Hourly, undone: str) -> None:
    hourly.drift(Trap(0, Crash, after=False, calls=1))
    if undone == "the product code":
        hourly.plan.error = "BadRequestException"
    else:
        hourly.sale.api_keys.join = Trapped(hourly.sale.api_keys, Trap(0, FAULTS["failed"], False, is_armed=True)).join  # type: ignore[method-assign]
    with pytest.raises(reconciliation.ReconciliationError):
        hourly.run()
    hourly.plan.error = None
    hourly.run()
    hourly.all_is_right()


# onboarding's own calls: the table of contacts, the secret that signs sessions, the mail


def filled_in(browser: Browser, path: str, **fields: str) -> Reply:
    """The agreement's page, and what its form leads to where it has that form still."""
    page = browser.get("/agreement")
    if path not in page.forms:
        return page
    hidden = {name: page.hidden(name) for name in ("form_token", "replaces") if f'name="{name}"' in page.body}
    return browser.post(f"/{path}", {**hidden, **fields})


@pytest.mark.filterwarnings("ignore:No application metrics")
def test_a_visit_survives_each_fault_of_each_of_onboardings_own_calls() -> None:
    table, store, post = ContactsTable(), SecretStore(HandSetClock()), PostOffice()

    def visit(trap: Trap) -> None:
        world = World()
        table.items.clear()
        post.mails.clear()
        contacts = DynamoDbContacts(Trapped(table.client, trap), "contacts")  # type: ignore[arg-type]
        mail = SesMail(
            Trapped(post.client, trap),  # type: ignore[arg-type]
            sender="sales@example.com",
            seller_name="Example Corp.",
            support_contact="help@example.com",
        )
        secret = SecretsManagerSigningSecret(Trapped(store.client, trap), "sessions", world.clock)  # type: ignore[arg-type]
        browser = world.browser(app=world.make_app(contacts=contacts, mail=mail, secret=secret))
        world.happens(FactKind.ACTIVATED)
        token = world.token()
        # Loaded again is what failed: the post with the same token, or the page that it led to.
        until_shown(trap, lambda: browser.get("/agreement") if browser.cookies else browser.register(token))
        until_shown(trap, lambda: filled_in(browser, "contact", email=EMAIL))
        until_shown(trap, lambda: filled_in(browser, "contact", email="second@example.com"))
        # Whatever was read of the secret is read anew.
        world.clock.advance(minutes=6)
        old = until_shown(trap, lambda: filled_in(browser, "key")).key
        new = until_shown(trap, lambda: filled_in(browser, "rotation", overlap="0")).key

        assert not world.api_keys.opens(ONBOARDED, old)
        assert world.api_keys.opens(ONBOARDED, new)
        assert [item["email"]["S"] for item in table.items.values()] == [EMAIL]
        until_done(trap, lambda: send_owed(contacts, mail, world.clock))
        assert send_owed(contacts, mail, world.clock).sent == 0
        told = [mail["Destination"]["ToAddresses"] for mail in post.mails]
        # Sent once more at most, where nobody could know that it went out.
        assert told in ([[EMAIL]], [[EMAIL]] * 2)
        assert trap.has_sprung or told == [[EMAIL]]

    assert len(list(faults(visit))) > 100


def test_a_new_signing_secret_survives_each_fault_of_each_call() -> None:
    clock = HandSetClock()
    store = SecretStore(clock)
    [first] = store.values
    version = "w" * 36

    def rotate(trap: Trap) -> None:
        store.values.pop(version, None)
        store.stages = {first: {"AWSCURRENT"}}
        store.begin(version)
        for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
            told: RotationEvent = {"Step": step, "SecretId": "sessions", "ClientRequestToken": version}
            until_done(trap, partial(rotate_secret, Trapped(store.client, trap), told))  # type: ignore[arg-type]
        assert "AWSCURRENT" in store.stages[version]
        assert store.stages[first] == {"AWSPREVIOUS"}
        versions = SecretsManagerSigningSecret(store.client, "sessions", clock).keys()
        assert {key.version for key in versions} == {first, version}

    assert len(list(faults(rotate))) > 20


# the gate


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("failing", ["connecting", "reading"])
def test_a_gate_that_cannot_read_lets_nobody_in_and_says_so(fault: str, failing: str, *, after: bool) -> None:
    sale = Sale()
    registration = sale.register()
    sale.tell(event(CREATED), event(LICENSED))
    key = sale.issue(registration)
    trap = Trap(0, FAULTS[fault], after)

    def call() -> object:
        answered = gate.handler(
            {
                "methodArn": "arn:aws:execute-api:us-east-1:123456789012:api/prod/GET/v1/nouns",
                "headers": {"x-api-key": key},
            },
            None,
            entries=lambda: trap.call(lambda: sale.entries) if failing == "connecting" else Trapped(sale.entries, trap),
            plans=lambda: None,
            clock=lambda: sale.now,
        )
        return answered["policyDocument"]["Statement"][0]["Effect"]  # type: ignore[index]

    trap.is_armed = True
    # API Gateway keeps no answer where there is none, and asks again for the next call.
    with pytest.raises(type(FAULTS[fault]())):
        call()
    assert call() == "Allow"
    sale.tell(event(DEPROVISIONED, at=sale.now))
    trap.calls = 0
    with pytest.raises(type(FAULTS[fault]())):
        call()
    assert call() == "Deny"


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException", "ResourceNotFoundException"])
def test_an_error_of_the_gates_table_is_no_answer(code: str) -> None:
    dynamodb = boto3.client("dynamodb", "us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(dynamodb) as stub:
        stub.add_client_error("get_item", code)
        with pytest.raises(ClientError, match=code):
            DynamoDbGateEntries(dynamodb, "keys").get("0" * 64)


# the product code


class CloudFormation:
    """Where the product code function answers; it answers, or Lambda calls it again."""

    def __init__(self, trap: Trap) -> None:
        self.trap = trap
        self.answers: list[dict[str, str]] = []

    def open(self, request: urllib.request.Request, timeout: float) -> SimpleNamespace:
        assert timeout
        assert isinstance(request.data, bytes)
        self.trap.call(self.answers.append, json.loads(request.data))
        return SimpleNamespace(close=lambda: None)


@pytest.mark.parametrize(
    ("kind", "before", "then"), [("Create", None, "abc123"), ("Update", "old", "abc123"), ("Delete", "abc123", None)]
)
def test_the_product_code_survives_each_fault_of_each_call(
    kind: str, before: str | None, then: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {
        "RequestType": kind,
        "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/Sale/1",
        "RequestId": "one",
        "LogicalResourceId": "ProductCode",
        "ResponseURL": "https://cloudformation.example.com/answer",
        "ResourceProperties": {"UsagePlanId": PLAN, "ProductCode": "abc123"},
    }

    def carry_out(trap: Trap) -> None:
        api, waiting, cloudformation = ApiGateway(before), Waiting(), CloudFormation(trap)
        monkeypatch.setattr(usage_plan, "client", {"apigateway": Trapped(api, trap)}.__getitem__)
        monkeypatch.setattr(usage_plan, "handle", partial(settle, sleep=waiting.sleep))
        monkeypatch.setattr("urllib.request.urlopen", cloudformation.open)
        context = SimpleNamespace(get_remaining_time_in_millis=lambda: waiting.left * 1000)
        until_done(trap, lambda: usage_plan.handler(request, context))  # type: ignore[arg-type]
        assert api.plan.get("productCode") == then
        assert [answer["Status"] for answer in cloudformation.answers] in (["SUCCESS"], ["SUCCESS"] * 2)
        assert {answer["PhysicalResourceId"] for answer in cloudformation.answers} == {PLAN}

    assert len(list(faults(carry_out))) > 20
