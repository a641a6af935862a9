"""The access log as it is played: rendered from the deployed format, delivered where the deployed stream says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from test_scenarios import function_without_permissions

from marketplace_constructs.domain.plan_versions import hour_of
from marketplace_constructs.queries.access_log import FIELDS, FORMAT
from marketplace_constructs.rehearsal.access_log import rendered, unknown_variables
from marketplace_constructs.rehearsal.deployment import DeployedStack
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.example_calls import ExampleCall, read_calls
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, open_to, register

APP = Path(__file__).parents[2]
CALL = Call(
    at=datetime(2026, 11, 30, 23, 59, 59, 987_000, UTC),
    answered_at=datetime(2026, 12, 1, tzinfo=UTC),
    api_id="abc123",
    stage="prod",
    http_method="POST",
    resource_path="/v1/nouns",
    status=200,
    api_key_id="key1",
    brought_key=True,
    authorizer={"agreement": "agmt-1", "plan": "retail@1"},
    request_id="request-1",
    extended_request_id="extended=",
    response_bytes=17,
    response_ms=31,
    integration_ms=29,
    integration_status=201,
)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """One of its own: these tests move the clock by hours."""
    with Stage(APP) as built:
        yield built


def test_every_variable_of_our_format_has_what_the_call_had() -> None:
    line = json.loads(rendered(FORMAT, CALL))

    assert line == {
        "requestTimeEpoch": "1796083199987",
        "extendedRequestId": "extended=",
        "requestId": "request-1",
        "apiId": "abc123",
        "stage": "prod",
        "httpMethod": "POST",
        "resourcePath": "/v1/nouns",
        "status": "200",
        "errorResponseType": "-",
        "responseLength": "17",
        "responseLatency": "31",
        "integrationLatency": "29",
        "integrationStatus": "201",
        "apiKeyId": "key1",
        "agreement": "agmt-1",
        "plan": "retail@1",
    }
    assert line.keys() == FIELDS.keys()


def test_what_a_refused_call_did_not_have_is_a_dash() -> None:
    refused = replace(
        CALL, status=403, error_type="ACCESS_DENIED", api_key_id=None, authorizer={}, integration_ms=None,
        integration_status=None,
    )  # fmt: skip

    line = json.loads(rendered(FORMAT, refused))

    assert line["errorResponseType"] == "ACCESS_DENIED"
    for member in ("integrationLatency", "integrationStatus", "apiKeyId", "agreement", "plan"):
        assert line[member] == "-"


def test_other_formats_are_rendered_as_well() -> None:
    assert rendered("$context.requestTime $context.integration.latency.", CALL) == "30/Nov/2026:23:59:59 +0000 29."


def test_names_the_variables_that_are_not_played() -> None:
    known = "$context.authorizer.whatever $context.status"

    assert unknown_variables(f"{known} $context.identity.sourceIp $context.wafResponseCode") == [
        "identity.sourceIp",
        "wafResponseCode",
    ]
    assert unknown_variables(FORMAT) == []


@pytest.mark.rehearsal
def test_fails_when_the_deployed_format_has_a_variable_that_is_not_played(stage: Stage) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    (_, settings) = _log_setting(sale)
    other = {**settings, "Format": '{"ip":"$context.identity.sourceIp"}'}

    with pytest.raises(CouldNotRehearse, match=r"MP-REHEARSE-26: .* got the variables identity\.sourceIp; expected"):
        stage.access_logs.add(_with_setting(sale.stack, other), sale.api_id)


@pytest.mark.rehearsal
def test_each_call_has_one_line_under_the_hour_of_its_arrival(stage: Stage) -> None:
    sale, buyer = _buyer(stage)
    begun = len(stage.access_logs.delivered)
    answers = [buyer.make(call, buyer.key) for call in stage.example_calls]
    answers.append(buyer.make(stage.example_calls[0]))
    hour = hour_of(stage.clock.now())

    stage.clock.advance(timedelta(hours=3))

    lines = {line["extendedRequestId"]: line for line in _lines(stage, sale, stage.access_logs.delivered[begun:])}
    for key in stage.access_logs.delivered[begun:]:
        assert key.startswith(f"access-log/{hour:%Y/%m/%d/%H}/amazon-apigateway-")
        assert key.endswith(".gz")
    for answer in answers:
        line = lines[answer.headers["x-amz-apigw-id"]]
        assert line["status"] == str(answer.status)
        assert line["responseLength"] == str(len(answer.body.encode()))
        assert int(line["responseLatency"]) >= int(line["integrationLatency"].replace("-", "0"))
    refused = lines[answers[-1].headers["x-amz-apigw-id"]]
    assert refused["errorResponseType"] == "UNAUTHORIZED"
    assert refused["agreement"] == refused["integrationStatus"] == "-"
    assert len({call.extended_request_id for call in stage.gateway.calls}) == len(stage.gateway.calls)


@pytest.mark.rehearsal
def test_a_file_comes_twice_under_two_names(stage: Stage) -> None:
    sale, buyer = _buyer(stage)
    stage.access_logs.deliver()
    begun = len(stage.access_logs.delivered)
    stage.access_logs.duplicate()
    buyer.make(stage.example_calls[0], buyer.key)

    stage.access_logs.deliver()

    first, second = stage.access_logs.delivered[begun:]
    assert first != second
    assert _lines(stage, sale, [first]) == _lines(stage, sale, [second])


@pytest.mark.rehearsal
def test_a_late_file_lies_under_its_own_hour_and_is_as_new_as_it_is(stage: Stage) -> None:
    sale, buyer = _buyer(stage)
    with stage.access_logs.put_aside() as put:
        answer = buyer.make(stage.example_calls[0], buyer.key)
        hour = hour_of(stage.clock.now())
    begun = len(stage.access_logs.delivered)
    stage.clock.advance(timedelta(hours=2))
    assert stage.access_logs.delivered[begun:] == []

    put()

    (late,) = stage.access_logs.delivered[begun:]
    found = stage.aws.client("s3").head_object(Bucket=_bucket(sale), Key=late)
    assert late.startswith(f"access-log/{hour:%Y/%m/%d/%H}/")
    assert found["LastModified"] > stage.clock.now() - timedelta(minutes=5)
    assert answer.headers["x-amz-apigw-id"] in {line["extendedRequestId"] for line in _lines(stage, sale, [late])}


@pytest.mark.rehearsal
def test_nothing_is_delivered_that_the_streams_role_may_not_put(stage: Stage) -> None:
    sale, buyer = _buyer(stage)
    iam = stage.aws.client("iam")
    (role,) = (n for name, n in sale.stack.of_type("AWS::IAM::Role").items() if "AccessLogStreamRole" in name)
    before = iam.get_role_policy(RoleName=role, PolicyName="Deliver")["PolicyDocument"]
    less = json.loads(json.dumps(before).replace("s3:PutObject", "s3:PutNothing"))
    stage.access_logs.deliver()
    begun = len(stage.access_logs.delivered)
    iam.put_role_policy(RoleName=role, PolicyName="Deliver", PolicyDocument=json.dumps(less))
    try:
        buyer.make(stage.example_calls[0], buyer.key)
        stage.access_logs.deliver()
        assert stage.access_logs.delivered[begun:] == []
    finally:
        iam.put_role_policy(RoleName=role, PolicyName="Deliver", PolicyDocument=json.dumps(before))

    stage.access_logs.deliver()

    assert stage.access_logs.delivered[begun:]


@pytest.mark.rehearsal
def test_what_was_collected_long_enough_is_put_by_itself(stage: Stage) -> None:
    _, buyer = _buyer(stage)
    stage.access_logs.deliver()
    begun = len(stage.access_logs.delivered)
    buyer.make(stage.example_calls[0], buyer.key)
    assert stage.access_logs.delivered[begun:] == []

    stage.clock.advance(timedelta(seconds=61))

    assert len(stage.access_logs.delivered) == begun + 1


@pytest.mark.rehearsal
def test_fails_when_the_local_aws_cannot_run_the_meter(stage: Stage) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    assert sale.pipeline is not None
    with (
        function_without_permissions(stage, sale, "SaleMeterFunctionRole", "dynamodb:Scan"),
        pytest.raises(CouldNotRehearse, match=r"MP-REHEARSE-28: the meter of ConcurrentSale, got"),
    ):
        stage.run_meter(sale)


def test_an_app_may_name_no_calls(tmp_path: Any) -> None:
    assert read_calls(tmp_path) == ()


def test_reads_the_calls_that_an_app_names(tmp_path: Any) -> None:
    calls = [{"method": "GET", "path": "/a?b=c"}, {"method": "POST", "path": "/d", "body": {"e": 1}}]
    (tmp_path / "rehearsal.json").write_text(json.dumps({"schema_version": 1, "calls": calls}))

    assert read_calls(tmp_path) == (
        ExampleCall(method="GET", path="/a?b=c"),
        ExampleCall(method="POST", path="/d", body='{"e": 1}'),
    )


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("{", "text that is no JSON"),
        ("[]", "other members"),
        ('{"schema_version": 2, "calls": []}', "schema_version 2"),
        ('{"schema_version": 1, "calls": [{"method": "get", "path": "/"}]}', "call 1 without one of the methods"),
        ('{"schema_version": 1, "calls": [{"method": "GET", "path": "a"}]}', "call 1 with the path 'a'"),
    ],
)
def test_fails_when_the_calls_are_written_otherwise(tmp_path: Any, text: str, got: str) -> None:
    (tmp_path / "rehearsal.json").write_text(text)

    with pytest.raises(CouldNotRehearse, match=r"MP-REHEARSE-29: the calls in rehearsal\.json, got ") as raised:
        read_calls(tmp_path)

    assert got in str(raised.value)


def _buyer(stage: Stage) -> tuple[Sale, Visitor]:
    sale = stage.sale(SaleKind.PIPELINE)
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buyer.subscribe()
    register(buyer)
    open_to(buyer)
    return sale, buyer


def _bucket(sale: Sale) -> str:
    return sale.stack.outputs["AccessLogBucket"]


def _lines(stage: Stage, sale: Sale, keys: list[str]) -> list[dict[str, str]]:
    bodies = [stage.aws.client("s3").get_object(Bucket=_bucket(sale), Key=key)["Body"].read() for key in keys]
    return [json.loads(line) for body in bodies for line in gzip.decompress(body).splitlines()]


def _log_setting(sale: Sale) -> tuple[str, dict[str, Any]]:
    return next(
        (name, resource["Properties"]["AccessLogSetting"])
        for name, resource in sale.stack.template["Resources"].items()
        if resource["Type"] == "AWS::ApiGateway::Stage"
        and sale.stack.physical_ids[resource["Properties"]["RestApiId"]["Ref"]] == sale.api_id
    )


def _with_setting(stack: DeployedStack, setting: dict[str, Any]) -> DeployedStack:
    resources = {
        name: {**resource, "Properties": {**resource["Properties"], "AccessLogSetting": setting}}
        if resource["Type"] == "AWS::ApiGateway::Stage"
        else resource
        for name, resource in stack.template["Resources"].items()
    }
    return replace(stack, template={**stack.template, "Resources": resources})
