"""A served dashboard with a key of each role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from pq_adapters.dashboard import create_app
from pq_core import PQ
from tests.dashboard import dashboard_tasks
from tests.dashboard.serving import client, served


@dataclass
class Site:
    """A running dashboard: its address, and clients by role."""

    pq: PQ
    address: str
    keys: dict[str, str]
    anonymous: httpx.Client
    viewer: httpx.Client
    operator: httpx.Client
    admin: httpx.Client


@pytest.fixture
def site(database: str) -> Iterator[Site]:
    with PQ(database, tasks=[dashboard_tasks.__name__]) as pq:
        keys = {role: pq.create_key(f"the {role}", role=role).key for role in ("viewer", "operator", "admin")}
        with served(create_app(PQ(database, tasks=[dashboard_tasks.__name__]))) as address:
            clients = {role: client(address, key) for role, key in keys.items()}
            with client(address) as anonymous:
                yield Site(pq=pq, address=address, keys=keys, anonymous=anonymous, **clients)
            for one in clients.values():
                one.close()
