"""What is typed, and what is printed."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from pq_adapters.cli import parameters
from pq_adapters.cli.enqueue import parse_arguments
from pq_adapters.cli.launch import worker_command
from pq_adapters.cli.mistakes import Mistake
from pq_adapters.cli.output import one_line, print_table, size
from pq_adapters.cli.task_text import last_line
from pq_adapters.cli.worker import worker, worker_options
from pq_core.doctor.machine import kills_whole_container
from pq_core.plain import plain
from pq_core.types import TaskRecord, TaskStatus
from pq_core.worker.options import WorkerOptions


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("2s", 2), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("1w", 604800), ("0", 0)],
)
def test_duration(text: str, seconds: float) -> None:
    assert parameters.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "-1", "7 days", "d", "1e3", "inf", "99999999999d"])
def test_duration_refuses(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a duration"):
        parameters.duration(text)


def test_moment_needs_an_offset() -> None:
    assert parameters.moment("2026-01-31T18:00:00Z") == datetime(2026, 1, 31, 18, tzinfo=UTC)
    with pytest.raises(click.BadParameter, match=r"like 2026-01-31T18:00:00\+00:00"):
        parameters.moment("2026-01-31T18:00")
    with pytest.raises(click.BadParameter, match="not a time"):
        parameters.moment("tomorrow")


def test_priority_by_name_and_number() -> None:
    assert [parameters.priority(text) for text in ("high", "BATCH", "-7", "60")] == [75, 0, -7, 60]
    with pytest.raises(click.BadParameter, match="critical"):
        parameters.priority("urgent")


def test_sizes_and_names() -> None:
    assert [parameters.size_or_auto(text) for text in ("auto", "512M", "1048576")] == ["auto", 2**29, 2**20]
    assert parameters.names("a, b") == ("a", "b")
    for refused in ("", "a,,b"):
        with pytest.raises(click.BadParameter):
            parameters.names(refused)


@pytest.mark.parametrize(
    ("words", "keywords", "expected"),
    [
        (["7", "true", "null", "1.5"], None, ([7, True, None, 1.5], {})),
        (["Ada Lovelace", "007", "NaN", "a-b=c"], None, (["Ada Lovelace", "007", "NaN", "a-b=c"], {})),
        (['"7"', '{"a": [1]}'], None, (["7", {"a": [1]}], {})),
        (["1", "copy=true", "name=Ada", "query=a=b"], None, ([1], {"copy": True, "name": "Ada", "query": "a=b"})),
        (["1", "b=2"], '{"a": 1}', ([1], {"a": 1, "b": 2})),
        (["ключ=1"], None, ([], {"ключ": 1})),
    ],
)
def test_arguments_are_json_else_text(
    words: list[str], keywords: str | None, expected: tuple[list[Any], dict[str, Any]]
) -> None:
    assert parse_arguments(tuple(words), keywords) == expected


@pytest.mark.parametrize(
    ("words", "keywords", "says"),
    [
        (["[1"], None, "not JSON"),
        (["a=1", "a=2"], None, "twice"),
        (["a=1", "2"], None, "positional arguments come first"),
        ([], "[1]", "an object"),
        ([], "{", "not JSON"),
        ([], '{"a": NaN}', "not JSON"),
    ],
)
def test_arguments_that_make_no_sense_are_a_mistake(words: list[str], keywords: str | None, says: str) -> None:
    with pytest.raises(Mistake, match=says):
        parse_arguments(tuple(words), keywords)


def test_flags_of_the_worker_are_its_options() -> None:
    given = {"lease": timedelta(seconds=10), "queues": ("a",), "concurrency": None, "memory_limit": "auto"}

    options = worker_options(given)

    assert (options.lease, options.queues, options.memory_limit) == (10.0, ("a",), "auto")
    assert options.concurrency >= 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lease": timedelta(seconds=1)}, r"^--lease=1\.0: give seconds from 3"),
        ({"priorities": ("urgent",)}, "^--priorities: there is no band 'urgent'"),
        ({"concurrency": 0}, "^--concurrency 0"),
        ({"concurrency": -2}, "^--concurrency=-2"),
        ({"memory_limit": 1}, "^--memory-limit=1"),
    ],
)
def test_option_out_of_range_names_its_flag(given: dict[str, Any], says: str) -> None:
    with pytest.raises(Mistake, match=says):
        worker_options(given)


def test_defaults_of_the_flags_are_those_of_the_options() -> None:
    values = {p.name: p.get_default(click.Context(worker)) for p in worker.params if p.name is not None}
    own = {f.name: f.default for f in fields(WorkerOptions)}
    for name in ("lease", "poll_interval", "grace", "drain_timeout"):
        assert parameters.duration(str(values[name])).total_seconds() == own[name]
    assert values["tasks_per_child"] == own["tasks_per_child"]


def test_every_option_of_the_worker_has_its_variable() -> None:
    with click.Context(worker, auto_envvar_prefix="PQ_WORKER") as context:
        assert worker.context_settings["auto_envvar_prefix"] == context.auto_envvar_prefix
        lease = next(p for p in worker.params if p.name == "lease")
        assert lease.envvar == ["PQ_WORKER_LEASE", "PQ_LEASE"]


def test_worker_command_holds_the_whole_specification() -> None:
    command = worker_command("app:pq", WorkerOptions(concurrency=3), plugins=("a:B",), processes=2, log_format="json")

    spec = json.loads(command[-1])
    assert command[-3:-1] == ["-m", "pq_core.worker"]
    assert (spec["app"], spec["plugins"], spec["processes"], spec["log_format"]) == ("app:pq", ["a:B"], 2, "json")
    # A list again, as JSON has no tuples: what WorkerOptions must take.
    assert WorkerOptions(**spec["options"]) == WorkerOptions(concurrency=3)


def test_records_become_plain_json() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = TaskRecord(
        id=1, name="a", status=TaskStatus.PENDING, queue="q", priority=5, run_at=moment, created_at=moment
    )

    found = plain({"tasks": [record]})["tasks"][0]

    assert (found["status"], found["run_at"]) == ("pending", "2026-01-01T00:00:00+00:00")
    json.dumps(found)


def test_table_aligns_and_keeps_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "name"), [(5, "a\nb\x1b[31m"), (12, None)], empty="nothing")
    print_table(("id",), [], empty="nothing")

    assert capsys.readouterr().out == "ID  NAME\n 5  a b [31m\n12  -\nnothing\n"


def test_text_for_terminals_has_no_control_characters() -> None:
    assert one_line("a\tb\r\n\x9bc") == "a b   c"


def test_sizes_as_people_read_them() -> None:
    assert [size(n) for n in (10, 2048, 5 * 2**20, 2**40)] == ["10 B", "2.0 KiB", "5.0 MiB", "1024.0 GiB"]


def test_last_line_is_what_says_most() -> None:
    assert last_line("Traceback (most recent call last):\n  File\nValueError: no\n") == "ValueError: no"
    assert last_line("killed by signal 11 (SIGSEGV)\nThread 1\n  File") == "killed by signal 11 (SIGSEGV)"
    assert last_line("") is None
    assert last_line("x" * 200) == "x" * 99 + "…"


def test_container_that_dies_as_a_whole_is_recognised(tmp_path: Path) -> None:
    assert not kills_whole_container(tmp_path)
    (tmp_path / "memory.oom.group").write_text("1\n")
    assert kills_whole_container(tmp_path)
