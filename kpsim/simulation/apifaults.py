"""When the API server answers whom, as the scenario's events say it: a function of time alone.

Counterpart: an API server that restarts, that is overloaded, or that nodes cannot reach; and its clients, which try again.
A client that is refused, or that gets no answer, has its write stored when it tries again in vain no more. So the time of
every write, and the time at which a controller or kubelet sees a change, follow from the events. Leader election is not
modelled: controllers and scheduler go on with what they had in mind.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kpsim import rng
from kpsim.scenario.api_server_schema import ApiServerBusy, ApiServerDown, ApiServerSlow, CutOff
from kpsim.scenario.event_schema import ActionKind, ScenarioEvent
from kpsim.simulation.backoff import Doubling, ReflectorBackOff, Ticks
from kpsim.units import MILLISECOND_NS, SECOND_NS

Window = tuple[int, int]  #: from a time until before another

#: of the queues of controllers and scheduler: 5 ms · 2^n, at most 1000 s (CP-3.2)
CONTROLLERS = Doubling(5 * MILLISECOND_NS, 1000 * SECOND_NS)
#: of the EndpointSlice controller's queue of Services (CP-3.2)
SLICES = Doubling(SECOND_NS, 1000 * SECOND_NS)
_KUBELET_PERIOD_NS = 10 * SECOND_NS  #: of a kubelet's look at what it has not told yet (CP-2.7), and of its heartbeats

#: what people and their programs do by way of the API server. If it is down the command fails, and nothing comes of it.
COMMANDS = frozenset(
    {
        ActionKind.ROLLOUT, ActionKind.SCALE, ActionKind.DELETE_PODS, ActionKind.TAINT_NODE, ActionKind.UNTAINT_NODE,
        ActionKind.DELETE_NODE, ActionKind.LABEL_NODE, ActionKind.CORDON, ActionKind.UNCORDON, ActionKind.DRAIN,
        ActionKind.ROLLING_UPGRADE, ActionKind.PATCH_SERVICE, ActionKind.CREATE_SERVICE, ActionKind.DELETE_SERVICE,
        ActionKind.PATCH_ENDPOINT_SLICE, ActionKind.CREATE_ENDPOINT_SLICE, ActionKind.DELETE_ENDPOINT_SLICE,
        ActionKind.DELETE_NAMESPACE, ActionKind.PATCH_ENDPOINTS, ActionKind.CREATE_ENDPOINTS, ActionKind.DELETE_ENDPOINTS,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Slow:
    from_ns: int
    until_ns: int
    by_ns: int


class ApiFaults:
    """All faults of the API server in one run."""

    def __init__(self, events: Sequence[ScenarioEvent] = (), seed: int = 0, end_ns: int = 0) -> None:
        """``end_ns`` is when the run ends."""
        self._seed = seed
        down, busy = list[Window](), list[Window]()
        cut: dict[str, list[Window]] = {}
        self._slow: list[_Slow] = []
        for event in events:
            match event.api_server_down or event.api_server_busy or event.api_server_slow or event.cut_off:
                case ApiServerDown(lasting_ns=lasting_ns):
                    down.append((event.at_ns, min(event.at_ns + lasting_ns, end_ns)))
                case ApiServerBusy(lasting_ns=lasting_ns):
                    busy.append((event.at_ns, min(event.at_ns + lasting_ns, end_ns)))
                case ApiServerSlow(by_ns=by_ns, lasting_ns=lasting_ns):
                    self._slow.append(_Slow(event.at_ns, event.at_ns + lasting_ns, by_ns))
                case CutOff(nodes=nodes, lasting_ns=lasting_ns):
                    for name in nodes:
                        cut.setdefault(name, []).append((event.at_ns, min(event.at_ns + lasting_ns, end_ns)))
                case None:
                    pass
        self._down, self._busy = _merged(down), _merged(busy)
        self._cut: Mapping[str, list[Window]] = {name: _merged(windows) for name, windows in cut.items()}
        self._any = bool(self._down or self._slow or self._cut)
        self._returns: dict[tuple[str, Window], int] = {}

    # ---------------------------------------------------------------------------------------------------- what is wrong

    def down_until(self, at_ns: int) -> int | None:
        """Return when the API server is back, if it is down."""
        return _within(self._down, at_ns)

    def busy_until(self, at_ns: int) -> int | None:
        """Return until when it answers 429, if it does."""
        return _within(self._busy, at_ns)

    def cut_until(self, node: str, at_ns: int) -> int | None:
        """Return when the node reaches it again, if it does not."""
        windows = self._cut.get(node)
        return None if windows is None else _within(windows, at_ns)

    def slow_ns(self, at_ns: int) -> int:
        """Return how much longer everything takes."""
        return sum(slow.by_ns for slow in self._slow if slow.from_ns <= at_ns < slow.until_ns)

    # ------------------------------------------------------------------------------------------------ what comes of it

    def stored_ns(self, at_ns: int, again: Doubling | Ticks = CONTROLLERS, node: str = "") -> int:
        """Return when a write is stored that reaches the API server at a time, if all is well.

        ``node`` is where its sender is; without one it is beside the API server.
        """
        if not self._any:
            return at_ns
        at_ns += self.slow_ns(at_ns)
        while (until_ns := self._silent_until(node, at_ns)) is not None:
            at_ns = again.after(at_ns, until_ns)
        return at_ns

    def kubelet_stored_ns(self, node: str, at_ns: int) -> int:
        """Return when a kubelet's write is stored. One that fails is sent again at a tick of 10 s (CP-2.7)."""
        return self.stored_ns(at_ns, self.ticks_of(node), node) if self._any else at_ns

    def ticks_of(self, node: str) -> Ticks:
        """Return the ticks of a node's kubelet. Their phase is drawn."""
        return Ticks(_KUBELET_PERIOD_NS, rng.below(_KUBELET_PERIOD_NS, self._seed, "kubelet tick", node))

    def seen_ns(self, at_ns: int, client: str) -> int:
        """Return when a client's informer tells of a change that it would tell of at a time, if all is well.

        An informer whose watch was refused waits, and is back after the outage with the first try that is answered. Its
        watch is too old then, so it lists after another back-off (CP-6.2, CP-6.3).
        """
        if not self._any:
            return at_ns
        at_ns += self.slow_ns(at_ns)
        for window in self._down:
            if window[0] <= at_ns < (back_ns := self._back_ns(client, window)):
                at_ns = back_ns
        return at_ns

    def kubelet_sees_ns(self, node: str, at_ns: int) -> int:
        """Return when a node's kubelet sees what it would see at a time, if all is well."""
        if not self._any:
            return at_ns
        at_ns = self.seen_ns(at_ns, f"kubelet of {node}")
        until_ns = self.cut_until(node, at_ns)
        return at_ns if until_ns is None else self.seen_ns(until_ns, f"kubelet of {node}")

    def heard_until(self, from_ns: int, silence_ns: int) -> int:
        """Return when a node that falls silent has been silent for long enough, for the node lifecycle controller.

        While the API server is down nobody is heard, so the controller counts anew afterwards (CP-2.9).
        """
        lost_ns = from_ns + silence_ns
        for start_ns, end_ns in self._down:
            if start_ns <= lost_ns and end_ns > from_ns:
                lost_ns = max(lost_ns, end_ns + silence_ns)
        return lost_ns

    def _silent_until(self, node: str, at_ns: int) -> int | None:
        cut_ns = self.cut_until(node, at_ns) if node else None
        down_ns = self.down_until(at_ns)
        return max((end for end in (cut_ns, down_ns) if end is not None), default=None)

    def _back_ns(self, client: str, window: Window) -> int:
        if (client, window) not in self._returns:
            draws = iter(range(1 << 62))
            back_off = ReflectorBackOff(
                window[0] - 1_000 * SECOND_NS,  # it has been up for long
                lambda limit: rng.below(limit, self._seed, "informer back-off", client, window[0], next(draws)),
            )
            at_ns = window[0]
            while at_ns < window[1]:
                at_ns += back_off.next_ns(at_ns)
            self._returns[client, window] = at_ns + back_off.next_ns(at_ns)
        return self._returns[client, window]


def _merged(windows: Iterable[Window]) -> list[Window]:
    found: list[Window] = []
    for start_ns, end_ns in sorted(windows):
        if found and start_ns <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end_ns))
        else:
            found.append((start_ns, end_ns))
    return found


def _within(windows: Sequence[Window], at_ns: int) -> int | None:
    return next((end_ns for start_ns, end_ns in windows if start_ns <= at_ns < end_ns), None)
