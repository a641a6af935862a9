"""Lint: every rule over a pool, against the routes of the API where they are known.

A clean lint is not permission to sell: what only the live account shows is left to the doctor, and is named as not
checked, like everything that could not be.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.finding import Finding, FindingType
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import PUBLISHED, Pool, content_digest, publication_name
from marketplace_constructs.policy.rules import CATALOGUE, CheckedBy, Context, Found, Rule
from marketplace_constructs.policy.source import Fault, Source
from marketplace_constructs.queries import access_log

MAX_FINDINGS: Final = 200
"""Shown of one rule in one document; what is left out is counted."""


@dataclass(frozen=True, kw_only=True)
class LintReport:
    """What the linter found, and what it could not look at.

    Args:
        findings: By document and place.
        not_checked: Why, by code; a part of the rule or all of it.
        tests_run: How many Tests of policies.
    """

    findings: tuple[Finding, ...]
    not_checked: Mapping[str, str] = field(default_factory=dict)
    tests_run: int = 0

    @property
    def has_errors(self) -> bool:
        """Whether the documents cannot be used."""
        return self.reaches(FindingType.ERROR)

    def reaches(self, finding_type: FindingType) -> bool:
        """Whether anything found weighs as much."""
        return any(finding.finding_type.weight >= finding_type.weight for finding in self.findings)


def lint(
    pool: Pool,
    *,
    now: datetime,
    routes: Iterable[Route] | None = None,
    stage: str = "prod",
    log_fields: Collection[str] = access_log.FIELDS.keys(),
) -> LintReport:
    """Look at a pool with every rule.

    Args:
        pool: The documents.
        now: Aware; what is past is measured by it.
        routes: As the API declares them; left out, the rules that need them are not checked, and are named.
        stage: The stage's name, for ``api:Stage``.
        log_fields: The members of a line of the access log.
    """
    # What the text shows, the model shows once more.
    faults = {(fault.code, fault.document, fault.path): fault for fault in reversed(pool.faults)}
    findings = [
        finding
        for code, rule in CATALOGUE.items()
        for finding in _bounded(rule, pool, (_of_fault(fault) for fault in faults.values() if fault.code == code))
    ]
    not_checked: dict[str, str] = {}
    context = None
    if pool.product is not None:
        context = Context(
            pool=pool,
            product=pool.product.document,
            routes=None if routes is None else tuple(routes),
            stage=stage,
            now=now,
            log_fields=frozenset(log_fields),
        )
    is_whole = not faults and context is not None and len(context.plans) == len(pool.plans)
    for rule in CATALOGUE.values():
        reason = _reason(rule, context, is_whole=is_whole)
        if reason is not None:
            not_checked[rule.code] = reason
        if context is not None and _is_run(rule, context, is_whole=is_whole):
            assert rule.check is not None
            findings += _bounded(rule, pool, rule.check(context))
    unknown = _unknown_keys(context)
    if unknown:
        not_checked["MON123"] = unknown
    return LintReport(
        findings=tuple(sorted(findings, key=_order)),
        not_checked=not_checked,
        tests_run=0 if context is None else sum(len(entry.document.tests) for entry in pool.policies.values()),
    )


def _is_run(rule: Rule, context: Context, *, is_whole: bool) -> bool:
    if rule.check is None or (rule.checked_by is CheckedBy.ROUTES and context.routes is None):
        return False
    # With a document that cannot be read, what seems forgotten may stand in there.
    return is_whole or rule.finding_type is FindingType.ERROR


_LEFT_TO: Final = {
    CheckedBy.DOCTOR: "left to: sellable doctor",
    CheckedBy.DIFF: "left to: sellable diff",
}


def _reason(rule: Rule, context: Context | None, *, is_whole: bool) -> str | None:
    """Why a rule was not looked at, or not with all of it."""
    if rule.check is None:
        return _LEFT_TO.get(rule.checked_by)
    needs_routes = rule.checked_by in {CheckedBy.ROUTES, CheckedBy.BOTH}
    if context is None:
        reason = "the product cannot be read"
    elif needs_routes and context.routes is None:
        reason = "without --routes"
    elif not is_whole and rule.finding_type is not FindingType.ERROR:
        reason = "a document is absent or cannot be read"
    elif needs_routes and not is_whole:
        reason = "in part, since a document is absent or cannot be read"
    else:
        return None
    return reason


def _unknown_keys(context: Context | None) -> str | None:
    if context is None or not context.routes or all(route.requires_key is not None for route in context.routes):
        return None
    return "the routes do not tell who requires a key"


def _bounded(rule: Rule, pool: Pool, found: Iterable[Found]) -> Iterator[Finding]:
    by_document: dict[str, list[Found]] = {}
    for one in found:
        by_document.setdefault(one.document, []).append(one)
    for several in by_document.values():
        for one in several[:MAX_FINDINGS]:
            yield _finding(rule, pool, one)
        if len(several) > MAX_FINDINGS:
            details = f"and {len(several) - MAX_FINDINGS:,} more of this kind"
            yield _finding(rule, pool, replace(several[MAX_FINDINGS], details=details))


def _of_fault(fault: Fault) -> Found:
    return Found(document=fault.document, path=fault.path, details=fault.details, sid=fault.sid)


def _finding(rule: Rule, pool: Pool, found: Found) -> Finding:
    source = pool.sources.get(found.document) or Source(document=found.document)
    return Finding(
        finding_type=rule.finding_type,
        issue_code=rule.code,
        document=found.document,
        sid=found.sid,
        locations=tuple(source.location(place) for place in (found.path, *found.also)),
        finding_details=found.details,
        resolution=rule.resolution,
    )


def _order(finding: Finding) -> tuple[object, ...]:
    first = finding.locations[0]
    return (finding.document, first.line, first.column, finding.issue_code, first.path, finding.finding_details)


def publish(pool: Pool, directory: Path) -> tuple[str, ...]:
    """Record each version of the pool that is not recorded yet: from then on it may not change.

    Args:
        pool: A pool that ``lint`` finds no error in.
        directory: Where it was loaded from; ``published.json`` is written there, whole or not at all.

    Returns:
        What was recorded now, such as ``Policy image-consumption@3``.
    """
    new = {
        name: content_digest(entry.source)
        for entry in pool.entries()
        if (name := publication_name(entry.document)) not in pool.published
    }
    if new:
        # What has left the pool stays recorded: its name may not come back with another content.
        text = json.dumps({"documents": {**pool.published, **new}}, indent=2, sort_keys=True) + "\n"
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=f".{PUBLISHED}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(directory / PUBLISHED)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    return tuple(sorted(new))


def load_pool(directory: Path) -> Pool:
    """The pool of a directory.

    Raises:
        MarketplaceConstructsError: MP-LINT-01 there is no such directory; MP-LINT-02 its record cannot be read.
    """
    try:
        return Pool.load(directory)
    except NotADirectoryError:
        what = f"pool, got {directory}, which is no directory; expected one with product.yaml; name it"
        raise MarketplaceConstructsError(Problem("MP-LINT-01", what)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        what = (
            f"{PUBLISHED}, got what is no record of published versions; expected the members that --publish wrote; "
            "restore it from version control"
        )
        raise MarketplaceConstructsError(Problem("MP-LINT-02", what)) from None
