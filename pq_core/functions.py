"""What a function is called, where it stands, and which functions can be tasks at all."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pq_core.errors import InvalidTask


def describe(function: Callable[..., Any]) -> str:
    """Return ``module:qualname (file:line)``."""
    qualname = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(inspect.unwrap(function), "__code__", None)
    where = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"{getattr(function, '__module__', None)}:{qualname}{where}"


def same_code(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Tell whether both are the same lines of code: a module loaded twice, a cell of a notebook run again."""
    if one is other:
        return True
    if getattr(one, "__qualname__", one) != getattr(other, "__qualname__", other):
        return False
    if all(_interactive(function) for function in (one, other)):
        return True
    codes = [getattr(inspect.unwrap(function), "__code__", None) for function in (one, other)]
    places = [code and (code.co_filename, code.co_firstlineno) for code in codes]
    return places[0] is not None and places[0] == places[1] and "<" not in getattr(one, "__qualname__", "<")


def parameters_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with annotations as they are: names in them need not exist yet."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(function, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(function)


class Arity:
    """What a signature takes: a quick yes for most calls, where ``Signature.bind`` works for longer than the rest."""

    __slots__ = ("_missing", "_most", "_places", "_required")

    def __init__(self, signature: inspect.Signature) -> None:
        kinds = inspect.Parameter
        by_place = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_name = [p for p in signature.parameters.values() if p.kind is kinds.KEYWORD_ONLY]
        required = [p.name for p in (*by_place, *by_name) if p.default is kinds.empty]
        endless = any(p.kind is kinds.VAR_POSITIONAL for p in signature.parameters.values())
        self._required = frozenset(required)
        self._most = sys.maxsize if endless else len(by_place)
        # Where a name's argument stands when it is given by place; beyond all places when it can't be.
        self._places = {p.name: n for n, p in enumerate(by_place) if p.kind is not kinds.POSITIONAL_ONLY}
        self._places |= {p.name: sys.maxsize for p in by_name}
        # How many of the required ones are still missing after so many arguments by place.
        names = [p.name for p in by_place]
        self._missing = [len(self._required - set(names[:n])) for n in range(len(names) + 1)]

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether the arguments fit for sure; False is a perhaps."""
        given = len(args)
        if given > self._most:
            return False
        missing = self._missing[min(given, len(self._missing) - 1)]
        for name in kwargs:
            if self._places.get(name, -1) < given:
                return False
            if name in self._required:
                missing -= 1
        return missing == 0


def check_function(function: object) -> None:
    """Raise ``InvalidTask`` for what can't be a task function: not callable, a class, a generator."""
    if not callable(function):
        raise InvalidTask(f"{function!r} is no function; write @group.task or @group.task(name=…) above a def")
    if inspect.isclass(function):
        raise InvalidTask(f"{function!r} is a class: declare a function that makes one")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"{describe(function)} is a generator, calling it would run nothing: return a list")


def _interactive(function: Callable[..., Any]) -> bool:
    main = sys.modules.get("__main__")
    return getattr(function, "__module__", None) == "__main__" and not hasattr(main, "__file__")
