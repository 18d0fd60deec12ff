"""A form that enqueues a task: one field for each parameter of its function."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.pages.task import changes_in
from pq_adapters.dashboard.pages.tasks import PRIORITIES
from pq_adapters.dashboard.problems import Problem
from pq_adapters.dashboard.rendering import back, page
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core import payload
from pq_core.enqueue_by_name import call_by_name
from pq_core.errors import PayloadDecodeError, PQError, UnknownTask

if TYPE_CHECKING:
    from pq_core.tasks import Call, Task

OPTIONS = ("queue", "priority", "client_id", "run_in", "run_at")
_LONGEST_ANNOTATION = 60
_TEXTS = (str, str | None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One parameter. ``kind``: what it takes, in words. ``choices``: empty for free text.

    ``text``: what is typed is the value; else it is JSON, or the text itself where that is no JSON.
    """

    name: str
    kind: str
    hint: str
    required: bool
    choices: tuple[str, ...] = ()
    text: bool = False
    long: bool = False
    parameter: inspect.Parameter


def fields_of(task: Task[..., Any]) -> list[Field]:
    """Return the fields for a task's parameters, in their order."""
    return [_field(parameter) for parameter in task.typed_signature.parameters.values()]


def _field(parameter: inspect.Parameter) -> Field:
    annotation = parameter.annotation
    said = "" if annotation is parameter.empty else inspect.formatannotation(annotation)
    said = said if len(said) <= _LONGEST_ANNOTATION else f"{said[: _LONGEST_ANNOTATION - 1]}…"
    if parameter.kind is parameter.VAR_POSITIONAL:
        return Field(name=parameter.name, kind=f"*{said}", hint="A JSON list.", required=False, parameter=parameter)
    if parameter.kind is parameter.VAR_KEYWORD:
        return Field(name=parameter.name, kind=f"**{said}", hint="A JSON object.", required=False, parameter=parameter)
    required = parameter.default is parameter.empty
    hint = "" if required else f"Empty: {parameter.default!r}"[:200]
    return Field(
        name=parameter.name,
        kind=said,
        hint=hint,
        required=required,
        choices=("true", "false") if annotation is bool else (),
        text=annotation in _TEXTS,
        long=annotation not in (*_TEXTS, int, float, bool) and typing.get_origin(annotation) is not None,
        parameter=parameter,
    )


def arguments_of(fields: list[Field], given: Mapping[str, str]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that were typed, in JSON. Raises ValueError that names the field."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    skipped = False  # a value after a gap must not take the place of what was left out
    for field in fields:
        typed, kind = given.get(f"a-{field.name}", ""), field.parameter.kind
        if kind is field.parameter.VAR_POSITIONAL:
            more = _json(field, typed or "[]", list)
            if more and (skipped or kwargs):
                raise ValueError(f"{field.name}: fill in all fields before it, or none of these")
            args += more
        elif kind is field.parameter.VAR_KEYWORD:
            kwargs |= _json(field, typed or "{}", dict)
        elif not typed and not field.required:
            skipped = True
        elif not typed and not field.text:
            raise ValueError(f"{field.name}: give a value")
        elif kind is field.parameter.POSITIONAL_ONLY and skipped:
            raise ValueError(f"{field.name}: fill in all fields before it, or not this one")
        elif kind is not field.parameter.KEYWORD_ONLY and not skipped:
            args.append(_value(field, typed))
        else:
            kwargs[field.name] = _value(field, typed)
    return args, kwargs


def _value(field: Field, typed: str) -> Any:
    if field.text:
        return typed
    try:
        return payload.loads(typed)
    except PayloadDecodeError as error:
        if typed.lstrip()[:1] in ("{", "[", '"'):
            raise ValueError(f"{field.name}: {typed!r} is {error}") from None
        return typed


def _json(field: Field, typed: str, kind: type) -> Any:
    try:
        value = payload.loads(typed)
    except PayloadDecodeError as error:
        raise ValueError(f"{field.name}: {typed!r} is {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{field.name}: give {'a list, as [1, 2]' if kind is list else 'an object'}")
    return value


async def show(request: Request) -> Response:
    """Show the form of ``?name=…``."""
    return await form(request, request.query_params.get("name", ""), {})


async def save(request: Request) -> Response:
    """Enqueue what the form says; show it again with what is wrong."""
    given = await request.form(max_files=0, max_fields=300)
    said = _said(given)
    name = said.get("name", "")
    try:
        call = await asyncio.to_thread(_meant, request, name, said)
        async with dashboard_of(request).changing(request, "task.enqueue", task=name) as pq:
            task_id = int(await pq.aenqueue(call))
            request.state.audit["id"] = task_id
    except UnknownTask:
        raise
    except Problem as problem:
        return await form(request, name, said, problem=problem.detail)
    except (PQError, ValueError, TypeError) as error:
        return await form(request, name, said, problem=str(error))
    return back(request, "task", done="enqueued", task_id=task_id)


def _said(given: FormData) -> dict[str, str]:
    return {name: value.replace("\r\n", "\n") for name, value in given.items() if isinstance(value, str)}


def _meant(request: Request, name: str, said: Mapping[str, str]) -> Call[Any]:
    pq = dashboard_of(request).pq
    args, kwargs = arguments_of(fields_of(pq.registry.resolve(name)), said)
    call = call_by_name(pq, name, args, kwargs)
    run_in = said.get("run_in", "")
    options: dict[str, Any] = changes_in(
        said.get("run_at", ""), "" if run_in == "0" else run_in, said.get("priority", "")
    )
    for option in ("queue", "client_id"):
        if value := said.get(option, "").strip():
            options[option] = value
    return call.options(**options) if options else call


async def form(request: Request, name: str, values: Mapping[str, str], *, problem: str | None = None) -> Response:
    """Show the form of a function. Raises Problem 404 where this dashboard does not know it."""
    pq = dashboard_of(request).pq
    try:
        task = await asyncio.to_thread(pq.registry.resolve, name)
    except Exception as error:  # an application's module may raise anything when it is imported
        raise Problem(
            404, "no such function", f"This dashboard does not know {name!r}: start it with your application. {error}"
        ) from error
    return await page(
        request,
        "run_form.html",
        status=422 if problem else 200,
        here="functions",
        name=name,
        doc=inspect.getdoc(task.function) or "",
        fields=fields_of(task),
        values=values,
        problem=problem,
        priorities=PRIORITIES,
    )


def routes() -> list[BaseRoute]:
    """Return the routes."""
    return [
        route("/function/run", show, role="operator", name="function_run"),
        route("/function/run", save, role="operator", methods=["POST"], name="function_run_save"),
    ]
