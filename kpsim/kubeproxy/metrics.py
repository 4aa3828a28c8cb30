"""kube-proxy's own counters and gauges under their Prometheus names (O-9, I-15); histograms as their ``_count``.

Counterpart: pkg/proxy/metrics. It never knows what is counted.
"""

from collections.abc import Mapping


class Metrics:
    """Values since the start, by full name with labels in alphabetical order; one instance serves both families."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {
            f"kubeproxy_sync_proxy_rules_{what}_changes_{kind}": 0
            for what in ("endpoint", "service")
            for kind in ("pending", "total")
        }

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Count up; a name with labels appears with its first call, even by 0."""
        key = _key(name, labels)
        self._values[key] = self._values.get(key, 0) + amount

    def set(self, name: str, value: int, **labels: str) -> None:
        self._values[_key(name, labels)] = value

    def snapshot(self) -> Mapping[str, int]:
        """All values now, by name."""
        return {key: self._values[key] for key in sorted(self._values)}


def _key(name: str, labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
    return f"kubeproxy_{name}" + (f"{{{inner}}}" if inner else "")
