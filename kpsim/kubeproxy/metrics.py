"""kube-proxy's own metrics under their Prometheus names, with their kinds and buckets (CP-11.1, O-9, I-15).

Counterpart: pkg/proxy/metrics. Durations and times are integer nanoseconds here; whoever exposes them divides by the unit.
"""

import enum
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kpsim.units import MILLISECOND_NS, SECOND_NS

PREFIX = "kubeproxy_"
Labels = tuple[tuple[str, str], ...]  #: in alphabetical order


class Kind(enum.StrEnum):
    """The kind of a metric, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Definition(NamedTuple):
    """A metric that the model knows. ``name`` has no prefix.

    Values are integers. ``unit`` is how many of them make one of what the metric is in: nanoseconds for seconds.
    """

    name: str
    kind: Kind
    help: str
    bounds: tuple[int, ...] = ()  #: upper bounds of a histogram's buckets; the last bucket, +Inf, has none
    unit: int = 1


#: 1 ms to 16.384 s, each twice the one before
DURATIONS_NS = tuple(MILLISECOND_NS << k for k in range(15))
#: fine where the objective for network programming latency lies, coarse above
LATENCIES_NS = (
    SECOND_NS // 4, SECOND_NS // 2,
    *(SECOND_NS * s for s in (*range(1, 60), *range(60, 120, 5), *range(120, 301, 30))),
)  # fmt: skip
_RULES = "sync_proxy_rules"
DEFINITIONS: tuple[Definition, ...] = (
    Definition("conntrack_reconciler_deleted_entries_total", Kind.COUNTER, "Connection entries deleted by the clean-up"),
    Definition("conntrack_reconciler_sync_duration_seconds", Kind.HISTOGRAM, "Duration of a clean-up, which takes no time here", DURATIONS_NS, SECOND_NS),
    Definition("iptables_ct_state_invalid_dropped_packets_total", Kind.COUNTER, "Packets that were dropped as invalid"),
    Definition("iptables_localhost_nodeports_accepted_packets_total", Kind.COUNTER, "Packets to node ports on loopback addresses"),
    Definition("network_programming_duration_seconds", Kind.HISTOGRAM, "From a change's trigger time to its rules", LATENCIES_NS, SECOND_NS),
    Definition("proxy_healthz_total", Kind.COUNTER, "Answers of /healthz by status"),
    Definition("sync_full_proxy_rules_duration_seconds", Kind.HISTOGRAM, "Duration of full syncs", DURATIONS_NS, SECOND_NS),
    Definition("sync_partial_proxy_rules_duration_seconds", Kind.HISTOGRAM, "Duration of partial syncs", DURATIONS_NS, SECOND_NS),
    Definition(f"{_RULES}_duration_seconds", Kind.HISTOGRAM, "Duration of syncs", DURATIONS_NS, SECOND_NS),
    Definition(f"{_RULES}_endpoint_changes_pending", Kind.GAUGE, "Changes of EndpointSlices since the last sync"),
    Definition(f"{_RULES}_endpoint_changes_total", Kind.COUNTER, "Events of EndpointSlices"),
    Definition(f"{_RULES}_iptables_last", Kind.GAUGE, "Rules that the last sync wrote, by table"),
    Definition(f"{_RULES}_iptables_partial_restore_failures_total", Kind.COUNTER, "Partial syncs that failed"),
    Definition(f"{_RULES}_iptables_restore_failures_total", Kind.COUNTER, "Restores that failed"),
    Definition(f"{_RULES}_iptables_total", Kind.GAUGE, "Rules that kube-proxy owns, by table"),
    Definition(f"{_RULES}_last_queued_timestamp_seconds", Kind.GAUGE, "When a sync was requested last", unit=SECOND_NS),
    Definition(f"{_RULES}_last_timestamp_seconds", Kind.GAUGE, "When a sync succeeded last", unit=SECOND_NS),
    Definition(f"{_RULES}_nftables_cleanup_failures_total", Kind.COUNTER, "Deletions of stale chains that failed"),
    Definition(f"{_RULES}_nftables_sync_failures_total", Kind.COUNTER, "Transactions that failed"),
    Definition(f"{_RULES}_no_local_endpoints_total", Kind.GAUGE, "What has the policy Local and no local endpoint, but others"),
    Definition(f"{_RULES}_service_changes_pending", Kind.GAUGE, "Services changed since the last sync"),
    Definition(f"{_RULES}_service_changes_total", Kind.COUNTER, "Events of Services, one for each family"),
)  # fmt: skip
_TIMES = frozenset(d.name for d in DEFINITIONS if d.kind is Kind.GAUGE and d.unit == SECOND_NS)
#: series without labels, which a process has from its start
FROM_THE_START = tuple(
    f"{_RULES}_{what}_changes_{kind}" for what in ("endpoint", "service") for kind in ("pending", "total")
)


class Histogram(NamedTuple):
    """Observations so far. ``counts`` are those of each bucket alone; the last one is +Inf."""

    counts: tuple[int, ...]
    total: int  #: of all observed values

    @property
    def observed(self) -> int:
        """The number of observations."""
        return sum(self.counts)


Series = Mapping[tuple[str, Labels], int | Histogram]  #: by name without prefix, and labels


class MetricUpdate(NamedTuple):
    """One update of a metric by a proxy mode: adds ``value`` to a counter (``adds``), or sets a gauge to ``value``."""

    name: str
    value: int
    labels: Mapping[str, str]
    adds: bool = False


class Metrics:
    """Values since a process started, by name and labels. ``zero`` are the names that are there from the start."""

    def __init__(self, definitions: Iterable[Definition] = DEFINITIONS, zero: Iterable[str] = FROM_THE_START) -> None:
        self._bounds = {definition.name: definition.bounds for definition in definitions}
        self._values: dict[tuple[str, Labels], int] = {(name, ()): 0 for name in zero}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}
        self._read: Series | None = None

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter. A name with labels appears at its first call, even if the amount is 0."""
        key = name, tuple(sorted(labels.items()))
        self._values[key] = self._values.get(key, 0) + amount
        self._read = None

    def set(self, name: str, value: int, **labels: str) -> None:
        """Sets a gauge."""
        self._values[name, tuple(sorted(labels.items()))] = value
        self._read = None

    def observe(self, name: str, value: int, **labels: str) -> None:
        """Adds an observation to a histogram. It belongs to the first bucket whose bound it does not exceed."""
        key = name, tuple(sorted(labels.items()))
        bounds = self._bounds[name]
        counts, total = self._histograms.get(key) or ((0,) * (len(bounds) + 1), 0)
        place = bisect_left(bounds, value)
        self._histograms[key] = Histogram((*counts[:place], counts[place] + 1, *counts[place + 1 :]), total + value)
        self._read = None

    def expose(self, name: str, **labels: str) -> None:
        """Lets a histogram appear before its first observation, as that of a process that has run for long."""
        key = name, tuple(sorted(labels.items()))
        self._histograms.setdefault(key, Histogram((0,) * (len(self._bounds[name]) + 1), 0))
        self._read = None

    def apply(self, updates: Iterable[MetricUpdate]) -> None:
        """Applies these updates in order."""
        for update in updates:
            if update.adds:
                self.add(update.name, update.value, **update.labels)
            else:
                self.set(update.name, update.value, **update.labels)

    def series(self) -> Series:
        """All values now. The same object as before, if nothing has changed."""
        if self._read is None:
            self._read = {**self._values, **self._histograms}
        return self._read

    def snapshot(self) -> Mapping[str, int]:
        """All values now that do not depend on a clock, by full name with labels. A histogram is its ``_count``."""
        found = {_full(name, labels): value for (name, labels), value in self._values.items() if name not in _TIMES}
        found.update((_full(f"{name}_count", labels), h.observed) for (name, labels), h in self._histograms.items())
        return {key: found[key] for key in sorted(found)}


def _full(name: str, labels: Labels) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in labels)
    return f"{PREFIX}{name}" + (f"{{{inner}}}" if inner else "")
