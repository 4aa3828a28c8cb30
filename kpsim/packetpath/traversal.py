"""One packet on its way through one network namespace: what is known about it so far, and what it will have caused.

Counterpart: the sk_buff with its nfct and dst. A traversal reads the namespace and never changes it; it collects
changes as :class:`Effects`. The hooks decide what happens to the packet.
"""

import enum
from collections.abc import Hashable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from kpsim.addresses import Family
from kpsim.conntrack import Destroyed, Ending, Entry, FlowTuple
from kpsim.errors import InputError, Problem
from kpsim.flowstate import Direction, FlowState
from kpsim.ipvs.connections import Connection
from kpsim.ipvs.connections import Touch as IpvsTouch
from kpsim.ipvs.servers import ServerReference
from kpsim.maps import Map
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath import limits
from kpsim.packetpath.chooser import Chooser
from kpsim.packetpath.copies import copied, frozen
from kpsim.packetpath.elements import Atoms, find, fitting
from kpsim.packetpath.facts import NodeFacts
from kpsim.packetpath.hashing import hashed
from kpsim.packetpath.memory import NOTHING_TOUCHED, Bucket, IcmpSpending, RecentTouch, SetId, SetTouch, Touched
from kpsim.packetpath.memory.dynamic_sets import Member, collected_ns, known, touched
from kpsim.packetpath.memory.recent import RecentList
from kpsim.packetpath.routing import AddressType, Decision, Question, type_at
from kpsim.packetpath.sockets import Socket
from kpsim.packetpath.steps import (
    Chosen,
    ConntrackChanged,
    Counted,
    Drawn,
    FieldChanged,
    FieldName,
    Moment,
    Remembered,
    SetAsked,
    SetTold,
    Step,
    Supposed,
    Tracking,
    Value,
)
from kpsim.packetpath.worlds import UnknownEnd, World
from kpsim.ruleset import (
    Chance,
    ElementReference,
    Field,
    Hashed,
    Hook,
    Key,
    Limit,
    Numgen,
    Quota,
    Recent,
    Rule,
    RuleReference,
    Set,
    SetReference,
    SetVerb,
    TableKey,
    UpdateSet,
)
from kpsim.valueclass import dataclass


class Disposition(enum.StrEnum):
    """What became of the packet on this node."""

    DELIVERED = "delivered"  #: to a socket of this node
    FORWARDED = "forwarded"  #: left through an interface
    REJECTED = "rejected"  #: the sender is told
    DROPPED = "dropped"
    STOLEN = "stolen"  #: a hook took it over and nothing more is known here
    UNKNOWN = "unknown"  #: a rule was reached that is not modelled


class Cause(enum.StrEnum):
    """Why a packet was rejected or dropped; every drop has one."""

    RULE = "rule"
    POLICY = "chain policy"
    MARTIAN_SOURCE = "martian source"  #: K-7.2, K-7.3
    MARTIAN_DESTINATION = "martian destination"
    REVERSE_PATH = "reverse path filter"
    GROUP = "a group that the node has not joined"  #: K-7.8
    NO_ROUTE = "no route"
    BLACKHOLE = "blackhole route"
    UNREACHABLE = "unreachable route"
    PROHIBIT = "prohibit route"
    TTL = "time to live exceeded"
    TOO_BIG = "too big for the route"  #: and must not be divided (K-7.10)
    NO_ADDRESS = "no address to masquerade with"  #: CT-6.2
    TABLE_FULL = "connection table full"  #: CT-7.2
    TUPLE_TAKEN = "no free source port"  #: CT-6.3
    HAIRPIN = "the bridge sends nothing back by the port it came from"  #: K-2.6
    DEVICE_CHANGED = "masqueraded to another output device"  #: K-1.6
    ICMP_RATE = "rejected, but the answer is rate limited"  #: K-3.4
    UNANSWERABLE = "rejected, but no answer is allowed"  #: K-3.3
    ANSWER_DROPPED = "rejected, but the answer was dropped on its way out"
    NO_REAL_SERVER = "no real server takes the connection"  #: IPVS-11.5
    SERVER_GONE = "its real server was deleted"  #: IPVS-13.3
    NOT_RESCHEDULED = "ip_vs ends the connection whose port it reuses, and waits for the next try"  #: IPVS-11.6
    UNKNOWN_RULE = "rule not modelled"


@dataclass(frozen=True, slots=True)
class End:
    """How a packet's way ended: the decision of a hook, of routing or of delivery."""

    disposition: Disposition
    cause: Cause | None = None
    rule: RuleReference | None = None
    with_: str | None = None  #: of REJECTED: the answer's name
    local_error: str = ""  #: what a local sender's system call returns
    tells: bool = False  #: a local sender gets the answer too, not only the error
    resumes: bool = False  #: of STOLEN: the hook rewrote the packet and sends it on through OUTPUT
    server: ServerReference | None = None  #: the virtual server that rejected or dropped


@dataclass(frozen=True, slots=True)
class Effects:
    """What a walk asks the namespace to remember. Nothing changes until the effects are committed."""

    created: Entry | None = None
    updated: Entry | None = None
    destroyed: tuple[Destroyed, ...] = ()
    touched: Touched = NOTHING_TOUCHED
    turned_away: bool = False  #: the connection table had no room: its collector will know (CT-7.4)


NO_EFFECTS = Effects()


_FRAMES = {AddressType.BROADCAST: "broadcast", AddressType.MULTICAST: "multicast"}
_ECHO_REQUESTS = (8, 128)
_STATES = {
    (state, snat, dnat): frozenset([state] + ["SNAT"] * snat + ["DNAT"] * dnat)
    for state in ("NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED")
    for snat in (False, True)
    for dnat in (False, True)
}


def _is_of_kernel(packet: Packet) -> bool:
    """Whether the kernel makes a packet of this node by itself, as it answers pings and reports errors (K-20.1)."""
    return packet.uid is None or (packet.protocol in ICMP_PROTOCOLS and packet.icmp_type not in _ECHO_REQUESTS)


class Traversal:
    """Satisfies :class:`kpsim.packetpath.matching.Facts`. One object per walk, used once."""

    __slots__ = (
        "arrived", "asks_again", "balanced", "bridged", "buckets", "by_ipvs", "chooser", "counters", "created", "ct_state", "ct_states", "decision", "destination_done", "destroyed",
        "direction", "dnat_rule", "drawn", "draws", "entered", "entry", "exhausted", "family", "hook", "icmp", "indexed", "led_by", "local", "members", "mtu",
        "node", "now_ns", "numbers", "packet", "ports_drawn", "recent_lists", "seen", "served", "server", "sets", "snat_rule", "socket", "source_done", "steps", "table",
        "touches", "trying", "turned_away", "unconfirmed", "unsure_because", "unsure_mark", "updated", "world",
    )  # fmt: skip

    def __init__(
        self, node: NodeFacts, packet: Packet, now_ns: int, chooser: Chooser, *, local: bool, trace: bool, indexed: bool,
        world: World | None = None,
    ) -> None:  # fmt: skip
        self.node = node
        self.packet = packet
        self.arrived = packet.copy()  #: as it was before anything changed it
        self.family: Family = packet.family
        self.now_ns = now_ns
        self.chooser = chooser
        self.local = local
        self.indexed = indexed
        self.world = world or World()
        #: whose socket the packet has; one that came in has none
        self.socket: str | None = ("kernel" if _is_of_kernel(packet) else "process") if local else None
        self.bridged: frozenset[str] | None = None  #: ``in``, ``out``: by ports of a bridge that called netfilter
        self.unsure_because = ""  #: the match that is not modelled, on which they depend
        self.unsure_mark = 0  #: bits of the packet's mark that a rule may have changed that is not modelled
        self.steps: list[Step] | None = [] if trace else None
        self.hook = Hook.PREROUTING
        self.table: TableKey | None = None  #: whose chains are running
        self.sets: Map[str, Set] = Map()  #: of that table
        #: the last element of a map on the way to the chain that is running, and the rule that asked the map
        self.led_by: tuple[ElementReference, Rule] | None = None
        self.trying: Rule | None = None  #: the rule whose conditions are asked
        self.decision: Decision | None = None
        self.asks_again: Question | None = None  #: OUTPUT changed what routing depends on: how it looked then
        # connection tracking
        self.ct_state = ""  #: empty: not looked up yet
        self.ct_states = _STATES["INVALID", False, False]  #: for xt_conntrack a packet without entry is INVALID
        self.entry: Entry | None = None
        self.direction = Direction.ORIGINAL
        self.unconfirmed = False  #: the packet creates the entry: nat chains are consulted
        self.destination_done = False
        self.source_done = False
        self.exhausted = False
        # ip_vs
        self.by_ipvs = False  #: ip_vs has rewritten the packet, and leaves it alone from now on
        self.served: Connection | None = None  #: of ip_vs, to which a client's packet belongs
        # for the result
        self.server: ServerReference | None = None  #: the virtual server that scheduled the connection or refused it
        self.mtu = 0  #: that the packet exceeds
        self.dnat_rule: RuleReference | None = None
        self.snat_rule: RuleReference | None = None
        self.ports_drawn: tuple[int, int] | None = None  # the range that a source port was drawn from
        # effects
        self.created: Entry | None = None
        self.updated: Entry | None = None
        self.destroyed: list[Destroyed] = []
        self.touches: list[RecentTouch] = []
        self.counters: list[tuple[str, int]] = []
        self.icmp: IcmpSpending | None = None
        self.turned_away = False
        self.recent_lists: dict[str, RecentList] | None = None
        self.draws: dict[Hashable, int] = {}
        self.drawn = 0  #: how many draws there were
        self.entered = 0  #: how many chains the packet entered
        self.seen: dict[Hashable, object] = {}  #: what chains did in a walk that enters very many (``chains``)
        self.buckets: dict[Hashable, Bucket] = {}
        self.members: dict[tuple[SetId, Key], SetTouch] = {}  #: the last change to each key of a set
        self.numbers: dict[Hashable, int] = {}
        self.balanced: IpvsTouch | None = None

    # --- what conditions may ask --------------------------------------------------------------------------------------

    def address_type(self, address: int, interface: str = "") -> AddressType:
        return type_at(self.node.routing, self.family, address, interface)

    @property
    def frame(self) -> str:
        """How the frame that the packet came in was addressed (K-24.1). Senders follow its destination."""
        if self.local and self.hook in (Hook.OUTPUT, Hook.POSTROUTING):
            return "host"
        return _FRAMES.get(type_at(self.node.routing, self.family, self.arrived.daddr), "host")

    def holds(self, words: str) -> bool:
        """Whether a match that is not modelled holds in this world."""
        true = self.world.holds(words)
        if self.steps is not None:
            self.steps.append(Supposed(words, true))
        return true

    def listeners(self) -> Sequence[Socket] | None:
        """The node's sockets that wait for this packet; None: they are not known."""
        known = self.node.sockets
        return None if known is None else [each for each in known if each.takes(self.packet)]

    def settle(self, field: Field, bit: int) -> int:
        """The value, in this world, of a bit of a mark that is not known; 0 if it is not set."""
        value = bit if self.holds(f"bit {bit:#x} of the {field.value} ({self.unsure_because or 'set earlier'})") else 0
        if field is Field.MARK:
            self.packet.mark = self.packet.mark & ~bit | value
            self.unsure_mark &= ~bit
        elif self.entry is not None:
            self.keep_mark(self.entry.mark & ~bit | value, self.entry.unsure_mark & ~bit)
        return value

    def way_back(self, address: int) -> Decision | None:
        return self.node.routing.way_back(self.family, address, Question(self.packet.daddr))

    def chance(self, chance: Chance, key: Hashable) -> bool:
        true = self.chooser.chance(chance.threshold, self.draw_key(key))
        if self.steps is not None:
            assert self.trying is not None and self.table is not None
            self.steps.append(Chosen(self.table, self.trying, chance, true))
        return true

    def recent(self, match: Recent) -> bool:
        source = (self.family, self.packet.saddr)
        if (match.name, source) in self.node.memory.unsure and match.action != "set":
            return (
                self.holds(f"the list {match.name} of -m recent, which an earlier packet may have changed")
                != match.negate
            )
        entries = (self.recent_lists or {}).get(match.name)
        if entries is None:
            entries = self.node.memory.recent[match.name]
            if match.action == "set" or source in entries:  # otherwise the match does not change the list
                entries = entries.copy()
                self.recent_lists = {**(self.recent_lists or {}), match.name: entries}
        if match.action == "set" or source in entries:
            self.touches.append(RecentTouch(match, source, self.now_ns))
        true = entries.touch(match, source, self.now_ns)
        if self.steps is not None:
            self.steps.append(Remembered(match.name, match.action, true))
        return true

    def limit(self, match: Limit, key: Hashable) -> bool:
        return limits.limit(self, match, key)

    def quota(self, match: Quota, key: Hashable) -> bool:
        return limits.quota(self, match, key)

    def named_set(self, reference: SetReference) -> Set:
        """A set of the table whose chains are running, or an ipset. InputError if there is none."""
        sets = self.node.ipsets[self.family] if reference.of_namespace else self.sets
        found = sets.get(reference.name)
        if found is None:
            raise InputError(Problem(f"a rule of table {self.table} names set {reference.name}, which does not exist"))
        return found

    def has_member(self, reference: SetReference, key: Atoms) -> bool:
        """Whether a set has a key now, as an element of a tool or as a member that a packet put there."""
        declared = self.named_set(reference)
        if not declared.remembers:
            return find(declared, key) is not None
        at = self._set_id(reference)
        if (at, key) in self.node.memory.unsure:
            return self.holds(f"@{reference.name}, which an earlier packet may have changed")
        there = self._lives(declared, at, key)
        if self.steps is not None:
            self.steps.append(SetAsked(reference.name, declared.type, key, there))
        return there

    def _lives(self, declared: Set, at: SetId, key: Atoms) -> bool:
        """Whether a member has the key or, if nothing is known of it, an element that has not expired."""
        members = self.node.memory.sets.members(at, declared.generation)

        def last_of(key: Key) -> Member | None:
            mine = self.members.get((at, key))
            return members.get(key) if mine is None else mine.member

        if (member := last_of(key)) is not None:
            return member.lives(self.now_ns)
        for found, element in fitting(declared, key):
            if (member := last_of(found)) is None or member.lives(self.now_ns):
                return not element.nomatch
        return False

    def update(self, statement: UpdateSet, key: Atoms) -> bool:
        """Changes a set. False if the rule ends there, because the set is full (K-9.2)."""
        name, at = statement.set.name, self._set_id(statement.set)
        declared = self.named_set(statement.set)
        members = self.node.memory.sets.members(at, declared.generation)
        mine = {each.key: each.member for (where, _), each in self.members.items() if where == at}
        goes_on, member = touched(
            declared, {**members, **mine} if mine else members, key, statement.verb, statement.timeout_ns, self.now_ns
        )
        if member is not None:
            collected = collected_ns(declared, self.now_ns)
            self.members[at, key] = SetTouch(at, declared.generation, key, member, collected)
        if self.steps is not None:
            self.steps.append(SetTold(name, declared.type, key, statement.verb, goes_on))
        if not goes_on or statement.verb is SetVerb.DELETE:
            return goes_on
        new = not known(declared, key, mine.get(key, members.get(key)), self.now_ns)
        keys = [(at, declared.generation, key, place) for place in range(len(statement.each))]
        return all(limits.of_element(self, *each, anew=new) for each in zip(statement.each, keys, strict=True))

    def _set_id(self, reference: SetReference) -> SetId:
        return SetId(None if reference.of_namespace else self.table, reference.name)

    def number(self, source: Numgen | Hashed, values: Atoms, key: Hashable) -> int:
        """The number that a rule draws, counts or makes of ``values``."""
        number = source.offset + self._below(source, values, key)
        if self.steps is not None and source.modulus > 1:
            assert self.trying is not None and self.table is not None
            self.steps.append(Drawn(self.table, self.trying, source, number))
        return number

    def _below(self, source: Numgen | Hashed, values: Atoms, key: Hashable) -> int:
        if source.modulus == 1:
            return 0
        if isinstance(source, Numgen) and source.random:
            return self.chooser.uniform(source.modulus, self.draw_key(key))
        if isinstance(source, Hashed) and source.seed is not None:
            return hashed(source, values, self.family)
        name = (self.table, key, values)
        if name in self.node.memory.unsure:
            raise UnknownEnd("a number that an earlier packet may have changed")
        last = self.numbers.get(name, self.node.memory.numbers.get(name))
        if isinstance(source, Numgen):
            self.numbers[name] = number = 0 if last is None else (last + 1) % source.modulus
        elif last is None:
            # the kernel drew the seed, so the numbers of a hash are not known before they are seen
            self.numbers[name] = number = self.chooser.uniform(source.modulus, self.draw_key((key, values)))
        else:
            number = last
        return number

    def count(self, counter: str) -> None:
        self.counters.append((counter, self.packet.length))
        if self.steps is not None:
            self.steps.append(Counted(counter))

    # --- what traces tell ---------------------------------------------------------------------------------------------

    def moment(self) -> Moment:
        """A copy of what a rule may read now. It copies the packet, so only traced walks call it."""
        return Moment(
            self.packet.copy(),
            self.ct_states,
            self.entry,
            self.direction,
            self.hook,
            self.socket,
            self.bridged,
            self.unsure_mark,
            self.ct_state,
            self.frame,
            self.by_ipvs,
            self.served,
        )

    # --- what the rest of the way depends on --------------------------------------------------------------------------

    def state(self) -> Hashable:
        """All that decides what the rules to come do, draws aside. Two walks at one rule in one state go on alike."""
        return tuple([frozen(getattr(self, slot)) for slot in _OF_STATE])

    def snapshot(self, since: int) -> "Snapshot":
        """A copy of the state, and of the steps from number ``since`` on."""
        steps = () if self.steps is None else tuple(self.steps[since : since + _MOST_STEPS])
        return Snapshot(_plain_values(self), tuple([copied(getattr(self, slot)) for slot in _MUTABLE]), steps)

    def restore(self, snapshot: "Snapshot", since: int) -> None:
        """Goes back, or on, to the state of a snapshot. Its steps replace those from number ``since`` on.

        Packets, lists and dictionaries stay the same objects: hooks on the way and the traversal of an answer hold them.
        """
        for slot, value in zip(_PLAIN, snapshot.plain, strict=True):
            setattr(self, slot, value)
        for slot, value in zip(_MUTABLE, snapshot.mutable, strict=True):
            match getattr(self, slot), value:
                case Packet() as packet, Packet():
                    for name in Packet.__slots__:
                        setattr(packet, name, getattr(value, name))
                case list() as items, list():
                    items[:] = value
                case dict() as items, dict() if slot != "recent_lists":
                    items.clear()
                    items.update(value)
                case _:
                    setattr(self, slot, copied(value))
        if self.steps is not None:
            del self.steps[since:]
            self.steps.extend(snapshot.steps)

    # --- what hooks do ------------------------------------------------------------------------------------------------

    def draw_key(self, key: Hashable) -> Hashable:
        """The key, made unique if an earlier draw of this walk had the same, because draws are independent (K-5)."""
        self.drawn += 1
        earlier = self.draws.get(key, 0)
        self.draws[key] = earlier + 1
        return (key, earlier) if earlier else key

    def set_state(self, state: str) -> None:
        """Sets the packet's ctstate. The states SNAT and DNAT follow from the entry."""
        self.ct_state = state
        entry = self.entry
        if entry is None or entry.reply == entry.original.inverse():
            self.ct_states = _STATES[state, False, False]
        else:
            self.ct_states = _STATES[state, entry.src_nat, entry.dst_nat]

    def taken(self, reply: FlowTuple) -> bool:
        """Whether another flow has this tuple. Entries that this walk destroys do not count."""
        found = self.node.conntrack.lookup(reply, self.now_ns)
        return found is not None and all(gone.entry.original != found.entry.original for gone in self.destroyed)

    def displace(self, entry: Entry, ending: Ending) -> None:
        """Destroys another connection, which gives way to the one that this packet begins."""
        self.destroyed.append(Destroyed(entry, ending))
        if self.steps is not None:
            self.steps.append(ConntrackChanged(Tracking.DESTROYED, entry))

    def tracked(self, tracking: Tracking) -> None:
        if self.steps is not None:
            self.steps.append(ConntrackChanged(tracking, self.entry))

    def reroute(self) -> None:
        """Has the packet, which this node made, routed again behind OUTPUT as it looks now (K-2.1)."""
        self.settle_mark(self.node.routing.asked_marks(self.family))
        self.asks_again = Question(self.packet.saddr, self.packet.mark)

    def settle_mark(self, mask: int) -> None:
        """Settles the bits of the packet's mark under a mask, as far as they are not known."""
        while unsure := self.unsure_mark & mask:
            self.settle(Field.MARK, unsure & -unsure)

    def rewrite_destination(self, address: int, port: int) -> None:
        packet = self.packet
        self._rewritten(FieldName.DESTINATION, (packet.daddr, packet.dport), (address, port))
        packet.daddr, packet.dport = address, port

    def rewrite_source(self, address: int, port: int) -> None:
        packet = self.packet
        self._rewritten(FieldName.SOURCE, (packet.saddr, packet.sport), (address, port))
        packet.saddr, packet.sport = address, port

    def _rewritten(self, field: FieldName, before: Value, after: Value) -> None:
        if self.steps is not None and before != after:
            self.steps.append(FieldChanged(field, before, after))

    def rewrite_mark(self, mark: int) -> None:
        self._rewritten(FieldName.MARK, self.packet.mark, mark)
        self.packet.mark = mark

    def rewrite_ttl(self, ttl: int) -> None:
        self._rewritten(FieldName.TTL, self.packet.ttl, ttl)
        self.packet.ttl = ttl

    def rewrite_traffic_class(self, value: int) -> None:
        self._rewritten(FieldName.TRAFFIC_CLASS, self.packet.traffic_class, value)
        self.packet.traffic_class = value

    def mark_connection(self, mark: int, unsure: int = 0) -> None:
        """Sets the connection's mark. If the connection is not confirmed yet, the mark is stored when it is.

        ``unsure`` are the bits of which it is not known whether they are set.
        """
        assert self.entry is not None
        if (mark, unsure) == (self.entry.mark, self.entry.unsure_mark):
            return
        self._rewritten(FieldName.CONNECTION_MARK, self.entry.mark, mark)
        self.keep_mark(mark, unsure)

    def keep_mark(self, mark: int, unsure: int) -> None:
        """Keeps a mark of the connection. ``unsure`` are its bits of which it is not known whether they are set."""
        assert self.entry is not None
        self.entry = self.entry._replace(mark=mark, unsure_mark=unsure)
        if self.created is not None:
            self.created = self.entry
        elif not self.unconfirmed and not self.destroyed:
            self.updated = self.entry

    def close_connection(self) -> None:
        """The state of a TCP connection becomes CLOSE, because this node resets it (K-3.1)."""
        if self.entry is None or self.unconfirmed or self.destroyed:
            return
        expires_ns = self.now_ns + self.node.sysctls.tcp_timeout_close_ns
        self.entry = self.entry._replace(state=FlowState.CLOSE, expires_ns=expires_ns)
        if self.created is not None:
            self.created = self.entry
        else:
            self.updated = self.entry

    # --- the answer to a rejected packet ------------------------------------------------------------------------------

    def answering(self, answer: Packet) -> "Traversal":
        """The traversal of the answer that the node makes. It has this packet's connection, in its other direction.

        It continues this traversal's draws, and what rules have remembered so far. Without a connection it has none
        either, and connection tracking looks for one (measured).
        """
        made = Traversal(
            self.node, answer, self.now_ns, self.chooser, local=True, trace=False, indexed=self.indexed,
            world=self.world,
        )  # fmt: skip
        made.draws, made.touches, made.counters = self.draws, self.touches, self.counters
        made.recent_lists, made.buckets = self.recent_lists, self.buckets
        made.members, made.numbers, made.balanced = self.members, self.numbers, self.balanced
        made.created, made.updated, made.destroyed = self.created, self.updated, self.destroyed
        if self.entry is not None:
            made.entry, made.direction = self.entry, self.direction.opposite
            made.set_state("RELATED")
        return made

    def takes_over(self, answered: "Traversal") -> None:
        """Keeps what the answer's traversal changed. A connection that was not confirmed is lost with its packet."""
        self.recent_lists = answered.recent_lists
        if self.unconfirmed:
            return
        self.created, self.updated = answered.created, answered.updated
        if self.entry is not None:
            self.entry = answered.entry

    def effects(self) -> Effects:
        left = Touched(
            tuple(self.touches), tuple(self.counters), self.icmp, tuple(self.buckets.items()),
            tuple(self.members.values()), tuple(self.numbers.items()), ipvs=self.balanced,
        )  # fmt: skip
        return Effects(self.created, self.updated, tuple(self.destroyed), left, self.turned_away)


class Snapshot(NamedTuple):
    """What a walk may change, copied at one moment."""

    plain: tuple[Any, ...]
    mutable: tuple[Any, ...]
    steps: tuple[Step, ...]


#: a way of so many steps is told by its beginning: it is one of a number of ways that nobody reads
_MOST_STEPS = 50_000
#: what rules do not change: the same for the whole walk, or of no consequence for it
_FIXED = frozenset(
    {"chooser", "drawn", "draws", "entered", "indexed", "node", "seen", "sets", "steps", "trying", "world"}
)
_MUTABLE = ("packet", "arrived", "destroyed", "touches", "counters", "recent_lists", "buckets", "members", "numbers")
_PLAIN = tuple(slot for slot in Traversal.__slots__ if slot not in _FIXED and slot not in _MUTABLE)
_plain_values = attrgetter(*_PLAIN)
#: the lists of xt_recent follow from the touches
_OF_STATE = tuple(slot for slot in (*_PLAIN, *_MUTABLE) if slot != "recent_lists")
