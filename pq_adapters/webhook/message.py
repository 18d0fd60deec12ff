"""What is sent, and where: checked before anything is, with secrets filled in where they belong."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from pq_adapters.webhook.options import WebhookOptions, ascii_host
from pq_adapters.webhook.refusals import WebhookFailed, WebhookRefused
from pq_adapters.webhook.signing import signature_headers
from pq_core.version import __version__

if TYPE_CHECKING:
    import httpx

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
LONGEST_TIMEOUT = 300.0
MOST_REDIRECTS = 10
SENSITIVE = re.compile("authorization|cookie|token|secret|password|api-?key|x-auth", re.IGNORECASE)
"""Headers whose values are secrets: only by reference, or the row would hold them."""
OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "idempotency-key"})
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_USER_IN_URL = "url: a user name or password in it would be stored: give a header that names a secret"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is to be sent. ``key``: the idempotency key. ``timeout``: seconds for all of it."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    secret: str | None = None
    timeout: float = 30.0
    redirects: int = 0
    key: str = ""

    def check(self) -> None:
        """Raise WebhookRefused for what makes no sense."""
        if self.method not in METHODS:
            raise WebhookRefused(f"method={self.method!r}: give one of {', '.join(METHODS)}")
        if not 0 < self.timeout <= LONGEST_TIMEOUT:
            raise WebhookRefused(f"timeout={self.timeout!r}: give seconds up to {LONGEST_TIMEOUT:g}")
        if not 0 <= self.redirects <= MOST_REDIRECTS:
            raise WebhookRefused(f"redirects={self.redirects!r}: give a number up to {MOST_REDIRECTS}")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in OURS:
                raise WebhookRefused(f"headers: {name!r} can't be given")
            if re.search(r"[\r\n\0]", value):
                raise WebhookRefused(f"headers: the value of {name} holds a line break")
            if SENSITIVE.search(name) and not _REFERENCE.search(value):
                raise WebhookRefused(
                    f"headers: {name} would be stored in plain sight: name a secret, as in "
                    f'{{"{name}": "${{api_token}}"}}, and give it to the worker as PQ_WEBHOOK_SECRET_API_TOKEN'
                )


@dataclass(frozen=True, slots=True)
class Target:
    """Where one hop goes: ``url`` with secrets in it, and the parts that the checks are about."""

    url: httpx.URL
    scheme: str
    host: str
    port: int

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


@dataclass(slots=True)
class Vault:
    """Hands secrets out, and remembers them, so that no text that is stored holds one."""

    options: WebhookOptions
    known: list[str] = field(default_factory=list)

    def get(self, name: str, target: tuple[str, str, int]) -> str:
        value = self.options.secret(name, *target)
        self.known += [value, *value.split(), quote(value, safe="")]
        return value

    def redact(self, text: str) -> str:
        for value in sorted(set(self.known), key=len, reverse=True):
            text = text.replace(value, "[secret]")
        return text


def encoded(body: Any) -> bytes:
    if body is None:
        return b""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise WebhookRefused(f"json: {error}: give what JSON knows") from error


def check_url(template: str) -> None:
    """Raise WebhookRefused for what leads nowhere, or holds a secret in plain sight. References stay as they are."""
    try:
        parts = urlsplit(_start(template))
        nowhere = not parts.hostname or parts.port == 0
    except ValueError as error:
        raise WebhookRefused(f"url={template[:200]!r}: {error}") from error
    if "@" in parts.netloc:
        raise WebhookRefused(_USER_IN_URL)
    if nowhere:
        raise WebhookRefused("url: it names no host")


def _start(template: str) -> str:
    """Return what comes before a URL's path."""
    start = re.match(r"https?://[^/?#]*", template, re.IGNORECASE)
    if start is None or "\\" in template or not template.isprintable():
        raise WebhookRefused(f"url={template[:200]!r}: give one that begins with https:// or http://")
    if "${" in start[0]:
        raise WebhookRefused("url: a secret can't be part of its host")
    return start[0]


def target_of(template: str, vault: Vault) -> Target:
    """Return where a URL leads, with its references to secrets filled in; those must come after the host."""
    from httpx import URL, InvalidURL

    start = _start(template)
    try:
        origin = _origin(URL(start))
        rest = _REFERENCE.sub(lambda found: quote(vault.get(found[1], origin), safe=""), template[len(start) :])
        return Target(URL(start + rest).copy_with(fragment=None), *origin)
    except (InvalidURL, ValueError, UnicodeError) as error:
        raise WebhookRefused(f"url={template[:200]!r}: {error}") from error


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    if url.scheme not in ("http", "https"):
        raise WebhookRefused(f"{url.scheme}: is not called, only http: and https:")
    if url.userinfo:
        raise WebhookRefused(_USER_IN_URL)
    host = ascii_host(url.raw_host.decode("ascii"))
    if not host:
        raise WebhookRefused("url: it names no host")
    return url.scheme, host, url.port or (443 if url.scheme == "https" else 80)


def redirected(target: Target, location: str) -> Target:
    from httpx import InvalidURL

    try:
        url = target.url.join(location)
        origin = _origin(url)
    except (InvalidURL, ValueError, UnicodeError) as error:
        raise WebhookFailed(f"redirected to what is no URL: {location[:200]!r}: {error}") from error
    if target.scheme == "https" and origin[0] == "http":
        raise WebhookRefused(f"redirected from https: to http: ({origin[1]})")
    return Target(url.copy_with(fragment=None), *origin)


def headers_for(message: Message, target: Target, content: bytes, vault: Vault, *, same_origin: bool) -> dict[str, str]:
    """Return the headers for one hop: at another origin than the first one's, none that holds a secret."""
    headers = {
        "user-agent": f"pq-toolkit/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",  # what is kept of the answer is then text, and small stays small
        "idempotency-key": message.key,
    }
    if content:
        headers["content-type"] = "application/json"
    for name, value in message.headers.items():
        if _REFERENCE.search(value):
            if not same_origin:
                continue
            value = _REFERENCE.sub(lambda found: vault.get(found[1], target.origin), value)
            if re.search(r"[\r\n\0]", value):
                raise WebhookRefused(f"headers: the secret in {name} holds a line break")
        headers[name.lower()] = value
    if message.secret is not None and same_origin:
        key = vault.get(message.secret, target.origin)
        headers |= signature_headers(key, id=message.key, timestamp=int(time.time()), body=content)
    return headers
