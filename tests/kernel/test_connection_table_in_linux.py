"""What Linux's connection table does where the model says it does (CT-6, CT-7, K-1.6 … K-1.9, K-2.3, K-2.4, K-6.7, K-6.8).

One node in Linux and in the model, with the same rules and the same packets. Two first packets clash because a queue holds them
between translation and confirmation. The limit of the table is the whole machine's: it is lowered for a moment, and only to far
more than anybody else needs.
"""

import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from linux_lab import inside
from linux_pair import (
    CLIENT,
    OTHER_POD,
    POD,
    REMOTE_POD,
    V4,
    V6,
    Follower,
    Pair,
    answer_of,
    clock_ns,
    let_out,
    told,
)
from packets import CLUSTER_IP, flags, ip, packet

from kpsim.addresses import Family, parse_network
from kpsim.conntrack import Clash, ConntrackTable, Entry, FlowTuple, tuple_of
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Disposition, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import CHANCE_RANGE
from kpsim.packetpath.flowstate import FlowState
from kpsim.packetpath.routing import Route, Routing
from kpsim.packetpath.sysctls import Sysctls
from kpsim.units import SECOND_NS

pytestmark = pytest.mark.kernel
Maker = Callable[..., Pair]


def dnat_to(endpoint: str, *more: str) -> str:
    to_endpoint = [
        f"-A PREROUTING -p {p} -d {CLUSTER_IP} --dport 80 -j DNAT --to-destination {endpoint}:8080"
        for p in ("tcp", "udp")
    ]
    return "\n".join(["*nat", *to_endpoint, *more, "COMMIT", ""])


# --- two first packets of one connection (K-6.8) ----------------------------------------------------------------------


class Queue:
    """Packets that wait for a verdict: NFQUEUE of a namespace."""

    _NETFILTER, _QUEUE, _CONFIG, _VERDICT = 12, 3, 2, 1

    def __init__(self, namespace: str, number: int) -> None:
        with inside(namespace):
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, self._NETFILTER)
        self._netlink.settimeout(5)
        self._number = number
        self._send(self._CONFIG, struct.pack("=HH", 8, 1) + struct.pack("!BBH", 1, 0, 0))  # bind
        self._send(self._CONFIG, struct.pack("=HH", 9, 2) + struct.pack("!IB", 0xFFFF, 2) + bytes(3))  # copy packets

    def close(self) -> None:
        self._netlink.close()

    def next(self) -> int:
        """The number of the next packet that waits; its header is the first attribute."""
        return int(struct.unpack_from("!I", self._netlink.recv(1 << 16), 24)[0])

    def accept(self, packet_number: int) -> None:
        self._send(self._VERDICT, struct.pack("=HH", 12, 2) + struct.pack("!II", 1, packet_number))

    def _send(self, kind: int, attributes: bytes) -> None:
        body = struct.pack("!BBH", 0, 0, self._number) + attributes
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), self._QUEUE << 8 | kind, 1, 1, 0) + body)


@pytest.fixture(scope="module")
def clashing(kernel: None) -> Iterator[tuple[Pair, Queue]]:
    pair = Pair("*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n" + dnat_to(POD))
    queue = Queue(pair.linux.node, 3)
    try:
        yield pair, queue
    finally:
        queue.close()
        pair.close()


MASQUERADE = "-A POSTROUTING -j MASQUERADE --random-fully"


@pytest.mark.parametrize(
    ("protocol", "second", "more", "clash"),
    [
        ("udp", POD, (), Clash.SAME_BINDING), ("udp", OTHER_POD, (), Clash.REPLIES_ONLY),
        ("udp", POD, (MASQUERADE,), Clash.REPLIES_ONLY), ("udp", REMOTE_POD, (MASQUERADE,), Clash.REPLIES_ONLY),
        ("tcp", POD, (), Clash.LOST), ("tcp", OTHER_POD, (), Clash.LOST), ("icmp", POD, (), Clash.LOST),
    ],
)  # fmt: skip
def test_two_first_packets(
    clashing: tuple[Pair, Queue], protocol: str, second: str, more: tuple[str, ...], clash: Clash
) -> None:
    pair, queue = clashing
    pair.table.flush()
    pair.model.conntrack = type(pair.model.conntrack)()
    icmp = protocol == "icmp"
    sent = packet(CLIENT, POD if icmp else CLUSTER_IP, 0 if icmp else 80, protocol=protocol, came_by="eth0")
    sent.tcp_flags = flags("SYN")
    pair.linux.in_node("iptables -t mangle -A FORWARD -i eth0 -j NFQUEUE --queue-num 3")
    waiting, came_out, walks = [], [], []
    try:
        for target in (POD, second):
            pair.linux.load(dnat_to(target, *more))
            assert pair.linux.send(sent) == []
            waiting.append(queue.next())
        for number in waiting:
            queue.accept(number)
            came_out.append(list(pair.linux.received()))
    finally:
        pair.linux.in_node("iptables -t mangle -F FORWARD")
    now_ns = clock_ns()
    for target, seen in zip((POD, second), came_out, strict=True):
        pair.model.load(parse(dnat_to(target, *more), V4))
        walks.append(pair.walk(sent, seen, now_ns))
    committed = [pair.model.commit(each.effects, now_ns) for each in walks]
    assert [each.clash for each in committed] == [None, clash]
    expected = [
        [] if each.clash is Clash.LOST else let_out(walked) for each, walked in zip(committed, walks, strict=True)
    ]
    assert [list(map(told, seen)) for seen in came_out] == expected
    assert len(pair.table) == len(pair.model.conntrack) == (2 if clash is Clash.REPLIES_ONLY else 1)
    if clash is Clash.LOST:
        return
    for [seen] in came_out:  # both are answered, twice: an answer does not end or prolong the second connection
        for _ in range(2):
            _, answers = pair.send(answer_of(seen))
            assert [(a.source, a.sport, a.destination) for a in answers] == [(CLUSTER_IP, 80, CLIENT)]
    [first] = pair.send(sent)[1]
    assert first.destination == POD
    time.sleep(1.05)
    translated = [
        any(answer.source == CLUSTER_IP for answer in pair.send(answer_of(seen))[1]) for [seen] in came_out
    ]  # fmt: skip
    assert translated == [True, clash is Clash.SAME_BINDING]


# --- a table that is full (CT-7, K-6.7) -------------------------------------------------------------------------------

LIMIT = 20_000


@contextmanager
def limited(limit: int) -> Iterator[None]:
    """The machine's limit of connections for a moment; each namespace counts its own."""
    setting = Path("/proc/sys/net/netfilter/nf_conntrack_max")
    with Path("/run/kpsim-conntrack-max.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test at a time
        before = setting.read_text()
        assert int(before) > limit
        try:
            setting.write_text(str(limit))
            yield
        finally:
            setting.write_text(before)


def flows(number: int) -> list[FlowTuple]:
    return [FlowTuple(V4, "udp", ip("198.51.0.0"), 1024 + n, ip("10.180.1.200"), 53) for n in range(number)]


def fill(pair: Pair, *, assured: bool) -> None:
    for original in flows(LIMIT):
        pair.table.add(original, original.inverse(), assured=assured)


def odds_of_early_drop(count: int, buckets: int) -> float:
    """The model's, of a table that is full of unassured entries."""
    model = ConntrackTable()
    for original in flows(count):
        model.insert(Entry(original, original.inverse(), FlowState.NONE, False, False, 0, SECOND_NS), 0)
    pressure = model.pressure(0, Sysctls(nf_conntrack_max=count, nf_conntrack_buckets=buckets))
    assert pressure is not None
    return pressure.threshold / CHANCE_RANGE


@pytest.mark.parametrize("assured", [False, True])
def test_a_full_table(pair_of: Maker, assured: bool) -> None:
    pair = pair_of("*filter\n-A INPUT -m conntrack --ctstate NEW\nCOMMIT\n")
    buckets = int(Path("/proc/sys/net/netfilter/nf_conntrack_buckets").read_text())
    attempts = accepted = 0
    with limited(LIMIT):
        fill(pair, assured=assured)
        for number in range(800):
            if len(pair.table) < LIMIT:  # early drop takes all of a bucket, so that now and then there is room
                fill_one = FlowTuple(V4, "udp", ip("198.51.100.1"), 1024 + number, ip("10.180.1.200"), 53)
                pair.table.add(fill_one, fill_one.inverse())
                continue
            attempts += 1
            accepted += bool(
                pair.linux.send(packet(CLIENT, POD, 53, protocol="udp", sport=1024 + number, came_by="eth0"))
            )
        pair.linux.send(packet("192.168.0.1", POD, 53, protocol="udp", sport=1, came_by=""))
        refused_locally = pair.linux.refused
        stray = packet(CLIENT, POD, came_by="eth0", tcp_flags=flags("SYN ACK"))  # INVALID, and needs room all the same
        assert not assured or pair.linux.send(stray) == []
        assert len(pair.table) <= LIMIT
    if assured:
        assert (accepted, attempts, refused_locally) == (0, 800, True)
        return
    odds = odds_of_early_drop(LIMIT, buckets)  # CT-7.2
    deviation = (attempts * odds * (1 - odds)) ** 0.5
    assert abs(attempts * odds - accepted) < 4 * deviation, f"{accepted} of {attempts}"


# --- an interface that goes down or loses an address (K-1.9) ----------------------------------------------------------

_PLACES = {
    V4: {"primary": "192.168.0.9", "second": "192.168.7.9", "far": "198.51.100.7", "snat": "10.9.9.9", "bridge": POD},
    V6: {
        "primary": "fd00:192::9", "second": "2001:db8:7::9", "far": "2001:db8:99::7", "snat": "fd00:9::9",
        "bridge": "fd00:180::5",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", [V4, V6], ids=lambda family: family.label)
@pytest.mark.parametrize("removed", [(0,), (1,), (0, 1), ()], ids=["first", "second", "both", "interface"])
def test_masquerades_end_with_what_they_borrowed(pair_of: Maker, family: Family, removed: tuple[int, ...]) -> None:
    places = _PLACES[family]
    own = {V4: "192.168.0.1", V6: "fd00:192::1"}[family]
    pair = pair_of(
        f"*nat\n-A POSTROUTING -d {places['snat']} -j SNAT --to-source {own}\n"
        "-A POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n",
        family,
    )  # fmt: skip
    sent = {
        name: packet({V4: OTHER_POD, V6: "fd00:180::6"}[family], to, 53, protocol="udp", came_by="cni0")
        for name, to in places.items()
    }  # fmt: skip
    for each in sent.values():
        pair.send(each)
    addresses = pair.model.routing.interfaces["eth0"].of(family)
    for number in removed:
        pair.linux.in_node(f"ip addr del {addresses[number]} dev eth0")
        pair.model.address_removed("eth0", addresses[number])
    if not removed:
        pair.linux.in_node("ip link set eth0 down")
        pair.model.interface_down("eth0")
    kept = [name for name, each in sent.items() if pair.model.conntrack.lookup(tuple_of(each), clock_ns())]
    deadline = clock_ns() + 2 * SECOND_NS  # Linux deletes when it comes round to it
    while len(pair.table) > len(kept) and clock_ns() < deadline:
        time.sleep(0.01)
    assert [name for name, each in sent.items() if pair.table.get(tuple_of(each))] == kept
    assert {"snat", "bridge"} <= set(kept) != set(places)


# --- nat is consulted anew, or not (K-1.6, K-1.8) ---------------------------------------------------------------------

_SEGMENTS = {"S": "SYN", "A": "ACK", "F": "FIN ACK", "R": "RST ACK"}


def live(pair: Pair, opening: Packet, life: str) -> None:
    """A connection, segment by segment: S SYN, A ACK, F FIN, R RST; small letters are the server's, sa its SYN-ACK."""
    client, server = 1000, 5000
    at_endpoint = opening
    for word in life.split():
        text = "SYN ACK" if word == "sa" else _SEGMENTS[word.upper()]
        begins, fin = "S" in word.upper(), word.upper() == "F"
        if word.isupper():
            _, [at_endpoint] = pair.send(replace(opening, tcp_flags=flags(text)), (client, 0 if begins else server))
            client += begins or fin
        else:
            pair.send(answer_of(at_endpoint, text), (server, client))
            server += begins or fin


@pytest.mark.parametrize(
    ("life", "anew"),  # small letters: the endpoint's; S SYN, sa SYN-ACK, A ACK, F FIN, R RST
    [
        ("S", False), ("S sa", False), ("S sa A", False), ("S sa A F", False), ("S sa A F a", False),
        ("S sa A F a f", False), ("S sa A F a f A", True), ("S sa A R", True), ("S r", True),
    ],
)  # fmt: skip
def test_a_syn_on_a_known_tuple(pair_of: Maker, life: str, anew: bool) -> None:  # K-1.8
    pair = pair_of(dnat_to(POD))
    sent = packet(CLIENT, CLUSTER_IP, came_by="eth0")
    live(pair, sent, life)
    pair.load(dnat_to(OTHER_POD))
    _, [again] = pair.send(replace(sent, tcp_flags=flags("SYN")), (900_000, 0))
    assert again.destination == (OTHER_POD if anew else POD)


def test_a_vanished_endpoint(pair_of: Maker) -> None:  # K-1.6
    pair = pair_of(dnat_to(REMOTE_POD, f"-A POSTROUTING -s {OTHER_POD} -j MASQUERADE"))
    kept = packet(POD, CLUSTER_IP, protocol="udp", came_by="cni0")
    masqueraded = packet(OTHER_POD, CLUSTER_IP, protocol="udp", came_by="cni0")
    for sent in (kept, masqueraded):
        pair.send(sent)
    # the route to it goes: the default route takes what is still DNATed, out of the same device
    pair.linux.in_node("ip route del 10.180.1.0/24")
    routing = pair.model.routing
    pair.model.routing = Routing(routing.interfaces.values(), routing.routes[:-1])
    for sent in (kept, masqueraded):
        _, [seen] = pair.send(sent)
        assert (seen.destination, seen.out_interface) == (REMOTE_POD, "eth0")
    # another device: the masqueraded flow is dropped and forgotten, the other goes on
    pair.linux.in_node("ip route add 10.180.1.0/24 dev cni0")
    pair.model.routing = Routing(
        routing.interfaces.values(), [*routing.routes[:-1], Route(parse_network("10.180.1.0/24"), "cni0")]
    )
    assert [seen.out_interface for seen in pair.send(kept)[1]] == ["cni0"]
    assert pair.send(masqueraded)[1] == []
    assert pair.table.get(tuple_of(masqueraded)) is None
    outcome, [seen] = pair.send(masqueraded)
    assert (outcome.ct_state, seen.source, seen.destination) == ("NEW", "10.180.0.1", REMOTE_POD)


# --- source ports (K-2.3, K-2.4) --------------------------------------------------------------------------------------


def test_exhausted_source_ports(pair_of: Maker) -> None:  # K-2.3
    pair = pair_of(f"*nat\n-A POSTROUTING -p udp -d {REMOTE_POD} -j SNAT --to-source 192.168.0.1:2000-2001\nCOMMIT\n")
    sent = [packet(f"203.0.113.{n}", REMOTE_POD, 53, protocol="udp", came_by="cni0") for n in (1, 2, 3)]
    ports = []
    for each in sent[:2]:
        [seen] = pair.send(each)[1]
        ports.append(seen.sport)
    assert sorted(ports) == [2000, 2001]
    outcome, came_out = pair.send(sent[2])
    assert (came_out, outcome.disposition) == ([], Disposition.DROPPED)
    assert pair.table.get(tuple_of(sent[2])) is None
    [other] = pair.send(replace(sent[2], dport=54))[1]  # towards another port they are free
    assert other.sport in (2000, 2001)


@pytest.mark.parametrize(
    ("life", "ports", "displaced"),  # K-2.3: an old connection gives up its port when it is over; lives as above
    [
        ("", 1, False), ("sa A", 1, False), ("sa A F", 1, False), ("sa A F a f", 1, False),
        ("sa A F a f A", 1, True), ("sa A R", 1, True), ("sa A F a f A", 128, True),
    ],
)  # fmt: skip
def test_source_ports_of_connections_that_are_over(pair_of: Maker, life: str, ports: int, displaced: bool) -> None:
    rule = f"-A POSTROUTING -p tcp -d {REMOTE_POD} -j SNAT --to-source 192.168.0.1:2000-{1999 + ports}"
    pair = pair_of(f"*nat\n{rule}\nCOMMIT\n")
    for n in range(ports):
        live(pair, packet(f"203.0.112.{n + 1}", REMOTE_POD, sport=2000 + n, came_by="cni0"), f"S {life}")
    opening = packet(CLIENT, REMOTE_POD, came_by="cni0", tcp_flags=flags("SYN"))
    assert pair.linux.send(opening, (500, 0)) == []  # a sequence number before the old connections'
    came_out = pair.linux.send(opening, (900_000, 0))
    assert len(came_out) == displaced
    # only the last 32 tries of a round end connections: the first port tried was that many before the one it got
    first = came_out[0].sport - 2000 - max(0, ports - 32) if came_out else 0
    outcome = walk(pair.model, opening, now_ns=clock_ns(), chooser=Follower(first), trace=False)
    assert let_out(outcome) == list(map(told, came_out))
    assert len(outcome.effects.destroyed) == displaced
    assert len(pair.table) == ports


@pytest.mark.parametrize("sport", [80, 511, 512, 1023, 1024, 40000])
def test_a_taken_source_port_gives_another_of_its_class(pair_of: Maker, sport: int) -> None:  # K-2.3
    pair = pair_of(f"*nat\n-A POSTROUTING -p udp -d {REMOTE_POD} -j MASQUERADE\nCOMMIT\n")
    low, high = (1, 511) if sport < 512 else (600, 1023) if sport < 1024 else (1024, 65535)
    numbers = [
        pair.send(packet(f"203.0.113.{n}", REMOTE_POD, 53, protocol="udp", sport=sport, came_by="cni0"))[1][0].sport
        for n in range(1, 60)
    ]
    assert numbers[0] == sport  # free, and kept
    assert len(set(numbers)) == len(numbers)
    assert all(low <= number <= high for number in numbers[1:])


def test_a_full_class_of_source_ports_is_searched_in_five_rounds(
    pair_of: Maker,
) -> None:  # CT-6.3: 128, 64, 32, 16, 8
    pair = pair_of(f"*nat\n-A POSTROUTING -p udp -d {POD} -j MASQUERADE --random-fully\nCOMMIT\n")
    free, endpoint, own = 300, ip(POD), ip("10.180.0.1")
    for number in range(1, 512):
        if number != free:
            original = FlowTuple(V4, "udp", ip("198.51.100.0") + number, 80, endpoint, 53)
            pair.table.add(original, FlowTuple(V4, "udp", endpoint, 53, own, number))
    sent = packet(CLIENT, POD, 53, protocol="udp", sport=80, came_by="eth0")
    tries, found = 1500, 0  # 60,000 found 41.36 %; five rounds say 41.40 %, four 40.47 %
    for _ in range(tries):
        if came_out := pair.linux.send(sent):
            assert [each.sport for each in came_out] == [free]
            found += 1
            pair.table.delete(tuple_of(sent))
    missed = 1.0
    for attempts in (128, 64, 32, 16, 8):
        missed *= 1 - attempts / 511
    assert abs(found - tries * (1 - missed)) < 4 * (tries * missed * (1 - missed)) ** 0.5


def test_the_node_gives_way_to_a_port_that_a_masquerade_holds(pair_of: Maker) -> None:  # K-2.4
    pair = pair_of("*nat\n-A POSTROUTING -s 203.0.113.0/24 -j MASQUERADE\nCOMMIT\n")
    [kept] = pair.send(packet(CLIENT, POD, 53, protocol="udp", came_by="eth0"))[1]
    assert (kept.source, kept.sport) == ("10.180.0.1", 40000)
    [changed] = pair.send(packet("10.180.0.1", POD, 53, protocol="udp"))[1]
    assert changed.source == "10.180.0.1" and changed.sport != 40000
    _, [seen] = pair.send(packet("10.180.0.1", POD, 54, protocol="udp"))
    assert seen.sport == 40000
