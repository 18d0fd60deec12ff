"""Memory that worker and child share."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pq_core.worker import shared
from pq_core.worker.shared import Place, StopReason, Tee, install_tees, remove_tees


@pytest.fixture
def place() -> Iterator[Place]:
    place = Place(tail=16)
    yield place
    place.close()


def test_stop_counts_for_the_run_it_was_left_for(place: Place) -> None:
    assert place.stop_reason(7, 1) is StopReason.NONE
    place.stop(7, 2, StopReason.CANCEL)

    assert place.stop_reason(7, 2) is StopReason.CANCEL
    assert place.stop_reason(7, 1) is StopReason.NONE
    assert place.stop_reason(8, 2) is StopReason.NONE
    place.reset()
    assert place.stop_reason(7, 2) is StopReason.NONE


def test_words_of_a_stop_are_cut_to_what_fits_and_forgotten(place: Place) -> None:
    assert place.stop_words() is None
    place.append(b"output")
    place.stop(7, 2, StopReason.CANCEL, "no need ü")
    assert place.stop_words() == "no need ü"

    place.stop(7, 2, StopReason.CANCEL, "ü" * 5000)

    words = place.stop_words()
    assert words is not None
    assert set(words) == {"ü"}
    assert place.output() == "output"
    place.reset()
    assert place.stop_words() is None


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(1, 40))
def test_ring_keeps_the_end(pieces: list[bytes], size: int) -> None:
    place = Place(tail=size)
    try:
        for piece in pieces:
            place.append(bytes(byte % 95 + 32 for byte in piece))
        whole = b"".join(bytes(byte % 95 + 32 for byte in piece) for piece in pieces).decode()
        output = place.output()
    finally:
        place.close()

    if not whole:
        assert output is None
    elif len(whole) <= size:
        assert output == whole
    else:
        assert output == f"[{len(whole) - size} bytes before this are left out]\n{whole[-size:]}"


def test_no_tail_keeps_nothing() -> None:
    place = Place(tail=0)
    place.append(b"x")
    assert place.output() is None
    place.close()


def test_next_run_sees_nothing_of_the_last(place: Place) -> None:
    place.append(b"old output")
    os.write(place.stack_fd, b"old stack")
    place.reset()

    assert place.output() is None
    assert place.stacks() == ""
    os.write(place.stack_fd, b"new")
    assert place.stacks() == "new"


def test_character_cut_by_the_ring_is_made_fit(place: Place) -> None:
    place.append("ä".encode() * 9)

    assert "\ufffd" not in (place.output() or "").partition("\n")[2].strip("\ufffd")


def test_files_of_ours_have_high_numbers(place: Place) -> None:
    """What a task opens after it closed everything gets a low number."""
    assert place.stack_fd >= 100


def test_tee_passes_on_and_keeps_only_in_a_child(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    under = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    tee = Tee(under)
    tee.write("worker ")
    monkeypatch.setattr(shared, "_kept_in", [place])
    tee.write("child ")
    tee.writelines(["a", "b"])
    tee.buffer.write(b"c")

    assert under.buffer.getvalue() == b"worker child abc"  # type: ignore[attr-defined]
    assert place.output() == "child abc"
    assert tee.encoding == "utf-8"


def test_tees_are_installed_once_and_removed() -> None:
    before = sys.stdout, sys.stderr
    install_tees()
    install_tees()
    assert isinstance(sys.stdout, Tee)
    assert not isinstance(sys.stdout._stream, Tee)
    remove_tees()

    assert (sys.stdout, sys.stderr) == before
