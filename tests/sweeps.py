"""Sweeps for tests: a scenario that is cheap to run, and figures in place of runs where only what is made of them matters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kpsim.reports.figures import AtLeast, Figures
from kpsim.scenario import Scenario
from kpsim.sweeping.result import SweepResult
from kpsim.sweeping.sweep import sweep

SCENARIO = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: small}
duration: 2s
nodes: {count: 1}
delays: {readinessToStatus: {uniform: {low: 0s, high: 300ms}}}
workloads:
  - {name: web, replicas: 2, ports: [{containerPort: 8080}], startup: {delay: 100ms}, termination: {preStop: 0s}}
objects:
  - {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
events: [{at: 500ms, scale: {workload: web, replicas: 1}}]
traffic: [{name: t, from: nodes, service: web, perSecond: 8, arrivals: poisson}]
expect: [lost <= 1]
"""
PRE_STOP = "workloads[web].termination.preStop"
RATE = "traffic[t].perSecond"

Losses = Callable[[float, float, int], float]


def file_of(folder: Path, text: str = SCENARIO) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


class Faked:
    """Runs whose losses are a function of preStop in seconds, of the rate, and of the seed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.path = file_of(folder)
        self.made: list[tuple[float, float, int]] = []
        self._losses: Losses = lambda pre_stop, rate, seed: max(0.0, 3 - pre_stop)
        monkeypatch.setattr("kpsim.sweeping.workers.figures_of", self._figures)

    def _figures(self, scenario: Scenario, seed: int) -> Figures:
        pre_stop = (scenario.spec.workloads[0].termination.pre_stop.constant_ns or 0) / 1e9
        rate = scenario.spec.traffic[0].per_second
        self.made.append((pre_stop, rate, seed))
        lost = self._losses(pre_stop, rate, seed)
        unused = dict.fromkeys(("rejected", "dropped", "misdelivered", "broken"), 0)
        lag = {"sync_lag.p50_seconds": float("nan"), "sync_lag.max_seconds": AtLeast(2.5)}
        return {
            "sent": 100,
            "lost": lost,
            "delivered": 100 - lost,
            "failed": lost,
            "causes.endpoint-gone": lost,
            **unused,
            **lag,
        }

    def sweep(self, losses: Losses | None = None, **how: object) -> SweepResult:
        self._losses = losses or self._losses
        return sweep(self.path, **{"keep": False, "jobs": 1, "seeds": 2, **how})  # type: ignore[arg-type]
