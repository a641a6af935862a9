"""A sound pool with a few members changed: how the rules' examples and the bad fixtures are written.

Between lines of ``---`` stand parts. A part names its Kind and the members that differ from the sound pool's document
of that kind; with another Id or version it is one document more. A list is the policy's statements, ``openapi:`` or
``Resources:`` the API, ``documents:`` the record of published versions. The text is kept as it is, so that a line can
say what is found in it: ``# MON105``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from marketplace_constructs.policy.lint import LintReport, lint
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool
from marketplace_constructs.policy.routes import routes_of
from marketplace_constructs.queries import access_log

HERE: Final = Path(__file__).parent
SOUND: Final = HERE / "good" / "silent"
NOW: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
FILES: Final = {
    "Product": "product.yaml",
    "Policy": "policies/images.yaml",
    "Plan": "plans/retail.yaml",
    "PriceList": "prices/list.yaml",
}
_MEMBER: Final = re.compile(r"^([A-Za-z_-]+):", re.MULTILINE)
_EXPECTED: Final = re.compile(r"#((?: MON\d{3})+)$")


@dataclass
class Overlay:
    """A pool as texts, the routes of its API, and what is written to be found in it."""

    texts: dict[str, str]
    routes: tuple[Route, ...]
    published: dict[str, str] = field(default_factory=dict)
    log_fields: frozenset[str] = frozenset(access_log.FIELDS)
    stage: str = "prod"

    @classmethod
    def of(cls, text: str) -> Overlay:
        texts = {name: (SOUND / name).read_text() for name in FILES.values()}
        made = cls(texts=texts, routes=routes_of(yaml.safe_load((SOUND / "openapi.yaml").read_text())))
        changed: set[str] = set()
        for part in re.split(r"^---\n", text, flags=re.MULTILINE):
            made._add(part, changed)
        return made

    def _add(self, part: str, changed: set[str]) -> None:
        option = re.match(r"# without (\S+)\n", part)
        if option:
            self.log_fields -= {option[1]}
        body = re.sub(r"\A(#.*\n|\s*\n)*", "", part)
        if body.startswith("- "):
            body = f"Kind: Policy\nStatement:\n{body}"
        members = _MEMBER.findall(body)
        if not members:
            return
        if members[0] in {"openapi", "swagger", "Resources"}:
            self.routes = routes_of(yaml.safe_load(body))
        elif members[0] == "documents":
            self.published = yaml.safe_load(body)["documents"]
        else:
            kind = re.search(r"^Kind: (\w+)", body, re.MULTILINE)
            assert kind, body
            name = FILES[kind[1]]
            base = (SOUND / name).read_text()
            other = [
                value[1]
                for member in ("Id", "PolicyVersion", "PlanVersion", "EffectiveFrom")
                if (value := re.search(rf"^{member}: (\S+)", body, re.MULTILINE))
                and not (member == "EffectiveFrom" and kind[1] == "Plan")
                and not re.search(rf"^{member}: {re.escape(value[1])}$", base, re.MULTILINE)
            ]
            if other:
                name = f"{name.partition('/')[0]}/{re.sub(r'[^A-Za-z0-9]', '-', '-'.join(other))}.yaml"
            if name in changed:
                base = self.texts[name]
            changed.add(name)
            starts = [match.start() for match in _MEMBER.finditer(base)]
            kept = [
                base[start:end]
                for start, end in zip(starts, [*starts[1:], len(base)], strict=True)
                if base[start:end].partition(":")[0] not in members
            ]
            self.texts[name] = "".join(kept) + body

    def expected(self) -> list[tuple[str, str, int]]:
        """Code, document and line of what the texts say is found in them."""
        return sorted(
            (code, name, number)
            for name, text in self.texts.items()
            for number, line in enumerate(text.splitlines(), 1)
            if (match := _EXPECTED.search(line))
            for code in match[1].split()
        )

    def lint(self) -> LintReport:
        pool = Pool.of(dict(self.texts), published=self.published)
        return lint(pool, routes=self.routes, now=NOW, log_fields=self.log_fields, stage=self.stage)
