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
from typing import Annotated, Final, Literal

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

Integer = Annotated[int, BeforeValidator(_integer)]
Positive = Annotated[Integer, Field(ge=1, le=2**31 - 1)]
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
    multiply: Multiply = Decimal(1)
    round_up_per_request: Annotated[Integer, Field(ge=1, le=10**12)] | None = None
    unit: StrictStr | None = None

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
    burst_limit: Positive


class DeployCondition(Member):
    """A condition of which only deployment decides."""

    string_equals: dict[Literal["plan:Segment", "plan:Id", "api:Stage"], Texts] | None = None


_NumericKey = Literal["response:Status", "response:Bytes", "integration:LatencyMs"]
_ByNumber = dict[_NumericKey, Numbers]
_ByTime = dict[Literal["request:Time"], Instants]


class LineCondition(Member):
    """A condition of a line of the access log; its keys and operators are ANDed, values of one key ORed."""

    string_equals: dict[Literal["plan:Segment", "plan:Id", "api:Stage", "response:StatusClass"], Texts] | None = None
    numeric_equals: _ByNumber | None = None
    numeric_less_than: _ByNumber | None = None
    numeric_less_than_equals: _ByNumber | None = None
    numeric_greater_than: _ByNumber | None = None
    numeric_greater_than_equals: _ByNumber | None = None
    date_greater_than_equals: _ByTime | None = None
    date_less_than: _ByTime | None = None

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


class _RouteStatement(_Statement):
    action: Methods
    resource: Resources


class Access(_RouteStatement):
    """Allow and Deny: who may call what."""

    effect: Literal["Allow", "Deny"]
    condition: DeployCondition | None = None


class Meter(_Statement):
    """What counts: lines on routes, or an event of the seller's backend."""

    effect: Literal["Meter"]
    action: Methods | None = None
    resource: Resources | None = None
    dimension: DimensionKey
    quantity: Quantity
    condition: LineCondition | None = None

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
    dimension: Dimensions
    condition: LineCondition | None = None


class Limit(_RouteStatement):
    """How fast."""

    effect: Literal["Limit"]
    throttle: Limits
    condition: DeployCondition | None = None


Statement = Annotated[Access | Meter | Exempt | Limit, Field(discriminator="effect")]
STATEMENT_MEMBERS: Final = frozenset(
    {"Sid", "Effect", "Action", "Resource", "Condition", "Dimension", "Quantity", "Throttle"}
)


class Parameter(Member):
    """A number that a plan may set."""

    type: Literal["Integer", "Decimal"]
    default: Number
    min: Number | None = None
    max: Number | None = None


class PolicyTestRequest(Member):
    """One call, as the access log would show it."""

    method: Literal["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
    resource: StrictStr
    status: Annotated[Integer, Field(ge=0, le=999)] = 200
    response_bytes: Annotated[Integer, Field(ge=0)] = 0
    response_ms: Annotated[Integer, Field(ge=0)] = 0
    integration_ms: Annotated[Integer, Field(ge=0)] = 0
    time: Instant | None = None


class PolicyTestExpectation(Member):
    """What the call must come to; what is left out is not looked at.

    Args:
        access: Whether it may be called.
        quantities: By dimension, in the dimension's unit, exact; 0 where it is exempt, fails or is not metered.
        sids: By dimension, the statement that decides.
    """

    access: Literal["Allowed", "Refused"] | None = None
    quantities: dict[DimensionKey, Number] = Field(default_factory=dict)
    sids: dict[DimensionKey, Name] = Field(default_factory=dict)


class PolicyTest(Member):
    """A test inside a policy, run by the linter with the policy alone and its parameters' defaults."""

    name: StrictStr = ""
    segment: Name | None = None
    request: PolicyTestRequest
    expect: PolicyTestExpectation


class Document(Member):
    """What all documents have."""

    version: Literal["2026-11-21"]
    id: Name


class Policy(Document):
    """A policy of the common pool."""

    kind: Literal["Policy"]
    policy_version: Positive
    description: StrictStr = ""
    parameters: dict[Name, Parameter] = Field(default_factory=dict)
    bill_server_errors: StrictBool = False
    statement: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=MAX_STATEMENTS)]
    tests: tuple[PolicyTest, ...] = ()

    @property
    def reference(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.policy_version}"


class Segment(Member):
    """A kind of consumer."""

    guardrails: tuple[Reference, ...] = ()


class ProductDimension(Member):
    """A dimension of the listing."""

    category: Category
    unit: StrictStr
    type: DimensionType


class Marketplace(Member):
    """What the listing says."""

    product_code: StrictStr | None = None
    product_id: StrictStr | None = None
    agreements: AgreementKind
    pricing_model: PricingModel
    metering: Metering
    metering_region: StrictStr = "us-east-1"
    dimensions: Annotated[dict[DimensionKey, ProductDimension], Field(min_length=1)]


class Event(Member):
    """A usage event that the seller's backend sends."""

    unit: StrictStr = ""


class ProductDocument(Document):
    """The product, its segments and what may be metered."""

    kind: Literal["Product"]
    description: StrictStr = ""
    segments: Annotated[dict[Name, Segment], Field(min_length=1)]
    marketplace: Marketplace
    events: dict[EventName, Event] = Field(default_factory=dict)


class PlanQuota(Member):
    """How many calls fit into a period; AWS counts best-effort."""

    limit: Positive
    period: Period


class AssignTo(Member):
    """Which agreements get the plan; exactly one member."""

    offers: Annotated[tuple[OfferId, ...], Field(min_length=1)] | None = None
    entitlement: DimensionKey | None = None
    accounts: Annotated[tuple[AccountId, ...], Field(min_length=1)] | None = None

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
    deny: Literal[True] | None = None

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
    included: Annotated[
        Decimal | str,
        BeforeValidator(_included),
        WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": "^entitlement:"}]}),
    ]
    period: Literal["Day", "Month", "Term"]
    anchor: Literal["Calendar", "Agreement"]
    then: Then

    @property
    def entitled_dimension(self) -> str | None:
        """The dimension whose entitlement says how much is included."""
        return self.included.removeprefix("entitlement:") if isinstance(self.included, str) else None


class Trial(Member):
    """A time that costs nothing. Parsed and linted; evaluated with contracts."""

    source: Literal["Marketplace", "Own"]
    days: Positive
    then: Reference


class Plan(Document):
    """What product managers write: policies attached for a segment, with limits and prices."""

    kind: Literal["Plan"]
    plan_version: Positive
    description: StrictStr = ""
    segment: Name
    product: Name
    channel: Channel
    assign_to: Annotated[
        Annotated[Literal["Default"], Tag("word")] | Annotated[AssignTo, Tag("members")],
        Discriminator(lambda value: "members" if isinstance(value, dict | AssignTo) else "word"),
    ]
    policies: Annotated[tuple[Reference, ...], Field(min_length=1)]
    parameters: dict[Name, dict[Name, Number]] = Field(default_factory=dict)
    throttle: Limits | None = None
    quota: PlanQuota | None = None
    allowances: tuple[Allowance, ...] = ()
    trial: Trial | None = None
    price_list: Name
    shadow_price_list: Name | None = None
    effective_from: Instant | None = None

    @property
    def reference(self) -> str:
        """``id@version``."""
        return f"{self.id}@{self.plan_version}"


class PriceList(Document):
    """Prices per unit of a dimension, from a date on; ``Costs`` feed margins only."""

    kind: Literal["PriceList"]
    description: StrictStr = ""
    currency: Literal["USD"]
    effective_from: Instant
    prices: dict[DimensionKey, Price]
    costs: dict[Name, Price] = Field(default_factory=dict)


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
