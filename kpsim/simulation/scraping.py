"""Reads the metrics of every kube-proxy, and of the slice controller, at an interval, as a Prometheus would, and changes nothing.

A scrape sees what its instant has left behind. A process that is gone does not answer; a new one counts from zero.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kpsim.endpointslices import metrics as slice_metrics
from kpsim.kubeproxy import metrics as proxy_metrics
from kpsim.kubeproxy.metrics import Definition, Series

if TYPE_CHECKING:
    from kpsim.simulation.engine import Run

#: the port of kube-proxy's metrics server (CFG)
METRICS_PORT = 10249


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A process whose metrics are read, with the labels that a Prometheus gives its series."""

    job: str
    instance: str
    node: str = ""  #: whose kube-proxy it is; empty: no node's

    @property
    def prefix(self) -> str:
        """What the names of its series begin with."""
        return PREFIXES[self.job]

    @property
    def definitions(self) -> tuple[Definition, ...]:
        """The metrics that it may have."""
        return slice_metrics.DEFINITIONS if self.job == CONTROLLER.job else proxy_metrics.DEFINITIONS


PREFIXES = {"kube-proxy": proxy_metrics.PREFIX, "kube-controller-manager": slice_metrics.PREFIX}
CONTROLLER = Target("kube-controller-manager", "kube-controller-manager:10257")


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one target answered at a time of the run. ``series`` is None if it did not."""

    at_ns: int
    target: Target
    series: Series | None


@dataclass(slots=True)
class Scraper:
    """Scrapes at 0, at ``interval_ns``, at twice that, and so on, up to the end of the run."""

    interval_ns: int
    scrapes: list[Scrape] = field(default_factory=list)  #: in time order; within an instant in the order of the nodes
    _due_ns: int = 0

    def until(self, run: "Run", next_ns: float) -> None:
        """Scrape at all times that come before ``next_ns``, at which something happens next."""
        while self._due_ns < next_ns and self._due_ns <= run.spec.duration_ns:
            self._scrape(run)
            self._due_ns += self.interval_ns

    def _scrape(self, run: "Run") -> None:
        for node in run.nodes:
            if node.name in run.machines.absent:
                continue  # no Node object, so no target
            ip = node.ips[0]
            instance = f"[{ip}]:{METRICS_PORT}" if ":" in ip else f"{ip}:{METRICS_PORT}"
            off = run.machines.is_off(node.name)
            counted = run.machines.netns(node.name).memory.counters
            found = None if off else run.proxies[node.name].scrape(counted, self._due_ns)
            self.scrapes.append(Scrape(self._due_ns, Target("kube-proxy", instance, node.name), found))
        self.scrapes.append(Scrape(self._due_ns, CONTROLLER, run.controllers.slices.metrics.metrics.series()))


@dataclass(frozen=True, slots=True)
class TableSize:
    """How many connections a node's table held at a time. Entries that have run out do not count."""

    at_ns: int
    node: str
    entries: int


@dataclass(slots=True)
class TableSampler:
    """Counts the entries of all connection tables every ``interval_ns``, from 0 on. It notes a node's count if it differs."""

    interval_ns: int
    sizes: list[TableSize] = field(default_factory=list)  #: in time order
    _due_ns: int = 0
    _last: dict[str, int] = field(default_factory=dict)

    def until(self, run: "Run", next_ns: float) -> None:
        """Count at all times that come before ``next_ns``, at which something happens next."""
        while self._due_ns < next_ns and self._due_ns <= run.spec.duration_ns:
            for node in run.nodes:
                table = run.machines.netns(node.name).conntrack
                entries = sum(entry.ends_ns > self._due_ns for entry in table)
                if self._last.get(node.name) != entries:
                    self._last[node.name] = entries
                    self.sizes.append(TableSize(self._due_ns, node.name, entries))
            self._due_ns += self.interval_ns
