"""The address plan of drawn clusters: which addresses are for what, in both families, and the nodes that have them.

Counterpart: how an administrator divides networks. Addresses are given by number, so that no object's depend on which others
there are. It never knows Kubernetes objects.
"""

import enum
from dataclasses import dataclass

from kpsim.addresses import Family, canonical_ip, parse_network


class Block(enum.Enum):
    """What addresses are for: how two numbers become one, in IPv4 and IPv6; and the prefix lengths of the first number's network."""

    POD = ("10.180.{}.{}", "fd00:180:0:{:x}::{:x}", 24, 64)  #: node, pod
    STRAY_POD = ("10.190.{}.{}", "fd00:190:0:{:x}::{:x}", 24, 64)  #: the same, outside their node's pod network
    NODE = ("192.168.{}.{}", "2001:db8:{:x}::{:x}", 24, 64)  #: link, node
    CLUSTER_IP = ("172.30.{}.{}", "fd00:172:30::{:x}:{:x}", 24, 112)  #: any, Service
    EXTERNAL_IP = ("198.51.{}.{}", "2001:db8:51:{:x}::{:x}", 24, 64)  #: 100, any
    LOAD_BALANCER = ("192.0.{}.{}", "2001:db8:192:{:x}::{:x}", 24, 64)  #: 2, any
    CLIENT = ("203.0.{}.{}", "2001:db8:cb:{:x}::{:x}", 24, 64)  #: 113, client

    def __init__(self, v4: str, v6: str, prefix4: int, prefix6: int) -> None:
        self._texts = {Family.IPV4: v4, Family.IPV6: v6}
        self._prefixes = {Family.IPV4: prefix4, Family.IPV6: prefix6}

    def at(self, family: Family, first: int, second: int) -> str:
        """The canonical address."""
        found = canonical_ip(self._texts[family].format(first, second))
        assert found is not None
        return found

    def network(self, family: Family, first: int, *, longer: int = 0) -> str:
        """The network of all addresses with this first number; ``longer``: only its lower half, or quarter …"""
        found = parse_network(f"{self.at(family, first, 0)}/{self._prefixes[family] + longer}")
        assert found is not None
        return str(found)


#: all pods of the cluster, whatever their node
POD_RANGE = {Family.IPV4: "10.180.0.0/16", Family.IPV6: "fd00:180::/48"}
LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
EVERYTHING = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


def host(address: str) -> str:
    """The network of one host."""
    return f"{address}/{128 if ':' in address else 32}"


@dataclass(frozen=True, slots=True)
class DrawnNode:
    """A node; ``addresses`` of all families in the order of its status, the first one its node IP."""

    number: int
    families: tuple[Family, ...]
    addresses: tuple[str, ...]
    second_kind: str  #: of its addresses on another link, empty if there are none
    zone: str | None

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    def of(self, family: Family) -> tuple[str, ...]:
        return tuple(address for address in self.addresses if (":" in address) == (family is Family.IPV6))
