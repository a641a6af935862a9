"""``sellable simulate``: what one call, or a whole log, would be billed under a plan, and why."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from marketplace_constructs.cli.group import common_options
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.plan_table import LineState
from marketplace_constructs.domain.product import NATIVE_DIMENSION, Metering
from marketplace_constructs.domain.usage_plan import METHODS

if TYPE_CHECKING:
    from marketplace_constructs.policy.access_logs import Progress
    from marketplace_constructs.policy.documents import Plan, PriceList
    from marketplace_constructs.policy.evaluation import Expansion
    from marketplace_constructs.policy.patterns import Route
    from marketplace_constructs.policy.pool import Pool
    from marketplace_constructs.policy.simulation import Decision, Loser, Request, Simulation

_SCHEMA_VERSION: Final = 1
_WIDTH: Final = 60
_MAX_ROUTES: Final = 10_000
_NOT_FOR_SIMULATION: Final = "MON118"
"""That a plan's time has come or gone does not keep anybody from asking what it bills."""
_DIRECTORY: Final = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_COUNT: Final = click.IntRange(min=0, max=10**18 - 1)


@click.command("simulate")
@click.argument("directory", metavar="DIR", type=_DIRECTORY)
@click.option("--plan", "plan_name", required=True, metavar="ID[@V]", help="Without version: its highest.")
@click.option("--routes", "routes_file", type=_FILE, metavar="FILE", help="An OpenAPI file, or a synthesized template.")
@click.option("--api", metavar="ID", help="Which API, where a template has several.")
@click.option("--stage", default="prod", show_default=True, metavar="NAME", help="For the key api:Stage.")
@click.option("--request", "call", metavar='"METHOD /PATH"', help="One call; the path as the API declares it.")
@click.option("--status", type=click.IntRange(0, 999), default=200, show_default=True, help="Of the call.")
@click.option("--response-bytes", type=_COUNT, default=0, metavar="N", help="Of the call.")
@click.option("--integration-ms", type=_COUNT, default=0, metavar="N", help="Of the call.")
@click.option("--response-ms", type=_COUNT, default=0, metavar="N", help="Of the call.")
@click.option("--time", "at", metavar="T", help="Of the call, such as 2026-12-01T00:00:00Z; now.")
@click.option(
    "--log", "logs", multiple=True, metavar="FILE", help="Access log, plain or gzip: file, directory, pattern."
)
@click.argument("more_logs", nargs=-1, metavar="[FILE]...")
@common_options
def command(
    *,
    directory: Path,
    plan_name: str,
    routes_file: Path | None,
    api: str | None,
    stage: str,
    call: str | None,
    status: int,
    response_bytes: int,
    integration_ms: int,
    response_ms: int,
    at: str | None,
    logs: tuple[str, ...],
    more_logs: tuple[str, ...],
    output: str,
) -> int:
    """What a call, or a log, would be billed and why.

    Either --request or --log, which takes several files. Without --routes, a
    call's own route is all that is looked at, and a log's routes are those that
    it shows. Prices are the plan's; an estimate, without free units or taxes.
    """
    from marketplace_constructs.policy.simulation import Request

    if more_logs and not logs:
        raise click.UsageError(f"Got unexpected argument {more_logs[0]!r}; name logs with --log.")
    if (call is None) == (not logs):
        raise click.UsageError("Expected either --request or --log.")
    pool = _pool(directory)
    plan = _plan(pool, plan_name)
    prices = [entry.document for entry in pool.price_lists.get(plan.price_list, ())]
    routes = _routes(routes_file, api)
    if plan.not_evaluated:
        left_out = " and ".join(plan.not_evaluated)
        click.echo(f"note: {left_out} of {plan.reference} left out; everything is priced as if not included", err=True)
    if call is not None:
        method, path = _method_and_path(call)
        request = Request(
            method=method,
            path=path,
            time=_time(at),
            status=status,
            response_bytes=response_bytes,
            integration_ms=integration_ms,
            response_ms=response_ms,
        )
        _show_request(pool, plan, request, routes=routes, stage=stage, prices=prices, output=output)
        return 0
    _show_log(pool, plan, [*logs, *more_logs], routes=routes, stage=stage, prices=prices, output=output)
    return 0


def _show_request(
    pool: Pool,
    plan: Plan,
    request: Request,
    *,
    routes: Sequence[Route] | None,
    stage: str,
    prices: Sequence[PriceList],
    output: str,
) -> None:
    from marketplace_constructs.policy.patterns import Route
    from marketplace_constructs.policy.simulation import simulate_request

    routes = [Route(path=request.path, method=request.method)] if routes is None else routes
    decision = simulate_request(_expansion(pool, plan, routes, stage), request, price_lists=prices)
    if output == "json":
        click.echo(json.dumps(_decision_to_json(plan, decision)))
    else:
        _print_decision(decision, _why_unknown(decision, plan, prices))


def _show_log(
    pool: Pool,
    plan: Plan,
    files: Sequence[str],
    *,
    routes: Sequence[Route] | None,
    stage: str,
    prices: Sequence[PriceList],
    output: str,
) -> None:
    from marketplace_constructs.policy.access_logs import AccessLog
    from marketplace_constructs.policy.patterns import Route
    from marketplace_constructs.policy.simulation import simulate, simulate_log

    with _progress() as progress:
        if routes is None:
            with AccessLog(files, progress=progress) as log:
                found = [
                    Route(path=path, method=method)
                    for method, path in log.routes(at_most=_MAX_ROUTES)
                    if method in METHODS and path.startswith("/")
                ]
                table = _expansion(pool, plan, found, stage).table
                simulation = simulate(log, table, price_lists=prices)
        else:
            table = _expansion(pool, plan, routes, stage).table
            simulation = simulate_log(table, files, price_lists=prices, progress=progress)
    if table.events:
        names = ", ".join(sorted({meter.event for meter in table.events}))
        click.echo(f"note: usage events {names} left out, which {plan.reference} counts; a log shows calls", err=True)
    if simulation.unparsable and not (simulation.totals or simulation.skipped):
        raise _refusal(
            "MP-SIM-04",
            f"log, got {simulation.unparsable:,} lines, none of which tells of a call; expected lines of the access "
            "log that the stack writes; name its files",
        )
    if routes is None:
        click.echo("note: routes are those that the log shows; give --routes FILE to find unmatched ones", err=True)
    is_native = pool.product is not None and pool.product.document.marketplace.metering == Metering.NATIVE
    native = _native_bill(simulation, prices) if is_native else None
    if output == "json":
        click.echo(json.dumps(_simulation_to_json(plan, simulation, native)))
    else:
        _print_simulation(simulation, native)


def _native_bill(simulation: Simulation, prices: Sequence[PriceList]) -> dict[str, object]:
    """What API Gateway's own metering comes to, from the successful to all accepted calls."""
    from marketplace_constructs.policy.simulation import price_in_force

    low, high = simulation.native_calls
    price = price_in_force(prices, NATIVE_DIMENSION, datetime.now(UTC))
    return {
        "calls_from": low,
        "calls_to": high,
        "price_from": _amount(None if price is None else low * Fraction(price)),
        "price_to": _amount(None if price is None else high * Fraction(price)),
    }


def _pool(directory: Path) -> Pool:
    """The documents, none of which has an error.

    Raises:
        MarketplaceConstructsError: MP-SIM-02: they have errors.
    """
    from marketplace_constructs.domain.finding import FindingType
    from marketplace_constructs.policy.lint import lint, load_pool

    pool = load_pool(directory)
    errors = [
        finding
        for finding in lint(pool, now=datetime.now(UTC)).findings
        if finding.finding_type is FindingType.ERROR and finding.issue_code != _NOT_FOR_SIMULATION
    ]
    if errors:
        first = errors[0]
        raise _refusal(
            "MP-SIM-02",
            f"documents, got {len(errors)} with an error, first {first.issue_code} in {first.document}; "
            f"expected none; run: sellable lint {directory}",
        )
    return pool


def _plan(pool: Pool, name: str) -> Plan:
    plans = [entry.document for entry in pool.plans.values() if name in {entry.document.id, entry.document.reference}]
    if not plans:
        known = ", ".join(sorted(pool.plans)) or "none"
        raise click.BadParameter(f"{name!r} is no plan; expected one of: {known}", param_hint="--plan")
    return max(plans, key=lambda plan: plan.plan_version)


def _routes(file: Path | None, api: str | None) -> tuple[Route, ...] | None:
    from marketplace_constructs.policy.routes import read_routes

    if file is None:
        if api is not None:
            raise click.UsageError("--api says which API of --routes FILE.")
        return None
    return read_routes(file, api=api)


def _expansion(pool: Pool, plan: Plan, routes: Sequence[Route], stage: str) -> Expansion:
    """The plan, worked out.

    Raises:
        MarketplaceConstructsError: MP-SIM-03: nothing decides between two of its statements.
    """
    from marketplace_constructs.policy.evaluation import TooIntertwinedError, expand

    try:
        expansion = expand(pool, plan, routes, stage=stage)
    except TooIntertwinedError as error:
        raise _refusal(
            "MP-SIM-03", f"conditions on {error}, got too many; expected fewer; run sellable lint with --routes"
        ) from None
    if expansion.ties:
        tie = expansion.ties[0]
        raise _refusal(
            "MP-SIM-03",
            f"plan {plan.reference}, got {tie.one.statement.sid} and {tie.other.statement.sid} of equal rank for "
            f"{tie.dimension} on {tie.route or 'an event'}; expected one winner; run sellable lint with --routes",
        )
    return expansion


def _method_and_path(call: str) -> tuple[str, str]:
    match = re.fullmatch(r"([A-Za-z]+) +(/[^\s?#]*)", call.strip())
    if match is None or match[1].upper() not in METHODS:
        raise click.BadParameter(
            f'{call!r}; expected one of {", ".join(METHODS)} and a path without query, such as "GET /v1/images/{{id}}"',
            param_hint="--request",
        )
    return match[1].upper(), match[2]


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or time.timestamp() < 0:
        raise click.BadParameter(f"{text!r}; expected a time such as 2026-12-01T00:00:00Z", param_hint="--time")
    return time.astimezone(UTC)


@contextmanager
def _progress() -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the log", total=1.0)
        yield lambda part: bar.update(task, completed=part)


def _decision_to_json(plan: Plan, decision: Decision) -> dict[str, object]:
    from marketplace_constructs.policy.simulation import decimal_text

    request = decision.request
    return {
        "schema_version": _SCHEMA_VERSION,
        "plan": plan.id,
        "plan_version": plan.plan_version,
        "not_evaluated": list(plan.not_evaluated),
        "request": {
            "method": request.method,
            "path": request.path,
            "status": request.status,
            "response_bytes": request.response_bytes,
            "integration_ms": request.integration_ms,
            "response_ms": request.response_ms,
            "time": request.time.isoformat(),
        },
        "access": {
            "state": _access(decision),
            "policy": decision.policy,
            "sid": decision.sid,
            "losers": [_loser_to_json(loser) for loser in decision.losers],
        },
        "dimensions": [
            {
                "dimension": verdict.dimension,
                "state": verdict.state.value,
                "policy": verdict.policy,
                "sid": verdict.sid,
                "quantity": decimal_text(verdict.quantity),
                "price": _amount(verdict.amount),
                "losers": [_loser_to_json(loser) for loser in verdict.losers],
            }
            for verdict in decision.verdicts
        ],
        "price": _amount(_sum(verdict.amount for verdict in decision.verdicts if verdict.quantity)),
        "price_list": plan.price_list,
    }


def _simulation_to_json(plan: Plan, simulation: Simulation, native: Mapping[str, object] | None) -> dict[str, object]:
    from marketplace_constructs.policy.simulation import decimal_text

    content: dict[str, object] = {
        "schema_version": _SCHEMA_VERSION,
        "plan": plan.id,
        "plan_version": plan.plan_version,
        "not_evaluated": list(plan.not_evaluated),
        "skipped": simulation.skipped,
        "duplicates": simulation.duplicates,
        "unparsable": simulation.unparsable,
        "totals": [
            {
                "dimension": total.dimension,
                "policy": total.policy,
                "sid": total.sid,
                "state": total.state,
                "lines": total.lines,
                "quantity": decimal_text(total.quantity),
            }
            for total in simulation.totals
        ],
        "price": _amount(_sum(estimate.amount for estimate in simulation.estimates)),
        "prices": [
            {
                "dimension": estimate.dimension,
                "quantity": decimal_text(estimate.quantity),
                "price": _amount(estimate.amount),
            }
            for estimate in simulation.estimates
        ],
        "price_list": plan.price_list,
    }
    if native is not None:
        content["native"] = native
    return content


def _why_unknown(decision: Decision, plan: Plan, prices: Sequence[PriceList]) -> str:
    """Why a price is not known."""
    at = decision.request.time
    first = min((one.effective_from for one in prices), default=at)
    if first > at:
        return f"price list {plan.price_list} holds from {first:%Y-%m-%dT%H:%M:%SZ} on; see --time"
    unpriced = (verdict.dimension for verdict in decision.verdicts if verdict.quantity and verdict.amount is None)
    return f"price list {plan.price_list} has none for {', '.join(unpriced)}"


def _print_decision(decision: Decision, why_unknown: str) -> None:
    from marketplace_constructs.policy.simulation import decimal_text

    request = decision.request
    _say(f"{request.method} {request.path} under {decision.plan}: {_access(decision)}{_by(decision)}")
    if not decision.is_known:
        return
    _print_losers(decision.losers)
    for verdict in decision.verdicts:
        name = f" by {verdict.policy}/{verdict.sid}" if verdict.sid else ""
        _say(f"{verdict.dimension}: {verdict.state.value}{name}")
        if verdict.state == LineState.BILLABLE:
            _say(f"  quantity {decimal_text(verdict.quantity)}, price {_amount(verdict.amount) or 'unknown'}")
        _print_losers(verdict.losers)
    total = _amount(_sum(verdict.amount for verdict in decision.verdicts if verdict.quantity))
    _say(f"price: {total} USD, an estimate" if total else f"price: unknown, since {why_unknown}")


def _print_losers(losers: Sequence[Loser]) -> None:
    for loser in losers:
        _say(f"  not {loser.policy}/{loser.sid}: {loser.reason}", indent="      ")


def _print_simulation(simulation: Simulation, native: Mapping[str, object] | None) -> None:
    from marketplace_constructs.policy.simulation import decimal_text

    _say(f"plan {simulation.plan}")
    for total in simulation.totals:
        name = f"{total.dimension}: {total.state}" if total.dimension else total.state
        _say(f"{name}, {total.lines:,} lines, quantity {decimal_text(total.quantity)}")
        if total.sid:
            _say(f"  by {total.policy}/{total.sid}", indent="    ")
    _say(f"skipped, of another plan or none: {simulation.skipped:,} lines")
    _say(f"repeated, counted once: {simulation.duplicates:,} lines")
    _say(f"unparsable, not counted: {simulation.unparsable:,} lines")
    for estimate in simulation.estimates:
        amount = _amount(estimate.amount)
        _say(f"price of {estimate.dimension}: {f'{amount} USD' if amount else 'unknown'}")
    total_price = _amount(_sum(estimate.amount for estimate in simulation.estimates))
    _say(f"price: {f'{total_price} USD, an estimate' if total_price else 'unknown'}")
    if native is not None:
        _say(
            f"API Gateway itself would bill {native['calls_from']:,} (successful) to {native['calls_to']:,} "
            f"(all accepted) calls: {native['price_from'] or 'unknown'} to {native['price_to'] or 'unknown'} USD"
        )


def _say(text: str, *, indent: str = "    ") -> None:
    lead = text[: len(text) - len(text.lstrip())]
    click.echo(
        textwrap.fill(
            text.lstrip(),
            _WIDTH,
            initial_indent=lead,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _access(decision: Decision) -> str:
    if not decision.is_known:
        return "unmatched"
    return "allowed" if decision.is_allowed else "refused"


def _by(decision: Decision) -> str:
    if not decision.is_known:
        return ", the routes do not have it; write the path as the API declares it"
    return f" by {decision.policy}/{decision.sid}" if decision.sid else ", no statement allows it"


def _loser_to_json(loser: Loser) -> dict[str, str]:
    return {"policy": loser.policy, "sid": loser.sid, "reason": loser.reason}


def _sum(amounts: Iterator[Fraction | None]) -> Fraction | None:
    """The sum; None where a part of it is unknown."""
    known = list(amounts)
    return None if None in known else sum((amount for amount in known if amount is not None), Fraction(0))


def _amount(amount: Fraction | None) -> str | None:
    from marketplace_constructs.policy.simulation import decimal_text

    return None if amount is None else decimal_text(amount)


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))
