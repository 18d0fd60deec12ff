"""Print constraints for pip: every dependency that the project states at the lowest version it states.

The rest is as in constraints.txt. Usage: lowest_constraints.py > FILE
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("binary", "embedded")
"""The optional parts that are installed with it."""


def name_of(requirement: str) -> str:
    """Return the name of a package as indexes compare them."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def lowest(requirements: list[str]) -> dict[str, str]:
    """Return the version after ``>=`` by name; ValueError for a requirement without one."""
    found = {}
    for requirement in requirements:
        stated = re.search(r">=\s*([\w.]+)", requirement)
        if stated is None:
            raise ValueError(f"{requirement}: states no lowest version; write >=")
        found[name_of(requirement)] = stated[1]
    return found


def constraints(project: str, pinned: str) -> list[str]:
    """Return the lines, of the text of pyproject.toml and of constraints.txt."""
    said = tomllib.loads(project)["project"]
    direct = lowest([*said["dependencies"], *(each for name in EXTRAS for each in said["optional-dependencies"][name])])
    # The driver's binary is released with the driver, each version for its own.
    left_out = {*direct, "psycopg-binary"}
    others = [line for line in pinned.splitlines() if line and line[0] != "#" and name_of(line) not in left_out]
    return [*(f"{name}=={version}" for name, version in sorted(direct.items())), *others]


if __name__ == "__main__":
    lines = constraints((ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text())
    sys.stdout.write("\n".join([*lines, ""]))
