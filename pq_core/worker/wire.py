"""Frames from a child to its worker: four bytes of length, one of kind, then JSON; for the usual end, less of it.

A child runs somebody's code, so nothing here believes what it reads.
"""

from __future__ import annotations

import enum
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

HEADER = struct.Struct("!IB")
OVERHEAD = 512 * 1024
"""Bytes a frame may have beyond the limit of a result: error text, traceback, names, the tail of the output."""

_DONE = struct.Struct("!qqdddQ")
_NOTHING = b"null"


class Kind(enum.IntEnum):
    """What a frame says. ``END`` is the last word of a run, ``DONE`` that of one that succeeded and printed nothing."""

    PROGRESS = 2
    COMPLETED = 3
    END = 4
    DONE = 5
    LOADED = 6
    """Modules of pq that this child had to load, and its successors need not."""


class BrokenFrame(Exception):
    """Raised when bytes can't be a frame, or are one that is larger than allowed. ``frames``: what came before them."""

    frames: Sequence[tuple[Kind, dict[str, Any]]] = ()


# Not escaped to ASCII: that would make a result of three bytes a character twice as long as its limit allows.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def pack(kind: Kind, body: dict[str, Any]) -> bytes:
    """Return the bytes of one frame."""
    encoded = _encode(body).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(encoded), kind) + encoded


def pack_done(
    id_: int, fence: int, result: Any, *, wall: float = 0.0, user: float = 0.0, system: float = 0.0, max_rss: int = 0
) -> bytes:
    """Return the frame of a run that succeeded: seconds, and ``max_rss`` in the system's unit."""
    encoded = _NOTHING if result is None else _encode(result).encode("utf-8", "surrogatepass")
    cost = _DONE.pack(id_, fence, wall, user, system, max_rss)
    return HEADER.pack(_DONE.size + len(encoded), Kind.DONE) + cost + encoded


class Decoder:
    """Turns bytes as they arrive into frames, holding at most one frame of ``limit`` bytes."""

    __slots__ = ("_buffer", "limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self.limit = limit

    @property
    def partial(self) -> bool:
        """True when the rest of a frame is to come."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[tuple[Kind, dict[str, Any]]]:
        """Return the frames that ``data`` completes.

        Raises BrokenFrame for an unknown kind, a body that is not a JSON object, or a length over the limit.
        """
        buffer = self._buffer
        buffer += data
        frames: list[tuple[Kind, dict[str, Any]]] = []
        start = 0
        while len(buffer) - start >= HEADER.size:
            length, kind = HEADER.unpack_from(buffer, start)
            end = start + HEADER.size + length
            try:
                if length > self.limit:
                    raise BrokenFrame(f"a frame of {length} bytes; {self.limit} are allowed")
                if len(buffer) < end:
                    break
                body = bytes(buffer[start + HEADER.size : end])
                frames.append((Kind.DONE, _done(body)) if kind == Kind.DONE else (_kind(kind), _body(body)))
            except BrokenFrame as error:
                error.frames = frames
                raise
            start = end
        if start:
            del buffer[:start]
        return frames


def _kind(value: int) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise BrokenFrame(f"a frame of unknown kind {value}") from None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")  # and no report could hold it
    return value


def _parsed(encoded: bytes) -> Any:
    try:
        # Decoded here: from bytes the parser would guess other encodings, too, and import them.
        text = encoded.decode("utf-8", "surrogatepass")
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenFrame(f"a frame that is not JSON: {error}") from error


def _body(encoded: bytes) -> dict[str, Any]:
    body = _parsed(encoded)
    if not isinstance(body, dict):
        raise BrokenFrame("a frame that is not a JSON object")
    return body


def _done(encoded: bytes) -> dict[str, Any]:
    if len(encoded) < _DONE.size:
        raise BrokenFrame(f"the end of a run in {len(encoded)} bytes")
    id_, fence, wall, user, system, max_rss = _DONE.unpack_from(encoded)
    rest = encoded[_DONE.size :]
    return {
        "how": "succeeded",
        "id": id_,
        "fence": fence,
        "wall": wall,
        "cpu_user": user,
        "cpu_system": system,
        "max_rss": max_rss,
        "result": None if rest == _NOTHING else _parsed(rest),
    }
