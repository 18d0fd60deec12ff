"""A short run of what `make fuzz` does at length, and Hypothesis' own ideas of bytes and JSON."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "scripts" / "fuzz.py"

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$pq", "value", "type", "a"]) | st.text(), inner),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pq_fuzz", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.warm_up()
    return module


def test_mutations(fuzz: ModuleType) -> None:
    source = random.Random(4711)
    for _ in range(3000):
        fuzz.check(fuzz.mutated(source))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(fuzz: ModuleType, data: bytes) -> None:
    fuzz.check(data)


@settings(max_examples=300, deadline=None)
@given(values, values)
def test_any_json(fuzz: ModuleType, args: object, kwargs: object) -> None:
    fuzz.check(json.dumps({"args": args, "kwargs": kwargs}).encode())
    fuzz.check(json.dumps(args).encode())


def test_an_import_would_be_noticed(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def imports(data: bytes) -> None:
        sys.modules["pq_fuzz_imported"] = ModuleType("pq_fuzz_imported")

    monkeypatch.setattr(fuzz, "TARGETS", (imports,))
    with pytest.raises(AssertionError, match="a module was imported"):
        fuzz.check(b"")
    del sys.modules["pq_fuzz_imported"]
