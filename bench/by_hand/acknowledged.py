"""Auditors' findings that are as they should be, by hand: on each child by the CDK's own means, as its guides show it.

They are those of the example, one for one: cdk-nag's four rule packs in the construct tree, and checkov's and
cfn-lint's in the resource's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aws_cdk as cdk
from constructs import IConstruct

_HIPAA: Final = "HIPAA.Security"
_NIST: Final = "NIST.800.53.R5"
_PCI: Final = "PCI.DSS.321"
_AWS_POLICY: Final = "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role"
_REASON: Final = "as it should be, for a reason of some length, which says why and what bounds it"


def _packs(rule: str, *packs: str) -> tuple[str, ...]:
    return tuple(f"{pack}-{rule}" for pack in packs or (_HIPAA, _NIST, _PCI))


_NO_LOG_OF_EXECUTION: Final = ("AwsSolutions-APIG6", *_packs("APIGWExecutionLoggingEnabled"))
_STAGE: Final = (
    *_packs("APIGWCacheEnabledAndEncrypted"),
    "CKV_AWS_120",
    *_packs("APIGWSSLEnabled"),
    *_NO_LOG_OF_EXECUTION,
)
FINDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "alarm": _packs("CloudWatchAlarmAction", _HIPAA, _NIST),
    "api": ("AwsSolutions-APIG2",),
    "bucket": (
        "AwsSolutions-S1",
        *_packs("S3BucketLoggingEnabled"),
        "CKV_AWS_18",
        *_packs("S3BucketReplicationEnabled"),
        *_packs("S3DefaultEncryptionKMS"),
    ),
    "firewall": (*_packs("WAFv2LoggingEnabled"), "CKV_AWS_192"),
    "function": (*_packs("LambdaInsideVPC"), "CKV_AWS_117", "W3005", "AwsSolutions-L1"),
    "function with settings": ("CKV_AWS_173",),
    "function without reserve": (*_packs("LambdaConcurrency", _HIPAA, _NIST), "CKV_AWS_115"),
    "function without dead letters": (*_packs("LambdaDLQ", _HIPAA, _NIST), "CKV_AWS_116"),
    "function with AWS's policy": (f"{_AWS_POLICY}/AWSLambdaBasicExecutionRole]",),
    "log group": (*_packs("CloudWatchLogGroupEncrypted"), "CKV_AWS_158"),
    "open method": ("AwsSolutions-APIG4", "CKV_AWS_59"),
    "method": ("AwsSolutions-COG4",),
    "queue": ("CKV_AWS_27",),
    "role": _packs("IAMNoInlinePolicy"),
    "role for any resource": ("AwsSolutions-IAM5[Resource::*]",),
    "role for API logs": (f"{_AWS_POLICY}/AmazonAPIGatewayPushToCloudWatchLogs]",),
    "secret": (*_packs("SecretsManagerUsingKMSKey"), "CKV_AWS_149"),
    "stage": _STAGE,
    "stage without firewall": ("AwsSolutions-APIG3", *_packs("APIGWAssociatedWithWAF", _NIST, _PCI)),
    "stage without access log": ("AwsSolutions-APIG1", "CKV_AWS_76"),
    "table": ("CKV_AWS_119", *_packs("DynamoDBInBackupPlan", _HIPAA, _NIST)),
}
"""By what they are about."""


def acknowledge(construct: IConstruct, *kinds: str, wildcards: tuple[str, ...] = ()) -> None:
    """Say that the findings of these kinds, and wildcards of a role's policy, are as they should be."""
    rules = [rule for kind in kinds for rule in FINDINGS[kind]]
    of_tree = [rule for rule in rules if not rule.startswith("CKV") and "-" in rule]
    of_tree += [f"AwsSolutions-IAM5[Resource::{resource}]" for resource in wildcards]
    if of_tree:
        cdk.Validations.of(construct).acknowledge(*(cdk.Acknowledgment(id=rule, reason=_REASON) for rule in of_tree))
    of_checkov = [{"id": rule, "comment": _REASON} for rule in rules if rule.startswith("CKV")]
    of_cfn_lint = [rule for rule in rules if "-" not in rule and not rule.startswith("CKV")]
    if not of_checkov and not of_cfn_lint:
        return
    resource = construct if isinstance(construct, cdk.CfnResource) else construct.node.default_child
    assert isinstance(resource, cdk.CfnResource)
    if of_checkov:
        resource.add_metadata("checkov", {"skip": of_checkov})
    if of_cfn_lint:
        resource.add_metadata(
            "cfn-lint", {"config": {"ignore_checks": of_cfn_lint}, "reasons": dict.fromkeys(of_cfn_lint, _REASON)}
        )
