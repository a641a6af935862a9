"""A product that could bill wrongly is refused when it is made."""

from __future__ import annotations

import dataclasses

import pytest

from marketplace_constructs.domain.errors import MarketplaceConstructsError
from marketplace_constructs.domain.product import (
    NATIVE_DIMENSION,
    UNITS,
    AgreementKind,
    Category,
    Dimension,
    DimensionType,
    Metering,
    PricingModel,
    Product,
)

CALLS = Dimension.requests("calls")
SEATS = Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED)


def codes(**changes: object) -> tuple[str, ...]:
    """The codes with which a legacy, native product is refused once changed."""
    good = {field.name: getattr(Product.legacy("abc123"), field.name) for field in dataclasses.fields(Product)}
    with pytest.raises(MarketplaceConstructsError) as refusal:
        Product(**{**good, **changes})  # type: ignore[arg-type]
    return refusal.value.codes


def test_a_legacy_product_needs_nothing_but_its_code() -> None:
    product = Product.legacy("abc123")
    assert (product.is_legacy, product.is_native) == (True, True)
    assert [dimension.key for dimension in product.dimensions] == [NATIVE_DIMENSION]


def test_a_concurrent_product_is_metered_by_the_pipeline() -> None:
    product = Product.concurrent("abc123", dimensions=[CALLS])
    assert (product.is_legacy, product.is_native) == (False, False)


@pytest.mark.parametrize("code", ["", "two words", "x" * 256, "${Token[TOKEN.1]}", None, 7])
def test_fails_when_the_product_code_is_none(code: object) -> None:
    assert codes(product_code=code) == ("MP-PRODUCT-01",)


@pytest.mark.parametrize("key", ["", "a b", "x" * 101])
def test_fails_when_a_dimension_key_is_none(key: str) -> None:
    dimensions = (Dimension.requests(key),)
    assert codes(metering=Metering.PIPELINE, dimensions=dimensions) == ("MP-PRODUCT-02",)


def test_fails_when_category_unit_or_type_are_unknown() -> None:
    wrong = Dimension(key="a", category="Calls", unit="x", type="Free")  # type: ignore[arg-type]
    assert codes(metering=Metering.PIPELINE, dimensions=(wrong,)) == ("MP-PRODUCT-03", "MP-PRODUCT-05")


@pytest.mark.parametrize("category", list(Category))
def test_a_unit_fits_its_category_only(category: Category) -> None:
    for unit in UNITS[category]:
        assert not list(Dimension(key="a", category=category, unit=unit).problems())
    assert [p.code for p in Dimension(key="a", category=category, unit="parsec").problems()] == ["MP-PRODUCT-04"]


@pytest.mark.parametrize("member", ["agreement_kind", "pricing_model", "metering"])
def test_fails_when_a_word_is_not_awss(member: str) -> None:
    assert codes(**{member: "whatever"}) == ("MP-PRODUCT-06",)


def test_fails_without_dimensions() -> None:
    with pytest.raises(MarketplaceConstructsError) as refusal:
        Product.concurrent("abc123", dimensions=[])
    assert refusal.value.codes == ("MP-PRODUCT-07",)


def test_fails_when_a_dimension_stands_twice() -> None:
    with pytest.raises(MarketplaceConstructsError) as refusal:
        Product.concurrent("abc123", dimensions=[CALLS, CALLS])
    assert refusal.value.codes == ("MP-PRODUCT-08",)


@pytest.mark.parametrize(
    ("pricing_model", "dimensions", "code"),
    [
        (PricingModel.CONTRACT, [CALLS, SEATS], "MP-PRODUCT-09"),
        (PricingModel.CONTRACT_WITH_CONSUMPTION, [CALLS], "MP-PRODUCT-10"),
        (PricingModel.SUBSCRIPTION, [CALLS, SEATS], "MP-PRODUCT-11"),
        (PricingModel.FREE, [CALLS, SEATS], "MP-PRODUCT-11"),
    ],
)
def test_fails_when_dimensions_contradict_the_pricing_model(
    pricing_model: PricingModel, dimensions: list[Dimension], code: str
) -> None:
    with pytest.raises(MarketplaceConstructsError) as refusal:
        Product.concurrent("abc123", pricing_model=pricing_model, dimensions=dimensions)
    assert refusal.value.codes == (code,)


def test_fails_when_native_metering_meets_concurrent_agreements() -> None:
    assert codes(agreement_kind=AgreementKind.CONCURRENT) == ("MP-PRODUCT-12",)


def test_native_metering_of_concurrent_agreements_can_be_confirmed() -> None:
    product = dataclasses.replace(
        Product.legacy("abc123"), native_concurrent_confirmed=True, agreement_kind=AgreementKind.CONCURRENT
    )
    assert product.is_native


def test_fails_when_native_metering_breaks_rule_1_the_pricing_model() -> None:
    assert codes(pricing_model=PricingModel.FREE) == ("MP-PRODUCT-13",)
    assert "MP-PRODUCT-13" in codes(pricing_model=PricingModel.CONTRACT, dimensions=(SEATS,))


def test_fails_when_native_metering_breaks_rule_2_the_dimension() -> None:
    assert "MP-PRODUCT-14" in codes(dimensions=(CALLS,))
    wrong = Dimension(key=NATIVE_DIMENSION, category=Category.UNITS)
    assert codes(dimensions=(wrong,)) == ("MP-PRODUCT-14",)


def test_fails_when_native_metering_breaks_rule_3_included_units() -> None:
    included = Dimension(key=NATIVE_DIMENSION, category=Category.REQUESTS, type=DimensionType.ENTITLED)
    assert codes(pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION, dimensions=(included,)) == ("MP-PRODUCT-15",)


def test_fails_when_native_metering_breaks_rule_4_another_usage_dimension() -> None:
    assert codes(dimensions=(Dimension.requests(NATIVE_DIMENSION), CALLS)) == ("MP-PRODUCT-16",)


def test_a_native_contract_may_hold_other_rights() -> None:
    Product.legacy(
        "abc123",
        pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
        dimensions=[Dimension.requests(NATIVE_DIMENSION), SEATS],
    )


def test_all_problems_are_reported_together_and_name_what_was_got() -> None:
    with pytest.raises(MarketplaceConstructsError) as refusal:
        Product.legacy("a b", dimensions=[CALLS, CALLS])
    assert refusal.value.codes == ("MP-PRODUCT-01", "MP-PRODUCT-08", "MP-PRODUCT-14", "MP-PRODUCT-16")
    assert "got 'a b'" in str(refusal.value)
