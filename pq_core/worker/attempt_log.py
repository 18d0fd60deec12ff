"""The line that a worker logs for an attempt: how it ended, why, where in the application, and what comes next."""

from __future__ import annotations

import logging
import re
import sysconfig
from pathlib import PurePath

from pq_core.types import AttemptOutcome, ClaimedTask, Outcome, TaskStatus
from pq_core.worker.claiming import one_line
from pq_hooks.logging import FIELDS

logger = logging.getLogger("pq.worker")

QUIET = {Outcome.SNOOZED, Outcome.CANCELLED, Outcome.INTERRUPTED, Outcome.RELEASED}
"""Outcomes without success that are no failure either: somebody asked for them."""
LONGEST = 500
"""Characters of an error's message in a line."""

_FRAME = re.compile(r'^ *(?:\| *)*File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)
_LIBRARIES = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_OWN = re.compile(r"[/\\](?:pq_core|pq_hooks|pq_adapters)[/\\]")


def log_attempt(task: ClaimedTask, outcome: AttemptOutcome, *, traceback: bool = False) -> None:
    """Log how an attempt ended: a success at DEBUG, what was asked for at INFO, a failure at WARNING.

    ``traceback``: with the whole of the error below it.
    """
    if outcome.outcome is Outcome.SUCCEEDED:
        level = logging.DEBUG
    else:
        level = logging.INFO if outcome.outcome in QUIET else logging.WARNING
    if not logger.isEnabledFor(level):
        return
    text = f"task {task.id} ({one_line(task.name)}) attempt {task.number} of {task.max_attempts} {_ending(outcome)}"
    if outcome.outcome is not Outcome.SUCCEEDED:
        text += f"; {_consequence(outcome)}"
    if traceback and level == logging.WARNING and outcome.error:
        text += f"\n{outcome.error.rstrip()}"
    record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (text,), None, "log_attempt")
    # Not as extra=, which raises for a name that a record has already, as the application's own factory may give it.
    vars(record).update(dict(zip(FIELDS, (task.id, task.name, task.number, task.queue), strict=True)))
    record.outcome = outcome.outcome.value
    record.exception_type = outcome.exception_type
    logger.handle(record)


def _ending(outcome: AttemptOutcome) -> str:
    if outcome.outcome is Outcome.SUCCEEDED:
        return "succeeded"
    message = summary(outcome)
    how = "raised" if outcome.outcome is Outcome.RAISED else f"ended as {outcome.outcome}"
    if message:
        how += f" {message}" if outcome.outcome is Outcome.RAISED else f": {message}"
    where = place(outcome.error or "")
    return f"{how} ({where})" if where else how


def _consequence(outcome: AttemptOutcome) -> str:
    if outcome.status is not TaskStatus.PENDING:
        return f"the task is {outcome.status}"
    return f"it runs again in {outcome.retry_in:.3g} s" if outcome.retry_in else "it runs again"


def summary(outcome: AttemptOutcome) -> str:
    """Return the line of an error that says most: of a traceback the exception with its message, else the first."""
    lines = [line.strip() for line in (outcome.error or "").splitlines() if line.strip()]
    if not lines:
        return ""
    found = lines[0]
    if outcome.outcome is Outcome.RAISED and outcome.exception_type is not None:
        kind = outcome.exception_type.removeprefix("__main__.")
        bare = [line.removeprefix("| ") for line in lines]  # as those of a group are shown
        named = [line for line in bare if line.partition(":")[0] == kind]
        found = named[-1] if named else found
    return found if len(found) <= LONGEST else f"{found[:LONGEST]}…"


def place(error: str) -> str:
    """Return where in the application the last exception of a traceback came from; empty if nowhere in it."""
    frames = [match for match in _FRAME.finditer(error) if not _OWN.search(match["file"])]
    # An application that is installed as a package is beside the libraries.
    own = [match for match in frames if not _is_of_a_library(match["file"])] or frames
    if not own:
        return ""
    last = own[-1]
    return f"{'/'.join(PurePath(last['file']).parts[-2:])}:{last['line']} in {last['function']}"


def _is_of_a_library(file: str) -> bool:
    return file.startswith(("<", *_LIBRARIES)) or "site-packages" in file
