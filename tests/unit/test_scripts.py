"""Setting up the virtual environments on machines that lack what it takes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BARE_PYTHON = """#!/bin/sh
case "$*" in
    -V) echo Python 3.99.0 ;;
    *-c*) echo "3 99 0 $0" ;;
    *) echo "No module named pip" >&2; exit 1 ;;
esac
"""
"""Stands for Debian's python3 without python3-venv: neither ensurepip nor pip."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder of its own: the virtual environments are made beside the scripts."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/venv", "scripts/find-pythons", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(script: Path, *arguments: str, pythons: list[str | Path]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PQ_PYTHONS": ":".join(map(str, pythons))}
    return subprocess.run([script, *arguments], env=environment, capture_output=True, text=True, timeout=60)


def test_candidates_that_fail_do_not_fail_the_search() -> None:
    python = os.path.realpath(sys.executable)

    found = run(ROOT / "scripts/find-pythons", pythons=[python, "/nonexistent/python", "/zzz/python", "/bin/false"])

    assert found.returncode == 0
    assert found.stdout.startswith(f"3.{sys.version_info[1]} ")


def test_no_python_at_all_is_said(project: Path) -> None:
    done = run(project / "scripts/venv", "newest", pythons=["/bin/false"])

    assert done.returncode == 1
    assert done.stderr.startswith("no Python >= 3.11 found; install one")


def test_python_that_cannot_fill_a_virtual_environment_is_said(project: Path) -> None:
    python = project / "python"
    python.write_text(BARE_PYTHON)
    python.chmod(0o755)

    done = run(project / "scripts/venv", "newest", pythons=[python])

    assert done.returncode == 1
    assert f"{python} can't make a virtual environment: install python3-venv" in done.stderr
    assert not (project / ".venv-3.99").exists()
