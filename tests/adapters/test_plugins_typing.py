"""Type checkers understand the plugins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ROOT / "tests" / "typing" / "plugins_code.py"


@pytest.mark.timeout(300)
def test_mypy_strict_passes_on_code_with_plugins() -> None:
    for needed in ("mypy", "opentelemetry.trace", "sentry_sdk"):
        pytest.importorskip(needed)

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-error-summary", str(CODE)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 0, done.stdout + done.stderr
