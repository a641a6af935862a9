"""The rules of BatchMeterUsage, each once. Source: API reference, BatchMeterUsage (read 2026-11-21)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace_constructs.domain.product import Category, Dimension, DimensionType, PricingModel, Product
from marketplace_constructs.rehearsal.marketplace import (
    Agreement,
    ApiError,
    Caller,
    FaultKind,
    IdenticalResend,
    Marketplace,
    Meter,
    SettableClock,
    Settings,
    ViolationRule,
)

START = datetime(2026, 11, 21, 10, 37, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


class World:
    """Two products, a day old agreements, a clock that stands still."""

    def __init__(self, **settings: Any) -> None:
        self.clock = SettableClock(lambda: START)
        self.market = Marketplace(self.clock, settings=Settings(**settings))
        self.legacy = self.market.add_product(Product.legacy("old123"))
        self.listing = self.market.add_product(
            Product.concurrent(
                "new456",
                pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
                dimensions=[
                    Dimension.requests("calls"),
                    Dimension.requests("words"),
                    Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED),
                ],
            )
        )
        self.other = self.market.add_product(Product.concurrent("new789", dimensions=[Dimension.requests("calls")]))
        self.buyer = self.market.add_buyer()
        self.agreement = self.market.subscribe(self.buyer, self.listing)
        self.old = self.market.subscribe(self.buyer, self.legacy)

    def record(self, agreement: Agreement | None = None, **members: Any) -> dict[str, Any]:
        """A record by licence, stamped with the clock's time."""
        agreement = agreement or self.agreement
        return {
            "Timestamp": self.clock.now(),
            "CustomerAWSAccountId": agreement.buyer.account_id,
            "LicenseArn": agreement.license_arn,
            "Dimension": "calls",
            "Quantity": 5,
        } | members

    def old_record(self, **members: Any) -> dict[str, Any]:
        """A record by product code and customer identifier."""
        return {
            "Timestamp": self.clock.now(),
            "CustomerIdentifier": self.buyer.customer_identifier,
            "Dimension": "apigateway",
            "Quantity": 5,
        } | members

    def meter(self, *records: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        """The results of one call."""
        region = more.pop("region", "us-east-1")
        answer = self.market.call(
            "BatchMeterUsage", {"UsageRecords": list(records), **more}, caller=Caller(region=region)
        )
        results: list[dict[str, Any]] = answer["Results"]
        return results

    def statuses(self, *records: dict[str, Any], **more: Any) -> list[str]:
        return [result["Status"] for result in self.meter(*records, **more)]

    def error(self, *records: dict[str, Any], **more: Any) -> str:
        """The error of one call, which must leave nothing behind."""
        before = self.market.accepted_records
        with pytest.raises(ApiError) as raised:
            self.meter(*records, **more)
        assert self.market.accepted_records == before
        return raised.value.code

    def rules(self) -> list[ViolationRule]:
        return [violation.rule for violation in self.market.violations]


@pytest.fixture
def world() -> World:
    return World()


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


class TestIdentity:
    """Whose usage it is."""

    def test_a_licence_is_metered_with_the_buyers_account(self, world: World) -> None:
        (result,) = world.meter(world.record())
        (accepted,) = world.market.accepted_records
        assert result["Status"] == "Success"
        assert result["MeteringRecordId"] == accepted.metering_record_id
        assert accepted.agreement_id == world.agreement.id
        assert accepted.meter is Meter.LICENSE
        assert accepted.quantity == 5
        assert (accepted.dimension, accepted.hour) == (
            "calls",
            START.replace(minute=0, second=0),
        )
        assert world.rules() == []

    @pytest.mark.parametrize("by", ["CustomerIdentifier", "CustomerAWSAccountId"])
    def test_a_legacy_product_is_metered_with_its_product_code(self, world: World, by: str) -> None:
        ids = {
            "CustomerIdentifier": world.buyer.customer_identifier,
            "CustomerAWSAccountId": world.buyer.account_id,
        }
        record = without(world.old_record(), "CustomerIdentifier") | {by: ids[by]}
        assert world.statuses(record, ProductCode="old123") == ["Success"]
        assert world.market.accepted_records[0].agreement_id == world.old.id
        assert world.rules() == []

    @pytest.mark.parametrize(
        ("change", "more", "error"),
        [
            ({"LicenseArn": "arn:aws:license-manager::1:license:l-0"}, {}, "InvalidLicenseException"),
            ({"CustomerAWSAccountId": "999900001111"}, {}, "InvalidLicenseException"),
            ({"CustomerAWSAccountId": None}, {}, "InvalidCustomerIdentifierException"),
            ({"CustomerIdentifier": "abc"}, {}, "InvalidCustomerIdentifierException"),
            ({}, {"ProductCode": "new789"}, "InvalidProductCodeException"),
            ({"Dimension": "seats"}, {}, "InvalidUsageDimensionException"),
            ({"Dimension": "Calls"}, {}, "InvalidUsageDimensionException"),
        ],
    )
    def test_fails_when_a_licence_record_does_not_fit(
        self, world: World, change: dict[str, Any], more: dict[str, Any], error: str
    ) -> None:
        assert world.error(world.record(), world.record(Dimension="words") | change, **more) == error

    @pytest.mark.parametrize(
        ("change", "product_code", "error"),
        [
            ({}, None, "InvalidProductCodeException"),
            ({}, "none", "InvalidProductCodeException"),
            ({"CustomerIdentifier": None}, "old123", "InvalidCustomerIdentifierException"),
            ({"CustomerIdentifier": "nobody"}, "old123", "InvalidCustomerIdentifierException"),
            ({"CustomerAWSAccountId": "123456789012"}, "old123", "InvalidCustomerIdentifierException"),
            ({"Dimension": "calls"}, "new456", "InvalidCustomerIdentifierException"),
            ({"Dimension": "calls"}, "old123", "InvalidUsageDimensionException"),
        ],
    )
    def test_fails_when_a_product_record_does_not_fit(
        self, world: World, change: dict[str, Any], product_code: str | None, error: str
    ) -> None:
        more = {} if product_code is None else {"ProductCode": product_code}
        assert world.error(world.old_record() | change, **more) == error

    def test_an_unknown_customer_can_be_a_result_of_its_own(self) -> None:
        world = World(unknown_customer_fails_batch=False)
        unknown = world.old_record(CustomerIdentifier="nobody")
        statuses = world.statuses(world.old_record(), unknown, ProductCode="old123")
        assert statuses == ["Success", "CustomerNotSubscribed"]

    def test_fails_when_licences_of_two_products_are_in_one_call(self, world: World) -> None:
        second = world.market.subscribe(world.buyer, world.other)
        assert world.error(world.record(), world.record(second)) == "InvalidLicenseException"

    def test_fails_when_the_product_is_another_sellers(self, world: World) -> None:
        with pytest.raises(ApiError, match="InvalidProductCodeException"):
            world.market.call(
                "BatchMeterUsage",
                {"UsageRecords": [world.record()]},
                caller=Caller(account_id="222233334444"),
            )

    def test_an_event_spelling_of_the_licence_counts_only_if_set(self, world: World) -> None:
        spelt = f"arn:aws:license-manager:us-east-1:111122223333:{world.agreement.license_id}"
        assert world.error(world.record(LicenseArn=spelt)) == "InvalidLicenseException"
        world.market.settings = replace(world.market.settings, exact_license_arn=False)
        assert world.statuses(world.record(LicenseArn=spelt)) == ["Success"]

    def test_two_agreements_of_one_buyer_are_billed_apart(self, world: World) -> None:
        second = world.market.subscribe(world.buyer, world.listing)
        assert world.statuses(world.record(), world.record(second, Quantity=7)) == ["Success", "Success"]
        assert {r.agreement_id: r.quantity for r in world.market.accepted_records} == {
            world.agreement.id: 5,
            second.id: 7,
        }


class TestTime:
    """When usage is accepted."""

    @pytest.mark.parametrize(
        ("age", "accepted"),
        [(timedelta(hours=24) - timedelta(seconds=1), True), (timedelta(hours=24), False)],
    )
    def test_usage_is_accepted_until_it_is_a_day_old(self, world: World, age: timedelta, *, accepted: bool) -> None:
        record = world.record()
        world.clock.advance(age)
        if accepted:
            assert world.statuses(record) == ["Success"]
        else:
            assert world.error(world.record(), record) == "TimestampOutOfBoundsException"

    @pytest.mark.parametrize(
        ("now", "accepted"),
        [
            (datetime(2026, 12, 1, 5, 59, 59, tzinfo=UTC), True),
            (datetime(2026, 12, 1, 6, 0, 0, tzinfo=UTC), False),
        ],
    )
    def test_a_month_closes_at_six_on_the_first(self, world: World, now: datetime, *, accepted: bool) -> None:
        world.clock.set(now)
        record = world.record(Timestamp=datetime(2026, 11, 30, 23, 30, tzinfo=UTC))
        if accepted:
            assert world.statuses(record) == ["Success"]
        else:
            assert world.error(record) == "TimestampOutOfBoundsException"
            assert world.statuses(world.record(Timestamp=datetime(2026, 12, 1, tzinfo=UTC))) == ["Success"]

    def test_fails_when_usage_is_in_the_future(self, world: World) -> None:
        record = world.record(Timestamp=START + timedelta(seconds=1))
        assert world.error(record) == "TimestampOutOfBoundsException"
        world.market.settings = replace(world.market.settings, future_tolerance=MINUTE)
        assert world.statuses(record) == ["Success"]

    def test_fails_when_usage_precedes_the_agreement(self, world: World) -> None:
        hour = START.replace(minute=0, second=0)
        assert world.error(world.record(Timestamp=hour)) == "InvalidLicenseException"
        assert world.error(world.old_record(Timestamp=hour), ProductCode="old123") == "TimestampOutOfBoundsException"

    def test_usage_is_accepted_for_an_hour_after_the_end(self, world: World) -> None:
        world.clock.advance(HOUR)
        in_time, too_late = world.record(), world.record(Dimension="words")
        world.market.cancel(world.agreement)
        world.clock.advance(HOUR - timedelta(seconds=1))
        assert world.statuses(in_time) == ["Success"]
        world.clock.advance(timedelta(seconds=1))
        assert world.statuses(too_late, in_time) == ["CustomerNotSubscribed", "CustomerNotSubscribed"]

    def test_a_renewed_licence_is_closed_while_the_new_one_goes_on(self, world: World) -> None:
        renewed = world.market.renew(world.agreement, same_license=False)
        world.clock.advance(HOUR + MINUTE)
        assert world.statuses(world.record(), world.record(renewed)) == ["CustomerNotSubscribed", "Success"]

    def test_fails_when_usage_lies_between_two_subscriptions(self, world: World) -> None:
        world.market.cancel(world.old)
        world.clock.advance(2 * HOUR)
        between = world.old_record()
        world.clock.advance(HOUR)
        world.market.subscribe(world.buyer, world.legacy)
        assert world.error(between, ProductCode="old123") == "TimestampOutOfBoundsException"
        assert world.statuses(world.old_record(), ProductCode="old123") == ["Success"]

    def test_a_legacy_customer_is_metered_until_the_unsubscription_is_done(self, world: World) -> None:
        world.market.cancel(world.old)
        world.clock.advance(HOUR - MINUTE)
        assert world.statuses(world.old_record(), ProductCode="old123") == ["Success"]
        world.clock.advance(MINUTE)
        late = world.old_record(Timestamp=START)
        assert world.statuses(late, ProductCode="old123") == ["CustomerNotSubscribed"]

    def test_nothing_is_metered_before_activation_or_after_suspension(self, world: World) -> None:
        future = world.market.subscribe(world.buyer, world.listing, starts_in=HOUR)
        assert world.statuses(world.record(future)) == ["CustomerNotSubscribed"]
        world.market.suspend(world.buyer)
        assert world.statuses(world.record()) == ["CustomerNotSubscribed"]

    def test_a_renewal_with_the_same_licence_takes_the_usage_from_its_start_on(self, world: World) -> None:
        before = world.record(Timestamp=START)
        world.clock.advance(2 * HOUR)
        renewed = world.market.renew(world.agreement)
        world.clock.advance(30 * MINUTE)
        assert world.statuses(before, world.record()) == ["Success", "Success"]
        assert [r.agreement_id for r in world.market.accepted_records] == [world.agreement.id, renewed.id]


class TestFirstWriteWins:
    """One record for each identity, dimension and hour."""

    @pytest.mark.parametrize("again", [{"Quantity": 5}, {"QuantityAsDecimal": "5.00"}])
    def test_an_identical_record_is_billed_once(self, world: World, again: dict[str, Any]) -> None:
        (first,) = world.meter(world.record())
        (second,) = world.meter(without(world.record(), "Quantity") | again)
        assert second["Status"] == "Success"
        assert second["MeteringRecordId"] == first["MeteringRecordId"]
        assert len(world.market.accepted_records) == 1
        assert world.rules() == []

    def test_an_identical_record_can_be_called_a_duplicate(self) -> None:
        world = World(identical_resend=IdenticalResend.DUPLICATE_RECORD)
        assert world.statuses(world.record(), world.record()) == ["Success", "DuplicateRecord"]
        assert len(world.market.accepted_records) == 1
        assert world.rules() == []

    def test_another_quantity_is_refused_and_the_first_one_stays(self, world: World) -> None:
        (first, second) = world.meter(world.record(), world.record(Quantity=6))
        assert second == {"UsageRecord": world.record(Quantity=6), "Status": "DuplicateRecord"}
        assert [record.quantity for record in world.market.accepted_records] == [5]
        (violation,) = world.market.violations
        assert violation.rule is ViolationRule.CHANGED_QUANTITY
        assert violation.metering_record_id == first["MeteringRecordId"]

    def test_a_resend_that_is_stamped_anew_is_reported(self, world: World) -> None:
        world.meter(world.record())
        world.clock.advance(MINUTE)
        assert world.statuses(world.record()) == ["Success"]
        assert len(world.market.accepted_records) == 1
        assert world.rules() == [ViolationRule.CHANGED_TIMESTAMP]

    def test_other_hours_and_dimensions_have_places_of_their_own(self, world: World) -> None:
        world.meter(world.record(), world.record(Dimension="words"))
        world.clock.advance(timedelta(minutes=23))
        world.meter(world.record(Quantity=9))
        assert [record.quantity for record in world.market.accepted_records] == [5, 5, 9]

    def test_a_second_region_bills_again_and_is_reported(self, world: World) -> None:
        world.meter(world.record())
        assert world.statuses(world.record(), region="eu-central-1") == ["Success"]
        assert len(world.market.accepted_records) == 2
        assert world.rules() == [ViolationRule.TWO_REGIONS]


class TestBothMeters:
    """AWS accepts both identities, and bills both."""

    def test_product_code_and_licence_in_one_hour_bill_twice(self, world: World) -> None:
        by_license = world.record(world.old, Dimension="apigateway")
        world.clock.advance(MINUTE)
        assert world.statuses(world.old_record(), ProductCode="old123") == ["Success"]
        assert world.statuses(by_license) == ["Success"]
        assert len(world.market.accepted_records) == 2
        assert world.rules() == [ViolationRule.DOUBLE_BILLING]

    def test_they_may_follow_each_other_in_different_hours(self, world: World) -> None:
        world.meter(world.old_record(), ProductCode="old123")
        world.clock.advance(HOUR)
        world.meter(world.record(world.old, Dimension="apigateway"))
        assert world.rules() == []

    def test_both_identities_in_one_request_are_reported(self, world: World) -> None:
        assert world.statuses(world.record(), ProductCode="new456") == ["Success"]
        assert world.rules() == [ViolationRule.PRODUCT_CODE_WITH_LICENSE]

    def test_a_concurrent_product_metered_by_product_code_is_reported(self, world: World) -> None:
        record = without(world.record(), "LicenseArn")
        assert world.statuses(record, ProductCode="new456") == ["Success"]
        assert world.rules() == [ViolationRule.PRODUCT_CODE_ON_CONCURRENT]


class TestQuantities:
    """Whole numbers, decimals and their allocations."""

    def test_no_quantity_is_zero(self, world: World) -> None:
        world.meter(without(world.record(), "Quantity"))
        assert world.market.accepted_records[0].quantity == 0

    def test_fails_when_both_kinds_are_given(self, world: World) -> None:
        assert world.error(world.record(QuantityAsDecimal="5")) == "ValidationException"

    @pytest.mark.parametrize(
        "members",
        [
            {"Quantity": -1},
            {"Quantity": 2**31},
            {"Quantity": True},
            {"QuantityAsDecimal": "01"},
            {"QuantityAsDecimal": "1.1234567"},
            {"QuantityAsDecimal": "-1"},
            {"QuantityAsDecimal": "1e3"},
            {"Dimension": ""},
            {"Timestamp": "now"},
            {"CustomerAWSAccountId": "12x"},
            {"LicenseArn": "aws:license-manager:us-east-1:111122223333:l-0"},
        ],
    )
    def test_fails_when_a_member_breaks_the_service_model(self, world: World, members: dict[str, Any]) -> None:
        base = without(world.record(), "Quantity") if "QuantityAsDecimal" in members else world.record()
        assert world.error(base | members) == "ValidationException"

    def test_fails_when_there_are_more_than_25_records(self, world: World) -> None:
        hours = [START + n * MINUTE for n in range(26)]
        world.clock.advance(HOUR)
        records = [world.record(Timestamp=hour) for hour in hours]
        assert world.error(*records) == "ValidationException"
        assert len(world.meter(*records[:25])) == 25

    @pytest.mark.parametrize(
        ("allocations", "error"),
        [
            ([{"AllocatedUsageQuantity": 4}], "InvalidUsageAllocationsException"),
            ([{"AllocatedUsageQuantityAsDecimal": "5"}], "InvalidUsageAllocationsException"),
            (
                [{"AllocatedUsageQuantity": 5, "AllocatedUsageQuantityAsDecimal": "5"}],
                "InvalidUsageAllocationsException",
            ),
            (
                [{"AllocatedUsageQuantity": 2}, {"AllocatedUsageQuantity": 3}],
                "InvalidUsageAllocationsException",
            ),
            ([{"AllocatedUsageQuantity": 5, "Tags": [{"Key": "a", "Value": "?"}]}], "InvalidTagException"),
            (
                [{"AllocatedUsageQuantity": 5, "Tags": [{"Key": str(n), "Value": "b"} for n in range(6)]}],
                "InvalidTagException",
            ),
            (
                [
                    {
                        "AllocatedUsageQuantity": 5,
                        "Tags": [{"Key": "a", "Value": "b"}, {"Key": "a", "Value": "c"}],
                    }
                ],
                "InvalidTagException",
            ),
        ],
    )
    def test_fails_when_allocations_do_not_fit(
        self, world: World, allocations: list[dict[str, Any]], error: str
    ) -> None:
        assert world.error(world.record(UsageAllocations=allocations)) == error

    def test_allocations_may_leave_one_bucket_without_tags(self, world: World) -> None:
        tagged = {"AllocatedUsageQuantity": 2, "Tags": [{"Key": "team", "Value": "blue"}]}
        assert world.statuses(world.record(UsageAllocations=[tagged, {"AllocatedUsageQuantity": 3}])) == ["Success"]
        allocations = world.market.accepted_records[0].allocations
        assert [(part.quantity, part.tags) for part in allocations] == [
            (Decimal(2), (("team", "blue"),)),
            (Decimal(3), ()),
        ]

    @given(
        parts=st.lists(st.decimals(min_value=0, max_value=3_000_000, places=6), min_size=1, max_size=60),
        off=st.sampled_from([Decimal(0), Decimal("0.000001")]),
    )
    def test_exact_allocations_must_add_up_exactly(self, parts: list[Decimal], off: Decimal) -> None:
        world = World()
        record = without(world.record(), "Quantity") | {
            "QuantityAsDecimal": f"{sum(parts) + off:f}",
            "UsageAllocations": [
                {"AllocatedUsageQuantityAsDecimal": f"{part:f}", "Tags": [{"Key": "part", "Value": str(n)}]}
                for n, part in enumerate(parts)
            ],
        }
        if off:
            assert world.error(record) == "InvalidUsageAllocationsException"
        else:
            assert world.statuses(record) == ["Success"]

    @given(
        quantity=st.integers(min_value=0, max_value=2**31 - 1),
        places=st.integers(min_value=0, max_value=6),
        change=st.integers(min_value=-1, max_value=1),
    )
    def test_quantities_are_compared_by_value(self, quantity: int, places: int, change: int) -> None:
        world = World()
        again = max(0, quantity + change)
        spelt = f"{Decimal(again):.{places}f}"
        world.meter(world.record(Quantity=quantity))
        (status,) = world.statuses(without(world.record(), "Quantity") | {"QuantityAsDecimal": spelt})
        assert status == ("Success" if again == quantity else "DuplicateRecord")


class TestPartialAnswers:
    """What AWS may leave out of an answer."""

    def partial(self, world: World, kind: FaultKind, records: int | None) -> dict[str, Any]:
        hours = [world.record(Dimension=name) for name in ("calls", "words")]
        fault = world.market.faults.add("BatchMeterUsage", kind, records=records)
        return world.market.call("BatchMeterUsage", {"UsageRecords": hours}, fault=fault)

    def test_unprocessed_records_are_not_billed(self, world: World) -> None:
        answer = self.partial(world, FaultKind.UNPROCESSED, 1)
        assert [result["UsageRecord"]["Dimension"] for result in answer["Results"]] == ["calls"]
        assert [record["Dimension"] for record in answer["UnprocessedRecords"]] == ["words"]
        assert [record.dimension for record in world.market.accepted_records] == ["calls"]

    def test_omitted_records_are_billed_and_named_nowhere(self, world: World) -> None:
        answer = self.partial(world, FaultKind.OMITTED, None)
        assert answer == {"Results": [], "UnprocessedRecords": []}
        assert len(world.market.accepted_records) == 2


@pytest.mark.parametrize(("region", "outcome"), [("ca-west-1", "DisabledApiException"), ("eu-central-1", "Success")])
def test_metering_is_disabled_in_some_regions(world: World, region: str, outcome: str) -> None:
    call: Callable[..., Any] = world.error if outcome != "Success" else world.statuses
    assert call(world.record(), region=region) in (outcome, [outcome])
