"""Which endpoints are alike: plain pods of one node, which nothing but their own Services tells apart.

A pod is plain if its address is in its node's pod network and means nothing else: no machine and no Service has it. Rules, routes and
connections then treat it as any other pod of its node, as long as nodes hold no rules but kube-proxy's and no connections, and as
long as it is not the client itself.
"""

from collections.abc import Hashable
from typing import NamedTuple

from kpsim.addresses import Family, Network, parse_network
from kpsim.exchange import Answers, Target
from kpsim.fabric import Place, Whose
from kpsim.packet import Packet
from kpsim.tracing.site import Site


class Pod(NamedTuple):
    """What tells plain pods from each other."""

    node: str
    networks: tuple[bool, ...]  #: which of the networks that anything compares have the address
    assumed: bool  #: whether something listens at the endpoint's port is not known


class PlainPods:
    """The plain pods of sites whose nodes are alike but for their Services. ``compared`` are networks that kube-proxy's rules name."""

    def __init__(self, site: Site, cluster_cidr: str) -> None:
        self._known: dict[Target, Pod | None] = {}
        self._directory = site.directory
        machines = {name: site.machine(name) for name in site.node_names}
        self._own = frozenset(
            (address.family, address.value)
            for machine in machines.values()
            for interface in machine.routing.interfaces.values()
            for address in interface.addresses
        )
        self._networks = {name: machine.pod_networks for name, machine in machines.items()}
        named = [parse_network(text.strip()) for text in cluster_cidr.split(",")]
        self._compared: tuple[Network, ...] = (*(each for each in named if each is not None), *site.ends.networks())

    def of(self, target: Target, site: Site) -> Pod | None:
        """The plain pod that has an endpoint; None: it is none, or it does not answer."""
        if target not in self._known:
            self._known[target] = self._read(target, site)
        return self._known[target]

    def kind_of(self, family: Family, address: int) -> Hashable:
        """What tells a dialled address from others: only the networks that have it, if only Services have it."""
        at = family, address
        of_cluster = at in self._own or at in self._directory.pods or at in self._directory.nodes
        if of_cluster or any(_has(network, family, address) for of in self._networks.values() for network in of):
            return address
        return self._within(family, address)

    def _within(self, family: Family, address: int) -> tuple[bool, ...]:
        return tuple([_has(network, family, address) for network in self._compared])

    def _read(self, target: Target, site: Site) -> Pod | None:
        family, address = at = target.family, target.address
        owner = self._directory.pods.get(at)
        if owner is None or at in self._own or at in self._directory.nodes or self._directory.is_of_service(at):
            return None
        if not any(_is_inside(network, family, address) for network in self._networks.get(owner.node, ())):
            return None
        packet = Packet(family, target.protocol, 0, address, 0, target.port)
        reaction = site.ends.reaction(Place(Whose.POD, owner.node, address), packet)
        if not isinstance(reaction, Answers) or reaction.http is not None:
            return None
        return Pod(owner.node, self._within(family, address), reaction.assumed)


def _has(network: Network, family: Family, address: int) -> bool:
    return network.family is family and address in network


def _is_inside(network: Network, family: Family, address: int) -> bool:
    """Whether a network has an address that is neither its first nor its last, which mean the network and all of it."""
    return _has(network, family, address) and address not in (network.base, network.last)
