"""What the dashboard says: durations, sizes, outcomes, charts, ticks and colours, without a database."""

from __future__ import annotations

import re
import xml.dom.minidom
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from pq_adapters.dashboard import svg, ticks, words
from pq_adapters.dashboard.finding import BadFilter, Search
from pq_adapters.dashboard.pages.failures import place_of
from pq_adapters.dashboard.pages.task import traceback_lines

DASHBOARD = Path(__file__).parents[2] / "pq_adapters" / "dashboard"
NOW = datetime(2030, 5, 1, 12, tzinfo=UTC)
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/jobs.py", line 12, in work
    charge(order)
  File "/srv/app/bank/client.py", line 90, in charge
    raise shop.bank.CardDeclined("order 7: no answer")
shop.bank.CardDeclined: order 7: no answer
"""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.0001, "<1 ms"),
        (0.34, "340 ms"),
        (2, "2 s"),
        (2.44, "2.4 s"),
        (42.4, "42 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3599.9, "60 min"),
        (3600, "1 h"),
        (187_200, "2 d 4 h"),
        (-90, "−1 min 30 s"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "–"), (0, "0 B"), (2048, "2.0 KiB"), (536_870_912, "512 MiB"), (2**45, "32.0 TiB")]
)
def test_size(count: int | None, text: str) -> None:
    assert words.size(count) == text


def test_relative_times() -> None:
    assert words.relative(NOW - timedelta(seconds=200), NOW) == "3 min ago"
    assert words.relative(NOW + timedelta(hours=5), NOW) == "in 5 h"
    assert words.relative("infinity", NOW) == "infinity"
    assert words.relative(None, NOW) == "never"


@pytest.mark.parametrize(
    ("kind", "error", "ledger", "limit", "text"),
    [
        ("crashed", "killed by signal 11 (SIGSEGV)\nstack", {"signal": 11}, None, "killed by signal 11 (SIGSEGV)"),
        ("crashed", "exited with status 3", {"exit_code": 3}, None, "exited with status 3"),
        (
            "out_of_memory",
            TRACEBACK,
            {"peak_memory": 535_822_336},
            536_870_912,
            "memory limit 512 MiB reached at 511 MiB",
        ),
        ("raised", TRACEBACK, {}, None, "CardDeclined: order 7: no answer"),
        ("raised", None, None, None, "raised an exception"),
        ("timed_out", "timed out after 30 s\nTraceback", {}, None, "timed out after 30 s"),
        ("succeeded", None, {}, None, "succeeded"),
        ("lost", "lost: worker 3 (a) died while this ran", None, None, "lost: worker 3 (a) died while this ran"),
        (None, None, None, None, "not ended"),
    ],
)
def test_outcomes_in_words(kind: str | None, error: str | None, ledger: Any, limit: int | None, text: str) -> None:
    assert words.outcome(kind, error, ledger, limit) == text


def test_place_of_a_failure_is_its_last_frame() -> None:
    assert place_of(TRACEBACK) == "bank/client.py:90 in charge"
    assert place_of("killed by signal 9 (SIGKILL)") is None


def test_traceback_marks_frames_and_the_end() -> None:
    kinds = [kind for kind, _ in traceback_lines(TRACEBACK)]

    assert kinds == ["frame", "frame", "", "frame", "", "final"]


def test_chained_traceback_ends_with_the_last_exception() -> None:
    both = f"Traceback (most recent call last):\nKeyError: 'x'\n\nDuring handling, another:\n\n{TRACEBACK}"

    assert words.exception(both) == "shop.bank.CardDeclined: order 7: no answer"


def test_arguments_as_a_call() -> None:
    assert words.call({"args": [7, "a"], "kwargs": {"copy": True}}) == '7, "a", copy=true'
    assert words.call(None) == ""


@pytest.mark.parametrize(
    "drawing",
    [
        svg.bars([svg.Series("a", "ok", [1, 0, 3])], ["one", 'two "<&>', "three"], top=4, label="bars & more"),
        svg.lines([svg.Series("a", "p50", [1.0, None, 2.0])], ["x", "y", "z"], top=2, label="<lines>"),
        svg.spark([0, 0, 5], label="spark"),
        svg.spark([], label="nothing"),
        svg.columns([0, 1], label="columns"),
        svg.strip([("completed", "ran"), ("failed", "did not")], label="ticks"),
        svg.meter([("busy", 1), ("violet", 2)], whole=0, label="none"),
    ],
)
def test_drawings_are_xml_without_styles_or_scripts(drawing: str) -> None:
    if drawing:
        xml.dom.minidom.parseString(f'<r xmlns="x">{drawing}</r>')
    assert not re.search(r"\sstyle=|<script|\son\w+=", drawing)


def test_templates_hold_no_inline_code() -> None:
    for path in (DASHBOARD / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=|hx-on|javascript:|<script(?![^>]*\ssrc=)", text), path.name
        assert not re.search(r"https?://", text), path.name
        assert "| safe" not in text, path.name


def test_icons_are_there_by_the_names_that_templates_use() -> None:
    symbols = set(re.findall(r'<symbol id="([\w-]+)"', (DASHBOARD / "static" / "icons.svg").read_text()))
    xml.dom.minidom.parse(str(DASHBOARD / "static" / "icons.svg"))
    used = {
        name
        for path in (DASHBOARD / "templates").glob("*.html")
        for name in re.findall(r"icon\('([\w-]+)'", path.read_text(encoding="utf-8"))
    }

    assert sorted(used - symbols) == []


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_of_text_have_the_contrast_of_wcag_aa(mode: int) -> None:
    text = (DASHBOARD / "static" / "tokens.css").read_text(encoding="utf-8")
    pairs = {name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", text)}
    colour = {name: both[mode] for name, both in pairs.items()} | {"on-accent": "#ffffff"}
    words_on = [(word, ground) for word in ("text", "muted") for ground in ("bg", "surface", "raised", "hover")]
    words_on += [(word, ground) for word in ("accent", "bad", "ok", "warn") for ground in ("surface", "hover")]
    words_on += [(tone, f"{tone}-soft") for tone in ("ok", "bad", "warn", "busy", "calm", "violet", "accent")]
    words_on += [("on-accent", "accent-fill"), ("on-accent", "bad-solid"), ("text", "accent-soft")]
    shapes = [(f"{tone}-fill", "surface") for tone in ("ok", "bad", "busy", "violet")] + [("line-strong", "surface")]

    weak = {pair: round(ratio, 2) for pair in words_on if (ratio := contrast(colour[pair[0]], colour[pair[1]])) < 4.5}
    dim = {pair: round(ratio, 2) for pair in shapes if (ratio := contrast(colour[pair[0]], colour[pair[1]])) < 3}

    assert (weak, dim) == ({}, {})


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def schedule(**more: Any) -> dict[str, Any]:
    return {
        "cron": None, "run_every": 60.0, "timezone": None, "next_run": "2030-05-01T12:01:00+00:00", "start_at": None,
        "skipped": 0, "missed": 0, "last_skipped_at": None, "ticks": [], **more,
    }  # fmt: skip


def test_history_shows_ticks_that_became_nothing() -> None:
    made = [[f"2030-05-01T11:{minute:02}:00+00:00", minute, "completed", 1.0] for minute in (50, 47, 46)]

    past = ticks.history(schedule(ticks=made, skipped=3, last_skipped_at="2030-05-01T11:51:00+00:00"), now=NOW)

    assert [(tick.at.minute, tick.kind) for tick in past] == [
        (46, "completed"), (47, "completed"), (48, "skipped"), (49, "skipped"), (50, "completed"), (51, "skipped")
    ]  # fmt: skip


def test_history_is_fifty_ticks_at_most() -> None:
    made = [[(NOW - timedelta(minutes=i)).isoformat(), i, "failed", None] for i in range(0, 100, 2)]

    past = ticks.history(schedule(ticks=made, missed=1), now=NOW)

    assert len(past) == 50
    assert past[-1].at == NOW


def test_times_by_the_clock_of_a_schedule() -> None:
    assert ticks.in_zone("2030-07-01T07:00:00+00:00", "Europe/Berlin") == "Mon 2030-07-01 09:00"
    assert ticks.in_zone("2030-07-01T07:00:05+00:00", "No/Where") == "Mon 2030-07-01 07:00:05"


@pytest.mark.parametrize(
    "given",
    [
        {"state": "asleep"},
        {"priority": "high"},
        {"priority": "99999"},
        {"worker": "1.5"},
        {"schedule": str(2**63)},
        {"within": "1y"},
        {"until": "yesterday"},
        {"name": "a\x00b"},
        {"error": "x" * 1001},
    ],
)
def test_filter_that_can_not_be_is_refused_by_name(given: dict[str, str]) -> None:
    with pytest.raises(BadFilter, match=next(iter(given))):
        Search.of(given)


def test_filter_survives_its_own_address() -> None:
    given = {"state": "failed", "queue": "a & b", "priority": "-5", "until": "2030-01-01T10:00:00", "within": ""}
    search = Search.of(given)

    assert Search.of(search.parameters()) == search
    assert search.query(queue=None) == "state=failed&priority=-5&until=2030-01-01T10%3A00%3A00"
