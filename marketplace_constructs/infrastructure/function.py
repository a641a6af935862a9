"""The Lambda function that every capability is made with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from marketplace_constructs import bundles
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge
from marketplace_constructs.infrastructure.security_log import security_log
from marketplace_constructs.infrastructure.tokens import identity, service, stack_of
from marketplace_constructs.runtime.settings import Settings

_ROLES: Final[dict[str, iam.Role]] = {}
_RUNTIME: Final = lambda_.Runtime.PYTHON_3_13
# The bundles are pure Python, or built for it: the cheaper processor.
_ARCHITECTURE: Final = lambda_.Architecture.ARM_64


def runtime_function(
    scope: Construct,
    construct_id: str,
    *,
    handler: str,
    description: str,
    timeout: cdk.Duration,
    bounded_by: str,
    when_it_fails: str | None = None,
    settings: Settings | None = None,
    bundle: bundles.Bundle = "functions",
    memory_size: int = 256,
    ephemeral_storage_size: cdk.Size | None = None,
    reserved_concurrency: int | None = None,
    dead_letter_queue: sqs.IQueue | None = None,
    removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
) -> lambda_.Function:
    """A function of the bundle that the package carries, with a role, a log group and traces of its own.

    Its role may write to its own log group and to X-Ray, and nothing else until it is granted more.

    Args:
        scope: Where it is defined.
        construct_id: A namespace for function, role and log group.
        handler: Module path of the package and function name.
        description: Shown in the Lambda console.
        timeout: How long one call may take, 1 s to 15 min.
        bounded_by: What keeps it from running too often at once; auditors read it.
        when_it_fails: Who notices, where there is no dead-letter queue; auditors read it.
        settings: What the function is told, through its environment.
        bundle: What its code is.
        memory_size: In MB; the share of a processor grows with it.
        ephemeral_storage_size: Of ``/tmp``. Left out, 512 MiB.
        reserved_concurrency: How many may run at once, taken from what the account's other functions have. Left out,
            nothing is reserved.
        dead_letter_queue: Where asynchronous calls end that failed to the last try.
        removal_policy: What becomes of the log group when it leaves the stack.
    """
    namespace = Construct(scope, construct_id)
    log_group = security_log(namespace, "Logs", removal_policy=removal_policy)
    role = iam.Role(namespace, "Role", assumed_by=service("lambda.amazonaws.com"))
    log_group.grant_write(role)
    acknowledge(
        role,
        {
            Finding.ROLE_ANY_RESOURCE: "X-Ray's actions know no resources, nor do those of AWS Marketplace where the "
            "role has them",
            Finding.ROLE_INLINE_POLICY: "the policy is this role's alone, and goes with it",
        },
    )
    function = lambda_.Function(
        namespace,
        "Function",
        architecture=_ARCHITECTURE,
        code=_code(identity(stack_of(scope)), _bundle_path(scope, bundle)),
        dead_letter_queue=dead_letter_queue,
        description=description,
        environment=settings.to_environment() if settings is not None else None,
        ephemeral_storage_size=ephemeral_storage_size,
        handler=handler,
        log_group=log_group,
        memory_size=memory_size,
        reserved_concurrent_executions=reserved_concurrency,
        role=role,
        runtime=_RUNTIME,
        timeout=timeout,
        tracing=lambda_.Tracing.ACTIVE,
    )
    reasons = {}
    if reserved_concurrency is None:
        reasons[Finding.FUNCTION_CONCURRENCY] = (
            "a reserve would be taken from the account's other functions, where an account may have 10 in all; "
            f"bounded by {bounded_by}"
        )
    reasons |= {
        Finding.FUNCTION_IN_NETWORK: "it calls AWS's public endpoints alone, which a network would have to be opened "
        "to again; bounded by its role",
        Finding.FUNCTION_REDUNDANT_DEPENDENCY: "the CDK has it wait for its role's policy, and names the role too",
        Finding.FUNCTION_RUNTIME: "the bundle is built and tested for this runtime, byte for byte",
    }
    if settings is not None:
        reasons[Finding.CUSTOMER_KEY_OF_ENVIRONMENT] = (
            "encrypted with the account's KMS key for Lambda; it holds names and settings, and no secret"
        )
    if dead_letter_queue is None:
        assert when_it_fails is not None
        reasons[Finding.FUNCTION_DEAD_LETTERS] = when_it_fails
    acknowledge(function, reasons)
    _ROLES[identity(function)] = role
    return function


def role_of(function: lambda_.Function) -> iam.IRole:
    """The role of a function; of one that ``runtime_function`` made, nobody has to be asked for it."""
    role = _ROLES.get(identity(function)) or function.role
    assert role is not None
    return role


@cache
def _code(_stack: str, bundle: Path) -> lambda_.Code:
    """The code of a stack's functions: one asset for all of them, which the CDK stages and describes but once."""
    return lambda_.Code.from_asset(str(bundle))


def _bundle_path(scope: Construct, bundle: bundles.Bundle) -> Path:
    is_here = bundle != "functions" and scope.node.try_get_context(bundles.CONTEXT) == "this-machine"
    return _built(bundle, bundles.this_machine() if is_here else bundles.LAMBDA)


@cache
def _built(bundle: bundles.Bundle, target: bundles.Target) -> Path:
    """Asked for once, since a checkout reads all of its sources to know which bundle is theirs."""
    return bundles.bundle_path(bundle, target)
