"""A comparison of some Services alone, and what Services that share endpoints cost.

No Service of a component stands for another where each shares pods with others of it: packets to all of them are
followed one by one. The cost of that is known before.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.alike import Alike, Kin
from kpsim.comparison.behaviour.asking import Region
from kpsim.comparison.behaviour.components import components, frontends_of, name_of, parsed
from kpsim.comparison.behaviour.spaces import Values, lacking, meet, only, unite
from kpsim.errors import InputError
from kpsim.tracing.site import Site

_FEW = 20  #: Services that share endpoints; so many cost nothing to speak of
MEBIBYTES = 1.5  #: what the packets to a Service take at a node, if they are followed one by one (measured)
SECONDS = 0.15  #: what they take at one of one node; with others, a packet may go on to each (measured)
_MOST_MEBIBYTES = 2048


class Narrow(NamedTuple):
    """The packets for some Services."""

    names: frozenset[str]  #: ``namespace/name``
    frontends: Mapping[Family, Values]
    node_ports: Mapping[str, Values]  #: by protocol
    local: Mapping[Family, Values]  #: where node ports are dialled

    @classmethod
    def to(cls, names: Collection[str], states: Iterable[ClusterState], sites: Iterable[Site]) -> "Narrow":
        """The packets for the Services with these names. InputError if there is no such Service."""
        services = [service for state in states for service in state.services]
        known = {name_of(service) for service in services}
        for name in names:
            if name not in known:
                raise InputError(f"--service {name}: no Service of this name; expected NAMESPACE/NAME")
        chosen = [service for service in services if name_of(service) in names]
        addresses = [address for each in chosen for text, *_ in frontends_of(each) if (address := parsed(text))]
        ports = [(port.protocol.lower(), port.node_port) for each in chosen for port in each.ports if port.node_port]
        ports += [("tcp", each.health_check_node_port) for each in chosen if each.health_check_node_port]
        local: dict[Family, list[Values]] = {Family.IPV4: [((127 << 24, (128 << 24) - 1),)], Family.IPV6: [only(1)]}
        for site in sites:
            for family, value in site.directory.nodes:
                local[family].append(only(value))
            for node in site.node_names or ("node",):
                for family, of in local.items():
                    of += map(only, site.machine(node).routing.addresses(family))
        return cls(
            frozenset(names),
            {family: unite(only(value) for of, value in addresses if of is family) for family in Family},
            {protocol: unite(only(port) for of, port in ports if of == protocol) for protocol, _ in ports},
            {family: unite(of) for family, of in local.items()},
        )

    def parts(self, family: Family, protocol: str, region: Region) -> Iterator[Region]:
        """The parts of a region that are for the Services."""
        sources, destinations, ports, *_ = region
        if dialled := meet(destinations, self.frontends[family]):
            yield sources, dialled, ports, (), ()
        local = meet(lacking(destinations, self.frontends[family]), self.local[family])
        if local and (of_ports := meet(ports, self.node_ports.get(protocol, ()))):
            yield sources, local, of_ports, (), ()

    def of(self, together: Alike) -> Alike:
        """The groups of components that have one of the Services."""
        found = []
        for kin in together.kin:
            groups = [
                tuple(member for member in group if not self.names.isdisjoint(member.component.services))
                for group in kin.groups
            ]
            found.append(Kin(tuple(group for group in groups if group), kin.composed))
        return Alike(tuple(kin for kin in found if kin.groups), together.local)


def entangled(states: Sequence[ClusterState], names: Collection[str] = ()) -> list[str]:
    """The Services that are compared one by one since many share endpoints, of all or of those with the names."""
    nodes_own = {
        address
        for state in states
        for node in state.nodes
        for text in node.ips
        if (address := parsed(text)) is not None
    }
    return [
        name
        for component in components(states, nodes_own, ())
        if len(component.services) > _FEW
        for name in component.services
        if not names or name in names
    ]


def check_memory(states: Sequence[ClusterState], nodes: int, names: Collection[str]) -> None:
    """Raises an InputError if Services that share endpoints would take more memory than is reasonable."""
    found = entangled(states, names)
    needed = MEBIBYTES * len(found) * nodes
    if needed > _MOST_MEBIBYTES:
        raise InputError(
            f"{len(found):,} Services share endpoints or addresses with one another ({', '.join(found[:3])}, …), so none stands "
            f"for others; to compare them at {nodes:,} node{'s' if nodes > 1 else ''} would take about {needed / 1024:.0f} GiB: "
            f"name at most {int(_MOST_MEBIBYTES / MEBIBYTES / nodes):,} of them with --service"
        )
