"""The documentation holds: links lead somewhere, code is code, and every public name and option is in it."""

from __future__ import annotations

import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

import pq_core
from pq_core.retention import Retention
from pq_core.types import CallOptions
from pq_core.worker.options import WorkerOptions

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)
# Workplaces, trackers and registries: nothing that a reader could follow.
FOREIGN = re.compile(r"/work/|/root/|\bpypi\b|files\.pythonhosted|issue #?\d", re.IGNORECASE)


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """Return ``scripts/check_docs.py``, which ``make docs`` runs."""
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(*names: str) -> set[str]:
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_code_is_code(page: Path, checker: ModuleType) -> None:
    assert list(checker.problems(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_names_nothing_of_the_workshop(page: Path) -> None:
    assert FOREIGN.findall(page.read_text(encoding="utf-8")) == []


def test_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")

    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]

    assert [str(page) for page in pages if page.name != "index.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "managed-postgres").glob("*.md")), ids=lambda page: page.stem)
def test_page_of_a_hosted_database_tells_its_pitfalls(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert [
        word for word in ("TLS", "ooler|PgBouncer|Proxy", "[Ff]ailover", "[Tt]oken") if not re.search(word, text)
    ] == []


def test_every_option_of_retention_is_documented() -> None:
    assert sorted({field.name for field in fields(Retention)} - words_of("docs/operations.md")) == []


def test_every_public_name_is_documented() -> None:
    documented = words_of("README.md", "docs/tasks.md")

    assert sorted(set(pq_core.__all__) - documented) == []


def test_every_public_method_is_documented() -> None:
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")]
    documented = words_of(*pages)
    methods = {name for name, _ in inspect.getmembers(pq_core.PQ, callable) if not name.startswith("_")}
    twins = {name for name in methods if name[:1] == "a" and name[1:] in methods}

    assert sorted(methods - twins - documented) == []


def test_every_option_of_tasks_and_calls_is_documented() -> None:
    assert sorted({field.name for field in fields(CallOptions)} - words_of("docs/tasks.md")) == []


def test_every_option_of_workers_is_documented() -> None:
    documented = words_of("docs/workers.md") | {
        flag.replace("-", "_") for flag in re.findall(r"--([\w-]+)", (ROOT / "docs" / "workers.md").read_text())
    }

    assert sorted({field.name for field in fields(WorkerOptions)} - documented - {"once"}) == []


def test_every_error_is_documented() -> None:
    errors = {name for name, kind in vars(pq_core.errors).items() if inspect.isclass(kind) and kind.__module__}
    known = {name for name in errors if name in pq_core.__all__}

    assert sorted(known - words_of("docs/tasks.md")) == []
