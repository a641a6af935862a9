"""The scenario of a native product whose usage the pipeline works out besides, and reports to nobody but the seller."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction
from http import HTTPStatus
from typing import Final

from marketplace_constructs.domain.plan_versions import hour_of, next_hour
from marketplace_constructs.domain.product import NATIVE_DIMENSION
from marketplace_constructs.rehearsal.doubt_scenario import ledger_objects, ledger_of
from marketplace_constructs.rehearsal.emulator import local_client
from marketplace_constructs.rehearsal.journey import Promises, require
from marketplace_constructs.rehearsal.native_meter import ROLE_NAME
from marketplace_constructs.rehearsal.stage import Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import Visitor, open_to, register, sold_route
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts
from marketplace_constructs.runtime.metering.buyers import register as metered
from marketplace_constructs.runtime.metering.doubt import CloudTrail
from marketplace_constructs.runtime.metering.log_files import S3LogFiles
from marketplace_constructs.runtime.metering.native import Compared, compare, reported
from marketplace_constructs.runtime.metering.totals import DuckDbUsageLog, PlanTimeline, tag_value
from marketplace_constructs.runtime.plan_tables import S3PlanTables
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions

_CALLS: Final = (3, 5)


def report_only(stage: Stage, promises: Promises) -> None:
    """Two buyers call; API Gateway's own meter bills them, and the deployed one counts the same."""
    sale = stage.sale(SaleKind.REPORTED)
    stage.clock.advance(next_hour(stage.clock.now()) + timedelta(minutes=2) - stage.clock.now())
    sale.meter.report()
    sale.meter.forget()
    stage.run_meter(sale)
    noted = len(stage.market.trail.events)
    hour = hour_of(stage.clock.now())
    with promises.promise("two buyers call, and each call has its line") as notes:
        buyers = [_buyer(stage, sale, calls) for calls in _CALLS]
        stage.access_logs.deliver()
        notes.append(", ".join(f"{len(buyer.calls)} calls of {buyer.identity}" for buyer in buyers))
    with promises.promise("API Gateway's meter reports what they called, and AWS Marketplace accepts it"):
        require(sale.meter.report() == len(buyers), "something was refused")
    with promises.promise("the deployed meter closes the hour, and says how many lines count"):
        _close(stage, sale)
        closed = ledger_of(stage, sale).closed.get(hour)
        require(closed is not None, f"hour {hour:%H:%M} is not closed")
        assert closed is not None
        succeeded = sum(_paths(buyer).total() for buyer in buyers)
        lines = closed.lines.get(f"{NATIVE_DIMENSION} billable", 0)
        require(lines == succeeded, f"{succeeded} calls succeeded and {dict(closed.lines)} are counted")
    with promises.promise("it has sent nothing: API Gateway alone has called BatchMeterUsage, and no record is sealed"):
        callers = {event.caller.name for event in stage.market.trail.events[noted:] if event.is_of(sale.listing.code)}
        require(callers == {ROLE_NAME}, f"BatchMeterUsage was called by {', '.join(sorted(callers))}")
        history, objects = ledger_of(stage, sale), ledger_objects(stage, sale)
        require(not history.records and not history.losses, "the ledger has records or losses")
        require(not objects.keys("attempts/"), "the ledger has attempts to send")
    with promises.promise("of each buyer the log shows every path, and in all what API Gateway reported") as notes:
        found = _compared(stage, sale, hour)
        for buyer in buyers:
            paths, one = _paths(buyer), found[buyer.identity]
            require(one.by_path == paths, f"{dict(paths)} were called and {one.by_path} are counted")
            require(one.native == buyer.served, f"{buyer.served} calls were served and {one.native} are reported")
            said = ", ".join(f"{number} {path}" for path, number in sorted(paths.items()))
            notes.append(f"{buyer.identity}: {said}; {one.native} reported")
    with promises.promise(
        "a call whose line is late is reported and not counted, which shows, until its line has come"
    ):
        late = hour_of(stage.clock.now())
        with stage.access_logs.put_aside() as bring:
            buyers[0].call(sold_route(stage, sale), buyers[0].key)
        sale.meter.report()
        _close(stage, sale)
        one = _compared(stage, sale, late)[buyers[0].identity]
        require([one.log, one.native] == [Fraction(0), Fraction(1)], f"{one.log} are counted and {one.native} reported")
        require(one.is_different and one.different_hours == [late], "it does not show")
        bring()
        one = _compared(stage, sale, late)[buyers[0].identity]
        require(
            [one.log, one.native] == [Fraction(1), Fraction(1)], f"then {one.log} are counted and {one.native} reported"
        )


def _buyer(stage: Stage, sale: Sale, calls: int) -> Visitor:
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    buyer.subscribe()
    register(buyer)
    open_to(buyer)
    plain = [route for route in stage.routes(sale.api_id) if not route.is_open and "{" not in route.path]
    for number in range(calls):
        buyer.call((plain or [sold_route(stage, sale)])[number % max(1, len(plain))], buyer.key)
    return buyer


def _paths(buyer: Visitor) -> Counter[str]:
    """How many calls of each path succeeded."""
    return Counter(tag_value(call.resource_path) for call in buyer.calls if call.status < HTTPStatus.BAD_REQUEST)


def _close(stage: Stage, sale: Sale) -> None:
    """Run the meter when the present hour is over for it, and CloudTrail shows what was reported."""
    assert sale.pipeline is not None
    now, minutes = stage.clock.now(), sale.pipeline.settings.watermark_minutes + 1
    stage.clock.advance(next_hour(now) + timedelta(minutes=minutes) - now)
    stage.run_meter(sale)


def _compared(stage: Stage, sale: Sale, hour: datetime) -> dict[str, Compared]:
    """As ``sellable meter compare`` does, by customer."""
    assert sale.pipeline is not None
    settings, now = sale.pipeline.settings, stage.clock.now()
    dynamodb, s3 = stage.aws.client("dynamodb"), stage.aws.client("s3")
    who = metered(DynamoDbFacts(dynamodb, settings.facts_table).buyers(), product=settings.terms, now=now)
    plans = PlanTimeline(DynamoDbPlanVersions(dynamodb, settings.plans_table), S3PlanTables(s3, settings.tables_bucket))
    plans.refresh()
    log = DuckDbUsageLog(S3LogFiles(s3, settings.log_bucket, settings.log_prefix))
    found = log.read(hour, now=now, lives=who.lives, tables=plans.at(hour))
    trail = CloudTrail(local_client("cloudtrail", stage.server.url))
    records = reported(trail, [hour], product_code=settings.product_code, dimension=NATIVE_DIMENSION, now=now)
    customers = {agreement: buyer.customer_identifier for agreement, buyer in who.buyers.items()}
    compared = compare([found], records, customers=customers, dimension=NATIVE_DIMENSION)
    return {one.customer: one for one in compared}
