"""The packet path tables against Linux: the packets of the rows pass the rules that kube-proxy writes for them.

What Linux does is compared with the rows, and also with the model. Endpoints are drawn, so each packet is sent several
times, and what comes out must be what the row allows. A packet that ends on the node itself leaves nothing, or the
refusal of a closed port.
"""

from collections.abc import Iterator

import pytest
from packet_path_rows import ROWS
from packet_paths import Case, N, World, at, is_local, sender_kind

from kpsim.addresses import Family, join_host_port
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot, Where
from kpsim.packet import Packet
from kpsim.verify.twin import Twin

_TRIES = 4
_UNREACHABLE = {Family.IPV4: ("icmp", 3, 3), Family.IPV6: ("icmpv6", 1, 4)}  # port unreachable: protocol, type, code
_SILENCE, _CLOSED = "silence", "RST"

CONFIGURATIONS = list(dict.fromkeys((row.family, row.configuration) for row in ROWS))


@pytest.fixture(
    scope="module",
    params=[(*which, variant) for which in CONFIGURATIONS for variant in Variant],
    ids=lambda param: f"{param[0].label} {param[1]} {param[2]}",
)
def lab(request: pytest.FixtureRequest, kernel: None) -> Iterator[tuple[World, Twin]]:
    family, configuration, variant = request.param
    place = World(family, configuration)
    made = Twin(place.site.machine(N), family, variant)
    try:
        assert made.load(place.site.netns(N, family).rulesets[family]) is None
        made.linux.add_pods(address for of, address in place.site.directory.pods if of is family)
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
def test_linux_does_what_the_rows_say(lab: tuple[World, Twin]) -> None:
    place, both = lab
    rows = [row for row in ROWS if (row.family, row.configuration) == (place.family, place.configuration)]
    disagreements = []
    for attempt in range(_TRIES):
        both.forget()
        sent = [place.packet(row.source, row.protocol, row.destination, sport=20000 + n) for n, row in enumerate(rows)]
        begun = [place.site.begin(each, N, sender_kind(row.source)) for each, row in zip(sent, rows, strict=True)]
        for row, exchange in zip(rows, both.exchange([Shot(each) for each in begun]), strict=True):
            came_out = [seen.packet for seen in exchange.heard.sightings if seen.where is not Where.SOCKET]
            found = sighted(place, exchange.shot.packet, came_out)
            if found not in allowed(row):
                disagreements.append(f"{row}, try {attempt}: {found}")
            disagreements += [f"{row}, try {attempt}: {difference}" for difference in exchange.differences]
    assert disagreements == []
