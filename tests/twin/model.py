"""Plays a scenario, given as the plain document of its file. All delays of the document are constants in nanoseconds."""

from functools import partial
from typing import Any

from twin.balancers import LoadBalancers
from twin.clock import WORLD, Clock, ns
from twin.controller import EndpointSliceController
from twin.deployments import Deployments
from twin.events import NodeEvents, ProxyEvents, WorkloadEvents
from twin.kubelets import Kubelets
from twin.nodes import NodeLifecycle, Nodes
from twin.pods import PodStore, Seen, Status
from twin.proxies import Proxies


class Twin:
    """One cluster: the parts of the pipeline of CP-1.1, joined by their clock.

    What is compared stands in ``store.versions``, ``controller.writes``, ``proxies.syncs`` and ``balancers.turns``.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self._events = document["events"]
        self._clock = clock = Clock(document)
        nodes = Nodes(clock, document)
        self.store = PodStore(clock)
        kubelets = Kubelets(clock, self.store)
        self.controller = EndpointSliceController(clock, document, self.store)
        self._deployments = Deployments(clock, document, nodes, self.store, kubelets)
        self.proxies = Proxies(clock, document, nodes, self.controller.slices)
        self.controller.stored.append(self.proxies.slice_stored)
        self.balancers = LoadBalancers(clock, document, nodes, self.proxies)
        lifecycle = NodeLifecycle(clock, nodes, self.store, self._deployments.clear)
        self._kinds = {
            **WorkloadEvents(clock, nodes, self.store, kubelets, self._deployments).kinds,
            **NodeEvents(clock, nodes, lifecycle, kubelets, self._deployments, self.proxies).kinds,
            **ProxyEvents(clock, nodes, self.controller, self.proxies).kinds,
        }

    def play(self) -> "Twin":
        self._settle()
        for event in self._events:
            ((kind, body),) = ((key, value) for key, value in event.items() if key != "at")
            self._clock.at(ns(event["at"]), WORLD, partial(self._kinds[kind], body))
        self._clock.run()
        return self

    def _settle(self) -> None:
        """Begin with a cluster that has run for an hour: everything is ready, written, programmed, in rotation."""
        for workload, wanted in self._deployments.wanted.items():
            ordered = self._deployments.workloads[workload].get("kind") == "StatefulSet"
            for number in range(wanted):
                pod = self._deployments.place(workload, number if ordered else None)
                assert pod is not None
                pod.kubelet = Status(True, True, -3600)
                pod.api = Seen(pod.kubelet, False)
                pod.answers = pod.contained = True
                pod.gates, pod.ripe = 0, True
        self.controller.settle()
        self.proxies.settle()
        self.balancers.settle()
