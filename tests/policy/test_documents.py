from __future__ import annotations

import json
from typing import Any

import pytest
from pools import ALLOW_ALL, meter, plan, policy, product

from marketplace_constructs.policy.documents import Document, Policy, parse_document
from marketplace_constructs.policy.source import read_source


def codes(document: dict[str, Any]) -> list[tuple[str, str]]:
    source = read_source("d.json", json.dumps(document))
    return [(fault.code, source.location(fault.path).path) for fault in parse_document(source).faults]


def parsed(document: dict[str, Any]) -> Document:
    found = parse_document(read_source("d.json", json.dumps(document)))
    assert found.document is not None, found.faults
    return found.document


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (policy([]), [("MON101", "Statement")]),
        (policy([ALLOW_ALL]) | {"Version": "2012-10-17"}, [("MON102", "Version")]),
        ({k: v for k, v in policy([ALLOW_ALL]).items() if k != "Version"}, [("MON102", "Version")]),
        (policy([ALLOW_ALL], Colour="blue"), [("MON101", "Colour")]),
        (policy([ALLOW_ALL], PolicyVersion=0), [("MON101", "PolicyVersion")]),
        (policy([ALLOW_ALL], PolicyVersion="1"), [("MON101", "PolicyVersion")]),
        (policy([ALLOW_ALL], Id="1st"), [("MON101", "Id")]),
        (policy([ALLOW_ALL], Id="im\u0430ges"), [("MON101", "Id")]),
        (policy([{k: v for k, v in ALLOW_ALL.items() if k != "Sid"}]), [("MON103", "Statement[0].Sid")]),
        (policy([ALLOW_ALL, ALLOW_ALL]), [("MON103", "Statement[1].Sid")]),
        (policy([ALLOW_ALL | {"Dimension": "calls"}]), [("MON104", "Statement[0].Dimension")]),
        (policy([ALLOW_ALL | {"Effect": "Permit"}]), [("MON101", "Statement[0]")]),
        (policy([ALLOW_ALL | {"NotResource": "/x"}]), [("MON101", "Statement[0].NotResource")]),
        (policy([meter(metric="request.bytes")]), [("MON106", "Statement[0].Quantity.Metric")]),
        (
            policy([ALLOW_ALL | {"Condition": {"NumericEquals": {"response:Status": 404}}}]),
            [("MON107", "Statement[0].Condition.NumericEquals")],
        ),
        (
            policy([ALLOW_ALL | {"Condition": {"StringEquals": {"response:StatusClass": "2"}}}]),
            [("MON107", "Statement[0].Condition.StringEquals.response:StatusClass")],
        ),
        (
            policy([meter(Condition={"StringLike": {"plan:Id": "x*"}})]),
            [("MON107", "Statement[0].Condition.StringLike")],
        ),
        (
            policy([meter(Condition={"StringEquals": {"response:StatusClass": "6"}})]),
            [("MON107", "Statement[0].Condition")],
        ),
        (policy([meter(resource="v1")]), [("MON108", "Statement[0].Resource")]),
        (policy([meter(resource=["/v1", "/**/v1"])]), [("MON108", "Statement[0].Resource[1]")]),
        (policy([meter(resource="arn:aws:execute-api:*")]), [("MON108", "Statement[0].Resource")]),
        (policy([meter(resource="/v1//x")]), [("MON108", "Statement[0].Resource")]),
        (policy([meter(resource="/v[0-9]+")]), [("MON108", "Statement[0].Resource")]),
        (policy([meter(action="get")]), [("MON101", "Statement[0].Action")]),
        (policy([meter(metric="event:image.storage")]), [("MON125", "Statement[0]")]),
        (policy([meter(multiply=0)]), [("MON126", "Statement[0].Quantity.Multiply")]),
        (policy([meter(multiply=10000.1)]), [("MON126", "Statement[0].Quantity.Multiply")]),
        (policy([meter(multiply=0.00012)]), [("MON126", "Statement[0].Quantity.Multiply")]),
        (policy([meter(round_up=0)]), [("MON101", "Statement[0].Quantity.RoundUpPerRequest")]),
        (plan(Quota={"Limit": 5, "Period": "YEAR"}), [("MON137", "Quota.Period")]),
        (plan(AssignTo={"Offers": ["offer-1"], "Accounts": ["111122223333"]}), [("MON140", "AssignTo")]),
        (plan(AssignTo={"Accounts": ["1111"]}), [("MON101", "AssignTo.Accounts[0]")]),
        (plan(EffectiveFrom="tomorrow"), [("MON101", "EffectiveFrom")]),
        (plan(Throttle={"RateLimit": 0, "BurstLimit": 1}), [("MON101", "Throttle.RateLimit")]),
        (product(Segments={}), [("MON101", "Segments")]),
        (product(Kind="Prod"), [("MON101", "Kind")]),
    ],
)
def test_fails_when_a_document_is_wrong_in_itself(document: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert codes(document) == expected


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = policy([meter(resource="x", multiply=-1), ALLOW_ALL | {"Sid": "1"}], Version="1")
    assert [code for code, _ in codes(wrong)] == ["MON102", "MON108", "MON126", "MON103"]


def test_members_that_begin_with_x_are_the_sellers_own() -> None:
    document = policy([ALLOW_ALL | {"x-ticket": "A-1"}], **{"x-owner": {"Team": "search"}})
    assert isinstance(parsed(document), Policy)


def test_one_value_stands_for_a_list_of_one() -> None:
    assert parsed(policy([meter(action="GET", resource="/a")])) == parsed(
        policy([meter(action=["GET"], resource=["/a"])])
    )


@pytest.mark.parametrize("condition", [{}, {"StringEquals": {}}])
def test_fails_when_a_condition_says_nothing(condition: dict[str, Any]) -> None:
    expected = [("MON107", "Statement[0].Condition")]
    assert codes(policy([ALLOW_ALL | {"Effect": "Deny", "Condition": condition}])) == expected
    assert codes(policy([meter(Condition=condition)])) == expected
