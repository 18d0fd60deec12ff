"""Sentry: publishing and processing as spans of one trace, errors with their task, crashes, cron monitors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

try:
    import sentry_sdk
    from sentry_sdk.sessions import SessionFlusher
    from sentry_sdk.transport import Transport, make_transport
    from sentry_sdk.utils import event_from_exception
except ImportError as error:
    raise ImportError('pq_hooks.sentry needs the SDK: pip install "pq-toolkit[sentry]"') from error

from pq_hooks.facts import FAILURES, ending_of, join_baggage, latency_of, queue_of, summary_of
from pq_hooks.flushing import Flusher
from pq_hooks.sentry_monitors import MonitorConfig, monitor_of

if TYPE_CHECKING:
    from sentry_sdk import Scope
    from sentry_sdk.client import BaseClient

    from pq_core.tasks import Call
    from pq_core.types import AttemptOutcome, ClaimedTask

ORIGIN = "auto.queue.pq"


class Sentry:
    """Errors, traces and cron monitors of tasks.

    ``init``: calls ``sentry_sdk.init`` in each process that runs tasks, after the fork; without it the SDK that the
    application has set up before is given a new transport there, for a fork leaves the old one's thread behind.
    ``monitors``: a cron monitor for each schedule (default), for none, or settings by the name of the task, as
    Sentry's ``monitor_config``, with ``None`` for a task without one. ``flush_timeout``: seconds that a task's
    process waits at its end for what it has to send.
    """

    def __init__(
        self,
        *,
        init: Callable[[], object] | None = None,
        monitors: bool | Mapping[str, MonitorConfig | None] = True,
        flush_timeout: float = 2.0,
    ) -> None:
        self.init = init
        self.monitors = monitors
        self._flusher = Flusher(flush_timeout)
        self._pid_of_child = 0
        self._inherited: object = None

    def pq_before_enqueue(self, task: Call[Any], headers: dict[str, str]) -> None:
        """Record ``queue.publish`` and put the trace into the task's headers."""
        client = sentry_sdk.get_client()
        if not client.is_active():
            return
        if _streams(client):
            _add_trace(headers)
            return
        with sentry_sdk.start_span(op="queue.publish", name=task.task.name, origin=ORIGIN) as span:
            span.set_data("messaging.system", "pq")
            span.set_data("messaging.destination.name", queue_of(task))
            if task.settings.client_id is not None:
                # The id is given by the database, which has not been asked yet.
                span.set_data("messaging.message.id", task.settings.client_id)
            _add_trace(headers)

    @contextmanager
    def pq_in_child(self, task: ClaimedTask) -> Iterator[None]:
        """Run the task in a scope and a transaction of its own; report what it raises."""
        client = self._client()
        if not client.is_active():
            yield
            return
        unfinished: BaseException | None = None
        try:
            with sentry_sdk.isolation_scope() as scope, monitor_of(task, self.monitors) as monitored:
                _describe(scope, task)
                with _processing(task, client):
                    try:
                        yield
                    except BaseException as error:
                        if ending_of(error) not in FAILURES:
                            unfinished = error  # a decision, which ends the transaction in good order
                        else:
                            monitored.failed = True
                            _capture(error, client)
                            raise
            if unfinished is not None:
                raise unfinished
        finally:
            self._flush(client)

    def pq_task_died(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Report a crash, a kill, a timeout, memory that ran out, a lost worker."""
        client = self._client()
        if not client.is_active():
            return
        with sentry_sdk.isolation_scope() as scope:
            _describe(scope, task)
            scope.set_context("pq attempt", _known(outcome))
            sentry_sdk.continue_trace(dict(task.headers))
            if outcome.outcome in FAILURES:
                sentry_sdk.capture_event(_crash(task, outcome))
            monitor_of(task, self.monitors).end(ok=outcome.outcome not in FAILURES, seconds=outcome.wall)
        self._flush(client)

    def _client(self) -> BaseClient:
        """Return the client of this process, fit to send."""
        if self._pid_of_child != os.getpid():
            self._pid_of_child = os.getpid()
            if self.init is not None:
                self.init()
            else:
                self._inherited = _renew(sentry_sdk.get_client())
        return sentry_sdk.get_client()

    def _flush(self, client: BaseClient) -> None:
        self._flusher(lambda: client.flush(timeout=self._flusher.limit))


def _renew(client: BaseClient) -> object:
    """Give the client of the parent what it needs to send from this process, and nothing that the parent will send.

    The inherited transport has a thread that is not here, a lock that may be held, connections that are the
    parent's, and a queue whose events the parent sends. It is returned, to be kept: closing is not ours.
    """
    old = client.transport
    if not client.is_active() or isinstance(client.options.get("transport"), Transport):
        return old  # an instance that the application made: it knows best
    client.transport = make_transport(client.options)
    health = getattr(client, "monitor", None)
    if health is not None and client.transport is not None:
        health.transport = client.transport
    sessions = getattr(client, "session_flusher", None)
    if sessions is not None:
        client.session_flusher = SessionFlusher(capture_func=sessions.capture_func)  # type: ignore[attr-defined]
    return old, sessions


def _streams(client: BaseClient) -> bool:
    """Tell whether spans are sent one by one: there are no transactions then, and none are started here."""
    options = client.options
    return "stream" in (options.get("trace_lifecycle"), (options.get("_experiments") or {}).get("trace_lifecycle"))


def _add_trace(headers: dict[str, str]) -> None:
    for name, value in sentry_sdk.get_current_scope().iter_trace_propagation_headers():
        if name == "baggage":
            join_baggage(headers, value)
        else:
            headers[name] = value


@contextmanager
def _processing(task: ClaimedTask, client: BaseClient) -> Iterator[None]:
    transaction = sentry_sdk.continue_trace(
        dict(task.headers), op="queue.task.pq", name=task.name, source="task", origin=ORIGIN
    )
    if _streams(client):
        yield
        return
    with sentry_sdk.start_transaction(transaction, custom_sampling_context={"pq_task": task}) as whole:
        with sentry_sdk.start_span(op="queue.process", name=task.name, origin=ORIGIN) as span:
            for part in (whole, span):
                part.set_data("messaging.system", "pq")
                part.set_data("messaging.message.id", str(task.id))
                part.set_data("messaging.destination.name", task.queue)
                part.set_data("messaging.message.receive.latency", round(latency_of(task) * 1000))
                part.set_data("messaging.message.retry.count", task.number - 1)
            yield
        if whole.status is None:
            whole.set_status("ok")


def _describe(scope: Scope, task: ClaimedTask) -> None:
    scope.clear_breadcrumbs()  # the worker's own
    scope.set_transaction_name(task.name, source="task")
    scope.set_tag("pq.task", task.name)
    scope.set_tag("pq.queue", task.queue)
    scope.set_tag("pq.attempt", task.number)
    scope.set_context(
        "pq task",
        {
            "id": task.id,
            "name": task.name,
            "queue": task.queue,
            "attempt": task.number,
            "max_attempts": task.max_attempts,
            "priority": task.priority,
            "client_id": task.client_id,
            "schedule_id": task.schedule_id,
        },
    )


def _known(outcome: AttemptOutcome) -> dict[str, Any]:
    names = ("status", "signal", "exit_code", "wall", "peak_memory", "retry_in", "error")
    return {"outcome": outcome.outcome.value, **{name: getattr(outcome, name) for name in names}}


def _capture(error: BaseException, client: BaseClient) -> None:
    event, hint = event_from_exception(error, client_options=client.options, mechanism={"type": "pq", "handled": False})
    sentry_sdk.capture_event(event, hint=hint)


def _crash(task: ClaimedTask, outcome: AttemptOutcome) -> Any:
    kind = outcome.outcome.value
    return {
        "level": "fatal",
        "transaction": task.name,
        "fingerprint": ["pq", kind, task.name],
        "exception": {
            "values": [{"type": kind, "value": summary_of(outcome), "mechanism": {"type": "pq", "handled": False}}]
        },
    }
