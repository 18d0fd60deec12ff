"""Task signatures, prepared once: how arguments are called in messages and what refines them."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

from pq_core.payload_refining import Refiner, refiner_of

Signed = inspect.Signature | Callable[..., Any]


class Plan:
    """The names and refiners of a signature's parameters."""

    __slots__ = ("by_name", "extra", "extra_name", "names", "positional", "rest", "source", "trivial")

    def __init__(self, source: Signed) -> None:
        self.source = source
        self.names: list[str] = []
        self.positional: list[Refiner | None] = []
        self.by_name: dict[str, Refiner | None] = {}
        self.rest: Refiner | None = None
        self.extra: Refiner | None = None
        self.extra_name = "args"
        signature = source if isinstance(source, inspect.Signature) else signature_of(source)
        for name, parameter in signature.parameters.items():
            refine = None if isinstance(parameter.annotation, str) else refiner_of(parameter.annotation)
            match parameter.kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    self.rest, self.extra_name = refine, name
                case inspect.Parameter.VAR_KEYWORD:
                    self.extra = refine
                case kind:
                    if kind is not inspect.Parameter.KEYWORD_ONLY:
                        self.names.append(name)
                        self.positional.append(refine)
                    if kind is not inspect.Parameter.POSITIONAL_ONLY:
                        self.by_name[name] = refine
        self.trivial = not any((*self.positional, *self.by_name.values(), self.rest, self.extra))

    def of_position(self, index: int) -> Refiner | None:
        """Return the refiner of the positional argument."""
        return self.positional[index] if index < len(self.positional) else self.rest

    def of_name(self, name: str) -> Refiner | None:
        """Return the refiner of the keyword argument."""
        return self.by_name.get(name, self.extra)

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
