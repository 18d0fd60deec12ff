"""Who gets in, and who may do what: every route of the application is asked as everybody."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from pq_adapters.dashboard import Principal, Role, create_app
from pq_adapters.dashboard.routes import GuardedRoute, PublicFiles
from pq_adapters.dashboard.throttle import Throttle
from pq_core import PQ, InvalidOption, keys
from pq_core.keys import KeyRecord
from tests.dashboard.conftest import Site
from tests.dashboard.serving import client, served
from tests.integration.worker_process import eventually

ROLES = [Role.VIEWER, Role.OPERATOR, Role.ADMIN]


def guarded() -> list[tuple[str, str, GuardedRoute]]:
    app = create_app(PQ("postgresql://nowhere"))
    routes = [one for one in app.routes if isinstance(one, GuardedRoute)]
    return [(method, one.path, one) for one in routes for method in sorted((one.methods or set()) - {"HEAD"})]


def test_every_route_has_a_role() -> None:
    app = create_app(PQ("postgresql://nowhere"))

    assert [one for one in app.routes if not isinstance(one, (GuardedRoute, PublicFiles))] == []
    public = {one.path for one in app.routes if isinstance(one, (Route, Mount)) and one.role is Role.PUBLIC}  # type: ignore[union-attr]
    assert public == {"/login", "/logout", "/healthz", "/readyz", "/static"}
    for method, path, one in guarded():
        assert method == "GET" or one.role in (Role.OPERATOR, Role.ADMIN, Role.PUBLIC), f"{method} {path}"


def test_all_routes_as_everybody(site: Site) -> None:
    """Whoever lacks the role is turned away before anything else is looked at; whoever has it is not."""
    for method, template, one in guarded():
        path = re.sub(r"\{[^}]*\}", "999999999", template)
        if one.role is Role.PUBLIC or "live" in path or "events" in path:
            continue
        answer = site.anonymous.request(method, path)
        if one.api:
            assert answer.status_code == 401, f"{method} {path}"
            assert answer.headers["www-authenticate"].startswith("Bearer")
        else:
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")
        for role in ROLES:
            headers = {"Authorization": f"Bearer {site.keys[role]}"}
            answer = site.anonymous.request(method, path, headers=headers)
            if role.allows(one.role):
                assert answer.status_code not in (401, 403), f"{method} {path} as {role}: {answer.text}"
            else:
                assert answer.status_code == 403, f"{method} {path} as {role}"
    assert site.pq.audit_log() == [] or all(one.actor != "the viewer" for one in site.pq.audit_log())


def login(site: Site, key: str, **more: Any) -> httpx.Response:
    return site.anonymous.post("/login", data={"key": key, **more})


def test_login_gives_a_session_that_ends_with_the_key(site: Site) -> None:
    answer = login(site, site.keys["viewer"], next="/api/v1/whoami")
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/v1/whoami")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert site.keys["viewer"] not in cookie
    assert site.anonymous.get("/api/v1/whoami").json()["name"] == "the viewer"

    (key,) = [one for one in site.pq.list_keys() if one.role == "viewer"]
    site.pq.revoke_key(key.id)

    statuses = []
    for _ in range(100):
        statuses.append(site.anonymous.get("/api/v1/whoami").status_code)
        if statuses[-1] != 200:
            break
        threading.Event().wait(0.1)
    assert statuses[-1] == 401


def test_logout_forgets_the_cookie(site: Site) -> None:
    login(site, site.keys["viewer"])
    answer = site.anonymous.post("/logout", headers={"Origin": site.address})

    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert site.anonymous.get("/api/v1/whoami").status_code == 401


@pytest.mark.parametrize("key", ["", "pq_wrong", "x" * 5000, "pq_\x00"])
def test_wrong_key_gets_nowhere(site: Site, key: str) -> None:
    answer = login(site, key)

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_expired_key_gets_nowhere(site: Site) -> None:
    made = site.pq.create_key("late", role="admin", expires_at=datetime.now(tz=UTC) + timedelta(days=1))
    with site.pq.session() as connection:
        connection.execute("UPDATE pq_keys SET expires_at = now() - interval '1 second' WHERE id = %s", (made.id,))

    assert login(site, made.key).status_code == 401
    assert [one.active for one in site.pq.list_keys() if one.id == made.id] == [False]


def test_forged_cookie_gets_nowhere(site: Site) -> None:
    good = login(site, site.keys["viewer"]).cookies["pq_session"]
    head, _, rest = good.partition(".")
    other = next(str(one.id) for one in site.pq.list_keys() if one.role == "admin")
    for cookie in (f"{other}.{rest}", f"{head}.{rest}x", head, "", "9" * 30, f"{head}.x.y", "²." + rest):
        site.anonymous.cookies.clear()
        found = site.anonymous.get("/api/v1/whoami", headers={"Cookie": f"pq_session={cookie}".encode()})
        assert found.status_code == 401, cookie


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\n/b", "evil"])
def test_login_leads_to_no_other_site(site: Site, wanted: str) -> None:
    assert login(site, site.keys["viewer"], next=wanted).headers["location"] == "/"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_changes_come_from_own_pages_only(site: Site, headers: dict[str, str], status: int) -> None:
    login(site, site.keys["operator"])

    answer = site.anonymous.post("/api/v1/queues/default/pause", headers=headers)

    assert answer.status_code == status
    assert [one.paused for one in site.pq.queues()] == ([True] if status == 200 else [])


def test_own_origin_is_known_by_its_host(site: Site) -> None:
    login(site, site.keys["operator"])

    answer = site.anonymous.post("/api/v1/queues/default/pause", headers={"Origin": site.address})

    assert answer.status_code == 200
    foreign = site.operator.post("/api/v1/queues/other/pause", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403


def test_attempts_are_limited_and_owners_are_not_locked_out(site: Site) -> None:
    statuses = [login(site, f"pq_{n}").status_code for n in range(12)]

    assert statuses[:10] == [401] * 10
    assert 429 in statuses[10:]
    assert login(site, site.keys["viewer"]).status_code == 303
    blocked = site.anonymous.get("/api/v1/whoami", headers={"Authorization": "Bearer pq_11"})
    assert blocked.status_code == 429
    assert int(blocked.headers["retry-after"]) >= 1


def test_throttle_is_bounded_and_refills() -> None:
    now = [0.0]
    throttle = Throttle(each=2, refill=10, total=5, total_refill=100, addresses=2, clock=lambda: now[0])

    assert [throttle.failed("a") for _ in range(3)] == [None, None, 10]
    now[0] = 10
    assert throttle.failed("a") is None
    assert throttle.failed("b") is None
    assert throttle.failed("c") is None
    assert throttle.failed("d") is not None  # all together
    assert len(throttle._buckets) <= 2


def test_every_answer_has_the_headers(site: Site) -> None:
    for path in ("/login", "/api/v1/tasks", "/nowhere", "/static/nothing", "/healthz"):
        headers = site.anonymous.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "server" not in headers or headers["server"] == "uvicorn"


@pytest.fixture
def open_site(database: str) -> Iterator[tuple[PQ, httpx.Client]]:
    with PQ(database) as pq:
        app = create_app(PQ(database), open_without_keys=True, allowed_hosts=["127.0.0.1"])
        with served(app) as address, client(address) as one:
            yield pq, one


def test_open_on_loopback_until_there_is_a_key(open_site: tuple[PQ, httpx.Client]) -> None:
    pq, one = open_site
    assert one.get("/api/v1/whoami").json() == {"name": "local", "role": "admin", "key_id": None}
    assert one.post("/api/v1/queues/q/pause").status_code == 200
    foreign = one.post("/api/v1/queues/q/resume", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403

    made = pq.create_key("me", role="viewer")
    eventually(lambda: one.get("/api/v1/whoami").status_code == 401)

    pq.revoke_key(made.id)
    eventually(lambda: one.get("/api/v1/whoami", headers={"Authorization": f"Bearer {made.key}"}).status_code == 401)
    assert one.get("/api/v1/whoami").status_code == 401, "as long as there are no keys, not when they have ended"


def test_open_door_stays_shut_when_the_only_key_has_ended(database: str) -> None:
    with PQ(database) as pq:
        pq.revoke_key(pq.create_key("me", role="admin").id)
        app = create_app(PQ(database), open_without_keys=True, allowed_hosts=["127.0.0.1"])
        with served(app) as address, client(address) as one:
            assert one.get("/api/v1/whoami").status_code == 401
            assert one.post("/api/v1/queues/q/pause").status_code == 401


def test_key_that_has_expired_already_is_not_made(database: str) -> None:
    with PQ(database) as pq:
        with pytest.raises(InvalidOption, match="the database's clock has passed that"):
            pq.create_key("late", role="viewer", expires_at=datetime.now(UTC) - timedelta(seconds=5))
        assert pq.list_keys() == []


def test_end_of_the_last_admin_key_is_told_before() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)

    def key(role: Any, days: float | None, *, active: bool = True) -> KeyRecord:
        until = None if days is None else now + timedelta(days=days)
        return KeyRecord(id=1, name="ada", role=role, prefix="pq_x", created_at=now, expires_at=until, active=active)

    assert keys.warning([], now) is None
    assert keys.warning([key("admin", None), key("admin", 1)], now) is None
    assert keys.warning([key("admin", 8)], now) is None
    assert "ada's, expires at 2026-03-07" in (keys.warning([key("admin", 2), key("admin", 6)], now) or "")
    assert "no admin key that is good" in (
        keys.warning([key("viewer", None), key("admin", 9, active=False)], now) or ""
    )


def test_other_hosts_and_proxies_get_no_open_door(open_site: tuple[PQ, httpx.Client]) -> None:
    _, one = open_site

    assert one.get("/api/v1/whoami", headers={"Host": "evil.example"}).status_code == 400
    assert one.get("/api/v1/whoami", headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 401
    assert one.get("/login", headers={"Host": "evil.example"}).status_code == 400


def test_mounted_with_its_hosts_auth(database: str) -> None:
    async def auth(request: Any) -> Principal | None:
        await asyncio.sleep(0)
        user = request.headers.get("x-user")
        return Principal(name=user, role=Role.VIEWER) if user else None

    outer = Starlette(routes=[Mount("/ops/pq", app=create_app(PQ(database), auth=auth))])
    with served(outer) as address, client(address) as one:
        assert one.get("/ops/pq/api/v1/whoami", headers={"x-user": "ada"}).json()["name"] == "ada"
        assert one.get("/ops/pq/api/v1/whoami").status_code == 401
        assert one.post("/ops/pq/api/v1/queues/a/pause", headers={"x-user": "ada"}).status_code == 403
        document = one.get("/ops/pq/api/v1/openapi.json", headers={"x-user": "ada"}).json()
        assert document["servers"] == [{"url": "/ops/pq"}]
        assert one.get("/ops/pq/nowhere").status_code == 404


def test_mounted_login_stays_below_its_path(database: str) -> None:
    with PQ(database) as pq:
        key = pq.create_key("me", role="viewer").key
    outer = Starlette(routes=[Mount("/pq", app=create_app(PQ(database)))])
    with served(outer) as address, client(address) as one:
        answer = one.post("/pq/login", data={"key": key, "next": "/elsewhere"})
        assert answer.headers["location"] == "/pq/"
        assert "Path=/pq" in answer.headers["set-cookie"]


def test_secret_of_the_settings_is_part_of_sessions(database: str) -> None:
    with PQ(database) as pq:
        key = pq.create_key("me", role="viewer").key
    apps = [create_app(PQ(database), secret=secret) for secret in ("a", "a", "b")]
    with served(apps[0]) as first, served(apps[1]) as second, served(apps[2]) as third:
        with client(first) as one:
            cookie = one.post("/login", data={"key": key}).cookies["pq_session"]
        found = []
        for address in (second, third):
            with client(address, cookies={"pq_session": cookie}) as one:
                found.append(one.get("/api/v1/whoami").status_code)
    assert found == [200, 401]


def test_database_that_is_gone_is_503() -> None:
    app = create_app(PQ("host=127.0.0.1 port=1 user=nobody"))
    with served(app) as address, client(address, "pq_x") as one:
        assert one.get("/healthz").status_code == 200
        assert one.get("/readyz").status_code == 503
        answer = one.get("/api/v1/tasks")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "options",
    [{"auth": 5}, {"body_limit": 0}, {"session": 5}, {"allowed_hosts": "localhost"}, {"allowed_origins": "x"}],
)
def test_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        create_app(PQ("postgresql://nowhere"), **options)


def test_metrics(site: Site) -> None:
    site.pq.pause_queue("q")

    text = site.viewer.get("/metrics").text

    assert 'pq_queue_paused{queue="q"} 1.0' in text
    assert "pq_workers 0.0" in text
    assert site.anonymous.get("/readyz").status_code == 200
