"""Rules of statements that meet on routes: which wins, which never does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Final

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.policy.conditions import Region, intersection, is_empty
from marketplace_constructs.policy.documents import Access, Exempt, Meter
from marketplace_constructs.policy.evaluation import MAX_PIECES, Attached, Match
from marketplace_constructs.policy.patterns import Pattern, Route, RouteTree
from marketplace_constructs.policy.rules.base import (
    CheckedBy,
    Context,
    Found,
    PlanView,
    Rule,
    in_statement,
    routes_text,
)
from marketplace_constructs.policy.source import Path

_MAX_TIES: Final = 100
"""Shown of one plan; a hostile pool has millions."""


def _ties(context: Context) -> Iterator[Found]:
    known: set[frozenset[tuple[str, Path]]] = set()
    for view in context.plans:
        shown = 0
        ties = () if view.expansion is None else view.expansion.ties
        for tie in ties:
            pair = frozenset({(tie.one.document, tie.one.path), (tie.other.document, tie.other.path)})
            if pair in known:
                continue
            if shown == _MAX_TIES:
                details = f"ties on plan {view.plan.id!r}, got more than {_MAX_TIES}; expected none"
                yield Found(document=view.document, path=("Policies",), details=details)
                break
            known.add(pair)
            shown += 1
            where = f"on {tie.route}" if tie.route else "for one event"
            other = tie.other.statement.sid
            if tie.other.policy != tie.one.policy:
                other = f"{tie.other.policy}/{other}"
            also = (tie.other.path,) if tie.other.document == tie.one.document else ()
            details = (
                f"Meter, got the same rank as {other!r} for {tie.dimension!r} {where}, with conditions that can both "
                "hold; expected one of them to be more specific, or conditions that exclude each other"
            )
            sid = tie.one.statement.sid
            yield Found(document=tie.one.document, path=tie.one.path, details=details, sid=sid, also=also)


def _too_intertwined(context: Context) -> Iterator[Found]:
    for view in context.plans:
        error = view.too_intertwined
        if error is not None:
            details = (
                f"conditions for {error.dimension!r} on {error.route}, got more combinations or comparisons than "
                f"can be worked out ({MAX_PIECES:,}); expected fewer statements or values that meet on one route"
            )
            yield Found(document=view.document, path=("Policies",), details=details)


def _states(context: Context) -> Iterator[tuple[Attached, bool, list[tuple[PlanView, Attached, list[Route]]]]]:
    """Each Meter of calls that matches a route: whether it bills anywhere, and where it matches allowed routes."""
    meters: dict[tuple[str, Path], tuple[Attached, bool, list[tuple[PlanView, Attached, list[Route]]]]] = {}
    for view in context.plans:
        allowed = view.expansion.table.allowed if view.expansion else frozenset()
        on: dict[Attached, list[Route]] = {}
        for matches, routes in view.shapes:
            sold = [route for route in routes if (route.method, route.path) in allowed]
            for match in matches:
                if sold and isinstance(match.attached.statement, Meter):
                    on.setdefault(match.attached, []).extend(sold)
        for one, sold in on.items():
            _, wins, views = meters.setdefault((one.document, one.path), (one, False, []))
            views.append((view, one, sold))
            wins = wins or (one.policy, one.statement.sid) in view.billable
            meters[one.document, one.path] = (one, wins, views)
    yield from meters.values()


def _shadowed(context: Context) -> Iterator[Found]:
    tied = {
        (one.document, one.path)
        for view in context.plans
        if view.expansion
        for tie in view.expansion.ties
        for one in (tie.one, tie.other)
    }
    for one, wins, views in _states(context):
        if wins or (one.document, one.path) in tied:
            continue
        if not any(_exempting(view, meter, routes) for view, meter, routes in views):
            where = routes_text(route for _, _, routes in views for route in routes)
            yield in_statement(one, f"Meter, got others that win wherever it matches ({where}); expected it to win")


def _exempting(view: PlanView, meter: Attached, routes: Iterable[Route]) -> list[Attached]:
    """The Exempts that take lines of a Meter, on routes where they do."""
    assert isinstance(meter.statement, Meter)
    dimension = meter.statement.dimension
    keys = ((dimension, route.method, route.path) for route in routes)
    names = {name for key in keys for name in view.exempting.get(key, ())}
    return [view.named[name] for name in sorted(names)]


def _exempt_beats(context: Context) -> Iterator[Found]:
    said: dict[tuple[str, Path], tuple[Attached, dict[str, None], dict[Route, None]]] = {}
    for view in context.plans:
        allowed = view.expansion.table.allowed if view.expansion else frozenset()
        for matches, routes in view.shapes:
            sold = [route for route in routes if (route.method, route.path) in allowed]
            for exempt, meter in _beaten(matches) if sold else ():
                one = exempt.attached
                _, meters, on = said.setdefault((one.document, one.path), (one, {}, {}))
                meters[meter.attached.statement.sid] = None
                on.update(dict.fromkeys(sold))
    for one, meters, on in said.values():
        yield in_statement(
            one,
            f"Exempt, got it before the more specific {_some(meters)} on {routes_text(on)}; "
            "expected an Exempt as specific as what it frees",
        )
    covering: dict[tuple[str, Path], tuple[Attached, dict[str, None]]] = {}
    for meter_, wins, views in _states(context):
        for one in () if wins else {e: None for view, m, routes in views for e in _exempting(view, m, routes)}:
            if (one.document, one.path) not in said:
                covering.setdefault((one.document, one.path), (one, {}))[1][meter_.statement.sid] = None
    for one, meters in covering.values():
        yield in_statement(one, f"Exempt, got all that {_some(meters)} would count; expected it to leave something")


def _beaten(matches: Sequence[Match]) -> Iterator[tuple[Match, Match]]:
    """Each Exempt with the more specific Meters whose lines it takes, three at most."""
    meters = [match for match in matches if isinstance(match.attached.statement, Meter)]
    for exempt in matches:
        if isinstance(exempt.attached.statement, Exempt):
            specific = takewhile(lambda meter, exempt=exempt: meter.rank[0] > exempt.rank[0], meters)  # type: ignore[misc]
            beaten = (m for m in specific if _names(exempt, m) and _meet(exempt.region, m.region))
            for meter in islice(beaten, 3):
                yield exempt, meter


def _some(names: Iterable[str]) -> str:
    several = list(names)
    return ", ".join(several[:3]) + (f" and {len(several) - 3:,} more" if len(several) > 3 else "")


def _names(exempt: Match, meter: Match) -> bool:
    names, statement = exempt.attached.statement, meter.attached.statement
    return (
        isinstance(names, Exempt)
        and isinstance(statement, Meter)
        and ("*" in names.dimension or statement.dimension in names.dimension)
    )


def _meet(one: Region, other: Region) -> bool:
    return not is_empty(intersection(one, other))


def _loses(context: Context) -> Iterator[Found]:
    said: dict[tuple[str, Path, str], tuple[Attached, str, Attached, dict[Route, None]]] = {}
    for view in context.plans:
        allowed = view.expansion.table.allowed if view.expansion else frozenset()
        for matches, routes in view.shapes:
            sold = [route for route in routes if (route.method, route.path) in allowed]
            first: dict[str, Match] = {}
            for match in matches if sold else ():
                statement = match.attached.statement
                if not isinstance(statement, Meter):
                    continue
                winner = first.setdefault(statement.dimension, match)
                why = _expectation(match, winner)
                if why is None or (match.attached.policy, statement.sid) not in view.billable:
                    continue
                one = match.attached
                key = (one.document, one.path, winner.attached.statement.sid)
                said.setdefault(key, (one, why, winner.attached, {}))[3].update(dict.fromkeys(sold))
    for one, why, winning, on in said.values():
        yield in_statement(
            one,
            f"Meter, got {why}, and loses to {winning.statement.sid} on {routes_text(on)}; "
            "expected a pattern that is as specific, if it is to hold there",
        )


def _expectation(match: Match, winner: Match) -> str | None:
    """Why an author may expect a Meter to win over one with a more specific pattern."""
    if match is winner or match.rank[0] >= winner.rank[0] or not _meet(match.region, winner.region):
        return None
    if match.rank[1] and not winner.rank[1]:
        return "its method named"
    if match.rank[2] > winner.rank[2]:
        return "more conditions"
    if match.attached.multiply < 1 and match.attached.multiply < winner.attached.multiply:
        return f"the discount {match.attached.multiply}"
    return None


def _same_requests(context: Context) -> Iterator[Found]:
    said: dict[frozenset[tuple[str, Path]], tuple[Attached, Attached, dict[Route, None]]] = {}
    for view in context.plans:
        counting: dict[tuple[str, str], dict[Attached, None]] = {}
        for one, meter, route in view.billed_routes():
            if meter.quantity.metric == "requests":
                counting.setdefault((route.method, route.path), {})[one] = None
        for key, several in counting.items():
            by_dimension: dict[str, Attached] = {}
            for one in several:
                assert isinstance(one.statement, Meter)
                by_dimension.setdefault(one.statement.dimension, one)
            first, *others = by_dimension.values()
            for other in others:
                pair = frozenset({(first.document, first.path), (other.document, other.path)})
                said.setdefault(pair, (first, other, {}))[2][view.routes[key]] = None
    for first, other, on in said.values():
        also = (first.path,) if first.document == other.document else ()
        details = (
            f"Meter, got requests that {first.statement.sid} counts for another dimension on {routes_text(on)}; "
            "expected one of both"
        )
        yield Found(document=other.document, path=other.path, details=details, sid=other.statement.sid, also=also)


def _no_route(context: Context) -> Iterator[Found]:
    assert context.routes is not None
    routes = {route for view in context.plans if view.expansion for route in view.expansion.routes}
    if not routes:
        return
    tree = RouteTree(route.path for route in routes)
    methods: dict[str, set[str]] = {}
    for route in routes:
        methods.setdefault(route.path, set()).add(route.method)
    known: dict[Pattern, frozenset[str]] = {}
    active = {(one.document, one.path): one for view in context.plans for one in view.attached if one.is_active}
    for one in active.values():
        statement = one.statement
        for index, pattern in enumerate(statement.resource or ()):
            if pattern not in known:
                known[pattern] = frozenset(m for path in tree.matches(pattern) for m in methods[path])
            if not known[pattern] or not ("*" in statement.action or known[pattern] & set(statement.action)):  # type: ignore[operator,arg-type]
                several = len(statement.resource or ()) > 1
                details = f"Resource, got {str(pattern)!r}, which matches no route; expected one that the API has"
                yield in_statement(one, details, "Resource", *([index] if several else []))


def _refused(context: Context) -> Iterator[Found]:
    """Meters on routes that no plan which attaches them allows, though no Deny speaks of it, or on no other."""
    meters: dict[tuple[str, Path], Attached] = {}
    opened: dict[tuple[str, Path], set[Route]] = {}
    shut: dict[tuple[str, Path], set[Route]] = {}
    denied: dict[tuple[str, Path], set[Route]] = {}
    for view in context.plans:
        allowed = view.expansion.table.allowed if view.expansion else frozenset()
        for matches, routes in view.shapes:
            # Deploy keys and methods are the same for all routes of a shape, so all are allowed or none.
            is_open = (routes[0].method, routes[0].path) in allowed
            is_denied = any(isinstance(match.attached.statement, Access) for match in matches)
            kind = opened if is_open else denied if is_denied else shut
            for match in matches:
                one = match.attached
                if isinstance(one.statement, Meter):
                    meters[one.document, one.path] = one
                    kind.setdefault((one.document, one.path), set()).update(routes)
    for key, one in meters.items():
        never = (shut.get(key, set()) | denied.get(key, set())) - opened.get(key, set())
        forgotten = never if key not in opened else never & shut.get(key, set())
        if forgotten:
            details = f"Meter, got {routes_text(forgotten)}, which no plan allows; expected an Allow, or no Meter there"
            yield in_statement(one, details)


def _other_names(context: Context) -> Iterator[Found]:
    assert context.routes is not None
    tree = RouteTree(route.path for route in context.routes)
    known: dict[Pattern, str | None] = {}
    for entry in context.pool.policies.values():
        for index, statement in enumerate(entry.document.statement):
            for number, pattern in enumerate(statement.resource or ()):
                if pattern not in known:
                    known[pattern] = _renamed(pattern, tree)
                if known[pattern]:
                    several: tuple[int, ...] = (number,) if len(statement.resource or ()) > 1 else ()
                    path: Path = ("Statement", index, "Resource", *several)
                    details = f"Resource, got {str(pattern)!r}; expected the route's own names, {known[pattern]!r}"
                    yield Found(document=entry.source.document, path=path, details=details, sid=statement.sid)


def _renamed(pattern: Pattern, tree: RouteTree) -> str | None:
    """A route that a pattern matches, where none has the pattern's names."""
    if "{" not in pattern.text:
        return None
    candidates = [path.split("/")[1:] for path in tree.matches(pattern)]
    for path in candidates:
        if all(not own.startswith("{") or own == name for own, name in zip(pattern.segments, path, strict=False)):
            return None
    return "/" + "/".join(candidates[0]) if candidates else None


_SOLD = """
    - Sid: Sold
      Effect: Allow
      Action: "*"
      Resource: /v1/images/**
"""
_CALLS = """
    - Sid: Calls
      Effect: Meter
      Action: "*"
      Resource: /v1/images/**
      Dimension: calls
      Quantity: {Metric: requests}
"""


def _meter(sid: str, resource: str, quantity: str = "{Metric: requests}", **members: str) -> str:
    rest = "".join(f"      {name}: {value}".rstrip() + "\n" for name, value in members.items() if name != "Action")
    return f"""
    - Sid: {sid}
      Effect: Meter
      Action: {members.get("Action", '"*"')}
      Resource: {resource}
      Dimension: calls
      Quantity: {quantity}
{rest}"""


def _exempt(sid: str, resource: str) -> str:
    return f"""
    - Sid: {sid}
      Effect: Exempt
      Action: "*"
      Resource: {resource}
      Dimension: calls
"""


_INTERTWINED = "".join(
    f'        "{key}": [{", ".join(str(2 * value) for value in range(20))}]\n'
    for key in ("response:Status", "response:Bytes", "integration:LatencyMs")
)

RULES = (
    Rule(
        code="MON105",
        finding_type=FindingType.ERROR,
        title="Two Meters of one dimension tie",
        why="Nothing decides between two Meters of equal rank whose conditions can both hold, so the order in which "
        "documents are read would.",
        bad=_SOLD + _CALLS + _meter("AlsoCalls", "/v1/images/**", "{Metric: requests, Multiply: 2}"),
        good=_SOLD + _CALLS + _meter("Render", '"/v1/images/{id}/render"', "{Metric: requests, Multiply: 2}"),
        resolution="make one of them more specific, let their conditions exclude each other, or remove one",
        check=_ties,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON112",
        finding_type=FindingType.WARNING,
        title="A pattern matches no route",
        why="The statement does nothing there; often the route was renamed, and what it allowed or billed is lost.",
        bad=_SOLD + _meter("Render", '"/v1/images/{id}/rendr"'),
        good=_SOLD + _meter("Render", '"/v1/images/{id}/render"'),
        resolution="write the route as the API declares it, or remove the pattern",
        check=_no_route,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON141",
        finding_type=FindingType.ERROR,
        title="The conditions on a route are too intertwined",
        why="A plan is worked out into a table that the meter can join to the log. Conditions of many values on "
        "several keys would make that table larger than anybody could read, let alone check.",
        bad=_SOLD
        + _CALLS
        + _meter("Some", "/v1/images/**", Condition="")
        + f"""        NumericEquals:
{_INTERTWINED.replace("        ", "          ")}""",
        good=_SOLD
        + _CALLS
        + _meter("Misses", "/v1/images/**", Condition='{NumericEquals: {"response:Status": [404, 410]}}'),
        resolution="use ranges instead of lists of values, and fewer keys in one condition",
        check=_too_intertwined,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON201",
        finding_type=FindingType.REVENUE_WARNING,
        title="A shadowed Meter wins on no route",
        why="Its author believes that it bills something.",
        bad=_SOLD
        + _meter("Render", '"/v1/images/{id}/render"', Action="POST")
        + _meter("AnyRender", '"/v1/images/{id}/render"', "{Metric: requests, Multiply: 2}"),
        good=_SOLD + _meter("Render", '"/v1/images/{id}/render"', Action="POST") + _CALLS,
        resolution="make it more specific than what wins, or remove it",
        check=_shadowed,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON206",
        finding_type=FindingType.REVENUE_WARNING,
        title="An Exempt beats a more specific Meter, or covers all that one counts",
        why="Exempt always wins, however broad it is: one on a whole tree makes all of it free.",
        bad=_SOLD + _meter("Render", '"/v1/images/{id}/render"') + _exempt("Free", "/v1/images/**"),
        good=_SOLD + _CALLS + _exempt("RenderIsFree", '"/v1/images/{id}/render"'),
        resolution="name exactly the routes that are free",
        check=_exempt_beats,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON217",
        finding_type=FindingType.REVENUE_WARNING,
        title="Two dimensions count requests on one route",
        why="Dimensions are independent: one call is then billed twice, which is seldom meant.",
        bad="""
            Kind: Product
            Marketplace:
              Agreements: Concurrent
              PricingModel: Subscription
              Metering: Pipeline
              Dimensions:
                calls: {Category: Requests, Unit: Requests, Type: ExternallyMetered}
                renders: {Category: Requests, Unit: Requests, Type: ExternallyMetered}
            ---
"""
        + "".join(f"        {line}\n" for line in (_SOLD + _CALLS).splitlines())
        + """
            - Sid: Renders
              Effect: Meter
              Action: POST
              Resource: /v1/images/{id}/render
              Dimension: renders
              Quantity: {Metric: requests}
            """,
        good=_SOLD + _CALLS,
        resolution="count the route for one of them, and exempt it for the other",
        check=_same_requests,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON219",
        finding_type=FindingType.REVENUE_WARNING,
        title="A broad rule loses where its author may expect it to win",
        why="The pattern decides before the method and the conditions: a discount on a tree, or a method on it, does "
        "not reach routes that have a more specific Meter of their own.",
        bad=_SOLD
        + _meter("Discount", "/v1/images/**", "{Metric: requests, Multiply: 0.5}")
        + _meter("Render", '"/v1/images/{id}/render"', "{Metric: requests, Multiply: 5}"),
        good=_SOLD
        + _meter("Discount", '[/v1/images, "/v1/images/{id}"]', "{Metric: requests, Multiply: 0.5}")
        + _meter("Render", '"/v1/images/{id}/render"', "{Metric: requests, Multiply: 5}"),
        resolution="repeat it with the specific pattern, or name the routes for which it is meant",
        check=_loses,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON304",
        finding_type=FindingType.WARNING,
        title="Metered but refused",
        why="Nobody may call the route, so the Meter bills nothing there; often an Allow was forgotten.",
        bad="""
    - Sid: Sold
      Effect: Allow
      Action: GET
      Resource: /v1/images/**
"""
        + _CALLS,
        good=_SOLD + _CALLS,
        resolution="allow the route, or leave it out of the Meter",
        check=_refused,
        checked_by=CheckedBy.ROUTES,
    ),
    Rule(
        code="MON306",
        finding_type=FindingType.SUGGESTION,
        title="A variable has another name than in the route",
        why="Names of variables do not matter to a pattern, which is easily forgotten when they differ.",
        bad=_SOLD + _meter("Render", '"/v1/images/{image}/render"'),
        good=_SOLD + _meter("Render", '"/v1/images/{id}/render"'),
        resolution="write the route's own name",
        check=_other_names,
        checked_by=CheckedBy.ROUTES,
    ),
)
