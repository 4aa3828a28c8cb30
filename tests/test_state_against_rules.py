"""State against rules: what connection entries do after the rules have changed, and who answers then.

Facts: an entry's translation is decided once (CT-3.5), kube-proxy's clean-up looks at UDP entries of Services with a
serving endpoint only (CT-2.1, CT-2.2), and only after a change of UDP endpoints in a successful sync (CT-1.1, CT-1.2).
"""

from collections.abc import Callable

import pytest
from simulations import MS, simulate

from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.pins import PinKind
from kpsim.reports.figures import figures
from kpsim.reports.pinned import pinned_flows
from kpsim.reports.sentences import pinned_line
from kpsim.simulation.runlog import Connection, Fate, Reason, RunLog
from kpsim.units import SECOND_NS

UDP = (
    "objects[0].spec.ports=[{port: 80, targetPort: 8080, protocol: UDP, nodePort: 30080}]",
    "workloads[0].ports=[{containerPort: 8080, protocol: UDP}]",
)
#: one socket that is re-used beside one that is fresh for each datagram, both on node-1
SOURCES = """
traffic:
  - {name: kept, from: nodes, nodes: [node-1], service: web, perSecond: 20, sourcePorts: 1}
  - {name: fresh, from: nodes, nodes: [node-1], service: web, perSecond: 20}
"""


def sent(log: RunLog, traffic: str, choose: Callable[[Connection], bool] = lambda c: True) -> list[Connection]:
    return [c for c in log.connections if c.traffic == traffic and choose(c)]


def first_ns(connections: list[Connection]) -> int:
    return connections[0].at_ns


def test_an_entry_outlives_a_refusal_because_no_endpoint_serves() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 0}}]" + SOURCES, *UDP, "duration=20s")
    refused = sent(log, "fresh", lambda c: c.cause is Reason.NO_ENDPOINTS)
    pinned = sent(log, "kept", lambda c: c.pin is not None)
    assert {(c.disposition, c.cause, c.new_flow) for c in pinned} == {(Fate.FAILED, Reason.ENDPOINT_GONE, False)}
    (pin,) = {c.pin for c in pinned}
    assert pin is not None
    assert (pin.kind, pin.clean_up, pin.node, pin.entry_ns) == (PinKind.REFUSED, CleanUp.NOT_SERVING, "node-1", 0)
    # new flows are refused from the same instant on, and to the end of the run the kept one is not
    before = sent(log, "fresh", lambda c: c.at_ns < first_ns(refused))[-1]
    assert before.at_ns < pin.since_ns <= first_ns(refused)
    assert pinned[0].at_ns >= pin.since_ns and len(pinned) == len(
        [c for c in sent(log, "kept") if c.at_ns >= pin.since_ns]
    )
    # between the end of the pods and the new rules, rules and entry agree: both lead to pods that are gone
    lag = [c for c in log.connections if c.cause is Reason.ENDPOINT_GONE and c.at_ns < pin.since_ns]
    assert lag and {c.pin for c in lag} == {None}
    found = figures(log)
    assert found["causes.entry-against-refusal"] == found["traffic.kept.causes.entry-against-refusal"] == len(pinned)
    assert found["causes.endpoint-gone"] == len(lag) + len(pinned)
    (group,) = pinned_flows(log)
    assert pinned_line(group).endswith(
        f"an entry from 0 s still sends the flow to {pin.leads_to}; the rules refuse since {pin.since_ns / SECOND_NS:.3f} s; "
        "the clean-up passed the Service over because it has no serving endpoint (CT-2.2)."
    )


def test_a_flow_that_is_older_than_the_service_is_never_translated() -> None:
    """TCP: a client that repeats its SYN from one port keeps the entry that translates nothing (CT-3.5)."""
    events = """
events:
  - {at: 0s, deleteService: {service: web}}
  - at: 6s
    createService: {apiVersion: v1, kind: Service, metadata: {name: web},
                    spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
"""
    log = simulate(events + SOURCES.replace("service: web,", "service: web, start: 3s,"), "duration=20s")
    served = sent(log, "fresh", lambda c: c.disposition is Fate.DELIVERED)
    old = sent(log, "kept", lambda c: c.cause is Reason.OLDER_THAN_SERVICE)
    assert {c.disposition for c in old} == {Fate.DROPPED}
    assert sent(log, "kept")[-1] in old and served[-1].at_ns > 19 * SECOND_NS
    (pin,) = {c.pin for c in old}
    assert pin is not None
    assert (pin.kind, pin.entry_ns, pin.leads_to) == (PinKind.OLDER, 3 * SECOND_NS, "172.30.0.10:80")
    assert pin.clean_up is CleanUp.NOT_ITS_PROTOCOL
    # the rules came into force with the Service, first as a refusal: 6.007 written, +19 delivered, +23 synced
    assert pin.since_ns == 6049 * MS == old[0].at_ns - (old[0].at_ns - 6049 * MS)
    assert {c.cause for c in sent(log, "kept") if c.at_ns < pin.since_ns} == {Reason.NOT_CAPTURED}
    assert "older than the Service's rules, in force since 6.049 s (CT-3.5)" in pinned_line(pinned_flows(log)[0])
    assert figures(log)["causes.older-than-its-service"] == len(old)


def test_a_long_connection_ends_on_a_former_endpoint() -> None:
    text = """
events: [{at: 5s, scale: {workload: web, replicas: 1}}]
traffic:
  - {name: kept, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 2s, long: {lasts: 30s}}
  - {name: fresh, from: nodes, nodes: [node-1], service: web, perSecond: 100}
"""
    log = simulate(text, "duration=20s", "workloads[0].termination={preStop: 8s}")
    broken = sent(log, "kept", lambda c: c.broken_ns is not None)
    pins = {c.pin for c in broken}
    assert {(p.kind, p.clean_up, p.leads_to) for p in pins if p} == {
        (PinKind.FORMER_ENDPOINT, CleanUp.NOT_ITS_PROTOCOL, "10.180.2.2:8080")
    }
    assert {p.entry_ns for p in pins if p} == {c.at_ns for c in broken}
    last = sent(log, "fresh", lambda c: c.endpoint == "10.180.2.2:8080")[-1]  # rules lead there until they change
    (since_ns,) = {p.since_ns for p in pins if p}
    assert last.at_ns < since_ns < last.at_ns + 200 * MS
    assert figures(log)["causes.former-endpoint"] == len(broken) > 0


def test_a_lost_clean_up_is_told() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 1}}, {at: 5s, failSyncs: {nodes: [node-1], count: 2}}]"
    many = SOURCES.replace("sourcePorts: 1", "sourcePorts: 8")
    log = simulate(events + many, *UDP, "duration=50s")
    pinned = sent(log, "kept", lambda c: c.pin is not None)
    assert {(c.pin.kind, c.pin.clean_up) for c in pinned if c.pin} == {(PinKind.FORMER_ENDPOINT, CleanUp.NOT_RUN)}
    assert sent(log, "kept", lambda c: c.disposition is Fate.FAILED)[-1] in pinned


# --------------------------------------------------------------------------------------------------------- misdelivery

REUSED = (
    "nodes.podIPAllocation=lowestFree",
    "workloads[0].placement={nodes: [node-2]}",
    "workloads[0].replicas=1",
    "workloads=[{name: web, replicas: 1, placement: {nodes: [node-2]}, ports: [{containerPort: 8080, protocol: UDP}]},"
    " {name: other, replicas: 0, placement: {nodes: [node-2]}, startup: {delay: 0s}}]",
    "duration=12s",
)
TAKEN_OVER = """
events:
  - {at: 5s, scale: {workload: web, replicas: 0}}
  - {at: 8s, scale: {workload: other, replicas: 1}}
"""


def test_the_next_owner_of_an_address_gets_what_entries_still_send_there() -> None:
    log = simulate(TAKEN_OVER + SOURCES, *UDP[:1], *REUSED)
    taken = [c for c in log.connections if c.disposition is Fate.MISDELIVERED]
    assert {(c.cause, c.answered_by, c.endpoint) for c in taken} == {
        (Reason.MISDELIVERED, "default/other-1", "10.180.2.2:8080")
    }
    # the rules refuse new flows by then; the entry of the kept socket leads to whoever has the address
    assert {c.traffic for c in taken} == {"kept"}
    assert {c.pin.kind for c in taken if c.pin} == {PinKind.REFUSED}
    late = sent(log, "kept", lambda c: c.at_ns > 9 * SECOND_NS)
    assert {c.disposition for c in late} == {Fate.MISDELIVERED}
    found = figures(log)
    assert found["misdelivered"] == found["causes.misdelivered"] == len(taken)
    assert (
        found["delivered"] + found["misdelivered"] + found["failed"] + found["rejected"] + found["dropped"]
        == found["sent"]
    )
    assert found['endpoints."10.180.2.2".established'] == found["delivered"]  # it was the Service's endpoint before


def test_addresses_in_turn_are_not_taken_over_at_once() -> None:
    log = simulate(TAKEN_OVER + SOURCES, *UDP[:1], *REUSED[1:])
    assert not [c for c in log.connections if c.disposition is Fate.MISDELIVERED]


def test_the_next_owner_of_an_address_gets_new_connections_too_until_the_rules_change() -> None:
    """The pod is gone as soon as its deletion is written; what happens to its slice takes 300 ms more to the node."""
    events = TAKEN_OVER.replace("8s", "5100ms")
    tcp = REUSED[3].replace(", protocol: UDP", "")
    log = simulate(events + SOURCES, *REUSED[:3], tcp, "duration=8s", "delays.watchDelivery=300ms")
    taken = sent(log, "fresh", lambda c: c.disposition is Fate.MISDELIVERED)
    assert taken and {(c.answered_by, c.new_flow, c.pin) for c in taken} == {("default/other-1", True, None)}


def test_a_successor_of_the_same_workload_is_an_endpoint() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 0}}, {at: 8s, scale: {workload: web, replicas: 1}}]"
    log = simulate(events + SOURCES, *UDP[:1], *REUSED, "workloads[0].startup={delay: 0s}")
    assert {c.answered_by for c in log.connections if c.established} == {"default/web-1", "default/web-2"}
    assert {c.endpoint for c in log.connections if c.established} == {"10.180.2.2:8080"}
    assert not [c for c in log.connections if c.disposition is Fate.MISDELIVERED]


def test_pods_that_a_selector_left_behind_answer_as_nobodys_endpoint() -> None:
    """The clean-up passes a Service without serving endpoint over, so the entry stays; the pods still answer."""
    events = "events: [{at: 5s, patchService: {service: web, patch: {spec: {selector: {app: nothing}}}}}]"
    log = simulate(events + SOURCES, *UDP, "duration=15s")
    refused = sent(log, "fresh", lambda c: c.cause is Reason.NO_ENDPOINTS)
    taken = sent(log, "kept", lambda c: c.disposition is Fate.MISDELIVERED)
    assert {(c.pin.kind, c.pin.clean_up) for c in taken if c.pin} == {(PinKind.REFUSED, CleanUp.NOT_SERVING)}
    # until the node's rules refuse, the pods are endpoints as far as the node can know
    assert first_ns(taken) - first_ns(refused) in range(-50 * MS, 50 * MS)
    assert {c.disposition for c in sent(log, "kept") if c.at_ns < first_ns(taken)} == {Fate.DELIVERED}


def test_a_former_services_pods_answer_as_nobodys_endpoint() -> None:
    log = simulate("events: [{at: 5s, deleteService: {service: web}}]" + SOURCES, *UDP, "duration=10s")
    taken = sent(log, "kept", lambda c: c.disposition is Fate.MISDELIVERED)
    assert {(c.pin.kind, c.pin.clean_up) for c in taken if c.pin} == {(PinKind.SERVICE_GONE, CleanUp.NO_SERVICE)}
    assert taken[0].pin is not None and taken[0].pin.since_ns == 5049 * MS  # 5.007 written, +19 delivered, +23 synced
    assert sent(log, "kept")[-1] in taken


def test_a_port_of_a_node_that_another_pod_takes() -> None:
    """With host network the address is the node's and the port decides who answers."""
    workloads = (
        "workloads=[{name: web, replicas: 1, hostNetwork: true, placement: {nodes: [node-2]},"
        " ports: [{containerPort: 8080, protocol: UDP}]}, {name: other, replicas: 0, hostNetwork: true,"
        " placement: {nodes: [node-2]}, startup: {delay: 0s}, ports: [{containerPort: 8080, protocol: UDP}]}]"
    )
    log = simulate(TAKEN_OVER + SOURCES, UDP[0], workloads, "duration=12s")
    late = sent(log, "kept", lambda c: c.at_ns > 9 * SECOND_NS)
    assert {(c.disposition, c.endpoint, c.answered_by) for c in late} == {
        (Fate.MISDELIVERED, "192.168.0.2:8080", "default/other-1")
    }


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_an_open_connection_is_not_misdelivered_and_a_stranger_that_does_not_listen_refuses(protocol: str) -> None:
    """The next owner's kernel knows no such connection and resets it; it does not listen on the UDP port."""
    ports = f"ports: [{{containerPort: 8080, protocol: {protocol}}}]"
    workloads = (
        f"workloads=[{{name: web, replicas: 1, placement: {{nodes: [node-2]}}, {ports}}}, {{name: other, replicas: 0,"
        " placement: {nodes: [node-2]}, startup: {delay: 0s}, ports: [{containerPort: 9090}]}]"
    )
    kind = "sourcePorts: 1" if protocol == "UDP" else "stop: 3s, long: {lasts: 30s}"
    traffic = f"traffic: [{{name: kept, from: nodes, nodes: [node-1], service: web, perSecond: 5, {kind}}}]\n"
    service = f"objects[0].spec.ports=[{{port: 80, targetPort: 8080, protocol: {protocol}, nodePort: 30080}}]"
    log = simulate(TAKEN_OVER + traffic, service, REUSED[0], workloads, "duration=12s")
    lost = [c for c in log.connections if c.disposition is not Fate.DELIVERED]
    assert {(c.disposition, c.cause) for c in lost} == {(Fate.FAILED, Reason.ENDPOINT_GONE)}


def test_a_former_endpoint_is_one_for_what_the_client_dials() -> None:
    """Under the Local policy node-1's rules hold web-2 for the cluster IP only, so an entry of its node port is old."""
    text = """
events:
  - {at: 3s, patchService: {service: web, patch: {spec: {externalTrafficPolicy: Local}}}}
  - {at: 6s, crash: {workload: web, count: 2, restarts: false}}
traffic:
  - {name: port, service: web, via: nodePort, nodes: [node-1], perSecond: 10, clients: 20, stop: 2s, long: {lasts: 30s}}
  - {name: address, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 2s, long: {lasts: 30s}}
delays: {readinessToStatus: 30s}
"""
    log = simulate(text, "duration=15s", delays="")
    broken = [c for c in log.connections if c.broken_ns is not None]
    kinds = {(c.traffic, c.endpoint_node, c.pin.kind if c.pin else None) for c in broken}
    assert kinds == {
        ("port", "node-1", None),  # its own endpoint, which the rules still hold
        ("port", "node-2", PinKind.FORMER_ENDPOINT),
        ("address", "node-1", None),
        ("address", "node-2", None),
    }
