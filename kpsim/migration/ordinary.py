"""Which packets somebody sends without forging anything: the page is about these.

The comparison covers all sources and destinations, so it also finds what spoofed, loopback and broadcast addresses meet.
A pod sends from its node's pod network, and a process from the address that routing chooses. Another node, or a pod of it,
dials this node's own addresses: what it sends to Services its own rules translate. A client outside has an address that is
none of the cluster's. Nobody dials broadcast and multicast addresses, and only the node itself dials its loopback.
"""

from dataclasses import dataclass, field, replace

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.comparison.behaviour.spaces import Values, holds, is_one, lacking, meet, only, unite, without
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.explore import Cluster
from kpsim.migration.differences import Differing
from kpsim.nodes import Machine
from kpsim.tracing.site import Sender

_MOST_ASKED = 16  #: destinations of one difference for which routing is asked for the source of a process
_LOOPBACK: dict[Family, Values] = {Family.IPV4: ((127 << 24, (128 << 24) - 1),), Family.IPV6: only(1)}
#: addresses that no host has: this network and loopback, link-local of IPv6, multicast and above
_NOT_UNICAST: dict[Family, Values] = {
    Family.IPV4: ((0, (1 << 24) - 1), *_LOOPBACK[Family.IPV4], (224 << 24, (1 << 32) - 1)),
    Family.IPV6: ((0, (1 << 120) - 1), (0xFE80 << 112, (0xFEC0 << 112) - 1), (0xFF << 120, (1 << 128) - 1)),
}


@dataclass
class Ordinary:
    """The ordinary packets of a cluster."""

    cluster: Cluster
    after: Cluster  #: in the new mode
    _sources: dict[tuple[Family, str, Sender], Values] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sites = self.cluster.site, self.after.site

    def of(self, difference: Differing) -> Differing | None:
        """The part of a difference that ordinary packets meet; None if there is none."""
        family, sender = difference.family, difference.sender
        dialled = lacking(difference.destination, self._no_destination(family))
        if sender is not Sender.NODE:
            dialled = lacking(dialled, _LOOPBACK[family])
        if sender is Sender.PEER:
            dialled = meet(dialled, self._own(family, difference.node))
        if not dialled:
            return None
        if sender is Sender.NODE and difference.source == UNBOUND:
            source = UNBOUND
        elif sender is Sender.NODE:
            asked = (self._own_source(family, difference.node, low) for low, _ in dialled[:_MOST_ASKED])
            source = unite(only(each) for each in asked if each is not None and holds(difference.source, each))
        else:
            source = meet(difference.source, self.sources(family, difference.node, sender))
            if sender is Sender.POD and source == dialled and is_one(source):
                return None  # it never leaves the pod
        return replace(difference, source=source, destination=dialled) if source else None

    def _own_source(self, family: Family, node: str, destination: int) -> int | None:
        """The source that routing chooses for a process in both modes; None: they differ, or there is none."""
        chosen = {site.netns(node, family).routing.source_for(family, destination) for site in self._sites}
        return chosen.pop() if len(chosen) == 1 else None

    def sources(self, family: Family, node: str, sender: Sender) -> Values:
        """The sources that a kind of client at a node has. Of a process, routing chooses one for each destination."""
        key = family, node, sender
        if key not in self._sources:
            self._sources[key] = self._make(*key)
        return self._sources[key]

    def _make(self, family: Family, node: str, sender: Sender) -> Values:
        others = [name for name in self._sites[0].node_names if name != node]
        match sender:
            case Sender.POD:
                return self._pods(family, node)
            case Sender.PEER:
                return unite(
                    [self._own(family, name) for name in others] + [self._pods(family, name) for name in others]
                )
            case Sender.EXTERNAL:
                everybody: Values = ((0, (1 << family.bits) - 1),)
                return lacking(
                    lacking(everybody, self._of_cluster(family)), unite([_NOT_UNICAST[family], self._broadcast(family)])
                )
            case Sender.NODE:
                return self._own(family, node)

    def _pods(self, family: Family, node: str) -> Values:
        """The pods' networks without the addresses that no pod has, and pods outside of them."""
        machine = self._sites[0].machine(node)
        pods = _pod_networks(machine, family)
        for low, high in pods:
            pods = without(without(pods, low), high)
        for address in _addresses(machine, family):
            pods = without(pods, address)
        return unite([pods, *map(only, self._sites[0].directory.pods_on(node, family))])

    def _own(self, family: Family, node: str) -> Values:
        addresses = _addresses(self._sites[0].machine(node), family)
        return unite(only(address) for address in addresses if not holds(_LOOPBACK[family], address))

    def _no_destination(self, family: Family) -> Values:
        return unite([lacking(_NOT_UNICAST[family], _LOOPBACK[family]), self._broadcast(family)])

    def _broadcast(self, family: Family) -> Values:
        """The broadcast addresses of the nodes' networks."""
        if family is not Family.IPV4:
            return ()
        interfaces = [
            each
            for name in self._sites[0].node_names
            for each in self._sites[0].machine(name).routing.interfaces.values()
        ]
        found = [address.network for interface in interfaces for address in interface.of(family)]
        loopback = _LOOPBACK[family]
        return unite(
            only(network.last) for network in found if network.prefix < 31 and not holds(loopback, network.last)
        )

    def _of_cluster(self, family: Family) -> Values:
        """The addresses of nodes, pods and Services."""
        machines = [self._sites[0].machine(name) for name in self._sites[0].node_names]
        found = [_pod_networks(machine, family) for machine in machines]
        found += [self._own(family, name) for name in self._sites[0].node_names]
        networks = [parse_network(text.strip()) for text in self.cluster.config.cluster_cidr.split(",")]
        networks += [parse_network(text) for cidr in self.cluster.state.service_cidrs for text in cidr.cidrs]
        found += [((each.base, each.last),) for each in networks if each is not None and each.family is family]
        for service in self.cluster.state.services:
            texts = (*service.cluster_ips, *service.external_ips, *(each.ip for each in service.ingress))
            parsed = (parse_ip(text) for text in texts)
            found += [only(each[1]) for each in parsed if each is not None and each[0] is family]
        return unite(found)


def _addresses(machine: Machine, family: Family) -> list[int]:
    return [each.value for interface in machine.routing.interfaces.values() for each in interface.of(family)]


def _pod_networks(machine: Machine, family: Family) -> Values:
    return unite(((network.base, network.last),) for network in machine.pod_networks if network.family is family)
