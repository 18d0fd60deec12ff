"""Serving a dashboard by itself: what ``pq dashboard`` does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from pq_adapters.dashboard.access import is_loopback
from pq_adapters.dashboard.app import create_app
from pq_core import keys
from pq_core.errors import InvalidOption, PQError

if TYPE_CHECKING:
    from pq_core.client import PQ

PORT = 8765
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_GRACE = 3
"""Seconds that answers under way get at the end; a live page never ends by itself."""


def serve(
    pq: PQ,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    title: str = "pq",
    say: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM. ``port``: None takes PORT, or any free one if that is taken; 0 any free one.

    On a loopback address nobody needs a key as long as none was ever made; on any other one there must be one first.
    ``say``: gets the lines for the terminal. Raises PQError when that can't be.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(
            "serving the dashboard needs uvicorn, which is not installed: pip install 'pq-toolkit[dashboard]'"
        ) from error

    loopback = is_loopback(host)
    active = pq._run(keys.active(pq.schema, used=()))
    if not active and not loopback:
        raise PQError(
            f"there is no key, and {host} can be reached by others: make one first, "
            "pq keys create --role admin --name NAME"
        )
    names = {*allowed_hosts, *(LOOPBACK_NAMES if loopback else ())}
    app = create_app(
        pq,
        title=title,
        open_without_keys=loopback,
        allowed_hosts=names if loopback or allowed_hosts else None,
        allowed_origins=allowed_origins,
    )
    keyless = _keyless(pq) if not active else None
    listening = _listen(host, port)
    number = listening.getsockname()[1]
    shown = "localhost" if loopback else host
    say(f"dashboard: http://{f'[{shown}]' if ':' in shown else shown}:{number}/")
    if keyless:
        say(keyless)
    if not loopback:
        say("without TLS keys can be read on their way: put a reverse proxy in front")
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    # It passes the signal on when it has ended: Ctrl-C is how one ends it, and nothing to complain about.
    with listening, suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def _keyless(pq: PQ) -> str:
    how = "make one with pq keys create --role admin --name NAME"
    if pq._run(keys.ever(pq.schema)):
        return f"every key has ended: nobody can log in; {how}"
    return f"open to everybody on this machine: there is no key; {how}"


def _listen(host: str, port: int | None) -> socket.socket:
    wanted = [PORT, 0] if port is None else [port]
    for number in wanted:
        try:
            found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, address = found[0]
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
                listening.listen(1024)  # from here on who connects waits for the server to begin
            except BaseException:
                listening.close()
                raise
        except (OSError, UnicodeError) as error:
            if number != wanted[-1]:
                continue
            raise InvalidOption(f"can't listen on {host}, port {number}: {error}") from error
        return listening
    raise AssertionError
