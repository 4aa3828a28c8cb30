"""A load balancer on the clock: it probes nodes and sends new connections to those that it believes healthy.

Counterpart: a cloud's network load balancer. It knows a node only by the answers to its probes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpsim import rng
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.scenario.schema import LoadBalancerSpec
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.runlog import NodeHealth, RunLog


@dataclass(frozen=True, slots=True)
class Belief:
    """The load balancer's belief about one node, and how many probes in a row have contradicted it."""

    in_rotation: bool
    contrary: int = 0

    def after(self, passed: bool, spec: LoadBalancerSpec) -> "Belief":
        """Return the belief after one more probe. It turns after as many contrary answers as the threshold says."""
        if passed == self.in_rotation:
            return Belief(self.in_rotation)
        threshold = spec.unhealthy_threshold if self.in_rotation else spec.healthy_threshold
        if self.contrary + 1 >= threshold:
            return Belief(passed)
        return Belief(self.in_rotation, self.contrary + 1)


class LoadBalancer:
    """The load balancer of one Service.

    It probes the Service's health check node port if there is one, else ``/healthz``.
    """

    def __init__(
        self,
        clock: Clock,
        spec: LoadBalancerSpec,
        service: ServiceKey,
        nodes: Sequence[KubeProxy],
        seed: int,
        log: RunLog,
        *,
        has_health_check_port: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._spec = spec
        self._nodes = {node.name: node for node in nodes}
        self._order = {node.name: number for number, node in enumerate(nodes)}
        self._seed = seed
        self._log = log
        self.service = service
        self._has_health_check_port = has_health_check_port
        self._probes_service = False  #: whether the last probe went to the health check node port, not to ``/healthz``
        self._unreachable: frozenset[str] = frozenset()
        self._members: frozenset[str] = frozenset(self._nodes)
        self._beliefs: dict[str, Belief] = {}
        self._recorded: dict[str, tuple[bool, bool, int, int]] = {}
        self._unrecorded: set[str] = set()  #: nodes whose state may differ from the last record

    def start(self) -> None:
        """Begin to probe. At first the belief about every node is its true state."""
        now_ns = self._clock.now_ns
        self._find_port()
        for node in self._nodes.values():
            self._beliefs[node.name] = Belief(self._passes(node))
            first_ns = rng.below(self._spec.interval_ns, self._seed, "first probe", str(self.service), node.name)
            self._plan_probe(node, now_ns + first_ns)
        self.record(*self._nodes)

    def set_reachable(self, node: str, reachable: bool) -> None:
        """Say whether the node's machine answers at all. The caller records the node when all its parts have changed."""
        self._unreachable = self._unreachable - {node} if reachable else self._unreachable | {node}

    def set_members(self, nodes: frozenset[str]) -> None:
        """Say which nodes it sends to at all. One that is new has to pass its probes first."""
        joined, left = nodes - self._members, self._members - nodes
        self._members = nodes
        for name in joined & self._beliefs.keys():
            self._beliefs[name] = Belief(False)
        self.record(*joined, *left)

    def _in_rotation(self, node: str) -> bool:
        return node in self._members and self._beliefs[node].in_rotation

    @property
    def rotation(self) -> list[str]:
        """The nodes that new flows go to, in the scenario's order."""
        return [name for name in self._beliefs if self._in_rotation(name)]

    def choose(self, *flow: str | int) -> str | None:
        """Return the node in rotation that gets a flow, or None if no node is in rotation.

        The node whose hash with the flow is highest wins. So a node that leaves or returns moves only its own flows.
        """
        believed = self.rotation
        if not believed:
            return None
        return max(believed, key=lambda node: rng.draw64(self._seed, "load balancer", str(self.service), flow, node))

    def record(self, *nodes: str) -> None:
        """Log every node whose true state or place in the rotation has changed since its last record.

        Records of one call are in the order of the nodes. ``nodes`` are those that something has just happened to. All
        nodes are looked at if the Service's health check node port has come or gone.
        """
        if not self._beliefs:
            return
        self._find_port()
        candidates = self._unrecorded.union(nodes)
        self._unrecorded.clear()
        for name in sorted(candidates, key=self._order.__getitem__):
            node = self._nodes[name]
            local = node.local_endpoints(self.service)
            state = (self._in_rotation(name), self._passes(node), local.ready, local.usable)
            if self._recorded.get(name) != state:
                self._recorded[name] = state
                self._log.node_health.append(NodeHealth(self._clock.now_ns, str(self.service), name, *state))

    def _find_port(self) -> None:
        """Ask the Service for its health check node port.

        If it has got or lost one, every node may answer differently.
        """
        found = self._has_health_check_port()
        if found is not self._probes_service:
            self._probes_service = found
            self._unrecorded.update(self._nodes)

    def _passes(self, node: KubeProxy) -> bool:
        """Return whether the node answers a probe now, at the port found last."""
        return node.name not in self._unreachable and node.answers_health_check(
            self.service, per_service=self._probes_service
        )

    def _plan_probe(self, node: KubeProxy, at_ns: int) -> None:
        self._clock.at(at_ns, Rank.HEALTH_CHECK, f"node {node.name}", lambda: self._probe(node))

    def _probe(self, node: KubeProxy) -> None:
        self._beliefs[node.name] = self._beliefs[node.name].after(self._passes(node), self._spec)
        self.record(node.name)
        self._plan_probe(node, self._clock.now_ns + self._spec.interval_ns)
