"""Tests that need an optional package say so, and in which environment its absence is in order.

The tests of the core run in an environment without any (``make test-core``), which PQ_TEST_ENVIRONMENT names. In every
other environment a missing package is a failure, so that nothing is skipped there unnoticed.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

OPTIONAL = (
    *("asyncpg", "cryptography", "django", "fastapi", "greenlet", "httpx", "jinja2", "mypy", "numpy", "opentelemetry"),
    *("prometheus_client", "psycopg2", "psycopg_pool", "pydantic", "pyright", "sentry_sdk", "sqlmodel", "starlette"),
    *("structlog", "uvicorn"),
)
"""What an environment of the core has nothing of."""
LEAN = os.environ.get("PQ_TEST_ENVIRONMENT") in ("core", "lowest")


def has(module: str) -> bool:
    """Return whether the module can be imported here."""
    return find_spec(module) is not None


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skip in an environment of the core what needs these modules."""
    missing = [module for module in modules if not has(module)]
    return pytest.mark.skipif(LEAN and bool(missing), reason=f"needs {', '.join(missing)}, not in this environment")
