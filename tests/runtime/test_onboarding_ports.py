"""What onboarding keeps and sends: each port in memory and over boto3 passes the same tests."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from onboarding_aws import ContactsTable, PostOffice, SecretStore
from onboarding_world import BUYER, EMAIL, HandSetClock
from protected import Weakness

from marketplace_constructs.runtime.onboarding import handler as handler_module
from marketplace_constructs.runtime.onboarding.contacts import (
    Confirmation,
    Contact,
    Contacts,
    DynamoDbContacts,
    contact_key,
)
from marketplace_constructs.runtime.onboarding.mail import MailFailed, SesMail, send_owed
from marketplace_constructs.runtime.onboarding.memory import MemoryContacts, MemoryMail, MemorySigningSecret
from marketplace_constructs.runtime.onboarding.sessions import SessionRefused, Sessions
from marketplace_constructs.runtime.onboarding.signing_secret import (
    RotationFailed,
    SecretsManagerSigningSecret,
    SigningSecret,
    in_signing_order,
    rotate,
)
from marketplace_constructs.runtime.settings import OnboardingSettings

KEY = contact_key(BUYER, "agmt-0example0one")
NOW = datetime(2026, 11, 21, 10, 15, tzinfo=UTC)
PENDING = "p" * 36


def contact(key: str = KEY, *, email: str = EMAIL, created_at: datetime = NOW) -> Contact:
    return Contact(agreement=key, email=email, created_at=created_at)


@pytest.fixture(params=["memory", "dynamodb"])
def contacts(request: pytest.FixtureRequest) -> Contacts:
    return MemoryContacts() if request.param == "memory" else DynamoDbContacts(ContactsTable().client, "contacts")


def test_contact_is_found_again_as_it_was_given(contacts: Contacts) -> None:
    assert contacts.get(KEY) is None
    assert contacts.add(contact()) is True
    assert contacts.get(KEY) == contact()


@pytest.mark.protects(Weakness.FIRST_TIME_IS_NOT_KEPT)
def test_first_address_and_its_time_stay(contacts: Contacts) -> None:
    contacts.add(contact())
    assert contacts.add(contact(email="later@example.com", created_at=NOW + timedelta(days=1))) is False
    assert contacts.get(KEY) == contact()


def test_owed_confirmations_are_found_on_every_page(contacts: Contacts) -> None:
    for number in range(5):
        contacts.add(contact(f"{BUYER}#agmt-{number}"))
    contacts.mark_sent(f"{BUYER}#agmt-2")
    owed = sorted(c.agreement for c in contacts.owed())
    assert owed == [f"{BUYER}#agmt-{number}" for number in (0, 1, 3, 4)]
    assert contacts.get(f"{BUYER}#agmt-2").confirmation is Confirmation.SENT


def test_deleted_contact_is_gone_and_is_not_revived_by_a_late_note(contacts: Contacts) -> None:
    contacts.add(contact())
    assert contacts.delete(KEY) is True
    contacts.mark_sent(KEY)
    assert contacts.get(KEY) is None
    assert contacts.delete(KEY) is False


def test_address_is_in_no_representation() -> None:
    assert EMAIL not in repr(contact())


def test_confirmation_says_what_happens_next_and_carries_nothing_secret() -> None:
    office = PostOffice()
    mail = SesMail(
        office.client,
        sender="sales@example.com",
        seller_name="<Nouns> & Co",
        support_contact="help@example.com",
    )
    assert mail.confirm(EMAIL) is True
    sent = office.mails[0]
    assert sent["FromEmailAddress"] == "sales@example.com"
    assert sent["Destination"] == {"ToAddresses": [EMAIL]}
    simple = sent["Content"]["Simple"]
    assert simple["Subject"]["Data"] == "Your registration with <Nouns> & Co"
    text, html = simple["Body"]["Text"]["Data"], simple["Body"]["Html"]["Data"]
    for body in (text, html):
        assert "Set up your account" in body
        assert "help@example.com" in body
        assert EMAIL not in body
    assert "<Nouns> & Co" in text
    assert "&lt;Nouns&gt; &amp; Co" in html


def test_without_a_sender_nothing_is_sent() -> None:
    office = PostOffice()
    assert SesMail(office.client, sender="", seller_name="N", support_contact="h@example.com").confirm(EMAIL) is False
    assert office.calls == []


def test_refused_mail_tells_its_code_and_not_the_address() -> None:
    office = PostOffice()
    office.faults = [(400, "MessageRejected")]
    mail = SesMail(office.client, sender="s@example.com", seller_name="N", support_contact="h@example.com")
    with pytest.raises(MailFailed) as caught:
        mail.confirm(EMAIL)
    assert str(caught.value) == "MessageRejected"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_owed_mails_are_sent_once_the_post_works_again(contacts: Contacts) -> None:
    contacts.add(contact())
    contacts.add(contact(f"{BUYER}#agmt-2", email="second@example.com"))
    mail, clock = MemoryMail(), HandSetClock()
    mail.is_down = True
    down = send_owed(contacts, mail, clock)
    assert (down.sent, down.failed, down.given_up) == (0, 2, 0)
    mail.is_down = False
    assert send_owed(contacts, mail, clock).sent == 2
    assert send_owed(contacts, mail, clock).sent == 0
    assert sorted(mail.recipients) == [EMAIL, "second@example.com"]


def test_one_failing_address_keeps_no_other_back() -> None:
    contacts, office = MemoryContacts(), PostOffice()
    contacts.add(contact())
    contacts.add(contact(f"{BUYER}#agmt-2", email="second@example.com"))
    office.faults = [(400, "MessageRejected")]
    mail = SesMail(office.client, sender="s@example.com", seller_name="N", support_contact="h@example.com")
    sending = send_owed(contacts, mail, HandSetClock())
    assert (sending.sent, sending.failed) == (1, 1)
    assert [c.agreement for c in contacts.owed()] == [KEY]


def test_mail_owed_for_over_a_week_is_given_up_and_counted(contacts: Contacts) -> None:
    contacts.add(contact())
    mail, clock = MemoryMail(), HandSetClock()
    clock.advance(days=7, seconds=1)
    assert send_owed(contacts, mail, clock).given_up == 1
    assert mail.recipients == []


def test_without_a_sender_mails_stay_owed(contacts: Contacts) -> None:
    contacts.add(contact())
    sending = send_owed(contacts, MemoryMail(has_sender=False), HandSetClock())
    assert (sending.sent, sending.failed, sending.given_up) == (0, 0, 0)
    assert [c.agreement for c in contacts.owed()] == [KEY]


class Rotations:
    """One secret and how it is rotated, in memory and at AWS."""

    def __init__(self, kind: str) -> None:
        self.clock = HandSetClock()
        self._memory = MemorySigningSecret(self.clock) if kind == "memory" else None
        self.store = SecretStore(self.clock)
        self._number = 0

    def secret(self) -> SigningSecret:
        return self._memory or SecretsManagerSigningSecret(self.store.client, "sessions", self.clock)

    def begin(self) -> None:
        self._number += 1
        if self._memory:
            self._memory.begin_rotation()
        else:
            self.store.begin(self._version)
            self._step("createSecret")

    def finish(self) -> None:
        if self._memory:
            self._memory.finish_rotation()
        else:
            for step in ("setSecret", "testSecret", "finishSecret"):
                self._step(step)

    @property
    def _version(self) -> str:
        return f"{self._number:036}"

    def _step(self, step: str) -> None:
        event = {"Step": step, "SecretId": "sessions", "ClientRequestToken": self._version}
        rotate(self.store.client, event)
        rotate(self.store.client, event)


@pytest.fixture(params=["memory", "secretsmanager"])
def rotations(request: pytest.FixtureRequest) -> Rotations:
    return Rotations(request.param)


def test_secret_has_current_previous_and_pending_versions(rotations: Rotations) -> None:
    assert len(rotations.secret().keys()) == 1
    rotations.begin()
    pending = [key.is_pending for key in rotations.secret().keys()]  # noqa: SIM118 - not a dictionary
    assert sorted(pending) == [False, True]
    rotations.finish()
    keys = rotations.secret().keys()
    assert [key.is_pending for key in keys] == [False, False]
    assert len({key.value for key in keys}) == 2
    assert all(len(key.value) >= 32 for key in keys)
    assert not [key for key in keys if key.value in repr(key)]


def test_every_instance_reads_what_any_instance_signed_through_a_rotation(rotations: Rotations) -> None:
    """Each of three instances has read the secret at another minute; a rotation takes two minutes."""
    instances = []
    rotations.clock.advance(hours=1)
    for minute in range(30):
        if minute % 2 == 0 and len(instances) < 3:
            instances.append(Sessions(rotations.secret(), rotations.clock))
        if minute == 7:
            rotations.begin()
        if minute == 9:
            rotations.finish()
        for signer in instances:
            value = signer.open(buyer=BUYER, reference="agmt-1", is_fresh=True)
            for reader in instances:
                session = reader.read([f"a=b; __Host-session={value}"])
                assert (session.buyer, session.reference, session.is_fresh) == (BUYER, "agmt-1", True)
                assert reader.is_own_form(session, signer.form_token(session))
        rotations.clock.advance(minutes=1)
    assert in_signing_order(rotations.secret().keys(), rotations.clock())[-1] == newest(rotations)


def newest(rotations: Rotations) -> str:
    return max(rotations.secret().keys(), key=lambda key: key.created_at).value


def test_secret_is_read_at_most_every_five_minutes() -> None:
    rotations = Rotations("secretsmanager")
    secret = rotations.secret()
    for _ in range(3):
        secret.keys()
    assert len(rotations.store.calls) == 3
    rotations.clock.advance(minutes=5)
    secret.keys()
    assert len(rotations.store.calls) == 6


def test_secret_that_cannot_be_read_for_a_while_keeps_sessions_alive() -> None:
    rotations = Rotations("secretsmanager")
    secret = rotations.secret()
    before = secret.keys()
    rotations.clock.advance(minutes=6)
    rotations.store.faults = [(500, "InternalServiceError")] * 10
    assert secret.keys() == before


def test_fails_when_the_secret_may_not_be_read() -> None:
    rotations = Rotations("secretsmanager")
    rotations.store.faults = [(400, "AccessDeniedException")]
    with pytest.raises(ClientError):
        rotations.secret().keys()


def test_session_from_the_future_is_refused() -> None:
    rotations = Rotations("memory")
    value = Sessions(rotations.secret(), rotations.clock).open(buyer=BUYER, reference="", is_fresh=True)
    rotations.clock.advance(seconds=-5)
    with pytest.raises(SessionRefused):
        Sessions(rotations.secret(), rotations.clock).read([f"__Host-session={value}"])


@pytest.mark.parametrize("step", ["createSecret", "setSecret", "testSecret", "finishSecret", "other"])
def test_fails_when_the_version_to_rotate_is_not_pending(step: str) -> None:
    store = SecretStore()
    event = {"Step": step, "SecretId": "sessions", "ClientRequestToken": PENDING}
    with pytest.raises(RotationFailed):
        rotate(store.client, event)
    assert [operation for operation, _ in store.calls] == ["DescribeSecret"]


def test_fails_when_the_rotation_step_is_unknown() -> None:
    store = SecretStore()
    store.begin(PENDING)
    with pytest.raises(RotationFailed):
        rotate(store.client, {"Step": "other", "SecretId": "sessions", "ClientRequestToken": PENDING})


def test_fails_when_the_pending_secret_is_short() -> None:
    store = SecretStore()
    store.begin(PENDING)
    store.values[PENDING] = ("short", NOW)
    with pytest.raises(RotationFailed):
        rotate(store.client, {"Step": "testSecret", "SecretId": "sessions", "ClientRequestToken": PENDING})


def test_rotation_that_is_done_already_changes_nothing() -> None:
    store = SecretStore()
    rotate(store.client, {"Step": "finishSecret", "SecretId": "sessions", "ClientRequestToken": "v" * 36})
    assert [operation for operation, _ in store.calls] == ["DescribeSecret"]


def test_debug_logging_of_the_libraries_tells_no_address(caplog: pytest.LogCaptureFixture) -> None:
    assert handler_module.handler
    caplog.set_level(logging.DEBUG)
    DynamoDbContacts(ContactsTable().client, "contacts").add(contact())
    SesMail(PostOffice().client, sender="s@example.com", seller_name="N", support_contact="h@example.com").confirm(
        EMAIL
    )
    assert EMAIL not in caplog.text


def test_function_is_wired_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    from onboarding_world import World  # noqa: PLC0415

    for name, value in World().settings.to_environment().items():
        monkeypatch.setenv(name, value)
    handler_module._app.cache_clear()
    answer = handler_module.handler({"path": "/", "httpMethod": "GET", "headers": None}, None)
    handler_module._app.cache_clear()
    assert answer["statusCode"] == 200
    assert "Example &amp; Nouns" in answer["body"]
    assert OnboardingSettings.from_environment().sender == "sales@example.com"
