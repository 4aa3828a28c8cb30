"""Rules, rulesets and packets drawn at random: every match and target that the model has, in every table, in both families.

What a rule may hold is read from the option table of the iptables dialect, so that an option that is new there is drawn
here, or misses its values by name. A :class:`World` says which values: a small one, in which rules and packets meet often,
or any at all.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

from hypothesis import strategies as st

from kpsim.addresses import Family, Network
from kpsim.dialects.iptables_options import EXTENSIONS, MODULE_PROTOCOLS, OPTIONS, PORT_MODULES, Extension, Option
from kpsim.dialects.iptables_values import CT_STATES
from kpsim.maps import Map
from kpsim.netfilter import Disposition, Walk
from kpsim.packet import Packet, Window
from kpsim.ruleset import (
    ACCEPT,
    BUILT_IN_CHAINS,
    DROP,
    RETURN,
    AddressRange,
    AddrType,
    Adjust,
    Chain,
    Comment,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    Dnat,
    Goto,
    IcmpType,
    InInterface,
    Jump,
    L4Module,
    Limit,
    Log,
    MarkMatch,
    Masquerade,
    MultiPort,
    NfAcct,
    NoTrack,
    OutInterface,
    Protocol,
    Recent,
    Redirect,
    Reject,
    ReversePath,
    RoutingHeader,
    Rule,
    Ruleset,
    SetConnMark,
    SetMark,
    SetTimeToLive,
    Snat,
    Source,
    SourcePort,
    Statistic,
    Table,
    TcpFlags,
    TimeToLive,
    Verdict,
)

V4, V6 = Family.IPV4, Family.IPV6
Drawn = st.SearchStrategy[Any]
ICMP = {V4: "icmp", V6: "icmpv6"}
NEGATE = st.booleans()
FLAGS = ("SYN", "ACK", "FIN", "RST", "PSH", "URG")


@dataclass(frozen=True)
class World:
    """The values that drawn rules and packets may have."""

    family: Family
    addresses: Drawn
    prefixes: Drawn
    ports: Drawn
    marks: Drawn
    interfaces: Drawn
    names: Drawn  #: of lists and counters
    texts: Drawn
    icmp_types: Drawn
    seconds: Drawn

    @property
    def networks(self) -> Drawn:
        def build(address: int, prefix: int, bare: bool) -> Network:
            if bare:
                return Network(self.family, address, self.family.bits, bare=True)
            return Network.around(self.family, address, prefix)

        return st.builds(build, self.addresses, self.prefixes, st.booleans())

    @property
    def ranges(self) -> Drawn:
        return st.tuples(self.ports, self.ports).map(lambda pair: (min(pair), max(pair)))


#: n1, a pod of n1, a pod of n2, two service addresses, a client (the address plan)
PLACES = {
    V4: (0xC0A80001, 0x0AB40005, 0x0AB40107, 0xAC1E000A, 0xAC1E000B, 0xCB007109),
    V6: tuple(0x20010DB8 << 96 | low for low in (1, 5, 0x10007, 0xA000A, 0xA000B, 0xC0009)),
}


@cache
def small_world(family: Family) -> World:
    """Few values, so that what is drawn matches and clashes."""
    bits = family.bits
    return World(
        family,
        addresses=st.sampled_from(PLACES[family]),
        prefixes=st.sampled_from([0, bits // 4, bits - 16, bits - 1, bits, bits, bits]),
        ports=st.sampled_from([80, 81, 8080, 40000]),
        marks=st.sampled_from([0, 1, 2, 0xFFFFFFFF]),
        interfaces=st.sampled_from(["eth0", "cni0", "eth+", "lo", "+"]),
        names=st.sampled_from(["L", "M"]),
        texts=st.just("text"),
        icmp_types=st.sampled_from([8, 128, 3, 255]),
        seconds=st.none() | st.sampled_from([1, 10]),
    )


@cache
def any_world(family: Family) -> World:
    """Whatever can be written down."""
    numbers = st.integers(0, 0xFFFFFFFF)
    words = st.text("ABCabc019-_", min_size=1, max_size=12).filter(lambda word: word[0] != "-")
    # an IPv6 address in the first 2³² would be read back as it is, but no tool writes one
    lowest = 1 << 32 if family is V6 else 0
    return World(
        family,
        addresses=st.integers(lowest, (1 << family.bits) - 1),
        prefixes=st.integers(0, family.bits),
        ports=st.integers(0, 0xFFFF),
        marks=numbers,
        interfaces=st.builds(str.__add__, words, st.sampled_from(["", "+"])),
        names=words,
        texts=st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=40),
        icmp_types=st.integers(0, 255),
        seconds=st.none() | numbers,
    )


# --- what stands behind an option --------------------------------------------------------------------------------------


def _probability(ten_thousand_millionths: int) -> Statistic:
    """As kube-proxy prints it, and as the kernel rounds it (K-5)."""
    whole, part = divmod(ten_thousand_millionths, 10**10)
    threshold = math.floor(Fraction(ten_thousand_millionths, 10**10) * 2**31 + Fraction(1, 2))
    return Statistic(threshold, f"{whole}.{part:010d}")


def _recent(world: World) -> Drawn:
    def build(name: str, action: str, seconds: int | None, reap: bool, hitcount: int | None, negate: bool) -> Recent:
        return Recent(name, action, seconds, reap and seconds is not None, hitcount, negate)

    actions = st.sampled_from(["set", "set", "rcheck", "update", "remove"])
    return st.builds(build, world.names, actions, world.seconds, st.booleans(), st.none() | st.integers(1, 3), NEGATE)


def _flags() -> Drawn:
    return st.frozensets(st.sampled_from(FLAGS))


def _ct_states(variant: str) -> Drawn:
    states = st.lists(st.sampled_from(CT_STATES[variant]), min_size=1, max_size=3, unique=True).map(tuple)
    return st.builds(CtState, states, NEGATE, st.just(variant))


def _marks(world: World) -> Drawn:
    """Every spelling, with the value and mask that it stands for."""
    return st.one_of(
        st.builds(lambda value: SetMark(value, value, "or-mark"), world.marks),
        st.builds(lambda value: SetMark(value, 0, "xor-mark"), world.marks),
        st.builds(lambda mask: SetMark(0, mask, "and-mark"), world.marks),
        st.builds(lambda value, mask: SetMark(value, mask | value, "set-mark"), world.marks, world.marks),
        st.builds(SetMark, world.marks, world.marks),
    )


_REJECTS = {
    V4: ["icmp-net-unreachable", "icmp-port-unreachable", "icmp-admin-prohibited", "tcp-reset"],
    V6: ["icmp6-no-route", "icmp6-port-unreachable", "icmp6-reject-route", "tcp-reset"],
}

#: class of the model → its values, given the world and the variant that the option table names
VALUES: Mapping[type, Callable[[World, str], Drawn]] = {
    Comment: lambda world, _: st.builds(Comment, world.texts),
    Source: lambda world, _: st.builds(Source, world.networks, NEGATE),
    Destination: lambda world, _: st.builds(Destination, world.networks, NEGATE),
    InInterface: lambda world, _: st.builds(InInterface, world.interfaces, NEGATE),
    OutInterface: lambda world, _: st.builds(OutInterface, world.interfaces, NEGATE),
    SourcePort: lambda world, _: st.builds(lambda r, n: SourcePort(*r, n), world.ranges, NEGATE),
    DestinationPort: lambda world, _: st.builds(lambda r, n: DestinationPort(*r, n), world.ranges, NEGATE),
    TcpFlags: lambda _w, _v: st.builds(TcpFlags, _flags(), _flags(), NEGATE),
    CtState: lambda _, variant: _ct_states(variant),
    MarkMatch: lambda world, _: st.builds(MarkMatch, world.marks, world.marks, NEGATE),
    CtOriginalDestination: lambda world, _: st.builds(CtOriginalDestination, world.networks, NEGATE),
    CtOriginalPort: lambda world, _: st.builds(lambda r, n: CtOriginalPort(*r, n), world.ranges, NEGATE),
    CtDirection: lambda _w, _v: st.builds(CtDirection, st.sampled_from(["ORIGINAL", "REPLY"])),
    ConnMark: lambda world, _: st.builds(ConnMark, world.marks, world.marks, NEGATE),
    AddrType: lambda _, variant: st.builds(
        AddrType, st.just(variant), st.sampled_from(["LOCAL", "UNICAST", "BROADCAST", "MULTICAST", "UNICAST,LOCAL"]), NEGATE
    ),
    AddressRange: lambda world, variant: st.builds(
        lambda pair, negate: AddressRange(variant, min(pair), max(pair), negate),
        st.tuples(world.addresses, world.addresses), NEGATE,
    ),
    TimeToLive: lambda _, variant: st.builds(
        TimeToLive, st.just(variant), st.sampled_from([63, 64]) | st.integers(0, 255), NEGATE
    ),
    ReversePath: lambda _w, _v: st.builds(ReversePath, st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    RoutingHeader: lambda _w, _v: st.integers(0, 255).map(lambda number: RoutingHeader(f"--rt-type {number}")),
    Limit: lambda _w, _v: st.builds(
        Limit, st.integers(1, 23), st.sampled_from(["sec", "min", "hour", "day"]), st.integers(1, 3) | st.integers(1, 10_000)
    ),
    MultiPort: lambda world, variant: st.builds(
        MultiPort, st.just(variant), st.lists(world.ranges, min_size=1, max_size=7).map(tuple), NEGATE
    ),
    IcmpType: lambda world, variant: st.builds(
        IcmpType, st.just(variant), world.icmp_types, st.none() | st.integers(0, 3), NEGATE
    ),
    NfAcct: lambda world, _: st.builds(NfAcct, world.names),
    Recent: lambda world, _: _recent(world),
    Statistic: lambda _w, _v: st.sampled_from([0, 10**10 // 3, 5 * 10**9, 10**10]).map(_probability)
    | st.integers(0, 10**10).map(_probability),
    Reject: lambda world, _: st.builds(Reject, st.none() | st.sampled_from(_REJECTS[world.family])),
    Dnat: lambda world, _: st.one_of(
        st.builds(Dnat, st.just(world.family), world.addresses, st.none() | world.ports, st.booleans(), st.booleans()),
        st.builds(Dnat, st.just(world.family), st.none(), world.ports),
    ),
    Snat: lambda world, _: st.builds(
        lambda address, r, random, fully: Snat(world.family, address, *r, random, fully),
        world.addresses, st.just((None, None)) | world.ranges, st.booleans(), st.booleans(),
    ),
    Masquerade: lambda world, _: st.builds(
        lambda r, random, fully: Masquerade(random, fully, *r),
        st.just((None, None)) | world.ranges, st.booleans(), st.booleans(),
    ),
    Redirect: lambda world, _: st.builds(Redirect, st.none() | world.ports),
    SetMark: lambda world, _: _marks(world),
    NoTrack: lambda _, variant: st.just(NoTrack(variant)),
    SetConnMark: lambda world, _: st.builds(
        SetConnMark, st.sampled_from(["set", "save", "restore"]), world.marks, world.marks
    ),
    SetTimeToLive: lambda _, variant: st.builds(
        SetTimeToLive, st.just(variant), st.sampled_from(["set", "inc", "dec"]), st.integers(0, 2) | st.integers(0, 255)
    ),
    Log: lambda _, variant: st.sampled_from([Log(arguments, variant) for arguments in _LOGS[variant]]),
    Adjust: lambda _, variant: st.just(Adjust(variant, _ADJUSTMENTS[variant])),
}  # fmt: skip

#: by target, arguments as iptables-save writes them
_LOGS = {"LOG": ["", "--log-prefix a --log-level 7"], "NFLOG": ["--nflog-group 3"], "TRACE": [""]}
_ADJUSTMENTS = {
    "TCPMSS": "--set-mss 1400", "DSCP": "--set-dscp 0x0a", "TOS": "--set-tos 0x10/0xff", "CLASSIFY": "--set-class 0001:0002",
    "CHECKSUM": "--checksum-fill",
}  # fmt: skip
#: extensions of one family only
_FAMILY = {"ttl": V4, "TTL": V4, "hl": V6, "HL": V6, "rt": V6}

# What has no values is missed by name in one test (test_everything_that_the_model_has_is_drawn), not in all.
_HEADER = [row for row in OPTIONS if not row.modules and row.element is not Protocol]
_MODULE_OPTIONS = [row for row in OPTIONS if row.modules and row.write is not None and row.element in VALUES]
_MODULES = [row for row in EXTENSIONS if row.flag == "-m" and row.element in VALUES]
_TARGETS = [row for row in EXTENSIONS if row.flag == "-j" and row.element in VALUES]


def _fits(row: Option | Extension, family: Family) -> bool:
    """Whether the kernel has it for the family."""
    name = row.name if isinstance(row, Extension) else next(iter(row.modules), "")
    return _FAMILY.get(name, family) is family


def _needs(row: Option) -> tuple[str, ...]:
    """The protocols of which the rule must name one; empty: it need not."""
    return tuple(name for module in row.modules for name in MODULE_PROTOCOLS.get(module, ()))


# --- rules -------------------------------------------------------------------------------------------------------------


def _values(world: World, row: Option | Extension) -> Drawn:
    return _drawn(world, row.element, row.variant)


@cache
def _drawn(world: World, element: type, variant: str) -> Drawn:
    return VALUES[element](world, variant)


@cache
def _anywhere(world: World) -> Drawn:
    """Matches that need no protocol."""
    rows = [row for row in _MODULE_OPTIONS if not _needs(row)]
    fitting = [row for row in (*rows, *_MODULES * 2) if _fits(row, world.family)]
    return st.lists(st.one_of([_values(world, row) for row in fitting]), max_size=2)


@cache
def _behind(protocol: str) -> Drawn:
    """Options that need the protocol."""
    rows = [row for row in _MODULE_OPTIONS if protocol in _needs(row)]
    return st.lists(st.sampled_from(rows), max_size=2, unique=True)


_HEADERS = st.sampled_from([*[()] * 3, *((row,) for row in _HEADER), *itertools.combinations(_HEADER, 2)])
_PROTOCOLS = {
    family: st.sampled_from([*[""] * 3, "!", "tcp", "tcp", "udp", "sctp", "udplite", ICMP[family]]) for family in Family
}
_PLAIN = st.sampled_from([True, False])
_LUCK = st.sampled_from([(), (_probability(10**10 // 3),), (_probability(5 * 10**9),)])
_NOT_OF = st.sampled_from([Protocol("tcp", negate=True), Protocol("udp", negate=True)])


@cache
@st.composite
def rules(draw: st.DrawFn, world: World, table: str, chain: str) -> Rule:
    """A rule that the kernel takes: header options once, ports behind their module, at most one target, at the end."""
    target = draw(targets(world, table, chain))
    if draw(_PLAIN):  # so that packets come far
        return Rule((*draw(_LUCK), *([] if target is None else [target])))
    parts = [*draw(_anywhere(world))]
    parts += [draw(_values(world, row)) for row in draw(_HEADERS)]
    behind: list[Any] = []
    match draw(_PROTOCOLS[world.family]):
        case "":
            pass
        case "!":
            parts.append(draw(_NOT_OF))
        case protocol:
            parts.append(Protocol(protocol))
            behind = [draw(_values(world, row)) for row in draw(_behind(protocol))]
            if protocol in PORT_MODULES:
                parts.append(L4Module(protocol))
    return Rule((*draw(st.permutations(parts)), *behind, *([] if target is None else [target])))


#: user chains; each may jump to those behind it. In nat the kernel knows from where each is called
USER_CHAINS = {
    "raw": ("A",),
    "mangle": ("A", "B"),
    "nat": ("D1", "D2", "S1", "S2"),
    "filter": ("A", "B", "C"),
    "security": ("A",),
}
_DESTINATION, _SOURCE = ("PREROUTING", "OUTPUT", "D1", "D2"), ("INPUT", "POSTROUTING", "S1", "S2")


@cache
def targets(world: World, table: str, chain: str) -> Drawn:
    """What a rule of this chain may do: one thing, or nothing."""
    user = USER_CHAINS[table]
    called = user[user.index(chain) + 1 :] if chain in user else user
    rows = [row for row in _TARGETS if row.table in ("", table) and _fits(row, world.family)]
    simple = [ACCEPT, RETURN] if table == "nat" else [ACCEPT, RETURN, DROP]
    if table == "nat":
        mine = _DESTINATION if chain in _DESTINATION else _SOURCE
        called = tuple(name for name in called if name in mine)
        wanted = (Dnat, Redirect) if chain in _DESTINATION else (Snat, Masquerade)
        if chain in ("INPUT", "S1", "S2"):
            wanted = (Snat,)  # MASQUERADE belongs to POSTROUTING
        rows = [row for row in rows if row.table != "nat" or row.element in wanted]
    jumps = [Jump(name) for name in called] + [Goto(name) for name in called]
    drawn = [_values(world, row) for row in rows for _ in range(3 if row.table == "nat" else 1)]
    drawn += [st.sampled_from(jumps)] * 3 if jumps else []
    return st.one_of(st.sampled_from(simple), *drawn, st.none())


#: every chain, those where most happens more often
_PLACES = tuple(
    (table, chain)
    for table, weight in (("nat", 4), ("filter", 3), ("mangle", 1), ("raw", 1), ("security", 1))
    for chain in (*BUILT_IN_CHAINS[table], *USER_CHAINS[table])
    for _ in range(2 * weight if chain in BUILT_IN_CHAINS[table] else weight)
)


@cache
@st.composite
def _placed(draw: st.DrawFn, world: World) -> tuple[str, str, Rule]:
    table, chain = draw(st.sampled_from(_PLACES))
    return table, chain, draw(rules(world, table, chain))


_POLICIES = st.lists(st.sampled_from([(table, chain) for table, chain in _PLACES if table != "nat"]), max_size=1)


@cache
@st.composite
def rulesets(draw: st.DrawFn, world: World, most: int = 30) -> Ruleset:
    """nat, and the tables of some other rules, each with all of its chains."""
    bodies: dict[str, dict[str, list[Rule]]] = {"nat": {}}
    for table, chain, rule in draw(st.lists(_placed(world), min_size=most // 3, max_size=most)):
        bodies.setdefault(table, {}).setdefault(chain, []).append(rule)
    closed = draw(_POLICIES)
    drawn = {}
    for table in sorted(bodies):
        chains = {}
        for chain in (*BUILT_IN_CHAINS[table], *USER_CHAINS[table]):
            policy = Verdict.DROP if (table, chain) in closed else Verdict.ACCEPT
            rules = tuple(bodies[table].get(chain, ()))
            chains[chain] = Chain(chain, rules, policy if chain in BUILT_IN_CHAINS[table] else None)
        drawn[table] = Table(table, Map(chains))
    return Ruleset(world.family, Map(drawn))


# --- packets -----------------------------------------------------------------------------------------------------------

_SEGMENTS = ("SYN", "SYN ACK", "ACK", "ACK PSH", "FIN ACK", "RST", "RST ACK", "SYN FIN")


@cache
def packets(world: World) -> Drawn:
    """Any packet, most of them ones that begin a connection."""
    family, icmp = world.family, ICMP[world.family]

    def build(
        protocol: str, saddr: int, daddr: int, sport: int, dport: int, icmp_type: int, odd: dict[str, Any]
    ) -> Packet:
        made = Packet(family, protocol, saddr, daddr, sport, dport)
        if protocol == icmp:
            made.dport, made.icmp_type = 0, icmp_type
        elif protocol == "gre":
            made.sport = made.dport = 0
        return replace(made, **odd)

    return st.builds(
        build,
        st.sampled_from(["tcp", "tcp", "udp", "udp", "sctp", "udplite", icmp, "gre"]),
        world.addresses, world.addresses, world.ports, world.ports,
        st.sampled_from([8, 0] if family is V4 else [128, 129, 135]),
        st.fixed_dictionaries({}, optional=_ODDITIES),
    )  # fmt: skip


#: what a packet may have that most have not
_ODDITIES: dict[str, Drawn] = {
    "tcp_flags": st.sampled_from(_SEGMENTS).map(lambda text: frozenset(text.split())),
    "sctp_chunk": st.sampled_from(["DATA", "ABORT", "INIT"]),
    "window": st.sampled_from(Window),
    "mark": st.just(1),
    "in_interface": st.sampled_from(["eth0", "cni0"]),
    "ttl": st.sampled_from([64, 1]),
    "checksum_ok": st.sampled_from([True, True, True, False]),
}


@dataclass(frozen=True)
class Sending:
    """A packet to send: a new one, or, if there was one before, one that follows from what became of it."""

    packet: Packet
    follows: str  #: ``""`` new, ``again``, ``answer``, ``error``
    which: int
    segment: frozenset[str]
    local: bool
    after_ns: int

    def made(self, earlier: list[tuple[Packet, Walk]]) -> Packet:
        """The packet, given those before it."""
        if not self.follows or not earlier:
            return self.packet
        sent, outcome = earlier[self.which % len(earlier)]
        seen = outcome.packet
        if self.follows == "again":
            again = sent.copy()
            again.tcp_flags = self.segment
            return again
        if self.follows == "error":
            return Packet(
                seen.family, ICMP[seen.family], self.packet.saddr, seen.saddr, icmp_type=3 if seen.family is V4 else 1,
                icmp_code=1, related=seen.copy(),
            )  # fmt: skip
        return answer_of(outcome, self.segment)


def answer_of(outcome: Walk, segment: frozenset[str]) -> Packet:
    """What the receiver of a packet says to it."""
    seen = outcome.packet
    answer = Packet(
        seen.family, seen.protocol, seen.daddr, seen.saddr, seen.dport, seen.sport, segment,
        in_interface=seen.out_interface if outcome.disposition is Disposition.FORWARDED else "",
        sctp_chunk="INIT_ACK",
    )  # fmt: skip
    if seen.protocol in ICMP.values():
        answer.sport, answer.icmp_type = seen.sport, {8: 0, 128: 129}.get(seen.icmp_type, seen.icmp_type)
    return answer


@cache
def sendings(world: World) -> Drawn:
    return st.builds(
        Sending,
        packets(world),
        st.sampled_from(["", "", "again", "answer", "answer", "error"]),
        st.integers(0, 3),
        st.sampled_from(_SEGMENTS).map(lambda text: frozenset(text.split())),
        st.sampled_from([False, False, True]),
        st.sampled_from([0, 1, 1_000_000_000, 3_000_000_000, 31_000_000_000]),
    )
