"""The pool of monetization documents, as a stack is sold by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem, refuse
from marketplace_constructs.domain.finding import Finding, FindingType
from marketplace_constructs.domain.product import Dimension, Product

if TYPE_CHECKING:
    from marketplace_constructs.policy.documents import Plan, ProductDocument
    from marketplace_constructs.policy.pool import Pool

_OF_THE_EXTRA: Final = ("pydantic", "pydantic_core", "yaml")


@dataclass(frozen=True, kw_only=True, eq=False)
class Monetization:
    """What is sold, to whom and for what: a directory of documents that has no errors.

    Its plans, policies and prices are described in docs/monetization-policies.md; ``sellable lint`` says more about
    them than what is refused here. Made by ``from_directory``.

    Args:
        pool: The documents.
        product: What the listing says.
        product_id: The listing's ``prod-…``; None where neither documents nor caller say it.
    """

    pool: Pool
    product: Product
    product_id: str | None = None

    @classmethod
    def from_directory(
        cls, directory: str | Path, *, product_code: str | None = None, product_id: str | None = None
    ) -> Monetization:
        """Read the documents of a directory.

        Args:
            directory: With ``product.yaml``, ``policies/``, ``plans/`` and ``prices/``.
            product_code: The listing's product code, where the product's document leaves it to the stack, as with a
                listing per environment. Where both say it, they must agree.
            product_id: The listing's product id, likewise; neither has to say it.

        Raises:
            MarketplaceConstructsError: MP-MONETIZATION-01 to MP-MONETIZATION-05, MP-MONETIZATION-10, MP-LINT,
                MP-PRODUCT, and the errors that the linter finds without knowing the routes, MON101 to MON140, each
                with document, line and column; all together.
        """
        try:
            from marketplace_constructs.policy.lint import lint, load_pool  # noqa: PLC0415  # needs an extra
        except ModuleNotFoundError as error:
            if error.name not in _OF_THE_EXTRA:
                raise
            raise MarketplaceConstructsError(
                Problem(
                    "MP-MONETIZATION-01",
                    f"monetization documents, got no module {error.name} to read them with; expected it to be "
                    "installed; run: pip install 'marketplace-constructs[policy]'",
                )
            ) from None
        pool = load_pool(Path(directory))
        problems = [
            *error_problems(lint(pool, now=checked_at(pool)).findings),
            *_identity_problems(pool, product_code, product_id),
            *_included_problems(pool),
        ]
        if pool.product is None:
            refuse(problems)
            raise AssertionError("a pool without a product has an error")
        document = pool.product.document
        listing = document.marketplace
        code = product_code or listing.product_code
        try:
            # A product code that nobody gave has been reported.
            product = _product(document, "unknown" if code is None else code)
        except MarketplaceConstructsError as error:
            raise MarketplaceConstructsError(*problems, *error.problems) from None
        refuse(problems)
        return cls(pool=pool, product=product, product_id=product_id or listing.product_id)

    @property
    def plans(self) -> tuple[str, ...]:
        """Each plan as ``id@version``, sorted by id and version."""
        return tuple(plan.reference for plan in self.plan_documents)

    @property
    def plan_documents(self) -> tuple[Plan, ...]:
        """Each plan, sorted by id and version."""
        plans = (entry.document for entry in self.pool.plans.values())
        return tuple(sorted(plans, key=lambda plan: (plan.id, plan.plan_version)))

    @property
    def default_plan(self) -> Plan:
        """What a buyer gets whom no other plan is assigned to: the newest default plan on Marketplace."""
        return _defaults(self.pool)[-1]


def checked_at(pool: Pool) -> datetime:
    """The moment at which a synthesis has documents checked.

    Not after any plan's own date: what could be built before it came can be built again, and a date that is past does
    no harm at deployment.
    """
    dates = (entry.document.effective_from for entry in pool.plans.values())
    return min(filter(None, (datetime.now(UTC), *dates)))


def error_problems(findings: Iterable[Finding]) -> Iterator[Problem]:
    """The findings that refuse documents, as this library says that something is wrong."""
    for finding in findings:
        if finding.finding_type is FindingType.ERROR:
            yield Problem(finding.issue_code, finding_text(finding))


def finding_text(finding: Finding) -> str:
    """A finding in one line: where, which statement, what, and what to do."""
    where = ", ".join(
        f"{finding.document}:{place.line}:{place.column}" if place.line else finding.document
        for place in finding.locations[:1]
    )
    about = f" ({finding.sid})" if finding.sid else ""
    return f"{where}{about}: {finding.finding_details}; {finding.resolution}"


def _defaults(pool: Pool) -> list[Plan]:
    plans = [entry.document for entry in pool.plans.values()]
    found = [plan for plan in plans if plan.channel.value == "Marketplace" and plan.assign_to == "Default"]
    return sorted(found, key=lambda plan: (plan.plan_version, plan.id))


def _identity_problems(pool: Pool, product_code: str | None, product_id: str | None) -> Iterator[Problem]:
    if pool.product is None:
        return
    entry = pool.product
    listing = entry.document.marketplace
    place = entry.source.location(("Marketplace",))
    document = f"{entry.source.document}:{place.line}:{place.column}"
    if product_code is None and listing.product_code is None:
        yield Problem(
            "MP-MONETIZATION-02",
            f"product code of {document}, got none; expected it once; give product_code=, or write ProductCode under "
            "Marketplace",
        )
    if product_code is not None and listing.product_code not in {None, product_code}:
        yield Problem(
            "MP-MONETIZATION-03",
            f"product code, got {product_code!r} here and {listing.product_code!r} in {document}; expected one; remove "
            "one of them",
        )
    if product_id is not None and listing.product_id not in {None, product_id}:
        yield Problem(
            "MP-MONETIZATION-04",
            f"product id, got {product_id!r} here and {listing.product_id!r} in {document}; expected one; remove one "
            "of them",
        )
    if not _defaults(pool):
        yield Problem(
            "MP-MONETIZATION-05",
            f"plans of {entry.document.id}, got none of channel Marketplace with AssignTo Default; expected the plan "
            "that a buyer gets who subscribes; add one",
        )


def _included_problems(pool: Pool) -> Iterator[Problem]:
    """What a plan promises for nothing, which nothing looks at when usage is counted or let in."""
    for entry in pool.plans.values():
        members = entry.document.not_evaluated
        if members:
            place = entry.source.location(members[:1])
            yield Problem(
                "MP-MONETIZATION-10",
                f"plan {entry.document.reference} of {entry.source.document}:{place.line}:{place.column}, got "
                f"{' and '.join(members)}; expected neither, since this version does not evaluate them: included "
                "units would be billed, and nothing would be cut off; sell such a plan when it does, or remove them",
            )


def _product(document: ProductDocument, product_code: str) -> Product:
    listing = document.marketplace
    return Product(
        product_code=product_code,
        agreement_kind=listing.agreements,
        pricing_model=listing.pricing_model,
        metering=listing.metering,
        metering_region=listing.metering_region,
        dimensions=tuple(
            Dimension(key=key, category=dimension.category, unit=dimension.unit, type=dimension.type)
            for key, dimension in listing.dimensions.items()
        ),
    )
