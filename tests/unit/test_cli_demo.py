"""What the demo counts, and how it finds out that something is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pq_adapters.cli.demo import library
from pq_adapters.cli.demo.library import Measured
from pq_adapters.cli.demo.report import disagreements
from pq_adapters.cli.demo.screen import Lines
from pq_core.types import Outcome, TaskRecord, TaskStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task(number: int, name: str, outcome: Outcome, *, status: TaskStatus | None = None) -> TaskRecord:
    ended = TaskStatus.COMPLETED if outcome is Outcome.SUCCEEDED else TaskStatus.FAILED
    return TaskRecord(
        id=number, name=name, status=status or ended, queue="default", priority=50, run_at=NOW, created_at=NOW,
        outcome=outcome,
    )  # fmt: skip


def good() -> list[TaskRecord]:
    return [
        task(1, "demo.measure", Outcome.SUCCEEDED),
        task(2, "demo.segfault", Outcome.CRASHED),
        task(3, "demo.memory_hog", Outcome.OUT_OF_MEMORY),
        task(4, "demo.endless_loop", Outcome.TIMED_OUT),
    ]


def test_measures_functions_and_classes_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "class A:\n    def b(self): pass\n    async def c(self):\n        def d(): pass\n"
        "try:\n    def e(): pass\nexcept ValueError:\n    class F: pass\nelse:\n    x = lambda: 0\n"
        "match x:\n    case 1:\n        def g(): pass\n"
    )

    assert library.measure(path) == Measured(lines=13, functions=5, classes=2)


def test_file_that_is_no_python_has_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"def\n\n\xff")

    assert library.measure(path) == Measured(lines=3, functions=0, classes=0)


def test_library_is_there_without_its_tests() -> None:
    found = library.files()

    assert library.root() / "ast.py" in found
    assert not any("test" in path.parts or "site-packages" in path.parts for path in found)
    assert library.files(limit=3) == found[:3]
    assert len(library.files(tests=True)) > len(found)


def test_nothing_disagrees_when_all_is_well() -> None:
    counted = {"a.py": Measured(1, 2, 3)}

    assert disagreements(good(), counted, counted) == []


def test_each_disagreement_is_named() -> None:
    found = [*good()[:3], task(4, "demo.endless_loop", Outcome.SUCCEEDED)]

    problems = disagreements(found, {"a.py": Measured(1, 2, 3), "b.py": Measured(0, 0, 0)}, {"a.py": Measured(9, 2, 3)})

    assert len(problems) == 3
    assert problems[0].startswith("task 4 demo.endless_loop: completed")
    assert problems[1].startswith("a.py: the table says Measured(lines=1")
    assert problems[2].startswith("b.py: the table says")


def test_missing_task_is_named() -> None:
    counted = {"a.py": Measured(1, 2, 3)}

    assert disagreements(good()[1:], counted, counted) == ["there are 3 tasks, not 4"]


def test_plain_lines_come_for_every_tenth(capsys) -> None:  # type: ignore[no-untyped-def]
    lines = Lines(100, quiet=60)

    for done in range(101):
        lines.show(done)

    said = capsys.readouterr().out.splitlines()
    assert said[0] == "  10 of 100 done"
    assert said[-1] == "  100 of 100 done"
    assert len(said) == 10
