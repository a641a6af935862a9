"""Trouble with an API operation, on demand."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from enum import StrEnum

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem


class FaultKind(StrEnum):
    """What goes wrong with a call."""

    THROTTLING = "throttling"
    """ThrottlingException; nothing happened."""
    SERVER_ERROR = "server-error"
    """The operation's own internal error; nothing happened."""
    ERROR = "error"
    """The error that is named; nothing happened."""
    TIMEOUT = "timeout"
    """No answer for so many seconds, then the connection closes; nothing happened."""
    LOST_CALL = "lost-call"
    """The connection closes without an answer; nothing happened (a crash before the call)."""
    LOST_REPLY = "lost-reply"
    """The connection closes without an answer; what was asked for did happen (a crash after the call)."""
    UNPROCESSED = "unprocessed"
    """BatchMeterUsage leaves the last records to UnprocessedRecords."""
    OMITTED = "omitted"
    """BatchMeterUsage names the last records neither in Results nor in UnprocessedRecords, though it took
    them."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of trouble, for the next calls of one operation.

    Args:
        operation: Such as ``ResolveCustomer``.
        kind: See FaultKind.
        times: How many calls, 1 or more; the client's own retries count.
        error: For ``error``: the exception's name in the service model.
        seconds: For ``timeout``: 0..60.
        records: For ``unprocessed`` and ``omitted``: how many of a batch's last records; None for all.
    """

    operation: str
    kind: FaultKind
    times: int = 1
    error: str | None = None
    seconds: float = 5.0
    records: int | None = None


class Faults:
    """The trouble that waits, first come, first served."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    @property
    def pending(self) -> tuple[Fault, ...]:
        """What still waits, with how often."""
        return tuple(self._pending)

    def add(
        self,
        operation: str,
        kind: FaultKind | str,
        *,
        times: int = 1,
        error: str | None = None,
        seconds: float = 5.0,
        records: int | None = None,
    ) -> Fault:
        """Make the next ``times`` calls of ``operation`` go wrong.

        Raises:
            MarketplaceConstructsError: MP-REHEARSAL-05, a contradiction or a value out of range.
        """
        for what, got, expected, right in (
            ("kind", kind, " or ".join(FaultKind), kind in list(FaultKind)),
            ("times", times, "1 or more", times >= 1),
            ("seconds", seconds, "0 to 60", 0 <= seconds <= 60),  # said in the text
            (
                "error",
                error,
                "a name for kind error, and only there",
                (error is not None) == (kind == FaultKind.ERROR),
            ),
            ("records", records, "0 or more", records is None or records >= 0),
        ):
            if not right:
                raise MarketplaceConstructsError(
                    Problem(
                        "MP-REHEARSAL-05",
                        f"fault of {operation}: {what}, got {got!r}; expected {expected}; correct it",
                    )
                )
        fault = Fault(
            operation=operation,
            kind=FaultKind(kind),
            times=times,
            error=error,
            seconds=seconds,
            records=records,
        )
        with self._lock:
            self._pending.append(fault)
        return fault

    def clear(self) -> None:
        """Forget all that waits."""
        with self._lock:
            self._pending.clear()

    def take(self, operation: str) -> Fault | None:
        """The trouble for this call, which then waits once less; None where all goes well."""
        with self._lock:
            for index, fault in enumerate(self._pending):
                if fault.operation == operation:
                    if fault.times > 1:
                        self._pending[index] = replace(fault, times=fault.times - 1)
                    else:
                        del self._pending[index]
                    return fault
        return None
