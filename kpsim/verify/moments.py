"""Moments of a scenario's run: the rules that a node's kernel held, the machines, the owners of addresses, and what
clients dialled.

Counterpart: the dumps that an administrator saves on a node during an incident.
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.objects import Pod, Service
from kpsim.programmed import Programmed
from kpsim.scenario import Scenario
from kpsim.scenario.clients import Clients, outside_clients
from kpsim.scenario.nodes import ClusterNode, cluster_nodes
from kpsim.scenario.services import service_object_key
from kpsim.scenario.traffic_schema import Origin, Traffic, Via
from kpsim.simulation.dialling import (
    dialled_addresses,
    dialled_family,
    node_port_ip,
    of_family,
    port_of,
)
from kpsim.simulation.history import History, Loaded
from kpsim.simulation.portprobe import own_address
from kpsim.tracing.directory import Directory
from kpsim.tracing.probes import Probe, make_packet
from kpsim.tracing.site import Sender, Site


def distinct_moments(history: History, node: str, family: Family, most: int) -> list[Loaded]:
    """The moments when the node began to hold rules that it had not held before, in order of time.

    If there are more than ``most`` moments, some are left out evenly. The first and the last rules are always among
    them, so ``most`` is at least 2. If the node held the same rules several times the first time counts; for the
    rules that it held last, the last time.
    """
    assert most >= 2
    loaded = [each for each in history.loaded if (each.node, each.family) == (node, family)]
    found: dict[Programmed, Loaded] = {}
    for each in loaded:
        found.setdefault(each.programmed, each)
    if loaded and loaded[-1].programmed != loaded[0].programmed:
        del found[loaded[-1].programmed]
        found[loaded[-1].programmed] = loaded[-1]
    return _thinned(list(found.values()), most)


def _thinned(moments: Sequence[Loaded], most: int) -> list[Loaded]:
    if len(moments) <= most:
        return list(moments)
    return [moments[number * (len(moments) - 1) // (most - 1)] for number in range(most)]


def site_at(history: History, moment: Loaded) -> Site:
    """The cluster at a moment: the machines of the run, and each node with the rules that were loaded there last."""

    def told(node: str, family: Family) -> Programmed:
        if (node, family) == (moment.node, moment.family):
            return moment.programmed
        for each in reversed(history.loaded):
            if each.at_ns <= moment.at_ns and (each.node, each.family) == (node, family):
                return each.programmed
        raise InputError(f"node {node} has no rules of {family.label}")

    site = Site(history.nodes, Directory.of(moment.state), lambda name: history.machines[name], told)
    for name, machine in history.machines.items():
        if len(machine.links) > 1:
            site.place(name, machine)  # their addresses are not all in Node objects
    return site


# --- what the scenario's clients send ------------------------------------------------------------------------------------


def traffic_probes(scenario: Scenario, moment: Loaded) -> Iterator[Probe]:
    """First packets that clients of the scenario's traffic send to the moment's node.

    Of a traffic source's clients outside the cluster only the first and the last send. Whether the source is active
    at the moment does not matter.
    """
    sources = scenario.spec.traffic
    nodes = {node.name: node for node in cluster_nodes(scenario.spec.nodes)}
    for traffic, clients in zip(sources, outside_clients(sources), strict=True):
        service = moment.state.get(service_object_key(traffic.service))
        if not isinstance(service, Service) or dialled_family(traffic, service) is not moment.family:
            continue
        others = traffic.nodes if traffic.origin is Origin.PODS else ()
        proxied = _is_proxied(scenario, traffic, service)
        dialled = _dialled(traffic, service, moment, nodes[others[0] if others else moment.node], proxied=proxied)
        if dialled is None:
            continue
        protocol, destination, port = dialled
        senders = _senders(scenario, traffic, clients, moment)
        if proxied:
            senders = iter([(Sender.EXTERNAL, own_address(service, moment.family))])
        for sender, source in dict.fromkeys(senders):
            packet = make_packet(protocol, destination, port, src=source)
            yield Probe(f"{traffic.name} from {source or sender}", moment.node, sender, packet)


def _is_proxied(scenario: Scenario, traffic: Traffic, service: Service) -> bool:
    """Whether nodes see a load balancer's own connections in place of the clients'."""
    if traffic.via is not Via.LOAD_BALANCER or traffic.origin is not Origin.OUTSIDE:
        return False
    local = service.external_traffic_policy == "Local"
    return not scenario.spec.load_balancer.resolved(local=local).preserve_client_ip


def _dialled(
    traffic: Traffic, service: Service, moment: Loaded, node: ClusterNode, *, proxied: bool
) -> tuple[str, str, int] | None:
    """Protocol, address and port that the traffic dials; None if the Service has none of this kind in this family."""
    port = port_of(service, traffic.port)
    addresses, number = dialled_addresses(service, port, traffic.via, proxied=proxied)
    address = of_family(addresses or (node_port_ip(traffic, node, moment.family),), moment.family)
    return (port.protocol, address, number) if port is not None and number and address else None


def _senders(scenario: Scenario, traffic: Traffic, clients: Clients, moment: Loaded) -> Iterator[tuple[Sender, str]]:
    """Senders whose packets reach the moment's node first, each with its source address. The node's kernel chooses an
    empty one.
    """
    here = moment.node in ((traffic.named,) if traffic.named else traffic.nodes or (moment.node,))
    match traffic.origin:
        case Origin.PODS:
            for pod in _pods(scenario, traffic, moment.state):
                if pod.node_name == moment.node:
                    source = "" if pod.host_network else of_family(pod.ips, moment.family)
                    yield (Sender.NODE if pod.host_network else Sender.POD), source
        case Origin.NODES:
            if here:
                yield Sender.NODE, ""
        case Origin.OUTSIDE:
            if here or traffic.via is Via.LOAD_BALANCER:  # a load balancer sends to any node
                for number in (0, clients.count - 1):
                    yield Sender.EXTERNAL, clients.address(number, moment.family)
        case origin:
            assert_never(origin)


def _pods(scenario: Scenario, traffic: Traffic, state: ClusterState) -> Iterator[Pod]:
    """The pods that send: one, or those of a workload. Those have its name and a number, or names that the file gives."""
    workload = None if traffic.workload is None else scenario.spec.workload(traffic.workload)
    given = {pod.name for pod in workload.pods} if workload is not None else ()
    for pod in state.pods:
        namespace, name = pod.metadata.namespace, pod.metadata.name
        if workload is None:
            sends = traffic.named == f"{namespace}/{name}"
        else:
            sends = namespace == workload.namespace and (name in given or name.rpartition("-")[0] == workload.name)
        if sends:
            yield pod
