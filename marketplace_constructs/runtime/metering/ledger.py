"""The ledger: a chain of manifests that nothing overwrites, and what was said to AWS and answered.

One ledger per product and metering Region, all of its objects under one prefix. To put the next manifest if absent is
the only lock: whoever comes second reads what the first one wrote and decides anew. docs/ledger.md has the schema.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.metering import LedgerState, Manifest, Record, Status
from marketplace_constructs.runtime.metering import codec
from marketplace_constructs.runtime.metering.objects import Objects

SNAPSHOT_EVERY: Final = 16
"""Manifests between two snapshots of the state."""
_ANSWER: Final = "-answer.json"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What AWS said of one record.

    Args:
        metering_record_id: AWS's proof of a success.
    """

    status: Status
    metering_record_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A record in one request.

    Args:
        at: When it was about to be sent.
        answer: None where none is known.
    """

    at: datetime
    answer: Answer | None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """From when on a ledger tells of usage.

    Args:
        first_hour: The first hour that is closed.
        billed_from: The first hour that is billed; what the log shows of hours before is lost.
    """

    first_hour: datetime
    billed_from: datetime


def ledger_prefix(product_code: str, region: str) -> str:
    """Where the ledger of a product lies in its bucket."""
    return f"ledger/{quote(product_code, safe='')}/{region}/"


class Ledger:
    """The chain as one process sees it; what it has read once, it does not read again.

    Args:
        objects: Under the ledger's own prefix.
        run: Unlike any other process's name: of letters, digits and hyphens.
    """

    def __init__(self, objects: Objects, *, run: str) -> None:
        self._objects: Final = objects
        self._run: Final = run
        self._state: LedgerState | None = None
        self._digest = ""
        self._calls = 0
        self._attempts: dict[int, tuple[int, dict[str, list[Attempt]]]] = {}
        self._read: dict[tuple[str, bool], dict[str, Attempt]] = {}

    def claim(self, *, stack: str, kind: str, begins: Claim, now: datetime, joins: str = "") -> Claim:
        """Make the ledger this stack's, or join the one that another stack began.

        Args:
            stack: Whose functions these are.
            kind: Of the product's agreements.
            begins: From when on, where the ledger begins now.
            now: For people.
            joins: The stack that began it, where this one is another.

        Returns:
            From when on the ledger goes.

        Raises:
            MarketplaceConstructsError: MP-LEDGER-02: another stack, or another kind of agreements, has it.
        """
        claim = {
            "stack": stack,
            "kind": kind,
            "first_hour": codec.instant(begins.first_hour),
            "billed_from": codec.instant(begins.billed_from),
            "claimed_at": codec.instant(now),
        }
        content = self._objects.get("claim.json")
        if content is None:
            self._objects.put_new("claim.json", codec.to_bytes(claim))
            content = self._objects.get("claim.json")
        held = codec.from_bytes(content or b"{}")
        if held["stack"] not in {stack, joins} or held["kind"] != kind:
            raise MarketplaceConstructsError(
                Problem(
                    "MP-LEDGER-02",
                    f"ledger, got one of the stack {held['stack']!r} for {held['kind']} agreements; expected one of "
                    f"{stack!r} for {kind} agreements; name that stack as the one that this one joins, or meter the "
                    "product from one stack only",
                )
            )
        # Ledgers from before there was a first hour that is billed bill each that they close.
        billed_from: str = held.get("billed_from") or held["first_hour"]
        return Claim(first_hour=codec.moment(held["first_hour"]), billed_from=codec.moment(billed_from))

    @property
    def head(self) -> str:
        """SHA-256 of the last manifest that was read or written; empty before the first."""
        return self._digest

    def load(self) -> LedgerState:
        """The fold of the chain.

        Raises:
            MarketplaceConstructsError: MP-LEDGER-03: the chain is broken.
        """
        if self._state is None:
            self._state, self._digest = self._snapshot()
        for key in self._objects.keys("manifests/", after=_manifest_key(self._state.sequence)):
            self._take(self._objects.get(key) or b"{}")
        return self._state

    def append(self, manifest: Manifest) -> bool:
        """Put the next manifest; False where another process was first: load, and decide anew."""
        content = codec.to_bytes({**codec.manifest_to_json(manifest), "run": self._run})
        if not self._objects.put_new(_manifest_key(manifest.sequence), content):
            return False
        state = self._take(content)
        if state.sequence % SNAPSHOT_EVERY == 0:
            snapshot = codec.state_to_bytes(state, digest=self._digest)
            self._objects.put_new(f"states/{state.sequence:012}.json", snapshot)
        return True

    def put_attempt(self, records: Sequence[Record], at: datetime) -> str:
        """Say that records of one manifest are about to be sent; the attempt's name.

        Raises:
            MarketplaceConstructsError: MP-LEDGER-04: another process has this one's name.
        """
        self._calls += 1
        name = f"{_sequence(records[0].id):012}/{self._run}-{self._calls:06}"
        self._put(f"attempts/{name}.json", {"at": codec.instant(at), "records": [record.id for record in records]})
        return name

    def put_answer(self, name: str, answers: Mapping[str, Answer], *, at: datetime, error: str = "") -> None:
        """Keep what became of an attempt.

        Args:
            name: The attempt's.
            answers: By record.
            at: When it came.
            error: AWS's code, where the whole request failed.
        """
        results = [
            {"record": record, "status": answer.status, "metering_record_id": answer.metering_record_id}
            for record, answer in answers.items()
        ]
        self._put(f"attempts/{name}-answer.json", {"at": codec.instant(at), "error": error, "results": results})

    def attempts_of(self, records: Iterable[Record]) -> dict[str, list[Attempt]]:
        """Every attempt to send each of some records, by any process, the oldest first."""
        wanted = [record.id for record in records]
        sent = {sequence: self._attempts_under(sequence) for sequence in {_sequence(record) for record in wanted}}
        return {record: sent[_sequence(record)].get(record, []) for record in wanted}

    def _attempts_under(self, sequence: int) -> dict[str, list[Attempt]]:
        """Every attempt to send records of one manifest. Names are only ever added; so as many are the same."""
        keys = self._objects.keys(f"attempts/{sequence:012}/")
        count, found = self._attempts.get(sequence, (0, {}))
        if len(keys) > count:
            answers = {key for key in keys if key.endswith(_ANSWER)}
            attempts = [
                self._sent(key, is_answered=f"{key.removesuffix('.json')}{_ANSWER}" in answers)
                for key in keys
                if key not in answers
            ]
            found = {}
            for attempt in attempts:
                for record, one in attempt.items():
                    found.setdefault(record, []).append(one)
            for several in found.values():
                several.sort(key=lambda attempt: attempt.at)
            self._attempts[sequence] = len(keys), found
        return found

    def _sent(self, key: str, *, is_answered: bool) -> dict[str, Attempt]:
        """One attempt to send some records, and what was answered for each; read once."""
        known = self._read.get((key, is_answered))
        if known is None:
            attempt = codec.from_bytes(self._objects.get(key) or b"{}")
            answers: dict[str, Answer] = {}
            if is_answered:
                answered = codec.from_bytes(self._objects.get(f"{key.removesuffix('.json')}{_ANSWER}") or b"{}")
                answers = {
                    one["record"]: Answer(status=Status(one["status"]), metering_record_id=one["metering_record_id"])
                    for one in answered["results"]
                }
            at = codec.moment(attempt["at"])
            known = {record: Attempt(at=at, answer=answers.get(record)) for record in attempt["records"]}
            self._read[key, is_answered] = known
        return known

    def _put(self, key: str, document: Mapping[str, object]) -> None:
        if not self._objects.put_new(key, codec.to_bytes(document)):
            raise MarketplaceConstructsError(
                Problem("MP-LEDGER-04", f"ledger, got {key} twice; expected one process of this name; run again")
            )

    def _snapshot(self) -> tuple[LedgerState, str]:
        """The last state that was put aside and that belongs to this chain; else the empty one."""
        for key in reversed(self._objects.keys("states/")):
            state, digest = codec.state_from_bytes(self._objects.get(key) or b"{}")
            manifest = self._objects.get(_manifest_key(state.sequence))
            if manifest is not None and digest_of(manifest) == digest:
                return state, digest
        return LedgerState(), ""

    def _take(self, content: bytes) -> LedgerState:
        assert self._state is not None, "load comes first"
        self._state.apply(next_link(content, sequence=self._state.sequence, digest=self._digest))
        self._digest = digest_of(content)
        return self._state


def next_link(content: bytes, *, sequence: int, digest: str) -> Manifest:
    """The manifest that follows another one.

    Args:
        content: Its bytes.
        sequence: Of the one before; 0 where there is none.
        digest: SHA-256 of the one before; empty where there is none.

    Raises:
        MarketplaceConstructsError: MP-LEDGER-03: the chain is broken.
    """
    manifest = codec.manifest_from_json(codec.from_bytes(content))
    if manifest.previous != digest or manifest.sequence != sequence + 1:
        raise MarketplaceConstructsError(
            Problem(
                "MP-LEDGER-03",
                f"ledger, got manifest {manifest.sequence} after {sequence}, whose digest is not that "
                "of the one before; expected an unbroken chain; restore the objects' first versions",
            )
        )
    return manifest


def digest_of(content: bytes) -> str:
    """By which the next manifest names this one: SHA-256, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _manifest_key(sequence: int) -> str:
    return f"manifests/{sequence:012}.json"


def _sequence(record: str) -> int:
    return int(record.partition("/")[0])
