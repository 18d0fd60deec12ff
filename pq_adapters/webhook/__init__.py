"""The task ``pq.webhook``: call a URL, now or on a schedule, without writing code.

``PQ(tasks=["pq_adapters.webhook"])`` takes what the operator allows from the environment; ``pq.include(webhooks(…))``
takes it from code. Neither loads httpx: that happens in the child that calls. Needs pq-toolkit[webhook].
"""

from __future__ import annotations

from typing import Any

from pq_adapters.webhook.options import Secret, WebhookOptions
from pq_adapters.webhook.refusals import WebhookFailed, WebhookRefused, WebhookUnavailable
from pq_core.task_groups import TaskGroup
from pq_core.types import Backoff

__all__ = ["Secret", "WebhookFailed", "WebhookOptions", "WebhookRefused", "WebhookUnavailable", "tasks", "webhooks"]

NAME = "pq.webhook"
LONGEST_RUN = 330.0
"""Seconds after which the worker ends a call whatever it does: a server may send one byte after the other for ever."""


def webhooks(options: WebhookOptions | None = None, *, queue: str | None = None) -> TaskGroup:
    """Return a group with the task ``pq.webhook`` for ``pq.include(…)``.

    ``options``: what the operator allows; without them ``PQ_WEBHOOK_…`` variables are read at each call.
    """
    group = TaskGroup(queue=queue)

    @group.task(
        name=NAME,
        max_attempts=8,
        backoff=Backoff(base=5, factor=3, max=3600),
        timeout=LONGEST_RUN,
        no_retry_on=(WebhookRefused, WebhookFailed),
    )
    def webhook(
        url: str,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        json: Any = None,
        secret: str | None = None,
        timeout: float = 30.0,
        redirects: int = 0,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Call ``url`` and return the status and the start of the answer.

        ``json``: the body. ``secret``: the name of the secret that signs it. ``${name}`` in a header's value, or in
        the URL after its host, stands for a secret. ``timeout``: seconds. ``redirects``: how many are followed.
        ``idempotency_key``: by default one of the task's own, the same at each try.
        """
        from pq_adapters.webhook.message import Message
        from pq_adapters.webhook.sending import send
        from pq_core.attempt import current_attempt

        allowed = options if options is not None else WebhookOptions.from_environment()
        message = Message(
            url=url,
            method=method,
            headers=headers or {},
            body=json,
            secret=secret,
            timeout=timeout,
            redirects=redirects,
            key=idempotency_key or stable_key(current_attempt().task),
        )
        return send(message, allowed)

    return group


def check(
    url: str,
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    json: Any = None,
    secret: str | None = None,
    timeout: float = 30.0,
    redirects: int = 0,
    idempotency_key: str | None = None,
) -> None:
    """Raise WebhookRefused for arguments that are refused whatever the operator allows; for forms, before storing them.

    The arguments are those of the task.
    """
    from pq_adapters.webhook.message import Message, check_url, encoded

    Message(url=url, method=method, headers=headers or {}, timeout=timeout, redirects=redirects).check()
    check_url(url)
    encoded(json)


def stable_key(task: Any) -> str:
    """Return what names this version of the task, at every try and in every database: not its id alone."""
    import uuid

    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pq:{task.id}:{task.created_at.isoformat()}"))


tasks = webhooks()
