"""The worker's loop: one thread, one selector, nothing in it that blocks."""

from __future__ import annotations

import enum
import json
import logging
import os
import selectors
import signal
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.errors import DatabaseUnavailable
from pq_core.schema import check_revision
from pq_core.types import AttemptOutcome, ClaimedTask, Outcome, TaskStatus, WorkerInfo
from pq_core.version import __version__
from pq_core.worker.attention import Attention
from pq_core.worker.book import Book, Entry
from pq_core.worker.child import Unroutable
from pq_core.worker.children import Children
from pq_core.worker.claiming import Statements, integer, number, one_line, text_array
from pq_core.worker.claims import Claims
from pq_core.worker.connection import Parameters, Query, Results, StatementError
from pq_core.worker.ending import cost_of, entry_of, evidence_of
from pq_core.worker.lease import Beat, Lease, Rescued
from pq_core.worker.link import Link
from pq_core.worker.metrics import Counters, gauge
from pq_core.worker.obituaries import Obituaries
from pq_core.worker.options import WorkerOptions
from pq_core.worker.program import Program
from pq_core.worker.pruning import Pruner
from pq_core.worker.runs import Child, Claimed, Ended
from pq_core.worker.scrapes import Scrape, ScrapeServer
from pq_core.worker.shared import StopReason
from pq_core.worker.statistics import Statistics
from pq_core.worker.ticking import Ticking
from pq_core.worker.verdict import Verdict, judge

if TYPE_CHECKING:
    from pq_core.worker.host import Host

logger = logging.getLogger("pq.worker")

LATER = 0.05
"""Seconds before an end is reported again whose row was locked, and before the first retry of a failed turn."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries of a turn that fails again and again."""
FORK_PAUSE = 1.0
"""Seconds without claims after a fork that the system refused."""
FIRST_CONTACT = 15.0
"""Seconds that a worker with ``until_empty`` waits for a database that it has never reached; others wait for ever."""
REPORT_PAUSE = 0.005
"""Seconds that ends may wait for others to be reported with, while there is work at hand."""
REPORT_MANY = 64
"""Ends that don't wait for others."""
STALE = 0.5
"""Seconds after which tasks that no child has taken go back: all are in long runs, and other workers may be free."""
FAREWELL = 3.0
"""Seconds that giving the lease back may take at the end."""


class Phase(enum.Enum):
    """Where a worker stands between its start and its end."""

    RUNNING = "running"
    DRAINING = "draining"
    KILLING = "killing"
    STOPPED = "stopped"


class Supervisor:
    """One life after another of one worker process. ``run`` returns its exit status."""

    def __init__(self, host: Host, options: WorkerOptions, program: Program, queues: tuple[str, ...]) -> None:
        self.host = host
        self.options = options
        self.program = program
        self.queues = queues
        self.plugins = host.plugins
        self.statements = Statements(host.schema)
        self.selector = selectors.DefaultSelector()
        self.phase = Phase.RUNNING
        self.attention = Attention(poll=options.poll_interval)
        self.ticking = Ticking(
            statements=self.statements,
            poll=options.poll_interval,
            on_made=self.attention.wake,
            declared=host.declared_schedules,
        )
        self.claims = Claims(
            statements=self.statements,
            options=options,
            queues=queues,
            attention=self.attention,
            ticking=self.ticking,
        )
        self.book = Book(statements=self.statements, settled=self._settled)
        self.statistics = Statistics(statements=self.statements)
        self.pruner = Pruner(
            statements=self.statements,
            retention=host.pq.retention,
            queues=queues,
            share=0.0 if options.until_empty or options.once else options.prune_share,
            interval=options.prune_interval,
            open_link=lambda: self._side_link(f"{setup}; SET statement_timeout TO '60s'"),
        )
        self.counters = Counters()
        self.scrapes: ScrapeServer | None = None
        if options.metrics_port is not None:
            address = (options.metrics_host, options.metrics_port + (host.page.ordinal if host.page else 0))
            self.scrapes = ScrapeServer(address, selector=self.selector, text=self._metrics)
        self.children = Children(
            setup=host.child_setup(program, 0),
            selector=self.selector,
            concurrency=options.concurrency,
            grace=options.grace,
            tail=options.output_tail,
            inherited=self._inherited,
            before=lambda task: self.plugins.pre_fork(program.shown(task)),
            async_concurrency=options.async_concurrency,
            is_async=program.is_async,
            run_crowd=host.crowd_runner(),
        )
        setup = (
            "SET client_encoding TO 'UTF8'; SET datestyle TO 'ISO'; SET timezone TO 'UTC'; SET jit TO off; "
            "SET default_transaction_isolation TO 'read committed'; SET lock_timeout TO '1s'"
        )
        plans = "SET plan_cache_mode TO force_generic_plan; SET enable_seqscan TO off; SET enable_bitmapscan TO off"
        self.work = Link(
            host.connect_work,
            selector=self.selector,
            setup=f"{setup}; {plans}",
            purpose="work",
            patience=max(options.lease, 10.0),
            hopeless=host.never_heard,
        )
        self.watch = Link(
            host.connect_watch,
            selector=self.selector,
            setup=f"{setup}; LISTEN {host.wake_channel}",
            purpose="watch",
            patience=max(options.lease / 3, 2.0),
            hopeless=host.never_heard,
            on_notify=self._notified,
            on_ready=self.attention.wake,
        )
        self.lease = Lease(
            link=self.watch,
            statements=self.statements,
            seconds=options.lease,
            bands=self.claims.bands,
            on_beat=self._beat,
            on_gone=self._lease_gone,
            on_rescued=self._rescued,
            known_dead=list(host.known_dead),
        )
        self._report_at = 0.0
        self._first_end: float | None = None
        self._taken_at = 0.0
        self._image_at: float | None = None
        self._began = monotonic()
        self._claim_at = 0.0
        self._failures = 0
        self._drain_until: float | None = None
        self._registering = False
        self._register_at = 0.0
        self._turn_under_way = False
        self._unknown: set[tuple[int, int]] = set()
        self._farewell: float | None = None
        self.obituaries = Obituaries(host=host, at_once=options.concurrency, inherited=self._inherited)
        self._fatal: Exception | None = None
        self.ended: list[AttemptOutcome] = []

    def _side_link(self, setup: str) -> Link:
        """Return a connection for what must not hold claims or heartbeats up."""
        return Link(
            self.host.connect_work,
            selector=self.selector,
            setup=setup,
            purpose="side",
            patience=120.0,
            hopeless=lambda reason: None,
        )

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until asked to stop, or until nothing is left with ``until_empty`` or ``once``."""
        wakeup, alarm = socket.socketpair()
        wakeup.setblocking(False)
        alarm.setblocking(False)
        self.selector.register(wakeup, selectors.EVENT_READ, None)
        self._wakeup_fds = [wakeup.fileno(), alarm.fileno()]
        try:
            with self.host.signals(alarm.fileno()):
                while self.phase is not Phase.STOPPED:
                    self._turn_once(wakeup)
        finally:
            self.children.kill_all(StopReason.INTERRUPT)
            self._reap_all()
            self.work.close()
            self.watch.close()
            self.pruner.close()
            if self.scrapes is not None:
                self.scrapes.close()
            self.selector.unregister(wakeup)
            wakeup.close()
            alarm.close()
            self.children.close()
            self.selector.close()
        if self._fatal is not None:
            raise self._fatal
        return 0

    def _turn_once(self, wakeup: socket.socket) -> None:
        timeout = self._timeout()
        for key, _ in self.selector.select(timeout):
            match key.data:
                case Child() as child:
                    self.children.read(child)
                case Link() as link:
                    link.pump()
                case ScrapeServer() | Scrape() as served:
                    served.pump()
                case None:
                    self._drain_wakeup(wakeup)
        self.children.read_silent()
        self._note_progress()
        now = monotonic()
        self.children.enforce(now)
        for done in self.children.reap(now):
            self._ended(done)
        self.obituaries.advance(now)
        self.work.advance(now)
        self.watch.advance(now)
        self._check_first_contact(now)
        self._register(now)
        self.lease.advance(now)
        self._start_claimed(now)
        if self._claiming:
            self.ticking.advance(now, self.work)
            self.pruner.advance(now, self.work, self.lease.worker_id)
        self.statistics.advance(now, self.work, self.lease.worker_id)
        if self.scrapes is not None:
            self.scrapes.advance(now)
        self._turn(now)
        self._advance_phase(now)
        self._image_at = now if self.host.huge.tend(forks=self.children.forks, idle=not self.children.pids) else None
        self.host.publish(self.lease.worker_id, self.lease.expires, self.children.pids)

    def _drain_wakeup(self, wakeup: socket.socket) -> None:
        try:
            while numbers := wakeup.recv(4096):
                for number_ in numbers:
                    if number_ == signal.SIGCHLD:
                        self.children.child_ended()
                    else:
                        self._signalled(number_)
        except BlockingIOError:
            return

    def _timeout(self) -> float | None:
        now = monotonic()
        events = [
            self.children.next_event(now),
            self._taken_at + STALE if self.children.stock else None,
            self.work.next_event(),
            self.watch.next_event(),
            self.lease.next_event(),
            self._drain_until if self.phase is Phase.DRAINING else None,
            self._farewell,
            self._image_at,
            self.obituaries.next_event(),
            self.scrapes.next_event() if self.scrapes is not None else None,
            self._register_at if self._register_at > now else None,
        ]
        if self.work.idle and self._claiming:
            events.append(self.ticking.next_event())
            events.append(self.pruner.next_event())
        if self.work.idle and self.lease.worker_id is not None:
            events.append(self.statistics.next_event())
            if self.book:
                events.append(self._report_due(now))
            room = self.children.room(now) if self._wants_more(now) else 0
            at = self.claims.next_event(now, room=room, busy=self._busy) if self.phase is Phase.RUNNING else None
            if at is not None:
                events.append(max(at, self._claim_at))
        due = min((at for at in events if at is not None), default=now + self.options.poll_interval)
        return max(0.0, due - now)

    def _check_first_contact(self, now: float) -> None:
        """End a worker that the server has never let in: that is a mistake of the set-up, not an outage."""
        if self.work.ever_ready or not self.work.failures:
            return
        refusal = self.host.never_heard(self.work.last_error)
        in_haste = self.options.until_empty or self.options.once
        if refusal is None and in_haste and now - self._began > FIRST_CONTACT:
            refusal = DatabaseUnavailable(self.work.last_error)
        if refusal is not None:
            self._fail(refusal)

    # --- the lease ----------------------------------------------------------------------------------------------

    def _register(self, now: float) -> None:
        if self.lease.worker_id is not None or self._registering or self.phase is not Phase.RUNNING:
            return
        held = self.children.pids or self.children.stock or self.book.entries
        if now < self._register_at or not self.work.idle or held:
            return  # what the last life has to report goes first: the next one will take its tasks back
        self._registering = True
        host, options = self.host, self.options
        parameters: Parameters = [
            number(options.lease),
            integer(os.getpid()),
            integer(options.concurrency),
            host.name.encode(),
            host.hostname.encode(),
            host.app.encode(),
            __version__.encode(),
            text_array(self.queues),
            json.dumps(host.info).encode(),
        ]
        self.work.send([(self.statements["register"], parameters)], lambda r, e: self._registered(now, r, e))

    def _registered(self, sent: float, results: Results | None, error: StatementError | None) -> None:
        self._registering = False
        if results is None:
            assert error is not None
            if error.sqlstate in ("42P01", "3F000", "42703", "42883"):
                self._fail(self.host.not_migrated(error.message))
            elif error.sqlstate.startswith(("42", "28")):
                self._fail(self.host.refused(error.message))
            elif error.sqlstate:
                # A standby, a timeout, a server that goes down: it may be otherwise in a moment.
                logger.warning("the worker can't register yet: %s", error)
                self._register_at = monotonic() + 1.0
            return
        id_, revision, oldest = results[0][0]
        try:
            check_revision(int(revision or 0), int(oldest or 0), schema=self.host.schema)
        except Exception as refusal:
            self._fail(refusal)
            return
        worker_id = int(id_ or 0)
        self.children.setup = self.host.child_setup(self.program, worker_id)
        self.lease.begin(worker_id, sent)
        self.claims.forget()
        served, at_once = ", ".join(self.queues), self.options.concurrency
        logger.info("worker %s started: queues %s, concurrency %s", worker_id, served, at_once)
        self.host.ready(worker_id)
        self.plugins.worker_start(self._info(worker_id))

    def _info(self, worker_id: int) -> WorkerInfo:
        host = self.host
        return WorkerInfo(
            id=worker_id,
            name=host.name,
            host=host.hostname,
            pid=os.getpid(),
            app=host.app,
            queues=self.queues,
            concurrency=self.options.concurrency,
        )

    def _fail(self, error: Exception) -> None:
        self._fatal = error
        self.phase = Phase.STOPPED

    def _lease_gone(self) -> None:
        self.children.kill_all(StopReason.LOST)
        self.book.progress.clear()
        self._put_back_unstarted("its worker lost its lease")
        self.claims.forget()

    def _rescued(self, found: list[Rescued]) -> None:
        self.attention.wake()
        self.ticking.places_may_be_free()
        for one in found:
            logger.warning("task %s (%s): %s; now %s", one.task.id, one_line(one.task.name), one.error, one.status)
            outcome = AttemptOutcome(
                outcome=Outcome.LOST, status=one.status, final=one.status.finished, retry_in=0.0, error=one.error
            )
            self.statistics.note(one.task, outcome)
            self.counters.note(one.task, outcome)
            self.plugins.post_task(self.program.shown(one.task), outcome)
            self.obituaries.add(self.program.shown(one.task), outcome)

    def _beat(self, beat: Beat) -> None:
        self.claims.suspects = beat.suspects and self.claims.alone is None
        if beat.drain_requested:
            self.drain()
        mine = {run.key: (child, run) for child, run in self.children}
        for key, (child, run) in mine.items():
            if (words := beat.running.get(key)) is not None:
                self.children.stop_run(child, run, StopReason.CANCEL, words)
            elif key not in beat.running and run.handed < beat.sent and not run.end and not run.completed_itself:
                logger.warning("task %s was taken away from this worker; its child is ended", run.task.id)
                self.children.stop_run(child, run, StopReason.LOST)
        self._forget_of_stock(beat)
        # Rows that nobody here remembers: a claim whose answer was lost. Only what two heartbeats in a row have seen,
        # with no turn under way: a claim may have been answered between the statement and this line.
        stock = {(one.task.id, one.task.fence) for one in self.children.stock}
        known = mine.keys() | stock | self.book.reported_ids()
        unknown = beat.running.keys() - known
        if self._turn_under_way:
            unknown &= self._unknown  # what an earlier beat has seen already; anything else may be on its way
        for id_, fence in unknown & self._unknown:
            logger.warning("task %s is running for this worker, which does not know it; it is put back", id_)
            self._put_back(id_, fence)
        self._unknown = unknown

    def _forget_of_stock(self, beat: Beat) -> None:
        """Let go of tasks not begun that were cancelled or taken away."""
        for one in list(self.children.stock):
            key = (one.task.id, one.task.fence)
            if (words := beat.running.get(key)) is not None:
                self.children.stock.remove(one)
                error = f"cancelled before it began: {words}" if words else "cancelled before it began"
                self._enter(one.task, Verdict(outcome=Outcome.CANCELLED, error=error, started=False))
            elif key not in beat.running and one.at < beat.sent:
                logger.warning("task %s was taken away from this worker before it began", one.task.id)
                self.children.stock.remove(one)

    def _put_back(self, id_: int, fence: int) -> None:
        assert self.lease.worker_id is not None
        task = self.host.placeholder(id_, fence)
        verdict = Verdict(
            outcome=Outcome.INTERRUPTED, error="put back: the answer to its claim was lost", started=False
        )
        self._enter(task, verdict)

    def _put_back_unstarted(self, why: str) -> None:
        self.children.take_all_back()
        while self.children.stock:
            task = self.children.stock.popleft().task
            self._enter(task, Verdict(outcome=Outcome.INTERRUPTED, error=f"put back: {why}", started=False))

    # --- signals and phases -------------------------------------------------------------------------------------

    def _signalled(self, number_: int) -> None:
        # A keeper asks for haste by SIGQUIT: service managers signal it and its workers alike, and it passes that on.
        again = number_ == signal.SIGINT or (number_ == signal.SIGTERM and self.host.page is None)
        if number_ == signal.SIGQUIT or (again and self.phase is not Phase.RUNNING):
            self.stop_now()
        else:
            self.drain()

    def drain(self) -> None:
        """Take nothing new; let what runs end, up to ``drain_timeout``."""
        if self.phase is Phase.RUNNING:
            self._put_back_unstarted("its worker stops")
            logger.info("draining: %d task(s) run", self.children.busy)
            self.phase = Phase.DRAINING
            self.host.stopping()
            self.lease.draining = True
            self._drain_until = monotonic() + self.options.drain_timeout

    def stop_now(self) -> None:
        """Interrupt what runs and put it back."""
        if self.phase in (Phase.RUNNING, Phase.DRAINING):
            self._put_back_unstarted("its worker stops")
            logger.info("stopping: %d task(s) are interrupted and put back", self.children.busy)
            self.phase = Phase.KILLING
            self.lease.draining = True
            self.children.interrupt_all(2.0)

    def _advance_phase(self, now: float) -> None:
        match self.phase:
            case Phase.DRAINING if self._drain_until is not None and now >= self._drain_until:
                self.stop_now()
            case Phase.RUNNING if self._nothing_left():
                self.phase = Phase.DRAINING
        if self.phase in (Phase.DRAINING, Phase.KILLING):
            self._farewell_when_done(now)

    def _nothing_left(self) -> bool:
        if self.children.busy or self.children.stock or self.book or self.obituaries or self._turn_under_way:
            return False
        if self.ticking.busy(monotonic()):
            return False
        if self.options.once:
            return self.claims.claimed_once
        looked = self.lease.worker_id is not None and not self.attention.claim and self._slept()
        return self.options.until_empty and looked

    def _slept(self) -> bool:
        attention = self.attention
        due = attention.next_due
        empty = not attention.contended and (due is None or due > monotonic())
        return bool(attention.look_at) and empty and not self.claims.suspects and not self.claims.limited.open

    def _farewell_when_done(self, now: float) -> None:
        self.children.dismiss_idle()
        if self.children.pids or self.obituaries:
            return
        self._put_back_unstarted("its worker stopped")
        if self._farewell is None:
            self._farewell = now + FAREWELL
        if now >= self._farewell:
            logger.warning("the database did not answer the farewell; the lease will end by itself")
            self._stopped()
            return
        if self.book or self._turn_under_way or not self.work.idle or now < self._register_at:
            return
        if self.lease.worker_id is None:
            self._stopped()
            return
        worker_id = self.lease.worker_id
        if self.statistics.say_farewell(now, self.work, worker_id):
            return
        self._turn_under_way = True
        goodbye = (self.statements["deregister"], [integer(worker_id)])
        self.work.send([goodbye], lambda results, error: self._deregistered(worker_id, error))

    def _deregistered(self, worker_id: int, error: StatementError | None) -> None:
        self._turn_under_way = False
        if error is not None:
            logger.warning("the farewell failed: %s", error)
            self._register_at = monotonic() + 0.2
            return
        self.plugins.worker_stop(self._info(worker_id))
        logger.info("worker %s stopped", worker_id)
        self.lease.worker_id = None
        self._stopped()

    def _stopped(self) -> None:
        self.phase = Phase.STOPPED

    # --- claims and reports -------------------------------------------------------------------------------------

    @property
    def _claiming(self) -> bool:
        """True while it may take something on: it has a lease and is not about to stop."""
        return self.lease.worker_id is not None and self.phase is Phase.RUNNING and self.lease.held

    @property
    def _busy(self) -> bool:
        return bool(self.children.busy or self.children.stock)

    def _wants_more(self, now: float) -> bool:
        """True when the next round trip should bring tasks: not for each one that was handed out."""
        return self.children.hungry or (bool(self.book) and self._report_due(now) <= now)

    def _report_due(self, now: float) -> float:
        """Return when the ends are to be reported: at once, unless there is work at hand and more will follow soon."""
        if self._first_end is None or self.children.hungry or len(self.book.entries) >= REPORT_MANY:
            return self._report_at
        return max(self._report_at, self._first_end + REPORT_PAUSE)

    def _notified(self, channel: str, payload: str) -> None:
        if payload.startswith("!cancel "):
            if payload[8:] == str(self.lease.worker_id):
                self.lease.beat_soon()
        elif payload == "!tick":
            self.ticking.told()
        elif payload in self.queues:
            self.attention.wake()

    def _turn(self, now: float) -> None:
        if not self.work.idle or self._turn_under_way:
            return
        worker_id = self.lease.worker_id
        sending: list[tuple[Query, Parameters]] = []
        room = self.children.room(now) if self._wants_more(now) else 0
        if self.book and now >= self._report_due(now):
            sending = self.book.statements_to_send(worker_id)
            self._first_end = None
        reporting = self.book.reporting
        claiming: list[tuple[Query, Parameters]] = []
        # Who runs but one task runs the one that a schedule is about to make.
        waits = self.options.once and not self.ticking.started
        if worker_id is not None and self._claiming and now >= self._claim_at and not waits:
            claiming = self.claims.statements_to_send(
                now, worker_id, room=room, busy=self._busy, reporting=bool(sending), idle=self.children.idle
            )
        if not sending and not claiming:
            return
        asked = self.claims.free(room) if claiming else 0
        kind = claiming[-1][0].name if claiming else ""
        sending += claiming
        self._turn_under_way = True
        self.work.send(
            sending,
            lambda r, e: self._turned(r, e, worker_id=worker_id, reporting=reporting, kind=kind, asked=asked),
        )

    def _turned(
        self,
        results: Results | None,
        error: StatementError | None,
        *,
        worker_id: int | None,
        reporting: bool,
        kind: str,
        asked: int,
    ) -> None:
        self._turn_under_way = False
        now = monotonic()
        if results is None:
            assert error is not None
            if reporting:
                self.book.failed(error)
            self._failures += 1
            pause = min(LATER * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE)
            if error.sqlstate:
                logger.warning("a turn failed and is tried again in %.2g s: %s", pause, error)
            if kind:
                self.attention.wake()
                self.attention.marked = False
            self._report_at = self._claim_at = now + pause
            return
        self._failures = 0
        if reporting:
            if self.book.take(results[0]):
                self._report_at = now + LATER
            if any(row[2] == b"pending" or row[6] not in (None, b"0") for row in results[0]):
                self.attention.wake()  # a parked version took its place, or on_failure enqueued something
        if kind:
            if not self.children.stock:
                self._taken_at = now
            self._stock(self.claims.take(kind, results[-1], asked=asked, now=now))
            if worker_id != self.lease.worker_id:
                # Claimed by a life that is over: they are still its tasks, and go back before the next one begins.
                self._put_back_unstarted("its worker lost its lease")

    # --- children -----------------------------------------------------------------------------------------------

    def _inherited(self) -> list[int]:
        own = list(self._wakeup_fds)
        poller = getattr(self.selector, "fileno", None)  # epoll and kqueue have a descriptor of their own
        if poller is not None:
            own.append(poller())
        links = [fd for link in (self.work, self.watch, self.pruner) if (fd := link.fileno) is not None]
        scrapes = self.scrapes.filenos() if self.scrapes is not None else []
        return [*own, *links, *scrapes, *self.host.foreign_sockets()]

    def _metrics(self) -> str:
        """Return what a scrape gets."""
        lease = self.lease
        labels = {"app": self.host.app, "name": self.host.name, "version": __version__, "queues": ",".join(self.queues)}
        lines = [
            *gauge("pq_worker_info", "This worker.", 1, labels),
            *gauge("pq_worker_lease", "1 while it holds a lease.", int(lease.worker_id is not None and lease.held)),
            *gauge("pq_worker_draining", "1 while it takes nothing new.", int(self.phase is not Phase.RUNNING)),
            *gauge("pq_worker_concurrency", "Tasks that it runs at once.", self.options.concurrency),
            *gauge("pq_worker_running", "Tasks that it runs.", self.children.busy),
            *gauge("pq_worker_unreported", "Ends that the database has not confirmed yet.", len(self.book.entries)),
            *gauge("pq_worker_image_bytes", "Memory of the image that forks.", self.host.image_rss),
            *self.counters.lines(),
        ]
        return "\n".join(lines) + "\n"

    def _start_claimed(self, now: float) -> None:
        children = self.children
        if self.phase is not Phase.RUNNING or not self.lease.held:
            if children.stock:
                self._put_back_unstarted("its worker stops or has lost its lease")
            return
        before = len(children.stock)
        children.even_out()
        while (claimed := children.next_claimed) is not None:
            if not self._start(claimed):
                break
        children.top_up()
        if len(children.stock) < before:
            self._taken_at = now
        elif children.stock and now >= self._taken_at + STALE:
            self._put_back_unstarted("this worker's processes are all in long runs")

    def _stock(self, found: list[Claimed]) -> None:
        """Keep what this code can run, release the rest."""
        runnable = []
        for claimed in found:
            task = claimed.task
            try:
                self.program.find(task)
            except Unroutable as error:
                logger.warning("task %s can't run here: %s", task.id, error)
                self._enter(task, Verdict(outcome=Outcome.RELEASED, error=str(error)))
                continue
            if absurd := task.options.get("absurd"):
                words = f"its row was not written by pq: the stored options make no sense: {absurd}"
                self._enter(task, Verdict(outcome=Outcome.RAISED, error=words, retryable=False, started=False))
                continue
            runnable.append(self.host.prepared(claimed))
        self.children.add(runnable)

    def _start(self, claimed: Claimed) -> bool:
        """Start the first task of the stock; False when the system has no room for it."""
        try:
            self.children.start()
        except OSError as error:
            # No process or descriptor left: not the task's fault, and others may have room.
            logger.error("task %s can't be started: %s", claimed.task.id, error)
            verdict = Verdict(outcome=Outcome.INTERRUPTED, error=f"its worker could not fork: {error}", started=False)
            self._enter(claimed.task, verdict)
            self._claim_at = monotonic() + FORK_PAUSE
            return False
        return True

    def _note_progress(self) -> None:
        for run in self.children.news:
            if self.lease.worker_id is not None and run.reason is not StopReason.LOST:
                self.book.progress[run.task.id] = {"fence": run.task.fence, **(run.progress or {})}
        self.children.news.clear()

    def _ended(self, done: Ended) -> None:
        run = done.run
        cost = cost_of(done, self.host.image_rss)
        verdict = judge(run.task, evidence_of(done, cost))
        output = None if self.program.sensitive(run.task) else done.output
        self.claims.child_ended(run.task)
        if verdict.outcome is Outcome.LOST:
            logger.warning("task %s is not recorded: another worker may have it", run.task.id)
            return
        self._enter(
            run.task,
            verdict,
            cost=cost,
            output=output,
            completed_itself=run.completed_itself,
            died=run.end is None,
            progress=run.progress,
        )

    def _enter(self, task: ClaimedTask, verdict: Verdict, **known: Any) -> None:
        self.claims.child_ended(task)
        transition = self.program.decide(task, verdict)
        if transition.status is TaskStatus.PENDING:
            self.attention.wake()  # it may be due again at once, and its time has to be known
        if self._first_end is None:
            self._first_end = monotonic()
        self.book.add(entry_of(task, verdict, transition, worker_id=self.children.setup.worker_id, **known))

    def _settled(self, entry: Entry, outcome: AttemptOutcome) -> None:
        self.ended.append(outcome)
        if not self.options.once:
            self.ended.clear()
        level = logging.DEBUG if outcome.outcome is Outcome.SUCCEEDED else logging.INFO
        logger.log(
            level,
            "task %s (%s) attempt %s: %s, now %s",
            entry.task.id,
            one_line(entry.task.name),
            entry.task.number,
            outcome.outcome,
            outcome.status,
        )
        if entry.task.schedule_id is not None:
            self.ticking.run_ended(entry.task.schedule_id)
        shown, told = self.program.shown(entry.task), self.program.shown_outcome(entry.task, outcome)
        self.statistics.note(entry.task, outcome)
        self.counters.note(entry.task, outcome)
        self.plugins.post_task(shown, told)
        if entry.died and outcome.outcome is not Outcome.SUCCEEDED:
            self.obituaries.add(shown, told)

    def _reap_all(self) -> None:
        until = monotonic() + 5.0
        while self.children.pids and monotonic() < until:
            self.children.child_ended()
            self.children.reap(monotonic())
            self.selector.select(0.01)
