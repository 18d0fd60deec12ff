"""How a call can go wrong: for good, or for now."""

from __future__ import annotations


class WebhookRefused(Exception):
    """Raised before anything is sent: the operator does not allow it, or the call makes no sense. Not tried again."""


class WebhookFailed(Exception):
    """Raised when the server says that the call is wrong (4xx, an unfollowed redirect). Not tried again."""


class WebhookUnavailable(Exception):
    """Raised when nobody answers, or the server says that it can't now (5xx). Tried again."""
