"""The deletion of a namespace: it terminates, so nothing new is stored in it, and all that it holds is deleted, kind by kind.

Counterpart: ``kubectl delete namespace``, the API server's admission, and the namespace controller of kube-controller-manager.
"""

from functools import partial

from kpsim import rng
from kpsim.objects import ObjectKey
from kpsim.scenario.schema import Delays
from kpsim.simulation.apifaults import CONTROLLERS
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import Actors
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog

KINDS = ("Pod", "Service", "EndpointSlice", "Endpoints")


class Namespaces:
    """Lets namespaces terminate."""

    def __init__(self, clock: Clock, actors: Actors, delays: Delays, seed: int, log: RunLog) -> None:
        self._clock = clock
        self._actors = actors
        self._delays = delays
        self._seed = seed
        self._log = log

    def delete(self, namespace: str) -> None:
        """Delete a namespace, as somebody asks for it now."""
        now_ns = self._clock.now_ns
        self._log.happenings.append(Happening(now_ns, HappeningKind.NAMESPACE_DELETED, namespace))
        api = self._actors.api
        at_ns = api.faults.stored_ns(now_ns + draw_ns(self._delays.api_write, self._seed, "namespace", namespace))
        self._clock.at(at_ns, Rank.API_WRITE, "scenario", lambda: self._terminate(namespace, now_ns))

    def _terminate(self, namespace: str, trigger_ns: int) -> None:
        """Refuse what is new from now on. The namespace controller sees it, and takes one kind after the other, in an arbitrary order."""
        api = self._actors.api
        api.terminating.add(namespace)
        seen_ns = self._clock.now_ns + draw_ns(self._delays.controller_watch, self._seed, "namespace watch", namespace)
        at_ns = api.faults.seen_ns(seen_ns, "namespace controller")
        for kind in sorted(KINDS, key=lambda kind: rng.uniform(self._seed, "namespace", namespace, kind)):
            usual_ns = at_ns + draw_ns(self._delays.api_write, self._seed, "namespace", namespace, kind)
            at_ns = api.faults.stored_ns(usual_ns, CONTROLLERS)
            self._clock.at(at_ns, Rank.API_WRITE, "controller", partial(self._empty, namespace, kind, trigger_ns))

    def _empty(self, namespace: str, kind: str, trigger_ns: int) -> None:
        if kind == "Pod":
            self._actors.workloads.remove_namespace(namespace)
            return
        api = self._actors.api
        doomed: list[ObjectKey] = [key for key in api.state.objects if (key.kind, key.namespace) == (kind, namespace)]
        for key in sorted(doomed):
            api.remove(key, trigger_ns, self._clock.now_ns)
