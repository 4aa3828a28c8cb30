"""Canaries: packets whose fates are known, sent before and after every batch. If the lab does not see one as it must
be, it is blind.

Counterpart: the canary chains of kube-proxy, which prove that its tables were not flushed. The addresses of canaries
belong to benchmarking networks (RFC 2544, RFC 5180), so no cluster's rules match them. Canaries have routes of their
own, and rules of their own, the guards. So they fare alike on every machine; they say nothing about the rules under
test.

A *flock* is one canary of each kind, and the answer to the translated one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, parse_ip
from kpsim.conntrack import tuple_of
from kpsim.lab.calls import LabError
from kpsim.lab.node import LabNode
from kpsim.lab.tools import GUARD_COMMENT
from kpsim.lab.tools.iptables import rules_from
from kpsim.lab.wires import Heard, Shot, Sighting, Where
from kpsim.maps import Map
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, Route, RouteKind
from kpsim.protocols import ICMP_PORT_UNREACHABLE
from kpsim.ruleset import (
    TCP_FLAG_BITS,
    Base,
    Chain,
    ChainType,
    Compare,
    Dnat,
    Expression,
    Field,
    Goto,
    Hook,
    Reject,
    Rule,
    Ruleset,
    Space,
    Statement,
    Table,
    TableKey,
    Terminal,
    Verdict,
    among,
    equal,
    named,
    within,
)

_PORT = 9  # discard
_NETWORK = {Family.IPV4: "198.18.255.", Family.IPV6: "2001:2:0:ff::"}
_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}
_CLIENT, _TRANSLATED, _REJECTED, _DROPPED, _POD, _NODE, _ENDPOINT = 1, 2, 3, 4, 5, 6, 129
_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


_ACCEPT = Terminal(Verdict.ACCEPT)
#: tables that the canaries cannot do without, and the one where resets are dropped
_NEEDED, _RESETS = ("filter", "nat"), "raw"


class BlindLab(LabError):
    """A canary was not seen as it must be. Nothing else that the lab saw is a measurement."""


class Canary(NamedTuple):
    """A packet, and where or as what it must be seen; ``seen`` is empty if it must be seen nowhere."""

    name: str
    shot: Shot
    seen: str


def _address(family: Family, number: int) -> int:
    parsed = parse_ip(f"{_NETWORK[family]}{number if family is Family.IPV4 else format(number, 'x')}")
    assert parsed is not None
    return parsed[1]


def guarded(ruleset: Ruleset, *, silent: bool = False) -> Ruleset:
    """The rules, with the guards in front of each base chain's own rules. A canary matches a guard before any other
    rule.

    Guards go into the tables that ``ruleset`` has and into those that the canaries need: tables of iptables, or one of
    nft beside rules that are all nft's. With ``silent`` one more guard drops the TCP resets that the node's kernel
    sends, other than those of rules for tracked packets. A caller that answers for processes which do not exist needs
    it: a reset would end their talk.
    """
    guards = _guards(ruleset.family, silent=silent)
    tables = ruleset.tables
    others = [key for key in tables if key not in guards.tables]
    for key in others:
        tables = tables.set(key, _passing(tables[key], ruleset.family))
    alone = len(others) == len(tables) > 0
    for key, table in guards.tables.items():
        if key in tables:
            tables = tables.set(key, _in_front(table, tables[key]))
        elif not alone and (key.name in _NEEDED or (silent and key.name == _RESETS)):
            tables = tables.set(key, table)
    if alone:
        own = _own_table(ruleset.family, silent=silent)
        tables = tables.set(own.key, own)
    return Ruleset(ruleset.family, tables, ruleset.made)


def tracking(ruleset: Ruleset) -> Ruleset:
    """The rules, and a table of guards if they have no NAT of their own.

    Linux tracks connections while some rule asks for it (K-1.5), and the guards do. Who runs rules without NAT beside
    this lab must know.
    """
    chains = (chain for table in ruleset.tables.values() for chain in table.base_chains())
    if any(chain.base is not None and chain.base.type is ChainType.NAT and chain.rules for chain in chains):
        return ruleset
    own = _own_table(ruleset.family, silent=False)
    return Ruleset(ruleset.family, ruleset.tables.set(own.key, own), ruleset.made)


def _passing(table: Table, family: Family) -> Table:
    """A table of which every base chain lets canaries pass, before all else."""
    network = Network(family, _address(family, 0), _PREFIX[family])
    of_family = (named(Field.NFPROTO, f"ipv{family.value}"),) if table.key.space is Space.INET else ()
    rules = tuple(_guard(*of_family, within(side, network), _ACCEPT) for side in (Field.SADDR, Field.DADDR))
    chains = table.chains
    for chain in table.base_chains():
        chains = chains.set(chain.name, Chain(chain.name, (*rules, *chain.rules), chain.base, chain.comment))
    return replace(table, chains=chains)


@cache
def _own_table(family: Family, *, silent: bool) -> Table:
    """A table of nft that does to canaries what must be done."""

    def towards(number: int) -> Compare:
        return equal(Field.DADDR, _address(family, number))

    forward = (_guard(towards(_REJECTED), Reject()), _guard(towards(_DROPPED), Terminal(Verdict.DROP)))
    udp = named(Field.L4PROTO, "udp")
    arriving = (_guard(towards(_TRANSLATED), udp, Dnat(_address(family, _ENDPOINT), _PORT)),)
    chains = [
        Chain("forward", forward, Base(ChainType.FILTER, Hook.FORWARD, 0)),
        Chain("arriving", arriving, Base(ChainType.NAT, Hook.PREROUTING, -100)),
    ]
    if silent:  # see _guards; a packet without socket has no user to compare
        reset, ack = TCP_FLAG_BITS["RST"], TCP_FLAG_BITS["ACK"]
        of_kernel = (
            named(Field.L4PROTO, "tcp"),
            Compare(Field.TCP_FLAGS, among(((reset, reset), (reset | ack, reset | ack)))),
            named(Field.CT_STATE, "INVALID"),
        )
        chains += [
            Chain("resets", (_guard(equal(Field.UID, 0), _ACCEPT), _guard(Terminal(Verdict.DROP)))),
            Chain("leaving", (_guard(*of_kernel, Goto("resets")),), Base(ChainType.FILTER, Hook.OUTPUT, -300)),
        ]
    return Table(TableKey(Space.of(family), "kpsim"), Map({chain.name: chain for chain in chains}))


def _guard(*body: Expression | Statement) -> Rule:
    return Rule(body, comment=GUARD_COMMENT)


def _in_front(guards: Table, table: Table) -> Table:
    chains = table.chains
    for guard in guards.ordered():
        if chain := chains.get(guard.name):
            chains = chains.set(chain.name, Chain(chain.name, (*guard.rules, *chain.rules), chain.base))
        else:
            chains = chains.set(guard.name, guard)
    return Table(table.key, chains)


@cache
def _guards(family: Family, *, silent: bool) -> Ruleset:
    """All guards, by table and chain. They are written here as iptables spells them; a tool loads them in its own
    language.
    """
    client, translated, rejected, dropped, pod, node, endpoint = (
        format_ip(family, _address(family, number))
        for number in (_CLIENT, _TRANSLATED, _REJECTED, _DROPPED, _POD, _NODE, _ENDPOINT)
    )  # fmt: skip
    network = f"{_NETWORK[family]}{'0' if family is Family.IPV4 else ''}/{_PREFIX[family]}"
    target = f"[{endpoint}]:{_PORT}" if family is Family.IPV6 else f"{endpoint}:{_PORT}"
    wanted = {
        "filter": [
            f"INPUT -d {node} -j ACCEPT",
            f"FORWARD -d {rejected} -j REJECT", f"FORWARD -d {dropped} -j DROP",
            f"FORWARD -d {endpoint} -j ACCEPT", f"FORWARD -s {endpoint} -j ACCEPT", f"FORWARD -d {pod} -j ACCEPT",
            f"OUTPUT -d {client} -j ACCEPT",
        ],
        "nat": [
            f"PREROUTING -d {translated} -p udp -j DNAT --to-destination {target}",
            f"PREROUTING -d {network} -j ACCEPT", f"POSTROUTING -d {network} -j ACCEPT", f"INPUT -d {network} -j ACCEPT",
        ],
    } | {
        name: [f"{chain} {side} {network} -j ACCEPT" for chain in chains for side in ("-s", "-d")]
        for name, chains in _CHAINS.items()
    }  # fmt: skip
    if silent:  # resets that the kernel itself sends have no user; they are dropped before connection tracking sees them. A user
        # namespace knows user 0 alone. The reset of a REJECT has the connection of what it refuses already (K-3.2)
        own = "-m conntrack --ctstate INVALID -m owner ! --uid-owner 0"
        wanted[_RESETS].insert(0, f"OUTPUT -p tcp --tcp-flags RST RST {own} -j DROP")
    lines = []
    for name, rules in wanted.items():
        lines += [f"*{name}", *(f'-A {rule} -m comment --comment "{GUARD_COMMENT}"' for rule in rules), "COMMIT"]
    return rules_from("\n".join([*lines, ""]), family)


class Canaries:
    """The canaries of one node. Each flock has its own source ports, so that each canary begins a connection.

    LabError if no link is up: then nothing can be sent into the node.
    """

    def __init__(self, node: LabNode) -> None:
        self._node = node
        self._port = 0
        routing, uplink = node.machine.routing, node.machine.uplink
        up = [each for each in routing.interfaces.values() if each.up]
        self._entrance = _entrance(up, uplink)
        outside = (_CLIENT, _REJECTED, _DROPPED, _TRANSLATED, _ENDPOINT)
        node.put_behind(self._entrance, *(_address(node.family, number) for number in outside))
        node.add_local(_address(node.family, _NODE))
        #: of the node besides its machine's; routes of this type change what Linux checks (K-7.3)
        self.local_route = Route(
            Network(node.family, _address(node.family, _NODE), node.family.bits), "lo", kind=RouteKind.LOCAL
        )
        self._has_pods = any(each.has_pods for each in up)
        if self._has_pods:
            node.put_behind(next(each.name for each in up if each.has_pods), _address(node.family, _POD))

    def flock(self) -> list[Canary]:
        """One canary of each kind, then the answer to the translated one. The answer comes last, and is always seen."""
        self._port = self._port % 50000 + 1
        found = [
            self._canary("rejected", _REJECTED, "unreachable"), self._canary("dropped", _DROPPED, ""),
            self._canary("delivered to the node", _NODE, Where.SOCKET),
        ]  # fmt: skip
        if self._has_pods:
            found.append(self._canary("delivered to a pod", _POD, Where.POD))
        translated = self._canary("translated", _TRANSLATED, Where.LINK)
        sent = translated.shot.packet
        answer = Packet(
            sent.family, "udp", _address(sent.family, _ENDPOINT), sent.saddr, _PORT, sent.sport, in_interface=self._entrance
        )  # fmt: skip
        return [*found, translated, Canary("the answer to the translated one", Shot(answer), "answer")]

    def _canary(self, name: str, number: int, seen: str) -> Canary:
        family = self._node.family
        packet = Packet(
            family, "udp", _address(family, _CLIENT), _address(family, number), 1024 + self._port, _PORT,
            in_interface=self._entrance,
        )  # fmt: skip
        return Canary(name, Shot(packet), seen)

    def check(self, flock: Sequence[Canary], heard: Sequence[Heard]) -> None:
        """BlindLab unless each canary was seen as it must be and nowhere else, and the translated one has its
        connection.
        """
        self.check_seen(flock, heard)
        *_, translated, answer = flock
        known = self._node.conntrack.get(tuple_of(translated.shot.packet))
        if known is None or not known.seen_reply or known.reply != tuple_of(answer.shot.packet):
            raise BlindLab(
                "the connection of a canary is not in the connection table as it must be: nothing that it says can be believed"
            )

    def check_seen(self, flock: Sequence[Canary], heard: Sequence[Heard]) -> None:
        """BlindLab unless each canary was seen as it must be. ``flock`` may be a part of one; connections are not
        looked at.
        """
        for canary, each in zip(flock, heard, strict=True):
            seen = {self._word(sighting) for sighting in each.sightings}
            if canary.seen == Where.SOCKET:
                seen.discard("unreachable")  # the port is closed, so the node also sends an ICMP error
            if seen != ({canary.seen} if canary.seen else set()):
                raise BlindLab(
                    f"the canary that must be {canary.name} was seen {' and '.join(sorted(seen)) or 'nowhere'}: "
                    "nothing that this lab sees can be believed"
                )

    def _word(self, sighting: Sighting) -> str:
        packet = sighting.packet
        if (packet.protocol, packet.icmp_type, packet.icmp_code) == ICMP_PORT_UNREACHABLE[packet.family]:
            return "unreachable"
        if sighting.where is not Where.LINK or packet.daddr == _address(packet.family, _ENDPOINT):
            return sighting.where
        answered = (packet.saddr, packet.daddr) == tuple(_address(packet.family, n) for n in (_TRANSLATED, _CLIENT))
        return "answer" if answered else "untranslated"


def _entrance(up: Sequence[Interface], uplink: str) -> str:
    links = [each.name for each in up if each.kind is InterfaceKind.LINK]
    if not links:
        raise LabError("no link of the node is up: nothing can be sent into it")
    return uplink if uplink in links else links[0]
