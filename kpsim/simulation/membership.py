"""The set of nodes that load balancers send to at all, whatever their probes say.

Counterpart: the service controller of the cloud controller manager (CP-14.3). It makes the set when a Node comes, goes or
changes the label that excludes it, and at every resync. Only then does it see the autoscaler's taint.
"""

from collections.abc import Sequence

from kpsim import rng
from kpsim.kubeproxy.healthcheck import TAINT_TO_BE_DELETED
from kpsim.objects import LABEL_EXCLUDE_BALANCERS, Node
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog


class ServiceController:
    """Tells all load balancers which nodes they have."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        spec: LoadBalancerSpec,
        balancers: Sequence[LoadBalancer],
        seed: int,
        log: RunLog,
    ) -> None:
        self._clock = clock
        self._api = api
        self._spec = spec
        self._balancers = balancers
        self._seed = seed
        self._log = log
        self._updates = 0
        self._members: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin with the nodes of the time before the run. The phase of the resyncs is drawn."""
        self._members = self._wanted()
        for balancer in self._balancers:
            balancer.set_members(self._members)
        if self._balancers:
            self._api.watch(self._on_change)
            first_ns = rng.below(self._spec.node_resync_ns, self._seed, "node resync")
            self._clock.at(first_ns, Rank.CONTROLLER, "controller", self._resync)

    def _wanted(self) -> frozenset[str]:
        return frozenset(node.metadata.name for node in self._api.state.nodes if _serves(node))

    def _on_change(self, change: Change) -> None:
        if change.key.kind != "Node":
            return
        old, new = (obj if isinstance(obj, Node) else None for obj in (change.event.old, change.event.new))
        if old is None or new is None or _excluded(old) != _excluded(new):
            self._updates += 1
            delay_ns = draw_ns(self._spec.node_update, self._seed, "node update", self._updates)
            at_ns = self._api.faults.seen_ns(self._clock.now_ns + delay_ns, "service controller")
            self._clock.at(at_ns, Rank.CONTROLLER, "controller", self._update)

    def _resync(self) -> None:
        self._update()
        at_ns = self._clock.now_ns + self._spec.node_resync_ns
        self._clock.at(at_ns, Rank.CONTROLLER, "controller", self._resync)

    def _update(self) -> None:
        wanted = self._wanted()
        if wanted == self._members:
            return
        self._members = wanted
        words = ", ".join(sorted(wanted)) or "none"
        for balancer in self._balancers:
            self._log.happenings.append(
                Happening(self._clock.now_ns, HappeningKind.NODE_SET, str(balancer.service), words)
            )
            balancer.set_members(wanted)


def _excluded(node: Node) -> bool:
    return LABEL_EXCLUDE_BALANCERS in node.metadata.labels


def _serves(node: Node) -> bool:
    return not _excluded(node) and TAINT_TO_BE_DELETED not in node.taint_keys
