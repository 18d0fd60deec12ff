"""The name by which others import what runs here as ``__main__``: a leaf."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any


def main_module() -> str:
    """Return the name under which a worker can import the running program.

    A program started as ``python app.py`` is ``__main__`` to itself and ``app`` to the worker that runs its
    tasks; one started as ``python -m app.jobs`` is ``app.jobs``. A terminal's ``__main__`` stays what it is.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name)
    stem, _ = os.path.splitext(os.path.basename(getattr(main, "__file__", None) or ""))  # noqa: PTH119, PTH122
    return stem if stem.isidentifier() else "__main__"


def module_of(thing: Any) -> str:
    """Return the name under which a worker can import the module of a function or a class."""
    module = getattr(thing, "__module__", None) or "__main__"
    return main_module() if module == "__main__" else str(module)


def loaded_module(name: str) -> ModuleType | None:
    """Return the module if it is loaded; the running program counts under its importable name, too."""
    if name != "__main__" and name not in sys.modules and name == main_module():
        return sys.modules.get("__main__")
    return sys.modules.get(name)
