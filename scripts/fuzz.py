"""Feed the payload decoder and the frames of children with inputs that nobody honest sends: `make fuzz`.

With atheris installed (`pip install atheris`) it is guided by coverage, else inputs are mutations of a corpus. Ends
with status 1 at the first input that raises anything but the decoder's own error, takes longer than two seconds, or has
a module imported; that input is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from pq_core import payload
from pq_core.errors import PayloadDecodeError
from pq_core.sealing import Seals
from pq_core.worker.wire import BrokenFrame, Decoder, Kind, pack

SLOWEST = 2.0
"""Seconds that one input may take."""
FRAME_LIMIT = 1 << 16

_SEALS = Seals(["0123456789" * 4])


def annotated(a: int, b: list[bytes], *, c: dict[str, tuple[float, ...]] | None = None) -> None:
    """Refine plain JSON as a task's signature does."""


def arguments(data: bytes) -> None:
    """Decode stored arguments, with and without annotations."""
    text = data.decode("utf-8", "replace")
    for signature in (None, annotated):
        with suppress(PayloadDecodeError):
            payload.decode(text, signature=signature)


def result(data: bytes) -> None:
    """Decode a stored result."""
    with suppress(PayloadDecodeError):
        _SEALS.open_result(payload.loads(data.decode("utf-8", "replace")), task_id=7)


def sealed(data: bytes) -> None:
    """Open arguments that should be signed or encrypted."""
    text = data.decode("utf-8", "replace")
    for kind in ("pickle", "encrypted"):
        with suppress(PayloadDecodeError):
            _SEALS.open_arguments(kind, text, name="x", version=1, signature=None)  # type: ignore[arg-type]


def frames(data: bytes) -> None:
    """Read what a child wrote, in pieces."""
    decoder = Decoder(FRAME_LIMIT)
    with suppress(BrokenFrame):
        for at in range(0, len(data), 7):
            decoder.feed(data[at : at + 7])


TARGETS: tuple[Callable[[bytes], None], ...] = (arguments, result, sealed, frames)

TAGS = [
    '{"args": [{"$pq": "%s", "value": %s}], "kwargs": {}}' % (tag, value)  # noqa: UP031
    for tag in payload.TAGS
    for value in ('"1"', "1", "[]", "{}", "null", '["a", 1]', '[["a", 1]]', "1e400", '"2030-01-31T00:00:00+00:00"')
]
CORPUS: list[bytes] = [
    *(text.encode() for text in TAGS),
    b'{"args": [1, "x", null, true, 1.5, {"a": [1]}], "kwargs": {"b": {"$pq": "plain", "value": 1}}}',
    b'{"$pq": "enum", "type": "enum:Enum", "value": "X"}',
    b'{"$pq": "dataclass", "type": "antigravity:x.y", "value": {"a": 1}}',
    json.dumps(_SEALS.arguments("pickle", (1,), {}, name="x", version=1, signature=None, limit=10**6)).encode(),
    json.dumps(_SEALS.arguments("encrypted", (1,), {}, name="x", version=1, signature=None, limit=10**6)).encode(),
    *(pack(kind, {"how": "succeeded", "result": [1, "é"], "share": 0.5}) for kind in Kind),
]
WORDS = (b'"$pq"', b'"value"', b'"type"', b"[", b"]", b"{", b"}", b'"', b"\\u0000", b"\\ud800", b"-0", b"1e999", b"NaN",
         b"9" * 5000, b"[" * 2000, b"null", b":", b",", b"\xff", b"\x00\x00\x00\x02\x04{}", b"os:system")  # fmt: skip


def mutated(source: random.Random) -> bytes:
    """Return one of the corpus with some bytes changed, removed, repeated or put in."""
    data = bytearray(source.choice(CORPUS))
    for _ in range(source.choice((1, 1, 2, 3, 5, 8))):
        at = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0 if data:
                data[at % len(data)] = source.randrange(256)
            case 1:
                del data[at : at + source.randrange(1, 9)]
            case 2:
                data[at:at] = source.choice(WORDS)
            case 3:
                data[at:at] = data[at : at + source.randrange(1, 33)]
            case 4:
                other = source.choice(CORPUS)
                data[at:] = other[source.randrange(len(other) + 1) :]
            case _:
                data[at:at] = source.randbytes(source.randrange(1, 5))
    return bytes(data)


def check(data: bytes) -> None:
    """Run every target on one input. Raises what is wrong with it."""
    before = set(sys.modules)
    for target in TARGETS:
        target(data)
    if imported := sys.modules.keys() - before:
        raise AssertionError(f"a module was imported: {', '.join(imported)}")


def warm_up() -> None:
    """Have imported what the targets' own code imports at its first use."""
    for data in CORPUS:
        for target in TARGETS:
            with suppress(Exception):
                target(data)


def run(count: int, *, seed: int) -> int:
    """Check ``count`` mutations; return the exit status."""
    source = random.Random(seed)
    started = time.monotonic()

    def too_slow(number: int, frame: FrameType | None) -> NoReturn:
        raise TimeoutError(f"longer than {SLOWEST:g} s")

    signal.signal(signal.SIGALRM, too_slow)
    for number in range(count):
        data = mutated(source)
        signal.setitimer(signal.ITIMER_REAL, SLOWEST)
        try:
            check(data)
        except BaseException as error:
            print(f"input {number} of seed {seed}: {type(error).__name__}: {error}\n{data!r}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    taken = time.monotonic() - started
    print(f"{count} inputs in {taken:.0f} s with seed {seed}: no crash, none slower than {SLOWEST:g} s, no import")
    return 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--plain", action="store_true", help="without atheris, where it is installed")
    given = parser.parse_args()
    warm_up()
    try:
        if given.plain:
            raise ImportError
        import atheris
    except ImportError:
        return run(given.count, seed=given.seed)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-runs={given.count}", f"-timeout={SLOWEST:g}", f"-seed={given.seed + 1}"], check)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
