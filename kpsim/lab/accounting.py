"""Linux' named counters, in which rules with ``-m nfacct`` count. Such a rule loads only if its counter exists (K-9.3).

Counterpart: the tool ``nfacct``.
"""

import errno
from typing import NamedTuple

from kpsim.lab.namespace import Namespace
from kpsim.lab.netlink import Netlink, Refused, attribute, attributes

_ACCOUNTING = 7
_NEW, _GET = 0, 1
_NAME, _PACKETS, _BYTES = 1, 2, 3


class Counted(NamedTuple):
    """The contents of a counter."""

    packets: int
    bytes: int


class LinuxAccounting:
    """The counters of one namespace. LabError if the kernel has no named counters. ``close`` it."""

    def __init__(self, namespace: Namespace) -> None:
        self._netlink = Netlink(namespace, _ACCOUNTING)

    def close(self) -> None:
        self._netlink.close()

    def create(self, name: str) -> None:
        """Makes a counter whose name has at most 31 bytes. A counter that exists already goes on counting."""
        try:
            self._netlink.ask(_NEW, attribute(_NAME, name.encode() + b"\0"))
        except Refused as refused:
            if refused.number != errno.EBUSY:
                raise

    def read(self, name: str) -> Counted | None:
        """The counter's contents; None if it does not exist."""
        answer = self._netlink.ask(_GET, attribute(_NAME, name.encode() + b"\0"))
        if answer is None:
            return None
        found = attributes(answer)
        return Counted(int.from_bytes(found[_PACKETS]), int.from_bytes(found[_BYTES]))
