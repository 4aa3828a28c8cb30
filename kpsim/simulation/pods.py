"""The life of pods on the clock: when their applications answer, and what their kubelets tell the API server.

Counterpart: the kubelet (CP-2).

    created ──startup──► answers ──probe──► ready ──deletion──► preStop ──► SIGTERM ──► exit ──► object gone
                            ▲                  │                                │
                            └───── restart ────┴─ crash: answers no more        └─ readiness may go false

A pod has two states: what is true (its application answers, its network exists) and what the API server has been told.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kpsim.objects import ObjectKey
from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import Delays, Workload
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.manifest import CREATED, pod_object, timestamp
from kpsim.simulation.rollout import Fleet, PodStatus
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog


@dataclass(slots=True, eq=False)
class PodLife:
    """One pod. ``life`` counts its containers' starts: what was planned for an earlier life does not happen."""

    workload: Workload
    name: str
    node: str
    ips: tuple[str, ...]  #: one for each family of the cluster
    number: int  #: order of creation within the workload
    revision: int
    answers: bool = False  #: the application accepts connections and datagrams
    exists: bool = True  #: its network namespace and address exist
    ready: bool = False  #: what the kubelet thinks
    ready_changed: str = CREATED
    terminating: bool = False  #: its deletion has been requested
    deleted: str | None = None  #: the API object's deletionTimestamp
    written_ready: bool = False  #: the readiness that the API server has been told
    in_api: bool = False
    life: int = 0
    writes: int = field(default=0)
    written_ns: int = 0  #: when the last status write reaches the API server; later writes arrive after it

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Pod", self.workload.namespace, self.name)


class Kubelets:
    """All kubelets: they run pods and report them. ``changed`` is called whenever the API server learns of a pod."""

    def __init__(
        self, clock: Clock, api: ApiServer, delays: Delays, seed: int, log: RunLog, changed: Callable[[PodLife], None]
    ) -> None:
        self._clock = clock
        self._api = api
        self._delays = delays
        self._seed = seed
        self._log = log
        self._changed = changed
        self.pods: dict[ObjectKey, PodLife] = {}
        self.by_ip: dict[str, list[PodLife]] = {}  #: pods that exist; several only with host network
        self._by_workload: dict[str, dict[ObjectKey, PodLife]] = {}
        self._by_node: dict[str, dict[ObjectKey, PodLife]] = {}
        self._fleets: dict[str, Fleet] = {}  #: by workload
        self._answering: dict[str, tuple[PodLife, ...]] = {}  #: by workload; a missing entry must be listed anew

    # -------------------------------------------------------------------------------------------------------- reading

    def on_node(self, node: str) -> list[PodLife]:
        """Return the pods of a node that still run or are known to the API server, in the order of creation."""
        return list(self._by_node.get(node, {}).values())

    def fleet(self, workload: str) -> Fleet:
        """Return the pods of a workload that are not terminating, as its controller sees them.

        The value is kept up to date.
        """
        return self._fleets.setdefault(workload, Fleet())

    def answering(self, workload: str) -> tuple[PodLife, ...]:
        """Return the pods of a workload whose application runs, in the order of creation."""
        if workload not in self._answering:
            pods = self._by_workload.get(workload, {}).values()
            self._answering[workload] = tuple(pod for pod in pods if pod.answers)
        return self._answering[workload]

    def _set_answers(self, pod: PodLife, answers: bool) -> None:
        pod.answers = answers
        self._answering.pop(pod.workload.name, None)

    def _count(self, pod: PodLife) -> None:
        """Count the pod for its controller as the API server knows it."""
        if not pod.terminating:
            status = PodStatus(pod.name, pod.node, pod.revision, pod.written_ready, pod.number)
            self.fleet(pod.workload.name).put(status)

    # ----------------------------------------------------------------------------------------------------- beginning

    def adopt(self, pod: PodLife) -> None:
        """Add a pod that has been ready since before the run."""
        pod.ready = pod.written_ready = pod.in_api = True
        self._add(pod)
        self._set_answers(pod, True)
        self._put(pod, 0)

    def create(self, pod: PodLife) -> None:
        """Create a pod now. Its application answers after the startup delay."""
        now_ns = self._clock.now_ns
        self._add(pod)
        pod.ready_changed = timestamp(now_ns)  # the kubelet's first status says that it is not ready
        self._happening(HappeningKind.POD_CREATED, pod, pod.node)
        self._report(pod, now_ns, Delay.of(0))
        self._start(pod)

    def _add(self, pod: PodLife) -> None:
        self.pods[pod.key] = pod
        self._by_workload.setdefault(pod.workload.name, {})[pod.key] = pod
        self._by_node.setdefault(pod.node, {})[pod.key] = pod
        self._count(pod)
        for ip in pod.ips:
            self.by_ip.setdefault(ip, []).append(pod)

    def _start(self, pod: PodLife) -> None:
        pod.life += 1
        at_ns = self._clock.now_ns + self._draw(pod.workload.startup.delay, "startup", pod)
        self._plan(pod, at_ns, self._answers)

    def _answers(self, pod: PodLife) -> None:
        pod.exists = True
        self._set_answers(pod, True)
        if not pod.terminating:
            at_ns = self._clock.now_ns + self._draw(pod.workload.readiness.probe_delay, "readiness", pod)
            self._plan(pod, at_ns, lambda pod: self._set_ready(pod, True))

    def _set_ready(self, pod: PodLife, ready: bool, cause_ns: int | None = None) -> None:
        if pod.ready == ready:
            return
        now_ns = self._clock.now_ns
        pod.ready, pod.ready_changed = ready, timestamp(now_ns)
        self._happening(HappeningKind.POD_READY if ready else HappeningKind.POD_NOT_READY, pod, pod.node)
        self._report(pod, now_ns if cause_ns is None else cause_ns, self._delays.readiness_to_status)

    # --------------------------------------------------------------------------------------------------------- ending

    def delete(self, pod: PodLife, *, force: bool = False) -> None:
        """Send the deletion of the pod now. With ``force``, application and object are gone once it is written."""
        now_ns = self._clock.now_ns
        pod.terminating = True
        self.fleet(pod.workload.name).remove(pod.name)
        at_ns = now_ns + self._draw(self._delays.api_write, "delete", pod)
        if force:
            self._at(at_ns, Rank.WORLD, pod, lambda: self._exit(pod, now_ns, told=True))
        else:
            self._at(max(at_ns, pod.written_ns), Rank.API_WRITE, pod, lambda: self._terminate(pod, now_ns))

    def _terminate(self, pod: PodLife, trigger_ns: int) -> None:
        """Begin the pod's end once its deletion is written: hook, SIGTERM, exit, all within the grace period."""
        if not pod.in_api:
            return
        now_ns, ending = self._clock.now_ns, pod.workload.termination
        pod.deleted = timestamp(now_ns + ending.grace_ns)
        self._happening(HappeningKind.POD_TERMINATING, pod, pod.node)
        self._put(pod, trigger_ns)
        self._changed(pod)
        if not pod.exists:
            return  # its node is off: no kubelet acts on the deletion
        if not ending.serves_during_pre_stop:
            self._set_answers(pod, False)
        killed_ns = now_ns + ending.grace_ns
        sigterm_ns = min(now_ns + self._draw(ending.pre_stop, "preStop", pod), killed_ns)
        exit_ns = min(sigterm_ns + self._draw(ending.after_sigterm, "afterSigterm", pod), killed_ns)
        if ending.unready_after_sigterm is not None:
            unready_ns = sigterm_ns + self._draw(ending.unready_after_sigterm, "unready", pod)
            if unready_ns < exit_ns:
                self._plan(pod, unready_ns, lambda pod: self._set_ready(pod, False))
        self._plan(pod, exit_ns, lambda pod: self._exit(pod, exit_ns))

    def _exit(self, pod: PodLife, trigger_ns: int, *, told: bool = False) -> None:
        """End the application, and with it the pod's address.

        Tell the API server unless ``told`` says that it knows.
        """
        pod.life += 1
        pod.exists = False
        self._set_answers(pod, False)
        self._leave(pod)
        self._happening(HappeningKind.POD_GONE, pod, pod.node)
        delay_ns = 0
        if not told:
            delay_ns = self._draw(self._delays.readiness_to_status, "gone", pod)
            delay_ns += self._draw(self._delays.api_write, "gone write", pod)
        pod.written_ns = max(pod.written_ns, self._clock.now_ns + delay_ns)
        self._at(pod.written_ns, Rank.API_WRITE, pod, lambda: self._remove(pod, trigger_ns))

    def _remove(self, pod: PodLife, trigger_ns: int) -> None:
        pod.in_api = False
        self.pods.pop(pod.key, None)
        self._by_workload[pod.workload.name].pop(pod.key, None)
        self._by_node[pod.node].pop(pod.key, None)
        self._answering.pop(pod.workload.name, None)
        self.fleet(pod.workload.name).remove(pod.name)
        self._api.remove(pod.key, trigger_ns, self._clock.now_ns)
        self._changed(pod)

    def _leave(self, pod: PodLife) -> None:
        for ip in pod.ips:
            sharing = self.by_ip.get(ip, [])
            if pod in sharing:
                sharing.remove(pod)
            if not sharing:
                self.by_ip.pop(ip, None)

    # --------------------------------------------------------------------------------------------------------- faults

    def crash(self, pod: PodLife, *, restarts: bool) -> None:
        """Stop the application now. The kubelet notices after the probe delay, and starts it again in place."""
        now_ns = self._clock.now_ns
        self._happening(HappeningKind.POD_CRASHED, pod, pod.node)
        self._set_answers(pod, False)
        if restarts:
            self._start(pod)  # a new life: what was planned for the old one is off
        else:
            pod.life += 1
        at_ns = now_ns + self._draw(pod.workload.readiness.probe_delay, "crash", pod)
        self._plan(pod, at_ns, lambda pod: None if pod.answers else self._set_ready(pod, False, now_ns))

    def lose_power(self, pod: PodLife) -> None:
        """Switch the pod off with its node: it answers no more, and its kubelet reports nothing."""
        pod.life += 1
        pod.exists = False
        self._set_answers(pod, False)

    def declare_unready(self, pod: PodLife, since_ns: int) -> None:
        """Set the pod's Ready condition to false, as the node lifecycle controller does (CP-2.9)."""
        if pod.ready:
            pod.ready, pod.ready_changed = False, timestamp(self._clock.now_ns)
            self._happening(HappeningKind.POD_NOT_READY, pod, pod.node)
            self._report(pod, since_ns, Delay.of(0))

    def power_on(self, pod: PodLife) -> None:
        """Start the pod again with its node. It is not ready until it answers."""
        if pod.terminating:
            self._exit(pod, self._clock.now_ns)
            return
        pod.exists = True
        self._set_ready(pod, False)
        self._start(pod)

    # ------------------------------------------------------------------------------------------------------- reporting

    def _report(self, pod: PodLife, trigger_ns: int, before: Delay) -> None:
        """Send the pod's state as it is now. It reaches the API server later, after earlier reports."""
        pod.writes += 1
        ready, changed = pod.ready, pod.ready_changed
        delay_ns = self._draw(before, "status", pod) + self._draw(self._delays.api_write, "write", pod)
        pod.written_ns = max(pod.written_ns, self._clock.now_ns + delay_ns)

        def arrive() -> None:
            if pod.key in self.pods:
                pod.written_ready = ready
                pod.in_api = True
                self._count(pod)
                self._put(pod, trigger_ns, ready=ready, changed=changed)
                self._changed(pod)

        self._at(pod.written_ns, Rank.API_WRITE, pod, arrive)

    def _put(self, pod: PodLife, trigger_ns: int, *, ready: bool | None = None, changed: str = "") -> None:
        obj = pod_object(
            pod.workload,
            name=pod.name,
            node=pod.node,
            ips=pod.ips,
            ready=pod.written_ready if ready is None else ready,
            ready_changed=changed or pod.ready_changed,
            deleted=pod.deleted,
        )
        self._api.put(obj, trigger_ns, self._clock.now_ns)

    def _plan(self, pod: PodLife, at_ns: int, action: Callable[[PodLife], None]) -> None:
        """Schedule an action of this life of the pod. It does not happen if the life ends before."""
        life = pod.life
        self._at(at_ns, Rank.WORLD, pod, lambda: action(pod) if pod.life == life else None)

    def _at(self, at_ns: int, rank: Rank, pod: PodLife, action: Callable[[], None]) -> None:
        self._clock.at(at_ns, rank, f"workload {pod.workload.name}", action)

    def _draw(self, delay: Delay, stage: str, pod: PodLife) -> int:
        return draw_ns(delay, self._seed, stage, pod.workload.namespace, pod.name, pod.life, pod.writes)

    def _happening(self, kind: HappeningKind, pod: PodLife, detail: str) -> None:
        subject = f"{pod.workload.namespace}/{pod.name}"
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
