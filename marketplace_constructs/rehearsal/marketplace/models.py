"""The services as botocore models them: operations, constraints, Regions, wire protocols."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import botocore.session
from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape
from botocore.parsers import RpcV2CBORParser
from botocore.serialize import create_serializer
from botocore.utils import parse_timestamp

# What an operation takes and answers is as dynamic here as it is in boto3; the service model is its type.
AwsDocument = dict[str, Any]

JSON_PROTOCOL: Final = "json"
CBOR_PROTOCOL: Final = "smithy-rpc-v2-cbor"
SERVICE_NAMES: Final = ("meteringmarketplace", "marketplace-entitlement", "marketplace-agreement", "cloudtrail")
_ERROR: Final = "StandInError"


class ApiError(Exception):
    """An error that an operation answers.

    Args:
        code: The exception's name in the service model.
        message: Without any token.
        status: HTTP status; None for the model's own, which is 400 where it says nothing.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class Service:
    """One service's model, and its protocols seen from the side of AWS."""

    def __init__(self, name: str) -> None:
        session = botocore.session.get_session()
        description = session.get_component("data_loader").load_service_model(name, "service-2")
        self.name = name
        self.model = ServiceModel(description, name)
        self.regions = frozenset(session.get_available_regions(name))
        self.target_prefix: str = self.model.metadata["targetPrefix"]
        self._faults = {shape for shape, what in description["shapes"].items() if what.get("fault")}
        self._answers = ServiceModel(_turned_round(description), name)

    @property
    def endpoint_variable(self) -> str:
        """The environment variable that sends every AWS SDK to another endpoint of this service."""
        return f"AWS_ENDPOINT_URL_{self.model.service_id.replace(' ', '_').upper()}"

    def operation(self, name: str) -> OperationModel:
        """The model of an operation.

        Raises:
            ApiError: UnknownOperationException.
        """
        if name not in self.model.operation_names:
            raise ApiError("UnknownOperationException", f"{self.name} has no operation {name}", 404)
        return self.model.operation_model(name)

    def decode(self, operation: str, protocol: str, body: bytes) -> AwsDocument:
        """What a request's body says, with times in UTC and without members that the model does not know.

        Raises:
            ApiError: SerializationException.
        """
        shape = self.operation(operation).input_shape
        try:
            if protocol == CBOR_PROTOCOL:
                parser = RpcV2CBORParser()
                stream = parser.get_peekable_stream_from_bytes(body)
                value = parser.parse_data_item(stream) if body else {}
            else:
                value = json.loads(body or b"{}")
            return {} if shape is None else _read_structure(value, shape)
        except Exception as error:  # noqa: BLE001  # a body may be broken in any way
            # Its text must not get into a message: it may hold a token.
            raise ApiError("SerializationException", f"the body cannot be read ({type(error).__name__})") from None

    def encode(self, operation: str, protocol: str, answer: Mapping[str, object]) -> bytes:
        """An operation's answer as a response body."""
        return self._encode(operation, protocol, answer)

    def encode_error(self, protocol: str, error: ApiError) -> bytes:
        """An error as a response body."""
        return self._encode(_ERROR, protocol, {"__type": error.code, "message": error.message})

    def status(self, operation: str, error: ApiError) -> int:
        """The HTTP status of an error."""
        if error.status is not None:
            return error.status
        for shape in self.operation(operation).error_shapes:
            if shape.name == error.code:
                declared = shape.metadata.get("error", {}).get("httpStatusCode")
                return int(declared or (500 if shape.name in self._faults else 400))
        return 400

    def internal_error(self, operation: str) -> str:
        """What this operation calls its internal error."""
        return next(
            (s.name for s in self.operation(operation).error_shapes if s.name.startswith("Internal")),
            "InternalFailure",
        )

    def _encode(self, operation: str, protocol: str, value: Mapping[str, object]) -> bytes:
        request = create_serializer(protocol, include_validation=False).serialize_to_request(
            value, self._answers.operation_model(operation)
        )
        body: bytes = request["body"]
        return body


@cache
def service(name: str) -> Service:
    """The service of a botocore name, loaded once."""
    return Service(name)


@cache
def service_of(operation: str) -> Service:
    """The service that has an operation of this name.

    Raises:
        ApiError: UnknownOperationException.
    """
    for name in SERVICE_NAMES:
        if operation in service(name).model.operation_names:
            return service(name)
    raise ApiError("UnknownOperationException", f"no service that is played has an operation {operation}", 404)


def service_by_target(prefix: str) -> Service:
    """The service whose requests carry this target.

    Raises:
        ApiError: UnknownOperationException.
    """
    for name in SERVICE_NAMES:
        if service(name).target_prefix == prefix:
            return service(name)
    raise ApiError("UnknownOperationException", f"no service that is played has the target {prefix}", 404)


@dataclass(frozen=True)
class BrokenConstraint:
    """Where a value breaks its model, and how; never with the value itself, which may be a token."""

    path: str
    must: str

    def __str__(self) -> str:
        return f"{self.path or 'the input'} must {self.must}"


def broken_constraints(  # noqa: PLR0911  # one return for each type
    value: object, shape: Shape | None, path: str = ""
) -> Iterator[BrokenConstraint]:
    """What a value breaks of its model: types, required members, ranges, patterns, choices."""
    match shape:
        case StructureShape():
            return _check_structure(value, shape, path)
        case ListShape():
            return _check_list(value, shape, path)
        case MapShape():
            return _check_map(value, shape, path)
        case Shape(type_name="string"):
            return _check_string(value, shape, path)
        case Shape(type_name="integer" | "long"):
            return _check_integer(value, shape, path)
        case Shape(type_name="timestamp"):
            return _check_timestamp(value, path)
    return iter(())


def _check_structure(value: object, shape: StructureShape, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, dict):
        yield BrokenConstraint(path, "be a structure")
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield BrokenConstraint(_below(path, name), "be given")
    for name, member in shape.members.items():
        if value.get(name) is not None:
            yield from broken_constraints(value[name], member, _below(path, name))


def _check_list(value: object, shape: ListShape, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, list):
        yield BrokenConstraint(path, "be a list")
        return
    yield from _check_range(len(value), shape, path, "members")
    for index, item in enumerate(value):
        yield from broken_constraints(item, shape.member, _below(path, str(index)))


def _check_map(value: object, shape: MapShape, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, dict):
        yield BrokenConstraint(path, "be a map")
        return
    for key, item in value.items():
        yield from broken_constraints(key, shape.key, _below(path, "key"))
        yield from broken_constraints(item, shape.value, _below(path, "value"))


def _check_string(value: object, shape: Shape, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, str):
        yield BrokenConstraint(path, "be text")
        return
    yield from _check_range(len(value), shape, path, "characters")
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(pattern, value):
        yield BrokenConstraint(path, f"match {pattern}")
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        yield BrokenConstraint(path, f"be one of {', '.join(allowed)}")


def _check_integer(value: object, shape: Shape, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, int) or isinstance(value, bool):
        yield BrokenConstraint(path, "be a whole number")
    else:
        yield from _check_range(value, shape, path, "in value")


def _check_timestamp(value: object, path: str) -> Iterator[BrokenConstraint]:
    if not isinstance(value, datetime):
        yield BrokenConstraint(path, "be a timestamp")


def _check_range(number: int, shape: Shape, path: str, what: str) -> Iterator[BrokenConstraint]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and number < low:
        yield BrokenConstraint(path, f"be at least {low} {what}")
    if high is not None and number > high:
        yield BrokenConstraint(path, f"be at most {high} {what}")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _read(value: Any, shape: Shape) -> Any:
    match shape, value:
        case StructureShape(), dict():
            return _read_structure(value, shape)
        case ListShape(), list():
            return [_read(item, shape.member) for item in value]
        case Shape(type_name="timestamp"), int() | float() | str() | datetime():
            return parse_timestamp(value).astimezone(UTC)  # type: ignore[arg-type]  # it takes all of these
    return value


def _read_structure(value: Mapping[str, Any], shape: StructureShape) -> AwsDocument:
    return {name: _read(value[name], member) for name, member in shape.members.items() if value.get(name) is not None}


def _turned_round(description: Mapping[str, Any]) -> dict[str, Any]:
    """A service whose operations take what they answer, so that botocore's serializers write answers."""
    operations = {
        name: {**operation, "input": operation["output"]}
        for name, operation in description["operations"].items()
        if "output" in operation
    }
    text = "StandInErrorText"
    error = {"type": "structure", "members": {"__type": {"shape": text}, "message": {"shape": text}}}
    return {
        **description,
        "operations": {
            **operations,
            _ERROR: {
                "name": _ERROR,
                "http": {"method": "POST", "requestUri": "/"},
                "input": {"shape": _ERROR},
            },
        },
        "shapes": {**description["shapes"], _ERROR: error, text: {"type": "string"}},
    }
