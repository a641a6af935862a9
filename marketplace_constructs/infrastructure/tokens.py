"""What is known at synthesis and what is not, and what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import TypeVar

import aws_cdk as cdk
import jsii
from aws_cdk import aws_iam as iam
from constructs import Construct, IConstruct, IValidation, Node

from marketplace_constructs.domain.errors import Problem

_C = TypeVar("_C", bound=IConstruct)
_T = TypeVar("_T")


def is_token(value: object) -> bool:
    """Whether the value is only known at deployment; a number token is a float far below zero."""
    return bool(cdk.Token.is_unresolved(value))


def unknown_to_none(value: str) -> str | None:
    """The value where it is known at synthesis."""
    return None if is_token(value) else value


def identity(construct: IConstruct) -> str:
    """What tells a construct from every other one of this process.

    Of a construct that the CDK made itself, Python is handed another object each time it is found.
    """
    reference: str = construct.__jsii_ref__.ref  # type: ignore[attr-defined]  # every jsii object has one
    return reference


def asked_once(ask: Callable[[_C], _T]) -> Callable[[_C], _T]:
    """Remembers what does not change of a construct: each question costs a call to another process."""
    answers: dict[str, _T] = {}

    @wraps(ask)
    def remembered(construct: _C) -> _T:
        key = identity(construct)
        if key not in answers:
            answers[key] = ask(construct)
        return answers[key]

    return remembered


@asked_once
def stack_of(construct: IConstruct) -> cdk.Stack:
    """The stack of a construct."""
    return cdk.Stack.of(construct)


@asked_once
def node_of(construct: IConstruct) -> Node:
    """The node of a construct."""
    return construct.node


@cache
def seconds(number: int) -> cdk.Duration:
    """So many seconds, made once."""
    return cdk.Duration.seconds(number)


def minutes(number: int) -> cdk.Duration:
    """So many minutes, made once."""
    return seconds(60 * number)


def hours(number: int) -> cdk.Duration:
    """So many hours, made once."""
    return seconds(3_600 * number)


def days(number: int) -> cdk.Duration:
    """So many days, made once."""
    return seconds(86_400 * number)


@cache
def seconds_of(duration: cdk.Duration) -> float | None:
    """How long that is; None for a token, which ``Token.is_unresolved`` does not see in a Duration."""
    return None if duration.is_unresolved() else duration.to_milliseconds() / 1000


@cache
def service(name: str) -> iam.ServicePrincipal:
    """The principal of a service, such as ``lambda.amazonaws.com``, made once."""
    return iam.ServicePrincipal(name)


def resources_of_type(scope: IConstruct, name: str) -> list[IConstruct]:
    """The resources of a type in a tree, such as ``AWS::IAM::Role``.

    Here every construct costs a call and a proxy, which ``find_all`` makes for the whole tree.
    """
    return _selector(name).select(scope)


@cache
def _selector(name: str) -> cdk.IConstructSelector:
    return cdk.ConstructSelector.resources_of_type(name)


@jsii.implements(IValidation)
class LazyValidation:
    """Problems that show when the app is complete; synthesis reports those of all constructs together."""

    def __init__(self, problems: Callable[[], Sequence[Problem]]) -> None:
        self._problems = problems

    def validate(self) -> list[str]:
        """The problems' texts."""
        return [str(problem) for problem in self._problems()]


def validate_at_synthesis(construct: Construct, problems: Callable[[], Sequence[Problem]]) -> None:
    """Have synthesis ask the function for problems, and fail where there are any."""
    node_of(construct).add_validation(LazyValidation(problems))
