"""Carries out the events of a scenario at their times.

Counterpart: people and accidents. An event only calls the part of the simulation that it concerns.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from kpsim.objects import ObjectKey, Service
from kpsim.scenario import Scenario
from kpsim.scenario.nodes import ClusterNode, cluster_nodes
from kpsim.scenario.schema import ActionKind, ScenarioEvent, qualified
from kpsim.scenario.services import patched, service_object_key
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.manifest import node_object, stored_service, timestamp
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.workloads import Workloads
from kpsim.units import format_duration


class Power(Protocol):
    """Switches the nodes' machines off and on."""

    def power_off(self, node: str) -> None: ...

    def power_on(self, node: str) -> None: ...


@dataclass(frozen=True)
class Actors:
    """Everything that an event can act on."""

    api: ApiServer
    workloads: Workloads
    proxies: Mapping[str, KubeProxy]
    load_balancers: Sequence[LoadBalancer]
    machines: Power


class Events:
    """Carries out the events of one scenario."""

    def __init__(self, clock: Clock, scenario: Scenario, seed: int, actors: Actors, log: RunLog) -> None:
        self._clock = clock
        self._scenario = scenario
        self._seed = seed
        self._log = log
        self._actors = actors
        self._nodes: dict[str, ClusterNode] = {node.name: node for node in cluster_nodes(scenario.spec.nodes)}
        self._down_since_ns: dict[str, int] = {}
        self._written: Counter[ObjectKey] = Counter()  #: writes of each object, so that each has a number

    def plan(self) -> None:
        """Schedule every event."""
        for number, event in enumerate(self._scenario.spec.events):
            self._clock.at(event.at_ns, Rank.WORLD, "scenario", lambda n=number, e=event: self._happen(n, e))  # type: ignore[misc]

    def _happen(self, number: int, event: ScenarioEvent) -> None:
        match event.kind:
            case ActionKind.ROLLOUT | ActionKind.SCALE | ActionKind.CRASH | ActionKind.DELETE_PODS:
                self._workload_event(event)
            case ActionKind.NODE_DOWN | ActionKind.NODE_UP:
                self._node_event(event)
            case ActionKind.PATCH_SERVICE | ActionKind.CREATE_SERVICE | ActionKind.DELETE_SERVICE:
                self._service_event(number, event)
            case ActionKind.RESTART_PROXY | ActionKind.FAIL_SYNCS:
                self._proxy_event(event)
            case kind:
                assert_never(kind)

    # -------------------------------------------------------------------------------------------------------- workloads

    def _workload_event(self, event: ScenarioEvent) -> None:
        workloads = self._actors.workloads
        if event.rollout is not None:
            rollout = event.rollout
            self._tell(
                HappeningKind.ROLLOUT,
                rollout.workload,
                f"maxSurge {rollout.max_surge}, maxUnavailable {rollout.max_unavailable}",
            )
            workloads.roll_out(rollout.workload, rollout.max_surge, rollout.max_unavailable)
        if event.scale is not None:
            self._tell(HappeningKind.SCALE, event.scale.workload, f"to {event.scale.replicas}")
            workloads.scale(event.scale.workload, event.scale.replicas)
        if event.crash is not None:
            for pod in workloads.choose(event.crash.workload, event.crash.count, event.crash.nodes):
                workloads.kubelets.crash(pod, restarts=event.crash.restarts)
        if event.delete_pods is not None:
            for pod in workloads.choose(event.delete_pods.workload, event.delete_pods.count, event.delete_pods.nodes):
                workloads.kubelets.delete(pod, force=event.delete_pods.force)

    # ------------------------------------------------------------------------------------------------------------ nodes

    def _node_event(self, event: ScenarioEvent) -> None:
        for name in event.node_down.nodes if event.node_down else ():
            if name not in self._down_since_ns:
                self._node_down(name)
        for name in event.node_up.nodes if event.node_up else ():
            if name in self._down_since_ns:
                self._node_up(name)

    def _node_down(self, name: str) -> None:
        now_ns = self._clock.now_ns
        self._down_since_ns[name] = now_ns
        self._tell(HappeningKind.NODE_DOWN, name)
        self._actors.machines.power_off(name)
        self._actors.workloads.node_down(name)
        for balancer in self._actors.load_balancers:
            balancer.set_reachable(name, False)
        self._actors.proxies[name].lose_power()
        lost_ns = now_ns + self._scenario.spec.delays.node_monitor_grace_ns

        def lost() -> None:
            if self._down_since_ns.get(name) == now_ns:
                self._tell(HappeningKind.NODE_LOST, name, f"silent for {format_duration(lost_ns - now_ns)}")
                self._actors.api.put(node_object(self._nodes[name], ready=False), now_ns, lost_ns)
                self._actors.workloads.node_lost(name, now_ns)

        self._clock.at(lost_ns, Rank.API_WRITE, f"node {name}", lost)

    def _node_up(self, name: str) -> None:
        now_ns = self._clock.now_ns
        del self._down_since_ns[name]
        self._tell(HappeningKind.NODE_UP, name)
        self._actors.machines.power_on(name)
        for balancer in self._actors.load_balancers:
            balancer.set_reachable(name, True)
        self._actors.workloads.node_up(name)
        self._start_proxy(name)
        self._write(
            f"node {name}",
            ObjectKey("Node", "", name),
            lambda at_ns: self._actors.api.put(node_object(self._nodes[name], ready=True), now_ns, at_ns),
        )

    # --------------------------------------------------------------------------------------------------------- services

    def _service_event(self, number: int, event: ScenarioEvent) -> None:
        api, now_ns = self._actors.api, self._clock.now_ns
        if event.create_service is not None:
            made = stored_service(self._scenario.created[number], timestamp(now_ns))
            self._tell(HappeningKind.SERVICE_CREATED, f"{made.metadata.namespace}/{made.metadata.name}")
            self._write("scenario", made.key, lambda at_ns: api.put(made, now_ns, at_ns))
        if event.delete_service is not None:
            key = service_object_key(event.delete_service.service)
            self._tell(HappeningKind.SERVICE_DELETED, qualified(event.delete_service.service))
            self._write("scenario", key, lambda at_ns: api.remove(key, now_ns, at_ns))
        if event.patch_service is not None:
            patch, patched_key = event.patch_service, service_object_key(event.patch_service.service)
            self._tell(HappeningKind.SERVICE_PATCHED, qualified(patch.service), ", ".join(sorted(patch.patch)))

            def apply(at_ns: int) -> None:
                service = api.state.get(patched_key)
                if not isinstance(service, Service):
                    self._tell(HappeningKind.PATCH_REFUSED, qualified(patch.service), "there is no such Service")
                    return
                api.put(patched(service, patch.patch, api.state), now_ns, at_ns)

            self._write("scenario", patched_key, apply)

    # ------------------------------------------------------------------------------------------------------- kube-proxy

    def _proxy_event(self, event: ScenarioEvent) -> None:
        if event.restart_proxy is not None:
            for name in event.restart_proxy.nodes or self._nodes:
                self._restart(name, event.restart_proxy.down_ns)
        if event.fail_syncs is not None:
            fail = event.fail_syncs
            for name in fail.nodes or self._nodes:
                faults = self._actors.proxies[name].faults
                if fail.lasting_ns is not None:
                    faults.until_ns = max(faults.until_ns, self._clock.now_ns + fail.lasting_ns)
                    self._tell(
                        HappeningKind.SYNCS_FAIL, name, f"those that start within {format_duration(fail.lasting_ns)}"
                    )
                else:
                    faults.left += fail.count or 0
                    self._tell(HappeningKind.SYNCS_FAIL, name, f"the next {fail.count} that start")

    def _restart(self, name: str, down_ns: int) -> None:
        proxy = self._actors.proxies[name]
        if not proxy.running:
            return
        self._tell(HappeningKind.PROXY_STOPPED, name)
        proxy.stop()

        def start() -> None:
            if not proxy.running and name not in self._down_since_ns:
                self._tell(HappeningKind.PROXY_STARTED, name)
                self._start_proxy(name)

        self._clock.at(self._clock.now_ns + down_ns, Rank.WORLD, f"node {name}", start)

    def _start_proxy(self, name: str) -> None:
        self._actors.proxies[name].start()

    # ------------------------------------------------------------------------------------------------------------- both

    def _write(self, subject: str, key: ObjectKey, write: Callable[[int], object]) -> None:
        """Send a write of an object to the API server; it arrives after the write delay."""
        self._written[key] += 1
        delay_ns = draw_ns(self._scenario.spec.delays.api_write, self._seed, "api write", key, self._written[key])
        at_ns = self._clock.now_ns + delay_ns
        self._clock.at(at_ns, Rank.API_WRITE, subject, lambda: write(at_ns))

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
