"""Connections of others that take up room in a node's connection table (CT-7). No packet of a run belongs to them."""

from kpsim.addresses import Family
from kpsim.conntrack import ConntrackTable, Entry, FlowTuple
from kpsim.flowstate import FlowState

_SOURCES = 240 << 24  #: reserved addresses (240/4), which nobody sends from
_SERVER = (255 << 24) + 1


def crowd(table: ConntrackTable, entries: int, now_ns: int, ends_ns: int, *, first: int, unreplied: bool) -> None:
    """Put so many connections into a table, which end at a time. ``first`` numbers them, so that each is another.

    They are TCP: established, or SYNs without an answer, which early drop may take (CT-7.2).
    """
    state = FlowState.SYN_SENT if unreplied else FlowState.ESTABLISHED
    for number in range(first, first + entries):
        port, client = number % 60_000, number // 60_000
        original = FlowTuple(Family.IPV4, "tcp", _SOURCES + client, 1024 + port, _SERVER, 443)
        entry = Entry(original, original.inverse(), state, not unreplied, not unreplied, now_ns, ends_ns)
        table.admit(entry, ends_ns)
