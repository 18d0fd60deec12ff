"""What stands for another type is stored as that, and what was accepted arrives whatever the clock says by then."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from pq_core import PayloadDecodeError, PayloadError
from pq_core.payload import decode, encode, interchangeable

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


def carried(value: Any) -> Any:
    """Return what arrives."""
    args, _ = decode(json.loads(json.dumps(encode((value,), {}))))
    return args[0]


def test_drivers_uuid() -> None:
    asyncpg = pytest.importorskip("asyncpg.pgproto.pgproto")
    arrived = carried({"order": asyncpg.UUID(str(uuid.UUID(int=7)))})
    assert arrived == {"order": uuid.UUID(int=7)}
    assert type(arrived["order"]) is uuid.UUID


def test_djangos_text() -> None:
    django = pytest.importorskip("django")
    safestring = pytest.importorskip("django.utils.safestring")
    from django.conf import settings
    from django.utils.translation import gettext_lazy

    html = safestring.mark_safe("<b>")
    for value in (html, str(html), f"{html}", html + safestring.mark_safe("x")):
        arrived = carried(value)
        assert arrived == value
        assert type(arrived) is str
    if not settings.configured:
        # As other tests in this process do it: settings can be made once.
        settings.configure(USE_TZ=True, LOGGING_CONFIG=None)
        django.setup()
    assert carried(gettext_lazy("Yes")) == "Yes"


def test_sqlalchemys_mutable_values() -> None:
    mutable = pytest.importorskip("sqlalchemy.ext.mutable")
    for value, kind in ((mutable.MutableDict(a=[1]), dict), (mutable.MutableList([1, {}]), list)):
        arrived = carried(value)
        assert arrived == value
        assert type(arrived) is kind


class Loud(str):
    __slots__ = ()


class Liar(int):
    pass


def test_others_are_refused_with_what_helps() -> None:
    with pytest.raises(PayloadError, match=r"pass str.__str__\(value\), or name it to pq_core.payload.interchangeable"):
        carried(Loud("a"))
    assert type(str.__str__(Loud("a"))) is str

    interchangeable(Loud, str.__str__)
    assert type(carried([Loud("a")])[0]) is str
    interchangeable(Liar, lambda value: int(value) + 1)
    with pytest.raises(PayloadError, match="is not equal to it"):
        carried(Liar(1))


def test_models_arrive_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pydantic = pytest.importorskip("pydantic")
    Remind = pydantic.create_model(
        "Remind",
        __config__=pydantic.ConfigDict(extra="allow"),
        __module__=__name__,
        at=(pydantic.FutureDatetime, ...),
        file=(pydantic.FilePath, ...),
        count=(int, 3),
    )
    monkeypatch.setattr(sys.modules[__name__], "Remind", Remind, raising=False)
    path = tmp_path / "there"
    path.touch()
    remind = Remind(at=datetime.now(UTC) + timedelta(hours=1), file=path, more="x")
    stored = json.loads(json.dumps(encode((remind,), {})))
    path.unlink()
    stored["args"][0]["value"]["at"]["value"] = "2020-01-01T00:00:00+00:00"  # as if it had waited for so long

    (arrived,), _ = decode(stored)

    assert type(arrived) is Remind
    assert (arrived.at.year, arrived.file, arrived.count, arrived.more) == (2020, path, 3, "x")
    assert arrived.model_fields_set == remind.model_fields_set
    stored["args"][0]["shape"] = "of other fields"
    with pytest.raises(PayloadDecodeError, match="should be in the future"):
        decode(stored)


def test_generic_models_are_named_with_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Page(pydantic.BaseModel, Generic[T]):  # type: ignore[misc, name-defined]
        items: list[T]

    Line = pydantic.create_model("Line", __module__=__name__, text=(str, ...))
    Page.__qualname__ = "Page"
    for one in (Page, Line):
        monkeypatch.setattr(sys.modules[__name__], one.__name__, one, raising=False)
    value = Page[Page[Line]](items=[Page[Line](items=[Line(text="a")])])

    assert carried(value) == value
    assert encode((value,), {})["args"][0]["type"] == f"{__name__}:Page[{__name__}:Page[{__name__}:Line]]"
    with pytest.raises(PayloadError, match="declare class X"):
        carried(Page[int | None](items=[]))


PROGRAM = """
import json, sys
from dataclasses import dataclass
from enum import Enum
from pq_core.payload import decode, encode

@dataclass
class Item:
    name: str

class Size(Enum):
    BIG = 1

if __name__ == "__main__":
    if sys.argv[1:]:
        print(decode(json.loads(sys.argv[1]))[0] == (Item("tea"), Size.BIG))
    else:
        print(json.dumps(encode((Item("tea"), Size.BIG), {})))
"""


@pytest.mark.parametrize("arguments", [["shop.py"], ["-m", "shop"]], ids=" ".join)
def test_classes_of_the_program_that_runs(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)

    def run(*more: str) -> str:
        command = [sys.executable, *more]
        environment = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    stored = run(*arguments)
    assert "__main__" not in stored
    imported = "import sys, json, shop; from pq_core.payload import decode; print(decode(json.loads(sys.argv[1]))[0])"
    assert "Item(name='tea')" in run("-c", imported, stored)
    assert run(*arguments, stored).strip() == "True"
