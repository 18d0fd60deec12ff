"""The task ``pq.webhook`` against real HTTP servers: what goes out, what comes back, and what is refused."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_adapters.webhook import Secret, WebhookFailed, WebhookOptions, WebhookRefused, WebhookUnavailable, webhooks
from pq_adapters.webhook.addresses import is_public, permitted
from pq_adapters.webhook.answers import retry_after
from pq_adapters.webhook.message import Message
from pq_adapters.webhook.sending import send
from pq_adapters.webhook.signing import signature_headers
from pq_core import PQ, InvalidOption, Retry, TaskFailed, TaskStatus
from tests.adapters.http_server import Asked, Server, serving
from tests.integration.worker_process import ROOT, WorkerProcess, eventually, running

LOOPBACK = ("127.0.0.0/8", "::1/128")


@pytest.fixture
def receiver() -> Iterator[Server]:
    with serving() as receiver:
        yield receiver


def options(receiver: Server, **given: Any) -> WebhookOptions:
    return WebhookOptions(**{"allow": [f"localhost:{receiver.port}"], "networks": LOOPBACK, **given})


def call(receiver: Server, path: str = "/", *, given: WebhookOptions | None = None, **said: Any) -> dict[str, Any]:
    return send(Message(url=receiver.url(path), key="key-1", **said), given or options(receiver))


# --- what goes out


def test_body_and_headers_arrive_as_they_were_said(receiver: Server) -> None:
    result = call(receiver, "/hook?a=1", method="PUT", headers={"X-Shop": "7"}, body={"total": 7, "name": "Ärger"})

    [asked] = receiver.asked
    assert (asked.method, asked.path) == ("PUT", "/hook?a=1")
    assert json.loads(asked.body) == {"total": 7, "name": "Ärger"}
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["x-shop"] == "7"
    assert asked.headers["idempotency-key"] == "key-1"
    assert asked.headers["host"] == f"localhost:{receiver.port}"
    assert (result["status"], result["body"], result["truncated"]) == (200, "ok", False)


def test_without_a_body_none_is_sent(receiver: Server) -> None:
    call(receiver, method="GET")

    assert receiver.asked[0].body == b""
    assert "content-type" not in receiver.asked[0].headers


def test_receiver_can_check_the_signature(receiver: Server) -> None:
    call(receiver, body=[1, 2], secret="shop", given=options(receiver, secrets={"shop": "s3cret-key"}))

    [asked] = receiver.asked
    signed = f"key-1.{asked.headers['webhook-timestamp']}.".encode() + asked.body
    expected = base64.b64encode(hmac.new(b"s3cret-key", signed, hashlib.sha256).digest()).decode()
    assert asked.headers["webhook-id"] == "key-1"
    assert asked.headers["webhook-signature"] == f"v1,{expected}"
    assert abs(int(asked.headers["webhook-timestamp"]) - time.time()) < 60


def test_signature_is_that_of_the_specifications_key_form() -> None:
    key = b"\x01\x02 a key"
    plain = signature_headers("whsec_" + base64.b64encode(key).decode(), id="m", timestamp=5, body=b"{}")

    expected = base64.b64encode(hmac.new(key, b"m.5.{}", hashlib.sha256).digest()).decode()
    assert plain["webhook-signature"] == f"v1,{expected}"


def test_two_secrets_sign_while_one_is_replaced() -> None:
    both = signature_headers("new old", id="m", timestamp=5, body=b"{}")["webhook-signature"].split(" ")

    assert both == [
        signature_headers(one, id="m", timestamp=5, body=b"{}")["webhook-signature"] for one in ("new", "old")
    ]


def test_secrets_go_into_headers_and_url_by_name_and_into_no_stored_text(receiver: Server) -> None:
    receiver.reply = lambda asked: (200, {}, f"{asked.headers['authorization']} {asked.path}".encode())
    given = options(receiver, secrets={"token": "t0p/secret", "path": lambda: "B0/X1"})

    result = call(receiver, "/services/${path}", headers={"Authorization": "Bearer ${token}"}, given=given)

    assert receiver.asked[0].headers["authorization"] == "Bearer t0p/secret"
    assert receiver.asked[0].path == "/services/B0%2FX1"
    assert result["body"] == "Bearer [secret] /services/[secret]"


def test_secret_in_an_error_is_blotted_out(receiver: Server) -> None:
    receiver.reply = lambda asked: (400, {}, asked.headers["authorization"].encode())
    given = options(receiver, secrets={"token": "t0p-secret"})

    with pytest.raises(WebhookFailed) as caught:
        call(receiver, "/x?key=${token}", headers={"Authorization": "Bearer ${token}"}, given=given)

    assert "t0p-secret" not in str(caught.value)
    assert "400" in str(caught.value)


def test_url_with_a_secret_is_not_logged(receiver: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        call(receiver, "/x?key=${token}", given=options(receiver, secrets={"token": "t0p-secret"}))

    assert "t0p-secret" not in caplog.text


def test_environment_gives_hosts_networks_and_secrets() -> None:
    found = WebhookOptions.from_environment(
        {
            "PQ_WEBHOOK_ALLOW": "api.example.com, *.internal:8080",
            "PQ_WEBHOOK_NETWORKS": "10.0.0.0/8",
            "PQ_WEBHOOK_SECRET_SHOP": "s",
            "PQ_WEBHOOK_SECRET_SHOP_HOSTS": "api.example.com",
        }
    )

    assert found.allow == ("api.example.com", "*.internal:8080")
    assert found.secret("shop", "https", "api.example.com", 443) == "s"
    with pytest.raises(WebhookRefused, match=r"not meant for a\.internal"):
        found.secret("shop", "http", "a.internal", 8080)


# --- what comes back


def test_only_the_start_of_a_long_answer_is_kept(receiver: Server) -> None:
    receiver.reply = lambda asked: (200, {"content-type": "text/plain"}, b"x" * 5_000_000)

    result = call(receiver, given=options(receiver, answer_limit=100))

    assert (result["body"], result["truncated"], result["type"]) == ("x" * 100, True, "text/plain")


@pytest.mark.parametrize("status", [400, 401, 404, 410, 422])
def test_other_4xx_are_final(receiver: Server, status: int) -> None:
    receiver.reply = lambda asked: (status, {}, b"no such shop")

    with pytest.raises(WebhookFailed, match=f"{status} from .*: no such shop"):
        call(receiver)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_servers_trouble_may_pass(receiver: Server, status: int) -> None:
    receiver.reply = lambda asked: (status, {}, b"later")

    with pytest.raises(WebhookUnavailable, match=f"{status} from .*: later"):
        call(receiver)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_obeyed(receiver: Server, status: int) -> None:
    receiver.reply = lambda asked: (status, {"retry-after": "17"}, b"")

    with pytest.raises(Retry) as caught:
        call(receiver)

    assert caught.value.after == 17


def test_retry_after_as_a_date_is_read_by_the_servers_clock() -> None:
    theirs = dt.datetime(2031, 5, 1, 12, 0, 0, tzinfo=dt.UTC)
    headers = {
        "date": format_datetime(theirs, usegmt=True),
        "retry-after": format_datetime(theirs + dt.timedelta(seconds=90), usegmt=True),
    }

    assert retry_after(headers) == 90
    assert retry_after({**headers, "retry-after": headers["date"]}) == 0
    assert retry_after({"retry-after": format_datetime(theirs, usegmt=True)}) == 86400
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_nobody_listening_may_pass(receiver: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(WebhookUnavailable, match="localhost"):
            send(Message(url=f"http://localhost:{port}/"), WebhookOptions(allow=["localhost:*"], networks=LOOPBACK))


def test_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://localhost:{silent.getsockname()[1]}/"
        with pytest.raises(WebhookUnavailable):
            send(Message(url=url, timeout=0.2), WebhookOptions(allow=["localhost:*"], networks=LOOPBACK))


def test_answer_that_breaks_off_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def half() -> None:
            peer, _ = listener.accept()
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
            peer.close()

        thread = threading.Thread(target=half)
        thread.start()
        url = f"http://localhost:{listener.getsockname()[1]}/"
        with pytest.raises(WebhookUnavailable, match="in the answer"):
            send(Message(url=url), WebhookOptions(allow=["localhost:*"], networks=LOOPBACK))
        thread.join()


# --- redirects


def test_redirect_is_not_followed_unless_asked(receiver: Server) -> None:
    receiver.reply = lambda asked: (307, {"location": "/new"}, b"")

    with pytest.raises(WebhookFailed, match="redirects to /new"):
        call(receiver)

    assert len(receiver.asked) == 1


def test_redirect_keeps_method_body_and_signature_at_the_same_place(receiver: Server) -> None:
    receiver.reply = lambda asked: (308, {"location": "/new"}, b"") if asked.path == "/" else (200, {}, b"there")

    result = call(receiver, body=[1], secret="s", redirects=1, given=options(receiver, secrets={"s": "key"}))

    assert result["body"] == "there"
    assert [(a.method, a.path, a.body) for a in receiver.asked] == [("POST", "/", b"[1]"), ("POST", "/new", b"[1]")]
    assert "webhook-signature" in receiver.asked[1].headers


def test_secrets_stay_behind_at_a_redirect_to_another_place(receiver: Server) -> None:
    with serving() as other:
        receiver.reply = lambda asked: (307, {"location": other.url("/there")}, b"")
        given = WebhookOptions(allow=["localhost:*"], networks=LOOPBACK, secrets={"s": "key"})

        call(receiver, headers={"Authorization": "Bearer ${s}", "X-Shop": "7"}, secret="s", redirects=1, given=given)

        [asked] = other.asked
        assert asked.headers["x-shop"] == "7"
        assert not {"authorization", "webhook-signature"} & asked.headers.keys()


def test_redirect_to_a_host_that_is_not_allowed_is_refused(receiver: Server) -> None:
    with serving() as other:
        receiver.reply = lambda asked: (307, {"location": other.url()}, b"")

        with pytest.raises(WebhookRefused, match=f"localhost:{other.port} is not a host that the operator allows"):
            call(receiver, redirects=3)

        assert other.asked == []


def test_redirect_to_a_private_address_is_refused(receiver: Server) -> None:
    receiver.reply = lambda asked: (302, {"location": "http://169.254.169.254/latest/meta-data"}, b"")
    given = WebhookOptions(allow=[f"localhost:{receiver.port}", "*"], networks=LOOPBACK)

    with pytest.raises(WebhookRefused, match=r"leads to 169\.254\.169\.254, which is not a public address"):
        call(receiver, method="GET", redirects=1, given=given)


def test_post_is_not_turned_into_a_get_by_a_301(receiver: Server) -> None:
    receiver.reply = lambda asked: (301, {"location": "/new"}, b"")

    with pytest.raises(WebhookFailed, match="redirects to /new"):
        call(receiver, body=[1], redirects=3)

    assert len(receiver.asked) == 1


def test_endless_redirects_end(receiver: Server) -> None:
    receiver.reply = lambda asked: (307, {"location": "/again"}, b"")

    with pytest.raises(WebhookFailed):
        call(receiver, redirects=2)

    assert len(receiver.asked) == 3


# --- what is refused


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.31.255.255",
        "192.0.2.1", "192.168.1.1", "198.18.0.1", "224.0.0.1", "239.1.2.3", "255.255.255.255", "::", "::1", "fe80::1",
        "fec0::1", "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "64:ff9b:1::1", "::127.0.0.1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1", "100::1",
    ],
)  # fmt: skip
def test_address_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_address_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_named_networks_are_permitted_in_every_spelling_of_their_addresses() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8")]

    assert permitted(ipaddress.ip_address("10.1.2.3"), networks)
    assert permitted(ipaddress.ip_address("::ffff:10.1.2.3"), networks)
    assert not permitted(ipaddress.ip_address("192.168.0.1"), networks)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"])
def test_host_that_leads_home_is_refused_however_it_is_written(receiver: Server, host: str) -> None:
    with pytest.raises((WebhookRefused, WebhookUnavailable)) as caught:
        send(Message(url=receiver.url(host=host)), WebhookOptions(allow=["*:*"]))

    assert receiver.asked == []
    assert "not a public address" in str(caught.value) or "can't be resolved" in str(caught.value)


def test_name_is_looked_up_once_and_connected_as_it_was_checked(
    receiver: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "hooks.test":
            looked_up.append(host)
            host = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.9"
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)

    given = WebhookOptions(allow=["hooks.test:*"], networks=["127.0.0.1/32"])
    result = send(Message(url=receiver.url(host="hooks.test")), given)

    assert result["status"] == 200
    assert looked_up == ["hooks.test"]
    assert receiver.asked[0].headers["host"] == f"hooks.test:{receiver.port}"


def test_one_private_address_among_several_refuses_the_name(receiver: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 80)) for text in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)

    with pytest.raises(WebhookRefused, match=r"leads to 127\.0\.0\.1"):
        send(Message(url=receiver.url(host="hooks.test")), WebhookOptions(allow=["*:*"]))


def test_proxy_of_the_environment_is_not_used(receiver: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())

        call(receiver)

        assert proxy.asked == []
        assert len(receiver.asked) == 1


@pytest.mark.parametrize(
    ("pattern", "url", "allowed"),
    [
        ("api.example.com", "https://api.example.com/", True),
        ("API.example.com", "https://api.EXAMPLE.com./", True),
        ("api.example.com", "http://api.example.com/", True),
        ("api.example.com", "https://api.example.com:8443/", False),
        ("api.example.com", "https://example.com/", False),
        ("api.example.com", "https://api.example.com.evil.org/", False),
        ("*.example.com", "https://a.b.example.com/", True),
        ("*.example.com", "https://example.com/", False),
        ("*.example.com", "https://evilexample.com/", False),
        ("*.example.com:8443", "https://a.example.com:8443/", True),
        ("*.example.com:*", "http://a.example.com:9/", True),
        ("*", "https://anything.org/", True),
        ("*", "https://anything.org:81/", False),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("xn--bcher-kva.example", "https://bücher.example/", True),
        ("[::1]:80", "http://[::1]/", True),
    ],
)
def test_hosts_are_allowed_as_written(pattern: str, url: str, allowed: bool) -> None:
    from pq_adapters.webhook.message import Vault, target_of

    given = WebhookOptions(allow=[pattern])
    target = target_of(url, Vault(given))

    if allowed:
        given.check_host(*target.origin)
    else:
        with pytest.raises(WebhookRefused, match="PQ_WEBHOOK_ALLOW"):
            given.check_host(*target.origin)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"url": "ftp://api.example.com/"}, "https://"),
        ({"url": "//api.example.com/"}, "https://"),
        ({"url": "https://user:pw@api.example.com/"}, "would be stored"),
        ({"url": "https://${token}.example.com/"}, "part of its host"),
        ({"url": "https://api.example.com\\@evil.org/"}, "https://"),
        ({"url": "https://api.example.com/\n"}, "https://"),
        ({"method": "TRACE"}, "method"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 1e9}, "timeout"),
        ({"redirects": 99}, "redirects"),
        ({"headers": {"Authorization": "Bearer abc"}}, "PQ_WEBHOOK_SECRET_API_TOKEN"),
        ({"headers": {"X-Auth-Token": "abc"}}, "plain sight"),
        ({"headers": {"Host": "evil.org"}}, "can't be given"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "line break"),
        ({"headers": {"X A": "a"}}, "can't be given"),
        ({"secret": "nowhere"}, "PQ_WEBHOOK_SECRET_NOWHERE"),
        ({"body": {1, 2}}, "what JSON knows"),
        ({"body": float("nan")}, "what JSON knows"),
    ],
)
def test_mistakes_are_refused_before_anything_is_sent(said: dict[str, Any], words: str) -> None:
    message = Message(**{"url": "https://api.example.com/", **said})

    with pytest.raises(WebhookRefused, match=words.replace("$", r"\$")):
        send(message, WebhookOptions(allow=["api.example.com"], secrets={"token": "x"}))


@pytest.mark.parametrize(
    "given",
    [
        {"allow": "api.example.com"},
        {"allow": ["https://api.example.com"]},
        {"allow": ["a.*.com"]},
        {"networks": ["10.0.0.1/8"]},
        {"secrets": {"a": Secret("x", ("https://a",))}},
        {"answer_limit": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        WebhookOptions(**given)


def test_secret_for_one_host_does_not_go_to_another(receiver: Server) -> None:
    given = options(receiver, secrets={"s": Secret("key", ("api.example.com",))})

    with pytest.raises(WebhookRefused, match="not meant for localhost"):
        call(receiver, headers={"X-Key": "${s}"}, given=given)

    assert receiver.asked == []


def test_reprs_hold_no_secret() -> None:
    given = WebhookOptions(secrets={"a": "t0p-secret", "b": Secret("t0p-secret")})

    assert "t0p-secret" not in repr(given)
    assert "t0p-secret" not in repr(Secret("t0p-secret"))


# --- TLS


def certificate(folder: Path, name: str) -> Path:
    """Write a self-signed certificate with its key into one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(pem))
    return path


def tls(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_certificate_is_checked_for_the_name_although_the_address_is_called(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "localhost")
    with serving(tls(pem)) as receiver:
        given = options(receiver, ca_file=str(pem))

        result = send(Message(url=receiver.url(scheme="https")), given)

        assert result["status"] == 200
        assert receiver.asked[0].headers["host"] == f"localhost:{receiver.port}"


def test_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    pem = certificate(tmp_path, "other.test")
    with serving(tls(pem)) as receiver:
        with pytest.raises(WebhookUnavailable, match="localhost"):
            send(Message(url=receiver.url(scheme="https")), options(receiver, ca_file=str(pem)))

        assert receiver.asked == []


def test_redirect_from_https_to_http_is_refused(tmp_path: Path, receiver: Server) -> None:
    pem = certificate(tmp_path, "localhost")
    with serving(tls(pem)) as secure:
        secure.reply = lambda asked: (307, {"location": receiver.url()}, b"")
        given = WebhookOptions(allow=["localhost:*"], networks=LOOPBACK, ca_file=str(pem))

        with pytest.raises(WebhookRefused, match="from https: to http:"):
            send(Message(url=secure.url(scheme="https"), redirects=1), given)


# --- as a task


def create_pq() -> PQ:
    """The application of these tests' workers."""
    return PQ(tasks=["pq_adapters.webhook"], app="hooks")


@pytest.fixture
def worker(database: str, tmp_path: Path, receiver: Server) -> Iterator[WorkerProcess]:
    environment = {
        "PQ_WEBHOOK_ALLOW": f"localhost:{receiver.port}",
        "PQ_WEBHOOK_NETWORKS": "127.0.0.0/8 ::1/128",
        "PQ_WEBHOOK_SECRET_SHOP": "t0p-secret",
    }
    with running(database, tmp_path, app=f"{__name__}:create_pq", environment=environment) as worker:
        yield worker


def test_worker_calls_signs_and_keeps_the_answer(worker: WorkerProcess, database: str, receiver: Server) -> None:
    with PQ(database, tasks=["pq_adapters.webhook"]) as pq:
        task = pq.registry.resolve("pq.webhook")
        id_ = pq.enqueue(task.call(receiver.url("/paid"), json={"order": 7}, secret="shop"))

        result = pq.wait(id_, timeout=30)

    assert (result["status"], result["body"]) == (200, "ok")
    assert "webhook-signature" in receiver.asked[0].headers
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT t::text FROM pq_tasks t").fetchone()[0].count("t0p-secret") == 0  # type: ignore[index]


def test_key_stays_over_tries_and_tasks_have_different_ones(
    worker: WorkerProcess, database: str, receiver: Server
) -> None:
    tries: list[Asked] = []

    def reply(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        tries.append(asked)
        return (429, {"retry-after": "0"}, b"") if len(tries) == 1 else (200, {}, b"")

    receiver.reply = reply
    with PQ(database, tasks=["pq_adapters.webhook"]) as pq:
        task = pq.registry.resolve("pq.webhook")
        for _ in range(2):
            pq.wait(pq.enqueue(task.call(receiver.url())), timeout=30)

    keys = [asked.headers["idempotency-key"] for asked in tries]
    assert len(keys) == 3
    assert keys[0] == keys[1] != keys[2]


def test_task_that_is_put_off_waits_as_long_as_the_server_says(
    worker: WorkerProcess, database: str, receiver: Server
) -> None:
    receiver.reply = lambda asked: (429, {"retry-after": "3600"}, b"slow down")
    with PQ(database, tasks=["pq_adapters.webhook"]) as pq:
        id_ = pq.enqueue(pq.registry.resolve("pq.webhook").call(receiver.url()))

        eventually(lambda: (t := pq.get_task(id_)) and t.attempts == 1 and t.status is TaskStatus.PENDING)

    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT run_at - now() > interval '59 minutes', error FROM pq_tasks").fetchone()
    assert row is not None
    assert row[0]
    assert "slow down" in row[1]


def test_client_error_fails_at_once(worker: WorkerProcess, database: str, receiver: Server) -> None:
    receiver.reply = lambda asked: (404, {}, b"no such hook")
    with PQ(database, tasks=["pq_adapters.webhook"]) as pq:
        id_ = pq.enqueue(pq.registry.resolve("pq.webhook").call(receiver.url()))
        with pytest.raises(TaskFailed, match="no such hook"):
            pq.wait(id_, timeout=30)
        task = pq.get_task(id_)

    assert task is not None
    assert (task.status, task.attempts, task.max_attempts) == (TaskStatus.FAILED, 1, 8)


def test_schedule_and_enqueue_by_the_command_line(
    worker: WorkerProcess, database: str, receiver: Server, tmp_path: Path
) -> None:
    (tmp_path / "hooks.py").write_text("from pq_core import PQ\npq = PQ(tasks=['pq_adapters.webhook'])\n")
    environment = {"PQ_DATABASE_URL": database, "PYTHONPATH": str(ROOT), "PATH": ""}

    def pq(*arguments: str) -> str:
        command = [sys.executable, "-m", "pq_core", *arguments]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr
        return said.stdout

    pq("schedules", "add", "hooks:pq", "pq.webhook", receiver.url("/tick"), "method=GET", "--every", "1", "--key", "t")
    pq("enqueue", "hooks:pq", "pq.webhook", receiver.url("/once"), 'json={"a": 1}', "--wait", "30")

    assert [asked.path for asked in receiver.asked if asked.path == "/once"] == ["/once"]
    assert eventually(lambda: [asked.method for asked in receiver.asked if asked.path == "/tick"])[0] == "GET"


def test_group_with_options_in_code_serves_one_pq(database: str, receiver: Server) -> None:
    with PQ(database) as pq:
        pq.include(webhooks(options(receiver)))
        id_ = pq.enqueue(pq.registry.resolve("pq.webhook").call(receiver.url("/code")))

        [ended] = pq.run_inline()

    assert (ended.id, ended.status, ended.result["status"]) == (id_, TaskStatus.COMPLETED, 200)


def test_declaring_the_task_loads_no_httpx() -> None:
    program = (
        "import sys, pq_adapters.webhook; from pq_core import PQ; PQ(tasks=['pq_adapters.webhook']).registry.prepare();"
        "print({'httpx', 'httpcore', 'click'} & set(sys.modules))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert said.stdout == "set()\n"
