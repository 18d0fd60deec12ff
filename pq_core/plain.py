"""Records as plain JSON values, for the command line and the dashboard's API: a leaf."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any


def plain(value: Any) -> Any:
    """Return what a record, or anything that holds records, is in JSON: times as text, durations in seconds.

    What JSON has no number for (infinity, NaN) is null.
    """
    match value:
        case enum.Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
