"""Frames between child and worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pq_core.worker.wire import HEADER, BrokenFrame, Decoder, Kind, pack

JSON_KINDS = [Kind.PROGRESS, Kind.COMPLETED, Kind.END, Kind.LOADED]
texts = st.text(st.characters())
bodies = st.dictionaries(
    texts,
    st.one_of(
        texts, st.integers(-(2**63), 2**63), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
    ),
)


@given(
    st.lists(st.tuples(st.sampled_from(JSON_KINDS), bodies), max_size=5),
    st.integers(1, 50),
)
def test_frames_arrive_as_they_were_however_they_are_cut(frames: list[tuple[Kind, dict[str, Any]]], size: int) -> None:
    data = b"".join(pack(kind, body) for kind, body in frames)
    decoder = Decoder(1 << 20)

    received = [frame for at in range(0, len(data), size) for frame in decoder.feed(data[at : at + size])]

    assert received == frames


def test_lone_surrogates_pass() -> None:
    assert Decoder(1000).feed(pack(Kind.END, {"error": "a\ud800b"})) == [(Kind.END, {"error": "a\ud800b"})]


@pytest.mark.parametrize("character", ["x", "é", "語", "🐘"])
def test_frame_is_as_long_as_its_text_in_utf8(character: str) -> None:
    size = len(pack(Kind.END, {"result": character * 1000}))

    assert size < len(character.encode()) * 1000 + 100


def test_length_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(BrokenFrame, match="1001 bytes; 1000 are allowed"):
        Decoder(1000).feed(HEADER.pack(1001, Kind.END))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b"[" * 100_000],
)
def test_what_is_not_an_object_of_json_is_refused(body: bytes) -> None:
    with pytest.raises(BrokenFrame):
        Decoder(1 << 20).feed(HEADER.pack(len(body), Kind.END) + body)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(BrokenFrame, match="unknown kind 99"):
        Decoder(1000).feed(HEADER.pack(2, 99) + b"{}")


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    try:
        frames = Decoder(1000).feed(noise)
    except BrokenFrame:
        return
    for kind, body in frames:
        assert isinstance(kind, Kind)
        json.dumps(body)
