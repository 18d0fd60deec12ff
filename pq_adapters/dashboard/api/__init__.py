"""The JSON API below /api/v1."""

from __future__ import annotations

from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """Return the routes of the API, each made by ``routes.route``."""
    return []
