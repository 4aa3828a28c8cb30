"""What kubelets do with their pods: start, readiness, termination, and the reports of it."""

from twin.clock import NEVER, STORE, WORLD, Action, Clock, S, ns
from twin.pods import Pod, PodStore, Seen, Status


class Kubelets:
    """All kubelets. A pod starts and becomes ready (CP-2.4, CP-2.6), sheds or regains readiness, and ends (CP-2.8).

    Every change of a pod's status is a report to the API server: one at a time for a pod, in order (CP-2.7). A kubelet
    without power reports nothing (CP-2.9).
    """

    def __init__(self, clock: Clock, store: PodStore) -> None:
        self._clock, self._store = clock, store

    # --- start and readiness

    def create(self, pod: Pod) -> None:
        """Have the API server take a new pod, and start it."""
        pod.created = pod.busy_until = self._clock.now + self._clock.delays["apiWrite"]
        self._clock.at(pod.created, STORE, lambda: self._store.store(pod, Seen(Status(), False)), pod.order)
        self._boot(pod)

    def _later(self, pod: Pod, delay: int, action: Action) -> None:
        """Plan for this turn of the pod."""
        turn = pod.turn
        self._clock.after(delay, WORLD, lambda: action() if pod.turn == turn else None, pod.order)

    def _boot(self, pod: Pod) -> None:
        pod.turn += 1
        startup = pod.workload["startup"]
        whole = ns(startup["delay"])
        early = ns(startup["address"]) if "address" in startup else whole
        if early < whole and not pod.kubelet.address:
            self._later(pod, early, lambda: self._address(pod))
        self._later(pod, whole, lambda: self._serve(pod))

    def _address(self, pod: Pod) -> None:
        if not pod.kubelet.address:
            pod.kubelet = Status(True, False, self._clock.now // S)
            self._report(pod)

    def _serve(self, pod: Pod) -> None:
        ending = pod.workload["termination"]
        muted = pod.api is not None and pod.api.terminating and not ending.get("servesDuringPreStop", True)
        pod.up, pod.answers = True, not muted
        probe = ns(pod.workload["readiness"]["probeDelay"])
        if probe or pod.shedding or pod.quitting or muted:
            self._address(pod)
        self._later(pod, probe, lambda: self._ready(pod)) if probe else self._ready(pod)

    def _ready(self, pod: Pod) -> None:
        """The containers are ready. The pod is, too, once its readiness gates are open (CP-2.6)."""
        gates = pod.workload["readiness"].get("gates", [])
        pod.contained = pod.answers and not pod.shedding and not pod.quitting
        if pod.contained and gates and pod.gates is None:
            pod.gates = self._clock.now + max(map(ns, gates))
            self._clock.at(pod.gates, WORLD, lambda: self._pass(pod) if pod.contained else None, pod.order)
        if pod.contained and pod.gates is not None and self._clock.now < pod.gates:
            self._address(pod)
        else:
            self._pass(pod)

    def _pass(self, pod: Pod) -> None:
        if pod.answers and not pod.shedding and not pod.quitting and not pod.kubelet.ready:
            pod.kubelet = Status(True, True, self._clock.now // S)
            self._report(pod)

    def _unready(self, pod: Pod) -> None:
        pod.contained = False
        if pod.kubelet.ready:
            pod.kubelet = Status(True, False, self._clock.now // S)
            self._report(pod)

    def shed(self, pod: Pod, sheds: bool) -> None:
        """Let the pod's readiness probe fail, or pass again. The kubelet notices after the probe delay (CP-2.4)."""
        if pod.shedding is sheds or not pod.up:
            return
        pod.shedding = sheds

        def notice() -> None:
            if pod.shedding is sheds:
                self._unready(pod) if sheds else self._ready(pod)

        self._later(pod, ns(pod.workload["readiness"]["probeDelay"]), notice)

    def crash(self, pod: Pod, restarts: bool) -> None:
        """Stop the pod's process. A new container starts unready (CP-2.4)."""
        pod.turn += 1
        pod.answers = False
        notice = ns(pod.workload["readiness"]["probeDelay"])
        restart = ns(pod.workload["startup"]["delay"])
        self._later(pod, min(notice, restart) if restarts else notice, lambda: self._unready(pod))
        if restarts:
            self._later(pod, restart, lambda: self._serve(pod))

    # --- reports

    def _report(self, pod: Pod) -> None:
        status, send = pod.kubelet, self._clock.now + self._clock.delays["readinessToStatus"]

        def arrive() -> None:
            if pod.api is not None and send <= pod.power_lost:
                self._store.store(pod, Seen(status, pod.api.terminating))

        self._after_reports(pod, send, arrive)

    def _after_reports(self, pod: Pod, send: int, arrive: Action) -> None:
        pod.busy_until = max(pod.busy_until, send + self._clock.delays["apiWrite"])
        self._clock.at(pod.busy_until, STORE, arrive, pod.order)

    # --- termination

    def delete(self, pod: Pod, force: bool = False) -> None:
        """Ask the API server to delete the pod (CP-2.8); with ``force`` without grace."""
        pod.asked = True
        time = max(self._clock.now + self._clock.delays["apiWrite"], pod.created)
        if force:
            self._clock.at(time, WORLD, lambda: self._leave(pod, told=True), pod.order)
        else:
            self._clock.at(time, STORE, lambda: self._terminate(pod), pod.order)

    def _terminate(self, pod: Pod) -> None:
        if pod.api is None:
            return
        self._store.store(pod, Seen(pod.api.status, True))
        if not pod.up:
            return
        seen = self._clock.delays["deletionToKubelet"]
        self._later(pod, seen, lambda: self._end(pod)) if seen else self._end(pod)

    def _end(self, pod: Pod) -> None:
        """The kubelet begins with hook and SIGTERM."""
        ending = pod.workload["termination"]
        if not ending.get("servesDuringPreStop", True):
            pod.answers = False
        grace = ns(ending["grace"])
        term = min(ns(ending["preStop"]), grace)
        exit_ = min(term + ns(ending["afterSigterm"]), grace)
        if "unreadyAfterSigterm" in ending and term + ns(ending["unreadyAfterSigterm"]) < exit_:

            def quit_() -> None:
                pod.quitting = True
                self._unready(pod)

            self._later(pod, term + ns(ending["unreadyAfterSigterm"]), quit_)
        self._later(pod, exit_, lambda: self._leave(pod))

    def _leave(self, pod: Pod, told: bool = False) -> None:
        """The pod's processes end. The API server removes the pod when it hears of it, or at once if it knows."""
        pod.turn += 1
        pod.up = pod.answers = False
        if told:
            self._clock.after(0, STORE, lambda: self._remove(pod), pod.order)
            return
        send = self._clock.now + self._clock.delays["pleg"] + self._clock.delays["readinessToStatus"]
        self._after_reports(pod, send, lambda: self._remove(pod) if send <= pod.power_lost else None)

    def _remove(self, pod: Pod) -> None:
        if pod.api is not None:
            pod.gone = pod.asked = True
            self._store.store(pod, None)

    # --- power

    def lose_power(self, node: str) -> None:
        """The node's pods stop, and nobody reports it (CP-2.9)."""
        for pod in self._store.on(node):
            pod.turn += 1
            pod.up = pod.answers = pod.contained = False
            pod.power_lost = self._clock.now

    def regain_power(self, node: str) -> None:
        """The kubelet takes its pods from the API server: it ends those whose deletion was asked for and starts the rest."""
        for pod in self._store.on(node):
            pod.power_lost = NEVER
            if pod.asked:
                self._leave(pod)
                continue
            pod.up = True
            pod.kubelet = pod.api.status if pod.api is not None else Status()
            self._unready(pod)
            self._boot(pod)
