"""Builds rules, rulesets, nodes and packets for data-plane tests, in the address plan.

Pods 10.180.0.0/16 (node n1: 10.180.0.0/24, n2: 10.180.1.0/24), cluster IPs 172.30.0.0/16, nodes 192.168.0.0/24
(n1 .1, n2 .2), clients 203.0.113.0/24.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rule_parts import (
    address_type,
    ct_state,
    destination_port,
    from_net,
    marked,
    masquerade,
    of_protocol,
    set_mark,
    to_net,
)

from kpsim.addresses import Family, Network, parse_cidr, parse_ip
from kpsim.conntrack import Entry, FlowTuple
from kpsim.dialects.iptables import BUILT_IN_CHAINS, table_key
from kpsim.fabric import Fabric, fabric_of
from kpsim.flowstate import FlowState
from kpsim.maps import Map
from kpsim.netfilter import Netns, Walk, walk
from kpsim.nodes import Peer, make_machine, make_machines, node_address, pod_network
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.ruleset import (
    ACCEPT,
    Chain,
    Chance,
    Dnat,
    Expression,
    Jump,
    Recent,
    Reject,
    Rule,
    Ruleset,
    Statement,
    Table,
    Terminal,
    Verdict,
)
from kpsim.sysctls import Sysctls

POD, OTHER_POD, REMOTE_POD = "10.180.0.5", "10.180.0.6", "10.180.1.7"
NODE, OTHER_NODE, CLIENT = "192.168.0.1", "192.168.0.2", "203.0.113.9"
CLUSTER_IP, NODE_PORT = "172.30.0.10", 30080
MARK = 0x4000


def ip(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def net(text: str) -> Network:
    if "/" in text:
        parsed = parse_cidr(text)
        assert parsed is not None
        return parsed[0]
    parsed_ip = parse_ip(text)
    assert parsed_ip is not None
    return Network(parsed_ip[0], parsed_ip[1], parsed_ip[0].bits)


def rule(*body: Expression | Statement) -> Rule:
    return Rule(tuple(body))


def port(protocol: str, number: int) -> tuple[Expression, ...]:
    return (of_protocol(protocol), destination_port(number, number))


def dnat(endpoint: str, port_number: int | None = 8080) -> Dnat:
    parsed = parse_ip(endpoint)
    assert parsed is not None
    return Dnat(parsed[1], port_number)


def table(name: str, policy: dict[str, Verdict] | None = None, **chains: tuple[Rule, ...]) -> Table:
    """A table with all built-in chains. In keywords, ``_`` stands for the ``-`` of a chain's name."""
    named = {key.replace("_", "-"): rules for key, rules in chains.items()}
    built_in = {
        c: Chain(c, named.pop(c, ()), replace(base, policy=(policy or {}).get(c, Verdict.ACCEPT)))
        for c, base in BUILT_IN_CHAINS[name].items()
    }
    return Table(table_key(Family.IPV4, name), Map(built_in | {c: Chain(c, rules) for c, rules in named.items()}))


def ruleset(*tables: Table, family: Family = Family.IPV4) -> Ruleset:
    return Ruleset.of(family, *(replace(table, key=table_key(family, table.name)) for table in tables))


def probability(threshold: float) -> Chance:
    return Chance(round(threshold * 2**31))


def service_rules(
    endpoints: tuple[str, ...] = (POD, REMOTE_POD),
    *,
    protocol: str = "tcp",
    affinity_seconds: int | None = None,
    random_fully: bool = True,
) -> Ruleset:
    """One Service as kube-proxy writes it (I-3, I-5, I-7, I-8, I-11): cluster IP port 80 and a node port, eTP Cluster."""
    affine: list[Rule] = []
    balance: list[Rule] = []
    chains: dict[str, tuple[Rule, ...]] = {}
    for index, endpoint in enumerate(endpoints):
        name = f"KUBE_SEP_{index}"
        left = len(endpoints) - index
        if affinity_seconds is not None:
            recent = Recent(f"KUBE-SEP-{index}", "rcheck", affinity_seconds, reap=True)
            affine.append(rule(recent, Jump(f"KUBE-SEP-{index}")))
        draw = (Chance(round(round(1 / left, 10) * 2**31)),) if left > 1 else ()
        balance.append(rule(*draw, Jump(f"KUBE-SEP-{index}")))
        remember = (Recent(f"KUBE-SEP-{index}", "set"),) if affinity_seconds is not None else ()
        chains[name] = (
            rule(from_net(net(endpoint)), Jump("KUBE-MARK-MASQ")),
            rule(*remember, of_protocol(protocol), dnat(endpoint)),
        )
    to_service = (*port(protocol, 80), to_net(net(CLUSTER_IP)))
    nat = table(
        "nat",
        PREROUTING=(rule(Jump("KUBE-SERVICES")),),
        OUTPUT=(rule(Jump("KUBE-SERVICES")),),
        POSTROUTING=(rule(Jump("KUBE-POSTROUTING")),),
        KUBE_SERVICES=(
            *((rule(*to_service, Jump("KUBE-SVC")),) if endpoints else ()),
            rule(address_type("dst", "LOCAL"), Jump("KUBE-NODEPORTS")),
        ),
        KUBE_NODEPORTS=(rule(*port(protocol, NODE_PORT), Jump("KUBE-EXT")),) if endpoints else (),
        KUBE_EXT=(rule(Jump("KUBE-MARK-MASQ")), rule(Jump("KUBE-SVC"))),
        KUBE_SVC=(
            rule(*to_service, from_net(net("10.180.0.0/16"), negate=True), Jump("KUBE-MARK-MASQ")),
            *affine,
            *balance,
        ),
        KUBE_MARK_MASQ=(rule(set_mark(MARK, MARK)),),
        KUBE_POSTROUTING=(
            rule(marked(MARK, MARK, negate=True), Terminal(Verdict.RETURN)),
            rule(set_mark(MARK, 0)),
            rule(masquerade(random_fully=random_fully)),
        ),
        **chains,
    )
    new = ct_state("NEW")
    known = ct_state("RELATED", "ESTABLISHED")
    filters = table(
        "filter",
        INPUT=(rule(Jump("KUBE-FIREWALL")), rule(new, Jump("KUBE-EXTERNAL-SERVICES"))),
        FORWARD=(
            rule(Jump("KUBE-FORWARD")),
            rule(new, Jump("KUBE-SERVICES")),
            rule(new, Jump("KUBE-EXTERNAL-SERVICES")),
        ),
        OUTPUT=(rule(Jump("KUBE-FIREWALL")), rule(new, Jump("KUBE-SERVICES"))),
        KUBE_FIREWALL=(
            rule(
                to_net(net("127.0.0.0/8")),
                from_net(net("127.0.0.0/8"), negate=True),
                ct_state("RELATED", "ESTABLISHED", "DNAT", negate=True),
                Terminal(Verdict.DROP),
            ),
        ),
        KUBE_FORWARD=(
            rule(ct_state("INVALID"), Terminal(Verdict.DROP)),
            rule(marked(MARK, MARK), ACCEPT),
            rule(known, ACCEPT),
        ),
        KUBE_SERVICES=() if endpoints else (rule(*to_service, Reject()),),
        KUBE_EXTERNAL_SERVICES=()
        if endpoints
        else (rule(address_type("dst", "LOCAL"), *port(protocol, NODE_PORT), Reject()),),
    )
    return ruleset(nat, filters)


def node_netns(
    name: str,
    node_ips: Iterable[str],
    pod_cidrs: Iterable[str],
    *,
    peers: Mapping[str, Iterable[str]] | None = None,
    sysctls: Sysctls | None = None,
) -> Netns:
    """A plain node. ``peers`` maps another node's address to the pod networks behind it."""
    others = [Peer((node_address(ip),), tuple(map(pod_network, cidrs))) for ip, cidrs in (peers or {}).items()]
    return Netns(name, make_machine(node_ips, pod_cidrs, peers=others).routing, sysctls)


def build_fabric(nodes: Mapping[str, tuple[Sequence[str], Sequence[str]]], *, sysctls: Sysctls | None = None) -> Fabric:
    """Plain nodes that know each other's pod networks. ``nodes`` maps a name to (node IPs, pod CIDRs)."""
    return fabric_of(make_machines(nodes, sysctls=sysctls))


def node(*rulesets: Ruleset, name: str = "n1", sysctls: Sysctls | None = None) -> Netns:
    """Node n1: 192.168.0.1, pods 10.180.0.0/24. 10.180.1.0/24 is behind 192.168.0.2; everything else is on the link."""
    made = node_netns(name, [NODE], ["10.180.0.0/24"], peers={OTHER_NODE: ["10.180.1.0/24"]}, sysctls=sysctls)
    for rules in rulesets:
        made.load_rules(rules)
    return made


def flow_entry(
    protocol: str,
    original: tuple[str, int, str, int],
    reply: tuple[str, int, str, int],
    *,
    created_ns: int,
    expires_ns: int,
) -> Entry:
    """An entry that has no answer yet. Both directions are given as (source, port, destination, port)."""
    family = Family.IPV6 if ":" in original[0] else Family.IPV4
    tuples = [
        FlowTuple(family, protocol, ip(source), sport, ip(destination), dport)
        for source, sport, destination, dport in (original, reply)
    ]
    state = FlowState.ESTABLISHED if protocol == "tcp" else FlowState.NONE
    return Entry(*tuples, state, False, False, created_ns, expires_ns)


def packet_between(
    protocol: str, source: str, destination: str, *, sport: int = 0, dport: int = 0, in_interface: str = ""
) -> Packet:
    """A first packet. If ``source`` is empty, the kernel chooses it."""
    to, come = parse_ip(destination), parse_ip(source)
    assert to is not None and (come is None or come[0] is to[0])
    kind = {"icmp": 8, "icmpv6": 128}.get(protocol, 0)
    return Packet(
        to[0], protocol, come[1] if come else 0, to[1], sport, dport, icmp_type=kind, in_interface=in_interface
    )


def packet(
    source: str,
    destination: str,
    dport: int = 80,
    *,
    protocol: str = "tcp",
    sport: int = 40000,
    came_by: str = "",
    **more,
) -> Packet:
    made = packet_between(protocol, source, destination, sport=sport, dport=dport, in_interface=came_by)
    for field, value in more.items():
        setattr(made, field, value)
    return made


def run(
    netns: Netns, sent: Packet, now_ns: int = 0, *, local: bool = False, flow: int = 0, commit: bool = True
) -> Walk:
    """Walk, and commit the effects."""
    outcome = walk(netns, sent, now_ns=now_ns, chooser=SeededChooser(1, flow), local=local)
    if commit:
        netns.commit(outcome.effects, now_ns)
    return outcome


def flags(text: str) -> frozenset[str]:
    return frozenset(text.split())


def to(outcome) -> tuple[str, int]:
    return outcome.packet.destination, outcome.packet.dport


def replied(outcome, text: str = "SYN ACK", **more) -> Packet:
    """The answer to the packet that a walk let out."""
    sent = outcome.packet
    return Packet(
        sent.family, sent.protocol, sent.daddr, sent.saddr, sent.dport, sent.sport, flags(text), **more
    )  # fmt: skip


def established(netns: Netns, sent: Packet, **options):
    """Complete a handshake, and return the first packet's walk."""
    first = run(netns, sent, **options)
    run(netns, replied(first))
    run(netns, replace(sent, tcp_flags=flags("ACK")))
    return first
