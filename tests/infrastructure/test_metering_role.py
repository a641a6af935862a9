from __future__ import annotations

import aws_cdk as cdk
import pytest
from templates import MakeApp, Template

from marketplace_constructs import MeteringRole


def test_the_role_is_the_one_that_aws_documents(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    MeteringRole(stack, "MeteringRole")
    template = Template(stack)
    role = template.only("AWS::IAM::Role")["Properties"]
    assert role["RoleName"] == "ApiGatewayMarketplaceMeteringRole"
    assert role["AssumeRolePolicyDocument"]["Statement"] == [
        {
            "Action": "sts:AssumeRole",
            "Effect": "Allow",
            "Principal": {"Service": "apigateway.amazonaws.com"},
        }
    ]
    assert template.actions("MeteringRole") == {
        "*": {"aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer"}
    }


def test_a_role_of_the_account_is_known_by_name_and_defines_nothing(make_app: MakeApp) -> None:
    stack = cdk.Stack(make_app(), "S")
    assert MeteringRole.from_account(stack, "Role").role_name == "ApiGatewayMarketplaceMeteringRole"
    assert not [node for node in stack.node.find_all() if isinstance(node, cdk.CfnResource)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (None, None),
        (cdk.Environment(account="111122223333", region="us-east-1"),) * 2,
        (
            cdk.Environment(account="111122223333", region="us-east-1"),
            cdk.Environment(account="111122223333", region="eu-west-1"),
        ),
    ],
    ids=["agnostic", "same", "other Region"],
)
def test_fails_when_an_account_gets_a_second_role(
    make_app: MakeApp, first: cdk.Environment | None, second: cdk.Environment | None
) -> None:
    app = make_app()
    MeteringRole(cdk.Stack(app, "First", env=first), "Role")
    MeteringRole(cdk.Stack(app, "Second", env=second), "Role")
    with pytest.raises(RuntimeError, match=r"MP-ROLE-01.*Second/Role.*MeteringRole\.from_account"):
        app.synth()


def test_each_account_has_its_own_role(make_app: MakeApp) -> None:
    app = make_app()
    for name, account in (("First", "111122223333"), ("Second", "123456789012")):
        MeteringRole(cdk.Stack(app, name, env=cdk.Environment(account=account, region="us-east-1")), "Role")
    assert len(app.synth().stacks) == 2
