"""The life of pods on the clock: when their applications answer, and what their kubelets tell the API server.

Counterpart: the kubelet (CP-2).

    created ──startup──► answers ──probe──► ready ──deletion──► preStop ──► SIGTERM ──► exit ──► object gone
                            ▲                  │                                │
                            └───── restart ────┴─ crash: answers no more        └─ readiness may go false

A pod has two states: what is true (its application answers, its network exists) and what the API server has been told.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from kpsim.objects import ObjectKey
from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import Delays
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.manifest import CREATED, NO_SKEWS, pod_object, timestamp
from kpsim.simulation.podlife import PodLife, PodReport
from kpsim.simulation.podprobes import Probers
from kpsim.simulation.rollout import Fleet, PodStatus
from kpsim.simulation.runlog import AnswerSpell, Happening, HappeningKind, RunLog
from kpsim.units import SECOND_NS

#: how long a kubelet waits until it starts a container again for the second time, doubled each time, and at most [K]
_BACK_OFF_NS, _LONGEST_BACK_OFF_NS = 10 * SECOND_NS, 300 * SECOND_NS


class Kubelets:
    """All kubelets: they run pods and report them. ``changed`` is called whenever the API server learns of a pod."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        delays: Delays,
        seed: int,
        log: RunLog,
        changed: Callable[[PodLife], None],
        skews: Mapping[str, int] = NO_SKEWS,
    ) -> None:
        self._clock = clock
        self._api = api
        self._delays = delays
        self._seed = seed
        self._log = log
        self._changed = changed
        self._skews = skews
        self.pods: dict[ObjectKey, PodLife] = {}
        self.by_ip: dict[str, list[PodLife]] = {}  #: pods that exist; several only with host network
        self.version = 0  #: another number after every change of which pods answer, and at which addresses
        self._by_workload: dict[str, dict[ObjectKey, PodLife]] = {}
        self._by_node: dict[str, dict[ObjectKey, PodLife]] = {}
        self._fleets: dict[str, Fleet] = {}  #: by workload
        self._drawn: dict[ObjectKey, Counter[str]] = {}  #: what was drawn for pods of a name, by stage
        self._spell_of: dict[PodLife, int] = {}  #: of pods that answer: the place of its record in the log
        self._answering: dict[str, tuple[PodLife, ...]] = {}  #: by workload; a missing entry must be listed anew
        self._probers = Probers(clock, seed, plan=self._plan, ready=self._contain, kill=self._kill)

    # -------------------------------------------------------------------------------------------------------- reading

    def on_node(self, node: str) -> list[PodLife]:
        """Return the pods of a node that still run or are known to the API server, in the order of creation."""
        return list(self._by_node.get(node, {}).values())

    def of_workload(self, workload: str) -> list[PodLife]:
        """Return all pods of a workload that the API server knows or will know, in the order of creation."""
        return list(self._by_workload.get(workload, {}).values())

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
        if answers is not pod.answers:
            self._log_answers(pod, answers)
        pod.answers = answers
        self.version += 1
        self._answering.pop(pod.workload.name, None)

    def _log_answers(self, pod: PodLife, answers: bool) -> None:
        now_ns, spells = self._clock.now_ns, self._log.answering
        if answers:
            self._spell_of[pod] = len(spells)
            name = f"{pod.workload.namespace}/{pod.name}"
            spells.append(AnswerSpell(name, pod.node, pod.ips, now_ns))
        else:
            place = self._spell_of.pop(pod)
            spells[place] = replace(spells[place], until_ns=now_ns)

    def _count(self, pod: PodLife) -> None:
        """Count the pod for its controller as the API server knows it."""
        if not pod.terminating and not pod.failed:
            waits = pod.available_ns is None or self._clock.now_ns < pod.available_ns
            status = PodStatus(pod.name, pod.node, pod.revision, pod.told.ready, pod.number, waits=waits)
            self.fleet(pod.workload.name).put(status)

    # ----------------------------------------------------------------------------------------------------- beginning

    def adopt(self, pod: PodLife, *, ready: bool = True) -> None:
        """Add a pod that has been ready, or not, since before the run. One that is not ready does not answer."""
        pod.status = pod.told = PodReport(address=True, ready=ready, changed=CREATED)
        pod.in_api = True
        pod.contained = ready
        pod.gates_ns = pod.available_ns = 0 if ready else None
        self._add(pod)
        self._set_answers(pod, ready)
        self._put(pod, 0)
        if ready:
            self._probers.adopt(pod)

    def create(self, pod: PodLife) -> None:
        """Create a pod now. Its application answers after the startup delay; if it has no node yet, after :meth:`bind`.

        The new object has no status: no address and no Ready condition, until its kubelet reports (CP-3.4.1).
        """
        now_ns = self._clock.now_ns
        pod.exists = bool(pod.node)
        self._add(pod)
        self._happening(HappeningKind.POD_CREATED, pod, pod.node)
        usual_ns = now_ns + self._draw(self._delays.api_write, "create", pod)
        pod.created_ns = pod.written_ns = self._api.faults.stored_ns(usual_ns)

        def arrive() -> None:
            pod.in_api = True
            self._put(pod, now_ns)
            self._changed(pod)

        self._at(pod.created_ns, Rank.API_WRITE, pod, arrive)
        if pod.node:
            self._start_once_seen(pod, pod.created_ns if pod.created_ns > usual_ns else now_ns)

    def bind(self, pod: PodLife, node: str, ips: tuple[str, ...]) -> None:
        """Give a pod that waited for it its node. The kubelet starts it, and the API server has the node a write later."""
        now_ns = self._clock.now_ns
        pod.node, pod.ips, pod.exists = node, ips, True
        self._happening(HappeningKind.POD_SCHEDULED, pod, node)
        self._settle(pod)
        usual_ns = now_ns + self._draw(self._delays.api_write, "bind", pod)
        bound_ns = self._api.faults.stored_ns(usual_ns)
        pod.written_ns = max(pod.written_ns, bound_ns)
        self._at(pod.written_ns, Rank.API_WRITE, pod, lambda: self._put(pod, now_ns) if pod.in_api else None)
        self._start_once_seen(pod, bound_ns if bound_ns > usual_ns else now_ns)

    def _add(self, pod: PodLife) -> None:
        self.pods[pod.key] = pod
        pod.drawn = self._drawn.setdefault(pod.key, pod.drawn)
        self._by_workload.setdefault(pod.workload.name, {})[pod.key] = pod
        self._settle(pod)

    def _settle(self, pod: PodLife) -> None:
        """Note where the pod is, if it has a node yet."""
        if pod.node:
            self._by_node.setdefault(pod.node, {})[pod.key] = pod
        self._count(pod)
        self.version += 1
        for ip in pod.ips:
            self.by_ip.setdefault(ip, []).append(pod)

    def _start_once_seen(self, pod: PodLife, at_ns: int) -> None:
        """Start the pod when its kubelet sees it, which is at ``at_ns`` unless nothing reaches the kubelet."""
        seen_ns = self._api.faults.kubelet_sees_ns(pod.node, at_ns)
        if seen_ns > self._clock.now_ns:
            self._plan(pod, seen_ns, self._start)
        else:
            self._start(pod)

    def _start(self, pod: PodLife, *, kubelet_starts: bool = False) -> None:
        """Begin a new life. The kubelet reports the address once the sandbox is up, at the latest as the pod answers."""
        pod.life += 1
        now_ns, startup = self._clock.now_ns, pod.workload.startup
        answers_ns = now_ns + self._draw(startup.delay, "startup", pod)
        runs_ns = now_ns
        if startup.address is not None and not pod.status.address:
            runs_ns = min(answers_ns, now_ns + self._draw(startup.address, "address", pod))
            if runs_ns < answers_ns and not pod.workload.probes.any:
                self._plan(pod, runs_ns, self._report_address)
        if pod.workload.probes.any:
            noticed_ns = runs_ns + self._draw(self._delays.pleg, "runs", pod)
            self._plan(pod, noticed_ns, lambda pod: self._runs(pod, runs_ns, kubelet_starts=kubelet_starts))
        self._plan(pod, answers_ns, self._answers)

    def _runs(self, pod: PodLife, since_ns: int, *, kubelet_starts: bool) -> None:
        """Let the kubelet notice that the container runs. A pod whose container runs has its address."""
        self._report_address(pod)
        self._probers.begin(pod, since_ns, kubelet_starts=kubelet_starts)

    def _report_address(self, pod: PodLife) -> None:
        if not pod.status.address:
            now_ns = self._clock.now_ns
            pod.status = PodReport(address=True, ready=False, changed=self._stamp(pod, now_ns))
            self._report(pod, now_ns)

    def _answers(self, pod: PodLife) -> None:
        """Let the application answer, and its kubelet notice.

        That goes on while the pod terminates (CP-2.8), unless its application stops answering with the preStop hook.
        """
        pod.exists = True
        ends = pod.deleted is not None and not pod.workload.termination.serves_during_pre_stop
        self._set_answers(pod, not ends)
        if pod.workload.probes.decide_readiness:
            return
        probe_ns = self._draw(pod.workload.readiness.probe_delay, "readiness", pod)
        if probe_ns == 0 and self._may_be_ready(pod):
            self._contain(pod, True)  # one report says both that it has an address and that it is ready
            return
        self._report_address(pod)
        self._plan(pod, self._clock.now_ns + probe_ns, lambda pod: self._contain(pod, True))

    def _may_be_ready(self, pod: PodLife) -> bool:
        if pod.workload.probes.decide_readiness:
            return pod.contained and not pod.leaves
        return pod.answers and not pod.refuses and not pod.leaves

    def _contain(self, pod: PodLife, ready: bool, cause_ns: int | None = None) -> None:
        """Note whether the pod's containers are ready. The pod is Ready if its gates are open, too (CP-2.6)."""
        gates, now_ns = pod.workload.readiness.gates, self._clock.now_ns
        pod.contained = ready
        if ready and gates and pod.gates_ns is None:
            pod.gates_ns = now_ns + max(self._draw(delay, f"gate {n}", pod) for n, delay in enumerate(gates))
            self._at(pod.gates_ns, Rank.WORLD, pod, lambda: self._set_ready(pod, True) if pod.contained else None)
        if ready and pod.gates_ns is not None and now_ns < pod.gates_ns:
            self._report_address(pod)
        else:
            self._set_ready(pod, ready, cause_ns)

    def _set_ready(self, pod: PodLife, ready: bool, cause_ns: int | None = None) -> None:
        if pod.status.ready == ready or (ready and not self._may_be_ready(pod)):
            return
        now_ns = self._clock.now_ns
        pod.status = PodReport(address=True, ready=ready, changed=self._stamp(pod, now_ns))
        self._happening(HappeningKind.POD_READY if ready else HappeningKind.POD_NOT_READY, pod, pod.node)
        self._report(pod, now_ns if cause_ns is None else cause_ns)

    def _stamp(self, pod: PodLife, now_ns: int) -> str:
        """Return a time as the clock of the pod's node shows it."""
        return timestamp(now_ns + self._skews.get(pod.node, 0))

    def set_probe(self, pod: PodLife, passes: bool, *, late: bool = False) -> None:
        """Let the pod's readiness probe pass or fail from now on. The application answers all the while."""
        now_ns = self._clock.now_ns
        pod.refuses, pod.late = not passes, late
        if pod.workload.probes.readiness is not None:
            return  # its worker finds out
        at_ns = now_ns + self._draw(pod.workload.readiness.probe_delay, "probe", pod)

        def notice(pod: PodLife) -> None:
            if pod.refuses is not passes:  # the probe has not changed again meanwhile
                self._contain(pod, passes, now_ns)

        self._plan(pod, at_ns, notice)

    # --------------------------------------------------------------------------------------------------------- ending

    def delete(self, pod: PodLife, *, force: bool = False) -> None:
        """Send the deletion of the pod now. With ``force``, application and object are gone once it is written.

        The deletion is another client's write: it waits for the pod's creation, but not for its kubelet's reports.
        """
        now_ns = self._clock.now_ns
        pod.terminating = True
        self.fleet(pod.workload.name).remove(pod.name)
        drawn_ns = self._draw(self._delays.api_write, "delete", pod)
        at_ns = max(pod.created_ns, self._api.faults.stored_ns(now_ns + drawn_ns))
        if force:
            self._at(at_ns, Rank.WORLD, pod, lambda: self._exit(pod, now_ns, told=True))
        else:
            self._at(at_ns, Rank.API_WRITE, pod, lambda: self._terminate(pod, now_ns))

    def _terminate(self, pod: PodLife, trigger_ns: int) -> None:
        """Begin the pod's end: its deletion is written."""
        if not pod.in_api:
            return
        if not pod.node or pod.failed:
            self._remove(pod, trigger_ns)  # no kubelet has anything to end
            return
        now_ns = self._clock.now_ns
        pod.deleted = timestamp(now_ns + pod.workload.termination.grace_ns)
        self._happening(HappeningKind.POD_TERMINATING, pod, pod.node)
        self._put(pod, trigger_ns)
        self._changed(pod)
        drawn_ns = self._draw(self._delays.deletion_to_kubelet, "deletion", pod)
        seen_ns = self._api.faults.kubelet_sees_ns(pod.node, now_ns + drawn_ns)
        if seen_ns > now_ns:
            self._plan(pod, seen_ns, self._end)
        else:
            self._end(pod)

    def _end(self, pod: PodLife) -> None:
        """Let the kubelet end the pod: hook, SIGTERM, exit, all within the grace period."""
        if not pod.exists:
            return  # its node is off: no kubelet acts on the deletion
        ending = pod.workload.termination
        if not ending.serves_during_pre_stop:
            self._set_answers(pod, False)
        exit_ns = self._plan_exit(pod, ending.grace_ns)
        self._plan(pod, exit_ns, lambda pod: self._exit(pod, exit_ns))

    def _plan_exit(self, pod: PodLife, grace_ns: int) -> int:
        """Plan hook and SIGTERM from now on, and return when the application ends."""
        now_ns, ending = self._clock.now_ns, pod.workload.termination
        killed_ns = now_ns + grace_ns
        sigterm_ns = min(now_ns + self._draw(ending.pre_stop, "preStop", pod), killed_ns)
        exit_ns = min(sigterm_ns + self._draw(ending.after_sigterm, "afterSigterm", pod), killed_ns)
        if ending.unready_after_sigterm is not None and not pod.shutting_down:
            unready_ns = sigterm_ns + self._draw(ending.unready_after_sigterm, "unready", pod)
            if unready_ns < exit_ns:
                self._plan(pod, unready_ns, self._take_leave)
        return exit_ns

    def shut_down(self, pod: PodLife, grace_ns: int) -> None:
        """End the pod because its machine shuts down. One that terminates already goes on with that.

        The pod is not deleted. It keeps its Ready condition until its containers have ended, because the kubelet no longer
        probes it (k/k #116965); then it is Failed, and no endpoint any more (CP-2.8).
        """
        if not pod.exists or pod.deleted is not None:
            return
        pod.shutting_down = True
        if not pod.workload.termination.serves_during_pre_stop:
            self._set_answers(pod, False)
        exit_ns = self._plan_exit(pod, min(pod.workload.termination.grace_ns, grace_ns))

        def fail(pod: PodLife) -> None:
            self._end_life(pod)
            pod.status = PodReport(address=True, ready=False, changed=self._stamp(pod, exit_ns))
            self._happening(HappeningKind.POD_FAILED, pod, pod.node)
            looked_ns = self._draw(self._delays.pleg, "ended", pod)
            delay_ns = looked_ns + self._draw(self._delays.readiness_to_status, "gone", pod)
            self._send(pod, delay_ns, "gone write", lambda: told(exit_ns + looked_ns))

        def told(noticed_ns: int) -> None:
            if pod.in_api:
                pod.failed, pod.told = True, pod.status
                self._by_node[pod.node].pop(pod.key, None)
                self.fleet(pod.workload.name).remove(pod.name)
                self._put(pod, exit_ns, noticed_ns)
                self._changed(pod)

        self._plan(pod, exit_ns, fail)

    def _take_leave(self, pod: PodLife) -> None:
        pod.leaves = True  # a pod that still starts does not become ready any more
        self._set_ready(pod, False)

    def _exit(self, pod: PodLife, trigger_ns: int, *, told: bool = False) -> None:
        """End the application, and with it the pod's address.

        Tell the API server unless ``told`` says that it knows.
        """
        self._end_life(pod)
        self._happening(HappeningKind.POD_GONE, pod, pod.node)
        if told:
            self._at(self._clock.now_ns, Rank.API_WRITE, pod, lambda: self._remove(pod, trigger_ns))
            return
        noticed_ns = self._clock.now_ns + self._draw(self._delays.pleg, "ended", pod)
        delay_ns = noticed_ns - self._clock.now_ns + self._draw(self._delays.readiness_to_status, "gone", pod)
        self._send(pod, delay_ns, "gone write", lambda: self._remove(pod, trigger_ns, noticed_ns))

    def _end_life(self, pod: PodLife) -> None:
        pod.life += 1
        pod.exists = False
        self._set_answers(pod, False)
        self._leave(pod)

    def _remove(self, pod: PodLife, trigger_ns: int, noticed_ns: int | None = None) -> None:
        if not pod.in_api:
            return
        pod.in_api = False
        self.pods.pop(pod.key, None)
        self._by_workload[pod.workload.name].pop(pod.key, None)
        self._by_node.get(pod.node, {}).pop(pod.key, None)
        self._answering.pop(pod.workload.name, None)
        self.fleet(pod.workload.name).remove(pod.name)
        self._api.remove(pod.key, trigger_ns, self._clock.now_ns, noticed_ns=noticed_ns)
        self._changed(pod)

    def _leave(self, pod: PodLife) -> None:
        self.version += 1
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
        self._happening(HappeningKind.POD_CRASHED, pod, pod.node)
        self._end_container(pod, restarts=restarts)

    def _kill(self, pod: PodLife, probe: str) -> None:
        """End the container because of a probe, with hook and SIGTERM, and start it again."""
        self._happening(HappeningKind.CONTAINER_KILLED, pod, f"{probe} probe failed")
        ending = pod.workload.termination
        if not ending.serves_during_pre_stop:
            self._set_answers(pod, False)
        exit_ns = self._draw(ending.pre_stop, "preStop", pod) + self._draw(ending.after_sigterm, "afterSigterm", pod)
        back_off_ns = min(_BACK_OFF_NS << pod.kills - 1, _LONGEST_BACK_OFF_NS) if pod.kills else 0
        pod.kills += 1
        exit_ns = self._clock.now_ns + min(exit_ns, ending.grace_ns)

        def end(pod: PodLife) -> None:
            if pod.deleted is None:  # else the pod ends altogether
                self._end_container(pod, restarts=True, wait_ns=back_off_ns)

        self._plan(pod, exit_ns, end)

    def _end_container(self, pod: PodLife, *, restarts: bool, wait_ns: int = 0) -> None:
        """End the application with its container. The new one starts after ``wait_ns``, and is not ready (CP-2.4)."""
        now_ns = self._clock.now_ns
        self._set_answers(pod, False)
        pod.life += 1  # what was planned for the old life is off
        pod.stuck = False
        if pod.workload.probes.any:
            noticed_ns = now_ns + self._draw(self._delays.pleg, "ended", pod)
            self._plan(pod, noticed_ns, lambda pod: self._contain(pod, False, now_ns))
            if restarts:
                self._plan(pod, noticed_ns + wait_ns, self._start)
            return
        noticed_ns = now_ns + self._draw(pod.workload.readiness.probe_delay, "crash", pod)
        answers_ns = now_ns + self._draw(pod.workload.startup.delay, "startup", pod) if restarts else None
        if answers_ns is not None:
            noticed_ns = min(noticed_ns, answers_ns)
        self._plan(pod, noticed_ns, lambda pod: self._contain(pod, False, now_ns))
        if answers_ns is not None:
            self._plan(pod, answers_ns, self._answers)

    def lose_power(self, pod: PodLife) -> None:
        """Switch the pod off with its node: it answers no more, and its kubelet sends nothing more."""
        pod.life += 1
        pod.exists = False
        pod.dead_since_ns = self._clock.now_ns
        pod.contained = False
        self._set_answers(pod, False)

    def declare_unready(self, pod: PodLife, since_ns: int, *, kubelet_runs: bool = False) -> None:
        """Set the pod's Ready condition to false, as the node lifecycle controller does (CP-2.9).

        A kubelet that runs keeps its own opinion, and says it when it is heard again (:meth:`reconcile`).
        """
        if not pod.told.ready:
            return
        now_ns = self._clock.now_ns
        report = PodReport(address=True, ready=False, changed=timestamp(now_ns))
        if not kubelet_runs:
            pod.status = report
        self._happening(HappeningKind.POD_NOT_READY, pod, pod.node)
        at_ns = self._api.faults.stored_ns(now_ns + self._draw(self._delays.api_write, "declared", pod))
        self._at(at_ns, Rank.API_WRITE, pod, lambda: self._arrive(pod, report, since_ns, now_ns))

    def reconcile(self, pod: PodLife) -> None:
        """Let the kubelet report the pod if it thinks it ready and the API server does not (CP-2.7).

        The Ready condition keeps the transition time that the kubelet knows, so no latency is measured for it (CP-3.7).
        """
        if pod.exists and pod.status.ready and not pod.told.ready:
            self._happening(HappeningKind.POD_READY, pod, pod.node)
            self._report(pod, self._clock.now_ns)

    def power_on(self, pod: PodLife) -> None:
        """Start the pod again with its node. It is not ready until it answers."""
        pod.dead_since_ns = None
        pod.shutting_down = False
        if pod.terminating:
            self._exit(pod, self._clock.now_ns)
            return
        pod.exists = True
        pod.status = pod.told  # the kubelet knows nothing but what the API server tells it
        self._set_ready(pod, False)
        self._start(pod, kubelet_starts=True)

    # ------------------------------------------------------------------------------------------------------- reporting

    def _report(self, pod: PodLife, trigger_ns: int) -> None:
        """Send the pod's status as the kubelet sees it now. It reaches the API server later, after earlier reports."""
        report, noticed_ns = pod.status, self._clock.now_ns
        delay_ns = self._draw(self._delays.readiness_to_status, "status", pod)
        arrive = partial(self._arrive, pod, report, trigger_ns, noticed_ns)
        self._send(pod, delay_ns, "write", arrive, lambda: pod.status is not report)

    def _send(
        self,
        pod: PodLife,
        delay_ns: int,
        stage: str,
        arrive: Callable[[], None],
        outdated: Callable[[], bool] = lambda: False,
    ) -> None:
        """Let the pod's kubelet send a write after ``delay_ns``, unless its node has lost power by then.

        A write that fails is sent again at a later tick (CP-2.7), if there is no newer one that makes it ``outdated``.
        A newer one does not wait for that tick. One that is only slow is on its way, and arrives in any case.
        """
        sent_ns = self._clock.now_ns + delay_ns
        usual_ns = sent_ns + self._draw(self._delays.api_write, stage, pod)
        stored_ns = self._api.faults.kubelet_stored_ns(pod.node, usual_ns)
        failed = stored_ns > usual_ns + self._api.faults.slow_ns(usual_ns)
        at_ns = max(pod.written_ns, stored_ns)
        if not failed:
            pod.written_ns = at_ns

        def reach() -> None:
            if failed and (outdated() or pod.dead_since_ns is not None):
                return
            if pod.dead_since_ns is None or sent_ns <= pod.dead_since_ns:
                arrive()

        self._at(at_ns, Rank.API_WRITE, pod, reach)

    def _arrive(self, pod: PodLife, report: PodReport, trigger_ns: int, noticed_ns: int) -> None:
        if not pod.in_api:
            return  # the object is gone
        if report.ready != pod.told.ready:
            self._begin_wait(pod, report.ready)
        pod.told = report
        self._count(pod)
        self._put(pod, trigger_ns, noticed_ns)
        self._changed(pod)

    def _begin_wait(self, pod: PodLife, ready: bool) -> None:
        """Note when the pod will be available: it has then been ready for minReadySeconds."""
        now_ns, wait_ns = self._clock.now_ns, pod.workload.min_ready_ns
        pod.available_ns = planned_ns = now_ns + wait_ns if ready else None

        def look() -> None:
            if pod.in_api and pod.available_ns == planned_ns:
                self._count(pod)
                self._changed(pod)

        if planned_ns is not None and wait_ns:
            self._at(planned_ns, Rank.CONTROLLER, pod, look)

    def _put(self, pod: PodLife, trigger_ns: int, noticed_ns: int | None = None) -> None:
        """Write the object with what the API server has been told, never with what the kubelet has not sent yet."""
        obj = pod_object(
            pod.workload,
            name=pod.name,
            node=pod.node,
            ips=pod.ips if pod.told.address else (),
            ready=pod.told.ready,
            ready_changed=pod.told.changed,
            deleted=pod.deleted,
            failed=pod.failed,
        )
        self._api.put(obj, trigger_ns, self._clock.now_ns, noticed_ns=noticed_ns)

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
