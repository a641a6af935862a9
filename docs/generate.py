"""Writes the pages that say what the source says: errors, commands, rules, members. ``python docs/generate.py``."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from marketplace_constructs.cli.group import sellable
from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.product import UNITS as UNITS_OF_CATEGORY
from marketplace_constructs.policy.documents import KINDS, METRICS, UNITS
from marketplace_constructs.policy.rules import CATALOGUE, CheckedBy
from marketplace_constructs.policy.schema import schema_of
from marketplace_constructs.rehearsal.marketplace import control

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"MP-[A-Z]+-\d\d")
RETIRED = {"MP-SALE-21", "MP-SALE-22"}
"""Codes that were used once, and are never used again."""
AREAS = {
    "AGREEMENT": "Agreements and their reconciliation",
    "CLI": "The command line",
    "DIFF": "Two pools compared",
    "EVENTS": "What AWS Marketplace tells",
    "GATE": "The gate and the routes it guards",
    "MONETIZATION": "Monetization documents at synthesis",
    "LINT": "The linter's files",
    "LEDGER": "The ledger of metering",
    "LOG": "The access log",
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
    if again := found.keys() & RETIRED:
        sys.exit(f"{', '.join(sorted(again))} meant something else before; choose a new code")
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
        shown = CliRunner().invoke(
            command,
            ["--help"],
            prog_name=" ".join(path),
            terminal_width=80,
            help_option_names=sellable.context_settings["help_option_names"],
        )
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


REFERENCE = """# The members of monetization documents

Every member of every kind of document. [The language](monetization-policies.md) says what they come to,
[its rules](monetization-rules.md) what is wrong. A member that is not named here is an error, but for those that begin
with `x-`. `sellable schema KIND` gives the same to editors, as JSON Schema. This page is made from the models that read
the documents, by `python docs/generate.py`.

- A *name* is a letter and up to 63 more of `A-Za-z0-9_.-`; a *dimension* is 1 to 100 of them. `id@version` is two of a
  document's members: `search@1`.
- A *pattern* begins with `/`, and has up to 512 characters; [more](monetization-policies.md#patterns).
- A *time* is UTC, in quotes: `"2026-12-01T00:00:00Z"`. A *price* is a decimal number in quotes: `"0.001"`.
- *X; or several* is one X, or a list of them. *X, by Y* are members whose names are Y and whose values are X.
- In YAML, a path with braces needs quotes where it stands within braces: `{Resource: "/v1/images/{id}"}`.
"""

FORMS = {
    r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$": "name",
    r"^[A-Za-z][A-Za-z0-9_.-]{0,63}@[1-9][0-9]{0,8}$": "`id@version`",
    r"^[A-Za-z0-9_.-]{1,100}$": "dimension",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$": "time",
    r"^[0-9]{1,18}(\.[0-9]{1,18})?$": "price",
    r"^[0-9]{12}$": "12 digits in quotes",
    r"^offer-[A-Za-z0-9]{1,64}$": "`offer-…`",
    r"^entitlement:": "`entitlement:DIMENSION`",
    r"^\$\{param\.([A-Za-z][A-Za-z0-9_.-]{0,63})\}$": '`"${param.NAME}"`',
    r"^/": "pattern",
}
"""What each pattern of the schemas is called."""


def reference() -> str:
    """The page of members."""
    page, told = [REFERENCE], set[str]()
    for kind in KINDS:
        schema = schema_of(kind)
        page += [
            f"\n## {kind}\n\n{schema['description']}\n",
            members(schema, schema.get("$defs", {})),
        ]
        for name in nested(schema, schema.get("$defs", {})):
            if name not in told:
                told.add(name)
                made = schema["$defs"][name]
                page += [f"\n### {name}\n\n{made['description']}\n", members(made, schema["$defs"])]
    return "".join([*page, words()])


def nested(made: Mapping[str, Any], known: Mapping[str, Any]) -> list[str]:
    """The names of what a schema is made of and has members itself, in the order in which they are named."""
    names = dict.fromkeys(re.findall(r"'#/\$defs/(\w+)'", str(made.get("properties", {}))))
    below = [[name, *nested(known[name], known)] for name in names if "properties" in known[name]]
    return list(dict.fromkeys(name for several in below for name in several))


def members(made: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """A table of members."""
    rows = ["\n| member | form | needed | what it says |\n|---|---|---|---|\n"]
    for name, member in made["properties"].items():
        default = member.get("default")
        left_out = f"no: `{str(default).lower()}`" if default not in (None, "", []) else "no"
        needed = "yes" if name in made.get("required", ()) else left_out
        rows.append(f"| `{name}` | {form(member, known)} | {needed} | {member['description']} |\n")
    return "".join(rows)


def form(made: Mapping[str, Any], known: Mapping[str, Any]) -> str:  # noqa: C901, PLR0911 - one answer for each form
    """What a value looks like, in words."""
    match made:
        case {"$ref": target}:
            name = target.rpartition("/")[2]
            return f"[{name}](#{name.lower()})" if "properties" in known[name] else form(known[name], known)
        case {"const": bool() as value}:
            return f"`{str(value).lower()}`"
        case {"const": value}:
            return f'`"{value}"`' if value[:1].isdigit() else f"`{value}`"
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
        case {"anyOf": [one, {"type": "array", "items": items}]} if one == items:
            return f"{form(one, known)}; or several"
        case {"anyOf": [*others, {"type": "array"}]}:
            return f"{' or '.join(form(one, known) for one in others)}; or several"
        case {"anyOf": several} | {"oneOf": several}:
            return " or ".join(dict.fromkeys(form(one, known) for one in several))
        case {"type": "array", "items": items}:
            return f"list of {form(items, known)}"
        case {"type": "object", "additionalProperties": value, "propertyNames": names}:
            return f"{form(value, known)}, by {form(names, known)}"
        case {"type": "object", "patternProperties": patterns}:
            ((name, value),) = patterns.items()
            return f"{form(value, known)}, by {FORMS[name]}"
        case {"type": "string"}:
            return FORMS[made["pattern"]] if "pattern" in made else "text"
        case {"type": "boolean"}:
            return "`true` or `false`"
    whole = "whole number" if made["type"] == "integer" else "number"
    low, above, high = (made.get(name) for name in ("minimum", "exclusiveMinimum", "maximum"))
    ends = [f"above {above:,}" if above is not None else f"{low:,}" if low is not None else ""]
    ends += [f"to {high:,}" if high is not None else "or more" if low is not None else ""]
    return " ".join([whole, *(end for end in ends if end)])


def words() -> str:
    """Tables of the words that a metric and a category take."""
    tables: dict[str, dict[str, Iterable[str]]] = {
        "Metrics": {name: UNITS.get(base, ()) for name, base in METRICS.items()},
        "Categories": {name.value: units for name, units in UNITS_OF_CATEGORY.items()},
    }
    page = []
    for title, rows in tables.items():
        page.append(f"\n## {title} and their units\n\n| word | units |\n|---|---|\n")
        page += [f"| `{name}` | {', '.join(f'`{unit}`' for unit in of) or 'none'} |\n" for name, of in rows.items()]
    return "".join(page)


PAGES = {
    "errors.md": errors,
    "command-line.md": commands,
    "monetization-rules.md": rules,
    "monetization-reference.md": reference,
}

if __name__ == "__main__":
    for name, render in PAGES.items():
        (ROOT / "docs" / name).write_text(render())
        sys.stdout.write(f"docs/{name}\n")
