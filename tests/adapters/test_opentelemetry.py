"""OpenTelemetry's plugin, with the real SDK and exporter, against a collector that decodes what arrives."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

pytest.importorskip("opentelemetry.proto")
pytest.importorskip("opentelemetry.sdk")

from tests.adapters.collector import Endpoint, Span, endpoint, run

PROGRAM = "tests.adapters.opentelemetry_program"
INTERNAL, CLIENT, PRODUCER, CONSUMER = 1, 3, 4, 5
OK, ERROR = 0, 2


@pytest.fixture
def collector() -> Iterator[Endpoint]:
    with endpoint() as made:
        yield made


def enqueue(collector: Endpoint, database: str, scenario: str, **more: str) -> None:
    run(PROGRAM, "enqueue", scenario, environment={**more, "COLLECTOR": collector.url, "PQ_DATABASE_URL": database})


def work(collector: Endpoint, database: str, *options: str, wrapper: tuple[str, ...] = (), **more: str) -> str:
    # What is measured is what arrives, not how busy this machine is.
    more = {"FLUSH": "20", **more, "COLLECTOR": collector.url, "PQ_DATABASE_URL": database}
    return run(PROGRAM, "work", *options, wrapper=wrapper, environment=more)


def outcomes(database: str) -> Counter[str]:
    with psycopg.connect(database) as connection:
        return Counter(dict(connection.execute("SELECT status, count(*) FROM pq_tasks GROUP BY 1").fetchall()))


def by_task(collector: Endpoint) -> dict[str, Span]:
    spans = collector.of_kind(CONSUMER)
    found = {span.attributes["pq.task.name"]: span for span in spans}
    assert len(found) == len(spans), [span.attributes for span in spans]
    return found


@pytest.mark.parametrize("options", [(), ("tasks_per_child=50",)], ids=["own", "shared"])
def test_hundred_tasks_are_hundred_spans_linked_to_those_that_sent_them(
    collector: Endpoint, database: str, options: tuple[str, ...]
) -> None:
    enqueue(collector, database, "100")

    work(collector, database, *options)

    assert outcomes(database) == {"completed": 100}
    sent, processed = collector.of_kind(PRODUCER), collector.of_kind(CONSUMER)
    assert len(sent) == len(processed) == 100
    assert {span.name for span in sent} == {"send mail"}
    assert {span.name for span in processed} == {"process mail"}
    assert Counter(link for span in processed for link in span.links) == Counter(span.place for span in sent)
    assert {span.trace_id for span in sent}.isdisjoint(span.trace_id for span in processed)
    assert len({span.attributes["messaging.message.id"] for span in processed}) == 100
    # The application's own spans are within.
    inner = [span for span in collector.of_kind(INTERNAL) if span.name.startswith("letter")]
    assert Counter((span.trace_id, span.parent) for span in inner) == Counter(span.place for span in processed)


def test_spans_say_what_the_conventions_ask_for(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "1")

    work(collector, database)

    (sent,), (processed,) = collector.of_kind(PRODUCER), collector.of_kind(CONSUMER)
    assert sent.attributes == {
        "messaging.system": "pq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "pq.task.name": "letter",
    }
    assert processed.attributes == {
        "messaging.system": "pq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": "1",
        "pq.task.name": "letter",
        "pq.attempt.number": 1,
        "pq.attempt.fence": 1,
        "pq.outcome": "succeeded",
    }
    (request,) = [span for span in collector.spans if span.name == "request"]
    assert (sent.trace_id, sent.parent) == request.place


def test_parented_tasks_are_in_the_trace_that_sent_them(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "5")

    work(collector, database, PARENTED="1")

    sent, processed = collector.of_kind(PRODUCER), collector.of_kind(CONSUMER)
    assert {(span.trace_id, span.parent) for span in processed} == {span.place for span in sent}
    assert {link for span in processed for link in span.links} == {span.place for span in sent}


def test_batch_creates_each_task_and_is_sent_once(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "batch")

    work(collector, database)

    created = collector.of_kind(PRODUCER, "create mail")
    (sent,) = collector.of_kind(CLIENT, "send mail")
    assert len(created) == len(collector.of_kind(PRODUCER)) == 10
    assert sent.attributes["messaging.batch.message_count"] == 10
    assert sent.links == [span.place for span in created]
    assert {link for span in collector.of_kind(CONSUMER) for link in span.links} == set(sent.links)


def test_how_a_task_ended_is_on_its_span(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "ends")

    work(collector, database)

    spans = by_task(collector)
    said = {
        name: (span.attributes["pq.outcome"], span.attributes.get("error.type"), span.status)
        for name, span in spans.items()
    }
    assert said == {
        "fail": ("raised", "LookupError", ERROR),
        "later": ("snoozed", None, OK),
        "never": ("cancelled", None, OK),
        "slow": ("timed_out", "timed_out", ERROR),
        # These could not say so themselves:
        "crash": ("crashed", "crashed", ERROR),
        "deaf": ("timed_out", "timed_out", ERROR),
    }
    assert spans["fail"].events == ["exception"]
    assert "no such letter" in spans["fail"].message
    assert spans["crash"].attributes["pq.signal"] == 11
    assert spans["deaf"].end - spans["deaf"].start >= 2e9
    assert {span.links[0] for span in spans.values()} == {span.place for span in collector.of_kind(PRODUCER)}


def test_lost_attempts_get_a_span_too(collector: Endpoint, database: str) -> None:
    code = f"""
import os
os.environ["COLLECTOR"] = {collector.url!r}
from datetime import UTC, datetime
from pq_core.types import AttemptOutcome, ClaimedTask, Outcome, TaskStatus
from tests.adapters.opentelemetry_program import configure, OpenTelemetry
moment = datetime.now(UTC)
task = ClaimedTask(
    id=7, name="letter", queue="mail", priority=50, fence=2, number=1, max_attempts=1, payload="{{}}", version=1,
    headers={{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}},
    run_at=moment, created_at=moment, started_at=moment,
)
outcome = AttemptOutcome(outcome=Outcome.LOST, status=TaskStatus.PENDING, final=False, error="its worker died")
OpenTelemetry(configure=configure).pq_task_died(task, outcome)
os._exit(0)
"""

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)

    (span,) = collector.of_kind(CONSUMER)
    assert span.attributes["error.type"] == "lost"
    assert span.message == "its worker died"
    assert span.links == [("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")]


@pytest.mark.parametrize("options", [(), ("tasks_per_child=5",)], ids=["own", "shared"])
def test_collector_that_is_down_changes_no_outcome(database: str, options: tuple[str, ...]) -> None:
    with endpoint() as collector:
        enqueue(collector, database, "20")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens, and nobody else will
        down = Endpoint(taken.getsockname()[1])

        said = work(down, database, *options, FLUSH="0.5")

    assert outcomes(database) == {"completed": 20}
    found = re.search(r"took ([\d.]+) s", said)
    assert found is not None
    # Without a bound each would take ten seconds, 20 of them in 4 processes 50.
    assert float(found[1]) < 25


@pytest.mark.parametrize("wrapped", [False, True], ids=["by the application", "by opentelemetry-instrument"])
def test_sdk_that_was_set_up_before_the_fork_loses_nothing_and_is_named(
    collector: Endpoint, database: str, wrapped: bool
) -> None:
    enqueue(collector, database, "50")
    more = {"INHERITED": "there" if wrapped else "here"}
    wrapper: tuple[str, ...] = ()
    if wrapped:
        wrapper = (str(Path(sys.executable).parent / "opentelemetry-instrument"),)
        more |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }

    said = work(collector, database, wrapper=wrapper, **more)

    assert outcomes(database) == {"completed": 50}
    processed = collector.of_kind(CONSUMER)
    assert Counter(span.links[0] for span in processed) == Counter(span.place for span in collector.of_kind(PRODUCER))
    parents = Counter(span.name for span in collector.spans if span.name.startswith("parent"))
    assert parents == ({} if wrapped else {f"parent {number}": 1 for number in range(20)})
    assert "OtelBatchSpanRecordProcessor" in said
    assert "OpenTelemetry(configure=" in said


def test_metrics_come_from_the_worker_alone(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "40")
    enqueue(collector, database, "ends")

    said = work(collector, database, METRICS="1")

    # Cumulative: the last report of each series says it all, and they are all of one process.
    assert len({about["process.pid"] for _, about, _ in collector.points}) == 1
    last = {(name, about.get("error.type")): (about, point) for name, about, point in collector.points}
    consumed = {kind: point.as_int for (name, kind), (_, point) in last.items() if name.endswith("consumed.messages")}
    assert consumed == {None: 42, "LookupError": 1, "timed_out": 2, "crashed": 1}
    about, duration = last["messaging.process.duration", "timed_out"]
    assert duration.count == 2
    assert 4 < duration.sum < 60
    assert list(duration.explicit_bounds)[:3] == [0.005, 0.01, 0.025]
    assert about["messaging.destination.name"] == "mail"
    assert about["messaging.operation.name"] == "process"
    assert "started the thread" not in said
    assert "threads run before the fork" not in said


def test_sending_is_counted_and_timed_where_tasks_are_enqueued(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "measured", METRICS="1")

    points = {
        (name, about.get("messaging.destination.name"), about.get("error.type")): (about, point)
        for name, about, point in collector.points
    }
    duplicate = "pq_core.errors.DuplicateClientId"
    sent, took = "messaging.client.sent.messages", "messaging.client.operation.duration"
    assert {key: point.as_int for key, (_, point) in points.items() if key[0] == sent} == {
        (sent, "mail", None): 5,
        (sent, "other", None): 1,
        (sent, "mail", duplicate): 1,
    }
    assert {key: point.count for key, (_, point) in points.items() if key[0] == took} == {
        (took, "mail", None): 2,
        (took, None, None): 1,
        (took, "mail", duplicate): 1,
    }
    about, duration = points[took, "mail", None]
    assert 0 < duration.sum < 60
    assert about["messaging.operation.name"] == "send"
    assert about["messaging.system"] == "pq"


def test_without_sdk_nothing_is_recorded_and_tasks_run(database: str) -> None:
    code = """
from pq_core import PQ
from pq_hooks.opentelemetry import OpenTelemetry
import sys
pq = PQ(plugins=[OpenTelemetry()])
@pq.task(name="letter")
def letter(): return 1
pq.enqueue(letter.call())
pq.run_worker(until_empty=True)
assert "opentelemetry.sdk" not in sys.modules
print(pq.get_task(1).status, pq.get_task(1).headers)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PQ_DATABASE_URL": database, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )

    assert done.stdout == "completed {}\n", done.stderr


def test_missing_api_is_an_error_that_names_the_extra() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import pq_hooks.opentelemetry"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert 'ImportError: pq_hooks.opentelemetry needs the API: pip install "pq-toolkit[opentelemetry]"' in done.stderr


def test_moments_of_died_spans_are_not_in_the_future(collector: Endpoint, database: str) -> None:
    enqueue(collector, database, "ends")

    work(collector, database)

    now = datetime.now(UTC).timestamp() * 1e9
    assert all(span.start <= span.end <= now for span in collector.spans)


def test_nothing_of_a_sensitive_task_is_sent(collector: Endpoint, database: str) -> None:
    card = "4000-8811-2233"
    task = {"name": "secret", "queue": "mail", "args": [card], "sensitive": True}
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pq_enqueue(%s)", [Jsonb(task)])

    work(collector, database)

    span = by_task(collector)["secret"]
    assert span.status == ERROR
    assert "LookupError" in span.message
    assert not any(card.encode() in body for _, body in collector.posts)
