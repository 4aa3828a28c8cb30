"""Which UDP conntrack entries a sync deletes because their endpoint is gone (O-12, CT-2).

Counterpart: pkg/proxy/conntrack/cleanup.go. This module only decides which entries go; the owner of the table deletes
them.
"""

from collections.abc import Iterable
from typing import NamedTuple

from kpsim.addresses import Family, join_host_port
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.trackers import ServicePort, ServicePortName


class UdpFlow(NamedTuple):
    """A conntrack entry as kube-proxy lists it: protocol in lower case, both tuples, addresses in canonical text."""

    protocol: str
    src: str
    sport: int
    dst: str
    dport: int
    reply_src: str
    reply_sport: int
    reply_dst: str
    reply_dport: int


#: destination address and port; the address None stands for any address, as for node ports
Frontend = tuple[str | None, int]


class UdpFrontends:
    """The frontends of all UDP service ports of a family, updated with each change (CT-2.2)."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._claims: dict[Frontend, set[ServicePortName]] = {}
        self._of: dict[ServicePortName, tuple[Frontend, ...]] = {}

    def update(self, names: Iterable[ServicePortName], maps: ServiceMaps, external_ips: bool) -> None:
        """Updates these service ports from ``maps``. Ports that ``maps`` no longer has are forgotten.

        ``external_ips`` says whether external IPs count as frontends (O-5.6).
        """
        for name in names:
            if name.protocol != "UDP":
                continue
            for frontend in self._of.pop(name, ()):
                self._claims[frontend].discard(name)
                if not self._claims[frontend]:
                    del self._claims[frontend]
            port = maps.ports.get(name)
            if port is not None:
                self._of[name] = _frontends(port, external_ips)
                for frontend in self._of[name]:
                    self._claims.setdefault(frontend, set()).add(name)

    def stale(self, flows: Iterable[UdpFlow], maps: ServiceMaps) -> list[UdpFlow]:
        """The flows to delete, in the order given: those whose reply does not come from a serving endpoint (O-12.4)."""
        serving: dict[Frontend, frozenset[str] | None] = {}

        def leads_elsewhere(flow: UdpFlow, frontend: Frontend) -> bool:
            if frontend not in serving:
                serving[frontend] = self._serving(frontend, maps)
            allowed = serving[frontend]
            return allowed is not None and join_host_port(flow.reply_src, flow.reply_sport) not in allowed

        return [
            flow
            for flow in flows
            if flow.protocol == "udp"
            and (":" in flow.dst) is (self._family is Family.IPV6)  # each family's proxier lists its own entries
            and (leads_elsewhere(flow, (flow.dst, flow.dport)) or leads_elsewhere(flow, (None, flow.dport)))
        ]

    def _serving(self, frontend: Frontend, maps: ServiceMaps) -> frozenset[str] | None:
        """The addresses (``ip:port``) of the serving endpoints behind a frontend.

        None if it is not a frontend, or if no endpoint serves: then its flows stay. If two service ports have the same
        frontend, the last of them in order counts; upstream's choice is arbitrary.
        """
        for name in sorted(self._claims.get(frontend, ()), reverse=True):
            allowed = frozenset(e.address for e in maps.endpoints.get(name, ()) if e.serving)
            if allowed:
                return allowed
        return None


def _frontends(port: ServicePort, external_ips: bool) -> tuple[Frontend, ...]:
    """The frontends of a service port, each once, even if an address is both an external IP and a VIP."""
    addresses = (port.cluster_ip, *port.load_balancer_ips, *(port.external_ips if external_ips else ()))
    frontends: dict[Frontend, None] = dict.fromkeys((address, port.port) for address in addresses)
    if port.node_port:
        frontends[None, port.node_port] = None
    return tuple(frontends)
