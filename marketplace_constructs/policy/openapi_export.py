"""What one plan sells, as an OpenAPI document: the routes that it allows, and what each call counts and costs."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from marketplace_constructs.domain.plan_table import Cell, LineState
from marketplace_constructs.domain.usage_plan import METHODS
from marketplace_constructs.policy.documents import Meter, Plan, PriceList
from marketplace_constructs.policy.evaluation import Expansion
from marketplace_constructs.policy.patterns import Route
from marketplace_constructs.policy.pool import Pool

EXTENSION: Final = "x-monetization"
_OWN: Final = "x-amazon-apigateway-"
"""What such members say is between the seller and API Gateway; the name of the backend, for one."""
_ANY: Final = f"{_OWN}any-method"
_KEY: Final = "key"
_PARAMETERS: Final = "#/components/parameters/"
_VARIABLE: Final = re.compile(r"\{([^}]*)\}")

Json = dict[str, Any]


def openapi_of_plan(
    pool: Pool,
    plan: Plan,
    expansion: Expansion,
    *,
    at: datetime,
    document: Mapping[str, object] | None = None,
    free_routes: Collection[str] = (),
) -> Json:
    """The routes of a plan as an OpenAPI 3 document that a buyer may see.

    Routes that the plan refuses are left out, as is whatever concerns API Gateway alone. Each operation has
    ``x-monetization``: what a call counts for each dimension, by which statement, and what a unit costs.

    Args:
        pool: The documents.
        plan: One of its plans.
        expansion: That plan, worked out.
        at: The moment whose prices are told; aware.
        document: An OpenAPI 3 document of the same routes, whose descriptions and schemas are kept. Left out, or in
            an older version, routes are all that is told.
        free_routes: Routes that need no key, such as ``GET /v1/health``.
    """
    is_kept = document is not None and str(document.get("openapi", "")).startswith("3.")
    source: Json = dict(document) if document is not None and is_kept else {}
    prices = _prices_at(pool, plan, at)
    result: Json = {name: part for name, part in source.items() if name not in {"paths", "components", "security"}}
    result.setdefault("openapi", "3.0.3")
    result.setdefault("info", {"title": plan.product, "version": plan.reference})
    result[EXTENSION] = _plan_terms(plan, expansion, prices)
    result["paths"] = _paths(source, _sold(expansion, free_routes), _Terms(expansion, prices))
    result["components"] = {
        **source.get("components", {}),
        "securitySchemes": {_KEY: {"type": "apiKey", "name": "x-api-key", "in": "header"}},
    }
    return {name: _public(part) for name, part in result.items() if not name.startswith(_OWN)}


def _sold(expansion: Expansion, free_routes: Collection[str]) -> dict[Route, bool]:
    """The routes that may be called, and whether each needs the key."""
    routes = {route: str(route) not in free_routes for route in expansion.routes}
    allowed = expansion.table.allowed
    return {route: keyed for route, keyed in routes.items() if not keyed or (route.method, route.path) in allowed}


def _prices_at(pool: Pool, plan: Plan, at: datetime) -> PriceList | None:
    """The price list that holds at a moment; the first one where none does yet."""
    lists = [entry.document for entry in pool.price_lists.get(plan.price_list, ())]
    begun = [prices for prices in lists if prices.effective_from <= at]
    return next(iter(begun[-1:] or lists[:1]), None)


def _plan_terms(plan: Plan, expansion: Expansion, prices: PriceList | None) -> Json:
    terms: Json = {"plan": plan.reference, "segment": plan.segment, "channel": plan.channel.value}
    if prices is not None:
        terms |= {"priceList": prices.id, "currency": prices.currency}
    if expansion.throttle is not None:
        terms["throttle"] = {
            "rateLimit": float(expansion.throttle.rate_limit),
            "burstLimit": expansion.throttle.burst_limit,
        }
    if plan.quota is not None:
        terms["quota"] = {"limit": plan.quota.limit, "period": plan.quota.period.value}
    return terms


class _Terms:
    """What a call counts and costs."""

    def __init__(self, expansion: Expansion, prices: PriceList | None) -> None:
        self._expansion = expansion
        self._prices: Mapping[str, Decimal] = {} if prices is None else prices.prices
        self._currency = "" if prices is None else prices.currency
        self._named = {(one.policy, one.statement.sid): one for one in expansion.attached}
        self._cells: dict[tuple[str, str], list[Cell]] = {}
        for cell in expansion.table.cells:
            self._cells.setdefault((cell.method, cell.path), []).append(cell)

    def of(self, route: Route) -> list[Json]:
        """Of one route, a member for each dimension and statement that may decide."""
        cells = self._cells.get((route.method, route.path), ())
        deciding = {
            (cell.dimension, cell.policy, cell.sid): cell for cell in cells if cell.state is not LineState.FAILED
        }
        return [self._term(cell) for cell in deciding.values()]

    def _term(self, cell: Cell) -> Json:
        statement = self._named[cell.policy, cell.sid].statement
        term: Json = {"dimension": cell.dimension, "policy": cell.policy, "sid": cell.sid, "state": cell.state.value}
        if statement.condition is not None:
            term["condition"] = _plain(statement.condition.model_dump(by_alias=True, exclude_none=True))
        if not isinstance(statement, Meter):
            return term
        term |= {"metric": cell.metric, "weight": _text(cell.multiply)}
        if cell.round_up > 1:
            term["roundUpPerRequest"] = cell.round_up
        if statement.quantity.unit:
            term["unit"] = statement.quantity.unit
        if cell.dimension in self._prices:
            term |= {"price": _text(self._prices[cell.dimension]), "currency": self._currency}
        return term


def _paths(source: Mapping[str, Any], sold: Mapping[Route, bool], terms: _Terms) -> Json:
    paths: Json = {}
    for route, needs_key in sold.items():
        item = source.get("paths", {}).get(route.path, {})
        is_any = route.method.lower() not in item
        operation: Json = copy.deepcopy(item.get(_ANY if is_any else route.method.lower(), {}))
        if is_any:
            # It was one operation, whose id may stand for one only.
            operation.pop("operationId", None)
        operation.setdefault("responses", {"default": {"description": "The API's answer."}})
        operation["security"] = [{_KEY: []}] if needs_key else []
        operation[EXTENSION] = terms.of(route) if needs_key else []
        shown = _PathItem(route.path, source.get("components", {}).get("parameters", {}))
        paths.setdefault(shown.path, shown.members(item))[route.method.lower()] = shown.renamed(operation)
    for path, item in paths.items():
        _declare_variables(path, item)
    return paths


class _PathItem:
    """A path of API Gateway in OpenAPI's words: a variable that takes the rest of the path has no plus there."""

    def __init__(self, path: str, parameters: Mapping[str, Json]) -> None:
        self.path = path.replace("+}", "}")
        self._parameters = parameters

    def members(self, item: Mapping[str, Any]) -> Json:
        """What all methods of the path share."""
        methods = {*map(str.lower, METHODS), "trace", _ANY}
        return self.renamed({name: part for name, part in item.items() if name not in methods})

    def renamed(self, described: Json) -> Json:
        """With the path's variables named as in it."""
        if "parameters" in described:
            described["parameters"] = [self._parameter(parameter) for parameter in described["parameters"]]
        return described

    def _parameter(self, parameter: Json) -> Json:
        written = self._parameters.get(str(parameter.get("$ref", "")).removeprefix(_PARAMETERS), parameter)
        if written.get("in") != "path":
            return parameter
        return {**written, "name": written["name"].removesuffix("+"), "required": True}


def _declare_variables(path: str, item: Json) -> None:
    """Declare the path's variables that no parameter declares."""
    operations = [part for name, part in item.items() if name.upper() in METHODS]
    shared = _names(item.get("parameters", ()))
    for name in _VARIABLE.findall(path):
        parameter = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        if name in shared:
            continue
        for operation in operations:
            if name not in _names(operation.get("parameters", ())):
                operation.setdefault("parameters", []).append(parameter)


def _names(parameters: Iterable[Mapping[str, Any]]) -> set[str]:
    return {parameter["name"] for parameter in parameters if parameter.get("in") == "path"}


def _public(part: Any) -> Any:
    """Without what concerns API Gateway alone."""
    if isinstance(part, dict):
        return {name: _public(value) for name, value in part.items() if not str(name).startswith(_OWN)}
    return [_public(item) for item in part] if isinstance(part, list) else part


def _plain(part: Any) -> Any:
    """As the document had it: numbers as numbers, times as text."""
    if isinstance(part, dict):
        return {name: _plain(value) for name, value in part.items()}
    if isinstance(part, tuple):
        return [_plain(item) for item in part]
    if isinstance(part, Decimal):
        return int(part) if part == int(part) else float(part)
    return f"{part:%Y-%m-%dT%H:%M:%SZ}" if isinstance(part, datetime) else part


def _text(number: Decimal) -> str:
    return f"{number.normalize():f}"
