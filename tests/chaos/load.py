"""One enqueuer as a process: ``python -m tests.chaos.load NAME RATE SEED``.

It enqueues in transactions of its own, in which a row of chaos_orders is written too, rolls some of them back, and
notes what it knows of each: the database decides together about the order and its task, and says nothing else.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from types import FrameType

import psycopg

from pq_core import PQ, Call
from pq_core.errors import DatabaseUnavailable
from tests.chaos import app, record

KINDS = {"plain": 50, "effect": 20, "flaky": 6, "doomed": 4, "cancelled": 4, "once": 4, "long": 2, "version": 10}
"""What is enqueued, by weight."""
ROLLED_BACK = 0.15
LINGERS = 0.1
"""Shares of transactions that are rolled back, and that stay open and idle for a moment."""
DEBOUNCED = 8
"""Client ids that versions are upserted under, for each enqueuer."""
LONG = 2.5

PATIENCE = 5.0
"""Seconds after which an enqueuer gives up on a server that says nothing."""
OUTAGE = (psycopg.Error, DatabaseUnavailable, TimeoutError)

_stopping = False


def main(name: str, rate: float, seed: int) -> None:
    """Enqueue ``rate`` times a second until SIGTERM."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _give_up)
    # Whoever started this one may be killed: nobody would tell it to end.
    parent = os.getppid()
    chance = random.Random(seed)
    connection: psycopg.Connection | None = None
    count = 0
    with app.create_pq() as pq:
        while not _stopping and os.getppid() == parent:
            started = time.monotonic()
            count += 1
            key = f"{name}-{count}"
            kind = chance.choices(list(KINDS), KINDS.values())[0]
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            try:
                if connection is None or connection.closed:
                    connection = psycopg.connect(
                        os.environ["PQ_DATABASE_URL"], connect_timeout=3, prepare_threshold=None
                    )
                known, server = _order(
                    pq, connection, key, kind, chance, f"{name}-debounced-{count % DEBOUNCED}", count
                )
            except OUTAGE:
                # Before, at or after its commit: nobody can say.
                known, server = "unknown", "-"
                with contextlib.suppress(psycopg.Error):
                    if connection is not None:
                        connection.close()
                connection = None
                time.sleep(0.1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            record.append(record.ORDERS, known, key, server)
            time.sleep(max(0.0, 1 / rate - (time.monotonic() - started)))


def _order(
    pq: PQ, connection: psycopg.Connection, key: str, kind: str, chance: random.Random, client: str, count: int
) -> tuple[str, str]:
    """Enqueue one task with its order in one transaction; return what became of that, and when its server started."""
    debounced = kind == "version"
    row = (key, kind, client if debounced else None, count if debounced else None)
    (server,) = connection.execute(
        "INSERT INTO chaos_orders (key, kind, client, number) VALUES (%s, %s, %s, %s)"
        " RETURNING extract(epoch FROM pg_postmaster_start_time())::text",
        row,
    ).fetchone() or ("",)
    bound = pq.using(connection)
    if debounced:
        task_id = bound.upsert(app.version.call(client, count, chance.choice([0.0, 0.2, 0.5])), client_id=client)
    else:
        task_id = bound.enqueue(_call(kind, key, chance))
    if chance.random() < LINGERS:
        time.sleep(0.3)
    if chance.random() < ROLLED_BACK:
        connection.rollback()
        return "rolled-back", server
    connection.commit()
    if kind == "cancelled":
        time.sleep(chance.choice([0.0, 0.2]))
        # Whether this arrives makes no difference to what may come out.
        with contextlib.suppress(*OUTAGE):
            pq.using(connection).cancel(task_id)
            connection.commit()
    return "committed", server


def _call(kind: str, key: str, chance: random.Random) -> Call[object]:
    pause = chance.choice([0.0, 0.0, 0.05, 0.2])
    match kind:
        case "effect":
            return app.effect.call(key, pause)
        case "flaky":
            return app.flaky.call(key)
        case "doomed":
            return app.doomed.options(on_failure=app.mourn.call(key)).call(key)
        case "once":
            return app.once.call(key, pause)
        case "cancelled":
            return app.plain.call(key, 0.5)
        case "long":
            return app.plain.call(key, LONG)
        case _:
            return app.plain.call(key, pause)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopping
    _stopping = True


def _give_up(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
