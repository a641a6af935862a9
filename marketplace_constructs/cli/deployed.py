"""What a deployed stack with a SellableApi is made of, as its functions were told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem

if TYPE_CHECKING:
    from marketplace_constructs.runtime.settings import MeterSettings, ReconciliationSettings

_Settings = TypeVar("_Settings", "ReconciliationSettings", "MeterSettings")


@dataclass
class Deployed:
    """A stack in the account and Region of the AWS configuration.

    Args:
        stack: Its name; empty where none was given.
        product_code: Of which product, where it sells several.
    """

    stack: str
    product_code: str | None

    @cached_property
    def _session(self) -> Any:
        import boto3

        # Asked for no earlier, since a command's help needs no stack.
        if not self.stack:
            raise click.UsageError("Missing option '--stack'.")
        return boto3.Session()

    @cached_property
    def _functions(self) -> list[Mapping[str, Any]]:
        """The configuration of each function of the stack."""
        functions = self._session.client("lambda")
        resources = self._session.client("cloudformation").get_paginator("list_stack_resources")
        pages = resources.paginate(StackName=self.stack)
        return [
            functions.get_function_configuration(FunctionName=resource["PhysicalResourceId"])
            for page in pages
            for resource in page["StackResourceSummaries"]
            if resource["ResourceType"] == "AWS::Lambda::Function"
        ]

    def function_of(self, handler: str, kind: type[_Settings], *, has: str) -> tuple[str, _Settings]:
        """Name and settings of the one function with a handler.

        Args:
            handler: The function's.
            kind: Of its settings.
            has: What a stack has that has such a function.

        Raises:
            MarketplaceConstructsError: MP-CLI-10: there is none, or several; MP-CLI-11: its settings are those of
                another version.
        """
        from marketplace_constructs.runtime.settings import SettingsError

        found: list[tuple[str, _Settings]] = []
        for function in self._functions:
            if function.get("Handler") != handler:
                continue
            try:
                settings = kind.from_environment(function["Environment"]["Variables"])
            except SettingsError as error:
                raise MarketplaceConstructsError(
                    Problem(
                        "MP-CLI-11",
                        f"stack {self.stack}, got {error}; expected settings of this version; deploy it anew",
                    )
                ) from None
            if self.product_code in {None, settings.product_code}:
                found.append((str(function["FunctionName"]), settings))
        if len(found) != 1:
            codes = ", ".join(settings.product_code for _, settings in found) or "none"
            raise MarketplaceConstructsError(
                Problem(
                    "MP-CLI-10",
                    f"stack {self.stack}, got the sold products {codes}; expected one; "
                    + ("name it with --product-code" if found else f"name the stack that has {has}"),
                )
            )
        return found[0]
