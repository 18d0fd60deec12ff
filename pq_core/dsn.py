"""Finding and reading a DSN. No message of this module repeats a password, nor what may be a part of one."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from pq_core.errors import DatabaseNotConfigured, InvalidDSN
from pq_core.types import DSN

if TYPE_CHECKING:
    from psycopg.pq import ConninfoOption

VARIABLES = ("PQ_DATABASE_URL", "DATABASE_URL")
EMBEDDED = "embedded:"
ENCODE = "in a URL, the characters @ : / ? # % of a user name or password are written percent-encoded"

_announced: set[str] = set()


def find_dsn(dsn: DSN | None = None) -> str:
    """Return the DSN to use: the given one, else PQ_DATABASE_URL, else DATABASE_URL.

    Takes what libpq takes, and SQLAlchemy's ``postgresql+driver://``, whose driver is dropped. ``embedded:`` and
    ``embedded:PATH`` start or join the embedded server, at every call: call it again before a reconnect.
    Raises DatabaseNotConfigured, InvalidDSN (it names where the DSN came from) or EmbeddedServerError.
    """
    text, source = _given(dsn)
    if text.startswith(EMBEDDED):
        return _start_embedded(text)
    return _accepted(text, source)


def is_embedded(dsn: DSN | None = None) -> bool:
    """Tell whether this is the embedded server, without starting it. Raises like ``find_dsn``."""
    return _given(dsn)[0].startswith(EMBEDDED)


def conninfo(dsn: str, **defaults: str | int) -> str:
    """Return the found DSN as a libpq string, with ``defaults`` for what it leaves unsaid.

    Of several hosts the one is meant that takes writes: pq writes wherever it works. That costs no question, because a
    server says it when it lets a session in.

    Unsaid is what neither the DSN nor the environment variable of libpq says. A service file may say anything:
    where one is used, only a ``fallback_`` is added, because that is the one kind that does not override it.
    """
    options = {option.keyword.decode(): option for option in _parse(dsn, "the DSN")}
    said = {name: option.val.decode() for name, option in options.items() if option.val is not None}
    if _count_hosts(said) > 1:
        defaults.setdefault("target_session_attrs", "read-write")
    by_service = _by_service(said)
    for name, value in defaults.items():
        variable = options[name].envvar if name in options else None
        if by_service and not name.startswith("fallback_"):
            continue
        if variable is None or variable.decode() not in os.environ:
            said.setdefault(name, str(value))
    return _written(said)


def rotated(dsn: str, by: int) -> str:
    """Return the DSN with its hosts in another order, the first ``by`` of them last.

    Only where the one that takes writes is looked for, as ``conninfo`` does by default; else their order says which
    one is meant.
    """
    said = {option.keyword.decode(): option.val.decode() for option in _parse(dsn, "the DSN") if option.val is not None}
    wanted = said.get("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS"))
    if wanted is None and not _by_service(said):
        wanted = "read-write"
    count = _count_hosts(said)
    if count < 2 or wanted not in ("read-write", "primary"):
        return dsn
    for name in ("host", "hostaddr", "port"):
        values = said.get(name, "").split(",")
        if len(values) == count:  # a single port is that of all
            said[name] = ",".join(values[(place + by) % count] for place in range(count))
    return _written(said)


def _by_service(said: dict[str, str]) -> bool:
    return "service" in said or "PGSERVICE" in os.environ


def _count_hosts(said: dict[str, str]) -> int:
    return max(len(said.get(name, "").split(",")) for name in ("host", "hostaddr"))


def redact(dsn: str) -> str:
    """Return the DSN with its secrets as ``***``; of one that can't be read, only the scheme."""
    scheme = re.match(r"[A-Za-z][\w+.-]*:(?=//)", dsn)
    try:
        options = _parse(_accepted(dsn, "the DSN"), "the DSN")
    except InvalidDSN:
        return f"{scheme[0]}//***" if scheme else "***"
    said = {option.keyword.decode(): _shown(option) for option in options if option.val is not None}
    return _as_url(said) if scheme else " ".join(f"{name}={_quoted(value)}" for name, value in said.items())


def without_secrets(text: str, dsn: str) -> str:
    """Return the text in one line, with every secret of the DSN replaced."""
    for option in _parse(dsn, "the DSN"):
        if option.val and _is_secret(option):
            text = text.replace(option.val.decode(), "***")
    return " ".join(text.split())


def _given(dsn: DSN | None) -> tuple[str, str]:
    """Return the DSN as it was given, and where it was found."""
    if dsn is not None:
        text, source = (dsn(), "the dsn callable") if callable(dsn) else (dsn, "the dsn argument")
        if not isinstance(text, str):
            raise InvalidDSN(f"{source} gave a {type(text).__name__}: a DSN is a str")
        if not text.strip():
            raise DatabaseNotConfigured(f"{source} is empty: give a DSN, or leave it out and set PQ_DATABASE_URL")
        return text.strip(), source
    for variable in VARIABLES:
        if text := os.environ.get(variable, "").strip():
            return text, variable
    raise DatabaseNotConfigured(
        "no database is configured: pass a DSN to PQ(...), or set PQ_DATABASE_URL or DATABASE_URL "
        "(PQ_DATABASE_URL=embedded: starts a local server to try things out)"
    )


def _start_embedded(text: str) -> str:
    # Imported here because only those who ask for it need it.
    from pathlib import Path

    from pq_core import embedded

    path = Path(text.removeprefix(EMBEDDED).removeprefix("//") or ".pq").expanduser().resolve()

    def announce() -> None:
        if str(path) not in _announced:
            _announced.add(str(path))
            print(f"pq: using the embedded Postgres in {path}", file=sys.stderr, flush=True)

    return embedded.start(path, on_start=announce)


def _accepted(text: str, source: str) -> str:
    """Return the DSN without SQLAlchemy's driver, if libpq can read it."""
    if found := re.match(r"([A-Za-z][A-Za-z0-9.-]*)(\+[\w.-]+)?(?=:)", text):
        scheme, rest = found[1].lower(), text[found.end() :]
        if scheme not in ("postgres", "postgresql"):
            raise InvalidDSN(_another_database(scheme, source))
        if not rest.startswith("://"):
            raise InvalidDSN(f"{source} is no database URL: write postgresql://USER:PASSWORD@HOST/DATABASE")
        text = f"postgresql{rest}"
        _check_url(text, source)
    _parse(text, source)
    return text


def _another_database(scheme: str, source: str) -> str:
    kind = scheme if scheme.isascii() and len(scheme) <= 20 else "another"
    fix = "set PQ_DATABASE_URL to one" if source == "DATABASE_URL" else "give a postgresql:// one"
    return f"{source} is a {kind} URL, and pq needs a Postgres database: {fix}"


def _check_url(url: str, source: str) -> None:
    """Refuse a URL that libpq would read, but not as it was meant: it would echo parts of the password."""
    authority = url.removeprefix("postgresql://")
    credentials, at, after = authority.partition("@")
    if "/" in credentials and at and "@" in authority.partition("?")[0]:
        raise InvalidDSN(f"{source} can't be read: {ENCODE}")
    if at and "@" in after.partition("?")[0]:
        raise InvalidDSN(f"{source} can't be read: {ENCODE}")
    names = [pair.partition("=")[0] for pair in after.partition("?")[2].split("&")] if at else []
    repeated = {name for name in names if names.count(name) > 1}
    if "host" in repeated or "port" in repeated:
        raise InvalidDSN(f"{source} repeats a query parameter: several hosts are written host=one,two&port=5432,5433")


def _parse(dsn: str, source: str) -> list[ConninfoOption]:
    # Libpq itself reads it; but a worker imports this module before it forks, and the driver is no part of the image.
    from psycopg import Error
    from psycopg.pq import Conninfo

    if "\0" in dsn:
        raise InvalidDSN(f"{source} holds a NUL character")
    try:
        options = Conninfo.parse(dsn.encode())
    except UnicodeEncodeError:
        raise InvalidDSN(f"{source} holds a character that is not Unicode text") from None
    except Error:
        # Not chained: the driver's text quotes what it could not read.
        _explain(dsn, source, known={option.keyword.decode() for option in Conninfo.get_defaults()} | {"ssl"})
    for option in options:
        numbers = (option.val or b"").decode().split(",")
        if option.keyword == b"port" and not all(number == "" or number.isdecimal() for number in numbers):
            raise InvalidDSN(f"{source} has a port that is no number; {ENCODE}")
    return options


def _explain(dsn: str, source: str, *, known: set[str]) -> NoReturn:
    query = dsn.partition("?")[2] if dsn.startswith("postgres") else ""
    for pair in query.split("&") if "password" not in query else ():
        name, _, value = pair.partition("=")
        if name == "ssl":
            mode = (
                value if value in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full") else "require"
            )
            raise InvalidDSN(
                f"{source} has the parameter 'ssl', which is another driver's: write sslmode={mode}"
            ) from None
        if re.fullmatch(r"[a-z_]+", name) and name not in known:
            raise InvalidDSN(
                f"{source} has the parameter {name!r}, which is none of libpq's: leave it out "
                "(options of SQLAlchemy or of another driver go to create_engine)"
            ) from None
    raise InvalidDSN(f"{source} can't be read as a libpq connection string or postgresql:// URL; {ENCODE}") from None


def _written(said: dict[str, str]) -> str:
    from psycopg.conninfo import make_conninfo

    return make_conninfo("", **said)


def _is_secret(option: ConninfoOption) -> bool:
    return option.dispchar == b"*"


def _shown(option: ConninfoOption) -> str:
    return "***" if _is_secret(option) else (option.val or b"").decode()


def _quoted(value: str) -> str:
    return value if re.fullmatch(r"[^\s'\\]+", value) else "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"


def _as_url(said: dict[str, str]) -> str:
    from urllib.parse import quote  # only who shows a URL needs it

    user, password = said.pop("user", ""), said.pop("password", "")
    credentials = quote(user, safe="") + (f":{password}" if password else "")
    place = ""
    if not said.get("host", "").startswith("/"):
        hosts, ports = said.pop("host", "").split(","), said.pop("port", "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        named = [f"[{host}]" if ":" in host else quote(host) for host in hosts]
        place = ",".join(f"{host}:{port}" if port else host for host, port in zip(named, ports, strict=False))
    database = quote(said.pop("dbname", ""), safe="")
    query = "&".join(f"{name}={quote(value, safe='/,*')}" for name, value in said.items())
    start = f"postgresql://{credentials}@{place}" if credentials else f"postgresql://{place}"
    return start + (f"/{database}" if database or query else "") + (f"?{query}" if query else "")
