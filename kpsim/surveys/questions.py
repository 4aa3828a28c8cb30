"""What a survey asks: every frontend of a Service, dialled by every kind of client at every node.

A frontend is an address with a port that clients dial: cluster IP, external IP, a load balancer's address, a node port (O-2). The node
is where the packet comes in: of a pod and a process their own, of a client outside and of another node each that it may be sent to.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.cluster import ClusterState
from kpsim.objects import LABEL_SERVICE_PROXY_NAME, Node, Service, ServicePortSpec
from kpsim.packet import Packet
from kpsim.tracing.directory import Address
from kpsim.tracing.names import Via
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Sender, Site

#: the order of rows
FRONTENDS = (Via.CLUSTER_IP, Via.EXTERNAL_IP, Via.LOAD_BALANCER, Via.NODE_PORT)
_OUTSIDE = (Sender.EXTERNAL, Sender.PEER)


class Frontend(NamedTuple):
    """An address of a Service port. ``own``: the node that has it, of a node port; ``proxied``: a load balancer is there itself."""

    kind: Via
    address: Address
    port: int
    own: str = ""
    proxied: bool = False


class Question(NamedTuple):
    """One client's first packet to a frontend. ``in_rotation``: the load balancer sends to this node; None: none is between."""

    service: Service
    port: ServicePortSpec
    frontend: Frontend
    client: Sender
    node: str
    in_rotation: bool | None
    packet: Packet  #: as :meth:`Site.begin` takes it

    @property
    def family(self) -> Family:
        return self.frontend.address[0]


class Asked(NamedTuple):
    """What is asked about."""

    families: tuple[Family, ...]
    nodes: tuple[str, ...]
    clients: Collection[Sender] = tuple(Sender)
    frontends: Collection[Via] = FRONTENDS


def name_of(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def left_out(service: Service) -> str:
    """Why nothing is asked about a Service, in words; empty: it has frontends (O-1.1, O-4)."""
    if service.type == "ExternalName":
        return "an ExternalName Service, which DNS answers for"
    if service.cluster_ip == "None":
        return "headless: DNS answers the addresses of its endpoints"
    if LABEL_SERVICE_PROXY_NAME in service.metadata.labels:
        return f"left to another proxy by its label {LABEL_SERVICE_PROXY_NAME}"
    if not any(parse_ip(text) for text in (service.cluster_ip, *service.cluster_ips)):
        return "without a cluster IP, so kube-proxy programs nothing for it"
    return ""


def frontends_of(state: ClusterState, service: Service, port: ServicePortSpec, asked: Asked) -> Iterator[Frontend]:
    """The frontends of a Service port in the families that are asked about, in the order of rows."""
    named = [
        *((Via.CLUSTER_IP, text, False) for text in (service.cluster_ip, *service.cluster_ips)),
        *((Via.EXTERNAL_IP, text, False) for text in service.external_ips),
        *((Via.LOAD_BALANCER, each.ip, each.ip_mode == "Proxy") for each in service.ingress),
    ]
    found = [
        Frontend(kind, address, port.port, proxied=proxied)
        for kind, text, proxied in named
        if (address := parse_ip(text)) is not None
    ]
    families = {address[0] for text in (service.cluster_ip, *service.cluster_ips) if (address := parse_ip(text))}
    if port.node_port:  # a Service has node ports in the families of its cluster IPs (O-4.3)
        found += [
            Frontend(Via.NODE_PORT, address, port.node_port, own=node.metadata.name)
            for node in state.nodes
            for address in _first_of_each_family(node)
            if address[0] in families
        ]
    yield from (
        each
        for each in dict.fromkeys(found)
        if each.kind in asked.frontends and each.address[0] in asked.families
    )  # fmt: skip


def _first_of_each_family(node: Node) -> Iterator[Address]:
    found: dict[Family, Address] = {}
    for text in node.ips:
        if (address := parse_ip(text)) is not None:
            found.setdefault(address[0], address)
    return (found[family] for family in sorted(found))


def questions(
    site: Site, state: ClusterState, service: Service, port: ServicePortSpec, asked: Asked
) -> Iterator[Question]:
    """Everything that is asked about a Service port. Each packet is as it was dialled; a site begins with a copy."""
    for frontend in frontends_of(state, service, port, asked):
        packet = _packet(port, frontend.address, frontend.port)
        for client in (each for each in Sender if each in asked.clients):
            outside = client in _OUTSIDE
            if not outside or frontend.kind is not Via.LOAD_BALANCER:
                for node in asked.nodes:
                    if not outside or frontend.own in ("", node):  # a packet to another node's address comes in there
                        yield Question(service, port, frontend, client, node, None, packet)
                continue
            picked = frozenset(site.ends.in_rotation(service, frontend.address[0]))
            for node in asked.nodes:
                sent = _from_balancer(state, node, port, frontend) if frontend.proxied else packet
                if sent is not None:
                    yield Question(service, port, frontend, client, node, node in picked, sent)


def _from_balancer(state: ClusterState, node: str, port: ServicePortSpec, frontend: Frontend) -> Packet | None:
    """What a load balancer with ipMode Proxy sends to a node; None: it cannot send there."""
    family, own = frontend.address
    found = state.node(node)
    to = next((address for address in _first_of_each_family(found) if address[0] is family), None) if found else None
    if to is None or not port.node_port:
        return None
    packet = _packet(port, to, port.node_port)
    packet.saddr, packet.sourced = own, True
    return packet


def _packet(port: ServicePortSpec, address: Address, number: int) -> Packet:
    return make_packet(port.protocol, format_ip(*address), number)
