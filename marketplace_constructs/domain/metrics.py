"""What the functions' own metrics are called.

Apart from the functions' settings, which one that has none would load for three words.
"""

from __future__ import annotations

from typing import Final

METRICS_NAMESPACE: Final = "MarketplaceConstructs"
"""Of the functions' own metrics; public, as alarms and dashboards rest on it."""

METRICS_SERVICE: Final = "sellable-api"
"""Their dimension ``service``, alike in all sales."""


def metrics_dimensions(sale: str) -> dict[str, str]:
    """The dimensions of a sale's metrics; public, like the namespace.

    Args:
        sale: Tells the sale apart from the others of its account and Region.
    """
    return {"service": METRICS_SERVICE, "sale": sale}
