"""A second reading of the language's rules: row by row, in fractions, from the raw documents.

It shares nothing with the product but the names of the log line's members. Where the product expands a plan into
boxes and lets SQL join them, this asks each statement about each line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from math import ceil, floor
from typing import Any, Final, NamedTuple

Document = Mapping[str, Any]

ALL_METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
NEVER_REACHED_THE_INTEGRATION: Final = frozenset(
    {
        "ACCESS_DENIED",
        "API_CONFIGURATION_ERROR",
        "AUTHORIZER_CONFIGURATION_ERROR",
        "AUTHORIZER_FAILURE",
        "BAD_REQUEST_BODY",
        "BAD_REQUEST_PARAMETERS",
        "EXPIRED_TOKEN",
        "INVALID_API_KEY",
        "INVALID_SIGNATURE",
        "MISSING_AUTHENTICATION_TOKEN",
        "QUOTA_EXCEEDED",
        "REQUEST_TOO_LARGE",
        "RESOURCE_NOT_FOUND",
        "THROTTLED",
        "UNAUTHORIZED",
        "UNSUPPORTED_MEDIA_TYPE",
        "WAF_FILTERED",
    }
)
UNITS: Final = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "ms": 1,
    "s": 1_000,
    "min": 60_000,
    "h": 3_600_000,
}
BASE_VALUES: Final = {
    "response.bytes": "responseLength",
    "integration.ms": "integrationLatency",
    "response.ms": "responseLatency",
}
AXES: Final = {
    "response:Status": "status",
    "response:StatusClass": "status",
    "response:Bytes": "responseLength",
    "integration:LatencyMs": "integrationLatency",
    "request:Time": "requestTimeEpoch",
}
"""Which member of a line each key reads: a Status implies its StatusClass, so both are one axis."""

COMPARED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "StringEquals": lambda got, value: got == value,
    "NumericEquals": lambda got, value: got == value,
    "NumericLessThan": lambda got, value: got < value,
    "NumericLessThanEquals": lambda got, value: got <= value,
    "NumericGreaterThan": lambda got, value: got > value,
    "NumericGreaterThanEquals": lambda got, value: got >= value,
    "DateGreaterThanEquals": lambda got, value: got >= value,
    "DateLessThan": lambda got, value: got < value,
}


class Declared(NamedTuple):
    """A route as the API declares it; ``method`` may be ANY."""

    method: str
    path: str
    is_preflight: bool = False


class Judgement(NamedTuple):
    """What a line comes to for one dimension, or (dimension empty) as a whole; exact, in the dimension's unit."""

    dimension: str
    state: str
    policy: str = ""
    sid: str = ""
    quantity: Fraction = Fraction(0)


class Matched(NamedTuple):
    """A statement on a route: how specific its best pattern is, and whether it names the method."""

    statement: Statement
    specificity: tuple[int, ...]
    names_method: bool

    @property
    def rank(self) -> tuple[tuple[int, ...], bool, int]:
        return self.specificity, self.names_method, len(self.statement.keys)


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def exact(number: Any) -> Fraction:
    """The number that the document's text shows; a binary float is only how Python holds that text."""
    return Fraction(str(number))


def epoch_ms(text: str) -> Fraction:
    return Fraction(int(datetime.fromisoformat(text).timestamp()) * 1_000)


def segments(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


REST, END, ONE, VARIABLE, LITERAL = range(5)


def kind(part: str) -> int:
    if part in {"*", "**"}:
        return ONE if part == "*" else REST
    return VARIABLE if part.startswith("{") else LITERAL


def fits(part: str, got: str) -> bool:
    """Whether one part of a pattern, not ``**``, fits one part of a route's template."""
    if part.endswith("+}") or got.endswith("+}"):
        return part.endswith("+}") and got.endswith("+}")
    return part == "*" or (kind(part) == kind(got) == VARIABLE) or part == got


def specificity(pattern: str, path: str) -> tuple[int, ...] | None:
    """Segment by segment, larger is more specific; None where the pattern does not match the route's template."""
    parts, given = segments(pattern), segments(path)
    is_open = parts[-1:] == ["**"]
    fixed = parts[:-1] if is_open else parts
    if len(given) < len(fixed) or (len(given) > len(fixed) and not is_open):
        return None
    if not all(map(fits, fixed, given)):
        return None
    return (*map(kind, fixed), REST if is_open else END)


class Statement:
    """One statement under one plan."""

    def __init__(self, document: Document, policy: Document, plan: Document, stage: str) -> None:
        self.document = document
        self.effect: str = document["Effect"]
        self.sid: str = document["Sid"]
        self.policy = f"{policy['Id']}@{policy['PolicyVersion']}"
        self.bills_server_errors: bool = policy.get("BillServerErrors", False)
        self.actions = several(document.get("Action", ()))
        self.resources = several(document.get("Resource", ()))
        self.dimensions = several(document.get("Dimension", ()))
        self.quantity: Document = document.get("Quantity", {})
        condition = document.get("Condition", {})
        clauses = [
            (operator, key, several(value)) for operator, members in condition.items() for key, value in members.items()
        ]
        self.keys = {key for _, key, _ in clauses}
        known = {"plan:Segment": plan["Segment"], "plan:Id": plan["Id"], "api:Stage": stage}
        self.is_in_force = all(known[key] in values for _, key, values in clauses if key in known)
        self.clauses = [
            (AXES[key], key, COMPARED[operator], [self._constant(key, value) for value in values])
            for operator, key, values in clauses
            if key not in known
        ]
        weight = self.quantity.get("Multiply", 1)
        if isinstance(weight, str):
            name = weight.removeprefix("${param.").removesuffix("}")
            given = plan.get("Parameters", {}).get(policy["Id"], {})
            weight = given.get(name, policy["Parameters"][name]["Default"])
        self.weight = exact(weight)

    @staticmethod
    def _constant(key: str, value: Any) -> Fraction:
        return epoch_ms(value) if key == "request:Time" else exact(value)

    @cached_property
    def axes(self) -> set[str]:
        return {axis for axis, *_ in self.clauses} | {"status"}

    def constants(self, axis: str) -> set[Fraction]:
        return {
            value * (100 if key == "response:StatusClass" else 1)
            for on, key, _, values in self.clauses
            for value in values
            if on == axis
        }

    def holds_on(self, axis: str, value: int) -> bool:
        """Whether nothing that the condition says about one member of a line is against this value."""
        for on, key, compared, constants in self.clauses:
            got = value // 100 if key == "response:StatusClass" else value
            if on == axis and not any(compared(got, constant) for constant in constants):
                return False
        if axis == "status" and self.effect == "Meter":
            if not self.keys & {"response:Status", "response:StatusClass"} and value // 100 != 2:
                return False
            if (value // 100 == 5 or value == 429) and not self.bills_server_errors:
                return False
        return True

    def holds(self, numbers: Mapping[str, int]) -> bool:
        return all(self.holds_on(axis, numbers[axis]) for axis in self.axes)

    def on(self, method: str, path: str) -> Matched | None:
        if not self.is_in_force or not {method, "*"} & set(self.actions):
            return None
        shapes = [shape for pattern in self.resources if (shape := specificity(pattern, path)) is not None]
        return Matched(self, max(shapes), method in self.actions) if shapes else None

    def counted(self, numbers: Mapping[str, int]) -> Fraction:
        metric = self.quantity["Metric"]
        value = 1 if metric == "requests" else numbers[BASE_VALUES[metric]]
        step = self.quantity.get("RoundUpPerRequest", 1)
        rounded = -(-value // step) * step
        unit: int = UNITS.get(self.quantity.get("Unit", ""), 1)
        return Fraction(rounded) * self.weight / unit


class Evaluator:
    """One plan of some documents on one API.

    Args:
        documents: Products, policies and plans, as their JSON reads.
        plan: ``id@version``.
        routes: As declared.
        stage: The API's.
    """

    def __init__(
        self, documents: Iterable[Document], plan: str, routes: Iterable[Declared], *, stage: str = "prod"
    ) -> None:
        by_kind: dict[str, list[Document]] = defaultdict(list)
        for document in documents:
            by_kind[document["Kind"]].append(document)
        self.plan = next(p for p in by_kind["Plan"] if f"{p['Id']}@{p['PlanVersion']}" == plan)
        guardrails = by_kind["Product"][0]["Segments"][self.plan["Segment"]].get("Guardrails", [])
        policies = {f"{p['Id']}@{p['PolicyVersion']}": p for p in by_kind["Policy"]}
        self.statements = [
            Statement(statement, policies[reference], self.plan, stage)
            for reference in {*self.plan["Policies"], *guardrails}
            for statement in policies[reference]["Statement"]
        ]
        declared = list(routes)
        self.routes: dict[tuple[str, str], Declared] = {}
        for route in sorted(declared, key=lambda route: route.method != "ANY"):
            for method in ALL_METHODS if route.method == "ANY" else (route.method,):
                self.routes[method, route.path] = route
        self._on = {route: self._matching(*route) for route in self.routes}

    def _matching(self, method: str, path: str) -> list[Matched]:
        matched = [statement.on(method, path) for statement in self.statements]
        return [one for one in matched if one]

    def is_allowed(self, method: str, path: str) -> bool:
        effects = {matched.statement.effect for matched in self._on[method, path]}
        return self.routes[method, path].is_preflight or ("Allow" in effects and "Deny" not in effects)

    def throttle(self, method: str, path: str) -> tuple[Fraction, Fraction] | None:
        """The smallest rate and the smallest burst that hold on a route, the plan's own included."""
        limits = [m.statement.document["Throttle"] for m in self._on[method, path] if m.statement.effect == "Limit"]
        limits += [self.plan["Throttle"]] if "Throttle" in self.plan else []
        if not limits:
            return None
        return min(exact(one["RateLimit"]) for one in limits), min(exact(one["BurstLimit"]) for one in limits)

    def judge(self, line: Mapping[str, str]) -> list[Judgement]:
        """What one line comes to that was not seen before; nothing where it belongs to another plan."""
        if line["plan"].split("@")[0] != self.plan["Id"]:
            return []
        if line["errorResponseType"] in NEVER_REACHED_THE_INTEGRATION:
            return [Judgement("", "refused")]
        if line["agreement"] == "-":
            return [Judgement("", "unattributed")]
        route = line["httpMethod"], line["resourcePath"]
        if route not in self.routes:
            return [Judgement("", "unmatched")]
        if not self.is_allowed(*route):
            return [Judgement("", "refused")]
        numbers = {name: 0 if line[name] == "-" else int(line[name]) for name in AXES.values()}
        numbers["responseLatency"] = 0 if line["responseLatency"] == "-" else int(line["responseLatency"])
        by_dimension = self._meters(*route)
        return [self._of_dimension(route, *one, numbers) for one in sorted(by_dimension.items())] or [
            Judgement("", "unmetered")
        ]

    def judge_all(self, lines: Iterable[Mapping[str, str]]) -> dict[str, list[Judgement]]:
        """By ``extendedRequestId``: what was seen before does not count again."""
        judged: dict[str, list[Judgement]] = {}
        for line in lines:
            if line["extendedRequestId"] not in judged:
                judged[line["extendedRequestId"]] = self.judge(line)
        return judged

    def _meters(self, method: str, path: str) -> dict[str, list[Matched]]:
        meters: dict[str, list[Matched]] = defaultdict(list)
        if not self.routes[method, path].is_preflight:
            for matched in self._on[method, path]:
                if matched.statement.effect == "Meter":
                    meters[matched.statement.dimensions[0]].append(matched)
        return meters

    def _of_dimension(
        self, route: tuple[str, str], dimension: str, meters: Sequence[Matched], numbers: Mapping[str, int]
    ) -> Judgement:
        exempting = [
            matched
            for matched in self._on[route]
            if matched.statement.effect == "Exempt"
            and {dimension, "*"} & set(matched.statement.dimensions)
            and matched.statement.holds(numbers)
        ]
        if exempting:
            most = max(matched.specificity for matched in exempting)
            best = min(
                (matched.statement.sid, matched.statement.policy)
                for matched in exempting
                if matched.specificity == most
            )
            return Judgement(dimension, "exempt", best[1], best[0])
        holding = [matched for matched in meters if matched.statement.holds(numbers)]
        if not holding:
            return Judgement(dimension, "failed")
        largest = max(matched.rank for matched in holding)
        winners = [matched.statement for matched in holding if matched.rank == largest]
        if len(winners) > 1:
            raise AmbiguousError(route, winners, numbers)
        (winner,) = winners
        return Judgement(dimension, "billable", winner.policy, winner.sid, winner.counted(numbers))

    def tie(self) -> tuple[str, ...] | None:
        """Two Meters between which order would decide, and a line on which it would; None where there are none."""
        for route in self.routes:
            for dimension, meters in self._meters(*route).items():
                for one, other in combinations(meters, 2):
                    if one.rank == other.rank and (line := witness(one.statement, other.statement)):
                        return (*map(str, route), dimension, one.statement.sid, other.statement.sid, str(line))
        events = [event[:2] for event in self.events()]
        return next((event for event in events if events.count(event) > 1), None)

    def events(self) -> list[tuple[str, str, str, str, Fraction]]:
        """Event, dimension, policy, Sid and weight of each Meter of an event."""
        return sorted(
            (
                statement.quantity["Metric"].removeprefix("event:"),
                statement.dimensions[0],
                statement.policy,
                statement.sid,
                statement.weight,
            )
            for statement in self.statements
            if statement.effect == "Meter" and not statement.resources
        )


class AmbiguousError(AssertionError):
    """Two Meters of one rank hold on one line, which no accepted plan lets happen."""

    def __init__(self, route: tuple[str, str], winners: Sequence[Statement], numbers: Mapping[str, int]) -> None:
        super().__init__(route, [(winner.policy, winner.sid) for winner in winners], dict(numbers))


def witness(one: Statement, other: Statement) -> dict[str, int] | None:
    """A line on which both hold.

    Conditions only compare with constants, so between two neighbouring constants any value stands for all others;
    and since each clause reads one member of the line, the members are searched one by one.
    """
    line = {}
    for axis in sorted(one.axes | other.axes):
        edges = one.constants(axis) | other.constants(axis) | {Fraction(0)}
        if axis == "status":
            edges |= {Fraction(edge) for edge in (*range(100, 700, 100), 429)}
        values = {
            number + step
            for edge in edges
            for number in (floor(edge), ceil(edge))
            for step in (-1, 0, 1, 99, 100)
            if number + step >= 0
        }
        found = next(
            (value for value in sorted(values) if one.holds_on(axis, value) and other.holds_on(axis, value)), None
        )
        if found is None:
            return None
        line[axis] = found
    return line


def can_order_matter(
    documents: Iterable[Document], plan: str, routes: Iterable[Declared], *, stage: str = "prod"
) -> bool:
    return Evaluator(documents, plan, routes, stage=stage).tie() is not None


def floored(quantity: Fraction) -> Fraction:
    """As a report shows it: cut off at nine decimals, never rounded up."""
    return Fraction(floor(quantity * 10**9), 10**9)
