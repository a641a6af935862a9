"""What is known at synthesis and what is not, and what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import aws_cdk as cdk
import jsii
from constructs import Construct, IConstruct, IValidation

from marketplace_constructs.domain.errors import Problem


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


def resources_of_type(scope: IConstruct, name: str) -> list[IConstruct]:
    """The resources of a type in a tree, such as ``AWS::IAM::Role``.

    Here every construct costs a call and a proxy, which ``find_all`` makes for the whole tree.
    """
    return cdk.ConstructSelector.resources_of_type(name).select(scope)


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
    construct.node.add_validation(LazyValidation(problems))
