"""JSON with tags -> Python values. Imports no module that a tag names; runs the constructors of known types alone.

A tag is an object with the key ``$pq``: ``{"$pq": "datetime", "value": "2026-03-01T09:00:00+00:00"}``.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import operator
import re
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from pq_core.main_module import loaded_module, main_module
from pq_core.payload_library import PATHS, library_type
from pq_core.types import TaskId

TAG = "$pq"
MAX_DEPTH = 100
"""How deep values may be nested, in both directions."""

_DURATION = re.compile(r"P(-?\d{1,10})DT(\d{1,5})\.(\d{6})S")
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,40}(?:/[A-Za-z0-9_+-]{1,40}){0,3}")
_MISSING: Any = object()


class Malformed(Exception):
    """Raised inside the codec: ``reason`` reads on from the name of the place, which ``path`` holds inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def at(self, step: str) -> Malformed:
        """Note the step that leads from the outer value to the bad one."""
        self.path.append(step)
        return self


def step(key: object) -> str:
    """Return how ``key`` is written behind a name in a path: ``.price``, ``[3]``, ``['odd key']``."""
    if isinstance(key, str):
        return f".{key}" if key.isidentifier() else f"[{key[:40]!r}]"
    return f"[{key}]" if type(key) is int and key.bit_length() < 64 else f"[{type(key).__name__} key]"


def find_type(reference: object) -> type[Any]:
    """Return the class that ``module:qualname`` names, if it is there already.

    Looks into the dictionaries of loaded modules and classes only: no import, no ``__getattr__``, no descriptor.
    """
    if not isinstance(reference, str) or ":" not in reference:
        raise Malformed("names no type as module:class")
    if reference.endswith("]"):
        return _generic(reference)
    module_name, qualname = reference.split(":", 1)
    module = loaded_module(module_name)
    if not isinstance(module, ModuleType):
        raise Malformed(f"needs the type {reference}, but the module {module_name!r} is not loaded here")
    # A lazy module would load itself on a plain attribute access.
    found: Any = object.__getattribute__(module, "__dict__").get(qualname.split(".", 1)[0])
    for name in qualname.split(".")[1:]:
        found = type.__getattribute__(found, "__dict__").get(name) if isinstance(found, type) else None
    if not isinstance(found, type):
        raise Malformed(f"needs the type {reference}, which is not defined here")
    return found


def _generic(reference: str) -> type[Any]:
    """Return the generic model with its arguments that ``module:Page[module:Note,…]`` names."""
    outer, _, inner = reference[:-1].partition("[")
    origin = find_type(outer)
    if not is_model(origin):
        raise Malformed(f"names {outer} as a generic model, which it is not")
    arguments, depth, begin = [], 0, 0
    for at, character in enumerate(inner + ","):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "," and depth == 0:
            arguments.append(find_type(inner[begin:at]))
            begin = at + 1
    try:
        found = origin[tuple(arguments)]
    except TypeError as error:
        raise Malformed(f"needs the type {reference}: {error}") from error
    if not isinstance(found, type):
        raise Malformed(f"needs the type {reference}, which is none")
    return found


def pydantic_model() -> type[Any] | None:
    """Return Pydantic's ``BaseModel`` if something has loaded it; only then can models exist."""
    main = sys.modules.get("pydantic.main")
    found = None if main is None else main.__dict__.get("BaseModel")
    return found if isinstance(found, type) and hasattr(found, "model_validate") else None


def is_model(kind: type[Any]) -> bool:
    """Return whether ``kind`` is a Pydantic v2 model."""
    base = pydantic_model()
    return base is not None and issubclass(kind, base)


def is_namedtuple(kind: type[Any]) -> bool:
    """Return whether ``kind`` was made by ``namedtuple`` or ``NamedTuple``."""
    names = getattr(kind, "_fields", None)
    return issubclass(kind, tuple) and isinstance(names, tuple) and all(isinstance(name, str) for name in names)


def build_dataclass(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return an instance of the dataclass with exactly these field values, whatever ``__post_init__`` made of them."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise Malformed(f"has a value for {name!r}, which is no field of {kind.__qualname__}")
    made = kind(**{name: value for name, value in values.items() if known[name].init})
    for name, value in values.items():
        if getattr(made, name, _MISSING) is not value:
            object.__setattr__(made, name, value)
    return made


def build_namedtuple(kind: type[Any], values: list[Any]) -> Any:
    """Return the named tuple of these values without calling a ``__new__`` that somebody wrote."""
    if len(values) != len(kind._fields):
        raise Malformed(f"has {len(values)} values, {kind.__qualname__} has {len(kind._fields)} fields")
    return tuple.__new__(kind, values)


def build_model(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return the validated model of these values, given by field names."""
    if getattr(kind, "__pydantic_root_model__", False):
        return kind.model_validate(values["root"])
    try:
        return kind.model_validate(values, by_name=True, by_alias=False)
    except TypeError as error:
        if "by_name" not in str(error):  # Pydantic before 2.11 knows aliases only
            raise
    fields = kind.model_fields
    aliases = {
        name: field.validation_alias for name, field in fields.items() if isinstance(field.validation_alias, str)
    }
    return kind.model_validate({aliases.get(name, name): value for name, value in values.items()})


def shape_of(kind: Any) -> str:
    """Return what tells whether a model has the fields, of the types, that it had when a value of it was stored."""
    known = _SHAPES.get(kind)
    if known is None:
        known = _SHAPES[kind] = _shape(kind)
    return known


_SHAPES: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _shape(kind: Any) -> str:
    fields = ";".join(f"{name}:{field.annotation!r}" for name, field in kind.model_fields.items())
    number = 0xCBF29CE484222325  # FNV-1a: hash() differs between processes, and what is better is in no image
    for byte in fields.replace("__main__.", f"{main_module()}.").encode("utf-8", "backslashreplace"):
        number = (number ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{number:016x}"


def rebuild_model(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return the model of these values as they were when it was stored: its validators have taken them then.

    They may look at a clock or at files, which are others by now.
    """
    model: Any = object.__new__(kind)
    fields = kind.model_fields
    more = {name: value for name, value in values.items() if name not in fields}
    allows_more = kind.model_config.get("extra") == "allow"
    if more and not allows_more:
        raise Malformed(f"has a value for {next(iter(more))!r}, which is no field of {kind.__qualname__}")
    object.__setattr__(model, "__dict__", {name: values[name] for name in fields})
    object.__setattr__(model, "__pydantic_extra__", more if allows_more else None)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields))
    object.__setattr__(model, "__pydantic_private__", {} if kind.__private_attributes__ else None)
    return model


class Decoder:
    """Decodes one JSON value and those inside it.

    ``allowed``: asked about every class that a tag names before anything is made of it.
    """

    __slots__ = ("allowed", "depth")

    def __init__(self, allowed: Callable[[type[Any]], bool] | None = None) -> None:
        self.allowed = allowed
        self.depth = 0

    def value(self, value: Any) -> Any:
        """Return what the JSON value stands for; raises ``Malformed``."""
        kind = type(value)
        if kind is dict:
            return self.tagged(value) if TAG in value else self.object(value)
        return self.array(value) if kind is list else value

    def object(self, values: dict[str, Any]) -> dict[str, Any]:
        """Decode the values of an untagged object."""
        self.deeper()
        decoded = {}
        for key, value in values.items():
            try:
                decoded[key] = self.value(value)
            except Malformed as problem:
                raise problem.at(step(key)) from problem.__cause__
        self.depth -= 1
        return decoded

    def array(self, values: Iterable[Any]) -> list[Any]:
        """Decode the elements of an array."""
        self.deeper()
        decoded: list[Any] = []
        try:
            for value in values:
                decoded.append(self.value(value))
        except Malformed as problem:
            raise problem.at(f"[{len(decoded)}]") from problem.__cause__
        self.depth -= 1
        return decoded

    def tagged(self, tagged: dict[str, Any]) -> Any:
        """Decode a tagged object; whatever goes wrong in a constructor is ``Malformed``."""
        name = tagged[TAG]
        decode = _DECODERS.get(name) if isinstance(name, str) else None
        if decode is None:
            raise Malformed(f"has the unknown tag {str(name)[:40]!r}")
        if "value" not in tagged:
            raise Malformed(f"has the tag {name!r} without a value")
        try:
            return decode(self, tagged)
        except Malformed:
            raise
        except Exception as error:
            raise Malformed(f"is no valid {name}: {type(error).__name__}: {str(error)[:300]}") from error

    def type(self, tagged: dict[str, Any]) -> type[Any]:
        """Return the class that the tag names, if it may be used."""
        kind = find_type(tagged.get("type"))
        if self.allowed is not None and not self.allowed(kind):
            raise Malformed(f"names the type {tagged['type']}, which may not be used here")
        return kind

    def deeper(self) -> None:
        """Count a level of nesting."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Malformed(f"is nested more than {MAX_DEPTH} levels deep")


def _text(tagged: dict[str, Any]) -> str:
    value = tagged["value"]
    if not isinstance(value, str):
        raise Malformed(f"has the tag {tagged[TAG]!r} with a value that is no string")
    return value


def _list(tagged: dict[str, Any]) -> list[Any]:
    value = tagged["value"]
    if not isinstance(value, list):
        raise Malformed(f"has the tag {tagged[TAG]!r} with a value that is no array")
    return value


def _object(decoder: Decoder, tagged: dict[str, Any]) -> dict[str, Any]:
    value = tagged["value"]
    if not isinstance(value, dict):
        raise Malformed(f"has the tag {tagged[TAG]!r} with a value that is no object")
    return decoder.object(value)


def _pairs(decoder: Decoder, tagged: dict[str, Any]) -> list[tuple[Any, Any]]:
    pairs = []
    for pair in _list(tagged):
        if not isinstance(pair, list) or len(pair) != 2:
            raise Malformed(f"has the tag {tagged[TAG]!r} with a value that is no array of pairs")
        key = decoder.array(pair[:1])[0]
        try:
            pairs.append((key, decoder.array(pair[1:])[0]))
        except Malformed as problem:
            problem.path[-1] = step(key)
            raise
    return pairs


def _timezone(tagged: dict[str, Any], offset: Any) -> Any:
    zone = tagged.get("zone")
    if zone is not None:
        if not isinstance(zone, str) or not _ZONE.fullmatch(zone):
            raise Malformed("names a time zone that can't exist")
        return library_type("ZoneInfo")(zone)
    name = tagged.get("name")
    if offset is None or (name is None and "offset" not in tagged):
        return offset
    distance = _parsed_duration(tagged["offset"]) if "offset" in tagged else offset.utcoffset(None)
    return timezone(distance, name) if isinstance(name, str) else timezone(distance)


def _datetime(_: Decoder, tagged: dict[str, Any]) -> datetime:
    value = datetime.fromisoformat(_text(tagged))
    return value.replace(tzinfo=_timezone(tagged, value.tzinfo), fold=1 if tagged.get("fold") else 0)


def _time(_: Decoder, tagged: dict[str, Any]) -> time:
    value = time.fromisoformat(_text(tagged))
    return value.replace(tzinfo=_timezone(tagged, value.tzinfo), fold=1 if tagged.get("fold") else 0)


def _timedelta(_: Decoder, tagged: dict[str, Any]) -> timedelta:
    return _parsed_duration(_text(tagged))


def _parsed_duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Malformed("is no duration of the form P1DT2.000003S")
    return timedelta(days=int(match[1]), seconds=int(match[2]), microseconds=int(match[3]))


def _bytes(_: Decoder, tagged: dict[str, Any]) -> bytes:
    import binascii  # no part of the image: see the encoding

    try:
        return binascii.a2b_base64(_text(tagged), strict_mode=True)
    except binascii.Error as error:
        raise Malformed(f"is no base64: {error}") from error


def _enum(decoder: Decoder, tagged: dict[str, Any]) -> Any:
    kind = decoder.type(tagged)
    if not issubclass(kind, enum.Enum):
        raise Malformed(f"names {tagged['type']} as an enum, which it is not")
    value = tagged["value"]
    members = kind.__members__
    if isinstance(value, str) and value in members:
        return members[value]
    if issubclass(kind, enum.Flag):
        if isinstance(value, str) and all(name in members for name in value.split("|")):
            return functools.reduce(operator.or_, (members[name] for name in value.split("|")))
        if isinstance(value, (int, dict)):
            return kind(decoder.value(value))
    raise Malformed(f"is {str(value)[:40]!r}, which is no member of {tagged['type']}")


def _path(_: Decoder, tagged: dict[str, Any]) -> Any:
    name = tagged.get("type")
    if not isinstance(name, str) or name not in PATHS:
        raise Malformed("names an unknown kind of path")
    return library_type(name)(_text(tagged))


def _namedtuple(decoder: Decoder, tagged: dict[str, Any]) -> Any:
    kind = decoder.type(tagged)
    if not is_namedtuple(kind):
        raise Malformed(f"names {tagged['type']} as a named tuple, which it is not")
    values = _object(decoder, tagged)
    missing = [name for name in kind._fields if name not in values]
    if missing or len(values) != len(kind._fields):
        raise Malformed(f"does not have the fields of {tagged['type']}")
    return build_namedtuple(kind, [values[name] for name in kind._fields])


def _dataclass(decoder: Decoder, tagged: dict[str, Any]) -> Any:
    kind = decoder.type(tagged)
    if not dataclasses.is_dataclass(kind):
        raise Malformed(f"names {tagged['type']} as a dataclass, which it is not")
    return build_dataclass(kind, _object(decoder, tagged))


def _model(decoder: Decoder, tagged: dict[str, Any]) -> Any:
    kind = decoder.type(tagged)
    if not is_model(kind):
        raise Malformed(f"names {tagged['type']} as a Pydantic model, which it is not")
    values = _object(decoder, tagged)
    as_it_was = "shape" in tagged and tagged["shape"] == shape_of(kind)
    model = rebuild_model(kind, values) if as_it_was else build_model(kind, values)
    given = tagged.get("set")
    if isinstance(given, list):
        object.__setattr__(model, "__pydantic_fields_set__", {name for name in given if isinstance(name, str)})
    private = tagged.get("private")
    if isinstance(private, dict):
        for name, value in decoder.object(private).items():
            if name not in kind.__private_attributes__:
                raise Malformed(f"has a value for {name!r}, which is no private attribute of {tagged['type']}")
            model.__pydantic_private__[name] = value
    return model


def _counter(decoder: Decoder, tagged: dict[str, Any]) -> collections.Counter[Any]:
    return collections.Counter(dict(_pairs(decoder, tagged)))


def _deque(decoder: Decoder, tagged: dict[str, Any]) -> collections.deque[Any]:
    return collections.deque(decoder.array(_list(tagged)), tagged.get("maxlen"))


def _complex(_: Decoder, tagged: dict[str, Any]) -> complex:
    real, imaginary = (float(part) for part in _list(tagged))
    return complex(real, imaginary)


def _task_id(decoder: Decoder, tagged: dict[str, Any]) -> TaskId[Any]:
    value = decoder.value(tagged["value"])
    if type(value) is not int:
        raise Malformed("has the tag 'TaskId' with a value that is no integer")
    return TaskId(value)


def _range(decoder: Decoder, tagged: dict[str, Any]) -> range:
    start, stop, stride = decoder.array(_list(tagged))
    return range(start, stop, stride)


_DECODERS: dict[str, Callable[[Decoder, dict[str, Any]], Any]] = {
    "plain": lambda decoder, tagged: decoder.value(tagged["value"]),
    "dict": lambda decoder, tagged: dict(_pairs(decoder, tagged)),
    "OrderedDict": lambda decoder, tagged: collections.OrderedDict(_pairs(decoder, tagged)),
    "Counter": _counter,
    "deque": _deque,
    "tuple": lambda decoder, tagged: tuple(decoder.array(_list(tagged))),
    "set": lambda decoder, tagged: set(decoder.array(_list(tagged))),
    "frozenset": lambda decoder, tagged: frozenset(decoder.array(_list(tagged))),
    "float": lambda _, tagged: float(_text(tagged)),
    "int": lambda _, tagged: int(_text(tagged), 16),
    "complex": _complex,
    "range": _range,
    "datetime": _datetime,
    "date": lambda _, tagged: date.fromisoformat(_text(tagged)),
    "time": _time,
    "timedelta": _timedelta,
    "UUID": lambda _, tagged: library_type("UUID")(_text(tagged)),
    "Decimal": lambda _, tagged: library_type("Decimal")(_text(tagged)),
    "bytes": _bytes,
    "bytearray": lambda decoder, tagged: bytearray(_bytes(decoder, tagged)),
    "TaskId": _task_id,
    "path": _path,
    "enum": _enum,
    "namedtuple": _namedtuple,
    "dataclass": _dataclass,
    "pydantic": _model,
}

TAGS = frozenset(_DECODERS)
"""Every tag that is understood."""
