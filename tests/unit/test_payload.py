"""The payload rule: an argument arrives equal and of the same type, or it is refused by name."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import json
import math
import os
import pathlib
import subprocess
import sys
import uuid
import zoneinfo
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pq_core import payload
from pq_core.errors import PayloadDecodeError, PayloadError, PayloadTooLarge
from pq_core.payload_encoding import Encoder, are_plain
from pq_core.types import TaskId
from tests.extras import has, needs

if TYPE_CHECKING:
    from decimal import Decimal as Unknown


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    CRIMSON = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    FAST = "fast"
    SLOW = "slow"


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    ALL = READ | WRITE


class Bits(enum.IntFlag, boundary=enum.KEEP):
    ONE = 1


class Point(NamedTuple):
    x: float
    y: float = 0.0


Pair = collections.namedtuple("Pair", "left right")


@dataclass
class Item:
    sku: str
    price: Any


@dataclass(frozen=True, slots=True)
class Order:
    id: uuid.UUID
    items: list[Item]
    placed: datetime
    note: str | None = None


@dataclass
class Derived:
    base: int
    doubled: int = field(init=False)
    hidden: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        self.doubled = self.base * 2
        self.cache = {"warm": True}

    @cached_property
    def tripled(self) -> int:
        return self.base * 3


@dataclass
class Scaled:
    value: int
    factor: InitVar[int]

    def __post_init__(self, factor: int) -> None:
        self.value *= factor


@dataclass(eq=False)
class Incomparable:
    value: int


@dataclass
class Node:
    value: int
    rest: Node | None = None


if PYDANTIC := has("pydantic"):
    import pydantic

    class Account(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(extra="allow")

        id: uuid.UUID
        balance: Decimal = Decimal("0")
        tags: set[str] = set()
        owner: str = pydantic.Field(default="", alias="ownerName")
        _seen: int = pydantic.PrivateAttr(default=0)

    class Site(pydantic.BaseModel):
        url: pydantic.HttpUrl

    class Secret(pydantic.BaseModel):
        key: pydantic.SecretStr

    class Numbers(pydantic.RootModel[list[int]]):
        pass


class Options(TypedDict, total=False):
    since: datetime
    name: str


class OwnZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "own"

    def dst(self, moment: datetime | None) -> None:
        return None


class MyStr(str):
    pass


class MyInt(int):
    pass


def alike(left: Any, right: Any) -> bool:
    """Equal and of the same type in every corner; written apart from the code under test."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, dict):
        pairs = {key: key for key in right}
        return all(type(key) is type(pairs[key]) and alike(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple, collections.deque)):
        return all(map(alike, left, right))
    if isinstance(left, (set, frozenset)):
        return {(type(e), e) for e in left} == {(type(e), e) for e in right}
    if dataclasses.is_dataclass(left):
        return all(alike(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, float):
        return math.copysign(1, left) == math.copysign(1, right)
    if isinstance(left, datetime):
        return (left.tzinfo, left.tzname(), left.fold) == (right.tzinfo, right.tzname(), right.fold)
    return True


def arrived(value: Any, function: Any = None) -> Any:
    text = payload.dumps(payload.encode((value,), {}, signature=function))
    args, kwargs = payload.decode(text, signature=function)
    assert kwargs == {}
    return args[0]


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
timezones = (
    st.none()
    | st.just(UTC)
    | st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)
    | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
    | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(lambda offset: timezone(offset, "named"))
)
moments = st.builds(
    lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
    timezones,
    st.integers(0, 1),
)
members = st.sampled_from([*Color, *Level, *Mode, Rights.READ, Rights.ALL, Rights(0), Bits.ONE, Bits(1 << 70)])
hashables = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**5000), 2**5000)
    | st.integers(-(2**5000), 2**5000).map(TaskId)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | moments
    | st.dates()
    | st.times(timezones=timezones)
    | st.timedeltas()
    | st.complex_numbers(allow_nan=False)
    | members
    | st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
    | texts.map(pathlib.Path)
    | texts.map(pathlib.PurePosixPath)
    | texts.map(pathlib.PureWindowsPath)
)
hashables = st.recursive(
    hashables, lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3), max_leaves=4
)
keys = texts | st.just("$pq") | hashables
values = st.recursive(
    hashables | st.binary(max_size=9).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | st.just("$pq"), inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict)
        | st.sets(hashables, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(lambda items: collections.deque(items, maxlen=3))
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Item, texts, inner)
        | (st.builds(Account, id=st.uuids(), extra=st.decimals(allow_nan=False)) if PYDANTIC else st.nothing())
    ),
    max_leaves=10,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


@given(values)
@settings(deadline=None)
def test_a_value_arrives_equal_and_of_the_same_type(value: Any) -> None:
    assert alike(arrived(value), value)


@given(st.lists(values, max_size=3), st.dictionaries(texts, values, max_size=3))
@settings(deadline=None)
def test_arguments_arrive_in_their_places(positional: list[Any], keywords: dict[str, Any]) -> None:
    args, kwargs = payload.decode(payload.dumps(payload.encode(tuple(positional), keywords)))
    assert alike(args, tuple(positional))
    assert alike(kwargs, keywords)


@given(values)
@settings(deadline=None)
def test_a_result_arrives_equal_and_of_the_same_type(value: Any) -> None:
    stored = json.loads(payload.dumps(payload.encode_result(value)))
    assert alike(payload.decode_result(stored), value)


@given(json_values)
@settings(deadline=None)
def test_plain_json_is_stored_as_it_is(value: Any) -> None:
    text = json.dumps(value)
    if "$pq" in text or "\\u0000" in text or "\\ud" in text or "e+" in text or "-0.0" in text:
        return
    assert payload.encode((value,), {}) == {"args": [value], "kwargs": {}}


CONVERTIBLE: list[Any] = ["2026-01-01", "1", "RED", "fast", "\\x00", ["2026-01-01"], {"1": "1"}, {"x": 1}, [1, 2]]


def annotated(annotation: Any) -> Any:
    def task(argument: Any) -> None: ...

    task.__annotations__["argument"] = annotation
    return task


ANNOTATIONS: list[Any] = [
    *(Any, str, int, float, bool, list, dict, tuple, set, object, None, "Unknown", 7),
    *(datetime, date, time, timedelta, uuid.UUID, Decimal, bytes, pathlib.Path, Color, Level, Mode, Rights),
    *(list[datetime], tuple[int, ...], tuple[date, str], set[str], frozenset[uuid.UUID], dict[str, Decimal]),
    *(dict[int, str], dict[uuid.UUID, Color], datetime | None, str | datetime, list[str] | None, int | list[date]),
    *(Point, Pair, Item, Order, Node, Options, Annotated[datetime, "when"]),
    *((Account, Numbers) if PYDANTIC else ()),
    *(TaskId, TaskId[str], TaskId[int] | None),
]


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
@given(value=values | json_values | st.sampled_from(CONVERTIBLE))
@settings(max_examples=30, deadline=None)
def test_a_signature_never_alters_what_was_enqueued(annotation: Any, value: Any) -> None:
    function = annotated(annotation)
    try:
        got = arrived(value, function)
    except PayloadError:
        with pytest.raises(PayloadError, match=r"task: argument"):
            payload.encode((value,), {}, signature=function)
    else:
        assert alike(got, value)


@given(json_values | st.dictionaries(st.sampled_from(["$pq", "value", "type", "zone", "set"]), json_values))
@settings(deadline=None)
def test_decoding_anything_raises_payload_decode_error_alone(value: Any) -> None:
    loaded = set(sys.modules)
    for argument in (value, [value], {"args": [value]}, {"kwargs": {"a": value}}, json.dumps({"args": [value]})):
        for function in (
            None,
            annotated(datetime),
            annotated(Order),
            annotated(dict[str, Account if PYDANTIC else Node]),
        ):
            with contextlib.suppress(PayloadDecodeError):
                payload.decode(argument, signature=function)
    assert set(sys.modules) - loaded == set()


TAGS = sorted(payload.TAGS)


@given(
    st.sampled_from(TAGS) | st.text(max_size=5),
    json_values
    | st.sampled_from(["P1DT1.000001S", "2026-01-01", "2026-01-01T00:00:00+01:00", "a/b", [["a", 1]], "READ|WRITE"]),
    st.sampled_from([f"{__name__}:{name}" for name in ("Color", "Rights", "Point", "Item", "Node", "Account", "gone")])
    | st.sampled_from(["os:system", "antigravity:x", "sys:modules", "subprocess:Popen", ":", "builtins:object"])
    | json_values,
    st.sampled_from(["Europe/Berlin", "../../etc/passwd", "/etc/passwd", "America", "antigravity", "", "."])
    | json_values,
)
@settings(deadline=None)
def test_decoding_any_tag_raises_payload_decode_error_alone(tag: str, value: Any, kind: Any, zone: Any) -> None:
    tagged = {"$pq": tag, "value": value, "type": kind, "zone": zone, "maxlen": zone, "set": value, "private": value}
    loaded = set(sys.modules)
    for stored in (tagged, [tagged], {"a": {"$pq": "tuple", "value": [tagged]}}):
        with contextlib.suppress(PayloadDecodeError):
            payload.decode_result(stored)
    # Looking for an unknown time zone loads the standard library's reader of resources.
    assert {name for name in set(sys.modules) - loaded if not name.startswith(("tzdata", "importlib."))} == set()


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "Infinity", "[" * 100_000, "9" * 5000, '"x"', "7", "null", '{"args": 1}']
)
def test_unreadable_text_is_a_payload_decode_error(text: str) -> None:
    with pytest.raises(PayloadDecodeError):
        payload.decode(text)


@pytest.mark.parametrize("value", [{"args": None, "kwargs": None}, {}, "{}"])
def test_a_payload_without_arguments_has_none(value: Any) -> None:
    assert payload.decode(value) == ((), {})


def receipt(order: Any, *more: Any, copy: Any = None, **extra: Any) -> None: ...


class Foreign:
    pass


def local_dataclass() -> Any:
    @dataclass
    class Local:
        value: int

    return Local(1)


cyclic: list[Any] = []
cyclic.append([cyclic])
deep: list[Any] = []
for _ in range(99):
    deep = [deep]
shared: list[Any] = []
for _ in range(90):
    shared = [shared, shared]


@pytest.mark.parametrize(
    ("value", "place", "reason"),
    [
        (math.nan, "order", "NaN"),
        (Decimal("NaN"), "order", "NaN"),
        (Decimal("sNaN"), "order", "NaN"),
        (complex(0, math.nan), "order", "NaN"),
        ({"items": [1, {"price": math.nan}]}, "order.items[1].price", "NaN"),
        (Order(uuid.UUID(int=1), [Item("a", 1), Item("b", math.nan)], datetime.now()), "order.items[1].price", "NaN"),
        ({"odd key": ["\x00"]}, "order['odd key'][0]", "NUL"),
        ({"a\x00": 1}, r"order['a\x00']", "NUL"),
        ({1: {2: "\ud800"}}, "order[1][2]", "surrogate"),
        ({math.nan: 1}, "order", "has a key that is NaN"),
        ((1, "\udcff"), "order[1]", "surrogate"),
        (pathlib.Path("\udcff"), "order", "surrogate"),
        (object(), "order", "builtins.object"),
        (Foreign(), "order", "Foreign, which can't be stored"),
        (len, "order", "builtin_function_or_method"),
        (ValueError("x"), "order", "ValueError"),
        (MyStr("x"), "order", "a subclass of str"),
        ([MyInt(1)], "order[0]", "a subclass of int"),
        (collections.defaultdict(list), "order", "a subclass of dict"),
        (local_dataclass(), "order", "local class"),
        (cast(Any, enum.Enum("Made", "A")).A, "order", "can't be found"),
        (Scaled(2, 3), "order", "missing 1 required positional argument"),
        (Incomparable(1), "order", "would not arrive equal"),
        (datetime(2026, 1, 1, tzinfo=OwnZone()), "order", "tzinfo"),
        *([(Secret(key=pydantic.SecretStr("s")), "order.key", "SecretStr")] if PYDANTIC else []),
        (cyclic, "order[0][0]", "contains itself"),
        ([[deep]], "order" + "[0]" * 100, "more than 100 levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_not_arrive_is_refused_by_name(value: Any, place: str, reason: str) -> None:
    with pytest.raises(PayloadError) as caught:
        payload.encode((value,), {}, signature=receipt, what="billing.receipt")
    message = str(caught.value)
    assert message.startswith(f"billing.receipt: {place}")
    assert reason in message


def test_every_kind_of_parameter_is_named() -> None:
    for args, kwargs, name in [
        ((1, 2, math.nan), {}, "more[1]"),
        ((1,), {"copy": math.nan}, "copy"),
        ((1,), {"other": math.nan}, "other"),
    ]:
        with pytest.raises(PayloadError, match=rf"task: {name.replace('[', '.').replace(']', '.')} is NaN"):
            payload.encode(args, kwargs, signature=receipt)
    with pytest.raises(PayloadError, match=r"task: args\[1\] is NaN"):
        payload.encode((1, math.nan), {})
    with pytest.raises(PayloadError, match=r"task: a\\x00b contains a NUL"):
        payload.encode((), {"a\x00b": 1})
    with pytest.raises(PayloadError, match=r"keyword of type MyStr"):
        payload.encode((), {MyStr("a"): 1})


def test_the_deepest_allowed_value_arrives() -> None:
    assert arrived(deep) == deep
    assert arrived({(1, 2): deep[0]}) == {(1, 2): deep[0]}


def test_size_is_limited_in_bytes_of_json() -> None:
    assert payload.encode(("x" * 100,), {}, limit=125)
    with pytest.raises(PayloadTooLarge, match="the arguments take 126 bytes of JSON, over the payload_limit of 125"):
        payload.encode(("x" * 101,), {}, limit=125)
    with pytest.raises(PayloadTooLarge, match="payload_limit"):
        payload.encode(("ä" * 60,), {}, limit=125)
    with pytest.raises(PayloadTooLarge, match=r"the arguments take 1048\d{3} bytes"):
        payload.encode((bytes(786_432),), {})
    with pytest.raises(PayloadTooLarge, match="the result takes"):
        payload.encode_result([1] * 1000, limit=500)


def test_a_structure_that_shares_its_parts_is_not_unfolded() -> None:
    with pytest.raises(PayloadTooLarge, match="has too many values"):
        payload.encode((shared,), {}, limit=10_000)


def test_a_dataclass_is_restored_field_by_field() -> None:
    value = Derived(2, hidden=7)
    value.doubled = 5
    assert value.tripled == 6
    again = arrived(value)
    assert (again.base, again.doubled, again.hidden, again.cache) == (2, 5, 7, {"warm": True})
    changed = Derived(2)
    changed.extra = 1  # type: ignore[attr-defined]
    with pytest.raises(PayloadError, match="would not arrive equal"):
        arrived(changed)


def test_a_dataclass_from_an_older_version_gets_its_new_defaults() -> None:
    stored = payload.encode_result(Derived(2))
    del stored["value"]["hidden"]
    assert payload.decode_result(stored) == Derived(2)
    stored["value"]["removed"] = 1
    with pytest.raises(PayloadDecodeError, match="'removed', which is no field of Derived"):
        payload.decode_result(stored)


@needs("pydantic")
def test_pydantic_models_keep_aliases_extras_private_attributes_and_what_was_set() -> None:
    value = Account(id=uuid.UUID(int=5), ownerName="Ada", more={1: 2})  # type: ignore[call-arg]
    value._seen = 3
    again = arrived(value)
    assert again == value
    assert again.owner == "Ada"
    assert again._seen == 3
    assert again.model_fields_set == value.model_fields_set
    assert again.model_extra == {"more": {1: 2}}
    assert arrived(Site(url="https://example.org/a")) == Site(url="https://example.org/a")  # type: ignore[arg-type]
    assert arrived(Numbers([1, 2])) == Numbers([1, 2])
    constructed = Account.model_construct(id="no uuid")
    with pytest.raises(PayloadError, match="Account"):
        arrived(constructed)


def test_types_are_readable_in_sql() -> None:
    def stored(value: Any) -> Any:
        return payload.encode_result(value)

    assert stored(datetime(2026, 3, 1, 9, tzinfo=UTC)) == {"$pq": "datetime", "value": "2026-03-01T09:00:00+00:00"}
    berlin = datetime(2026, 3, 1, 9, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
    assert stored(berlin) == {"$pq": "datetime", "value": "2026-03-01T09:00:00+01:00", "zone": "Europe/Berlin"}
    assert stored(Decimal("1.10")) == {"$pq": "Decimal", "value": "1.10"}
    assert stored(Color.CRIMSON) == {"$pq": "enum", "value": "RED", "type": f"{__name__}:Color"}
    assert stored(Rights.ALL | Rights.READ) == {"$pq": "enum", "value": "ALL", "type": f"{__name__}:Rights"}
    assert stored({1: "a"}) == {"$pq": "dict", "value": [[1, "a"]]}
    assert stored({"$pq": 1}) == {"$pq": "dict", "value": [["$pq", 1]]}
    assert stored(1e22) == {"$pq": "float", "value": "1e+22"}
    assert stored(Item("a", 1)) == {"$pq": "dataclass", "value": {"sku": "a", "price": 1}, "type": f"{__name__}:Item"}
    assert stored(timedelta(seconds=-1)) == {"$pq": "timedelta", "value": "P-1DT86399.000000S"}


def refined(annotation: Any, value: Any) -> Any:
    (got,), _ = payload.decode(json.dumps({"args": [value]}), signature=annotated(annotation))
    return got


ID = "6f2f7b52-34c3-4f2c-9c39-000000000001"
BRANCHES: list[tuple[Any, Any, Any]] = [
    (datetime, "2026-03-01T09:00:00.5+00:00", datetime(2026, 3, 1, 9, 0, 0, 500_000, UTC)),
    (datetime, "2026-03-01T09:00:00Z", datetime(2026, 3, 1, 9, tzinfo=UTC)),
    (date, "2026-03-01", date(2026, 3, 1)),
    (time, "09:30:00", time(9, 30)),
    (timedelta, 1.5, timedelta(seconds=1.5)),
    (timedelta, "1 day 02:00:00.5", timedelta(days=1, hours=2, milliseconds=500)),
    (timedelta, "-1 days -02:00:00", timedelta(days=-1, hours=-2)),
    (timedelta, "3 days", timedelta(days=3)),
    (uuid.UUID, ID, uuid.UUID(ID)),
    (Decimal, 1.1, Decimal("1.1")),
    (Decimal, "1.10", Decimal("1.10")),
    (Decimal, 7, Decimal(7)),
    (TaskId[str], 7, TaskId(7)),
    (bytes, "\\x00ff", b"\x00\xff"),
    (pathlib.Path, "/tmp/a", pathlib.Path("/tmp/a")),
    (Color, "green", Color.GREEN),
    (Color, "RED", Color.RED),
    (Level, 2, Level.HIGH),
    (Mode, "slow", Mode.SLOW),
    (datetime | None, None, None),
    (datetime | None, "2026-03-01", datetime(2026, 3, 1)),
    (date | uuid.UUID, ID, uuid.UUID(ID)),
    (str | datetime, "2026-03-01", "2026-03-01"),
    (str, "2026-03-01", "2026-03-01"),
    (float, 1, 1),
    (list[date], ["2026-03-01"], [date(2026, 3, 1)]),
    (collections.abc.Sequence[date], ["2026-03-01"], [date(2026, 3, 1)]),
    (list[date] | None, ["2026-03-01"], [date(2026, 3, 1)]),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[date, str], ["2026-03-01", "x"], (date(2026, 3, 1), "x")),
    (tuple, [1], (1,)),
    (set[str], ["a", "a"], {"a"}),
    (frozenset[date], ["2026-03-01"], frozenset({date(2026, 3, 1)})),
    (dict[str, Decimal], {"a": "1"}, {"a": Decimal(1)}),
    (dict[int, str], {"7": "a"}, {7: "a"}),
    (collections.abc.Mapping[uuid.UUID, Level], {ID: 1}, {uuid.UUID(ID): Level.LOW}),
    (Annotated[date, "when"], "2026-03-01", date(2026, 3, 1)),
    (Point, [1, 2], Point(1, 2)),
    (Point, {"x": 1}, Point(1)),
    (Node, {"value": 1, "rest": {"value": 2}}, Node(1, Node(2))),
    (Options, {"since": "2026-03-01"}, {"since": datetime(2026, 3, 1)}),
    (Item, {"sku": "a", "price": 1}, Item("a", 1)),
    (
        Order,
        {"id": ID, "items": [{"sku": "a", "price": 1}], "placed": "2026-03-01T00:00:00Z"},
        Order(uuid.UUID(ID), [Item("a", 1)], datetime(2026, 3, 1, tzinfo=UTC)),
    ),
]
if PYDANTIC:
    BRANCHES += [
        (Numbers, [1], Numbers([1])),
        (Account, {"id": ID, "ownerName": "Ada"}, Account(id=ID, ownerName="Ada")),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(("annotation", "value", "expected"), BRANCHES, ids=str)
def test_plain_json_of_others_is_refined_by_the_signature(annotation: Any, value: Any, expected: Any) -> None:
    assert alike(refined(annotation, value), expected)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (datetime, "soon", "argument is 'soon', which is no datetime"),
        (datetime, 7, "argument is of the JSON type int, which is no datetime"),
        (list[date], ["2026-03-01", "x"], r"argument\[1\] is 'x', which is no date"),
        (Order, {"id": ID, "items": [{"sku": "a"}], "placed": "2026-03-01"}, r"argument.items\[0\] is no valid Item"),
        (tuple[int, int], [1], "argument has 1 elements instead of 2"),
        (set[str], [[]], "elements that can't be in a set"),
        (Color, "blue", "argument is 'blue', which is no Color"),
        (date | uuid.UUID, "x", "argument is 'x', which is no date"),
        *([(Account, {"id": "x"}, "argument is no valid Account")] if PYDANTIC else []),
        (bytes, "x", "argument is 'x', which is no bytes"),
        (TaskId, "7", "argument is '7', which is no TaskId"),
        (dict[int, str], {"x": "a"}, "'x', which is no int"),
    ],
    ids=str,
)
def test_plain_json_that_does_not_fit_says_where(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(PayloadDecodeError, match=message):
        refined(annotation, value)


def unresolvable(known: datetime, unknown: Unknown, *rest: date, **more: uuid.UUID) -> None: ...


def test_an_annotation_that_cant_be_evaluated_is_no_annotation() -> None:
    moment, day = "2026-03-01T00:00:00", "2026-03-01"
    stored = {"args": [moment, moment, day], "kwargs": {"a": ID}}
    args, kwargs = payload.decode(stored, signature=unresolvable)
    assert args == (datetime(2026, 3, 1), moment, date(2026, 3, 1))
    assert kwargs == {"a": uuid.UUID(ID)}
    assert payload.decode(stored, signature=payload.signature_of(unresolvable)) == (args, kwargs)


def test_a_string_for_a_datetime_parameter_stays_a_string() -> None:
    stored = payload.encode(("2026-03-01",), {}, signature=annotated(datetime))
    assert stored["args"] == [{"$pq": "plain", "value": "2026-03-01"}]
    assert payload.decode(stored, signature=annotated(datetime)) == (("2026-03-01",), {})


def test_decoding_imports_nothing_and_builds_only_known_kinds_of_classes() -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from pq_core import payload
from pq_core.errors import PayloadDecodeError
import types
lazy = types.ModuleType("lazy")
lazy.__getattr__ = lambda name: __import__("antigravity")
sys.modules["lazy"] = lazy
loaded = set(sys.modules)
for kind in ("enum", "dataclass", "pydantic", "namedtuple"):
    for name in ("antigravity:Color", "lazy:Color", "os:system", "subprocess:Popen", "builtins:object", "os.path:join"):
        try:
            payload.decode_result({{"$pq": kind, "type": name, "value": {{}}}})
        except PayloadDecodeError as error:
            assert "result" in str(error)
        else:
            raise SystemExit(name)
assert set(sys.modules) == loaded, set(sys.modules) - loaded
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


def test_types_may_be_restricted() -> None:
    stored = payload.encode((Item("a", 1), Color.RED), {})
    assert payload.decode(stored, allowed=lambda kind: True)[0] == (Item("a", 1), Color.RED)
    with pytest.raises(PayloadDecodeError, match=r"args\[1\] names the type .*Color, which may not be used here"):
        payload.decode(stored, allowed=lambda kind: kind is Item)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, "\x00", "\ud800", {"a\x00": 1}, 10**5000, object(), cyclic], ids=lambda _: ""
)
def test_text_that_jsonb_refuses_is_not_made(value: Any) -> None:
    with pytest.raises(PayloadError):
        payload.dumps([value])


def test_text_is_compact_and_a_backslash_is_no_nul() -> None:
    assert payload.dumps({"a": [1, "ä", "\\u0000"]}) == r'{"a":[1,"ä","\\u0000"]}'
    assert payload.storable_text("a\x00b\ud800c") == "a\ufffdb\ufffdc"


_PLAIN = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=4), st.just(TaskId(3))),
    st.sampled_from(
        [2**255, 2**2048, -0.0, 0.0, 1e16, 1e22, 1e-300, 5e-324, 1e15, math.nan, math.inf, "\x00", "\ud800"]
    ),
)


@given(positional=st.lists(_PLAIN, max_size=3), keywords=st.dictionaries(st.text(max_size=3), _PLAIN, max_size=2))
def test_the_quick_way_stores_what_the_long_way_stores(positional: list[Any], keywords: dict[str, Any]) -> None:
    if not are_plain(tuple(positional), keywords, 2**20):
        return
    encoder = Encoder(2**20)
    assert [encoder.value(value) for value in positional] == positional
    assert {encoder.text(name): encoder.value(value) for name, value in keywords.items()} == keywords


@pytest.mark.parametrize(
    "plain", [(), (1,), (-(2**64), "text", True, None, 1.5, -2.5e-9), ("line\nline\t\x01",)], ids=repr
)
def test_the_quick_way_is_taken(plain: tuple[Any, ...]) -> None:
    assert are_plain(plain, {}, 2**20)
    assert are_plain((), {f"p{n}": value for n, value in enumerate(plain)}, 2**20)


@pytest.mark.parametrize("value", [-0.0, math.inf, math.nan, 1e16, "é", "\x00", 2**300, b"", [1], TaskId(1)], ids=repr)
def test_the_quick_way_is_left_to_what_is_json_as_it_is(value: Any) -> None:
    assert not are_plain((value,), {}, 2**20)
    assert not are_plain((), {"a": value}, 2**20)


def test_the_quick_way_is_not_taken_near_the_limit() -> None:
    assert not are_plain((1, 2), {}, 1000)
    assert not are_plain(("a" * 2000,), {}, 10_000)
    with pytest.raises(PayloadTooLarge):
        payload.encode(("a" * 2000,), {}, limit=1000)


def test_types_are_known_where_their_module_is_loaded_in_parts() -> None:
    program = (
        "import _decimal\n"
        "from pq_core import payload\n"
        "from pq_core.payload_library import library_name\n"
        "assert library_name(_decimal.Decimal) == 'Decimal'\n"
        "class UUID: pass\n"
        "assert library_name(UUID) is None\n"
        "UUID.__module__ = 'uuid'\n"
        "assert library_name(UUID) is None\n"
        "assert library_name(None) is None\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
