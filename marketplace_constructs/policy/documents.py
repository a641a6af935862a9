"""The documents: Product, Policy, Plan and PriceList, as frozen objects.

What a document means is told in docs/monetization-policies.md. What can be seen to be wrong in one document alone is
found here, each fault with the code of the rule that it breaks; what needs two documents, or the API's routes, is
found by the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_pascal
from pydantic_core import ErrorDetails, PydanticCustomError

from marketplace_constructs.domain.product import AgreementKind, Category, DimensionType, Metering, PricingModel
from marketplace_constructs.domain.usage_plan import Period
from marketplace_constructs.policy.patterns import MAX_PATTERN_CHARACTERS, Pattern
from marketplace_constructs.policy.source import Fault, Path, Source

LANGUAGE_VERSION: Final = "2026-11-21"
MAX_STATEMENTS: Final = 2_000
"""Of one policy."""
MAX_MULTIPLY: Final = 10_000

UNITS: Final[Mapping[str, Mapping[str, int]]] = {
    "bytes": {
        **{name: 1000**power for power, name in enumerate(("KB", "MB", "GB", "TB"), 1)},
        **{name: 1024**power for power, name in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)},
    },
    "ms": {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000},
}
"""How many base units one unit has, by base unit."""

METRICS: Final[Mapping[str, str]] = {
    "requests": "",
    "response.bytes": "bytes",
    "integration.ms": "ms",
    "response.ms": "ms",
}
"""What a line of the access log can be counted by, and its base unit; besides, ``event:NAME``."""

DEPLOY_KEYS: Final = ("plan:Segment", "plan:Id", "api:Stage")
"""Known at deployment; allowed in every statement."""
STATUS_CLASSES: Final = ("2", "3", "4", "5")
_NAME: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
_EVENT: Final = re.compile(rf"event:{_NAME}")
_PARAMETER: Final = re.compile(rf"\$\{{param\.({_NAME})\}}")
_INSTANT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_DIMENSION: Final = r"[A-Za-z0-9_.-]{1,100}"


class Effect(StrEnum):
    """What a statement does."""

    ALLOW = "Allow"
    DENY = "Deny"
    METER = "Meter"
    EXEMPT = "Exempt"
    LIMIT = "Limit"


class Channel(StrEnum):
    """Where a plan is sold, and so whether its usage is sent to Marketplace or reported only."""

    MARKETPLACE = "Marketplace"
    DIRECT = "Direct"
    INTERNAL = "Internal"


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise PydanticCustomError("MON101", "{what}", {"what": f"number, got {_shown(value)}; expected a number"})
    return Decimal(value)


def _decimal_text(value: object) -> Decimal:
    try:
        number = (
            Decimal(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", value) else None
        )
    except InvalidOperation:  # pragma: no cover - the pattern admits decimals only
        number = None
    if number is None:
        what = f'price, got {_shown(value)}; expected a decimal number of 0 or more in quotes, such as "0.001"'
        raise PydanticCustomError("MON101", "{what}", {"what": what})
    return number


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        what = f"number, got {_shown(value)}; expected a whole number"
        raise PydanticCustomError("MON101", "{what}", {"what": what})
    return value


def _instant(value: object) -> datetime:
    try:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except ValueError:
        pass
    what = f'time, got {_shown(value)}; expected UTC in quotes, such as "2026-12-01T00:00:00Z"'
    raise PydanticCustomError("MON101", "{what}", {"what": what})


def _pattern(value: object) -> Pattern:
    if not isinstance(value, str):
        what = f"pattern, got {_shown(value)}; expected text such as '/v1/images/**'"
        raise PydanticCustomError("MON108", "{what}", {"what": what})
    try:
        return Pattern.parse(value)
    except ValueError as error:
        what = f"pattern {value[:80]!r}, got {error}"
        raise PydanticCustomError("MON108", "{what}", {"what": what}) from None


def _several(value: object) -> object:
    """One value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def _multiply(value: object) -> Decimal | str:
    if isinstance(value, str) and (match := _PARAMETER.fullmatch(value)):
        return match[1]
    number = value if isinstance(value, int | Decimal) and not isinstance(value, bool) else None
    problem = multiply_problem(None if number is None else Decimal(number))
    if number is None or problem:
        what = f"Multiply, got {_shown(value)}; expected {problem or _MULTIPLY}, or '${{param.NAME}}'"
        raise PydanticCustomError("MON126", "{what}", {"what": what})
    return Decimal(number)


_MULTIPLY: Final = f"a number above 0 and at most {MAX_MULTIPLY:,} with at most 4 decimals"


def multiply_problem(value: Decimal | None) -> str | None:
    """What is expected of a weight, where this is none; None where it is one."""
    if value is not None and 0 < value <= MAX_MULTIPLY and value == value.quantize(Decimal("0.0001")):
        return None
    return _MULTIPLY


def _shown(value: object) -> str:
    """A value as the document writes it, shortened."""
    if isinstance(value, dict | list):
        return "members" if isinstance(value, dict) else "a list"
    words = {"True": "true", "False": "false", "None": "null"}
    return repr(value[:80]) if isinstance(value, str) else words.get(str(value), str(value)[:80])


Name = Annotated[StrictStr, Field(pattern=f"^{_NAME}$")]
Reference = Annotated[StrictStr, Field(pattern=f"^{_NAME}@[1-9][0-9]{{0,8}}$")]
"""``id@version``."""
DimensionKey = Annotated[StrictStr, Field(pattern=f"^{_DIMENSION}$")]
EventName = Name
AccountId = Annotated[StrictStr, Field(pattern="^[0-9]{12}$")]
OfferId = Annotated[StrictStr, Field(pattern="^offer-[A-Za-z0-9]{1,64}$")]

_WHOLE: Final = BeforeValidator(_integer)
Positive = Annotated[int, Field(ge=1, le=2**31 - 1), _WHOLE]
Amount = Annotated[int, Field(ge=0), _WHOLE]
Number = Annotated[Decimal, BeforeValidator(_decimal), WithJsonSchema({"type": "number"})]
PositiveNumber = Annotated[Number, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Instant = Annotated[
    datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "pattern": f"^{_INSTANT.pattern}$"})
]
Price = Annotated[
    Decimal,
    BeforeValidator(_decimal_text),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,18})?$"}),
]
Resource = Annotated[
    Pattern,
    BeforeValidator(_pattern),
    WithJsonSchema({"type": "string", "pattern": "^/", "maxLength": MAX_PATTERN_CHARACTERS}),
]
Multiply = Annotated[
    Decimal | str,
    BeforeValidator(_multiply),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_MULTIPLY},
                {"type": "string", "pattern": f"^{_PARAMETER.pattern}$"},
            ]
        }
    ),
]


Method = Literal["*", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
_AtLeastOne = Field(min_length=1)
Methods = Annotated[
    tuple[Method, ...], _AtLeastOne, BeforeValidator(_several, json_schema_input_type=Method | tuple[Method, ...])
]
Resources = Annotated[
    tuple[Resource, ...], _AtLeastOne, BeforeValidator(_several, json_schema_input_type=Resource | tuple[Resource, ...])
]
Dimensions = Annotated[
    tuple[DimensionKey | Literal["*"], ...],
    _AtLeastOne,
    BeforeValidator(_several, json_schema_input_type=DimensionKey | Literal["*"] | tuple[DimensionKey, ...]),
]
Texts = Annotated[
    tuple[StrictStr, ...],
    _AtLeastOne,
    BeforeValidator(_several, json_schema_input_type=StrictStr | tuple[StrictStr, ...]),
]
Numbers = Annotated[
    tuple[Number, ...], _AtLeastOne, BeforeValidator(_several, json_schema_input_type=Number | tuple[Number, ...])
]
Instants = Annotated[
    tuple[Instant, ...], _AtLeastOne, BeforeValidator(_several, json_schema_input_type=Instant | tuple[Instant, ...])
]


class Member(BaseModel):
    """Everything in a document: frozen, unknown members refused but those that begin with ``x-``."""

    model_config = ConfigDict(
        alias_generator=to_pascal, arbitrary_types_allowed=True, extra="forbid", frozen=True, validate_default=False
    )

    @model_validator(mode="before")
    @classmethod
    def _without_extensions(cls, data: object) -> object:
        if isinstance(data, dict):
            return {name: value for name, value in data.items() if not str(name).startswith("x-")}
        return data


class Quantity(Member):
    """How much one line, or one event, counts: base value, rounded up, weighed, in a unit."""

    metric: StrictStr
    """What is counted: `requests`, `response.bytes`, `integration.ms`, `response.ms`, or `event:NAME`."""
    multiply: Multiply = Decimal(1)
    """The weight, above 0 to 10,000 with at most four decimals, or `"${param.NAME}"`."""
    round_up_per_request: Annotated[int, Field(ge=1, le=10**12), _WHOLE] | None = None
    """Each base value goes up to the next multiple of this many base units. Left out: as it is."""
    unit: StrictStr | None = None
    """The unit of the quantity: KB to TB, KiB to TiB; ms, s, min, h. Left out: the base unit."""

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS and not _EVENT.fullmatch(value):
            what = f"metric, got {value[:80]!r}; expected one of {', '.join(METRICS)}, event:NAME"
            raise PydanticCustomError("MON106", "{what}", {"what": what})
        return value

    @property
    def event(self) -> str | None:
        """The name of the event that it counts; None where it counts lines."""
        return self.metric.removeprefix("event:") if self.metric.startswith("event:") else None

    @property
    def base_units(self) -> int:
        """Base units of one unit; 1 where no unit is named or the unit does not fit, which a rule finds."""
        return UNITS.get(METRICS.get(self.metric, ""), {}).get(self.unit or "", 1)


class Limits(Member):
    """How fast calls may come, in API Gateway's words."""

    rate_limit: Annotated[PositiveNumber, Field(le=10_000_000)]
    """Calls per second that may go on and on, at most 10,000,000."""
    burst_limit: Positive
    """Calls that may come at once."""


class _Condition(Member):
    @model_validator(mode="after")
    def _says_something(self) -> Self:
        # An empty condition would hold everywhere, which its author may not have meant.
        given = [keys for _, keys in self if keys is not None]
        if not given or not all(given):
            what = "Condition, got no operator, or one without a key; expected at least one, or no Condition"
            raise PydanticCustomError("MON107", "{what}", {"what": what})
        return self


class DeployCondition(_Condition):
    """A condition of which only deployment decides."""

    string_equals: dict[Literal["plan:Segment", "plan:Id", "api:Stage"], Texts] | None = None
    """The key has one of these values."""


_NumericKey = Literal["response:Status", "response:Bytes", "integration:LatencyMs"]
_ByNumber = dict[_NumericKey, Numbers]
_ByTime = dict[Literal["request:Time"], Instants]


class LineCondition(_Condition):
    """A condition of a line of the access log; its keys and operators are ANDed, values of one key ORed."""

    string_equals: dict[Literal["plan:Segment", "plan:Id", "api:Stage", "response:StatusClass"], Texts] | None = None
    """The key has one of these values; a status class is `"2"` to `"5"`, in quotes."""
    numeric_equals: _ByNumber | None = None
    """The number is one of these."""
    numeric_less_than: _ByNumber | None = None
    """The number is less."""
    numeric_less_than_equals: _ByNumber | None = None
    """The number is less, or the same."""
    numeric_greater_than: _ByNumber | None = None
    """The number is greater."""
    numeric_greater_than_equals: _ByNumber | None = None
    """The number is greater, or the same."""
    date_greater_than_equals: _ByTime | None = None
    """The call came then or later."""
    date_less_than: _ByTime | None = None
    """The call came before then."""

    @model_validator(mode="after")
    def _classes(self) -> LineCondition:
        for value in (self.string_equals or {}).get("response:StatusClass", ()):
            if value not in STATUS_CLASSES:
                what = f'response:StatusClass, got {value[:20]!r}; expected one of "2", "3", "4", "5"'
                raise PydanticCustomError("MON107", "{what}", {"what": what})
        return self


Condition = DeployCondition | LineCondition


class _Statement(Member):
    sid: Name
    """The statement's name, unique in its policy; bills and reports show it."""


class _RouteStatement(_Statement):
    action: Methods
    """Methods, or `*` for all."""
    resource: Resources
    """Patterns of routes."""


class Access(_RouteStatement):
    """Allow and Deny: who may call what."""

    effect: Literal["Allow", "Deny"]
    """A Deny that matches beats every Allow."""
    condition: DeployCondition | None = None
    """Where it holds. Left out: under every plan and stage."""


class Meter(_Statement):
    """What counts: lines on routes, or an event of the seller's backend."""

    effect: Literal["Meter"]
    """Counts."""
    action: Methods | None = None
    """Methods, or `*` for all; needed to meter calls, left out to meter an event."""
    resource: Resources | None = None
    """Patterns of routes; needed to meter calls, left out to meter an event."""
    dimension: DimensionKey
    """The product's dimension that it counts for."""
    quantity: Quantity
    """How much a call, or an event, counts."""
    condition: LineCondition | None = None
    """Which calls. Left out: those that were answered with 200 to 299."""

    @model_validator(mode="after")
    def _routes_or_event(self) -> Meter:
        given = [name for name in ("action", "resource", "condition") if getattr(self, name) is not None]
        if self.quantity.event and given:
            names = ", ".join(map(to_pascal, given))
            what = f"Meter of an event, got {names}; expected Dimension and Quantity only"
            raise PydanticCustomError("MON125", "{what}", {"what": what})
        if not self.quantity.event and (self.action is None or self.resource is None):
            what = "Meter of calls, got no Action or no Resource; expected both"
            raise PydanticCustomError("MON101", "{what}", {"what": what})
        return self


class Exempt(_RouteStatement):
    """What does not count."""

    effect: Literal["Exempt"]
    """Makes calls count 0, whatever Meters say."""
    dimension: Dimensions
    """The dimensions that they do not count for, or `*` for all."""
    condition: LineCondition | None = None
    """Which calls. Left out: all, whatever their status."""


class Limit(_RouteStatement):
    """How fast."""

    effect: Literal["Limit"]
    """Slows down the methods of the routes that it matches."""
    throttle: Limits
    """How fast calls may come; where several Limits match, the smallest of each number."""
    condition: DeployCondition | None = None
    """Where it holds. Left out: under every plan and stage."""


Statement = Annotated[Access | Meter | Exempt | Limit, Field(discriminator="effect")]
STATEMENT_MEMBERS: Final = frozenset(
    {"Sid", "Effect", "Action", "Resource", "Condition", "Dimension", "Quantity", "Throttle"}
)


class Parameter(Member):
    """A number that a plan may set."""

    type: Literal["Integer", "Decimal"]
    """Whether it may have decimals."""
    default: Number
    """Its value in plans that set none, and in the policy's tests."""
    min: Number | None = None
    """The least a plan may set. Left out: no such limit."""
    max: Number | None = None
    """The most a plan may set. Left out: no such limit."""


class PolicyTestRequest(Member):
    """One call, as the access log would show it."""

    method: Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
    """The call's method."""
    resource: StrictStr
    """The route as the API declares it; in quotes where it has braces and stands in braces."""
    status: Annotated[int, Field(ge=0, le=999), _WHOLE] = 200
    """The answer's status."""
    response_bytes: Amount = 0
    """The answer's bytes, without headers."""
    response_ms: Amount = 0
    """How long the whole answer took, in milliseconds."""
    integration_ms: Amount = 0
    """How long the backend took, in milliseconds."""
    time: Instant | None = None
    """When it came. Left out: now."""


class PolicyTestExpectation(Member):
    """What the call must come to; what is left out is not looked at."""

    access: Literal["Allowed", "Refused"] | None = None
    """Whether it may be called."""
    quantities: dict[DimensionKey, Number] = Field(default_factory=dict)
    """By dimension, in the dimension's unit, exact; 0 where it is exempt, fails or is not metered."""
    sids: dict[DimensionKey, Name] = Field(default_factory=dict)
    """By dimension, the statement that decides."""


class PolicyTest(Member):
    """A test inside a policy, run by the linter with the policy alone and its parameters' defaults."""

    name: StrictStr = ""
    """What the test shows, in a sentence."""
    segment: Name | None = None
    """For the key `plan:Segment`. Left out: a plan of no segment."""
    request: PolicyTestRequest
    """The call."""
    expect: PolicyTestExpectation
    """What it must come to."""


class Document(Member):
    """What all documents have."""

    version: Literal["2026-11-21"]
    """Of the language, in quotes."""
    id: Name
    """The document's name; other documents refer to it by this, not by its file."""


class Policy(Document):
    """A policy of the common pool."""

    kind: Literal["Policy"]
    """A file in `policies/`."""
    policy_version: Positive
    """Plans attach `Id@PolicyVersion`; a published version never changes."""
    description: StrictStr = ""
    """For readers."""
    parameters: dict[Name, Parameter] = Field(default_factory=dict)
    """By name, the numbers that plans may set: `"${param.NAME}"` in Multiply."""
    bill_server_errors: StrictBool = False
    """Whether a condition that names 5xx or 429 may count them."""
    statement: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=MAX_STATEMENTS)]
    """What the policy says; their order never matters."""
    tests: tuple[PolicyTest, ...] = ()
    """What calls must come to; `sellable lint` runs them."""

    @property
    def reference(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.policy_version}"


class Segment(Member):
    """A kind of consumer."""

    guardrails: tuple[Reference, ...] = ()
    """Policies of Deny and Limit that hold under every plan of the segment."""


class ProductDimension(Member):
    """A dimension of the listing."""

    category: Category
    """AWS's category of the unit."""
    unit: StrictStr
    """A unit of that category, as the listing has it."""
    type: DimensionType
    """`ExternallyMetered` is billed by usage, `Entitled` is bought in a contract."""


class Marketplace(Member):
    """What the listing says."""

    product_code: StrictStr | None = None
    """The listing's product code. Left out: given at synthesis."""
    product_id: StrictStr | None = None
    """The listing's `prod-…`. Left out: given at synthesis, or by nobody."""
    agreements: AgreementKind
    """`Concurrent` for every product created since 2026-06-01."""
    pricing_model: PricingModel
    """The listing's; AWS never lets it change."""
    metering: Metering
    """Who reports usage: API Gateway itself, or this library's meter. Never both."""
    metering_region: StrictStr = "us-east-1"
    """Where usage is reported; one Region for the product's life."""
    dimensions: Annotated[dict[DimensionKey, ProductDimension], Field(min_length=1)]
    """By API name, what the listing prices."""


class Event(Member):
    """A usage event that the seller's backend sends."""

    unit: StrictStr = ""
    """What one of it is."""


class ProductDocument(Document):
    """The product, its segments and what may be metered."""

    kind: Literal["Product"]
    """The file `product.yaml`."""
    description: StrictStr = ""
    """For readers."""
    segments: Annotated[dict[Name, Segment], Field(min_length=1)]
    """By name, the kinds of consumers that plans are for; `{}` where there is no more to say."""
    marketplace: Marketplace
    """What the listing says."""
    events: dict[EventName, Event] = Field(default_factory=dict)
    """By name, what `event:NAME` may meter."""


class PlanQuota(Member):
    """How many calls fit into a period; AWS counts best-effort."""

    limit: Positive
    """Calls per period."""
    period: Period
    """As API Gateway counts them."""


class AssignTo(Member):
    """Which agreements get the plan; exactly one member."""

    offers: Annotated[tuple[OfferId, ...], Field(min_length=1)] | None = None
    """Those that accepted one of these offers."""
    entitlement: DimensionKey | None = None
    """Those that bought this dimension."""
    accounts: Annotated[tuple[AccountId, ...], Field(min_length=1)] | None = None
    """Those of these AWS accounts."""

    @model_validator(mode="after")
    def _exactly_one(self) -> AssignTo:
        given = [name for name in ("offers", "entitlement", "accounts") if getattr(self, name) is not None]
        if len(given) != 1:
            what = (
                f"AssignTo, got {', '.join(map(to_pascal, given)) or 'nothing'}; expected one of Offers, Entitlement, "
            )
            raise PydanticCustomError("MON140", "{what}", {"what": f"{what}Accounts, or the word Default"})
        return self


class Then(Member):
    """What happens when the included units are used up; exactly one member."""

    report_as: DimensionKey | None = None
    """What is over counts for this dimension."""
    deny: Literal[True] | None = None
    """Calls are refused."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Then:
        if (self.report_as is None) == (self.deny is None):
            raise PydanticCustomError("MON101", "{what}", {"what": "Then, expected either ReportAs or Deny: true"})
        return self


def _included(value: object) -> Decimal | str:
    if isinstance(value, str):
        if re.fullmatch(rf"entitlement:{_DIMENSION}", value):
            return value
        what = f"Included, got {value[:80]!r}; expected a number or 'entitlement:DIMENSION'"
        raise PydanticCustomError("MON101", "{what}", {"what": what})
    return _decimal(value)


class Allowance(Member):
    """Units that the contract includes. Parsed and linted; evaluated with contracts."""

    dimension: DimensionKey
    """The metered dimension."""
    included: Annotated[
        Decimal | str,
        BeforeValidator(_included),
        WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^entitlement:"}]}),
    ]
    """Units that are paid for already, or `entitlement:DIMENSION` for as many as were bought."""
    period: Literal["Day", "Month", "Term"]
    """How long they last."""
    anchor: Literal["Calendar", "Agreement"]
    """Whether a period begins with the calendar's, or with the agreement."""
    then: Then
    """What happens after them."""

    @property
    def entitled_dimension(self) -> str | None:
        """The dimension whose entitlement says how much is included."""
        return self.included.removeprefix("entitlement:") if isinstance(self.included, str) else None


class Trial(Member):
    """A time that costs nothing. Parsed and linted; evaluated with contracts."""

    source: Literal["Marketplace", "Own"]
    """Whether it is the listing's free trial, or the seller's own."""
    days: Positive
    """How long it lasts."""
    then: Reference
    """The plan that follows."""


class Plan(Document):
    """What product managers write: policies attached for a segment, with limits and prices."""

    kind: Literal["Plan"]
    """A file in `plans/`."""
    plan_version: Positive
    """Agreements stay on the version that they began with."""
    description: StrictStr = ""
    """For readers."""
    segment: Name
    """One of the product's segments."""
    product: Name
    """The product's Id."""
    channel: Channel
    """`Marketplace` is billed, `Direct` and `Internal` are only reported."""
    assign_to: Annotated[
        Annotated[Literal["Default"], Tag("word")] | Annotated[AssignTo, Tag("members")],
        Discriminator(lambda value: "members" if isinstance(value, dict | AssignTo) else "word"),
    ]
    """Which agreements get the plan when they begin."""
    policies: Annotated[tuple[Reference, ...], Field(min_length=1)]
    """The policies that say what is allowed, counted and limited."""
    parameters: dict[Name, dict[Name, Number]] = Field(default_factory=dict)
    """By policy's Id and parameter's name, the numbers that this plan sets. Left out: the parameters' defaults."""
    throttle: Limits | None = None
    """How fast all its calls may come. Left out: as fast as the stage and the policies' Limits let them."""
    quota: PlanQuota | None = None
    """How many calls fit into a period. Left out: any number."""
    allowances: tuple[Allowance, ...] = ()
    """What the contract includes; read and checked, not evaluated by this version."""
    trial: Trial | None = None
    """A time that costs nothing; read and checked, not evaluated by this version."""
    price_list: Name
    """The Id of the price list that applies."""
    shadow_price_list: Name | None = None
    """The price list that values what nobody is billed for. Left out: none does."""
    effective_from: Instant | None = None
    """The whole hour from which it holds. Left out: from its deployment on."""

    @property
    def reference(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.plan_version}"

    @property
    def not_evaluated(self) -> tuple[str, ...]:
        """The members that say what costs nothing or is cut off, and that nothing evaluates yet."""
        return (*(["Allowances"] if self.allowances else []), *(["Trial"] if self.trial else []))


class PriceList(Document):
    """Prices per unit of a dimension, from a date on; ``Costs`` feed margins only."""

    kind: Literal["PriceList"]
    """A file in `prices/`."""
    description: StrictStr = ""
    """For readers."""
    currency: Literal["USD"]
    """The one currency."""
    effective_from: Instant
    """The whole hour from which it holds, until that of the next list with its Id."""
    prices: dict[DimensionKey, Price]
    """By dimension, what one unit costs; in quotes."""
    costs: dict[Name, Price] = Field(default_factory=dict)
    """By dimension, or for `gateway.request` and `transfer_gb`, what one costs the seller; only MON211 looks at it."""


KINDS: Final[Mapping[str, type[Document]]] = {
    "Product": ProductDocument,
    "Policy": Policy,
    "Plan": Plan,
    "PriceList": PriceList,
}


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A document and its text, or the faults that keep it from being one.

    Args:
        source: The text, with the place of each part.
        document: None where there are faults.
        faults: All that were found.
    """

    source: Source
    document: Document | None
    faults: tuple[Fault, ...]


def parse_document(source: Source) -> Parsed:
    """Make a document of a source; all faults are reported together."""
    faults = list(source.faults)
    document: Document | None = None
    data = source.data
    if not isinstance(data, dict):
        if not faults:
            faults.append(_fault(source, "MON101", (), f"document, got {_shown(data)}; expected members"))
    elif not isinstance(data.get("Kind"), str) or data["Kind"] not in KINDS:
        got = _shown(data["Kind"]) if "Kind" in data else "none"
        faults.append(_fault(source, "MON101", ("Kind",), f"Kind, got {got}; expected one of {', '.join(KINDS)}"))
    else:
        try:
            document = KINDS[data["Kind"]].model_validate(data)
        except ValidationError as error:
            # An item that is wrong is also missing from its list; told once.
            wrong = [e for e in error.errors(include_url=False) if e["type"] != "too_short" or not e["input"]]
            faults += [_translated(source, details) for details in wrong]
        if isinstance(document, Policy):
            faults += _sids_given_twice(source, document)
    return Parsed(source=source, document=None if faults else document, faults=tuple(faults))


def _sids_given_twice(source: Source, policy: Policy) -> list[Fault]:
    seen: set[str] = set()
    faults = []
    for index, statement in enumerate(policy.statement):
        if statement.sid in seen:
            path = ("Statement", index, "Sid")
            faults.append(_fault(source, "MON103", path, f"Sid, got {statement.sid!r} twice; expected it once"))
        seen.add(statement.sid)
    return faults


def _fault(source: Source, code: str, path: Path, details: str) -> Fault:
    sid = None
    if path[:1] == ("Statement",) and len(path) > 1:
        statement = source.data["Statement"][path[1]]
        sid = statement.get("Sid") if isinstance(statement, dict) else None
    return Fault(
        code=code, document=source.document, path=path, details=details, sid=sid if isinstance(sid, str) else None
    )


def _translated(source: Source, details: ErrorDetails) -> Fault:  # noqa: PLR0911 - one answer for each kind of fault
    """One of the validation library's errors in the words of this language."""
    path = _path_in(source.data, details["loc"], is_missing=details["type"] == "missing")
    kind, last = details["type"], path[-1] if path else ""
    in_statement = path[:1] == ("Statement",)
    if kind.startswith("MON"):
        return _fault(source, kind, path, details["msg"])
    if path == ("Version",):
        got = "none" if kind == "missing" else _shown(details["input"])
        return _fault(source, "MON102", path, f'Version, got {got}; expected "{LANGUAGE_VERSION}"')
    if last == "Sid" and in_statement:
        got = "none" if kind == "missing" else _shown(details["input"])
        return _fault(source, "MON103", path, f"Sid, got {got}; expected a name, unique in the policy")
    if "Condition" in path and kind in {"extra_forbidden", "literal_error"}:
        name = details["loc"][-2] if details["loc"][-1] == "[key]" else last
        what = f"condition, got {str(name)[:80]!r}; expected an operator and a key that this effect allows"
        return _fault(source, "MON107", path, what)
    if kind == "extra_forbidden":
        is_elsewhere = in_statement and len(path) == 3 and last in STATEMENT_MEMBERS
        code = "MON104" if is_elsewhere else "MON101"
        what = "not allowed for this effect" if is_elsewhere else "unknown"
        return _fault(source, code, path, f"member {str(last)[:80]!r}, which is {what}; expected it to be left out")
    if path[-2:] == ("Quota", "Period"):
        got = "none" if kind == "missing" else _shown(details["input"])
        return _fault(source, "MON137", path, f"Period, got {got}; expected DAY, WEEK or MONTH")
    if kind == "missing":
        return _fault(source, "MON101", path, f"member {str(last)!r}, got none; expected it here")
    expected = _EXPECTED.get(kind, _in_own_words)(details)
    name = next((part for part in reversed(path) if isinstance(part, str)), "document")
    return _fault(source, "MON101", path, f"{name}, got {_shown(details['input'])}; expected {expected}")


def _in_own_words(details: ErrorDetails) -> str:
    text = details["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    return text[:1].lower() + text[1:]


_EXPECTED: Final[Mapping[str, Callable[[ErrorDetails], str]]] = {
    "string_type": lambda _: "text; a number or a word such as on needs quotes",
    "bool_type": lambda _: "true or false",
    "tuple_type": lambda _: "a list",
    "dict_type": lambda _: "members",
    "model_type": lambda _: "members",
    "model_attributes_type": lambda _: "members",
    "string_pattern_mismatch": lambda details: f"text of the form {details['ctx']['pattern']}",
    "union_tag_invalid": lambda _: f"Effect to be one of {', '.join(Effect)}",
    "union_tag_not_found": lambda _: f"Effect, one of {', '.join(Effect)}",
    "too_short": lambda _: "at least one",
    "too_long": lambda details: f"at most {details['ctx']['max_length']:,}",
}


def _path_in(data: object, location: tuple[int | str, ...], *, is_missing: bool) -> Path:
    """A location of the validation library as a path in the data: without names of alternatives."""
    path: list[str | int] = []
    for index, part in enumerate(location):
        is_member = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if is_member:
            data = data[part]  # type: ignore[index]
            path.append(part)
        elif is_missing and index == len(location) - 1:
            path.append(part)
    return tuple(path)
