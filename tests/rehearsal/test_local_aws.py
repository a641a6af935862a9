"""The local AWS: on loopback only, gone with its owner, and honest about what was not deployed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from marketplace_constructs.rehearsal import deployment
from marketplace_constructs.rehearsal.deployment import LEFT_OUT, SynthesizedStack
from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.stage import Stage

pytestmark = pytest.mark.rehearsal

BUCKET = "cdk-hnb659fds-assets-111122223333-us-east-1"


def stack(**resources: object) -> SynthesizedStack:
    name = f"Stack{uuid.uuid4().hex}"
    return SynthesizedStack(name=name, template={"Resources": resources}, assets={}, bucket=BUCKET)


def answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_listens_on_loopback_and_nowhere_else(stage: Stage) -> None:
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    ours = {f":{port:04X}" for port in (stage.aws.port, stage.gateway.port)}

    hosts = {address[:8] for address in listening if address[8:] in ours}

    assert hosts == {"0100007F"}


def test_is_gone_when_its_owner_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        "import time\n"
        "from marketplace_constructs.rehearsal.emulator import LocalAws\n"
        "with LocalAws() as aws:\n"
        "    print(aws.port, aws.directory, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port, directory = owner.stdout.readline().split()
        assert answers(int(port))
        os.kill(owner.pid, signal.SIGKILL)

    until = time.monotonic() + 10
    while answers(int(port)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not answers(int(port))
    assert not Path(directory).exists()


def test_reads_nothing_of_the_users_own_aws_configuration(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "none-of-that-name")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    client = stage.aws.client("sts", account="444455556666")

    assert client.get_caller_identity()["Account"] == "444455556666"


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_leaves_out_only_what_the_emulator_refuses(stage: Stage, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "LEFT_OUT", {})
    resource_type, _, needed = kind.partition(".")
    metrics = [{"Id": "m", "Expression": "1"}]
    properties = {needed: metrics} if needed else {}

    with pytest.raises(CouldNotRehearse, match=resource_type):
        deployment.deploy(stage.aws, stack(Refused={"Type": resource_type, "Properties": properties}))


def test_says_which_resource_failed_and_why(stage: Stage) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"MessageRetentionPeriod": 1}}

    with pytest.raises(CouldNotRehearse, match=r"MP-REHEARSE-12: deploying Stack\w+, got: Jobs .*Retention"):
        deployment.deploy(stage.aws, stack(Jobs=queue))


def test_fails_when_a_function_has_no_code(stage: Stage) -> None:
    role = {
        "Type": "AWS::IAM::Role",
        "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
    }
    function = {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Code": {"S3Bucket": BUCKET, "S3Key": "missing.zip"},
            "Handler": "index.handler",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Runtime": "python3.13",
        },
    }

    with pytest.raises(CouldNotRehearse, match=r"MP-REHEARSE-1[23]: .*Mocked"):
        deployment.deploy(stage.aws, stack(Role=role, Mocked=function))


def test_deletes_what_it_deployed(stage: Stage) -> None:
    legacy = next(
        found
        for found in deployment.read_assembly(deployment.synthesize(Path(__file__).parents[2]))
        if found.name == "LegacySale"
    )
    with LocalAws() as aws:
        deployed = deployment.deploy(aws, legacy)
        assert aws.client("apigateway").get_usage_plans()["items"][0]["productCode"]

        deployment.delete(aws, deployed)

        assert aws.client("apigateway").get_usage_plans()["items"] == []
        assert aws.client("apigateway").get_rest_apis()["items"] == []
    del stage
