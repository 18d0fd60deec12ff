"""The benchmarks' own tables, files and plots; what they measure is run by hand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.plot import Bar, draw
from benchmarks.report import Report

ROOT = Path(__file__).parents[2]


def test_a_report_holds_medians_spreads_and_ratios_of_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report("speed", {"rounds": 3})
    for one, other in ((10.0, 20.0), (30.0, 30.0), (20.0, 10.0)):
        report.add("ours <b>", "rate", one, "tasks/s")
        report.add("theirs", "rate", other, "tasks/s")
    report.ratio("rate", "ours <b>", "theirs", goal=">= 1")
    report.ratio("rate", "ours <b>", "nobody")
    report.finish(tmp_path)

    found = json.loads((tmp_path / "speed.json").read_text())
    assert [(s["variant"], s["median"], s["values"]) for s in found["series"]] == [
        ("ours <b>", 20.0, [10.0, 30.0, 20.0]),
        ("theirs", 20.0, [20.0, 30.0, 10.0]),
    ]
    assert [(r["of"], r["to"], r["values"], r["median"]) for r in found["ratios"]] == [
        ("ours <b>", "theirs", [0.5, 1.0, 2.0], 1.0)
    ]
    assert found["machine"]["cpu"]
    assert found["versions"]["python"]
    text = capsys.readouterr().out
    assert "ours <b> / theirs = 1.00 (0.50 to 2.00; goal: >= 1)" in text
    image = ElementTree.parse(tmp_path / "speed.svg")
    assert "ours <b>" in {element.text for element in image.iter()}


def test_bars_stay_inside_the_image() -> None:
    image = ElementTree.fromstring(draw("t", {"a": [Bar("x", 5, 1, 9), Bar("y", 0, 0, 0)], "none": []}))
    width = float(image.attrib["width"])
    for element in image.iter():
        if element.tag.endswith("line"):
            assert 0 <= float(element.attrib["x1"]) <= float(element.attrib["x2"]) < width


@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_says_what_it_takes(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first = (importlib.import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]
    assert " ".join(first.split()) in " ".join(done.stdout.split())
    assert "--rounds" in done.stdout
