"""Surveys: every frontend, client and node in one frame. Expectations are those of the specification's tables (PP-12, PP-10)."""

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drawings import cluster as drawn
from shop import WEB, cluster_text, endpoints, port, service

import kpsim
from kpsim.addresses import format_ip, join_host_port
from kpsim.config import Mode
from kpsim.dialects import dialect_reading
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.objects import Service
from kpsim.surveys.loads import LOAD_COLUMNS
from kpsim.surveys.questions import Asked, Question, left_out, questions
from kpsim.surveys.rows import COLUMNS, Row
from kpsim.surveys.settings import Setting
from kpsim.tracing.traces import Trace, trace_packet
from kpsim.verify.drawing.choices import SeededChoices

POLICIES = "externalTrafficPolicy,internalTrafficPolicy"

# ------------------------------------------------------------------------------------------------------------ PP-12, PP-10

#: PP-12.1: the pods' network, one endpoint here and one elsewhere
NODES = """
{apiVersion: v1, kind: Node, metadata: {name: here}, spec: {podCIDR: 10.180.0.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: there}, spec: {podCIDR: 10.180.1.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.3}]}}
"""
CONFIGURATIONS = {
    "base": "clusterCIDR: 10.180.0.0/16",
    "no detector": "",
    "masqueradeAll": "clusterCIDR: 10.180.0.0/16\niptables: {masqueradeAll: true}\nnftables: {masqueradeAll: true}",
    "masqAll + no detector": "iptables: {masqueradeAll: true}\nnftables: {masqueradeAll: true}",
}
#: by client and frontend, under which policy: how many endpoints, and the source, in the order of the configurations
PP12 = {
    ("pod", "clusterIP", "Cluster"): ("2 keep", "2 keep", "2 masq", "2 masq"),
    ("node", "clusterIP", "Cluster"): ("2 masq", "2 keep", "2 masq", "2 masq"),
    ("external", "clusterIP", "Cluster"): ("2 masq", "2 keep", "2 masq", "2 masq"),
    ("pod", "nodePort", "Cluster"): ("2 masq",) * 4,
    ("node", "loadBalancer", "Cluster"): ("2 masq",) * 4,
    ("external", "nodePort", "Cluster"): ("2 masq",) * 4,
    ("external", "loadBalancer", "Cluster"): ("2 masq",) * 4,
    ("pod", "nodePort", "Local"): ("2 keep", "1 keep", "2 keep", "1 keep"),
    ("pod", "loadBalancer", "Local"): ("2 keep", "1 keep", "2 keep", "1 keep"),
    ("node", "nodePort", "Local"): ("2 masq",) * 4,
    ("node", "loadBalancer", "Local"): ("2 masq",) * 4,
    ("external", "nodePort", "Local"): ("1 keep",) * 4,
    ("external", "loadBalancer", "Local"): ("1 keep",) * 4,
    ("pod", "clusterIP", "Local"): ("1 keep", "1 keep", "1 masq", "1 masq"),
    ("node", "clusterIP", "Local"): ("1 masq", "1 keep", "1 masq", "1 masq"),
    ("external", "clusterIP", "Local"): ("1 masq", "1 keep", "1 masq", "1 masq"),
}


def two_nodes(configuration: str = CONFIGURATIONS["base"], *places: str) -> Cluster:
    """A Service of all frontends with endpoints at these addresses, or one on each node."""
    kind = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"
    at = dict(zip(places or ("10.180.0.5", "10.180.1.5"), ("here", "there"), strict=False))
    web = service("web", f"type: LoadBalancer, clusterIP: 172.30.0.10, {port(80, 30080)}", vip="192.0.2.10")
    return kpsim.load(text="---\n".join([NODES, web, endpoints("web", 8080, at), kind + configuration]))


@cache
def surveyed(configuration: str) -> pd.DataFrame:
    found = kpsim.survey(two_nodes(CONFIGURATIONS[configuration]), vary=f"{POLICIES},mode", nodes=["here"]).frame
    return found[(found.dialled_node != "there") & (found["mode"] != "ipvs")]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
@pytest.mark.parametrize(("client", "frontend", "policy"), PP12, ids=map(" ".join, PP12))
def test_policies_and_clients(client: str, frontend: str, policy: str, configuration: str) -> None:
    """PP-12, in iptables and nftables mode, whatever the policy is that such a frontend's clients do not meet."""
    found = surveyed(configuration)
    decides = "internalTrafficPolicy" if frontend == "clusterIP" else "externalTrafficPolicy"
    rows = found[(found.client == client) & (found.frontend == frontend) & (found[decides] == policy)]
    said = {f"{row.reached} {'keep' if row.source_kept else 'masq'}" for row in rows.itertuples()}
    assert len(rows) == 4  # two modes, two values of the other policy
    assert said == {PP12[client, frontend, policy][list(CONFIGURATIONS).index(configuration)]}


def found(survey: Any, **columns: object) -> pd.DataFrame:
    frame = survey.frame
    for name, value in columns.items():
        frame = frame[frame[name] == value]
    return frame


def test_a_node_without_endpoint() -> None:
    """PP-3.1, PP-5, PP-10.1: who gets nothing where the policy is Local and this node has no endpoint."""
    survey = kpsim.survey(two_nodes(CONFIGURATIONS["base"], "10.180.0.5"), vary=f"{POLICIES},mode", nodes=["there"])
    lost = {
        (row.mode, row.frontend, row.client)
        for row in survey.frame.itertuples()
        if row.externalTrafficPolicy == row.internalTrafficPolicy == "Local" and not row.works
        if row.dialled_node != "here" and row.client != "peer"
    }
    inside = {
        (mode, "clusterIP", client) for mode in ("iptables", "nftables") for client in ("pod", "node", "external")
    }
    outside = {
        (mode, kind, "external") for mode in ("iptables", "nftables", "ipvs") for kind in ("loadBalancer", "nodePort")
    }
    assert lost == inside | outside | {("ipvs", "loadBalancer", "node")}
    assert all(found(survey, externalTrafficPolicy="Cluster", internalTrafficPolicy="Cluster", client="pod").works == 1)


def test_another_nodes_port_from_a_pod() -> None:
    """PP-5.5: the answer of an endpoint on a third node, or on the pod's own, misses the translation."""
    survey = kpsim.survey(two_nodes(), vary=["externalTrafficPolicy"], clients=["pod"], frontends=["nodePort"])
    works = {(row.externalTrafficPolicy, row.node, row.dialled_node): row.works for row in survey.frame.itertuples()}
    assert works["Local", "here", "there"] == works["Local", "there", "here"] == 0.5
    assert works["Local", "here", "here"] == works["Cluster", "here", "there"] == 1


# ----------------------------------------------------------------------------------------------------- as kpsim trace says


def question_of(cluster: Cluster, row: Row) -> Question:
    named = next(
        each for each in cluster.state.services if f"{each.metadata.namespace}/{each.metadata.name}" == row.service
    )
    of = next(each for each in named.ports if (each.name, each.protocol) == (row.port_name, row.protocol))
    wanted = row.frontend, row.address, row.client, row.node
    return next(
        each
        for each in questions(cluster.site, cluster.state, named, of, Asked(cluster.families, cluster.node_names))
        if (each.frontend.kind, format_ip(*each.frontend.address), each.client, each.node) == wanted
    )


def edits(cluster: Cluster, values: Mapping[Setting, str]) -> list[str]:
    """What makes all Services of a cluster have these policies."""
    return [
        f"service/{each.metadata.namespace}/{each.metadata.name}.spec.{setting}={value or 'null'}"
        for each in cluster.state.services
        if not left_out(each)
        for setting, value in values.items()
        if setting is not Setting.MODE and not setting.why_not(each) and (value or setting is Setting.DISTRIBUTION)
    ]


def traced(cluster: Cluster, row: Row) -> Trace:
    asked = question_of(cluster, row)
    return trace_packet(
        cluster.site, asked.packet, node=asked.node, sender=asked.client, expand=True, now_ns=cluster.now_ns, any_port=True
    )  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("seed", "vary"), [(1, POLICIES), (7, "sessionAffinity,trafficDistribution"), (9, POLICIES)])
def test_rows_are_what_a_trace_says(seed: int, vary: str, mode: Mode) -> None:
    """A row out of a survey with varied policies against the trace of its packet, in a cluster edited by hand."""
    cluster = drawn(seed, mode)
    survey = kpsim.survey(cluster, vary=vary, nodes=cluster.node_names[-2:])
    choices = SeededChoices(seed, "rows")
    assert survey.rows
    for number in {choices.below(len(survey.rows)): None for _ in range(4)}:
        told = survey.rows[number]
        trace = traced(cluster.with_edits(*edits(cluster, told.values)), told)
        assert dict(told.verdicts) == trace.verdict
        dialled = join_host_port(told.address, told.port)
        received = [(weight, each) for weight, each in trace.outcomes if each.seen and each.endpoint != dialled]
        expected: dict[str, Fraction] = {}
        for weight, outcome in received:
            end = join_host_port(outcome.seen.dst, outcome.seen.dport)
            expected[end] = expected.get(end, Fraction(0)) + weight
        assert {each.endpoint: each.odds for each in told.reached} == expected
        assert told.source_kept == (not any(outcome.masquerade for _, outcome in received) if received else None)


@pytest.mark.parametrize("mode", Mode)
def test_what_is_not_asked_again_is_the_same(mode: Mode) -> None:
    """All rows under values that no variant was asked for, against a survey of a cluster that was edited to have them."""
    cluster, wanted = drawn(1, mode), {Setting.EXTERNAL: "Local", Setting.INTERNAL: "Cluster", Setting.AFFINITY: "None"}
    varied = kpsim.survey(cluster, vary=list(wanted), nodes=cluster.node_names[:1])
    told = [
        row
        for row in varied.rows
        if all(row.values[setting] == value or not row.values[setting] for setting, value in wanted.items())
    ]
    plain = kpsim.survey(cluster.with_edits(*edits(cluster, wanted)), nodes=cluster.node_names[:1])
    assert told == list(plain.rows)


def test_pods_of_a_node_are_followed_once_and_fare_alike() -> None:
    """What is remembered behind the choice of an endpoint: the same rows as if every exchange were followed."""
    places = {f"10.180.{number % 2}.{number + 20}": ("node-1", "node-2")[number % 2] for number in range(12)}
    objects = (
        service("web", f"type: NodePort, clusterIP: 172.30.0.10, externalTrafficPolicy: Local, {port(80, 30080)}"),
        endpoints("web", 8080, places),
    )
    cluster = kpsim.load(text=cluster_text(objects))
    for row in kpsim.survey(cluster, clients=["pod", "external"]).rows:
        trace = traced(cluster, row)
        assert dict(row.verdicts) == trace.verdict
        assert len(row.reached) == len({outcome.seen for _, outcome in trace.outcomes if outcome.seen})


# --------------------------------------------------------------------------------------------------------------- its rows


@pytest.fixture(scope="module")
def shop() -> Cluster:
    return kpsim.load(text=cluster_text())


def test_one_row_for_each_frontend_client_and_node(shop: Cluster) -> None:
    survey = kpsim.survey(shop, services=["shop/web"])
    counts = survey.frame.groupby("frontend").size().to_dict()
    # three nodes: the ports of all of them dialled by pods and processes, each of its own by those outside
    assert counts == {"clusterIP": 12, "loadBalancer": 12, "nodePort": 3 * (3 + 3 + 1 + 1)}
    keys = ["service", "port", "protocol", "frontend", "address", "client", "node"]
    assert not survey.frame.duplicated(keys).any()
    assert set(survey.frame.service) == {"shop/web"}


def test_files_are_loaded(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(cluster_text(WEB))
    assert kpsim.survey(file, clients=["pod"]).rows == kpsim.survey(kpsim.load(file), clients=["pod"]).rows


def test_a_recording_is_surveyed_and_not_edited() -> None:
    recording = Path(__file__).parent / "golden/iptables/small-001.recording.jsonl"
    survey = kpsim.survey(recording, services=["default/kubernetes"], clients=["pod"], frontends=["clusterIP"])
    assert {row.verdict for row in survey.rows} == {"works"}
    with pytest.raises(InputError, match="edits go with manifests"):
        kpsim.survey(recording, vary="sessionAffinity")


def test_rules_beside_decide(shop: Cluster) -> None:
    """What another program drops behind kube-proxy's translation."""
    rules = "# Generated by iptables-save v1.8.9\n*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 8080 -j DROP\nCOMMIT\n"
    told = dialect_reading(rules).parse(rules)
    survey = kpsim.survey(
        shop.with_rules_beside(*told), services=["shop/web"], clients=["pod"], frontends=["clusterIP"]
    )
    assert {(row.verdict, row.by) for row in survey.rows} == {
        ("request-lost", "filter/FORWARD -p tcp -m tcp --dport 8080 -j DROP")
    }


def test_what_a_survey_is_narrowed_to(shop: Cluster) -> None:
    survey = kpsim.survey(
        shop, services=["shop/web:p", "shop/dns"], nodes=["node-2"], clients=["peer"], frontends=["clusterIP"]
    )
    assert [(row.service, row.protocol, row.node, row.client) for row in survey.rows] == [
        ("shop/dns", "UDP", "node-2", "peer"), ("shop/web", "TCP", "node-2", "peer"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"services": ["shop/wep"]}, "no Service 'shop/wep'; there is shop/web"),
        ({"services": ["shop/web:https"]}, "has no port 'https'"),
        ({"vary": "externalTraficPolicy"}, "is externalTrafficPolicy meant"),
        ({"nodes": ["node-9"]}, "no node 'node-9'"),
        ({"clients": ["pods"]}, "client 'pods' is none of pod, node, external, peer"),
        ({"frontends": ["lb9"]}, "frontend 'lb9' is none of"),
    ],
)
def test_names_that_are_not_there(shop: Cluster, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        kpsim.survey(shop, **options)


def test_columns_are_declared() -> None:
    web = two_nodes()
    survey = kpsim.survey(web, nodes=["here"])
    nothing = kpsim.survey(
        kpsim.load(
            text=cluster_text(
                [
                    "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {type: ExternalName, externalName: c.d}}\n"
                ]
            )
        )
    )
    for frame, columns in ((survey.frame, COLUMNS), (survey.load, LOAD_COLUMNS)):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {each.name: each.dtype for each in columns}
        assert all(each.meaning for each in columns)
    assert len(nothing.frame) == 0
    assert list(nothing.frame.dtypes.items()) == list(survey.frame.dtypes.items())
    assert nothing.notes == ("no rows for b/a: an ExternalName Service, which DNS answers for",)


def test_dual_stack_has_rows_of_both_families() -> None:
    ips = 'clusterIP: 172.30.0.10, clusterIPs: [172.30.0.10, "fd00:172:30::10"], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack'
    objects = (
        service("web", f"{ips}, {port(80)}"),
        endpoints("web", 8080, {"10.180.0.5": "node-1"}),
        endpoints("web", 8080, {"fd00:180::5": "node-1"}, family="IPv6"),
    )
    survey = kpsim.survey(kpsim.load(text=cluster_text(objects)), clients=["pod"])
    assert {(row.family.label, row.address, row.endpoints) for row in survey.rows} == {
        ("IPv4", "172.30.0.10", "10.180.0.5:8080 1"),
        ("IPv6", "fd00:172:30::10", "[fd00:180::5]:8080 1"),
    }
    assert all(row.works == 1 for row in survey.rows)
    # node-3 has no IPv6 (shop)
    assert survey.notes == ("no rows from pod in IPv6 at node-3: such a client has no address there",)


def test_services_without_rows() -> None:
    objects = [
        service("headless", f"clusterIP: None, {port(80)}"),
        service("other", f"clusterIP: 172.30.0.11, {port(80)}").replace("name: other", "name: other, labels: {service.kubernetes.io/service-proxy-name: x}"),
        service("web", f"clusterIP: 172.30.0.10, {port(80)}"),
    ]  # fmt: skip
    survey = kpsim.survey(kpsim.load(text=cluster_text(objects)), vary=["externalTrafficPolicy"])
    assert {row.service for row in survey.rows} == {"shop/web"}
    assert survey.notes == (
        "no rows for shop/headless: headless: DNS answers the addresses of its endpoints",
        "no rows for shop/other: left to another proxy by its label service.kubernetes.io/service-proxy-name",
        "externalTrafficPolicy is not varied for shop/web: type ClusterIP without externalIPs has none (O-3.1)",
    )
    assert {row.values[Setting.EXTERNAL] for row in survey.rows} == {""}
    assert all(row.verdict == "refused" for row in survey.rows if row.client in ("pod", "node"))


def test_a_load_balancer_sends_to_nodes_whose_health_check_passes(shop: Cluster) -> None:
    """CP-15: node-3 has no endpoint of shop/local."""
    rows = kpsim.survey(shop, services=["shop/local"], clients=["external"], frontends=["loadBalancer"]).rows
    assert {row.node: (row.in_rotation, row.works) for row in rows} == {
        "node-1": (True, 1), "node-2": (True, 1), "node-3": (False, 0),
    }  # fmt: skip


@pytest.mark.parametrize(("node_port", "rows"), [(", nodePort: 30080", 2), ("", 0)])
def test_a_load_balancer_of_its_own_dials_node_ports(node_port: str, rows: int) -> None:
    """O-5.5, PP-11.10: what comes from outside to ipMode Proxy comes from the balancer's address."""
    spec = f"type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIP: 172.30.0.10, ports: [{{name: p, port: 80{node_port}}}]"
    proxy = service("web", spec, vip="192.0.2.10").replace("{ip: 192.0.2.10}", "{ip: 192.0.2.10, ipMode: Proxy}")
    text = "---\n".join([NODES, proxy, endpoints("web", 8080, {"10.180.0.5": "here"})])
    survey = kpsim.survey(kpsim.load(text=text), clients=["external"], frontends=["loadBalancer"])
    assert [(row.address, row.port, row.works, row.in_rotation) for row in survey.rows] == [
        ("192.0.2.10", 80, 1, True)
    ] * rows
    assert any("no node port to dial" in note for note in survey.notes) == (not rows)


def test_source_ranges_refuse_clients(shop: Cluster) -> None:
    """PP-8: 203.0.113.7 is inside the range of shop/guarded, pods are not."""
    rows = kpsim.survey(shop, services=["shop/guarded"], frontends=["loadBalancer"], nodes=["node-1"]).rows
    assert {row.client: row.verdict for row in rows} == {
        "pod": "request-lost", "node": "request-lost", "external": "works", "peer": "request-lost",
    }  # fmt: skip
    assert "KUBE-FW-" in next(row.by for row in rows if row.client == "pod") or "PROXY-FIREWALL" in rows[0].by


def test_affinity_keeps_a_client() -> None:
    """PP-9: without affinity the next connection is drawn again; three endpoints (shop/web)."""
    survey = kpsim.survey(two_nodes(), vary="sessionAffinity,mode", clients=["external"], frontends=["nodePort"])
    again = {(row.values[Setting.AFFINITY], row.values[Setting.MODE]): row.same_again for row in survey.rows}
    assert again == {
        (affinity, mode): Fraction(odds) for affinity, odds in (("None", "1/2"), ("ClientIP", "1")) for mode in map(str, Mode)
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------- hints and zones

ZONES = """
{apiVersion: v1, kind: Node, metadata: {name: a1, labels: {topology.kubernetes.io/zone: a}}, spec: {podCIDR: 10.180.0.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: a2, labels: {topology.kubernetes.io/zone: a}}, spec: {podCIDR: 10.180.1.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: b1, labels: {topology.kubernetes.io/zone: b}}, spec: {podCIDR: 10.180.2.0/24}, status: {addresses: [{type: InternalIP, address: 192.168.0.3}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, uid: u}, spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{name: p, port: 80, targetPort: 8080}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}, ownerReferences: [{apiVersion: v1, kind: Service, name: web, uid: u}]}
addressType: IPv4
ports: [{name: p, protocol: TCP, port: 8080}]
endpoints:
- {addresses: [10.180.0.5], nodeName: a1, zone: a, conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: web-1}}
- {addresses: [10.180.1.5], nodeName: a2, zone: a, conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: web-2}}
- {addresses: [10.180.2.5], nodeName: b1, zone: b, conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: web-3}}
"""


def test_traffic_distribution_keeps_requests_in_the_zone_or_on_the_node() -> None:
    """T-6.3, with the hints that the slice controller writes then (CP-3.9)."""
    survey = kpsim.survey(kpsim.load(text=ZONES), vary="trafficDistribution", clients=["pod"])
    told = {
        (row.values[Setting.DISTRIBUTION], row.node): (len(row.reached), row.other_node, row.other_zone)
        for row in survey.rows
    }
    third, half = Fraction(1, 3), Fraction(1, 2)
    assert {node: told["", node] for node in ("a1", "b1")} == {
        "a1": (3, 2 * third, third),
        "b1": (3, 2 * third, 2 * third),
    }
    for value in ("PreferClose", "PreferSameZone"):
        assert {node: told[value, node] for node in ("a1", "a2", "b1")} == {
            "a1": (2, half, 0),
            "a2": (2, half, 0),
            "b1": (1, 0, 0),
        }
    assert {told["PreferSameNode", node] for node in ("a1", "a2", "b1")} == {(1, 0, 0)}
    assert any("PreferSameZone makes other hints" in note for note in survey.notes)


def test_slices_that_cannot_be_derived_are_named(shop: Cluster) -> None:
    """Without a selector the slice controller writes nothing: all values of trafficDistribution are the same."""
    survey = kpsim.survey(shop, services=["shop/inner"], vary="trafficDistribution", clients=["pod"])
    assert len({(row.node, row.endpoints) for row in survey.rows}) == len(shop.node_names)
    (grid,) = survey.grids
    assert grid.remarks == ("trafficDistribution makes no difference here.",)


def test_load_is_that_of_nodes_that_get_equally_many() -> None:
    """Under Local each node shares what it gets among its own: two endpoints on node-1 get a quarter each, one on node-2 a half."""
    objects = (
        service("web", f"type: NodePort, clusterIP: 172.30.0.10, externalTrafficPolicy: Local, {port(80, 30080)}"),
        endpoints("web", 8080, {"10.180.0.5": "node-1", "10.180.0.6": "node-1", "10.180.1.5": "node-2"}),
    )
    cluster = kpsim.load(text=cluster_text(objects))
    load = kpsim.survey(cluster, clients=["external"], frontends=["nodePort"], nodes=["node-1", "node-2"]).load
    assert dict(zip(load.endpoint, load.share, strict=True)) == {
        "10.180.0.5:8080": 0.25, "10.180.0.6:8080": 0.25, "10.180.1.5:8080": 0.5,
    }  # fmt: skip
    assert load.of_even.tolist() == [0.75, 0.75, 1.5]


def test_services_that_share_a_frontend_are_asked_in_every_variant() -> None:
    """O-5.8: what one Service's policy makes of the packets decides about the other's rows, too."""
    one, two = (
        service(name, f"clusterIP: 172.30.0.{number}, externalIPs: [198.51.100.1], {port(80)}")
        for name, number in (("one", 10), ("two", 11))
    )
    cluster = kpsim.load(text=cluster_text([one, two, endpoints("one", 8080, {"10.180.0.5": "node-1"})]))
    survey = kpsim.survey(cluster, vary=POLICIES, nodes=["node-2"], clients=["external"])
    for row in survey.rows:
        named = next(
            each for each in cluster.state.services if isinstance(each, Service) and each.metadata.name == "two"
        )
        assert named.externally_accessible
        assert dict(row.verdicts) == traced(cluster.with_edits(*edits(cluster, row.values)), row).verdict
