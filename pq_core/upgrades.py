"""Versions of a task's arguments: what older code stored, as newer code takes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pq_core.errors import InvalidTask, UnknownTask
from pq_core.functions import describe
from pq_core.options import is_integer
from pq_core.payload import signature_of

if TYPE_CHECKING:
    from pq_core.tasks import Call

Upgrade = Callable[..., "Call[Any] | tuple[Sequence[Any], Mapping[str, Any]]"]
"""Takes the arguments of an older version; returns ``(args, kwargs)`` of the next one, or a call of the task."""
U = TypeVar("U", bound=Upgrade)


class Upgrades:
    """The upgrades of one task, by the version that each starts from; ``version``: what the task stands at."""

    def __init__(self, task: str, version: int) -> None:
        self.task = task
        self.version = version
        self._steps: dict[int, Upgrade] = {}
        self._signatures: dict[int, inspect.Signature] = {}

    def registering(self, from_version: int) -> Callable[[U], U]:
        """Return a decorator that registers the step from ``from_version``; ``InvalidTask`` if there is no such."""
        if not is_integer(from_version, 1, self.version - 1):
            raise InvalidTask(
                f"{self.task}: upgrade(from_version={from_version!r}): the task stands at version={self.version}; "
                "give a version from 1 to the one before it"
            )
        if (other := self._steps.get(from_version)) is not None:
            raise InvalidTask(f"{self.task}: version {from_version} has an upgrade already: {describe(other)}")

        def register(function: U) -> U:
            self._steps[from_version] = function
            return function

        return register

    def apply(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], version: int
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments stored by ``version`` as the task takes them; errors as of ``Task.upgraded``."""
        if version > self.version:
            raise UnknownTask(f"{self.task}: version {version} is newer than this code's version {self.version}")
        for step in self._from(version):
            upgrade = self._steps[step]
            converted = upgrade(*args, **kwargs)
            if getattr(getattr(converted, "task", None), "name", None) == self.task:
                # A call was checked against the function as it is now: nothing is left to convert.
                return tuple(converted.args), dict(converted.kwargs)  # type: ignore[union-attr]
            match converted:
                case (list() | tuple() as args, Mapping() as kwargs):
                    pass
                case _:
                    raise InvalidTask(
                        f"{self.task}: the upgrade from version {step}, {describe(upgrade)}, returned "
                        f"{converted!r}: return (args, kwargs), or a call of this task"
                    )
        return tuple(args), dict(kwargs)

    def signature_of(self, version: int) -> inspect.Signature | None:
        """Return the parameters of the first upgrade that arguments stored by ``version`` go through, if any."""
        for step in self._from(version):
            if step not in self._signatures:
                self._signatures[step] = signature_of(self._steps[step])
            return self._signatures[step]
        return None

    def prepare(self) -> None:
        """Evaluate the signatures of all upgrades."""
        for step in self._steps:
            self.signature_of(step)

    def _from(self, version: int) -> list[int]:
        return sorted(step for step in self._steps if step >= version)
