"""API Gateway's own meter, which bills legacy products: played here, because no emulator has it.

AWS says what must be so for it to bill, and not when it reports nor which answers it counts [UNCONF]. Here it
counts every call that was let through to the integration with a key, under the hour in which it came.

The eight rules under which it bills: 1 a pricing model with usage; 2 the one dimension ``apigateway`` of the
category Requests; 3 nothing included in a contract; 4 nothing else reports usage; 5 the seller's own account
has the role ``ApiGatewayMarketplaceMeteringRole``; 6 the usage plan has the product code; 7 the key has the
customer id that ResolveCustomer gave, and is in that plan; 8 calls use the key. The first four are refused at
synthesis; this module finds out about the others in the stack that was deployed.

Source: API Gateway developer guide, Sell your API Gateway APIs through AWS Marketplace (read 2026-11-21).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import unquote

from marketplace_constructs.domain.product import NATIVE_DIMENSION
from marketplace_constructs.rehearsal.emulator import LocalAws
from marketplace_constructs.rehearsal.gateway import Call
from marketplace_constructs.rehearsal.marketplace import ApiError, Caller, Listing, Marketplace

ROLE_NAME: Final = "ApiGatewayMarketplaceMeteringRole"
ROLE_ACTIONS: Final = ("aws-marketplace:BatchMeterUsage", "aws-marketplace:ResolveCustomer")


@dataclass(frozen=True)
class BrokenRule:
    """One of the rules 5 to 8, and what was found in the deployed stack instead."""

    number: int
    what: str

    def __str__(self) -> str:
        return f"native rule {self.number} is broken: {self.what}"


class NativeMeter:
    """Counts the calls of one API, and reports them where everything is in place.

    Args:
        aws: Where the stack is deployed.
        market: Where usage is reported.
        account: What the stack is deployed into.
        api_id: The sold API.
        usage_plan_id: Its plan.
        listing: The product.
    """

    def __init__(
        self,
        aws: LocalAws,
        *,
        market: Marketplace,
        account: str,
        api_id: str,
        usage_plan_id: str,
        listing: Listing,
    ) -> None:
        self._aws: Final = aws
        self._market: Final = market
        self._caller: Final = Caller(
            account_id=account,
            role_arn=f"arn:aws:iam::{account}:role/{ROLE_NAME}",
            invoked_by="apigateway.amazonaws.com",
        )
        self._api_id: Final = api_id
        self._usage_plan_id: Final = usage_plan_id
        self._listing: Final = listing
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, datetime], list[datetime]] = {}
        self._without_key: Counter[str] = Counter()

    def see(self, call: Call) -> None:
        """Count a call, if it is one of this API that counts."""
        if call.api_id != self._api_id or not call.is_served:
            return
        customer = self._customer_of(call.api_key_id) if call.api_key_id else ""
        with self._lock:
            if customer:
                hour = call.at.replace(minute=0, second=0, microsecond=0)
                self._counted.setdefault((customer, hour), []).append(call.at)
            elif call.api_key_id is None and call.brought_key:
                self._without_key[f"{call.http_method} {call.resource_path}"] += 1

    def forget(self) -> None:
        """Forget calls that were not reported."""
        with self._lock:
            self._counted.clear()
            self._without_key.clear()

    def report(self) -> int:
        """Report what was counted, as the role, for the plan's product; the number of accepted records.

        A record's time is that of the hour's last call. Nothing is reported while rule 5 or rule 6 is broken,
        and what is refused stays counted.
        """
        if any(self._broken_set_up()):
            return 0
        with self._lock:
            due = list(self._counted.items())
        accepted = 0
        for place, calls in due:
            record = {
                "Timestamp": max(calls),
                "CustomerIdentifier": place[0],
                "Dimension": NATIVE_DIMENSION,
                "Quantity": len(calls),
            }
            request = {"ProductCode": self._plan_code(), "UsageRecords": [record]}
            with contextlib.suppress(ApiError):
                answer = self._market.call("BatchMeterUsage", request, caller=self._caller)
                if [result["Status"] for result in answer["Results"]] == ["Success"]:
                    accepted += 1
                    with self._lock:
                        del self._counted[place]
        return accepted

    def broken_rules(self, customer_identifier: str) -> list[BrokenRule]:
        """What keeps this customer's calls from being billed, in the order of the rules."""
        return [*self._broken_set_up(), *self._broken_key(customer_identifier), *self._broken_calls()]

    def _broken_set_up(self) -> Iterator[BrokenRule]:
        missing = self._role_problem()
        if missing:
            yield BrokenRule(5, f"the account's role {ROLE_NAME} {missing}")
        if self._caller.account_id != self._listing.seller_account:
            yield BrokenRule(
                5,
                f"the API is in the account {self._caller.account_id}, the product is of "
                f"{self._listing.seller_account}",
            )
        code = self._plan_code()
        if code != self._listing.code:
            yield BrokenRule(
                6,
                f"the usage plan {self._usage_plan_id} has the product code {code!r}, not {self._listing.code!r}",
            )

    def _broken_key(self, customer_identifier: str) -> Iterator[BrokenRule]:
        if not any(call.operation == "ResolveCustomer" and call.outcome == "OK" for call in self._market.calls):
            yield BrokenRule(7, "ResolveCustomer never gave anybody's customer identifier")
        gateway = self._aws.client("apigateway")
        members = {
            key["id"]
            for page in gateway.get_paginator("get_usage_plan_keys").paginate(usagePlanId=self._usage_plan_id)
            for key in page["items"]
        }
        # The filter of GetApiKeys is ignored by the emulator, so it is applied here.
        theirs = {
            key["id"]
            for page in gateway.get_paginator("get_api_keys").paginate(customerId=customer_identifier)
            for key in page["items"]
            if key.get("customerId") == customer_identifier and key["enabled"]
        }
        if not theirs:
            yield BrokenRule(7, f"no enabled key has the customer id {customer_identifier}")
        elif not theirs & members:
            yield BrokenRule(
                7, f"no key of the customer {customer_identifier} is in the usage plan {self._usage_plan_id}"
            )

    def _broken_calls(self) -> Iterator[BrokenRule]:
        with self._lock:
            for route, calls in self._without_key.items():
                yield BrokenRule(8, f"{route} requires no key, so {calls} calls to it belong to no usage plan")

    def _customer_of(self, api_key_id: str) -> str:
        gateway = self._aws.client("apigateway")
        try:
            gateway.get_usage_plan_key(usagePlanId=self._usage_plan_id, keyId=api_key_id)
            return str(gateway.get_api_key(apiKey=api_key_id).get("customerId", ""))
        except gateway.exceptions.NotFoundException:
            return ""

    def _plan_code(self) -> str:
        plan = self._aws.client("apigateway").get_usage_plan(usagePlanId=self._usage_plan_id)
        return str(plan.get("productCode", ""))

    def _role_problem(self) -> str:
        iam = self._aws.client("iam")
        try:
            role = iam.get_role(RoleName=ROLE_NAME)["Role"]
        except iam.exceptions.NoSuchEntityException:
            return "does not exist"
        trust = _statements(role["AssumeRolePolicyDocument"])
        if not any(
            "apigateway.amazonaws.com" in _listed(s.get("Principal", {}), "Service")
            and "sts:AssumeRole" in _listed(s, "Action")
            for s in trust
        ):
            return "does not trust apigateway.amazonaws.com"
        names = iam.list_role_policies(RoleName=ROLE_NAME)["PolicyNames"]
        documents = [iam.get_role_policy(RoleName=ROLE_NAME, PolicyName=n)["PolicyDocument"] for n in names]
        for attached in iam.list_attached_role_policies(RoleName=ROLE_NAME)["AttachedPolicies"]:
            policy = iam.get_policy(PolicyArn=attached["PolicyArn"])["Policy"]
            found = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
            documents.append(found["PolicyVersion"]["Document"])
        allowed = {
            action
            for document in documents
            for statement in _statements(document)
            if statement["Effect"] == "Allow" and "*" in _listed(statement, "Resource")
            for action in _listed(statement, "Action")
        }
        lacking = [action for action in ROLE_ACTIONS if action not in allowed]
        return f"may not {' nor '.join(lacking)}" if lacking else ""


def _statements(document: object) -> list[Mapping[str, object]]:
    read = json.loads(unquote(document)) if isinstance(document, str) else document
    assert isinstance(read, dict)
    found = read["Statement"]
    return [found] if isinstance(found, dict) else list(found)


def _listed(holder: object, name: str) -> list[object]:
    value = holder.get(name, []) if isinstance(holder, dict) else []
    return value if isinstance(value, list) else [value]
