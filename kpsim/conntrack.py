"""The connection table of one node: entries found by either of their two tuples, with timers and NAT bindings.

Counterpart: nf_conntrack_core. The table stores and finds entries. ``flowstate`` says what a packet means to its flow,
and ``netfilter`` says when the table is asked. kube-proxy's clean-up of stale UDP flows uses ``udp_entries`` and
``delete``.

Besides that clean-up, the kernel removes entries by itself (CT-7, K-6.7). **Early drop** makes room for one new flow in
a full table. The **collector** removes expired entries now and then, and thins out a table that had to turn a flow
away.
"""

import enum
import heapq
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.flowstate import ICMP_REQUESTS, NO_HISTORY, Direction, Flow, FlowState, History
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.rng import CHANCE_RANGE
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

#: protocols for which the second of two clashing first packets need not be lost (K-6.8)
_FORGIVING = ("udp",)
CLASH_TIMEOUT_NS = SECOND_NS  #: how long the entry of the second packet lives (K-6.8)

#: states whose entries the collector takes from a table that is too full, assured or not (CT-7.4)
_CLOSING = frozenset({
    FlowState.FIN_WAIT, FlowState.CLOSE_WAIT, FlowState.LAST_ACK, FlowState.TIME_WAIT, FlowState.CLOSE,
    FlowState.SHUTDOWN_SENT, FlowState.SHUTDOWN_RECD, FlowState.SHUTDOWN_ACK_SENT,
})  # fmt: skip
_EARLY_DROP_BUCKETS = 8  #: buckets searched for a victim, from where the new flow hashes to (CT-7.2)
_THINNED_OUT_AT_ONCE = 257  #: entries that one round of the collector takes (measured, with a kernel of 250 Hz)
COLLECTOR_ROUND_NS = 60 * SECOND_NS  #: from one round to the next on a node that is not busy (CT-3.9, measured)

_ICMP_ANSWERS = {
    protocol: {**requests, **{answer: request for request, answer in requests.items()}}
    for protocol, requests in ICMP_REQUESTS.items()
}


class FlowTuple(NamedTuple):
    """One direction of a flow (CT-3.1). For ICMP, ``sport`` is the id and ``dport`` is type · 256 + code."""

    family: Family
    protocol: str
    saddr: int
    sport: int
    daddr: int
    dport: int

    def inverse(self) -> "FlowTuple":
        """The tuple of an answer."""
        family, protocol, saddr, sport, daddr, dport = self
        answers = _ICMP_ANSWERS.get(protocol)
        if answers is None:
            return FlowTuple(family, protocol, daddr, dport, saddr, sport)
        kind, code = divmod(dport, 256)
        return FlowTuple(family, protocol, daddr, sport, saddr, answers.get(kind, kind) * 256 + code)

    def __str__(self) -> str:
        source, destination = format_ip(self.family, self.saddr), format_ip(self.family, self.daddr)
        if self.protocol in ICMP_PROTOCOLS:
            return f"{self.protocol} {source} → {destination} id {self.sport} type {self.dport >> 8}"
        return f"{self.protocol} {join_host_port(source, self.sport)} → {join_host_port(destination, self.dport)}"


def tuple_of(packet: Packet) -> FlowTuple:
    """The tuple by which a packet is looked up."""
    dport = packet.icmp_type * 256 + packet.icmp_code if packet.protocol in ICMP_PROTOCOLS else packet.dport
    return FlowTuple(packet.family, packet.protocol, packet.saddr, packet.sport, packet.daddr, dport)


class StatusBit(enum.StrEnum):
    """A status bit of an entry (CT-3.2)."""

    SEEN_REPLY = "SEEN_REPLY"
    ASSURED = "ASSURED"
    CONFIRMED = "CONFIRMED"
    SRC_NAT = "SRC_NAT"
    DST_NAT = "DST_NAT"


class Entry(NamedTuple):
    """One connection.

    ``reply`` is the tuple that an answer will have. Its difference from ``original`` is the binding.
    """

    original: FlowTuple
    reply: FlowTuple
    state: FlowState
    seen_reply: bool
    assured: bool
    created_ns: int
    expires_ns: int
    masquerade_device: str = ""  #: output interface whose address the masquerade uses (K-1.6, K-1.9)
    history: History = NO_HISTORY
    replies_only: bool = False  #: found by its reply tuple alone, and never re-armed (K-6.8)
    mark: int = 0  #: of the connection, as CONNMARK sets it
    unsure_mark: int = 0  #: bits of ``mark`` that a rule may have changed that is not modelled
    bound_id: int | None = None  #: of a ping whose id changed where destinations are translated (K-2.4): the id then
    #: ip_vs changed where answers come from, which sets no status bit (IPVS-10.6): when its own timer ends the entry
    served_until_ns: int | None = None

    @property
    def key(self) -> FlowTuple:
        """The tuple that identifies the entry in its table."""
        return self.reply if self.replies_only else self.original

    @property
    def flow(self) -> Flow:
        return Flow(self.state, self.seen_reply, self.assured, self.created_ns, self.history, self.expires_ns)

    @property
    def ends_ns(self) -> int:
        """When the entry ends if no packet comes: by its own timer or by that of ip_vs (IPVS-12.3)."""
        return self.expires_ns if self.served_until_ns is None else min(self.expires_ns, self.served_until_ns)

    @property
    def dst_nat(self) -> bool:
        """Whether answers come from another address or port than the request went to, because a rule translated it.

        It is true of a ping too whose id was changed where destinations are translated (K-2.4).
        """
        if self.served_until_ns is not None:
            return False
        original, reply = self.original, self.reply
        if original.protocol in ICMP_PROTOCOLS:
            return reply.saddr != original.daddr or self.bound_id is not None
        return reply.saddr != original.daddr or reply.sport != original.dport

    @property
    def redirects(self) -> bool:
        """Whether requests go elsewhere than they were sent: a rule translated the destination, or ip_vs changed it."""
        return self.dst_nat or self.served_until_ns is not None

    @property
    def src_nat(self) -> bool:
        """Whether answers go to another address or port than the request came from.

        For an ICMP echo the id is the port.
        """
        original, reply = self.original, self.reply
        if original.protocol in ICMP_PROTOCOLS:
            asked = original.sport if self.bound_id is None else self.bound_id
            return reply.daddr != original.saddr or reply.sport != asked
        return reply.daddr != original.saddr or reply.dport != original.sport

    @property
    def status(self) -> frozenset[StatusBit]:
        """The status bits of the entry, provided that it is in the table."""
        bits = {StatusBit.CONFIRMED: True, StatusBit.SEEN_REPLY: self.seen_reply, StatusBit.ASSURED: self.assured,
                StatusBit.SRC_NAT: self.src_nat, StatusBit.DST_NAT: self.dst_nat}  # fmt: skip
        return frozenset(bit for bit, is_set in bits.items() if is_set)

    def is_bound(self, direction: Direction, *, destination: bool) -> bool:
        """Whether the destination of packets of ``direction`` is translated; else whether their source is."""
        return self.dst_nat if (direction is Direction.ORIGINAL) is destination else self.src_nat

    def translated(self, direction: Direction) -> FlowTuple:
        """The tuple of a packet of ``direction`` after both its ends were translated."""
        return (self.reply if direction is Direction.ORIGINAL else self.original).inverse()

    def __str__(self) -> str:
        flags = "".join(f" [{bit}]" for bit in StatusBit if bit in self.status and bit is not StatusBit.CONFIRMED)
        return f"{self.state or '-'} {self.original} ⇄ {self.reply}{flags}"


class Found(NamedTuple):
    """An entry and the direction of the packet that was looked up."""

    entry: Entry
    direction: Direction


class Ending(enum.StrEnum):
    """Why an entry left the table."""

    EXPIRED = "expired"
    DELETED = "deleted"  #: a person or kube-proxy deleted it
    RESET = "reset"  #: an RST answered an unreplied SYN, or a new SYN took its place
    EARLY_DROP = "early drop"  #: it made room in a full table (CT-7.2)
    DEVICE_CHANGED = "output device changed"  #: masqueraded, and routed elsewhere since (K-1.6)
    INTERFACE_DOWN = "interface down"  #: masqueraded by an interface that went down (K-1.9)
    ADDRESS_GONE = "address removed"  #: masqueraded to an address that its interface has lost (K-1.9)
    PORT_NEEDED = "source port needed"  #: it was over, and no port was free for another (measured)
    SERVER_GONE = (
        "its connection in ip_vs ended"  #: with its real server, or for a new one of its port (IPVS-11.6, 13.2)
    )
    CROWDED = "table too full"  #: the collector thinned the table out (CT-7.4)


class Destroyed(NamedTuple):
    """An entry that is gone, and why."""

    entry: Entry
    ending: Ending


class Clash(enum.StrEnum):
    """The fate of a first packet if a connection with one of its tuples was confirmed before it (K-6.8, CT-6.7)."""

    SAME_BINDING = "belongs to the connection that was first"  #: same endpoint, same ports: the packet passes
    REPLIES_ONLY = "has an entry for its answers"  #: it passes to an endpoint of its own, whose answers are translated
    LOST = "dropped"


class Pressure(NamedTuple):
    """A full table: the number of entries that early drop may take, and its probability to find one, times 2³¹."""

    candidates: int
    threshold: int


class ConntrackTable:
    """Entries by tuple. Expired entries never match (K-1.7) and do not count; :meth:`expire` removes and returns them.

    Entries of both families count against one limit. Linux counts expired entries until its collector removes them, up
    to a minute later (CT-3.9).
    """

    def __init__(self) -> None:
        self.turned_away = 0  #: flows that found a full table since the collector's latest round
        self._found: dict[FlowTuple, Found] = {}
        self._entries: dict[FlowTuple, Entry] = {}  # by key, oldest first
        self._unassured: dict[FlowTuple, None] = {}  # keys
        # keys, oldest first; the inner tuples are shared by copies
        self._by_source: dict[tuple[Family, str, int, int], tuple[FlowTuple, ...]] = {}
        # each entry has a timer not later than its expiry; timers that were replaced stay here and are void
        self._timers: list[tuple[int, int, FlowTuple]] = []
        self._timed: dict[FlowTuple, tuple[int, int]] = {}  # key → the timer that counts
        self._sequence = 0

    def copy(self) -> "ConntrackTable":
        """A table with the same entries. What changes in one of the two does not change in the other."""
        other = ConntrackTable()
        if self._entries or self.turned_away:
            other.turned_away = self.turned_away
            other._found, other._entries, other._unassured = (
                dict(self._found),
                dict(self._entries),
                dict(self._unassured),
            )
            other._by_source = dict(self._by_source)
            other._timers, other._timed, other._sequence = list(self._timers), dict(self._timed), self._sequence
        return other

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """All entries, oldest first. Expired entries that were not removed yet are among them."""
        return iter(self._entries.values())

    def lookup(self, flow_tuple: FlowTuple, now_ns: int) -> Found | None:
        """The live entry that has this tuple in either direction, with the direction; None if there is none."""
        found = self._found.get(flow_tuple)
        return found if found is not None and found.entry.ends_ns > now_ns else None

    def mapped_source(
        self, original: FlowTuple, addresses: tuple[int, int], ports: tuple[int, int] | None, now_ns: int
    ) -> tuple[int, int] | None:
        """Address and port that the newest other flow of the same source has within these ranges; None: there is none (K-2.3).

        ``ports`` None: any port.
        """
        for earlier in reversed(self._by_source.get(original[:4], ())):
            entry = self._entries[earlier]
            if entry.ends_ns <= now_ns or entry.original == original:
                continue
            at = entry.reply.inverse()
            if addresses[0] <= at.saddr <= addresses[1] and (ports is None or ports[0] <= at.sport <= ports[1]):
                return at.saddr, at.sport
        return None

    # --- a table that is full (CT-7, K-6.7) ---------------------------------------------------------------------------

    def pressure(self, now_ns: int, sysctls: Sysctls) -> Pressure | None:
        """What early drop can do for a new flow; None: there is room for it (CT-7.2).

        Early drop searches 8 buckets, and each tuple of an unassured entry is in any bucket with the same probability.
        So it finds none with probability (1 − 8/buckets)^(2 · unassured). Measured: 72 % of 1,900 attempts at 20,000
        entries, where this formula gives 70.5 %.
        """
        if not sysctls.nf_conntrack_max or len(self._entries) < sysctls.nf_conntrack_max:
            return None
        expired = list(self._expired(now_ns))
        if len(self._entries) - len(expired) < sysctls.nf_conntrack_max:
            return None
        candidates = len(self._unassured) - sum(not entry.assured for entry in expired)
        missed = 1 - min(1, _EARLY_DROP_BUCKETS / sysctls.nf_conntrack_buckets)
        return Pressure(candidates, round((1 - missed ** (2 * candidates)) * CHANCE_RANGE) if candidates else 0)

    def unassured(self, number: int, now_ns: int) -> Entry:
        """The live unassured entry with this number, from 0. Linux takes the entry that hashes to the right place."""
        live = (entry for key in self._unassured if (entry := self._entries[key]).ends_ns > now_ns)
        return next(islice(live, number, None))

    def collect(self, now_ns: int, sysctls: Sysctls) -> tuple[Destroyed, ...]:
        """Runs a round of the collector. Returns the entries that it removed.

        It removes expired entries. If a flow was turned away since the last round and the table is fuller than 95 %, it
        also removes entries that are unassured or closing (CT-7.4; measured: none without a refusal, else 257).
        """
        gone = list(self.expire(now_ns))
        turned_away, self.turned_away = self.turned_away, 0
        excess = min(_THINNED_OUT_AT_ONCE, len(self._entries) - sysctls.nf_conntrack_max * 95 // 100)
        if turned_away and excess > 0:
            yielding = (e for e in self if not e.assured or e.state in _CLOSING)
            gone += [Destroyed(entry, Ending.CROWDED) for entry in self._removed(islice(yielding, excess))]
        return tuple(gone)

    # --- changes ------------------------------------------------------------------------------------------------------

    def insert(self, entry: Entry, now_ns: int) -> bool:
        """Adds an entry. Returns False and adds nothing if a live entry has one of its tuples."""
        if any(self.lookup(flow_tuple, now_ns) for flow_tuple in _tuples(entry)):
            return False
        for flow_tuple in _tuples(entry):
            if (expired := self._found.get(flow_tuple)) is not None:
                self._remove(expired.entry)
        self._store(entry)
        return True

    def is_free(self, entry: Entry, *, of_source: bool) -> bool:
        """Whether no entry, expired or not, has one of its tuples or, if ``of_source``, begins at its source."""
        found = self._found
        if entry.original in found or entry.reply in found:
            return False
        return not of_source or entry.original[:4] not in self._by_source

    def has_room(self, entries: int, sysctls: Sysctls) -> bool:
        """Whether so many more entries fit, expired ones counted, without early drop (CT-7.2)."""
        return not sysctls.nf_conntrack_max or len(self._entries) + entries <= sysctls.nf_conntrack_max

    def admit(self, entry: Entry, earliest_end_ns: int) -> None:
        """Adds the entry of a connection whose packets have all passed at one instant. Its tuples are free.

        ``earliest_end_ns`` is the earliest time at which it was to end after one of them.
        """
        key = entry.original
        source = key[:4]
        self._by_source[source] = (*self._by_source.get(source, ()), key)
        self._entries[key] = entry
        if not entry.assured:
            self._unassured[key] = None
        self._found[key] = Found(entry, Direction.ORIGINAL)
        self._found[entry.reply] = Found(entry, Direction.REPLY)
        self._time(key, earliest_end_ns)

    def confirm(self, entry: Entry, now_ns: int) -> Clash | None:
        """Adds the entry of a packet that leaves the node.

        Returns a clash if another packet was faster, else None (K-6.8).
        """
        if self.insert(entry, now_ns):
            return None
        winner = self.lookup(entry.original, now_ns)
        if winner is None or entry.original.protocol not in _FORGIVING:
            return Clash.LOST
        if winner.entry[:2] == entry[:2]:
            return Clash.SAME_BINDING
        second = entry._replace(replies_only=True, expires_ns=now_ns + CLASH_TIMEOUT_NS)
        return Clash.REPLIES_ONLY if self.insert(second, now_ns) else Clash.LOST

    def update(self, entry: Entry) -> None:
        """Stores a later version of an entry. Does nothing if the entry has left the table."""
        old = self._entries.get(entry.key)
        if old is not None and old[:2] == entry[:2]:
            self._store(entry)

    def delete(self, original: FlowTuple, reply: FlowTuple) -> Entry | None:
        """Removes and returns the entry with exactly these tuples; None if there is none (CT-2.4).

        The hosts of the connection are not told (CT-3.9).
        """
        for key in (original, reply):
            entry = self._entries.get(key)
            if entry is not None and entry[:2] == (original, reply):
                self._remove(entry)
                return entry
        return None

    def delete_served(self, original: FlowTuple) -> Entry | None:
        """Removes and returns the entry of a connection that ip_vs ends; None if there is none."""
        found = self._found.get(original)
        if found is None or found.direction is not Direction.ORIGINAL:
            return None
        self._remove(found.entry)
        return found.entry

    def udp_entries(self, family: Family) -> tuple[Entry, ...]:
        """The UDP entries of one family, oldest first, as kube-proxy lists them for its clean-up (CT-2.3).

        Entries that are found by answers alone are not listed (K-6.8).
        """
        return tuple(
            e for e in self if e.original.protocol == "udp" and e.original.family is family and not e.replies_only
        )  # fmt: skip

    def expire(self, now_ns: int) -> tuple[Destroyed, ...]:
        """Removes the entries that have expired, and returns them in the order in which they expired."""
        gone = []
        while self._timers and self._timers[0][0] <= now_ns:
            at_ns, sequence, key = heapq.heappop(self._timers)
            if self._timed.get(key) != (at_ns, sequence):
                continue
            del self._timed[key]
            entry = self._entries.get(key)
            if entry is None:
                continue
            if entry.ends_ns > now_ns:  # re-armed since
                self._arm(key, entry.ends_ns, sequence)
            else:
                gone.append(Destroyed(entry, Ending.EXPIRED))
                self._remove(entry)
        return tuple(sorted(gone, key=lambda item: item.entry.ends_ns))

    def interface_down(self, device: str) -> tuple[Destroyed, ...]:
        """Ends and returns every connection masqueraded by this interface. Connections with plain SNAT stay (K-1.9)."""
        borrowed = (e for e in self if e.masquerade_device == device)
        return tuple(Destroyed(entry, Ending.INTERFACE_DOWN) for entry in self._removed(borrowed))

    def address_removed(self, device: str, family: Family, address: int) -> tuple[Destroyed, ...]:
        """Ends and returns the connections masqueraded by this interface to this address (K-1.9)."""
        borrowed = (
            e for e in self
            if e.masquerade_device == device and (e.reply.family, e.reply.daddr) == (family, address)
        )  # fmt: skip
        return tuple(Destroyed(entry, Ending.ADDRESS_GONE) for entry in self._removed(borrowed))

    def _expired(self, now_ns: int) -> Iterator[Entry]:
        """The expired entries that are still in the table.

        The timers are a heap: below a timer that lies in the future all timers do, so those are not visited.
        """
        waiting, seen = [0], set()
        while waiting:
            position = waiting.pop()
            if position < len(self._timers) and self._timers[position][0] <= now_ns:
                key = self._timers[position][2]
                entry = self._entries.get(key)
                if entry is not None and entry.ends_ns <= now_ns and key not in seen:
                    seen.add(key)
                    yield entry
                waiting += (2 * position + 1, 2 * position + 2)

    def _store(self, entry: Entry) -> None:
        key = entry.key
        if key not in self._entries:
            source = entry.original[:4]
            self._by_source[source] = (*self._by_source.get(source, ()), key)
        self._entries[key] = entry
        if entry.assured:
            self._unassured.pop(key, None)
        else:
            self._unassured[key] = None
        if not entry.replies_only:
            self._found[entry.original] = Found(entry, Direction.ORIGINAL)
        self._found[entry.reply] = Found(entry, Direction.REPLY)
        self._time(key, entry.ends_ns)

    def _time(self, key: FlowTuple, ends_ns: int) -> None:
        """Gives an entry a timer, unless it has one that is early enough, be it of an entry of this key that is gone."""
        at_ns, sequence = self._timed.get(key, (None, 0))
        if at_ns is None:
            self._sequence += 1
            self._arm(key, ends_ns, self._sequence)
        elif ends_ns < at_ns:
            self._arm(key, ends_ns, sequence)

    def _arm(self, key: FlowTuple, at_ns: int, sequence: int) -> None:
        self._timed[key] = at_ns, sequence
        heapq.heappush(self._timers, (at_ns, sequence, key))

    def _removed(self, entries: Iterator[Entry]) -> list[Entry]:
        chosen = list(entries)
        for entry in chosen:
            self._remove(entry)
        return chosen

    def _remove(self, entry: Entry) -> None:
        stored = self._entries.pop(entry.key)
        self._unassured.pop(entry.key, None)
        for flow_tuple in _tuples(stored):
            del self._found[flow_tuple]
        source = stored.original[:4]
        others = tuple(key for key in self._by_source[source] if key != entry.key)
        if others:
            self._by_source[source] = others
        else:
            del self._by_source[source]


def _tuples(entry: Entry) -> tuple[FlowTuple, ...]:
    """The tuples by which the entry is found."""
    # if a port sends to itself, both tuples are the same
    once = entry.replies_only or entry.original == entry.reply
    return (entry.reply,) if once else (entry.original, entry.reply)
