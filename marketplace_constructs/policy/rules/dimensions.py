"""Rules of dimensions, units, quantities and allowances."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.product import UNITS as LISTED_UNITS
from marketplace_constructs.domain.product import Category, DimensionType
from marketplace_constructs.policy.documents import METRICS, UNITS, Exempt, Meter, Quantity
from marketplace_constructs.policy.rules.base import Context, Found, PlanView, Rule, in_statement
from marketplace_constructs.policy.rules.references import resolved_weights
from marketplace_constructs.policy.source import Path

MAX_QUANTITY: Final = Decimal("9999999999.999999")
"""Of one usage record. Source: AWS Marketplace API reference, UsageRecord, QuantityAsDecimal (read 2026-11-21)."""
_ACCOUNT_RATE: Final = 10_000
"""Calls per second of an account that has not had it raised.

Source: API Gateway developer guide, account-level quotas (read 2026-11-21)."""
_SIBLINGS: Final = {"MB": ("MB", "MiB"), "GB": ("GB", "GiB"), "TB": ("TB", "TiB")}
_NOT_PER_CALL: Final = frozenset({Category.BANDWIDTH, Category.HOSTS, Category.USERS})


def _statements(context: Context) -> Iterator[tuple[str, int, object]]:
    for entry in context.pool.policies.values():
        for index, statement in enumerate(entry.document.statement):
            yield entry.source.document, index, statement


def _unknown_dimensions(context: Context) -> Iterator[Found]:
    for document, path, name, sid in _named_dimensions(context):
        if name not in context.product.marketplace.dimensions:
            known = ", ".join(context.product.marketplace.dimensions)
            details = f"dimension, got {name!r}; expected one of the product's: {known}"
            yield Found(document=document, path=path, details=details, sid=sid)


def _named_dimensions(context: Context) -> Iterator[tuple[str, Path, str, str | None]]:
    for document, index, statement in _statements(context):
        if isinstance(statement, Meter):
            yield document, ("Statement", index, "Dimension"), statement.dimension, statement.sid
        elif isinstance(statement, Exempt):
            for name in statement.dimension:
                if name != "*":
                    yield document, ("Statement", index, "Dimension"), name, statement.sid
    yield from _dimensions_of_tests(context)
    yield from _dimensions_of_plans(context)
    for lists in context.pool.price_lists.values():
        for listed in lists:
            for name in listed.document.prices:
                yield listed.source.document, ("Prices", name), name, None


def _dimensions_of_tests(context: Context) -> Iterator[tuple[str, Path, str, None]]:
    for entry in context.pool.policies.values():
        for index, test in enumerate(entry.document.tests):
            for member, names in (("Quantities", test.expect.quantities), ("Sids", test.expect.sids)):
                for name in names:
                    yield entry.source.document, ("Tests", index, "Expect", member, name), name, None


def _dimensions_of_plans(context: Context) -> Iterator[tuple[str, Path, str, None]]:
    for plan in context.pool.plans.values():
        for index, allowance in enumerate(plan.document.allowances):
            yield plan.source.document, ("Allowances", index, "Dimension"), allowance.dimension, None
        entitlement = getattr(plan.document.assign_to, "entitlement", None)
        if entitlement is not None:
            yield plan.source.document, ("AssignTo", "Entitlement"), entitlement, None


def _entitled(context: Context) -> Iterator[Found]:
    for document, index, statement in _statements(context):
        if isinstance(statement, Meter):
            dimension = context.product.marketplace.dimensions.get(statement.dimension)
            if dimension is not None and dimension.type is DimensionType.ENTITLED:
                details = f"Dimension, got {statement.dimension!r}, which is Entitled; expected a usage dimension"
                path: Path = ("Statement", index, "Dimension")
                yield Found(document=document, path=path, details=details, sid=statement.sid)


def _units(context: Context) -> Iterator[Found]:
    for key, listed in context.product.marketplace.dimensions.items():
        if listed.unit not in LISTED_UNITS[listed.category]:
            expected = ", ".join(LISTED_UNITS[listed.category])
            yield Found(
                document=context.product_file,
                path=("Marketplace", "Dimensions", key, "Unit"),
                details=f"Unit of {key!r} ({listed.category}), got {listed.unit!r}; expected one of {expected}",
            )
    for document, index, statement in _statements(context):
        if not isinstance(statement, Meter):
            continue
        dimension = context.product.marketplace.dimensions.get(statement.dimension)
        problem = _unit_problem(context, statement.quantity)
        if problem is None and dimension is not None:
            problem = _category_problem(context, statement, dimension.category, dimension.unit)
        if problem is not None:
            path: Path = ("Statement", index, "Quantity")
            member = "Unit" if statement.quantity.unit is not None else "Metric"
            yield Found(document=document, path=(*path, member), details=problem, sid=statement.sid)


def _unit_problem(context: Context, quantity: Quantity) -> str | None:
    """What is wrong with a unit, whatever the dimension."""
    if quantity.unit is None:
        return None
    if quantity.event is not None:
        declared = context.product.events.get(quantity.event)
        if declared is None or declared.unit == quantity.unit:
            return None
        return f"Unit, got {quantity.unit!r}; expected the event's own, {declared.unit or 'none'}"
    allowed = UNITS.get(METRICS[quantity.metric], {})
    if quantity.unit in allowed:
        return None
    return f"Unit of {quantity.metric}, got {quantity.unit!r}; expected {', '.join(allowed) or 'none'}"


def _category_problem(context: Context, meter: Meter, category: Category, unit: str) -> str | None:
    quantity = meter.quantity
    shown = f"{quantity.metric}{f' in {quantity.unit}' if quantity.unit else ''}"
    got = f"Quantity of {meter.dimension!r} ({category}, {unit}), got {shown}"
    if category is Category.REQUESTS and quantity.metric != "requests":
        return f"{got}; expected requests"
    if category in _NOT_PER_CALL and quantity.event is None:
        return f"{got}; expected an event, since no call shows how many there are"
    if category is Category.DATA:
        siblings = _SIBLINGS.get(unit, (unit,))
        if quantity.event is not None:
            declared = context.product.events.get(quantity.event)
            is_fitting = declared is None or declared.unit in siblings
        else:
            is_fitting = quantity.metric == "response.bytes" and quantity.unit in siblings
        if not is_fitting:
            return f"{got}; expected bytes in {' or '.join(siblings)}"
    return None


def _allowance_sources(context: Context) -> Iterator[Found]:
    dimensions = context.product.marketplace.dimensions
    for entry in context.pool.plans.values():
        for index, allowance in enumerate(entry.document.allowances):
            name = allowance.entitled_dimension
            if name is not None and (name not in dimensions or dimensions[name].type is not DimensionType.ENTITLED):
                details = f"Included, got {name!r}; expected an Entitled dimension of the product"
                yield Found(document=entry.source.document, path=("Allowances", index, "Included"), details=details)


def _overage(context: Context) -> Iterator[Found]:
    dimensions = context.product.marketplace.dimensions
    for entry in context.pool.plans.values():
        for index, allowance in enumerate(entry.document.allowances):
            name = allowance.then.report_as
            if name is None:
                continue
            if name not in dimensions or dimensions[name].type is not DimensionType.EXTERNALLY_METERED:
                details = f"ReportAs, got {name!r}; expected an ExternallyMetered dimension of the product"
                path: Path = ("Allowances", index, "Then", "ReportAs")
                yield Found(document=entry.source.document, path=path, details=details)


def _pricing_model(context: Context) -> Iterator[Found]:
    model = context.product.marketplace.pricing_model
    if not model.has_contract:
        for entry in context.pool.plans.values():
            if entry.document.allowances:
                details = f"Allowances, got them on a product of pricing model {model}; expected a contract"
                yield Found(document=entry.source.document, path=("Allowances",), details=details)
    if not model.has_usage:
        metered = {
            (one.document, one.path): in_statement(
                one, f"Meter, got it on a plan for Marketplace; expected none with pricing model {model}"
            )
            for view in context.plans
            if view.is_sent
            for one, _ in view.meters
        }
        yield from metered.values()


def _hourly(context: Context) -> Iterator[Found]:
    yield from resolved_weights(context)
    found = {}
    for view in context.plans:
        calls = _calls_per_hour(view)
        for one, meter in view.meters:
            if meter.quantity.event is not None:
                continue
            smallest = Decimal(meter.quantity.round_up_per_request or 1) * one.multiply / meter.quantity.base_units
            if smallest * calls > MAX_QUANTITY and (one.document, one.path) not in found:
                found[one.document, one.path] = in_statement(
                    one,
                    f"quantity of an hour at full pace, got {smallest * calls:,.0f} of {meter.dimension!r} on plan "
                    f"{view.plan.id!r} ({calls:,.0f} calls of {smallest:f}); expected at most 9,999,999,999.999999",
                    "Quantity",
                )
    yield from found.values()


def _calls_per_hour(view: PlanView) -> Decimal:
    limits = list(view.limits)
    rate = min([limit.rate_limit for limit in limits], default=Decimal(_ACCOUNT_RATE))
    calls = rate * 3600 + min([limit.burst_limit for limit in limits], default=0)
    return min(calls, Decimal(view.plan.quota.limit)) if view.plan.quota else calls


def _unfed(context: Context) -> Iterator[Found]:
    fed = {meter.dimension for view in context.plans for _, meter in view.meters}
    for view in context.plans:
        fed |= {allowance.then.report_as for allowance in view.plan.allowances if allowance.then.report_as}
    for name, dimension in context.product.marketplace.dimensions.items():
        if dimension.type is not DimensionType.ENTITLED and name not in fed:
            details = f"dimension {name!r}, which no Meter of any plan feeds; expected one that does"
            path: Path = ("Marketplace", "Dimensions", name)
            yield Found(document=context.product_file, path=path, details=details)


_CONTRACT = """
    Kind: Product
    Marketplace:
      Agreements: Concurrent
      PricingModel: ContractWithConsumption
      Metering: Pipeline
      Dimensions:
        calls: {Category: Requests, Unit: Requests, Type: ExternallyMetered}
        egress_gb: {Category: Data, Unit: GB, Type: ExternallyMetered}
        calls_overage: {Category: Requests, Unit: Requests, Type: ExternallyMetered}
        calls_committed: {Category: Requests, Unit: Requests, Type: Entitled}
    ---
    Kind: Plan
    Allowances:
      - Dimension: calls
        Included: "entitlement:calls_committed"
        Period: Month
        Anchor: Agreement
        Then: {ReportAs: calls_overage}
"""

RULES = (
    Rule(
        code="MON110",
        finding_type=FindingType.ERROR,
        title="A dimension that the product does not have",
        why="AWS refuses usage records of a dimension that the listing does not have, with the whole batch.",
        bad="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: cals
              Quantity: {Metric: requests}
            """,
        good="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            """,
        resolution="use one of the product's dimensions, or add it to the product and the listing",
        check=_unknown_dimensions,
    ),
    Rule(
        code="MON111",
        finding_type=FindingType.ERROR,
        title="Metering an Entitled dimension",
        why="What a contract includes is bought beforehand; AWS takes no usage records for it.",
        bad=_CONTRACT
        + """
    ---
    - Sid: Calls
      Effect: Meter
      Action: "*"
      Resource: /v1/images/**
      Dimension: calls_committed
      Quantity: {Metric: requests}
""",
        good=_CONTRACT,
        resolution="meter a usage dimension, and let an allowance include units of it",
        check=_entitled,
    ),
    Rule(
        code="MON113",
        finding_type=FindingType.ERROR,
        title="The unit does not fit the dimension",
        why="A buyer reads GB on the bill; what is counted must be GB, not bytes or milliseconds.",
        bad="""
            - Sid: Bytes
              Effect: Meter
              Action: GET
              Resource: /v1/images/{id}
              Dimension: egress_gb
              Quantity: {Metric: response.bytes}
            """,
        good="""
            - Sid: Bytes
              Effect: Meter
              Action: GET
              Resource: /v1/images/{id}
              Dimension: egress_gb
              Quantity: {Metric: response.bytes, Unit: GB}
            """,
        resolution="count requests for Requests, response.bytes in the dimension's unit (or its binary sibling) for "
        "Data, events for Bandwidth, Hosts and Users",
        check=_units,
    ),
    Rule(
        code="MON114",
        finding_type=FindingType.ERROR,
        title="An allowance from a dimension that is not Entitled",
        why="Nobody can buy units of a usage dimension beforehand, so the allowance would be nothing.",
        bad=_CONTRACT.replace("entitlement:calls_committed", "entitlement:calls_overage"),
        good=_CONTRACT,
        resolution="name an Entitled dimension of the product, or a number",
        check=_allowance_sources,
    ),
    Rule(
        code="MON115",
        finding_type=FindingType.ERROR,
        title="The overage dimension is missing or not ExternallyMetered",
        why="What is used beyond the contract can only be reported to a dimension that takes usage records.",
        bad=_CONTRACT.replace("ReportAs: calls_overage", "ReportAs: calls_committed"),
        good=_CONTRACT,
        resolution="name an ExternallyMetered dimension of the product, or write Deny: true",
        check=_overage,
    ),
    Rule(
        code="MON116",
        finding_type=FindingType.ERROR,
        title="An allowance without a contract, or a Meter in a pure contract",
        why="A product priced by usage alone has nothing that could be included; a pure contract has no usage to bill.",
        bad="""
            Kind: Plan
            Allowances:
              - {Dimension: calls, Included: 1000, Period: Month, Anchor: Agreement, Then: {Deny: true}}
            """,
        good=_CONTRACT,
        resolution="remove it, or sell with the pricing model ContractWithConsumption",
        check=_pricing_model,
    ),
    Rule(
        code="MON126",
        finding_type=FindingType.ERROR,
        title="Multiply out of range or too fine, or an hour beyond what a record takes",
        why="A usage record takes at most 9,999,999,999.999999. What is checked is an hour in which a plan is called "
        "at its own full pace (without Throttle, the account's 10,000 calls/s), each call counting the least that a "
        "call can count unless it counts nothing.",
        bad="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests, Multiply: 0.00001}
            """,
        good="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests, Multiply: 0.0001}
            """,
        resolution="use a weight above 0 and at most 10,000 with at most 4 decimals, a larger Unit, or a Throttle",
        check=_hourly,
    ),
    Rule(
        code="MON303",
        finding_type=FindingType.WARNING,
        title="A usage dimension that nothing feeds",
        why="The listing shows buyers a price that they never pay; often a Meter was forgotten.",
        bad="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            """,
        good="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            - Sid: Bytes
              Effect: Meter
              Action: GET
              Resource: /v1/images/{id}
              Dimension: egress_gb
              Quantity: {Metric: response.bytes, Unit: GB}
            """,
        resolution="meter it, or remove it from the product",
        check=_unfed,
    ),
)
