"""Findings of auditors that are as they should be, each on the resource it is about, with its reason.

cdk-nag's are acknowledged in the construct tree; cfn-lint and checkov read the template alone, so that theirs
stand in the resource's metadata. They cost nothing where an auditor is not used, and are made only on what this
library itself defines.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import aws_cdk as cdk
from constructs import IConstruct

_HIPAA: Final = "HIPAA.Security"
_NIST: Final = "NIST.800.53.R5"
_PCI: Final = "PCI.DSS.321"
_AWS_POLICY: Final = "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role"


def _packs(rule: str, *packs: str) -> tuple[str, ...]:
    return tuple(f"{pack}-{rule}" for pack in packs or (_HIPAA, _NIST, _PCI))


class Finding(Enum):
    """What auditors ask of a resource, with each one's id for it.

    Sources: cdk-nag 3.0.2, rule packs AwsSolutions, HIPAA Security, NIST 800-53 rev 5 and PCI DSS 3.2.1; checkov
    3.3.30; cfn-lint 1.58.0 (read 2026-11-21).
    """

    ALARM_ACTION = _packs("CloudWatchAlarmAction", _HIPAA, _NIST)
    API_ACCESS_LOG = ("AwsSolutions-APIG1", "CKV_AWS_76")
    API_AUTHORIZATION = ("AwsSolutions-APIG4", "CKV_AWS_59")
    API_CACHE = (*_packs("APIGWCacheEnabledAndEncrypted"), "CKV_AWS_120")
    API_CLIENT_CERTIFICATE = _packs("APIGWSSLEnabled")
    API_EXECUTION_LOG = ("AwsSolutions-APIG6", *_packs("APIGWExecutionLoggingEnabled"))
    API_FIREWALL = ("AwsSolutions-APIG3", *_packs("APIGWAssociatedWithWAF", _NIST, _PCI))
    API_REQUEST_VALIDATION = ("AwsSolutions-APIG2",)
    API_USER_POOL = ("AwsSolutions-COG4",)
    CUSTOMER_KEY_OF_ENVIRONMENT = ("CKV_AWS_173",)
    CUSTOMER_KEY_OF_LOG = (*_packs("CloudWatchLogGroupEncrypted"), "CKV_AWS_158")
    CUSTOMER_KEY_OF_QUEUE = ("CKV_AWS_27",)
    CUSTOMER_KEY_OF_SECRET = (*_packs("SecretsManagerUsingKMSKey"), "CKV_AWS_149")
    CUSTOMER_KEY_OF_TABLE = ("CKV_AWS_119",)
    FIREWALL_LOG = _packs("WAFv2LoggingEnabled")
    FIREWALL_LOG4J = ("CKV_AWS_192",)
    FUNCTION_CONCURRENCY = (*_packs("LambdaConcurrency", _HIPAA, _NIST), "CKV_AWS_115")
    FUNCTION_DEAD_LETTERS = (*_packs("LambdaDLQ", _HIPAA, _NIST), "CKV_AWS_116")
    FUNCTION_IN_NETWORK = (*_packs("LambdaInsideVPC"), "CKV_AWS_117")
    FUNCTION_REDUNDANT_DEPENDENCY = ("W3005",)
    FUNCTION_RUNTIME = ("AwsSolutions-L1",)
    ROLE_INLINE_POLICY = _packs("IAMNoInlinePolicy")
    ROLE_WITH_POLICY_FOR_API_LOGS = (f"{_AWS_POLICY}/AmazonAPIGatewayPushToCloudWatchLogs]",)
    ROLE_WITH_POLICY_FOR_FUNCTION_LOGS = (f"{_AWS_POLICY}/AWSLambdaBasicExecutionRole]",)
    TABLE_BACKUP_PLAN = _packs("DynamoDBInBackupPlan", _HIPAA, _NIST)


def acknowledge(construct: IConstruct, reasons: Mapping[Finding, str]) -> None:
    """Say why findings about a construct's own resource are as they should be.

    Args:
        construct: What the findings are about: a resource, or the construct of one.
        reasons: To each finding why, and what bounds it.
    """
    of_tree: list[cdk.Acknowledgment] = []
    of_checkov: list[dict[str, str]] = []
    of_cfn_lint: dict[str, str] = {}
    for finding, reason in reasons.items():
        for rule in finding.value:
            if rule.startswith("CKV"):
                of_checkov.append({"id": rule, "comment": reason})
            elif "-" in rule:
                of_tree.append(cdk.Acknowledgment(id=rule, reason=reason))
            else:
                of_cfn_lint[rule] = reason
    if of_tree:
        cdk.Validations.of(construct).acknowledge(*of_tree)
    if of_checkov:
        _resource(construct).add_metadata("checkov", {"skip": of_checkov})
    if of_cfn_lint:
        _resource(construct).add_metadata(
            "cfn-lint", {"config": {"ignore_checks": list(of_cfn_lint)}, "reasons": of_cfn_lint}
        )


def acknowledge_wildcard(construct: IConstruct, resource: str, reason: str) -> None:
    """Say why a role may use a resource with a wildcard; the finding's id names the resource.

    Args:
        construct: The role.
        resource: The resource, as the policy names it.
        reason: Why, and what bounds it.
    """
    shown = _show(cdk.Stack.of(construct).resolve(resource))
    cdk.Validations.of(construct).acknowledge(
        cdk.Acknowledgment(id=f"AwsSolutions-IAM5[Resource::{shown}]", reason=reason)
    )


def _resource(construct: IConstruct) -> cdk.CfnResource:
    """The resource that a construct stands for."""
    resource = construct if isinstance(construct, cdk.CfnResource) else construct.node.default_child
    assert isinstance(resource, cdk.CfnResource)
    return resource


def _show(value: Any) -> str:
    """A resolved text as cdk-nag writes it."""
    match value:
        case {"Ref": name}:
            return f"<{name}>"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"<{name}.{attribute}>"
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(map(_show, parts))
        case _:
            return str(value)
