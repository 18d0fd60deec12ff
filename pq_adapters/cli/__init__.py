"""The command line ``pq``.

Importing this loads no click: the demo's tasks live below it, and run in a worker whose image shall stay small.
"""

from __future__ import annotations


def main() -> None:
    """Run ``pq`` with the arguments of this process; ends the process."""
    from pq_adapters.cli.root import root

    root(prog_name="pq")
