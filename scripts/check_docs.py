"""Check the documentation: every link inside it leads somewhere, every block of Python is Python.

Usage: check_docs.py FILE_OR_DIRECTORY ...
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Return what the headings of a page can be linked by."""
    titles = re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def problems(page: Path) -> Iterator[str]:
    """Yield what is wrong with a page."""
    text = page.read_text(encoding="utf-8")
    for _, language, code in FENCE.findall(text):
        if language in ("python", "py"):
            try:
                compile(textwrap.dedent(code), str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            except SyntaxError as error:
                yield f"{page}: not Python: {error.msg}: {(error.text or '').strip()}"
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            yield f"{page}: no such file: {link}"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"{page}: no such heading: {link}"


def main(arguments: list[str]) -> int:
    """Check all pages, print what is wrong, return the exit status."""
    pages: list[Path] = []
    for argument in map(Path, arguments):
        pages += sorted(argument.rglob("*.md")) if argument.is_dir() else [argument]
    found = [problem for page in pages for problem in problems(page)]
    print(*found, f"{len(pages)} pages, {len(found)} problems", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
