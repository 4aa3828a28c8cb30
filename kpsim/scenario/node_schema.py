"""The nodes of a scenario file: names, zones, addresses and interfaces, kernel settings."""

import enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from kpsim.addresses import canonical_ip, parse_cidr, parse_network
from kpsim.scenario.quantities import Part
from kpsim.sysctls import SETTINGS

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
IpFamily = Literal["IPv4", "IPv6"]
Positive = Annotated[int, Field(ge=1)]


def _address(text: str) -> str:
    if canonical_ip(text) != text:
        raise ValueError("expected an IP address in its usual form")
    return text


def _pod_network(text: str) -> str:
    network = parse_network(text)
    if network is None or str(network) != text or network.family.bits - network.prefix < 4:
        raise ValueError("expected a network of at least 16 addresses")
    return text


def _network(text: str) -> str:
    network = parse_network(text)
    if network is None or str(network) != text:
        raise ValueError("expected a network in its usual form, such as 10.42.0.0/16")
    return text


def _own_address(text: str) -> str:
    address, slash, _ = text.partition("/")
    if not slash or parse_cidr(text) is None or canonical_ip(address) != address:
        raise ValueError("expected an address with its prefix length, such as 10.46.0.1/16")
    return text


def _interface(name: str) -> str:
    if name in ("lo", "cni0"):
        raise ValueError(f"every node has {name} already")
    return name


InterfaceName = Annotated[str, Field(pattern=r"^[^\s/:@+!\"']{1,15}$")]
HostAddress = Annotated[str, AfterValidator(_address)]
PodNetwork = Annotated[str, AfterValidator(_pod_network)]

_SYSCTLS_SCHEMA = {
    "type": "object",
    "properties": {
        setting.name: {
            "type": "integer",
            "minimum": setting.least,
            "maximum": setting.most,
            "default": setting.default,
            **({"description": "seconds"} if setting.unit_ns else {}),
        }
        for setting in SETTINGS.values()
    },
    "additionalProperties": False,
}

#: names in /proc/sys, whole numbers in the kernel's own unit; ``settings`` knows which names exist
SysctlValues = Annotated[dict[str, int], WithJsonSchema(_SYSCTLS_SCHEMA)]


class NodeInterface(Part):
    """A link of a node to other machines. Each has a network, or several."""

    name: Annotated[InterfaceName, AfterValidator(_interface)]
    addresses: Annotated[tuple[Annotated[str, AfterValidator(_own_address)], ...], Field(min_length=1, max_length=16)]
    """With prefix lengths, such as 10.46.0.1/16."""
    routes: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(max_length=64)] = ()
    """Further networks that are behind it; 0.0.0.0/0 and ::/0 are behind the interface of the node IP unless another has them."""


class NamedNode(Part):
    name: Name
    zone: str | None = None
    """Value of the label topology.kubernetes.io/zone."""
    ips: Annotated[tuple[HostAddress, ...], Field(max_length=16)] = ()
    """InternalIPs, of which the first of each family is the node IP (CFG-7.1); the next free of 192.168.0.0/24 and
    fd00:192:168::/64, or the first of the interfaces, for a family that is left out."""
    interfaces: Annotated[tuple[NodeInterface, ...], Field(max_length=16)] = ()
    """Links to other machines; if left out there is one, eth0, that has all of the ips."""
    pod_cidrs: Annotated[tuple[PodNetwork, ...], Field(alias="podCIDRs", max_length=2)] = ()
    """Where pods get their addresses from; 10.180.N.0/24 and fd00:10:180:N::/64 if left out."""
    cpu: Positive = 4
    """Allocatable CPUs; topology mode Auto shares endpoints out by them (CP-3.8.2), and kube-proxy sizes the connection table by
    them (CFG-4)."""
    sysctls: SysctlValues = Field(default_factory=dict)
    """Kernel settings of this node beside and before those of all nodes."""
    hairpin: bool | None = None
    """Of this node's bridge; as that of all nodes if left out."""


class PodIpAllocation(enum.StrEnum):
    """``inTurn``: the next one, so that a released address is given out again when all others were.

    ``lowestFree``: the lowest, so that the next pod may get an address that was released just now.
    """

    IN_TURN = "inTurn"
    LOWEST_FREE = "lowestFree"


class Nodes(Part):
    """``count`` nodes called node-1, node-2, … or a ``list`` of named ones."""

    count: Annotated[int | None, Field(ge=1, le=250)] = None
    zones: tuple[str, ...] = ()
    """Zones given to the counted nodes in turn."""
    ip_families: Annotated[tuple[IpFamily, ...], Field(min_length=1, max_length=2)] = ("IPv4",)
    """The cluster's families, its primary one first: one, or both."""
    named: Annotated[tuple[NamedNode, ...] | None, Field(alias="list", min_length=1, max_length=250)] = None
    sysctls: SysctlValues = Field(default_factory=dict)
    """Kernel settings of all nodes before kube-proxy starts, by their names in /proc/sys; what kube-proxy writes itself is refused."""
    hairpin: bool = True
    """Whether the pods' bridge sends packets back by the port that they came in by: without it no pod reaches itself through a
    Service (K-2.6). CNI plugins differ in it."""

    pod_ip_allocation: Annotated[PodIpAllocation, Field(alias="podIPAllocation")] = PodIpAllocation.IN_TURN
    """Which free address of its node a new pod gets. CNI plugins differ in it."""

    @model_validator(mode="after")
    def _one_way(self) -> "Nodes":
        if (self.count is None) == (self.named is None):
            raise ValueError("expected exactly one of count, list")
        if self.named is not None and self.zones:
            raise ValueError("zones goes with count; in a list every node names its own zone")
        if len(set(self.ip_families)) != len(self.ip_families):
            raise ValueError("expected each of ipFamilies once")
        return self
