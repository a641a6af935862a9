"""The meter: closes each hour of the log, seals what is new, sends what is sealed, and takes in what AWS answered.

Every step is told to the ledger before the next, and each run begins with what the ledger says; so a run may die
anywhere, and several may go on at once.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.domain.agreements import Fact
from marketplace_constructs.domain.metering import (
    EVENT,
    UNPLANNED,
    ClosedHour,
    LedgerState,
    Loss,
    LossReason,
    Manifest,
    Outcome,
    Record,
    Sealed,
    Series,
    Settlement,
    Status,
    Usage,
    given_up,
    hour_of,
    is_outside,
    outcome,
    seal,
)
from marketplace_constructs.domain.metering_rules import RUNS_EVERY, MeteringRules
from marketplace_constructs.domain.plan_table import LineState
from marketplace_constructs.domain.product import ProductTerms
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts
from marketplace_constructs.runtime.aws import client, error_code
from marketplace_constructs.runtime.clock import Clock, utc_now
from marketplace_constructs.runtime.metering.buyers import Register, register
from marketplace_constructs.runtime.metering.doubt import LOOKED_FOR, CloudTrail, Trail, shown_accepted, windows
from marketplace_constructs.runtime.metering.ledger import Attempt, Claim, Ledger, ledger_prefix
from marketplace_constructs.runtime.metering.log_files import S3LogFiles
from marketplace_constructs.runtime.metering.objects import S3Objects
from marketplace_constructs.runtime.metering.send import MeteringClient, Sender, metering_client
from marketplace_constructs.runtime.metering.totals import (
    ARRIVES_WITHIN,
    DuckDbUsageLog,
    HourUsage,
    PlanTimeline,
    UsageLog,
)
from marketplace_constructs.runtime.metering.usage_events import DuckDbUsageEvents, LinesAndEvents
from marketplace_constructs.runtime.observability import count, gauge, logger, metrics, tell_of
from marketplace_constructs.runtime.plan_tables import S3PlanTables
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions
from marketplace_constructs.runtime.settings import MeterSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_HOUR: Final = timedelta(hours=1)
_PROMPT: Final = timedelta(minutes=15)
"""How long after an end its usage is flushed at each run; then again in the final flush. Longer than lines take."""
_EXPECTED: Final = frozenset({LossReason.REMAINDER, LossReason.OUTSIDE_AGREEMENT})
"""Losses that wake nobody: an end leaves a fraction behind, and the gate serves a few calls after it. Usage events of
agreements that nobody knows have woken somebody when they came."""
_HELD_UNTIL: Final = timedelta(hours=4)
"""An hour with lines that match no route is closed all the same so long before AWS takes its usage no more."""
_TOLD_WITHIN: Final = timedelta(hours=6)
"""How long an hour in which an agreement began is looked at again: AWS may tell of it, or of its licence, late."""
SENDS_FOR: Final = RUNS_EVERY - timedelta(seconds=20)
"""How long a run sends. The next one begins when the last call is answered, and goes on: so neither sends what the
other still has to send, and their common quota is not used twice."""
_REFUSED_PAUSE: Final = timedelta(hours=1)
"""How long a record waits that AWS refused by itself."""
_ASKED_FOR: Final = timedelta(days=7)
"""How long after it was sent CloudTrail is asked about a record in doubt; after that a person is."""
_FACTS_HOLD: Final = timedelta(minutes=1)
"""How long a run goes by the facts that it read. An end that is told meanwhile comes as late as if its event had."""
_RACES: Final = 20


@dataclass(frozen=True, kw_only=True)
class MeterOptions:
    """How one product is metered.

    Args:
        product: How it is sold.
        dimensions: The keys of its usage dimensions.
        stack: Whose functions these are.
        joins: The stack that began the ledger, where this one is another.
        watermark: How long after its end an hour is closed.
        rules: How AWS wants to be told.
        calls_per_second: This meter's share of the account's quota.
        is_after_native: API Gateway itself metered the product before.
    """

    product: ProductTerms
    dimensions: Sequence[str]
    stack: str
    joins: str = ""
    watermark: timedelta = timedelta(minutes=15)
    rules: MeteringRules = field(default_factory=MeteringRules)
    calls_per_second: int = 10
    is_after_native: bool = False


@dataclass(frozen=True, kw_only=True)
class Ports:
    """What a meter works with.

    Args:
        facts: Every buyer's facts, read anew.
        plans: Which tables hold.
        log: Calls and usage events.
        ledger: One process's own view of it.
        metering: AWS Marketplace.
        trail: What CloudTrail shows; None where it is not asked.
        count: Counts something that happened.
        gauge: Tells a number of seconds.
    """

    facts: Callable[[], Iterator[tuple[str, tuple[Fact, ...]]]]
    plans: PlanTimeline
    log: UsageLog
    ledger: Ledger
    metering: MeteringClient
    trail: Trail | None = None
    count: Callable[[str, int], None] = count
    gauge: Callable[[str, float], None] = gauge


class Meter:
    """One process that meters.

    Args:
        clock: The present moment.
        at_once: Ids of records that do not wait, though AWS refused them a short time ago: somebody mended what it was.
        has_time: Whether there is time for one more step, such as a call or an hour.
        sleep: Waits for so many seconds.
        monotonic: Seconds that pass.
    """

    def __init__(
        self,
        options: MeterOptions,
        ports: Ports,
        *,
        clock: Clock,
        at_once: Collection[str] = (),
        has_time: Callable[[], bool] = lambda: True,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options: Final = options
        self._rules: Final = options.rules
        self._ports: Final = ports
        self._ledger: Final = ports.ledger
        self._clock: Final = clock
        self._at_once: Final = frozenset(at_once)
        self._has_time: Final = has_time
        self._billed_from: datetime | None = None
        self._known: tuple[datetime, Register] | None = None
        self._monotonic: Final = monotonic
        self._begun = monotonic()
        self._sender: Final = Sender(
            ports.metering,
            ports.ledger,
            product_code=options.product.product_code,
            rules=options.rules,
            clock=clock,
            has_time=lambda: has_time() and monotonic() - self._begun < SENDS_FOR.total_seconds(),
            calls_per_second=options.calls_per_second,
            sleep=sleep,
            monotonic=monotonic,
        )

    def run(self) -> None:
        """Do everything that is due, the oldest first.

        Raises:
            MarketplaceConstructsError: The ledger belongs to another stack, or is broken.
            Exception: Whatever AWS answered; nothing is lost, and the next run goes on from there.
        """
        options, now = self._options, self._clock()
        self._begun, self._sender.is_denied = self._monotonic(), False
        first = self._claim(now)
        self._ledger.load()
        self._tell("AgreementWithoutLicense", len(self._register(now, anew=True).nameless))
        if not options.product.is_native:
            self._flush_ended(first)
            if self._due(first):  # once an hour
                self._reconcile()
        held: set[datetime] = set()
        self._settle_and_send()
        while self._has_time():
            due = [hour for hour in self._due(first) if hour not in held]
            if not due:
                break
            if not self._close(due[0], first):
                held.add(due[0])
            self._settle_and_send()
        self._tell("SendingDenied", int(self._sender.is_denied))
        self._tell_how_it_stands(first)

    def due(self) -> list[datetime]:
        """The hours that a run would close now, the oldest first."""
        return self._due(self._claim(self._clock()))

    def _claim(self, now: datetime) -> datetime:
        """Make sure of the ledger; its first hour."""
        self._ports.plans.refresh()
        claim = self._ledger.claim(
            stack=self._options.stack,
            kind=self._options.product.agreement_kind,
            begins=self._begins(now),
            now=now,
            joins=self._options.joins,
        )
        self._billed_from = claim.billed_from
        return claim.first_hour

    def _begins(self, now: datetime) -> Claim:
        """Where a new ledger begins: when the first plan began to hold, however long the meter could not run.

        Where API Gateway metered before, no hour is billed that it may still report: two whole hours lie between.
        """
        if self._options.is_after_native:
            return Claim(first_hour=hour_of(now), billed_from=hour_of(now) + 3 * _HOUR)
        first = min(hour_of(now), max(self._ports.plans.starts_at or now, hour_of(now) - 24 * _HOUR))
        return Claim(first_hour=first, billed_from=first)

    def _due(self, first: datetime) -> list[datetime]:
        """The hours that are over for the watermark, and not closed."""
        state, now = self._ledger.load(), self._clock()
        start = max([first, *([max(state.closed) - 47 * _HOUR] if state.closed else [])])
        hours = int((now - self._options.watermark - start) / _HOUR)
        return [hour for number in range(hours) if (hour := start + number * _HOUR) not in state.closed]

    def _register(self, now: datetime, *, anew: bool = False) -> Register:
        """Who was a buyer when; read hardly earlier than what is sealed by it, so that no end is overlooked."""
        if anew or self._known is None or not self._known[0] <= now < self._known[0] + _FACTS_HOLD:
            self._known = now, register(self._ports.facts(), product=self._options.product, now=now)
        return self._known[1]

    def _close(self, hour: datetime, first: datetime) -> bool:
        """Take an hour in, with what came late of hours before; False where it must wait for a table that knows it."""
        for lost in range(_RACES):
            state, now = self._ledger.load(), self._clock()
            if hour in state.closed:
                return True
            who = self._register(now, anew=lost > 0)
            found = [self._read(hour, who, now, since=state.read_at or first)]
            if found[0].closed.lines.get(LineState.UNMATCHED) and now < self._held_until(hour):
                self._tell("LinesUnmatched", found[0].closed.lines[LineState.UNMATCHED])
                logger.error("hour held: lines match no route of any plan", extra={"hour": hour.isoformat()})
                return False
            postponed = list[datetime]()
            told_late = _told_late(state, who, self._options.dimensions, now)
            for late in sorted((found[0].also | state.again | told_late) & state.closed.keys()):
                if self._has_time():
                    found.append(self._read(late, who, now))
                else:
                    postponed.append(late)
            closed = tuple(
                one.closed if one.closed.hour == hour else _with_quarantine(one.closed, state) for one in found
            )
            if self._options.product.is_native:
                # API Gateway reports all of it itself.
                closed = tuple(replace(one, unjudged=None) for one in closed)
                sealed = Sealed(records=(), losses=(), waiting={}, excess={})
            else:
                sealed = self._seal(state, self._joined(found, state, who), who, closed=[hour], now=now)
                given = given_up(state, closed, billed_from=self._billed_from)
                sealed = replace(sealed, losses=sealed.losses + given)
            # What waits for a slot must be worked out again, whichever of these hours it is of.
            waiting = {one.closed.hour for one in found if sealed.waiting.keys() & one.usage.keys()}
            manifest = self._next(
                state,
                now,
                closed=closed,
                records=sealed.records,
                losses=sealed.losses,
                read_at=now,
                again=tuple(sorted({*waiting, *self._unplanned(found, now), *postponed})),
            )
            lines = _lines_not_told(found, state)
            if self._ledger.append(manifest):
                self._tell_closed(found[0].closed, lines, sealed)
                return True
        return False

    def _held_until(self, hour: datetime) -> datetime:
        """Until when somebody may say how to count what nobody knows how to count."""
        return self._rules.deadline(hour) - _HELD_UNTIL

    def _unplanned(self, found: Sequence[HourUsage], now: datetime) -> set[datetime]:
        """The hours with usage events whose agreement may still be given a plan."""
        return {
            one.closed.hour
            for one in found
            if now < self._held_until(one.closed.hour)
            and any(
                series.dimension.startswith(EVENT) and not is_outside(series) for series in one.closed.unjudged or ()
            )
        }

    def _flush_ended(self, first: datetime) -> None:
        """Bill what an agreement used up to its end, at once and once more, while AWS still takes it."""
        for lost in range(_RACES):
            state, now = self._ledger.load(), self._clock()
            rules = self._rules
            who = self._register(now, anew=lost > 0)
            ended = {
                agreement: buyer
                for agreement, buyer in who.ended(since=now - rules.final_window).items()
                if buyer.ended_at is not None
                and (now < buyer.ended_at + _PROMPT or now >= buyer.ended_at + rules.final_flush)
            }
            if not ended:
                return
            last = hour_of(now)
            # The last closed hour once more: its last lines may have come since.
            start = max(max(state.closed, default=first), last - ARRIVES_WITHIN)
            hours = {start + number * _HOUR for number in range(int((last - start) / _HOUR) + 1)}
            found = [self._read(hour, who, now) for hour in sorted({*hours, *self._due(first), *state.again})]
            joined = self._joined(found, state, who)
            usage = {series: by_hour for series, by_hour in joined.items() if series.agreement in ended}
            sealed = self._seal(state, usage, Register(buyers=ended, lives=()), closed=(), now=now)
            manifest = self._next(state, now, records=sealed.records, losses=sealed.losses)
            if manifest.is_empty or self._ledger.append(manifest):
                self._tell_losses(sealed.losses)
                return

    def _read(self, hour: datetime, who: Register, now: datetime, *, since: datetime | None = None) -> HourUsage:
        return self._ports.log.read(hour, now=now, lives=who.lives, tables=self._ports.plans.at(hour), since=since)

    def _joined(
        self, found: Sequence[HourUsage], state: LedgerState, who: Register
    ) -> dict[Series, dict[datetime, Usage]]:
        """What was found, and nothing of what the ledger holds of these hours and the log shows no more."""
        joined: dict[Series, dict[datetime, Usage]] = {}
        for one in found:
            hour = one.closed.hour
            gone = (
                series
                for series, held in state.series.items()
                if hour in held.accounted
                and series.dimension in self._options.dimensions
                and series.agreement in who.buyers
            )
            nothing = dict.fromkeys(gone, Usage(quantity=Fraction(0), earliest=hour))
            for series, usage in {**nothing, **one.usage}.items():
                joined.setdefault(series, {})[hour] = usage
        return joined

    def _seal(
        self,
        state: LedgerState,
        usage: Mapping[Series, Mapping[datetime, Usage]],
        who: Register,
        *,
        closed: Sequence[datetime],
        now: datetime,
    ) -> Sealed:
        return seal(
            state,
            usage,
            who.buyers,
            dimensions=self._options.dimensions,
            closed=closed,
            now=now,
            rules=self._rules,
            record_id_prefix=f"{state.sequence + 1}/",
            billed_from=self._billed_from,
        )

    def _next(self, state: LedgerState, now: datetime, **said: Any) -> Manifest:
        return Manifest(sequence=state.sequence + 1, previous=self._ledger.head, written_at=now, **said)

    def _settle_and_send(self) -> None:
        """Take in what is known of the records that were sent, send the others, and take in what AWS said."""
        if self._options.product.is_native:
            return
        self._settle()
        now = self._clock()
        state = self._ledger.load()
        attempts = self._ledger.attempts_of(state.open)
        self._sender.send(
            [r for r in state.open if r.id in self._at_once or not is_resting(attempts[r.id], now)],
        )
        self._settle()

    def _settle(self) -> None:
        for _ in range(_RACES):
            state, now = self._ledger.load(), self._clock()
            attempts = self._ledger.attempts_of(state.records.values())
            settlements = tuple(
                settlement
                for record in state.records.values()
                if (settlement := self._settlement(record, attempts[record.id], state, now)) is not None
            )
            if not settlements or self._ledger.append(self._next(state, now, settlements=settlements)):
                self._tell_settled(settlements, attempts)
                return

    def _settlement(
        self, record: Record, attempts: Sequence[Attempt], state: LedgerState, now: datetime
    ) -> Settlement | None:
        """What became of a record, where that is another thing than the ledger says."""
        found, reason = outcome(
            [attempt.answer.status if attempt.answer else None for attempt in attempts],
            is_over=self._rules.is_over(record.timestamp, now),
        )
        proof = next((a.answer.metering_record_id for a in attempts if a.answer and a.answer.metering_record_id), "")
        if found is Outcome.OPEN or (found, reason) == state.stands(record.id):
            return None
        return Settlement(record=record.id, outcome=found, metering_record_id=proof, reason=reason)

    def _reconcile(self) -> None:
        """Settle what CloudTrail shows to be accepted. What it does not show within days waits for a person."""
        for _ in range(_RACES):
            state, now = self._ledger.load(), self._clock()
            if self._ports.trail is None or not state.in_doubt:
                return
            doubtful = {record: state.records[record] for record in state.in_doubt}
            attempts = self._ledger.attempts_of(doubtful.values())
            asked = [record for record, sent in attempts.items() if sent and now < sent[-1].at + _ASKED_FOR]
            if not asked:
                return
            shown = self._shown(self._ports.trail, [doubtful[record] for record in asked], attempts, now)
            settlements = tuple(
                Settlement(record=record, outcome=Outcome.ACCEPTED, metering_record_id=proof)
                for record, proof in shown.items()
            )
            if not settlements or self._ledger.append(self._next(state, now, settlements=settlements)):
                return

    def _shown(
        self, trail: Trail, records: Sequence[Record], attempts: Mapping[str, Sequence[Attempt]], now: datetime
    ) -> dict[str, str]:
        """The records that CloudTrail shows to be accepted, with AWS's proof."""
        shown: dict[str, str] = {}
        try:
            for later in LOOKED_FOR:
                left = [record for record in records if record.id not in shown]
                sent = [attempt.at for record in left for attempt in attempts[record.id]]
                for since, until in windows(sent, now, later=later):
                    if self._has_time():
                        code = self._options.product.product_code
                        shown |= shown_accepted(left, trail, product_code=code, since=since, until=until)
        except (ClientError, BotoCoreError) as error:
            logger.warning("CloudTrail not read", extra={"error": error_code(error)})
        return shown

    def _tell(self, name: str, number: int) -> None:
        if number:
            self._ports.count(name, number)

    def _tell_closed(self, closed: ClosedHour, lines: Mapping[str, int], sealed: Sealed) -> None:
        self._tell("LinesQuarantined", closed.quarantined)
        self._tell("LinesUnmatched", lines.get(LineState.UNMATCHED, 0) + lines.get(UNPLANNED, 0))
        self._tell("LinesUnattributed", lines.get(LineState.UNATTRIBUTED, 0))
        self._tell("LinesOutsideAgreement", lines.get(LineState.OUTSIDE, 0))
        self._tell("UsageExcess", len(sealed.excess))
        for series, quantity in sealed.excess.items():
            logger.error(
                "the log shows less than was billed",
                extra={"agreement": series.agreement, "dimension": series.dimension, "quantity": str(quantity)},
            )
        self._tell_losses(sealed.losses)
        logger.info(
            "hour closed",
            extra={"hour": closed.hour.isoformat(), "lines": closed.lines, "records": len(sealed.records)},
        )

    def _tell_losses(self, losses: Sequence[Loss]) -> None:
        self._tell("UsageLost", sum(loss.reason not in _EXPECTED for loss in losses))
        for loss in losses:
            logger.warning(
                "usage lost",
                extra={
                    "agreement": loss.series.agreement,
                    "dimension": loss.series.dimension,
                    "hour": loss.hour.isoformat(),
                    "quantity": str(loss.quantity),
                    "reason": loss.reason,
                },
            )

    def _tell_settled(self, settlements: Sequence[Settlement], attempts: Mapping[str, Sequence[Attempt]]) -> None:
        self._tell("UsageLost", sum(one.outcome is Outcome.LOST for one in settlements))
        for one in settlements:
            if one.outcome is Outcome.IN_DOUBT and any(
                attempt.answer is not None and attempt.answer.status is Status.DUPLICATE_RECORD
                for attempt in attempts[one.record]
            ):
                self._tell("DuplicateFromElsewhere", 1)
            if one.outcome is not Outcome.ACCEPTED:
                logger.warning("not billed", extra={"record": one.record, "outcome": one.outcome, "reason": one.reason})

    def _tell_how_it_stands(self, first: datetime) -> None:
        """What alarms watch, told by every run: silence is an alarm too."""
        state, now = self._ledger.load(), self._clock()
        oldest = min((record.timestamp for record in state.open), default=now)
        self._ports.gauge("OldestUnsentRecordAge", max(0.0, (now - oldest).total_seconds()))
        unclosed = min(self._due(first), default=None)
        lag = now - (unclosed + _HOUR + self._options.watermark) if unclosed else timedelta(0)
        self._ports.gauge("HourNotClosedFor", max(0.0, lag.total_seconds()))
        self._ports.gauge("RecordsInDoubt", len(state.in_doubt))


def _lines_not_told(found: Sequence[HourUsage], state: LedgerState) -> Counter[str]:
    """By their state, and of an hour that is worked out again those alone that it did not have."""
    lines = Counter[str]()
    for one in found:
        known = state.closed.get(one.closed.hour)
        lines += Counter(one.closed.lines) - Counter(known.lines if known else {})
    return lines


def _with_quarantine(closed: ClosedHour, state: LedgerState) -> ClosedHour:
    """An hour that is worked out again keeps what was counted as unreadable when its files came."""
    return replace(closed, quarantined=state.closed[closed.hour].quarantined)


def _told_late(state: LedgerState, who: Register, dimensions: Sequence[str], now: datetime) -> set[datetime]:
    """Closed hours with usage outside its agreement that is so no more: AWS told of somebody's life after that.

    Of an hour in which the agreement began, some may stay outside; it is looked at again for some hours alone, and no
    more once anything of it is billed.
    """

    def is_told(agreement: str, hour: datetime) -> bool:
        if who.covers(agreement, hour):
            return True
        owner = who.began_in(agreement, hour)
        if owner is None or now >= hour + _TOLD_WITHIN:
            return False
        held = (state.series.get(Series(agreement=owner, dimension=one)) for one in dimensions)
        return not any(one is not None and hour in one.accounted for one in held)

    return {
        hour
        for hour, closed in state.closed.items()
        for series in closed.unjudged or ()
        if is_outside(series) and is_told(series.agreement, hour)
    }


def is_resting(attempts: Sequence[Attempt], now: datetime) -> bool:
    """Whether AWS refused the record by itself, so short a time ago that it would do so again."""
    last = attempts[-1] if attempts else None
    return (
        last is not None
        and last.answer is not None
        and last.answer.status is Status.REFUSED
        and now < last.at + _REFUSED_PAUSE
    )


def rules_of(settings: MeterSettings) -> MeteringRules:
    """How AWS wants to be told, as a stack was told."""
    return MeteringRules(
        window=timedelta(hours=settings.window_hours),
        month_end_hours=settings.month_end_hours,
        decimals=settings.decimals,
        sends_zero=bool(settings.sends_zero),
        final_window=timedelta(minutes=settings.final_window_minutes),
        final_flush=timedelta(minutes=settings.final_flush_minutes),
    )


def usage_log(settings: MeterSettings) -> UsageLog:
    """Calls, and usage events where the product declares any."""
    memory = f"{settings.duckdb_memory_mb}MB"
    lines = DuckDbUsageLog(S3LogFiles(client("s3"), settings.log_bucket, settings.log_prefix), memory=memory)
    if not settings.usage_events:
        return lines
    events = DuckDbUsageEvents(
        S3LogFiles(client("s3"), settings.log_bucket, settings.events_prefix),
        declared=settings.usage_events.split(","),
        memory=memory,
    )
    return LinesAndEvents(lines, events)


@cache
def _settings() -> MeterSettings:
    settings = MeterSettings.from_environment()
    tell_of(settings.sale)
    return settings


def options_of(settings: MeterSettings, *, is_after_native: bool) -> MeterOptions:
    """How a stack meters its product."""
    return MeterOptions(
        product=settings.terms,
        dimensions=settings.dimensions.split(","),
        stack=settings.stack,
        joins=settings.joins,
        watermark=timedelta(minutes=settings.watermark_minutes),
        rules=rules_of(settings),
        calls_per_second=settings.calls_per_second,
        is_after_native=is_after_native,
    )


@metrics.log_metrics
def handler(event: Mapping[str, Any], context: LambdaContext, *, clock: Clock = utc_now) -> None:
    """Entry point of the function, run every few minutes.

    An event may name records, under ``resend``, that are sent though AWS refused them a short time ago.
    """
    settings = _settings()
    prefix = ledger_prefix(settings.product_code, settings.metering_region)
    native = S3Objects(client("s3"), settings.ledger_bucket, f"{prefix}native/")
    objects = native if settings.terms.is_native else S3Objects(client("s3"), settings.ledger_bucket, prefix)
    ports = Ports(
        facts=DynamoDbFacts(client("dynamodb"), settings.facts_table).buyers,
        plans=PlanTimeline(
            DynamoDbPlanVersions(client("dynamodb"), settings.plans_table),
            S3PlanTables(client("s3"), settings.tables_bucket),
        ),
        log=usage_log(settings),
        ledger=Ledger(objects, run=uuid.uuid4().hex),
        metering=metering_client(settings.metering_region),
        trail=CloudTrail(client("cloudtrail", settings.metering_region)),
    )
    is_after_native = not settings.terms.is_native and native.get("claim.json") is not None
    Meter(
        options_of(settings, is_after_native=is_after_native),
        ports,
        clock=clock,
        at_once=event.get("resend", ()),
        has_time=lambda: context.get_remaining_time_in_millis() > settings.reserve_seconds * 1000,
    ).run()
