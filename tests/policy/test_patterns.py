from __future__ import annotations

import pytest
from pools import route

from marketplace_constructs.policy.patterns import Pattern, RouteTree, expanded

TEMPLATES = ["/", "/v1", "/v1/images", "/v1/images/{id}", "/v1/images/{id}/render", "/v1/{proxy+}", "/v1/images/new"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("/", {"/"}),
        ("/**", set(TEMPLATES)),
        ("/v1/**", set(TEMPLATES) - {"/"}),
        ("/v1/images", {"/v1/images"}),
        ("/v1/*", {"/v1/images"}),
        ("/v1/{proxy+}", {"/v1/{proxy+}"}),
        ("/v1/images/{id}", {"/v1/images/{id}"}),
        ("/v1/images/{anything}", {"/v1/images/{id}"}),
        ("/v1/images/*", {"/v1/images/{id}", "/v1/images/new"}),
        ("/v1/images/new", {"/v1/images/new"}),
        ("/v1/images/*/render", {"/v1/images/{id}/render"}),
        ("/v1/images/{id}/**", {"/v1/images/{id}", "/v1/images/{id}/render"}),
        ("/v2", set()),
        ("/V1", set()),
    ],
)
def test_a_pattern_matches_templates(pattern: str, matched: set[str]) -> None:
    assert set(RouteTree(TEMPLATES).matches(Pattern.parse(pattern))) == matched


def test_more_specific_is_decided_from_the_left() -> None:
    ranked = [
        "/**",
        "/*/**",
        "/{a}/**",
        "/v1/**",
        "/v1/*/**",
        "/v1/*",
        "/v1/{id}/**",
        "/v1/{id}",
        "/v1/images/**",
        "/v1/images",
    ]
    patterns = [Pattern.parse(text) for text in ranked]
    assert sorted(patterns, key=lambda pattern: pattern.specificity) == patterns


def test_any_stands_for_the_methods_that_its_path_does_not_declare() -> None:
    routes = expanded([route("ANY /a"), route("GET /a", integration="mock"), route("GET /b")])
    assert [str(r) for r in routes if r.path == "/a"] == [
        f"{method} /a" for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
    ]
    assert next(r for r in routes if str(r) == "GET /a").integration == "mock"
