"""Keys for the dashboard and its API: how one looks, and the requests about them.

A key is ``pq_`` and 43 characters that hold 256 random bits. The database has its SHA-256 alone: enough to
know it again, and since nobody can try all keys nothing slower is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from pq_core import rows
from pq_core.errors import InvalidOption
from pq_core.filters import bigint, moment
from pq_core.payload import dumps
from pq_core.store import Request, statement

KeyRole = Literal["viewer", "operator", "admin"]
ROLES: tuple[KeyRole, ...] = ("viewer", "operator", "admin")
PREFIX = "pq_"
_SHOWN = len(PREFIX) + 6
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """One row of ``pq_keys``. ``prefix``: how the key begins, to tell it from others. Times are aware, in UTC."""

    id: int
    name: str
    role: KeyRole
    prefix: str
    created_at: datetime
    created_by: str | None = None
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made. ``key``: the key itself, which nobody can find out again."""

    id: int
    name: str
    role: KeyRole
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveKey:
    """What it takes to know a key again. ``digest``: its SHA-256."""

    id: int
    name: str
    role: KeyRole
    digest: bytes = field(repr=False)


def digest_of(key: str) -> bytes:
    """Return what the database holds of a key."""
    import hashlib  # only the dashboard has keys to look at, and every client imports their records

    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def create(
    schema: str, name: str, *, role: str, expires_at: datetime | None, created_by: str | None
) -> Request[NewKey]:
    """Plan a new key; InvalidOption for a name, a role or an end that can't be."""
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or "\x00" in name:
        raise InvalidOption(f"name={name!r}: say whose key it is, in {_LONGEST_NAME} characters at most")
    if role not in ROLES:
        raise InvalidOption(f"role={role!r}: give one of {', '.join(ROLES)}")
    import secrets

    key = PREFIX + secrets.token_urlsafe(32)
    parameters = {
        "name": name.strip(),
        "role": role,
        "prefix": key[:_SHOWN],
        "digest": digest_of(key).hex(),
        "expires_at": None if expires_at is None else moment("expires_at", expires_at),
        "created_by": created_by,
    }

    def parse(found: list[str]) -> NewKey:
        if not found:
            raise InvalidOption(f"expires_at={expires_at!r}: the database's clock has passed that; give a later time")
        return NewKey(id=int(found[0]), name=parameters["name"] or "", role=role, key=key)

    return Request(statement(schema, "key_create"), dumps(parameters), parse)


def listed(schema: str) -> Request[list[KeyRecord]]:
    """Plan the list of all keys, those that were revoked included."""
    return Request(statement(schema, "key_list"), "{}", lambda found: [_record(row) for row in found])


def revoke(schema: str, key_id: int) -> Request[bool]:
    """Plan the end of a key; False when there is none with this id that is not revoked."""
    return Request(statement(schema, "key_revoke"), dumps({"id": bigint(key_id, option="key_id")}), bool)


def active(schema: str, *, used: Sequence[int]) -> Request[list[ActiveKey]]:
    """Plan a look at the keys that are good now. ``used``: ids of those that were used since the last look."""
    return Request(
        statement(schema, "key_active"), dumps({"used": list(used)}), lambda found: [_active(row) for row in found]
    )


def ever(schema: str) -> Request[bool]:
    """Plan the question whether there has ever been a key, ended ones included."""
    return Request(statement(schema, "key_ever"), "{}", bool)


SOON = timedelta(days=7)
"""How long before its end it is said of the last admin's key that it ends."""


def warning(keys: Sequence[KeyRecord], now: datetime) -> str | None:
    """Say that nobody can make keys any more, or soon; None while somebody can, and where there never was a key."""
    admins = [key for key in keys if key.active and key.role == "admin"]
    if not keys or any(key.expires_at is None or key.expires_at > now + SOON for key in admins):
        return None
    make = "make one: pq keys create --role admin --name NAME"
    if not admins:
        return f"there is no admin key that is good: {make}"
    last = max(admins, key=lambda key: key.expires_at or now)
    return f"the last admin key, {last.name}'s, expires at {last.expires_at:%Y-%m-%d %H:%M} UTC: {make}"


def _record(row: str) -> KeyRecord:
    values: dict[str, Any] = json.loads(row)
    for name in ("created_at", "expires_at", "last_used_at", "revoked_at"):
        values[name] = rows.time(values[name])
    return KeyRecord(**values)


def _active(row: str) -> ActiveKey:
    key_id, name, role, digest = json.loads(row)
    return ActiveKey(id=key_id, name=name, role=role, digest=bytes.fromhex(digest))
