"""Options of tasks and calls: which exist, which values make sense, and how they are written for ``pq_enqueue``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, TypeVar

from pq_core.close_names import close_names
from pq_core.errors import InvalidOption, InvalidTask
from pq_core.types import Backoff, CallOptions, OnDuplicate, OnLost, PayloadKind, Rate, TaskOptions, Unique

if TYPE_CHECKING:
    from pq_core.tasks import Call, Task

LONGEST_NAME = 255
"""Characters of a name, a queue or a ``client_id`` at most."""
SMALLEST_MEMORY_LIMIT = 1 << 20
HIGHEST_PRIORITY = 32767
"""Priorities are stored as smallint."""

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Unicode's categories Cc and Cs, without the library of ``unicodedata``."""
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

FLAT_NAMES = frozenset({"run_at", "priority", "client_id", "max_runtime_seconds"})
"""python-pq's options of ``enqueue``, taken from among the task's own keyword arguments."""
SCHEDULE_NAMES = frozenset({"run_every", "cron", "key", "max_concurrent", "active"})
"""python-pq's options of ``schedule`` beside those. Both sets are frozen: no newer option is ever taken flat."""
FROZEN_NAMES = FLAT_NAMES | SCHEDULE_NAMES

CODE_ONLY = frozenset(
    {"retry_on", "no_retry_on", "payload", "sensitive", "concurrency", "rate"}
    | {"detach", "strict_result", "max_child_memory"}
)
"""Options that live in the code that runs the task: a single call can't say them."""

O = TypeVar("O", bound=TaskOptions)  # noqa: E741


class CommonFields(TypedDict, total=False):
    """What ``TaskOptions`` takes by name and what may also be said of a single call."""

    priority: int | None
    queue: str | None
    max_attempts: int | None
    backoff: Backoff | None
    timeout: float | None
    grace: float | None
    memory_limit: int | None
    on_lost: OnLost | None
    on_failure: Call[Any] | Task[[], Any] | None
    result_limit: int | None
    max_starts: int | None


class TaskFields(CommonFields, total=False):
    """What ``@group.task(…)`` takes by name beside ``name``, ``aliases`` and ``version``."""

    retry_on: tuple[type[BaseException], ...] | None
    no_retry_on: tuple[type[BaseException], ...] | None
    payload: PayloadKind | None
    sensitive: bool | None
    concurrency: int | None
    rate: Rate | str | None
    detach: bool | None
    strict_result: bool | None
    max_child_memory: int | None


class CallFields(CommonFields, total=False):
    """What ``.options(…)`` takes by name: all of ``CallOptions`` but what lives in code alone."""

    run_at: datetime | None
    run_in: timedelta | None
    client_id: str | None
    on_duplicate: OnDuplicate | None
    unique: Unique | None
    headers: Mapping[str, str] | None
    require_transaction: bool | None
    concurrency_key: str | None
    concurrency_limit: int | None


def build(kind: type[O], given: Mapping[str, Any], *, what: str) -> O:
    """Return checked options of ``kind`` from keyword arguments; ``what`` names the task in errors."""
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            near = close_names(name, known)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
            raise InvalidOption(f"{what}: there is no option {name!r}; {hint}")
    options = kind(**given)
    check(options, what=what)
    return options


def changed(options: CallOptions, given: Mapping[str, Any], *, what: str) -> CallOptions:
    """Return ``options`` with what ``given`` says in their place; ``run_at`` and ``run_in`` replace each other."""
    for name in CODE_ONLY & given.keys():
        _refuse(what, name, given[name], "it lives in the code that runs the task: say it at the task's definition")
    before = {f.name: value for f in fields(options) if (value := getattr(options, f.name)) is not None}
    for one, other in (("run_at", "run_in"), ("run_in", "run_at")):
        if given.get(one) is not None:
            before.pop(other, None)
    return build(CallOptions, {**before, **given}, what=what)


def check(options: TaskOptions, *, what: str) -> None:
    """Raise ``InvalidOption`` for the first value that makes no sense, with the option, the value and the fix."""
    for field in fields(options):
        value = getattr(options, field.name)
        if value is not None:
            _CHECKS[field.name](what, field.name, value)
    if isinstance(options, CallOptions) and options.run_at is not None and options.run_in is not None:
        _refuse(what, "run_in", options.run_in, f"run_at={options.run_at!r} is given, too: give one of them")
    if isinstance(options, CallOptions) and options.concurrency_limit is not None and options.concurrency_key is None:
        fix = "say whose limit it is: give concurrency_key=, too; a task function's own limit is @task(concurrency=…)"
        _refuse(what, "concurrency_limit", options.concurrency_limit, fix)


def is_integer(value: object, low: int, high: int) -> bool:
    """Tell whether ``value`` is an integer from ``low`` to ``high``; ``True`` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_name(kind: str, name: object, *, error: type[InvalidOption] | type[InvalidTask], what: str) -> None:
    """Raise ``error`` unless ``name`` is fit to be stored, listed, and typed in a shell."""
    if not isinstance(name, str):
        raise error(f"{what}: {kind}={name!r}: give text, not {type(name).__name__}")
    if not name or name != name.strip():
        raise error(f"{what}: {kind}={name!r}: give a name that is not empty and neither starts nor ends with space")
    if len(name) > LONGEST_NAME:
        raise error(f"{what}: {kind}={name[:40]!r}… has {len(name)} characters: give {LONGEST_NAME} at most")
    bad = _UNPRINTABLE.search(name)
    if bad is not None:
        raise error(f"{what}: {kind}={name!r}: give text without {bad[0]!r}, the database or a terminal can't take it")


def spec_fields(options: TaskOptions) -> dict[str, Any]:
    """Return the options as ``pq_enqueue`` takes them: plain JSON values, what is unsaid left out.

    ``on_failure`` is not in it (the caller writes it, as a spec of its own), nor what is not stored at all.
    """
    spec: dict[str, Any] = {}
    for name in _CALL_WRITERS if isinstance(options, CallOptions) else _TASK_WRITERS:
        value = getattr(options, name)
        if value is not None:
            spec[name] = _WRITERS[name](value)
    if not options.sensitive:
        spec.pop("sensitive", None)
    return spec


def split_flat_options(task: Task[..., Any], kwargs: Mapping[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """Split keyword arguments of ``pq.enqueue(fn, 7, run_at=…)`` into options and the task's own arguments."""
    taken = _taken(task, kwargs, method="enqueue")
    for name in sorted(SCHEDULE_NAMES & taken.keys()):
        _refuse(f"enqueue({task.name})", name, taken[name], "that is an option of pq.schedule()")
    return _call_options(task, taken), {name: value for name, value in kwargs.items() if name not in taken}


def split_schedule_options(
    task: Task[..., Any], kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], CallOptions, dict[str, Any]]:
    """Split keyword arguments of ``pq.schedule(fn, 7, cron=…)``: the schedule's, the tasks', the function's own.

    The first holds those of ``run_every cron key max_concurrent active`` that were given, unchecked. A
    ``run_at`` is refused: a schedule says itself when its tasks run.
    """
    taken = _taken(task, kwargs, method="schedule")
    if taken.get("run_at") is not None:
        _refuse(f"schedule({task.name})", "run_at", taken["run_at"], "a schedule runs by run_every= or cron=")
    schedule = {name: taken.pop(name) for name in SCHEDULE_NAMES & taken.keys()}
    options = _call_options(task, taken)
    own = {name: value for name, value in kwargs.items() if name not in FROZEN_NAMES}
    return schedule, options, own


def _taken(task: Task[..., Any], kwargs: Mapping[str, Any], *, method: str) -> dict[str, Any]:
    if task.clashing:
        names = ", ".join(sorted(task.clashing))
        raise InvalidTask(
            f"{task.name} has parameters named like options of pq.{method}(): {names}. "
            f"Pass its arguments apart: pq.{method}({task.reference}.options(…).call(…))"
        )
    return {name: value for name, value in kwargs.items() if name in FROZEN_NAMES}


def _call_options(task: Task[..., Any], taken: Mapping[str, Any]) -> CallOptions:
    renamed = {("timeout" if name == "max_runtime_seconds" else name): value for name, value in taken.items()}
    return build(CallOptions, renamed, what=task.name)


def _refuse(what: str, name: str, value: object, fix: str) -> NoReturn:
    raise InvalidOption(f"{what}: {name}={value!r}: {fix}")


def _integer(low: int, high: int, fix: str) -> Callable[[str, str, object], None]:
    def check_integer(what: str, name: str, value: object) -> None:
        if not is_integer(value, low, high):
            _refuse(what, name, value, fix)

    return check_integer


def _seconds(*, zero: bool, fix: str) -> Callable[[str, str, object], None]:
    def check_seconds(what: str, name: str, value: object) -> None:
        if isinstance(value, timedelta):
            _refuse(what, name, value, f"give seconds: {name}={value.total_seconds():g}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            _refuse(what, name, value, fix)
        if value == 0 and not zero:
            _refuse(what, name, value, fix)

    return check_seconds


def _one_of(*words: str) -> Callable[[str, str, object], None]:
    def check_word(what: str, name: str, value: object) -> None:
        if not isinstance(value, str) or value not in words:
            _refuse(what, name, value, f"give {' or '.join(repr(word) for word in words)}")

    return check_word


def _exceptions(what: str, name: str, value: object) -> None:
    if isinstance(value, type):
        _refuse(what, name, value, f"give a tuple: {name}=({value.__name__},)")
    if not isinstance(value, tuple) or not all(isinstance(e, type) and issubclass(e, BaseException) for e in value):
        _refuse(what, name, value, "give a tuple of exception classes")


def _backoff(what: str, name: str, value: object) -> None:
    if not isinstance(value, Backoff):
        _refuse(what, name, value, "give Backoff(base=…, factor=…, max=…, jitter=…)")


def _queue(what: str, name: str, value: object) -> None:
    check_name(name, value, error=InvalidOption, what=what)
    if "," in str(value):
        _refuse(what, name, value, "give a name without commas: a worker is told its queues as a list with commas")


def check_client_id(what: str, name: str, value: object) -> None:
    """Raise ``InvalidOption`` unless ``value`` is fit to be a ``client_id``."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        _refuse(what, name, value, f"give text of 1 to {LONGEST_NAME} characters")
    if (bad := _unstorable(value)) is not None:
        _refuse(what, name, value, f"give text without {bad!r}, the database can't store it")


def rate_of(value: Rate | str) -> Rate:
    """Return a rate, read if it is text; ValueError says what is wrong with it."""
    return value if isinstance(value, Rate) else Rate.parse(value)


def _rate(what: str, name: str, value: object) -> None:
    if not isinstance(value, (str, Rate)):
        _refuse(what, name, value, f'give text: {name}="10/s", or Rate(10, seconds=1)')
    try:
        rate_of(value)
    except ValueError as error:
        _refuse(what, name, value, str(error))


def _call(what: str, name: str, value: object) -> None:
    if not hasattr(value, "spec"):
        _refuse(what, name, value, "give a call: on_failure=other_task.call(…)")


def _run_at(what: str, name: str, value: object) -> None:
    if not isinstance(value, datetime):
        fix = "give it as run_in=" if isinstance(value, timedelta) else "give a datetime with a timezone"
        _refuse(what, name, value, fix)
    if value.utcoffset() is None:
        fix = "a datetime without a timezone says no point in time: pass tzinfo=, as datetime.now(tz=UTC) does"
        _refuse(what, name, value, fix)
    try:
        value.astimezone(UTC)
    except OverflowError:
        _refuse(what, name, value, "give a datetime that lies within the years 1 to 9999 in UTC")


def _run_in(what: str, name: str, value: object) -> None:
    if isinstance(value, (int, float)):
        _refuse(what, name, value, f"give timedelta(seconds={value!r})")
    if not isinstance(value, timedelta) or value < timedelta(0):
        _refuse(what, name, value, "give a timedelta of 0 or more")
    if value > timedelta(days=365_000):
        _refuse(what, name, value, "give a timedelta of 1,000 years at most")


def _headers(what: str, name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        _refuse(what, name, value, "give a mapping of text to text")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            _refuse(what, name, {key: text}, "give text for both the name and the value")
        if (bad := _unstorable(key + text)) is not None:
            _refuse(what, name, {key: text}, f"give text without {bad!r}, the database can't store it")


def _unstorable(text: str) -> str | None:
    bad = _UNSTORABLE.search(text)
    return None if bad is None else bad[0]


def _flag(what: str, name: str, value: object) -> None:
    if not isinstance(value, bool):
        _refuse(what, name, value, "give True or False")


_MEMORY = "give bytes as an integer of at least 1 MiB: 512 * 2**20"
_PRIORITY = f"give an integer from -{HIGHEST_PRIORITY + 1} to {HIGHEST_PRIORITY} or one of Priority, as Priority.HIGH"
_CHECKS: Mapping[str, Callable[[str, str, object], None]] = {
    "priority": _integer(-HIGHEST_PRIORITY - 1, HIGHEST_PRIORITY, _PRIORITY),
    "queue": _queue,
    "max_attempts": _integer(1, 2**31 - 1, "give an integer of at least 1: how often the task may start and fail"),
    "retry_on": _exceptions,
    "no_retry_on": _exceptions,
    "backoff": _backoff,
    "timeout": _seconds(zero=False, fix="give a finite number of seconds above 0; leave it out for no timeout"),
    "grace": _seconds(zero=True, fix="give a finite number of seconds, 0 or more"),
    "memory_limit": _integer(SMALLEST_MEMORY_LIMIT, 2**62, _MEMORY),
    "on_lost": _one_of("retry", "fail"),
    "on_failure": _call,
    "result_limit": _integer(0, 2**30, "give bytes as an integer from 0 to 2**30"),
    "max_starts": _integer(0, 2**31 - 1, "give an integer: how often it may start, counted or not; 0: any number"),
    "payload": _one_of("json", "pickle", "encrypted"),
    "sensitive": _flag,
    "detach": _flag,
    "strict_result": _flag,
    "max_child_memory": _integer(
        SMALLEST_MEMORY_LIMIT, 2**62, "give bytes as an integer of at least 1 MiB: 512 * 2**20"
    ),
    "run_at": _run_at,
    "run_in": _run_in,
    "client_id": check_client_id,
    "on_duplicate": _one_of("raise", "return"),
    "unique": _one_of("retained", "unfinished"),
    "headers": _headers,
    "require_transaction": _flag,
    "concurrency": _integer(1, 2**31 - 1, "give an integer of at least 1: how many run at once; leave it out for any"),
    "rate": _rate,
    "concurrency_key": check_client_id,
    "concurrency_limit": _integer(1, 2**31 - 1, "give an integer of at least 1: how many with the key run at once"),
}

_WRITERS: Mapping[str, Callable[[Any], Any]] = {
    "priority": int,
    "queue": str,
    "max_attempts": int,
    "backoff": asdict,
    "timeout": float,
    "grace": float,
    "memory_limit": int,
    "on_lost": str,
    "result_limit": int,
    "max_starts": int,
    "sensitive": bool,
    "run_at": lambda moment: moment.astimezone(UTC).isoformat(),
    "run_in": timedelta.total_seconds,
    "client_id": str,
    "on_duplicate": str,
    "unique": str,
    "headers": dict,
    "concurrency": int,
    "rate": lambda value: rate_of(value).per_second,
    "concurrency_key": str,
    "concurrency_limit": int,
}
_TASK_WRITERS = tuple(field.name for field in fields(TaskOptions) if field.name in _WRITERS)
_CALL_WRITERS = tuple(field.name for field in fields(CallOptions) if field.name in _WRITERS)


def names(
    given: Iterable[str] | str, *, option: str, error: type[InvalidOption] | type[InvalidTask] = InvalidOption
) -> tuple[str, ...]:
    """Return a list of names as a tuple; one string alone is a slip that would be taken apart into letters."""
    if isinstance(given, str):
        raise error(f"{option}={given!r}: give a list: {option}=[{given!r}]")
    found = tuple(given)
    for name in found:
        check_name(option, name, error=error, what="a list of names")
    return found
