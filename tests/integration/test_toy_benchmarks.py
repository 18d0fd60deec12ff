"""Benchmarks at toy size: they run, and write what they name. What the figures are is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Found = dict[tuple[str, str], list[float]]


def measured(server: str, folder: Path, name: str, *options: str) -> tuple[Found, dict[str, Any]]:
    """Run a benchmark once; return its values by variant and figure, and all that it wrote."""
    command = [sys.executable, "-m", "benchmarks", name, "--dsn", server, "--rounds", "1", "--results", str(folder)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert (folder / f"{name}.svg").exists()
    written = json.loads((folder / f"{name}.json").read_text())
    return {(series["variant"], series["figure"]): series["values"] for series in written["series"]}, written


@pytest.mark.long
def test_workers_added_to_a_database_and_idle_ones(server: str, tmp_path: Path) -> None:
    found, written = measured(
        server, tmp_path, "scale", "--workers", "1", "2", "--tasks", "200", "--seconds", "0.2", "--idle", "2",
        "--idle-seconds", "1",
    )  # fmt: skip

    kinds = ("no-op, reused children", "no-op, a process per task", "tasks that wait")
    assert all(found["2 workers", kind][0] > 0 for kind in kinds)
    assert all(found["2 workers", f"{kind}: connections"] == [2.0] for kind in kinds)
    assert {(ratio["figure"], ratio["of"]) for ratio in written["ratios"]} == {(kind, "2 workers") for kind in kinds}
    assert found["2 idle workers", "connections"] == [2.0]
    assert found["2 idle workers", "PSS"] < found["2 idle workers", "RSS"]
    assert ("2 idle workers", "Postgres") in found


def test_clients_that_enqueue_beside_workers(server: str, tmp_path: Path) -> None:
    found, written = measured(
        server, tmp_path, "enqueue", "--tasks", "50", "--bulk", "50", "--clients", "2", "--seconds", "0.2"
    )

    figure = "clients, one each commit"
    notified = {variant: found[variant, of][0] for variant, of in found if of == f"{figure}: notifications"}
    assert notified["nobody to notify"] == notified["a worker that nobody notifies"] == 0
    assert notified["four workers that nobody notifies"] == 0
    assert 0 < notified["a worker"] <= 1.1
    assert 0.9 < notified["every commit notifies"] <= 1.1
    compared = {(ratio["of"], ratio["to"]) for ratio in written["ratios"] if ratio["figure"] == figure}
    assert ("a worker", "a worker that nobody notifies") in compared


@pytest.mark.long
def test_sizes_of_a_steady_queue(server: str, tmp_path: Path) -> None:
    found, written = measured(
        server, tmp_path, "bloat", "--rate", "100", "--seconds", "4", "--keep", "1", "--every", "1"
    )

    assert found["table", "size at the end"][0] > 0
    assert found["table, written anew", "size at the end"][0] > 0
    assert found["after 2 s", "rows"][0] > 0
    assert ("after 1 s", "indexes, to its live size") in found
    assert "table and indexes" in {ratio["of"] for ratio in written["ratios"]}
