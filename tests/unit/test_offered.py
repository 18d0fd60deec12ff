"""Whether a package may offer plugins, told without reading packages' metadata."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pq_hooks.offered import may_be_offered, offered

GROUP = "pq.test-offered"
LIST = f"[{GROUP}]\ngood = somewhere:Good\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in."""
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def install(folder: Path, text: str = LIST) -> Path:
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(text)
    return folder


@pytest.mark.usefixtures("place")
def test_nothing_is_offered_where_no_list_names_the_group() -> None:
    assert not may_be_offered(GROUP)
    assert list(offered(GROUP)) == []


@pytest.mark.parametrize("folder", ["offering-1.0.dist-info", "offering.egg-info", "Offering-1.0.DIST-INFO"])
def test_what_a_list_names_is_found(place: Path, folder: str) -> None:
    install(place / folder, "[console_scripts]\nx = y:z\n")
    assert not may_be_offered(GROUP)
    (place / folder / "entry_points.txt").write_text(LIST)
    assert may_be_offered(GROUP)


def test_installed_packages_are_found_as_importlib_finds_them(place: Path) -> None:
    install(place / "offering-1.0.dist-info")
    assert [one.value for one in offered(GROUP)] == ["somewhere:Good"]


def test_egg_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    egg = tmp_path / "offering-1.0-py3.13.egg"
    install(egg / "EGG-INFO")
    monkeypatch.syspath_prepend(egg)
    importlib.invalidate_caches()
    assert [one.value for one in entry_points(group=GROUP)] == ["somewhere:Good"]
    assert may_be_offered(GROUP)


def test_where_it_cannot_be_told_the_answer_is_perhaps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(place / "nowhere"), b"bytes"])
    assert not may_be_offered(GROUP)
    with zipfile.ZipFile(place / "packages.zip", "w") as archive:
        archive.writestr("module.py", "")
    for odd in (str(place / "packages.zip"), "a\0b"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [*sys.path, odd])
            assert may_be_offered(GROUP)

    class Finder:
        find_distributions = None

    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
        assert may_be_offered(GROUP)


def test_odd_files_among_packages_hurt_nobody(place: Path) -> None:
    (place / "file.egg-info").write_text("Name: file\n")
    assert not may_be_offered(GROUP)
    (place / "folder.dist-info" / "entry_points.txt").mkdir(parents=True)
    assert may_be_offered(GROUP)
    assert list(offered(GROUP)) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_list_that_may_not_be_read_hurts_nobody(place: Path) -> None:
    (install(place / "offering-1.0.dist-info") / "entry_points.txt").chmod(0)
    assert may_be_offered(GROUP)
    assert list(offered(GROUP)) == []
