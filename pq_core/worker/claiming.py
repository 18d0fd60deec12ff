"""Parameters and reports: what goes over the wire to Postgres each turn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import sql

from pq_core.worker.connection import Query

REPORT_BYTES = 8 * 2**20
"""Bytes of one report at most, unless a single end is larger."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Statements:
    """The worker's statements for one schema."""

    schema: str

    def __getitem__(self, name: str) -> Query:
        return _statement(self.schema, name)


@cache
def _statement(schema: str, name: str) -> Query:
    text = files("pq_core").joinpath("sql", "worker", f"{name}.sql").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    composed = sql.SQL("\n".join(lines)).format(schema=sql.Identifier(schema))
    return Query(f"pq_{name}", composed.as_string(None).rstrip().rstrip(";"))


def text_array(items: Iterable[str]) -> bytes:
    """Return a Postgres array literal of texts."""
    quoted = ('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items)
    return ("{" + ",".join(quoted) + "}").encode()


def integer(value: int) -> bytes:
    """Return the text form of an integer parameter."""
    return b"%d" % value


def number(value: float) -> bytes:
    """Return the text form of a floating point parameter."""
    return repr(float(value)).encode()


def storable(text: str | None, limit: int = 256 * 1024) -> str | None:
    """Return text that Postgres takes: NUL and lone surrogates replaced, cut to ``limit`` characters."""
    if text is None:
        return None
    return _UNSTORABLE.sub("\ufffd", text[:limit])


def one_line(name: str) -> str:
    """Return a name as a log may hold it: whoever writes a row must not write lines of it."""
    return name if name.isprintable() and len(name) <= 255 else ascii(name[:255])


def encode_report(ends: Sequence[dict[str, Any]]) -> bytes:
    """Return the jsonb text of a report."""
    return json.dumps(ends, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def take_batch(ends: Sequence[dict[str, Any]], *, most: int = 500) -> list[dict[str, Any]]:
    """Return as many of the first ``ends`` as fit into one report; at least one."""
    batch: list[dict[str, Any]] = []
    size = 0
    for end in ends[:most]:
        result = end.get("result")
        size += 512 if result is None else 512 + len(json.dumps(result))
        size += len(end.get("error") or "") + len(end.get("output") or "")
        if batch and size > REPORT_BYTES:
            break
        batch.append(end)
    return batch
