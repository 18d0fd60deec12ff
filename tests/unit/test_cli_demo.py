"""What the demo counts, and how it finds out that something is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pq_adapters.cli.demo import library, limits
from pq_adapters.cli.demo.library import Measured
from pq_adapters.cli.demo.limits import Turn
from pq_adapters.cli.demo.receiver import Received
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


def turns(*, length: int = 5) -> list[Turn]:
    """All turns as they have to be: those of a tenant follow each other, tenants run beside each other."""
    return [
        Turn(tenant=f"tenant-{tenant}", number=number, began=10 * number, ended=10 * number + length)
        for tenant in range(limits.TENANTS)
        for number in range(limits.TURNS)
    ]


def test_turns_in_order_and_one_at_a_time_are_right() -> None:
    assert limits.turn_problems(turns()) == []
    assert limits.turn_problems(turns(length=10)) == []
    assert limits.most_at_once(turns()) == limits.TENANTS


def test_turns_out_of_order_or_at_once_or_missing_are_named() -> None:
    one, two = turns()[:2]
    swapped = [Turn(tenant=one.tenant, number=n, began=t.began, ended=t.ended) for n, t in ((1, one), (0, two))]

    assert limits.turn_problems([*swapped, *turns()[2:]]) == ["tenant-0: its tasks ran in the order [1, 0, 2, 3, 4]"]
    assert limits.turn_problems(turns()[1:]) == ["tenant-0: its tasks ran in the order [1, 2, 3, 4]"]
    assert len(limits.turn_problems(turns(length=11))) == limits.TENANTS


def test_starts_above_the_rate_are_named() -> None:
    every = limits.RATE.seconds / limits.RATE.count
    held = [100 + n * every for n in range(50)]

    assert limits.rate_problems(held) == []
    assert limits.rate_problems([*held[:20], *(at - limits.ALLOWANCE for at in held[20:])]) == []
    assert len(limits.rate_problems([100 + n * every * 0.9 for n in range(50)])) == 1
    assert limits.most_in(held, 1) == limits.RATE.count


def webhooks() -> list[TaskRecord]:
    def record(number: int, url: str, status: TaskStatus, error: str | None) -> TaskRecord:
        return TaskRecord(
            id=number, name=limits.WEBHOOK, status=status, queue=limits.QUEUE, priority=50, run_at=NOW, created_at=NOW,
            payload={"args": [url], "kwargs": {}}, error=error,
        )  # fmt: skip

    sent = [record(n, "http://127.0.0.1:9/orders", TaskStatus.COMPLETED, None) for n in range(limits.CALLS)]
    return [*sent, record(99, limits.METADATA, TaskStatus.FAILED, "WebhookRefused: not a host")]


def received(**other: object) -> Received:
    keys = {order: [f"key-{order}"] for order in range(1, limits.CALLS)} | {0: ["key-0", "key-0"]}
    return Received(**{"most": 2, "keys": keys, "waits": [1.2], **other})  # type: ignore[arg-type]


def test_webhooks_that_arrived_as_they_should_are_right() -> None:
    assert limits.call_problems(received(), webhooks()) == []


def test_each_problem_with_webhooks_is_named() -> None:
    def problem(**other: object) -> str:
        (found,) = limits.call_problems(received(**other), webhooks())
        return found

    assert problem(most=3) == "queue web: 3 calls at once, not 2 at most"
    assert problem(problems=["order 1: its signature is wrong"]) == "webhook: order 1: its signature is wrong"
    assert "another idempotency key" in problem(keys=received().keys | {3: ["a", "b"]})
    assert problem(keys={0: ["a"]}) == "webhooks arrived for the orders [0], not for 6"
    assert problem(waits=[0.5]) == "who was told to wait for a second came back after [0.5]"
    assert "there are 6 webhooks, not 7" in limits.call_problems(received(), webhooks()[1:])
    (reached,) = limits.call_problems(
        received(), [*webhooks()[:-1], replace(webhooks()[-1], status=TaskStatus.COMPLETED)]
    )
    assert reached.startswith("task 99, pq.webhook: completed, not failed")
