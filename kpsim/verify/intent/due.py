"""What is due to the first packet of a flow at a node (chapter PP, I-6, I-7, I-19.3).

A packet is described by where it comes from and what it dials. The answer is an endpoint of a set, masqueraded or not,
a refusal, or that kube-proxy leaves the packet alone.
"""

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from kpsim.addresses import Family
from kpsim.verify.intent.objects import AnyNetwork, End, MeantPort
from kpsim.verify.intent.settings import Detector, MeantSettings, contains


class Fate(enum.StrEnum):
    """What kube-proxy does with a first packet."""

    ENDPOINT = "an endpoint"
    REJECT = "a rejection"
    DROP = "a drop"
    ALONE = "to be left alone"
    OPEN = "anything"  #: it is not defined


class Due(NamedTuple):
    """What is due to a packet. ``masquerade`` holds for every endpoint but the sender itself (``selves``)."""

    fate: Fate
    ends: frozenset[End] = frozenset()
    masquerade: bool = False
    port: MeantPort | None = None  #: the service port that decides; None: none does
    selves: frozenset[End] | None = None  #: endpoints that are masqueraded when they reach themselves; None: every one

    def masquerades(self, source: int, end: End) -> bool:
        """Whether a packet from ``source`` to an endpoint is masqueraded (PP-1.6)."""
        itself = source == end[0] and (self.selves is None or end in self.selves)
        return self.fate is Fate.ENDPOINT and (self.masquerade or itself)


class Asked(NamedTuple):
    """A first packet: its protocol in lower case, its ends, and the interface it comes in by (empty: a process sends it)."""

    protocol: str
    source: int
    address: int
    port: int
    interface: str


@dataclass(frozen=True)
class MeantNode:
    """A node of one family: its own addresses, and what its kube-proxy must do."""

    family: Family
    settings: MeantSettings
    ports: Sequence[MeantPort]
    own: frozenset[int]  #: the addresses of the node's interfaces
    node_ip: int | None  #: by which source ranges admit the node itself (CFG-7.2)
    node_port_networks: Sequence[AnyNetwork]  #: empty: every local address
    localhost: bool  #: node ports are accepted at 127.0.0.1
    is_pod: Detector = field(repr=False)
    service_networks: Sequence[AnyNetwork] = ()  #: what ServiceCIDRs say

    opens: ClassVar[bool] = True  #: whether a policy of DROP lets pass what kube-proxy masquerades, and health checks
    listed: ClassVar[int] = 100  #: the sources that an affinity list holds (CT-8)

    def is_local(self, address: int) -> bool:
        """Whether the node has the address. 127/8 is the node's as a whole."""
        return address in self.own or self.is_loopback(address)

    def is_loopback(self, address: int) -> bool:
        return address == 1 if self.family is Family.IPV6 else address >> 24 == 127

    # --- what is dialled -------------------------------------------------------------------------------------------------

    def due(self, asked: Asked) -> Due:
        """What is due to a packet."""
        end = asked.address, asked.port
        known = [port for port in self.ports if port.protocol == asked.protocol]
        for port in known:
            if port.cluster == end:
                return self._inside(port, asked)
        refused: Due | None = None
        for port in known:
            if end in port.external:
                found = self._outside(port, asked)
            elif end in port.vips:
                found = self._admitted(port, asked)
            else:
                continue
            if found.fate is Fate.ENDPOINT:
                return found
            refused = refused or found
        if self.is_local(asked.address):
            for port in known:
                if port.node_port and port.node_port == asked.port:
                    return self._at_node_port(port, asked)
        return refused or self._stray(asked, None)

    def _inside(self, port: MeantPort, asked: Asked) -> Due:
        """A cluster IP (PP-3)."""
        ends = port.here if port.internal_local else port.everywhere
        if not port.any_serves:
            return Due(Fate.REJECT, port=port)
        if not ends:
            return Due(Fate.DROP, port=port)
        masquerade = self.settings.masquerade_all or (self.is_pod is not None and not self._from_pod(asked))
        return Due(Fate.ENDPOINT, ends, masquerade, port)

    def _from_pod(self, asked: Asked) -> bool:
        return self.is_pod is not None and self.is_pod(asked.source, asked.interface)

    def _outside(self, port: MeantPort, asked: Asked) -> Due:
        """An external destination without source ranges (PP-4 … PP-6)."""
        if not port.any_serves:
            return self._refusal(Fate.REJECT, port, asked)
        if not port.external_local:
            return Due(Fate.ENDPOINT, port.everywhere, True, port)
        if self._from_pod(asked):
            return Due(Fate.ENDPOINT, port.everywhere, False, port)
        if self.is_local(asked.source):
            return Due(Fate.ENDPOINT, port.everywhere, True, port)
        return Due(Fate.ENDPOINT, port.here, False, port) if port.here else self._refusal(Fate.DROP, port, asked)

    def _admitted(self, port: MeantPort, asked: Asked) -> Due:
        """A load balancer's address: source ranges are asked while some endpoint serves (PP-8)."""
        if port.ranges and port.any_serves:
            itself = any(asked.source == address for address, _ in port.vips)
            of_node = self.node_ip is not None and any(contains(each, self.node_ip) for each in port.ranges)
            if not any(contains(each, asked.source) for each in port.ranges) and not (itself and of_node):
                return Due(Fate.DROP, port=port)  # in INPUT, FORWARD and OUTPUT alike
        return self._outside(port, asked)

    def _refusal(self, fate: Fate, port: MeantPort, asked: Asked) -> Due:
        """External refusals stand in INPUT and FORWARD, so a process meets them only at the node's addresses (PP-6)."""
        if not asked.interface and not self.is_local(asked.address):
            return Due(Fate.ALONE, port=port)
        return self._stray(asked, port) if self._is_walled(asked) else Due(fate, port=port)

    def _at_node_port(self, port: MeantPort, asked: Asked) -> Due:
        """A node port (PP-7). Its refusals ask neither nodePortAddresses nor localhostNodePorts (PP-7.2)."""
        if port.any_serves and self._accepts_node_ports(asked.address):
            return self._outside(port, asked)
        if not port.any_serves:
            return self._refusal(Fate.REJECT, port, asked)
        if port.external_local and not port.here:
            return self._refusal(Fate.DROP, port, asked)
        return self._stray(asked, port)

    def _accepts_node_ports(self, address: int) -> bool:
        if self.is_loopback(address):
            if self.family is Family.IPV6 or not self.localhost:
                return False
            return not self.node_port_networks or (
                address in self.own and any(contains(each, address) for each in self.node_port_networks)
            )
        return not self.node_port_networks or any(contains(each, address) for each in self.node_port_networks)

    def _is_walled(self, asked: Asked) -> bool:
        """Whether the wall around 127/8 drops a packet that nobody translated (I-5, PP-7.4)."""
        loopback = self.localhost and self.family is Family.IPV4 and self.is_loopback(asked.address)
        return loopback and not self.is_loopback(asked.source)

    def _stray(self, asked: Asked, port: MeantPort | None) -> Due:
        """A packet that no Service takes."""
        return Due(Fate.DROP if self._is_walled(asked) else Fate.ALONE, port=port)

    def is_guarded(self, protocol: str, end: End) -> bool:
        """Whether an endpoint's address and port are a load balancer's with source ranges (PP-8, R4).

        The guard looks at packets behind the choice of their endpoint. It takes those that were led to such an endpoint for
        packets that no range admitted.
        """
        return any(p.protocol == protocol and p.ranges and p.any_serves and end in p.vips for p in self.ports)

    def health_ports(self) -> Iterator[int]:
        """The ports at which kube-proxy answers health checks: a firewall's policy must not keep them closed (R8)."""
        return (port.health_port for port in self.ports if port.health_port)


def node_addresses(addresses: Iterable[int]) -> frozenset[int]:
    """The addresses of a node's interfaces, as a set."""
    return frozenset(addresses)
