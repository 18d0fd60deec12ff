"""What the command line says when something is wrong: one line for a mistake, a traceback for the user's own code."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import IO, Any, NoReturn

import click

from pq_core.errors import DuplicateClientId, PQError, ResultNotStored, TaskFailed, WaitTimeout

NEGATIVE = 1
"""Exit status: the answer is no, something failed, or code of the user's raised."""
MISTAKE = 2
"""Exit status: the command can't be carried out as it was given; the message says the fix."""

_OURS = ("pq_core", "pq_adapters", "pq_hooks", "importlib", "_frozen_importlib", "click", "runpy")


class Mistake(click.ClickException):
    """A mistake of the user, said in one line on stderr."""

    exit_code = MISTAKE

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"pq: {' '.join(self.message.split())}", file=file, err=file is None)


class Negative(Mistake):
    """An answer that is no: said in the same way, with another exit status."""

    exit_code = NEGATIVE


class BrokenCode(click.ClickException):
    """An error inside the user's module: its traceback from the first frame that is theirs."""

    exit_code = NEGATIVE

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(f"{what} raised {type(error).__name__}")
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the traceback and what was being loaded."""
        lines = traceback.format_exception(type(self.error), self.error, user_part(self.error.__traceback__))
        click.echo("".join(lines).rstrip(), file=file, err=file is None)
        click.echo(f"pq: {self.message}", file=file, err=file is None)


def user_part(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the first frame that is not ours or the import system's; None without one."""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] not in _OURS:
            return trace
        trace = trace.tb_next
    return None


def report(error: BaseException, what: str) -> NoReturn:
    """Raise what says ``error``: BrokenCode if the user's code is in its traceback, else one line for pq's errors."""
    if user_part(error.__traceback__) is not None or isinstance(error, (SyntaxError, SystemExit)):
        raise BrokenCode(what, error) from error
    translate(error)
    raise error


def translate(error: BaseException) -> None:
    """Raise the one line that says an error of pq's or of the driver's; return for any other."""
    match error:
        case DuplicateClientId() | ResultNotStored() | TaskFailed() | WaitTimeout():
            raise Negative(str(error)) from error
        case PQError():
            raise Mistake(str(error)) from error
        case ImportError() if "pq wrapper" in str(error):
            raise Mistake("psycopg finds no libpq: pip install 'pq-toolkit[binary]', or your system's libpq") from error
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        message = str(error).partition("\n")[0] or type(error).__name__
        raise Mistake(f"the database refuses: {message}") from error
