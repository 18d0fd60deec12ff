"""An adapter or plugin whose package is not installed says which extra to install, and nothing else breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {
    "django": "from pq_adapters.django import pq",
    "fastapi": "import pq_adapters.fastapi",
    "opentelemetry": "import pq_hooks.opentelemetry",
    "sentry_sdk": "import pq_hooks.sentry",
    "sqlalchemy": "import pq_adapters.sqlalchemy",
}
EXTRAS = {"sentry_sdk": "sentry"}


def run(module: str, code: str) -> subprocess.CompletedProcess[str]:
    # None in sys.modules is what makes an import fail as if the package were not there.
    absent = f"import sys; sys.modules[{module!r}] = None; "
    return subprocess.run([sys.executable, "-c", absent + code], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("module", PARTS)
def test_missing_package_is_an_import_error_that_names_the_extra(module: str) -> None:
    done = run(module, PARTS[module])

    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last.startswith("ImportError: ")
    assert f'pip install "pq-toolkit[{EXTRAS.get(module, module)}]"' in last.replace("'", '"')


@pytest.mark.parametrize("module", PARTS)
def test_core_does_without(module: str) -> None:
    done = run(module, "from pq_core import PQ; import pq_adapters, pq_hooks.logging; pq = PQ('dbname=x'); print(pq)")

    assert (done.stdout, done.stderr) == ("<PQ schema='public'>\n", "")
