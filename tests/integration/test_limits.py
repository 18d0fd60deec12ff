"""Limits hold across all workers: what the tasks themselves noted, and what the database says."""

from __future__ import annotations

import re
import signal
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, Backoff, InvalidOption, Rate, TaskStatus
from pq_core.limits_in_use import LimitRecord
from tests.integration import limit_tasks as tasks
from tests.integration.worker_process import WorkerProcess, eventually, running, until_empty

APP = f"{tasks.__name__}:create_pq"
FOUR = {"app": APP, "processes": 4, "concurrency": 4, "poll_interval": 0.5}


def client(dsn: str) -> PQ:
    return PQ(dsn, tasks=[tasks.__name__])


def lines(path: Path) -> list[list[str]]:
    found = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return sorted(found, key=lambda line: int(line[0]))


def begun(path: Path) -> list[str]:
    return [line[2] for line in lines(path) if line[1] == "begin"]


def most_at_once(path: Path) -> int:
    most = now = 0
    for line in lines(path):
        now += 1 if line[1] == "begin" else -1
        most = max(most, now)
    return most


def finished(connection: psycopg.Connection, count: int) -> bool:
    row = connection.execute("SELECT count(*) FROM pq_tasks WHERE status = 'completed'").fetchone()
    assert row is not None
    return bool(row[0] >= count)


def states(connection: psycopg.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT status, count(*) FROM pq_tasks GROUP BY 1").fetchall())


def test_queue_runs_no_more_at_once_than_its_limit_under_four_workers(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", concurrency=5)
        pq.enqueue_many(tasks.work.call(str(path), f"t{n}", 0.05) for n in range(80))
        with running(database, tmp_path, **FOUR):
            eventually(lambda: finished(connection, 80))

    assert most_at_once(path) <= 5
    assert len(begun(path)) == 80


def test_all_places_of_a_limit_are_used(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", concurrency=5)
        pq.enqueue_many(tasks.hold.call(str(path), f"t{n}") for n in range(9))
        with running(database, tmp_path, **{**FOUR, "concurrency": 2}):
            eventually(lambda: len(begun(path)) == 5)
            (queue,) = pq.queues()
            assert (queue.running, queue.due) == (5, 4)
            Path(f"{path}.go").touch()
            eventually(lambda: finished(connection, 9))
    assert most_at_once(path) == 5


def test_function_runs_no_more_at_once_than_its_limit_beside_others(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path, others = tmp_path / "log", tmp_path / "others"
    with client(database) as pq:
        for n in range(20):
            pq.enqueue_many([tasks.narrow.call(str(path), f"t{n}", 0.05), tasks.work.call(str(others), f"o{n}", 0.05)])
        assert states(connection) == {"blocked": 20, "pending": 20}
        with running(database, tmp_path, **FOUR):
            eventually(lambda: finished(connection, 40))

    assert most_at_once(path) <= 2


def test_tasks_of_one_key_run_in_order_and_keys_beside_each_other(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        for n in range(12):
            for key in ("a", "b", "c"):
                call = tasks.work.options(concurrency_key=f"tenant-{key}").call(str(path), f"{key}{n}", 0.02)
                pq.enqueue(call)
        with running(database, tmp_path, **FOUR):
            eventually(lambda: finished(connection, 36))

    for key in ("a", "b", "c"):
        assert [label for label in begun(path) if label[0] == key] == [f"{key}{n}" for n in range(12)]
    spans = [line for line in lines(path) if line[2][0] == "a"]
    assert [line[1] for line in spans] == ["begin", "end"] * 12


@pytest.mark.parametrize("kind", ["queue", pytest.param("function", marks=pytest.mark.long)])
def test_rate_is_held_within_one_percent(
    database: str, connection: psycopg.Connection, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "log"
    task = tasks.work if kind == "queue" else tasks.paced
    with client(database) as pq:
        if kind == "queue":
            pq.limit_queue("default", rate="20/s")
        pq.enqueue_many(task.call(str(path), f"t{n}") for n in range(230))
        with running(database, tmp_path, **FOUR):
            eventually(lambda: finished(connection, 230))

    found = connection.execute("SELECT extract(epoch FROM started_at)::float8 FROM pq_tasks ORDER BY 1")
    starts = [row[0] for row in found]
    # In any ten seconds; the one percent of the two hundred are the starts that the first moment allows beforehand.
    worst = max(sum(1 for at in starts if first <= at < first + 10) for first in starts)
    assert worst <= 202
    assert len(begun(path)) == 230


@pytest.mark.parametrize("kind", ["queue", pytest.param("function", marks=pytest.mark.long)])
def test_rate_is_used_up_within_one_percent(
    database: str, connection: psycopg.Connection, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "log"
    task = tasks.work if kind == "queue" else tasks.brisk
    with client(database) as pq:
        if kind == "queue":
            pq.limit_queue("default", rate="40/s")
        pq.enqueue_many(task.call(str(path), f"t{n}") for n in range(320))
        with running(database, tmp_path, **FOUR):
            eventually(lambda: finished(connection, 320))

    found = connection.execute("SELECT extract(epoch FROM started_at)::float8 FROM pq_tasks ORDER BY 1")
    starts = [row[0] for row in found]
    # What two and a half seconds see: a hundred starts, one more or less. In the middle of all such windows, since a
    # machine that stands still for longer than a start may come early has its start later.
    windows = sorted(
        sum(1 for at in starts if first <= at < first + 2.5) for first in starts if first <= starts[-1] - 2.5
    )
    assert len(windows) > 150
    assert 99 <= windows[len(windows) // 2] <= 101


def killed_one_of(fleet: WorkerProcess) -> bool:
    try:
        fleet.signal(signal.SIGKILL, fleet.workers[0])
    except (IndexError, ProcessLookupError):
        return False  # the keeper is just starting its next one
    return True


def test_rate_and_places_are_held_while_workers_are_killed(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", rate="40/s", concurrency=6)
        pq.enqueue_many(tasks.work.call(str(path), f"t{n}", 0.05) for n in range(200))
        with running(database, tmp_path, **FOUR) as fleet:
            for begun_by_then in (40, 80, 120):
                eventually(lambda: len(begun(path)) >= begun_by_then)  # noqa: B023
                eventually(lambda: killed_one_of(fleet))
            eventually(lambda: finished(connection, 200))

    found = connection.execute(
        "SELECT extract(epoch FROM s.at)::float8 FROM (SELECT started_at AS at FROM pq_tasks"
        " UNION SELECT started_at FROM pq_attempts WHERE outcome = 'lost') s ORDER BY 1"
    )
    starts = [row[0] for row in found]
    # Two and a half seconds, what may come early beforehand (0.05 s of the rate and one), and the moment between the
    # decision and the note.
    assert max(sum(1 for at in starts if first <= at < first + 2.5) for first in starts) <= 105
    # A span without an end was cut off by a kill: it is over when the same task begins once more.
    most = now = 0
    open_: set[str] = set()
    for _, what, label, *_ in lines(path):
        now += (what == "begin" and label not in open_) - (what == "end")
        open_ = open_ | {label} if what == "begin" else open_ - {label}
        most = max(most, now)
    assert most <= 6


def test_places_of_a_killed_worker_come_free_with_its_rescue(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", concurrency=3)
        pq.enqueue_many(tasks.hold.call(str(path), f"t{n}") for n in range(6))
        options = {"app": APP, "concurrency": 4, "lease": 3, "poll_interval": 0.2}
        with running(database, tmp_path, **options) as doomed:
            eventually(lambda: len(begun(path)) == 3)
            with running(database, tmp_path, **options):
                # Keeper and worker at once: nobody says that they are dead but the end of the lease.
                pids = [doomed.keeper, *doomed.workers]
                for pid in pids:
                    doomed.signal(signal.SIGKILL, pid)
                eventually(lambda: len(begun(path)) == 6)
                row = connection.execute("SELECT count(*) FROM pq_tasks WHERE status = 'running'").fetchone()
                assert row == (3,)
                Path(f"{path}.go").touch()
                eventually(lambda: finished(connection, 6))
    assert len(begun(path)) == 9


def test_pause_is_obeyed_in_a_limited_queue_and_for_keys(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", concurrency=2)
        pq.pause_queue("default")
        pq.enqueue(tasks.work.call(str(path), "plain"))
        pq.enqueue(tasks.work.options(concurrency_key="k").call(str(path), "keyed"))
        pq.enqueue(tasks.work.options(queue="open").call(str(path), "open"))
        with running(database, tmp_path, app=APP, queues=["default", "open"], poll_interval=0.2):
            eventually(lambda: finished(connection, 1))
            assert begun(path) == ["open"]
            pq.resume_queue("default")
            eventually(lambda: finished(connection, 3))
    assert sorted(begun(path)) == ["keyed", "open", "plain"]


def test_rate_limited_pauses_its_key_and_no_other(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        first = pq.enqueue(tasks.limited_by_service.options(concurrency_key="k").call(str(path), "first", 1.5))
        with running(database, tmp_path, app=APP, poll_interval=0.2):
            eventually(lambda: begun(path) == ["first"])
            eventually(lambda: pq.get_task(first).snoozes == 1)
            pq.enqueue(tasks.work.options(concurrency_key="k").call(str(path), "second"))
            pq.enqueue(tasks.work.options(concurrency_key="other").call(str(path), "other"))
            eventually(lambda: finished(connection, 1))
            assert begun(path) == ["first", "other"]
            eventually(lambda: finished(connection, 3))
        assert pq.get_task(first).attempts == 1
    row = connection.execute(
        "SELECT min(t.started_at) >= max(l.paused_until) FROM pq_tasks t, pq_limits l"
        " WHERE t.concurrency_key = 'k' AND l.subject = 'key:k'"
    ).fetchone()
    assert row == (True,)


def test_rate_limited_without_a_key_pauses_its_queue(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        first = pq.enqueue(tasks.limited_by_service.call(str(path), "first", 1.5))
        with running(database, tmp_path, app=APP, queues=["default", "open"], poll_interval=0.2):
            eventually(lambda: pq.get_task(first).snoozes == 1)
            (paused,) = [queue for queue in pq.queues() if queue.paused]
            assert paused.name == "default"
            pq.enqueue(tasks.work.call(str(path), "second"))
            pq.enqueue(tasks.work.options(queue="open").call(str(path), "open"))
            eventually(lambda: finished(connection, 3))
    assert begun(path)[:2] == ["first", "open"]
    row = connection.execute(
        "SELECT min(t.started_at) >= max(q.paused_until) FROM pq_tasks t JOIN pq_queues q ON q.name = t.queue"
    ).fetchone()
    assert row == (True,)


def test_retry_of_a_limited_task_waits_for_its_limit_again(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        task = pq.enqueue(tasks.flaky.options(concurrency_key="k", backoff=Backoff(base=60)).call(str(path), "a"))
        until_empty(database, tmp_path, app=APP)
        assert begun(path) == ["a"]
        # Its time has not come, so that it is an ordinary task of the future; then it is held back again.
        assert states(connection) == {"pending": 1}
        assert pq.reschedule(task, run_in=timedelta(0))
        assert states(connection) == {"blocked": 1}
        until_empty(database, tmp_path, app=APP)
    assert states(connection) == {"completed": 1}
    assert begun(path) == ["a", "a"]


def test_limits_lifted_let_everything_run(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        assert pq.limit_queue("default", concurrency=1, rate="1/h")
        assert not pq.limit_queue("default", concurrency=1, rate=Rate(1, 3600))
        pq.enqueue_many(tasks.work.call(str(path), f"t{n}") for n in range(10))
        with running(database, tmp_path, app=APP, poll_interval=0.5):
            eventually(lambda: finished(connection, 1))
            (queue,) = pq.queues()
            assert (queue.concurrency_limit, queue.rate_limit, queue.due) == (1, 1, 9)
            assert pq.limit_queue("default")
            eventually(lambda: finished(connection, 10))


def test_limits_in_use_are_told(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        assert pq.limits() == []
        pq.limit_queue("default", concurrency=3)
        pq.limit_queue("slow", rate="1/h")
        pq.enqueue_many(
            tasks.hold.options(concurrency_key="k", concurrency_limit=2).call(str(path), f"k{n}") for n in range(5)
        )
        pq.enqueue(tasks.narrow.options(queue="other").call(str(path), "narrow", 0.0))
        pq.enqueue_many(tasks.work.options(queue="slow").call(str(path), f"s{n}") for n in range(3))
        pq.enqueue(tasks.limited_by_service.options(concurrency_key="told").call(str(path), "told", 3600.0))
        with running(database, tmp_path, app=APP, queues=["default", "slow"], concurrency=8, poll_interval=0.2):
            eventually(lambda: {"k0", "k1", "s0", "told"} <= set(begun(path)) and finished(connection, 1))
            eventually(lambda: pq.counts()[TaskStatus.RUNNING] == 2)
            found = {(limit.kind, limit.name): limit for limit in pq.limits()}
            Path(f"{path}.go").touch()
            eventually(lambda: finished(connection, 6))
        later = {(limit.kind, limit.name): limit for limit in pq.limits()}

    def numbers(limit: LimitRecord) -> tuple[int, int | None, int, bool]:
        return limit.running, limit.allowed, limit.waiting, limit.reached

    assert list(found) == [("queue", "default"), ("queue", "slow"), ("task", "l.narrow"), ("key", "k"), ("key", "told")]
    assert numbers(found["queue", "default"]) == (2, 3, 3, False)
    assert numbers(found["queue", "slow"]) == (0, None, 2, True)
    assert found["queue", "slow"].rate == pytest.approx(1 / 3600)
    assert found["queue", "slow"].next_start is not None
    assert numbers(found["task", "l.narrow"]) == (0, 2, 1, False)
    assert numbers(found["key", "k"]) == (2, 2, 3, True)
    assert found["key", "k"].full
    told = found["key", "told"]
    assert numbers(told) == (0, None, 0, True)
    assert told.paused
    assert told.paused_until is not None
    assert ("key", "k") not in later


def test_cancelled_and_upserted_while_they_wait(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "log"
    keyed = tasks.work.options(concurrency_key="k")
    with client(database) as pq:
        gone = pq.enqueue(keyed.call(str(path), "gone"))
        pq.upsert(keyed.options(client_id="one").call(str(path), "old"))
        pq.upsert(keyed.options(client_id="one").call(str(path), "new"))
        assert pq.get_task(gone).status == "blocked"
        assert pq.cancel(gone)
        assert pq.pending_count() == 1
        until_empty(database, tmp_path, app=APP)
    assert begun(path) == ["new"]
    assert states(connection) == {"cancelled": 1, "completed": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "concurrency=0: give an integer of at least 1"),
        ({"concurrency": True}, "concurrency=True"),
        ({"rate": "10"}, "rate='10': '10' is no rate: give a number per time"),
        ({"rate": "0/s"}, "rate='0/s'"),
        ({"rate": 10}, 'rate=10: give text: rate="10/s"'),
    ],
)
def test_limits_that_make_no_sense_are_refused(database: str, options: dict[str, object], words: str) -> None:
    with client(database) as pq, pytest.raises(InvalidOption, match=re.escape(words)):
        pq.limit_queue("default", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=re.escape(words)):
        tasks.jobs.task(name="never", **options)(lambda: None)  # type: ignore[call-overload]


def test_key_options_that_make_no_sense_are_refused(database: str, connection: psycopg.Connection) -> None:
    with pytest.raises(InvalidOption, match="concurrency_limit=2: say whose limit it is"):
        tasks.work.options(concurrency_limit=2)
    with pytest.raises(InvalidOption, match="concurrency_key=''"):
        tasks.work.options(concurrency_key="")
    with pytest.raises(InvalidOption, match="concurrency=2: it lives in the code"):
        tasks.work.options(concurrency=2)  # type: ignore[call-arg]
    for item, words in [
        ('{"name": "a", "concurrency_limit": 2}', 'needs a "concurrency_key"'),
        ('{"name": "a", "concurrency_key": 7}', '"concurrency_key" must be text'),
        ('{"name": "a", "concurrency_key": "k", "concurrency_limit": 0}', '"concurrency_limit" must be at least 1'),
        ('{"name": "a", "concurrency": 0}', '"concurrency" must be at least 1'),
        ('{"name": "a", "rate": 0}', '"rate" must be above 0'),
        ('{"name": "a", "rate": 1e-309}', '"rate" must be at least 1e-9'),
    ]:
        with pytest.raises(psycopg.errors.InvalidParameterValue, match=words):
            connection.execute("SELECT pq_enqueue(%s)", (item,))


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10)),
        ("100/m", Rate(100, 60)),
        ("1/30s", Rate(1, 30)),
        ("5/2h", Rate(5, 7200)),
        ("9/d", Rate(9, 86400)),
    ],
)
def test_rates_are_read_and_written(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate
    assert str(rate) == text


def test_rate_of_many_workers_is_spent_once(connection: psycopg.Connection) -> None:
    """The bucket by itself: no start is allowed twice, none is lost to being late within the slack."""
    allowed = connection.execute(
        "SELECT n, places FROM generate_series(1, 200) n, LATERAL (SELECT p.places,"
        " CASE WHEN p.places > 0 THEN pq_limit_spend('queue:q', 0.05, p.places, m) END::text"
        " FROM (SELECT timestamptz '2030-01-01' + n * interval '0.011 s' AS m) t,"
        " pq_limit_places('queue:q', NULL, NULL, 0.05, m) p) s ORDER BY n"
    ).fetchall()
    granted = sum(places for _, places in allowed)
    assert 2.2 / 0.05 - 1 <= granted <= 2.2 / 0.05 + 2


def test_suspect_under_a_limit_runs_alone_on_an_idle_worker(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("default", concurrency=3)
        pq.enqueue(tasks.work.call(str(path), "plain"))
        pq.enqueue(tasks.work.options(concurrency_key="k").call(str(path), "keyed"))
        connection.execute("UPDATE pq_tasks SET losses = 2")
        pq.enqueue(tasks.work.call(str(path), "fresh"))
        connection.execute(
            "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues)"
            " VALUES (7, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}')"
        )
        claim = "SELECT losses FROM pq_claim_limited(7, '{default}', '{-32768}', '{32767}', 9, %s) WHERE id IS NOT NULL"
        assert connection.execute(claim, (False,)).fetchall() == [(0,)]
        assert connection.execute(claim, (True,)).fetchall() == [(2,)]
        assert connection.execute(claim, (True,)).fetchall() == [(2,)]
        assert connection.execute("SELECT count(*) FROM pq_tasks WHERE alone").fetchone() == (2,)


def test_claims_of_two_transactions_never_count_on_the_same_place(
    database: str, connection: psycopg.Connection
) -> None:
    with client(database) as pq, psycopg.connect(database) as first, psycopg.connect(database) as second:
        pq.limit_queue("default", concurrency=1)
        pq.enqueue_many(tasks.work.call("", f"t{n}") for n in range(3))
        connection.execute(
            "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues)"
            " SELECT n, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}' FROM generate_series(7, 8) n"
        )
        claim = "SELECT id, next_in FROM pq_claim_limited(%s, '{default}', '{-32768}', '{32767}', 9, false)"
        assert [row[0] is not None for row in first.execute(claim, (7,))] == [True, False]
        assert second.execute(claim, (8,)).fetchall() == [(None, 0.005)]
        first.commit()
        assert second.execute(claim, (8,)).fetchall() == [(None, 0.1)]
        second.rollback()
        connection.execute("UPDATE pq_tasks SET status = 'completed', worker_id = NULL WHERE status = 'running'")
        assert [row[0] is not None for row in second.execute(claim, (8,))] == [True, False]


def test_impossible_rate_that_somebody_stored_holds_back_nobody_else(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    with client(database) as pq:
        pq.limit_queue("still", rate="1/s")
        connection.execute("UPDATE pq_queues SET rate_limit = 0 WHERE name = 'still'")
        pq.enqueue(tasks.work.options(queue="still").call(str(path), "still"))
        for rate in ("0", '"NaN"', "-1"):
            stuck = pq.enqueue(tasks.paced.call(str(path), "stuck"))
            connection.execute(
                "UPDATE pq_tasks SET options = jsonb_set(options, '{limits,rate}', %s) WHERE id = %s", (rate, stuck)
            )
        limited = pq.enqueue(tasks.work.options(concurrency_key="a").call(str(path), "limited"))
        plain = pq.enqueue(tasks.work.call(str(path), "plain"))
        with running(database, tmp_path, **FOUR, queues=("default", "still")) as fleet:
            for task_id in (limited, plain):
                pq.wait(task_id, timeout=60)
            assert "a turn failed" not in fleet.text
