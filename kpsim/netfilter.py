"""A node's network namespace, the hook entries its packets pass, and the walk of one packet through them.

Counterpart: net/netfilter and the IP input, forward and output paths. The rules may come from kube-proxy or from any
other program: nothing here knows Services or endpoints.

======== ============ ======= ======== ============ ============
priority PREROUTING   INPUT   FORWARD  OUTPUT       POSTROUTING
======== ============ ======= ======== ============ ============
−300     raw                           raw
−200     conntrack                     conntrack
−150     mangle       mangle  mangle   mangle       mangle
−100     nat                           nat
−99, −98                               ip_vs
0                     filter  filter   filter
98, 99                ip_vs
99, 100                       ip_vs
100                   nat                           nat
150                   security security security
last                  confirm                       confirm
======== ============ ======= ======== ============ ============

iptables' tables stand where the picture shows them; other chains stand where their base says. If two entries have the
same priority, the one registered later runs first (K-9.1). security stands at 150, where iptables-nft registers it
(K-1.1).

``nat`` at −100 translates destinations, ``nat`` at 100 translates sources. As soon as a family has one chain of type
NAT, it is there in all four hooks. The priority of a NAT chain only orders it among the NAT chains of its hook
(K-9.7). ``ip_vs`` is there while a family has a virtual server (IPVS-10.1). The ways through the node::

    arriving   PREROUTING → routing ┬→ INPUT → socket
                                    └→ FORWARD → POSTROUTING → interface
    local      source address, routing → OUTPUT → routing again → POSTROUTING ┬→ interface
                                                                              └→ lo → PREROUTING → INPUT → socket
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.conntrack import Clash, ConntrackTable, Destroyed, Ending, Entry, FlowTuple
from kpsim.ipvs.connections import Connection, server_of
from kpsim.packet import Packet
from kpsim.packetpath import delivery, endpoints
from kpsim.packetpath.chooser import Chooser, ScriptedChooser, TooManyWays, explore
from kpsim.packetpath.facts import NodeFacts
from kpsim.packetpath.index import compiled
from kpsim.packetpath.memory import Memory, SetId
from kpsim.packetpath.memory.dynamic_sets import Member
from kpsim.packetpath.registration import HookEntry, ipvs_entries, named_chains, table_entries
from kpsim.packetpath.reject import TCP_RESET
from kpsim.packetpath.routing import OwnAddress, Routing
from kpsim.packetpath.steps import Ended, HookEntered
from kpsim.packetpath.traversal import NO_EFFECTS, Cause, Disposition, Effects, End, Traversal
from kpsim.packetpath.walks import Walk, agreed, undecided
from kpsim.packetpath.worlds import ONLY_WORLD, SameDraws, UnknownEnd, World, settled
from kpsim.programmed import Programmed
from kpsim.ruleset import (
    Expression,
    Field,
    Hook,
    Origin,
    Recent,
    Ruleset,
    Statement,
    UpdateSet,
)
from kpsim.sysctls import Sysctls

__all__ = [
    "Cause", "Committed", "Disposition", "Effects", "End", "Hook", "HookEntry", "Netns", "Walk", "expand", "walk",
]  # fmt: skip


class Committed(NamedTuple):
    """What happened when a walk's effects were committed."""

    ended: tuple[Destroyed, ...] = ()  #: connections
    clash: Clash | None = None  #: the packet's connection was not the first of its kind (K-6.8)


class Netns(NodeFacts):
    """One node's network namespace: the only object here that changes. A walk does not change it; ``commit`` does."""

    def __init__(self, name: str, routing: Routing, sysctls: Sysctls | None = None) -> None:
        super().__init__(name, routing, sysctls)
        self.programmed: dict[Family, Programmed] = {}  #: what each family was told last, by ``load``
        self._registered: dict[Family, tuple[HookEntry, ...]] = dict.fromkeys(Family, ())
        self._entries: dict[Family, dict[Hook, tuple[HookEntry, ...]]] = {}
        #: what is called at the hooks, in order, with the names of the base chains
        self.arrangement: dict[Family, tuple[object, ...]] = {}
        for family in Family:
            self._arrange(family)

    def fork(self, *, connections: bool = True, lists: bool = True) -> "Netns":
        """A namespace that is now the same. What is committed to one of the two does not change the other.

        Without ``connections`` its connection table is empty, without ``lists`` what else it remembers about packets.
        """
        other = Netns.__new__(Netns)
        other.__dict__.update(self.__dict__)
        other.conntrack = self.conntrack.copy() if connections else ConntrackTable()
        other.memory = self.memory.copy() if lists else Memory()
        other.memory.ipvs = self.memory.ipvs.copy(connections=connections, templates=lists)
        other.programmed, other._registered = dict(self.programmed), dict(self._registered)
        other._entries, other.ipsets, other.arrangement = dict(self._entries), dict(self.ipsets), dict(self.arrangement)
        return other

    @property
    def rulesets(self) -> Mapping[Family, Ruleset]:
        """The rules in force, by family; a family that was never told anything is missing."""
        return {family: told.ruleset for family, told in self.programmed.items()}

    def load(self, programmed: Programmed) -> tuple[Destroyed, ...]:
        """Replaces what the kernel was told for one family. Returns the connections that end with it.

        Connections and affinity lists stay, except lists that no rule uses any longer (K-4.2), and connections of real
        servers that are deleted (IPVS-13.2).
        """
        family = programmed.family
        before = self.programmed.get(family, Programmed.nothing(family))
        self.version = object()
        self.programmed[family] = programmed
        self.ipsets[family] = programmed.ipsets
        self._arrange(family)
        if programmed.local_addresses != before.local_addresses:
            self.routing = self.routing.with_local({of: told.local_addresses for of, told in self.programmed.items()})
        self.memory.retain(
            lambda: (name for rules in self.rulesets.values() for name in _recent_lists(rules)), self._generation
        )
        unserved = self.memory.ipvs.retain(
            family, before.virtual_servers, programmed.virtual_servers,
            expires_connections=self.sysctls.vs_expire_nodest_conn,
        )  # fmt: skip
        tracked = (self.conntrack.delete_served(_original(each)) for each in unserved if each.tracked)
        return tuple(Destroyed(entry, Ending.SERVER_GONE) for entry in tracked if entry is not None)

    def recall(self, family: Family, now_ns: int) -> None:
        """Gives the sets of a family the members that a listing showed, as if it had been made at ``now_ns``."""
        self.start_timers(family, now_ns)
        for key, table in self.programmed[family].ruleset.tables.items():
            for declared in table.sets.values():
                at = SetId(key, declared.name)
                for member, left_ns in declared.members:
                    expires_ns = None if left_ns is None else now_ns + left_ns
                    self.memory.sets.put(at, declared.generation, member, Member(expires_ns))

    def start_timers(self, family: Family, now_ns: int) -> None:
        """Lets the elements of a family's ipsets expire, each after the time that it had left at ``now_ns``."""
        for name, ipset in self.programmed[family].ipsets.items():
            for each, element in ipset.elements.items() if ipset.remembers else ():
                if element.timeout_ns is not None:
                    left = Member(now_ns + element.timeout_ns)
                    self.memory.sets.put(SetId(None, name), ipset.generation, each, left)

    def _generation(self, at: SetId) -> int | None:
        """The generation of a set that the rules have; None: there is no such set."""
        if at.table is None:
            held = next((told.ipsets[at.name] for told in self.programmed.values() if at.name in told.ipsets), None)
            return None if held is None else held.generation
        tables = [rules.tables[at.table] for rules in self.rulesets.values() if at.table in rules.tables]
        declared = next((table.sets[at.name] for table in tables if at.name in table.sets), None)
        return None if declared is None else declared.generation

    def remembers(self, origin: Origin, family: Family, source: int) -> bool:
        """Whether rules that exist for this reason have put a source address into a list or a set, and it is there.

        The same is asked of the real servers of persistent virtual servers, which remember their clients.
        """
        return any(
            self._keeps(told.ruleset, part, family, source)
            for told in self.programmed.values()
            for rule in told.rules_of(origin)
            for part in rule.body
        ) or any(self._has_template(told, origin, family, source) for told in self.programmed.values())

    def _has_template(self, told: Programmed, origin: Origin, family: Family, source: int) -> bool:
        """Whether ip_vs remembers a source as a client of a real server that exists for this reason."""
        for each in self.memory.ipvs if told.virtual_servers and told.family is family else ():
            server = server_of(each, told.virtual_servers) if each.key.template and each.key.family is family else None
            if server is not None and server.origin == origin:
                netmask = told.virtual_servers[each.key.virtual_server].netmask
                if each.key.client[0] == source & family.mask(netmask):
                    return True
        return False

    def _keeps(self, rules: Ruleset, part: Expression | Statement, family: Family, source: int) -> bool:
        if isinstance(part, Recent):
            return (family, source) in self.memory.recent[part.name]
        if not isinstance(part, UpdateSet) or part.key != (Field.SADDR,) or family is not rules.family:
            return False
        kept = ((key, table.sets.get(part.set.name)) for key, table in rules.tables.items())
        return any(
            (source,) in self.memory.sets.members(SetId(key, declared.name), declared.generation)
            for key, declared in kept
            if declared is not None
        )

    def load_rules(self, ruleset: Ruleset) -> None:
        """Replaces only the rules of their family, as a tool that loads rules does.

        What else the kernel was told stays.
        """
        told = self.programmed.get(ruleset.family, Programmed.nothing(ruleset.family))
        self.load(replace(told, ruleset=ruleset))

    def register(self, family: Family, entry: HookEntry) -> None:
        """Adds a hook function that belongs to no table, as ip_vs does."""
        self._registered[family] = (*self._registered[family], entry)
        self._arrange(family)

    def is_plain(self) -> bool:
        """Whether packets meet nothing but rules and plain routes: no connection, no policy, and nobody watches them."""
        bare = not self.routing.rules and not any(told.virtual_servers for told in self.programmed.values())
        return bare and not len(self.conntrack) and not any(self._registered.values()) and self.ready is compiled

    def entries(self, family: Family, hook: Hook) -> tuple[HookEntry, ...]:
        """The entries that a packet passes at a hook, in order."""
        return self._entries[family][hook]

    def pass_hook(self, traversal: Traversal, hook: Hook) -> End | None:
        """Calls the entries of a hook in order until one ends the packet's way. Returns None if the packet goes on."""
        traversal.hook = hook
        steps = traversal.steps
        for entry in self._entries[traversal.family][hook]:
            if steps is not None:
                steps.append(HookEntered(hook, entry.name))
            end = entry.run(traversal)
            if end is not None:
                return end
        return None

    def _arrange(self, family: Family) -> None:
        told = self.programmed.get(family)
        own: list[HookEntry] = []
        if told is not None:
            tracked = self.sysctls.vs_conntrack and bool(told.virtual_servers)  # IPVS-10.6
            own = [*table_entries(told.ruleset, tracked=tracked), *ipvs_entries(told)]
        entries = [*own, *self._registered[family]]
        newest_first = entries[::-1]
        ordered = sorted(newest_first, key=lambda entry: entry.priority)
        self._entries[family] = {hook: tuple(entry for entry in ordered if entry.hook is hook) for hook in Hook}
        self.arrangement[family] = tuple((e.hook, e.priority, e.name, *named_chains(e)) for e in ordered)

    def commit(self, effects: Effects, now_ns: int) -> Committed:
        """Applies a walk's effects. Returns the connections that ended, and a clash if there was one.

        If several packets were walked before the first of them was committed, and two begin the same connection, they
        clash, as on two processors (K-6.8). If the ``clash`` is LOST, the walk's result does not hold: the packet is
        dropped.
        """
        self.version = object()
        delete = self.conntrack.delete
        ended = tuple(gone for gone in effects.destroyed if delete(gone.entry.original, gone.entry.reply))
        if effects.updated is not None:
            self.conntrack.update(effects.updated)
        clash = self.conntrack.confirm(effects.created, now_ns) if effects.created is not None else None
        self.conntrack.turned_away += effects.turned_away
        self.memory.commit(effects.touched, now_ns)
        return Committed(ended, clash)

    def admit(self, entry: Entry, earliest_end_ns: int) -> None:
        """Takes in a connection whose packets are known to pass as others did (``ConntrackTable.admit``)."""
        self.version = object()
        self.conntrack.admit(entry, earliest_end_ns)

    def collect(self, now_ns: int) -> tuple[Destroyed, ...]:
        """Runs a round of the connection table's collector (CT-3.9, CT-7.4). Returns the entries that it removed."""
        self.version = object()
        self.memory.ipvs.expire(now_ns)
        return self.conntrack.collect(now_ns, self.sysctls)

    def interface_down(self, name: str) -> tuple[Destroyed, ...]:
        """Takes an interface down: its routes and the connections masqueraded by it end (K-1.9).

        Returns those connections. KeyError if there is no such interface.
        """
        self.version = object()
        self.routing = self.routing.without(name)
        return self.conntrack.interface_down(name)

    def address_removed(self, name: str, address: OwnAddress) -> tuple[Destroyed, ...]:
        """Removes an address from an interface. The connections masqueraded to the address end (K-1.9).

        Returns those connections. KeyError if there is no such interface.
        """
        self.version = object()
        self.routing = self.routing.without_address(name, address)
        return self.conntrack.address_removed(name, address.family, address.value)


def _original(connection: Connection) -> FlowTuple:
    """The tuple by which connection tracking knows a connection of ip_vs."""
    key = connection.key
    return FlowTuple(key.family, key.protocol, *key.client, *key.virtual)


def _recent_lists(ruleset: Ruleset) -> Iterable[str]:
    for table in ruleset.tables.values():
        for chain in table.chains.values():
            yield from compiled(chain).recent_lists


# --- the walk of a packet ---------------------------------------------------------------------------------------------


def walk(
    netns: Netns,
    packet: Packet,
    *,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    trace: bool = True,
    indexed: bool = True,
) -> Walk:
    """Follows one packet through one node and changes nothing. To apply what it did, commit the walk's ``effects``.

    With ``local`` a process of the node makes the packet; if its source address is 0, the kernel chooses one (K-2.1).
    Otherwise the packet arrives by ``packet.in_interface``; if that is empty, by the interface that leads back to its
    source. ``indexed=False`` tries every rule instead of those that the index finds.
    """
    if isinstance(chooser, ScriptedChooser) and chooser.ways is not None:
        return _walk(netns, packet.copy(), now_ns, chooser, ONLY_WORLD, local=local, trace=trace, indexed=indexed)
    draws = SameDraws(chooser)

    def once(world: World) -> Walk:
        return _walk(netns, packet.copy(), now_ns, draws, world, local=local, trace=trace, indexed=indexed)

    return settled(once, agreed, undecided)


def _walk(
    netns: Netns,
    packet: Packet,
    now_ns: int,
    chooser: Chooser,
    world: World,
    *,
    local: bool,
    trace: bool,
    indexed: bool,
) -> Walk:
    """Follows one packet in one of the worlds that the rules leave possible."""
    traversal = Traversal(netns, packet, now_ns, chooser, local=local, trace=trace, indexed=indexed, world=world)
    unknown = ""
    try:
        end = delivery.send(traversal, netns.pass_hook) if local else delivery.arrive(traversal, netns.pass_hook)
    except UnknownEnd as reached:
        end, unknown = End(Disposition.UNKNOWN, Cause.UNKNOWN_RULE), str(reached)
    answer = None
    if end.disposition is Disposition.REJECTED:
        end, answer = delivery.answered(traversal, end)
        if answer is not None:
            if end.with_ == TCP_RESET:
                traversal.close_connection()
            try:
                answer, end = _let_out(netns, traversal, answer, end)
            except UnknownEnd as reached:
                answer, end, unknown = None, End(Disposition.UNKNOWN, Cause.UNKNOWN_RULE), str(reached)
    if traversal.steps is not None:
        traversal.steps.append(Ended(end.disposition, end.cause or ""))
    leaves = traversal.decision if end.disposition is Disposition.FORWARDED else None
    return Walk(
        disposition=end.disposition,
        packet=packet,
        effects=NO_EFFECTS if unknown else traversal.effects(),
        trace=tuple(traversal.steps or ()),
        came_by=traversal.arrived.in_interface,
        cause=end.cause,
        rule=end.rule,
        with_=end.with_,
        answer=answer,
        local_error=end.local_error if local else "",
        next_hop=leaves.next_hop if leaves else None,
        ct_state=traversal.ct_state,
        entry=traversal.entry,
        dnat_rule=traversal.dnat_rule,
        snat_rule=traversal.snat_rule,
        server=traversal.server,
        served=traversal.served,
        source_ports=traversal.ports_drawn,
        unknown=unknown,
    )


def _let_out(netns: Netns, rejected: Traversal, answer: Packet, end: End) -> tuple[Packet | None, End]:
    """Sends the answer to a rejected packet out of the node, with the connection of that packet.

    Rules may change or drop it, and what they remember counts (K-3.2).

    Returns the answer, or None if it was dropped, and how the rejected packet ended.
    """
    if delivery.is_reset_past_the_hooks(rejected, end):
        return answer, end
    traversal = rejected.answering(answer.copy())
    # a reset has no socket, an ICMP error has the kernel's (K-20.1)
    traversal.socket = None if answer.protocol == "tcp" else "kernel"
    answered = delivery.send(traversal, netns.pass_hook)
    rejected.takes_over(traversal)
    if answered.disposition not in (Disposition.FORWARDED, Disposition.DELIVERED):
        told_at_once = rejected.packet.in_interface == ""  # by the system call, in OUTPUT
        return None, end if told_at_once else End(Disposition.DROPPED, Cause.ANSWER_DROPPED, end.rule)
    out = traversal.packet
    out.in_interface, out.out_interface, out.mark = "", "", 0
    return out, end


def expand(
    netns: Netns,
    packet: Packet,
    *,
    now_ns: int,
    local: bool = False,
    trace: bool = False,
    indexed: bool = True,
    as_written: bool = False,
    limit: int | None = None,
    merge: bool = True,
) -> list[tuple[Fraction, Walk]]:
    """Every outcome of a packet with its exact probability, in the order of the rules. The probabilities sum to 1.

    ``as_written``: probabilities printed as 1/k count as exactly 1/k, not as the kernel's threshold / 2³¹ (K-5). Source
    ports that the kernel draws are not enumerated; ``Walk.source_port_drawn`` says that one was drawn.

    Ways through the rules that lead to the same state are one outcome, which the first of them stands for;
    ``merge=False`` keeps them apart. TooManyWays (an InputError that names the chains) after ``limit`` ways.
    """

    def once(chooser: Chooser, trace: bool = trace) -> Walk:
        return walk(netns, packet, now_ns=now_ns, chooser=chooser, local=local, trace=trace, indexed=indexed)

    found = None
    if merge and limit is None:
        told = netns.programmed.get(packet.family)
        by_kinds = None if trace or not indexed or told is None or not netns.is_plain() else told.ruleset
        found = _ways_apart(once, netns, by_kinds, as_written=as_written)
    return list(explore(once, as_written=as_written, limit=limit, merge=merge)) if found is None else found


_FEW_WAYS = 64  #: so many are followed faster one by one than with copies of every state where they part


def _ways_apart(
    once: Callable[..., Walk], netns: Netns, by_kinds: Ruleset | None, *, as_written: bool
) -> list[tuple[Fraction, Walk]] | None:
    """Every outcome, if there are few or few kinds, and no two ways have met in one state. None: there may be other ways to tell.

    Ways that had met would have gone on alike, to one translation. So if each ends with its own, none have.
    """
    found: list[tuple[Fraction, Walk]] = []
    translations = set[Hashable]()
    chooser = ScriptedChooser()

    def noted(now: ScriptedChooser) -> Walk:
        nonlocal chooser
        chooser = now
        return once(now)

    try:
        for weight, way in explore(noted, as_written=as_written, limit=_FEW_WAYS, brief=True):
            if not found and by_kinds is not None:
                of_all = endpoints.composed(way, chooser, netns, by_kinds, once, as_written=as_written)
                if of_all is not None:
                    return of_all
            if way.translation in translations:
                return None
            translations.add(way.translation)
            found.append((weight, way))
    except TooManyWays:
        return None
    return found
