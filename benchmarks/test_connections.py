"""The cost of connections in a run: 10 nodes, 20 Services of ten pods, a rollout and two crashes.

Half of the Services are dialled by node port from 50 clients outside, half by cluster IP from pods.
"""

from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.scenario import Scenario, parse_scenario
from kpsim.simulation import run

_HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: connections}
duration: 60s
nodes: {count: 10}
workloads:
  - {name: client, replicas: 10}
"""
_EVENTS = """\
events:
  - {at: 10s, rollout: {workload: web0}}
  - {at: 20s, crash: {workload: web1}}
  - {at: 30s, crash: {workload: web2}}
traffic:
"""


def connections(number: int) -> Scenario:
    """The scenario with so many short TCP connections."""
    rate, lines = number / 20 / 60, [_HEAD]
    lines += [f"  - {{name: web{n}, replicas: 10, ports: [{{containerPort: 8080}}]}}\n" for n in range(20)]
    lines.append("objects:\n")
    for n in range(20):
        port, kind = "port: 80, targetPort: 8080", ""
        if n < 10:
            port, kind = f"{port}, nodePort: {30100 + n}", "type: NodePort, "
        spec = f"{kind}clusterIP: 172.30.0.{n + 10}, selector: {{app: web{n}}}, ports: [{{{port}}}]"
        lines.append(f"  - {{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{{spec}}}}}\n")
    lines.append(_EVENTS)
    for n in range(20):
        sender = "via: nodePort, clients: 50" if n < 10 else "from: pods, workload: client"
        lines.append(f"  - {{name: t{n}, {sender}, service: s{n}, perSecond: {rate}}}\n")
    return parse_scenario("".join(lines), "connections.yaml")


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
@pytest.mark.parametrize(("number", "walk_all"), [(100_000, False), (10_000, True)])
def test_short_connections(benchmark: BenchmarkFixture, number: int, walk_all: bool, mode: str) -> None:
    """At most 20 s for 100,000. Walked one by one (``--walk-all``), 10,000 take about as long."""
    scenario = replace(connections(number), walk_all=walk_all)
    log = benchmark.pedantic(run, args=(scenario,), kwargs={"mode": mode}, rounds=1, warmup_rounds=0)
    assert len(log.connections) >= number
