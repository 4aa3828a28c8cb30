"""An answer comes back as if nothing had been translated: from the address that was asked, to the sender that asked.

Random clusters have three nodes with the rules that kube-proxy writes. First packets of every protocol go from every
sender to every frontend, masqueraded or not, also to the sender itself, with source ports that clash. Then come the
endpoint's answer, and errors about the packet from the endpoint and from a router on the way (CT-3.5, CT-5.3, CT-6,
K-1.3, K-2.3, K-2.4, K-3.1).
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packets import build_fabric, packet_between
from proxiers import endpoint, endpoint_slice, port, service, slice_port
from random_rules import ICMP, V4, V6

from kpsim.addresses import Family, format_ip
from kpsim.cluster import ClusterState
from kpsim.config import Mode, ProxyConfig
from kpsim.conntrack import tuple_of
from kpsim.explore import Cluster
from kpsim.fabric import Fabric, Journey, Place, Whose, reply, send
from kpsim.netfilter import Disposition
from kpsim.nodes import sysctls_of
from kpsim.objects import ApiObject, Node, node_from_json
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser

NODES = ("n1", "n2", "n3")
PROTOCOLS = ("TCP", "UDP", "SCTP")
NUMBERS = {"TCP": 80, "UDP": 53, "SCTP": 90}
NODE_NUMBERS = {"TCP": 30080, "UDP": 30053, "SCTP": 30090}


def text(family: Family, low: str) -> str:
    """``node 1``, ``pod 1 5``, ``service 1``, ``balancer 1``, ``client 7`` in the address plan of a family."""
    match low.split():
        case ["node", n]:
            return f"192.168.0.{n}" if family is V4 else f"2001:db8::{n}"
        case ["pod", n, which]:
            return f"10.180.{n}.{which}" if family is V4 else f"fd00:180:0:{n}::{which}"
        case ["service", n]:
            return f"172.30.0.{n}" if family is V4 else f"fd00:172:30::{n}"
        case ["balancer", n]:
            return f"198.51.100.{n}" if family is V4 else f"2001:db8:51::{n}"
        case ["client", n]:
            return f"203.0.113.{n}" if family is V4 else f"2001:db8:71::{n}"
    raise AssertionError(low)


def pod_network(family: Family, n: int) -> str:
    return f"10.180.{n}.0/24" if family is V4 else f"fd00:180:0:{n}::/64"


@cache
def node_objects(family: Family) -> tuple[Node, ...]:
    return tuple(
        node_from_json(
            {
                "kind": "Node",
                "metadata": {"name": name},
                "spec": {"podCIDRs": [pod_network(family, n)]},
                "status": {"addresses": [{"type": "InternalIP", "address": text(family, f"node {n}")}]},
            }
        )
        for n, name in enumerate(NODES, 1)
    )


@st.composite
def service_objects(draw: st.DrawFn, family: Family, number: int) -> list[ApiObject]:
    """A Service of every protocol with a load balancer's address, and its endpoints: pods, and nodes themselves."""
    local = st.sampled_from(["Cluster", "Cluster", "Local"])
    sticky = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
    where = st.sampled_from(["pod 1 5", "pod 1 5", "pod 2 5", "pod 2 5", "pod 1 6", "pod 3 6", "node 1", "node 2"])
    places = draw(st.lists(where, min_size=1, max_size=3, unique=True))
    return [
        service(
            f"shop/s{number}",
            [port(NUMBERS[p], p.lower(), p, NODE_NUMBERS[p] + 100 * number) for p in PROTOCOLS],
            cluster_ip=text(family, f"service {number}"),
            ingress=[text(family, f"balancer {number}")],
            type="LoadBalancer",
            healthCheckNodePort=32000 + number,
            externalTrafficPolicy=draw(local),
            internalTrafficPolicy=draw(local),
            **(sticky if draw(st.booleans()) else {}),
        ),
        endpoint_slice(
            f"shop/s{number}",
            [endpoint(text(family, place), f"n{place.split()[1]}") for place in places],
            [slice_port(8000 + i, p.lower(), p) for i, p in enumerate(PROTOCOLS)],
            family=family.label,
        ),
    ]


@st.composite
def fabrics(draw: st.DrawFn, family: Family) -> Fabric:
    """Three nodes, two Services whose endpoints may be the same, kube-proxy with or without pods that it knows."""
    objects = [obj for number in (1, 2) for obj in draw(service_objects(family, number))]
    cidr = "10.180.0.0/16" if family is V4 else "fd00:180::/48"
    config = ProxyConfig(
        mode=Mode.IPTABLES,
        cluster_cidr=draw(st.sampled_from([cidr, cidr, ""])),
        masquerade_all=draw(st.sampled_from([False, False, True])),
    )
    cluster = Cluster(ClusterState.of([*node_objects(family), *objects]), config)
    fabric = build_fabric(
        {name: ([text(family, f"node {n}")], [pod_network(family, n)]) for n, name in enumerate(NODES, 1)}
    )
    for name, netns in fabric.nodes.items():
        own = cluster.settings(name, family)
        netns.sysctls = sysctls_of(config, route_localnet=own.localhost_node_ports, liberal=own.liberal)
        netns.load_rules(cluster.ruleset(name, family))
    return fabric


@dataclass(frozen=True)
class Dialling:
    """Who dials what, from n1's point of view."""

    protocol: str
    source: str  #: a place, or empty: a process of n1
    target: str
    sport: int

    def packet(self, family: Family) -> Packet:
        protocol = ICMP[family] if self.protocol == "ICMP" else self.protocol.lower()
        number = NUMBERS.get(self.protocol, 0)
        if self.target.startswith("node port"):
            _, _, service_number, node = self.target.split()
            address, number = (
                text(family, f"node {node}"),
                NODE_NUMBERS.get(self.protocol, 0) + 100 * int(service_number),
            )
        else:
            address = text(family, self.target)
        if self.protocol == "ICMP":
            number = 0
        source = text(family, self.source) if self.source else ""
        return packet_between(protocol, source, address, sport=self.sport, dport=number)


#: pods of n1 that are endpoints now and then, one of n2, a client, a process
SOURCES = ("pod 1 5", "pod 1 5", "pod 1 6", "pod 1 9", "client 7", "client 8", "")
TARGETS = (
    "service 1", "service 1", "service 2", "balancer 1", "balancer 2", "node port 1 1", "node port 2 1", "node port 1 2",
    "pod 2 5", "pod 1 5",
)  # fmt: skip
#: one port of one client to several frontends: where they share an endpoint, tuples clash
bursts = st.builds(
    lambda protocol, source, sport, targets: [Dialling(protocol, source, target, sport) for target in targets],
    st.sampled_from([*PROTOCOLS, "ICMP"]),
    st.sampled_from(SOURCES),
    st.sampled_from([40000, 40000, 700, 80]),
    st.lists(st.sampled_from(TARGETS), min_size=1, max_size=4),
)
diallings = st.lists(bursts, min_size=1, max_size=3).map(lambda lists: [each for burst in lists for each in burst])


def dial(fabric: Fabric, sent: Packet, flow: int) -> Journey:
    return send(fabric, sent, at_node="n1", now_ns=flow, chooser=SeededChooser(3, flow), local=not sent.saddr)


def passes_every_translation(answer: Journey, request: Journey) -> bool:
    """Whether the answer passes all nodes that translated the request. Else its sender is not hidden (PP-5.5)."""
    met = {hop.node for hop in answer.hops}
    bound = {hop.node for hop in request.hops if hop.walk.entry and (hop.walk.entry.dst_nat or hop.walk.entry.src_nat)}
    return bound <= met


def error_about(journey: Journey, reporter: str, family: Family) -> Packet:
    """Port unreachable (or, of a router on the way, time exceeded) about a packet as it arrived."""
    seen = journey.packet
    about = replace(seen, in_interface="", out_interface="", mark=0)
    address = seen.daddr if reporter == "" else packet_between("tcp", reporter, reporter).saddr
    kind = ((3, 3) if family is V4 else (1, 4)) if reporter == "" else ((11, 0) if family is V4 else (3, 0))
    return Packet(family, ICMP[family], address, seen.saddr, icmp_type=kind[0], icmp_code=kind[1], related=about)


def at_home_of(fabric: Fabric, place: Place) -> tuple[str, bool]:
    """The node where packets of a place begin, and whether they are a process's."""
    return (place.node or "n1"), place.whose is Whose.PROCESS


@pytest.mark.parametrize("family", Family)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_answers_and_errors_are_translated_back(family: Family, data: st.DataObject) -> None:
    fabric = data.draw(fabrics(family))
    for flow, dialling in enumerate(data.draw(diallings)):
        check(fabric, dialling, family, flow)


def check(fabric: Fabric, dialling: Dialling, family: Family, flow: int, seen: Counter[str] | None = None) -> None:
    """Sends a first packet, what it is answered, and an error about it."""
    journey = dial(fabric, dialling.packet(family), flow)
    sent, end = journey.sent, journey.end
    if end is None:
        return
    if seen is not None:
        seen[dialling.protocol] += 1
        entries = [hop.walk.entry for hop in journey.hops if hop.walk.entry]
        seen["to another address"] += any(entry.dst_nat for entry in entries)
        seen["masqueraded"] += any(hop.walk.masqueraded for hop in journey.hops)
        seen["hairpin"] += end.address == sent.saddr
        seen["clash"] += any(e.src_nat and e.reply.daddr == e.original.saddr for e in entries)
    expected = tuple_of(sent).inverse()
    answer = reply(fabric, journey, now_ns=flow, chooser=SeededChooser(3, flow))
    if passes_every_translation(answer, journey):
        assert answer.end == journey.origin, f"{dialling}: the answer got to {answer.end}: {answer.disposition}"
        assert tuple_of(answer.packet) == expected
        if seen is not None:
            seen["answer"] += 1
    if journey.packet.protocol == ICMP[family]:
        return
    for reporter in ("", text(family, "node 9")):
        error = error_about(journey, reporter, family)
        node, local = at_home_of(fabric, end) if not reporter else (journey.hops[-1].node, False)
        told = send(fabric, error, at_node=node, now_ns=flow, chooser=SeededChooser(3, flow), local=local)
        if told.disposition not in (Disposition.DELIVERED, Disposition.FORWARDED):
            continue
        if not passes_every_translation(told, journey):
            continue
        assert told.end == journey.origin, f"{dialling}: the error got to {told.end}"
        about = told.packet.related
        assert about is not None
        assert tuple_of(about) == tuple_of(sent), f"{dialling}: the error tells of {about}"
        assert told.packet.daddr == sent.saddr
        if not reporter:
            assert format_ip(family, told.packet.saddr) == format_ip(family, sent.daddr)
        if seen is not None:
            seen["error"] += 1


def test_the_property_meets_what_it_is_about() -> None:
    seen = Counter[str]()

    def look(data: st.DataObject, family: Family) -> None:
        fabric = data.draw(fabrics(family))
        for flow, dialling in enumerate(data.draw(diallings)):
            check(fabric, dialling, family, flow, seen)

    for family in (V4, V6):
        tried = given(st.data(), st.just(family))(look)
        settings(deadline=None, max_examples=25, database=None, derandomize=True)(tried)()
    wanted = (*PROTOCOLS, "ICMP", "to another address", "masqueraded", "hairpin", "clash", "answer", "error")
    assert all(seen[what] for what in wanted), seen
