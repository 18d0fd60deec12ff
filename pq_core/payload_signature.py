"""Task signatures, prepared once: how arguments are called in messages and what refines them."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pq_core.payload_refining import Refiner, refiner_of
from pq_core.payload_scalars import Kinds, kinds_of

Signed = inspect.Signature | Callable[..., Any]


class Plan:
    """The names and refiners of a signature's parameters, and the scalars that they take.

    ``trivial``: nothing is refined. ``free``: nothing is checked, either.
    """

    __slots__ = (
        "by_name", "extra", "extra_kinds", "extra_name", "free", "kinds", "kinds_by_name", "names", "positional",
        "rest", "rest_kinds", "source", "trivial",
    )  # fmt: skip

    def __init__(self, source: Signed) -> None:
        self.source = source
        self.names: list[str] = []
        self.positional: list[Refiner | None] = []
        self.by_name: dict[str, Refiner | None] = {}
        self.rest: Refiner | None = None
        self.extra: Refiner | None = None
        self.extra_name = "args"
        self.kinds: list[Kinds | None] = []
        self.kinds_by_name: dict[str, Kinds | None] = {}
        self.rest_kinds: Kinds | None = None
        self.extra_kinds: Kinds | None = None
        signature = source if isinstance(source, inspect.Signature) else signature_of(source)
        for name, parameter in signature.parameters.items():
            refine = None if isinstance(parameter.annotation, str) else refiner_of(parameter.annotation)
            kinds = kinds_of(parameter)
            match parameter.kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    self.rest, self.rest_kinds, self.extra_name = refine, kinds, name
                case inspect.Parameter.VAR_KEYWORD:
                    self.extra, self.extra_kinds = refine, kinds
                case kind:
                    if kind is not inspect.Parameter.KEYWORD_ONLY:
                        self.names.append(name)
                        self.positional.append(refine)
                        self.kinds.append(kinds)
                    if kind is not inspect.Parameter.POSITIONAL_ONLY:
                        self.by_name[name] = refine
                        self.kinds_by_name[name] = kinds
        self.trivial = not any((*self.positional, *self.by_name.values(), self.rest, self.extra))
        kinds_said = (*self.kinds, *self.kinds_by_name.values(), self.rest_kinds, self.extra_kinds)
        self.free = self.trivial and not any(kinds_said)

    def of_position(self, index: int) -> Refiner | None:
        """Return the refiner of the positional argument."""
        return self.positional[index] if index < len(self.positional) else self.rest

    def of_name(self, name: str) -> Refiner | None:
        """Return the refiner of the keyword argument."""
        return self.by_name.get(name, self.extra)

    def kinds_of_position(self, index: int) -> Kinds | None:
        """Return the scalars that the positional argument may be; None if its annotation says nothing of that."""
        return self.kinds[index] if index < len(self.kinds) else self.rest_kinds

    def kinds_of_name(self, name: str) -> Kinds | None:
        """Return the scalars that the keyword argument may be; None if its annotation says nothing of that."""
        return self.kinds_by_name.get(name, self.extra_kinds)

    def suits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Tell whether each argument is of the scalars that its annotation says, if it says any."""
        rest = self.rest_kinds
        if rest is not None and not all(isinstance(value, rest) for value in args[len(self.kinds) :]):
            return False
        for value, kinds in zip(args, self.kinds, strict=False):
            if kinds is not None and not isinstance(value, kinds):
                return False
        for name, value in kwargs.items():
            kinds = self.kinds_of_name(name)
            if kinds is not None and not isinstance(value, kinds):
                return False
        return True

    def name_of(self, index: int) -> str:
        """Return what the positional argument is called in a message."""
        if index < len(self.names):
            return self.names[index]
        return f"{self.extra_name}[{index - len(self.names)}]"


_NO_SIGNATURE = Plan(inspect.Signature())
_plans: dict[int, Plan] = {}


def plan_of(source: Signed | None) -> Plan:
    """Return the plan of a signature or a function, made at its first use."""
    if source is None:
        return _NO_SIGNATURE
    plan = _plans.get(id(source))
    if plan is None or plan.source is not source:
        if len(_plans) >= 4096:
            _plans.clear()
        plan = _plans[id(source)] = Plan(source)  # holds the source, so that its id stays its own
    return plan


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with annotations evaluated, each by itself: one that fails is as good as none.

    Names imported under ``TYPE_CHECKING`` only do not exist when a task runs.
    """
    inner = inspect.unwrap(function)
    if sys.version_info >= (3, 14):
        import annotationlib

        signature = inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    else:
        signature = inspect.signature(function)
    scope = getattr(inner, "__globals__", {})
    parameters = []
    for name, parameter in signature.parameters.items():
        hint = parameter.annotation
        if isinstance(hint, str):
            holder = types.SimpleNamespace(__annotations__={name: hint})
            try:
                hint = typing.get_type_hints(holder, globalns=scope, include_extras=True)[name]
            except Exception:
                hint = inspect.Parameter.empty
        parameters.append(parameter.replace(annotation=hint))
    return signature.replace(parameters=parameters)
