"""The pool: all documents of a directory, each with its text, its faults and the record of what was published."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, Generic, TypeVar

from marketplace_constructs.policy.documents import (
    KINDS,
    Document,
    Parsed,
    Plan,
    Policy,
    PriceList,
    ProductDocument,
    parse_document,
)
from marketplace_constructs.policy.source import MAX_CHARACTERS, Fault, Source, read_source

FOLDERS: Final[Mapping[str, str]] = {"policies": "Policy", "plans": "Plan", "prices": "PriceList"}
PUBLISHED: Final = "published.json"
"""The record of published versions: what may not change any more."""
_BY_NAME: Final = frozenset({"Parameters", "Quantities", "Sids", "Segments", "Dimensions", "Events", "Prices", "Costs"})
"""Members whose own members the document names as it likes."""
D_co = TypeVar("D_co", bound=Document, covariant=True)
_SUFFIXES: Final = (".json", ".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[D_co]):
    """A document of the pool and its text."""

    document: D_co
    source: Source


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The documents of one product.

    Args:
        product: None where there is none that can be read.
        policies: By ``id@version``.
        plans: By ``id@version``.
        price_lists: By id, earliest first: one id may have several, each from its date on.
        faults: Of every document, and of the directory itself.
        published: Digest by kind, id and version, such as ``Policy image-consumption@3``.
    """

    product: Entry[ProductDocument] | None = None
    policies: Mapping[str, Entry[Policy]] = field(default_factory=dict)
    plans: Mapping[str, Entry[Plan]] = field(default_factory=dict)
    price_lists: Mapping[str, tuple[Entry[PriceList], ...]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Pool:
        """Read ``product.yaml``, ``policies/``, ``plans/``, ``prices/`` and ``published.json`` of a directory.

        A document that lies elsewhere in the directory is a fault, since nothing would read it.

        Args:
            directory: YAML or JSON files; files of other kinds are left alone.

        Raises:
            NotADirectoryError: There is no such directory.
        """
        if not directory.is_dir():
            raise NotADirectoryError(directory)
        files = [
            path for name in ("product.yaml", "product.yml", "product.json") if (path := directory / name).exists()
        ]
        for folder in FOLDERS:
            files += sorted(p for p in (directory / folder).rglob("*") if p.suffix in _SUFFIXES and p.is_file())
        astray = [
            p
            for p in sorted({*directory.glob("*"), *directory.glob("*/*")} - {*files})
            if p.suffix in _SUFFIXES and p.is_file() and p.parent.name not in FOLDERS and _is_document(p)
        ]
        texts = {path.relative_to(directory).as_posix(): _text(path) for path in [*files, *astray]}
        published: dict[str, str] = {}
        record = directory / PUBLISHED
        if record.exists():
            published = json.loads(record.read_text(encoding="utf-8"))["documents"]
        return cls.of(texts, published=published)

    @classmethod
    def of(cls, texts: Mapping[str, str | None], *, published: Mapping[str, str] | None = None) -> Pool:
        """The pool of some texts.

        Args:
            texts: By file name relative to the pool, such as ``plans/retail.yaml``; None for a text that is not
                UTF-8 or too large.
            published: As recorded.
        """
        parsed = [_parse(name, text) for name, text in texts.items()]
        faults = [fault for one in parsed for fault in one.faults]
        policies: dict[str, Entry[Policy]] = {}
        plans: dict[str, Entry[Plan]] = {}
        lists: dict[str, list[Entry[PriceList]]] = {}
        product: Entry[ProductDocument] | None = None
        for one in parsed:
            document, source = one.document, one.source
            known: object = None
            if isinstance(document, Policy):
                known = policies.setdefault(document.reference, Entry(document=document, source=source))
            elif isinstance(document, Plan):
                known = plans.setdefault(document.reference, Entry(document=document, source=source))
            elif isinstance(document, PriceList):
                lists.setdefault(document.id, []).append(Entry(document=document, source=source))
            elif isinstance(document, ProductDocument):
                product = product or Entry(document=document, source=source)
                known = product
            if isinstance(known, Entry) and known.source is not source:
                details = f"document, got the same id and version as {known.source.document}; expected one of each"
                faults.append(Fault(code="MON101", document=source.document, path=("Id",), details=details))
        if product is None and not any(name.startswith("product.") for name in texts):
            details = "product.yaml, got none; expected the product's document"
            faults.append(Fault(code="MON101", document="product.yaml", path=(), details=details))
        return cls(
            product=product,
            policies=policies,
            plans=plans,
            price_lists={
                name: tuple(sorted(entries, key=lambda entry: entry.document.effective_from))
                for name, entries in lists.items()
            },
            faults=tuple(faults),
            sources={one.source.document: one.source for one in parsed},
            published=published or {},
        )

    def guardrails(self, plan: Plan) -> tuple[str, ...]:
        """The policies that are in force on every plan of the plan's segment."""
        segments = self.product.document.segments if self.product else {}
        return segments[plan.segment].guardrails if plan.segment in segments else ()

    def entries(self) -> Iterable[Entry[Policy] | Entry[Plan]]:
        """The documents that have versions."""
        return (*self.policies.values(), *self.plans.values())


def publication_name(document: Policy | Plan) -> str:
    """How the record of published versions names a document."""
    return f"{document.kind} {document.reference}"


def content_digest(source: Source) -> str:
    """SHA-256 of what a document says: layout, comments and ``x-`` members do not count."""
    text = json.dumps(_content(source.data), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _content(part: object, names: int = 0) -> object:
    """What counts of a part of a document.

    Args:
        part: As it was read.
        names: Of how many levels the members are named by the document, where ``x-`` is part of a name.
    """
    if isinstance(part, dict):
        return {
            name: _content(value, names - 1 if names else _named_levels(part, name))
            for name, value in part.items()
            if names or not name.startswith("x-")
        }
    if isinstance(part, list):
        return [_content(item) for item in part]
    # 5 and 5.0 say the same.
    return f"{part.normalize():f}" if isinstance(part, Decimal) else str(part) if type(part) is int else part


def _named_levels(part: Mapping[str, object], member: str) -> int:
    """Of how many levels below a member the names are the document's own; a plan's parameters stand by policy."""
    if member == "Parameters" and part.get("Kind") == "Plan":
        return 2
    return int(member in _BY_NAME)


def _parse(name: str, text: str | None) -> Parsed:
    if text is None:
        details = f"document, got text that is not UTF-8 or longer than {MAX_CHARACTERS:,} characters"
        fault = Fault(code="MON101", document=name, path=(), details=f"{details}; expected less, in UTF-8")
        return Parsed(source=Source(document=name), document=None, faults=(fault,))
    one = parse_document(read_source(name, text))
    folder, _, rest = name.partition("/")
    expected = FOLDERS.get(folder) if rest else "Product" if folder.startswith("product.") else None
    kind = getattr(one.document, "kind", None)
    if kind is not None and kind != expected:
        places = {"Product": "product.yaml"} | {of: f"{place}/" for place, of in FOLDERS.items()}
        details = f"Kind, got {kind} in {name}; expected it in {places[kind]}"
        fault = Fault(code="MON101", document=name, path=("Kind",), details=details)
        return Parsed(source=one.source, document=None, faults=(fault,))
    return one


def _is_document(path: Path) -> bool:
    data = read_source(path.name, _text(path) or "").data
    return isinstance(data, dict) and data.get("Kind") in tuple(KINDS)


def _text(path: Path) -> str | None:
    if path.stat().st_size > 4 * MAX_CHARACTERS:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
