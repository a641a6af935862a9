"""Random policies, plans, APIs and access logs: everything the language can say, where it meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor
from random import Random
from typing import Any, Final, TypeVar

from independent import ALL_METHODS, NEVER_REACHED_THE_INTEGRATION, Declared, Evaluator, Statement, several
from pools import plan, policy, product

T = TypeVar("T")

STAGE: Final = "prod"
PLAN: Final = "retail@1"
DIMENSIONS: Final = ("calls", "egress_gb", "compute_sec")
PATHS: Final = (
    "/",
    "/v1",
    "/v1/images",
    "/v1/images/{id}",
    "/v1/images/search",
    "/v1/images/{id}/render",
    "/v1/images/{id}/original",
    "/v1/images/search/{term}",
    "/v1/files/{proxy+}",
    "/v1/health",
    "/{proxy+}",
)
EVENTS: Final = ("image.storage", "image.kept")
AGREEMENTS: Final = ("agr-a", "agr-b", "agr-c")
START: Final = datetime(2026, 11, 21, 22, tzinfo=UTC)
"""Two hours before a day's end."""
NUMBERS: Final[dict[str, Sequence[Any]]] = {
    "response:Status": (0, 100, 200, 201, 204, 299, 299.5, 300, 304, 400, 404, 428, 429, 430, 500, 503, 599, 600),
    "response:Bytes": (-1, 0, 1, 999, 1000, 1024, 1024.5, 5_000_000, 2_000_000_000),
    "integration:LatencyMs": (0, 0.5, 1, 99, 100, 101, 1500, 29_000),
}
NUMERIC: Final = (
    "NumericEquals",
    "NumericLessThan",
    "NumericLessThanEquals",
    "NumericGreaterThan",
    "NumericGreaterThanEquals",
)
BYTE_UNITS: Final = ("KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB")
TIME_UNITS: Final = ("ms", "s", "min", "h")


@dataclass(frozen=True, kw_only=True)
class World:
    """Documents, one of them the plan ``retail@1``, and the API that it is on."""

    documents: tuple[dict[str, Any], ...]
    routes: tuple[Declared, ...]

    def evaluator(self) -> Evaluator:
        return Evaluator(self.documents, PLAN, self.routes, stage=STAGE)


def some(random: Random, values: Sequence[T], most: int) -> list[T]:
    """One to ``most`` of the values, each once."""
    return random.sample(values, random.randint(1, min(most, len(values))))


def one_or_several(random: Random, values: list[T]) -> T | list[T]:
    return values[0] if len(values) == 1 and random.random() < 0.5 else values


def chance(random: Random, probability: float) -> bool:
    return random.random() < probability


def random_world(random: Random) -> World:
    routes = _routes(random)
    names = some(random, ("images", "images-b", "tiers"), 3)
    policies = [_policy(random, name, routes) for name in names]
    guardrails = [_guardrail(random, routes)] if chance(random, 0.3) else []
    segments: dict[str, Any] = {"retail": {}, "partner": {}}
    segment = random.choice(("retail", "partner"))
    if guardrails:
        segments[random.choice((segment, segment, "retail"))] = {"Guardrails": ["guardrail@1"]}
    attached: dict[str, Any] = {"Segment": segment, "Policies": [f"{name}@{_version(name)}" for name in names]}
    with_weight = [one["Id"] for one in policies if "Weight" in one.get("Parameters", {})]
    if given := [name for name in with_weight if chance(random, 0.5)]:
        attached["Parameters"] = {name: {"Weight": _weight(random)} for name in given}
    if chance(random, 0.5):
        attached["Throttle"] = _throttle(random)
    listing = product()["Marketplace"] | {"Dimensions": {name: dict(_COUNTED) for name in DIMENSIONS}}
    events: dict[str, Any] = {name: {} for name in EVENTS}
    documents = (product(Segments=segments, Events=events, Marketplace=listing), plan(**attached))
    return World(documents=(*documents, *policies, *guardrails), routes=routes)


_COUNTED: Final = {"Category": "Units", "Unit": "Units", "Type": "ExternallyMetered"}
"""Whatever is counted fits into it, so that no metric and no unit is refused."""


def _version(name: str) -> int:
    return {"images": 10, "images-b": 2, "tiers": 3}[name]


def _routes(random: Random) -> tuple[Declared, ...]:
    routes: list[Declared] = []
    for path in some(random, PATHS, 6):
        for method in some(random, ("GET", "POST", "ANY", "GET", "DELETE", "OPTIONS", "HEAD"), 3):
            if not any(route[:2] == (method, path) for route in routes):
                routes.append(Declared(method, path, method == "OPTIONS" and chance(random, 0.7)))
    return tuple(routes)


def _policy(random: Random, name: str, routes: Sequence[Declared]) -> dict[str, Any]:
    has_weight = chance(random, 0.4)
    statements = [_access(random, "Allow", routes, "/**" if chance(random, 0.7) else None)]
    statements += [_access(random, "Deny", routes) for _ in range(random.choice((0, 0, 0, 1)))]
    statements += [_meter(random, routes, has_weight=has_weight) for _ in range(random.randint(1, 7))]
    statements += [_exempt(random, routes) for _ in range(random.choice((0, 0, 1, 2)))]
    statements += [_limit(random, routes) for _ in range(random.choice((0, 0, 1, 2)))]
    if chance(random, 0.2):
        metric = f"event:{random.choice(EVENTS)}"
        quantity = {"Metric": metric} | ({"Multiply": _weight(random)} if chance(random, 0.5) else {})
        statements.append({"Effect": "Meter", "Dimension": random.choice(DIMENSIONS), "Quantity": quantity})
    for sid, statement in zip(random.sample(_SIDS, len(statements)), statements, strict=True):
        statement["Sid"] = sid
    random.shuffle(statements)
    more: dict[str, Any] = {}
    if any(str(one.get("Quantity", {}).get("Multiply")).startswith("$") for one in statements):
        more["Parameters"] = {"Weight": {"Type": "Decimal", "Default": _weight(random)}}
    if chance(random, 0.3):
        more["BillServerErrors"] = chance(random, 0.8)
    return policy(statements, Id=name, PolicyVersion=_version(name), **more)


_SIDS: Final = [f"{first}{last}" for first in "ABCab" for last in ("", "1", "10", ".x", "_y")]


def _guardrail(random: Random, routes: Sequence[Declared]) -> dict[str, Any]:
    statements = [_access(random, "Deny", routes) if chance(random, 0.5) else _limit(random, routes)]
    return policy([one | {"Sid": "Guard"} for one in statements], Id="guardrail")


def _access(random: Random, effect: str, routes: Sequence[Declared], resource: str | None = None) -> dict[str, Any]:
    where = {"Action": "*", "Resource": resource} if resource else _where(random, routes)
    condition = {"StringEquals": _deploy(random)} if chance(random, 0.1 if effect == "Allow" else 0.4) else None
    return {"Effect": effect, **where, **({"Condition": condition} if condition else {})}


def _limit(random: Random, routes: Sequence[Declared]) -> dict[str, Any]:
    return _access(random, "Limit", routes, "/**" if chance(random, 0.3) else None) | {"Throttle": _throttle(random)}


def _throttle(random: Random) -> dict[str, Any]:
    return {"RateLimit": random.choice((0.5, 1, 5, 10, 100)), "BurstLimit": random.choice((1, 5, 10, 200))}


def _meter(random: Random, routes: Sequence[Declared], *, has_weight: bool) -> dict[str, Any]:
    dimension = random.choice(DIMENSIONS)
    metric = {
        "calls": ("requests",),
        "egress_gb": ("response.bytes",),
        "compute_sec": ("integration.ms", "response.ms", "response.bytes", "requests"),
    }[dimension]
    quantity: dict[str, Any] = {"Metric": random.choice(metric)}
    if chance(random, 0.6):
        quantity["Multiply"] = "${param.Weight}" if has_weight and chance(random, 0.5) else _weight(random)
    if chance(random, 0.4):
        quantity["RoundUpPerRequest"] = random.choice((1, 2, 3, 7, 100, 1024, 4096, 10**6))
    if quantity["Metric"] != "requests" and chance(random, 0.8):
        quantity["Unit"] = random.choice(BYTE_UNITS if quantity["Metric"] == "response.bytes" else TIME_UNITS)
    return {
        "Effect": "Meter",
        **_where(random, routes),
        "Dimension": dimension,
        "Quantity": quantity,
        **random_condition(random, 0.6),
    }


def _exempt(random: Random, routes: Sequence[Declared]) -> dict[str, Any]:
    dimension = "*" if chance(random, 0.4) else one_or_several(random, some(random, DIMENSIONS, 3))
    return {"Effect": "Exempt", **_where(random, routes), "Dimension": dimension, **random_condition(random, 0.6)}


def _weight(random: Random) -> int | float:
    decimals = random.randint(0, 4)
    if chance(random, 0.1):
        return random.choice((10_000, 0.0001, 9999.9999))
    return random.randint(1, 50) if decimals == 0 else round(random.randint(1, 3 * 10**decimals) / 10**decimals, 4)


def _where(random: Random, routes: Sequence[Declared]) -> dict[str, Any]:
    patterns = [_pattern(random, random.choice(routes).path) for _ in range(random.choice((1, 1, 2, 3)))]
    methods = some(random, ALL_METHODS + tuple({route.method for route in routes} - {"ANY"}) * 2 + ("*",), 3)
    action = "*" if chance(random, 0.4) else one_or_several(random, methods)
    return {"Action": action, "Resource": one_or_several(random, patterns)}


def _pattern(random: Random, path: str) -> str:
    """A pattern that matches the path, as specific as may be."""
    parts = [part for part in path.split("/") if part]
    if chance(random, 0.4):
        kept = [part for part in parts[: random.randint(0, len(parts))] if not part.endswith("+}")]
        parts = [*kept, "**"]
    return "/" + "/".join(_loosened(random, part) for part in parts)


def _loosened(random: Random, part: str) -> str:
    if part == "**" or chance(random, 0.5):
        return part
    if part.endswith("+}"):
        # By itself only, whatever its name; the others match other routes.
        return random.choice((part, "{rest+}", "*", "{any}"))
    if chance(random, 0.3):
        return "*"
    return "{any}" if part.startswith("{") or chance(random, 0.1) else part


def _deploy(random: Random) -> dict[str, Any]:
    values = {
        "plan:Segment": ("retail", "partner"),
        "plan:Id": ("retail", "trial", "Retail"),
        "api:Stage": (STAGE, "test"),
    }
    return {key: one_or_several(random, some(random, values[key], 2)) for key in random.sample(sorted(values), 1)}


def random_condition(random: Random, probability: float) -> dict[str, Any]:
    if not chance(random, probability):
        return {}
    condition: dict[str, dict[str, Any]] = {}
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        kind = random.random()
        if kind < 0.15:
            condition.setdefault("StringEquals", {}).update(_deploy(random))
        elif kind < 0.4:
            classes = some(random, ("2", "3", "4", "5"), 3)
            condition.setdefault("StringEquals", {})["response:StatusClass"] = one_or_several(random, classes)
        elif kind < 0.55:
            times = [
                instant(START + timedelta(seconds=random.choice(_SECONDS))) for _ in range(random.choice((1, 1, 2)))
            ]
            operator = random.choice(("DateGreaterThanEquals", "DateLessThan"))
            condition.setdefault(operator, {})["request:Time"] = one_or_several(random, times)
        else:
            key = random.choice(sorted(NUMBERS))
            values = one_or_several(random, some(random, NUMBERS[key], random.choice((1, 1, 3))))
            condition.setdefault(random.choice(NUMERIC), {})[key] = values
    return {"Condition": condition}


_SECONDS: Final = (0, 1, 3_599, 3_600, 7_200, 7_201, 10_000)


def instant(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def random_log(random: Random, world: World, count: int) -> list[dict[str, str]]:
    """Lines at the edges of what the world's conditions compare with; some are there twice."""
    evaluator = world.evaluator()
    edges = {
        member: _edges(evaluator.statements, member)
        for member in ("status", "responseLength", "integrationLatency", "requestTimeEpoch")
    }
    edges["responseLatency"] = sorted({*edges["integrationLatency"], 7, 30_000})
    edges["status"] = sorted({*edges["status"], 0, 100, 200, 204, 302, 404, 429, 500, 503} - {-1})
    edges["requestTimeEpoch"] = [edge for edge in edges["requestTimeEpoch"] if edge > 1] or [
        int(START.timestamp()) * 1_000
    ]
    known = sorted(evaluator.routes)
    used = sorted({path for _, path in known})
    lines: list[dict[str, str]] = []
    for index in range(count):
        if lines and chance(random, 0.03):
            lines.append(random.choice(lines))
            continue
        method, path = random.choice(known)
        if chance(random, 0.04):
            method, path = random.choice(ALL_METHODS), random.choice((*used, "/v1/none", "/v1/images/{id}/x"))
        numbers = {
            member: "-" if chance(random, 0.05) and member != "requestTimeEpoch" else str(random.choice(edges[member]))
            for member in edges
        }
        if chance(random, 0.5):
            numbers["status"] = "200"
        # A preflight has no key, and so neither plan nor agreement.
        declared = evaluator.routes.get((method, path))
        has_key = not (declared and declared.is_preflight)
        lines.append(
            {
                "extendedRequestId": f"request-{index}=",
                "requestId": "chosen-by-the-client",
                "apiId": "a1b2c3d4e5",
                "stage": STAGE,
                "httpMethod": method,
                "resourcePath": path,
                "errorResponseType": _error(random),
                "integrationStatus": numbers["status"],
                "apiKeyId": "k1",
                "agreement": random.choice(AGREEMENTS) if has_key and not chance(random, 0.03) else "-",
                "plan": _plan(random) if has_key else "-",
                **numbers,
            }
        )
    return lines


def _edges(statements: Sequence[Statement], member: str) -> list[int]:
    constants = {value for statement in statements for value in statement.constants(member)}
    values = {whole + step for value in constants for whole in (floor(value), ceil(value)) for step in (-1, 0, 1, 99)}
    return sorted({value for value in values if value >= 0} | {0, 1, 150, 2_500_000_001})


def _plan(random: Random) -> str:
    return random.choice(("trial@1", "-", "retailer@1", "retail@2")) if chance(random, 0.05) else PLAN


def _error(random: Random) -> str:
    if not chance(random, 0.06):
        return "-"
    return random.choice((*sorted(NEVER_REACHED_THE_INTEGRATION), *("INTEGRATION_TIMEOUT", "INTEGRATION_FAILURE") * 6))


def shuffled(random: Random, world: World) -> World:
    """The same, in another order: documents, attachments, statements, members, lists, routes."""
    routes = list(world.routes)
    random.shuffle(routes)
    return World(documents=tuple(_shuffled(random, world.documents)), routes=tuple(routes))


def _shuffled(random: Random, part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _shuffled(random, part[name]) for name in random.sample(sorted(part), len(part))}
    if isinstance(part, list | tuple):
        return [_shuffled(random, item) for item in random.sample(list(part), len(part))]
    return part


def shapes(world: World) -> set[str]:
    """What of the language a world uses, so that a generator that grew blind is seen."""
    seen: set[str] = set()
    for document in world.documents:
        for statement in document.get("Statement", ()):
            effect = statement["Effect"]
            seen.add(effect)
            seen |= {f"pattern {_kind(p)}" for r in several(statement.get("Resource", [])) for p in r.split("/") if p}
            seen |= {f"patterns {min(2, len(several(statement.get('Resource', []))))}"}
            seen |= {f"methods {min(2, len(several(statement.get('Action', []))))}"}
            for operator, members in statement.get("Condition", {}).items():
                for key, values in members.items():
                    seen.add(f"{effect} {operator} {key}")
                    seen |= {f"values {min(2, len(several(values)))}"}
            quantity = statement.get("Quantity", {})
            seen |= {f"{name} {quantity[name]}" for name in ("Metric", "Unit") if name in quantity}
            seen |= {name for name in ("RoundUpPerRequest",) if name in quantity}
            weight = str(quantity.get("Multiply", ""))
            seen.add("Multiply parameter" if "param" in weight else f"Multiply {len(weight.partition('.')[2])}")
            if effect == "Exempt":
                dimension = statement["Dimension"]
                seen.add("Exempt " + ("*" if dimension == "*" else "one" if isinstance(dimension, str) else "list"))
        if document.get("Id") == "guardrail":
            seen.add("guardrail")
        if "BillServerErrors" in document:
            seen.add(f"BillServerErrors {document['BillServerErrors']}")
        seen |= {
            f"plan {name}" for name in ("Parameters", "Throttle") if document["Kind"] == "Plan" and name in document
        }
    seen |= {f"route {route.method}" for route in world.routes}
    seen |= {"route preflight" for route in world.routes if route.is_preflight}
    return seen


def _kind(part: str) -> str:
    if part in {"*", "**"}:
        return part
    return "literal" if not part.startswith("{") else "{proxy+}" if part.endswith("+}") else "{name}"
