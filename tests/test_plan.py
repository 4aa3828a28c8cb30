"""The endpoints of a service port as one node sees them: the tables of T-4 and T-7, hints (T-3), refusals (I-6)."""

import pytest

from kpsim.kubeproxy.plan import HintMode, Refusal, ServicePlan, hint_mode, make_plan
from kpsim.kubeproxy.trackers import Endpoint, ServicePort, ServicePortName

IPS = {"a": "10.180.0.1", "b": "10.180.1.2", "c": "10.180.2.3"}
NAME = ServicePortName("shop", "web", "http", "TCP")

#: ready, serving, terminating
STATES = {
    "R": (True, True, False),
    "ST": (False, True, True),
    "terminating-not-serving": (False, False, True),
    "not-ready": (False, False, False),
    "serving-not-ready": (False, True, False),
    "ready-terminating": (True, True, True),
    "ready-not-serving": (True, False, False),
}


def make_port(internal_local: bool = False, external_local: bool = False, node_port: int = 0) -> ServicePort:
    return ServicePort(
        cluster_ip="172.30.10.1",
        port=80,
        protocol="TCP",
        node_port=node_port,
        session_affinity=False,
        sticky_seconds=0,
        external_policy_local=external_local,
        internal_policy_local=internal_local,
        external_ips=(),
        load_balancer_ips=(),
        source_ranges=None,
        health_check_node_port=0,
    )


#: by what a service port uses: cluster endpoints (C), local ones (L)
PORTS = {
    "C -": make_port(),
    "C L": make_port(external_local=True, node_port=30080),
    "- L": make_port(internal_local=True),
}


def make_endpoint(text: str) -> Endpoint:
    """``a n1 R node:n1 z:A,B``."""
    name, where, state, *hints = text.split()
    ip = IPS[name]
    named = dict(hint.split(":") for hint in hints)
    zones, nodes = (frozenset(filter(None, named.get(kind, "").split(","))) for kind in ("z", "node"))
    return Endpoint(f"{ip}:8080", ip, 8080, where, *STATES[state], zones, nodes)


def plan_of(port: ServicePort, endpoints: str, zone: str = "") -> ServicePlan:
    found = sorted(make_endpoint(text) for text in filter(None, endpoints.split("; ")))
    return make_plan(NAME, port, tuple(found), "n1", zone)


def names(endpoints: tuple[Endpoint, ...]) -> str:
    by_ip = {ip: name for name, ip in IPS.items()}
    return " ".join(by_ip[e.ip] for e in endpoints)


#: T-4: number, what the port uses, endpoints, zone; cluster, local, reachable, hasAny
TABLE = """
 1 | C - | a n1 R; b n2 R                                       |   | a b | -   | a b | yes
 2 | C L | a n1 R; b n2 R                                       |   | a b | a   | a b | yes
 3 | - L | a n1 R; b n2 R                                       |   | -   | a   | a   | yes
 4 | - L | b n2 R                                               |   | -   | -   | -   | yes
 5 | - L | b n2 ST                                              |   | -   | -   | -   | yes
 6 | - L | b n2 not-ready                                       |   | -   | -   | -   | no
 7 | C L | a n1 ST; b n2 R                                      |   | b   | a   | a b | yes
 8 | C L | a n1 R; b n2 ST                                      |   | a   | a   | a   | yes
 9 | C L | a n1 ST; b n2 ST                                     |   | a b | a   | a b | yes
10 | C - | a n1 ST; b n1 terminating-not-serving                |   | a   | -   | a   | yes
11 | C - | a n1 terminating-not-serving; b n1 not-ready         |   | -   | -   | -   | no
12 | C - | a n1 serving-not-ready                               |   | -   | -   | -   | no
13 | C - | a n1 ready-terminating                               |   | a   | -   | a   | yes
14 | C - | a n1 ready-not-serving; b n1 ST                      |   | a   | -   | a   | yes
15 | C - | a n1 R z:A; b n1 R z:B; c n1 R z:A,B                 | A | a c | -   | a c | yes
16 | C - | a n1 R z:A; b n1 R                                   | A | a b | -   | a b | yes
17 | C - | a n1 R z:A; b n1 R z:B; c n1 not-ready               | A | a   | -   | a   | yes
18 | C - | a n1 R z:C; b n1 R z:B                               | A | a b | -   | a b | yes
19 | C - | a n1 ST z:A; b n1 R z:B                              | A | b   | -   | b   | yes
20 | C - | a n1 R z:A; b n1 R z:B                               |   | a b | -   | a b | yes
21 | C - | a n1 R node:n1 z:A; b n2 R node:n2 z:A               | A | a   | -   | a   | yes
22 | C - | a n3 R node:n3 z:A; b n2 R node:n2 z:B               | A | a   | -   | a   | yes
23 | C - | a n1 R node:n1 z:A; b n2 R z:A; c n2 R z:B           | A | a b | -   | a b | yes
24 | C - | a n3 R node:n3; b n2 R node:n2                       | A | a b | -   | a b | yes
25 | C - | a n1 R node:n2; b n2 R node:n1                       | A | b   | -   | b   | yes
26 | C L | a n1 R z:B; b n2 R z:A                               | A | b   | a   | a b | yes
27 | - L | a n1 R z:B; b n2 R z:A                               | A | -   | a   | a   | yes
"""


@pytest.mark.parametrize("row", TABLE.strip().split("\n"), ids=lambda row: f"T-4 row {row.split('|')[0].strip()}")
def test_conditions_table(row: str) -> None:
    _, uses, endpoints, zone, cluster, local, reachable, has_any = (cell.strip() for cell in row.split("|"))
    plan = plan_of(PORTS[uses], "; ".join(" ".join(e.split()) for e in endpoints.split(";")), zone)
    found = [names(plan.cluster), names(plan.local), names(plan.reachable)]
    assert found == [cell.replace("-", "") for cell in (cluster, local, reachable)]
    assert plan.has_any is (has_any == "yes")


@pytest.mark.parametrize("uses", sorted(PORTS))
def test_without_endpoints_there_is_nothing(uses: str) -> None:  # T-4 row 28
    plan = plan_of(PORTS[uses], "")
    assert (plan.cluster, plan.local, plan.reachable, plan.has_any) == ((), (), (), False)
    assert plan.internal_refusal is Refusal.REJECT
    assert plan.external_refusal is Refusal.REJECT


#: T-7: internal Local, external Local, externally accessible; uses cluster, uses local
POLICIES = [
    (False, False, False, True, False),
    (False, False, True, True, False),
    (False, True, True, True, True),
    (False, True, False, True, False),
    (True, False, False, False, True),
    (True, False, True, True, True),
    (True, True, False, False, True),
    (True, True, True, True, True),
]


@pytest.mark.parametrize(("internal", "external", "accessible", "cluster", "local"), POLICIES)
def test_traffic_policies(internal: bool, external: bool, accessible: bool, cluster: bool, local: bool) -> None:
    port = make_port(internal, external, 30080 if accessible else 0)
    assert (port.uses_cluster, port.uses_local) == (cluster, local)


def test_local_endpoints_ignore_hints() -> None:  # T-2.4
    plan = plan_of(PORTS["C L"], "a n1 R z:B node:n9; b n2 R z:A node:n2", "A")
    assert names(plan.local) == "a"


def test_hints_are_not_applied_to_the_terminating_fall_back() -> None:  # T-2.3
    assert names(plan_of(PORTS["C -"], "a n1 ST z:A; b n2 ST z:B", "A").cluster) == "a b"


@pytest.mark.parametrize(
    ("endpoints", "zone", "mode"),
    [
        ("", "A", HintMode.NONE),
        ("a n1 R node:n1 z:A; b n2 R node:n2 z:B", "A", HintMode.NODE),  # node first
        ("a n1 R node:n2 z:A; b n2 R node:n2 z:B", "A", HintMode.ZONE),  # no list names this node
        ("a n1 R node:n1 z:A; b n2 R z:B", "A", HintMode.ZONE),  # one endpoint lacks a node hint
        ("a n1 R node:n1; b n2 R", "A", HintMode.NONE),
        ("a n1 R z:A,B; b n2 R z:B", "", HintMode.NONE),  # the node has no zone
    ],
)
def test_hint_mode(endpoints: str, zone: str, mode: HintMode) -> None:  # T-3
    ready = [make_endpoint(text) for text in filter(None, endpoints.split("; "))]
    assert hint_mode(ready, "n1", zone) is mode


def test_an_empty_zone_name_hints_for_a_node_without_zone() -> None:  # T-3.5
    endpoint = make_endpoint("a n1 R")._replace(zone_hints=frozenset({""}))
    assert hint_mode([endpoint], "n1", "") is HintMode.ZONE
    assert hint_mode([endpoint], "n1", "A") is HintMode.NONE


@pytest.mark.parametrize(
    ("port", "endpoints", "internal", "external"),
    [
        (make_port(node_port=30080), "b n2 R", None, None),
        (make_port(external_local=True, node_port=30080), "b n2 R", None, Refusal.DROP),
        (make_port(internal_local=True, node_port=30080), "b n2 R", Refusal.DROP, None),
        (make_port(internal_local=True), "b n2 R", Refusal.DROP, None),
        (make_port(external_local=True), "a n1 R", None, Refusal.DROP),  # I-6.1: nothing external, and still refused
        (make_port(True, True, 30080), "a n1 ST; b n2 R", None, None),
        (make_port(True, True, 30080), "a n1 not-ready", Refusal.REJECT, Refusal.REJECT),
    ],
)
def test_refusals(port: ServicePort, endpoints: str, internal: Refusal | None, external: Refusal | None) -> None:
    plan = plan_of(port, endpoints)
    assert (plan.internal_refusal, plan.external_refusal) == (internal, external)
