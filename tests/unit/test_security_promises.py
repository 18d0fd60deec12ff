"""Every promise of the page on security names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def missing(text: str) -> list[str]:
    """Return the tests that a text names and that are not there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert named
    functions = {path: _functions(ROOT / path) for path, _ in named}
    return [f"{path}::{name}" for path, name in named if name not in functions[path]]


def _functions(path: Path) -> set[str]:
    if not path.exists():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def test_the_named_tests_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    table = page[page.index("## How each promise is tested") :]
    assert missing(table) == []
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    for row in rows:
        assert "::" in row, f"a promise without a test: {row}"


def test_one_that_is_missing_would_be_noticed() -> None:
    assert missing("`tests/unit/test_security_promises.py::no_such`") == [
        "tests/unit/test_security_promises.py::no_such"
    ]
