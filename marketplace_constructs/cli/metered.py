"""What the meter works with, wherever each part of it lies: in a deployed stack, or as a copy on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from marketplace_constructs.cli.deployed import Deployed
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem

if TYPE_CHECKING:
    from marketplace_constructs.domain.agreements import Fact
    from marketplace_constructs.runtime.metering.buyers import Register
    from marketplace_constructs.runtime.metering.doubt import Trail
    from marketplace_constructs.runtime.metering.explain import Witness
    from marketplace_constructs.runtime.metering.history import History
    from marketplace_constructs.runtime.metering.ledger import Ledger
    from marketplace_constructs.runtime.metering.log_files import LogFiles
    from marketplace_constructs.runtime.metering.objects import Objects
    from marketplace_constructs.runtime.metering.totals import PlanTimeline, UsageLog
    from marketplace_constructs.runtime.settings import MeterSettings

_HANDLER: Final = "marketplace_constructs.runtime.metering.meter.handler"
_MEMORY: Final = "1GB"
"""What DuckDB may hold here; a function has less."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the parts lie; what is left out is where the stack has it.

    Args:
        settings: A file with the function's configuration, as the AWS CLI prints it.
        ledger: An S3 URL or a directory; so are log and events.
        facts: A file with a scan of the table, as the AWS CLI prints it; so are plans.
        tables: A directory of plan tables.
    """

    stack: str | None = None
    product_code: str | None = None
    settings: Path | None = None
    ledger: str | None = None
    log: str | None = None
    events: str | None = None
    facts: Path | None = None
    plans: Path | None = None
    tables: Path | None = None


class MeteredSale:
    """One product's meter, ledger and log."""

    def __init__(self, places: Places) -> None:
        self.places: Final = places

    @staticmethod
    def now() -> datetime:
        """The present moment."""
        return datetime.now(UTC)

    @property
    def has_log(self) -> bool:
        """Whether anything says where the log is."""
        places = self.places
        return any((places.stack, places.settings, places.log))

    @cached_property
    def _function(self) -> tuple[str, MeterSettings]:
        from marketplace_constructs.runtime.settings import MeterSettings, SettingsError

        places = self.places
        if places.settings is not None:
            told = _json(places.settings, "settings")
            try:
                return str(told["FunctionName"]), MeterSettings.from_environment(told["Environment"]["Variables"])
            except (KeyError, TypeError, SettingsError) as error:
                raise _unreadable(places.settings, "settings", error) from None
        if not places.stack:
            raise click.UsageError("Missing option '--stack', or '--settings' for a copy.")
        return Deployed(places.stack, places.product_code).function_of(
            _HANDLER, MeterSettings, has="a meter; what API Gateway itself reports has no ledger"
        )

    @property
    def settings(self) -> MeterSettings:
        """How the function meters."""
        return self._function[1]

    @cached_property
    def objects(self) -> Objects:
        """The ledger's objects."""
        from marketplace_constructs.runtime.metering.ledger import ledger_prefix
        from marketplace_constructs.runtime.metering.objects import DirectoryObjects, S3Objects

        where = self.places.ledger
        if where is None:
            if not (self.places.stack or self.places.settings):
                raise click.UsageError("Missing option '--stack' or '--ledger'.")
            settings = self.settings
            prefix = ledger_prefix(settings.product_code, settings.metering_region)
            native = "native/" if settings.terms.is_native else ""
            return S3Objects(_client("s3"), settings.ledger_bucket, f"{prefix}{native}")
        if where.startswith("s3://"):
            place = urlsplit(where)
            return S3Objects(_client("s3"), place.netloc, f"{place.path.strip('/')}/")
        if not Path(where, "manifests").is_dir():
            raise MarketplaceConstructsError(
                Problem(
                    "MP-CLI-44",
                    f"ledger, got {where!r} without manifests; expected a directory that has them, or "
                    "s3://BUCKET/ledger/PRODUCT_CODE/REGION/; name the ledger's own folder",
                )
            )
        return DirectoryObjects(Path(where))

    @property
    def is_after_native(self) -> bool:
        """Whether API Gateway itself metered the product before."""
        return not self.settings.terms.is_native and self.objects.get("native/claim.json") is not None

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, as one more process sees it."""
        import uuid

        from marketplace_constructs.runtime.metering.ledger import Ledger

        ledger = Ledger(self.objects, run=f"cli-{uuid.uuid4().hex}")
        ledger.load()
        return ledger

    @cached_property
    def history(self) -> History:
        """Everything that the ledger ever said."""
        from marketplace_constructs.runtime.metering.history import History

        return History.read(self.objects)

    def buyers(self) -> Iterator[tuple[str, tuple[Fact, ...]]]:
        """Every buyer with all of their facts."""
        from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts, fact_from_item
        from marketplace_constructs.runtime.memory import MemoryFacts

        if self.places.facts is None:
            return DynamoDbFacts(_client("dynamodb"), self.settings.facts_table).buyers()
        facts = MemoryFacts()
        for item in _items(self.places.facts, "facts"):
            facts.add(fact_from_item(item))
        return facts.buyers()

    def register(self, now: datetime) -> Register:
        """Who is metered, and when."""
        from marketplace_constructs.runtime.metering.buyers import register

        return register(self.buyers(), product=self.settings.terms, now=now)

    @cached_property
    def plans(self) -> PlanTimeline:
        """Which tables hold."""
        from marketplace_constructs.runtime.memory import MemoryPlanVersions
        from marketplace_constructs.runtime.metering.totals import PlanTimeline
        from marketplace_constructs.runtime.plan_tables import DirectoryPlanTables, PlanTables, S3PlanTables
        from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions, PlanVersions, version_from_item

        versions: PlanVersions
        if self.places.plans is None:
            versions = DynamoDbPlanVersions(_client("dynamodb"), self.settings.plans_table)
        else:
            versions = MemoryPlanVersions()
            for item in _items(self.places.plans, "plans"):
                versions.add(version_from_item(item))
        tables: PlanTables = (
            S3PlanTables(_client("s3"), self.settings.tables_bucket)
            if self.places.tables is None
            else DirectoryPlanTables(self.places.tables)
        )
        timeline = PlanTimeline(versions, tables)
        timeline.refresh()
        return timeline

    @cached_property
    def log_files(self) -> LogFiles:
        """The access log."""
        return self._files(self.places.log, self.settings.log_prefix)

    @cached_property
    def event_files(self) -> LogFiles:
        """The usage events."""
        return self._files(self.places.events, self.settings.events_prefix)

    def usage_log(self, files: LogFiles, events: LogFiles | None = None, witness: Witness | None = None) -> UsageLog:
        """Calls and usage events, read as the function reads them.

        Args:
            files: The access log.
            events: The usage events; None for those that there are.
            witness: Who sees each line.
        """
        from marketplace_constructs.runtime.metering.totals import DuckDbUsageLog
        from marketplace_constructs.runtime.metering.usage_events import DuckDbUsageEvents, LinesAndEvents

        lines = DuckDbUsageLog(files, memory=_MEMORY, watch=witness)
        if not self.settings.usage_events:
            return lines
        return LinesAndEvents(
            lines,
            DuckDbUsageEvents(
                self.event_files if events is None else events,
                declared=self.settings.usage_events.split(","),
                memory=_MEMORY,
                watch=witness.events if witness else None,
            ),
        )

    @cached_property
    def trails(self) -> list[Trail]:
        """What CloudTrail shows, in the metering Region and in that of the configuration."""
        import boto3

        from marketplace_constructs.runtime.metering.doubt import CloudTrail

        regions = dict.fromkeys([self.settings.metering_region, _client("cloudtrail").meta.region_name])
        return [CloudTrail(boto3.client("cloudtrail", region_name=region), most=None) for region in regions]

    def has_files(self, hour: datetime) -> bool:
        """Whether anything is left of the log that arrived in an hour."""
        logs = [self.log_files, *([self.event_files] if self.settings.usage_events else [])]
        return any(True for files in logs for _ in files.arrived_in(hour))

    def run_meter(self, event: Mapping[str, object]) -> None:
        """Start the deployed function, and wait until it is done.

        Raises:
            MarketplaceConstructsError: MP-CLI-45: it failed, or did not start.
        """
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError

        # A run takes up to a quarter of an hour; to start another one meanwhile would help nobody.
        config = Config(read_timeout=930, retries={"mode": "standard", "total_max_attempts": 1})
        try:
            answer = boto3.client("lambda", config=config).invoke(
                FunctionName=self._function[0], Payload=json.dumps(event).encode()
            )
        except ClientError as error:
            raise _failed(str(error.response.get("Error", {}).get("Code", error))) from None
        said = json.loads(answer["Payload"].read() or b"{}")
        if answer.get("FunctionError"):
            raise _failed(str((said or {}).get("errorMessage", "an error")))

    def _files(self, where: str | None, prefix: str) -> LogFiles:
        from marketplace_constructs.runtime.metering.log_files import DirectoryLogFiles, S3LogFiles

        if where is None:
            return S3LogFiles(_client("s3"), self.settings.log_bucket, prefix)
        if where.startswith("s3://"):
            place = urlsplit(where)
            folder = place.path.strip("/")
            return S3LogFiles(_client("s3"), place.netloc, f"{folder}/" if folder else "")
        if not any(Path(where).glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]/[0-9][0-9]")):
            raise MarketplaceConstructsError(
                Problem(
                    "MP-CLI-46",
                    f"log, got {where!r} without hours; expected a directory that has YYYY/MM/DD/HH/, or "
                    "s3://BUCKET/PREFIX/; name the folder that the years are in",
                )
            )
        return DirectoryLogFiles(Path(where))


def _client(service: str) -> Any:
    import boto3

    return boto3.client(service)  # type: ignore[call-overload]


def _items(path: Path, option: str) -> list[Mapping[str, Any]]:
    """The items of a scan."""
    try:
        return list(_json(path, option)["Items"])
    except (KeyError, TypeError) as error:
        raise _unreadable(path, option, error) from None


def _json(path: Path, option: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path, option, error) from None


def _unreadable(path: Path, option: str, error: Exception) -> MarketplaceConstructsError:
    command = "lambda get-function-configuration" if option == "settings" else "dynamodb scan"
    return MarketplaceConstructsError(
        Problem(
            "MP-CLI-47",
            f"{option} in {path}, got {type(error).__name__} ({error}); expected what aws {command} prints as JSON; "
            "write it anew",
        )
    )


def _failed(what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(
        Problem(
            "MP-CLI-45",
            f"run of the meter, got {what}; expected it to end well; see the function's log, or wait until the run "
            "that is under way has ended",
        )
    )
