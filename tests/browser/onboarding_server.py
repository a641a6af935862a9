"""The onboarding pages on loopback, over the in-memory ports, with a stand-in for AWS Marketplace's button.

To look at them: ``python tests/browser/onboarding_server.py`` serves for ten minutes. Marketplace is at
``http://localhost:PORT/marketplace``, on another site than the pages, as in life.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from onboarding_world import TOKEN_FIELD, World

from marketplace_constructs.domain.agreements import FactKind

STAGE = "/prod"
LOGO = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">
<rect width="40" height="40" rx="9" fill="#0a5a9c"/>
<path d="M12 29V11l16 18V11" fill="none" stroke="#fff" stroke-width="4" stroke-linejoin="round"/></svg>"""


class OnboardingServer:
    """Serves one world until it is closed."""

    def __init__(self, world: World | None = None, *, port: int = 0) -> None:
        self.world = world or World()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}{STAGE}"
        self.marketplace_url = f"http://localhost:{self.port}/marketplace"
        self.world.settings = replace(
            self.world.settings,
            seller_name="Example Nouns",
            logo_url=f"http://127.0.0.1:{self.port}/logo.svg",
        )
        self.world.app = self.world.make_app()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def marketplace_page(self) -> str:
        """Posts a new token, as the browser of a buyer does who presses the button."""
        return (
            '<!doctype html><html lang="en"><title>AWS Marketplace</title><h1>AWS Marketplace (stand-in)</h1>'
            f'<form method="post" action="{self.url}/register">'
            f'<input type="hidden" name="{TOKEN_FIELD}" value="{self.world.token()}">'
            "<button>Set up your account</button></form>"
            '<p><a href="/activate">AWS activates it</a> · <a href="/end">it ends</a></p></html>'
        )

    def simulate(self, path: str) -> tuple[int, dict[str, list[str]], str] | None:
        """What AWS and the seller's logo are here; None where the function is to answer."""
        match path:
            case "/marketplace":
                return 200, {"Content-Type": ["text/html"]}, self.marketplace_page()
            case "/logo.svg":
                return 200, {"Content-Type": ["image/svg+xml"]}, LOGO
            case "/activate" | "/end":
                self.world.happens(FactKind.ACTIVATED if path == "/activate" else FactKind.DEPROVISIONED)
                return 303, {"Location": ["/marketplace"]}, ""
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if answer := outer.simulate(self.path):
                    self._answer(*answer)
                else:
                    self._call_function()

            def do_POST(self) -> None:
                self._call_function()

            def _call_function(self) -> None:
                path, _, query = self.path.partition("?")
                length = min(int(self.headers.get("Content-Length") or 0), 1_000_000)
                headers = {name: self.headers.get_all(name) for name in self.headers}
                event = {
                    "path": path.removeprefix(STAGE) or "/",
                    "httpMethod": self.command,
                    "headers": {name: values[-1] for name, values in headers.items()},
                    "multiValueHeaders": headers,
                    "queryStringParameters": dict(parse_qsl(query)) or None,
                    "requestContext": {"path": path, "stage": STAGE.strip("/")},
                    "body": self.rfile.read(length).decode(errors="replace"),
                    "isBase64Encoded": False,
                }
                answer = outer.world.app(event, SimpleNamespace(aws_request_id="request-1"))
                self._answer(answer["statusCode"], answer["multiValueHeaders"], answer["body"])

            def _answer(self, status: int, headers: dict[str, list[str]], body: str) -> None:
                payload = body.encode()
                self.send_response(status)
                for name, values in headers.items():
                    for value in values:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


if __name__ == "__main__":
    server = OnboardingServer()
    print(f"open {server.marketplace_url} (serves for ten minutes)")  # noqa: T201
    threading.Event().wait(600)
    server.close()
