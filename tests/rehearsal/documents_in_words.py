"""What the example's documents mean, as a person reads them: the judge of what the meter bills."""

from __future__ import annotations

from fractions import Fraction

from marketplace_constructs.rehearsal.gateway import Call


def meaning(plan: str, call: Call) -> dict[str, Fraction]:
    """What a call counts under a plan (``id@version``), by dimension: monetization/ in other words."""
    name = plan.partition("@")[0]
    if name in {"internal", "trial"} or call.integration_status is None or call.status >= 400:
        return {}
    if (call.http_method, call.resource_path) == ("POST", "/v1/nouns"):
        tenths = -(-(call.integration_ms or 0) // 100)
        return {
            "calls": Fraction({"retail": 2, "partner": 1}[name]),
            **({"compute_sec": Fraction(tenths, 10)} if tenths else {}),
        }
    is_free = call.resource_path in {"/v1/samples", "/v1/samples/{id}"} and name != "basic"
    return {} if is_free else {"calls": Fraction(1)}
