"""What buyers call: an app says so in ``rehearsal.json`` beside its ``app.py``.

A rehearsal cannot guess which id a path wants or what a body holds, and a call that fails is billed by nobody. The file
lists calls, good and bad ones::

    {
      "schema_version": 1,
      "calls": [
        {"method": "GET", "path": "/v1/samples/one/nouns"},
        {"method": "POST", "path": "/v1/nouns", "body": {"text": "Alice met Bob."}}
      ]
    }

``path`` is what stands behind the stage's name, with its query; ``body`` is sent as JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marketplace_constructs.rehearsal.errors import CouldNotRehearse

FILE: Final = "rehearsal.json"
_SCHEMA_VERSION: Final = 1
_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})
_MEMBERS: Final = frozenset({"method", "path", "body"})


@dataclass(frozen=True, kw_only=True)
class ExampleCall:
    """One call.

    Args:
        path: With its query.
        body: JSON text; empty where there is none.
    """

    method: str
    path: str
    body: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


def read_calls(directory: Path) -> tuple[ExampleCall, ...]:
    """The calls that an app names; none where it has no such file.

    Raises:
        CouldNotRehearse: MP-REHEARSE-29, the file says something else.
    """
    file = directory / FILE
    if not file.exists():
        return ()
    try:
        document = json.loads(file.read_text())
    except ValueError as error:
        raise _refusal(file, f"text that is no JSON ({error})") from None
    if not isinstance(document, dict) or document.keys() != {"schema_version", "calls"}:
        raise _refusal(file, "other members")
    if document["schema_version"] != _SCHEMA_VERSION or not isinstance(document["calls"], list):
        raise _refusal(file, f"schema_version {document['schema_version']!r}, or calls that are no list")
    return tuple(_call(file, number, item) for number, item in enumerate(document["calls"], 1))


def _call(file: Path, number: int, item: object) -> ExampleCall:
    if not isinstance(item, dict) or not item.keys() <= _MEMBERS or item.get("method") not in _METHODS:
        raise _refusal(file, f"call {number} without one of the methods {', '.join(sorted(_METHODS))}")
    path = item.get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise _refusal(file, f"call {number} with the path {path!r}")
    return ExampleCall(method=item["method"], path=path, body=json.dumps(item["body"]) if "body" in item else "")


def _refusal(file: Path, got: str) -> CouldNotRehearse:
    return CouldNotRehearse(
        "MP-REHEARSE-29",
        f"the calls in {file.name}, got {got}; expected schema_version {_SCHEMA_VERSION} and calls, each with method, "
        "path and perhaps body; correct it, as docs/rehearsal.md shows",
    )
