"""Plain annotations are checked at the call."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional

import pytest

from pq_core.errors import PayloadDecodeError, PayloadError
from pq_core.payload import encode, loads

UserId = NewType("UserId", int)
Id = Annotated[int, "positive"]


class Colour(enum.StrEnum):
    RED = "red"


class Weight(enum.IntEnum):
    LIGHT = 1


def scalars(
    number: int,
    share: float = 0.5,
    words: str = "",
    *rest: UserId,
    said: bool = False,
    maybe: int | None = None,
    old: Optional[str] = None,  # noqa: UP045
    implicit: int = None,  # type: ignore[assignment] # noqa: RUF013
    named: Id = 1,
    several: int | str = 1,
    **more: float,
) -> None: ...


def others(anything: Any, chosen: Literal["a"], exact: Decimal | int, many: list[int], text: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(PayloadError) as error:
        encode(args, kwargs, signature=scalars, what="shop.weigh")
    return str(error.value)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1, 2, "x"), {}),
        ((True, True), {}),
        ((Weight.LIGHT, 1.5, Colour.RED), {}),
        ((1, float("inf")), {}),
        ((1, 1.0, "x", 2, 3), {"said": True}),
        ((1,), {"maybe": None, "old": None, "implicit": None, "several": "x"}),
        ((1,), {"maybe": 2, "old": "x", "implicit": 2, "several": 2, "named": 5, "extra": 2.5}),
    ],
)
def test_what_the_annotations_say_is_taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert len(encode(args, kwargs, signature=scalars)["args"]) == len(args)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (("1",), {}, "shop.weigh: number is of type str, but the function's signature says int: convert it"),
        ((1.0,), {}, "number is of type float"),
        ((None,), {}, "number is of type NoneType"),
        (([1],), {}, "number is of type list"),
        ((1, "2"), {}, "share is of type str, but the function's signature says float | int"),
        ((1, Decimal(2)), {}, "share is of type Decimal"),
        ((1, 2.0, 3), {}, "words is of type int, but the function's signature says str"),
        ((1, 2.0, b"x"), {}, "words is of type bytes"),
        ((1, 2.0, "x", 1, "2"), {}, "rest[1] is of type str"),
        ((1,), {"said": 1}, "said is of type int, but the function's signature says bool"),
        ((1,), {"maybe": "1"}, "maybe is of type str, but the function's signature says int | None"),
        ((1,), {"several": 1.5}, "several is of type float, but the function's signature says int | str"),
        ((1,), {"extra": "x"}, "extra is of type str"),
    ],
)
def test_what_they_do_not_say_is_refused_by_name(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    assert words in refused(*args, **kwargs)


def test_the_message_holds_no_value() -> None:
    assert "s3cret" not in refused("s3cret")


def test_annotations_that_say_more_are_not_checked_here() -> None:
    assert encode((1, "b", "7", ["x"], 5), {}, signature=others)


@pytest.mark.parametrize("text", ["1e400", "[-1e999]", '{"a": 1e309}'])
def test_number_that_no_float_holds_is_no_json_here(text: str) -> None:
    with pytest.raises(PayloadDecodeError, match="beyond what a float holds"):
        loads(text)
