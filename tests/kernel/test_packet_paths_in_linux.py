"""The packet path tables against Linux: the rows' own packets through the rules that kube-proxy writes for them.

What Linux does is compared with the rows, not with the model. Endpoints are drawn, so each packet is sent several times and
what comes out must be what the row allows. Packets that end on the node itself leave nothing, or a refusal of a closed port.
"""

import os
from collections.abc import Iterator

import pytest
from linux_lab import Lab
from packet_path_rows import ROWS
from packet_paths import V4, Case, N, World, at, is_local, sender_kind

from kpsim.addresses import Family, join_host_port, parse_ip
from kpsim.config import Host
from kpsim.packet import Packet

_TRIES = 4
_UNREACHABLE = {Family.IPV4: ("icmp", 3, 3), Family.IPV6: ("icmpv6", 1, 4)}  # port unreachable: protocol, type, code
_SILENCE, _CLOSED = "silence", "RST"

LABS = list(dict.fromkeys((row.family, row.configuration) for row in ROWS))


@pytest.fixture(scope="module", params=LABS, ids=lambda lab: f"{lab[0].label} {lab[1]}")
def lab(request: pytest.FixtureRequest, kernel: None) -> Iterator[tuple[World, Lab]]:
    family, configuration = request.param
    place = World(family, configuration, host=Host(nfacct=False))  # not every kernel has it
    made = Lab(f"kpsim{os.getpid()}", family)
    try:
        made.build(place.site.machine(N), place.cluster.rules(N, family=family))
        yield place, made
    finally:
        made.close()


def sighted(place: World, sent: Packet, came_out: list[Packet]) -> str:
    """What came out of N, in the words of a row."""
    return " and ".join(sorted({_word(place, sent, packet) for packet in came_out})) or _SILENCE


def _word(place: World, sent: Packet, packet: Packet) -> str:
    if (packet.protocol, packet.icmp_type, packet.icmp_code) == _UNREACHABLE[place.family]:
        return "REJ"
    if packet.protocol == "tcp" and "RST" in packet.tcp_flags:
        return _CLOSED
    source, name = place.sender(sent), place.endpoint_name(join_host_port(packet.destination, packet.dport))
    kept = (packet.source, packet.sport) == (source, sent.sport)
    if (packet.daddr, packet.dport) == (sent.daddr, sent.dport):
        return "PASS out" if kept else f"PASS out as {packet}"
    if kept:
        return f"{name} keep"
    towards = at("cni" if name[0] == "a" else "N", place.family)
    return f"{name} masq" if packet.source == towards else f"{name} as {packet.source}"


def allowed(row: Case) -> set[str]:
    """What may come out."""
    match row.expected.split()[0]:
        case "REJ":
            return {"REJ", _SILENCE} if is_local(row.source) else {"REJ"}  # a process is told by its system call
        case "DROP":
            return {_SILENCE}
        case "PASS":
            return {"PASS out"} if row.expected == "PASS out" else {_SILENCE, _CLOSED, "REJ"}
    words: set[str] = set()
    for part in row.expected.split(", "):
        *names, source = part.split()
        for name in names:
            words |= {_SILENCE, _CLOSED} if name == "h1" else {f"{name} {source}"}
    return words


@pytest.mark.kernel
def test_linux_does_what_the_rows_say(lab: tuple[World, Lab]) -> None:
    place, linux = lab
    rows = [row for row in ROWS if (row.family, row.configuration) == (place.family, place.configuration)]
    disagreements, sport = [], 20000
    for row in rows:
        found = set()
        for _ in range(_TRIES):
            sport += 1  # a flow of its own
            sent = place.packet(row.source, row.protocol, row.destination, sport=sport)
            sent = place.site.begin(sent, N, sender_kind(row.source))
            if place.family is not V4 and not sent.saddr:
                sent.saddr = parse_ip(place.sender(sent))[1]  # type: ignore[index]
            found.add(sighted(place, sent, linux.send(sent)))
        if not found <= allowed(row):
            disagreements.append(f"{row}: {sorted(found)}")
    assert disagreements == []
