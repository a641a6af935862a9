"""The hourly reconciliation: whatever events, registrations and deployments left undone is done here.

It asks AWS itself how agreements stand, makes every key's access match, moves keys to the plan that is due in the hour
that has just begun, puts the product code back on the usage plans if somebody took it off, removes keys that nobody was
ever shown, and sends confirmation mails that are still owed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from marketplace_constructs.domain.agreements import Agreement, FactKind, State
from marketplace_constructs.domain.assignment import MARKETPLACE
from marketplace_constructs.runtime.agreements.access import Access, AccessUnsettledError
from marketplace_constructs.runtime.agreements.api_keys import ApiKey, ApiKeys
from marketplace_constructs.runtime.agreements.facts import FactStore
from marketplace_constructs.runtime.agreements.service import AgreementsService
from marketplace_constructs.runtime.aws import client, error_code
from marketplace_constructs.runtime.clock import Clock
from marketplace_constructs.runtime.dependencies import Dependencies
from marketplace_constructs.runtime.observability import count, logger, metrics, tell_of
from marketplace_constructs.runtime.onboarding.contacts import DynamoDbContacts
from marketplace_constructs.runtime.onboarding.mail import SesMail, send_owed
from marketplace_constructs.runtime.plan_versions import HeldPlans
from marketplace_constructs.runtime.settings import AgreementsSettings, ReconciliationSettings
from marketplace_constructs.runtime.usage_plan import settle_product_code

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_DOUBT: Final = timedelta(days=7)
"""How long AWS is still asked about an agreement that has ended, in case it says otherwise."""


class ReconciliationError(Exception):
    """Some buyers could not be settled; the others were. The next run tries again."""


class SnapshotApiKeys:
    """The keys of one stack, read in bulk once and written through.

    One run asks for thousands of keys, and API Gateway answers ten calls a second.
    """

    def __init__(self, api_keys: ApiKeys, *, prefix: str) -> None:
        self._api_keys: Final = api_keys
        self._keys: Final = {key.id: key for key in api_keys.named(prefix)}
        self._members: Final[dict[str, set[str]]] = {}

    def create(self, *, name: str, value: str, customer_id: str) -> str:
        """Make a key."""
        return self._api_keys.create(name=name, value=value, customer_id=customer_id)

    def get(self, api_key_id: str) -> ApiKey | None:
        """The key of an id; one that is younger than the snapshot is asked for."""
        return self._keys.get(api_key_id) or self._api_keys.get(api_key_id)

    def named(self, prefix: str) -> Iterator[ApiKey]:
        """Every key of the snapshot whose name begins so."""
        return (key for key in list(self._keys.values()) if key.name.startswith(prefix))

    def set_enabled(self, api_key_id: str, *, enabled: bool) -> None:
        """Let a key in, or shut it out."""
        self._api_keys.set_enabled(api_key_id, enabled=enabled)
        self._note(api_key_id, enabled=enabled)

    def set_customer_id(self, api_key_id: str, customer_id: str) -> None:
        """Say whose calls the key's calls are."""
        self._api_keys.set_customer_id(api_key_id, customer_id)
        self._note(api_key_id, customer_id=customer_id)

    def delete(self, api_key_id: str) -> None:
        """Remove a key for good."""
        self._api_keys.delete(api_key_id)
        self._keys.pop(api_key_id, None)

    def members(self, usage_plan_id: str) -> frozenset[str]:
        """Ids of the keys in a plan."""
        return frozenset(self._in(usage_plan_id))

    def is_member(self, usage_plan_id: str, api_key_id: str) -> bool:
        """Whether a key is in a plan."""
        return api_key_id in self._in(usage_plan_id)

    def join(self, usage_plan_id: str, api_key_id: str) -> None:
        """Put a key into a plan."""
        self._api_keys.join(usage_plan_id, api_key_id)
        self._in(usage_plan_id).add(api_key_id)

    def leave(self, usage_plan_id: str, api_key_id: str) -> None:
        """Take a key out of a plan."""
        self._api_keys.leave(usage_plan_id, api_key_id)
        self._in(usage_plan_id).discard(api_key_id)

    def _in(self, usage_plan_id: str) -> set[str]:
        if usage_plan_id not in self._members:
            self._members[usage_plan_id] = set(self._api_keys.members(usage_plan_id))
        return self._members[usage_plan_id]

    def _note(self, api_key_id: str, **changes: bool | str) -> None:
        if api_key_id in self._keys:
            self._keys[api_key_id] = replace(self._keys[api_key_id], **changes)  # type: ignore[arg-type]  # ApiKey's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run did.

    Args:
        buyers: How many were looked at.
        failed: How many could not be settled, or not all of whose agreements AWS would tell of.
        orphans: Keys removed that belonged to no agreement.
    """

    buyers: int
    failed: int
    orphans: int


def reconcile(
    *,
    facts: FactStore,
    service: AgreementsService,
    access: Access,
    api_keys: ApiKeys,
    key_prefix: str,
    clock: Clock,
    observes_all: bool,
    only: str | None = None,
) -> Outcome:
    """Settle every buyer, or one.

    Args:
        facts: All facts.
        service: Asks AWS how agreements stand.
        access: Makes access match, over ``api_keys``.
        api_keys: Read before the facts are, so that each key it knows has its fact already.
        key_prefix: How the names of this stack's keys begin.
        clock: The present moment.
        observes_all: Ask AWS about every agreement; else only about those that wait to be activated.
        only: A buyer; no orphans are looked for then.
    """
    present = {key.name: key.id for key in api_keys.named(key_prefix)}
    promised: set[str | None] = set()
    buyers = failed = 0
    for buyer, known in facts.buyers() if only is None else [(only, facts.of_buyer(only))]:
        buyers += 1
        abandoned = {fact.key_sha256 for fact in known if fact.kind is FactKind.KEY_ABANDONED}
        promised |= {
            fact.key_name for fact in known if fact.kind is FactKind.KEY_ISSUED and fact.key_sha256 not in abandoned
        }
        try:
            is_observed = [
                _observe(service, agreement)
                for agreement in service.agreements(buyer)
                if _is_to_be_observed(agreement, observes_all=observes_all, now=clock())
            ]
            agreements = access.make_match(buyer)
        except (ClientError, BotoCoreError, AccessUnsettledError) as error:
            failed += 1
            logger.error("buyer not settled", extra={"buyer": buyer, "error": error_code(error)})
            continue
        failed += not all(is_observed)
        for agreement in agreements:
            for alarm in agreement.alarms:
                count("AgreementNeedsAttention")
                logger.warning("needs attention", extra={"agreement": agreement.id, "why": alarm})
    orphans = [] if only is not None else [key for name, key in present.items() if name not in promised]
    for api_key_id in orphans:
        api_keys.delete(api_key_id)
    return Outcome(buyers=buyers, failed=failed, orphans=len(orphans))


def _observe(service: AgreementsService, agreement: Agreement) -> bool:
    """Ask AWS about one agreement; whether it answered. What is known of the buyer counts all the same."""
    try:
        service.observe(agreement)
    except (ClientError, BotoCoreError) as error:
        logger.error("agreement not observed", extra={"agreement": agreement.id, "error": error_code(error)})
        return False
    return True


def _is_to_be_observed(agreement: Agreement, *, observes_all: bool, now: datetime) -> bool:
    if agreement.state in {State.PENDING, State.REGISTERED}:
        return agreement.is_registered
    is_long_ended = agreement.state is State.ENDED and (agreement.ended_at is None or agreement.ended_at < now - _DOUBT)
    return observes_all and not is_long_ended


@cache
def _dependencies() -> Dependencies:
    settings = ReconciliationSettings.from_environment()
    tell_of(settings.sale)
    return Dependencies(settings)


@metrics.log_metrics
def handler(event: Mapping[str, object], context: LambdaContext) -> dict[str, int]:
    """Entry point of the function.

    Args:
        event: Anything; with the member ``buyer``, only that buyer is settled.
        context: Lambda's.

    Raises:
        ReconciliationError: Some buyers, or the product code, could not be settled.
    """
    dependencies = _dependencies()
    settings = dependencies.settings
    assert isinstance(settings, ReconciliationSettings)
    buyer = event.get("buyer")
    only = buyer if isinstance(buyer, str) else None
    api_keys = SnapshotApiKeys(dependencies.api_keys, prefix=settings.key_prefix)
    outcome = reconcile(
        facts=dependencies.facts,
        service=dependencies.service,
        access=dependencies.access_over(api_keys),
        api_keys=api_keys,
        key_prefix=settings.key_prefix,
        clock=dependencies.clock,
        observes_all=only is not None or is_observation_hour(dependencies.clock, settings.observe_every_hours),
        only=only,
    )
    codes = product_codes(settings, dependencies.plans, dependencies.clock())
    is_settled = [
        _settle_plan(usage_plan_id, code, lambda: context.get_remaining_time_in_millis() / 1000)
        for usage_plan_id, code in codes.items()
    ]
    mails = send_owed(
        DynamoDbContacts(client("dynamodb"), settings.contacts_table),
        SesMail(
            client("sesv2"),
            sender=settings.sender,
            seller_name=settings.seller_name,
            support_contact=settings.support_contact,
        ),
        dependencies.clock,
    )
    count("ConfirmationsSent", mails.sent)
    count("ConfirmationsFailed", mails.failed)
    count("BuyersNotSettled", outcome.failed)
    count("OrphanedKeysRemoved", outcome.orphans)
    logger.info("reconciled", extra={"buyers": outcome.buyers, "failed": outcome.failed, "orphans": outcome.orphans})
    if outcome.failed or not all(is_settled):
        raise ReconciliationError(f"{outcome.failed} of {outcome.buyers} buyers not settled")
    return {"buyers": outcome.buyers, "orphans": outcome.orphans}


def is_observation_hour(clock: Clock, every_hours: int) -> bool:
    """Whether this hour is one in which AWS is asked about every agreement."""
    return int(clock().timestamp() // 3600) % every_hours == 0


def product_codes(settings: AgreementsSettings, plans: HeldPlans | None, now: datetime) -> dict[str, str]:
    """The product code that each usage plan of the stack is to carry: none but under native metering.

    Two meters bill twice, and what is not sold through AWS Marketplace is not metered there.
    """
    code = settings.product_code if settings.terms.is_native else ""
    if plans is None:
        return {settings.usage_plan_id: code}
    return {version.usage_plan_id: code if version.channel == MARKETPLACE else "" for version in plans.at(now).values()}


def _settle_plan(usage_plan_id: str, product_code: str, seconds_left: Callable[[], float]) -> bool:
    """Put the product code back under native metering, and take any off under the pipeline."""
    try:
        changed = settle_product_code(client("apigateway"), usage_plan_id, product_code, seconds_left=seconds_left)
    except (ClientError, BotoCoreError) as error:
        logger.error("product code not settled", extra={"usage_plan": usage_plan_id, "error": error_code(error)})
        count("ProductCodeDrift")
        return False
    if changed:
        count("ProductCodeDrift")
        logger.warning("product code had drifted", extra={"usage_plan": usage_plan_id})
    return True
