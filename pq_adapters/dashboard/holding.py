"""Searching what tasks were given: ``args.order=7``, ``args.0=7``, ``args.order.lines=3``, ``headers.tenant=acme``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pq_adapters.dashboard.known import known_tasks
from pq_core.errors import PayloadDecodeError
from pq_core.payload import loads

if TYPE_CHECKING:
    from pq_core.client import PQ

SEARCHED = 8000
"""Bytes that arguments may have as stored: larger ones are left out, or a page would read gigabytes."""
_FORM = re.compile(r"(args|headers)\.([^=]{1,200})=(.*)", re.DOTALL)

_PLAIN = "(t.options -> 'sensitive' IS DISTINCT FROM 'true')"
"""What must not be shown can't be searched either: an answer is a hint."""
_WANTED = "(SELECT v FROM input, jsonb_array_elements(p -> 'argument') v)"


def _is(path: str) -> str:
    """Return the condition that the value at a path is wanted, as it is or as a tag of pq's holds it."""
    value = f"(t.payload #> {path})"
    tagged = f"({value} -> '$pq' IS NOT NULL AND {value} -> 'value' IN {_WANTED})"
    return f"({value} IN {_WANTED} OR {tagged})"


_NAMED = _is("ARRAY(SELECT s FROM input, jsonb_array_elements_text(p -> 'argument_path') s)")
_PLACED = _is("ARRAY(SELECT s FROM input, jsonb_array_elements_text(p -> 'argument_places' -> t.name) s)")
CONDITIONS = {
    "argument": f"{_PLAIN} AND pg_column_size(t.payload) <= {SEARCHED} AND ({_NAMED} OR"
    f" ((SELECT p -> 'argument_places' FROM input) ? t.name AND {_PLACED}))",
    "header": f"{_PLAIN} AND t.headers ->> (SELECT p -> 'header' ->> 0 FROM input)"
    " = (SELECT p -> 'header' ->> 1 FROM input)",
}


class BadFilter(ValueError):
    """A filter holds something that can't be: the text says what."""


def parts_of(text: str) -> tuple[str, str, str]:
    """Return where to look, the name and the value. Raises BadFilter."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise BadFilter(f"holds: {text!r}: write args.order=7, args.0=7 for a place, or headers.tenant=acme")
    return found[1], found[2].strip(), found[3].strip()


def parameters_of(text: str, pq: PQ) -> dict[str, Any]:
    """Return the parameters of the condition. An argument is found by name or, in tasks known here, by its place."""
    where, name, value = parts_of(text)
    if where == "headers":
        return {"header": [name, value]}
    wanted: list[Any] = [value]
    try:
        read = loads(value)
    except PayloadDecodeError:
        pass  # no JSON: text alone
    else:
        if not isinstance(read, str) or read != value:
            wanted.append(read)
    first, *rest = name.split(".")
    place = first.isascii() and first.isdecimal()
    places = {} if place else {known: ["args", str(index), *rest] for known, index in _places(pq, first)}
    return {
        "argument": wanted,
        "argument_path": ["args" if place else "kwargs", first, *rest],
        "argument_places": places,
    }


def _places(pq: PQ, name: str) -> list[tuple[str, int]]:
    found = []
    for task in known_tasks(pq):
        names = [one.name for one in task.signature.parameters.values() if one.kind is not one.KEYWORD_ONLY]
        if name in names:
            found.append((task.name, names.index(name)))
    return found
