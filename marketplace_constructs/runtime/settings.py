"""What each function is told through its environment.

The constructs write these settings and the functions read them: one definition, so that neither can drift. Standard
library only, because the constructs import it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from marketplace_constructs.domain.product import AgreementKind, Metering, PricingModel, ProductTerms


class SettingsError(Exception):
    """The environment of a function lacks a variable, or holds a value of the wrong kind."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A function's settings: each field is the environment variable of its upper-case name.

    Values may be deploy-time tokens while a stack is synthesized; they are plain text once deployed.
    """

    def to_environment(self) -> dict[str, str]:
        """The environment variables, all of them text."""
        return {field.name.upper(): str(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the settings.

        Raises:
            SettingsError: Names every variable that is missing or cannot be read, never its value.
        """
        environment = os.environ if environment is None else environment
        kinds = {
            "int": int,
            "str": str,
            **{kind.__name__: kind for kind in (AgreementKind, Metering, PricingModel)},
        }
        values: dict[str, object] = {}
        wrong: list[str] = []
        for field in fields(cls):
            try:
                values[field.name] = kinds[str(field.type)](environment[field.name.upper()])
            except (KeyError, ValueError):
                wrong.append(field.name.upper())
        if wrong:
            raise SettingsError(f"missing or unreadable environment variables: {', '.join(wrong)}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class AgreementsSettings(Settings):
    """What every function that changes access needs.

    Args:
        facts_table: Name of the table of facts.
        keys_table: Name of the table that the gate reads.
        usage_plan_id: The plan that the buyers' keys are put into, where the product is sold without documents.
        key_prefix: How the names of this stack's API keys begin; unique per SellableApi.
        plans_table: Name of the table of plan versions; empty where the product is sold without documents.
    """

    product_code: str
    agreement_kind: AgreementKind
    pricing_model: PricingModel
    metering: Metering
    metering_region: str
    facts_table: str
    keys_table: str
    usage_plan_id: str
    key_prefix: str
    plans_table: str = ""

    @property
    def sale(self) -> str:
        """Tells the sale apart from the others of its account and Region, in metrics."""
        return self.key_prefix.removesuffix("/")

    @property
    def terms(self) -> ProductTerms:
        """How the product is sold."""
        return ProductTerms(
            product_code=self.product_code,
            agreement_kind=self.agreement_kind,
            pricing_model=self.pricing_model,
            metering=self.metering,
            metering_region=self.metering_region,
        )


@dataclass(frozen=True, kw_only=True)
class OnboardingSettings(AgreementsSettings):
    """What the onboarding page needs besides.

    Args:
        contacts_table: Name of the table of contact addresses; nothing else holds any.
        signing_secret: ARN of the secret that signs sessions.
        seller_name: Shown on each page.
        logo_url: An https address, or empty for none.
        support_contact: An email address or an https address.
        api_url: Where the sold API answers, without a trailing slash.
        example_route: Method and path that the ready curl line calls, such as ``GET /v1/health``.
        sender: The SES identity (an address) that sends the confirmation mail, or empty for none.
    """

    contacts_table: str
    signing_secret: str
    seller_name: str
    logo_url: str
    support_contact: str
    api_url: str
    example_route: str
    sender: str


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings):
    """What the gate needs: tables to read. It names no usage plan, which would close a circle.

    Args:
        keys_table: Name of the table of keys.
        plans_table: As for the functions that change access; where it is empty, every guarded route is open.
    """

    keys_table: str
    plans_table: str = ""


@dataclass(frozen=True, kw_only=True)
class PlansSettings(Settings):
    """What the function that records plan versions needs.

    Args:
        plans_table: Name of the table of plan versions.
        tables_bucket: Name of the bucket that keeps each plan table under its digest.
    """

    plans_table: str
    tables_bucket: str


@dataclass(frozen=True, kw_only=True)
class ReconciliationSettings(AgreementsSettings):
    """What the reconciliation needs besides.

    Args:
        observe_every_hours: How often AWS itself is asked for the state of each agreement.
        contacts_table: To send confirmation mails that are still owed.
        sender: As for the onboarding page.
        seller_name: As for the onboarding page.
        support_contact: As for the onboarding page.
    """

    contacts_table: str
    sender: str
    seller_name: str
    support_contact: str
    observe_every_hours: int


@dataclass(frozen=True, kw_only=True)
class MeterSettings(Settings):
    """What the meter needs: where everything lies, and how AWS wants to be told as far as that is not documented.

    Args:
        dimensions: Keys of the usage dimensions, with commas between.
        sale: As of the functions that change access.
        stack: Whose functions these are; the ledger is its own.
        joins: The stack that began the ledger, where this one is another; else empty.
        facts_table: Name of the table of facts.
        plans_table: Name of the table of plan versions.
        tables_bucket: Name of the bucket that keeps each plan table under its digest.
        ledger_bucket: Name of the bucket of the ledger.
        log_bucket: Name of the bucket of the access log.
        log_prefix: What stands before ``YYYY/MM/DD/HH/`` there.
        events_prefix: The same of usage events.
        usage_events: The names of the usage events that the product declares, with commas between; empty for none.
        watermark_minutes: How long after its end an hour is closed; longer than Firehose buffers.
        decimals: Of a quantity, 0 to 6; 0 for dimensions that are told in whole numbers.
        sends_zero: 1: AWS is told of hours without usage.
        window_hours: How old a record may be when it is sent.
        month_end_hours: Until when on the 1st, UTC, the month before is taken.
        final_window_minutes: How long after its end an agreement's usage is taken.
        final_flush_minutes: From when on, within it, the last record is sealed.
        calls_per_second: Of BatchMeterUsage, this meter's share of the account's quota.
        duckdb_memory_mb: What DuckDB may hold.
        reserve_seconds: How long before its time is up the function begins nothing new.
    """

    product_code: str
    agreement_kind: AgreementKind
    pricing_model: PricingModel
    metering: Metering
    metering_region: str
    dimensions: str
    sale: str
    stack: str
    joins: str
    facts_table: str
    plans_table: str
    tables_bucket: str
    ledger_bucket: str
    log_bucket: str
    log_prefix: str
    events_prefix: str = ""
    usage_events: str = ""
    watermark_minutes: int = 15
    decimals: int = 6
    sends_zero: int = 1
    window_hours: int = 24
    month_end_hours: int = 6
    final_window_minutes: int = 60
    final_flush_minutes: int = 40
    calls_per_second: int = 10
    duckdb_memory_mb: int = 256
    reserve_seconds: int = 60

    @property
    def terms(self) -> ProductTerms:
        """How the product is sold."""
        return ProductTerms(
            product_code=self.product_code,
            agreement_kind=self.agreement_kind,
            pricing_model=self.pricing_model,
            metering=self.metering,
            metering_region=self.metering_region,
        )
