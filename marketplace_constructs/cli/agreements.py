"""``sellable agreements``: what is known of each buyer's agreements, and why their access is as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from marketplace_constructs.cli.deployed import Deployed
from marketplace_constructs.cli.group import common_options
from marketplace_constructs.domain.agreements import Agreement, Fact, FactKind, agreements_of
from marketplace_constructs.domain.errors import MarketplaceConstructsError, Problem
from marketplace_constructs.domain.plan_versions import LEAD, PlanVersion, deployed, holding, hour_of, next_hour

if TYPE_CHECKING:
    from marketplace_constructs.domain.plan_table import PlanTable
    from marketplace_constructs.policy.comparison import Change
    from marketplace_constructs.runtime.agreements.facts import FactStore
    from marketplace_constructs.runtime.onboarding.contacts import Contacts
    from marketplace_constructs.runtime.settings import ReconciliationSettings

_SCHEMA_VERSION: Final = 1
_HANDLER: Final = "marketplace_constructs.runtime.agreements.reconciliation.handler"
_PLANS_HANDLER: Final = "marketplace_constructs.runtime.plans.handler"
_ROUTES_SHOWN: Final = 4
_PAST_DATE: Final = "MON118"
"""That a plan's time has come does not keep anybody from comparing it."""


@click.group("agreements")
@click.option("--stack", "stack", metavar="NAME", help="The stack with the SellableApi.  [required]")
@click.option("--product-code", metavar="CODE", help="Which one, where the stack has several.")
@click.pass_context
def command(ctx: click.Context, *, stack: str | None, product_code: str | None) -> None:
    """What is known of each buyer's agreements, and why.

    Account and Region are those of the AWS configuration. Reads the stack's
    table of facts, and changes nothing but by assign, repair and forget.
    """
    ctx.obj = _Sale(stack or "", product_code)


@command.command("list")
@common_options
@click.pass_obj
def list_agreements(sale: _Sale, *, output: str) -> int:
    """List every agreement with its state."""
    found = [agreement for _, agreements in sale.buyers() for agreement in agreements]
    findings = int(any(agreement.alarms for agreement in found))
    if output == "json":
        _print_json(agreements=[_to_json(agreement) for agreement in found])
        return findings
    click.echo(f"{'AGREEMENT':34}{'BUYER':14}{'STATE':12}{'ACCESS':8}KEYS")
    now = datetime.now(UTC)
    for agreement in found:
        access = "yes" if agreement.grants_access else "no"
        live = len(agreement.live_keys(now))
        click.echo(f"{agreement.id:34}{agreement.buyer:14}{agreement.state:12}{access:8}{live}")
    return findings


@command.command("show")
@click.argument("agreement_id", metavar="AGREEMENT")
@common_options
@click.pass_obj
def show(sale: _Sale, *, agreement_id: str, output: str) -> int:
    """Show one agreement: its state, why, and every fact of its buyer."""
    agreement, facts, _ = sale.agreement(agreement_id)
    _show(agreement, facts, output)
    return 1 if agreement.alarms else 0


@command.command("forget")
@click.argument("agreement_id", metavar="AGREEMENT")
@common_options
@click.pass_obj
def forget(sale: _Sale, *, agreement_id: str, output: str) -> int:
    """Delete the contact address of an agreement.

    Also those of the agreements that it continues or that continue it. Nothing
    else holds any; the table's backups do for another 35 days. The agreement,
    its keys and its bill stay as they are.
    """
    from marketplace_constructs.runtime.onboarding.contacts import contact_key

    agreement, _, others = sale.agreement(agreement_id)
    # Under which of them it is kept depends on when AWS told that they belong together.
    deleted = {
        member.id: sale.contacts.delete(contact_key(member.buyer, member.id))
        for member in others
        if member.root == agreement.root
    }
    if output == "json":
        _print_json(deleted=[member for member, was_kept in deleted.items() if was_kept], looked_at=list(deleted))
    for member, was_kept in deleted.items() if output == "text" else ():
        click.echo(f"{member}: {'contact deleted' if was_kept else 'no contact'}")
    return 0


@command.command("assign")
@click.argument("agreement_id", metavar="AGREEMENT")
@click.argument("plan", metavar="PLAN@V")
@click.option("--from", "hour_text", metavar="HOUR", help="A whole hour, UTC, to come. Left out, the next one.")
@click.option(
    "--pool",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="The documents: prices are compared too.",
)
@click.option(
    "--routes",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Routes of the API, for --pool.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common_options
@click.pass_obj
def assign(
    sale: _Sale,
    *,
    agreement_id: str,
    plan: str,
    hour_text: str | None,
    pool: Path | None,
    routes: Path | None,
    yes: bool,
    output: str,
) -> int:
    """Give an agreement another plan, from a whole hour on.

    Shows what changes for the buyer, asks, and records it. At that hour the
    gate goes by the new plan; a minute later the keys, whose values stay as
    they are, are in its usage plan. Renewals keep the plan. Exits with 1 where
    nothing was recorded because the answer was no.
    """
    if (pool is None) != (routes is None):
        raise click.UsageError("--pool and --routes go together")
    hour = _hour(hour_text, datetime.now(UTC))
    agreement, _, _ = sale.agreement(agreement_id)
    version, former = sale.version(plan, hour), agreement.plan_at(hour)
    if pool is None or routes is None:
        before = holding(sale.versions, hour).get(former) if former else None
        changes = sale.changes(before, version)
    else:
        changes = _priced_changes(pool, routes, former, plan, stage=sale.stage(version))
    later = [one for one in agreement.assignments if one.takes_effect_at > hour]
    if output == "text":
        click.echo(f"{agreement.id}: {former or 'no plan'} -> {plan}, from {hour:%Y-%m-%dT%H:%MZ}")
        for line in [_change(change) for change in changes] or ["nothing changes for the buyer"]:
            click.echo(f"  {line}")
        for one in later:
            click.echo(f"  from {one.takes_effect_at:%Y-%m-%dT%H:%MZ} it has {one.plan}, as was assigned before")
    is_wanted = yes or click.confirm("Assign?", err=True)
    if is_wanted and hour < next_hour(datetime.now(UTC)):
        raise _refusal(
            "MP-CLI-17",
            f"answer, got it too late for {hour:%Y-%m-%dT%H:%MZ}; expected it {LEAD.seconds // 60} minutes before, "
            "since an hour that has begun keeps its plan; nothing was assigned, assign again",
        )
    failed = sale.assign(agreement, plan, hour) if is_wanted else ""
    if output == "json":
        _print_json(
            agreement=agreement.id,
            old=former,
            new=plan,
            takes_effect_at=hour.isoformat(),
            changes=[change.to_json() for change in changes],
            later=[{"plan": one.plan, "takes_effect_at": one.takes_effect_at.isoformat()} for one in later],
            assigned=is_wanted,
        )
    if failed:
        raise _refusal(
            "MP-CLI-13",
            f"gate's answer for {agreement.buyer}, got {failed}; the plan is assigned, and expected there too by "
            f"{hour:%H:%MZ}; run sellable agreements repair {agreement.buyer}",
        )
    if output == "text":
        click.echo("assigned" if is_wanted else "nothing was assigned")
    return 0 if is_wanted else 1


def _hour(text: str | None, now: datetime) -> datetime:
    """The hour that was asked for."""
    if text is None:
        return next_hour(now)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = now
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    hour = hour_of(moment)
    if hour != moment or hour < next_hour(now):
        raise click.BadParameter(
            f"got {text!r}; expected a whole hour to come, UTC, such as {next_hour(now):%Y-%m-%dT%H:%MZ}",
            param_hint="--from",
        )
    return hour


def _priced_changes(directory: Path, routes: Path, old: str | None, new: str, *, stage: str) -> tuple[Change, ...]:
    """What changes by the documents, prices included."""
    from marketplace_constructs.domain.finding import FindingType
    from marketplace_constructs.policy.comparison import Pair, Sold, compared
    from marketplace_constructs.policy.evaluation import expand
    from marketplace_constructs.policy.lint import lint, load_pool
    from marketplace_constructs.policy.routes import read_routes

    pool, declared = load_pool(directory), tuple(read_routes(routes))
    findings = lint(pool, routes=declared, stage=stage, now=datetime.now(UTC)).findings
    errors = {finding.issue_code for finding in findings if finding.finding_type is FindingType.ERROR} - {_PAST_DATE}
    if errors:
        raise _refusal(
            "MP-CLI-40",
            f"documents of {directory}, got the errors {', '.join(sorted(errors))}; expected none; see them with "
            "sellable lint",
        )

    def sold(plan: str | None) -> Sold | None:
        if plan is None:
            return None
        if plan not in pool.plans:
            raise _refusal(
                "MP-CLI-15",
                f"plan of {directory}, got {plan}; expected one of {', '.join(sorted(pool.plans))}; leave --pool out",
            )
        entry = pool.plans[plan]
        return Sold(pool, entry, expand(pool, entry.document, declared, stage=stage))

    return compared(Pair(sold(old), sold(new), ("moved",)), has_routes=True).changes


def _change(change: Change) -> str:
    """A change in one line."""
    more = len(change.routes) - _ROUTES_SHOWN
    routes = ", ".join(change.routes[:_ROUTES_SHOWN]) + (f" and {more} more" if more > 0 else "")
    direction = "" if change.direction == "same" else f"{change.direction}: "
    what = " ".join(part for part in (change.subject or change.kind.value, change.dimension) if part)
    return f"{direction}{what}{f' on {routes}' if routes else ''}: {change.old} -> {change.new}"


@command.command("repair")
@click.argument("buyer", metavar="BUYER")
@common_options
@click.pass_obj
def repair(sale: _Sale, *, buyer: str, output: str) -> int:
    """Run the reconciliation for one buyer, now.

    BUYER is the customer's AWS account id, or the customer identifier of a
    legacy product. AWS is asked how the agreements stand, and keys are made to
    match. Exits with 1 if something still needs a person.
    """
    if not sale.facts.of_buyer(buyer):
        raise _refusal(
            "MP-CLI-12",
            f"buyer, got {buyer!r}; expected a known one; list them with sellable agreements list",
        )
    failed = sale.reconcile(buyer)
    if failed:
        raise _refusal("MP-CLI-13", f"repair of {buyer}, got {failed}; expected it to succeed; see the function's log")
    agreements = sale.agreements(sale.facts.of_buyer(buyer))
    if output == "json":
        _print_json(agreements=[_to_json(agreement) for agreement in agreements])
    for agreement in agreements if output == "text" else ():
        click.echo(f"{agreement.id}: {agreement.state}, access {'granted' if agreement.grants_access else 'refused'}")
    return 1 if any(agreement.alarms for agreement in agreements) else 0


class _Sale(Deployed):
    """What a deployed SellableApi knows, found through its reconciliation function."""

    @cached_property
    def _function(self) -> tuple[str, ReconciliationSettings]:
        from marketplace_constructs.runtime.settings import ReconciliationSettings

        return self.function_of(_HANDLER, ReconciliationSettings, has="the SellableApi")

    @cached_property
    def facts(self) -> FactStore:
        """The table of facts."""
        from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts

        return DynamoDbFacts(self._session.client("dynamodb"), self._function[1].facts_table)

    @cached_property
    def contacts(self) -> Contacts:
        """The table of contact addresses."""
        from marketplace_constructs.runtime.onboarding.contacts import DynamoDbContacts

        return DynamoDbContacts(self._session.client("dynamodb"), self._function[1].contacts_table)

    def agreements(self, facts: tuple[Fact, ...]) -> tuple[Agreement, ...]:
        """The agreements that follow from the facts of one buyer, oldest first."""
        now = datetime.now(UTC)
        plans = deployed(self.versions, now) if self._function[1].plans_table else None
        return agreements_of(facts, product=self._function[1].terms, now=now, plans=plans)

    @cached_property
    def versions(self) -> tuple[PlanVersion, ...]:
        """Every version of every plan."""
        from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions

        return DynamoDbPlanVersions(self._session.client("dynamodb"), self._function[1].plans_table).versions()

    def version(self, plan: str, at: datetime) -> PlanVersion:
        """What holds for a plan at a moment."""
        if not self._function[1].plans_table:
            raise _refusal(
                "MP-CLI-14",
                f"stack {self.stack}, got a product that is sold without documents; expected plans; give SellableApi "
                "monetization= instead of product=",
            )
        held = deployed(self.versions, at)
        if plan not in held:
            raise _refusal(
                "MP-CLI-15",
                f"plan, got {plan!r}; expected one that holds at {at:%Y-%m-%dT%H:%MZ}, {', '.join(sorted(held))}; "
                "deploy it, or name another",
            )
        return held[plan]

    def stage(self, version: PlanVersion) -> str:
        """The name of the stage that a plan is sold on."""
        plan = self._session.client("apigateway").get_usage_plan(usagePlanId=version.usage_plan_id)
        return str(plan["apiStages"][0]["stage"])

    def changes(self, old: PlanVersion | None, new: PlanVersion) -> tuple[Change, ...]:
        """What changes for an agreement that moves, limits included."""
        from marketplace_constructs.policy.comparison import Change, ChangeKind
        from marketplace_constructs.policy.moves import moved

        # A usage plan that left the stack limits nobody.
        was = self._limits(old.usage_plan_id) if old and old.plan in deployed(self.versions, old.holds_from) else {}
        now = self._limits(new.usage_plan_id)
        limits = [
            Change(kind=ChangeKind.LIMIT, subject=name, old=was.get(name, "none"), new=now.get(name, "none"))
            for name in sorted({*was, *now})
            if was.get(name) != now.get(name)
        ]
        return (*moved(self._table(old) if old else None, self._table(new)), *limits)

    def assign(self, agreement: Agreement, plan: str, hour: datetime) -> str:
        """Record that an agreement has a plan, and tell the gate; what went wrong in that, or an empty text."""
        now = datetime.now(UTC)
        self.facts.add(
            Fact(
                id=f"{FactKind.ASSIGNED}#{agreement.id}#{hour.isoformat()}#{now.isoformat()}",
                kind=FactKind.ASSIGNED,
                buyer=agreement.buyer,
                at=now,
                agreement_id=agreement.id,
                plan=plan,
                takes_effect_at=hour,
                note="by an operator",
            )
        )
        # The gate knows of it before the hour, and so needs nobody at the hour itself.
        return self.reconcile(agreement.buyer)

    def _limits(self, usage_plan_id: str) -> dict[str, str]:
        """The limits of a usage plan, in words."""
        plan = self._session.client("apigateway").get_usage_plan(usagePlanId=usage_plan_id)
        paces = {"throttle": plan.get("throttle")}
        for stage in plan.get("apiStages", []):
            for place, throttle in stage.get("throttle", {}).items():
                path, _, method = place.rpartition("/")
                paces[f"throttle of {method} {path}"] = throttle
        limits = {
            name: f"{pace.get('rateLimit', 0):g}/s, burst {pace.get('burstLimit', 0)}"
            for name, pace in paces.items()
            if pace
        }
        if quota := plan.get("quota"):
            limits["quota"] = f"{quota['limit']:,} a {quota['period'].lower()}"
        return limits

    def _table(self, version: PlanVersion) -> PlanTable:
        """A plan's table, from the bucket that its stack keeps them in."""
        from marketplace_constructs.domain.plan_table import PlanTable
        from marketplace_constructs.runtime.plan_tables import S3PlanTables
        from marketplace_constructs.runtime.settings import PlansSettings

        text = None
        for function in self._functions:
            if function.get("Handler") == _PLANS_HANDLER:
                settings = PlansSettings.from_environment(function["Environment"]["Variables"])
                if settings.plans_table == self._function[1].plans_table:
                    text = S3PlanTables(self._session.client("s3"), settings.tables_bucket).get(version.digest)
        if text is None:
            raise _refusal(
                "MP-CLI-16",
                f"table {version.digest} of plan {version.plan}, got none in stack {self.stack}; expected the one that "
                "was deployed; give --pool and --routes to compare the documents instead",
            )
        return PlanTable.from_text(text)

    def buyers(self) -> Iterator[tuple[tuple[Fact, ...], tuple[Agreement, ...]]]:
        """Every buyer's facts, and the agreements that follow from them."""
        for _, facts in self.facts.buyers():
            yield facts, self.agreements(facts)

    def agreement(self, agreement_id: str) -> tuple[Agreement, tuple[Fact, ...], tuple[Agreement, ...]]:
        """An agreement with all facts and all agreements of its buyer."""
        for facts, agreements in self.buyers():
            for agreement in agreements:
                if agreement.id == agreement_id:
                    return agreement, facts, agreements
        raise _refusal(
            "MP-CLI-12",
            f"agreement, got {agreement_id!r}; expected a known one; list them with sellable agreements list",
        )

    def reconcile(self, buyer: str) -> str:
        """Run the reconciliation for one buyer; what went wrong, or an empty text."""
        answer = self._session.client("lambda").invoke(
            FunctionName=self._function[0], Payload=json.dumps({"buyer": buyer}).encode()
        )
        said = json.loads(answer["Payload"].read() or b"{}")
        return str(said.get("errorMessage", "an error")) if answer.get("FunctionError") else ""


def _show(agreement: Agreement, facts: tuple[Fact, ...], output: str) -> None:
    if output == "json":
        _print_json(agreement=_to_json(agreement), why=_why(agreement), facts=[_fact_to_json(fact) for fact in facts])
        return
    click.echo(f"{agreement.id} of {agreement.buyer}: {agreement.state}")
    for reason in _why(agreement):
        click.echo(f"  {reason}")
    click.echo("facts of the buyer, oldest first:")
    for fact in sorted(facts, key=lambda fact: fact.at):
        details = " ".join(f"{name}={value}" for name, value in _fact_to_json(fact).items() if name not in _PLAIN)
        click.echo(f"  {fact.at:%Y-%m-%d %H:%M:%S}  {fact.kind:14}  {details}".rstrip())


_PLAIN: Final = frozenset({"at", "kind", "buyer", "id", "key_sha256"})


def _why(agreement: Agreement) -> list[str]:
    """What the access rests on, in sentences."""
    access = "access is granted" if agreement.grants_access else "access is refused"
    reasons = [
        f"registered {_at(agreement.registered_at)}" if agreement.is_registered else "nobody has registered",
        f"activated {_at(agreement.activated_at)}" if agreement.activated_at else "AWS has not activated it",
    ]
    if agreement.ended_at or agreement.cause:
        reasons.append(f"ended {_at(agreement.ended_at)}, cause {agreement.cause or 'not told'}")
    if agreement.successor:
        reasons.append(f"continued by {agreement.successor}")
    reasons += [f"{one.plan} from {one.takes_effect_at:%Y-%m-%dT%H:%MZ}" for one in agreement.assignments]
    said = [f"{access}: {', '.join(reasons)}"]
    if agreement.predecessor:
        said.append(f"continues {agreement.predecessor}, with its registration and its keys")
    for key in agreement.keys:
        end = "never shown" if key.is_abandoned else f"until {_at(key.retire_at)}" if key.retire_at else "no end"
        said.append(f"key {key.number} ({key.name}, API key id {key.api_key_id or 'none'}): {end}")
    return said + [f"needs attention: {alarm}" for alarm in agreement.alarms]


def _at(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "at an unknown time"


def _to_json(agreement: Agreement) -> dict[str, object]:
    return {
        "id": agreement.id,
        "buyer": agreement.buyer,
        "kind": agreement.kind.value,
        "state": agreement.state.value,
        "grants_access": agreement.grants_access,
        "is_registered": agreement.is_registered,
        "activated_at": agreement.activated_at and agreement.activated_at.isoformat(),
        "ended_at": agreement.ended_at and agreement.ended_at.isoformat(),
        "cause": agreement.cause,
        "license_arn": agreement.license_arn,
        "predecessor": agreement.predecessor,
        "successor": agreement.successor,
        "offer_id": agreement.offer_id,
        "plan": agreement.plan_at(datetime.now(UTC)),
        "assignments": [
            {"plan": one.plan, "takes_effect_at": one.takes_effect_at.isoformat()} for one in agreement.assignments
        ],
        "keys": [
            {
                "number": key.number,
                "name": key.name,
                "api_key_id": key.api_key_id,
                "abandoned": key.is_abandoned,
            }
            for key in agreement.keys
        ],
        "alarms": list(agreement.alarms),
    }


def _fact_to_json(fact: Fact) -> dict[str, str]:
    from marketplace_constructs.runtime.agreements.facts import to_item

    item = to_item(fact)
    item["id"] = item.pop("fact")
    return item


def _print_json(**content: object) -> None:
    click.echo(json.dumps({"schema_version": _SCHEMA_VERSION, **content}))


def _refusal(code: str, what: str) -> MarketplaceConstructsError:
    return MarketplaceConstructsError(Problem(code, what))
