"""What ip_vs asks of a packet: whether it is for a virtual server, by address, protocol and port (IPVS-11.1)."""

from collections.abc import Hashable, Iterable

from kpsim.comparison.behaviour.asking import Witness, axis_of
from kpsim.comparison.behaviour.spaces import Partition, cuts_of
from kpsim.ipvs.servers import VirtualServerKey
from kpsim.netfilter import HookEntry
from kpsim.packetpath.traversal import Traversal
from kpsim.programmed import Programmed
from kpsim.ruleset import Hook

#: where ip_vs looks virtual servers up (IPVS-10.1). Of equal priorities the later registered one runs first (K-9.1)
_BEFORE = ((Hook.INPUT, 99), (Hook.OUTPUT, -98))


def watching(told: Programmed | None, witness: Witness) -> list[HookEntry]:
    """Hook functions that note what a node's virtual servers ask of packets. They let every packet go on."""
    if told is None or not told.virtual_servers:
        return []
    watched = _Watched(told.virtual_servers, witness)
    return [HookEntry(hook, priority, "what virtual servers ask", watched.asks) for hook, priority in _BEFORE]


class _Watched:
    """Asks first for the address, then for the port."""

    def __init__(self, servers: Iterable[VirtualServerKey], witness: Witness) -> None:
        self._witness = witness
        self._ports: dict[tuple[str, int], set[int]] = {}
        for address, port, protocol in servers:
            self._ports.setdefault((protocol, address), set()).add(port)
        self._partitions: dict[Hashable, Partition] = {}

    def asks(self, traversal: Traversal) -> None:
        packet = traversal.packet
        if traversal.by_ipvs:
            return
        if axis_of(packet.daddr) is not None:
            addresses = (address for protocol, address in self._ports if protocol == packet.protocol)
            self._ask(packet.daddr, packet.protocol, addresses)
        at = packet.protocol, int(packet.daddr)
        if at in self._ports and axis_of(packet.dport) is not None:
            self._ask(packet.dport, at, self._ports[at])

    def _ask(self, number: int, about: Hashable, numbers: Iterable[int]) -> None:
        """Asks which of some numbers it is, or none of them."""
        if about not in self._partitions:
            known = frozenset(numbers)
            self._partitions[about] = Partition(
                cuts_of((each, each) for each in known), lambda each: each if each in known else None
            )
        self._witness.ask(number, self._partitions[about])
