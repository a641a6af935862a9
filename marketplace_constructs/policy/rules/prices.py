"""Rules of prices and costs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.policy.documents import PriceList
from marketplace_constructs.policy.rules.base import CheckedBy, Context, Found, PlanView, Rule

MAX_DECIMALS: Final = 8
"""Of a usage dimension's price, as far as is known [UNCONF]; the price of a contract's had 3 in 2023.

Source: AWS Marketplace seller guide, SaaS contracts (read 2026-11-21)."""
_BYTES: Final = {"MB": Decimal("0.001"), "GB": Decimal(1), "TB": Decimal(1000)}


def _metered(view: PlanView) -> dict[str, None]:
    """The dimensions that a plan can report to."""
    names = dict.fromkeys(meter.dimension for _, meter in view.meters)
    return names | dict.fromkeys(a.then.report_as for a in view.plan.allowances if a.then.report_as)


def _prices(context: Context) -> Iterator[Found]:
    said = set()
    for view in context.plans:
        for entry in context.price_lists(view.plan.price_list):
            prices, document = entry.document.prices, entry.source.document
            for name in _metered(view):
                if name not in context.product.marketplace.dimensions:
                    continue
                if name in prices and (prices[name] > 0 or not view.is_sent):
                    continue
                got = "price 0 on a plan for Marketplace" if name in prices else f"no price of {name!r}"
                found = Found(
                    document=document,
                    path=("Prices", name) if name in prices else ("Prices",),
                    details=f"{name!r}, got {got}, which {view.plan.id!r} meters; expected its price in the listing",
                )
                if (found.document, found.path, name) not in said:
                    said.add((found.document, found.path, name))
                    yield found


def _costs(context: Context) -> Iterator[Found]:
    said = set()
    for view in context.plans:
        if not view.is_sold:
            continue
        for entry in context.price_lists(view.plan.price_list):
            for name, cost, path in _costs_per_unit(context, view, entry.document):
                price = entry.document.prices.get(name)
                if price and cost > price and (entry.source.document, name) not in said:
                    said.add((entry.source.document, name))
                    details = f"price of {name!r}, got {price:f} USD below the cost {cost:f} of {path}; expected more"
                    yield Found(document=entry.source.document, path=("Prices", name), details=details)


def _costs_per_unit(context: Context, view: PlanView, prices: PriceList) -> Iterator[tuple[str, Decimal, str]]:
    """What one unit of a dimension costs at least, as far as the price list says."""
    for name in _metered(view):
        if name in prices.costs:
            yield name, prices.costs[name], name
    for one, meter in view.meters:
        dimension = context.product.marketplace.dimensions.get(meter.dimension)
        if meter.quantity.metric == "requests" and "gateway.request" in prices.costs:
            count = one.multiply * (meter.quantity.round_up_per_request or 1)
            if count > 0:
                yield meter.dimension, prices.costs["gateway.request"] / count, "gateway.request"
        elif meter.quantity.metric == "response.bytes" and "transfer_gb" in prices.costs and one.multiply > 0:
            size = _BYTES.get(dimension.unit) if dimension is not None else None
            if size is not None:
                yield meter.dimension, prices.costs["transfer_gb"] * size / one.multiply, "transfer_gb"


def _too_fine(context: Context) -> Iterator[Found]:
    sent = {view.plan.price_list for view in context.plans if view.is_sent}
    for name in sorted(sent):
        for entry in context.price_lists(name):
            for dimension, price in entry.document.prices.items():
                exponent = price.normalize().as_tuple().exponent
                if isinstance(exponent, int) and -exponent > MAX_DECIMALS:
                    details = f"price of {dimension!r}, got {price:f}; expected at most {MAX_DECIMALS} decimals"
                    yield Found(document=entry.source.document, path=("Prices", dimension), details=details)


RULES = (
    Rule(
        code="MON204",
        finding_type=FindingType.REVENUE_WARNING,
        title="A metered dimension without price, or price 0 on a Marketplace plan",
        why="What has no price here has one in the listing, and estimates and diffs would not show it.",
        bad="""
            Kind: PriceList
            Prices: {calls: "0.001"}
            """,
        good="""
            Kind: PriceList
            Prices: {calls: "0.001", egress_gb: "0.09"}
            """,
        resolution="add the price as it stands in the listing",
        check=_prices,
    ),
    Rule(
        code="MON205",
        finding_type=FindingType.REVENUE_WARNING,
        title="The price list differs from the live offer",
        why="Buyers pay what the offer says, whatever the price list does.",
        bad="""
            Kind: PriceList
            Prices: {calls: "0.002", egress_gb: "0.09"}
            """,
        good="""
            Kind: PriceList
            Prices: {calls: "0.001", egress_gb: "0.09"}
            """,
        resolution="run sellable doctor, and write what the offer says",
        check=None,
        checked_by=CheckedBy.DOCTOR,
    ),
    Rule(
        code="MON211",
        finding_type=FindingType.REVENUE_WARNING,
        title="The cost is above the price",
        why="Each further call would lose money. What is compared is the price of a unit with the least that the "
        "price list says a unit costs: gateway.request for what counts requests, transfer_gb for what counts bytes, "
        "or a cost with the dimension's own name.",
        bad="""
            Kind: PriceList
            Costs: {transfer_gb: "0.12"}
            """,
        good="""
            Kind: PriceList
            Costs: {transfer_gb: "0.05"}
            """,
        resolution="raise the price, or the weight",
        check=_costs,
    ),
    Rule(
        code="MON213",
        finding_type=FindingType.REVENUE_WARNING,
        title="A move makes an existing agreement dearer",
        why="Who has agreed to one price must not be moved to another by an edit.",
        bad="""
            Kind: Plan
            Policies: [images@2]
            """,
        good="""
            Kind: Plan
            Policies: [images@1]
            """,
        resolution="run sellable diff, and move the agreement only with the buyer's consent",
        check=None,
        checked_by=CheckedBy.DIFF,
    ),
    Rule(
        code="MON218",
        finding_type=FindingType.REVENUE_WARNING,
        title="A new route is caught by a wildcard",
        why="What a wildcard allows and bills today, it allows and bills on every route that comes later.",
        bad="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: [/v1/images, "/v1/images/{id}"]
            """,
        resolution="run sellable diff with the routes of both states, and name the new route where it needs a rule",
        check=None,
        checked_by=CheckedBy.DIFF,
    ),
    Rule(
        code="MON221",
        finding_type=FindingType.REVENUE_WARNING,
        title="A price finer than a listing permits",
        why="The listing rounds it, and the price list would say another price than the bill. Eight decimals are taken "
        "for the limit, which AWS does not publish.",
        bad="""
            Kind: PriceList
            Prices: {calls: "0.0000000015", egress_gb: "0.09"}
            """,
        good="""
            Kind: PriceList
            Prices: {calls: "0.001", egress_gb: "0.09"}
            """,
        resolution="price a larger unit, or raise Multiply",
        check=_too_fine,
    ),
)
