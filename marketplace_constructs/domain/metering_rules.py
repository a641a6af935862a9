"""When and how AWS Marketplace wants to be told of usage.

By itself, since synthesis needs to know this and nothing else of metering.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

MAX_QUANTITY: Final = Decimal("9999999999.999999")
"""Source: AWS Marketplace API reference, UsageRecord, QuantityAsDecimal (read 2026-11-21)."""
MAX_WHOLE_QUANTITY: Final = Decimal(2_147_483_647)
"""Source: the same, Quantity."""
RUNS_EVERY: Final = timedelta(minutes=5)
"""How often the meter looks what is due: twice at least between an agreement's final flush and the last moment for it,
so that it is in time whenever the agreement ends, and also where one run fails."""


@dataclass(frozen=True, kw_only=True)
class MeteringRules:
    """How AWS wants to be told, as far as it is documented; what is not is a setting [UNCONF].

    Args:
        window: How old a record may be when it is sent. Source: BatchMeterUsage: less than 24 h (read 2026-11-21).
        month_end_hours: Until when on the 1st, UTC, the month before is taken. Source: the same, 06:00.
        margin: Sending stops so long before the window closes, and a record is given up so long after.
        decimals: Of a quantity, 0 to 6; 0 sends ``Quantity``, more ``QuantityAsDecimal``.
        sends_zero: Whether an hour without usage is told. Source: seller guide: strongly recommended.
        final_window: How long after its end an agreement's usage is taken [UNCONF].
        final_flush: From when on, within it, the last record is sealed, by the first run of the meter.
    """

    window: timedelta = timedelta(hours=24)
    month_end_hours: int = 6
    margin: timedelta = timedelta(minutes=10)
    decimals: int = 6
    sends_zero: bool = True
    final_window: timedelta = timedelta(hours=1)
    final_flush: timedelta = timedelta(minutes=40)

    @property
    def last_flush(self) -> timedelta:
        """How long after its end usage of an agreement is sealed at the latest, so that it can still be sent."""
        return self.final_window - self.margin

    @property
    def max_quantity(self) -> Decimal:
        """The most that one record can tell."""
        return MAX_QUANTITY if self.decimals else MAX_WHOLE_QUANTITY

    def is_taken(self, timestamp: datetime, now: datetime) -> bool:
        """Whether AWS still takes a record of this time, with the margin to spare."""
        return now < self.deadline(timestamp) - self.margin

    def is_over(self, timestamp: datetime, now: datetime) -> bool:
        """Whether AWS certainly takes no record of this time any more."""
        return now > self.deadline(timestamp) + self.margin

    def deadline(self, timestamp: datetime) -> datetime:
        """When AWS stops taking a record of this time."""
        month_end = (timestamp.replace(day=1) + timedelta(days=32)).replace(
            day=1, hour=self.month_end_hours, minute=0, second=0, microsecond=0
        )
        return min(timestamp + self.window, month_end)
