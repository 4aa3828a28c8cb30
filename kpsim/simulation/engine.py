"""One run of a scenario: makes all parts, sets them up as if they had run for long, and starts them on one clock.

It only wires the parts together. Each part's own module says what the part does.
"""

from collections.abc import Callable, Iterator
from functools import partial

from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import Endpoints, EndpointSlice, ObjectKey, Service, ServiceCIDR
from kpsim.scenario import Scenario
from kpsim.scenario.clients import outside_clients
from kpsim.scenario.endpoints import stored_endpoints
from kpsim.scenario.nodes import cluster_families, cluster_nodes, joining
from kpsim.scenario.priced import require_costs
from kpsim.scenario.service_names import qualified
from kpsim.scenario.services import service_object_key
from kpsim.scenario.traffic_schema import Traffic, Via
from kpsim.simulation.affinity import AffinityMemory
from kpsim.simulation.apifaults import ApiFaults
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.clock import Clock
from kpsim.simulation.clusternodes import ABSENT, Actors
from kpsim.simulation.dialling import port_of, service_port_name
from kpsim.simulation.elsewhere import ListedElsewhere
from kpsim.simulation.endpoints import EndpointWatch, Members, PodWatch, serving_nodes
from kpsim.simulation.events import Events
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.machines import Machines, NodeKernel
from kpsim.simulation.managers import CONTROLLERS, Controllers
from kpsim.simulation.manifest import CREATED, node_object, service_cidrs, stored_service
from kpsim.simulation.membership import ServiceController
from kpsim.simulation.pins import Pins
from kpsim.simulation.portprobe import PortProbe
from kpsim.simulation.ports import SourcePorts
from kpsim.simulation.rulestimes import RulesTimes
from kpsim.simulation.runlog import RunLog
from kpsim.simulation.senders import World
from kpsim.simulation.traffic import TrafficSource
from kpsim.simulation.watchtraffic import WatchTraffic
from kpsim.simulation.workloads import Workloads, stray_pods


def blank_log(scenario: Scenario, seed: int) -> RunLog:
    """Return the log of a run that has not begun. It already names what the scenario names."""
    spec = scenario.spec
    found = (*scenario.objects, *scenario.created.values())
    services = {obj.key: obj for obj in reversed(found) if isinstance(obj, Service)}
    ports = [(services[service_object_key(traffic.service)], traffic.port) for traffic in spec.traffic]
    return RunLog(
        scenario.name,
        seed,
        spec.duration_ns,
        scenario.proxy.mode.value,
        description=spec.description,
        nodes=tuple(node.name for node in cluster_nodes(spec.nodes)),
        zones={node.name: node.zone for node in cluster_nodes(spec.nodes) if node.zone is not None},
        traffic=tuple(traffic.name for traffic in spec.traffic),
        services=tuple(
            dict.fromkeys(service_port_name(s, port) for s, wanted in ports if (port := port_of(s, wanted)) is not None)
        ),
    )


class Run:
    """All parts of one run. A run is used once."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        spec = scenario.spec
        self.scenario = scenario
        self.spec = spec
        self.seed = seed
        require_costs(spec.delays, scenario.costs, scenario.proxy.mode, scenario.source)
        self.nodes = cluster_nodes(spec.nodes)
        self.log = blank_log(scenario, seed)
        self.clock = Clock(self._subjects())
        self.api = ApiServer(ApiFaults(spec.events, seed, spec.duration_ns))
        self.api.watch(EndpointWatch(self.log).on_change)
        self.api.watch(PodWatch(self.log).on_change)
        self.skews: dict[str, int] = {}
        self.workloads = Workloads(self.clock, self.api, spec, seed, self.log, self.skews)
        self.controllers = Controllers(self.clock, self.api, scenario, seed, self.log)
        self.times = RulesTimes([ServiceKey(*qualified(traffic.service).split("/")) for traffic in spec.traffic])
        elsewhere = ListedElsewhere()
        self.api.watch(elsewhere.on_change)
        self.machines = Machines(
            self.nodes, scenario.proxy, seed, self.workloads.at_ip, self.workloads.version, elsewhere, limit_icmp=spec.icmp_rate_limit,
            walk_all=scenario.walk_all, beside=scenario.beside, strays=stray_pods(spec.workloads, self.nodes),
        )  # fmt: skip
        objects = (*scenario.objects, *scenario.created.values())
        self.service_cidrs = cidrs = service_cidrs(
            [obj for obj in objects if isinstance(obj, Service)],
            self.nodes,
            [obj for obj in objects if isinstance(obj, ServiceCIDR)],
        )
        self.proxies = {
            node.name: KubeProxy(
                self.clock,
                self.api,
                node,
                scenario.proxy,
                spec.delays,
                NodeKernel(self.machines, node.name, self.times),
                seed=seed,
                log=self.log,
                health_changed=partial(self._record_health, node.name),
                families=cluster_families(spec.nodes),
                service_cidrs=cidrs,
                spec=spec.kube_proxy,
                skews=self.skews,
                costs=scenario.costs,
            )
            for node in self.nodes
        }
        self.balancers = {
            key: LoadBalancer(
                self.clock,
                spec.load_balancer,
                key,
                tuple(self.proxies.values()),
                seed,
                self.log,
                known=known,
                dial=PortProbe(self.clock, self.machines, {node.name: node for node in self.nodes}, known),
                serving=partial(serving_nodes, self.api, key),
                losses=self.machines.losses,
            )
            for key in self._balanced_services()
            for known in (self._known(key),)
        }
        self.service_controller = ServiceController(
            self.clock, self.api, spec.load_balancer, tuple(self.balancers.values()), seed, self.log
        )
        self.affinity = AffinityMemory(self.machines, self.times)
        self.pins = Pins(self.machines, self.times)
        dialled = dict.fromkeys(service_object_key(traffic.service) for traffic in spec.traffic)
        self.members = {key: Members(self.api, key, self.times) for key in dialled}

    def _subjects(self) -> list[str]:
        return [
            "scenario",
            *CONTROLLERS,
            *(f"workload {workload.name}" for workload in self.spec.workloads),
            *(f"node {node.name}" for node in self.nodes),
            *(f"traffic {traffic.name}" for traffic in self.spec.traffic),
        ]

    def _balanced_services(self) -> list[ServiceKey]:
        """Return the Services that have a load balancer at the start or get one later, sorted by name."""
        services = [obj for obj in self.scenario.objects if isinstance(obj, Service)]
        services += self.scenario.created.values()
        wanted = {qualified(traffic.service) for traffic in self.spec.traffic if traffic.via is Via.LOAD_BALANCER}
        keys = {
            ServiceKey(s.metadata.namespace, s.metadata.name)
            for s in services
            if s.type == "LoadBalancer" or f"{s.metadata.namespace}/{s.metadata.name}" in wanted
        }
        return sorted(keys)

    def _known(self, key: ServiceKey) -> "_KnownService":
        return _KnownService(self.api, self.scenario, ObjectKey("Service", key.namespace, key.name))

    def run(self, progress: Callable[[int, int], None] | None) -> RunLog:
        for _ in self.steps(progress):
            pass
        return self.log

    def steps(self, progress: Callable[[int, int], None] | None) -> Iterator[int]:
        """Run step by step. Yields the time once everything is set up, and again after every action."""
        if progress is not None:
            progress(0, self.spec.duration_ns)  # in a large cluster the first syncs take a while
        self._set_up()
        Events(
            self.clock,
            self.scenario,
            self.seed,
            Actors(
                self.api,
                self.workloads,
                self.proxies,
                tuple(self.balancers.values()),
                Power(self),
                self.machines,
                self.skews,
            ),
            self.log,
        ).plan()
        self._start_traffic()
        yield self.clock.now_ns
        yield from self.clock.steps(self.spec.duration_ns, progress)
        self._note_unprogrammed()

    def _note_unprogrammed(self) -> None:
        """Note the changes that had not reached the rules at the end. A machine that is off passes no packets."""
        self.log.unprogrammed.extend(
            late
            for node, proxy in self.proxies.items()
            if not self.machines.is_off(node)
            for late in proxy.unprogrammed()
        )

    def _set_up(self) -> None:
        """Make a cluster that has run for an hour: pods ready, slices written, rules in force, nodes in rotation."""
        absent = joining(self.spec.events)
        for node in self.nodes:
            if node.name in absent:
                self.machines.absent.add(node.name)
                self.machines.power_off(node.name)
                self.workloads.bar(node.name, ABSENT)
                for balancer in self.balancers.values():
                    balancer.set_reachable(node.name, False)
            else:
                self.api.put(node_object(node, ready=True), 0, 0)
        self.workloads.adopt_all()
        for obj in self.scenario.objects:
            match obj:
                case Service():
                    self.api.put(stored_service(obj, CREATED), 0, 0)
                case EndpointSlice():
                    self.api.put(obj, 0, 0)
                case Endpoints():
                    self.api.put(stored_endpoints(obj, CREATED), 0, 0)
                case _:
                    pass  # loading the scenario admits no other kind
        self.controllers.start()
        for name, proxy in self.proxies.items():
            if name not in absent:
                proxy.start_synced()
        for balancer in self.balancers.values():
            balancer.start()
        self.service_controller.start()
        self.api.watch(self._on_change)
        self.api.watch(WatchTraffic(self.spec.watchers, self._running_proxies, self.log).on_change)

    def _running_proxies(self) -> int:
        return sum(proxy.running and not self.machines.is_off(name) for name, proxy in self.proxies.items())

    def _on_change(self, change: Change) -> None:
        """Tell the load balancer of a Service that the Service or its endpoints changed.

        The Service's health check node port may have come or gone.
        """
        changed = change.event.object
        name = changed.service_name if isinstance(changed, EndpointSlice) else change.key.name
        balancer = self.balancers.get(ServiceKey(change.key.namespace, name))
        if balancer is None:
            return
        match changed:
            case Service():
                balancer.record()
                balancer.endpoints_changed()
            case EndpointSlice():
                balancer.endpoints_changed()
            case _:
                pass

    def _start_traffic(self) -> None:
        ports = SourcePorts()
        for traffic, clients in zip(self.spec.traffic, outside_clients(self.spec.traffic), strict=True):
            stop_ns = self.spec.duration_ns if traffic.stop_ns is None else min(traffic.stop_ns, self.spec.duration_ns)
            world = self._world_of(traffic, ports)
            TrafficSource(
                self.clock, traffic, world, clients=clients, stop_ns=stop_ns, seed=self.seed, log=self.log
            ).start()

    def _world_of(self, traffic: Traffic, ports: SourcePorts) -> World:
        return World(
            self.machines,
            _KnownService(self.api, self.scenario, service_object_key(traffic.service)),
            self.workloads.answering,
            self.workloads.pod,
            self.nodes,
            self.balancers.get(ServiceKey(*qualified(traffic.service).split("/"))),
            self.affinity,
            self.pins,
            self.members[service_object_key(traffic.service)],
            ports,
        )

    def _record_health(self, node: str) -> None:
        for balancer in self.balancers.values():
            balancer.record(node)


class Power:
    """Switches the nodes' machines off and on."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def power_off(self, node: str) -> None:
        self._run.machines.power_off(node)

    def power_on(self, node: str) -> None:
        self._run.machines.absent.discard(node)
        self._run.machines.power_on(node)
        self._run.times.lost(node, self._run.clock.now_ns)


class _KnownService:
    """The Service as its clients and its load balancer know it: the latest version.

    A Service that is deleted, or not created yet, is still known: as it last was, or as it will be.
    """

    def __init__(self, api: ApiServer, scenario: Scenario, key: ObjectKey) -> None:
        self._api = api
        self._key = key
        found = [obj for obj in (*scenario.objects, *scenario.created.values()) if obj.key == self._key]
        self._latest = next(obj for obj in found if isinstance(obj, Service))

    def __call__(self) -> Service:
        current = self._api.state.get(self._key)
        if isinstance(current, Service):
            self._latest = current
        return self._latest
