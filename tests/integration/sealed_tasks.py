"""Tasks whose payload is signed or encrypted, and tasks that hide it."""

from __future__ import annotations

import datetime
import enum
import os
import sys
import time

from pq_core import PQ, Backoff, Cancel, Snooze, TaskGroup, current_attempt

jobs = TaskGroup(prefix="s")

SECRET = "s3cret-4711"
"""What no way out of a sensitive task may show."""

MARK = "PQ_TEST_UNPICKLED"


class Shape:
    """What only a pickle can carry."""

    def __init__(self, sides: int) -> None:
        self.sides = sides

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and other.sides == self.sides

    __hash__ = None  # type: ignore[assignment]


class Bomb:
    """Writes a file when it is unpickled: whether it was is what the tests ask."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (touch, (self.path, "unpickled"))


def touch(path: str, text: str) -> str:
    with open(path, "w") as file:
        file.write(text)
    return path


def create_pq() -> PQ:
    from tests.integration.leaking_plugin import Leaking

    return PQ(tasks=[__name__], app="sealed", plugins=[Leaking()])


@jobs.task(payload="pickle")
def turn(shape: Shape, *, by: int = 1) -> Shape:
    return Shape(shape.sides + by)


@jobs.task(payload="pickle")
def other(shape: Shape, *, by: int = 1) -> int:
    return -1


@jobs.task(payload="encrypted")
def charge(card: str, *, when: datetime.date) -> dict[str, object]:
    return {"card": card, "when": when}


@jobs.task(payload="encrypted")
def refund(card: str, *, when: datetime.date) -> str:
    return "refunded"


@jobs.task
def plain(value: str) -> str:
    return value


@jobs.task(payload="encrypted", name="again", max_attempts=2, backoff=Backoff(base=0, jitter=0))
def again(word: str) -> str:
    if current_attempt().number == 1:
        raise RuntimeError("once more")
    return word.upper()


# --- sensitive: everything of it holds SECRET where it could


@jobs.task(sensitive=True)
def fails(secret: str) -> None:
    copy = secret
    print("printed", copy)
    print("printed", copy, file=sys.stderr)
    try:
        int(copy)
    except ValueError as error:
        raise KeyError(copy) from error


@jobs.task(sensitive=True)
def groups(secret: str) -> None:
    raise ExceptionGroup(secret, [ValueError(secret), LookupError(secret)])


@jobs.task(sensitive=True)
def returns_unstorable(secret: str) -> object:
    return {secret: object()}


@jobs.task(sensitive=True)
def snoozes(secret: str) -> None:
    if not current_attempt().headers.get("seen"):
        raise Snooze(3600, secret)


@jobs.task(sensitive=True)
def cancels(secret: str) -> None:
    raise Cancel(secret)


@jobs.task(sensitive=True)
def crashes(secret: str) -> None:
    print(secret, flush=True)
    os.abort()


@jobs.task(sensitive=True, timeout=0.5)
def overruns(secret: str) -> None:
    time.sleep(60)


@jobs.task(sensitive=True)
def misfits(secret: datetime.date) -> None:
    """Gets text that is no date: the decoder says which text in its error, and that is not to be seen."""


class Picky(enum.Enum):
    """Takes its time over a value that it does not know."""

    KNOWN = "known"

    @classmethod
    def _missing_(cls, value: object) -> None:
        try:
            raise ValueError(value)
        except ValueError:
            time.sleep(60)


@jobs.task(sensitive=True)
def lingers(secret: Picky) -> None:
    """Gets a value that is being looked at when its time is over: the error on the way shows it."""


@jobs.task(sensitive=True)
def works(secret: str) -> str:
    current_attempt().progress(0.5, secret)
    return secret


@jobs.task(sensitive=True)
async def waits(secret: str) -> None:
    raise OSError(secret)
