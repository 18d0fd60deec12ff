"""Objects of the image that no longer count their references, in processes that are used for nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="CPython has immortal objects from 3.12 on")

PROGRAM = """
import gc, json, sys, weakref
from pq_core.worker.immortal import immortalize

class Loaded:
    def method(self): return "constant of " + self.__class__.__name__

class Held: pass

held, values = Held(), [1.5]
in_a_tuple = (Held(), frozenset([Held()]))
looked_at = [Loaded, Loaded.method, Loaded.method.__code__, json, vars(json), json.loads]
left_alone = [held, values, vars(held)]
count = immortalize()
assert count > 1000, count
before = [[sys.getrefcount(one) for one in ones] for ones in (looked_at, left_alone)]
many = [(one, one, one) for one in (*looked_at, *left_alone)]
after = [[sys.getrefcount(one) for one in ones] for ones in (looked_at, left_alone)]
assert before[0] == after[0], "no count of what is loaded moves"
assert all(b < a for b, a in zip(before[1], after[1])), "what a program holds is counted as ever"

del many, left_alone
gone = []
weakref.finalize(held, gone.append, 1)
del held
assert gone == [1], "an instance still ends with its last reference"
weakref.finalize(in_a_tuple[0], gone.append, 2)
del in_a_tuple
assert gone == [1, 2], "and so does what a tuple of the program's holds"

# And everything goes on: calls, errors, new classes and functions, collections, the end.
assert Loaded().method() == "constant of Loaded"
exec("def late(x): return json.dumps([x])")
assert late(Loaded().method()) == '["constant of Loaded"]'
try: {}["missing"]
except KeyError as error: assert error.args == ("missing",)
assert immortalize() >= 0
gc.collect()
print("well")
"""


def test_what_is_loaded_counts_no_more_and_the_rest_as_ever() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "well", "")


@pytest.mark.parametrize("module", ["asyncio", "decimal", "sqlalchemy.orm", "psycopg", "pytest"])
def test_programs_end_as_ever(module: str) -> None:
    program = (
        f"import {module}, atexit, tempfile, os\n"
        "from pq_core.worker.immortal import immortalize\n"
        "unclosed = tempfile.NamedTemporaryFile('w', delete=False)\n"
        "print(unclosed.name, flush=True)\n"
        "unclosed = (unclosed,)\n"
        "assert immortalize()\n"
        "atexit.register(print, 'at exit', flush=True)\n"
        "unclosed[0].write('written at the very end')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    path, word = done.stdout.splitlines()
    assert (done.returncode, word) == (0, "at exit")
    assert Path(path).read_text() == "written at the very end"
    Path(path).unlink()


def test_modules_that_load_themselves_when_asked_are_let_alone(tmp_path: Path) -> None:
    (tmp_path / "heavy.py").write_text("raise SystemExit('it was loaded')\n")
    program = """
import importlib.util, sys
from pq_core.worker.immortal import immortalize
spec = importlib.util.find_spec("heavy")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = sys.modules["heavy"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert immortalize([module], module) > 0
print("well")
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n{program}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "well", "")
