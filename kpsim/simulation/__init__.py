"""The scenario run: control plane, proxiers, packets and faults on one clock, ending in a run log (a value).

    pods ──► kubelets ──► API server ──► slice controller ──► API server ──► kube-proxies ──► kernels ◄── traffic
                              ▲                                                    │
                      scenario events                                    load balancers probe

Reports read ``simulation.runlog`` alone: importing it loads neither SimPy nor pydantic.
"""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from kpsim.simulation.runlog import RunLog

if TYPE_CHECKING:
    from kpsim.scenario import Scenario

#: told now and then: the time reached and the whole duration, in nanoseconds
Progress = Callable[[int, int], None]


def run(
    scenario: "Scenario", *, seed: int | None = None, mode: str | None = None, progress: Progress | None = None
) -> RunLog:
    """Run a scenario to its end. The same scenario and seed give an equal log, in any process.

    ``seed`` and ``mode`` replace the scenario's own. InputError for a mode that is not modelled, a seed of more than 64 bits.
    """
    from kpsim.simulation.engine import Run

    scenario = scenario.with_mode(mode or scenario.proxy.mode)
    if seed is not None:
        scenario = scenario.with_seed(seed)
    # Nodes and rules of large clusters are millions of values, which reference counts free; the collector would look at all of
    # them again and again. The run itself is left to it when it is over.
    was_on = gc.isenabled()
    gc.disable()
    try:
        return Run(scenario, scenario.seed).run(progress)
    finally:
        if was_on:
            gc.enable()
