"""OpenTelemetry: a span where a task is enqueued, a span where it runs, and the worker's metrics.

Needs opentelemetry-api alone; the SDK is the application's. By the semantic conventions for messaging.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import context as contexts
    from opentelemetry import propagate, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ImportError as error:
    raise ImportError('pq_hooks.opentelemetry needs the API: pip install "pq-toolkit[opentelemetry]"') from error

from pq_hooks.batches import current_batch
from pq_hooks.facts import FAILURES, ending_of, error_type, error_type_of, join_baggage, queue_of, summary_of
from pq_hooks.flushing import Flusher
from pq_hooks.opentelemetry_metrics import Metrics, attributes_of, sent

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from pq_core.tasks import Call
    from pq_core.types import AttemptOutcome, ClaimedTask, WorkerInfo


class OpenTelemetry:
    """Traces and metrics of tasks.

    ``configure``: sets up the SDK in each process that runs tasks, after the fork, for its threads do not survive
    one; may return a ``TracerProvider`` to be used for pq's spans, else the global one is. ``parented``: a task's
    span is a child of the span that enqueued it, in the same trace; by default it begins a trace of its own that
    links there. ``metrics``: called in the worker, returns the ``MeterProvider`` for its metrics, which is told to
    export every ``metrics_interval`` seconds; by default the global one is used as it is. ``flush_timeout``: seconds
    that a task's process waits at its end for what it has to send.
    """

    def __init__(
        self,
        *,
        configure: Callable[[], object] | None = None,
        parented: bool = False,
        metrics: Callable[[], MeterProvider] | None = None,
        metrics_interval: float = 60.0,
        flush_timeout: float = 0.5,
    ) -> None:
        self.configure = configure
        self.parented = parented
        self._metrics = Metrics(metrics, interval=metrics_interval, limit=flush_timeout)
        self._flusher = Flusher(flush_timeout)
        self._provider: TracerProvider | None = None
        self._pid_of_child = 0

    # --- where tasks are enqueued -------------------------------------------------------------------------------

    def pq_before_enqueue(self, task: Call[Any], headers: dict[str, str]) -> None:
        """Record that the task is sent, or created as one of a batch, and put the span's context into its headers."""
        queue = queue_of(task)
        batch = current_batch()
        operation = "send" if batch is None else "create"
        attributes = {**attributes_of(queue, operation), "pq.task.name": task.task.name}
        span = self._tracer.start_span(f"{operation} {queue}", kind=SpanKind.PRODUCER, attributes=attributes)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        span.end()
        join_baggage(headers, carrier.pop("baggage", ""))
        headers.update(carrier)
        if batch is not None:
            if self not in batch.notes:
                batch.notes[self] = []
                batch.done.append(lambda: self._sent(batch.notes[self], time.time_ns()))
            batch.notes[self].append((queue, span.get_span_context()))

    def pq_after_enqueue(self, tasks: Sequence[Call[Any]], seconds: float, error: BaseException | None) -> None:
        """Count what was sent and how long it took; not in a child, whose sums are the worker's."""
        if not self._in_child:
            sent([queue_of(task) for task in tasks], seconds, None if error is None else error_type_of(error))

    def _sent(self, created: list[tuple[str, SpanContext]], end: int) -> None:
        """Record the one call that sends a batch, with links to what it sends."""
        queues = {queue for queue, _ in created}
        name = f"send {queues.pop()}" if len(queues) == 1 else "send"
        attributes = {**attributes_of(created[0][0] if name != "send" else None, "send")}
        attributes["messaging.batch.message_count"] = len(created)
        links = [Link(made) for _, made in created if made.is_valid]
        self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes, links=links).end(end)

    # --- in the worker ------------------------------------------------------------------------------------------

    def pq_worker_start(self, worker: WorkerInfo) -> None:
        """Set up the metrics."""
        self._metrics.start()

    def pq_worker_stop(self, worker: WorkerInfo) -> None:
        """Send the last metrics."""
        self._metrics.stop()

    def pq_post_task(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Count the attempt and its duration."""
        self._metrics.processed(task, outcome)

    # --- where tasks run ----------------------------------------------------------------------------------------

    @contextmanager
    def pq_in_child(self, task: ClaimedTask) -> Iterator[None]:
        """Run the task within a span of kind CONSUMER."""
        self._set_up()
        span, context = self._start(task)
        token = contexts.attach(trace.set_span_in_context(span, context))
        try:
            yield
        except BaseException as error:
            ending = ending_of(error)
            if ending in FAILURES:
                span.set_attribute("error.type", error_type_of(error))
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__qualname__}: {error}"[:500]))
            span.set_attribute("pq.outcome", ending)
            raise
        else:
            span.set_attribute("pq.outcome", "succeeded")
        finally:
            contexts.detach(token)
            span.end()
            self._flush()

    def pq_task_died(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Record the span that a dead child could not record, with its true start and end."""
        self._set_up()
        end = time.time_ns()
        span, _ = self._start(task, at=end - int(outcome.wall * 1e9))
        span.set_attribute("pq.outcome", outcome.outcome.value)
        for name, value in (("pq.signal", outcome.signal), ("process.exit.code", outcome.exit_code)):
            if value is not None:
                span.set_attribute(name, value)
        if kind := error_type(outcome):
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, summary_of(outcome)))
        span.end(end)
        self._flush()

    def _start(self, task: ClaimedTask, at: int | None = None) -> tuple[Span, contexts.Context]:
        """Start a task's span; return it and the context that it goes into."""
        context = propagate.extract(task.headers, contexts.Context())
        creation = trace.get_current_span(context).get_span_context()
        if not self.parented:
            # Baggage is kept; the trace is a new one.
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)
        attributes: dict[str, Any] = {
            **attributes_of(task.queue, "process"),
            "messaging.message.id": str(task.id),
            "pq.task.name": task.name,
            "pq.attempt.number": task.number,
            "pq.attempt.fence": task.fence,
        }
        span = self._tracer.start_span(
            f"process {task.queue}",
            context,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[Link(creation)] if creation.is_valid else [],
            start_time=at,
        )
        return span, context

    @property
    def _tracer(self) -> Tracer:
        return trace.get_tracer("pq", tracer_provider=self._provider if self._in_child else None)

    @property
    def _in_child(self) -> bool:
        return self._pid_of_child == os.getpid()

    def _set_up(self) -> None:
        """Call ``configure``, once in each process."""
        if self._in_child:
            return
        self._pid_of_child = os.getpid()
        self._provider = None
        made = self.configure() if self.configure is not None else None
        if isinstance(made, TracerProvider):
            self._provider = made

    def _flush(self) -> None:
        # Log records go the way of spans; metrics do not: their sums are the worker's, inherited.
        logs: Any = sys.modules.get("opentelemetry._logs")
        providers = [self._provider, trace.get_tracer_provider(), logs and logs.get_logger_provider()]
        flushes = [each.force_flush for each in providers if hasattr(each, "force_flush")]
        if flushes:
            self._flusher(lambda: [flush() for flush in dict.fromkeys(flushes)])
