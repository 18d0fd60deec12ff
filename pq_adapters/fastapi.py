"""FastAPI: a lifespan that owns the client, dependencies for it and for its form in your transaction, task status.

Nothing here is kept in globals: the lifespan's state carries the client to every request, also to those of mounted
applications, whose own lifespans never run.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, get_origin

try:
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Request, Response, params
    from fastapi.concurrency import contextmanager_in_threadpool
    from fastapi.requests import HTTPConnection
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python
except ImportError as error:
    raise ImportError('pq_adapters.fastapi needs FastAPI: pip install "pq-toolkit[fastapi]"') from error

from pq_core.bound import AsyncBoundPQ, BoundPQ
from pq_core.client import PQ
from pq_core.errors import InvalidOption, PayloadDecodeError, PQError
from pq_core.payload import decode_result
from pq_core.types import Outcome, TaskRecord, TaskStatus

__all__ = ["DepPQ", "TaskState", "get_pq", "lifespan", "task_router", "transaction", "using"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]


def lifespan(pq: PQ | Callable[[], PQ], inner: Lifespan | None = None) -> Lifespan:
    """Return a lifespan that offers the client to all requests, and closes its connections at the end.

    ``pq``: the client, or a function that makes it at the start. ``inner``: your own lifespan, run within this one;
    the state it yields is kept.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with pq() if callable(pq) else pq as client:
            if inner is None:
                yield {"pq": client}
            else:
                async with inner(app) as state:
                    yield {**(state or {}), "pq": client}

    return run


async def get_pq(connection: HTTPConnection) -> PQ:
    """Return the client of the application that serves this request. Raises PQError without its lifespan."""
    client = getattr(connection.state, "pq", None)
    if not isinstance(client, PQ):
        raise PQError(
            "this application has no PQ: FastAPI(lifespan=pq_adapters.fastapi.lifespan(pq)); in tests the lifespan "
            "runs inside 'with TestClient(app)' only"
        )
    return client


DepPQ = Annotated[PQ, Depends(get_pq)]
"""The client, as a parameter of routes and dependencies: each of its calls is a transaction of its own."""


def transaction(begin: Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]) -> Any:
    """Return the dependency on what ``begin()`` opens: ``Annotated[AsyncSession, transaction(Sessions.begin)]``.

    ``begin``: ``sessionmaker.begin``, ``async_sessionmaker.begin``, ``pq.session``, ``pq.asession``, or any function
    that returns a context manager which commits at its end. That end comes when the route has returned and before
    the response is sent (``scope="function"``): a commit that fails is answered by an error.
    """

    async def opened() -> AsyncIterator[Any]:
        manager = begin()
        if isinstance(manager, AbstractContextManager) and not isinstance(manager, AbstractAsyncContextManager):
            manager = contextmanager_in_threadpool(manager)
        async with manager as session:
            yield session

    return Depends(opened, scope="function")


def using(session: Any) -> Any:
    """Return the dependency on ``pq.using(session)``: ``Annotated[AsyncBoundPQ, using(DepSession)]``.

    ``session``: the very annotation that your routes have (``Annotated[AsyncSession, Depends(…)]``), so that both get
    the one session of the request; a scope of its own would make it another one.
    """
    annotation = getattr(session, "__value__", session)
    if get_origin(annotation) is not Annotated:
        annotation = Annotated[Any, session if isinstance(session, params.Depends) else Depends(session)]
    elif not any(isinstance(mark, params.Depends) for mark in annotation.__metadata__):
        raise InvalidOption(f"using({session!r}): give the Annotated[…, Depends(…)] that your routes have")

    async def bound(pq: PQ, session: Any) -> BoundPQ | AsyncBoundPQ:
        return pq.using(session)  # type: ignore[no-any-return]

    bound.__annotations__ = {"pq": DepPQ, "session": annotation}
    return Depends(bound)


class TaskState(BaseModel):
    """What a client of yours sees of a task; its arguments are not in it."""

    id: int
    name: str
    status: TaskStatus
    outcome: Outcome | None
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    attempts: int
    max_attempts: int
    progress: float | None = None
    progress_message: str | None = None
    result: Any = None
    error: str | None = None


Visible = Callable[[Request, TaskRecord], bool | Awaitable[bool]]


def task_router(
    *, prefix: str = "/tasks", visible: Visible | None = None, show_result: bool = True, show_error: bool = False
) -> APIRouter:
    """Return a router with ``GET {prefix}/{task_id}``, named ``pq_task``: where a task stands.

    ``visible``: says whether this request may see the task; to others it does not exist. Ids can be guessed: without
    it, and without ``dependencies=[…]`` at ``include_router``, everybody sees every task. ``show_result``: the value
    that the task returned. ``show_error``: the text with the traceback of its last failure.
    """
    router = APIRouter(prefix=prefix, tags=["tasks"])

    @router.get(
        "/{task_id}",
        name="pq_task",
        summary="Where a task stands",
        responses={404: {"description": "There is no such task"}},
    )
    async def get_task(
        task_id: Annotated[int, Path(ge=1, le=2**63 - 1)], request: Request, response: Response, pq: DepPQ
    ) -> TaskState:
        record = await pq.aget_task(task_id)
        if record is None or not await _may_see(visible, request, record):
            raise HTTPException(404, "there is no such task")
        response.headers["Cache-Control"] = "no-store"
        state = TaskState.model_validate(record, from_attributes=True)
        state.result = _plain(record.result) if show_result else None
        state.error = record.error if show_error else None
        if record.status is TaskStatus.RUNNING:
            state.progress, state.progress_message = await pq.aprogress(task_id)
        return state

    return router


async def _may_see(visible: Visible | None, request: Request, record: TaskRecord) -> bool:
    answer = True if visible is None else visible(request, record)
    return await answer if inspect.isawaitable(answer) else bool(answer)


def _plain(stored: Any) -> Any:
    """Return a stored result as plain JSON, without our tags: a Decimal as text, a dataclass as an object."""
    try:
        value = decode_result(stored)
    except PayloadDecodeError:  # of a type that this process can't make
        value = stored
    return to_jsonable_python(value, bytes_mode="base64", inf_nan_mode="null", serialize_unknown=True)
