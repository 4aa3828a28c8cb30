"""Outcomes of a packet that draws one of many endpoints: one of each kind is followed, and stands for the others.

kube-proxy's rules draw an endpoint in one chain, and every way from there ends in a rule that translates to that endpoint.
Two endpoints are of one kind if nothing tells them apart:

- the rules between the draw and the translation are the same but for the endpoint's own address and port;
- routes lead to both by the same interface, with the same largest packet, and neither is the client or the node;
- no chain behind the translation asks anything that one address answers otherwise than the other (``asked``).

A walk to one is then a walk to the other, with the other's address, port, next hop and rule. What this module does not
cover is followed: connections that are known (they may have a tuple or a port), rejections and their answers, what is
remembered by other means than connection tracking, policy rules, ip_vs, more than one draw.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from kpsim.packet import PORT_PROTOCOLS
from kpsim.packetpath.asked import AskedSet, Likeness, asked
from kpsim.packetpath.chooser import ScriptedChooser, branches
from kpsim.packetpath.elements import Atoms, Find, find, finder
from kpsim.packetpath.facts import NodeFacts
from kpsim.packetpath.index import compiled
from kpsim.packetpath.routing import AddressType, RouteKind
from kpsim.packetpath.steps import ChainEntered, Chosen, Drawn, MayMatch, RuleMatched, Step, Supposed
from kpsim.packetpath.traversal import Disposition, Effects
from kpsim.packetpath.walks import Walk
from kpsim.ruleset import (
    NO_FLAGS,
    Assign,
    Chain,
    Chance,
    Compare,
    Dnat,
    ElementReference,
    Expression,
    Field,
    Goto,
    Jump,
    Mapped,
    Numgen,
    RuleReference,
    Ruleset,
    Set,
    Source,
    Statement,
    Table,
    Terminal,
)

Follow = Callable[[ScriptedChooser, bool], Walk]  #: walks by a script, with or without a trace
Outcomes = list[tuple[Fraction, Walk]]

_FEW, _MOST = 4, 1000  #: endpoints: fewer are followed as fast, and the digits of more odds cost more than the walks
#: tracing a walk takes twice as long: after so many, endpoints that are like no other are just followed
_TRACED = 4


class Endpoint(NamedTuple):
    """One way through a chain that draws: ``script`` leads to it."""

    weight: Fraction
    script: tuple[int, ...]
    address: int
    port: int
    at: RuleReference  #: the rule that translates to it
    shape: int  #: equal if the rules from the draw to the translation are the same but for the endpoint itself


class _Fan(NamedTuple):
    """What is kept of a chain that draws; ``leaves`` are the chains that it jumps to, as they were."""

    leaves: tuple[Chain, ...]
    endpoints: tuple[Endpoint, ...]


class _NoFan(Exception):
    """A chain does something else than to draw an endpoint."""


def composed(
    first: Walk, chooser: ScriptedChooser, node: NodeFacts, ruleset: Ruleset, follow: Follow, *, as_written: bool
) -> Outcomes | None:
    """Every outcome of a packet whose first one is known, in the order of the rules. None: they must be followed.

    ``chooser`` decided the draws of ``first``. The node knows no connections, and its routing has no policy rules.
    """
    if len(chooser.taken) != 1 or chooser.weight * _FEW > 1 or first.dnat_rule is None:
        return None
    script = tuple(chooser.taken)
    traced = follow(ScriptedChooser(script, as_written=as_written), True)
    endpoints = _drawn_from(traced.trace, ruleset, as_written=as_written)
    if not 0 < len(endpoints) <= _MOST or endpoints[0][:2] != (chooser.weight, script):
        return None
    kinds = _Kinds(node, ruleset, first)
    if (kind := kinds.kind(endpoints[0])) is not None:
        kinds.learn(endpoints[0], kind, traced)
    found = [(endpoints[0].weight, first)]
    for endpoint in endpoints[1:]:
        kind = kinds.kind(endpoint)
        walk = None if kind is None else kinds.walk_to(endpoint, kind)
        if walk is None:
            draws, traces = ScriptedChooser(endpoint.script, as_written=as_written), kind is not None and kinds.learns
            walk = follow(draws, traces)
            if tuple(draws.taken) != endpoint.script or draws.weight != endpoint.weight or _is_supposed(walk.trace):
                return None  # another rule draws, too, or is not modelled
            if kind is not None and traces:
                kinds.learn(endpoint, kind, walk)
                walk = walk.untraced()
        found.append((endpoint.weight, walk))
    return found if len({walk.translation for _, walk in found}) == len(found) else None  # ways that meet go on as one


def _goes_on(walk: Walk) -> bool:
    """Whether a walk only begins a translated connection and goes on to another machine."""
    entry = walk.entry
    return (
        walk.disposition is Disposition.FORWARDED
        and walk.packet.protocol in PORT_PROTOCOLS
        and entry is not None
        and entry.dst_nat
        and walk.effects == Effects(entry)
        and walk.server is None
        and not walk.unknown
    )


def _is_supposed(steps: Sequence[Step]) -> bool:
    """Whether a walk met what is not modelled: it then was followed in several worlds, whose traces may differ."""
    return any(isinstance(step, Supposed | MayMatch) for step in steps)


# --- which endpoints a chain draws ------------------------------------------------------------------------------------


def _drawn_from(steps: Sequence[Step], ruleset: Ruleset, *, as_written: bool) -> tuple[Endpoint, ...]:
    """The endpoints among which the only draw of a walk decided; none if it decided something else."""
    places = [place for place, step in enumerate(steps) if isinstance(step, Chosen | Drawn)]
    asked_by = steps[places[0] + 1] if len(places) == 1 else None
    if not isinstance(asked_by, RuleMatched) or _is_supposed(steps):
        return ()
    at = asked_by.at
    table = ruleset.tables[at.table]
    return _endpoints_of(table, table.chains[at.chain], at.number, as_written=as_written)


def _endpoints_of(table: Table, chain: Chain, number: int, *, as_written: bool) -> tuple[Endpoint, ...]:
    """The endpoints that the rules of a chain draw from this one on, in their order; none if they do anything else."""
    known, key = compiled(chain).known, ("endpoints", table.key, number, as_written)
    fan: _Fan | None = known.get(key)
    if fan is None or any(table.chains.get(leaf.name) is not leaf for leaf in fan.leaves):
        try:
            fan = _from_map(table, chain, number) or _from_chances(table, chain, number, as_written=as_written)
        except _NoFan:
            fan = _Fan((), ())
        known[key] = fan
    return fan.endpoints


def _from_map(table: Table, chain: Chain, number: int) -> _Fan | None:
    """A rule that draws the number of an element of its own map (NFT-5); None: it is no such rule."""
    rule = chain.rules[number - 1]
    match rule.target:
        case Dnat(None, None, flags, Mapped((Numgen(random=True) as drawn,), Set() as of, address=True, port=True)):
            if flags != NO_FLAGS or sum(isinstance(part, Statement) for part in rule.body) > 1:
                raise _NoFan
        case _:
            return None
    endpoints = []
    for place in range(drawn.modulus):
        element = find(of, (drawn.offset + place,))
        match element and element[1].value:
            case (int() as address, int() as port) if element is not None:
                at = RuleReference(table.key, chain.name, number, rule, ElementReference(of.name, *element))
                endpoints.append(Endpoint(Fraction(1, drawn.modulus), (place,), address, port, at, 0))
            case _:
                raise _NoFan
    return _Fan((), tuple(endpoints))


def _from_chances(table: Table, chain: Chain, number: int, *, as_written: bool) -> _Fan:
    """Rules each of which draws whether the packet goes to a chain; the last one takes what is left (I-8.2)."""
    leaves, endpoints, shapes = [], [], dict[Hashable, int]()
    left, script = Fraction(1), tuple[int, ...]()
    for place, rule in enumerate(chain.rules[number - 1 :], number):
        last = place == len(chain.rules)
        match rule.body:
            case (Chance(threshold), Jump(name) | Goto(name)) if not last:
                taken, other = branches(threshold, as_written)
            case (Jump(name) | Goto(name),) if last:
                taken, other = Fraction(1), Fraction(0)
            case _:
                raise _NoFan
        leaf = table.chains.get(name)
        if leaf is None:
            raise _NoFan
        leaves.append(leaf)
        if weight := left * taken:
            address, port, at, shape = _translation(table, leaf)
            way = script if last else (*script, 0)
            endpoints.append(Endpoint(weight, way, address, port, at, shapes.setdefault(shape, len(shapes))))
        left *= other
        script = (*script, 1)
        if not left:
            break
    if left:
        raise _NoFan
    return _Fan(tuple(leaves), tuple(endpoints))


def _translation(table: Table, leaf: Chain) -> tuple[int, int, RuleReference, Hashable]:
    """Where a chain translates to, the rule that does, and what its rules up to that one are without the endpoint."""
    for number, rule in enumerate(leaf.rules, 1):
        match rule.target:
            case Dnat(int() as address, int() as port, flags, None, None, None) if flags == NO_FLAGS:
                shape = tuple(tuple(_without(part, address) for part in each.body) for each in leaf.rules[:number])
                return address, port, RuleReference(table.key, leaf.name, number, rule), shape
            case _:
                pass
    raise _NoFan


def _without(part: Expression | Statement, address: int) -> Hashable:
    """A part of an endpoint's rules with a hole in place of the endpoint."""
    match part:
        case Compare(Field.SADDR, among, negate, None) if among == ((address, address),):
            return "comes from itself", negate
        case Dnat():
            return "goes there"
        case Compare() | Jump() | Goto() | Assign() | Terminal():
            return part
        case _:
            raise _NoFan


# --- what tells endpoints apart ---------------------------------------------------------------------------------------


class _Lookup(NamedTuple):
    """A look-up of a set by keys that hold the destination at ``place``: one key for each source that a packet may have."""

    find: Find
    place: int
    keys: tuple[Atoms, ...]

    def may_find(self, address: int) -> bool:
        """Whether the set may have an element for packets to an address."""
        place = self.place
        return any(self.find((*key[:place], address, *key[place + 1 :])) is not None for key in self.keys)


class _Followed(NamedTuple):
    """A walk that stands for others, and what the chains behind the translation asked about its destination."""

    walk: Walk
    likeness: tuple[Likeness, ...]
    groups: tuple[Hashable, ...]  #: of the endpoint itself
    lookups: tuple[_Lookup, ...]


class _Kind(NamedTuple):
    """A kind of endpoint but for what chains ask, and the next hop of one of them."""

    group: Hashable
    next_hop: int


class _Kinds:
    """The kinds of endpoints of one packet, as far as they are known."""

    def __init__(self, node: NodeFacts, ruleset: Ruleset, first: Walk) -> None:
        assert first.entry is not None
        self._routing = node.routing
        self._ruleset = ruleset
        self._original = first.entry.original
        self._followed: dict[Hashable, list[_Followed]] = {}
        self._traced = 0

    @property
    def learns(self) -> bool:
        """Whether a traced walk may still help."""
        return self._traced < _TRACED

    def kind(self, endpoint: Endpoint) -> _Kind | None:
        """What endpoints of one kind have in common but for what chains ask. None: this one is to be followed."""
        family, _, source, _, destination, _ = self._original
        address, routing = endpoint.address, self._routing
        if address in (source, destination) or routing.address_type(family, address) is not AddressType.UNICAST:
            return None
        decision = routing.lookup(family, address)
        if decision is None or decision.kind is not RouteKind.UNICAST or decision.next_hop == source:
            return None
        return _Kind(
            (endpoint.shape, endpoint.port, decision.interface, routing.route_mtu(decision)), decision.next_hop
        )

    def walk_to(self, endpoint: Endpoint, kind: _Kind) -> Walk | None:
        """The walk to an endpoint, if one to another of its kind is known."""
        for followed in self._followed.get(kind.group, ()):
            if self._is_alike(endpoint, kind.next_hop, followed):
                return followed.walk.towards(endpoint.address, endpoint.port, kind.next_hop, endpoint.at)
        return None

    def _is_alike(self, endpoint: Endpoint, next_hop: int, followed: _Followed) -> bool:
        walk, address = followed.walk, endpoint.address
        for likeness, group in zip(followed.likeness, followed.groups, strict=True):
            if likeness.group(address) != group:
                return False
        for lookup in followed.lookups:
            if lookup.may_find(address):
                return False
        device = "" if walk.entry is None else walk.entry.masquerade_device
        if not device:
            return True
        borrowed = self._routing.masquerade_address(walk.packet.family, device, next_hop, address)
        return borrowed == walk.packet.saddr

    def learn(self, endpoint: Endpoint, kind: _Kind, walk: Walk) -> None:
        """Keeps a traced walk to an endpoint, if it can stand for others."""
        self._traced += 1
        if not _goes_on(walk) or walk.dnat_rule != endpoint.at:
            return
        if (walk.packet.daddr, walk.packet.dport) != (endpoint.address, endpoint.port):
            return
        likeness, lookups = list[Likeness](), list[_Lookup]()
        for table, chain in self._behind(walk.trace, endpoint.at):
            of_chain = _likeness(chain)
            found = asked(chain, of_source=False)
            if of_chain is None or found is None:
                return
            if found.addresses:
                likeness.append(of_chain)
            for each in found.sets:
                if each.place >= 0:
                    lookup = self._lookup(each, table, walk)
                    if lookup is None or lookup.may_find(endpoint.address):
                        return
                    lookups.append(lookup)
        groups = tuple(each.group(endpoint.address) for each in likeness)
        self._followed.setdefault(kind.group, []).append(
            _Followed(walk.untraced(), tuple(likeness), groups, tuple(lookups))
        )

    def _behind(self, steps: Sequence[Step], at: RuleReference) -> Iterator[tuple[Table, Chain]]:
        """The chains that a packet entered after its translation."""
        translated = False
        for step in steps:
            if isinstance(step, RuleMatched) and step.at == at:
                translated = True
            elif translated and isinstance(step, ChainEntered):
                table = self._ruleset.tables[step.table]
                yield table, table.chains[step.chain]

    def _lookup(self, asked_set: AskedSet, table: Table, walk: Walk) -> _Lookup | None:
        """The look-up of a set, for packets with the source before or after SNAT. None: the key may hold other things."""
        of, (_, protocol, source, _, _, _) = table.sets.get(asked_set.name), self._original
        values: dict[Source, Atoms] = {
            Field.DADDR: (walk.packet.daddr,), Field.DPORT: (walk.packet.dport,), Field.L4PROTO: (protocol,),
            Field.SADDR: (source,) if walk.packet.saddr == source else (source, walk.packet.saddr),
        }  # fmt: skip
        if of is None or of.remembers or any(each not in values for each in asked_set.key):
            return None
        return _Lookup(finder(of), asked_set.place, tuple(product(*[values[each] for each in asked_set.key])))


def _likeness(chain: Chain) -> Likeness | None:
    """Which destinations a chain's comparisons do not tell apart. None: that cannot be said."""
    known = compiled(chain).known
    if "destinations" not in known:
        found = asked(chain, of_source=False)
        known["destinations"] = None if found is None else Likeness()
        for test in () if found is None else sorted(found.addresses):
            known["destinations"].ask(test)
    made: Likeness | None = known["destinations"]
    return made
