"""What the tests of Sentry run: ``enqueue``, ``schedule`` and ``work [NAME=VALUE …]``, in processes of their own.

SENTRY: the endpoint's host and port. SET_UP: ``after`` the fork by ``init=``, ``before`` it, or ``busy``: before it and
with events in the parent's queue all the while.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from datetime import timedelta

import sentry_sdk
from sentry_sdk.transport import HttpTransport

from pq_core import PQ, Cancel, Snooze, TaskGroup
from pq_hooks.sentry import Sentry

DSN = f"http://public@{os.environ['SENTRY']}/7"
group = TaskGroup(queue="mail")


@group.task(name="secret", sensitive=True)
def secret(card: str) -> None:
    numbers = [card]
    raise LookupError(f"no account for {numbers}")


@group.task(name="letter")
def letter(number: int) -> int:
    return number


@group.task(name="fail", max_attempts=2)
def fail(number: int) -> None:
    raise LookupError(f"no letter {number}")


@group.task(name="later")
def later() -> None:
    raise Snooze(3600)


@group.task(name="never")
def never() -> None:
    raise Cancel("nobody wants it")


@group.task(name="crash")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@group.task(name="Nightly: report")
def report(*, crash: bool = False) -> None:
    if crash:
        os.kill(os.getpid(), signal.SIGKILL)


class Hesitant(HttpTransport):
    """Keeps what it is given in its queue while the process that made it is to be busy."""

    held = False

    def _send_envelope(self, envelope: object) -> None:
        while Hesitant.held and os.getpid() == PID:
            import time

            time.sleep(0.01)
        super()._send_envelope(envelope)  # type: ignore[arg-type]


PID = os.getpid()


def init() -> None:
    sentry_sdk.init(
        DSN,
        traces_sample_rate=1.0,
        transport=Hesitant,
        environment="test",
        default_integrations=False,
        auto_enabling_integrations=False,
    )


def enqueue() -> None:
    init()
    pq = PQ(plugins=[Sentry()])
    pq.include(group)
    with sentry_sdk.start_transaction(op="http.server", name="request"):
        for number in range(20):
            pq.enqueue(letter.call(number))
        pq.enqueue(fail.call(1))
        pq.enqueue(crash.options(client_id="boom").call())
        pq.enqueue(later.call())
        pq.enqueue(never.call())
    sentry_sdk.flush(10)


def schedule() -> None:
    pq = PQ()
    pq.include(group)
    pq.schedule(report.call(), run_every=timedelta(hours=2), key="EU")
    headers = {"pq-schedule-every": "60", "tenant": "7"}
    pq.schedule(report.options(headers=headers).call(), cron="0 9 * * 1", timezone="Europe/Berlin", key="weekly")
    pq.run_schedule_now(report, key="weekly")


def work(options: dict[str, str]) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    set_up = os.environ["SET_UP"]
    if set_up != "after":
        init()
    if set_up == "busy":
        Hesitant.held = True
        for number in range(5):
            sentry_sdk.capture_message(f"parent {number}")
    pq = PQ(plugins=[Sentry(init=init if set_up == "after" else None)])
    pq.include(group)
    pq.run_worker(until_empty=True, **{"concurrency": 4, **{name: int(options[name]) for name in options}})
    Hesitant.held = False
    sentry_sdk.flush(10)


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        enqueue()
    elif sys.argv[1] == "schedule":
        schedule()
    else:
        work(dict(word.split("=") for word in sys.argv[2:]))
