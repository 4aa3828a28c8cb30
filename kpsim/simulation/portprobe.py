"""Probes of a node port: the TCP connections by which load balancers find out whether a node serves (FIG-3).

They go through the node's rules like a client's, so they pass where a client would be served.
"""

import enum
from collections.abc import Callable, Mapping

from kpsim.addresses import Family, parse_ip
from kpsim.objects import Service
from kpsim.packet import Packet
from kpsim.scenario.nodes import ClusterNode
from kpsim.simulation.clock import Clock
from kpsim.simulation.machines import Machines

#: what a load balancer without an IP sends from: networks for measurements (RFC 2544, RFC 5180), which nobody else has
_OWN = {Family.IPV4: "198.19.255.1", Family.IPV6: "2001:2:0:ffff::1"}
_FIRST_PORT, _PORTS = 1024, 64512


class Heard(enum.Enum):
    """What a load balancer gets for a probe."""

    YES = "yes"
    NO = "no"  #: a refusal, or another answer than 200
    SILENCE = "silence"

    @property
    def passed(self) -> bool:
        return self is Heard.YES


def own_address(service: Service, family: Family) -> str:
    """Return the address from which the Service's load balancer dials nodes."""
    ips = (ingress.ip for ingress in service.ingress if ingress.ip)
    return next((ip for ip in ips if (found := parse_ip(ip)) is not None and found[0] is family), _OWN[family])


class PortProbe:
    """Opens a connection to the node port of the Service's first TCP port, and closes it."""

    def __init__(
        self, clock: Clock, machines: Machines, nodes: Mapping[str, ClusterNode], service: Callable[[], Service]
    ) -> None:
        self._clock = clock
        self._machines = machines
        self._nodes = nodes
        self._service = service
        self._sent = 0

    def __call__(self, node: str) -> Heard:
        """Probe the node and return what came back."""
        service, number = self._service(), self._sent
        self._sent += 1
        port = next((port.node_port for port in service.ports if port.protocol == "TCP" and port.node_port), 0)
        family = Family.from_label(next(iter(service.ip_families), Family.IPV4.label))
        source, destination = parse_ip(own_address(service, family)), parse_ip(self._nodes[node].ip(family))
        if not port or source is None or destination is None:
            return Heard.NO
        packet = Packet(family, "tcp", source[1], destination[1], _FIRST_PORT + number % _PORTS, port)
        key = ("health check", f"{service.metadata.namespace}/{service.metadata.name}", node, number)
        now_ns = self._clock.now_ns
        outcome = self._machines.connect(packet, node, now_ns, key, local=False, repeats=True)
        if outcome.flow is None:
            return Heard.SILENCE if outcome.silent else Heard.NO
        self._machines.establish(outcome.flow, now_ns)
        self._machines.close(outcome.flow, now_ns)
        return Heard.YES
