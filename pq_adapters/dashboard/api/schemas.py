"""JSON Schema for what comes in: written once, shown in the OpenAPI document and enforced from the same objects.

Only the words are known that the API uses; ``check`` refuses to work with any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from pq_adapters.dashboard.problems import Problem
from pq_core.errors import PayloadDecodeError
from pq_core.payload import loads

Schema = Mapping[str, Any]

LONGEST_INTEGER = 2**63 - 1
_STORABLE = "^[^\\u0000]*$"
_KNOWN = {
    *("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "format", "items", "minItems"),
    *("maxItems", "properties", "required", "additionalProperties", "minProperties", "description", "default"),
}


def text(*, most: int = 255, least: int = 0, **more: Any) -> Schema:
    """Text that Postgres can store."""
    return {"type": "string", "minLength": least, "maxLength": most, "pattern": _STORABLE, **more}


def word(*words: str, **more: Any) -> Schema:
    """One of some words."""
    return {"type": "string", "enum": list(words), **more}


def integer(low: int, high: int, **more: Any) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": low, "maximum": high, **more}


def seconds(low: float, high: float, **more: Any) -> Schema:
    """A duration in seconds."""
    return {"type": "number", "minimum": low, "maximum": high, **more}


def array(items: Schema, *, most: int, least: int = 0, **more: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "minItems": least, "maxItems": most, **more}


def obj(properties: Mapping[str, Schema], *, required: tuple[str, ...] = (), **more: Any) -> Schema:
    """An object that has no other members than these."""
    schema = {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}
    return {**schema, "required": list(required)} if required else schema


ID = integer(1, LONGEST_INTEGER)
TIME: Schema = {"type": "string", "format": "date-time"}
FLAG: Schema = {"type": "boolean"}
ANYTHING: Schema = {}
NAME = text(least=1)

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def check(schema: Schema, given: Any, where: str) -> Any:
    """Return the value, times as datetimes; Problem 422 with the place of what does not fit."""
    kind = schema.get("type")
    if unknown := schema.keys() - _KNOWN:
        raise TypeError(f"{sorted(unknown)}: words that are not enforced")
    if kind is None:
        return given
    # 1.0 is an integer in JSON Schema.
    value: Any = int(given) if kind == "integer" and isinstance(given, float) and given.is_integer() else given
    if type(value) not in _TYPES[kind]:
        _refuse(where, f"must be of type {kind}")
    if "enum" in schema and value not in schema["enum"]:
        _refuse(where, f"must be one of {', '.join(schema['enum'])}")
    match kind:
        case "string":
            return _check_text(schema, value, where)
        case "integer" | "number":
            if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
                _refuse(where, f"must be from {schema.get('minimum')} to {schema.get('maximum')}")
        case "array":
            if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
                _refuse(where, f"must have {schema.get('minItems', 0)} to {schema.get('maxItems')} items")
            return [check(schema.get("items", ANYTHING), item, f"{where}[{n}]") for n, item in enumerate(value)]
        case "object":
            return _check_object(schema, value, where)
    return value


def _check_text(schema: Schema, value: str, where: str) -> Any:
    if schema.get("format") == "date-time":
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is None or found.utcoffset() is None or "T" not in value.upper():
            _refuse(where, "must be a date and a time with an offset, like 2030-01-31T08:00:00+01:00")
        return found
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        _refuse(where, f"must have {schema.get('minLength', 0)} to {schema.get('maxLength')} characters")
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        _refuse(where, "must not hold the character NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(where, "must not hold a lone surrogate")
    return value


def _check_object(schema: Schema, value: dict[str, Any], where: str) -> dict[str, Any]:
    properties: Mapping[str, Schema] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            _refuse(where, f"needs a member {name!r}")
    if len(value) < schema.get("minProperties", 0):
        _refuse(where, f"must have at least {schema['minProperties']} member: {', '.join(properties)}")
    rest = schema.get("additionalProperties", True)
    for name in value:
        if name not in properties and rest is False:
            _refuse(where, f"has an unknown member {name!r}; there are: {', '.join(properties) or 'none'}")
        if not isinstance(name, str) or "\x00" in name:
            _refuse(where, "has a member whose name holds the character NUL")
    return {
        name: check(properties.get(name, rest if isinstance(rest, Mapping) else ANYTHING), item, f"{where}.{name}")
        for name, item in value.items()
    }


def from_text(schema: Schema, value: str, where: str) -> Any:
    """Return the value of a query or path parameter, checked."""
    match schema.get("type"):
        case "integer" | "number" as kind:
            pattern = r"-?\d{1,19}" if kind == "integer" else r"-?\d{1,19}(\.\d{1,19})?"
            if re.fullmatch(pattern, value, re.ASCII) is None:
                _refuse(where, f"must be of type {kind}")
            return check(schema, int(value) if kind == "integer" else float(value), where)
        case "boolean":
            if value not in ("true", "false"):
                _refuse(where, "must be true or false")
            return value == "true"
        case "array":
            return check(schema, [from_text(schema["items"], one, where) for one in value.split(",")], where)
        case _:
            return check(schema, value, where)


def parse(body: bytes) -> Any:
    """Return the JSON of a body; Problem 400 for what is none, and for numbers that no float holds."""
    try:
        return loads(body.decode("utf-8-sig"))
    except (UnicodeDecodeError, PayloadDecodeError) as error:
        raise Problem(400, "no JSON", f"the body is no JSON: {error}") from error


def _refuse(where: str, words: str) -> NoReturn:
    raise Problem(422, "not valid", f"{where} {words}", where=where)
