"""Where the DSN comes from, what is accepted, and that no message gives a password away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from pq_core.database import conninfo, find_dsn, redact, start_connection
from pq_core.dsn import is_embedded, rotated, without_secrets
from pq_core.errors import DatabaseNotConfigured, InvalidDSN, PQError

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "PQ_DATABASE_URL",
        "DATABASE_URL",
        "PGSERVICE",
        "PGAPPNAME",
        "PGCONNECT_TIMEOUT",
        "PGPASSWORD",
        "PGTARGETSESSIONATTRS",
    ):
        monkeypatch.delenv(name, raising=False)


def test_explicit_wins_over_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQ_DATABASE_URL", "postgresql://one/db")
    monkeypatch.setenv("DATABASE_URL", "postgresql://two/db")

    assert find_dsn("postgresql://three/db") == "postgresql://three/db"
    assert find_dsn(lambda: "host=four") == "host=four"
    assert find_dsn(None) == "postgresql://one/db"


def test_own_variable_wins_unless_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQ_DATABASE_URL", "  ")
    monkeypatch.setenv("DATABASE_URL", "postgres://two/db")

    assert find_dsn() == "postgresql://two/db"


def test_nothing_configured_says_what_to_set() -> None:
    with pytest.raises(DatabaseNotConfigured, match="PQ_DATABASE_URL"):
        find_dsn()


@pytest.mark.parametrize("dsn", ["", "  ", lambda: ""])
def test_an_empty_dsn_is_not_the_default_database(
    dsn: str | Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PQ_DATABASE_URL", "postgresql://one/db")

    with pytest.raises(DatabaseNotConfigured, match="empty"):
        find_dsn(dsn)


def test_callable_must_return_text() -> None:
    with pytest.raises(InvalidDSN, match="NoneType"):
        find_dsn(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h/d", "postgresql://u:p@h/d"),
        ("POSTGRESQL+psycopg2://u:p@h/d?sslmode=require", "postgresql://u:p@h/d?sslmode=require"),
        ("postgresql+psycopg://", "postgresql://"),
        ("postgresql://u:p%40%2F%3A@h/d", "postgresql://u:p%40%2F%3A@h/d"),
        ("postgresql://u:p@[::1]:5433/d", "postgresql://u:p@[::1]:5433/d"),
        (
            "postgresql://u@one:1,two:2,[fe80::1]:3/d?target_session_attrs=read-write",
            "postgresql://u@one:1,two:2,[fe80::1]:3/d?target_session_attrs=read-write",
        ),
        ("host=a,b port=1,2 target_session_attrs=primary", "host=a,b port=1,2 target_session_attrs=primary"),
        ("service=orders", "service=orders"),
        ("host=/tmp/a b dbname='x y'".replace("/tmp/a b", "'/tmp/a b'"), "host='/tmp/a b' dbname='x y'"),
        ("password='mysql://no scheme' host=h", "password='mysql://no scheme' host=h"),
    ],
)
def test_accepts_what_libpq_takes_and_drops_a_driver(given: str, found: str) -> None:
    assert find_dsn(given) == found


@pytest.mark.parametrize(
    "dsn",
    [f"mysql://u:{SECRET}@h/d", "sqlite:///x.db", "sqlite://", f"mysql+pymysql://u:{SECRET}@h/d", "redis://h:6379/0"],
)
def test_another_database_is_refused_naming_the_variable(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)

    with pytest.raises(
        InvalidDSN, match=rf"DATABASE_URL is a {dsn.partition(':')[0].partition('+')[0]} URL"
    ) as refused:
        find_dsn()
    assert SECRET not in str(refused.value)
    with pytest.raises(InvalidDSN, match="the dsn argument"):
        find_dsn(dsn)


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql+asyncpg://u@h/d?ssl=verify-full", "sslmode=verify-full"),
        ("postgresql+asyncpg://u@h/d?prepared_statement_cache_size=0", "prepared_statement_cache_size"),
        ("postgresql://u@/d?host=one:1&host=two:2", "host=one,two"),
        ("postgresql:u@h/d", "postgresql://"),
        ("postgresql://u@h:port/d", "port"),
    ],
)
def test_parameters_of_other_libraries_are_named_with_the_fix(dsn: str, words: str) -> None:
    with pytest.raises(InvalidDSN, match=words):
        find_dsn(dsn)


BROKEN = [
    f"postgresql://u:{SECRET}@ss@h/d",
    f"postgresql://u:{SECRET}/x@h/d",
    f"postgresql://u:x/{SECRET}@h/d",
    f"postgresql://u:x@{SECRET}@h/d",
    f"postgresql://u:{SECRET}%zz@h/d",
    f"postgresql://u:{SECRET}@h:nan/d",
    f"postgresql://u:{SECRET}@h/d?nonsense=1",
    f"postgresql://h/d?password=a&{SECRET}",
    f"postgresql://u:{SECRET}@[::1/d",
    f"host=h password={SECRET} and more",
    f"host=h password=a {SECRET}=x",
    f"host=h password='{SECRET}",
    f"host=h port=x password={SECRET}",
    f"{SECRET}",
    f"host=h password={SECRET}\0",
    f"host=h password={SECRET}\ud800",
    f"mongodb+srv://u:{SECRET}@h/d",
]


@pytest.mark.parametrize("dsn", BROKEN)
def test_no_password_in_the_message_nor_in_what_it_was_raised_from(dsn: str) -> None:
    with pytest.raises(PQError) as refused:
        find_dsn(dsn)

    error: BaseException | None = refused.value
    assert isinstance(error, InvalidDSN)
    while error is not None:
        assert SECRET not in str(error)
        assert error.__suppress_context__ or error.__context__ is None
        error = error.__cause__


@pytest.mark.parametrize("dsn", BROKEN)
def test_redact_of_what_cannot_be_read_shows_nothing(dsn: str) -> None:
    assert SECRET not in redact(dsn)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5433/d?sslmode=require", "postgresql://u:***@h:5433/d?sslmode=require"),
        (f"postgresql://u:{SECRET}@[::1]:1,b:2/d", "postgresql://u:***@[::1]:1,b:2/d"),
        (f"postgresql://u@/d?host=/tmp/x&password={SECRET}", "postgresql://u:***@/d?host=/tmp/x"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://", "postgresql://"),
        (f"host=h user=u password={SECRET} dbname='a b'", "user=u password=*** dbname='a b' host=h"),
        (f"host=h sslpassword={SECRET}", "host=h sslpassword=***"),
        (f"mysql://u:{SECRET}@h/d", "mysql://***"),
        (SECRET, "***"),
    ],
)
def test_redact_keeps_what_tells_the_database(dsn: str, shown: str) -> None:
    redacted = redact(dsn)

    assert SECRET not in redacted
    assert sorted(redacted.split(" ")) == sorted(shown.split(" "))


def test_secrets_are_cut_out_of_foreign_text() -> None:
    assert without_secrets(f"no {SECRET}\n\tin here", f"host=h password={SECRET}") == "no *** in here"


def test_conninfo_adds_only_what_is_unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")

    dsn = "postgresql://u:p%20%25@one:1,two:2/d%20b?keepalives=0&target_session_attrs=any"
    built = conninfo(dsn, connect_timeout=10, keepalives=1, keepalives_idle=30, fallback_application_name="it's pq")

    assert conninfo_to_dict(built) == {
        "user": "u", "password": "p %", "host": "one,two", "port": "1,2", "dbname": "d b", "keepalives": "0",
        "target_session_attrs": "any", "keepalives_idle": "30", "fallback_application_name": "it's pq",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("dsn", "wanted"),
    [
        ("host=a,b", "read-write"),
        ("hostaddr=10.0.0.1,10.0.0.2", "read-write"),
        ("postgresql://a:1,b:2/shop?target_session_attrs=any", "any"),
        ("host=a,b service=which-may-say-it", None),
        ("host=a", None),
    ],
)
def test_of_several_hosts_the_one_is_meant_that_takes_writes(dsn: str, wanted: str | None) -> None:
    assert conninfo_to_dict(conninfo(dsn)).get("target_session_attrs") == wanted
    assert (rotated(dsn, 1) != dsn) is (wanted == "read-write")


def test_conninfo_does_not_override_a_service_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert conninfo_to_dict(conninfo("service=s", connect_timeout=10, fallback_application_name="pq")) == {
        "service": "s", "fallback_application_name": "pq",
    }  # fmt: skip
    monkeypatch.setenv("PGSERVICE", "s")
    assert conninfo_to_dict(conninfo("dbname=d", connect_timeout=10)) == {"dbname": "d"}


@pytest.mark.parametrize("dsn", ["embedded:", "embedded:/tmp/a,b %"])
def test_embedded_is_recognised_without_starting_it(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert is_embedded(dsn)
    assert not is_embedded("postgresql://h/embedded:")
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_fails_at_once_is_reported_without_the_password() -> None:
    with pytest.raises(PQError, match="can't connect to") as refused:
        start_connection(f"host=/nonexistent/folder user=u password={SECRET} dbname=d")
    assert SECRET not in str(refused.value)
    assert "\n" not in str(refused.value)


# --- hosts in turn


def hosts_of(dsn: str) -> list[tuple[str, str]]:
    said = conninfo_to_dict(dsn)
    hosts = str(said["host"]).split(",")
    ports = str(said.get("port", "5432")).split(",")
    return list(zip(hosts, ports if len(ports) > 1 else ports * len(hosts), strict=True))


def test_each_host_comes_first_in_turn() -> None:
    dsn = "postgresql://a:1,b:2,c:3/shop?target_session_attrs=read-write"

    turns = [hosts_of(rotated(dsn, turn)) for turn in range(4)]

    assert turns[0] == [("a", "1"), ("b", "2"), ("c", "3")]
    assert turns[1] == [("b", "2"), ("c", "3"), ("a", "1")]
    assert turns[2] == [("c", "3"), ("a", "1"), ("b", "2")]
    assert turns[3] == turns[0]
    assert conninfo_to_dict(rotated(dsn, 1))["dbname"] == "shop"


def test_one_port_is_that_of_all_hosts() -> None:
    dsn = "host=a,b port=6000 target_session_attrs=primary"

    assert hosts_of(rotated(dsn, 1)) == [("b", "6000"), ("a", "6000")]


@pytest.mark.parametrize(
    "dsn",
    [
        "host=a target_session_attrs=read-write",
        "host=a,b target_session_attrs=any",
        "host=a,b target_session_attrs=prefer-standby",
        "host=a,b service=which-may-say-it",
        "",
    ],
)
def test_order_of_hosts_that_means_something_stays(dsn: str) -> None:
    assert rotated(dsn, 1) == dsn
