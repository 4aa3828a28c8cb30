"""Which UDP conntrack entries a sync deletes because their endpoint is gone, and why others stay (O-12, CT-2).

Counterpart: pkg/proxy/conntrack/cleanup.go. This module only decides which entries go; the owner of the table deletes
them.
"""

import enum
from collections.abc import Collection, Iterable
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


class CleanUp(enum.StrEnum):
    """Why kube-proxy's clean-up of stale flows left an entry (CT-1, CT-2)."""

    NOT_ITS_PROTOCOL = "the clean-up never touches entries of this protocol (CT-2.1)"
    NO_SERVICE = "the clean-up looks only at Services that exist (CT-2.2)"
    NOT_SERVING = "the clean-up passed the Service over because it has no serving endpoint (CT-2.2)"
    NOT_RUN = (
        "no clean-up has run since: only a successful sync with a change of UDP endpoints runs one (CT-1.1, CT-1.2)"
    )
    STILL_SERVES = "the clean-up keeps flows to an endpoint that still serves (CT-2.3.4)"


def why_left(protocol: str, leads_to: str, known: bool, serving: Collection[str]) -> CleanUp:
    """Why an entry to ``leads_to`` (``ip:port``) is there.

    ``known``: its destination is the frontend of a service port, whose ``serving`` endpoints are ``ip:port``.
    """
    if protocol.lower() != "udp":
        return CleanUp.NOT_ITS_PROTOCOL
    if not known:
        return CleanUp.NO_SERVICE
    if not serving:
        return CleanUp.NOT_SERVING
    return CleanUp.STILL_SERVES if leads_to in serving else CleanUp.NOT_RUN


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
        return [
            flow
            for flow in flows
            if (":" in flow.dst) is (self._family is Family.IPV6)  # each family's proxier lists its own entries
            and self._why_left(flow, maps, serving) is CleanUp.NOT_RUN
        ]

    def why_left(self, flow: UdpFlow, maps: ServiceMaps) -> CleanUp:
        """Why a flow is there. NOT_RUN: a clean-up would delete it now."""
        return self._why_left(flow, maps, {})

    def _why_left(self, flow: UdpFlow, maps: ServiceMaps, serving: dict[Frontend, frozenset[str] | None]) -> CleanUp:
        """As :meth:`why_left`. ``serving`` remembers the endpoints of frontends from flow to flow."""
        leads_to, found = join_host_port(flow.reply_src, flow.reply_sport), set()
        for frontend in ((flow.dst, flow.dport), (None, flow.dport)):
            if frontend not in serving:
                serving[frontend] = self._serving(frontend, maps)
            endpoints = serving[frontend]
            found.add(why_left(flow.protocol, leads_to, endpoints is not None, endpoints or ()))
        return next(reason for reason in _BY_WEIGHT if reason in found)

    def _serving(self, frontend: Frontend, maps: ServiceMaps) -> frozenset[str] | None:
        """The addresses (``ip:port``) of the serving endpoints behind a frontend; None if it is not a frontend.

        If two service ports with serving endpoints have the same frontend, the last of them in order counts; upstream's
        choice is arbitrary.
        """
        names = self._claims.get(frontend)
        if names is None:
            return None
        for name in sorted(names, reverse=True):
            allowed = frozenset(e.address for e in maps.endpoints.get(name, ()) if e.serving)
            if allowed:
                return allowed
        return frozenset()


#: of two frontends that an entry fits, one that says that it is stale counts first (CT-2.3)
_BY_WEIGHT = (
    CleanUp.NOT_RUN, CleanUp.STILL_SERVES, CleanUp.NOT_SERVING, CleanUp.NO_SERVICE, CleanUp.NOT_ITS_PROTOCOL,
)  # fmt: skip


def _frontends(port: ServicePort, external_ips: bool) -> tuple[Frontend, ...]:
    """The frontends of a service port, each once, even if an address is both an external IP and a VIP."""
    addresses = (port.cluster_ip, *port.load_balancer_ips, *(port.external_ips if external_ips else ()))
    frontends: dict[Frontend, None] = dict.fromkeys((address, port.port) for address in addresses)
    if port.node_port:
        frontends[None, port.node_port] = None
    return tuple(frontends)
