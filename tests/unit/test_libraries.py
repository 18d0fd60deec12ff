"""Which mapped pages a worker lets go of, and that it goes on without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pq_core.worker.libraries import unwritten

PLAIN = {"Size": 8, "Rss": 8, "Anonymous": 0, "LazyFree": 0, "Swap": 0, "SwapPss": 0, "Locked": 0}
PLAIN |= {"Private_Hugetlb": 0, "Shared_Hugetlb": 0}


def mapping(access: str, name: str, **changed: int | None) -> list[str]:
    fields = {**PLAIN, **changed}
    sizes = [f"{key}:   {size} kB\n" for key, size in fields.items() if size is not None]
    return [f"1000-3000 {access} 00002000 fe:00 260131        {name}\n", *sizes, "VmFlags: rd ex mr mw me \n"]


CODE = mapping("r-xp", "/usr/lib/libc.so.6")


@pytest.mark.parametrize(
    "lines",
    [
        CODE,
        mapping("r--p", "/usr/lib/libc.so.6"),
        mapping("r-xp", "/opt/with a space/bin/python3"),
    ],
)
def test_code_and_constants_are_as_in_their_files(lines: list[str]) -> None:
    assert list(unwritten(lines)) == [(0x1000, 0x3000)]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(mapping("rw-p", "/usr/lib/libc.so.6"), id="may be written to"),
        pytest.param(mapping("r--s", "/usr/lib/libc.so.6"), id="shared"),
        pytest.param(mapping("r--p", "/usr/lib/libc.so.6", Anonymous=4), id="was written to"),
        pytest.param(mapping("r--p", "/usr/lib/libc.so.6", Swap=4), id="was written to and swapped out"),
        pytest.param(mapping("r-xp", "/usr/lib/libc.so.6", Locked=8), id="locked"),
        pytest.param(mapping("r-xp", "/anon_hugepage (deleted)", Private_Hugetlb=2048), id="huge pages of code"),
        pytest.param(mapping("r-xp", "/usr/lib/libc.so.6", Swap=None), id="not said to be unwritten"),
        pytest.param(mapping("r--p", "/var/lib/model.bin"), id="the application's file"),
        pytest.param(mapping("r-xp", ""), id="no file"),
        pytest.param(mapping("r-xp", "[vdso]"), id="the kernel's"),
        pytest.param([], id="nothing"),
    ],
)
def test_the_rest_is_left_alone(lines: list[str]) -> None:
    assert list(unwritten([*CODE, *lines, *CODE])) == [(0x1000, 0x3000)] * 2


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="reads /proc/self/smaps")
def test_a_process_goes_on_with_less() -> None:
    program = """
import hashlib, json, ssl, sqlite3
from pq_core.worker.guards import status_bytes
from pq_core.worker.libraries import forget_pages
before = status_bytes("RssFile")
assert forget_pages() > 0
assert status_bytes("RssFile") < before / 2, (before, status_bytes("RssFile"))
assert json.loads(json.dumps({"a": [1.5]})) == {"a": [1.5]}
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
assert ssl.create_default_context() and sqlite3.connect(":memory:").execute("SELECT 1").fetchone() == (1,)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
