"""What only one module may do, and what code that runs after a fork may import; import-linter holds the layers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("pq_core", "pq_hooks", "pq_adapters")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

FORKS = {"os.fork", "os.forkpty", "pty.fork"}
CONNECTS = {
    "psycopg.connect",
    "psycopg.Connection.connect",
    "psycopg.AsyncConnection.connect",
    "psycopg.pq.PGconn.connect",
    "psycopg.pq.PGconn.connect_start",
}
# What the code of a child may load besides the standard library: modules that import nothing of others themselves.
LEAVES = {
    "pq_core",
    "pq_core.attempt",
    "pq_core.current",
    "pq_core.errors",
    "pq_core.main_module",
    "pq_core.payload",
    "pq_core.payload_conversions",
    "pq_core.payload_decoding",
    "pq_core.payload_encoding",
    "pq_core.payload_refining",
    "pq_core.payload_signature",
    "pq_core.policy",
    "pq_core.roles",
    "pq_core.types",
    "pq_core.worker",
    "pq_core.worker.blocking_drivers",
    "pq_core.worker.channel",
    "pq_core.worker.child",
    "pq_core.worker.child_setup",
    "pq_core.worker.concealing",
    "pq_core.worker.exiting",
    "pq_core.worker.guards",
    "pq_core.worker.handing",
    "pq_core.worker.inbox",
    "pq_core.worker.last_words",
    "pq_core.worker.late",
    "pq_core.worker.leftovers",
    "pq_core.worker.rows",
    "pq_core.worker.thawing",
    "pq_core.worker.shared",
    "pq_core.worker.stopping",
    "pq_core.worker.wire",
    "pq_hooks",
    "pq_hooks.errors",
}
HEAVY = {"psycopg", "sqlalchemy", "alembic", "pluggy", "pydantic", "click", "rich", "croniter", "numpy"}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for such an expression."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{owner}.{attribute}" if (owner := dotted(value)) else None
        case _:
            return None


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name of a module stands for, wherever in it the import is."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    if alias.asname:
                        names[alias.asname] = alias.name
                    else:
                        names[alias.name.partition(".")[0]] = alias.name.partition(".")[0]
            case ast.ImportFrom(module=str(module), names=aliases):
                for alias in aliases:
                    names[alias.asname or alias.name] = f"{module}.{alias.name}"
    return names


def mentions(source: str) -> set[str]:
    """Return the full dotted name of every attribute or imported name that a source uses, called or passed on."""
    tree = ast.parse(source)
    names = imported_names(tree)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and (name := dotted(node)):
            head, _, rest = name.partition(".")
            full = names.get(head, head) + (f".{rest}" if rest else "")
            # `from psycopg import pq` and `from psycopg.pq import PGconn` name the same thing.
            found.add(full)
    return found


def users_of(names: set[str]) -> set[str]:
    return {relative(path) for path in MODULES if mentions(path.read_text(encoding="utf-8")) & names}


def module_level_imports(source: str) -> Iterator[str]:
    """Yield what importing a module imports: not what stands in functions or under ``if TYPE_CHECKING``."""

    def visit(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            match node:
                case ast.Import(names=aliases):
                    yield from (alias.name for alias in aliases)
                case ast.ImportFrom(module=str(module), names=aliases, level=0):
                    yield module
                    yield from (f"{module}.{alias.name}" for alias in aliases)
                case ast.If(test=test) if dotted(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                    yield from visit(node.orelse)
                case ast.If() | ast.Try() | ast.With() | ast.ClassDef():
                    for part in ("body", "orelse", "finalbody"):
                        yield from visit(getattr(node, part, []))
                    for handler in getattr(node, "handlers", []):
                        yield from visit(handler.body)

    yield from visit(ast.parse(source).body)


def path_of(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def loaded_by(module: str) -> set[str]:
    """Return every module that importing ``module`` loads through module-level imports of ours."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = path_of(name)
        if name in found or (path is None and name.partition(".")[0] in PACKAGES):
            continue
        found.add(name)
        if path is not None:
            waiting += module_level_imports(path.read_text(encoding="utf-8"))
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return found


def test_one_module_forks_and_one_knows_how_else_to() -> None:
    assert users_of(FORKS) == {"pq_core/worker/forking.py", "pq_core/worker/bare_fork.py"}


def test_one_module_opens_connections() -> None:
    assert users_of(CONNECTS) == {"pq_core/database.py"}


def test_child_loads_standard_library_and_leaves_alone() -> None:
    loaded = loaded_by("pq_core.worker.child")

    foreign = {name for name in loaded if name.partition(".")[0] not in PACKAGES} - {"__future__"}
    assert {name.partition(".")[0] for name in foreign} <= sys.stdlib_module_names
    assert {name for name in loaded if name.partition(".")[0] in PACKAGES} <= LEAVES


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    program = f"import sys, {package}; print(*sorted({HEAVY!r} & set(sys.modules)))"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout.split() == []


def test_hooks_contract_loads_nothing_of_core() -> None:
    ours = {name for name in loaded_by("pq_hooks.specs") if name.startswith("pq_")}

    assert {name for name in ours if not name.startswith("pq_hooks")} == set()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os\nos.fork()", FORKS),
        ("import os as o\npid = o.fork()", FORKS),
        ("from os import fork as f\nf()", FORKS),
        ("def g():\n    from os import fork\n    run(fork)", FORKS),
        ("import psycopg\npsycopg.connect('')", CONNECTS),
        ("from psycopg import AsyncConnection as A\nA.connect('')", CONNECTS),
        ("from psycopg import pq\npq.PGconn.connect_start(b'')", CONNECTS),
        ("from psycopg.pq import PGconn\nPGconn.connect(b'')", CONNECTS),
    ],
)
def test_forbidden_use_is_seen_through_its_spelling(source: str, names: set[str]) -> None:
    assert mentions(source) & names


def test_imports_for_types_and_in_functions_do_not_count_as_loaded() -> None:
    lines = ["import a", "if TYPE_CHECKING:", "    import b", "else:", "    import c", "def f():", "    import d"]
    source = "\n".join([*lines, "try:", "    import e", "finally:", "    pass"])

    assert list(module_level_imports(source)) == ["a", "c", "e"]
