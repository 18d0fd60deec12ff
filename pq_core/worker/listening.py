"""What the children say: frames read, and noted with the runs that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from pq_core.worker import late, wire
from pq_core.worker.crowd import Crowd
from pq_core.worker.feeding import Feeding
from pq_core.worker.forking import Exit
from pq_core.worker.guards import RSS_UNIT
from pq_core.worker.processes import Processes
from pq_core.worker.runs import LAST_WORD_GRACE, Child, Ended, Run, progress_of, usage
from pq_core.worker.shared import StopReason
from pq_core.worker.signalling import kill, stop_next

READ_SIZE = 256 * 1024


@dataclass(slots=True, kw_only=True)
class Listening:
    """Reads the children.

    ``news``: runs that told of progress. ``finished``: runs that ended in a child that goes on.
    """

    processes: Processes
    crowd: Crowd
    feeding: Feeding
    news: list[Run] = field(default_factory=list)
    finished: list[Ended] = field(default_factory=list)

    def take_finished(self) -> list[Ended]:
        """Return what has ended since this was last asked."""
        done, self.finished = self.finished, []
        return done

    def read_silent(self) -> None:
        """Read the children that the selector does not report."""
        for child in self.processes:
            if child.silent:
                self.read(child)

    def read(self, child: Child) -> None:
        """Take in what the child has sent."""
        self._read(child)
        if child.eof and child.idle:
            # Nobody asked it to leave.
            self.processes.spare_died |= child.single and not child.killed
            self.feeding.let_go(child)
        elif not child.eof:
            self.processes.listen(child)

    def _read(self, child: Child) -> None:
        while not child.eof:
            try:
                data = child.socket.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                data = b""
                child.broken = child.broken or str(error)
            if not data:
                self.processes.hang_up(child)
                child.eof = True
                child.silent = False
                return
            if child.broken:
                continue  # already being ended: read on, so that it does not block in a write
            broken: wire.BrokenFrame | None = None
            try:
                try:
                    frames: Sequence[tuple[wire.Kind, dict[str, Any]]] = child.decoder.feed(data)
                except wire.BrokenFrame as error:
                    frames, broken = error.frames, error
                for kind, body in frames:
                    self._note(child, kind, body)
            except wire.BrokenFrame as error:
                broken = error
            if broken is not None:
                child.broken = str(broken)
                kill(child)
            if len(data) < READ_SIZE:
                return

    def _note(self, child: Child, kind: wire.Kind, body: dict[str, Any]) -> None:
        if kind is wire.Kind.LOADED:
            self.processes.forker.load(late.believable(body.get("names")))
            return
        if child.crowd:
            if (told := self.crowd.note(child, kind, body)) is not None:
                self.news.append(told)
            return
        run = child.head
        mine = run is not None and (body.get("id"), body.get("fence")) == run.key
        if kind in (wire.Kind.END, wire.Kind.DONE):
            if run is None or not mine or run.end is not None:
                # Of a task that it does not have, or had ended: no word of this process can be relied on.
                raise wire.BrokenFrame("a task ends once")
            self._note_end(child, run, body)
        elif run is None or not mine:
            return  # a thread that an earlier task left behind may still speak
        elif kind is wire.Kind.PROGRESS:
            run.begun = True
            run.progress = progress_of(body)
            self.news.append(run)
        elif kind is wire.Kind.COMPLETED:
            run.begun = True
            run.completed_itself = True

    def _note_end(self, child: Child, run: Run, body: dict[str, Any]) -> None:
        now = monotonic()
        run.end, run.begun = body, True
        if child.single:
            # A process for one task: how it exits belongs to the outcome.
            child.kill_at = child.kill_at if child.kill_at is not None else now + LAST_WORD_GRACE
            child.leaving = True
            self.feeding.pace.note(run.task.name, now - run.handed)
            return
        child.pop(now)
        if child.runs and child.kill_at is not None:
            stop_next(child)
        wall = usage(body.get("wall"))
        self.feeding.pace.note(run.task.name, wall)
        cpu_user, cpu_system = usage(body.get("cpu_user")), usage(body.get("cpu_system"))
        max_rss = usage(body.get("max_rss"))
        child.cpu_user += cpu_user
        child.cpu_system += cpu_system
        exit_ = Exit(child.pid, 0, cpu_user, cpu_system, int(max_rss) * RSS_UNIT)
        output = body.get("output")
        output = output[: self.processes.tail + 200] if isinstance(output, str) else None
        stacks = child.place.stacks() if run.reason is not StopReason.NONE else ""
        self.finished.append(Ended(child=child, run=run, exit=exit_, wall=wall, output=output, stacks=stacks))
        if body.get("last") or run.reason is not StopReason.NONE or (child.left <= 0 and not child.runs):
            self.feeding.let_go(child)
