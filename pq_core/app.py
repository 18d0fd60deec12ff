"""Finding the application's PQ from a reference like ``module:object``, for command lines."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from pq_core.errors import AppNotFound

if TYPE_CHECKING:
    from pq_core.client import PQ


def load_app(reference: str, *, factory: bool = False) -> PQ:
    """Return the PQ that ``module:object`` names; ``factory``: the object is called for it.

    The current directory is importable, as with ``python -m``. Without ``:object`` the names ``pq`` and ``app`` are
    tried. Raises AppNotFound; an error inside the module is raised as it is.
    """
    from pq_core.client import PQ

    found = load_object(reference, what="APP", otherwise=("pq", "app", "create_pq"))
    if factory or (callable(found) and not isinstance(found, PQ) and _looks_like_factory(found)):
        found = found()
    if not isinstance(found, PQ):
        hint = "; if it is a function that returns one, add --factory" if callable(found) else ""
        raise AppNotFound(f"{reference!r} is {type(found).__name__}, not a PQ{hint}")
    return found


def load_object(reference: str, *, what: str, otherwise: tuple[str, ...] = ()) -> Any:
    """Return what ``module:object`` names. Raises AppNotFound, saying what is there instead."""
    module_name, _, path = reference.partition(":")
    if not module_name or (not path and not otherwise):
        raise AppNotFound(f"{what} {reference!r}: write module:object, for example app.jobs:pq")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise AppNotFound(f"{what} {reference!r}: {module_name!r} is no module's name: write app.jobs:pq, not a path")
    here = os.getcwd()  # noqa: PTH109 - pathlib would be in each image that forks
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise  # the module is there; something that it imports is not
        raise AppNotFound(f"{what} {reference!r}: there is no module {error.name!r} in {here} or installed") from None
    names = (path,) if path else otherwise
    for name in names:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise AppNotFound(f"{what} {reference!r}: {module_name} has no {' nor '.join(names)}")


def _looks_like_factory(found: Any) -> bool:
    return getattr(found, "__name__", "") == "create_pq"
