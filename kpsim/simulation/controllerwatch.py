"""When a controller sees what the API server stored: late, and in order within each kind of object (CP-5.1)."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from kpsim.scenario.quantities import Delay
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns


class WatchNames(NamedTuple):
    """What a controller is called: on the clock, in draws, and as a client of the API server."""

    clock: str
    draws: str
    client: str


class ControllerWatch:
    """Tells a controller each change when its informer has it. A watcher of the API server."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        delay: Delay,
        seed: int,
        names: WatchNames,
        see: Callable[[Change], None],
        kinds: Collection[str] | None = None,
    ) -> None:
        """``kinds`` are those that the controller watches; None: all."""
        self._clock = clock
        self._api = api
        self._delay = delay
        self._seed = seed
        self._names = names
        self._see = see
        self._kinds = kinds
        self._seen_ns: dict[str, int] = {}  #: by kind: when its last change is seen

    def __call__(self, change: Change) -> None:
        kind, names = change.key.kind, self._names
        if self._kinds is not None and kind not in self._kinds:
            return
        sent_ns = change.written_ns + draw_ns(self._delay, self._seed, names.draws, change.key, change.version)
        at_ns = max(self._seen_ns.get(kind, 0), self._api.faults.seen_ns(sent_ns, f"{names.client}, {kind}"))
        self._seen_ns[kind] = at_ns
        self._clock.at(at_ns, Rank.CONTROLLER, names.clock, lambda: self._see(change))
