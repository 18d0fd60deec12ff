"""Plain annotations, checked at the call: a string for a parameter that says ``int`` is refused where it is passed."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

from pq_core.payload_encoding import Refused

Kinds = tuple[type[Any], ...]
"""The types of which a value may be, as ``isinstance`` takes them."""

_ACCEPTED: dict[Any, Kinds] = {
    str: (str,),
    int: (int,),
    float: (float, int),
    bool: (bool,),
    None: (types.NoneType,),
    types.NoneType: (types.NoneType,),
}
"""What PEP 484 takes for each: an ``int`` where ``float`` is said, a ``bool`` where ``int`` is."""


def kinds_of(parameter: inspect.Parameter) -> Kinds | None:
    """Return what a parameter takes if its annotation is scalars alone, else None. A default of None is taken, too."""
    kinds = _kinds(parameter.annotation)
    if kinds is not None and parameter.default is None:
        return (*kinds, types.NoneType)
    return kinds


def _kinds(annotation: Any) -> Kinds | None:
    if annotation is None or isinstance(annotation, type):
        return _ACCEPTED.get(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kinds(arguments[0])
    if isinstance(annotation, typing.NewType):
        return _kinds(annotation.__supertype__)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds(one) for one in arguments]
        return None if None in parts else tuple(kind for part in parts if part is not None for kind in part)
    return None


def check_kind(value: Any, encoded: Any, kinds: Kinds) -> None:
    """Raise Refused unless a value, or what it is stored as, is of one of the types."""
    if isinstance(value, kinds) or (type(encoded) is not dict and isinstance(encoded, kinds)):
        return
    names = " | ".join(dict.fromkeys("None" if kind is types.NoneType else kind.__name__ for kind in kinds))
    # Without the value: the task may be a sensitive one.
    raise Refused(f"is of type {type(value).__name__}, but the function's signature says {names}: convert it")
