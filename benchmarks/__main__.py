"""``python -m benchmarks NAME``: measure, print, write ``benchmarks/results/NAME.json`` and ``.svg``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.report import RESULTS

NAMES = ("drain", "latency", "enqueue", "fork", "flat", "scale", "bloat", "image", "limits", "peers", "failures")


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in NAMES}
    for name, module in modules.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").partition("\n")[0], description=module.__doc__)
        command.add_argument("--dsn", help="a superuser's DSN; by default a server of its own with stock settings")
        command.add_argument("--rounds", type=int, default=5, help="in each, every variant has its turn [5]")
        command.add_argument("--results", type=Path, default=RESULTS, help="folder for JSON and SVG")
        module.arguments(command)
    given = parser.parse_args()
    modules[given.name].run(given).finish(given.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
