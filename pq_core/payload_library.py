"""Types of the standard library whose modules a worker does not load for nothing: a leaf.

A value of such a type can only be there where its module is loaded; so it is known by where it would be found. Where a
tag or a signature asks for one, its module is loaded.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

PATHS = ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath")

HOMES = {
    "Decimal": "decimal",
    "UUID": "uuid",
    "ZoneInfo": "zoneinfo",
    "Path": "pathlib",
    "PurePath": "pathlib",
    **dict.fromkeys(PATHS, "pathlib"),
}
"""Name of a class -> its module."""


def library_name(kind: object) -> str | None:
    """Return the name of a class that is one of these, None of any other."""
    name = getattr(kind, "__name__", None)
    if not isinstance(name, str) or name not in HOMES:
        return None
    if _loaded(name) is kind:
        return name
    # Its module may be there without the one that passes it on: _decimal without decimal.
    module = getattr(kind, "__module__", None)
    if not isinstance(module, str) or module.partition(".")[0] != HOMES[name]:
        return None
    return name if library_type(name) is kind else None


def library_base(kind: type[Any], *names: str) -> type[Any] | None:
    """Return which of the classes of these names ``kind`` is derived from, if any."""
    bases = (_loaded(name) for name in names)
    return next((base for base in bases if isinstance(base, type) and issubclass(kind, base)), None)


def library_type(name: str) -> Any:
    """Return the class, after loading its module."""
    return getattr(importlib.import_module(HOMES[name]), name)


def _loaded(name: str) -> object:
    return getattr(sys.modules.get(HOMES[name]), name, None)
