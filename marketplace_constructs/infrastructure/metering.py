"""The meter: from lines of the access log to usage records that AWS Marketplace has accepted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as events_targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from constructs import Construct

from marketplace_constructs.domain.errors import Problem, refuse
from marketplace_constructs.domain.metering_rules import RUNS_EVERY, MeteringRules
from marketplace_constructs.domain.metrics import METRICS_NAMESPACE, metrics_dimensions
from marketplace_constructs.infrastructure.access_log import AccessLog
from marketplace_constructs.infrastructure.acknowledgements import AuditFinding as Finding
from marketplace_constructs.infrastructure.acknowledgements import acknowledge, acknowledge_wildcards
from marketplace_constructs.infrastructure.alarms import RUNBOOKS, runbook_alarm
from marketplace_constructs.infrastructure.dead_letters import DeadLetters
from marketplace_constructs.infrastructure.function import role_of, runtime_function
from marketplace_constructs.infrastructure.table import table_name
from marketplace_constructs.infrastructure.tokens import (
    asked_once,
    days,
    identity,
    minutes,
    seconds,
    seconds_of,
    stack_of,
    validate_at_synthesis,
)
from marketplace_constructs.infrastructure.usage_events import EVENTS_PREFIX
from marketplace_constructs.runtime.settings import MeterSettings

if TYPE_CHECKING:
    from marketplace_constructs.infrastructure.agreements import Agreements
    from marketplace_constructs.infrastructure.plans import Plans

_METERS: Final[dict[str, list[Meter]]] = {}
"""The meters of each app, by its identity."""
DEFAULT_LINES_PER_HOUR: Final = 400_000
_DEFAULT_RETENTION_DAYS: Final = 400
LEDGER_PREFIX: Final = "ledger/"
_LINES_PER_HOUR: Final = range(1, 60_000_001)
"""More would not fit into a function's storage; 10,000 calls a second, an account's default, are 36 million."""
_RETENTION_DAYS: Final = range(365, 36_501)
_WATERMARK_MINUTES: Final = range(10, 181)
_MB: Final = 64
_MAX_MB: Final = 10_240
"""Of memory, and of storage. Source: AWS Lambda developer guide, quotas (read 2026-11-22)."""
_MAX_DECIMALS: Final = 6
_MINUTE: Final = timedelta(minutes=1)
_TIMEOUT: Final = timedelta(minutes=15)
_SILENT_RUNS: Final = (_TIMEOUT + RUNS_EVERY) // RUNS_EVERY + 1
"""A run may begin when the one before ends, and tell nothing until its time is up; after one more the meter stands
still. That leaves as long again to start it before the last usage of an agreement that ended just then is lost."""


@dataclass(frozen=True, kw_only=True)
class MeterSize:
    """How large the function is that closes hours of so many lines.

    Measured 2026-11-28 on two cores, gzip, repeated lines taken out: 400,000 lines in 2 s with 244 MB in all, 10
    million in 15 s with 263 MB where DuckDB might have 256. On disk lie 50 bytes for each line of the hour, two parts
    of 128 MB and a file as Firehose stores it. Sized larger, because a function has two cores only from 3,538 MB on,
    and one that runs out of memory or disk closes no hour.

    Args:
        duckdb_mb: What DuckDB may hold; beyond it uses the storage.
        memory_mb: Of the function.
        storage_mb: Of ``/tmp``, for a file as it is stored, parts of it, the hour's columns, and what does not fit into
            memory.
        reserve_seconds: What an hour may take: so long before its time is up the function begins none.
    """

    duckdb_mb: int
    memory_mb: int
    storage_mb: int
    reserve_seconds: int

    @classmethod
    def of(cls, lines_per_hour: int) -> MeterSize:
        """The size for a number of lines per hour."""
        millions = lines_per_hour / 1_000_000
        duckdb_mb = 256 + int(40 * millions)
        return cls(
            duckdb_mb=duckdb_mb,
            memory_mb=min(_MAX_MB, max(1024, -(-(512 + duckdb_mb * 5 // 4) // _MB) * _MB)),
            storage_mb=min(_MAX_MB, max(1024, 512 + int(160 * millions))),
            reserve_seconds=60 + lines_per_hour // 200_000,
        )


class Meter(Construct):
    """Closes each hour of the access log and tells AWS Marketplace what was used, every unit once.

    Defines the function, which runs every 5 minutes; its dead letters; the ledger's bucket; and an alarm on each thing
    that a person has to look at, whose description names its runbook. Under native metering API Gateway itself reports:
    then this only works out what was used, for reports, and may send nothing.

    The ledger is the proof of every bill. Its bucket is versioned, keeps each object under Object Lock in governance
    mode for the retention, is never deleted with the stack, and has a name made of account, product and metering
    Region, so that there is one: a second stack of the product cannot make another. Where the stack was deleted and
    comes back, or another stack is to go on with the ledger, give it as ``ledger_bucket``.

    Costs on paper: for 1,000 agreements of three dimensions some 2 USD a month, and for each million calls 0.15 USD of
    Firehose [UNCONF: list prices from memory]; docs/metering-costs.md works it out.

    Args:
        scope: Where it is defined.
        construct_id: Its id.
        agreements: Whose usage it is.
        plans: By whose tables lines are judged.
        access_log: The lines, and the usage events that were added to it before.
        expected_lines_per_hour: Calls and usage events in the busiest hour, 1 to 60,000,000; the function's memory and
            storage follow.
        watermark: How long after its end an hour is closed, 10 min to 3 h. Left out, 15 min. Lines that come later are
            billed in the next hour that is free.
        rules: How AWS wants to be told, where that is not documented. Left out, the safe choice of each.
        reserved_concurrency: 1 keeps runs from overlapping, which would only be waste. None reserves nothing: an
            account that may run 10 functions at once cannot give one away.
        ledger_bucket: The product's ledger, where there is one already. Left out, it is made here.
        ledger_retention: How long nobody may change an object of the ledger, 365 days to 36,500 days. Left out, 400
            days.
        joins: The name of the stack that began the ledger, where this one is another and goes on with it. That stack's
            API must be sold no more: an hour is closed once, from one log.
        alarm_topic: Told of what the alarms see. Left out, they only show their state.
        removal_policy: What becomes of the function's log when it leaves the stack.

    Raises:
        MarketplaceConstructsError: MP-METER-10 to MP-METER-14, together.
        RuntimeError: At synthesis, MP-METER-15, where the app has another meter of the product.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        agreements: Agreements,
        plans: Plans,
        access_log: AccessLog,
        expected_lines_per_hour: int = DEFAULT_LINES_PER_HOUR,
        watermark: cdk.Duration | None = None,
        rules: MeteringRules | None = None,
        reserved_concurrency: int | None = 1,
        ledger_bucket: s3.IBucket | None = None,
        ledger_retention: cdk.Duration | None = None,
        joins: str = "",
        alarm_topic: sns.ITopic | None = None,
        removal_policy: cdk.RemovalPolicy = cdk.RemovalPolicy.RETAIN,
    ) -> None:
        watermark = minutes(15) if watermark is None else watermark
        rules = MeteringRules() if rules is None else rules
        refuse(
            [
                *meter_problems(
                    expected_lines_per_hour, ledger_retention, has_ledger=ledger_bucket is not None, joins=joins
                ),
                *_timing_problems(watermark, rules),
            ]
        )
        super().__init__(scope, construct_id)
        self.product = agreements.product
        self.ledger_bucket = self._ledger(_or_default(ledger_retention)) if ledger_bucket is None else ledger_bucket
        self.dead_letters = DeadLetters(
            self,
            "DeadLetters",
            alarm_description=f"a run of the meter failed to its last try: {RUNBOOKS}#meter-failed",
            alarm_topic=alarm_topic,
        )
        size = MeterSize.of(expected_lines_per_hour)
        product = self.product
        self.function = runtime_function(
            self,
            "Function",
            handler="marketplace_constructs.runtime.metering.meter.handler",
            description="Closes hours of the access log and reports usage to AWS Marketplace",
            bundle="meter",
            timeout=minutes(_TIMEOUT // _MINUTE),
            memory_size=size.memory_mb,
            ephemeral_storage_size=cdk.Size.mebibytes(size.storage_mb),
            reserved_concurrency=reserved_concurrency,
            bounded_by="its schedule, twelve runs an hour",
            settings=MeterSettings(
                product_code=product.product_code,
                agreement_kind=product.agreement_kind,
                pricing_model=product.pricing_model,
                metering=product.metering,
                metering_region=product.metering_region,
                dimensions=",".join(dimension.key for dimension in product.dimensions if dimension.is_usage),
                sale=agreements.settings.sale,
                stack=stack_of(self).stack_name,
                joins=joins,
                facts_table=table_name(agreements.facts_table),
                plans_table=table_name(plans.table),
                tables_bucket=plans.tables_bucket.bucket_name,
                ledger_bucket=self.ledger_bucket.bucket_name,
                log_bucket=access_log.bucket.bucket_name,
                log_prefix=access_log.prefix,
                events_prefix=EVENTS_PREFIX if access_log.usage_events else "",
                usage_events=",".join(access_log.usage_events.names) if access_log.usage_events else "",
                watermark_minutes=int(seconds_of(watermark) or 0) // 60,
                decimals=rules.decimals,
                sends_zero=int(rules.sends_zero),
                window_hours=rules.window // timedelta(hours=1),
                month_end_hours=rules.month_end_hours,
                final_window_minutes=rules.final_window // timedelta(minutes=1),
                final_flush_minutes=rules.final_flush // timedelta(minutes=1),
                duckdb_memory_mb=size.duckdb_mb,
                reserve_seconds=size.reserve_seconds,
            ),
            dead_letter_queue=self.dead_letters.queue,
            removal_policy=removal_policy,
        )
        self._grant(agreements, plans, access_log)
        events.Rule(
            self,
            "Schedule",
            description="Starts the meter",
            schedule=events.Schedule.rate(seconds(int(RUNS_EVERY.total_seconds()))),
            targets=[events_targets.LambdaFunction(self.function, dead_letter_queue=self.dead_letters.queue)],
        )
        self._app = identity(self.node.root)
        _METERS.setdefault(self._app, []).append(self)
        validate_at_synthesis(self, lambda: list(self._twin_problems()))
        self.alarms = (self.dead_letters.alarm, *self._alarms(agreements, alarm_topic))
        """Each names its runbook."""

    def metric_errors(self, *, period: cdk.Duration | None = None, statistic: str = "Sum") -> cloudwatch.Metric:
        """Runs of the meter that failed; each is tried again."""
        return self.function.metric_errors(period=period, statistic=statistic)

    def metric_duration(self, *, period: cdk.Duration | None = None, statistic: str = "Maximum") -> cloudwatch.Metric:
        """How long a run takes, in milliseconds, at most 900,000."""
        return self.function.metric_duration(period=period, statistic=statistic)

    def grant_read_ledger(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let somebody read the ledger: what was billed, and why."""
        return iam.Grant.add_to_principal(
            grantee=grantee, actions=["s3:ListBucket"], resource_arns=[self.ledger_bucket.bucket_arn]
        ).combine(
            iam.Grant.add_to_principal(
                grantee=grantee, actions=["s3:GetObject"], resource_arns=[self._ledger_objects()]
            )
        )

    def _twin_problems(self) -> Iterator[Problem]:
        product = self.product
        for other in _METERS[self._app]:
            if other is not self and other.product == product:
                yield Problem(
                    "MP-METER-15",
                    f"meters of product {product.product_code}, got {self.node.path} and {other.node.path}; expected "
                    "one per product, since each would close the hours that the other has lines of; sell all of the "
                    "product's routes by one API",
                )

    def _ledger_objects(self) -> str:
        return _ledger_objects(self.ledger_bucket)

    def _ledger(self, retention: cdk.Duration) -> s3.Bucket:
        product = hashlib.sha256(self.product.product_code.encode()).hexdigest()[:10]
        bucket = s3.Bucket(
            self,
            "Ledger",
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            # One name per product and metering Region: a second ledger would bill everything a second time.
            bucket_name=f"metering-ledger-{stack_of(self).account}-{self.product.metering_region}-{product}",
            encryption=s3.BucketEncryption.S3_MANAGED,
            enforce_ssl=True,
            object_lock_default_retention=s3.ObjectLockRetention.governance(retention),
            object_lock_enabled=True,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            # Gone only where the stack could not even be made, lest its name be in the way of the next attempt.
            removal_policy=cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE,
            versioned=True,
        )
        policy = bucket.policy
        assert policy is not None
        policy.apply_removal_policy(cdk.RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE)
        acknowledge(
            bucket,
            {
                Finding.BUCKET_ACCESS_LOG: "the meter alone writes it, each object once; the chain of digests shows a "
                "change, and Object Lock keeps the first version",
                Finding.BUCKET_REPLICATION: "Object Lock and versions keep every object; AWS's own reports tell what "
                "was billed besides",
                Finding.CUSTOMER_KEY_OF_BUCKET: "encrypted with S3's own keys; a customer key that somebody disables "
                "would hold up every bill",
            },
        )
        return bucket

    def _grant(self, agreements: Agreements, plans: Plans, access_log: AccessLog) -> None:
        function, region = self.function, self.product.metering_region
        agreements.facts_table.grant(function, "dynamodb:Scan")
        plans.grant_read(function)
        plans.grant_read_tables(function)
        access_log.grant_read(function)
        access_log.grant_quarantine(function)
        self.grant_read_ledger(function)
        iam.Grant.add_to_principal(grantee=function, actions=["s3:PutObject"], resource_arns=[self._ledger_objects()])
        if not self.product.is_native:
            for action in ("aws-marketplace:BatchMeterUsage", "cloudtrail:LookupEvents"):
                function.add_to_role_policy(
                    iam.PolicyStatement(
                        actions=[action],
                        # Neither knows resources.
                        resources=["*"],
                        conditions={"StringEquals": {"aws:RequestedRegion": region}},
                    )
                )
        role = role_of(function)
        acknowledge_wildcards(
            role,
            {
                self._ledger_objects(): "the ledger is one product's, and its objects' names are made at run time; "
                "none can be deleted or overwritten",
                access_log.quarantine_arn(): "named like the files that the lines stood in",
                plans.tables_arn(): "tables are named by their digest, and read only",
                **dict.fromkeys(access_log.readable_arns(), "Firehose names the files; they are read only"),
            },
        )

    def _alarms(self, agreements: Agreements, alarm_topic: sns.ITopic | None) -> Iterator[cloudwatch.Alarm]:
        """Those of what each run tells."""
        for watched in _WATCHED if self.product.is_native else (*_WATCHED, *_WATCHED_OF_SENDING):
            yield runbook_alarm(
                self,
                watched.construct_id,
                cloudwatch.Metric(
                    namespace=METRICS_NAMESPACE,
                    metric_name=watched.metric,
                    dimensions_map=metrics_dimensions(agreements.settings.sale),
                    period=minutes(watched.runs * (RUNS_EVERY // _MINUTE)),
                    statistic=watched.statistic,
                ),
                what=watched.what,
                runbook=watched.runbook,
                threshold=watched.threshold,
                evaluation_periods=watched.periods,
                is_silence_alarming=watched.is_silence_alarming,
                alarm_topic=alarm_topic,
            )


@asked_once
def _ledger_objects(bucket: s3.IBucket) -> str:
    return bucket.arn_for_objects(f"{LEDGER_PREFIX}*")


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """A metric that the meter tells, and what is alarming about it.

    Args:
        construct_id: Of the alarm.
        metric: Its name.
        what: What has happened.
        runbook: What to do.
        statistic: Over a period; each run tells gauges once, when it ends.
        threshold: From which value on.
        runs: How many runs begin in a period.
        periods: For how many periods, one after another.
        is_silence_alarming: Whether no value is as bad.
    """

    construct_id: str
    metric: str
    what: str
    runbook: str
    statistic: str = "Sum"
    threshold: int = 1
    runs: int = 1
    periods: int = 1
    is_silence_alarming: bool = False


_WATCHED: Final = (
    _Watched(
        construct_id="HourNotClosed",
        metric="HourNotClosedFor",
        statistic="Maximum",
        threshold=3600,
        periods=_SILENT_RUNS,
        is_silence_alarming=True,
        what="an hour is not closed, or the meter does not run",
        runbook="hour-not-closed",
    ),
    _Watched(
        construct_id="LinesQuarantined",
        metric="LinesQuarantined",
        what="lines of the access log, or usage events, cannot be read",
        runbook="lines-quarantined",
    ),
    _Watched(
        construct_id="LinesUnmatched",
        metric="LinesUnmatched",
        what="calls match no route of their plan, or name a plan that nobody knows",
        runbook="lines-unmatched",
    ),
    _Watched(
        construct_id="LinesUnattributed",
        metric="LinesUnattributed",
        what="usage events, or calls, name no agreement",
        runbook="lines-unattributed",
    ),
)
_WATCHED_OF_SENDING: Final = (
    _Watched(
        construct_id="UsageRecordNotSent",
        metric="OldestUnsentRecordAge",
        statistic="Maximum",
        # Of a month's last hours AWS takes records for six.
        threshold=3 * 3600,
        runs=3,
        periods=2,
        what="AWS Marketplace has not taken a usage record for three hours",
        runbook="usage-record-not-sent",
    ),
    _Watched(
        construct_id="SendingDenied",
        metric="SendingDenied",
        what="AWS Marketplace lets the meter report nothing",
        runbook="sending-denied",
    ),
    _Watched(
        construct_id="UsageLost",
        metric="UsageLost",
        what="usage cannot be billed any more",
        runbook="usage-lost",
    ),
    _Watched(
        construct_id="RecordsInDoubt",
        metric="RecordsInDoubt",
        statistic="Maximum",
        # CloudTrail settles most of them within the hour.
        runs=3,
        periods=4,
        what="it is not known whether AWS Marketplace took a usage record",
        runbook="records-in-doubt",
    ),
    _Watched(
        construct_id="DuplicateFromElsewhere",
        metric="DuplicateFromElsewhere",
        what="AWS Marketplace has another record of the same hour",
        runbook="duplicate-from-elsewhere",
    ),
    _Watched(
        construct_id="UsageExcess",
        metric="UsageExcess",
        what="the access log shows less than was billed",
        runbook="usage-excess",
    ),
    _Watched(
        construct_id="AgreementWithoutLicense",
        metric="AgreementWithoutLicense",
        statistic="Maximum",
        # A buyer may be between subscription and registration for a while.
        runs=3,
        periods=4,
        what="an agreement cannot be billed, since its licence or customer is not known",
        runbook="agreement-without-license",
    ),
)


def meter_problems(
    expected_lines_per_hour: int, ledger_retention: cdk.Duration | None, *, has_ledger: bool, joins: str
) -> Iterator[Problem]:
    """All that is wrong with a meter's size and ledger."""
    if isinstance(expected_lines_per_hour, bool) or expected_lines_per_hour not in _LINES_PER_HOUR:
        yield Problem(
            "MP-METER-10",
            f"expected_lines_per_hour, got {expected_lines_per_hour!r}; expected a whole number of 1 to "
            f"{_LINES_PER_HOUR[-1]:,} calls in the busiest hour, known at synthesis; leave it out for "
            f"{DEFAULT_LINES_PER_HOUR:,}",
        )
    ledger_retention = _or_default(ledger_retention)
    kept = seconds_of(ledger_retention)
    if kept is None or kept / 86_400 not in _RETENTION_DAYS:
        yield Problem(
            "MP-METER-11",
            f"ledger_retention, got {'a token' if kept is None else f'{kept / 86_400:g} days'}; expected "
            f"{_RETENTION_DAYS[0]} to {_RETENTION_DAYS[-1]:,} whole days, known at synthesis, since AWS Marketplace "
            f"asks for a year; leave it out for {_DEFAULT_RETENTION_DAYS}",
        )
    if joins and not has_ledger:
        yield Problem(
            "MP-METER-12",
            f"joins, got the stack {joins!r} and no ledger_bucket; expected the ledger that it began; give "
            "ledger_bucket=Bucket.from_bucket_name(...)",
        )


def _or_default(ledger_retention: cdk.Duration | None) -> cdk.Duration:
    return days(_DEFAULT_RETENTION_DAYS) if ledger_retention is None else ledger_retention


def _timing_problems(watermark: cdk.Duration, rules: MeteringRules) -> Iterator[Problem]:
    waits = seconds_of(watermark)
    if waits is None or waits / 60 not in _WATERMARK_MINUTES:
        yield Problem(
            "MP-METER-13",
            f"watermark, got {'a token' if waits is None else f'{waits / 60:g} min'}; expected "
            f"{_WATERMARK_MINUTES[0]} to {_WATERMARK_MINUTES[-1]} whole minutes, known at synthesis: longer than "
            "Firehose collects lines, and short against the day in which AWS takes usage; leave it out for 15",
        )
    latest = rules.last_flush - 2 * RUNS_EVERY
    if rules.decimals not in range(_MAX_DECIMALS + 1) or not timedelta(0) < rules.final_flush <= latest:
        yield Problem(
            "MP-METER-14",
            f"rules, got {rules.decimals} decimals and a final flush after {rules.final_flush} of "
            f"{rules.final_window}; expected 0 to {_MAX_DECIMALS} decimals and the flush after {latest} at the latest, "
            "so that two runs of the meter come before the margin of its window; leave the rules out",
        )
