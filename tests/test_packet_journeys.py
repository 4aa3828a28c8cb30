"""Service traffic across nodes and over time, through the rules that kube-proxy writes (PP-9, PP-11, K-1, CT-2, CT-3).

Names and Services are those of ``packet_paths``. N is node-1, where requests begin or come in, M is node-2.
"""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from exchanges import Exchange, Failure, exchange
from packet_paths import CLIENTS, V4, Case, M, N, World, at, is_local, objects_of, table, with_policy_drop, world
from packets import flags
from proxiers import Rig, endpoint, endpoint_slice, make_settings, slice_port

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.conntrack import Entry
from kpsim.fabric import Fabric, Journey, Whose, answer_to, send
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Disposition, Netns, Walk, expand, walk
from kpsim.objects import EndpointSlice, Service
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.replay import START_NS
from kpsim.units import SECOND_NS

FAMILIES = pytest.mark.parametrize("family", Family)

# --- from the client to an endpoint and back (PP-11) -----------------------------------------------------------------------


def talk(case: Case, fabric: Fabric) -> Exchange:
    sent = world(case.family, case.configuration).packet(case.source, case.protocol, case.destination)
    local = is_local(case.source)
    return exchange(fabric, sent, at_node=N, now_ns=START_NS, chooser=ScriptedChooser(), local=local, outside=CLIENTS)


def story(case: Case, found: Exchange) -> str:
    """``N → M → b1 as P; M → N → P``: the nodes on the way, what the endpoint sees, and the way of its answer.

    process: one of the last node; outside: a client or server there."""
    place, packet = world(case.family, case.configuration), found.request.packet
    end = place.endpoint_name(join_host_port(packet.destination, packet.dport))
    way = " → ".join([*_nodes(found.request), _end(found.request, end)])
    if found.answer is None:
        return way
    back = " → ".join([*_nodes(found.answer), _end(found.answer, place.name(found.answer.packet.destination))])
    wrong = ", from a wrong address" if found.failure is Failure.ANSWER_FROM_WRONG_ADDRESS else ""
    assert found.works or wrong
    return f"{way} as {place.name(packet.source)}; {back}{wrong}"


def _nodes(journey: Journey) -> list[str]:
    return [{N: "N", M: "M"}[hop.node] for hop in journey.hops]


def _end(journey: Journey, name: str) -> str:
    if journey.end is None:
        return str(journey.disposition)
    return name if journey.end.whose is Whose.POD else str(journey.end.whose)


@pytest.mark.parametrize(
    "case",
    [
        *table("""
    11.1       P        tcp  here.C                   → N → a1 as P; N → P
    11.1       a1       tcp  here.C                   → N → a1 as cni; N → a1
    11.2       P        tcp  there.C                  → N → M → b1 as P; M → N → P
    11.3       H        tcp  here.C                   → N → a1 as cni; N → process
    11.3       H        tcp  there.C,V,n              → N → M → b1 as N; M → N → process
    v4 11.3    L        tcp  there.n@lo               → N → M → b1 as N; M → N → process
    v4 11.3    L        tcp  here.n@lo                → N → a1 as cni; N → process
    11.4       X        tcp  here.V,E,n               → N → a1 as cni; N → outside
    11.5       X        tcp  there.V,E,n              → N → M → b1 as N; M → N → outside
    11.5       X        udp  dnshere.V                → N → a1 as cni; N → outside
    11.6       X        tcp  herelocal.V,E,n          → N → a1 as X; N → outside
    11.7       X        tcp  therelocal.V,E,n         → N → dropped
    11.8       P        tcp  here.V,E                 → N → a1 as cni; N → P
    11.8       P        tcp  there.V,E                → N → M → b1 as N; M → N → P
    11.9       P        tcp  herelocal.V,E            → N → a1 as P; N → P
    11.9       P        tcp  therelocal.V,E           → N → M → b1 as P; M → N → P
    11.10      P        tcp  proxiedhere.V            → N → outside
    # another node's node port: the packet is captured there, as a pod's of another node
    11.11      P        tcp  here.n@M                 → N → M → N → a1 as M; N → M → N → P
    11.11      P        tcp  there.n@M                → N → M → b1 as cni-M; M → N → P
    11.11      P        tcp  therelocal.n@M           → N → M → b1 as P; M → N → P
    5.5        P        tcp  herelocal.n@M            → N → M → N → a1 as P; N → P, from a wrong address
    7.6        H        tcp  here.n@M                 → N → M → N → a1 as M; N → M → N → process
    7.6        H        tcp  therelocal.n@M           → N → M → b1 as N; M → N → process
    7.6        H        tcp  herelocal.n@M            → N → M → dropped
    11.12      X        tcp  here.C                   → N → a1 as cni; N → outside
    11.12      X        tcp  there.C                  → N → M → b1 as N; M → N → outside
    6          X        tcp  none.V                   → N → rejected
    """),
        *table("""
    # what is not masqueraded is answered past N
    11.12      X        tcp  here.C                   → N → a1 as X; N → outside
    11.12      X        tcp  there.C                  → N → M → b1 as X; M → outside, from a wrong address
    11.3       H        tcp  there.C                  → N → M → b1 as N; M → N → process
    """, "no detector"),
        *table("""
    # a pod of another node is no pod of M in this mode: only M's own endpoints, source kept
    5.5        P        tcp  therelocal.n@M           → N → M → b1 as P; M → N → P
    5.5        P        tcp  herelocal.n@M            → N → M → dropped
    """, "NodeCIDR"),
    ],
    ids=str,
)  # fmt: skip
def test_requests_and_their_answers(case: Case) -> None:
    place = world(case.family, case.configuration)
    assert story(case, talk(case, place.fabric())) == case.expected


@pytest.mark.parametrize(
    "case",
    table("""
    11.14      X        tcp  here.V                   → N → a1 as cni; N → outside
    11.14      X        tcp  there.V,n                → N → M → b1 as N; M → N → outside
    11.14      P        tcp  there.V                  → N → M → b1 as N; M → N → P
    11.14      P        tcp  here.C                   → N → dropped
    11.14      X        tcp  herelocal.V              → N → dropped
    """),
    ids=str,
)
def test_answers_pass_a_closed_forward(case: Case) -> None:
    """PP-11.14: what belongs to a known connection is accepted."""
    place = world(case.family)
    fabric = place.fabric()
    fabric.nodes[N].load_rules(with_policy_drop(place.rules(N), "FORWARD"))
    assert story(case, talk(case, fabric)) == case.expected


@FAMILIES
@pytest.mark.parametrize("closed", [False, True])
def test_an_endpoints_icmp_error_is_translated_and_related(family: Family, closed: bool) -> None:
    """PP-11.13, K-3.1; PP-11.14: also a closed FORWARD lets it through."""
    place = world(family)
    fabric = place.fabric()
    if closed:
        fabric.nodes[N].load_rules(with_policy_drop(place.rules(N), "FORWARD"))
    sent = place.packet("X", "udp", "dnshere.V")
    request = send(fabric, sent, at_node=N, now_ns=START_NS, chooser=ScriptedChooser())
    assert place.name(request.packet.source) == "cni"
    kind = {"protocol": "icmp", "icmp_type": 3, "icmp_code": 3}
    if family is not V4:
        kind = {"protocol": "icmpv6", "icmp_type": 1, "icmp_code": 4}
    error = Packet(
        family, saddr=request.packet.daddr, daddr=request.packet.saddr, related=request.packet.copy(), **kind
    )
    told = send(fabric, error, at_node=N, now_ns=START_NS, chooser=ScriptedChooser())
    assert told.last is not None
    assert (told.last.ct_state, told.end and told.end.whose) == ("RELATED", Whose.OUTSIDE)
    assert (told.packet.source, told.packet.destination) == (sent.destination, sent.source)
    about = told.packet.related
    assert about is not None
    assert (about.saddr, about.sport, about.daddr, about.dport) == (sent.saddr, sent.sport, sent.daddr, sent.dport)


@FAMILIES
@pytest.mark.parametrize(("through_netfilter", "works"), [(True, True), (False, False)])
def test_answers_within_one_bridge_need_netfilter(family: Family, through_netfilter: bool, works: bool) -> None:
    """PP-11.1, K-2.6."""
    place = world(family)
    fabric = place.fabric()
    netns = fabric.nodes[N]
    netns.sysctls = replace(
        netns.sysctls, bridge_nf_call_iptables=through_netfilter, bridge_nf_call_ip6tables=through_netfilter
    )
    sent = place.packet("P", "tcp", "here.C")
    found = exchange(fabric, sent, at_node=N, now_ns=START_NS, chooser=ScriptedChooser())
    assert found.works is works


# --- session affinity (PP-9) -----------------------------------------------------------------------------------------------


class Clients:
    """Connections one after the other through N or M, each from a port of its own."""

    def __init__(self, place: World, node: str = N) -> None:
        self.place = place
        self.fabric = place.fabric()
        self.node = node
        self.now_ns = START_NS
        self._port = 40000

    def outcomes(self, source: str, destination: str) -> dict[str, Walk]:
        """The possible outcomes of a new connection, by endpoint."""
        self._port += 1
        sent = self.place.packet(source, "tcp", destination, sport=self._port)
        found = expand(self.fabric.nodes[self.node], sent, now_ns=self.now_ns, local=is_local(source))
        return {self.place.endpoint_name(join_host_port(w.packet.destination, w.packet.dport)): w for _, w in found}

    def offered(self, source: str, destination: str) -> str:
        return " ".join(sorted(self.outcomes(source, destination)))

    def connect(self, source: str, destination: str, endpoint_name: str) -> None:
        """One that came to this endpoint."""
        outcome = self.outcomes(source, destination)[endpoint_name]
        self.fabric.nodes[self.node].commit(outcome.effects, self.now_ns)


@FAMILIES
def test_affinity_is_shared_by_all_frontends(family: Family) -> None:
    """PP-9.1; the key is the client's address before masquerading, so another client draws anew."""
    clients = Clients(world(family))
    assert clients.offered("X", "sticky.V") == "a1 a2 b1"
    clients.connect("X", "sticky.V", "b1")
    for kind in ("C", "E", "V", "n", "n@N2"):
        assert clients.offered("X", f"sticky.{kind}") == "b1"
    for other in ("B", "P", "Q", "H"):
        assert clients.offered(other, "sticky.V") == "a1 a2 b1"


@FAMILIES
def test_affinity_of_pods_and_processes(family: Family) -> None:
    """PP-9.1: masqueraded or not."""
    clients = Clients(world(family))
    clients.connect("P", "sticky.C", "a2")
    clients.connect("H", "sticky.n", "b1")
    assert [clients.offered("P", f"sticky.{kind}") for kind in ("C", "V")] == ["a2", "a2"]
    assert clients.offered("H", "sticky.n") == "b1"
    # a process has another source towards a cluster IP only if routing gives it one
    assert clients.offered("H", "sticky.C") == "b1"
    assert clients.offered("H@N2", "sticky.C") == "a1 a2 b1"


@FAMILIES
def test_affinity_counts_only_within_the_set_in_force(family: Family) -> None:
    """PP-9.2: an endpoint outside the set is ignored, and the new one is remembered besides."""
    clients = Clients(world(family))
    clients.connect("X", "stickylocal.C", "b1")
    assert clients.offered("X", "stickylocal.C") == "b1"
    assert clients.offered("X", "stickylocal.V") == "a1 a2"
    clients.connect("X", "stickylocal.V", "a2")
    assert clients.offered("X", "stickylocal.V") == "a2"
    # of the two that are remembered now, the first in the order of their texts: [fd00:180:0:1::…] comes before [fd00:180::…]
    assert clients.offered("X", "stickylocal.C") == ("a2" if family is V4 else "b1")


@FAMILIES
def test_of_several_remembered_the_first_by_text_wins_not_the_latest(family: Family) -> None:
    """PP-9.2. On M b1 is the local one; the latest is remembered by the local set."""
    clients = Clients(world(family), M)
    clients.connect("X", "stickylocal.C", "a1")
    clients.now_ns += SECOND_NS
    clients.connect("X", "stickylocal.V", "b1")
    assert clients.offered("X", "stickylocal.C") == ("a1" if family is V4 else "b1")
    on_n = Clients(world(family))
    on_n.connect("X", "stickylocal.C", "b1")
    on_n.now_ns += SECOND_NS
    on_n.connect("X", "stickylocal.V", "a1")
    assert on_n.offered("X", "stickylocal.C") == ("a1" if family is V4 else "b1")


@FAMILIES
def test_affinity_is_of_one_node(family: Family) -> None:
    """PP-9.3."""
    clients = Clients(world(family))
    clients.connect("X", "sticky.V", "a1")
    clients.node = M
    assert clients.offered("X", "sticky.V") == "a1 a2 b1"
    clients.node = N
    assert clients.offered("X", "sticky.V") == "a1"


@FAMILIES
def test_affinity_lasts_from_the_last_connection_on(family: Family) -> None:
    """PP-9.4, CT-8: 600 s, and every new connection refreshes."""
    clients = Clients(world(family))
    clients.connect("X", "sticky.V", "a2")
    clients.now_ns += 599 * SECOND_NS
    clients.connect("X", "sticky.n", "a2")
    clients.now_ns += 599 * SECOND_NS
    assert clients.offered("X", "sticky.V") == "a2"
    clients.now_ns += 2 * SECOND_NS
    assert clients.offered("X", "sticky.V") == "a1 a2 b1"


# --- rules that change under way (K-1, CT-2, CT-3) -------------------------------------------------------------------------


class Live:
    """N with a kube-proxy that syncs into it, and one flow of P."""

    def __init__(self, family: Family, *services: str) -> None:
        self.family = family
        self.place = world(family)
        self.netns: Netns = self.place.fabric().nodes[N]
        self.rig = Rig(make_settings(family))
        self.sync(*(obj for name in services for obj in objects_of(name, family)))

    def sync(self, *changed: Service | EndpointSlice, deleted: Iterable[Service | EndpointSlice] = ()) -> list[UdpFlow]:
        """One sync; returns the flows that kube-proxy wants deleted."""
        self.rig.apply(*changed)
        self.rig.delete(*deleted)
        self.rig.flows = [_flow(entry) for entry in self.netns.conntrack.udp_entries(self.family)]
        result = self.rig.sync()
        self.netns.load(result.held)
        return list(result.conntrack_deleted)

    def slice(self, name: str, *endpoints: str, protocol: str = "TCP") -> EndpointSlice:
        """The Service's slice with other endpoints."""
        entries = [endpoint(at(text, self.family), N if text[0] == "a" else M) for text in endpoints]
        ports = [slice_port(8080, "p", protocol)]
        return endpoint_slice(f"shop/{name}", entries, ports, family=self.family.label)

    def send(self, sent: Packet) -> str:
        """Where a packet is sent on to, and committed."""
        outcome = walk(self.netns, sent, now_ns=self.rig.now_ns, chooser=ScriptedChooser())
        self.netns.commit(outcome.effects, self.rig.now_ns)
        if outcome.disposition is not Disposition.FORWARDED:
            return str(outcome.disposition)
        if outcome.packet.daddr == sent.daddr:
            return "untouched"
        return self.place.endpoint_name(join_host_port(outcome.packet.destination, outcome.packet.dport))

    def answer(self, sent: Packet, name: str, told: str) -> str:
        """The answer of an endpoint to P: the source that P sees."""
        seen = sent.copy()
        parsed = parse_ip(at(name, self.family))
        assert parsed is not None
        seen.daddr, seen.dport = parsed[1], 8080
        packet = answer_to(seen)
        packet.tcp_flags = flags(told)
        outcome = walk(self.netns, packet, now_ns=self.rig.now_ns, chooser=ScriptedChooser())
        self.netns.commit(outcome.effects, self.rig.now_ns)
        return join_host_port(outcome.packet.source, outcome.packet.sport)


def _flow(entry: Entry) -> UdpFlow:
    there, back = ((format_ip(t.family, t.saddr), t.sport, format_ip(t.family, t.daddr), t.dport) for t in entry[:2])
    return UdpFlow(entry.original.protocol, *there, *back)


def segment(live: Live, told: str, sport: int = 40000) -> Packet:
    packet = live.place.packet("P", "tcp", "here.C", sport=sport)
    packet.tcp_flags = flags(told)
    return packet


def established(live: Live) -> None:
    assert live.send(segment(live, "SYN")) == "a1"
    live.answer(segment(live, "SYN"), "a1", "SYN ACK")
    assert live.send(segment(live, "ACK")) == "a1"


@FAMILIES
def test_an_established_connection_keeps_its_removed_endpoint(family: Family) -> None:
    """K-1.3, CT-2.6: only new connections see the new rules, and the answer still comes from the Service."""
    live = Live(family, "here")
    established(live)
    live.sync(live.slice("here", "b1"))
    assert live.send(segment(live, "ACK PSH")) == "a1"
    assert live.answer(segment(live, "ACK"), "a1", "ACK PSH") == join_host_port(*live.place.address_of("here.C"))
    assert live.send(segment(live, "SYN", sport=40001)) == "b1"
    live.sync(live.slice("here"))
    assert live.send(segment(live, "ACK PSH")) == "a1"
    assert live.send(segment(live, "SYN", sport=40002)) == "rejected"


@FAMILIES
def test_an_established_connection_outlives_its_service(family: Family) -> None:
    """K-1.5: the rules go, the translation stays."""
    live = Live(family, "here", "web")
    established(live)
    live.sync(deleted=list(objects_of("here", family)))
    assert live.send(segment(live, "ACK PSH")) == "a1"
    assert live.send(segment(live, "SYN", sport=40001)) == "untouched"


@FAMILIES
def test_a_repeated_syn_keeps_its_endpoint(family: Family) -> None:
    """K-1.3: nat saw the connection's first packet, though no answer came yet."""
    live = Live(family, "here")
    assert live.send(segment(live, "SYN")) == "a1"
    live.sync(live.slice("here", "b1"))
    assert live.send(segment(live, "SYN")) == "a1"


@FAMILIES
def test_a_repeated_syn_keeps_its_endpoint_when_none_is_left(family: Family) -> None:
    """K-1.3: it is still NEW for filter, whose rules look at the destination behind DNAT: no REJECT."""
    live = Live(family, "here")
    assert live.send(segment(live, "SYN")) == "a1"
    live.sync(live.slice("here"))
    assert live.send(segment(live, "SYN")) == "a1"
    assert live.send(segment(live, "SYN", sport=40001)) == "rejected"


def datagram(live: Live, sport: int = 40000) -> Packet:
    return live.place.packet("P", "udp", "dnshere.C", sport=sport)


def delete(live: Live, flows: list[UdpFlow]) -> None:
    """What kube-proxy's netlink call does."""
    for entry in live.netns.conntrack.udp_entries(live.family):
        if _flow(entry) in flows:
            live.netns.conntrack.delete(entry.original, entry.reply)


@FAMILIES
def test_a_udp_flow_begun_before_its_service_stays_untranslated_until_deleted(family: Family) -> None:
    """CT-3.6, K-1.7, CT-2.3.1: kube-proxy's clean-up finds it, as the Service's endpoints are new too."""
    live = Live(family, "web")
    assert live.send(datagram(live)) == "untouched"
    stale = live.sync(*objects_of("dnshere", family))
    for _ in range(3):
        live.rig.now_ns += 20 * SECOND_NS  # each packet re-arms the entry
        assert live.send(datagram(live)) == "untouched"
    assert live.send(datagram(live, 40001)) == "a1"
    assert [(flow.dst, flow.sport) for flow in stale] == [(datagram(live).destination, 40000)]
    delete(live, stale)
    assert live.send(datagram(live)) == "a1"


@FAMILIES
def test_a_udp_flow_begun_before_its_service_times_out(family: Family) -> None:
    """CT-1.2, CT-5: if only the Service is new, kube-proxy does not look, and 30 s of silence end the flow."""
    live = Live(family, "web")
    made, endpoints = objects_of("dnshere", family)
    live.sync(endpoints)
    assert live.send(datagram(live)) == "untouched"
    assert live.sync(made) == []
    live.rig.now_ns += 20 * SECOND_NS
    assert live.send(datagram(live)) == "untouched"
    live.rig.now_ns += 30 * SECOND_NS
    assert live.send(datagram(live)) == "a1"


@FAMILIES
def test_a_udp_flow_follows_its_endpoint_until_kube_proxy_deletes_it(family: Family) -> None:
    """CT-2.3, K-1.7."""
    live = Live(family, "dnshere")
    assert live.send(datagram(live)) == "a1"
    stale = live.sync(live.slice("dnshere", "b1", protocol="UDP"))
    assert live.send(datagram(live)) == "a1"
    assert [flow.reply_src for flow in stale] == [at("a1", family)]
    delete(live, stale)
    assert live.send(datagram(live)) == "b1"


@FAMILIES
def test_a_udp_flow_without_any_serving_endpoint_is_left_alone(family: Family) -> None:
    """CT-2.2: it goes on to the endpoint that is gone."""
    live = Live(family, "dnshere")
    assert live.send(datagram(live)) == "a1"
    assert live.sync(live.slice("dnshere", protocol="UDP")) == []
    assert live.send(datagram(live)) == "a1"
    assert live.send(datagram(live, 40001)) == "rejected"


@FAMILIES
def test_an_endpoint_that_comes_back_is_not_remembered(family: Family) -> None:
    """PP-9.4, CT-8.3, K-4.2: the list goes with the last rule that uses it; a sync in between keeps it."""
    live = Live(family, "sticky")
    clients = Clients(live.place)
    clients.fabric.nodes[N] = live.netns
    clients.now_ns = live.rig.now_ns
    clients.connect("P", "sticky.C", "a2")
    live.sync(*objects_of("web", family))
    assert clients.offered("P", "sticky.C") == "a2"
    live.sync(live.slice("sticky", "a1", "b1"))
    assert clients.offered("P", "sticky.C") == "a1 b1"
    live.sync(live.slice("sticky", "a1", "a2", "b1"))
    assert clients.offered("P", "sticky.C") == "a1 a2 b1"
