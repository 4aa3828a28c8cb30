"""Makes sites, to which packets are sent: the machines of a loaded cluster, or one machine with a saved ruleset.

Kernels and HTTP servers of nodes come from the nodes' kube-proxies.

``tracing.site`` explains what a site is. ``cluster`` says which rules kube-proxy writes on a machine.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip, split_host_port
from kpsim.cluster import ClusterState
from kpsim.config import HostInterface, ProxyConfig
from kpsim.errors import InputError
from kpsim.exchange import Answers, Http
from kpsim.kubeproxy.healthcheck import ProxyHealth
from kpsim.kubeproxy.stale_flows import CleanUp, UdpFlow
from kpsim.nodes import Machine, Peer, make_machine, node_address, outside_networks, pod_interface_of, sysctls_of
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier
from kpsim.replay import START_NS
from kpsim.ruleset import Role, Ruleset
from kpsim.sysctls import Sysctls
from kpsim.tracing.directory import Directory
from kpsim.tracing.listening import Anybody, Listening, Server
from kpsim.tracing.site import Site

_HEALTHZ_PORT = 10256  #: of an address that is configured without port


class RecordedNode(NamedTuple):
    """The machine that a recording was made on, as far as it was recorded."""

    name: str
    node_ips: Sequence[str]  #: empty: not recorded, so those of the Node object are used
    interfaces: Sequence[HostInterface] | None  #: at the end of the recording; None: not recorded


class ClusterMachines:
    """Makes the machines of a cluster at one moment, each when it is asked for.

    ``sysctls`` returns a node's kernel settings by the node's name. The ``recorded`` node has the recorded interfaces.
    """

    def __init__(
        self,
        state: ClusterState,
        config: ProxyConfig,
        node_names: Sequence[str],
        sysctls: Callable[[str], Sysctls],
        recorded: RecordedNode | None = None,
    ) -> None:
        self.directory = Directory.of(state)
        self._state = state
        self._config = config
        self._node_names = node_names
        self._sysctls = sysctls
        self._recorded = recorded

    def listening(self, servers: Callable[[str, Family], Sequence[Server]]) -> Listening:
        """The ends of packets' ways in the cluster."""
        return Listening(self._state, self.directory, servers)

    def make(self, name: str) -> Machine:
        """The machine of a node. A node without Node object has no addresses and no pod networks."""
        node = self._state.node(name)
        recorded = self._recorded if self._recorded is not None and self._recorded.name == name else None
        node_ips = (recorded.node_ips if recorded else ()) or (node.ips if node else ())
        interfaces = None
        if recorded:
            interfaces = _loopback_and_uplink(node_ips) if recorded.interfaces is None else recorded.interfaces
        return make_machine(
            node_ips,
            node.pod_cidrs if node else (),
            interfaces=interfaces,
            pod_interface=pod_interface_of(self._config),
            pods=self._peers[name].pods if name in self._peers else (),
            peers=[peer for other, peer in self._peers.items() if other != name],
            sysctls=self._sysctls(name),
        )

    @cached_property
    def _peers(self) -> dict[str, Peer]:
        """Every node, as the routes of the other nodes see it."""
        peers = {}
        for name in self._node_names:
            node = self._state.node(name)
            pods = [(family, address) for family in Family for address in self.directory.pods_on(name, family)]
            addresses = tuple(node_address(text) for text in node.ips) if node else ()
            machine = make_machine((), node.pod_cidrs if node else ())
            stray = outside_networks(pods, machine.pod_networks)
            peers[name] = Peer(addresses, machine.pod_networks, stray)
        return peers


class NodeProxies:
    """What the nodes' kube-proxies give to a site: what they told the kernels, and HTTP servers. Each kube-proxy is started once, if asked.

    ``proxier`` starts the kube-proxy of a node and family, and ``health`` is the whole kube-proxy's, over its families.
    Only what the site needs of them is kept.
    """

    def __init__(
        self, proxier: Callable[[str, Family], Proxier], health: Callable[[Proxier], ProxyHealth], now_ns: int
    ) -> None:
        self._proxier = proxier
        self._health = health
        self._now_ns = now_ns
        self._servers: dict[tuple[str, Family], tuple[Server, ...]] = {}
        self._clean_ups: dict[tuple[str, Family], Callable[[UdpFlow], CleanUp]] = {}

    def told(self, node: str, family: Family) -> Programmed:
        proxier = self._proxier(node, family)
        self._servers[node, family] = tuple(kube_proxy_servers(proxier, self._health(proxier), self._now_ns))
        self._clean_ups[node, family] = proxier.why_left
        return proxier.held

    def servers(self, node: str, family: Family) -> tuple[Server, ...]:
        if (node, family) not in self._servers:
            self.told(node, family)
        return self._servers[node, family]

    def why_left(self, node: str, family: Family, flow: UdpFlow) -> CleanUp:
        """Why the clean-up of a node's kube-proxy left a connection (CT-2)."""
        if (node, family) not in self._clean_ups:
            self.told(node, family)
        return self._clean_ups[node, family](flow)


def kube_proxy_servers(proxier: Proxier, proxy_health: ProxyHealth, now_ns: int) -> Iterator[Server]:
    """The HTTP servers of a kube-proxy in the family of the proxier: the Services' health checks and /healthz.

    A server on the unspecified address takes both families, as Go's listener does, but for the Services' (CP-15.1).
    """
    health, healthy = proxier.service_health, proxy_health.healthy(now_ns)
    for server in health.servers:
        said = health.answer(server.service, healthy)
        answers = Answers(f"kube-proxy's health check of {server.service}", http=Http(said.status, said.body))
        for address in _listened(health.addresses, proxier.family):
            yield Server(address, server.port, answers)
    config = proxier.settings.config
    host, port = config.healthz_bind_address, _HEALTHZ_PORT
    if parse_ip(host) is None:
        host, port = split_host_port(host)
    bound = parse_ip(host)
    if bound is not None and (bound[1] == 0 or bound[0] is proxier.family):
        said = proxy_health.healthz(now_ns)
        yield Server(bound[1] or None, port, Answers("kube-proxy's /healthz", http=Http(said.status, said.body)))


def _listened(texts: Iterable[str], family: Family) -> Iterator[int | None]:
    """The addresses of a family; None: all."""
    parsed = (parse_ip(text) for text in texts)
    return (address[1] or None for address in parsed if address is not None and address[0] is family)


def _loopback_and_uplink(node_ips: Iterable[str]) -> tuple[HostInterface, HostInterface]:
    uplink = HostInterface("eth0", tuple(str(node_address(text)) for text in node_ips))
    return HostInterface("lo", ("127.0.0.1/8", "::1/128")), uplink


def rules_site(
    *programmed: Programmed | Ruleset,
    node_ips: Iterable[str] = (),
    pod_cidrs: Iterable[str] = (),
    interfaces: Sequence[HostInterface] = (),
    sysctls: Mapping[str, int] | None = None,
) -> Site:
    """One machine with what its tools saved, one value for each family. It has ``interfaces`` in addition to lo and an uplink with ``node_ips``.

    The pods are behind the interface without addresses. ``sysctls`` are kernel settings by name; the others are as
    kube-proxy with its defaults sets them. InputError for a text that is not an address.
    """
    own = tuple(node_ips)
    pod_interface = next((interface.name for interface in interfaces if not interface.addresses), "")
    given = None
    if interfaces:
        given = [*_loopback_and_uplink(own), *(interface for interface in interfaces if interface.addresses)]
    # kube-proxy writes this rule and sets route_localnet together (I-1, I-5)
    held = {each.family: each if isinstance(each, Programmed) else Programmed.of(each) for each in programmed}
    localnet = any(each.has(Role.LOCALNET_FIREWALL) for each in held.values())
    ipvs = any(each.virtual_servers for each in held.values())
    machine = make_machine(
        own,
        pod_cidrs,
        interfaces=given,
        pod_interface=pod_interface,
        sysctls=sysctls_of(ProxyConfig(), route_localnet=localnet, liberal=False, ipvs=ipvs).written(sysctls or {}),
    )

    def told(_: str, family: Family) -> Programmed:
        if family not in held:
            given = " and ".join(each.label for each in sorted(held))
            raise InputError(f"the rules are of {given}, the packet is of {family.label}")
        return held[family]

    return Site(
        (),
        Directory(),
        lambda _: machine,
        told,
        Anybody({family: each.ruleset for family, each in held.items()}),
        listed_ns=START_NS,
    )
