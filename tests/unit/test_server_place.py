"""Where the tests' server has its files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import server_place
from tests.server_place import Place, choose, free_memory, remove_left_behind

GIB = 2**30


def machine(root: Path, groups: str, **files: int | str) -> Path:
    """Write what a machine with 16 GiB of free memory says of itself."""
    for name, text in {
        "proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   16777216 kB\n",
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": str(value) for name, value in files.items()},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/\n", {}, 16),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/b/memory.current": 1}, 16),
        ("0::/a/b\n", {"a/memory.max": 4 * GIB, "a/memory.current": GIB, "a/b/memory.max": "max"}, 3),
        ("0::/a/b\n", {"memory.max": 2 * GIB, "memory.current": GIB}, 1),
        (
            "3:cpu:/c\n2:memory:/c\n0::/\n",
            {"memory/c/memory.limit_in_bytes": 5 * GIB, "memory/c/memory.usage_in_bytes": GIB},
            4,
        ),
    ],
    ids=["none", "no limit", "of an outer group", "of the container", "version 1"],
)
def test_memory_of_a_container_counts(tmp_path: Path, groups: str, files: dict[str, int | str], free: int) -> None:
    assert free_memory(machine(tmp_path, groups, **files)) == free * GIB


def test_folder_that_the_developer_names_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_place, "PLENTY", 0)
    monkeypatch.setattr(server_place, "SHARED", tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    if sys.platform == "linux":
        assert choose() == tmp_path
    monkeypatch.setenv("TMPDIR", str(tmp_path / "named"))
    assert choose() != tmp_path


def test_folder_of_a_run_that_was_killed_is_removed_and_no_other(tmp_path: Path) -> None:
    program = (
        "import sys, signal, pathlib; from tests.server_place import Place\n"
        "print(Place(pathlib.Path(sys.argv[1])).path, flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as run:
        assert run.stdout is not None
        killed = Path(run.stdout.readline().strip())
        mine = Place(tmp_path)
        unknown = tmp_path / f"{server_place.PREFIX}unknown"
        unknown.mkdir()
        remove_left_behind(tmp_path)
        assert killed.exists(), "it lives"
        run.send_signal(signal.SIGKILL)
        run.wait()
        remove_left_behind(tmp_path)

    assert set(tmp_path.iterdir()) == {mine.path, unknown}
    mine.remove()
    assert set(tmp_path.iterdir()) == {unknown}
