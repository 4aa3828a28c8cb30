"""kube-proxy's own counters and gauges under their Prometheus names (O-9, I-15). A histogram is kept as its ``_count``.

Counterpart: pkg/proxy/metrics.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class MetricUpdate(NamedTuple):
    """One update of a metric by a proxy mode: adds ``value`` to a counter (``adds``), or sets a gauge to ``value``."""

    name: str
    value: int
    labels: Mapping[str, str]
    adds: bool = False


class Metrics:
    """Values since the start, by full name with labels in alphabetical order. One instance serves both families."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {
            f"kubeproxy_sync_proxy_rules_{what}_changes_{kind}": 0
            for what in ("endpoint", "service")
            for kind in ("pending", "total")
        }

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter. A name with labels appears at its first call, even if the amount is 0."""
        key = _key(name, labels)
        self._values[key] = self._values.get(key, 0) + amount

    def set(self, name: str, value: int, **labels: str) -> None:
        self._values[_key(name, labels)] = value

    def apply(self, updates: Iterable[MetricUpdate]) -> None:
        """Applies these updates in order."""
        for update in updates:
            if update.adds:
                self.add(update.name, update.value, **update.labels)
            else:
                self.set(update.name, update.value, **update.labels)

    def snapshot(self) -> Mapping[str, int]:
        """All values now, by name."""
        return {key: self._values[key] for key in sorted(self._values)}


def _key(name: str, labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
    return f"kubeproxy_{name}" + (f"{{{inner}}}" if inner else "")
