"""Moments of a scenario's run: the rules that a node's kernel held, the machines, who had which address, and what clients dialled.

Counterpart: what one would save on a node during an incident. It never knows what the rules do to a packet.
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.objects import Pod, Service
from kpsim.ruleset import Ruleset
from kpsim.scenario import Scenario
from kpsim.scenario.schema import Origin, Traffic, Via
from kpsim.scenario.services import service_object_key
from kpsim.simulation.history import History, Loaded
from kpsim.simulation.traffic import (
    client_address,
    dialled_addresses,
    dialled_family,
    of_family,
    outside_clients,
    port_of,
)
from kpsim.tracing.directory import Directory
from kpsim.tracing.probes import Probe, make_packet
from kpsim.tracing.site import Sender, Site


def distinct_moments(history: History, node: str, family: Family, most: int) -> list[Loaded]:
    """When the node held other rules than ever before, in order of time; evenly thinned if there are more than ``most``.

    Of rules that it held several times the first time counts, but of the last rules of all the last time: first and last are
    always among them, so ``most`` is at least 2.
    """
    assert most >= 2
    loaded = [each for each in history.loaded if (each.node, each.family) == (node, family)]
    found: dict[Ruleset, Loaded] = {}
    for each in loaded:
        found.setdefault(each.ruleset, each)
    if loaded and loaded[-1].ruleset != loaded[0].ruleset:
        del found[loaded[-1].ruleset]
        found[loaded[-1].ruleset] = loaded[-1]
    return _thinned(list(found.values()), most)


def _thinned(moments: Sequence[Loaded], most: int) -> list[Loaded]:
    if len(moments) <= most:
        return list(moments)
    return [moments[number * (len(moments) - 1) // (most - 1)] for number in range(most)]


def site_at(history: History, moment: Loaded) -> Site:
    """The cluster at a moment: the machines of the run, every node with the rules that it had been given last."""

    def rules(node: str, family: Family) -> Ruleset:
        if (node, family) == (moment.node, moment.family):
            return moment.ruleset
        for each in reversed(history.loaded):
            if each.at_ns <= moment.at_ns and (each.node, each.family) == (node, family):
                return each.ruleset
        raise InputError(f"node {node} has no rules of {family.label}")

    return Site(history.nodes, Directory.of(moment.state), lambda name: history.machines[name], rules)


# --- what the scenario's clients send ------------------------------------------------------------------------------------


def traffic_probes(scenario: Scenario, moment: Loaded) -> Iterator[Probe]:
    """What the clients of the scenario's traffic that meet the moment's node dial then, as first packets.

    Of a source's clients outside the first and the last; whether the source sends at that very time is not asked.
    """
    sources = scenario.spec.traffic
    for traffic, clients in zip(sources, outside_clients(sources), strict=True):
        service = moment.state.get(service_object_key(traffic.service))
        if not isinstance(service, Service) or dialled_family(traffic, service) is not moment.family:
            continue
        dialled = _dialled(traffic, service, moment)
        if dialled is None:
            continue
        protocol, destination, port = dialled
        for sender, source in dict.fromkeys(_senders(scenario, traffic, clients, moment)):
            packet = make_packet(protocol, destination, port, src=source)
            yield Probe(f"{traffic.name} from {source or sender}", moment.node, sender, packet)


def _dialled(traffic: Traffic, service: Service, moment: Loaded) -> tuple[str, str, int] | None:
    """Protocol, address and port; None: the Service offers nothing of this kind and family."""
    port = port_of(service, traffic.port)
    addresses, number = dialled_addresses(service, port, traffic.via)
    node = moment.state.node(moment.node)
    address = of_family(addresses or (node.ips if node else ()), moment.family)
    return (port.protocol, address, number) if port is not None and number and address else None


def _senders(scenario: Scenario, traffic: Traffic, clients: range, moment: Loaded) -> Iterator[tuple[Sender, str]]:
    """Whose packets meet the node first, with their source; empty: the node's kernel chooses."""
    here = not traffic.nodes or moment.node in traffic.nodes
    match traffic.origin:
        case Origin.PODS:
            namespaces = {workload.name: workload.namespace for workload in scenario.spec.workloads}
            name = traffic.workload or ""
            for pod in _pods(moment.state, namespaces[name], name):
                if pod.node_name == moment.node:
                    source = "" if pod.host_network else of_family(pod.ips, moment.family)
                    yield (Sender.NODE if pod.host_network else Sender.POD), source
        case Origin.NODES:
            if here:
                yield Sender.NODE, ""
        case Origin.OUTSIDE:
            if here or traffic.via is Via.LOAD_BALANCER:  # which sends to any node
                for number in (clients[0], clients[-1]):
                    yield Sender.EXTERNAL, client_address(number, moment.family)
        case origin:
            assert_never(origin)


def _pods(state: ClusterState, namespace: str, workload: str) -> Iterator[Pod]:
    """A workload's pods are named after it, with a number."""
    for pod in state.pods:
        if pod.metadata.namespace == namespace and pod.metadata.name.rpartition("-")[0] == workload:
            yield pod
