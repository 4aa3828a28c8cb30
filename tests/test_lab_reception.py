"""Which packet a sighting belongs to. A TCP reset has no tag of what it answers."""

from kpsim.addresses import Family, parse_ip
from kpsim.lab.frames import Decoded
from kpsim.lab.wires import Reception, Shot, Sighting, Where
from kpsim.packet import Packet

SYN_ACK, RST = frozenset({"SYN", "ACK"}), frozenset({"RST"})
FIRST, SECOND, NODE, OWN = "fd00:180::5", "fd00:180::6", "fd00:180::1", "2001:db8::1"


def number(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def packet(source: str, sport: int, destination: str, dport: int, flags: frozenset[str]) -> Packet:
    return Packet(Family.IPV6, "tcp", number(source), number(destination), sport, dport, flags)


def answers(*sent: Packet, resets: list[Packet]) -> list[list[str]]:
    """The resets that each packet got, by their destination."""
    reception = Reception([Shot(each) for each in sent], range(1, len(sent) + 1))
    for reset in resets:
        reception.add(Sighting(Where.POD, "cali0", reset), Decoded(reset, 0, 0, 0))
    assert not reception.strays
    return [[seen.packet.destination for seen in each.sightings] for each in reception.results()]


def test_a_reset_belongs_to_what_it_turns_round() -> None:
    sent = [packet(FIRST, 8080, NODE, 600, SYN_ACK), packet(SECOND, 8080, NODE, 600, SYN_ACK)]
    assert answers(*sent, resets=[packet(NODE, 600, FIRST, 8080, RST)]) == [[FIRST], []]


def test_a_reset_whose_packet_was_translated_belongs_to_the_sender_that_it_goes_to() -> None:
    """A packet that INPUT refuses was translated already, so the reset has another source than the packet's destination."""
    sent = [packet(end, 8080, NODE, 600 + n, SYN_ACK) for n, end in enumerate((FIRST, SECOND, FIRST))]
    resets = [packet(OWN, 40000 + n, end, 8080, RST) for n, end in enumerate((FIRST, SECOND, FIRST))]
    assert answers(*sent, resets=resets) == [[FIRST], [SECOND], [FIRST]]
