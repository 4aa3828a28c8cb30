"""Draws rules and rulesets: every match and target that the model has, in every table, in both families.

A rule is drawn as an administrator would type it, option by option. The options come from the option table of the
iptables dialect. So a new option is drawn here too, or a test names it because it has no values. A :class:`World` holds
the values: a small one, in which rules and packets meet often, or all possible values.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st

from kpsim.addresses import Family, Network, format_ip
from kpsim.dialects.iptables import BUILT_IN_CHAINS, table_key
from kpsim.dialects.iptables.options import (
    EXTENSIONS,
    GOTO,
    MODULE_PROTOCOLS,
    OPTION_BY_NAME,
    OPTIONS,
    PORT_MODULE_ROWS,
    PORT_MODULES,
    ROWS,
    VERDICT,
    Extension,
    Option,
    Place,
)
from kpsim.dialects.iptables.refusals import hooks_of, refused_in
from kpsim.dialects.iptables.spelling import Written, assemble
from kpsim.dialects.iptables.values import ADDRESS_TYPES, CT_STATES
from kpsim.maps import Map
from kpsim.ruleset import ACCEPT, DROP, RETURN, Chain, Goto, Hook, Jump, Rule, Ruleset, Table, Verdict

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
    names: Drawn  #: names of lists and counters
    texts: Drawn
    icmp_types: Drawn
    seconds: Drawn

    @property
    def hosts(self) -> Drawn:
        return self.addresses.map(lambda address: format_ip(self.family, address))

    @property
    def networks(self) -> Drawn:
        def build(address: int, prefix: int) -> str:
            return str(Network.around(self.family, address, prefix))

        return st.one_of(self.hosts, st.builds(build, self.addresses, self.prefixes))

    @property
    def address_ranges(self) -> Drawn:
        pairs = st.tuples(self.addresses, self.addresses)
        return pairs.map(lambda pair: "-".join(format_ip(self.family, address) for address in sorted(pair)))

    def ranges(self, separator: str = ":") -> Drawn:
        pairs = st.tuples(self.ports, self.ports).map(sorted)
        return pairs.map(lambda pair: str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}{separator}{pair[1]}")

    @property
    def masked_marks(self) -> Drawn:
        return st.builds(lambda value, mask: f"{value:#x}/{mask:#x}", self.marks, self.marks)


#: n1, a pod of n1, a pod of n2, two service addresses, a client (the address plan)
PLACES = {
    V4: (0xC0A80001, 0x0AB40005, 0x0AB40107, 0xAC1E000A, 0xAC1E000B, 0xCB007109),
    V6: tuple(0x20010DB8 << 96 | low for low in (1, 5, 0x10007, 0xA000A, 0xA000B, 0xC0009)),
}


@cache
def small_world(family: Family) -> World:
    """A world of few values, so that what is drawn matches and clashes."""
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
    """The world of all values that can be written."""
    numbers = st.integers(0, 0xFFFFFFFF)
    words = st.text("ABCabc019-_", min_size=1, max_size=12).filter(lambda word: word[0] != "-")
    # an IPv6 address below 2³² would be read back correctly, but no tool writes one
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


def _probability(ten_thousand_millionths: int) -> str:
    """A probability as kube-proxy prints it."""
    whole, part = divmod(ten_thousand_millionths, 10**10)
    return f"{whole}.{part:010d}"


def _names(names: tuple[str, ...], most: int = 3) -> Drawn:
    return st.lists(st.sampled_from(names), min_size=1, max_size=most, unique=True).map(",".join)


_FLAG_SETS = st.lists(st.sampled_from(FLAGS), max_size=4, unique=True).map(lambda names: ",".join(names) or "NONE")
_TYPES = {
    V4: st.sampled_from(["LOCAL", "UNICAST", "BROADCAST", "MULTICAST"]) | _names(ADDRESS_TYPES[:6], 2),
    V6: st.sampled_from(["LOCAL", "UNICAST", "MULTICAST"]),
}
_UIDS = st.sampled_from(["0", "1337", "1000-2000"]) | st.integers(0, 0xFFFFFFFE).map(str)
_LENGTHS = st.sampled_from(["60", "0:59", "61:65535"]) | st.integers(0, 0xFFFF).map(str)
_HOPS = (st.sampled_from([63, 64]) | st.integers(0, 255)).map(str)
_CODES = st.just("") | st.integers(0, 3).map(lambda code: f"/{code}")


def _compared_flags(mask: str, value: str) -> str:
    return f"{mask} {'NONE' if mask == 'NONE' else value}"


def _ports(world: World) -> Drawn:
    return st.lists(world.ranges(), min_size=1, max_size=7).map(",".join)


def _icmp_types(world: World) -> Drawn:
    return st.builds(lambda kind, code: f"{kind}{code}", world.icmp_types, _CODES)


#: each option's values, as text
TEXTS: Mapping[str, Callable[[World], Drawn]] = {
    "-s": lambda world: world.networks,
    "-d": lambda world: world.networks,
    "-i": lambda world: world.interfaces,
    "-o": lambda world: world.interfaces,
    "--sport": lambda world: world.ranges(),
    "--dport": lambda world: world.ranges(),
    "--tcp-flags": lambda _: st.builds(_compared_flags, _FLAG_SETS, _FLAG_SETS),
    "--syn": lambda _: st.just(""),
    "--comment": lambda world: world.texts,
    "--ctstate": lambda _: _names(CT_STATES["conntrack"]),
    "--state": lambda _: _names(CT_STATES["state"]),
    "--ctorigdst": lambda world: world.networks,
    "--ctorigdstport": lambda world: world.ranges(),
    "--ctdir": lambda _: st.sampled_from(["ORIGINAL", "REPLY"]),
    "--mark": lambda world: world.masked_marks,
    "--src-type": lambda world: _TYPES[world.family],
    "--dst-type": lambda world: _TYPES[world.family],
    "--src-range": lambda world: world.address_ranges,
    "--dst-range": lambda world: world.address_ranges,
    **{f"--{module}-{relation}": lambda _: _HOPS for module in ("ttl", "hl") for relation in ("eq", "lt", "gt")},
    "--sports": _ports,
    "--dports": _ports,
    "--ports": _ports,
    "--icmp-type": _icmp_types,
    "--icmpv6-type": _icmp_types,
    "--nfacct-name": lambda world: world.names,
    "--dscp": lambda _: st.sampled_from([0, 46]).map(hex) | st.integers(0, 63).map(hex),
    "--dscp-class": lambda _: st.sampled_from(["EF", "CS1", "BE", "AF41"]),
    "--tos": lambda _: st.sampled_from(["0x10", "0/0x3f", "Minimize-Cost", "0xb8/0xfc"]),
    "--pkt-type": lambda _: st.sampled_from(["unicast", "broadcast", "multicast", "otherhost"]),
    "--socket-exists": lambda _: st.just(""),
    "--uid-owner": lambda _: _UIDS,
    "--gid-owner": lambda _: _UIDS,
    "--length": lambda _: _LENGTHS,
    "--physdev-in": lambda world: world.interfaces,
    "--physdev-out": lambda world: world.interfaces,
    **{f"--physdev-is-{side}": lambda _: st.just("") for side in ("in", "out", "bridged")},
}
#: options that take no ``!``
_NOT_NEGATABLE = ("--comment", "--ctdir", "--nfacct-name")

Options = dict[str, tuple[str, bool]]  #: the options of an extension: name → (value, negated)


def _options(**given: Drawn) -> Drawn:
    """``{"--a-b": (text, False)}`` from keywords like ``a_b``. None leaves an option out."""
    names = {name: f"--{name.replace('_', '-')}" for name in given}
    return st.fixed_dictionaries(given).map(
        lambda values: {names[n]: (value, False) for n, value in values.items() if value is not None}
    )


_FLAG = st.none() | st.just("")


def _recent(world: World) -> Drawn:
    def build(name: str, action: str, seconds: int | None, reap: bool, hitcount: int | None, negate: bool) -> Options:
        options = {f"--{action}": ("", negate), "--name": (name, False)}
        if action in ("set", "remove"):
            return options
        if seconds is not None:
            options["--seconds"] = str(seconds), False
            if reap:
                options["--reap"] = "", False
        if hitcount is not None:
            options["--hitcount"] = str(hitcount), False
        return options

    actions = st.sampled_from(["set", "set", "rcheck", "update", "remove"])
    return st.builds(build, world.names, actions, world.seconds, st.booleans(), st.none() | st.integers(1, 3), NEGATE)


def _one_mark_option(world: World) -> Drawn:
    return st.one_of(
        st.builds(lambda option, value: {option: (f"{value:#x}", False)},
                  st.sampled_from(["--or-mark", "--xor-mark", "--and-mark"]), world.marks),
        st.builds(lambda option, text: {option: (text, False)},
                  st.sampled_from(["--set-mark", "--set-xmark"]), world.masked_marks),
    )  # fmt: skip


def _connection_marks(world: World) -> Drawn:
    def build(action: str, packet: int, connection: int) -> Options:
        return {f"--{action}-mark": ("", False), "--nfmask": (hex(packet), False), "--ctmask": (hex(connection), False)}

    moved = st.builds(build, st.sampled_from(["save", "restore"]), world.marks, world.marks)
    return st.one_of(_one_mark_option(world), moved)


def _destinations(world: World) -> Drawn:
    def write(address: str, port: int | None) -> str:
        if port is None:
            return address
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

    ends = st.builds(write, world.hosts, st.none() | world.ports) | world.ports.map(":{}".format)
    return _options(to_destination=ends, random=_FLAG, persistent=_FLAG)


def _sources(world: World) -> Drawn:
    def write(address: str, ports: str) -> str:
        if not ports:
            return address
        return f"[{address}]:{ports}" if ":" in address else f"{address}:{ports}"

    ends = st.builds(write, world.hosts, st.just("") | world.ranges("-"))
    return _options(to_source=ends, random=_FLAG, random_fully=_FLAG)


_REJECTS = {
    V4: ["icmp-net-unreachable", "icmp-port-unreachable", "icmp-admin-prohibited", "tcp-reset"],
    V6: ["icmp6-no-route", "icmp6-port-unreachable", "icmp6-reject-route", "tcp-reset"],
}
_RATES = st.builds("{}/{}".format, st.integers(1, 23), st.sampled_from(["sec", "min", "hour", "day"]))
_BURSTS = (st.integers(1, 3) | st.integers(1, 10_000)).map(str)


def _hop_changes(target: str) -> Callable[[World], Drawn]:
    actions, values = st.sampled_from(["set", "inc", "dec"]), st.integers(0, 2) | st.integers(0, 255)

    def build(action: str, value: int) -> dict[str, tuple[str, bool]]:
        number = value if action == "set" else max(value, 1)  # a change by 0 is refused
        return {f"--{target.lower()}-{action}": (str(number), False)}

    return lambda _: st.builds(build, actions, values)


#: each extension's options
ARGUMENTS: Mapping[str, Callable[[World], Drawn]] = {
    "-m recent": _recent,
    "-m statistic": lambda _: _options(
        mode=st.just("random"),
        probability=(st.sampled_from([0, 10**10 // 3, 5 * 10**9, 10**10]) | st.integers(0, 10**10)).map(_probability),
    ),
    "-m limit": lambda _: _options(limit=_RATES, limit_burst=_BURSTS),
    "-m connmark": lambda world: st.builds(lambda text, n: {"--mark": (text, n)}, world.masked_marks, NEGATE),
    "-m rpfilter": lambda _: _options(loose=_FLAG, validmark=_FLAG, accept_local=_FLAG, invert=_FLAG),
    "-m socket": lambda _: _options(transparent=_FLAG, nowildcard=_FLAG),
    "-m rt": lambda _: _options(rt_type=st.integers(0, 255).map(str)),
    "-j REJECT": lambda world: _options(reject_with=st.none() | st.sampled_from(_REJECTS[world.family])),
    "-j DNAT": _destinations,
    "-j SNAT": _sources,
    "-j MASQUERADE": lambda world: _options(to_ports=st.none() | world.ranges("-"), random=_FLAG, random_fully=_FLAG),
    "-j REDIRECT": lambda world: _options(to_ports=st.none() | world.ports.map(str)),
    "-j MARK": _one_mark_option,
    "-j NETMAP": lambda world: _options(to=world.networks),
    "-j CT": lambda _: st.sampled_from([{"--notrack": ("", False)}, {"--ctevents": ("new", False)}]),
    "-j NOTRACK": lambda _: st.just({}),
    "-j CONNMARK": _connection_marks,
    "-j TTL": _hop_changes("TTL"),
    "-j HL": _hop_changes("HL"),
    "-j LOG": lambda _: _options(log_prefix=st.none() | st.just("a"), log_level=st.none() | st.just("7")),
    "-j NFLOG": lambda _: _options(nflog_group=st.none() | st.just("3")),
    "-j TRACE": lambda _: st.just({}),
    "-j TCPMSS": lambda _: _options(set_mss=st.just("1400")),
    "-j DSCP": lambda _: _options(set_dscp=st.just("0x0a")),
    "-j TOS": lambda _: _options(set_tos=st.just("0x10/0xff")),
    "-j CLASSIFY": lambda _: _options(set_class=st.just("0001:0002")),
    "-j CHECKSUM": lambda _: _options(checksum_fill=st.just("")),
}
#: extensions that exist in one family only
_FAMILY = {"ttl": V4, "TTL": V4, "hl": V6, "HL": V6, "rt": V6}

# Options without values are left out here; test_everything_that_the_model_has_is_drawn names them.
_HEADER = [row for row in OPTIONS if row.place is Place.HEADER and row.name != "-p"]
_MODULE_OPTIONS = [row for row in OPTIONS if row.modules and row.name in TEXTS]
_MODULES = [row for row in EXTENSIONS if row.flag == "-m" and row.name in ARGUMENTS]
_TARGETS = [row for row in EXTENSIONS if row.flag == "-j" and row.name in ARGUMENTS]


def _fits(row: Option | Extension, family: Family) -> bool:
    """Whether the kernel has the option for the family."""
    return _FAMILY.get(row.module, family) is family


def _needs(row: Option) -> tuple[str, ...]:
    """The protocols of which the rule must name one. Empty: the rule need not name a protocol."""
    return tuple(name for module in row.modules for name in MODULE_PROTOCOLS.get(module, ()))


# --- rules -------------------------------------------------------------------------------------------------------------


@cache
def _values(world: World, row: Option | Extension) -> Drawn:
    """The row with drawn values, as a piece of a rule."""
    if isinstance(row, Extension):
        return ARGUMENTS[row.name](world).map(lambda options: Written(row, *row.read(options, world.family)))
    written = ROWS[row.written_as] if row.written_as else row

    def read(text: str, negate: bool) -> Written:
        try:
            found = row.read(text, negate, world.family)
        except ValueError:  # some options cannot be negated, some only for some values
            found = row.read(text, False, world.family)
        assert found is not None
        return Written(written, *found)

    return st.builds(read, TEXTS[row.name](world), st.just(False) if row.name in _NOT_NEGATABLE else NEGATE)


@cache
def _anywhere(world: World) -> Drawn:
    """Options that need no protocol."""
    rows = [row for row in _MODULE_OPTIONS if not _needs(row)]
    fitting = [row for row in (*rows, *_MODULES * 2) if _fits(row, world.family)]
    return st.lists(st.one_of([_values(world, row) for row in fitting]), max_size=2)


@cache
def _behind(protocol: str) -> Drawn:
    """Options that need the protocol, each at most once."""
    rows = [row for row in _MODULE_OPTIONS if protocol in _needs(row)]
    return st.lists(st.sampled_from(rows), max_size=2, unique_by=lambda row: row.written_as or row.name)


_HEADERS = st.sampled_from([*[()] * 3, *((row,) for row in _HEADER), *itertools.combinations(_HEADER, 2)])
_PROTOCOLS = {
    family: st.sampled_from([*[""] * 3, "!", "tcp", "tcp", "udp", "sctp", "udplite", ICMP[family]]) for family in Family
}
_PLAIN = st.sampled_from([True, False])
_STATISTIC = next(row for row in EXTENSIONS if row.name == "-m statistic")


def _drawn_with(probability: int) -> tuple[Written, ...]:
    options = {"--mode": ("random", False), "--probability": (_probability(probability), False)}
    return (Written(_STATISTIC, *_STATISTIC.read(options, V4)),)


_LUCK = st.sampled_from([(), _drawn_with(10**10 // 3), _drawn_with(5 * 10**9)])


def _of_protocol(name: str, negate: bool, family: Family) -> Written:
    row = OPTION_BY_NAME["-p"]
    read = row.read(name, negate, family)
    assert read is not None
    return Written(row, *read)


def _rule(written: list[Written]) -> Rule:
    """The rule made of these pieces. Its comment is the first comment, as the parser has it."""
    at = next((i for i, piece in enumerate(written) if piece.row.name == "--comment"), None)
    if at is None:
        return assemble(written, "")
    comment = written[at].detail
    assert isinstance(comment, str)
    return assemble([*written[:at], written[at]._replace(detail=None), *written[at + 1 :]], comment)


@cache
@st.composite
def rules(draw: st.DrawFn, world: World, table: str, chain: str) -> Rule:
    """A rule that the kernel accepts: header options once, ports after their module, at most one target, at the end."""
    target = [piece for piece in (draw(targets(world, table, chain)),) if piece is not None]
    if draw(_PLAIN):  # so that packets pass many rules
        return _in_place(_rule([*draw(_LUCK), *target]), table, chain)
    parts = [*draw(_anywhere(world))]
    parts += [draw(_values(world, row)) for row in draw(_HEADERS)]
    behind: list[Written] = []
    match draw(_PROTOCOLS[world.family]):
        case "":
            pass
        case "!":
            parts.append(_of_protocol(draw(st.sampled_from(["tcp", "udp"])), True, world.family))
        case protocol:
            parts.append(_of_protocol(protocol, False, world.family))
            behind = [draw(_values(world, row)) for row in draw(_behind(protocol))]
            if protocol in PORT_MODULES:
                parts.append(Written(PORT_MODULE_ROWS[protocol], None))
    return _in_place(_rule([*draw(st.permutations(parts)), *behind, *target]), table, chain)


def _in_place(rule: Rule, table: str, chain: str) -> Rule:
    """The rule or, if the kernel refuses it in this chain, one that returns."""
    misplaced = refused_in(rule, table, chain) is not None or not _calling(table, chain) <= hooks_of(rule)
    return _rule([Written(VERDICT, RETURN)]) if misplaced else rule


def _calling(table: str, chain: str) -> frozenset[Hook]:
    """The hooks from which a chain may be called."""
    bases = BUILT_IN_CHAINS[table]
    if chain in bases:
        return frozenset((bases[chain].hook,))
    sides = _DESTINATION if chain in _DESTINATION else _SOURCE if chain in _SOURCE else tuple(bases)
    return frozenset(bases[name].hook for name in sides if name in bases)


#: user chains; each may jump to those after it. In nat the kernel knows from which hook each is called
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
    """What a rule of this chain may do: one target, or none."""
    user = USER_CHAINS[table]
    called = user[user.index(chain) + 1 :] if chain in user else user
    rows = [row for row in _TARGETS if (not row.tables or table in row.tables) and _fits(row, world.family)]
    simple = [ACCEPT, RETURN] if table == "nat" else [ACCEPT, RETURN, DROP]
    if table == "nat":
        mine = _DESTINATION if chain in _DESTINATION else _SOURCE
        called = tuple(name for name in called if name in mine)
        wanted = ("DNAT", "REDIRECT", "NETMAP") if chain in _DESTINATION else ("SNAT", "MASQUERADE", "NETMAP")
        if chain in ("INPUT", "S1", "S2"):
            wanted = ("SNAT", "NETMAP")  # MASQUERADE is allowed in POSTROUTING only
        rows = [row for row in rows if "nat" not in row.tables or row.target in wanted]
    jumps = [Written(VERDICT, Jump(name)) for name in called] + [Written(GOTO, Goto(name)) for name in called]
    drawn = [_values(world, row) for row in rows for _ in range(3 if "nat" in row.tables else 1)]
    drawn += [st.sampled_from(jumps)] * 3 if jumps else []
    return st.one_of(st.sampled_from([Written(VERDICT, verdict) for verdict in simple]), *drawn, st.none())


#: every chain; those where most happens are listed several times
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
    """The nat table, and the tables of some other rules, each with all of its chains."""
    bodies: dict[str, dict[str, list[Rule]]] = {"nat": {}}
    for table, chain, rule in draw(st.lists(_placed(world), min_size=most // 3, max_size=most)):
        bodies.setdefault(table, {}).setdefault(chain, []).append(rule)
    closed = draw(_POLICIES)
    drawn = []
    for table in sorted(bodies):
        chains = {}
        for chain in (*BUILT_IN_CHAINS[table], *USER_CHAINS[table]):
            base = BUILT_IN_CHAINS[table].get(chain)
            if base is not None and (table, chain) in closed:
                base = replace(base, policy=Verdict.DROP)
            chains[chain] = Chain(chain, tuple(bodies[table].get(chain, ())), base)
        drawn.append(Table(table_key(world.family, table), Map(chains)))
    return Ruleset.of(world.family, *drawn)
