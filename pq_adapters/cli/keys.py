"""``pq keys``: who may use the dashboard and its API."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.mistakes import Negative
from pq_adapters.cli.output import print_json, print_table, when
from pq_adapters.cli.parameters import duration, moment
from pq_core.keys import warning

if TYPE_CHECKING:
    from pq_core.client import PQ


@click.group(short_help="Make, list and revoke keys.")
def keys() -> None:
    """Make, list and revoke keys for the dashboard and its API."""


@keys.command(short_help="Make a key.")
@click.option(
    "--role",
    type=click.Choice(["viewer", "operator", "admin"]),
    required=True,
    help="What it may do: look; also change tasks, schedules and queues; also the rest.",
)
@click.option("--name", required=True, metavar="NAME", help="Whose it is; stands in the audit log.")
@click.option(
    "--expires", metavar="WHEN", help="After this long (30d, 12h), or at this time (ISO 8601). Default: never."
)
@json_option
@database_command
def create(pq: PQ, role: str, name: str, expires: str | None, as_json: bool) -> None:
    """Make a key and print it. It is shown this once: the database holds only what it takes to know it again."""
    until = None if expires is None else _until(expires)
    who = actor()
    with pq.session() as connection:
        bound = pq.using(connection)
        made = bound.create_key(name, role=role, expires_at=until, created_by=who)
        bound.audit(who, "key.create", str(made.id), {"name": made.name, "role": made.role})
    if as_json:
        print_json({"id": made.id, "name": made.name, "role": made.role, "key": made.key})
        return
    click.echo(made.key)
    click.echo(f"pq: key {made.id} of {made.name} ({made.role}); it is not shown again", err=True)


@keys.command("list", short_help="List the keys.")
@json_option
@database_command
def list_(pq: PQ, as_json: bool) -> None:
    """List all keys, those that were revoked or have expired included; no key itself."""
    found = pq.list_keys()
    _warn(pq)
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "role", "begins", "active", "created", "by", "expires", "last used", "revoked")
    rows = (
        (
            key.id,
            key.name,
            key.role,
            key.prefix,
            "yes" if key.active else "no",
            when(key.created_at),
            key.created_by,
            when(key.expires_at),
            when(key.last_used_at),
            when(key.revoked_at),
        )
        for key in found
    )
    print_table(columns, rows, empty="there is no key: pq keys create --role admin --name NAME")


@keys.command(short_help="Revoke a key.")
@click.argument("key_id", metavar="ID", type=int)
@json_option
@database_command
def revoke(pq: PQ, key_id: int, as_json: bool) -> None:
    """Revoke the key with this id, and end its sessions within seconds. Exit status 1 if there is none to revoke."""
    with pq.session() as connection:
        bound = pq.using(connection)
        if not bound.revoke_key(key_id):
            raise Negative(f"there is no key {key_id} that is not revoked; `pq keys list` shows them")
        bound.audit(actor(), "key.revoke", str(key_id))
    _warn(pq)
    if as_json:
        print_json({"revoked": key_id})
    else:
        click.echo(f"revoked {key_id}")


def _warn(pq: PQ) -> None:
    """Say on stderr that nobody can log in as admin any more, or soon."""
    if (words := warning(pq.list_keys(), datetime.now(tz=UTC))) is not None:
        click.echo(f"pq: {words}", err=True)


def actor() -> str:
    """Return who types, for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id that has no name, as in many containers
        user = str(os.getuid())
    return f"cli:{user}"


def _until(text: str) -> datetime:
    try:
        return datetime.now(tz=UTC) + duration(text)
    except click.BadParameter:
        pass  # no duration: then it is a time, or nothing
    except OverflowError:
        raise click.BadParameter(f"{text!r} is later than a date can be") from None
    try:
        return moment(text)
    except click.BadParameter as error:
        raise click.BadParameter(f"{error.message}; or give a duration, like 30d") from None
