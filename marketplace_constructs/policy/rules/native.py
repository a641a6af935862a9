"""Rules of native metering: API Gateway itself counts every call, each as one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.product import NATIVE_DIMENSION, AgreementKind, DimensionType, Metering
from marketplace_constructs.policy.conditions import condition_keys
from marketplace_constructs.policy.documents import DEPLOY_KEYS, Exempt, Meter
from marketplace_constructs.policy.evaluation import Attached
from marketplace_constructs.policy.rules.base import (
    CheckedBy,
    Context,
    Found,
    PlanView,
    Rule,
    in_statement,
    routes_text,
)


def _is_native(context: Context) -> bool:
    return context.product.marketplace.metering is Metering.NATIVE


def _sent(context: Context) -> Iterator[PlanView]:
    """The plans that carry the product code."""
    if _is_native(context):
        yield from (view for view in context.plans if view.is_sent)


def _once(found: Iterator[tuple[Attached, Found]]) -> Iterator[Found]:
    yield from {(one.document, one.path): finding for one, finding in found}.values()


def _usage(context: Context) -> list[str]:
    dimensions = context.product.marketplace.dimensions
    return [name for name, dimension in dimensions.items() if dimension.type is not DimensionType.ENTITLED]


def _other_dimension(context: Context) -> Iterator[Found]:
    if _is_native(context) and NATIVE_DIMENSION not in _usage(context):
        details = f"native metering, got no usage dimension {NATIVE_DIMENSION!r}; expected it, alone"
        yield Found(document=context.product_file, path=("Marketplace", "Dimensions"), details=details)
    yield from _once(
        (one, in_statement(one, f"Dimension, got {meter.dimension!r}; expected {NATIVE_DIMENSION!r}", "Dimension"))
        for view in _sent(context)
        for one, meter in view.meters
        if meter.dimension != NATIVE_DIMENSION
    )


def _several_dimensions(context: Context) -> Iterator[Found]:
    usage = _usage(context)
    if _is_native(context) and len(usage) > 1:
        details = f"native metering, got usage dimensions {', '.join(usage)}; expected {NATIVE_DIMENSION} alone"
        yield Found(document=context.product_file, path=("Marketplace", "Dimensions"), details=details)


def _concurrent(context: Context) -> Iterator[Found]:
    if _is_native(context) and context.product.marketplace.agreements is AgreementKind.CONCURRENT:
        details = "native metering, got Concurrent Agreements; expected Legacy"
        yield Found(document=context.product_file, path=("Marketplace", "Metering"), details=details)


def _allowances(context: Context) -> Iterator[Found]:
    for view in _sent(context):
        if view.plan.allowances:
            details = "Allowances, got them with native metering, which bills included units; expected none"
            yield Found(document=view.document, path=("Allowances",), details=details)


def _weights(context: Context) -> Iterator[Found]:
    yield from _once(
        (one, in_statement(one, f"native metering, got {got}; expected each call to count one", member))
        for view in _sent(context)
        for one, meter in view.meters
        for got, member in _deviations(one, meter)
    )


def _deviations(one: Attached, meter: Meter) -> Iterator[tuple[str, str]]:
    if condition_keys(meter.condition) - set(DEPLOY_KEYS):
        yield "a condition", "Condition"
    elif meter.quantity.metric != "requests":
        yield f"the metric {meter.quantity.metric}", "Quantity"
    elif meter.quantity.round_up_per_request not in {None, 1}:
        yield "RoundUpPerRequest", "Quantity"
    elif one.multiply != 1:
        yield f"the weight {one.multiply}", "Quantity"


def _exempt_or_free(context: Context) -> Iterator[Found]:
    yield from _once(
        (one, in_statement(one, "native metering, got Exempt; expected none, since every call is counted"))
        for view in _sent(context)
        for one in view.attached
        if one.is_active and isinstance(one.statement, Exempt)
    )
    for view in _sent(context):
        if view.expansion is None:
            continue
        metered = {(cell.method, cell.path) for cell in view.expansion.table.cells}
        unmetered = view.expansion.table.allowed - metered
        # Without a key there is nobody whom API Gateway could bill.
        free = [r for key, r in view.routes.items() if key in unmetered and r.requires_key is not False]
        if free:
            details = f"native metering, got {routes_text(free)} allowed and not metered; expected every route metered"
            yield Found(document=view.document, path=("Policies",), details=details)


def _both_meters(context: Context) -> Iterator[Found]:
    if _is_native(context) and context.product.events:
        details = "Events, got them with native metering; expected one meter, and only the pipeline sends events"
        yield Found(document=context.product_file, path=("Events",), details=details)


def _native(**changes: str) -> str:
    lines: Final = {
        "Agreements": "Legacy",
        "PricingModel": "Subscription",
        "Metering": "Native",
        "Dimensions": "{apigateway: {Category: Requests, Unit: Requests, Type: ExternallyMetered}}",
    } | changes
    members = "".join(f"  {name}: {value}\n" for name, value in lines.items())
    return f"Kind: Product\nMarketplace:\n{members}---\n"


_SOLD = """- Sid: Sold
  Effect: Allow
  Action: "*"
  Resource: /v1/images/**
"""
_CALLS = """- Sid: Calls
  Effect: Meter
  Action: "*"
  Resource: /v1/images/**
  Dimension: apigateway
  Quantity: {Metric: requests}
"""
_GOOD = _native() + _SOLD + _CALLS

RULES = (
    Rule(
        code="MON130",
        finding_type=FindingType.ERROR,
        title="Native: a dimension other than apigateway",
        why="API Gateway reports to the dimension with the API name apigateway, and to no other.",
        bad=_native(Dimensions="{calls: {Category: Requests, Unit: Requests, Type: ExternallyMetered}}")
        + _SOLD
        + _CALLS.replace("apigateway", "calls"),
        good=_GOOD,
        resolution="name the listing's dimension apigateway and meter it, or use the pipeline",
        check=_other_dimension,
    ),
    Rule(
        code="MON131",
        finding_type=FindingType.ERROR,
        title="Native: several usage dimensions",
        why="API Gateway reports to one dimension; the others would never be billed.",
        bad=_native(
            Dimensions="{apigateway: {Category: Requests, Unit: Requests, Type: ExternallyMetered}, "
            "compute: {Category: Units, Unit: Units, Type: ExternallyMetered}}"
        )
        + _SOLD
        + _CALLS,
        good=_GOOD,
        resolution="keep apigateway alone, or use the pipeline",
        check=_several_dimensions,
    ),
    Rule(
        code="MON132",
        finding_type=FindingType.ERROR,
        title="Native: Concurrent Agreements",
        why="Nothing that AWS has published says that API Gateway itself can bill a licence.",
        bad=_native(Agreements="Concurrent") + _SOLD + _CALLS,
        good=_GOOD,
        resolution="write Metering: Pipeline",
        check=_concurrent,
    ),
    Rule(
        code="MON133",
        finding_type=FindingType.ERROR,
        title="Native: allowances",
        why="API Gateway reports every call; units that a contract includes would be billed again.",
        bad=_GOOD
        + """---
Kind: Plan
Allowances:
  - {Dimension: apigateway, Included: 1000, Period: Month, Anchor: Agreement, Then: {Deny: true}}
""",
        good=_GOOD,
        resolution="remove the allowances, or use the pipeline",
        check=_allowances,
    ),
    Rule(
        code="MON134",
        finding_type=FindingType.ERROR,
        title="Native: a weight, another metric, rounding or a condition",
        why="API Gateway counts each accepted call as one, whatever the documents say.",
        bad=_native() + _SOLD + _CALLS.replace("{Metric: requests}", "{Metric: requests, Multiply: 2}"),
        good=_GOOD,
        resolution="count requests with weight 1 and no condition, or use the pipeline",
        check=_weights,
    ),
    Rule(
        code="MON135",
        finding_type=FindingType.ERROR,
        title="Native: Exempt, or an allowed route that is not metered",
        why="API Gateway bills every call that it accepts with the key: no route can be free.",
        bad=_GOOD
        + """- Sid: LookingIsFree
  Effect: Exempt
  Action: GET
  Resource: /v1/images/{id}
  Dimension: "*"
""",
        good=_GOOD,
        resolution="meter the route or refuse it, make it a free route without key, or use the pipeline",
        check=_exempt_or_free,
        checked_by=CheckedBy.BOTH,
    ),
    Rule(
        code="MON136",
        finding_type=FindingType.ERROR,
        title="Both meters for one product",
        why="AWS bills what API Gateway reports and what the pipeline reports. Events can only be reported by the "
        "pipeline, so a product with native metering has none.",
        bad=_native().replace("---\n", "Events:\n  image.stored: {Unit: GB-hours}\n---\n") + _SOLD + _CALLS,
        good=_GOOD,
        resolution="write Metering: Pipeline, or remove the events",
        check=_both_meters,
    ),
)
