"""Follows packets for no Service at some nodes, for all nodes that stand for each other.

Of such packets the way depends on the labels of their addresses, and on which of the nodes that they meet are the same
(:mod:`~kpsim.comparison.behaviour.landscape`). So they are followed between the first nodes of each group, and what is
found is told of all.
"""

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from kpsim.comparison.behaviour.asking import DESTINATION, PORT, SOURCE, Region
from kpsim.comparison.behaviour.fates import Item
from kpsim.comparison.behaviour.landscape import Label, Landscape
from kpsim.comparison.behaviour.spaces import Values, holds, lacking, meet, unite
from kpsim.comparison.behaviour.starts import Start
from kpsim.comparison.behaviour.tree import Way

Labels = frozenset[Label]
Ways = list[Way[Item]]
Found = Iterator[tuple[Region, Ways]]
START, SAME = "start", "same"


class _Part(NamedTuple):
    """Addresses of one node's ground, or of nobody's."""

    node: str
    values: Values
    labels: Labels | None  #: None: not all addresses of each label


class _Case(NamedTuple):
    """What packets have in common that fare alike but for the nodes that they meet."""

    destination: Hashable  #: the node's role: START, its group's number, or -1: nobody's ground
    source: Hashable  #: as well; SAME: that of the destination
    to: Labels | Values
    from_: Labels | Values


def _told_by(part: _Part) -> Labels | Values:
    """What tells a part from others: its labels, or the addresses themselves."""
    if not part.node:
        return part.values
    assert part.labels is not None
    return part.labels


class _Told(Exception):
    """A way says something of a node that is not known of others."""


class Standing:
    """The packets of one side in one family. ``exactly`` follows those of a region at their own nodes."""

    def __init__(self, land: Landscape, exactly: "Callable[[Start, Region], Found]") -> None:
        self._land, self._exactly = land, exactly
        self._group = {name: number for number, group in enumerate(land.groups) for name in group}
        self._grounds = {name: unite(of.values()) for name, of in land.ground.items()}
        self._all = unite(self._grounds.values())
        self._parts: dict[Values, list[_Part]] = {}
        self._known: dict[Hashable, list[tuple[Region, Ways]]] = {}

    def ways(self, start: Start, region: Region) -> Found:
        """As ``exactly``."""
        sources, destinations, ports, *_ = region
        services = self._land.services
        if for_services := meet(destinations, services.frontends):
            yield from self._exactly(start, (sources, for_services, ports, (), ()))
        others = lacking(destinations, services.frontends)
        for taken, own in (
            (services.local, unite([services.node_ports, services.served])), (services.shared, services.served),
        ):  # fmt: skip
            here, of_ports = meet(others, taken), meet(ports, own)
            if here and of_ports:
                yield from self._exactly(start, (sources, here, of_ports, (), ()))
                if not_of_ports := lacking(ports, of_ports):
                    yield from self._spread(start, sources, here, not_of_ports)
                others = lacking(others, here)
        if others:
            yield from self._spread(start, sources, others, ports)

    def _spread(self, start: Start, sources: Values, destinations: Values, ports: Values) -> Found:
        """Packets for no Service."""
        cases: dict[_Case, list[tuple[_Part, _Part]]] = {}
        for to in self._parts_of(destinations):
            for from_ in self._parts_of(sources):
                if to.labels is None or from_.labels is None:
                    yield from self._exactly(start, (from_.values, to.values, ports, (), ()))
                    continue
                case = self._case(start.node, to, from_)
                cases.setdefault(case, []).append((to, from_))
        for case, pairs in cases.items():
            try:
                yield from list(self._told(start, case, pairs, ports))
            except _Told:
                for to, from_ in pairs:
                    yield from self._exactly(start, (from_.values, to.values, ports, (), ()))

    def _parts_of(self, values: Values) -> list[_Part]:
        found = self._parts.get(values)
        if found is None:
            found = self._parts[values] = []
            if free := lacking(values, self._all):
                found.append(_Part("", free, frozenset()))
            for name, ground in self._grounds.items():
                if here := meet(values, ground):
                    found.append(_Part(name, here, self._labels(name, here)))
        return found

    def _labels(self, node: str, values: Values) -> Labels | None:
        """The labels whose addresses a set of a node's ground has; None: only some of a label's."""
        found = set()
        for label, of in self._land.ground[node].items():
            both = meet(values, of)
            if both == of:
                found.add(label)
            elif both:
                return None
        return frozenset(found)

    def _case(self, start: str, to: _Part, from_: _Part) -> _Case:
        def role(node: str) -> Hashable:
            return START if node and node == start else self._group[node] if node else -1

        source = SAME if from_.node and from_.node == to.node != start else role(from_.node)
        return _Case(role(to.node), source, _told_by(to), _told_by(from_))

    # --- what is followed --------------------------------------------------------------------------------------------

    def _told(self, start: Start, case: _Case, pairs: list[tuple[_Part, _Part]], ports: Values) -> Found:
        """What becomes of packets of a case. _Told if it cannot be said of all nodes."""
        first, to, from_ = self._frame(start.node, case)
        begin = start._replace(node=first)
        destinations, sources = self._on(to, case.to), self._on(from_, case.from_)
        key = begin, case, ports
        if key not in self._known:
            self._known[key] = list(self._exactly(begin, (sources, destinations, ports, (), ())))
        moved = dict(zip(self._land.own.get(first, ()), self._land.own.get(start.node, ()), strict=True))
        strange = [self._grounds[name] for name in {first, to, from_} if name in self._grounds]
        for region, ways in self._known[key]:
            if not from_ and not lacking(region[SOURCE], self._land.services.frontends):
                for source, destination in self._regions(start.node, case, pairs, region, to, from_):
                    # rules for Services were asked about the source
                    yield from self._exactly(start, (source, destination, region[PORT], (), ()))
                continue
            there = [way._replace(leaf=self._moved(way.leaf, moved, strange)) for way in ways]
            for source, destination in self._regions(start.node, case, pairs, region, to, from_):
                yield (source, destination, region[PORT], (), ()), there

    def _frame(self, start: str, case: _Case) -> tuple[str, str, str]:
        """The nodes between which packets of a case are followed: the first one, the destination's and the source's."""
        used = set[str]()

        def chosen(group: int, *labels: object) -> str:
            for name in self._land.groups[group]:
                if name not in used and all(each <= self._land.ground[name].keys() for each in labels):  # type: ignore[operator]
                    used.add(name)
                    return name
            raise _Told

        of_start = [
            labels for role, labels in ((case.destination, case.to), (case.source, case.from_)) if role == START
        ]
        first = chosen(self._group[start], *of_start) if start in self._group else start
        to = from_ = ""
        if case.destination == START:
            to = first
        elif case.destination != -1:
            to = chosen(case.destination, case.to, *([case.from_] if case.source == SAME else []))  # type: ignore[arg-type]
        if case.source == START:
            from_ = first
        elif case.source == SAME:
            from_ = to
        elif case.source != -1:
            from_ = chosen(case.source, case.from_)  # type: ignore[arg-type]
        return first, to, from_

    def _on(self, node: str, what: Labels | Values) -> Values:
        """Addresses with some labels on a node's ground; of nobody's ground the addresses themselves."""
        if not isinstance(what, frozenset):
            return what
        ground = self._land.ground[node]
        return unite(ground[label] for label in what)

    # --- what is told of others --------------------------------------------------------------------------------------

    def _moved(self, item: Item, moved: dict[int, int], strange: list[Values]) -> Item:
        """What is said of packets that begin at another node."""
        by = item.by
        if by is not None and (by.element is not None or (by.table, by.chain) not in self._land.common):
            raise _Told
        if item.seen is None:
            return item
        numbers = {}
        for name in ("source", "destination"):
            value = getattr(item.seen, name)
            if isinstance(value, int):
                if value not in moved and any(holds(of, value) for of in strange):
                    raise _Told
                numbers[name] = moved.get(value, value)
        return item._replace(seen=item.seen._replace(**numbers)) if numbers else item

    def _regions(
        self, start: str, case: _Case, pairs: list[tuple[_Part, _Part]], region: Region, to: str, from_: str
    ) -> Iterator[tuple[Values, Values]]:
        """The sources and destinations of the packets that a class stands for."""
        sources, destinations = region[SOURCE], region[DESTINATION]
        of_source = self._labels(from_, sources) if from_ else sources
        of_destination = self._labels(to, destinations) if to else destinations
        if of_source is None or of_destination is None:
            raise _Told
        if case.source == SAME:
            for each, _ in pairs:
                yield self._on(each.node, of_source), self._on(each.node, of_destination)
            return
        together: dict[str, list[str]] = {}
        for each, other in pairs:
            together.setdefault(each.node, []).append(other.node)
        merged: dict[Values, list[Values]] = {}
        for node, others in together.items():
            source = unite(self._on(other, of_source) for other in others)
            merged.setdefault(source, []).append(self._on(node, of_destination))
        for source, each_to in merged.items():
            yield source, unite(each_to)
