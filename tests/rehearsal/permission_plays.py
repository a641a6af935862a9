"""Short plays, each of which needs certain actions of certain roles: without any one of them it breaks.

They look where a buyer does not: a key that stays behind at API Gateway harms nobody at first, because the gate shuts
it out, and yet it is an action that failed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from marketplace_constructs.domain.metering import Outcome
from marketplace_constructs.domain.plan_versions import hour_of, next_hour
from marketplace_constructs.domain.product import NATIVE_DIMENSION
from marketplace_constructs.rehearsal.bill import Plans, accepted, differences, due
from marketplace_constructs.rehearsal.doubt_scenario import doubtful, faulty, ledger_of
from marketplace_constructs.rehearsal.errors import BrokenPromise
from marketplace_constructs.rehearsal.journey import Promises, Scenario, require, wait_until
from marketplace_constructs.rehearsal.marketplace import FaultKind
from marketplace_constructs.rehearsal.scenarios import bill, set_product_code
from marketplace_constructs.rehearsal.stage import Pipeline, Sale, Stage
from marketplace_constructs.rehearsal.visit import TOKEN_FIELD, Visitor, open_to, register, sold_route
from marketplace_constructs.runtime.settings import OnboardingSettings

KEYS_TABLE, FACTS_TABLE, CONTACTS_TABLE = "GateKeys", "AgreementsFacts", "AgreementsContacts"
API_KEYS, API_KEY = "/apikeys", "/apikeys/*"
PLAN = "/usageplans/{UsagePlan}"
MEMBERS, MEMBER = f"{PLAN}/keys", f"{PLAN}/keys/*"
PLANS_TABLE, PLAN_TABLES = "PlansTable", "{PlansTables}/plan-tables/*"
SENDER = "identity/orders@example.com"
SECRET = "OnboardingSigningSecret"
LOG, QUARANTINE = "{AccessLogBucket}/access-log/*", "{AccessLogBucket}/quarantine/*"
LEDGER = "{MeterLedger}/ledger/*"

ONBOARDING, EVENTS, RECONCILIATION = "OnboardingFunction", "SubscriptionEventsFunction", "AgreementsReconciliation"
METER = "MeterFunction"
METER_READS = (
    *(f"dynamodb:Scan {table}" for table in (FACTS_TABLE, PLANS_TABLE)),
    *(f"s3:ListBucket {bucket}" for bucket in ("AccessLogBucket", "MeterLedger")),
    *(f"s3:GetObject {objects}" for objects in (LOG, LEDGER, PLAN_TABLES)),
    f"s3:PutObject {LEDGER}",
)
"""What it reads, and the ledger that it writes."""


@dataclass(frozen=True, kw_only=True)
class Play:
    """A scenario of one sale, and what breaks it.

    Args:
        name: As the table has it.
        title: What becomes of it while the actions are there.
        play: Makes the promises.
        needs: Role to the actions without which it breaks, each as ``service:Action resource``.
        fits: The sales that it can be played with, by how their onboarding function is set.
    """

    name: str
    title: str
    play: Callable[[Stage, Sale, Promises], None]
    needs: Mapping[str, tuple[str, ...]]
    fits: Callable[[OnboardingSettings], bool] = lambda _: True

    def breaks(self, stage: Stage, sale: Sale) -> str:
        """The promise that broke, and how; empty where all were kept."""
        scenario = Scenario(name=self.name, title=self.title, play=lambda s, promises: self.play(s, sale, promises))
        last = scenario.run(stage).steps[-1]
        return f"{last.promise}: {last.broken}" if last.broken else ""


def bought(stage: Stage, sale: Sale, promises: Promises) -> Visitor:
    buyer = Visitor(stage, sale, stage.market.add_buyer())
    with promises.promise("a buyer registers, gets a key, and calls"):
        buyer.subscribe()
        register(buyer)
        open_to(buyer)
    return buyer


def first_call(stage: Stage, sale: Sale, promises: Promises) -> None:
    bought(stage, sale, promises)


def billed_call(stage: Stage, sale: Sale, promises: Promises) -> None:
    bill(promises, bought(stage, sale, promises))


def session(stage: Stage, sale: Sale, promises: Promises) -> None:
    # The functions keep the signing secret for five minutes, and what holds of the plans for one.
    stage.clock.advance(timedelta(minutes=6))
    bought(stage, sale, promises)


def mail(stage: Stage, sale: Sale, promises: Promises) -> None:
    verify_sender(stage)
    buyer = bought(stage, sale, promises)
    with promises.promise("the confirmation is sent, and noted as sent"):
        require(confirmation(buyer) == "sent", f"it is {confirmation(buyer)}")


def owed_mail(stage: Stage, sale: Sale, promises: Promises) -> None:
    verify_sender(stage)
    buyer = bought(stage, sale, promises)
    with promises.promise("the reconciliation sends a confirmation that is still owed"):
        stage.aws.client("dynamodb").update_item(
            TableName=sale.settings.contacts_table,
            Key={"agreement": {"S": contact_of(buyer)["agreement"]["S"]}},
            UpdateExpression="SET confirmation = :owed",
            ExpressionAttributeValues={":owed": {"S": "owed"}},
        )
        reconcile(stage, sale, buyer.identity)
        require(confirmation(buyer) == "sent", f"it is {confirmation(buyer)}")


def replaced_key(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("a key that is replaced at once is gone from API Gateway"):
        old = key_id(stage, buyer.key)
        buyer.rotate_key(buyer.come_from_marketplace(), overlap_hours=0)
        require(not exists(stage, old), "it is still there")


def overlapping_key(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("of a key that is replaced in an hour, the gate knows until when"):
        buyer.rotate_key(buyer.come_from_marketplace(), overlap_hours=1)
        require("open_until" in gate_entry(buyer, buyer.keys[0]), "it does not know")


def half_made_key(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("a key whose maker died before it noted the id is found by its name when the buyer comes"):
        key = key_id(stage, buyer.key)
        forget_id(buyer)
        leave(stage, sale, key)
        buyer.come_from_marketplace()
        require(is_member(stage, sale, key), "it is not in the plan")


def reopened(stage: Stage, sale: Sale, promises: Promises) -> tuple[Visitor, str]:
    """A key of an agreement that has ended, which somebody opened by hand."""
    buyer = bought(stage, sale, promises)
    assert buyer.agreement is not None
    with promises.promise("the agreement ends, and its key with it"):
        key = key_id(stage, buyer.key)
        stage.market.cancel(buyer.agreement)
        wait_until(lambda: not is_member(stage, sale, key) or None, "the key is out of the plan")
        # An end is told more than once, and each notice would shut the key again. What nobody can read stays.
        with suppress(BrokenPromise):
            wait_until(lambda: is_quiet(stage, sale) or None, "every event is handled", seconds=5)
    gateway = stage.aws.client("apigateway")
    gateway.update_api_key(apiKey=key, patchOperations=[{"op": "replace", "path": "/enabled", "value": "true"}])
    gateway.create_usage_plan_key(usagePlanId=sale.settings.usage_plan_id, keyId=key, keyType="API_KEY")
    return buyer, key


def reopened_for_visitor(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer, key = reopened(stage, sale, promises)
    with promises.promise("when the buyer comes once more, it is shut again"):
        buyer.come_from_marketplace({TOKEN_FIELD: buyer.tokens[0]})
        require_shut(stage, sale, key)


def reopened_for_reconciliation(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer, key = reopened(stage, sale, promises)
    with promises.promise("the reconciliation shuts it again"):
        reconcile(stage, sale, buyer.identity)
        require_shut(stage, sale, key)


def lost_key(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the reconciliation goes on where somebody deleted a key by hand"):
        stage.aws.client("apigateway").delete_api_key(apiKey=key_id(stage, buyer.key))
        reconcile(stage, sale, buyer.identity)


def end(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the key of an agreement that ends is disabled, and out of the plan"):
        key, route = key_id(stage, buyer.key), open_to(buyer)
        assert buyer.agreement is not None
        # What holds of the plans is read again.
        stage.clock.advance(timedelta(minutes=2))
        stage.market.cancel(buyer.agreement)
        wait_until(lambda: not is_member(stage, sale, key) or None, "the key is out of the plan")
        buyer.call_until_refused(route, buyer.key)
        require(not api_key(stage, key)["enabled"], "the key is enabled")


def half_joined_key(stage: Stage, sale: Sale, promises: Promises) -> None:
    begun = len(stage.market.events.history)
    buyer = bought(stage, sale, promises)
    with promises.promise("the event that comes next puts a key into the plan whose maker died before it did"):
        key = key_id(stage, buyer.key)
        forget_id(buyer)
        leave(stage, sale, key)
        stage.market.events.redeliver(stage.market.events.history[begun].id)
        wait_until(lambda: is_member(stage, sale, key) or None, "the key is in the plan")


def event_after_overlap(stage: Stage, sale: Sale, promises: Promises) -> None:
    begun = len(stage.market.events.history)
    buyer = bought(stage, sale, promises)
    with promises.promise("the event that comes next removes a key whose overlap is over"):
        old = overlapped(stage, buyer)
        stage.market.events.redeliver(stage.market.events.history[begun].id)
        wait_until(lambda: not exists(stage, old) or None, "the key is gone from API Gateway")


def amended(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("an event of a contract that grew has the new entitlement read"):
        grow(stage, buyer)
        wait_until(lambda: has_grown(buyer) or None, "the entitlement is known")


def amended_unheard(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the reconciliation reads the new entitlement of a contract that grew"):
        stage.market.events.lose(times=1 if sale.terms.is_legacy else 2)
        grow(stage, buyer)
        reconcile(stage, sale, buyer.identity)
        require(has_grown(buyer), "the entitlement is not known")


def drift(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    plan, gateway = sale.settings.usage_plan_id, stage.aws.client("apigateway")
    expected = sale.terms.product_code if sale.terms.is_native else ""
    with promises.promise("the reconciliation puts back what somebody changed: key, plan, gate and product code"):
        key, route = key_id(stage, buyer.key), open_to(buyer)
        leave(stage, sale, key)
        gateway.update_api_key(apiKey=key, patchOperations=[{"op": "replace", "path": "/enabled", "value": "false"}])
        shut(buyer)
        set_product_code(stage, sale, "" if expected else sale.terms.product_code)
        try:
            reconcile(stage, sale, buyer.identity)
            found = gateway.get_usage_plan(usagePlanId=plan).get("productCode", "")
            require(found == expected, f"the product code is {found!r}")
        finally:
            set_product_code(stage, sale, expected)
        require(is_member(stage, sale, key) and api_key(stage, key)["enabled"], "the key is not as it was")
        require(is_open(buyer), f"{route} stays shut")


def overlap(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the reconciliation removes a key whose overlap is over"):
        old = overlapped(stage, buyer)
        reconcile(stage, sale, buyer.identity)
        require(not exists(stage, old), "it is still there")


def end_unheard(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the reconciliation finds out that an agreement has ended"):
        key = key_id(stage, buyer.key)
        assert buyer.agreement is not None
        stage.market.events.lose(times=2)
        stage.market.cancel(buyer.agreement)
        reconcile(stage, sale, buyer.identity)
        require(not is_member(stage, sale, key), "its key is still in the plan")


def orphan(stage: Stage, sale: Sale, promises: Promises) -> None:
    with promises.promise("the reconciliation of all buyers removes a key that is nobody's"):
        name = f"{sale.settings.key_prefix}agmt-none/1"
        found = stage.aws.client("apigateway").create_api_key(name=name, enabled=True)["id"]
        try:
            reconcile(stage, sale)
            require(not exists(stage, found), "it is still there")
        finally:
            if exists(stage, found):
                stage.aws.client("apigateway").delete_api_key(apiKey=found)


def new_secret(stage: Stage, sale: Sale, promises: Promises) -> None:
    """Secrets Manager's part is played: it stages a version and calls the function four times."""
    secrets = stage.aws.client("secretsmanager")
    function = function_of(sale, "onboarding.signing_secret.handler")
    secret, token = sale.settings.signing_secret, str(uuid.uuid4())
    with promises.promise("the signing secret is rotated in four steps"):
        before = secrets.get_secret_value(SecretId=secret)["SecretString"]
        secrets.rotate_secret(SecretId=secret, ClientRequestToken=token)
        for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
            invoke(stage, function, {"Step": step, "SecretId": secret, "ClientRequestToken": token})
        after = secrets.get_secret_value(SecretId=secret)
        require(after["VersionId"] == token and after["SecretString"] != before, "it is the one that it was")


def product_code(stage: Stage, sale: Sale, promises: Promises) -> None:
    """CloudFormation's part is played: it calls the function and is answered at an address of its own."""
    gateway, plan = stage.aws.client("apigateway"), sale.settings.usage_plan_id
    with promises.promise("the product code is set on the plan"):
        set_product_code(stage, sale, "")
        try:
            answer = ask_for_product_code(stage, sale, plan)
            found = gateway.get_usage_plan(usagePlanId=plan).get("productCode")
        finally:
            set_product_code(stage, sale, sale.terms.product_code)
        require(answer["Status"] == "SUCCESS", f"it answers {answer['Reason']}")
        require(found == sale.terms.product_code, f"it is {found!r}")


def recorded_plans(stage: Stage, sale: Sale, promises: Promises) -> None:
    with promises.promise("a plan that is deployed is recorded, with its table"):
        deployed = deployed_plans(sale)
        name = f"rehearsal{stage.clock.now():%Y%m%d%H%M%S}@1"
        text = gzip.decompress(base64.b64decode(deployed[0]["Table"])).decode()
        table = text.replace(json.dumps(deployed[0]["Plan"]), json.dumps(name))
        require(table != text, "the table does not name its plan")
        nobodys = {
            "Plan": name,
            "AssignTo": json.dumps({"Offers": []}),
            "Table": base64.b64encode(gzip.compress(table.encode())).decode(),
        }
        answer = ask(stage, sale, "runtime.plans.handler", {"Plans": [*deployed, {**deployed[0], **nobodys}]})
        require(answer["Status"] == "SUCCESS", f"it answers {answer['Reason']}")
        answer = ask(stage, sale, "runtime.plans.handler", {"Plans": deployed})
        require(answer["Status"] == "SUCCESS", f"it answers {answer['Reason']}")


def metered_call(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    assert buyer.agreement is not None
    agreement, plans = buyer.agreement.id, Plans(stage, sale)
    with promises.promise("the meter bills what was called, once the hour is over"):
        for call in stage.example_calls:
            buyer.make(call, buyer.key)
        close_hour(stage, sale)
        counts = (
            (agreement, hour_of(call.at), plans.counts(plans.plan_of(buyer, agreement, call.at), call))
            for call in buyer.calls
        )
        owed, billed = due(counts, decimals=meter_of(sale).settings.decimals), accepted(stage, [agreement])
        require(bool(owed), "the calls count nothing, which shows nothing")
        require(owed == billed, "; ".join(differences(owed, billed)))


def reported_call(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    with promises.promise("the meter counts what was called, once the hour is over"):
        buyer.call(sold_route(stage, sale), buyer.key)
        close_hour(stage, sale)
        closed = ledger_of(stage, sale).closed.get(hour_of(buyer.calls[-1].at))
        counted = closed.lines.get(f"{NATIVE_DIMENSION} billable", 0) if closed else 0
        require(counted >= len(buyer.calls), f"{len(buyer.calls)} calls were made and {counted} are counted")


def doubtful_record(stage: Stage, sale: Sale, promises: Promises) -> None:
    buyer = bought(stage, sale, promises)
    assert buyer.agreement is not None
    agreement = buyer.agreement.id
    with promises.promise("a record whose answer was lost is found in CloudTrail, and is in doubt no more"):
        for call in stage.example_calls:
            buyer.make(call, buyer.key)
        with doubtful(stage):
            with faulty(stage, FaultKind.LOST_REPLY):
                close_hour(stage, sale)
            invoke(stage, meter_of(sale).function, {})
        before = fates(stage, sale, agreement)
        require(set(before.values()) == {Outcome.IN_DOUBT}, f"after lost answers, records are {before}")
        close_hour(stage, sale)
        after = fates(stage, sale, agreement)
        require({after[record] for record in before} == {Outcome.ACCEPTED}, f"an hour later records are {after}")


def fates(stage: Stage, sale: Sale, agreement: str) -> dict[str, Outcome]:
    """What the ledger says became of the records of an agreement."""
    history = ledger_of(stage, sale)
    ours = (record for record in history.records.values() if record.series.agreement == agreement)
    return {record.id: history.fate(record.id).outcome for record in ours}


def unreadable_line(stage: Stage, sale: Sale, promises: Promises) -> None:
    settings, s3, line = meter_of(sale).settings, stage.aws.client("s3"), f"no line of any call: {uuid.uuid4()}"
    with promises.promise("the meter keeps a line that it cannot read"):
        stage.access_logs.write(sale.api_id, f"{line}\n".encode())
        close_hour(stage, sale)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=settings.log_bucket, Prefix="quarantine/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        kept = (s3.get_object(Bucket=settings.log_bucket, Key=key)["Body"].read().decode() for key in keys)
        require(any(line in text for text in kept), "it is not kept")


def close_hour(stage: Stage, sale: Sale) -> None:
    """Run the meter when everything that was called before is in the log, and its hour is over for the meter."""
    meter, now = meter_of(sale), stage.clock.now()
    stage.clock.advance(next_hour(now) + timedelta(minutes=meter.settings.watermark_minutes + 1) - now)
    invoke(stage, meter.function, {})


def meter_of(sale: Sale) -> Pipeline:
    assert sale.pipeline is not None
    return sale.pipeline


def deployed_plans(sale: Sale) -> list[dict[str, str]]:
    """What CloudFormation told the function that records plans."""
    resources = sale.stack.template["Resources"].values()
    (resource,) = (resource for resource in resources if resource["Type"] == "Custom::MarketplacePlans")
    return [
        {**plan, "UsagePlanId": sale.stack.physical_ids[plan["UsagePlanId"]["Ref"]]}
        for plan in resource["Properties"]["Plans"]
    ]


def refused_product_code(stage: Stage, sale: Sale, promises: Promises) -> None:
    with promises.promise("a product code that cannot be set fails the deployment, once the stack's status was read"):
        # A rollback must not fail; whether this is one, the function asks CloudFormation.
        unknown = lines(stage, sale, "stack status unknown")
        answer = ask_for_product_code(stage, sale, "none-of-that-id")
        require(answer["Status"] == "FAILED", "it says that all is well")
        require(lines(stage, sale, "stack status unknown") == unknown, "the stack's status could not be read")


def function_of(sale: Sale, handler: str) -> str:
    return next(
        name
        for logical_id, name in sale.stack.of_type("AWS::Lambda::Function").items()
        if str(sale.stack.template["Resources"][logical_id]["Properties"]["Handler"]).endswith(handler)
    )


def invoke(stage: Stage, function: str, event: Mapping[str, object]) -> None:
    answer = stage.aws.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event).encode())
    said = json.loads(answer["Payload"].read() or b"null")
    require(not answer.get("FunctionError"), f"the function failed: {said}")


def reconcile(stage: Stage, sale: Sale, buyer: str | None = None) -> None:
    invoke(stage, sale.reconciliation, {"buyer": buyer} if buyer else {})


def ask_for_product_code(stage: Stage, sale: Sale, plan: str) -> dict[str, str]:
    return ask(stage, sale, "usage_plan.handler", {"UsagePlanId": plan, "ProductCode": sale.terms.product_code})


def ask(stage: Stage, sale: Sale, handler: str, properties: Mapping[str, object]) -> dict[str, str]:
    """What the function of a custom resource answers CloudFormation."""
    answers: list[dict[str, str]] = []

    class Address(BaseHTTPRequestHandler):
        timeout = 5

        def do_PUT(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    stack = stage.aws.client("cloudformation").describe_stacks(StackName=sale.stack.name)["Stacks"][0]
    with HTTPServer(("127.0.0.1", 0), Address) as server:
        server.timeout = 30
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        event = {
            "RequestType": "Update",
            "ResponseURL": f"http://127.0.0.1:{server.server_address[1]}/",
            "StackId": stack["StackId"],
            "RequestId": str(uuid.uuid4()),
            "LogicalResourceId": "Asked",
            "ResourceProperties": properties,
        }
        invoke(stage, function_of(sale, handler), event)
        thread.join()
    return answers[0]


def lines(stage: Stage, sale: Sale, text: str) -> int:
    """How many lines of the stack's logs have the text."""
    logs = stage.aws.client("logs")
    return sum(
        text in event["message"]
        for group in sale.stack.of_type("AWS::Logs::LogGroup").values()
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=group)
        for event in page["events"]
    )


def verify_sender(stage: Stage) -> None:
    """The seller's address is one that SES has verified."""
    ses = stage.aws.client("sesv2")
    with suppress(ses.exceptions.AlreadyExistsException):
        ses.create_email_identity(EmailIdentity=SENDER.partition("/")[2])


def contact_of(buyer: Visitor) -> dict[str, dict[str, str]]:
    table = buyer.sale.settings.contacts_table
    pages = buyer.stage.aws.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    items = (item for page in pages for item in page["Items"])
    return next(item for item in items if item["agreement"]["S"].startswith(f"{buyer.identity}#"))


def confirmation(buyer: Visitor) -> str:
    return contact_of(buyer)["confirmation"]["S"]


def facts_of(buyer: Visitor) -> list[dict[str, dict[str, str]]]:
    pages = (
        buyer.stage.aws.client("dynamodb")
        .get_paginator("query")
        .paginate(
            TableName=buyer.sale.settings.facts_table,
            KeyConditionExpression="buyer = :buyer",
            ExpressionAttributeValues={":buyer": {"S": buyer.identity}},
        )
    )
    return [item for page in pages for item in page["Items"]]


def forget_id(buyer: Visitor) -> None:
    """What is known of the buyer's key when its maker dies right after making it."""
    (fact,) = [fact for fact in facts_of(buyer) if fact["kind"]["S"] == "key-created"]
    buyer.stage.aws.client("dynamodb").delete_item(
        TableName=buyer.sale.settings.facts_table, Key={"buyer": fact["buyer"], "fact": fact["fact"]}
    )


def gate_entry(buyer: Visitor, key: str) -> dict[str, Any]:
    digest = hashlib.sha256(key.encode()).hexdigest()
    item: dict[str, Any] = buyer.stage.aws.client("dynamodb").get_item(
        TableName=buyer.sale.settings.keys_table, Key={"key_sha256": {"S": digest}}
    )["Item"]
    return item


def shut(buyer: Visitor) -> None:
    """Change the gate's answer by hand."""
    buyer.stage.aws.client("dynamodb").put_item(
        TableName=buyer.sale.settings.keys_table, Item={**gate_entry(buyer, buyer.key), "is_open": {"BOOL": False}}
    )


def is_open(buyer: Visitor) -> bool:
    return bool(gate_entry(buyer, buyer.key)["is_open"]["BOOL"])


def key_id(stage: Stage, value: str) -> str:
    pages = stage.aws.client("apigateway").get_paginator("get_api_keys").paginate(includeValues=True)
    return next(str(key["id"]) for page in pages for key in page["items"] if key["value"] == value)


def api_key(stage: Stage, key: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.aws.client("apigateway").get_api_key(apiKey=key)
    return found


def exists(stage: Stage, key: str) -> bool:
    gateway = stage.aws.client("apigateway")
    try:
        gateway.get_api_key(apiKey=key)
    except gateway.exceptions.NotFoundException:
        return False
    return True


def is_member(stage: Stage, sale: Sale, key: str) -> bool:
    gateway = stage.aws.client("apigateway")
    try:
        gateway.get_usage_plan_key(usagePlanId=sale.settings.usage_plan_id, keyId=key)
    except gateway.exceptions.NotFoundException:
        return False
    return True


def require_shut(stage: Stage, sale: Sale, key: str) -> None:
    require(not is_member(stage, sale, key), "the key is still in the plan")
    require(not api_key(stage, key)["enabled"], "the key is still enabled")


def leave(stage: Stage, sale: Sale, key: str) -> None:
    """Take a key out of the plan by hand."""
    stage.aws.client("apigateway").delete_usage_plan_key(usagePlanId=sale.settings.usage_plan_id, keyId=key)


def is_quiet(stage: Stage, sale: Sale) -> bool:
    """Whether no event waits or is being handled."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    queues = (url for name, url in sale.stack.of_type("AWS::SQS::Queue").items() if "DeadLetters" not in name)
    found = [stage.aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names) for url in queues]
    return not any(int(answer["Attributes"][name]) for answer in found for name in names)


def overlapped(stage: Stage, buyer: Visitor) -> str:
    """The id of a key that was replaced an hour ago, when it was given an hour more."""
    old = key_id(stage, buyer.key)
    buyer.rotate_key(buyer.come_from_marketplace(), overlap_hours=1)
    stage.clock.advance(timedelta(hours=1))
    return old


def grow(stage: Stage, buyer: Visitor) -> None:
    assert buyer.agreement is not None
    stage.market.amend(buyer.agreement, entitlements={"seats": 25})


def has_grown(buyer: Visitor) -> bool:
    return any("seats\t25" in fact.get("entitlements", {}).get("S", "") for fact in facts_of(buyer))


def has_contract(settings: OnboardingSettings) -> bool:
    return settings.pricing_model.has_contract


def has_sender(settings: OnboardingSettings) -> bool:
    return bool(settings.sender)


def has_documents(settings: OnboardingSettings) -> bool:
    return bool(settings.plans_table)


def is_native(settings: OnboardingSettings) -> bool:
    return settings.terms.is_native


def has_meter(settings: OnboardingSettings) -> bool:
    return not settings.terms.is_native


PLAYS = (
    Play(
        name="first-call",
        title="a buyer registers, gets a key, and calls",
        play=first_call,
        needs={
            "GateFunction": (f"dynamodb:GetItem {KEYS_TABLE}",),
            ONBOARDING: (
                "aws-marketplace:ResolveCustomer *",
                "aws-marketplace:GetEntitlements *",
                *(f"dynamodb:{action} {FACTS_TABLE}" for action in ("PutItem", "Query")),
                *(f"dynamodb:{action} {KEYS_TABLE}" for action in ("GetItem", "PutItem")),
                *(f"dynamodb:{action} {CONTACTS_TABLE}" for action in ("GetItem", "PutItem")),
                f"apigateway:POST {API_KEYS}",
                f"apigateway:POST {MEMBERS}",
            ),
        },
    ),
    Play(
        name="billed-call",
        title="API Gateway bills a call",
        play=billed_call,
        needs={"Metering": ("aws-marketplace:BatchMeterUsage *", "aws-marketplace:ResolveCustomer *")},
        fits=is_native,
    ),
    Play(
        name="session",
        title="a buyer comes when the signing secret, and what holds of the plans, are read again",
        play=session,
        needs={
            ONBOARDING: (f"secretsmanager:GetSecretValue {SECRET}", f"dynamodb:Scan {PLANS_TABLE}"),
            "GateFunction": (f"dynamodb:Query {PLANS_TABLE}",),
        },
    ),
    Play(
        name="mail",
        title="a buyer gets a confirmation",
        play=mail,
        needs={ONBOARDING: (f"dynamodb:UpdateItem {CONTACTS_TABLE}", f"ses:SendEmail {SENDER}")},
        fits=has_sender,
    ),
    Play(
        name="replaced-key",
        title="a key is replaced at once",
        play=replaced_key,
        needs={ONBOARDING: (f"apigateway:DELETE {API_KEY}",)},
    ),
    Play(
        name="overlapping-key",
        title="a key is replaced, and works for an hour more",
        play=overlapping_key,
        needs={ONBOARDING: (f"apigateway:GET {API_KEY}", f"apigateway:GET {MEMBER}")},
    ),
    Play(
        name="reopened-visitor",
        title="somebody opens the key of an agreement that has ended, and its buyer comes once more",
        play=reopened_for_visitor,
        needs={ONBOARDING: (f"apigateway:PATCH {API_KEY}", f"apigateway:DELETE {MEMBER}")},
    ),
    Play(
        name="half-made-key",
        title="a key's maker died before it put it into the plan and noted its id, and the buyer comes again",
        play=half_made_key,
        needs={ONBOARDING: (f"apigateway:GET {API_KEYS}",)},
    ),
    Play(
        name="end",
        title="an agreement ends",
        play=end,
        needs={
            EVENTS: (
                *(f"dynamodb:{action} {FACTS_TABLE}" for action in ("PutItem", "Query")),
                *(f"dynamodb:{action} {KEYS_TABLE}" for action in ("GetItem", "PutItem")),
                *(f"apigateway:{action} {API_KEY}" for action in ("GET", "PATCH")),
                *(f"apigateway:{action} {MEMBER}" for action in ("DELETE", "GET")),
                f"dynamodb:Scan {PLANS_TABLE}",
            )
        },
    ),
    Play(
        name="half-joined-key",
        title="the same, and an event comes",
        play=half_joined_key,
        needs={EVENTS: (f"apigateway:GET {API_KEYS}", f"apigateway:POST {MEMBERS}")},
    ),
    Play(
        name="event-after-overlap",
        title="an event comes after a replaced key's overlap",
        play=event_after_overlap,
        needs={EVENTS: (f"apigateway:DELETE {API_KEY}",)},
    ),
    Play(
        name="amended",
        title="a contract grows",
        play=amended,
        needs={EVENTS: ("aws-marketplace:GetEntitlements *",)},
        fits=has_contract,
    ),
    Play(
        name="amended-unheard",
        title="a contract grows, and no event comes",
        play=amended_unheard,
        needs={RECONCILIATION: ("aws-marketplace:GetEntitlements *", f"dynamodb:PutItem {FACTS_TABLE}")},
        fits=has_contract,
    ),
    Play(
        name="drift",
        title="somebody changes key, plan, gate and product code by hand",
        play=drift,
        needs={
            RECONCILIATION: (
                f"dynamodb:Query {FACTS_TABLE}",
                *(f"dynamodb:{action} {KEYS_TABLE}" for action in ("GetItem", "PutItem")),
                f"dynamodb:Scan {CONTACTS_TABLE}",
                f"apigateway:GET {API_KEYS}",
                f"apigateway:PATCH {API_KEY}",
                *(f"apigateway:{action} {MEMBERS}" for action in ("GET", "POST")),
                *(f"apigateway:{action} {PLAN}" for action in ("GET", "PATCH")),
            )
        },
    ),
    Play(
        name="overlap",
        title="a replaced key's overlap is over",
        play=overlap,
        needs={RECONCILIATION: (f"apigateway:DELETE {API_KEY}", f"dynamodb:Scan {PLANS_TABLE}")},
    ),
    Play(
        name="lost-key",
        title="somebody deletes a key by hand",
        play=lost_key,
        needs={RECONCILIATION: (f"apigateway:GET {API_KEY}",)},
    ),
    Play(
        name="reopened",
        title="somebody opens the key of an agreement that has ended",
        play=reopened_for_reconciliation,
        needs={RECONCILIATION: (f"apigateway:DELETE {MEMBER}",)},
    ),
    Play(
        name="end-unheard",
        title="an agreement ends, and no event comes",
        play=end_unheard,
        needs={RECONCILIATION: ("aws-marketplace:DescribeAgreement *", f"dynamodb:PutItem {FACTS_TABLE}")},
        fits=lambda settings: not settings.terms.is_legacy,
    ),
    Play(
        name="orphan",
        title="a key is nobody's",
        play=orphan,
        needs={RECONCILIATION: (f"dynamodb:Scan {FACTS_TABLE}",)},
    ),
    Play(
        name="owed-mail",
        title="a confirmation is still owed",
        play=owed_mail,
        needs={RECONCILIATION: (f"dynamodb:UpdateItem {CONTACTS_TABLE}", f"ses:SendEmail {SENDER}")},
        fits=has_sender,
    ),
    Play(
        name="new-secret",
        title="the signing secret is rotated",
        play=new_secret,
        needs={
            "OnboardingSigningSecretFunction": tuple(
                f"secretsmanager:{action} {SECRET}"
                for action in ("DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage")
            )
        },
    ),
    Play(
        name="product-code",
        title="a stack is deployed",
        play=product_code,
        needs={"UsagePlanProductCodeFunction": (f"apigateway:GET {PLAN}", f"apigateway:PATCH {PLAN}")},
        fits=is_native,
    ),
    Play(
        name="refused-product-code",
        title="a stack is deployed, and the product code is refused",
        play=refused_product_code,
        needs={"UsagePlanProductCodeFunction": ("cloudformation:DescribeStacks this stack",)},
        fits=is_native,
    ),
    Play(
        name="recorded-plans",
        title="a stack with one plan more is deployed, and once more without it",
        play=recorded_plans,
        needs={
            "PlansFunction": (
                *(f"dynamodb:{action} {PLANS_TABLE}" for action in ("PutItem", "Scan")),
                f"s3:PutObject {PLAN_TABLES}",
            )
        },
        fits=has_documents,
    ),
    Play(
        name="metered-call",
        title="the meter bills a buyer's calls",
        play=metered_call,
        needs={
            METER: (
                "aws-marketplace:BatchMeterUsage *",
                *METER_READS,
            )
        },
        fits=has_meter,
    ),
    Play(
        name="reported-call",
        title="the meter of a native product counts a buyer's calls",
        play=reported_call,
        needs={METER: METER_READS},
        fits=is_native,
    ),
    Play(
        name="doubtful-record",
        title="the answer about a usage record is lost, and AWS calls the record a duplicate when it comes again",
        play=doubtful_record,
        needs={METER: ("cloudtrail:LookupEvents *",)},
        fits=has_meter,
    ),
    Play(
        name="unreadable-line",
        title="a line of the access log can be read by nobody",
        play=unreadable_line,
        needs={METER: (f"s3:PutObject {QUARANTINE}",)},
    ),
)
