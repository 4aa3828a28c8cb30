"""What traces and probes of a cluster say about the whole exchange (PP-2, PP-5.5, PP-11, CP-14, CP-15, K-2.5, K-8).

Three nodes; every Service is one of the ways in which a client's request or its answer can go.
"""

import json
from fractions import Fraction

import pytest
from exchange_cluster import CONFIG, LOCAL, SERVICES, TERMINATING, cluster_of, last_line, node, outcomes, service, sums

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.exchange import Verdict
from kpsim.explore import Cluster
from kpsim.tracing.probes import Prober, make_packet, parse_probes
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import trace_packet


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return cluster_of(*(node(number) for number in (1, 2, 3)), *SERVICES)


# --- kube-proxy's own servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status", "local", "verdict"), [(1, 200, 1, "works"), (2, 503, 0, "refused")])
def test_the_health_check_counts_ready_local_endpoints(
    cluster: Cluster, number: int, status: int, local: int, verdict: str
) -> None:
    """CP-15.2: the terminating endpoint of n2 still serves outside traffic (PP-5.4), but does not count."""
    trace = cluster.trace(f"n{number}", f"192.168.0.{number}:32011")
    assert sums(trace) == {verdict: "1"}
    http = trace.to_json()["exchange"]["http"]
    assert http["status"] == status
    assert http["body"] == {
        "service": {"namespace": "shop", "name": "ends"}, "localEndpoints": local, "serviceProxyHealthy": True,
    }  # fmt: skip
    assert f"HTTP {status}" in last_line(trace)
    assert f'"localEndpoints": {local}' in last_line(trace)
    assert "kube-proxy's health check of shop/ends" in last_line(trace)
    assert sums(cluster.trace("n2", "192.168.0.2:30011")) == {"works": "1"}


def test_the_health_check_listens_where_node_port_addresses_say(cluster: Cluster) -> None:
    """CP-15.1."""
    elsewhere = cluster_of(node(1), *SERVICES, config=CONFIG + "nodePortAddresses: [10.9.0.0/16]\n")
    trace = elsewhere.trace("n1", "192.168.0.1:32011")
    assert sums(trace) == {"refused": "1"}
    assert "nothing listens" in last_line(trace)
    at_home = cluster_of(node(1), *SERVICES, config=CONFIG + "nodePortAddresses: [192.168.0.0/24]\n")
    assert sums(at_home.trace("n1", "192.168.0.1:32011")) == {"works": "1"}
    assert sums(at_home.trace("n1", "127.0.0.1:32011", sender="node")) == {"refused": "1"}


def test_healthz_says_whether_the_node_is_eligible() -> None:
    """CP-14.2: the autoscaler's taint makes /healthz answer 503, though kube-proxy is healthy."""
    taint = ", taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]"
    answers = {}
    for number, text in ((1, node(1)), (2, node(2, taint))):
        trace = cluster_of(text).trace(f"n{number}", f"192.168.0.{number}:10256")
        http = trace.to_json()["exchange"]["http"]
        answers[number] = http["status"], http["body"]["nodeEligible"], http["body"]["healthy"], sums(trace)
    assert answers == {1: (200, True, True, {"works": "1"}), 2: (503, False, True, {"refused": "1"})}


@pytest.mark.parametrize(
    ("bind", "dst", "verdict"),
    [
        ("127.0.0.1:10999", "127.0.0.1:10999", "works"),
        ("127.0.0.1:10999", "192.168.0.1:10999", "refused"),
        ("127.0.0.1:10999", "127.0.0.1:10256", "refused"),
        ("192.168.0.1", "192.168.0.1:10256", "works"),
    ],
)
def test_healthz_listens_where_it_is_bound(bind: str, dst: str, verdict: str) -> None:
    """CFG-2."""
    bound = cluster_of(node(1), config=CONFIG + f"healthzBindAddress: {bind}\n")
    assert sums(bound.trace("n1", dst, sender="node")) == {verdict: "1"}


# --- the end reacts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dst", "protocol", "verdict", "words"),
    [
        ("192.168.0.1:22", "TCP", "refused", "connection refused (ECONNREFUSED) by tcp-reset from 192.168.0.1"),
        ("192.168.0.1:53", "UDP", "refused", "(ECONNREFUSED) by icmp-port-unreachable from 192.168.0.1"),
        ("192.168.0.1", "ICMP", "works", "an echo reply from 192.168.0.1"),
        ("172.30.0.17:80", "TCP", "refused", "(no endpoints of shop/empty:p)"),
        ("172.30.0.10:81", "TCP", "request-lost", "no machine has 172.30.0.10:81, a cluster IP"),
        ("172.30.0.10", "ICMP", "request-lost", "no answer to its ping"),
        ("10.180.2.5:8080", "TCP", "works", "a SYN-ACK from 10.180.2.5:8080, sent by endpoint of shop/web on n2"),
        ("192.168.0.2:9100", "TCP", "works", "a SYN-ACK from 192.168.0.2:9100"),
        ("10.180.2.5:9", "TCP", "works", "if something listens there"),
        ("203.0.113.50:443", "TCP", "works", "if something listens there"),
    ],
)
def test_the_last_line_says_what_the_client_gets(
    cluster: Cluster, dst: str, protocol: str, verdict: str, words: str
) -> None:
    trace = cluster.trace("n1", dst, sender="pod", protocol=protocol)
    assert sums(trace) == {verdict: "1"}
    assert last_line(trace).startswith("the client gets: ")
    assert words in last_line(trace)


POD = """
apiVersion: v1
kind: Pod
metadata: {{name: web-0, namespace: shop}}
spec: {{nodeName: n1, containers: [{{name: c, image: x, ports: [{{containerPort: {port}}}]}}]}}
status: {{phase: {phase}, podIP: 10.180.1.5, podIPs: [{{ip: 10.180.1.5}}]}}
"""


@pytest.mark.parametrize(
    ("port", "phase", "verdict", "words"),
    [
        (8080, "Running", "works", "pod shop/web-0 on n1"),
        (
            9090,
            "Running",
            "refused",
            "nothing listens at tcp 10.180.1.5:8080 (pod shop/web-0 on n1 declares no such port)",
        ),
        (8080, "Failed", "refused", "no route to host (EHOSTUNREACH)"),
    ],
)
def test_a_pod_listens_on_the_ports_that_it_declares(port: int, phase: str, verdict: str, words: str) -> None:
    """A Service whose targetPort no container has reaches a closed port; of a pod that is over, nobody answers (K-1.6)."""
    made = cluster_of(node(1), service("web", 10, "10.180.1.5 n1"), POD.format(port=port, phase=phase))
    trace = made.trace("n1", "172.30.0.10:80", sender="pod", src="10.180.1.77:40000")
    assert sums(trace) == {verdict: "1"}
    assert words in last_line(trace)


# --- over all nodes --------------------------------------------------------------------------------------------------------


def test_a_pod_that_dials_another_nodes_port_under_local(cluster: Cluster) -> None:
    """PP-5.5: only the endpoint of the dialled node answers through it. What another sends, the client does not know."""
    trace = cluster.trace("n1", "192.168.0.2:30010", sender="pod", src="10.180.1.77:40000", expand=True)
    assert sums(trace) == {"works": "1/3", "answer-lost": "2/3"}
    found = {each["endpoint"]: (each["verdict"], each["node"], each["masquerade"]) for each in outcomes(trace)}
    assert found == {
        "10.180.1.5:8080": ("answer-lost", "n1", False),
        "10.180.2.5:8080": ("works", "n2", False),
        "10.180.3.5:8080": ("answer-lost", "n1", False),
    }
    rules = {each["endpoint"]: each["by"] for each in outcomes(trace)}
    assert rules["10.180.1.5:8080"] is None  # it arrives, from an address that the client's socket does not wait for
    assert rules["10.180.2.5:8080"].startswith("nat/KUBE-NODEPORTS ")
    assert rules["10.180.3.5:8080"].startswith("filter/KUBE-FORWARD -m conntrack --ctstate INVALID ")


def test_the_detailed_text_tells_the_way_back_rule_by_rule(cluster: Cluster) -> None:
    """PP-5.5: n3 lets the pod's answer go, n1 drops it."""
    seeds = (
        cluster.trace("n1", "192.168.0.2:30010", sender="pod", src="10.180.1.77:40000", seed=seed) for seed in range(20)
    )
    trace = next(each for each in seeds if each.journey.packet.destination == "10.180.3.5")
    parts = trace.text("detailed").split("\n\n")
    assert "what comes back: tcp 10.180.3.5:8080 → 10.180.1.77:40000" in parts
    back = parts[parts.index("what comes back: tcp 10.180.3.5:8080 → 10.180.1.77:40000") + 1 :]
    assert [part.partition(":")[0] for part in back[:2]] == ["n3", "n1"]
    assert "leaves by eth0: tcp 10.180.3.5:8080 → 10.180.1.77:40000" in back[0]
    assert "rule 1: drop of INVALID packets\n" in back[1]
    assert "what comes back" not in trace.text()


def test_outside_clients_of_local_reach_only_what_is_there(cluster: Cluster) -> None:
    """PP-5, PP-11.6, PP-11.7."""
    assert sums(cluster.trace("n2", "192.168.0.2:30010", expand=True)) == {"works": "1"}
    lost = cluster.trace("n2", "192.168.0.2:30018", expand=True)
    [outcome] = outcomes(lost)
    assert (outcome["verdict"], outcome["node"], outcome["endpoint"], outcome["seen"]) == (
        "request-lost",
        "n2",
        None,
        None,
    )
    assert outcome["by"].startswith("filter/KUBE-EXTERNAL-SERVICES ")


def test_an_endpoint_that_is_another_nodes_port_is_followed_to_its_endpoints(cluster: Cluster) -> None:
    """PP-11.11 behind a Service: n1 translates to 192.168.0.2:30010, n2 to a pod; only n2's own pod answers through n2."""
    trace = cluster.trace("n1", "172.30.0.12:80", sender="pod", src="10.180.1.77:40000", expand=True)
    assert {each["endpoint"]: each["verdict"] for each in outcomes(trace)} == {
        "10.180.1.5:8080": "answer-lost", "10.180.2.5:8080": "works", "10.180.3.5:8080": "answer-lost",
    }  # fmt: skip
    from_process = cluster.trace("n1", "172.30.0.12:80", sender="node", expand=True)
    assert sums(from_process) == {"works": "1"}  # masqueraded by n1, it is an outside client of n2 (PP-11.3)
    assert [each["seen"]["src"] for each in outcomes(from_process)] == ["192.168.0.1"]


@pytest.mark.parametrize(("sender", "seen"), [("pod", "10.180.1.77"), ("node", "192.168.0.1")])
def test_an_endpoint_in_the_hosts_network(cluster: Cluster, sender: str, seen: str) -> None:
    """PP-11.2, PP-11.3, K-2.5."""
    trace = cluster.trace(
        "n1", "172.30.0.13:80", sender=sender, src="10.180.1.77:40000" if sender == "pod" else "", expand=True
    )
    [outcome] = outcomes(trace)
    assert (outcome["verdict"], outcome["endpoint"], outcome["seen"]["src"]) == ("works", "192.168.0.2:9100", seen)


@pytest.mark.parametrize("sender", ["external", "peer", "pod", "node"])
def test_what_leaves_for_a_proxying_load_balancer_comes_back_as_its_own(cluster: Cluster, sender: str) -> None:
    """PP-11.10: no rule takes the address; the load balancer dials any node, which masquerades (PP-4)."""
    trace = cluster.trace("n1", "198.51.100.20:80", sender=sender, expand=True)
    assert trace.to_json()["disposition"] == "passed"
    assert sums(trace) == {"works": "1"}
    seen = {each["seen"]["src"]: each["weight"] for each in outcomes(trace)}
    assert seen == {"192.168.0.1": "1/3", "10.180.2.1": "1/3", "192.168.0.3": "1/3"}
    assert {each["endpoint"] for each in outcomes(trace)} == {"10.180.2.9:8080"}
    assert "a load balancer takes it and dials 192.168.0." in trace.text()
    assert last_line(trace).startswith("the client gets: a SYN-ACK from 198.51.100.20:80")


def test_a_load_balancer_dials_only_nodes_that_pass_the_health_check(cluster: Cluster) -> None:
    """CP-15.2, PP-11.6."""
    trace = cluster.trace("n1", "198.51.100.21:80", sender="pod", expand=True)
    [outcome] = outcomes(trace)
    assert (outcome["verdict"], outcome["node"], outcome["seen"]["src"]) == ("works", "n2", "198.51.100.21")


def test_a_load_balancer_uses_nodes_that_are_not_excluded_and_have_a_ready_endpoint() -> None:
    """CP-14.3, CP-15.2."""
    address = "{loadBalancer: {ingress: [{ip: 198.51.100.21, ipMode: Proxy}]}}"
    ends = "10.180.1.5 n1", f"10.180.2.5 n2 {TERMINATING}", "10.180.3.5 n3"
    excluded = node(3).replace(
        "{name: n3}", "{name: n3, labels: {node.kubernetes.io/exclude-from-external-load-balancers: x}}"
    )
    for spec, nodes in ((LOCAL.format(32015), {"n1"}), ("type: LoadBalancer", {"n1", "n2"})):
        made = cluster_of(node(1), node(2), excluded, service("s", 15, *ends, spec=spec, status=address))
        trace = made.trace("n1", "198.51.100.21:80", sender="pod", src="10.180.1.77:40000", expand=True)
        assert {judged.relay.request.hops[0].node for _, judged in trace.every or () if judged.relay} == nodes
        assert sums(trace) == {"works": "1"}


def test_a_load_balancer_without_node_ports_is_not_guessed(cluster: Cluster) -> None:
    trace = cluster.trace("n1", "198.51.100.22:80", sender="pod", expand=True)
    assert sums(trace) == {"unknown": "1"}
    assert "node port" in last_line(trace)


# --- forms -----------------------------------------------------------------------------------------------------------------


def test_probes_have_the_sums_of_the_trace(cluster: Cluster) -> None:
    asked = [
        {"id": 1, "node": "n1", "from": "pod", "src": "10.180.1.77", "dst": "192.168.0.2", "dport": 30010},
        {"id": 2, "node": "n1", "from": "pod", "src": "10.180.1.77", "dst": "172.30.0.12", "dport": 80},
        {"id": 3, "node": "n2", "from": "external", "dst": "192.168.0.2", "dport": 32011},
        {"id": 4, "node": "n2", "from": "external", "dst": "192.168.0.2", "dport": 30018},
    ]
    probes = parse_probes(map(json.dumps, asked), cluster.site, file="p.jsonl")
    lines = list(map(json.loads, Prober(cluster.site, cluster.now_ns).lines(probes)))
    assert [line["exchange"] for line in lines] == [
        {"works": "1/3", "answer-lost": "2/3"}, {"works": "1/3", "answer-lost": "2/3"}, {"refused": "1"},
        {"request-lost": "1"},
    ]  # fmt: skip
    # what kube-proxy's rules of the one node do is told as before
    assert [line["disposition"] for line in lines] == ["passed", "delivered", "passed", "dropped"]
    assert lines[1]["outcomes"] == [
        {"weight": "1", "endpoint": "192.168.0.2:30010", "masquerade": False,
         "seen": {"src": "10.180.1.77", "sport": 40000, "dst": "192.168.0.2", "dport": 30010}},
    ]  # fmt: skip


@pytest.mark.parametrize("sender", list(Sender))
@pytest.mark.parametrize("number", range(10, 19))
def test_the_weights_sum_to_one_and_the_drawn_exchange_is_among_them(
    cluster: Cluster, sender: Sender, number: int
) -> None:
    for dst in (f"172.30.0.{number}:80", f"192.168.0.2:{30000 + number}"):
        every = cluster.trace("n1", dst, sender=str(sender), expand=True)
        assert sum(every.verdict.values()) == 1
        assert sum(weight for weight, _ in every.outcomes) == 1
        for seed in range(3):
            drawn = cluster.trace("n1", dst, sender=str(sender), seed=seed)
            assert list(drawn.verdict.values()) == [Fraction(1)]
            [(_, outcome)] = drawn.outcomes
            assert (outcome.endpoint, outcome.verdict) in {(each.endpoint, each.verdict) for _, each in every.outcomes}
            assert drawn.to_json()["verdict"] == {str(outcome.verdict): "1"}
            assert "outcomes" not in drawn.to_json()


def test_what_is_no_request_has_no_verdict(cluster: Cluster) -> None:
    for flags in (("ACK",), ("SYN", "ACK"), ("RST",)):
        packet = make_packet("TCP", "172.30.0.10", 80)
        packet.tcp_flags = frozenset(flags)
        trace = trace_packet(cluster.site, packet, node="n1", sender=Sender.POD, expand=True)
        record = trace.to_json()
        assert (record["verdict"], record["exchange"]) == ({}, None)
        assert "the client gets" not in trace.text()


def test_the_python_face_has_verdicts(cluster: Cluster) -> None:
    trace = cluster.trace("n1", "172.30.0.17:80", sender="pod")
    assert trace.exchange is not None
    assert (trace.exchange.verdict, trace.exchange.told.error) == (Verdict.REFUSED, "ECONNREFUSED")
    answer = cluster.probe("n1", "172.30.0.10:80", sender="pod")
    assert answer.exchange == {Verdict.WORKS: Fraction(1)}
    assert "exchange: works" in answer._repr_html_()


# --- what operators read off -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dst", ["172.30.0.10:81", "198.51.100.22:81"])
def test_nobody_gets_a_request_for_an_address_that_no_machine_has(cluster: Cluster, dst: str) -> None:
    """PP-2: no rule takes it, so it leaves for where nobody is: there is neither an endpoint nor a receiver."""
    [outcome] = outcomes(cluster.trace("n1", dst, sender="pod", expand=True))
    assert (outcome["verdict"], outcome["endpoint"], outcome["seen"]) == ("request-lost", None, None)


def test_nobody_gets_a_request_for_an_endpoint_whose_pod_is_over() -> None:
    """K-1.6: the rules still translate to it, so it has an endpoint and no receiver."""
    pod = """
apiVersion: v1
kind: Pod
metadata: {name: old, namespace: shop}
spec: {nodeName: n2, containers: [{name: c, image: i, ports: [{containerPort: 8080}]}]}
status: {phase: Failed, podIP: 10.180.2.5, podIPs: [{ip: 10.180.2.5}]}
"""
    made = cluster_of(node(1), node(2), service("s", 15, "10.180.2.5 n2"), pod)
    [outcome] = outcomes(made.trace("n1", "172.30.0.15:80", sender="node", expand=True))
    assert (outcome["verdict"], outcome["endpoint"], outcome["seen"]) == ("refused", "10.180.2.5:8080", None)


def test_an_endpoint_in_the_hosts_network_is_named_by_its_service_or_pod(cluster: Cluster) -> None:
    """The client reads who answered, whatever network the endpoint lives in."""
    assert "sent by endpoint of shop/host on n2" in last_line(cluster.trace("n1", "172.30.0.13:80", sender="pod"))


def test_the_outcomes_of_a_load_balancer_name_the_node_it_dials_and_the_source_that_is_seen(cluster: Cluster) -> None:
    """PP-11.10: the server never sees the client; the load balancer or a node is the source."""
    local = cluster.trace("n1", "198.51.100.21:80", sender="pod", expand=True)
    [outcome] = outcomes(local)
    assert (outcome["relay"], outcome["seen"]["src"]) == ("n2", "198.51.100.21")
    assert "1  10.180.2.10:8080  by the load balancer and n2, as 198.51.100.21" in local.text()
    translated = cluster.trace("n1", "198.51.100.20:80", sender="pod", expand=True)
    assert {each["relay"] for each in outcomes(translated)} == {"n1", "n2", "n3"}
    assert "by the load balancer and n3, masqueraded as 192.168.0.3" in translated.text()
    assert "relay" not in outcomes(cluster.trace("n1", "172.30.0.13:80", sender="pod", expand=True))[0]


def test_a_load_balancer_that_is_a_machine_of_its_own(cluster: Cluster) -> None:
    """PP-11.10: with ipMode Proxy a machine has the address, so it may answer a ping; other ports are not its own."""
    [ping] = outcomes(cluster.trace("n1", "198.51.100.21", sender="pod", protocol="ICMP", expand=True))
    assert (ping["verdict"], ping.get("assumed")) == ("works", True)
    other = cluster.trace("n1", "198.51.100.21:443", sender="pod", expand=True)
    assert sums(other) == {"request-lost": "1"}
    assert "the load balancer 198.51.100.21 listens at no such port" in last_line(other)


def test_a_peer_is_no_node_that_dials_itself_through_another(cluster: Cluster) -> None:
    """K-7.3: n1 would take a packet with its own source for a martian; so some other node asks."""
    trace = cluster.trace("n3", "192.168.0.1:30010", sender="peer", expand=True)
    assert trace.journey.sent.source == "192.168.0.2"
    assert sums(trace) == {"works": "1"}


def test_an_answer_with_the_wrong_source_is_told_as_such(cluster: Cluster) -> None:
    """PP-5.5: n1 keeps the source, so the host of n2 answers the pod on n2 past n1, under its own address."""
    trace = cluster_of(
        node(1), node(2), service("h", 15, "192.168.0.1 n1", "192.168.0.2 n2", spec=LOCAL.format(32015))
    ).trace("n2", "192.168.0.1:30015", sender="pod", expand=True)
    lost = [outcome for outcome in outcomes(trace) if outcome["verdict"] == "answer-lost"]
    assert [each["client"] for each in lost] == [
        "nothing, until it gives up: the answer is of no use to the client: it comes from 192.168.0.2:8080; "
        "the client waits for one from 192.168.0.1:30015"
    ]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_services_that_share_an_address_are_all_dialled_by_it(names: tuple[str, str]) -> None:
    """I-5: rules of both are written; the one without endpoints translates nothing, so the other answers, rightly."""
    shared = "{loadBalancer: {ingress: [{ip: 198.51.100.20}]}}"
    empty, full = names
    made = cluster_of(
        node(1), service(empty, 15, spec="type: LoadBalancer", status=shared),
        service(full, 16, "10.180.1.5 n1", spec="type: LoadBalancer", status=shared),
    )  # fmt: skip
    assert sums(made.trace("n1", "198.51.100.20:80", expand=True)) == {"works": "1"}


# --- seen from another node, and in the shortest form ----------------------------------------------------------------------


EVEN = service("even", 15, "10.180.1.5 n1", "10.180.1.6 n1", "10.180.2.5 n2", spec="type: NodePort")


def test_an_unknown_pod_of_another_node_gets_its_answer() -> None:
    """Its node knows the connection, because the request left there (K-6.3)."""
    trace = cluster_of(*(node(number) for number in (1, 2, 3)), EVEN).trace(
        "n3", "192.168.0.3:30015", src="10.180.1.77", expand=True
    )
    assert trace.journey.origin.node == "n1"
    assert sums(trace) == {"works": "1"}


def test_the_shortest_form_of_all_outcomes_begins_with_the_likeliest() -> None:
    """Whatever was drawn: here every third endpoint is behind a node that forwards nothing new."""
    text = "*filter\n:FORWARD DROP\n-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
    (strict,) = dialect_reading(text).parse(text, Family.IPV4)
    cluster = cluster_of(*(node(number) for number in (1, 2)), EVEN).with_rules_beside(strict, node="n2")
    shortest = {
        cluster.trace("n1", "172.30.0.15:80", sender="pod", seed=n, expand=True).text("minimal") for n in range(9)
    }
    (lines,) = (text.splitlines() for text in shortest)
    assert lines[0] == "delivered 10.180.1.5:8080 1/3, 10.180.1.6:8080 1/3"
    assert lines[1].startswith("by nat/KUBE-SERVICES ") and lines[2] == "exchange works 2/3, request-lost 1/3"
