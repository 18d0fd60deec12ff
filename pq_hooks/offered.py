"""Plugins that installed packages offer, found without loading what reads packages' metadata where none does.

``importlib.metadata`` brings e-mail, archives and four compression libraries: a fifth of the image that a small worker
forks from, for an answer that mostly is "none".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_METADATA = (".dist-info", ".egg-info")
_OF_AN_EGG = "egg-info"
_LIST = "entry_points.txt"
"""Where a package says what it offers: packaging.python.org, "Entry points specification"."""


def offered(group: str) -> Iterable[EntryPoint]:
    """Return the entry points of ``group``."""
    if not may_be_offered(group):
        return ()
    from importlib.metadata import entry_points

    return entry_points(group=group)


def may_be_offered(group: str) -> bool:
    """Say whether a list of some package on ``sys.path`` has the group's name. True where that can't be told."""
    if any(hasattr(finder, "find_distributions") and finder is not PathFinder for finder in sys.meta_path):
        return True
    return any(_in_a_list_of(place or os.curdir, group.encode()) for place in sys.path if isinstance(place, str))


def _in_a_list_of(place: str, name: bytes) -> bool:
    try:
        found = os.listdir(place)  # noqa: PTH208 - pathlib is a part of what is not to be loaded
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # an archive, not to be read by us, or no path at all
    for entry in found:
        lowered = entry.lower()
        if lowered.endswith(".egg"):
            return True
        if lowered.endswith(_METADATA) or lowered == _OF_AN_EGG:
            try:
                with open(os.path.join(place, entry, _LIST), "rb") as file:  # noqa: PTH118, PTH123 - as above
                    if name in file.read():
                        return True
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return True
    return False
