"""Pages of the documentation as programs: their files written, their commands and snippets run in order.

What a fence means: ``console`` holds commands after ``$`` and the output they must have (``...`` stands for anything);
a ``python`` block whose first line is a comment with a file's name is that file, any other is run in one namespace
with its fellows; ``sql`` is run on the database. Everything else is not run, and no ``python`` that begins with
``# before``: that is another library's code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 110.0
"""Seconds that one command may take."""

FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./]+\.py)\n")
BEFORE = "# before"

SNIPPETS = """
import ast, asyncio, inspect, json, sys
import psycopg
namespace = {"__name__": "__main__"}
for kind, line, text in json.load(open(sys.argv[1])):
    if kind == "sql":
        with psycopg.connect(sys.argv[2], autocommit=True) as connection:
            connection.execute(text)
        continue
    code = compile("\\n" * line + text, sys.argv[3], "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = eval(code, namespace)
    if inspect.iscoroutine(found):
        asyncio.run(found)
"""


@dataclass(slots=True)
class Session:
    """A shell of sorts in ``folder``, on a database; ``worker``: what runs in the background."""

    folder: Path
    dsn: str
    worker: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Return the variables of every command: the database, and this pq before any other."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PQ_DATABASE_URL": self.dsn, "PYTHONPATH": path, "PQ_WORKER_CONCURRENCY": "2"}

    def run(self, command: str) -> str:
        """Run one command and return what it printed; ``&`` puts it into the background, ``kill %1`` ends that."""
        if command == "kill %1":
            return self.stop()
        words = shlex.split(command.removesuffix("&"))
        program = {"pq": ["-m", "pq_core"], "python": []}[words[0]]
        arguments = [sys.executable, *program, *words[1:]]
        if command.endswith("&"):
            with (self.folder / "worker.log").open("w") as log:
                self.worker = subprocess.Popen(
                    arguments, cwd=self.folder, env=self.environment(), stdout=log, stderr=log, text=True
                )
            return ""
        done = subprocess.run(
            arguments, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout

    def stop(self) -> str:
        """Ask the background process to stop, and see it end in good order."""
        if self.worker is None:
            return ""
        worker, self.worker = self.worker, None
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0, self.log()
        return ""

    def log(self) -> str:
        """Return what the background process wrote."""
        path = self.folder / "worker.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """End what is left, without ceremony."""
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait(PATIENCE)


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows."""
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python" and (name := FILE.match(text)):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def run_console(page: Path, session: Session) -> None:
    """Run the commands of a page and compare their output with what it shows."""
    for language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "console":
            continue
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            said = session.run(command.strip())
            assert matches(expected, said), (
                f"{page.name}: {command}\nexpected:\n{expected}\ngot:\n{said}{session.log()}"
            )


def matches(expected: str, said: str) -> bool:
    """Tell whether the output is the expected one; a page that shows none expects nothing particular."""
    if not expected.strip():
        return True
    parts = [re.escape(part.strip()) for part in expected.strip().split("...")]
    return re.fullmatch(r"\s*" + r".*?".join(parts) + r"\s*", said, flags=re.DOTALL) is not None


def run_snippets(page: Path, session: Session) -> str:
    """Run the snippets of a page, in order and in one process; return what they printed."""
    text = page.read_text(encoding="utf-8")
    blocks = [
        # A busy machine may need longer than a reader waits.
        (found[1], text[: found.start(2)].count("\n"), textwrap.dedent(found[2]).replace("timeout=30)", "timeout=100)"))
        for found in FENCE.finditer(text)
        if found[1] == "sql" or (found[1] == "python" and not FILE.match(found[2]) and not found[2].startswith(BEFORE))
    ]
    (session.folder / "snippets.json").write_text(json.dumps(blocks))
    (session.folder / "run_snippets.py").write_text(SNIPPETS)
    done = subprocess.run(
        [sys.executable, "run_snippets.py", "snippets.json", session.dsn, page.name],
        cwd=session.folder, env=session.environment(), capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, f"{page.name}:\n{done.stdout}{done.stderr}\nworker:\n{session.log()}"
    return done.stdout
