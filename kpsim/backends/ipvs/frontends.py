"""What a service port wants of ip_vs: a virtual server for each of its addresses, with its endpoints (IPVS-4, IPVS-5.1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import Family, Network, parse_ip
from kpsim.config import ProxierSettings
from kpsim.ipvs.servers import (
    NO_VIRTUAL_SERVER_FLAGS,
    RealServer,
    VirtualServer,
    VirtualServerFlags,
    VirtualServerKey,
)
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import Endpoint
from kpsim.ruleset import Origin, Role

DEFAULT_SCHEDULER = "rr"
_LOOPBACK = {Family.IPV4: Network(Family.IPV4, 127 << 24, 8), Family.IPV6: Network(Family.IPV6, 1, 128)}
_LINK_LOCAL = Network(Family.IPV6, 0xFE80 << 112, 10)
_MAGLEV = "mh"


class NodeAddresses(NamedTuple):
    """The node's own addresses at one sync."""

    of_node_ports: tuple[int, ...]  #: those at which node ports are served (IPVS-4.2)
    elsewhere: frozenset[int]  #: those of other devices than kube-ipvs0, loopback and link-local ones aside (IPVS-3.3)


@dataclass(frozen=True, slots=True)
class Frontend:
    """One virtual server that a service port wants."""

    role: Role
    key: VirtualServerKey
    server: VirtualServer  #: its real servers have weight 1, and stand in the order in which they are added
    bound: bool  #: whether the address must be on kube-ipvs0 (IPVS-3.2)


@dataclass(frozen=True, slots=True)
class PortFrontends:
    """What one service port wants, on one node."""

    plan: ServicePlan
    frontends: tuple[Frontend, ...]
    no_local: tuple[bool, bool]  #: whether it counts as without local endpoints: internal, external (IPVS-9.2)

    def of(self, role: Role) -> Iterator[Frontend]:
        """The frontends of one kind."""
        return (frontend for frontend in self.frontends if frontend.role is role)

    def origin(self, role: Role, endpoint: str = "") -> Origin:
        """Why something exists for this service port."""
        return origin_of(self.plan, role, endpoint)


def origin_of(plan: ServicePlan, role: Role, endpoint: str = "") -> Origin:
    """Why something exists for a service port."""
    return Origin(role, str(plan.name), plan.name.protocol, endpoint)


def write_frontends(plan: ServicePlan, settings: ProxierSettings, addresses: NodeAddresses) -> PortFrontends:
    """All virtual servers of a service port, in the order in which a sync makes them (IPVS-4.1)."""
    return _Writer(plan, settings, addresses).write()


class _Writer:
    def __init__(self, plan: ServicePlan, settings: ProxierSettings, addresses: NodeAddresses) -> None:
        self.plan = plan
        self.settings = settings
        self.addresses = addresses
        self.protocol = plan.name.protocol.lower()
        self.frontends: list[Frontend] = []
        self.asked_local = False  #: whether some frontend wants local endpoints only
        scheduler = settings.config.ipvs_scheduler or DEFAULT_SCHEDULER
        self.scheduler = scheduler
        self.flags = NO_VIRTUAL_SERVER_FLAGS
        if plan.port.session_affinity:
            self.flags |= VirtualServerFlags.PERSISTENT
        if scheduler == _MAGLEV:
            self.flags |= VirtualServerFlags.SCHEDULER_2
        self.cluster = self.real_servers(plan.cluster)
        self.local = self.real_servers(plan.local)

    def write(self) -> PortFrontends:
        port = self.plan.port
        self.add(Role.CLUSTER_IP, number_of(port.cluster_ip), port.port, bound=True)
        if self.settings.config.allow_service_external_ips:
            self.add_external(Role.EXTERNAL_IP, port.external_ips)
        self.add_external(Role.LOAD_BALANCER, port.load_balancer_ips)
        if port.node_port:
            for address in self.addresses.of_node_ports:
                self.add(Role.NODE_PORT, address, port.node_port, bound=False)
        # a Local policy that is asked for and finds nothing counts for each policy that is Local (IPVS-9.2)
        lacking = self.asked_local and not self.plan.local and self.plan.has_any
        no_local = lacking and port.internal_policy_local, lacking and port.external_policy_local
        return PortFrontends(self.plan, tuple(self.frontends), no_local)

    def add_external(self, role: Role, ips: tuple[str, ...]) -> None:
        for address in map(number_of, ips):
            self.add(role, address, self.plan.port.port, bound=address not in self.addresses.elsewhere)

    def add(self, role: Role, address: int, port: int, *, bound: bool) -> None:
        policies = self.plan.port
        local = policies.internal_policy_local if role is Role.CLUSTER_IP else policies.external_policy_local
        self.asked_local = self.asked_local or local
        server = VirtualServer(
            self.scheduler,
            self.settings.family.bits,
            self.flags,
            policies.sticky_seconds,
            # without local endpoints, a Local policy falls back to all (IPVS-5.1)
            self.local if local and self.local else self.cluster,
            origin_of(self.plan, role),
        )
        self.frontends.append(Frontend(role, VirtualServerKey(address, port, self.protocol), server, bound))

    def real_servers(self, endpoints: tuple[Endpoint, ...]) -> tuple[RealServer, ...]:
        return tuple(
            RealServer(number_of(each.ip), each.port, origin=origin_of(self.plan, Role.ENDPOINT, each.address))
            for each in endpoints
        )


def number_of(ip: str) -> int:
    """The address of a canonical text."""
    parsed = parse_ip(ip)
    assert parsed is not None
    return parsed[1]


def node_addresses(settings: ProxierSettings, interfaces: tuple[int, ...], of_device: tuple[int, ...]) -> NodeAddresses:
    """The node's addresses for one sync.

    ``interfaces`` are the addresses of all devices but kube-ipvs0, and ``of_device`` are those that kube-ipvs0 has.
    """
    loopback = _LOOPBACK[settings.family]
    elsewhere = [each for each in interfaces if each not in loopback and each not in _LINK_LOCAL]
    if settings.node_ports.match_all:
        chosen = sorted(set(elsewhere))
    else:
        # a CIDR of service addresses would find those of kube-ipvs0, too
        found = settings.node_ports.matching((*interfaces, *of_device))
        chosen = [each for each in found if each not in loopback]
    return NodeAddresses(tuple(chosen), frozenset(elsewhere))
