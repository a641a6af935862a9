"""What the log counts beside what API Gateway's own meter reported, for each customer and hour."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final

from marketplace_constructs.domain.metering import hour_of
from marketplace_constructs.runtime.metering.doubt import Shown, Trail, accepted
from marketplace_constructs.runtime.metering.totals import HourUsage

_TAKEN_WITHIN: Final = timedelta(hours=25)
"""How long after an hour's beginning AWS takes its usage.

Source: API reference, BatchMeterUsage: 24 hours after an event (read 2026-11-21).
"""


@dataclass(kw_only=True)
class Compared:
    """One customer's usage of some hours.

    Args:
        customer: The customer identifier.
        by_path: What the log counts, by the path of the route.
        counted: The same by hour.
        reported: What AWS accepted, by hour.
    """

    customer: str
    by_path: dict[str, Fraction] = field(default_factory=dict)
    counted: dict[datetime, Fraction] = field(default_factory=dict)
    reported: dict[datetime, Fraction] = field(default_factory=dict)

    @property
    def log(self) -> Fraction:
        """What the log counts in all."""
        return sum(self.counted.values(), Fraction(0))

    @property
    def native(self) -> Fraction:
        """What AWS accepted in all."""
        return sum(self.reported.values(), Fraction(0))

    @property
    def is_different(self) -> bool:
        """Whether the two sums differ. API Gateway does not say which time its reports carry."""
        return self.log != self.native

    @property
    def different_hours(self) -> list[datetime]:
        """Where the two differ, the earliest first."""
        hours = sorted({*self.counted, *self.reported})
        return [hour for hour in hours if self.counted.get(hour, 0) != self.reported.get(hour, 0)]


def reported(
    trail: Trail, hours: Sequence[datetime], *, product_code: str, dimension: str, now: datetime
) -> Iterator[Shown]:
    """What AWS accepted for a product and some hours, each record once, whoever sent it.

    Args:
        trail: Where calls are shown, of 90 days.
        hours: The earliest first; none gives nothing.
        product_code: The product.
        dimension: What is compared.
        now: The present moment.
    """
    if not hours:
        return
    wanted, seen = set(hours), set[str]()
    until = min(now, hours[-1] + _TAKEN_WITHIN)
    for shown in accepted(trail, product_code=product_code, since=hours[0], until=until):
        if (
            (shown.product_code, shown.dimension) == (product_code, dimension)
            and hour_of(shown.timestamp) in wanted
            and shown.metering_record_id not in seen
        ):
            seen.add(shown.metering_record_id)
            yield shown


def compare(
    hours: Iterable[HourUsage], records: Iterable[Shown], *, customers: Mapping[str, str], dimension: str
) -> list[Compared]:
    """Set the two beside each other, by customer.

    Args:
        hours: What the log shows.
        records: What AWS accepted.
        customers: The customer of each agreement.
        dimension: What is compared.
    """
    found: dict[str, Compared] = {}

    def of(customer: str) -> Compared:
        return found.setdefault(customer, Compared(customer=customer))

    for one in hours:
        for series, usage in one.usage.items():
            if series.dimension == dimension:
                theirs, hour = of(customers.get(series.agreement, series.agreement)), one.closed.hour
                theirs.counted[hour] = theirs.counted.get(hour, Fraction(0)) + usage.quantity
                for path, quantity in usage.by_path.items():
                    theirs.by_path[path] = theirs.by_path.get(path, Fraction(0)) + quantity
    for record in records:
        theirs, hour = of(record.customer), hour_of(record.timestamp)
        theirs.reported[hour] = theirs.reported.get(hour, Fraction(0)) + Fraction(record.quantity)
    return [found[customer] for customer in sorted(found)]
