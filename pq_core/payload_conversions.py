"""Types of libraries that are stored as the type that they stand for: a leaf; loads none of these libraries.

A driver's own UUID, a template library's safe string: a subclass that says it is interchangeable with its base, and is
equal to it. It is stored as the base, and arrives as that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _uuid(value: Any) -> Any:
    from uuid import UUID  # loaded by whoever made such a value

    return UUID(int=value.int)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "asyncpg.pgproto.pgproto.UUID": _uuid,  # of every uuid column, also by SQLAlchemy
    "uuid6.UUID": _uuid,
    "uuid_utils.UUID": _uuid,
    "django.utils.safestring.SafeString": str.__str__,
    "django.utils.functional.lazy.<locals>.__proxy__": lambda value: str.__str__(str(value)),
    "markupsafe.Markup": str.__str__,
    "sqlalchemy.sql.elements.quoted_name": str.__str__,
    "sqlalchemy.ext.mutable.MutableDict": dict,
    "sqlalchemy.ext.mutable.MutableList": list,
    "sqlalchemy.ext.mutable.MutableSet": set,
}
"""By the full name of the class."""

HINTS = {
    "str": "str.__str__(value)",
    "int": "int.__int__(value)",
    "float": "float.__float__(value)",
    "bytes": "bytes(memoryview(value))",
    "datetime": "datetime.fromisoformat(value.isoformat())",
    "date": "date.fromisoformat(value.isoformat())",
    "timedelta": "timedelta(value.days, value.seconds, value.microseconds)",
    "UUID": "uuid.UUID(int=value.int)",
    "Decimal": "Decimal(str(value))",
}
"""What makes a value of exactly the base of a subclass; for others the base's name does."""


def full_name(kind: type[Any]) -> str:
    """Return ``module.qualname``."""
    return f"{kind.__module__}.{kind.__qualname__}"


def interchangeable(kind: type[Any] | str, convert: Callable[[Any], Any]) -> None:
    """Have values of a class stored as what ``convert`` makes of them; for all PQs of this process.

    ``kind``: the class, or its full name where its module is not to be loaded. Only the class itself, no subclass.
    What comes out must be equal to the value: each is compared when it is stored, and refused if it is not.
    """
    _CONVERSIONS[kind if isinstance(kind, str) else full_name(kind)] = convert


def conversion_of(kind: type[Any]) -> Callable[[Any], Any] | None:
    """Return what makes a storable value of one of this class, None where nothing is known."""
    return _CONVERSIONS.get(full_name(kind))
