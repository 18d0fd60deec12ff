"""What a signature says of plain JSON: the string given for a ``datetime`` parameter becomes a datetime.

A refiner takes a value and returns it converted, or the very same object when there is nothing to convert. Only
what ``json.loads`` returns is converted; anything else was made by our own encoder and stays.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import re
import types
import typing
import weakref
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any

from pq_core.payload_decoding import (
    Malformed,
    build_dataclass,
    build_namedtuple,
    is_model,
    is_namedtuple,
    step,
)
from pq_core.payload_library import library_name
from pq_core.types import TaskId

Refiner = Callable[[Any], Any]

_PLAIN = (str, int, float, bool, list, dict)
_MAX_NESTING = 20
_INTERVAL = re.compile(r"(?:(-?\d{1,9}) days? ?)?(?:(-)?(\d{1,9}):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?")


def _timedelta(value: Any) -> timedelta:
    if type(value) in (int, float):
        return timedelta(seconds=value)
    match = _INTERVAL.fullmatch(value)
    if match is None or not value:
        raise ValueError("give seconds, or '1 day 02:03:04.5'")
    days, minus, hours, minutes, seconds, fraction = match.groups()
    distance = timedelta(
        hours=int(hours or 0),
        minutes=int(minutes or 0),
        seconds=int(seconds or 0),
        microseconds=int((fraction or "0").ljust(6, "0")),
    )
    return timedelta(days=int(days or 0)) + (-distance if minus else distance)


def _bytes(value: str) -> bytes:
    if not value.startswith("\\x"):
        raise ValueError(r"give hexadecimal digits after \x, as Postgres writes bytea")
    return bytes.fromhex(value[2:])


_CONVERTERS: dict[Any, tuple[tuple[type[Any], ...], Refiner]] = {
    datetime: ((str,), datetime.fromisoformat),
    date: ((str,), date.fromisoformat),
    time: ((str,), time.fromisoformat),
    timedelta: ((str, int, float), _timedelta),
    bytes: ((str,), _bytes),
    bytearray: ((str,), lambda value: bytearray(_bytes(value))),
    TaskId: ((int,), TaskId),
}


def _converter_of(kind: Any) -> tuple[tuple[type[Any], ...], Refiner] | None:
    """Return what the JSON types are that ``kind`` is made of, and how; None if it says nothing of that."""
    name = library_name(kind)
    if name is None:
        return _CONVERTERS.get(kind)
    if name == "Decimal":
        return (str, int, float), lambda value: kind(str(value))
    return None if name == "ZoneInfo" else ((str,), kind)


def refiner_of(annotation: Any, nesting: int = 0) -> Refiner | None:
    """Return what converts plain JSON to ``annotation``; ``None`` when it says nothing about that."""
    if nesting > _MAX_NESTING:  # a recursive alias
        return None
    try:
        return _refiner_of(annotation, nesting + 1)
    except Exception:  # an annotation can be anything, and running it must not stop a task
        return None


def _refiner_of(annotation: Any, nesting: int) -> Refiner | None:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return refiner_of(arguments[0], nesting)
    if isinstance(annotation, typing.NewType):
        return refiner_of(annotation.__supertype__, nesting)
    if hasattr(annotation, "__value__"):  # type X = ...
        return refiner_of(annotation.__value__, nesting)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, nesting)
    kind = origin or annotation
    if not isinstance(kind, type):
        return None
    if (converter := _converter_of(kind)) is not None:
        return _scalar(kind, *converter)
    if kind in (tuple, set, frozenset):
        return _collection(kind, arguments, nesting)
    if issubclass(kind, dict) and typing.is_typeddict(kind):
        return _typed_dict(kind)
    if kind is not str and issubclass(kind, collections.abc.Mapping) and len(arguments) == 2:
        return _mapping(*arguments, nesting) if issubclass(dict, kind) else None
    if kind is not str and issubclass(list, kind) and len(arguments) == 1:
        return _elements(refiner_of(arguments[0], nesting))
    return _class(kind)


def _class(kind: type[Any]) -> Refiner | None:
    if issubclass(kind, enum.Enum):
        return functools.partial(_member, kind)
    if is_namedtuple(kind):
        return functools.partial(_namedtuple, kind)
    if is_model(kind):
        return functools.partial(_model, kind)
    if dataclasses.is_dataclass(kind):
        return functools.partial(_dataclass, kind)
    return None


def _wrong(value: Any, kind: Any) -> Malformed:
    shown = f"{str(value)[:60]!r}" if isinstance(value, str) else f"of the JSON type {type(value).__name__}"
    return Malformed(f"is {shown}, which is no {getattr(kind, '__name__', kind)}")


def _scalar(kind: Any, accepted: tuple[type[Any], ...], convert: Refiner) -> Refiner:
    def refine(value: Any) -> Any:
        if type(value) not in accepted:
            if type(value) in _PLAIN:
                raise _wrong(value, kind)
            return value
        try:
            return convert(value)
        except Exception as error:
            raise _wrong(value, kind) from error

    return refine


def _member(kind: type[enum.Enum], value: Any) -> Any:
    if type(value) not in _PLAIN:
        return value
    try:
        return kind(value)
    except Exception as error:
        if isinstance(value, str) and value in kind.__members__:
            return kind.__members__[value]
        raise _wrong(value, kind) from error


def _changed(before: list[Any], after: list[Any]) -> bool:
    return any(old is not new for old, new in zip(before, after, strict=True))


def _each(values: list[Any], refiners: typing.Iterable[Refiner | None]) -> list[Any]:
    refined = []
    for index, (value, refine) in enumerate(zip(values, refiners, strict=False)):
        try:
            refined.append(value if refine is None else refine(value))
        except Malformed as problem:
            raise problem.at(f"[{index}]") from problem.__cause__
    return refined


def _by_name(values: dict[str, Any], refiner: Callable[[str], Refiner | None]) -> dict[str, Any]:
    refined = {}
    for name, value in values.items():
        try:
            refine = refiner(name)
            refined[name] = value if refine is None else refine(value)
        except Malformed as problem:
            raise problem.at(step(name)) from problem.__cause__
    return refined


def _elements(refine: Refiner | None) -> Refiner | None:
    if refine is None:
        return None

    def refine_list(value: Any) -> Any:
        if type(value) is not list:
            return value
        refined = _each(value, [refine] * len(value))
        return refined if _changed(value, refined) else value

    return refine_list


def _collection(kind: Any, arguments: tuple[Any, ...], nesting: int) -> Refiner:
    fixed = kind is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis)
    refiners = [None if argument is Ellipsis else refiner_of(argument, nesting) for argument in arguments]

    def refine(value: Any) -> Any:
        if type(value) is not list:
            if type(value) in _PLAIN:
                raise _wrong(value, kind)
            return value
        if fixed and refiners and len(value) != len(refiners):
            raise Malformed(f"has {len(value)} elements instead of {len(refiners)}")
        each = refiners if fixed and refiners else (refiners or [None])[:1] * len(value)
        try:
            return kind(_each(value, each))
        except TypeError as error:
            raise Malformed("has elements that can't be in a set") from error

    return refine


def _key(kind: Any, nesting: int) -> Refiner | None:
    if kind in (int, float):
        convert: Callable[[str], Any] = kind
    else:
        found = refiner_of(kind, nesting)
        if found is None:
            return None
        convert = found

    def refine(value: Any) -> Any:
        try:
            return convert(value) if type(value) is str else value
        except ValueError as error:
            raise _wrong(value, kind) from error

    return refine


def _mapping(key_type: Any, value_type: Any, nesting: int) -> Refiner | None:
    refine_key, refine_value = _key(key_type, nesting), refiner_of(value_type, nesting)
    if refine_key is None and refine_value is None:
        return None

    def refine(value: Any) -> Any:
        if type(value) is not dict:
            return value
        values = _by_name(value, lambda _: refine_value)
        keys = list(value) if refine_key is None else _each(list(value), [refine_key] * len(value))
        same = not _changed(list(value), keys) and not _changed(list(value.values()), list(values.values()))
        return value if same else dict(zip(keys, values.values(), strict=True))

    return refine


def _typed_dict(kind: type[Any]) -> Refiner:
    def refine(value: Any) -> Any:
        if type(value) is not dict:
            return value
        refined = _by_name(value, _field_refiners(kind).get)
        return refined if _changed(list(value.values()), list(refined.values())) else value

    return refine


def _union(members: tuple[Any, ...], nesting: int) -> Refiner | None:
    plain = {typing.get_origin(member) or member for member in members}
    if Any in plain or object in plain:
        return None
    refiners = [found for member in members if (found := refiner_of(member, nesting)) is not None]
    # What is plain JSON and a member as it is stays; a list or a dict may still have elements to refine.
    stays = {kind for kind in (str, int, float, bool) if kind in plain} | ({int} if float in plain else set())
    if not refiners:
        return None

    def refine(value: Any) -> Any:
        if type(value) not in _PLAIN or type(value) in stays:
            return value
        problem: Malformed | None = None
        for candidate in refiners:
            try:
                refined = candidate(value)
            except Malformed as malformed:
                problem = problem or malformed
            else:
                if refined is not value:
                    return refined
        if problem is None or type(value) in plain:
            return value
        raise problem

    return refine


_fields: weakref.WeakKeyDictionary[type[Any], dict[str, Refiner | None]] = weakref.WeakKeyDictionary()


def _field_refiners(kind: type[Any]) -> dict[str, Refiner | None]:
    """Return the refiners of a class's fields, looked up at first use: a field may be of the class itself."""
    found = _fields.get(kind)
    if found is None:
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except Exception:
            hints = {}
        found = _fields[kind] = {name: refiner_of(hint) for name, hint in hints.items()}
    return found


def _built(kind: type[Any], build: Callable[[], Any]) -> Any:
    try:
        return build()
    except Malformed:
        raise
    except Exception as error:
        raise Malformed(f"is no valid {kind.__qualname__}: {type(error).__name__}: {str(error)[:300]}") from error


def _namedtuple(kind: type[Any], value: Any) -> Any:
    refiners = _field_refiners(kind)
    if type(value) is dict:
        values = {**getattr(kind, "_field_defaults", {}), **_by_name(value, refiners.get)}
        if set(values) != set(kind._fields):
            raise Malformed(f"does not have the fields of {kind.__qualname__}")
        return build_namedtuple(kind, [values[name] for name in kind._fields])
    if type(value) is list:
        return build_namedtuple(kind, _each(value, (refiners.get(name) for name in kind._fields)))
    if type(value) in _PLAIN:
        raise _wrong(value, kind)
    return value


def _model(kind: type[Any], value: Any) -> Any:
    if type(value) in _PLAIN and (type(value) is dict or getattr(kind, "__pydantic_root_model__", False)):
        return _built(kind, lambda: kind.model_validate(value))
    if type(value) in _PLAIN:
        raise _wrong(value, kind)
    return value


def _dataclass(kind: type[Any], value: Any) -> Any:
    if type(value) is dict:
        return _built(kind, lambda: build_dataclass(kind, _by_name(value, _field_refiners(kind).get)))
    if type(value) in _PLAIN:
        raise _wrong(value, kind)
    return value
