"""How this library says that something is wrong: a stable code, what was got, what is expected, the next step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        code: Stable and public, such as ``MP-PLAN-03``.
        what: Lower case, without full stop: what went wrong, what was got, what is expected, what to do.
    """

    code: str
    what: str

    def __str__(self) -> str:
        return f"{self.code}: {self.what}"


class MarketplaceConstructsError(Exception):
    """One or more problems, reported together.

    The codes stand in the text, because an exception that crosses jsii keeps nothing but its text.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    @property
    def codes(self) -> tuple[str, ...]:
        """The code of each problem, in the order in which they were found."""
        return tuple(problem.code for problem in self.problems)


def refuse(problems: Iterable[Problem | None]) -> None:
    """Raise all the problems that there are, together; do nothing where there are none.

    Raises:
        MarketplaceConstructsError: At least one problem is not None.
    """
    found = [problem for problem in problems if problem is not None]
    if found:
        raise MarketplaceConstructsError(*found)
