"""The scenarios that a rehearsal can play."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from marketplace_constructs.domain.metering_rules import RUNS_EVERY
from marketplace_constructs.domain.plan_versions import HOUR, hour_of
from marketplace_constructs.domain.product import Metering
from marketplace_constructs.rehearsal.bill import Plans, accepted, differences, due, plain, totals
from marketplace_constructs.rehearsal.doubt_scenario import doubt
from marketplace_constructs.rehearsal.journey import Promises, Scenario, require, wait_until
from marketplace_constructs.rehearsal.metering_scenario import metering, metering_large
from marketplace_constructs.rehearsal.native_meter import ROLE_NAME
from marketplace_constructs.rehearsal.native_scenario import report_only
from marketplace_constructs.rehearsal.plan_scenarios import plan_change, plans
from marketplace_constructs.rehearsal.stage import Route, Sale, SaleKind, Stage
from marketplace_constructs.rehearsal.visit import (
    CONTACT,
    TOKEN_FIELD,
    Visitor,
    is_refused,
    is_served,
    is_throttled,
    log_messages,
    open_to,
    register,
    said,
    sold_route,
    wait_until_drained,
)

_WRONG_KEY: Final = "x" * 40
_MOST_IN_A_BURST: Final = 500
_CLIENT_ERRORS: Final = range(400, 500)


def native_sale(stage: Stage, promises: Promises) -> None:
    """The sale of a product whose usage API Gateway reports."""
    sell(stage, promises, stage.sale(SaleKind.NATIVE))


def pipeline_sale(stage: Stage, promises: Promises) -> None:
    """The sale of a product whose usage this library meters."""
    sell(stage, promises, stage.sale(SaleKind.PIPELINE))


def sell(stage: Stage, promises: Promises, sale: Sale) -> Visitor:
    """One buyer, from the offer to the end."""
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    route = buy(promises, buyer)
    use(promises, buyer, route)
    replace_key(promises, buyer, route)
    bill(promises, buyer)
    leave(promises, buyer, route)
    return buyer


def buy(promises: Promises, buyer: Visitor) -> Route:
    """From the offer to the first call."""
    stage, sale = buyer.stage, buyer.sale
    with promises.promise("the buyer subscribes, and the seller is told") as notes, told(stage, notes):
        buyer.subscribe()
    with promises.promise("the fulfilment URL takes the form, and redirects to a page without the token"):
        page = buyer.come_from_marketplace()
        require(page.status == HTTPStatus.OK, said(page))
        require_nowhere(buyer, buyer.tokens[-1], "the registration token")
    with promises.promise("the page asks for an email address, the one required field, and keeps it"):
        page = buyer.give_contact(page)
        require(page.status == HTTPStatus.OK and page.form_asking_for("email") is None, said(page))
    with promises.promise("the buyer sees the agreement's status and gets the key"):
        shown = buyer.take_key()
        promises.explain = lambda: explain(buyer)
        require(shown.answer.headers.get("cache-control") == "no-store", "the page with the key may be cached")
    with promises.promise("the key is shown once"):
        page = buyer.see_status()
        require(page.form_with_only_hidden_fields() is None and buyer.key not in page.answer.body, said(page))
    with promises.promise("the curl line on the page works as it is"):
        curl = shown.curl_line()
        assert curl is not None
        answer = wait_until(
            lambda: found if is_served(found := buyer.follow(curl)) else None,
            "the call is served",
            seconds=10,
        )
        require(answer.status == HTTPStatus.OK, f"it answers {answer.status}: {answer.body[:160]}")
    return sold_route(stage, sale)


def use(promises: Promises, buyer: Visitor, route: Route) -> None:
    """What the key opens, and what it does not."""
    stage, sale = buyer.stage, buyer.sale
    with promises.promise("every route that is not free requires a key"):
        keyless = [str(r) for r in stage.routes(sale.api_id) if not r.is_open and not r.requires_key]
        require(not keyless, f"{', '.join(keyless)} require none")
    with promises.promise(f"{route} is refused without a key, and with a wrong one"):
        for key, name in (("", "without a key"), (_WRONG_KEY, "with a wrong key")):
            answer = buyer.call(route, key)
            require(is_refused(answer), f"{name} it answers {answer.status}")
    open_routes = [r for r in stage.routes(sale.api_id) if r.is_open and r.method == "GET" and "{" not in r.path]
    if open_routes:
        with promises.promise(f"{open_routes[0]} is free, and needs no key"):
            answer = buyer.call(open_routes[0])
            require(answer.status == HTTPStatus.OK, f"it answers {answer.status}")
    throttle = (
        stage.aws.client("apigateway").get_usage_plan(usagePlanId=sale.settings.usage_plan_id).get("throttle", {})
    )
    burst = int(throttle.get("burstLimit", 0))
    if 0 < burst <= _MOST_IN_A_BURST:
        with promises.promise(f"a burst above the plan's {burst} calls is throttled") as notes:
            calls = 2 * burst + 2 * int(throttle.get("rateLimit", 0))
            answers = wait_until(
                lambda: found if any(map(is_throttled, found := buyer.burst(route, calls))) else None,
                f"one of {calls} calls at once is throttled",
            )
            notes.append(f"{sum(map(is_throttled, answers))} of {calls} calls got 429")


def replace_key(promises: Promises, buyer: Visitor, route: Route) -> None:
    """A new key for the old one."""
    with promises.promise("a fresh token lets the buyer in again, to the status and to a new key"):
        page = buyer.come_from_marketplace()
        require(page.form_asking_for("email") is None, f"registered twice: {said(page)}")
        old = buyer.rotate_key(page, overlap_hours=0)
    with promises.promise("the new key works, and the old one is refused"):
        buyer.call_until_refused(route, old)
        wait_until(lambda: is_served(buyer.call(route, buyer.key)) or None, f"{route} is served with the new key")


def bill(promises: Promises, buyer: Visitor) -> None:
    """Every call that was served is billed once, by the one meter that is the product's."""
    stage, sale = buyer.stage, buyer.sale
    if sale.terms.is_native:
        with promises.promise("API Gateway's meter reports every call that was served, once") as notes:
            sale.meter.report()
            billed = billed_to(buyer)
            require(billed == buyer.served, f"{buyer.served} calls were served and {billed} are billed")
            notes.append(f"{billed} calls billed to {buyer.identity}")
    else:
        with promises.promise("API Gateway's meter stays out of it: the plan has no product code") as notes:
            plan = stage.aws.client("apigateway").get_usage_plan(usagePlanId=sale.settings.usage_plan_id)
            require(not plan.get("productCode"), f"the plan has the product code {plan.get('productCode')!r}")
            sale.meter.report()
            require(billed_to(buyer) == 0, f"{billed_to(buyer)} calls are billed by the wrong meter")
            if sale.pipeline is None:
                notes.append(f"{buyer.served} calls are billed by nobody: the stack has no meter (MP-SALE-20)")
        if sale.pipeline is not None:
            bill_by_log(promises, buyer)
    with promises.promise("nothing is billed twice, and no rule of AWS is broken"):
        wrong = [violation.what for violation in stage.market.violations[buyer.violations_before :]]
        require(not wrong, "; ".join(wrong))


def bill_by_log(promises: Promises, buyer: Visitor) -> None:
    """The deployed meter reads the access log, and bills what the buyer's plan says."""
    stage, sale = buyer.stage, buyer.sale
    assert sale.pipeline is not None
    assert buyer.agreement is not None
    agreement, rules = buyer.agreement.id, sale.pipeline.settings
    with promises.promise("the meter is run every few minutes"):
        require_scheduled(stage, sale)
    with promises.promise("the calls that the app names are made, and each has its line") as notes:
        for call in stage.example_calls:
            buyer.make(call, buyer.key)
        stage.access_logs.deliver()
        notes.append(f"{len(buyer.calls)} calls in {len(stage.access_logs.delivered)} files")
    with promises.promise("once the hour is over, the meter bills what the plan says that they count") as notes:
        calls, known = buyer.calls, Plans(stage, sale)
        stage.let_pass(sale, hour_of(calls[-1].at) + HOUR + timedelta(minutes=rules.watermark_minutes + 1))
        plans = {call.extended_request_id: known.plan_of(buyer, agreement, call.at) for call in calls}
        counts = [(agreement, hour_of(call.at), known.counts(plans[call.extended_request_id], call)) for call in calls]
        owed = due(counts, decimals=rules.decimals)
        billed = accepted(stage, [agreement])
        require(owed == billed, "; ".join(differences(owed, billed)))
        sums = totals(billed, [agreement])
        notes.append(f"{', '.join(sorted(set(plans.values())))}: {sum(map(bool, (c[2] for c in counts)))} calls count")
        notes += [f"{plain(quantity)} {dimension}" for (_, dimension), quantity in sorted(sums.items())]


def leave(promises: Promises, buyer: Visitor, route: Route) -> None:
    """The end of it."""
    stage = buyer.stage
    assert buyer.agreement is not None
    with promises.promise("the buyer cancels, and is shut out") as notes:
        with told(stage, notes):
            stage.market.cancel(buyer.agreement)
        buyer.call_until_refused(route, buyer.key)
    with promises.promise("the page says that it is over, and a token that was used before opens nothing"):
        page = buyer.come_from_marketplace({TOKEN_FIELD: buyer.tokens[0]})
        require(page.status == HTTPStatus.OK and not page.forms and page.curl_line() is None, said(page))
        answer = buyer.call(route, buyer.key)
        require(is_refused(answer), f"{route} answers {answer.status}")
    with promises.promise("neither key nor token stands in any log"):
        require_not_logged(buyer)


def rotation(stage: Stage, promises: Promises) -> None:
    """The buyer changes over to a new key without a break."""
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        with promises.promise(f"{sale.stack.name}: the old key and the new one both work"):
            buyer.subscribe()
            register(buyer)
            route = open_to(buyer)
            old = buyer.rotate_key(buyer.come_from_marketplace(), overlap_hours=1)
            for key in (old, buyer.key):
                require(is_served(answer := buyer.call(route, key)), f"one answers {answer.status}")
        with promises.promise(f"{sale.stack.name}: after the hour the old key is refused, the new one works"):
            stage.clock.advance(timedelta(hours=1))
            stage.reconcile(sale, buyer.identity)
            buyer.call_until_refused(route, old)
            require(is_served(answer := buyer.call(route, buyer.key)), f"the new one answers {answer.status}")


def renewal(stage: Stage, promises: Promises) -> None:
    """A renewed agreement inherits registration and key."""
    sale = stage.sale(SaleKind.CONCURRENT)
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    with promises.promise("a buyer has a key that works"):
        agreement = buyer.subscribe()
        register(buyer)
        route = open_to(buyer)
    with promises.promise("the agreement is renewed, and the key goes on working") as notes:
        stage.clock.advance(timedelta(days=1))
        with told(stage, notes):
            buyer.agreement = stage.market.renew(agreement)
        wait_until_drained(stage, sale)
        require(is_served(answer := buyer.call(route, buyer.key)), f"it answers {answer.status}")
    with promises.promise("the buyer comes back to the renewed agreement without registering again"):
        page = buyer.come_from_marketplace()
        require(page.form_asking_for("radio") is not None, said(page))
    with promises.promise("when the renewed agreement ends, the key is refused"):
        stage.market.cancel(buyer.agreement)
        buyer.call_until_refused(route, buyer.key)


def two_agreements(stage: Stage, promises: Promises) -> None:
    """Each agreement of an account has a key of its own."""
    sale = stage.sale(SaleKind.CONCURRENT)
    account = stage.market.add_buyer()
    first, second = Visitor(stage, sale, account), Visitor(stage, sale, account)
    with promises.promise("one account buys twice, and gets two keys"):
        for buyer in (first, second):
            buyer.subscribe()
            register(buyer)
            open_to(buyer)
        require(first.key != second.key, "both agreements have the same key")
    with promises.promise("when one agreement ends, the other's key goes on working"):
        assert first.agreement is not None
        stage.market.cancel(first.agreement)
        route = sold_route(stage, sale)
        first.call_until_refused(route, first.key)
        require(is_served(answer := second.call(route, second.key)), f"it answers {answer.status}")


def event_first(stage: Stage, promises: Promises) -> None:
    """The activation arrives before the registration, as it does on AWS when a buyer takes their time."""
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        with promises.promise(f"{sale.stack.name}: the activation is kept until the buyer registers") as notes:
            with told(stage, notes):
                buyer.subscribe()
            wait_until_drained(stage, sale)
        with promises.promise(f"{sale.stack.name}: whoever registers then gets the key at once"):
            register(buyer)


def event_last(stage: Stage, promises: Promises) -> None:
    """The registration arrives before the activation."""
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        with promises.promise(f"{sale.stack.name}: before the activation there is a status, and no key"):
            stage.market.events.hold()
            buyer.subscribe()
            page = buyer.give_contact(buyer.come_from_marketplace())
            require(page.form_with_only_hidden_fields() is None, f"a key is offered too early: {said(page)}")
        with promises.promise(f"{sale.stack.name}: the activation opens"):
            stage.market.events.release()
            buyer.take_key()
            open_to(buyer)


def event_twice(stage: Stage, promises: Promises) -> None:
    """Every event arrives twice, and the first ones once more after the end."""
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        before = len(stage.market.events.history)
        with promises.promise(f"{sale.stack.name}: an event that arrives twice opens once"):
            stage.market.events.duplicate(times=2)
            buyer.subscribe()
            register(buyer)
            open_to(buyer)
        with promises.promise(f"{sale.stack.name}: an activation that arrives again after the end opens nothing"):
            opening = [event.id for event in stage.market.events.history[before:]]
            assert buyer.agreement is not None
            stage.market.cancel(buyer.agreement)
            route = sold_route(stage, sale)
            buyer.call_until_refused(route, buyer.key)
            for event_id in opening:
                stage.market.events.redeliver(event_id)
            wait_until_drained(stage, sale)
            require(is_refused(answer := buyer.call(route, buyer.key)), f"{route} answers {answer.status}")


def event_lost(stage: Stage, promises: Promises) -> None:
    """The end is never told; the reconciliation asks AWS itself."""
    sale = stage.sale(SaleKind.CONCURRENT)
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    with promises.promise("a buyer has a key that works"):
        buyer.subscribe()
        register(buyer)
        open_to(buyer)
    route = sold_route(stage, sale)
    with promises.promise("the buyer cancels, no event arrives, and the key still works"):
        assert buyer.agreement is not None
        stage.market.events.lose(times=2)
        stage.market.cancel(buyer.agreement)
        require(is_served(buyer.call(route, buyer.key)), "the key stopped working without a reason")
    with promises.promise("the reconciliation finds out, and shuts the buyer out"):
        stage.reconcile(sale, buyer.identity)
        buyer.call_until_refused(route, buyer.key)


def drift(stage: Stage, promises: Promises) -> None:
    """Somebody changes by hand what the stack had set up; the reconciliation puts it right."""
    gateway = stage.aws.client("apigateway")
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        with promises.promise(f"{sale.stack.name}: a buyer has a key that works"):
            buyer.subscribe()
            register(buyer)
            route = open_to(buyer)
        with promises.promise(f"{sale.stack.name}: a key that was taken out of the plan is put back"):
            pages = gateway.get_paginator("get_usage_plan_keys").paginate(usagePlanId=sale.settings.usage_plan_id)
            for key in [key for page in pages for key in page["items"]]:
                gateway.delete_usage_plan_key(usagePlanId=sale.settings.usage_plan_id, keyId=key["id"])
            require(is_refused(buyer.call(route, buyer.key)), "a key without a plan was let in")
            stage.reconcile(sale, buyer.identity)
            require(is_served(buyer.call(route, buyer.key)), "the key still does not work")
        expected = sale.terms.product_code if sale.terms.is_native else ""
        with promises.promise(f"{sale.stack.name}: the plan's product code is {expected or 'none'} again"):
            set_product_code(stage, sale, "" if expected else sale.terms.product_code)
            stage.reconcile(sale, buyer.identity)
            plan = gateway.get_usage_plan(usagePlanId=sale.settings.usage_plan_id)
            require(plan.get("productCode", "") == expected, f"it is {plan.get('productCode', '')!r}")


def token_expired(stage: Stage, promises: Promises) -> None:
    """The buyer comes too late, then once more."""
    for sale in stage.sales:
        buyer = Visitor(stage, sale, stage.market.add_buyer())
        with promises.promise(f"{sale.stack.name}: an expired token is refused with a next step"):
            agreement = buyer.subscribe()
            form = stage.market.registration_form(agreement)
            stage.clock.advance(stage.market.settings.token_life + timedelta(seconds=1))
            page = buyer.come_from_marketplace(form)
            require(page.status in _CLIENT_ERRORS and "Set up your account" in page.text, said(page))
        with promises.promise(f"{sale.stack.name}: a fresh one from AWS Marketplace is taken"):
            register(buyer)


Break = Callable[[Stage, Sale], AbstractContextManager[None]]
"""Breaks something in a deployed stack, and mends it afterwards."""


def broken_rule(number: int, break_it: Break) -> Callable[[Stage, Promises], None]:
    """A scenario in which one of the native rules is broken in the deployed stack."""

    def play(stage: Stage, promises: Promises) -> None:
        sale = stage.sale(SaleKind.NATIVE)
        with promises.promise(f"with native rule {number} broken, the sale fails and names it") as notes:
            sale.meter.forget()
            with break_it(stage, sale):
                broken = Scenario(name="", title="", play=native_sale).run(stage).steps[-1]
            sale.meter.forget()
            require(bool(broken.broken), "every promise was kept")
            require(f"native rule {number} is broken" in broken.broken, f"it says instead: {broken.broken}")
            notes.append(f"{broken.promise}: {broken.broken}")

    return play


@contextmanager
def role_without_metering(stage: Stage, _: Sale) -> Iterator[None]:
    """Rule 5: the account's role may not report usage."""
    iam = stage.aws.client("iam")
    names = iam.list_role_policies(RoleName=ROLE_NAME)["PolicyNames"]
    policies = {name: iam.get_role_policy(RoleName=ROLE_NAME, PolicyName=name)["PolicyDocument"] for name in names}
    for name in names:
        iam.delete_role_policy(RoleName=ROLE_NAME, PolicyName=name)
    try:
        yield
    finally:
        for name, policy in policies.items():
            iam.put_role_policy(RoleName=ROLE_NAME, PolicyName=name, PolicyDocument=json.dumps(policy))


@contextmanager
def role_without_trust(stage: Stage, _: Sale) -> Iterator[None]:
    """Rule 5: API Gateway may not take on the account's role."""
    iam = stage.aws.client("iam")
    trust = iam.get_role(RoleName=ROLE_NAME)["Role"]["AssumeRolePolicyDocument"]
    others = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "lambda.amazonaws.com"}}
    nobody = json.dumps({"Version": "2012-10-17", "Statement": [others]})
    iam.update_assume_role_policy(RoleName=ROLE_NAME, PolicyDocument=nobody)
    try:
        yield
    finally:
        iam.update_assume_role_policy(RoleName=ROLE_NAME, PolicyDocument=json.dumps(trust))


@contextmanager
def plan_without_product_code(stage: Stage, sale: Sale) -> Iterator[None]:
    """Rule 6: the usage plan names no product."""
    set_product_code(stage, sale, "")
    try:
        yield
    finally:
        set_product_code(stage, sale, sale.terms.product_code)


@contextmanager
def keys_without_customer(stage: Stage, sale: Sale) -> Iterator[None]:
    """Rule 7: the functions that make keys believe that nobody's usage is reported natively."""
    with stage.functions_told(sale, "METERING", Metering.PIPELINE.value):
        yield


@contextmanager
def routes_without_key(stage: Stage, sale: Sale) -> Iterator[None]:
    """Rule 8: the methods no longer require the key."""
    gateway = stage.aws.client("apigateway")
    ids = {
        item["path"]: item["id"]
        for page in gateway.get_paginator("get_resources").paginate(restApiId=sale.api_id)
        for item in page["items"]
    }
    keyed = [route for route in stage.routes(sale.api_id) if route.requires_key]

    def require_key(value: str) -> None:
        for route in keyed:
            gateway.update_method(
                restApiId=sale.api_id,
                resourceId=ids[route.path],
                httpMethod=route.method,
                patchOperations=[{"op": "replace", "path": "/apiKeyRequired", "value": value}],
            )

    require_key("false")
    try:
        yield
    finally:
        require_key("true")


@contextmanager
def told(stage: Stage, notes: list[str]) -> Iterator[None]:
    """Whatever Marketplace says meanwhile reaches a queue.

    Raises:
        BrokenPromise: Something does not.
    """
    before, unheard = len(stage.market.events.history), len(stage.events.unheard)
    yield
    lost = [event.name for event in stage.events.unheard[unheard:]]
    require(not lost, f"nothing was deployed that hears {', '.join(lost)}")
    notes.append(f"told: {', '.join(event.name for event in stage.market.events.history[before:])}")


def explain(buyer: Visitor) -> list[str]:
    """What is known to keep this buyer's calls from being billed."""
    if not buyer.sale.terms.is_native:
        return []
    return [str(broken) for broken in buyer.sale.meter.broken_rules(buyer.identity)]


def billed_to(buyer: Visitor) -> int:
    """The quantity that AWS would bill the buyer."""
    records = buyer.stage.market.accepted_records
    return int(sum(record.quantity for record in records if record.account_id == buyer.buyer.account_id))


def require_scheduled(stage: Stage, sale: Sale) -> None:
    """The deployed meter has a rule that runs it.

    Raises:
        BrokenPromise: It has none, or one that is off or slower than it must be.
    """
    assert sale.pipeline is not None
    events = stage.aws.client("events")
    arn = stage.aws.client("lambda").get_function_configuration(FunctionName=sale.pipeline.function)["FunctionArn"]
    minutes = int(RUNS_EVERY.total_seconds()) // 60
    for name in sale.stack.of_type("AWS::Events::Rule").values():
        rule = events.describe_rule(Name=name)
        if rule.get("ScheduleExpression") and any(
            target["Arn"] == arn for target in events.list_targets_by_rule(Rule=name)["Targets"]
        ):
            found = f"{rule['ScheduleExpression']}, {rule['State']}"
            require(found == f"rate({minutes} minutes), ENABLED", f"it is run at {found}")
            return
    require(kept=False, otherwise="no rule runs it")


def set_product_code(stage: Stage, sale: Sale, code: str) -> None:
    """Change the plan's product code by hand; empty takes it off."""
    operation = (
        {"op": "replace", "path": "/productCode", "value": code} if code else {"op": "remove", "path": "/productCode"}
    )
    stage.aws.client("apigateway").update_usage_plan(
        usagePlanId=sale.settings.usage_plan_id, patchOperations=[operation]
    )


def require_nowhere(buyer: Visitor, secret: str, name: str) -> None:
    """A secret stands in no address, header or body that came back.

    Raises:
        BrokenPromise: It does.
    """
    for answer in buyer.browser.seen:
        for place, text in (("address", answer.url), ("headers", str(answer.headers)), ("page", answer.body)):
            require(secret not in text and quote(secret, safe="") not in text, f"{name} stands in the {place}")


def require_not_logged(buyer: Visitor) -> None:
    """No log of the stack's functions has the buyer's key, tokens or address.

    Raises:
        BrokenPromise: One has.
    """
    logs = buyer.stage.aws.client("logs")
    secrets = {"the key": buyer.key, "the address": CONTACT}
    secrets |= {f"token {number}": token for number, token in enumerate(buyer.tokens, 1)}
    lines = 0
    for group in buyer.sale.stack.of_type("AWS::Logs::LogGroup").values():
        for message in log_messages(logs, group):
            lines += 1
            for name, secret in secrets.items():
                require(secret not in message, f"{name} stands in the log {group}")
    require(lines > 0, "no function has logged anything")


_ALL: Final = (
    Scenario(
        name="native-sale",
        title="a sale that API Gateway's own meter bills",
        play=native_sale,
        needs=SaleKind.NATIVE,
        is_default=True,
    ),
    Scenario(
        name="pipeline-sale",
        title="a sale whose calls API Gateway's own meter must not bill",
        play=pipeline_sale,
        needs=SaleKind.PIPELINE,
        is_default=True,
    ),
    Scenario(
        name="metering",
        title="many buyers under several plans are billed to the unit",
        play=metering,
        needs=SaleKind.METERED_BY_PLANS,
    ),
    Scenario(
        name="metering-large",
        title="the same with thousands of calls",
        play=metering_large,
        needs=SaleKind.METERED_BY_PLANS,
    ),
    Scenario(
        name="doubt",
        title="answers are lost, and others meter the same",
        play=doubt,
        needs=SaleKind.METERED,
    ),
    Scenario(
        name="report-only",
        title="what API Gateway reports, and what the log counts",
        play=report_only,
        needs=SaleKind.REPORTED,
    ),
    Scenario(name="rotation", title="a new key while the old one goes on for an hour", play=rotation),
    Scenario(name="renewal", title="an agreement goes on in another", play=renewal, needs=SaleKind.CONCURRENT),
    Scenario(
        name="two-agreements",
        title="one account, two agreements",
        play=two_agreements,
        needs=SaleKind.CONCURRENT,
    ),
    Scenario(name="plans", title="an agreement moves to another plan", play=plans, needs=SaleKind.PLANNED),
    Scenario(
        name="plan-change", title="the documents of a plan change, and back", play=plan_change, needs=SaleKind.PLANNED
    ),
    Scenario(name="event-first", title="the activation arrives before the registration", play=event_first),
    Scenario(name="event-last", title="the activation arrives after the registration", play=event_last),
    Scenario(name="event-twice", title="events arrive twice, and late", play=event_twice),
    Scenario(name="event-lost", title="the end is never told", play=event_lost, needs=SaleKind.CONCURRENT),
    Scenario(name="drift", title="somebody changes the stack by hand", play=drift),
    Scenario(name="token-expired", title="the buyer comes too late", play=token_expired),
    *(
        Scenario(name=name, title=title, play=broken_rule(number, break_it), needs=SaleKind.NATIVE)
        for name, title, number, break_it in (
            ("rule-5", "the metering role may not report", 5, role_without_metering),
            ("rule-5-trust", "API Gateway may not take on the metering role", 5, role_without_trust),
            ("rule-6", "the usage plan has no product code", 6, plan_without_product_code),
            ("rule-7", "the keys have no customer id", 7, keys_without_customer),
            ("rule-8", "calls need no key", 8, routes_without_key),
        )
    ),
)
SCENARIOS: Final = {scenario.name: scenario for scenario in _ALL}
"""Every scenario, by name, in the order in which they are listed."""
