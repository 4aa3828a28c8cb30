"""Builds nodes with ip_vs for data-plane tests: virtual servers, and rules that masquerade as kube-proxy's do.

The address plan is that of ``packets``. The expectations in the tests come from the specification: no kernel that tests
run on has ip_vs.
"""

from collections.abc import Mapping, Sequence

from packets import CLUSTER_IP, MARK, ip, net, node, packet, rule, ruleset, table
from rule_parts import from_net, marked, masquerade, set_mark, to_net

from kpsim.addresses import Family
from kpsim.ipvs.connections import Connection, ConnectionKey
from kpsim.ipvs.servers import NO_VIRTUAL_SERVER_FLAGS, RealServer, VirtualServer, VirtualServerFlags, VirtualServerKey
from kpsim.maps import Map
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.ruleset import Jump, Ruleset, Terminal, Verdict
from kpsim.sysctls import Sysctls

BY_KUBE_PROXY = Sysctls(vs_conntrack=True, vs_expire_nodest_conn=True, vs_expire_quiescent_template=True)


def marking_rules() -> Ruleset:
    """Packets to the cluster IP that do not come from a pod are masqueraded; the rest is accepted."""
    nat = table(
        "nat",
        PREROUTING=(rule(Jump("KUBE-SERVICES")),),
        OUTPUT=(rule(Jump("KUBE-SERVICES")),),
        POSTROUTING=(
            rule(marked(MARK, MARK, negate=True), Terminal(Verdict.RETURN)),
            rule(set_mark(MARK, 0)),
            rule(masquerade()),
        ),
        KUBE_SERVICES=(
            rule(to_net(net(CLUSTER_IP)), from_net(net("10.180.0.0/16"), negate=True), set_mark(MARK, MARK)),
        ),
    )
    return ruleset(nat, table("filter"))


def virtual(
    servers: Sequence[str | tuple[str, int]],
    scheduler: str = "rr",
    *,
    flags: VirtualServerFlags = NO_VIRTUAL_SERVER_FLAGS,
    timeout_s: int = 0,
    netmask: int = 32,
    port: int = 8080,
) -> VirtualServer:
    """A virtual server with these real servers, newest first: an address, or an address and a weight."""
    weighed = [each if isinstance(each, tuple) else (each, 1) for each in servers]
    real = tuple(RealServer(ip(address), port, weight) for address, weight in weighed)
    return VirtualServer(scheduler, netmask, flags, timeout_s, real)


def told(
    servers: Mapping[tuple[str, int, str], VirtualServer],
    rules: Ruleset | None = None,
    *,
    local: Sequence[str] = (CLUSTER_IP,),
) -> Programmed:
    """What a kernel was told: virtual servers by address, port and protocol; addresses of kube-ipvs0; rules."""
    by_key = {VirtualServerKey(ip(address), *rest): each for (address, *rest), each in servers.items()}
    addresses = {ip(address): "kube-ipvs0" for address in local}
    rules = rules or marking_rules()
    return Programmed(rules.family, rules, virtual_servers=Map(by_key), local_addresses=Map(addresses))


def ipvs_node(programmed: Programmed, sysctls: Sysctls = BY_KUBE_PROXY) -> Netns:
    netns = node(programmed.ruleset)
    netns.sysctls = sysctls
    netns.load(programmed)
    return netns


TCP = (CLUSTER_IP, 80, "tcp")


def made(servers, scheduler="rr", *, protocol="tcp", sysctls=BY_KUBE_PROXY, rules=None, **more) -> Netns:
    """A node with one virtual server: the cluster IP's port 80."""
    return ipvs_node(told({(CLUSTER_IP, 80, protocol): virtual(servers, scheduler, **more)}, rules), sysctls)


def connection_of(netns: Netns, source: str, sport: int = 40000, now_ns: int = 0) -> Connection | None:
    """The live TCP connection of a client to the cluster IP."""
    key = ConnectionKey(Family.IPV4, "tcp", (ip(source), sport), (ip(CLUSTER_IP), 80))
    return netns.memory.ipvs.find(key, now_ns)


def from_node(**more) -> Packet:
    """A process of the node asks the cluster IP; the kernel chooses the source."""
    return packet("0.0.0.0", CLUSTER_IP, **more)
