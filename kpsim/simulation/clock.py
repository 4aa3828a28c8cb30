"""The clock of a run: actions at integer nanoseconds, in a declared order where several fall on one instant.

This is the only module that imports SimPy.

Actions of one instant run by rank, then by subject in the order of the scenario file, then in the order of scheduling:

| rank            | what                                                                  | subject    |
|-----------------|-----------------------------------------------------------------------|------------|
| WORLD           | machines and applications come and go, faults begin and end           | workload, node |
| API_WRITE       | the API server takes a write                                          | workload, service, node |
| CONTROLLER      | the EndpointSlice controller sees changes and decides                 | service    |
| DELIVERY        | a node's informer hands a change to kube-proxy                        | node       |
| RULES_IN_FORCE  | a sync ends: its rules, health answers and conntrack deletions count  | node       |
| SYNC_START      | a sync starts and takes the changes that were delivered               | node       |
| HEALTH_CHECK    | a load balancer probes a node                                         | service, node |
| PACKET          | a packet is sent                                                      | traffic    |

So if all delays are zero, a change can be written, synchronised and met by a packet at one and the same instant. A
packet never meets half of an instant.
"""

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import simpy
from simpy.core import EmptySchedule
from simpy.events import EventPriority

from kpsim.units import parse_rfc3339_ns


class Rank(enum.IntEnum):
    """Order within one instant; see the table above."""

    WORLD = 1
    API_WRITE = 2
    CONTROLLER = 3
    DELIVERY = 4
    RULES_IN_FORCE = 5
    SYNC_START = 6
    HEALTH_CHECK = 7
    PACKET = 8


#: what the clocks of the cluster's machines show when a run starts
START_NS = parse_rfc3339_ns("2026-01-01T00:00:00Z")


def wall_ns(now_ns: int) -> int:
    """Return the nanoseconds since 1970 at a time of the run."""
    return START_NS + now_ns


_MOST_SUBJECTS = 1 << 20

Action = Callable[[], object]


class _Scheduled(simpy.Event):
    """An event that has already succeeded and only waits for its time, like SimPy's own Timeout."""

    def __init__(self, env: simpy.Environment, action: Action) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        self._action = action
        assert self.callbacks is not None
        self.callbacks.append(self._act)

    def _act(self, _event: simpy.Event) -> None:
        self._action()


class Clock:
    """Simulated time since the start of the run. ``subjects`` stand in their order of precedence."""

    def __init__(self, subjects: Iterable[str] = ()) -> None:
        self._env = simpy.Environment(0)
        self._order = {subject: number for number, subject in enumerate(dict.fromkeys(subjects), 1)}

    @property
    def now_ns(self) -> int:
        return cast(int, self._env.now)

    @property
    def next_ns(self) -> float:
        """When the next action is due; infinite if there is none."""
        return self._env.peek()

    def at(self, at_ns: int, rank: Rank, subject: str, action: Action) -> None:
        """Schedule ``action`` for ``at_ns``.

        KeyError for a subject that was not declared, ValueError for a time in the past.
        """
        if at_ns < self._env.now:
            raise ValueError(f"{at_ns} ns has gone by: it is {self._env.now} ns")
        # SimPy orders by time, priority and the order of scheduling: rank and subject make the priority
        priority = EventPriority(rank * _MOST_SUBJECTS + self._order[subject])
        self._env.schedule(_Scheduled(self._env, action), priority, at_ns - self.now_ns)

    def run(self, until_ns: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Run every action before ``until_ns`` and report to ``progress`` from time to time."""
        for _ in self.steps(until_ns, progress):
            pass

    def steps(self, until_ns: int, progress: Callable[[int, int], None] | None = None) -> Iterator[int]:
        """Run as :meth:`run` does, and yield the time after every action."""
        step_ns = max(1, until_ns // 200)
        tell_ns = step_ns
        try:
            while (next_ns := self._env.peek()) < until_ns:
                self._env.step()
                if progress is not None and next_ns >= tell_ns:
                    tell_ns = int(next_ns) - int(next_ns) % step_ns + step_ns
                    progress(int(next_ns), until_ns)
                yield int(next_ns)
        except EmptySchedule:  # pragma: no cover - peek is infinity on an empty schedule
            pass
        if progress is not None:
            progress(until_ns, until_ns)
