"""What buyers see of the seller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aws_cdk import aws_iam as iam
from constructs import Construct

from marketplace_constructs.domain.errors import Problem
from marketplace_constructs.infrastructure.tokens import stack_of

if TYPE_CHECKING:
    from aws_cdk import aws_ses as ses

_EMAIL: Final = re.compile(r"[^@\s<>\"']+@[^@\s<>\"'.]+(\.[^@\s<>\"'.]+)+")
_HTTPS: Final = re.compile(r"https://[^\s<>\"'/]+(/[^\s<>\"']*)?")


@dataclass(frozen=True, kw_only=True)
class Seller:
    """Who sells, as the onboarding page and the mails say it.

    Args:
        seller_name: On each page and mail.
        support_contact: An email address or an https address. Source: AWS Marketplace seller guide, SaaS
            product guidelines: the landing page names a support contact (read 2026-11-21).
        logo_url: An https address of an image. Left out, pages have no logo.
        sender: The address that mails come from. Left out, no mail is sent, and synthesis warns.
        sender_identity: The verified SES identity that covers the sender, of the same Region. Left out, the
            identity of the address itself.
    """

    seller_name: str
    support_contact: str
    logo_url: str | None = None
    sender: str | None = None
    sender_identity: ses.IEmailIdentity | None = None

    def problems(self) -> Iterator[Problem]:
        """All that is wrong with it."""
        if not self.seller_name.strip():
            yield Problem("MP-SELLER-01", "seller_name, got it blank; expected a name; give the one your listing shows")
        if not _EMAIL.fullmatch(self.support_contact) and not _HTTPS.fullmatch(self.support_contact):
            yield Problem(
                "MP-SELLER-02",
                f"support_contact, got {self.support_contact!r}; expected an email address or an https "
                "address; give one where buyers reach you",
            )
        if self.logo_url is not None and not _HTTPS.fullmatch(self.logo_url):
            yield Problem(
                "MP-SELLER-03",
                f"logo_url, got {self.logo_url!r}; expected an https address; put the image where browsers "
                "can load it, or leave it out",
            )
        if self.sender is not None and not _EMAIL.fullmatch(self.sender):
            yield Problem(
                "MP-SELLER-04",
                f"sender, got {self.sender!r}; expected an email address that SES has verified, by itself or "
                "by its domain; give one, or leave it out to send no mail",
            )
        if self.sender is None and self.sender_identity is not None:
            yield Problem(
                "MP-SELLER-05",
                "sender_identity, got one without a sender; expected both; give the address as sender",
            )

    def grant_send(self, scope: Construct, grantee: iam.IGrantable) -> None:
        """Let a function send mail as the sender, and as nobody else; nothing where there is no sender."""
        if self.sender is None:
            return
        arn = (
            stack_of(scope).format_arn(service="ses", resource="identity", resource_name=self.sender)
            if self.sender_identity is None
            else self.sender_identity.email_identity_arn
        )
        iam.Grant.add_to_principal(grantee=grantee, actions=["ses:SendEmail"], resource_arns=[arn])
