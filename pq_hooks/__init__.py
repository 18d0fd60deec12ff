"""The hooks of pq: what a plugin may implement, and plugins that are ready to use.

A plugin is any object, class or module with functions named as the hooks of ``pq_hooks.specs``; ``hookimpl`` is
needed only to order them (``tryfirst``, ``trylast``) or to give the function another name (``specname``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_hooks.errors import PluginError
    from pq_hooks.specs import hookimpl

__all__ = ["PluginError", "hookimpl"]


def __getattr__(name: str) -> Any:
    if name == "hookimpl":
        from pq_hooks.specs import hookimpl

        return hookimpl
    if name == "PluginError":
        from pq_hooks.errors import PluginError

        return PluginError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
