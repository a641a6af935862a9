"""JSON Schema of the documents, made from the same models that read them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from itertools import pairwise
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from marketplace_constructs.policy import documents

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_EXTENSION: Final = "^x-"


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of document: ``Product``, ``Policy``, ``Plan`` or ``PriceList``."""
    schema = documents.KINDS[kind].model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    return {"$schema": DIALECT, **_told_briefly(schema)}


class _Generator(GenerateJsonSchema):
    """Says of each member what the text below it says, and admits what the reader admits."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Members beginning with ``x-`` may stand wherever a model refuses unknown ones."""
        made = super().model_schema(schema)
        if made.get("additionalProperties") is False:
            made["patternProperties"] = {_EXTENSION: True}
        for base in reversed(schema["cls"].__mro__):
            for name, text in _members_told().get(base.__name__, {}).items():
                made["properties"][schema["cls"].model_fields[name].alias]["description"] = text
        return made

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        """A member without a value is left out, not null."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Without a default where nothing is meant by leaving the member out."""
        made = super().default_schema(schema)
        return {name: value for name, value in made.items() if (name, value) != ("default", None)}

    def encode_default(self, dft: Any) -> Any:
        """A number is written as one."""
        return int(dft) if isinstance(dft, Decimal) else super().encode_default(dft)


@cache
def _members_told() -> Mapping[str, Mapping[str, str]]:
    """The text below each member, by class; read here since only a schema needs it, not whoever reads documents."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(documents)).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {
                member.target.id: " ".join(text.value.value.split())
                for member, text in pairwise(node.body)
                if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
                if isinstance(text.value.value, str)
            }
    return found


def _told_briefly(schema: dict[str, Any]) -> dict[str, Any]:
    """Without the sources of facts and the titles that only repeat a member's name."""
    for made in (schema, *schema.get("$defs", {}).values()):
        made["description"] = made.get("description", "").partition("\n")[0].replace("``", "`")
        if made["description"].startswith("Source:"):
            del made["description"]
        for member in made.get("properties", {}).values():
            member.pop("title", None)
    return schema
