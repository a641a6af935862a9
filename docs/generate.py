"""Writes the pages that say what the source says: errors, commands, rules. ``python docs/generate.py``."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.policy.rules import CATALOGUE, CheckedBy
from marketplace_constructs.rehearsal.marketplace import control

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"MP-[A-Z]+-\d\d")
AREAS = {
    "AGREEMENT": "Agreements and their reconciliation",
    "CLI": "The command line",
    "DIFF": "Two pools compared",
    "EVENTS": "What AWS Marketplace tells",
    "GATE": "The gate and the routes it guards",
    "MONETIZATION": "Monetization documents at synthesis",
    "LINT": "The linter's files",
    "LEDGER": "The ledger of metering",
    "METER": "The meter",
    "ONBOARDING": "The page where buyers land",
    "PLAN": "The usage plan, its limits and its product code",
    "PRODUCT": "The product, as its listing defines it",
    "REHEARSAL": "The stand-in for AWS Marketplace",
    "REHEARSE": "The rehearsal",
    "RELAY": "The relay of agreement events",
    "ROLE": "The metering role",
    "ROUTES": "The routes of an API, from a file",
    "SALE": "SellableApi as a whole",
    "SELLER": "The seller",
    "SIM": "Simulation",
}
ERRORS = """# Errors and warnings, by code

Each says what went wrong, what was got, what is expected, and what to do; several are reported together. A code never
changes its meaning. `…` stands for what was got. This page is made from the source, by `python docs/generate.py`.
"""


def text_of(node: ast.expr) -> str:
    """A string expression as text, with … for each value."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return text_of(left) + text_of(right)
    return "…"


def messages(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Code and text of each message: two arguments of a call, or one that begins with its code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for first, second in zip(node.args, node.args[1:], strict=False):
                if isinstance(first, ast.Constant) and CODE.fullmatch(str(first.value)):
                    yield str(first.value), text_of(second)
        if isinstance(node, ast.JoinedStr | ast.Constant):
            text = text_of(node)
            if re.match(rf"{CODE.pattern}: ", text):
                code, _, what = text.partition(": ")
                yield code, what


def errors() -> str:
    """The page of errors."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "marketplace_constructs").rglob("*.py")):
        for code, what in messages(ast.parse(path.read_text())):
            shown = re.sub(r"… ([^\w(])", r"…\1", re.sub(r"(?:… ?)+", "… ", what).strip())
            found[code] = max(found.get(code, ""), shown, key=len)
    page = [ERRORS]
    for area, title in sorted(AREAS.items()):
        page.append(f"\n## {title}\n\n| code | what, and what to do |\n|---|---|\n")
        for code, what in sorted(found.items()):
            if code.split("-")[1] == area:
                cell = what.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
                page.append(f"| `{code}` | {cell} |\n")
    return "".join(page)


COMMANDS = """# The command line

`sellable` is thin over the library. Every command writes its results to standard output and its progress to standard
error, takes `--format text` or `json` (which has a `schema_version`), and exits with 0 where all is well, 1 with
findings, 2 when it was called wrongly, 3 when it could not check. What could not be checked is never shown as passed.
This page is made from the commands' own help, by `python docs/generate.py`.
"""

CONTROL = """
## The control calls of `sellable rehearse --serve`

`--serve` keeps the local AWS, the stand-in for AWS Marketplace and the front of the sold APIs up, and prints one JSON
line with every address, id and stack output. At its `control_url` the stand-in takes these calls, JSON in and out:

"""


def commands() -> str:
    """The page of commands."""
    page = [COMMANDS]
    for path, command in walk(sellable, ["sellable"]):
        shown = CliRunner().invoke(command, ["--help"], prog_name=" ".join(path), terminal_width=80)
        page.append(f"\n## `{' '.join(path)}`\n\n```\n{shown.output}```\n")
    return "".join([*page, CONTROL, control.to_markdown().strip(), "\n"])


def walk(command: click.Command, path: list[str]) -> Iterator[tuple[list[str], click.Command]]:
    """A command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            if found is not None:
                yield from walk(found, [*path, name])


RULES = """# The rules of the linter

`sellable lint DIR --routes FILE` looks at a pool of documents with each of these rules, `sellable lint --explain CODE`
tells one of them, and `SellableApi` refuses a pool with errors at synthesis. A code never changes its meaning. An
example holds the members that matter; a list is a policy's statements, and `---` stands between documents. This page is
made from the rules themselves, by `python docs/generate.py`.
"""

CHECKED_BY = {
    CheckedBy.READER: "From one document alone.",
    CheckedBy.DOCUMENTS: "From the documents.",
    CheckedBy.ROUTES: "With `--routes` only.",
    CheckedBy.BOTH: "From the documents; a part of it with `--routes` only.",
    CheckedBy.DIFF: "By `sellable diff`.",
    CheckedBy.DOCTOR: "By `sellable doctor`, in the live account.",
    CheckedBy.NOBODY: "By nobody yet.",
}


def rules() -> str:
    """The page of rules."""
    page = [RULES, "\n| code | type | what it forbids |\n|---|---|---|\n"]
    for code, rule in CATALOGUE.items():
        title = rule.title.replace("|", "\\|")
        page.append(f"| [{code}](#{code.lower()}) | {rule.finding_type} | {title} |\n")
    kinds = {kind: [rule for rule in CATALOGUE.values() if rule.finding_type is kind] for kind in FindingType}
    for rule in (rule for several in kinds.values() for rule in several):
        page.append(f"\n## {rule.code}\n\n**{rule.finding_type}: {rule.title}.** {CHECKED_BY[rule.checked_by]}\n")
        page.append(f"\n{rule.why}\n")
        for name, example in (("Bad", rule.bad), ("Good", rule.good)):
            if example.strip():
                page.append(f"\n{name}:\n\n```yaml\n{example}```\n")
        page.append(f"\nWhat to do: {rule.resolution}.\n")
    return "".join(page)


PAGES = {"errors.md": errors, "command-line.md": commands, "monetization-rules.md": rules}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (ROOT / "docs" / name).write_text(render())
        sys.stdout.write(f"docs/{name}\n")
