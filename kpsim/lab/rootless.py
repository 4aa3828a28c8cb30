"""Lets a user without root be a lab, where the kernel grants users namespaces of their own.

Counterpart: ``unshare -Urn``. Inside a user namespace this process has every right over the network namespaces that it
makes, and none over the machine.
"""

import ctypes
import os
import tempfile
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITIES = 1 << 12 | 1 << 13 | 1 << 21  # CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN
_STATUS = Path("/proc/self/status")


def become_root() -> str:
    """Moves this process into a user and a network namespace of its own, if it lacks root's rights.

    Returns why that is not possible; empty if it has the rights now. The process must have one thread.
    """
    if has_rights():
        return ""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET):
        return f"the kernel grants this user no namespaces (unshare: {os.strerror(ctypes.get_errno())})"
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        return f"the kernel maps no users in this user's namespaces ({error.filename}: {error.strerror})"
    # root of the namespace may not write root's lock; iptables-legacy wants one, and nobody else shares its tables
    os.environ.setdefault("XTABLES_LOCKFILE", str(Path(tempfile.gettempdir()) / f"kpsim-xtables-{user}.lock"))
    return "" if has_rights() else "the namespaces that the kernel grants this user give it no rights"


def has_rights() -> bool:
    """Whether this process is root, here or of its namespace, with the rights that a lab needs."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return True  # no Linux: what is missing is told elsewhere
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return os.geteuid() == 0 and effective & _CAPABILITIES == _CAPABILITIES
