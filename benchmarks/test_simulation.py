"""The cost of a run's control plane: pods, slices, load balancers, addresses.

Each docstring says on what a cost must not depend.
"""

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.addresses import Family
from kpsim.fabric import fabric_of
from kpsim.nodes import make_machines
from kpsim.reports.sync_lag import all_quantiles
from kpsim.scenario import Scenario, parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Programming, RunLog

_HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {{name: benchmark}}
duration: {duration}
nodes: {{count: {nodes}, zones: [a, b, c]}}
"""


def _scenario(nodes: int, services: int, pods: int, duration: str, events: str) -> Scenario:
    """``services`` Services over ten workloads; every tenth Service has a load balancer and the Local policy."""
    lines = [_HEAD.format(duration=duration, nodes=nodes), "workloads:\n"]
    lines += [f"  - {{name: w{n}, replicas: {pods // 10}, ports: [{{containerPort: 8080}}]}}\n" for n in range(10)]
    lines.append("objects:\n")
    for number in range(services):
        port, extra = "port: 80, targetPort: 8080", ""
        if number % 10 == 0:
            port += f", nodePort: {30000 + number}"
            extra = f"type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: {31000 + number}, "
        address = f"172.30.{number // 250}.{number % 250 + 1}"
        spec = f"{extra}clusterIP: {address}, selector: {{app: w{number % 10}}}, ports: [{{{port}}}]"
        lines.append(f"  - {{apiVersion: v1, kind: Service, metadata: {{name: s{number}}}, spec: {{{spec}}}}}\n")
    lines.append(events)
    return parse_scenario("".join(lines), "benchmark.yaml")


def _rollouts(number: int) -> str:
    return "events:\n" + "".join(f"  - {{at: {n + 1}s, rollout: {{workload: w{n}}}}}\n" for n in range(number))


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(lambda: _scenario(100, 30, 100, "15s", _rollouts(1)), id="100-nodes-with-load-balancers"),
        pytest.param(lambda: _scenario(10, 10, 1000, "15s", _rollouts(10)), id="10-nodes-1000-pods-rolled-out"),
    ],
)
def test_run(benchmark: BenchmarkFixture, scenario: Callable[[], Scenario]) -> None:
    """A sync costs what changed on its node, however many nodes there are.

    A pod event costs the pods of its Services.
    """
    made = scenario()
    log = benchmark.pedantic(run, args=(made,), rounds=2, warmup_rounds=0)
    assert log.syncs


def test_machines(benchmark: BenchmarkFixture) -> None:
    """250 nodes, each with a route to every other."""
    assert len(benchmark.pedantic(make_machines, args=(_nodes(250),), rounds=3)) == 250


def _nodes(number: int) -> dict[str, Any]:
    return {f"n{n}": ([f"192.168.{n // 250}.{n % 250 + 1}"], [f"10.{n // 250}.{n % 250}.0/24"]) for n in range(number)}


@pytest.mark.parametrize("nodes", [10, 250])
def test_who_has_an_address(benchmark: BenchmarkFixture, nodes: int) -> None:
    """At 250 nodes at most two or three times the cost at 10."""
    fabric = fabric_of(make_machines(_nodes(nodes)))
    pod = (10 << 24) + ((nodes - 1) << 8) + 7  # on the last node
    assert benchmark(fabric.place_of, Family.IPV4, pod).node == f"n{nodes - 1}"


def test_quantiles_by_node(benchmark: BenchmarkFixture) -> None:
    """100,000 changes at 250 nodes. Each is read once for all nodes together and once for its own node."""
    rows = [Programming("c", "s", f"n{i % 250}", "IPv4", i, i + 5, i + 9, i + 20, i + 31, None) for i in range(100_000)]
    log = RunLog("benchmark", 1, 1, "iptables", programming=rows)
    assert len(benchmark.pedantic(all_quantiles, args=(log,), rounds=2)) == 6 * 251
