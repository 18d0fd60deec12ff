"""Frames between child and worker: four bytes of length, one of kind, then JSON."""

from __future__ import annotations

import enum
import json
import math
import struct
from dataclasses import fields
from datetime import datetime
from typing import Any

from pq_core.types import ClaimedTask

HEADER = struct.Struct("!IB")
TASK_LIMIT = 64 * 1024
"""Bytes of a task that is handed to a reused child: what a socket takes at once, so that the worker never waits."""
OVERHEAD = 512 * 1024
"""Bytes a frame may have beyond the limit of a result: error text, traceback, names."""


class Kind(enum.IntEnum):
    """What a frame says. ``TASK`` goes to a reused child, the others come from it."""

    TASK = 1
    PROGRESS = 2
    COMPLETED = 3
    END = 4
    STARTED = 5


_MOMENTS = ("run_at", "created_at", "started_at", "tick_at")
_FIELDS = tuple(field.name for field in fields(ClaimedTask))


def pack_task(task: ClaimedTask) -> bytes:
    """Return the frame that hands ``task`` to a child."""
    body = {name: getattr(task, name) for name in _FIELDS}
    for name in _MOMENTS:
        body[name] = None if body[name] is None else body[name].isoformat()
    return pack(Kind.TASK, body)


def unpack_task(body: dict[str, Any]) -> ClaimedTask:
    """Return the task of a TASK frame."""
    moments = {name: None if body[name] is None else datetime.fromisoformat(body[name]) for name in _MOMENTS}
    return ClaimedTask(**{**body, **moments})


class BrokenFrame(Exception):
    """Raised when bytes can't be a frame, or are one that is larger than allowed."""


def pack(kind: Kind, body: dict[str, Any]) -> bytes:
    """Return the bytes of one frame."""
    # Not escaped to ASCII: that would make a result of three bytes a character twice as long as its limit allows.
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return HEADER.pack(len(encoded), kind) + encoded


class Decoder:
    """Turns bytes as they arrive into frames, holding at most one frame of ``limit`` bytes."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

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
            if length > self._limit:
                raise BrokenFrame(f"a frame of {length} bytes; {self._limit} are allowed")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            frames.append((_kind(kind), _body(bytes(buffer[start + HEADER.size : end]))))
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


def _body(encoded: bytes) -> dict[str, Any]:
    try:
        # Decoded here: from bytes the parser would guess other encodings, too, and import them.
        text = encoded.decode("utf-8", "surrogatepass")
        body = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenFrame(f"a frame that is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BrokenFrame("a frame that is not a JSON object")
    return body
