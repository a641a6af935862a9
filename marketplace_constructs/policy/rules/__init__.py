"""The rules of the linter, each in one place: its code, why it is, an example of both kinds, and what to do.

A code is public: it never changes its meaning, and none is used twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from marketplace_constructs.policy.rules import (
    access,
    competition,
    dimensions,
    expectations,
    native,
    prices,
    reading,
    references,
    revenue,
)
from marketplace_constructs.policy.rules.base import CheckedBy, Context, Found, PlanView, Rule

__all__ = ["CATALOGUE", "CheckedBy", "Context", "Found", "PlanView", "Rule"]

_MODULES: Final = (access, competition, dimensions, expectations, native, prices, reading, references, revenue)

CATALOGUE: Final[Mapping[str, Rule]] = MappingProxyType(
    {rule.code: rule for rule in sorted((r for m in _MODULES for r in m.RULES), key=lambda rule: rule.code)}
)
"""Every rule, by code."""
