"""Names close to one that does not exist, for errors."""

from __future__ import annotations

from collections.abc import Iterable


def close_names(name: str, known: Iterable[str], *, most: int = 1) -> list[str]:
    """Return those of the ``known`` names that may have been meant, the closest first."""
    import difflib  # few processes ever misspell a name

    return difflib.get_close_matches(name, list(known), n=most)
