"""What some of the server's error codes mean for the connection on which they came. Loads nothing."""

from __future__ import annotations

READ_ONLY = "25006"
"""The server takes no writes: it was demoted, or set so. Sessions that were open stay open, and are of no use."""

NO_PRIVILEGE = "42501"
"""The role may not do this: until somebody grants it."""
ALREADY_PREPARED = "42P05"
"""Another has prepared a statement under this name: the trouble of a pooler's session, not of what is sent."""


def ends_connection(sqlstate: str | None) -> bool:
    """Tell whether a connection on which a statement met this error is of no use for another one.

    08: connections and poolers; 57P0: the server goes down, the session was ended, the database was dropped.
    """
    return sqlstate is not None and (sqlstate == READ_ONLY or sqlstate.startswith(("08", "57P0")))


def sqlstate_of(error: BaseException) -> str | None:
    """Return the code of a driver's error, also below what wraps it: SQLAlchemy's ``orig``, another's ``__cause__``."""
    seen: BaseException | None = error
    for _ in range(4):
        if seen is None:
            return None
        for attribute in ("sqlstate", "pgcode"):
            if isinstance(state := getattr(seen, attribute, None), str):
                return state
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None
