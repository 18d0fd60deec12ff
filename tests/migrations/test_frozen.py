"""A revision that has landed is never edited: databases made between two forms of it lack what the later one has."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pq_core import schema

VERSIONS = Path(schema.__file__).parent / "migrations" / "versions"

LANDED = {
    "0001_tables.sql": "5620633485151957a637a1025512df77d07837b5933a62f4b6bdb17a7201aaec",
    "0002_lanes.sql": "db8c09c413c84089230c233136f4c7b7cf9bb3d6b6cc933db4ed7e053a0bdfff",
    "0002_operations.sql": "6f3a173e78c7798649b975b1582e78a4faf5c1de0b4cb6439945796dffbad619",
    "0003_history.sql": "a50b10dfced05e0cedc515dd6e2d49df0abc568dc29cff3f2768aae52ea64c92",
    "0004_workers.sql": "4517697f2cafbf482258dc7a5cdb86c0600e9fca0631d5a3716a603ef71e261a",
    "revision_0001.py": "9ae68b57df1be659ccf0042627e0a8528ac8c82e3dd9ccc1ba3791ca77061f7f",
    "revision_0002.py": "d15d90409f41c9447fd5b0f2443bed444bc006cb90dc8e550fe0e0eb4a595f47",
    "revision_0003.py": "ee1852002e718321e82c9528313c3cf23a657f6aa03c7d3bdfe58cf8a2d204fa",
    "revision_0004.py": "125455180ff4f39f81b5da8b0807ba59418bd7ce1f734b75f75380f60b432878",
}
"""Each file of a revision that has landed, and the SHA-256 of its bytes. A new change is a new revision."""


def test_landed_revisions_are_frozen() -> None:
    found = {name: hashlib.sha256((VERSIONS / name).read_bytes()).hexdigest() for name in LANDED}

    assert found == LANDED


def test_each_file_belongs_to_a_frozen_revision_or_to_the_newest() -> None:
    files = [*VERSIONS.glob("0*.sql"), *VERSIONS.glob("revision_*.py")]
    newest = f"{schema.CODE_REVISION:04}"

    unfrozen = {path.name for path in files if newest not in path.name} - LANDED.keys()

    assert unfrozen == set()
