"""The ledger as text: canonical JSON whose schema docs/ledger.md describes, exact to the last digit.

Members are only ever added to a schema; what a reader does not know, it ignores. Instants are UTC. A decimal quantity
is written as ``1.5``, an exact one as ``3/2``: no quantity is a JSON number, which a reader might make a float of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.metering import (
    Allocation,
    Buyer,
    ClosedHour,
    LedgerState,
    Loss,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Series,
    SeriesState,
    Settlement,
    Source,
)

SCHEMA_VERSION: Final = 1

Json = dict[str, Any]


def to_bytes(document: Mapping[str, object]) -> bytes:
    """A document as canonical JSON: the same document always gives the same bytes."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **document}, sort_keys=True, separators=(",", ":")).encode()


def from_bytes(content: bytes, *, object_hook: Callable[[Json], Any] | None = None) -> Json:
    """Read a document of the ledger.

    Args:
        content: Its bytes.
        object_hook: What becomes of each object within it; None for what JSON makes of it.

    Raises:
        MarketplaceConstructsError: MP-LEDGER-01: it is of a schema that this version does not read.
    """
    document: Json = json.loads(content, object_hook=object_hook)
    if document.get("schema_version") != SCHEMA_VERSION:
        raise MarketplaceConstructsError(
            Problem(
                "MP-LEDGER-01",
                f"ledger, got schema_version {document.get('schema_version')}; expected {SCHEMA_VERSION}; "
                "use a version of marketplace-constructs that writes it",
            )
        )
    return document


def instant(moment: datetime) -> str:
    """A moment as text, such as ``2026-12-01T00:00:00Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=10_000)
def moment(text: str) -> datetime:
    """What ``instant`` wrote; one object for each of the few hours that a ledger names over and over."""
    return datetime.fromisoformat(text)


def exact(quantity: Fraction) -> str:
    """An exact quantity as text, such as ``3/2``."""
    return f"{quantity.numerator}/{quantity.denominator}"


@lru_cache(maxsize=10_000)
def exactly(text: str) -> Fraction:
    """What ``exact`` wrote."""
    numerator, denominator = text.split("/")
    return Fraction(int(numerator), int(denominator))


def manifest_to_json(manifest: Manifest) -> Json:
    """A manifest's members."""
    return {
        "sequence": manifest.sequence,
        "previous": manifest.previous,
        "written_at": instant(manifest.written_at),
        "read_at": instant(manifest.read_at) if manifest.read_at else None,
        "again": [instant(hour) for hour in manifest.again],
        "closed": [_closed_to_json(closed) for closed in manifest.closed],
        "records": [_record_to_json(record) for record in manifest.records],
        "losses": [
            {
                **_series(loss.series),
                "hour": instant(loss.hour),
                "quantity": exact(loss.quantity),
                "reason": loss.reason,
            }
            for loss in manifest.losses
        ],
        "settlements": [
            {
                "record": settlement.record,
                "outcome": settlement.outcome,
                "metering_record_id": settlement.metering_record_id,
                "reason": settlement.reason,
            }
            for settlement in manifest.settlements
        ],
    }


def manifest_from_json(document: Json) -> Manifest:
    """What ``manifest_to_json`` wrote."""
    return Manifest(
        sequence=document["sequence"],
        previous=document["previous"],
        written_at=moment(document["written_at"]),
        read_at=moment(document["read_at"]) if document["read_at"] else None,
        again=tuple(moment(hour) for hour in document["again"]),
        closed=tuple(_closed_from_json(closed) for closed in document["closed"]),
        records=tuple(_record_from_json(record) for record in document["records"]),
        losses=tuple(
            Loss(
                series=_series_from(loss),
                hour=moment(loss["hour"]),
                quantity=exactly(loss["quantity"]),
                reason=LossReason(loss["reason"]),
            )
            for loss in document["losses"]
        ),
        settlements=tuple(
            Settlement(
                record=settlement["record"],
                outcome=Outcome(settlement["outcome"]),
                metering_record_id=settlement["metering_record_id"],
                reason=LossReason(settlement["reason"]) if settlement["reason"] else None,
            )
            for settlement in document["settlements"]
        ),
    )


def state_to_json(state: LedgerState) -> Json:
    """A state's members."""
    return {
        **_state_to_json(state),
        "series": [_series_state_to_json(series, one) for series, one in sorted(state.series.items())],
    }


def state_to_bytes(state: LedgerState, *, digest: str) -> bytes:
    """A snapshot: ``to_bytes`` of a state's members and of the digest of its manifest.

    Series are written one by one: together, as JSON, the hours of many take several times the memory of the state.
    """
    before, empty, after = to_bytes({**_state_to_json(state), "digest": digest, "series": []}).rpartition(b"[]")
    assert empty
    series = b",".join(
        json.dumps(_series_state_to_json(series, one), sort_keys=True, separators=(",", ":")).encode()
        for series, one in sorted(state.series.items())
    )
    return before + b"[" + series + b"]" + after


def state_from_bytes(content: bytes) -> tuple[LedgerState, str]:
    """What ``state_to_bytes`` wrote: the state, and the digest.

    Raises:
        MarketplaceConstructsError: MP-LEDGER-01: it is of a schema that this version does not read.
    """
    document = from_bytes(content, object_hook=_series_state_from_json)
    closed = [_closed_from_json(one) for one in document["closed"]]
    records = [_record_from_json(one) for one in document["records"]]
    state = LedgerState(
        sequence=document["sequence"],
        read_at=moment(document["read_at"]) if document["read_at"] else None,
        again=frozenset(moment(hour) for hour in document["again"]),
        series=dict(document["series"]),
        records={record.id: record for record in records},
        in_doubt=set(document["in_doubt"]),
        lost={one["record"]: LossReason(one["reason"]) if one["reason"] else None for one in document["lost"]},
        closed={one.hour: one for one in closed},
    )
    return state, document["digest"]


def _state_to_json(state: LedgerState) -> Json:
    return {
        "sequence": state.sequence,
        "read_at": instant(state.read_at) if state.read_at else None,
        "again": sorted(instant(hour) for hour in state.again),
        "records": [_record_to_json(record) for _, record in sorted(state.records.items())],
        "in_doubt": sorted(state.in_doubt),
        "lost": [{"record": record, "reason": reason} for record, reason in sorted(state.lost.items())],
        "closed": [_closed_to_json(closed) for _, closed in sorted(state.closed.items())],
    }


def _series_state_to_json(series: Series, state: SeriesState) -> Json:
    return {
        **_series(series),
        "remainder": exact(state.remainder),
        "accounted": [
            {"hour": instant(hour), "quantity": exact(quantity)} for hour, quantity in sorted(state.accounted.items())
        ],
        "slots": [instant(slot) for slot in sorted(state.slots)],
    }


def _series_state_from_json(document: Json) -> Json | tuple[Series, SeriesState]:
    """A series as soon as it is read, so that no other is there as JSON; any other object as it is."""
    if "accounted" not in document:
        return document
    return _series_from(document), SeriesState(
        remainder=exactly(document["remainder"]),
        accounted={moment(entry["hour"]): exactly(entry["quantity"]) for entry in document["accounted"]},
        slots={moment(slot) for slot in document["slots"]},
    )


def _series(series: Series) -> Json:
    return {"agreement": series.agreement, "dimension": series.dimension}


def _series_from(document: Json) -> Series:
    return Series(agreement=document["agreement"], dimension=document["dimension"])


def _closed_to_json(closed: ClosedHour) -> Json:
    found: Json = {
        "hour": instant(closed.hour),
        "lines": [{"state": state, "lines": lines} for state, lines in sorted(closed.lines.items())],
        "quarantined": closed.quarantined,
    }
    if closed.unjudged is not None:
        found["unjudged"] = [
            {**_series(series), "quantity": exact(quantity)} for series, quantity in sorted(closed.unjudged.items())
        ]
    return found


def _closed_from_json(document: Json) -> ClosedHour:
    return ClosedHour(
        hour=moment(document["hour"]),
        lines={one["state"]: one["lines"] for one in document["lines"]},
        quarantined=document["quarantined"],
        unjudged=(
            {_series_from(one): exactly(one["quantity"]) for one in document["unjudged"]}
            if "unjudged" in document
            else None
        ),
    )


def _record_to_json(record: Record) -> Json:
    buyer = record.buyer
    return {
        **_series(record.series),
        "id": record.id,
        "customer_aws_account_id": buyer.customer_aws_account_id,
        "license_arn": buyer.license_arn,
        "customer_identifier": buyer.customer_identifier,
        "started_at": instant(buyer.started_at),
        "ended_at": instant(buyer.ended_at) if buyer.ended_at else None,
        "timestamp": instant(record.timestamp),
        "quantity": f"{record.quantity:f}",
        "sources": [{"hour": instant(one.hour), "quantity": exact(one.quantity)} for one in record.sources],
        "allocations": [{"path": one.path, "quantity": f"{one.quantity:f}"} for one in record.allocations],
    }


def _record_from_json(document: Json) -> Record:
    return Record(
        id=document["id"],
        series=_series_from(document),
        buyer=Buyer(
            customer_aws_account_id=document["customer_aws_account_id"],
            license_arn=document["license_arn"],
            customer_identifier=document["customer_identifier"],
            started_at=moment(document["started_at"]),
            ended_at=moment(document["ended_at"]) if document["ended_at"] else None,
        ),
        timestamp=moment(document["timestamp"]),
        quantity=Decimal(document["quantity"]),
        sources=tuple(
            Source(hour=moment(one["hour"]), quantity=exactly(one["quantity"])) for one in document["sources"]
        ),
        allocations=tuple(
            Allocation(path=one["path"], quantity=Decimal(one["quantity"])) for one in document["allocations"]
        ),
    )
