"""Records as JSON, and the schemas of what the API answers."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pq_adapters.dashboard.api.schemas import Schema
from pq_core.keys import KeyRecord
from pq_core.operating import AuditRecord, QueueRecord
from pq_core.types import AttemptRecord, ScheduleRecord, TaskRecord, WorkerRecord

RECORDS: Mapping[str, type[Any]] = {
    "Task": TaskRecord,
    "Attempt": AttemptRecord,
    "Schedule": ScheduleRecord,
    "Queue": QueueRecord,
    "Worker": WorkerRecord,
    "Key": KeyRecord,
    "AuditEntry": AuditRecord,
}


def of(name: str) -> Schema:
    """Return the reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def page_of(name: str, kind: str = "integer") -> Schema:
    """Return the schema of one page of a list: ``next`` is where the next one continues, null at the end."""
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": of(name)}, "next": {"type": [kind, "null"]}},
        "required": ["items", "next"],
    }


def list_of(name: str) -> Schema:
    """Return the schema of a whole list."""
    return {"type": "object", "properties": {"items": {"type": "array", "items": of(name)}}, "required": ["items"]}


def answer(**properties: Schema) -> Schema:
    """Return the schema of a small answer that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def components() -> dict[str, Schema]:
    """Return the schemas of all records, read off their types."""
    problem = {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        "required": ["type", "title", "status", "detail"],
    }
    found = {"Problem": problem, **{name: _record(kind) for name, kind in RECORDS.items()}}
    return {**found, **{f"{name}Excerpt": _excerpt(found[name]) for name in ("Task", "Schedule")}}


def _excerpt(whole: Schema) -> Schema:
    """Return the schema of a record in a list."""
    names = {
        "type": "array",
        "items": {"type": "string"},
        "description": "what is not whole here: documents are null then, texts are cut; read the thing itself for all",
    }
    return {
        **whole,
        "properties": {**whole["properties"], "excerpts": names},
        "required": [*whole["required"], "excerpts"],
    }


def _record(kind: type[Any]) -> Schema:
    hints = typing.get_type_hints(kind)
    properties = {field.name: _type(hints[field.name]) for field in dataclasses.fields(kind)}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _type(hint: Any) -> Schema:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [_type(one) for one in arguments if one is not type(None)]
        if len(inner) == 1 and "type" in inner[0]:
            return {**inner[0], "type": [inner[0]["type"], "null"]} if "enum" not in inner[0] else {"type": _NULLABLE}
        return {}
    if origin is typing.Literal:
        return {"type": "string"}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"type": "string", "enum": [one.value for one in hint]}
    if origin in (list, tuple):
        return {"type": "array", "items": _type(arguments[0])}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object"}
    return dict(_SCALARS.get(hint, {}))


_NULLABLE = ["string", "null"]
_SCALARS: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    timedelta: {"type": "number", "description": "seconds"},
}
