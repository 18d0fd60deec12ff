"""Modules of pq that are loaded at their first use, the driver with them, and of the standard library: a leaf.

They are no part of the image, since most tasks of an application that does not load a driver itself need none. A child
that had to load one says so, and the process that forks loads it too: only the first tasks wait for it.
"""

from __future__ import annotations

import sys

MODULES = (
    "pq_core.client_pools",
    "pq_core.psycopg_executor",
    "pq_core.store",
    "pq_core.waiting",
    "pq_core.ciphers",
    "pq_adapters.sqlalchemy",
    "pq_adapters.django",
    "decimal",
    "uuid",
    "zoneinfo",
    "pathlib",
    "difflib",
    "binascii",
)
"""What tasks may load by enqueueing, by completing themselves in a transaction, by payloads that are sealed or have
values of such types, or by misspelling a name."""


def loaded() -> frozenset[str]:
    """Return those that this process has loaded."""
    return frozenset(name for name in MODULES if name in sys.modules)


def believable(names: object) -> list[str]:
    """Return those of ``names``, which a child has said, that it may speak of."""
    return [name for name in MODULES if name in names] if isinstance(names, list) else []
