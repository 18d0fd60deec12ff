"""Serve the shop for a moment, order tea and coffee over HTTP, and follow the task to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import shop
import uvicorn


@contextmanager
def served() -> Iterator[str]:
    """Run the server in a thread; `uvicorn shop:app` is what you would do."""
    server = uvicorn.Server(uvicorn.Config(shop.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def main() -> None:
    """Order, and wait."""
    with served() as url, httpx.Client(base_url=url) as http:
        answer = http.post("/orders", json={"item": "coffee", "price": "3.00"})
        print(answer.status_code, answer.json()["detail"])

        answer = http.post("/orders", json={"item": "tea", "price": "4.20"})
        print(answer.status_code, answer.json())
        while (task := http.get(answer.headers["Location"]).json())["status"] in ("pending", "running"):
            time.sleep(0.1)
        print(f"{task['name']} {task['status']}: {task['result']}")
    print("tasks:", len(shop.pq.list_tasks()))


if __name__ == "__main__":
    main()
