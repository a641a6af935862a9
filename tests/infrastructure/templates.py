"""How the tests of this folder make stacks and read templates."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_apigateway as apigateway
from aws_cdk import aws_dynamodb as dynamodb
from constructs import IConstruct

from marketplace_constructs import Agreements, Category, Dimension, DimensionType, PricingModel, Product, Seller
from marketplace_constructs.bundles import cache_directory

MakeApp = Callable[[], cdk.App]
Resource = dict[str, Any]

LEGACY = Product.legacy("legacy123")
CONTRACT = Product.concurrent(
    "contract123",
    dimensions=[
        Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED),
        Dimension.requests("calls"),
    ],
    pricing_model=PricingModel.CONTRACT_WITH_CONSUMPTION,
    metering_region="eu-west-1",
)
SELLER = Seller(seller_name="Example Corp.", support_contact="help@example.com")

STATEFUL = (
    "AWS::ApiGateway::RestApi",
    "AWS::ApiGateway::Stage",
    "AWS::ApiGateway::UsagePlan",
    "AWS::DynamoDB::Table",
    "AWS::S3::Bucket",
    "AWS::SQS::Queue",
    "AWS::SecretsManager::Secret",
    "Custom::MarketplacePlans",
    "Custom::MarketplaceProductCode",
)
"""What hurts when it is replaced: data, and what buyers' keys and the listing point at."""

ROOT = Path(__file__).parents[2]
CDK = cache_directory() / "cdk/node_modules/aws-cdk/bin/cdk"


def define(stack: cdk.Stack, **options: Any) -> Agreements:
    return Agreements(
        stack,
        "Agreements",
        **{
            "product": LEGACY,
            "usage_plan": apigateway.UsagePlan.from_usage_plan_id(stack, "Plan", "plan123"),
            "keys_table": dynamodb.Table.from_table_arn(
                stack, "Keys", "arn:aws:dynamodb:us-east-1:111122223333:table/keys"
            ),
            "seller": SELLER,
            **options,
        },
    )


def cdk_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The CDK's own command line, without credentials."""
    assert CDK.exists(), "run: make setup"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/none",
        "AWS_SHARED_CREDENTIALS_FILE": "/none",
    }
    return subprocess.run(
        [os.environ["JSII_NODE"], str(CDK), "--no-notices", "--no-color", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )


class Template:
    """A synthesized template, as plain data; intrinsics are shown as text, such as ``${Table.Arn}``."""

    def __init__(self, stack: cdk.Stack) -> None:
        root = stack.node.root
        assert isinstance(root, cdk.App)
        self.raw: dict[str, Any] = root.synth().get_stack_by_name(stack.stack_name).template
        self.resources: dict[str, Resource] = self.raw["Resources"]

    def of_type(self, type_: str) -> dict[str, Resource]:
        """Logical ids and resources of a type."""
        return {name: found for name, found in self.resources.items() if found["Type"] == type_}

    def only(self, type_: str, part_of_id: str = "") -> Resource:
        """The one resource of a type whose logical id contains a text, in shown form."""
        found = [r for name, r in self.of_type(type_).items() if part_of_id in name]
        assert len(found) == 1, f"{len(found)} resources {type_} with {part_of_id!r}"
        shown: Resource = show(found[0])
        return shown

    def logical_id(self, construct: IConstruct) -> str:
        """Logical id of a construct's resource."""
        return str(cdk.Stack.of(construct).resolve(cdk.Stack.of(construct).get_logical_id(element(construct))))

    def actions(self, role_id: str) -> dict[str, set[str]]:
        """What a role may do: resource, as shown, to its actions."""
        allowed: dict[str, set[str]] = {}
        role = next(r for name, r in self.of_type("AWS::IAM::Role").items() if role_id in name)
        role_name = next(name for name in self.of_type("AWS::IAM::Role") if role_id in name)
        documents = [p["PolicyDocument"] for p in role["Properties"].get("Policies", [])]
        documents += [
            policy["Properties"]["PolicyDocument"]
            for policy in self.of_type("AWS::IAM::Policy").values()
            if {"Ref": role_name} in policy["Properties"]["Roles"]
        ]
        assert "ManagedPolicyArns" not in role["Properties"]
        for document in documents:
            for statement in document["Statement"]:
                assert statement["Effect"] == "Allow"
                for resource in as_list(statement["Resource"]):
                    allowed.setdefault(show(resource), set()).update(as_list(statement["Action"]))
        return allowed


def element(construct: IConstruct) -> cdk.CfnElement:
    """The resource behind a construct."""
    child = construct.node.default_child
    assert isinstance(child, cdk.CfnElement)
    return child


def as_list(value: Any) -> list[Any]:
    """IAM writes one thing without its list."""
    return value if isinstance(value, list) else [value]


def show(value: Any) -> Any:
    """Intrinsics as text."""
    match value:
        case {"Ref": name}:
            return f"${{{name}}}"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"${{{name}.{attribute}}}"
        case {"Fn::Join": [separator, parts]}:
            return separator.join(map(str, map(show, parts)))
        case Mapping():
            return {key: show(item) for key, item in value.items()}
        case list():
            return [show(item) for item in value]
        case _:
            return value


def environment(function: Resource) -> dict[str, str]:
    """A function's environment, as it would be once deployed."""
    variables: dict[str, str] = show(function)["Properties"]["Environment"]["Variables"]
    return variables


def small_api(stack: cdk.Stack, construct_id: str = "Api", **options: Any) -> apigateway.RestApi:
    """An API with one route, ``GET /v1/items``, whose backend does not matter."""
    api = apigateway.RestApi(stack, construct_id, cloud_watch_role=False, **options)
    api.root.resource_for_path("/v1/items").add_method("GET", backend())
    return api


def backend() -> apigateway.Integration:
    """An integration that answers by itself, and is no CORS preflight on anything but OPTIONS."""
    return apigateway.HttpIntegration("https://backend.example.com")


def methods(template: Template, api: IConstruct) -> Iterator[tuple[str, Resource]]:
    """Route and properties of each of an API's methods."""
    api_id = template.logical_id(api)
    resources = template.of_type("AWS::ApiGateway::Resource")

    def path(resource_id: Any) -> str:
        if "Fn::GetAtt" in resource_id:
            return ""
        properties = resources[resource_id["Ref"]]["Properties"]
        return f"{path(properties['ParentId'])}/{properties['PathPart']}"

    for method in template.of_type("AWS::ApiGateway::Method").values():
        properties = method["Properties"]
        if properties["RestApiId"] == {"Ref": api_id}:
            yield f"{properties['HttpMethod']} {path(properties['ResourceId']) or '/'}", properties
