"""Carries out the events of a scenario at their times.

Counterpart: people and accidents. An event only calls the part of the simulation that it concerns.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import assert_never

from kpsim.backends.table import traits_of
from kpsim.objects import Endpoints, EndpointSlice, ObjectKey, Service
from kpsim.scenario import Scenario
from kpsim.scenario.endpoints import endpoints_object_key, patched_endpoints, stored_endpoints
from kpsim.scenario.event_schema import (
    ActionKind,
    Crash,
    DeleteEndpointSlice,
    DeletePods,
    ScenarioEvent,
    SetLiveness,
    SetReadiness,
)
from kpsim.scenario.nodes import cluster_families, cluster_nodes, joining
from kpsim.scenario.service_names import qualified
from kpsim.scenario.services import patched, patched_slice, service_object_key, slice_object_key, slices_named
from kpsim.simulation.apievents import ApiEvents
from kpsim.simulation.apifaults import COMMANDS
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import Actors, ClusterNodes
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.manifest import stored_service, timestamp
from kpsim.simulation.namespaces import Namespaces
from kpsim.simulation.networkevents import NetworkEvents
from kpsim.simulation.nodeevents import NodeEvents
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.proxyevents import ProxyEvents
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog


class Events:
    """Carries out the events of one scenario."""

    def __init__(self, clock: Clock, scenario: Scenario, seed: int, actors: Actors, log: RunLog) -> None:
        self._clock = clock
        self._scenario = scenario
        self._seed = seed
        self._log = log
        self._actors = actors
        spec = scenario.spec
        self._nodes = ClusterNodes(
            clock, cluster_nodes(spec.nodes), spec.delays, seed, actors, log, absent=joining(spec.events)
        )
        self._node_events = NodeEvents(clock, self._nodes, log)
        self._api_events = ApiEvents(clock, actors, self._nodes, log)
        families = cluster_families(spec.nodes)
        self._proxy_events = ProxyEvents(
            clock,
            self._nodes,
            actors.proxies,
            scenario.loaded,
            families,
            actors.skews,
            traits_of(scenario.proxy.mode),
            log,
        )
        self._network_events = NetworkEvents(clock, self._nodes, actors, log)
        self._namespaces = Namespaces(clock, actors, spec.delays, seed, log)
        self._written: Counter[ObjectKey] = Counter()  #: writes of each object, so that each has a number

    def plan(self) -> None:
        """Schedule every event."""
        for number, event in enumerate(self._scenario.spec.events):
            self._clock.at(event.at_ns, Rank.WORLD, "scenario", lambda n=number, e=event: self._happen(n, e))  # type: ignore[misc]

    def _happen(self, number: int, event: ScenarioEvent) -> None:
        if event.kind in COMMANDS and self._actors.api.faults.down_until(self._clock.now_ns) is not None:
            self._tell(HappeningKind.NO_EFFECT, "API server", f"{event.kind_in_file}: the API server is down")
            return
        match event.kind:
            case (
                ActionKind.ROLLOUT
                | ActionKind.SCALE
                | ActionKind.CRASH
                | ActionKind.DELETE_PODS
                | ActionKind.READINESS
                | ActionKind.LIVENESS
            ):
                self._workload_event(event)
            case (
                ActionKind.NODE_DOWN
                | ActionKind.NODE_UP
                | ActionKind.TAINT_NODE
                | ActionKind.UNTAINT_NODE
                | ActionKind.ADD_NODE
                | ActionKind.DELETE_NODE
                | ActionKind.LABEL_NODE
                | ActionKind.CORDON
                | ActionKind.UNCORDON
                | ActionKind.DRAIN
                | ActionKind.REBOOT
                | ActionKind.ROLLING_UPGRADE
            ):
                self._node_events.happen(event)
            case ActionKind.PATCH_SERVICE | ActionKind.CREATE_SERVICE | ActionKind.DELETE_SERVICE:
                self._service_event(number, event)
            case ActionKind.PATCH_ENDPOINT_SLICE | ActionKind.CREATE_ENDPOINT_SLICE | ActionKind.DELETE_ENDPOINT_SLICE:
                self._slice_event(number, event)
            case ActionKind.DELETE_NAMESPACE:
                assert event.delete_namespace is not None
                self._namespaces.delete(event.delete_namespace.namespace)
            case ActionKind.PATCH_ENDPOINTS | ActionKind.CREATE_ENDPOINTS | ActionKind.DELETE_ENDPOINTS:
                self._endpoints_event(number, event)
            case (
                ActionKind.RESTART_PROXY
                | ActionKind.CRASH_PROXY
                | ActionKind.WRITE_PROXY_CONFIG
                | ActionKind.FAIL_SYNCS
                | ActionKind.HOLD_LOCK
                | ActionKind.LOAD_RULES
                | ActionKind.FLUSH_RULES
                | ActionKind.CLOCK_SKEW
            ):
                self._proxy_events.happen(number, event)
            case (
                ActionKind.SET_CONNTRACK_MAX
                | ActionKind.FILL_CONNTRACK
                | ActionKind.LOSE_PACKETS
                | ActionKind.SLOW_LOAD_BALANCER
            ):
                self._network_events.happen(event)
            case (
                ActionKind.API_SERVER_DOWN
                | ActionKind.API_SERVER_SLOW
                | ActionKind.API_SERVER_BUSY
                | ActionKind.CUT_OFF
                | ActionKind.CLOSE_WATCHES
            ):
                self._api_events.happen(event)
            case kind:
                assert_never(kind)

    # -------------------------------------------------------------------------------------------------------- workloads

    def _workload_event(self, event: ScenarioEvent) -> None:
        workloads = self._actors.workloads
        for change in (event.rollout, event.scale):
            if change is not None and workloads.is_gone(change.workload):
                words = f"{event.kind_in_file}: its namespace was deleted"
                self._tell(HappeningKind.NO_EFFECT, change.workload, words)
                return
        if event.rollout is not None:
            rollout = event.rollout
            surge, unavailable = rollout.shares(self._scenario.spec.workload(rollout.workload).kind)
            how = "Recreate" if rollout.recreate else f"maxSurge {surge}, maxUnavailable {unavailable}"
            self._tell(HappeningKind.ROLLOUT, rollout.workload, how)
            workloads.roll_out(rollout.workload, surge, unavailable, rollout.partition, recreate=rollout.recreate)
        if event.scale is not None:
            self._tell(HappeningKind.SCALE, event.scale.workload, f"to {event.scale.replicas}")
            workloads.scale(event.scale.workload, event.scale.replicas)
        if event.crash is not None:
            for pod in self._chosen("crash", event.crash):
                workloads.kubelets.crash(pod, restarts=event.crash.restarts)
        if event.delete_pods is not None:
            for pod in self._chosen("deletePods", event.delete_pods):
                workloads.kubelets.delete(pod, force=event.delete_pods.force)
        if event.readiness is not None:
            self._readiness_event(event.readiness)
        if event.liveness is not None:
            for pod in self._chosen("liveness", event.liveness):
                self._tell(HappeningKind.LIVENESS_FAILS, f"{pod.workload.namespace}/{pod.name}")
                pod.stuck, pod.late = True, event.liveness.late

    def _readiness_event(self, readiness: SetReadiness) -> None:
        ready, kubelets = readiness.ready, self._actors.workloads.kubelets
        kinds = {False: HappeningKind.PROBE_FAILS, True: HappeningKind.PROBE_PASSES}
        pods = self._chosen("readiness", readiness, refusing=ready)

        def turn(pod: PodLife, passes: bool) -> None:
            if pod.refuses is passes and pod.exists:
                self._tell(kinds[passes], f"{pod.workload.namespace}/{pod.name}")
                kubelets.set_probe(pod, passes, late=readiness.late)

        for pod in pods:
            turn(pod, ready)
            if readiness.lasting_ns is not None:
                back_ns = self._clock.now_ns + readiness.lasting_ns
                self._clock.at(back_ns, Rank.WORLD, "scenario", partial(turn, pod, not ready))

    def _chosen(
        self, event: str, choice: Crash | DeletePods | SetReadiness | SetLiveness, *, refusing: bool | None = None
    ) -> list[PodLife]:
        """Return the pods that an event concerns, and tell if there are fewer than it asks for."""
        pods = self._actors.workloads.choose(choice.workload, choice.count, choice.nodes, refusing=refusing)
        if len(pods) < choice.count:
            self._tell(HappeningKind.NO_EFFECT, choice.workload, f"{event}: {len(pods)} of {choice.count} pods found")
        return pods

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

    def _slice_event(self, number: int, event: ScenarioEvent) -> None:
        """Change a slice that no controller manages, as its author would."""
        api, now_ns = self._actors.api, self._clock.now_ns
        if event.create_endpoint_slice is not None:
            made = self._scenario.created_slices[number]
            self._tell(HappeningKind.SLICE_CREATED, f"{made.metadata.namespace}/{made.metadata.name}")
            self._write("scenario", made.key, lambda at_ns: api.put(made, now_ns, at_ns))
        if event.delete_endpoint_slice is not None:
            self._delete_slices(event.delete_endpoint_slice)
        if event.patch_endpoint_slice is not None:
            patch = event.patch_endpoint_slice
            key = slice_object_key(patch.endpoint_slice)
            self._tell(HappeningKind.SLICE_PATCHED, f"{key.namespace}/{key.name}", ", ".join(sorted(patch.patch)))

            def apply(at_ns: int) -> None:
                found = api.state.get(key)
                if isinstance(found, EndpointSlice):
                    api.put(patched_slice(found, patch.patch, api.state), now_ns, at_ns)
                else:
                    self._tell(
                        HappeningKind.PATCH_REFUSED, f"{key.namespace}/{key.name}", "there is no such EndpointSlice"
                    )

            self._write("scenario", key, apply)

    def _delete_slices(self, event: DeleteEndpointSlice) -> None:
        api, now_ns = self._actors.api, self._clock.now_ns
        if event.endpoint_slice is not None:
            keys = [slice_object_key(event.endpoint_slice)]
        else:
            keys = [item.key for item in slices_named(event.service or "", api.state)]
            if not keys:
                self._tell(HappeningKind.NO_EFFECT, qualified(event.service or ""), "deleteEndpointSlice: no slices")
        for key in keys:
            self._tell(HappeningKind.SLICE_DELETED, f"{key.namespace}/{key.name}")
            self._write("scenario", key, lambda at_ns, key=key: api.remove(key, now_ns, at_ns))  # type: ignore[misc]

    def _endpoints_event(self, number: int, event: ScenarioEvent) -> None:
        """Change an Endpoints object that no controller writes, as its author would."""
        api, now_ns = self._actors.api, self._clock.now_ns
        if event.create_endpoints is not None:
            made = stored_endpoints(self._scenario.created_endpoints[number], timestamp(now_ns))
            self._tell(HappeningKind.ENDPOINTS_CREATED, f"{made.metadata.namespace}/{made.metadata.name}")
            self._write("scenario", made.key, lambda at_ns: api.put(made, now_ns, at_ns))
        if event.delete_endpoints is not None:
            key = endpoints_object_key(event.delete_endpoints.endpoints)
            self._tell(HappeningKind.ENDPOINTS_DELETED, f"{key.namespace}/{key.name}")
            self._write("scenario", key, lambda at_ns: api.remove(key, now_ns, at_ns))
        if event.patch_endpoints is not None:
            patch, patched_key = event.patch_endpoints, endpoints_object_key(event.patch_endpoints.endpoints)
            name = f"{patched_key.namespace}/{patched_key.name}"
            self._tell(HappeningKind.ENDPOINTS_PATCHED, name, ", ".join(sorted(patch.patch)))

            def apply(at_ns: int) -> None:
                found = api.state.get(patched_key)
                if isinstance(found, Endpoints):
                    api.put(patched_endpoints(found, patch.patch, api.state), now_ns, at_ns)
                else:
                    self._tell(HappeningKind.PATCH_REFUSED, name, "there is no such Endpoints object")

            self._write("scenario", patched_key, apply)

    # ------------------------------------------------------------------------------------------------------------- both

    def _write(self, subject: str, key: ObjectKey, write: Callable[[int], object]) -> None:
        """Send a write of an object to the API server; it arrives after the write delay."""
        self._written[key] += 1
        delay_ns = draw_ns(self._scenario.spec.delays.api_write, self._seed, "api write", key, self._written[key])
        at_ns = self._actors.api.faults.stored_ns(self._clock.now_ns + delay_ns)
        self._clock.at(at_ns, Rank.API_WRITE, subject, lambda: write(at_ns))

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
