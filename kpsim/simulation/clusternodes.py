"""Nodes on the clock: their power, what the control plane makes of their silence, taints and cordons.

Counterpart: machines with their kubelets, the node lifecycle controller (CP-2.9), kubectl. A Node object is written with
all that was last said about the node.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from kpsim import rng
from kpsim.objects import ObjectKey
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import Delays
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.disruption import disruption
from kpsim.simulation.evictions import Drains
from kpsim.simulation.kubeproxy import KubeProxy
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.machines import Machines
from kpsim.simulation.manifest import CREATED, node_object, timestamp
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.workloads import CORDON, DOWN, SHUTDOWN, Workloads
from kpsim.units import SECOND_NS, format_duration

NO_EXECUTE = "NoExecute"
_UNREACHABLE = "unreachable"  #: why the pods of a lost node are deleted
ABSENT = "there is no Node"  #: why no pod is placed on a node that has not joined, or was deleted
#: of the pod garbage collector: how often it looks, and how long it leaves the pods of a Node alone that it misses
_COLLECTOR_PERIOD_NS, _QUARANTINE_NS = 20 * SECOND_NS, 40 * SECOND_NS


def _nothing() -> None:
    """What follows if nothing else does."""


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
    kernels: Machines
    skews: dict[str, int]  #: by how many nanoseconds a node's clock is ahead of the masters'


@dataclass(slots=True)
class _NodeState:
    """What the Node object says, and since when the machine is off."""

    node: ClusterNode
    joined: bool  #: whether the machine has ever been part of the cluster
    exists: bool  #: whether there is a Node object
    ready: bool = True
    taints: dict[str, str] = field(default_factory=dict)  #: effect by key
    labels: dict[str, str | None] = field(default_factory=dict)  #: that it got since; None: removed
    created: str = CREATED
    cordoned: bool = False
    down_since_ns: int | None = None
    shutdown_ns: int | None = None  #: when its last shutdown began
    unreachable: bool = False  #: the machine runs, and the control plane has given it up


class ClusterNodes:
    """All nodes of a run."""

    def __init__(
        self,
        clock: Clock,
        nodes: Iterable[ClusterNode],
        delays: Delays,
        seed: int,
        actors: Actors,
        log: RunLog,
        *,
        absent: Container[str] = (),
    ) -> None:
        """``absent`` nodes have not joined the cluster yet; their machines are off."""
        self._clock = clock
        self._delays = delays
        self._seed = seed
        self._actors = actors
        self._log = log
        self._states = {node.name: _NodeState(node, node.name not in absent, node.name not in absent) for node in nodes}
        self._drains = Drains(clock, actors.workloads, log)
        self._written: Counter[str] = Counter()  #: writes of each Node, so that each has a number
        self._reboots: Counter[str] = Counter()

    @property
    def names(self) -> Iterable[str]:
        return self._states

    def is_down(self, name: str) -> bool:
        """Return whether the node's machine is off."""
        state = self._states[name]
        return state.down_since_ns is not None or not state.joined

    def is_cordoned(self, name: str) -> bool:
        return self._states[name].cordoned

    def has_label(self, name: str, key: str) -> bool:
        """Return whether the node has a label that an event has given it."""
        return self._states[name].labels.get(key) is not None

    def exists(self, name: str) -> bool:
        """Return whether there is a Node object."""
        return self._states[name].exists

    def _is_missing(self, name: str, event: str) -> bool:
        """Return whether there is no such Node. Then the event has no effect, and that is told."""
        if self._states[name].exists:
            return False
        self._tell(HappeningKind.NO_EFFECT, name, f"{event}: {ABSENT}")
        return True

    # ------------------------------------------------------------------------------------------------- joining, leaving

    def add(self, name: str, then: Callable[[], None] = _nothing) -> None:
        """Let the node join: its machine starts unless it runs, its kubelet makes the Node, and kube-proxy starts.

        ``then`` is called when the Node is written.
        """
        state, now_ns, proxy = self._states[name], self._clock.now_ns, self._actors.proxies[name]
        if state.exists:
            self._tell(HappeningKind.NO_EFFECT, name, "addNode: there is a Node already")
            return
        self._tell(HappeningKind.NODE_ADDED, name)
        if self.is_down(name):
            self._boot(name)
        reasons = ABSENT, CORDON, *(f"taint {key}" for key in state.taints)
        self._states[name] = state = _NodeState(state.node, joined=True, exists=True, created=timestamp(now_ns))

        def arrive() -> None:
            if not state.exists:
                return
            self._put(state, now_ns)
            for why in reasons:
                self._actors.workloads.unbar(name, why)
            if not proxy.running and not self.is_down(name):
                proxy.start()
            then()

        self._clock.at(self._write_ns(name, kubelet=True), Rank.API_WRITE, f"node {name}", arrive)

    def _boot(self, name: str) -> None:
        self._actors.machines.power_on(name)
        for balancer in self._actors.load_balancers:
            balancer.set_reachable(name, True)
        self._actors.workloads.node_up(name)

    def delete(self, name: str) -> None:
        """Delete the Node object. Machine, kube-proxy and pods run on; the pods' objects are collected later."""
        if self._is_missing(name, "deleteNode"):
            return
        state, now_ns = self._states[name], self._clock.now_ns
        self._tell(HappeningKind.NODE_DELETED, name)
        state.exists = False

        def arrive() -> None:
            self._actors.api.remove(ObjectKey("Node", "", name), now_ns, self._clock.now_ns)
            self._actors.workloads.bar(name, ABSENT)

        def collect() -> None:
            if self._states[name] is state:  # it has not joined again
                number = self._actors.workloads.collect(name)
                self._tell(HappeningKind.PODS_COLLECTED, name, f"{number} pods, {ABSENT}")

        written_ns = self._write_ns(name)
        self._clock.at(written_ns, Rank.API_WRITE, f"node {name}", arrive)
        first_ns = rng.below(_COLLECTOR_PERIOD_NS, self._seed, "pod collector")
        missed_ns = written_ns + (first_ns - written_ns) % _COLLECTOR_PERIOD_NS
        # the node is out of quarantine just after a look, so the pods go at the next one
        collected_ns = missed_ns + _QUARANTINE_NS + _COLLECTOR_PERIOD_NS
        self._clock.at(collected_ns, Rank.WORLD, f"node {name}", collect)

    def label(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set labels of the Node; None removes one."""

        def arrive(state: _NodeState) -> None:
            state.labels.update(labels)

        if self._is_missing(name, "labelNode"):
            return
        self._tell(HappeningKind.NODE_LABELLED, name, ", ".join(f"{key}={value}" for key, value in labels.items()))
        self._change(name, arrive)

    # ------------------------------------------------------------------------------------------------------------ power

    def down(self, name: str, shutdown_grace_ns: int | None = None) -> None:
        """Switch the machine off; with ``shutdown_grace_ns`` once its kubelet has ended its pods, or after this time."""
        if self.is_down(name):
            self._tell(HappeningKind.NO_EFFECT, name, "nodeDown: the node is down already")
        elif shutdown_grace_ns is None:
            self._switch_off(name)
        else:
            self._shut_down(name, shutdown_grace_ns)

    def _shut_down(self, name: str, grace_ns: int) -> None:
        """Let the kubelet end its pods before the machine goes off. It reports at once that its node is not ready."""
        state, now_ns, workloads = self._states[name], self._clock.now_ns, self._actors.workloads
        self._tell(HappeningKind.NODE_SHUTTING_DOWN, name, f"within {format_duration(grace_ns)}")

        def arrive(state: _NodeState) -> None:
            state.ready = False
            workloads.bar(name, SHUTDOWN)

        def off() -> None:
            if state.shutdown_ns == now_ns and not self.is_down(name):
                self._switch_off(name)

        state.shutdown_ns = now_ns
        self._change(name, arrive)
        workloads.shut_down(name, grace_ns, off)
        self._clock.at(now_ns + grace_ns, Rank.WORLD, f"node {name}", off)

    def _switch_off(self, name: str) -> None:
        """Switch the machine off. Nobody is told; its silence is noticed after the grace period."""
        state, now_ns = self._states[name], self._clock.now_ns
        state.down_since_ns = now_ns
        self._tell(HappeningKind.NODE_DOWN, name)
        self._actors.machines.power_off(name)
        self._actors.workloads.node_down(name)
        for balancer in self._actors.load_balancers:
            balancer.set_reachable(name, False)
        self._actors.proxies[name].lose_power()
        lost_ns = self._lost_ns(now_ns)

        def lost() -> None:
            if state.down_since_ns != now_ns or not state.exists or state.unreachable:
                return
            self._tell(HappeningKind.NODE_LOST, name, f"silent for {format_duration(lost_ns - now_ns)}")
            state.ready = False
            self._put(state, now_ns)
            self._actors.workloads.node_lost(name, now_ns)
            evict_ns = lost_ns + self._delays.unreachable_toleration_ns
            self._clock.at(evict_ns, Rank.WORLD, f"node {name}", evict)

        def evict() -> None:
            if state.down_since_ns == now_ns and state.exists:
                self._evict(name, _UNREACHABLE)

        self._clock.at(lost_ns, Rank.API_WRITE, f"node {name}", lost)

    def _lost_ns(self, silent_ns: int) -> int:
        """Return when the node lifecycle controller gives a node up that is silent from a time on."""
        return self._actors.api.faults.heard_until(silent_ns, self._delays.node_monitor_grace_ns)

    def cut_off(self, name: str, until_ns: int) -> None:
        """Let the node be silent although its machine runs, because it does not reach the API server.

        When it is heard again its kubelet says that it is ready, and what it thinks of its pods (CP-2.7).
        """
        state, now_ns, workloads = self._states[name], self._clock.now_ns, self._actors.workloads
        lost_ns = self._lost_ns(now_ns)
        if self.is_down(name) or not state.exists or lost_ns >= until_ns:
            return
        heard_ns = self._actors.api.faults.ticks_of(name).after(until_ns - 1, until_ns)

        def lost() -> None:
            if self.is_down(name) or not state.exists:
                return
            self._tell(HappeningKind.NODE_LOST, name, f"silent for {format_duration(lost_ns - now_ns)}")
            state.ready, state.unreachable = False, True
            self._put(state, now_ns)
            workloads.bar(name, DOWN)
            workloads.node_lost(name, now_ns, kubelet_runs=True)
            self._clock.at(lost_ns + self._delays.unreachable_toleration_ns, Rank.WORLD, f"node {name}", evict)
            self._clock.at(
                self._actors.api.faults.kubelet_stored_ns(name, heard_ns), Rank.API_WRITE, f"node {name}", heard
            )

        def evict() -> None:
            if not state.unreachable or not state.exists or self._clock.now_ns >= until_ns:
                return
            why = disruption({n: (s.node.zone or "", s.ready) for n, s in self._states.items() if s.exists}, name)
            if why:
                self._tell(HappeningKind.NOT_EVICTED, name, why)
            else:
                self._evict(name, _UNREACHABLE)

        def heard() -> None:
            if not state.unreachable or self.is_down(name) or not state.exists:
                return
            state.ready, state.unreachable = True, False
            self._put(state, heard_ns)
            workloads.unbar(name, DOWN)
            workloads.node_heard(name)

        self._clock.at(lost_ns, Rank.API_WRITE, f"node {name}", lost)

    def up(self, name: str, then: Callable[[], None] = _nothing) -> None:
        """Switch the machine on. Its kubelet reports it, its pods start again, and its kube-proxy starts.

        ``then`` is called when the Node is Ready.
        """
        state, now_ns = self._states[name], self._clock.now_ns
        if state.down_since_ns is None:
            self._tell(HappeningKind.NO_EFFECT, name, "nodeUp: the node is not down")
            return
        if not state.exists:
            self.add(name, then)  # a kubelet that starts makes its Node
            return
        state.down_since_ns, state.unreachable = None, False
        self._tell(HappeningKind.NODE_UP, name)
        self._boot(name)
        self._actors.proxies[name].start()

        def arrive() -> None:
            if state.down_since_ns is None and state.exists:
                state.ready = True
                self._put(state, now_ns)
                if state.shutdown_ns is not None:
                    self._actors.workloads.unbar(name, SHUTDOWN)
                then()

        self._clock.at(self._write_ns(name, kubelet=True), Rank.API_WRITE, f"node {name}", arrive)

    def reboot(self, name: str, takes: Delay, then: Callable[[], None] = _nothing, *, replace: bool = False) -> None:
        """Switch the machine off, and on again after a while. ``then`` is called when the Node is Ready.

        With ``replace`` another machine comes back under its name: its Node is deleted and made anew.
        """
        if self.is_down(name):
            self._tell(HappeningKind.NO_EFFECT, name, "reboot: the node is down")
            return
        if replace:
            self.delete(name)
        self.down(name)
        since_ns = self._states[name].down_since_ns
        self._reboots[name] += 1
        delay_ns = draw_ns(takes, self._seed, "reboot", name, self._reboots[name])

        def back() -> None:
            if self._states[name].down_since_ns == since_ns:  # no other event has switched it on meanwhile
                self.up(name, then)

        self._clock.at(self._clock.now_ns + delay_ns, Rank.WORLD, f"node {name}", back)

    # --------------------------------------------------------------------------------------------------- taints, cordons

    def taint(self, name: str, key: str, effect: str) -> None:
        """Taint the node. Pods tolerate no taint: no new one is placed there, and NoExecute deletes those that run."""

        def arrive(state: _NodeState) -> None:
            state.taints[key] = effect
            self._actors.workloads.bar(name, f"taint {key}")

        if self._is_missing(name, "taintNode"):
            return
        self._tell(HappeningKind.NODE_TAINTED, name, f"{key}:{effect}")
        self._change(name, arrive, partial(self._evict, name, f"taint {key}") if effect == NO_EXECUTE else _nothing)

    def untaint(self, name: str, key: str) -> None:
        def arrive(state: _NodeState) -> None:
            if state.taints.pop(key, None) is None:
                self._tell(HappeningKind.NO_EFFECT, name, f"untaintNode: the node has no taint {key}")
            self._actors.workloads.unbar(name, f"taint {key}")

        if self._is_missing(name, "untaintNode"):
            return
        self._tell(HappeningKind.NODE_UNTAINTED, name, key)
        self._change(name, arrive)

    def cordon(self, name: str) -> None:
        """Mark the node unschedulable."""
        if self._is_missing(name, "cordon"):
            return
        self._tell(HappeningKind.NODE_CORDONED, name)
        self._change(name, self._bar)

    def drain(self, name: str, timeout_ns: int | None = None, done: Callable[[], None] = _nothing) -> None:
        """Cordon the node and evict its pods once that is written. ``done`` is called when the drain is over."""
        if self._is_missing(name, "drain"):
            return
        self._tell(HappeningKind.NODE_DRAINED, name)
        self._change(name, self._bar, lambda: self._drains.start(name, timeout_ns, done))

    def _bar(self, state: _NodeState) -> None:
        state.cordoned = True
        self._actors.workloads.bar(state.node.name, CORDON)

    def uncordon(self, name: str, then: Callable[[], None] = _nothing) -> None:
        def arrive(state: _NodeState) -> None:
            if not state.cordoned:
                self._tell(HappeningKind.NO_EFFECT, name, "uncordon: the node is not cordoned")
            state.cordoned = False
            self._actors.workloads.unbar(name, CORDON)

        if self._is_missing(name, "uncordon"):
            return
        self._tell(HappeningKind.NODE_UNCORDONED, name)
        self._change(name, arrive, then)

    def _change(self, name: str, arrive: Callable[[_NodeState], None], then: Callable[[], None] = _nothing) -> None:
        """Send a change of the Node to the API server. ``then`` is called when it is written."""
        state, now_ns = self._states[name], self._clock.now_ns

        def reach() -> None:
            if not state.exists:
                return
            arrive(state)
            self._put(state, now_ns)
            then()

        self._clock.at(self._write_ns(name), Rank.API_WRITE, f"node {name}", reach)

    # ------------------------------------------------------------------------------------------------------------- both

    def _evict(self, name: str, why: str) -> None:
        number = self._actors.workloads.evict(name, unreachable=why == _UNREACHABLE)
        self._tell(HappeningKind.PODS_EVICTED, name, f"{number} pods, {why}")

    def _put(self, state: _NodeState, trigger_ns: int) -> None:
        obj = node_object(
            state.node,
            ready=state.ready,
            taints=state.taints,
            unschedulable=state.cordoned,
            labels=state.labels,
            created=state.created,
        )
        self._actors.api.put(obj, trigger_ns, self._clock.now_ns)

    def _write_ns(self, name: str, *, kubelet: bool = False) -> int:
        """Return when a write of the Node that is sent now, by its kubelet or another client, is stored."""
        self._written[name] += 1
        key = ObjectKey("Node", "", name)
        drawn_ns = draw_ns(self._delays.api_write, self._seed, "api write", key, self._written[name])
        at_ns = self._clock.now_ns + drawn_ns
        faults = self._actors.api.faults
        return faults.kubelet_stored_ns(name, at_ns) if kubelet else faults.stored_ns(at_ns)

    def _tell(self, kind: HappeningKind, name: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, name, detail))
