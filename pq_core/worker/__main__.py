"""``python -m pq_core.worker SPEC``: the keeper and its workers. ``pq worker`` execs this, with SPEC as JSON.

A process of its own, so that the command line's libraries are in no image that forks.
"""

from __future__ import annotations

import json
import os
import sys

from pq_core.worker.keeper import USAGE_ERROR, Keeper, Page
from pq_core.worker.vitals import Notifier, Vitals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pq_core.worker.keeper import LeaseKey


BOUND = "bound"
"""Second argument of a program whose libraries are bound."""


def bind_libraries(argv: list[str]) -> None:
    """Begin this program anew with each function of a library looked up at the start (ld.so(8), LD_BIND_NOW).

    Otherwise the first call looks it up and writes down where it is: in each child anew for what only children call,
    which costs each of them a dozen copied pages.
    """
    if not sys.platform.startswith("linux"):
        return
    if argv[2:] == [BOUND]:
        os.environ.pop("LD_BIND_NOW", None)  # what children start is not concerned
    elif "LD_BIND_NOW" not in os.environ:
        os.execve(sys.executable, [*sys.orig_argv, BOUND], {**os.environ, "LD_BIND_NOW": "1"})


def main(argv: list[str]) -> int:
    """Run what SPEC says and return the exit status."""
    bind_libraries(argv)
    os.environ["PQ_ROLE"] = "worker"
    spec: dict[str, Any] = json.loads(argv[1])

    def start(page: Page | None, known_dead: tuple[LeaseKey, ...]) -> int:
        # Imported after the fork: the keeper stays small, and a restarted worker sees new code.
        from pq_core.worker.application import run_application

        return run_application(spec, page=page, known_dead=known_dead)

    if spec.get("check"):
        return start(None, ())
    vitals = Vitals(health_file=spec["options"].get("health_file"), notifier=Notifier.take(os.environ), log=_log)
    concurrency, spares = int(spec["options"]["concurrency"]), spec["options"].get("spares")
    keeper = Keeper(
        start,
        processes=int(spec.get("processes", 1)),
        children=concurrency + (concurrency if spares is None else int(spares)),
        log=_log,
        vitals=vitals if vitals.wanted else None,
    )
    return keeper.run()


def _log(message: str) -> None:
    try:
        sys.stderr.write(f"pq keeper: {message}\n")
        sys.stderr.flush()
    except OSError:
        return  # nobody reads it any more; the workers still have to be looked after


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except KeyboardInterrupt:
        sys.exit(USAGE_ERROR)
