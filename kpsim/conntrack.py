"""The connection table of one node: entries found by either of their two tuples, with timers and NAT bindings.

Counterpart: nf_conntrack_core. The table stores and finds; what a packet means to its flow is ``flowstate``'s, when it is
consulted ``netfilter``'s. It never knows rules. kube-proxy's clean-up of stale UDP flows uses ``udp_entries`` and ``delete``.
"""

import enum
import heapq
from collections.abc import Iterator
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.flowstate import ICMP_REQUESTS, NO_HISTORY, Direction, Flow, FlowState, History
from kpsim.packetpath.sysctls import Sysctls

_ICMP_ANSWERS = {
    protocol: {**requests, **{answer: request for request, answer in requests.items()}}
    for protocol, requests in ICMP_REQUESTS.items()
}


class FlowTuple(NamedTuple):
    """One direction of a flow (CT-3.1). ICMP: ``sport`` is the id, ``dport`` is type · 256 + code."""

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
    """The tuple a packet is looked up by."""
    dport = packet.icmp_type * 256 + packet.icmp_code if packet.protocol in ICMP_PROTOCOLS else packet.dport
    return FlowTuple(packet.family, packet.protocol, packet.saddr, packet.sport, packet.daddr, dport)


class StatusBit(enum.StrEnum):
    """Status of an entry (CT-3.2)."""

    SEEN_REPLY = "SEEN_REPLY"
    ASSURED = "ASSURED"
    CONFIRMED = "CONFIRMED"
    SRC_NAT = "SRC_NAT"
    DST_NAT = "DST_NAT"


class Entry(NamedTuple):
    """One connection. ``reply`` is what an answer is expected to look like after NAT: the binding is their difference."""

    original: FlowTuple
    reply: FlowTuple
    state: FlowState
    seen_reply: bool
    assured: bool
    created_ns: int
    expires_ns: int
    masquerade_device: str = ""  #: output interface whose address was borrowed (K-1.6, K-1.9)
    history: History = NO_HISTORY

    @property
    def flow(self) -> Flow:
        return Flow(self.state, self.seen_reply, self.assured, self.created_ns, self.history)

    @property
    def dst_nat(self) -> bool:
        """Answers come from somewhere else than the request went to."""
        original, reply = self.original, self.reply
        if original.protocol in ICMP_PROTOCOLS:
            return reply.saddr != original.daddr
        return reply.saddr != original.daddr or reply.sport != original.dport

    @property
    def src_nat(self) -> bool:
        """Answers go to somewhere else than the request came from; of an ICMP echo the id is a kind of source port."""
        original, reply = self.original, self.reply
        port = reply.sport if original.protocol in ICMP_PROTOCOLS else reply.dport
        return reply.daddr != original.saddr or port != original.sport

    @property
    def status(self) -> frozenset[StatusBit]:
        """Of an entry in the table."""
        bits = {StatusBit.CONFIRMED: True, StatusBit.SEEN_REPLY: self.seen_reply, StatusBit.ASSURED: self.assured,
                StatusBit.SRC_NAT: self.src_nat, StatusBit.DST_NAT: self.dst_nat}  # fmt: skip
        return frozenset(bit for bit, is_set in bits.items() if is_set)

    def translated(self, direction: Direction) -> FlowTuple:
        """What a packet of ``direction`` looks like when both its ends have been translated."""
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
    DELETED = "deleted"  #: by a person or by kube-proxy
    RESET = "reset"  #: an RST answered an unreplied SYN, or a new SYN took its place
    EARLY_DROP = "early drop"  #: it made room in a full table (CT-7.2)
    DEVICE_CHANGED = "output device changed"  #: masqueraded, and routed elsewhere since (K-1.6)
    INTERFACE_DOWN = "interface down"  #: masqueraded to an address that is gone (K-1.9)


class Destroyed(NamedTuple):
    """An entry that is gone, and why."""

    entry: Entry
    ending: Ending


class ConntrackTable:
    """Entries by tuple. Expired entries never match (K-1.7); :meth:`expire` removes them and tells which.

    A full table (CT-7, K-6.7) is modelled simply: a new flow takes the place of the oldest entry that is expired or not
    ASSURED, wherever it hashes to; when all are ASSURED the flow's packet is dropped. Entries of both families count.
    """

    def __init__(self) -> None:
        self._found: dict[FlowTuple, Found] = {}
        self._entries: dict[FlowTuple, Entry] = {}  # by original tuple, oldest first
        self._by_source: dict[tuple[Family, str, int, int], dict[FlowTuple, None]] = {}  # original tuples, oldest first
        self._timers: list[tuple[int, int, FlowTuple]] = []  # one per entry, at a time not later than it expires
        self._timed: set[FlowTuple] = set()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Oldest first, expired ones too."""
        return iter(self._entries.values())

    def lookup(self, flow_tuple: FlowTuple, now_ns: int) -> Found | None:
        """The live entry that has this tuple in either direction."""
        found = self._found.get(flow_tuple)
        return found if found is not None and found.entry.expires_ns > now_ns else None

    def mapped_port(self, original: FlowTuple, address: int, now_ns: int) -> int | None:
        """The port that the newest other flow from the same source, whatever its destination, has at ``address``."""
        for earlier in reversed(self._by_source.get(original[:4], {})):
            entry = self._entries[earlier]
            if entry.reply.daddr == address and entry.expires_ns > now_ns and earlier != original:
                return entry.reply.inverse().sport
        return None

    def victim(self, now_ns: int, sysctls: Sysctls) -> tuple[bool, Entry | None]:
        """Whether a new flow fits, and the entry that must make room for it."""
        if not sysctls.nf_conntrack_max or len(self._entries) < sysctls.nf_conntrack_max:
            return True, None
        for entry in self._entries.values():
            if entry.expires_ns <= now_ns or not entry.assured:
                return True, entry
        return False, None

    def insert(self, entry: Entry, now_ns: int) -> bool:
        """Confirms a new entry; False if a live entry has one of its tuples (K-6.8)."""
        for flow_tuple in (entry.original, entry.reply):
            found = self._found.get(flow_tuple)
            if found is None:
                continue
            if found.entry.expires_ns > now_ns:
                return False
            self._remove(found.entry)
        self._store(entry)
        return True

    def update(self, entry: Entry) -> None:
        """Stores a later version of an entry; nothing if it left the table meanwhile."""
        if (old := self._entries.get(entry.original)) is not None and old.reply == entry.reply:
            self._store(entry)

    def delete(self, original: FlowTuple, reply: FlowTuple) -> Entry | None:
        """Removes the entry with exactly these tuples (CT-2.4); None if there is none. Hosts are told nothing (CT-3.9)."""
        entry = self._entries.get(original)
        if entry is None or entry.reply != reply:
            return None
        self._remove(entry)
        return entry

    def udp_entries(self, family: Family) -> tuple[Entry, ...]:
        """What kube-proxy lists for its clean-up (CT-2.3): UDP of one family, oldest first."""
        return tuple(e for e in self._entries.values() if e.original.protocol == "udp" and e.original.family is family)

    def expire(self, now_ns: int) -> tuple[Destroyed, ...]:
        """Removes what has timed out, in order of time."""
        gone = []
        while self._timers and self._timers[0][0] <= now_ns:
            _, sequence, original = heapq.heappop(self._timers)
            entry = self._entries.get(original)
            if entry is None:
                self._timed.discard(original)
            elif entry.expires_ns > now_ns:  # re-armed since
                heapq.heappush(self._timers, (entry.expires_ns, sequence, original))
            else:
                gone.append(Destroyed(entry, Ending.EXPIRED))
                self._timed.discard(original)
                self._remove(entry)
        return tuple(sorted(gone, key=lambda item: item.entry.expires_ns))

    def interface_down(self, device: str) -> tuple[Destroyed, ...]:
        """A masquerade ends with the interface or address it borrowed from; plain SNAT stays (K-1.9)."""
        gone = tuple(Destroyed(e, Ending.INTERFACE_DOWN) for e in self if e.masquerade_device == device)
        for destroyed in gone:
            self._remove(destroyed.entry)
        return gone

    def _store(self, entry: Entry) -> None:
        if entry.original not in self._entries:
            self._by_source.setdefault(entry.original[:4], {})[entry.original] = None
        self._entries[entry.original] = entry
        self._found[entry.original] = Found(entry, Direction.ORIGINAL)
        self._found[entry.reply] = Found(entry, Direction.REPLY)
        if entry.original not in self._timed:
            self._timed.add(entry.original)
            self._sequence += 1
            heapq.heappush(self._timers, (entry.expires_ns, self._sequence, entry.original))

    def _remove(self, entry: Entry) -> None:
        stored = self._entries.pop(entry.original)
        del self._found[stored.original], self._found[stored.reply]
        of_source = self._by_source[stored.original[:4]]
        del of_source[stored.original]
        if not of_source:
            del self._by_source[stored.original[:4]]
