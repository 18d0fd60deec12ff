"""The pages: HTML for people."""

from __future__ import annotations

from starlette.routing import BaseRoute


def routes() -> list[BaseRoute]:
    """Return the routes of all pages, each made by ``routes.route``."""
    return []
