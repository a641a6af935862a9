"""Start the emulator with what it lacks and the rehearsal supplies.

The emulator's own interpreter runs this file. It imports nothing of this package, because the emulator lives in an
environment of its own.

What the emulator (ministack 1.5.33) lacks, and what is supplied here:

* A request authorizer's identity sources ``context.*``: it takes them as absent and answers 401. Here
  ``context.httpMethod`` and ``context.resourcePath`` have their values, so that a cached answer is kept per
  method and resource, as API Gateway does.
* Access logs: it writes none. Here every answer of a REST API carries the variables that an access log would
  have, as JSON in the header ``x-rehearsal-access``, which the rehearsal's gateway takes off again. A key
  appears by its id only, and only where the method requires one. Times are measured, and what did not happen has no
  value. ``gateAsked`` says whether the authorizer's function was called, or its kept answer was taken.
* The time at which S3 took an object: it is the machine's. Here it is the rehearsal's, as for the functions that ask.
* TLS: its calls come over plain HTTP on loopback, which a policy that asks for ``aws:SecureTransport`` refuses.
  Here every call counts as one over TLS, because each stands for one.
* Switching off: a patch that sets a key's ``enabled`` or a method's ``apiKeyRequired`` to ``false`` leaves it
  on, because it keeps the text. Here it takes effect.
* A stack's SNS subscription to a topic of another account: it reports one made and makes none. Here the
  topics of AWS Marketplace's account are there before any stack is, as they are at AWS, and are subscribed
  to.
* A secret's ``Ref``: it is the secret's name, which a policy's ``Resource`` does not match. Here it is the ARN, as
  at AWS. (No secret is changed by an update here.)
* A usage plan's throttles of single methods, where a stack sets them: it keeps them under CloudFormation's names and
  looks for API Gateway's. Here they bite.
* One usage plan per stage: it lets a key into several. Here API Gateway's conflict is answered, and the log says at
  what time a key joined or left a plan.
* What CloudFormation tells the event bus: nothing. Here each status of a stack is told.
* What a mail is authorized on: any resource, which a policy that names the sender's identity refuses. Here it is the
  identity of the sending address, as at AWS.
* A secret's rotation: it moves the labels at once and asks nobody. Here it stages a pending version without a value,
  as Secrets Manager does before it calls the function; whoever rehearses calls it.
* Schedules: it goes by the machine's clock. Here none is run; whoever rehearses runs what is due by its own clock.
* An end: it would outlive whoever started it. Here it ends when its standard input closes, which happens
  however the other side ends.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from ministack import app
from ministack.core import iam_actions, iam_evaluator
from ministack.core.responses import error_response_json, json_response, request_scope
from ministack.services import apigateway_v1, cloudformation, eventbridge, s3, secretsmanager, sns
from ministack.services.cloudformation import changesets, provisioners, stacks

MARKETPLACE_ACCOUNT = "287250355862"
"""Owner of every product's topics. Source: aws-samples/aws-marketplace-serverless-saas-integration, the only
value its template allows (read 2026-11-21)."""

_access: ContextVar[dict] = ContextVar("access")


def end_with_parent() -> None:
    """Leave, and leave nothing behind, as soon as standard input closes."""

    def wait() -> None:
        sys.stdin.buffer.read()
        # The directory that was made for this run alone.
        shutil.rmtree(Path.cwd(), ignore_errors=True)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def supply_context_identity_sources() -> None:
    """Teach request authorizers the identity sources that name the method and the resource."""
    resolve = apigateway_v1._request_identity_sources

    def resolve_with_context(identity_source, headers, query, stage):
        access = _access.get()
        known = {f"context.{name}": access[name] for name in ("httpMethod", "resourcePath")}
        sources = [source.strip() for source in (identity_source or "").split(",") if source.strip()]
        _, found = resolve(identity_source, headers, query, stage)
        values = [known.get(source, value) for source, value in zip(sources, found, strict=True)]
        return all(values), values

    apigateway_v1._request_identity_sources = resolve_with_context


def supply_s3_times() -> None:
    """Let objects in S3 be as old as the rehearsal's clock says."""

    def rehearsal_now():
        ahead = float(Path(os.environ["REHEARSAL_CLOCK"]).read_text() or 0)
        moment = datetime.now(UTC) + timedelta(seconds=ahead)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"

    s3.now_iso = rehearsal_now


def supply_secure_transport() -> None:
    """Let every call count as one over TLS."""
    resolve = iam_evaluator._resolve_condition_key

    def resolve_over_tls(key, context):
        return "true" if key.lower() == "aws:securetransport" else resolve(key, context)

    iam_evaluator._resolve_condition_key = resolve_over_tls


def supply_switches() -> None:
    """Let patches of the two switches that matter here set true or false."""
    apply = apigateway_v1._apply_patch

    def apply_switches(target, operations):
        for operation in operations:
            if operation.get("path") in {"/enabled", "/apiKeyRequired"}:
                operation["value"] = operation["value"] == "true"
        return apply(target, operations)

    apigateway_v1._apply_patch = apply_switches


def supply_subscriptions_to_marketplace() -> None:
    """Let a stack subscribe to the topics of AWS Marketplace's account."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SNS::Subscription"]
    create, delete = handlers["create"], handlers["delete"]

    def create_in_owner(logical_id, properties, stack_name):
        *_, region, owner, name = properties["TopicArn"].split(":")
        if owner != MARKETPLACE_ACCOUNT:
            return create(logical_id, properties, stack_name)
        with request_scope(owner, region):
            sns._create_topic({"Name": [name]})
            return create(logical_id, properties, stack_name)

    def delete_in_owner(physical_id, properties):
        *_, region, owner, _, _ = physical_id.split(":")
        if owner != MARKETPLACE_ACCOUNT:
            return delete(physical_id, properties)
        with request_scope(owner, region):
            return delete(physical_id, properties)

    handlers["create"], handlers["delete"] = create_in_owner, delete_in_owner


def supply_secret_arns() -> None:
    """Let a secret's physical id, which is its ``Ref``, be its ARN."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]
    create, delete = handlers["create"], handlers["delete"]

    def create_by_arn(*arguments):
        _, attributes = create(*arguments)
        return attributes["Arn"], attributes

    def delete_by_arn(arn, properties):
        name_and_suffix = arn.rpartition(":")[2]
        return delete(name_and_suffix.rpartition("-")[0], properties)

    handlers["create"], handlers["delete"] = create_by_arn, delete_by_arn


def supply_sender_identities() -> None:
    """Let a mail be authorized on the identity that it is sent from."""
    resource_of = iam_actions._ses_v2_resource_arn

    def resource_of_mail(method, path, body, region, account):
        if (method, path.rstrip("/")) != ("POST", "/v2/email/outbound-emails"):
            return resource_of(method, path, body, region, account)
        return f"arn:aws:ses:{region}:{account}:identity/{json.loads(body)['FromEmailAddress']}"

    iam_actions._ses_v2_resource_arn = resource_of_mail


def supply_rotation() -> None:
    """Let a rotation begin with a pending version that has no value yet."""
    read = secretsmanager._get_secret_value

    def begin(data):
        _, secret = secretsmanager._resolve(data["SecretId"])
        version = data["ClientRequestToken"]
        secretsmanager._remove_stage_everywhere(secret, "AWSPENDING")
        secret["Versions"][version] = {"CreatedDate": int(time.time()), "Stages": ["AWSPENDING"]}
        return json_response({"ARN": secret["ARN"], "Name": secret["Name"], "VersionId": version})

    def read_value(data):
        status, headers, body = read(data)
        if status == HTTPStatus.OK and not {"SecretString", "SecretBinary"} & json.loads(body).keys():
            return error_response_json("ResourceNotFoundException", "the version has no value yet", 400)
        return status, headers, body

    secretsmanager._rotate_secret, secretsmanager._get_secret_value = begin, read_value


def supply_method_throttles() -> None:
    """Let a stack's throttles of single methods be found."""
    body_of = provisioners._apigw_usage_plan_body

    def body_with_throttles(properties):
        body = body_of(properties)
        for stage in body["apiStages"]:
            stage["throttle"] = {
                method: provisioners._apigw_throttle(limits) for method, limits in stage["throttle"].items()
            }
        return body

    provisioners._apigw_usage_plan_body = body_with_throttles


def supply_one_plan_per_stage() -> None:
    """Let a key be in one usage plan of a stage, and say when it joins and leaves one.

    Source: API Gateway developer guide, usage plans: a key can be associated with one usage plan per stage (read
    2026-11-22).
    """
    join, leave = apigateway_v1._create_usage_plan_key, apigateway_v1._delete_usage_plan_key

    def join_one(plan_id, data):
        key_id = data.get("keyId", "")
        plan = apigateway_v1._usage_plans.get(plan_id) or {}
        for stage in plan.get("apiStages") or []:
            if apigateway_v1._usage_plans_for_key(key_id, stage["apiId"], stage["stage"]):
                return apigateway_v1._v1_error("ConflictException", "the key is in a usage plan of the stage", 409)
        return told("joined", plan_id, key_id, join(plan_id, data))

    def leave_one(plan_id, key_id):
        return told("left", plan_id, key_id, leave(plan_id, key_id))

    def told(what, plan_id, key_id, answer):
        line = {"usagePlanKey": what, "usagePlanId": plan_id, "keyId": key_id, "at": time.time()}
        print(f"rehearsal {json.dumps(line)}", flush=True)  # noqa: T201  # standard output is the log
        return answer

    apigateway_v1._create_usage_plan_key, apigateway_v1._delete_usage_plan_key = join_one, leave_one


def supply_stack_events() -> None:
    """Let the event bus be told of each status of a stack.

    Source: CloudFormation user guide, stack status change event details (read 2026-11-22).
    """
    add = stacks._add_event

    def add_and_tell(stack_id, *arguments, **named):
        add(stack_id, *arguments, **named)
        event = cloudformation._stack_events[stack_id][-1]
        if event["PhysicalResourceId"] == stack_id:
            status = {"status": event["ResourceStatus"], "status-reason": event["ResourceStatusReason"]}
            told = {
                "Source": "aws.cloudformation",
                "DetailType": "CloudFormation Stack Status Change",
                "Resources": [stack_id],
                "Detail": json.dumps({"stack-id": stack_id, "status-details": status}),
            }
            eventbridge._put_events({"Entries": [told]}, allow_aws_source=True)

    stacks._add_event = changesets._add_event = add_and_tell


def supply_access_variables() -> None:
    """Let every answer say what an access log would say of its call."""
    execute = apigateway_v1._handle_execute_in_scope
    serve = apigateway_v1._execute_in_scope
    integrate = apigateway_v1._invoke_lambda_proxy_v1
    keep = apigateway_v1._cache_authorizer_result
    authorize = apigateway_v1._authorize_request_v1
    check_api_key = apigateway_v1._check_api_key

    async def execute_in_scope(api_id, stage, method, *rest):
        access = {"apiId": api_id, "stage": stage, "httpMethod": method, "resourcePath": "", "authorizer": {}}
        access["gateAsked"] = False
        # As long as API Gateway's own, and of the same characters.
        access["extendedRequestId"] = base64.b64encode(os.urandom(11)).decode()
        _access.set(access)
        begun = time.perf_counter()
        status, headers, body = await execute(api_id, stage, method, *rest)
        access |= {"status": status, "responseLength": len(body), "responseLatency": milliseconds(begun)}
        return status, {**headers, "x-rehearsal-access": json.dumps(access)}, body

    async def serve_and_name_error(request, *arguments):
        _access.get()["requestId"] = request["request_id"]
        answer = await serve(request, *arguments)
        if isinstance(answer, apigateway_v1._GatewayError):
            _access.get()["errorResponseType"] = answer.response_type
        return answer

    async def integrate_and_measure(*arguments, **named):
        begun = time.perf_counter()
        answer = await integrate(*arguments, **named)
        _access.get()["integrationLatency"] = milliseconds(begun)
        if not isinstance(answer, apigateway_v1._GatewayError):
            _access.get()["integrationStatus"] = answer[0]
        return answer

    def milliseconds(begun):
        return round((time.perf_counter() - begun) * 1000)

    async def authorize_in_context(*arguments):
        resource = arguments[5]
        _access.get()["resourcePath"] = resource["path"]
        error, context = await authorize(*arguments)
        _access.get()["authorizer"] = context or {}
        return error, context

    def keep_and_say_so(*arguments):
        _access.get()["gateAsked"] = True
        keep(*arguments)

    def check_and_name_api_key(*arguments):
        error, key = check_api_key(*arguments)
        _access.get()["apiKeyId"] = key["id"] if key else None
        return error, key

    apigateway_v1._handle_execute_in_scope = execute_in_scope
    apigateway_v1._execute_in_scope = serve_and_name_error
    apigateway_v1._invoke_lambda_proxy_v1 = integrate_and_measure
    apigateway_v1._authorize_request_v1 = authorize_in_context
    apigateway_v1._check_api_key = check_and_name_api_key
    apigateway_v1._cache_authorizer_result = keep_and_say_so


if __name__ == "__main__":
    end_with_parent()
    supply_access_variables()
    supply_context_identity_sources()
    supply_method_throttles()
    supply_one_plan_per_stage()
    supply_stack_events()
    supply_subscriptions_to_marketplace()
    supply_rotation()
    supply_s3_times()
    supply_secret_arns()
    supply_secure_transport()
    supply_sender_identities()
    supply_switches()
    eventbridge.start_scheduler = lambda: None
    app.main()
