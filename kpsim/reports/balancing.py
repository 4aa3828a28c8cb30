"""Load balancers and connect times: how long nodes got traffic that they could not serve, and how long clients waited.

A *black-hole window* is a stretch of time in which a load balancer sent new connections to a node although the node's
health check failed. With N failures needed it lasts up to (N + 1) times the interval between checks (FIG-3, PP-11.7).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kpsim.reports.local_policy import health_timelines
from kpsim.reports.sync_lag import Quantiles, quantiles
from kpsim.simulation.runlog import Balancer, Connection, NodeHealth, RunLog


@dataclass(frozen=True, slots=True)
class BlackHole:
    """The longest black-hole window of one Service's load balancer, beside the worst that there may be."""

    balancer: Balancer
    node: str  #: empty: there was none
    start_ns: int = 0
    end_ns: int = 0

    @property
    def since_ns(self) -> int | None:
        """When it began; None: there was none."""
        return self.start_ns if self.node else None

    @property
    def length_ns(self) -> int:
        """How long it was; 0: there was none."""
        return self.end_ns - self.start_ns


def _hidden(record: NodeHealth) -> bool:
    return record.in_rotation and not record.check_passes


def black_holes(log: RunLog) -> list[BlackHole]:
    """Return the longest window of each load balancer, by Service. Of equal ones the first counts."""
    timelines = health_timelines(log)
    found = []
    for balancer in log.balancers:
        spells = [
            BlackHole(balancer, node, start_ns, end_ns)
            for (service, node), timeline in timelines.items()
            if service == balancer.service
            for start_ns, end_ns in timeline.spells(log.duration_ns, _hidden)
        ]
        found.append(
            min(spells, key=lambda hole: (-hole.length_ns, hole.start_ns, hole.node), default=BlackHole(balancer, ""))
        )
    return found


def connect_times(connections: Iterable[Connection]) -> Quantiles:
    """Return the quantiles of the time until connections were set up. Requests over open connections are left out."""
    return quantiles(time_ns for c in connections if (time_ns := c.connect_time_ns) is not None)
