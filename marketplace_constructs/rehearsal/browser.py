"""A browser as far as a buyer's way through the onboarding page needs one: cookies, forms, redirections.

It is as strict as a real one where the page relies on that, and knows no field by name: what a form asks for
is read from its HTML.
"""

from __future__ import annotations

import http.client
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import Final
from urllib.parse import urlencode, urljoin, urlsplit

from marketplace_constructs.rehearsal.errors import BrokenPromise

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_KEPT_METHOD: Final = frozenset({307, 308})
_SECONDS: Final = 30
_VOID: Final = frozenset({"meta", "link", "img", "br", "hr", "input"})


@dataclass
class Field:
    """A control of a form. ``options`` are the values that a radio group offers."""

    name: str
    kind: str
    value: str = ""
    required: bool = False
    options: list[str] = field(default_factory=list)


@dataclass
class Form:
    """A form of a page."""

    action: str
    method: str
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back over HTTP."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: str


class Page(HTMLParser):
    """An answer, read as a person sees it.

    Attributes:
        answer: As it came.
        forms: Its forms, in their order.
        codes: The texts shown as code, in their order.
        text: What can be read, with single spaces.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(convert_charrefs=True)
        self.answer = answer
        self.forms: list[Form] = []
        self.codes: list[str] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self._form: Form | None = None
        self.feed(answer.body)
        self.text = " ".join("".join(self._words).split())

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.answer.status

    def form_asking_for(self, kind: str) -> Form | None:
        """The form with a control of this type, such as ``email``; None where there is none."""
        return next((f for f in self.forms if any(c.kind == kind for c in f.fields.values())), None)

    def form_with_only_hidden_fields(self) -> Form | None:
        """The form that asks for nothing but a press of its button; None where there is none."""
        return next((f for f in self.forms if all(c.kind == "hidden" for c in f.fields.values())), None)

    def curl_line(self) -> Curl | None:
        """The curl command that the page offers; None where it offers none."""
        line = next((code for code in self.codes if code.lstrip().startswith("curl ")), None)
        return Curl.parse(line) if line else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read an element's beginning."""
        given = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "form":
            self._form = Form(action=given.get("action", ""), method=given.get("method", "get").upper())
            self.forms.append(self._form)
        elif tag == "input" and self._form is not None and given.get("name"):
            self._read_input(self._form, given)
        elif tag == "code":
            self.codes.append("")
        self._words.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Read an element's end."""
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        """Read text."""
        if not {"style", "script"} & set(self._open):
            self._words.append(data)
        if "code" in self._open:
            self.codes[-1] += data

    @staticmethod
    def _read_input(form: Form, given: Mapping[str, str]) -> None:
        name, kind, value = given["name"], given.get("type", "text"), given.get("value", "")
        control = form.fields.setdefault(name, Field(name, kind, required="required" in given))
        if kind == "radio":
            control.options.append(value)
        if kind != "radio" or "checked" in given:
            control.value = value


@dataclass(frozen=True, kw_only=True)
class Curl:
    """A curl command, taken apart. It holds the key's value, so it is never printed."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str = ""

    @classmethod
    def parse(cls, line: str) -> Curl:
        """Read a command as a shell would.

        Raises:
            BrokenPromise: It has an option that this reader does not know, or no address.
        """
        words = iter(shlex.split(line.replace("\\\n", " "))[1:])
        method, url, headers, body = "", "", {}, ""
        for word in words:
            match word:
                case "-X" | "--request":
                    method = next(words)
                case "-H" | "--header":
                    name, _, value = next(words).partition(":")
                    headers[name.strip().lower()] = value.strip()
                case "-d" | "--data" | "--data-raw" | "--json":
                    body = next(words)
                    headers.setdefault("content-type", "application/json")
                case "-i" | "-s" | "-S" | "-sS" | "--fail" | "--silent" | "--include":
                    pass
                case _ if word.startswith("-"):
                    raise BrokenPromise(f"the curl line has the option {word}, which is not understood here")
                case _:
                    url = word
        if not url:
            raise BrokenPromise("the curl line has no address")
        return cls(method=method or ("POST" if body else "GET"), url=url, headers=headers, body=body)


class Browser:
    """One buyer's browser.

    Args:
        port: Of the rehearsal's gateway on loopback: every host name is looked for there.
    """

    def __init__(self, port: int) -> None:
        self._port: Final = port
        self._cookies: dict[tuple[str, str], tuple[str, str]] = {}
        self.seen: list[Answer] = []

    def get(self, url: str) -> Page:
        """Open an address."""
        return self._navigate("GET", url, None, cross_site=False)

    def post(self, url: str, fields: Mapping[str, str], *, cross_site: bool = False) -> Page:
        """Post form fields, and follow where that leads.

        Args:
            url: Where to.
            fields: Name to value.
            cross_site: The form stood on a page of another site, as AWS Marketplace's does: cookies that are
                not meant for that stay away.
        """
        return self._navigate("POST", url, fields, cross_site=cross_site)

    def submit(self, page: Page, form: Form, filled: Mapping[str, str] | None = None) -> Page:
        """Send a form of a page with what was filled in, the rest as it stands."""
        fields = {name: control.value for name, control in form.fields.items()} | dict(filled or {})
        url = urljoin(page.answer.url, form.action)
        if form.method == "GET":
            return self.get(f"{url}?{urlencode(fields)}")
        return self.post(url, fields)

    def request(self, method: str, url: str, headers: Mapping[str, str], body: str = "") -> Answer:
        """One call without cookies or redirections, as curl makes it."""
        return self._request(method, url, headers, body)

    def _navigate(self, method: str, url: str, fields: Mapping[str, str] | None, *, cross_site: bool) -> Page:
        for _ in range(5):
            headers = {"accept": "text/html", "user-agent": "rehearsal"}
            cookies = self._cookies_for(url, method, cross_site=cross_site)
            if cookies:
                headers["cookie"] = cookies
            body = ""
            if method == "POST":
                body = urlencode(fields or {})
                headers["content-type"] = "application/x-www-form-urlencoded"
            answer = self._request(method, url, headers, body)
            if answer.status not in _REDIRECTS:
                return Page(answer)
            if answer.status not in _KEPT_METHOD:
                method, fields = "GET", None
            url = urljoin(url, answer.headers["location"])
        raise BrokenPromise(f"more than 5 redirections, the last to {urlsplit(url).path}")

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: str) -> Answer:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_SECONDS)
        try:
            connection.request(method, target, body.encode() or None, {**headers, "host": parts.netloc})
            response = connection.getresponse()
            content = response.read().decode(errors="replace")
        finally:
            connection.close()
        for header in response.headers.get_all("set-cookie", []):
            self._keep(parts.netloc, header)
        answer = Answer(
            url=url,
            status=response.status,
            headers={name.lower(): value for name, value in response.getheaders()},
            body=content,
        )
        self.seen.append(answer)
        return answer

    def _cookies_for(self, url: str, method: str, *, cross_site: bool) -> str:
        host = urlsplit(url).netloc
        return "; ".join(
            f"{name}={value}"
            for (of, name), (value, same_site) in self._cookies.items()
            if of == host and (not cross_site or same_site == "none" or (same_site == "lax" and method == "GET"))
        )

    def _keep(self, host: str, header: str) -> None:
        for name, morsel in SimpleCookie(header).items():
            # Browsers silently drop a __Host- cookie unless it is Secure, of the whole host, of it alone.
            if name.startswith("__Host-") and not (morsel["secure"] and morsel["path"] == "/" and not morsel["domain"]):
                raise BrokenPromise(f"the cookie {name} is not one that browsers keep: {_attributes(header)}")
            if not morsel["httponly"]:
                raise BrokenPromise(f"the cookie {name} can be read by scripts: {_attributes(header)}")
            if morsel["max-age"] == "0":
                self._cookies.pop((host, name), None)
            else:
                self._cookies[host, name] = (morsel.value, (morsel["samesite"] or "lax").lower())


def _attributes(header: str) -> str:
    return re.sub(r"^[^;]*;?\s*", "", header)
