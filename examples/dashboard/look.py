"""Serve the shop for a moment, and ask as its staff would."""

from __future__ import annotations

import socket
import threading
import time

import httpx
import shop
import uvicorn

with socket.socket() as listening:
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(shop.app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.05)
    ada, bob = {"X-Shop-Token": "ada-token"}, {"X-Shop-Token": "bob-token"}
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", trust_env=False) as shopper:
        task = shopper.post("/orders/7/pack", headers=bob).json()["task"]
        api = "/ops/tasks/api/v1"
        print("a stranger gets", shopper.get(f"{api}/tasks").status_code)
        found = shopper.get(f"{api}/tasks/{task}", headers=bob).json()
        print("bob sees", found["name"], found["status"])
        print("bob cancels:", shopper.post(f"{api}/tasks/{task}/cancel", headers=bob).status_code)
        print(
            "ada cancels:", shopper.post(f"{api}/tasks/{task}/cancel", headers=ada, json={"reason": "sold"}).status_code
        )
        (entry,) = shopper.get(f"{api}/audit", headers=ada).json()["items"]
        print("audit log:", entry["actor"], entry["action"], entry["target"])
    server.should_exit = True
    thread.join()
