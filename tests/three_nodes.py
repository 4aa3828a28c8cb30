"""A small cluster of three nodes in each family, with rules that are written by hand, and packets to send there.

Node n1 has two pods, n2 and n3 one each, and there is a client outside. The model makes it of a fabric; Linux of namespaces.
"""

from typing import NamedTuple

import pytest
from packets import build_fabric
from worlds import FabricWorld

from kpsim.addresses import Family, parse_cidr, parse_ip
from kpsim.dialects import dialect_reading
from kpsim.packet import Packet
from kpsim.ruleset import Ruleset
from kpsim.sysctls import Sysctls


class Plan(NamedTuple):
    """The addresses of a family. Node n1 has the first node address and the first two pods, n2 and n3 one pod each."""

    family: Family
    nodes: tuple[str, str, str]
    networks: tuple[str, str, str]
    pods: str  #: all of them
    pod: str
    neighbour: str
    remote: str
    third: str
    service: str
    client: str
    clients: str
    masquerading: str  #: n1's address towards its own pods


V4 = Plan(
    Family.IPV4, ("192.168.0.1", "192.168.0.2", "192.168.0.3"), ("10.180.0.0/24", "10.180.1.0/24", "10.180.2.0/24"),
    "10.180.0.0/16", "10.180.0.5", "10.180.0.6", "10.180.1.7", "10.180.2.8", "172.30.0.10", "203.0.113.9",
    "203.0.113.0/24", "10.180.0.1",
)  # fmt: skip
V6 = Plan(
    Family.IPV6, ("2001:db8:1::1", "2001:db8:1::2", "2001:db8:1::3"), ("fd00:180:0:0::/64", "fd00:180:0:1::/64", "fd00:180:0:2::/64"),
    "fd00:180::/48", "fd00:180::5", "fd00:180::6", "fd00:180:0:1::7", "fd00:180:0:2::8", "fd00:172:30::10", "2001:db8:cb::9",
    "2001:db8:cb::/48", "fd00:180::1",
)  # fmt: skip
BOTH = pytest.mark.parametrize("plan", [V4, V6], ids=["IPv4", "IPv6"])


def number(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def host(text: str) -> str:
    return f"[{text}]" if ":" in text else text


def rules(plan: Plan, nat: str = "", filters: str = "") -> str:
    """A saved ruleset with the given rules. KUBE-FORWARD's drop of INVALID packets is always there (I-11)."""
    return "\n".join([
        "*nat", ":PREROUTING ACCEPT [0:0]", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", ":POSTROUTING ACCEPT [0:0]",
        *nat.strip().splitlines(), "COMMIT",
        "*filter", ":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP", *filters.strip().splitlines(), "COMMIT", "",
    ])  # fmt: skip


def parsed(plan: Plan, saved: str) -> Ruleset:
    [loaded] = dialect_reading(saved).parse(saved, plan.family)
    return loaded


def dnat(plan: Plan, to: str, *, of: str = "", port: int = 80, target: int = 8080, protocol: str = "tcp") -> str:
    """Rules that translate a destination, for packets that come in and for the node's own."""
    body = f"-d {of or plan.service} -p {protocol} --dport {port} -j DNAT --to-destination {host(to)}:{target}"
    return f"-A PREROUTING {body}\n-A OUTPUT {body}"


def world(
    plan: Plan, n1: str = "", n2: str = "", n3: str = "", *, bridge_nf: bool = True, **facts: object
) -> FabricWorld:
    """The cluster with the saved rules of each node. Clients outside exist."""
    names = ("n1", "n2", "n3")
    fabric = build_fabric(
        {name: ([address], [network]) for name, address, network in zip(names, plan.nodes, plan.networks, strict=True)},
        sysctls=Sysctls(bridge_nf_call_iptables=bridge_nf, bridge_nf_call_ip6tables=bridge_nf),
    )
    for name, text in zip(names, (n1, n2, n3), strict=True):
        saved = text or rules(plan)
        fabric.nodes[name].load_rules(parsed(plan, saved))
    clients = parse_cidr(plan.clients)
    assert clients is not None
    return FabricWorld(fabric, outside=[clients[0]], **facts)  # type: ignore[arg-type]


def packet(plan: Plan, source: str, destination: str, dport: int = 80, protocol: str = "tcp") -> Packet:
    if protocol == "icmp":
        name, kind = ("icmp", 8) if plan.family is Family.IPV4 else ("icmpv6", 128)
        return Packet(plan.family, name, number(source) if source else 0, number(destination), 7, icmp_type=kind)
    return Packet(plan.family, protocol, number(source) if source else 0, number(destination), 40000, dport)
