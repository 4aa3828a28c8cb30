"""What a kube-proxy process believes to be in its seven element containers, and which service ports want it (NFT-8.5, 8.6).

Upstream compares every port's elements with its memory in every sync. Here that is done for the ports that changed, and
for those that want a key for which another port wants another value: these two take it from each other in every sync
(NFT-6.6). All other ports would find what they want.
"""

from collections.abc import Iterable, Iterator, Mapping

from kpsim.backends.nftables import names
from kpsim.backends.nftables.document import line
from kpsim.backends.nftables.service_objects import Claim
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.ruleset import Element, Key, Set, Table, TableKey
from kpsim.ruleset.operations import Entry, Operation, Verb

#: in the order in which left-over elements are deleted (NFT-8.4)
CONTAINERS = (
    names.CLUSTER_IPS,
    names.SERVICE_IPS,
    names.FIREWALL_IPS,
    names.NO_ENDPOINT_SERVICES,
    names.NO_ENDPOINT_NODE_PORTS,
    names.SERVICE_NODE_PORTS,
    names.HAIRPIN_CONNECTIONS,
)

Place = tuple[str, Key]  #: a container and a key of it


class Claims:
    """Which service ports want which elements. ``contested`` are the keys for which two ports want different values."""

    def __init__(self) -> None:
        self._holders: dict[Place, dict[ServicePortName, Element]] = {}
        self.contested: set[Place] = set()

    def __contains__(self, place: Place) -> bool:
        return place in self._holders

    def add(self, port: ServicePortName, claims: Iterable[Claim]) -> None:
        for container, key, element in claims:
            place = container, key
            holders = self._holders.setdefault(place, {})
            holders[port] = element
            if len(holders) > 1:
                self._judge(place)

    def remove(self, port: ServicePortName, claims: Iterable[Claim]) -> Iterator[Place]:
        """Yields the places that no port wants any more."""
        for container, key, _ in claims:
            place = container, key
            holders = self._holders.get(place)
            if holders is None:
                continue  # a port may want one element twice
            holders.pop(port, None)
            if not holders:
                del self._holders[place]
                yield place
            self._judge(place)

    def _judge(self, place: Place) -> None:
        values = {element.value for element in self._holders.get(place, {}).values()}
        if len(values) > 1:
            self.contested.add(place)
        else:
            self.contested.discard(place)

    def holders(self, places: Iterable[Place]) -> set[ServicePortName]:
        """The ports that want an element at one of these places."""
        return {port for place in places for port in self._holders.get(place, ())}


class ElementMemory:
    """What the process believes to be in the containers. A failed transaction leaves it wrong (NFT-8.10)."""

    def __init__(self, key: TableKey, declared: Mapping[str, Set]) -> None:
        self._key = key
        self._declared = declared
        self._values: dict[str, dict[Key, object]] = {name: {} for name in CONTAINERS}

    def read_back(self, table: Table | None) -> None:
        """Takes over what the kernel holds. Comments are not compared, so they are not kept."""
        for name in CONTAINERS:
            found = None if table is None else table.sets.get(name)
            elements = {} if found is None else found.elements
            self._values[name] = {key: element.value for key, element in elements.items()}

    def places(self) -> Iterator[Place]:
        """All that it believes to be there."""
        for name, values in self._values.items():
            for key in values:
                yield name, key

    def expect(self, claim: Claim) -> Iterator[Operation]:
        """What makes the element the claimed one: nothing if it is; another value is deleted first (NFT-8.6)."""
        container, key, element = claim
        values = self._values[container]
        if key in values:
            if values[key] == element.value:
                return
            yield Operation(Verb.DELETE, self._key, Entry(key), container)
        values[key] = element.value
        yield Operation(Verb.ADD, self._key, Entry(key, element), container)

    def left_over(self, places: Iterable[Place]) -> Iterator[Operation]:
        """What deletes the elements at these places, which are all there."""
        by_container: dict[str, list[Operation]] = {name: [] for name in CONTAINERS}
        for container, key in places:
            del self._values[container][key]
            by_container[container].append(Operation(Verb.DELETE, self._key, Entry(key), container))
        for deletions in by_container.values():
            # upstream's order is arbitrary here; kpsim sorts by text
            yield from sorted(deletions, key=lambda each: line(each, self._declared))
