"""Metrics out of the worker's own loop: real workers, real scrapes, read by Prometheus' own parser."""

from __future__ import annotations

import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pq_core import PQ, TaskStatus
from pq_core.worker.metrics import OTHER, SERIES, Counters
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import WorkerProcess, eventually, processes_of, running

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def free_ports(count: int) -> int:
    """Return the first of several free ports in a row."""
    for port in range(20000 + (id(object()) // 16) % 20000, 60000, 7):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, sock in enumerate(sockets):
                sock.bind(("127.0.0.1", port + number))
        except OSError:
            continue
        finally:
            for sock in sockets:
                sock.close()
        return port
    raise AssertionError("no free ports")


def get(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def scrape(port: int) -> Samples:
    families = text_string_to_metric_families(get(port))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return sum(v for (n, found), v in samples.items() if n == name and labels.items() <= dict(found).items())


def test_worker_counts_what_it_ran(database: str, tmp_path: Path) -> None:
    port = free_ports(1)
    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, metrics_port=port, metrics_host="127.0.0.1"):
            for _ in range(3):
                pq.wait(pq.enqueue(tasks.add.call(1)), timeout=30)
            running_id = pq.enqueue(tasks.nap.call(60.0))
            eventually(lambda: value(scrape(port), "pq_worker_running") == 1)

            samples = scrape(port)
            pq.cancel(running_id)

    assert value(samples, "pq_attempts_total", task="w.add", outcome="succeeded", queue="default") == 3
    assert value(samples, "pq_attempt_run_seconds_count", task="w.add") == 3
    assert value(samples, "pq_attempt_run_seconds_bucket", task="w.add", le="+Inf") == 3
    assert value(samples, "pq_attempt_wait_seconds_sum", task="w.add") > 0
    assert value(samples, "pq_worker_lease") == 1
    assert value(samples, "pq_worker_concurrency") == 4
    assert value(samples, "pq_worker_info", app="tests") == 1


def test_each_process_has_a_port_of_its_own_and_keeps_it_when_it_is_replaced(database: str, tmp_path: Path) -> None:
    port = free_ports(2)
    with running(database, tmp_path, processes=2, metrics_port=port, metrics_host="127.0.0.1") as worker:
        names = {get(port).split('name="')[1].split('"')[0], get(port + 1).split('name="')[1].split('"')[0]}
        assert len(names) == 2

        worker.signal(signal.SIGHUP)

        def replaced() -> bool:
            try:
                pages = [get(port), get(port + 1)]
            except OSError:
                return False
            return names.isdisjoint(page.split('name="')[1].split('"')[0] for page in pages)

        eventually(replaced)


def test_slow_and_strange_clients_disturb_nobody(database: str, tmp_path: Path) -> None:
    port = free_ports(1)
    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, metrics_port=port, metrics_host="127.0.0.1") as worker:
            get(port)
            silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
            silent[0].sendall(b"GET /metr")
            silent[1].sendall(b"x" * 100_000)
            silent[2].sendall(b"\r\n\r\n")

            assert pq.wait(pq.enqueue(tasks.add.call(1)), timeout=30) == 1
            for sock in silent:
                sock.close()
            assert eventually(lambda: _try(port))
            for path, status in (("/", 404), ("/metrics?x=1", 200), ("/health", 200)):
                assert status_of(port, path) == status
            assert status_of(port, "/metrics", method="POST") == 405
            assert worker.stop() == 0


def _try(port: int) -> str:
    try:
        return get(port)
    except OSError:
        return ""


def status_of(port: int, path: str, *, method: str = "GET") -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def answer_of(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_ready_means_that_it_holds_a_lease_and_goes_on(database: str, tmp_path: Path) -> None:
    port = free_ports(1)
    options = {"metrics_port": port, "metrics_host": "127.0.0.1", "lease": 3, "drain_timeout": 60}
    with PQ(database, tasks=[tasks.__name__]) as pq, running(database, tmp_path, **options) as worker:
        assert eventually(lambda: answer_of(port, "/ready")[0]) == 200

        # Nobody renews a lease, nor gets one.
        with psycopg.connect(database) as blocking:
            blocking.execute("LOCK TABLE pq_workers IN ACCESS EXCLUSIVE MODE")
            said = eventually(lambda: (found := answer_of(port, "/ready"))[0] == 503 and found)
            assert "holds no lease" in said[1]
            assert answer_of(port, "/health") == (200, "ok\n")
        eventually(lambda: answer_of(port, "/ready") == (200, "ready\n"))

        id_ = pq.enqueue(tasks.nap.call(60.0))
        eventually(lambda: (task := pq.get_task(id_)) and task.status is TaskStatus.RUNNING)
        worker.signal(signal.SIGTERM)
        eventually(lambda: answer_of(port, "/ready") == (503, "it drains\n"))
        pq.cancel(id_)
        assert worker.wait() == 0


def test_worker_with_a_wrong_host_is_never_ready(tmp_path: Path) -> None:
    port = free_ports(1)
    dsn = "host=127.0.0.1 port=9 user=nobody dbname=nowhere"
    worker = WorkerProcess(dsn, tmp_path / "log", metrics_port=port, metrics_host="127.0.0.1")
    try:
        eventually(lambda: answer_of(port, "/health")[0] == 200)
        eventually(lambda: worker.text.count("the work connection is lost") > 1)

        assert answer_of(port, "/ready")[0] == 503
    finally:
        worker.kill()


def test_port_that_is_taken_stops_no_worker_and_is_used_when_it_is_free(database: str, tmp_path: Path) -> None:
    port = free_ports(1)
    with PQ(database, tasks=[tasks.__name__]) as pq, socket.create_server(("127.0.0.1", port)) as taken:
        with running(database, tmp_path, metrics_port=port, metrics_host="127.0.0.1") as worker:
            eventually(lambda: "no metrics yet" in worker.text)
            assert pq.wait(pq.enqueue(tasks.add.call(1)), timeout=30) == 1
            taken.close()

            assert eventually(lambda: _try(port))


def test_children_do_not_hold_the_port(database: str, tmp_path: Path) -> None:
    port = free_ports(1)
    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, spares=0, metrics_port=port, metrics_host="127.0.0.1") as worker:
            get(port)
            pq.enqueue(tasks.nap.call(60.0))
            [child] = eventually(lambda: processes_of(worker.workers[0]))

            def inodes(pid: int) -> set[str]:
                folder = Path(f"/proc/{pid}/fd")
                return {str(link.readlink()) for link in folder.iterdir() if "socket:" in str(link.readlink())}

            listening = f"{port:04X} 00000000:0000 0A"
            lines = Path("/proc/net/tcp").read_text().splitlines()
            [inode] = [line.split()[9] for line in lines if listening in line]
            assert f"socket:[{inode}]" in inodes(worker.workers[0])
            eventually(lambda: f"socket:[{inode}]" not in inodes(child))


def test_names_made_up_per_task_end_up_in_one_series() -> None:
    from datetime import UTC, datetime

    from pq_core import AttemptOutcome, ClaimedTask, Outcome, TaskStatus

    counters = Counters()
    now = datetime.now(UTC)
    outcome = AttemptOutcome(outcome=Outcome.SUCCEEDED, status=TaskStatus.COMPLETED, final=True, wall=0.2)
    for number in range(SERIES + 50):
        counters.note(
            ClaimedTask(
                id=1, name=f'n{number}"\n', queue="q", priority=0, fence=1, number=1, max_attempts=1, payload="{}",
                headers={}, version=1, run_at=now, created_at=now, started_at=now,
            ),
            outcome,
            0.1,
        )  # fmt: skip

    samples = {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families("\n".join(counters.lines()) + "\n")
        for s in family.samples
    }

    assert value(samples, "pq_attempts_total", task=OTHER) == 50
    assert value(samples, "pq_attempts_total", task='n0"\n') == 1
    assert value(samples, "pq_attempt_run_seconds_bucket", task='n1"\n', le="0.1") == 0
    assert value(samples, "pq_attempt_run_seconds_bucket", task='n1"\n', le="0.5") == 1


@pytest.mark.parametrize("port", [0, 70000, True, "9000"])
def test_port_that_makes_no_sense_is_refused(port: object) -> None:
    from pq_core import InvalidOption
    from pq_core.worker.options import WorkerOptions

    with pytest.raises(InvalidOption, match="metrics_port"):
        WorkerOptions(metrics_port=port)  # type: ignore[arg-type]
