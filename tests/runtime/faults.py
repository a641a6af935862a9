"""Faults of AWS: a trap in which one call of a run fails, in each way, before or after its effect."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ReadTimeoutError

from marketplace_constructs.runtime.agreements.access import AccessUnsettledError
from marketplace_constructs.runtime.agreements.reconciliation import ReconciliationError
from marketplace_constructs.runtime.agreements.service import TryAgain

if TYPE_CHECKING:
    from onboarding_world import Reply


class Crash(BaseException):
    """The function's process is gone, mid-way."""


def aws_error(code: str, status: int) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Call")  # type: ignore[typeddict-item]


FAULTS: dict[str, Callable[[], BaseException]] = {
    "throttled": lambda: aws_error("TooManyRequestsException", 429),
    "failed": lambda: aws_error("InternalServerError", 500),
    "timed out": lambda: ReadTimeoutError(endpoint_url="https://example.com"),
    "crashed": Crash,
}


@dataclass
class Trap:
    """Counts the calls to the ports, and makes one of them fail."""

    fails_at: int
    fault: Callable[[], BaseException]
    after: bool
    calls: int = 0
    is_armed: bool = False

    @property
    def has_sprung(self) -> bool:
        return self.calls > self.fails_at

    def call(self, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.is_armed:
            return real(*args, **kwargs)
        number, self.calls = self.calls, self.calls + 1
        if number == self.fails_at and not self.after:
            raise self.fault()
        result = real(*args, **kwargs)
        if number == self.fails_at:
            raise self.fault()
        return result


class Trapped:
    """A port whose calls go through a trap."""

    def __init__(self, port: object, trap: Trap) -> None:
        self._port = port
        self._trap = trap

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        return (lambda *args, **kwargs: self._trap.call(real, *args, **kwargs)) if callable(real) else real


def until_done(trap: Trap, step: Callable[[], object]) -> object:
    """Do a step as AWS and buyers do: again after a failure.

    The queue, Lambda, the next hour or the buyer's next click brings it.
    """
    for _ in range(5):
        trap.is_armed = not trap.has_sprung
        try:
            return step()
        except (ClientError, ReadTimeoutError, TryAgain, AccessUnsettledError, ReconciliationError, Crash):
            continue
        finally:
            trap.is_armed = False
    raise AssertionError("a step that failed once never came through")


def until_shown(trap: Trap, step: Callable[[], Reply]) -> Reply:
    """Do a step as a buyer does: again where the page asks for it, or where none came."""
    for _ in range(2):
        trap.is_armed = not trap.has_sprung
        try:
            reply = step()
        except Crash:
            continue
        finally:
            trap.is_armed = False
        if reply.status == 200:
            return reply
        assert (reply.status, reply.title) == (503, "One moment, please")
        assert "Nothing is lost" in reply.body
    raise AssertionError("a step that failed once never came through")


def faults(step: Callable[[Trap], None]) -> Iterator[str]:
    """Run a step with a fault at each of its calls in turn, until none is left to fail."""
    for name, fault in FAULTS.items():
        for after in (False, True):
            for number in itertools.count():
                trap = Trap(fails_at=number, fault=fault, after=after)
                what = f"{name} {'after' if after else 'before'} call {number}"
                try:
                    step(trap)
                except BaseException as error:
                    error.add_note(what)
                    raise
                if not trap.has_sprung:
                    break
                yield what
