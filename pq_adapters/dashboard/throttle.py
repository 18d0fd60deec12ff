"""How often somebody may try a wrong key: per address and in all, counted in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Throttle:
    """A bucket of attempts per address and one for all; each refills slowly.

    ``each``: attempts in a row from one address, which get one more per ``refill`` seconds. ``total``: the same for all
    addresses together. ``addresses``: how many are remembered; the one that was quiet longest is forgotten first.
    """

    def __init__(
        self,
        *,
        each: int = 10,
        refill: float = 6.0,
        total: int = 100,
        total_refill: float = 0.5,
        addresses: int = 10_000,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._each, self._refill = each, refill
        self._total, self._total_refill = total, total_refill
        self._limit = addresses
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(float(total), clock())

    def wait(self, address: str) -> float | None:
        """Return how many seconds this address has to wait before it may try; None when it may now."""
        now = self._clock()
        mine = self._buckets.get(address)
        waits = [_missing(self._all, now, self._total, self._total_refill)]
        if mine is not None:
            waits.append(_missing(mine, now, self._each, self._refill))
        longest = max(waits)
        return longest if longest > 0 else None

    def failed(self, address: str) -> float | None:
        """Count a wrong attempt; return the seconds to wait when it was one too many."""
        if (wait := self.wait(address)) is not None:
            return wait
        now = self._clock()
        mine = self._buckets.setdefault(address, _Bucket(float(self._each), now))
        self._buckets.move_to_end(address)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        mine.tokens -= 1
        self._all.tokens -= 1
        return None


def _missing(bucket: _Bucket, now: float, size: int, refill: float) -> float:
    """Fill the bucket up to now; return the seconds until it holds a token."""
    bucket.tokens = min(float(size), bucket.tokens + (now - bucket.at) / refill)
    bucket.at = now
    return max(0.0, (1 - bucket.tokens) * refill)
