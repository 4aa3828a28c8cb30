"""Draws ipsets, rules that look them up and packets, seed after seed, and sends the packets through the model and Linux.

A rule that matches adds a power of two to the time to live, so one packet tells of several rules. What disagrees is
printed and, with ``--out``, written to files that ``ipset restore`` takes.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from fuzz.rounds import Rounds, options
from kpsim.addresses import Family, parse_ip
from kpsim.dialects import read_ipsets
from kpsim.dialects.iptables import parse
from kpsim.lab.requirements import obstacles
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot
from kpsim.maps import Map
from kpsim.nodes import make_machine
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick, several
from kpsim.verify.twin import Twin

BITS = 6  #: of the time to live that rules may add: 64 + 63 is below 128
PORTS = (80, 53, 0, 0x0800, 0x8000, 1024, 65535)
KINDS = ("ip", "net", "ip,port", "ip,port,ip", "ip,port,net", "net,port", "net,iface")
#: a client outside, two pods, and the node
ADDRESSES = {
    Family.IPV4: ("203.0.113.9", "10.180.0.5", "10.180.0.6", "192.168.0.1"),
    Family.IPV6: ("2001:db8:cb00:71::9", "fd00:180::5", "fd00:180::6", "2001:db8:7::1"),
}
_WORDS = {Family.IPV4: "inet", Family.IPV6: "inet6"}
_PINGS = {Family.IPV4: ("icmp", 8), Family.IPV6: ("icmpv6", 128)}
_TARGETS = {Family.IPV4: "TTL --ttl-inc", Family.IPV6: "HL --hl-inc"}
_PREFIXES = (24, 32, 8, 16, 30)  #: of IPv4; of IPv6 four times as long


@dataclass(frozen=True)
class Drawn:
    """Sets as ``ipset restore`` takes them, matches of rules, and first packets of different flows."""

    family: Family
    sets: str
    matches: tuple[str, ...]
    packets: tuple[Packet, ...]

    @property
    def told(self) -> Programmed:
        """What the kernel is told: a rule in FORWARD for each match."""
        ipsets = read_ipsets(self.sets)
        own = {name: of for name, of in ipsets.items() if of.ipset and of.ipset.family in (None, self.family)}
        adds = f"-j {_TARGETS[self.family]}"
        rules = "".join(f"-A FORWARD -m set {match} {adds} {1 << bit}\n" for bit, match in enumerate(self.matches))
        return Programmed.of(parse(f"*mangle\n{rules}COMMIT\n", self.family, ipsets=own), Map(own))


def draw(choices: Choices, family: Family) -> Drawn:
    """Sets of some types, matches with directions that mostly fit, and packets between the ends."""
    lines, names = [], []
    for number in range(2 + choices.below(3)):
        parts = pick(choices, KINDS).split(",")
        name = f"s{number}-{len(parts)}"
        names.append(name)
        lines.append(f"create {name} hash:{','.join(parts)} family {_WORDS[family]}")
        for _ in range(choices.below(7)):
            element = ",".join(_part(choices, part, family) for part in parts)
            nomatch = " nomatch" if "net" in parts and chance(choices, 30) else ""
            lines.append(f"add {name} {element}{nomatch} -exist")
    lines += ["create p-1 bitmap:port range 0-65535", *(f"add p-1 {port}" for port in several(choices, PORTS, 4))]
    matches = tuple(_match(choices, [*names, "p-1"]) for _ in range(BITS))
    flows: dict[object, Packet] = {}
    for _ in range(30):
        packet = _packet(choices, family)
        flows.setdefault(frozenset([(packet.saddr, packet.sport), (packet.daddr, packet.dport)]), packet)
    return Drawn(family, "".join(f"{line}\n" for line in lines), matches, tuple(flows.values()))


def _part(choices: Choices, part: str, family: Family) -> str:
    match part:
        case "ip":
            return pick(choices, ADDRESSES[family])
        case "net":
            prefix = pick(choices, _PREFIXES) * (1 if family is Family.IPV4 else 4)
            return f"{pick(choices, ADDRESSES[family])}/{prefix}"
        case "port":
            protocol, echo = _PINGS[family]
            ports = [f"{each}:{pick(choices, PORTS)}" for each in ("tcp", "udp", "sctp")]
            return pick(choices, [*ports, f"{protocol}:{echo}/0", "dccp:0"])
        case _:
            return pick(choices, ("eth0", "cni0"))


def _match(choices: Choices, names: Sequence[str]) -> str:
    name = pick(choices, names)
    count = max(1, int(name[-1]) + pick(choices, (0, 0, 0, 0, 1, -1)))
    directions = ",".join(pick(choices, ("src", "dst")) for _ in range(count))
    return f"{pick(choices, ('', '', '! '))}--match-set {name} {directions}"


def _packet(choices: Choices, family: Family) -> Packet:
    client, pods = _number(ADDRESSES[family][0]), [_number(each) for each in ADDRESSES[family][1:3]]
    protocol, echo = _PINGS[family]
    ends = client, pick(choices, pods)
    if chance(choices, 20):
        made = Packet(family, protocol, *ends, 1 + choices.below(60000), 0, icmp_type=echo, in_interface="eth0")
    else:
        ports = pick(choices, PORTS[3:]), pick(choices, PORTS[:2] + PORTS[3:])
        made = Packet(family, pick(choices, ("tcp", "udp", "sctp")), *ends, *ports, in_interface="eth0")
    if chance(choices, 40):
        made = replace(made, saddr=made.daddr, daddr=made.saddr, in_interface="cni0")
    return made


def _number(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


# --- in both ------------------------------------------------------------------------------------------------------------


def make_twin(family: Family, variant: Variant = Variant.NFT) -> Twin:
    """A node with two pods, in the model and in Linux. Close it."""
    if family is Family.IPV4:
        machine = make_machine(["192.168.0.1"], ["10.180.0.0/24"])
    else:
        machine = make_machine(["2001:db8:7::1/64"], ["fd00:180::/64"])
    twin = Twin(machine, family, variant)
    twin.linux.add_pods(map(_number, ADDRESSES[family][1:3]))
    return twin


def compare(twin: Twin, drawn: Drawn) -> list[str]:
    """What the model and Linux disagree about, in words: the sets as they are saved, then packets."""
    difference = twin.load(drawn.told)
    twin.forget()
    found = [] if difference is None else [str(difference)]
    for exchange in twin.exchange([Shot(packet) for packet in drawn.packets]):
        found += [f"{exchange.shot.packet}: {each}" for each in exchange.differences]
    return found


@dataclass(frozen=True)
class Disagreement:
    """Sets and rules under which the model and Linux disagree."""

    seed: int
    drawn: Drawn
    differences: tuple[str, ...]

    @property
    def why(self) -> str:
        return "\n".join(self.differences)

    def __str__(self) -> str:
        return self.why

    def file(self) -> tuple[str, str]:
        matches = "".join(f"# -m set {match}\n" for match in self.drawn.matches)
        return f"ipsets-{self.drawn.family.label.lower()}.txt", matches + self.drawn.sets


@dataclass
class IpsetTally:
    """What was compared so far, and what disagreed."""

    packets: int = 0
    found: list[Disagreement] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.packets:,} packets, {len(self.found)} disagreements"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was, 2 if this machine has no lab."""
    given = options("ipsets", "Random ipsets in the model and in Linux.").parse_args(arguments)
    if missing := obstacles(Variant.NFT):
        print("\n".join(map(str, missing)), file=sys.stderr)
        return 2
    tally = IpsetTally()
    with ExitStack() as made:
        twins = {family: made.enter_context(closing(make_twin(family))) for family in Family}

        def fuzz(seed: int) -> None:
            for family, twin in twins.items():
                drawn = draw(SeededChoices(seed, "ipsets", family.label), family)
                tally.packets += len(drawn.packets)
                if differences := compare(twin, drawn):
                    tally.found.append(Disagreement(seed, drawn, tuple(differences)))

        return Rounds.of(given).search(fuzz, tally)
