"""A client as a process: enqueues once, and again at each line that it is given; says what came of it and when."""

from __future__ import annotations

import json
import sys
import time

from pq_core.errors import DatabaseUnavailable
from tests.chaos import app


def main() -> None:
    """Answer each line with the error, None if there was none, and the seconds that it took."""
    with app.create_pq() as pq:
        pq.enqueue(app.probe.call())
        print("ready", flush=True)
        for _ in sys.stdin:
            began = time.monotonic()
            error = None
            try:
                pq.enqueue(app.probe.call())
            except DatabaseUnavailable as found:
                error = str(found)
            print(json.dumps([error, time.monotonic() - began]), flush=True)


if __name__ == "__main__":
    main()
