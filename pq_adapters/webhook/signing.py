"""Signatures as the Standard Webhooks specification has them: HMAC-SHA256 of id, time and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from pq_adapters.webhook.refusals import WebhookRefused

PREFIX = "whsec_"
"""Before secrets that are Base64 of the key; any other is the key as it is."""


def signature_headers(secret: str, *, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that let the receiver check who sent ``body`` and when.

    ``secret`` may hold several with spaces between them, for the time in which one is replaced: each signs.
    """
    signed = f"{id}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(key_of(one), signed, hashlib.sha256).digest()).decode()
        for one in secret.split()
    ]
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}


def key_of(secret: str) -> bytes:
    """Return the key's bytes."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise WebhookRefused(f"a secret that begins with {PREFIX} must be Base64 after it") from None
