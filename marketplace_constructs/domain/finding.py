"""A finding: what a rule says about a document, in the shape that IAM's policy validation made familiar."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingType(StrEnum):
    """How much a finding weighs; the first is the worst."""

    ERROR = "ERROR"
    """The documents cannot be used."""
    SECURITY_WARNING = "SECURITY_WARNING"
    """Somebody could get in who may not, or cause cost."""
    REVENUE_WARNING = "REVENUE_WARNING"
    """Something could be billed wrongly, or not at all."""
    WARNING = "WARNING"
    SUGGESTION = "SUGGESTION"

    @property
    def weight(self) -> int:
        """Larger is worse; security and revenue weigh the same."""
        return {"ERROR": 3, "SECURITY_WARNING": 2, "REVENUE_WARNING": 2, "WARNING": 1, "SUGGESTION": 0}[self.value]


@dataclass(frozen=True, kw_only=True, order=True)
class Location:
    """A place in a document.

    Args:
        path: Members and indices, such as ``Statement[2].Quantity.Unit``; empty for the document itself.
        line: From 1.
        column: From 1.
    """

    path: str
    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule found in one place.

    Args:
        finding_type: How much it weighs.
        issue_code: Stable and public, such as ``MON105``.
        document: The file, relative to the pool's directory, with ``/`` between its parts.
        sid: The statement that it is about; None where it is about none.
        locations: At least one, the first being the one to look at.
        finding_details: What was got and what is expected.
        resolution: The next step.
    """

    finding_type: FindingType
    issue_code: str
    document: str
    sid: str | None
    locations: tuple[Location, ...]
    finding_details: str
    resolution: str

    def to_json(self) -> dict[str, object]:
        """The finding as the command line prints it."""
        return {
            "findingType": self.finding_type.value,
            "issueCode": self.issue_code,
            "document": self.document,
            "sid": self.sid,
            "locations": [{"path": p.path, "line": p.line, "column": p.column} for p in self.locations],
            "findingDetails": self.finding_details,
            "resolution": self.resolution,
        }
