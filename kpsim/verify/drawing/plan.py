"""The address plan of drawn clusters: what each address block is for, in both families, and the nodes with their
addresses.

Counterpart: an administrator's plan of networks. An object's addresses follow from its number, not from which other
objects there are.
"""

import enum
from dataclasses import dataclass

from kpsim.addresses import Family, canonical_ip, parse_network


class Block(enum.Enum):
    """A block of addresses for one purpose. Two numbers make an address, and the first of them a network. A member's
    comment names the two.

    A member holds the patterns of its addresses and the prefix lengths of its networks, for IPv4 and IPv6.
    """

    POD = ("10.180.{}.{}", "fd00:180:0:{:x}::{:x}", 24, 64)  #: node, pod
    STRAY_POD = ("10.190.{}.{}", "fd00:190:0:{:x}::{:x}", 24, 64)  #: node, pod: a pod outside its node's pod network
    NODE = ("192.168.{}.{}", "2001:db8:{:x}::{:x}", 24, 64)  #: link, node
    CLUSTER_IP = ("172.30.{}.{}", "fd00:172:30::{:x}:{:x}", 24, 112)  #: any, Service
    EXTERNAL_IP = ("198.51.{}.{}", "2001:db8:51:{:x}::{:x}", 24, 64)  #: 100, any
    LOAD_BALANCER = ("192.0.{}.{}", "2001:db8:192:{:x}::{:x}", 24, 64)  #: 2, any
    CLIENT = ("203.0.{}.{}", "2001:db8:cb:{:x}::{:x}", 24, 64)  #: 113, client

    def __init__(self, v4: str, v6: str, prefix4: int, prefix6: int) -> None:
        self._texts = {Family.IPV4: v4, Family.IPV6: v6}
        self._prefixes = {Family.IPV4: prefix4, Family.IPV6: prefix6}

    def at(self, family: Family, first: int, second: int) -> str:
        """The address of two numbers, in canonical form."""
        found = canonical_ip(self._texts[family].format(first, second))
        assert found is not None
        return found

    def network(self, family: Family, first: int, *, longer: int = 0) -> str:
        """The network of all addresses with this first number. ``longer`` lengthens its prefix: 1 leaves the lower
        half, 2 a quarter.
        """
        found = parse_network(f"{self.at(family, first, 0)}/{self._prefixes[family] + longer}")
        assert found is not None
        return str(found)

    def sixteen(self, family: Family, first: int) -> str:
        """The network of the addresses 0 to 15."""
        found = parse_network(f"{self.at(family, first, 0)}/{family.bits - 4}")
        assert found is not None
        return str(found)

    def pair(self, family: Family, first: int, second: int) -> str:
        """The network of two addresses that holds this one."""
        found = parse_network(f"{self.at(family, first, second)}/{family.bits - 1}")
        assert found is not None
        return str(found)


#: the network of all pods of the cluster
POD_RANGE = {Family.IPV4: "10.180.0.0/16", Family.IPV6: "fd00:180::/48"}
LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


def host(address: str) -> str:
    """The network that holds one address only."""
    return f"{address}/{128 if ':' in address else 32}"


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """A node. ``addresses`` holds those of all families, in the order of its status; the first one is its node IP."""

    number: int
    families: tuple[Family, ...]
    addresses: tuple[str, ...]
    second_kind: str  #: the type of its addresses on a second link; empty if it has no second link
    zone: str | None

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    def of(self, family: Family) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if (":" in address) == (family is Family.IPV6))
