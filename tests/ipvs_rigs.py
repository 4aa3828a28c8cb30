"""Proxiers in ipvs mode, and what tests ask of the kernel that they program."""

from dataclasses import replace
from typing import Any

from proxiers import NODE_IP, Rig, endpoint, endpoint_slice, make_settings, port, service

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.backends.table import make_backend
from kpsim.config import Host, HostInterface, Mode
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier

ONE, TWO = "10.180.0.3", "10.180.1.4"
FOREIGN_IP = "203.0.113.9"


def number(ip: str) -> int:
    parsed = parse_ip(ip)
    assert parsed is not None
    return parsed[1]


def key(ip: str, of_port: int = 80, protocol: str = "tcp") -> VirtualServerKey:
    return VirtualServerKey(number(ip), of_port, protocol)


def rig_of(host: Host | None = None, **config: Any) -> Rig:
    return Rig(make_settings(host=host, mode=Mode.IPVS, **config))


def web_rig(**config: Any) -> Rig:
    rig = rig_of(**config)
    rig.apply(service(), endpoint_slice(endpoints=[ONE, endpoint(TWO, "node-2")]))
    return rig


def servers(held: Programmed, at: VirtualServerKey = key("172.30.10.1")) -> list[tuple[str, int]]:  # noqa: B008
    """Addresses and weights of a virtual server's real servers, newest first."""
    return [(format_ip(held.family, each.address), each.weight) for each in held.virtual_servers[at].servers]


def bound(held: Programmed) -> set[str]:
    return {format_ip(held.family, each) for each in held.local_addresses}


def entries(held: Programmed, name: str) -> set[tuple[Any, ...]]:
    return set(held.ipsets[name].elements)


def draining(rig: Rig) -> list[str]:
    shown = rig.proxier.backend.describe(rig.proxier.no_sync().transaction, rig.proxier.machine)()["ipvs"]
    return list(shown["gracefulTerminating"])  # type: ignore[index, call-overload]


def connections(counts: dict[str, int]) -> Any:
    """Active connections by the address of the real server."""
    return lambda _, server: Counters(active=counts.get(format_ip(Family.IPV4, server.address), 0))


def restarted(rig: Rig, held: Programmed | None = None) -> Rig:
    """The kube-proxy that follows on the machine, told the same, not synced yet."""
    following = Rig(rig.settings)
    held = rig.proxier.held if held is None else held
    following.proxier = Proxier(rig.settings, make_backend(rig.settings), created_ns=rig.now_ns, held=held)
    following.proxier.services_synced()
    following.proxier.slices_synced()
    following.apply(*rig.cluster.objects.values())
    return following


def with_server(held: Programmed, at: VirtualServerKey, server: VirtualServer) -> Programmed:
    return replace(held, virtual_servers=held.virtual_servers.set(at, server))


INTERFACES = (
    HostInterface("lo", ("127.0.0.1/8", "127.200.0.1/8", "::1/128")),
    HostInterface("eth0", (f"{NODE_IP}/24", "2001:db8::2/64", "fe80::2/64", "febf::2/64")),
    HostInterface("eth1", ("192.168.7.2/24",)),
    HostInterface("kube-ipvs0", ("172.30.10.1/32",)),
)


def node_port_rig(family: Family = Family.IPV4, **config: Any) -> Rig:
    rig = Rig(make_settings(family, Host((NODE_IP, "2001:db8::2"), INTERFACES), mode=Mode.IPVS, **config))
    ip = "172.30.10.1" if family is Family.IPV4 else "fd00:172:30::1"
    families = {"ipFamilies": [family.label], "clusterIPs": [ip]}
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000}
    rig.apply(service(ports=[port(node_port=30080)], cluster_ip=ip, **families, **spec))
    return rig
