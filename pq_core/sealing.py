"""Payloads that only holders of a key can make (``pickle``) or read (``encrypted``).

What is stored stays JSON: ``{"args": [{"$pq": "pickle", "value": "…", "signature": "…"}], "kwargs": {}}``, or one
``{"$pq": "encrypted", "value": "…"}``. Both are bound to what they are for: arguments to the task's name and version,
a result to the task's id. So neither can be moved to another task; the same arguments can be enqueued again, though, by
whoever may write rows.

The keys come from ``PQ(keys=…)`` or ``PQ_KEYS``, any text of at least 32 characters each: the first one seals, all of
them open. Each is used through two keys derived from it, one that signs and one that encrypts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pq_core import payload
from pq_core.errors import InvalidOption, KeysNotConfigured, PayloadDecodeError, PayloadTooLarge
from pq_core.payload_decoding import TAG

if TYPE_CHECKING:
    from pq_core.ciphers import Purpose
    from pq_core.payload_signature import Signed
    from pq_core.types import JSON, PayloadKind

VARIABLE = "PQ_KEYS"
SHORTEST_KEY = 32
"""Characters of a key at least."""
SEALED = ("pickle", "encrypted")


def for_arguments(name: str, version: int) -> Purpose:
    """Return what the arguments of a task are bound to."""
    return ("arguments", name, version)


def for_result(task_id: int) -> Purpose:
    """Return what the result of a task is bound to."""
    return ("result", "", int(task_id))


class Seals:
    """Seals and opens payloads with the keys of one ``PQ``; reads ``PQ_KEYS`` at first use.

    ``given``: the keys, as a list or as text with commas.
    """

    __slots__ = ("_given", "_keys")

    def __init__(self, given: Iterable[str] | str | None = None) -> None:
        self._given = given if given is None or isinstance(given, str) else tuple(given)
        self._keys: tuple[bytes, ...] | None = None if given is None else _checked(self._given, "PQ(keys=…)")

    @property
    def available(self) -> bool:
        """Whether there is any key."""
        return bool(self._all())

    def arguments(
        self,
        kind: PayloadKind,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        name: str,
        version: int,
        signature: Signed | None,
        limit: int,
    ) -> dict[str, JSON]:
        """Return ``args`` and ``kwargs`` as they are stored; ``name``: the task's, which errors name as well.

        Raises ``KeysNotConfigured``, ``PayloadError``.
        """
        if kind == "json":
            return payload.encode(args, kwargs, limit=limit, what=name, signature=signature)
        self._needed(name, kind)
        value: Any = (args, dict(kwargs))
        if kind != "pickle":
            value = payload.encode(args, kwargs, limit=limit, what=name, signature=signature)
        sealed = self._sealed(kind, value, for_arguments(name, version), what=f"{name}: the arguments")
        _check_size(sealed, limit, f"{name}: the arguments take", "payload_limit")
        return {"args": [sealed], "kwargs": {}}

    def open_arguments(
        self, kind: PayloadKind, stored: str | JSON, *, name: str, version: int, signature: Signed | None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return ``(args, kwargs)`` of a stored payload, for a task that says ``payload=kind``.

        Raises ``PayloadDecodeError`` for what is not sealed as the task says, before anything of it is read;
        ``KeysNotConfigured``.
        """
        if kind == "json":
            try:
                return payload.decode(stored, signature=signature)
            except PayloadDecodeError:
                if (sealed := _sealed_arguments(stored)) is not None:
                    raise PayloadDecodeError(
                        f'the arguments are stored with payload="{sealed[TAG]}", which the task {name} does not say; '
                        "nothing of them was read"
                    ) from None
                raise
        sealed = _sealed_arguments(stored)
        if sealed is None or sealed[TAG] != kind:
            raise PayloadDecodeError(
                f'the task {name} says payload="{kind}", and its stored arguments are not: '
                "they were not written by code that has the key, and nothing of them was read"
            )
        self._needed(name, kind)
        opened = self._opened(sealed, for_arguments(name, version), what="the arguments")
        if kind == "encrypted":
            return payload.decode(opened, signature=signature)
        match opened:
            case (tuple() as args, dict() as kwargs):
                return args, kwargs
        raise PayloadDecodeError("the arguments are pickled, but not as arguments")

    def result(self, kind: PayloadKind, value: Any, *, task_id: int, name: str, limit: int) -> JSON:
        """Return a result as it is stored. Raises ``PayloadError``, ``KeysNotConfigured``."""
        if kind == "json" or value is None:
            return payload.encode_result(value, limit=limit, what=name)
        self._needed(name, kind)
        if kind != "pickle":
            value = payload.encode_result(value, limit=limit, what=name)
        sealed = self._sealed(kind, value, for_result(task_id), what=f"{name}: the result")
        _check_size(sealed, limit, f"{name}: the result takes", "result_limit")
        return sealed

    def open_result(self, stored: JSON, *, task_id: int) -> Any:
        """Return a stored result; raises ``PayloadDecodeError``, ``KeysNotConfigured``."""
        if not _is_sealed(stored):
            return payload.decode_result(stored)
        self._needed(f"task {task_id}", stored[TAG])
        opened = self._opened(stored, for_result(task_id), what="the result")
        return opened if stored[TAG] == "pickle" else payload.decode_result(opened)

    def readable(self, stored: JSON, *, name: str, version: int) -> JSON:
        """Return stored arguments as people may read them: decrypted where that works, else as they are.

        Pickled ones stay as they are: reading them would run code.
        """
        sealed = _sealed_arguments(stored)
        if sealed is None or sealed[TAG] != "encrypted":
            return stored
        return self._readable(stored, sealed, for_arguments(name, version))

    def readable_result(self, stored: JSON, *, task_id: int) -> JSON:
        """Return a stored result in the same way."""
        if not _is_sealed(stored) or stored[TAG] != "encrypted":
            return stored
        return self._readable(stored, stored, for_result(task_id))

    def digest(self, sealed: Mapping[str, JSON]) -> str:
        """Return what is the same for equal encrypted values: each encryption of one differs from the others."""
        from pq_core import ciphers

        return ciphers.digest(self._all(), sealed)

    def prepare(self, kinds: Iterable[PayloadKind]) -> None:
        """Import now what children would each import anew."""
        kinds = set(kinds)
        if kinds.isdisjoint(SEALED):
            return
        from pq_core import ciphers

        if "encrypted" in kinds and self.available:
            ciphers.fernet(self._all())

    def _readable(self, stored: JSON, sealed: Mapping[str, JSON], purpose: Purpose) -> JSON:
        try:
            return self._opened(sealed, purpose, what="it") if self.available else stored
        except (PayloadDecodeError, InvalidOption, ImportError):
            return stored  # whoever looks on has other keys, or none

    def _sealed(self, kind: PayloadKind, value: Any, purpose: Purpose, *, what: str) -> dict[str, JSON]:
        from pq_core import ciphers

        if kind == "pickle":
            return ciphers.sign(self._all(), value, purpose, what=what)
        return ciphers.encrypt(self._all(), value, purpose)

    def _opened(self, sealed: Mapping[str, JSON], purpose: Purpose, *, what: str) -> Any:
        from pq_core import ciphers

        return ciphers.open_sealed(self._all(), sealed, purpose, what=what)

    def _needed(self, name: str, kind: str) -> None:
        if not self.available:
            raise KeysNotConfigured(
                f'{name}: payload="{kind}" needs a key: set {VARIABLE} or PQ(keys=[…]), as '
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"
            )

    def _all(self) -> tuple[bytes, ...]:
        if self._keys is None:
            self._keys = _checked(os.environ.get(VARIABLE, ""), VARIABLE)
        return self._keys

    def __repr__(self) -> str:
        return "<Seals>"  # never the keys


def is_sealed(stored: JSON) -> bool:
    """Tell whether stored arguments are signed or encrypted."""
    return _sealed_arguments(stored) is not None


def _checked(given: Iterable[str] | str | None, source: str) -> tuple[bytes, ...]:
    found = given.split(",") if isinstance(given, str) else list(given or ())
    keys = []
    for number, key in enumerate(found, start=1):
        if not isinstance(key, str):
            raise InvalidOption(f"{source}: key {number} is of type {type(key).__name__}: give text")
        if not (key := key.strip()) and isinstance(given, str):
            continue
        if len(key) < SHORTEST_KEY:
            # The key itself is not said: this text ends up in logs.
            raise InvalidOption(
                f"{source}: key {number} has {len(key)} characters: give at least {SHORTEST_KEY} random ones, as "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes"
            )
        keys.append(key.encode("utf-8", "surrogatepass"))
    return tuple(keys)


def _sealed_arguments(stored: str | JSON) -> dict[str, JSON] | None:
    if isinstance(stored, str):
        try:
            stored = payload.loads(stored)
        except PayloadDecodeError:
            return None
    match stored:
        case {"args": [sealed], **others} if _is_sealed(sealed) and not others.get("kwargs"):
            return sealed  # type: ignore[no-any-return]
    return None


def _is_sealed(value: JSON) -> bool:
    return isinstance(value, dict) and value.get(TAG) in SEALED


def _check_size(sealed: Mapping[str, JSON], limit: int, subject: str, option: str) -> None:
    size = sum(len(key) + len(str(value)) + 6 for key, value in sealed.items())
    if size > limit:
        raise PayloadTooLarge(f"{subject} {size} bytes once sealed, over the {option} of {limit}: pass a reference")
