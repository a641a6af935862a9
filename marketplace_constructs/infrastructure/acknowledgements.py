"""Findings of cdk-nag's AwsSolutions pack that are as they should be, each on the child it is about.

They cost nothing where the pack is not used, and are made only on what this library itself defines.
"""

from __future__ import annotations

from typing import Any

import aws_cdk as cdk
from constructs import IConstruct


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Say why a finding about a construct, or what is inside it, is as it should be.

    Args:
        construct: What the finding is about.
        rule: Id of the finding, such as ``AwsSolutions-L1``.
        reason: Why, and what bounds it.
    """
    cdk.Validations.of(construct).acknowledge(cdk.Acknowledgment(id=rule, reason=reason))


def acknowledge_wildcard(construct: IConstruct, resource: str, reason: str) -> None:
    """Say why a role may use a resource with a wildcard; the finding's id names the resource.

    Args:
        construct: The role.
        resource: The resource, as the policy names it.
        reason: Why, and what bounds it.
    """
    shown = _show(cdk.Stack.of(construct).resolve(resource))
    acknowledge(construct, f"AwsSolutions-IAM5[Resource::{shown}]", reason)


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
