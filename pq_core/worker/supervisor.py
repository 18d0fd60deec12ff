"""The worker's loop: one thread, one selector, nothing in it that waits for a fork."""

from __future__ import annotations

import logging
import selectors
import signal
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.types import AttemptOutcome
from pq_core.worker.abandoned import Abandoned
from pq_core.worker.attention import Attention
from pq_core.worker.book import Book
from pq_core.worker.children import Children
from pq_core.worker.claiming import Statements
from pq_core.worker.claims import Claims
from pq_core.worker.comparing import Comparing
from pq_core.worker.earshot import Earshot
from pq_core.worker.entering import Entering
from pq_core.worker.farewell import Farewell
from pq_core.worker.forker import Forker
from pq_core.worker.gauges import Gauges
from pq_core.worker.lease import Beat, Lease, Rescued
from pq_core.worker.link import Link
from pq_core.worker.live_output import LiveOutput
from pq_core.worker.metrics import Counters
from pq_core.worker.misfit import Misfit
from pq_core.worker.obituaries import Obituaries
from pq_core.worker.options import WorkerOptions
from pq_core.worker.phases import Phase, Phases
from pq_core.worker.program import Program
from pq_core.worker.pruning import Pruner
from pq_core.worker.registration import Registration, worker_info
from pq_core.worker.runs import Child
from pq_core.worker.scrapes import Scrape, ScrapeServer
from pq_core.worker.sessions import Sessions
from pq_core.worker.shared import StopReason
from pq_core.worker.starting import Starting
from pq_core.worker.statistics import Statistics
from pq_core.worker.telling import Telling
from pq_core.worker.ticking import Ticking
from pq_core.worker.turns import Turns
from pq_core.worker.wakeup import Wakeup

if TYPE_CHECKING:
    from pq_core.worker.host import Host

logger = logging.getLogger("pq.worker")


SKIPPED = 0.5
"""Seconds at most for which nothing is looked after since only children speak, and say nothing new."""


class Supervisor:
    """One life after another of one worker process. ``run`` returns its exit status."""

    def __init__(
        self, host: Host, options: WorkerOptions, program: Program, queues: tuple[str, ...], forker: Forker
    ) -> None:
        self.host = host
        self.forker = forker
        self.options = options
        self.program = program
        self.queues = queues
        self.selector = selectors.DefaultSelector()
        self._wakeup: Wakeup | None = None
        self._fatal: Exception | None = None
        self._turned = 0.0
        self._set_up_work()
        self._set_up_lives()
        self._set_up_watching()

    @property
    def ended(self) -> list[AttemptOutcome]:
        """How attempts of this worker ended, with the option ``once``."""
        return self.telling.ended

    @property
    def left(self) -> int:
        """How many tasks it has left running though nobody runs them, with ``once`` and ``until_empty``."""
        return self.abandoned.left

    # --- its parts ----------------------------------------------------------------------------------------------

    def _set_up_work(self) -> None:
        """Put together what takes tasks from the database to the children."""
        host, options, program = self.host, self.options, self.program
        self.statements = statements = Statements(host.schema)
        self.attention = attention = Attention(poll=options.poll_interval, deaf=True)
        self.ticking = Ticking(
            statements=statements,
            pause=attention.pause_of_schedules,
            on_made=attention.wake,
            declared=host.declared_schedules,
        )
        self.claims = Claims(
            statements=statements, options=options, queues=self.queues, attention=attention, ticking=self.ticking
        )
        self.sessions = Sessions(
            host,
            options,
            selector=self.selector,
            on_notify=self._notified,
            on_listening=self._listening,
            on_deaf=lambda: attention.deafen(monotonic()),
            on_refused=lambda error: self.misfit.refused(error),
        )
        self.misfit = Misfit(schema=host.schema, work=self.sessions.work, statements=statements, on_failed=self._fail)
        self.children = Children(
            host.child_setup(program, 0),
            forker=self.forker,
            selector=self.selector,
            concurrency=options.concurrency,
            grace=options.grace,
            tail=options.output_tail,
            before=lambda task: host.plugins.pre_fork(program.shown(task)),
            async_concurrency=options.async_concurrency,
            is_async=program.is_async,
            spares=options.spare_processes,
        )

    def _set_up_lives(self) -> None:
        """Put together what happens in the course of a lease, from its beginning to its end."""
        host, statements, sessions = self.host, self.statements, self.sessions
        self.registration = Registration(
            host=host,
            queues=self.queues,
            work=sessions.work,
            wake_channel=sessions.own_channel,
            statements=statements,
            on_registered=self._registered,
            on_failed=self._fail,
        )
        self.lease = Lease(
            work=sessions.work,
            watch=sessions.watch,
            statements=statements,
            seconds=self.options.lease,
            bands=self.claims.bands,
            on_beat=self._beat,
            on_rewound=lambda: self.book.drop(),
            on_gone=self._lease_gone,
            on_rescued=self._rescued,
            runs_nothing=lambda: not len(self.children.processes) and not self.children.feeding.stock,
            known_dead=list(host.known_dead),
            acquitted=host.page.acquitted if host.page is not None else 0,
        )
        self.statistics = Statistics(statements=statements, retention=self.host.pq.retention.seconds("statistics"))
        self.counters = Counters()
        self.obituaries = Obituaries(host=host, at_once=self.options.concurrency, inherited=self._inherited)
        self.telling = Telling(
            host,
            self.program,
            ticking=self.ticking,
            statistics=self.statistics,
            counters=self.counters,
            obituaries=self.obituaries,
        )
        self.book = Book(
            statements=statements,
            settled=self.telling.settled,
            uncommitted=lambda entry: self.entering.uncommitted(entry),
        )
        self._set_up_turns()
        self.farewell = Farewell(
            statements=statements,
            turns=self.turns,
            book=self.book,
            lease=self.lease,
            statistics=self.statistics,
            on_deregistered=self._deregistered,
        )
        self.abandoned = Abandoned(
            lease=self.lease, statements=statements, queues=self.queues, patient=self.options.until_empty
        )
        self.phases = Phases(
            host=host,
            attention=self.attention,
            ticking=self.ticking,
            claims=self.claims,
            children=self.children,
            book=self.book,
            turns=self.turns,
            entering=self.entering,
            lease=self.lease,
            obituaries=self.obituaries,
            farewell=self.farewell,
            abandoned=self.abandoned,
        )

    def _set_up_turns(self) -> None:
        self.entering = Entering(
            host=self.host,
            program=self.program,
            attention=self.attention,
            claims=self.claims,
            children=self.children,
            book=self.book,
            sessions=self.sessions,
            lease=self.lease,
        )
        self.live_output = LiveOutput(program=self.program, children=self.children, book=self.book)
        self.starting = Starting(
            host=self.host, program=self.program, feeding=self.children.feeding, entering=self.entering
        )
        self.turns = Turns(
            work=self.sessions.work,
            lease=self.lease,
            attention=self.attention,
            ticking=self.ticking,
            claims=self.claims,
            book=self.book,
            children=self.children,
            starting=self.starting,
            entering=self.entering,
            once=self.options.once,
        )
        self.comparing = Comparing(
            host=self.host, children=self.children, book=self.book, turns=self.turns, entering=self.entering
        )

    def _set_up_watching(self) -> None:
        """Put together what looks after the tables, and who may look at this worker."""
        options, host = self.options, self.host
        self.pruner = Pruner(
            statements=self.statements,
            retention=host.pq.retention,
            queues=self.queues,
            share=0.0 if options.until_empty or options.once else options.prune_share,
            interval=options.prune_interval,
            open_link=self.sessions.side,
        )
        self.scrapes: ScrapeServer | None = None
        if options.metrics_port is not None:
            address = (options.metrics_host, options.metrics_port + (host.page.ordinal if host.page else 0))
            gauges = Gauges(
                host=host,
                queues=self.queues,
                lease=self.lease,
                children=self.children,
                book=self.book,
                counters=self.counters,
            )
            self.scrapes = ScrapeServer(
                address,
                selector=self.selector,
                text=lambda: gauges.text(draining=not self.phases.running),
                unready=lambda: self.phases.unready,
            )

    def _inherited(self) -> list[int]:
        """Return the descriptors that a process which tells of the dead must put out of use."""
        own = [self.forker.fileno(), *(self._wakeup.filenos if self._wakeup is not None else [])]
        for waits in (self.selector, self.children.processes.earshot):
            poller = getattr(waits, "fileno", None)  # epoll and kqueue have a descriptor of their own
            if poller is not None:
                own.append(poller())
        links = (self.sessions.work, self.sessions.watch, self.pruner)
        connected = [fd for link in links if (fd := link.fileno) is not None]
        scrapes = self.scrapes.filenos() if self.scrapes is not None else []
        return [*own, *connected, *scrapes, *self.host.foreign_sockets()]

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until asked to stop, or until nothing is left with ``until_empty`` or ``once``."""
        wakeup = self._wakeup = Wakeup(self.selector)
        self.selector.register(self.forker, selectors.EVENT_READ, self.forker)
        try:
            with self.host.signals(wakeup.writer):
                while self.phases.phase is not Phase.STOPPED:
                    self._turn_once()
        finally:
            self.children.halting.kill_all(StopReason.INTERRUPT)
            self._reap_all()
            self.sessions.close()
            self.pruner.close()
            if self.scrapes is not None:
                self.scrapes.close()
            wakeup.close()
            self.children.processes.close()
            self.selector.close()
        if self._fatal is not None:
            raise self._fatal
        return 0

    def _turn_once(self) -> None:
        due = min(monotonic() + (timeout := self._timeout()), self._turned + SKIPPED)
        if self._take_in(timeout) and not self.children.have_news and monotonic() < due:
            return  # a last word, or the end of all words: what comes of it is known when the process is gone
        self._turned = monotonic()
        self.forker.check(monotonic())
        if self._forker_is_lost():
            return
        now = monotonic()
        ended = self.children.advance(now)
        self.entering.note_progress(self.lease.worker_id)
        self.live_output.advance(now, self.lease.worker_id)
        self.lease.advance(now)
        # The next are forked while the ends of those before are seen to.
        self.starting.advance(now, allowed=self.phases.claiming)
        for done in ended:
            self.entering.run_ended(done)
        self.obituaries.advance(now)
        if self._forker_is_lost():
            return
        self.sessions.work.advance(now)
        self.sessions.watch.advance(now)
        self.registration.check_first_contact(now)
        self._register(now)
        self.misfit.advance(now)
        self._advance_upkeep(now)
        self.turns.advance(now, claiming=self.phases.claiming)
        self.phases.advance(now)
        self._tend_host(now)

    def _take_in(self, timeout: float) -> bool:
        """Take in what happens within ``timeout`` seconds; return True if only children have spoken."""
        events = self.selector.select(timeout)
        only_children = bool(events)
        for key, _ in events:
            match key.data:
                case Child() as child:
                    self.children.listening.read(child)
                    continue
                case Earshot() as earshot:
                    self.children.hear(earshot)
                    continue
                case Forker() as forker:
                    forker.read()
                case Link() as link:
                    link.pump()
                case ScrapeServer() | Scrape() as served:
                    served.pump()
                case Wakeup() as wakeup:
                    for number in wakeup.numbers():
                        self._signalled(number)
            only_children = False
        return only_children

    def _forker_is_lost(self) -> bool:
        if self.forker.lost is not None:
            if self.forker.lost.overloaded and self.host.page is not None and self.lease.worker_id is not None:
                self.host.page.acquit(self.lease.worker_id)
            self._fail(self.forker.lost)
        return self.forker.lost is not None

    def _advance_upkeep(self, now: float) -> None:
        work, worker_id = self.sessions.work, self.lease.worker_id
        if self.phases.claiming:
            self.ticking.advance(now, work)
            self.pruner.advance(now, work, worker_id)
        self.statistics.advance(now, work, worker_id)
        if self.scrapes is not None:
            self.scrapes.advance(now)

    def _tend_host(self, now: float) -> None:
        self.host.tend(now)
        self._publish()
        self.children.spares.advance(now, allowed=self.phases.claiming)

    def _publish(self) -> None:
        pids = [self.forker.pid, *self.children.processes.pids]
        self.host.publish(self.lease.worker_id, self.lease.expires, pids)

    def _timeout(self) -> float:
        """Return the seconds for which nothing has to be done, unless something happens."""
        now = monotonic()
        work = self.sessions.work
        events = [
            self.children.next_event(now),
            work.next_event(),
            self.sessions.watch.next_event(),
            self.lease.next_event(),
            self.forker.next_event(now),
            self.phases.next_event(now),
            self.children.spares.next_event(now),
            self.live_output.next_event(),
            self.obituaries.next_event(),
            self.scrapes.next_event() if self.scrapes is not None else None,
            self.registration.next_event(now),
            self.misfit.next_event(),
        ]
        if self.phases.claiming:
            events.append(self.starting.next_event())
            if work.idle:
                events += [self.ticking.next_event(), self.pruner.next_event()]
        if work.idle and self.lease.worker_id is not None:
            events.append(self.statistics.next_event())
            events.append(self.turns.next_event(now, running=self.phases.running))
        due = min((at for at in events if at is not None), default=now + self.options.poll_interval)
        return max(0.0, due - now)

    def _reap_all(self) -> None:
        until = monotonic() + 5.0
        while len(self.children.processes) and self.forker.lost is None and monotonic() < until:
            self.children.advance(monotonic())
            for key, _ in self.selector.select(0.01):
                match key.data:
                    case Forker() as forker:
                        forker.read()
                    case Earshot() as earshot:
                        self.children.hear(earshot)

    # --- the lease ----------------------------------------------------------------------------------------------

    def _register(self, now: float) -> None:
        if self.lease.worker_id is not None or not self.phases.running:
            return
        if len(self.children.processes) or self.children.feeding.stock or self.book.entries:
            return  # what the last life has to report goes first: the next one will take its tasks back
        self.registration.advance(now)

    def _registered(self, worker_id: int, began: bytes, sent: float) -> None:
        self.children.processes.setup = self.host.child_setup(self.program, worker_id)
        self.forker.begin_life(worker_id)
        self.lease.begin(worker_id, began, sent)
        self.book.begin_life(began)
        self.claims.began = began
        self.host.begin_lease(began)
        self._publish()  # whatever holds this turn up from here on: the keeper knows how long it may
        self.claims.forget()
        served, at_once = ", ".join(self.queues), self.options.concurrency
        logger.info("worker %s started: queues %s, concurrency %s", worker_id, served, at_once)
        self.host.ready(worker_id)
        self.host.plugins.worker_start(worker_info(self.host, self.queues, worker_id))

    def _deregistered(self, worker_id: int) -> None:
        self.host.plugins.worker_stop(worker_info(self.host, self.queues, worker_id))

    def _lease_gone(self) -> None:
        self.children.halting.kill_all(StopReason.LOST)
        self.book.progress.clear()
        self.entering.put_back_unstarted("its worker lost its lease")
        self.claims.forget()

    def _rescued(self, found: list[Rescued]) -> None:
        self.attention.wake()
        self.claims.ask_once_more()
        self.telling.rescued(found)

    def _beat(self, beat: Beat) -> None:
        self.claims.suspects = beat.suspects and self.claims.alone is None
        if beat.stop_requested:
            self.phases.stop_now()
        elif beat.drain_requested:
            self.phases.drain()
        self.comparing.take(beat)

    def _listening(self) -> None:
        self.attention.listen(monotonic())
        self.lease.beat_soon()  # the server may be another one

    def _notified(self, channel: str, payload: str, by_itself: bool) -> None:
        if by_itself:
            self.attention.hears = True
        if channel == self.sessions.own_channel:
            self.claims.told(payload, monotonic())
            return
        if payload.startswith("!cancel "):
            if payload[8:] == str(self.lease.worker_id):
                self.lease.beat_soon()
        elif payload == "!tick":
            self.ticking.told()
        elif payload in self.queues:
            self.attention.call(monotonic())

    # --- signals ------------------------------------------------------------------------------------------------

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # one that tells of the dead has ended: this turn sees to it
        # A keeper asks for haste by SIGQUIT: service managers signal it and its workers alike, and it passes that on.
        again = number == signal.SIGINT or (number == signal.SIGTERM and self.host.page is None)
        if number == signal.SIGQUIT or (again and not self.phases.running):
            self.phases.stop_now()
        else:
            self.phases.drain()

    def _fail(self, error: Exception) -> None:
        self._fatal = error
        self.phases.stopped()
