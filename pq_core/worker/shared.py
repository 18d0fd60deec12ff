"""Memory that worker and child share: why a child is to stop, and the tail of what it printed.

One page range per place, made once and used by one child after the other. A child reads its own without a
system call, also after it has closed every file descriptor; what it wrote is there after a SIGKILL.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
import resource
import struct
import sys
from typing import Any, TextIO

_STOP = struct.Struct("=qqq")
_REASON_AT = 16
_NO_REASON = bytes(8)
_WRITTEN = struct.Struct("=Q")
_WRITTEN_AT = _STOP.size
_RUN = struct.Struct("=qqd")
_RUN_AT = 32
_WORDS = struct.Struct("=H")
_WORDS_AT = _RUN_AT + _RUN.size
_LEAVES_AT = 1023
_RING_AT = 1024
STACK_LIMIT = 64 * 1024
_UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class StopReason(enum.IntEnum):
    """Why the worker ends a run."""

    NONE = 0
    TIMEOUT = 1
    CANCEL = 2
    INTERRUPT = 3
    LOST = 4


class Place:
    """What one running child shares with its worker, and with the process that forks it.

    ``tail``: bytes of output kept. ``memory_fd``: the memory, for who is to attach it. ``stack_fd``: a file that holds
    the stacks that ``faulthandler`` wrote. ``number``: what the process that forks knows it by, None before it does.
    """

    __slots__ = ("_map", "_tail", "memory_fd", "number", "stack_fd")

    def __init__(self, *, tail: int) -> None:
        memory_fd = _anonymous_file("pq-place")
        try:
            os.ftruncate(memory_fd, _size(tail))
            stack_fd = _anonymous_file("pq-stacks")
        except OSError:
            os.close(memory_fd)
            raise
        self._attach(memory_fd, stack_fd, tail)

    @classmethod
    def attached(cls, memory_fd: int, stack_fd: int, *, tail: int) -> Place:
        """Return the place behind two descriptors that another process has sent; they are used up."""
        place = cls.__new__(cls)
        try:
            high = high_descriptor(stack_fd)
        except OSError:
            os.close(memory_fd)
            raise
        finally:
            os.close(stack_fd)
        place._attach(memory_fd, high, tail)
        place.release()
        return place

    def _attach(self, memory_fd: int, stack_fd: int, tail: int) -> None:
        self._tail = tail
        self.number: int | None = None
        self.memory_fd: int | None = memory_fd
        self.stack_fd = stack_fd
        try:
            # Not through a descriptor that Python keeps as well: there is a place for each child.
            self._map = mmap.mmap(memory_fd, _size(tail), **_UNTRACKED)
        except (OSError, ValueError):
            os.close(memory_fd)
            os.close(stack_fd)
            raise

    def release(self) -> None:
        """Give the memory's descriptor back: nobody else is to attach it."""
        if self.memory_fd is not None:
            os.close(self.memory_fd)
            self.memory_fd = None

    def reset(self) -> None:
        """Forget the last run, before the place is given to the next."""
        self._map[:_RING_AT] = bytes(_RING_AT)
        if os.lseek(self.stack_fd, 0, os.SEEK_CUR):
            os.ftruncate(self.stack_fd, 0)
            os.lseek(self.stack_fd, 0, os.SEEK_SET)

    def stop(self, task_id: int, fence: int, reason: StopReason, words: str = "") -> None:
        """Tell the child that runs this task under ``fence`` why the signal comes that follows.

        ``words``: of whoever cancelled it; what does not fit is cut off.
        """
        told = words.encode("utf-8", "replace")[: _LEAVES_AT - _WORDS_AT - _WORDS.size]
        self._map[_WORDS_AT : _WORDS_AT + _WORDS.size + len(told)] = _WORDS.pack(len(told)) + told
        # Last: a child that reads the reason finds the words complete.
        self._map[: _STOP.size] = _STOP.pack(task_id, fence, reason)

    def has_stop(self) -> bool:
        """Say whether there is a note at all. Cheaper than to read it."""
        return self._map[_REASON_AT : _STOP.size] != _NO_REASON

    def stop_words(self) -> str | None:
        """Return what was said of the stop, None if nothing was."""
        (length,) = _WORDS.unpack_from(self._map, _WORDS_AT)
        told = self._map[_WORDS_AT + _WORDS.size : _WORDS_AT + _WORDS.size + length]
        return told.decode("utf-8", "ignore") or None

    def stop_reason(self, task_id: int, fence: int) -> StopReason:
        """Return why the run is to stop; NONE if the note is for another run."""
        noted_id, noted_fence, reason = _STOP.unpack_from(self._map)
        return StopReason(reason) if (noted_id, noted_fence) == (task_id, fence) else StopReason.NONE

    def note_left(self) -> None:
        """Note that processes which this child leaves behind are to go on."""
        self._map[_LEAVES_AT] = 1

    @property
    def leaves(self) -> bool:
        """True if so."""
        return self._map[_LEAVES_AT] != 0

    def begin(self, task_id: int, fence: int, moment: float) -> None:
        """Note in a reused child which run begins; ``moment``: of the monotonic clock, which all processes share."""
        _RUN.pack_into(self._map, _RUN_AT, task_id, fence, moment)

    def begun(self, task_id: int, fence: int) -> float | None:
        """Return when this run began; None if it has not, or was not noted."""
        noted_id, noted_fence, moment = _RUN.unpack_from(self._map, _RUN_AT)
        return float(moment) if (noted_id, noted_fence) == (task_id, fence) and moment == moment else None

    def take_output(self) -> str | None:
        """Return the tail of the output and begin anew, for the next run in the same process."""
        output = self.output()
        if output is not None:
            _WRITTEN.pack_into(self._map, _WRITTEN_AT, 0)
        return output

    def append(self, data: bytes) -> None:
        """Add to the ring of output; the oldest bytes make room."""
        size = self._tail
        if size <= 0 or not data:
            return
        (written,) = _WRITTEN.unpack_from(self._map, _WRITTEN_AT)
        kept = data[-size:]
        at = (written + len(data) - len(kept)) % size
        first = kept[: size - at]
        self._map[_RING_AT + at : _RING_AT + at + len(first)] = first
        if len(first) < len(kept):
            rest = kept[len(first) :]
            self._map[_RING_AT : _RING_AT + len(rest)] = rest
        _WRITTEN.pack_into(self._map, _WRITTEN_AT, written + len(data))

    @property
    def written(self) -> int:
        """Bytes that were printed, kept or not."""
        (written,) = _WRITTEN.unpack_from(self._map, _WRITTEN_AT)
        return int(written)

    def output(self) -> str | None:
        """Return the tail of the output, or None when nothing was printed."""
        (written,) = _WRITTEN.unpack_from(self._map, _WRITTEN_AT)
        if not written:
            return None
        size = self._tail
        if written <= size:
            return bytes(self._map[_RING_AT : _RING_AT + written]).decode("utf-8", "replace")
        at = written % size
        ring = self._map[_RING_AT + at : _RING_AT + size] + self._map[_RING_AT : _RING_AT + at]
        return f"[{written - size} bytes before this are left out]\n" + ring.decode("utf-8", "replace")

    def stacks(self) -> str:
        """Return what faulthandler wrote, or an empty string."""
        try:
            return os.pread(self.stack_fd, STACK_LIMIT, 0).decode("utf-8", "replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Give the memory and the file back."""
        self.release()
        self._map.close()
        os.close(self.stack_fd)


_kept_in: list[Place | None] = [None]
"""Where the tail of the output goes: in a list, since an attribute of a class is several pages more to copy."""


def keep_output(place: Place | None) -> None:
    """Keep the tail of what this process prints in ``place`` from now on."""
    _kept_in[0] = place


class Tee:
    """A text stream that passes everything on, and in a child keeps its tail.

    Installed in the worker before the application is imported, since log handlers keep the stream they found;
    it costs one look into a list there. What C code or another process writes to the descriptor passes by.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` to the stream, and to the ring if this is a child."""
        place = _kept_in[0]
        if place is not None:
            place.append(text.encode("utf-8", "replace"))
        return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    @property
    def buffer(self) -> _TeeBuffer:
        """The stream for bytes below this one."""
        return _TeeBuffer(self._stream.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Any:
        return iter(self._stream)


class _TeeBuffer:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        place = _kept_in[0]
        if place is not None:
            place.append(bytes(data))
        written: int = self._stream.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def install_tees() -> None:
    """Put a Tee before ``sys.stdout`` and ``sys.stderr``, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Tee):
            setattr(sys, name, Tee(stream))


def remove_tees() -> None:
    """Put back the streams that install_tees found."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Tee):
            setattr(sys, name, stream._stream)


def _size(tail: int) -> int:
    return _RING_AT + max(tail, 1)


def _anonymous_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create(name)
    else:
        import tempfile  # Linux needs none

        handle, path = tempfile.mkstemp(prefix=f"{name}-")
        os.unlink(path)  # noqa: PTH108
    try:
        return high_descriptor(handle)
    finally:
        os.close(handle)


def high_descriptor(handle: int) -> int:
    """Return a descriptor of the same file with a high number.

    A task that closes every descriptor and then opens files gets low ones, and faulthandler, which knows no more than
    the number, must not write into a file of the task's.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = 512 if soft == resource.RLIM_INFINITY else min(soft // 2, 512)
    return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, lowest)
