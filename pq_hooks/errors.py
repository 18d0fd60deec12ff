"""The base of all errors of pq and the one that plugins meet: a leaf, so that every layer can name them."""

from __future__ import annotations


class PQError(Exception):
    """The base of every error of pq."""


class PluginError(PQError):
    """Raised when a plugin is registered that names an unknown hook or argument, or can't be loaded."""
