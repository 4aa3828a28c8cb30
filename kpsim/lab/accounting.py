"""Linux's named counters, that rules with ``-m nfacct`` count in: such a rule loads only where its counter exists (K-9.3).

Counterpart: ``nfacct``, the tool. Which counters kube-proxy has, and why, this module never knows.
"""

import errno
from typing import NamedTuple

from kpsim.lab.namespace import Namespace
from kpsim.lab.netlink import Netlink, Refused, attribute, attributes

_ACCOUNTING = 7
_NEW, _GET = 0, 1
_NAME, _PACKETS, _BYTES = 1, 2, 3


class Counted(NamedTuple):
    """What a counter holds."""

    packets: int
    bytes: int


class LinuxAccounting:
    """The counters of one namespace. LabError where the kernel has none. ``close`` it."""

    def __init__(self, namespace: Namespace) -> None:
        self._netlink = Netlink(namespace, _ACCOUNTING)

    def close(self) -> None:
        self._netlink.close()

    def create(self, name: str) -> None:
        """A counter of up to 31 bytes' name. One that is there already goes on counting."""
        try:
            self._netlink.ask(_NEW, attribute(_NAME, name.encode() + b"\0"))
        except Refused as refused:
            if refused.number != errno.EBUSY:
                raise

    def read(self, name: str) -> Counted | None:
        """None if there is no such counter."""
        answer = self._netlink.ask(_GET, attribute(_NAME, name.encode() + b"\0"))
        if answer is None:
            return None
        found = attributes(answer)
        return Counted(int.from_bytes(found[_PACKETS]), int.from_bytes(found[_BYTES]))
