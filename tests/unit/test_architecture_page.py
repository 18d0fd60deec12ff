"""ARCHITECTURE.md names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md")
NAME = re.compile(r"`((?:pq_core|pq_hooks|pq_adapters|tests|docs|scripts)/[\w/.-]*)`")


def test_files_that_are_named_exist() -> None:
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    named = {name for text in texts for name in NAME.findall(text)}

    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
