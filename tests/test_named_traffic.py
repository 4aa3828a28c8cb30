"""Traffic and figures by names: one pod or node that sends, a Service with its port, an endpoint by its pod."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.reports.figures import figures
from kpsim.scenario import parse_scenario

CLIENTS = HEAD.replace("objects:", "  - {name: client, namespace: shop, replicas: 2}\nobjects:")
TWO_PORTS = CLIENTS.replace("{port: 80, targetPort", "{name: dns, port: 53}, {name: http, port: 80, targetPort")


def source(fields: str) -> str:
    return f"traffic: [{{name: t, service: web, perSecond: 5, {fields}}}]\n"


def test_one_pod_sends_while_it_runs() -> None:
    events = "events: [{at: 2s, deletePods: {workload: client, count: 1}}]\n"
    log = simulate(events + source("from: pod/shop/client-1"), "duration=4s", head=CLIENTS)
    assert {c.client for c in log.connections} == {"client-1"}
    assert max(c.at_ns for c in log.connections) < 2007 * MS
    assert [(u.why, u.connections) for u in log.unsent] == [("no pod shop/client-1 runs", 9)]


def test_one_node_sends() -> None:
    log = simulate(source("from: node/node-2"), "duration=2s")
    assert {(c.client, c.node) for c in log.connections} == {("node-2", "node-2")}


def test_a_service_with_its_port() -> None:
    text = source("from: nodes").replace("service: web", "service: 'default/web:http'")
    log = simulate(text, "duration=2s", head=TWO_PORTS)
    assert {c.service for c in log.connections} == {"default/web:http"}


@pytest.mark.parametrize("nodes", [["node-2"], ["node-1", "node-2"]])
def test_pods_dial_the_node_ports_of_other_nodes(nodes: list[str]) -> None:
    """A pod's own node does not have the other's address, so the packet meets the Service's rules there (PP-2)."""
    fields = f"from: pod/shop/client-1, via: nodePort, nodes: [{', '.join(nodes)}]"
    log = simulate(source(fields), "duration=2s", head=CLIENTS)
    assert {c.node for c in log.connections} == set(nodes)
    assert {c.disposition for c in log.connections} == {"delivered"}


def test_an_endpoint_has_the_name_of_its_pod() -> None:
    events = "events: [{at: 1s, scale: {workload: web, replicas: 3}}]\n"
    log = simulate(events + source("from: nodes"), "duration=8s")
    found = figures(log)
    names = {"10.180.1.2": "web-1", "10.180.2.2": "web-2", "10.180.1.3": "web-3"}
    for scope in ("", "services.default/web.", "traffic.t."):
        for address, pod in names.items():
            for figure in ("established", "share"):
                by_pod = found[f'{scope}endpoints."pod/default/{pod}".{figure}']
                assert by_pod == found[f'{scope}endpoints."{address}".{figure}']


def test_a_pod_that_nobody_was_sent_to_has_figures_too() -> None:
    assert figures(simulate("", "duration=2s"))['endpoints."pod/default/web-2".established'] == 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "dropped 0\nsync_lag.p50_seconds undefined\n"),
        (["--format", "json"], '{\n  "dropped": 0,\n  "sync_lag.p50_seconds": null\n}\n'),
    ],
)
def test_only_the_figures_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    short = ["--set", "duration=1s", "--set", "expect=[]", "--set", "events=[]"]
    asked = ["--figure", "dropped", "--figure", "sync_lag.p50_seconds"]
    monkeypatch.setattr("sys.argv", ["kpsim", "run", "affinity-nat", *short, *asked, *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert (left.value.code or 0, capsys.readouterr().out) == (0, expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("from: pod/shop/klient-1", "traffic[0].from: no workload has pods of this name; pods are called"),
        ("from: pod/shop/client-x", "traffic[0].from: no workload has pods of this name"),
        ("from: node/node-9", "traffic[0].from: there is no node 'node-9'"),
        ("from: pod/client-1", "expected pods, nodes, outside, pod/NAMESPACE/NAME or node/NAME"),
        ("from: pod/shop/client-1, workload: client", "expected workload exactly if the traffic is from: pods"),
        ("from: pod/shop/client-1, nodes: [node-1]", "nodes goes with from: nodes or outside, or with via: nodePort"),
        ("from: node/node-1, nodes: [node-1]", "names the node that sends: nodes goes without it"),
        ("from: nodes, port: 80, service: 'web:80'", "names its port: port goes without it"),
        ("from: nodes, service: 'web:8'", "traffic[0].service: the Service has no port 8; it has (no name) 80/TCP"),
    ],
)
def test_errors(fields: str, words: str) -> None:
    text = f"traffic: [{{name: t, perSecond: 5, {'' if 'service' in fields else 'service: web, '}{fields}}}]\n"
    with pytest.raises(InputError) as caught:
        parse_scenario(CLIENTS + text, "test.yaml")
    assert words in str(caught.value)
