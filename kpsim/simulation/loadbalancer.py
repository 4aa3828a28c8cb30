"""A load balancer on the clock: it probes nodes and sends new connections to those that it believes healthy.

Counterpart: a cloud's network load balancer. It knows a node only by the answers to its probes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpsim import rng
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import Service
from kpsim.scenario.load_balancer_schema import Check, Distribution, LoadBalancerSpec, OpenConnections
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.packetloss import SYN_REPEATED_NS, PacketLoss
from kpsim.simulation.portprobe import Heard
from kpsim.simulation.runlog import Balancer, NodeHealth, Reason, RunLog


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


@dataclass(frozen=True, slots=True)
class _Slow:
    """A time of slowness: how much later probes are sent, and how long a decision takes to reach connections."""

    probes_ns: int
    programming_ns: int
    until_ns: int


class LoadBalancer:
    """The load balancer of one Service.

    It probes the Service's health check node port if there is one, else ``/healthz``, or what its ``check`` says.
    ``dial`` opens a TCP connection to the Service's node port at a node. ``serving`` returns the nodes with endpoints that
    can serve.
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
        known: Callable[[], Service],
        dial: Callable[[str], Heard],
        serving: Callable[[], frozenset[str]],
        losses: PacketLoss,
    ) -> None:
        self._clock = clock
        self._settings_of = {local: spec.resolved(local=local) for local in (False, True)}
        self._nodes = {node.name: node for node in nodes}
        self._order = {node.name: number for number, node in enumerate(nodes)}
        self._seed = seed
        self._log = log
        self.service = service
        self._known = known
        self._dial = dial
        self._serving = serving
        self._losses = losses
        self._slow: list[_Slow] = []
        self._programmed: dict[str, bool] = {}  #: by node: whether it is in rotation as far as connections go by it
        self._decided: Counter[str] = Counter()  #: decisions by what they are about, so that each has a number
        self._applied: Counter[str] = Counter()  #: by what it is about: the latest decision that connections go by
        self._probed: Counter[str] = Counter()  #: probes by node, so that each has a number
        self._announcers: frozenset[str] = frozenset()  #: the nodes that announce the Service, while they are on
        self._probes_service = False  #: whether the last probe went to the health check node port, not to ``/healthz``
        self._unreachable: frozenset[str] = frozenset()
        self._members: frozenset[str] = frozenset(self._nodes)
        self._left: dict[str, int] = {}  #: when a node ceased to be a member
        self._beliefs: dict[str, Belief] = {}
        self._port_answers: dict[str, bool] = {}  #: by node: whether the last connection to its node port was set up
        self._due_ns: dict[str, int] = {}  #: by node: when its next probe is sent
        self._given = 0  #: connections that had a turn
        self._open: Counter[str] = Counter()  #: connections that are open, by node
        self._receivers: frozenset[str] = frozenset()
        self._recorded: dict[str, tuple[bool, bool, int, int]] = {}
        self._unrecorded: set[str] = set()  #: nodes whose state may differ from the last record

    @property
    def settings(self) -> LoadBalancerSpec:
        """The values that hold for the Service as it is."""
        return self._settings_of[self._known().external_traffic_policy == "Local"]

    def start(self) -> None:
        """Begin to probe. At first the belief about every node is its true state."""
        now_ns, settings = self._clock.now_ns, self.settings
        self._log.balancers.append(
            Balancer(
                str(self.service),
                settings.preset.value if settings.preset else "",
                settings.interval_ns,
                settings.unhealthy_threshold,
                settings.worst_window_ns,
            )
        )
        self._find_port()
        self._announcers = self._find_announcers()
        for node in self._nodes.values():
            self._beliefs[node.name] = Belief(self._ask(node).passed)
            self._programmed[node.name] = self._beliefs[node.name].in_rotation
            first_ns = rng.below(settings.interval_ns, self._seed, "first probe", str(self.service), node.name)
            self._plan_probe(node, now_ns + first_ns)
        self.record(*self._nodes)

    def set_reachable(self, node: str, reachable: bool) -> None:
        """Say whether the node's machine answers at all. The caller records the node when all its parts have changed."""
        self._unreachable = self._unreachable - {node} if reachable else self._unreachable | {node}

    def set_members(self, nodes: frozenset[str]) -> None:
        """Say which nodes it sends to at all. One that is new has to pass its probes first."""
        self._program("the set of nodes", lambda: self._set_members(nodes))

    def _set_members(self, nodes: frozenset[str]) -> None:
        joined, left = nodes - self._members, self._members - nodes
        self._members = nodes
        self._left.update(dict.fromkeys(left, self._clock.now_ns))
        for name in joined & self._beliefs.keys():
            self._beliefs[name] = Belief(False)
            self._decided[name] += 1
            self._applied[name] = self._decided[name]
            self._programmed[name] = False
        self.record(*joined, *left)

    def endpoints_changed(self) -> None:
        """Take in that the Service's EndpointSlices or its policy changed: nodes may announce it, or cease to."""
        if self.settings.check is Check.ANNOUNCEMENT and (found := self._find_announcers()) != self._announcers:

            def announce() -> None:
                self._announcers = found
                self.record(*self._nodes)

            self._program("announcements", announce)

    def _find_announcers(self) -> frozenset[str]:
        if self.settings.check is not Check.ANNOUNCEMENT:
            return frozenset()
        serving = self._serving()
        if self._known().external_traffic_policy == "Local":
            return serving
        return frozenset(self._nodes) if serving else serving

    # ------------------------------------------------------------------------------------------------ what nodes receive

    def _healthy(self, node: str, settings: LoadBalancerSpec) -> bool:
        announced = settings.check is not Check.ANNOUNCEMENT or node in self._announcers
        return announced and node in self._members and self._programmed[node]

    @property
    def rotation(self) -> list[str]:
        """The nodes that new connections go to, in the scenario's order."""
        settings = self.settings
        pool = [name for name in self._beliefs if self._healthy(name, settings)]
        if not pool and settings.fail_open:
            pool = [name for name in self._beliefs if name in self._members]
        if settings.distribution is Distribution.ONE_NODE and pool:
            pool = [self._highest(pool, ())]
        return pool

    def _highest(self, pool: Sequence[str], flow: tuple[str | int, ...]) -> str:
        """Return the node whose hash with the flow is highest. A node that leaves or returns moves only its own flows."""
        return max(pool, key=lambda node: rng.draw64(self._seed, "load balancer", str(self.service), flow, node))

    def choose(self, *flow: str | int) -> str | None:
        """Return the node that gets a new connection, or None if no node is in rotation."""
        pool = self.rotation
        if not pool:
            return None
        match self.settings.distribution:
            case Distribution.CONSISTENT_HASH | Distribution.ONE_NODE:
                return self._highest(pool, flow)
            case Distribution.HASH:
                return pool[rng.below(len(pool), self._seed, "load balancer", str(self.service), flow)]
            case Distribution.ROUND_ROBIN:
                self._given += 1
                return pool[(self._given - 1) % len(pool)]
            case Distribution.LEAST_CONNECTIONS:
                fewest = min(self._open[name] for name in pool)
                return self._highest([name for name in pool if self._open[name] == fewest], flow)

    def opened(self, node: str) -> None:
        """Count a connection through the node that stays open."""
        self._open[node] += 1

    def closed(self, node: str) -> None:
        """Count the end of such a connection."""
        self._open[node] -= 1

    def follow(self, node: str, *flow: str | int, own: bool = False) -> tuple[str, Reason]:
        """Return the node that gets the next packet of an open connection. Empty: none, for the reason beside it.

        ``own``: the load balancer opened it itself, so it knows it.
        """
        settings = self.settings
        if not settings.tracking and not own:
            chosen = self.choose(*flow)
            return (chosen, Reason.NONE) if chosen is not None else ("", Reason.NO_HEALTHY_NODE)
        if node not in self._members:
            delay_ns = settings.deregistration_delay_ns
            late = delay_ns is not None and self._clock.now_ns - self._left.get(node, 0) >= delay_ns
        else:
            late = settings.unhealthy_connections is OpenConnections.CUT and node not in self.rotation
        return ("", Reason.CUT) if late else (node, Reason.NONE)

    # ------------------------------------------------------------------------------------------------------ what is known

    def record(self, *nodes: str) -> None:
        """Log every node whose true state or place in the rotation has changed since its last record.

        Records of one call are in the order of the nodes. ``nodes`` are those that something has just happened to. All
        nodes are looked at if the Service's health check node port has come or gone.
        """
        if not self._beliefs:
            return
        self._find_port()
        candidates = self._unrecorded.union(nodes, self._find_receivers())
        self._unrecorded.clear()
        for name in sorted(candidates, key=self._order.__getitem__):
            node = self._nodes[name]
            local = node.local_endpoints(self.service)
            state = (self._receives(name), self._passes(node), local.ready, local.usable)
            if self._recorded.get(name) != state:
                self._recorded[name] = state
                self._log.node_health.append(NodeHealth(self._clock.now_ns, str(self.service), name, *state))

    def _find_receivers(self) -> frozenset[str]:
        """Return the nodes that begin or cease to receive connections because of what became of others."""
        settings = self.settings
        if not settings.fail_open and settings.distribution is not Distribution.ONE_NODE:
            return frozenset()
        before, self._receivers = self._receivers, frozenset(self.rotation)
        return before ^ self._receivers

    def _receives(self, node: str) -> bool:
        settings = self.settings
        if settings.fail_open or settings.distribution is Distribution.ONE_NODE:
            return node in self._receivers
        return self._healthy(node, settings)

    def _find_port(self) -> None:
        """Ask the Service for its health check node port.

        If it has got or lost one, every node may answer differently.
        """
        found = self._known().health_check_node_port != 0
        if found is not self._probes_service:
            self._probes_service = found
            self._unrecorded.update(self._nodes)

    def next_probe_ns(self, node: str) -> int | None:
        """Return when the node is probed next. None: it is not probed."""
        return self._due_ns.get(node)

    def belief(self, node: str) -> Belief | None:
        """Return what the load balancer believes about a node. None: it does not know it."""
        return self._beliefs.get(node)

    @property
    def _dials_port(self) -> bool:
        has_tcp = any(port.protocol == "TCP" for port in self._known().ports)
        return self.settings.check is Check.TRAFFIC_PORT and not self._probes_service and has_tcp

    def _passes(self, node: KubeProxy) -> bool:
        """Return whether the node answers a probe now, at the port found last. Of its node port the last answer counts."""
        if node.name in self._unreachable:
            return False
        if self.settings.check is Check.ANNOUNCEMENT:
            return node.name in self._announcers
        if self._dials_port:
            return self._port_answers.get(node.name, False)
        return node.answers_health_check(self.service, per_service=self._probes_service)

    # ---------------------------------------------------------------------------------------------------------- probing

    def _ask(self, node: KubeProxy) -> Heard:
        """Probe a node."""
        if node.name in self._unreachable:
            return Heard.SILENCE
        if self.settings.check is Check.ANNOUNCEMENT:
            return Heard.YES  # its speaker is heard; what it announces is looked up
        if self._dials_port:
            heard = self._dial(node.name)
            self._port_answers[node.name] = heard.passed
            return heard
        passed = self._passes(node)
        if not self._probes_service:
            node.note_probe(passed=passed)
        return Heard.YES if passed else Heard.NO

    def _plan_probe(self, node: KubeProxy, at_ns: int) -> None:
        self._due_ns[node.name] = at_ns
        self._clock.at(at_ns, Rank.HEALTH_CHECK, f"node {node.name}", lambda: self._probe(node))

    def _probe(self, node: KubeProxy) -> None:
        settings, now_ns = self.settings, self._clock.now_ns
        heard = self._ask(node)
        late_ns = self._through_losses_ns(node.name) if heard is not Heard.SILENCE else 0
        if late_ns is None:
            heard = Heard.SILENCE
        elif late_ns:
            heard_ns = now_ns + late_ns
            self._clock.at(
                heard_ns, Rank.HEALTH_CHECK, f"node {node.name}", lambda: self._hear(node, passed=heard.passed)
            )
            self._plan_next(node)
            return
        if heard is Heard.SILENCE and settings.timeout_ns:
            given_up_ns = now_ns + settings.timeout_ns
            self._clock.at(given_up_ns, Rank.HEALTH_CHECK, f"node {node.name}", lambda: self._hear(node, passed=False))
        else:
            self._hear(node, passed=heard.passed)
        self._plan_next(node)

    def _plan_next(self, node: KubeProxy) -> None:
        now_ns = self._clock.now_ns
        late_ns = sum(slow.probes_ns for slow in self._slow if now_ns < slow.until_ns)
        self._plan_probe(node, now_ns + self.settings.interval_ns + late_ns)

    def _through_losses_ns(self, node: str) -> int | None:
        """Return how late a probe is answered because SYNs or answers got lost. None: too late."""
        now_ns = self._clock.now_ns
        if not self._losses.active(now_ns):
            return 0
        self._probed[node] += 1
        for after_ns in (0, *SYN_REPEATED_NS):
            if after_ns and after_ns >= self.settings.timeout_ns:
                break
            if not self._losses.loses_exchange(node, now_ns, "probe", str(self.service), self._probed[node], after_ns):
                return after_ns
        return None

    def _hear(self, node: KubeProxy, *, passed: bool) -> None:
        before = self._beliefs[node.name]
        belief = self._beliefs[node.name] = before.after(passed, self.settings)
        if belief.in_rotation is before.in_rotation:
            self.record(node.name)
            return

        def turn() -> None:
            self._programmed[node.name] = belief.in_rotation
            self.record(node.name)

        self._program(node.name, turn)

    # ---------------------------------------------------------------------------------------------------------- slowness

    def slow_down(self, probes_ns: int, programming_ns: int, until_ns: int) -> None:
        """Send probes later than they are due, and let connections go by decisions only after a while, until a time."""
        self._slow.append(_Slow(probes_ns, programming_ns, until_ns))

    def _program(self, about: str, apply: Callable[[], None]) -> None:
        """Let connections go by a decision, at once unless the load balancer is slow."""
        now_ns = self._clock.now_ns
        late_ns = sum(slow.programming_ns for slow in self._slow if now_ns < slow.until_ns)
        self._decided[about] += 1
        number = self._decided[about]
        if not late_ns:
            self._applied[about] = number
            apply()
            return

        def late() -> None:
            if self._applied[about] < number:  # no later decision has overtaken it
                self._applied[about] = number
                apply()

        self._clock.at(now_ns + late_ns, Rank.HEALTH_CHECK, "controller", late)
