"""Everything that a ledger's chain ever said: what its state, which forgets what no longer decides, cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction

from marketplace_constructs.domain.metering import (
    KEPT,
    ClosedHour,
    LedgerState,
    Loss,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Series,
    Settlement,
)
from marketplace_constructs.runtime.metering import codec
from marketplace_constructs.runtime.metering.ledger import digest_of, next_link
from marketplace_constructs.runtime.metering.objects import Objects

_AT_ONCE = 10
"""Manifests that are fetched at a time: as many as boto3 has connections."""


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """How a record came about.

    Args:
        manifest: The sequence of the one that sealed it.
        at: When that was.
        carried_in: What was left over from the record before, less than AWS can be told of.
        carried_out: What is left over from this one.
    """

    manifest: int
    at: datetime
    carried_in: Fraction
    carried_out: Fraction


@dataclass
class History:
    """A whole chain.

    Args:
        records: By id, in the order in which they were sealed.
        sealings: By record.
        fates: The last word on each record that was settled.
        losses: Usage that no record bills.
        closed: The last word on each closed hour.
        again: Hours whose usage waits for a slot.
        remainders: What no record holds yet, by series.
        snapshots: Names of the states that say something else than the chain.
    """

    sequence: int = 0
    records: dict[str, Record] = field(default_factory=dict)
    sealings: dict[str, Sealing] = field(default_factory=dict)
    fates: dict[str, Settlement] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)
    closed: dict[datetime, ClosedHour] = field(default_factory=dict)
    again: frozenset[datetime] = frozenset()
    remainders: dict[Series, Fraction] = field(default_factory=dict)
    snapshots: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, objects: Objects) -> History:
        """Follow the chain from its first manifest.

        Raises:
            MarketplaceConstructsError: MP-LEDGER-01: a later schema; MP-LEDGER-03: the chain is broken.
        """
        history, state, digest = cls(), LedgerState(), ""
        states = frozenset(objects.keys("states/"))
        for content in _contents(objects):
            manifest = next_link(content, sequence=state.sequence, digest=digest)
            digest = digest_of(content)
            state.apply(manifest)
            history._take(manifest)
            key = f"states/{manifest.sequence:012}.json"
            if key in states and not _says(objects.get(key) or b"{}", state):
                history.snapshots.append(key)
        history.again = state.again
        return history

    def fate(self, record: str) -> Settlement:
        """What became of a record."""
        return self.fates.get(record, Settlement(record=record, outcome=Outcome.OPEN))

    def records_of(self, series: Series) -> Iterator[Record]:
        """Those of one series, in the order in which they were sealed."""
        return (record for record in self.records.values() if record.series == series)

    def losses_of(self, series: Series, hour: datetime) -> Iterator[Loss]:
        """Usage of one hour that is not billed."""
        return (loss for loss in self._usage_lost() if (loss.series, loss.hour) == (series, hour))

    def accounted(self) -> Mapping[datetime, Mapping[Series, Fraction]]:
        """What records and losses hold of each hour's usage."""
        held: dict[datetime, dict[Series, Fraction]] = {}
        for record in self.records.values():
            for source in record.sources:
                _add(held.setdefault(source.hour, {}), record.series, source.quantity)
        for loss in self._usage_lost():
            _add(held.setdefault(loss.hour, {}), loss.series, loss.quantity)
        return held

    def unjudged(self, hour: datetime) -> Mapping[Series, Fraction]:
        """What no table judged of a closed hour, as long as it is not lost for good."""
        closed = self.closed.get(hour)
        if closed is None or hour < max(self.closed) - KEPT:
            return {}
        return closed.unjudged or {}

    def _usage_lost(self) -> Iterator[Loss]:
        # A remainder that was lost is a part of some record's sources.
        return (loss for loss in self.losses if loss.reason is not LossReason.REMAINDER)

    def _take(self, manifest: Manifest) -> None:
        self.sequence = manifest.sequence
        self.closed.update({closed.hour: closed for closed in manifest.closed})
        for record in manifest.records:
            before = self.remainders.get(record.series, Fraction(0))
            after = before + sum((one.quantity for one in record.sources), Fraction(0)) - Fraction(record.quantity)
            self.remainders[record.series] = after
            self.records[record.id] = record
            self.sealings[record.id] = Sealing(
                manifest=manifest.sequence, at=manifest.written_at, carried_in=before, carried_out=after
            )
        for loss in manifest.losses:
            self.losses.append(loss)
            if loss.reason is LossReason.REMAINDER:
                _add(self.remainders, loss.series, -loss.quantity)
        self.fates.update({one.record: one for one in manifest.settlements})


def _contents(objects: Objects) -> Iterator[bytes]:
    """Each manifest's bytes, in order; the store is asked for several at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from (content or b"{}" for content in pool.map(objects.get, objects.keys("manifests/")))


def _says(content: bytes, state: LedgerState) -> bool:
    kept, folded = codec.from_bytes(content), codec.from_bytes(codec.to_bytes(codec.state_to_json(state)))
    return all(kept.get(name) == value for name, value in folded.items())


def _add(sums: dict[Series, Fraction], series: Series, quantity: Fraction) -> None:
    sums[series] = sums.get(series, Fraction(0)) + quantity
