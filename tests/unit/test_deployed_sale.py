"""What the example's templates alone tell: who may write what, whose code runs, what becomes of failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from protected import Weakness

from marketplace_constructs.bundles import bundle_path

ROOT = Path(__file__).parents[2]
STACKS = ("LegacySale", "ConcurrentSale", "SubscriptionRelay")
OFFLINE = """
import runpy, socket, sys

def no_network(*_):
    raise OSError("this synthesis asked the network for something")

socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = no_network
sys.path.insert(0, ".")
runpy.run_path("app.py", run_name="__main__")
"""
Resources = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example outside us-east-1, with its relay, synthesized without a network."""
    bundle_path("functions")  # a checkout builds it at first use; a wheel carries it
    directory = tmp_path_factory.mktemp("assembly")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CDK_"))},
            "CDK_OUTDIR": str(directory),
            "CDK_DEFAULT_ACCOUNT": "111122223333",
            "CDK_DEFAULT_REGION": "eu-west-1",
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "HTTP_PROXY": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(params=STACKS)
def resources(request: pytest.FixtureRequest, assembly: Path) -> Resources:
    found: Resources = json.loads((assembly / f"{request.param}.template.json").read_text())["Resources"]
    return found


def of_type(resources: Resources, *types: str) -> Resources:
    return {name: found["Properties"] for name, found in resources.items() if found["Type"] in types}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements(resources: Resources) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement of every policy, of roles and of resources, with the logical id of what it stands on."""
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        documents = [properties[key] for key in ("PolicyDocument", "ResourcePolicy", "KeyPolicy") if key in properties]
        documents += [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
        documents += [properties[key] for key in ("AssumeRolePolicyDocument",) if key in properties]
        for document in documents:
            for statement in document["Statement"]:
                yield name, statement


@pytest.mark.protects(Weakness.STRANGERS_WRITE_USAGE)
def test_nobody_outside_the_stack_is_trusted_but_services_of_aws(resources: Resources) -> None:
    trusted = [
        statement["Principal"]
        for _, statement in statements(resources)
        if "Principal" in statement and statement["Effect"] == "Allow"
    ]
    assert all(set(principal) == {"Service"} for principal in trusted)
    callers = {permission["Principal"] for permission in of_type(resources, "AWS::Lambda::Permission").values()}
    assert all(caller.endswith(".amazonaws.com") for caller in callers)


@pytest.mark.protects(Weakness.METER_CHANGES_SUBSCRIBERS)
def test_who_reports_usage_may_change_no_table_and_nobody_may_change_a_fact(resources: Resources) -> None:
    actions: dict[str, set[str]] = {}
    of_facts: set[str] = set()
    for name, statement in statements(resources):
        if "Resource" not in statement or statement["Effect"] != "Allow":
            continue
        actions.setdefault(name, set()).update(listed(statement["Action"]))
        if any("Facts" in json.dumps(resource) for resource in listed(statement["Resource"])):
            of_facts.update(listed(statement["Action"]))
    for allowed in actions.values():
        if "aws-marketplace:BatchMeterUsage" in allowed:
            of_tables = {action for action in allowed if action.startswith("dynamodb:")}
            # API Gateway's own role reads nothing at all; the meter reads facts and plans.
            assert of_tables <= {"dynamodb:Scan"}
            assert of_tables or allowed == {"aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer"}
    # PutItem is put if absent: the code's condition is held by the tests of the port.
    assert of_facts <= {"dynamodb:PutItem", "dynamodb:Query", "dynamodb:Scan", "dynamodb:GetItem"}
    assert not [action for allowed in actions.values() for action in allowed if action.startswith("dynamodb:*")]


@pytest.mark.protects(Weakness.FORGED_NOTIFICATION)
def test_a_queue_admits_nothing_but_what_its_own_rule_or_topic_sends(resources: Resources) -> None:
    owner = "sns:us-east-1:287250355862:aws-mp-"
    for name, statement in statements(
        of := {n: r for n, r in resources.items() if r["Type"] == "AWS::SQS::QueuePolicy"}
    ):
        if statement["Effect"] == "Deny":
            continue
        assert set(listed(statement["Action"])) <= {"sqs:SendMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"}, (
            name
        )
        sources = listed(statement["Condition"]["ArnEquals"]["aws:SourceArn"])
        assert sources
        assert all("*" not in json.dumps(source) for source in sources)
        assert all(owner in source if isinstance(source, str) else set(source) == {"Fn::GetAtt"} for source in sources)
    assert of or "AWS::SQS::Queue" not in {resource["Type"] for resource in resources.values()}


@pytest.mark.protects(Weakness.BUYERS_SHUT_OUT_BY_COUNTRY)
def test_no_buyer_is_shut_out_for_where_they_come_from(resources: Resources) -> None:
    for acl in of_type(resources, "AWS::WAFv2::WebACL").values():
        assert acl["DefaultAction"] == {"Allow": {}}
        text = json.dumps(acl)
        assert not [word for word in ("Geo", "AnonymousIp", "BotControl", "IpReputation") if word in text]
    assert not of_type(resources, "AWS::CloudFront::Distribution")
    assert not [
        statement for _, statement in statements(resources) if "aws:SourceIp" in json.dumps(statement.get("Condition"))
    ]


@pytest.mark.protects(Weakness.CODE_FROM_ELSEWHERE)
def test_all_code_comes_out_of_the_assembly_and_the_bundle_has_every_handler(
    assembly: Path, resources: Resources
) -> None:
    with zipfile.ZipFile(bundle_path("functions")) as bundle:
        carried = set(bundle.namelist())
    staged = {path.name.removeprefix("asset.").partition(".")[0] for path in assembly.glob("asset.*")}
    for function in of_type(resources, "AWS::Lambda::Function").values():
        assert function["Code"]["S3Bucket"].startswith("cdk-")
        assert function["Code"]["S3Key"].partition(".")[0] in staged
        module = function["Handler"].rpartition(".")[0].replace(".", "/")
        if module.startswith("marketplace_constructs/"):
            assert carried & {f"{module}.py", f"{module}.pyc", f"{module}/__init__.py"}
    assert not of_type(resources, "AWS::Lambda::LayerVersion", "AWS::CloudFormation::Stack")


@pytest.mark.protects(Weakness.DEAD_LETTERS_DIE)
def test_dead_letters_are_kept_for_14_days_under_an_alarm_and_every_queue_has_some(resources: Resources) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    targets = {
        json.dumps(found["RedrivePolicy"]["deadLetterTargetArn"])
        for found in queues.values()
        if "RedrivePolicy" in found
    }
    watched = {
        json.dumps(dimension["Value"])
        for alarm in of_type(resources, "AWS::CloudWatch::Alarm").values()
        for dimension in alarm.get("Dimensions", [])
        if dimension["Name"] == "QueueName" and alarm["Threshold"] == 1
    }
    for name, queue in queues.items():
        if "RedrivePolicy" in queue:
            assert queue["MessageRetentionPeriod"] < 14 * 24 * 3600
            continue
        assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
        assert json.dumps({"Fn::GetAtt": [name, "QueueName"]}) in watched
    assert targets <= {json.dumps({"Fn::GetAtt": [name, "Arn"]}) for name in queues}
    for source in of_type(resources, "AWS::Lambda::EventSourceMapping").values():
        assert "RedrivePolicy" in queues[source["EventSourceArn"]["Fn::GetAtt"][0]]
