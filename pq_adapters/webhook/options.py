"""What the operator allows: hosts, networks, secrets."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pq_adapters.webhook.refusals import WebhookRefused
from pq_core.errors import InvalidOption

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ALLOW_VARIABLE = "PQ_WEBHOOK_ALLOW"
NETWORKS_VARIABLE = "PQ_WEBHOOK_NETWORKS"
SECRET_PREFIX = "PQ_WEBHOOK_SECRET_"

_PATTERN = re.compile(r"(?P<host>\*|(?:\*\.)?[^*:/\[\]\s]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>\d+|\*))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and the hosts that may get it, in the patterns of ``WebhookOptions.allow``; None: all allowed ones.

    ``value``: the text, or a function that returns it, called in the child at each use.
    """

    value: str | Callable[[], str] = field(repr=False)
    hosts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """What ``pq.webhook`` may do. Nothing, unless said.

    ``allow``: hosts: ``api.example.com``, ``*.example.com`` (all below it, not itself), ``*``; on the usual port of
    http and https, another one is named: ``billing.internal:8080``, or ``:*`` for any. ``networks``: ranges like
    ``10.1.0.0/16`` that are reached although they are not public. ``secrets``: by name: text, a function, or a
    ``Secret``. ``ca_file``: certificates to trust beside the system's. ``answer_limit``: bytes of the answer to keep.
    """

    allow: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    secrets: Mapping[str, str | Callable[[], str] | Secret] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    answer_limit: int = 4096

    def __post_init__(self) -> None:
        for option in ("allow", "networks"):
            value = getattr(self, option)
            if isinstance(value, str):
                raise InvalidOption(f"{option}={value!r}: give a list of them")
            object.__setattr__(self, option, tuple(value))
        for secret in self.secrets.values():
            check_patterns("Secret(hosts=…)", (secret.hosts or ()) if isinstance(secret, Secret) else ())
        check_patterns("allow", self.allow)
        for network in self.networks:
            _network(network)
        if not isinstance(self.answer_limit, int) or not 0 <= self.answer_limit <= 2**20:
            raise InvalidOption(f"answer_limit={self.answer_limit!r}: give bytes from 0 to {2**20}")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> WebhookOptions:
        """Return what ``PQ_WEBHOOK_ALLOW``, ``…_NETWORKS``, ``…_SECRET_<NAME>`` and ``…_CA_FILE`` say.

        Lists have commas or spaces between their items. A secret's name is what follows the prefix, in lower case;
        ``…_SECRET_<NAME>_HOSTS`` binds it to hosts.
        """
        said = os.environ if environment is None else environment
        secrets = {}
        for variable, value in said.items():
            name = variable.removeprefix(SECRET_PREFIX)
            if name != variable and not name.endswith("_HOSTS"):
                hosts = said.get(f"{variable}_HOSTS")
                secrets[name.lower()] = Secret(value, None if hosts is None else _items(hosts))
        return cls(
            allow=_items(said.get(ALLOW_VARIABLE, "")),
            networks=_items(said.get(NETWORKS_VARIABLE, "")),
            secrets=secrets,
            ca_file=said.get("PQ_WEBHOOK_CA_FILE") or None,
        )

    def check_host(self, scheme: str, host: str, port: int) -> None:
        """Raise WebhookRefused unless the operator allows this host on this port."""
        if any(_matches(pattern, scheme, host, port) for pattern in self.allow):
            return
        usual = _DEFAULT_PORTS[scheme] == port
        raise WebhookRefused(
            f"{host}{'' if usual else f':{port}'} is not a host that the operator allows: add it to "
            f"{ALLOW_VARIABLE} or WebhookOptions(allow=[…])"
        )

    def secret(self, name: str, scheme: str, host: str, port: int) -> str:
        """Return the secret for a host. Raises WebhookRefused if there is none or this host may not have it."""
        found = self.secrets.get(name)
        if found is None:
            raise WebhookRefused(
                f"there is no secret {name!r} in this worker: set {SECRET_PREFIX}{name.upper()} or "
                "WebhookOptions(secrets={…})"
            )
        secret = found if isinstance(found, Secret) else Secret(found)
        if secret.hosts is not None and not any(_matches(p, scheme, host, port) for p in secret.hosts):
            raise WebhookRefused(f"the secret {name!r} is not meant for {host}: it names the hosts that may get it")
        value = secret.value() if callable(secret.value) else secret.value
        if not value:
            raise WebhookRefused(f"the secret {name!r} is empty")
        return value

    def ranges(self) -> list[Network]:
        """Return ``networks``, parsed."""
        return [_network(network) for network in self.networks]


def check_patterns(option: str, patterns: tuple[str, ...]) -> None:
    """Raise InvalidOption for what is no pattern of hosts."""
    for pattern in patterns:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise InvalidOption(
                f"{option}: {pattern!r} is no host: write api.example.com, *.example.com or billing.internal:8080"
            )


def _matches(pattern: str, scheme: str, host: str, port: int) -> bool:
    found = _PATTERN.fullmatch(pattern)
    assert found is not None  # checked when the options were made
    wanted = found["port"]
    if wanted != "*" and port != (_DEFAULT_PORTS[scheme] if wanted is None else int(wanted)):
        return False
    name = ascii_host(found["host"])
    if name == "*":
        return True
    return host.endswith(name[1:]) and host != name[2:] if name.startswith("*.") else host == name


def ascii_host(host: str) -> str:
    """Return a host's name as it is compared: lower case, without brackets and last dot, other scripts as ``xn--``."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidOption(f"networks: {text!r} is no range of addresses like 10.1.0.0/16: {error}") from None


def _items(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)
