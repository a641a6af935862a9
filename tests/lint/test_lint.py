"""What the rules leave alone, and what the linter says of what it could not check."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lint.overlay import NOW, Overlay
from pools import ALLOW_ALL, meter, plan, policy, pool, route

from marketplace_constructs.policy.lint import LintReport, lint, publish
from marketplace_constructs.policy.pool import PUBLISHED, Pool


def codes(report: LintReport) -> set[str]:
    return {finding.issue_code for finding in report.findings}


SELF_TESTED = """
Kind: Policy
Statement:
  - Sid: Sold
    Effect: Allow
    Action: "*"
    Resource: /v1/images/**
    Condition: {StringEquals: {"plan:Segment": retail}}
  - Sid: Calls
    Effect: Meter
    Action: "*"
    Resource: /v1/images/**
    Dimension: calls
    Quantity: {Metric: requests}
    Condition: {DateLessThan: {"request:Time": "2026-01-01T00:00:00Z"}}
  - Sid: Bytes
    Effect: Meter
    Action: GET
    Resource: /v1/images/{id}
    Dimension: egress_gb
    Quantity: {Metric: response.bytes, Unit: GiB, RoundUpPerRequest: 1000, Multiply: 3}
Tests:
"""


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("Segment: retail\n    Expect: {Access: Allowed}", None),
        ("Expect: {Access: Refused, Quantities: {egress_gb: 0}}", None),
        ("Segment: retail\n    Expect: {Quantities: {calls: 0}}", None),
        ("Segment: retail\n    Expect: {Quantities: {calls: 1}}", "got 0; expected 1"),
        ("Segment: retail\n    Expect: {Quantities: {egress_gb: 0.000002793}}", None),
        (
            "Segment: retail\n    Expect: {Quantities: {egress_gb: 0.000002794}}",
            "got 0.000002793; expected 0.000002794",
        ),
        ("Segment: retail\n    Expect: {Sids: {calls: Calls}}", "got none; expected Calls"),
    ],
)
def test_a_policys_test_is_judged_exactly(test: str, expected: str | None) -> None:
    request = 'Request: {Method: GET, Resource: "/v1/images/{id}", ResponseBytes: 1}'
    report = Overlay.of(f"{SELF_TESTED}  - {request}\n    {test}\n").lint()
    failed = [finding.finding_details for finding in report.findings if finding.issue_code == "MON142"]
    assert len(failed) == (expected is not None)
    assert all(expected in details for details in failed if expected)


def test_a_test_at_a_time_of_its_own() -> None:
    request = 'Request: {Method: GET, Resource: /v1/images, Time: "2025-12-31T23:59:59Z"}'
    overlay = Overlay.of(f"{SELF_TESTED}  - {request}\n    Segment: retail\n    Expect: {{Quantities: {{calls: 1}}}}\n")
    assert "MON142" not in codes(overlay.lint())


def test_what_is_published_may_lie_in_the_past() -> None:
    overlay = Overlay.of('Kind: Plan\nEffectiveFrom: "2026-01-01T00:00:00Z"\n')
    assert "MON118" in codes(overlay.lint())
    overlay.published = {"Plan retail@1": "sha256:other"}
    assert "MON118" not in codes(overlay.lint())


def test_only_a_newer_version_that_nobody_attaches_is_idle() -> None:
    newer = "Kind: Policy\nPolicyVersion: 2\n"
    assert "MON302" in codes(Overlay.of(newer).lint())
    assert "MON302" not in codes(Overlay.of(f"{newer}---\nKind: Plan\nPolicies: [images@2]\n").lint())


def test_a_route_without_key_is_free_by_itself() -> None:
    routes = [route("GET /v1/health", requires_key=False), route("GET /v1/images/{id}", requires_key=True)]
    statements = [ALLOW_ALL, meter(resource="/v1/images/**")]
    report = lint(pool(policy(statements), plan()), routes=routes, now=NOW)
    assert not codes(report) & {"MON123", "MON202"}
    keyed = [replace(one, requires_key=True) for one in routes]
    assert "MON202" in codes(lint(pool(policy(statements), plan()), routes=keyed, now=NOW))


def test_routes_that_do_not_tell_who_requires_a_key_leave_that_unchecked() -> None:
    made = pool(policy([ALLOW_ALL, meter()]), plan())
    assert "MON123" in lint(made, routes=[route("GET /v1/images")], now=NOW).not_checked
    assert "MON123" not in lint(made, routes=[route("GET /v1/images", requires_key=True)], now=NOW).not_checked


def test_a_route_that_declares_a_default_answer_may_succeed() -> None:
    made = pool(policy([ALLOW_ALL, meter()]), plan())
    assert "MON220" in codes(lint(made, routes=[route("GET /a", statuses=("302",))], now=NOW))
    assert "MON220" not in codes(lint(made, routes=[route("GET /a", statuses=("302", "default"))], now=NOW))


def test_a_price_of_nothing_is_for_plans_that_are_not_sent() -> None:
    zero = 'Kind: PriceList\nPrices: {calls: "0", egress_gb: "0"}\n'
    assert "MON204" in codes(Overlay.of(zero).lint())
    assert "MON204" not in codes(Overlay.of(f"{zero}---\nKind: Plan\nChannel: Internal\n").lint())


def test_with_a_document_that_cannot_be_read_only_errors_are_looked_for() -> None:
    overlay = Overlay.of("Kind: Policy\nTests: 5\n---\nKind: Plan\nSegment: other\nThrottle: null\n")
    report = overlay.lint()
    # The policy is there, though not readable: it is not called absent, and nothing is called idle.
    assert codes(report) == {"MON101", "MON120"}
    assert {"MON212", "MON302", "MON303"} <= set(report.not_checked)
    assert "MON105" in report.not_checked


def test_without_a_product_nothing_else_passes_as_checked() -> None:
    report = lint(Pool.of({"plans/retail.yaml": Overlay.of("").texts["plans/retail.yaml"]}), now=NOW)
    assert codes(report) == {"MON101"}
    assert "MON120" in report.not_checked


def test_the_order_of_files_and_statements_does_not_matter() -> None:
    statements = [ALLOW_ALL, meter("One"), meter("Two"), meter("Three", multiply=2)]
    found = []
    for several in (statements, statements[::-1]):
        report = lint(pool(policy(several), plan()), routes=[route("GET /v1/images")], now=NOW)
        found.append(sorted((f.issue_code, f.finding_type) for f in report.findings))
    assert found[0] == found[1]
    texts = Overlay.of("Kind: Plan\nId: other\n").texts
    reports = [lint(Pool.of(dict(items)), now=NOW) for items in (texts.items(), reversed(texts.items()))]
    assert [f.to_json() for f in reports[0].findings] == [f.to_json() for f in reports[1].findings]


def test_no_more_findings_of_one_rule_than_anybody_reads() -> None:
    report = lint(pool(policy([ALLOW_ALL, *(meter(f"M{n}", dimension="gone") for n in range(500))]), plan()), now=NOW)
    unknown = [finding for finding in report.findings if finding.issue_code == "MON110"]
    assert len(unknown) == 201
    assert any("and 300 more" in finding.finding_details for finding in unknown)


@pytest.mark.parametrize(("at", "is_found"), [("00:00:00", False), ("00:00:30", True), ("00:30:00", True)])
def test_a_plan_holds_from_a_whole_hour(at: str, is_found: bool) -> None:  # noqa: FBT001
    report = Overlay.of(f'Kind: Plan\nEffectiveFrom: "2027-01-01T{at}Z"\n').lint()
    assert ("MON118" in codes(report)) == is_found


def test_a_quota_holds_an_hour_within_what_a_record_takes() -> None:
    heavy = pool(policy([ALLOW_ALL, meter(multiply=1000)]), plan())
    assert "MON126" in codes(lint(heavy, now=NOW))
    held = pool(policy([ALLOW_ALL, meter(multiply=1000)]), plan(Quota={"Limit": 1000, "Period": "DAY"}))
    assert "MON126" not in codes(lint(held, now=NOW))


def test_native_metering_leaves_free_routes_without_key_alone() -> None:
    native = (
        "Kind: Product\nMarketplace:\n  Agreements: Legacy\n  PricingModel: Subscription\n  Metering: Native\n"
        "  Dimensions: {apigateway: {Category: Requests, Unit: Requests, Type: ExternallyMetered}}\n---\n"
        "- {Sid: Sold, Effect: Allow, Action: '*', Resource: /**}\n"
        "- {Sid: Calls, Effect: Meter, Action: '*', Resource: /v1/images/**, Dimension: apigateway,"
        " Quantity: {Metric: requests}}\n"
    )
    overlay = Overlay.of(native)
    overlay.routes = (route("GET /v1/health", requires_key=False), route("GET /v1/images", requires_key=True))
    assert "MON135" not in codes(overlay.lint())
    overlay.routes = (route("GET /v1/health", requires_key=True), route("GET /v1/images", requires_key=True))
    assert "MON135" in codes(overlay.lint())


def test_an_exempt_as_specific_as_the_meter_is_meant() -> None:
    partly = {"NumericEquals": {"response:Status": 204}}
    exempt = {"Sid": "Empty", "Effect": "Exempt", "Action": "*", "Dimension": "calls", "Condition": partly}
    routes = [route("GET /v1/images")]
    for pattern, is_found in (("/v1/images", False), ("/**", True)):
        statements = [ALLOW_ALL, meter(resource="/v1/images"), {**exempt, "Resource": pattern}]
        assert ("MON206" in codes(lint(pool(policy(statements), plan()), routes=routes, now=NOW))) == is_found


def test_a_route_that_is_exempt_is_free_on_purpose() -> None:
    free = {"Sid": "Free", "Effect": "Exempt", "Action": "GET", "Resource": "/v1/health", "Dimension": "*"}
    routes = [route("GET /v1/health"), route("GET /v1/images")]
    statements = [ALLOW_ALL, meter(resource="/v1/images")]
    assert "MON202" in codes(lint(pool(policy(statements), plan()), routes=routes, now=NOW))
    assert "MON202" not in codes(lint(pool(policy([*statements, free]), plan()), routes=routes, now=NOW))


def test_what_is_recorded_is_never_recorded_anew(tmp_path: Path) -> None:
    made = Pool.of(dict(Overlay.of("").texts), published={"Plan retail@1": "sha256:0"})
    assert publish(made, tmp_path) == ("Policy images@1",)
    assert json.loads((tmp_path / PUBLISHED).read_text())["documents"]["Plan retail@1"] == "sha256:0"
