"""What a client tells the holder of an embedded server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DATABASE = "pq"
SUPERUSER = "postgres"


AsRoot = Literal["auto", "namespace", "user"]


class HolderError(Exception):
    """The server can't be run; the text is for the user."""


def is_complete(data: Path) -> bool:
    """Tell whether the data folder is one that pq made, and made to the end."""
    return (data / "pq_complete").exists()


def begun_mark(data: Path) -> Path:
    """Return the file that is there while pq makes the data folder: beside it, for initdb wants it empty."""
    return data.parent / "initdb_begun"


def was_begun(data: Path) -> bool:
    """Tell whether pq began to make the data folder: what initdb leaves in it may be deleted."""
    return begun_mark(data).exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the starting client asks for.

    ``folder``: the state folder (``.pq``). ``sockets``: where the unix sockets are. ``binaries``: folder of
    ``initdb`` and ``postgres``. ``settings``: server settings. ``linger``: seconds that the server lives on
    without clients. ``as_root``: how Postgres, which refuses root, is run by root: ``namespace`` (a user
    namespace), ``user`` (another user id) or ``auto``, the first that works.
    """

    folder: Path
    sockets: Path
    binaries: Path
    settings: dict[str, str]
    linger: float
    as_root: AsRoot

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    @property
    def address(self) -> Path:
        """The holder's own socket."""
        return self.sockets / "holder.sock"

    def to_json(self) -> str:
        paths = {"folder": str(self.folder), "sockets": str(self.sockets), "binaries": str(self.binaries)}
        return json.dumps({**paths, "settings": self.settings, "linger": self.linger, "as_root": self.as_root})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        said = json.loads(text)
        for name in ("folder", "sockets", "binaries"):
            said[name] = Path(said[name])
        return cls(**said)
