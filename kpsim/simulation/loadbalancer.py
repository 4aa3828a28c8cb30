"""A load balancer on the clock: it probes nodes and sends new connections to those it believes in.

Counterpart: a cloud's network load balancer. It knows a node only by the answers to its probes, never by its rules.
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
    """What the load balancer thinks of a node, and how many probes in a row have said otherwise."""

    in_rotation: bool
    contrary: int = 0

    def after(self, passed: bool, spec: LoadBalancerSpec) -> "Belief":
        """The belief after one more probe: it turns after as many contrary answers as the threshold says."""
        if passed == self.in_rotation:
            return Belief(self.in_rotation)
        threshold = spec.unhealthy_threshold if self.in_rotation else spec.healthy_threshold
        if self.contrary + 1 >= threshold:
            return Belief(passed)
        return Belief(self.in_rotation, self.contrary + 1)


class LoadBalancer:
    """The load balancer of one Service. It probes the Service's health check node port where it has one, else ``/healthz``."""

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
        self._clock, self._spec, self._nodes, self._seed, self._log = clock, spec, nodes, seed, log
        self.service = service
        self._has_health_check_port = has_health_check_port
        self._unreachable: frozenset[str] = frozenset()
        self._beliefs: dict[str, Belief] = {}
        self._recorded: dict[str, tuple[bool, bool, int, int]] = {}

    def start(self) -> None:
        """Begin to probe; every node is at first believed to be what it is now."""
        now_ns = self._clock.now_ns
        for node in self._nodes:
            self._beliefs[node.name] = Belief(self._passes(node))
            first_ns = rng.below(self._spec.interval_ns, self._seed, "first probe", str(self.service), node.name)
            self._plan_probe(node, now_ns + first_ns)
        self.record()

    def set_reachable(self, node: str, reachable: bool) -> None:
        """Whether the node's machine answers at all."""
        self._unreachable = self._unreachable - {node} if reachable else self._unreachable | {node}

    def choose(self, *flow: str | int) -> str | None:
        """The node in rotation for a flow; None if there is none.

        The highest of each node's hash with the flow wins: a node that leaves or returns moves only its own flows.
        """
        believed = [name for name, belief in self._beliefs.items() if belief.in_rotation]
        if not believed:
            return None
        return max(believed, key=lambda node: rng.draw64(self._seed, "load balancer", str(self.service), flow, node))

    def record(self) -> None:
        """Log every node whose truth or standing has changed."""
        if not self._beliefs:
            return
        for node in self._nodes:
            local = node.local_endpoints(self.service)
            state = (self._beliefs[node.name].in_rotation, self._passes(node), local.ready, local.usable)
            if self._recorded.get(node.name) != state:
                self._recorded[node.name] = state
                self._log.node_health.append(NodeHealth(self._clock.now_ns, str(self.service), node.name, *state))

    def _passes(self, node: KubeProxy) -> bool:
        return node.name not in self._unreachable and node.answers_health_check(
            self.service, per_service=self._has_health_check_port()
        )

    def _plan_probe(self, node: KubeProxy, at_ns: int) -> None:
        self._clock.at(at_ns, Rank.HEALTH_CHECK, f"node {node.name}", lambda: self._probe(node))

    def _probe(self, node: KubeProxy) -> None:
        self._beliefs[node.name] = self._beliefs[node.name].after(self._passes(node), self._spec)
        self.record()
        self._plan_probe(node, self._clock.now_ns + self._spec.interval_ns)
