"""The input: the Python files of the standard library, and what is counted in them."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TESTS = frozenset({"test", "tests", "idle_test"})
_FOREIGN = frozenset({"site-packages", "dist-packages", "__pycache__"})
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one file holds."""

    lines: int
    functions: int
    classes: int

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.lines + other.lines, self.functions + other.functions, self.classes + other.classes)


def root() -> Path:
    """Return the folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def files(*, tests: bool = False, limit: int | None = None) -> list[Path]:
    """Return the library's Python files in order, without its own tests unless ``tests``; ``limit`` of them at most."""
    left_out = _FOREIGN if tests else _FOREIGN | _TESTS
    folder = root()
    found = sorted(path for path in folder.rglob("*.py") if not left_out & set(path.relative_to(folder).parts))
    return found[:limit]


def measure(path: Path) -> Measured:
    """Parse a file and count its lines, functions and classes; a file that is no valid Python has lines alone.

    The library's tests hold a few of those on purpose.
    """
    source = path.read_bytes()
    lines = len(source.splitlines())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its escapes, which are not ours to mend
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Measured(lines, 0, 0)
    functions = classes = 0
    for statement in _statements(tree):
        functions += isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef))
        classes += isinstance(statement, ast.ClassDef)
    return Measured(lines, functions, classes)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in bodies: functions and classes are nowhere else, and ``ast.walk`` takes six times as long."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        for name in _BODIES:
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield from body
                waiting += body
