"""Runs small scenarios for tests. Every stage has a delay of its own, so a sum shows which stages it contains."""

from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Connection, Fate, Programming, RunLog
from kpsim.units import MILLISECOND_NS

MS = MILLISECOND_NS

#: a different delay for every stage
DELAYS = """
delays:
  readinessToStatus: 11ms
  apiWrite: 7ms
  controllerWatch: 13ms
  sliceWrite: 17ms
  watchDelivery: 19ms
  initialList: 100ms
  sync: {base: 23ms, perRule: 0s}
"""

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 60s
nodes: {count: 2, zones: [a]}
workloads:
  - name: web
    replicas: 2
    ports: [{containerPort: 8080}]
    startup: {delay: 1s}
    readiness: {probeDelay: 100ms}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: NodePort, clusterIP: 172.30.0.10, selector: {app: web},
           ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"""


def simulate(text: str, *settings: str, delays: str = DELAYS, head: str = HEAD, seed: int = 1) -> RunLog:
    return run(parse_scenario(head + delays + text, "test.yaml", settings=settings), seed=seed)


def ms(row: Programming) -> tuple[int, int, int, int, int]:
    times = (row.trigger_ns, row.written_ns, row.delivered_ns, row.sync_start_ns, row.programmed_ns)
    return tuple(time // MS for time in times)  # type: ignore[return-value]


INSIDE = "traffic: [{name: t, from: nodes, service: web, perSecond: 20}]\n"


def of(log: RunLog, disposition: Fate) -> list[Connection]:
    return [c for c in log.connections if c.disposition is disposition]
