"""Rules of what documents say of each other: versions, segments, parameters, assignments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import pairwise

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.domain.product import DimensionType
from marketplace_constructs.policy.documents import (
    AssignTo,
    Meter,
    Plan,
    Policy,
    multiply_problem,
)
from marketplace_constructs.policy.pool import Entry, content_digest, publication_name
from marketplace_constructs.policy.rules.base import Context, Found, Rule, in_bounds
from marketplace_constructs.policy.source import Path


def _parameters(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        yield from _own_parameters(entry)
    for plan in context.pool.plans.values():
        yield from _plan_parameters(context, plan)


def _own_parameters(entry: Entry[Policy]) -> Iterator[Found]:
    policy, document = entry.document, entry.source.document
    used = set()
    for index, statement in enumerate(policy.statement):
        name = statement.quantity.multiply if isinstance(statement, Meter) else None
        if not isinstance(name, str):
            continue
        used.add(name)
        if name not in policy.parameters:
            yield Found(
                document=document,
                path=("Statement", index, "Quantity", "Multiply"),
                details=f"parameter, got {name!r}; expected one of {', '.join(policy.parameters) or 'none'}",
                sid=statement.sid,
            )
    for name, parameter in policy.parameters.items():
        path = ("Parameters", name)
        if name not in used:
            yield Found(
                document=document, path=path, details=f"parameter {name!r}, which no statement uses; expected a use"
            )
        if not in_bounds(parameter, parameter.default):
            details = f"Default of {name!r}, got {parameter.default}; expected {_bounds(parameter)}"
            yield Found(document=document, path=(*path, "Default"), details=details)


def _plan_parameters(context: Context, entry: Entry[Plan]) -> Iterator[Found]:
    plan, document = entry.document, entry.source.document
    attached = {
        context.pool.policies[reference].document.id: context.pool.policies[reference].document
        for reference in (*plan.policies, *context.pool.guardrails(plan))
        if reference in context.pool.policies
    }
    named = {reference.partition("@")[0] for reference in plan.policies}
    for policy_id, values in plan.parameters.items():
        policy = attached.get(policy_id)
        if policy is None:
            if policy_id not in named:
                details = f"policy, got {policy_id!r}; expected one that the plan attaches: {', '.join(sorted(named))}"
                yield Found(document=document, path=("Parameters", policy_id), details=details)
            continue
        for name, value in values.items():
            path: Path = ("Parameters", policy_id, name)
            parameter = policy.parameters.get(name)
            if parameter is None:
                details = f"parameter, got {name!r}; expected one of {', '.join(policy.parameters) or 'none'}"
                yield Found(document=document, path=path, details=details)
            elif not in_bounds(parameter, value):
                details = f"parameter {name!r}, got {value}; expected {_bounds(parameter)}"
                yield Found(document=document, path=path, details=details)


def _bounds(parameter: object) -> str:
    kind = "a whole number" if getattr(parameter, "type", "") == "Integer" else "a number"
    low, high = getattr(parameter, "min", None), getattr(parameter, "max", None)
    return (
        kind
        + (f" of at least {low}" if low is not None else "")
        + (f"{' and' if low is not None else ' of'} at most {high}" if high is not None else "")
    )


def resolved_weights(context: Context) -> Iterator[Found]:
    """Parameters whose value is no weight (part of MON126)."""
    for entry in context.pool.policies.values():
        weights = {
            statement.quantity.multiply
            for statement in entry.document.statement
            if isinstance(statement, Meter) and isinstance(statement.quantity.multiply, str)
        }
        for name, parameter in entry.document.parameters.items():
            if name in weights and (problem := multiply_problem(parameter.default)):
                path: Path = ("Parameters", name, "Default")
                details = f"Multiply through {name!r}, got {parameter.default}; expected {problem}"
                yield Found(document=entry.source.document, path=path, details=details)
        for plan, values in context.parameters(entry.document):
            for name, value in values.items():
                if name in weights and (problem := multiply_problem(value)):
                    details = f"Multiply through {name!r}, got {value}; expected {problem}"
                    path = ("Parameters", entry.document.id, name)
                    yield Found(document=plan.source.document, path=path, details=details)


def _effective_from(context: Context) -> Iterator[Found]:
    for entry in context.pool.plans.values():
        start = entry.document.effective_from
        if start is None:
            continue
        if start.minute or start.second:
            details = f"EffectiveFrom, got {start:%H:%M:%S}; expected a whole hour, UTC"
            yield Found(document=entry.source.document, path=("EffectiveFrom",), details=details)
        elif start < context.now and publication_name(entry.document) not in context.pool.published:
            details = f"EffectiveFrom, got {start:%Y-%m-%dT%H:%MZ}, which is past; expected a coming hour"
            yield Found(document=entry.source.document, path=("EffectiveFrom",), details=details)
    for lists in context.pool.price_lists.values():
        for listed in lists:
            start = listed.document.effective_from
            if start.minute or start.second:
                details = f"EffectiveFrom, got {start:%H:%M:%S}; expected a whole hour, UTC"
                yield Found(document=listed.source.document, path=("EffectiveFrom",), details=details)


def _versions(context: Context) -> Iterator[Found]:
    pool = context.pool
    for entry in pool.entries():
        recorded = pool.published.get(publication_name(entry.document))
        if recorded is not None and recorded != content_digest(entry.source):
            what = "PolicyVersion" if isinstance(entry.document, Policy) else "PlanVersion"
            details = f"{entry.document.reference}, which is published, says something else now; expected a new version"
            yield Found(document=entry.source.document, path=(what,), details=details)
    yield from _pinned(context)


def _pinned(context: Context) -> Iterator[Found]:
    pool = context.pool
    if "policies" not in context.unreadable:
        for name, segment in context.product.segments.items():
            for index, reference in enumerate(segment.guardrails):
                path: Path = ("Segments", name, "Guardrails", index)
                yield from _absent(context.product_file, path, reference, pool.policies)
        for plan in pool.plans.values():
            for index, reference in enumerate(plan.document.policies):
                yield from _absent(plan.source.document, ("Policies", index), reference, pool.policies)
    if "plans" not in context.unreadable:
        for plan in pool.plans.values():
            if plan.document.trial is not None:
                yield from _absent(plan.source.document, ("Trial", "Then"), plan.document.trial.then, pool.plans)


def _absent(document: str, path: Path, reference: str, known: Iterable[str]) -> Iterator[Found]:
    if reference not in known:
        name = reference.partition("@")[0]
        others = ", ".join(sorted(other for other in known if other.partition("@")[0] == name)[:3]) or "another name"
        details = f"{reference}, which is not in the pool; expected a version that is: {others}"
        yield Found(document=document, path=path, details=details)


def _repeated_attachments(context: Context) -> Iterator[Found]:
    for entry in context.pool.plans.values():
        first: dict[str, str] = {}
        for index, reference in enumerate(entry.document.policies):
            name = reference.partition("@")[0]
            if name in first:
                details = f"policy {name!r}, got {first[name]} and {reference}; expected one version of it"
                yield Found(document=entry.source.document, path=("Policies", index), details=details)
            first.setdefault(name, reference)


def _unknown(context: Context) -> Iterator[Found]:
    product = context.product
    for entry in context.pool.plans.values():
        plan, document = entry.document, entry.source.document
        if plan.segment not in product.segments:
            details = f"segment, got {plan.segment!r}; expected one of {', '.join(product.segments)}"
            yield Found(document=document, path=("Segment",), details=details)
        if plan.product != product.id:
            yield Found(
                document=document, path=("Product",), details=f"product, got {plan.product!r}; expected {product.id!r}"
            )
        if "prices" in context.unreadable:
            continue
        for member, listed in (("PriceList", plan.price_list), ("ShadowPriceList", plan.shadow_price_list)):
            if listed is not None and listed not in context.pool.price_lists:
                known = ", ".join(sorted(context.pool.price_lists)) or "none"
                details = f"price list, got {listed!r}; expected one of {known}"
                yield Found(document=document, path=(member,), details=details)
    for name, entries in context.pool.price_lists.items():
        for one, other in pairwise(entries):
            if one.document.effective_from == other.document.effective_from:
                details = f"price list {name!r}, got two from the same hour; expected one: {one.source.document}"
                yield Found(document=other.source.document, path=("EffectiveFrom",), details=details)


def _assignments(context: Context) -> Iterator[Found]:
    by_channel: dict[tuple[str, str], list[Entry[Plan]]] = {}
    for entry in context.newest_plans:
        by_channel.setdefault((entry.document.product, entry.document.channel), []).append(entry)
    for (_, channel), entries in by_channel.items():
        defaults = [entry for entry in entries if entry.document.assign_to == "Default"]
        for entry in defaults[1:]:
            details = f"Default, got {defaults[0].document.id!r} and this plan for {channel}; expected exactly one"
            yield Found(document=entry.source.document, path=("AssignTo",), details=details)
        if not defaults and "plans" not in context.unreadable:
            details = f"Default, got no plan for {channel}; expected exactly one"
            yield Found(document=entries[0].source.document, path=("AssignTo",), details=details)
        taken: dict[tuple[str, str], Entry[Plan]] = {}
        for entry in entries:
            for kind, name, path in _assigned(entry.document.assign_to):
                other = taken.setdefault((kind, name), entry)
                if other is not entry:
                    # The finding names the plan and no account.
                    details = f"{kind}, got one that {other.document.id!r} has as well; expected it in one plan"
                    yield Found(document=entry.source.document, path=path, details=details)
    dimensions = context.product.marketplace.dimensions
    for plan in context.pool.plans.values():
        assign_to = plan.document.assign_to
        entitlement = assign_to.entitlement if isinstance(assign_to, AssignTo) else None
        if entitlement in dimensions and dimensions[entitlement].type is not DimensionType.ENTITLED:
            details = (
                f"Entitlement, got {entitlement!r}, which nobody can be entitled to; expected an Entitled dimension"
            )
            yield Found(document=plan.source.document, path=("AssignTo", "Entitlement"), details=details)


def _assigned(assign_to: object) -> Iterator[tuple[str, str, Path]]:
    if isinstance(assign_to, AssignTo):
        for index, offer in enumerate(assign_to.offers or ()):
            yield "offer", offer, ("AssignTo", "Offers", index)
        for index, account in enumerate(assign_to.accounts or ()):
            yield "account", account, ("AssignTo", "Accounts", index)
        if assign_to.entitlement is not None:
            yield "entitlement", assign_to.entitlement, ("AssignTo", "Entitlement")


def _idle(context: Context) -> Iterator[Found]:
    pool = context.pool
    sold = {entry.document.segment for entry in pool.plans.values()}
    for name in context.product.segments:
        if name not in sold:
            details = f"segment {name!r}, which no plan serves; expected a plan for it"
            yield Found(document=context.product_file, path=("Segments", name), details=details)
    attached: dict[str, int] = {}
    references = [name for entry in pool.plans.values() for name in entry.document.policies]
    references += [name for segment in context.product.segments.values() for name in segment.guardrails]
    for reference in references:
        name, _, version = reference.partition("@")
        attached[name] = max(attached.get(name, 0), int(version))
    for reference, policy in pool.policies.items():
        # An older version stays in the pool for those who look back.
        is_older = policy.document.policy_version < attached.get(policy.document.id, 0)
        if reference not in references and not is_older:
            details = f"policy {reference}, which no plan or segment attaches; expected it attached"
            yield Found(document=policy.source.document, path=("Id",), details=details)
    known: dict[str, Plan] = {}
    for entry in context.newest_plans:
        plan = entry.document
        content = repr({name: value for name, value in plan if name not in _NAMES})
        twin = known.setdefault(content, plan)
        if twin is not plan:
            details = f"plan {plan.id!r}, which is the same as {twin.id!r} but for its name; expected one of them"
            yield Found(document=entry.source.document, path=("Id",), details=details)


_NAMES = frozenset({"id", "plan_version", "description", "assign_to", "effective_from"})


def _defaults_only(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        policy = entry.document
        plans = list(context.parameters(policy))
        for name, parameter in policy.parameters.items():
            values: set[Decimal] = {values.get(name, parameter.default) for _, values in plans}
            if values == {parameter.default}:
                details = f"parameter {name!r}, got {parameter.default} in every plan; expected plans to differ"
                yield Found(document=entry.source.document, path=("Parameters", name), details=details)
        yield from _mergeable(entry)


def _mergeable(entry: Entry[Policy]) -> Iterator[Found]:
    known: dict[str, str] = {}
    for index, statement in enumerate(entry.document.statement):
        for member in ("action", "resource"):
            content = repr((member, type(statement), *(v for k, v in statement if k not in {"sid", member})))
            first = known.setdefault(content, statement.sid)
            if first != statement.sid and statement.action is not None:
                details = (
                    f"statement, which differs from {first!r} in its {member.capitalize()} alone; expected one of both"
                )
                path: Path = ("Statement", index)
                yield Found(document=entry.source.document, path=path, details=details, sid=statement.sid)
                break


RULES = (
    Rule(
        code="MON109",
        finding_type=FindingType.ERROR,
        title="Parameter undefined, out of its bounds, or never used",
        why="A plan turns a policy's knobs within what its author allowed; a knob that is not there would turn "
        "nothing, in silence.",
        bad="""
            Kind: Plan
            Parameters: {images: {Wieght: 2}}
            """,
        good="""
            Kind: Policy
            Parameters:
              Weight: {Type: Integer, Default: 1, Min: 1, Max: 5}
            Statement:
              - Sid: Calls
                Effect: Meter
                Action: "*"
                Resource: /v1/images/**
                Dimension: calls
                Quantity: {Metric: requests, Multiply: "${param.Weight}"}
            ---
            Kind: Plan
            Parameters: {images: {Weight: 2}}
            """,
        resolution="name a parameter that the attached policy declares and uses, with a value that it admits",
        check=_parameters,
    ),
    Rule(
        code="MON118",
        finding_type=FindingType.ERROR,
        title="EffectiveFrom is no whole hour in UTC, or past",
        why="Bills are closed by the hour: no table may begin within one, nor in one that is over.",
        bad="""
            Kind: Plan
            EffectiveFrom: "2030-01-01T00:30:00Z"
            """,
        good="""
            Kind: Plan
            EffectiveFrom: "2030-01-01T00:00:00Z"
            """,
        resolution="write the coming hour from which it is to hold, or leave EffectiveFrom out",
        check=_effective_from,
    ),
    Rule(
        code="MON119",
        finding_type=FindingType.ERROR,
        title="A published version was edited, or a pinned version is absent",
        why="Agreements are pinned to versions: a published one that changes would change bills that were agreed.",
        bad="""
            Kind: Plan
            Policies: [images@7]
            """,
        good="""
            Kind: Plan
            Policies: [images@1]
            """,
        resolution="restore the published text and write what is new as the next version; attach a version that is "
        "in the pool",
        check=_versions,
    ),
    Rule(
        code="MON120",
        finding_type=FindingType.ERROR,
        title="Unknown segment, product or price list",
        why="A plan for nobody, of nothing, or at no price.",
        bad="""
            Kind: Plan
            Segment: retial
            """,
        good="""
            Kind: Plan
            Segment: retail
            """,
        resolution="correct the name, or add the segment to the product or the price list to prices/; of price lists "
        "with one id, each has an hour of its own",
        check=_unknown,
    ),
    Rule(
        code="MON140",
        finding_type=FindingType.ERROR,
        title="No or several default plans, or overlapping AssignTo",
        why="Each agreement gets one plan. Where two claim it, or none, somebody is billed by accident.",
        bad="""
            Kind: Plan
            Id: other
            AssignTo: Default
            """,
        good="""
            Kind: Plan
            Id: other
            AssignTo: {Offers: [offer-example1]}
            """,
        resolution="leave Default to one plan of each channel, and each offer, account and entitlement to one plan",
        check=_assignments,
    ),
    Rule(
        code="MON143",
        finding_type=FindingType.ERROR,
        title="Two versions of one policy on one plan",
        why="Both would meter, and which of two statements with one Sid billed a line could not be told.",
        bad="""
            Kind: Policy
            PolicyVersion: 2
            ---
            Kind: Plan
            Policies: [images@1, images@2]
            """,
        good="""
            Kind: Policy
            PolicyVersion: 2
            ---
            Kind: Plan
            Policies: [images@2]
            """,
        resolution="attach one version",
        check=_repeated_attachments,
    ),
    Rule(
        code="MON302",
        finding_type=FindingType.WARNING,
        title="Segment without plan, policy attached nowhere, identical plans",
        why="What nobody uses is nobody's: it is changed without effect, and read as if it held.",
        bad="""
            Kind: Product
            Segments:
              retail: {}
              partner: {}
            """,
        good="""
            Kind: Product
            Segments:
              retail: {}
              partner: {}
            ---
            Kind: Plan
            Id: partner
            Segment: partner
            AssignTo: {Offers: [offer-example1]}
            """,
        resolution="attach it, or remove it",
        check=_idle,
    ),
    Rule(
        code="MON305",
        finding_type=FindingType.SUGGESTION,
        title="Parameter always at its default, or mergeable statements",
        why="A policy is easier to trust the less there is to read.",
        bad="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            - Sid: SoldToo
              Effect: Allow
              Action: "*"
              Resource: /v1/health
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: [/v1/images/**, /v1/health]
            """,
        resolution="write the value where it is used, or name both actions or resources in one statement",
        check=_defaults_only,
    ),
)
