"""Who the embedded server runs as: Postgres refuses root."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pq_core.embedded.plan import HolderError, Plan

LINUX = sys.platform == "linux"
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
CAP_DAC_OVERRIDE = 1
CAPABILITY_VERSION_3 = 0x20080522

Prepare = Callable[[], None]
"""Runs in the new process between fork and exec."""


def prepare_server(plan: Plan) -> Prepare:
    """Return what makes the calling process fit to be a Postgres server; give it the data if it needs that."""
    holder = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True) if LINUX else None

    def own_life() -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if libc is not None:
            # Last of all: a change of user id before would clear it. SIGINT is the server's fast shutdown.
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != holder:
                os._exit(1)

    if os.geteuid() != 0 or libc is None:
        return own_life

    account = unprivileged_account()

    def enter_namespace() -> None:
        assert libc is not None
        if libc.unshare(CLONE_NEWUSER):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{account.pw_uid} 0 1")
        Path("/proc/self/gid_map").write_text(f"{account.pw_gid} 0 1")
        own_life()

    def drop_privileges() -> None:
        assert libc is not None
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        become(account)
        # Keep the right to read where only root may: the project or the binaries can be below /root.
        if libc.capset(capability_header(), capability_sets(1 << CAP_DAC_OVERRIDE)) == 0:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0)
        own_life()

    if plan.as_root == "namespace" or (plan.as_root == "auto" and works(enter_namespace)):
        give_data(plan.data, 0, 0)
        return enter_namespace
    give_data(plan.data, account.pw_uid, account.pw_gid)
    return drop_privileges


def works(prepare: Prepare) -> bool:
    """Tell whether a process may do this: containers often deny user namespaces."""
    try:
        return subprocess.run(["/bin/sh", "-c", ":"], preexec_fn=prepare, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def unprivileged_account() -> pwd.struct_passwd:
    """Return an account other than root: initdb wants one that has a name."""
    accounts = {account.pw_name: account for account in pwd.getpwall() if account.pw_uid != 0}
    for name in ("postgres", "nobody", "daemon", *accounts):
        if name in accounts:
            return accounts[name]
    raise HolderError("Postgres refuses to run as root, and this machine has no other user: add one")


def become(account: pwd.struct_passwd) -> None:
    """Turn this process, root's, into the account's."""
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def capability_header() -> ctypes.Array[ctypes.c_uint32]:
    return (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)


def capability_sets(bits: int) -> ctypes.Array[ctypes.c_uint32]:
    """Effective, permitted and inheritable set, low words then high words."""
    return (ctypes.c_uint32 * 6)(bits, bits, bits, 0, 0, 0)


def give_data(data: Path, uid: int, gid: int) -> None:
    """Make our own data folder the server's; its parents stay as they are."""
    data.mkdir(mode=0o700, exist_ok=True)
    if data.stat().st_uid == uid:
        return
    for folder, folders, files in os.walk(data):
        for name in (".", *folders, *files):
            os.chown(Path(folder) / name, uid, gid, follow_symlinks=False)
