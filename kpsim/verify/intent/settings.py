"""kube-proxy's configuration as far as it decides what is due to a packet (CFG-2, CFG-8, I-1).

It is read from the document itself, or taken from a configuration that was read already.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.config import DEFAULT_MODE, ProxyConfig
from kpsim.inputs import Json
from kpsim.verify.intent.objects import AnyNetwork


class Manner(NamedTuple):
    """How a mode differs where a setting says nothing (NFT-12)."""

    node_ports: tuple[str, ...] = ()  #: an absent nodePortAddresses (NFT-1.8)
    localhost: bool = True  #: whether node ports can be accepted at 127.0.0.1 (NFT-5.7)
    liberal: bool = False  #: whether INVALID packets pass (NFT-9.4)
    random_fully: bool = False  #: whether masquerading draws source ports, whatever the tool can do (NFT-5.5)


MANNERS: Mapping[str, Manner] = {
    "iptables": Manner(),
    "nftables": Manner(("primary",), localhost=False, liberal=True, random_fully=True),
}


@dataclass(frozen=True, slots=True)
class MeantSettings:
    """The settings that matter to packets."""

    cluster_cidrs: tuple[str, ...] = ()
    detect: str = "ClusterCIDR"
    bridge: str = ""
    prefix: str = ""
    node_port_addresses: tuple[str, ...] = ()
    mask: int = 0x4000  #: the bit that marks packets to masquerade
    masquerade_all: bool = False
    localhost: bool = True
    external_ips: bool = True
    liberal: bool = False  #: packets out of window are not INVALID, and INVALID packets are not dropped
    random_fully: bool = True
    mode: str = str(DEFAULT_MODE)


def settings_in(document: Json, *, liberal: bool = False, random_fully: bool = True) -> MeantSettings:
    """The settings of a KubeProxyConfiguration. ``liberal``: the kernel setting was on before kube-proxy started."""
    mode = document.get("mode") or str(DEFAULT_MODE)
    manner, section = MANNERS[mode], document.get(mode) or {}
    detect: Json = document.get("detectLocal") or {}
    bit = section.get("masqueradeBit")
    return MeantSettings(
        tuple(text.strip() for text in (document.get("clusterCIDR") or "").split(",") if text.strip()),
        document.get("detectLocalMode") or "ClusterCIDR",
        detect.get("bridgeInterface") or "",
        detect.get("interfaceNamePrefix") or "",
        tuple(document.get("nodePortAddresses") or manner.node_ports),
        1 << (14 if bit is None else bit),
        bool(section.get("masqueradeAll")),
        manner.localhost and section.get("localhostNodePorts", True) is not False,
        (document.get("featureGates") or {}).get("AllowServiceExternalIPs", True) is not False,
        bool((document.get("conntrack") or {}).get("tcpBeLiberal")) or liberal or manner.liberal,
        random_fully or manner.random_fully,
        mode,
    )


def settings_of(config: ProxyConfig, *, liberal: bool, random_fully: bool) -> MeantSettings:
    """The settings of a configuration that was read already."""
    mode = str(config.mode)
    manner = MANNERS[mode]
    return MeantSettings(
        tuple(text.strip() for text in config.cluster_cidr.split(",") if text.strip()),
        str(config.detect_local_mode), config.bridge_interface, config.interface_name_prefix,
        config.node_port_addresses or manner.node_ports, 1 << config.masquerade_bit, config.masquerade_all,
        manner.localhost and config.localhost_node_ports, config.allow_service_external_ips,
        config.conntrack_tcp_be_liberal or liberal or manner.liberal, random_fully or manner.random_fully, mode,
    )  # fmt: skip


#: whether a packet comes from a local pod, by its source and its input interface; None: this cannot be told (CFG-8.1)
Detector = Callable[[int, str], bool] | None


def detector(settings: MeantSettings, pod_cidrs: Iterable[str], family: Family) -> Detector:
    """The test for local pods (CFG-8). ``pod_cidrs`` are the Node's."""
    match settings.detect:
        case "BridgeInterface":
            return lambda _, interface: interface == settings.bridge
        case "InterfaceNamePrefix":
            return lambda _, interface: bool(interface) and interface.startswith(settings.prefix)
        case "NodeCIDR":
            networks = first_networks(pod_cidrs, family)
        case _:
            networks = first_networks(settings.cluster_cidrs, family)
    if not networks:
        return None
    [network] = networks
    return lambda source, _: contains(network, source)


def first_networks(texts: Iterable[str], family: Family) -> list[AnyNetwork]:
    """The first network of the family, in a list; an empty list if there is none."""
    return networks_of(texts, family)[:1]


def networks_of(texts: Iterable[str], family: Family) -> list[AnyNetwork]:
    version = 4 if family is Family.IPV4 else 6
    networks = (ip_network(text, strict=False) for text in texts)
    return [network for network in networks if network.version == version]


def contains(network: AnyNetwork, address: int) -> bool:
    """Whether an address of the network's family lies in it, from its first to its last address."""
    return int(network.network_address) <= address <= int(network.broadcast_address)


def node_port_networks(settings: MeantSettings, node_ips: Iterable[str], family: Family) -> list[AnyNetwork]:
    """Where node ports are accepted; an empty list: at every local address (CFG-2.3.2, I-9.1)."""
    if settings.node_port_addresses == ("primary",):
        version = 4 if family is Family.IPV4 else 6
        own = [ip_address(text) for text in node_ips]
        return [ip_network(address) for address in own if address.version == version and not address.is_loopback][:1]
    networks = networks_of(settings.node_port_addresses, family)
    return [] if any(network.prefixlen == 0 for network in networks) else networks


def covers_loopback(settings: MeantSettings, node_ips: Iterable[str]) -> bool:
    """Whether node ports are accepted at 127.0.0.1 (I-9.1): IPv4 only."""
    if not settings.localhost:
        return False
    if settings.node_port_addresses == ("primary",):
        return not node_port_networks(settings, node_ips, Family.IPV4)
    first = 127 << 24
    networks = networks_of(settings.node_port_addresses, Family.IPV4)
    for network in networks:
        if network.prefixlen == 0 or int(network.network_address) >> 24 == 127 or contains(network, first):
            return True
    return not networks
