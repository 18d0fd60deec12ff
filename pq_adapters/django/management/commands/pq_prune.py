"""``manage.py pq_prune --older-than 30d``: delete what ended long ago."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from pq_adapters.django import pq
from pq_core.errors import PQError

_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """Return ``90m``, ``12h``, ``7d``, or seconds, as a timedelta."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age: give 90m, 12h, 7d, or seconds")
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


class Command(BaseCommand):
    """Delete finished tasks."""

    help = "Delete finished tasks, with the history of their attempts, that ended longer ago than an age."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", type=age, required=True, metavar="AGE", help="90m, 12h, 7d, or seconds.")
        parser.add_argument(
            "--status",
            default="completed,failed,cancelled",
            metavar="A,B",
            help="Only of these states. [default: %(default)s]",
        )
        parser.add_argument("--batch", type=int, default=1000, help="Tasks in one statement. [default: %(default)s]")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            deleted = pq.prune(options["older_than"], statuses=options["status"].split(","), batch=options["batch"])
        except (PQError, ValueError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"deleted {deleted}")
