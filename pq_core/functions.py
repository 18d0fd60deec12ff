"""What a function is called, where it stands, and which functions can be tasks at all."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pq_core.errors import InvalidTask


def module_of(function: Callable[..., Any]) -> str:
    """Return the name under which a worker can import the function's module.

    A program started as ``python app.py`` is ``__main__`` to itself and ``app`` to the worker that runs its
    tasks; one started as ``python -m app.jobs`` is ``app.jobs``. A terminal's ``__main__`` stays what it is.
    """
    module = getattr(function, "__module__", None) or "__main__"
    return _main_module() if module == "__main__" else str(module)


def loaded_module(name: str) -> ModuleType | None:
    """Return the module if it is loaded; the running program counts under its importable name, too."""
    if name != "__main__" and name == _main_module() and name not in sys.modules:
        return sys.modules.get("__main__")
    return sys.modules.get(name)


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


def check_function(function: object) -> None:
    """Raise ``InvalidTask`` for what can't be a task function: not callable, a class, a generator."""
    if not callable(function):
        raise InvalidTask(f"{function!r} is no function; write @group.task or @group.task(name=…) above a def")
    if inspect.isclass(function):
        raise InvalidTask(f"{function!r} is a class: declare a function that makes one")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidTask(f"{describe(function)} is a generator, calling it would run nothing: return a list")


def _main_module() -> str:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name)
    stem = Path(getattr(main, "__file__", None) or "").stem
    return stem if stem.isidentifier() else "__main__"


def _interactive(function: Callable[..., Any]) -> bool:
    main = sys.modules.get("__main__")
    return getattr(function, "__module__", None) == "__main__" and not hasattr(main, "__file__")
