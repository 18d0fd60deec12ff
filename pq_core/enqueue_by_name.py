"""A call of a task by its name, with arguments in JSON: what comes from outside, checked before it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pq_core import payload
from pq_core.errors import PayloadDecodeError

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.tasks import Call


def call_by_name(pq: PQ, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call[Any]:
    """Return the call that a name and arguments in JSON mean here, the arguments refined by the task's signature.

    Text becomes dates, UUIDs and so on where the signature says so. Raises UnknownTask, InvalidTask for arguments that
    the function does not take, PayloadDecodeError for values that are not of the type it wants.
    """
    task = pq.registry.resolve(name)
    try:
        read = payload.decode({"args": list(args), "kwargs": dict(kwargs)}, signature=task.typed_signature)
    except PayloadDecodeError as error:
        raise PayloadDecodeError(f"{name}: {error}") from error
    return task.call(*read[0], **read[1])
