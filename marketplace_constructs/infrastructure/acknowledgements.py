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
from constructs import IConstruct, Node

from marketplace_constructs.infrastructure.tokens import node_of, stack_of

_HIPAA: Final = "HIPAA.Security"
_NIST: Final = "NIST.800.53.R5"
_PCI: Final = "PCI.DSS.321"
_ACKNOWLEDGED: Final = "aws:cdk:acknowledged-rules"
"""What auditors find acknowledgements by; ``Validations.ACKNOWLEDGED_RULES_METADATA_KEY``, which would cost a call."""
_SHOWN: Final[dict[str, str]] = {}
"""Resources as cdk-nag writes them, by what they are with their tokens."""
_AWS_POLICY: Final = "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role"


def _packs(rule: str, *packs: str) -> tuple[str, ...]:
    return tuple(f"{pack}-{rule}" for pack in packs or (_HIPAA, _NIST, _PCI))


class AuditFinding(Enum):
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
    BUCKET_ACCESS_LOG = ("AwsSolutions-S1", *_packs("S3BucketLoggingEnabled"), "CKV_AWS_18")
    BUCKET_REPLICATION = _packs("S3BucketReplicationEnabled")
    CUSTOMER_KEY_OF_BUCKET = _packs("S3DefaultEncryptionKMS")
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
    QUEUE_WITHOUT_DEAD_LETTERS = ("AwsSolutions-SQS3",)
    ROLE_ANY_RESOURCE = ("AwsSolutions-IAM5[Resource::*]",)
    ROLE_INLINE_POLICY = _packs("IAMNoInlinePolicy")
    ROLE_WITH_POLICY_FOR_API_LOGS = (f"{_AWS_POLICY}/AmazonAPIGatewayPushToCloudWatchLogs]",)
    ROLE_WITH_POLICY_FOR_FUNCTION_LOGS = (f"{_AWS_POLICY}/AWSLambdaBasicExecutionRole]",)
    TABLE_BACKUP_PLAN = _packs("DynamoDBInBackupPlan", _HIPAA, _NIST)


def acknowledge(construct: IConstruct, reasons: Mapping[AuditFinding, str]) -> None:
    """Say why findings about a construct's own resource are as they should be.

    Args:
        construct: What the findings are about: a resource, or the construct of one.
        reasons: To each finding why, and what bounds it.
    """
    of_tree: dict[str, str] = {}
    of_checkov: list[dict[str, str]] = []
    of_cfn_lint: dict[str, str] = {}
    for finding, reason in reasons.items():
        for rule in finding.value:
            if rule.startswith("CKV"):
                of_checkov.append({"id": rule, "comment": reason})
            elif "-" in rule:
                of_tree[rule] = reason
            else:
                of_cfn_lint[rule] = reason
    node = node_of(construct)
    if of_tree:
        _record(node, of_tree)
    if not of_checkov and not of_cfn_lint:
        return
    resource = construct if isinstance(construct, cdk.CfnResource) else node.default_child
    assert isinstance(resource, cdk.CfnResource)
    if of_checkov:
        resource.add_metadata("checkov", {"skip": of_checkov})
    if of_cfn_lint:
        resource.add_metadata("cfn-lint", {"config": {"ignore_checks": list(of_cfn_lint)}, "reasons": of_cfn_lint})


def acknowledge_wildcards(construct: IConstruct, reasons: Mapping[str, str]) -> None:
    """Say why a role may use resources with a wildcard; each finding's id names the resource.

    Args:
        construct: The role.
        reasons: To each resource, as the policy names it, why, and what bounds it.
    """
    new = [resource for resource in reasons if resource not in _SHOWN]
    if new:
        _SHOWN.update(zip(new, map(_show, stack_of(construct).resolve(new)), strict=True))
    _record(
        node_of(construct),
        {f"AwsSolutions-IAM5[Resource::{_SHOWN[resource]}]": reason for resource, reason in reasons.items()},
    )


def _record(node: Node, reasons: Mapping[str, str]) -> None:
    """Note acknowledgements on a construct, all in one call.

    As ``Validations.acknowledge`` does it one by one, each with a trace of the CDK's own calls; that it silences the
    CDK's annotations besides, these rules have no use for.
    """
    node.add_metadata(_ACKNOWLEDGED, {f"Annotation::{rule}": reason for rule, reason in reasons.items()})


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
