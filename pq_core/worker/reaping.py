"""Children that have ended, collected with all that they leave behind."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from pq_core.worker import guards
from pq_core.worker.crowd import Crowd
from pq_core.worker.feeding import Feeding
from pq_core.worker.forking import Exit
from pq_core.worker.listening import Listening
from pq_core.worker.processes import Processes
from pq_core.worker.runs import Child, Ended
from pq_core.worker.shared import StopReason


@dataclass(slots=True, kw_only=True)
class Reaping:
    """Collects what has ended."""

    processes: Processes
    crowd: Crowd
    feeding: Feeding
    listening: Listening
    _oom_kills: int | None = field(default_factory=guards.oom_kills)

    def reap(self, now: float) -> list[Ended]:
        """Collect every run that has ended, and every child with what is left of its process group."""
        done = [*self.listening.take_finished(), *self.crowd.take_finished()]
        if exits := self.processes.forker.exits:
            for child in [one for one in self.processes if one.number in exits]:
                self._reap(child, exits.pop(child.number), now, done)
            exits.clear()
        return done

    def _reap(self, child: Child, exit_: Exit, now: float, done: list[Ended]) -> None:
        if exit_.signal == signal.SIGKILL and not child.killed:
            child.oom_killed = self._oom_kills_rose()
        self.listening.read(child)
        done += self.listening.take_finished()  # what it had said before its end
        # What the runs before this one used is on their account.
        exit_.cpu_user = max(0.0, exit_.cpu_user - child.cpu_user)
        exit_.cpu_system = max(0.0, exit_.cpu_system - child.cpu_system)
        # While its socket is open: with nothing behind its run any more, the selector may have to report it again.
        self.feeding.take_back(child)
        # A grandchild that left the group may hold the other end for ever: nobody waits for it.
        self.processes.hang_up(child)
        child.socket.close()
        done += _unfinished(child, exit_, now)
        child.runs.clear()
        if child.crowd:
            done += self.crowd.reaped(child, exit_, now, child.place.stacks())
        self.processes.forget(child)

    def _oom_kills_rose(self) -> bool:
        """Say whether the kernel has killed for lack of memory since this was last asked: after the last SIGKILL."""
        before, self._oom_kills = self._oom_kills, guards.oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before


def _unfinished(child: Child, exit_: Exit, now: float) -> list[Ended]:
    """Return the runs that a child had when it ended."""
    done = []
    for run in child.runs:
        began = child.began(run)
        run.begun = began is not None
        told = run.end is not None and run.reason is StopReason.NONE
        done.append(
            Ended(
                child=child,
                run=run,
                exit=exit_,
                wall=now - (began or now),
                output=child.place.output(),
                stacks="" if told else child.place.stacks(),
            )
        )
    return done
