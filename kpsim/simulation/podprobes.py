"""The probes of pods in a run: which workers a container has, and what their beliefs cause (CP-2.2, CP-2.5).

Counterpart: the kubelet's prober manager.
"""

from collections.abc import Callable
from functools import partial

from kpsim import rng
from kpsim.scenario.workload_schema import Probe
from kpsim.simulation.clock import Clock
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.probing import Answer, Worker


class Probers:
    """Makes the workers of containers.

    ``ready`` is told whether a pod's containers are ready, and ``kill`` by which probe a container has to go. ``plan``
    schedules an action for as long as the pod's container lives.
    """

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        plan: Callable[[PodLife, int, Callable[[PodLife], None]], None],
        ready: Callable[[PodLife, bool], None],
        kill: Callable[[PodLife, str], None],
    ) -> None:
        self._clock = clock
        self._seed = seed
        self._plan = plan
        self._ready = ready
        self._kill = kill

    def adopt(self, pod: PodLife) -> None:
        """Begin to probe a container that has been ready since before the run. Where its ticks fall is drawn."""
        for kind, (probe, worker) in self._make(pod, ready=True).items():
            worker.start(self._phase_ns(pod, kind, probe))

    def begin(self, pod: PodLife, since_ns: int, *, kubelet_starts: bool) -> None:
        """Begin to probe a container that has run since ``since_ns``.

        A kubelet that has just started waits for a drawn part of the period (CP-2.1).
        """
        pod.running_ns = since_ns
        for kind, (probe, worker) in self._make(pod, ready=False).items():
            worker.start(self._phase_ns(pod, kind, probe) if kubelet_starts else 0)

    def _phase_ns(self, pod: PodLife, kind: str, probe: Probe) -> int:
        return rng.below(probe.period_ns, self._seed, "probe phase", *pod.key, pod.life, kind)

    def _make(self, pod: PodLife, *, ready: bool) -> dict[str, tuple[Probe, Worker]]:
        """Make the workers of a container that has just started, or has long been ``ready``."""
        probes = pod.workload.probes
        pod.started = ready or probes.startup is None
        pod.readiness = None
        made = {}
        if probes.startup is not None and not ready:
            told = partial(self._start_up, pod)
            made["startup"] = probes.startup, self._worker(pod, probes.startup, None, self._at_startup, told)
        if probes.readiness is not None:
            pod.readiness = self._worker(pod, probes.readiness, ready, self._at_readiness, partial(self._turn, pod))
            made["readiness"] = probes.readiness, pod.readiness
        if probes.liveness is not None:
            told = partial(self._die, pod)
            made["liveness"] = probes.liveness, self._worker(pod, probes.liveness, True, self._at_liveness, told)
        return made

    def _worker(
        self,
        pod: PodLife,
        probe: Probe,
        belief: bool | None,
        ask: Callable[[PodLife], Answer | None],
        told: Callable[[bool], None],
    ) -> Worker:
        def asked() -> Answer | None:
            begun = pod.running_ns is None or self._clock.now_ns - pod.running_ns >= probe.initial_delay_ns
            return ask(pod) if begun else None

        def plan(at_ns: int, action: Callable[[], None]) -> None:
            self._plan(pod, at_ns, lambda _: action())

        return Worker(self._clock, probe, belief, ask=asked, told=told, plan=plan)

    # ------------------------------------------------------------------------------------------------- what probes find

    @staticmethod
    def _at_startup(pod: PodLife) -> Answer | None:
        return None if pod.started or pod.deleted is not None else Answer(pod.answers)

    @staticmethod
    def _at_readiness(pod: PodLife) -> Answer | None:
        """The kubelet stops to ask when its machine shuts down, and leaves the pod as ready as it was (k/k #116965)."""
        asks = pod.started and not pod.shutting_down
        return Answer(pod.answers and not pod.refuses, late=pod.late) if asks else None

    @staticmethod
    def _at_liveness(pod: PodLife) -> Answer | None:
        """The kubelet stops to ask once the pod is deleted (CP-2.8)."""
        ended = pod.deleted is not None or pod.shutting_down or not pod.started
        return None if ended else Answer(pod.answers and not pod.stuck, late=pod.late)

    # ---------------------------------------------------------------------------------------------------- what follows

    def _start_up(self, pod: PodLife, passed: bool) -> None:
        if not passed:
            self._kill(pod, "startup")
            return
        pod.started = True
        if pod.readiness is not None:
            pod.readiness.poke()
        else:
            self._ready(pod, True)

    def _turn(self, pod: PodLife, passes: bool) -> None:
        self._ready(pod, passes)
        if not passes and pod.readiness is not None:
            pod.readiness.poke()  # the status that the kubelet makes now is not ready

    def _die(self, pod: PodLife, passes: bool) -> None:
        if not passes:
            self._kill(pod, "liveness")
