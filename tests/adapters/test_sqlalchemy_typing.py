"""Code of applications with SQLAlchemy or FastAPI passes the type checkers at their strictest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = [f"tests/typing/{name}_code.py" for name in ("sqlalchemy", "fastapi")]
CHECKERS = {
    "mypy": ["mypy", "--strict", "--follow-imports=silent", "--no-error-summary", *CODE],
    "pyright": ["pyright", "--pythonpath", sys.executable, *CODE],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_application_code_passes(checker: str) -> None:
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *CHECKERS[checker]],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
