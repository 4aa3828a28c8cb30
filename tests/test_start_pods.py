"""Pods that a scenario file puts there at the start: their names, nodes and addresses, and whether they are ready."""

import pytest

from kpsim.errors import InputError
from kpsim.objects import Pod
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import Fate

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 10s
nodes: {count: 2}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
FROM_NODE_2 = "traffic: [{name: t, from: nodes, nodes: [node-2], service: web, perSecond: 10}]\n"


def workload(text: str) -> str:
    return f"workloads: [{{name: web, {text}}}]\n"


def pods_at_start(text: str) -> dict[str, Pod]:
    scenario = parse_scenario(HEAD + text, "test.yaml")
    started = Run(scenario, scenario.seed)
    next(started.steps(None))
    return {pod.metadata.name: pod for pod in started.api.state.pods}


def refused(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_scenario(HEAD + text, "test.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_a_pod_keeps_its_name_node_and_address() -> None:
    (pod,) = pods_at_start(workload("replicas: 1, pods: [{name: web-x, node: node-2, ips: [10.180.2.77]}]")).values()
    assert (pod.metadata.name, pod.node_name, pod.ips, pod.ready) == ("web-x", "node-2", ("10.180.2.77",), True)


def test_the_other_replicas_are_placed_beside_them() -> None:
    found = pods_at_start(workload("replicas: 3, pods: [{name: web-x, node: node-1, ips: [10.180.1.2]}]"))
    # spread: the second goes to the empty node; 10.180.1.2, the first of the pool, is taken
    assert {name: (pod.node_name, pod.ips) for name, pod in found.items()} == {
        "web-x": ("node-1", ("10.180.1.2",)),
        "web-2": ("node-2", ("10.180.2.2",)),
        "web-3": ("node-1", ("10.180.1.3",)),
    }


def test_a_pod_without_address_gets_one_that_no_other_pod_is_given() -> None:
    given = "[{name: a, node: node-1}, {name: b, node: node-1, ips: [10.180.1.2]}]"
    found = pods_at_start(workload(f"replicas: 2, pods: {given}"))
    assert (found["a"].ips, found["b"].ips) == (("10.180.1.3",), ("10.180.1.2",))


def test_pods_on_the_host_network_have_their_node_s_address() -> None:
    found = pods_at_start(workload("replicas: 1, hostNetwork: true, pods: [{name: a, node: node-2}]"))
    assert found["a"].ips == ("192.168.0.2",)


def test_a_new_pod_takes_no_name_that_the_file_gives() -> None:
    text = workload("replicas: 2, pods: [{name: web-2, node: node-1}]")
    assert set(pods_at_start(text)) == {"web-2", "web-3"}


def test_a_pod_outside_its_node_s_pod_network_is_reached_from_other_nodes() -> None:
    pods = "pods: [{name: a, node: node-1, ips: [10.99.3.4]}]"
    log = run(parse_scenario(HEAD + workload(f"replicas: 1, {pods}") + FROM_NODE_2, "test.yaml"))
    assert {(c.disposition, c.endpoint) for c in log.connections} == {(Fate.DELIVERED, "10.99.3.4:8080")}


def test_a_pod_that_is_not_ready_is_no_endpoint_and_counts_as_unavailable() -> None:
    pods = "pods: [{name: a, node: node-1}, {name: b, node: node-2, ready: false}]"
    # with one pod unavailable already, a rollout may first take only the one that is not ready
    events = "events: [{at: 2s, rollout: {workload: web, maxSurge: 0, maxUnavailable: 1}}]\n"
    scenario = parse_scenario(HEAD + workload(f"replicas: 2, {pods}") + FROM_NODE_2 + events, "test.yaml")
    log = run(scenario)
    assert {c.answered_by for c in log.connections if c.at_ns < 2_000_000_000} == {"default/a"}
    gone = [h.subject for h in log.happenings if h.kind == "pod terminating"]
    assert gone == ["default/b", "default/a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replicas: 1, pods: [{name: a, node: node-1}, {name: b, node: node-1}]",
         "workloads[0]: expected at most 1 pods, as many as replicas, got 2"),
        ("hostNetwork: true, pods: [{name: a, node: node-1, ips: [10.180.1.7]}]",
         "workloads[0]: pods with hostNetwork have their node's addresses: expected no ips"),
        ("pods: [{name: a, node: node-9}]", "workloads[0].pods[0].node: there is no node 'node-9'; did you mean 'node-2'?"),
        ("replicas: 2, pods: [{name: a, node: node-1}, {name: a, node: node-2}]",
         "workloads[0].pods[1].name: a second pod called default/a"),
        ("pods: [{name: a, node: node-1, ips: [192.168.0.2]}]", "workloads[0].pods[0].ips: 192.168.0.2 is the address of node-2"),
        ("replicas: 2, pods: [{name: a, node: node-1, ips: [10.180.1.7]}, {name: b, node: node-2, ips: [10.180.1.7]}]",
         "workloads[0].pods[1].ips: 10.180.1.7 is the address of pod a"),
        ("pods: [{name: a, node: node-1, ips: ['fd00::7']}]", "workloads[0].pods[0].ips: expected at most one of each family of IPv4"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(text: str, message: str) -> None:
    (problem,) = refused(workload(text))
    assert problem.endswith(message)


def test_a_node_that_joins_later_has_no_pods_at_the_start() -> None:
    text = workload("pods: [{name: a, node: node-1}]") + "events: [{at: 2s, addNode: {node: node-1}}]\n"
    assert refused(text)[0].endswith("workloads[0].pods[0].node: node-1 is not there at the start: an event adds it")


def test_pods_of_a_stateful_set_have_its_ordinals_and_those_that_lack_are_made() -> None:
    found = pods_at_start(
        workload("kind: StatefulSet, replicas: 3, pods: [{name: web-1, node: node-1, ips: [10.180.1.9]}]")
    )
    assert {name: pod.ips[0] for name, pod in found.items()} == {
        "web-0": "10.180.2.2", "web-1": "10.180.1.9", "web-2": "10.180.1.2",
    }  # fmt: skip
    text = workload("kind: StatefulSet, replicas: 1, pods: [{name: web-1, node: node-1}]")
    assert refused(text)[0].endswith("workloads[0]: pods of a StatefulSet are called web-0 to web-0, not web-1")


def test_a_service_may_select_one_pod_of_a_stateful_set() -> None:
    own = "  - {apiVersion: v1, kind: Service, metadata: {name: one}, spec: {clusterIP: 172.30.0.11, ports: [{port: 80, targetPort: 8080}],\n" \
          "     selector: {app: web, statefulset.kubernetes.io/pod-name: web-1, apps.kubernetes.io/pod-index: '1'}}}\n"  # fmt: skip
    traffic = "traffic: [{name: t, from: nodes, service: one, perSecond: 10}]\n"
    log = run(parse_scenario(HEAD + own + workload("kind: StatefulSet, replicas: 3") + traffic, "test.yaml"))
    assert {(c.disposition, c.answered_by) for c in log.connections} == {(Fate.DELIVERED, "default/web-1")}
