"""The confirmation mail: the registration arrived, and what happens next. It carries no key and no token."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.runtime.aws import error_code
from marketplace_constructs.runtime.onboarding.contacts import Confirmation, Contact, Contacts
from marketplace_constructs.runtime.onboarding.pages import templates

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client

    from marketplace_constructs.runtime.clock import Clock

GIVES_UP_AFTER: Final = timedelta(days=7)
"""How long an owed mail is tried again. After that it would surprise more than help: a sender that is set up
later does not write to every buyer of the past."""


class MailFailed(Exception):
    """The mail did not go out; the text is AWS's error code and nothing of the mail."""


class Mail(Protocol):
    """How the confirmation goes out."""

    def confirm(self, email: str) -> bool:
        """Send the confirmation mail; False where no sender is set up, and nothing was sent.

        Raises:
            MailFailed: It did not go out, for whatever reason.
        """
        ...


class SesMail:
    """Mail through Amazon SES.

    Args:
        client: Of SES API v2.
        sender: An address of a verified identity; empty sends nothing.

    Source: botocore 1.44.5, sesv2 2019-09-27, SendEmail (read 2026-11-21).
    """

    def __init__(self, client: SESV2Client, *, sender: str, seller_name: str, support_contact: str) -> None:
        self._client: Final = client
        self._sender: Final = sender
        self._values: Final = {"seller_name": seller_name, "support_contact": support_contact}

    def confirm(self, email: str) -> bool:
        """Send the confirmation mail."""
        if not self._sender:
            return False
        text = templates().get_template("confirmation.txt").render(self._values)
        html = templates().get_template("confirmation.html").render(self._values)
        subject = f"Your registration with {self._values['seller_name']}"
        try:
            self._client.send_email(
                FromEmailAddress=self._sender,
                Destination={"ToAddresses": [email]},
                Content={
                    "Simple": {
                        "Subject": {"Data": subject, "Charset": "UTF-8"},
                        "Body": {
                            "Text": {"Data": text, "Charset": "UTF-8"},
                            "Html": {"Data": html, "Charset": "UTF-8"},
                        },
                    }
                },
            )
        except (ClientError, BotoCoreError) as error:
            # From None: SES repeats the address in the texts of its errors.
            raise MailFailed(error_code(error)) from None
        return True


def confirm(contact: Contact, contacts: Contacts, mail: Mail) -> bool:
    """Send one owed confirmation and note it; whether a mail went out.

    A crash between the two sends the mail once more later, which harms nobody.

    Raises:
        MailFailed: It did not go out, and stays owed.
    """
    if contact.confirmation is Confirmation.SENT or not mail.confirm(contact.email):
        return False
    contacts.mark_sent(contact.agreement)
    return True


@dataclass(frozen=True, kw_only=True)
class Sending:
    """How the owed mails fared: three counts, each >= 0."""

    sent: int
    failed: int
    given_up: int


def send_owed(contacts: Contacts, mail: Mail, clock: Clock) -> Sending:
    """Send every confirmation that is owed; one that fails keeps no other back. Run hourly."""
    sent = failed = given_up = 0
    for contact in contacts.owed():
        if clock() - contact.created_at > GIVES_UP_AFTER:
            given_up += 1
            continue
        try:
            sent += confirm(contact, contacts, mail)
        except MailFailed:
            failed += 1
    return Sending(sent=sent, failed=failed, given_up=given_up)
