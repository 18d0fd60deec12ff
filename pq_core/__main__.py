"""``python -m pq_core``: the same as the command ``pq``."""

from __future__ import annotations

import importlib


def main() -> None:
    """Run the command line, which is an adapter: found by its name, so that core imports nothing above it."""
    importlib.import_module("pq_adapters.cli").main()


if __name__ == "__main__":
    main()
