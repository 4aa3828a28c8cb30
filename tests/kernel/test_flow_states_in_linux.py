"""The protocol machines of connection tracking, packet by packet, in the model and in Linux (CT-4, CT-5, K-6).

After every packet both must agree on its ctstate and on the entry: state, flags, timer. Timers get an odd value before
each packet. So a timer that the packet does not re-arm differs from one that it does.
"""

import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from flow_lives import CHUNKS, SCTP_PRELUDES, TCP_PRELUDES, direction_of, packet_of, step
from linux_flows import ELSEWHERE, Router

from kpsim import rng
from kpsim.addresses import Family
from kpsim.conntrack import FlowTuple
from kpsim.flowstate import NO_HISTORY, Direction, Flow, FlowState, Segment, TcpInput
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

ORIGINAL, REPLY = Direction.ORIGINAL, Direction.REPLY
_LIVES = 300
_ODD_S = 7  #: left before each packet
_DPORT = 3868
_FLAG_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16}
_BASES = {ORIGINAL: 1_000_000, REPLY: 5_000_000}
_PLACES = {Window.EXACT: 0, Window.INSIDE: 1, Window.BEFORE: -100_000, Window.OUTSIDE: 1_000_000}
_TAGS = {ORIGINAL: 0xAAAA0001, REPLY: 0xBBBB0002}
_UDP = struct.Struct("!HHHH")
_CHUNK_NUMBERS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14,
}  # fmt: skip
_CHUNK_BODIES = {
    "DATA": bytes(12) + b"data", "SACK": bytes(12), "SHUTDOWN": bytes(4), "COOKIE_ECHO": b"kpsi", "ERROR": b"\0\4\0\4",
    "HEARTBEAT": b"\0\1\0\x08kpsi", "HEARTBEAT_ACK": b"\0\1\0\x08kpsi",
}  # fmt: skip


class Twins:
    """A connection in the model and one in Linux."""

    def __init__(self, router: Router, protocol: str, sport: int, sysctls: Sysctls) -> None:
        self.router, self.protocol, self.sysctls = router, protocol, sysctls
        self.flow: Flow | None = None
        self.over = False  #: there is no entry any more, or one that the server has begun
        self.log: list[str] = []
        self._sport = sport
        self._tuple: FlowTuple = router.flow(protocol, sport, _DPORT)
        self._awaited: dict[Direction, int] = {}  # what each end acknowledged last: an RST is exact there
        self._end = self._last_end = 0  # where the latest segment ended, and the one that was let through
        router.table.delete(self._tuple)

    def send(self, word: str, *, odd_timer: bool = True) -> None:
        """AssertionError where the two disagree."""
        packet = packet_of(word, self.protocol)
        direction = direction_of(word)
        if self.flow and odd_timer:
            self.router.table.set_timer(self._tuple, _ODD_S)
            self.flow = self.flow._replace(expires_ns=_ODD_S * SECOND_NS)
        before = self.flow
        sctp = self.protocol == "sctp"
        segment, told = (self._chunk(packet, direction), 0) if sctp else self._segment(packet, direction)
        linux = self.router.send(self.protocol, direction, segment)
        ct_state, self.flow, reading = step(before, packet, direction, self.sysctls)
        self.log.append(f"{word}: {ct_state} {self.flow and (*self.flow[:3], self.flow.expires_ns // SECOND_NS)}")
        assert ct_state == linux, self._story(linux)
        self._compare()
        self.over = self.flow is None or (direction is REPLY and ct_state == "NEW")
        if not sctp and ct_state != "INVALID":
            expected = packet.window in (Window.EXACT, Window.INSIDE) or not (
                before and before.history.side(direction).known
            )
            counts = expected and reading.timeout_ns is not None
            self._remember(packet, direction, told, counts=counts, new=ct_state == "NEW")

    def _compare(self) -> None:
        real, flow = self.router.table.get(self._tuple), self.flow
        assert (real is None) == (flow is None), self._story(real)
        if real and flow:
            assert (real.state, real.seen_reply, real.assured) == (*flow[:3],), self._story(real)
            assert flow.expires_ns // SECOND_NS - real.seconds_left in (0, 1), self._story(real)

    def _story(self, real: object) -> str:
        return " | ".join(self.log) + f" — Linux: {real}"

    # --- transport headers as honest ends write them ---------------------------------------------------------------------

    def _segment(self, packet: Packet, direction: Direction) -> tuple[bytes, int]:
        """A segment, with the number that it acknowledges."""
        history, flags = self.flow.history if self.flow else NO_HISTORY, packet.tcp_flags
        side, other, peer = history.side(direction), history.side(direction.opposite), direction.opposite
        size = len(flags & {"SYN", "FIN", "PSH"})
        begin = _BASES[direction] + (0 if "SYN" in flags else side.sent - size * packet.repeated)
        begin += _PLACES[packet.window] if side.known else 0
        number = _BASES[peer] + (1 if "SYN" in flags else other.sent)
        if "RST" in flags:
            if packet.window is Window.EXACT and not packet.repeated and other.acknowledges:
                begin = self._awaited[peer]
            if history.let_through and history.last == Segment(peer, TcpInput.ACK):
                number = self._last_end
            elif history.let_through and history.last == Segment(peer, TcpInput.SYN):
                number = _BASES[peer] + 1
        number *= "ACK" in flags
        bits, ports = sum(_FLAG_BITS[flag] for flag in flags), self._ports(direction)
        header = struct.pack("!IIBBHHH", begin % 2**32, number, 5 << 4, bits, 1000, 0, 0)
        self._end = begin + size
        return ports + header + (b"x" if "PSH" in flags else b""), number

    def _remember(self, packet: Packet, direction: Direction, number: int, *, counts: bool, new: bool) -> None:
        if self.flow is None:
            return
        history, flags = self.flow.history, packet.tcp_flags
        if "ACK" in flags and counts and history.side(direction).acknowledges:
            anew = "SYN" in flags and self.flow.state is FlowState.SYN_RECV
            self._awaited[direction] = number if anew else max(number, self._awaited.get(direction, 0))
        if new and "SYN" in flags and not self.flow.seen_reply:
            self._awaited.clear()
        if history.let_through and history.last is not None and history.last.direction is direction:
            self._last_end = self._end

    def _chunk(self, packet: Packet, direction: Direction) -> bytes:
        name, own, peers = packet.sctp_chunk, _TAGS[direction], _TAGS[direction.opposite]
        body = _CHUNK_BODIES.get(name, b"")
        if name in ("INIT", "INIT_ACK"):
            body = struct.pack("!IIHHI", own, 60_000, 1, 1, 1) + (b"\0\7\0\x08kpsi" if name == "INIT_ACK" else b"")
        head = struct.pack("!II", 0 if name == "INIT" else peers, 0)
        chunk = struct.pack("!BBH", _CHUNK_NUMBERS[name], 3 if name == "DATA" else 0, 4 + len(body))
        return self._ports(direction) + head + chunk + body

    def _ports(self, direction: Direction) -> bytes:
        ports = (self._sport, _DPORT) if direction is ORIGINAL else (_DPORT, self._sport)
        return struct.pack("!HH", *ports)


@pytest.fixture(scope="module", params=list(Family), ids=lambda family: family.label)
def router(request: pytest.FixtureRequest, kernel: None) -> Iterator[Router]:
    made = Router(request.param)
    try:
        yield made
    finally:
        made.close()


class Lives:
    """Many connections, one after the other."""

    def __init__(self, router: Router, protocol: str, sysctls: Sysctls | None = None) -> None:
        self.router, self.protocol, self.sysctls = router, protocol, sysctls or Sysctls()
        self._sport = 20_000
        values = {name: int(getattr(self.sysctls, name)) for name in ("tcp_be_liberal", "tcp_loose", "tcp_max_retrans")}
        values["tcp_timeout_close_wait"] = self.sysctls.tcp_timeout_close_wait_ns // SECOND_NS
        router.set_sysctls({f"net.netfilter.nf_conntrack_{name}": value for name, value in values.items()})

    def live(self, words: list[str], *, odd_timers: bool = True) -> None:
        self._sport += 1
        twins = Twins(self.router, self.protocol, self._sport, self.sysctls)
        for word in words:
            twins.send(word, odd_timer=odd_timers)
            if twins.over:
                return


@pytest.mark.kernel
@pytest.mark.parametrize("max_retrans", [1, 3])
@pytest.mark.parametrize(
    "life",
    ["S sa A", "S= sa S= A", "S S= sa S= A", "A= sa A= A", "P= sa P= A", "P sa P= A", "P a P= A", "A a A", "P a A A"],
)
def test_a_timer_is_short_while_no_window_counts(router: Router, life: str, max_retrans: int) -> None:
    """K-6.2: a flow that was picked up, too, waits no longer than a sender that repeats itself."""
    router.set_sysctls({"net.netfilter.nf_conntrack_tcp_timeout_max_retrans": 50})
    try:
        lives = Lives(router, "tcp", Sysctls(tcp_max_retrans=max_retrans, tcp_timeout_max_retrans_ns=50 * SECOND_NS))
        lives.live(life.split())
    finally:
        router.set_sysctls({"net.netfilter.nf_conntrack_tcp_timeout_max_retrans": 300})


@pytest.mark.kernel
def test_every_segment_in_every_state_of_tcp(router: Router) -> None:  # K-6.1
    lives = Lives(router, "tcp")
    letters = ["S", "SA", "A", "P", "F", "R", "RA", "N"]
    for prelude in TCP_PRELUDES.values():
        for word in letters + [letter.lower() for letter in letters if prelude]:
            lives.live([*prelude.split(), word])


@pytest.mark.kernel
def test_rare_lives_of_tcp(router: Router) -> None:
    lives = Lives(router, "tcp")
    for life in (
        "S sa sa RA>", "S a RA", "S a RA>", "S sa A A~ R~", "P a a A< a a", "P P a a", "S a R< f", "S sa p p= P", "S R<",
        "S sa A F> f> P", "S sa A R> P r>", "S sa A r R> S", "A P P a A a", "S sa A F a f S a sa A", "S s SA S a",
    ):  # fmt: skip
        for odd_timers in (True, False):
            lives.live(life.split(), odd_timers=odd_timers)


@pytest.mark.kernel
def test_every_packet_in_every_state_of_sctp(router: Router) -> None:
    lives = Lives(router, "sctp")
    for prelude in SCTP_PRELUDES:
        for word in [*CHUNKS, *(chunk.lower() for chunk in CHUNKS if prelude)]:
            lives.live([*prelude.split(), word])


class Drawn:
    """Words from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed, self._drawn = seed, 0

    def pick(self, options: list[str]) -> str:
        return options[self.below(len(options))]

    def below(self, limit: int) -> int:
        self._drawn += 1
        return rng.below(limit, self._seed, self._drawn)


_BEGINNINGS = [
    "S", "S sa", "S sa A", "S sa A", "S sa A P a", "S s", "S s SA", "A", "P", "A a A", "S sa A F", "S sa A F a", "S sa A F a f A",
    "S sa A r", "S sa A S",
]  # fmt: skip
_SEGMENTS = ["S", "S", "SA", "A", "A", "A", "P", "P", "F", "R", "RA", "PF"]


def _tcp_life(drawn: Drawn) -> list[str]:
    """Every fifth segment is not where it is expected; what was sent may be sent again."""
    words = drawn.pick(_BEGINNINGS).split()
    for _ in range(2 + drawn.below(8)):
        word = drawn.pick(_SEGMENTS)
        word = word if drawn.below(2) else word.lower()
        if "S" not in word.upper() and not drawn.below(5):
            word += drawn.pick(["<", ">", "~"] + ["="] * any("P" in earlier for earlier in words))
        words += [word] * (1 + (not drawn.below(4)) * drawn.below(4))
    return words


@pytest.mark.kernel
@pytest.mark.parametrize(
    "sysctls",
    [
        {}, {"tcp_be_liberal": True}, {"tcp_loose": False},
        {"tcp_timeout_close_wait_ns": 3600 * SECOND_NS, "tcp_max_retrans": 1},
    ],
    ids=["as it is", "liberal", "not loose", "as kube-proxy sets it"],
)  # fmt: skip
def test_random_lives_of_tcp(router: Router, sysctls: dict[str, int]) -> None:
    lives = Lives(router, "tcp", Sysctls(**sysctls))
    for seed in range(_LIVES):
        lives.live(_tcp_life(Drawn(seed)), odd_timers=seed % 4 > 0)


@pytest.mark.kernel
def test_random_lives_of_sctp(router: Router) -> None:
    lives = Lives(router, "sctp")
    for seed in range(_LIVES):
        drawn = Drawn(seed)
        words = drawn.pick([life for life in SCTP_PRELUDES if life and not life.startswith("SA")]).split()
        for _ in range(2 + drawn.below(8)):
            chunk = drawn.pick(list(CHUNKS))
            words.append(chunk if drawn.below(2) else chunk.lower())
        lives.live(words)


# --- protocols without states ------------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_which_icmp_begins_a_flow(router: Router) -> None:
    protocol = "icmp" if router.family is Family.IPV4 else "icmpv6"
    for kind in range(256):
        real = router.send(protocol, ORIGINAL, struct.pack("!BBHHH", kind, 0, 0, kind, 1))
        packet = Packet(router.family, protocol, 1, 2, kind, icmp_type=kind)
        begins = step(None, packet, ORIGINAL).ct_state
        if protocol == "icmp" or kind not in {*range(130, 137), 143, 151, 152}:
            assert real == begins, kind
        else:
            damaged = router.send(protocol, ORIGINAL, struct.pack("!BBHHH", kind, 0, 0, kind, 1), damaged=True)
            assert (real, damaged) == ("UNTRACKED", "INVALID"), kind


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", ["ospf", "gre", "udplite"])
def test_protocols_without_states(router: Router, protocol: str) -> None:
    flow = None
    for direction in (ORIGINAL, REPLY, ORIGINAL):
        ct_state, flow, _ = step(flow, Packet(router.family, protocol, 1, 2, in_interface="outside"), direction)
        transport = _UDP.pack(0, 0, 8, 0xFFFE) if protocol == "udplite" else bytes(24)
        assert router.send(protocol, direction, transport) == ct_state


@pytest.mark.kernel
def test_udp_becomes_a_stream(router: Router) -> None:  # K-6.2
    flow, begun_s = None, time.monotonic()  # noqa: TID251 - Linux lives in real time
    for direction, at_s in [(ORIGINAL, 0), (ORIGINAL, 0.1), (REPLY, 0.2), (REPLY, 1.9), (ORIGINAL, 2.1), (REPLY, 2.15)]:
        time.sleep(max(0, begun_s + at_s - time.monotonic()))  # noqa: TID251
        ports = (700, 53) if direction is ORIGINAL else (53, 700)
        real_ct_state = router.send("udp", direction, _UDP.pack(*ports, 8, 0))
        now_ns = int((time.monotonic() - begun_s) * SECOND_NS)  # noqa: TID251
        ct_state, flow, _ = step(flow, Packet(router.family, "udp", 1, 2), direction, now_ns=now_ns)
        real = router.table.get(router.flow("udp", 700, 53))
        assert real is not None and flow is not None
        assert (real_ct_state, real.seen_reply, real.assured) == (ct_state, flow.seen_reply, flow.assured)
        assert abs(real.seconds_left - (flow.expires_ns - now_ns) // SECOND_NS) <= 1


# --- checksums and ICMP errors -----------------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_damaged_packets(router: Router) -> None:  # K-6.6
    echo = ("icmp", 8) if router.family is Family.IPV4 else ("icmpv6", 128)
    whole = {
        "tcp": struct.pack("!HHIIBBHHH", 900, 80, 1, 0, 5 << 4, 2, 1000, 0, 0), "udp": _UDP.pack(900, 53, 8, 0),
        "sctp": struct.pack("!HHIIBBHIIHHI", 900, 80, 0, 0, 1, 0, 20, 5, 60_000, 1, 1, 1),
        echo[0]: struct.pack("!BBHHH", echo[1], 0, 0, 900, 1),
    }  # fmt: skip
    for protocol, transport in whole.items():
        for checked in (True, False):
            router.set_sysctls({"net.netfilter.nf_conntrack_checksum": int(checked)})
            packet = Packet(
                router.family, protocol, 1, 2, icmp_type=echo[1], checksum_ok=False, in_interface="outside"
            )  # fmt: skip
            expected = step(None, packet, ORIGINAL, Sysctls(conntrack_checksum=checked)).ct_state
            assert router.send(protocol, ORIGINAL, transport, damaged=True) == expected, protocol
    router.set_sysctls({"net.netfilter.nf_conntrack_checksum": 1})


@pytest.mark.kernel
def test_whom_icmp_errors_concern(router: Router) -> None:  # as test_flowstate has it of the model
    protocol, kind, code = ("icmp", 3, 3) if router.family is Family.IPV4 else ("icmpv6", 1, 4)
    client, server = router.client, router.server
    elsewhere = ip_address(ELSEWHERE[router.family]).packed
    request = router.ip("udp", client, server, _UDP.pack(800, 53, 8, 0))
    answer = router.ip("udp", server, client, _UDP.pack(53, 800, 8, 0))
    unknown = router.ip("udp", client, server, _UDP.pack(801, 53, 8, 0))
    head = struct.pack("!BBHI", kind, code, 0, 0)
    nested = router.ip(protocol, client, server, head + answer)
    assert router.send_raw(ORIGINAL, request) == "NEW"
    for about, to, damaged, expected in (
        (request, client, False, "RELATED"), (request, elsewhere, False, "INVALID"), (request, client, True, "INVALID"),
        (answer, server, False, "RELATED"), (unknown, client, False, "INVALID"), (nested, client, False, "INVALID"),
    ):  # fmt: skip
        direction = ORIGINAL if to == server else REPLY
        source = client if to == server else server
        told = router.ip(protocol, source, to, head + about, damaged=damaged)
        assert router.send_raw(direction, told) == expected
