"""What a server's answer means for the task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from pq_adapters.webhook.message import Vault
from pq_adapters.webhook.refusals import WebhookFailed, WebhookUnavailable
from pq_core.errors import Retry

LONGEST_WAIT = 86400.0
"""Seconds for which a server may put us off by Retry-After."""
REDIRECTS = (301, 302, 303, 307, 308)
ERROR_EXCERPT = 500
"""Characters of the answer that an error holds."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str
    truncated: bool
    url: str

    @property
    def location(self) -> str | None:
        return self.headers.get("location")


def judged(answer: Answer, vault: Vault, *, seconds: float) -> dict[str, Any]:
    body = vault.redact(answer.body)
    words = vault.redact(f"{answer.status} from {answer.url}")
    if excerpt := " ".join(body[:ERROR_EXCERPT].split()):
        words = f"{words}: {excerpt}"
    status = answer.status
    if status == 429 or status >= 500:
        after = retry_after(answer.headers) if status in (429, 503) else None
        raise WebhookUnavailable(words) if after is None else Retry(words, after=after)
    if status in REDIRECTS and answer.location:
        raise WebhookFailed(vault.redact(f"{words} redirects to {answer.location[:200]}: give that, or redirects=1"))
    if status >= 300:
        raise WebhookFailed(words)
    return {
        "status": status,
        "body": body,
        "truncated": answer.truncated,
        "type": answer.headers.get("content-type"),
        "seconds": round(seconds, 3),
    }


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds for which the server wants to be left alone, a day at most; None if it says nothing clear.

    A date is read by the server's own clock, where its answer has one.
    """
    said = (headers.get("retry-after") or "").strip()
    if said.isascii() and said.isdigit():
        return min(float(said[:12]), LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return None
    now = time.time()
    with contextlib.suppress(TypeError, ValueError):
        now = parsedate_to_datetime(headers.get("date") or "").timestamp()
    return min(max(until.timestamp() - now, 0.0), LONGEST_WAIT)
