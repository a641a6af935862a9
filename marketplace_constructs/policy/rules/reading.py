"""Rules of one document alone; most are found while it is read."""

from __future__ import annotations

from collections.abc import Iterator

from marketplace_constructs.domain.finding import FindingType
from marketplace_constructs.policy.documents import Meter
from marketplace_constructs.policy.rules.base import CheckedBy, Context, Found, Rule


def _guardrail_effects(context: Context) -> Iterator[Found]:
    guardrails = {name for segment in context.product.segments.values() for name in segment.guardrails}
    for name in sorted(guardrails & context.pool.policies.keys()):
        entry = context.pool.policies[name]
        for index, statement in enumerate(entry.document.statement):
            effect = "Meter" if isinstance(statement, Meter) else statement.effect
            if effect not in {"Deny", "Limit"}:
                yield Found(
                    document=entry.source.document,
                    path=("Statement", index, "Effect"),
                    details=f"Effect, got {effect} in a guardrail; expected Deny or Limit",
                    sid=statement.sid,
                )


def _undeclared_events(context: Context) -> Iterator[Found]:
    declared = context.product.events
    for entry in context.pool.policies.values():
        for index, statement in enumerate(entry.document.statement):
            event = statement.quantity.event if isinstance(statement, Meter) else None
            if event is not None and event not in declared:
                yield Found(
                    document=entry.source.document,
                    path=("Statement", index, "Quantity", "Metric"),
                    details=f"event, got {event!r}; expected one of the product's: {', '.join(declared) or 'none'}",
                    sid=statement.sid,
                )


def _no_tests(context: Context) -> Iterator[Found]:
    for entry in context.pool.policies.values():
        if not entry.document.tests:
            yield Found(
                document=entry.source.document,
                path=("Tests",),
                details="Tests, got none; expected a request and what it must come to",
            )


def _no_description(context: Context) -> Iterator[Found]:
    for entry in context.pool.entries():
        if not entry.document.description.strip():
            yield Found(
                document=entry.source.document,
                path=("Description",),
                details="Description, got none; expected a sentence for those who choose it",
            )


RULES = (
    Rule(
        code="MON101",
        finding_type=FindingType.ERROR,
        title="A document cannot be read",
        why="What one reader takes for a number and another for a word, or drops in silence, would be billed "
        "differently by each. So nothing is guessed: unknown members, members given twice, values of the wrong type, "
        "anchors and bare words such as on or 2026-10-01 are refused.",
        bad="""
            Kind: Plan
            Quota:
              Limit: lots
              Period: MONTH
            """,
        good="""
            Kind: Plan
            Quota:
              Limit: 500000
              Period: MONTH
            """,
        resolution="correct the member; sellable schema KIND gives editors what each document may hold",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON102",
        finding_type=FindingType.ERROR,
        title="Version is missing or unknown",
        why="The version of the language says what the words mean; with another one, they may mean something else.",
        bad="""
            Kind: Policy
            Version: "2012-10-17"
            """,
        good="""
            Kind: Policy
            Version: "2026-11-21"
            """,
        resolution='write Version: "2026-11-21"; a document\'s own version is PolicyVersion or PlanVersion',
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON103",
        finding_type=FindingType.ERROR,
        title="Sid is missing, or given twice",
        why="Each line of a bill names the statement that billed it, by policy, version and Sid.",
        bad="""
            - Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            """,
        resolution="give the statement a Sid of its own",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON104",
        finding_type=FindingType.ERROR,
        title="The effect does not allow the member, or the guardrail not the effect",
        why="Who may call, what counts and how fast are three questions; a statement answers one. A guardrail is put "
        "on every plan of a segment to hold it back: it may deny and limit, never open or bill.",
        bad="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            """,
        resolution="write a statement for each effect, and attach what is no Deny or Limit to plans",
        check=_guardrail_effects,
        checked_by=CheckedBy.DOCUMENTS,
    ),
    Rule(
        code="MON106",
        finding_type=FindingType.ERROR,
        title="Unknown metric, or an event that the product does not declare",
        why="What the access log does not carry cannot be counted, and an event that nobody declared never comes.",
        bad="""
            - Sid: Stored
              Effect: Meter
              Dimension: stored
              Quantity: {Metric: "event:image.stored"}
            """,
        good="""
            - Sid: Calls
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: calls
              Quantity: {Metric: requests}
            """,
        resolution="use requests, response.bytes, integration.ms or response.ms, or declare the event under Events of "
        "the product",
        check=_undeclared_events,
    ),
    Rule(
        code="MON107",
        finding_type=FindingType.ERROR,
        title="Unknown condition key or operator, or one that the effect does not allow",
        why="Headers, queries and path values are chosen by the caller, and Allow, Deny and Limit are decided before "
        "there is a response: a condition may only look at what the gateway itself observes in time.",
        bad="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
              Condition: {NumericEquals: {"response:Status": 200}}
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
              Condition: {StringEquals: {"api:Stage": prod}}
            """,
        resolution="use plan:Segment, plan:Id or api:Stage; in Meter and Exempt also request:Time, response:Status, "
        "response:StatusClass, response:Bytes and integration:LatencyMs",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON108",
        finding_type=FindingType.ERROR,
        title="Bad pattern",
        why="A pattern is compared with the route's template as the API declares it, never with a caller's path or an "
        "ARN, whose wildcards cross slashes.",
        bad="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/**/images
            """,
        good="""
            - Sid: Sold
              Effect: Allow
              Action: "*"
              Resource: /v1/images/**
            """,
        resolution="write the template, such as /v1/images/{id}; * stands for one segment, ** for the rest, at the end",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON125",
        finding_type=FindingType.ERROR,
        title="An event's Meter has Action, Resource or Condition",
        why="An event comes from the seller's backend, not from a call: no route and no response belongs to it.",
        bad="""
            - Sid: Stored
              Effect: Meter
              Action: "*"
              Resource: /v1/images/**
              Dimension: stored
              Quantity: {Metric: "event:image.stored"}
            """,
        good="""
            Kind: Product
            Events:
              image.stored: {Unit: GB-hours}
            Marketplace:
              Agreements: Concurrent
              PricingModel: Subscription
              Metering: Pipeline
              Dimensions:
                calls: {Category: Requests, Unit: Requests, Type: ExternallyMetered}
                egress_gb: {Category: Data, Unit: GB, Type: ExternallyMetered}
                stored: {Category: Units, Unit: Units, Type: ExternallyMetered}
            ---
            - Sid: Stored
              Effect: Meter
              Dimension: stored
              Quantity: {Metric: "event:image.stored"}
            """,
        resolution="remove Action, Resource and Condition, or count a metric of calls",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON127",
        finding_type=FindingType.ERROR,
        title="Allocation tag not allowed, or more than five",
        why="AWS refuses a record with more than five allocation tags, or with braces in one. No member of this "
        "language version holds a tag, so that no document can break this; the code is kept for it.",
        bad="",
        good="",
        resolution="write :id for {id}, and at most five tags",
        check=None,
        checked_by=CheckedBy.NOBODY,
    ),
    Rule(
        code="MON137",
        finding_type=FindingType.ERROR,
        title="Quota period other than DAY, WEEK or MONTH",
        why="API Gateway knows no other.",
        bad="""
            Kind: Plan
            Quota: {Limit: 500000, Period: YEAR}
            """,
        good="""
            Kind: Plan
            Quota: {Limit: 500000, Period: MONTH}
            """,
        resolution="write DAY, WEEK or MONTH",
        check=None,
        checked_by=CheckedBy.READER,
    ),
    Rule(
        code="MON307",
        finding_type=FindingType.SUGGESTION,
        title="A policy has no Tests",
        why="A test says what a call must come to, so that whoever changes the policy sees what else changes.",
        bad="""
            Kind: Policy
            Tests: []
            """,
        good="""
            Kind: Policy
            Tests:
              - Request: {Method: GET, Resource: "/v1/images/{id}"}
                Expect: {Access: Allowed, Quantities: {calls: 1}}
            """,
        resolution="add a request and what it must come to; sellable simulate shows it",
        check=_no_tests,
    ),
    Rule(
        code="MON308",
        finding_type=FindingType.SUGGESTION,
        title="A policy or plan has no Description",
        why="Policies are taken from a pool by people who did not write them.",
        bad="""
            Kind: Plan
            Description: ""
            """,
        good="""
            Kind: Plan
            Description: By the call, for everybody.
            """,
        resolution="say in a sentence what it does and for whom",
        check=_no_description,
    ),
)
