"""``pq enqueue``: put one task in, from a shell."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import click

from pq_adapters.cli.application import factory_option, json_option, load_tasks, open_app
from pq_adapters.cli.mistakes import Mistake
from pq_adapters.cli.output import print_json
from pq_adapters.cli.parameters import duration, moment, priority
from pq_core.errors import PayloadDecodeError
from pq_core.payload import loads
from pq_core.plain import plain


@click.command(short_help="Enqueue a task.")
@click.argument("app", metavar="APP")
@click.argument("name", metavar="NAME")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@factory_option
@click.option("--kwargs", "keywords", metavar="JSON", help="Keyword arguments, as a JSON object.")
@click.option("--run-in", type=duration, metavar="S", help="Not before this long from now.")
@click.option("--run-at", type=moment, metavar="ISO", help="Not before this time, as 2026-01-31T18:00:00+01:00.")
@click.option("--priority", type=priority, metavar="P", help="A number, or critical, high, normal, low, batch.")
@click.option("--queue", metavar="Q", help="Another queue than the task's own.")
@click.option("--client-id", metavar="ID", help="Your own unique name of the task.")
@click.option("--on-duplicate", type=click.Choice(["raise", "return"]), help="When the client id is taken.")
@click.option("--wait", type=duration, metavar="S", help="Wait this long for its end, and print its result.")
@json_option
def enqueue(
    app: str,
    name: str,
    arguments: tuple[str, ...],
    factory: bool,
    keywords: str | None,
    wait: timedelta | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Enqueue the task NAME of APP and print its id.

    Each ARGUMENT is JSON, or key=JSON for a keyword argument; what is not JSON is taken as text. Arguments are
    checked against the task's signature, and strings become dates, UUIDs and so on where it says so. Put -- before
    an ARGUMENT that starts with a dash.
    """
    args, kwargs = parse_arguments(arguments, keywords)
    pq = open_app(app, factory=factory)
    load_tasks(pq)
    task = pq.registry.resolve(name)
    from pq_core import payload

    try:
        read = payload.decode({"args": args, "kwargs": kwargs}, signature=task.typed_signature)
    except PayloadDecodeError as error:
        raise Mistake(f"{name}: {error}") from error
    said = {option: value for option, value in options.items() if value is not None}
    with pq:
        task_id = pq.enqueue(task.call(*read[0], **read[1]).options(**said))
        if wait is None:
            print_json({"id": int(task_id)}) if as_json else click.echo(int(task_id))
            return
        result = pq.wait(task_id, timeout=wait.total_seconds())
    if as_json:
        print_json({"id": int(task_id), "result": result})
    else:
        click.echo(json.dumps(plain(result), ensure_ascii=False, default=str))


def parse_arguments(arguments: tuple[str, ...], keywords: str | None) -> tuple[list[Any], dict[str, Any]]:
    """Return positional and keyword arguments as they were written. Raises Mistake."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    if keywords is not None:
        try:
            kwargs = loads(keywords)
        except PayloadDecodeError as error:
            raise Mistake(f"--kwargs {keywords!r} is not JSON: {error}") from error
        if not isinstance(kwargs, dict):
            raise Mistake(f'--kwargs {keywords!r}: give an object, as {{"key": 1}}')
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not re.fullmatch(r"[^\W\d]\w*", key):
            if kwargs and not keywords:
                raise Mistake(f"{argument!r} comes after key=value: positional arguments come first")
            args.append(parse_value(argument))
        elif key in kwargs:
            raise Mistake(f"the argument {key!r} is given twice")
        else:
            kwargs[key] = parse_value(text)
    return args, kwargs


def parse_value(text: str) -> Any:
    """Return the JSON value that ``text`` is, or the text itself; what begins as JSON must be JSON."""
    try:
        return loads(text)
    except PayloadDecodeError as error:
        if isinstance(error.__cause__, RecursionError):
            raise Mistake("this argument is nested too deep") from None
        if text[:1] in ("{", "[", '"'):
            raise Mistake(f"{text!r} is not JSON: {error}") from error
        return text
