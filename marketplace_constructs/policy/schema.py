"""JSON Schema of the documents, made from the same models that read them."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from marketplace_constructs.policy.documents import KINDS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_EXTENSION: Final = "^x-"


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind of document: ``Product``, ``Policy``, ``Plan`` or ``PriceList``."""
    schema = KINDS[kind].model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    return {"$schema": DIALECT, **schema}


class _Generator(GenerateJsonSchema):
    """Admits ``x-`` members wherever a model refuses unknown ones."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        made = super().model_schema(schema)
        if made.get("additionalProperties") is False:
            made["patternProperties"] = {_EXTENSION: True}
        return made
