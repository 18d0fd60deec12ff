"""The dashboard and its API: ``create_app(pq)`` is an ASGI application, alone or mounted in one of yours."""

from __future__ import annotations

try:
    import itsdangerous as _itsdangerous  # noqa: F401
    import jinja2 as _jinja2  # noqa: F401
    import prometheus_client as _prometheus_client  # noqa: F401
    import python_multipart as _python_multipart  # noqa: F401
    import starlette as _starlette  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the dashboard needs {error.name}, which is not installed: pip install 'pq-toolkit[dashboard]'"
    ) from error

from pq_adapters.dashboard.access import Principal, Role
from pq_adapters.dashboard.app import Dashboard, create_app

__all__ = ["Dashboard", "Principal", "Role", "create_app"]
