"""The life of pods on the clock: when their applications answer, and what their kubelets tell the API server.

Counterpart: the kubelet (CP-2).

    created ──startup──► answers ──probe──► ready ──deletion──► preStop ──► SIGTERM ──► exit ──► object gone
                            ▲                  │                                │
                            └───── restart ────┴─ crash: answers no more        └─ readiness may go false

A pod has two states: what is true (its application answers, its network exists) and what the API server has been told.
"""

from collections import Counter
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


@dataclass(frozen=True, slots=True)
class PodReport:
    """The part of a pod's status that endpoints depend on. A pod that no kubelet has reported has neither (CP-3.4.1)."""

    address: bool = False  #: the status names the pod's addresses
    ready: bool = False
    changed: str = ""  #: lastTransitionTime of the Ready condition; empty: there is no such condition


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
    refuses: bool = False  #: an event lets its readiness probe fail although the application answers
    leaves: bool = False  #: it has gone unready after SIGTERM, for good
    status: PodReport = PodReport()  #: what the kubelet thinks
    told: PodReport = PodReport()  #: what the API server has been told
    terminating: bool = False  #: its deletion has been requested
    deleted: str | None = None  #: the API object's deletionTimestamp
    in_api: bool = False
    life: int = 0
    drawn: Counter[str] = field(default_factory=Counter)  #: draws by stage, so that each has a number of its own
    created_ns: int = 0  #: when the API server has the object
    written_ns: int = 0  #: when the kubelet's last write reaches the API server; its later writes arrive after it
    dead_since_ns: int | None = None  #: when its node lost power; what its kubelet had not sent by then is never sent

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
            status = PodStatus(pod.name, pod.node, pod.revision, pod.told.ready, pod.number)
            self.fleet(pod.workload.name).put(status)

    # ----------------------------------------------------------------------------------------------------- beginning

    def adopt(self, pod: PodLife) -> None:
        """Add a pod that has been ready since before the run."""
        pod.status = pod.told = PodReport(address=True, ready=True, changed=CREATED)
        pod.in_api = True
        self._add(pod)
        self._set_answers(pod, True)
        self._put(pod, 0)

    def create(self, pod: PodLife) -> None:
        """Create a pod now. Its application answers after the startup delay.

        The new object has no status: no address and no Ready condition, until its kubelet reports (CP-3.4.1).
        """
        now_ns = self._clock.now_ns
        self._add(pod)
        self._happening(HappeningKind.POD_CREATED, pod, pod.node)
        pod.created_ns = pod.written_ns = now_ns + self._draw(self._delays.api_write, "create", pod)

        def arrive() -> None:
            pod.in_api = True
            self._put(pod, now_ns)
            self._changed(pod)

        self._at(pod.created_ns, Rank.API_WRITE, pod, arrive)
        self._start(pod)

    def _add(self, pod: PodLife) -> None:
        self.pods[pod.key] = pod
        self._by_workload.setdefault(pod.workload.name, {})[pod.key] = pod
        self._by_node.setdefault(pod.node, {})[pod.key] = pod
        self._count(pod)
        for ip in pod.ips:
            self.by_ip.setdefault(ip, []).append(pod)

    def _start(self, pod: PodLife) -> None:
        """Begin a new life. The kubelet reports the address once the sandbox is up, at the latest as the pod answers."""
        pod.life += 1
        now_ns, startup = self._clock.now_ns, pod.workload.startup
        answers_ns = now_ns + self._draw(startup.delay, "startup", pod)
        if startup.address is not None and not pod.status.address:
            address_ns = now_ns + self._draw(startup.address, "address", pod)
            if address_ns < answers_ns:
                self._plan(pod, address_ns, self._report_address)
        self._plan(pod, answers_ns, self._answers)

    def _report_address(self, pod: PodLife) -> None:
        if not pod.status.address:
            now_ns = self._clock.now_ns
            pod.status = PodReport(address=True, ready=False, changed=timestamp(now_ns))
            self._report(pod, now_ns)

    def _answers(self, pod: PodLife) -> None:
        """Let the application answer, and its kubelet notice.

        That goes on while the pod terminates (CP-2.8), unless its application stops answering with the preStop hook.
        """
        pod.exists = True
        ends = pod.deleted is not None and not pod.workload.termination.serves_during_pre_stop
        self._set_answers(pod, not ends)
        probe_ns = self._draw(pod.workload.readiness.probe_delay, "readiness", pod)
        if probe_ns == 0 and self._may_be_ready(pod):
            self._set_ready(pod, True)  # one report says both that it has an address and that it is ready
            return
        self._report_address(pod)
        self._plan(pod, self._clock.now_ns + probe_ns, lambda pod: self._set_ready(pod, True))

    def _may_be_ready(self, pod: PodLife) -> bool:
        return pod.answers and not pod.refuses and not pod.leaves

    def _set_ready(self, pod: PodLife, ready: bool, cause_ns: int | None = None) -> None:
        if pod.status.ready == ready or (ready and not self._may_be_ready(pod)):
            return
        now_ns = self._clock.now_ns
        pod.status = PodReport(address=True, ready=ready, changed=timestamp(now_ns))
        self._happening(HappeningKind.POD_READY if ready else HappeningKind.POD_NOT_READY, pod, pod.node)
        self._report(pod, now_ns if cause_ns is None else cause_ns)

    def set_probe(self, pod: PodLife, passes: bool) -> None:
        """Let the pod's readiness probe pass or fail from now on. The application answers all the while."""
        now_ns = self._clock.now_ns
        pod.refuses = not passes
        at_ns = now_ns + self._draw(pod.workload.readiness.probe_delay, "probe", pod)

        def notice(pod: PodLife) -> None:
            if pod.refuses is not passes:  # the probe has not changed again meanwhile
                self._set_ready(pod, passes, now_ns)

        self._plan(pod, at_ns, notice)

    # --------------------------------------------------------------------------------------------------------- ending

    def delete(self, pod: PodLife, *, force: bool = False) -> None:
        """Send the deletion of the pod now. With ``force``, application and object are gone once it is written.

        The deletion is another client's write: it waits for the pod's creation, but not for its kubelet's reports.
        """
        now_ns = self._clock.now_ns
        pod.terminating = True
        self.fleet(pod.workload.name).remove(pod.name)
        at_ns = max(pod.created_ns, now_ns + self._draw(self._delays.api_write, "delete", pod))
        if force:
            self._at(at_ns, Rank.WORLD, pod, lambda: self._exit(pod, now_ns, told=True))
        else:
            self._at(at_ns, Rank.API_WRITE, pod, lambda: self._terminate(pod, now_ns))

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
                self._plan(pod, unready_ns, self._take_leave)
        self._plan(pod, exit_ns, lambda pod: self._exit(pod, exit_ns))

    def _take_leave(self, pod: PodLife) -> None:
        pod.leaves = True  # a pod that still starts does not become ready any more
        self._set_ready(pod, False)

    def _exit(self, pod: PodLife, trigger_ns: int, *, told: bool = False) -> None:
        """End the application, and with it the pod's address.

        Tell the API server unless ``told`` says that it knows.
        """
        pod.life += 1
        pod.exists = False
        self._set_answers(pod, False)
        self._leave(pod)
        self._happening(HappeningKind.POD_GONE, pod, pod.node)
        if told:
            self._at(self._clock.now_ns, Rank.API_WRITE, pod, lambda: self._remove(pod, trigger_ns))
            return
        delay_ns = self._draw(self._delays.readiness_to_status, "gone", pod)
        self._send(pod, delay_ns, "gone write", lambda: self._remove(pod, trigger_ns))

    def _remove(self, pod: PodLife, trigger_ns: int) -> None:
        if not pod.in_api:
            return
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
        """Stop the application now. The kubelet notices after the probe delay, and starts it again in place.

        It notices at the latest as the new container runs, because that one's readiness starts as a failure (CP-2.4).
        """
        now_ns = self._clock.now_ns
        self._happening(HappeningKind.POD_CRASHED, pod, pod.node)
        self._set_answers(pod, False)
        pod.life += 1  # what was planned for the old life is off
        noticed_ns = now_ns + self._draw(pod.workload.readiness.probe_delay, "crash", pod)
        answers_ns = now_ns + self._draw(pod.workload.startup.delay, "startup", pod) if restarts else None
        if answers_ns is not None:
            noticed_ns = min(noticed_ns, answers_ns)
        self._plan(pod, noticed_ns, lambda pod: self._set_ready(pod, False, now_ns))
        if answers_ns is not None:
            self._plan(pod, answers_ns, self._answers)

    def lose_power(self, pod: PodLife) -> None:
        """Switch the pod off with its node: it answers no more, and its kubelet sends nothing more."""
        pod.life += 1
        pod.exists = False
        pod.dead_since_ns = self._clock.now_ns
        self._set_answers(pod, False)

    def declare_unready(self, pod: PodLife, since_ns: int) -> None:
        """Set the pod's Ready condition to false, as the node lifecycle controller does (CP-2.9)."""
        if not pod.told.ready:
            return
        now_ns = self._clock.now_ns
        pod.status = report = PodReport(address=True, ready=False, changed=timestamp(now_ns))
        self._happening(HappeningKind.POD_NOT_READY, pod, pod.node)
        at_ns = now_ns + self._draw(self._delays.api_write, "declared", pod)
        self._at(at_ns, Rank.API_WRITE, pod, lambda: self._arrive(pod, report, since_ns))

    def power_on(self, pod: PodLife) -> None:
        """Start the pod again with its node. It is not ready until it answers."""
        pod.dead_since_ns = None
        if pod.terminating:
            self._exit(pod, self._clock.now_ns)
            return
        pod.exists = True
        pod.status = pod.told  # the kubelet knows nothing but what the API server tells it
        self._set_ready(pod, False)
        self._start(pod)

    # ------------------------------------------------------------------------------------------------------- reporting

    def _report(self, pod: PodLife, trigger_ns: int) -> None:
        """Send the pod's status as the kubelet sees it now. It reaches the API server later, after earlier reports."""
        report = pod.status
        delay_ns = self._draw(self._delays.readiness_to_status, "status", pod)
        self._send(pod, delay_ns, "write", lambda: self._arrive(pod, report, trigger_ns))

    def _send(self, pod: PodLife, delay_ns: int, stage: str, arrive: Callable[[], None]) -> None:
        """Let the pod's kubelet send a write after ``delay_ns``, unless its node has lost power by then."""
        sent_ns = self._clock.now_ns + delay_ns
        pod.written_ns = max(pod.written_ns, sent_ns + self._draw(self._delays.api_write, stage, pod))

        def reach() -> None:
            if pod.dead_since_ns is None or sent_ns <= pod.dead_since_ns:
                arrive()

        self._at(pod.written_ns, Rank.API_WRITE, pod, reach)

    def _arrive(self, pod: PodLife, report: PodReport, trigger_ns: int) -> None:
        if not pod.in_api:
            return  # the object is gone
        pod.told = report
        self._count(pod)
        self._put(pod, trigger_ns)
        self._changed(pod)

    def _put(self, pod: PodLife, trigger_ns: int) -> None:
        """Write the object with what the API server has been told, never with what the kubelet has not sent yet."""
        obj = pod_object(
            pod.workload,
            name=pod.name,
            node=pod.node,
            ips=pod.ips if pod.told.address else (),
            ready=pod.told.ready,
            ready_changed=pod.told.changed,
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
        """Draw the delay of the pod's next event of this stage. Other stages do not change it."""
        if delay.constant_ns is not None:
            return delay.constant_ns
        pod.drawn[stage] += 1
        return draw_ns(delay, self._seed, stage, pod.workload.namespace, pod.name, pod.drawn[stage])

    def _happening(self, kind: HappeningKind, pod: PodLife, detail: str) -> None:
        subject = f"{pod.workload.namespace}/{pod.name}"
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
