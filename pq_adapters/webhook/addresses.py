"""Which addresses may be called: public ones, and those of the networks that the operator names."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from pq_adapters.webhook.options import Network
from pq_adapters.webhook.refusals import WebhookRefused, WebhookUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SPECIAL_V4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
"""This net, private, shared (CGNAT), loopback, link-local, documentation, benchmarks, multicast, reserved."""
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
"""All that is handed out; within it, what leads elsewhere: protocols with Teredo, documentation, 6to4."""
_SPECIAL_V6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_EMBEDDING = [ipaddress.IPv6Network(text) for text in ("::ffff:0:0/96", "64:ff9b::/96")]
"""IPv6 addresses whose last 32 bits are an IPv4 address that is then reached: mapped, and translated (NAT64)."""


def meant(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(address, ipaddress.IPv6Address) and any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def is_public(address: Address) -> bool:
    """Tell whether the address is one of the internet at large."""
    reached = meant(address)
    if isinstance(reached, ipaddress.IPv4Address):
        return not any(reached in network for network in _SPECIAL_V4)
    return reached in _GLOBAL_V6 and not any(reached in network for network in _SPECIAL_V6)


def permitted(address: Address, networks: Iterable[Network]) -> bool:
    """Tell whether the address may be called: it is public, or in one of ``networks``."""
    reached = meant(address)
    return is_public(address) or any(reached in network for network in networks if network.version == reached.version)


def resolve(host: str, port: int, networks: Iterable[Network]) -> list[str]:
    """Return the addresses of a host, to be connected to as they are: a second look-up could answer otherwise.

    Raises WebhookRefused if one of them may not be called, WebhookUnavailable if the name has none now.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise WebhookUnavailable(f"{host} can't be resolved: {error}") from error
    ranges = list(networks)
    texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in texts:
        # An address with a scope (fe80::1%eth0) is never one of the internet's.
        if not permitted(ipaddress.ip_address(text.partition("%")[0]), ranges):
            raise WebhookRefused(
                f"{host} leads to {text}, which is not a public address: where that is meant, add its range to "
                "PQ_WEBHOOK_NETWORKS or WebhookOptions(networks=[…])"
            )
    return texts
