"""What a sync costs before and after: what the model counts, beside what others measured of clusters like it."""

from dataclasses import dataclass

from kpsim.addresses import Family
from kpsim.backends import Transaction
from kpsim.cluster import Event, EventType
from kpsim.explore import Cluster
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.migration.facts import Costs
from kpsim.migration.table import costs_of
from kpsim.objects import EndpointSlice, endpoint_slice_from_json
from kpsim.programmed import Programmed
from kpsim.replay import START_NS
from kpsim.units import MINUTE_NS


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a cluster is to one kube-proxy."""

    services: int
    ports: int
    endpoints: int  #: over all ports
    node: str
    family: Family


@dataclass(frozen=True, slots=True)
class Counted:
    """What the kernel of one node holds in one mode, all programs together, and how much text syncs send to the tool.

    ``one_change`` is a sync after one endpoint has gone, in lines; None: the cluster has no endpoint.
    """

    rules: int
    chains: int
    elements: int  #: of sets and maps, and ipsets
    virtual_servers: int  #: of ip_vs
    real_servers: int  #: over all virtual servers
    first_sync: int  #: in lines
    one_change: int | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What one mode costs this cluster. ``figures`` are published or measured elsewhere."""

    figures: Costs
    counted: Counted


def sizes_and_costs(before: Cluster, after: Cluster) -> tuple[Sizes, Cost, Cost]:
    """The size of a cluster, and its costs in two modes. They are of its first node."""
    node, family = before.node_names[0], before.families[0]
    counted, sizes = _counted(before, node, family)
    then, _ = _counted(after, node, family)
    return sizes, Cost(costs_of(before.config.mode), counted), Cost(costs_of(after.config.mode), then)


def _counted(cluster: Cluster, node: str, family: Family) -> tuple[Counted, Sizes]:
    proxier, first = cluster.started(node, family)
    maps = proxier.maps
    sizes = Sizes(len(maps.ports_of), sum(map(len, maps.ports_of.values())), maps.endpoint_total, node, family)
    held, sent = proxier.held, _lines(first.transaction)
    changed = None
    if (found := _largest_slice(cluster, family, set(maps.ports_of))) is not None:
        later = START_NS + MINUTE_NS
        proxier.on_event(Event(EventType.MODIFIED, found, _without_one(found)), later)
        changed = _lines(proxier.sync(later).transaction)
    return Counted(*_held(held), sent, changed), sizes


def _held(held: Programmed) -> tuple[int, int, int, int, int]:
    """The numbers of rules, chains, elements, virtual and real servers."""
    tables = held.ruleset.in_order()
    chains = [chain for table in tables for chain in table.chains.values()]
    sets = [*(each for table in tables for each in table.sets.values()), *held.ipsets.values()]
    servers = [len(virtual.servers) for virtual in held.virtual_servers.values()]
    rules, elements = sum(len(chain.rules) for chain in chains), sum(len(each.elements) for each in sets)
    return rules, len(chains), elements, len(servers), sum(servers)


def _lines(transaction: Transaction) -> int:
    return sum(document().count("\n") for document in transaction.documents)


def _largest_slice(cluster: Cluster, family: Family, services: set[ServiceKey]) -> EndpointSlice | None:
    """The first of the EndpointSlices with the most endpoints, of a Service that kube-proxy serves."""
    slices = [
        each
        for each in cluster.state.endpoint_slices
        if each.endpoints
        and each.address_type == family.label
        and ServiceKey(each.metadata.namespace, each.service_name) in services
    ]
    return max(slices, key=lambda each: len(each.endpoints), default=None)


def _without_one(found: EndpointSlice) -> EndpointSlice:
    """The slice without its first ready endpoint, or without its first if none is ready."""
    gone = next((number for number, each in enumerate(found.endpoints) if each.ready), 0)
    endpoints = found.json["endpoints"]
    return endpoint_slice_from_json({**found.json, "endpoints": [*endpoints[:gone], *endpoints[gone + 1 :]]})
