"""Hosts as network namespaces: a bridge, and for each host a link to it that can be cut, without a word to anybody."""

from __future__ import annotations

import ctypes
import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NAMESPACES = Path("/run/netns")
PREFIX = "pqc"
CLONE_NEWNET = 0x40000000
MASK = 24

Enter = Callable[[], None]
"""Runs in a new process between fork and exec: the program is then on that host."""


def missing() -> str | None:
    """Return why this machine can have no such hosts, None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` is not installed (Debian: apt-get install iproute2)"
    try:
        with Network() as network:
            network.add("try").cut()
    except RuntimeError as error:
        return f"this machine makes no network namespaces: {error}"
    return None


class Host:
    """One host. ``address``: where the others and this process reach it."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network = network
        self.name = f"{network.name}{name}"
        self.address = address
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.build()

    def build(self) -> None:
        """Make the namespace and its link."""
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        self.heal()
        inside = ("-netns", self.name)
        ip(*inside, "address", "add", f"{self.address}/{MASK}", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip(*inside, "link", "set", device, "up")

    def enter(self) -> None:
        """Put the calling process on this host."""
        fd = os.open(NAMESPACES / self.name, os.O_RDONLY | os.O_CLOEXEC)
        if self._libc.setns(fd, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)

    def cut(self) -> None:
        """Let what it sends and what is sent to it be lost from now on: nothing says so to either side."""
        ip("link", "set", self.name, "nomaster")

    def unplug(self) -> None:
        """Take its link down."""
        ip("link", "set", self.name, "down")

    def heal(self) -> None:
        """Undo ``cut`` and ``unplug``."""
        ip("link", "set", self.name, "master", self.network.bridge)
        ip("link", "set", self.name, "up")

    def lose_power(self) -> None:
        """End all that runs on it, so that its connections stay as they are on the other side. ``build`` boots it."""
        self.cut()
        for pid in ip("netns", "pids", self.name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        # The kernel would go on to end its connections: it does not, without a link.
        ip("link", "delete", self.name)
        ip("netns", "delete", self.name)


class Network:
    """A bridge on which this process has an address, and the hosts on it. Its names have the id of this process."""

    def __init__(self) -> None:
        self.name = f"{PREFIX}{os.getpid()}"
        self.bridge = f"{self.name}br"
        self.hosts: list[Host] = []
        self._subnet = _free_subnet()

    @property
    def subnet(self) -> str:
        """Its addresses."""
        return f"{self._subnet}.0/{MASK}"

    def __enter__(self) -> Network:
        _remove_left_behind()
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("address", "add", f"{self._subnet}.254/{MASK}", "dev", self.bridge)
            ip("link", "set", self.bridge, "up")
        except RuntimeError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        _remove(self.name)

    def add(self, name: str) -> Host:
        """Make a host; ``name``: one to three letters."""
        host = Host(self, name, f"{self._subnet}.{len(self.hosts) + 1}")
        self.hosts.append(host)
        return host


def ip(*words: str) -> str:
    """Run ``ip`` and return what it says; RuntimeError with its words where it refuses."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _free_subnet() -> str:
    """Return the first three numbers of addresses for tests of networks (RFC 2544) that this machine does not use."""
    used = ip("-4", "route", "show", "table", "all")
    free = [f"198.18.{number}" for number in range(256) if f"198.18.{number}." not in used]
    return random.SystemRandom().choice(free)


def _remove(name: str) -> None:
    """Remove what has this name: namespaces with their links, the bridge."""
    for path in sorted(NAMESPACES.glob(f"{name}[a-z]*")):
        ip("netns", "delete", path.name)
    for path in sorted(Path("/sys/class/net").glob(f"{name}[a-z]*")):
        # The links of a namespace go with it, a moment later.
        subprocess.run(["ip", "link", "delete", path.name], capture_output=True, check=False)


def _remove_left_behind() -> None:
    """Remove what runs left behind that were killed."""
    found = [*NAMESPACES.glob(f"{PREFIX}*"), *Path("/sys/class/net").glob(f"{PREFIX}*")]
    for pid in sorted({match[1] for path in found if (match := re.match(rf"{PREFIX}(\d+)[a-z]", path.name))}):
        if not Path(f"/proc/{pid}").exists():
            _remove(f"{PREFIX}{pid}")
