"""Values signed or encrypted with given keys, and opened again.

Loaded by who does that, not by who only could: pickle and OpenSSL's library come along.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pq_core import payload
from pq_core.errors import PayloadDecodeError, PayloadError
from pq_core.payload_decoding import TAG

if TYPE_CHECKING:
    from pq_core.types import JSON

Keys = tuple[bytes, ...]
Purpose = tuple[str, str, int]


def sign(keys: Keys, value: Any, purpose: Purpose, *, what: str) -> dict[str, JSON]:
    """Return the value pickled and signed. Raises ``PayloadError``."""
    try:
        pickled = pickle.dumps(value, protocol=5)
    except Exception as error:
        raise PayloadError(f"{what} can't be pickled: {type(error).__name__}: {error}") from error
    signature = _signature(keys[0], purpose, pickled)
    return {TAG: "pickle", "value": base64.b64encode(pickled).decode(), "signature": signature}


def encrypt(keys: Keys, value: JSON, purpose: Purpose) -> dict[str, JSON]:
    """Return the value encrypted."""
    plain = payload.dumps({"for": list(purpose), "value": value}).encode()
    return {TAG: "encrypted", "value": fernet(keys).encrypt(plain).decode()}


def open_sealed(keys: Keys, sealed: Mapping[str, JSON], purpose: Purpose, *, what: str) -> Any:
    """Return what was sealed for this purpose. Raises ``PayloadDecodeError``."""
    value = sealed.get("value")
    if not isinstance(value, str) or not value.isascii():
        raise PayloadDecodeError(f"{what}: the sealed value is not text")
    if sealed[TAG] == "encrypted":
        return _decrypted(keys, value, purpose, what=what)
    try:
        pickled = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise PayloadDecodeError(f"{what}: the pickled value is not base64") from None
    signature = sealed.get("signature")
    signature = signature if isinstance(signature, str) and signature.isascii() else ""
    # All of them are compared, so that the time tells nothing.
    fitting = [hmac.compare_digest(_signature(key, purpose, pickled), signature) for key in keys]
    if not any(fitting):
        raise PayloadDecodeError(
            f"{what}: the signature is missing or does not fit {_words(purpose)}; nothing was unpickled"
        )
    try:
        return pickle.loads(pickled)
    except Exception as error:
        raise PayloadDecodeError(f"{what} can't be unpickled here: {type(error).__name__}: {error}") from error


def digest(keys: Keys, sealed: Mapping[str, JSON]) -> str:
    """Return what is the same for equal encrypted values."""
    plain = fernet(keys).decrypt(str(sealed["value"]).encode())
    return hmac.digest(keys[0], b"pq/1 digest\0" + plain, "sha256").hex()


def fernet(keys: Keys) -> Any:
    """Return what encrypts with the first of the keys and decrypts with all. Raises ``ImportError``."""
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise ImportError('payload="encrypted" needs cryptography: pip install "pq-toolkit[crypto]"') from error
    derived = (hmac.digest(key, b"pq/1 encrypt", "sha256") for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])


def _decrypted(keys: Keys, token: str, purpose: Purpose, *, what: str) -> JSON:
    from cryptography.fernet import InvalidToken

    try:
        plain = fernet(keys).decrypt(token.encode())
    except InvalidToken:
        raise PayloadDecodeError(f"{what}: none of the keys decrypts it") from None
    found = payload.loads(plain.decode())
    if not isinstance(found, dict) or found.get("for") != list(purpose):
        raise PayloadDecodeError(f"{what}: encrypted for something else than {_words(purpose)}")
    return found.get("value")


def _signature(key: bytes, purpose: Purpose, pickled: bytes) -> str:
    derived = hmac.digest(key, b"pq/1 sign", "sha256")
    # JSON has no NUL, so that no two pairs of purpose and pickle give the same bytes.
    return hmac.new(derived, json.dumps(purpose).encode() + b"\0" + pickled, hashlib.sha256).hexdigest()


def _words(purpose: Purpose) -> str:
    what, name, number = purpose
    return f"the arguments of {name} version {number}" if what == "arguments" else f"the result of task {number}"
