"""What AWS Marketplace tells of agreements: from the queue into facts, and access made to match."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from marketplace_constructs.domain.subscription_events import MalformedEvent, read_message
from marketplace_constructs.runtime.agreements.service import AgreementsService
from marketplace_constructs.runtime.aws import error_code
from marketplace_constructs.runtime.dependencies import Dependencies
from marketplace_constructs.runtime.observability import count, logger, metrics, tell_of
from marketplace_constructs.runtime.settings import AgreementsSettings

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from marketplace_constructs.domain.product import ProductTerms


def parse(body: str) -> Mapping[str, object]:
    """A queue message as nested members: an EventBridge event, or an SNS notification with its message unfolded.

    Raises:
        MalformedEvent: Not JSON, or not an object.
    """
    try:
        message = json.loads(body)
        if isinstance(message, dict) and isinstance(message.get("Message"), str):
            message["Message"] = json.loads(message["Message"])
    except ValueError:
        raise MalformedEvent("body: expected JSON") from None
    if not isinstance(message, dict):
        raise MalformedEvent("body: expected an object")
    return message


def record_message(body: str, *, terms: ProductTerms, service: AgreementsService) -> None:
    """Record one message.

    Raises:
        MalformedEvent: It goes to the dead-letter queue.
        Exception: Whatever AWS answered; the message comes again.
    """
    reading = read_message(parse(body), product=terms)
    if reading is None:
        logger.info("ignored: another product or catalog")
        return
    if reading.is_unknown:
        count("UnknownEvent")
        logger.warning("unknown event", extra={"event": reading.fact.note})
    agreements = service.record(reading)
    logger.info(
        "recorded",
        extra={
            "fact": reading.fact.kind,
            "buyer": reading.fact.buyer,
            "agreement": reading.fact.agreement_id,
            "states": {agreement.id: agreement.state for agreement in agreements},
        },
    )
    for agreement in agreements:
        for alarm in agreement.alarms:
            count("AgreementNeedsAttention")
            logger.warning("needs attention", extra={"agreement": agreement.id, "why": alarm})


@cache
def _dependencies() -> Dependencies:
    settings = AgreementsSettings.from_environment()
    tell_of(settings.sale)
    return Dependencies(settings)


@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Entry point of the function. A message that fails does not take its neighbours along.

    Returns:
        Which messages come again. Source: Lambda developer guide, SQS event source mappings, partial batch responses
        (read 2026-11-28).
    """
    del context
    dependencies = _dependencies()
    count("MessagesRead", len(event["Records"]))
    failed = []
    for record in event["Records"]:
        message_id = record["messageId"]
        try:
            record_message(record["body"], terms=dependencies.product, service=dependencies.service)
        except MalformedEvent as error:
            count("MalformedEvent")
            logger.error("malformed", extra={"message_id": message_id, "why": str(error)})
            failed.append({"itemIdentifier": message_id})
        except Exception as error:  # noqa: BLE001 - whatever it was, the message comes again
            count("MessagesFailed")
            logger.error("not recorded", extra={"message_id": message_id, "error": error_code(error)})
            failed.append({"itemIdentifier": message_id})
    return {"batchItemFailures": failed}
