"""AWS CDK constructs that sell a REST API of Amazon API Gateway through AWS Marketplace.

The names below are the public API. Importing the package imports none of them, so that what runs in Lambda
never loads the CDK.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from marketplace_constructs._version import __version__

if TYPE_CHECKING:
    from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
    from marketplace_constructs.domain.metering_rules import MeteringRules
    from marketplace_constructs.domain.product import (
        AgreementKind,
        Category,
        Dimension,
        DimensionType,
        Metering,
        PricingModel,
        Product,
    )
    from marketplace_constructs.domain.usage_plan import Period, Quota, Throttle
    from marketplace_constructs.infrastructure.access_log import AccessLog
    from marketplace_constructs.infrastructure.acknowledgements import AuditFinding, acknowledge
    from marketplace_constructs.infrastructure.agreements import Agreements
    from marketplace_constructs.infrastructure.gate import Gate
    from marketplace_constructs.infrastructure.metering import Meter
    from marketplace_constructs.infrastructure.metering_role import MeteringRole
    from marketplace_constructs.infrastructure.monetization import Monetization
    from marketplace_constructs.infrastructure.onboarding import Onboarding
    from marketplace_constructs.infrastructure.relay import SubscriptionRelayStack
    from marketplace_constructs.infrastructure.sellable_api import SellableApi
    from marketplace_constructs.infrastructure.seller import Seller
    from marketplace_constructs.infrastructure.subscription_events import SubscriptionEvents
    from marketplace_constructs.infrastructure.usage_plan import MarketplaceUsagePlan

__all__ = [
    "AccessLog",
    "AgreementKind",
    "Agreements",
    "AuditFinding",
    "Category",
    "Dimension",
    "DimensionType",
    "Gate",
    "MarketplaceConstructsError",
    "MarketplaceUsagePlan",
    "Meter",
    "Metering",
    "MeteringRole",
    "MeteringRules",
    "Monetization",
    "Onboarding",
    "Period",
    "PricingModel",
    "Problem",
    "Product",
    "Quota",
    "SellableApi",
    "Seller",
    "SubscriptionEvents",
    "SubscriptionRelayStack",
    "Throttle",
    "__version__",
    "acknowledge",
]

_MODULES = {
    "domain.errors": ("MarketplaceConstructsError", "Problem"),
    "domain.metering_rules": ("MeteringRules",),
    "domain.product": (
        "AgreementKind",
        "Category",
        "Dimension",
        "DimensionType",
        "Metering",
        "PricingModel",
        "Product",
    ),
    "domain.usage_plan": ("Period", "Quota", "Throttle"),
    "infrastructure.access_log": ("AccessLog",),
    "infrastructure.acknowledgements": ("AuditFinding", "acknowledge"),
    "infrastructure.agreements": ("Agreements",),
    "infrastructure.gate": ("Gate",),
    "infrastructure.metering": ("Meter",),
    "infrastructure.metering_role": ("MeteringRole",),
    "infrastructure.monetization": ("Monetization",),
    "infrastructure.onboarding": ("Onboarding",),
    "infrastructure.relay": ("SubscriptionRelayStack",),
    "infrastructure.sellable_api": ("SellableApi",),
    "infrastructure.seller": ("Seller",),
    "infrastructure.subscription_events": ("SubscriptionEvents",),
    "infrastructure.usage_plan": ("MarketplaceUsagePlan",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
