"""An hourly job as AWS's sample has it, to compare the meter with, and a sale that both of them meter.

The job does what aws-samples/aws-marketplace-serverless-saas-integration does in metering-hourly-job.js and
metering-sqs.js (read 2026-11-28): rows that are pending are added up by buyer and queued, one message each; whoever
takes a message sends it as one request, stamped with the present, and marks its rows as done, and as failed where the
request failed or a result was no Success. Nothing looks at that mark again.

It is spared what is not its own: each of its rows holds an agreement's usage of one hour, complete and right whatever
the log does; no agreement of the sale changes or ends; a message is delivered again at once where its process dies; a
call is tried four times, as the SDK does by itself.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError
from simulation import (
    HOUR,
    PATHS,
    Crash,
    FaultyClient,
    Life,
    Process,
    Troubles,
    World,
    _accepted_key,
    _record_key,
    check,
    manifests,
)

from marketplace_constructs.domain.metering import Outcome, Series, hour_of
from marketplace_constructs.domain.metering_rules import MeteringRules
from marketplace_constructs.rehearsal.marketplace.faults import Fault
from marketplace_constructs.rehearsal.marketplace.market import Buyer

ORDINARY: Final = Troubles(crash=0.005, storage=0.002, call=0.1, late=0.05, doubled=0.1)
"""One call in ten meets a fault, of eight kinds; a process dies at one step in two hundred."""
OUTAGE: Final = 9 * HOUR
_TRIES: Final = 4
_THROTTLED: Final = "ThrottlingException"

_Units = dict[tuple[Series, datetime], Fraction]


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What became of the units of a sale; each is one of the last four, or billed again.

    Args:
        units: How many were used.
        once: Accepted by AWS, each counted once.
        again: Accepted beyond what was used.
        named: Not accepted, and said so: in the loss ledger or in doubt; of the job, in a row marked as failed.
        silent: Not accepted, and nothing says so.
        requests: How often BatchMeterUsage was called.
    """

    units: int
    once: int
    again: int
    named: int
    silent: int
    requests: int


class Sale(World):
    """A day and a half of a month's middle, the same for whoever meters it.

    Args:
        seed: Decides everything.
        troubles: What goes wrong.
        is_away: AWS Marketplace answers nothing but errors for nine hours.
    """

    buyers = (12, 12)

    def __init__(self, seed: int, troubles: Troubles, *, is_away: bool = False) -> None:
        super().__init__(seed, is_calm=True)
        self.troubles = troubles
        self.fault_rng = random.Random(f"faults of {seed}")
        self.start = datetime(2026, 11, 10, 12, tzinfo=UTC) + timedelta(minutes=self.rng.randint(0, 59))
        self.end = self.start + 36 * HOUR
        self.clock.set(self.start)
        # Whoever stands still for nine hours comes back while the sale goes on.
        self._outage_at = self.start + self.rng.uniform(2, 24) * HOUR
        self._away_from = self._outage_at if is_away else datetime.max.replace(tzinfo=UTC)
        self.versions._versions.clear()
        self.terms.clear()
        self.set_weight(Decimal(1), hour_of(self.start) - HOUR)
        self.options = replace(self.options, rules=MeteringRules(sends_zero=False))
        self._main = self._process()

    def bill(self) -> Bill:
        """Live through it, and add up."""
        self.live()
        check(self)
        held = Counter(_accepted_key(self, one) for one in self.market.accepted_records)
        chain = manifests(self)
        fates = {one.record: one.outcome for manifest in chain for one in manifest.settlements}
        billed, named = _Units(), _Units()
        for record in (record for manifest in chain for record in manifest.records):
            times = held[_record_key(record)]
            is_named = not times and fates.get(record.id) in {Outcome.LOST, Outcome.IN_DOUBT}
            for source in record.sources:
                _add(billed, (record.series, source.hour), times * source.quantity)
                _add(named, (record.series, source.hour), is_named * source.quantity)
        for loss in (loss for manifest in chain for loss in manifest.losses):
            _add(named, (loss.series, loss.hour), loss.quantity)
        return self._added_up(billed, named)

    def call(self, request: Mapping[str, Any], fault: Fault | None) -> Mapping[str, Any]:
        """BatchMeterUsage."""
        if not self.is_over and self._away_from <= self.clock.now() < self._away_from + OUTAGE:
            said = {"Error": {"Code": "ServiceUnavailable"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(said, "BatchMeterUsage")
        return super().call(request, fault)

    def _added_up(self, billed: Mapping[Any, Fraction], named: Mapping[Any, Fraction]) -> Bill:
        used = {(series, hour): quantity for series, hours in self.truth.items() for hour, quantity in hours.items()}
        once = {key: min(quantity, billed.get(key, 0)) for key, quantity in used.items()}
        lost = {key: quantity - once[key] for key, quantity in used.items()}
        known = {key: min(quantity, named.get(key, 0)) for key, quantity in lost.items()}
        return Bill(
            units=_whole(used.values()),
            once=_whole(once.values()),
            again=_whole(billed.values()) - _whole(once.values()),
            named=_whole(known.values()),
            silent=_whole(lost.values()) - _whole(known.values()),
            requests=len(self.market.calls),
        )

    def _change(self, buyers: list[Buyer]) -> None:
        pass

    def _tell_usage(self, since: datetime, until: datetime) -> None:
        pass

    def _call(self, life: Life, at: datetime) -> bytes:
        """Whole units only, so that the job has nothing to round."""
        status, size, hour = self.rng.choice([200, 200, 204, 404]), self.rng.choice([0, 10_000, 30_000]), hour_of(at)
        for dimension, units in (("calls", int(status < 400)), ("data", size // 10_000)):
            self._count(life.id, dimension, hour, Fraction(units))
        return self._line(life.id, at, self.rng.choice(PATHS), status, size)


@dataclass
class _Row:
    """One agreement's usage of one hour, by dimension."""

    life: Life
    hour: datetime
    usage: dict[str, Fraction]
    metering_pending: bool = True
    metering_failed: bool = False


class SaleMeteredByJob(Sale):
    """The same sale, metered by the hourly job."""

    def __init__(self, seed: int, troubles: Troubles, *, is_away: bool = False) -> None:
        super().__init__(seed, troubles, is_away=is_away)
        self._table: dict[tuple[str, datetime], _Row] = {}
        self._sent: dict[tuple[Any, ...], tuple[str, list[_Row]]] = {}
        self._ran_in = hour_of(self.start)

    def bill(self) -> Bill:
        """Live through it, and add up."""
        self.live()
        billed, named = _Units(), _Units()
        for one in self.market.accepted_records:
            dimension, rows = self._sent[_accepted_key(self, one)]
            for row in rows:
                _add(billed, _place(row, dimension), row.usage.get(dimension, Fraction(0)))
        for row in self._table.values():
            for dimension, quantity in row.usage.items():
                _add(named, _place(row, dimension), quantity * row.metering_failed)
        return self._added_up(billed, named)

    def _run(self, process: Process) -> None:
        """Run the job, once an hour."""
        del process
        now = hour_of(self.clock.now())
        if self._ran_in == now:
            return
        self._write_rows(now)
        try:
            self._job()
        except (Crash, ClientError):
            return
        self._ran_in = now

    def _write_rows(self, now: datetime) -> None:
        """The application's own part."""
        for life in self.lives:
            for dimension in self.options.dimensions:
                hours = self.truth.get(Series(agreement=life.id, dimension=dimension), {})
                for hour, quantity in hours.items():
                    if hour < now:
                        row = self._table.setdefault((life.id, hour), _Row(life, hour, {}))
                        if row.metering_pending:
                            row.usage[dimension] = quantity

    def _job(self) -> None:
        self.step(self._main)
        messages: dict[str, list[_Row]] = {}
        for row in self._table.values():
            if row.metering_pending:
                messages.setdefault(row.life.id, []).append(row)
        for rows in messages.values():
            while True:
                try:
                    self._take(rows)
                except (Crash, ClientError):
                    continue
                break

    def _take(self, rows: list[_Row]) -> None:
        """Send one buyer's usage and mark its rows."""
        agreement, now = rows[0].life.agreement, self.clock.now()
        usage: dict[str, Fraction] = {}
        for row in rows:
            for dimension, quantity in row.usage.items():
                usage[dimension] = usage.get(dimension, Fraction(0)) + quantity
        records = [
            {
                "CustomerAWSAccountId": agreement.buyer.account_id,
                "LicenseArn": agreement.license_arn,
                "Dimension": dimension,
                "Quantity": int(quantity),
                "Timestamp": now,
            }
            for dimension, quantity in usage.items()
        ]
        for dimension, quantity in usage.items():
            key = (agreement.license_arn, dimension, now, Decimal(int(quantity)).normalize())
            self._sent[key] = dimension, rows
        try:
            answer = self._batch_meter_usage(records)
            has_failed = any(result["Status"] != "Success" for result in answer["Results"])
        except (ClientError, ReadTimeoutError):
            has_failed = True
        for row in rows:
            self.step(self._main)
            row.metering_pending, row.metering_failed = False, has_failed

    def _batch_meter_usage(self, records: list[dict[str, Any]]) -> Mapping[str, Any]:
        """The call as the SDK makes it."""
        client = FaultyClient(self, self._main)
        for _ in range(_TRIES - 1):
            try:
                return client.batch_meter_usage(UsageRecords=records)
            except ReadTimeoutError:
                pass
            except ClientError as error:
                said = error.response
                if said["ResponseMetadata"]["HTTPStatusCode"] < 500 and said["Error"]["Code"] != _THROTTLED:
                    raise
        return client.batch_meter_usage(UsageRecords=records)


def _place(row: _Row, dimension: str) -> tuple[Series, datetime]:
    return Series(agreement=row.life.id, dimension=dimension), row.hour


def _add(units: _Units, place: tuple[Series, datetime], quantity: Fraction) -> None:
    units[place] = units.get(place, Fraction(0)) + quantity


def _whole(quantities: Iterable[Fraction | int]) -> int:
    total = sum(quantities, Fraction(0))
    assert total.denominator == 1
    return int(total)
