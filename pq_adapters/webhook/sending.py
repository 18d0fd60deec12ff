"""One call: checked, sent to the address that was checked, its answer judged. Runs in a child, which loads httpx."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pq_adapters.webhook.addresses import resolve
from pq_adapters.webhook.answers import REDIRECTS, Answer, judged
from pq_adapters.webhook.message import Message, Target, Vault, encoded, headers_for, redirected, target_of
from pq_adapters.webhook.options import WebhookOptions
from pq_adapters.webhook.refusals import WebhookRefused, WebhookUnavailable

if TYPE_CHECKING:
    import httpx


def send(message: Message, options: WebhookOptions) -> dict[str, Any]:
    """Make the call and return ``status``, ``body`` (its start), ``truncated``, ``type`` and ``seconds``.

    Raises WebhookRefused and WebhookFailed for what stays wrong, WebhookUnavailable and Retry for what may pass.
    """
    try:
        import httpx
    except ImportError as error:
        raise WebhookRefused("the task pq.webhook needs httpx: pip install 'pq-toolkit[webhook]'") from error
    message.check()
    content = encoded(message.body)
    vault = Vault(options)
    began = time.monotonic()
    target = target_of(message.url, vault)
    first, method = target, message.method
    context = ssl.create_default_context()
    if options.ca_file:
        context.load_verify_locations(options.ca_file)
    # No connection is used twice: it goes by address, and was checked for another name's certificate.
    limits = httpx.Limits(max_keepalive_connections=0)
    transport = httpx.HTTPTransport(verify=context, trust_env=False, limits=limits)
    # No proxy of the environment: it would look the name up again, and connect to what it finds.
    with _quiet(), httpx.Client(transport=transport, trust_env=False, follow_redirects=False) as client:
        for hop in range(message.redirects + 1):
            headers = headers_for(message, target, content, vault, same_origin=target.origin == first.origin)
            left = message.timeout - (time.monotonic() - began)
            try:
                answer = _exchange(
                    client, method, target, headers, content, options, until=time.monotonic() + left, vault=vault
                )
            except httpx.InvalidURL as error:
                raise WebhookRefused(vault.redact(f"{error}")) from None
            if answer.status not in REDIRECTS or not answer.location or hop == message.redirects:
                break
            if answer.status == 303 and method != "HEAD":
                method, content = "GET", b""
            elif answer.status in (301, 302) and method not in ("GET", "HEAD"):
                break  # clients disagree on what becomes of the body: nothing is guessed
            target = redirected(target, answer.location)
    return judged(answer, vault, seconds=time.monotonic() - began)


def _exchange(
    client: httpx.Client,
    method: str,
    target: Target,
    headers: Mapping[str, str],
    content: bytes,
    options: WebhookOptions,
    *,
    until: float,
    vault: Vault,
) -> Answer:
    """Send one request, to the first address of the host that takes the connection."""
    import httpx

    options.check_host(*target.origin)
    addresses = resolve(target.host, target.port, options.ranges())
    for last, address in ((address == addresses[-1], address) for address in addresses):
        # The address that was checked, while the certificate and the Host header are the name's.
        request = client.build_request(
            method,
            target.url.copy_with(host=address),
            headers={**headers, "host": target.url.netloc.decode("ascii")},
            content=content or None,
            timeout=max(0.05, until - time.monotonic()),
            extensions={"sni_hostname": target.host},
        )
        try:
            response = client.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if last or time.monotonic() >= until:
                raise WebhookUnavailable(vault.redact(f"{target.host} ({address}): {_words(error)}")) from None
            continue
        except httpx.LocalProtocolError as error:
            raise WebhookRefused(vault.redact(f"this can't be sent: {_words(error)}")) from None
        except httpx.HTTPError as error:
            raise WebhookUnavailable(vault.redact(f"{target.host}: {_words(error)}")) from None
        try:
            return _read(response, target, options.answer_limit, until=until)
        except httpx.HTTPError as error:
            raise WebhookUnavailable(vault.redact(f"{target.host}: in the answer: {_words(error)}")) from None
        finally:
            response.close()
    raise WebhookUnavailable(f"{target.host} has no address")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _read(response: httpx.Response, target: Target, limit: int, *, until: float) -> Answer:
    """Read the start of the answer and leave the rest."""
    kept = bytearray()
    truncated = False
    for chunk in response.iter_raw():
        kept += chunk
        if len(kept) > limit or time.monotonic() > until:
            truncated = True
            break
    body = bytes(kept[:limit]).decode("utf-8", "replace").replace("\0", "\ufffd")
    return Answer(response.status_code, response.headers, body, truncated, str(target.url))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep httpx from logging the URL, which may hold a secret."""
    logger = logging.getLogger("httpx")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
