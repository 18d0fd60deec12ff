"""Arguments and results <-> JSON that people can read in SQL.

The rule: an argument arrives equal and of the same type, or enqueue refuses it by name. Strings, numbers, booleans,
None, lists and dicts with string keys are stored as they are; dicts come back equal but in jsonb's order. Types that
JSON lacks carry a tag, ``{"$pq": "UUID", "value": "…"}``. JSON without tags, as others write it, is accepted and
refined by the task's signature. So that this never touches what we wrote ourselves, a value that its parameter's
annotation would convert (a string for a ``datetime``) is stored under the tag ``plain``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from pq_core.errors import PayloadDecodeError, PayloadError, PayloadTooLarge
from pq_core.payload_conversions import interchangeable
from pq_core.payload_decoding import TAG, TAGS, Decoder, Malformed
from pq_core.payload_encoding import Encoder, Refused, are_plain
from pq_core.payload_refining import Refiner
from pq_core.payload_scalars import check_kind
from pq_core.payload_signature import plan_of, signature_of

if TYPE_CHECKING:
    from pq_core.payload_signature import Signed
    from pq_core.types import JSON

__all__ = [
    "DEFAULT_LIMIT",
    "TAGS",
    "decode",
    "decode_result",
    "dumps",
    "encode",
    "encode_result",
    "interchangeable",
    "loads",
    "signature_of",
    "storable_text",
]

DEFAULT_LIMIT = 2**20
"""Bytes of encoded JSON that the arguments of one task may take."""

Allowed = Callable[[type[Any]], bool]

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def encode(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    signature: Signed | None = None,
    limit: int = DEFAULT_LIMIT,
    what: str = "task",
) -> dict[str, JSON]:
    """Return ``{"args": [...], "kwargs": {...}}`` of plain JSON values.

    ``signature``: the task function, or its signature with evaluated annotations (``signature_of``): names
    arguments in errors, tells what its annotations would convert, and which plain scalars they ask for. ``limit``:
    bytes of JSON. ``what``: the task's name, for errors. Raises ``PayloadError`` naming the argument and the place
    inside it, ``PayloadTooLarge`` beyond the limit.
    """
    plan = plan_of(signature)
    if plan.trivial and are_plain(args, kwargs, limit) and (plan.free or plan.suits(args, kwargs)):
        return {"args": list(args), "kwargs": dict(kwargs)}
    encoder = Encoder(limit)
    positional: list[JSON] = []
    keywords: dict[str, JSON] = {}
    name: str | None = None
    try:
        for value in args:
            encoded = encoder.value(value)
            if not plan.free:
                if (kinds := plan.kinds_of_position(len(positional))) is not None:
                    check_kind(value, encoded, kinds)
                encoded = _protected(value, encoded, plan.of_position(len(positional)))
            positional.append(encoded)
        for name, value in kwargs.items():
            if type(name) is not str:
                raise Refused(f"is a keyword of type {type(name).__name__}: use a plain str")
            encoded = encoder.value(value)
            if not plan.free:
                if (kinds := plan.kinds_of_name(name)) is not None:
                    check_kind(value, encoded, kinds)
                encoded = _protected(value, encoded, plan.of_name(name))
            keywords[encoder.text(name)] = encoded
    except Refused as refused:
        root = plan.name_of(len(positional)) if name is None else ascii(name)[1:-1]
        _refuse(refused, what, root, limit)
    payload = {"args": positional, "kwargs": keywords}
    if encoder.most > limit:
        _check_size(payload, limit, f"{what}: the arguments take", "payload_limit")
    return payload


def decode(
    payload: JSON, *, signature: Signed | None = None, allowed: Allowed | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return ``(args, kwargs)`` of a stored payload, given as JSON text or already parsed.

    ``signature``: as for ``encode``; plain JSON is refined by it. ``allowed``: says whether a class of the
    application that a tag names may be built. Raises ``PayloadDecodeError`` and nothing else.
    """
    plan = plan_of(signature)
    tags = True
    if isinstance(payload, str):
        tags = _may_have_tags(payload)
        payload = loads(payload)
    if not isinstance(payload, dict):
        raise PayloadDecodeError(f'the payload must be an object with "args" and "kwargs", not a {_json_type(payload)}')
    args, kwargs = payload.get("args"), payload.get("kwargs")
    args, kwargs = [] if args is None else args, {} if kwargs is None else kwargs
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise PayloadDecodeError('"args" must be an array and "kwargs" an object')
    if not tags and plan.trivial:
        return tuple(args), kwargs
    decoder = Decoder(allowed)
    root = ""
    try:
        positional = []
        for index, value in enumerate(args):
            root = plan.name_of(index)
            positional.append(_argument(decoder, value, plan.of_position(index)))
        keywords = {}
        for root, value in kwargs.items():
            keywords[root] = _argument(decoder, value, plan.of_name(root))
    except Malformed as malformed:
        raise _undecodable(malformed, root) from malformed.__cause__
    except RecursionError:
        raise PayloadDecodeError(f"{root[:100]} is nested too deep") from None
    return tuple(positional), keywords


def needs_no_types(payload: str, *, signature: Signed | None) -> bool:
    """Say whether ``decode`` makes plain JSON values of ``payload`` and calls nothing of the application."""
    return plan_of(signature).trivial and not _may_have_tags(payload)


def _may_have_tags(payload: str) -> bool:
    # Most payloads have none, and jsonb writes the key of a tag in one way only.
    return f'"{TAG}"' in payload or "\\u" in payload


def encode_result(value: Any, *, limit: int = DEFAULT_LIMIT, what: str = "task") -> JSON:
    """Return the JSON of one value by the same rule; raises ``PayloadError`` that says where in ``result``."""
    encoder = Encoder(limit)
    try:
        encoded = encoder.value(value)
    except Refused as refused:
        _refuse(refused, what, "result", limit)
    if encoder.most > limit:
        _check_size(encoded, limit, f"{what}: the result takes", "result_limit")
    return encoded


def decode_result(value: JSON, *, allowed: Allowed | None = None) -> Any:
    """Return what ``encode_result`` got; takes parsed JSON. Raises ``PayloadDecodeError`` and nothing else."""
    try:
        return Decoder(allowed).value(value)
    except Malformed as malformed:
        raise _undecodable(malformed, "result") from malformed.__cause__
    except RecursionError:
        raise PayloadDecodeError("result is nested too deep") from None


def dumps(value: JSON) -> str:
    """Return compact JSON text that jsonb accepts; raises ``PayloadError`` for NaN, infinity, NUL, surrogates."""
    try:
        text = _ENCODE(value)
        if not text.isascii():
            text.encode()
    except UnicodeEncodeError:
        raise PayloadError("the JSON contains a lone surrogate, which Postgres can't store") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"not storable as JSON: {error}") from error
    if "\\u0000" in text and _ESCAPED_NUL.search(text):
        raise PayloadError("the JSON contains a NUL character, which Postgres can't store")
    return text


def loads(text: str) -> JSON:
    """Return the parsed JSON; raises ``PayloadDecodeError`` and nothing else."""
    try:
        return _DECODE(text)
    except (ValueError, RecursionError) as error:
        raise PayloadDecodeError(f"not readable as JSON: {error}") from error


def storable_text(text: str) -> str:
    """Return the text with every NUL and lone surrogate replaced by U+FFFD: for tracebacks and output."""
    return _NOT_STORABLE.sub("\ufffd", text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond what a float holds")
    return value


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_DECODE = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite).decode


def _protected(value: Any, encoded: JSON, refine: Refiner | None) -> JSON:
    """Return ``encoded`` in the tag ``plain`` if reading it by the annotation would make something else of it."""
    if refine is None:
        return encoded
    try:
        untouched = refine(value) is value
    except Exception:
        untouched = False
    return encoded if untouched else {TAG: "plain", "value": encoded}


def _argument(decoder: Decoder, value: JSON, refine: Refiner | None) -> Any:
    decoded = decoder.value(value)
    if refine is None or (type(value) is dict and value.get(TAG) == "plain"):
        return decoded
    try:
        return refine(decoded)
    except (Malformed, RecursionError):
        raise
    except Exception as error:
        raise Malformed(f"does not fit its annotation: {type(error).__name__}: {str(error)[:300]}") from error


def _refuse(refused: Refused, what: str, root: str, limit: int) -> NoReturn:
    place = root + "".join(reversed(refused.path))
    if refused.too_large:
        raise PayloadTooLarge(
            f"{what}: {place} {refused.reason} for the limit of {limit} bytes: pass a reference to it"
        )
    raise PayloadError(f"{what}: {place} {refused.reason}") from refused.__cause__


def _check_size(value: JSON, limit: int, subject: str, option: str) -> None:
    size = len(dumps(value).encode())
    if size > limit:
        raise PayloadTooLarge(f"{subject} {size} bytes of JSON, over the {option} of {limit}: pass a reference instead")


def _undecodable(malformed: Malformed, root: str) -> PayloadDecodeError:
    place = storable_text(root[:100]) + "".join(reversed(malformed.path[-20:]))
    return PayloadDecodeError(f"{place} {malformed.reason}")


def _json_type(value: JSON) -> str:
    return {str: "string", list: "array", bool: "boolean", type(None): "null"}.get(type(value), "number")
