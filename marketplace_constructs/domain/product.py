"""The product: what the Marketplace listing says, as far as this library must know it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from marketplace_constructs.domain.errors import Problem, refuse


class AgreementKind(StrEnum):
    """How AWS identifies a buyer's agreement, and how it tells of changes.

    Source: AWS Marketplace API reference, BatchMeterUsage: every product created since 2026-06-01 uses
    Concurrent Agreements (read 2026-11-21).
    """

    LEGACY = "Legacy"
    """``CustomerIdentifier`` and ``ProductCode``; SNS topics."""
    CONCURRENT = "Concurrent"
    """``CustomerAWSAccountId`` and ``LicenseArn``; EventBridge events."""


class PricingModel(StrEnum):
    """Source: AWS Marketplace seller guide, SaaS pricing models (read 2026-11-21)."""

    SUBSCRIPTION = "Subscription"
    CONTRACT = "Contract"
    CONTRACT_WITH_CONSUMPTION = "ContractWithConsumption"
    FREE = "Free"

    @property
    def has_contract(self) -> bool:
        """Whether a buyer's access hangs on entitlements (GetEntitlements)."""
        return self in {PricingModel.CONTRACT, PricingModel.CONTRACT_WITH_CONSUMPTION}

    @property
    def has_usage(self) -> bool:
        """Whether usage records are billed (BatchMeterUsage)."""
        return self is not PricingModel.CONTRACT


class Metering(StrEnum):
    """Who reports usage to Marketplace. Never both for one product: AWS bills both."""

    NATIVE = "Native"
    """API Gateway itself, through the product code on the usage plan."""
    PIPELINE = "Pipeline"
    """This library's meter, from the access log."""


class DimensionType(StrEnum):
    """What a dimension is to AWS Marketplace Catalog."""

    METERED = "Metered"
    EXTERNALLY_METERED = "ExternallyMetered"
    ENTITLED = "Entitled"


class Category(StrEnum):
    """Source: AWS Marketplace seller guide, SaaS pricing models: the seven categories (read 2026-11-21)."""

    BANDWIDTH = "Bandwidth"
    DATA = "Data"
    HOSTS = "Hosts"
    REQUESTS = "Requests"
    TIERS = "Tiers"
    USERS = "Users"
    UNITS = "Units"


UNITS: Final[Mapping[Category, tuple[str, ...]]] = MappingProxyType(
    {
        Category.BANDWIDTH: ("Gbps", "Mbps"),
        Category.DATA: ("GB", "MB", "TB"),
        Category.HOSTS: ("Hosts", "HostHrs"),
        Category.REQUESTS: ("Requests",),
        Category.TIERS: ("Units", "TierHrs"),
        Category.USERS: ("Users", "UserHrs"),
        Category.UNITS: ("Units", "UnitHrs", "TaskHrs"),
    }
)
"""The units that fit each category; the first is the usual one.

Source: AWS Marketplace seller guide, SaaS pricing models, for Bandwidth and Data; the other units are those that
public Catalog API change sets use, which AWS does not list [UNCONF]."""

NATIVE_DIMENSION: Final = "apigateway"
"""The one dimension to which API Gateway itself reports.

Source: API Gateway developer guide, Sell API Gateway APIs through AWS Marketplace (read 2026-11-21)."""

_PRODUCT_CODE: Final = re.compile(r"[-a-zA-Z0-9/=:_.@]{1,255}")
_DIMENSION_KEY: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One priced unit of the listing.

    Args:
        key: The API name, 1..100 characters of ``A-Za-z0-9_.-``; it is permanent once published.
        category: One of AWS's seven.
        unit: A unit of that category; left out, the category's usual one.
        type: ``ExternallyMetered`` is billed by usage records, ``Entitled`` is bought in a contract.
    """

    key: str
    category: Category
    unit: str = ""
    type: DimensionType = DimensionType.EXTERNALLY_METERED

    def __post_init__(self) -> None:
        if not self.unit and isinstance(self.category, Category):
            object.__setattr__(self, "unit", UNITS[self.category][0])

    @classmethod
    def requests(cls, key: str) -> Dimension:
        """A dimension that is billed per call."""
        return cls(key=key, category=Category.REQUESTS)

    @property
    def is_usage(self) -> bool:
        """Whether usage records bill it."""
        return self.type is not DimensionType.ENTITLED

    def problems(self) -> Iterator[Problem]:
        """What is wrong with this dimension by itself."""
        if not isinstance(self.key, str) or not _DIMENSION_KEY.fullmatch(self.key):
            yield Problem(
                "MP-PRODUCT-02",
                f"dimension key, got {self.key!r}; expected 1 to 100 of the characters A-Z a-z 0-9 _ . -; "
                "use the API name that stands in the listing",
            )
        if not isinstance(self.category, Category):
            yield Problem(
                "MP-PRODUCT-03",
                f"category of dimension {self.key!r}, got {self.category!r}; expected one of "
                f"{', '.join(Category)}; use Category.<NAME>",
            )
        elif self.unit not in UNITS[self.category]:
            yield Problem(
                "MP-PRODUCT-04",
                f"unit of dimension {self.key!r}, got {self.unit!r}; expected one of "
                f"{', '.join(UNITS[self.category])} for {self.category}; use the listing's unit",
            )
        if not isinstance(self.type, DimensionType):
            yield Problem(
                "MP-PRODUCT-05",
                f"type of dimension {self.key!r}, got {self.type!r}; expected one of "
                f"{', '.join(DimensionType)}; use DimensionType.<NAME>",
            )


@dataclass(frozen=True, kw_only=True)
class ProductTerms:
    """How a product is sold: what decides about agreements and access, at synthesis as at run time.

    Args:
        product_code: The listing's product code (not the product id ``prod-…``), 1..255 characters.
        agreement_kind: Legacy, or concurrent for every product created since 2026-06-01.
        pricing_model: As published; AWS never lets it change after the first (limited) publication.
        metering: Who reports usage.
        metering_region: Region of the metering API calls. AWS de-duplicates per Region, so one product keeps
            one Region for life.
    """

    product_code: str
    agreement_kind: AgreementKind
    pricing_model: PricingModel
    metering: Metering
    metering_region: str = "us-east-1"

    @property
    def is_native(self) -> bool:
        """Whether API Gateway itself reports the usage."""
        return self.metering is Metering.NATIVE

    @property
    def is_legacy(self) -> bool:
        """Whether agreements are known by customer identifier."""
        return self.agreement_kind is AgreementKind.LEGACY


@dataclass(frozen=True, kw_only=True)
class Product(ProductTerms):
    """A SaaS product of AWS Marketplace, as its listing defines it.

    Nothing here has a silent default that could bill wrongly: the kind of agreement and the meter are always
    said, either here or by the name of the factory.

    Args:
        dimensions: At least one, with distinct keys.
        native_concurrent_confirmed: Set only once AWS has confirmed to you that API Gateway's own metering bills
            licence-based agreements. Nothing AWS has published says so [UNCONF].

    Raises:
        MarketplaceConstructsError: MP-PRODUCT-01 to MP-PRODUCT-16, all that apply together.
    """

    dimensions: tuple[Dimension, ...]
    native_concurrent_confirmed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", tuple(self.dimensions))
        refuse(self._problems())

    @classmethod
    def legacy(
        cls,
        product_code: str,
        *,
        pricing_model: PricingModel = PricingModel.SUBSCRIPTION,
        metering: Metering = Metering.NATIVE,
        dimensions: Sequence[Dimension] = (),
        metering_region: str = "us-east-1",
    ) -> Product:
        """A product from before 2026-06-01 that was not moved to Concurrent Agreements.

        Args:
            product_code: The listing's product code.
            pricing_model: As published.
            metering: Native lets API Gateway report every call by itself.
            dimensions: Left out, the one usage dimension that native metering can have, ``apigateway``.
            metering_region: Region of the metering API calls.
        """
        return cls(
            product_code=product_code,
            agreement_kind=AgreementKind.LEGACY,
            pricing_model=pricing_model,
            metering=metering,
            dimensions=tuple(dimensions) or (Dimension.requests(NATIVE_DIMENSION),),
            metering_region=metering_region,
        )

    @classmethod
    def concurrent(
        cls,
        product_code: str,
        *,
        dimensions: Sequence[Dimension],
        pricing_model: PricingModel = PricingModel.SUBSCRIPTION,
        metering_region: str = "us-east-1",
    ) -> Product:
        """A product with Concurrent Agreements: every one created since 2026-06-01.

        Its usage is metered by this library, since nothing AWS has published says that API Gateway's own
        metering can bill a licence.

        Args:
            product_code: The listing's product code.
            dimensions: The listing's dimensions; ``[Dimension.requests("calls")]`` where it has one, per call.
            pricing_model: As published.
            metering_region: Region of the metering API calls.
        """
        return cls(
            product_code=product_code,
            agreement_kind=AgreementKind.CONCURRENT,
            pricing_model=pricing_model,
            metering=Metering.PIPELINE,
            dimensions=tuple(dimensions),
            metering_region=metering_region,
        )

    def _problems(self) -> Iterator[Problem]:
        if not isinstance(self.product_code, str) or not _PRODUCT_CODE.fullmatch(self.product_code):
            yield Problem(
                "MP-PRODUCT-01",
                f"product code, got {self.product_code!r}; expected 1 to 255 of the characters "
                "A-Z a-z 0-9 - / = : _ . @, known at synthesis; copy it from the listing's page in the "
                "AWS Marketplace Management Portal",
            )
        for name, value, kind in (
            ("agreement_kind", self.agreement_kind, AgreementKind),
            ("pricing_model", self.pricing_model, PricingModel),
            ("metering", self.metering, Metering),
        ):
            if not isinstance(value, kind):
                yield Problem(
                    "MP-PRODUCT-06",
                    f"{name}, got {value!r}; expected one of {', '.join(kind)}; use {kind.__name__}.<NAME>",
                )
                return
        if not self.dimensions:
            yield Problem(
                "MP-PRODUCT-07",
                "dimensions, got none; expected at least one; name the listing's dimensions, for one that is "
                'billed per call [Dimension.requests("calls")]',
            )
        for dimension in self.dimensions:
            yield from dimension.problems()
        keys = [dimension.key for dimension in self.dimensions]
        for key in sorted({key for key in keys if keys.count(key) > 1}):
            yield Problem(
                "MP-PRODUCT-08",
                f"dimension {key!r}, got it twice; expected distinct keys; remove one of them",
            )
        yield from self._pricing_problems()
        if self.is_native:
            yield from self._native_problems()

    def _pricing_problems(self) -> Iterator[Problem]:
        entitled = [d.key for d in self.dimensions if not d.is_usage]
        usage = [d.key for d in self.dimensions if d.is_usage]
        if self.pricing_model is PricingModel.CONTRACT and usage:
            yield Problem(
                "MP-PRODUCT-09",
                f"pricing model Contract, got usage dimensions {', '.join(usage)}; expected only entitled ones; "
                "use PricingModel.CONTRACT_WITH_CONSUMPTION or DimensionType.ENTITLED",
            )
        if self.pricing_model.has_contract and self.dimensions and not entitled:
            yield Problem(
                "MP-PRODUCT-10",
                f"pricing model {self.pricing_model}, got no entitled dimension; expected at least one; "
                "add the contract's dimension with DimensionType.ENTITLED",
            )
        if not self.pricing_model.has_contract and entitled:
            yield Problem(
                "MP-PRODUCT-11",
                f"pricing model {self.pricing_model}, got entitled dimensions {', '.join(entitled)}; "
                "expected usage dimensions only; use a pricing model with a contract or remove them",
            )

    def _native_problems(self) -> Iterator[Problem]:
        """The first four of the eight rules that make API Gateway's own metering work."""
        if not self.is_legacy and not self.native_concurrent_confirmed:
            yield Problem(
                "MP-PRODUCT-12",
                "native metering of a product with Concurrent Agreements, got agreement kind Concurrent; "
                "expected Legacy, because nothing that AWS has published says that API Gateway can bill a "
                "licence; use Metering.PIPELINE, or native_concurrent_confirmed=True once AWS has confirmed it",
            )
        if not self.pricing_model.has_usage or self.pricing_model is PricingModel.FREE:
            yield Problem(
                "MP-PRODUCT-13",
                f"native metering (rule 1, pricing model), got {self.pricing_model}; expected Subscription or "
                "ContractWithConsumption; change the metering, since a published pricing model cannot change",
            )
        native = [d for d in self.dimensions if d.key == NATIVE_DIMENSION]
        if not native or native[0].category is not Category.REQUESTS:
            got = ", ".join(f"{d.key} ({d.category})" for d in self.dimensions) or "none"
            yield Problem(
                "MP-PRODUCT-14",
                f"native metering (rule 2, the dimension {NATIVE_DIMENSION}), got {got}; expected a dimension "
                f"{NATIVE_DIMENSION} of the category Requests; add it to the listing",
            )
        elif not native[0].is_usage:
            yield Problem(
                "MP-PRODUCT-15",
                f"native metering (rule 3, no included units), got {NATIVE_DIMENSION} of type Entitled; expected "
                "a usage dimension, because API Gateway reports every call, included or not; make it "
                "ExternallyMetered, or use Metering.PIPELINE",
            )
        others = [d.key for d in self.dimensions if d.is_usage and d.key != NATIVE_DIMENSION]
        if others:
            yield Problem(
                "MP-PRODUCT-16",
                f"native metering (rule 4, nothing else is reported), got usage dimensions {', '.join(others)}; "
                f"expected {NATIVE_DIMENSION} alone; remove them, or use Metering.PIPELINE",
            )
