"""The rehearsal's browser is as strict as a real one where the onboarding page relies on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from marketplace_constructs.rehearsal.browser import Answer, Browser, Curl, Page
from marketplace_constructs.rehearsal.errors import BrokenPromise

HOST = "abc.execute-api.localhost"


class Site:
    """A site that sets one cookie on POST, redirects, and says which cookies came back."""

    cookie = ""

    def __init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(303)
                self.send_header("set-cookie", site.cookie)
                self.send_header("location", "next")
                self.send_header("content-length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                body = f"{self.path} {self.headers.get('cookie', 'no cookie')}".encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server.server_port}/prod/register"


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def test_sends_a_lax_cookie_along_the_redirect_of_a_post_from_another_site(site: Site) -> None:
    site.cookie = "__Host-session=s; Path=/; Secure; HttpOnly; SameSite=Lax"

    page = Browser(site.server.server_port).post(site.url, {"a": "b"}, cross_site=True)

    assert page.text == "/prod/next __Host-session=s"


def test_keeps_a_strict_cookie_back_on_that_redirect(site: Site) -> None:
    site.cookie = "__Host-session=s; Path=/; Secure; HttpOnly; SameSite=Strict"

    page = Browser(site.server.server_port).post(site.url, {"a": "b"}, cross_site=True)

    assert page.text == "/prod/next no cookie"


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-session=s; Path=/; HttpOnly",
        "__Host-session=s; Path=/prod; Secure; HttpOnly",
        "__Host-session=s; Path=/; Secure; HttpOnly; Domain=localhost",
        "__Host-session=s; Path=/; Secure",
    ],
)
def test_fails_when_a_cookie_is_one_that_browsers_drop_or_scripts_read(site: Site, cookie: str) -> None:
    site.cookie = cookie

    with pytest.raises(BrokenPromise, match="__Host-session") as raised:
        Browser(site.server.server_port).post(site.url, {})
    assert "=s" not in str(raised.value)


def test_reads_forms_and_code_from_the_page() -> None:
    page = Page(
        Answer(
            url="http://x/",
            status=200,
            headers={},
            body="""<form method="post" action="rotation"><input type="hidden" name="t" value="1">
            <input type="radio" name="overlap" value="24" checked>
            <input type="radio" name="overlap" value="0"><input name="email" type="email" required></form>
            <style>p{}</style><p>Hi <code>a&amp;b</code></p>""",
        )
    )

    (form,) = page.forms
    assert (form.action, form.method) == ("rotation", "POST")
    assert (form.fields["overlap"].value, form.fields["overlap"].options) == ("24", ["24", "0"])
    assert page.form_asking_for("email") is form
    assert page.form_with_only_hidden_fields() is None
    assert page.codes == ["a&b"]
    assert page.text == "Hi a&b"


def test_takes_a_curl_line_apart_as_a_shell_does() -> None:
    curl = Curl.parse("curl -X POST -H 'x-api-key: a b' \\\n -d '{}' https://example.com/v1")

    assert (curl.method, curl.url, curl.body) == ("POST", "https://example.com/v1", "{}")
    assert curl.headers == {"x-api-key": "a b", "content-type": "application/json"}
    assert "a b" not in repr(curl)


@pytest.mark.parametrize("line", ["curl -H 'x-api-key: a'", "curl --unknown https://example.com"])
def test_fails_when_a_curl_line_could_not_run(line: str) -> None:
    with pytest.raises(BrokenPromise):
        Curl.parse(line)
