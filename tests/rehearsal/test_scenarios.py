"""Every scenario keeps its promises on the example app, and a stack that was broken does not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from marketplace_constructs.rehearsal.access_log import AccessLogs
from marketplace_constructs.rehearsal.errors import BrokenPromise
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.journey import Journey, Promises, Step
from marketplace_constructs.rehearsal.scenarios import SCENARIOS, buy, register, require_not_logged, sold_route
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import CONTACT, Visitor

pytestmark = pytest.mark.rehearsal


def last_step(stage: Stage, name: str) -> Step:
    return SCENARIOS[name].run(stage).steps[-1]


# Thousands of calls take too long here; what API Gateway reports is played by test_metering, on another app.
PLAYED_ELSEWHERE = {"metering-large", "report-only"}


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in PLAYED_ELSEWHERE])
def test_keeps_every_promise(journey: Callable[[str], Journey], name: str) -> None:
    played = journey(name)

    assert played.is_kept, [f"{step.promise}: {step.broken}" for step in played.steps if step.broken]
    assert played.steps


def test_bills_the_calls_of_a_buyer_once_to_the_dimension_of_api_gateway(stage: Stage) -> None:
    before = len(stage.market.accepted_records)

    assert SCENARIOS["native-sale"].run(stage).is_kept

    records = stage.market.accepted_records[before:]
    assert {record.dimension for record in records} == {"apigateway"}
    assert sum(record.quantity for record in records) > 0


def test_fails_when_the_gate_may_not_read_its_table(stage: Stage) -> None:
    with function_without_permissions(stage, stage.sale(SaleKind.PIPELINE), "SaleGateFunctionRole"):
        broken = last_step(stage, "pipeline-sale")

    assert broken.promise == "the curl line on the page works as it is"


def test_fails_when_the_page_may_not_make_keys(stage: Stage) -> None:
    with function_without_permissions(stage, stage.sale(SaleKind.PIPELINE), "SaleOnboardingFunctionRole"):
        broken = last_step(stage, "pipeline-sale")

    assert broken.promise == "the fulfilment URL takes the form, and redirects to a page without the token"


def test_fails_when_the_page_may_not_resolve_customers(stage: Stage) -> None:
    calls = len(stage.market.calls)
    with function_without_permissions(
        stage, stage.sale(SaleKind.PIPELINE), "SaleOnboardingFunctionRole", "aws-marketplace:ResolveCustomer"
    ):
        broken = last_step(stage, "pipeline-sale")

    assert broken.promise == "the fulfilment URL takes the form, and redirects to a page without the token"
    assert not stage.market.calls[calls:]


def again(call: Call) -> Call:
    return replace(call, extended_request_id=f"{call.extended_request_id}-again")


@pytest.mark.parametrize(
    ("write", "billed"),
    [(lambda logs: [logs.see, lambda call: logs.see(again(call))], "8 are billed"), (lambda _: [], "0 are billed")],
    ids=["each-line-twice-as-another", "no-line"],
)
def test_fails_when_another_bill_comes_of_the_log(
    stage: Stage, write: Callable[[AccessLogs], list[Callable[[Call], None]]], billed: str
) -> None:
    listeners = stage.gateway.listeners
    others = [listener for listener in listeners if listener != stage.access_logs.see]
    stage.gateway.listeners = [*others, *write(stage.access_logs)]
    try:
        broken = last_step(stage, "pipeline-sale")
    finally:
        stage.gateway.listeners = listeners

    assert broken.promise == "once the hour is over, the meter bills what the plan says that they count"
    assert f"4 are due and {billed}" in broken.broken


def test_fails_when_nothing_runs_the_meter(stage: Stage) -> None:
    events = stage.aws.client("events")
    rules = [rule["Name"] for rule in events.list_rules()["Rules"] if rule.get("ScheduleExpression")]
    for rule in rules:
        events.disable_rule(Name=rule)
    try:
        broken = last_step(stage, "pipeline-sale")
    finally:
        for rule in rules:
            events.enable_rule(Name=rule)

    assert broken.broken == "it is run at rate(5 minutes), DISABLED"


@pytest.mark.parametrize("secret", ["key", "token", "address"])
def test_fails_when_a_secret_stands_in_a_log(stage: Stage, secret: str) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buyer.subscribe()
    register(buyer)
    require_not_logged(buyer)
    group = next(iter(sale.stack.of_type("AWS::Logs::LogGroup").values()))
    logs = stage.aws.client("logs")
    logs.create_log_stream(logGroupName=group, logStreamName=secret)
    written = {"key": buyer.key, "token": buyer.tokens[0], "address": CONTACT}[secret]
    event = {"timestamp": int(time.time() * 1000), "message": f"got {written}"}
    logs.put_log_events(logGroupName=group, logStreamName=secret, logEvents=[event])
    try:
        with pytest.raises(BrokenPromise, match=f"{secret}.* stands in the log") as raised:
            require_not_logged(buyer)
    finally:
        logs.delete_log_stream(logGroupName=group, logStreamName=secret)
    assert written not in str(raised.value)


def test_fails_when_no_rule_hears_agreement_events(stage: Stage) -> None:
    events = stage.aws.client("events")
    rules = [rule["Name"] for rule in events.list_rules()["Rules"] if rule.get("EventPattern")]
    for rule in rules:
        events.disable_rule(Name=rule)
    try:
        broken = last_step(stage, "pipeline-sale")
    finally:
        for rule in rules:
            events.enable_rule(Name=rule)

    assert "hears Purchase Agreement Created - Proposer, License Updated - Manufacturer" in broken.broken


def test_fails_when_the_queue_does_not_admit_the_topic(stage: Stage) -> None:
    sqs = stage.aws.client("sqs")
    url = stage.sale(SaleKind.NATIVE).stack.outputs["QueueUrl"]
    policy = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy.replace("aws-mp-subscription", "aws-mp-other")})
    try:
        broken = last_step(stage, "native-sale")
    finally:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    assert broken.broken == "nothing was deployed that hears subscribe-success"


def test_names_rule_7_when_the_key_is_moved_to_a_plan_without_the_product(stage: Stage) -> None:
    sale = stage.sale(SaleKind.NATIVE)
    gateway = stage.aws.client("apigateway")
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buy(Promises(), buyer)
    plan_id = sale.settings.usage_plan_id
    stages = gateway.get_usage_plan(usagePlanId=plan_id)["apiStages"]
    key_id = next(key["id"] for key in api_keys(stage) if key.get("customerId") == buyer.buyer.customer_identifier)
    other = gateway.create_usage_plan(name="other", apiStages=stages)["id"]
    gateway.delete_usage_plan_key(usagePlanId=plan_id, keyId=key_id)
    gateway.create_usage_plan_key(usagePlanId=other, keyId=key_id, keyType="API_KEY")
    sale.meter.forget()

    answer = buyer.call(sold_route(stage, sale), buyer.key)
    gateway.delete_usage_plan(usagePlanId=other)

    assert answer.status == 200
    assert sale.meter.report() == 0
    assert [rule.number for rule in sale.meter.broken_rules(buyer.identity)] == [7]


def test_refuses_a_key_that_is_disabled_whatever_the_gate_remembers(stage: Stage) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    gateway = stage.aws.client("apigateway")
    known = {key["id"] for key in api_keys(stage)}
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buy(Promises(), buyer)
    (key_id,) = {key["id"] for key in api_keys(stage)} - known

    gateway.update_api_key(apiKey=key_id, patchOperations=[{"op": "replace", "path": "/enabled", "value": "false"}])

    assert buyer.call(sold_route(stage, sale), buyer.key).status == 403


def test_answers_of_the_gate_are_kept_per_route_and_hold_for_every_path_of_it(stage: Stage) -> None:
    sale = stage.sale(SaleKind.PIPELINE)
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buy(Promises(), buyer)
    route = next(route for route in stage.routes(sale.api_id) if route.path == "/v1/samples/{id}")

    statuses = []
    for sample in ("letter", "none-of-that-name"):
        url = stage.gateway.url(sale.settings.api_url) + route.path.replace("{id}", sample)
        statuses.append(buyer.browser.request("GET", url, {"x-api-key": buyer.key}).status)

    assert not {401, 403} & set(statuses)


def api_keys(stage: Stage) -> list[dict[str, str]]:
    pages = stage.aws.client("apigateway").get_paginator("get_api_keys").paginate()
    return [key for page in pages for key in page["items"]]


@contextmanager
def function_without_permissions(stage: Stage, sale: Sale, role_prefix: str, action: str = "") -> Iterator[None]:
    """The role of a function lacks one action, or all, as if it had been forgotten."""
    iam = stage.aws.client("iam")
    role = next(
        name for logical_id, name in sale.stack.of_type("AWS::IAM::Role").items() if logical_id.startswith(role_prefix)
    )
    (name,) = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policy = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    before = json.dumps(policy)
    less = before.replace(action, "none:None") if action else before.replace('"Allow"', '"Deny"')
    assert less != before
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=less)
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=before)
