"""Patterns, routes, and which pattern is the more specific one.

A pattern matches a route's template as the API declares it (``/v1/images/{id}``), never a caller's path. Matching
walks a tree of the templates once per pattern, so that a thousand patterns over a thousand routes stay quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from typing import Final

from marketplace_constructs.domain.usage_plan import METHODS

ANY: Final = "ANY"
MAX_PATTERN_CHARACTERS: Final = 512

_LITERAL: Final = re.compile(r"[A-Za-z0-9._~:@!$&'()+,;=%-]+")
_VARIABLE: Final = re.compile(r"\{[A-Za-z0-9._:-]+\}")
_GREEDY: Final = re.compile(r"\{[A-Za-z0-9._:-]+\+\}")


class Segment(IntEnum):
    """What stands between two slashes; the larger is the more specific, so that ranks compare as tuples."""

    REST = 0
    """``**``: any number of segments, none included."""
    END = 1
    """Nothing more: the pattern ends where the template does."""
    ONE = 2
    """``*``: any one segment."""
    VARIABLE = 3
    """``{name}``: one variable segment, whatever its name; ``{proxy+}``: the greedy one."""
    LITERAL = 4


Specificity = tuple[Segment, ...]


@dataclass(frozen=True)
class Pattern:
    """A pattern of a statement's Resource.

    Args:
        text: ``/`` and segments: a literal, ``{name}``, ``*``, and as the last one ``**`` or ``{proxy+}``.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern.

        Raises:
            ValueError: It is none; the text says what was got and what is expected.
        """
        if text.startswith("arn:"):
            raise ValueError("an ARN; expected the route as the API declares it, such as '/v1/images/{id}'")
        if not text.startswith("/"):
            raise ValueError("no leading slash; expected '/' and segments")
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise ValueError(f"{len(text):,} characters; expected at most {MAX_PATTERN_CHARACTERS}")
        segments = text[1:].split("/") if text != "/" else []
        for index, segment in enumerate(segments):
            is_last = index == len(segments) - 1
            if not segment:
                raise ValueError("an empty segment; expected none between two slashes or at the end")
            if segment == "**" or _GREEDY.fullmatch(segment):
                if not is_last:
                    raise ValueError(f"{segment!r} before the end; expected it as the last segment only")
            elif segment != "*" and not _VARIABLE.fullmatch(segment) and not _LITERAL.fullmatch(segment):
                raise ValueError(f"the segment {segment!r}; expected a literal, {{name}}, '*', '**' or {{proxy+}}")
        return cls(text)

    @property
    def segments(self) -> tuple[str, ...]:
        """The parts between the slashes; none for the root."""
        return _segments(self.text)

    @property
    def specificity(self) -> Specificity:
        """Compares with that of another pattern which matches the same route: the larger is the more specific."""
        kinds = tuple(_kind(segment) for segment in self.segments)
        return kinds if kinds[-1:] == (Segment.REST,) else (*kinds, Segment.END)

    def __str__(self) -> str:
        return self.text


class Trait(StrEnum):
    """What may make a route's figures mislead."""

    ASYNCHRONOUS = "asynchronous"
    """The backend is only told, and works on after the answer."""
    CACHED = "cached"
    """The stage's cache may answer."""
    COMPRESSED = "compressed"
    """The gateway compresses where the caller asks for it."""
    STREAMED = "streamed"
    """The response is sent on while it is made."""


@dataclass(frozen=True, order=True)
class Route:
    """One method of the API on one resource path.

    Args:
        path: The template, such as ``/v1/images/{id}``; ``resourcePath`` in the access log.
        method: One of API Gateway's, or ``ANY``.
        is_preflight: An OPTIONS method with a mock integration: a browser's CORS question.
        integration: As API Gateway spells it, in lower case (``aws_proxy``, ``mock``); empty where it is not known.
        requires_key: None where it is not known.
        header_parameters: Names of the headers that an OpenAPI document declares, in lower case.
        statuses: The response statuses that it declares, such as ``200`` or ``3XX``.
        traits: What may make its figures mislead, as far as it is known.
    """

    path: str
    method: str
    is_preflight: bool = field(default=False, compare=False)
    integration: str = field(default="", compare=False)
    requires_key: bool | None = field(default=None, compare=False)
    header_parameters: tuple[str, ...] = field(default=(), compare=False)
    statuses: tuple[str, ...] = field(default=(), compare=False)
    traits: tuple[Trait, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def expanded(routes: Iterable[Route]) -> tuple[Route, ...]:
    """The routes with each ``ANY`` written out as the methods that are not declared on its path."""
    all_routes = list(routes)
    declared = {(route.path, route.method) for route in all_routes}
    result = {}
    for route in all_routes:
        for method in METHODS if route.method == ANY else (route.method,):
            if route.method == ANY and (route.path, method) in declared:
                continue
            result[route.path, method] = replace(route, method=method)
    return tuple(result[key] for key in sorted(result))


class RouteTree:
    """The templates of an API, arranged so that a pattern finds its own quickly."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._root = _Node()
        self._known: dict[str, tuple[str, ...]] = {}
        for path in sorted(set(paths)):
            node = self._root
            for segment in _segments(path):
                node = node.children.setdefault(segment, _Node())
            node.path = path

    def matches(self, pattern: Pattern) -> Iterator[str]:
        """The templates that the pattern matches, each once."""
        if pattern.text not in self._known:
            self._known[pattern.text] = tuple(self._walk(pattern))
        return iter(self._known[pattern.text])

    def _walk(self, pattern: Pattern) -> Iterator[str]:
        nodes = [self._root]
        for segment in pattern.segments:
            if segment == "**":
                for node in nodes:
                    yield from node.all_paths()
                return
            nodes = [child for node in nodes for child in node.matching(segment)]
        for node in nodes:
            if node.path is not None:
                yield node.path


class _Node:
    __slots__ = ("children", "path")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.path: str | None = None

    def matching(self, segment: str) -> Iterator[_Node]:
        if segment != "*" and not segment.startswith("{"):
            if segment in self.children:
                yield self.children[segment]
            return
        is_greedy = segment.endswith("+}")
        for name, child in self.children.items():
            is_variable = name.startswith("{")
            if is_variable and name.endswith("+}"):
                if is_greedy:
                    yield child
            elif not is_greedy and (segment == "*" or is_variable):
                yield child

    def all_paths(self) -> Iterator[str]:
        if self.path is not None:
            yield self.path
        for child in self.children.values():
            yield from child.all_paths()


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path[1:].split("/")) if path != "/" else ()


def _kind(segment: str) -> Segment:
    if segment == "**":
        return Segment.REST
    if segment == "*":
        return Segment.ONE
    return Segment.VARIABLE if segment.startswith("{") else Segment.LITERAL
