"""The scenario run: control plane, proxiers, packets and faults on one clock. It ends in a run log, which is a value.

    pods ──► kubelets ──► API server ──► slice controller ──► API server ──► kube-proxies ──► kernels ◄── traffic
                              ▲                                                    │
                      scenario events                                    load balancers probe

Reports read ``simulation.runlog`` alone. Importing that module loads neither SimPy nor pydantic.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from kpsim.bulk import collector_at_rest
from kpsim.simulation.runlog import RunLog

if TYPE_CHECKING:
    from kpsim.scenario import Scenario
    from kpsim.simulation.engine import Run

#: called from time to time with the time reached and the whole duration, in nanoseconds
Progress = Callable[[int, int], None]


class Watcher(Protocol):
    """Somebody who looks at a run between two of its actions."""

    def until(self, run: "Run", next_ns: float) -> None:
        """Look at the run as it is until ``next_ns``, at which something happens next."""


def run(
    scenario: "Scenario",
    *,
    seed: int | None = None,
    mode: str | None = None,
    progress: Progress | None = None,
    watchers: Sequence[Watcher] = (),
) -> RunLog:
    """Run a scenario to its end. The same scenario and seed give an equal log, in any process.

    ``seed`` and ``mode`` replace the scenario's own. ``watchers`` look on, and change nothing. InputError for a mode that is
    not modelled and for a seed of more than 64 bits.
    """
    from kpsim.simulation.engine import Run

    scenario = scenario.with_mode(mode or scenario.proxy.mode)
    if seed is not None:
        scenario = scenario.with_seed(seed)
    with collector_at_rest():
        made = Run(scenario, scenario.seed)
        if not watchers:
            return made.run(progress)
        for _ in made.steps(progress):
            for watcher in watchers:
                watcher.until(made, made.clock.next_ns)
        for watcher in watchers:
            watcher.until(made, scenario.spec.duration_ns + 1)
        return made.log
