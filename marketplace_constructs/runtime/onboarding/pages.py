"""The pages that a buyer sees: plain HTML without scripts, escaped, and the headers that keep them shut."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from marketplace_constructs.domain.agreements import Agreement, State

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

WAITS_SECONDS: Final = 15
"""How often a page that waits for AWS loads itself anew, unless the buyer stops that."""

_DIRECTORY: Final = Path(__file__).parent / "templates"


def _moment(at: datetime) -> Markup:
    from markupsafe import Markup  # noqa: PLC0415  # as below

    at = at.astimezone(UTC)
    text = f"{at.day} {at:%B %Y, %H:%M} UTC"
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="seconds"), text)


@cache
def templates() -> Environment:
    """Pages and mails. Jinja is imported with the first of them: a redirect, or a run that owes no mail, has none."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=FileSystemLoader(_DIRECTORY),
        autoescape=lambda name: name is None or not name.endswith(".txt"),  # noqa: S701 - only mail text is not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["moment"] = _moment
    return environment


_STYLE: Final = (_DIRECTORY / "style.css").read_text(encoding="utf-8")
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


@dataclass(frozen=True, kw_only=True)
class Seller:
    """Who sells, as each page says.

    Args:
        logo_url: An https address, or empty for none.
        support_contact: An email address or an https address.
    """

    name: str
    logo_url: str
    support_contact: str

    @property
    def support_url(self) -> str:
        """Where the support contact leads."""
        return self.support_contact if self.support_contact.startswith("https://") else f"mailto:{self.support_contact}"


@dataclass(frozen=True, kw_only=True)
class Status:
    """An agreement's status in the buyer's words.

    Args:
        tone: ``good``, ``waiting`` or ``over``; never the only sign, the label says the same.
    """

    label: str
    sentence: str
    tone: str


_STATUSES: Final = {
    State.PENDING: Status(
        label="Waiting for AWS",
        sentence="AWS Marketplace is setting up your subscription. This mostly takes a few minutes.",
        tone="waiting",
    ),
    State.ACTIVE: Status(label="Active", sentence="Your subscription is active.", tone="good"),
    State.ENDING: Status(
        label="Ending",
        sentence="Your subscription is ending, and its API keys no longer work.",
        tone="over",
    ),
    State.ENDED: Status(
        label="Ended", sentence="Your subscription has ended, and its API keys no longer work.", tone="over"
    ),
}


def status_of(agreement: Agreement) -> Status:
    """What a buyer is told about an agreement's state."""
    waits = agreement.state is State.REGISTERED or (agreement.state is State.ACTIVE and not agreement.grants_access)
    return _STATUSES[State.PENDING if waits else agreement.state]


class Pages:
    """Renders pages for one seller."""

    def __init__(self, seller: Seller) -> None:
        self._seller: Final = seller
        logo = urlsplit(seller.logo_url)
        images = f"{logo.scheme}://{logo.netloc}" if logo.netloc else "'none'"
        self.headers: Final = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src {images}; "
                "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
            ),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
            "Referrer-Policy": "no-referrer",
            "Strict-Transport-Security": "max-age=31536000",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }

    def render(self, template: str, **values: object) -> str:
        """A page as HTML.

        Args:
            template: File name without ``.html``.
            **values: What the template shows; a missing one is an error.
        """
        from markupsafe import Markup  # noqa: PLC0415  # as above

        style = Markup(_STYLE)  # noqa: S704 - our own file
        return templates().get_template(f"{template}.html").render(seller=self._seller, style=style, **values)
