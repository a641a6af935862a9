"""Each role may do what it needs and nothing else; a sample of what permissions.py examines in full."""

from __future__ import annotations

from zlib import crc32

import pytest
from permission_plays import ONBOARDING, PLAYS
from permissions import NOBODY, NOT_SHOWN, PAGE, examine, grants_of, page, play_for, rows, templates, wildcard_reason

from marketplace_constructs.rehearsal.stage import SaleKind, Stage

pytestmark = pytest.mark.rehearsal

ROLES = sorted({role for play in PLAYS for role in play.needs})


def test_the_page_lists_exactly_the_actions_of_the_templates() -> None:
    assert PAGE.read_text() == page(templates()), "run: python tests/rehearsal/permissions.py --write"


def test_every_resource_with_a_wildcard_has_its_reason() -> None:
    wild = {(action, resource) for _, action, resource, _ in rows(templates()) if "*" in resource}

    assert wild
    assert not [place for place in wild if wildcard_reason(*place) is None]


def test_nobody_gets_an_action_that_nobody_needs() -> None:
    assert not [found for found in rows(templates()) if NOBODY in found]


def test_nothing_is_claimed_of_an_action_that_no_role_has() -> None:
    found = rows(templates())
    claimed = {(role, name) for play in PLAYS for role, names in play.needs.items() for name in names}

    assert claimed == {(role, f"{action} {resource}") for role, action, resource, said in found if "**" in said}
    assert {reason for *_, reason in NOT_SHOWN} == {said for *_, said in found if "**" not in said}


@pytest.mark.parametrize("role", ROLES)
def test_something_breaks_without_an_action_of_the_role(stage: Stage, role: str) -> None:
    candidates = [
        (sale, play, grant)
        for sale in stage.sales
        for grant in grants_of(sale.stack.name, sale.stack.template)
        if grant.role == role and (play := play_for(grant, sale.settings))
    ]
    sale, play, grant = min(candidates, key=lambda found: crc32(str(found[2]).encode()))

    (line,) = examine(stage, sale, play, [grant])

    assert line.word == "seen", str(line)


def test_an_action_that_a_play_does_not_need_is_not_seen(stage: Stage) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    grants = grants_of(sale.stack.name, sale.stack.template)
    grant = next(g for g in grants if (g.role, g.name) == (ONBOARDING, "apigateway:DELETE /apikeys/*"))

    (line,) = examine(stage, sale, PLAYS[0], [grant])

    assert line.word == "NOT SEEN"
    assert not line.is_right
