"""What the record of published versions rests on: everything that a document says, and nothing else."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from examples import images

from marketplace_constructs.policy.pool import content_digest
from marketplace_constructs.policy.source import read_source


def digest(document: dict[str, Any]) -> str:
    return content_digest(read_source("d.json", json.dumps(document)))


POLICY = images()["policies/consumption.json"]
PLAN = images()["plans/retail.json"]


@pytest.mark.parametrize(
    ("document", "path", "one", "other"),
    [
        (PLAN, ("Parameters",), {"image-consumption": {"x-weight": 5}}, {"image-consumption": {"x-weight": 9}}),
        (PLAN, ("Parameters",), {"x-policy": {"weight": 5}}, {"x-policy": {"weight": 9}}),
        (
            POLICY,
            ("Parameters",),
            {"x-weight": {"Type": "Integer", "Default": 5}},
            {"x-weight": {"Type": "Integer", "Default": 9}},
        ),
    ],
)
def test_a_name_that_begins_like_a_note_is_content_all_the_same(
    document: dict[str, Any], path: tuple[str], one: object, other: object
) -> None:
    before, after = deepcopy(document), deepcopy(document)
    before[path[0]], after[path[0]] = one, other
    assert digest(before) != digest(after)


def test_notes_layout_and_spelling_of_numbers_are_no_content() -> None:
    noted = deepcopy(POLICY) | {"x-ticket": "A-1"}
    noted["Statement"][0]["x-why"] = {"Parameters": {"a": 1}}
    noted["Parameters"]["RenderWeight"]["x-asked-by"] = "finance"
    noted["Parameters"]["RenderWeight"]["Default"] = 5.0
    assert digest(noted) == digest(POLICY)
    assert content_digest(read_source("d.json", json.dumps(PLAN, indent=3))) == digest(PLAN)
