"""The text of a document, read into plain data that knows where each part stands.

YAML and JSON alike, and of YAML only what means the same to every reader: no anchors, no tags, and a bare word that
some YAML reads as something else (``on``, ``1_000``, ``2026-10-01``) is refused instead of guessed. Size and depth
are bounded before anything is built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Never, Protocol, cast

import yaml

from marketplace_constructs.domain.finding import Location

MAX_CHARACTERS: Final = 1_000_000
"""Of one document: two thousand long statements."""
MAX_DEPTH: Final = 16
"""Of members within members; the language itself needs six."""
_MAX_DIGITS: Final = 24

Path = tuple[str | int, ...]
"""Where something stands in a document: ``("Statement", 2, "Quantity")``."""

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_SURROGATES: Final = re.compile(r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_OTHERWISE: Final = {0x09: " ", 0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_WORDS: Final = {"true": True, "false": False, "null": None}
_RESOLVER: Final[Any] = yaml.resolver.Resolver()
"""What a bare word means to the oldest and most liberal readers."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, as far as the document alone shows it.

    Args:
        code: The rule that it breaks, such as ``MON101``.
        document: As in a finding.
        path: Where in the document.
        details: Lower case, without full stop: what was got, what is expected.
        sid: The statement that it is about.
    """

    code: str
    document: str
    path: Path
    details: str
    sid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One document's data and where each part of it stands.

    Args:
        document: The file, relative to the pool's directory.
        data: Dicts, lists, str, bool, int, Decimal and None; None where the text cannot be read.
        places: Line and column, from 1, of each part.
        faults: Why it cannot be read; all MON101.
    """

    document: str
    data: Any = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    def location(self, path: Path) -> Location:
        """Where a part stands; of a part that is missing, where it should stand: in its parent."""
        at = path
        while at and at not in self.places:
            at = at[:-1]
        line, column = self.places.get(at, (1, 1))
        return Location(path=path_text(path), line=line, column=column)


class _Mark(Protocol):
    """Where the reader is, from 0; the two readers of YAML have a class each."""

    line: int
    column: int


class _UnreadableError(Exception):
    def __init__(self, details: str, place: tuple[int, int] = (1, 1), path: Path = ()) -> None:
        super().__init__(details)
        self.details = details
        self.place = place
        self.path = path


def _place(mark: _Mark | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def path_text(path: Path) -> str:
    """``Statement[2].Quantity``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def read_source(document: str, text: str) -> Source:
    """Read the text of a document; what cannot be read is a fault, never an exception.

    Args:
        document: The file, relative to the pool's directory; ``.json`` is read as JSON, all else as YAML.
        text: Its content.
    """
    reader = _Reader()
    try:
        _check_size(text)
        if document.endswith(".json"):
            _check_json(text)
            # The reader below places what it reads, knows no tabs, which in valid JSON stand between parts only, and
            # breaks lines where JSON has a character of a text.
            # It wants a character beyond U+FFFF itself, where JSON may write its two halves.
            text = _SURROGATES.sub(lambda pair: pair[1] + json.loads(f'"{pair[2]}"'), text.translate(_OTHERWISE))
        data = reader.read(text)
    except _UnreadableError as error:
        fault = Fault(code="MON101", document=document, path=error.path, details=error.details)
        return Source(document=document, places={(): error.place, error.path: error.place}, faults=(fault,))
    faults = tuple(Fault(code="MON101", document=document, path=path, details=text) for path, text in reader.faults)
    return Source(document=document, data=data, places=reader.places, faults=faults)


def _check_size(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise _UnreadableError(f"document, got {len(text):,} characters; expected at most {MAX_CHARACTERS:,}")


def _check_json(text: str) -> None:
    def refuse_constant(name: str) -> Never:
        raise _UnreadableError(f"number, got {name}; expected a decimal number")

    try:
        json.loads(text, parse_constant=refuse_constant, parse_int=str, parse_float=str)
    except json.JSONDecodeError as error:
        raise _UnreadableError(
            f"JSON, got {error.msg.lower()}; expected valid JSON", (error.lineno, error.colno)
        ) from None
    except RecursionError:
        raise _UnreadableError(f"document, got members more than {MAX_DEPTH} deep; expected fewer") from None


class _Reader:
    """Builds data from YAML's events, so that nothing is built of what is refused."""

    def __init__(self) -> None:
        self.places: dict[Path, tuple[int, int]] = {}
        self.faults: list[tuple[Path, str]] = []

    def read(self, text: str) -> Any:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            events = yaml.parse(text, Loader=loader)
            next(events)  # of the stream
            first = next(events)
            if isinstance(first, yaml.StreamEndEvent):
                raise _UnreadableError("document, got an empty file; expected a document")
            data = self._part(next(events), events, ())
            next(events)  # the document's end
            rest = next(events)
            if not isinstance(rest, yaml.StreamEndEvent):
                raise _UnreadableError(
                    "file, got a second document; expected one in each file", _place(rest.start_mark)
                )
        except yaml.MarkedYAMLError as error:
            problem = str(error.problem or "something else").lower()
            raise _UnreadableError(f"YAML, got: {problem}; expected valid YAML", _place(error.problem_mark)) from None
        except (yaml.YAMLError, UnicodeEncodeError) as error:  # a character that no YAML, or no text, may hold
            raise _UnreadableError(f"text, got {type(error).__name__}; expected printable UTF-8") from None
        return data

    def _part(self, event: yaml.Event, events: Iterator[yaml.Event], path: Path) -> Any:
        place = self.places[path] = _place(event.start_mark)
        if len(path) > MAX_DEPTH:
            raise _UnreadableError(f"document, got members more than {MAX_DEPTH} deep; expected fewer", place, path)
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) or event.anchor is not None:
            raise _UnreadableError("member, got a YAML anchor or alias; expected its value written out", place, path)
        if event.tag is not None and event.tag != "!":
            raise _UnreadableError(f"member, got the YAML tag {event.tag[:40]!r}; expected a plain value", place, path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        return self._scalar(cast("yaml.ScalarEvent", event), path)

    def _mapping(self, events: Iterator[yaml.Event], path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        while not isinstance(key := next(events), yaml.MappingEndEvent):
            place = _place(key.start_mark)
            if not isinstance(key, yaml.ScalarEvent) or key.anchor is not None or key.tag not in {None, "!"}:
                raise _UnreadableError("member name, got something else; expected plain text", place, path)
            name = key.value
            if name in data:
                self.faults.append(((*path, name), f"member {name[:80]!r}, got it twice; expected it once"))
            data[name] = self._part(next(events), events, (*path, name))
            # A member stands where its name does.
            self.places[*path, name] = place
        return data

    def _sequence(self, events: Iterator[yaml.Event], path: Path) -> list[Any]:
        data: list[Any] = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            data.append(self._part(item, events, (*path, len(data))))
        return data

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Any:
        text: str = event.value
        if event.style not in {None, ""} or event.tag == "!":
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.fullmatch(text):
            return self._number(text, path)
        if not text or _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) != "tag:yaml.org,2002:str":
            self.faults.append(
                (
                    path,
                    f"value, got the bare word {text[:80]!r}; expected quotes around it, since readers of YAML differ",
                )
            )
        return text

    def _number(self, text: str, path: Path) -> int | Decimal:
        # An exponent makes a number of any size out of few characters.
        if "e" in text.lower() or len(text) > _MAX_DIGITS:
            self.faults.append(
                (path, f"number, got {text[:80]}; expected at most {_MAX_DIGITS} digits, written without an exponent")
            )
            return 0
        return Decimal(text) if "." in text else int(text)
