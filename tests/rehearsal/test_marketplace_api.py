"""The stand-in's APIs as boto3 sees them, over loopback HTTP."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore import exceptions
from botocore.config import Config
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from marketplace_constructs.domain.product import Category, Dimension, DimensionType, PricingModel, Product
from marketplace_constructs.rehearsal.marketplace import (
    Agreement,
    FaultKind,
    Marketplace,
    MarketplaceServer,
    SettableClock,
    Settings,
)
from marketplace_constructs.rehearsal.marketplace.models import service

pytestmark = pytest.mark.enable_socket

START = datetime(2026, 11, 21, 10, 37, 12, tzinfo=UTC)
SELLER = "111122223333"
BOTO: Any = boto3.Session()


class World:
    """A served Marketplace with a legacy product, a contract and clients for it."""

    def __init__(self, server: MarketplaceServer) -> None:
        self.server = server
        self.market = server.marketplace
        self.clock = self.market.clock
        seats = [Dimension(key=key, category=Category.USERS, type=DimensionType.ENTITLED) for key in ("seats", "desks")]
        self.legacy = self.market.add_product(Product.legacy("old123"))
        self.contract = self.market.add_product(
            Product.concurrent(
                "new456",
                pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
                dimensions=[*seats, Dimension.requests("calls")],
            )
        )
        self.buyer = self.market.add_buyer()
        self.old = self.market.subscribe(self.buyer, self.legacy)
        self.new = self.market.subscribe(self.buyer, self.contract, entitlements={"seats": 3, "desks": 2})

    def client(self, name: str, *, account: str = SELLER, region: str = "us-east-1", **config: Any) -> Any:
        settings: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "read_timeout": 5} | config
        return BOTO.client(
            name,
            endpoint_url=self.server.url,
            region_name=region,
            aws_access_key_id=account,
            aws_secret_access_key="secret",
            config=Config(**settings),
        )

    def resolve(self, agreement: Agreement, **who: Any) -> Any:
        token = self.market.registration_form(agreement)["x-amzn-marketplace-token"]
        return self.client("meteringmarketplace", **who).resolve_customer(RegistrationToken=token)

    def meter(self, **config: Any) -> Any:
        record = {
            "Timestamp": START,
            "CustomerAWSAccountId": self.buyer.account_id,
            "LicenseArn": self.new.license_arn,
            "Dimension": "calls",
            "QuantityAsDecimal": "17.42",
        }
        return self.client("meteringmarketplace", **config).batch_meter_usage(UsageRecords=[record])

    def search(self, client: Any | None = None, **filters: str) -> list[str]:
        wanted = {"AgreementType": "PurchaseAgreement", "PartyType": "Proposer"} | filters
        answer = (client or self.client("marketplace-agreement")).search_agreements(
            catalog="AWSMarketplace",
            filters=[{"name": name, "values": [value]} for name, value in wanted.items() if value],
        )
        return [view["agreementId"] for view in answer["agreementViewSummaries"]]


@pytest.fixture
def world() -> Iterator[World]:
    with MarketplaceServer(Marketplace(SettableClock(lambda: START))) as server:
        yield World(server)


def error(raised: pytest.ExceptionInfo[exceptions.ClientError]) -> str:
    code: str = raised.value.response["Error"]["Code"]
    return code


def plain(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "ResponseMetadata"}


class TestResolveCustomer:
    """Source: API reference, ResolveCustomer."""

    def test_a_new_product_has_no_customer_identifier(self, world: World) -> None:
        assert plain(world.resolve(world.new)) == {
            "ProductCode": "new456",
            "CustomerAWSAccountId": "123456789012",
            "LicenseArn": world.new.license_arn,
            "Metadata": {"AgreementId": world.new.id},
        }

    def test_a_legacy_product_has_one(self, world: World) -> None:
        assert world.resolve(world.old)["CustomerIdentifier"] == world.buyer.customer_identifier

    def test_what_is_not_confirmed_can_be_left_out(self, world: World) -> None:
        world.market.settings = Settings(agreement_id_in_resolve_customer=False, license_arn_for_legacy=False)
        assert plain(world.resolve(world.old)).keys() == {
            "ProductCode",
            "CustomerAWSAccountId",
            "CustomerIdentifier",
        }

    def test_a_token_is_good_until_it_expires(self, world: World) -> None:
        token = world.market.registration_form(world.new)["x-amzn-marketplace-token"]
        client = world.client("meteringmarketplace")
        for _ in range(2):
            assert client.resolve_customer(RegistrationToken=token)["ProductCode"] == "new456"
        world.clock.advance(timedelta(hours=4) - timedelta(seconds=1))
        client.resolve_customer(RegistrationToken=token)
        world.clock.advance(timedelta(seconds=1))
        with pytest.raises(client.exceptions.ExpiredTokenException):
            client.resolve_customer(RegistrationToken=token)

    def test_a_token_still_resolves_after_the_agreement_ended(self, world: World) -> None:
        world.market.cancel(world.new)
        assert world.resolve(world.new)["LicenseArn"] == world.new.license_arn

    def test_fails_when_the_token_is_unknown(self, world: World) -> None:
        client = world.client("meteringmarketplace")
        with pytest.raises(client.exceptions.InvalidTokenException):
            client.resolve_customer(RegistrationToken="never given out")

    def test_fails_when_another_account_asks(self, world: World) -> None:
        with pytest.raises(exceptions.ClientError) as raised:
            world.resolve(world.new, account="222233334444")
        assert error(raised) == "AccessDeniedException"

    def test_no_token_stays_in_logs_or_messages(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        # The client logs what it sends by itself; what is asked here is what the stand-in says.
        caplog.set_level(logging.DEBUG)
        token = world.market.registration_form(world.new)["x-amzn-marketplace-token"]
        connection = http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(world.server.url).port)
        headers = {
            "X-Amz-Target": "AWSMPMeteringService.ResolveCustomer",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={SELLER}/20261121/us-east-1/aws-marketplace/x",
        }
        answers = b""
        for body in ({"RegistrationToken": token}, {"RegistrationToken": [token]}, [token]):
            connection.request("POST", "/", json.dumps(body), headers)
            answers += connection.getresponse().read()
        connection.close()
        assert b"new456" in answers
        assert token.encode() not in answers
        assert token not in caplog.text
        assert token not in repr(world.market.calls)
        assert [call.outcome for call in world.market.calls] == ["OK", "ValidationException"]


def test_batch_meter_usage_answers_what_boto3_expects(world: World) -> None:
    answer = world.meter()
    (result,) = answer["Results"]
    assert answer["UnprocessedRecords"] == []
    assert result["Status"] == "Success"
    assert result["UsageRecord"]["Timestamp"] == START
    assert result["UsageRecord"]["QuantityAsDecimal"] == "17.42"
    assert str(world.market.accepted_records[0].quantity) == "17.42"


def test_fails_when_a_request_has_a_megabyte(world: World) -> None:
    allocation = {"Key": "k" * 100, "Value": "v" * 256}
    record = {
        "Timestamp": START,
        "CustomerAWSAccountId": world.buyer.account_id,
        "LicenseArn": world.new.license_arn,
        "Dimension": "calls",
        "Quantity": 1000,
        "UsageAllocations": [
            {"AllocatedUsageQuantity": 1, "Tags": [allocation | {"Key": f"{n:04}" + "k" * 96}]} for n in range(1000)
        ],
    }
    client = world.client("meteringmarketplace")
    assert client.batch_meter_usage(UsageRecords=[record])["Results"][0]["Status"] == "Success"
    with pytest.raises(exceptions.ClientError, match="less than 1 MB"):
        client.batch_meter_usage(UsageRecords=[record] * 3)


class TestGetEntitlements:
    """Source: API reference, GetEntitlements."""

    def get(self, world: World, **request: Any) -> list[tuple[str, Any]]:
        answer = world.client("marketplace-entitlement").get_entitlements(**{"ProductCode": "new456"} | request)
        return [(entitlement["Dimension"], entitlement["Value"]) for entitlement in answer["Entitlements"]]

    def test_what_was_bought_is_listed_with_its_licence_and_end(self, world: World) -> None:
        answer = world.client("marketplace-entitlement").get_entitlements(ProductCode="new456")
        assert answer["Entitlements"][0] == {
            "ProductCode": "new456",
            "Dimension": "seats",
            "CustomerAWSAccountId": "123456789012",
            "Value": {"IntegerValue": 3},
            "LicenseArn": world.new.license_arn,
            "ExpirationDate": world.new.ends_at,
        }

    def test_values_are_united_and_keys_intersected(self, world: World) -> None:
        other = world.market.subscribe(world.market.add_buyer(), world.contract, entitlements={"seats": 9})
        both = [world.buyer.account_id, other.buyer.account_id]
        assert self.get(world, Filter={"CUSTOMER_AWS_ACCOUNT_ID": both, "DIMENSION": ["seats"]}) == [
            ("seats", {"IntegerValue": 3}),
            ("seats", {"IntegerValue": 9}),
        ]
        assert self.get(world, Filter={"LICENSE_ARN": [other.license_arn]}) == [("seats", {"IntegerValue": 9})]
        assert self.get(world, Filter={"CUSTOMER_AWS_ACCOUNT_ID": both[:1], "LICENSE_ARN": [other.license_arn]}) == []

    @pytest.mark.parametrize("empty_first", [False, True])
    def test_pages_lead_on_even_from_an_empty_one(self, world: World, *, empty_first: bool) -> None:
        world.market.settings = Settings(empty_entitlement_page=empty_first)
        paginator = world.client("marketplace-entitlement").get_paginator("get_entitlements")
        pages = [page["Entitlements"] for page in paginator.paginate(ProductCode="new456", MaxResults=1)]
        assert [len(page) for page in pages] == [0, 1, 1] if empty_first else [1, 1]

    def test_values_keep_their_type(self, world: World) -> None:
        world.market.amend(world.new, entitlements={"seats": True, "desks": "gold"})
        assert self.get(world) == [("seats", {"BooleanValue": True}), ("desks", {"StringValue": "gold"})]

    def test_expired_entitlements_are_listed_or_not(self, world: World) -> None:
        world.market.expire(world.new)
        assert len(self.get(world)) == 2
        world.market.settings = Settings(expired_entitlements_listed=False)
        assert self.get(world) == []

    @pytest.mark.parametrize(
        "request_",
        [
            {"ProductCode": "nobody"},
            {"Filter": {"CUSTOMER_IDENTIFIER": ["a"], "CUSTOMER_AWS_ACCOUNT_ID": ["1"]}},
            {"Filter": {"CUSTOMER_IDENTIFIER": ["a"]}},
            {"Filter": {"COLOUR": ["a"]}},
            {"MaxResults": 26},
            {"NextToken": "made-up"},
        ],
    )
    def test_fails_when_a_parameter_is_wrong(self, world: World, request_: dict[str, Any]) -> None:
        with pytest.raises(exceptions.ClientError) as raised:
            self.get(world, **request_)
        assert error(raised) == "InvalidParameterException"

    def test_fails_when_called_outside_us_east_1(self, world: World) -> None:
        with pytest.raises(exceptions.ClientError, match="no endpoint in eu-central-1"):
            world.client("marketplace-entitlement", region="eu-central-1").get_entitlements(ProductCode="new456")


class TestAgreements:
    """Source: API reference of the agreement service."""

    def test_an_agreement_is_described(self, world: World) -> None:
        trial = world.market.subscribe(world.buyer, world.contract, free_trial=timedelta(days=7), auto_renew=True)
        described = world.client("marketplace-agreement").describe_agreement(agreementId=trial.id)
        assert described["status"] == "ACTIVE"
        assert described["acceptor"] == {"accountId": "123456789012"}
        assert described["proposalSummary"]["resources"] == [{"id": world.contract.product_id, "type": "SaaSProduct"}]
        assert described["freeTrialSummary"] == {"trialEndTime": START + timedelta(days=7)}
        assert described["endTimeBehavior"] == {"type": "RENEW"}
        assert described["endTime"] == trial.ends_at

    def test_pay_as_you_go_has_no_end(self, world: World) -> None:
        described = world.client("marketplace-agreement").describe_agreement(agreementId=world.old.id)
        assert not {"endTime", "endTimeBehavior", "freeTrialSummary"} & described.keys()

    def test_fails_when_the_agreement_is_unknown_or_another_sellers(self, world: World) -> None:
        client = world.client("marketplace-agreement")
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.describe_agreement(agreementId="agmt-none")
        stranger = world.client("marketplace-agreement", account="222233334444")
        with pytest.raises(client.exceptions.AccessDeniedException):
            stranger.describe_agreement(agreementId=world.new.id)

    def test_what_a_partner_sold_is_shown_to_its_manufacturer_only_if_set(self, world: World) -> None:
        sold = world.market.subscribe(world.buyer, world.contract, reseller_account="999988887777")
        client = world.client("marketplace-agreement")
        with pytest.raises(client.exceptions.AccessDeniedException):
            client.describe_agreement(agreementId=sold.id)
        world.market.settings = Settings(manufacturer_may_read_partner_agreements=True)
        assert client.describe_agreement(agreementId=sold.id)["proposer"] == {"accountId": "999988887777"}
        assert sold.id not in world.search()

    def test_agreements_are_found_by_filters(self, world: World) -> None:
        renewed = world.market.renew(world.new)
        assert set(world.search()) == {world.old.id, world.new.id, renewed.id}
        assert world.search(Status="RENEWED") == [world.new.id]
        assert world.search(InitialAgreementId=world.new.id, Status="ACTIVE") == [renewed.id]
        assert world.search(ResourceIdentifier=world.legacy.product_id) == [world.old.id]
        assert world.search(AcceptorAccountId="999988887777") == []
        assert world.search(AfterEndTime="2026-12-01T00:00:00Z", Status="ACTIVE") == [renewed.id]
        assert world.search(BeforeEndTime="2026-12-01T00:00:00Z") == []

    def test_a_buyer_finds_what_it_accepted(self, world: World) -> None:
        buyer = world.client("marketplace-agreement", account=world.buyer.account_id)
        assert set(world.search(buyer, PartyType="Acceptor")) == {world.old.id, world.new.id}
        assert world.search(buyer) == []

    def test_found_agreements_are_sorted_and_paged(self, world: World) -> None:
        later = world.market.subscribe(world.buyer, world.contract, term=timedelta(days=900))
        client = world.client("marketplace-agreement")
        filters = [
            {"name": "AgreementType", "values": ["PurchaseAgreement"]},
            {"name": "PartyType", "values": ["Proposer"]},
        ]
        found: list[list[str]] = []
        token: dict[str, str] = {}
        while True:
            page = client.search_agreements(catalog="AWSMarketplace", filters=filters, maxResults=2, **token)
            found.append([view["agreementId"] for view in page["agreementViewSummaries"]])
            if "nextToken" not in page:
                break
            token = {"nextToken": page["nextToken"]}
        assert found == [[world.new.id, later.id], [world.old.id]]

    @pytest.mark.parametrize("filters", [{"AgreementType": ""}, {"PartyType": ""}, {"Colour": "red"}])
    def test_fails_when_a_filter_is_missing_or_unknown(self, world: World, filters: dict[str, str]) -> None:
        with pytest.raises(exceptions.ClientError) as raised:
            world.search(**filters)
        assert error(raised) == "ValidationException"

    def test_the_licence_of_an_agreement_is_provisioned_until_it_ends(self, world: World) -> None:
        client = world.client("marketplace-agreement")
        future = world.market.subscribe(world.buyer, world.contract, starts_in=timedelta(days=1))

        def status(agreement: Agreement) -> str:
            (entitlement,) = client.get_agreement_entitlements(agreementId=agreement.id)["agreementEntitlements"]
            assert entitlement["licenseArn"] == agreement.license_arn
            found: str = entitlement["status"]
            return found

        assert [status(world.new), status(future)] == ["PROVISIONED", "SCHEDULED"]
        world.market.cancel(world.new)
        assert status(world.new) == "DEPROVISIONED"
        world.market.settings = Settings(seller_may_read_agreement_entitlements=False)
        with pytest.raises(client.exceptions.AccessDeniedException):
            status(world.new)

    def test_terms_name_what_each_dimension_costs(self, world: World) -> None:
        terms = world.client("marketplace-agreement").get_agreement_terms(agreementId=world.new.id)["acceptedTerms"]
        usage, upfront = terms[0]["usageBasedPricingTerm"], terms[1]["configurableUpfrontPricingTerm"]
        assert usage["rateCards"] == [{"rateCard": [{"dimensionKey": "calls", "price": "0"}]}]
        assert [rate["dimensionKey"] for rate in upfront["rateCards"][0]["rateCard"]] == ["seats", "desks"]


class TestTrouble:
    """Faults on demand, as a client meets them."""

    def test_throttling_passes_when_the_client_tries_again(self, world: World) -> None:
        world.market.faults.add("BatchMeterUsage", FaultKind.THROTTLING, times=1)
        with pytest.raises(exceptions.ClientError) as raised:
            world.meter()
        assert error(raised) == "ThrottlingException"
        assert world.market.accepted_records == ()
        world.market.faults.add("BatchMeterUsage", "throttling", times=1)
        assert world.meter(retries={"total_max_attempts": 2})["ResponseMetadata"]["RetryAttempts"] == 1

    @pytest.mark.parametrize(
        ("kind", "named", "code", "status"),
        [
            (FaultKind.SERVER_ERROR, None, "InternalServiceErrorException", 500),
            (FaultKind.ERROR, "InvalidTokenException", "InvalidTokenException", 400),
        ],
    )
    def test_errors_have_their_own_code_and_status(
        self, world: World, kind: FaultKind, named: str | None, code: str, status: int
    ) -> None:
        world.market.faults.add("ResolveCustomer", kind, error=named)
        with pytest.raises(exceptions.ClientError) as raised:
            world.resolve(world.new)
        assert error(raised) == code
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
        assert world.resolve(world.new)["ProductCode"] == "new456"

    def test_the_agreement_service_has_status_codes_of_its_own(self, world: World) -> None:
        world.market.faults.add("DescribeAgreement", FaultKind.THROTTLING)
        with pytest.raises(exceptions.ClientError) as raised:
            world.client("marketplace-agreement").describe_agreement(agreementId=world.new.id)
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429

    @pytest.mark.parametrize(("kind", "billed"), [(FaultKind.LOST_CALL, 0), (FaultKind.LOST_REPLY, 1)])
    def test_a_connection_is_cut_before_or_after_the_effect(self, world: World, kind: FaultKind, billed: int) -> None:
        world.market.faults.add("BatchMeterUsage", kind)
        with pytest.raises((ConnectionError, exceptions.HTTPClientError)):
            world.meter()
        assert len(world.market.accepted_records) == billed
        assert world.market.calls[-1].outcome == kind
        assert world.meter()["Results"][0]["Status"] == "Success"
        assert len(world.market.accepted_records) == 1

    def test_a_call_that_is_never_answered_is_given_up_by_the_client(self, world: World) -> None:
        world.market.faults.add("BatchMeterUsage", FaultKind.TIMEOUT, seconds=60)
        began = time.monotonic()
        with pytest.raises(exceptions.HTTPClientError):
            world.meter(read_timeout=0.2)
        world.server.stop()
        assert time.monotonic() - began < 5
        assert world.market.accepted_records == ()

    def test_faults_wait_for_their_own_operation(self, world: World) -> None:
        world.market.faults.add("GetEntitlements", FaultKind.SERVER_ERROR)
        assert world.resolve(world.new)["ProductCode"] == "new456"
        assert [fault.operation for fault in world.market.faults.pending] == ["GetEntitlements"]


class TestLookupEvents:
    """Source: CloudTrail API reference, LookupEvents; AWS Marketplace API reference, logging with CloudTrail."""

    def look_up(self, world: World, **asked: Any) -> list[dict[str, Any]]:
        client = world.client("cloudtrail", **asked.pop("who", {}))
        asked.setdefault("LookupAttributes", [{"AttributeKey": "EventName", "AttributeValue": "BatchMeterUsage"}])
        return list(client.lookup_events(**asked)["Events"])

    def test_shows_a_call_after_a_quarter_of_an_hour(self, world: World) -> None:
        answer = world.meter()
        world.clock.advance(timedelta(minutes=15) - timedelta(seconds=1))
        assert self.look_up(world) == []
        world.clock.advance(timedelta(seconds=1))
        (found,) = self.look_up(world)
        event = json.loads(found["CloudTrailEvent"])
        assert (found["EventName"], found["EventTime"]) == ("BatchMeterUsage", START)
        assert (event["eventSource"], event["eventTime"]) == (found["EventSource"], "2026-11-21T10:37:12Z")
        assert event["userIdentity"]["accessKeyId"] == found["AccessKeyId"] == SELLER
        usage = {
            "customerAWSAccountID": world.buyer.account_id,
            "dimension": "calls",
            "licenseArn": world.new.license_arn,
            "quantityAsDecimal": "17.42",
            "timestamp": "Nov 21, 2026 10:37:12 AM",
        }
        assert event["requestParameters"] == {"usageRecords": [usage]}
        result = {"usageRecord": usage, "status": "Success"}
        assert event["responseElements"] == {
            "results": [{**result, "meteringRecordId": answer["Results"][0]["MeteringRecordId"]}],
            "unprocessedRecords": [],
        }

    def test_shows_what_was_answered_whether_or_not_it_arrived(self, world: World) -> None:
        for kind in (FaultKind.LOST_CALL, FaultKind.LOST_REPLY, FaultKind.THROTTLING):
            world.market.faults.add("BatchMeterUsage", kind)
            with pytest.raises((exceptions.ClientError, exceptions.HTTPClientError)):
                world.meter()
            world.clock.advance(timedelta(minutes=1))
        world.clock.advance(timedelta(minutes=15))
        events = [json.loads(found["CloudTrailEvent"]) for found in self.look_up(world)]
        assert [event.get("errorCode") for event in events] == ["ThrottlingException", None]
        assert [event["responseElements"] is None for event in events] == [True, False]

    def test_shows_an_account_and_region_their_own_within_the_time_that_is_asked_for(self, world: World) -> None:
        world.meter()
        world.clock.advance(timedelta(hours=1))
        inside = {"StartTime": START, "EndTime": START}
        assert len(self.look_up(world, **inside)) == 1
        assert self.look_up(world, StartTime=START + timedelta(seconds=1)) == []
        assert self.look_up(world, who={"region": "us-west-2"}) == []
        assert self.look_up(world, who={"account": "222233334444"}) == []

    def test_is_asked_twice_a_second_at_most(self, world: World) -> None:
        for _ in range(3):
            world.meter()
        world.clock.advance(timedelta(hours=1))
        client = world.client("cloudtrail")
        first = client.lookup_events(MaxResults=2)
        second = client.lookup_events(MaxResults=2, NextToken=first["NextToken"])
        assert (len(first["Events"]), len(second["Events"]), "NextToken" in second) == (2, 1, False)
        with pytest.raises(exceptions.ClientError) as raised:
            client.lookup_events()
        assert error(raised) == "ThrottlingException"

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            ({"StartTime": START, "EndTime": START - timedelta(seconds=1)}, "InvalidTimeRangeException"),
            (
                {"LookupAttributes": [{"AttributeKey": "EventName", "AttributeValue": "x"}] * 2},
                "InvalidLookupAttributesException",
            ),
            ({"NextToken": "none"}, "InvalidNextTokenException"),
        ],
    )
    def test_fails_when_it_is_asked_wrongly(self, world: World, asked: dict[str, Any], code: str) -> None:
        with pytest.raises(exceptions.ClientError) as raised:
            self.look_up(world, **asked)
        assert error(raised) == code


class TestServer:
    """Who is served, and how."""

    def test_an_sdk_finds_it_by_the_environment(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        assert world.server.environment == {
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": world.server.url,
            "AWS_ENDPOINT_URL_MARKETPLACE_ENTITLEMENT_SERVICE": world.server.url,
            "AWS_ENDPOINT_URL_MARKETPLACE_AGREEMENT": world.server.url,
            "AWS_ENDPOINT_URL_CLOUDTRAIL": world.server.url,
        }
        for name, value in world.server.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("meteringmarketplace", "marketplace-entitlement", "marketplace-agreement", "cloudtrail"):
            assert BOTO.client(name, region_name="us-east-1").meta.endpoint_url == world.server.url

    def test_it_listens_on_loopback_only(self, world: World) -> None:
        port = urllib.parse.urlsplit(world.server.url).port
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port or 0), timeout=1):  # noqa: PT011
            pass

    def test_the_other_protocol_of_the_newer_services_is_spoken_too(self, world: World) -> None:
        model = service("marketplace-entitlement").model.operation_model("GetEntitlements")
        serializer = create_serializer("smithy-rpc-v2-cbor")
        parser: Any = create_parser("smithy-rpc-v2-cbor")

        def get(**request: Any) -> Any:
            sent = serializer.serialize_to_request(request, model)
            signed = f"AWS4-HMAC-SHA256 Credential={SELLER}/20261121/us-east-1/aws-marketplace/x"
            connection = http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(world.server.url).port)
            connection.request("POST", sent["url_path"], sent["body"], {**sent["headers"], "Authorization": signed})
            got = connection.getresponse()
            response = {"status_code": got.status, "headers": dict(got.headers), "body": got.read()}
            connection.close()
            return parser.parse(response, model.output_shape)

        answer = get(ProductCode="new456", MaxResults=1)
        assert answer["Entitlements"][0]["Value"] == {"IntegerValue": 3}
        assert answer["Entitlements"][0]["ExpirationDate"] == world.new.ends_at
        assert get(ProductCode="nobody")["Error"]["Code"] == "InvalidParameterException"

    def test_accounts_of_other_access_keys_can_be_told(self) -> None:
        server = MarketplaceServer(Marketplace(SettableClock(lambda: START)), accounts={"AKIAEXAMPLE": "222233334444"})
        with server:
            world = World(server)
            assert world.resolve(world.new, account="ASIAUNKNOWN")["ProductCode"] == "new456"
            with pytest.raises(exceptions.ClientError) as raised:
                world.resolve(world.new, account="AKIAEXAMPLE")
        assert error(raised) == "AccessDeniedException"
        assert [call.account_id for call in server.marketplace.calls] == [SELLER, "222233334444"]

    def test_permissions_can_be_asked_for(self) -> None:
        asked: list[tuple[str, str]] = []

        def authorize(access_key_id: str, action: str) -> bool:
            asked.append((access_key_id, action))
            return action != "aws-marketplace:BatchMeterUsage"

        with MarketplaceServer(Marketplace(SettableClock(lambda: START)), authorize=authorize) as server:
            world = World(server)
            world.resolve(world.new)
            with pytest.raises(exceptions.ClientError) as raised:
                world.meter()
        assert error(raised) == "AccessDeniedException"
        assert asked == [
            (SELLER, "aws-marketplace:ResolveCustomer"),
            (SELLER, "aws-marketplace:BatchMeterUsage"),
        ]

    def test_fails_when_a_request_is_not_signed(self, world: World) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(world.server.url).port)
        connection.request("POST", "/", "{}", {"X-Amz-Target": "AWSMPMeteringService.ResolveCustomer"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["__type"]) == (
            403,
            "MissingAuthenticationTokenException",
        )
        connection.close()

    def test_fails_when_the_operation_is_not_played(self, world: World) -> None:
        with pytest.raises(exceptions.ClientError) as raised:
            world.client("meteringmarketplace").meter_usage(
                ProductCode="old123", Timestamp=START, UsageDimension="apigateway"
            )
        assert error(raised) == "UnknownOperationException"

    def test_time_passes_by_itself_while_it_serves(self) -> None:
        with MarketplaceServer(
            Marketplace(SettableClock(), settings=Settings(final_window=timedelta(seconds=1)))
        ) as server:
            world = World(server)
            world.market.cancel(world.old)
            deadline = time.monotonic() + 10
            while world.market.events.history[-1].name != "unsubscribe-success" and time.monotonic() < deadline:
                time.sleep(0.05)
        assert world.market.events.history[-1].name == "unsubscribe-success"
        assert server.errors == ()

    def test_what_fails_in_the_background_is_kept(self) -> None:
        def publish(_: object) -> None:
            raise OSError("no bus")

        with MarketplaceServer(Marketplace(SettableClock(), publish=publish)) as server:
            market = server.marketplace
            market.events.delay(timedelta(milliseconds=200))
            market.subscribe(market.add_buyer(), market.add_product(Product.legacy("old123")))
            deadline = time.monotonic() + 10
            while not server.errors and time.monotonic() < deadline:
                time.sleep(0.02)
        assert [str(failure) for failure in server.errors] == ["no bus"]


def test_the_call_log_tells_who_asked_for_what(world: World) -> None:
    world.meter()
    call = world.market.calls[-1]
    assert (call.operation, call.account_id, call.region, call.outcome) == (
        "BatchMeterUsage",
        SELLER,
        "us-east-1",
        "OK",
    )
    assert call.request["UsageRecords"][0]["Dimension"] == "calls"  # type: ignore[index]  # as it came
    world.market.settings = replace(world.market.settings, token_life=timedelta(0))
    with pytest.raises(exceptions.ClientError):
        world.resolve(world.new)
    assert (world.market.calls[-1].outcome, world.market.calls[-1].request) == ("ExpiredTokenException", {})
