"""Python values -> JSON with tags, or ``Refused`` with the place and the reason.

The rule: what is encoded decodes to a value that is equal and of the same type. For the types listed in
``_ENCODERS`` that is so by construction; what stands on a class of the application is decoded and compared.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pq_core.main_module import module_of
from pq_core.payload_conversions import HINTS, conversion_of, full_name
from pq_core.payload_decoding import (
    MAX_DEPTH,
    TAG,
    Decoder,
    Malformed,
    find_type,
    is_model,
    is_namedtuple,
    pydantic_model,
    shape_of,
    step,
)
from pq_core.payload_library import PATHS, library_base, library_name
from pq_core.types import TaskId

if TYPE_CHECKING:
    from decimal import Decimal

JSON = Any

# Below the smallest limit that sys.set_int_max_str_digits() accepts, so that json can always read it back.
_PLAIN_INT_BITS = 2048
_QUICK_INT = 1 << 256
_BUILTINS: tuple[type[Any], ...] = (
    *(str, int, float, complex, bytes, bytearray),
    *(list, dict, tuple, set, frozenset, collections.deque),
    *(datetime, date, time, timedelta),
)
"""What a class of the application must not be a subclass of: it would lose its own part."""
_LIBRARY = ("Decimal", "UUID")
"""More of them, by name."""


class Refused(Exception):
    """Raised inside the codec: ``reason`` reads on from the name of the place, which ``path`` holds inside out."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_large = too_large
        self.path: list[str] = []

    def at(self, step: str) -> Refused:
        """Note the step that leads from the outer value to the refused one."""
        self.path.append(step)
        return self


class Encoder:
    """Encodes values until one is refused.

    ``limit``: values it takes in all. Every value is at least one byte of JSON, so that many are too large
    anyway; the count ends what small structures that share their parts would otherwise unfold to.
    """

    __slots__ = ("characters", "limit", "nodes", "stack")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nodes = 0
        self.characters = 0
        self.stack: list[object] = []

    @property
    def most(self) -> int:
        """An upper bound of the bytes of JSON encoded so far."""
        return 640 * self.nodes + 6 * self.characters

    def value(self, value: Any) -> JSON:
        """Return the JSON of ``value``; raises ``Refused``."""
        self.nodes += 1
        kind = type(value)
        encode = _ENCODERS.get(kind)
        return (encode or _encoder_of(kind))(self, value)

    def text(self, value: str) -> str:
        """Return the string unchanged if Postgres can store it."""
        self.characters += len(value)
        if "\x00" in value:
            raise Refused("contains a NUL character, which Postgres can't store: pass bytes, or remove it")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise Refused("contains a lone surrogate, which Postgres can't store: pass bytes") from None
        return value

    def enter(self, value: object) -> None:
        """Go into a container: not too deep, not too wide, not twice into the same."""
        if len(self.stack) >= MAX_DEPTH:
            if any(outer is value for outer in self.stack):
                raise Refused("contains itself")
            raise Refused(f"is nested more than {MAX_DEPTH} levels deep")
        if self.nodes > self.limit:
            raise Refused("has too many values", too_large=True)
        self.stack.append(value)

    def array(self, values: Iterable[Any], whole: object) -> list[JSON]:
        """Encode the elements of ``whole``."""
        self.enter(whole)
        encoded: list[JSON] = []
        try:
            for value in values:
                encoded.append(self.value(value))
        except Refused as refused:
            raise refused.at(f"[{len(encoded)}]") from refused.__cause__
        self.stack.pop()
        return encoded

    def attributes(self, values: Iterable[tuple[str, Any]], whole: object) -> dict[str, JSON]:
        """Encode values by name."""
        self.enter(whole)
        encoded: dict[str, JSON] = {}
        for name, value in values:
            try:
                encoded[self.text(name)] = self.value(value)
            except Refused as refused:
                raise refused.at(step(name)) from refused.__cause__
        self.stack.pop()
        return encoded

    def pairs(self, values: dict[Any, Any]) -> list[list[JSON]]:
        """Encode a mapping whose keys are not all plain strings, or whose order counts."""
        self.enter(values)
        encoded = []
        for key, value in values.items():
            try:
                name = self.value(key)
            except Refused as refused:
                refused.reason = f"has a key that {refused.reason}"
                refused.path.clear()
                raise
            try:
                encoded.append([name, self.value(value)])
            except Refused as refused:
                raise refused.at(step(key)) from refused.__cause__
        self.stack.pop()
        return encoded


def are_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bool:
    """Tell whether arguments are small and JSON as they are, as most: a quick yes, for which False is a perhaps."""
    if not kwargs:
        return _bound(args) <= limit
    for name in kwargs:
        if type(name) is not str:
            return False
    return _bound(args) + _bound(kwargs) + _bound(kwargs.values()) <= limit


def _bound(values: Iterable[Any]) -> float:
    """Return an upper bound of the bytes of JSON, infinity if not every value is JSON as it is for sure."""
    most = 0
    for value in values:
        kind = type(value)
        most += 640
        if kind is int:
            if not -_QUICK_INT < value < _QUICK_INT:
                return math.inf
        elif kind is str:
            if not value.isascii() or "\x00" in value:
                return math.inf
            most += 6 * len(value)
        elif kind is float:
            if not 1e-300 < value < 1e16 and not -1e16 < value < -1e-300:
                return math.inf
        elif kind is not bool and value is not None:
            return math.inf
    return most


def _attributes(value: Any) -> set[str]:
    """Return the names of what an instance holds, but for what is computed again when asked for."""
    kind = type(value)
    names = set(getattr(value, "__dict__", ()))
    computed = {name for name in names if isinstance(getattr(kind, name, None), functools.cached_property)}
    return names - computed - {"__orig_class__"}


def same(left: Any, right: Any) -> bool:
    """Return whether both are equal and of the same type, all the way down."""
    kind = type(left)
    if kind is not type(right):
        convert = conversion_of(kind)
        return convert is not None and same(convert(left), right)
    if issubclass(kind, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right)) and bool(left == right)
    if issubclass(kind, dict):
        return len(left) == len(right) and all(key in right and same(left[key], right[key]) for key in left)
    if not bool(left == right):
        return False
    if dataclasses.is_dataclass(kind):
        return _attributes(left) == _attributes(right) and all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(kind)
        )
    if is_model(kind):
        return same(left.__dict__, right.__dict__) or all(
            same(getattr(left, name), getattr(right, name)) for name in kind.model_fields
        )
    return True


def _tag(name: str, value: JSON, /, **more: JSON) -> dict[str, JSON]:
    return {TAG: name, "value": value, **more}


def _unchanged(_: Encoder, value: Any) -> JSON:
    return value


def _int(encoder: Encoder, value: int) -> JSON:
    return value if value.bit_length() <= _PLAIN_INT_BITS else _tag("int", encoder.text(hex(value)))


def _float(_: Encoder, value: float) -> JSON:
    # jsonb holds numerics: it has no -0.0, no infinity, and gives 1e+22 back as an integer.
    if math.isnan(value):
        raise Refused("is NaN, which is not equal to itself: pass None")
    text = repr(value)
    return _tag("float", text) if "e+" in text or text in ("-0.0", "inf", "-inf") else value


def _complex(encoder: Encoder, value: complex) -> JSON:
    for part in (value.real, value.imag):
        _float(encoder, part)
    return _tag("complex", [repr(value.real), repr(value.imag)])


def _list(encoder: Encoder, value: list[Any]) -> JSON:
    return encoder.array(value, value)


def _dict(encoder: Encoder, value: dict[Any, Any]) -> JSON:
    if TAG in value or any(type(key) is not str for key in value):
        return _tag("dict", encoder.pairs(value))
    return encoder.attributes(value.items(), value)


def _tzinfo(value: datetime | time) -> dict[str, JSON]:
    zone: Any = value.tzinfo
    more: dict[str, JSON] = {"fold": 1} if value.fold else {}
    if library_name(type(zone)) == "ZoneInfo":
        if zone.key is None:
            raise Refused("has a ZoneInfo without a key: use ZoneInfo(name)")
        more["zone"] = zone.key
    elif type(zone) is timezone:
        name = zone.tzname(None)
        offset = zone.utcoffset(None)
        if name != timezone(offset).tzname(None):
            more["name"] = name
        if offset.microseconds:  # fromisoformat() of some versions takes +00:00:00.000001 for UTC
            more["offset"] = _duration(offset)
    elif zone is not None:
        raise Refused(f"has a tzinfo of type {full_name(type(zone))}: use zoneinfo.ZoneInfo or datetime.timezone")
    return more


def _datetime(encoder: Encoder, value: datetime) -> JSON:
    more = _tzinfo(value)
    if "name" in more:
        encoder.text(more["name"])
    tagged = _tag("datetime", value.isoformat(), **more)
    return _proven(value, tagged) if "zone" in more else tagged


def _time(encoder: Encoder, value: time) -> JSON:
    more = _tzinfo(value)
    if "name" in more:
        encoder.text(more["name"])
    # With a zone the offset is unknown without a date: isoformat() leaves it out.
    tagged = _tag("time", value.isoformat(), **more)
    return _proven(value, tagged) if "zone" in more else tagged


def _timedelta(_: Encoder, value: timedelta) -> JSON:
    return _tag("timedelta", _duration(value))


def _duration(value: timedelta) -> str:
    return f"P{value.days}DT{value.seconds}.{value.microseconds:06d}S"


def _decimal(encoder: Encoder, value: Decimal) -> JSON:
    if value.is_nan():
        raise Refused("is a Decimal NaN, which is not equal to itself: pass None")
    return _tag("Decimal", encoder.text(str(value)))


def _bytes(encoder: Encoder, value: bytes | bytearray) -> JSON:
    import binascii  # it and zlib are ten mapped regions, which each fork copies

    return _tag(type(value).__name__, encoder.text(binascii.b2a_base64(value, newline=False).decode()))


def _path(encoder: Encoder, value: Any) -> JSON:
    return _proven(value, _tag("path", encoder.text(str(value)), type=type(value).__name__))


def _deque(encoder: Encoder, value: collections.deque[Any]) -> JSON:
    return _tag("deque", encoder.array(value, value), maxlen=value.maxlen)


_ENCODERS: dict[type[Any], Callable[[Encoder, Any], JSON]] = {
    type(None): _unchanged,
    bool: _unchanged,
    int: _int,
    float: _float,
    str: Encoder.text,
    list: _list,
    dict: _dict,
    complex: _complex,
    tuple: lambda encoder, value: _tag("tuple", encoder.array(value, value)),
    set: lambda encoder, value: _tag("set", encoder.array(value, value)),
    frozenset: lambda encoder, value: _tag("frozenset", encoder.array(value, value)),
    range: lambda encoder, value: _tag("range", encoder.array((value.start, value.stop, value.step), value)),
    collections.OrderedDict: lambda encoder, value: _tag("OrderedDict", encoder.pairs(value)),
    collections.Counter: lambda encoder, value: _tag("Counter", encoder.pairs(value)),
    collections.deque: _deque,
    datetime: _datetime,
    date: lambda _, value: _tag("date", value.isoformat()),
    time: _time,
    timedelta: _timedelta,
    bytes: _bytes,
    bytearray: _bytes,
    TaskId: lambda encoder, value: _tag("TaskId", _int(encoder, int(value))),
}

_OF_THE_LIBRARY: dict[str, Callable[[Encoder, Any], JSON]] = {
    "UUID": lambda _, value: _tag("UUID", str(value)),
    "Decimal": _decimal,
    **dict.fromkeys(PATHS, _path),
}
"""By name: their modules may not be loaded yet."""


def _encoder_of(kind: type[Any]) -> Callable[[Encoder, Any], JSON]:
    """Return how to encode an instance of a class that is not among ``_ENCODERS``, most likely somebody's own."""
    encode = _OF_THE_LIBRARY.get(library_name(kind) or "")
    if encode is not None:
        _ENCODERS[kind] = encode  # now that it is there
        return encode
    if (convert := conversion_of(kind)) is not None:
        return functools.partial(_converted, convert)
    if issubclass(kind, enum.Enum):
        return _enum
    if is_namedtuple(kind):
        return _namedtuple
    base = next((one for one in _BUILTINS if issubclass(kind, one)), None) or library_base(kind, *_LIBRARY)
    if base is not None:
        plain = base.__name__
        how = HINTS.get(plain, f"{plain}(value)")
        raise Refused(
            f"is of type {full_name(kind)}, a subclass of {plain} that would arrive as {plain}: pass {how}, or name it "
            "to pq_core.payload.interchangeable()"
        )
    if is_model(kind):
        return _model
    if dataclasses.is_dataclass(kind) and not issubclass(kind, BaseException):
        return _dataclass
    raise Refused(
        f"is of type {full_name(kind)}, which can't be stored: "
        "pass an id, plain values, a dataclass or a Pydantic model"
    )


def _converted(convert: Callable[[Any], Any], encoder: Encoder, value: Any) -> JSON:
    plain = convert(value)
    if type(plain) is type(value) or not bool(plain == value):
        made = full_name(type(plain))
        raise Refused(
            f"is of type {full_name(type(value))}, and the {made} that it is to be stored as is not equal to it"
        )
    return encoder.value(plain)


def _reference(kind: type[Any]) -> str:
    """Return ``module:qualname``, proven to lead back to the class; of a generic model with its arguments."""
    reference = _written(kind)
    try:
        found = find_type(reference)
    except Malformed:
        found = None
    if found is not kind:
        raise Refused(f"is of the class {full_name(kind)}, which can't be found by the name {reference}")
    return reference


def _written(kind: type[Any]) -> str:
    """Return how a class is named where a worker is to find it: the program that runs by the name to import it by."""
    generic = getattr(kind, "__pydantic_generic_metadata__", None) or {}
    if (origin := generic.get("origin")) is not None:
        arguments = generic.get("args", ())
        if not all(isinstance(one, type) for one in arguments):
            own = f"class X({kind.__name__})"
            raise Refused(f"is of the generic model {full_name(kind)}, whose arguments have no names: declare {own}")
        return f"{_written(origin)}[{','.join(map(_written, arguments))}]"
    if "<locals>" in kind.__qualname__:
        raise Refused(f"is of the local class {full_name(kind)}: define it at the top of a module")
    return f"{module_of(kind)}:{kind.__qualname__}"


def _proven(value: Any, tagged: dict[str, JSON]) -> JSON:
    """Return the tagged object, after making sure that it decodes to the value."""
    problem = "it would not arrive equal and of the same type"
    try:
        if same(value, Decoder().value(tagged)):
            return tagged
    except Malformed as malformed:
        problem = "it " + malformed.reason
    except Exception as error:
        problem = f"comparing it raised {type(error).__name__}"
    raise Refused(f"is of type {full_name(type(value))}, which can't be stored: {problem}")


def _enum(encoder: Encoder, value: enum.Enum) -> JSON:
    name: JSON = value.name
    if not isinstance(name, str):  # bits of a flag that no member has
        name = encoder.value(int(value.value))
    return _proven(value, _tag("enum", name, type=_reference(type(value))))


def _namedtuple(encoder: Encoder, value: Any) -> JSON:
    reference = _reference(type(value))
    if getattr(value, "__dict__", None):
        raise Refused(f"is of type {full_name(type(value))}, whose instances hold more than their fields")
    values = encoder.attributes(zip(value._fields, value, strict=True), value)
    return _proven(value, _tag("namedtuple", values, type=reference))


def _dataclass(encoder: Encoder, value: Any) -> JSON:
    kind = type(value)
    reference = _reference(kind)
    try:
        values = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    except AttributeError as error:
        raise Refused(f"is a {full_name(kind)} without a value for {error.name!r}") from error
    return _proven(value, _tag("dataclass", encoder.attributes(values, value), type=reference))


def _model(encoder: Encoder, value: Any) -> JSON:
    reference = _reference(type(value))
    more: dict[str, JSON] = {"set": sorted(value.model_fields_set)}
    fields = [(name, getattr(value, name)) for name in type(value).model_fields]
    fields += (value.model_extra or {}).items()
    depth = len(encoder.stack)
    try:
        if value.__pydantic_private__:
            more["private"] = encoder.attributes(value.__pydantic_private__.items(), value)
        values = encoder.attributes(fields, value)
        # Its validators take it now, so they need not be asked again.
        proven = _proven(value, _tag("pydantic", values, type=reference, **more))
        return {**proven, "shape": shape_of(type(value))}
    except Refused as refused:
        # A field of a type that only Pydantic knows (a URL): perhaps its own JSON leads back to it.
        if refused.too_large or pydantic_model() is None:
            raise
        del encoder.stack[depth:]
        try:
            values = value.model_dump(mode="json", round_trip=True, warnings=False)
            values = values if isinstance(values, dict) else {"root": values}
            return _proven(value, _tag("pydantic", encoder.attributes(values.items(), value), type=reference, **more))
        except Exception:
            raise refused from None
