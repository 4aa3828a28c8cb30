"""Sequences of packets through the rules that kube-proxy writes, in the model and in Linux side by side.

After every packet they must agree on what came out of the node and on every connection: tuples, state, flags, timer (K-1, K-2, K-3,
K-6, CT-3 … CT-6), and in the end on who is remembered by session affinity (K-4). Linux draws endpoints and ports, the model
follows: what Linux did must be one of the outcomes that the model has. Processes of the node hear what the connection
table has seen before and say nothing; of first packets at a closed port the node refuses, and that counts as a packet too.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from linux_conntrack import LinuxConntrack
from linux_lab import Lab
from packet_paths import ADDRESSES, CLUSTER_CIDR, ENDPOINT_PORT, POD_CIDRS, V4, V6, M, N, at
from packets import packet_between
from proxiers import Rig, endpoint, endpoint_slice, make_settings, port, service, slice_port

from kpsim import rng
from kpsim.addresses import Family
from kpsim.config import Host
from kpsim.conntrack import ConntrackTable, FlowTuple, tuple_of
from kpsim.dialects.iptables import Style, render_ruleset
from kpsim.fabric import build_fabric
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.routing import InterfaceKind, Routing
from kpsim.tracing.site import Machine
from kpsim.units import SECOND_NS

_SEQUENCES, _STEPS = 6, 70
_TIMER_TOLERANCE_S = 3
_LOWEST_PORT = {511: 1, 424: 600, 64512: 1024, 65536: 0}  # by the size of the class (K-2.3)
_UNREACHABLE = {V4: ("icmp", 3, 3), V6: ("icmpv6", 1, 4)}


class Catalogued(NamedTuple):
    """A Service of the world: endpoints as ``packet_paths`` names them."""

    protocol: str
    endpoints: str
    spec: Mapping[str, Any] = MappingProxyType({})


_STICKY = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}
_LOCAL = {"externalTrafficPolicy": "Local"}
CATALOGUE = {
    "web": Catalogued("tcp", "a1 a2 b1"), "twin": Catalogued("tcp", "a1 b1"), "local": Catalogued("tcp", "a1 b1", _LOCAL),
    "sticky": Catalogued("tcp", "a1 a2 b1", {**_STICKY, **_LOCAL}), "none": Catalogued("tcp", ""),
    "mixed": Catalogued("tcp", "h1 h2 a1"),
    "dns": Catalogued("udp", "a1 a2 b1"), "dnstwin": Catalogued("udp", "a1 b1"), "dnsnone": Catalogued("udp", ""),
    "dnssticky": Catalogued("udp", "a1 a2 b1", _STICKY), "dnslocal": Catalogued("udp", "a1 b1", {"internalTrafficPolicy": "Local"}),
}  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(CATALOGUE, 1)}


class Follower(ScriptedChooser):
    """Draws the source port that Linux drew."""

    def __init__(self, script: tuple[int, ...], drawn: int) -> None:
        super().__init__(script)
        self._drawn = drawn

    def port(self, limit: int, key: object) -> int:
        return (self._drawn - _LOWEST_PORT[limit]) % limit


class Twins:
    """One node twice, with one kube-proxy. ``log`` tells what happened."""

    def __init__(self, family: Family, *, random_fully: bool) -> None:
        self.family = family
        plan = {N: (ADDRESSES["N"], POD_CIDRS[N]), M: (ADDRESSES["M"], POD_CIDRS[M])}
        machine = build_fabric(plan).nodes[N]
        self.model = Netns(N, _with_plain_links(machine.routing), replace(machine.sysctls, route_localnet=True))
        host = Host(node_ips=ADDRESSES["N"], nfacct=False, random_fully=random_fully)
        self.kube_proxy = Rig(make_settings(family, host, cluster_cidr=CLUSTER_CIDR))
        self.endpoints = {name: of.endpoints.split() for name, of in CATALOGUE.items()}
        for name in CATALOGUE:
            self._put(name)
        self.log: list[str] = []
        self.linux = Lab(f"kpsim{os.getpid()}", family)
        self._load()
        self.linux.build(Machine(self.model.routing, self.model.sysctls, "eth0", "cni0"), self._text())
        tables = "iptables" if family is V4 else "ip6tables"
        self.linux.in_node(f"{tables} -t security -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j DROP")
        self.linux.in_node("sysctl -qew net.ipv4.icmp_echo_ignore_all=1 net.ipv6.icmp.echo_ignore_all=1")
        self.table = LinuxConntrack(self.linux.node)

    def close(self) -> None:
        self.table.close()
        self.linux.close()

    def frontend(self, name: str, kind: str) -> tuple[str, int]:
        """Of a cluster IP (C) or node port (n)."""
        number = _NUMBERS[name]
        if kind == "n":
            return at("N", self.family), 30000 + number
        return (f"172.30.0.{number}" if self.family is V4 else f"fd00:172:30::{number}"), 80

    def _put(self, name: str) -> None:
        of, ip = CATALOGUE[name], self.frontend(name, "C")[0]
        health = {"healthCheckNodePort": 31000 + _NUMBERS[name]} if "externalTrafficPolicy" in of.spec else {}
        ports = [port(80, "p", of.protocol.upper(), 30000 + _NUMBERS[name])]
        self.kube_proxy.apply(
            service(f"shop/{name}", ports, cluster_ip=ip, type="LoadBalancer", **of.spec, **health),
            endpoint_slice(
                f"shop/{name}",
                [endpoint(at(e, self.family), M if e in ("b1", "h2") else N) for e in self.endpoints[name]],
                [slice_port(ENDPOINT_PORT, "p", of.protocol.upper())],
                family=self.family.label,
            ),
        )

    def _text(self) -> str:
        return render_ruleset(self.kube_proxy.proxier.backend.ruleset, Style.SAVE)

    def _load(self) -> None:
        self.kube_proxy.sync()
        self.model.load(self.kube_proxy.proxier.backend.ruleset)

    def set_endpoints(self, name: str, endpoints: str) -> None:
        """Changes a Service and the rules of both nodes."""
        self.endpoints[name] = endpoints.split()
        self.log.append(f"endpoints of {name}: {endpoints}")
        self._put(name)
        self._load()
        self.linux.load(self._text())

    def forget(self, flow: FlowTuple) -> None:
        """Deletes a connection, as kube-proxy does."""
        self.log.append(f"delete {flow}")
        self.table.delete(flow)
        if found := self.model.conntrack.lookup(flow, _now_ns()):
            self.model.conntrack.delete(found.entry.original, found.entry.reply)

    def forget_all(self) -> None:
        self.log.append("delete everything")
        self.table.flush()
        self.model.conntrack = ConntrackTable()

    # --- packets ----------------------------------------------------------------------------------------------------------

    def send(self, packet: Packet, sequence: tuple[int, int] = (0, 0)) -> tuple[Walk, list[Packet]]:
        """A packet in both worlds: what the model did, and what came out of Linux. AssertionError where they disagree."""
        now_ns, local = _now_ns(), not packet.in_interface
        came_out = self.linux.send(packet.copy(), sequence)
        seen = [_told(each) for each in came_out]
        self.log.append(f"{packet.in_interface or 'node'} {_told(packet)} {sequence} ⇒ {' and '.join(seen)}")
        outcome = self._follow(packet, came_out, now_ns, local=local)
        expected = [] if outcome.answer is None or local else [_told(outcome.answer)]
        self.model.commit(outcome.effects, now_ns)
        if outcome.disposition is Disposition.FORWARDED:
            expected = [_told(outcome.packet)]
        elif outcome.disposition is Disposition.DELIVERED and (refusal := refusal_of(outcome)):
            way_back = walk(self.model, refusal, now_ns=now_ns, chooser=ScriptedChooser(), local=True, trace=False)
            self.model.commit(way_back.effects, now_ns)
            expected = [_told(way_back.packet)] if way_back.disposition is Disposition.FORWARDED else []
        self._agree(seen == expected, f"the model lets out {expected}")
        told_at_once = outcome.disposition is Disposition.REJECTED and not outcome.packet.in_interface
        self._agree(self.linux.refused == (local and told_at_once), f"refused at once: {self.linux.refused}")
        self._compare_connections(now_ns)
        return outcome, came_out

    def _follow(self, packet: Packet, came_out: list[Packet], now_ns: int, *, local: bool) -> Walk:
        """The outcome that Linux had."""
        real = None if packet.related else self.table.get(tuple_of(packet))
        drawn = real.reply.dport if real else came_out[0].sport if came_out else 0
        scripts, others = [()], []
        while scripts:
            chooser = Follower(scripts.pop(), drawn)
            outcome = walk(self.model, packet, now_ns=now_ns, chooser=chooser, local=local, trace=False)
            if self._possible(outcome, came_out):
                return outcome
            others.append(f"{outcome.disposition} {_told(outcome.packet)}")
            scripts += chooser.alternatives()
        self._agree(False, f"the model has no such outcome, but {others}")
        raise AssertionError

    def _possible(self, outcome: Walk, came_out: list[Packet]) -> bool:
        """As far as it tells the endpoints apart; ``send`` looks closer."""
        if outcome.disposition is Disposition.FORWARDED:
            return [_told(packet) for packet in came_out] == [_told(outcome.packet)]
        refused = ["RST" in p.tcp_flags if p.protocol == "tcp" else p.related is not None for p in came_out]
        return all(refused)

    def _compare_connections(self, now_ns: int) -> None:
        live = [entry for entry in self.model.conntrack if entry.expires_ns > now_ns]
        for entry in live:
            real = self.table.get(entry.original)
            state = entry.state if entry.original.protocol == "tcp" else ""
            known = (entry.original, entry.reply, state, entry.seen_reply, entry.assured, entry.src_nat, entry.dst_nat)
            self._agree(real is not None and real[:7] == known, f"{entry} assured={entry.assured}; Linux: {real}")
            left_s = (entry.expires_ns - now_ns) / SECOND_NS
            self._agree(
                abs(real.seconds_left - left_s) < _TIMER_TOLERANCE_S, f"timer {left_s} of {entry}; Linux: {real}"
            )
        self._agree(len(self.table) == len(live), f"{len(live)} connections, Linux has {len(self.table)}")

    def compare_affinity(self) -> int:
        """Sources in all lists."""
        listed = 0
        for name in self.recent_lists():
            lines = self.linux.in_node(f"cat /proc/net/xt_recent/{name}").splitlines()
            sources = {int(ip_address(line.split()[0].removeprefix("src="))) for line in lines}
            known = {address for _, address in self.model.recent[name]}
            self._agree(sources == known, f"{name} remembers {len(known)}; Linux: {len(sources)}")
            listed += len(sources)
        return listed

    def recent_lists(self) -> list[str]:
        """Names of the lists that rules use."""
        return self.linux.in_node("ls /proc/net/xt_recent").split()

    def _agree(self, agreed: bool, what: str) -> None:
        assert agreed, "\n".join([*self.log[-15:], what])


def _with_plain_links(routing: Routing) -> Routing:
    """The lab's pods are behind a veth that is no port of a bridge."""
    links = [
        replace(link, kind=InterfaceKind.VETH) if link.kind is InterfaceKind.BRIDGE else link
        for link in routing.interfaces.values()
    ]
    return Routing(links, routing.routes)


def _now_ns() -> int:
    return time.monotonic_ns()  # noqa: TID251 - Linux lives in real time


def _told(packet: Packet) -> str:
    """All of a packet that is compared. The interface tells where it came out; of an error by which way, its address does."""
    parts = [str(packet), f"ttl {packet.ttl}"]
    if packet.protocol == "tcp":
        parts.append("+".join(sorted(packet.tcp_flags)))
    elif packet.protocol in ICMP_PROTOCOLS:
        parts.append(f"{packet.icmp_type}/{packet.icmp_code}")
    if packet.related is not None:
        parts.append(f"about {packet.related}")
    return " ".join(parts)


def refusal_of(delivered: Walk) -> Packet | None:
    """What the node answers to a first packet at a port where nobody listens; what belongs to no connection is one, too."""
    packet, family = delivered.packet, delivered.packet.family
    if delivered.ct_state in ("ESTABLISHED", "RELATED") or ("RST" in packet.tcp_flags and packet.protocol == "tcp"):
        return None
    if packet.protocol == "tcp":
        flags = frozenset({"RST"} if "ACK" in packet.tcp_flags else {"RST", "ACK"})
        return Packet(family, "tcp", packet.daddr, packet.saddr, packet.dport, packet.sport, flags)
    if packet.protocol == "udp":
        protocol, kind, code = _UNREACHABLE[family]
        return Packet(
            family, protocol, packet.daddr, packet.saddr, icmp_type=kind, icmp_code=code, related=packet.copy()
        )  # fmt: skip
    return None


class Talk:
    """A client and whoever it talks to: what they send next, with sequence numbers as two honest TCPs have them."""

    def __init__(self, twins: Twins, opening: Packet) -> None:
        self.twins = twins
        self.opening = opening
        self.seen: Packet | None = None  #: as the endpoint saw the latest packet, with the interface it hangs behind
        self._client, self._server = 1001, 5001

    @property
    def state(self) -> str:
        found = self.twins.model.conntrack.lookup(tuple_of(self.opening), _now_ns())
        return found.entry.state if found else ""

    def client(self, flags: str = "") -> Walk:
        packet = replace(self.opening, tcp_flags=frozenset(flags.split()))
        begins = 1000 if "SYN" in flags else self._client
        outcome, came_out = self.twins.send(packet, (begins, self._server if "ACK" in flags else 0))
        if outcome.effects.created and "SYN" in flags:
            self._client = 1001
        elif outcome.ct_state != "INVALID" and ("PSH" in flags or "FIN" in flags):
            self._client += 1
        if outcome.disposition is Disposition.FORWARDED and outcome.ct_state != "INVALID":
            [self.seen] = came_out
        return outcome

    def server(self, flags: str = "") -> None:
        if self.seen is None:
            return
        packet = self._answer()
        packet.tcp_flags = frozenset(flags.split())
        number, acknowledged = (5000, 1001) if "SYN" in flags else (self._server, self._client)
        outcome, _ = self.twins.send(packet, (number, acknowledged if "ACK" in flags else 0))
        updated = outcome.effects.updated
        if "SYN" in flags and updated and updated.state == "SYN_RECV":
            self._server, self._client = 5001, 1001
        elif outcome.ct_state != "INVALID" and ("PSH" in flags or "FIN" in flags):
            self._server += 1

    def error(self) -> None:
        """The endpoint's kernel says that nobody listens."""
        if self.seen is None:
            return
        protocol, kind, code = _UNREACHABLE[self.twins.family]
        about = replace(self.seen, in_interface="", out_interface="", tcp_flags=self.seen.tcp_flags - {"PSH"})
        answer = self._answer()
        self.twins.send(
            replace(answer, protocol=protocol, sport=0, dport=0, icmp_type=kind, icmp_code=code, related=about)
        )  # fmt: skip

    def _answer(self) -> Packet:
        seen = self.seen
        assert seen is not None
        return Packet(
            seen.family, seen.protocol, seen.daddr, seen.saddr, seen.dport, seen.sport, in_interface=seen.out_interface
        )  # fmt: skip


#: state of the connection → what usually comes next: c the client, s the server
_USUAL = {
    "": ["c SYN"], "SYN_SENT": ["s SYN ACK", "s RST ACK", "c SYN"], "SYN_RECV": ["c ACK"],
    "ESTABLISHED": ["c PSH ACK", "s PSH ACK", "s ACK", "c FIN ACK", "s FIN ACK", "c RST", "s RST ACK", "c SYN"],
    "FIN_WAIT": ["c ACK", "s ACK"], "CLOSE_WAIT": ["c FIN ACK", "s FIN ACK"], "LAST_ACK": ["c ACK", "s ACK", "c SYN"],
    "TIME_WAIT": ["c SYN", "c ACK", "s FIN ACK"], "CLOSE": ["c SYN", "c SYN", "s ACK", "s SYN ACK"],
}  # fmt: skip
_ANY = [f"c {flags}" for flags in ("SYN", "SYN ACK", "ACK", "PSH ACK", "FIN ACK")] + ["s SYN ACK", "s ACK"]
_CLIENTS = {
    "P": "cni0",
    "a1": "cni0",
    "Q": "eth0",
    "X": "eth0",
    "M": "eth0",
    "N": "",
    "cni": "",
}  # of the node: no interface


class Sequence:
    """A few clients, many Services that share endpoints, few source ports, rules that change: step by step from a seed."""

    def __init__(self, twins: Twins, seed: int) -> None:
        self.twins = twins
        self._seed, self._drawn = seed, 0
        self._talks: dict[FlowTuple, Talk] = {}

    def _pick(self, options: list[Any]) -> Any:
        self._drawn += 1
        return options[rng.below(len(options), self._seed, self._drawn)]

    def step(self) -> None:
        what = self._pick(["begin"] * 18 + ["go on"] * 74 + ["error"] * 3 + ["rules"] * 3 + ["forget"] * 2)
        if what == "begin" or not self._talks:
            self._begin()
            return
        talk = self._pick(list(self._talks.values())[-6:])
        match what:
            case "error":
                talk.error()
            case "rules":
                name = self._pick([name for name, of in CATALOGUE.items() if of.endpoints])
                self.twins.set_endpoints(
                    name, " ".join(e for e in CATALOGUE[name].endpoints.split() if self._pick([0, 1]))
                )
            case "forget":
                self.twins.forget(tuple_of(talk.opening))
            case _ if talk.opening.protocol == "udp":
                self._pick([talk.client, talk.server])()
            case _:
                usual = self._pick([True, True, True, False])
                who, _, flags = self._pick(_USUAL.get(talk.state, ["c ACK"]) if usual else _ANY).partition(" ")
                (talk.client if who == "c" else talk.server)(flags)

    def _begin(self) -> None:
        family = self.twins.family
        client, name, kind = self._pick(list(_CLIENTS)), self._pick(list(CATALOGUE)), self._pick(["C", "n"])
        address, number = self.twins.frontend(name, kind)
        protocol = CATALOGUE[name].protocol
        if self._pick([True] + [False] * 9):  # past the Service
            address, number = at(self._pick(["a1", "b1"]), family), ENDPOINT_PORT
        source, sport = at(client, family), self._pick([40000, 40000, 40001, 700, 300])
        if address == source:
            return
        opening = packet_between(
            protocol, source, address, sport=sport, dport=number, in_interface=_CLIENTS[client]
        )  # fmt: skip
        self._talks.setdefault(tuple_of(opening), Talk(self.twins, opening)).client("SYN")


@pytest.fixture(scope="module", params=[(V4, True), (V6, True), (V4, False)], ids=["IPv4", "IPv6", "IPv4, ports kept"])
def twins(request: pytest.FixtureRequest, kernel: None) -> Iterator[Twins]:
    family, random_fully = request.param
    made = Twins(family, random_fully=random_fully)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(_SEQUENCES))
def test_whatever_happens_the_model_and_linux_agree(twins: Twins, seed: int) -> None:
    twins.log.clear()
    twins.forget_all()
    sequence = Sequence(twins, seed)
    for _ in range(_STEPS):
        sequence.step()
    assert twins.compare_affinity() > 0


_FLAGS = {"S": "SYN", "A": "ACK", "P": "PSH ACK", "F": "FIN ACK", "R": "RST"}


@pytest.mark.kernel
@pytest.mark.parametrize(
    "life",  # K-1.8, K-6: a letter a segment, SA a SYN-ACK, P data; small letters are the server's
    [
        "S sa A P a p A F a f A S sa A", "S sa A r S S sa A P", "S sa A R S sa", "S sa A R a S", "S sa A F f S a a A",
        "S sa r S sa", "S r S", "A a A P p A R S", "P p A f A F a S", "S sa A S sa A P", "S sa A f R S", "A r", "S sa P a",
    ],
)  # fmt: skip
def test_lives_of_connections(twins: Twins, life: str) -> None:
    twins.log.clear()
    twins.forget_all()
    address, number = twins.frontend("twin", "n")
    source = at("X", twins.family)
    talk = Talk(twins, packet_between("tcp", source, address, sport=40000, dport=number, in_interface="eth0"))
    for word in life.split():
        (talk.client if word.isupper() else talk.server)(" ".join(_FLAGS[letter] for letter in word.upper()))


@pytest.mark.kernel
def test_a_client_port_towards_many_services_that_share_an_endpoint(twins: Twins) -> None:  # K-2.3, K-2.4
    twins.log.clear()
    twins.forget_all()
    services = ("dns", "dnstwin", "dnssticky")
    for endpoint_name, kind in (("a1", "n"), ("a2", "C")):
        for name in services:
            twins.set_endpoints(name, endpoint_name)
        for client, interface in (("Q", "eth0"), ("X", "eth0"), ("P", "cni0"), ("N", "")):
            for name in services:
                address, number = twins.frontend(name, kind)
                source = at(client, twins.family)
                twins.send(
                    packet_between("udp", source, address, sport=40000, dport=number, in_interface=interface)
                )  # fmt: skip
    assert len(twins.table) == 24


@pytest.mark.kernel
def test_affinity_lists_hold_a_hundred_sources(twins: Twins) -> None:  # K-4.1
    twins.forget_all()
    twins.set_endpoints("dnssticky", "")  # lists go with their rules (K-4.2)
    twins.set_endpoints("dnssticky", "a1")
    address, number = twins.frontend("dnssticky", "C")
    clients = [f"203.0.113.{n}" if twins.family is V4 else f"2001:db8:71::{n}" for n in range(1, 121)]
    for n, client in enumerate(clients):
        if n % 40 == 0:
            twins.forget_all()
        twins.send(packet_between("udp", client, address, sport=40000, dport=number, in_interface="eth0"))
    twins.compare_affinity()
    assert max(len(twins.model.recent[name]) for name in twins.recent_lists()) == 100
