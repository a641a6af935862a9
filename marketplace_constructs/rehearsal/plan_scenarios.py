"""The scenarios of plans that documents describe."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from marketplace_constructs.domain.agreements import Fact, FactKind
from marketplace_constructs.domain.plan_table import PlanTable
from marketplace_constructs.domain.plan_versions import HOUR, PlanVersion, deployed, hour_of, next_hour
from marketplace_constructs.rehearsal.browser import Answer
from marketplace_constructs.rehearsal.errors import BrokenPromise, CouldNotRehearse
from marketplace_constructs.rehearsal.journey import Promises, require, wait_until
from marketplace_constructs.rehearsal.stage import Route, Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import (
    Visitor,
    is_refused,
    is_served,
    is_throttled,
    open_to,
    register,
)
from marketplace_constructs.runtime.agreements.facts import DynamoDbFacts
from marketplace_constructs.runtime.plan_versions import DynamoDbPlanVersions

_CALLERS: Final = 4
_MOST_IN_A_BURST: Final = 500
_MOMENT: Final = timedelta(seconds=30)


def plans(stage: Stage, promises: Promises) -> None:
    """A route is refused under one plan and served under another, and an agreement moves between them with its key."""
    sale = stage.sale(SaleKind.PLANNED)
    with answers_kept(stage, sale, seconds=1):
        _move_there_and_back(stage, promises, sale)


def plan_change(stage: Stage, promises: Promises) -> None:
    """A plan's documents change at a whole hour, and back at another; hours that are over keep what held in them."""
    sale = stage.sale(SaleKind.PLANNED)
    with answers_kept(stage, sale, seconds=1):
        _change_and_roll_back(stage, promises, sale)


@contextmanager
def answers_kept(stage: Stage, sale: Sale, *, seconds: int) -> Iterator[None]:
    """API Gateway keeps the gate's answers so long; its cache knows nothing of the rehearsal's clock."""
    gateway = stage.aws.client("apigateway")
    before = {
        item["id"]: item["authorizerResultTtlInSeconds"]
        for item in gateway.get_authorizers(restApiId=sale.api_id)["items"]
    }

    def keep(times: Mapping[str, int]) -> None:
        for authorizer_id, ttl in times.items():
            gateway.update_authorizer(
                restApiId=sale.api_id,
                authorizerId=authorizer_id,
                patchOperations=[{"op": "replace", "path": "/authorizerResultTtlInSeconds", "value": str(ttl)}],
            )

    keep(dict.fromkeys(before, seconds))
    try:
        yield
    finally:
        keep(before)


def _move_there_and_back(stage: Stage, promises: Promises, sale: Sale) -> None:
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    with promises.promise("a buyer has a key that works, under the plan of the documents") as notes:
        agreement = buyer.subscribe()
        register(buyer)
        always = open_to(buyer)
        former, other, route = _plans_apart(stage, sale, buyer, always)
        notes.append(f"{former.plan}; {route} is refused under {other.plan}")
        (key,) = _keys_of(stage, sale, agreement.id)
        limits = _limited_methods(stage, former)
    for limited, burst, rate in limits:
        with promises.promise(f"{limited} is throttled at {rate:g} calls a second and {burst} at once") as notes:
            calls = 2 * burst + 2 * int(rate)
            answers = wait_until(
                lambda limited=limited, calls=calls: (  # type: ignore[misc]  # mypy cannot infer defaults
                    found if any(map(is_throttled, found := buyer.burst(limited, calls))) else None
                ),
                f"one of {calls} calls at once is throttled",
            )
            notes.append(f"{sum(map(is_throttled, answers))} of {calls} calls got 429")
            wait_until(lambda: is_served(buyer.call(always, buyer.key)) or None, f"{always} is served")
    for old, new in ((former, other), (other, former)):
        hour = hour_of(stage.clock.now()) + HOUR
        is_open = str(route) in old.routes
        word = "served" if is_open else "refused"
        with promises.promise(f"{route} is {word} under {old.plan}, whether the gate is asked or its answer is kept"):
            for is_asked in (True, False):
                require_open(_answered(buyer, route, is_asked=is_asked), is_open=is_open)
        with promises.promise(f"the agreement is assigned {new.plan} from {hour:%H:%M} on, and nothing changes before"):
            assign(buyer, agreement.id, new.plan, hour)
            stage.reconcile(sale, buyer.identity)
            require_open(_answered(buyer, route, is_asked=True), is_open=is_open)
        with promises.promise(f"at {hour:%H:%M} the gate goes by {new.plan}"):
            stage.clock.advance(hour - stage.clock.now())
            require_open(_answered(buyer, route, is_asked=True), is_open=not is_open)
        with promises.promise(
            f"a minute later the same key is in the usage plan of {new.plan}, and in no other"
        ) as notes:
            stage.clock.advance(timedelta(minutes=1))
            notes.append(_moved(buyer, always, key))
            members = {plan: _members(stage, plan) for plan in (old.usage_plan_id, new.usage_plan_id)}
            require(key in members[new.usage_plan_id], f"it is not in that of {new.plan}")
            require(key not in members[old.usage_plan_id], f"it is also in that of {old.plan}")
            require(_keys_of(stage, sale, agreement.id) == {key}, "there is another key")
            wait_until(lambda: is_served(buyer.call(always, buyer.key)) or None, f"{always} is served")


def _change_and_roll_back(stage: Stage, promises: Promises, sale: Sale) -> None:
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    versions = DynamoDbPlanVersions(stage.aws.client("dynamodb"), sale.settings.plans_table)
    with promises.promise("a buyer has a key that works, under the plan of the documents") as notes:
        buyer.subscribe()
        register(buyer)
        always = open_to(buyer)
        # Long before the next hour begins, whose plans are settled a while before.
        stage.clock.advance(next_hour(stage.clock.now()) + timedelta(minutes=10) - stage.clock.now())
        plan = _assigned(stage, sale, buyer)
        former = _held(versions, plan, stage.clock.now())
        route = next(
            (r for r in stage.routes(sale.api_id) if not r.is_open and str(r) in former.routes and r != always), None
        )
        require(route is not None, f"{plan} allows nothing but {always}")
        assert route is not None
        require_open(_answered(buyer, route, is_asked=True), is_open=True)
        notes.append(f"{plan}; {route}")
    known, kept = set(versions.versions()), _tables(stage, sale)
    first, second = (next_hour(stage.clock.now()) + n * HOUR for n in range(2))
    with ExitStack() as undo:
        with promises.promise(
            f"a policy that refuses {route} is deployed at {stage.clock.now():%H:%M}, and nothing changes before "
            f"{first:%H:%M}"
        ):
            with stage.changed_app() as directory:
                _refuse(directory, plan, route)
                stage.update(sale, directory)
            undo.callback(stage.update, sale)
            changed = _held(versions, plan, first)
            require(changed.holds_from == first, f"a version holds from {changed.holds_from:%H:%M}")
            require(_held(versions, plan, first - _MOMENT) == former, "another version holds before")
            stage.clock.advance(first - _MOMENT - stage.clock.now())
            require_open(_answered(buyer, route, is_asked=True), is_open=True)
        with promises.promise(f"at {first:%H:%M} the gate refuses it, and serves {always}"):
            stage.clock.advance(first - stage.clock.now())
            require_open(_answered(buyer, route, is_asked=True), is_open=False)
            require_open(_answered(buyer, always, is_asked=True), is_open=True)
        with promises.promise(f"the former policy is deployed again, and nothing changes before {second:%H:%M}"):
            stage.clock.advance(timedelta(minutes=10))
            undo.pop_all()
            stage.update(sale)
            stage.clock.advance(second - _MOMENT - stage.clock.now())
            require_open(_answered(buyer, route, is_asked=True), is_open=False)
        with promises.promise(f"at {second:%H:%M} the gate serves it again"):
            stage.clock.advance(second - stage.clock.now())
            require_open(_answered(buyer, route, is_asked=True), is_open=True)
    with promises.promise("each hour has the table that it was judged by, and no table or version was overwritten"):
        for hour, is_open in ((first - HOUR, True), (first, False), (second, True)):
            table = _table(stage, sale, _held(versions, plan, hour).digest)
            opened = {f"{method} {path}" for method, path in table.allowed}
            require((str(route) in opened) is is_open, f"at {hour:%H:%M} the table says otherwise")
        require(_held(versions, plan, second).digest == former.digest, "the former policy has another table now")
        require(known < set(versions.versions()), "a version is gone or another")
        now_kept = _tables(stage, sale)
        require(kept.items() < now_kept.items(), "a table is gone or was written again")
        require(all(len(written) == 1 for written in now_kept.values()), "a table was written twice")


def require_open(answer: Answer, *, is_open: bool) -> None:
    """The gate let a call in, or did not.

    Raises:
        BrokenPromise: It is the other way round.
    """
    require(is_refused(answer) is not is_open, f"it answers {answer.status}")


def _answered(buyer: Visitor, route: Route, *, is_asked: bool) -> Answer:
    """The answer of a call for which the gate is asked, or for which API Gateway has kept its answer."""

    def answer() -> Answer | None:
        found = buyer.call(route, buyer.key)
        return found if buyer.stage.gateway.calls[-1].gate_asked is is_asked else None

    return wait_until(answer, f"the gate is asked about {route}" if is_asked else f"the answer to {route} is kept")


def assign(buyer: Visitor, agreement_id: str, plan: str, hour: datetime) -> None:
    """Give an agreement a plan from a whole hour on, as an operator does."""
    stage, settings = buyer.stage, buyer.sale.settings
    DynamoDbFacts(stage.aws.client("dynamodb"), settings.facts_table).add(
        Fact(
            id=f"{FactKind.ASSIGNED}#{agreement_id}#{hour.isoformat()}",
            kind=FactKind.ASSIGNED,
            buyer=buyer.identity,
            at=stage.clock.now(),
            agreement_id=agreement_id,
            plan=plan,
            takes_effect_at=hour,
        )
    )


def _assigned(stage: Stage, sale: Sale, buyer: Visitor) -> str:
    """The plan that the documents gave the buyer's one agreement."""
    known = DynamoDbFacts(stage.aws.client("dynamodb"), sale.settings.facts_table).of_buyer(buyer.identity)
    assigned = [fact.plan for fact in known if fact.kind is FactKind.ASSIGNED]
    require(len(assigned) == 1, f"the agreement was assigned {assigned}")
    return str(assigned[0])


def _plans_apart(stage: Stage, sale: Sale, buyer: Visitor, always: Route) -> tuple[PlanVersion, PlanVersion, Route]:
    """The buyer's plan, another one, and a route that only the former allows; both allow the route ``always``."""
    versions = DynamoDbPlanVersions(stage.aws.client("dynamodb"), sale.settings.plans_table).versions()
    held = deployed(versions, stage.clock.now())
    plan = _assigned(stage, sale, buyer)
    require(plan in held, f"the agreement was assigned {plan}")
    former = held[plan]
    for other in sorted(held.values(), key=lambda version: version.plan):
        for route in stage.routes(sale.api_id):
            if not route.is_open and str(always) in other.routes and str(route) in former.routes - other.routes:
                return former, other, route
    raise BrokenPromise(f"no plan allows {always} and less than {former.plan}")


def _limited_methods(stage: Stage, version: PlanVersion) -> list[tuple[Route, int, float]]:
    """Each method that the plan's usage plan limits by itself, with its burst and its calls a second."""
    usage_plan = stage.aws.client("apigateway").get_usage_plan(usagePlanId=version.usage_plan_id)
    found = []
    for served in usage_plan["apiStages"]:
        for name, limits in sorted(served.get("throttle", {}).items()):
            path, _, method = name.rpartition("/")
            require(limits.keys() >= {"burstLimit", "rateLimit"}, f"{version.plan} does not limit {method} {path}")
            if limits["burstLimit"] <= _MOST_IN_A_BURST:
                route = Route(method, path, requires_key=True, authorization="CUSTOM")
                found.append((route, int(limits["burstLimit"]), float(limits["rateLimit"])))
    return found


def _moved(buyer: Visitor, route: Route, key: str) -> str:
    """Reconcile while the buyer goes on calling; how that went."""
    stage = buyer.stage
    is_over = threading.Event()

    def go_on() -> list[bool]:
        refused = []
        while not is_over.is_set():
            refused.append(is_refused(buyer.call(route, buyer.key)))
        return refused

    with ThreadPoolExecutor(_CALLERS) as pool:
        calling = [pool.submit(go_on) for _ in range(_CALLERS)]
        try:
            stage.reconcile(buyer.sale, buyer.identity)
        finally:
            is_over.set()
        refused = [is_one for caller in calling for is_one in caller.result()]
    *_, (left_at, left, _), (joined_at, joined, _) = stage.aws.usage_plan_changes(key)
    require((left, joined) == ("left", "joined"), f"the key {left} a usage plan and {joined} one")
    gap = (joined_at - left_at).total_seconds() * 1000
    return (
        f"it was in no usage plan for {gap:.0f} ms; {sum(refused)} of {len(refused)} calls of {_CALLERS} callers "
        "during the reconciliation were refused"
    )


def _members(stage: Stage, usage_plan_id: str) -> set[str]:
    return {key["id"] for key in stage.aws.client("apigateway").get_usage_plan_keys(usagePlanId=usage_plan_id)["items"]}


def _keys_of(stage: Stage, sale: Sale, agreement_id: str) -> set[str]:
    name = f"{sale.settings.key_prefix}{agreement_id}/"
    return {key["id"] for key in stage.aws.client("apigateway").get_api_keys(nameQuery=name)["items"]}


def _held(versions: DynamoDbPlanVersions, plan: str, at: datetime) -> PlanVersion:
    found = versions.holding(plan, at)
    require(found is not None, f"nothing holds of {plan} at {at:%H:%M}")
    assert found is not None
    return found


def _tables(stage: Stage, sale: Sale) -> dict[str, tuple[str, ...]]:
    """Every object of the bucket of plan tables, with all its versions."""
    listed = stage.aws.client("s3").list_object_versions(Bucket=_bucket(sale))
    found: dict[str, tuple[str, ...]] = {}
    for version in (*listed.get("Versions", ()), *listed.get("DeleteMarkers", ())):
        found[version["Key"]] = (*found.get(version["Key"], ()), str(version["VersionId"]))
    return found


def _table(stage: Stage, sale: Sale, digest: str) -> PlanTable:
    answer = stage.aws.client("s3").get_object(Bucket=_bucket(sale), Key=f"plan-tables/{digest}.json")
    text: bytes = answer["Body"].read()
    require(hashlib.sha256(text).hexdigest() == digest, f"the table of {digest} is another")
    return PlanTable.from_text(text.decode())


def _bucket(sale: Sale) -> str:
    """The bucket of plan tables: the one whose logical id the recording function's settings name."""
    for resource in sale.stack.template["Resources"].values():
        variables = resource.get("Properties", {}).get("Environment", {}).get("Variables", {})
        if "PLANS_TABLE" in variables and "TABLES_BUCKET" in variables:
            return sale.stack.physical_ids[variables["TABLES_BUCKET"]["Ref"]]
    raise BrokenPromise("no function records plan versions")


def _refuse(directory: Path, plan: str, route: Route) -> None:
    """Change the documents of an app: a plan attaches one policy more, which refuses a route.

    Raises:
        CouldNotRehearse: MP-REHEARSE-25, the documents are not among the app's sources.
    """
    import yaml  # noqa: PLC0415  # only who sells by documents has it

    from marketplace_constructs.policy.pool import PUBLISHED, Pool  # noqa: PLC0415

    for product in sorted(directory.rglob("product.*")):
        entry = Pool.load(product.parent).plans.get(plan)
        if entry is None:
            continue
        # What was published may not change; this is a copy.
        (product.parent / PUBLISHED).unlink(missing_ok=True)
        file = product.parent / entry.source.document
        document = yaml.safe_load(file.read_text())
        document["Policies"].append("rehearsal@1")
        file.write_text(json.dumps(document))
        policy = {
            "Version": document["Version"],
            "Kind": "Policy",
            "Id": "rehearsal",
            "PolicyVersion": 1,
            "Statement": [{"Sid": "Refused", "Effect": "Deny", "Action": route.method, "Resource": route.path}],
        }
        (product.parent / "policies" / "rehearsal@1.json").write_text(json.dumps(policy))
        return
    raise CouldNotRehearse(
        "MP-REHEARSE-25",
        f"the documents of {plan}, got none among the sources of the app; expected them beside app.py or below it; "
        "move them there, or choose another scenario",
    )
