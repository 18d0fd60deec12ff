"""The keys that are good now, as the database has them: read at most every other second."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from pq_core.keys import ActiveKey, active, digest_of, ever

if TYPE_CHECKING:
    from pq_core.client import PQ

FRESH = 2.0
"""Seconds for which what was read counts: a key that was revoked is refused that much later at most."""


class Keyring:
    """All keys that are neither revoked nor expired. They are few: one statement reads them all."""

    def __init__(self, pq: PQ) -> None:
        self._pq = pq
        self._keys: tuple[ActiveKey, ...] = ()
        self._read_at = float("-inf")
        self._ever = False
        self._used: set[int] = set()

    async def active(self) -> tuple[ActiveKey, ...]:
        """Return the keys that are good now."""
        now = monotonic()
        if now - self._read_at > FRESH:
            used, self._used = self._used, set()
            found = await self._pq._arun(active(self._pq.schema, used=sorted(used)))
            self._keys = tuple(found)
            self._read_at = now
        return self._keys

    async def never_made(self) -> bool:
        """Tell whether there has never been a key, those that have ended included."""
        if not self._ever:
            self._ever = bool(await self.active()) or await self._pq._arun(ever(self._pq.schema))
        return not self._ever

    async def find(self, key: str) -> ActiveKey | None:
        """Return the key that somebody gave, or None when it is none of the good ones."""
        digest = digest_of(key)
        # Digests of random keys: how long the comparison takes tells nothing of a key.
        for known in await self.active():
            if known.digest == digest:
                self.used(known.id)
                return known
        return None

    def used(self, key_id: int) -> None:
        """Note that a key was used; stored with the next look."""
        self._used.add(key_id)

    def forget(self) -> None:
        """Read them anew at the next look: one was made or revoked here."""
        self._read_at = float("-inf")
