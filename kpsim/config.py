"""kube-proxy's configuration, what it finds on its machine, and the settings of one family's proxier (spec 07).

Counterpart: KubeProxyConfiguration v1alpha1 and cmd/kube-proxy's start-up. Reading is as lenient here as kube-proxy's
own decoder. ``manifests`` validates what people wrote.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import replace

from kpsim.addresses import Family, Network, canonical_ip, host_network, parse_cidr, parse_ip, parse_network
from kpsim.inputs import Json, JsonObject
from kpsim.objects import Node
from kpsim.units import HOUR_NS, SECOND_NS, parse_duration_ns
from kpsim.valueclass import dataclass


class Mode(enum.StrEnum):
    """Proxy mode. An empty ``mode`` means iptables on Linux (CFG-9.1)."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"
    IPVS = "ipvs"


DEFAULT_MODE = Mode.IPTABLES


class LocalMode(enum.StrEnum):
    """How kube-proxy recognises traffic of local pods: ``detectLocalMode`` (I-10, CFG-8)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The fields of KubeProxyConfiguration that are modelled, with their defaults (CFG-2).

    Durations are in nanoseconds.
    """

    mode: Mode = DEFAULT_MODE
    hostname_override: str = ""
    bind_address: str = ""
    healthz_bind_address: str = "0.0.0.0:10256"
    cluster_cidr: str = ""
    detect_local_mode: LocalMode = LocalMode.CLUSTER_CIDR
    bridge_interface: str = ""
    interface_name_prefix: str = ""
    node_port_addresses: tuple[str, ...] = ()
    masquerade_bit: int = 14
    masquerade_all: bool = False
    localhost_node_ports: bool = True
    sync_period_ns: int = 30 * SECOND_NS
    min_sync_period_ns: int = SECOND_NS
    config_sync_period_ns: int = 15 * 60 * SECOND_NS
    conntrack_tcp_be_liberal: bool = False
    conntrack_max_per_core: int = 32768
    conntrack_min: int = 131072
    conntrack_tcp_established_timeout_ns: int = 24 * HOUR_NS
    conntrack_tcp_close_wait_timeout_ns: int = HOUR_NS
    conntrack_udp_timeout_ns: int = 0
    conntrack_udp_stream_timeout_ns: int = 0
    ipvs_scheduler: str = ""
    ipvs_exclude_cidrs: tuple[str, ...] = ()
    ipvs_strict_arp: bool = False
    ipvs_tcp_timeout_ns: int = 0  #: of ip_vs; 0: as the kernel has it, as for the next two (IPVS-2.2)
    ipvs_tcp_fin_timeout_ns: int = 0
    ipvs_udp_timeout_ns: int = 0
    allow_service_external_ips: bool = True


#: the section of the configuration that carries a mode's own options
_SECTION = {Mode.IPTABLES: "iptables", Mode.NFTABLES: "nftables", Mode.IPVS: "ipvs"}


def config_from_json(obj: Json, *, mode: Mode | None = None) -> ProxyConfig:
    """The configuration in a document, with kube-proxy's defaults. ``mode`` overrides the document's.

    ValueError for a mode, detection mode or duration that kube-proxy would refuse.
    """
    chosen = mode or Mode(obj.get("mode") or DEFAULT_MODE)
    section: Json = obj.get(_SECTION[chosen]) or {}
    iptables: Json = obj.get("iptables") or {}
    ipvs: Json = obj.get("ipvs") or {}
    conntrack: Json = obj.get("conntrack") or {}
    detect: Json = obj.get("detectLocal") or {}
    gates: Json = obj.get("featureGates") or {}
    masquerade = section if chosen is Mode.NFTABLES else iptables
    default = ProxyConfig()

    def duration(source: Json, name: str, default_ns: int, *, zero_is_unset: bool = True) -> int:
        value = source.get(name)
        if value is None:
            return default_ns
        parsed = parse_duration_ns(str(value))
        return default_ns if parsed == 0 and zero_is_unset else parsed

    return ProxyConfig(
        mode=chosen,
        hostname_override=(obj.get("hostnameOverride") or "").strip().lower(),
        bind_address=obj.get("bindAddress") or "",
        healthz_bind_address=obj.get("healthzBindAddress") or default.healthz_bind_address,
        cluster_cidr=obj.get("clusterCIDR") or "",
        detect_local_mode=LocalMode(obj.get("detectLocalMode") or LocalMode.CLUSTER_CIDR),
        bridge_interface=detect.get("bridgeInterface") or "",
        interface_name_prefix=detect.get("interfaceNamePrefix") or "",
        node_port_addresses=tuple(obj.get("nodePortAddresses") or ()),
        masquerade_bit=_or_default(masquerade.get("masqueradeBit"), default.masquerade_bit),
        masquerade_all=bool(masquerade.get("masqueradeAll")),
        localhost_node_ports=iptables.get("localhostNodePorts") is not False,
        # a zero in the file counts as absent (CFG-2.2.2); ipvs has no minimum by default
        sync_period_ns=duration(section, "syncPeriod", default.sync_period_ns),
        min_sync_period_ns=duration(section, "minSyncPeriod", 0 if chosen is Mode.IPVS else default.min_sync_period_ns),
        config_sync_period_ns=duration(obj, "configSyncPeriod", default.config_sync_period_ns),
        conntrack_tcp_be_liberal=bool(conntrack.get("tcpBeLiberal")),
        conntrack_max_per_core=_or_default(conntrack.get("maxPerCore"), default.conntrack_max_per_core),
        conntrack_min=_or_default(conntrack.get("min"), default.conntrack_min),
        conntrack_tcp_established_timeout_ns=duration(
            conntrack, "tcpEstablishedTimeout", default.conntrack_tcp_established_timeout_ns, zero_is_unset=False
        ),
        conntrack_tcp_close_wait_timeout_ns=duration(
            conntrack, "tcpCloseWaitTimeout", default.conntrack_tcp_close_wait_timeout_ns, zero_is_unset=False
        ),
        conntrack_udp_timeout_ns=duration(conntrack, "udpTimeout", 0),
        conntrack_udp_stream_timeout_ns=duration(conntrack, "udpStreamTimeout", 0),
        ipvs_scheduler=ipvs.get("scheduler") or "",
        ipvs_exclude_cidrs=tuple(ipvs.get("excludeCIDRs") or ()),
        ipvs_strict_arp=bool(ipvs.get("strictARP")),
        ipvs_tcp_timeout_ns=duration(ipvs, "tcpTimeout", 0),
        ipvs_tcp_fin_timeout_ns=duration(ipvs, "tcpFinTimeout", 0),
        ipvs_udp_timeout_ns=duration(ipvs, "udpTimeout", 0),
        allow_service_external_ips=gates.get("AllowServiceExternalIPs") is not False,
    )


#: which section of a document the flags named after iptables, and ``--masquerade-all``, set in a mode that has its own
_SHARED_BY_FLAGS = {Mode.NFTABLES: ("syncPeriod", "minSyncPeriod", "masqueradeAll")}
#: modes whose least period by flags is another one than by file (CFG-2.2.1)
_LEAST_BY_FLAGS_NS = {Mode.IPVS: SECOND_NS}


def as_of_flags(obj: Json) -> tuple[JsonObject, int | None]:
    """Return what flags say as a document: each value in the section that the mode reads (CFG-2.2, CFG-2.3).

    ``obj`` has the values of flags in the sections they are named after. The second result is the minSyncPeriod in
    nanoseconds if a document cannot say it: zero, which counts by flag, or another default (CFG-2.2.1, CFG-2.2.2).
    """
    document = dict(obj)
    mode = next((known for known in Mode if known == obj.get("mode")), DEFAULT_MODE)
    own, named = dict(obj.get(_SECTION[mode]) or {}), obj.get(_SECTION[DEFAULT_MODE]) or {}
    shared = {name: named[name] for name in _SHARED_BY_FLAGS.get(mode, ()) if name in named}
    if shared:
        document[_SECTION[mode]] = own = {**shared, **own}
        document[_SECTION[DEFAULT_MODE]] = {name: value for name, value in named.items() if name not in shared}
    least = own.get("minSyncPeriod")
    if least is None:
        return document, _LEAST_BY_FLAGS_NS.get(mode)
    return document, 0 if parse_duration_ns(str(least)) == 0 else None


def _or_default(value: int | None, default: int) -> int:
    return default if value is None else value


@dataclass(frozen=True, slots=True)
class HostInterface:
    """A network interface. ``addresses`` are written as ``ip`` or ``ip/prefix``."""

    name: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """What kube-proxy finds on its machine.

    ``interfaces`` None stands for loopback and an interface with the node IPs.
    """

    node_ips: tuple[str, ...] = ()
    interfaces: tuple[HostInterface, ...] | None = None
    nfacct: bool = True
    random_fully: bool = True
    tcp_be_liberal: bool = False
    service_cidrs: tuple[str, ...] = ()
    large_cluster_endpoints: int = 1000
    detect_local: bool = True


@dataclass(frozen=True, slots=True)
class LocalDetector:
    """How traffic of local pods is recognised: by source CIDR or by input interface (a trailing ``+`` is a prefix)."""

    cidr: Network | None = None
    interface: str = ""


@dataclass(frozen=True, slots=True)
class NodePortAddresses:
    """Which local addresses accept node ports in one family (I-9.1)."""

    networks: tuple[Network, ...]

    @property
    def match_all(self) -> bool:
        return any(network.is_zero for network in self.networks)

    @property
    def contains_loopback(self) -> bool:
        """Whether an IPv4 CIDR lies in 127/8 or contains 127.0.0.0, as 0.0.0.0/0 does."""
        return any(
            network.family is Family.IPV4 and (network.base >> 24 == 127 or 127 << 24 in network)
            for network in self.networks
        )

    def matching(self, addresses: Iterable[int]) -> list[int]:
        """The addresses that lie in one of the CIDRs, in ascending order, each once."""
        return sorted({address for address in addresses if any(address in network for network in self.networks)})


@dataclass(frozen=True, slots=True)
class ProxierSettings:
    """The settings of one family's proxier, fixed at its start. ``node_ip`` is the effective node IP (O-11.3)."""

    family: Family
    node_name: str
    node_ip: int
    config: ProxyConfig
    detector: LocalDetector | None
    node_ports: NodePortAddresses
    interface_addresses: tuple[int, ...]  #: of the family; re-read at every sync
    service_cidrs: tuple[str, ...]  #: of the family; known before the first sync
    nfacct: bool
    random_fully: bool
    liberal: bool
    large_cluster_endpoints: int
    masquerade_mark: int

    @property
    def uses_ipvs(self) -> bool:
        """Whether kube-proxy makes the kernel settings that ip_vs needs (IPVS-2)."""
        return self.config.mode is Mode.IPVS

    def addresses_of(self, interfaces: Iterable[HostInterface]) -> tuple[int, ...]:
        """The machine's addresses of the family, in order, without those of the device that kube-proxy itself fills."""
        own = _OWN_DEVICES.get(self.config.mode)
        return interface_addresses((each for each in interfaces if each.name != own), self.family)

    @property
    def localhost_node_ports(self) -> bool:
        """Whether node ports are reachable on 127.0.0.1 (LOCALHOST of I-1): only iptables mode asks for that (CFG-6)."""
        wanted = self.config.localhost_node_ports and self.config.mode is Mode.IPTABLES
        return wanted and self.family is Family.IPV4 and self.node_ports.contains_loopback


#: the device that a mode puts addresses on (IPVS-3.1)
_OWN_DEVICES = {Mode.IPVS: "kube-ipvs0"}
_LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


def effective_node_ips(bind_address: str, node_ips: Iterable[str]) -> dict[Family, str]:
    """The node IP of each family (CFG-7.1, O-11): a specific bind address, else the node's first IP, else loopback."""
    chosen: dict[Family, str] = {}
    for text in node_ips:
        parsed = parse_ip(text)
        if parsed is not None and parsed[0] not in chosen:
            chosen[parsed[0]] = text
    bound = parse_ip(bind_address) if bind_address else None
    if bound is not None and bound[1] != 0:
        chosen[bound[0]] = bind_address
    return {family: canonical_ip(chosen.get(family, _LOOPBACK[family])) or _LOOPBACK[family] for family in Family}


def _first_of_family(cidrs: Iterable[str], family: Family) -> Network | None:
    networks = (parse_network(text.strip()) for text in cidrs)
    return next((network for network in networks if network is not None and network.family is family), None)


def _detector(config: ProxyConfig, host: Host, node: Node | None, family: Family) -> LocalDetector | None:
    if not host.detect_local:
        return None
    match config.detect_local_mode:
        case LocalMode.CLUSTER_CIDR:
            cidr = _first_of_family(config.cluster_cidr.split(","), family)
            return LocalDetector(cidr=cidr) if cidr else None
        case LocalMode.NODE_CIDR:
            cidr = _first_of_family(node.pod_cidrs if node else (), family)
            return LocalDetector(cidr=cidr) if cidr else None
        case LocalMode.BRIDGE_INTERFACE:
            return LocalDetector(interface=config.bridge_interface)
        case LocalMode.INTERFACE_NAME_PREFIX:
            return LocalDetector(interface=config.interface_name_prefix + "+")


#: what an absent nodePortAddresses stands for, where that is not all addresses (NFT-1.8)
_DEFAULT_NODE_PORT_ADDRESSES = {Mode.NFTABLES: ("primary",)}


def _node_port_addresses(config: ProxyConfig, node_ips: Mapping[Family, str], family: Family) -> NodePortAddresses:
    addresses = config.node_port_addresses or _DEFAULT_NODE_PORT_ADDRESSES.get(config.mode, ())
    if addresses == ("primary",):
        node_ip = node_ips[family]
        networks = [] if node_ip == _LOOPBACK[family] or node_ip.startswith("127.") else [host_network(node_ip)]
    else:
        parsed = (parse_network(text) for text in addresses)
        networks = [network for network in parsed if network is not None and network.family is family]
    return NodePortAddresses(tuple(networks) or (Network(family, 0, 0),))


def interface_addresses(interfaces: Iterable[HostInterface], family: Family) -> tuple[int, ...]:
    """The addresses of one family on these interfaces, in order. Texts that are not addresses are left out."""
    found = []
    for interface in interfaces:
        for text in interface.addresses:
            cidr = parse_cidr(text)
            parsed = (cidr[0].family, cidr[1]) if cidr else parse_ip(text)
            if parsed is not None and parsed[0] is family:
                found.append(parsed[1])
    return tuple(found)


def cidrs_of_family(cidrs: Iterable[str], family: Family) -> tuple[str, ...]:
    """The CIDRs of one family, sorted, each once. Texts that are no CIDRs are left out."""
    networks = {text: parse_network(text) for text in cidrs}
    return tuple(sorted(text for text, network in networks.items() if network and network.family is family))


def loopback_and_uplink(node_ips: Iterable[str]) -> tuple[HostInterface, HostInterface]:
    """The interfaces of a machine of which only the node IPs are known."""
    return HostInterface("lo", ("127.0.0.1/8", "::1/128")), HostInterface("eth0", tuple(node_ips))


def resolve(config: ProxyConfig, host: Host, node: Node | None, family: Family) -> ProxierSettings:
    """The settings of one family's proxier.

    ``node`` is the Node object that kube-proxy reads when it starts, if any.
    """
    raw_node_ips = host.node_ips or (node.ips if node else ())
    node_ips = effective_node_ips(config.bind_address, raw_node_ips)
    interfaces = host.interfaces
    if interfaces is None:
        interfaces = loopback_and_uplink(raw_node_ips)
    node_ip = parse_ip(node_ips[family])
    assert node_ip is not None
    settings = ProxierSettings(
        family=family,
        node_name=config.hostname_override or (node.metadata.name if node else ""),
        node_ip=node_ip[1],
        config=config,
        detector=_detector(config, host, node, family),
        node_ports=_node_port_addresses(config, node_ips, family),
        interface_addresses=(),
        service_cidrs=cidrs_of_family(host.service_cidrs, family),
        nfacct=host.nfacct,
        random_fully=host.random_fully,
        liberal=host.tcp_be_liberal or config.conntrack_tcp_be_liberal,
        large_cluster_endpoints=host.large_cluster_endpoints,
        masquerade_mark=1 << config.masquerade_bit,
    )
    return replace(settings, interface_addresses=settings.addresses_of(interfaces))
